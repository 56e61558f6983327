/*
 * A client that can misbehave: plain blocking sockets, bytes as they are. Shared by the HTTP tests;
 * every function fails the running test where the socket itself does.
 */
#ifndef SLUICE_TESTS_HTTP_CLIENT_H
#define SLUICE_TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

static uint16_t client_port; /* of the server under test */

static inline int client_connect(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET,
                               .sin_port = htons(client_port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) != 0) {
        fprintf(stderr, "connect to port %u: %s\n", client_port, strerror(errno));
        abort();
    }
    return fd;
}

/* Sends all it can; false where the server closed. */
static inline bool client_send(int fd, const void *data, size_t length)
{
    const char *at = data;
    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        at += n;
        length -= (size_t)n;
    }
    return true;
}

static inline bool client_send_text(int fd, const char *text)
{
    return client_send(fd, text, strlen(text));
}

/* Appends what arrives until `until` is in the text, the peer closes or the time is up. */
static inline bool client_read_until(int fd, struct buf *out, const char *until, int timeout_ms)
{
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    for (;;) {
        if (until && out->data && strstr(out->data, until))
            return true;
        uint64_t now = clock_now_ns();
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        if (now >= end || poll(&poller, 1, (int)((end - now) / 1000000u) + 1) <= 0)
            return false;
        char block[16384];
        ssize_t n = recv(fd, block, sizeof block, 0);
        if (n <= 0)
            return !until;
        buf_append(out, block, (size_t)n);
    }
}

struct answer {
    int status;       /* 0: closed without an answer */
    struct buf text;  /* head and body as they came */
    const char *body; /* decoded where it was chunked */
    bool complete;    /* the body ended as it announced */
};

static inline void answer_release(struct answer *answer)
{
    buf_release(&answer->text);
}

/* Joins the chunks in place; false where the last one is missing. */
static inline bool client_dechunk(char *body)
{
    char *in = body, *out = body;
    for (;;) {
        char *end;
        unsigned long n = strtoul(in, &end, 16);
        if (end == in || strncmp(end, "\r\n", 2) != 0 || n > strlen(end + 2)) {
            *out = 0;
            return false;
        }
        in = end + 2;
        memmove(out, in, n);
        out += n;
        in += n;
        if (n == 0) {
            *out = 0;
            return true;
        }
        in += strncmp(in, "\r\n", 2) == 0 ? 2 : 0;
    }
}

/* The value of a header in an answer's head, or NULL; in a static buffer. */
static inline const char *answer_header(const struct answer *answer, const char *name)
{
    static char value[4096];
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\r\n%s: ", name);
    const char *found = answer->text.data ? strstr(answer->text.data, wanted) : NULL;
    if (!found || (answer->body && found > answer->body))
        return NULL;
    snprintf(value, sizeof value, "%s", found + strlen(wanted));
    value[strcspn(value, "\r\n")] = 0;
    return value;
}

/* Reads one answer that ends with the connection, its length, or its last chunk. */
static inline struct answer client_answer(int fd, int timeout_ms)
{
    struct answer answer = {0};
    bool head = client_read_until(fd, &answer.text, "\r\n\r\n", timeout_ms);
    if (!head)
        return answer;
    sscanf(answer.text.data, "HTTP/1.1 %d", &answer.status);
    size_t begin = (size_t)(strstr(answer.text.data, "\r\n\r\n") + 4 - answer.text.data);
    answer.body = answer.text.data + begin;
    const char *length = answer_header(&answer, "Content-Length");
    if (length) {
        size_t n = strtoul(length, NULL, 10);
        while (answer.text.len < begin + n) {
            struct pollfd poller = {.fd = fd, .events = POLLIN};
            char block[16384];
            size_t wanted = begin + n - answer.text.len;
            ssize_t got = 0;
            if (poll(&poller, 1, timeout_ms) > 0)
                got = recv(fd, block, wanted < sizeof block ? wanted : sizeof block, 0);
            if (got <= 0)
                break;
            buf_append(&answer.text, block, (size_t)got);
        }
        answer.complete = answer.text.len == begin + n;
        answer.body = answer.text.data + begin;
        return answer;
    }
    if (answer_header(&answer, "Transfer-Encoding")) {
        client_read_until(fd, &answer.text, "\r\n0\r\n\r\n", timeout_ms);
        answer.complete = client_dechunk(answer.text.data + begin);
    } else {
        client_read_until(fd, &answer.text, NULL, timeout_ms);
    }
    answer.body = answer.text.data + begin;
    return answer;
}

/* Sends a request on a fresh connection, which it returns. `head` has further header lines, each with
 * its CRLF; body: NULL for none. */
static inline int client_begin(const char *method, const char *path, const char *head,
                               const char *body)
{
    struct buf text = {0};
    buf_printf(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, path, head ? head : "");
    if (body)
        buf_printf(&text, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                   strlen(body));
    buf_append_cstr(&text, "\r\n");
    if (body)
        buf_append_cstr(&text, body);
    int fd = client_connect();
    client_send(fd, text.data, text.len);
    buf_release(&text);
    return fd;
}

/* A whole exchange. */
static inline struct answer client_call(const char *method, const char *path, const char *head,
                                        const char *body)
{
    int fd = client_begin(method, path, head, body);
    struct answer answer = client_answer(fd, 60000);
    close(fd);
    return answer;
}

#endif
