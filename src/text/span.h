/*
 * Trust spans: which bytes of a text the template's author wrote, and which came from outside.
 *
 * The template engine returns a rendered text with its spans; the tokenizer lets a control token
 * match only inside trusted bytes. Spans are byte ranges [begin, end), sorted, not overlapping;
 * bytes that no span covers are untrusted; neighbouring trusted spans count as one.
 */
#ifndef SLUICE_TEXT_SPAN_H
#define SLUICE_TEXT_SPAN_H

#include <stdbool.h>
#include <stddef.h>

struct text_span {
    size_t begin, end;
    bool trusted;
};

#endif
