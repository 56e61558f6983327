/*
 * Decoders built like llama whose FFN is a mixture of experts in most layers. They differ in how
 * experts are scored and weighted, in a shared expert beside the chosen ones, in norms on q and k,
 * and in names: a table of traits says how. The first layers may have a plain FFN; those that do are
 * known by having no router.
 */
#include "model/build.h"

struct traits {
    enum route_score score;
    bool head_norms;
    bool normalise;         /* where config.json and metadata do not say */
    double least_sum;       /* that weights are divided by */
    bool pairs;             /* GGUF rows of q and k are ordered for neighbouring pairs */
    bool pairs_hf;          /* so are those of Hugging Face */
    const char *shared_key; /* HF: width of the shared expert, NULL: a number of experts */
    const char *shared_count;
};

static uint32_t shared_width(struct build *b, const struct traits *t)
{
    if (t->shared_key)
        return build_u32(b, "expert_shared_feed_forward_length", t->shared_key, 0);
    if (!t->shared_count)
        return 0;
    uint32_t n = build_u32(b, "expert_shared_count", t->shared_count, 0);
    uint32_t each = b->h.expert_ff;
    if (n > 64 || (n && each > UINT32_MAX / n)) {
        program_fail(b->program, STATUS_MODEL, "%u shared experts are out of range", n);
        return 0;
    }
    return n * each;
}

static void build_sparse(struct build *b, const struct traits *t)
{
    build_hyper(b);
    bool pairs = b->gguf ? t->pairs : t->pairs_hf;
    b->rope_style = pairs ? ROPE_PAIRS : ROPE_HALVES;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    const struct attention_options attention = {.head_norms = t->head_norms};
    struct moe_options moe = {
        .score = t->score,
        .normalise = build_bool(b, "expert_weights_norm", "norm_topk_prob", t->normalise),
        .scale = (float)build_f64(b, "expert_weights_scale", "routed_scaling_factor", 1.0),
        .least_sum = (float)build_f64(b, NULL, "moe_norm_min", t->least_sum),
        .n_groups = build_u32(b, "expert_group_count", "n_group", 1),
        .k_groups = build_u32(b, "expert_group_used_count", "topk_group", 1),
        .group_best = 2,
        .shared_ff = shared_width(b, t),
    };
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_attention(b, i, normed, x, x, &attention);
        const char *norm =
            build_exists(b, (int)i, "post_attention_norm") ? "post_attention_norm" : "ffn_norm";
        build_norm(b, (int)i, norm, x, normed, x.width, 0.0f);
        if (build_exists(b, (int)i, "ffn_gate_inp"))
            build_moe(b, i, normed, x, x, &moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    build_head(b, &(struct head_options){0});
}

static void build_qwen2_moe(struct build *b)
{
    build_sparse(b, &(struct traits){.score = ROUTE_SOFTMAX,
                                     .shared_key = "shared_expert_intermediate_size"});
}

static const struct hf_name qwen2_moe_names[] = {
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
    {NULL, NULL},
};
static const char *const qwen2_moe_gguf[] = {"qwen2moe", NULL};
static const char *const qwen2_moe_hf[] = {"qwen2_moe", NULL};
const struct architecture arch_qwen2_moe = {"qwen2-moe", qwen2_moe_gguf, qwen2_moe_hf,
                                            qwen2_moe_names, build_qwen2_moe};

static void build_olmoe(struct build *b)
{
    if (build_has(b, "attention.clamp_kqv", "clip_qkv"))
        program_fail(b->program, STATUS_UNSUPPORTED, "olmoe with clip_qkv is not supported yet");
    build_sparse(b, &(struct traits){.score = ROUTE_SOFTMAX, .head_norms = true});
}

static const char *const olmoe_names[] = {"olmoe", NULL};
const struct architecture arch_olmoe = {"olmoe", olmoe_names, olmoe_names, NULL, build_olmoe};

static void build_glm4_moe(struct build *b)
{
    build_sparse(b, &(struct traits){.score = ROUTE_SIGMOID,
                                     .head_norms = build_exists(b, 0, "attn_q_norm"),
                                     .normalise = true,
                                     .shared_count = "n_shared_experts"});
}

static const char *const glm4_moe_gguf[] = {"glm4moe", NULL};
static const char *const glm4_moe_hf[] = {"glm4_moe", NULL};
const struct architecture arch_glm4_moe = {"glm4-moe", glm4_moe_gguf, glm4_moe_hf, NULL,
                                           build_glm4_moe};

static void build_dots1(struct build *b)
{
    build_sparse(b, &(struct traits){.score = ROUTE_SIGMOID,
                                     .head_norms = true,
                                     .shared_count = "n_shared_experts"});
}

static const char *const dots1_names[] = {"dots1", NULL};
const struct architecture arch_dots1 = {"dots1", dots1_names, dots1_names, NULL, build_dots1};

static void build_ernie4_5_moe(struct build *b)
{
    build_sparse(b, &(struct traits){.score = ROUTE_SOFTMAX,
                                     .normalise = true,
                                     .least_sum = 1e-12,
                                     .pairs = true,
                                     .pairs_hf = true,
                                     .shared_count = "moe_num_shared_experts"});
}

static const struct hf_name ernie_names[] = {
    {"exp_probs_b", "mlp.moe_statics.e_score_correction_bias"},
    {NULL, NULL},
};
static const char *const ernie_gguf[] = {"ernie4_5-moe", NULL};
static const char *const ernie_hf[] = {"ernie4_5_moe", NULL};
const struct architecture arch_ernie4_5_moe = {"ernie4.5-moe", ernie_gguf, ernie_hf, ernie_names,
                                               build_ernie4_5_moe};

static void build_minimax_m2(struct build *b)
{
    build_sparse(b,
                 &(struct traits){.score = ROUTE_SIGMOID, .head_norms = true, .normalise = true});
}

static const struct hf_name minimax_names[] = {
    {"ffn_gate_inp", "block_sparse_moe.gate"},
    {"ffn_gate_exps", "block_sparse_moe.experts.%u.w1"},
    {"ffn_down_exps", "block_sparse_moe.experts.%u.w2"},
    {"ffn_up_exps", "block_sparse_moe.experts.%u.w3"},
    {"ffn_gate_up_exps", "block_sparse_moe.experts.gate_up_proj"},
    {"exp_probs_b", "block_sparse_moe.e_score_correction_bias"},
    {NULL, NULL},
};
static const char *const minimax_gguf[] = {"minimax-m2", NULL};
static const char *const minimax_hf[] = {"minimax_m2", NULL};
const struct architecture arch_minimax_m2 = {"minimax-m2", minimax_gguf, minimax_hf, minimax_names,
                                             build_minimax_m2};
