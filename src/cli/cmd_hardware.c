/* sluice hardware: what this machine has, and what the backends make of it. */
#include <jansson.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "hw/hardware.h"

static bool as_json, no_measure;

static const struct option options[] = {
    {"--json", NULL, NULL, "the same as JSON", OPTION_FLAG, &as_json, NULL},
    {"--no-measure", NULL, NULL, "do not measure memory bandwidth", OPTION_FLAG, &no_measure, NULL},
    OPTIONS_END,
};

/* 0 where it was not or could not be measured: a small machine is no error. */
static double measured_bandwidth(const struct hardware *hw)
{
    double bandwidth = 0;
    if (no_measure ||
        hardware_measure_bandwidth(hw, hardware_default_threads(hw), &bandwidth, NULL) != STATUS_OK)
        return 0;
    return bandwidth;
}

static void describe_backends(struct buf *out)
{
    const struct backend_api *api;
    for (uint32_t i = 0; (api = backend_at(i)) != NULL; i++)
        buf_printf(out, "%-12s %-6s %s\n", i ? "" : "Backends", api->name, api->summary);
    struct buf why = {0};
    if (backend_find("auto", &api, &why, NULL) == STATUS_OK)
        buf_printf(out, "%-12s %s (%.*s)\n", "Chosen", api->name, STR_ARG(buf_str(&why)));
    buf_release(&why);
}

static void print_text(const struct hardware *hw)
{
    struct buf out = {0};
    hardware_describe(hw, &out);
    double bandwidth = measured_bandwidth(hw);
    if (bandwidth > 0)
        buf_printf(&out, "%-12s %.1f GB/s read from memory, measured with %u threads\n",
                   "Bandwidth", bandwidth * 1e-9, hardware_default_threads(hw));
    describe_backends(&out);
    fwrite(out.data ? out.data : "", 1, out.len, stdout);
    buf_release(&out);
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
    .usage = "hardware [--json] [--no-measure]",
    .about = "Prints cores, caches, instruction sets, memory and its measured read bandwidth,\n"
             "accelerators, and which backend sluice takes. Decoding a token reads every active\n"
             "weight once, so bandwidth over model size bounds a single user's tokens per second.",
    .options = options,
    .run = run,
    .max_arguments = 0,
};
