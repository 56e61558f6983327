/* What the files of the tokenizer share: its tables. Not for anyone else. */
#ifndef SLUICE_TEXT_TOKENIZER_TOKENIZER_INTERNAL_H
#define SLUICE_TEXT_TOKENIZER_TOKENIZER_INTERNAL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "base/strmap.h"
#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/normalization.h"
#include "text/tokenizer/piece_cache.h"
#include "text/tokenizer/splitter.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/unigram.h"
#include "text/tokenizer/wordpiece.h"

#define METASPACE STR_LIT("\xe2\x96\x81") /* U+2581, a space inside of tokens */

/* What is known of a token's own text as a piece: see tokenizer_encode.c. */
enum whole_state { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct token_entry {
    struct str piece; /* bytes; data NULL for a hole */
    struct str text;  /* as in the vocabulary */
    uint8_t kind;
    bool end, lstrip, rstrip, single_word;
};

struct tokenizer {
    struct arena arena;
    enum vocabulary_kind kind;
    uint32_t n_tokens;
    struct token_entry *tokens;     /* [n_tokens] */
    struct strmap normal;           /* what is encoded (bytes, or text) -> id of normal tokens */
    struct strmap other;            /* text -> id of the others */
    size_t longest_normal;          /* bytes */
    struct added_tokens raw;        /* searched in the text as given */
    struct added_tokens normalized; /* searched in the normalized text */
    struct normalization normalization;
    struct splitter *splitter; /* owned */
    struct vocabulary_decoder decoder;
    bool ignore_merges, prefix_space, fuse_unk, add_bos, add_eos;
    /* Long pieces are cut where no token reaches across: see tokenizer_encode.c. */
    bool cuts;
    bool joins_metaspace[256]; /* before U+2581, behind a character that ends in this byte */
    uint64_t joins[128][2];    /* between these two of ASCII: bit of the second */
    int32_t bos, eos, unk, pad;
    uint32_t n_before, n_behind;
    int32_t before[VOCABULARY_AFFIX_MAX], behind[VOCABULARY_AFFIX_MAX];
    int32_t *ends; /* [n_ends] */
    size_t n_ends;
    struct bpe bpe; /* by kind, one of these three */
    struct unigram unigram;
    struct wordpiece wordpiece;
    /* [n_tokens] enum whole_state; a cache that any thread may fill, each entry with the one value
     * it can have, so relaxed order is enough. */
    _Atomic uint8_t *whole;
    struct piece_cache_pool *pieces; /* owned; calls change it, so it lies apart */
};

/* Appends what a token that is not byte-level stands for; first, last: it is the first, the last
 * of a text. */
void tokenizer_token_text(const struct vocabulary_decoder *decoder, const struct token_entry *entry,
                          bool first, bool last, struct buf *out);

#endif
