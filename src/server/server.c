/* The server's life: parts up in order, drain, parts down in the opposite order. */
#include "server/server.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/wait.h"
#include "server/internal.h"

enum status server_start(const struct server_options *options, struct server **out,
                         struct error *err)
{
    *out = NULL;
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return error_set(err, STATUS_MEMORY, "out of memory for the server");
    server->options = *options;
    server->started = (int64_t)time(NULL);
    metrics_init(&server->metrics);
    pthread_mutex_init(&server->queue_lock, NULL);
    pthread_mutex_init(&server->jobs_lock, NULL);
    pthread_mutex_init(&server->pump_lock, NULL);
    cond_init(&server->pump_wake);
    enum status status = names_read(server, err);
    if (status == STATUS_OK)
        status = jobs_start(server, err);
    if (status == STATUS_OK) {
        const struct http_options http = {.callbacks = server_callbacks, .context = server};
        status =
            http_server_start(&http, options->addresses, options->n_addresses, &server->http, err);
    }
    if (status == STATUS_OK)
        *out = server;
    else
        server_stop(server);
    return status;
}

void server_drain(struct server *server, unsigned seconds)
{
    const struct timespec pause = {0, 20000000};
    uint64_t begin = clock_now_ns(), most = (uint64_t)seconds * 1000000000u;
    atomic_store(&server->draining, true);
    while ((jobs_count(server) || http_server_active(server->http)) &&
           clock_now_ns() - begin < most)
        nanosleep(&pause, NULL);
    size_t left = jobs_count(server);
    if (left)
        log_warn("%zu requests were still in work after %u s: they end with an error", left,
                 seconds);
    jobs_abort(server);
}

void server_stop(struct server *server)
{
    if (!server)
        return;
    atomic_store(&server->draining, true);
    jobs_stop(server);
    http_server_stop(server->http, 2000);
    buf_release(&server->scratch);
    metrics_release(&server->metrics);
    pthread_mutex_destroy(&server->queue_lock);
    pthread_cond_destroy(&server->pump_wake);
    pthread_mutex_destroy(&server->pump_lock);
    pthread_mutex_destroy(&server->jobs_lock);
    free(server->served);
    free(server);
}
