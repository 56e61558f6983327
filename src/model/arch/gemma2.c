/*
 * gemma2: norms before and after both halves, soft caps on scores and logits, embeddings scaled by
 * sqrt(width), GELU gate; every second layer sees a window only.
 *
 * Norm weights are stored as w with (1 + w) meant; GGUF files have the 1 added already.
 */
#include <math.h>

#include "model/build.h"

static void build_gemma2(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    uint32_t window = build_need_u32(b, "attention.sliding_window", "sliding_window");
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = build_is_local(b, i, 2) ? window : 0;
    }
    float offset = b->gguf ? 0.0f : 1.0f;
    double scalar = build_f64(b, NULL, "query_pre_attn_scalar", b->h.head_dim);
    /* The 27B model is the one that scales by width / heads; its GGUF does not say so. */
    if (b->gguf && b->h.n_layers == 46)
        scalar = (double)b->h.width / b->h.layers[0].n_heads;
    build_decoder(b, &(struct decoder_options){
                         .shape = SHAPE_SANDWICH,
                         .weight_offset = offset,
                         .embedding_scale = sqrtf((float)b->h.width),
                         .attention = {.scale = (float)(1.0 / sqrt(scalar)),
                                       .softcap = (float)build_f64(b, "attn_logit_softcapping",
                                                                   "attn_logit_softcapping", 0.0)},
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
static const char *const arch_names[] = {"gemma2", NULL};
const struct architecture arch_gemma2 = {"gemma2", arch_names, arch_names, names, build_gemma2};
