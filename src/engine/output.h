/*
 * From drawn tokens to events: bytes -> whole code points -> stop strings -> reasoning, tool calls
 * and answer text. One per generating request; used by the owner thread.
 */
#ifndef SLUICE_ENGINE_OUTPUT_H
#define SLUICE_ENGINE_OUTPUT_H

#include <stdbool.h>

#include "base/status.h"
#include "engine/events.h"
#include "text/chat/output_parser.h"
#include "text/stop.h"
#include "text/tokenizer/tokenizer.h"

struct output {
    const struct tokenizer *tokenizer; /* NULL: no text at all */
    struct detokenizer detokenizer;
    struct buf text; /* whole code points of the last token */
    struct stop_matcher stops;
    struct output_parser *parser; /* owned; NULL: everything is answer text */
    struct buf shown;             /* what the last token lets the reader see, as one event */
    sluice_event_kind shown_kind; /* TEXT or REASONING */
    uint32_t n_tool_calls;
    uint64_t call_key; /* random; what makes the ids of tool calls unique */
};

/* A zeroed output, but for the parser. stops: borrowed, they outlive the output. */
enum status output_init(struct output *output, const struct tokenizer *tokenizer,
                        const struct str *stops, size_t n_stops, struct error *err);
void output_release(struct output *output); /* a zeroed one is allowed */

/* Appends a token's text, keeping what is safe to show. *stopped: a stop string was completed. */
enum status output_token(struct output *output, int32_t token, struct event_queue *events,
                         bool *stopped, struct error *err);
/* The answer is over; shows what was held back. stopped: by a stop string, so nothing of the text
 * that was held for it is shown. */
enum status output_end(struct output *output, bool stopped, struct event_queue *events,
                       struct error *err);
/* Emits what the two above have kept: one event for a token, or two where a thought ends in it. */
enum status output_flush(struct output *output, struct event_queue *events, struct error *err);

#endif
