/* The part of an answer that all dialects share: collecting events choice by choice. */
#include <stdlib.h>
#include <time.h>

#include "api/api.h"

#define ANSWER_BYTES_MAX ((size_t)256 << 20) /* log-probabilities of very long answers */

void api_call_release(struct api_call *call)
{
    arena_release(&call->arena);
}

bool api_answer_init(struct api_answer *answer, const struct api_call *call,
                     const struct api_dialect *dialect, const char *model, sluice_engine *engine)
{
    size_t n_inputs = call->n_prompts ? call->n_prompts : 1;
    *answer = (struct api_answer){
        .created = (int64_t)time(NULL),
        .chat = call->chat,
        .stream = call->stream,
        .include_usage = call->include_usage,
        .logprobs = call->options.logprobs,
        .base64 = call->base64,
        .engine = engine,
        .dialect = dialect,
        .n_choices = (uint32_t)n_inputs * call->n,
    };
    arena_init(&answer->arena, ANSWER_BYTES_MAX);
    size_t length = strnlen(model, sizeof answer->model - 1);
    memcpy(answer->model, model, length);
    api_make_id(answer->id, sizeof answer->id, call->chat ? "chatcmpl" : "cmpl");
    answer->choices = calloc(answer->n_choices, sizeof *answer->choices);
    answer->echoes = arena_alloc(&answer->arena, answer->n_choices, sizeof *answer->echoes);
    if (!answer->choices || !answer->echoes)
        return false;
    for (uint32_t i = 0; call->echo && i < answer->n_choices; i++) {
        answer->echoes[i] = arena_copy_cstr(&answer->arena, call->prompts[i / call->n].text);
        if (!answer->echoes[i])
            return false;
    }
    return true;
}

void api_answer_release(struct api_answer *answer)
{
    for (uint32_t i = 0; answer->choices && i < answer->n_choices; i++) {
        buf_release(&answer->choices[i].text);
        buf_release(&answer->choices[i].reasoning);
        buf_release(&answer->choices[i].tool_calls);
        buf_release(&answer->choices[i].row);
        free(answer->choices[i].tokens);
    }
    free(answer->choices);
    answer->choices = NULL;
    buf_release(&answer->chunk_head);
    arena_release(&answer->arena);
}

static bool keep_token(struct api_answer *answer, struct api_choice *choice,
                       const sluice_event *event)
{
    if (choice->n_tokens == choice->token_capacity) {
        size_t capacity = choice->token_capacity ? 2 * choice->token_capacity : 64;
        struct api_token *more = realloc(choice->tokens, capacity * sizeof *more);
        if (!more)
            return false;
        choice->tokens = more;
        choice->token_capacity = capacity;
    }
    sluice_logprob *top = NULL;
    if (event->n_top) {
        top = arena_alloc(&answer->arena, event->n_top, sizeof *top);
        if (!top)
            return false;
        memcpy(top, event->top, event->n_top * sizeof *top);
    }
    choice->tokens[choice->n_tokens++] =
        (struct api_token){event->token, event->logprob, (uint32_t)event->n_top, top};
    return true;
}

/* One for each prompt, however many answers it has. */
static void take_usage(struct api_answer *answer, const sluice_usage *usage)
{
    answer->output_tokens += usage->output_tokens;
    answer->prompt_tokens += usage->prompt_tokens;
    answer->cached_tokens += usage->cached_tokens;
}

void api_answer_take(struct api_answer *answer, uint32_t index, const sluice_event *event)
{
    struct api_choice *choice = &answer->choices[index];
    switch (event->kind) {
    case SLUICE_EVENT_TEXT:
        if (!answer->stream)
            buf_append(&choice->text, event->text, event->length);
        answer->failed = answer->failed || choice->text.failed;
        break;
    case SLUICE_EVENT_REASONING:
        if (!answer->stream)
            buf_append(&choice->reasoning, event->text, event->length);
        answer->failed = answer->failed || choice->reasoning.failed;
        break;
    case SLUICE_EVENT_TOOL_CALL:
        choice->n_tool_calls++;
        if (!answer->stream)
            answer->dialect->take_tool_call(answer, index, &event->tool_call);
        answer->failed = answer->failed || choice->tool_calls.failed;
        break;
    case SLUICE_EVENT_TOKEN:
        if (answer->logprobs && !keep_token(answer, choice, event))
            answer->failed = true;
        break;
    case SLUICE_EVENT_ROWS:
        buf_append(&choice->row, event->rows,
                   (size_t)event->n_rows * event->row_width * sizeof *event->rows);
        answer->failed = answer->failed || choice->row.failed;
        break;
    case SLUICE_EVENT_CHOICE:
        choice->finish = event->finish;
        break;
    case SLUICE_EVENT_DONE:
        if (choice->finish == SLUICE_FINISH_NONE)
            choice->finish = event->finish;
        take_usage(answer, &event->usage);
        break;
    default:
        break;
    }
}
