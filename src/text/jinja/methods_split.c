/* Methods of str that take it apart, put texts together or fill in fields. */
#include "text/jinja/text_ops.h"

static bool split(struct jinja_run *run, struct jinja_call *call, bool from_right,
                  struct jinja_value *out)
{
    const struct jinja_text *separator;
    int64_t limit;
    return argument_text(run, &call->a[0], "sep", NULL, &separator) &&
           argument_integer(run, &call->a[1], "maxsplit", -1, &limit) &&
           text_split(run, call->self.text, separator, limit, from_right, out);
}

static bool str_split(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return split(run, call, false, out);
}

static bool str_rsplit(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return split(run, call, true, out);
}

static bool str_splitlines(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return text_split_lines(run, call->self.text, argument_flag(&call->a[0], false), out);
}

static bool partition(struct jinja_run *run, struct jinja_call *call, bool from_right,
                      struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text, *separator;
    struct jinja_value *parts = run_alloc(run, 3, sizeof *parts);
    if (!parts || !argument_text(run, &call->a[0], "sep", NULL, &separator))
        return false;
    if (!separator || separator->len == 0)
        return run_error(run, "empty separator");
    size_t hit = from_right ? text_find_last(run, text, separator, text->len)
                            : text_find(run, text, separator, 0);
    size_t begin = hit, end = hit + separator->len;
    if (hit == SIZE_MAX)
        begin = end = from_right ? 0 : text->len;
    if (!out_text(&parts[0], text_slice(run, text, 0, begin)) ||
        !out_text(&parts[1], text_slice(run, text, begin, end)) ||
        !out_text(&parts[2], text_slice(run, text, end, text->len)))
        return false;
    return value_list(&run->arena, JINJA_TUPLE, parts, 3, out) ||
           run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

static bool str_partition(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return partition(run, call, false, out);
}

static bool str_rpartition(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return partition(run, call, true, out);
}

static bool str_join(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list items;
    struct text_builder b;
    const struct jinja_text *separator = call->self.text;
    if (!value_items(run, &call->a[0], &items) || !run_burn(run, items.count))
        return false;
    builder_init(&b, run);
    for (size_t i = 0; i < items.count; i++) {
        if (items.items[i].kind != JINJA_STRING)
            return run_error(run, "sequence item %zu: expected str instance, %s found", i,
                             value_type_name(&items.items[i]));
        if (i)
            builder_text(&b, separator);
        if (separator->safe)
            builder_escaped(&b, items.items[i].text);
        else
            builder_text(&b, items.items[i].text);
    }
    const struct jinja_text *text = builder_finish(&b);
    return text && out_text(out, text_with_safe(run, text, separator->safe));
}

static bool str_format(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return format_braces(run, call->self.text, call->args, out);
}

static bool str_format_map(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    if (call->a[0].kind != JINJA_DICT)
        return run_error(run, "format_map() wants a mapping");
    const struct jinja_dict *dict = call->a[0].dict;
    struct jinja_keyword *keywords = run_alloc(run, dict->count, sizeof *keywords);
    struct jinja_args args = {.keywords = keywords};
    for (size_t i = 0; keywords && i < dict->count; i++)
        if (dict->entries[i].key.kind == JINJA_STRING)
            keywords[args.n_keywords++] =
                (struct jinja_keyword){dict->entries[i].key.text, dict->entries[i].value};
    return keywords && format_braces(run, call->self.text, &args, out);
}

static bool str_expandtabs(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_text *text = call->self.text;
    struct text_builder b;
    int64_t size;
    size_t column = 0;
    uint32_t c;
    if (!argument_integer(run, &call->a[0], "tabsize", 8, &size))
        return false;
    if (size > 1000)
        return run_error(run, "tabsize is too large");
    builder_init(&b, run);
    for (size_t at = 0; at < text->len && run->status == STATUS_OK;) {
        unsigned n = text_decode(text, at, &c);
        if (c == '\t') {
            size_t width = size > 0 ? (size_t)size - column % (size_t)size : 0;
            builder_fill(&b, ' ', width, text_trusted_at(text, at));
            column += width;
        } else {
            builder_slice(&b, text, at, at + n);
            column = c == '\n' || c == '\r' ? 0 : column + 1;
        }
        at += n;
    }
    return out_text(out, builder_finish(&b));
}

static const struct jinja_builtin table[] = {
    {"split", "|sep maxsplit", str_split, true},
    {"rsplit", "|sep maxsplit", str_rsplit, true},
    {"splitlines", "|keepends", str_splitlines, true},
    {"partition", "sep", str_partition, true},
    {"rpartition", "sep", str_rpartition, true},
    {"join", "iterable", str_join, true},
    {"format", NULL, str_format, true},
    {"format_map", "mapping", str_format_map, true},
    {"expandtabs", "|tabsize", str_expandtabs, true},
};

const struct builtin_table methods_split_table = {table, sizeof table / sizeof *table};
