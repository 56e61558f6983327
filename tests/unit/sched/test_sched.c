/* The batching policy on plain integers: order, budgets, sharing, admission, preemption, forks,
 * priorities, fair shares, refusals. tests/sched/ walks it at random. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "kv_check.h"
#include "sched/sched.h"

#define LIVE   64
#define TOKENS 1200

struct sequence {
    int32_t tokens[TOKENS];
    struct kv_key keys[TOKENS];
    struct kv_chain chain;
};

struct bench {
    struct kv *kv;
    struct sched *sched;
    struct sequence *sequences;                /* by id */
    uint64_t ns_generated, ns_prompts, ns_row; /* how long steps take; 0: not told.
                                                   ns_prompts: what any rows of prompts cost more */
    uint32_t together;                         /* rows of prompts, of which fewer take as long */
};

static struct error err;

static const struct sched_config normal = {
    .n_slots = 3,
    .max_rows = 10,
    .max_outputs = 6,
    .max_writes = 256,
    .max_copies = 64,
    .max_queued = 40,
    .max_context = TOKENS,
    .alignment = 1,
};

static struct bench bench_of(uint32_t n_pages, const struct sched_config *config)
{
    struct kv_config kv_config = {
        .n_pages = n_pages,
        .n_slots = config->n_slots,
        .n_groups = 1,
        .max_extend = config->max_rows,
        .groups = {{.tokens_per_page = 4, .max_pages = (config->max_context + 3) / 4}},
    };
    struct sched_config c = *config;
    struct bench b = {.sequences = calloc(LIVE, sizeof *b.sequences)};
    assert_ok(kv_create(&kv_config, &b.kv, &err), &err);
    c.max_writes += (uint32_t)sched_least_writes(b.kv, c.n_slots, c.alignment);
    assert_ok(sched_create(&c, b.kv, &b.sched, &err), &err);
    return b;
}

static void bench_free(struct bench *b)
{
    assert_true(kv_check(b->kv, &err));
    sched_free(b->sched);
    kv_free(b->kv);
    free(b->sequences);
}

/* A request for n_prompt tokens, of which the first `shared` are everybody's. */
static struct sched_request request_of(struct bench *b, uint64_t id, uint32_t n_prompt,
                                       uint32_t n_generate, uint32_t shared)
{
    struct sequence *s = &b->sequences[id];
    assert_true(id < LIVE && n_prompt < TOKENS);
    for (uint32_t i = 0; i < n_prompt; i++)
        s->tokens[i] = (int32_t)(i + (i >= shared ? 10000 * id : 0));
    s->chain = (struct kv_chain){
        .tokens = s->tokens, .keys = s->keys, .n_tokens = n_prompt, .n_prompt = n_prompt};
    return (struct sched_request){.id = id, .chain = &s->chain, .n_generate = n_generate};
}

static void add(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t n_generate)
{
    struct sched_request request = request_of(b, id, n_prompt, n_generate, 0);
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

static const struct sched_slice *slice_of(const struct sched_plan *plan, uint64_t id)
{
    for (uint32_t i = 0; i < plan->n_slices; i++)
        if (plan->slices[i].id == id)
            return &plan->slices[i];
    return NULL;
}

/* Runs the plan: draws tokens, tells the time. Returns the step's rows of prompts. */
static uint32_t finish(struct bench *b, const struct sched_plan *plan)
{
    uint32_t n_prompt = plan->n_rows - plan->n_generated;
    for (uint32_t i = 0; i < plan->n_slices; i++)
        if (plan->slices[i].last) {
            struct kv_chain *c = &b->sequences[plan->slices[i].id].chain;
            b->sequences[plan->slices[i].id].tokens[c->n_tokens++] = 77;
        }
    sched_commit(b->sched);
    uint32_t together = b->together ? b->together : 1;
    uint64_t rows = (n_prompt + together - 1) / together * together;
    if (b->ns_row)
        sched_measure(b->sched, plan->n_generated, n_prompt,
                      (plan->n_generated ? b->ns_generated : 0) + (n_prompt ? b->ns_prompts : 0) +
                          rows * b->ns_row);
    return n_prompt;
}

static void run_steps(struct bench *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        finish(b, sched_plan(b->sched));
}

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

/* ---- budget ----------------------------------------------------------------------------------- */

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
        cmocka_unit_test(test_gap_while_streams_outnumber_prompts),
        cmocka_unit_test(test_gap_while_prompts_outnumber_streams),
        cmocka_unit_test(test_price_of_having_prompts),
        cmocka_unit_test(test_rows_computed_together),
        cmocka_unit_test(test_scattered_times),
        cmocka_unit_test(test_warm_turn_overtakes_a_cold_prompt),
        cmocka_unit_test(test_cold_prompt_holds_up_no_warm_turn),
        cmocka_unit_test(test_endless_turns_leave_a_share),
        cmocka_unit_test(test_equal_prompts_one_after_the_other),
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
