/*
 * The public face: compile, contexts, render; and the run's bookkeeping of fuel, memory, depth.
 *
 * The default fuel bounds a rendering to about 100 ms on the machines we care about, while a real
 * conversation of a thousand messages takes some hundred thousand steps.
 */
#include "text/jinja/run.h"
#include "text/tokenizer/utf8.h"

#include <stdio.h>
#include <stdlib.h>

#define FUEL_DEFAULT   3000000u
#define DEPTH_DEFAULT  1500u
#define OUTPUT_DEFAULT ((size_t)16 << 20)
#define MEMORY_DEFAULT ((size_t)64 << 20)
#define JSON_NESTING   1024 /* of context values; whoever parsed them has its own limit */

bool run_fail(struct jinja_run *run, enum status status, const char *format, ...)
{
    if (run->status != STATUS_OK)
        return false;
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    run->status = error_set(run->err, status, "template line %u: %s", run->line, message);
    return false;
}

void *run_alloc(struct jinja_run *run, size_t count, size_t size)
{
    if (run->status != STATUS_OK)
        return NULL;
    void *result = arena_alloc(&run->arena, count, size);
    if (!result)
        run_fail(run, STATUS_LIMIT, "rendering needs more memory than the limit of %zu KiB",
                 run->arena.limit >> 10);
    return result;
}

bool run_burn(struct jinja_run *run, uint64_t steps)
{
    if (run->fuel < steps) {
        run->fuel = 0;
        return run_fail(run, STATUS_LIMIT, "the template takes too many steps; does it end?");
    }
    run->fuel -= steps;
    return true;
}

bool run_enter(struct jinja_run *run)
{
    if (run->depth >= run->max_depth)
        return run_fail(run, STATUS_LIMIT, "macros or expressions are nested deeper than %u levels",
                        run->max_depth);
    run->depth++;
    return true;
}

/* ---- compile -------------------------------------------------------------------------------- */

/* "\r\n" and "\r" become "\n", and one newline at the end goes. */
static struct str normalize(struct arena *arena, struct str source)
{
    char *out = arena_alloc(arena, source.len + 1, 1);
    size_t n = 0;
    for (size_t i = 0; out && i < source.len; i++) {
        if (source.data[i] != '\r')
            out[n++] = source.data[i];
        else if (i + 1 >= source.len || source.data[i + 1] != '\n')
            out[n++] = '\n';
    }
    if (n && out[n - 1] == '\n')
        n--;
    return (struct str){out, n};
}

static enum status compile_into(struct jinja_template *tmpl, struct str source, struct error *err)
{
    struct compiler c = {.tmpl = tmpl, .err = err};
    struct str text = normalize(&tmpl->arena, source);
    if (!text.data)
        return error_set(err, STATUS_MEMORY, "the template needs too much memory");
    if (lex(&c, text) == STATUS_OK)
        parse_template(&c);
    return c.status;
}

enum status jinja_compile(struct str source, const struct jinja_limits *limits,
                          struct jinja_template **out, struct error *err)
{
    *out = NULL;
    if (source.len > JINJA_SOURCE_MAX)
        return error_set(err, STATUS_LIMIT, "the chat template is longer than %u bytes",
                         JINJA_SOURCE_MAX);
    if (!utf8_valid(source))
        return error_set(err, STATUS_MODEL, "the chat template is not valid UTF-8");
    struct jinja_template *tmpl = calloc(1, sizeof *tmpl);
    if (!tmpl)
        return error_set(err, STATUS_MEMORY, "out of memory for a chat template");
    arena_init(&tmpl->arena,
               limits && limits->memory_bytes ? limits->memory_bytes : MEMORY_DEFAULT);
    enum status status = compile_into(tmpl, source, err);
    if (status != STATUS_OK) {
        jinja_template_free(tmpl);
        return status;
    }
    *out = tmpl;
    return STATUS_OK;
}

void jinja_template_free(struct jinja_template *tmpl)
{
    if (!tmpl)
        return;
    strmap_release(&tmpl->symbols);
    arena_release(&tmpl->arena);
    free(tmpl);
}

/* ---- context -------------------------------------------------------------------------------- */

void jinja_context_init(struct jinja_context *context)
{
    *context = (struct jinja_context){0};
    arena_init(&context->arena, 0);
}

void jinja_context_release(struct jinja_context *context)
{
    arena_release(&context->arena);
    context->names = NULL;
}

static enum status context_put(struct jinja_context *context, struct str name,
                               const struct jinja_value *value, struct error *err)
{
    if (!context->names)
        context->names = dict_new(&context->arena);
    const struct jinja_text *text = text_copy(&context->arena, name, true);
    if (context->names && text) {
        struct jinja_value key = value_text(text);
        if (dict_set(&context->arena, context->names, &key, value))
            return STATUS_OK;
    }
    return error_set(err, STATUS_MEMORY, "out of memory for a template's variables");
}

enum status jinja_context_set(struct jinja_context *context, const char *name, const json_t *value,
                              bool trusted, struct error *err)
{
    struct jinja_value copy;
    if (!value_from_json(&context->arena, value, trusted, JSON_NESTING, &copy))
        return error_set(err, STATUS_MEMORY,
                         "template variable '%s' is nested too deeply or out of memory", name);
    return context_put(context, str_from(name), &copy, err);
}

enum status jinja_context_set_str(struct jinja_context *context, const char *name, struct str value,
                                  bool trusted, struct error *err)
{
    if (!utf8_valid(value))
        return error_set(err, STATUS_USAGE, "template variable '%s' is not valid UTF-8", name);
    const struct jinja_text *text = text_copy(&context->arena, value, trusted);
    if (!text)
        return error_set(err, STATUS_MEMORY, "out of memory for a template's variables");
    struct jinja_value copy = value_text(text);
    return context_put(context, str_from(name), &copy, err);
}

enum status jinja_context_merge(struct jinja_context *context, const json_t *object,
                                struct error *err)
{
    if (!json_is_object(object))
        return error_set(err, STATUS_USAGE, "template variables are not a JSON object");
    json_t *json = (json_t *)object;
    for (void *at = json_object_iter(json); at; at = json_object_iter_next(json, at)) {
        enum status status = jinja_context_set(context, json_object_iter_key(at),
                                               json_object_iter_value(at), false, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* ---- render --------------------------------------------------------------------------------- */

void jinja_output_release(struct jinja_output *output)
{
    buf_release(&output->text);
    free(output->spans);
    *output = (struct jinja_output){0};
}

/* The variables that the template mentions, by symbol. */
static bool load_names(struct jinja_run *run, const struct jinja_context *context)
{
    const struct jinja_template *t = run->tmpl;
    run->root = run_alloc(run, t->n_symbols, sizeof *run->root);
    run->context = run_alloc(run, t->n_symbols, sizeof *run->context);
    if (!run->root || !run->context)
        return false;
    for (size_t i = 0; i < t->n_symbols; i++) {
        struct str name = text_str(t->symbol_names[i]);
        const struct jinja_value *value =
            context->names ? dict_get_str(context->names, name) : NULL;
        const struct jinja_builtin *global = value ? NULL : find_global(name);
        if (value)
            run->context[i] = *value;
        else if (global)
            run->context[i] = (struct jinja_value){.kind = JINJA_FUNCTION, .function = global};
    }
    return true;
}

static bool add_span(struct jinja_output *out, size_t begin, size_t end, bool trusted)
{
    if (begin < end)
        out->spans[out->n_spans++] = (struct text_span){begin, end, trusted};
    return true;
}

static enum status copy_output(struct jinja_output *out, const struct jinja_text *text,
                               struct error *err)
{
    size_t n_ranges = text->trust == TRUST_SOME ? text->n_ranges : 0, at = 0;
    buf_append(&out->text, text->data, text->len);
    out->spans = calloc(2 * n_ranges + 1, sizeof *out->spans);
    if (out->text.failed || !out->spans)
        return error_set(err, STATUS_MEMORY, "out of memory for a rendered prompt");
    for (size_t i = 0; i < n_ranges; i++) {
        size_t end = text->ranges[i].end < text->len ? text->ranges[i].end : text->len;
        add_span(out, at, text->ranges[i].begin, false);
        add_span(out, text->ranges[i].begin, end, true);
        at = end;
    }
    add_span(out, at, text->len, text->trust == TRUST_ALL);
    return STATUS_OK;
}

enum status jinja_render(const struct jinja_template *tmpl, const struct jinja_context *context,
                         const struct tm *now, const struct jinja_limits *limits,
                         struct jinja_output *out, struct error *err)
{
    static const struct jinja_limits none;
    const struct jinja_limits *l = limits ? limits : &none;
    struct jinja_run run = {
        .tmpl = tmpl,
        .fuel = l->fuel ? l->fuel : FUEL_DEFAULT,
        .max_depth = l->depth ? l->depth : DEPTH_DEFAULT,
        .max_text = l->output_bytes ? l->output_bytes : OUTPUT_DEFAULT,
        .now = now,
        .err = err,
    };
    struct text_builder builder;
    enum flow flow = FLOW_NEXT;
    arena_init(&run.arena, l->memory_bytes ? l->memory_bytes : MEMORY_DEFAULT);
    builder_init(&builder, &run);
    run.out = &builder;
    if (load_names(&run, context) && exec_body(&run, &tmpl->body, &flow)) {
        const struct jinja_text *text = builder_finish(&builder);
        if (text)
            run.status = copy_output(out, text, err);
    }
    arena_release(&run.arena);
    if (run.status != STATUS_OK)
        jinja_output_release(out);
    return run.status;
}
