/*
 * A conversation as plain structs, and its rendering through a model's chat template.
 *
 * The variables a template sees are those that Hugging Face transformers passes: messages, tools,
 * documents, add_generation_prompt, the special tokens, strftime_now(), raise_exception(), and
 * whatever the request adds. Only the template's own text and the special tokens come out trusted.
 *
 * Thread rule: a chat_template is immutable; many threads may render with it. All struct str here
 * are borrowed for the call; `data == NULL` means absent. JSON arrives as text.
 */
#ifndef SLUICE_TEXT_CHAT_CHAT_H
#define SLUICE_TEXT_CHAT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/status.h"
#include "base/str.h"
#include "text/jinja/jinja.h"
#include "text/span.h"

struct chat_tool_call {
    struct str id; /* may be absent */
    struct str name;
    struct str arguments; /* JSON text; a template gets an object if it is one, else the string */
};

/* One part of a content list: {"type": type, "text": text}. */
struct chat_part {
    struct str type; /* absent: "text" */
    struct str text; /* absent for parts that are not text */
};

struct chat_message {
    struct str role;               /* "system", "developer", "user", "assistant", "tool", ... */
    struct str content;            /* absent: null, unless there are parts */
    const struct chat_part *parts; /* [n_parts]; content as a list instead of a string */
    size_t n_parts;
    struct str reasoning;
    const struct chat_tool_call *tool_calls; /* [n_tool_calls] */
    size_t n_tool_calls;
    struct str tool_call_id;
    struct str name;
};

enum chat_thinking { CHAT_THINKING_UNSET, CHAT_THINKING_ON, CHAT_THINKING_OFF };

struct chat_request {
    const struct chat_message *messages; /* [n_messages] */
    size_t n_messages;
    struct str tools; /* JSON list, OpenAI form {"type":"function","function":{...}}; or absent */
    bool add_generation_prompt;
    enum chat_thinking thinking; /* the variable enable_thinking */
    struct str arguments;        /* JSON object of further variables, or absent; it wins */
    const struct tm *now;        /* for strftime_now(); NULL: a template that asks fails */
};

struct chat_template;
struct tokenizer;

/* What a model's files say about its template. Special tokens may be absent. */
struct chat_template_source {
    struct str text;
    struct str bos_token, eos_token, unk_token, pad_token;
};

/* Takes the special tokens from the tokenizer, and a template that is built in where the source has
 * none but the tokens tell the format. */
void chat_template_source_complete(struct chat_template_source *source,
                                   const struct tokenizer *tokenizer);
/* Compiles; the texts are copied. Errors as jinja_compile(). */
enum status chat_template_create(const struct chat_template_source *source,
                                 struct chat_template **out, struct error *err);
void chat_template_free(struct chat_template *chat); /* NULL is allowed */
/* A template that is built in, by its name: "harmony", for gpt-oss files that come without one. data
 * NULL: there is none of that name. Static storage. */
struct str chat_template_builtin(struct str name);
/* The template's text, for output_style_detect(). Lives as long as the template. */
struct str chat_template_text(const struct chat_template *chat);

/* Renders into a zeroed *out: text and its trust spans, to be tokenized without adding a bos.
 * Errors: STATUS_USAGE for JSON that is none (naming tools or arguments), else as jinja_render(). */
enum status chat_render(const struct chat_template *chat, const struct chat_request *request,
                        struct jinja_output *out, struct error *err);

#endif
