/*
 * Products of attention in bfloat16 tiles: the scalar twin against sums in double over the rounded
 * factors, and the machine's tiles (where it has any) against the twin, bit by bit, over odd numbers of
 * pairs, groups, steps and columns. Attention as a whole: test_float_kernels.
 */
#include <math.h>
#include <string.h>

#include "fixture.h"
#include "random.h"

#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_attention.h"

#define DIM_MAX 256

static uint64_t seed = 1;

/* What goes in: a block of keys and values as in pages, queries, weights. */
static struct {
    enum tensor_type type;
    uint32_t dim;
    uint8_t keys[KEY_BLOCK * DIM_MAX * 2], values[KEY_BLOCK * DIM_MAX * 2];
    float q[TILE_PAIRS * DIM_MAX], weights[TILE_PAIRS * WEIGHT_STRIDE];
} in;

/* What comes out. */
struct result {
    uint16_t q[TILE_PAIRS * DIM_MAX], weights[TILE_PAIRS * WEIGHT_STRIDE];
    uint16_t keys[KEY_BLOCK * DIM_MAX], values[KEY_BLOCK * DIM_MAX];
    float scores[TILE_PAIRS * SCORE_STRIDE], sums[TILE_PAIRS * DIM_MAX];
};

static struct result want, got;

static void store(enum tensor_type type, uint8_t *to, size_t i, float value)
{
    uint16_t word = type == TENSOR_F16 ? f32_to_f16(value) : f32_to_bf16(value);
    memcpy(to + 2 * i, &word, sizeof word);
}

static float stored(enum tensor_type type, const uint8_t *from, size_t i)
{
    uint16_t word;
    memcpy(&word, from + 2 * i, sizeof word);
    float value = type == TENSOR_F16 ? f16_to_f32(word) : bf16_to_f32(word);
    return bf16_to_f32(f32_to_bf16(value));
}

/* size: of values; small ones make subnormals of F16, and of products. */
static void make(enum tensor_type type, uint32_t dim, float size)
{
    in.type = type;
    in.dim = dim;
    for (size_t i = 0; i < (size_t)KEY_BLOCK * dim; i++) {
        store(type, in.keys, i, random_signed(&seed));
        store(type, in.values, i, random_signed(&seed) * size);
    }
    for (size_t i = 0; i < (size_t)TILE_PAIRS * dim; i++)
        in.q[i] = random_signed(&seed) * (i % 7 ? 1.0f : 0x1p-120f);
    for (size_t i = 0; i < (size_t)TILE_PAIRS * WEIGHT_STRIDE; i++)
        in.weights[i] = i % 5 ? fabsf(random_signed(&seed)) * size : 0.0f;
}

/* Groups of keys and steps of values [0, ...), of the last step only some keys. */
static void compute(const struct tile_attention *tiles, uint32_t n, uint32_t n_groups,
                    uint32_t first, uint32_t end, struct result *out)
{
    uint32_t steps = (end + TILE_STEP - 1) / TILE_STEP;
    memset(out, 0, sizeof *out);
    tiles->round(in.q, TILE_PAIRS * in.dim, out->q);
    tiles->round(in.weights, TILE_PAIRS * WEIGHT_STRIDE, out->weights);
    for (uint32_t g = 0; g < n_groups; g++)
        tiles->keys(in.type, in.keys + (size_t)g * KEY_GROUP * in.dim * 2, in.dim,
                    out->keys + (size_t)g * KEY_GROUP * in.dim);
    for (uint32_t at = 0; at < steps * TILE_STEP; at += KEY_GROUP) {
        uint32_t low = first > at ? first - at : 0;
        uint32_t high = end <= at ? 0 : end - at < KEY_GROUP ? end - at : KEY_GROUP;
        bool finite = tiles->values(in.type, in.values + (size_t)at * in.dim * 2, low, high, in.dim,
                                    out->values + (size_t)(at / TILE_STEP) * TILE_STEP * in.dim +
                                        at % TILE_STEP / KEY_GROUP * VALUES_HALF);
        assert_true(finite);
    }
    tiles->scores(out->q, n, in.dim, out->keys, n_groups, out->scores);
    tiles->mix(out->weights, n, in.dim, out->values, steps, out->sums);
}

static void against_double(uint32_t n, uint32_t n_groups, uint32_t first, uint32_t end)
{
    for (uint32_t p = 0; p < n; p++) {
        for (uint32_t t = 0; t < n_groups * KEY_GROUP; t++) {
            double sum = 0;
            for (uint32_t c = 0; c < in.dim; c++) {
                size_t at = ((size_t)(t / KEY_GROUP) * in.dim + c) * KEY_GROUP + t % KEY_GROUP;
                sum += (double)stored(in.type, in.keys, at) *
                       bf16_to_f32(f32_to_bf16(in.q[(size_t)p * in.dim + c]));
            }
            assert_true(fabs(sum - want.scores[p * SCORE_STRIDE + t]) < 1e-4);
        }
        for (uint32_t c = 0; c < in.dim; c++) {
            double sum = 0;
            for (uint32_t t = first; t < end; t++)
                sum += (double)stored(in.type, in.values, (size_t)t * in.dim + c) *
                       bf16_to_f32(f32_to_bf16(in.weights[p * WEIGHT_STRIDE + t]));
            assert_true(fabs(sum - want.sums[(size_t)p * in.dim + c]) < 1e-4);
        }
    }
}

static void shape(enum tensor_type type, uint32_t dim, uint32_t n, uint32_t n_groups,
                  uint32_t first, uint32_t end)
{
    const struct tile_attention *here = kernel_for_prompt_attention();
    make(type, dim, 1.0f);
    compute(&tile_attention_scalar, n, n_groups, first, end, &want);
    against_double(n, n_groups, first, end);
    for (int tiny = 0; here && tiny < 2; tiny++) {
        if (tiny) {
            make(type, dim, 0x1p-63f); /* products around the smallest normal number */
            compute(&tile_attention_scalar, n, n_groups, first, end, &want);
        }
        compute(here, n, n_groups, first, end, &got);
        assert_memory_equal(got.keys, want.keys, sizeof want.keys);
        assert_memory_equal(got.values, want.values, sizeof want.values);
        for (uint32_t p = 0; p < n; p++) {
            assert_memory_equal(got.scores + p * SCORE_STRIDE, want.scores + p * SCORE_STRIDE,
                                n_groups * KEY_GROUP * sizeof(float));
            assert_memory_equal(got.sums + (size_t)p * dim, want.sums + (size_t)p * dim,
                                dim * sizeof(float));
        }
    }
}

static void test_products(void **state)
{
    (void)state;
    static const enum tensor_type types[] = {TENSOR_F16, TENSOR_BF16};
    if (!kernel_for_prompt_attention())
        print_message("this machine multiplies no tiles: the twin alone\n");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (uint32_t dim = 32; dim <= DIM_MAX; dim += dim < 160 ? 32 : 96) {
            static const uint32_t groups[] = {1, 2, 3, 4, 7, 16};
            static const uint32_t ends[] = {1, 16, 31, 40, 97, 256};
            for (uint32_t i = 0; i < 6; i++)
                shape(types[t], dim, 1 + (dim / 32 * 5 + i * 3) % 16, groups[i],
                      i % 2 ? ends[i] / 3 : 0, ends[i]);
        }
}

/* A step that is hidden, before or after, changes nothing: not even the sign of a zero. */
static void test_hidden_steps(void **state)
{
    (void)state;
    const struct tile_attention *here = kernel_for_prompt_attention();
    for (int i = 0; i < (here ? 2 : 1); i++) {
        const struct tile_attention *tiles = i ? here : &tile_attention_scalar;
        make(TENSOR_BF16, 32, 0x1p-63f);
        for (uint32_t t = 0; t < 64;
             t++) /* products that cancel to less than the smallest number */
            for (uint32_t c = 0; c < 32; c++)
                store(TENSOR_BF16, in.values, (size_t)t * 32 + c,
                      t == 0    ? 0x1.04p-63f
                      : t == 33 ? -0x1.06p-63f
                      : t == 34 ? -0.0f
                                : 0.0f);
        for (uint32_t t = 0; t < WEIGHT_STRIDE; t++)
            in.weights[t] = t == 0 || t == 33 ? 0x1p-63f : 0.0f;
        compute(tiles, 1, 1, 0, 64, &want);
        compute(tiles, 1, 1, 0, 200, &got);
        for (uint32_t t = 64; t < 200; t++)
            for (uint32_t c = 0; c < 32; c++)
                assert_true(stored(TENSOR_BF16, in.values, (size_t)t * 32 + c) != 0.0f);
        assert_memory_equal(got.sums, want.sums, 32 * sizeof(float));
        for (uint32_t c = 0; c < 32; c++)
            assert_true(got.sums[c] == 0.0f && !signbit(got.sums[c]));
    }
}

static void test_infinities(void **state)
{
    (void)state;
    const struct tile_attention *here = kernel_for_prompt_attention();
    for (int i = 0; i < (here ? 2 : 1); i++) {
        const struct tile_attention *tiles = i ? here : &tile_attention_scalar;
        make(TENSOR_F16, 64, 1.0f);
        store(TENSOR_F16, in.values, 5 * 64 + 63, 1e6f);
        store(TENSOR_F16, in.values, 6 * 64 + 1, 65504.0f);
        assert_false(tiles->values(TENSOR_F16, in.values, 0, 16, 64, want.values));
        assert_false(tiles->values(TENSOR_F16, in.values, 5, 6, 64, want.values));
        assert_true(tiles->values(TENSOR_F16, in.values, 0, 5, 64, want.values));
        assert_true(tiles->values(TENSOR_F16, in.values, 6, 16, 64, want.values));
        store(TENSOR_F16, in.values, 6 * 64 + 1, NAN);
        assert_false(tiles->values(TENSOR_F16, in.values, 6, 16, 64, want.values));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_hidden_steps),
        cmocka_unit_test(test_infinities),
    };
    return cmocka_run_group_tests_name("tile_attention", tests, NULL, NULL);
}
