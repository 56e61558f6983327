/*
 * Tensor types: the table agrees with the recorded index, and every conversion with the recorded
 * bytes, bit for bit. The goldens in tests/data/quant come from gguf-py: NAME.blocks.bin decodes to
 * NAME.f32.bin, NAME.src.bin encodes to NAME.quantized.bin.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "fixture.h"
#include "quant/tensor_type.h"

struct golden {
    const char *file;
    enum tensor_type type;
    bool encodes; /* a recorded encoding exists */
};

static const struct golden goldens[] = {
    {"f16", TENSOR_F16, true},          {"bf16", TENSOR_BF16, true},
    {"q8_0", TENSOR_Q8_0, true},        {"q4_0", TENSOR_Q4_0, true},
    {"q4_1", TENSOR_Q4_1, true},        {"q5_0", TENSOR_Q5_0, true},
    {"q5_1", TENSOR_Q5_1, true},        {"q2_k", TENSOR_Q2_K, false},
    {"q3_k", TENSOR_Q3_K, false},       {"q4_k", TENSOR_Q4_K, false},
    {"q5_k", TENSOR_Q5_K, false},       {"q6_k", TENSOR_Q6_K, false},
    {"iq1_s", TENSOR_IQ1_S, false},     {"iq1_m", TENSOR_IQ1_M, false},
    {"iq2_xxs", TENSOR_IQ2_XXS, false}, {"iq2_xs", TENSOR_IQ2_XS, false},
    {"iq2_s", TENSOR_IQ2_S, false},     {"iq3_xxs", TENSOR_IQ3_XXS, false},
    {"iq3_s", TENSOR_IQ3_S, false},     {"iq4_nl", TENSOR_IQ4_NL, false},
    {"iq4_xs", TENSOR_IQ4_XS, false},   {"tq1_0", TENSOR_TQ1_0, true},
    {"tq2_0", TENSOR_TQ2_0, true},      {"mxfp4", TENSOR_MXFP4, true},
    {"nvfp4", TENSOR_NVFP4, false},
};
#define N_GOLDENS (sizeof goldens / sizeof *goldens)

static struct buf golden_read(const char *name, const char *suffix)
{
    char relative[256];
    snprintf(relative, sizeof relative, "tests/data/quant/%s.%s.bin", name, suffix);
    return fixture_read(fixture_path(relative));
}

static void test_index(void **state)
{
    (void)state;
    json_t *index;
    struct error err = {0};
    assert_ok(
        json_parse_file(fixture_path("tests/data/quant/index.json"), 1 << 20, 8, &index, &err),
        &err);
    size_t i;
    json_t *entry;
    assert_int_equal(json_array_size(index), N_GOLDENS);
    json_array_foreach(index, i, entry)
    {
        uint32_t id = (uint32_t)json_integer_value(json_object_get(entry, "id"));
        const char *name = json_string_value(json_object_get(entry, "name"));
        const struct tensor_type_info *info = tensor_type_info(id);
        assert_non_null(info);
        assert_string_equal(info->name, name);
        assert_string_equal(tensor_type_name(id), name);
        assert_int_equal(info->block_elements,
                         json_integer_value(json_object_get(entry, "block_elements")));
        assert_int_equal(info->block_bytes,
                         json_integer_value(json_object_get(entry, "block_bytes")));
        assert_int_equal(tensor_type_from_name(str_from(name)), id);
    }
    json_decref(index);
}

static void test_table(void **state)
{
    (void)state;
    unsigned known = 0;
    for (uint32_t i = 0; i < TENSOR_TYPE_END; i++) {
        const struct tensor_type_info *info = tensor_type_info(i);
        if (!info)
            continue;
        known++;
        assert_true(info->block_elements > 0 && info->block_bytes > 0);
        assert_int_equal(tensor_type_from_name(str_from(info->name)), i);
        assert_true(!info->encode || info->decode);
        assert_true(!info->encode_weighted || (info->decode && !info->encode));
    }
    assert_int_equal(known, 43);
    assert_null(tensor_type_info(4)); /* ids that GGUF has withdrawn */
    assert_null(tensor_type_info(5));
    assert_null(tensor_type_info(31));
    assert_null(tensor_type_info(36));
    assert_null(tensor_type_info(41));
    assert_null(tensor_type_info(TENSOR_TYPE_END));
    assert_null(tensor_type_info(UINT32_MAX));
    assert_string_equal(tensor_type_name(UINT32_MAX), "unknown");
    assert_int_equal(tensor_type_from_name(STR_LIT("q4_k")), TENSOR_Q4_K);
    assert_int_equal(tensor_type_from_name(STR_LIT("bF16")), TENSOR_BF16);
    assert_int_equal(tensor_type_from_name(STR_LIT("Q4_")), TENSOR_TYPE_END);
    assert_int_equal(tensor_type_from_name(STR_LIT("")), TENSOR_TYPE_END);
}

static void test_bytes(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    assert_true(tensor_type_bytes(TENSOR_Q4_K, 512, &bytes));
    assert_int_equal(bytes, 288);
    assert_true(tensor_type_bytes(TENSOR_F32, 0, &bytes));
    assert_int_equal(bytes, 0);
    assert_false(tensor_type_bytes(TENSOR_Q4_K, 128, &bytes));
    assert_false(tensor_type_bytes(TENSOR_F32, UINT64_MAX / 4 + 1, &bytes));
    assert_true(tensor_type_bytes(TENSOR_F32, UINT64_MAX / 4, &bytes));
    assert_false(tensor_type_bytes(TENSOR_Q8_0, (UINT64_MAX / 34 + 1) * 32, &bytes));
    assert_false(tensor_type_bytes(4, 32, &bytes));
}

static void test_decode(void **state)
{
    (void)state;
    for (size_t g = 0; g < N_GOLDENS; g++) {
        const struct tensor_type_info *info = tensor_type_info(goldens[g].type);
        struct buf blocks = golden_read(goldens[g].file, "blocks");
        struct buf expected = golden_read(goldens[g].file, "f32");
        size_t n = expected.len / sizeof(float);
        uint64_t bytes;
        assert_true(n > 0 && tensor_type_bytes(goldens[g].type, n, &bytes));
        assert_int_equal(bytes, blocks.len);
        float *values = calloc(n, sizeof *values);
        info->decode(blocks.data, values, n);
        for (size_t i = 0; i < n; i++)
            if (memcmp(&values[i], expected.data + 4 * i, 4) != 0)
                fail_msg("%s: value %zu decodes to %a", info->name, i, (double)values[i]);
        free(values);
        buf_release(&blocks);
        buf_release(&expected);
    }
}

static void test_encode(void **state)
{
    (void)state;
    for (size_t g = 0; g < N_GOLDENS; g++) {
        const struct tensor_type_info *info = tensor_type_info(goldens[g].type);
        if (!goldens[g].encodes)
            continue;
        assert_non_null(info->encode);
        struct buf source = golden_read(goldens[g].file, "src");
        struct buf expected = golden_read(goldens[g].file, "quantized");
        size_t n = source.len / sizeof(float);
        float *values = malloc(source.len); /* aligned */
        uint8_t *blocks = calloc(1, expected.len);
        uint64_t bytes;
        memcpy(values, source.data, source.len);
        assert_true(tensor_type_bytes(goldens[g].type, n, &bytes));
        assert_int_equal(bytes, expected.len);
        info->encode(values, blocks, n);
        for (size_t i = 0; i < bytes; i++)
            if (blocks[i] != (uint8_t)expected.data[i])
                fail_msg("%s: byte %zu encodes to %d", info->name, i, blocks[i]);
        free(values);
        free(blocks);
        buf_release(&source);
        buf_release(&expected);
    }
}

/* A normal distribution, the same on every machine: twelve uniform numbers, less six. */
static void fill_gaussian(float *values, size_t n)
{
    uint32_t state = 12345;
    for (size_t i = 0; i < n; i++) {
        float sum = -6.0f;
        for (int k = 0; k < 12; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (float)(state >> 8) * 0x1p-24f;
        }
        values[i] = sum;
    }
}

/* Root of the (weighted) mean square error over that of the values. */
static double relative_error(enum tensor_type type, const float *values, const float *weights,
                             const float *measure, size_t n)
{
    uint64_t bytes;
    assert_true(tensor_type_bytes(type, n, &bytes));
    uint8_t *blocks = malloc(bytes);
    float *back = malloc(n * sizeof *back);
    assert_true(tensor_type_encode(type, values, weights, blocks, n));
    tensor_type_info(type)->decode(blocks, back, n);
    double error = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        double w = measure ? (double)measure[i] : 1.0, off = (double)values[i] - (double)back[i];
        error += w * off * off;
        total += w * (double)values[i] * (double)values[i];
    }
    free(blocks);
    free(back);
    return sqrt(error / total);
}

/* Errors on Gaussian numbers, as docs/quantization.md reports them: no encoder may get worse. */
static const struct {
    enum tensor_type type;
    double most;
} gaussian_errors[] = {
    {TENSOR_BF16, 0.0017}, {TENSOR_F16, 0.00022}, {TENSOR_Q8_0, 0.0054},   {TENSOR_Q6_K, 0.0173},
    {TENSOR_Q5_K, 0.0348}, {TENSOR_Q5_1, 0.0380}, {TENSOR_Q5_0, 0.0430},   {TENSOR_Q4_K, 0.0704},
    {TENSOR_Q4_1, 0.0785}, {TENSOR_Q4_0, 0.0865}, {TENSOR_IQ4_NL, 0.0737}, {TENSOR_IQ4_XS, 0.0745},
    {TENSOR_MXFP4, 0.117}, {TENSOR_Q3_K, 0.1445}, {TENSOR_Q2_K, 0.2640},
};

static void test_gaussian_error(void **state)
{
    (void)state;
    size_t n = 256 * 1000;
    float *values = malloc(n * sizeof *values);
    fill_gaussian(values, n);
    for (size_t i = 0; i < sizeof gaussian_errors / sizeof *gaussian_errors; i++) {
        enum tensor_type type = gaussian_errors[i].type;
        double error = relative_error(type, values, NULL, NULL, n);
        print_message("%-7s %.3f bits a value, relative error %.5f\n", tensor_type_name(type),
                      8.0 * tensor_type_info(type)->block_bytes /
                          tensor_type_info(type)->block_elements,
                      error);
        if (!(error < gaussian_errors[i].most) || error < 0.9 * gaussian_errors[i].most)
            fail_msg("%s: relative error %.5f, expected just below %.5f", tensor_type_name(type),
                     error, gaussian_errors[i].most);
    }
    free(values);
}

/* With weights the error that they measure falls, for every type that searches. */
static void test_weights(void **state)
{
    (void)state;
    size_t n = 256 * 200;
    float *values = malloc(n * sizeof *values), *weights = malloc(n * sizeof *weights);
    fill_gaussian(values, n);
    for (size_t i = 0; i < n; i++) /* a few columns that matter a lot, as in real models */
        weights[i] = i % 23 == 0 ? 100.0f : i % 3 == 0 ? 4.0f : 1.0f;
    unsigned searched = 0;
    for (uint32_t type = 0; type < TENSOR_TYPE_END; type++) {
        const struct tensor_type_info *info = tensor_type_info(type);
        if (!info || !info->encode_weighted)
            continue;
        searched++;
        double plain = relative_error(type, values, NULL, weights, n);
        double weighted = relative_error(type, values, weights, weights, n);
        if (!(weighted < 0.95 * plain))
            fail_msg("%s: weighted error %.5f, without weights %.5f", info->name, weighted, plain);
    }
    assert_int_equal(searched, 7);
    free(values);
    free(weights);
}

static void test_f8(void **state)
{
    (void)state;
    static const struct {
        uint8_t bits;
        float e4m3, e5m2;
    } known[] = {
        {0x00, 0.0f, 0.0f},        {0x80, -0.0f, -0.0f},
        {0x01, 0x1p-9f, 0x1p-16f}, {0x07, 0x7p-9f, 0x1.cp-14f},
        {0x08, 0x1p-6f, 0x1p-13f}, {0x38, 1.0f, 0.5f},
        {0x3c, 1.5f, 1.0f},        {0xbc, -1.5f, -1.0f},
        {0x7b, 352.0f, 57344.0f},  {0x7e, 448.0f, NAN},
        {0x7f, NAN, NAN},          {0x7c, 384.0f, INFINITY},
        {0xff, NAN, NAN},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        float values[2];
        tensor_type_info(TENSOR_F8_E4M3)->decode(&known[i].bits, values, 1);
        tensor_type_info(TENSOR_F8_E5M2)->decode(&known[i].bits, values + 1, 1);
        assert_true(isnan(known[i].e4m3) ? isnan(values[0]) : values[0] == known[i].e4m3);
        assert_true(isnan(known[i].e5m2) ? isnan(values[1]) : values[1] == known[i].e5m2);
    }
    assert_true(signbit(f8_e4m3_to_f32(0x80)) && signbit(f8_e5m2_to_f32(0x80)));
}

static void test_f32(void **state)
{
    (void)state;
    const struct tensor_type_info *info = tensor_type_info(TENSOR_F32);
    const float values[] = {0.0f, -0.0f, 1.5f, -INFINITY, 1e-45f};
    uint8_t bytes[1 + sizeof values];
    float back[5];
    info->encode(values, bytes + 1, 5); /* blocks need no alignment */
    info->decode(bytes + 1, back, 5);
    assert_memory_equal(values, back, sizeof values);
}

/* The value of a binary16 by its definition, independent of the bit tricks. */
static double f16_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -value : value;
}

static void test_f16_exhaustive(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f) && isnan(f16_to_f32(f32_to_f16(f))));
            continue;
        }
        assert_int_equal(f32_to_f16(f), h);
        if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f) && (f < 0) == (h >> 15));
        else
            assert_true((double)f == f16_value((uint16_t)h));
    }
}

/* Halfway between neighbours goes to the even one; a hair to either side goes to the nearer. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1));
        float middle = low + (high - low) / 2; /* exact: float has 13 more bits */
        assert_int_equal(f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(f32_to_f16(nextafterf(middle, 0.0f)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, 1e9f)), h + 1);
        assert_int_equal(f32_to_f16(-middle), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(f32_to_f16(1e-30f), 0);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = bf16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_true(isnan(bf16_to_f32(f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(f32_to_bf16(f), h);
    }
    assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80); /* halfway, down to even */
    assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82); /* halfway, up to even */
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);     /* rounds to infinity */
}

/* Every code survives; between two codes the nearer one, halfway the even one. */
static void test_f8_e4m3(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        float f = f8_e4m3_to_f32((uint8_t)code);
        assert_int_equal(f32_to_f8_e4m3(f), code);
        if ((code & 0x7f) >= 0x7e)
            continue;
        float next = f8_e4m3_to_f32((uint8_t)(code + 1)), half = (f + next) / 2;
        assert_int_equal(f32_to_f8_e4m3(half), code + (code & 1));
        assert_int_equal(f32_to_f8_e4m3(nextafterf(half, f)), code);
        assert_int_equal(f32_to_f8_e4m3(nextafterf(half, next)), code + 1);
    }
    assert_int_equal(f32_to_f8_e4m3(1e6f), 0x7e);
    assert_int_equal(f32_to_f8_e4m3(-460.0f), 0xfe);
    assert_int_equal(f32_to_f8_e4m3(INFINITY) & 0x7f, 0x7f);
    assert_int_equal(f32_to_f8_e4m3(1e-30f), 0);
}

/* Values that no reference defines must still be memory-safe and leave the rest of a block usable. */
static void test_odd_values(void **state)
{
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY, 1e-45f, -1e-40f, 3.4e38f, 0.0f};
    for (uint32_t type = 0; type < TENSOR_TYPE_END; type++)
        for (size_t i = 0; i < sizeof odd / sizeof *odd && tensor_type_encodes(type); i++) {
            float values[256] = {odd[i], 1.0f, -1e-45f};
            uint8_t block[1024];
            assert_true(tensor_type_encode(type, values, NULL, block, 256));
            tensor_type_info(type)->decode(block, values, 256);
            for (int j = 0; j < 256; j++)
                values[j] = odd[i];
            assert_true(tensor_type_encode(type, values, NULL, block, 256));
            tensor_type_info(type)->decode(block, values, 256);
        }
}

/* Zeros stay zeros; one value alone survives in every type of four bits and more. */
static void test_sparse(void **state)
{
    (void)state;
    for (uint32_t type = 0; type < TENSOR_TYPE_END; type++) {
        if (!tensor_type_encodes(type))
            continue;
        float zeros[256] = {0}, one[256] = {0}, back[256];
        uint8_t block[1024];
        assert_true(tensor_type_encode(type, zeros, NULL, block, 256));
        tensor_type_info(type)->decode(block, back, 256);
        for (int i = 0; i < 256; i++)
            assert_true(back[i] == 0.0f);
        one[77] = -0.75f;
        assert_true(tensor_type_encode(type, one, NULL, block, 256));
        tensor_type_info(type)->decode(block, back, 256);
        if (fabsf(back[77] + 0.75f) > 0.05f)
            fail_msg("%s: -0.75 among zeros is %g", tensor_type_name(type), (double)back[77]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_f8_e4m3),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_f16_exhaustive),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_gaussian_error),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_f8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
