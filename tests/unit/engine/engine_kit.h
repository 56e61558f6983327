/* Engines on the fake backend, requests, and the answers that must come: what the engine's tests
 * share. */
#ifndef SLUICE_TESTS_ENGINE_KIT_H
#define SLUICE_TESTS_ENGINE_KIT_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "fake_backend.h"
#include "sluice.h"

/* ---- an engine for each test ------------------------------------------------------------------ */

static struct tokenizer *tokenizer;

static inline bool is_damaged(const void *context)
{
    (void)context;
    return atomic_load(&fake_control.damaged);
}

static inline int make_tokenizer(void **state)
{
    (void)state;
    struct vocabulary vocabulary;
    struct error err = {0};
    assert_ok(small_vocabulary(&vocabulary, &err), &err);
    assert_ok(vocabulary_finish(&vocabulary, &err), &err);
    assert_ok(tokenizer_create(&vocabulary, &tokenizer, &err), &err);
    vocabulary_release(&vocabulary);
    return 0;
}

static inline int free_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static inline enum status open_fake(const sluice_engine_options *options, sluice_engine **engine,
                                    struct error *err)
{
    static const struct model_generation generation = {.has_temperature = true, .temperature = 0};
    struct engine_source source = {
        .program = fake_program(),
        .tokenizer = tokenizer,
        .generation = &generation,
        .name = "fake",
        .architecture = "none",
        .damaged = is_damaged,
    };
    bool asynchronous = atomic_load(&fake_control.asynchronous);
    memset(&fake_control, 0, sizeof fake_control);
    atomic_store(&fake_control.asynchronous, asynchronous);
    return engine_open_source(&source, NULL, &fake_api, options, engine, err);
}

static inline sluice_engine *engine_of(sluice_engine_options options)
{
    sluice_engine *engine;
    struct error err = {0};
    assert_ok(open_fake(&options, &engine, &err), &err);
    return engine;
}

/* ---- requests --------------------------------------------------------------------------------- */

static inline void random_tokens(uint64_t seed, int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = 'a' + (int32_t)(fake_mix(seed, i) % 26);
}

/* What the model answers, by definition: ids with the end token, at most `max` of them. */
static inline uint32_t expected_answer(const int32_t *prompt, uint32_t n_prompt, uint32_t max,
                                       int32_t *out)
{
    int32_t *all = malloc((n_prompt + max) * sizeof *all);
    memcpy(all, prompt, n_prompt * sizeof *all);
    uint32_t n = 0;
    while (n < max) {
        int32_t token = fake_next(all, n_prompt + n);
        all[n_prompt + n] = token;
        out[n++] = token;
        if (token == SMALL_END)
            break;
    }
    free(all);
    return n;
}

struct answer {
    int32_t tokens[FAKE_CONTEXT];
    uint32_t n_tokens;
    struct buf text;
    sluice_finish finish;
    sluice_usage usage;
    sluice_status error;
    char message[512];
    uint32_t n_events;
};

static inline void read_answer(sluice_request *request, struct answer *answer)
{
    sluice_event event;
    memset(answer, 0, sizeof *answer);
    while (sluice_request_next(request, &event, -1)) {
        answer->n_events++;
        switch (event.kind) {
        case SLUICE_EVENT_TOKEN:
            answer->tokens[answer->n_tokens++] = event.token;
            break;
        case SLUICE_EVENT_TEXT:
            buf_append(&answer->text, event.text, event.length);
            break;
        case SLUICE_EVENT_DONE:
            answer->finish = event.finish;
            answer->usage = event.usage;
            break;
        case SLUICE_EVENT_ERROR:
            answer->error = event.error.status;
            snprintf(answer->message, sizeof answer->message, "%s", event.error.message);
            break;
        default:
            fail_msg("event of kind %d", (int)event.kind);
        }
    }
}

static inline sluice_request *submit(sluice_engine *engine, const sluice_request_options *options)
{
    sluice_request *request;
    sluice_error error = {0};
    if (sluice_submit(engine, options, &request, &error) != SLUICE_OK)
        fail_msg("submit: %s", error.message);
    return request;
}

static inline void ask(sluice_engine *engine, const sluice_request_options *options,
                       struct answer *answer)
{
    sluice_request *request = submit(engine, options);
    read_answer(request, answer);
    sluice_request_free(request);
}

static inline void check_answer(const struct answer *answer, const int32_t *prompt,
                                uint32_t n_prompt, uint32_t max)
{
    static _Thread_local int32_t expected[FAKE_CONTEXT];
    uint32_t n = expected_answer(prompt, n_prompt, max, expected);
    if (answer->error)
        fail_msg("%s", answer->message);
    assert_int_equal(answer->n_tokens, n);
    assert_memory_equal(answer->tokens, expected, n * sizeof *expected);
    bool ended = expected[n - 1] == SMALL_END;
    assert_int_equal(answer->finish, ended ? SLUICE_FINISH_STOP : SLUICE_FINISH_LENGTH);
    assert_int_equal(answer->usage.prompt_tokens, n_prompt);
    assert_int_equal(answer->usage.output_tokens, n);
    for (uint32_t i = 0; i < n - ended; i++)
        assert_int_equal(answer->text.data[i], expected[i]);
    assert_int_equal(answer->text.len, n - ended);
}

static inline void wait_steps(unsigned long long n)
{
    while (atomic_load(&fake_control.steps) < n)
        nanosleep(&(struct timespec){0, 100000}, NULL);
}

#endif
