/* The batching policy on plain integers: order, sharing, admission, preemption, forks, priorities, fair
 * shares, refusals. test_budget.c has what depends on time; tests/sched/ walks all of it at random. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "sched_kit.h"

/* ---- order ------------------------------------------------------------------------------------ */

static void test_generated_first_then_shortest_prompt(void **state)
{
    (void)state;
    struct bench b = bench_of(100, &normal);
    assert_int_equal(sched_plan(b.sched)->n_slices, 0);
    add(&b, 1, 4, 5);
    add(&b, 2, 13, 5);
    add(&b, 3, 2, 5);
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 3);
    expect_slice(plan, 0, 3, 0, 2, false, true);
    expect_slice(plan, 1, 1, 0, 4, false, true);
    expect_slice(plan, 2, 2, 0, 4, false, false);
    assert_true(plan->slices[0].opened);
    assert_int_equal(plan->n_rows, 10);
    finish(&b, plan);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 4, 1, true, true); /* by age */
    expect_slice(plan, 1, 3, 2, 1, true, true);
    expect_slice(plan, 2, 2, 4, 8, false, false);
    assert_int_equal(plan->n_generated, 2);
    assert_false(plan->slices[1].opened);
    finish(&b, plan);
    run_steps(&b, 3);
    /* Sequence 1 drew its fifth token after row 7; it has no further row. */
    plan = sched_plan(b.sched);
    assert_null(slice_of(plan, 1));
    assert_null(slice_of(plan, 3));
    expect_slice(plan, 0, 2, 15, 1, true, true);
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
    struct sched_request request = request_of(&b, 9, 20, 0, 0);
    request.chunk = 3;
    assert_ok(sched_add(b.sched, &request, &err), &err);
    request = request_of(&b, 10, 9, 0, 0);
    request.all_outputs = true;
    assert_ok(sched_add(b.sched, &request, &err), &err);
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 10, 0, 6, false, false); /* max_outputs */
    assert_true(plan->slices[0].all_outputs);
    assert_int_equal(plan->n_slices, 1);
    finish(&b, plan);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 10, 6, 3, false, true);
    expect_slice(plan, 1, 9, 0, 3, false, false);
    bench_free(&b);
}

static void test_alignment(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.alignment = 4;
    config.max_outputs = 10;
    struct bench b = bench_of(100, &config);
    struct sched_request request = request_of(&b, 1, 11, 2, 0);
    request.chunk = 3;
    assert_ok(sched_add(b.sched, &request, &err), &err);
    add(&b, 2, 40, 1);
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 0, 4, false, false); /* a smaller chunk could not end anywhere */
    expect_slice(plan, 1, 2, 0, 4, false, false); /* 6 rows of budget, 4 on the grid */
    finish(&b, plan);
    finish(&b, sched_plan(b.sched));
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 8, 3, false, true); /* the prompt's end needs no alignment */
    bench_free(&b);
}

/* A long prompt is overtaken again and again, but not for ever. */
static void test_ageing(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 1;
    struct bench b = bench_of(1000, &config);
    add(&b, 1, 100, 1);
    uint32_t overtaken = 0;
    for (uint64_t id = 2; id < LIVE; id++) {
        add(&b, id, 20, 1);
        uint64_t ran = 0;
        while (!ran) {
            const struct sched_plan *plan = sched_plan(b.sched);
            ran = plan->slices[0].id;
            finish(&b, plan);
        }
        if (ran == 1)
            break;
        run_steps(&b, 1);
        assert_true(sched_remove(b.sched, ran));
        overtaken++;
    }
    assert_true(overtaken >= 7 &&
                overtaken <= 12); /* 80 rows of difference, half of 20 each time */
    bench_free(&b);
}

static void test_priority_and_fair_share(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 1;
    struct bench b = bench_of(1000, &config);
    /* They alternate, once what key 5 got by its priority is made up for. */
    for (uint64_t id = 1; id <= 8; id++) {
        struct sched_request request = request_of(&b, id, 8, 1, 0);
        request.key = id <= 4 ? 5 : 6;
        assert_ok(sched_add(b.sched, &request, &err), &err);
    }
    struct sched_request request = request_of(&b, 20, 9, 1, 0);
    request.priority = -1;
    request.key = 5;
    assert_ok(sched_add(b.sched, &request, &err), &err);
    static const uint64_t keys[] = {0, 6, 6, 5, 6, 5, 6, 5, 5};
    for (int i = 0; i < 9; i++) {
        const struct sched_plan *plan = sched_plan(b.sched);
        uint64_t id = plan->slices[0].id;
        assert_int_equal(id == 20 ? 0 : id <= 4 ? 5 : 6, keys[i]);
        finish(&b, plan);
        assert_true(sched_remove(b.sched, id));
    }
    bench_free(&b);
}

/* ---- sharing ---------------------------------------------------------------------------------- */

/* 32 agents with one system prompt, all at once: it is computed once. */
static void test_agents_arrive_together(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 32;
    config.max_rows = config.max_outputs = 64;
    config.max_writes = 20000;
    struct bench b = bench_of(3000, &config);
    for (uint64_t id = 1; id <= 32; id++) {
        struct sched_request request = request_of(&b, id, 1000 + (uint32_t)id % 7, 20, 996);
        assert_ok(sched_add(b.sched, &request, &err), &err);
    }
    uint64_t rows = 0;
    for (int i = 0; i < 200; i++)
        rows += finish(&b, sched_plan(b.sched));
    /* 1,000 tokens once, then at most a page and the own end for each of the others. */
    printf("32 agents, 1,000 tokens shared: %llu prompt rows computed\n", (unsigned long long)rows);
    assert_true(rows <= 1000 + 7 + 31 * 11);
    assert_true(rows - 1000 < 31 * 1000 / 20);
    assert_int_equal(sched_running(b.sched), 32);
    bench_free(&b);
}

static void test_fork(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 4;
    config.max_outputs = 8;
    struct bench b = bench_of(100, &config);
    add(&b, 1, 13, 5);
    for (uint64_t id = 2; id <= 5; id++) {
        struct sched_request request = request_of(&b, id, 13, 5, 0);
        request.parent = 1;
        memcpy(b.sequences[id].tokens, b.sequences[1].tokens, sizeof b.sequences[id].tokens);
        assert_ok(sched_add(b.sched, &request, &err), &err);
    }
    finish(&b, sched_plan(b.sched)); /* 10 rows; the children do not compute the same */
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 10, 3, false, true);
    for (uint32_t i = 1; i < 4; i++) {
        expect_slice(plan, i, i + 1, 13, 0, false, true);
        assert_int_equal(plan->slices[i].fork_of, 0);
    }
    assert_int_equal(plan->n_slices, 4); /* the fifth has no slot */
    finish(&b, plan);
    plan = sched_plan(b.sched);
    assert_int_equal(plan->n_generated, 4);
    assert_int_equal(plan->changes.n_copies, 3); /* the last to write owns the page */
    finish(&b, plan);
    assert_true(sched_remove(b.sched, 1));
    plan = sched_plan(b.sched);
    expect_slice(plan, 3, 5, 12, 1, false, true); /* from the index */
    finish(&b, plan);
    bench_free(&b);
}

/* ---- memory ----------------------------------------------------------------------------------- */

static void test_admission_by_pages(void **state)
{
    (void)state;
    struct bench b = bench_of(10, &normal); /* 40 positions */
    add(&b, 1, 20, 1);
    add(&b, 2, 24, 1); /* not beside the first, and nobody behind it may take its place */
    add(&b, 3, 30, 1);
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    assert_int_equal(sched_running(b.sched), 1);
    assert_int_equal(sched_waiting(b.sched), 2);
    finish(&b, plan);
    finish(&b, sched_plan(b.sched));
    assert_true(sched_remove(b.sched, 1));
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 2, 0, 10, false, false);
    assert_int_equal(plan->n_slices, 1);
    finish(&b, plan);
    assert_true(sched_remove(b.sched, 3));
    assert_true(sched_remove(b.sched, 2));
    assert_int_equal(kv_pages_free(b.kv), 10);
    bench_free(&b);
}

static void test_preemption(void **state)
{
    (void)state;
    struct bench b = bench_of(12, &normal); /* 48 positions */
    add(&b, 1, 10, 30);
    add(&b, 2, 10, 30);
    uint32_t seen = 0;
    bool resumed = false;
    for (int i = 0; i < 200 && (sched_running(b.sched) || sched_waiting(b.sched)); i++) {
        const struct sched_plan *plan = sched_plan(b.sched);
        assert_true(plan->n_slices > 0);
        if (sched_counters(b.sched).preemptions && !seen) {
            seen = b.sequences[2].chain.n_tokens;
            assert_non_null(slice_of(plan, 1)); /* the older one goes on */
        }
        const struct sched_slice *s = slice_of(plan, 2);
        if (seen && s && !resumed) {
            /* From what the index kept, row classes as before, without losing a token. */
            assert_true(s->opened);
            resumed = true;
        }
        if (s && s->first_position < 10)
            assert_true(s->first_position + s->n_rows <= 10 && !s->generated);
        finish(&b, plan);
        for (uint64_t id = 1; id <= 2; id++)
            if (b.sequences[id].chain.n_tokens == 40)
                sched_remove(b.sched, id);
    }
    assert_true(seen > 10 && resumed);
    assert_int_equal(sched_counters(b.sched).preemptions, 1);
    assert_int_equal(b.sequences[2].chain.n_tokens, 40);
    assert_int_equal(sched_running(b.sched), 0);
    bench_free(&b);
}

/* Sixteen answers in a pool that holds a third of them: they resume oldest first, so that each is put
 * back about once, and the oldest of those left hardly ever waits. */
static void test_no_thrash(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 16;
    config.max_rows = config.max_outputs = 64;
    struct bench b = bench_of(16 * 500 / 4 / 3, &config);
    for (uint64_t id = 1; id <= 16; id++)
        add(&b, id, 100, 400);
    uint64_t rows = 0, needed = 16 * (100 + 399), oldest = 1;
    uint32_t steps = 0, waits = 0, longest = 0;
    for (; oldest <= 16 && steps < 20000; steps++) {
        const struct sched_plan *plan = sched_plan(b.sched);
        waits = slice_of(plan, oldest) ? 0 : waits + 1;
        longest = waits > longest ? waits : longest;
        rows += plan->n_rows;
        finish(&b, plan);
        for (uint64_t id = oldest; id <= 16; id++)
            if (b.sequences[id].chain.n_tokens == 500)
                sched_remove(b.sched, id);
        while (oldest <= 16 && b.sequences[oldest].chain.n_tokens == 500)
            oldest++;
    }
    uint32_t preemptions = (uint32_t)sched_counters(b.sched).preemptions;
    printf("16 answers in a third of their pages: %u rows for %u, %u preemptions, the oldest waits "
           "for %u steps of %u\n",
           (uint32_t)rows, (uint32_t)needed, preemptions, longest, steps);
    assert_int_equal(oldest, 17);
    assert_true(preemptions >= 10 && preemptions <= 22 && longest <= 20);
    assert_true(rows < needed * 8 / 5);
    bench_free(&b);
}

static void test_priority_displaces(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 2;
    struct bench b = bench_of(100, &config);
    add(&b, 1, 4, 50);
    add(&b, 2, 4, 50);
    run_steps(&b, 5);
    add(&b, 3, 4, 50);
    run_steps(&b, 1);
    assert_int_equal(sched_counters(b.sched).preemptions, 0); /* its equals keep their slots */
    struct sched_request request = request_of(&b, 4, 4, 5, 0);
    request.priority = -1;
    assert_ok(sched_add(b.sched, &request, &err), &err);
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_non_null(slice_of(plan, 4));
    assert_non_null(slice_of(plan, 1));
    assert_null(slice_of(plan, 2)); /* the youngest */
    finish(&b, plan);
    bench_free(&b);
}

static void test_pause(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 2;
    struct bench b = bench_of(20, &config);
    add(&b, 1, 4, 9);
    add(&b, 2, 4, 9);
    finish(&b, sched_plan(b.sched));
    assert_true(sched_pause(b.sched, 1, true));
    assert_false(sched_pause(b.sched, 7, true));
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    expect_slice(plan, 0, 2, 4, 1, true, true);
    finish(&b, plan);
    assert_true(sched_pause(b.sched, 1, false));
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 1, 4, 1, true, true);
    expect_slice(plan, 1, 2, 5, 1, true, true);
    finish(&b, plan);
    /* A slot whose reader sleeps goes to who waits for one. */
    assert_true(sched_pause(b.sched, 1, true));
    add(&b, 3, 4, 9);
    plan = sched_plan(b.sched);
    assert_non_null(slice_of(plan, 3));
    assert_int_equal(sched_waiting(b.sched), 1);
    finish(&b, plan);
    bench_free(&b);
}

/* ---- refusals --------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.max_queued = 4;
    config.max_context = 256;
    struct bench b = bench_of(10, &config);
    struct sched_request request = request_of(&b, 1, 0, 0, 0);
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_USAGE);
    request = request_of(&b, 1, 257, 0, 0);
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_CONTEXT);
    assert_non_null(strstr(err.message, "256"));
    request = request_of(&b, 1, 200, UINT32_MAX, 0);
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_CONTEXT);
    request.n_generate = 0;
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_CONTEXT); /* 50 pages */
    assert_non_null(strstr(err.message, "pool"));
    add(&b, 1, 30, 1);
    add(&b, 3, 4, 1);
    add(&b, 4, 4, 1);
    add(&b, 7, 4, 1);
    request = request_of(&b, 7, 4, 0, 0);
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_USAGE);
    request = request_of(&b, 8, 4, 0, 0);
    assert_int_equal(sched_add(b.sched, &request, &err), STATUS_BUSY);
    assert_non_null(strstr(err.message, "queue"));
    assert_true(sched_remove(b.sched, 3));
    assert_ok(sched_add(b.sched, &request, &err), &err);
    bench_free(&b);
}

static void test_tight_limits_are_refused(void **state)
{
    (void)state;
    struct bench b = bench_of(20, &normal);
    struct sched *sched;
    struct sched_config config = normal;
    config.max_writes = 1000;
    config.max_rows = 2;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    config.max_rows = 10;
    config.max_outputs = 2;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    config.max_outputs = 6;
    config.max_writes = (uint32_t)sched_least_writes(b.kv, 3, 1) - 1;
    assert_int_equal(sched_create(&config, b.kv, &sched, &err), STATUS_USAGE);
    config.max_writes++;
    config.max_copies = 2;
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
    const struct sched_plan *plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 2);
    assert_true(sched_remove(b.sched, 1));
    finish(&b, plan);
    plan = sched_plan(b.sched);
    assert_int_equal(plan->n_slices, 1);
    expect_slice(plan, 0, 2, 4, 1, true, true);
    bench_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generated_first_then_shortest_prompt),
        cmocka_unit_test(test_chunk_and_outputs),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_priority_and_fair_share),
        cmocka_unit_test(test_agents_arrive_together),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_admission_by_pages),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_no_thrash),
        cmocka_unit_test(test_priority_displaces),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_tight_limits_are_refused),
        cmocka_unit_test(test_remove_between_plan_and_commit),
    };
    return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
