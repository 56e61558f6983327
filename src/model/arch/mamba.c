/*
 * Models of state space mixers: mamba2 (nothing else), nemotron-h (each layer is one mixer, one FFN
 * with squared ReLU, or attention without rope).
 */
#include <string.h>

#include "model/mamba.h"

/* ---- mamba2 ------------------------------------------------------------------------------------ */

static void build_mamba2_model(struct build *b)
{
    build_hyper(b);
    if (!b->gguf)
        b->h.norm_eps = (float)build_f64(b, NULL, "layer_norm_epsilon", 1e-5);
    struct mamba m = {0};
    if (!mamba_plan(b, &m, false))
        return;
    build_embedding(b, 1.0f);
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        struct layer_states states = mamba_states(b, &m);
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_mamba2(b, &m, i, &states, normed, x, x);
    }
    build_head(b, &(struct head_options){0});
}

static const struct hf_name mamba2_names[] = {
    {"token_embd", "embeddings"},
    {"output_norm", "norm_f"},
    {"attn_norm", "norm"},
    MIXER_NAMES("mixer"),
    {NULL, NULL},
};
static const char *const mamba2_keys[] = {"mamba2", NULL};
const struct architecture arch_mamba2 = {"mamba2", mamba2_keys, mamba2_keys, mamba2_names,
                                         build_mamba2_model};

/* ---- nemotron-h -------------------------------------------------------------------------------- */

static void build_nemotron_h(struct build *b)
{
    build_hyper(b);
    if (!b->gguf)
        b->h.norm_eps = (float)build_f64(b, NULL, "layer_norm_epsilon", 1e-5);
    b->h.act = ACT_RELU2;
    struct mamba m = {0};
    if (!mamba_plan(b, &m, false))
        return;
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool attends = build_exists(b, (int)i, "attn_q");
        b->h.layers[i].kind = attends ? LAYER_ATTENTION : LAYER_OTHER;
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            program_fail(b->program, STATUS_UNSUPPORTED,
                         "layer %u: nemotron-h with experts is not supported yet", i);
        /* GGUF lists heads and widths by layer, with zeros elsewhere. */
        uint32_t ff = build_item_u32(b, "feed_forward_length", NULL, i, 0);
        b->h.n_ff = ff > b->h.n_ff ? ff : b->h.n_ff;
    }
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    const struct attention_options attention = {0};
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        if (build_exists(b, (int)i, "ssm_in")) {
            struct layer_states states = mamba_states(b, &m);
            build_mamba2(b, &m, i, &states, normed, x, x);
        } else if (b->h.layers[i].kind == LAYER_ATTENTION) {
            build_attention(b, i, normed, x, x, &attention);
        } else {
            build_ffn(b, i, normed, x, x);
        }
    }
    build_head(b, &(struct head_options){0});
}

static const struct hf_name nemotron_names[] = {
    {"token_embd", "embeddings"},    {"output_norm", "norm_f"},   {"attn_norm", "norm"},
    {"attn_q", "mixer.q_proj"},      {"attn_k", "mixer.k_proj"},  {"attn_v", "mixer.v_proj"},
    {"attn_output", "mixer.o_proj"}, {"ffn_up", "mixer.up_proj"}, {"ffn_down", "mixer.down_proj"},
    {"ffn_gate_inp", "mixer.gate"},  MIXER_NAMES("mixer"),        {NULL, NULL},
};
static const char *const nemotron_h_names[] = {"nemotron_h", NULL};
const struct architecture arch_nemotron_h = {"nemotron-h", nemotron_h_names, nemotron_h_names,
                                             nemotron_names, build_nemotron_h};
