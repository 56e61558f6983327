/*
 * Inside the transport: connections, exchanges, and which lock guards what.
 *
 *   listen.c     addresses                      http.c      libmicrohttpd's callbacks, start and stop
 *   answer.c     what the application calls     watch.c     who is gone, who is too slow
 *
 * server->lock guards the list of connections, their deadlines and their `exchange`; a connection
 * in the list has an open socket (it is taken out before the library closes the socket), so the
 * watcher may shut it down. exchange->lock guards the answer and the suspension. Order: server
 * first, then exchange; the library's functions are called with either held, but it never calls
 * back from within them.
 */
#ifndef SLUICE_SERVER_HTTP_INTERNAL_H
#define SLUICE_SERVER_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "server/http.h"

#define ANSWER_HEADERS_MAX 8

enum deadline_kind {
    DEADLINE_NONE,
    DEADLINE_HEADERS, /* 408 */
    DEADLINE_BODY,    /* 408 */
    DEADLINE_IDLE,    /* closed without a word */
};

struct http_connection {
    struct http_server *server;
    struct http_connection *previous, *next;
    struct http_exchange *exchange; /* NULL between two */
    int fd;
    char peer[64];
    enum deadline_kind deadline_kind;
    uint64_t deadline_ns;
};

enum answer_kind { ANSWER_NONE, ANSWER_WHOLE, ANSWER_STREAM };

struct http_exchange {
    struct http_server *server;
    struct MHD_Connection *connection;
    int fd;
    atomic_uint references;
    char *path; /* owned */
    char method[16];
    char peer[64];
    void *user;
    struct buf body;
    bool checked; /* the headers were looked at */
    bool told;    /* the application knows of it: `finished` is due */
    bool refused; /* answered before the body: the body is dropped */
    bool handed;  /* `request` was called */
    size_t body_counted;

    pthread_mutex_t lock;
    enum answer_kind answer;
    unsigned status;
    char content_type[64];
    struct {
        char name[48], value[512];
    } headers[ANSWER_HEADERS_MAX];
    size_t n_headers;
    struct buf output; /* the whole answer, or what of the stream was not sent yet */
    size_t sent;       /* of output */
    bool ended, clean; /* of a stream */
    bool close_after;
    bool queued; /* the library has the response */
    bool suspended;
    bool framed;          /* a stream leaves in chunks: HTTP/1.1 */
    bool asleep;          /* suspended within a stream, of which the library holds nothing */
    struct buf tail;      /* asleep: the rest of a chunk that went past the library */
    uint32_t suspensions; /* so far: tells one suspension from the next */
    bool left;
    uint64_t progress_ns; /* the client last took something */
};

struct http_server {
    struct http_options options;
    struct MHD_Daemon *daemons[HTTP_LISTENERS_MAX];
    size_t n_daemons;
    char unix_paths[HTTP_LISTENERS_MAX][112]; /* removed at stop */
    pthread_mutex_t lock;
    struct http_connection *connections;
    size_t n_connections;
    atomic_size_t active;
    atomic_size_t body_bytes; /* being read, of all exchanges */
    pthread_t watcher;
    pthread_mutex_t watch_lock;
    pthread_cond_t watch_wake;
    bool watching, stopping;
    atomic_ullong watch_ns; /* the watcher looks then; WAIT_FOREVER: when it is asked to */
    /* The watcher's own. */
    struct pollfd *polls;
    struct watched {
        struct http_exchange *exchange;
        uint32_t suspension;
    } * watched;
    size_t watch_capacity;
};

/* answer.c. With exchange->lock held: lets the library go on with a suspended connection. */
void exchange_resume(struct http_exchange *exchange);
void exchange_unref(struct http_exchange *exchange);
/* Hands the answer to the library; without the lock. */
enum MHD_Result exchange_queue(struct http_exchange *exchange);
/* With exchange->lock held: sends of the tail what the socket takes. */
void exchange_send_tail(struct http_exchange *exchange);

/* watch.c */
enum status watcher_start(struct http_server *server, struct error *err);
void watcher_stop(struct http_server *server);
/* A deadline was set, or a request is in work: the watcher looks within a tick. */
void watcher_attend(struct http_server *server);
/* With server->lock held: writes a bare answer past the library, which has sent nothing for this
 * request yet, and shuts the socket. The library cannot answer before a request is complete. */
void connection_refuse(struct http_connection *connection, unsigned status, const char *reason);

#endif
