/* Methods of containers, numbers and helper objects, and the choice of a method by its object. */
#include <math.h>

#include "text/jinja/text_ops.h"

static bool dict_get_method(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    uint64_t hash, budget = 1000;
    if (!value_hash(&call->a[0], (struct value_walk){&budget, 16}, &hash))
        return run_error(run, "unhashable type: '%s'", value_type_name(&call->a[0]));
    const struct jinja_value *value = dict_get(call->self.dict, &call->a[0]);
    *out = value ? *value : call->a[1].kind != JINJA_MISSING ? call->a[1] : value_none();
    return true;
}

static bool view(struct jinja_call *call, enum jinja_view which, struct jinja_value *out)
{
    *out = call->self;
    out->kind = JINJA_VIEW;
    out->detail = (uint8_t)which;
    return true;
}

static bool dict_items(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    return view(call, VIEW_ITEMS, out);
}

static bool dict_keys(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    return view(call, VIEW_KEYS, out);
}

static bool dict_values(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    return view(call, VIEW_VALUES, out);
}

/* Values are immutable, so a copy is the value. */
static bool copy(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    *out = call->self;
    return true;
}

static bool list_count(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < call->self.list->count; i++) {
        bool same;
        if (!compare(run, OP_EQ, &call->self.list->items[i], &call->a[0], &same))
            return false;
        n += same;
    }
    *out = value_int(n);
    return true;
}

static bool list_index(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    for (size_t i = 0; i < call->self.list->count; i++) {
        bool same;
        if (!compare(run, OP_EQ, &call->self.list->items[i], &call->a[0], &same))
            return false;
        if (same) {
            *out = value_int((int64_t)i);
            return true;
        }
    }
    return run_error(run, "the value is not in the list");
}

static bool float_is_integer(struct jinja_run *run, struct jinja_call *call,
                             struct jinja_value *out)
{
    (void)run;
    *out = value_bool(call->self.kind != JINJA_FLOAT ||
                      (isfinite(call->self.real) && floor(call->self.real) == call->self.real));
    return true;
}

static bool int_bit_length(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    int64_t value = value_as_integer(&call->self), bits = 0;
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    for (; magnitude; magnitude >>= 1)
        bits++;
    *out = value_int(bits);
    return true;
}

static bool loop_cycle(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    if (call->args->count == 0)
        return run_error(run, "no items for cycling given");
    *out = call->args->items[call->self.loop->index0 % call->args->count];
    return true;
}

static bool loop_changed(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    struct jinja_loop *loop = call->self.loop;
    struct jinja_value now;
    bool same = false;
    struct jinja_value *items = run_alloc(run, call->args->count, sizeof *items);
    if (!items)
        return false;
    if (call->args->count)
        memcpy(items, call->args->items, call->args->count * sizeof *items);
    if (!out_list(run, items, call->args->count, &now) ||
        (loop->changed.kind != JINJA_MISSING && !compare(run, OP_EQ, &loop->changed, &now, &same)))
        return false;
    loop->changed = now;
    *out = value_bool(!same);
    return true;
}

static bool cycler_next(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    struct jinja_object *cycler = call->self.object;
    *out = cycler->items[cycler->next];
    cycler->next = (cycler->next + 1) % cycler->count;
    return true;
}

static bool cycler_reset(struct jinja_run *run, struct jinja_call *call, struct jinja_value *out)
{
    (void)run;
    call->self.object->next = 0;
    *out = value_none();
    return true;
}

static const struct jinja_builtin dict_table[] = {
    {"get", "key|default", dict_get_method, true},
    {"items", "", dict_items, true},
    {"keys", "", dict_keys, true},
    {"values", "", dict_values, true},
    {"copy", "", copy, true},
};
static const struct jinja_builtin list_table[] = {
    {"count", "value", list_count, false},
    {"index", "value", list_index, false},
    {"copy", "", copy, true},
};
static const struct jinja_builtin number_table[] = {
    {"is_integer", "", float_is_integer, false},
    {"bit_length", "", int_bit_length, false},
};
static const struct jinja_builtin loop_table[] = {
    {"cycle", NULL, loop_cycle, true},
    {"changed", NULL, loop_changed, false},
};
static const struct jinja_builtin cycler_table[] = {
    {"next", "", cycler_next, true},
    {"reset", "", cycler_reset, true},
};

static const struct jinja_builtin *find_in(const struct jinja_builtin *table, size_t count,
                                           struct str name)
{
    for (size_t i = 0; i < count; i++)
        if (str_eq_cstr(name, table[i].name))
            return &table[i];
    return NULL;
}
#define FIND_IN(table, name) find_in((table), sizeof(table) / sizeof *(table), (name))

const struct jinja_builtin *find_method(const struct jinja_value *self, struct str name)
{
    const struct jinja_builtin *found;
    switch (self->kind) {
    case JINJA_STRING:
        found = find_in(methods_text_table.entries, methods_text_table.count, name);
        return found ? found
                     : find_in(methods_split_table.entries, methods_split_table.count, name);
    case JINJA_DICT:
        return FIND_IN(dict_table, name);
    case JINJA_LIST:
        return FIND_IN(list_table, name);
    case JINJA_TUPLE: /* a tuple has no copy() */
        return find_in(list_table, 2, name);
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        found = FIND_IN(number_table, name);
        return found == &number_table[1] && self->kind == JINJA_FLOAT ? NULL : found;
    case JINJA_LOOP:
        return FIND_IN(loop_table, name);
    case JINJA_OBJECT:
        return self->object->is_cycler ? FIND_IN(cycler_table, name) : NULL;
    default:
        return NULL;
    }
}

bool is_unsafe_attribute(const struct jinja_value *self, struct str name)
{
    static const char *const list_names[] = {"append", "clear",  "pop",    "reverse", "insert",
                                             "sort",   "extend", "remove", NULL};
    static const char *const dict_names[] = {"clear",      "pop",    "popitem",
                                             "setdefault", "update", NULL};
    static const char *const none[] = {NULL};
    const char *const *names = self->kind == JINJA_LIST   ? list_names
                               : self->kind == JINJA_DICT ? dict_names
                                                          : none;
    if (str_starts(name, STR_LIT("__")))
        return true;
    for (; *names; names++)
        if (str_eq_cstr(name, *names))
            return true;
    return false;
}
