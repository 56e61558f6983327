/*
 * The for statement and the `loop` variable.
 *
 * Items are taken from the source one by one, as Python does, so that a filter ("for x in xs if c")
 * sees what the body changed in a namespace. loop.last, nextitem and length look ahead: what they
 * read waits in a queue.
 */
#include "text/jinja/run.h"

struct loop_filter {
    const struct node *test, *target;
    struct scope *scope; /* the filter's own, with the target in it */
};

/* The next item of the source, unfiltered. */
static bool take(struct jinja_run *run, struct jinja_loop *loop, struct jinja_value *out,
                 bool *found)
{
    const struct jinja_value *source = &loop->source;
    size_t count;
    *found = true;
    if (source->kind == JINJA_STRING) {
        const struct jinja_text *text = source->text;
        uint32_t c;
        *found = loop->text_next < text->len;
        if (!*found)
            return true;
        size_t begin = loop->text_next;
        loop->text_next += text_decode(text, begin, &c);
        return out_text(out, text_slice(run, text, begin, loop->text_next));
    }
    if (source->kind == JINJA_ITERATOR) {
        struct jinja_iterator *it = source->iterator;
        *found = it->next < it->count;
        if (*found)
            *out = it->items[it->next++];
        return true;
    }
    if (!value_length(run, source, &count))
        return false;
    *found = loop->source_next < count;
    return !*found || value_at(run, source, loop->source_next++, out);
}

static bool passes(struct jinja_run *run, struct jinja_loop *loop, const struct jinja_value *item,
                   bool *out)
{
    struct loop_filter *filter = loop->filter;
    struct scope *outer = run->scope;
    struct jinja_value result;
    *out = true;
    if (!filter)
        return true;
    run->scope = filter->scope;
    filter->scope->count = 0;
    bool ok = assign_target(run, filter->target, item) && eval(run, filter->test, &result);
    run->scope = outer;
    *out = ok && value_truthy(&result);
    return ok;
}

static bool fetch(struct jinja_run *run, struct jinja_loop *loop, struct jinja_value *out,
                  bool *found)
{
    bool pass = false;
    do {
        if (!run_burn(run, 1) || !take(run, loop, out, found))
            return false;
        if (*found && !passes(run, loop, out, &pass))
            return false;
    } while (*found && !pass);
    return true;
}

static bool loop_next(struct jinja_run *run, struct jinja_loop *loop, struct jinja_value *out,
                      bool *found)
{
    if (loop->n_ahead == 0)
        return fetch(run, loop, out, found);
    *out = loop->ahead[loop->ahead_first++];
    loop->n_ahead--;
    *found = true;
    return true;
}

/* Reads one more item into the queue. */
static bool look_ahead(struct jinja_run *run, struct jinja_loop *loop, bool *found)
{
    struct jinja_value item;
    if (!fetch(run, loop, &item, found) || !*found)
        return run->status == STATUS_OK;
    if (loop->n_ahead == 0)
        loop->ahead_first = 0;
    if (loop->ahead_first + loop->n_ahead == loop->ahead_capacity) {
        size_t capacity = loop->n_ahead < 2 ? 4 : loop->n_ahead * 2;
        struct jinja_value *ahead = run_alloc(run, capacity, sizeof *ahead);
        if (!ahead)
            return false;
        if (loop->n_ahead)
            memcpy(ahead, loop->ahead + loop->ahead_first, loop->n_ahead * sizeof *ahead);
        loop->ahead = ahead;
        loop->ahead_capacity = capacity;
        loop->ahead_first = 0;
    }
    loop->ahead[loop->ahead_first + loop->n_ahead++] = item;
    return true;
}

static bool has_next(struct jinja_run *run, struct jinja_loop *loop, bool *out)
{
    *out = loop->n_ahead > 0;
    return *out || look_ahead(run, loop, out);
}

static bool loop_length(struct jinja_run *run, struct jinja_loop *loop, size_t *out)
{
    bool more = true;
    if (!loop->filter && loop->source.kind != JINJA_ITERATOR)
        return value_length(run, &loop->source, out);
    while (more)
        if (!look_ahead(run, loop, &more))
            return false;
    *out = loop->index0 + 1 + loop->n_ahead;
    return true;
}

static bool loop_count(struct jinja_run *run, struct jinja_loop *loop, struct str name,
                       struct jinja_value *out, bool *found)
{
    size_t length;
    size_t index = loop->index0;
    bool from_end = str_eq_cstr(name, "revindex") || str_eq_cstr(name, "revindex0");
    *found = true;
    if (from_end || str_eq_cstr(name, "length")) {
        if (!loop_length(run, loop, &length))
            return false;
        size_t value = !from_end                       ? length
                       : str_eq_cstr(name, "revindex") ? length - index
                                                       : length - index - 1;
        *out = value_int((int64_t)value);
        out->untrusted = loop->source.untrusted;
        return true;
    }
    if (str_eq_cstr(name, "index"))
        *out = value_int((int64_t)index + 1);
    else if (str_eq_cstr(name, "index0"))
        *out = value_int((int64_t)index);
    else if (str_eq_cstr(name, "depth"))
        *out = value_int((int64_t)loop->depth);
    else if (str_eq_cstr(name, "depth0"))
        *out = value_int((int64_t)loop->depth - 1);
    else
        *found = false;
    return true;
}

bool loop_attribute(struct jinja_run *run, struct jinja_loop *loop, struct str name,
                    struct jinja_value *out, bool *found)
{
    bool more = false;
    *found = true;
    if (str_eq_cstr(name, "first")) {
        *out = value_bool(loop->index0 == 0);
        return true;
    }
    if (str_eq_cstr(name, "last") || str_eq_cstr(name, "nextitem")) {
        if (!has_next(run, loop, &more))
            return false;
        if (name.data[0] == 'l')
            *out = value_bool(!more);
        else
            *out = more ? loop->ahead[loop->ahead_first] : value_undefined();
        return true;
    }
    if (str_eq_cstr(name, "previtem")) {
        *out = loop->index0 ? loop->previous : value_undefined();
        return true;
    }
    return loop_count(run, loop, name, out, found);
}

bool loop_call(struct jinja_run *run, struct jinja_loop *loop, const struct jinja_args *args,
               struct jinja_value *out)
{
    if (!loop->node->loop->recursive)
        return run_error(run, "the loop must be marked 'recursive' to be called");
    if (args->count != 1 || args->n_keywords)
        return run_error(run, "loop() takes what to iterate over");
    struct text_builder builder, *outer = run->out;
    struct scope *scope = run->scope;
    enum flow flow = FLOW_NEXT;
    if (!run_enter(run))
        return false;
    builder_init(&builder, run);
    run->out = &builder;
    bool ok = exec_loop(run, loop->node, &args->items[0], loop->scope, loop->depth + 1, &flow);
    run->out = outer;
    run->scope = scope;
    run_leave(run);
    return ok && out_text(out, builder_finish(&builder));
}

static bool run_rounds(struct jinja_run *run, const struct for_node *f, struct jinja_loop *loop,
                       struct scope *scope, bool *ran)
{
    struct jinja_value value = {.kind = JINJA_LOOP, .loop = loop};
    enum flow flow = FLOW_NEXT;
    for (;;) {
        struct jinja_value item;
        bool found;
        run->scope = scope;
        if (!loop_next(run, loop, &item, &found))
            return false;
        if (!found || flow == FLOW_BREAK)
            return true;
        if (*ran) {
            loop->previous = loop->current;
            loop->index0++;
        }
        *ran = true;
        loop->current = item;
        scope->count = 0;
        flow = FLOW_NEXT;
        if (!scope_set(run, f->loop_symbol, &value) || !assign_target(run, f->target, &item) ||
            !exec_body(run, &f->body, &flow))
            return false;
        if (flow == FLOW_BREAK)
            return true;
    }
}

bool exec_loop(struct jinja_run *run, const struct node *node, const struct jinja_value *source,
               struct scope *outside, uint32_t depth, enum flow *flow)
{
    const struct for_node *f = node->loop;
    if (source->kind == JINJA_UNDEFINED && source->detail == UNDEFINED_UNSAFE)
        return fail_undefined(run, source);
    if (!value_is_iterable(source))
        return run_error(run, "'%s' object is not iterable", value_type_name(source));
    struct jinja_loop *loop = run_alloc(run, 1, sizeof *loop);
    struct scope *scope = scope_new(run, outside);
    if (!loop || !scope)
        return false;
    *loop = (struct jinja_loop){.node = node, .source = *source, .scope = outside, .depth = depth};
    if (f->filter) {
        struct loop_filter *filter = run_alloc(run, 1, sizeof *filter);
        struct scope *inner = scope_new(run, outside);
        if (!filter || !inner)
            return false;
        *filter = (struct loop_filter){f->filter, f->target, inner};
        loop->filter = filter;
    }
    bool ran = false;
    bool ok = run_rounds(run, f, loop, scope, &ran);
    run->scope = outside;
    if (!ok || ran)
        return ok;
    scope->count = 0;
    run->scope = scope;
    ok = exec_body(run, &f->otherwise, flow);
    return ok;
}

bool exec_for(struct jinja_run *run, const struct node *node, enum flow *flow)
{
    struct jinja_value source;
    struct scope *scope = run->scope;
    if (!eval(run, node->loop->source, &source))
        return false;
    bool ok = exec_loop(run, node, &source, scope, 1, flow);
    run->scope = scope;
    return ok;
}
