/*
 * gemma3: norms before and after both halves of a layer, norms on q and k heads, embeddings scaled
 * by sqrt(width), GELU gate; five layers with a sliding window and a rope base of their own, then
 * one that sees everything.
 *
 * Norm weights are stored as w with (1 + w) meant; GGUF files have the 1 added already.
 */
#include <math.h>

#include "model/build.h"

#define PATTERN_DEFAULT 6 /* every sixth layer is global; GGUF does not say */

static void plan_layers(struct build *b)
{
    uint32_t window = build_need_u32(b, "attention.sliding_window", "sliding_window");
    int32_t global = build_rope(b, "full_attention", 1000000.0),
            local = build_rope_local(b, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool is = build_is_local(b, i, PATTERN_DEFAULT);
        b->h.layers[i].freqs = is ? local : global;
        b->h.layers[i].window = is ? window : 0;
    }
}

static void build_gemma3(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    plan_layers(b);
    float offset = b->gguf ? 0.0f : 1.0f;
    double scalar = build_f64(b, NULL, "query_pre_attn_scalar", b->h.head_dim);
    /* The 27B model is the one that scales by width / heads; its GGUF does not say so either. */
    if (b->gguf && b->h.n_layers == 62)
        scalar = (double)b->h.width / b->h.layers[0].n_heads;
    build_decoder(b, &(struct decoder_options){
                         .shape = SHAPE_SANDWICH,
                         .weight_offset = offset,
                         .embedding_scale = sqrtf((float)b->h.width),
                         .attention = {.scale = (float)(1.0 / sqrt(scalar)),
                                       .head_norms = true,
                                       .weight_offset = offset},
                         .head = {.weight_offset = offset,
                                  .softcap = (float)build_f64(b, "final_logit_softcapping",
                                                              "final_logit_softcapping", 0.0)}});
}

static const struct hf_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"gemma3", NULL};
static const char *const hf_names[] = {"gemma3_text", "gemma3", NULL};
const struct architecture arch_gemma3 = {"gemma3", gguf_names, hf_names, names, build_gemma3};
