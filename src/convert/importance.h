/*
 * Importance: how much the columns of each matrix matter, measured on a calibration text.
 *
 * The model runs over the text; of every row that a matrix is multiplied with, the squares are summed by
 * column. Their mean is the weight of a column's error: an error e in a weight changes an output by e x,
 * whose mean square is e^2 times the column's. Each expert has means of its own, over the tokens that
 * chose it. Internal to convert/.
 */
#ifndef SLUICE_CONVERT_IMPORTANCE_H
#define SLUICE_CONVERT_IMPORTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

#define IMPORTANCE_TEXT_MAX  (64u << 20)  /* bytes of a calibration text */
#define IMPORTANCE_TOKENS    131072       /* ... of which so many tokens are used */
#define IMPORTANCE_LEAST     256          /* tokens: less says nothing */
#define IMPORTANCE_BYTES_MAX (8ull << 30) /* of sums */

struct importance;

struct importance_options {
    const char *model;   /* as in checkpoint_open() */
    const char *text;    /* a file, UTF-8 */
    const char *backend; /* NULL: cpu */
    bool exact;
    uint32_t n_threads;                                                 /* 0: one per core */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

struct importance_report {
    uint64_t n_tokens;
    double perplexity; /* of the text, by the way */
};

/* STATUS_UNSUPPORTED for a model without tokenizer or logits, STATUS_USAGE for a text that is too short or
 * no text, STATUS_LIMIT for one that is too long. */
enum status importance_measure(const struct importance_options *options, struct importance **out,
                               struct importance_report *report, struct error *err);
void importance_free(struct importance *importance); /* NULL allowed */

/* Means of a tensor's columns, [n_cols], for matrix `part` of its stack of `*count`; NULL: the model
 * never multiplied with it (*count is then 1). tensor: its name in the checkpoint. */
const float *importance_of(const struct importance *importance, struct str tensor, uint64_t part,
                           uint64_t n_cols, uint32_t *count);

#endif
