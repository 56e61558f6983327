/*
 * sluice serve: one engine behind HTTP.
 *
 *   transport (http.h) --headers--> routes.c: may this request be made at all?
 *                      --body-----> jobs.c: a worker parses and submits; the pump thread takes the
 *                                   engine's events, has the dialect format them, and feeds the
 *                                   exchange; views.c answers what needs no engine
 *
 * Threads: the transport's (one per address, and its watcher), a few workers, one pump. None of them
 * waits for another: the workers' queue and the list of jobs are all that they share.
 */
#ifndef SLUICE_SERVER_SERVER_H
#define SLUICE_SERVER_SERVER_H

#include "base/status.h"
#include "server/http.h"
#include "sluice.h"

#define SERVER_NAMES_MAX 64

struct server;

/* Everything is borrowed until server_stop(). */
struct server_options {
    sluice_engine *engine;
    const char *model_name;     /* what clients see; also answers to the model's own name */
    const char *const *aliases; /* [n_aliases]; "*" takes every name */
    size_t n_aliases;
    const struct http_address *addresses; /* bound; become the server's */
    size_t n_addresses;
    const char *const *api_keys; /* [n_api_keys]; none: open to whoever reaches the address */
    size_t n_api_keys;
    const char *const *allowed_hosts; /* [n_allowed_hosts] names for Host and Origin */
    size_t n_allowed_hosts;
    bool strict;                     /* unknown fields are an error */
    const sluice_sampling *defaults; /* for what a request leaves open; may be NULL */
    uint32_t max_tokens;             /* likewise; 0: none */
};

enum status server_start(const struct server_options *options, struct server **out,
                         struct error *err);
/* From now on new requests get 503. Returns when all answers have left, or after `seconds`, when the
 * rest of the streams got an error event. */
void server_drain(struct server *server, unsigned seconds);
void server_stop(struct server *server); /* NULL allowed */

#endif
