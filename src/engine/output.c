/*
 * The order of the stages is part of the behaviour. Stop strings are looked for in the text as the
 * model wrote it, before it is parsed: a stop string inside a tool call or a thought ends the answer
 * too, as it does with the other servers that clients were written for.
 */
#define _GNU_SOURCE
#include "engine/output.h"

#include <stdio.h>
#include <sys/random.h>

#include "base/clock.h"
#include "sample/sample_core.h"

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory for the answer's text");
}

enum status output_init(struct output *output, const struct tokenizer *tokenizer,
                        const struct str *stops, size_t n_stops, struct error *err)
{
    output->tokenizer = tokenizer;
    if (getentropy(&output->call_key, sizeof output->call_key) != 0)
        output->call_key = clock_now_ns();
    bool complete = stop_matcher_init(&output->stops, stops, n_stops);
    bool room = buf_reserve(&output->text, 256) && buf_reserve(&output->shown, 256);
    return room && complete ? STATUS_OK : no_memory(err);
}

void output_release(struct output *output)
{
    buf_release(&output->text);
    buf_release(&output->shown);
    stop_matcher_release(&output->stops);
    output_parser_free(output->parser);
}

struct sink {
    struct output *output;
    struct event_queue *events;
};

enum status output_flush(struct output *output, struct event_queue *events, struct error *err)
{
    struct buf *shown = &output->shown;
    if (shown->len && !event_queue_text(events, output->shown_kind, buf_str(shown)))
        return no_memory(err);
    buf_clear(shown);
    return STATUS_OK;
}

/* Pieces of one kind that come of one token are one event. */
static bool add_shown(struct sink *sink, sluice_event_kind kind, struct str text)
{
    struct output *output = sink->output;
    if (kind != output->shown_kind && output_flush(output, sink->events, NULL) != STATUS_OK)
        return false;
    output->shown_kind = kind;
    buf_append_str(&output->shown, text);
    return !output->shown.failed;
}

static bool take_event(void *context, const struct output_event *event)
{
    struct sink *sink = context;
    if (event->kind == OUTPUT_CONTENT)
        return add_shown(sink, SLUICE_EVENT_TEXT, event->text);
    if (event->kind == OUTPUT_REASONING)
        return add_shown(sink, SLUICE_EVENT_REASONING, event->text);
    if (output_flush(sink->output, sink->events, NULL) != STATUS_OK)
        return false;
    char id[32];
    uint64_t number = ++sink->output->n_tool_calls;
    snprintf(id, sizeof id, "call_%016llx",
             (unsigned long long)sampling_mix(sink->output->call_key + number));
    return event_queue_tool_call(sink->events, str_from(id), event->name, event->arguments);
}

/* Text that may be shown. */
static enum status show(struct output *output, struct str text, struct event_queue *events,
                        struct error *err)
{
    if (text.len == 0)
        return STATUS_OK;
    struct sink sink = {output, events};
    bool taken = output->parser ? output_parser_push(output->parser, text, take_event, &sink,
                                                     NULL) == STATUS_OK
                                : add_shown(&sink, SLUICE_EVENT_TEXT, text);
    return taken ? STATUS_OK : no_memory(err);
}

enum status output_token(struct output *output, int32_t token, struct event_queue *events,
                         bool *stopped, struct error *err)
{
    *stopped = false;
    const struct tokenizer *tokenizer = output->tokenizer;
    if (!tokenizer)
        return STATUS_OK;
    /* Control tokens are not text, except those that mark the parts of an answer. */
    if (tokenizer_is_control(tokenizer, token) &&
        !(output->parser && output_parser_takes(output->parser, tokenizer_piece(tokenizer, token))))
        return STATUS_OK;
    buf_clear(&output->text);
    detokenizer_push(&output->detokenizer, tokenizer_piece(tokenizer, token), &output->text);
    struct str safe;
    *stopped = stop_matcher_push(&output->stops, buf_str(&output->text), &safe);
    if (output->text.failed || output->stops.held.failed)
        return no_memory(err);
    return show(output, safe, events, err);
}

enum status output_end(struct output *output, bool stopped, struct event_queue *events,
                       struct error *err)
{
    enum status status = STATUS_OK;
    if (!stopped && output->tokenizer) {
        struct str safe;
        buf_clear(&output->text);
        detokenizer_flush(&output->detokenizer, &output->text);
        bool last = stop_matcher_push(&output->stops, buf_str(&output->text), &safe);
        status = show(output, safe, events, err);
        if (status == STATUS_OK && !last)
            status = show(output, stop_matcher_flush(&output->stops), events, err);
    }
    struct sink sink = {output, events};
    if (status == STATUS_OK && output->parser &&
        output_parser_finish(output->parser, take_event, &sink, NULL) != STATUS_OK)
        return no_memory(err);
    return status;
}
