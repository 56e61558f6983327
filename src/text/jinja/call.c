/*
 * Calls of built-ins, macros and other values: binds arguments to a table entry's parameters, and
 * applies the rule that an unlisted function's result is untrusted if any input is.
 */
#include "text/jinja/run.h"

/* The next name of a parameter list; *optional turns true at a '|'. len 0: the end. */
static struct str next_param(const char **at, bool *optional)
{
    while (**at == ' ' || **at == '|') {
        *optional |= **at == '|';
        ++*at;
    }
    const char *begin = *at;
    while (**at && **at != ' ' && **at != '|')
        ++*at;
    return (struct str){begin, (size_t)(*at - begin)};
}

static const struct jinja_value *find_keyword(const struct jinja_args *args, struct str name)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (str_eq(text_str(args->keywords[i].name), name))
            return &args->keywords[i].value;
    return NULL;
}

static bool bind_params(struct jinja_run *run, const struct jinja_builtin *builtin,
                        const struct jinja_args *args, struct jinja_call *call)
{
    const char *at = builtin->params;
    bool optional = false;
    size_t n = 0, used = 0;
    struct str name;
    while ((name = next_param(&at, &optional)).len && n < JINJA_PARAMS_MAX) {
        const struct jinja_value *keyword = find_keyword(args, name);
        if (keyword && n < args->count)
            return run_error(run, "%s() got two values for '%.*s'", builtin->name, STR_ARG(name));
        if (n < args->count)
            call->a[n] = args->items[n];
        else if (keyword)
            call->a[n] = *keyword;
        else if (!optional)
            return run_error(run, "%s() needs the argument '%.*s'", builtin->name, STR_ARG(name));
        used += keyword != NULL;
        n++;
    }
    if (args->count > n)
        return run_error(run, "%s() takes at most %zu arguments, got %zu", builtin->name, n,
                         args->count);
    if (used < args->n_keywords)
        return run_error(run, "%s() got an unknown or repeated keyword argument", builtin->name);
    return true;
}

static bool any_untrusted(const struct jinja_call *call)
{
    bool untrusted = call->self.untrusted;
    for (size_t i = 0; i < call->args->count; i++)
        untrusted |= call->args->items[i].untrusted;
    for (size_t i = 0; i < call->args->n_keywords; i++)
        untrusted |= call->args->keywords[i].value.untrusted;
    return untrusted;
}

bool call_builtin(struct jinja_run *run, const struct jinja_builtin *builtin,
                  const struct jinja_value *self, const struct jinja_args *args,
                  struct jinja_value *out)
{
    struct jinja_call call = {.self = *self, .args = args};
    if (builtin->params && !bind_params(run, builtin, args, &call))
        return false;
    if (!run_burn(run, 1) || !builtin->call(run, &call, out))
        return false;
    if (builtin->spans || !any_untrusted(&call))
        return true;
    if (out->kind == JINJA_STRING) {
        const struct jinja_text *text = text_untrusted(run, out->text);
        if (!text)
            return false;
        *out = value_text(text);
    }
    out->untrusted = true;
    return true;
}

static bool joiner_call(struct jinja_object *object, struct jinja_value *out)
{
    *out = object->next ? object->items[0] : value_text(&text_empty);
    object->next = 1;
    return true;
}

bool call_value(struct jinja_run *run, const struct jinja_value *callee,
                const struct jinja_args *args, struct jinja_value *out)
{
    switch (callee->kind) {
    case JINJA_MACRO:
        return macro_call(run, callee->macro, args, out);
    case JINJA_METHOD:
        return call_builtin(run, callee->method->builtin, &callee->method->self, args, out);
    case JINJA_FUNCTION: {
        struct jinja_value none = value_none();
        return call_builtin(run, callee->function, &none, args, out);
    }
    case JINJA_LOOP:
        return loop_call(run, callee->loop, args, out);
    case JINJA_UNDEFINED:
        return fail_undefined(run, callee);
    default:
        if (callee->kind == JINJA_OBJECT && !callee->object->is_cycler)
            return joiner_call(callee->object, out);
        return run_error(run, "'%s' object is not callable", value_type_name(callee));
    }
}

bool call_filter(struct jinja_run *run, struct str name, const struct jinja_value *self,
                 const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_builtin *builtin = find_filter(name);
    if (!builtin)
        return run_error(run, "no filter named '%.*s'", STR_ARG(name));
    if (!run_enter(run))
        return false;
    bool ok = call_builtin(run, builtin, self, args, out);
    run_leave(run);
    return ok;
}

bool call_test(struct jinja_run *run, struct str name, const struct jinja_value *self,
               const struct jinja_args *args, bool *out)
{
    struct jinja_value result;
    const struct jinja_builtin *builtin = find_test(name);
    if (!builtin)
        return run_error(run, "no test named '%.*s'", STR_ARG(name));
    if (!call_builtin(run, builtin, self, args, &result))
        return false;
    *out = value_truthy(&result);
    return true;
}
