/*
 * Values as text: Python's str() and repr(). Digits, brackets and quotes made from an untrusted
 * value are untrusted; strings bring their own trust.
 */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <utf8proc.h>

#include "text/jinja/run.h"

/* The shortest digits that read back as the same double; the locale's decimal point is skipped. */
static int shortest_digits(double value, char digits[24], int *exponent)
{
    char text[48];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (precision == 16 || strtod(text, NULL) == value)
            break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (isdigit((unsigned char)*p))
            digits[n++] = *p;
    *exponent = *p == 'e' ? atoi(p + 1) : 0;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = 0;
    return n;
}

void print_float(double value, char *out)
{
    char digits[24];
    int exponent;
    if (isnan(value) || isinf(value)) {
        strcpy(out, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    if (signbit(value))
        *out++ = '-';
    int n = shortest_digits(fabs(value), digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        *out++ = digits[0];
        if (n > 1)
            *out++ = '.';
        memcpy(out, digits + 1, (size_t)n - 1);
        snprintf(out + n - 1, 8, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = -1; i > exponent; i--)
            *out++ = '0';
        strcpy(out, digits);
        return;
    }
    for (int i = 0; i <= exponent; i++)
        *out++ = i < n ? digits[i] : '0';
    *out++ = '.';
    if (n <= exponent + 1)
        *out++ = '0';
    for (int i = exponent + 1; i < n; i++)
        *out++ = digits[i];
    *out = 0;
}

/* "inf", "nan", "infinity" in any case, after a sign. */
static bool special_float(struct str text, double *out)
{
    static const char *const names[] = {"inf", "infinity", "nan"};
    bool negative = text.len && text.data[0] == '-';
    if (text.len && (text.data[0] == '-' || text.data[0] == '+')) {
        text.data++;
        text.len--;
    }
    for (size_t k = 0; k < 3; k++) {
        bool same = strlen(names[k]) == text.len;
        for (size_t i = 0; same && i < text.len; i++)
            same = tolower((unsigned char)text.data[i]) == names[k][i];
        if (same) {
            *out = k == 2 ? (double)NAN : negative ? -(double)INFINITY : (double)INFINITY;
            return true;
        }
    }
    return false;
}

bool parse_float(struct str text, double *out)
{
    char copy[512], point[8];
    size_t n = 0;
    if (text.len == 0 || text.len >= sizeof copy)
        return false;
    if (special_float(text, out))
        return true;
    snprintf(point, sizeof point, "%.1f", 0.5);
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        bool digit = isdigit((unsigned char)c);
        if (c == '_') {
            bool between = i > 0 && i + 1 < text.len && isdigit((unsigned char)text.data[i - 1]) &&
                           isdigit((unsigned char)text.data[i + 1]);
            if (!between)
                return false;
            continue;
        }
        if (!digit && c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-')
            return false;
        copy[n++] = c == '.' ? point[1] : c;
    }
    copy[n] = 0;
    char *end;
    *out = strtod(copy, &end);
    return end == copy + n && n > 0;
}

/* Python's str.isprintable() for one code point. */
static bool char_is_printable(uint32_t c)
{
    if (c < 0x80)
        return c >= 0x20 && c < 0x7f;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
        return false;
    default:
        return true;
    }
}

static void repr_char(struct text_builder *b, const struct jinja_text *text, size_t at,
                      unsigned length, uint32_t c, char quote)
{
    char escape[16] = "";
    if (c == '\\' || c == (uint32_t)quote)
        snprintf(escape, sizeof escape, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (!char_is_printable(c))
        snprintf(escape, sizeof escape,
                 c < 0x100     ? "\\x%02" PRIx32
                 : c < 0x10000 ? "\\u%04" PRIx32
                               : "\\U%08" PRIx32,
                 c);
    if (escape[0])
        builder_cstr(b, escape, text_trusted_at(text, at));
    else
        builder_slice(b, text, at, at + length);
}

static void repr_text(struct text_builder *b, const struct jinja_text *text)
{
    bool trusted = text->trust == TRUST_ALL;
    bool single = text->len && memchr(text->data, '\'', text->len);
    bool twice = text->len && memchr(text->data, '"', text->len);
    char quote = single && !twice ? '"' : '\'';
    if (text->safe)
        builder_cstr(b, "Markup(", trusted);
    builder_bytes(b, &quote, 1, trusted);
    for (size_t at = 0; at < text->len && b->run->status == STATUS_OK;) {
        uint32_t c;
        unsigned length = text_decode(text, at, &c);
        repr_char(b, text, at, length, c, quote);
        at += length;
    }
    builder_bytes(b, &quote, 1, trusted);
    if (text->safe)
        builder_cstr(b, ")", trusted);
}

static void repr_items(struct text_builder *b, const struct jinja_value *v, unsigned depth)
{
    bool trusted = !v->untrusted;
    size_t count = 0;
    if (!value_length(b->run, v, &count))
        return;
    if (v->kind == JINJA_VIEW)
        builder_cstr(b, value_type_name(v), trusted);
    builder_cstr(b, v->kind == JINJA_VIEW ? "([" : v->kind == JINJA_TUPLE ? "(" : "[", trusted);
    for (size_t i = 0; i < count && b->run->status == STATUS_OK; i++) {
        struct jinja_value item;
        if (i)
            builder_cstr(b, ", ", trusted);
        if (value_at(b->run, v, i, &item))
            print_repr(b, &item, depth - 1);
    }
    if (v->kind == JINJA_TUPLE && count == 1)
        builder_cstr(b, ",", trusted);
    builder_cstr(b, v->kind == JINJA_VIEW ? "])" : v->kind == JINJA_TUPLE ? ")" : "]", trusted);
}

static void repr_dict(struct text_builder *b, const struct jinja_value *v, unsigned depth)
{
    bool trusted = !v->untrusted;
    builder_cstr(b, v->kind == JINJA_NAMESPACE ? "<Namespace {" : "{", trusted);
    for (size_t i = 0; i < v->dict->count && b->run->status == STATUS_OK; i++) {
        if (i)
            builder_cstr(b, ", ", trusted);
        print_repr(b, &v->dict->entries[i].key, depth - 1);
        builder_cstr(b, ": ", trusted);
        print_repr(b, &v->dict->entries[i].value, depth - 1);
    }
    builder_cstr(b, v->kind == JINJA_NAMESPACE ? "}>" : "}", trusted);
}

static const char *macro_title(const struct jinja_macro *macro)
{
    return macro->node->macro->name ? macro->node->macro->name->data : "caller";
}

static size_t loop_total(struct text_builder *b, const struct jinja_value *v)
{
    struct jinja_value length = value_int(0);
    bool found;
    loop_attribute(b->run, v->loop, STR_LIT("length"), &length, &found);
    return (size_t)length.integer;
}

static void repr_other(struct text_builder *b, const struct jinja_value *v)
{
    char text[96];
    if (v->kind == JINJA_RANGE && v->range->step == 1)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", v->range->start,
                 v->range->stop);
    else if (v->kind == JINJA_RANGE)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", v->range->start,
                 v->range->stop, v->range->step);
    else if (v->kind == JINJA_MACRO)
        snprintf(text, sizeof text, "<Macro '%.60s'>", macro_title(v->macro));
    else if (v->kind == JINJA_LOOP)
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", v->loop->index0 + 1, loop_total(b, v));
    else
        snprintf(text, sizeof text, "<%s object>", value_type_name(v));
    builder_cstr(b, text, !v->untrusted);
}

void print_repr(struct text_builder *b, const struct jinja_value *v, unsigned depth)
{
    char text[40];
    bool trusted = !v->untrusted;
    if (depth == 0) {
        run_fail(b->run, STATUS_LIMIT, "a value is nested deeper than %d levels",
                 JINJA_VALUE_DEPTH);
        return;
    }
    if (!run_burn(b->run, 2))
        return;
    switch (v->kind) {
    case JINJA_UNDEFINED:
        builder_cstr(b, "Undefined", trusted);
        break;
    case JINJA_NONE:
        builder_cstr(b, "None", trusted);
        break;
    case JINJA_BOOL:
        builder_cstr(b, v->boolean ? "True" : "False", trusted);
        break;
    case JINJA_INT:
        snprintf(text, sizeof text, "%" PRId64, v->integer);
        builder_cstr(b, text, trusted);
        break;
    case JINJA_FLOAT:
        print_float(v->real, text);
        builder_cstr(b, text, trusted);
        break;
    case JINJA_STRING:
        repr_text(b, v->text);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
        repr_items(b, v, depth);
        break;
    case JINJA_DICT:
    case JINJA_NAMESPACE:
        repr_dict(b, v, depth);
        break;
    default:
        repr_other(b, v);
    }
}

void print_value(struct text_builder *b, const struct jinja_value *v)
{
    if (v->kind == JINJA_STRING)
        builder_text(b, v->text);
    else if (v->kind != JINJA_UNDEFINED)
        print_repr(b, v, JINJA_VALUE_DEPTH);
}

const struct jinja_text *to_text(struct jinja_run *run, const struct jinja_value *v)
{
    struct text_builder b;
    if (v->kind == JINJA_STRING)
        return v->text;
    builder_init(&b, run);
    print_value(&b, v);
    return builder_finish(&b);
}
