/*
 * The values of a template and the text they are made of.
 *
 *   struct jinja_value   16 bytes by value: kind, trust flag, scalar or pointer
 *   struct jinja_text    immutable UTF-8 with trust ranges
 *   struct jinja_dict    insertion-ordered hash table
 *
 * Everything is immutable once it can be seen by a template, except a namespace's dict and an
 * iterator's position. All memory belongs to an arena: the template's (constants), the context's
 * (variables) or the rendering's (the rest). The allocating functions take that arena and return
 * NULL or false when it is full.
 *
 * Internal to text/jinja.
 */
#ifndef SLUICE_TEXT_JINJA_VALUE_H
#define SLUICE_TEXT_JINJA_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/str.h"

/* [begin, end) of bytes that are trusted. The last range of a text may reach beyond its end, when
 * the text was continued in place (see text.h): readers clamp it. */
struct trust_range {
    size_t begin, end;
};

enum jinja_trust { TRUST_NONE, TRUST_ALL, TRUST_SOME };

struct jinja_text {
    const char *data; /* valid UTF-8, not NUL-terminated */
    size_t len;       /* bytes */
    size_t n_chars;   /* code points; == len means ASCII */
    const struct trust_range *ranges;
    size_t n_ranges;
    uint8_t trust; /* enum jinja_trust; ranges only with TRUST_SOME */
    bool safe;     /* Python's Markup: what is joined to it gets HTML-escaped */
    struct text_room *room;
};

enum jinja_kind {
    JINJA_MISSING, /* no value at all: an argument not given */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_VIEW,      /* of a dict: keys, values or items */
    JINJA_RANGE,     /* range(a, b, c) */
    JINJA_ITERATOR,  /* what Python's generators and reversed() give: read once */
    JINJA_NAMESPACE, /* namespace() */
    JINJA_LOOP,      /* the variable `loop` */
    JINJA_MACRO,
    JINJA_METHOD,   /* a built-in method bound to its value */
    JINJA_FUNCTION, /* a built-in global function */
    JINJA_OBJECT,   /* cycler, joiner */
};

enum jinja_view { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

/* Why a value is undefined; `detail` of the value. */
enum jinja_undefined {
    UNDEFINED_NAME,   /* no such variable */
    UNDEFINED_MEMBER, /* no such attribute or element */
    UNDEFINED_UNSAFE, /* an attribute that the sandbox forbids */
    UNDEFINED_OTHER,
};

struct jinja_value {
    uint8_t kind;   /* enum jinja_kind */
    bool untrusted; /* came from outside, or was computed from what did; texts know better */
    uint8_t
        detail; /* VIEW: enum jinja_view; UNDEFINED: enum jinja_undefined; TUPLE: 1 from groupby */
    uint8_t owner; /* UNDEFINED_MEMBER: the kind of the value asked */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct jinja_text *text; /* STRING; UNDEFINED: the name, or NULL */
        const struct jinja_list *list; /* LIST, TUPLE */
        struct jinja_dict *dict;       /* DICT, VIEW, NAMESPACE */
        const struct jinja_range *range;
        struct jinja_iterator *iterator;
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_method *method;
        const struct jinja_builtin *function;
        struct jinja_object *object;
    };
};

struct jinja_list {
    const struct jinja_value *items;
    size_t count;
};

struct jinja_range {
    int64_t start, stop, step;
    size_t count;
};

struct jinja_iterator {
    const char *type; /* "generator", "list_reverseiterator" */
    const struct jinja_value *items;
    size_t count, next;
};

struct jinja_entry {
    struct jinja_value key, value;
    uint64_t hash;
};

struct jinja_dict {
    struct jinja_entry *entries; /* [count], in insertion order */
    size_t count, capacity;
    uint32_t *index; /* [n_index] entry number + 1, or 0; NULL while the dict is small */
    size_t n_index;
};

struct jinja_method {
    const struct jinja_builtin *builtin;
    struct jinja_value self;
};

struct jinja_object {
    bool is_cycler; /* else a joiner */
    const struct jinja_value *items;
    size_t count, next;
};

static inline struct jinja_value value_none(void)
{
    return (struct jinja_value){.kind = JINJA_NONE};
}

static inline struct jinja_value value_bool(bool b)
{
    return (struct jinja_value){.kind = JINJA_BOOL, .boolean = b};
}

static inline struct jinja_value value_int(int64_t i)
{
    return (struct jinja_value){.kind = JINJA_INT, .integer = i};
}

static inline struct jinja_value value_float(double f)
{
    return (struct jinja_value){.kind = JINJA_FLOAT, .real = f};
}

static inline struct jinja_value value_text(const struct jinja_text *text)
{
    return (struct jinja_value){
        .kind = JINJA_STRING, .untrusted = text->trust != TRUST_ALL, .text = text};
}

static inline struct jinja_value value_dict(struct jinja_dict *dict)
{
    return (struct jinja_value){.kind = JINJA_DICT, .dict = dict};
}

static inline struct jinja_value value_undefined(void)
{
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .detail = UNDEFINED_OTHER};
}

/* Bools count as numbers, as in Python. */
static inline bool value_is_number(const struct jinja_value *v)
{
    return v->kind == JINJA_BOOL || v->kind == JINJA_INT || v->kind == JINJA_FLOAT;
}

static inline bool value_is_integer(const struct jinja_value *v)
{
    return v->kind == JINJA_BOOL || v->kind == JINJA_INT;
}

static inline int64_t value_as_integer(const struct jinja_value *v)
{
    return v->kind == JINJA_BOOL ? v->boolean : v->integer;
}

static inline double value_as_real(const struct jinja_value *v)
{
    return v->kind == JINJA_FLOAT ? v->real : (double)value_as_integer(v);
}

/* Wholly trusted or wholly untrusted text over borrowed bytes. NULL when the arena is full. */
const struct jinja_text *text_borrow(struct arena *arena, struct str bytes, bool trusted);
/* The same over a copy. */
const struct jinja_text *text_copy(struct arena *arena, struct str bytes, bool trusted);

/* Where empty lists point, so that no pointer to items is NULL. */
extern const struct jinja_value no_items[1];

/* A list or tuple over items that stay as they are; untrusted if any item is. False: no memory. */
bool value_list(struct arena *arena, enum jinja_kind kind, const struct jinja_value *items,
                size_t count, struct jinja_value *out);

/* Python's type name, for messages: "str", "dict", ... */
const char *value_type_name(const struct jinja_value *v);
bool value_truthy(const struct jinja_value *v);

/* Bounds a walk over nested values, which may share parts (so that a small value can be an
 * exponentially large tree): values visited in all, and nesting. */
struct value_walk {
    uint64_t *budget;
    unsigned depth;
};

/* False if the value cannot be a key (list, dict, ..., or a tuple past the walk's bounds). */
bool value_hash(const struct jinja_value *key, struct value_walk walk, uint64_t *hash);
/* Python's ==. Past the bounds the budget ends at 0 and the result means nothing. */
bool value_equal(const struct jinja_value *a, const struct jinja_value *b, struct value_walk walk);

struct jinja_dict *dict_new(struct arena *arena);
/* NULL if absent or unhashable. Valid until the dict grows. */
const struct jinja_value *dict_get(const struct jinja_dict *dict, const struct jinja_value *key);
const struct jinja_value *dict_get_str(const struct jinja_dict *dict, struct str key);
/* Adds or replaces; an existing key keeps its place and its first spelling. The key must be
 * hashable. False: no memory. */
bool dict_set(struct arena *arena, struct jinja_dict *dict, const struct jinja_value *key,
              const struct jinja_value *value);

/* Deep copy of JSON; depth bounds nesting. False: no memory or too deep. */
bool value_from_json(struct arena *arena, const json_t *json, bool trusted, unsigned depth,
                     struct jinja_value *out);

#endif
