/*
 * The engine's loop on a backend without arithmetic: crowds, chunks, stops, cancels, slow readers,
 * device failures, scoring, and that a step takes no memory and an idle engine no time.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine_kit.h"

/* ---- counting allocations --------------------------------------------------------------------- */

#if defined(__GLIBC__) && !SANITIZED
#define COUNTS_ALLOCATIONS 1
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
static atomic_ullong n_allocations;

void *malloc(size_t size)
{
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    return __libc_realloc(p, size);
}
#endif

/* ---- tests ------------------------------------------------------------------------------------ */

static void test_one_request(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.step_rows = 16});
    int32_t prompt[100];
    static struct answer answer;
    uint32_t stopped = 0;
    for (uint32_t n = 1; n <= 100; n += 9) {
        random_tokens(n, prompt, n);
        ask(engine, &(sluice_request_options){.tokens = prompt, .n_tokens = n, .max_tokens = 50},
            &answer);
        check_answer(&answer, prompt, n, 50);
        stopped += answer.finish == SLUICE_FINISH_STOP;
        buf_release(&answer.text);
    }
    assert_true(stopped > 0 && stopped < 12); /* both ends were seen */
    /* Tokens travelled on the device. */
    assert_true(atomic_load(&fake_control.sampled_inputs) > 100);
    assert_int_equal(atomic_load(&fake_control.token_inputs), 0);
    sluice_engine_close(engine);
}

static void test_text_in_and_sampling_events(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){0});
    static struct answer answer;
    ask(engine, &(sluice_request_options){.prompt = "hello<|im_end|>", .max_tokens = 5}, &answer);
    assert_int_equal(answer.usage.prompt_tokens, 2); /* specials are parsed in raw text */
    assert_int_equal(answer.n_tokens, 0);            /* text in: no token events */
    assert_true(answer.text.len > 0);
    buf_release(&answer.text);
    sluice_request *request = submit(
        engine, &(sluice_request_options){.prompt = "hello", .max_tokens = 2, .n_top_logprobs = 3});
    sluice_event event;
    assert_true(sluice_request_next(request, &event, -1));
    assert_int_equal(event.kind, SLUICE_EVENT_TOKEN);
    assert_int_equal(event.n_top, 3);
    assert_int_equal(event.top[2].token, 2);
    assert_true(event.logprob == -0.5f);
    assert_true(sluice_request_next(request, &event, -1));
    assert_int_equal(event.kind, SLUICE_EVENT_TEXT);
    assert_int_equal(event.length, strlen(event.text));
    sluice_request_free(request); /* unread */
    sluice_engine_close(engine);
}

struct worker {
    sluice_engine *engine;
    uint32_t index;
    pthread_t thread;
    uint32_t n_done;
};

/* Many requests one after the other from one of several threads; every fifth is cancelled. */
static void *work(void *context)
{
    struct worker *w = context;
    struct answer *answer = malloc(sizeof *answer);
    int32_t prompt[200];
    for (uint32_t i = 0; i < 25; i++) {
        uint64_t seed = w->index * 1000 + i;
        uint32_t n = 1 + (uint32_t)(fake_mix(seed, 1) % 200);
        uint32_t max = 1 + (uint32_t)(fake_mix(seed, 2) % 60);
        random_tokens(seed, prompt, n);
        sluice_request *request = submit(
            w->engine, &(sluice_request_options){.tokens = prompt,
                                                 .n_tokens = n,
                                                 .max_tokens = max,
                                                 .chunk = (uint32_t)(fake_mix(seed, 3) % 30)});
        bool cancel = i % 5 == 4;
        if (cancel)
            sluice_request_cancel(request);
        read_answer(request, answer);
        if (!cancel || answer->finish != SLUICE_FINISH_CANCELLED)
            check_answer(answer, prompt, n, max);
        w->n_done++;
        buf_release(&answer->text);
        sluice_request_free(request);
    }
    free(answer);
    return NULL;
}

static void test_crowd_answers_as_alone(void **state)
{
    (void)state;
    /* 5 slots and a pool of about 500 positions: requests wait for both. */
    sluice_engine *engine = engine_of((sluice_engine_options){
        .max_sequences = 5, .step_rows = 40, .n_context = 512, .kv_memory = 48 << 10});
    struct worker workers[8];
    for (uint32_t i = 0; i < 8; i++) {
        workers[i] = (struct worker){.engine = engine, .index = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < 8; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].n_done, 25);
    }
    assert_true(atomic_load(&fake_control.most_slices) > 1);
    assert_true(engine->size.kv.n_pages < 512);
    sluice_engine_close(engine);
}

static void test_stop_strings(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){0});
    int32_t prompt[7], expected[40];
    random_tokens(77, prompt, 7);
    uint32_t n = expected_answer(prompt, 7, 40, expected);
    assert_true(n > 12);
    char text[41] = {0}, stop[4] = {0};
    for (uint32_t i = 0; i < n && expected[i] != SMALL_END; i++)
        text[i] = (char)expected[i];
    memcpy(stop, text + 8, 3);
    const char *stops[] = {"never in there", stop};
    static struct answer answer;
    ask(engine,
        &(sluice_request_options){
            .tokens = prompt, .n_tokens = 7, .max_tokens = 40, .stops = stops, .n_stops = 2},
        &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_STOP);
    size_t at = (size_t)(strstr(text, stop) - text);
    assert_int_equal(answer.text.len, at);
    assert_memory_equal(answer.text.data, text, at);
    assert_int_equal(answer.usage.output_tokens, at + 3);
    buf_release(&answer.text);
    sluice_engine_close(engine);
}

static void test_cancel(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 1});
    atomic_store(&fake_control.delay_us, 500);
    sluice_request_options options = {.prompt = "hello", .ignore_end = true};
    sluice_request *running = submit(engine, &options);
    sluice_request *queued = submit(engine, &options);
    wait_steps(3);
    static struct answer answer;
    sluice_request_cancel(queued);
    read_answer(queued, &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_CANCELLED);
    assert_int_equal(answer.usage.output_tokens, 0);
    unsigned long long before = atomic_load(&fake_control.steps);
    sluice_request_cancel(running);
    read_answer(running, &answer);
    buf_release(&answer.text);
    assert_int_equal(answer.finish, SLUICE_FINISH_CANCELLED);
    assert_true(answer.usage.output_tokens >= 2);
    assert_true(atomic_load(&fake_control.steps) <= before + 2);
    sluice_event event;
    assert_false(sluice_request_next(running, &event, -1)); /* nothing after the last */
    sluice_request_free(running);
    sluice_request_free(queued);
    /* Freed without a word: the slot is free again. */
    sluice_request_free(submit(engine, &options));
    ask(engine, &(sluice_request_options){.prompt = "hello", .max_tokens = 1}, &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_LENGTH);
    buf_release(&answer.text);
    sluice_engine_close(engine);
}

static void test_slow_reader_pauses_only_itself(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 4});
    int32_t prompt[3];
    random_tokens(5, prompt, 3);
    sluice_request_options options = {
        .tokens = prompt, .n_tokens = 3, .max_tokens = 3000, .ignore_end = true};
    sluice_request *slow = submit(engine, &options);
    unsigned long long steps;
    do { /* until nothing moves any more */
        steps = atomic_load(&fake_control.steps);
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    } while (steps == 0 || steps != atomic_load(&fake_control.steps));
    assert_true(steps < 500);
    pthread_mutex_lock(&slow->events.lock);
    size_t unread = slow->events.pending.len;
    pthread_mutex_unlock(&slow->events.lock);
    assert_true(unread >= ENGINE_EVENTS_FULL && unread < 2 * ENGINE_EVENTS_FULL);
    static struct answer answer;
    ask(engine, &(sluice_request_options){.prompt = "hello", .max_tokens = 20, .ignore_end = true},
        &answer);
    assert_int_equal(answer.usage.output_tokens, 20);
    buf_release(&answer.text);
    read_answer(slow, &answer);
    assert_int_equal(answer.n_tokens, 3000);
    int32_t all[3003];
    memcpy(all, prompt, sizeof prompt);
    for (uint32_t i = 0; i < 3000; i++) {
        all[3 + i] = answer.tokens[i];
        if (i % 100 == 0)
            assert_int_equal(answer.tokens[i], fake_next(all, 3 + i));
    }
    /* After a pause the token is sent again, since the device's copy is gone. */
    assert_true(atomic_load(&fake_control.token_inputs) > 0);
    buf_release(&answer.text);
    sluice_request_free(slow);
    sluice_engine_close(engine);
}

static void test_device_error_fails_the_running(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 2});
    atomic_store(&fake_control.delay_us, 500);
    sluice_request_options options = {.prompt = "hello", .ignore_end = true};
    sluice_request *requests[2] = {submit(engine, &options), submit(engine, &options)};
    wait_steps(3);
    atomic_store(&fake_control.fail, true);
    static struct answer answer;
    for (int i = 0; i < 2; i++) {
        read_answer(requests[i], &answer);
        assert_int_equal(answer.error, SLUICE_ERROR_DEVICE);
        assert_non_null(strstr(answer.message, "bus"));
        buf_release(&answer.text);
        sluice_request_free(requests[i]);
    }
    atomic_store(&fake_control.fail, false);
    atomic_store(&fake_control.damaged, true);
    ask(engine, &options, &answer);
    assert_int_equal(answer.error, SLUICE_ERROR_MODEL);
    atomic_store(&fake_control.damaged, false);
    int32_t prompt[9];
    random_tokens(9, prompt, 9);
    ask(engine, &(sluice_request_options){.tokens = prompt, .n_tokens = 9, .max_tokens = 9},
        &answer);
    check_answer(&answer, prompt, 9, 9);
    buf_release(&answer.text);
    assert_int_equal(kv_pages_free(engine->kv), kv_pages_total(engine->kv));
    sluice_engine_close(engine);
}

static void check_scores(sluice_engine *engine, const int32_t *tokens, uint32_t n, uint32_t chunk,
                         sluice_mode mode)
{
    sluice_request *request = submit(
        engine,
        &(sluice_request_options){.tokens = tokens, .n_tokens = n, .chunk = chunk, .mode = mode});
    sluice_event event;
    uint32_t next = 0, width = mode == SLUICE_SCORE_LOGITS ? SMALL_COUNT : FAKE_HIDDEN;
    bool done = false;
    while (sluice_request_next(request, &event, -1)) {
        done = event.kind == SLUICE_EVENT_DONE;
        if (event.kind != SLUICE_EVENT_ROWS)
            continue;
        assert_int_equal(event.first_row, next);
        assert_int_equal(event.row_width, width);
        assert_true(!chunk || event.n_rows <= chunk);
        for (uint32_t i = 0; i < event.n_rows; i++) {
            uint64_t hash = fake_hash(tokens, next + i + 1);
            for (uint32_t j = 0; j < width; j++) {
                float expected = mode == SLUICE_SCORE_LOGITS
                                     ? fake_logit(hash, j)
                                     : (float)(fake_mix(hash, 1000 + j) >> 44);
                assert_true(event.rows[(size_t)i * width + j] == expected);
            }
        }
        next += event.n_rows;
    }
    assert_true(done);
    assert_int_equal(next, n);
    sluice_request_free(request);
}

static void test_scoring(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.step_rows = 64});
    int32_t tokens[150];
    random_tokens(3, tokens, 150);
    sluice_request *other =
        submit(engine, &(sluice_request_options){.prompt = "hello", .ignore_end = true});
    for (uint32_t chunk = 0; chunk < 20; chunk += 6) {
        check_scores(engine, tokens, 150, chunk, SLUICE_SCORE_LOGITS);
        check_scores(engine, tokens, 150, chunk, SLUICE_SCORE_HIDDEN);
    }
    sluice_request_free(other);
    sluice_engine_close(engine);
}

static void test_penalties_see_the_prompt(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.step_rows = 16});
    int32_t prompt[60], all[80];
    random_tokens(8, prompt, 50);
    memcpy(all, prompt, sizeof prompt);
    static struct answer answer;
    ask(engine,
        &(sluice_request_options){
            .tokens = prompt,
            .n_tokens = 50,
            .max_tokens = 20,
            .sampling = {.set = SLUICE_SET_REPEAT_PENALTY, .repeat_penalty = 1.5f}},
        &answer);
    assert_int_equal(answer.n_tokens, 20);
    for (uint32_t i = 0; i < 20; i++) {
        all[50 + i] = 'a' + (int32_t)(fake_hash(all, 50 + i) % 26);
        assert_int_equal(answer.tokens[i], all[50 + i]);
    }
    buf_release(&answer.text);
    sluice_engine_close(engine);
}

static void refuse(sluice_engine *engine, sluice_request_options options, sluice_status status,
                   const char *word)
{
    sluice_request *request;
    sluice_error error = {0};
    assert_int_equal(sluice_submit(engine, &options, &request, &error), status);
    assert_null(request);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, word))
        fail_msg("'%s' does not say '%s'", error.message, word);
}

static void test_refusals(void **state)
{
    (void)state;
    sluice_engine *engine =
        engine_of((sluice_engine_options){.n_context = 300, .kv_memory = 20 << 10});
    int32_t tokens[400];
    random_tokens(1, tokens, 400);
    const char *bad_stops[] = {""};
    const char *broken_stops[] = {"\xff"};
    sluice_logit_bias bias = {SMALL_COUNT, 1.0f};
    sluice_request_options ok = {.tokens = tokens, .n_tokens = 4}, o;
    refuse(engine, (sluice_request_options){0}, SLUICE_ERROR_USAGE, "exactly one");
    refuse(engine, (sluice_request_options){.prompt = ""}, SLUICE_ERROR_USAGE, "prompt");
    refuse(engine, (sluice_request_options){.tokens = tokens}, SLUICE_ERROR_USAGE, "tokens");
    o = ok, o.prompt = "x";
    refuse(engine, o, SLUICE_ERROR_USAGE, "exactly one");
    o = ok, o.n_tokens = 301;
    refuse(engine, o, SLUICE_ERROR_CONTEXT, "300");
    o = ok, o.n_tokens = 300;
    refuse(engine, o, SLUICE_ERROR_CONTEXT, "300");
    o = ok, o.n_tokens = 290;
    refuse(engine, o, SLUICE_ERROR_CONTEXT, "KV memory");
    o = ok, o.stops = bad_stops, o.n_stops = 1;
    refuse(engine, o, SLUICE_ERROR_USAGE, "stop");
    o = ok, o.stops = broken_stops, o.n_stops = 1;
    refuse(engine, o, SLUICE_ERROR_USAGE, "stop");
    o = ok, o.stops = bad_stops, o.n_stops = 17;
    refuse(engine, o, SLUICE_ERROR_USAGE, "16");
    o = ok, o.n_top_logprobs = 21;
    refuse(engine, o, SLUICE_ERROR_USAGE, "top_logprobs");
    o = ok, o.sampling = (sluice_sampling){.set = SLUICE_SET_TOP_P, .top_p = 2.0f};
    refuse(engine, o, SLUICE_ERROR_USAGE, "top_p");
    o = ok, o.sampling = (sluice_sampling){.biases = &bias, .n_biases = 1};
    refuse(engine, o, SLUICE_ERROR_USAGE, "logit_bias");
    tokens[2] = -1;
    refuse(engine, ok, SLUICE_ERROR_USAGE, "index 2");
    tokens[2] = SMALL_COUNT;
    refuse(engine, ok, SLUICE_ERROR_USAGE, "index 2");
    sluice_engine_close(engine);

    sluice_engine_options options = {.n_context = FAKE_CONTEXT + 1};
    struct error err;
    assert_int_equal(open_fake(&options, &engine, &err), STATUS_USAGE);
    options = (sluice_engine_options){.max_sequences = 20, .step_rows = 8};
    assert_int_equal(open_fake(&options, &engine, &err), STATUS_USAGE);
    options = (sluice_engine_options){.kv_memory = 100};
    assert_int_equal(open_fake(&options, &engine, &err), STATUS_MEMORY);
    assert_null(engine);
}

static void test_context_ends_an_answer(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.n_context = 64});
    static struct answer answer;
    int32_t prompt[63];
    random_tokens(1, prompt, 63);
    for (uint32_t n = 1; n <= 63; n += 31) {
        ask(engine, &(sluice_request_options){.tokens = prompt, .n_tokens = n, .ignore_end = true},
            &answer);
        assert_int_equal(answer.finish, SLUICE_FINISH_LENGTH);
        assert_int_equal(answer.usage.output_tokens, 64 - n);
        buf_release(&answer.text);
    }
    sluice_engine_close(engine);
}

static void test_idle_engine_sleeps(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){0});
    static struct answer answer;
    ask(engine, &(sluice_request_options){.prompt = "hello", .max_tokens = 3}, &answer);
    buf_release(&answer.text);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    assert_true(used < 0.005);
    sluice_request *request =
        submit(engine, &(sluice_request_options){.prompt = "hello", .ignore_end = true});
    sluice_event event;
    assert_true(sluice_request_next(request, &event, -1));
    while (event.kind != SLUICE_EVENT_DONE && sluice_request_next(request, &event, 0))
        ;
    sluice_request_free(request);
    sluice_engine_close(engine);
}

static void test_steps_do_not_allocate(void **state)
{
    (void)state;
#ifdef COUNTS_ALLOCATIONS
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 4});
    sluice_request *requests[4];
    const char *stops[] = {"never", "ever"};
    atomic_store(&fake_control.delay_us, 200);
    for (int i = 0; i < 4; i++)
        requests[i] = submit(engine, &(sluice_request_options){.prompt = "hello",
                                                               .max_tokens = 400,
                                                               .ignore_end = true,
                                                               .logprobs = i & 1,
                                                               .stops = stops,
                                                               .n_stops = 2});
    wait_steps(20);
    unsigned long long before = atomic_load(&n_allocations);
    sluice_event event;
    int open = 4;
    unsigned long long during = 0;
    while (open > 0)
        for (int i = 0; i < 4; i++)
            while (requests[i] && sluice_request_next(requests[i], &event, 1))
                if (event.kind == SLUICE_EVENT_DONE) {
                    during = atomic_load(&n_allocations) - before;
                    sluice_request_free(requests[i]);
                    requests[i] = NULL;
                    open--;
                }
    assert_true(atomic_load(&fake_control.steps) >= 400);
    assert_int_equal(during, 0);
    sluice_engine_close(engine);
#else
    skip();
#endif
}

static void test_close_with_work_left(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 2});
    sluice_request_options options = {.prompt = "hello", .ignore_end = true};
    for (int i = 0; i < 10; i++)
        sluice_request_free(submit(engine, &options));
    sluice_engine_close(engine);
    sluice_engine_close(NULL);
    sluice_request_free(NULL);
}

static void test_queue_limit(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 1});
    atomic_store(&fake_control.delay_us, 1000);
    static sluice_request *requests[ENGINE_QUEUE_MAX];
    sluice_request_options options = {.prompt = "hello", .ignore_end = true};
    for (int i = 0; i < ENGINE_QUEUE_MAX; i++)
        requests[i] = submit(engine, &options);
    refuse(engine, options, SLUICE_ERROR_BUSY, "waiting");
    for (int i = 0; i < ENGINE_QUEUE_MAX; i++)
        sluice_request_free(requests[i]);
    static struct answer answer;
    sluice_request *request = NULL;
    while (sluice_submit(engine, &options, &request, NULL) == SLUICE_ERROR_BUSY)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    sluice_request_cancel(request);
    read_answer(request, &answer);
    buf_release(&answer.text);
    sluice_request_free(request);
    sluice_engine_close(engine);
}

/* What waits is limited by its tokens, what is in work by its key; the caller is told at once. */
static void test_limits_of_tokens_and_keys(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){
        .max_sequences = 1, .max_queued_tokens = 50, .max_key_requests = 3});
    atomic_store(&fake_control.delay_us, 1000);
    int32_t tokens[60];
    random_tokens(3, tokens, 60);
    sluice_request_options options = {.tokens = tokens, .n_tokens = 60, .ignore_end = true};
    sluice_request *requests[4];
    sluice_event event;
    options.report_admission = true;
    options.key = "a";
    requests[0] = submit(engine, &options); /* longer than the limit, and nothing else waits */
    assert_true(sluice_request_next(requests[0], &event, -1));
    assert_int_equal(event.kind, SLUICE_EVENT_ADMITTED);
    options.n_tokens = 25;
    requests[1] = submit(engine, &options);
    requests[2] = submit(engine, &options);
    options.n_tokens = 1;
    refuse(engine, options, SLUICE_ERROR_BUSY, "50");
    sluice_request_free(requests[2]);
    while (sluice_submit(engine, &options, &requests[2], NULL) == SLUICE_ERROR_BUSY)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_non_null(requests[2]);
    refuse(engine, options, SLUICE_ERROR_KEY_BUSY, "key");
    options.key = "b";
    requests[3] = submit(engine, &options);
    options.key = NULL; /* nobody's: no limit of its own */
    for (int i = 0; i < 5; i++)
        sluice_request_free(submit(engine, &options));
    for (int i = 0; i < 4; i++)
        sluice_request_free(requests[i]);
    /* All counted out again. */
    options.key = "a";
    options.max_tokens = 1;
    options.report_admission = false;
    for (int i = 0; i < 20; i++) {
        static struct answer answer;
        sluice_request *request;
        while (sluice_submit(engine, &options, &request, NULL) == SLUICE_ERROR_KEY_BUSY)
            nanosleep(&(struct timespec){0, 1000000}, NULL); /* for those freed above */
        read_answer(request, &answer);
        sluice_request_free(request);
        buf_release(&answer.text);
    }
    sluice_engine_close(engine);
}

/* On demand a token without text of its own has an event too. */
static void test_silent_tokens(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){0});
    const char *stops[] = {"zzzzzz"};
    uint32_t silent[2] = {0, 0};
    for (int told = 0; told < 2; told++) {
        sluice_request *request = submit(engine, &(sluice_request_options){.prompt = "hello",
                                                                           .max_tokens = 400,
                                                                           .ignore_end = true,
                                                                           .stops = stops,
                                                                           .n_stops = 1,
                                                                           .report_silent = told});
        sluice_event event = {0};
        uint32_t events = 0;
        while (sluice_request_next(request, &event, -1)) {
            events += event.kind == SLUICE_EVENT_TEXT;
            silent[told] += event.kind == SLUICE_EVENT_TEXT && event.length == 0;
        }
        assert_int_equal(event.usage.output_tokens, 400);
        if (told)
            assert_int_equal(events, 400);
        else
            assert_true(events < 400);
        sluice_request_free(request);
    }
    assert_true(silent[0] == 0 && silent[1] > 0 && silent[1] < 200);
    sluice_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_text_in_and_sampling_events),
        cmocka_unit_test(test_crowd_answers_as_alone),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_slow_reader_pauses_only_itself),
        cmocka_unit_test(test_device_error_fails_the_running),
        cmocka_unit_test(test_scoring),
        cmocka_unit_test(test_penalties_see_the_prompt),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_context_ends_an_answer),
        cmocka_unit_test(test_idle_engine_sleeps),
        cmocka_unit_test(test_steps_do_not_allocate),
        cmocka_unit_test(test_close_with_work_left),
        cmocka_unit_test(test_queue_limit),
        cmocka_unit_test(test_limits_of_tokens_and_keys),
        cmocka_unit_test(test_silent_tokens),
    };
    return cmocka_run_group_tests_name("engine loop", tests, make_tokenizer, free_tokenizer);
}
