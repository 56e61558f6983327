/*
 * Attention over keys and values in pages.
 *
 * Work is cut into tiles: some consecutive rows of a slice times the query heads that share a K/V
 * head, up to PAIRS (row, head) pairs, so that a key or value is read once for all of them. A tile
 * goes over the keys in blocks that start at multiples of KEY_BLOCK positions:
 *
 *     part of a block:  most = max score, total = sum exp(score - most), sums = the same with values
 *     merged in order:  the running (most, total, sums) of the row takes one part after the other
 *
 * A part depends on the row's own position and on the keys of its block alone, and parts are merged
 * from the first block to the last, starting from the sink or from nothing. So the bits of a result
 * do not show how rows were cut into tiles and steps, nor who computed a part. Threads take tiles in
 * pieces, as of products; with few tiles (one long sequence) they take blocks of tiles, and after a
 * barrier the parts are merged in the same order. Pages are read in place: a run of keys or values is used as it
 * lies, or, for many pairs, widened to float32 once into the thread's scratch.
 *
 * Tiles of prompt rows are computed in bfloat16 where the machine multiplies tiles of it
 * (tile_attention.h): a numeric class of its own, of which the same holds.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"

#define PAIRS            32  /* of a tile */
#define PAIRS_MOST       128 /* of one whose products are in bfloat16 */
#define TILES_PER_THREAD 4   /* with fewer, whole tiles would leave threads idle */
#define AHEAD            1   /* runs of keys or values that are asked for before they are used */
#define GROUP_TINY       8   /* most tokens of a key group in pages that hold less than KEY_GROUP */

struct tile {
    uint32_t slot;
    uint32_t row, n_rows;
    uint32_t kv_head, head, n_heads; /* query heads [head, head + n_heads) */
    uint32_t begin, end;             /* positions that any of its rows sees */
    bool narrow;                     /* products in bfloat16 */
};

/* All tiles of an operation, in order; every thread walks the same list. */
struct tiles {
    const struct cpu_run *run;
    const struct op_attention *op;
    uint32_t n_kv_heads, heads_per_kv; /* query heads of one K/V head */
    uint32_t narrow_pairs;             /* of a tile of prompt rows in bfloat16; 0: there are none */
    uint32_t slice, row, kv_head, head; /* of the next tile */
};

struct attend {
    const struct cpu_run *run;
    const struct op_attention *op;
    const struct float_kernels *floats;
    const struct tile_attention *tiles;
    const struct kv_format *kv, *wide; /* the cache's type; float32 */
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

bool attention_of_prompts(const struct cpu_backend *backend, const struct program *program,
                          const struct op_attention *op)
{
    const struct state_group *group = &program->groups[op->group];
    return backend->tiles && backend->kv && group->kind == GROUP_KV &&
           tile_attention_takes(backend->kv->type, group->k_head_dim, group->v_head_dim);
}

static bool narrow_prompts(const struct cpu_run *run, const struct op_attention *op)
{
    return attention_of_prompts(run->backend, run->program->program, op);
}

/* Visible positions of a row: [*begin, *end). */
static void visible(const struct cpu_run *run, const struct op_attention *op, uint32_t row,
                    uint32_t *begin, uint32_t *end)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    uint32_t position = step_row_position(run->step, row);
    *end = slice->mask == MASK_SPAN ? slice->first_position + slice->n_rows : position + 1;
    if (op->ahead && *end > position + 1 + op->ahead)
        *end = position + 1 + op->ahead;
    *begin = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
}

static struct tiles tiles_begin(const struct cpu_run *run, const struct op_attention *op)
{
    const struct state_group *group = &run->program->program->groups[op->group];
    struct tiles t = {.run = run,
                      .op = op,
                      .n_kv_heads = group->n_kv_heads,
                      .heads_per_kv = op->n_heads / group->n_kv_heads};
    if (narrow_prompts(run, op)) {
        /* All pairs share what is made of keys and values; but every thread needs some tiles. */
        uint64_t pairs = (uint64_t)run->step->n_rows * op->n_heads;
        t.narrow_pairs = PAIRS_MOST;
        while (t.narrow_pairs > PAIRS &&
               pairs / t.narrow_pairs < (uint64_t)TILES_PER_THREAD * run->backend->n_threads)
            t.narrow_pairs /= 2;
    }
    return t;
}

static bool tiles_next(struct tiles *t, struct tile *out)
{
    const struct step *step = t->run->step;
    if (t->slice >= step->n_slices)
        return false;
    const struct slice *slice = step_slices(step) + t->slice;
    uint32_t heads_left = t->heads_per_kv - t->head, rows_left = slice->n_rows - t->row;
    bool narrow = t->narrow_pairs && slice->numeric_class == CLASS_PROMPT;
    uint32_t pairs = narrow ? t->narrow_pairs : PAIRS;
    uint32_t heads = t->heads_per_kv < pairs ? t->heads_per_kv : pairs; /* of a tile */
    uint32_t rows = pairs / heads, unused;
    *out = (struct tile){
        .slot = slice->slot,
        .row = slice->first_row + t->row,
        .n_rows = rows < rows_left ? rows : rows_left,
        .kv_head = t->kv_head,
        .head = t->kv_head * t->heads_per_kv + t->head,
        .n_heads = heads < heads_left ? heads : heads_left,
        .narrow = narrow,
    };
    visible(t->run, t->op, out->row, &out->begin, &unused);
    visible(t->run, t->op, out->row + out->n_rows - 1, &unused, &out->end);
    t->head += out->n_heads;
    if (t->head < t->heads_per_kv)
        return true;
    t->head = 0;
    if (++t->kv_head < t->n_kv_heads)
        return true;
    t->kv_head = 0;
    t->row += out->n_rows;
    if (t->row < slice->n_rows)
        return true;
    t->row = 0;
    t->slice++;
    return true;
}

static uint32_t tile_first_block(const struct tile *tile)
{
    return tile->begin / KEY_BLOCK;
}

static uint32_t tile_blocks(const struct tile *tile)
{
    return (tile->end - 1) / KEY_BLOCK - tile_first_block(tile) + 1;
}

static uint32_t tile_pairs(const struct tile *tile)
{
    return tile->n_rows * tile->n_heads;
}

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
                         .tiles = narrow_prompts(w->run, op) ? backend->tiles : NULL,
                         .kv = backend->kv,
                         .wide = float_kernels_format(backend->floats, TENSOR_F32),
                         .layout = &backend->layout.groups[op->group],
                         .k_dim = group->k_head_dim,
                         .v_dim = group->v_head_dim};
    a->q = w->scratch;
    a->scores = a->q + (size_t)PAIRS * a->k_dim;
    a->sums = a->scores + PAIRS * KEY_BLOCK;
    uint32_t pairs = a->tiles ? PAIRS_MOST : PAIRS;
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
        visible(a->run, a->op, row, &a->begin[p], &a->end[p]);
        const float *q = run_row(a->run, a->op->q, row) + (size_t)head * a->k_dim;
        if (tile->narrow)
            a->tiles->round(q, a->k_dim, a->narrow_q + (size_t)p * a->k_dim);
        else
            memcpy(a->q + (size_t)p * a->k_dim, q, a->k_dim * sizeof *a->q);
    }
}

/* Scores of `groups` groups of keys at `keys` for all pairs, into column `at` of the block. */
static void score_groups(const struct attend *a, const struct kv_format *format,
                         const uint8_t *keys, uint32_t groups, uint32_t at, const uint8_t *next)
{
    for (uint32_t p = 0; p < a->n_pairs; p += DIRECT) {
        uint32_t n = a->n_pairs - p < DIRECT ? a->n_pairs - p : DIRECT;
        format->scores(keys, groups, a->k_dim, a->q + (size_t)p * a->k_dim, n,
                       a->scores + (size_t)p * KEY_BLOCK + at, KEY_BLOCK, p == 0 ? next : NULL);
    }
}

static const uint8_t *key_page(const struct attend *a, uint32_t position)
{
    uint32_t per_page = a->layout->tokens_per_page;
    return run_page(a->run, a->tile->slot, a->op->group, position / per_page) +
           layout_k_offset(a->layout, a->op->layer, a->tile->kv_head, position % per_page);
}

static const uint8_t *value_page(const struct attend *a, uint32_t position)
{
    uint32_t per_page = a->layout->tokens_per_page;
    return run_page(a->run, a->tile->slot, a->op->group, position / per_page) +
           layout_v_offset(a->layout, a->op->layer, a->tile->kv_head, position % per_page);
}

static uint32_t block_begin(const struct attend *a, uint32_t block)
{
    return a->tile->begin > block ? a->tile->begin : block;
}

static uint32_t block_end(const struct attend *a, uint32_t block)
{
    return a->tile->end < block + KEY_BLOCK ? a->tile->end : block + KEY_BLOCK;
}

/* The processor's own prefetching stops at the end of a page's run, and nothing is read while weights
 * are made of scores, so kernels ask for what is used some runs later: a block's keys, then its
 * values, then keys of the next block. Only a hint; NULL: nothing. */
static const uint8_t *after_keys(const struct attend *a, uint32_t block, uint32_t at)
{
    uint32_t end = block_end(a, block), position = at + AHEAD * KEY_RUN;
    if (position < end)
        return key_page(a, position);
    position = block_begin(a, block) + (position - end);
    return position < end ? value_page(a, position) : NULL;
}

static const uint8_t *after_values(const struct attend *a, uint32_t block, uint32_t at)
{
    uint32_t end = block_end(a, block), position = at + AHEAD * KEY_RUN;
    if (position < end)
        return value_page(a, position);
    position = (block + KEY_BLOCK + (position - end)) / KEY_GROUP * KEY_GROUP;
    return position < a->tile->end ? key_page(a, position) : NULL;
}

/* Pages that hold less than a key group: gathers one, of the positions that the tile sees. */
static void score_tiny_pages(const struct attend *a, uint32_t group_at, uint32_t block)
{
    uint32_t width = a->layout->tokens_per_page;
    memset(a->keys, 0, (size_t)KEY_GROUP * a->k_dim * sizeof *a->keys);
    for (uint32_t at = group_at; at < group_at + KEY_GROUP && at < a->tile->end; at += width) {
        if (at + width <= a->tile->begin)
            continue;
        a->kv->widen_keys(key_page(a, at), width, a->k_dim, a->tiny);
        for (uint32_t c = 0; c < a->k_dim; c++)
            memcpy(a->keys + (size_t)c * KEY_GROUP + (at - group_at), a->tiny + (size_t)c * width,
                   width * sizeof *a->keys);
    }
    score_groups(a, a->wide, (const uint8_t *)a->keys, 1, group_at - block, NULL);
}

/* Scores of the tile's keys in the block that starts at position `block`. */
static void score_block(const struct attend *a, uint32_t block)
{
    uint32_t per_page = a->layout->tokens_per_page;
    uint32_t at = block_begin(a, block), end = block_end(a, block);
    at -= at % KEY_GROUP;
    if (per_page < KEY_GROUP) {
        for (; at < end; at += KEY_GROUP)
            score_tiny_pages(a, at, block);
        return;
    }
    while (at < end) {
        uint32_t run = per_page - at % per_page;
        run = run < KEY_RUN ? run : KEY_RUN;
        uint32_t groups = (end - at + KEY_GROUP - 1) / KEY_GROUP;
        groups = groups < run / KEY_GROUP ? groups : run / KEY_GROUP;
        const uint8_t *keys = key_page(a, at);
        if (a->n_pairs > DIRECT) {
            for (uint32_t g = 0; g < groups; g++)
                a->kv->widen_keys(keys + (size_t)g * KEY_GROUP * a->layout->k_head_bytes, KEY_GROUP,
                                  a->k_dim, a->keys + (size_t)g * KEY_GROUP * a->k_dim);
            score_groups(a, a->wide, (const uint8_t *)a->keys, groups, at - block, NULL);
        } else {
            score_groups(a, a->kv, keys, groups, at - block, after_keys(a, block, at));
        }
        at += groups * KEY_GROUP;
    }
}

/* Adds values [at, at + n) times weights to the sums of pairs [p, p + count), whose rows may see
 * different parts of them: what all see together, the rest one by one, keys always in order. */
static void mix_pairs(const struct attend *a, const struct kv_format *format, const uint8_t *values,
                      size_t value_bytes, uint32_t at, uint32_t n, uint32_t block, uint32_t p,
                      uint32_t count, const uint8_t *next)
{
    uint32_t low = at, high = at + n;
    for (uint32_t i = p; i < p + count; i++) {
        low = a->begin[i] > low ? a->begin[i] : low;
        high = a->end[i] < high ? a->end[i] : high;
    }
    bool common = low < high;
    if (!common)
        low = high = at + n;
    for (uint32_t i = p; i < p + count; i++) {
        uint32_t from = a->begin[i] > at ? a->begin[i] : at, to = a->end[i] < low ? a->end[i] : low;
        if (from < to)
            format->mix(values + (from - at) * value_bytes, to - from, a->v_dim,
                        a->scores + (size_t)i * KEY_BLOCK + (from - block), KEY_BLOCK, 1,
                        a->sums + (size_t)i * a->v_dim, NULL);
    }
    if (!common)
        return;
    format->mix(values + (low - at) * value_bytes, high - low, a->v_dim,
                a->scores + (size_t)p * KEY_BLOCK + (low - block), KEY_BLOCK, count,
                a->sums + (size_t)p * a->v_dim, next);
    for (uint32_t i = p; i < p + count; i++) {
        uint32_t to = a->end[i] < at + n ? a->end[i] : at + n;
        if (high < to)
            format->mix(values + (high - at) * value_bytes, to - high, a->v_dim,
                        a->scores + (size_t)i * KEY_BLOCK + (high - block), KEY_BLOCK, 1,
                        a->sums + (size_t)i * a->v_dim, NULL);
    }
}

static void mix_block(const struct attend *a, uint32_t block)
{
    uint32_t per_page = a->layout->tokens_per_page;
    uint32_t at = block_begin(a, block), end = block_end(a, block);
    memset(a->sums, 0, (size_t)a->n_pairs * a->v_dim * sizeof *a->sums);
    while (at < end) {
        uint32_t n = per_page - at % per_page;
        n = n < KEY_RUN ? n : KEY_RUN;
        n = n < end - at ? n : end - at;
        const uint8_t *values = value_page(a, at);
        const struct kv_format *format = a->kv;
        size_t bytes = a->layout->v_head_bytes;
        const uint8_t *next = after_values(a, block, at);
        if (a->n_pairs > DIRECT) {
            next = NULL;
            a->kv->widen_values(values, n, a->v_dim, a->values);
            values = (const uint8_t *)a->values;
            format = a->wide;
            bytes = a->v_dim * sizeof *a->values;
        }
        for (uint32_t p = 0; p < a->n_pairs; p += DIRECT)
            mix_pairs(a, format, values, bytes, at, n, block, p,
                      a->n_pairs - p < DIRECT ? a->n_pairs - p : DIRECT, p == 0 ? next : NULL);
        at += n;
    }
}

/* Keys [from, to) of a block that a pair sees; empty: from is not below to. */
struct seen {
    uint32_t from, to;
};

static struct seen pair_sees(const struct attend *a, uint32_t p, uint32_t block)
{
    uint32_t end = a->end[p] < block + KEY_BLOCK ? a->end[p] : block + KEY_BLOCK;
    return (struct seen){.from = a->begin[p] > block ? a->begin[p] - block : 0,
                         .to = end > block ? end - block : 0};
}

/* Of a pair's scores makes weights, and the pair's part; total 0 where it sees nothing. */
static void weigh(struct attend *a, uint32_t p, struct seen seen, float *scores)
{
    a->parts[p] = (struct softmax_part){-INFINITY, 0.0f};
    if (seen.from < seen.to)
        a->parts[p] = a->floats->softmax(scores, seen.from, seen.to, a->op->scale, a->op->softcap);
}

/* ---- one block in bfloat16 --------------------------------------------------------------------- */

#define NARROW_BYTES 2 /* of an element of keys and values */

/* A group of keys as in pages that hold whole ones: in place, else gathered of what the tile sees. */
static const uint8_t *whole_keys(const struct attend *a, uint32_t at)
{
    uint32_t width = a->layout->tokens_per_page;
    if (width >= KEY_GROUP)
        return key_page(a, at);
    uint8_t *to = (uint8_t *)a->keys;
    for (uint32_t t = 0; t < KEY_GROUP; t += width) {
        if (at + t + width <= a->tile->begin || at + t >= a->tile->end)
            continue;
        const uint8_t *from = key_page(a, at + t);
        for (uint32_t c = 0; c < a->k_dim; c++, from += width * NARROW_BYTES)
            memcpy(to + (c * KEY_GROUP + t) * NARROW_BYTES, from, width * NARROW_BYTES);
    }
    return to;
}

/* The same for values, of which rows [first, end) are asked for. */
static const uint8_t *whole_values(const struct attend *a, uint32_t at, uint32_t first,
                                   uint32_t end)
{
    uint32_t width = a->layout->tokens_per_page;
    size_t bytes = a->layout->v_head_bytes;
    if (width >= KEY_GROUP)
        return first < end ? value_page(a, at) : NULL;
    uint8_t *to = (uint8_t *)a->values;
    for (uint32_t t = 0; t < end; t += width)
        if (t + width > first)
            memcpy(to + t * bytes, value_page(a, at + t), width * bytes);
    return to;
}

/* Keys of the block that the tile sees, and of the same groups. */
static void narrow_keys(const struct attend *a, uint32_t block)
{
    uint32_t at = block_begin(a, block) / KEY_GROUP * KEY_GROUP, end = block_end(a, block);
    for (; at < end; at += KEY_GROUP)
        a->tiles->keys(a->kv->type, whole_keys(a, at), a->k_dim,
                       a->narrow_keys + (size_t)(at - block) * a->k_dim);
}

/* Values at positions [begin, end) of the block, and zeros up to whole steps. False: infinities or NaN
 * among them. */
static bool narrow_values(const struct attend *a, uint32_t block, uint32_t begin, uint32_t end)
{
    bool finite = true;
    uint32_t at = begin / TILE_STEP * TILE_STEP;
    for (; at < end || at % TILE_STEP; at += KEY_GROUP) {
        bool some = at < end && at + KEY_GROUP > begin;
        uint32_t first = some && begin > at ? begin - at : 0;
        uint32_t last = !some ? 0 : end - at < KEY_GROUP ? end - at : KEY_GROUP;
        uint16_t *out = a->narrow_values + (size_t)(at - block) / TILE_STEP * TILE_STEP * a->v_dim +
                        at % TILE_STEP / KEY_GROUP * VALUES_HALF;
        finite &= a->tiles->values(a->kv->type, whole_values(a, at, first, last), first, last,
                                   a->v_dim, out);
    }
    return finite;
}

/* Weights of one pair in steps [from, to) of 32 keys. */
static void narrow_weights(const struct attend *a, const float *weights, struct seen seen,
                           struct seen steps, uint16_t *out)
{
    uint32_t first = seen.from / KEY_GROUP * KEY_GROUP;
    uint32_t last = (seen.to + KEY_GROUP - 1) / KEY_GROUP * KEY_GROUP;
    memset(out + steps.from, 0, (steps.to - steps.from) * sizeof *out);
    if (seen.from < seen.to)
        a->tiles->round(weights + first, last - first, out + first);
}

/* Pairs [p, p + n) of at most TILE_PAIRS. finite: all values that the tile sees are. */
static void attend_pairs(struct attend *a, uint32_t block, uint32_t p, uint32_t n, bool finite)
{
    struct seen seen[TILE_PAIRS], all = {KEY_BLOCK, 0};
    for (uint32_t i = 0; i < n; i++) {
        seen[i] = pair_sees(a, p + i, block);
        if (seen[i].from >= seen[i].to)
            continue;
        all.from = seen[i].from < all.from ? seen[i].from : all.from;
        all.to = seen[i].to > all.to ? seen[i].to : all.to;
    }
    if (all.from < all.to) {
        uint32_t first = all.from / KEY_GROUP, last = (all.to + KEY_GROUP - 1) / KEY_GROUP;
        a->tiles->scores(a->narrow_q + (size_t)p * a->k_dim, n, a->k_dim,
                         a->narrow_keys + (size_t)first * KEY_GROUP * a->k_dim, last - first,
                         a->scores + first * KEY_GROUP);
    }
    struct seen steps = {all.from / TILE_STEP * TILE_STEP,
                         (all.to + TILE_STEP - 1) / TILE_STEP * TILE_STEP};
    for (uint32_t i = 0; i < n; i++) {
        float *scores = a->scores + (size_t)i * SCORE_STRIDE;
        weigh(a, p + i, seen[i], scores);
        if (all.from < all.to)
            narrow_weights(a, scores, seen[i], steps, a->narrow_weights + i * WEIGHT_STRIDE);
    }
    if (all.from >= all.to)
        return;
    const uint16_t *values = a->narrow_values + (size_t)steps.from * a->v_dim;
    uint32_t n_steps = (steps.to - steps.from) / TILE_STEP;
    /* A weight of zero does not hide an infinity: then each pair has values of its own. */
    for (uint32_t i = 0; i < n; i += finite ? n : 1) {
        if (!finite) {
            if (seen[i].from >= seen[i].to)
                continue;
            narrow_values(a, block, block + seen[i].from, block + seen[i].to);
            values = a->narrow_values + (size_t)seen[i].from / TILE_STEP * TILE_STEP * a->v_dim;
            steps.from = seen[i].from / TILE_STEP * TILE_STEP;
            n_steps = (seen[i].to + TILE_STEP - 1) / TILE_STEP - seen[i].from / TILE_STEP;
        }
        a->tiles->mix(a->narrow_weights + i * WEIGHT_STRIDE + steps.from, finite ? n : 1, a->v_dim,
                      values, n_steps, a->sums + (size_t)(p + i) * a->v_dim);
    }
}

static void attend_block_narrow(struct attend *a, uint32_t block)
{
    narrow_keys(a, block);
    bool finite = narrow_values(a, block, block_begin(a, block), block_end(a, block));
    for (uint32_t p = 0; p < a->n_pairs; p += TILE_PAIRS)
        attend_pairs(a, block, p, a->n_pairs - p < TILE_PAIRS ? a->n_pairs - p : TILE_PAIRS,
                     finite);
}

/* ---- one block --------------------------------------------------------------------------------- */

/* Parts and sums of every pair in one block; the part of a pair that sees nothing of it has total 0. */
static void attend_block(struct attend *a, uint32_t index)
{
    uint32_t block = index * KEY_BLOCK;
    if (a->tile->narrow) {
        attend_block_narrow(a, block);
        return;
    }
    score_block(a, block);
    for (uint32_t p = 0; p < a->n_pairs; p++)
        weigh(a, p, pair_sees(a, p, block), a->scores + (size_t)p * KEY_BLOCK);
    mix_block(a, block);
}

static struct softmax_part first_part(const struct attend *a, const float *sinks, uint32_t head)
{
    (void)a;
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
        running[p] = first_part(a, sinks, tile->head + p % tile->n_heads);
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

/* ---- tiles by number --------------------------------------------------------------------------- */

/* Walks the list as threads take pieces of it: mostly forwards. Units are tiles, or their blocks. */
struct tile_cursor {
    struct tiles list;
    bool by_block;
    struct tile tile;     /* at hand */
    uint64_t unit, units; /* its first one, and how many; 0 before the first tile */
    size_t pairs;         /* of all blocks of the tiles before it */
};

/* Makes the unit's tile the one at hand; true if it was not. */
static bool cursor_seek(struct tile_cursor *c, uint64_t unit)
{
    bool moved = false;
    if (unit < c->unit)
        *c = (struct tile_cursor){.list = tiles_begin(c->list.run, c->list.op),
                                  .by_block = c->by_block};
    while (unit >= c->unit + c->units) {
        c->unit += c->units;
        if (c->units)
            c->pairs += (size_t)tile_blocks(&c->tile) * tile_pairs(&c->tile);
        if (!tiles_next(&c->list, &c->tile))
            return moved; /* there is no such unit */
        c->units = c->by_block ? tile_blocks(&c->tile) : 1;
        moved = true;
    }
    return moved;
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
    struct softmax_part running = first_part(a, sinks, tile->head + p % tile->n_heads);
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
    struct tile_cursor c = {.list = tiles_begin(w->run, a->op), .by_block = true};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t unit = piece.begin; unit < piece.end; unit++) {
            if (cursor_seek(&c, unit))
                attend_tile(a, &c.tile);
            uint32_t b = (uint32_t)(unit - c.unit);
            attend_block(a, tile_first_block(&c.tile) + b);
            store_parts(a, parts + (c.pairs + (size_t)b * tile_pairs(&c.tile)) * part_words(a));
        }
    worker_barrier(w);
    struct tile tile;
    uint64_t pair = 0;
    size_t before = 0; /* parts */
    for (struct tiles t = tiles_begin(w->run, a->op); tiles_next(&t, &tile);) {
        for (uint32_t p = 0; p < tile_pairs(&tile); p++, pair++)
            if (pair % w->count == w->index)
                merge_parts(a, &tile, parts + before * part_words(a), p, sinks);
        before += (size_t)tile_blocks(&tile) * tile_pairs(&tile);
    }
}

/* ---- the operation ----------------------------------------------------------------------------- */

#define TILES_ENOUGH 16 /* per thread: with fewer, long tiles would end at different times */
#define BLOCKS_LONG  4  /* of a long tile */

/* Tiles of an operation, and what they come to. */
struct tile_sums {
    uint64_t tiles, blocks, columns; /* columns: pairs times keys */
    size_t pairs;                    /* of all blocks */
};

static struct tile_sums sum_tiles(const struct cpu_run *run, const struct op_attention *op)
{
    struct tile_sums s = {0};
    struct tile tile;
    for (struct tiles t = tiles_begin(run, op); tiles_next(&t, &tile); s.tiles++) {
        s.blocks += tile_blocks(&tile);
        s.columns += (uint64_t)tile_pairs(&tile) * (tile.end - tile.begin);
        s.pairs += (size_t)tile_blocks(&tile) * tile_pairs(&tile);
    }
    return s;
}

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
    struct tile_cursor c = {.list = tiles_begin(w->run, op)};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t unit = piece.begin; unit < piece.end; unit++) {
            cursor_seek(&c, unit);
            attend_whole_tile(&a, &c.tile, sinks);
        }
}
