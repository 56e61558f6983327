/*
 * Cohere's Command models: both halves read one LayerNorm without bias, pairs turn as neighbours,
 * logits are multiplied by a small constant, the embedding is the head. Command R7B and A ("cohere2")
 * have three layers with a window and rope, then one without either.
 */
#include "model/build.h"

static void build_cohere(struct build *b)
{
    build_hyper(b);
    b->h.norm = NORM_LAYER;
    b->rope_style = ROPE_PAIRS;
    if (build_bool(b, NULL, "use_qk_norm", false) || build_exists(b, 0, "attn_q_norm"))
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "use_qk_norm (Command R+) is not supported: its norms have a weight per head");
    uint32_t window = build_u32(b, "attention.sliding_window", "sliding_window", 0);
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool is = window && build_is_local(b, i, 4);
        b->h.layers[i].window = is ? window : 0;
        b->h.layers[i].freqs = is || !window ? freqs : NO_WEIGHT;
    }
    build_decoder(b, &(struct decoder_options){
                         .shape = SHAPE_PARALLEL,
                         .head.scale = (float)build_f64(b, "logit_scale", "logit_scale", 1.0)});
}

/* The norm that both halves share has the name of another family's second. */
static const struct hf_name names[] = {{"ffn_norm", "(none)"}, {NULL, NULL}};
static const char *const gguf_names[] = {"command-r", "cohere2", NULL};
static const char *const hf_names[] = {"cohere", "cohere2", NULL};
const struct architecture arch_cohere = {"cohere", gguf_names, hf_names, names, build_cohere};
