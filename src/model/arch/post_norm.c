/*
 * Decoders that normalise what a half adds instead of what it reads: OLMo 2 and 3 (norms of q and k
 * over all heads), EXAONE 4 (per head; layers that see everything have no rope). Three of four layers
 * of OLMo 3 and EXAONE 4 see a window. GGUF files call OLMo 3 "olmo2".
 */
#include "model/build.h"

#define PATTERN 4 /* every fourth layer sees all */

static const struct decoder_options options = {.shape = SHAPE_POST, .attention.head_norms = true};

static void build_olmo(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    uint32_t window = build_u32(b, "attention.sliding_window", "sliding_window", 0);
    int32_t full = build_rope(b, "full_attention", 10000.0);
    int32_t local = window ? build_rope_local(b, 10000.0) : full;
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool is = window && build_is_local(b, i, PATTERN);
        b->h.layers[i].window = is ? window : 0;
        b->h.layers[i].freqs = is ? local : full;
    }
    build_decoder(b, &options);
}

static void build_exaone4(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    uint32_t window = build_u32(b, "attention.sliding_window", "sliding_window", 0);
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool is = window && build_is_local(b, i, PATTERN);
        b->h.layers[i].window = is ? window : 0;
        b->h.layers[i].freqs = is || !window ? freqs : NO_WEIGHT;
    }
    build_decoder(b, &options);
}

static const struct hf_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {NULL, NULL},
};
static const char *const olmo2_gguf[] = {"olmo2", NULL};
static const char *const olmo2_hf[] = {"olmo2", "olmo3", NULL};
const struct architecture arch_olmo2 = {"olmo2", olmo2_gguf, olmo2_hf, names, build_olmo};

static const char *const exaone4_names[] = {"exaone4", NULL};
const struct architecture arch_exaone4 = {"exaone4", exaone4_names, exaone4_names, names,
                                          build_exaone4};
