/*
 * What the engine offers a server: several answers of one prompt, wake-ups, admission and progress,
 * deadlines, embeddings, statistics; and the same answers when steps are planned ahead.
 */
#include <math.h>

#include "engine_kit.h"

/* The fake draws greedily, so all answers of a prompt are the same: each must be complete. */
static void test_several_answers(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 3});
    int32_t prompt[70], expected[40];
    random_tokens(9, prompt, 70);
    uint32_t n = expected_answer(prompt, 70, 40, expected), seen[5] = {0}, ended = 0;
    sluice_request *request = submit(
        engine, &(sluice_request_options){
                    .tokens = prompt, .n_tokens = 70, .max_tokens = 40, .n = 5, .logprobs = true});
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        assert_true(event.choice < 5);
        if (event.kind == SLUICE_EVENT_TOKEN)
            assert_int_equal(event.token, expected[seen[event.choice]++]);
        if (event.kind == SLUICE_EVENT_CHOICE) {
            assert_int_equal(seen[event.choice], n);
            assert_int_equal(event.finish, expected[n - 1] == SMALL_END ? SLUICE_FINISH_STOP
                                                                        : SLUICE_FINISH_LENGTH);
            ended++;
        }
        if (event.kind == SLUICE_EVENT_DONE)
            assert_int_equal(event.usage.output_tokens, 5 * n);
    }
    assert_int_equal(ended, 5);
    sluice_request_free(request);
    sluice_engine_close(engine);
}

static void test_answers_share_the_prompt(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 8});
    int32_t prompt[150];
    random_tokens(4, prompt, 150);
    sluice_request *request = submit(
        engine,
        &(sluice_request_options){
            .tokens = prompt, .n_tokens = 150, .max_tokens = 30, .n = 8, .ignore_end = true});
    static struct answer answer;
    sluice_event event;
    while (sluice_request_next(request, &event, -1))
        ;
    assert_int_equal(event.usage.output_tokens, 8 * 30);
    sluice_request_free(request);
    sluice_stats stats;
    sluice_engine_stats(engine, &stats);
    assert_int_equal(stats.prefilled_tokens, 150); /* once for all eight */
    assert_int_equal(atomic_load(&fake_control.rows), 150 + 8 * 29);
    assert_true(atomic_load(&fake_control.copies) >= 7); /* the page the prompt ended in */
    ask(engine, &(sluice_request_options){.tokens = prompt, .n_tokens = 150, .max_tokens = 30},
        &answer);
    check_answer(&answer, prompt, 150, 30);
    assert_true(answer.usage.cached_tokens >= 128 && answer.usage.cached_tokens < 150);
    buf_release(&answer.text);
    sluice_engine_close(engine);
}

/* Conversations that resend their history: all but the last block of it is there. */
static void test_conversation_is_cached(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 4});
    static int32_t all[2000];
    uint32_t n = 40;
    random_tokens(11, all, n);
    static struct answer answer;
    for (uint32_t turn = 0; turn < 8; turn++) {
        ask(engine,
            &(sluice_request_options){
                .tokens = all, .n_tokens = n, .max_tokens = 60, .ignore_end = true},
            &answer);
        assert_int_equal(answer.n_tokens, 60);
        assert_int_equal(answer.tokens[0], fake_next(all, n));
        /* Its blocks are 128 tokens; its recurrent layer keeps a state at a prompt's last one. */
        if (turn)
            assert_true(answer.usage.cached_tokens + 60 + 33 + 128 >= n);
        memcpy(all + n, answer.tokens, 60 * sizeof *all);
        random_tokens(turn, all + n + 60, 33);
        n += 93;
        buf_release(&answer.text);
    }
    /* A salt of its own shares nothing. */
    ask(engine,
        &(sluice_request_options){
            .tokens = all, .n_tokens = n, .max_tokens = 5, .cache_salt = "tenant"},
        &answer);
    assert_int_equal(answer.usage.cached_tokens, 0);
    buf_release(&answer.text);
    sluice_engine_close(engine);
}

/* Keys that must not learn from each other's times what the other one asked. */
static void test_cache_by_key(void **state)
{
    (void)state;
    static const struct {
        const char *key, *salt;
        bool hits;
    } asked[] = {
        {"a", NULL, false}, {"b", NULL, false}, {NULL, NULL, false}, {"a", "s", false},
        {"b", "s", false},  {"a", NULL, true},  {"b", "s", true},    {NULL, NULL, true},
    };
    for (int by_key = 0; by_key < 2; by_key++) {
        sluice_engine *engine =
            engine_of((sluice_engine_options){.max_sequences = 4, .cache_by_key = by_key});
        int32_t prompt[300];
        static struct answer answer;
        random_tokens(21, prompt, 300);
        for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
            ask(engine,
                &(sluice_request_options){.tokens = prompt,
                                          .n_tokens = 300,
                                          .max_tokens = 2,
                                          .key = asked[i].key,
                                          .cache_salt = asked[i].salt},
                &answer);
            bool hits = by_key ? asked[i].hits : i > 0 && i != 3; /* 3: the salt's first */
            assert_int_equal(answer.usage.cached_tokens > 0, hits);
            buf_release(&answer.text);
        }
        sluice_engine_close(engine);
    }
}

/* What a preempted request had from the index and lost meanwhile, it computes after all: then it does
 * not count as cached. */
static void test_lost_hits_are_not_counted(void **state)
{
    (void)state;
    static int32_t prompt[400], large[900];
    static struct answer answer;
    sluice_engine *engine = engine_of((sluice_engine_options){
        .max_sequences = 2, .step_rows = 64, .n_context = 1024, .kv_memory = 32 << 10});
    sluice_stats stats;
    random_tokens(31, prompt, 400);
    random_tokens(32, large, 900);
    for (int again = 0; again < 2; again++) {
        ask(engine, &(sluice_request_options){.tokens = prompt, .n_tokens = 400, .max_tokens = 1},
            &answer);
        assert_int_equal(answer.usage.cached_tokens > 0, again);
        buf_release(&answer.text);
    }
    uint32_t hit = answer.usage.cached_tokens;
    sluice_request *request = submit(engine, &(sluice_request_options){.tokens = prompt,
                                                                       .n_tokens = 400,
                                                                       .max_tokens = 500,
                                                                       .ignore_end = true,
                                                                       .priority = 1});
    sluice_event event;
    while (sluice_request_next(request, &event, -1) && event.kind != SLUICE_EVENT_TOKEN)
        ;
    ask(engine, &(sluice_request_options){.tokens = large, .n_tokens = 900, .max_tokens = 1},
        &answer);
    buf_release(&answer.text);
    while (sluice_request_next(request, &event, -1))
        ;
    assert_int_equal(event.usage.cached_tokens, 0);
    sluice_engine_stats(engine, &stats);
    assert_int_equal(stats.preemptions, 1);
    assert_int_equal(stats.cached_tokens, hit); /* the second one's */
    sluice_request_free(request);
    sluice_engine_close(engine);
}

/* A pool that holds a third of what runs: answers are the same, though sequences are put back. */
static void test_preempted_answers(void **state)
{
    (void)state;
    static struct answer answer;
    sluice_request *requests[10];
    static int32_t prompts[10][60];
    for (int ahead = 0; ahead < 2; ahead++) {
        atomic_store(&fake_control.asynchronous, ahead);
        sluice_engine *engine = engine_of((sluice_engine_options){
            .max_sequences = 10, .step_rows = 64, .n_context = 512, .kv_memory = 40 << 10});
        bool penalties = ahead == 0;
        for (uint32_t i = 0; i < 10; i++) {
            random_tokens(100 + i, prompts[i], 20 + 4 * i);
            requests[i] =
                submit(engine, &(sluice_request_options){
                                   .tokens = prompts[i],
                                   .n_tokens = 20 + 4 * i,
                                   .max_tokens = 200,
                                   .ignore_end = true,
                                   .sampling = {.set = penalties ? SLUICE_SET_REPEAT_PENALTY : 0,
                                                .repeat_penalty = 1.5f}});
        }
        for (uint32_t i = 0; i < 10; i++) {
            read_answer(requests[i], &answer);
            assert_int_equal(answer.n_tokens, 200);
            int32_t all[300];
            uint32_t n = 20 + 4 * i;
            memcpy(all, prompts[i], n * sizeof *all);
            for (uint32_t j = 0; j < 200; j++) {
                all[n + j] =
                    penalties ? 'a' + (int32_t)(fake_hash(all, n + j) % 26) : fake_next(all, n + j);
                assert_int_equal(answer.tokens[j], all[n + j]);
            }
            buf_release(&answer.text);
            sluice_request_free(requests[i]);
        }
        sluice_stats stats;
        sluice_engine_stats(engine, &stats);
        assert_true(stats.preemptions > 0);
        assert_int_equal(stats.pages_used, 0);
        sluice_engine_close(engine);
    }
    atomic_store(&fake_control.asynchronous, false);
}

static void test_planned_ahead(void **state)
{
    (void)state;
    static struct answer answers[12];
    sluice_request *requests[12];
    static int32_t prompts[12][90];
    atomic_store(&fake_control.asynchronous, true);
    for (uint32_t chunk = 0; chunk < 8; chunk += 7) {
        sluice_engine *engine = engine_of((sluice_engine_options){
            .max_sequences = 4, .step_rows = 30, .n_context = 512, .kv_memory = 60 << 10});
        for (uint32_t i = 0; i < 12; i++) {
            random_tokens(i, prompts[i], 30 + 5 * i);
            requests[i] = submit(engine, &(sluice_request_options){.tokens = prompts[i],
                                                                   .n_tokens = 30 + 5 * i,
                                                                   .max_tokens = 60 - i,
                                                                   .chunk = chunk});
        }
        for (uint32_t i = 0; i < 12; i++) {
            read_answer(requests[i], &answers[i]);
            check_answer(&answers[i], prompts[i], 30 + 5 * i, 60 - i);
            buf_release(&answers[i].text);
            sluice_request_free(requests[i]);
        }
        assert_true(atomic_load(&fake_control.ahead) > 50);
        assert_true(atomic_load(&fake_control.sampled_inputs) > 100);
        sluice_engine_close(engine);
    }
    atomic_store(&fake_control.asynchronous, false);
}

/* ---- wake-ups --------------------------------------------------------------------------------- */

#define STREAMS 200

struct alarm {
    pthread_mutex_t lock;
    pthread_cond_t rung;
    unsigned pending, total;
};

static void ring(void *context)
{
    struct alarm *alarm = context;
    pthread_mutex_lock(&alarm->lock);
    alarm->pending++;
    alarm->total++;
    pthread_cond_signal(&alarm->rung);
    pthread_mutex_unlock(&alarm->lock);
}

static void wait_ring(struct alarm *alarm)
{
    pthread_mutex_lock(&alarm->lock);
    while (!alarm->pending)
        pthread_cond_wait(&alarm->rung, &alarm->lock);
    alarm->pending = 0;
    pthread_mutex_unlock(&alarm->lock);
}

struct stream {
    uint32_t n_tokens;
    bool admitted, done;
};

static void test_one_wakeup_per_step(void **state)
{
    (void)state;
    struct alarm alarm = {.lock = PTHREAD_MUTEX_INITIALIZER, .rung = PTHREAD_COND_INITIALIZER};
    sluice_wakeups *wakeups;
    assert_int_equal(sluice_wakeups_create(ring, &alarm, &wakeups, NULL), SLUICE_OK);
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 64});
    atomic_store(&fake_control.delay_us, 200);
    static struct stream streams[STREAMS];
    memset(streams, 0, sizeof streams);
    for (int i = 0; i < STREAMS; i++)
        submit(engine, &(sluice_request_options){.prompt = "hello",
                                                 .max_tokens = 20,
                                                 .ignore_end = true,
                                                 .logprobs = true,
                                                 .wakeups = wakeups,
                                                 .report_admission = true,
                                                 .user = &streams[i]});
    for (int open = STREAMS; open > 0;) {
        wait_ring(&alarm);
        sluice_request *ready[16];
        for (size_t n; (n = sluice_wakeups_take(wakeups, ready, 16)) > 0;)
            for (size_t i = 0; i < n; i++) {
                struct stream *stream = sluice_request_user(ready[i]);
                sluice_event event;
                while (sluice_request_next(ready[i], &event, 0)) {
                    assert_true(stream->admitted == (event.kind != SLUICE_EVENT_ADMITTED));
                    stream->admitted = true;
                    stream->n_tokens += event.kind == SLUICE_EVENT_TOKEN;
                    stream->done |= event.kind == SLUICE_EVENT_DONE;
                }
                if (stream->done) {
                    sluice_request_free(ready[i]);
                    open--;
                }
            }
    }
    for (int i = 0; i < STREAMS; i++)
        assert_int_equal(streams[i].n_tokens, 20);
    sluice_stats stats;
    sluice_engine_stats(engine, &stats);
    /* Twice a step: when it begins (admissions) and when it ends. */
    assert_true(alarm.total <= 2 * stats.steps + 1 && alarm.total >= 20);
    assert_int_equal(stats.decoded_tokens, STREAMS * 20);
    assert_int_equal(stats.requests_finished, STREAMS);
    sluice_wakeups_free(wakeups);
    sluice_engine_close(engine);
}

static void test_reader_leaves_the_list(void **state)
{
    (void)state;
    struct alarm alarm = {.lock = PTHREAD_MUTEX_INITIALIZER, .rung = PTHREAD_COND_INITIALIZER};
    sluice_wakeups *wakeups;
    assert_int_equal(sluice_wakeups_create(ring, &alarm, &wakeups, NULL), SLUICE_OK);
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 8});
    sluice_request_options options = {.prompt = "hello", .ignore_end = true, .wakeups = wakeups};
    for (int i = 0; i < 40; i++) {
        sluice_request *request = submit(engine, &options);
        if (i % 2)
            wait_ring(&alarm); /* it is listed, then freed */
        sluice_request_free(request);
    }
    sluice_request *left[8];
    assert_int_equal(sluice_wakeups_take(wakeups, left, 8), 0);
    sluice_wakeups_free(wakeups); /* before the engine has noticed */
    sluice_engine_close(engine);
}

/* ---- the rest --------------------------------------------------------------------------------- */

static void test_deadline_and_progress(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.max_sequences = 1});
    atomic_store(&fake_control.delay_us, 1000);
    sluice_request_options options = {
        .prompt = "hello", .ignore_end = true, .deadline_ms = 60, .max_tokens = 3000};
    sluice_request *running = submit(engine, &options), *queued = submit(engine, &options);
    wait_steps(4);
    sluice_request_progress progress;
    sluice_request_progress_get(running, &progress);
    assert_true(progress.admitted && !progress.ended && progress.output_tokens >= 1);
    assert_int_equal(progress.computed_tokens, progress.prompt_tokens);
    sluice_request_progress_get(queued, &progress);
    assert_false(progress.admitted || progress.ended);
    static struct answer answer;
    read_answer(running, &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_DEADLINE);
    assert_true(answer.usage.output_tokens > 1 && answer.usage.output_tokens < 100);
    buf_release(&answer.text);
    read_answer(queued, &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_DEADLINE);
    sluice_request_progress_get(queued, &progress);
    assert_true(progress.ended);
    sluice_request_free(running);
    sluice_request_free(queued);
    sluice_engine_close(engine);
}

static void embed(sluice_engine *engine, const int32_t *tokens, uint32_t n, sluice_pooling pooling,
                  bool raw, uint32_t chunk, float out[FAKE_HIDDEN])
{
    sluice_request *request = submit(engine, &(sluice_request_options){.tokens = tokens,
                                                                       .n_tokens = n,
                                                                       .mode = SLUICE_EMBED,
                                                                       .pooling = pooling,
                                                                       .raw_embedding = raw,
                                                                       .chunk = chunk});
    sluice_event event;
    uint32_t rows = 0;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ROWS) {
            rows += event.n_rows;
            assert_int_equal(event.row_width, FAKE_HIDDEN);
            memcpy(out, event.rows, FAKE_HIDDEN * sizeof *out);
        } else {
            assert_int_equal(event.kind, SLUICE_EVENT_DONE);
            assert_int_equal(event.finish, SLUICE_FINISH_STOP);
        }
    }
    assert_int_equal(rows, 1);
    sluice_request_free(request);
}

static void test_embeddings(void **state)
{
    (void)state;
    sluice_engine *engine = engine_of((sluice_engine_options){.step_rows = 64});
    int32_t tokens[100];
    float out[FAKE_HIDDEN], again[FAKE_HIDDEN], mean[FAKE_HIDDEN] = {0};
    random_tokens(3, tokens, 100);
    for (uint32_t i = 0; i < 100; i++)
        for (uint32_t j = 0; j < FAKE_HIDDEN; j++)
            mean[j] += (float)(fake_mix(fake_hash(tokens, i + 1), 1000 + j) >> 44);
    embed(engine, tokens, 100, SLUICE_POOLING_MEAN, true, 0, out);
    embed(engine, tokens, 100, SLUICE_POOLING_MEAN, true, 7, again);
    assert_memory_equal(out, again, sizeof out);
    for (uint32_t j = 0; j < FAKE_HIDDEN; j++)
        assert_true(out[j] == (float)((double)mean[j] * (1.0 / 100)));
    embed(engine, tokens, 100, SLUICE_POOLING_DEFAULT, true, 9, out);
    embed(engine, tokens, 100, SLUICE_POOLING_DEFAULT, true, 0, again);
    for (uint32_t j = 0; j < FAKE_HIDDEN; j++)
        assert_true(out[j] == (float)(fake_mix(fake_hash(tokens, 100), 1000 + j) >> 44) &&
                    again[j] == out[j]);
    embed(engine, tokens, 100, SLUICE_POOLING_FIRST, false, 9, out);
    float length = 0;
    for (uint32_t j = 0; j < FAKE_HIDDEN; j++)
        length += out[j] * out[j];
    assert_true(fabsf(length - 1.0f) < 1e-5f);
    sluice_request *request;
    sluice_request_options wrong = {.tokens = tokens, .n_tokens = 9, .mode = SLUICE_EMBED, .n = 2};
    assert_int_equal(sluice_submit(engine, &wrong, &request, NULL), SLUICE_ERROR_USAGE);
    sluice_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_several_answers),
        cmocka_unit_test(test_answers_share_the_prompt),
        cmocka_unit_test(test_conversation_is_cached),
        cmocka_unit_test(test_cache_by_key),
        cmocka_unit_test(test_lost_hits_are_not_counted),
        cmocka_unit_test(test_preempted_answers),
        cmocka_unit_test(test_planned_ahead),
        cmocka_unit_test(test_one_wakeup_per_step),
        cmocka_unit_test(test_reader_leaves_the_list),
        cmocka_unit_test(test_deadline_and_progress),
        cmocka_unit_test(test_embeddings),
    };
    return cmocka_run_group_tests_name("engine for servers", tests, make_tokenizer, free_tokenizer);
}
