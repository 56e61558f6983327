/* How many rows prompts get beside generated ones, by what steps take, and who gets them over many
 * steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "sched_kit.h"

/* Eight streams and one long prompt: a step takes at most twice what it takes without the prompt. */
static void test_gap_while_streams_outnumber_prompts(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 12;
    config.max_rows = config.max_outputs = 512;
    struct bench b = bench_of(4000, &config);
    b.ns_generated = 60000000; /* 60 ms */
    b.ns_row = 4000000;        /* 4 ms */
    for (uint64_t id = 1; id <= 8; id++)
        add(&b, id, 10, 500);
    run_steps(&b, 20);
    add(&b, 20, 1000, 5);
    uint32_t steps = 0, left = 1000, alone = 0;
    while (left && steps < 300) {
        const struct sched_plan *plan = sched_plan(b.sched);
        assert_int_equal(plan->n_generated, 8);
        uint32_t rows = finish(&b, plan);
        assert_true(rows * b.ns_row <= b.ns_generated);
        alone += rows == 0;
        left -= rows;
        steps++;
    }
    assert_true(steps < 1000 / 12 && alone <= 2); /* and most of the allowance is used */
    bench_free(&b);
}

/* One stream among many prompts: 80 % of a step, but no gap beyond 250 ms. */
static void test_gap_while_prompts_outnumber_streams(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 12;
    config.max_rows = config.max_outputs = 512;
    static const struct {
        uint64_t generated, most;
    } cases[] = {{30000000, 150000000}, {100000000, 250000000}, {400000000, 500000000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bench b = bench_of(4000, &config);
        b.ns_generated = cases[i].generated;
        b.ns_row = 2000000;
        add(&b, 1, 10, 500);
        run_steps(&b, 10);
        for (uint64_t id = 2; id <= 4; id++)
            add(&b, id, 600, 5);
        uint64_t longest = 0;
        for (int j = 0; j < 8; j++) {
            uint64_t ns = b.ns_generated + finish(&b, sched_plan(b.sched)) * b.ns_row;
            longest = ns > longest ? ns : longest;
        }
        assert_true(longest <= cases[i].most);
        assert_true(longest >= cases[i].most / 100 * 85);
        bench_free(&b);
    }
}

/* Where having prompts at all has a price, as on processors that unpack weights for them, it is not
 * taken for a price of rows: chunks stay as long as they may be. */
static void test_price_of_having_prompts(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 12;
    config.max_rows = config.max_outputs = 512;
    struct bench b = bench_of(4000, &config);
    b.ns_generated = 60000000;
    b.ns_prompts = 45000000;
    b.ns_row = 1000000;
    add(&b, 1, 10, 900);
    run_steps(&b, 10);
    add(&b, 2, 60, 1); /* chunks of two lengths */
    run_steps(&b, 5);
    for (uint64_t id = 3; id <= 8; id++)
        add(&b, id, 600, 1);
    for (int i = 0; i < 20; i++) {
        uint64_t rows = finish(&b, sched_plan(b.sched));
        uint64_t ns = b.ns_generated + b.ns_prompts + rows * b.ns_row;
        assert_true(ns <= 250000000 && (i < 8 || rows >= 130)); /* 145 fit */
    }
    bench_free(&b);
}

/* Rows computed 16 at once: prompts get whole sixteens, and one at least, also where the price of having
 * any leaves no room for a row beside those who generate. */
static void test_rows_computed_together(void **state)
{
    (void)state;
    for (uint64_t price = 5; price <= 65; price += 10) {
        struct sched_config config = normal;
        config.n_slots = 12;
        config.max_rows = config.max_outputs = 512;
        config.rows_together = 16;
        struct bench b = bench_of(4000, &config);
        b.ns_generated = 60000000;
        b.ns_row = 1000000;
        b.ns_prompts = price * 1000000;
        b.together = 16;
        for (uint64_t id = 1; id <= 4; id++)
            add(&b, id, 100, 900);
        run_steps(&b, 40);
        add(&b, 5, 900, 1);
        run_steps(&b, 6);
        for (int step = 0; step < 6; step++) {
            uint32_t rows = finish(&b, sched_plan(b.sched));
            assert_true(rows >= 16 && rows % 16 == 0);
            assert_true(rows == 16 || price + rows <= 60);
        }
        bench_free(&b);
    }
}

/* Times that scatter by a fifth, chunks of nearly one length, now and then a step that takes twice as
 * long, then a slower machine: none of it is taken for a price that leaves no room for rows. */
static void test_scattered_times(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 12;
    config.max_rows = config.max_outputs = 512;
    struct bench b = bench_of(4000, &config);
    uint64_t random = 1;
    b.ns_generated = 100000000;
    b.ns_row = 6000000;
    for (uint64_t id = 1; id <= 3; id++)
        add(&b, id, 10, 900);
    run_steps(&b, 5);
    for (uint64_t id = 4; id <= 13; id++) /* more than the steps below can compute */
        add(&b, id, 900, 1);
    uint32_t least[2] = {UINT32_MAX, UINT32_MAX};
    uint64_t longest[2] = {0, 0};
    for (uint32_t step = 0; step < 300; step++) {
        uint64_t slow = step < 150 ? 100 : 130;
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t percent = slow * (80 + (random >> 33) % 41) / 100 * (step % 37 == 36 ? 2 : 1);
        b.ns_generated = 1000000 * percent;
        b.ns_prompts = 300000 * percent;
        b.ns_row = 60000 * percent;
        uint32_t rows = finish(&b, sched_plan(b.sched)), part = step >= 150;
        uint64_t usual = (130 + 6 * rows) * slow / 100; /* what was planned */
        if (step % 150 < 20 || rows == 0)
            continue;
        least[part] = rows < least[part] ? rows : least[part];
        longest[part] = usual > longest[part] ? usual : longest[part];
    }
    for (int part = 0; part < 2; part++)
        printf("the shortest chunk has %u rows of %d, the longest step takes %u ms of 250\n",
               least[part], part ? 10 : 20, (uint32_t)longest[part]);
    assert_true(least[0] >= 12 && least[1] >= 4 && longest[0] < 300 && longest[1] < 300);
    bench_free(&b);
}

/* A warm turn arrives while a cold prompt is being computed: it is next. */
static void test_warm_turn_overtakes_a_cold_prompt(void **state)
{
    (void)state;
    struct bench b = bench_of(2000, &normal);
    struct sched_request request = request_of(&b, 1, 400, 1, 400);
    assert_ok(sched_add(b.sched, &request, &err), &err);
    run_steps(&b, 40);
    assert_true(sched_remove(b.sched, 1));
    add(&b, 2, 1100, 5);
    run_steps(&b, 5);
    request = request_of(&b, 3, 420, 5, 400); /* 20 rows on a cached 400 */
    assert_ok(sched_add(b.sched, &request, &err), &err);
    const struct sched_plan *plan = sched_plan(b.sched);
    expect_slice(plan, 0, 3, 400, 10, false, false);
    assert_int_equal(plan->slices[0].cached, 400);
    assert_int_equal(plan->n_slices, 1);
    finish(&b, plan);
    plan = sched_plan(b.sched);
    expect_slice(plan, 0, 3, 410, 10, false, true);
    bench_free(&b);
}

#define COLD 100000

/* A prompt of 100,000 tokens holds up nobody, however far it is: 31 turns of 200 new tokens on a cached
 * history come together, again and again, and meanwhile it gets what is left of one step. */
static void test_cold_prompt_holds_up_no_warm_turn(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 40;
    config.max_rows = config.max_outputs = 512;
    config.max_context = COLD + 8;
    config.max_writes = 60000;
    struct bench b = bench_of(40000, &config);
    static int32_t tokens[COLD + 8];
    static struct kv_key keys[COLD];
    struct sched_request request = request_of(&b, 1, 1000, 1, 1000);
    assert_ok(sched_add(b.sched, &request, &err), &err);
    run_steps(&b, 2);
    assert_true(sched_remove(b.sched, 1));
    for (int32_t i = 0; i < COLD; i++)
        tokens[i] = -1 - i;
    struct kv_chain *cold = &b.sequences[50].chain;
    *cold = (struct kv_chain){.tokens = tokens, .keys = keys, .n_tokens = COLD, .n_prompt = COLD};
    request = (struct sched_request){.id = 50, .chain = cold, .n_generate = 1};
    assert_ok(sched_add(b.sched, &request, &err), &err);
    uint32_t done = 0;
    for (uint32_t part = 1; part <= 20 && done < COLD; part++) {
        uint32_t left = 31, meanwhile = 0;
        for (uint64_t id = 2; id < 2 + left; id++) {
            request = request_of(&b, id, 1199, 1, 1000);
            assert_ok(sched_add(b.sched, &request, &err), &err);
        }
        while (left) {
            const struct sched_plan *plan = sched_plan(b.sched);
            assert_true(plan->n_slices > 0);
            for (uint32_t i = 0; i < plan->n_slices; i++)
                meanwhile += plan->slices[i].id == 50 ? plan->slices[i].n_rows : 0;
            for (uint32_t i = 0; i < plan->n_slices; i++)
                if (plan->slices[i].last && plan->slices[i].id != 50) {
                    assert_true(sched_remove(b.sched, plan->slices[i].id));
                    left--;
                }
            sched_commit(b.sched);
        }
        assert_true(meanwhile < config.max_rows);
        for (done += meanwhile; done < part * (COLD / 20);) {
            const struct sched_plan *plan = sched_plan(b.sched);
            done += plan->n_rows;
            sched_commit(b.sched);
        }
    }
    bench_free(&b);
}

/* Nor do turns that never end hold up a long prompt for ever: once it has waited long, it gets a share
 * beside them. */
static void test_endless_turns_leave_a_share(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 4;
    struct bench b = bench_of(1000, &config);
    add(&b, 1, 1000, 1);
    uint32_t rows = 0, others = 0, in_a_row = 0, longest = 0;
    for (uint64_t next = 2; rows < 1000 && others < 20000; next = next == LIVE - 1 ? 2 : next + 1) {
        add(&b, next, 20, 1); /* nobody's tokens are another's */
        for (bool over = false; !over && rows < 1000;) {
            const struct sched_plan *plan = sched_plan(b.sched);
            uint32_t mine = 0;
            for (uint32_t i = 0; i < plan->n_slices; i++) {
                mine += plan->slices[i].id == 1 ? plan->slices[i].n_rows : 0;
                over |= plan->slices[i].id == next && plan->slices[i].last;
            }
            rows += mine;
            others += plan->n_rows - mine;
            in_a_row = mine == plan->n_rows ? in_a_row + mine : 0;
            longest = in_a_row > longest ? in_a_row : longest;
            sched_commit(b.sched);
        }
        assert_true(rows >= 1000 || sched_remove(b.sched, next));
    }
    assert_true(rows >= 1000 && others > 1000);
    assert_true(longest <= 200); /* not all at once, either */
    bench_free(&b);
}

/* Many prompts of one length at once: one after the other, so that half of them are there when half of
 * the rows are computed. */
static void test_equal_prompts_one_after_the_other(void **state)
{
    (void)state;
    struct sched_config config = normal;
    config.n_slots = 32;
    config.max_rows = config.max_outputs = 64;
    struct bench b = bench_of(4000, &config);
    for (uint64_t id = 1; id <= 32; id++)
        add(&b, id, 190, 1);
    uint32_t rows = 0, there = 0;
    while (there < 16) {
        const struct sched_plan *plan = sched_plan(b.sched);
        rows += plan->n_rows;
        for (uint32_t i = 0; i < plan->n_slices; i++)
            there += plan->slices[i].last;
        sched_commit(b.sched);
    }
    assert_true(rows <= 17 * 190);
    bench_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gap_while_streams_outnumber_prompts),
        cmocka_unit_test(test_gap_while_prompts_outnumber_streams),
        cmocka_unit_test(test_price_of_having_prompts),
        cmocka_unit_test(test_rows_computed_together),
        cmocka_unit_test(test_scattered_times),
        cmocka_unit_test(test_warm_turn_overtakes_a_cold_prompt),
        cmocka_unit_test(test_cold_prompt_holds_up_no_warm_turn),
        cmocka_unit_test(test_endless_turns_leave_a_share),
        cmocka_unit_test(test_equal_prompts_one_after_the_other),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
