/*
 * The owner thread.
 *
 *   mailbox -> scheduler's queue        new requests, cancellations, readers that caught up
 *   plan -> step -> backend -> results  one forward pass and one draw
 *   results -> events                   and who is finished leaves the scheduler
 *
 * With nothing to plan it sleeps on the mailbox. A step takes no memory: buffers are sized when the
 * engine opens, a request brings its own. One step is in flight; planning the next one while it
 * computes is a matter of a second pair of buffers here, and of learning results a step late.
 */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"

/* ---- requests that end ------------------------------------------------------------------------ */

static double seconds(uint64_t from, uint64_t to)
{
    return from && to > from ? (double)(to - from) * 1e-9 : 0.0;
}

/* Gives back what a request holds. Its last event follows, so that a reader who has seen that may
 * count on the place being free. */
static void retire(sluice_engine *engine, sluice_request *request)
{
    sched_remove(engine->sched, request_id(request));
    if (request->live_previous)
        request->live_previous->live_next = request->live_next;
    else
        engine->live = request->live_next;
    if (request->live_next)
        request->live_next->live_previous = request->live_previous;
    mailbox_ended(engine);
}

static void fail(sluice_engine *engine, sluice_request *request, const struct error *err)
{
    retire(engine, request);
    event_queue_error(&request->events, err);
    request_release(request);
}

static void finish(sluice_engine *engine, sluice_request *request, sluice_finish reason)
{
    uint64_t now = clock_now_ns();
    uint64_t first = request->first_token_ns ? request->first_token_ns : now;
    sluice_usage usage = {
        .prompt_tokens = (uint32_t)request->prompt.count,
        .output_tokens = request->n_output,
        .queue_seconds =
            seconds(request->submitted_ns, request->admitted_ns ? request->admitted_ns : now),
        .prompt_seconds = seconds(request->admitted_ns, first),
        .output_seconds = seconds(request->first_token_ns, now),
    };
    if (reason == SLUICE_FINISH_STOP && request->output.n_tool_calls > 0)
        reason = SLUICE_FINISH_TOOL_CALLS;
    retire(engine, request);
    event_queue_done(&request->events, reason, &usage);
    request_release(request);
}

/* ---- the mailbox ------------------------------------------------------------------------------ */

static void admit(sluice_engine *engine, sluice_request *request)
{
    request->live_previous = NULL;
    request->live_next = engine->live;
    if (engine->live)
        engine->live->live_previous = request;
    engine->live = request;
    struct sched_request wanted = {
        .id = request_id(request),
        .n_prompt = (uint32_t)request->prompt.count,
        .n_generate = request->n_generate,
        .all_outputs = request->mode != SLUICE_GENERATE,
        .chunk = request->chunk,
    };
    struct error err = {0};
    if (sched_add(engine->sched, &wanted, &err) != STATUS_OK)
        fail(engine, request, &err);
}

/* Somebody cancelled, or took events from a full queue. */
static void look_again(sluice_engine *engine)
{
    sluice_request *next;
    for (sluice_request *request = engine->live; request; request = next) {
        next = request->live_next;
        if (atomic_load_explicit(&request->cancelled, memory_order_acquire)) {
            finish(engine, request, SLUICE_FINISH_CANCELLED);
        } else if (request->paused && !event_queue_full(&request->events)) {
            request->paused = false;
            sched_pause(engine->sched, request_id(request), false);
        }
    }
}

/* Takes what came in; sleeps until something does, unless `busy`. False: the engine closes. */
static bool receive(sluice_engine *engine, bool busy)
{
    struct mailbox *box = &engine->mailbox;
    pthread_mutex_lock(&box->lock);
    while (!busy && !box->first && !box->attention && !box->closing)
        pthread_cond_wait(&box->wake, &box->lock);
    sluice_request *request = box->first;
    bool attention = box->attention, closing = box->closing;
    box->first = box->last = NULL;
    box->attention = false;
    pthread_mutex_unlock(&box->lock);
    while (request) {
        sluice_request *next = request->next;
        request->next = NULL;
        admit(engine, request);
        request = next;
    }
    if (attention)
        look_again(engine);
    return !closing;
}

/* ---- results ---------------------------------------------------------------------------------- */

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
    return error_set(err, STATUS_MEMORY, "out of memory for an event");
}

/* One drawn token: its events, and whether the answer is over. */
static enum status take_token(sluice_engine *engine, sluice_request *request,
                              const struct sample_result *result, sluice_finish *reason,
                              struct error *err)
{
    *reason = SLUICE_FINISH_NONE;
    if (result->failed)
        return sampling_failure_status(result->failed, err);
    if (result->token < 0 || (uint32_t)result->token >= engine->source.program->n_vocab)
        return error_set(err, STATUS_INTERNAL, "the sampler drew token %d", result->token);
    request->n_output++;
    request->last_token = result->token;
    request->sampling_row.mirostat_mu = result->mirostat_mu;
    if (request->token_events) {
        enum status status = emit_token(request, result, err);
        if (status != STATUS_OK)
            return status;
    }
    const struct tokenizer *tokenizer = engine->source.tokenizer;
    bool end = !request->ignore_end && tokenizer && tokenizer_is_end(tokenizer, result->token);
    bool stopped = false;
    if (!end) {
        enum status status =
            output_token(&request->output, result->token, &request->events, &stopped, err);
        if (status != STATUS_OK)
            return status;
    }
    if (end || stopped)
        *reason = SLUICE_FINISH_STOP;
    else if (request->n_output == request->n_generate)
        *reason = SLUICE_FINISH_LENGTH;
    if (*reason == SLUICE_FINISH_NONE)
        return STATUS_OK;
    return output_end(&request->output, stopped, &request->events, err);
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

static void pause_if_full(sluice_engine *engine, sluice_request *request)
{
    if (!event_queue_full(&request->events))
        return;
    request->paused = true;
    sched_pause(engine->sched, request_id(request), true);
}

/* Everything that the step's slice i brought its request. */
static void deliver(sluice_engine *engine, const struct sched_slice *slice, uint32_t i,
                    uint64_t ticket, uint64_t now)
{
    sluice_request *request = request_of(slice->id);
    struct error err = {0};
    enum status status = STATUS_OK;
    sluice_finish reason = SLUICE_FINISH_NONE;
    request->state = 1 - request->state;
    if (request->mode != SLUICE_GENERATE) {
        status = take_rows(engine, request, slice, engine->output_rows[i], ticket, &err);
        reason = slice->last ? SLUICE_FINISH_STOP : SLUICE_FINISH_NONE;
    } else if (engine->sample_rows[i] != NO_SAMPLE) {
        if (!request->first_token_ns)
            request->first_token_ns = now;
        request->sampled_number = engine->step_number;
        request->sampled_row = engine->sample_rows[i];
        status = take_token(engine, request, &engine->results[request->sampled_row], &reason, &err);
    }
    if (status != STATUS_OK)
        fail(engine, request, &err);
    else if (reason != SLUICE_FINISH_NONE)
        finish(engine, request, reason);
    else
        pause_if_full(engine, request);
}

/* ---- the step --------------------------------------------------------------------------------- */

static enum status execute(sluice_engine *engine, const struct sched_plan *plan, uint64_t *ticket,
                           struct error *err)
{
    const struct backend_api *api = engine->api;
    enum status status = step_write(engine, plan, err);
    if (status == STATUS_OK)
        status = api->submit(engine->backend, engine->loaded, engine->step, ticket, err);
    if (status != STATUS_OK)
        return status;
    uint64_t last = *ticket;
    const struct sample_step *sample = engine->sample_step;
    if (sample->n_rows || sample->n_history_writes)
        status = api->sample(engine->backend, engine->loaded, sample, &last, err);
    if (status == STATUS_OK)
        status = api->wait(engine->backend, last, err);
    if (status == STATUS_OK && sample->n_rows)
        status = api->read_samples(engine->backend, last, sample->n_rows, engine->results, err);
    if (status == STATUS_OK && engine->source.damaged &&
        engine->source.damaged(engine->source.context))
        status = error_set(err, STATUS_MODEL,
                           "%s: the model's file was cut short or became unreadable while in use; "
                           "restore it and open the model again",
                           engine->source.name);
    return status;
}

/* The step's failure is the failure of everyone who has begun: the state of their sequences is
 * unknown. Those that still wait get their own chance. */
static void fail_begun(sluice_engine *engine, const struct error *err)
{
    log_error("%s", err->message);
    sluice_request *next;
    for (sluice_request *request = engine->live; request; request = next) {
        next = request->live_next;
        if (request->admitted_ns)
            fail(engine, request, err);
    }
}

static void run_step(sluice_engine *engine, const struct sched_plan *plan)
{
    struct error err = {0};
    uint64_t ticket = 0, now = clock_now_ns();
    for (uint32_t i = 0; i < plan->n_slices; i++)
        if (plan->slices[i].opened)
            request_of(plan->slices[i].id)->admitted_ns = now;
    enum status status = execute(engine, plan, &ticket, &err);
    sched_commit(engine->sched);
    if (status != STATUS_OK) {
        fail_begun(engine, &err);
        return;
    }
    now = clock_now_ns();
    /* The plan lives in the scheduler until it plans again; requests may leave meanwhile. */
    for (uint32_t i = 0; i < plan->n_slices; i++)
        deliver(engine, &plan->slices[i], i, ticket, now);
}

void *loop_run(void *context)
{
    sluice_engine *engine = context;
    bool busy = false;
    while (receive(engine, busy)) {
        const struct sched_plan *plan = sched_plan(engine->sched);
        busy = plan->n_slices > 0;
        if (busy)
            run_step(engine, plan);
    }
    while (engine->live)
        finish(engine, engine->live, SLUICE_FINISH_CANCELLED);
    return NULL;
}
