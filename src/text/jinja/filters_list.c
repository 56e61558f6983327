/*
 * Filters on sequences. Those that Python computes lazily give an iterator, which can be read once
 * and has no length.
 */
#include "text/jinja/text_ops.h"

/* Follows "a.b.0" (or an index) from an item. */
static bool get_path(struct jinja_run *run, const struct jinja_value *item,
                     const struct jinja_value *path, struct jinja_value *out)
{
    *out = *item;
    if (path->kind != JINJA_STRING)
        return get_item(run, item, path, out);
    struct str rest = text_str(path->text);
    for (size_t at = 0; at <= rest.len;) {
        size_t end = at;
        bool number = true;
        int64_t index = 0;
        for (; end < rest.len && rest.data[end] != '.'; end++) {
            char c = rest.data[end];
            number = number && c >= '0' && c <= '9' && end - at < 9;
            index = number ? index * 10 + (c - '0') : 0;
        }
        struct jinja_value object = *out, key = value_int(index);
        if (!number || end == at) {
            const struct jinja_text *part =
                text_borrow(&run->arena, (struct str){rest.data + at, end - at}, true);
            if (!part)
                return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
            key = value_text(part);
        }
        if (!get_item(run, &object, &key, out))
            return false;
        at = end + 1;
    }
    return true;
}

static bool given(const struct jinja_value *argument)
{
    return argument->kind != JINJA_MISSING && argument->kind != JINJA_NONE;
}

/* What an item is compared by: a member of it, letters in lower case unless case matters. */
static bool sort_key(struct jinja_run *run, const struct jinja_value *item,
                     const struct jinja_value *attribute, bool case_sensitive,
                     struct jinja_value *out)
{
    *out = *item;
    if (given(attribute) && !get_path(run, item, attribute, out))
        return false;
    if (case_sensitive || out->kind != JINJA_STRING)
        return true;
    return out_text(out, text_change_case(run, out->text, CASE_LOWER));
}

struct sort_item {
    struct jinja_value key, item;
};

static bool merge_sort(struct jinja_run *run, struct sort_item *items, struct sort_item *scratch,
                       size_t n, bool reverse)
{
    if (n < 2)
        return true;
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!merge_sort(run, items, scratch, half, reverse) ||
        !merge_sort(run, items + half, scratch, n - half, reverse))
        return false;
    while (i < half && j < n) {
        int order;
        if (!value_order(run, &items[j].key, &items[i].key, &order))
            return false;
        scratch[k++] = (reverse ? order > 0 : order < 0) ? items[j++] : items[i++];
    }
    while (i < half)
        scratch[k++] = items[i++];
    memcpy(items, scratch, k * sizeof *items);
    return true;
}

/* Keys for all items of a list; multiple attributes ("a,b") make tuples. */
static bool fill_keys(struct jinja_run *run, const struct jinja_list *list,
                      const struct jinja_value *attribute, bool case_sensitive,
                      struct sort_item *out)
{
    struct jinja_value paths;
    bool several = attribute->kind == JINJA_STRING && attribute->text->len &&
                   memchr(attribute->text->data, ',', attribute->text->len);
    if (several && !text_split(run, attribute->text, TEXT_LIT(","), -1, false, &paths))
        return false;
    for (size_t i = 0; i < list->count; i++) {
        out[i].item = list->items[i];
        if (!several) {
            if (!sort_key(run, &list->items[i], attribute, case_sensitive, &out[i].key))
                return false;
            continue;
        }
        struct jinja_value *keys = run_alloc(run, paths.list->count, sizeof *keys);
        for (size_t k = 0; k < paths.list->count; k++)
            if (!keys ||
                !sort_key(run, &list->items[i], &paths.list->items[k], case_sensitive, &keys[k]))
                return false;
        if (!out_list(run, keys, paths.list->count, &out[i].key))
            return false;
    }
    return true;
}

static bool sorted(struct jinja_run *run, const struct jinja_list *list,
                   const struct jinja_value *attribute, bool case_sensitive, bool reverse,
                   struct sort_item **out)
{
    struct sort_item *items = run_alloc(run, list->count, sizeof *items);
    struct sort_item *scratch = run_alloc(run, list->count, sizeof *scratch);
    *out = items;
    return items && scratch && fill_keys(run, list, attribute, case_sensitive, items) &&
           merge_sort(run, items, scratch, list->count, reverse);
}

static bool out_items(struct jinja_run *run, const struct sort_item *items, size_t count,
                      struct jinja_value *out)
{
    struct jinja_value *values = run_alloc(run, count, sizeof *values);
    for (size_t i = 0; values && i < count; i++)
        values[i] = items[i].item;
    return values && out_list(run, values, count, out);
}

static bool do_sort(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct sort_item *items;
    return value_items(run, &call->self, &list) &&
           sorted(run, &list, &call->a[2], argument_flag(&call->a[1], false),
                  argument_flag(&call->a[0], false), &items) &&
           out_items(run, items, list.count, out);
}

static bool do_dictsort(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    static const struct jinja_text by_key = TEXT_INIT("key");
    const struct jinja_text *by;
    struct jinja_value view = call->self, index;
    struct jinja_list list;
    struct sort_item *items;
    if (call->self.kind == JINJA_UNDEFINED)
        return fail_undefined(run, &call->self);
    if (call->self.kind != JINJA_DICT)
        return run_error(run, "'%s' object has no attribute 'items'", value_type_name(&view));
    if (!argument_text(run, &call->a[1], "by", &by_key, &by))
        return false;
    bool value = str_eq_cstr(text_str(by), "value");
    if (!value && !str_eq_cstr(text_str(by), "key"))
        return run_error(run, "you can only sort by either \"key\" or \"value\"");
    index = value_int(value);
    view.kind = JINJA_VIEW;
    view.detail = VIEW_ITEMS;
    return value_items(run, &view, &list) &&
           sorted(run, &list, &index, argument_flag(&call->a[0], false),
                  argument_flag(&call->a[2], false), &items) &&
           out_items(run, items, list.count, out);
}

static bool extreme(struct jinja_run *run, struct jinja_call *call, bool largest,
                    struct jinja_value *out)
{
    struct jinja_list list;
    struct jinja_value best, key;
    bool case_sensitive = argument_flag(&call->a[0], false);
    if (!value_items(run, &call->self, &list))
        return false;
    *out = value_undefined();
    for (size_t i = 0; i < list.count; i++) {
        int order = 1;
        if (!sort_key(run, &list.items[i], &call->a[1], case_sensitive, &key) ||
            (i && !value_order(run, &key, &best, &order)))
            return false;
        if (i && (largest ? order <= 0 : order >= 0))
            continue;
        best = key;
        *out = list.items[i];
    }
    return true;
}

static bool do_min(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return extreme(run, call, false, out);
}

static bool do_max(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return extreme(run, call, true, out);
}

static bool do_unique(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct value_builder values = {.run = run};
    struct jinja_dict *seen = dict_new(&run->arena);
    struct jinja_value key, flag = value_bool(true);
    bool case_sensitive = argument_flag(&call->a[0], false);
    if (!value_items(run, &call->self, &list))
        return false;
    for (size_t i = 0; i < list.count; i++) {
        uint64_t hash, budget = 1000;
        if (!sort_key(run, &list.items[i], &call->a[1], case_sensitive, &key))
            return false;
        if (!value_hash(&key, (struct value_walk){&budget, 16}, &hash))
            return run_error(run, "unhashable type: '%s'", value_type_name(&key));
        if (seen && dict_get(seen, &key))
            continue;
        if (!seen || !dict_set(&run->arena, seen, &key, &flag))
            return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
        if (!values_add(&values, &list.items[i]))
            return false;
    }
    return out_iterator(run, "generator", values.items, values.count, out);
}

static bool do_groupby(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct sort_item *items;
    struct value_builder groups = {.run = run};
    bool case_sensitive = argument_flag(&call->a[2], false);
    if (!value_items(run, &call->self, &list) ||
        !sorted(run, &list, &call->a[0], case_sensitive, false, &items))
        return false;
    for (size_t i = 0, n = 0; i < list.count; i += n) {
        bool same = true;
        n = 1;
        while (i + n < list.count && same) {
            if (!compare(run, OP_EQ, &items[i].key, &items[i + n].key, &same))
                return false;
            n += same;
        }
        struct jinja_value *pair = run_alloc(run, 2, sizeof *pair), group;
        if (!pair || !get_path(run, &items[i].item, &call->a[0], &pair[0]) ||
            !out_items(run, items + i, n, &pair[1]))
            return false;
        if (!value_list(&run->arena, JINJA_TUPLE, pair, 2, &group))
            return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
        group.detail = 1; /* has .grouper and .list */
        if (!values_add(&groups, &group))
            return false;
    }
    return out_list(run, groups.items, groups.count, out);
}

/* ---- map, select, reject -------------------------------------------------------------------- */

static const struct jinja_value *keyword(const struct jinja_args *args, const char *name)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (str_eq_cstr(text_str(args->keywords[i].name), name))
            return &args->keywords[i].value;
    return NULL;
}

/* The name of a filter or test given as first argument, and the arguments after it. */
static bool inner_call(struct jinja_run *run, const struct jinja_args *args, size_t skip,
                       struct str *name, struct jinja_args *rest)
{
    if (args->count <= skip || args->items[skip].kind != JINJA_STRING)
        return run_error(run, "the name of a filter or test must be given as string");
    *name = text_str(args->items[skip].text);
    *rest = (struct jinja_args){args->items + skip + 1, args->count - skip - 1, args->keywords,
                                args->n_keywords};
    return true;
}

static bool do_map(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    const struct jinja_args *args = call->args;
    const struct jinja_value *attribute = keyword(args, "attribute");
    const struct jinja_value *otherwise = keyword(args, "default");
    struct jinja_list list;
    struct str name;
    struct jinja_args rest;
    bool by_attribute = args->count == 0 && attribute;
    if (!value_truthy(&call->self)) /* none included, and without looking at the arguments */
        return out_iterator(run, "generator", NULL, 0, out);
    if (!by_attribute && !inner_call(run, args, 0, &name, &rest))
        return false;
    if (!value_items(run, &call->self, &list))
        return false;
    struct jinja_value *values = run_alloc(run, list.count, sizeof *values);
    for (size_t i = 0; i < list.count; i++) {
        if (!values || !run_burn(run, 1))
            return false;
        if (!by_attribute) {
            if (!call_filter(run, name, &list.items[i], &rest, &values[i]))
                return false;
            continue;
        }
        if (!get_path(run, &list.items[i], attribute, &values[i]))
            return false;
        if (values[i].kind == JINJA_UNDEFINED && otherwise)
            values[i] = *otherwise;
    }
    return values && out_iterator(run, "generator", values, list.count, out);
}

static bool filtered(struct jinja_run *run, struct jinja_call *call, bool by_attribute, bool keep,
                     struct jinja_value *out)
{
    const struct jinja_args *args = call->args;
    struct jinja_list list;
    struct str name = {0};
    struct jinja_args rest;
    struct value_builder values = {.run = run};
    size_t skip = by_attribute;
    if (!value_truthy(&call->self))
        return out_iterator(run, "generator", NULL, 0, out);
    if (args->count < skip)
        return run_error(run, "missing parameter for attribute name");
    if ((args->count > skip && !inner_call(run, args, skip, &name, &rest)) ||
        !value_items(run, &call->self, &list))
        return false;
    for (size_t i = 0; i < list.count; i++) {
        struct jinja_value subject = list.items[i];
        bool pass;
        if (by_attribute && !get_path(run, &list.items[i], &args->items[0], &subject))
            return false;
        pass = value_truthy(&subject);
        if (name.data && !call_test(run, name, &subject, &rest, &pass))
            return false;
        if (pass == keep && !values_add(&values, &list.items[i]))
            return false;
    }
    return run_burn(run, list.count) &&
           out_iterator(run, "generator", values.items, values.count, out);
}

static bool do_select(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return filtered(run, call, false, true, out);
}

static bool do_reject(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return filtered(run, call, false, false, out);
}

static bool do_selectattr(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return filtered(run, call, true, true, out);
}

static bool do_rejectattr(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    return filtered(run, call, true, false, out);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static bool do_join(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct text_builder b;
    const struct jinja_text *separator =
        call->a[0].kind == JINJA_MISSING ? &text_empty : to_text(run, &call->a[0]);
    if (!separator || !value_items(run, &call->self, &list) || !run_burn(run, list.count))
        return false;
    builder_init(&b, run);
    for (size_t i = 0; i < list.count; i++) {
        struct jinja_value item = list.items[i];
        if (given(&call->a[1]) && !get_path(run, &list.items[i], &call->a[1], &item))
            return false;
        if (i)
            builder_text(&b, separator);
        print_value(&b, &item);
    }
    return out_text(out, builder_finish(&b));
}

static bool do_list(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    return value_items(run, &call->self, &list) && out_list(run, list.items, list.count, out);
}

static bool do_reverse(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    if (call->self.kind == JINJA_STRING) {
        struct jinja_value bounds[3] = {value_none(), value_none(), value_int(-1)};
        return get_slice(run, &call->self, bounds, out);
    }
    if (!value_items(run, &call->self, &list) || !run_burn(run, list.count))
        return false;
    struct jinja_value *items = run_alloc(run, list.count, sizeof *items);
    for (size_t i = 0; items && i < list.count; i++)
        items[i] = list.items[list.count - 1 - i];
    return items && out_iterator(run, "list_reverseiterator", items, list.count, out);
}

static bool do_sum(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct jinja_value total = given(&call->a[1]) ? call->a[1] : value_int(0);
    if (!value_items(run, &call->self, &list))
        return false;
    for (size_t i = 0; i < list.count; i++) {
        struct jinja_value item = list.items[i], next;
        if (given(&call->a[0]) && !get_path(run, &list.items[i], &call->a[0], &item))
            return false;
        if (total.kind == JINJA_STRING)
            return run_error(run, "sum() can't sum strings");
        if (!run_burn(run, 1) || !operate(run, OP_ADD, &total, &item, &next))
            return false;
        total = next;
    }
    *out = total;
    return true;
}

/* Rows of `width` items, the last filled up where a filler is given. */
static bool do_batch(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct value_builder rows = {.run = run};
    int64_t width;
    if (!argument_integer(run, &call->a[0], "linecount", 1, &width) ||
        !value_items(run, &call->self, &list))
        return false;
    if (width < 1 || width > JINJA_RANGE_MAX)
        return run_error(run, "batch wants a positive number of items per row");
    for (size_t i = 0; i < list.count; i += (size_t)width) {
        size_t n = list.count - i < (size_t)width ? list.count - i : (size_t)width;
        bool fill = n < (size_t)width && given(&call->a[1]);
        size_t total = fill ? (size_t)width : n;
        struct jinja_value *items = run_alloc(run, total, sizeof *items), row;
        for (size_t k = 0; items && k < total; k++)
            items[k] = k < n ? list.items[i + k] : call->a[1];
        if (!items || !out_list(run, items, total, &row) || !values_add(&rows, &row))
            return false;
    }
    return out_iterator(run, "generator", rows.items, rows.count, out);
}

/* A number of columns of about equal length. */
static bool do_slice(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_list list;
    struct value_builder columns = {.run = run};
    int64_t slices;
    if (!argument_integer(run, &call->a[0], "slices", 1, &slices) ||
        !value_items(run, &call->self, &list))
        return false;
    if (slices < 1 || slices > JINJA_RANGE_MAX)
        return run_error(run, "slice wants a positive number of columns");
    size_t least = list.count / (size_t)slices, longer = list.count % (size_t)slices, at = 0;
    for (size_t i = 0; i < (size_t)slices; i++) {
        size_t n = least + (i < longer);
        bool fill = longer && i >= longer && given(&call->a[1]);
        struct jinja_value *items = run_alloc(run, n + fill, sizeof *items), column;
        if (!items)
            return false;
        for (size_t k = 0; k < n; k++)
            items[k] = list.items[at++];
        if (fill)
            items[n] = call->a[1];
        if (!out_list(run, items, n + fill, &column) || !values_add(&columns, &column))
            return false;
    }
    return out_iterator(run, "generator", columns.items, columns.count, out);
}

static const struct jinja_builtin table[] = {
    {"join", "|d attribute", do_join, true},
    {"list", "", do_list, true},
    {"reverse", "", do_reverse, true},
    {"sort", "|reverse case_sensitive attribute", do_sort, true},
    {"dictsort", "|case_sensitive by reverse", do_dictsort, true},
    {"unique", "|case_sensitive attribute", do_unique, true},
    {"groupby", "attribute|default case_sensitive", do_groupby, true},
    {"min", "|case_sensitive attribute", do_min, true},
    {"max", "|case_sensitive attribute", do_max, true},
    {"map", NULL, do_map, true},
    {"select", NULL, do_select, true},
    {"reject", NULL, do_reject, true},
    {"selectattr", NULL, do_selectattr, true},
    {"rejectattr", NULL, do_rejectattr, true},
    {"sum", "|attribute start", do_sum, false},
    {"batch", "linecount|fill_with", do_batch, true},
    {"slice", "slices|fill_with", do_slice, true},
};

const struct builtin_table filters_list = {table, sizeof table / sizeof *table};
