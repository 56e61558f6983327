/*
 * What gemma3n and gemma4 share: layers that see a window and layers that see everything, with heads
 * of their own widths and rope; a norm without weights on v; scores not scaled; last layers that read
 * the keys and values of an earlier one. Internal to model/.
 */
#ifndef SLUICE_MODEL_SMALL_GEMMA_H
#define SLUICE_MODEL_SMALL_GEMMA_H

#include "model/build.h"

struct small_gemma {
    uint32_t shared_from;               /* layers from here on read another's keys and values */
    uint32_t head_dims[2], kv_heads[2]; /* [sees a window] */
    int32_t freqs[2];
    bool k_is_v;           /* in layers that see everything and have no "attn_v" */
    int32_t q, k, v, attn; /* buffers */
};

/* Reads hyperparameters, fills the build's layers and makes the groups. */
void small_gemma_plan(struct build *b, struct small_gemma *g);
/* Projections of `in`, norms, rope, attention -> out. */
void small_gemma_attention(struct build *b, const struct small_gemma *g, uint32_t layer,
                           struct view in, struct view out);

#endif
