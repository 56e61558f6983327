/*
 * sched: who runs in the next step, and with how many rows. Integers only.
 *
 * A sequence is a prompt of known length that then grows by generated tokens. Every plan takes the
 * running sequences' next tokens first, then prompt rows up to a budget:
 *
 *   order     by priority; then by what each key was served (fair sharing); then the prompt with the
 *             fewest rows left to compute first, less a credit that grows with every row computed
 *             for others since it arrived and that its own rows spend, beyond the first four steps
 *             full of them, so that a long one waits long, but not for ever, and once it is due
 *             shares the steps with those that come; those of usual length go one after the other.
 *             Who was preempted resumes by age
 *   budget    by measured times (sched_measure): while more sequences generate than prompts wait,
 *             at most as long as the generated rows alone take, so that no gap doubles; otherwise up
 *             to 80 % of the step within max_gap_us; with nobody generating, twice max_gap_us
 *   sharing   a prompt whose beginning another sequence is computing waits for it, and meanwhile
 *             hands its turn to that one (kv.h: pending blocks)
 *   memory    a prompt is admitted when the pages it needs, beside those that admitted prompts still
 *             need, can be had. When pages run out, the youngest sequence of the lowest priority
 *             gives its own back and waits again; it resumes at its last token, with what the index
 *             kept. The oldest of the highest priority is never asked, so somebody always advances.
 *
 * Promises, for every step: each position is planned once (again after a preemption, with the same
 * numeric class), in order; the limits of sched_config hold. sched_create() refuses limits under
 * which nobody could advance. Planning takes no memory, and time in proportion to the sequences.
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
    uint32_t max_rows;    /* rows of a step; >= n_slots - 1 + alignment */
    uint32_t max_outputs; /* wanted rows of a step; >= n_slots - 1 + alignment */
    uint32_t max_writes;  /* table writes of a step; >= sched_least_writes() */
    uint32_t max_copies;  /* page copies of a step; >= n_slots * groups */
    uint32_t max_queued;  /* sequences waiting for a slot */
    uint32_t max_context; /* positions of one sequence */
    uint32_t alignment;   /* chunks of a prompt end on multiples of this */
    uint32_t max_gap_us;  /* 0: 250,000 */
    /* Prompt rows are computed so many at once, and fewer take as long. 0: 1. */
    uint32_t rows_together;
};

/* What one sequence wants. */
struct sched_request {
    uint64_t id;            /* the caller's, unique among live sequences, not 0 */
    struct kv_chain *chain; /* the caller's, until the sequence is removed; see kv.h. n_tokens: the
                             * prompt, raised by one with every token that becomes known */
    uint32_t n_generate;    /* most tokens it may generate; 0: prompt rows only */
    bool all_outputs;       /* every prompt row is a wanted output (scoring), not only the last */
    uint32_t chunk;   /* 0: as large as the budget allows; else at most this many prompt rows */
    int32_t priority; /* lower goes first */
    uint64_t key;     /* whose; any number */
    uint64_t parent;  /* id of an earlier sequence with the same prompt, to share it; or 0 */
};

struct sched_slice {
    uint64_t id;
    uint32_t slot;
    uint32_t first_position;
    uint32_t n_rows; /* 0: a fork, which draws from the output of slice fork_of */
    uint32_t state;  /* recurrent groups: the state that holds what was before */
    uint32_t fork_of;
    uint32_t cached;  /* opened: positions that needed no computing */
    bool generated;   /* the rows are generated tokens (numeric class), not prompt rows */
    bool last;        /* the last known token is among the rows: one may be drawn after it */
    bool all_outputs; /* every row is wanted */
    bool opened;      /* first slice of the sequence in this slot */
};

struct sched_plan {
    struct sched_slice *slices; /* [n_slots], owned by the scheduler */
    uint32_t n_slices;
    struct kv_changes changes;
    uint32_t n_rows;
    uint32_t n_generated; /* of them, one for each sequence that generates */
};

struct sched_counters {
    uint64_t cached_tokens; /* of opened prompts, counted once for each sequence */
    uint64_t preemptions;
};

struct sched;

/* The fewest table writes per step with which every promise can be kept. */
uint64_t sched_least_writes(const struct kv *kv, uint32_t n_slots, uint32_t alignment);

/* STATUS_USAGE for limits that are too tight, naming the limit. kv is borrowed and must know
 * (max_extend) that steps have up to max_rows rows. */
enum status sched_create(const struct sched_config *config, struct kv *kv, struct sched **out,
                         struct error *err);
void sched_free(struct sched *sched); /* NULL allowed; kv stays the caller's */

/* STATUS_CONTEXT: prompt + generation exceed the context or the whole pool. STATUS_BUSY: the queue
 * is full. */
enum status sched_add(struct sched *sched, const struct sched_request *request, struct error *err);
/* Plans the next step; the pointer is valid until the next call. n_slices 0: nothing to do. */
const struct sched_plan *sched_plan(struct sched *sched);
/* The planned step was submitted: sequences advance by their rows. Call once per plan. */
void sched_commit(struct sched *sched);
/* How long a step with so many generated and other rows took. */
void sched_measure(struct sched *sched, uint32_t n_generated, uint32_t n_prompt, uint64_t ns);
/* How long such a step will take, by what was measured; 0: not known yet. */
uint64_t sched_expect(const struct sched *sched, uint32_t n_generated, uint32_t n_prompt);
/* The sequence wants no more tokens (stopped, cancelled, failed): its slot and pages are freed,
 * queued or running. False if the id is not alive. */
bool sched_remove(struct sched *sched, uint64_t id);
/* A paused sequence gets no rows (its reader is behind); it keeps its slot and pages unless others
 * need them. False if the id is not alive. */
bool sched_pause(struct sched *sched, uint64_t id, bool paused);

uint32_t sched_running(const struct sched *sched);
uint32_t sched_waiting(const struct sched *sched);
struct sched_counters sched_counters(const struct sched *sched);

#endif
