/*
 * llama: Llama 1 to 3, Mistral, and what copies them. Pre-norm, grouped-query attention with rope,
 * gated FFN; optional biases everywhere; optional sliding window (Mistral); optional experts
 * (Mixtral, which GGUF files also call "llama").
 *
 * GGUF files of this family store the rows of q and k so that rope pairs are neighbours; Hugging
 * Face checkpoints pair column i with i + dims/2.
 */
#include "model/build.h"

static void build_llama(struct build *b)
{
    build_hyper(b);
    b->rope_style = b->gguf ? ROPE_PAIRS : ROPE_HALVES;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    uint32_t window = build_u32(b, "attention.sliding_window", "sliding_window", 0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = window;
    }
    build_decoder(b, &(struct decoder_options){0});
}

static const char *const gguf_names[] = {"llama", NULL};
static const char *const hf_llama[] = {"llama", "mistral", NULL};
const struct architecture arch_llama = {"llama", gguf_names, hf_llama, NULL, build_llama};

static const struct hf_name mixtral_names[] = {
    {"ffn_gate_inp", "block_sparse_moe.gate"},
    {"ffn_gate_exps", "block_sparse_moe.experts.%u.w1"},
    {"ffn_down_exps", "block_sparse_moe.experts.%u.w2"},
    {"ffn_up_exps", "block_sparse_moe.experts.%u.w3"},
    {NULL, NULL},
};
static const char *const no_names[] = {NULL};
static const char *const hf_mixtral[] = {"mixtral", NULL};
const struct architecture arch_mixtral = {"mixtral", no_names, hf_mixtral, mixtral_names,
                                          build_llama};
