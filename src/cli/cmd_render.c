/* sluice render: a chat template on a context, exactly as the reference would print it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "text/chat/chat.h"
#include "text/jinja/jinja.h"

#define TEMPLATE_FILE_MAX ((size_t)64 << 20) /* a tokenizer_config.json may hold a vocabulary */
#define CONTEXT_FILE_MAX  ((size_t)64 << 20)

static const char *template_option, *context_option;

static const struct option options[] = {
    {"--template", NULL, "F.jinja",
     "a template, a tokenizer_config.json that holds one, or 'harmony'", OPTION_TEXT,
     &template_option, NULL},
    {"--context", NULL, "F.json", "an object: the variables the template sees", OPTION_TEXT,
     &context_option, NULL},
    OPTIONS_END,
};

/* bos_token and the like: a string, or an added token object with "content". */
static const json_t *special_token(const json_t *config, const char *name)
{
    const json_t *value = json_object_get(config, name);
    return json_is_object(value) ? json_object_get(value, "content") : value;
}

static enum status template_from_config(struct str text, json_t **config, struct str *source,
                                        struct error *err)
{
    enum status status = json_parse(text, JSON_DEPTH_DEFAULT, template_option, config, err);
    if (status != STATUS_OK)
        return status;
    const json_t *found = json_object_get(*config, "chat_template");
    for (size_t i = 0; json_is_array(found) && i < json_array_size(found); i++) {
        const json_t *entry = json_array_get(found, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            found = json_object_get(entry, "template");
    }
    if (!json_is_string(found))
        return error_set(err, STATUS_MODEL, "%s: no chat_template in it", template_option);
    *source = (struct str){json_string_value(found), json_string_length(found)};
    return STATUS_OK;
}

/* The configuration's special tokens first, so that the context wins. */
static enum status fill_context(struct jinja_context *context, const json_t *config,
                                struct error *err)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names && status == STATUS_OK; i++) {
        const json_t *value = special_token(config, names[i]);
        if (json_is_string(value))
            status = jinja_context_set(context, names[i], value, true, err);
    }
    json_t *variables = NULL;
    if (status == STATUS_OK)
        status =
            json_parse_file(context_option, CONTEXT_FILE_MAX, JSON_DEPTH_DEFAULT, &variables, err);
    if (status == STATUS_OK && !json_is_object(variables))
        status = error_set(err, STATUS_USAGE, "%s: a JSON object of variables is needed",
                           context_option);
    if (status == STATUS_OK)
        status = jinja_context_merge(context, variables, err);
    json_decref(variables);
    return status;
}

/* SLUICE_NOW=2025-07-10T12:00:00, else the local time. */
static enum status clock_now(struct tm *out, struct error *err)
{
    const char *fixed = getenv("SLUICE_NOW");
    if (!fixed || !*fixed) {
        time_t now = time(NULL);
        localtime_r(&now, out);
        return STATUS_OK;
    }
    int year, month, day, hour = 0, minute = 0, second = 0, used = 0;
    bool date = sscanf(fixed, "%4d-%2d-%2d%n", &year, &month, &day, &used) == 3;
    if (date && fixed[used] == 'T') {
        int more = 0;
        date = sscanf(fixed + used, "T%2d:%2d:%2d%n", &hour, &minute, &second, &more) == 3;
        used += more;
    }
    bool sane = date && !fixed[used] && month >= 1 && month <= 12 && day >= 1 && day <= 31 &&
                hour >= 0 && hour < 24 && minute >= 0 && minute < 60 && second >= 0 && second <= 60;
    if (!sane)
        return error_set(err, STATUS_USAGE, "SLUICE_NOW=%s: expected 2025-07-10T12:00:00", fixed);
    *out = (struct tm){.tm_year = year - 1900,
                       .tm_mon = month - 1,
                       .tm_mday = day,
                       .tm_hour = hour,
                       .tm_min = minute,
                       .tm_sec = second,
                       .tm_isdst = -1};
    mktime(out); /* fills in the day of the week and of the year */
    return STATUS_OK;
}

static enum status render(struct str source, const json_t *config, struct error *err)
{
    struct tm now;
    struct jinja_template *compiled = NULL;
    struct jinja_output output = {0};
    struct jinja_context context;
    jinja_context_init(&context);
    enum status status = clock_now(&now, err);
    if (status == STATUS_OK)
        status = jinja_compile(source, NULL, &compiled, err);
    if (status == STATUS_OK)
        status = fill_context(&context, config, err);
    if (status == STATUS_OK)
        status = jinja_render(compiled, &context, &now, NULL, &output, err);
    if (status == STATUS_OK)
        fwrite(output.text.data ? output.text.data : "", 1, output.text.len, stdout);
    jinja_output_release(&output);
    jinja_template_free(compiled);
    jinja_context_release(&context);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    (void)arguments;
    if (!template_option || !context_option)
        return error_set(err, STATUS_USAGE, "--template and --context are needed: usage: sluice %s",
                         command_render.usage);
    struct buf text = {0};
    json_t *config = NULL;
    struct str builtin = chat_template_builtin(str_from(template_option));
    enum status status = STATUS_OK;
    if (builtin.data && !file_exists(template_option))
        buf_append_str(&text, builtin);
    else
        status = file_read_all(template_option, TEMPLATE_FILE_MAX, &text, err);
    struct str source = buf_str(&text);
    if (status == STATUS_OK && str_ends(str_from(template_option), STR_LIT(".json")))
        status = template_from_config(buf_str(&text), &config, &source, err);
    if (status == STATUS_OK)
        status = render(source, config, err);
    json_decref(config);
    buf_release(&text);
    return status;
}

const struct command command_render = {
    .name = "render",
    .synopsis = "a chat template on a JSON context",
    .usage = "render --template F.jinja --context F.json",
    .about = "Prints exactly what the template makes of the context, without a line end of its\n"
             "own. The environment variable SLUICE_NOW (2025-07-10T12:00:00) fixes what\n"
             "strftime_now() tells. A template that fails, or raises, is an error.\n\n"
             "  sluice render --template tokenizer_config.json --context messages.json",
    .options = options,
    .run = run,
    .max_arguments = 0,
};
