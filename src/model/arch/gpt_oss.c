/*
 * gpt-oss: every second layer sees a window; attention has sinks and biases; experts with biases
 * and a clamped SwiGLU, chosen by a router with a bias whose softmax is over the chosen only; YaRN.
 *
 * In Hugging Face folders with plain weights, an expert's inputs lie along the rows and gate and up
 * alternate; as published they are MXFP4, outputs along the rows; mlx-lm has gate and up apart. GGUF has
 * the usual stacks, calls the second norm post_attention_norm, and does not say that YaRN's ramp is
 * not rounded.
 */
#include "model/build.h"

static bool sees_window(struct build *b, uint32_t layer)
{
    struct str type = build_hf_str(b, "layer_types", layer);
    return type.len ? str_eq_cstr(type, "sliding_attention") : layer % 2 == 0;
}

static void build_gpt_oss(struct build *b)
{
    build_hyper(b);
    b->h.act = ACT_CLAMPED_SWIGLU;
    b->rope_style = ROPE_HALVES;
    b->yarn_exact = true;
    double limit = build_f64(b, NULL, "swiglu_limit", 7.0);
    if (limit != 7.0)
        program_fail(b->program, STATUS_UNSUPPORTED, "config.json: swiglu_limit is %g, known is 7",
                     limit);
    uint32_t window = build_need_u32(b, "attention.sliding_window", "sliding_window");
    int32_t freqs = build_rope(b, NULL, 150000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = sees_window(b, i) ? window : 0;
    }
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    bool both = !b->gguf && build_exists(b, 0, "ffn_gate_up_exps"); /* mlx-lm has them apart */
    const struct attention_options attention = {0};
    const struct moe_options moe = {.score = ROUTE_SOFTMAX, .normalise = true, .columns = both};
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_attention(b, i, normed, x, x, &attention);
        build_norm(b, (int)i, "post_attention_norm", x, normed, x.width, 0.0f);
        build_moe(b, i, normed, x, x, &moe);
    }
    build_head(b, &(struct head_options){0});
}

static const struct hf_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_sinks", "self_attn.sinks"},
    {"ffn_gate_inp", "mlp.router"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"gpt-oss", NULL};
static const char *const hf_names[] = {"gpt_oss", NULL};
const struct architecture arch_gpt_oss = {"gpt-oss", gguf_names, hf_names, names, build_gpt_oss};
