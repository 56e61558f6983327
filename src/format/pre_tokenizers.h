/*
 * The pre-tokenizers that GGUF files name in tokenizer.ggml.pre. Internal to vocabulary_gguf.c.
 */
#ifndef SLUICE_FORMAT_PRE_TOKENIZERS_H
#define SLUICE_FORMAT_PRE_TOKENIZERS_H

#include <stdbool.h>

#include "base/str.h"

#define PRE_STEPS_MAX 6

struct pre_tokenizer {
    const char *name;
    /* What the name implies besides the split: a piece that is a token is not merged; bos is added
     * where the file does not say; text is normalized to form C. */
    bool ignore_merges, add_bos, nfc;
    const char *steps[PRE_STEPS_MAX]; /* patterns, each isolating its matches; NULL ends the list */
};

/* NULL: not known. */
const struct pre_tokenizer *pre_tokenizer_find(struct str name);

#endif
