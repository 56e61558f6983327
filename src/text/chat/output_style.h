/*
 * The table of output styles: what marks reasoning and tool calls in a model's text. Internal to
 * text/chat; a further format is an entry in output_style.c and, if its calls read differently, a
 * function in output_calls.c that reads one.
 */
#ifndef SLUICE_TEXT_CHAT_OUTPUT_STYLE_H
#define SLUICE_TEXT_CHAT_OUTPUT_STYLE_H

#include <stdbool.h>

#include "base/str.h"

struct output_call {
    struct buf name, arguments; /* owned */
};

/* Reads the call that begins at `at` of what stands between the markers; the place behind it (the end
 * behind the last), or SIZE_MAX: it is no call. */
typedef size_t output_read_call(struct str body, size_t at, struct output_call *call);

struct output_style {
    const char *name;
    const char *signs[3]; /* all of them stand in the template's text; NULL ends the list */
    const char *think_open, *think_close; /* NULL: no reasoning */
    const char *call_open, *call_close;   /* NULL: no calls; no close: up to the next, or the end */
    output_read_call *read_call;
    bool bare_calls; /* an answer that is a JSON call from its first byte on is one */
    bool harmony;    /* gpt-oss: every part has a header */
};

/* {"name": ..., "arguments" or "parameters": {...}}, one, or several with , ; or space between, or a
 * list of them. */
output_read_call output_read_json;
/* What stands in <tool_call>: JSON, or Qwen's <function=f><parameter=p>, or GLM's <arg_key>. */
output_read_call output_read_tool_call;
/* The same where the template is GLM's: a name alone is a call without arguments. */
output_read_call output_read_glm;
/* Mistral: JSON, or name[ARGS]{...}, with [CALL_ID]id in between or without. */
output_read_call output_read_mistral;
output_read_call output_read_deepseek;
output_read_call output_read_kimi;

/* Whether a body is JSON, by its first byte. */
bool output_style_is_json(struct str body);

enum output_bare { OUTPUT_BARE_NO, OUTPUT_BARE_MAYBE, OUTPUT_BARE_CALL };
/* Whether a text begins as a call without markers does. */
enum output_bare output_style_bare_call(struct str text);

#endif
