/*
 * The float kernels of every instruction set that this machine has, against plain double
 * arithmetic; what must not differ at all (one pair or many, direct or widened, one call or several)
 * is compared bit by bit. Then attention whole: long sequences over several blocks, by one thread
 * and by many, in odd pieces; and prompts in bfloat16, by the scalar twin and by the machine's tiles
 * where it has any.
 */
#include <math.h>
#include <stdlib.h>

#include "backend/cpu/float_kernels.h"
#include "fixture.h"
#include "op_kit.h"
#include "random.h"

#include "backend/cpu/cpu.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_attention.h"
#include "backend/ref/ref.h"

static uint64_t seed = 1;

static void fill(float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_signed(&seed) * size;
}

/* Calls `test` for every set that this machine can run. */
static void each_set(void (*test)(const struct float_kernels *))
{
    struct hardware hw = {.n_cores = 0};
    const struct float_kernels *kernels;
    hardware_read_instruction_sets(&hw);
    for (uint32_t i = 0; (kernels = float_kernels_at(i)) != NULL; i++)
        if (float_kernels_usable(kernels, &hw))
            test(kernels);
        else
            print_message("%s: not on this machine\n", kernels->name);
}

static bool close_to(double got, double want, double relative, double absolute)
{
    if (isnan(want) || isinf(want))
        return isnan(want) ? isnan(got) : got == want;
    return fabs(got - want) <= relative * fabs(want) + absolute;
}

/* ---- functions --------------------------------------------------------------------------------- */

static double true_activation(enum activation act, double x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU:
        return 0.5 * x * (1 + erf(x * sqrt(0.5)));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(0.63661977236758134) * (x + 0.044715 * x * x * x)));
    case ACT_RELU:
        return x > 0 ? x : 0;
    case ACT_RELU2:
        return x > 0 ? x * x : 0;
    case ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    default:
        return x;
    }
}

static void activations_of(const struct float_kernels *k)
{
    static const enum activation acts[] = {ACT_NONE, ACT_SILU,  ACT_GELU,   ACT_GELU_TANH,
                                           ACT_RELU, ACT_RELU2, ACT_SIGMOID};
    enum { N = 4001 };
    static float x[N], y[N], up[N], gated[N];
    for (size_t a = 0; a < sizeof acts / sizeof *acts; a++) {
        for (int i = 0; i < N; i++)
            x[i] = (float)(i - N / 2) * 0.01f;
        x[0] = -1e30f, x[1] = 1e10f, x[2] = -0.0f, x[3] = -100, x[4] = 100;
        memcpy(y, x, sizeof x);
        k->activate(acts[a], y, N);
        fill(up, N, 2);
        k->gate(acts[a], x, up, N, gated);
        for (int i = 0; i < N; i++) {
            double want = true_activation(acts[a], x[i]);
            if (!close_to(y[i], want, 1e-6, 1e-6 * fmin(fabs(x[i]) + 1, 10)))
                fail_msg("%s activation %d of %g: %g, not %g", k->name, (int)acts[a], (double)x[i],
                         (double)y[i], want);
            assert_true(gated[i] == y[i] * up[i] || isnan(y[i] * up[i]));
        }
        /* A tail gives the bits of a whole vector. */
        for (uint32_t n = 1; n < 40; n++) {
            memcpy(gated, x + 100, n * sizeof *x);
            k->activate(acts[a], gated, n);
            assert_memory_equal(gated, y + 100, n * sizeof *y);
        }
    }
    float odd[] = {NAN, INFINITY};
    k->activate(ACT_SILU, odd, 2);
    assert_true(isnan(odd[0]) && odd[1] == INFINITY);
    float gate[] = {9, -3, 1}, linear[] = {-9, 2, 7.5f}, out[3];
    k->gate(ACT_CLAMPED_SWIGLU, gate, linear, 3, out);
    for (int i = 0; i < 3; i++) {
        double g = fmin(gate[i], 7), u = fmax(-7, fmin(7, linear[i]));
        assert_true(close_to(out[i], (u + 1) * g / (1 + exp(-1.702 * g)), 1e-6, 1e-6));
    }
}

/* exp through the softmax of two scores: weight = exp(a - b) for a below b. */
static void exponentials_of(const struct float_kernels *k)
{
    double worst = 0;
    for (int i = 0; i < 20000; i++) {
        float scores[KEY_GROUP] = {0, -(float)i * 0.00437f};
        float x = scores[1];
        struct softmax_part part = k->softmax(scores, 0, 2, 1.0f, 0.0f);
        double want = exp((double)x);
        assert_true(part.most == 0 && scores[0] == 1.0f);
        if (x > -87)
            worst = fmax(worst, fabs(scores[1] - want) / want);
        else
            assert_true(scores[1] <= 1.7e-38f);
    }
    print_message("%s: exp is within %.2f units in the last place\n", k->name, worst * 0x1p24);
    assert_true(worst < 2 * 0x1p-23);
}

static void norms_of(const struct float_kernels *k)
{
    static const uint32_t sizes[] = {1, 3, 8, 17, 64, 100, 576, 2048};
    static float in[2048], weight[2048], bias[2048], out[2048];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int layer = 0; layer < 2; layer++) {
            uint32_t n = sizes[s];
            struct op_norm op = {.kind = layer ? NORM_LAYER : NORM_RMS,
                                 .group = n,
                                 .weight_offset = 1,
                                 .eps = 1e-5f};
            fill(in, n, 3);
            fill(weight, n, 1);
            fill(bias, n, 1);
            k->norm(&op, in, weight, bias, out);
            double mean = 0, squares = 0;
            for (uint32_t i = 0; i < n && layer; i++)
                mean += (double)in[i] / n;
            for (uint32_t i = 0; i < n; i++)
                squares += (in[i] - mean) * (in[i] - mean) / n;
            for (uint32_t i = 0; i < n; i++) {
                double want = (in[i] - mean) / sqrt(squares + 1e-5) * (weight[i] + 1.0) + bias[i];
                assert_true(close_to(out[i], want, 1e-5, 2e-4));
            }
            k->add(in, bias, 0.5f, n, out);
            for (uint32_t i = 0; i < n; i++)
                assert_true(close_to(out[i], in[i] + 0.5 * bias[i], 1e-6, 1e-6));
        }
}

static void rotations_of(const struct float_kernels *k)
{
    for (uint32_t dims = 2; dims <= 130; dims += 8)
        for (int halves = 0; halves < 2; halves++) {
            float head[130], before[130], turn[130];
            fill(head, 130, 1);
            memcpy(before, head, sizeof head);
            for (uint32_t i = 0; i < dims / 2; i++) {
                turn[i] = cosf((float)i);
                turn[dims / 2 + i] = sinf((float)i);
            }
            k->rotate(halves ? ROPE_HALVES : ROPE_PAIRS, dims, turn, head);
            for (uint32_t i = 0; i < dims / 2; i++) {
                uint32_t a = halves ? i : 2 * i, b = halves ? i + dims / 2 : 2 * i + 1;
                double c = cosf((float)i), s = sinf((float)i);
                assert_true(close_to(head[a], before[a] * c - before[b] * s, 1e-6, 1e-6));
                assert_true(close_to(head[b], before[a] * s + before[b] * c, 1e-6, 1e-6));
            }
            for (uint32_t i = dims; i < 130; i++)
                assert_true(head[i] == before[i]);
        }
}

/* ---- keys and values --------------------------------------------------------------------------- */

static void format_of(const struct float_kernels *k, const struct kv_format *f, uint32_t dim)
{
    enum { KEYS = 2 * KEY_GROUP, N = DIRECT };
    static float keys[KEYS][160], values[KEYS][160], q[N][160], stored[160];
    static float wide[KEYS * 160], wide_values[KEYS * 160];
    static float out[N][KEYS], again[N][KEYS], sums[N][160], more[N][160];
    static uint8_t key_bytes[KEYS * 640], value_bytes[KEYS * 640], block[640];
    const struct kv_format *f32 = float_kernels_format(k, TENSOR_F32);
    const struct tensor_type_info *type = tensor_type_info(f->type);
    uint64_t bytes;
    assert_true(tensor_type_bytes(f->type, dim, &bytes));
    for (uint32_t t = 0; t < KEYS; t++) {
        fill(keys[t], dim, 2);
        fill(values[t], dim, 2);
        f->append_key(keys[t], key_bytes + t / KEY_GROUP * KEY_GROUP * bytes, KEY_GROUP,
                      t % KEY_GROUP, dim);
        f->append_value(values[t], value_bytes + t * bytes, dim);
    }
    for (uint32_t g = 0; g < KEYS / KEY_GROUP; g++)
        f->widen_keys(key_bytes + g * KEY_GROUP * bytes, KEY_GROUP, dim,
                      wide + g * KEY_GROUP * dim);
    f->widen_values(value_bytes, KEYS, dim, wide_values);
    for (uint32_t t = 0; t < KEYS; t++) {
        type->encode(keys[t], block, dim);
        type->decode(block, stored, dim);
        for (uint32_t c = 0; c < dim; c++)
            assert_true(wide[(t / KEY_GROUP * dim + c) * KEY_GROUP + t % KEY_GROUP] == stored[c]);
        type->encode(values[t], block, dim);
        type->decode(block, stored, dim);
        assert_memory_equal(wide_values + t * dim, stored, dim * sizeof *stored);
        assert_memory_equal(value_bytes + t * bytes, block, bytes);
    }
    for (uint32_t p = 0; p < N; p++)
        fill(q[p], dim, 1);
    static float packed[N * 160];
    for (uint32_t p = 0; p < N; p++)
        memcpy(packed + p * dim, q[p], dim * sizeof **q);
    f32->scores((const uint8_t *)wide, 2, dim, packed, N, out[0], KEYS, NULL);
    for (uint32_t p = 0; p < N; p++)
        for (uint32_t t = 0; t < KEYS; t++) {
            double want = 0;
            for (uint32_t c = 0; c < dim; c++)
                want +=
                    (double)q[p][c] * wide[(t / KEY_GROUP * dim + c) * KEY_GROUP + t % KEY_GROUP];
            assert_true(close_to(out[p][t], want, 1e-5, 2e-5));
        }
    memset(sums, 0, sizeof sums);
    f32->mix((const uint8_t *)wide_values, KEYS, dim, out[0], KEYS, N, sums[0], NULL);
    for (uint32_t n = 1; n <= N; n++) {
        f->scores(key_bytes, 2, dim, packed, n, again[0], KEYS, n % 2 ? key_bytes : NULL);
        assert_memory_equal(again, out, n * sizeof *out);
        f->scores(key_bytes + KEY_GROUP * bytes, 1, dim, packed, n, again[0], KEYS, NULL);
        for (uint32_t p = 0; p < n; p++)
            assert_memory_equal(again[p], out[p] + KEY_GROUP, KEY_GROUP * sizeof(float));
        memset(more, 0, sizeof more);
        f->mix(value_bytes, 5, dim, out[0], KEYS, n, more[0], n % 2 ? value_bytes : NULL);
        f->mix(value_bytes + 5 * bytes, KEYS - 5, dim, out[0] + 5, KEYS, n, more[0], NULL);
        assert_memory_equal(more, sums, n * dim * sizeof(float));
    }
    uint8_t tiny[4 * 640];
    for (uint32_t t = 0; t < 4; t++)
        f->append_key(keys[t], tiny, 4, t, dim);
    static float wide_tiny[4 * 160];
    f->widen_keys(tiny, 4, dim, wide_tiny);
    for (uint32_t t = 0; t < 4; t++)
        for (uint32_t c = 0; c < dim; c++)
            assert_true(wide_tiny[c * 4 + t] == wide[c * KEY_GROUP + t]);
}

static void formats_of(const struct float_kernels *k)
{
    static const uint32_t dims[] = {1, 2, 7, 16, 24, 40, 64, 96, 100, 128, 160};
    for (uint32_t i = 0; i < k->n_formats; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            if (dims[d] % tensor_type_info(k->formats[i].type)->block_elements == 0)
                format_of(k, &k->formats[i], dims[d]);
}

/* Parts of a row do not depend on what lies outside of what it sees. */
static void softmax_of(const struct float_kernels *k)
{
    static float scores[KEY_BLOCK], clean[KEY_BLOCK], raw[KEY_BLOCK];
    for (uint32_t begin = 0; begin < 40; begin += 3)
        for (uint32_t end = begin + 1; end < 60; end += 7)
            for (int capped = 0; capped < 2; capped++) {
                float cap = capped ? 5.0f : 0.0f;
                fill(raw, KEY_BLOCK, 20);
                memcpy(scores, raw, sizeof raw);
                struct softmax_part part = k->softmax(scores, begin, end, 0.5f, cap);
                double most = -INFINITY, total = 0;
                for (uint32_t i = begin; i < end; i++) {
                    double s = 0.5 * raw[i];
                    s = capped ? cap * tanh(s / cap) : s;
                    most = fmax(most, s);
                }
                for (uint32_t i = begin; i < end; i++) {
                    double s = 0.5 * raw[i];
                    s = capped ? cap * tanh(s / cap) : s;
                    total += exp(s - most);
                    assert_true(close_to(scores[i], exp(s - most), 1e-5, 1e-6));
                }
                assert_true(close_to(part.most, most, 1e-6, 1e-6));
                assert_true(close_to(part.total, total, 1e-5, 0));
                memcpy(clean, raw, sizeof raw);
                for (uint32_t i = 0; i < KEY_BLOCK; i++)
                    if (i < begin || i >= end)
                        clean[i] = NAN;
                struct softmax_part other = k->softmax(clean, begin, end, 0.5f, cap);
                assert_memory_equal(&part, &other, sizeof part);
                assert_memory_equal(scores + begin, clean + begin, (end - begin) * sizeof *scores);
            }
}

static void test_activations(void **state)
{
    (void)state;
    each_set(activations_of);
}

static void test_exponential(void **state)
{
    (void)state;
    each_set(exponentials_of);
}

static void test_norms(void **state)
{
    (void)state;
    each_set(norms_of);
}

static void test_rotations(void **state)
{
    (void)state;
    each_set(rotations_of);
}

static void test_formats(void **state)
{
    (void)state;
    each_set(formats_of);
}

static void test_softmax(void **state)
{
    (void)state;
    each_set(softmax_of);
}

/* ---- attention whole --------------------------------------------------------------------------- */

#define LENGTH 700 /* positions: three blocks */

static bool build(struct kit *kit, uint32_t heads, uint32_t kv_heads, uint32_t dim, uint32_t window)
{
    kit_init(kit, 7, 64);
    kit_select(
        kit, kit_attention(kit, &(struct kit_heads){heads, kv_heads, dim, window, .scale = 0.3f}));
    return kit_finish(kit);
}

/* pieces 0: everything at once; else chunks of odd sizes, then single rows, beside other sequences. */
static void play(struct script *script, int pieces, uint32_t target_tokens)
{
    static const uint32_t sizes[] = {300, 1, 17, 120, 33, 2};
    script_init(script, 3, target_tokens);
    if (!pieces) {
        script_add(script, 0, 0, 0, 0, LENGTH);
        return;
    }
    uint32_t at = 0, step = 0;
    for (; at < LENGTH - 20; step++) {
        uint32_t n = sizes[step % 6] < LENGTH - 20 - at ? sizes[step % 6] : LENGTH - 20 - at;
        script_add(script, step, 0, 1, at, n);
        if (step < 4)
            script_add(script, step, 1, 0, step * 5, 5);
        at += n;
    }
    for (; at < LENGTH; at++, step++)
        script_add(script, step, 0, 1, at, 1);
}

static void run_one(const struct kit *kit, int pieces, uint32_t tokens, uint32_t threads,
                    const struct backend_api *api, enum tensor_type type, struct run_result *out)
{
    struct script *script = malloc(sizeof *script);
    struct backend_config config = {.n_threads = threads, .exact = type == TENSOR_F32};
    struct error err;
    assert_non_null(script);
    play(script, pieces, tokens);
    assert_ok(kit_run(kit, script, api, &config, type, out, &err), &err);
    free(script);
}

static const float *row_of(const struct run_result *r, uint32_t position)
{
    for (uint32_t i = 0; i < r->n_rows; i++)
        if (r->rows[i].sequence == 0 && r->rows[i].position == position)
            return r->rows[i].hidden;
    fail_msg("position %u has no result", position);
    return NULL;
}

static void compare(const struct run_result *a, const struct run_result *b, double tolerance,
                    const char *what)
{
    for (uint32_t p = 0; p < LENGTH; p++) {
        const float *x = row_of(a, p), *y = row_of(b, p);
        for (uint32_t c = 0; c < a->hidden_width; c++)
            if (tolerance == 0.0 ? memcmp(&x[c], &y[c], sizeof *x) != 0
                                 : fabs((double)x[c] - y[c]) > tolerance)
                fail_msg("%s: position %u column %u: %.9g and %.9g", what, p, c, (double)x[c],
                         (double)y[c]);
    }
}

/* The bits of `want`, whatever the cuts, pages and threads. */
static void same_however_cut(struct kit *kit, enum tensor_type type, const struct run_result *want)
{
    static const uint32_t threads[] = {1, 2, 3, 16}, pages[] = {64, 4, 16, 176};
    struct run_result other;
    for (int i = 0; i < 4; i++) {
        run_one(kit, 1, pages[i], threads[i], &cpu_backend_api, type, &other);
        compare(&other, want, 0.0, "in odd pieces");
        run_result_free(&other);
    }
    run_one(kit, 0, 128, 16, &cpu_backend_api, type, &other);
    compare(&other, want, 0.0, "on 16 threads");
    run_result_free(&other);
}

static void long_sequences(uint32_t heads, uint32_t kv_heads, uint32_t dim, uint32_t window)
{
    static const struct {
        enum tensor_type type;
        double tolerance;
    } types[] = {{TENSOR_F32, 2e-6},
                 {TENSOR_F16, 2e-3},
                 {TENSOR_BF16, 1e-2},
                 {TENSOR_Q8_0, 2e-2},
                 {TENSOR_F8_E4M3, 8e-2}};
    struct kit kit;
    struct run_result want, first;
    assert_true(build(&kit, heads, kv_heads, dim, window));
    run_one(&kit, 0, 32, 1, &ref_backend_api, TENSOR_F32, &want);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        if (dim % tensor_type_info(types[t].type)->block_elements)
            continue;
        run_one(&kit, 0, 32, 1, &cpu_backend_api, types[t].type, &first);
        compare(&first, &want, types[t].tolerance, "against ref");
        same_however_cut(&kit, types[t].type, &first);
        run_result_free(&first);
    }
    run_result_free(&want);
    kit_free(&kit);
}

static void test_long_sequences(void **state)
{
    (void)state;
    kernels_set_prompt(&(struct kernel_set){.attention = NULL});
    long_sequences(8, 2, 32, 0);
    long_sequences(3, 1, 64, 300);
    long_sequences(2, 2, 24, 0);
    long_sequences(40, 1, 8, 31);
    kernels_set_prompt(NULL);
}

/* ---- prompts in bfloat16 ----------------------------------------------------------------------- */

static bool same_bits(const struct run_result *a, const struct run_result *b)
{
    for (uint32_t p = 0; p < LENGTH; p++)
        if (memcmp(row_of(a, p), row_of(b, p), a->hidden_width * sizeof(float)) != 0)
            return false;
    return true;
}

/* Rounding values and weights to bfloat16 changes a mean of values below 1 by up to 2^-9 each; rounding
 * queries and keys changes the sum of a score's 64 products below 0.3, by up to 2^-8 each and mostly
 * against each other, by some 0.005, and so a weight in that proportion: 0.01 in all, beside what
 * keeping keys and values in F16 or BF16 costs. */
#define NARROW_ERROR 1e-2

static void long_prompts(const struct tile_attention *tiles, uint32_t heads, uint32_t kv_heads,
                         uint32_t dim, uint32_t window)
{
    static const struct {
        enum tensor_type type;
        double tolerance;
    } types[] = {{TENSOR_F16, NARROW_ERROR + 2e-3}, {TENSOR_BF16, NARROW_ERROR + 1e-2}};
    struct kit kit;
    struct run_result want, first, other;
    assert_true(build(&kit, heads, kv_heads, dim, window));
    run_one(&kit, 0, 32, 1, &ref_backend_api, TENSOR_F32, &want);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        kernels_set_prompt(&(struct kernel_set){.attention = tiles});
        run_one(&kit, 0, 32, 1, &cpu_backend_api, types[t].type, &first);
        assert_non_null(strstr(first.kernels, tiles->name));
        compare(&first, &want, types[t].tolerance, tiles->name);
        same_however_cut(&kit, types[t].type, &first);
        kernels_set_prompt(&(struct kernel_set){.attention = NULL});
        run_one(&kit, 0, 32, 1, &cpu_backend_api, types[t].type, &other);
        assert_false(same_bits(&other, &first));
        run_result_free(&other);
        run_result_free(&first);
    }
    kernels_set_prompt(NULL);
    run_result_free(&want);
    kit_free(&kit);
}

static void test_long_prompts(void **state)
{
    (void)state;
    const struct tile_attention *here = kernel_for_prompt_attention();
    for (int i = 0; i < (here ? 2 : 1); i++) {
        const struct tile_attention *tiles = i ? here : &tile_attention_scalar;
        long_prompts(tiles, 8, 2, 32, 0);
        long_prompts(tiles, 3, 1, 64, 300);
        long_prompts(tiles, 40, 1, 32, 31);
    }
}

/* The machine's tiles and the twin, over the same odd pieces. */
static void test_prompts_by_tiles(void **state)
{
    (void)state;
    const struct tile_attention *here = kernel_for_prompt_attention();
    if (!here) {
        print_message("this machine multiplies no tiles\n");
        skip();
    }
    for (int shape = 0; shape < 2; shape++) {
        struct kit kit;
        struct run_result want, got;
        assert_true(build(&kit, shape ? 2 : 4, 1, shape ? 96 : 32, shape ? 300 : 0));
        kernels_set_prompt(&(struct kernel_set){.attention = &tile_attention_scalar});
        run_one(&kit, 0, 32, 1, &cpu_backend_api, TENSOR_F16, &want);
        kernels_set_prompt(NULL);
        for (int pieces = 0; pieces < 2; pieces++) {
            run_one(&kit, pieces, 64, 1 + (uint32_t)pieces, &cpu_backend_api, TENSOR_F16, &got);
            compare(&got, &want, 0.0, here->name);
            run_result_free(&got);
        }
        run_result_free(&want);
        kit_free(&kit);
    }
}

/* Values that overflow F16 spoil the rows that see them, and no others in their tile. */
static void test_hidden_infinities(void **state)
{
    (void)state;
    enum { HEADS = 4, DIM = 32, AT = 20 };
    struct kit kit;
    struct run_result first, other;
    struct script script;
    assert_true(build(&kit, HEADS, 1, DIM, 0));
    script_init(&script, 3, 32);
    uint32_t token = (uint32_t)script_token(&script, 0, AT, 64), seen = 0;
    while ((uint32_t)script_token(&script, 0, seen, 64) != token)
        seen++;
    assert_true(seen > 2);
    const struct weight *table = &kit.program->weights[0];
    float *row = (float *)(uintptr_t)table->parts[0] + (size_t)token * table->n_cols;
    for (uint32_t c = (HEADS + 1) * DIM; c < (HEADS + 2) * DIM; c++)
        row[c] = 1e6f;
    kernels_set_prompt(&(struct kernel_set){.attention = &tile_attention_scalar});
    run_one(&kit, 0, 32, 1, &cpu_backend_api, TENSOR_F16, &first);
    run_one(&kit, 1, 16, 2, &cpu_backend_api, TENSOR_F16, &other);
    kernels_set_prompt(NULL);
    for (uint32_t p = 0; p < LENGTH; p++)
        for (uint32_t c = 0; c < HEADS * DIM; c++) {
            float x = row_of(&first, p)[c], y = row_of(&other, p)[c];
            assert_true(isfinite(x) == (p < seen));
            assert_true(p < seen ? memcmp(&x, &y, sizeof x) == 0 : !isfinite(y));
        }
    run_result_free(&first);
    run_result_free(&other);
    kit_free(&kit);
}

/* [FILTER], for slow machines */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_exponential),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_rotations),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_long_sequences),
        cmocka_unit_test(test_long_prompts),
        cmocka_unit_test(test_prompts_by_tiles),
        cmocka_unit_test(test_hidden_infinities),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("float_kernels", tests, NULL, NULL);
}
