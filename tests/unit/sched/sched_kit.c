#include "sched_kit.h"

#include <stdlib.h>

#include "fixture.h"
#include "kv_check.h"

struct error err;

const struct sched_config normal = {
    .n_slots = 3,
    .max_rows = 10,
    .max_outputs = 6,
    .max_writes = 256,
    .max_copies = 64,
    .max_queued = 40,
    .max_context = TOKENS,
    .alignment = 1,
};

struct bench bench_of(uint32_t n_pages, const struct sched_config *config)
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

void bench_free(struct bench *b)
{
    assert_true(kv_check(b->kv, &err));
    sched_free(b->sched);
    kv_free(b->kv);
    free(b->sequences);
}

struct sched_request request_of(struct bench *b, uint64_t id, uint32_t n_prompt,
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

void add(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t n_generate)
{
    struct sched_request request = request_of(b, id, n_prompt, n_generate, 0);
    assert_ok(sched_add(b->sched, &request, &err), &err);
}

void expect_slice(const struct sched_plan *plan, uint32_t i, uint64_t id, uint32_t first,
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

const struct sched_slice *slice_of(const struct sched_plan *plan, uint64_t id)
{
    for (uint32_t i = 0; i < plan->n_slices; i++)
        if (plan->slices[i].id == id)
            return &plan->slices[i];
    return NULL;
}

uint32_t finish(struct bench *b, const struct sched_plan *plan)
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

void run_steps(struct bench *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        finish(b, sched_plan(b->sched));
}
