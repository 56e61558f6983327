/*
 * Attention of prompt rows in bfloat16, for machines that multiply tiles: the two products of
 * attention_bf16.c, for 16 pairs at a time. Softmax and merging stay those of float_kernels.h.
 *
 * Queries, keys, weights of the softmax and values are rounded to bfloat16 (to the nearest, ties to
 * even; subnormals become zeros). Sums are those of TDPBF16PS, as x86_amx_bf16.c says: in steps of 32
 * columns (scores) or 32 keys from the block's start on (mixed values), and a sum of values that comes
 * out as -0 is +0. So a step of keys that a pair does not see, with weights and values of zero, leaves
 * its sums as they are: how many steps are computed for its sake or its neighbours' shows in no bit.
 *
 * Keys and values of a block are rearranged once for all pairs, as the instruction wants its second
 * operand: two neighbouring terms of a sum in one word, in the terms below "pairs of".
 *
 *     keys    [group of KEY_GROUP][column / 2][key][2 columns]
 *     values  [32 keys][16 columns][key / 2][column][2 keys]
 */
#ifndef SLUICE_BACKEND_CPU_TILE_ATTENTION_H
#define SLUICE_BACKEND_CPU_TILE_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/cpu/float_kernels.h"
#include "quant/tensor_type.h"

#define TILE_PAIRS 16
#define TILE_STEP  32 /* columns or keys of a step; heads are multiples of it */
#define SCORE_STRIDE                                                                               \
    (KEY_BLOCK + 16) /* floats between pairs' scores: not all in the same cache sets */
#define WEIGHT_STRIDE (KEY_BLOCK + 32) /* words of 16 bits between pairs' weights */

/* Where n pairs are asked for, the rows up to TILE_PAIRS may be read and, of scores, written. */
struct tile_attention {
    const char *name;                                         /* "amx bf16" */
    void (*round)(const float *x, uint32_t n, uint16_t *out); /* n: a multiple of 16 */
    /* One group of keys as in a page, of F16 or BF16. */
    void (*keys)(enum tensor_type type, const uint8_t *group, uint32_t dim, uint16_t *out);
    /* KEY_GROUP value rows, of which [first, end) are visible and the others are taken as zeros and
     * not read; out: half of 32 keys' values, the second half at + VALUES_HALF. False: infinities or
     * NaN among them. */
    bool (*values)(enum tensor_type type, const uint8_t *rows, uint32_t first, uint32_t end,
                   uint32_t dim, uint16_t *out);
    /* out[p * SCORE_STRIDE + key] = q[p] . key; q: [n][dim] */
    void (*scores)(const uint16_t *q, uint32_t n, uint32_t dim, const uint16_t *keys,
                   uint32_t n_groups, float *out);
    /* sums[p] = weights[p * WEIGHT_STRIDE + key] times values, of n_steps of 32 keys; sums: [n][dim] */
    void (*mix)(const uint16_t *weights, uint32_t n, uint32_t dim, const uint16_t *values,
                uint32_t n_steps, float *sums);
};

#define VALUES_HALF 256 /* words: 8 pairs of keys by 16 columns */

/* Says what the bits are. */
extern const struct tile_attention tile_attention_scalar;
extern const struct tile_attention tile_attention_amx; /* where compiled in: SLUICE_HAVE_AMX */

static inline bool tile_attention_takes(enum tensor_type kv_type, uint32_t k_dim, uint32_t v_dim)
{
    return (kv_type == TENSOR_F16 || kv_type == TENSOR_BF16) && k_dim % TILE_STEP == 0 &&
           v_dim % TILE_STEP == 0;
}

#endif
