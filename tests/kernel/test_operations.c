/*
 * The CPU backend against the reference, operation by operation (op_cases.h), and the promise that a
 * row's bits depend on its own history only: the same sequences alone in one piece, and cut up and
 * batched with others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/ref/ref.h"
#include "op_cases.h"

static void operations_exact(void **state)
{
    (void)state;
    struct op_cases_config config = op_cases_exact(&cpu_backend_api, &ref_backend_api);
    assert_int_equal(op_cases_finish("cpu exact", op_cases_run(&config)), 0);
}

static void cut_up(struct script *s, uint64_t seed)
{
    script_init(s, seed, 8);
    script_add(s, 0, 0, 3, 0, 13);
    script_add(s, 0, 1, 0, 0, 1);
    script_add(s, 1, 0, 3, 13, 8);
    script_add(s, 1, 2, 5, 0, 5);
    script_add(s, 1, 2, 5, 5, 2); /* two slices of one sequence in a step */
    for (uint32_t i = 0; i < 6; i++) {
        script_add(s, 2 + i, 1, 0, 1 + i, 1);
        script_add(s, 2 + i, 0, 3, 21 + i, 1);
        script_add(s, 2 + i, 2, 5, 7 + 2 * i, 2);
    }
    script_add(s, 8, 1, 0, 7, 12);
    script_add(s, 8, 2, 5, 19, 8);
}

/* One sequence in one step. */
static void whole(struct script *s, uint64_t seed, uint32_t sequence, uint32_t n)
{
    script_init(s, seed, 16);
    script_add(s, 0, sequence, sequence, 0, n);
}

static const struct run_row *find_row(const struct run_result *result, uint32_t sequence,
                                      uint32_t position)
{
    for (uint32_t i = 0; i < result->n_rows; i++)
        if (result->rows[i].sequence == sequence && result->rows[i].position == position)
            return &result->rows[i];
    return NULL;
}

static void assert_same_bits(const struct kit *kit, bool exact, enum tensor_type kv_type)
{
    static const uint32_t lengths[] = {27, 19, 27};
    const struct backend_config threads[] = {{.exact = exact, .n_threads = 2},
                                             {.exact = exact, .n_threads = 1}};
    struct script script;
    struct run_result together, alone;
    struct error err = {0};
    cut_up(&script, 77);
    assert_int_equal(kit_run(kit, &script, &cpu_backend_api, &threads[0], kv_type, &together, &err),
                     STATUS_OK);
    for (uint32_t sequence = 0; sequence < 3; sequence++) {
        whole(&script, 77, sequence, lengths[sequence]);
        assert_int_equal(
            kit_run(kit, &script, &cpu_backend_api, &threads[1], kv_type, &alone, &err), STATUS_OK);
        for (uint32_t i = 0; i < alone.n_rows; i++) {
            const struct run_row *row = find_row(&together, sequence, alone.rows[i].position);
            assert_non_null(row);
            assert_memory_equal(row->hidden, alone.rows[i].hidden,
                                alone.hidden_width * sizeof(float));
        }
        run_result_free(&alone);
    }
    run_result_free(&together);
}

static void same_alone_and_in_a_crowd(void **state)
{
    (void)state;
    for (int model = 0; model < 2; model++) {
        struct kit kit;
        kit_init(&kit, 5 + (uint64_t)model, 97);
        if (model == 0)
            op_cases_build_model(&kit);
        else
            op_cases_build_recurrent(&kit);
        assert_true(kit_finish(&kit));
        assert_same_bits(&kit, true, TENSOR_F32);
        assert_same_bits(&kit, false, TENSOR_F16);
        kit_free(&kit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_exact),
        cmocka_unit_test(same_alone_and_in_a_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
