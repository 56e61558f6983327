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
    bool encodes;
};

static const struct golden goldens[] = {
    {"f16", TENSOR_F16, true},    {"bf16", TENSOR_BF16, true},  {"q8_0", TENSOR_Q8_0, true},
    {"q4_0", TENSOR_Q4_0, true},  {"q2_k", TENSOR_Q2_K, false}, {"q3_k", TENSOR_Q3_K, false},
    {"q4_k", TENSOR_Q4_K, false}, {"q5_k", TENSOR_Q5_K, false}, {"q6_k", TENSOR_Q6_K, false},
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
    assert_true(json_array_size(index) >= 20);
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
    assert_int_equal(known, 37);
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
        assert_true(goldens[g].encodes == (info->encode != NULL));
        if (!info->encode)
            continue;
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

/* Values no reference defines must still be memory-safe and give finite codes. */
static void test_odd_values(void **state)
{
    (void)state;
    const enum tensor_type types[] = {TENSOR_Q8_0, TENSOR_Q4_0};
    const float odd[] = {NAN, INFINITY, -INFINITY, 1e-45f, -1e-40f, 3.4e38f, 0.0f};
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
            float values[32] = {odd[i], 1.0f, -1e-45f};
            uint8_t block[34];
            const struct tensor_type_info *info = tensor_type_info(types[t]);
            info->encode(values, block, 32);
            for (int j = 1; j < 32; j++)
                values[j] = odd[i];
            info->encode(values, block, 32);
            info->decode(block, values, 32);
        }
    float zeros[32] = {0};
    uint8_t block[34], expected[34] = {0};
    tensor_type_info(TENSOR_Q8_0)->encode(zeros, block, 32);
    assert_memory_equal(block, expected, 34);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),          cmocka_unit_test(test_table),
        cmocka_unit_test(test_bytes),          cmocka_unit_test(test_decode),
        cmocka_unit_test(test_encode),         cmocka_unit_test(test_f32),
        cmocka_unit_test(test_f16_exhaustive), cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),           cmocka_unit_test(test_odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
