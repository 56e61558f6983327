/*
 * Attention over keys and values in pages.
 *
 * Work is cut into tiles of up to PAIRS (row, head) pairs (attention_cut.c). A tile goes over the keys in
 * blocks that start at multiples of KEY_BLOCK positions:
 *
 *     part of a block:  most = max score, total = sum exp(score - most), sums = the same with values
 *     merged in order:  the running (most, total, sums) of the row takes one part after the other
 *
 * A part depends on the row's own position and on the keys of its block alone, and parts are merged
 * from the first block to the last, starting from the sink or from nothing. So the bits of a result
 * do not show how rows were cut into tiles and steps, nor who computed a part. Threads take tiles in
 * pieces, as of products; with few tiles (one long sequence) they take blocks of tiles, and after a
 * barrier the parts are merged in the same order.
 *
 * A block is computed in float32 (attention_float.c); for prompt rows in bfloat16 (attention_bf16.c) where
 * the machine multiplies tiles of it: a numeric class of its own, of which the same holds.
 */
#include <string.h>

#include "backend/cpu/attention_block.h"

/* Words of what a tile in bfloat16 needs besides. */
static size_t narrow_words(uint32_t k_dim, uint32_t v_dim)
{
    return (PAIRS_MOST * (size_t)k_dim + KEY_BLOCK * ((size_t)k_dim + v_dim) +
            2 * TILE_PAIRS * WEIGHT_STRIDE) /
               2 +
           (PAIRS_MOST - PAIRS) * 2 * (size_t)v_dim;
}

size_t attention_scratch_words(const struct cpu_backend *backend, const struct program *program,
                               const struct op_attention *op)
{
    const struct state_group *group = &program->groups[op->group];
    size_t k = group->k_head_dim, v = group->v_head_dim;
    if (group->kind == GROUP_LATENT)
        return latent_scratch_words(program, op);
    size_t narrow = backend->tiles ? narrow_words((uint32_t)k, (uint32_t)v) : 0;
    return narrow + PAIRS * (k + KEY_BLOCK + 2 * v) + KEY_RUN * (k + v) + GROUP_TINY * k;
}

/* ---- one tile ---------------------------------------------------------------------------------- */

static void attend_begin(struct attend *a, const struct worker *w, const struct op_attention *op)
{
    const struct state_group *group = &w->run->program->program->groups[op->group];
    const struct cpu_backend *backend = w->run->backend;
    *a = (struct attend){.run = w->run,
                         .op = op,
                         .floats = backend->floats,
                         .narrow = attention_is_narrow(w->run, op) ? backend->tiles : NULL,
                         .kv = backend->kv,
                         .wide = float_kernels_format(backend->floats, TENSOR_F32),
                         .layout = &backend->layout.groups[op->group],
                         .k_dim = group->k_head_dim,
                         .v_dim = group->v_head_dim};
    a->q = w->scratch;
    a->scores = a->q + (size_t)PAIRS * a->k_dim;
    a->sums = a->scores + PAIRS * KEY_BLOCK;
    uint32_t pairs = a->narrow ? PAIRS_MOST : PAIRS;
    a->total = a->sums + (size_t)pairs * a->v_dim;
    a->keys = a->total + (size_t)pairs * a->v_dim;
    a->values = a->keys + (size_t)KEY_RUN * a->k_dim;
    a->tiny = a->values + (size_t)KEY_RUN * a->v_dim;
    a->narrow_q = (uint16_t *)(a->tiny + (size_t)GROUP_TINY * a->k_dim);
    a->narrow_keys = a->narrow_q + (size_t)PAIRS_MOST * a->k_dim;
    a->narrow_values = a->narrow_keys + (size_t)KEY_BLOCK * a->k_dim;
    a->narrow_weights = a->narrow_values + (size_t)KEY_BLOCK * a->v_dim;
}

static void attend_tile(struct attend *a, const struct tile *tile)
{
    a->tile = tile;
    a->n_pairs = tile_pairs(tile);
    for (uint32_t p = 0; p < a->n_pairs; p++) {
        uint32_t row = tile->row + p / tile->n_heads, head = tile->head + p % tile->n_heads;
        attention_visible(a->run, a->op, row, &a->begin[p], &a->end[p]);
        const float *q = run_row(a->run, a->op->q, row) + (size_t)head * a->k_dim;
        if (tile->narrow)
            a->narrow->round(q, a->k_dim, a->narrow_q + (size_t)p * a->k_dim);
        else
            memcpy(a->q + (size_t)p * a->k_dim, q, a->k_dim * sizeof *a->q);
    }
}

static void attend_block(struct attend *a, uint32_t index)
{
    if (a->tile->narrow)
        attend_block_narrow(a, index * KEY_BLOCK);
    else
        attend_block_float(a, index * KEY_BLOCK);
}

static struct softmax_part first_part(const float *sinks, uint32_t head)
{
    return sinks ? (struct softmax_part){sinks[head], 1.0f}
                 : (struct softmax_part){-INFINITY, 0.0f};
}

static void write_pair(const struct attend *a, const struct tile *tile, uint32_t p,
                       const struct softmax_part *part, const float *sums)
{
    uint32_t row = tile->row + p / tile->n_heads, head = tile->head + p % tile->n_heads;
    a->floats->scale(sums, 1.0f / part->total, a->v_dim,
                     run_row(a->run, a->op->out, row) + (size_t)head * a->v_dim);
}

static void attend_whole_tile(struct attend *a, const struct tile *tile, const float *sinks)
{
    struct softmax_part running[PAIRS_MOST];
    attend_tile(a, tile);
    for (uint32_t p = 0; p < a->n_pairs; p++)
        running[p] = first_part(sinks, tile->head + p % tile->n_heads);
    memset(a->total, 0, (size_t)a->n_pairs * a->v_dim * sizeof *a->total);
    for (uint32_t b = 0; b < tile_blocks(tile); b++) {
        attend_block(a, tile_first_block(tile) + b);
        for (uint32_t p = 0; p < a->n_pairs; p++)
            if (a->parts[p].total != 0.0f)
                a->floats->merge(&running[p], a->total + (size_t)p * a->v_dim, &a->parts[p],
                                 a->sums + (size_t)p * a->v_dim, a->v_dim);
    }
    for (uint32_t p = 0; p < a->n_pairs; p++)
        write_pair(a, tile, p, &running[p], a->total + (size_t)p * a->v_dim);
}

/* ---- few tiles: parts by block ----------------------------------------------------------------- */

/* Words of a stored part: most, total, sums. */
static size_t part_words(const struct attend *a)
{
    return 2 + (size_t)a->v_dim;
}

size_t attention_part_words(const struct program *program, const struct op_attention *op,
                            uint32_t context)
{
    size_t blocks = (context + KEY_BLOCK - 1) / KEY_BLOCK;
    return blocks * op->n_heads * (2 + (size_t)program->groups[op->group].v_head_dim);
}

static void store_parts(const struct attend *a, float *to)
{
    for (uint32_t p = 0; p < a->n_pairs; p++, to += part_words(a)) {
        to[0] = a->parts[p].most;
        to[1] = a->parts[p].total;
        memcpy(to + 2, a->sums + (size_t)p * a->v_dim, a->v_dim * sizeof *to);
    }
}

static void merge_parts(const struct attend *a, const struct tile *tile, const float *parts,
                        uint32_t p, const float *sinks)
{
    struct softmax_part running = first_part(sinks, tile->head + p % tile->n_heads);
    memset(a->total, 0, a->v_dim * sizeof *a->total);
    for (uint32_t b = 0; b < tile_blocks(tile); b++) {
        const float *from = parts + ((size_t)b * tile_pairs(tile) + p) * part_words(a);
        struct softmax_part part = {from[0], from[1]};
        if (part.total != 0.0f)
            a->floats->merge(&running, a->total, &part, from + 2, a->v_dim);
    }
    write_pair(a, tile, p, &running, a->total);
}

static void attend_by_block(struct attend *a, const struct worker *w, const float *sinks,
                            struct taking units)
{
    float *parts = w->run->backend->parts;
    struct tile_cursor c = {.list = tile_list_begin(w->run, a->op), .by_block = true};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t unit = piece.begin; unit < piece.end; unit++) {
            if (tile_cursor_seek(&c, unit))
                attend_tile(a, &c.tile);
            uint32_t b = (uint32_t)(unit - c.unit);
            attend_block(a, tile_first_block(&c.tile) + b);
            store_parts(a, parts + (c.pairs + (size_t)b * tile_pairs(&c.tile)) * part_words(a));
        }
    worker_barrier(w);
    struct tile tile;
    uint64_t pair = 0;
    size_t before = 0; /* parts */
    for (struct tile_list t = tile_list_begin(w->run, a->op); tile_list_next(&t, &tile);) {
        for (uint32_t p = 0; p < tile_pairs(&tile); p++, pair++)
            if (pair % w->count == w->index)
                merge_parts(a, &tile, parts + before * part_words(a), p, sinks);
        before += (size_t)tile_blocks(&tile) * tile_pairs(&tile);
    }
}

/* ---- the operation ----------------------------------------------------------------------------- */

#define TILES_ENOUGH 16 /* per thread: with fewer, long tiles would end at different times */
#define BLOCKS_LONG  4  /* of a long tile */

static bool by_block(const struct worker *w, const struct attend *a, const struct tile_sums *s)
{
    uint64_t each = s->tiles / w->count;
    bool few = s->blocks > s->tiles && each < TILES_PER_THREAD;
    bool uneven = s->blocks >= BLOCKS_LONG * s->tiles && each < TILES_ENOUGH;
    return w->count > 1 && (few || uneven) &&
           s->pairs * part_words(a) <= w->run->backend->part_words;
}

void cpu_attention(const struct worker *w, const struct op_attention *op)
{
    if (w->run->program->program->groups[op->group].kind == GROUP_LATENT) {
        cpu_latent_attention(w, op);
        return;
    }
    const float *sinks = run_vector(w->run, op->sinks);
    struct attend a;
    attend_begin(&a, w, op);
    struct tile_sums sums = sum_tiles(w->run, op);
    if (sums.tiles == 0)
        return;
    if (by_block(w, &a, &sums)) {
        attend_by_block(&a, w, sinks, (struct taking){.n = sums.blocks, .most = 1});
        return;
    }
    struct taking units = {.n = sums.tiles,
                           .most = piece_units(sums.columns / sums.tiles * a.k_dim)};
    struct tile_cursor c = {.list = tile_list_begin(w->run, op)};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t unit = piece.begin; unit < piece.end; unit++) {
            tile_cursor_seek(&c, unit);
            attend_whole_tile(&a, &c.tile, sinks);
        }
}
