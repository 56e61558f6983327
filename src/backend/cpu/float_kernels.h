/*
 * Float kernels: attention over keys and values in pages, norms, rotations, activations; one table
 * per instruction set, all compiled from float_template.h.
 *
 * Keys in a page. layout.h gives a head's keys of a page as one run of tokens_per_page * k_head_bytes
 * bytes; within it this backend keeps groups of KEY_GROUP tokens (fewer where a page holds fewer)
 * turned, so that a vector holds one column of many keys:
 *
 *     floats (f32 to f8_e4m3)   [column][token of the group]
 *     q8_0                      per 32 columns: [token] scale as f16, then [column][token] int8
 *
 * A score then is a chain of multiply-adds over the columns in order, one lane per key: no sums
 * across lanes, the same order for one query row as for many, and keys whose columns are garbage
 * (positions not written yet) spoil only their own lanes. Values stay row by row.
 *
 * Results of all functions depend on the row's own values and positions only, never on `n` or on how
 * keys are cut into calls. "Pairs" are (query row, head) pairs that look at the same K/V head.
 */
#ifndef SLUICE_BACKEND_CPU_FLOAT_KERNELS_H
#define SLUICE_BACKEND_CPU_FLOAT_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "hw/hardware.h"
#include "program/program.h"

#define KEY_GROUP 16
#define KEY_BLOCK 256 /* keys whose softmax is computed at once; blocks start at multiples of it */
#define KEY_RUN   32  /* most keys of one call; a multiple of KEY_GROUP */
#define DIRECT                                                                                     \
    6 /* up to this many pairs read keys and values in their own type; more widen them
                         once. Costs differ, bits do not */

struct kv_format {
    const char *name; /* "avx2 f16" */
    enum tensor_type type;
    /* One token's key into a group of `width` tokens; t: its index in the group. */
    void (*append_key)(const float *key, uint8_t *group, uint32_t width, uint32_t t, uint32_t dim);
    void (*append_value)(const float *value, uint8_t *row, uint32_t dim);
    /* out[p * stride + key] = q[p] . key, of n_groups (1 or 2) groups of KEY_GROUP keys; q: [n, dim],
     * n at most DIRECT. next (may be NULL): what will be read after this, fetched into the caches
     * meanwhile; only a hint. */
    void (*scores)(const uint8_t *keys, uint32_t n_groups, uint32_t dim, const float *q, uint32_t n,
                   float *out, uint32_t stride, const uint8_t *next);
    /* sums[p] += weights[p * stride + key] * value[key], keys in order; sums: [n, dim], n at most
     * DIRECT. */
    void (*mix)(const uint8_t *values, uint32_t n_keys, uint32_t dim, const float *weights,
                uint32_t stride, uint32_t n, float *sums, const uint8_t *next);
    /* To float32 in the same arrangement: one group of `width` keys, and n_keys value rows. */
    void (*widen_keys)(const uint8_t *group, uint32_t width, uint32_t dim, float *out);
    void (*widen_values)(const uint8_t *values, uint32_t n_keys, uint32_t dim, float *out);
};

/* Scores of one block to weights: s = score * scale, capped; weight = exp(s - most). Positions
 * outside [begin, end) of the block get weight 0. */
struct softmax_part {
    float most, total;
};

struct float_kernels {
    const char *name;              /* "avx2" */
    enum instruction_set needs[5]; /* up to INSTRUCTION_SETS */
    const struct kv_format *formats;
    uint32_t n_formats;
    struct softmax_part (*softmax)(float *scores, uint32_t begin, uint32_t end, float scale,
                                   float softcap);
    /* Adds a block's sums [dim] with its maximum and total to what came before it. */
    void (*merge)(struct softmax_part *into, float *into_sums, const struct softmax_part *part,
                  const float *sums, uint32_t dim);
    /* out = x * factor */
    void (*scale)(const float *x, float factor, uint32_t n, float *out);
    /* In place. exp is within 2 units in the last place of the true value, tanh and erf within 2^-21
     * of it absolutely; an activation is what they make of it. */
    void (*activate)(enum activation act, float *x, uint32_t n);
    /* out = act(a) * b, or what ACT_CLAMPED_SWIGLU makes of both; out may be a or b. */
    void (*gate)(enum activation act, const float *a, const float *b, uint32_t n, float *out);
    /* out = a + b * scale */
    void (*add)(const float *a, const float *b, float scale, uint32_t n, float *out);
    /* One group of a norm; weight and bias may be NULL. */
    void (*norm)(const struct op_norm *op, const float *in, const float *weight, const float *bias,
                 float *out);
    /* One head in place; turn: cosines [rope_dims / 2], then as many sines. */
    void (*rotate)(enum rope_style style, uint32_t rope_dims, const float *turn, float *head);
};

extern const struct float_kernels float_kernels_portable;
extern const struct float_kernels float_kernels_avx2;
extern const struct float_kernels float_kernels_avx512;

bool float_kernels_usable(const struct float_kernels *kernels, const struct hardware *hw);
/* The best set of this machine, and the i-th compiled in, best first (NULL past the end). */
const struct float_kernels *float_kernels_best(void);
const struct float_kernels *float_kernels_at(uint32_t index);
/* NULL for a type that the set does not keep keys and values in. */
const struct kv_format *float_kernels_format(const struct float_kernels *kernels,
                                             enum tensor_type type);

#endif
