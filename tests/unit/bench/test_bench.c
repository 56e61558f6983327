/*
 * The benchmark: what it counts is checked against numbers worked out by hand from Pebble's shapes,
 * what it measures only for sense, since a machine may be arbitrarily busy.
 */
#include <stdlib.h>

#include "base/json.h"
#include "bench/bench.h"
#include "bench/work.h"
#include "fixture.h"
#include "model/model.h"

#define PEBBLE SLUICE_SOURCE_DIR "/models/pebble/pebble-bf16.gguf"

static void sizes_are_parsed(void **state)
{
    (void)state;
    uint32_t sizes[BENCH_SIZES_MAX], n;
    struct error err;
    assert_int_equal(bench_parse_sizes("--prefill", "128,512", sizes, &n, &err), STATUS_OK);
    assert_int_equal(n, 2);
    assert_int_equal(sizes[0], 128);
    assert_int_equal(sizes[1], 512);
    static const char *const bad[] = {
        "0",           "-1",      "x",
        "1,,2",        ",1",      "1 2",
        "99999999999", "1048577", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(bench_parse_sizes("--prefill", bad[i], sizes, &n, &err), STATUS_USAGE);
        assert_non_null(strstr(err.message, "--prefill"));
    }
}

/* One matrix: bytes are counted once, operations per row; classes follow the type. */
static void matrices_are_counted(void **state)
{
    (void)state;
    struct program *program = program_create("counted");
    int32_t in = program_buffer(program, "in", 64, ROWS_STEP);
    int32_t out = program_buffer(program, "out", 32, ROWS_STEP);
    static const uint8_t bytes[32 * 68];
    const void *parts[] = {bytes};
    struct weight weight = {"w", WEIGHT_MATRIX, TENSOR_Q8_0, 1, 32, 64, parts};
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = program_view(program, in),
                                 .out = program_view(program, out),
                                 .residual = VIEW_NONE,
                                 .weight = program_weight(program, &weight),
                                 .bias = NO_WEIGHT,
                                 .scale = 1}};
    struct layout layout = {0};
    struct bench_step step = {.n_slices = 3, .first_position = 5, .rows_per_slice = 2};
    struct bench_work work = bench_op_work(program, &layout, &step, &op, false);
    assert_float_equal(work.bytes, 32 * 68, 0); /* two blocks of 34 bytes a row */
    assert_float_equal(work.operations[ARITHMETIC_INT8], 2.0 * 6 * 32 * 64, 0);
    assert_float_equal(work.operations[ARITHMETIC_F32], 0, 0);
    work = bench_op_work(program, &layout, &step, &op, true);
    assert_float_equal(work.operations[ARITHMETIC_F32], 2.0 * 6 * 32 * 64, 0);
    assert_float_equal(work.operations[ARITHMETIC_INT8], 0, 0);
    program_free(program);
}

/* Attention over 100 earlier positions: K and V of each sequence once, a window cuts both. */
static void attention_is_counted(void **state)
{
    (void)state;
    struct program *program = program_create("counted");
    struct state_group group = {.name = "kv",
                                .kind = GROUP_KV,
                                .n_layers = 1,
                                .n_kv_heads = 2,
                                .k_head_dim = 16,
                                .v_head_dim = 8};
    struct op op = {.kind = OP_ATTENTION, .u.attention = {.n_heads = 6}};
    op.u.attention.group = program_group(program, &group);
    struct layout layout = {.groups[0] = {.k_head_bytes = 32, .v_head_bytes = 16}};
    struct bench_step step = {.n_slices = 4, .first_position = 100, .rows_per_slice = 1};
    struct bench_work work = bench_op_work(program, &layout, &step, &op, false);
    assert_float_equal(work.bytes, 4.0 * 101 * 2 * 48, 0);
    assert_float_equal(work.operations[ARITHMETIC_F32], 2.0 * 4 * 101 * 6 * 24, 0);
    step.beside = 3; /* a prompt's rows see 101, 102 and 103, of which it reads the last once */
    work = bench_op_work(program, &layout, &step, &op, false);
    assert_float_equal(work.bytes, (4.0 * 101 + 103) * 2 * 48, 0);
    assert_float_equal(work.operations[ARITHMETIC_F32], 2.0 * (4 * 101 + 306) * 6 * 24, 0);
    step.beside = 0;
    op.u.attention.window = 10;
    work = bench_op_work(program, &layout, &step, &op, false);
    assert_float_equal(work.operations[ARITHMETIC_F32], 2.0 * 4 * 10 * 6 * 24, 0);
    assert_true(work.bytes <= 4.0 * 11 * 2 * 48);
    program_free(program);
}

/* A whole step of one row reads every weight but the embedding, and the cache. */
static void a_step_reads_the_model(void **state)
{
    (void)state;
    struct model *model;
    struct error err;
    assert_int_equal(model_open(PEBBLE, &model, &err), STATUS_OK);
    const struct program *program = model_program(model);
    struct layout layout;
    assert_int_equal(layout_plan(program, TENSOR_F16, 1, 64, 32, &layout, &err), STATUS_OK);
    struct bench_step step = {.n_slices = 1, .rows_per_slice = 1, .n_outputs = 1};
    struct bench_work work = bench_step_work(program, &layout, &step, false);
    double parameters = (double)model_parameters(model);
    assert_true(work.bytes > 0.95 * 2 * parameters && work.bytes < 1.05 * 2 * parameters);
    double operations = work.operations[ARITHMETIC_BF16];
    assert_true(operations > 0.95 * 2 * parameters && operations < 1.05 * 2 * parameters);
    model_close(model);
}

static void a_run_reports(const char *backend, bool shuffle)
{
    struct bench_config config = {
        .model = PEBBLE,
        .backend = backend,
        .n_threads = 2,
        .prefill = {5, 9},
        .n_prefill = 2,
        .decode = {1, 3},
        .n_decode = 2,
        .beside = {6},
        .n_beside = 1,
        .context = 40,
        .step_rows = 4,
        .seconds = 0.01,
        .profile = strcmp(backend, "cpu") == 0,
        .shuffle_pages = shuffle,
    };
    struct bench_report *report = calloc(1, sizeof *report);
    struct error err = {0};
    assert_non_null(report);
    enum status status = bench_run(&config, report, &err);
    if (status != STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(report->n_results, 6);
    for (uint32_t i = 0; i < 6; i++) {
        const struct bench_result *r = &report->results[i];
        assert_int_equal(r->beside, i == 3 || i == 5 ? 6 : 0);
        assert_true(r->tokens_per_second > 0 && r->repetitions >= 3 && r->work.bytes > 0);
        double seconds = 0;
        for (uint32_t part = 0; part < r->n_parts; part++)
            seconds += r->parts[part].seconds;
        assert_int_equal(r->n_parts > 0, config.profile);
        assert_true(!config.profile || seconds > 0);
    }
    assert_true(report->bandwidth > 0);
    assert_true(arithmetic_best(&report->peaks, ARITHMETIC_F32) > 0);

    struct buf text = {0};
    json_t *root;
    assert_int_equal(bench_print_json(report, &text, &err), STATUS_OK);
    assert_int_equal(json_parse(buf_str(&text), 16, "report", &root, &err), STATUS_OK);
    json_t *memory = json_object_get(root, "memory");
    if (report->resident.own) {
        assert_int_equal(json_integer_value(json_object_get(memory, "pool_bytes")),
                         report->pool_bytes);
        assert_true(report->pool_bytes > 0);
        assert_true(json_real_value(json_object_get(memory, "resident_fraction")) > 0.5);
    }
    json_t *results = json_object_get(root, "results");
    assert_int_equal(json_array_size(results), 6);
    json_t *last = json_array_get(results, 5);
    assert_string_equal(json_string_value(json_object_get(last, "kind")), "decode");
    assert_int_equal(json_integer_value(json_object_get(last, "size")), 3);
    assert_int_equal(json_integer_value(json_object_get(last, "prompt_rows_beside")), 6);
    assert_true(json_real_value(json_object_get(last, "tokens_per_second")) > 0);
    json_decref(root);
    buf_clear(&text);
    bench_print(report, &text);
    assert_non_null(strstr(text.data, "prefill"));
    assert_non_null(strstr(text.data, "3+6"));
    buf_release(&text);
    free(report);
}

static void runs_report(void **state)
{
    (void)state;
    a_run_reports("cpu", false);
    a_run_reports("cpu", true);
    a_run_reports("ref", false);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    struct bench_config config = {.model = PEBBLE,
                                  .backend = "cpu",
                                  .prefill = {1u << 20},
                                  .n_prefill = 1,
                                  .context = 1,
                                  .step_rows = 16,
                                  .seconds = 0.01};
    struct bench_report *report = calloc(1, sizeof *report);
    struct error err = {0};
    assert_non_null(report);
    assert_int_equal(bench_run(&config, report, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "positions"));
    free(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed),     cmocka_unit_test(matrices_are_counted),
        cmocka_unit_test(attention_is_counted), cmocka_unit_test(a_step_reads_the_model),
        cmocka_unit_test(runs_report),          cmocka_unit_test(impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
