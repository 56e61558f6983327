/* The set of models, with real ones: loading on demand, waiting, keep-alive, eviction, refusals. */
#include <pthread.h>
#include <time.h>

#include "fixture.h"
#include "sluice.h"

#define Q8    "models/pebble/pebble-q8_0.gguf"
#define LLAMA "tests/data/arch/hf/llama"
#define LFM2  "tests/data/arch/hf/lfm2"

static sluice_models *open_set(uint64_t memory, int64_t keep_alive_ms)
{
    sluice_models *models;
    sluice_models_options options = {
        .engine = {.backend = "ref", .n_context = 256, .max_sequences = 2, .kv_memory = 4 << 20},
        .memory = memory,
        .keep_alive_ms = keep_alive_ms,
    };
    assert_int_equal(sluice_models_create(&options, &models, NULL), SLUICE_OK);
    assert_int_equal(sluice_models_add(models, "pebble", fixture_path(Q8), NULL), SLUICE_OK);
    assert_int_equal(sluice_models_add(models, "llama", fixture_path(LLAMA), NULL), SLUICE_OK);
    assert_int_equal(sluice_models_add(models, "lfm2", fixture_path(LFM2), NULL), SLUICE_OK);
    assert_int_equal(sluice_models_add(models, "gone", "/nonexistent.gguf", NULL), SLUICE_OK);
    return models;
}

static sluice_model_entry entry_of(sluice_models *models, const char *name)
{
    sluice_model_entry entries[8];
    size_t n = sluice_models_list(models, entries, 8);
    for (size_t i = 0; i < n; i++)
        if (strcmp(entries[i].name, name) == 0)
            return entries[i];
    fail_msg("no entry %s", name);
    return entries[0];
}

static bool becomes(sluice_models *models, const char *name, sluice_model_state state)
{
    for (int i = 0; i < 5000; i++) {
        if (entry_of(models, name).state == state)
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}

static sluice_engine *hold(sluice_models *models, const char *name)
{
    sluice_engine *engine;
    sluice_error error = {0};
    if (sluice_models_hold(models, name, NULL, NULL, NULL, &engine, &error) != SLUICE_OK)
        fail_msg("%s: %s", name, error.message);
    assert_non_null(engine);
    return engine;
}

static void test_load_on_demand(void **state)
{
    (void)state;
    sluice_models *models = open_set(0, 0);
    sluice_error error = {0};
    assert_int_equal(entry_of(models, "llama").state, SLUICE_MODEL_UNLOADED);
    sluice_engine *engine = hold(models, "llama"), *same = hold(models, "llama");
    assert_ptr_equal(engine, same);
    sluice_model_entry entry = entry_of(models, "llama");
    assert_int_equal(entry.holders, 2);
    assert_true(entry.bytes > 0 && entry.expires_ms == -1);
    sluice_models_release(models, engine);
    sluice_models_release(models, engine);
    entry = entry_of(models, "llama");
    assert_true(entry.expires_ms > 200000 && entry.expires_ms <= 300000);
    assert_int_equal(sluice_models_hold(models, "who", NULL, NULL, NULL, &engine, &error),
                     SLUICE_ERROR_USAGE);
    assert_int_equal(sluice_models_hold(models, "gone", NULL, NULL, NULL, &engine, &error),
                     SLUICE_ERROR_DISK);
    assert_null(engine);
    assert_non_null(strstr(error.message, "/nonexistent.gguf"));
    assert_int_equal(sluice_models_add(models, "llama", "x", &error), SLUICE_ERROR_USAGE);
    sluice_models_close(models);
}

static void test_keep_alive(void **state)
{
    (void)state;
    sluice_models *models = open_set(0, 50);
    sluice_engine *engine = hold(models, "llama");
    nanosleep(&(struct timespec){0, 80000000}, NULL);
    assert_int_equal(entry_of(models, "llama").state, SLUICE_MODEL_LOADED); /* held */
    sluice_models_release(models, engine);
    assert_true(becomes(models, "llama", SLUICE_MODEL_UNLOADED));
    int64_t forever = -1;
    assert_int_equal(sluice_models_hold(models, "llama", &forever, NULL, NULL, &engine, NULL),
                     SLUICE_OK);
    sluice_models_release(models, engine);
    nanosleep(&(struct timespec){0, 80000000}, NULL);
    assert_int_equal(entry_of(models, "llama").state, SLUICE_MODEL_LOADED);
    assert_int_equal(sluice_models_unload(models, "llama", NULL), SLUICE_OK);
    assert_true(becomes(models, "llama", SLUICE_MODEL_UNLOADED));
    sluice_models_close(models);
}

struct arrival {
    pthread_mutex_t lock;
    sluice_engine *engine;
    sluice_status status;
    int calls;
};

static void arrived(void *context, sluice_engine *engine, const sluice_error *error)
{
    struct arrival *arrival = context;
    pthread_mutex_lock(&arrival->lock);
    arrival->engine = engine;
    arrival->status = error->status;
    arrival->calls++;
    pthread_mutex_unlock(&arrival->lock);
}

/* 13 MB fit one model beside its pool: the next one evicts an idle one and waits for a held one,
 * while the held one answers. */
static void test_budget(void **state)
{
    (void)state;
    sluice_models *models = open_set(13 << 20, -1);
    sluice_engine *pebble = hold(models, "pebble");
    sluice_models_release(models, pebble);
    sluice_models_unload(models, "lfm2", NULL); /* not loaded: nothing to do */
    pebble = hold(models, "pebble");
    struct arrival arrival = {.lock = PTHREAD_MUTEX_INITIALIZER};
    assert_int_equal(sluice_models_add(models, "twin", fixture_path(Q8), NULL), SLUICE_OK);
    sluice_engine *twin;
    assert_int_equal(sluice_models_hold(models, "twin", NULL, arrived, &arrival, &twin, NULL),
                     SLUICE_OK);
    assert_null(twin);
    assert_int_equal(entry_of(models, "twin").state, SLUICE_MODEL_LOADING);
    sluice_request *request;
    sluice_request_options options = {.prompt = "Once", .max_tokens = 2};
    assert_int_equal(sluice_submit(pebble, &options, &request, NULL), SLUICE_OK);
    sluice_event event = {0};
    while (sluice_request_next(request, &event, -1))
        ;
    assert_int_equal(event.kind, SLUICE_EVENT_DONE);
    sluice_request_free(request);
    assert_int_equal(arrival.calls, 0);
    sluice_models_release(models, pebble);
    assert_true(becomes(models, "twin", SLUICE_MODEL_LOADED));
    assert_int_equal(entry_of(models, "pebble").state, SLUICE_MODEL_UNLOADED);
    pthread_mutex_lock(&arrival.lock);
    assert_true(arrival.calls == 1 && arrival.engine && arrival.status == SLUICE_OK);
    pthread_mutex_unlock(&arrival.lock);
    sluice_models_release(models, arrival.engine);
    sluice_models_close(models);
}

/* Room for two: a third one sends away the one that was used longest ago, whichever was loaded first. */
static void test_least_recently_used_goes(void **state)
{
    (void)state;
    sluice_models *models = open_set(0, -1);
    sluice_models_release(models, hold(models, "llama"));
    sluice_models_release(models, hold(models, "lfm2"));
    uint64_t both = entry_of(models, "llama").bytes + entry_of(models, "lfm2").bytes;
    sluice_models_close(models);
    for (int again = 0; again < 2; again++) {
        models = open_set(both + (both >> 4), -1);
        assert_int_equal(sluice_models_add(models, "twin", fixture_path(LLAMA), NULL), SLUICE_OK);
        sluice_models_release(models, hold(models, "llama"));
        sluice_models_release(models, hold(models, "lfm2"));
        if (again) /* used once more */
            sluice_models_release(models, hold(models, "llama"));
        sluice_models_release(models, hold(models, "twin"));
        assert_int_equal(entry_of(models, "llama").state == SLUICE_MODEL_LOADED, again);
        assert_int_equal(entry_of(models, "lfm2").state == SLUICE_MODEL_LOADED, !again);
        sluice_models_close(models);
    }
}

static void release(sluice_models *models, struct arrival *arrival)
{
    pthread_mutex_lock(&arrival->lock);
    sluice_engine *engine = arrival->engine;
    pthread_mutex_unlock(&arrival->lock);
    assert_non_null(engine);
    sluice_models_release(models, engine);
}

/* Who does not want to wait any more takes the wait back; a model that nobody waits for is not
 * loaded. */
static void test_abandon(void **state)
{
    (void)state;
    sluice_models *models = open_set(13 << 20, -1);
    assert_int_equal(sluice_models_add(models, "twin", fixture_path(Q8), NULL), SLUICE_OK);
    sluice_engine *pebble = hold(models, "pebble"), *twin;
    struct arrival first = {.lock = PTHREAD_MUTEX_INITIALIZER}, second = first;
    assert_int_equal(sluice_models_hold(models, "twin", NULL, arrived, &first, &twin, NULL),
                     SLUICE_OK);
    assert_int_equal(sluice_models_hold(models, "twin", NULL, arrived, &second, &twin, NULL),
                     SLUICE_OK);
    assert_false(sluice_models_abandon(models, "pebble", &first));
    assert_true(sluice_models_abandon(models, "twin", &first));
    assert_false(sluice_models_abandon(models, "twin", &first));
    assert_int_equal(entry_of(models, "twin").state, SLUICE_MODEL_LOADING);
    assert_true(sluice_models_abandon(models, "twin", &second));
    assert_int_equal(entry_of(models, "twin").state, SLUICE_MODEL_UNLOADED);
    sluice_models_release(models, pebble);
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    assert_int_equal(entry_of(models, "pebble").state, SLUICE_MODEL_LOADED);
    assert_int_equal(first.calls + second.calls, 0);
    sluice_models_close(models);
}

/* A model whose holders overlap without end still leaves for one that waits; whoever asks for it
 * meanwhile gets it after that one. */
static void test_patience(void **state)
{
    (void)state;
    sluice_models *models = open_set(13 << 20, -1);
    assert_int_equal(sluice_models_add(models, "twin", fixture_path(Q8), NULL), SLUICE_OK);
    sluice_engine *pebble = hold(models, "pebble"), *engine;
    struct arrival twin = {.lock = PTHREAD_MUTEX_INITIALIZER}, again = twin;
    assert_int_equal(sluice_models_hold(models, "twin", NULL, arrived, &twin, &engine, NULL),
                     SLUICE_OK);
    bool queued = false;
    for (int i = 0; i < 600 && !queued; i++) { /* always somebody holds pebble */
        assert_int_equal(sluice_models_hold(models, "pebble", NULL, arrived, &again, &engine, NULL),
                         SLUICE_OK);
        queued = engine == NULL;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
        if (!queued)
            sluice_models_release(models, pebble);
    }
    assert_true(queued);
    sluice_models_release(models, pebble);
    assert_true(becomes(models, "twin", SLUICE_MODEL_LOADED));
    release(models, &twin);
    assert_true(becomes(models, "pebble", SLUICE_MODEL_LOADED));
    sluice_model_info info;
    sluice_stats stats;
    assert_true(sluice_models_look(models, "pebble", &info, &stats));
    assert_true(info.weight_bytes > 0 && stats.pages_total > 0);
    assert_false(sluice_models_look(models, "twin", &info, &stats));
    release(models, &again);
    sluice_models_close(models);
}

static void test_too_large_and_closing(void **state)
{
    (void)state;
    sluice_models *models = open_set(7 << 20, 0);
    sluice_engine *engine;
    sluice_error error = {0};
    assert_int_equal(sluice_models_hold(models, "pebble", NULL, NULL, NULL, &engine, &error),
                     SLUICE_ERROR_MEMORY);
    assert_non_null(strstr(error.message, "pebble"));
    /* Asked for and never waited for: told when the set closes, if not before. */
    struct arrival arrival = {.lock = PTHREAD_MUTEX_INITIALIZER};
    assert_int_equal(sluice_models_hold(models, "gone", NULL, arrived, &arrival, &engine, NULL),
                     SLUICE_OK);
    sluice_models_close(models);
    assert_int_equal(arrival.calls, 1);
    assert_true(arrival.status == SLUICE_ERROR_DISK || arrival.status == SLUICE_ERROR_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_on_demand),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_abandon),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_too_large_and_closing),
        cmocka_unit_test(test_least_recently_used_goes),
    };
    return cmocka_run_group_tests_name("models", tests, NULL, NULL);
}
