/*
 * Splits what a model writes into answer text, reasoning and tool calls, while it is being written.
 *
 * A style is a table entry: which markers enclose reasoning and calls, and how a call's body reads.
 * It is detected from the chat template's text; a template without markers passes everything
 * through as answer text. The events do not depend on how the text was cut into pieces, except that
 * neighbouring text pieces may be cut differently.
 *
 * Markers may be control tokens of the vocabulary (<|channel|>, [TOOL_CALLS]): those are given to the
 * parser as text too, all other control tokens are not.
 *
 * Rules. Newlines just inside <think> and </think> and just after it are layout and dropped; so
 * is white space between an answer and a tool call. A call that cannot be read (bad JSON, no name,
 * no end, longer than 1 MiB) comes out as answer text, markers included: nothing is lost.
 *
 * Thread rule: one parser, one thread. A parser holds back at most a marker's length of text, or a
 * tool call until it is complete.
 */
#ifndef SLUICE_TEXT_CHAT_OUTPUT_PARSER_H
#define SLUICE_TEXT_CHAT_OUTPUT_PARSER_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"

enum output_event_kind { OUTPUT_CONTENT, OUTPUT_REASONING, OUTPUT_TOOL_CALL };

/* Valid during the callback. */
struct output_event {
    enum output_event_kind kind;
    struct str text;      /* CONTENT, REASONING: never empty */
    struct str name;      /* TOOL_CALL */
    struct str arguments; /* TOOL_CALL: text of a JSON object, as the model wrote it */
};

/* Returns false to stop (out of memory, ...); the parser's call then returns STATUS_CANCELLED. */
typedef bool output_sink(void *context, const struct output_event *event);

struct output_style;
struct output_parser;

/* Never NULL: the plain style if nothing is recognised. Static storage. */
const struct output_style *output_style_detect(struct str template_text);
const char *output_style_name(const struct output_style *style);
/* True if a rendered prompt ends inside reasoning, so that the answer begins there. */
bool output_style_opens_reasoning(const struct output_style *style, struct str prompt);

/* Whether a control token with this text is a marker of the style, so that the parser has to see it. */
bool output_style_takes(const struct output_style *style, struct str control);

/* opens_reasoning: the answer begins inside reasoning. Errors: STATUS_MEMORY. */
enum status output_parser_create(const struct output_style *style, bool opens_reasoning,
                                 struct output_parser **out, struct error *err);
void output_parser_free(struct output_parser *parser); /* NULL is allowed */

bool output_parser_takes(const struct output_parser *parser, struct str control);
/* Errors: STATUS_MEMORY, STATUS_CANCELLED. */
enum status output_parser_push(struct output_parser *parser, struct str text, output_sink *sink,
                               void *context, struct error *err);
/* The answer is over: gives out what was held back. The parser can then only be freed. */
enum status output_parser_finish(struct output_parser *parser, output_sink *sink, void *context,
                                 struct error *err);

#endif
