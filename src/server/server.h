/*
 * sluice serve: a set of models behind HTTP.
 *
 *   transport (http.h) --headers--> routes.c: may this request be made at all?
 *                      --body-----> jobs.c: a worker parses, holds the model (names.c) and submits;
 *                                   the pump thread takes the engines' events, has the dialect
 *                                   format them, and feeds the exchange; views.c answers what needs
 *                                   no engine
 *
 * A job whose model is not loaded is given to the pump at once, which keeps its stream alive, and
 * comes back to a worker when the model is there.
 *
 * Threads: the transport's (one per address, and its watcher), a few workers, one pump. None of them
 * waits for another: the workers' queue and the list of jobs are all that they share.
 */
#ifndef SLUICE_SERVER_SERVER_H
#define SLUICE_SERVER_SERVER_H

#include "base/status.h"
#include "server/http.h"
#include "sluice.h"

struct server;

/* A further name of a model; "*" takes every name that nothing else has. */
struct server_alias {
    const char *name;
    const char *model; /* NULL: the default one */
};

/* Everything is borrowed until server_stop(). */
struct server_options {
    sluice_models *models;  /* all that is served; none is added while the server runs */
    const char *model_name; /* of them, for requests that name none */
    const struct server_alias *aliases; /* [n_aliases] */
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
