/*
 * What the parser of model output gives for a text, told as text, with the text cut at every byte.
 */
#ifndef SLUICE_TESTS_OUTPUT_EVENTS_H
#define SLUICE_TESTS_OUTPUT_EVENTS_H

#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "text/chat/output_parser.h"

/* Events as text: neighbouring pieces of one kind joined, "C(..)", "R(..)", "T(name|arguments)". */
struct recorded {
    struct buf text;
    int last; /* kind, or -1 */
};

static inline bool record(void *context, const struct output_event *event)
{
    struct recorded *r = context;
    static const char letters[] = "CRT";
    if ((int)event->kind != r->last || event->kind == OUTPUT_TOOL_CALL) {
        if (r->last >= 0)
            buf_append_cstr(&r->text, ")");
        buf_append_char(&r->text, letters[event->kind]);
        buf_append_char(&r->text, '(');
    }
    r->last = (int)event->kind;
    if (event->kind == OUTPUT_TOOL_CALL) {
        buf_append_str(&r->text, event->name);
        buf_append_char(&r->text, '|');
        buf_append_str(&r->text, event->arguments);
    } else {
        assert_true(event->text.len > 0);
        buf_append_str(&r->text, event->text);
    }
    return true;
}

static inline void parse_in_pieces(const struct output_style *style, bool opens, struct str text,
                                   size_t first, size_t piece, struct recorded *out)
{
    struct output_parser *parser;
    struct error err = {0};
    *out = (struct recorded){.last = -1};
    assert_ok(output_parser_create(style, opens, &parser, &err), &err);
    for (size_t at = 0, n; at < text.len; at += n) {
        n = at == 0 && first ? first : piece;
        n = n > text.len - at ? text.len - at : n;
        /* A copy of exactly the piece, so that reading past it is noticed. */
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, text.data + at, n);
        assert_ok(output_parser_push(parser, (struct str){copy, n}, record, out, &err), &err);
        free(copy);
    }
    assert_ok(output_parser_finish(parser, record, out, &err), &err);
    if (out->last >= 0)
        buf_append_cstr(&out->text, ")");
    output_parser_free(parser);
}

static inline void assert_events(const char *template_text, bool opens, const char *text,
                                 const char *expected)
{
    const struct output_style *style = output_style_detect(str_from(template_text));
    struct str all = str_from(text);
    struct recorded got;
    for (size_t cut = 0; cut <= all.len; cut++) {
        /* Two pieces cut at every byte, and all pieces of that size. */
        parse_in_pieces(style, opens, all, cut, all.len, &got);
        assert_string_equal(got.text.data ? got.text.data : "", expected);
        buf_release(&got.text);
        parse_in_pieces(style, opens, all, 0, cut + 1, &got);
        assert_string_equal(got.text.data ? got.text.data : "", expected);
        buf_release(&got.text);
    }
}

#endif
