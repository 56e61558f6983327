/*
 * Answers: kept in the exchange under its lock until the library's thread takes them. Whoever adds
 * something wakes the connection if it sleeps; the library asks for more by stream_read() and is put
 * to sleep there when nothing is left.
 *
 * A stream that sleeps in stream_read() has sent everything, and the library leaves its socket alone.
 * So a piece that comes then goes to the socket at once, as a chunk of the chunked encoding: waking
 * the library's thread for every token took as long as making its text, and on a machine whose
 * processors all compute it held those up. What the socket does not take of a chunk is the `tail`: the
 * watcher sends it on, and only then the library may go on with what came after.
 */
#ifdef __linux__
#define _GNU_SOURCE /* MSG_NOSIGNAL */
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "server/http_internal.h"

#define BLOCK_BYTES        16384
#define OUTPUT_COMPACT_MIN 65536
#define DIRECT_BYTES_MAX   16384 /* larger pieces are the library's: it follows the socket closely */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* the program ignores SIGPIPE */
#endif

void exchange_unref(struct http_exchange *exchange)
{
    if (atomic_fetch_sub_explicit(&exchange->references, 1, memory_order_acq_rel) != 1)
        return;
    buf_release(&exchange->body);
    buf_release(&exchange->output);
    buf_release(&exchange->tail);
    pthread_mutex_destroy(&exchange->lock);
    free(exchange->path);
    free(exchange);
}

void http_retain(struct http_exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
}

void http_release(struct http_exchange *exchange)
{
    exchange_unref(exchange);
}

void exchange_resume(struct http_exchange *exchange)
{
    if (!exchange->suspended)
        return;
    exchange->suspended = exchange->asleep = false;
    exchange->progress_ns = clock_now_ns(); /* the watcher counts from now */
    MHD_resume_connection(exchange->connection);
}

/* The library's content reader. */
static ssize_t stream_read(void *context, uint64_t position, char *out, size_t max)
{
    struct http_exchange *exchange = context;
    (void)position;
    pthread_mutex_lock(&exchange->lock);
    size_t waiting = exchange->output.len - exchange->sent;
    ssize_t result = 0;
    exchange->progress_ns = clock_now_ns();
    if (exchange->left) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (waiting > 0) {
        size_t n = waiting < max ? waiting : max;
        memcpy(out, exchange->output.data + exchange->sent, n);
        exchange->sent += n;
        if (exchange->sent == exchange->output.len) {
            buf_clear(&exchange->output);
            exchange->sent = 0;
        }
        result = (ssize_t)n;
    } else if (exchange->ended) {
        result =
            exchange->clean ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        exchange->suspended = exchange->asleep = true;
        exchange->suspensions++;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    return result;
}

/* ---- past the library; with the lock held ----------------------------------------------------- */

static size_t waiting_bytes(const struct http_exchange *exchange)
{
    return exchange->output.len - exchange->sent + exchange->tail.len;
}

/* Lets the library go on with a stream that has something for it. */
static void wake(struct http_exchange *exchange)
{
    if (exchange->tail.len == 0 && (exchange->ended || exchange->output.len > exchange->sent))
        exchange_resume(exchange);
}

/* Bytes that the socket took; 0 also where it is gone, which the library or the watcher finds out. */
static size_t send_parts(int fd, struct iovec *parts, size_t n)
{
    struct msghdr message = {.msg_iov = parts};
    message.msg_iovlen = n; /* of a type that differs between systems */
    ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent > 0 ? (size_t)sent : 0;
}

/* A stream with a hole would be a lie. */
static void break_stream(struct http_exchange *exchange)
{
    exchange->ended = true;
    exchange->clean = false;
    buf_release(&exchange->tail);
}

/* False: nothing was sent. */
static bool send_chunk(struct http_exchange *exchange, struct str data)
{
    char size[24], end[] = "\r\n";
    int n = snprintf(size, sizeof size, "%zx\r\n", data.len);
    struct iovec parts[] = {{size, (size_t)n}, {(void *)(uintptr_t)data.data, data.len}, {end, 2}};
    size_t sent = send_parts(exchange->fd, parts, 3);
    if (sent == 0)
        return false;
    for (size_t i = 0; i < 3; i++) {
        size_t skip = sent < parts[i].iov_len ? sent : parts[i].iov_len;
        buf_append(&exchange->tail, (const char *)parts[i].iov_base + skip,
                   parts[i].iov_len - skip);
        sent -= skip;
    }
    if (exchange->tail.failed)
        break_stream(exchange);
    return true;
}

void exchange_send_tail(struct http_exchange *exchange)
{
    struct buf *tail = &exchange->tail;
    if (!exchange->asleep || tail->len == 0)
        return;
    struct iovec part = {tail->data, tail->len};
    size_t sent = send_parts(exchange->fd, &part, 1);
    if (sent == 0)
        return;
    exchange->progress_ns = clock_now_ns();
    memmove(tail->data, tail->data + sent, tail->len - sent);
    tail->len -= sent;
    wake(exchange);
}

/* ---- for the library --------------------------------------------------------------------------- */

static struct MHD_Response *make_response(struct http_exchange *exchange)
{
    if (exchange->answer == ANSWER_STREAM)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, stream_read,
                                                 exchange, NULL);
    struct buf *body = &exchange->output;
    return MHD_create_response_from_buffer(body->len, body->len ? body->data : "",
                                           MHD_RESPMEM_MUST_COPY);
}

/* Without the lock: the library takes a lock of the response here, and holds that one while it calls
 * stream_read(), which takes ours. An answer that was begun does not change any more, but for the
 * bytes of a stream. */
enum MHD_Result exchange_queue(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    bool left = exchange->left, close_after = exchange->close_after;
    exchange->queued = true;
    exchange->progress_ns = clock_now_ns();
    pthread_mutex_unlock(&exchange->lock);
    struct MHD_Response *response = left ? NULL : make_response(exchange);
    if (!response)
        return MHD_NO;
    if (exchange->content_type[0])
        MHD_add_response_header(response, "Content-Type", exchange->content_type);
    for (size_t i = 0; i < exchange->n_headers; i++)
        MHD_add_response_header(response, exchange->headers[i].name, exchange->headers[i].value);
    if (close_after)
        MHD_add_response_header(response, "Connection", "close");
    enum MHD_Result result = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    return result;
}

void http_add_header(struct http_exchange *exchange, const char *name, const char *value)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->answer == ANSWER_NONE && exchange->n_headers < ANSWER_HEADERS_MAX) {
        size_t i = exchange->n_headers++;
        snprintf(exchange->headers[i].name, sizeof exchange->headers[i].name, "%s", name);
        snprintf(exchange->headers[i].value, sizeof exchange->headers[i].value, "%s", value);
    }
    pthread_mutex_unlock(&exchange->lock);
}

static bool begin(struct http_exchange *exchange, enum answer_kind kind, unsigned status,
                  const char *content_type)
{
    if (exchange->answer != ANSWER_NONE)
        return false;
    exchange->answer = kind;
    exchange->status = status;
    snprintf(exchange->content_type, sizeof exchange->content_type, "%s",
             content_type ? content_type : "");
    return true;
}

void http_answer(struct http_exchange *exchange, unsigned status, const char *content_type,
                 struct str body)
{
    pthread_mutex_lock(&exchange->lock);
    if (begin(exchange, ANSWER_WHOLE, status, content_type)) {
        buf_append_str(&exchange->output, body);
        if (exchange->output.failed) {
            buf_release(&exchange->output);
            exchange->status = 500;
        }
        exchange_resume(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_stream_begin(struct http_exchange *exchange, unsigned status, const char *content_type)
{
    pthread_mutex_lock(&exchange->lock);
    if (begin(exchange, ANSWER_STREAM, status, content_type))
        exchange_resume(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

/* Moves what waits to the front once the sent part is the larger one. */
static void compact(struct http_exchange *exchange)
{
    struct buf *output = &exchange->output;
    if (exchange->sent < OUTPUT_COMPACT_MIN || exchange->sent < output->len / 2)
        return;
    memmove(output->data, output->data + exchange->sent, output->len - exchange->sent + 1);
    output->len -= exchange->sent;
    exchange->sent = 0;
}

size_t http_stream_write(struct http_exchange *exchange, struct str data)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->answer == ANSWER_STREAM && !exchange->ended && !exchange->left) {
        compact(exchange);
        bool first = waiting_bytes(exchange) == 0;
        if (first)
            exchange->progress_ns = clock_now_ns(); /* nobody owed us anything until now */
        bool direct = first && exchange->asleep && exchange->framed && data.len > 0 &&
                      data.len <= DIRECT_BYTES_MAX;
        if (!direct || !send_chunk(exchange, data))
            buf_append_str(&exchange->output, data);
        if (exchange->output.failed)
            break_stream(exchange);
        wake(exchange);
    }
    size_t waiting = waiting_bytes(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return waiting;
}

size_t http_stream_pending(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    size_t waiting = waiting_bytes(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return waiting;
}

void http_stream_end(struct http_exchange *exchange, bool clean)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->answer == ANSWER_STREAM && !exchange->ended) {
        exchange->ended = true;
        exchange->clean = clean;
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_close_after(struct http_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    exchange->close_after = true;
    pthread_mutex_unlock(&exchange->lock);
}

/* ---- the request ------------------------------------------------------------------------------ */

const char *http_method(const struct http_exchange *exchange)
{
    return exchange->method;
}

const char *http_path(const struct http_exchange *exchange)
{
    return exchange->path;
}

const char *http_header(struct http_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

struct str http_body(const struct http_exchange *exchange)
{
    return buf_str(&exchange->body);
}

const char *http_peer(const struct http_exchange *exchange)
{
    return exchange->peer;
}

void http_drop_body(struct http_exchange *exchange)
{
    buf_release(&exchange->body);
    atomic_fetch_sub(&exchange->server->body_bytes, exchange->body_counted);
    exchange->body_counted = 0;
}

void http_set_user(struct http_exchange *exchange, void *user)
{
    exchange->user = user;
}

void *http_user(const struct http_exchange *exchange)
{
    return exchange->user;
}
