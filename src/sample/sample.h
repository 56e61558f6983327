/*
 * sample: choosing the next token from a row of logits.
 *
 * The meaning of the parameters is defined here; the algorithm, its order (bias, mask, penalties,
 * top_k, top_p, min_p, temperature) and the reasons for it stand in sample_core.h, which backends
 * include to draw on the device. Plain functions without state: any thread, given its own scratch.
 * Nothing allocates. The same row, parameters, history and position give the same token, whatever
 * else is in the batch; so a whole answer repeats exactly with its seed.
 */
#ifndef SLUICE_SAMPLE_SAMPLE_H
#define SLUICE_SAMPLE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "sample/sample_core.h"

#define SAMPLING_BIASES_MAX 4096

struct sampling {
    float temperature; /* 0: greedy, the most probable token, lowest id on ties */
    int32_t top_k;     /* keep the k most probable; 0: off */
    float top_p;       /* keep the fewest most probable with this share together; 1: off */
    float min_p;       /* keep those at least this fraction as probable as the first; 0: off */
    /* For each distinct token among the last repeat_last_n of prompt and output: a positive logit
     * is divided by repeat_penalty, a negative one multiplied. 1: off. */
    float repeat_penalty;
    int32_t repeat_last_n; /* 0: off, -1: the whole context */
    /* OpenAI's: over generated tokens only, logit -= count * frequency + (count > 0) * presence. */
    float presence_penalty;
    float frequency_penalty;
    uint64_t seed;
    /* Logit biases, first of all added to the raw logits; -infinity bans a token, a repeated id
     * adds up. [n_biases] each, borrowed: they live as long as this struct is used. */
    const int32_t *bias_ids;
    const float *bias_values;
    uint32_t n_biases;
    /* Log-probabilities are those of the raw logits: what the model said, before any bias, mask,
     * penalty or temperature. They can be -infinity. */
    bool logprobs;           /* of the chosen token */
    uint32_t n_top_logprobs; /* and of the most probable ones; 0..SAMPLING_TOP_MAX */
};

/* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalties (last_n 64), seed 0, no biases. */
void sampling_defaults(struct sampling *out);

/* STATUS_USAGE naming the parameter, its value and the allowed range. Everything else here assumes
 * a validated struct. */
enum status sampling_validate(const struct sampling *s, uint32_t n_vocab, struct error *err);

/* The device form; n_prompt: positions before it are not "generated". bias_offset is 0. */
struct sampling_row sampling_row_from(const struct sampling *s, uint32_t n_prompt);

/* Bytes of scratch for a vocabulary, 0 on overflow; any content, aligned to 4. */
size_t sampling_scratch_bytes(uint32_t n_vocab);
/* Points in->work and in->ids into it, after n_vocab was set. */
void sampling_use_scratch(struct sampling_input *in, void *scratch);

/* STATUS_OK for SAMPLING_DRAWN; else an error that says what a failed draw means. */
enum status sampling_failure_status(int32_t failed, struct error *err);

/* Draws one token on the host; the biases are taken from s, not from in. */
enum status sampling_draw(const struct sampling *s, uint32_t n_prompt,
                          const struct sampling_input *in, struct sampling_draw *out,
                          struct error *err);

#endif
