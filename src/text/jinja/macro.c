/*
 * Macros and call blocks. A macro sees the scope it was made in and its arguments; its result is
 * the text it printed, with that text's trust.
 */
#include "text/jinja/run.h"

static const struct jinja_value *keyword_of(const struct jinja_args *args, struct str name,
                                            size_t *used)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (str_eq(text_str(args->keywords[i].name), name)) {
            ++*used;
            return &args->keywords[i].value;
        }
    return NULL;
}

static const char *macro_name(const struct macro_node *m)
{
    return m->name ? m->name->data : "caller";
}

static size_t macro_name_length(const struct macro_node *m)
{
    return m->name ? m->name->len : 6;
}

/* Parameters by position, by keyword, by default. The scope is the macro's already. */
static bool bind_parameters(struct jinja_run *run, const struct macro_node *m,
                            const struct jinja_args *args, size_t *used)
{
    for (size_t i = 0; i < m->n_parameters; i++) {
        const struct parameter *p = &m->parameters[i];
        const struct jinja_value *given =
            i < args->count ? &args->items[i] : keyword_of(args, text_str(p->name), used);
        struct jinja_value value = {
            .kind = JINJA_UNDEFINED, .detail = UNDEFINED_NAME, .text = p->name};
        if (given)
            value = *given;
        else if (p->value && !eval(run, p->value, &value))
            return false;
        if (!scope_set(run, p->symbol, &value))
            return false;
    }
    return true;
}

static bool bind_varargs(struct jinja_run *run, const struct macro_node *m,
                         const struct jinja_args *args)
{
    if (args->count > m->n_parameters && !m->uses_varargs)
        return run_error(run, "macro '%.*s' takes not more than %zu arguments, got %zu",
                         (int)macro_name_length(m), macro_name(m), m->n_parameters, args->count);
    if (!m->uses_varargs)
        return true;
    size_t n = args->count > m->n_parameters ? args->count - m->n_parameters : 0;
    struct jinja_value *items = run_alloc(run, n, sizeof *items), value;
    if (!items)
        return false;
    if (n)
        memcpy(items, args->items + m->n_parameters, n * sizeof *items);
    if (!value_list(&run->arena, JINJA_TUPLE, items, n, &value))
        return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    return scope_set(run, m->varargs_symbol, &value);
}

static bool is_parameter(const struct macro_node *m, struct str name)
{
    for (size_t i = 0; i < m->n_parameters; i++)
        if (str_eq(text_str(m->parameters[i].name), name))
            return true;
    return m->uses_caller && str_eq_cstr(name, "caller");
}

static bool bind_kwargs(struct jinja_run *run, const struct macro_node *m,
                        const struct jinja_args *args, size_t used)
{
    if (!m->uses_kwargs) {
        if (used < args->n_keywords)
            return run_error(run, "macro '%.*s' got a keyword argument it does not take",
                             (int)macro_name_length(m), macro_name(m));
        return true;
    }
    struct jinja_dict *dict = dict_new(&run->arena);
    struct jinja_value value = value_dict(dict);
    for (size_t i = 0; dict && i < args->n_keywords; i++) {
        struct jinja_value key = value_text(args->keywords[i].name);
        if (is_parameter(m, text_str(key.text)))
            continue;
        value.untrusted |= key.untrusted || args->keywords[i].value.untrusted;
        if (!dict_set(&run->arena, dict, &key, &args->keywords[i].value))
            dict = NULL;
    }
    if (!dict)
        return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    return scope_set(run, m->kwargs_symbol, &value);
}

static bool bind(struct jinja_run *run, const struct macro_node *m, const struct jinja_args *args)
{
    size_t used = 0;
    if (!bind_parameters(run, m, args, &used))
        return false;
    if (m->uses_caller && !m->declares_caller) {
        const struct jinja_value *caller = keyword_of(args, STR_LIT("caller"), &used);
        struct jinja_value value = caller ? *caller : value_undefined();
        if (!scope_set(run, m->caller_symbol, &value))
            return false;
    }
    return bind_kwargs(run, m, args, used) && bind_varargs(run, m, args);
}

bool macro_call(struct jinja_run *run, const struct jinja_macro *macro,
                const struct jinja_args *args, struct jinja_value *out)
{
    const struct macro_node *m = macro->node->macro;
    struct scope *caller_scope = run->scope;
    struct text_builder builder, *outer = run->out;
    enum flow flow = FLOW_NEXT;
    if (!run_enter(run))
        return false;
    builder_init(&builder, run);
    run->scope = scope_new(run, macro->scope);
    run->out = &builder;
    bool ok = run->scope && bind(run, m, args) && exec_body(run, &m->body, &flow);
    run->scope = caller_scope;
    run->out = outer;
    run_leave(run);
    return ok && out_text(out, builder_finish(&builder));
}

bool exec_call_block(struct jinja_run *run, const struct node *node)
{
    const struct node *call = node->macro->call;
    struct jinja_macro *caller = run_alloc(run, 1, sizeof *caller);
    struct jinja_text *name = run_alloc(run, 1, sizeof *name);
    if (!caller || !name)
        return false;
    *caller = (struct jinja_macro){node, run->scope};
    *name = (struct jinja_text){.data = "caller", .len = 6, .n_chars = 6, .trust = TRUST_ALL};
    struct jinja_keyword extra = {name, {.kind = JINJA_MACRO, .macro = caller}};
    struct jinja_value function, result;
    struct jinja_args args;
    if (!eval(run, call->a, &function) || !eval_args(run, call->arguments, &extra, &args) ||
        !call_value(run, &function, &args, &result))
        return false;
    print_value(run->out, &result);
    return run->status == STATUS_OK;
}
