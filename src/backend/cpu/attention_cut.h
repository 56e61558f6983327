/*
 * The tiles that an attention operation is cut into: a list that every thread walks (attention_cut.c).
 *
 * What the machine's matrix instructions call tiles (tile_attention.h) are other ones: a tile of ours
 * whose products are those, in bfloat16 instead of float32, is "narrow". Inside attention*.c.
 */
#ifndef SLUICE_BACKEND_CPU_ATTENTION_CUT_H
#define SLUICE_BACKEND_CPU_ATTENTION_CUT_H

#include "backend/cpu/internal.h"

#define PAIRS            32  /* of a tile */
#define PAIRS_MOST       128 /* of a narrow one */
#define TILES_PER_THREAD 4   /* with fewer, whole tiles would leave threads idle */

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

#endif
