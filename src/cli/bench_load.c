/* sluice bench --url, --users: users instead of kernels. */
#include "cli/bench_load.h"

#include <stdlib.h>
#include <string.h>

#include "bench/load.h"

#define PROMPT_ROOM 8192 /* context for in-process runs of the long scenario */

bool bench_load_wanted(const struct bench_load_flags *flags)
{
    return flags->url || flags->users || flags->trace || flags->scenario;
}

static enum status parse_users(const char *text, struct load_config *config, struct error *err)
{
    const char *at = text ? text : "1,8,32";
    while (*at) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n >= LOAD_USERS_MAX || (*end && *end != ',') ||
            config->n_levels == LOAD_LEVELS_MAX)
            return error_set(err, STATUS_USAGE,
                             "--users %s: expected up to %d numbers from 1 to %d, such as 1,8,32",
                             text, LOAD_LEVELS_MAX, LOAD_USERS_MAX - 1);
        config->users[config->n_levels++] = (uint32_t)n;
        at = *end ? end + 1 : end;
    }
    return config->n_levels ? STATUS_OK
                            : error_set(err, STATUS_USAGE, "--users: a number is needed");
}

static enum status configure(const struct bench_load_flags *flags, struct load_config *config,
                             struct error *err)
{
    *config = (struct load_config){
        .url = flags->url,
        .api_key = flags->api_key ? flags->api_key : getenv("OPENAI_API_KEY"),
        .model_name = flags->model_name,
        .trace = flags->trace,
        .requests = flags->requests,
        .prompt_tokens = flags->prompt_tokens,
        .max_tokens = flags->max_tokens,
        .think_seconds = flags->has_think ? (double)flags->think : -1.0,
        .rate = (double)flags->rate,
        .seed = flags->seed,
        .cold_tokens = flags->cold,
        .progress = terminal_progress,
    };
    enum status status = parse_users(flags->users, config, err);
    if (status == STATUS_OK && flags->trace && flags->scenario &&
        strcmp(flags->scenario, "agents") != 0)
        return error_set(err, STATUS_USAGE, "--trace has agents' conversations, not --scenario %s",
                         flags->scenario);
    if (flags->trace)
        config->scenario = LOAD_TRACE;
    else if (status == STATUS_OK && flags->scenario)
        status = load_parse_scenario(flags->scenario, &config->scenario, err);
    if (status == STATUS_OK && (flags->rate < 0 || (flags->has_think && flags->think < 0)))
        status = error_set(err, STATUS_USAGE, "--rate and --think must not be negative");
    if (status == STATUS_OK && flags->rate > 0 &&
        (flags->cold || config->scenario == LOAD_WARM || config->scenario == LOAD_TRACE))
        status =
            error_set(err, STATUS_USAGE,
                      "--rate lets requests arrive by chance; --cold, --trace and the scenario "
                      "warm need users who wait for their answers");
    return status;
}

static enum status open_engine(const struct bench_load_flags *flags, const char *model,
                               struct load_config *config, struct error *err)
{
    sluice_error error;
    sluice_engine_options options = {
        .model = model,
        .backend = flags->backend,
        .n_threads = flags->n_threads,
        .packed_cache = flags->packed_cache,
        .packed_cache_size = flags->packed_cache_size,
        .n_context = flags->n_context                               ? flags->n_context
                     : config->scenario == LOAD_LONG || flags->cold ? PROMPT_ROOM + flags->cold
                                                                    : 0,
        .max_sequences = 32,
        .progress = terminal_progress,
    };
    if (sluice_engine_open(&options, &config->engine, &error) == SLUICE_OK)
        return STATUS_OK;
    return status_from_public(&error, err);
}

static enum status write_file(const char *path, const struct buf *text, struct error *err)
{
    FILE *file = fopen(path, "w");
    bool ok = file && fwrite(text->data, 1, text->len, file) == text->len;
    ok = file && fclose(file) == 0 && ok;
    return ok ? STATUS_OK : error_set(err, STATUS_DISK, "%s: cannot write", path);
}

static enum status print(const struct bench_load_flags *flags, const struct load_report *report,
                         struct error *err)
{
    struct buf out = {0}, page = {0};
    enum status status = STATUS_OK;
    if (flags->as_json)
        status = load_print_json(report, &out, err);
    else if (flags->as_markdown)
        load_print_markdown(report, &out);
    else
        load_print(report, &out);
    if (flags->html) {
        load_print_html(report, &page);
        if (status == STATUS_OK && !page.failed)
            status = write_file(flags->html, &page, err);
    }
    if (status == STATUS_OK && (out.failed || page.failed))
        status = error_set(err, STATUS_MEMORY, "out of memory while printing");
    if (status == STATUS_OK)
        fwrite(out.data ? out.data : "", 1, out.len, stdout);
    buf_release(&out);
    buf_release(&page);
    return status;
}

enum status bench_load_run(const struct bench_load_flags *flags, const char *model,
                           struct error *err)
{
    struct load_config config;
    struct load_report *report = calloc(1, sizeof *report);
    if (!report)
        return error_set(err, STATUS_MEMORY, "out of memory for a report");
    enum status status = configure(flags, &config, err);
    if (status == STATUS_OK && !config.url)
        status = open_engine(flags, model, &config, err);
    if (status == STATUS_OK)
        status = load_run(&config, report, err);
    if (status == STATUS_OK)
        status = print(flags, report, err);
    load_report_release(report);
    free(report);
    sluice_engine_close(config.engine);
    return status;
}
