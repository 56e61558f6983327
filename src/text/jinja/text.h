/*
 * Building text with trust spans, and looking at code points.
 *
 * A builder writes into a room: bytes and trust ranges that grow by doubling. A finished text keeps
 * its room, and a builder that starts from a text which fills its room to the end continues there
 * in place: the usual `{% set out = out ~ piece %}` then costs the piece, not the whole, and old
 * values stay right because they only see their own length.
 *
 *   room:   [ a a a a | b b b | . . . . ]      text "aaaa" len 4, text "aaaabbb" len 7, used 7
 *
 * Failures (memory, the size limit, fuel) are recorded in the run; a builder checks it everywhere,
 * and only builder_finish() reports it.
 */
#ifndef SLUICE_TEXT_JINJA_TEXT_H
#define SLUICE_TEXT_JINJA_TEXT_H

#include "text/jinja/value.h"

struct jinja_run;

extern const struct jinja_text text_empty;

struct text_room {
    char *data;
    size_t used, capacity;
    struct trust_range *ranges;
    size_t n_ranges, ranges_capacity;
};

struct text_builder {
    struct jinja_run *run;
    struct text_room *room;
    size_t n_chars;
};

void builder_init(struct text_builder *b, struct jinja_run *run);
/* Begins with a whole text, in place where its room allows. */
void builder_continue(struct text_builder *b, struct jinja_run *run, const struct jinja_text *text);
void builder_bytes(struct text_builder *b, const char *data, size_t len, bool trusted);
void builder_str(struct text_builder *b, struct str bytes, bool trusted);
void builder_cstr(struct text_builder *b, const char *bytes, bool trusted);
void builder_char(struct text_builder *b, uint32_t code_point, bool trusted);
void builder_fill(struct text_builder *b, uint32_t code_point, size_t count, bool trusted);
void builder_text(struct text_builder *b, const struct jinja_text *text);
/* Bytes [begin, end) of a text, with their trust. */
void builder_slice(struct text_builder *b, const struct jinja_text *text, size_t begin, size_t end);
/* Like builder_text, with & < > ' " escaped unless the text is safe already. */
void builder_escaped(struct text_builder *b, const struct jinja_text *text);
/* NULL if the run failed. */
const struct jinja_text *builder_finish(struct text_builder *b);

/* A part of a text (whole code points), sharing its bytes. NULL if the run failed. */
const struct jinja_text *text_slice(struct jinja_run *run, const struct jinja_text *text,
                                    size_t begin, size_t end);
/* Whether the byte at `at` is trusted. */
bool text_trusted_at(const struct jinja_text *text, size_t at);
/* The same text as a safe one (or not), and with no trust at all. NULL if the run failed. */
const struct jinja_text *text_with_safe(struct jinja_run *run, const struct jinja_text *text,
                                        bool safe);
const struct jinja_text *text_untrusted(struct jinja_run *run, const struct jinja_text *text);

/* Byte offset of the code point number `index` (<= n_chars). */
size_t text_offset(const struct jinja_text *text, size_t index);
/* Decodes at `at` (< len); returns its length. */
unsigned text_decode(const struct jinja_text *text, size_t at, uint32_t *code_point);
/* Decodes the code point that ends at `end` (> 0); returns its length. */
unsigned text_decode_before(const struct jinja_text *text, size_t end, uint32_t *code_point);

static inline struct str text_str(const struct jinja_text *text)
{
    return (struct str){text->data, text->len};
}

/* Python's str.isspace() for one code point. */
bool char_is_space(uint32_t code_point);
/* Code points of valid UTF-8. */
size_t utf8_count(struct str bytes);
/* Writes up to 4 bytes; returns how many. */
unsigned utf8_encode(uint32_t code_point, char *out);

#endif
