/* sluice bench: how fast a model runs here, beside the limits of this machine. */
#include <stdlib.h>

#include "bench/bench.h"
#include "cli/bench_load.h"
#include "cli/cli.h"

static const char *model_option, *backend_name, *kv_type, *packed_cache;
static const char *prefill = "128,512,2048", *decode = "1,2,4,8,16,32", *beside = "";
static bool prefill_given, decode_given, context_given;
static bool exact, as_json, profile, shuffle_pages;
static uint32_t n_threads, context = BENCH_CONTEXT, step_rows = BENCH_STEP_ROWS;
static uint64_t packed_cache_size;
static float seconds = (float)BENCH_SECONDS;
static struct bench_load_flags load;

/* What puts users on a server or on the engine, instead of measuring kernels. */
static const struct option users[] = {
    {"--url", NULL, "URL", "an OpenAI-compatible server; without it the engine in this process",
     OPTION_TEXT, &load.url, &load.given},
    {"--users", NULL, "N,...", "users at once, each waits for its answer (1,8,32)", OPTION_TEXT,
     &load.users, &load.given},
    {"--rate", NULL, "R,...", "instead: so many requests per second arrive by chance", OPTION_TEXT,
     &load.rate, &load.given},
    {"--scenario", NULL, "S",
     "chat: short questions; agents: conversations of six turns; long: prompts of 4,000 tokens; "
     "shared-prefix: one long system prompt; warm: turns on a long history (chat)",
     OPTION_TEXT, &load.scenario, &load.given},
    {"--trace", NULL, "F", "conversations of a tau-bench file instead of a scenario", OPTION_TEXT,
     &load.trace, &load.given},
    {"--requests", NULL, "N", "requests per level (two for each user, or 20 s of --rate)",
     OPTION_U32, &load.requests, &load.given},
    {"--prompt-tokens", NULL, "N", "length of a user's text, about (the scenario's)", OPTION_U32,
     &load.prompt_tokens, &load.given},
    {"--max-tokens", "-n", "N", "length of an answer (64)", OPTION_U32, &load.max_tokens,
     &load.given},
    {"--think", NULL, "S", "longest pause of a user (the scenario's)", OPTION_FLOAT, &load.think,
     &load.has_think},
    {"--cold", NULL, "N", "each level again beside cold prompts of N tokens", OPTION_U32,
     &load.cold, &load.given},
    {"--seed", NULL, "S", "the texts and arrivals of a run before (others each time)", OPTION_U64,
     &load.seed, &load.given},
    {"--api-key", NULL, "KEY", "for the server (or OPENAI_API_KEY)", OPTION_TEXT, &load.api_key,
     &load.given},
    {"--model-name", NULL, "NAME", "the server's model (its first one)", OPTION_TEXT,
     &load.model_name, &load.given},
    {"--markdown", NULL, NULL, "the table as Markdown", OPTION_FLAG, &load.as_markdown, NULL},
    {"--html", NULL, "F", "write a page with plots of the table", OPTION_TEXT, &load.html,
     &load.given},
    OPTIONS_END,
};

static const struct option options[] = {
    {"--prefill", "-p", "N,...", "prompt lengths (128,512,2048)", OPTION_TEXT, &prefill,
     &prefill_given},
    {"--decode", "-d", "N,...", "sequences that generate together (1,2,4,8,16,32)", OPTION_TEXT,
     &decode, &decode_given},
    {"--beside", NULL, "N,...", "the same again with that many rows of a prompt in each step",
     OPTION_TEXT, &beside, NULL},
    {"--context", "-c --ctx-size", "N",
     "tokens before the generated one in each (128); of users: of a whole request", OPTION_U32,
     &context, &context_given},
    OPTION_OF_THREADS(&n_threads),
    OPTIONS_OF_PACKED_CACHE(&packed_cache, &packed_cache_size),
    {"--json", NULL, NULL, "the same as JSON", OPTION_FLAG, &as_json, NULL},
    {"--profile", NULL, NULL, "where the time of a step goes, by operation", OPTION_FLAG, &profile,
     NULL},
    {"--seconds", NULL, "S", "to spend on each figure (2)", OPTION_FLOAT, &seconds, NULL},
    {"--step-rows", NULL, "N", "rows of one forward pass of a prompt (512)", OPTION_U32, &step_rows,
     NULL},
    OPTION_OF_KV_TYPE(&kv_type),
    {"--shuffle-pages", NULL, NULL, "scatter each sequence's pages over the pool", OPTION_FLAG,
     &shuffle_pages, NULL},
    OPTION_OF_EXACT(&exact),
    OPTION_OF_BACKEND(&backend_name),
    OPTION_OF_MODEL(&model_option),
    {"", NULL, NULL,
     "Users of a server, or of the engine in this process (any of these asks for them):",
     OPTION_TABLE, (void *)(uintptr_t)users, NULL},
    OPTIONS_END,
};

static enum status print(const struct bench_report *report, struct error *err)
{
    struct buf out = {0};
    enum status status = STATUS_OK;
    if (as_json)
        status = bench_print_json(report, &out, err);
    else
        bench_print(report, &out);
    if (status == STATUS_OK && out.failed)
        status = error_set(err, STATUS_MEMORY, "out of memory while printing");
    if (status == STATUS_OK)
        fwrite(out.data ? out.data : "", 1, out.len, stdout);
    buf_release(&out);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    char demo[4096];
    struct bench_config config = {
        .model = model_option       ? model_option
                 : arguments->count ? arguments->items[0]
                                    : NULL,
        .backend = backend_name,
        .kv_type = kv_type,
        .n_threads = n_threads,
        .context = context,
        .step_rows = step_rows,
        .seconds = seconds,
        .exact = exact,
        .packed_cache = packed_cache,
        .packed_cache_size = packed_cache_size,
        .profile = profile,
        .shuffle_pages = shuffle_pages,
        .progress = terminal_progress,
    };
    enum status status = STATUS_OK;
    if (!config.model && !load.url) {
        status = demo_model_path(demo, sizeof demo, err);
        config.model = demo;
    }
    if (status == STATUS_OK && bench_load_wanted(&load)) {
        if (prefill_given || decode_given || profile || shuffle_pages)
            return error_set(err, STATUS_USAGE,
                             "--prefill, --decode, --profile and --shuffle-pages measure kernels, "
                             "where no users are: leave them or the users' flags out");
        load.as_json = as_json;
        load.n_threads = n_threads;
        load.kv_type = kv_type;
        load.exact = exact;
        load.backend = backend_name;
        load.packed_cache = packed_cache;
        load.packed_cache_size = packed_cache_size;
        load.n_context = context_given ? context : 0;
        return bench_load_run(&load, config.model, err);
    }
    /* Whoever names one kind of figure wants only that. */
    if (status == STATUS_OK && (prefill_given || !decode_given))
        status = bench_parse_sizes("--prefill", prefill, config.prefill, &config.n_prefill, err);
    if (status == STATUS_OK && (decode_given || !prefill_given))
        status = bench_parse_sizes("--decode", decode, config.decode, &config.n_decode, err);
    if (status == STATUS_OK)
        status = bench_parse_sizes("--beside", beside, config.beside, &config.n_beside, err);
    if (status == STATUS_OK && (step_rows < 1 || step_rows > 1u << 16))
        status = error_set(err, STATUS_USAGE, "--step-rows %u: expected 1 to 65536", step_rows);
    if (status == STATUS_OK && !(seconds > 0 && seconds <= 3600))
        status = error_set(err, STATUS_USAGE, "--seconds %g: expected more than 0, at most 3600",
                           (double)seconds);
    if (status != STATUS_OK)
        return status;
    struct bench_report *report = calloc(1, sizeof *report);
    if (!report)
        return error_set(err, STATUS_MEMORY, "out of memory for a report");
    status = bench_run(&config, report, err);
    if (status == STATUS_OK)
        status = print(report, err);
    free(report);
    return status;
}

const struct command command_bench = {
    .name = "bench",
    .synopsis = "how fast a model runs on this machine",
    .usage = "bench [MODEL] [--prefill 128,512,2048] [--decode 1,2,4,8,16,32] [options]",
    .about =
        "Runs prompts of several lengths and steps of several generating sequences on a backend,\n"
        "without server and engine, and prints tokens per second (the median of repetitions),\n"
        "bytes of weights and keys/values per second, and operations per second. Each stands\n"
        "beside a percentage: of the read bandwidth and of the arithmetic peak that this machine\n"
        "showed in the same run. 'of limit' is the share of the rate that the tighter one of the\n"
        "two allows. Without MODEL: the bundled demo model, whose weights fit into the caches.\n\n"
        "  sluice bench model.gguf\n"
        "  sluice bench model.gguf --decode 1 --context 8192\n"
        "  sluice bench model.gguf --prefill 512 --profile\n"
        "  sluice bench model.gguf --decode 8 --beside 16,64\n"
        "  sluice bench model.gguf --json > figures.json\n\n"
        "With --url or --users it measures what users get, from a server or from the engine:\n"
        "time to first token, gaps, throughput and cached tokens, for each number of users.\n\n"
        "  sluice bench --url http://127.0.0.1:8080 --users 1,8,32 --scenario agents\n"
        "  sluice bench model.gguf --users 1,32",
    .options = options,
    .run = run,
    .max_arguments = 1,
};
