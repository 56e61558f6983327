/*
 * Quantising: what comes out opens, has the types that the mixture says, the metadata of what went in,
 * and answers nearly as it did; the more bits, the nearer.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "convert/perplexity.h"
#include "convert/quantize.h"
#include "engine_calls.h"
#include "fixture.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "model_folder.h"
#include "quant/mixture.h"

#define PEBBLE "models/pebble/pebble-bf16.gguf"

static struct quantize_report quantize(const char *input, const char *output, const char *type,
                                       uint32_t n_threads)
{
    struct quantize_report report;
    struct error err = {0};
    const struct quantize_options options = {
        .input = input, .output = output, .type = type, .n_threads = n_threads};
    assert_ok(quantize_model(&options, &report, &err), &err);
    return report;
}

static struct checkpoint *open_path(const char *path)
{
    struct checkpoint *c;
    struct error err = {0};
    assert_ok(checkpoint_open(path, &c, &err), &err);
    return c;
}

static double perplexity_of(const char *path)
{
    struct perplexity_report report;
    struct error err = {0};
    static const char text[] =
        "Once upon a time, there was a shy fox called Pip. He lived in a cave in the hills. One "
        "bright morning, Pip broke the yellow balloon of Ruben, a shy kitten. He was scared and "
        "wanted to hide it. But Pip knew that was wrong. \"I am sorry, Ruben. I broke your yellow "
        "balloon,\" he said. Ruben was sad, but then Ruben smiled.";
    sluice_engine *engine = must_open(&(sluice_engine_options){
        .model = path, .backend = "cpu", .max_sequences = 1, .exact = true, .n_context = 512});
    const struct perplexity_options perplexity = {.engine = engine, .text = STR_LIT(text)};
    assert_ok(perplexity_measure(&perplexity, &report, NULL, &err), &err);
    sluice_engine_close(engine);
    return report.perplexity;
}

/* Every type that encodes, on the demo model: how far the log-perplexity may move. */
static void test_mixtures(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        double most; /* relative change of the perplexity */
    } cases[] = {
        {"f32", 1e-6},     {"bf16", 1e-6},   {"f16", 1e-4},    {"q8_0", 0.005},  {"q6_k", 0.01},
        {"q5_k_m", 0.015}, {"q5_0", 0.02},   {"q4_k_m", 0.02}, {"q4_0", 0.02},   {"q4_1", 0.02},
        {"iq4_xs", 0.03},  {"iq4_nl", 0.03}, {"mxfp4", 0.03},  {"q3_k_m", 0.04}, {"q2_k", 0.1},
    };
    const char *input = fixture_path(PEBBLE);
    double before = perplexity_of(input);
    struct checkpoint *in = open_path(input);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *output = fixture_scratch_file("mixture.gguf");
        struct quantize_report report = quantize(input, output, cases[i].type, 0);
        struct checkpoint *out = open_path(output);
        assert_int_equal(checkpoint_tensor_count(out), checkpoint_tensor_count(in));
        assert_int_equal(report.n_encoded + report.n_kept, checkpoint_tensor_count(in));
        const struct mixture *mixture = mixture_from_name(str_from(cases[i].type));
        uint64_t file_type;
        assert_true(gguf_get_u64(checkpoint_gguf(out), "general.file_type", &file_type));
        assert_int_equal(file_type, mixture_file_type(mixture));
        checkpoint_close(out);
        double after = perplexity_of(output);
        print_message("%-7s %.3f MB, perplexity %.4f (%+.2f %%)\n", cases[i].type,
                      (double)report.output_bytes / 1e6, after, 100.0 * (after / before - 1.0));
        if (fabs(after / before - 1.0) > cases[i].most)
            fail_msg("%s: perplexity %.4f, was %.4f", cases[i].type, after, before);
        unlink(output);
    }
    checkpoint_close(in);
}

/* One tensor of the output is exactly what the encoder makes of the decoded input. */
static void test_exact(void **state)
{
    (void)state;
    const char *output = fixture_scratch_file("exact.gguf");
    quantize(fixture_path(PEBBLE), output, "q4_k_m", 3);
    struct checkpoint *in = open_path(fixture_path(PEBBLE)), *out = open_path(output);
    for (size_t i = 0; i < checkpoint_tensor_count(in); i++) {
        const struct tensor *a = checkpoint_tensor_at(in, i), *b = checkpoint_tensor_at(out, i);
        assert_true(str_eq(a->name, b->name));
        size_t n = (size_t)(a->dims[0] * a->dims[1] * a->dims[2] * a->dims[3]);
        float *values = malloc(n * sizeof *values);
        uint8_t *blocks = malloc(b->bytes);
        tensor_type_info(a->type)->decode(a->data, values, n);
        assert_true(tensor_type_encode(b->type, values, NULL, blocks, n));
        assert_memory_equal(blocks, b->data, b->bytes);
        free(values);
        free(blocks);
    }
    struct str name, was;
    assert_true(gguf_get_str(checkpoint_gguf(in), "tokenizer.chat_template", &was));
    assert_true(gguf_get_str(checkpoint_gguf(out), "tokenizer.chat_template", &name));
    assert_true(str_eq(name, was));
    checkpoint_close(in);
    checkpoint_close(out);
}

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    char one[1200], four[1200];
    snprintf(one, sizeof one, "%s", fixture_scratch_file("one.gguf"));
    snprintf(four, sizeof four, "%s", fixture_scratch_file("four.gguf"));
    quantize(fixture_path(PEBBLE), one, "q5_k_m", 1);
    quantize(fixture_path(PEBBLE), four, "q5_k_m", 4);
    struct buf a = fixture_read(one), b = fixture_read(four);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_release(&a);
    buf_release(&b);
}

static void test_again(void **state)
{
    (void)state;
    const char *output = fixture_scratch_file("again.gguf");
    struct quantize_report report =
        quantize(fixture_path("models/pebble/pebble-q8_0.gguf"), output, "q4_0", 2);
    assert_true(report.n_requantized > 30);
    assert_int_equal(report.n_requantized, report.n_encoded);
    report = quantize(fixture_path("models/pebble/pebble-q8_0.gguf"), output, "q8_0", 2);
    assert_int_equal(report.n_encoded, 0); /* nothing changes: copied */
}

static sluice_engine *open_engine(const char *path)
{
    return must_open(&(sluice_engine_options){
        .model = path, .backend = "ref", .max_sequences = 1, .exact = true, .n_context = 256});
}

/* Tokens of a text, -1 behind them. */
static void tokens_of(const char *path, const char *text, int32_t tokens[64])
{
    sluice_engine *engine = open_engine(path);
    size_t n;
    assert_int_equal(sluice_tokenize(engine, text, strlen(text), true, true, tokens, 63, &n, NULL),
                     SLUICE_OK);
    tokens[n] = -1;
    sluice_engine_close(engine);
}

/* Its tokenizer and template come along. */
static void test_folder_with_tokenizer(void **state)
{
    (void)state;
    if (!fixture_shared("data/models/tinystories-656k"))
        skip();
    const char *output = fixture_scratch_file("stories.gguf");
    char input[1200];
    snprintf(input, sizeof input, "%s", fixture_shared("data/models/tinystories-656k"));
    quantize(input, output, "q8_0", 2);
    static const char *const texts[] = {"Once upon a time, there was a little girl named Lily.",
                                        "  two spaces\nand \xe2\x82\xac", "a"};
    for (size_t i = 0; i < 3; i++) {
        int32_t before[64], after[64];
        tokens_of(input, texts[i], before);
        tokens_of(output, texts[i], after);
        for (int j = 0; before[j] >= 0 || after[j] >= 0; j++)
            assert_int_equal(before[j], after[j]);
        assert_int_equal(before[0], 1); /* bos */
    }
}

static void test_folder_refused(void **state)
{
    (void)state;
    struct error err = {0};
    const struct quantize_options options = {
        .input = model_folder("llama", "{\"model_type\": \"newest\"}"),
        .output = fixture_scratch_file("x.gguf"),
        .type = "q8_0"};
    assert_int_equal(quantize_model(&options, NULL, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.message, "\"newest\""));
    assert_non_null(strstr(err.message, "start from a GGUF file"));
}

static void refuse(const char *input, const char *output, const char *type, enum status status,
                   const char *says)
{
    struct error err = {0};
    const struct quantize_options options = {.input = input, .output = output, .type = type};
    enum status got = quantize_model(&options, NULL, &err);
    if (got != status || !strstr(err.message, says))
        fail_msg("expected %s and \"%s\", got %s: %s", status_name(status), says, status_name(got),
                 err.message);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *input = fixture_path(PEBBLE);
    refuse(input, fixture_scratch_file("x.gguf"), "q4_x", STATUS_USAGE, "Q4_K_M");
    refuse(input, input, "q4_0", STATUS_USAGE, "is the input as well");
    refuse(input, fixture_scratch(), "q4_0", STATUS_USAGE, "is a folder");
    refuse("/nonexistent/a.gguf", fixture_scratch_file("x.gguf"), "q4_0", STATUS_DISK,
           "/nonexistent/a.gguf");
    refuse(input, "/nonexistent/b.gguf", "q4_0", STATUS_DISK, "/nonexistent/b.gguf");
    assert_false(file_exists(fixture_scratch_file("x.gguf")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_folder_with_tokenizer),
        cmocka_unit_test(test_folder_refused),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
