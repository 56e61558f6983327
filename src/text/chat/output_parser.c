/*
 * The streaming parser: modes over one buffer of text that is not yet decided.
 *
 *   CONTENT ---<think>---> REASONING ---</think>---> CONTENT
 *   CONTENT ---<tool_call>---> CALL ---</tool_call>---> CONTENT
 *
 * (Some formats have a header before every part instead: output_messages.c.)
 *
 * Every decision depends on the bytes alone, never on where a piece ended: text goes out only once
 * no marker can begin in it any more. White space at the end of a run waits in `space`, since what
 * follows decides whether it is layout. <think> counts only before the first word of an answer, so
 * that an answer may speak about it.
 *
 * In CALL mode the end marker is looked for outside of JSON strings; a control character inside of
 * one proves the call broken, so that one bad quote does not swallow the rest.
 */
#include "text/chat/output_parser.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/chat/output_internal.h"
#include "text/chat/output_scan.h"

enum status output_parser_create(const struct output_style *style, bool opens_reasoning,
                                 struct output_parser **out, struct error *err)
{
    struct output_parser *parser = calloc(1, sizeof *parser);
    *out = parser;
    if (!parser)
        return error_set(err, STATUS_MEMORY, "out of memory for an answer's parser");
    parser->style = style;
    parser->last_kind = -1;
    if (style->messages) {
        parser->mode = opens_reasoning ? MODE_BODY : MODE_HEADER;
        parser->body_kind = OUTPUT_REASONING;
    } else if (opens_reasoning && style->think_close) {
        parser->mode = MODE_REASONING;
        parser->skip_newlines = true;
    }
    return STATUS_OK;
}

void output_parser_free(struct output_parser *parser)
{
    if (!parser)
        return;
    buf_release(&parser->held);
    buf_release(&parser->space);
    buf_release(&parser->event);
    buf_release(&parser->recipient);
    free(parser);
}

void output_emit(struct output_parser *p, const struct output_event *event)
{
    if (!p->stopped && !p->failed && !p->sink(p->context, event))
        p->stopped = true;
}

/* Sends the waiting space and then the text. */
static void emit_text(struct output_parser *p, enum output_event_kind kind, struct str text)
{
    struct output_event event = {.kind = kind, .text = text};
    if (p->space.len) {
        buf_clear(&p->event);
        buf_append_str(&p->event, buf_str(&p->space));
        buf_append_str(&p->event, text);
        p->failed |= p->event.failed;
        event.text = buf_str(&p->event);
    }
    if (event.text.len)
        output_emit(p, &event);
    buf_clear(&p->space);
    p->after_marker = false;
    p->spoke |= kind == OUTPUT_CONTENT;
}

static bool is_layout(enum output_event_kind kind, char c)
{
    return c == '\n' || (kind == OUTPUT_CONTENT && isspace((unsigned char)c));
}

/* Text of the mode that is decided to be text. */
static void add_text(struct output_parser *p, enum output_event_kind kind, struct str text)
{
    while (p->skip_newlines && text.len && text.data[0] == '\n') {
        text.data++;
        text.len--;
    }
    if (text.len == 0)
        return;
    p->skip_newlines = false;
    size_t end = text.len;
    while (end && is_layout(kind, text.data[end - 1]))
        end--;
    if (end)
        emit_text(p, kind, (struct str){text.data, end});
    buf_append(&p->space, text.data + end, text.len - end);
    p->failed |= p->space.failed;
}

static void after_marker(struct output_parser *p, enum output_mode mode, bool skip_newlines)
{
    buf_clear(&p->space);
    p->mode = mode;
    p->skip_newlines = skip_newlines;
    p->after_marker = true;
}

size_t output_partial(struct str text, const char *marker)
{
    size_t n = marker ? strlen(marker) : 0;
    size_t most = n && text.len >= n ? n - 1 : text.len;
    for (size_t k = n ? most : 0; k > 0; k--)
        if (k < n && memcmp(text.data + text.len - k, marker, k) == 0)
            return k;
    return 0;
}

static size_t step_call(struct output_parser *p, struct str text);

static size_t find_marker(struct str text, const char *marker)
{
    return marker ? str_find(text, str_from(marker), 0) : SIZE_MAX;
}

static void begin_call(struct output_parser *p, const char *opened)
{
    p->mode = MODE_CALL;
    p->scanned = 0;
    p->in_string = p->escaped = false;
    p->opened = opened;
}

/* The markers that may come in an answer, in the order of enum place_of. */
#define CONTENT_MARKERS (3 + OUTPUT_DROPS_MAX)
enum { AT_THINK, AT_CALL, AT_CALL_OTHER, AT_DROPS };

static void content_markers(const struct output_parser *p, const char *marks[CONTENT_MARKERS])
{
    marks[AT_THINK] = p->spoke ? NULL : p->style->think_open;
    marks[AT_CALL] = p->style->call_open;
    marks[AT_CALL_OTHER] = p->style->call_open_other;
    for (size_t i = 0; i < OUTPUT_DROPS_MAX; i++)
        marks[AT_DROPS + i] = p->style->drops[i];
}

/* The steps return how many bytes of text they used up; 0: wait for more. */
static size_t step_content(struct output_parser *p, struct str text)
{
    if (p->style->bare_calls && !p->spoke && !p->space.len) {
        enum output_bare bare = output_style_bare_call(text);
        if (bare == OUTPUT_BARE_MAYBE)
            return 0;
        if (bare == OUTPUT_BARE_CALL) {
            begin_call(p, NULL);
            return step_call(p, text);
        }
    }
    const char *marks[CONTENT_MARKERS];
    size_t at = SIZE_MAX, which = 0, held = 0;
    content_markers(p, marks);
    for (size_t i = 0; i < CONTENT_MARKERS; i++) {
        size_t found = find_marker(text, marks[i]), partial = output_partial(text, marks[i]);
        which = found < at ? i : which;
        at = found < at ? found : at;
        held = partial > held ? partial : held;
    }
    if (at == SIZE_MAX) {
        size_t ready = text.len - held;
        add_text(p, OUTPUT_CONTENT, (struct str){text.data, ready});
        return ready;
    }
    add_text(p, OUTPUT_CONTENT, (struct str){text.data, at});
    size_t end = at + strlen(marks[which]);
    if (which == AT_THINK && p->spoke) /* the text before <think> was the first word */
        add_text(p, OUTPUT_CONTENT, str_from(marks[which]));
    else if (which == AT_THINK)
        after_marker(p, MODE_REASONING, true);
    else if (which < AT_DROPS)
        begin_call(p, marks[which]);
    else
        after_marker(p, MODE_CONTENT, p->skip_newlines);
    return end;
}

static size_t step_reasoning(struct output_parser *p, struct str text)
{
    const char *close = p->style->think_close;
    size_t at = find_marker(text, close);
    if (at == SIZE_MAX) {
        size_t ready = text.len - output_partial(text, close);
        add_text(p, OUTPUT_REASONING, (struct str){text.data, ready});
        return ready;
    }
    add_text(p, OUTPUT_REASONING, (struct str){text.data, at});
    after_marker(p, MODE_CONTENT, true);
    return at + strlen(close);
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* A call that is none: its opening marker and the bytes so far are answer text. */
static void give_up_call(struct output_parser *p, struct str text)
{
    p->skip_newlines = false;
    p->mode = MODE_CONTENT;
    p->spoke = true;
    if (p->opened)
        emit_text(p, OUTPUT_CONTENT, str_from(p->opened));
    add_text(p, OUTPUT_CONTENT, text);
}

/* A name, and arguments that every JSON reader takes: tagged forms are put together from pieces that a
 * model wrote, and an object's key with a zero byte, say, is more than readers stand. */
static bool call_reads(const struct output_call *call)
{
    if (!call->name.len || call->name.failed || call->arguments.failed)
        return false;
    json_t *arguments = NULL;
    bool ok = json_parse(buf_str(&call->arguments), SCAN_DEPTH, "arguments", &arguments, NULL) ==
                  STATUS_OK &&
              json_is_object(arguments);
    json_decref(arguments);
    return ok;
}

bool output_read_calls(struct output_parser *p, struct str body, bool send)
{
    bool ok = true;
    size_t n = 0;
    for (size_t at = 0; ok && at < body.len; n++) {
        struct output_call call = {0};
        at = p->style->read_call(body, at, &call);
        ok = at != SIZE_MAX && call_reads(&call);
        struct output_event event = {.kind = OUTPUT_TOOL_CALL,
                                     .name = buf_str(&call.name),
                                     .arguments = buf_str(&call.arguments)};
        if (ok && send)
            output_emit(p, &event);
        buf_release(&call.name);
        buf_release(&call.arguments);
    }
    return ok && n > 0;
}

static void finish_call(struct output_parser *p, struct str body, struct str with_end)
{
    if (!output_read_calls(p, body, false)) {
        give_up_call(p, with_end);
        return;
    }
    after_marker(p, MODE_CONTENT, false);
    output_read_calls(p, body, true);
}

/* The end of a call's body that begins at text, as far as it is there: where strings are JSON the
 * marker does not count in them. */
static size_t step_call(struct output_parser *p, struct str text)
{
    const char *marker = p->style->call_close ? p->style->call_close : p->style->call_open;
    struct str close = str_from(marker);
    bool json = !p->style->no_strings && (!p->style->call_close || output_style_is_json(text));
    for (; p->scanned < text.len; p->scanned++) {
        char c = text.data[p->scanned];
        struct str rest = {text.data + p->scanned, text.len - p->scanned};
        bool broken = (p->in_string && (unsigned char)c < 0x20) || p->scanned >= OUTPUT_CALL_MAX;
        if (broken) {
            size_t used = p->scanned;
            give_up_call(p, (struct str){text.data, used});
            return used;
        }
        if (p->in_string) {
            if (p->escaped)
                p->escaped = false;
            else if (c == '\\')
                p->escaped = true;
            else
                p->in_string = c != '"';
            continue;
        }
        p->in_string = json && c == '"';
        if (!p->opened || c != close.data[0])
            continue;
        if (str_starts(rest, close)) {
            /* Without a closing marker the next opening one ends it, and stays. */
            size_t end = p->scanned + (p->style->call_close ? close.len : 0);
            struct str body = {text.data, p->scanned};
            if (end == 0)
                continue;
            finish_call(p, body, (struct str){text.data, end});
            return end;
        }
        if (rest.len < close.len && memcmp(rest.data, close.data, rest.len) == 0)
            return 0;
    }
    return 0;
}

static size_t step(struct output_parser *p, struct str text)
{
    switch (p->mode) {
    case MODE_CONTENT:
        return step_content(p, text);
    case MODE_REASONING:
        return step_reasoning(p, text);
    case MODE_CALL:
        return step_call(p, text);
    case MODE_HEADER:
    case MODE_BODY:
        return output_messages_step(p, text);
    }
    return 0;
}

static enum status result(const struct output_parser *p, struct error *err)
{
    if (p->failed || p->held.failed)
        return error_set(err, STATUS_MEMORY, "out of memory while reading an answer");
    return p->stopped ? error_set(err, STATUS_CANCELLED, "the reader of an answer stopped")
                      : STATUS_OK;
}

bool output_parser_takes(const struct output_parser *parser, struct str control)
{
    return output_style_takes(parser->style, control);
}

enum status output_parser_push(struct output_parser *p, struct str text, output_sink *sink,
                               void *context, struct error *err)
{
    p->sink = sink;
    p->context = context;
    buf_append_str(&p->held, text);
    size_t at = 0;
    while (at < p->held.len && result(p, NULL) == STATUS_OK) {
        size_t used = step(p, (struct str){p->held.data + at, p->held.len - at});
        if (used == 0)
            break;
        at += used;
    }
    if (at) {
        memmove(p->held.data, p->held.data + at, p->held.len - at);
        p->held.len -= at;
    }
    return result(p, err);
}

enum status output_parser_finish(struct output_parser *p, output_sink *sink, void *context,
                                 struct error *err)
{
    p->sink = sink;
    p->context = context;
    struct str rest = buf_str(&p->held);
    enum output_event_kind kind = p->mode == MODE_REASONING ? OUTPUT_REASONING : OUTPUT_CONTENT;
    if (p->style->messages) {
        output_messages_finish(p, rest);
        return result(p, err);
    }
    if (p->mode == MODE_CALL && (!p->opened || !p->style->call_close))
        finish_call(p, rest, rest);
    else if (p->mode == MODE_CALL)
        give_up_call(p, rest);
    else
        add_text(p, kind, rest);
    if (p->space.len && !p->after_marker)
        emit_text(p, kind, STR_LIT(""));
    return result(p, err);
}
