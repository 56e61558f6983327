/*
 * The pump: one thread that carries the engine's events to the exchanges. It formats them by the
 * job's dialect, writes a comment into streams that have been silent for a second, stops taking from
 * a request whose client does not read (so the engine pauses that sequence and nobody else), and ends
 * jobs: log line, counters, memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/wait.h"
#include "server/internal.h"

#define TICK_MS      100 /* without news: keep-alives, and clients that read again */
#define EVENTS_BATCH 256 /* of one request before the others have their turn */

static double seconds_since(uint64_t from, uint64_t now)
{
    return now > from ? (double)(now - from) * 1e-9 : 0.0;
}

/* ---- one job ---------------------------------------------------------------------------------- */

static void cancel_parts(struct job *job)
{
    if (!atomic_load(&job->submitted))
        return;
    for (size_t i = 0; i < job->n_parts; i++)
        if (job->parts[i].request)
            sluice_request_cancel(job->parts[i].request);
}

static void fail_job(struct job *job, const struct api_error *problem)
{
    if (job->failed)
        return;
    job->failed = true;
    job->problem = *problem;
    job->status = problem->status;
    cancel_parts(job);
}

/* parallel_tool_calls: false ends a choice with its first call. */
static void cut_after_tool_call(struct job *job, struct job_part *part, uint32_t choice)
{
    if (!job->call.one_tool_call || job->cut[choice])
        return;
    job->cut[choice] = true;
    for (uint32_t i = 0; i < part->n_choices; i++)
        if (!job->cut[part->first_choice + i])
            return;
    sluice_request_cancel(part->request);
}

static void measure(struct job *job, const sluice_event *event, uint64_t now)
{
    struct metrics *metrics = &job->server->metrics;
    if (event->kind != SLUICE_EVENT_TEXT && event->kind != SLUICE_EVENT_REASONING &&
        event->kind != SLUICE_EVENT_TOOL_CALL)
        return;
    if (!job->first_ns) {
        job->first_ns = now;
        metrics_first_token(metrics, seconds_since(job->received_ns, now));
    } else if (job->answer.n_choices == 1) {
        metrics_gap(metrics, seconds_since(job->last_token_ns, now));
    }
    job->last_token_ns = now;
}

/* The part's last event. */
static void part_over(struct job *job, struct job_part *part, const sluice_event *event)
{
    if (event->kind == SLUICE_EVENT_ERROR) {
        struct api_error problem;
        api_error_from_engine(&event->error, &problem);
        fail_job(job, &problem);
        if (event->error.status == SLUICE_ERROR_MODEL) /* the next one gets it from its file anew */
            sluice_models_unload(job->server->options.models, job->model, NULL);
    }
    sluice_request_free(part->request);
    part->request = NULL;
    job->n_over++;
}

/* What the client gets to see of an event. */
static void deliver(struct job *job, struct job_part *part, sluice_event *event, struct buf *out)
{
    uint32_t choice = part->first_choice + event->choice;
    bool end = event->kind == SLUICE_EVENT_DONE || event->kind == SLUICE_EVENT_CHOICE;
    if (job->cut[choice] && !end)
        return;
    if (job->cut[choice])
        event->finish = SLUICE_FINISH_TOOL_CALLS;
    /* With several answers the last event brings usage only; each has had its own end. */
    bool ended = job->answer.choices[choice].finish != SLUICE_FINISH_NONE;
    measure(job, event, clock_now_ns());
    api_answer_take(&job->answer, choice, event);
    if (job->begun && !ended)
        job->dialect->stream_event(&job->answer, choice, event, out);
    if (event->kind == SLUICE_EVENT_TOOL_CALL)
        cut_after_tool_call(job, part, choice);
}

static void begin_stream(struct job *job, struct buf *out)
{
    http_add_header(job->exchange, "Cache-Control", "no-cache");
    http_add_header(job->exchange, "X-Accel-Buffering", "no"); /* nginx in between */
    http_stream_begin(job->exchange, 200, job->dialect->stream_type);
    job->dialect->stream_begin(&job->answer, out);
    job->begun = true;
    job->sent_ns = clock_now_ns();
}

static void take_event(struct job *job, struct job_part *part, sluice_event *event, struct buf *out)
{
    atomic_fetch_add_explicit(&job->n_events, 1, memory_order_relaxed);
    if (event->kind == SLUICE_EVENT_ADMITTED)
        metrics_queue(&job->server->metrics, seconds_since(job->received_ns, clock_now_ns()));
    if (!job->failed && event->kind != SLUICE_EVENT_ERROR) {
        if (job->call.stream && !job->begun)
            begin_stream(job, out);
        deliver(job, part, event, out);
    } else if (event->kind == SLUICE_EVENT_DONE) { /* what it came to until it was cut off */
        api_answer_take(&job->answer, part->first_choice, event);
    }
    if (event->kind == SLUICE_EVENT_DONE || event->kind == SLUICE_EVENT_ERROR)
        part_over(job, part, event);
}

/* True when there may be more. */
static bool drain_part(struct job *job, struct job_part *part, struct buf *out)
{
    sluice_event event;
    for (int i = 0; i < EVENTS_BATCH && part->request; i++) {
        if (!sluice_request_next(part->request, &event, 0))
            return false;
        take_event(job, part, &event, out);
    }
    return part->request != NULL;
}

static void check_cancelled(struct job *job)
{
    struct api_error problem;
    if (job->failed)
        return;
    if (atomic_load(&job->left)) {
        api_fail(&problem, 499, "request_cancelled", "client_closed_request", "the client left");
        fail_job(job, &problem);
    } else if (atomic_load(&job->cancelled)) {
        api_fail(&problem, 499, "request_cancelled", "request_cancelled",
                 "the request was cancelled by POST /v1/requests/%s/cancel", job->answer.id);
        fail_job(job, &problem);
    } else if (job->answer.failed) {
        api_fail(&problem, 503, "server_error", "out_of_memory", "out of memory for the answer");
        fail_job(job, &problem);
    }
}

static bool longer_ago(uint64_t from, uint64_t now, uint64_t most)
{
    return now > from && now - from > most;
}

/* Headers that are due leave, and after a silent second a comment. */
static void keep_alive(struct job *job, bool due, struct buf *out, uint64_t now)
{
    if (job->call.stream && !job->begun && !job->failed && due)
        begin_stream(job, out);
    else if (job->begun && !job->failed && out->len == 0 &&
             longer_ago(job->sent_ns, now, KEEP_ALIVE_NS))
        buf_append_cstr(out, job->dialect->keep_alive);
}

static void send_out(struct job *job, const struct buf *out, uint64_t now)
{
    if (!job->begun || out->len == 0)
        return;
    http_stream_write(job->exchange, buf_str(out));
    job->sent_ns = now;
}

/* One that waits for its model. Over when nobody wants it any more and it stands in no queue: else
 * whoever has it hands it over soon. */
static bool await_model(struct job *job, struct buf *out, uint64_t now)
{
    uint64_t since = atomic_load(&job->loading_ns);
    keep_alive(job, since && longer_ago(since, now, PATIENCE_NS), out, now);
    send_out(job, out, now);
    return job->failed && since &&
           sluice_models_abandon(job->server->options.models, job->model, job);
}

/* Takes what the job's requests have, as long as the client keeps up. *more: look again soon. True
 * when the job is over. */
static bool advance(struct job *job, struct buf *out, uint64_t now, bool *more)
{
    check_cancelled(job);
    buf_clear(out);
    *more = false;
    if (!atomic_load(&job->submitted))
        return await_model(job, out, now);
    if (job->refused)
        fail_job(job, &job->refusal);
    if (job->failed)
        cancel_parts(job);
    job->behind =
        job->begun && !job->failed && http_stream_pending(job->exchange) > STREAM_BYTES_MAX;
    if (!job->behind && longer_ago(job->received_ns, now, PATIENCE_NS))
        keep_alive(job, !job->begun, out, now);
    for (size_t i = 0; i < job->n_parts && !job->behind; i++)
        *more = drain_part(job, &job->parts[i], out) || *more;
    send_out(job, out, now);
    return job->n_over == job->n_parts;
}

/* ---- its end ---------------------------------------------------------------------------------- */

static void finish_answer(struct job *job, struct buf *out)
{
    buf_clear(out);
    if (job->begun) {
        if (job->failed)
            job->dialect->stream_error(&job->answer, &job->problem, out);
        else
            job->dialect->stream_end(&job->answer, out);
        http_stream_write(job->exchange, buf_str(out));
        http_stream_end(job->exchange, true);
    } else if (job->failed) {
        server_answer_error(job->exchange, job->dialect, &job->problem);
    } else if (job->utility) {
        http_answer(job->exchange, job->result.failed ? 500 : 200, "application/json",
                    buf_str(&job->result));
    } else {
        job->dialect->body(&job->answer, out);
        http_answer(job->exchange, 200, "application/json", buf_str(out));
    }
}

static void report(struct job *job, uint64_t now)
{
    const struct api_answer *answer = &job->answer;
    enum request_outcome outcome = !job->failed                ? OUTCOME_OK
                                   : job->status == 499        ? OUTCOME_CANCELLED
                                   : job->problem.status < 500 ? OUTCOME_REFUSED
                                                               : OUTCOME_FAILED;
    char first[32] = "-";
    char model[64] = "";
    metrics_usage(&job->server->metrics, answer->prompt_tokens, answer->cached_tokens,
                  answer->output_tokens);
    metrics_outcome(&job->server->metrics, outcome, seconds_since(job->received_ns, now));
    if (job->refused && job->n_parts == 0) { /* no engine took it: there is nothing to count */
        log_info("%s %s %u %s %s: %s", job->peer, job->path, job->status, job->model, answer->id,
                 job->problem.message);
        return;
    }
    if (job->first_ns)
        snprintf(first, sizeof first, "%.0f ms",
                 seconds_since(job->received_ns, job->first_ns) * 1e3);
    if (job->loaded_ns)
        snprintf(model, sizeof model, ", %.2f s for the model to load",
                 seconds_since(job->received_ns, job->loaded_ns));
    log_info("%s %s %u %s %s: %u prompt tokens, %u cached, first token %s, %u output tokens, %.2f "
             "s%s%s%s",
             job->peer, job->path, job->status, job->model, answer->id, answer->prompt_tokens,
             answer->cached_tokens, first, answer->output_tokens,
             seconds_since(job->received_ns, now), model, job->failed ? ": " : "",
             job->failed ? job->problem.message : "");
}

static void end_job(struct server *server, struct job *job)
{
    finish_answer(job, &server->scratch);
    if (!job->utility)
        report(job, clock_now_ns());
    pthread_mutex_lock(&server->jobs_lock);
    if (job->previous)
        job->previous->next = job->next;
    else
        server->jobs = job->next;
    if (job->next)
        job->next->previous = job->previous;
    server->n_jobs--;
    http_set_user(job->exchange, NULL);
    pthread_mutex_unlock(&server->jobs_lock);
    job_free(job);
}

/* ---- the loop --------------------------------------------------------------------------------- */

static void on_wake(void *context)
{
    struct server *server = context;
    pthread_mutex_lock(&server->pump_lock);
    server->pump_events = true;
    pthread_mutex_unlock(&server->pump_lock);
    pthread_cond_signal(&server->pump_wake); /* not with the lock that it will want */
}

void pump_notify(struct server *server)
{
    pthread_mutex_lock(&server->pump_lock);
    server->pump_scan = true;
    pthread_cond_signal(&server->pump_wake);
    pthread_mutex_unlock(&server->pump_lock);
}

struct news {
    bool events, scan, abort, stop;
};

/* Waits for news, while there are jobs at most until the next tick, which is a reason to scan: also
 * where one job's events never let the wait run out. */
static struct news wait_for_news(struct server *server, bool jobs, bool at_once, uint64_t *tick_ns)
{
    bool in_time = true;
    pthread_mutex_lock(&server->pump_lock);
    while (!at_once && !server->pump_events && !server->pump_scan && !server->pump_stop && in_time)
        in_time =
            cond_wait_until(&server->pump_wake, &server->pump_lock, jobs ? *tick_ns : WAIT_FOREVER);
    uint64_t now = clock_now_ns();
    struct news news = {server->pump_events, server->pump_scan || now >= *tick_ns,
                        server->pump_abort, server->pump_stop};
    server->pump_events = server->pump_scan = false;
    pthread_mutex_unlock(&server->pump_lock);
    if (news.scan)
        *tick_ns = now + TICK_MS * 1000000u;
    return news;
}

static void mark_ready(struct job *job, struct job **list)
{
    if (job->ready)
        return;
    job->ready = true;
    job->next_ready = *list;
    *list = job;
}

/* Requests that the engine listed, as their jobs: a job may end while a request of it is still in
 * the batch, so all are looked up before any is advanced. One that no worker has handed over
 * yet is scanned when it is. */
static void collect_events(struct server *server, struct job **list)
{
    sluice_request *batch[256];
    size_t n;
    do {
        n = sluice_wakeups_take(server->wakeups, batch, sizeof batch / sizeof *batch);
        for (size_t i = 0; i < n; i++) {
            struct job *job = sluice_request_user(batch[i]);
            if (atomic_load(&job->submitted))
                mark_ready(job, list);
        }
    } while (n == sizeof batch / sizeof *batch);
}

/* Only the pump takes jobs out of the list, so it may walk it without the lock. */
static struct job *first_job(struct server *server)
{
    pthread_mutex_lock(&server->jobs_lock);
    struct job *job = server->jobs;
    pthread_mutex_unlock(&server->jobs_lock);
    return job;
}

static void abort_job(struct job *job)
{
    struct api_error problem;
    api_fail(&problem, 503, "server_error", "shutting_down", "the server is shutting down");
    fail_job(job, &problem);
}

static void *pump_run(void *context)
{
    struct server *server = context;
    struct job *ready = NULL;
    uint64_t tick_ns = 0;
    for (;;) {
        struct news news =
            wait_for_news(server, first_job(server) != NULL, ready != NULL, &tick_ns);
        if (news.events)
            collect_events(server, &ready);
        for (struct job *job = news.scan || news.abort ? first_job(server) : NULL; job;
             job = job->next) {
            if (news.abort)
                abort_job(job);
            mark_ready(job, &ready);
        }
        struct job *job = ready, *again = NULL;
        ready = NULL;
        uint64_t now = clock_now_ns();
        while (job) {
            struct job *next = job->next_ready;
            bool more;
            job->ready = false;
            if (advance(job, &server->scratch, now, &more))
                end_job(server, job);
            else if (more)
                mark_ready(job, &again);
            job = next;
        }
        ready = again;
        if (news.stop && !first_job(server))
            return NULL;
    }
}

enum status pump_start(struct server *server, struct error *err)
{
    sluice_error problem;
    if (sluice_wakeups_create(on_wake, server, &server->wakeups, &problem) != SLUICE_OK)
        return error_set(err, STATUS_MEMORY, "%s", problem.message);
    int result = pthread_create(&server->pump, NULL, pump_run, server);
    server->pumping = result == 0;
    if (result != 0)
        return error_set(err, STATUS_MEMORY, "cannot start a thread: %s", strerror(result));
    return STATUS_OK;
}

void pump_stop(struct server *server)
{
    if (server->pumping) {
        pthread_mutex_lock(&server->pump_lock);
        server->pump_stop = true;
        pthread_cond_signal(&server->pump_wake);
        pthread_mutex_unlock(&server->pump_lock);
        pthread_join(server->pump, NULL);
        server->pumping = false;
    }
    sluice_wakeups_free(server->wakeups);
    server->wakeups = NULL;
}
