/*
 * A block of keys for a tile's pairs, in float32. Pages are read in place: a run of keys or values is
 * used as it lies by up to DIRECT pairs, or, for more, widened to float32 once into the thread's scratch.
 */
#include <string.h>

#include "backend/cpu/attention_block.h"

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

/* The processor's own prefetching stops at the end of a page's run, and nothing is read while weights
 * are made of scores, so kernels ask for what is used one run later: a block's keys, then its
 * values, then keys of the next block. Only a hint; NULL: nothing. */
static const uint8_t *after_keys(const struct attend *a, uint32_t block, uint32_t at)
{
    uint32_t end = block_end(a, block), position = at + KEY_RUN;
    if (position < end)
        return key_page(a, position);
    position = block_begin(a, block) + (position - end);
    return position < end ? value_page(a, position) : NULL;
}

static const uint8_t *after_values(const struct attend *a, uint32_t block, uint32_t at)
{
    uint32_t end = block_end(a, block), position = at + KEY_RUN;
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

void attend_block_float(struct attend *a, uint32_t block)
{
    score_block(a, block);
    for (uint32_t p = 0; p < a->n_pairs; p++)
        weigh(a, p, pair_sees(a, p, block), a->scores + (size_t)p * KEY_BLOCK);
    mix_block(a, block);
}
