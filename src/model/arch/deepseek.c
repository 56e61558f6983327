/*
 * deepseek-v2 and -v3: latent attention, and experts chosen by group beside a shared one.
 *
 * A token leaves one latent vector and one rotated key for all heads; each head has its own matrix
 * from latents to keys and another to values. They are absorbed: a query goes through the transpose
 * of the first, so that it meets the latents as they are in the cache, and the mixed latent goes
 * through the second. So the cache holds latent + rotated columns per token, whatever the heads.
 *
 *     q head [nope | rope]  ->  [rope | K^T nope]      cache [rope | latent]      out head = V latent
 *
 * Hugging Face and old GGUF files keep both matrices of a head in one tensor (kv_b); new GGUF files
 * have two, the first already transposed. GGUF calls both models deepseek2.
 */
#include <math.h>

#include "model/build.h"

struct latent {
    uint32_t q_rank, rank; /* q_rank 0: queries come straight from the row */
    uint32_t nope, rope, value;
    int32_t q_low, q_heads, kv, q, mixed; /* buffers */
    float scale;
};

static bool plan_latent(struct build *b, struct latent *a)
{
    a->q_rank = build_u32(b, "attention.q_lora_rank", "q_lora_rank", 0);
    a->rank = build_need_u32(b, "attention.kv_lora_rank", "kv_lora_rank");
    a->rope = build_need_u32(b, "rope.dimension_count", "qk_rope_head_dim");
    if (b->gguf) {
        bool mla = build_has(b, "attention.key_length_mla", NULL);
        uint32_t key =
            build_need_u32(b, mla ? "attention.key_length_mla" : "attention.key_length", NULL);
        a->value =
            build_need_u32(b, mla ? "attention.value_length_mla" : "attention.value_length", NULL);
        a->nope = key > a->rope ? key - a->rope : 0;
    } else {
        a->nope = build_need_u32(b, NULL, "qk_nope_head_dim");
        a->value = build_need_u32(b, NULL, "v_head_dim");
    }
    uint32_t heads = b->h.layers[0].n_heads;
    uint64_t wide = (uint64_t)a->nope + a->rope + a->rank + a->value;
    if (a->nope == 0 || a->rope == 0 || a->rank == 0 || a->value == 0 || wide > 1u << 20 ||
        wide * heads > 1u << 28) {
        program_fail(b->program, STATUS_MODEL,
                     "latent attention of %u heads of %u+%u, values of %u, rank %u", heads, a->nope,
                     a->rope, a->value, a->rank);
        return false;
    }
    b->h.head_dim = b->h.rope_dims = a->rope;
    a->scale = build_yarn_mscale(b);
    a->scale *= a->scale / sqrtf((float)(a->nope + a->rope));
    struct program *p = b->program;
    if (a->q_rank)
        a->q_low = program_buffer(p, "q_low", a->q_rank, ROWS_STEP);
    a->q_heads = program_buffer(p, "q_heads", heads * (a->nope + a->rope), ROWS_STEP);
    a->kv = program_buffer(p, "latent", a->rank + a->rope, ROWS_STEP);
    a->q = program_buffer(p, "q", heads * (a->rope + a->rank), ROWS_STEP);
    a->mixed = program_buffer(p, "mixed", heads * a->rank, ROWS_STEP);
    b->attn = program_buffer(p, "attn", heads * a->value, ROWS_STEP);
    return true;
}

static void latent_group(struct build *b, const struct latent *a)
{
    struct state_group group = {.name = "latent",
                                .kind = GROUP_LATENT,
                                .n_layers = b->h.n_layers,
                                .n_kv_heads = 1,
                                .k_head_dim = a->rope,
                                .v_head_dim = a->rank};
    uint32_t id = program_group(b->program, &group);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].group = id;
        b->h.layers[i].group_layer = i;
    }
}

/* q = [rope | absorbed] of each head, latent = [rank | rope]. */
static void project(struct build *b, const struct latent *a, uint32_t index, struct view in)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t heads = b->h.layers[index].n_heads, total = a->nope + a->value;
    struct view q_heads = program_view(p, a->q_heads), kv = program_view(p, a->kv);
    if (a->q_rank) {
        struct view low = program_view(p, a->q_low);
        build_linear(b, l, "attn_q_a", in, low, VIEW_NONE);
        build_norm(b, l, "attn_q_a_norm", low, low, a->q_rank, 0.0f);
        build_linear(b, l, "attn_q_b", low, q_heads, VIEW_NONE);
    } else {
        build_linear(b, l, "attn_q", in, q_heads, VIEW_NONE);
    }
    build_linear(b, l, "attn_kv_a_mqa", in, kv, VIEW_NONE);
    struct view latent = view_columns(kv, 0, a->rank);
    build_norm(b, l, "attn_kv_a_norm", latent, latent, a->rank, 0.0f);
    struct op op = {.kind = OP_HEADS,
                    .u.heads = {.in = q_heads,
                                .out = program_view(p, a->q),
                                .weight = NO_WEIGHT,
                                .n_heads = heads,
                                .in_column = a->nope,
                                .in_width = a->rope,
                                .out_width = a->rope}};
    program_emit(p, &op, "%d.q_rope", l);
    bool apart = build_exists(b, l, "attn_k_b");
    op.u.heads.weight = apart ? build_stack(b, l, "attn_k_b", heads, a->rank, 0, a->rank, a->nope)
                              : build_stack(b, l, "attn_kv_b", heads, total, 0, a->nope, a->rank);
    op.u.heads.transposed = !apart;
    op.u.heads.in_column = 0;
    op.u.heads.in_width = a->nope;
    op.u.heads.out_column = a->rope;
    op.u.heads.out_width = a->rank;
    program_emit(p, &op, "%d.q_absorb", l);
}

static void build_latent_attention(struct build *b, const struct latent *a, uint32_t index,
                                   struct view in, struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    const struct layer *layer = &b->h.layers[index];
    struct view kv = program_view(p, a->kv), q = program_view(p, a->q);
    struct view mixed = program_view(p, a->mixed), attn = program_view(p, b->attn);
    project(b, a, index, in);
    struct op rope = {.kind = OP_ROPE_KV,
                      .u.rope_kv = {.q = q,
                                    .k = view_columns(kv, a->rank, a->rope),
                                    .v = view_columns(kv, 0, a->rank),
                                    .n_heads = layer->n_heads,
                                    .group = layer->group,
                                    .layer = layer->group_layer,
                                    .style = b->rope_style,
                                    .rope_dims = a->rope,
                                    .freqs = layer->freqs,
                                    .magnitude = build_rope_magnitude(b, layer->freqs)}};
    program_emit(p, &rope, "%d.rope_kv", l);
    struct op attention = {.kind = OP_ATTENTION,
                           .u.attention = {.q = q,
                                           .out = mixed,
                                           .n_heads = layer->n_heads,
                                           .group = layer->group,
                                           .layer = layer->group_layer,
                                           .scale = a->scale,
                                           .sinks = NO_WEIGHT}};
    program_emit(p, &attention, "%d.attention", l);
    uint32_t total = a->nope + a->value;
    struct op values = {.kind = OP_HEADS,
                        .u.heads = {.in = mixed,
                                    .out = attn,
                                    .weight = build_exists(b, l, "attn_v_b")
                                                  ? build_stack(b, l, "attn_v_b", layer->n_heads,
                                                                a->value, 0, a->value, a->rank)
                                                  : build_stack(b, l, "attn_kv_b", layer->n_heads,
                                                                total, a->nope, a->value, a->rank),
                                    .n_heads = layer->n_heads,
                                    .in_width = a->rank,
                                    .out_width = a->value}};
    program_emit(p, &values, "%d.values", l);
    build_linear(b, l, "attn_output", attn, x, x);
}

static struct moe_options routing(struct build *b)
{
    bool v3 = b->gguf ? build_u32(b, "expert_gating_func", NULL, 1) == 2
                      : str_eq_cstr(build_hf_str(b, "model_type", -1), "deepseek_v3");
    bool greedy = str_eq_cstr(build_hf_str(b, "topk_method", -1), "greedy");
    uint32_t shared = build_u32(b, "expert_shared_count", "n_shared_experts", 0);
    if (shared > 64)
        program_fail(b->program, STATUS_MODEL, "%u shared experts are out of range", shared);
    return (struct moe_options){
        .score = v3 ? ROUTE_SIGMOID : ROUTE_SOFTMAX,
        .normalise = build_bool(b, "expert_weights_norm", "norm_topk_prob", v3),
        .scale = (float)build_f64(b, "expert_weights_scale", "routed_scaling_factor", 1.0),
        .n_groups = greedy ? 1 : build_u32(b, "expert_group_count", "n_group", 1),
        .k_groups = build_u32(b, "expert_group_used_count", "topk_group", 1),
        .group_best = v3 ? 2 : 1,
        .shared_ff = (shared & 63) * b->h.expert_ff,
    };
}

static void build_deepseek(struct build *b)
{
    build_hyper(b);
    b->rope_style = build_bool(b, NULL, "rope_interleave", true) ? ROPE_PAIRS : ROPE_HALVES;
    struct latent a = {0};
    if (b->h.n_layers == 0 || !plan_latent(b, &a))
        return;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    latent_group(b, &a);
    build_embedding(b, 1.0f);
    struct moe_options moe = routing(b);
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_latent_attention(b, &a, i, normed, x);
        build_norm(b, (int)i, "ffn_norm", x, normed, x.width, 0.0f);
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            build_moe(b, i, normed, x, x, &moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    build_head(b, &(struct head_options){0});
}

static const struct hf_name names[] = {
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"deepseek2", NULL};
static const char *const hf_names[] = {"deepseek_v2", "deepseek_v3", NULL};
const struct architecture arch_deepseek = {"deepseek", gguf_names, hf_names, names, build_deepseek};
