/* Variables: lookup from the innermost block outwards, assignment in the innermost. */
#include "text/jinja/run.h"

struct scope *scope_new(struct jinja_run *run, struct scope *parent)
{
    struct scope *scope = run_alloc(run, 1, sizeof *scope);
    if (scope)
        scope->parent = parent;
    return scope;
}

static bool scope_put(struct jinja_run *run, struct scope *scope, uint32_t symbol,
                      const struct jinja_value *value)
{
    for (size_t i = 0; i < scope->count; i++)
        if (scope->entries[i].symbol == symbol) {
            scope->entries[i].value = *value;
            return true;
        }
    if (scope->count == scope->capacity) {
        size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        struct scope_entry *entries = run_alloc(run, capacity, sizeof *entries);
        if (!entries)
            return false;
        if (scope->count)
            memcpy(entries, scope->entries, scope->count * sizeof *entries);
        scope->entries = entries;
        scope->capacity = capacity;
    }
    scope->entries[scope->count++] = (struct scope_entry){symbol, *value};
    return true;
}

bool scope_set(struct jinja_run *run, uint32_t symbol, const struct jinja_value *value)
{
    if (run->scope)
        return scope_put(run, run->scope, symbol, value);
    run->root[symbol] = *value;
    return true;
}

bool scope_get(struct jinja_run *run, uint32_t symbol, struct jinja_value *out)
{
    for (const struct scope *scope = run->scope; scope; scope = scope->parent) {
        if (!run_burn(run, 1))
            return false;
        for (size_t i = 0; i < scope->count; i++)
            if (scope->entries[i].symbol == symbol) {
                *out = scope->entries[i].value;
                return true;
            }
    }
    *out = run->root[symbol].kind != JINJA_MISSING ? run->root[symbol] : run->context[symbol];
    if (out->kind == JINJA_MISSING)
        *out = (struct jinja_value){.kind = JINJA_UNDEFINED,
                                    .detail = UNDEFINED_NAME,
                                    .text = run->tmpl->symbol_names[symbol]};
    return true;
}

static bool assign_member(struct jinja_run *run, const struct node *target,
                          const struct jinja_value *value)
{
    struct jinja_value object;
    if (!scope_get(run, target->symbol, &object))
        return false;
    if (object.kind != JINJA_NAMESPACE)
        return run_error(run, "cannot assign attribute on non-namespace object");
    struct jinja_value key = value_text(target->name);
    if (!dict_set(&run->arena, object.dict, &key, value))
        return run_fail(run, STATUS_LIMIT, "rendering needs too much memory");
    return true;
}

bool assign_target(struct jinja_run *run, const struct node *target,
                   const struct jinja_value *value)
{
    if (target->kind == N_NAME)
        return scope_set(run, target->symbol, value);
    if (target->kind == N_MEMBER_SLOT)
        return assign_member(run, target, value);
    struct jinja_list items;
    if (!value_items(run, value, &items))
        return false;
    if (items.count != target->count)
        return run_error(run, "cannot unpack %zu values into %zu names", items.count,
                         target->count);
    for (size_t i = 0; i < items.count; i++)
        if (!assign_target(run, target->items[i], &items.items[i]))
            return false;
    return true;
}
