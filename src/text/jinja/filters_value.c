/* Filters on single values: defaults, numbers, JSON, dicts; and the lookup of any filter. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>

#include "text/jinja/text_ops.h"

static bool do_default(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    bool use = call->self.kind == JINJA_UNDEFINED ||
               (argument_flag(&call->a[1], false) && !value_truthy(&call->self));
    *out = use ? call->a[0] : call->self;
    if (out->kind == JINJA_MISSING)
        return out_text(out, &text_empty);
    return true;
}

static bool do_length(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    size_t n;
    if (!value_length(run, &call->self, &n))
        return false;
    *out = value_int((int64_t)n);
    return true;
}

static bool do_first(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    if (v->kind == JINJA_ITERATOR) {
        struct jinja_iterator *it = v->iterator;
        *out = it->next < it->count ? it->items[it->next++] : value_undefined();
        return true;
    }
    size_t n;
    if (!value_is_iterable(v))
        return run_error(run, "'%s' object is not iterable", value_type_name(v));
    if (!value_length(run, v, &n))
        return false;
    if (n == 0) {
        *out = value_undefined();
        return true;
    }
    struct jinja_value zero = value_int(0);
    return v->kind == JINJA_STRING ? get_item(run, v, &zero, out) : value_at(run, v, 0, out);
}

static bool do_last(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    size_t n;
    if (!value_is_iterable(v) || v->kind == JINJA_ITERATOR)
        return run_error(run, "'%s' object is not reversible", value_type_name(v));
    if (!value_length(run, v, &n))
        return false;
    if (n == 0) {
        *out = value_undefined();
        return true;
    }
    struct jinja_value last = value_int((int64_t)n - 1);
    return v->kind == JINJA_STRING ? get_item(run, v, &last, out) : value_at(run, v, n - 1, out);
}

/* ---- numbers -------------------------------------------------------------------------------- */

static int digit(char c)
{
    return isdigit((unsigned char)c)   ? c - '0'
           : isalpha((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
                                       : 99;
}

/* Python's int(text, base); false if it is none or does not fit. */
static bool parse_integer(struct str s, int64_t base, int64_t *out)
{
    bool negative = s.len && s.data[0] == '-';
    size_t at = s.len && (s.data[0] == '-' || s.data[0] == '+'), digits = 0;
    int64_t value = 0;
    if (at + 2 < s.len && s.data[at] == '0') {
        int letter = tolower((unsigned char)s.data[at + 1]);
        int64_t prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
        if (prefix && (base == prefix || base == 0)) {
            base = prefix;
            at += 2;
        }
    }
    if (base == 0)
        base = 10;
    for (; at < s.len; at++) {
        if (s.data[at] == '_' && digits && at + 1 < s.len && s.data[at + 1] != '_')
            continue;
        if (digit(s.data[at]) >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_sub_overflow(value, (int64_t)digit(s.data[at]), &value))
            return false;
        digits++;
    }
    if (digits == 0 || (!negative && value == INT64_MIN))
        return false;
    *out = negative ? value : -value;
    return true;
}

static bool real_to_integer(double value, int64_t *out)
{
    if (!(value >= -0x1p63 && value < 0x1p63))
        return false;
    *out = (int64_t)value;
    return true;
}

static bool do_int(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    int64_t base, value;
    double real;
    if (!argument_integer(run, &call->a[1], "base", 10, &base))
        return false;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    bool ok = value_is_integer(v);
    if (ok)
        value = value_as_integer(v);
    else if (v->kind == JINJA_FLOAT)
        ok = real_to_integer(v->real, &value);
    else if (v->kind == JINJA_STRING)
        ok =
            (base == 0 || (base >= 2 && base <= 36)) &&
            (parse_integer(str_trimmed(text_str(v->text)), base, &value) ||
             (parse_float(str_trimmed(text_str(v->text)), &real) && real_to_integer(real, &value)));
    if (!ok && call->a[0].kind != JINJA_MISSING)
        *out = call->a[0];
    else
        *out = value_int(ok ? value : 0);
    return true;
}

static bool do_float(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    double value = 0;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    bool ok = value_is_number(v);
    if (ok)
        value = value_as_real(v);
    else if (v->kind == JINJA_STRING)
        ok = parse_float(str_trimmed(text_str(v->text)), &value);
    if (!ok && call->a[0].kind != JINJA_MISSING)
        *out = call->a[0];
    else
        *out = value_float(ok ? value : 0.0);
    return true;
}

static bool do_abs(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(run, v);
    if (!value_is_number(v))
        return run_error(run, "bad operand type for abs(): '%s'", value_type_name(v));
    if (v->kind == JINJA_FLOAT)
        *out = value_float(fabs(v->real));
    else if (value_as_integer(v) >= 0)
        *out = value_int(value_as_integer(v));
    else
        return operate_unary(run, OP_SUB, v, out);
    return true;
}

static bool do_round(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *v = &call->self;
    static const struct jinja_text common = TEXT_INIT("common");
    const struct jinja_text *method;
    int64_t precision;
    char text[512];
    double value;
    if (!argument_integer(run, &call->a[0], "precision", 0, &precision) ||
        !argument_text(run, &call->a[1], "method", &common, &method))
        return false;
    if (!value_is_number(v) || precision > 50 || precision < -50)
        return run_error(run, "round wants a number and a precision of at most 50 digits");
    value = value_as_real(v);
    double scale = pow(10, (double)precision);
    if (str_eq_cstr(text_str(method), "ceil")) {
        *out = value_float(ceil(value * scale) / scale);
    } else if (str_eq_cstr(text_str(method), "floor")) {
        *out = value_float(floor(value * scale) / scale);
    } else if (!str_eq_cstr(text_str(method), "common")) {
        return run_error(run, "method must be common, ceil or floor");
    } else if (value_is_integer(v) && precision >= 0) {
        *out = value_int(value_as_integer(v));
    } else if (precision < 0) {
        value = nearbyint(value * scale) / scale;
        *out = v->kind == JINJA_FLOAT ? value_float(value) : value_int((int64_t)value);
    } else {
        /* printf rounds the exact binary value, as Python does. */
        snprintf(text, sizeof text, "%.*f", (int)precision, value);
        if (!isfinite(value) || !parse_float(str_from(text), &value))
            value = value_as_real(v);
        *out = value_float(value);
    }
    return true;
}

/* ---- JSON and dicts ------------------------------------------------------------------------- */

static bool separators(struct jinja_run *run, const struct jinja_value *argument,
                       struct json_style *style)
{
    struct jinja_list list;
    static const struct jinja_text loose = TEXT_INIT(", "), tight = TEXT_INIT(","),
                                   key = TEXT_INIT(": ");
    style->item_separator = style->indented ? &tight : &loose;
    style->key_separator = &key;
    if (argument->kind == JINJA_MISSING || argument->kind == JINJA_NONE)
        return true;
    if (!value_items(run, argument, &list))
        return false;
    if (list.count != 2 || list.items[0].kind != JINJA_STRING || list.items[1].kind != JINJA_STRING)
        return run_error(run, "separators must be two strings");
    style->item_separator = list.items[0].text;
    style->key_separator = list.items[1].text;
    return true;
}

/* The parameters stand in the order of the function that transformers installs. */
static bool do_tojson(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_value *indent = &call->a[1];
    struct json_style style = {.ascii = argument_flag(&call->a[0], false),
                               .sort_keys = argument_flag(&call->a[3], false)};
    struct text_builder b;
    int64_t width;
    style.indented = indent->kind != JINJA_MISSING && indent->kind != JINJA_NONE;
    if (indent->kind == JINJA_STRING) {
        style.indent = indent->text;
    } else {
        if (!argument_integer(run, indent, "indent", 0, &width))
            return false;
        builder_init(&b, run);
        builder_fill(&b, ' ', width < 0 ? 0 : width > 256 ? 256 : (size_t)width, true);
        if (!(style.indent = builder_finish(&b)))
            return false;
    }
    if (!separators(run, &call->a[2], &style))
        return false;
    builder_init(&b, run);
    return write_json(run, &b, &call->self, &style, 0) && out_text(out, builder_finish(&b));
}

static bool do_items(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_value view = call->self;
    struct jinja_list list;
    if (call->self.kind == JINJA_UNDEFINED)
        return out_iterator(run, "generator", NULL, 0, out);
    if (call->self.kind != JINJA_DICT)
        return run_error(run, "can only get item pairs from a mapping");
    view.kind = JINJA_VIEW;
    view.detail = VIEW_ITEMS;
    return value_items(run, &view, &list) &&
           out_iterator(run, "generator", list.items, list.count, out);
}

static bool do_attr(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *name = to_text(run, &call->a[0]);
    if (!name)
        return false;
    /* An element of a dict is no attribute. */
    if (call->self.kind == JINJA_DICT && !find_method(&call->self, text_str(name))) {
        *out = (struct jinja_value){
            .kind = JINJA_UNDEFINED, .detail = UNDEFINED_MEMBER, .owner = JINJA_DICT, .text = name};
        return true;
    }
    return get_attribute(run, &call->self, name, out);
}

static bool do_filesizeformat(struct jinja_run *run, struct jinja_call *call,
                              struct jinja_value *out)
{
    static const char units[] = "kMGTPEZY";
    bool binary = argument_flag(&call->a[0], false);
    double base = binary ? 1024 : 1000, value, unit = base;
    char text[400];
    if (!value_is_number(&call->self))
        return run_error(run, "filesizeformat wants a number");
    value = value_as_real(&call->self);
    if (value == 1) {
        snprintf(text, sizeof text, "1 Byte");
    } else if (!(value >= base)) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(value) + 0.0);
    } else {
        size_t i = 0;
        while (i < 7 && value >= unit * base) {
            unit *= base;
            i++;
        }
        char letter = binary && i == 0 ? 'K' : units[i];
        int tenths = (int)fmod(nearbyint(value / unit * 10), 10);
        snprintf(text, sizeof text, "%.0f.%d %c%sB", floor(nearbyint(value / unit * 10) / 10),
                 tenths, letter, binary ? "i" : "");
    }
    return out_text(out, text_copy(&run->arena, str_from(text), true));
}

static const struct jinja_builtin table[] = {
    {"default", "|default_value boolean", do_default, true},
    {"d", "|default_value boolean", do_default, true},
    {"length", "", do_length, false},
    {"count", "", do_length, false},
    {"first", "", do_first, true},
    {"last", "", do_last, true},
    {"int", "|default base", do_int, false},
    {"float", "|default", do_float, false},
    {"abs", "", do_abs, false},
    {"round", "|precision method", do_round, false},
    {"tojson", "|ensure_ascii indent separators sort_keys", do_tojson, true},
    {"items", "", do_items, true},
    {"attr", "name", do_attr, true},
    {"filesizeformat", "|binary", do_filesizeformat, false},
};

const struct builtin_table filters_value = {table, sizeof table / sizeof *table};

const struct jinja_builtin *find_filter(struct str name)
{
    const struct builtin_table *const tables[] = {&filters_text, &filters_value, &filters_list};
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < tables[t]->count; i++)
            if (str_eq_cstr(name, tables[t]->entries[i].name))
                return &tables[t]->entries[i];
    return NULL;
}
