/* Values: equality and hashing as in Python (1 == 1.0 == True is one key), and the ordered dict. */
#include "text/jinja/value.h"

#include <math.h>
#include <xxhash.h>

/* A key is a scalar or a small tuple: what is larger counts as unhashable. */
#define KEY_BUDGET 1000
#define KEY_DEPTH  16
#define DICT_SMALL 8 /* up to here a scan of the hashes beats an index */

const struct jinja_value no_items[1];

bool value_list(struct arena *arena, enum jinja_kind kind, const struct jinja_value *items,
                size_t count, struct jinja_value *out)
{
    struct jinja_list *list = arena_alloc(arena, 1, sizeof *list);
    if (!list)
        return false;
    *list = (struct jinja_list){items ? items : no_items, count};
    *out = (struct jinja_value){.kind = (uint8_t)kind, .list = list};
    for (size_t i = 0; i < count && !out->untrusted; i++)
        out->untrusted = items[i].untrusted;
    return true;
}

const char *value_type_name(const struct jinja_value *v)
{
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};
    switch ((enum jinja_kind)v->kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
        return "Undefined";
    case JINJA_NONE:
        return "NoneType";
    case JINJA_BOOL:
        return "bool";
    case JINJA_INT:
        return "int";
    case JINJA_FLOAT:
        return "float";
    case JINJA_STRING:
        return "str";
    case JINJA_LIST:
        return "list";
    case JINJA_TUPLE:
        return "tuple";
    case JINJA_DICT:
        return "dict";
    case JINJA_VIEW:
        return views[v->detail];
    case JINJA_RANGE:
        return "range";
    case JINJA_ITERATOR:
        return v->iterator->type;
    case JINJA_NAMESPACE:
        return "Namespace";
    case JINJA_LOOP:
        return "LoopContext";
    case JINJA_MACRO:
        return "Macro";
    case JINJA_METHOD:
        return "builtin_function_or_method";
    case JINJA_FUNCTION:
        return "function";
    case JINJA_OBJECT:
        return v->object->is_cycler ? "Cycler" : "Joiner";
    }
    return "object";
}

bool value_truthy(const struct jinja_value *v)
{
    switch ((enum jinja_kind)v->kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v->boolean;
    case JINJA_INT:
        return v->integer != 0;
    case JINJA_FLOAT:
        return v->real != 0;
    case JINJA_STRING:
        return v->text->len != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v->list->count != 0;
    case JINJA_DICT:
    case JINJA_VIEW:
        return v->dict->count != 0;
    case JINJA_RANGE:
        return v->range->count != 0;
    case JINJA_LOOP:
    case JINJA_ITERATOR:
    case JINJA_NAMESPACE:
    case JINJA_MACRO:
    case JINJA_METHOD:
    case JINJA_FUNCTION:
    case JINJA_OBJECT:
        break;
    }
    return true;
}

static bool value_walk_down(struct value_walk *walk)
{
    if (walk->depth == 0)
        *walk->budget = 0;
    if (*walk->budget == 0)
        return false;
    walk->depth--;
    --*walk->budget;
    return true;
}

static uint64_t mix(uint64_t h)
{
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

bool value_hash(const struct jinja_value *key, struct value_walk walk, uint64_t *hash)
{
    uint64_t part;
    if (!value_walk_down(&walk))
        return false;
    switch (key->kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        *hash = key->kind;
        return true;
    case JINJA_BOOL:
    case JINJA_INT:
        *hash = mix((uint64_t)value_as_integer(key));
        return true;
    case JINJA_FLOAT:
        if (key->real >= -0x1p63 && key->real < 0x1p63 && key->real == floor(key->real))
            *hash = mix((uint64_t)(int64_t)key->real);
        else
            *hash = XXH3_64bits(&key->real, sizeof key->real);
        return true;
    case JINJA_STRING:
        *hash = XXH3_64bits(key->text->data, key->text->len);
        return true;
    case JINJA_TUPLE:
        *hash = 7;
        for (size_t i = 0; i < key->list->count; i++) {
            if (!value_hash(&key->list->items[i], walk, &part))
                return false;
            *hash = mix(*hash ^ part);
        }
        return true;
    default:
        return false;
    }
}

static bool dicts_equal(const struct jinja_dict *a, const struct jinja_dict *b,
                        struct value_walk walk)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct jinja_value *other = dict_get(b, &a->entries[i].key);
        if (!other || !value_equal(&a->entries[i].value, other, walk))
            return false;
    }
    return true;
}

static bool numbers_equal(const struct jinja_value *a, const struct jinja_value *b)
{
    if (value_is_integer(a) && value_is_integer(b))
        return value_as_integer(a) == value_as_integer(b);
    return value_as_real(a) == value_as_real(b);
}

bool value_equal(const struct jinja_value *a, const struct jinja_value *b, struct value_walk walk)
{
    if (!value_walk_down(&walk))
        return false;
    if (value_is_number(a) && value_is_number(b))
        return numbers_equal(a, b);
    if (a->kind != b->kind)
        return false;
    switch ((enum jinja_kind)a->kind) {
    case JINJA_STRING:
        return str_eq((struct str){a->text->data, a->text->len},
                      (struct str){b->text->data, b->text->len});
    case JINJA_LIST:
    case JINJA_TUPLE:
        if (a->list == b->list || a->list->count != b->list->count)
            return a->list == b->list;
        for (size_t i = 0; i < a->list->count; i++)
            if (!value_equal(&a->list->items[i], &b->list->items[i], walk))
                return false;
        return true;
    case JINJA_DICT:
        return a->dict == b->dict || dicts_equal(a->dict, b->dict, walk);
    case JINJA_RANGE:
        return a->range->count == b->range->count &&
               (a->range->count == 0 ||
                (a->range->start == b->range->start &&
                 (a->range->count == 1 || a->range->step == b->range->step)));
    case JINJA_METHOD:
        return a->method == b->method;
    case JINJA_VIEW:
        return a->detail == b->detail && a->dict == b->dict;
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    default: /* identity; any pointer of the union */
        return a->object == b->object;
    }
}

/* ---- dict ----------------------------------------------------------------------------------- */

struct jinja_dict *dict_new(struct arena *arena)
{
    return arena_alloc(arena, 1, sizeof(struct jinja_dict));
}

static size_t dict_find(const struct jinja_dict *dict, const struct jinja_value *key, uint64_t hash)
{
    uint64_t budget = KEY_BUDGET;
    struct value_walk walk = {&budget, KEY_DEPTH};
    if (!dict->index) {
        for (size_t i = 0; i < dict->count; i++)
            if (dict->entries[i].hash == hash && value_equal(&dict->entries[i].key, key, walk))
                return i;
        return SIZE_MAX;
    }
    for (size_t at = hash & (dict->n_index - 1); dict->index[at];
         at = (at + 1) & (dict->n_index - 1)) {
        size_t i = dict->index[at] - 1;
        if (dict->entries[i].hash == hash && value_equal(&dict->entries[i].key, key, walk))
            return i;
    }
    return SIZE_MAX;
}

const struct jinja_value *dict_get(const struct jinja_dict *dict, const struct jinja_value *key)
{
    uint64_t hash, budget = KEY_BUDGET;
    struct value_walk walk = {&budget, KEY_DEPTH};
    if (dict->count == 0 || !value_hash(key, walk, &hash))
        return NULL;
    size_t i = dict_find(dict, key, hash);
    return i == SIZE_MAX ? NULL : &dict->entries[i].value;
}

const struct jinja_value *dict_get_str(const struct jinja_dict *dict, struct str key)
{
    struct jinja_text text = {.data = key.data, .len = key.len};
    struct jinja_value value = {.kind = JINJA_STRING, .text = &text};
    return dict_get(dict, &value);
}

static void index_put(struct jinja_dict *dict, size_t entry)
{
    size_t at = dict->entries[entry].hash & (dict->n_index - 1);
    while (dict->index[at])
        at = (at + 1) & (dict->n_index - 1);
    dict->index[at] = (uint32_t)entry + 1;
}

static bool dict_grow(struct arena *arena, struct jinja_dict *dict)
{
    size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
    if (capacity > UINT32_MAX / 4)
        return false;
    struct jinja_entry *entries = arena_alloc(arena, capacity, sizeof *entries);
    if (!entries)
        return false;
    if (dict->count)
        memcpy(entries, dict->entries, dict->count * sizeof *entries);
    dict->entries = entries;
    dict->capacity = capacity;
    if (capacity <= DICT_SMALL)
        return true;
    uint32_t *index = arena_alloc(arena, capacity * 2, sizeof *index);
    if (!index)
        return false;
    dict->index = index;
    dict->n_index = capacity * 2;
    for (size_t i = 0; i < dict->count; i++)
        index_put(dict, i);
    return true;
}

bool dict_set(struct arena *arena, struct jinja_dict *dict, const struct jinja_value *key,
              const struct jinja_value *value)
{
    uint64_t hash, budget = KEY_BUDGET;
    struct value_walk walk = {&budget, KEY_DEPTH};
    if (!value_hash(key, walk, &hash))
        return false;
    size_t i = dict_find(dict, key, hash);
    if (i != SIZE_MAX) {
        dict->entries[i].value = *value;
        return true;
    }
    if (dict->count == dict->capacity && !dict_grow(arena, dict))
        return false;
    dict->entries[dict->count] = (struct jinja_entry){*key, *value, hash};
    dict->count++;
    if (dict->index)
        index_put(dict, dict->count - 1);
    return true;
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static bool list_from_json(struct arena *arena, const json_t *json, bool trusted, unsigned depth,
                           struct jinja_value *out)
{
    size_t count = json_array_size(json);
    struct jinja_value *items = arena_alloc(arena, count, sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!value_from_json(arena, json_array_get(json, i), trusted, depth, &items[i]))
            return false;
    if (!value_list(arena, JINJA_LIST, items, count, out))
        return false;
    out->untrusted = !trusted;
    return true;
}

static bool string_from_json(struct arena *arena, struct str bytes, bool trusted,
                             struct jinja_value *out)
{
    const struct jinja_text *text = text_copy(arena, bytes, trusted);
    if (!text)
        return false;
    *out = value_text(text);
    return true;
}

static bool dict_from_json(struct arena *arena, json_t *json, bool trusted, unsigned depth,
                           struct jinja_value *out)
{
    struct jinja_dict *dict = dict_new(arena);
    if (!dict)
        return false;
    for (void *at = json_object_iter(json); at; at = json_object_iter_next(json, at)) {
        struct jinja_value key, value;
        if (!string_from_json(arena, str_from(json_object_iter_key(at)), trusted, &key) ||
            !value_from_json(arena, json_object_iter_value(at), trusted, depth, &value) ||
            !dict_set(arena, dict, &key, &value))
            return false;
    }
    *out = value_dict(dict);
    out->untrusted = !trusted;
    return true;
}

bool value_from_json(struct arena *arena, const json_t *json, bool trusted, unsigned depth,
                     struct jinja_value *out)
{
    if (depth == 0)
        return false;
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return dict_from_json(arena, (json_t *)json, trusted, depth - 1, out);
    case JSON_ARRAY:
        return list_from_json(arena, json, trusted, depth - 1, out);
    case JSON_STRING:
        return string_from_json(
            arena, (struct str){json_string_value(json), json_string_length(json)}, trusted, out);
    case JSON_INTEGER:
        *out = value_int(json_integer_value(json));
        break;
    case JSON_REAL:
        *out = value_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = value_bool(json_is_true(json));
        break;
    case JSON_NULL:
        *out = value_none();
        break;
    }
    out->untrusted = !trusted;
    return true;
}
