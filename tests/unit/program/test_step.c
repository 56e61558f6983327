/* Steps: sections in order and apart, capacities kept, rows know their slice and position. */
#include <stdlib.h>

#include "fixture.h"
#include "program/step.h"

static const struct step_limits limits = {.max_rows = 7,
                                          .max_slices = 2,
                                          .max_outputs = 2,
                                          .max_table_writes = 1,
                                          .max_copies = 1,
                                          .max_embeddings = 3,
                                          .embedding_width = 5,
                                          .n_axes = 3};

static void test_capacities(void **state)
{
    (void)state;
    static const int32_t tokens[] = {10, 11, 12, 13, 14};
    size_t bytes = step_bytes(&limits);
    assert_true(bytes > 0);
    struct step *step = step_init(malloc(bytes), &limits);
    assert_non_null(step);
    step_clear(step, 1);
    struct slice slice = {.slot = 1, .first_position = 20, .n_rows = 5, .input = INPUT_TOKENS};
    assert_true(step_add_slice(step, &slice, tokens));
    slice = (struct slice){.slot = 0, .first_position = 3, .n_rows = 3, .input = INPUT_TOKENS};
    assert_false(step_add_slice(step, &slice, tokens)); /* eight rows */
    slice.n_rows = 0;
    assert_false(step_add_slice(step, &slice, tokens));
    assert_int_equal(step->n_rows, 5);
    slice.n_rows = 2;
    assert_true(step_add_slice(step, &slice, tokens));
    assert_false(step_add_slice(step, &slice, tokens)); /* a third slice */
    for (uint32_t row = 0; row < 7; row++) {
        assert_int_equal(step_row_slice(step)[row], row < 5 ? 0 : 1);
        assert_int_equal(step_row_position(step, row), row < 5 ? 20 + row : 3 + row - 5);
    }
    assert_int_equal(step_slices(step)[1].first_row, 5);
    assert_int_equal(step_slices(step)[1].input_offset, 5);
    assert_true(step_add_output(step, 4, true));
    assert_true(step_add_output(step, 6, false));
    assert_false(step_add_output(step, 0, false));
    assert_int_equal(step->n_logits, 1);
    assert_true(step_add_table_write(step, (struct table_write){0, 0, 0, 9}));
    assert_false(step_add_table_write(step, (struct table_write){0, 0, 1, 8}));
    const uint32_t at[] = {step->slices_at, step->row_slice_at,  step->positions_at,
                           step->tokens_at, step->outputs_at,    step->table_writes_at,
                           step->copies_at, step->embeddings_at, step->bytes};
    const size_t sizes[] = {2 * sizeof(struct slice),       7 * sizeof(uint32_t),
                            7 * 3 * sizeof(int32_t),        7 * sizeof(int32_t),
                            2 * sizeof(struct step_output), sizeof(struct table_write),
                            sizeof(struct page_copy),       3 * 5 * sizeof(float)};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(at[i] % 64, 0);
        assert_true(at[i] + sizes[i] <= at[i + 1]);
    }
    free(step);
}

static void test_sizes_that_overflow(void **state)
{
    (void)state;
    struct step_limits large = limits;
    large.max_embeddings = large.embedding_width = UINT32_MAX;
    assert_int_equal(step_bytes(&large), 0);
    large = limits;
    large.max_rows = UINT32_MAX;
    assert_int_equal(step_bytes(&large), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capacities),
        cmocka_unit_test(test_sizes_that_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
