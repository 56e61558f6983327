/*
 * "%s is %d" % (a, b) and "{} is {name!r:>8}".format(a, name=b). The format's own bytes keep their
 * trust, what is filled in keeps its own.
 */
#include <ctype.h>
#include <stdio.h>

#include "text/jinja/run.h"

struct percent {
    struct jinja_run *run;
    const struct jinja_text *format;
    const struct jinja_value *args;
    size_t next, count; /* positional; a value that is no tuple is one */
};

static bool percent_next(struct percent *p, struct jinja_value *out)
{
    if (p->next >= p->count)
        return run_error(p->run, "not enough arguments for format string");
    *out = p->args->kind == JINJA_TUPLE ? p->args->list->items[p->next] : *p->args;
    p->next++;
    return true;
}

/* Prints one value by a conversion: letters map to a format specification. */
static bool percent_value(struct percent *p, struct text_builder *b, char conversion,
                          const char *flags, const struct jinja_value *value)
{
    char spec[64];
    struct text_builder inner;
    struct jinja_value v = *value;
    bool left = strchr(flags, '-'), textual = strchr("sra", conversion);
    const char *rest = flags + strspn(flags, "-+ #0");
    if (textual) {
        builder_init(&inner, p->run);
        if (conversion == 's')
            print_value(&inner, value);
        else
            print_repr(&inner, value, JINJA_VALUE_DEPTH);
        if (!out_text(&v, builder_finish(&inner)))
            return false;
        if (p->format->safe) {
            struct text_builder escaped;
            builder_init(&escaped, p->run);
            builder_escaped(&escaped, v.text);
            if (!out_text(&v, builder_finish(&escaped)))
                return false;
        }
        snprintf(spec, sizeof spec, "%s%.40s", left ? "<" : ">", rest);
        return format_spec(p->run, b, &v, str_from(spec));
    }
    if (v.kind == JINJA_STRING && conversion == 'c') {
        print_value(b, &v);
        return p->run->status == STATUS_OK;
    }
    if (!value_is_number(&v))
        return run_error(p->run, "%%%c format: a real number is required, not %s", conversion,
                         value_type_name(&v));
    if (strchr("xXoc", conversion) && v.kind == JINJA_FLOAT)
        return run_error(p->run, "%%%c format: an integer is required, not float", conversion);
    if (strchr("diu", conversion) && v.kind == JINJA_FLOAT) {
        if (!(v.real > -0x1p63 && v.real < 0x1p63))
            return run_error(p->run, "integer overflow: numbers have 64 bits here");
        v = value_int((int64_t)v.real);
        v.untrusted = value->untrusted;
    }
    char type = conversion == 'i' || conversion == 'u' ? 'd' : conversion;
    const char *sign = strchr(flags, '+') ? "+" : strchr(flags, ' ') ? " " : "";
    size_t n_flags = (size_t)(rest - flags);
    bool zero = memchr(flags, '0', n_flags) && !left;
    snprintf(spec, sizeof spec, "%s%s%s%s%.40s%c", left ? "<" : "", sign,
             memchr(flags, '#', n_flags) ? "#" : "", zero ? "0" : "", rest, type);
    return format_spec(p->run, b, &v, str_from(spec));
}

/* One "%(key)-05.2f"; *at is after the '%'. */
static bool percent_item(struct percent *p, struct text_builder *b, size_t *at)
{
    struct str f = text_str(p->format);
    struct jinja_value value = {0};
    char flags[48];
    size_t n = 0;
    bool keyed = *at < f.len && f.data[*at] == '(';
    if (keyed) {
        size_t begin = ++*at;
        while (*at < f.len && f.data[*at] != ')')
            ++*at;
        if (p->args->kind != JINJA_DICT || *at >= f.len)
            return run_error(p->run, "format requires a mapping");
        const struct jinja_value *found =
            dict_get_str(p->args->dict, (struct str){f.data + begin, *at - begin});
        if (!found)
            return run_error(p->run, "the format's key is not in the mapping");
        value = *found;
        ++*at;
    }
    while (*at < f.len && strchr("-+ #0123456789.*", f.data[*at]) && f.data[*at]) {
        if (f.data[*at] == '*') {
            struct jinja_value width;
            if (!percent_next(p, &width))
                return false;
            if (!value_is_integer(&width) || value_as_integer(&width) > 10000 ||
                value_as_integer(&width) < -10000)
                return run_error(p->run, "* wants an int");
            n += (size_t)snprintf(flags + n, sizeof flags - n, "%d", (int)value_as_integer(&width));
        } else if (n < sizeof flags - 1) {
            flags[n++] = f.data[*at];
        }
        if (n > sizeof flags - 8)
            return run_error(p->run, "a format is too long");
        ++*at;
    }
    flags[n] = 0;
    while (*at < f.len && (f.data[*at] == 'l' || f.data[*at] == 'h' || f.data[*at] == 'L'))
        ++*at;
    if (*at >= f.len)
        return run_error(p->run, "incomplete format");
    char conversion = f.data[(*at)++];
    if (conversion == '%') {
        builder_slice(b, p->format, *at - 1, *at);
        return true;
    }
    if (!conversion || !strchr("sradiuxXoceEfFgG", conversion))
        return run_error(p->run, "unsupported format character");
    if (!keyed && !percent_next(p, &value))
        return false;
    return percent_value(p, b, conversion, flags, &value);
}

bool format_percent(struct jinja_run *run, const struct jinja_text *format,
                    const struct jinja_value *args, struct jinja_value *out)
{
    struct percent p = {.run = run, .format = format, .args = args};
    struct text_builder b;
    size_t at = 0, plain = 0;
    p.count = args->kind == JINJA_TUPLE ? args->list->count : 1;
    builder_init(&b, run);
    while (at < format->len) {
        if (format->data[at] != '%') {
            at++;
            continue;
        }
        builder_slice(&b, format, plain, at++);
        if (!run_burn(run, 1) || !percent_item(&p, &b, &at))
            return false;
        plain = at;
    }
    builder_slice(&b, format, plain, at);
    /* A value that can be indexed by name may stay unused. */
    bool indexed = args->kind == JINJA_DICT || args->kind == JINJA_LIST ||
                   args->kind == JINJA_RANGE || args->kind == JINJA_UNDEFINED;
    bool spare = args->kind == JINJA_TUPLE ? p.next < p.count : p.next == 0 && !indexed;
    if (spare)
        return run_error(run, "not all arguments converted during string formatting");
    const struct jinja_text *text = builder_finish(&b);
    return text && out_text(out, text_with_safe(run, text, format->safe));
}

/* ---- {} ------------------------------------------------------------------------------------- */

struct braces {
    struct jinja_run *run;
    const struct jinja_text *format;
    const struct jinja_args *args;
    size_t next;
    bool automatic, manual;
};

static bool all_digits(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!isdigit((unsigned char)s.data[i]))
            return false;
    return s.len > 0 && s.len < 10;
}

static size_t to_index(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n = n * 10 + (size_t)(s.data[i] - '0');
    return n;
}

static bool positional(struct braces *f, size_t index, struct jinja_value *out)
{
    if (index >= f->args->count)
        return run_error(f->run, "replacement index %zu out of range", index);
    *out = f->args->items[index];
    return true;
}

static bool braces_first(struct braces *f, struct str name, struct jinja_value *out)
{
    if (name.len == 0 || all_digits(name)) {
        f->automatic |= name.len == 0;
        f->manual |= name.len != 0;
        if (f->automatic && f->manual)
            return run_error(f->run, "cannot mix automatic and manual field numbers");
        return positional(f, name.len ? to_index(name) : f->next++, out);
    }
    for (size_t i = 0; i < f->args->n_keywords; i++)
        if (str_eq(text_str(f->args->keywords[i].name), name)) {
            *out = f->args->keywords[i].value;
            return true;
        }
    return run_error(f->run, "the format names '%.*s', which was not given",
                     name.len > 60 ? 60 : (int)name.len, name.data);
}

/* "name.attribute[index]" */
static bool braces_field(struct braces *f, struct str field, struct jinja_value *out)
{
    size_t at = 0;
    while (at < field.len && field.data[at] != '.' && field.data[at] != '[')
        at++;
    if (!braces_first(f, (struct str){field.data, at}, out))
        return false;
    while (at < field.len) {
        bool member = field.data[at++] == '.';
        size_t begin = at;
        while (at < field.len &&
               (member ? field.data[at] != '.' && field.data[at] != '[' : field.data[at] != ']'))
            at++;
        struct str key = {field.data + begin, at - begin};
        const struct jinja_text *text = text_borrow(&f->run->arena, key, true);
        struct jinja_value object = *out, index;
        if (!text || key.len == 0)
            return run_error(f->run, "empty attribute in format string");
        if (!member)
            at++;
        index = !member && all_digits(key) ? value_int((int64_t)to_index(key)) : value_text(text);
        if (!(member ? get_attribute(f->run, &object, text, out)
                     : get_item(f->run, &object, &index, out)))
            return false;
    }
    return true;
}

/* Fields inside of a specification: "{:{width}}". */
static bool expand_spec(struct braces *f, struct str *spec)
{
    struct text_builder b;
    if (spec->len == 0 || !memchr(spec->data, '{', spec->len))
        return true;
    builder_init(&b, f->run);
    for (size_t at = 0; at < spec->len; at++) {
        struct jinja_value value;
        size_t begin = at + 1;
        if (spec->data[at] != '{') {
            builder_bytes(&b, spec->data + at, 1, false);
            continue;
        }
        while (at < spec->len && spec->data[at] != '}')
            at++;
        if (!braces_field(f, (struct str){spec->data + begin, at - begin}, &value))
            return false;
        print_value(&b, &value);
    }
    const struct jinja_text *text = builder_finish(&b);
    if (text)
        *spec = text_str(text);
    return text;
}

/* One "{field!r:spec}" whose inside is `inside`. */
static bool braces_item(struct braces *f, struct text_builder *b, struct str inside)
{
    size_t colon = 0, bracket = 0;
    while (colon < inside.len && (bracket || (inside.data[colon] != ':'))) {
        bracket = inside.data[colon] == '[' ? 1 : inside.data[colon] == ']' ? 0 : bracket;
        colon++;
    }
    struct str field = {inside.data, colon};
    struct str spec = {inside.data + colon, inside.len - colon};
    char conversion = 0;
    struct jinja_value value;
    if (spec.len) {
        spec.data++;
        spec.len--;
    }
    if (field.len >= 2 && field.data[field.len - 2] == '!') {
        conversion = field.data[field.len - 1];
        field.len -= 2;
    }
    if (!braces_field(f, field, &value) || !expand_spec(f, &spec))
        return false;
    if (conversion) {
        struct text_builder inner;
        builder_init(&inner, f->run);
        if (conversion == 's')
            print_value(&inner, &value);
        else
            print_repr(&inner, &value, JINJA_VALUE_DEPTH);
        if (!out_text(&value, builder_finish(&inner)))
            return false;
    }
    if (f->format->safe && spec.len == 0) {
        const struct jinja_text *text = to_text(f->run, &value);
        if (text)
            builder_escaped(b, text);
        return text;
    }
    return format_spec(f->run, b, &value, spec);
}

bool format_braces(struct jinja_run *run, const struct jinja_text *format,
                   const struct jinja_args *args, struct jinja_value *out)
{
    struct braces f = {.run = run, .format = format, .args = args};
    struct text_builder b;
    size_t at = 0, plain = 0;
    builder_init(&b, run);
    while (at < format->len) {
        char c = format->data[at];
        if (c != '{' && c != '}') {
            at++;
            continue;
        }
        bool twice = at + 1 < format->len && format->data[at + 1] == c;
        builder_slice(&b, format, plain, at + twice);
        at += 1 + (size_t)twice;
        plain = at;
        if (twice)
            continue;
        if (c == '}')
            return run_error(run, "single '}' in format string");
        size_t depth = 1;
        while (at < format->len && depth) {
            depth += format->data[at] == '{';
            depth -= format->data[at] == '}';
            at++;
        }
        if (depth)
            return run_error(run, "single '{' in format string");
        if (!run_burn(run, 1) ||
            !braces_item(&f, &b, (struct str){format->data + plain, at - 1 - plain}))
            return false;
        plain = at;
    }
    builder_slice(&b, format, plain, at);
    const struct jinja_text *text = builder_finish(&b);
    return text && out_text(out, text_with_safe(run, text, format->safe));
}
