/*
 * Source -> tokens, with the white space rules of Jinja2 (trim_blocks and lstrip_blocks on):
 *
 *   the newline after a tag or comment goes, unless the tag ends in "+%}";
 *   white space between a line's start and a tag or comment goes, unless it begins with "{%+";
 *   "{%-" and "-%}" (also for prints and comments) take all white space on their side.
 *
 * A print keeps both sides unless it says otherwise. Inside a tag the end marker is looked for only
 * while no bracket is open, so that "{{ {'a': {}} }}" reads as meant.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "text/jinja/ast.h"
#include "text/jinja/run.h"
#include "text/jinja/text.h"
#include "text/tokenizer/utf8.h"

struct lexer {
    struct compiler *c;
    struct str source;
    size_t at;
    uint32_t line;
    bool line_start; /* the last token ended with a newline, or there was none yet */
    char open[JINJA_NESTING];
    size_t n_open;
};

static bool lex_at(const struct lexer *l, size_t at, const char *text)
{
    size_t n = strlen(text);
    return at <= l->source.len && l->source.len - at >= n &&
           memcmp(l->source.data + at, text, n) == 0;
}

/* First offset at or after `at` that is not white space. */
static size_t skip_space(const struct lexer *l, size_t at)
{
    uint32_t c;
    while (at < l->source.len) {
        unsigned n = utf8_decode((const uint8_t *)l->source.data + at, l->source.len - at, &c);
        if (n == 0 || !char_is_space(c))
            break;
        at += n;
    }
    return at;
}

static size_t strip_right(const struct lexer *l, size_t begin, size_t end)
{
    uint32_t c = 0;
    while (end > begin) {
        unsigned n = utf8_decode_last((const uint8_t *)l->source.data + begin, end - begin, &c);
        if (n == 0 || !char_is_space(c))
            break;
        end -= n;
    }
    return end;
}

/* Moves on, counting lines. */
static void advance(struct lexer *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->source.data[i] == '\n';
    if (to > l->at)
        l->line_start = l->source.data[to - 1] == '\n';
    l->at = to;
}

static struct token *add_token(struct lexer *l, enum token_kind kind, struct str text)
{
    struct compiler *c = l->c;
    if (c->n_tokens == c->tokens_capacity) {
        size_t capacity = c->tokens_capacity ? c->tokens_capacity * 2 : 256;
        struct token *tokens = compile_alloc(c, capacity, sizeof *tokens);
        if (!tokens)
            return NULL;
        if (c->n_tokens)
            memcpy(tokens, c->tokens, c->n_tokens * sizeof *tokens);
        c->tokens = tokens;
        c->tokens_capacity = capacity;
    }
    struct token *token = &c->tokens[c->n_tokens++];
    *token = (struct token){.kind = (uint8_t)kind, .line = l->line, .text = text};
    return token;
}

/* ---- between tags --------------------------------------------------------------------------- */

/* Length of "{% raw %}" at the lexer's place, or 0. */
static size_t raw_begin(const struct lexer *l, size_t at)
{
    size_t p = at + 2;
    if (lex_at(l, p, "-") || lex_at(l, p, "+"))
        p++;
    p = skip_space(l, p);
    if (!lex_at(l, p, "raw"))
        return 0;
    p = skip_space(l, p + 3);
    if (lex_at(l, p, "-%}"))
        return skip_space(l, p + 3) - at;
    return lex_at(l, p, "%}") ? p + 2 - at : 0;
}

/* The end of a tag or comment at p, with the white space that belongs to it; 0 if none is there. */
static size_t marker_end(const struct lexer *l, size_t p, const char *marker, bool trims)
{
    if (lex_at(l, p, "-") && lex_at(l, p + 1, marker))
        return skip_space(l, p + 3);
    if (trims && lex_at(l, p, "+") && lex_at(l, p + 1, marker))
        return p + 3;
    if (!lex_at(l, p, marker))
        return 0;
    p += 2;
    return trims && lex_at(l, p, "\n") ? p + 1 : p;
}

/* Where text [begin, end) stops, given the tag that follows it. */
static size_t text_end(const struct lexer *l, size_t begin, size_t end, bool is_print)
{
    if (lex_at(l, end + 2, "-"))
        return strip_right(l, begin, end);
    if (is_print || lex_at(l, end + 2, "+"))
        return end;
    size_t line = end;
    while (line > begin && l->source.data[line - 1] != '\n')
        line--;
    if (line == begin && !l->line_start)
        return end;
    return skip_space(l, line) >= end ? line : end;
}

static bool lex_raw(struct lexer *l, size_t length)
{
    uint32_t line = l->line;
    advance(l, l->at + length);
    size_t begin = l->at;
    for (size_t p = begin; p < l->source.len; p++) {
        if (!lex_at(l, p, "{%"))
            continue;
        size_t q = p + 2;
        if (lex_at(l, q, "-") || lex_at(l, q, "+"))
            q++;
        q = skip_space(l, q);
        if (!lex_at(l, q, "endraw"))
            continue;
        q = marker_end(l, skip_space(l, q + 6), "%}", true);
        if (!q)
            continue;
        size_t end = text_end(l, begin, p, false);
        if (end > begin &&
            !add_token(l, TOKEN_DATA, (struct str){l->source.data + begin, end - begin}))
            return false;
        advance(l, q);
        return true;
    }
    compile_fail(l->c, line, STATUS_MODEL, "{%% raw %%} has no {%% endraw %%}");
    return false;
}

static bool lex_comment(struct lexer *l)
{
    for (size_t p = l->at + 2; p < l->source.len; p++) {
        size_t end =
            l->source.data[p] == '#' || l->source.data[p] == '-' || l->source.data[p] == '+'
                ? marker_end(l, p, "#}", true)
                : 0;
        if (end) {
            advance(l, end);
            return true;
        }
    }
    compile_fail(l->c, l->line, STATUS_MODEL, "a comment {# has no end #}");
    return false;
}

/* ---- inside tags ---------------------------------------------------------------------------- */

static int digit_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : 99;
}

/* One backslash sequence after `p`; returns its length, appending to out. */
static size_t unescape(struct str s, size_t p, char *out, size_t *n)
{
    static const char names[] = "abfnrtv\\'\"";
    static const char values[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s.data[p];
    const char *simple = c ? strchr(names, c) : NULL;
    if (simple) {
        out[(*n)++] = values[simple - names];
        return 1;
    }
    if (c == '\n')
        return 1;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, used = digits ? 1 : 0;
    unsigned base = digits ? 16 : 8;
    uint32_t value = 0;
    size_t most = digits ? digits : 3, got = 0;
    while (got < most && p + used < s.len && digit_value(s.data[p + used]) < (int)base) {
        value = value * base + (uint32_t)digit_value(s.data[p + used]);
        used++;
        got++;
    }
    bool high = digits == 4 && got == 4 && value >= 0xd800 && value < 0xdc00;
    if (high && p + used + 6 <= s.len && s.data[p + used] == '\\' && s.data[p + used + 1] == 'u') {
        uint32_t low = 0;
        for (size_t i = 2; i < 6; i++)
            low = low * 16 + (uint32_t)(digit_value(s.data[p + used + i]) & 15);
        if (low >= 0xdc00 && low < 0xe000) {
            value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
            used += 6;
        }
    }
    bool valid = digits ? got == digits : got > 0;
    if (!valid || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) {
        out[(*n)++] = '\\';
        return 0;
    }
    *n += utf8_encode(value, out + *n);
    return used;
}

static bool lex_string(struct lexer *l)
{
    char quote = l->source.data[l->at];
    size_t begin = l->at + 1, end = begin;
    bool escaped = false;
    while (end < l->source.len && l->source.data[end] != quote) {
        if (l->source.data[end] == '\\') {
            escaped = true;
            end++;
        }
        end++;
    }
    if (end >= l->source.len) {
        compile_fail(l->c, l->line, STATUS_MODEL, "a string has no closing %c", quote);
        return false;
    }
    struct str raw = {l->source.data + begin, end - begin};
    if (escaped) {
        /* Every sequence is at least as long as what it stands for. */
        char *out = compile_alloc(l->c, raw.len + 4, 1);
        size_t n = 0;
        if (!out)
            return false;
        for (size_t p = 0; p < raw.len;) {
            if (raw.data[p] != '\\')
                out[n++] = raw.data[p++];
            else
                p += 1 + unescape(raw, p + 1, out, &n);
        }
        raw = (struct str){out, n};
    }
    if (!add_token(l, TOKEN_STRING, raw))
        return false;
    advance(l, end + 1);
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits, with single underscores between them; returns the end. */
static size_t digits_end(const struct lexer *l, size_t p)
{
    while (p < l->source.len &&
           (is_digit(l->source.data[p]) ||
            (l->source.data[p] == '_' && p + 1 < l->source.len && is_digit(l->source.data[p + 1]))))
        p++;
    return p;
}

static bool lex_integer(struct lexer *l, size_t end, unsigned base, size_t from)
{
    uint64_t value = 0;
    for (size_t p = from; p < end; p++) {
        char c = l->source.data[p];
        if (c == '_')
            continue;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit_value(c), &value) || value > INT64_MAX) {
            compile_fail(l->c, l->line, STATUS_MODEL, "an integer does not fit in 64 bits");
            return false;
        }
    }
    struct token *token =
        add_token(l, TOKEN_INT, (struct str){l->source.data + l->at, end - l->at});
    if (!token)
        return false;
    token->integer = (int64_t)value;
    advance(l, end);
    return true;
}

static bool lex_number(struct lexer *l)
{
    const char *s = l->source.data;
    size_t n = l->source.len, p = l->at;
    char kind = p + 1 < n && s[p] == '0' ? (char)(s[p + 1] | 0x20) : 0;
    unsigned base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    if (base != 10) {
        size_t end = p + 2;
        while (end < n && (digit_value(s[end]) < (int)base || s[end] == '_'))
            end++;
        return lex_integer(l, end, base, p + 2);
    }
    size_t end = digits_end(l, p), real = 0;
    bool after_dot = p > 0 && s[p - 1] == '.';
    if (!after_dot && end + 1 < n && s[end] == '.' && is_digit(s[end + 1]))
        real = digits_end(l, end + 1);
    size_t mantissa = real ? real : end, exponent = mantissa;
    if (!after_dot && exponent < n && (s[exponent] == 'e' || s[exponent] == 'E')) {
        exponent++;
        if (exponent < n && (s[exponent] == '+' || s[exponent] == '-'))
            exponent++;
        if (exponent < n && is_digit(s[exponent]))
            real = digits_end(l, exponent);
    }
    if (!real)
        return lex_integer(l, end, 10, p);
    double value;
    if (!parse_float((struct str){s + p, real - p}, &value)) {
        compile_fail(l->c, l->line, STATUS_MODEL, "a number cannot be read");
        return false;
    }
    struct token *token = add_token(l, TOKEN_FLOAT, (struct str){s + p, real - p});
    if (!token)
        return false;
    token->real = value;
    advance(l, real);
    return true;
}

static bool is_name_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (uint8_t)c >= 0x80;
}

static bool track_bracket(struct lexer *l, enum op op)
{
    if (op == OP_LPAREN || op == OP_LBRACKET || op == OP_LBRACE) {
        if (l->n_open == JINJA_NESTING) {
            compile_fail(l->c, l->line, STATUS_LIMIT, "brackets are nested deeper than %d",
                         JINJA_NESTING);
            return false;
        }
        l->open[l->n_open++] = (char)(op + 1); /* each closing operator follows its opening one */
    } else if (op == OP_RPAREN || op == OP_RBRACKET || op == OP_RBRACE) {
        if (l->n_open == 0 || l->open[l->n_open - 1] != (char)op) {
            compile_fail(l->c, l->line, STATUS_MODEL, "unexpected closing bracket '%c'",
                         l->source.data[l->at]);
            return false;
        }
        l->n_open--;
    }
    return true;
}

static bool lex_operator(struct lexer *l)
{
    static const struct {
        const char *text;
        uint8_t op;
    } table[] = {
        {"//", OP_FLOOR_DIV}, {"**", OP_POW},      {"==", OP_EQ},    {"!=", OP_NE},
        {">=", OP_GE},        {"<=", OP_LE},       {"+", OP_ADD},    {"-", OP_SUB},
        {"/", OP_DIV},        {"*", OP_MUL},       {"%", OP_MOD},    {"~", OP_CONCAT},
        {"[", OP_LBRACKET},   {"]", OP_RBRACKET},  {"(", OP_LPAREN}, {")", OP_RPAREN},
        {"{", OP_LBRACE},     {"}", OP_RBRACE},    {">", OP_GT},     {"<", OP_LT},
        {"=", OP_ASSIGN},     {".", OP_DOT},       {":", OP_COLON},  {"|", OP_PIPE},
        {",", OP_COMMA},      {";", OP_SEMICOLON},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!lex_at(l, l->at, table[i].text))
            continue;
        size_t length = strlen(table[i].text);
        if (!track_bracket(l, table[i].op))
            return false;
        struct token *token =
            add_token(l, TOKEN_OPERATOR, (struct str){l->source.data + l->at, length});
        if (!token)
            return false;
        token->op = table[i].op;
        advance(l, l->at + length);
        return true;
    }
    compile_fail(l->c, l->line, STATUS_MODEL, "unexpected character at byte %zu", l->at);
    return false;
}

static bool lex_inside(struct lexer *l, bool is_print)
{
    uint32_t line = l->line;
    const char *marker = is_print ? "}}" : "%}";
    while (l->at < l->source.len) {
        size_t end = l->n_open ? 0 : marker_end(l, l->at, marker, !is_print);
        if (end) {
            if (!add_token(l, is_print ? TOKEN_PRINT_END : TOKEN_TAG_END, STR_LIT("")))
                return false;
            advance(l, end);
            return true;
        }
        size_t space = skip_space(l, l->at);
        char c = l->source.data[l->at];
        bool ok = true;
        if (space > l->at) {
            advance(l, space);
        } else if (is_digit(c)) {
            ok = lex_number(l);
        } else if (is_name_char(c)) {
            size_t p = l->at;
            while (p < l->source.len && is_name_char(l->source.data[p]))
                p++;
            ok = add_token(l, TOKEN_NAME, (struct str){l->source.data + l->at, p - l->at});
            advance(l, p);
        } else if (c == '\'' || c == '"') {
            ok = lex_string(l);
        } else {
            ok = lex_operator(l);
        }
        if (!ok)
            return false;
    }
    compile_fail(l->c, line, STATUS_MODEL, "a tag has no end %s", marker);
    return false;
}

/* Text up to the next tag, and the tag. */
static bool lex_next(struct lexer *l)
{
    size_t begin = l->at, p = begin;
    while (p < l->source.len && !lex_at(l, p, "{{") && !lex_at(l, p, "{%") && !lex_at(l, p, "{#"))
        p++;
    bool at_end = p >= l->source.len;
    bool is_print = !at_end && l->source.data[p + 1] == '{';
    size_t end = at_end ? p : text_end(l, begin, p, is_print);
    if (end > begin && !add_token(l, TOKEN_DATA, (struct str){l->source.data + begin, end - begin}))
        return false;
    advance(l, p);
    if (at_end)
        return true;
    size_t raw = raw_begin(l, p);
    if (l->source.data[p + 1] == '%' && raw)
        return lex_raw(l, raw);
    if (l->source.data[p + 1] == '#')
        return lex_comment(l);
    if (!add_token(l, is_print ? TOKEN_PRINT_BEGIN : TOKEN_TAG_BEGIN, STR_LIT("")))
        return false;
    size_t sign = lex_at(l, p + 2, "-") || lex_at(l, p + 2, "+");
    advance(l, p + 2 + sign);
    l->n_open = 0;
    return lex_inside(l, is_print);
}

enum status lex(struct compiler *c, struct str source)
{
    struct lexer l = {.c = c, .source = source, .line = 1, .line_start = true};
    while (l.at < source.len)
        if (!lex_next(&l))
            return c->status;
    return add_token(&l, TOKEN_END, STR_LIT("")) ? STATUS_OK : c->status;
}
