/*
 * Folders whose matrices are codes and scales in separate tensors: FP8 in every shape of scales, MLX
 * groups, MXFP4 blocks. Each is written here by the scheme's definition and must decode to exactly
 * what that definition says; shapes that do not fit, and schemes sluice does not know, are refused.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "format/checkpoint.h"
#include "safetensors_file.h"

/* ---- writing a folder -------------------------------------------------------------------------- */

static struct checkpoint *open_folder(void)
{
    struct checkpoint *c;
    struct error err = {0};
    assert_ok(checkpoint_open(fixture_scratch(), &c, &err), &err);
    return c;
}

static void refuse(enum status status, const char *says)
{
    struct checkpoint *c;
    struct error err = {0};
    enum status got = checkpoint_open(fixture_scratch(), &c, &err);
    assert_null(c);
    if (got != status || !strstr(err.message, says))
        fail_msg("expected %s and \"%s\", got %s: %s", status_name(status), says, status_name(got),
                 err.message);
}

/* The tensor has that type and shape, and decodes to `expected` bit for bit. */
static void check(const struct checkpoint *c, const char *name, enum tensor_type type,
                  uint32_t n_dims, const uint64_t *dims, const float *expected)
{
    const struct tensor *t = checkpoint_tensor(c, name);
    assert_non_null(t);
    assert_int_equal(t->type, type);
    assert_int_equal(t->n_dims, n_dims);
    assert_memory_equal(t->dims, dims, n_dims * sizeof *dims);
    size_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        n *= dims[i];
    float *values = malloc(n * sizeof *values);
    tensor_type_info(type)->decode(t->data, values, n);
    for (size_t i = 0; i < n; i++)
        if (values[i] != expected[i])
            fail_msg("%s: value %zu is %a, expected %a", name, i, (double)values[i],
                     (double)expected[i]);
    free(values);
}

static uint32_t random_state = 1;

static uint32_t random_bits(void)
{
    return (random_state = random_state * 1664525u + 1013904223u) >> 8;
}

/* ---- FP8 --------------------------------------------------------------------------------------- */

#define FP8 "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[16,64]}}"

/* A stack of `matrices` matrices of 40 x 96 with scales of one shape. */
static void fp8_case(const char *scale_name, uint64_t matrices, unsigned n_scale_dims,
                     const uint64_t *scale_dims, uint64_t block_rows, uint64_t block_cols,
                     bool wide)
{
    enum { ROWS = 40, COLS = 96 };
    struct safetensors_file f = {0};
    uint8_t codes[2 * ROWS * COLS];
    float scales[256], expected[2 * ROWS * COLS];
    size_t n = matrices * ROWS * COLS, n_scales = 1;
    for (unsigned i = 0; i < n_scale_dims; i++)
        n_scales *= scale_dims[i];
    for (size_t i = 0; i < n_scales; i++)
        scales[i] = 0.001f * (float)(1 + random_bits() % 1000);
    uint64_t across = (COLS + block_cols - 1) / block_cols;
    uint64_t down = (ROWS + block_rows - 1) / block_rows;
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)(random_bits() & 0xbf); /* no NaN */
        uint64_t m = i / (ROWS * COLS), r = i / COLS % ROWS, c = i % COLS;
        uint64_t at = n_scales == 1 ? 0 : (m * down + r / block_rows) * across + c / block_cols;
        expected[i] = scales[at] * (wide ? f8_e5m2_to_f32(codes[i]) : f8_e4m3_to_f32(codes[i]));
    }
    const uint64_t dims[] = {matrices, ROWS, COLS};
    unsigned skip = matrices == 1;
    safetensors_file_add(&f, "a.weight", wide ? "F8_E5M2" : "F8_E4M3", 3 - skip, dims + skip, codes,
                         n);
    safetensors_file_add(&f, scale_name, "F32", n_scale_dims, scale_dims, scales,
                         n_scales * sizeof *scales);
    safetensors_file_write(&f, fixture_scratch(), FP8);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_tensor_count(c), 1);
    check(c, "a.weight", wide ? TENSOR_F8_E5M2_SCALED : TENSOR_F8_E4M3_SCALED, 3 - skip,
          dims + skip, expected);
    checkpoint_close(c);
}

static void test_fp8(void **state)
{
    (void)state;
    const uint64_t blocks[] = {3, 2}, rows[] = {40, 1}, flat[] = {40}, one[] = {1};
    const uint64_t stacked[] = {2, 3, 2}, each[] = {2, 1, 1};
    fp8_case("a.weight_scale_inv", 1, 2, blocks, 16, 64, false);
    fp8_case("a.weight_scale_inv", 2, 3, stacked, 16, 64, false);
    fp8_case("a.weight_scale", 1, 2, rows, 1, 96, false);
    fp8_case("a.weight_scale", 1, 1, flat, 1, 96, true);
    fp8_case("a.weight_scale", 1, 1, one, 40, 96, false);
    fp8_case("a.weight_scale", 1, 0, one, 40, 96, true);
    fp8_case("a.weight_scale", 2, 0, one, 40, 96, false);
    fp8_case("a.weight_scale", 2, 3, each, 40, 96, false);
}

static void test_fp8_plain(void **state)
{
    (void)state;
    struct safetensors_file f = {0};
    const uint64_t dims[] = {1, 32}, odd[] = {2, 48}, wrong[] = {2, 3};
    uint8_t codes[96] = {0x38, 0xb8};
    float scales[6] = {1, 2, 3, 4, 5, 6};
    safetensors_file_add(&f, "a.weight", "F8_E4M3", 2, dims, codes, 32);
    safetensors_file_write(&f, fixture_scratch(), FP8);
    struct checkpoint *c = open_folder(); /* no scales: as it is */
    assert_int_equal(checkpoint_tensor(c, "a.weight")->type, TENSOR_F8_E4M3);
    checkpoint_close(c);
    safetensors_file_add(&f, "a.weight", "F8_E4M3", 2, odd, codes, 96);
    safetensors_file_add(&f, "a.weight_scale", "F32", 0, NULL, scales, 4);
    safetensors_file_write(&f, fixture_scratch(), FP8);
    refuse(STATUS_UNSUPPORTED, "rows of 48 values");
    safetensors_file_add(&f, "a.weight", "F8_E4M3", 2, (const uint64_t[]){3, 32}, codes, 96);
    safetensors_file_add(&f, "a.weight_scale", "F32", 2, wrong, scales, 24);
    safetensors_file_write(&f, fixture_scratch(), FP8);
    refuse(STATUS_MODEL, "a.weight_scale does not have the type or shape");
    safetensors_file_add(&f, "a.weight", "F8_E4M3", 2, (const uint64_t[]){3, 32}, codes, 96);
    safetensors_file_add(&f, "a.weight_scale", "I32", 0, NULL, scales, 4);
    safetensors_file_write(&f, fixture_scratch(), FP8);
    refuse(STATUS_MODEL, "a.weight_scale does not have");
}

/* ---- MLX --------------------------------------------------------------------------------------- */

/* 3 rows of 192 values in groups of 64; F16 scales, or float32 ones that float16 cannot hold. */
static void mlx_case(unsigned bits, bool halves, const char *config)
{
    enum { ROWS = 3, COLS = 192, GROUP = 64 };
    struct safetensors_file f = {0};
    uint32_t words[ROWS * COLS / 4] = {0};
    float scales[ROWS * COLS / GROUP], biases[ROWS * COLS / GROUP], expected[ROWS * COLS];
    uint16_t half_scales[ROWS * COLS / GROUP], half_biases[ROWS * COLS / GROUP];
    for (int g = 0; g < ROWS * COLS / GROUP; g++) {
        half_scales[g] = f32_to_f16(0.01f * (float)(1 + random_bits() % 50));
        half_biases[g] = f32_to_f16(-0.1f * (float)(random_bits() % 50));
        scales[g] = halves ? f16_to_f32(half_scales[g]) : 0.0123456f * (float)(g + 1);
        biases[g] = halves ? f16_to_f32(half_biases[g]) : -0.0777777f * (float)g;
    }
    for (uint32_t i = 0; i < ROWS * COLS; i++) {
        uint32_t code = random_bits() & ((1u << bits) - 1);
        words[i * bits / 32] |= code << i * bits % 32;
        expected[i] = scales[i / GROUP] * (float)code + biases[i / GROUP];
    }
    const uint64_t packed[] = {ROWS, COLS * bits / 32}, groups[] = {ROWS, COLS / GROUP},
                   dims[] = {ROWS, COLS};
    safetensors_file_add(&f, "m.q.weight", "U32", 2, packed, words, ROWS * COLS * bits / 8);
    if (halves) {
        safetensors_file_add(&f, "m.q.scales", "F16", 2, groups, half_scales, sizeof half_scales);
        safetensors_file_add(&f, "m.q.biases", "F16", 2, groups, half_biases, sizeof half_biases);
    } else {
        safetensors_file_add(&f, "m.q.scales", "F32", 2, groups, scales, sizeof scales);
        safetensors_file_add(&f, "m.q.biases", "F32", 2, groups, biases, sizeof biases);
    }
    safetensors_file_write(&f, fixture_scratch(), config);
    struct checkpoint *c = open_folder();
    assert_int_equal(checkpoint_tensor_count(c), 1);
    check(c, "m.q.weight", bits == 4 && halves ? TENSOR_Q4_1 : TENSOR_AFFINE8, 2, dims, expected);
    checkpoint_close(c);
}

static void test_mlx(void **state)
{
    (void)state;
    mlx_case(4, true, "{\"quantization\":{\"group_size\":64,\"bits\":4}}");
    mlx_case(4, true, "{\"quantization_config\":{\"group_size\":64,\"bits\":4}}");
    mlx_case(4, false, "{\"quantization\":{\"group_size\":64,\"bits\":4}}");
    mlx_case(8, true, "{\"quantization\":{\"group_size\":64,\"bits\":8}}");
    /* One module apart from the rest. */
    mlx_case(8, true,
             "{\"quantization\":{\"group_size\":32,\"bits\":4,\"m.q\":{\"group_size\":64,"
             "\"bits\":8}}}");
}

/* MXFP4 by hand: codes run along the row, in MLX's words or gpt-oss's bytes. */
static void test_mxfp4(void **state)
{
    (void)state;
    static const float e2m1[] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                 -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    enum { ROWS = 4, COLS = 64 };
    uint8_t bytes[ROWS * COLS / 2] = {0}, scales[ROWS * COLS / 32];
    float expected[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS / 32; i++)
        scales[i] = (uint8_t)(120 + random_bits() % 12);
    for (int i = 0; i < ROWS * COLS; i++) {
        uint32_t code = random_bits() & 15;
        bytes[i / 2] |= (uint8_t)(code << i % 2 * 4);
        expected[i] = ldexpf(e2m1[code], scales[i / 32] - 127);
    }
    struct safetensors_file f = {0};
    const uint64_t packed[] = {ROWS, COLS / 8}, groups[] = {ROWS, COLS / 32}, dims[] = {ROWS, COLS};
    safetensors_file_add(&f, "a.weight", "U32", 2, packed, bytes, sizeof bytes);
    safetensors_file_add(&f, "a.scales", "U8", 2, groups, scales, sizeof scales);
    safetensors_file_write(&f, fixture_scratch(),
                           "{\"quantization\":{\"group_size\":32,\"bits\":4,\"mode\":\"mxfp4\"}}");
    struct checkpoint *c = open_folder();
    check(c, "a.weight", TENSOR_MXFP4, 2, dims, expected);
    checkpoint_close(c);
    const uint64_t blocks[] = {2, 2, 2, 16}, block_scales[] = {2, 2, 2}, stack[] = {2, 2, 64};
    safetensors_file_add(&f, "e.down_proj_blocks", "U8", 4, blocks, bytes, sizeof bytes);
    safetensors_file_add(&f, "e.down_proj_scales", "U8", 3, block_scales, scales, sizeof scales);
    safetensors_file_write(&f, fixture_scratch(),
                           "{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}");
    c = open_folder();
    assert_int_equal(checkpoint_tensor_count(c), 1);
    check(c, "e.down_proj", TENSOR_MXFP4, 3, stack, expected);
    checkpoint_close(c);
}

static void test_refused(void **state)
{
    (void)state;
    struct safetensors_file f = {0};
    const uint64_t packed[] = {1, 8}, groups[] = {1, 1}, two[] = {1, 2};
    uint32_t words[8] = {0};
    static const char *const methods[] = {"gptq", "awq", "bitsandbytes"};
    for (size_t i = 0; i < 3; i++) {
        char config[128];
        snprintf(config, sizeof config, "{\"quantization_config\":{\"quant_method\":\"%s\"}}",
                 methods[i]);
        safetensors_file_add(&f, "a.weight", "U8", 2, packed, words, 8);
        safetensors_file_write(&f, fixture_scratch(), config);
        refuse(STATUS_UNSUPPORTED, methods[i]);
    }
    static const struct {
        const char *config;
        enum status status;
        const char *says;
    } cases[] = {
        {"{\"quantization\":{\"group_size\":64,\"bits\":3}}", STATUS_UNSUPPORTED, "3 bits"},
        {"{\"quantization\":{\"group_size\":64}}", STATUS_UNSUPPORTED, "0 bits"},
        {"{\"quantization\":{\"group_size\":0,\"bits\":4}}", STATUS_MODEL, "group_size 0"},
        {"{\"quantization\":{\"group_size\":48,\"bits\":4}}", STATUS_MODEL, "group_size 48"},
        {"{\"quantization\":{\"group_size\":-64,\"bits\":4}}", STATUS_MODEL, "group_size -64"},
        {"{\"quantization\":{\"group_size\":32,\"bits\":4}}", STATUS_MODEL, "a.scales"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        safetensors_file_add(&f, "a.weight", "U32", 2, packed, words, 32);
        safetensors_file_add(&f, "a.scales", "F32", 2, groups, words, 4);
        safetensors_file_add(&f, "a.biases", "F32", 2, groups, words, 4);
        safetensors_file_write(&f, fixture_scratch(), cases[i].config);
        refuse(cases[i].status, cases[i].says);
    }
    safetensors_file_add(&f, "a.weight", "U32", 2, packed, words, 32);
    safetensors_file_add(&f, "a.scales", "F32", 2, groups, words, 4);
    safetensors_file_add(&f, "a.biases", "F32", 2, two, words, 8);
    safetensors_file_write(&f, fixture_scratch(),
                           "{\"quantization\":{\"group_size\":64,\"bits\":4}}");
    refuse(STATUS_MODEL, "a.scales does not have the type or shape");
    safetensors_file_add(&f, "e_blocks", "U8", 2, packed, words, 8);
    safetensors_file_add(&f, "e_scales", "U8", 2, groups, words, 1);
    safetensors_file_write(&f, fixture_scratch(),
                           "{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}");
    refuse(STATUS_MODEL, "e_scales does not have");
    safetensors_file_add(&f, "a.weight_packed", "I32", 2, packed, words, 32);
    safetensors_file_write(&f, fixture_scratch(),
                           "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}");
    refuse(STATUS_UNSUPPORTED, "packed integers");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8),   cmocka_unit_test(test_fp8_plain), cmocka_unit_test(test_mlx),
        cmocka_unit_test(test_mxfp4), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
