/*
 * HTTP/1.1, apart from what is served over it: listening, limits, deadlines, streams, drain.
 *
 * An exchange is one request and its answer. The transport calls the application on its own threads
 * (struct http_callbacks: these must not block); the application answers from any thread, now or
 * later, whole (http_answer) or piece by piece (http_stream_*). While an exchange waits for its
 * answer it costs no thread and no polling of its own: the connection is suspended and one watcher
 * asks the kernel about all suspended sockets together, four times a second, whether they are gone.
 *
 * Ownership: an exchange has two references. The transport drops its one when the exchange is over
 * (`finished` has been called); the application drops the other with http_release(), which it owes
 * once per `headers` call. Strings given out by http_* getters live as long as the exchange.
 *
 * Threads: getters may be used from the callbacks on; answering functions from any one thread at a
 * time per exchange.
 */
#ifndef SLUICE_SERVER_HTTP_H
#define SLUICE_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

#define HTTP_HEADER_BYTES_MAX ((size_t)32 << 10)
#define HTTP_HEADER_LINES_MAX 100
#define HTTP_BODY_BYTES_MAX   ((size_t)64 << 20)
#define HTTP_BODIES_MAX       ((size_t)512 << 20) /* of all requests being read together */
#define HTTP_LISTENERS_MAX    16

struct http_server;
struct http_exchange;

struct http_header {
    const char *name, *value;
};

/* How an exchange ended. */
enum http_end {
    HTTP_ANSWERED, /* the whole answer left */
    HTTP_LEFT,     /* the client went away, or stopped reading for too long */
};

struct http_callbacks {
    /* The headers are in and within the limits. May answer (refuse) at once; the body is then
     * dropped and `request` is not called. */
    void (*headers)(void *context, struct http_exchange *exchange);
    /* The body is in. Answer, or keep the exchange and answer later. */
    void (*request)(void *context, struct http_exchange *exchange);
    /* The client has left: nobody will read the answer. May come at any time after `request`, at most
     * once; answering is still owed (it is dropped) and `finished` follows it. May be NULL. */
    void (*left)(void *context, struct http_exchange *exchange);
    /* Over. The last call about this exchange. */
    void (*finished)(void *context, struct http_exchange *exchange, enum http_end end);
    /* Answers that the transport makes by itself: fills in a body for the status. */
    void (*refusal)(void *context, struct http_exchange *exchange, unsigned status,
                    const char *message);
};

struct http_options {
    struct http_callbacks callbacks;
    void *context;
    unsigned header_seconds, body_seconds, idle_seconds, stall_seconds; /* 0: 10, 30, 75, 30 */
    unsigned max_connections; /* 0: as many as the process's files allow, at most 8192 */
    size_t body_bytes_max;    /* 0: HTTP_BODY_BYTES_MAX */
};

/* An address to listen on: "host:port", "[v6]:port", ":port", "unix:PATH". */
struct http_address {
    char text[256]; /* as it is bound: with the port that was chosen */
    bool loopback;  /* or a Unix socket */
    int fd;
};

/* Binds and listens. With `move`, a busy port is replaced by a free one (the text then says which).
 * STATUS_NETWORK says what is wrong with the address. */
enum status http_listen(const char *address, bool move, struct http_address *out,
                        struct error *err);

/* Starts serving on addresses bound by http_listen, whose descriptors become the server's. */
enum status http_server_start(const struct http_options *options,
                              const struct http_address *addresses, size_t n_addresses,
                              struct http_server **out, struct error *err);
/* Exchanges between their headers and their end. */
size_t http_server_active(struct http_server *server);
/* Waits until no exchange is active, or the time is up; whoever is left is cut off. Then frees. The
 * application has answered everything it holds by then, or will see its answers dropped. */
void http_server_stop(struct http_server *server, unsigned timeout_ms);

/* ---- the request ------------------------------------------------------------------------------ */

const char *http_method(const struct http_exchange *exchange); /* "GET" */
const char *http_path(const struct http_exchange *exchange);   /* decoded, without the query */
/* NULL if absent. Only in `headers` and `request`. */
const char *http_header(struct http_exchange *exchange, const char *name);
struct str http_body(const struct http_exchange *exchange);
/* The peer's address for the log. */
const char *http_peer(const struct http_exchange *exchange);
/* Frees the body early: a stream may live long after its request was understood. */
void http_drop_body(struct http_exchange *exchange);
void http_set_user(struct http_exchange *exchange, void *user);
void *http_user(const struct http_exchange *exchange);

/* ---- the answer ------------------------------------------------------------------------------- */

/* A header of the answer; before http_answer or http_stream_begin. Copied. */
void http_add_header(struct http_exchange *exchange, const char *name, const char *value);
/* The whole answer. Copied. The first answer counts, further ones are dropped. */
void http_answer(struct http_exchange *exchange, unsigned status, const char *content_type,
                 struct str body);
/* Status and headers leave now. */
void http_stream_begin(struct http_exchange *exchange, unsigned status, const char *content_type);
/* Appends to the stream and wakes the connection. Returns the bytes that wait to be sent. */
size_t http_stream_write(struct http_exchange *exchange, struct str data);
/* Bytes that wait to be sent. */
size_t http_stream_pending(struct http_exchange *exchange);
/* The stream is complete; or, where not `clean`, cut off so that the client notices. */
void http_stream_end(struct http_exchange *exchange, bool clean);
/* The connection closes after this answer. */
void http_close_after(struct http_exchange *exchange);
void http_retain(struct http_exchange *exchange);
void http_release(struct http_exchange *exchange);

#endif
