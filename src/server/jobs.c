/*
 * Jobs up to the engine: the workers' queue, parsing, submission; and what may be asked of the list
 * of jobs. Parsing and tokenizing a long conversation takes milliseconds, so it happens here and not
 * on the transport's thread, where every stream would wait for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"

void job_free(struct job *job)
{
    for (size_t i = 0; i < job->n_parts; i++)
        sluice_request_free(job->parts[i].request);
    free(job->parts);
    free(job->cut);
    if (job->has_answer)
        api_answer_release(&job->answer);
    api_call_release(&job->call);
    http_release(job->exchange);
    free(job);
}

/* ---- submission (workers) --------------------------------------------------------------------- */

/* One request per prompt. Of several prompts some may be queued when one is refused: the pump then
 * ends those. */
static bool submit(struct job *job)
{
    const struct api_call *call = &job->call;
    const struct server *server = job->server;
    size_t n = call->prompts ? call->n_prompts : 1;
    job->parts = calloc(n, sizeof *job->parts);
    job->cut = calloc(job->answer.n_choices, sizeof *job->cut);
    if (!job->parts || !job->cut)
        return api_fail(&job->problem, 503, "server_error", "out_of_memory", "out of memory");
    for (size_t i = 0; i < n; i++) {
        sluice_request_options options = call->options;
        sluice_error error;
        if (call->prompts) {
            options.prompt = call->prompts[i].text;
            options.tokens = call->prompts[i].tokens;
            options.n_tokens = call->prompts[i].n_tokens;
        }
        options.n = call->n;
        options.key = job->key;
        options.wakeups = server->wakeups;
        options.user = job;
        options.report_admission = true;
        options.report_silent = call->stream;
        if (sluice_submit(server->options.engine, &options, &job->parts[i].request, &error) !=
            SLUICE_OK) {
            api_error_from_engine(&error, &job->problem);
            if (call->prompts && strcmp(job->problem.param, "messages") == 0)
                snprintf(job->problem.param, sizeof job->problem.param, "prompt");
            return false;
        }
        job->parts[i].first_choice = (uint32_t)i * call->n;
        job->parts[i].n_choices = call->n;
        job->n_parts++;
    }
    return true;
}

static bool choose_model(struct job *job)
{
    struct server *server = job->server;
    if (server_knows_model(server, job->call.model))
        return true;
    api_fail(&job->problem, 404, "invalid_request_error", "model_not_found",
             "the model '%.128s' is not served here; this server has '%s' (start it with --alias "
             "NAME, or --alias '*', to let it answer to other names)",
             job->call.model, server->options.model_name);
    snprintf(job->problem.param, sizeof job->problem.param, "model");
    return false;
}

static bool understand(struct job *job)
{
    struct server *server = job->server;
    struct api_call *call = &job->call;
    arena_init(&call->arena, HTTP_BODY_BYTES_MAX * 4);
    call->strict = server->options.strict;
    call->defaults = server->options.defaults;
    call->options.max_tokens = server->options.max_tokens;
    bool ok = job->dialect->parse(call, http_body(job->exchange), &job->problem);
    http_drop_body(job->exchange);
    if (!ok || !choose_model(job))
        return false;
    const char *name = call->model[0] ? call->model : server->options.model_name;
    job->has_answer = true;
    if (api_answer_init(&job->answer, call, job->dialect, name, server->options.engine))
        return true;
    return api_fail(&job->problem, 503, "server_error", "out_of_memory", "out of memory");
}

/* The headers that every answer to a job has. */
static void add_headers(struct job *job)
{
    if (job->call.ignored[0]) {
        http_add_header(job->exchange, "x-sluice-ignored", job->call.ignored);
        log_info("%s %s: unknown fields ignored: %s", job->peer, job->path, job->call.ignored);
    }
    if (job->has_answer)
        http_add_header(job->exchange, "x-request-id", job->answer.id);
}

static void refuse_job(struct job *job)
{
    log_info("%s %s %u %s: %s", job->peer, job->path, job->problem.status, job->problem.code,
             job->problem.message);
    metrics_outcome(&job->server->metrics,
                    job->problem.status < 500 ? OUTCOME_REFUSED : OUTCOME_FAILED,
                    (double)(clock_now_ns() - job->received_ns) * 1e-9);
    server_answer_error(job->exchange, job->dialect, &job->problem);
    pthread_mutex_lock(&job->server->jobs_lock);
    http_set_user(job->exchange, NULL);
    pthread_mutex_unlock(&job->server->jobs_lock);
    job_free(job);
}

static void list_job(struct job *job)
{
    struct server *server = job->server;
    pthread_mutex_lock(&server->jobs_lock);
    job->next = server->jobs;
    job->previous = NULL;
    if (job->next)
        job->next->previous = job;
    server->jobs = job;
    server->n_jobs++;
    pthread_mutex_unlock(&server->jobs_lock);
    atomic_store(&job->listed, true);
    pump_notify(server);
}

static void serve_job(struct job *job)
{
    bool ok = understand(job);
    add_headers(job);
    job->status = 200;
    if (!ok || !submit(job)) {
        if (job->n_parts == 0) {
            refuse_job(job);
            return;
        }
        job->failed = true;
        job->status = job->problem.status;
        for (size_t i = 0; i < job->n_parts; i++)
            sluice_request_cancel(job->parts[i].request);
    }
    list_job(job);
}

/* ---- the queue -------------------------------------------------------------------------------- */

static void *work(void *context)
{
    struct server *server = context;
    for (;;) {
        pthread_mutex_lock(&server->queue_lock);
        while (!server->queue_first && !server->workers_stop)
            pthread_cond_wait(&server->queue_wake, &server->queue_lock);
        struct job *job = server->queue_first;
        if (job) {
            server->queue_first = job->next;
            if (!server->queue_first)
                server->queue_last = NULL;
            server->queue_length--;
        }
        pthread_mutex_unlock(&server->queue_lock);
        if (!job)
            return NULL;
        job->next = NULL;
        serve_job(job);
    }
}

static bool push(struct server *server, struct job *job)
{
    pthread_mutex_lock(&server->queue_lock);
    bool room = server->queue_length < WAITING_JOBS_MAX && !server->workers_stop;
    if (room) {
        if (server->queue_last)
            server->queue_last->next = job;
        else
            server->queue_first = job;
        server->queue_last = job;
        server->queue_length++;
        pthread_cond_signal(&server->queue_wake);
    }
    pthread_mutex_unlock(&server->queue_lock);
    return room;
}

void jobs_enqueue(struct server *server, struct http_exchange *exchange,
                  const struct api_dialect *dialect)
{
    struct api_error error;
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        api_fail(&error, 503, "server_error", "out_of_memory", "out of memory");
        server_answer_error(exchange, dialect, &error);
        return;
    }
    job->server = server;
    job->exchange = exchange;
    job->dialect = dialect;
    job->received_ns = clock_now_ns();
    job->key = server_key_of(server, exchange);
    snprintf(job->peer, sizeof job->peer, "%s", http_peer(exchange));
    snprintf(job->path, sizeof job->path, "%.60s", http_path(exchange));
    http_retain(exchange);
    pthread_mutex_lock(&server->jobs_lock);
    http_set_user(exchange, job);
    pthread_mutex_unlock(&server->jobs_lock);
    if (push(server, job))
        return;
    api_fail(&job->problem, 503, "server_error", "queue_full",
             "%d requests wait to be read already: try again later", WAITING_JOBS_MAX);
    job->problem.retry_after = 1;
    refuse_job(job);
}

/* ---- asked of the list ------------------------------------------------------------------------ */

void jobs_left(struct server *server, struct http_exchange *exchange)
{
    pthread_mutex_lock(&server->jobs_lock);
    struct job *job = http_user(exchange);
    if (job) {
        atomic_store(&job->left, true);
        pump_notify(server);
    }
    pthread_mutex_unlock(&server->jobs_lock);
}

bool jobs_cancel(struct server *server, const char *id)
{
    bool found = false;
    pthread_mutex_lock(&server->jobs_lock);
    for (struct job *job = server->jobs; job; job = job->next) {
        if (strcmp(job->answer.id, id) != 0)
            continue;
        atomic_store(&job->cancelled, true);
        found = true;
        pump_notify(server);
    }
    pthread_mutex_unlock(&server->jobs_lock);
    return found;
}

void jobs_abort(struct server *server)
{
    pthread_mutex_lock(&server->pump_lock);
    server->pump_abort = server->pump_scan = true;
    pthread_cond_signal(&server->pump_wake);
    pthread_mutex_unlock(&server->pump_lock);
}

size_t jobs_count(struct server *server)
{
    pthread_mutex_lock(&server->jobs_lock);
    size_t n = server->n_jobs;
    pthread_mutex_unlock(&server->jobs_lock);
    pthread_mutex_lock(&server->queue_lock);
    n += server->queue_length;
    pthread_mutex_unlock(&server->queue_lock);
    return n;
}

void jobs_describe(struct server *server, struct buf *out)
{
    uint64_t now = clock_now_ns();
    buf_append_char(out, '[');
    pthread_mutex_lock(&server->jobs_lock);
    for (const struct job *job = server->jobs; job; job = job->next) {
        buf_printf(out, "%s{\"id\":\"%s\",\"path\":\"%s\",\"peer\":\"%s\",\"stream\":%s,",
                   job == server->jobs ? "" : ",", job->answer.id, job->path, job->peer,
                   job->call.stream ? "true" : "false");
        buf_printf(out, "\"answers\":%u,\"seconds\":%.3f,\"events\":%u}", job->answer.n_choices,
                   (double)(now - job->received_ns) * 1e-9, atomic_load(&job->n_events));
    }
    pthread_mutex_unlock(&server->jobs_lock);
    buf_append_char(out, ']');
}

/* ---- start and stop --------------------------------------------------------------------------- */

enum status jobs_start(struct server *server, struct error *err)
{
    enum status status = pump_start(server, err);
    for (size_t i = 0; i < WORKERS && status == STATUS_OK; i++) {
        int result = pthread_create(&server->workers[i], NULL, work, server);
        if (result != 0)
            status = error_set(err, STATUS_MEMORY, "cannot start a thread: %s", strerror(result));
        server->n_workers += result == 0;
    }
    return status;
}

void jobs_stop(struct server *server)
{
    pthread_mutex_lock(&server->queue_lock);
    server->workers_stop = true;
    pthread_cond_broadcast(&server->queue_wake);
    pthread_mutex_unlock(&server->queue_lock);
    for (size_t i = 0; i < server->n_workers; i++)
        pthread_join(server->workers[i], NULL);
    jobs_abort(server);
    pump_stop(server);
}
