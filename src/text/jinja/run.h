/*
 * The state of one rendering, and what the interpreter's files offer each other.
 *
 * Convention: a function that can fail returns bool; false means that run->status and the error
 * message are set, and the caller returns false at once. Results go to *out. Nothing here outlives
 * the run's arena.
 */
#ifndef SLUICE_TEXT_JINJA_RUN_H
#define SLUICE_TEXT_JINJA_RUN_H

#include <time.h>

#include "base/status.h"
#include "text/jinja/ast.h"
#include "text/jinja/jinja.h"
#include "text/jinja/text.h"
#include "text/jinja/value.h"

#define JINJA_RANGE_MAX    100000 /* the sandbox's own limit on range() */
#define JINJA_PARAMS_MAX   6
#define JINJA_VALUE_DEPTH  100 /* nesting of values that str(), == and tojson follow */
#define JINJA_BYTES_A_STEP 64  /* fuel: bytes handled count as a step per so many */

struct scope_entry {
    uint32_t symbol;
    struct jinja_value value;
};

/* Variables set in a block; the root scope is run->root instead. A loop uses one scope for all its
 * rounds, emptied before each: a macro made in a round sees later ones, as in Python. */
struct scope {
    struct scope *parent; /* NULL: next is the root */
    struct scope_entry *entries;
    size_t count, capacity;
};

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

struct jinja_run {
    const struct jinja_template *tmpl;
    struct arena arena;
    uint64_t fuel;
    uint32_t depth, max_depth;
    size_t max_text;
    const struct tm *now;
    struct jinja_value *root;    /* [n_symbols] variables set at the top level */
    struct jinja_value *context; /* [n_symbols] context variables, then built-in globals */
    struct scope *scope;         /* innermost; NULL at the top level */
    struct text_builder *out;    /* where output goes */
    uint32_t line;               /* of the statement or expression being run */
    enum status status;
    struct error *err;
};

struct jinja_keyword {
    const struct jinja_text *name;
    struct jinja_value value;
};

struct jinja_args {
    const struct jinja_value *items;
    size_t count;
    const struct jinja_keyword *keywords;
    size_t n_keywords;
};

/* A call of a built-in: self is the piped value, the tested value or the method's object. a: the
 * arguments by the table's parameter list; those not given are JINJA_MISSING. */
struct jinja_call {
    struct jinja_value self;
    struct jinja_value a[JINJA_PARAMS_MAX];
    const struct jinja_args *args; /* as written */
};

typedef bool jinja_builtin_fn(struct jinja_run *run, struct jinja_call *call,
                              struct jinja_value *out);

/* One filter, test, method or global function. params: names separated by spaces, optional ones
 * after a '|'; NULL: the function reads args itself. spans: it tracks trust itself; otherwise its
 * result is untrusted if any input is. */
struct jinja_builtin {
    const char *name;
    const char *params;
    jinja_builtin_fn *call;
    bool spans;
};

struct jinja_macro {
    const struct node *node; /* N_MACRO or N_CALL_BLOCK */
    struct scope *scope;     /* where it was made */
};

struct jinja_loop {
    const struct node *node;
    struct jinja_value source; /* what is iterated */
    struct scope *scope;       /* outside of the loop, for the filter */
    size_t source_next;        /* position in the source */
    size_t text_next;          /* the same in bytes, for a string */
    struct jinja_value *ahead; /* [n_ahead] items already taken from the source */
    size_t n_ahead, ahead_capacity, ahead_first;
    struct jinja_value previous, current;
    size_t index0;
    uint32_t depth;
    struct jinja_value changed; /* last value given to loop.changed() */
    struct loop_filter *filter;
};

/* run.c */
bool run_fail(struct jinja_run *run, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A template or data error. */
#define run_error(run, ...) run_fail((run), STATUS_MODEL, __VA_ARGS__)
void *run_alloc(struct jinja_run *run, size_t count, size_t size);
bool run_burn(struct jinja_run *run, uint64_t steps);
bool run_enter(struct jinja_run *run); /* one level deeper */
static inline void run_leave(struct jinja_run *run)
{
    run->depth--;
}

/* scope.c */
struct scope *scope_new(struct jinja_run *run, struct scope *parent);
bool scope_set(struct jinja_run *run, uint32_t symbol, const struct jinja_value *value);
bool scope_get(struct jinja_run *run, uint32_t symbol, struct jinja_value *out);
bool assign_target(struct jinja_run *run, const struct node *target,
                   const struct jinja_value *value);

/* exec.c, loop.c, macro.c: statements */
bool exec_body(struct jinja_run *run, const struct body *body, enum flow *flow);
bool exec_for(struct jinja_run *run, const struct node *node, enum flow *flow);
bool exec_loop(struct jinja_run *run, const struct node *node, const struct jinja_value *source,
               struct scope *outside, uint32_t depth, enum flow *flow);
bool exec_capture(struct jinja_run *run, const struct body *body, const struct jinja_text **out);
bool exec_call_block(struct jinja_run *run, const struct node *node);
bool macro_call(struct jinja_run *run, const struct jinja_macro *macro,
                const struct jinja_args *args, struct jinja_value *out);
bool loop_attribute(struct jinja_run *run, struct jinja_loop *loop, struct str name,
                    struct jinja_value *out, bool *found);
bool loop_call(struct jinja_run *run, struct jinja_loop *loop, const struct jinja_args *args,
               struct jinja_value *out);

/* eval.c */
bool eval(struct jinja_run *run, const struct node *node, struct jinja_value *out);
bool eval_args(struct jinja_run *run, const struct arguments *arguments,
               const struct jinja_keyword *extra, struct jinja_args *out);
bool eval_filters(struct jinja_run *run, const struct node *chain, const struct jinja_value *input,
                  struct jinja_value *out);

/* call.c */
bool call_value(struct jinja_run *run, const struct jinja_value *callee,
                const struct jinja_args *args, struct jinja_value *out);
bool call_builtin(struct jinja_run *run, const struct jinja_builtin *builtin,
                  const struct jinja_value *self, const struct jinja_args *args,
                  struct jinja_value *out);
/* By name, at run time (map, select, ...): an error if there is none. */
bool call_filter(struct jinja_run *run, struct str name, const struct jinja_value *self,
                 const struct jinja_args *args, struct jinja_value *out);
bool call_test(struct jinja_run *run, struct str name, const struct jinja_value *self,
               const struct jinja_args *args, bool *out);

/* operators.c */
bool operate(struct jinja_run *run, enum op op, const struct jinja_value *a,
             const struct jinja_value *b, struct jinja_value *out);
bool operate_unary(struct jinja_run *run, enum op op, const struct jinja_value *a,
                   struct jinja_value *out);
bool compare(struct jinja_run *run, enum op op, const struct jinja_value *a,
             const struct jinja_value *b, bool *out);
/* *order < 0, 0, > 0; an error where Python has no order. */
bool value_order(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b,
                 int *order);
bool value_contains(struct jinja_run *run, const struct jinja_value *container,
                    const struct jinja_value *item, bool *out);

/* Offset of needle at or after `from`, or SIZE_MAX; burns fuel as it goes. */
size_t text_find(struct jinja_run *run, const struct jinja_text *text,
                 const struct jinja_text *needle, size_t from);

/* access.c: members, elements, slices, iteration */
bool get_attribute(struct jinja_run *run, const struct jinja_value *object,
                   const struct jinja_text *name, struct jinja_value *out);
bool get_item(struct jinja_run *run, const struct jinja_value *object,
              const struct jinja_value *index, struct jinja_value *out);
bool get_slice(struct jinja_run *run, const struct jinja_value *object,
               const struct jinja_value bounds[3], struct jinja_value *out);
/* len(); an error where Python has none. */
bool value_length(struct jinja_run *run, const struct jinja_value *v, size_t *out);
/* All items, in order; reads an iterator to its end. */
bool value_items(struct jinja_run *run, const struct jinja_value *v, struct jinja_list *out);
bool value_is_iterable(const struct jinja_value *v);
/* Item `index` of a view, range, list, tuple (index in bounds). */
bool value_at(struct jinja_run *run, const struct jinja_value *v, size_t index,
              struct jinja_value *out);
/* The message and failure of using an undefined value. */
bool fail_undefined(struct jinja_run *run, const struct jinja_value *v);
/* Result helpers: NULL text means that the run failed. */
bool out_text(struct jinja_value *out, const struct jinja_text *text);
bool out_list(struct jinja_run *run, const struct jinja_value *items, size_t count,
              struct jinja_value *out);
bool out_iterator(struct jinja_run *run, const char *type, const struct jinja_value *items,
                  size_t count, struct jinja_value *out);

/* print.c */
/* str(v): the text itself for a string. NULL: failed. */
const struct jinja_text *to_text(struct jinja_run *run, const struct jinja_value *v);
void print_value(struct text_builder *b, const struct jinja_value *v); /* str() */
void print_repr(struct text_builder *b, const struct jinja_value *v, unsigned depth);
/* repr(float) into at least 32 bytes. */
void print_float(double value, char *out);
/* Decimal text to double, whatever the locale. False: not a number. */
bool parse_float(struct str text, double *out);

/* json_out.c */
struct json_style {
    bool ascii, sort_keys, indented;
    const struct jinja_text *indent; /* with indented */
    const struct jinja_text *item_separator, *key_separator;
};
bool write_json(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                const struct json_style *style, unsigned level);

/* format_text.c, format_spec.c */
bool format_percent(struct jinja_run *run, const struct jinja_text *format,
                    const struct jinja_value *args, struct jinja_value *out);
bool format_braces(struct jinja_run *run, const struct jinja_text *format,
                   const struct jinja_args *args, struct jinja_value *out);
bool format_spec(struct jinja_run *run, struct text_builder *b, const struct jinja_value *v,
                 struct str spec);

/* The tables: NULL if there is no such entry. */
const struct jinja_builtin *find_filter(struct str name);
const struct jinja_builtin *find_test(struct str name);
const struct jinja_builtin *find_global(struct str name);
const struct jinja_builtin *find_method(const struct jinja_value *self, struct str name);
/* Methods that change their object; the sandbox forbids them. */
bool is_unsafe_attribute(const struct jinja_value *self, struct str name);

struct builtin_table {
    const struct jinja_builtin *entries;
    size_t count;
};
/* Parts of the filter and method tables, by file. */
extern const struct builtin_table filters_text, filters_value, filters_list;
extern const struct builtin_table methods_text_table, methods_split_table, methods_container_table;

#endif
