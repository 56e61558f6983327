/*
 * Latent attention (DeepSeek-V2): a token leaves one latent vector and one rotated key for all heads;
 * each head has its own matrix from latents to keys and another to values. They are absorbed: a query
 * goes through the transpose of the first, so that it meets the latents as they are in the cache, and
 * the mixed latent goes through the second. So the cache holds latent + rotated columns per token,
 * whatever the heads.
 *
 *     q head [nope | rope]  ->  [rope | K^T nope]      cache [rope | latent]      out head = V latent
 *
 * Hugging Face and old GGUF files keep both matrices of a head in one tensor (kv_b); new GGUF files
 * have two, the first already transposed. Internal to model/.
 */
#ifndef SLUICE_MODEL_LATENT_H
#define SLUICE_MODEL_LATENT_H

#include "model/build.h"

struct latent {
    uint32_t q_rank, rank; /* q_rank 0: queries come straight from the row */
    uint32_t nope, rope, value;
    int32_t q_low, q_heads, kv, q, mixed, attn; /* buffers */
    float scale;
};

/* Reads the sizes, makes buffers and the group of all layers; false after an error. Sets the build's
 * head width to the rotated part, so rope is built after this. */
bool latent_plan(struct build *b, struct latent *a);
/* in -> attention -> x += output projection. */
void build_latent_attention(struct build *b, const struct latent *a, uint32_t layer, struct view in,
                            struct view x);

#endif
