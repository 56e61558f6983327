/*
 * A sample step: what to draw from the logits of the forward pass before it, as one contiguous,
 * pointer-free buffer (the twin of program/step.h, with the same rules of ownership).
 *
 *   header | rows | history writes | bias ids | bias values | masks
 *
 * The backend keeps, per sequence slot, the token at every position ("history"): penalties read it,
 * a drawn token is entered at its position by the sampler itself, and the engine enters the others
 * (prompt tokens of requests that use penalties) by history writes. Going back in a sequence needs
 * no repair: positions past its length are never read.
 */
#ifndef SLUICE_BACKEND_SAMPLE_STEP_H
#define SLUICE_BACKEND_SAMPLE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "sample/sample_core.h"

#ifdef __CUDACC__
#define SAMPLE_STEP_FN static inline __host__ __device__
#else
#define SAMPLE_STEP_FN static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SAMPLE_STEP_MAGIC 0x706d6173u /* "samp" */
#define NO_MASK           UINT32_MAX

struct sample_row {
    uint32_t output;      /* which logits row of the forward pass */
    uint32_t slot;        /* sequence slot */
    uint32_t position;    /* of the token being drawn */
    uint32_t mask_offset; /* first word in masks, mask_words of them; NO_MASK: all allowed */
    uint32_t
        breakers_offset; /* likewise: tokens that no repetition reaches across; NO_MASK: none */
    uint32_t reserved;
    struct sampling_row parameters;
};

struct history_write {
    uint32_t slot;
    uint32_t position;
    int32_t token;
};

struct sample_limits {
    uint32_t max_rows;
    uint32_t max_history_writes;
    uint32_t max_biases;
    uint32_t max_masks; /* of n_vocab bits each */
    uint32_t n_vocab;
};

struct sample_step {
    uint32_t magic;
    uint32_t bytes;
    uint64_t number; /* of the step whose logits are sampled */
    uint32_t n_rows, n_history_writes, n_biases, n_masks;
    uint32_t mask_words; /* uint32 words per mask */
    struct sample_limits limits;
    uint32_t rows_at, history_at, bias_ids_at, bias_values_at, masks_at;
};

size_t sample_step_bytes(const struct sample_limits *limits); /* 0 on overflow */
struct sample_step *sample_step_init(void *buffer, const struct sample_limits *limits);
void sample_step_clear(struct sample_step *step, uint64_t number);

/* Each returns false when a capacity is exhausted, leaving the step as it was.
 * biases: n_biases pairs, copied; mask, breakers: mask_words words, copied (NULL: none). The row's
 * offsets into all are filled in. */
bool sample_step_add_row(struct sample_step *step, const struct sample_row *row,
                         const int32_t *bias_ids, const float *bias_values, uint32_t n_biases,
                         const uint32_t *mask, const uint32_t *breakers);
bool sample_step_add_history(struct sample_step *step, struct history_write write);

/* For backends: whether rows and history writes name what there is, masks and biases what is in the step.
 * The caller has checked that the step was made for its limits. */
struct sample_bounds {
    uint32_t n_logits; /* rows of them that the forward pass gave */
    uint32_t n_slots, history_capacity;
};
enum status sample_step_check(const struct sample_step *step, const struct sample_bounds *bounds,
                              struct error *err);

SAMPLE_STEP_FN const struct sample_row *sample_step_rows(const struct sample_step *s)
{
    return (const struct sample_row *)((const char *)s + s->rows_at);
}

SAMPLE_STEP_FN const struct history_write *sample_step_history(const struct sample_step *s)
{
    return (const struct history_write *)((const char *)s + s->history_at);
}

SAMPLE_STEP_FN const int32_t *sample_step_bias_ids(const struct sample_step *s)
{
    return (const int32_t *)((const char *)s + s->bias_ids_at);
}

SAMPLE_STEP_FN const float *sample_step_bias_values(const struct sample_step *s)
{
    return (const float *)((const char *)s + s->bias_values_at);
}

SAMPLE_STEP_FN const uint32_t *sample_step_masks(const struct sample_step *s)
{
    return (const uint32_t *)((const char *)s + s->masks_at);
}

#ifdef __cplusplus
}
#endif
#endif
