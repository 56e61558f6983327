/*
 * Any bytes as a model's answer: the events are the same in one piece, in two, and byte by byte;
 * the plain style passes everything through; every call's arguments are a JSON object; and no
 * style loses anything but white space and its markers.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/chat/output_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct recorded {
    struct buf text;
    int last;
    size_t bytes;
};

static bool record(void *context, const struct output_event *event)
{
    struct recorded *r = context;
    if ((int)event->kind != r->last || event->kind == OUTPUT_TOOL_CALL)
        buf_append_char(&r->text, (char)event->kind);
    r->last = (int)event->kind;
    buf_append_str(&r->text, event->text);
    r->bytes += event->text.len;
    if (event->kind != OUTPUT_TOOL_CALL) {
        if (event->text.len == 0)
            abort();
        return true;
    }
    json_t *arguments = NULL;
    if (json_parse(event->arguments, 64, "arguments", &arguments, NULL) != STATUS_OK ||
        !json_is_object(arguments) || event->name.len == 0)
        abort();
    json_decref(arguments);
    buf_append_str(&r->text, event->name);
    buf_append_char(&r->text, '|');
    buf_append_str(&r->text, event->arguments);
    return true;
}

static struct recorded parse(const struct output_style *style, bool opens, struct str text,
                             size_t first, size_t piece)
{
    struct recorded r = {.last = -1};
    struct output_parser *parser;
    if (output_parser_create(style, opens, &parser, NULL) != STATUS_OK)
        abort();
    for (size_t at = 0, n; at < text.len; at += n) {
        n = at == 0 && first ? first : piece;
        n = n > text.len - at ? text.len - at : n;
        if (output_parser_push(parser, (struct str){text.data + at, n}, record, &r, NULL) !=
            STATUS_OK)
            abort();
    }
    if (output_parser_finish(parser, record, &r, NULL) != STATUS_OK)
        abort();
    output_parser_free(parser);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* The signs of every style; the first is the plain one. */
    static const char *const templates[] = {
        "",
        "<think>",
        "<tool_call>",
        "<think><tool_call>",
        "<think><tool_call><arg_key>",
        "<|channel|><|message|>",
        "<atem:function_calls>",
        ">>>${recipient}",
        "start_tag => `<function`",
        "\xef\xbd\x9c"
        "DSML\xef\xbd\x9c function_calls>",
        "<think><\xef\xbd\x9ctool\xe2\x96\x81"
        "calls\xe2\x96\x81"
        "begin\xef\xbd\x9c>",
        "<|open|><|sep|>",
        "<|tool_calls_section_begin|>",
        "[TOOL_CALLS][THINK]",
        "]<]minimax[>[",
        "<minimax:tool_call>",
        "<|START_ACTION|>",
        "directly-answer ```json",
        "<|tools_prefix|>",
        "[BEGIN FINAL RESPONSE]<tool_calls>",
        "<tool_calls{}>:opensource",
        "<|tool_call:begin|>",
        "<|function_call|>",
        "<|tool_call>call:",
        "<function name=\"function-name\">",
        "<|tool_list_start|>",
        "functools[",
        "<|tool_call|>",
        "\"name\": function name, \"parameters\"",
    };
    enum { N_TEMPLATES = sizeof templates / sizeof *templates };
    if (size < 2)
        return 0;
    size_t which = (data[0] >> 1) % N_TEMPLATES;
    const struct output_style *style = output_style_detect(str_from(templates[which]));
    bool opens = data[0] & 1;
    struct str text = {(const char *)data + 2, size - 2};
    struct recorded whole = parse(style, opens, text, 0, text.len);
    struct recorded two = parse(style, opens, text, data[1] % (text.len + 1), text.len);
    struct recorded bytes = parse(style, opens, text, 0, 1);
    if (!str_eq(buf_str(&whole.text), buf_str(&two.text)) ||
        !str_eq(buf_str(&whole.text), buf_str(&bytes.text)))
        abort();
    if (which == 0 && whole.bytes != text.len)
        abort();
    buf_release(&whole.text);
    buf_release(&two.text);
    buf_release(&bytes.text);
    return 0;
}
