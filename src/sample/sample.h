/*
 * sample: choosing the next token from a row of logits.
 *
 * The meaning of the parameters is defined here; the algorithm, its order and the reasons for it
 * stand in sample_core.h, which backends include to draw on the device. Plain functions without state: any thread, given its own scratch.
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
    /* DRY: a token that would lengthen a repetition of the last n >= dry_allowed_length tokens
     * loses dry_multiplier * dry_base^(n - dry_allowed_length). Looks back dry_last_n tokens; no
     * repetition reaches across a breaker (sampling_input.breakers). Multiplier 0: off. */
    float dry_multiplier, dry_base;
    int32_t dry_allowed_length;
    int32_t dry_last_n; /* 0: off, -1: the whole context */
    float top_n_sigma;  /* keep logits within n standard deviations of the highest; 0: off */
    float typical_p;    /* keep the tokens of most expected surprise with this share; 1: off */
    /* With this probability drop all tokens of at least xtc_threshold but the least likely of
     * them. 0: off; a threshold above 0.5 can never have two and is off as well. */
    float xtc_probability, xtc_threshold;
    /* 1 or 2: that version of mirostat in place of all cuts; aims at a surprise of tau bits. The
     * caller carries sampling_draw.mirostat_mu to the next draw's sampling_row. */
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
    uint32_t order; /* of the cuts: sampling_order_parse() */
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

/* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalties (last_n 64), all else off (DRY base
 * 1.75, allowed length 2, whole context; xtc threshold 0.1; mirostat tau 5, eta 0.1), the default
 * order, seed 0, no biases. */
void sampling_defaults(struct sampling *out);

/* STATUS_USAGE naming the parameter, its value and the allowed range. Everything else here assumes
 * a validated struct. */
enum status sampling_validate(const struct sampling *s, uint32_t n_vocab, struct error *err);

/* "top_k;top_p;temperature": stages by name (top_n_sigma, top_k, typical_p, top_p, min_p, xtc,
 * temperature), separated by ';' or ','; each at most once. A stage that is left out does not
 * happen, except temperature, which then comes last. STATUS_USAGE naming a word it does not know. */
enum status sampling_order_parse(const char *text, uint32_t *order, struct error *err);
/* True if a draw reads the history of tokens. */
bool sampling_reads_history(const struct sampling *s);

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
