/* What fits: refusals with both sizes, a context that shrinks only where nobody asked for it. */
#include "fake_backend.h"

#define MIB ((uint64_t)1 << 20)

static enum status size_for(const struct hardware *hw, const sluice_engine_options *options,
                            struct engine_size *size, struct error *err)
{
    (void)fake_api;
    (void)fake_next;
    const struct backend_info info = {.kv_type = TENSOR_F32};
    enum status status = sizing_limits(fake_program(), &info, options, size, err);
    return status == STATUS_OK ? sizing_memory(fake_program(), hw, &info, options, size, err)
                               : status;
}

static void test_defaults(void **state)
{
    (void)state;
    struct hardware hw = {.memory_total = 1024 * MIB, .memory_available = 800 * MIB};
    struct engine_size size;
    struct error err = {0};
    assert_ok(size_for(&hw, &(sluice_engine_options){0}, &size, &err), &err);
    assert_int_equal(size.n_slots, ENGINE_SEQUENCES);
    assert_int_equal(size.n_context, FAKE_CONTEXT);
    assert_int_equal(size.max_rows, ENGINE_STEP_ROWS);
    assert_int_equal(size.max_outputs, ENGINE_STEP_ROWS);
    /* A full context for each sequence, since that is far below a quarter of the memory. */
    assert_int_equal(size.layout.n_pages,
                     ENGINE_SEQUENCES * kv_config_pages(&size.kv, FAKE_CONTEXT));
    assert_int_equal(size.max_positions, FAKE_CONTEXT);
    /* The windowed group does not count its whole context. */
    struct kv_config whole = size.kv;
    for (uint32_t i = 0; i < whole.n_groups; i++)
        whole.groups[i].window = 0;
    assert_true(kv_config_pages(&size.kv, FAKE_CONTEXT) < kv_config_pages(&whole, FAKE_CONTEXT));
}

static void test_context_shrinks_to_memory(void **state)
{
    (void)state;
    struct hardware hw = {.memory_total = MIB, .memory_available = MIB / 4};
    struct engine_size size;
    struct error err = {0};
    assert_ok(size_for(&hw, &(sluice_engine_options){0}, &size, &err), &err);
    assert_true(size.n_context < FAKE_CONTEXT && size.n_context >= ENGINE_CONTEXT_LEAST);
    assert_true(size.layout.n_pages * size.layout.page_bytes <= MIB / 16);
    assert_int_equal(size.max_positions, size.n_context);
    /* Asked for explicitly it may take more than the usual share, but not more than there is. */
    sluice_engine_options options = {.n_context = FAKE_CONTEXT};
    assert_ok(size_for(&hw, &options, &size, &err), &err);
    assert_int_equal(size.n_context, FAKE_CONTEXT);
    assert_int_equal(size.layout.n_pages, kv_config_pages(&size.kv, FAKE_CONTEXT));
    hw.memory_available = MIB / 32;
    assert_int_equal(size_for(&hw, &options, &size, &err), STATUS_MEMORY);
    assert_non_null(strstr(err.message, "4096 tokens"));
    assert_int_equal(size_for(&hw, &(sluice_engine_options){0}, &size, &err), STATUS_MEMORY);
}

static void test_kv_memory_bounds_sequences(void **state)
{
    (void)state;
    struct hardware hw = {.memory_total = 1024 * MIB, .memory_available = 800 * MIB};
    struct engine_size size;
    struct error err = {0};
    sluice_engine_options options = {.n_context = FAKE_CONTEXT, .kv_memory = 40 << 10};
    assert_ok(size_for(&hw, &options, &size, &err), &err);
    assert_true(size.max_positions < FAKE_CONTEXT);
    assert_true(kv_config_pages(&size.kv, size.max_positions) <= size.kv.n_pages);
    assert_true(kv_config_pages(&size.kv, size.max_positions + 1) > size.kv.n_pages);
}

static void test_weights_beyond_memory(void **state)
{
    (void)state;
    struct program program = *fake_program();
    struct weight weight = *program.weights;
    weight.n_rows = 1 << 20;
    weight.n_cols = 1024;
    program.weights = &weight;
    struct hardware hw = {.memory_total = 4096 * MIB, .memory_available = 3072 * MIB};
    struct backend_info info = {0};
    struct error err;
    assert_int_equal(sizing_check_weights(&program, &hw, &info, &err), STATUS_MEMORY);
    assert_non_null(strstr(err.message, "4.0 GiB"));
    assert_non_null(strstr(err.message, "3.0 GiB"));
    /* A device with memory of its own counts by that. */
    info.memory_total = info.memory_free = 8192 * MIB;
    assert_int_equal(sizing_check_weights(&program, &hw, &info, &err), STATUS_OK);
    info.memory_total = hw.memory_total; /* the machine's own: its available memory counts */
    assert_int_equal(sizing_check_weights(&program, &hw, &info, &err), STATUS_MEMORY);
}

static void test_large_vocabularies_get_fewer_outputs(void **state)
{
    (void)state;
    struct program program = *fake_program();
    program.n_vocab = 262144;
    struct backend_info info = {.kv_type = TENSOR_F32};
    struct engine_size size;
    struct error err = {0};
    assert_ok(sizing_limits(&program, &info, &(sluice_engine_options){0}, &size, &err), &err);
    assert_int_equal(size.max_outputs, ENGINE_SEQUENCES);
    assert_ok(
        sizing_limits(&program, &info, &(sluice_engine_options){.max_sequences = 40}, &size, &err),
        &err);
    assert_int_equal(size.max_outputs, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_context_shrinks_to_memory),
        cmocka_unit_test(test_kv_memory_bounds_sequences),
        cmocka_unit_test(test_weights_beyond_memory),
        cmocka_unit_test(test_large_vocabularies_get_fewer_outputs),
    };
    return cmocka_run_group_tests_name("sizing", tests, NULL, NULL);
}
