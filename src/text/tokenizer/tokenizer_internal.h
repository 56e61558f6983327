/* What the files of the tokenizer share: its tables. Not for anyone else. */
#ifndef SLUICE_TEXT_TOKENIZER_TOKENIZER_INTERNAL_H
#define SLUICE_TEXT_TOKENIZER_TOKENIZER_INTERNAL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "base/strmap.h"
#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/splitter.h"
#include "text/tokenizer/tokenizer.h"

/* What is known of a token's own bytes as a piece: see tokenizer_encode.c. */
enum whole_state { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct token_entry {
    struct str piece; /* bytes; data NULL for a hole */
    uint8_t kind;
    bool end, lstrip, rstrip, single_word;
};

struct tokenizer {
    struct arena arena;
    uint32_t n_tokens;
    struct token_entry *tokens;     /* [n_tokens] */
    struct strmap normal;           /* bytes -> id of normal tokens */
    struct strmap other;            /* text -> id of the others */
    size_t longest_normal;          /* bytes */
    struct added_tokens raw;        /* searched in the text as given */
    struct added_tokens normalized; /* searched in the normalized text */
    enum vocabulary_normalizer normalizer;
    bool ignore_merges, add_bos, add_eos;
    int32_t bos, eos, eot, unk, pad;
    int32_t *ends; /* [n_ends] */
    size_t n_ends;
    struct bpe bpe;
    struct splitter *splitter; /* owned */
    /* [n_tokens] enum whole_state; a cache that any thread may fill, each entry with the one value
     * it can have, so relaxed order is enough. */
    _Atomic uint8_t *whole;
};

#endif
