/* A server on the demo model, inside the test program. */
#ifndef SLUICE_TESTS_HTTP_SERVING_H
#define SLUICE_TESTS_HTTP_SERVING_H

#include "client.h"
#include "fixture.h"
#include "server/server.h"

static sluice_models *serving_models;
static sluice_engine *serving_engine; /* of pebble, held */
static struct server *serving;

/* options: may be NULL; models, model name and address are filled in. */
static inline int serving_start(const struct server_options *options)
{
    static struct http_address address;
    struct error err;
    struct server_options all = options ? *options : (struct server_options){0};
    if (http_listen("127.0.0.1:0", false, &address, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    all.models = serving_models;
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

static inline int serving_fail(const sluice_error *error)
{
    fprintf(stderr, "%s\n", error->message);
    return 1;
}

/* A set with the demo model as "pebble", not loaded. */
static inline int serving_create(const sluice_models_options *options)
{
    sluice_error error;
    if (sluice_models_create(options, &serving_models, &error) != SLUICE_OK ||
        sluice_models_add(serving_models, "pebble", fixture_path("models/pebble/pebble-q8_0.gguf"),
                          &error) != SLUICE_OK)
        return serving_fail(&error);
    return 0;
}

static inline int serving_hold(void)
{
    sluice_error error;
    return sluice_models_hold(serving_models, "pebble", NULL, NULL, NULL, &serving_engine,
                              &error) == SLUICE_OK
               ? 0
               : serving_fail(&error);
}

static inline int serving_open(uint32_t sequences, uint32_t context)
{
    sluice_models_options options = {
        .engine = {.n_threads = 2, .max_sequences = sequences, .n_context = context},
        .keep_alive_ms = -1,
    };
    return serving_create(&options) || serving_hold();
}

static inline void serving_close(void)
{
    if (serving_engine)
        sluice_models_release(serving_models, serving_engine);
    serving_engine = NULL;
    sluice_models_close(serving_models);
    serving_models = NULL;
}

/* What setup has opened and started, as a group's teardown. */
static inline int serving_end(void **state)
{
    (void)state;
    serving_stop();
    serving_close();
    return 0;
}

#endif
