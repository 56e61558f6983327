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

/* Bytes that 1,000 to 1,063 tokens hold beyond their keys, values and states, on average. */
static double waste_of(const struct state_group *groups, uint32_t n_groups)
{
    struct program program = {.n_groups = n_groups};
    struct layout layout;
    struct error err = {0};
    double held = 0, used = 0;
    memcpy(program.groups, groups, n_groups * sizeof *groups);
    assert_ok(layout_plan(&program, TENSOR_F16, 1, 4096, ENGINE_PAGE_TOKENS, &layout, &err), &err);
    for (uint32_t tokens = 1000; tokens < 1064; tokens++)
        for (uint32_t i = 0; i < n_groups; i++) {
            const struct state_group *g = &groups[i];
            uint32_t pages = layout.groups[i].max_pages, window = g->window;
            if (g->kind == GROUP_RECURRENT) {
                used += 2.0 * g->n_layers * g->state_floats * sizeof(float);
            } else {
                uint32_t per_page = layout.groups[i].tokens_per_page;
                uint32_t first = window && window < tokens ? tokens - window : 0;
                pages = (tokens - 1) / per_page + 1 - first / per_page;
                used += 2.0 * (tokens - first) * g->n_layers * g->n_kv_heads *
                        (g->k_head_dim + g->v_head_dim);
            }
            held += (double)pages * (double)layout.page_bytes;
        }
    return 1.0 - used / held;
}

#define KV(layers, heads, dim, w)                                                                  \
    {                                                                                              \
        .kind = GROUP_KV, .n_layers = layers, .n_kv_heads = heads, .k_head_dim = dim,              \
        .v_head_dim = dim, .window = w                                                             \
    }
#define STATE(layers, floats)                                                                      \
    {                                                                                              \
        .kind = GROUP_RECURRENT, .n_layers = layers, .state_floats = floats                        \
    }

/* Layer groups as published models have them: pages of one size, shared by groups that are not
 * multiples of each other. */
static void test_waste(void **state)
{
    (void)state;
    static const struct {
        const char *like;
        uint32_t n_groups;
        double most;
        struct state_group groups[2];
    } models[] = {
        {"llama-3.2-1b", 1, 0.02, {KV(16, 8, 64, 0)}},
        {"gpt-oss-20b", 2, 0.04, {KV(12, 8, 64, 128), KV(12, 8, 64, 0)}},
        {"gemma-3-1b", 2, 0.06, {KV(22, 1, 256, 512), KV(4, 1, 256, 0)}},
        {"gemma-3-4b", 2, 0.04, {KV(29, 4, 256, 1024), KV(5, 4, 256, 0)}},
        {"gemma-3-27b", 2, 0.04, {KV(52, 16, 128, 1024), KV(10, 16, 128, 0)}},
        {"command-r7b", 2, 0.04, {KV(24, 8, 128, 4096), KV(8, 8, 128, 0)}},
        {"qwen3-next", 2, 0.04, {STATE(36, 32 * 128 * 128 + 3 * 8192), KV(12, 2, 256, 0)}},
        {"granite-4-h-tiny", 2, 0.04, {STATE(36, 48 * 64 * 128 + 3 * 3328), KV(4, 4, 128, 0)}},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        double waste = waste_of(models[i].groups, models[i].n_groups);
        printf("%-18s %.1f %% of 1,000 tokens' pages are unused\n", models[i].like, 100 * waste);
        assert_true(waste < models[i].most);
    }
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

/* States of recurrent layers are kept within so many bytes of the pool: a quarter unless told. */
static void test_checkpoint_memory(void **state)
{
    (void)state;
    struct hardware hw = {.memory_total = 1024 * MIB, .memory_available = 800 * MIB};
    struct engine_size size;
    struct error err = {0};
    sluice_engine_options options = {.kv_memory = 400 << 10};
    assert_ok(size_for(&hw, &options, &size, &err), &err);
    assert_int_equal(size.kv.checkpoint_pages, size.kv.n_pages / 4);
    options.checkpoint_memory = 50 << 10;
    assert_ok(size_for(&hw, &options, &size, &err), &err);
    uint64_t bytes = size.kv.checkpoint_pages * size.layout.page_bytes;
    assert_true(bytes <= 50 << 10 && bytes + size.layout.page_bytes > 50 << 10);
    options.checkpoint_memory = 1 << 30; /* never more than there is */
    assert_ok(size_for(&hw, &options, &size, &err), &err);
    assert_int_equal(size.kv.checkpoint_pages, size.kv.n_pages);
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
        cmocka_unit_test(test_waste),
        cmocka_unit_test(test_kv_memory_bounds_sequences),
        cmocka_unit_test(test_checkpoint_memory),
        cmocka_unit_test(test_weights_beyond_memory),
        cmocka_unit_test(test_large_vocabularies_get_fewer_outputs),
    };
    return cmocka_run_group_tests_name("sizing", tests, NULL, NULL);
}
