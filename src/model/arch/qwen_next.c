/*
 * qwen3-next, qwen3.5 and their mixtures of experts: three layers of four are a gated delta net
 * (convolution, delta rule, gated norm), the fourth is attention whose result is gated by half of the
 * query projection; a quarter of each head turns.
 *
 * Norm weights are stored as w with (1 + w) meant, but for the gated norm; GGUF files have the 1 added.
 * qwen3-next interleaves the projections q, k, v, z (and beta, decay) by key head, qwen3.5 keeps them
 * apart. GGUF files of qwen3.5 order value heads so that head h has key head h % n.
 */
#include "model/mamba.h"

struct net {
    uint32_t heads, key_heads, k_dim, v_dim, taps;
    bool interleaved, tiled;
    float offset;                                         /* of norm weights */
    int32_t mixed, qkv, z, convolved, ba, beta, decay, y; /* buffers of delta layers */
    int32_t qg, q, k, v, gate, attn;                      /* of attention layers */
};

static bool is_delta(struct build *b, uint32_t layer)
{
    return build_exists(b, (int)layer, "ssm_out");
}

static bool read_net(struct build *b, struct net *n)
{
    n->heads = build_need_u32(b, "ssm.time_step_rank", "linear_num_value_heads");
    n->key_heads = build_need_u32(b, "ssm.group_count", "linear_num_key_heads");
    n->k_dim = build_need_u32(b, "ssm.state_size", "linear_key_head_dim");
    n->taps = build_need_u32(b, "ssm.conv_kernel", "linear_conv_kernel_dim");
    if (b->gguf) {
        uint32_t inner = build_need_u32(b, "ssm.inner_size", NULL);
        n->v_dim = n->heads ? inner / n->heads : 0;
    } else {
        n->v_dim = build_need_u32(b, NULL, "linear_value_head_dim");
    }
    n->offset = b->gguf ? 0.0f : 1.0f;
    if (n->heads && n->key_heads && n->heads % n->key_heads == 0 && n->heads <= 1u << 12 &&
        n->k_dim && n->k_dim <= 1u << 12 && n->v_dim && n->v_dim <= 1u << 12 && n->taps >= 2 &&
        n->taps <= 64)
        return true;
    program_fail(b->program, STATUS_MODEL, "delta net: %u/%u heads of %u+%u, %u taps", n->heads,
                 n->key_heads, n->k_dim, n->v_dim, n->taps);
    return false;
}

static void make_buffers(struct build *b, struct net *n)
{
    struct program *p = b->program;
    uint32_t inner = n->heads * n->v_dim, conv = 2 * n->key_heads * n->k_dim + inner;
    n->qkv = program_buffer(p, "delta_qkv", conv, ROWS_STEP);
    n->convolved = program_buffer(p, "convolved", conv, ROWS_STEP);
    n->z = program_buffer(p, "delta_z", inner, ROWS_STEP);
    n->beta = program_buffer(p, "beta", n->heads, ROWS_STEP);
    n->decay = program_buffer(p, "decay", n->heads, ROWS_STEP);
    n->y = program_buffer(p, "delta_out", inner, ROWS_STEP);
    if (n->interleaved) {
        n->mixed = program_buffer(p, "delta_in", conv + inner, ROWS_STEP);
        n->ba = program_buffer(p, "delta_ba", 2 * n->heads, ROWS_STEP);
    }
    const struct layer *layer = NULL;
    for (uint32_t i = 0; i < b->h.n_layers && !layer; i++)
        layer = is_delta(b, i) ? NULL : &b->h.layers[i];
    uint32_t q = layer ? layer->n_heads * b->h.head_dim : 1;
    n->qg = program_buffer(p, "q_gate", 2 * q, ROWS_STEP);
    n->q = program_buffer(p, "q", q, ROWS_STEP);
    n->gate = program_buffer(p, "attn_gate", q, ROWS_STEP);
    n->attn = program_buffer(p, "attn", q, ROWS_STEP);
    uint32_t kv = layer ? layer->n_kv_heads * b->h.head_dim : 1;
    n->k = program_buffer(p, "k", kv, ROWS_STEP);
    n->v = program_buffer(p, "v", kv, ROWS_STEP);
}

/* Columns [column, column + width / heads) of each head, side by side. */
static void take(struct build *b, int layer, const char *what, struct view from, uint32_t heads,
                 uint32_t column, struct view to)
{
    struct op op = {.kind = OP_HEADS,
                    .u.heads = {.in = from,
                                .out = to,
                                .weight = NO_WEIGHT,
                                .n_heads = heads,
                                .in_column = column,
                                .in_width = to.width / heads,
                                .out_width = to.width / heads}};
    program_emit(b->program, &op, "%d.%s", layer, what);
}

/* Fills qkv, z, beta and decay. */
static void project(struct build *b, const struct net *n, int l, struct view in)
{
    struct program *p = b->program;
    struct view qkv = program_view(p, n->qkv), z = program_view(p, n->z);
    struct view beta = program_view(p, n->beta), decay = program_view(p, n->decay);
    if (!n->interleaved) {
        build_linear(b, l, "attn_qkv", in, qkv, VIEW_NONE);
        build_linear(b, l, "attn_gate", in, z, VIEW_NONE);
        build_linear(b, l, "ssm_beta", in, beta, VIEW_NONE);
        build_linear(b, l, "ssm_alpha", in, decay, VIEW_NONE);
        return;
    }
    uint32_t keys = n->key_heads, each = n->heads / keys, wide = keys * n->k_dim;
    struct view mixed = program_view(p, n->mixed), ba = program_view(p, n->ba);
    build_linear(b, l, "ssm_in", in, mixed, VIEW_NONE);
    build_linear(b, l, "ssm_ba", in, ba, VIEW_NONE);
    take(b, l, "delta_q", mixed, keys, 0, view_columns(qkv, 0, wide));
    take(b, l, "delta_k", mixed, keys, n->k_dim, view_columns(qkv, wide, wide));
    take(b, l, "delta_v", mixed, keys, 2 * n->k_dim, view_columns(qkv, 2 * wide, z.width));
    take(b, l, "delta_z", mixed, keys, 2 * n->k_dim + each * n->v_dim, z);
    take(b, l, "beta", ba, keys, 0, beta);
    take(b, l, "decay", ba, keys, each, decay);
}

static void build_delta(struct build *b, const struct net *n, uint32_t index, struct view in,
                        struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t wide = n->key_heads * n->k_dim;
    struct view qkv = program_view(p, n->convolved), y = program_view(p, n->y);
    struct layer_states states =
        build_states(b, (n->taps - 1) * qkv.width, n->heads * n->k_dim * n->v_dim);
    project(b, n, l, in);
    build_causal_conv(b, l, "ssm_conv1d", program_view(p, n->qkv), qkv, n->taps, &states);
    struct op delta = {.kind = OP_DELTA,
                       .u.delta = {.q = view_columns(qkv, 0, wide),
                                   .k = view_columns(qkv, wide, wide),
                                   .v = view_columns(qkv, 2 * wide, y.width),
                                   .decay = program_view(p, n->decay),
                                   .beta = program_view(p, n->beta),
                                   .out = y,
                                   .a = build_decay(b, l, "ssm_a", n->heads),
                                   .dt_bias = build_values(b, l, "ssm_dt", "bias", n->heads),
                                   .n_heads = n->heads,
                                   .n_key_heads = n->key_heads,
                                   .k_dim = n->k_dim,
                                   .v_dim = n->v_dim,
                                   .tiled = n->tiled,
                                   .group = states.state_group,
                                   .layer = states.state_layer}};
    program_emit(p, &delta, "%d.delta", l);
    build_norm(b, l, "ssm_norm", y, y, n->v_dim, 0.0f);
    struct op gate = {.kind = OP_MUL,
                      .u.mul = {.a = program_view(p, n->z), .b = y, .out = y, .act = ACT_SILU}};
    program_emit(p, &gate, "%d.delta_gate", l);
    build_linear(b, l, "ssm_out", y, x, x);
}

static void build_gated_attention(struct build *b, const struct net *n, uint32_t index,
                                  struct view in, struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t heads = b->h.layers[index].n_heads;
    struct view qg = program_view(p, n->qg), q = program_view(p, n->q);
    struct view k = program_view(p, n->k), v = program_view(p, n->v);
    struct view gate = program_view(p, n->gate), attn = program_view(p, n->attn);
    build_linear(b, l, "attn_q", in, qg, VIEW_NONE);
    take(b, l, "q", qg, heads, 0, q);
    take(b, l, "q_gate", qg, heads, b->h.head_dim, gate);
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

static void build_qwen_next(struct build *b, bool tiled)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    struct net n = {.tiled = b->gguf && tiled, .interleaved = build_exists(b, 0, "ssm_in")};
    if (!read_net(b, &n))
        return;
    int32_t freqs = build_rope(b, NULL, 10000000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].kind = is_delta(b, i) ? LAYER_OTHER : LAYER_ATTENTION;
        b->h.layers[i].freqs = freqs;
    }
    build_groups(b, 0);
    make_buffers(b, &n);
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
            build_delta(b, &n, i, normed, x);
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
