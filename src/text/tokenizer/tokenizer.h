/*
 * Text to token ids and back.
 *
 * A tokenizer is built once from a vocabulary, copies what it needs (the vocabulary may be released
 * afterwards) and is then shared: every function that takes a const tokenizer may run on any number
 * of threads at once. Working memory lives in the call.
 *
 * How a text is encoded (the order is that of Hugging Face tokenizers, so the ids are too):
 *   1. Added tokens are cut out of the text: leftmost first, the longest that may match there.
 *      User-defined ones match everywhere. Control tokens match according to the options: in a chat
 *      only wholly inside trusted bytes, so that nothing a user typed ever becomes one; a control
 *      token that may not match is as if it were not in the vocabulary.
 *   2. What lies between is normalized (NFC where the vocabulary asks for it), split by the
 *      pre-tokenizer, and each piece is merged. This ignores span borders.
 *
 * Any bytes can be encoded. Bytes that are not UTF-8 are left alone by the normalizer, count as a
 * symbol of their own for the splitter, and become the tokens of their bytes. A byte for which the
 * vocabulary has no token becomes unk, or nothing where there is no unk (as the reference does).
 */
#ifndef SLUICE_TEXT_TOKENIZER_TOKENIZER_H
#define SLUICE_TEXT_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "text/span.h"
#include "text/tokenizer/vocabulary.h"

#define TOKENIZER_TEXT_MAX (1u << 30) /* bytes in one call */

struct tokenizer;

/* STATUS_MODEL if a pattern does not compile, STATUS_UNSUPPORTED for what we do not know. */
enum status tokenizer_create(const struct vocabulary *vocabulary, struct tokenizer **out,
                             struct error *err);
void tokenizer_free(struct tokenizer *tokenizer); /* NULL allowed */

enum tokenizer_specials {
    TOKENIZER_SPECIALS_NONE,    /* control tokens are plain text */
    TOKENIZER_SPECIALS_TRUSTED, /* control tokens only wholly inside trusted spans (chat) */
    TOKENIZER_SPECIALS_ALL,     /* control tokens everywhere (raw completions) */
};

struct tokenizer_options {
    enum tokenizer_specials specials;
    bool add_bos, add_eos; /* put bos first, eos last, if the vocabulary has them */
};

/* A growing list of ids; zeroed is valid and empty. */
struct token_list {
    int32_t *ids; /* owned */
    size_t count, capacity;
};
void token_list_release(struct token_list *list);
bool token_list_add(struct token_list *list, int32_t id); /* false: no memory */

/* Appends the ids of `text` to `out`. spans: see text/span.h; they matter only with
 * TOKENIZER_SPECIALS_TRUSTED. On error `out` is as before the call. Errors: STATUS_USAGE for spans
 * out of order or range, STATUS_LIMIT for a text or a regular expression that went past a limit. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, struct str text,
                             const struct text_span *spans, size_t n_spans,
                             const struct tokenizer_options *options, struct token_list *out,
                             struct error *err);

uint32_t tokenizer_count(const struct tokenizer *tokenizer);
/* The bytes of a token; maybe part of a code point. Empty for ids that have no token. Lives as long
 * as the tokenizer. */
struct str tokenizer_piece(const struct tokenizer *tokenizer, int64_t id);
/* Mask, a bit for each of the first n_ids tokens: those whose text contains one of the texts (empty
 * ones and NULL count for nothing). mask: [(n_ids + 31) / 32]. */
void tokenizer_find_containing(const struct tokenizer *tokenizer, const char *const *texts,
                               size_t n_texts, uint32_t n_ids, uint32_t *mask);
bool tokenizer_is_control(const struct tokenizer *tokenizer, int64_t id);
/* True for tokens that end a turn: eos, eot, the model's own list, and well-known names. */
bool tokenizer_is_end(const struct tokenizer *tokenizer, int64_t id);
/* [*count] the ids for which tokenizer_is_end() holds. */
const int32_t *tokenizer_ends(const struct tokenizer *tokenizer, size_t *count);
/* Id of the token that stands for exactly these bytes (added tokens first), or VOCABULARY_NONE. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, struct str text);

/* VOCABULARY_NONE if the model has none. */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);
int32_t tokenizer_eos(const struct tokenizer *tokenizer);
int32_t tokenizer_unk(const struct tokenizer *tokenizer);
int32_t tokenizer_pad(const struct tokenizer *tokenizer);
/* What the model's metadata says about raw text. */
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);
bool tokenizer_adds_eos(const struct tokenizer *tokenizer);

/* Appends the text of `ids`: always valid UTF-8, U+FFFD for bytes that are none (one for each
 * maximal part of a broken sequence). skip_control leaves control tokens out. STATUS_USAGE for an
 * id outside the vocabulary, naming its position. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool skip_control, struct buf *out, struct error *err);

/* Streaming: takes the bytes of one token after the other and emits whole code points only. The
 * pieces concatenated (with the flush) equal tokenizer_decode() of all ids. Zeroed is the start. */
struct detokenizer {
    uint8_t held[4];
    uint8_t n_held;
};
void detokenizer_push(struct detokenizer *detokenizer, struct str bytes, struct buf *out);
/* Ends the text: what is still held is an incomplete sequence and becomes U+FFFD. */
void detokenizer_flush(struct detokenizer *detokenizer, struct buf *out);

#endif
