/*
 * What a step brought: drawn tokens, scored rows, embeddings. Per slice, after the step's tickets
 * completed; an answer that ended while its next row was already computing is skipped here.
 */
#include <math.h>
#include <string.h>

#include "engine/internal.h"

static enum status emit_token(sluice_request *request, const struct sample_result *result,
                              struct error *err)
{
    sluice_logprob top[BACKEND_TOP_LOGPROBS_MAX];
    uint32_t n_top =
        result->n_top < BACKEND_TOP_LOGPROBS_MAX ? result->n_top : BACKEND_TOP_LOGPROBS_MAX;
    bool wanted = request->sampling.logprobs;
    for (uint32_t i = 0; wanted && i < n_top; i++)
        top[i] = (sluice_logprob){result->top[i].token, result->top[i].logprob};
    if (event_queue_token(&request->events, result->token, wanted ? result->logprob : 0.0f, top,
                          wanted ? n_top : 0))
        return STATUS_OK;
    return no_event(err);
}

/* One drawn token: its events, and whether the answer is over. */
static enum status take_token(sluice_engine *engine, struct choice *choice,
                              const struct sample_result *result, sluice_finish *reason,
                              struct error *err)
{
    sluice_request *request = choice->request;
    if (result->failed)
        return sampling_failure_status(result->failed, err);
    if (result->token < 0 || (uint32_t)result->token >= engine->source.program->n_vocab)
        return error_set(err, STATUS_INTERNAL, "the sampler drew token %d", result->token);
    choice->tokens[choice->chain.n_tokens++] = result->token;
    choice->sampling_row.mirostat_mu = result->mirostat_mu;
    uint32_t n_output = choice->chain.n_tokens - choice->chain.n_prompt;
    atomic_fetch_add_explicit(&request->n_output, 1, memory_order_relaxed);
    engine->counts.decoded_tokens++;
    if (request->token_events) {
        enum status status = emit_token(request, result, err);
        if (status != STATUS_OK)
            return status;
    }
    const struct tokenizer *tokenizer = engine->source.tokenizer;
    uint32_t shown = request->events.n_shown;
    bool end = !request->ignore_end && tokenizer && tokenizer_is_end(tokenizer, result->token);
    bool stopped = false;
    if (!end) {
        enum status status =
            output_token(&choice->output, result->token, &request->events, &stopped, err);
        if (status != STATUS_OK)
            return status;
    }
    if (end || stopped)
        *reason = SLUICE_FINISH_STOP;
    else if (n_output == request->n_generate)
        *reason = SLUICE_FINISH_LENGTH;
    enum status status = STATUS_OK;
    if (*reason != SLUICE_FINISH_NONE)
        status = output_end(&choice->output, stopped, &request->events, err);
    if (status == STATUS_OK)
        status = output_flush(&choice->output, &request->events, err);
    /* The end itself is the event of what ended the answer. */
    bool silent = request->report_silent && !end && !stopped && request->events.n_shown == shown;
    if (status == STATUS_OK && silent &&
        !event_queue_text(&request->events, SLUICE_EVENT_TEXT, STR_LIT("")))
        return no_event(err);
    return status;
}

static enum status take_rows(sluice_engine *engine, sluice_request *request,
                             const struct sched_slice *slice, uint32_t first_output,
                             uint64_t ticket, struct error *err)
{
    const struct program *program = engine->source.program;
    bool hidden = request->mode == SLUICE_SCORE_HIDDEN;
    uint32_t width = hidden ? program->buffers[program->hidden].width : program->n_vocab;
    float *rows =
        event_queue_begin_rows(&request->events, slice->first_position, slice->n_rows, width);
    if (!rows)
        return error_set(err, STATUS_MEMORY, "out of memory for %u rows of %u values",
                         slice->n_rows, width);
    enum status status = engine->api->read_rows(engine->backend, engine->loaded,
                                                hidden ? RESULT_HIDDEN : RESULT_LOGITS, ticket,
                                                first_output, slice->n_rows, rows, err);
    event_queue_end_rows(&request->events, status == STATUS_OK);
    return status;
}

static enum status emit_embedding(sluice_request *request, uint32_t width, struct error *err)
{
    double scale = 1.0, sum = 0.0;
    if (request->pooling == SLUICE_POOLING_MEAN)
        scale = 1.0 / (double)request->prompt.count;
    for (uint32_t i = 0; i < width; i++)
        sum += (double)request->pooled[i] * (double)request->pooled[i];
    if (!request->raw_embedding && sum > 0.0)
        scale = 1.0 / sqrt(sum);
    float *out = event_queue_begin_rows(&request->events, 0, 1, width);
    for (uint32_t i = 0; out && i < width; i++)
        out[i] = (float)((double)request->pooled[i] * scale);
    if (!out)
        return error_set(err, STATUS_MEMORY, "out of memory for an embedding");
    event_queue_end_rows(&request->events, true);
    return STATUS_OK;
}

/* Adds the slice's part to the pooled row, in the order of positions however the prompt was cut. */
static enum status take_pooled(sluice_engine *engine, sluice_request *request,
                               const struct sched_slice *slice, uint32_t first_output,
                               uint64_t ticket, struct error *err)
{
    const struct program *program = engine->source.program;
    uint32_t width = program->buffers[program->hidden].width;
    uint32_t n = slice->all_outputs ? slice->n_rows : slice->last;
    for (uint32_t i = 0; i < n; i++) {
        if (request->pooling == SLUICE_POOLING_FIRST && slice->first_position + i > 0)
            break;
        enum status status = engine->api->read_rows(engine->backend, engine->loaded, RESULT_HIDDEN,
                                                    ticket, first_output + i, 1, engine->row, err);
        if (status != STATUS_OK)
            return status;
        for (uint32_t j = 0; j < width; j++)
            request->pooled[j] += engine->row[j];
    }
    return slice->last ? emit_embedding(request, width, err) : STATUS_OK;
}

static void pause_if_full(sluice_engine *engine, sluice_request *request)
{
    if (request->paused || !event_queue_full(&request->events))
        return;
    request->paused = true;
    for (uint32_t i = 0; i < request->n_choices; i++)
        sched_pause(engine->sched, choice_id(&request->choices[i]), true);
}

void result_deliver(sluice_engine *engine, struct flight *flight, uint32_t i, uint64_t now)
{
    const struct sched_slice *slice = &flight->slices[i];
    if (slice->id == 0)
        return;
    struct choice *choice = choice_of(slice->id);
    sluice_request *request = choice->request;
    struct error err = {0};
    enum status status = STATUS_OK;
    sluice_finish reason = SLUICE_FINISH_NONE;
    request->events.choice = choice->index;
    if (slice->n_rows && !slice->generated && choice->index == 0)
        atomic_store_explicit(&request->computed, slice->first_position + slice->n_rows,
                              memory_order_relaxed);
    if (request->mode == SLUICE_EMBED) {
        status = take_pooled(engine, request, slice, flight->output_rows[i], flight->ticket, &err);
        reason = slice->last ? SLUICE_FINISH_STOP : SLUICE_FINISH_NONE;
    } else if (request->mode != SLUICE_GENERATE) {
        status = take_rows(engine, request, slice, flight->output_rows[i], flight->ticket, &err);
        reason = slice->last ? SLUICE_FINISH_STOP : SLUICE_FINISH_NONE;
    } else if (flight->sample_rows[i] != NO_SAMPLE) {
        if (!request->first_token_ns)
            request->first_token_ns = now;
        status =
            take_token(engine, choice, &engine->results[flight->sample_rows[i]], &reason, &err);
    } else {
        return;
    }
    wakeups_touch(request);
    if (status != STATUS_OK)
        loop_fail(engine, request, &err);
    else if (reason != SLUICE_FINISH_NONE)
        loop_end_choice(engine, choice, reason);
    else
        pause_if_full(engine, request);
}
