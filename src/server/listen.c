/*
 * Addresses as people type them, bound by us and handed to the HTTP library: only so can a busy
 * port move to a free one, a Unix socket be served, and one message say what is wrong.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http.h"

#define BACKLOG 1024

static enum status listen_on(int fd, const char *address, struct error *err)
{
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (listen(fd, BACKLOG) == 0)
        return STATUS_OK;
    enum status status =
        error_set(err, STATUS_NETWORK, "%s: cannot listen: %s", address, strerror(errno));
    close(fd);
    return status;
}

/* A socket file that nobody listens on is left over from a server that died, and is removed. */
static bool unlink_dead_socket(const struct sockaddr_un *name)
{
    struct stat info;
    if (lstat(name->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode))
        return false;
    int probe = socket(AF_UNIX, SOCK_STREAM, 0);
    if (probe < 0)
        return false;
    bool dead =
        connect(probe, (const struct sockaddr *)name, sizeof *name) != 0 && errno == ECONNREFUSED;
    close(probe);
    return dead && unlink(name->sun_path) == 0;
}

static enum status listen_unix(const char *path, struct http_address *out, struct error *err)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof name.sun_path)
        return error_set(err, STATUS_USAGE, "unix:%s: the path must have 1 to %zu bytes", path,
                         sizeof name.sun_path - 1);
    memcpy(name.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return error_set(err, STATUS_NETWORK, "unix:%s: %s", path, strerror(errno));
    int result = bind(fd, (const struct sockaddr *)&name, sizeof name);
    if (result != 0 && errno == EADDRINUSE && unlink_dead_socket(&name))
        result = bind(fd, (const struct sockaddr *)&name, sizeof name);
    if (result != 0) {
        enum status status =
            error_set(err, STATUS_NETWORK, "unix:%s: cannot bind: %s", path, strerror(errno));
        close(fd);
        return status;
    }
    out->fd = fd;
    out->loopback = true;
    snprintf(out->text, sizeof out->text, "unix:%s", path);
    return listen_on(fd, out->text, err);
}

/* "host:port" in two; an address without a colon is a host. */
static enum status split(const char *address, char *host, size_t size, char *port, size_t port_size,
                         struct error *err)
{
    const char *colon = strrchr(address, ':');
    const char *begin = address, *end = colon ? colon : address + strlen(address);
    if (*address == '[') {
        const char *bracket = strchr(address, ']');
        if (!bracket || (bracket[1] && bracket[1] != ':'))
            return error_set(err, STATUS_USAGE, "%s: expected [IPv6 address]:port", address);
        begin = address + 1;
        end = bracket;
        colon = bracket[1] ? bracket + 1 : NULL;
    } else if (colon && strchr(address, ':') != colon) {
        colon = NULL; /* a bare IPv6 address */
        end = address + strlen(address);
    }
    const char *number = colon ? colon + 1 : "8080";
    char *rest;
    long value = strtol(number, &rest, 10);
    if (!*number || *rest || value < 0 || value > 65535)
        return error_set(err, STATUS_USAGE, "%s: the port must be a number from 0 to 65535",
                         address);
    if ((size_t)(end - begin) >= size)
        return error_set(err, STATUS_USAGE, "%s: the host name is too long", address);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = 0;
    snprintf(port, port_size, "%ld", value);
    return STATUS_OK;
}

static bool is_loopback(const struct sockaddr *name)
{
    if (name->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)name;
        return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)name;
    return name->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

static void set_port(struct sockaddr *name, uint16_t port)
{
    if (name->sa_family == AF_INET)
        ((struct sockaddr_in *)(void *)name)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)(void *)name)->sin6_port = htons(port);
}

/* Binds the first resolved address; with `move` a busy port becomes a free one. */
static enum status bind_resolved(const struct addrinfo *found, const char *address, bool move,
                                 int *out, struct error *err)
{
    int fd = socket(found->ai_family, SOCK_STREAM, 0), on = 1;
    if (fd < 0)
        return error_set(err, STATUS_NETWORK, "%s: %s", address, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int result = bind(fd, found->ai_addr, found->ai_addrlen);
    if (result == 0) /* two sockets may bind, but only one may listen */
        result = listen(fd, BACKLOG);
    if (result != 0 && errno == EADDRINUSE && move) {
        close(fd);
        fd = socket(found->ai_family, SOCK_STREAM, 0);
        set_port(found->ai_addr, 0);
        result = fd < 0 ? -1 : bind(fd, found->ai_addr, found->ai_addrlen);
    }
    if (result == 0) {
        *out = fd;
        return STATUS_OK;
    }
    int problem = errno;
    if (fd >= 0)
        close(fd);
    return error_set(err, STATUS_NETWORK, "%s: cannot listen there: %s%s", address,
                     strerror(problem),
                     problem == EADDRINUSE ? ". Another program has this port: choose another "
                                             "with --port, or 0 for any free one"
                                           : "");
}

static void describe(int fd, struct http_address *out)
{
    struct sockaddr_storage name = {0};
    socklen_t length = sizeof name;
    char host[128] = "", port[16] = "";
    getsockname(fd, (struct sockaddr *)&name, &length);
    getnameinfo((struct sockaddr *)&name, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(out->text, sizeof out->text, name.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host,
             port);
    out->loopback = is_loopback((struct sockaddr *)&name);
}

enum status http_listen(const char *address, bool move, struct http_address *out, struct error *err)
{
    *out = (struct http_address){.fd = -1};
    if (strncmp(address, "unix:", 5) == 0)
        return listen_unix(address + 5, out, err);
    char host[256], port[8];
    enum status status = split(address, host, sizeof host, port, sizeof port, err);
    if (status != STATUS_OK)
        return status;
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE},
                    *found = NULL;
    bool any = !*host || strcmp(host, "*") == 0;
    int result = getaddrinfo(any ? "0.0.0.0" : host, port, &hints, &found);
    if (result != 0)
        return error_set(err, STATUS_NETWORK, "%s: %s", address, gai_strerror(result));
    /* A name such as localhost has both kinds of address; clients try IPv4 at the latest second. */
    const struct addrinfo *chosen = found;
    for (const struct addrinfo *a = found; a; a = a->ai_next)
        if (a->ai_family == AF_INET && chosen->ai_family != AF_INET)
            chosen = a;
    status = bind_resolved(chosen, address, move, &out->fd, err);
    freeaddrinfo(found);
    if (status != STATUS_OK)
        return status;
    describe(out->fd, out);
    return listen_on(out->fd, address, err);
}
