/*
 * The owner thread.
 *
 *   mailbox -> scheduler's queue     new requests, cancellations, deadlines, readers that caught up
 *   plan -> step -> backend          submitted as a flight; the scheduler counts its rows as done
 *   flight's results -> events       and who is finished leaves the scheduler
 *
 * On a backend that computes by itself (backend_info.asynchronous) the next step is planned and
 * submitted while the one before it computes: tokens stay on the device (INPUT_SAMPLED), results
 * arrive a step late, and a row that was computed for an answer which had already ended is dropped.
 * On one that computes inside submit() that would only delay results, so each flight lands first.
 * A plan keeps out whoever comes after it, so where steps are long it is made when most of the one
 * before has passed, by the times that the scheduler knows: a new request then waits for one step,
 * as it would without planning ahead, and not for two.
 *
 * With nothing to plan the thread sleeps on the mailbox. A step takes no memory: buffers are sized
 * when the engine opens, a request brings its own.
 */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/wait.h"
#include "engine/internal.h"

/* ---- requests that end ------------------------------------------------------------------------ */

static double seconds(uint64_t from, uint64_t to)
{
    return from && to > from ? (double)(to - from) * 1e-9 : 0.0;
}

/* The scheduler forgets the answer, and what is still computing for it will be dropped. */
static void leave(sluice_engine *engine, struct choice *choice)
{
    if (choice->ended)
        return;
    choice->ended = true;
    choice->request->n_ended++;
    sched_remove(engine->sched, choice_id(choice));
    for (int f = 0; f < BACKEND_IN_FLIGHT; f++)
        for (uint32_t i = 0; i < engine->flights[f].n_slices; i++)
            if (engine->flights[f].slices[i].id == choice_id(choice))
                engine->flights[f].slices[i].id = 0;
}

static void publish_stats(sluice_engine *engine)
{
    sluice_stats *counts = &engine->counts;
    counts->running = sched_running(engine->sched);
    counts->waiting = sched_waiting(engine->sched);
    counts->pages_total = kv_pages_total(engine->kv);
    counts->pages_used = counts->pages_total - kv_pages_free(engine->kv);
    counts->pages_cached = kv_pages_cached(engine->kv);
    counts->preemptions = sched_counters(engine->sched).preemptions;
    counts->page_bytes = engine->size.layout.page_bytes;
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats = *counts;
    pthread_mutex_unlock(&engine->stats_lock);
}

/* Gives back what a request holds. Its last event follows, so that a reader who has seen that may
 * count on the place being free. */
static void retire(sluice_engine *engine, sluice_request *request)
{
    for (uint32_t i = 0; i < request->n_choices; i++)
        leave(engine, &request->choices[i]);
    if (request->live_previous)
        request->live_previous->live_next = request->live_next;
    else
        engine->live = request->live_next;
    if (request->live_next)
        request->live_next->live_previous = request->live_previous;
    atomic_store_explicit(&request->ended, true, memory_order_relaxed);
    publish_stats(engine);
    mailbox_ended(engine, request);
}

void loop_fail(sluice_engine *engine, sluice_request *request, const struct error *err)
{
    engine->counts.requests_failed++;
    retire(engine, request);
    event_queue_error(&request->events, err);
    wakeups_touch(request);
    request_release(request);
}

void loop_finish(sluice_engine *engine, sluice_request *request, sluice_finish reason)
{
    uint64_t now = clock_now_ns();
    uint64_t first = request->first_token_ns ? request->first_token_ns : now;
    sluice_usage usage = {
        .prompt_tokens = (uint32_t)request->prompt.count,
        .cached_tokens = request->n_cached,
        .output_tokens = atomic_load_explicit(&request->n_output, memory_order_relaxed),
        .queue_seconds =
            seconds(request->submitted_ns, request->admitted_ns ? request->admitted_ns : now),
        .prompt_seconds = seconds(request->admitted_ns, first),
        .output_seconds = seconds(request->first_token_ns, now),
    };
    if (reason == SLUICE_FINISH_CANCELLED)
        engine->counts.requests_cancelled++;
    else
        engine->counts.requests_finished++;
    retire(engine, request);
    event_queue_done(&request->events, reason, &usage);
    wakeups_touch(request);
    request_release(request);
}

void loop_end_choice(sluice_engine *engine, struct choice *choice, sluice_finish reason)
{
    sluice_request *request = choice->request;
    if (reason == SLUICE_FINISH_STOP && choice->output.n_tool_calls > 0)
        reason = SLUICE_FINISH_TOOL_CALLS;
    leave(engine, choice);
    if (request->n_choices > 1 &&
        !event_queue_mark(&request->events, SLUICE_EVENT_CHOICE, reason)) {
        struct error err = {0};
        no_event(&err);
        loop_fail(engine, request, &err);
    } else if (request->n_ended == request->n_choices) {
        loop_finish(engine, request, reason);
    }
}

/* ---- the mailbox ------------------------------------------------------------------------------ */

static void admit(sluice_engine *engine, sluice_request *request)
{
    request->live_previous = NULL;
    request->live_next = engine->live;
    if (engine->live)
        engine->live->live_previous = request;
    engine->live = request;
    struct error err = {0};
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < request->n_choices && status == STATUS_OK; i++) {
        struct sched_request wanted = {
            .id = choice_id(&request->choices[i]),
            .chain = &request->choices[i].chain,
            .n_generate = request->n_generate,
            .all_outputs =
                request->mode == SLUICE_SCORE_LOGITS || request->mode == SLUICE_SCORE_HIDDEN ||
                (request->mode == SLUICE_EMBED && request->pooling != SLUICE_POOLING_LAST),
            .chunk = request->chunk,
            .priority = request->priority,
            .key = request->key,
            .parent = i ? choice_id(&request->choices[0]) : 0,
        };
        status = sched_add(engine->sched, &wanted, &err);
    }
    if (status != STATUS_OK)
        loop_fail(engine, request, &err);
    else if (request->deadline_ns && request->deadline_ns < engine->next_deadline_ns)
        engine->next_deadline_ns = request->deadline_ns;
}

static void resume(sluice_engine *engine, sluice_request *request)
{
    request->paused = false;
    for (uint32_t i = 0; i < request->n_choices; i++)
        sched_pause(engine->sched, choice_id(&request->choices[i]), false);
}

/* Somebody cancelled, took events from a full queue, or ran out of time. */
static void look_again(sluice_engine *engine, uint64_t now)
{
    sluice_request *next;
    engine->next_deadline_ns = UINT64_MAX;
    for (sluice_request *request = engine->live; request; request = next) {
        next = request->live_next;
        if (atomic_load_explicit(&request->cancelled, memory_order_acquire)) {
            loop_finish(engine, request, SLUICE_FINISH_CANCELLED);
            continue;
        }
        if (request->deadline_ns && request->deadline_ns <= now) {
            loop_finish(engine, request, SLUICE_FINISH_DEADLINE);
            continue;
        }
        if (request->deadline_ns && request->deadline_ns < engine->next_deadline_ns)
            engine->next_deadline_ns = request->deadline_ns;
        if (request->paused && !event_queue_full(&request->events))
            resume(engine, request);
    }
}

#define HOLD_LEAST_NS 10000000u /* shorter steps are not worth it */

/* When to plan behind a flight that computes; 0: at once. */
static uint64_t planning_time(const sluice_engine *engine, const struct flight *older)
{
    uint64_t took =
        older ? sched_expect(engine->sched, older->n_generated, older->n_rows - older->n_generated)
              : 0;
    uint64_t began = older && older->submitted_ns > engine->step_ended_ns ? older->submitted_ns
                                                                          : engine->step_ended_ns;
    return took < HOLD_LEAST_NS ? 0 : began + took - took / 4;
}

/* Takes what came in; sleeps until something does, or where `busy` until `hold_ns` at most. False:
 * the engine closes. */
static bool receive(sluice_engine *engine, bool busy, uint64_t hold_ns)
{
    struct mailbox *box = &engine->mailbox;
    pthread_mutex_lock(&box->lock);
    while (busy && hold_ns && !box->attention && !box->closing && clock_now_ns() < hold_ns)
        cond_wait_until(&box->wake, &box->lock, hold_ns);
    while (!busy && !box->first && !box->attention && !box->closing &&
           clock_now_ns() < engine->next_deadline_ns)
        cond_wait_until(&box->wake, &box->lock, engine->next_deadline_ns);
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
    uint64_t now = engine->next_deadline_ns == UINT64_MAX ? 0 : clock_now_ns();
    if (attention || now >= engine->next_deadline_ns)
        look_again(engine, now);
    wakeups_flush(engine);
    return !closing;
}

/* ---- the step --------------------------------------------------------------------------------- */

/* The step's failure is the failure of everyone who has begun: the state of their sequences is
 * unknown. Those that still wait get their own chance. */
static void fail_begun(sluice_engine *engine, const struct error *err)
{
    log_error("%s", err->message);
    kv_forget(engine->kv);
    sluice_request *next;
    for (sluice_request *request = engine->live; request; request = next) {
        next = request->live_next;
        if (request->admitted_ns)
            loop_fail(engine, request, err);
    }
}

static void mark_admitted(sluice_engine *engine, const struct sched_slice *slice, uint64_t now)
{
    sluice_request *request = choice_of(slice->id)->request;
    if (request->admitted_ns) {
        /* Put back and here again: what was lost meanwhile is computed after all. */
        if (choice_of(slice->id)->index == 0 && slice->cached < request->n_cached) {
            engine->counts.cached_tokens -= request->n_cached - slice->cached;
            request->n_cached = slice->cached;
        }
        return;
    }
    mailbox_admitted(engine, request);
    request->admitted_ns = now;
    request->n_cached = slice->cached;
    engine->counts.cached_tokens += slice->cached;
    atomic_store_explicit(&request->admitted, true, memory_order_relaxed);
    engine->counts.prompt_tokens += request->prompt.count;
    if (request->report_admission) {
        event_queue_mark(&request->events, SLUICE_EVENT_ADMITTED, SLUICE_FINISH_NONE);
        wakeups_touch(request);
    }
}

static void launch(sluice_engine *engine, struct flight *flight, const struct sched_plan *plan)
{
    uint64_t now = flight->submitted_ns = clock_now_ns();
    for (uint32_t i = 0; i < plan->n_slices; i++) {
        if (plan->slices[i].opened)
            mark_admitted(engine, &plan->slices[i], now);
        if (!plan->slices[i].generated)
            engine->counts.prefilled_tokens += plan->slices[i].n_rows;
    }
    wakeups_flush(engine); /* headers need not wait for the step */
    flight->n_generated = plan->n_generated;
    flight->n_rows = plan->n_rows;
    flight->status = step_write(engine, flight, plan, &flight->error);
    if (flight->status == STATUS_OK)
        flight->status = engine->api->submit(engine->backend, engine->loaded, flight->step,
                                             &flight->ticket, &flight->error);
    flight->last_ticket = flight->ticket;
    sched_commit(engine->sched);
}

/* Drawing may depend on the token before (a mask, mirostat), so it is submitted only after the
 * flight before has landed; the forward pass is computing meanwhile. */
static void launch_sample(sluice_engine *engine, struct flight *flight)
{
    if (flight->status == STATUS_OK)
        flight->status = step_write_sample(engine, flight, &flight->error);
    const struct sample_step *sample = flight->sample_step;
    if (flight->status == STATUS_OK && (sample->n_rows || sample->n_history_writes))
        flight->status = engine->api->sample(engine->backend, engine->loaded, sample,
                                             &flight->last_ticket, &flight->error);
}

static enum status wait_flight(sluice_engine *engine, struct flight *flight, struct error *err)
{
    const struct backend_api *api = engine->api;
    if (flight->status != STATUS_OK) {
        *err = flight->error;
        return flight->status;
    }
    uint32_t n = flight->sample_step->n_rows;
    enum status status = api->wait(engine->backend, flight->last_ticket, err);
    if (status == STATUS_OK && n)
        status = api->read_samples(engine->backend, flight->last_ticket, n, engine->results, err);
    if (status == STATUS_OK && engine->source.damaged &&
        engine->source.damaged(engine->source.context))
        status = error_set(err, STATUS_MODEL,
                           "%s: the model's file was cut short or became unreadable while in use; "
                           "restore it and open the model again",
                           engine->source.name);
    return status;
}

static void count_step(sluice_engine *engine, const struct flight *flight, uint64_t now)
{
    sluice_stats *counts = &engine->counts;
    uint64_t began =
        flight->submitted_ns > engine->step_ended_ns ? flight->submitted_ns : engine->step_ended_ns;
    double took = seconds(began, now);
    engine->step_ended_ns = now;
    int bucket = 0;
    while (bucket < SLUICE_STEP_BUCKETS - 1 && took > 1e-3 * (double)(1u << bucket))
        bucket++;
    counts->step_buckets[bucket]++;
    counts->steps++;
    counts->step_seconds += took;
    counts->bytes_read += step_bytes_read(engine, flight);
    sched_measure(engine->sched, flight->n_generated, flight->n_rows - flight->n_generated,
                  now - began);
}

static void land(sluice_engine *engine, struct flight *flight)
{
    struct error err = {0};
    enum status status = wait_flight(engine, flight, &err);
    uint64_t now = clock_now_ns();
    count_step(engine, flight, now);
    for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++)
        result_deliver(engine, flight, i, now);
    flight->n_slices = 0;
    if (status != STATUS_OK)
        fail_begun(engine, &err);
    publish_stats(engine);
    wakeups_flush(engine);
}

void *loop_run(void *context)
{
    sluice_engine *engine = context;
    bool ahead = engine->backend_info.asynchronous, busy = false;
    struct flight *older = NULL; /* computing */
    uint32_t next = 0;
    while (receive(engine, busy || older, planning_time(engine, older))) {
        const struct sched_plan *plan = sched_plan(engine->sched);
        struct flight *flight = NULL;
        busy = plan->n_slices > 0;
        if (busy) {
            flight = &engine->flights[next];
            next = (next + 1) % BACKEND_IN_FLIGHT;
            launch(engine, flight, plan);
        }
        if (older) {
            land(engine, older);
            busy = true; /* what is known now may let somebody resume */
        }
        older = flight;
        if (older)
            launch_sample(engine, older);
        if (older && (!ahead || older->status != STATUS_OK)) {
            land(engine, older);
            older = NULL;
        }
    }
    if (older)
        land(engine, older);
    while (engine->live)
        loop_finish(engine, engine->live, SLUICE_FINISH_CANCELLED);
    publish_stats(engine);
    wakeups_flush(engine);
    return NULL;
}
