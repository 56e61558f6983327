/* Filters that give text. Their input is turned into text first, as jinja does. */
#include <stdio.h>

#include "text/jinja/text_ops.h"

static bool cased(struct jinja_run *run, struct jinja_call *call, enum text_case how,
                  struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    return text && out_text(out, text_change_case(run, text, how));
}

static bool do_upper(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return cased(run, call, CASE_UPPER, out);
}

static bool do_lower(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return cased(run, call, CASE_LOWER, out);
}

static bool do_capitalize(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return cased(run, call, CASE_CAPITALIZE, out);
}

static bool do_title(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return cased(run, call, CASE_WORDS, out);
}

static bool do_trim(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self), *chars;
    return text && argument_text(run, &call->a[0], "chars", NULL, &chars) &&
           out_text(out, text_strip(run, text, chars, SIDE_BOTH));
}

static bool do_replace(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    const struct jinja_text *from = to_text(run, &call->a[0]), *to = to_text(run, &call->a[1]);
    int64_t count;
    return text && from && to && argument_integer(run, &call->a[2], "count", -1, &count) &&
           out_text(out, text_replace(run, text, from, to, count));
}

static bool do_string(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return out_text(out, to_text(run, &call->self));
}

static bool do_safe(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    return text && out_text(out, text_with_safe(run, text, true));
}

static bool escaped(struct jinja_run *run, const struct jinja_text *text, struct jinja_value *out)
{
    struct text_builder b;
    if (!text)
        return false;
    builder_init(&b, run);
    builder_escaped(&b, text);
    const struct jinja_text *result = builder_finish(&b);
    return result && out_text(out, text_with_safe(run, result, true));
}

static bool do_escape(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return escaped(run, to_text(run, &call->self), out);
}

static bool do_forceescape(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    return text && escaped(run, text_with_safe(run, text, false), out);
}

static bool do_format(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_args *args = call->args;
    const struct jinja_text *text = to_text(run, &call->self);
    struct jinja_value fields;
    if (!text)
        return false;
    if (args->count && args->n_keywords)
        return run_error(run, "cannot handle positional and keyword arguments at the same time");
    if (!args->n_keywords) {
        struct jinja_list list = {args->items, args->count};
        fields = (struct jinja_value){.kind = JINJA_TUPLE, .list = &list};
        return format_percent(run, text, &fields, out);
    }
    struct jinja_dict *dict = dict_new(&run->arena);
    for (size_t i = 0; i < args->n_keywords; i++) {
        struct jinja_value key = value_text(args->keywords[i].name);
        if (!dict || !dict_set(&run->arena, dict, &key, &args->keywords[i].value))
            return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    }
    fields = value_dict(dict);
    return format_percent(run, text, &fields, out);
}

/* width: columns, or the text to put before each line. */
static bool indention(struct jinja_run *run, const struct jinja_value *width,
                      const struct jinja_text **out)
{
    struct text_builder b;
    int64_t n;
    if (width->kind == JINJA_STRING) {
        *out = width->text;
        return true;
    }
    if (!argument_integer(run, width, "width", 4, &n))
        return false;
    builder_init(&b, run);
    builder_fill(&b, ' ', n < 0 ? 0 : (size_t)n, true);
    *out = builder_finish(&b);
    return *out;
}

static bool do_indent(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = NULL, *indent;
    struct jinja_value lines;
    struct text_builder b;
    bool first = argument_flag(&call->a[1], false), blank = argument_flag(&call->a[2], false);
    if (!argument_text(run, &call->self, "s", NULL, &text))
        return false;
    if (!text)
        return run_error(run, "indent wants a string, not %s", value_type_name(&call->self));
    if (!indention(run, &call->a[0], &indent))
        return false;
    /* A newline at the end begins one more line; splitting drops it otherwise. */
    builder_init(&b, run);
    builder_text(&b, text);
    builder_cstr(&b, "\n", true);
    const struct jinja_text *ended = builder_finish(&b);
    if (!ended || !text_split_lines(run, ended, false, &lines))
        return false;
    builder_init(&b, run);
    for (size_t i = 0; i < lines.list->count; i++) {
        const struct jinja_text *line = lines.list->items[i].text;
        if (i)
            builder_cstr(&b, "\n", true);
        if (i ? blank || line->len : first)
            builder_text(&b, indent);
        builder_text(&b, line);
    }
    const struct jinja_text *result = builder_finish(&b);
    return result && out_text(out, text_with_safe(run, result, text->safe));
}

static bool do_truncate(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    static const struct jinja_text dots = TEXT_INIT("...");
    const struct jinja_text *text, *end;
    int64_t length, leeway;
    size_t n_chars;
    struct text_builder b;
    if (!value_length(run, &call->self, &n_chars) ||
        !argument_integer(run, &call->a[0], "length", 255, &length) ||
        !argument_text(run, &call->a[2], "end", &dots, &end) ||
        !argument_integer(run, &call->a[3], "leeway", 5, &leeway))
        return false;
    if (length < (int64_t)end->n_chars || leeway < 0)
        return run_error(run, "truncate: length %lld is less than its end", (long long)length);
    *out = call->self;
    if (n_chars <= (size_t)length + (size_t)leeway)
        return true;
    if (!argument_text(run, &call->self, "s", NULL, &text))
        return false;
    const struct jinja_text *cut =
        text_slice(run, text, 0, text_offset(text, (size_t)length - end->n_chars));
    if (!cut)
        return false;
    size_t space = argument_flag(&call->a[1], false)
                       ? SIZE_MAX
                       : text_find_last(run, cut, TEXT_LIT(" "), cut->len);
    builder_init(&b, run);
    builder_slice(&b, cut, 0, space == SIZE_MAX ? cut->len : space);
    builder_text(&b, end);
    return out_text(out, builder_finish(&b));
}

static bool do_center(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    int64_t width;
    return text && argument_integer(run, &call->a[0], "width", 80, &width) &&
           out_text(out, text_justify(run, text, width, TEXT_LIT(" "), SIDE_BOTH));
}

static bool do_wordcount(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = to_text(run, &call->self);
    int64_t words = 0;
    bool inside = false;
    uint32_t c;
    for (size_t at = 0; text && at < text->len;) {
        at += text_decode(text, at, &c);
        bool word = c == '_' || char_is_alnum(c);
        words += word && !inside;
        inside = word;
    }
    *out = value_int(words);
    return text && run_burn(run, text->len / 16);
}

static void quote(struct text_builder *b, const struct jinja_text *text)
{
    for (size_t i = 0; i < text->len && b->run->status == STATUS_OK; i++) {
        uint8_t c = (uint8_t)text->data[i];
        char escape[4];
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                     (c && c < 0x80 && strchr("_.-~/", c));
        snprintf(escape, sizeof escape, "%%%02X", c);
        if (plain)
            builder_slice(b, text, i, i + 1);
        else
            builder_cstr(b, escape, text_trusted_at(text, i));
    }
}

static bool do_urlencode(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct text_builder b;
    struct jinja_value pairs = call->self;
    struct jinja_list list, pair;
    builder_init(&b, run);
    if (pairs.kind == JINJA_STRING || !value_is_iterable(&pairs)) {
        const struct jinja_text *text = to_text(run, &pairs);
        if (text)
            quote(&b, text);
        return out_text(out, builder_finish(&b));
    }
    if (pairs.kind == JINJA_DICT) {
        pairs.kind = JINJA_VIEW;
        pairs.detail = VIEW_ITEMS;
    }
    if (!value_items(run, &pairs, &list))
        return false;
    for (size_t i = 0; i < list.count; i++) {
        if (!value_items(run, &list.items[i], &pair))
            return false;
        if (pair.count != 2)
            return run_error(run, "urlencode wants pairs, got %zu values", pair.count);
        for (size_t k = 0; k < 2; k++) {
            const struct jinja_text *text = to_text(run, &pair.items[k]);
            if (!text)
                return false;
            builder_cstr(&b, k ? "=" : i ? "&" : "", true);
            quote(&b, text);
        }
    }
    return out_text(out, builder_finish(&b));
}

/* Tags and comments go, white space becomes single spaces, the usual entities are decoded. */
static bool do_striptags(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    static const struct {
        const char *entity, *text;
    } entities[] = {{"&lt;", "<"},   {"&gt;", ">"},  {"&quot;", "\""},
                    {"&#34;", "\""}, {"&#39;", "'"}, {"&amp;", "&"}};
    const struct jinja_text *text = to_text(run, &call->self);
    struct text_builder b;
    bool space = false, any = false;
    builder_init(&b, run);
    for (size_t at = 0; text && at < text->len && run->status == STATUS_OK;) {
        size_t close = text->data[at] == '<' ? text_find(run, text, TEXT_LIT(">"), at) : SIZE_MAX;
        uint32_t c;
        if (close != SIZE_MAX) {
            at = close + 1;
            continue;
        }
        unsigned n = text_decode(text, at, &c);
        if (char_is_space(c)) {
            space = true;
            at += n;
            continue;
        }
        if (space && any)
            builder_cstr(&b, " ", false);
        space = false;
        any = true;
        size_t i = 0, count = sizeof entities / sizeof *entities;
        struct str rest = {text->data + at, text->len - at};
        while (c == '&' && i < count && !str_starts(rest, str_from(entities[i].entity)))
            i++;
        if (c == '&' && i < count) {
            builder_cstr(&b, entities[i].text, text_trusted_at(text, at));
            at += strlen(entities[i].entity);
        } else {
            builder_slice(&b, text, at, at + n);
            at += n;
        }
    }
    return text && out_text(out, builder_finish(&b));
}

static const struct jinja_builtin table[] = {
    {"upper", "", do_upper, true},
    {"lower", "", do_lower, true},
    {"capitalize", "", do_capitalize, true},
    {"title", "", do_title, true},
    {"trim", "|chars", do_trim, true},
    {"replace", "old new|count", do_replace, true},
    {"string", "", do_string, true},
    {"safe", "", do_safe, true},
    {"escape", "", do_escape, true},
    {"e", "", do_escape, true},
    {"forceescape", "", do_forceescape, true},
    {"format", NULL, do_format, true},
    {"indent", "|width first blank", do_indent, true},
    {"truncate", "|length killwords end leeway", do_truncate, true},
    {"center", "|width", do_center, true},
    {"urlencode", "", do_urlencode, true},
    {"striptags", "", do_striptags, true},
    {"wordcount", "", do_wordcount, false},
};

const struct builtin_table filters_text = {table, sizeof table / sizeof *table};
