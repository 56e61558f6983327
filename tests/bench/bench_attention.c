/*
 * bench_attention [--threads N]
 *
 * Attention of a prompt in float32 and in bfloat16 tiles: each part of a tile's block alone, then a
 * whole layer (32 heads, 8 of keys and values, 64 columns) through the backend, whose rows are once
 * of the generated and once of the prompt class. Operations around attention count in both: a prompt of
 * one window's length shows how little they are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_attention.h"
#include "base/clock.h"
#include "op_kit.h"
#include "random.h"

#define HEADS     32
#define KV_HEADS  8
#define DIM       64
#define REPEATS   6
#define POSITIONS 2048 /* of the longest prompt */

/* ---- parts ------------------------------------------------------------------------------------- */

static struct {
    const struct tile_attention *tiles;
    const struct float_kernels *floats;
    uint8_t pages[KEY_BLOCK * DIM * 2];
    float q[TILE_PAIRS * DIM], scores[TILE_PAIRS * SCORE_STRIDE], sums[TILE_PAIRS * DIM],
        total[TILE_PAIRS * DIM];
    uint16_t narrow_q[TILE_PAIRS * DIM], keys[KEY_BLOCK * DIM], values[KEY_BLOCK * DIM],
        weights[TILE_PAIRS * WEIGHT_STRIDE];
} all __attribute__((aligned(64)));

static void part_keys(void)
{
    for (uint32_t g = 0; g < KEY_BLOCK; g += KEY_GROUP)
        all.tiles->keys(TENSOR_F16, all.pages + (size_t)g * DIM * 2, DIM,
                        all.keys + (size_t)g * DIM);
}

static void part_values(void)
{
    for (uint32_t g = 0; g < KEY_BLOCK; g += KEY_GROUP)
        all.tiles->values(TENSOR_F16, all.pages + (size_t)g * DIM * 2, 0, KEY_GROUP, DIM,
                          all.values + (size_t)g / TILE_STEP * TILE_STEP * DIM +
                              g % TILE_STEP / KEY_GROUP * VALUES_HALF);
}

static void part_scores(void)
{
    all.tiles->scores(all.narrow_q, TILE_PAIRS, DIM, all.keys, KEY_BLOCK / KEY_GROUP, all.scores);
}

static void part_softmax(void)
{
    for (uint32_t p = 0; p < TILE_PAIRS; p++)
        all.floats->softmax(all.scores + (size_t)p * SCORE_STRIDE, 0, KEY_BLOCK, 0.125f, 0.0f);
}

static void part_weights(void)
{
    for (uint32_t p = 0; p < TILE_PAIRS; p++)
        all.tiles->round(all.scores + (size_t)p * SCORE_STRIDE, KEY_BLOCK,
                         all.weights + (size_t)p * WEIGHT_STRIDE);
}

static void part_mix(void)
{
    all.tiles->mix(all.weights, TILE_PAIRS, DIM, all.values, KEY_BLOCK / TILE_STEP, all.sums);
}

static void part_merge(void)
{
    for (uint32_t p = 0; p < TILE_PAIRS; p++)
        all.floats->merge(&(struct softmax_part){1.0f, 2.0f}, all.total + (size_t)p * DIM,
                          &(struct softmax_part){1.5f, 3.0f}, all.sums + (size_t)p * DIM, DIM);
}

static void parts(const struct tile_attention *tiles)
{
    static const struct {
        const char *name;
        void (*run)(void);
        bool shared; /* by all pairs of a tile */
    } each[] = {
        {"keys", part_keys, true},        {"values", part_values, true},
        {"scores", part_scores, false},   {"softmax", part_softmax, false},
        {"weights", part_weights, false}, {"mix", part_mix, false},
        {"merge", part_merge, false},
    };
    uint64_t seed = 1;
    all.tiles = tiles;
    all.floats = float_kernels_best();
    for (size_t i = 0; i < sizeof all.pages; i += 2) {
        uint16_t half = f32_to_f16(random_signed(&seed));
        memcpy(all.pages + i, &half, 2);
    }
    for (size_t i = 0; i < TILE_PAIRS * DIM; i++)
        all.q[i] = random_signed(&seed);
    tiles->round(all.q, TILE_PAIRS * DIM, all.narrow_q);
    double of_all = 0, of_pairs = 0;
    printf("%s, one block of %d keys by %d columns, %d pairs:\n", tiles->name, KEY_BLOCK, DIM,
           TILE_PAIRS);
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        double best = 1e30;
        for (int repeat = 0; repeat < 30; repeat++) {
            enum { CALLS = 200 };
            uint64_t start = clock_now_ns();
            for (int call = 0; call < CALLS; call++)
                each[i].run();
            double ns = (double)(clock_now_ns() - start) / CALLS;
            best = ns < best ? ns : best;
        }
        *(each[i].shared ? &of_all : &of_pairs) += best;
        printf("  %-8s %8.0f ns%s\n", each[i].name, best, each[i].shared ? " for all pairs" : "");
    }
    printf("  a block of 128 pairs: %.0f ns, of which for all pairs %.0f\n", of_all + 8 * of_pairs,
           of_all);
}

/* ---- whole ------------------------------------------------------------------------------------- */

static double fastest; /* seconds of a step */

static enum status timed_submit(struct backend *backend, struct loaded_program *program,
                                const struct step *step, uint64_t *ticket, struct error *err)
{
    uint64_t start = clock_now_ns();
    enum status status = cpu_backend_api.submit(backend, program, step, ticket, err);
    double seconds = (double)(clock_now_ns() - start) * 1e-9;
    fastest = seconds < fastest ? seconds : fastest;
    return status;
}

static void build(struct kit *kit)
{
    kit_init(kit, 7, 64);
    kit->program->n_context = POSITIONS;
    kit_select(kit, kit_attention(kit, &(struct kit_heads){HEADS, KV_HEADS, DIM, .scale = 0.125f}));
    if (!kit_finish(kit)) {
        fprintf(stderr, "%s\n", kit->error.message);
        exit(1);
    }
}

static double whole(const struct kit *kit, uint32_t rows, uint32_t threads, bool prompt)
{
    static struct script script;
    struct backend_api api = cpu_backend_api;
    struct backend_config config = {.n_threads = threads};
    struct run_result result;
    struct error err = {0};
    api.submit = timed_submit;
    script_init(&script, 3, 64);
    for (uint32_t i = 0; i < REPEATS; i++) {
        script_add(&script, i, i, 0, 0, rows);
        script_last(&script)->numeric_class = prompt ? CLASS_PROMPT : CLASS_GENERATED;
    }
    fastest = 1e30;
    if (kit_run(kit, &script, &api, &config, TENSOR_F16, &result, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    run_result_free(&result);
    return fastest;
}

int main(int argc, char **argv)
{
    static const uint32_t lengths[] = {32, 128, 512, POSITIONS};
    uint32_t threads = argc == 3 ? (uint32_t)atoi(argv[2]) : 1;
    struct kit kit;
    if (kernel_for_prompt_attention())
        parts(kernel_for_prompt_attention());
    else
        printf("this machine multiplies no tiles: both classes are in float32\n");
    build(&kit);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        double wide = whole(&kit, lengths[i], threads, false);
        double narrow = whole(&kit, lengths[i], threads, true);
        printf("%5u rows, %u threads: %8.2f ms in float32, %8.2f ms in tiles, %.2f times\n",
               lengths[i], threads, wide * 1e3, narrow * 1e3, wide / narrow);
    }
    kit_free(&kit);
    return 0;
}
