/* The batching policy on plain integers: order, budgets, chunks, admission, removal, refusals. */
#include <string.h>

#include "fixture.h"
#include "sched/sched.h"

struct bench {
    struct kv *kv;
    struct sched *sched;
};

static struct bench bench_of(uint32_t n_pages, const struct sched_config *config)
{
    struct kv_config kv_config = {
        .n_pages = n_pages,
        .n_slots = config->n_slots,
        .n_groups = 1,
        .max_extend = config->max_rows,
        .groups = {{.tokens_per_page = 4, .max_pages = 64}},
    };
    struct bench b;
    struct error err = {0};
    assert_ok(kv_create(&kv_config, &b.kv, &err), &err);
    assert_ok(sched_create(config, b.kv, &b.sched, &err), &err);
    return b;
}

static void bench_free(struct bench *b)
{
    struct error err;
    assert_true(kv_check(b->kv, &err));
    sched_free(b->sched);
    kv_free(b->kv);
}

static const struct sched_config normal = {
    .n_slots = 3,
    .max_rows = 10,
    .max_slices = 8,
    .max_outputs = 6,
    .max_writes = 64,
    .max_queued = 4,
    .max_context = 256,
    .alignment = 1,
};

static void add(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t n_generate)
{
    struct sched_request request = {.id = id, .n_prompt = n_prompt, .n_generate = n_generate};
    struct error err = {0};
    assert_ok(sched_add(b->sched, &request, &err), &err);
}

static void expect_slice(const struct sched_plan *plan, uint32_t i, uint64_t id, uint32_t first,
                         uint32_t rows, bool generated, bool last)
{
    assert_true(i < plan->n_slices);
    const struct sched_slice *s = &plan->slices[i];
    assert_int_equal(s->id, id);
    assert_int_equal(s->first_position, first);
    assert_int_equal(s->n_rows, rows);
    assert_int_equal(s->generated, generated);
    assert_int_equal(s->last, last);
}

static void test_generated_first_then_oldest_prompt(void **state)
{
    (void)state;
    struct bench b = bench_of(100, &normal);
    assert_int_equal(sched_plan(b.sched)->n_slices, 0);
    add(&b, 1, 4, 5);
    add(&b, 2, 13, 5);
    add(&b, 3, 2, 5);
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 2);
    expect_slice(plan, 0, 1, 0, 4, false, true);
    expect_slice(plan, 1, 2, 0, 6, false, false);
    assert_true(plan->slices[0].opened);
    assert_int_equal(plan->n_rows, 10);
    assert_int_equal(plan->n_writes, 3);
    sched_commit(b.sched);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 4, 1, true, true);
    expect_slice(plan, 1, 2, 6, 7, false, true);
    expect_slice(plan, 2, 3, 0, 2, false, true);
    assert_int_equal(plan->n_rows, 10);
    assert_false(plan->slices[1].opened);
    sched_commit(b.sched);
    for (uint32_t i = 0; i < 3; i++) {
        plan = sched_plan(b.sched);
        assert_int_equal(plan->n_slices, 3);
        expect_slice(plan, 0, 1, 5 + i, 1, true, true);
        expect_slice(plan, 1, 2, 13 + i, 1, true, true);
        expect_slice(plan, 2, 3, 2 + i, 1, true, true);
        sched_commit(b.sched);
    }
    /* Sequence 1 drew its fifth token after row 7; it has no further row. */
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 2, 16, 1, true, true);
    expect_slice(plan, 1, 3, 5, 1, true, true);
    sched_commit(b.sched);
    assert_int_equal(sched_plan(b.sched)->n_slices, 0);
    for (uint64_t id = 1; id <= 3; id++)
        assert_true(sched_remove(b.sched, id));
    assert_false(sched_remove(b.sched, 2));
    assert_int_equal(kv_pages_free(b.kv), 100);
    bench_free(&b);
}

static void test_chunk_and_outputs(void **state)
{
    (void)state;
    struct bench b = bench_of(100, &normal);
    struct sched_request request = {.id = 9, .n_prompt = 20, .chunk = 3};
    struct error err = {0};
    assert_ok(sched_add(b.sched, &request, &err), &err);
    request = (struct sched_request){.id = 10, .n_prompt = 9, .all_outputs = true};
    assert_ok(sched_add(b.sched, &request, &err), &err);
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 9, 0, 3, false, false);
    expect_slice(plan, 1, 10, 0, 6, false, false); /* max_outputs */
    assert_true(plan->slices[1].all_outputs);
    sched_commit(b.sched);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 9, 3, 3, false, false);
    expect_slice(plan, 1, 10, 6, 3, false, true);
    bench_free(&b);
}

static void test_alignment(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.alignment = 4;
    config.max_outputs = 10;
    struct bench b = bench_of(100, &config);
    struct sched_request request = {.id = 1, .n_prompt = 11, .chunk = 3, .n_generate = 2};
    struct error err = {0};
    assert_ok(sched_add(b.sched, &request, &err), &err);
    add(&b, 2, 40, 1);
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 0, 4, false, false); /* a smaller chunk could not end anywhere */
    expect_slice(plan, 1, 2, 0, 4, false, false); /* 6 rows of budget, 4 on the grid */
    sched_commit(b.sched);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 4, 4, false, false);
    sched_commit(b.sched);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 8, 3, false, true); /* the prompt's end needs no alignment */
    sched_commit(b.sched);
    bench_free(&b);
}

static void test_admission_is_conservative_and_in_order(void **state)
{
    (void)state;
    struct bench b = bench_of(10, &normal); /* 40 positions */
    add(&b, 1, 4, 21);                      /* 24 rows: 6 pages */
    add(&b, 2, 20, 1);                      /* 5 pages: not beside the first */
    add(&b, 3, 4, 1);                       /* 1 page, but it must not overtake */
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    assert_int_equal(sched_running(b.sched), 1);
    assert_int_equal(sched_waiting(b.sched), 2);
    sched_commit(b.sched);
    assert_true(sched_remove(b.sched, 1));
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 2, 0, 10, false, false);
    assert_int_equal(sched_running(b.sched), 2);
    sched_commit(b.sched);
    assert_true(sched_remove(b.sched, 3)); /* admitted, never opened */
    assert_true(sched_remove(b.sched, 2));
    assert_int_equal(kv_pages_free(b.kv), 10);
    bench_free(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    struct bench b = bench_of(10, &normal);
    struct error err;
    struct sched_request request = {.id = 1, .n_prompt = 0};
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_USAGE);
    request.n_prompt = 257;
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_LIMIT);
    assert_non_null(strstr(err.message, "256"));
    request.n_prompt = 200;
    request.n_generate = UINT32_MAX;
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_LIMIT);
    request.n_generate = 0;
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_LIMIT); /* 50 pages */
    assert_non_null(strstr(err.message, "pool"));
    for (uint64_t id = 1; id <= 4; id++)
        add(&b, id, 4, 1);
    request = (struct sched_request){.id = 4, .n_prompt = 4};
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_USAGE);
    request.id = 5;
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_LIMIT);
    assert_non_null(strstr(err.message, "queue"));
    assert_true(sched_remove(b.sched, 2));
    assert_ok(sched_add(b.sched, &request, &err), &err);
    bench_free(&b);
}

static void test_pause(void **state)
{
    (void)state;
    struct bench b = bench_of(20, &normal);
    add(&b, 1, 4, 9);
    add(&b, 2, 4, 9);
    sched_plan(b.sched);
    sched_commit(b.sched);
    assert_true(sched_pause(b.sched, 1, true));
    assert_false(sched_pause(b.sched, 7, true));
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    expect_slice(plan, 0, 2, 4, 1, true, true);
    sched_commit(b.sched);
    assert_true(sched_pause(b.sched, 1, false));
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 4, 1, true, true);
    expect_slice(plan, 1, 2, 5, 1, true, true);
    sched_commit(b.sched);
    bench_free(&b);
}

static void test_tight_limits_are_refused(void **state)
{
    (void)state;
    struct bench b = bench_of(20, &normal);
    struct sched *sched;
    struct error err;
    struct sched_config config = normal;
    config.max_rows = 2;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    config = normal;
    config.max_outputs = 2;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    config = normal;
    config.max_writes = (uint32_t)sched_least_writes(b.kv, 3, 1) - 1;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    assert_null(sched);
    sched_free(NULL);
    bench_free(&b);
}

/* The last case of one step: the plan is made, and one of its sequences is removed before commit. */
static void test_remove_between_plan_and_commit(void **state)
{
    (void)state;
    struct bench b = bench_of(20, &normal);
    add(&b, 1, 4, 9);
    add(&b, 2, 4, 9);
    assert_int_equal(sched_plan(b.sched)->n_slices, 2);
    assert_true(sched_remove(b.sched, 1));
    sched_commit(b.sched);
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    expect_slice(plan, 0, 2, 4, 1, true, true);
    bench_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generated_first_then_oldest_prompt),
        cmocka_unit_test(test_chunk_and_outputs),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_admission_is_conservative_and_in_order),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_tight_limits_are_refused),
        cmocka_unit_test(test_remove_between_plan_and_commit),
    };
    return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
