/* Synthetic models: they open, tokenize, answer with sane numbers, and do not depend on threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/synth.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "sluice.h"

static const char *write_model(const char *shape, const char *type, uint32_t n_threads)
{
    static char path[1200];
    struct error err = {0};
    struct synth_report report;
    snprintf(path, sizeof path, "%s/%s-%s-%u.gguf", fixture_scratch(), shape, type, n_threads);
    const struct synth_options options = {
        .shape = shape, .type = type, .path = path, .seed = 7, .n_threads = n_threads};
    assert_ok(synth_write(&options, &report, &err), &err);
    assert_true(report.parameters > 1000000 && report.bytes > 100000);
    return path;
}

static sluice_engine *open_engine(const char *path)
{
    return must_open(&(sluice_engine_options){
        .model = path, .backend = "ref", .n_context = 256, .max_sequences = 1});
}

static void check_text(sluice_engine *engine)
{
    static const char text[] =
        "The quick brown fox, 42 years old, isn't here:\n\tna\xc3\xafve \xe2\x82\xac";
    int32_t tokens[64];
    size_t n = 0, length = 0;
    char back[128];
    assert_int_equal(
        sluice_tokenize(engine, text, strlen(text), false, false, tokens, 64, &n, NULL), SLUICE_OK);
    assert_true(n > 10 && n < strlen(text) - 10);
    assert_int_equal(sluice_detokenize(engine, tokens, n, back, sizeof back, &length, NULL),
                     SLUICE_OK);
    assert_string_equal(back, text);
}

/* Logits of a prompt: finite, neither all alike nor wild. */
static void check_logits(sluice_engine *engine)
{
    const int32_t ids[] = {5, 300, 301, 302};
    const sluice_request_options options = {
        .tokens = ids, .n_tokens = 4, .mode = SLUICE_SCORE_LOGITS};
    struct buf rows = must_score(engine, &options);
    const float *values = (const float *)(const void *)rows.data;
    size_t n = rows.len / sizeof *values;
    double square = 0;
    for (size_t i = 0; i < n; i++)
        square += (double)values[i] * (double)values[i];
    buf_release(&rows);
    assert_true(isfinite(square));
    assert_true(sqrt(square / (double)n) > 0.2 && sqrt(square / (double)n) < 20.0);
}

static void check_chat(sluice_engine *engine)
{
    const sluice_message message = {.role = "user", .content = "hello"};
    const sluice_request_options options = {
        .messages = &message, .n_messages = 1, .max_tokens = 3, .ignore_end = true};
    sluice_request *request = must_submit(engine, &options);
    sluice_event event = {0};
    while (sluice_request_next(request, &event, -1))
        if (event.kind == SLUICE_EVENT_DONE || event.kind == SLUICE_EVENT_ERROR)
            break;
    assert_int_equal(event.kind, SLUICE_EVENT_DONE);
    assert_int_equal(event.usage.output_tokens, 3);
    assert_true(event.usage.prompt_tokens > 6);
    sluice_request_free(request);
}

static void test_models(void **state)
{
    (void)state;
    static const char *const models[][2] = {
        {"tiny", "q4_k_m"}, {"tiny", "q5_k_m"},  {"tiny", "q6_k"},       {"tiny", "q8_0"},
        {"tiny", "q4_0"},   {"tiny", "bf16"},    {"tiny-moe", "q4_k_m"}, {"tiny-oss", "mxfp4_moe"},
        {"tiny", "iq4_xs"}, {"tiny-moe", "f32"},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        sluice_engine *engine = open_engine(write_model(models[i][0], models[i][1], 2));
        check_text(engine);
        check_logits(engine);
        check_chat(engine);
        sluice_engine_close(engine);
    }
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    struct buf one = fixture_read(write_model("tiny", "q4_0", 1));
    struct buf five = fixture_read(write_model("tiny", "q4_0", 5));
    assert_int_equal(one.len, five.len);
    assert_memory_equal(one.data, five.data, one.len);
    buf_release(&one);
    buf_release(&five);
}

static void test_fewer_layers(void **state)
{
    (void)state;
    struct error err = {0};
    struct synth_report all, one;
    char path[1200];
    snprintf(path, sizeof path, "%s/layers.gguf", fixture_scratch());
    struct synth_options options = {.shape = "tiny-moe", .type = "q4_k_m", .path = path};
    assert_ok(synth_write(&options, &all, &err), &err);
    options.n_layers = 1;
    assert_ok(synth_write(&options, &one, &err), &err);
    assert_true(one.parameters < all.parameters && one.bytes < all.bytes);
    sluice_engine *engine = open_engine(path);
    check_logits(engine);
    sluice_engine_close(engine);
}

static void test_refusals(void **state)
{
    (void)state;
    struct error err = {0};
    struct synth_options options = {
        .shape = "llama-9b", .type = "q4_k_m", .path = "/nonexistent/x"};
    assert_int_equal(synth_write(&options, NULL, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "llama-8b"));
    options.shape = "tiny";
    options.type = "q4_k_x";
    assert_int_equal(synth_write(&options, NULL, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "Q4_K_M"));
    options.type = "q4_k_m";
    options.n_layers = 3;
    assert_int_equal(synth_write(&options, NULL, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "tiny has 2"));
    options.n_layers = 0;
    assert_int_equal(synth_write(&options, NULL, &err), STATUS_DISK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_fewer_layers),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
