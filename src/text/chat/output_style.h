/*
 * The table of output styles: what marks reasoning and tool calls in a model's text. Internal to
 * text/chat; a further format is an entry in output_style.c and, if its calls read differently, a
 * function that reads one.
 */
#ifndef SLUICE_TEXT_CHAT_OUTPUT_STYLE_H
#define SLUICE_TEXT_CHAT_OUTPUT_STYLE_H

#include <stdbool.h>

#include "base/str.h"

struct output_call {
    struct buf name, arguments; /* owned */
};

struct output_style {
    const char *name;
    const char *signs[3]; /* all of them stand in the template's text; NULL ends the list */
    const char *think_open, *think_close; /* NULL: no reasoning */
    const char *call_open, *call_close;   /* NULL: no calls */
    /* Reads what stands between call_open and call_close; false: it is no call. */
    bool (*read_call)(struct str body, struct output_call *call);
};

#endif
