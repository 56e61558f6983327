/*
 * gemma: the first Gemma (2B, 7B, CodeGemma). Pre-norm, GELU gate, embeddings scaled by sqrt(width),
 * tied output; heads are wider than width / heads.
 *
 * Norm weights are stored as w with (1 + w) meant; GGUF files have the 1 added already. The published
 * configs say hidden_act "gelu", but the model was trained with the tanh form.
 */
#include <math.h>

#include "model/build.h"

static void build_gemma(struct build *b)
{
    build_hyper(b);
    b->h.act = ACT_GELU_TANH;
    b->rope_style = ROPE_HALVES;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    float offset = b->gguf ? 0.0f : 1.0f;
    build_decoder(b, &(struct decoder_options){.weight_offset = offset,
                                               .embedding_scale = sqrtf((float)b->h.width),
                                               .head.weight_offset = offset});
}

static const char *const gemma[] = {"gemma", NULL};
const struct architecture arch_gemma = {"gemma", gemma, gemma, NULL, build_gemma};
