/*
 * A vocabulary as plain data: what the readers in format/ fill in and the tokenizer consumes.
 *
 * `text` knows no files; a reader calls the functions below, which check every id, kind, count and
 * duplicate, so that a finished vocabulary is consistent whatever it was read from. Token texts are
 * kept as stored: for byte-level BPE a normal token's text is GPT-2's printable form of its bytes
 * (one character per byte), a control or user-defined token's text is the text itself.
 *
 * Everything is owned by the vocabulary (its arena) and copied from what the caller passes. Errors
 * name the field through the `what` argument. One thread builds; afterwards it is read-only.
 */
#ifndef SLUICE_TEXT_TOKENIZER_VOCABULARY_H
#define SLUICE_TEXT_TOKENIZER_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/str.h"
#include "base/strmap.h"

#define VOCABULARY_TOKENS_MAX      (1u << 22)
#define VOCABULARY_MERGES_MAX      (1u << 22)
#define VOCABULARY_TOKEN_BYTES_MAX (1u << 16)
#define VOCABULARY_SPLITS_MAX      16
#define VOCABULARY_PATTERN_MAX     (1u << 14) /* bytes of one regular expression */
#define VOCABULARY_NONE            (-1)       /* "no such token" in an id field */

/* The algorithm that turns a piece of text into ids. */
enum vocabulary_kind {
    VOCABULARY_BYTE_BPE, /* byte-level byte pair encoding (GPT-2 and its heirs) */
};

/* Numbered as in GGUF's tokenizer.ggml.token_type. */
enum token_kind {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,      /* steers the model; never made from untrusted text */
    TOKEN_USER_DEFINED = 4, /* an added token that is ordinary text (<think>); parsed everywhere */
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

struct vocabulary_token {
    struct str text; /* data NULL: an id without a token (a hole) */
    float score;
    uint8_t kind; /* enum token_kind */
    /* How an added token (control, user-defined, unknown) matches, as in tokenizer.json. */
    bool lstrip, rstrip; /* swallows white space to the left, to the right */
    bool single_word;    /* not inside a word */
    bool normalized;     /* searched in the normalized text, else in the text as given */
};

/* Rank is the index: lower merges first. */
struct vocabulary_merge {
    uint32_t left, right, result;
};

enum vocabulary_split_keep {
    VOCABULARY_SPLIT_ISOLATED, /* matches and the text between them are pieces */
    VOCABULARY_SPLIT_MATCHES,  /* only matches are pieces; the text between is dropped */
    VOCABULARY_SPLIT_GAPS,     /* only the text between matches */
};

/* One step of pre-tokenization: a regular expression (Oniguruma syntax, as tokenizer.json has it).
 * Steps apply one after the other, each to the pieces of the one before. */
struct vocabulary_split {
    struct str pattern;
    enum vocabulary_split_keep keep;
};

enum vocabulary_normalizer { VOCABULARY_NORMALIZER_NONE, VOCABULARY_NORMALIZER_NFC };

struct vocabulary {
    struct arena arena;    /* owns everything that is pointed to below */
    struct strmap by_text; /* text -> id; holes are not in it */
    enum vocabulary_kind kind;
    enum vocabulary_normalizer normalizer;
    bool ignore_merges; /* a piece that is a token as a whole is not merged */
    bool add_bos, add_eos;
    int32_t bos, eos, eot, unk, pad; /* VOCABULARY_NONE if absent */
    uint32_t n_tokens;
    struct vocabulary_token *tokens; /* [n_tokens] */
    uint32_t n_merges, merges_capacity;
    struct vocabulary_merge *merges; /* [n_merges] */
    uint32_t n_splits;
    struct vocabulary_split splits[VOCABULARY_SPLITS_MAX];
    uint32_t n_ends, ends_capacity;
    int32_t *ends; /* [n_ends] tokens that end a turn; complete after vocabulary_finish() */
};

/* Pre-tokenizers that models name instead of spelling out. */
extern const char VOCABULARY_SPLIT_GPT2[];
extern const char VOCABULARY_SPLIT_QWEN2[];
extern const char VOCABULARY_SPLIT_LLAMA3[];

void vocabulary_init(struct vocabulary *vocabulary);
/* Frees everything; the struct is then as after vocabulary_init(). */
void vocabulary_release(struct vocabulary *vocabulary);

/* First call: makes n_tokens ids, all holes. */
enum status vocabulary_set_size(struct vocabulary *vocabulary, uint64_t n_tokens, const char *what,
                                struct error *err);
/* Fills a hole. Errors: id out of range or taken, kind unknown, text too long or already there.
 * Empty texts are allowed more than once (they never match). */
enum status vocabulary_set_token(struct vocabulary *vocabulary, uint64_t id, struct str text,
                                 int64_t kind, const char *what, struct error *err);
/* Id of a text, or VOCABULARY_NONE. */
int32_t vocabulary_find(const struct vocabulary *vocabulary, struct str text);

/* All tokens come before the merges. Errors: too many; a part, or the two joined, is no token. */
enum status vocabulary_reserve_merges(struct vocabulary *vocabulary, uint64_t count,
                                      const char *what, struct error *err);
enum status vocabulary_add_merge(struct vocabulary *vocabulary, struct str left, struct str right,
                                 const char *what, struct error *err);
/* "left right", as GGUF and older tokenizer.json files store it. */
enum status vocabulary_add_merge_line(struct vocabulary *vocabulary, struct str line,
                                      const char *what, struct error *err);

enum status vocabulary_add_split(struct vocabulary *vocabulary, struct str pattern,
                                 enum vocabulary_split_keep keep, struct error *err);
/* Checks the range and stores; `field` is one of the id members, e.g. &vocabulary->bos. */
enum status vocabulary_set_id(struct vocabulary *vocabulary, int32_t *field, int64_t id,
                              const char *what, struct error *err);
/* Adds to `ends`; an id that is there already is no error. */
enum status vocabulary_add_end(struct vocabulary *vocabulary, int64_t id, const char *what,
                               struct error *err);
/* Last call: completes `ends` with eos, eot and control tokens whose names are known to end a turn
 * (<|im_end|>, <|eot_id|>, ...). */
enum status vocabulary_finish(struct vocabulary *vocabulary, struct error *err);

#endif
