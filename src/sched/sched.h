/*
 * sched: who runs in the next step, and with how many rows. Integers only.
 *
 * A sequence is a prompt of known length that then grows by generated tokens. Every plan takes the
 * running sequences' next tokens first, then prompt chunks, oldest first, up to a row budget. A
 * sequence is admitted to a slot only when the pool can hold its prompt and all tokens it may still
 * generate beside what the running ones may need, so nothing admitted ever has to be put back; one
 * that can never fit is refused at once. (Prefix reuse, preemption, fairness and adaptive budgets
 * come with the crowd; they change this module and kv/, not their callers.)
 *
 * Promises, for every step: the oldest sequence that is not paused and has rows left gets at least
 * one (so nothing waits forever while readers read); each position is planned exactly once, in
 * order; the limits of sched_config hold. sched_create() refuses limits under which the first could
 * not be kept. Planning takes no memory and time in proportion to the running sequences only.
 *
 * The scheduler owns the kv bookkeeping of its slots. All calls from the engine thread.
 */
#ifndef SLUICE_SCHED_SCHED_H
#define SLUICE_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/kv.h"

struct sched_config {
    uint32_t n_slots;     /* sequences that run at once */
    uint32_t max_rows;    /* rows of a step: the token budget; >= n_slots - 1 + alignment */
    uint32_t max_slices;  /* slices of a step; >= n_slots */
    uint32_t max_outputs; /* wanted rows of a step; >= n_slots - 1 + alignment */
    uint32_t max_writes;  /* table writes of a step; >= sched_least_writes() */
    uint32_t max_queued;  /* sequences waiting for a slot */
    uint32_t max_context; /* positions of one sequence */
    uint32_t alignment;   /* chunks of a prompt end on multiples of this */
};

/* What one sequence wants. */
struct sched_request {
    uint64_t id;         /* the caller's, unique among live sequences */
    uint32_t n_prompt;   /* >= 1 */
    uint32_t n_generate; /* most tokens it may generate; 0: prompt rows only */
    bool all_outputs;    /* every prompt row is a wanted output (scoring), not only the last */
    uint32_t chunk;      /* 0: as large as the budget allows; else at most this many prompt rows */
};

struct sched_slice {
    uint64_t id;
    uint32_t slot;
    uint32_t first_position;
    uint32_t n_rows;
    bool generated;   /* the row is a generated token (numeric class), not a prompt row */
    bool last;        /* the last prompt row or a generated one: a token may be drawn after it */
    bool all_outputs; /* every row is wanted */
    bool opened;      /* first slice of the sequence in this slot */
};

struct sched_plan {
    struct sched_slice *slices; /* [max_slices], owned by the scheduler */
    uint32_t n_slices;
    struct kv_write *writes; /* [max_writes] */
    uint32_t n_writes;
    uint32_t n_rows;
};

struct sched;

/* The fewest table writes per step with which every promise can be kept. */
uint64_t sched_least_writes(const struct kv *kv, uint32_t n_slots, uint32_t alignment);

/* STATUS_USAGE for limits that are too tight, naming the limit. kv is borrowed and must know
 * (max_extend) that steps have up to max_rows rows. */
enum status sched_create(const struct sched_config *config, struct kv *kv, struct sched **out,
                         struct error *err);
void sched_free(struct sched *sched); /* NULL allowed; kv stays the caller's */

/* STATUS_LIMIT: prompt + generation exceed the context or the whole pool, or the queue is full. */
enum status sched_add(struct sched *sched, const struct sched_request *request, struct error *err);
/* Plans the next step; the pointer is valid until the next call. n_slices 0: nothing to do. */
const struct sched_plan *sched_plan(struct sched *sched);
/* The planned step was executed: sequences advance by their rows. Call once per plan. */
void sched_commit(struct sched *sched);
/* The sequence wants no more tokens (stopped, cancelled, failed): its slot and pages are freed,
 * queued or running. False if the id is not alive. */
bool sched_remove(struct sched *sched, uint64_t id);
/* A paused sequence keeps its place, slot and pages and gets no rows (its reader is behind). False
 * if the id is not alive. */
bool sched_pause(struct sched *sched, uint64_t id, bool paused);

uint32_t sched_running(const struct sched *sched);
uint32_t sched_waiting(const struct sched *sched);

#endif
