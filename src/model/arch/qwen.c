/*
 * qwen: Qwen2 (biases on q, k, v), Qwen3 (norms on the heads of q and k, no biases), Qwen3-MoE
 * (experts in place of the FFN). The residual structure is llama's.
 */
#include <string.h>

#include "model/build.h"

/* HF: layers outside decoder_sparse_step, or listed in mlp_only_layers, have a plain FFN. */
static bool is_sparse(struct build *b, uint32_t layer)
{
    if (!b->h.n_experts)
        return false;
    return build_exists(b, (int)layer, "ffn_gate_inp");
}

/* HF writes a window into many configs whose models do not use it. */
static uint32_t window_of(struct build *b, uint32_t layer)
{
    if (b->gguf || !build_bool(b, NULL, "use_sliding_window", false))
        return 0;
    struct str type = build_hf_str(b, "layer_types", layer);
    if (type.len ? str_eq_cstr(type, "full_attention")
                 : layer < build_u32(b, NULL, "max_window_layers", 0))
        return 0;
    return build_u32(b, NULL, "sliding_window", 0);
}

static void build_qwen(struct build *b, bool head_norms)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = window_of(b, i);
    }
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    const struct attention_options attention = {.head_norms = head_norms};
    const struct moe_options moe = {.score = ROUTE_SOFTMAX,
                                    .normalise = build_bool(b, NULL, "norm_topk_prob", b->gguf)};
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_attention(b, i, normed, x, x, &attention);
        build_norm(b, (int)i, "ffn_norm", x, normed, x.width, 0.0f);
        if (is_sparse(b, i))
            build_moe(b, i, normed, x, x, &moe);
        else
            build_ffn(b, i, normed, x, x);
    }
    /* Qwen3-Embedding ships the decoder without its head ("Qwen3Model"). */
    struct str model_class = build_hf_str(b, "architectures", 0);
    bool headless = model_class.len && str_ends(model_class, STR_LIT("Model"));
    build_head(b, &(struct head_options){.embedding_only = headless});
}

static void build_qwen2(struct build *b)
{
    build_qwen(b, false);
}

static void build_qwen3(struct build *b)
{
    build_qwen(b, true);
}

static const char *const qwen2_names[] = {"qwen2", NULL};
const struct architecture arch_qwen2 = {"qwen2", qwen2_names, qwen2_names, NULL, build_qwen2};

static const char *const qwen3_names[] = {"qwen3", NULL};
const struct architecture arch_qwen3 = {"qwen3", qwen3_names, qwen3_names, NULL, build_qwen3};

static const char *const qwen3_moe_gguf[] = {"qwen3moe", NULL};
static const char *const qwen3_moe_hf[] = {"qwen3_moe", NULL};
const struct architecture arch_qwen3_moe = {"qwen3-moe", qwen3_moe_gguf, qwen3_moe_hf, NULL,
                                            build_qwen3};
