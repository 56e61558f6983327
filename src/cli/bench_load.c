/* sluice bench --url, --users: users instead of kernels. */
#include "cli/bench_load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "bench/load.h"

/* The engine's own choice, up to so many tokens, has room for every scenario, and beside one for cold
 * prompts that are not longer than half of it. */
#define CONTEXT_ROOM 8192
#define COLD_ROOM    (CONTEXT_ROOM / 2)

bool bench_load_wanted(const struct bench_load_flags *flags)
{
    return flags->given || flags->has_think || flags->as_markdown;
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

static enum status parse_rates(const char *text, struct load_config *config, struct error *err)
{
    for (const char *at = text;;) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || !(rate > 0 && rate <= 1e5) || (*end && *end != ',') ||
            config->n_levels == LOAD_LEVELS_MAX)
            break;
        config->rates[config->n_levels++] = rate;
        if (!*end)
            return STATUS_OK;
        at = end + 1;
    }
    return error_set(err, STATUS_USAGE,
                     "--rate %s: expected up to %d numbers of requests per second, such as 0.5,1,2",
                     text, LOAD_LEVELS_MAX);
}

/* Texts that no run before this one sent: a server that kept those in its cache would look fast. */
static uint64_t any_seed(void)
{
    uint32_t random;
    if (getentropy(&random, sizeof random) != 0)
        random = (uint32_t)time(NULL);
    return 1 + random % 999999;
}

static enum status check_loops(const struct bench_load_flags *flags,
                               const struct load_config *config, struct error *err)
{
    if (flags->trace && flags->scenario && strcmp(flags->scenario, "agents") != 0)
        return error_set(err, STATUS_USAGE, "--trace has agents' conversations, not --scenario %s",
                         flags->scenario);
    if (flags->has_think && !(flags->think >= 0))
        return error_set(err, STATUS_USAGE, "--think must not be negative");
    if (flags->rate && flags->users)
        return error_set(
            err, STATUS_USAGE,
            "--users is for users who wait for their answers, --rate for requests that "
            "arrive by chance: give one of them");
    if (flags->rate &&
        (flags->cold || config->scenario == LOAD_WARM || config->scenario == LOAD_TRACE))
        return error_set(err, STATUS_USAGE,
                         "--rate lets requests arrive by chance; --cold, --trace and the scenario "
                         "warm need users who wait for their answers");
    if (flags->as_json && flags->as_markdown)
        return error_set(err, STATUS_USAGE, "--json and --markdown exclude each other");
    return STATUS_OK;
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
        .seed = flags->seed ? flags->seed : any_seed(),
        .cold_tokens = flags->cold,
        .progress = terminal_progress,
    };
    enum status status = flags->rate ? parse_rates(flags->rate, config, err)
                                     : parse_users(flags->users, config, err);
    if (flags->trace)
        config->scenario = LOAD_TRACE;
    else if (status == STATUS_OK && flags->scenario)
        status = load_parse_scenario(flags->scenario, &config->scenario, err);
    if (status == STATUS_OK)
        status = check_loops(flags, config, err);
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
        .kv_type = flags->kv_type,
        .exact = flags->exact,
        .packed_cache = flags->packed_cache,
        .packed_cache_size = flags->packed_cache_size,
        .n_context = flags->n_context          ? flags->n_context
                     : flags->cold > COLD_ROOM ? CONTEXT_ROOM + flags->cold
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

/* Figures of nobody's answers are printed too, but the run failed. */
static enum status check_answers(const struct load_report *report, struct error *err)
{
    if (!report->unanswered)
        return STATUS_OK;
    const struct load_level *level = &report->levels[report->n_levels - 1];
    return error_set(err, report->config.url ? STATUS_NETWORK : STATUS_USAGE,
                     "none of %u requests was answered, so nothing more was tried: %s",
                     level->n_samples, level->samples[0].error);
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
    if (status == STATUS_OK)
        status = check_answers(report, err);
    load_report_release(report);
    free(report);
    sluice_engine_close(config.engine);
    return status;
}
