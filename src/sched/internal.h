/* Inside sched: sched.c keeps the records, times.c what steps take, plan.c decides. */
#ifndef SLUICE_SCHED_INTERNAL_H
#define SLUICE_SCHED_INTERNAL_H

#include "sched/sched.h"

#define NONE        UINT32_MAX
#define GAP_DEFAULT 250000 /* microseconds */
#define LOADS       24     /* classes of how many sequences generate, two for a power of two */

enum place {
    WAITING,
    HELD, /* waits for its parent's prompt, which it will share */
    RUNNING,
    PLACES
};

struct sequence {
    struct sched_request request;
    enum place place;
    bool paused;
    bool put_back;           /* at least once, for the sake of others */
    bool opened;             /* its first slice in this slot was planned and not committed yet */
    uint32_t computed;       /* positions of committed steps */
    uint32_t planned;        /* rows in the plan that is not committed yet */
    uint32_t awaited;        /* tokens to be known before it resumes: one was being drawn */
    uint32_t scored;         /* all_outputs: positions that were handed out before a preemption */
    uint32_t slot;           /* NONE unless running */
    uint32_t cached;         /* waiting: what the index had when it was looked at last */
    uint64_t order;          /* of arrival */
    uint64_t arrived, own;   /* the clock of prompt rows then; of those since, its own */
    uint64_t looked;         /* plan that considered it */
    uint32_t key;            /* record of its key */
    uint32_t previous, next; /* in its queue; next also links the unused records */
    uint32_t hash_next;
};

struct queue {
    uint32_t head, tail, count;
};

/* What one key was served, in rows; never less than what a key that was active all the time got. */
struct key {
    uint64_t name, served;
    uint32_t live; /* sequences; 0: may be replaced */
};

/* What steps take, in nanoseconds of the machine's usual pace (times.c); 0: not measured yet. */
struct times {
    uint32_t together;       /* prompt rows, of which fewer take as long */
    double pace;             /* by how much slower the machine is now than usual */
    double generated[LOADS]; /* a step of generated rows alone, by their number */
    double prompts; /* that a step has prompt rows at all: weights to be unpacked for them */
    double row;     /* one prompt row more */
    /* Means over the last steps with prompt rows: rows, time for them, rows x rows, rows x time. */
    double n, took, n_n, n_took;
    uint32_t n_noted;    /* such steps, up to as many as the means remember */
    uint32_t age[LOADS]; /* mixed steps since */
};

struct sched {
    struct sched_config config;
    struct kv *kv;
    struct sequence *sequences; /* [n_sequences] */
    uint32_t n_sequences;
    uint32_t unused;             /* head of the unused records */
    struct queue queues[PLACES]; /* running: by priority, then age */
    uint32_t *free_slots;        /* stack of n_free_slots */
    uint32_t n_free_slots;
    uint32_t *slot_owner; /* [n_slots] sequence, or NONE */
    uint32_t *buckets;    /* by id, [n_buckets], a power of two */
    uint32_t n_buckets;
    struct key *keys; /* [n_sequences] */
    uint32_t n_keys;
    uint64_t served_floor; /* what a key that becomes active starts from */
    uint64_t n_arrived, clock, n_plans;
    struct times times;
    struct sched_counters counters;
    struct sched_plan plan;
    uint32_t n_outputs; /* of the plan */
    uint64_t promised;  /* pages that admitted prompts will still need */
    uint64_t pressed;   /* id of a sequence that needs the pages of lesser ones; 0: none */
};

/* sched.c */
uint32_t sched_find(const struct sched *sched, uint64_t id);
void queue_move(struct sched *sched, uint32_t index, enum place place);
/* What the index has for a waiting sequence; notes how much. */
struct kv_match sched_match(struct sched *sched, struct sequence *s);
/* A running sequence gives its slot and pages back, and waits again. */
void sched_put_back(struct sched *sched, uint32_t index);
/* That, for the sake of others. */
void sched_preempt(struct sched *sched, uint32_t index);

/* times.c: what a step of so many generated rows alone takes now; 0: unknown */
double times_alone(const struct times *times, uint32_t n_generated);
/* Is that to be measured in this step, or again? Then it counts as measured from now on. */
bool times_due(struct times *times, uint32_t n_generated);
/* How many prompt rows fit into so many nanoseconds, at most `most`; 0 where not even the first do. */
uint32_t times_fit(const struct times *times, double ns, uint32_t most);

/* Goes before: the order in which running sequences are served and spared. */
static inline bool outranks(const struct sequence *a, const struct sequence *b)
{
    return a->request.priority != b->request.priority ? a->request.priority < b->request.priority
                                                      : a->order < b->order;
}

/* Positions that are computed in all: the last generated token is drawn, never run. */
static inline uint64_t total_rows(const struct sched_request *request)
{
    return (uint64_t)request->chain->n_prompt + (request->n_generate ? request->n_generate - 1 : 0);
}

/* The next row is the newest token, known or still on the device. */
static inline bool generates(const struct sequence *s)
{
    const struct kv_chain *c = s->request.chain;
    return s->computed >= c->n_prompt && s->computed + 1 >= c->n_tokens;
}

#endif
