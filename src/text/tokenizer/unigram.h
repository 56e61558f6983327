/*
 * Unigram: of all ways to cut a piece into tokens, the one with the highest sum of scores.
 *
 * struct unigram is read-only after unigram_init() (any thread); the scratch belongs to one call.
 */
#ifndef SLUICE_TEXT_TOKENIZER_UNIGRAM_H
#define SLUICE_TEXT_TOKENIZER_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/trie.h"
#include "text/tokenizer/unknown.h"
#include "text/tokenizer/vocabulary.h"

struct unigram {
    struct trie trie;
    float *scores; /* [n_tokens] owned */
    float unk_score, highest_score;
    bool float_sums;
    struct unknown unknown;
};

struct unigram_cell {
    double score;
    uint32_t begin; /* of the token that ends here */
    int32_t id;
    float lead; /* over the second best; only unigram_measure() looks at it */
};
struct unigram_scratch {
    struct unigram_cell *cells; /* owned */
    size_t capacity;
};

/* STATUS_MODEL: a score that is no number. */
enum status unigram_init(struct unigram *unigram, const struct vocabulary *vocabulary,
                         struct error *err);
void unigram_release(struct unigram *unigram);

/* Appends the ids of text (valid UTF-8, shorter than 2^31). *sum: of the scores before the text, then
 * behind it; it matters for single precision alone, whose rounding depends on it. False: out of
 * memory. */
bool unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, struct str text,
                    double *sum, struct token_list *out);

/*
 * What single precision makes of a text depends on the sum before it, but seldom: unigram_measure()
 * cuts the text in double precision, and *margin is how far the nearest other cut lies behind (0: not
 * known; a character had no token). If unigram_holds(), rounding cannot turn that around, the ids are
 * those of unigram_encode(), and unigram_sum() is the sum behind them.
 */
bool unigram_measure(const struct unigram *unigram, struct unigram_scratch *scratch,
                     struct str text, float *margin, struct token_list *out);
bool unigram_holds(const struct unigram *unigram, double sum, float margin, size_t text_len);
double unigram_sum(const struct unigram *unigram, double sum, const int32_t *ids, size_t n);

/* The sum behind a user-defined token of `length` bytes. */
double unigram_pass(const struct unigram *unigram, double sum, size_t length);
void unigram_scratch_release(struct unigram_scratch *scratch);

#endif
