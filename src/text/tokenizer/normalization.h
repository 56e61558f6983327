/*
 * The normalizer of a vocabulary: its steps, one after the other.
 *
 * Read-only after normalization_init() (any thread); a normalization_run is the working memory of
 * one call. Text may hold anything; steps leave bytes that are not UTF-8 alone.
 */
#ifndef SLUICE_TEXT_TOKENIZER_NORMALIZATION_H
#define SLUICE_TEXT_TOKENIZER_NORMALIZATION_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"
#include "text/tokenizer/charsmap.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/vocabulary.h"

struct normalization_step {
    struct vocabulary_normalizer rule; /* its texts are owned by `bytes` */
    uint8_t ascii[128];                /* for steps that go by character: what becomes of ASCII */
    struct regex regex;
    struct charsmap charsmap;
    struct buf bytes; /* pattern, then content */
};

struct normalization {
    size_t n_steps;
    struct normalization_step *steps; /* owned */
    enum vocabulary_prefix prefix;    /* of the SPACES step; NEVER where there is none */
};

/* STATUS_MODEL: a pattern or a map that cannot be used. Copies what it needs. */
enum status normalization_init(struct normalization *normalization,
                               const struct vocabulary *vocabulary, struct error *err);
void normalization_release(struct normalization *normalization);
/* Whether it is form C alone, whose map from source to output is known. */
bool normalization_is_nfc(const struct normalization *normalization);

/* Zeroed is valid. */
struct normalization_run {
    struct buf buffers[2]; /* owned */
    struct regex_run regex;
};
void normalization_run_close(struct normalization_run *run);

/* Where a stretch of text lies between added tokens, for the SPACES step. */
struct normalization_place {
    bool prefix; /* a space is put in front */
    bool starts; /* leading spaces are of the start of the text, not behind something */
    bool ends;   /* trailing ones are of its end */
};

/* *out is `text` itself where nothing changes, else it lies in the run, until the next call. */
enum status normalization_apply(const struct normalization *normalization,
                                struct normalization_run *run, struct str text,
                                struct normalization_place place, struct str *out,
                                struct error *err);

#endif
