/*
 * The gated delta net of Qwen3-Next and Qwen3.5: projections q, k, v, z, beta and decay, a causal
 * convolution over q, k, v, the delta rule, a norm of each head, a gate by z. Internal to model/.
 *
 * Checkpoints interleave the projections by key head ("ssm_in" [q k v z], "ssm_ba" [beta decay]) or
 * keep them apart ("attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha"); GGUF files of Qwen3.5 order
 * value heads so that head h has key head h % n.
 */
#ifndef SLUICE_MODEL_DELTA_NET_H
#define SLUICE_MODEL_DELTA_NET_H

#include "model/mamba.h"

struct delta_net {
    uint32_t heads, key_heads, k_dim, v_dim, taps;
    bool tiled;
    int32_t mixed, qkv, z, convolved, ba, beta, decay, y; /* buffers */
};

/* Reads the sizes and makes the buffers; false after an error. */
bool delta_net_plan(struct build *b, struct delta_net *n);
/* in -> mixer -> x += its output. */
void build_delta_net(struct build *b, const struct delta_net *n, uint32_t layer, struct view in,
                     struct view x);

#endif
