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

#define OUTPUT_SIGNS_MAX 3
#define OUTPUT_DROPS_MAX 4

/* How an answer of several messages is written, each with a header: see output_messages.c. */
struct output_messages {
    const char *header_end;
    const char *ends[6]; /* of a message; NULL ends the list */
    bool named; /* the header is the recipient's name, else words of which to=NAME is one */
};

struct output_style {
    const char *name;
    const char *signs[OUTPUT_SIGNS_MAX];  /* all stand in the template's text; NULL ends the list */
    const char *think_open, *think_close; /* NULL: no reasoning */
    const char *call_open, *call_close;   /* NULL: no calls; no close: up to the next, or the end */
    const char *call_open_other;          /* another way to open one, or NULL */
    output_read_call *read_call;
    bool bare_calls; /* an answer that is a JSON call from its first byte on is one */
    bool no_strings; /* the closing marker counts wherever it stands, also between quotes */
    const char *drops[OUTPUT_DROPS_MAX];    /* layout around answers; NULL ends the list */
    const struct output_messages *messages; /* then the markers above are not used */
};

/* {"name": ..., "arguments" or "parameters": {...}}, one, or several with , ; or space between, or a
 * list of them. */
output_read_call output_read_json;
/* The same behind the "[" of a list, which closes at the end. */
output_read_call output_read_functools;
/* What stands in <tool_call>: JSON, or Qwen's <function=f><parameter=p>, or GLM's <arg_key>. */
output_read_call output_read_tool_call;
/* The same where the template is GLM's: a name alone is a call without arguments. */
output_read_call output_read_glm;
/* Mistral: JSON, or name[ARGS]{...}, with [CALL_ID]id in between or without. */
output_read_call output_read_mistral;
output_read_call output_read_deepseek;
output_read_call output_read_kimi;
/* Apertus: a list of {"name": {...}}. */
output_read_call output_read_keyed;
/* Markup, see output_forms.c: MiniMax M2; DeepSeek since V3.2; Muse; MiniCPM5; Functionary 3.1; ... */
output_read_call output_read_invoke;
output_read_call output_read_dsml;
output_read_call output_read_atem;
output_read_call output_read_function_tag;
output_read_call output_read_function_json;
output_read_call output_read_name_line; /* Functionary 2.5: the name, a line end, arguments */
output_read_call output_read_hunyuan;
output_read_call output_read_solar;
output_read_call output_read_kimi_k3;
output_read_call output_read_minimax_m3;
/* Literals, see output_literal.c: LFM2 (or JSON); Gemma 4. */
output_read_call output_read_python;
output_read_call output_read_gemma;

/* Whether a body is JSON, by its first byte. */
bool output_style_is_json(struct str body);

enum output_bare { OUTPUT_BARE_NO, OUTPUT_BARE_MAYBE, OUTPUT_BARE_CALL };
/* Whether a text begins as a call without markers does. */
enum output_bare output_style_bare_call(struct str text);

#endif
