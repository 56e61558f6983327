/* String operations over code points, each built from slices of its input so that trust follows. */
#include "text/jinja/text_ops.h"

#include <utf8proc.h>

bool char_is_letter(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool char_is_alnum(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return char_is_letter(c) || category == UTF8PROC_CATEGORY_ND ||
           category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

static bool is_upper(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU;
}

/* What comes before a word for the filter `title`. */
static bool begins_word(uint32_t c)
{
    return char_is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

enum letter { LETTER_LOWER, LETTER_UPPER, LETTER_TITLE };

static void add_cased(struct text_builder *b, uint32_t c, enum letter how, bool trusted)
{
    utf8proc_int32_t letter = (utf8proc_int32_t)c;
    if (how != LETTER_LOWER && c == 0xdf)
        builder_cstr(b, how == LETTER_UPPER ? "SS" : "Ss", trusted);
    else
        builder_char(b,
                     (uint32_t)(how == LETTER_UPPER   ? utf8proc_toupper(letter)
                                : how == LETTER_TITLE ? utf8proc_totitle(letter)
                                                      : utf8proc_tolower(letter)),
                     trusted);
}

const struct jinja_text *text_change_case(struct jinja_run *run, const struct jinja_text *text,
                                          enum text_case how)
{
    struct text_builder b;
    bool start = true;
    builder_init(&b, run);
    for (size_t at = 0; at < text->len && run->status == STATUS_OK;) {
        uint32_t c;
        bool trusted = text_trusted_at(text, at);
        enum letter letter = LETTER_LOWER;
        at += text_decode(text, at, &c);
        if (how == CASE_UPPER || (how == CASE_SWAP && !is_upper(c)) || (how == CASE_WORDS && start))
            letter = LETTER_UPPER;
        else if (start && (how == CASE_CAPITALIZE || how == CASE_TITLE))
            letter = LETTER_TITLE;
        if (how == CASE_FOLD && c == 0xdf)
            builder_cstr(&b, "ss", trusted);
        else
            add_cased(&b, c, letter, trusted);
        start = how == CASE_TITLE ? !char_is_letter(c) : how == CASE_WORDS && begins_word(c);
    }
    const struct jinja_text *result = builder_finish(&b);
    return result ? text_with_safe(run, result, text->safe) : NULL;
}

static bool stripped(const struct jinja_text *chars, uint32_t c)
{
    uint32_t other;
    if (!chars)
        return char_is_space(c);
    for (size_t at = 0; at < chars->len;) {
        at += text_decode(chars, at, &other);
        if (other == c)
            return true;
    }
    return false;
}

const struct jinja_text *text_strip(struct jinja_run *run, const struct jinja_text *text,
                                    const struct jinja_text *chars, enum text_side side)
{
    size_t begin = 0, end = text->len, cost = chars ? 1 + chars->len / 8 : 1;
    uint32_t c;
    while ((side & SIDE_LEFT) && begin < end) {
        unsigned n = text_decode(text, begin, &c);
        if (!stripped(chars, c))
            break;
        begin += n;
    }
    while ((side & SIDE_RIGHT) && begin < end) {
        unsigned n = text_decode_before(text, end, &c);
        if (!stripped(chars, c))
            break;
        end -= n;
    }
    if (!run_burn(run, (text->len - (end - begin)) * cost / 16))
        return NULL;
    return text_slice(run, text, begin, end);
}

/* Replacing nothing puts `to` before every character and at the end. */
static void replace_empty(struct text_builder *b, const struct jinja_text *text,
                          const struct jinja_text *to, int64_t limit)
{
    size_t at = 0;
    while (at < text->len && limit != 0 && b->run->status == STATUS_OK) {
        uint32_t c;
        unsigned n = text_decode(text, at, &c);
        builder_text(b, to);
        builder_slice(b, text, at, at + n);
        at += n;
        limit--;
    }
    builder_slice(b, text, at, text->len);
    if (limit != 0)
        builder_text(b, to);
}

const struct jinja_text *text_replace(struct jinja_run *run, const struct jinja_text *text,
                                      const struct jinja_text *from, const struct jinja_text *to,
                                      int64_t limit)
{
    struct text_builder b;
    builder_init(&b, run);
    if (from->len == 0) {
        replace_empty(&b, text, to, limit);
    } else {
        size_t at = 0, hit = limit ? text_find(run, text, from, 0) : SIZE_MAX;
        if (hit == SIZE_MAX)
            return run->status == STATUS_OK ? text : NULL;
        for (; hit != SIZE_MAX && limit != 0; limit--) {
            if (!run_burn(run, 1))
                return NULL;
            builder_slice(&b, text, at, hit);
            builder_text(&b, to);
            at = hit + from->len;
            hit = text_find(run, text, from, at);
        }
        builder_slice(&b, text, at, text->len);
    }
    const struct jinja_text *result = builder_finish(&b);
    return result ? text_with_safe(run, result, text->safe) : NULL;
}

const struct jinja_text *text_justify(struct jinja_run *run, const struct jinja_text *text,
                                      int64_t width, const struct jinja_text *fill,
                                      enum text_side side)
{
    struct text_builder b;
    if (width < 0 || (size_t)width <= text->n_chars)
        return text;
    if (fill->n_chars != 1) {
        run_error(run, "the fill character must be exactly one character long");
        return NULL;
    }
    size_t room = (size_t)width - text->n_chars;
    /* An odd rest goes where str.center() puts it. */
    size_t left = side == SIDE_LEFT    ? 0
                  : side == SIDE_RIGHT ? room
                                       : room / 2 + (room & (size_t)width & 1);
    uint32_t c;
    text_decode(fill, 0, &c);
    builder_init(&b, run);
    builder_fill(&b, c, left, fill->trust == TRUST_ALL);
    builder_text(&b, text);
    builder_fill(&b, c, room - left, fill->trust == TRUST_ALL);
    const struct jinja_text *result = builder_finish(&b);
    return result ? text_with_safe(run, result, text->safe) : NULL;
}

size_t text_find_last(struct jinja_run *run, const struct jinja_text *text,
                      const struct jinja_text *needle, size_t end)
{
    if (needle->len > end)
        return SIZE_MAX;
    for (size_t at = end - needle->len + 1; at-- > 0;) {
        if (((end - at) & 63) == 0 && !run_burn(run, 1 + needle->len / 16))
            return SIZE_MAX;
        if (needle->len == 0 || memcmp(text->data + at, needle->data, needle->len) == 0)
            return at;
    }
    return SIZE_MAX;
}

/* ---- lists of texts ------------------------------------------------------------------------- */

bool values_add(struct value_builder *values, const struct jinja_value *value)
{
    if (values->count == values->capacity) {
        size_t capacity = values->capacity ? values->capacity * 2 : 8;
        struct jinja_value *items = run_alloc(values->run, capacity, sizeof *items);
        if (!items)
            return false;
        if (values->count)
            memcpy(items, values->items, values->count * sizeof *items);
        values->items = items;
        values->capacity = capacity;
    }
    values->items[values->count++] = *value;
    return run_burn(values->run, 1);
}

bool values_add_text(struct value_builder *values, const struct jinja_text *text)
{
    struct jinja_value value;
    return out_text(&value, text) && values_add(values, &value);
}

static void reverse_values(struct value_builder *values)
{
    for (size_t i = 0, j = values->count; i + 1 < j; i++, j--) {
        struct jinja_value swap = values->items[i];
        values->items[i] = values->items[j - 1];
        values->items[j - 1] = swap;
    }
}

static bool split_by(struct value_builder *values, const struct jinja_text *text,
                     const struct jinja_text *separator, int64_t limit)
{
    size_t at = 0;
    for (;; limit--) {
        size_t hit = limit == 0 ? SIZE_MAX : text_find(values->run, text, separator, at);
        size_t end = hit == SIZE_MAX ? text->len : hit;
        if (!values_add_text(values, text_slice(values->run, text, at, end)))
            return false;
        if (hit == SIZE_MAX)
            return values->run->status == STATUS_OK;
        at = hit + separator->len;
    }
}

static bool split_by_right(struct value_builder *values, const struct jinja_text *text,
                           const struct jinja_text *separator, int64_t limit)
{
    size_t end = text->len;
    for (;; limit--) {
        size_t hit = limit == 0 ? SIZE_MAX : text_find_last(values->run, text, separator, end);
        size_t begin = hit == SIZE_MAX ? 0 : hit + separator->len;
        if (!values_add_text(values, text_slice(values->run, text, begin, end)))
            return false;
        if (hit == SIZE_MAX)
            break;
        end = hit;
    }
    reverse_values(values);
    return values->run->status == STATUS_OK;
}

static bool split_space(struct value_builder *values, const struct jinja_text *text, int64_t limit)
{
    size_t at = 0, begin;
    uint32_t c;
    for (;; limit--) {
        unsigned n = 0;
        while (at < text->len && (n = text_decode(text, at, &c)) && char_is_space(c))
            at += n;
        if (at >= text->len)
            return true;
        begin = at;
        while (at < text->len && (n = text_decode(text, at, &c)) &&
               (limit == 0 || !char_is_space(c)))
            at += n;
        if (!values_add_text(values, text_slice(values->run, text, begin, at)))
            return false;
    }
}

static bool split_space_right(struct value_builder *values, const struct jinja_text *text,
                              int64_t limit)
{
    size_t at = text->len, end;
    uint32_t c;
    for (;; limit--) {
        unsigned n = 0;
        while (at > 0 && (n = text_decode_before(text, at, &c)) && char_is_space(c))
            at -= n;
        if (at == 0)
            break;
        end = at;
        while (at > 0 && (n = text_decode_before(text, at, &c)) &&
               (limit == 0 || !char_is_space(c)))
            at -= n;
        if (!values_add_text(values, text_slice(values->run, text, at, end)))
            return false;
    }
    reverse_values(values);
    return true;
}

bool text_split(struct jinja_run *run, const struct jinja_text *text,
                const struct jinja_text *separator, int64_t limit, bool from_right,
                struct jinja_value *out)
{
    struct value_builder values = {.run = run};
    bool ok;
    if (separator && separator->len == 0)
        return run_error(run, "empty separator");
    if (!run_burn(run, text->len / JINJA_BYTES_A_STEP))
        return false;
    if (separator)
        ok = (from_right ? split_by_right : split_by)(&values, text, separator, limit);
    else
        ok = (from_right ? split_space_right : split_space)(&values, text, limit);
    return ok && out_list(run, values.items, values.count, out);
}

static bool is_line_end(uint32_t c)
{
    return (c >= '\n' && c <= '\r') || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

bool text_split_lines(struct jinja_run *run, const struct jinja_text *text, bool keep_ends,
                      struct jinja_value *out)
{
    struct value_builder values = {.run = run};
    size_t begin = 0, at = 0;
    uint32_t c;
    if (!run_burn(run, text->len / JINJA_BYTES_A_STEP))
        return false;
    while (at < text->len) {
        size_t end = at;
        at += text_decode(text, at, &c);
        if (!is_line_end(c))
            continue;
        if (c == '\r' && at < text->len && text->data[at] == '\n')
            at++;
        if (!values_add_text(&values, text_slice(run, text, begin, keep_ends ? at : end)))
            return false;
        begin = at;
    }
    if (begin < text->len && !values_add_text(&values, text_slice(run, text, begin, text->len)))
        return false;
    return out_list(run, values.items, values.count, out);
}

/* ---- arguments ------------------------------------------------------------------------------ */

bool argument_text(struct jinja_run *run, const struct jinja_value *argument, const char *name,
                   const struct jinja_text *otherwise, const struct jinja_text **out)
{
    *out = otherwise;
    if (argument->kind == JINJA_MISSING || argument->kind == JINJA_NONE)
        return true;
    if (argument->kind == JINJA_UNDEFINED)
        return fail_undefined(run, argument);
    if (argument->kind != JINJA_STRING)
        return run_error(run, "the argument '%s' must be str, not %s", name,
                         value_type_name(argument));
    *out = argument->text;
    return true;
}

bool argument_integer(struct jinja_run *run, const struct jinja_value *argument, const char *name,
                      int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (argument->kind == JINJA_MISSING || argument->kind == JINJA_NONE)
        return true;
    if (argument->kind == JINJA_UNDEFINED)
        return fail_undefined(run, argument);
    if (!value_is_integer(argument))
        return run_error(run, "the argument '%s' must be int, not %s", name,
                         value_type_name(argument));
    *out = value_as_integer(argument);
    return true;
}

bool argument_flag(const struct jinja_value *argument, bool otherwise)
{
    return argument->kind == JINJA_MISSING ? otherwise : value_truthy(argument);
}
