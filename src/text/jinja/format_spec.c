/*
 * Python's format specifications for one value: [[fill]align][sign][#][0][width][,][.precision][type]
 * Used by "{:>8}".format(x); the %-operator maps its conversions onto the same printing.
 */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/jinja/run.h"

#define WIDTH_MAX     65536
#define PRECISION_MAX 100

struct spec {
    uint32_t fill;
    char align, sign, type, group; /* 0: not given */
    bool alternate, zero;
    int64_t width, precision; /* -1: not given */
};

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static bool read_number(struct str s, size_t *at, int64_t *out)
{
    int64_t n = -1;
    while (*at < s.len && isdigit((unsigned char)s.data[*at])) {
        n = (n < 0 ? 0 : n) * 10 + (s.data[(*at)++] - '0');
        if (n > WIDTH_MAX)
            return false;
    }
    *out = n;
    return true;
}

static bool parse_spec(struct str s, struct spec *out)
{
    size_t at = 0;
    struct jinja_text text = {.data = s.data, .len = s.len};
    uint32_t c;
    *out = (struct spec){.fill = ' ', .width = -1, .precision = -1};
    unsigned length = s.len ? text_decode(&text, 0, &c) : 0;
    if (length && length < s.len && is_align(s.data[length])) {
        out->fill = c;
        out->align = s.data[length];
        at = length + 1;
    } else if (s.len && is_align(s.data[0])) {
        out->align = s.data[0];
        at = 1;
    }
    if (at < s.len && (s.data[at] == '+' || s.data[at] == '-' || s.data[at] == ' '))
        out->sign = s.data[at++];
    if (at < s.len && s.data[at] == '#') {
        out->alternate = true;
        at++;
    }
    if (at < s.len && s.data[at] == '0') {
        out->zero = true;
        at++;
    }
    if (!read_number(s, &at, &out->width))
        return false;
    if (at < s.len && (s.data[at] == ',' || s.data[at] == '_'))
        out->group = s.data[at++];
    if (at < s.len && s.data[at] == '.') {
        at++;
        if (!read_number(s, &at, &out->precision) || out->precision < 0)
            return false;
    }
    if (at < s.len)
        out->type = s.data[at++];
    return at == s.len;
}

/* head (sign, prefix), then body, padded. The fill comes from the specification, whose trust is not
 * known here, so only the usual zeros count as the value's own digits. */
static void pad(struct text_builder *b, const struct spec *s, const char *head,
                const struct jinja_text *body, char align, uint32_t fill, bool trusted)
{
    size_t used = strlen(head) + body->n_chars;
    size_t room = s->width > 0 && (size_t)s->width > used ? (size_t)s->width - used : 0;
    size_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    bool fill_trusted = trusted && fill == '0';
    builder_fill(b, fill, left, fill_trusted);
    builder_cstr(b, head, trusted);
    if (align == '=')
        builder_fill(b, fill, room, fill_trusted);
    builder_text(b, body);
    if (align == '<' || align == '^')
        builder_fill(b, fill, room - left, fill_trusted);
}

/* Commas or underscores between groups of the leading run of digits. */
static const struct jinja_text *grouped(struct jinja_run *run, const char *digits, char group,
                                        size_t every, bool trusted)
{
    struct text_builder b;
    size_t n = strspn(digits, "0123456789abcdefABCDEF");
    if (strpbrk(digits, "en") && every == 3)
        n = strspn(digits, "0123456789");
    builder_init(&b, run);
    for (size_t i = 0; i < n; i++) {
        if (group && i && (n - i) % every == 0)
            builder_bytes(&b, &group, 1, trusted);
        builder_bytes(&b, digits + i, 1, trusted);
    }
    builder_cstr(&b, digits + n, trusted);
    return builder_finish(&b);
}

static bool format_number(struct jinja_run *run, struct text_builder *b, const struct spec *s,
                          bool negative, const char *prefix, const char *digits, bool trusted)
{
    char head[8];
    size_t every = s->type == 'x' || s->type == 'X' || s->type == 'b' || s->type == 'o' ? 4 : 3;
    const char *sign = negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    snprintf(head, sizeof head, "%s%s", sign, prefix);
    const struct jinja_text *body = grouped(run, digits, s->group, every, trusted);
    if (!body)
        return false;
    bool zeros = s->zero && !s->align;
    pad(b, s, head, body, zeros ? '=' : s->align ? s->align : '>', zeros ? '0' : s->fill, trusted);
    return true;
}

static bool format_integer(struct jinja_run *run, struct text_builder *b, const struct spec *s,
                           int64_t value, bool trusted)
{
    char digits[72];
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    const char *prefix = "";
    if (s->type == 'c') {
        if (value < 0 || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
            return run_error(run, "%%c arg not in range");
        digits[utf8_encode((uint32_t)value, digits)] = 0;
        return format_number(run, b, s, false, "", digits, trusted);
    }
    if (s->type == 'x' || s->type == 'X' || s->type == 'o') {
        snprintf(digits, sizeof digits,
                 s->type == 'x'   ? "%" PRIx64
                 : s->type == 'X' ? "%" PRIX64
                                  : "%" PRIo64,
                 magnitude);
        prefix = !s->alternate ? "" : s->type == 'x' ? "0x" : s->type == 'X' ? "0X" : "0o";
    } else if (s->type == 'b') {
        size_t n = 0;
        for (int bit = 63; bit >= 0; bit--)
            if (n || bit == 0 || (magnitude >> bit & 1))
                digits[n++] = (char)('0' + (magnitude >> bit & 1));
        digits[n] = 0;
        prefix = s->alternate ? "0b" : "";
    } else {
        snprintf(digits, sizeof digits, "%" PRIu64, magnitude);
    }
    return format_number(run, b, s, value < 0, prefix, digits, trusted);
}

/* snprintf's decimal point may be the locale's. */
static void fix_point(char *text)
{
    char point[8];
    snprintf(point, sizeof point, "%.1f", 0.5);
    char *at = point[1] == '.' ? NULL : strchr(text, point[1]);
    if (at)
        *at = '.';
}

/* Without a type a float keeps a ".0", and where there is no room for it becomes exponential. */
static void add_dot(char *text, int precision, double magnitude)
{
    if (strlen(text) < (size_t)precision) {
        strcat(text, ".0");
        return;
    }
    snprintf(text, 64, "%.*e", precision > 0 ? precision - 1 : 0, magnitude);
    fix_point(text);
    char *e = strchr(text, 'e'), *end = e;
    while (end && end > text && end[-1] == '0' && memchr(text, '.', (size_t)(end - text)))
        end--;
    if (end && end > text && end[-1] == '.')
        end--;
    if (end)
        memmove(end, e, strlen(e) + 1);
}

static bool format_real(struct jinja_run *run, struct text_builder *b, const struct spec *s,
                        double value, bool trusted)
{
    char text[512];
    char kind[8];
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    double magnitude = fabs(value);
    if (precision > PRECISION_MAX)
        return run_fail(run, STATUS_LIMIT, "a number's precision is over %d", PRECISION_MAX);
    if (isnan(value) || isinf(value)) {
        strcpy(text, isnan(value) ? "nan" : "inf");
    } else if (s->type == 0 && s->precision < 0) {
        print_float(magnitude, text);
    } else {
        char conversion = s->type == '%' ? 'f' : s->type == 'n' || s->type == 0 ? 'g' : s->type;
        snprintf(kind, sizeof kind, s->alternate ? "%%#.*%c" : "%%.*%c", conversion);
        snprintf(text, sizeof text - 2, kind, precision,
                 s->type == '%' ? magnitude * 100 : magnitude);
        fix_point(text);
        if (s->type == 0 && !strpbrk(text, ".en"))
            add_dot(text, precision, magnitude);
    }
    if (s->type == '%')
        strcat(text, "%");
    return format_number(run, b, s, signbit(value) && !isnan(value), "", text, trusted);
}

static bool format_text(struct jinja_run *run, struct text_builder *b, const struct spec *s,
                        const struct jinja_text *text)
{
    if (s->precision >= 0 && (size_t)s->precision < text->n_chars) {
        text = text_slice(run, text, 0, text_offset(text, (size_t)s->precision));
        if (!text)
            return false;
    }
    pad(b, s, "", text, s->align ? s->align : '<', s->zero && !s->align ? '0' : s->fill, true);
    return true;
}

bool format_spec(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                 struct str text)
{
    struct spec s;
    if (text.len == 0) {
        print_value(b, v);
        return run->status == STATUS_OK;
    }
    if (!parse_spec(text, &s))
        return run_error(run, "invalid format specifier '%.*s'", text.len > 40 ? 40 : (int)text.len,
                         text.data);
    if (v->kind == JINJA_STRING) {
        if (s.type && s.type != 's')
            return run_error(run, "unknown format code '%c' for object of type 'str'", s.type);
        return format_text(run, b, &s, v->text);
    }
    if (!value_is_number(v))
        return run_error(run, "unsupported format string passed to %s", value_type_name(v));
    bool real = v->kind == JINJA_FLOAT || (s.type && strchr("eEfFgG%", s.type));
    if (real && s.type && !strchr("eEfFgGn%", s.type))
        return run_error(run, "unknown format code '%c' for object of type 'float'", s.type);
    if (!real && s.type && !strchr("bcdoxXn", s.type))
        return run_error(run, "unknown format code '%c' for object of type 'int'", s.type);
    if (!real && s.precision >= 0)
        return run_error(run, "precision not allowed in integer format specifier");
    if (real)
        return format_real(run, b, &s, value_as_real(v), !v->untrusted);
    return format_integer(run, b, &s, value_as_integer(v), !v->untrusted);
}
