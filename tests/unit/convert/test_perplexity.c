/*
 * Scoring against known answers: the trained TinyStories-656K (shared data) reproduces its recorded
 * ids, logits, negative log-likelihoods and perplexities from the folder and from its GGUF files; how
 * windows are laid out is checked on the bundled demo model.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "convert/perplexity.h"
#include "engine_calls.h"
#include "fixture.h"

#define FOLDER "data/models/tinystories-656k"

static sluice_engine *open_engine(const char *path, const char *backend, uint32_t n_context)
{
    return must_open(&(sluice_engine_options){.model = path,
                                              .backend = backend,
                                              .n_context = n_context,
                                              .max_sequences = 1,
                                              .exact = true});
}

static int32_t *read_ids(const json_t *list, size_t *n)
{
    *n = json_array_size(list);
    int32_t *ids = malloc((*n + 1) * sizeof *ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

/* ---- recorded answers -------------------------------------------------------------------------- */

static void check_greedy(sluice_engine *engine, const json_t *one, const char *what)
{
    size_t n_prompt, n_expected, n = 0;
    int32_t *prompt = read_ids(json_object_get(one, "prompt_ids"), &n_prompt);
    int32_t *expected = read_ids(json_object_get(one, "greedy_ids"), &n_expected);
    const sluice_request_options options = {
        .tokens = prompt,
        .n_tokens = n_prompt,
        .max_tokens = (uint32_t)n_expected,
        .sampling = {.set = SLUICE_SET_TEMPERATURE | SLUICE_SET_REPEAT_PENALTY,
                     .temperature = 0.0f,
                     .repeat_penalty = 1.0f}};
    sluice_request *request = must_submit(engine, &options);
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        assert_int_not_equal(event.kind, SLUICE_EVENT_ERROR);
        if (event.kind != SLUICE_EVENT_TOKEN)
            continue;
        if (n >= n_expected || event.token != expected[n])
            fail_msg("%s: greedy token %zu is %d", what, n, event.token);
        n++;
    }
    /* The end token that the record may close with is no token of the answer. */
    assert_true(n == n_expected || (n + 1 == n_expected && expected[n] == 2));
    sluice_request_free(request);
    free(prompt);
    free(expected);
}

static double check_logits(sluice_engine *engine, const json_t *one, double most, const char *what)
{
    size_t n_prompt, i;
    int32_t *prompt = read_ids(json_object_get(one, "prompt_ids"), &n_prompt);
    const sluice_request_options options = {
        .tokens = prompt, .n_tokens = n_prompt, .mode = SLUICE_SCORE_LOGITS};
    sluice_request *request = must_submit(engine, &options);
    sluice_event event;
    double worst = 0.0;
    bool seen = false;
    while (sluice_request_next(request, &event, -1)) {
        assert_int_not_equal(event.kind, SLUICE_EVENT_ERROR);
        if (event.kind != SLUICE_EVENT_ROWS || event.first_row + event.n_rows != n_prompt)
            continue;
        const float *last = event.rows + (size_t)(event.n_rows - 1) * event.row_width;
        json_t *pair;
        seen = true;
        json_array_foreach(json_object_get(one, "next_logits_top10"), i, pair)
        {
            json_int_t id = json_integer_value(json_array_get(pair, 0));
            double off = fabs((double)last[id] - json_number_value(json_array_get(pair, 1)));
            worst = fmax(worst, off);
            if (!(off < most))
                fail_msg("%s: logit of %lld is off by %g", what, (long long)id, off);
        }
    }
    assert_true(seen);
    sluice_request_free(request);
    free(prompt);
    return worst;
}

/* nll: the record with ids; expected: perplexity there. */
static void check_perplexity(sluice_engine *engine, const json_t *nll, double expected,
                             const char *what)
{
    size_t n;
    int32_t *ids = read_ids(json_object_get(nll, "ids"), &n);
    struct perplexity_report report;
    struct error err = {0};
    double *token_nll;
    const struct perplexity_options options = {.engine = engine, .tokens = ids, .n_tokens = n};
    assert_ok(perplexity_measure(&options, &report, &token_nll, &err), &err);
    assert_int_equal(report.n_scored, n - 1);
    assert_int_equal(report.n_windows, 1);
    print_message("%s: perplexity %.6f, recorded %.6f\n", what, report.perplexity, expected);
    assert_true(fabs(report.perplexity / expected - 1.0) < 1e-5);
    const json_t *each = json_object_get(nll, "token_nll");
    for (size_t i = 1; i < n && strcmp(what, "folder") == 0; i++)
        assert_true(fabs(token_nll[i] - json_number_value(json_array_get(each, i - 1))) < 1e-4);
    free(token_nll);
    free(ids);
}

static void check_model(const char *path, const char *backend, const json_t *cases,
                        const json_t *nll, double perplexity, const char *what)
{
    sluice_engine *engine = open_engine(path, backend, 0);
    double worst = 0.0;
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one)
    {
        check_greedy(engine, one, what);
        worst = fmax(worst, check_logits(engine, one, 1e-4, what));
    }
    assert_int_equal(i, 10);
    print_message("%s on %s: 10 prompts, largest logit error %.1e\n", what, backend, worst);
    check_perplexity(engine, nll, perplexity, what);
    sluice_engine_close(engine);
}

static void test_tinystories(void **state)
{
    (void)state;
    static const char *const files[] = {"f32", "q8_0", "q4_0"};
    if (!fixture_shared(FOLDER "/golden.json"))
        skip();
    json_t *golden;
    struct error err = {0};
    assert_ok(json_parse_file(fixture_shared(FOLDER "/golden.json"), 1 << 20, 16, &golden, &err),
              &err);
    const json_t *nll = json_object_get(golden, "nll");
    double perplexity = json_number_value(json_object_get(nll, "perplexity"));
    check_model(fixture_shared(FOLDER), "cpu", json_object_get(golden, "cases"), nll, perplexity,
                "folder");
    check_model(fixture_shared(FOLDER), "ref", json_object_get(golden, "cases"), nll, perplexity,
                "folder");
    for (size_t i = 0; i < 3; i++) {
        char path[256];
        const json_t *file =
            json_object_get(json_object_get(json_object_get(golden, "gguf"), "files"), files[i]);
        snprintf(path, sizeof path, FOLDER "/%s", json_string_value(json_object_get(file, "file")));
        check_model(fixture_shared(path), "cpu", json_object_get(file, "cases"), nll,
                    json_number_value(json_object_get(file, "nll_perplexity")), files[i]);
    }
    json_decref(golden);
}

/* ---- windows ----------------------------------------------------------------------------------- */

static double *measure(sluice_engine *engine, const int32_t *ids, size_t n, uint32_t context,
                       uint32_t stride, struct perplexity_report *report)
{
    double *nll;
    struct error err = {0};
    const struct perplexity_options options = {
        .engine = engine, .tokens = ids, .n_tokens = n, .context = context, .stride = stride};
    assert_ok(perplexity_measure(&options, report, &nll, &err), &err);
    return nll;
}

static void test_windows(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine(fixture_path("models/pebble/pebble-q8_0.gguf"), "cpu", 128);
    int32_t ids[100];
    for (int i = 0; i < 100; i++)
        ids[i] = 300 + (i * 37) % 900;
    struct perplexity_report whole, cut, part;
    double *all = measure(engine, ids, 100, 128, 64, &whole);
    assert_int_equal(whole.n_windows, 1);
    assert_int_equal(whole.n_scored, 99);
    /* Windows of 40 every 20: 0-40, 20-60, 40-80, 60-100. */
    double *windowed = measure(engine, ids, 100, 40, 20, &cut);
    assert_int_equal(cut.n_windows, 4);
    assert_int_equal(cut.n_scored, 99);
    assert_memory_equal(all, windowed, 40 * sizeof *all);
    /* Token 60 is scored in the window that begins at 40, so as in that window alone. */
    double *alone = measure(engine, ids + 40, 40, 40, 20, &part);
    assert_memory_equal(windowed + 60, alone + 20, 20 * sizeof *all);
    assert_true(windowed[70] != all[70]);
    double sum = 0;
    for (int i = 1; i < 100; i++)
        sum += windowed[i];
    assert_true(fabs(cut.mean_nll - sum / 99) < 1e-12);
    assert_true(fabs(log(cut.perplexity) - cut.mean_nll) < 1e-12);
    free(all);
    free(windowed);
    free(alone);
    sluice_engine_close(engine);
}

/* From text: the demo model finds plain English likelier than the same words shuffled. */
static void test_text(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine(fixture_path("models/pebble/pebble-q8_0.gguf"), "cpu", 256);
    static const char *const texts[] = {
        "Once upon a time there was a little girl. She liked to play in the garden.",
        "garden the play to. a in liked time little She girl was there Once upon a"};
    double found[2];
    for (int i = 0; i < 2; i++) {
        struct perplexity_report report;
        struct error err = {0};
        const struct perplexity_options options = {.engine = engine, .text = str_from(texts[i])};
        assert_ok(perplexity_measure(&options, &report, NULL, &err), &err);
        found[i] = report.perplexity;
    }
    assert_true(found[0] > 1.0 && found[0] < 0.2 * found[1]);
    sluice_engine_close(engine);
}

static void refuse(sluice_engine *engine, const int32_t *ids, size_t n, uint32_t context,
                   uint32_t stride, const char *says)
{
    struct perplexity_report report;
    struct error err = {0};
    const struct perplexity_options options = {
        .engine = engine, .tokens = ids, .n_tokens = n, .context = context, .stride = stride};
    assert_int_equal(perplexity_measure(&options, &report, NULL, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, says));
}

static void test_refusals(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine(fixture_path("models/pebble/pebble-q8_0.gguf"), "cpu", 128);
    const int32_t ids[] = {300, 301, 302, 303}, wrong[] = {300, -1, 301}, high[] = {5, 4096};
    refuse(engine, ids, 1, 0, 0, "1 token, too few");
    refuse(engine, ids, 4, 129, 0, "the engine has 128");
    refuse(engine, ids, 4, 2, 0, "at least 3 tokens");
    refuse(engine, ids, 4, 8, 8, "1 to 7 are possible");
    refuse(engine, wrong, 3, 0, 0, "token 1 is -1");
    refuse(engine, high, 2, 0, 0, "token 1 is 4096");
    sluice_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tinystories),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
