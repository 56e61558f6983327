/* Inside the server: its state and the files' functions to each other. Not the transport's. */
#ifndef SLUICE_SERVER_INTERNAL_H
#define SLUICE_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/api.h"
#include "server/metrics.h"
#include "server/server.h"

#define WORKERS          4
#define WAITING_JOBS_MAX 4096                /* bodies that wait for a worker */
#define STREAM_BYTES_MAX ((size_t)256 << 10) /* unsent bytes at which a stream pauses */
#define KEEP_ALIVE_NS    1000000000u
#define PATIENCE_NS      150000000u   /* headers of a stream leave at the latest then */
#define STUCK_NS         60000000000u /* without a step while sequences run: not healthy */

struct route;

/* The answers to one prompt. */
struct job_part {
    sluice_request *request; /* NULL once over */
    uint32_t first_choice, n_choices;
};

/* A route that wants an engine, but no answer of it: a body in, a body out. */
typedef bool (*utility_fn)(sluice_engine *engine, struct str body, struct buf *out,
                           struct api_error *error);

/* One call from its body to its last byte. Filled in by a worker, which lists it: what the pump may
 * see of it. Until it is `submitted` the worker (or whoever loads its model) has the second part and
 * the pump only keeps the stream alive; from then on all is the pump's, but for the atomics. Requests
 * are freed by the pump only (sluice_wakeups_take). */
struct job {
    struct server *server;
    struct http_exchange *exchange; /* a reference */
    const struct api_dialect *dialect;
    utility_fn utility;          /* instead of a completion; NULL */
    struct job *next, *previous; /* all jobs */
    struct job *next_queued;     /* the workers' queue */
    struct job *next_ready;      /* the pump's list of those to look at */
    bool ready;
    atomic_bool submitted, left, cancelled;
    atomic_ullong loading_ns; /* since then its model is waited for; 0: not */
    char peer[64], path[64];
    const char *key; /* whose it is; NULL: nobody's */
    struct api_call call;
    struct api_answer answer; /* its id and model are fixed once listed */
    bool has_answer;
    const char *model; /* one of the served ones */

    sluice_engine *engine; /* held */
    struct job_part *parts;
    size_t n_parts, n_over;
    bool *cut;    /* [n_choices] ended by us: what still comes is dropped */
    bool refused; /* why: */
    struct api_error refusal;
    struct buf result;  /* of a utility */
    uint64_t loaded_ns; /* the model came; 0: it was there */

    bool begun;  /* the headers of the stream left */
    bool behind; /* the client does not keep up */
    bool failed;
    unsigned status;          /* for the log */
    struct api_error problem; /* why it failed */
    uint64_t received_ns, first_ns, last_token_ns, sent_ns;
    atomic_uint n_events; /* for /status */
};

/* A model as the server knows it from start to end. */
struct served {
    char name[256];
    uint64_t seen_steps, seen_ns; /* progress, for /health: under jobs_lock */
};

/* Each waits on a condition of its own: with several waiters on one, glibc before 2.41 can lose a
 * signal (base/threads.c), and a request would lie there until the next one comes. */
struct worker {
    struct server *server;
    pthread_t thread;
    pthread_cond_t wake;
    struct worker *next_idle;
    bool idle; /* in the list */
};

struct server {
    struct server_options options;
    struct served *served; /* [n_served] */
    size_t n_served;
    struct http_server *http;
    int64_t started;
    atomic_bool draining;
    struct metrics metrics;

    pthread_mutex_t queue_lock; /* jobs for the workers */
    struct job *queue_first, *queue_last;
    size_t queue_length;
    bool workers_stop;
    struct worker workers[WORKERS], *idle;
    size_t n_workers;

    pthread_mutex_t jobs_lock; /* the list, and http_user of exchanges */
    struct job *jobs;
    size_t n_jobs;

    /* What the pump waits for. A lock of its own, since an engine takes it: held for an instant. */
    pthread_mutex_t pump_lock;
    pthread_cond_t pump_wake;
    bool pump_events; /* the wake-up list has requests */
    bool pump_scan;   /* look at all jobs: a new one, one cancelled, left or aborted */
    bool pump_stop, pump_abort;
    pthread_t pump;
    bool pumping;
    sluice_wakeups *wakeups;
    struct buf scratch; /* the pump's: bytes of one write */
};

/* routes.c: the key that came with a request, one of options.api_keys; NULL: none of them. */
const char *server_key_of(struct server *server, struct http_exchange *exchange);
/* The transport's callbacks. */
extern const struct http_callbacks server_callbacks;
void server_answer_error(struct http_exchange *exchange, const struct api_dialect *dialect,
                         const struct api_error *error);

/* names.c: the served models, read once; and the one that answers to a name ("": the default one),
 * or NULL with the error that says so. The result lives as long as the server. */
enum status names_read(struct server *server, struct error *err);
const char *names_find(const struct server *server, const char *name, struct api_error *error);

/* jobs.c */
enum status jobs_start(struct server *server, struct error *err);
void jobs_stop(struct server *server);
/* A call whose body is in, to a dialect or a utility: queued for a worker, or refused. */
void jobs_enqueue(struct server *server, struct http_exchange *exchange,
                  const struct api_dialect *dialect, utility_fn utility);
/* The client of the exchange went away. */
void jobs_left(struct server *server, struct http_exchange *exchange);
bool jobs_cancel(struct server *server, const char *id);
size_t jobs_count(struct server *server);
/* Ends what still runs with an error event. */
void jobs_abort(struct server *server);
void jobs_describe(struct server *server, struct buf *out); /* a JSON list */
/* pump.c */
enum status pump_start(struct server *server, struct error *err);
void pump_stop(struct server *server);
/* Has the pump look at all jobs. */
void pump_notify(struct server *server);
void job_free(struct job *job);

/* views.c */
void view_health(struct server *server, struct http_exchange *exchange);
void view_ready(struct server *server, struct http_exchange *exchange);
void view_metrics(struct server *server, struct http_exchange *exchange);
void view_models(struct server *server, struct http_exchange *exchange);
void view_model(struct server *server, struct http_exchange *exchange);
void view_status(struct server *server, struct http_exchange *exchange);
void view_cancel(struct server *server, struct http_exchange *exchange);

#endif
