/*
 * gpt-oss's harmony format: an answer is a run of messages, each with a header.
 *
 *     <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>commentary
 *     to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>
 *
 * The prompt ends in <|start|>assistant, so the text begins inside a header. A message to a recipient
 * is a tool call; the others are reasoning (channel analysis) or answer text (final, commentary, no
 * channel). A header that never comes to <|message|> is the lenient form: its words behind the
 * channel are the text. The tokens that end a turn (<|call|>, <|return|>) need not be there.
 */
#include <ctype.h>

#include "base/json.h"
#include "text/chat/output_internal.h"

#define HEADER_MAX 1024 /* bytes without <|message|>: then it is no header */

static const char *const body_ends[] = {"<|end|>", "<|call|>", "<|return|>", "<|start|>"};
#define N_BODY_ENDS (sizeof body_ends / sizeof *body_ends)

struct header {
    struct str channel, recipient, rest; /* rest: words that are none of these */
};

static bool is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

/* Splits "assistant to=f<|channel|>commentary to=f<|constrain|>json" in words. */
static struct header read_header(struct str text)
{
    struct header header = {0};
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

static void begin_body(struct output_parser *p, const struct header *header)
{
    p->mode = MODE_BODY;
    p->body_begun = false;
    buf_clear(&p->recipient);
    p->body_kind = str_eq_cstr(header->channel, "analysis") ? OUTPUT_REASONING : OUTPUT_CONTENT;
    if (header->recipient.len && !str_eq_cstr(header->recipient, "assistant")) {
        struct str name = header->recipient;
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
    json_t *parsed = NULL;
    while (body.len && is_space(body.data[body.len - 1]))
        body.len--;
    while (body.len && is_space(body.data[0]))
        body = (struct str){body.data + 1, body.len - 1};
    bool ok =
        json_parse(body, 64, "arguments", &parsed, NULL) == STATUS_OK && json_is_object(parsed);
    json_decref(parsed);
    if (!ok) {
        put_text(p, OUTPUT_CONTENT, body);
        return;
    }
    output_emit(p, &(struct output_event){.kind = OUTPUT_TOOL_CALL,
                                          .name = buf_str(&p->recipient),
                                          .arguments = body});
    p->last_kind = -1;
}

/* The nearest of the marks; which one, or N_BODY_ENDS. */
static size_t find_end(struct str text, size_t *at)
{
    size_t which = N_BODY_ENDS;
    *at = SIZE_MAX;
    for (size_t i = 0; i < N_BODY_ENDS; i++) {
        size_t found = str_find(text, str_from(body_ends[i]), 0);
        if (found < *at) {
            *at = found;
            which = i;
        }
    }
    return which;
}

static size_t held_back(struct str text)
{
    size_t most = 0;
    for (size_t i = 0; i < N_BODY_ENDS; i++) {
        size_t n = output_partial(text, body_ends[i]);
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
    size_t which = find_end(text, &at);
    if (which < N_BODY_ENDS) {
        end_body(p, (struct str){text.data, at});
        return at + strlen(body_ends[which]);
    }
    if (p->body_kind == OUTPUT_TOOL_CALL && text.len <= OUTPUT_CALL_MAX)
        return 0;
    enum output_event_kind kind = p->body_kind == OUTPUT_TOOL_CALL ? OUTPUT_CONTENT : p->body_kind;
    size_t ready = text.len - held_back(text);
    p->body_kind = kind;
    put_text(p, kind, (struct str){text.data, ready});
    return ready;
}

/* A header without <|message|>: what it says is the message. */
static void lenient(struct output_parser *p, struct str text)
{
    struct header header = read_header(text);
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
    struct str message = STR_LIT("<|message|>");
    size_t begin = str_find(text, message, 0), at;
    size_t which = find_end(text, &at);
    if (begin < at) {
        struct header header = read_header((struct str){text.data, begin});
        begin_body(p, &header);
        return begin + message.len;
    }
    if (which < N_BODY_ENDS) {
        size_t length = strlen(body_ends[which]);
        /* <|start|> and the role belong to the next header. */
        bool blank = true;
        for (size_t i = 0; i < at; i++)
            blank &= is_space(text.data[i]);
        if (!blank)
            lenient(p, (struct str){text.data, at});
        return at + length;
    }
    if (text.len < HEADER_MAX)
        return 0;
    struct header none = {0};
    begin_body(p, &none);
    return step_body(p, text);
}

size_t output_harmony_step(struct output_parser *p, struct str text)
{
    return p->mode == MODE_HEADER ? step_header(p, text) : step_body(p, text);
}

void output_harmony_finish(struct output_parser *p, struct str rest)
{
    if (p->mode == MODE_BODY) {
        end_body(p, rest);
        return;
    }
    struct str role = STR_LIT("assistant");
    if (rest.len && !str_eq(rest, role))
        lenient(p, rest);
}
