/*
 * Statements, except loops and macros (loop.c, macro.c).
 *
 * *flow says how a body ended: a break or continue inside leaves all bodies up to the loop, which sets it
 * back. Capturing ({% set x %}...{% endset %}, filter blocks) runs a body with another place for its
 * output and a scope of its own, and restores both whatever happens.
 */
#include "text/jinja/run.h"

bool exec_capture(struct jinja_run *run, const struct body *body, const struct jinja_text **out)
{
    struct text_builder builder, *outer = run->out;
    struct scope *scope = run->scope;
    enum flow flow = FLOW_NEXT;
    builder_init(&builder, run);
    run->out = &builder;
    run->scope = scope_new(run, scope);
    bool ok = run->scope && exec_body(run, body, &flow);
    run->scope = scope;
    run->out = outer;
    *out = ok ? builder_finish(&builder) : NULL;
    return *out;
}

static bool exec_print(struct jinja_run *run, const struct node *node)
{
    for (size_t i = 0; i < node->count; i++) {
        struct jinja_value value;
        if (!eval(run, node->items[i], &value))
            return false;
        print_value(run->out, &value);
    }
    return run->status == STATUS_OK;
}

static bool exec_if(struct jinja_run *run, const struct node *node, enum flow *flow)
{
    for (size_t i = 0; i < node->count; i++) {
        const struct branch *branch = &node->branches[i];
        struct jinja_value test;
        if (branch->test && !eval(run, branch->test, &test))
            return false;
        if (!branch->test || value_truthy(&test))
            return exec_body(run, &branch->body, flow);
    }
    return true;
}

static bool exec_captured(struct jinja_run *run, const struct node *node, struct jinja_value *out)
{
    const struct jinja_text *text;
    if (!exec_capture(run, node->body, &text))
        return false;
    struct jinja_value input = value_text(text);
    return eval_filters(run, node->b, &input, out);
}

static bool exec_with(struct jinja_run *run, const struct node *node, enum flow *flow)
{
    struct scope *outer = run->scope, *scope = scope_new(run, outer);
    bool ok = scope != NULL;
    for (size_t i = 0; ok && i < node->count; i += 2) {
        struct jinja_value value;
        run->scope = outer;
        ok = eval(run, node->items[i + 1], &value);
        run->scope = scope;
        ok = ok && assign_target(run, node->items[i], &value);
    }
    run->scope = scope;
    ok = ok && exec_body(run, node->body, flow);
    run->scope = outer;
    return ok;
}

static bool exec_macro(struct jinja_run *run, const struct node *node)
{
    struct jinja_macro *macro = run_alloc(run, 1, sizeof *macro);
    if (!macro)
        return false;
    *macro = (struct jinja_macro){node, run->scope};
    struct jinja_value value = {.kind = JINJA_MACRO, .macro = macro};
    return scope_set(run, node->macro->symbol, &value);
}

static bool exec_node(struct jinja_run *run, const struct node *node, enum flow *flow)
{
    struct jinja_value value;
    switch ((enum node_kind)node->kind) {
    case N_DATA:
        builder_text(run->out, node->name);
        return run->status == STATUS_OK;
    case N_PRINT:
        return exec_print(run, node);
    case N_IF:
        return exec_if(run, node, flow);
    case N_FOR:
        return exec_for(run, node, flow);
    case N_SET:
        return eval(run, node->b, &value) && assign_target(run, node->a, &value);
    case N_SET_BLOCK:
        return exec_captured(run, node, &value) && assign_target(run, node->a, &value);
    case N_FILTER_BLOCK:
        if (!exec_captured(run, node, &value))
            return false;
        print_value(run->out, &value);
        return run->status == STATUS_OK;
    case N_MACRO:
        return exec_macro(run, node);
    case N_CALL_BLOCK:
        return exec_call_block(run, node);
    case N_WITH:
        return exec_with(run, node, flow);
    case N_SCOPE:
        return exec_body(run, node->body, flow);
    case N_BREAK:
        *flow = FLOW_BREAK;
        return true;
    case N_CONTINUE:
        *flow = FLOW_CONTINUE;
        return true;
    default:
        return run_fail(run, STATUS_INTERNAL, "not a statement: node %d", node->kind);
    }
}

bool exec_body(struct jinja_run *run, const struct body *body, enum flow *flow)
{
    if (!run_enter(run))
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < body->count && *flow == FLOW_NEXT; i++) {
        run->line = body->items[i]->line;
        ok = run_burn(run, 1) && exec_node(run, body->items[i], flow);
    }
    run_leave(run);
    return ok;
}
