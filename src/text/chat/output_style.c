/* Styles, their detection, and the reading of a call's body. */
#include "text/chat/output_style.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/chat/output_parser.h"

#define CALL_DEPTH 64

static struct str trimmed(struct str s)
{
    while (s.len && isspace((unsigned char)s.data[0])) {
        s.data++;
        s.len--;
    }
    while (s.len && isspace((unsigned char)s.data[s.len - 1]))
        s.len--;
    return s;
}

/* ---- {"name": ..., "arguments": {...}} ------------------------------------------------------ */

/* End of the JSON string that begins at `at`; the text is valid JSON. */
static size_t string_end(struct str s, size_t at)
{
    for (at++; at < s.len && s.data[at] != '"'; at++)
        at += s.data[at] == '\\';
    return at + 1;
}

/* End of the JSON value that begins at `at`. */
static size_t value_end(struct str s, size_t at)
{
    size_t depth = 0;
    while (at < s.len) {
        char c = s.data[at];
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            break;
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        at = c == '"' ? string_end(s, at) : at + 1;
    }
    return at < s.len ? at : s.len;
}

/* The text of a member of an object that has been parsed before. data NULL: not found as spelled. */
static struct str member_text(struct str object, const char *key)
{
    size_t at = 1;
    while (at < object.len) {
        while (at < object.len && object.data[at] != '"')
            at++;
        if (at >= object.len)
            break;
        size_t end = string_end(object, at);
        if (end + 1 > object.len)
            break;
        struct str name = {object.data + at + 1, end - at - 2};
        while (end < object.len && object.data[end] != ':')
            end++;
        size_t begin = end + 1 < object.len ? end + 1 : object.len;
        at = value_end(object, begin);
        if (str_eq_cstr(name, key))
            return trimmed((struct str){object.data + begin, at - begin});
    }
    return (struct str){0};
}

/* The model's own spelling of the object: numbers stay as written. */
static bool put_object(struct str spelled, const json_t *value, struct buf *out)
{
    if (spelled.data) {
        buf_append_str(out, spelled);
        return true;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    buf_append_cstr(out, text ? text : "");
    free(text);
    return out->len > 0;
}

static bool put_arguments(struct str body, const json_t *object, struct buf *out)
{
    const char *key = json_object_get(object, "arguments") ? "arguments" : "parameters";
    const json_t *value = json_object_get(object, key);
    if (!value) {
        buf_append_cstr(out, "{}");
        return true;
    }
    if (json_is_object(value))
        return put_object(member_text(body, key), value, out);
    if (!json_is_string(value))
        return false;
    /* Some models write the arguments as a string of JSON. */
    struct str inner = {json_string_value(value), json_string_length(value)};
    json_t *parsed = NULL;
    bool ok = json_parse(inner, CALL_DEPTH, "arguments", &parsed, NULL) == STATUS_OK &&
              json_is_object(parsed);
    json_decref(parsed);
    if (ok)
        buf_append_str(out, inner);
    return ok;
}

static bool read_json_call(struct str body, struct output_call *call)
{
    json_t *object = NULL;
    body = trimmed(body);
    if (json_parse(body, CALL_DEPTH, "tool call", &object, NULL) != STATUS_OK)
        return false;
    const json_t *name = json_object_get(object, "name");
    bool ok = json_is_string(name) && json_string_length(name) > 0;
    if (ok)
        buf_append(&call->name, json_string_value(name), json_string_length(name));
    ok = ok && put_arguments(body, object, &call->arguments);
    json_decref(object);
    return ok && !call->name.failed && !call->arguments.failed;
}

/* ---- the table: the first entry whose signs are all there ----------------------------------- */

static const struct output_style styles[] = {
    {"think, tool_call",
     {"<think>", "<tool_call>"},
     "<think>",
     "</think>",
     "<tool_call>",
     "</tool_call>",
     read_json_call},
    {"tool_call", {"<tool_call>"}, NULL, NULL, "<tool_call>", "</tool_call>", read_json_call},
    {"think", {"<think>"}, "<think>", "</think>", NULL, NULL, NULL},
    {"plain", {0}, NULL, NULL, NULL, NULL, NULL},
};

const struct output_style *output_style_detect(struct str template_text)
{
    for (size_t i = 0;; i++) {
        bool all = true;
        for (size_t k = 0; k < 3 && styles[i].signs[k]; k++)
            all = all && str_find(template_text, str_from(styles[i].signs[k]), 0) != SIZE_MAX;
        if (all)
            return &styles[i];
    }
}

const char *output_style_name(const struct output_style *style)
{
    return style->name;
}

bool output_style_opens_reasoning(const struct output_style *style, struct str prompt)
{
    return style->think_open && str_ends(trimmed(prompt), str_from(style->think_open));
}
