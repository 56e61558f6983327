/*
 * String operations that filters and methods share; all carry trust. NULL or false: the run failed.
 */
#ifndef SLUICE_TEXT_JINJA_TEXT_OPS_H
#define SLUICE_TEXT_JINJA_TEXT_OPS_H

#include "text/jinja/run.h"

enum text_case {
    CASE_UPPER,
    CASE_LOWER,
    CASE_FOLD,
    CASE_SWAP,
    CASE_CAPITALIZE, /* first upper, rest lower */
    CASE_TITLE,      /* str.title(): after every character that is no letter */
    CASE_WORDS,      /* the filter `title`: after white space and opening brackets and hyphens */
};

enum text_side { SIDE_LEFT = 1, SIDE_RIGHT = 2, SIDE_BOTH = 3 };

const struct jinja_text *text_change_case(struct jinja_run *run, const struct jinja_text *text,
                                          enum text_case how);
/* chars NULL: white space. */
const struct jinja_text *text_strip(struct jinja_run *run, const struct jinja_text *text,
                                    const struct jinja_text *chars, enum text_side side);
/* limit < 0: all. */
const struct jinja_text *text_replace(struct jinja_run *run, const struct jinja_text *text,
                                      const struct jinja_text *from, const struct jinja_text *to,
                                      int64_t limit);
/* Pads with `fill` to a width in code points, as str.ljust, rjust, center. */
const struct jinja_text *text_justify(struct jinja_run *run, const struct jinja_text *text,
                                      int64_t width, const struct jinja_text *fill,
                                      enum text_side side);
/* separator NULL: runs of white space. limit < 0: all. A list of texts. */
bool text_split(struct jinja_run *run, const struct jinja_text *text,
                const struct jinja_text *separator, int64_t limit, bool from_right,
                struct jinja_value *out);
bool text_split_lines(struct jinja_run *run, const struct jinja_text *text, bool keep_ends,
                      struct jinja_value *out);
/* Last occurrence that ends at or before `end`, or SIZE_MAX. */
size_t text_find_last(struct jinja_run *run, const struct jinja_text *text,
                      const struct jinja_text *needle, size_t end);

/* A list that grows. */
struct value_builder {
    struct jinja_run *run;
    struct jinja_value *items;
    size_t count, capacity;
};
bool values_add(struct value_builder *values, const struct jinja_value *value);
bool values_add_text(struct value_builder *values, const struct jinja_text *text);

/* Letters, and digits as well, of any script. */
bool char_is_letter(uint32_t c);
bool char_is_alnum(uint32_t c);

/* The argument as text or an error that names it. Missing and none give `otherwise`. */
bool argument_text(struct jinja_run *run, const struct jinja_value *argument, const char *name,
                   const struct jinja_text *otherwise, const struct jinja_text **out);
bool argument_integer(struct jinja_run *run, const struct jinja_value *argument, const char *name,
                      int64_t otherwise, int64_t *out);
bool argument_flag(const struct jinja_value *argument, bool otherwise);
/* Trusted text of a literal: an initializer, and a pointer good within the enclosing block. */
#define TEXT_INIT(literal)                                                                         \
    {                                                                                              \
        .data = (literal), .len = sizeof(literal) - 1, .n_chars = sizeof(literal) - 1,             \
        .trust = TRUST_ALL                                                                         \
    }
#define TEXT_LIT(literal) (&(const struct jinja_text)TEXT_INIT(literal))

#endif
