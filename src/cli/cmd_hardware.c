/* sluice hardware: what this machine has, and what the backends make of it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "hw/hardware.h"

#define KERNEL_GROUPS_MAX 32
#define TYPES_COLUMN      38 /* where a group's types begin */
#define TYPES_WIDTH       60

static bool as_json, no_measure, measure, every_kernel;

static const struct option options[] = {
    {"--json", NULL, NULL, "the same as JSON", OPTION_FLAG, &as_json, NULL},
    {"--measure", NULL, NULL, "measure memory bandwidth again, whatever is remembered", OPTION_FLAG,
     &measure, NULL},
    {"--no-measure", NULL, NULL, "do not measure memory bandwidth", OPTION_FLAG, &no_measure, NULL},
    {"--kernels", NULL, NULL, "each element type with its kernel, one by one", OPTION_FLAG,
     &every_kernel, NULL},
    OPTIONS_END,
};

/* 0 where it was not or could not be measured: a small machine is no error. */
static double measured_bandwidth(const struct hardware *hw)
{
    double bandwidth = 0;
    if (no_measure || hardware_bandwidth(hw, hardware_default_threads(hw), measure, &bandwidth,
                                         NULL) != STATUS_OK)
        return 0;
    return bandwidth;
}

static void describe_backends(struct buf *out)
{
    const struct backend_api *api;
    for (uint32_t i = 0; (api = backend_at(i)) != NULL; i++)
        buf_printf(out, "%-9s%-4s %s\n", i ? "" : "backends", api->name, api->summary);
    struct buf why = {0};
    if (backend_find("auto", &api, &why, NULL) == STATUS_OK)
        buf_printf(out, "%-9s%.*s\n", "chosen", STR_ARG(buf_str(&why)));
    buf_release(&why);
}

/* Types whose kernels are of the same instruction sets, for the same purpose. */
struct kernel_group {
    char what[20], sets[20];
    struct buf types;
    size_t line; /* where the last line of `types` begins */
};

/* "avx2 q4_0 x i8; prompts: amx q4_0 x i8" -> "avx2, amx" */
static void name_sets(const char *kernel, char *out, size_t size)
{
    const char *prompts = strstr(kernel, "; prompts: ");
    int n = (int)strcspn(kernel, " \n");
    prompts = prompts ? prompts + strlen("; prompts: ") : NULL;
    if (prompts && prompts < strchr(kernel, '\n'))
        snprintf(out, size, "%.*s, %.*s", n, kernel, (int)strcspn(prompts, " \n"), prompts);
    else
        snprintf(out, size, "%.*s", n, kernel);
}

/* A backend's line: what for, in 16 columns; the type; its kernel. */
static void group_line(const char *line, struct kernel_group *groups, size_t *n)
{
    char what[20], sets[20];
    snprintf(what, sizeof what, "%.16s", line + 2);
    const char *type = line + 19;
    size_t length = strcspn(type, " ");
    name_sets(type + length + strspn(type + length, " "), sets, sizeof sets);
    size_t i = 0;
    while (i < *n && (strcmp(groups[i].what, what) != 0 || strcmp(groups[i].sets, sets) != 0))
        i++;
    if (i == KERNEL_GROUPS_MAX)
        return;
    struct kernel_group *group = &groups[i];
    if (i == *n) {
        *group = (struct kernel_group){.line = 0};
        snprintf(group->what, sizeof group->what, "%s", what);
        snprintf(group->sets, sizeof group->sets, "%s", sets);
        ++*n;
    } else if (group->types.len - group->line + length > TYPES_WIDTH) {
        buf_printf(&group->types, "\n%*s", TYPES_COLUMN, "");
        group->line = group->types.len;
    } else {
        buf_append_char(&group->types, ' ');
    }
    buf_append(&group->types, type, length);
}

static void print_groups(const struct buf *lines, struct buf *out)
{
    static struct kernel_group groups[KERNEL_GROUPS_MAX];
    size_t n = 0;
    for (const char *at = lines->data; at && strlen(at) > 19; at = strchr(at, '\n') + 1)
        group_line(at, groups, &n);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "  %-16s %-18s %.*s\n", groups[i].what, groups[i].sets,
                   STR_ARG(buf_str(&groups[i].types)));
        buf_release(&groups[i].types);
    }
}

/* Which kernels serve what; with --kernels line by line as the backends tell it. */
static void describe_kernels(struct buf *out)
{
    const struct backend_api *api;
    for (uint32_t i = 0; (api = backend_at(i)) != NULL; i++) {
        struct buf lines = {0};
        if (api->describe_kernels)
            api->describe_kernels(&lines);
        if (lines.len)
            buf_printf(out, "\nKernels of the %s backend%s\n", api->name,
                       every_kernel ? "" : " (--kernels lists them one by one)");
        if (every_kernel)
            buf_append_str(out, buf_str(&lines));
        else
            print_groups(&lines, out);
        buf_release(&lines);
    }
}

static void print_text(const struct hardware *hw)
{
    struct buf out = {0};
    hardware_describe(hw, &out);
    double bandwidth = measured_bandwidth(hw);
    if (bandwidth > 0)
        buf_printf(&out, "%-9s%.1f GB/s from memory, measured with %u threads\n", "reads",
                   bandwidth * 1e-9, hardware_default_threads(hw));
    describe_backends(&out);
    describe_kernels(&out);
    fwrite(out.data ? out.data : "", 1, out.len, stdout);
    buf_release(&out);
}

/* {"cpu": ["weights Q8_0  ...", ...]} */
static json_t *kernels_to_json(void)
{
    json_t *root = json_object();
    const struct backend_api *api;
    for (uint32_t i = 0; (api = backend_at(i)) != NULL; i++) {
        struct buf lines = {0};
        if (api->describe_kernels)
            api->describe_kernels(&lines);
        json_t *list = json_array();
        for (const char *at = lines.data; at && *at;) {
            size_t length = strcspn(at, "\n");
            json_array_append_new(list, json_stringn(at, length));
            at += length + (at[length] == '\n');
        }
        if (json_array_size(list))
            json_object_set(root, api->name, list);
        json_decref(list);
        buf_release(&lines);
    }
    return root;
}

static enum status print_json(const struct hardware *hw, struct error *err)
{
    json_t *root = hardware_to_json(hw), *backends = json_array();
    double bandwidth = measured_bandwidth(hw);
    if (bandwidth > 0)
        json_object_set_new(root, "measured_bandwidth_bytes_per_second", json_real(bandwidth));
    const struct backend_api *api;
    for (uint32_t i = 0; (api = backend_at(i)) != NULL; i++)
        json_array_append_new(backends, json_string(api->name));
    json_object_set_new(root, "backends", backends);
    json_object_set_new(root, "kernels", kernels_to_json());
    if (backend_find("auto", &api, NULL, NULL) == STATUS_OK)
        json_object_set_new(root, "backend", json_string(api->name));
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (!text)
        return error_set(err, STATUS_MEMORY, "out of memory while printing");
    puts(text);
    free(text);
    return STATUS_OK;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    (void)arguments;
    struct hardware hw;
    enum status status = hardware_detect(&hw, err);
    if (status != STATUS_OK)
        return status;
    if (as_json)
        return print_json(&hw, err);
    print_text(&hw);
    return STATUS_OK;
}

const struct command command_hardware = {
    .name = "hardware",
    .synopsis = "what this machine offers",
    .usage = "hardware [--json] [--kernels] [--measure | --no-measure]",
    .about = "Prints cores, caches, instruction sets, memory and its measured read bandwidth,\n"
             "accelerators, which backend sluice takes, and which kernels serve which element\n"
             "types. Bandwidth is measured once and remembered in the cache folder. Decoding a "
             "token reads every active\n"
             "weight once, so bandwidth over model size bounds a single user's tokens per second.",
    .options = options,
    .run = run,
    .max_arguments = 0,
};
