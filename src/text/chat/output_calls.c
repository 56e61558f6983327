/*
 * Reading tool calls: the forms in which models write them, each into a name and a JSON object.
 *
 * Where a form has no types (GLM, Qwen's XML) a value that reads as JSON other than a string is taken
 * as that, anything else as a string: the schema that would tell is not known here.
 */
#include <ctype.h>
#include <stdlib.h>

#include "base/json.h"
#include "text/chat/output_scan.h"
#include "text/chat/output_style.h"

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
            return str_trimmed((struct str){object.data + begin, at - begin});
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
    bool ok = json_parse(inner, SCAN_DEPTH, "arguments", &parsed, NULL) == STATUS_OK &&
              json_is_object(parsed);
    json_decref(parsed);
    if (ok)
        buf_append_str(out, inner);
    return ok;
}

/* One object. */
static bool read_object(struct str body, struct output_call *call)
{
    json_t *object = NULL;
    body = str_trimmed(body);
    if (json_parse(body, SCAN_DEPTH, "tool call", &object, NULL) != STATUS_OK)
        return false;
    const json_t *name = json_object_get(object, "name");
    if (!name) /* Command R */
        name = json_object_get(object, "tool_name");
    bool ok = json_is_string(name) && json_string_length(name) > 0;
    if (ok)
        buf_append(&call->name, json_string_value(name), json_string_length(name));
    ok = ok && put_arguments(body, object, &call->arguments);
    json_decref(object);
    return ok && !call->name.failed && !call->arguments.failed;
}

bool output_style_is_json(struct str body)
{
    body = str_trimmed(body);
    return body.len && (body.data[0] == '{' || body.data[0] == '[');
}

/* End of the object that begins at `at`; SIZE_MAX: it has none. */
static size_t object_end(struct str body, size_t at)
{
    size_t depth = 0;
    while (at < body.len) {
        char c = body.data[at];
        if (c == '"') {
            at = string_end(body, at);
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        at++;
        if (depth == 0)
            return at;
    }
    return SIZE_MAX;
}

size_t output_read_json(struct str body, size_t at, struct output_call *call)
{
    /* A list opens before its first call and closes behind its last; what is between is checked. */
    bool list = output_style_is_json(body) && str_trimmed(body).data[0] == '[';
    size_t begin = scan_skip(body, at, at == 0 ? "[" : ",;");
    if (begin >= body.len || body.data[begin] != '{')
        return SIZE_MAX;
    size_t end = object_end(body, begin);
    if (end == SIZE_MAX || !read_object((struct str){body.data + begin, end - begin}, call))
        return SIZE_MAX;
    size_t next = scan_skip(body, end, "");
    if (list && next < body.len && body.data[next] == ']')
        return scan_skip(body, next + 1, "") == body.len ? body.len : SIZE_MAX;
    return list && next == body.len ? SIZE_MAX : next;
}

size_t output_read_functools(struct str body, size_t at, struct output_call *call)
{
    struct str list = str_trimmed(body);
    if (list.len < 1 || list.data[list.len - 1] != ']' || list.data[0] != '{')
        return SIZE_MAX;
    size_t before = (size_t)(list.data - body.data);
    struct str inside = {body.data, before + list.len - 1};
    size_t next = output_read_json(inside, at, call);
    return next == inside.len ? body.len : next;
}

/* The next object of a list; *end: where it ends. */
static bool next_object(struct str body, size_t at, struct str *object, size_t *end)
{
    size_t begin = scan_skip(body, at, at == 0 ? "[" : ",");
    *end = begin < body.len && body.data[begin] == '{' ? object_end(body, begin) : SIZE_MAX;
    *object = (struct str){body.data + begin, *end - begin};
    return *end != SIZE_MAX;
}

size_t output_read_keyed(struct str body, size_t at, struct output_call *call)
{
    struct str text;
    size_t end;
    json_t *object = NULL;
    if (!next_object(body, at, &text, &end) ||
        json_parse(text, SCAN_DEPTH, "tool call", &object, NULL) != STATUS_OK)
        return SIZE_MAX;
    const char *name = json_object_iter_key(json_object_iter(object));
    const json_t *arguments = name ? json_object_get(object, name) : NULL;
    bool ok = json_object_size(object) == 1 && json_is_object(arguments);
    if (ok) {
        buf_append_cstr(&call->name, name);
        ok = put_object(member_text(text, name), arguments, &call->arguments);
    }
    json_decref(object);
    size_t next = scan_skip(body, end, "");
    if (!ok || next >= body.len)
        return SIZE_MAX;
    if (body.data[next] != ']')
        return next;
    return scan_skip(body, next + 1, "") == body.len ? body.len : SIZE_MAX;
}

/* ---- text between marks --------------------------------------------------------------------- */

/* <function=name> <parameter=key> value </parameter> ... </function> */
static size_t read_qwen_xml(struct str body, struct output_call *call)
{
    struct scan scan = {body, 0};
    struct str name, key, value;
    if (!scan_next(&scan, "<function=") || !scan_until(&scan, ">", &name))
        return SIZE_MAX;
    buf_append_str(&call->name, str_trimmed(name));
    buf_append_char(&call->arguments, '{');
    while (scan_next(&scan, "<parameter=")) {
        if (!scan_until(&scan, ">", &key) || !scan_until(&scan, "</parameter>", &value))
            return SIZE_MAX;
        scan_put_member(&call->arguments, str_trimmed(key), scan_unwrapped(value));
    }
    buf_append_char(&call->arguments, '}');
    if (!scan_next(&scan, "</function>"))
        return SIZE_MAX;
    return scan_skip(body, scan.at, "") == body.len ? body.len : SIZE_MAX;
}

/* name <arg_key>key</arg_key> <arg_value>value</arg_value> ... */
static size_t read_glm(struct str body, bool bare_name, struct output_call *call)
{
    size_t first = str_find(body, STR_LIT("<arg_key>"), 0);
    if (first == SIZE_MAX && !bare_name)
        return SIZE_MAX;
    struct scan scan = {body, first == SIZE_MAX ? body.len : first};
    struct str name = str_trimmed((struct str){body.data, scan.at}), key, value;
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.data[i];
        if (!isalnum(c) && !strchr("_-.:/", c))
            return SIZE_MAX;
    }
    buf_append_str(&call->name, name);
    buf_append_char(&call->arguments, '{');
    while (scan_next(&scan, "<arg_key>")) {
        if (!scan_until(&scan, "</arg_key>", &key) || !scan_next(&scan, "<arg_value>") ||
            !scan_until(&scan, "</arg_value>", &value))
            return SIZE_MAX;
        scan_put_member(&call->arguments, str_trimmed(key), value);
    }
    buf_append_char(&call->arguments, '}');
    return scan_skip(body, scan.at, "") == body.len ? body.len : SIZE_MAX;
}

size_t output_read_tool_call(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, 0};
    if (output_style_is_json(body))
        return output_read_json(body, at, call);
    return scan_next(&scan, "<function=") ? read_qwen_xml(body, call) : read_glm(body, false, call);
}

size_t output_read_glm(struct str body, size_t at, struct output_call *call)
{
    return output_style_is_json(body) ? output_read_json(body, at, call)
                                      : read_glm(body, true, call);
}

size_t output_read_mistral(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str name, id;
    if (output_style_is_json(body))
        return output_read_json(body, at, call);
    if (!scan_until(&scan, "[ARGS]", &name))
        return SIZE_MAX;
    struct scan inner = {name, 0};
    if (scan_until(&inner, "[CALL_ID]", &id))
        name = id;
    buf_append_str(&call->name, str_trimmed(name));
    struct str rest = {body.data + scan.at, body.len - scan.at};
    return scan_put_checked(rest, &call->arguments) ? body.len : SIZE_MAX;
}

/* name, or "function", then name in the next line and the arguments in a code block. */
size_t output_read_deepseek(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str item, head, name;
    if (!scan_next(&scan, "<\uff5ctool\u2581call\u2581begin\uff5c>") ||
        !scan_until(&scan, "<\uff5ctool\u2581call\u2581end\uff5c>", &item))
        return SIZE_MAX;
    struct scan inner = {item, 0};
    if (!scan_until(&inner, "<\uff5ctool\u2581sep\uff5c>", &head))
        return SIZE_MAX;
    struct str arguments = {item.data + inner.at, item.len - inner.at};
    struct scan block = {arguments, 0};
    if (scan_until(&block, "```json", &name)) {
        struct str code = {arguments.data + block.at, arguments.len - block.at};
        struct scan end = {code, 0};
        head = name;
        if (!scan_until(&end, "```", &arguments))
            return SIZE_MAX;
    }
    buf_append_str(&call->name, str_trimmed(head));
    return scan_put_checked(arguments, &call->arguments) ? scan_skip(body, scan.at, "") : SIZE_MAX;
}

/* functions.name:index */
size_t output_read_kimi(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str item, id;
    if (!scan_next(&scan, "<|tool_call_begin|>") || !scan_until(&scan, "<|tool_call_end|>", &item))
        return SIZE_MAX;
    struct scan inner = {item, 0};
    if (!scan_until(&inner, "<|tool_call_argument_begin|>", &id))
        return SIZE_MAX;
    id = str_trimmed(id);
    if (str_starts(id, STR_LIT("functions.")))
        id = (struct str){id.data + 10, id.len - 10};
    size_t colon = str_find(id, STR_LIT(":"), 0);
    buf_append(&call->name, id.data, colon == SIZE_MAX ? id.len : colon);
    struct str arguments = {item.data + inner.at, item.len - inner.at};
    return scan_put_checked(arguments, &call->arguments) ? scan_skip(body, scan.at, "") : SIZE_MAX;
}

/* ---- calls without markers ------------------------------------------------------------------ */

enum output_bare output_style_bare_call(struct str text)
{
    static const char *const keys[] = {"\"name\"", "\"type\"", "\"function\""};
    size_t at = scan_skip(text, 0, "");
    if (at == text.len)
        return text.len < 16 ? OUTPUT_BARE_MAYBE : OUTPUT_BARE_NO;
    if (text.data[at] != '{')
        return OUTPUT_BARE_NO;
    at = scan_skip(text, at + 1, "");
    struct str rest = {text.data + at, text.len - at};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct str key = str_from(keys[i]);
        if (str_starts(rest, key))
            return OUTPUT_BARE_CALL;
        if (rest.len < key.len && (!rest.len || memcmp(rest.data, key.data, rest.len) == 0))
            return OUTPUT_BARE_MAYBE;
    }
    return OUTPUT_BARE_NO;
}
