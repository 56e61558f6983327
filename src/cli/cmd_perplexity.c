/* sluice perplexity: how well a model predicts a text; the figure that quantising changes. */
#include <math.h>

#include "base/file.h"
#include "cli/cli.h"
#include "convert/perplexity.h"

#define TEXT_BYTES_MAX ((size_t)256 << 20)

static const char *backend_name, *model_option, *kv_type, *packed_cache;
static bool exact, as_json;
static uint32_t n_threads, context, stride;
static uint64_t most_tokens, packed_cache_size;

static const struct option options[] = {
    {"--context", "-c", "N", "tokens of a window (512)", OPTION_U32, &context, NULL},
    {"--stride", NULL, "N", "tokens from one window to the next (half the context)", OPTION_U32,
     &stride, NULL},
    {"--tokens", NULL, "N", "only the first N tokens of the text", OPTION_U64, &most_tokens, NULL},
    OPTION_OF_EXACT(&exact),
    OPTION_OF_KV_TYPE(&kv_type),
    {"--json", NULL, NULL, "the result as JSON", OPTION_FLAG, &as_json, NULL},
    OPTION_OF_BACKEND(&backend_name),
    OPTION_OF_THREADS(&n_threads),
    OPTIONS_OF_PACKED_CACHE(&packed_cache, &packed_cache_size),
    OPTION_OF_MODEL(&model_option),
    OPTIONS_END,
};

static void print_report(const struct perplexity_report *r)
{
    if (as_json) {
        printf("{\"perplexity\":%.6f,\"mean_nll\":%.8f,\"standard_error\":%.8f,\"tokens\":%llu,"
               "\"scored\":%llu,\"windows\":%llu,\"context\":%u,\"stride\":%u,\"seconds\":%.3f}\n",
               r->perplexity, r->mean_nll, r->standard_error, (unsigned long long)r->n_tokens,
               (unsigned long long)r->n_scored, (unsigned long long)r->n_windows, r->context,
               r->stride, r->seconds);
        return;
    }
    printf("perplexity %.4f +- %.4f (%.5f nats a token)\n", r->perplexity,
           r->perplexity * r->standard_error, r->mean_nll);
    fprintf(stderr, "%llu of %llu tokens scored, %llu windows of %u every %u, %.0f tokens/s\n",
            (unsigned long long)r->n_scored, (unsigned long long)r->n_tokens,
            (unsigned long long)r->n_windows, r->context, r->stride,
            (double)r->n_tokens / (r->seconds > 0.0 ? r->seconds : 1.0));
}

static enum status measure(sluice_engine *engine, const struct buf *text, struct error *err)
{
    const struct perplexity_options perplexity = {
        .engine = engine,
        .text = buf_str(text),
        .context = context,
        .stride = stride,
        .most_tokens = most_tokens,
        .progress = terminal_progress,
    };
    struct perplexity_report report;
    enum status status = perplexity_measure(&perplexity, &report, NULL, err);
    if (status == STATUS_OK)
        print_report(&report);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    size_t needed = model_option ? 1 : 2;
    if (arguments->count != needed)
        return error_set(err, STATUS_USAGE, "MODEL and FILE are needed: usage: sluice %s",
                         command_perplexity.usage);
    struct buf text = {0};
    enum status status = file_read_all(arguments->items[needed - 1], TEXT_BYTES_MAX, &text, err);
    sluice_error error;
    sluice_engine *engine = NULL;
    const sluice_engine_options engine_options = {
        .model = model_option ? model_option : arguments->items[0],
        .backend = backend_name,
        .n_threads = n_threads,
        .n_context = context,
        .exact = exact,
        .packed_cache = packed_cache,
        .packed_cache_size = packed_cache_size,
        .kv_type = kv_type,
        .max_sequences = 1,
        .progress = terminal_progress,
    };
    if (status == STATUS_OK && sluice_engine_open(&engine_options, &engine, &error) != SLUICE_OK)
        status = status_from_public(&error, err);
    if (status == STATUS_OK)
        status = measure(engine, &text, err);
    sluice_engine_close(engine);
    buf_release(&text);
    return status;
}

const struct command command_perplexity = {
    .name = "perplexity",
    .synopsis = "how well a model predicts a text",
    .usage = "perplexity MODEL FILE [--context N] [--stride N] [--exact] [--json]",
    .about =
        "Prints exp of the mean negative log-likelihood of the text's tokens: lower is better, "
        "and\n"
        "the difference between two files of one model is what the smaller one lost.\n\n"
        "The text is cut into windows of --context tokens that begin every --stride tokens; each\n"
        "token is scored once, in the first window that has it, and the very first token not at "
        "all.\n"
        "A smaller stride gives every token more context and takes longer. Where the tokenizer "
        "puts\n"
        "a bos token in front of a text, every window begins with it. Compare figures only at "
        "equal\n"
        "context, stride and text.\n\n"
        "  sluice perplexity model-q4_k_m.gguf book.txt",
    .options = options,
    .run = run,
    .max_arguments = 2,
};
