/*
 * gemma4: a sandwich of norms with plain weights, a slice of a second embedding added to each layer, a
 * factor on each layer's result; attention as in small_gemma.h.
 */
#include <math.h>

#include "model/layer_inputs.h"
#include "model/small_gemma.h"

struct gemma4 {
    struct small_gemma attention;
    struct layer_inputs inputs;
};

static void build_layer(struct build *b, const struct gemma4 *g, uint32_t index, uint32_t ff)
{
    int l = (int)index;
    struct view x = build_x(b), normed = build_normed(b);
    struct op add = {.kind = OP_ADD, .u.add = {.a = x, .b = normed, .out = x, .scale = 1.0f}};
    build_norm(b, l, "attn_norm", x, normed, x.width, 0.0f);
    small_gemma_attention(b, &g->attention, index, normed, normed);
    build_norm(b, l, "post_attention_norm", normed, normed, x.width, 0.0f);
    program_emit(b->program, &add, "%d.attn_add", l);
    build_norm(b, l, "ffn_norm", x, normed, x.width, 0.0f);
    if (b->gguf)
        b->h.n_ff = build_item_u32(b, "feed_forward_length", NULL, index, ff);
    else if (index >= g->attention.shared_from)
        b->h.n_ff = ff;
    build_ffn(b, index, normed, normed, VIEW_NONE);
    build_norm(b, l, "post_ffw_norm", normed, normed, x.width, 0.0f);
    program_emit(b->program, &add, "%d.ffn_add", l);
    if (g->inputs.each) {
        add.u.add.b = build_layer_input(b, &g->inputs, index, x);
        program_emit(b->program, &add, "%d.layer_add", l);
    }
    if (build_exists(b, l, "layer_output_scale"))
        build_scale(b, "layer_scale", x, build_read(b, l, "layer_output_scale", "weight", 1), 1);
}

static void build_gemma4(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    if (build_bool(b, NULL, "enable_moe_block", false) || b->h.n_experts) {
        program_fail(b->program, STATUS_UNSUPPORTED, "gemma4 with experts is not supported yet");
        return;
    }
    struct gemma4 g = {.attention.k_is_v = build_bool(b, NULL, "attention_k_eq_v", b->gguf)};
    small_gemma_plan(b, &g.attention);
    build_embedding(b, sqrtf((float)b->h.width));
    g.inputs.each =
        build_u32(b, "embedding_length_per_layer_input", "hidden_size_per_layer_input", 0);
    if (g.inputs.each)
        build_layer_inputs(b, &g.inputs);
    /* Layers that share keys may have a wider FFN instead. */
    bool wide = build_bool(b, NULL, "use_double_wide_mlp", false);
    uint32_t ff = wide ? 2 * b->h.n_ff : b->h.n_ff;
    for (uint32_t i = 0; b->gguf && i < b->h.n_layers; i++) {
        uint32_t own = build_item_u32(b, "feed_forward_length", NULL, i, ff);
        ff = own > ff ? own : ff;
    }
    b->ff = program_buffer(b->program, "ff", ff, ROWS_STEP);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        build_layer(b, &g, i, ff);
    build_head(b,
               &(struct head_options){.softcap = (float)build_f64(b, "final_logit_softcapping",
                                                                  "final_logit_softcapping", 0.0)});
}

static const struct hf_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"layer_output_scale", "layer_scalar"},
    {"per_layer_token_embd", "embed_tokens_per_layer"},
    {"per_layer_model_proj", "per_layer_model_projection"},
    {"per_layer_proj_norm", "per_layer_projection_norm"},
    {"inp_gate", "per_layer_input_gate"},
    {"proj", "per_layer_projection"},
    {"post_norm", "post_per_layer_input_norm"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"gemma4", NULL};
static const char *const hf_keys[] = {"gemma4_text", "gemma4", NULL};
const struct architecture arch_gemma4 = {"gemma4", gguf_names, hf_keys, names, build_gemma4};
