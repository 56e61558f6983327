/*
 * Quantising a model: any checkpoint in, one GGUF file out, its matrices in the types of a mixture.
 *
 * With a calibration text the model first runs over it (importance.h), and encoders that search for
 * scales minimise the error weighted by what the columns are multiplied with.
 *
 * Vectors, norms and routers become float32 as they are; matrices are decoded and encoded row by row
 * on all cores, straight from the mapped input to the output file, so that memory does not grow with
 * the model. Metadata and tokenizer are carried over.
 */
#ifndef SLUICE_CONVERT_QUANTIZE_H
#define SLUICE_CONVERT_QUANTIZE_H

#include <stdint.h>

#include "base/status.h"

struct quantize_options {
    const char *input;      /* a GGUF file or a Hugging Face folder */
    const char *output;     /* becomes a .gguf file */
    const char *type;       /* a mixture's name, "q4_k_m" */
    const char *importance; /* a calibration text's path; NULL: all columns count alike */
    uint32_t n_threads;     /* 0: one per core */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

struct quantize_report {
    uint64_t input_bytes, output_bytes; /* of tensors */
    uint32_t n_encoded, n_kept;         /* tensors */
    uint32_t n_requantized;             /* of the encoded ones: were quantised before */
    uint32_t n_weighted;                /* ... were encoded by importance */
    uint64_t n_calibrated;              /* tokens of the calibration text */
    double calibration_perplexity;
    double seconds;
};

/* STATUS_USAGE for an unknown type or an output that is the input; STATUS_UNSUPPORTED for an
 * architecture whose folder cannot be converted. The output appears only when it is complete. */
enum status quantize_model(const struct quantize_options *options, struct quantize_report *out,
                           struct error *err);

#endif
