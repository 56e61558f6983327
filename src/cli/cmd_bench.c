/* sluice bench: how fast a model runs here, beside the limits of this machine. */
#include <stdlib.h>

#include "bench/bench.h"
#include "cli/cli.h"

static const char *model_option, *backend_name, *kv_type;
static const char *prefill = "128,512,2048", *decode = "1,2,4,8,16,32";
static bool prefill_given, decode_given;
static bool exact, as_json, profile, shuffle_pages;
static uint32_t n_threads, context = BENCH_CONTEXT, step_rows = BENCH_STEP_ROWS;
static float seconds = (float)BENCH_SECONDS;

static const struct option options[] = {
    {"--prefill", "-p", "N,...", "prompt lengths (default 128,512,2048)", OPTION_TEXT, &prefill,
     &prefill_given},
    {"--decode", "-d", "N,...", "sequences that generate together (default 1,2,4,8,16,32)",
     OPTION_TEXT, &decode, &decode_given},
    {"--context", "-c", "N", "tokens before the generated one in each (default 128)", OPTION_U32,
     &context, NULL},
    {"--threads", "-t", "N", "CPU threads (default: one per performance core)", OPTION_U32,
     &n_threads, NULL},
    {"--json", NULL, NULL, "the same as JSON", OPTION_FLAG, &as_json, NULL},
    {"--profile", NULL, NULL, "where the time of a step goes, by operation", OPTION_FLAG, &profile,
     NULL},
    {"--seconds", NULL, "S", "to spend on each figure (default 2)", OPTION_FLOAT, &seconds, NULL},
    {"--step-rows", NULL, "N", "rows of one forward pass of a prompt (default 512)", OPTION_U32,
     &step_rows, NULL},
    {"--kv", NULL, "TYPE", "element type of keys and values: f32, f16, bf16, q8_0", OPTION_TEXT,
     &kv_type, NULL},
    {"--shuffle-pages", NULL, NULL, "scatter each sequence's pages over the pool", OPTION_FLAG,
     &shuffle_pages, NULL},
    {"--exact", NULL, NULL, "float32 activations, accumulation and KV", OPTION_FLAG, &exact, NULL},
    {"--backend", NULL, "B", "auto, cpu, cuda or ref", OPTION_TEXT, &backend_name, NULL},
    {"--model", "-m", "MODEL", "the model, instead of as an argument", OPTION_TEXT, &model_option,
     NULL},
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
        .profile = profile,
        .shuffle_pages = shuffle_pages,
        .progress = terminal_progress,
    };
    enum status status = STATUS_OK;
    if (!config.model) {
        status = demo_model_path(demo, sizeof demo, err);
        config.model = demo;
    }
    /* Whoever names one kind of figure wants only that. */
    if (status == STATUS_OK && (prefill_given || !decode_given))
        status = bench_parse_sizes("--prefill", prefill, config.prefill, &config.n_prefill, err);
    if (status == STATUS_OK && (decode_given || !prefill_given))
        status = bench_parse_sizes("--decode", decode, config.decode, &config.n_decode, err);
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
        "  sluice bench model.gguf --json > figures.json",
    .options = options,
    .run = run,
    .max_arguments = 1,
};
