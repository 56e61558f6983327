/*
 * Messages -> tokens, through the chat template. Runs on the submitting thread.
 *
 * The template's own text is trusted, what users, tools and the model said is not: the tokenizer
 * makes control tokens from trusted text only (text/span.h). A template that does not compile leaves
 * a model that still completes raw text; only the caller's own override is an error at once.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "engine/internal.h"
#include "text/chat/chat.h"
#include "text/tokenizer/utf8.h"

enum status prompt_open(sluice_engine *engine, const char *override, struct error *err)
{
    const struct tokenizer *tokenizer = engine->source.tokenizer;
    struct chat_template_source source = {.text = override ? str_from(override)
                                                           : engine->source.chat_template};
    if (tokenizer)
        chat_template_source_complete(&source, tokenizer);
    if (source.text.len == 0) {
        snprintf(engine->chat_problem, sizeof engine->chat_problem, "it has none");
        return STATUS_OK;
    }
    if (!tokenizer) {
        snprintf(engine->chat_problem, sizeof engine->chat_problem,
                 "it cannot be used without a tokenizer (%s)",
                 engine->source.tokenizer_problem ? engine->source.tokenizer_problem : "none");
        return STATUS_OK;
    }
    struct error problem = {0};
    enum status status = chat_template_create(&source, &engine->chat, &problem);
    if (status == STATUS_OK) {
        engine->style = output_style_detect(chat_template_text(engine->chat));
        return STATUS_OK;
    }
    if (override)
        return error_set(err, status, "chat_template: %s", problem.message);
    log_warn("%s: the model's chat template cannot be used: %s", engine->source.name,
             problem.message);
    snprintf(engine->chat_problem, sizeof engine->chat_problem, "%.*s",
             (int)sizeof engine->chat_problem - 1, problem.message);
    return STATUS_OK;
}

void prompt_close(sluice_engine *engine)
{
    chat_template_free(engine->chat);
}

static enum status convert_message(sluice_request *request, const sluice_message *from,
                                   size_t index, struct chat_message *to, struct error *err)
{
    if (!from->role || !*from->role)
        return error_set(err, STATUS_USAGE, "messages[%zu].role is missing", index);
    *to = (struct chat_message){
        .role = str_from(from->role),
        .content = str_from(from->content),
        .reasoning = str_from(from->reasoning),
        .n_tool_calls = from->n_tool_calls,
        .tool_call_id = str_from(from->tool_call_id),
        .name = str_from(from->name),
    };
    if (!utf8_valid(to->role) || !utf8_valid(to->content) || !utf8_valid(to->reasoning))
        return error_set(err, STATUS_USAGE, "messages[%zu] is not UTF-8 text", index);
    if (from->n_tool_calls == 0)
        return STATUS_OK;
    struct chat_tool_call *calls = arena_alloc(&request->arena, from->n_tool_calls, sizeof *calls);
    if (!calls)
        return error_set(err, STATUS_MEMORY, "out of memory for messages");
    for (size_t i = 0; i < from->n_tool_calls; i++) {
        calls[i] = (struct chat_tool_call){
            .id = str_from(from->tool_calls[i].id),
            .name = str_from(from->tool_calls[i].name),
            .arguments = str_from(from->tool_calls[i].arguments),
        };
        if (!calls[i].name.data)
            return error_set(err, STATUS_USAGE, "messages[%zu].tool_calls[%zu].name is missing",
                             index, i);
    }
    to->tool_calls = calls;
    return STATUS_OK;
}

static enum status render(sluice_request *request, const sluice_request_options *options,
                          struct jinja_output *out, struct error *err)
{
    struct chat_message *messages =
        arena_alloc(&request->arena, options->n_messages, sizeof *messages);
    if (!messages)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu messages", options->n_messages);
    for (size_t i = 0; i < options->n_messages; i++) {
        enum status status = convert_message(request, &options->messages[i], i, &messages[i], err);
        if (status != STATUS_OK)
            return status;
    }
    time_t seconds = time(NULL);
    struct tm now;
    struct chat_request chat = {
        .messages = messages,
        .n_messages = options->n_messages,
        .tools = str_from(options->tools),
        .add_generation_prompt = true,
        .thinking = options->thinking == SLUICE_THINKING_ON    ? CHAT_THINKING_ON
                    : options->thinking == SLUICE_THINKING_OFF ? CHAT_THINKING_OFF
                                                               : CHAT_THINKING_UNSET,
        .arguments = str_from(options->template_arguments),
        .now = localtime_r(&seconds, &now),
    };
    return chat_render(request->engine->chat, &chat, out, err);
}

static enum status need_template(const sluice_engine *engine, struct error *err)
{
    if (engine->chat)
        return STATUS_OK;
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: no usable chat template (%s): send a raw prompt, or open the model "
                     "with a template of your own",
                     engine->source.name, engine->chat_problem);
}

sluice_status sluice_apply_template(sluice_engine *engine, const sluice_request_options *options,
                                    char *text, size_t capacity, size_t *length,
                                    sluice_error *error)
{
    struct error err = {0};
    struct jinja_output out = {0};
    *length = 0;
    enum status status = need_template(engine, &err);
    if (status == STATUS_OK && (!options->messages || options->n_messages == 0))
        status = error_set(&err, STATUS_USAGE, "messages: the list is empty");
    sluice_request *scratch = status == STATUS_OK ? request_new(engine, &err) : NULL;
    if (status == STATUS_OK)
        status = scratch ? render(scratch, options, &out, &err) : err.status;
    if (status == STATUS_OK)
        *length = copy_text(buf_str(&out.text), text, capacity);
    jinja_output_release(&out);
    if (scratch)
        request_release(scratch);
    return public_status(status, &err, error);
}

enum status prompt_from_messages(sluice_request *request, const sluice_request_options *options,
                                 struct error *err)
{
    const sluice_engine *engine = request->engine;
    enum status status = need_template(engine, err);
    if (status != STATUS_OK)
        return status;
    struct jinja_output text = {0};
    status = render(request, options, &text, err);
    if (status != STATUS_OK)
        return status;
    struct tokenizer_options how = {.specials = TOKENIZER_SPECIALS_TRUSTED};
    status = tokenizer_encode(engine->source.tokenizer, buf_str(&text.text), text.spans,
                              text.n_spans, &how, &request->prompt, err);
    request->opens_reasoning = output_style_opens_reasoning(engine->style, buf_str(&text.text));
    jinja_output_release(&text);
    return status;
}
