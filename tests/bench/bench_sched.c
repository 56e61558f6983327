/*
 * What a step of the scheduler costs, without a backend: nanoseconds of sched_plan() + sched_commit()
 * and of the tokens becoming known, in crowds of generating sequences, with prompts coming and going
 * beside them, and with a long queue. The scheduler's files allocate in *_create() only; the engine's
 * own test counts allocations over whole steps.
 *
 *   bench_sched [STEPS]     one line per case: median and 99th percentile, in microseconds
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sched/sched.h"

#define SLOTS   512
#define CONTEXT 8192
#define MOST    4096 /* sequences, running and waiting */

struct sequence {
    struct kv_chain chain;
    int32_t *tokens;
    struct kv_key *keys;
};

static struct sequence sequences[MOST + 1]; /* by id */

static void fill(uint64_t id, uint32_t n_prompt, uint32_t shared)
{
    struct sequence *s = &sequences[id];
    if (!s->tokens) {
        s->tokens = calloc(CONTEXT, sizeof *s->tokens);
        s->keys = calloc(CONTEXT, sizeof *s->keys);
    }
    if (!s->tokens || !s->keys)
        exit(7);
    for (uint32_t i = 0; i < n_prompt; i++)
        s->tokens[i] = (int32_t)(i + (i < shared ? 0 : 100000 * id));
    s->chain = (struct kv_chain){
        .tokens = s->tokens, .keys = s->keys, .n_tokens = n_prompt, .n_prompt = n_prompt};
}

static void add(struct sched *sched, uint64_t id, uint32_t n_prompt, uint32_t shared)
{
    struct error err = {0};
    fill(id, n_prompt, shared);
    struct sched_request request = {
        .id = id, .chain = &sequences[id].chain, .n_generate = 6000, .key = id % 7};
    if (sched_add(sched, &request, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

static void step(struct sched *sched)
{
    const struct sched_plan *plan = sched_plan(sched);
    for (uint32_t i = 0; i < plan->n_slices; i++)
        if (plan->slices[i].last) {
            struct kv_chain *c = &sequences[plan->slices[i].id].chain;
            sequences[plan->slices[i].id].tokens[c->n_tokens++] = 7;
        }
    sched_commit(sched);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Three groups: unlimited, windowed, recurrent: the most work a real model gives. */
static void run_case(const char *name, uint32_t n_groups, uint32_t n_running, uint32_t n_waiting,
                     bool prompts, uint32_t n_steps)
{
    struct kv_config config = {
        .n_pages = 300000,
        .n_slots = SLOTS,
        .n_groups = n_groups,
        .max_extend = 1024,
        .checkpoint_pages = 4000,
        .groups = {{.tokens_per_page = 32, .max_pages = CONTEXT / 32},
                   {.tokens_per_page = 32, .window = 1024, .max_pages = CONTEXT / 32},
                   {.fixed_pages = 4, .max_pages = 4}},
    };
    struct sched_config limits = {.n_slots = SLOTS,
                                  .max_rows = 1024,
                                  .max_outputs = 1024,
                                  .max_writes = 20000,
                                  .max_copies = 2000,
                                  .max_queued = MOST,
                                  .max_context = CONTEXT,
                                  .alignment = 1};
    struct kv *kv;
    struct sched *sched;
    struct error err = {0};
    if (kv_create(&config, &kv, &err) != STATUS_OK ||
        sched_create(&limits, kv, &sched, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    uint64_t next = 1, oldest = 1;
    for (; next <= n_running; next++)
        add(sched, next, 100, 64);
    while (sched_waiting(sched))
        step(sched);
    for (; next <= n_running + n_waiting; next++)
        add(sched, next, 500, 64);
    uint64_t *ns = calloc(n_steps, sizeof *ns);
    for (uint32_t i = 0; i < n_steps && ns; i++) {
        if (prompts && i % 8 == 0) { /* one leaves, one comes with a cached beginning */
            sched_remove(sched, oldest++);
            add(sched, next < MOST ? next++ : MOST, 400, 320);
        }
        uint64_t begin = clock_now_ns();
        step(sched);
        ns[i] = clock_now_ns() - begin;
    }
    qsort(ns, n_steps, sizeof *ns, by_value);
    printf("%-44s %8.1f %8.1f\n", name, (double)ns[n_steps / 2] * 1e-3,
           (double)ns[n_steps / 100 * 99] * 1e-3);
    free(ns);
    sched_free(sched);
    kv_free(kv);
}

int main(int argc, char **argv)
{
    uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 2000;
    n = n < 100 ? 100 : n > 5000 ? 5000 : n;
    printf("%-44s %8s %8s\n", "microseconds per step", "median", "p99");
    run_case("512 generate, one group", 1, 512, 0, false, n);
    run_case("512 generate, three groups", 3, 512, 0, false, n);
    run_case("512 generate, 1,024 more wait", 3, 512, 1024, false, n);
    run_case("504 generate, prompts come and go", 3, 504, 0, true, n);
    return 0;
}
