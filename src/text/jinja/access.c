/*
 * Members, elements, slices, lengths and iteration of values.
 *
 * a.b asks for an attribute first (a method, a loop's counter), then for an element; a['b'] the
 * other way round. What is not there is undefined, not an error. Names with two leading underscores
 * and methods that change their object are out of the sandbox: undefined, and an error when used.
 */
#include "text/jinja/run.h"

bool out_text(struct jinja_value *out, const struct jinja_text *text)
{
    if (!text)
        return false;
    *out = value_text(text);
    return true;
}

bool out_list(struct jinja_run *run, const struct jinja_value *items, size_t count,
              struct jinja_value *out)
{
    if (run->status == STATUS_OK && value_list(&run->arena, JINJA_LIST, items, count, out))
        return true;
    return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

bool out_iterator(struct jinja_run *run, const char *type, const struct jinja_value *items,
                  size_t count, struct jinja_value *out)
{
    struct jinja_iterator *it = run_alloc(run, 1, sizeof *it);
    if (!it)
        return false;
    *it = (struct jinja_iterator){.type = type, .items = items ? items : no_items, .count = count};
    *out = (struct jinja_value){.kind = JINJA_ITERATOR, .iterator = it};
    for (size_t i = 0; i < count && !out->untrusted; i++)
        out->untrusted = items[i].untrusted;
    return true;
}

/* How jinja calls a value's type in messages. */
static const char *kind_name(uint8_t kind)
{
    struct jinja_value v = {.kind = kind};
    return kind == JINJA_VIEW || kind == JINJA_ITERATOR || kind == JINJA_OBJECT
               ? "object"
               : value_type_name(&v);
}

bool fail_undefined(struct jinja_run *run, const struct jinja_value *v)
{
    struct str name = v->text ? text_str(v->text) : STR_LIT("value");
    if (name.len > 100)
        name.len = 100;
    switch (v->detail) {
    case UNDEFINED_NAME:
        return run_error(run, "'%.*s' is undefined", STR_ARG(name));
    case UNDEFINED_UNSAFE:
        return run_error(run, "access to attribute '%.*s' of '%s' object is unsafe", STR_ARG(name),
                         kind_name(v->owner));
    case UNDEFINED_MEMBER:
        return run_error(run, "'%s object' has no attribute or element '%.*s'", kind_name(v->owner),
                         STR_ARG(name));
    default:
        return run_error(run, "the value is undefined");
    }
}

static struct jinja_value no_member(const struct jinja_value *object, const struct jinja_text *name,
                                    enum jinja_undefined detail)
{
    return (struct jinja_value){
        .kind = JINJA_UNDEFINED, .detail = (uint8_t)detail, .owner = object->kind, .text = name};
}

static bool bound_method(struct jinja_run *run, const struct jinja_builtin *builtin,
                         const struct jinja_value *self, struct jinja_value *out)
{
    struct jinja_method *method = run_alloc(run, 1, sizeof *method);
    if (!method)
        return false;
    *method = (struct jinja_method){builtin, *self};
    *out = (struct jinja_value){.kind = JINJA_METHOD, .method = method};
    return true;
}

/* Attributes that are not elements of a dict. */
static bool own_attribute(struct jinja_run *run, const struct jinja_value *object,
                          const struct jinja_text *name, struct jinja_value *out, bool *found)
{
    struct str key = text_str(name);
    const struct jinja_value *value;
    *found = true;
    if (object->kind == JINJA_LOOP) {
        if (!loop_attribute(run, object->loop, key, out, found) || *found)
            return run->status == STATUS_OK;
        *found = true;
    }
    if (object->kind == JINJA_NAMESPACE && (value = dict_get_str(object->dict, key))) {
        *out = *value;
        return true;
    }
    const struct jinja_builtin *builtin = find_method(object, key);
    if (builtin)
        return bound_method(run, builtin, object, out);
    if (object->kind == JINJA_MACRO && str_eq_cstr(key, "name") &&
        object->macro->node->macro->name) {
        *out = value_text(object->macro->node->macro->name);
        return true;
    }
    if (object->kind == JINJA_TUPLE && object->detail &&
        (str_eq_cstr(key, "grouper") || str_eq_cstr(key, "list"))) {
        *out = object->list->items[key.data[0] == 'l'];
        return true;
    }
    if (object->kind == JINJA_OBJECT && object->object->is_cycler && str_eq_cstr(key, "current")) {
        *out = object->object->items[object->object->next];
        return true;
    }
    *found = false;
    return true;
}

bool get_attribute(struct jinja_run *run, const struct jinja_value *object,
                   const struct jinja_text *name, struct jinja_value *out)
{
    bool found;
    if (object->kind == JINJA_UNDEFINED)
        return fail_undefined(run, object);
    if (!own_attribute(run, object, name, out, &found) || found)
        return run->status == STATUS_OK;
    if (object->kind == JINJA_DICT) {
        const struct jinja_value *value = dict_get_str(object->dict, text_str(name));
        if (value) {
            *out = *value;
            return true;
        }
    }
    bool unsafe = is_unsafe_attribute(object, text_str(name));
    *out = no_member(object, name, unsafe ? UNDEFINED_UNSAFE : UNDEFINED_MEMBER);
    return true;
}

bool value_length(struct jinja_run *run, const struct jinja_value *v, size_t *out)
{
    switch (v->kind) {
    case JINJA_UNDEFINED:
        *out = 0;
        return v->detail != UNDEFINED_UNSAFE || fail_undefined(run, v);
    case JINJA_STRING:
        *out = v->text->n_chars;
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = v->list->count;
        return true;
    case JINJA_DICT:
    case JINJA_VIEW:
        *out = v->dict->count;
        return true;
    case JINJA_RANGE:
        *out = v->range->count;
        return true;
    case JINJA_LOOP:
        *out = 0;
        return run_error(run, "use loop.length");
    default:
        return run_error(run, "object of type '%s' has no len()", value_type_name(v));
    }
}

bool value_is_iterable(const struct jinja_value *v)
{
    return v->kind == JINJA_UNDEFINED || v->kind == JINJA_STRING || v->kind == JINJA_LIST ||
           v->kind == JINJA_TUPLE || v->kind == JINJA_DICT || v->kind == JINJA_VIEW ||
           v->kind == JINJA_RANGE || v->kind == JINJA_ITERATOR;
}

bool value_at(struct jinja_run *run, const struct jinja_value *v, size_t index,
              struct jinja_value *out)
{
    switch (v->kind) {
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = v->list->items[index];
        return true;
    case JINJA_RANGE:
        *out = value_int(v->range->start + (int64_t)index * v->range->step);
        out->untrusted = v->untrusted;
        return true;
    case JINJA_DICT:
        *out = v->dict->entries[index].key;
        return true;
    case JINJA_VIEW:
        break;
    default:
        return run_fail(run, STATUS_INTERNAL, "value_at() of '%s'", value_type_name(v));
    }
    const struct jinja_entry *entry = &v->dict->entries[index];
    if (v->detail != VIEW_ITEMS) {
        *out = v->detail == VIEW_KEYS ? entry->key : entry->value;
        return true;
    }
    struct jinja_value *pair = run_alloc(run, 2, sizeof *pair);
    if (!pair)
        return false;
    pair[0] = entry->key;
    pair[1] = entry->value;
    return value_list(&run->arena, JINJA_TUPLE, pair, 2, out) ||
           run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

static bool text_items(struct jinja_run *run, const struct jinja_text *text, struct jinja_list *out)
{
    struct jinja_value *items = run_alloc(run, text->n_chars, sizeof *items);
    size_t n = 0;
    uint32_t c;
    for (size_t at = 0; items && at < text->len; n++) {
        unsigned length = text_decode(text, at, &c);
        if (!out_text(&items[n], text_slice(run, text, at, at + length)))
            return false;
        at += length;
    }
    *out = (struct jinja_list){items, n};
    return items && run_burn(run, n);
}

bool value_items(struct jinja_run *run, const struct jinja_value *v, struct jinja_list *out)
{
    size_t count;
    *out = (struct jinja_list){no_items, 0};
    if (v->kind == JINJA_LIST || v->kind == JINJA_TUPLE) {
        *out = *v->list;
        return true;
    }
    if (v->kind == JINJA_ITERATOR) {
        struct jinja_iterator *it = v->iterator;
        *out = (struct jinja_list){it->items + it->next, it->count - it->next};
        it->next = it->count;
        return true;
    }
    if (!value_is_iterable(v))
        return run_error(run, "'%s' object is not iterable", value_type_name(v));
    if (v->kind == JINJA_STRING)
        return text_items(run, v->text, out);
    if (!value_length(run, v, &count) || !run_burn(run, count))
        return false;
    struct jinja_value *items = run_alloc(run, count, sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!value_at(run, v, i, &items[i]))
            return false;
    *out = (struct jinja_list){items, count};
    return true;
}

/* A negative index counts from the end. */
static bool index_in(const struct jinja_value *index, size_t count, size_t *out)
{
    int64_t i = value_as_integer(index);
    if (i < 0)
        i += (int64_t)count;
    *out = (size_t)i;
    return i >= 0 && (size_t)i < count;
}

static bool item_by_index(struct jinja_run *run, const struct jinja_value *object,
                          const struct jinja_value *index, struct jinja_value *out)
{
    size_t at, count;
    *out = no_member(object, NULL, UNDEFINED_MEMBER);
    if (object->kind == JINJA_STRING) {
        if (!index_in(index, object->text->n_chars, &at))
            return true;
        size_t begin = text_offset(object->text, at), end = begin + 1;
        uint32_t c;
        if (object->text->n_chars != object->text->len) {
            end = begin + text_decode(object->text, begin, &c);
            if (!run_burn(run, begin / JINJA_BYTES_A_STEP))
                return false;
        }
        return out_text(out, text_slice(run, object->text, begin, end));
    }
    if (object->kind != JINJA_LIST && object->kind != JINJA_TUPLE && object->kind != JINJA_RANGE)
        return true;
    if (!value_length(run, object, &count))
        return false;
    return !index_in(index, count, &at) || value_at(run, object, at, out);
}

bool get_item(struct jinja_run *run, const struct jinja_value *object,
              const struct jinja_value *index, struct jinja_value *out)
{
    if (object->kind == JINJA_UNDEFINED)
        return fail_undefined(run, object);
    if (object->kind == JINJA_DICT) {
        if (index->kind == JINJA_STRING && !run_burn(run, index->text->len / JINJA_BYTES_A_STEP))
            return false;
        const struct jinja_value *value = dict_get(object->dict, index);
        if (value) {
            *out = *value;
            return true;
        }
    } else if (value_is_integer(index)) {
        return item_by_index(run, object, index, out);
    }
    if (index->kind == JINJA_STRING)
        return get_attribute(run, object, index->text, out);
    *out = no_member(object, NULL, UNDEFINED_MEMBER);
    return true;
}

/* ---- slices --------------------------------------------------------------------------------- */

struct slice {
    size_t first, count;
    int64_t step;
};

/* One bound, clamped to [low, high] after counting from the end. */
static int64_t clamp_bound(const struct jinja_value *v, int64_t count, int64_t low, int64_t high,
                           int64_t missing)
{
    if (v->kind == JINJA_NONE)
        return missing;
    int64_t i = value_as_integer(v);
    if (i < 0)
        i = i < -count ? low : i + count;
    return i < low ? low : i > high ? high : i;
}

static struct slice resolve_slice(const struct jinja_value bounds[3], size_t length)
{
    int64_t n = (int64_t)length;
    int64_t step = bounds[2].kind == JINJA_NONE ? 1 : value_as_integer(&bounds[2]);
    if (step < -n - 1)
        step = -n - 1;
    if (step > n + 1)
        step = n + 1;
    struct slice s = {.step = step};
    int64_t first, last;
    if (step > 0) {
        first = clamp_bound(&bounds[0], n, 0, n, 0);
        last = clamp_bound(&bounds[1], n, 0, n, n);
        s.count = first < last ? (size_t)((last - first + step - 1) / step) : 0;
    } else {
        first = clamp_bound(&bounds[0], n, -1, n - 1, n - 1);
        last = clamp_bound(&bounds[1], n, -1, n - 1, -1);
        s.count = first > last ? (size_t)((first - last - step - 1) / -step) : 0;
    }
    s.first = (size_t)first;
    return s;
}

static bool slice_text(struct jinja_run *run, const struct jinja_text *text, const struct slice *s,
                       struct jinja_value *out)
{
    if (!run_burn(run, text->len / JINJA_BYTES_A_STEP))
        return false;
    if (s->step == 1 && s->count) {
        size_t begin = text_offset(text, s->first), end = begin + s->count;
        if (text->n_chars != text->len)
            end = text_offset(text, s->first + s->count);
        return out_text(out, text_slice(run, text, begin, end));
    }
    struct text_builder b;
    builder_init(&b, run);
    size_t at = s->count ? text_offset(text, s->first) : 0;
    for (size_t i = 0; i < s->count; i++) {
        uint32_t c;
        unsigned length = text_decode(text, at, &c);
        builder_slice(&b, text, at, at + length);
        for (int64_t k = 0; i + 1 < s->count && k < s->step; k++)
            at += text_decode(text, at, &c);
        for (int64_t k = 0; i + 1 < s->count && k > s->step; k--)
            at -= text_decode_before(text, at, &c);
    }
    return out_text(out, builder_finish(&b));
}

static bool slice_range(struct jinja_run *run, const struct jinja_value *object,
                        const struct slice *s, struct jinja_value *out)
{
    struct jinja_range *range = run_alloc(run, 1, sizeof *range);
    if (!range)
        return false;
    const struct jinja_range *from = object->range;
    range->start = from->start + (int64_t)s->first * from->step;
    range->step = from->step * s->step;
    range->count = s->count;
    range->stop = range->start + (int64_t)s->count * range->step;
    *out = *object;
    out->range = range;
    return true;
}

bool get_slice(struct jinja_run *run, const struct jinja_value *object,
               const struct jinja_value bounds[3], struct jinja_value *out)
{
    size_t length;
    if (object->kind == JINJA_UNDEFINED)
        return fail_undefined(run, object);
    bool sliceable = object->kind == JINJA_STRING || object->kind == JINJA_LIST ||
                     object->kind == JINJA_TUPLE || object->kind == JINJA_RANGE;
    if (!sliceable)
        return run_error(run, "'%s' object cannot be sliced", value_type_name(object));
    for (size_t i = 0; i < 3; i++)
        if (bounds[i].kind != JINJA_NONE && !value_is_integer(&bounds[i]))
            return run_error(run, "slice indices must be integers or None");
    if (bounds[2].kind != JINJA_NONE && value_as_integer(&bounds[2]) == 0)
        return run_error(run, "slice step cannot be zero");
    if (!value_length(run, object, &length))
        return false;
    struct slice s = resolve_slice(bounds, length);
    if (object->kind == JINJA_STRING)
        return slice_text(run, object->text, &s, out);
    if (object->kind == JINJA_RANGE)
        return slice_range(run, object, &s, out);
    if (!run_burn(run, s.count))
        return false;
    struct jinja_value *items = run_alloc(run, s.count, sizeof *items);
    for (size_t i = 0; i < s.count; i++)
        if (!items ||
            !value_at(run, object, (size_t)((int64_t)s.first + (int64_t)i * s.step), &items[i]))
            return false;
    enum jinja_kind kind = object->kind == JINJA_TUPLE ? JINJA_TUPLE : JINJA_LIST;
    if (items && value_list(&run->arena, kind, items, s.count, out))
        return true;
    return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}
