/*
 * Embeddings through the engine: an encoder's text is one piece however it is asked for, its vector
 * is pooled as its makers say, and it is the same bits alone and in a crowd. On the committed bert
 * and qwen3-embed fixtures.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_calls.h"
#include "fixture.h"
#include "model_folder.h"
#include "sluice.h"

#define WIDTH 64
#define CROWD 9

static const char *const backends[] = {"ref", "cpu"};

static sluice_engine *open_engine(const char *model, const char *backend)
{
    return must_open(
        &(sluice_engine_options){.model = model, .backend = backend, .max_sequences = 4});
}

/* All rows of a request, [n, WIDTH]; frees it. */
static void rows_of(sluice_request *request, uint32_t n, float *rows)
{
    sluice_event event;
    uint32_t got = 0;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail_msg("%s", event.error.message);
        if (event.kind != SLUICE_EVENT_ROWS)
            continue;
        assert_int_equal(event.row_width, WIDTH);
        assert_true(got + event.n_rows <= n);
        memcpy(rows + (size_t)got * WIDTH, event.rows, (size_t)event.n_rows * WIDTH * sizeof *rows);
        got += event.n_rows;
    }
    assert_int_equal(got, n);
    sluice_request_free(request);
}

static void make_tokens(int32_t *ids, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(2 + (seed * 131 + i * 7919 + i * i * 31) % 300);
}

static void expect(const float *got, const float *row, bool unit, const char *what)
{
    double length = 0.0;
    for (uint32_t i = 0; i < WIDTH; i++)
        length += (double)row[i] * (double)row[i];
    length = unit ? sqrt(length) : 1.0;
    for (uint32_t i = 0; i < WIDTH; i++)
        if (!(fabs((double)got[i] - (double)row[i] / length) <= 1e-5))
            fail_msg("%s: value %u is %g, expected %g", what, i, (double)got[i],
                     (double)row[i] / length);
}

static void mean_of(const float *rows, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < WIDTH; i++) {
        double sum = 0.0;
        for (uint32_t r = 0; r < n; r++)
            sum += (double)rows[(size_t)r * WIDTH + i];
        out[i] = (float)(sum / n);
    }
}

static void test_pooling(void **state)
{
    (void)state;
    enum { n = 23 };
    int32_t ids[n];
    float rows[n * WIDTH], mean[WIDTH], got[WIDTH];
    make_tokens(ids, n, 5);
    for (int b = 0; b < 2; b++) {
        sluice_engine *engine = open_engine(fixture_path("tests/data/arch/hf/bert"), backends[b]);
        sluice_model_info info;
        sluice_engine_info(engine, &info);
        assert_int_equal(info.pooling, SLUICE_POOLING_MEAN);
        assert_false(info.has_logits);
        sluice_request_options options = {
            .tokens = ids, .n_tokens = n, .mode = SLUICE_SCORE_HIDDEN};
        rows_of(must_submit(engine, &options), n, rows);
        mean_of(rows, n, mean);
        options.mode = SLUICE_EMBED;
        rows_of(must_submit(engine, &options), 1, got);
        expect(got, mean, true, "the model's own (mean)");
        options.raw_embedding = true;
        rows_of(must_submit(engine, &options), 1, got);
        expect(got, mean, false, "mean, raw");
        options.pooling = SLUICE_POOLING_FIRST;
        rows_of(must_submit(engine, &options), 1, got);
        expect(got, rows, false, "first");
        options.pooling = SLUICE_POOLING_LAST;
        rows_of(must_submit(engine, &options), 1, got);
        expect(got, rows + (n - 1) * WIDTH, false, "last");
        sluice_engine_close(engine);
    }
}

static void test_makers_say(void **state)
{
    (void)state;
    int32_t ids[7];
    float rows[7 * WIDTH], got[WIDTH];
    make_tokens(ids, 7, 9);
    const char *folder = model_folder("bert", "{}");
    model_folder_file("1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}");
    sluice_engine *engine = open_engine(folder, "cpu");
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    assert_int_equal(info.pooling, SLUICE_POOLING_FIRST);
    sluice_request_options options = {.tokens = ids, .n_tokens = 7, .mode = SLUICE_SCORE_HIDDEN};
    rows_of(must_submit(engine, &options), 7, rows);
    options.mode = SLUICE_EMBED;
    rows_of(must_submit(engine, &options), 1, got);
    expect(got, rows, true, "cls");
    sluice_engine_close(engine);
}

/* Lengths that fill steps unevenly, chunks that an encoder must not be cut by. */
static void test_alone_and_in_a_crowd(void **state)
{
    (void)state;
    static const char *const names[] = {"bert", "qwen3-embed"};
    static int32_t ids[CROWD][512];
    static float alone[CROWD][WIDTH], here[WIDTH];
    for (size_t m = 0; m < 4; m++) {
        char path[64];
        snprintf(path, sizeof path, "tests/data/arch/hf/%s", names[m / 2]);
        sluice_engine *engine = open_engine(fixture_path(path), backends[m % 2]);
        sluice_request_options options[CROWD];
        sluice_request *requests[CROWD];
        for (uint32_t i = 0; i < CROWD; i++) {
            uint32_t n = i == 4 ? 150 : 3 + 11 * i;
            make_tokens(ids[i], n, i);
            options[i] =
                (sluice_request_options){.tokens = ids[i], .n_tokens = n, .mode = SLUICE_EMBED};
            rows_of(must_submit(engine, &options[i]), 1, alone[i]);
            options[i].chunk = i % 3 ? 2 * i + 1 : 0;
        }
        for (uint32_t i = 0; i < CROWD; i++)
            requests[i] = must_submit(engine, &options[i]);
        for (uint32_t i = 0; i < CROWD; i++) {
            rows_of(requests[i], 1, here);
            assert_memory_equal(here, alone[i], sizeof here);
        }
        sluice_engine_close(engine);
    }
}

static void test_limits(void **state)
{
    (void)state;
    static int32_t ids[600];
    static float rows[512 * WIDTH];
    sluice_engine *engine = open_engine(fixture_path("tests/data/arch/hf/bert"), "cpu");
    sluice_request *request;
    sluice_error error = {0};
    make_tokens(ids, 600, 1);
    sluice_request_options options = {.tokens = ids, .n_tokens = 512, .mode = SLUICE_SCORE_HIDDEN};
    rows_of(must_submit(engine, &options), 512, rows); /* the whole context, in one piece */
    options.n_tokens = 513;
    assert_int_equal(sluice_submit(engine, &options, &request, &error), SLUICE_ERROR_CONTEXT);
    options = (sluice_request_options){.tokens = ids, .n_tokens = 5};
    assert_int_not_equal(sluice_submit(engine, &options, &request, &error), SLUICE_OK);
    sluice_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pooling),
        cmocka_unit_test(test_makers_say),
        cmocka_unit_test(test_alone_and_in_a_crowd),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
