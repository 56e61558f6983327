/* sluice synth: a model of random weights in the shape of a real one. */
#include "cli/cli.h"
#include "convert/synth.h"
#include "quant/mixture.h"

static const char *type_option;
static uint32_t n_threads, n_layers;
static uint64_t seed;
static bool list;

static const struct option options[] = {
    {"--type", NULL, "T", "tensor types, as 'sluice quantize' names them (q4_k_m)", OPTION_TEXT,
     &type_option, NULL},
    {"--layers", NULL, "N", "only so many of the shape's layers", OPTION_U32, &n_layers, NULL},
    {"--seed", NULL, "N", "of the random numbers (0)", OPTION_U64, &seed, NULL},
    OPTION_OF_THREADS(&n_threads),
    {"--list", NULL, NULL, "the shapes and types there are", OPTION_FLAG, &list, NULL},
    OPTIONS_END,
};

static void print_list(void)
{
    printf("Shapes:\n");
    for (uint32_t i = 0; synth_shape_name(i); i++)
        printf("  %-14s %s\n", synth_shape_name(i), synth_shape_about(i));
    printf("\nTypes:\n");
    for (uint32_t i = 0; mixture_at(i); i++)
        printf("  %-14s %s\n", mixture_name(mixture_at(i)), mixture_about(mixture_at(i)));
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    if (list) {
        print_list();
        return STATUS_OK;
    }
    if (arguments->count != 2)
        return error_set(err, STATUS_USAGE, "SHAPE and OUT.gguf are needed: usage: sluice %s",
                         command_synth.usage);
    const struct synth_options synth = {
        .shape = arguments->items[0],
        .type = type_option ? type_option : "q4_k_m",
        .path = arguments->items[1],
        .seed = seed,
        .n_layers = n_layers,
        .n_threads = n_threads,
        .progress = terminal_progress,
    };
    struct synth_report report;
    enum status status = synth_write(&synth, &report, err);
    if (status == STATUS_OK)
        fprintf(stderr, "%s: %.3f billion parameters, %.3f GB\n", synth.path,
                (double)report.parameters / 1e9, (double)report.bytes / 1e9);
    return status;
}

const struct command command_synth = {
    .name = "synth",
    .synopsis = "a model of random weights in a real model's shape",
    .usage = "synth SHAPE OUT.gguf [--type T]",
    .about = "Writes a GGUF file with the tensors, types and special tokens of a real model and\n"
             "random weights: for benchmarks where the real weights are not at hand. What such a\n"
             "model says is noise; its speed and memory are those of the real one.\n\n"
             "  sluice synth llama-1b /tmp/llama-1b.gguf --type q4_k_m\n"
             "  sluice synth qwen3-30b-a3b /tmp/moe.gguf --layers 12   # where 17 GB are too much\n"
             "  sluice synth --list",
    .options = options,
    .run = run,
    .max_arguments = 2,
};
