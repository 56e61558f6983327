/*
 * Inside attention.c, attention_cut.c, attention_float.c and attention_bf16.c: tiles of an operation,
 * and what a thread has at hand while it computes one. Nobody else includes this.
 *
 * What the machine's matrix instructions call tiles (tile_attention.h) are other ones: here those
 * products, in bfloat16 instead of float32, are "narrow".
 */
#ifndef SLUICE_BACKEND_CPU_ATTENTION_H
#define SLUICE_BACKEND_CPU_ATTENTION_H

#include <math.h>

#include "backend/cpu/internal.h"

#define PAIRS            32  /* of a tile */
#define PAIRS_MOST       128 /* of a narrow one */
#define TILES_PER_THREAD 4   /* with fewer, whole tiles would leave threads idle */
#define GROUP_TINY       8   /* most tokens of a key group in pages that hold less than KEY_GROUP */

/* ---- attention_cut.c: tiles -------------------------------------------------------------------- */

/* (row, head) pairs that meet the same keys and values: pair p is row p / n_heads, head p % n_heads. */
struct tile {
    uint32_t slot;
    uint32_t row, n_rows;
    uint32_t kv_head, head, n_heads; /* query heads [head, head + n_heads) */
    uint32_t begin, end;             /* positions that any of its rows sees */
    bool narrow;                     /* products in bfloat16 */
};

static inline uint32_t tile_first_block(const struct tile *tile)
{
    return tile->begin / KEY_BLOCK;
}

static inline uint32_t tile_blocks(const struct tile *tile)
{
    return (tile->end - 1) / KEY_BLOCK - tile_first_block(tile) + 1;
}

static inline uint32_t tile_pairs(const struct tile *tile)
{
    return tile->n_rows * tile->n_heads;
}

/* All tiles of an operation, in order; every thread walks the same list. */
struct tile_list {
    const struct cpu_run *run;
    const struct op_attention *op;
    uint32_t n_kv_heads, heads_per_kv;  /* query heads of one K/V head */
    uint32_t narrow_pairs;              /* of a tile of prompt rows that are narrow; 0: none are */
    uint32_t slice, row, kv_head, head; /* of the next tile */
};

struct tile_list tile_list_begin(const struct cpu_run *run, const struct op_attention *op);
/* False after the last one. */
bool tile_list_next(struct tile_list *list, struct tile *out);

/* Walks the list as threads take pieces of it: mostly forwards. Units are tiles, or their blocks. */
struct tile_cursor {
    struct tile_list list;
    bool by_block;
    struct tile tile;     /* at hand */
    uint64_t unit, units; /* its first one, and how many; 0 before the first tile */
    size_t pairs;         /* of all blocks of the tiles before it */
};

/* Makes the unit's tile the one at hand; true if it was not. */
bool tile_cursor_seek(struct tile_cursor *cursor, uint64_t unit);

/* Tiles of an operation, and what they come to. */
struct tile_sums {
    uint64_t tiles, blocks, columns; /* columns: pairs times keys */
    size_t pairs;                    /* of all blocks */
};

struct tile_sums sum_tiles(const struct cpu_run *run, const struct op_attention *op);

/* Visible positions of a row: [*begin, *end). */
void attention_visible(const struct cpu_run *run, const struct op_attention *op, uint32_t row,
                       uint32_t *begin, uint32_t *end);
/* Whether the operation's prompt rows are narrow. */
bool attention_is_narrow(const struct cpu_run *run, const struct op_attention *op);

/* ---- a thread's tile --------------------------------------------------------------------------- */

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

/* ---- one block: parts and sums of every pair -----------------------------------------------------
 * block: its first position. The part of a pair that sees nothing of it has total 0. */

/* attention_float.c */
void attend_block_float(struct attend *a, uint32_t block);
/* attention_bf16.c */
void attend_block_narrow(struct attend *a, uint32_t block);

#endif
