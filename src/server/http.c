/*
 * The transport on libmicrohttpd 0.9.75 (docs/http-library.md says why, and what it does not do).
 *
 * One library daemon, that is one epoll thread, per address. Its callbacks come in this order: a
 * connection (on_connection), a request line (on_request_line: the exchange is made), the headers,
 * the body in pieces, its end (all on_access), and the end of the exchange (on_completed). A refused
 * request's body is read and dropped before the answer where it is small, because closing a socket
 * with unread bytes resets it and may destroy the answer on its way.
 */
#define _GNU_SOURCE
#include "server/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/http_internal.h"

#define POOL_BYTES       ((size_t)96 << 10) /* of a connection: headers, and one block to send */
#define POOL_INCREMENT   ((size_t)4 << 10)
#define DROPPED_BODY_MAX ((uint64_t)1 << 20) /* a refused body up to this is read and dropped */
#define CONNECTIONS_MOST 8192
#define FILES_FOR_OTHERS 64 /* descriptors that connections leave to models, logs, ... */

/* ---- connections ------------------------------------------------------------------------------ */

static void set_deadline(struct http_connection *c, enum deadline_kind kind, unsigned seconds)
{
    pthread_mutex_lock(&c->server->lock);
    c->deadline_kind = kind;
    c->deadline_ns = clock_now_ns() + seconds * 1000000000ull;
    pthread_mutex_unlock(&c->server->lock);
    watcher_attend(c->server);
}

static void describe_peer(struct MHD_Connection *connection, char *out, size_t size)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *peer = info ? info->client_addr : NULL;
    char host[48] = "";
    snprintf(out, size, "unix");
    if (!peer || (peer->sa_family != AF_INET && peer->sa_family != AF_INET6))
        return;
    socklen_t length =
        peer->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (getnameinfo(peer, length, host, sizeof host, NULL, 0, NI_NUMERICHOST) == 0)
        snprintf(out, size, "%s", host);
}

static void connection_opened(struct http_server *server, struct MHD_Connection *connection,
                              void **socket_context)
{
    struct http_connection *c = calloc(1, sizeof *c);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *socket_context = c;
    if (!c || !info) {
        free(c);
        *socket_context = NULL;
        return;
    }
    c->server = server;
    c->fd = info->connect_fd;
    describe_peer(connection, c->peer, sizeof c->peer);
    pthread_mutex_lock(&server->lock);
    c->next = server->connections;
    if (c->next)
        c->next->previous = c;
    server->connections = c;
    server->n_connections++;
    pthread_mutex_unlock(&server->lock);
    set_deadline(c, DEADLINE_HEADERS, server->options.header_seconds);
}

static void connection_closed(struct http_server *server, struct http_connection *c)
{
    pthread_mutex_lock(&server->lock);
    if (c->previous)
        c->previous->next = c->next;
    else
        server->connections = c->next;
    if (c->next)
        c->next->previous = c->previous;
    server->n_connections--;
    pthread_mutex_unlock(&server->lock);
    free(c);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        connection_opened(context, connection, socket_context);
    else if (*socket_context)
        connection_closed(context, *socket_context);
}

static struct http_connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* ---- exchanges -------------------------------------------------------------------------------- */

static void *on_request_line(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct http_server *server = context;
    struct http_connection *c = connection_of(connection);
    struct http_exchange *exchange = c ? calloc(1, sizeof *exchange) : NULL;
    (void)uri;
    if (!exchange)
        return NULL;
    exchange->server = server;
    exchange->connection = connection;
    exchange->fd = c->fd;
    atomic_init(&exchange->references, 1);
    pthread_mutex_init(&exchange->lock, NULL);
    memcpy(exchange->peer, c->peer, sizeof exchange->peer);
    pthread_mutex_lock(&server->lock);
    c->exchange = exchange;
    if (c->deadline_kind != DEADLINE_HEADERS) { /* a further request on the connection */
        c->deadline_kind = DEADLINE_HEADERS;
        c->deadline_ns = clock_now_ns() + server->options.header_seconds * 1000000000ull;
    }
    pthread_mutex_unlock(&server->lock);
    watcher_attend(server);
    return exchange;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **request_context,
                         enum MHD_RequestTerminationCode code)
{
    struct http_server *server = context;
    struct http_connection *c = connection_of(connection);
    struct http_exchange *exchange = *request_context;
    *request_context = NULL;
    if (c) {
        pthread_mutex_lock(&server->lock);
        c->exchange = NULL;
        c->deadline_kind = DEADLINE_IDLE;
        c->deadline_ns = clock_now_ns() + server->options.idle_seconds * 1000000000ull;
        pthread_mutex_unlock(&server->lock);
        watcher_attend(server);
    }
    if (!exchange)
        return;
    http_drop_body(exchange);
    pthread_mutex_lock(&exchange->lock);
    bool answered = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !exchange->left &&
                    (exchange->answer != ANSWER_STREAM || (exchange->ended && exchange->clean));
    bool tell = exchange->handed && !answered && !exchange->left;
    exchange->left = exchange->left || !answered;
    pthread_mutex_unlock(&exchange->lock);
    if (exchange->told) {
        if (tell && server->options.callbacks.left)
            server->options.callbacks.left(server->options.context, exchange);
        server->options.callbacks.finished(server->options.context, exchange,
                                           answered ? HTTP_ANSWERED : HTTP_LEFT);
        atomic_fetch_sub(&server->active, 1);
    }
    exchange_unref(exchange);
}

/* ---- headers ---------------------------------------------------------------------------------- */

struct header_summary {
    unsigned lines, lengths, encodings, hosts;
    bool chunked, other_encoding, content_encoding, expects;
    bool spaced; /* a name with a space: proxies differ about what it means */
};

static enum MHD_Result summarize(void *context, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    struct header_summary *s = context;
    (void)kind;
    s->lines++;
    s->spaced = s->spaced || name[strcspn(name, " \t")];
    s->lengths += strcasecmp(name, "Content-Length") == 0;
    s->hosts += strcasecmp(name, "Host") == 0;
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        s->encodings++;
        s->chunked = value && strcasecmp(value, "chunked") == 0;
        s->other_encoding = s->other_encoding || !s->chunked;
    }
    if (strcasecmp(name, "Content-Encoding") == 0)
        s->content_encoding = s->content_encoding || !value || strcasecmp(value, "identity") != 0;
    if (strcasecmp(name, "Expect") == 0)
        s->expects = true;
    return MHD_YES;
}

static void refuse(struct http_exchange *exchange, unsigned status, const char *message)
{
    http_close_after(exchange);
    exchange->server->options.callbacks.refusal(exchange->server->options.context, exchange, status,
                                                message);
}

/* What HTTP itself forbids; what is left is the application's to judge. Returns the bytes of body
 * that are announced (UINT64_MAX: chunked). */
static uint64_t check_headers(struct http_exchange *exchange, struct header_summary *s)
{
    const struct http_server *server = exchange->server;
    *s = (struct header_summary){0};
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, summarize, s);
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *text = http_header(exchange, "Content-Length");
    char *end = NULL;
    uint64_t length = text ? strtoull(text, &end, 10) : 0;
    if (s->lines > HTTP_HEADER_LINES_MAX || (size && size->header_size > HTTP_HEADER_BYTES_MAX))
        refuse(exchange, 431, "the request has more than 100 header lines or 32 KiB of headers");
    else if (s->encodings && s->lengths)
        refuse(exchange, 400, "Content-Length and Transfer-Encoding exclude each other");
    else if (s->lengths > 1 || s->hosts > 1 || s->encodings > 1 || s->other_encoding)
        refuse(exchange, 400, "repeated Content-Length or Host, or an unknown Transfer-Encoding");
    else if (s->spaced)
        refuse(exchange, 400, "a header's name contains a space");
    else if (text && (text[0] < '0' || text[0] > '9' || *end))
        refuse(exchange, 400, "Content-Length is no number");
    else if (s->content_encoding)
        refuse(exchange, 415, "a Content-Encoding of the request body is not supported");
    else if (length > server->options.body_bytes_max)
        refuse(exchange, 413, "the request body is larger than this server takes");
    return s->chunked ? UINT64_MAX : length;
}

static bool has_answer(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    bool answered = exchange->answer != ANSWER_NONE;
    pthread_mutex_unlock(&exchange->lock);
    return answered;
}

/* The first call of on_access for a request. */
static enum MHD_Result look_at_headers(struct http_exchange *exchange, const char *url,
                                       const char *method, const char *version)
{
    struct http_server *server = exchange->server;
    struct http_connection *c = connection_of(exchange->connection);
    struct header_summary summary;
    exchange->checked = true;
    exchange->path = strdup(url);
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    exchange->framed = strcmp(version, "HTTP/1.1") == 0 && strcmp(method, "HEAD") != 0;
    if (!exchange->path)
        return MHD_NO;
    atomic_fetch_add(&exchange->references, 1); /* the application's */
    exchange->told = true;
    atomic_fetch_add(&server->active, 1);
    set_deadline(c, DEADLINE_BODY, server->options.body_seconds); /* counted first: it is watched */
    uint64_t length = check_headers(exchange, &summary);
    bool broken = has_answer(exchange);
    server->options.callbacks.headers(server->options.context, exchange);
    exchange->refused = has_answer(exchange);
    bool drop = length <= DROPPED_BODY_MAX || length == UINT64_MAX;
    if (!exchange->refused || (drop && !broken && !summary.expects))
        return MHD_YES;
    http_close_after(exchange);
    return exchange_queue(exchange);
}

/* ---- body ------------------------------------------------------------------------------------- */

/* An answer in the middle of a body: the library has no way to send one, so it goes past it. */
static enum MHD_Result cut_off(struct http_exchange *exchange, unsigned status, const char *reason)
{
    struct http_connection *c = connection_of(exchange->connection);
    pthread_mutex_lock(&exchange->server->lock);
    connection_refuse(c, status, reason);
    pthread_mutex_unlock(&exchange->server->lock);
    return MHD_NO;
}

static enum MHD_Result take_body(struct http_exchange *exchange, const char *data, size_t *size)
{
    struct http_server *server = exchange->server;
    size_t n = *size;
    *size = 0;
    exchange->body_counted += n;
    size_t all = atomic_fetch_add(&server->body_bytes, n) + n;
    size_t most = exchange->refused ? (size_t)DROPPED_BODY_MAX : server->options.body_bytes_max;
    if (exchange->body_counted > most)
        return cut_off(exchange, 413, "Payload Too Large");
    if (exchange->refused)
        return MHD_YES;
    if (all > HTTP_BODIES_MAX)
        return cut_off(exchange, 503, "Service Unavailable");
    buf_append(&exchange->body, data, n);
    return exchange->body.failed ? cut_off(exchange, 503, "Service Unavailable") : MHD_YES;
}

/* The body is complete, or the connection was resumed: answer, or sleep until there is one. */
static enum MHD_Result answer_or_wait(struct http_exchange *exchange)
{
    struct http_server *server = exchange->server;
    if (!exchange->handed) {
        set_deadline(connection_of(exchange->connection), DEADLINE_NONE, 0);
        exchange->handed = true;
        if (!exchange->refused)
            server->options.callbacks.request(server->options.context, exchange);
    }
    pthread_mutex_lock(&exchange->lock);
    bool left = exchange->left, ready = left || exchange->answer != ANSWER_NONE;
    if (!ready) {
        exchange->suspended = true;
        exchange->suspensions++;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (left)
        return MHD_NO;
    return ready ? exchange_queue(exchange) : MHD_YES;
}

static enum MHD_Result on_access(void *context, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload_data,
                                 size_t *upload_data_size, void **request_context)
{
    struct http_exchange *exchange = *request_context;
    (void)context;
    (void)connection;
    if (!exchange)
        return MHD_NO;
    if (!exchange->checked)
        return look_at_headers(exchange, url, method, version);
    if (*upload_data_size > 0)
        return take_body(exchange, upload_data, upload_data_size);
    return answer_or_wait(exchange);
}

/* ---- start and stop --------------------------------------------------------------------------- */

static void set_defaults(struct http_options *o)
{
    struct rlimit files = {0};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max == RLIM_INFINITY ? 65536 : files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        getrlimit(RLIMIT_NOFILE, &files);
    }
    unsigned most = CONNECTIONS_MOST;
    if (files.rlim_cur < most + FILES_FOR_OTHERS)
        most = files.rlim_cur > 2 * FILES_FOR_OTHERS ? (unsigned)files.rlim_cur - FILES_FOR_OTHERS
                                                     : FILES_FOR_OTHERS;
    o->max_connections = o->max_connections ? o->max_connections : most;
    o->header_seconds = o->header_seconds ? o->header_seconds : 10;
    o->body_seconds = o->body_seconds ? o->body_seconds : 30;
    o->idle_seconds = o->idle_seconds ? o->idle_seconds : 75;
    o->stall_seconds = o->stall_seconds ? o->stall_seconds : 30;
    o->body_bytes_max = o->body_bytes_max ? o->body_bytes_max : HTTP_BODY_BYTES_MAX;
}

static void on_library_log(void *context, const char *format, va_list args)
{
    char text[256];
    (void)context;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("http: %s", text);
}

static enum status start_daemon(struct http_server *server, const struct http_address *address,
                                struct error *err)
{
    unsigned flags = MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ITC |
                     MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_Daemon *daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_access, server, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, address->fd, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
        MHD_OPTION_URI_LOG_CALLBACK, on_request_line, server, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, server, MHD_OPTION_CONNECTION_MEMORY_LIMIT, POOL_BYTES,
        MHD_OPTION_CONNECTION_MEMORY_INCREMENT, POOL_INCREMENT, MHD_OPTION_CONNECTION_LIMIT,
        server->options.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (!daemon)
        return error_set(err, STATUS_NETWORK, "%s: the HTTP library cannot start", address->text);
    if (strncmp(address->text, "unix:", 5) == 0)
        snprintf(server->unix_paths[server->n_daemons], sizeof *server->unix_paths, "%s",
                 address->text + 5);
    server->daemons[server->n_daemons++] = daemon;
    return STATUS_OK;
}

enum status http_server_start(const struct http_options *options,
                              const struct http_address *addresses, size_t n_addresses,
                              struct http_server **out, struct error *err)
{
    *out = NULL;
    struct http_server *server = calloc(1, sizeof *server);
    if (!server || n_addresses > HTTP_LISTENERS_MAX) {
        free(server);
        return error_set(err, server ? STATUS_USAGE : STATUS_MEMORY,
                         "at most %d addresses to listen on", HTTP_LISTENERS_MAX);
    }
    server->options = *options;
    set_defaults(&server->options);
    pthread_mutex_init(&server->lock, NULL);
    enum status status = watcher_start(server, err);
    size_t i = 0;
    for (; i < n_addresses && status == STATUS_OK; i++)
        status = start_daemon(server, &addresses[i], err);
    if (status != STATUS_OK) {
        for (size_t rest = i; rest < n_addresses; rest++)
            close(addresses[rest].fd);
        http_server_stop(server, 0);
        return status;
    }
    *out = server;
    return STATUS_OK;
}

size_t http_server_active(struct http_server *server)
{
    return atomic_load(&server->active);
}

/* Whoever is still suspended would make the library's stop fail. */
static void cut_off_all(struct http_server *server)
{
    pthread_mutex_lock(&server->lock);
    for (struct http_connection *c = server->connections; c; c = c->next) {
        if (!c->exchange)
            continue;
        pthread_mutex_lock(&c->exchange->lock);
        if (c->exchange->suspended) {
            c->exchange->left = true;
            exchange_resume(c->exchange);
        }
        pthread_mutex_unlock(&c->exchange->lock);
        shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server->lock);
}

void http_server_stop(struct http_server *server, unsigned timeout_ms)
{
    if (!server)
        return;
    const struct timespec pause = {0, 5000000};
    uint64_t begin = clock_now_ns();
    while (http_server_active(server) && clock_now_ns() - begin < (uint64_t)timeout_ms * 1000000u)
        nanosleep(&pause, NULL);
    /* A connection may go to sleep again until the application has seen that its client left. */
    for (int i = 0; i < 400 && http_server_active(server); i++) {
        cut_off_all(server);
        nanosleep(&pause, NULL);
    }
    watcher_stop(server);
    for (size_t i = 0; i < server->n_daemons; i++) {
        MHD_stop_daemon(server->daemons[i]);
        if (server->unix_paths[i][0])
            unlink(server->unix_paths[i]);
    }
    pthread_mutex_destroy(&server->lock);
    free(server);
}
