/*
 * The OpenAI dialect, writing: whole answers, and the chunks of a stream.
 *
 *   data: {"id", "object", "created", "model", "choices": [{"index", "delta", "finish_reason"}]}
 *
 * A chunk per event and choice; the first one of a choice carries the role, the last one its
 * finish_reason, then the usage where it was asked for, then [DONE]. An error ends a stream without
 * [DONE]. Log-probabilities leave with the text that they complete, or at the latest at the end.
 */
#include "api/openai.h"

#include <stdio.h>
#include <stdlib.h>

static const char *finish_name(sluice_finish finish)
{
    switch (finish) {
    case SLUICE_FINISH_NONE:
        return NULL;
    case SLUICE_FINISH_LENGTH:
        return "length";
    case SLUICE_FINISH_TOOL_CALLS:
        return "tool_calls";
    default:
        return "stop";
    }
}

static void write_finish(struct buf *out, sluice_finish finish)
{
    const char *name = finish_name(finish);
    buf_append_cstr(out, "\"finish_reason\":");
    if (name)
        buf_printf(out, "\"%s\"", name);
    else
        buf_append_cstr(out, "null");
}

static void write_head(const struct api_answer *answer, const char *object, struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", answer->id,
               object, (long long)answer->created);
    json_write_string(out, str_from(answer->model));
    buf_append_cstr(out, ",\"system_fingerprint\":null");
}

static void write_usage(const struct api_answer *answer, struct buf *out)
{
    buf_printf(out,
               "\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
               answer->prompt_tokens, answer->output_tokens,
               answer->prompt_tokens + answer->output_tokens, answer->cached_tokens);
}

/* ---- log-probabilities ------------------------------------------------------------------------ */

static struct str token_text(const struct api_answer *answer, int32_t token, char *text,
                             size_t size)
{
    size_t length = 0;
    if (sluice_detokenize(answer->engine, &token, 1, text, size, &length, NULL) != SLUICE_OK)
        length = 0;
    return (struct str){text, length < size ? length : size};
}

static void write_token(const struct api_answer *answer, int32_t token, float logprob,
                        struct buf *out)
{
    char text[512];
    struct str piece = token_text(answer, token, text, sizeof text);
    buf_append_cstr(out, "{\"token\":");
    json_write_string(out, piece);
    buf_append_cstr(out, ",\"logprob\":");
    json_write_number(out, logprob);
    buf_append_cstr(out, ",\"bytes\":[");
    for (size_t i = 0; i < piece.len; i++)
        buf_printf(out, i ? ",%u" : "%u", (unsigned)(uint8_t)piece.data[i]);
    buf_append_cstr(out, "]");
}

/* The chat form of tokens [from, to). */
static void write_chat_logprobs(const struct api_answer *answer, const struct api_choice *choice,
                                size_t from, size_t to, struct buf *out)
{
    buf_append_cstr(out, "\"logprobs\":{\"content\":[");
    for (size_t i = from; i < to; i++) {
        const struct api_token *token = &choice->tokens[i];
        if (i > from)
            buf_append_char(out, ',');
        write_token(answer, token->token, token->logprob, out);
        buf_append_cstr(out, ",\"top_logprobs\":[");
        for (uint32_t j = 0; j < token->n_top; j++) {
            if (j)
                buf_append_char(out, ',');
            write_token(answer, token->top[j].token, token->top[j].logprob, out);
            buf_append_char(out, '}');
        }
        buf_append_cstr(out, "]}");
    }
    buf_append_cstr(out, "],\"refusal\":null}");
}

/* The old form: parallel lists. */
static void write_old_logprobs(const struct api_answer *answer, struct api_choice *choice,
                               size_t from, size_t to, struct buf *out)
{
    char text[512];
    buf_append_cstr(out, "\"logprobs\":{\"tokens\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from)
            buf_append_char(out, ',');
        json_write_string(out, token_text(answer, choice->tokens[i].token, text, sizeof text));
    }
    buf_append_cstr(out, "],\"token_logprobs\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from)
            buf_append_char(out, ',');
        json_write_number(out, choice->tokens[i].logprob);
    }
    buf_append_cstr(out, "],\"top_logprobs\":[");
    for (size_t i = from; i < to; i++) {
        const struct api_token *token = &choice->tokens[i];
        buf_append_cstr(out, i > from ? ",{" : "{");
        for (uint32_t j = 0; j < token->n_top; j++) {
            if (j)
                buf_append_char(out, ',');
            json_write_string(out, token_text(answer, token->top[j].token, text, sizeof text));
            buf_append_char(out, ':');
            json_write_number(out, token->top[j].logprob);
        }
        buf_append_char(out, '}');
    }
    buf_append_cstr(out, "],\"text_offset\":[");
    for (size_t i = from; i < to; i++) {
        buf_printf(out, i > from ? ",%u" : "%u", choice->text_bytes);
        choice->text_bytes +=
            (uint32_t)token_text(answer, choice->tokens[i].token, text, sizeof text).len;
    }
    buf_append_cstr(out, "]}");
}

static void write_logprobs(struct api_answer *answer, struct api_choice *choice, size_t from,
                           size_t to, struct buf *out)
{
    if (!answer->logprobs || from == to)
        buf_append_cstr(out, "\"logprobs\":null");
    else if (answer->chat)
        write_chat_logprobs(answer, choice, from, to, out);
    else
        write_old_logprobs(answer, choice, from, to, out);
}

/* Those not sent yet. */
static void write_new_logprobs(struct api_answer *answer, struct api_choice *choice,
                               struct buf *out)
{
    write_logprobs(answer, choice, choice->tokens_sent, choice->n_tokens, out);
    choice->tokens_sent = choice->n_tokens;
}

/* ---- streams ---------------------------------------------------------------------------------- */

/* The same for every chunk of an answer, so it is made once. */
static void write_chunk_head(struct api_answer *answer, struct buf *out)
{
    struct buf *head = &answer->chunk_head;
    if (head->len == 0) {
        buf_append_cstr(head, "data: ");
        write_head(answer, answer->chat ? "chat.completion.chunk" : "text_completion", head);
        buf_append_cstr(head, ",\"choices\":[");
        answer->failed = answer->failed || head->failed;
    }
    buf_append_str(out, buf_str(head));
}

static void begin_chunk(struct api_answer *answer, uint32_t index, struct buf *out)
{
    write_chunk_head(answer, out);
    if (index == 0)
        buf_append_cstr(out, "{\"index\":0,");
    else
        buf_printf(out, "{\"index\":%u,", index);
}

static void end_chunk(const struct api_answer *answer, struct buf *out)
{
    buf_append_cstr(out, answer->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

static void write_tool_call(const sluice_tool_call *call, uint32_t index, bool with_index,
                            struct buf *out)
{
    buf_append_char(out, '{');
    if (with_index)
        buf_printf(out, "\"index\":%u,", index);
    buf_append_cstr(out, "\"id\":");
    json_write_string(out, str_from(call->id));
    buf_append_cstr(out, ",\"type\":\"function\",\"function\":{\"name\":");
    json_write_string(out, str_from(call->name));
    buf_append_cstr(out, ",\"arguments\":");
    json_write_string(out, str_from(call->arguments));
    buf_append_cstr(out, "}}");
}

static void text_chunk(struct api_answer *answer, uint32_t index, const char *key, struct str text,
                       struct buf *out)
{
    begin_chunk(answer, index, out);
    buf_append_cstr(out, answer->chat ? "\"delta\":{\"" : "\"");
    buf_append_cstr(out, key);
    buf_append_cstr(out, "\":");
    json_write_string(out, text);
    buf_append_cstr(out, answer->chat ? "}," : ",");
    write_new_logprobs(answer, &answer->choices[index], out);
    buf_append_char(out, ',');
    write_finish(out, SLUICE_FINISH_NONE);
    end_chunk(answer, out);
}

static void finish_chunk(struct api_answer *answer, uint32_t index, struct buf *out)
{
    struct api_choice *choice = &answer->choices[index];
    begin_chunk(answer, index, out);
    buf_append_cstr(out, answer->chat ? "\"delta\":{}," : "\"text\":\"\",");
    write_new_logprobs(answer, choice, out);
    buf_append_char(out, ',');
    write_finish(out, choice->finish);
    end_chunk(answer, out);
}

static void stream_begin(struct api_answer *answer, struct buf *out)
{
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        if (answer->chat) {
            begin_chunk(answer, i, out);
            buf_append_cstr(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                                 "\"logprobs\":null,\"finish_reason\":null");
            end_chunk(answer, out);
        } else if (answer->echoes[i]) {
            text_chunk(answer, i, "text", str_from(answer->echoes[i]), out);
        }
    }
}

static void stream_event(struct api_answer *answer, uint32_t index, const sluice_event *event,
                         struct buf *out)
{
    struct str text = {event->text, event->length};
    struct api_choice *choice = &answer->choices[index];
    switch (event->kind) {
    case SLUICE_EVENT_TEXT:
        text_chunk(answer, index, answer->chat ? "content" : "text", text, out);
        break;
    case SLUICE_EVENT_REASONING:
        text_chunk(answer, index, answer->chat ? "reasoning_content" : "text", text, out);
        break;
    case SLUICE_EVENT_TOOL_CALL:
        begin_chunk(answer, index, out);
        buf_append_cstr(out, "\"delta\":{\"tool_calls\":[");
        write_tool_call(&event->tool_call, choice->n_tool_calls - 1, true, out);
        buf_append_cstr(out, "]},");
        write_new_logprobs(answer, choice, out);
        buf_append_char(out, ',');
        write_finish(out, SLUICE_FINISH_NONE);
        end_chunk(answer, out);
        break;
    case SLUICE_EVENT_CHOICE:
    case SLUICE_EVENT_DONE:
        finish_chunk(answer, index, out);
        break;
    default:
        break;
    }
}

static void stream_end(struct api_answer *answer, struct buf *out)
{
    if (answer->include_usage) {
        write_chunk_head(answer, out);
        buf_append_cstr(out, "],");
        write_usage(answer, out);
        buf_append_cstr(out, "}\n\n");
    }
    buf_append_cstr(out, "data: [DONE]\n\n");
}

void openai_error_body(const struct api_error *error, struct buf *out)
{
    buf_append_cstr(out, "{\"error\":{\"message\":");
    json_write_string(out, str_from(error->message));
    buf_append_cstr(out, ",\"type\":");
    json_write_string(out, str_from(error->type));
    buf_append_cstr(out, ",\"param\":");
    if (error->param[0])
        json_write_string(out, str_from(error->param));
    else
        buf_append_cstr(out, "null");
    buf_append_cstr(out, ",\"code\":");
    if (error->code[0])
        json_write_string(out, str_from(error->code));
    else
        buf_append_cstr(out, "null");
    buf_append_cstr(out, "}}");
}

static void stream_error(struct api_answer *answer, const struct api_error *error, struct buf *out)
{
    (void)answer;
    buf_append_cstr(out, "data: ");
    openai_error_body(error, out);
    buf_append_cstr(out, "\n\n");
}

/* ---- whole answers ---------------------------------------------------------------------------- */

static void write_message(const struct api_choice *choice, struct buf *out)
{
    buf_append_cstr(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (choice->n_tool_calls && choice->text.len == 0)
        buf_append_cstr(out, "null");
    else
        json_write_string(out, buf_str(&choice->text));
    buf_append_cstr(out, ",\"refusal\":null");
    if (choice->reasoning.len) {
        buf_append_cstr(out, ",\"reasoning_content\":");
        json_write_string(out, buf_str(&choice->reasoning));
    }
    if (choice->n_tool_calls) {
        buf_append_cstr(out, ",\"tool_calls\":[");
        buf_append_str(out, buf_str(&choice->tool_calls));
        buf_append_char(out, ']');
    }
    buf_append_char(out, '}');
}

static void body(struct api_answer *answer, struct buf *out)
{
    write_head(answer, answer->chat ? "chat.completion" : "text_completion", out);
    buf_append_cstr(out, ",\"choices\":[");
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        struct api_choice *choice = &answer->choices[i];
        buf_printf(out, i ? ",{\"index\":%u," : "{\"index\":%u,", i);
        if (answer->chat) {
            write_message(choice, out);
        } else {
            struct buf text = {0};
            buf_append_cstr(&text, answer->echoes[i] ? answer->echoes[i] : "");
            buf_append_str(&text, buf_str(&choice->reasoning));
            buf_append_str(&text, buf_str(&choice->text));
            buf_append_cstr(out, "\"text\":");
            json_write_string(out, buf_str(&text));
            buf_release(&text);
        }
        buf_append_char(out, ',');
        write_logprobs(answer, choice, 0, choice->n_tokens, out);
        buf_append_char(out, ',');
        write_finish(out, choice->finish);
        buf_append_char(out, '}');
    }
    buf_append_cstr(out, "],");
    write_usage(answer, out);
    buf_append_char(out, '}');
}

static void take_tool_call(struct api_answer *answer, uint32_t index, const sluice_tool_call *call)
{
    struct api_choice *choice = &answer->choices[index];
    if (choice->tool_calls.len)
        buf_append_char(&choice->tool_calls, ',');
    write_tool_call(call, choice->n_tool_calls - 1, false, &choice->tool_calls);
}

static bool parse_chat(struct api_call *call, struct str text, struct api_error *error)
{
    return openai_parse(call, true, text, error);
}

static bool parse_completions(struct api_call *call, struct str text, struct api_error *error)
{
    return openai_parse(call, false, text, error);
}

#define KEEP_ALIVE ": waiting\n\n"

const struct api_dialect api_openai_chat = {
    .stream_type = "text/event-stream",
    .keep_alive = KEEP_ALIVE,
    .parse = parse_chat,
    .error_body = openai_error_body,
    .take_tool_call = take_tool_call,
    .stream_begin = stream_begin,
    .stream_event = stream_event,
    .stream_end = stream_end,
    .stream_error = stream_error,
    .body = body,
};

const struct api_dialect api_openai_completions = {
    .stream_type = "text/event-stream",
    .keep_alive = KEEP_ALIVE,
    .parse = parse_completions,
    .error_body = openai_error_body,
    .take_tool_call = take_tool_call,
    .stream_begin = stream_begin,
    .stream_event = stream_event,
    .stream_end = stream_end,
    .stream_error = stream_error,
    .body = body,
};
