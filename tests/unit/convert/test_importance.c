/*
 * Importance from a calibration text: column means are what a direct computation gives, each expert's
 * are its own, and encoding by them lowers the error that they weight.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "convert/importance.h"
#include "convert/quantize.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "sluice.h"

#define PEBBLE "models/pebble/pebble-bf16.gguf"
#define TOKENS 4096

static const char sentence[] =
    "Once upon a time, there was a shy fox called Pip. He lived in a cave in the hills. One bright "
    "morning, Pip broke the yellow balloon of Ruben, a shy kitten. He was scared and wanted to "
    "hide it. ";

/* A file of the sentence, `times` over. */
static const char *text_file(const char *name, int times)
{
    const char *path = fixture_scratch_file(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < times; i++)
        fputs(sentence, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static struct importance *measure(const char *model, const char *text, const char *backend,
                                  struct importance_report *report)
{
    struct importance *found;
    struct error err = {0};
    const struct importance_options options = {
        .model = model, .text = text, .backend = backend, .exact = true, .n_threads = 2};
    assert_ok(importance_measure(&options, &found, report, &err), &err);
    return found;
}

static float *read_tensor(struct checkpoint *c, const char *name, size_t *n)
{
    const struct tensor *t = checkpoint_tensor(c, name);
    assert_non_null(t);
    *n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
    float *values = malloc(*n * sizeof *values);
    assert_non_null(values);
    tensor_type_info(t->type)->decode(t->data, values, *n);
    return values;
}

static size_t tokens_of(const char *model, const char *text, int32_t *tokens)
{
    size_t n = 0;
    struct buf content = fixture_read(text);
    sluice_engine *engine =
        must_open(&(sluice_engine_options){.model = model, .backend = "ref", .max_sequences = 1});
    assert_int_equal(
        sluice_tokenize(engine, content.data, content.len, true, false, tokens, TOKENS, &n, NULL),
        SLUICE_OK);
    sluice_engine_close(engine);
    buf_release(&content);
    return n;
}

/* The first layer's q sees the normed embeddings of the text's tokens: computed here from the file. */
static void test_known_answer(void **state)
{
    (void)state;
    static int32_t tokens[TOKENS];
    const char *model = fixture_path(PEBBLE), *text = text_file("known.txt", 5);
    struct importance_report report;
    struct importance *found = measure(model, text, "cpu", &report);
    size_t n = tokens_of(model, text, tokens), size, width;
    assert_int_equal(report.n_tokens, n);
    assert_true(n > IMPORTANCE_LEAST && n < 500); /* one window */
    struct checkpoint *c;
    struct error err = {0};
    double eps;
    assert_ok(checkpoint_open(model, &c, &err), &err);
    struct str architecture;
    char key[128];
    assert_true(gguf_get_str(checkpoint_gguf(c), "general.architecture", &architecture));
    snprintf(key, sizeof key, "%.*s.attention.layer_norm_rms_epsilon", STR_ARG(architecture));
    assert_true(gguf_get_f64(checkpoint_gguf(c), key, &eps));
    float *table = read_tensor(c, "token_embd.weight", &size);
    float *norm = read_tensor(c, "blk.0.attn_norm.weight", &width);
    double *means = calloc(width, sizeof *means);
    assert_non_null(means);
    for (size_t t = 0; t < n; t++) {
        const float *x = table + (size_t)tokens[t] * width;
        double square = 0.0;
        for (size_t i = 0; i < width; i++)
            square += (double)x[i] * (double)x[i];
        double scale = 1.0 / sqrt(square / (double)width + eps);
        for (size_t i = 0; i < width; i++)
            means[i] += pow((double)x[i] * scale * (double)norm[i], 2.0) / (double)n;
    }
    uint32_t count;
    const float *q = importance_of(found, STR_LIT("blk.0.attn_q.weight"), 0, width, &count);
    assert_non_null(q);
    assert_int_equal(count, 1);
    for (size_t i = 0; i < width; i++)
        if (fabs((double)q[i] - means[i]) > 1e-4 * means[i])
            fail_msg("column %zu: %g, expected %g", i, (double)q[i], means[i]);
    /* k and v see the same rows. */
    assert_memory_equal(q, importance_of(found, STR_LIT("blk.0.attn_k.weight"), 0, width, &count),
                        width * sizeof *q);
    assert_null(importance_of(found, STR_LIT("blk.0.attn_q.weight"), 1, width, &count));
    assert_null(importance_of(found, STR_LIT("blk.0.attn_q.weight"), 0, width + 1, &count));
    assert_null(importance_of(found, STR_LIT("blk.0.attn_norm.weight"), 0, width, &count));
    free(table);
    free(norm);
    free(means);
    checkpoint_close(c);
    importance_free(found);
}

/* Each expert has its own means, the same on the reference as on all threads of the CPU; one that no
 * token chose has those of all. */
static void test_experts(void **state)
{
    (void)state;
    const char *model = fixture_path("tests/data/arch/gguf/qwen3-moe.gguf");
    const char *text = text_file("experts.txt", 4);
    struct importance_report report;
    struct importance *cpu = measure(model, text, "cpu", &report);
    struct importance *ref = measure(model, text, "ref", &report);
    static const struct {
        const char *name;
        uint64_t n_cols;
    } tensors[] = {{"blk.1.ffn_gate_exps.weight", 64},
                   {"blk.1.ffn_up_exps.weight", 64},
                   {"blk.1.ffn_down_exps.weight", 64},
                   {"blk.2.attn_output.weight", 128}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        uint32_t count = 1, other;
        bool differ = false;
        struct str name = str_from(tensors[i].name);
        importance_of(cpu, name, 0, tensors[i].n_cols, &count);
        assert_int_equal(count, i < 3 ? 8 : 1);
        const float *first = importance_of(cpu, name, 0, tensors[i].n_cols, &other);
        for (uint32_t p = 0; p < count; p++) {
            const float *a = importance_of(cpu, name, p, tensors[i].n_cols, &other);
            const float *b = importance_of(ref, name, p, tensors[i].n_cols, &other);
            assert_true(a && b);
            for (uint64_t c = 0; c < tensors[i].n_cols; c++) {
                if (!(fabsf(a[c] - b[c]) <= 1e-3f * b[c]))
                    fail_msg("%s[%u][%llu]: %g on cpu, %g on ref", tensors[i].name, p,
                             (unsigned long long)c, (double)a[c], (double)b[c]);
                assert_true(a[c] > 0.0f);
                differ |= a[c] != first[c];
            }
        }
        assert_true(differ == (count > 1));
    }
    importance_free(cpu);
    importance_free(ref);
}

/* Error of a file's tensor, each column weighted. */
static double weighted_error(const char *path, const float *values, const float *weights, size_t n,
                             size_t cols)
{
    struct checkpoint *c;
    struct error err = {0};
    size_t m;
    double sum = 0.0;
    assert_ok(checkpoint_open(path, &c, &err), &err);
    float *got = read_tensor(c, "blk.1.ffn_up.weight", &m);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++)
        sum += (double)weights[i % cols] * pow((double)got[i] - (double)values[i], 2.0);
    free(got);
    checkpoint_close(c);
    return sum;
}

static struct quantize_report quantize(const char *output, const char *type, const char *importance)
{
    struct quantize_report report;
    struct error err = {0};
    const struct quantize_options options = {.input = fixture_path(PEBBLE),
                                             .output = output,
                                             .type = type,
                                             .importance = importance,
                                             .n_threads = 2};
    assert_ok(quantize_model(&options, &report, &err), &err);
    return report;
}

static void test_lowers_weighted_error(void **state)
{
    (void)state;
    static const char *const types[] = {"q2_k", "q3_k_s", "q4_k_s", "iq4_xs"};
    char text[1200];
    snprintf(text, sizeof text, "%s", text_file("error.txt", 5));
    struct importance_report measured;
    struct importance *found = measure(fixture_path(PEBBLE), text, "cpu", &measured);
    struct checkpoint *c;
    struct error err = {0};
    uint32_t count;
    size_t n;
    assert_ok(checkpoint_open(fixture_path(PEBBLE), &c, &err), &err);
    float *values = read_tensor(c, "blk.1.ffn_up.weight", &n);
    size_t cols = (size_t)checkpoint_tensor(c, "blk.1.ffn_up.weight")->dims[1];
    const float *weights = importance_of(found, STR_LIT("blk.1.ffn_up.weight"), 0, cols, &count);
    assert_non_null(weights);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct quantize_report plain = quantize(fixture_scratch_file("plain.gguf"), types[i], NULL);
        struct quantize_report by = quantize(fixture_scratch_file("weighted.gguf"), types[i], text);
        assert_int_equal(plain.n_weighted, 0);
        assert_true(by.n_weighted > 20);
        assert_int_equal(by.n_calibrated, measured.n_tokens);
        double before =
            weighted_error(fixture_scratch_file("plain.gguf"), values, weights, n, cols);
        double after =
            weighted_error(fixture_scratch_file("weighted.gguf"), values, weights, n, cols);
        print_message("%-7s weighted error %.3g -> %.3g\n", types[i], before, after);
        assert_true(after < before);
    }
    free(values);
    checkpoint_close(c);
    importance_free(found);
}

static void refuse(const char *model, const char *text, enum status status, const char *says)
{
    struct importance *found;
    struct importance_report report;
    struct error err = {0};
    const struct importance_options options = {.model = model, .text = text, .n_threads = 1};
    enum status got = importance_measure(&options, &found, &report, &err);
    if (got != status || !strstr(err.message, says))
        fail_msg("expected %s and \"%s\", got %s: %s", status_name(status), says, status_name(got),
                 err.message);
    assert_null(found);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *text = text_file("enough.txt", 8);
    refuse(fixture_path(PEBBLE), "/nonexistent/text", STATUS_DISK, "/nonexistent/text");
    refuse(fixture_path(PEBBLE), text_file("short.txt", 1), STATUS_USAGE, "calibration needs 256");
    refuse(fixture_path(PEBBLE), text_file("empty.txt", 0), STATUS_USAGE, "empty.txt");
    refuse(fixture_path("tests/data/arch/gguf/bert.gguf"), text, STATUS_UNSUPPORTED, "no logits");
    refuse(fixture_path("tests/data/arch/hf/llama"), text, STATUS_UNSUPPORTED, "tokenizer");
    refuse("/nonexistent/model.gguf", text, STATUS_DISK, "/nonexistent/model.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answer),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_lowers_weighted_error),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
