/*
 * Expressions. The recursion follows the tree, whose height the parser bounds; run_enter() counts
 * levels over all macros in progress, so that the C stack stays bounded too.
 */
#include "text/jinja/run.h"

/* Arguments of most calls live on the stack. */
#define ARGS_INLINE 4

struct args_space {
    struct jinja_value items[ARGS_INLINE];
    struct jinja_keyword keywords[ARGS_INLINE];
};

static bool add_star(struct jinja_run *run, const struct arguments *arguments,
                     struct jinja_args *args)
{
    struct jinja_value value;
    struct jinja_list list;
    if (!eval(run, arguments->star, &value) || !value_items(run, &value, &list))
        return false;
    struct jinja_value *items = run_alloc(run, args->count + list.count, sizeof *items);
    if (!items || !run_burn(run, list.count))
        return false;
    memcpy(items, args->items, args->count * sizeof *items);
    if (list.count)
        memcpy(items + args->count, list.items, list.count * sizeof *items);
    args->items = items;
    args->count += list.count;
    return true;
}

static bool add_star_star(struct jinja_run *run, const struct arguments *arguments,
                          struct jinja_args *args)
{
    struct jinja_value value;
    if (!eval(run, arguments->star_star, &value))
        return false;
    if (value.kind != JINJA_DICT)
        return run_error(run, "argument after ** must be a mapping, not %s",
                         value_type_name(&value));
    size_t n = value.dict->count;
    struct jinja_keyword *keywords = run_alloc(run, args->n_keywords + n, sizeof *keywords);
    if (!keywords || !run_burn(run, n))
        return false;
    memcpy(keywords, args->keywords, args->n_keywords * sizeof *keywords);
    for (size_t i = 0; i < n; i++) {
        const struct jinja_entry *entry = &value.dict->entries[i];
        if (entry->key.kind != JINJA_STRING)
            return run_error(run, "keywords must be strings");
        keywords[args->n_keywords + i] = (struct jinja_keyword){entry->key.text, entry->value};
    }
    args->keywords = keywords;
    args->n_keywords += n;
    return true;
}

static bool fill_args(struct jinja_run *run, const struct arguments *arguments,
                      const struct jinja_keyword *extra, struct args_space *space,
                      struct jinja_args *out)
{
    size_t n_keywords = arguments->n_keywords + (extra != NULL);
    struct jinja_value *items = space->items;
    struct jinja_keyword *keywords = space->keywords;
    if (arguments->count > ARGS_INLINE &&
        !(items = run_alloc(run, arguments->count, sizeof *items)))
        return false;
    if (n_keywords > ARGS_INLINE && !(keywords = run_alloc(run, n_keywords, sizeof *keywords)))
        return false;
    for (size_t i = 0; i < arguments->count; i++)
        if (!eval(run, arguments->items[i], &items[i]))
            return false;
    for (size_t i = 0; i < arguments->n_keywords; i++) {
        keywords[i].name = arguments->keywords[i].name;
        if (!eval(run, arguments->keywords[i].value, &keywords[i].value))
            return false;
    }
    if (extra)
        keywords[n_keywords - 1] = *extra;
    *out = (struct jinja_args){items, arguments->count, keywords, n_keywords};
    if (arguments->star && !add_star(run, arguments, out))
        return false;
    return !arguments->star_star || add_star_star(run, arguments, out);
}

bool eval_args(struct jinja_run *run, const struct arguments *arguments,
               const struct jinja_keyword *extra, struct jinja_args *out)
{
    struct args_space *space = run_alloc(run, 1, sizeof *space);
    return space && fill_args(run, arguments, extra, space, out);
}

static bool eval_call(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct args_space space;
    struct jinja_args args;
    const struct node *callee = node->a;
    struct jinja_value function;
    const struct jinja_builtin *method = NULL;
    if (callee->kind == N_MEMBER) {
        /* x.method(): without making a bound method first. */
        struct jinja_value object;
        if (!eval(run, callee->a, &object))
            return false;
        method = find_method(&object, text_str(callee->name));
        if (method)
            function = object;
        else if (!get_attribute(run, &object, callee->name, &function))
            return false;
    } else if (!eval(run, callee, &function)) {
        return false;
    }
    if (!fill_args(run, node->arguments, NULL, &space, &args))
        return false;
    run->line = node->line;
    if (method)
        return call_builtin(run, method, &function, &args, out);
    return call_value(run, &function, &args, out);
}

static bool eval_piped(struct jinja_run *run, const struct node *node,
                       const struct jinja_value *input, struct jinja_value *out)
{
    static const struct arguments no_arguments;
    struct args_space space;
    struct jinja_args args;
    if (!fill_args(run, node->arguments ? node->arguments : &no_arguments, NULL, &space, &args))
        return false;
    run->line = node->line;
    if (!node->function)
        return run_error(run, "no %s named '%.*s'", node->kind == N_FILTER ? "filter" : "test",
                         STR_ARG(text_str(node->name)));
    return call_builtin(run, node->function, input, &args, out);
}

static bool eval_filter(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value input;
    return eval(run, node->a, &input) && eval_piped(run, node, &input, out);
}

static bool eval_test(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value input;
    if (!eval(run, node->a, &input) || !eval_piped(run, node, &input, out))
        return false;
    bool result = value_truthy(out) != node->negated, untrusted = out->untrusted;
    *out = value_bool(result);
    out->untrusted = untrusted;
    return true;
}

bool eval_filters(struct jinja_run *run, const struct node *chain, const struct jinja_value *input,
                  struct jinja_value *out)
{
    if (chain->kind == N_INPUT) {
        *out = *input;
        return true;
    }
    struct jinja_value inner;
    return eval_filters(run, chain->a, input, &inner) && eval_piped(run, chain, &inner, out);
}

static bool eval_sequence(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value *items = run_alloc(run, node->count, sizeof *items);
    for (size_t i = 0; i < node->count; i++)
        if (!items || !eval(run, node->items[i], &items[i]))
            return false;
    if (items && value_list(&run->arena, node->kind == N_LIST ? JINJA_LIST : JINJA_TUPLE, items,
                            node->count, out))
        return true;
    return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
}

static bool eval_dict(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_dict *dict = dict_new(&run->arena);
    bool untrusted = false;
    for (size_t i = 0; i < node->count; i += 2) {
        struct jinja_value key, value;
        uint64_t hash, budget = 1000;
        if (!eval(run, node->items[i], &key) || !eval(run, node->items[i + 1], &value))
            return false;
        if (!value_hash(&key, (struct value_walk){&budget, 16}, &hash))
            return run_error(run, "unhashable type: '%s'", value_type_name(&key));
        if (!dict || !dict_set(&run->arena, dict, &key, &value))
            return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
        untrusted |= key.untrusted || value.untrusted;
    }
    if (!dict)
        return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    *out = value_dict(dict);
    out->untrusted = untrusted;
    return true;
}

static bool eval_chain(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value left, right, result;
    if (!eval(run, node->items[0], &left))
        return false;
    for (size_t i = 1; i < node->count; i++) {
        if (!eval(run, node->items[i], &right))
            return false;
        run->line = node->line;
        if (!operate(run, (enum op)node->ops[i - 1], &left, &right, &result))
            return false;
        left = result;
    }
    *out = left;
    return true;
}

static bool eval_concat(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value first, value;
    struct text_builder b;
    if (!eval(run, node->items[0], &first))
        return false;
    const struct jinja_text *start = to_text(run, &first);
    if (!start)
        return false;
    /* Operands may continue the first text's room themselves, so they come before the builder. */
    struct jinja_value *rest = run_alloc(run, node->count, sizeof *rest);
    for (size_t i = 1; i < node->count; i++) {
        if (!rest || !eval(run, node->items[i], &value))
            return false;
        rest[i] = value;
    }
    builder_continue(&b, run, start);
    for (size_t i = 1; i < node->count; i++)
        print_value(&b, &rest[i]);
    return out_text(out, builder_finish(&b));
}

static bool eval_compare(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value left, right;
    bool result = true, untrusted = false;
    if (!eval(run, node->items[0], &left))
        return false;
    for (size_t i = 1; i < node->count && result; i++) {
        if (!eval(run, node->items[i], &right))
            return false;
        run->line = node->line;
        if (!compare(run, (enum op)node->ops[i - 1], &left, &right, &result))
            return false;
        untrusted |= left.untrusted || right.untrusted;
        left = right;
    }
    *out = value_bool(result);
    out->untrusted = untrusted;
    return true;
}

static bool eval_logic(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    for (size_t i = 0; i < node->count; i++) {
        if (!eval(run, node->items[i], out))
            return false;
        if (value_truthy(out) == (node->kind == N_OR))
            break;
    }
    return true;
}

static bool eval_not(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value value;
    if (!eval(run, node->a, &value))
        return false;
    *out = value_bool(!value_truthy(&value));
    out->untrusted = value.untrusted;
    return true;
}

static bool eval_cond(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value test;
    if (!eval(run, node->items[0], &test))
        return false;
    if (value_truthy(&test))
        return eval(run, node->items[1], out);
    if (node->items[2])
        return eval(run, node->items[2], out);
    *out = value_undefined();
    return true;
}

static bool eval_item(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value object, index;
    if (!eval(run, node->a, &object) || !eval(run, node->b, &index))
        return false;
    run->line = node->line;
    return get_item(run, &object, &index, out);
}

static bool eval_slice(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value object, bounds[3];
    if (!eval(run, node->a, &object))
        return false;
    for (size_t i = 0; i < 3; i++) {
        bounds[i] = value_none();
        if (node->items[i] && !eval(run, node->items[i], &bounds[i]))
            return false;
    }
    return get_slice(run, &object, bounds, out);
}

static bool eval_node(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    struct jinja_value value;
    switch ((enum node_kind)node->kind) {
    case N_CONST:
        *out = node->value;
        return true;
    case N_NAME:
        run->line = node->line;
        return scope_get(run, node->symbol, out);
    case N_LIST:
    case N_TUPLE:
        return eval_sequence(run, node, out);
    case N_DICT:
        return eval_dict(run, node, out);
    case N_CHAIN:
        return eval_chain(run, node, out);
    case N_CONCAT:
        return eval_concat(run, node, out);
    case N_COMPARE:
        return eval_compare(run, node, out);
    case N_AND:
    case N_OR:
        return eval_logic(run, node, out);
    case N_NOT:
        return eval_not(run, node, out);
    case N_NEGATE:
    case N_PLUS:
        return eval(run, node->a, &value) &&
               operate_unary(run, node->kind == N_NEGATE ? OP_SUB : OP_ADD, &value, out);
    case N_COND:
        return eval_cond(run, node, out);
    case N_MEMBER:
        if (!eval(run, node->a, &value))
            return false;
        run->line = node->line;
        return get_attribute(run, &value, node->name, out);
    case N_ITEM:
        return eval_item(run, node, out);
    case N_SLICE:
        return eval_slice(run, node, out);
    case N_CALL:
        return eval_call(run, node, out);
    case N_FILTER:
        return eval_filter(run, node, out);
    case N_TEST:
        return eval_test(run, node, out);
    default:
        return run_fail(run, STATUS_INTERNAL, "not an expression: node %d", node->kind);
    }
}

bool eval(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    if (!run_burn(run, 1) || !run_enter(run))
        return false;
    bool ok = eval_node(run, node, out);
    run_leave(run);
    return ok;
}
