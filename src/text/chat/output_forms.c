/*
 * Tool calls in markup: forms with a tag for the call and one for each parameter.
 *
 * Values have no types there, except where a tag says so; see output_scan.h for what they become.
 */
#include <stdio.h>
#include <string.h>

#include "text/chat/output_scan.h"
#include "text/chat/output_style.h"

#define DSML    "\uff5cDSML\uff5c"
#define MINIMAX "]<]minimax[>["

/* The text of the tag that has just been opened, up to its '>'. */
static bool take_tag(struct scan *scan, struct str *inside)
{
    return scan_until(scan, ">", inside);
}

/* name="..." at the beginning of a tag's text; what is behind it goes to *rest. */
static bool quoted_name(struct str inside, struct str *name, struct str *rest)
{
    struct scan scan = {inside, 0};
    if (!scan_next(&scan, "\"") || !scan_until(&scan, "\"", name))
        return false;
    *rest = (struct str){inside.data + scan.at, inside.len - scan.at};
    return true;
}

/* <invoke name="f"><parameter name="k">v</parameter></invoke>, with `prefix` before each tag's name.
 * string="true" makes a value a string whatever it reads as, "false" makes it JSON. */
static size_t read_invoke(struct str body, size_t at, const char *prefix, struct output_call *call)
{
    char open[64], parameter[64], close[64], end[64];
    struct scan scan = {body, at};
    struct str inside, name, rest, value;
    snprintf(open, sizeof open, "<%sinvoke name=", prefix);
    snprintf(parameter, sizeof parameter, "<%sparameter name=", prefix);
    snprintf(close, sizeof close, "</%sparameter>", prefix);
    snprintf(end, sizeof end, "</%sinvoke>", prefix);
    if (!scan_next(&scan, open) || !take_tag(&scan, &inside) || !quoted_name(inside, &name, &rest))
        return SIZE_MAX;
    buf_append_str(&call->name, name);
    buf_append_char(&call->arguments, '{');
    while (scan_next(&scan, parameter)) {
        if (!take_tag(&scan, &inside) || !quoted_name(inside, &name, &rest) ||
            !scan_until(&scan, close, &value))
            return SIZE_MAX;
        scan_put_key(&call->arguments, name);
        if (str_eq_cstr(str_trimmed(rest), "string=\"true\""))
            scan_put_string(&call->arguments, value);
        else
            scan_put_value(&call->arguments, scan_unwrapped(value));
    }
    buf_append_char(&call->arguments, '}');
    return scan_next(&scan, end) ? scan_skip(body, scan.at, "") : SIZE_MAX;
}

size_t output_read_invoke(struct str body, size_t at, struct output_call *call)
{
    return read_invoke(body, at, "", call);
}

size_t output_read_dsml(struct str body, size_t at, struct output_call *call)
{
    return read_invoke(body, at, DSML, call);
}

/* The block's own tags are inside of the body, since the message's header is the marker. */
size_t output_read_atem(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    scan_next(&scan, "<atem:function_calls>");
    size_t end = read_invoke(body, scan.at, "atem:", call);
    if (end == SIZE_MAX)
        return end;
    scan.at = end;
    scan_next(&scan, "</atem:function_calls>");
    return scan_skip(body, scan.at, "");
}

/* Behind <function name= : "f"><param name="k">v</param>, a value also in <![CDATA[...]]>. */
size_t output_read_function_tag(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str inside, name, rest, value;
    if (!take_tag(&scan, &inside) || !quoted_name(inside, &name, &rest))
        return SIZE_MAX;
    buf_append_str(&call->name, name);
    buf_append_char(&call->arguments, '{');
    while (scan_next(&scan, "<param name=")) {
        if (!take_tag(&scan, &inside) || !quoted_name(inside, &name, &rest))
            return SIZE_MAX;
        bool data = scan_next(&scan, "<![CDATA[");
        if (data ? !scan_until(&scan, "]]>", &value) || !scan_next(&scan, "</param>")
                 : !scan_until(&scan, "</param>", &value))
            return SIZE_MAX;
        scan_put_key(&call->arguments, name);
        if (data)
            scan_put_string(&call->arguments, value);
        else
            scan_put_value(&call->arguments, value);
    }
    buf_append_char(&call->arguments, '}');
    return scan_skip(body, scan.at, "") == body.len ? body.len : SIZE_MAX;
}

/* Behind <function= : name>{...} */
size_t output_read_function_json(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str name;
    if (!take_tag(&scan, &name))
        return SIZE_MAX;
    buf_append_str(&call->name, str_trimmed(name));
    struct str rest = {body.data + scan.at, body.len - scan.at};
    return scan_put_checked(rest, &call->arguments) ? body.len : SIZE_MAX;
}

size_t output_read_name_line(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str name;
    if (!scan_until(&scan, "\n", &name))
        return SIZE_MAX;
    buf_append_str(&call->name, str_trimmed(name));
    struct str rest = {body.data + scan.at, body.len - scan.at};
    return scan_put_checked(rest, &call->arguments) ? body.len : SIZE_MAX;
}

#define HY(tag) "<" tag ":opensource>"

size_t output_read_hunyuan(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str name, key, value;
    if (!scan_next(&scan, HY("tool_call")) || !scan_until(&scan, HY("tool_sep"), &name))
        return SIZE_MAX;
    buf_append_str(&call->name, str_trimmed(name));
    buf_append_char(&call->arguments, '{');
    while (scan_next(&scan, HY("arg_key"))) {
        if (!scan_until(&scan, HY("/arg_key"), &key) || !scan_next(&scan, HY("arg_value")) ||
            !scan_until(&scan, HY("/arg_value"), &value))
            return SIZE_MAX;
        scan_put_member(&call->arguments, str_trimmed(key), value);
    }
    buf_append_char(&call->arguments, '}');
    return scan_next(&scan, HY("/tool_call")) ? scan_skip(body, scan.at, "") : SIZE_MAX;
}

/* <|tool_call:begin|>id<|tool_call:name|>f<|tool_call:args|>{...}<|tool_call:end|> */
size_t output_read_solar(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str id, name, arguments;
    if (!scan_next(&scan, "<|tool_call:begin|>") || !scan_until(&scan, "<|tool_call:name|>", &id) ||
        !scan_until(&scan, "<|tool_call:args|>", &name) ||
        !scan_until(&scan, "<|tool_call:end|>", &arguments))
        return SIZE_MAX;
    buf_append_str(&call->name, str_trimmed(name));
    if (!scan_put_checked(arguments, &call->arguments))
        return SIZE_MAX;
    scan_next(&scan, "<|calls|>");
    return scan_skip(body, scan.at, "");
}

/* ---- Kimi K3: <|open|>tag key="value"<|sep|> ... <|close|>tag<|sep|> ------------------------- */

/* The value of an attribute; "&quot;" and "&amp;" stay as written. */
static bool attribute(struct str inside, const char *key, struct str *value)
{
    struct scan scan = {inside, 0};
    struct str before;
    return scan_until(&scan, key, &before) && scan_next(&scan, "\"") &&
           scan_until(&scan, "\"", value);
}

size_t output_read_kimi_k3(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str inside, name, value;
    if (!scan_next(&scan, "<|open|>call ") || !scan_until(&scan, "<|sep|>", &inside) ||
        !attribute(inside, "tool=", &name))
        return SIZE_MAX;
    buf_append_str(&call->name, name);
    if (scan_next(&scan, "<|open|>json")) {
        if (!scan_until(&scan, "<|sep|>", &inside) ||
            !scan_until(&scan, "<|close|>json<|sep|>", &value) ||
            !scan_put_checked(value, &call->arguments))
            return SIZE_MAX;
    } else {
        buf_append_char(&call->arguments, '{');
        while (scan_next(&scan, "<|open|>argument ")) {
            struct str type = {0};
            if (!scan_until(&scan, "<|sep|>", &inside) || !attribute(inside, "key=", &name) ||
                !scan_until(&scan, "<|close|>argument<|sep|>", &value))
                return SIZE_MAX;
            scan_put_key(&call->arguments, name);
            if (attribute(inside, "type=", &type) && str_eq_cstr(type, "string"))
                scan_put_string(&call->arguments, value);
            else
                scan_put_value(&call->arguments, value);
        }
        buf_append_char(&call->arguments, '}');
    }
    return scan_next(&scan, "<|close|>call<|sep|>") ? scan_skip(body, scan.at, "") : SIZE_MAX;
}

/* ---- MiniMax M3: every tag has a mark before it, values are trees of tags -------------------- */

static bool read_tree(struct scan *scan, struct buf *out, unsigned depth);

/* The tag's name, if one opens here. */
static bool open_tag(struct scan *scan, struct str *name)
{
    struct scan ahead = *scan;
    if (!scan_next(&ahead, MINIMAX "<") || ahead.at >= ahead.body.len ||
        ahead.body.data[ahead.at] == '/' || !scan_until(&ahead, ">", name))
        return false;
    *scan = ahead;
    return true;
}

static bool close_tag(struct scan *scan, struct str name)
{
    struct str closed;
    return scan_next(scan, MINIMAX "</") && scan_until(scan, ">", &closed) && str_eq(closed, name);
}

/* Children of which each is a member, or, where the first is an <item>, an item. */
static bool read_children(struct scan *scan, struct str name, struct buf *out, unsigned depth)
{
    bool list = str_eq_cstr(name, "item"), first = true;
    buf_append_char(out, list ? '[' : '{');
    do {
        if (list && !first)
            buf_append_cstr(out, ", ");
        if (!list)
            scan_put_key(out, name);
        if (!read_tree(scan, out, depth + 1) || !close_tag(scan, name))
            return false;
        first = false;
    } while (open_tag(scan, &name) && (!list || str_eq_cstr(name, "item")));
    buf_append_char(out, list ? ']' : '}');
    return true;
}

/* What stands in a tag: other tags, or text up to the next one. */
static bool read_tree(struct scan *scan, struct buf *out, unsigned depth)
{
    struct str name;
    if (depth > SCAN_DEPTH - 2)
        return false;
    if (open_tag(scan, &name))
        return read_children(scan, name, out, depth);
    size_t end = str_find(scan->body, STR_LIT(MINIMAX "</"), scan->at);
    if (end == SIZE_MAX)
        return false;
    scan_put_value(out, (struct str){scan->body.data + scan->at, end - scan->at});
    scan->at = end;
    return true;
}

size_t output_read_minimax_m3(struct str body, size_t at, struct output_call *call)
{
    struct scan scan = {body, at};
    struct str inside, name, rest, key;
    if (!scan_next(&scan, MINIMAX "<invoke name=") || !take_tag(&scan, &inside) ||
        !quoted_name(inside, &name, &rest))
        return SIZE_MAX;
    buf_append_str(&call->name, name);
    buf_append_char(&call->arguments, '{');
    while (open_tag(&scan, &key)) {
        scan_put_key(&call->arguments, key);
        if (!read_tree(&scan, &call->arguments, 1) || !close_tag(&scan, key))
            return SIZE_MAX;
    }
    buf_append_char(&call->arguments, '}');
    return close_tag(&scan, STR_LIT("invoke")) ? scan_skip(body, scan.at, "") : SIZE_MAX;
}
