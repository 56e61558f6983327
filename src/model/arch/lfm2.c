/*
 * lfm2: layers are either attention (norms on q and k heads) or a gated short convolution, each
 * followed by a gated FFN, or from some layer on by experts (lfm2-moe: sigmoid scores with a bias for
 * choosing). The convolution: in_proj gives B, C and x; y = C * conv(B * x); out_proj.
 *
 * GGUF marks a convolution layer by zero key/value heads; HF by layer_types or full_attn_idxs.
 */
#include <string.h>

#include "model/build.h"

static bool is_conv(struct build *b, uint32_t layer)
{
    if (b->gguf)
        return b->h.layers[layer].n_kv_heads == 0;
    struct str type = build_hf_str(b, "layer_types", layer);
    if (type.len)
        return str_eq_cstr(type, "conv");
    const json_t *indexes = json_object_get(b->config, "full_attn_idxs");
    for (size_t i = 0; i < json_array_size(indexes); i++)
        if (json_integer_value(json_array_get(indexes, i)) == (json_int_t)layer)
            return false;
    return true;
}

static void build_conv(struct build *b, uint32_t index, struct view in, struct view x,
                       int32_t buffer, uint32_t taps)
{
    const struct layer *layer = &b->h.layers[index];
    uint32_t width = b->h.width;
    int l = (int)index;
    struct view all = program_view(b->program, buffer);
    struct view gate_b = view_columns(all, 0, width), gate_c = view_columns(all, width, width);
    struct view value = view_columns(all, 2 * width, width);
    build_linear(b, l, "shortconv.in_proj", in, all, VIEW_NONE);
    struct op before = {.kind = OP_MUL, .u.mul = {.a = gate_b, .b = value, .out = value}};
    program_emit(b->program, &before, "%d.conv_in", l);
    struct op conv = {.kind = OP_CONV,
                      .u.conv = {.in = value,
                                 .out = gate_b,
                                 .weight = build_weight(b, l, "shortconv.conv", width, taps),
                                 .bias = build_bias(b, l, "shortconv.conv", width),
                                 .taps = taps,
                                 .group = layer->group,
                                 .layer = layer->group_layer}};
    program_emit(b->program, &conv, "%d.conv", l);
    struct op after = {.kind = OP_MUL, .u.mul = {.a = gate_c, .b = gate_b, .out = value}};
    program_emit(b->program, &after, "%d.conv_out", l);
    build_linear(b, l, "shortconv.out_proj", value, x, x);
}

/* The first attention layer's heads: HF lists none for convolutions, GGUF has zeros there. */
static void fix_head_dim(struct build *b)
{
    for (uint32_t i = 0; b->gguf && i < b->h.n_layers; i++)
        if (b->h.layers[i].kind == LAYER_ATTENTION && b->h.layers[i].n_heads &&
            !build_has(b, "attention.key_length", NULL)) {
            b->h.head_dim = b->h.v_head_dim = b->h.width / b->h.layers[i].n_heads;
            b->h.rope_dims = b->h.head_dim;
            return;
        }
}

static void build_lfm2(struct build *b)
{
    build_hyper(b);
    if (!b->gguf)
        b->h.norm_eps = (float)build_f64(b, NULL, "norm_eps", 1e-5);
    b->rope_style = ROPE_HALVES;
    uint32_t taps = build_need_u32(b, "shortconv.l_cache", "conv_L_cache");
    if (taps < 2 || taps > 64)
        program_fail(b->program, STATUS_MODEL, "convolution over %u tokens, expected 2 to 64",
                     taps);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].kind = is_conv(b, i) ? LAYER_CONV : LAYER_ATTENTION;
    fix_head_dim(b);
    /* HF configs may give the width before it is rounded; the tensors know. */
    const struct tensor *gate = build_find(b, 0, "ffn_gate", "weight");
    if (gate && gate->n_dims == 2 && gate->dims[0] <= 1u << 24)
        b->h.n_ff = (uint32_t)gate->dims[0];
    int32_t freqs = build_rope(b, NULL, 1000000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    build_groups(b, (taps - 1) * b->h.width);
    build_embedding(b, 1.0f);
    struct view x = build_x(b), normed = build_normed(b);
    int32_t bcx = program_buffer(b->program, "bcx", 3 * b->h.width, ROWS_STEP);
    const struct attention_options attention = {.head_norms = true};
    const struct moe_options moe = {
        .score = ROUTE_SIGMOID,
        .normalise = build_bool(b, "expert_weights_norm", "norm_topk_prob", true),
        .added_sum = 1e-6f,
        .scale = (float)build_f64(b, "expert_weights_scale", "routed_scaling_factor", 1.0)};
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        if (b->h.layers[i].kind == LAYER_CONV)
            build_conv(b, i, normed, x, bcx, taps);
        else
            build_attention(b, i, normed, x, x, &attention);
        build_norm(b, (int)i, "ffn_norm", x, normed, x.width, 0.0f);
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            build_moe(b, i, normed, x, x, &moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    build_head(b, &(struct head_options){.norm_role = "token_embd_norm"});
}

static const struct hf_name names[] = {
    {"token_embd_norm", "embedding_norm"},
    {"attn_norm", "operator_norm"},
    {"ffn_norm", "ffn_norm"},
    {"attn_output", "self_attn.out_proj"},
    {"attn_q_norm", "self_attn.q_layernorm"},
    {"attn_k_norm", "self_attn.k_layernorm"},
    {"ffn_gate", "feed_forward.w1"},
    {"ffn_down", "feed_forward.w2"},
    {"ffn_up", "feed_forward.w3"},
    {"ffn_gate_inp", "feed_forward.gate"},
    {"ffn_gate_exps", "feed_forward.experts.%u.w1"},
    {"ffn_down_exps", "feed_forward.experts.%u.w2"},
    {"ffn_up_exps", "feed_forward.experts.%u.w3"},
    {"ffn_gate_up_exps", "feed_forward.experts.gate_up_proj"},
    {"exp_probs_b", "feed_forward.expert_bias"},
    {"shortconv.in_proj", "conv.in_proj"},
    {"shortconv.conv", "conv.conv"},
    {"shortconv.out_proj", "conv.out_proj"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"lfm2", "lfm2moe", NULL};
static const char *const hf_names[] = {"lfm2", "lfm2_moe", NULL};
const struct architecture arch_lfm2 = {"lfm2", gguf_names, hf_names, names, build_lfm2};
