/* The parser's state, shared by output_parser.c and output_messages.c. Not for anyone else. */
#ifndef SLUICE_TEXT_CHAT_OUTPUT_INTERNAL_H
#define SLUICE_TEXT_CHAT_OUTPUT_INTERNAL_H

#include "text/chat/output_parser.h"
#include "text/chat/output_style.h"

#define OUTPUT_CALL_MAX ((size_t)1 << 20)

enum output_mode {
    MODE_CONTENT,
    MODE_REASONING,
    MODE_CALL,
    MODE_HEADER, /* messages: from the beginning of one to its header's end */
    MODE_BODY,   /* messages: from there to the message's end */
};

struct output_parser {
    const struct output_style *style;
    enum output_mode mode;
    struct buf held; /* not yet decided */
    struct buf space, event;
    bool skip_newlines; /* just after a marker */
    bool spoke;         /* some answer text went out */
    bool after_marker;  /* nothing but white space since the last marker */
    size_t scanned;     /* CALL: bytes of held that are known to hold no end */
    bool in_string, escaped;
    const char *opened; /* CALL: the marker, or NULL: without one, see output_style.bare_calls */
    enum output_event_kind body_kind; /* messages: what the message is */
    int last_kind;                    /* messages: of the last text that went out, or -1 */
    bool body_begun;                  /* messages: some of the message's text went out */
    struct buf recipient;             /* messages: of a call */
    output_sink *sink;
    void *context;
    bool stopped, failed;
};

void output_emit(struct output_parser *p, const struct output_event *event);
/* Bytes at the end of text that may be the beginning of the marker. */
size_t output_partial(struct str text, const char *marker);

/* All calls of a body, or none: with `send` they go out, without it is only tried. */
bool output_read_calls(struct output_parser *p, struct str body, bool send);

/* As the steps of output_parser.c: bytes used up, 0: wait for more. */
size_t output_messages_step(struct output_parser *p, struct str text);
void output_messages_finish(struct output_parser *p, struct str rest);

#endif
