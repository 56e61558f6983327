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
    buf_release(&job->result);
    if (job->engine)
        sluice_models_release(job->server->options.models, job->engine);
    http_release(job->exchange);
    free(job);
}

/* ---- submission (workers) --------------------------------------------------------------------- */

static bool no_memory(struct api_error *error)
{
    return api_fail(error, 503, "server_error", "out_of_memory", "out of memory");
}

/* The engine's names for what it was given, as the client named them. */
static void name_prompt(const struct api_call *call, struct api_error *error)
{
    const char *name = call->options.mode == SLUICE_EMBED ? "input" : "prompt";
    const char *given = error->param;
    if (strcmp(given, "messages") != 0 && strcmp(given, "tokens") != 0)
        return;
    size_t n = strlen(given);
    if (strncmp(error->message, given, n) == 0 && error->message[n] == ':') {
        char rest[sizeof error->message];
        snprintf(rest, sizeof rest, "%s", error->message + n);
        snprintf(error->message, sizeof error->message, "%s%.600s", name, rest);
    }
    snprintf(error->param, sizeof error->param, "%s", name);
}

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
        return no_memory(&job->refusal);
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
        if (sluice_submit(job->engine, &options, &job->parts[i].request, &error) != SLUICE_OK) {
            api_error_from_engine(&error, &job->refusal);
            if (call->prompts)
                name_prompt(call, &job->refusal);
            return false;
        }
        job->parts[i].first_choice = (uint32_t)i * call->n;
        job->parts[i].n_choices = call->n;
        job->n_parts++;
    }
    return true;
}

/* What the client wants and of which model; nothing is asked of an engine yet. */
static bool understand(struct job *job)
{
    struct server *server = job->server;
    struct api_call *call = &job->call;
    struct str body = http_body(job->exchange);
    arena_init(&call->arena, HTTP_BODY_BYTES_MAX * 4);
    call->strict = server->options.strict;
    call->defaults = server->options.defaults;
    call->options.max_tokens = server->options.max_tokens;
    bool ok = job->utility ? api_model_of(body, call->model, &job->problem)
                           : job->dialect->parse(call, body, &job->problem);
    if (!job->utility)
        http_drop_body(job->exchange);
    job->model = ok ? names_find(server, call->model, &job->problem) : NULL;
    if (!job->model || job->utility)
        return job->model != NULL;
    job->has_answer = true;
    return api_answer_init(&job->answer, call, job->dialect,
                           call->model[0] ? call->model : job->model, NULL) ||
           no_memory(&job->problem);
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
    log_info("%s %s %u %s%s%s", job->peer, job->path, job->problem.status, job->problem.code,
             job->problem.code[0] ? ": " : "", job->problem.message);
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
    pump_notify(server);
}

/* The pump has it from here: the worker must not touch it any more. */
static void hand_over(struct job *job)
{
    struct server *server = job->server;
    atomic_store(&job->submitted, true);
    pump_notify(server);
}

/* Its model is there. */
static void use_engine(struct job *job)
{
    job->answer.engine = job->engine;
    if (atomic_load(&job->left) || atomic_load(&job->cancelled))
        ; /* nobody wants it any more */
    else if (job->utility)
        job->refused =
            !job->utility(job->engine, http_body(job->exchange), &job->result, &job->refusal);
    else
        job->refused = !submit(job);
    hand_over(job);
}

static bool push(struct server *server, struct job *job, bool always);

/* Whatever a model's file is guilty of, it is not this request's fault. */
static void load_failed(const sluice_error *error, struct api_error *out)
{
    if (error->status == SLUICE_ERROR_MEMORY)
        api_error_from_engine(error, out);
    else if (error->status == SLUICE_ERROR_CANCELLED)
        api_fail(out, 503, "server_error", "shutting_down", "the server is shutting down");
    else
        api_fail(out, 500, "server_error", "model_load_error", "%s", error->message);
}

/* From the set's thread, which must not be held up: the model is loaded, or why it is not. */
static void model_ready(void *context, sluice_engine *engine, const sluice_error *error)
{
    struct job *job = context;
    job->engine = engine;
    job->loaded_ns = clock_now_ns();
    job->refused = true;
    if (!engine)
        load_failed(error, &job->refusal);
    else if (push(job->server, job, true))
        return;
    else
        api_fail(&job->refusal, 503, "server_error", "shutting_down",
                 "the server is shutting down");
    hand_over(job);
}

static void serve_job(struct job *job)
{
    sluice_error error;
    sluice_engine *engine;
    if (job->engine) { /* it waited for its model */
        job->refused = false;
        use_engine(job);
        return;
    }
    bool ok = understand(job);
    add_headers(job);
    job->status = 200;
    if (!ok) {
        refuse_job(job);
        return;
    }
    list_job(job);
    atomic_store(&job->loading_ns, clock_now_ns());
    sluice_status status = sluice_models_hold(job->server->options.models, job->model, NULL,
                                              model_ready, job, &engine, &error);
    if (status == SLUICE_OK && !engine)
        return; /* model_ready() may have come and gone already */
    atomic_store(&job->loading_ns, 0);
    job->engine = engine;
    job->refused = status != SLUICE_OK;
    if (job->refused) {
        api_error_from_engine(&error, &job->refusal);
        hand_over(job);
    } else {
        use_engine(job);
    }
}

/* ---- the queue -------------------------------------------------------------------------------- */

/* With the lock held, until there is a job or the end. */
static void wait_for_job(struct server *server, struct worker *worker)
{
    while (!server->queue_first && !server->workers_stop) {
        if (!worker->idle) {
            worker->idle = true;
            worker->next_idle = server->idle;
            server->idle = worker;
        }
        pthread_cond_wait(&worker->wake, &server->queue_lock);
    }
    for (struct worker **at = &server->idle; worker->idle && *at; at = &(*at)->next_idle)
        if (*at == worker) { /* awake without having been called */
            *at = worker->next_idle;
            worker->idle = false;
            break;
        }
}

/* With the lock held. */
static void call_worker(struct server *server)
{
    struct worker *worker = server->idle;
    if (!worker)
        return; /* all are busy, and look for more when they are done */
    server->idle = worker->next_idle;
    worker->idle = false;
    pthread_cond_signal(&worker->wake);
}

static void *work(void *context)
{
    struct worker *worker = context;
    struct server *server = worker->server;
    for (;;) {
        pthread_mutex_lock(&server->queue_lock);
        wait_for_job(server, worker);
        struct job *job = server->queue_first;
        if (job) {
            server->queue_first = job->next_queued;
            if (!server->queue_first)
                server->queue_last = NULL;
            server->queue_length--;
        }
        pthread_mutex_unlock(&server->queue_lock);
        if (!job)
            return NULL;
        serve_job(job);
    }
}

/* always: whatever the length of the queue. */
static bool push(struct server *server, struct job *job, bool always)
{
    pthread_mutex_lock(&server->queue_lock);
    bool room = (always || server->queue_length < WAITING_JOBS_MAX) && !server->workers_stop;
    if (room) {
        job->next_queued = NULL;
        if (server->queue_last)
            server->queue_last->next_queued = job;
        else
            server->queue_first = job;
        server->queue_last = job;
        server->queue_length++;
        call_worker(server);
    }
    pthread_mutex_unlock(&server->queue_lock);
    return room;
}

void jobs_enqueue(struct server *server, struct http_exchange *exchange,
                  const struct api_dialect *dialect, utility_fn utility)
{
    struct api_error error;
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        no_memory(&error);
        server_answer_error(exchange, dialect, &error);
        return;
    }
    job->server = server;
    job->exchange = exchange;
    job->dialect = dialect ? dialect : &api_openai_chat;
    job->utility = utility;
    job->received_ns = clock_now_ns();
    job->key = server_key_of(server, exchange);
    snprintf(job->peer, sizeof job->peer, "%s", http_peer(exchange));
    snprintf(job->path, sizeof job->path, "%.60s", http_path(exchange));
    http_retain(exchange);
    pthread_mutex_lock(&server->jobs_lock);
    http_set_user(exchange, job);
    pthread_mutex_unlock(&server->jobs_lock);
    if (push(server, job, false))
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
        buf_append_cstr(out, "\"model\":");
        json_write_string(out, str_from(job->model));
        buf_printf(out, ",\"state\":\"%s\",",
                   atomic_load(&job->submitted)    ? "submitted"
                   : atomic_load(&job->loading_ns) ? "loading"
                                                   : "read");
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
        struct worker *worker = &server->workers[i];
        worker->server = server;
        pthread_cond_init(&worker->wake, NULL);
        int result = pthread_create(&worker->thread, NULL, work, worker);
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
    while (server->idle)
        call_worker(server);
    pthread_mutex_unlock(&server->queue_lock);
    for (size_t i = 0; i < server->n_workers; i++) {
        pthread_join(server->workers[i].thread, NULL);
        pthread_cond_destroy(&server->workers[i].wake);
    }
    jobs_abort(server);
    pump_stop(server);
}
