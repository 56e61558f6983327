/* sluice quantize: a model's matrices in smaller types. */
#include "cli/cli.h"
#include "convert/quantize.h"
#include "quant/mixture.h"

static const char *type_option, *importance;
static uint32_t n_threads;
static bool list;

static const struct option options[] = {
    {"--type", NULL, "T", "what to make of it (q4_k_m)", OPTION_TEXT, &type_option, NULL},
    {"--importance", NULL, "TEXT",
     "a file of text like that the model will see: errors count by it", OPTION_TEXT, &importance,
     NULL},
    OPTION_OF_THREADS(&n_threads),
    {"--list", NULL, NULL, "the types there are", OPTION_FLAG, &list, NULL},
    OPTIONS_END,
};

static void print_report(const char *path, const struct quantize_report *r)
{
    fprintf(stderr, "%s: %.3f GB -> %.3f GB, %u tensors encoded, %u kept; %.1f s, %.0f MB/s read\n",
            path, (double)r->input_bytes / 1e9, (double)r->output_bytes / 1e9, r->n_encoded,
            r->n_kept, r->seconds, (double)r->input_bytes / 1e6 / r->seconds);
    if (r->n_calibrated)
        fprintf(stderr, "calibrated on %llu tokens (perplexity %.3f): %u tensors by importance\n",
                (unsigned long long)r->n_calibrated, r->calibration_perplexity, r->n_weighted);
    if (r->n_requantized)
        fprintf(stderr,
                "note: %u tensors were quantized before; the errors add up. Start from the "
                "original model where you can.\n",
                r->n_requantized);
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    if (list) {
        for (uint32_t i = 0; mixture_at(i); i++)
            printf("  %-12s %s\n", mixture_name(mixture_at(i)), mixture_about(mixture_at(i)));
        return STATUS_OK;
    }
    if (arguments->count != 2)
        return error_set(err, STATUS_USAGE, "MODEL and OUT.gguf are needed: usage: sluice %s",
                         command_quantize.usage);
    const struct quantize_options quantize = {
        .input = arguments->items[0],
        .output = arguments->items[1],
        .type = type_option ? type_option : "q4_k_m",
        .importance = importance,
        .n_threads = n_threads,
        .progress = terminal_progress,
    };
    struct quantize_report report;
    enum status status = quantize_model(&quantize, &report, err);
    if (status == STATUS_OK)
        print_report(quantize.output, &report);
    return status;
}

const struct command command_quantize = {
    .name = "quantize",
    .synopsis = "make a model smaller",
    .usage = "quantize MODEL OUT.gguf [--type T] [--importance TEXT]",
    .about =
        "Writes a GGUF file with the model's matrices in a smaller type. MODEL is a GGUF file, or "
        "a\n"
        "Hugging Face folder of any architecture that GGUF has; best in BF16, F16 or F32.\n"
        "The types are the usual mixtures: Q4_K_M has 4.5 bits a weight, and 6.6 in those tensors\n"
        "where errors cost most.\n\n"
        "  sluice quantize model-bf16.gguf model-q4_k_m.gguf\n"
        "  sluice quantize Qwen3-0.6B/ qwen3-0.6b-q8_0.gguf --type q8_0\n"
        "  sluice quantize model-bf16.gguf small.gguf --type q3_k_m --importance pages.txt\n"
        "  sluice quantize --list",
    .options = options,
    .run = run,
    .max_arguments = 2,
};
