/*
 * Models of random weights in the shape of real ones, for benchmarks and tests.
 *
 * A file has a real model's tensors, types, hyperparameters and special tokens, Gaussian weights
 * scaled so that activations stay in range, and a vocabulary of syllables that encodes English at
 * about three characters a token. What it says is noise; how fast it says it is the real thing.
 * The same shape, type and seed give the same file, whatever the number of threads.
 */
#ifndef SLUICE_CONVERT_SYNTH_H
#define SLUICE_CONVERT_SYNTH_H

#include <stdint.h>

#include "base/status.h"

struct synth_options {
    const char *shape; /* "llama-1b" */
    const char *type;  /* a mixture's name, "q4_k_m" */
    const char *path;
    uint64_t seed;
    uint32_t n_layers;  /* the first so many of the shape's; 0: all */
    uint32_t n_threads; /* 0: one per core */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

struct synth_report {
    uint64_t parameters, bytes;
};

/* STATUS_USAGE for an unknown shape or type, naming those there are, and for more layers than the
 * shape has. `out` may be NULL. */
enum status synth_write(const struct synth_options *options, struct synth_report *out,
                        struct error *err);

/* "llama-1b" and one line about it; NULL past the end. */
const char *synth_shape_name(uint32_t index);
const char *synth_shape_about(uint32_t index);

#endif
