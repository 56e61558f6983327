/*
 * A block of keys for a tile's pairs, in bfloat16: keys and values that the tile sees are rearranged
 * once for all pairs, then every TILE_PAIRS of them multiply (tile_attention.h). Softmax between
 * the two products is that of float32.
 */
#include <string.h>

#include "backend/cpu/attention_block.h"

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
        a->narrow->keys(a->kv->type, whole_keys(a, at), a->k_dim,
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
        finite &= a->narrow->values(a->kv->type, whole_values(a, at, first, last), first, last,
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
        a->narrow->round(weights + first, last - first, out + first);
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
        a->narrow->scores(a->narrow_q + (size_t)p * a->k_dim, n, a->k_dim,
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
        a->narrow->mix(a->narrow_weights + i * WEIGHT_STRIDE + steps.from, finite ? n : 1, a->v_dim,
                       values, n_steps, a->sums + (size_t)(p + i) * a->v_dim);
    }
}

void attend_block_narrow(struct attend *a, uint32_t block)
{
    narrow_keys(a, block);
    bool finite = narrow_values(a, block, block_begin(a, block), block_end(a, block));
    for (uint32_t p = 0; p < a->n_pairs; p += TILE_PAIRS)
        attend_pairs(a, block, p, a->n_pairs - p < TILE_PAIRS ? a->n_pairs - p : TILE_PAIRS,
                     finite);
}
