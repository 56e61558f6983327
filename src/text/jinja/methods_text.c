/* Methods of str. Arguments and results are Python's; positions count code points. */
#include "text/jinja/text_ops.h"

static bool change_case(struct jinja_run *run, struct jinja_call *call, enum text_case how,
                        struct jinja_value *out)
{
    return out_text(out, text_change_case(run, call->self.text, how));
}

static bool str_upper(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_UPPER, out);
}

static bool str_lower(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_LOWER, out);
}

static bool str_casefold(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_FOLD, out);
}

static bool str_swapcase(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_SWAP, out);
}

static bool str_capitalize(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_CAPITALIZE, out);
}

static bool str_title(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return change_case(run, call, CASE_TITLE, out);
}

static bool strip(struct jinja_run *run, struct jinja_call *call, enum text_side side,
                  struct jinja_value *out)
{
    const struct jinja_text *chars;
    return argument_text(run, &call->a[0], "chars", NULL, &chars) &&
           out_text(out, text_strip(run, call->self.text, chars, side));
}

static bool str_strip(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return strip(run, call, SIDE_BOTH, out);
}

static bool str_lstrip(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return strip(run, call, SIDE_LEFT, out);
}

static bool str_rstrip(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return strip(run, call, SIDE_RIGHT, out);
}

static bool str_replace(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *from, *to;
    int64_t count;
    if (!argument_text(run, &call->a[0], "old", NULL, &from) ||
        !argument_text(run, &call->a[1], "new", NULL, &to) ||
        !argument_integer(run, &call->a[2], "count", -1, &count))
        return false;
    if (!from || !to)
        return run_error(run, "replace() argument must be str, not NoneType");
    return out_text(out, text_replace(run, call->self.text, from, to, count));
}

static bool justify(struct jinja_run *run, struct jinja_call *call, enum text_side side,
                    struct jinja_value *out)
{
    const struct jinja_text *fill;
    int64_t width;
    return argument_integer(run, &call->a[0], "width", 0, &width) &&
           argument_text(run, &call->a[1], "fillchar", TEXT_LIT(" "), &fill) &&
           out_text(out, text_justify(run, call->self.text, width, fill, side));
}

static bool str_ljust(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return justify(run, call, SIDE_LEFT, out);
}

static bool str_rjust(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return justify(run, call, SIDE_RIGHT, out);
}

static bool str_center(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return justify(run, call, SIDE_BOTH, out);
}

static bool str_zfill(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text;
    int64_t width;
    struct text_builder b;
    if (!argument_integer(run, &call->a[0], "width", 0, &width))
        return false;
    size_t sign = text->len && (text->data[0] == '-' || text->data[0] == '+');
    size_t room = width > 0 && (size_t)width > text->n_chars ? (size_t)width - text->n_chars : 0;
    builder_init(&b, run);
    builder_slice(&b, text, 0, sign);
    builder_fill(&b, '0', room, true);
    builder_slice(&b, text, sign, text->len);
    return out_text(out, builder_finish(&b));
}

/* ---- searching ------------------------------------------------------------------------------ */

/* The part [start, end) of a text that find(), count(), startswith() look at, in bytes. */
static bool search_range(struct jinja_run *run, const struct jinja_text *text,
                         const struct jinja_value *start, const struct jinja_value *end,
                         size_t *from, size_t *to)
{
    int64_t n = (int64_t)text->n_chars, first, last;
    if (!argument_integer(run, start, "start", 0, &first) ||
        !argument_integer(run, end, "end", n, &last))
        return false;
    first = first < 0 ? (first < -n ? 0 : first + n) : first > n ? n + 1 : first;
    last = last < 0 ? (last < -n ? 0 : last + n) : last > n ? n : last;
    *from = first > n ? SIZE_MAX : text_offset(text, (size_t)first);
    *to = text_offset(text, (size_t)last);
    return run_burn(run, text->n_chars == text->len ? 0 : text->len / JINJA_BYTES_A_STEP);
}

static bool affix_matches(const struct jinja_text *text, size_t from, size_t to,
                          const struct jinja_text *affix, bool at_end)
{
    if (from > to || affix->len > to - from)
        return false;
    size_t at = at_end ? to - affix->len : from;
    return affix->len == 0 || memcmp(text->data + at, affix->data, affix->len) == 0;
}

static bool affix(struct jinja_run *run, struct jinja_call *call, bool at_end,
                  struct jinja_value *out)
{
    const struct jinja_value *wanted = &call->a[0];
    const struct jinja_text *text;
    size_t from, to, count = wanted->kind == JINJA_TUPLE ? wanted->list->count : 1;
    if (!search_range(run, call->self.text, &call->a[1], &call->a[2], &from, &to))
        return false;
    bool found = false;
    for (size_t i = 0; i < count && !found; i++) {
        const struct jinja_value *one =
            wanted->kind == JINJA_TUPLE ? &wanted->list->items[i] : wanted;
        if (!argument_text(run, one, at_end ? "suffix" : "prefix", NULL, &text) ||
            !run_burn(run, 1))
            return false;
        if (!text)
            return run_error(run, "first arg must be str or a tuple of str, not NoneType");
        found = affix_matches(call->self.text, from, to, text, at_end);
    }
    *out = value_bool(found);
    return true;
}

static bool str_startswith(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return affix(run, call, false, out);
}

static bool str_endswith(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return affix(run, call, true, out);
}

static bool remove_affix(struct jinja_run *run, struct jinja_call *call, bool at_end,
                         struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text, *part;
    if (!argument_text(run, &call->a[0], "affix", NULL, &part))
        return false;
    if (!part)
        return run_error(run, "the argument must be str, not NoneType");
    bool found = affix_matches(text, 0, text->len, part, at_end);
    size_t cut = found ? part->len : 0;
    return out_text(out,
                    text_slice(run, text, at_end ? 0 : cut, at_end ? text->len - cut : text->len));
}

static bool str_removeprefix(struct jinja_run *run, struct jinja_call *call,
                             struct jinja_value *out)
{
    return remove_affix(run, call, false, out);
}

static bool str_removesuffix(struct jinja_run *run, struct jinja_call *call,
                             struct jinja_value *out)
{
    return remove_affix(run, call, true, out);
}

static bool find(struct jinja_run *run, struct jinja_call *call, bool last, bool must,
                 struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text, *part;
    size_t from, to, hit = SIZE_MAX;
    if (!argument_text(run, &call->a[0], "sub", NULL, &part) ||
        !search_range(run, text, &call->a[1], &call->a[2], &from, &to))
        return false;
    if (!part)
        return run_error(run, "must be str, not NoneType");
    if (from <= to)
        hit = last ? text_find_last(run, text, part, to) : text_find(run, text, part, from);
    if (hit != SIZE_MAX && (hit < from || hit + part->len > to))
        hit = SIZE_MAX;
    if (hit == SIZE_MAX && must)
        return run_error(run, "substring not found");
    *out = value_int(hit == SIZE_MAX ? -1 : (int64_t)utf8_count((struct str){text->data, hit}));
    return run->status == STATUS_OK;
}

static bool str_find_method(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return find(run, call, false, false, out);
}

static bool str_rfind(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return find(run, call, true, false, out);
}

static bool str_index(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return find(run, call, false, true, out);
}

static bool str_rindex(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return find(run, call, true, true, out);
}

static bool str_count(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text, *part;
    size_t from, to;
    int64_t n = 0;
    if (!argument_text(run, &call->a[0], "sub", NULL, &part) ||
        !search_range(run, text, &call->a[1], &call->a[2], &from, &to))
        return false;
    if (!part)
        return run_error(run, "must be str, not NoneType");
    if (part->len == 0) {
        *out = value_int(
            from <= to ? (int64_t)utf8_count((struct str){text->data + from, to - from}) + 1 : 0);
        return true;
    }
    while (from < to) {
        size_t hit = text_find(run, text, part, from);
        if (hit == SIZE_MAX || hit + part->len > to)
            break;
        n++;
        from = hit + part->len;
    }
    *out = value_int(n);
    return run->status == STATUS_OK;
}

/* ---- questions ------------------------------------------------------------------------------ */

static bool is_digit_char(uint32_t c)
{
    return c < 0x80 ? c >= '0' && c <= '9' : char_is_alnum(c) && !char_is_letter(c);
}

static bool all_chars(struct jinja_run *run, struct jinja_call *call, bool (*test)(uint32_t),
                      struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text;
    bool all = text->len > 0;
    uint32_t c;
    for (size_t at = 0; at < text->len && all;) {
        at += text_decode(text, at, &c);
        all = test(c);
    }
    *out = value_bool(all);
    return run_burn(run, text->len / 16);
}

static bool str_isdigit(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return all_chars(run, call, is_digit_char, out);
}

static bool str_isalpha(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return all_chars(run, call, char_is_letter, out);
}

static bool str_isalnum(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return all_chars(run, call, char_is_alnum, out);
}

static bool str_isspace(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return all_chars(run, call, char_is_space, out);
}

static bool str_islower(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_args none = {0};
    bool result = false;
    bool ok = call_test(run, STR_LIT("lower"), &call->self, &none, &result);
    *out = value_bool(result);
    return ok;
}

static bool str_isupper(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_args none = {0};
    bool result = false;
    bool ok = call_test(run, STR_LIT("upper"), &call->self, &none, &result);
    *out = value_bool(result);
    return ok;
}

static const struct jinja_builtin table[] = {
    {"upper", "", str_upper, true},
    {"lower", "", str_lower, true},
    {"casefold", "", str_casefold, true},
    {"swapcase", "", str_swapcase, true},
    {"capitalize", "", str_capitalize, true},
    {"title", "", str_title, true},
    {"strip", "|chars", str_strip, true},
    {"lstrip", "|chars", str_lstrip, true},
    {"rstrip", "|chars", str_rstrip, true},
    {"replace", "old new|count", str_replace, true},
    {"ljust", "width|fillchar", str_ljust, true},
    {"rjust", "width|fillchar", str_rjust, true},
    {"center", "width|fillchar", str_center, true},
    {"zfill", "width", str_zfill, true},
    {"removeprefix", "prefix", str_removeprefix, true},
    {"removesuffix", "suffix", str_removesuffix, true},
    {"startswith", "prefix|start end", str_startswith, false},
    {"endswith", "suffix|start end", str_endswith, false},
    {"find", "sub|start end", str_find_method, false},
    {"rfind", "sub|start end", str_rfind, false},
    {"index", "sub|start end", str_index, false},
    {"rindex", "sub|start end", str_rindex, false},
    {"count", "sub|start end", str_count, false},
    {"isdigit", "", str_isdigit, false},
    {"isdecimal", "", str_isdigit, false},
    {"isnumeric", "", str_isdigit, false},
    {"isalpha", "", str_isalpha, false},
    {"isalnum", "", str_isalnum, false},
    {"isspace", "", str_isspace, false},
    {"islower", "", str_islower, false},
    {"isupper", "", str_isupper, false},
};

const struct builtin_table methods_text_table = {table, sizeof table / sizeof *table};
