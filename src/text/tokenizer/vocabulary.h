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
#define VOCABULARY_NORMALIZERS_MAX 16
#define VOCABULARY_AFFIX_MAX       8 /* ids that a post-processor puts before, or behind, a text */
#define VOCABULARY_PATTERN_MAX     (1u << 14) /* bytes of one regular expression */
#define VOCABULARY_NONE            (-1)       /* "no such token" in an id field */

/* The algorithm that turns a piece of text into ids. */
enum vocabulary_kind {
    VOCABULARY_BYTE_BPE,  /* byte-level byte pair encoding (GPT-2 and its heirs) */
    VOCABULARY_CHAR_BPE,  /* byte pair encoding over characters (SentencePiece, Llama 2, Gemma) */
    VOCABULARY_UNIGRAM,   /* the most probable segmentation (T5, XLNet) */
    VOCABULARY_WORDPIECE, /* the longest token first (BERT) */
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

/* The lowest rank merges first; of equal ranks the leftmost pair. Parts may also be one of the
 * `symbols` (id n_tokens + index): characters that only exist inside of tokens. */
struct vocabulary_merge {
    uint32_t left, right, result, rank;
};

enum vocabulary_split_keep {
    VOCABULARY_SPLIT_ISOLATED, /* matches and the text between them are pieces */
    VOCABULARY_SPLIT_MATCHES,  /* only matches are pieces; the text between is dropped */
    VOCABULARY_SPLIT_GAPS,     /* only the text between matches */
    VOCABULARY_SPLIT_PREVIOUS, /* a match belongs to the piece before it */
    VOCABULARY_SPLIT_NEXT,     /* ... to the piece behind it */
    VOCABULARY_SPLIT_RUNS,     /* as isolated, but matches that touch are one piece */
};

/* Where a Metaspace step, or a dummy prefix, puts its space. */
enum vocabulary_prefix {
    VOCABULARY_PREFIX_NEVER,
    VOCABULARY_PREFIX_FIRST,         /* at the start of the whole text */
    VOCABULARY_PREFIX_AFTER_CONTROL, /* there, and behind every control token */
    VOCABULARY_PREFIX_ALWAYS,        /* before every stretch between added tokens */
};

/* One step of pre-tokenization: a regular expression (Oniguruma syntax, as tokenizer.json has it),
 * or, with an empty pattern, Metaspace: each space becomes U+2581, one is put in front where there
 * is none, and (with `split`) pieces begin at each. Steps apply one after the other, each to the
 * pieces of the one before. */
struct vocabulary_split {
    struct str pattern;
    enum vocabulary_split_keep keep;
    enum vocabulary_prefix prefix; /* Metaspace */
    bool split;                    /* Metaspace */
};

/* One step of normalization; a sequence of them applies one after the other. */
enum vocabulary_normalizer_kind {
    VOCABULARY_NORMALIZER_NFC,
    VOCABULARY_NORMALIZER_NFD,
    VOCABULARY_NORMALIZER_NFKC,
    VOCABULARY_NORMALIZER_NFKD,
    VOCABULARY_NORMALIZER_LOWERCASE,
    VOCABULARY_NORMALIZER_STRIP_ACCENTS, /* drops marks (category M) */
    VOCABULARY_NORMALIZER_STRIP,         /* white space at the ends: left, right */
    VOCABULARY_NORMALIZER_PREPEND,       /* content, unless the text is empty */
    VOCABULARY_NORMALIZER_REPLACE,       /* pattern (a literal, or with `regex` an expression) */
    VOCABULARY_NORMALIZER_NMT,           /* drops control characters, makes odd spaces spaces */
    VOCABULARY_NORMALIZER_BERT_CLEAN,    /* drops control characters, white space becomes spaces */
    VOCABULARY_NORMALIZER_BERT_CHINESE,  /* puts spaces around ideographs */
    VOCABULARY_NORMALIZER_CHARSMAP,      /* content: SentencePiece's precompiled map */
    VOCABULARY_NORMALIZER_SPACES,        /* SentencePiece: squeeze (left), dummy prefix, escape */
};
struct vocabulary_normalizer {
    enum vocabulary_normalizer_kind kind;
    struct str pattern, content;
    bool regex;       /* REPLACE */
    bool left, right; /* STRIP; SPACES: left drops leading, trailing and doubled spaces */
    bool nonspacing;  /* STRIP_ACCENTS: only marks of category Mn */
    bool graphemes;   /* CHARSMAP: looks up whole graphemes, as Hugging Face does */
    enum vocabulary_prefix prefix; /* SPACES */
};

/* How ids become text again; see tokenizer_decode.c. */
struct vocabulary_decoder {
    bool metaspace;         /* U+2581 is a space */
    bool drop_first_spaces; /* ... except in the first token, where it is nothing */
    unsigned strip_start;   /* spaces dropped at the start of the text */
    unsigned strip_end;     /* ... at its end */
    struct str word_prefix; /* WordPiece: marks a token that continues a word */
    bool words;             /* a space before every token that continues no word */
    bool cleanup;           /* WordPiece: no space before punctuation and contractions */
    struct str word_suffix; /* ends a word, so it is a space, but nothing at the end */
    bool sentencepiece;     /* control tokens are nothing, unk is U+2047 between spaces */
};

struct vocabulary {
    struct arena arena;    /* owns everything that is pointed to below */
    struct strmap by_text; /* text -> id; holes are not in it */
    enum vocabulary_kind kind;
    bool ignore_merges;     /* a piece that is a token as a whole is not merged */
    bool byte_fallback;     /* a character without a token becomes the TOKEN_BYTEs of its bytes */
    bool fuse_unk;          /* neighbouring unknowns are one */
    bool prefix_space;      /* byte-level: text that starts with no space gets one */
    bool float_scores;      /* Unigram: sums are rounded to float, as SentencePiece does */
    struct str end_of_word; /* BPE: belongs to the last symbol of a piece */
    struct str continuing_word; /* WordPiece: begins each token inside a word ... */
    struct str starting_word;   /* ... or, GGUF: begins each token that starts one */
    uint32_t word_chars_max;    /* WordPiece: a longer word is unknown */
    bool add_bos, add_eos;
    int32_t bos, eos, eot, unk, pad; /* VOCABULARY_NONE if absent */
    /* What add_bos and add_eos add: these, or bos and eos where there are none. */
    uint32_t n_before, n_behind;
    int32_t before[VOCABULARY_AFFIX_MAX], behind[VOCABULARY_AFFIX_MAX];
    uint32_t n_normalizers;
    struct vocabulary_normalizer normalizers[VOCABULARY_NORMALIZERS_MAX];
    struct vocabulary_decoder decoder;
    uint32_t n_symbols;
    uint32_t *symbols; /* [n_symbols] code points */
    uint32_t n_tokens;
    struct vocabulary_token *tokens; /* [n_tokens] */
    uint32_t n_merges, merges_capacity;
    struct vocabulary_merge *merges; /* [n_merges] */
    uint32_t n_splits;
    struct vocabulary_split splits[VOCABULARY_SPLITS_MAX];
    uint32_t n_ends, ends_capacity;
    int32_t *ends; /* [n_ends] tokens that end a turn; complete after vocabulary_finish() */
};

/* Patterns that models name instead of spelling out, or that are matched without PCRE2. */
extern const char VOCABULARY_SPLIT_GPT2[];
extern const char VOCABULARY_SPLIT_QWEN2[];
extern const char VOCABULARY_SPLIT_QWEN35[];
extern const char VOCABULARY_SPLIT_LLAMA3[];
extern const char VOCABULARY_SPLIT_GPT4O[];
extern const char VOCABULARY_SPLIT_TEKKEN[];
extern const char VOCABULARY_SPLIT_KIMI[];           /* behind its runs of Han */
extern const char VOCABULARY_SPLIT_GROUPS[];         /* three digits, counted from the right */
extern const char VOCABULARY_SPLIT_GROUPS_BOUNDED[]; /* ... unless a word goes on behind them */
extern const char VOCABULARY_SPLIT_CJK[];            /* DeepSeek's second step */
extern const char VOCABULARY_SPLIT_DEEPSEEK3[];      /* ... and its third */
extern const char VOCABULARY_SPLIT_BERT[];           /* one punctuation character */
extern const char VOCABULARY_SPLIT_CLIP[];

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

/* For vocabularies that have scores instead of merges (SentencePiece): every way to put a token
 * together from two tokens or characters is a merge, ranked by the token's score. */
enum status vocabulary_merges_from_scores(struct vocabulary *vocabulary, const char *what,
                                          struct error *err);

enum status vocabulary_add_split(struct vocabulary *vocabulary, struct str pattern,
                                 enum vocabulary_split_keep keep, struct error *err);
enum status vocabulary_add_metaspace(struct vocabulary *vocabulary, enum vocabulary_prefix prefix,
                                     bool split, struct error *err);
/* Copies pattern and content. */
enum status vocabulary_add_normalizer(struct vocabulary *vocabulary,
                                      const struct vocabulary_normalizer *step, struct error *err);
/* Adds to `before` or `behind`. */
enum status vocabulary_add_affix(struct vocabulary *vocabulary, bool behind, int64_t id,
                                 const char *what, struct error *err);
/* One of the texts of a vocabulary (end_of_word, ...). */
enum status vocabulary_set_text(struct vocabulary *vocabulary, struct str *field, struct str text,
                                struct error *err);
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
