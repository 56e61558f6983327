/*
 * A scheduler with sequences and a clock of the test's own, for tests of the batching policy. A test that
 * cannot go on fails at once.
 */
#ifndef SLUICE_TESTS_SCHED_KIT_H
#define SLUICE_TESTS_SCHED_KIT_H

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

extern struct error err; /* of the last call that failed */
/* Three slots, steps of ten rows. */
extern const struct sched_config normal;

/* Pages of four tokens; max_writes is raised to what the scheduler asks for. */
struct bench bench_of(uint32_t n_pages, const struct sched_config *config);
/* Checks what kv knows of itself, too. */
void bench_free(struct bench *b);
/* A request for n_prompt tokens, of which the first `shared` are everybody's. id: below LIVE. */
struct sched_request request_of(struct bench *b, uint64_t id, uint32_t n_prompt,
                                uint32_t n_generate, uint32_t shared);
void add(struct bench *b, uint64_t id, uint32_t n_prompt, uint32_t n_generate);
void expect_slice(const struct sched_plan *plan, uint32_t i, uint64_t id, uint32_t first,
                  uint32_t rows, bool generated, bool last);
/* NULL: the plan has none of that sequence. */
const struct sched_slice *slice_of(const struct sched_plan *plan, uint64_t id);
/* Runs the plan: draws tokens, tells the time. Returns the step's rows of prompts. */
uint32_t finish(struct bench *b, const struct sched_plan *plan);
void run_steps(struct bench *b, uint32_t n);

#endif
