/*
 * The watcher: what libmicrohttpd does not do for suspended connections, or does per byte.
 *
 * While requests are in work, one poll(2) over all suspended sockets every quarter of a second asks
 * which peers have hung up (the library leaves a suspended socket alone, so nobody else would notice),
 * and the list of connections is searched for passed deadlines. With none in work it sleeps until the
 * first deadline of an idle connection, or for good. Deadlines are absolute: the library's own time-out
 * starts again with every byte. A request that is too slow gets its 408 written straight to the
 * socket: the library answers complete requests only, and has sent nothing for this one.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/wait.h"
#include "server/http_internal.h"

#define TICK_NS 250000000u

#ifdef POLLRDHUP
#define HANGUP POLLRDHUP
#else
#define HANGUP 0 /* POLLHUP is always reported */
#endif

void connection_refuse(struct http_connection *connection, unsigned status, const char *reason)
{
    char text[256];
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 %u %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                          status, reason);
#ifdef MSG_NOSIGNAL
    ssize_t sent = send(connection->fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);
#else
    ssize_t sent = send(connection->fd, text, (size_t)length, MSG_DONTWAIT);
#endif
    (void)sent; /* whoever does not take it finds the connection closed */
    shutdown(connection->fd, SHUT_RDWR);
}

static bool reserve(struct http_server *server, size_t n)
{
    if (n <= server->watch_capacity)
        return true;
    size_t capacity = 2 * n + 64;
    struct pollfd *polls = realloc(server->polls, capacity * sizeof *polls);
    if (polls)
        server->polls = polls;
    struct watched *watched = realloc(server->watched, capacity * sizeof *watched);
    if (watched)
        server->watched = watched;
    if (!polls || !watched)
        return false;
    server->watch_capacity = capacity;
    return true;
}

/* Marks the exchange as left and lets the library close it. False: it is not suspended (in the same
 * way) any more, so the library is looking after it. */
static bool leave(struct http_exchange *exchange, uint32_t suspension)
{
    pthread_mutex_lock(&exchange->lock);
    bool same = exchange->suspended && exchange->suspensions == suspension && !exchange->left;
    if (same)
        exchange->left = true;
    pthread_mutex_unlock(&exchange->lock);
    return same;
}

/* With server->lock held: collects who is suspended, with a reference each. */
static size_t collect(struct http_server *server)
{
    size_t n = 0;
    if (!reserve(server, server->n_connections))
        return 0;
    for (struct http_connection *c = server->connections; c; c = c->next) {
        struct http_exchange *exchange = c->exchange;
        if (!exchange)
            continue;
        pthread_mutex_lock(&exchange->lock);
        if (exchange->suspended && !exchange->left) {
            server->polls[n] = (struct pollfd){.fd = c->fd, .events = HANGUP};
            server->watched[n++] = (struct watched){exchange, exchange->suspensions};
            atomic_fetch_add(&exchange->references, 1);
        }
        pthread_mutex_unlock(&exchange->lock);
    }
    return n;
}

static void look_for_leavers(struct http_server *server)
{
    pthread_mutex_lock(&server->lock);
    size_t n = collect(server);
    /* Under the lock no watched socket is closed, so no number means another socket. */
    int ready = n ? poll(server->polls, (nfds_t)n, 0) : 0;
    pthread_mutex_unlock(&server->lock);
    for (size_t i = 0; i < n; i++) {
        struct http_exchange *exchange = server->watched[i].exchange;
        pthread_mutex_lock(&exchange->lock);
        exchange_send_tail(exchange);
        pthread_mutex_unlock(&exchange->lock);
        bool gone = ready > 0 && (server->polls[i].revents & (HANGUP | POLLHUP | POLLERR));
        if (gone && leave(exchange, server->watched[i].suspension)) {
            if (server->options.callbacks.left && exchange->told)
                server->options.callbacks.left(server->options.context, exchange);
            pthread_mutex_lock(&exchange->lock);
            exchange_resume(exchange);
            pthread_mutex_unlock(&exchange->lock);
        }
        exchange_unref(exchange);
    }
}

/* True where the client has owed us a read for too long. */
static bool stalled(const struct http_server *server, struct http_exchange *exchange, uint64_t now)
{
    pthread_mutex_lock(&exchange->lock);
    bool waiting = exchange->queued && (!exchange->suspended || exchange->tail.len > 0);
    bool late = waiting && now > exchange->progress_ns &&
                now - exchange->progress_ns > server->options.stall_seconds * 1000000000ull;
    pthread_mutex_unlock(&exchange->lock);
    return late;
}

/* Returns when to look again. */
static uint64_t enforce_deadlines(struct http_server *server, uint64_t now)
{
    uint64_t next = atomic_load(&server->active) ? now + TICK_NS : WAIT_FOREVER;
    pthread_mutex_lock(&server->lock);
    for (struct http_connection *c = server->connections; c; c = c->next) {
        if (c->deadline_kind != DEADLINE_NONE && now > c->deadline_ns) {
            if (c->deadline_kind == DEADLINE_IDLE)
                shutdown(c->fd, SHUT_RDWR);
            else
                connection_refuse(c, 408, "Request Timeout");
            c->deadline_kind = DEADLINE_NONE;
        } else if (c->exchange && stalled(server, c->exchange, now)) {
            shutdown(c->fd, SHUT_RDWR);
        }
        if (c->deadline_kind != DEADLINE_NONE && c->deadline_ns < next)
            next = c->deadline_ns;
    }
    pthread_mutex_unlock(&server->lock);
    return next;
}

void watcher_attend(struct http_server *server)
{
    uint64_t tick = clock_now_ns() + TICK_NS;
    if (atomic_load(&server->watch_ns) <= tick)
        return;
    pthread_mutex_lock(&server->watch_lock);
    atomic_store(&server->watch_ns, tick);
    pthread_cond_signal(&server->watch_wake);
    pthread_mutex_unlock(&server->watch_lock);
}

static void *watch(void *context)
{
    struct http_server *server = context;
    pthread_mutex_lock(&server->watch_lock);
    while (!server->stopping) {
        if (clock_now_ns() < atomic_load(&server->watch_ns)) {
            cond_wait_until(&server->watch_wake, &server->watch_lock,
                            atomic_load(&server->watch_ns));
            continue;
        }
        /* Whoever comes while we look may have been passed by already: it asks for another look. */
        atomic_store(&server->watch_ns, WAIT_FOREVER);
        pthread_mutex_unlock(&server->watch_lock);
        look_for_leavers(server);
        uint64_t next = enforce_deadlines(server, clock_now_ns());
        pthread_mutex_lock(&server->watch_lock);
        if (next < atomic_load(&server->watch_ns))
            atomic_store(&server->watch_ns, next);
    }
    pthread_mutex_unlock(&server->watch_lock);
    return NULL;
}

enum status watcher_start(struct http_server *server, struct error *err)
{
    pthread_mutex_init(&server->watch_lock, NULL);
    cond_init(&server->watch_wake);
    atomic_init(&server->watch_ns, WAIT_FOREVER);
    int result = pthread_create(&server->watcher, NULL, watch, server);
    if (result != 0)
        return error_set(err, STATUS_MEMORY, "cannot start a thread: %s", strerror(result));
    server->watching = true;
    return STATUS_OK;
}

void watcher_stop(struct http_server *server)
{
    if (server->watching) {
        pthread_mutex_lock(&server->watch_lock);
        server->stopping = true;
        pthread_cond_signal(&server->watch_wake);
        pthread_mutex_unlock(&server->watch_lock);
        pthread_join(server->watcher, NULL);
        server->watching = false;
    }
    free(server->polls);
    free(server->watched);
    server->polls = NULL;
    server->watched = NULL;
}
