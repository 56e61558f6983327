/*
 * deepseek-v2 and -v3: latent attention (latent.h), and experts chosen by group beside a shared one;
 * v2 scores by softmax and rates a group by its best expert, v3 by sigmoid with a bias and by its two
 * best. GGUF calls both models deepseek2.
 */
#include "model/latent.h"

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
    if (b->h.n_layers == 0 || !latent_plan(b, &a))
        return;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
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
