/*
 * Sample steps: capacities are kept, what is added can be read back, and what names a thing that is not
 * there is refused before a backend would read or write out of bounds.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "fixture.h"

static const struct sample_limits limits = {
    .max_rows = 2, .max_history_writes = 1, .max_biases = 3, .max_masks = 2, .n_vocab = 70};
static const struct sample_bounds bounds = {.n_logits = 4, .n_slots = 3, .history_capacity = 9};

static struct sample_step *new_step(void)
{
    size_t bytes = sample_step_bytes(&limits);
    assert_true(bytes > 0);
    struct sample_step *step = sample_step_init(malloc(bytes), &limits);
    assert_non_null(step);
    sample_step_clear(step, 1);
    return step;
}

static void test_capacities(void **state)
{
    (void)state;
    static const int32_t ids[] = {5, 69};
    static const float values[] = {1.5f, -2.0f};
    static const uint32_t mask[3] = {1, 2, 3}, breakers[3] = {4, 5, 6};
    struct sample_step *step = new_step();
    struct sample_row row = {.output = 1, .slot = 2, .position = 3};
    assert_true(sample_step_add_row(step, &row, ids, values, 2, mask, breakers));
    /* Two more biases, or another mask, have no room: nothing is added. */
    assert_false(sample_step_add_row(step, &row, ids, values, 2, NULL, NULL));
    assert_false(sample_step_add_row(step, &row, ids, values, 1, mask, NULL));
    assert_int_equal(step->n_rows, 1);
    assert_int_equal(step->n_biases, 2);
    assert_true(sample_step_add_row(step, &row, ids + 1, values + 1, 1, NULL, NULL));
    assert_false(sample_step_add_row(step, &row, NULL, NULL, 0, NULL, NULL));
    assert_true(sample_step_add_history(step, (struct history_write){2, 8, 11}));
    assert_false(sample_step_add_history(step, (struct history_write){0, 0, 0}));

    const struct sample_row *rows = sample_step_rows(step);
    assert_int_equal(rows[0].parameters.n_biases, 2);
    assert_int_equal(rows[1].parameters.bias_offset, 2);
    assert_int_equal(sample_step_bias_ids(step)[2], 69);
    assert_memory_equal(sample_step_masks(step) + rows[0].mask_offset, mask, sizeof mask);
    assert_memory_equal(sample_step_masks(step) + rows[0].breakers_offset, breakers,
                        sizeof breakers);
    assert_int_equal(rows[1].mask_offset, NO_MASK);
    assert_int_equal(sample_step_history(step)[0].token, 11);
    const void *ends[] = {rows + 2, sample_step_history(step) + 1, sample_step_bias_ids(step) + 3,
                          sample_step_bias_values(step) + 3, sample_step_masks(step) + 2 * 3};
    const void *starts[] = {sample_step_history(step), sample_step_bias_ids(step),
                            sample_step_bias_values(step), sample_step_masks(step),
                            (const char *)step + step->bytes};
    for (int i = 0; i < 5; i++)
        assert_true((const char *)ends[i] <= (const char *)starts[i]);
    struct error err = {0};
    assert_ok(sample_step_check(step, &bounds, &err), &err);
    sample_step_clear(step, 2);
    assert_int_equal(step->n_rows + step->n_biases + step->n_masks + step->n_history_writes, 0);
    free(step);
}

static void test_sizes_that_overflow(void **state)
{
    (void)state;
    struct sample_limits large = limits;
    large.max_masks = UINT32_MAX;
    large.n_vocab = UINT32_MAX;
    assert_int_equal(sample_step_bytes(&large), 0);
    large = limits;
    large.max_rows = 1u << 30; /* offsets are 32 bits */
    assert_int_equal(sample_step_bytes(&large), 0);
}

/* A row as the engine writes it but for one number, and a word of the message that refuses it. */
static void refuses(struct sample_row row, const char *word)
{
    struct error err = {0};
    struct sample_step *step = new_step();
    static const uint32_t mask[3];
    assert_true(sample_step_add_row(step, &row, NULL, NULL, 0, mask, NULL));
    struct sample_row *written = (struct sample_row *)(uintptr_t)sample_step_rows(step);
    written->parameters.bias_offset = row.parameters.bias_offset;
    written->parameters.n_biases = row.parameters.n_biases;
    if (row.mask_offset)
        written->mask_offset = row.mask_offset;
    if (row.breakers_offset)
        written->breakers_offset = row.breakers_offset;
    assert_int_equal(sample_step_check(step, &bounds, &err), STATUS_INTERNAL);
    if (!strstr(err.message, word))
        fail_msg("'%s' does not say %s", err.message, word);
    free(step);
}

static void test_checks(void **state)
{
    (void)state;
    refuses((struct sample_row){.output = 4}, "logits 4 of 4");
    refuses((struct sample_row){.slot = 3}, "slot 3 of 3");
    refuses((struct sample_row){.position = 10}, "position 10 of 9");
    refuses((struct sample_row){.parameters = {.bias_offset = 1}}, "biases 1+0 of 0");
    refuses((struct sample_row){.parameters = {.n_biases = UINT32_MAX}}, "biases");
    refuses((struct sample_row){.mask_offset = 1}, "masks at words 1");
    refuses((struct sample_row){.breakers_offset = UINT32_MAX - 1}, "of 1 masks");
    struct error err = {0};
    struct sample_step *step = new_step();
    assert_true(sample_step_add_history(step, (struct history_write){3, 0, 1}));
    assert_int_equal(sample_step_check(step, &bounds, &err), STATUS_INTERNAL);
    sample_step_clear(step, 2);
    assert_true(sample_step_add_history(step, (struct history_write){0, 9, 1}));
    assert_int_equal(sample_step_check(step, &bounds, &err), STATUS_INTERNAL);
    assert_non_null(strstr(err.message, "position 9"));
    free(step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capacities),
        cmocka_unit_test(test_sizes_that_overflow),
        cmocka_unit_test(test_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
