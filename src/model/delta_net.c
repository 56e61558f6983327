/* The gated delta net. */
#include "model/delta_net.h"

static bool read_sizes(struct build *b, struct delta_net *n)
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
    if (n->heads && n->key_heads && n->heads % n->key_heads == 0 && n->heads <= 1u << 12 &&
        n->k_dim && n->k_dim <= 1u << 12 && n->v_dim && n->v_dim <= 1u << 12 && n->taps >= 2 &&
        n->taps <= 64)
        return true;
    program_fail(b->program, STATUS_MODEL, "delta net: %u/%u heads of %u+%u, %u taps", n->heads,
                 n->key_heads, n->k_dim, n->v_dim, n->taps);
    return false;
}

bool delta_net_plan(struct build *b, struct delta_net *n)
{
    if (!read_sizes(b, n))
        return false;
    struct program *p = b->program;
    uint32_t inner = n->heads * n->v_dim, conv = 2 * n->key_heads * n->k_dim + inner;
    n->qkv = program_buffer(p, "delta_qkv", conv, ROWS_STEP);
    n->convolved = program_buffer(p, "convolved", conv, ROWS_STEP);
    n->z = program_buffer(p, "delta_z", inner, ROWS_STEP);
    n->beta = program_buffer(p, "beta", n->heads, ROWS_STEP);
    n->decay = program_buffer(p, "decay", n->heads, ROWS_STEP);
    n->y = program_buffer(p, "delta_out", inner, ROWS_STEP);
    n->mixed = program_buffer(p, "delta_in", conv + inner, ROWS_STEP);
    n->ba = program_buffer(p, "delta_ba", 2 * n->heads, ROWS_STEP);
    return true;
}

/* Fills qkv, z, beta and decay. */
static void project(struct build *b, const struct delta_net *n, int l, struct view in)
{
    struct program *p = b->program;
    struct view qkv = program_view(p, n->qkv), z = program_view(p, n->z);
    struct view beta = program_view(p, n->beta), decay = program_view(p, n->decay);
    uint32_t keys = n->key_heads, each = n->heads / keys, wide = keys * n->k_dim;
    if (build_exists(b, l, "ssm_in")) {
        struct view mixed = program_view(p, n->mixed);
        build_linear(b, l, "ssm_in", in, mixed, VIEW_NONE);
        build_take(b, l, "delta_q", mixed, keys, 0, view_columns(qkv, 0, wide));
        build_take(b, l, "delta_k", mixed, keys, n->k_dim, view_columns(qkv, wide, wide));
        build_take(b, l, "delta_v", mixed, keys, 2 * n->k_dim,
                   view_columns(qkv, 2 * wide, z.width));
        build_take(b, l, "delta_z", mixed, keys, 2 * n->k_dim + each * n->v_dim, z);
    } else {
        build_linear(b, l, "attn_qkv", in, qkv, VIEW_NONE);
        build_linear(b, l, "attn_gate", in, z, VIEW_NONE);
    }
    if (build_exists(b, l, "ssm_ba")) {
        struct view ba = program_view(p, n->ba);
        build_linear(b, l, "ssm_ba", in, ba, VIEW_NONE);
        build_take(b, l, "beta", ba, keys, 0, beta);
        build_take(b, l, "decay", ba, keys, each, decay);
    } else {
        build_linear(b, l, "ssm_beta", in, beta, VIEW_NONE);
        build_linear(b, l, "ssm_alpha", in, decay, VIEW_NONE);
    }
}

void build_delta_net(struct build *b, const struct delta_net *n, uint32_t index, struct view in,
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
