/*
 * A Jinja2 interpreter for chat templates, with trust spans.
 *
 * Scope: the expression and statement language of Jinja2 3.1 in its immutable sandbox, with
 * trim_blocks, lstrip_blocks, loop controls and the `generation` tag, as chat templates are rendered
 * by their reference (Hugging Face transformers). A template reaches nothing but its context: no
 * files, other templates, environment, clock or object internals. Two differences from Python:
 * integers are 64 bits (overflow is an error), and iterators from filters are computed at once.
 *
 * Trust. Every piece of text knows whether the template's author wrote it. Literals and template
 * text are trusted; context values are what the caller declares. Spans survive concatenation,
 * slicing, joining, stripping, replacing, splitting, case mapping, formatting and tojson; the result
 * of any other filter, test or method is untrusted if any of its inputs is.
 *
 * Limits. Compilation bounds source size and nesting; rendering bounds steps (fuel), nesting,
 * output and memory. All are errors (STATUS_LIMIT), never a crash or an endless loop.
 *
 * Thread rule: a compiled template is immutable and may be rendered by many threads at once; a
 * context is read-only while a render uses it. Errors carry the template's line.
 */
#ifndef SLUICE_TEXT_JINJA_JINJA_H
#define SLUICE_TEXT_JINJA_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/str.h"
#include "text/span.h"

/* A zero field means the default. */
struct jinja_limits {
    uint64_t fuel;       /* steps of a rendering; default 3,000,000 */
    uint32_t depth;      /* nesting of evaluation; default 1,500 */
    size_t output_bytes; /* of the result, and of any single string; default 16 MiB */
    size_t memory_bytes; /* of a compilation, or of everything a rendering computes; 64 MiB */
};

struct jinja_template;

/* Compiles UTF-8 source (at most 4 MiB); the text is copied. limits may be NULL.
 * Errors: STATUS_MODEL with the line (syntax, unknown tag), STATUS_LIMIT, STATUS_MEMORY. */
enum status jinja_compile(struct str source, const struct jinja_limits *limits,
                          struct jinja_template **out, struct error *err);
void jinja_template_free(struct jinja_template *tmpl); /* NULL is allowed */

/* The variables that a template sees. Values are copied into the context's arena. */
struct jinja_context {
    struct arena arena;
    struct jinja_dict *names; /* in the arena */
};

void jinja_context_init(struct jinja_context *context);
void jinja_context_release(struct jinja_context *context);
/* Sets one variable from JSON, replacing an earlier one; key order is kept. trusted: every string
 * in it counts as the author's (bos/eos tokens); anything that came with a request is not. */
enum status jinja_context_set(struct jinja_context *context, const char *name, const json_t *value,
                              bool trusted, struct error *err);
/* Sets one string variable. */
enum status jinja_context_set_str(struct jinja_context *context, const char *name, struct str value,
                                  bool trusted, struct error *err);
/* Sets a variable per member of a JSON object, untrusted. */
enum status jinja_context_merge(struct jinja_context *context, const json_t *object,
                                struct error *err);

struct jinja_output {
    struct buf text;
    struct text_span *spans; /* [n_spans] owned; cover all of text, alternating trust */
    size_t n_spans;
};

void jinja_output_release(struct jinja_output *output);

/* Renders into a zeroed *out (released and empty again on error). now: what strftime_now() tells;
 * NULL makes that function an error. limits may be NULL.
 * Errors: STATUS_MODEL (the template failed on this context, raise_exception() included),
 * STATUS_LIMIT, STATUS_MEMORY. */
enum status jinja_render(const struct jinja_template *tmpl, const struct jinja_context *context,
                         const struct tm *now, const struct jinja_limits *limits,
                         struct jinja_output *out, struct error *err);

#endif
