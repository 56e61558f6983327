/*
 * The CPU backend against the reference, operation by operation, over the odd shapes of op_cases:
 * exact, and as fast as it likes with each element type that K/V may have. What a tolerance is made
 * of stands in op_cases.c.
 */
#include "backend/backend.h"
#include "fixture.h"
#include "op_cases.h"

/* Unit roundoff of what activations pass through in the fast mode: int8 with a scale per group. */
#define FAST_EPSILON 0x1p-9

static const struct backend_api *backend(const char *name)
{
    const struct backend_api *api;
    struct error err = {0};
    assert_ok(backend_find(name, &api, NULL, &err), &err);
    return api;
}

static void run(const struct op_cases_config *config)
{
    struct op_cases_result result = op_cases_run(config);
    assert_int_equal(result.failed, 0);
    assert_int_equal(result.unsupported, 0);
    assert_true(result.passed > 100);
}

static void test_exact(void **state)
{
    (void)state;
    struct op_cases_config config = op_cases_exact(backend("cpu"), backend("ref"));
    config.all_types = true;
    run(&config);
}

static void fast(enum tensor_type kv_type)
{
    struct op_cases_config config =
        op_cases_fast(backend("cpu"), backend("ref"), kv_type, FAST_EPSILON);
    config.all_types = kv_type == TENSOR_F32;
    run(&config);
}

static void test_fast_f32(void **state)
{
    (void)state;
    fast(TENSOR_F32);
}

static void test_fast_f16(void **state)
{
    (void)state;
    fast(TENSOR_F16);
}

static void test_fast_bf16(void **state)
{
    (void)state;
    fast(TENSOR_BF16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_fast_f32),
        cmocka_unit_test(test_fast_f16),
        cmocka_unit_test(test_fast_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
