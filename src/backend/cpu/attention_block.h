/*
 * A thread at one tile of attention, and the block of keys it computes: what attention.c shares with its
 * two ways to do that. Inside attention*.c.
 */
#ifndef SLUICE_BACKEND_CPU_ATTENTION_BLOCK_H
#define SLUICE_BACKEND_CPU_ATTENTION_BLOCK_H

#include <math.h>

#include "backend/cpu/attention_cut.h"

#define GROUP_TINY 8 /* most tokens of a key group in pages that hold less than KEY_GROUP */

/* One thread at an operation, and the tile it is at. */
struct attend {
    const struct cpu_run *run;
    const struct op_attention *op;
    const struct float_kernels *floats;
    const struct tile_attention *narrow; /* products in bfloat16; NULL: none */
    const struct kv_format *kv, *wide;   /* the cache's type; float32 */
    const struct group_layout *layout;
    const struct tile *tile;
    uint32_t k_dim, v_dim, n_pairs;
    uint32_t begin[PAIRS_MOST], end[PAIRS_MOST]; /* visible positions of each pair */
    /* Thread scratch. */
    float *q;      /* [PAIRS, k_dim] */
    float *scores; /* [PAIRS, KEY_BLOCK]; then weights */
    float *sums;   /* [pairs, v_dim]: of the block */
    float *total;  /* [pairs, v_dim]: of all blocks so far */
    float *keys;   /* [KEY_RUN, k_dim]: widened */
    float *values; /* [KEY_RUN, v_dim]: widened */
    float *tiny;   /* [k_dim, GROUP_TINY] */
    /* In bfloat16, as tile_attention.h says. */
    uint16_t *narrow_q;       /* [PAIRS_MOST, k_dim] */
    uint16_t *narrow_keys;    /* of a block */
    uint16_t *narrow_values;  /* of a block */
    uint16_t *narrow_weights; /* [2 * TILE_PAIRS, WEIGHT_STRIDE]: the second half is never used */
    struct softmax_part parts[PAIRS_MOST];
};

/* Where the page of a position has the tile's keys from there on. */
static inline const uint8_t *key_page(const struct attend *a, uint32_t position)
{
    uint32_t per_page = a->layout->tokens_per_page;
    return run_page(a->run, a->tile->slot, a->op->group, position / per_page) +
           layout_k_offset(a->layout, a->op->layer, a->tile->kv_head, position % per_page);
}

static inline const uint8_t *value_page(const struct attend *a, uint32_t position)
{
    uint32_t per_page = a->layout->tokens_per_page;
    return run_page(a->run, a->tile->slot, a->op->group, position / per_page) +
           layout_v_offset(a->layout, a->op->layer, a->tile->kv_head, position % per_page);
}

/* Positions of the block that starts at `block` that any row of the tile sees: [begin, end). */
static inline uint32_t block_begin(const struct attend *a, uint32_t block)
{
    return a->tile->begin > block ? a->tile->begin : block;
}

static inline uint32_t block_end(const struct attend *a, uint32_t block)
{
    return a->tile->end < block + KEY_BLOCK ? a->tile->end : block + KEY_BLOCK;
}

/* Keys [from, to) of a block that a pair sees; empty: from is not below to. */
struct seen {
    uint32_t from, to;
};

static inline struct seen pair_sees(const struct attend *a, uint32_t p, uint32_t block)
{
    uint32_t end = a->end[p] < block + KEY_BLOCK ? a->end[p] : block + KEY_BLOCK;
    return (struct seen){.from = a->begin[p] > block ? a->begin[p] - block : 0,
                         .to = end > block ? end - block : 0};
}

/* Of a pair's scores makes weights, and the pair's part; total 0 where it sees nothing. */
static inline void weigh(struct attend *a, uint32_t p, struct seen seen, float *scores)
{
    a->parts[p] = (struct softmax_part){-INFINITY, 0.0f};
    if (seen.from < seen.to)
        a->parts[p] = a->floats->softmax(scores, seen.from, seen.to, a->op->scale, a->op->softcap);
}

/* Parts and sums of every pair in the block that starts at position `block`; the part of a pair that sees
 * nothing of it has total 0. In float32 (attention_float.c), or narrow (attention_bf16.c). */
void attend_block_float(struct attend *a, uint32_t block);
void attend_block_narrow(struct attend *a, uint32_t block);

#endif
