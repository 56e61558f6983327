/*
 * bench: how fast a model runs here, and how fast it could.
 *
 * bench_run() drives a backend directly, without an engine: prompts of given lengths and steps of
 * given numbers of generating sequences, over a page pool filled with random keys and values. Every
 * figure stands beside the limit that the same machine showed in the same run: bytes over the
 * measured read bandwidth, operations over the measured arithmetic peak of the kind that the
 * weights' type allows. What a step must do is counted from the program (bench_work), never from
 * the backend, so a backend cannot flatter itself.
 *
 * Time is the median over repetitions: a busy machine spoils single steps, not the figure.
 * Thread rule: one run at a time per process.
 */
#ifndef SLUICE_BENCH_BENCH_H
#define SLUICE_BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "hw/hardware.h"
#include "program/program.h"

#define BENCH_SIZES_MAX   16
#define BENCH_CONTEXT     128
#define BENCH_STEP_ROWS   512
#define BENCH_SECONDS     2.0
#define BENCH_PARTS_MAX   48
#define BENCH_TEXT        128
#define BENCH_LABEL_BYTES 48

struct bench_config {
    const char *model;   /* file or folder */
    const char *backend; /* NULL: auto */
    const char *kv_type; /* element type of keys and values; NULL: the backend's choice */
    uint32_t n_threads;  /* 0: the backend's choice */
    uint32_t prefill[BENCH_SIZES_MAX], n_prefill; /* prompt lengths */
    uint32_t decode[BENCH_SIZES_MAX], n_decode;   /* sequences that generate together */
    uint32_t beside[BENCH_SIZES_MAX], n_beside;   /* rows of a prompt in each of those steps too */
    uint32_t context;   /* positions before the generated one, of every sequence */
    uint32_t step_rows; /* rows of one forward pass of a prompt */
    double seconds;     /* to spend on each figure, about */
    bool exact;
    bool profile;               /* also where the time of a step goes */
    bool shuffle_pages;         /* sequences' pages lie in random order in the pool */
    const char *packed_cache;   /* folder of packed weights; NULL: none */
    uint64_t packed_cache_size; /* 0: the default */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

/* What one forward pass must do, at the least. */
struct bench_work {
    double bytes; /* weights and keys/values, each read once */
    double operations[ARITHMETICS];
};

struct bench_part { /* operations of one kind and place in a layer, all layers together */
    char name[BENCH_LABEL_BYTES];
    uint32_t count; /* of operations */
    double seconds; /* of one repetition */
    struct bench_work work;
};

struct bench_result {
    bool decode;
    uint32_t size;
    uint32_t beside; /* rows of one prompt in each step of generating sequences */
    uint32_t repetitions;
    double seconds; /* of one repetition: a whole prompt, or one step; the median */
    double tokens_per_second;
    struct bench_work work;  /* of one repetition */
    double joules_per_token; /* 0: not told */
    struct bench_part parts[BENCH_PARTS_MAX];
    uint32_t n_parts; /* 0 without a profile */
};

struct bench_report {
    struct hardware hardware;
    char model[BENCH_TEXT], architecture[64];
    char backend[32], device[BENCH_TEXT];
    const char *kv_type;
    uint64_t n_parameters, weight_bytes;
    uint32_t n_threads, context;
    double load_seconds;
    uint64_t pool_bytes;             /* of keys and values, all of them written */
    struct resident_memory resident; /* once loaded; own == 0: not told, or not in this memory */
    double
        bandwidth; /* bytes per second: the best measured before, between and after the results */
    struct arithmetic_peaks peaks;
    bool on_processor; /* the limits are this machine's memory and cores; else unknown, 0 */
    struct bench_result results[BENCH_SIZES_MAX * (2 + BENCH_SIZES_MAX)];
    uint32_t n_results;
};

/* Measures everything asked for. Large: allocate the report. */
enum status bench_run(const struct bench_config *config, struct bench_report *out,
                      struct error *err);

/* Seconds that the work takes at the limits: the longer of moving and computing; 0 if unknown. */
double bench_byte_seconds(const struct bench_report *report, const struct bench_work *work);
double bench_arithmetic_seconds(const struct bench_report *report, const struct bench_work *work);
double bench_limit_seconds(const struct bench_report *report, const struct bench_work *work);

/* Appends the report for people: a header, one line per result, tables of profiles. */
void bench_print(const struct bench_report *report, struct buf *out);
/* Appends it as JSON text. STATUS_MEMORY. */
enum status bench_print_json(const struct bench_report *report, struct buf *out, struct error *err);

/* "128,512" into sizes; STATUS_USAGE names the option. At least 1, at most BENCH_SIZES_MAX. */
enum status bench_parse_sizes(const char *option, const char *text, uint32_t sizes[BENCH_SIZES_MAX],
                              uint32_t *count, struct error *err);

#endif
