/*
 * Decoders of the GPT family: LayerNorm with bias, biases on the projections, mostly no gate.
 *
 *   gpt2        learned positions, fused q, k, v; HF keeps its matrices transposed
 *   gpt-neox    both halves read the same x, each through a norm of its own; q, k, v fused by head
 *   phi         both halves read one norm (Phi-1, 1.5, 2)
 *   stablelm    a gate, a quarter of each head turns
 *   starcoder2  grouped heads
 *   nemotron    squared ReLU, norm weights stored as w with (1 + w) meant (GGUF has added the 1)
 */
#include "model/build.h"

static void plan(struct build *b)
{
    build_hyper(b);
    b->h.norm = NORM_LAYER;
    b->rope_style = ROPE_HALVES;
    uint32_t window = build_u32(b, "attention.sliding_window", "sliding_window", 0);
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = window;
    }
}

static void build_gpt_neox(struct build *b)
{
    plan(b);
    bool parallel = build_bool(b, "use_parallel_residual", "use_parallel_residual", true);
    if (b->gguf)
        b->h.act = ACT_GELU;
    /* GGUF files have sorted q, k and v apart. */
    build_decoder(b, &(struct decoder_options){.shape = parallel ? SHAPE_PARALLEL : SHAPE_PRE,
                                               .attention.qkv_by_head = !b->gguf});
}

static void build_phi(struct build *b)
{
    plan(b);
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    if (build_bool(b, NULL, "qk_layernorm", false))
        program_fail(b->program, STATUS_UNSUPPORTED, "qk_layernorm is not supported for phi");
    build_decoder(b, &(struct decoder_options){.shape = SHAPE_PARALLEL});
}

static void build_stablelm(struct build *b)
{
    plan(b);
    if (build_bool(b, NULL, "qk_layernorm", false) || build_exists(b, 0, "attn_q_norm"))
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "qk_layernorm (StableLM 2 12B) is not supported: its norms differ per head");
    bool parallel = build_bool(b, "use_parallel_residual", "use_parallel_residual", false);
    build_decoder(b, &(struct decoder_options){.shape = parallel ? SHAPE_PARALLEL : SHAPE_PRE});
}

static void build_starcoder2(struct build *b)
{
    plan(b);
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    build_decoder(b, &(struct decoder_options){0});
}

static void build_nemotron(struct build *b)
{
    plan(b);
    b->h.act = ACT_RELU2;
    float offset = b->gguf ? 0.0f : 1.0f;
    build_decoder(b,
                  &(struct decoder_options){.weight_offset = offset, .head.weight_offset = offset});
}

static const struct hf_name neox_names[] = {
    {"token_embd", "embed_in"},          {"output", "embed_out"},
    {"output_norm", "final_layer_norm"}, {"attn_qkv", "attention.query_key_value"},
    {"attn_output", "attention.dense"},  {"ffn_up", "mlp.dense_h_to_4h"},
    {"ffn_down", "mlp.dense_4h_to_h"},   {NULL, NULL},
};
static const struct hf_name phi_names[] = {
    {"output_norm", "final_layernorm"},
    {"attn_output", "self_attn.dense"},
    {"ffn_norm", "(none)"},
    {"ffn_up", "mlp.fc1"},
    {"ffn_down", "mlp.fc2"},
    {NULL, NULL},
};
static const struct hf_name starcoder2_names[] = {
    {"ffn_up", "mlp.c_fc"}, {"ffn_down", "mlp.c_proj"}, {NULL, NULL}};

static const char *const neox_gguf[] = {"gptneox", NULL};
static const char *const neox_hf[] = {"gpt_neox", NULL};
const struct architecture arch_gpt_neox = {"gpt-neox", neox_gguf, neox_hf, neox_names,
                                           build_gpt_neox};
static const char *const phi_gguf[] = {"phi2", NULL};
static const char *const phi_hf[] = {"phi", NULL};
const struct architecture arch_phi = {"phi", phi_gguf, phi_hf, phi_names, build_phi};

static const char *const stablelm[] = {"stablelm", NULL};
const struct architecture arch_stablelm = {"stablelm", stablelm, stablelm, NULL, build_stablelm};

static const char *const starcoder2[] = {"starcoder2", NULL};
const struct architecture arch_starcoder2 = {"starcoder2", starcoder2, starcoder2, starcoder2_names,
                                             build_starcoder2};

static const char *const nemotron[] = {"nemotron", NULL};
const struct architecture arch_nemotron = {"nemotron", nemotron, nemotron, NULL, build_nemotron};
