/*
 * The demo model against its makers' recorded greedy answers (models/pebble/reference.json): prompt
 * and answer are fed back, and at every step whose recorded margin between the two likeliest tokens
 * (in logits) is 0.1 or more, the BF16 file must call the recorded token the likeliest. The logits
 * recorded for two prompts bound the error. For Q8_0, whose weights differ, the shares of identical
 * steps and answers are reported. (golden/test_engine.c generates the answers instead.)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/safetensors.h"
#include "sluice.h"

#define FOLDER     "models/pebble/"
#define TOKENS_MAX 1024
#define MARGIN     0.1

static json_t *prompts; /* borrowed from `document` */
static json_t *document;
static struct buf logits_bytes;
static struct safetensors *recorded_logits;

static int open_reference(void **state)
{
    (void)state;
    struct error err = {0};
    assert_ok(json_parse_file(fixture_path(FOLDER "reference.json"), 1 << 22, 64, &document, &err),
              &err);
    prompts = json_object_get(document, "prompts");
    logits_bytes = fixture_read(fixture_path(FOLDER "reference_logits.safetensors"));
    assert_ok(safetensors_parse((const uint8_t *)logits_bytes.data, logits_bytes.len, "reference",
                                &recorded_logits, &err),
              &err);
    return 0;
}

static int close_reference(void **state)
{
    (void)state;
    json_decref(document);
    safetensors_free(recorded_logits);
    buf_release(&logits_bytes);
    return 0;
}

static uint32_t append_ids(const json_t *prompt, const char *key, int32_t *ids, uint32_t n)
{
    const json_t *list = json_object_get(prompt, key);
    assert_true(n + json_array_size(list) <= TOKENS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[n++] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static uint32_t arg_max(const float *row, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = row[i] > row[best] ? i : best;
    return best;
}

struct tally {
    uint32_t steps, same, sure, sure_same, answers, identical;
    double error; /* largest relative error of recorded logits; 0 where none */
};

static double recorded_error(const char *name, const float *rows, uint32_t width)
{
    char key[80];
    snprintf(key, sizeof key, "logits.%s", name);
    for (size_t i = 0; i < safetensors_count(recorded_logits); i++) {
        const struct tensor *t = safetensors_at(recorded_logits, i);
        if (!str_eq_cstr(t->name, key))
            continue;
        assert_int_equal(t->dims[1], width);
        double difference = 0.0, size = 0.0;
        for (size_t k = 0; k < t->dims[0] * width; k++) {
            float expected;
            memcpy(&expected, (const char *)t->data + 4 * k, 4);
            double d = (double)rows[k] - (double)expected;
            difference += d * d;
            size += (double)expected * (double)expected;
        }
        return sqrt(difference / size);
    }
    return 0.0;
}

/* Logits of every position, in the order of the ids. */
static struct buf score(sluice_engine *engine, const int32_t *ids, uint32_t n, uint32_t width)
{
    sluice_request_options options = {.tokens = ids, .n_tokens = n, .mode = SLUICE_SCORE_LOGITS};
    struct buf rows = must_score(engine, &options);
    assert_int_equal(rows.len, (size_t)n * width * sizeof(float));
    return rows;
}

static void compare(sluice_engine *engine, const json_t *prompt, struct tally *tally)
{
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    int32_t ids[TOKENS_MAX];
    uint32_t n_prompt = append_ids(prompt, "prompt_ids", ids, 0);
    uint32_t n = append_ids(prompt, "output_ids", ids, n_prompt), same = 0;
    const json_t *margins = json_object_get(prompt, "margins");
    /* The last token is only predicted. */
    struct buf scored = score(engine, ids, n - 1, info.n_vocab);
    const float *rows = (const float *)(const void *)scored.data;
    for (uint32_t i = n_prompt; i < n; i++) {
        bool is = arg_max(rows + (size_t)(i - 1) * info.n_vocab, info.n_vocab) == (uint32_t)ids[i];
        bool sure = json_number_value(json_array_get(margins, i - n_prompt)) >= MARGIN;
        same += is;
        tally->sure += sure;
        tally->sure_same += sure && is;
    }
    tally->steps += n - n_prompt;
    tally->same += same;
    tally->answers++;
    tally->identical += same == n - n_prompt;
    double error =
        recorded_error(json_string_value(json_object_get(prompt, "name")), rows, info.n_vocab);
    tally->error = error > tally->error ? error : tally->error;
    buf_release(&scored);
}

/* Every `every`-th prompt of the file. */
static struct tally run(const char *file, const char *backend, bool exact, size_t every)
{
    struct tally tally = {0};
    char path[128];
    snprintf(path, sizeof path, FOLDER "pebble-%s.gguf", file);
    sluice_engine_options options = {.model = fixture_path(path),
                                     .backend = backend,
                                     .exact = exact,
                                     .n_context = TOKENS_MAX,
                                     .max_sequences = 1};
    sluice_engine *engine = must_open(&options);
    for (size_t i = 0; i < json_array_size(prompts); i += every)
        compare(engine, json_array_get(prompts, i), &tally);
    sluice_engine_close(engine);
    printf("pebble %-4s %-3s %-5s: %u of %u sure steps, %u of %u steps, %u of %u answers the same; "
           "logits within %.1e\n",
           file, backend, exact ? "exact" : "fast", tally.sure_same, tally.sure, tally.same,
           tally.steps, tally.identical, tally.answers, tally.error);
    return tally;
}

static void agrees(const char *backend, bool exact, size_t every)
{
    struct tally tally = run("bf16", backend, exact, every);
    assert_true(tally.sure > 0);
    assert_int_equal(tally.sure_same, tally.sure);
    assert_true(tally.error > 0.0 && tally.error < (exact ? 1e-4 : 3e-2));
}

static void test_bf16_ref(void **state)
{
    (void)state;
    agrees("ref", true, SANITIZED ? 24 : 12); /* scalar: two prompts show that its loop is right */
}

static void test_bf16_exact(void **state)
{
    (void)state;
    agrees("cpu", true, SANITIZED ? 6 : 1);
}

static void test_bf16_fast(void **state)
{
    (void)state;
    agrees("cpu", false, SANITIZED ? 6 : 1);
}

static void test_q8_0(void **state)
{
    (void)state;
    struct tally tally = run("q8_0", "cpu", false, SANITIZED ? 6 : 1);
    assert_true(tally.same * 20 > tally.steps * 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_ref),
        cmocka_unit_test(test_bf16_exact),
        cmocka_unit_test(test_bf16_fast),
        cmocka_unit_test(test_q8_0),
    };
    return cmocka_run_group_tests(tests, open_reference, close_reference);
}
