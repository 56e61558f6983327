/*
 * qwen3-next, qwen3.5 and their mixtures of experts: three layers of four are a gated delta net
 * (delta_net.h), the fourth is attention whose result is gated by half of the query projection; a
 * quarter of each head turns.
 *
 * Norm weights are stored as w with (1 + w) meant, but for the net's own; GGUF files have the 1 added,
 * and so have folders of mlx-lm, which show by their convolutions: [channels, taps, 1].
 */
#include "model/delta_net.h"

struct qwen_next {
    struct delta_net net;
    float offset; /* of norm weights */
    int32_t qg, q, k, v, gate, attn;
};

static bool is_delta(struct build *b, uint32_t layer)
{
    return build_exists(b, (int)layer, "ssm_out");
}

static void attention_buffers(struct build *b, struct qwen_next *n)
{
    struct program *p = b->program;
    const struct layer *layer = NULL;
    for (uint32_t i = 0; i < b->h.n_layers && !layer; i++)
        layer = is_delta(b, i) ? NULL : &b->h.layers[i];
    if (!layer)
        return;
    uint32_t q = layer->n_heads * b->h.head_dim, kv = layer->n_kv_heads * b->h.head_dim;
    n->qg = program_buffer(p, "q_gate", 2 * q, ROWS_STEP);
    n->q = program_buffer(p, "q", q, ROWS_STEP);
    n->gate = program_buffer(p, "attn_gate", q, ROWS_STEP);
    n->attn = program_buffer(p, "attn", q, ROWS_STEP);
    n->k = program_buffer(p, "k", kv, ROWS_STEP);
    n->v = program_buffer(p, "v", kv, ROWS_STEP);
}

static void build_gated_attention(struct build *b, const struct qwen_next *n, uint32_t index,
                                  struct view in, struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t heads = b->h.layers[index].n_heads;
    struct view qg = program_view(p, n->qg), q = program_view(p, n->q);
    struct view k = program_view(p, n->k), v = program_view(p, n->v);
    struct view gate = program_view(p, n->gate), attn = program_view(p, n->attn);
    build_linear(b, l, "attn_q", in, qg, VIEW_NONE);
    build_take(b, l, "q", qg, heads, 0, q);
    build_take(b, l, "q_gate", qg, heads, b->h.head_dim, gate);
    build_linear(b, l, "attn_k", in, k, VIEW_NONE);
    build_linear(b, l, "attn_v", in, v, VIEW_NONE);
    build_attention_core(
        b, index, q, k, v, attn,
        &(struct attention_options){.head_norms = true, .weight_offset = n->offset});
    struct op op = {.kind = OP_MUL,
                    .u.mul = {.a = gate, .b = attn, .out = attn, .act = ACT_SIGMOID}};
    program_emit(p, &op, "%d.attn_gate", l);
    build_linear(b, l, "attn_output", attn, x, x);
}

static bool adds_one(struct build *b)
{
    for (uint32_t i = 0; !b->gguf && i < b->h.n_layers; i++) {
        const struct tensor *conv = build_find(b, (int)i, "ssm_conv1d", "weight");
        if (conv)
            return conv->n_dims != 3 || conv->dims[2] != 1;
    }
    return !b->gguf;
}

static void build_qwen_next(struct build *b, bool tiled)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    struct qwen_next n = {.net.tiled = b->gguf && tiled, .offset = adds_one(b) ? 1.0f : 0.0f};
    if (!delta_net_plan(b, &n.net))
        return;
    int32_t freqs = build_rope(b, NULL, 10000000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].kind = is_delta(b, i) ? LAYER_OTHER : LAYER_ATTENTION;
        b->h.layers[i].freqs = freqs;
    }
    build_groups(b, 0);
    attention_buffers(b, &n);
    build_embedding(b, 1.0f);
    const struct moe_options moe = {.score = ROUTE_SOFTMAX,
                                    .normalise = build_bool(b, NULL, "norm_topk_prob", true),
                                    .shared_ff = build_u32(b, "expert_shared_feed_forward_length",
                                                           "shared_expert_intermediate_size", 0)};
    const char *second = b->gguf ? "post_attention_norm" : "ffn_norm";
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, n.offset);
        if (is_delta(b, i))
            build_delta_net(b, &n.net, i, normed, x);
        else
            build_gated_attention(b, &n, i, normed, x);
        build_norm(b, (int)i, second, x, normed, x.width, n.offset);
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            build_moe(b, i, normed, x, x, &moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    build_head(b, &(struct head_options){.weight_offset = n.offset});
}

static void build_qwen3_next(struct build *b)
{
    build_qwen_next(b, false);
}

static void build_qwen3_5(struct build *b)
{
    build_qwen_next(b, true);
}

static const struct hf_name names[] = {
    {"ssm_in", "linear_attn.in_proj_qkvz"},
    {"ssm_ba", "linear_attn.in_proj_ba"},
    {"attn_qkv", "linear_attn.in_proj_qkv"},
    {"attn_gate", "linear_attn.in_proj_z"},
    {"ssm_alpha", "linear_attn.in_proj_a"},
    {"ssm_beta", "linear_attn.in_proj_b"},
    {"ssm_conv1d", "linear_attn.conv1d"},
    {"ssm_a", "linear_attn.A_log"},
    {"ssm_dt", "linear_attn.dt"},
    {"ssm_norm", "linear_attn.norm"},
    {"ssm_out", "linear_attn.out_proj"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
    {NULL, NULL},
};
static const char *const next_gguf[] = {"qwen3next", NULL};
static const char *const next_hf[] = {"qwen3_next", NULL};
const struct architecture arch_qwen3_next = {"qwen3-next", next_gguf, next_hf, names,
                                             build_qwen3_next};
static const char *const qwen3_5_gguf[] = {"qwen35", "qwen35moe", NULL};
static const char *const qwen3_5_hf[] = {"qwen3_5_text", "qwen3_5", "qwen3_5_moe_text",
                                         "qwen3_5_moe", NULL};
const struct architecture arch_qwen3_5 = {"qwen3.5", qwen3_5_gguf, qwen3_5_hf, names,
                                          build_qwen3_5};
