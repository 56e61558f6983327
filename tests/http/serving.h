/* A server on the demo model, inside the test program. */
#ifndef SLUICE_TESTS_HTTP_SERVING_H
#define SLUICE_TESTS_HTTP_SERVING_H

#include "client.h"
#include "fixture.h"
#include "server/server.h"

static sluice_engine *serving_engine;
static struct server *serving;

/* options: may be NULL; engine, model name and address are filled in. */
static inline int serving_start(const struct server_options *options)
{
    static struct http_address address;
    struct error err;
    struct server_options all = options ? *options : (struct server_options){0};
    if (http_listen("127.0.0.1:0", false, &address, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    all.engine = serving_engine;
    all.model_name = "pebble";
    all.addresses = &address;
    all.n_addresses = 1;
    if (server_start(&all, &serving, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    client_port = (uint16_t)atoi(strrchr(address.text, ':') + 1);
    return 0;
}

static inline void serving_stop(void)
{
    server_stop(serving);
    serving = NULL;
}

static inline int serving_open(uint32_t sequences, uint32_t context)
{
    sluice_error error;
    sluice_engine_options options = {
        .model = fixture_path("models/pebble/pebble-q8_0.gguf"),
        .n_threads = 2,
        .max_sequences = sequences,
        .n_context = context,
    };
    if (sluice_engine_open(&options, &serving_engine, &error) == SLUICE_OK)
        return 0;
    fprintf(stderr, "%s\n", error.message);
    return 1;
}

#endif
