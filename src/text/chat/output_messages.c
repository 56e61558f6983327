/*
 * Formats in which an answer is a run of messages, each with a header: gpt-oss's harmony,
 *
 *     <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>commentary
 *     to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>
 *
 * Muse's, which has recipients instead of channels (self: reasoning, user: the answer),
 *
 *      to=self<|message|>thoughts<|eom|><|start|>assistant to=f<|message|><atem:function_calls>...
 *
 * and Functionary's, whose header is a line with the recipient's name (all: the answer):
 *
 *     all\nHello>>>f\n{"a": 1}
 *
 * The prompt ends in the beginning of a header, so the text begins inside one. A message to a
 * recipient is a tool call; the others are reasoning (channel analysis) or answer text (final,
 * commentary, no channel). A header that never comes to its end is the lenient form: its words
 * behind the channel are the text. The tokens that end a turn (<|call|>, <|return|>) need not be
 * there.
 */
#include <ctype.h>

#include "text/chat/output_internal.h"
#include "text/chat/output_scan.h"

#define HEADER_MAX 1024 /* bytes without its end: then it is no header */
#define MARK_MAX   16   /* no mark of output_style.c is longer */

struct header {
    struct str channel, recipient, rest; /* rest: words that are none of these */
};

static bool is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

/* Splits "assistant to=f<|channel|>commentary to=f<|constrain|>json" in words. */
static struct header read_header(const struct output_parser *p, struct str text)
{
    struct header header = {0};
    if (p->style->messages->named) {
        header.recipient = str_trimmed(text);
        return header;
    }
    bool in_channel = false;
    for (size_t i = 0; i < text.len;) {
        struct str rest = {text.data + i, text.len - i};
        if (is_space(text.data[i])) {
            i++;
            continue;
        }
        if (str_starts(rest, STR_LIT("<|channel|>"))) {
            in_channel = true;
            i += 11;
            continue;
        }
        size_t end = i + 1;
        while (end < text.len && !is_space(text.data[end]) && text.data[end] != '<')
            end++;
        struct str word = {text.data + i, end - i};
        if (str_starts(word, STR_LIT("to=")))
            header.recipient = (struct str){word.data + 3, word.len - 3};
        else if (in_channel && !header.channel.len)
            header.channel = word;
        else if (in_channel && !header.rest.len && word.data[0] != '<')
            header.rest = rest;
        i = end;
    }
    return header;
}

/* Who is no tool. */
static bool is_person(struct str name)
{
    static const char *const names[] = {"", "assistant", "self", "user", "all"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (str_eq_cstr(name, names[i]))
            return true;
    }
    return false;
}

static void begin_body(struct output_parser *p, const struct header *header)
{
    struct str name = header->recipient;
    bool reasons = str_eq_cstr(header->channel, "analysis") || str_eq_cstr(name, "self");
    p->mode = MODE_BODY;
    p->body_begun = false;
    buf_clear(&p->recipient);
    p->body_kind = reasons ? OUTPUT_REASONING : OUTPUT_CONTENT;
    if (!is_person(name)) {
        if (str_starts(name, STR_LIT("functions.")))
            name = (struct str){name.data + 10, name.len - 10};
        buf_append_str(&p->recipient, name);
        p->body_kind = OUTPUT_TOOL_CALL;
    }
}

/* Two messages of one kind are two lines of text. */
static void put_text(struct output_parser *p, enum output_event_kind kind, struct str text)
{
    if (!text.len)
        return;
    if (!p->body_begun && p->last_kind == (int)kind)
        output_emit(p, &(struct output_event){.kind = kind, .text = STR_LIT("\n")});
    output_emit(p, &(struct output_event){.kind = kind, .text = text});
    p->body_begun = true;
    p->last_kind = (int)kind;
}

static void put_call(struct output_parser *p, struct str body)
{
    struct buf arguments = {0};
    body = str_trimmed(body);
    bool own = p->style->read_call != NULL; /* the body names the tool, too */
    if (own ? !output_read_calls(p, body, false)
            : !p->recipient.len || !scan_put_checked(body, &arguments)) {
        put_text(p, OUTPUT_CONTENT, body);
    } else {
        if (own)
            output_read_calls(p, body, true);
        else
            output_emit(p, &(struct output_event){.kind = OUTPUT_TOOL_CALL,
                                                  .name = buf_str(&p->recipient),
                                                  .arguments = buf_str(&arguments)});
        p->last_kind = -1;
    }
    p->failed |= arguments.failed;
    buf_release(&arguments);
}

/* The nearest end of a message; the mark, or NULL. */
static const char *find_end(const struct output_parser *p, struct str text, size_t *at)
{
    const char *const *ends = p->style->messages->ends, *which = NULL;
    *at = SIZE_MAX;
    for (size_t i = 0; ends[i]; i++) {
        size_t found = str_find(text, str_from(ends[i]), 0);
        if (found < *at) {
            *at = found;
            which = ends[i];
        }
    }
    return which;
}

static size_t held_back(const struct output_parser *p, struct str text)
{
    const char *const *ends = p->style->messages->ends;
    size_t most = 0;
    for (size_t i = 0; ends[i]; i++) {
        size_t n = output_partial(text, ends[i]);
        most = n > most ? n : most;
    }
    return most;
}

static void end_body(struct output_parser *p, struct str body)
{
    if (p->body_kind == OUTPUT_TOOL_CALL)
        put_call(p, body);
    else
        put_text(p, p->body_kind, body);
    p->mode = MODE_HEADER;
    p->scanned = 0;
}

static size_t step_body(struct output_parser *p, struct str text)
{
    size_t at;
    const char *end = find_end(p, text, &at);
    if (p->body_kind == OUTPUT_TOOL_CALL && at > OUTPUT_CALL_MAX)
        end = NULL;
    if (end) {
        end_body(p, (struct str){text.data, at});
        return at + strlen(end);
    }
    if (p->body_kind == OUTPUT_TOOL_CALL && text.len < OUTPUT_CALL_MAX + MARK_MAX)
        return 0;
    enum output_event_kind kind = p->body_kind == OUTPUT_TOOL_CALL ? OUTPUT_CONTENT : p->body_kind;
    size_t ready = text.len - held_back(p, text);
    p->body_kind = kind;
    put_text(p, kind, (struct str){text.data, ready});
    return ready;
}

/* A header without an end: what it says is the message. */
static void lenient(struct output_parser *p, struct str text)
{
    struct header header = {0};
    if (!p->style->messages->named)
        header = read_header(p, text);
    begin_body(p, &header);
    if (!header.channel.len && !header.recipient.len)
        header.rest = text;
    while (header.rest.len && is_space(header.rest.data[header.rest.len - 1]) && header.channel.len)
        header.rest.len--;
    if (p->body_kind == OUTPUT_TOOL_CALL)
        p->body_kind = OUTPUT_CONTENT;
    put_text(p, p->body_kind, header.rest);
    p->mode = MODE_HEADER;
}

static size_t step_header(struct output_parser *p, struct str text)
{
    struct str message = str_from(p->style->messages->header_end);
    size_t begin = str_find(text, message, 0), at;
    const char *end = find_end(p, text, &at);
    /* Farther marks do not count, however much of the text came at once. */
    begin = begin > HEADER_MAX ? SIZE_MAX : begin;
    end = at > HEADER_MAX ? NULL : end;
    if (begin < at) {
        struct header header = read_header(p, (struct str){text.data, begin});
        begin_body(p, &header);
        return begin + message.len;
    }
    if (end) {
        size_t length = strlen(end);
        /* <|start|> and the role belong to the next header. */
        bool blank = true;
        for (size_t i = 0; i < at; i++)
            blank &= is_space(text.data[i]);
        if (!blank)
            lenient(p, (struct str){text.data, at});
        return at + length;
    }
    if (text.len < HEADER_MAX + MARK_MAX)
        return 0;
    struct header none = {0};
    begin_body(p, &none);
    return step_body(p, text);
}

size_t output_messages_step(struct output_parser *p, struct str text)
{
    return p->mode == MODE_HEADER ? step_header(p, text) : step_body(p, text);
}

void output_messages_finish(struct output_parser *p, struct str rest)
{
    if (p->mode == MODE_BODY) {
        end_body(p, rest);
        return;
    }
    struct str role = STR_LIT("assistant");
    if (rest.len && !str_eq(rest, role))
        lenient(p, rest);
}
