/*
 * Decoders whose layers are a state space mixer or attention, each followed by an FFN or experts:
 * granite-hybrid (Mamba 2, a shared FFN beside experts or alone, Granite's multipliers) and jamba
 * (Mamba 1 with norms inside, attention without rope). What a layer is shows in its tensors.
 */
#include "model/mamba.h"

static bool is_mixer(struct build *b, uint32_t layer)
{
    return build_exists(b, (int)layer, "ssm_in");
}

static void plan_layers(struct build *b, int32_t freqs)
{
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].kind = is_mixer(b, i) ? LAYER_OTHER : LAYER_ATTENTION;
        b->h.layers[i].freqs = freqs;
    }
    /* GGUF has no heads in layers of mixers. */
    for (uint32_t i = 0; b->gguf && i < b->h.n_layers; i++)
        if (b->h.layers[i].kind == LAYER_ATTENTION && b->h.layers[i].n_heads &&
            !build_has(b, "attention.key_length", NULL)) {
            b->h.head_dim = b->h.v_head_dim = b->h.width / b->h.layers[i].n_heads;
            break;
        }
    build_groups(b, 0);
}

static void build_hybrid(struct build *b, const struct mamba *m, float embedding,
                         const struct attention_options *attention, const struct moe_options *moe,
                         float logits)
{
    build_embedding(b, embedding);
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        if (is_mixer(b, i)) {
            struct layer_states states = mamba_states(b, m);
            (m->dt_rank ? build_mamba1 : build_mamba2)(b, m, i, &states, normed, x, x);
        } else {
            build_attention(b, i, normed, x, x, attention);
        }
        build_norm(b, (int)i, "ffn_norm", x, normed, x.width, 0.0f);
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            build_moe(b, i, normed, x, x, moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    build_head(b, &(struct head_options){.scale = logits});
}

static void build_jamba(struct build *b)
{
    build_hyper(b);
    struct mamba m = {0};
    if (!mamba_plan(b, &m, true))
        return;
    plan_layers(b, NO_WEIGHT);
    const struct attention_options attention = {0};
    const struct moe_options moe = {.score = ROUTE_SOFTMAX};
    build_hybrid(b, &m, 1.0f, &attention, &moe, 1.0f);
}

static const struct hf_name jamba_names[] = {
    {"output_norm", "final_layernorm"},
    {"ffn_norm", "pre_ff_layernorm"},
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"},
    {"ffn_gate_inp", "feed_forward.router"},
    {"ffn_gate_exps", "feed_forward.experts.%u.gate_proj"},
    {"ffn_up_exps", "feed_forward.experts.%u.up_proj"},
    {"ffn_down_exps", "feed_forward.experts.%u.down_proj"},
    {"ffn_gate_up_exps", "feed_forward.experts.gate_up_proj"},
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_x", "mamba.x_proj"},
    {"ssm_dt", "mamba.dt_proj"},
    {"ssm_dt_norm", "mamba.dt_layernorm"},
    {"ssm_b_norm", "mamba.b_layernorm"},
    {"ssm_c_norm", "mamba.c_layernorm"},
    {"ssm_a", "mamba.A_log"},
    {"ssm_d", "mamba.D"},
    {"ssm_out", "mamba.out_proj"},
    {NULL, NULL},
};
static const char *const jamba_keys[] = {"jamba", NULL};
const struct architecture arch_jamba = {"jamba", jamba_keys, jamba_keys, jamba_names, build_jamba};

static void build_granite_hybrid(struct build *b)
{
    build_hyper(b);
    struct mamba m = {0};
    if (!mamba_plan(b, &m, false))
        return;
    b->rope_style = b->gguf ? ROPE_PAIRS : ROPE_HALVES;
    struct str kind = build_hf_str(b, "position_embedding_type", -1);
    bool turns =
        b->gguf ? build_bool(b, "rope.scaling.finetuned", NULL, true) : str_eq_cstr(kind, "rope");
    plan_layers(b, turns ? build_rope(b, NULL, 10000.0) : NO_WEIGHT);
    uint32_t shared =
        build_u32(b, "expert_shared_feed_forward_length", "shared_intermediate_size", b->h.n_ff);
    double logits = build_f64(b, "logit_scale", "logits_scaling", 1.0);
    if (!(logits > 0.0))
        program_fail(b->program, STATUS_MODEL, "logits_scaling is %g, expected above 0", logits);
    b->h.residual_scale = (float)build_f64(b, "residual_scale", "residual_multiplier", 1.0);
    m.out_scale = b->h.residual_scale;
    if (!b->h.n_experts && !b->gguf)
        b->h.n_ff = shared;
    const struct attention_options attention = {
        .scale = (float)build_f64(b, "attention.scale", "attention_multiplier", 0.0)};
    const struct moe_options moe = {.score = ROUTE_SOFTMAX, .normalise = true, .shared_ff = shared};
    build_hybrid(b, &m, (float)build_f64(b, "embedding_scale", "embedding_multiplier", 1.0),
                 &attention, &moe, (float)(1.0 / logits));
}

static const struct hf_name granite_names[] = {
    {"ffn_gate_inp", "block_sparse_moe.router.layer"},
    {"ffn_gate_up_exps", "block_sparse_moe.input_linear"},
    {"ffn_down_exps", "block_sparse_moe.output_linear"},
    {"ffn_up", "shared_mlp.input_linear"},
    {"ffn_down", "shared_mlp.output_linear"},
    {"ffn_up_shexp", "shared_mlp.input_linear"},
    {"ffn_down_shexp", "shared_mlp.output_linear"},
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_a", "mamba.A_log"},
    {"ssm_d", "mamba.D"},
    {"ssm_dt", "mamba.dt"},
    {"ssm_norm", "mamba.norm"},
    {"ssm_out", "mamba.out_proj"},
    {NULL, NULL},
};
static const char *const granite_gguf[] = {"granitehybrid", NULL};
static const char *const granite_hf[] = {"granitemoehybrid", NULL};
const struct architecture arch_granite_hybrid = {"granite-hybrid", granite_gguf, granite_hf,
                                                 granite_names, build_granite_hybrid};
