/*
 * Tool calls in the notation of a programming language: f(a="x", b=[1, True]) as LFM2 writes them,
 * and Gemma's call:f{a:<|"|>x<|"|>,b:[1,true]}.
 *
 * Both are read by one reader of literals, which writes JSON: strings in either quote or in Gemma's
 * marks, numbers, True, true, None, null, lists, tuples, and mappings whose keys may be bare.
 */
#include <ctype.h>
#include <string.h>

#include "base/json.h"
#include "text/chat/output_scan.h"
#include "text/chat/output_style.h"

#define GEMMA_QUOTE "<|\"|>"

struct literal {
    struct scan scan;
    struct buf *out;
    unsigned depth;
};

static bool read_value(struct literal *l);

static char peek(struct literal *l)
{
    l->scan.at = scan_skip(l->scan.body, l->scan.at, "");
    return l->scan.at < l->scan.body.len ? l->scan.body.data[l->scan.at] : '\0';
}

static bool take(struct literal *l, char c)
{
    bool is = peek(l) == c;
    l->scan.at += is;
    return is;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \xhh and \uhhhh, up to U+FFFF; surrogates are no characters by themselves. */
static bool escaped_char(struct literal *l, unsigned digits, struct buf *text)
{
    uint32_t c = 0;
    for (unsigned i = 0; i < digits; i++, l->scan.at++) {
        int digit = l->scan.at < l->scan.body.len ? hex_digit(l->scan.body.data[l->scan.at]) : -1;
        if (digit < 0)
            return false;
        c = c << 4 | (uint32_t)digit;
    }
    if (c < 0x80) {
        buf_append_char(text, (char)c);
    } else if (c < 0x800) {
        buf_append_char(text, (char)(0xc0 | c >> 6));
        buf_append_char(text, (char)(0x80 | (c & 0x3f)));
    } else {
        buf_append_char(text, (char)(0xe0 | c >> 12));
        buf_append_char(text, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_append_char(text, (char)(0x80 | (c & 0x3f)));
    }
    return c > 0 && (c < 0xd800 || c > 0xdfff);
}

static bool read_escape(struct literal *l, struct buf *text)
{
    static const char letters[] = "nrtbf", meanings[] = "\n\r\t\b\f";
    if (l->scan.at >= l->scan.body.len)
        return false;
    char c = l->scan.body.data[l->scan.at++];
    const char *letter = c ? strchr(letters, c) : NULL;
    if (c == 'x' || c == 'u')
        return escaped_char(l, c == 'x' ? 2 : 4, text);
    buf_append_char(text, letter ? meanings[letter - letters] : c);
    return true;
}

/* A string in some quotes, without them. False: none begins here, or it does not end. */
static bool read_string(struct literal *l, struct buf *text)
{
    struct str inside;
    char quote = peek(l);
    if (scan_next(&l->scan, GEMMA_QUOTE)) {
        bool ok = scan_until(&l->scan, GEMMA_QUOTE, &inside);
        if (ok)
            buf_append_str(text, inside);
        return ok;
    }
    if (quote != '"' && quote != '\'')
        return false;
    l->scan.at++;
    while (l->scan.at < l->scan.body.len) {
        char c = l->scan.body.data[l->scan.at++];
        if (c == quote)
            return true;
        if (c != '\\')
            buf_append_char(text, c);
        else if (!read_escape(l, text))
            return false;
    }
    return false;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '+' || c == '.';
}

static struct str read_word(struct literal *l)
{
    peek(l);
    size_t begin = l->scan.at;
    while (l->scan.at < l->scan.body.len && is_word(l->scan.body.data[l->scan.at]))
        l->scan.at++;
    return (struct str){l->scan.body.data + begin, l->scan.at - begin};
}

static bool put_word(struct literal *l, struct str word)
{
    static const char *const words[][2] = {
        {"True", "true"}, {"False", "false"}, {"None", "null"},
        {"true", "true"}, {"false", "false"}, {"null", "null"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (str_eq_cstr(word, words[i][0])) {
            buf_append_cstr(l->out, words[i][1]);
            return true;
        }
    }
    json_t *number = NULL;
    bool ok = json_parse(word, 1, "number", &number, NULL) == STATUS_OK && json_is_number(number);
    json_decref(number);
    buf_append_str(l->out, word);
    return ok;
}

static bool read_key(struct literal *l)
{
    struct buf text = {0};
    char c = peek(l);
    bool quoted = c == '"' || c == '\'' || c == '<';
    struct str key;
    bool ok = true;
    if (quoted) {
        ok = read_string(l, &text);
        key = buf_str(&text);
    } else {
        key = read_word(l);
        ok = key.len > 0;
    }
    if (ok)
        scan_put_key(l->out, key);
    l->out->failed |= text.failed;
    buf_release(&text);
    return ok;
}

/* key SEPARATOR value, ... up to `close`; the opening sign has been taken. */
static bool read_members(struct literal *l, char separator, char close)
{
    buf_append_char(l->out, '{');
    while (!take(l, close)) {
        if (!read_key(l) || !take(l, separator) || !read_value(l))
            return false;
        if (!take(l, ',') && peek(l) != close)
            return false;
    }
    buf_append_char(l->out, '}');
    return true;
}

static bool read_items(struct literal *l, char close)
{
    buf_append_char(l->out, '[');
    for (bool first = true; !take(l, close); first = false) {
        if (!first)
            buf_append_cstr(l->out, ", ");
        if (!read_value(l) || (!take(l, ',') && peek(l) != close))
            return false;
    }
    buf_append_char(l->out, ']');
    return true;
}

static bool read_value(struct literal *l)
{
    char c = peek(l);
    bool ok = false;
    if (++l->depth > SCAN_DEPTH - 2)
        return false;
    if (c == '[' || c == '(') {
        l->scan.at++;
        ok = read_items(l, c == '[' ? ']' : ')');
    } else if (c == '{') {
        l->scan.at++;
        ok = read_members(l, ':', '}');
    } else if (c == '"' || c == '\'' || c == '<') {
        struct buf text = {0};
        ok = read_string(l, &text);
        if (ok)
            scan_put_string(l->out, buf_str(&text));
        l->out->failed |= text.failed;
        buf_release(&text);
    } else {
        ok = put_word(l, read_word(l));
    }
    l->depth--;
    return ok;
}

/* Twice the same key is no object that can be told apart. */
static bool is_object(const struct buf *arguments)
{
    json_t *parsed = NULL;
    bool ok = !arguments->failed &&
              json_parse(buf_str(arguments), SCAN_DEPTH, "arguments", &parsed, NULL) == STATUS_OK;
    json_decref(parsed);
    return ok;
}

size_t output_read_python(struct str body, size_t at, struct output_call *call)
{
    size_t first = scan_skip(body, 0, "[");
    if (first < body.len && body.data[first] == '{')
        return output_read_json(body, at, call);
    struct literal l = {.scan = {body, at}, .out = &call->arguments};
    bool list = str_trimmed(body).len && str_trimmed(body).data[0] == '[';
    if (at == 0 && list)
        take(&l, '[');
    struct str name = read_word(&l);
    buf_append_str(&call->name, name);
    if (!name.len || !take(&l, '(') || !read_members(&l, '=', ')') || !is_object(&call->arguments))
        return SIZE_MAX;
    if (list && take(&l, ']'))
        return scan_skip(body, l.scan.at, "") == body.len ? body.len : SIZE_MAX;
    /* What comes next is another call. */
    bool more = take(&l, ',');
    l.scan.at = scan_skip(body, l.scan.at, "");
    bool end = l.scan.at == body.len;
    return list ? (more && !end ? l.scan.at : SIZE_MAX) : l.scan.at;
}

size_t output_read_gemma(struct str body, size_t at, struct output_call *call)
{
    struct literal l = {.scan = {body, at}, .out = &call->arguments};
    if (!scan_next(&l.scan, "call:"))
        return SIZE_MAX;
    struct str name = read_word(&l);
    buf_append_str(&call->name, name);
    if (!take(&l, '{') || !read_members(&l, ':', '}') || !is_object(&call->arguments))
        return SIZE_MAX;
    return scan_skip(body, l.scan.at, "") == body.len ? body.len : SIZE_MAX;
}
