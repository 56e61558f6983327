/*
 * Batching in its simplest honest form. A sequence is one record, in one of two queues:
 *
 *   waiting   first in, first out; the head is admitted when a slot is free and the pool can hold
 *             everything it may become, beside everything the running ones may become
 *   running   in order of admission, so oldest first
 *
 * Since the reservations of the running sequences never sum to more than the pool, kv_extend()
 * cannot run out of pages, nothing is ever put back, and there is no deadlock to detect. The price
 * is a pool that is not full while answers stop early; preemption will lift that.
 *
 * A plan walks the running queue twice: generated rows, then prompt chunks. Records, hash chains and
 * the plan's arrays are allocated once.
 */
#include "sched/sched.h"

#include <stdlib.h>

#include "base/checked.h"

#define NONE UINT32_MAX

struct sequence {
    struct sched_request request;
    uint64_t reserved; /* pages it may hold at its largest */
    uint32_t computed; /* positions of executed steps */
    uint32_t planned;  /* rows in the plan that is not committed yet */
    uint32_t slot;     /* NONE while waiting */
    bool opened;       /* the slot is open in kv */
    bool paused;
    uint32_t previous, next; /* in its queue; next also links the unused records */
    uint32_t hash_next;
};

struct queue {
    uint32_t head, tail, count;
};

struct sched {
    struct sched_config config;
    struct kv *kv;
    struct sequence *sequences; /* [n_slots + max_queued] */
    uint32_t unused;            /* head of the unused records */
    struct queue waiting, running;
    uint32_t *free_slots; /* stack of n_free_slots */
    uint32_t n_free_slots;
    uint64_t reserved; /* pages, over the running sequences */
    uint32_t *buckets; /* by id, [n_buckets], a power of two */
    uint32_t n_buckets;
    struct sched_plan plan;
    uint32_t n_outputs; /* of the plan */
};

/* ---- records ---------------------------------------------------------------------------------- */

static void queue_push(struct sched *sched, struct queue *queue, uint32_t index)
{
    struct sequence *s = &sched->sequences[index];
    s->previous = queue->tail;
    s->next = NONE;
    if (queue->tail == NONE)
        queue->head = index;
    else
        sched->sequences[queue->tail].next = index;
    queue->tail = index;
    queue->count++;
}

static void queue_unlink(struct sched *sched, struct queue *queue, uint32_t index)
{
    struct sequence *s = &sched->sequences[index];
    if (s->previous == NONE)
        queue->head = s->next;
    else
        sched->sequences[s->previous].next = s->next;
    if (s->next == NONE)
        queue->tail = s->previous;
    else
        sched->sequences[s->next].previous = s->previous;
    queue->count--;
}

static uint32_t *bucket_of(const struct sched *sched, uint64_t id)
{
    return &sched->buckets[(id * 0x9e3779b97f4a7c15u >> 32) & (sched->n_buckets - 1)];
}

static uint32_t find(const struct sched *sched, uint64_t id)
{
    uint32_t index = *bucket_of(sched, id);
    while (index != NONE && sched->sequences[index].request.id != id)
        index = sched->sequences[index].hash_next;
    return index;
}

static void forget(struct sched *sched, uint32_t index)
{
    uint32_t *link = bucket_of(sched, sched->sequences[index].request.id);
    while (*link != index)
        link = &sched->sequences[*link].hash_next;
    *link = sched->sequences[index].hash_next;
    sched->sequences[index].next = sched->unused;
    sched->unused = index;
}

/* ---- life ------------------------------------------------------------------------------------- */

uint64_t sched_least_writes(const struct kv *kv, uint32_t n_slots, uint32_t alignment)
{
    /* A generated row in each other slot, one slot opening, and the shortest chunk a prompt can
     * advance by: a row takes at most one page per group. */
    return kv_open_writes(kv) +
           (uint64_t)kv_groups(kv) * ((uint64_t)n_slots - 1 + (alignment ? alignment : 1));
}

static enum status check_config(const struct sched_config *c, const struct kv *kv,
                                struct error *err)
{
    if (c->n_slots == 0 || c->max_context == 0)
        return error_set(err, STATUS_USAGE, "sched: no slots or no context");
    uint64_t rows = (uint64_t)c->n_slots - 1 + (c->alignment ? c->alignment : 1);
    if (c->max_rows < rows || c->max_outputs < rows)
        return error_set(err, STATUS_USAGE,
                         "a step of %u rows and %u outputs is too small for %u sequences at once "
                         "(at least %llu of both)",
                         c->max_rows, c->max_outputs, c->n_slots, (unsigned long long)rows);
    if (c->max_slices < c->n_slots)
        return error_set(err, STATUS_USAGE, "sched: %u slices for %u slots", c->max_slices,
                         c->n_slots);
    uint64_t writes = sched_least_writes(kv, c->n_slots, c->alignment);
    if (c->max_writes < writes)
        return error_set(err, STATUS_USAGE, "sched: %u table writes per step, at least %llu needed",
                         c->max_writes, (unsigned long long)writes);
    return STATUS_OK;
}

enum status sched_create(const struct sched_config *config, struct kv *kv, struct sched **out,
                         struct error *err)
{
    *out = NULL;
    enum status status = check_config(config, kv, err);
    if (status != STATUS_OK)
        return status;
    struct sched *sched = calloc(1, sizeof *sched);
    if (!sched)
        return error_set(err, STATUS_MEMORY, "out of memory for the scheduler");
    sched->config = *config;
    sched->config.alignment = config->alignment ? config->alignment : 1;
    sched->kv = kv;
    size_t n = (size_t)config->n_slots + config->max_queued;
    sched->n_buckets = 16;
    while (sched->n_buckets < n && sched->n_buckets < (1u << 24))
        sched->n_buckets *= 2;
    sched->sequences = n < NONE ? calloc(n, sizeof *sched->sequences) : NULL;
    sched->free_slots = calloc(config->n_slots, sizeof *sched->free_slots);
    sched->buckets = calloc(sched->n_buckets, sizeof *sched->buckets);
    sched->plan.slices = calloc(config->max_slices, sizeof *sched->plan.slices);
    sched->plan.writes = calloc(config->max_writes, sizeof *sched->plan.writes);
    if (!sched->sequences || !sched->free_slots || !sched->buckets || !sched->plan.slices ||
        !sched->plan.writes) {
        sched_free(sched);
        return error_set(err, STATUS_MEMORY, "out of memory for a scheduler of %zu sequences", n);
    }
    for (size_t i = 0; i < n; i++)
        sched->sequences[i].next = i + 1 < n ? (uint32_t)i + 1 : NONE;
    for (uint32_t i = 0; i < config->n_slots; i++)
        sched->free_slots[i] = config->n_slots - 1 - i;
    sched->n_free_slots = config->n_slots;
    for (uint32_t i = 0; i < sched->n_buckets; i++)
        sched->buckets[i] = NONE;
    sched->waiting = sched->running = (struct queue){NONE, NONE, 0};
    *out = sched;
    return STATUS_OK;
}

void sched_free(struct sched *sched)
{
    if (!sched)
        return;
    free(sched->sequences);
    free(sched->free_slots);
    free(sched->buckets);
    free(sched->plan.slices);
    free(sched->plan.writes);
    free(sched);
}

/* Positions that are computed in all: the last generated token is drawn, never run. */
static uint64_t total_rows(const struct sched_request *request)
{
    return (uint64_t)request->n_prompt + (request->n_generate ? request->n_generate - 1 : 0);
}

enum status sched_add(struct sched *sched, const struct sched_request *request, struct error *err)
{
    if (request->n_prompt == 0 || find(sched, request->id) != NONE)
        return error_set(err, STATUS_USAGE, "sched: sequence %llu is empty or there already",
                         (unsigned long long)request->id);
    uint64_t length = (uint64_t)request->n_prompt + request->n_generate;
    if (length > sched->config.max_context)
        return error_set(err, STATUS_LIMIT,
                         "%u prompt tokens and %u to generate exceed the context of %u",
                         request->n_prompt, request->n_generate, sched->config.max_context);
    uint64_t pages = kv_pages_for(sched->kv, total_rows(request));
    if (pages > kv_pages_total(sched->kv))
        return error_set(
            err, STATUS_LIMIT, "%llu tokens need %llu pages of KV memory, the pool has %u",
            (unsigned long long)length, (unsigned long long)pages, kv_pages_total(sched->kv));
    if (sched->waiting.count == sched->config.max_queued || sched->unused == NONE)
        return error_set(err, STATUS_LIMIT, "the queue of %u requests is full",
                         sched->config.max_queued);
    uint32_t index = sched->unused;
    struct sequence *s = &sched->sequences[index];
    sched->unused = s->next;
    *s = (struct sequence){.request = *request, .reserved = pages, .slot = NONE};
    uint32_t *bucket = bucket_of(sched, request->id);
    s->hash_next = *bucket;
    *bucket = index;
    queue_push(sched, &sched->waiting, index);
    return STATUS_OK;
}

bool sched_remove(struct sched *sched, uint64_t id)
{
    uint32_t index = find(sched, id);
    if (index == NONE)
        return false;
    struct sequence *s = &sched->sequences[index];
    if (s->slot == NONE) {
        queue_unlink(sched, &sched->waiting, index);
    } else {
        if (s->opened)
            kv_close(sched->kv, s->slot);
        sched->free_slots[sched->n_free_slots++] = s->slot;
        sched->reserved -= s->reserved;
        queue_unlink(sched, &sched->running, index);
    }
    forget(sched, index);
    return true;
}

bool sched_pause(struct sched *sched, uint64_t id, bool paused)
{
    uint32_t index = find(sched, id);
    if (index == NONE)
        return false;
    sched->sequences[index].paused = paused;
    return true;
}

uint32_t sched_running(const struct sched *sched)
{
    return sched->running.count;
}

uint32_t sched_waiting(const struct sched *sched)
{
    return sched->waiting.count;
}

/* ---- planning --------------------------------------------------------------------------------- */

/* Strictly first in, first out: a smaller request behind the head must not overtake it, or a large
 * one could wait forever. */
static void admit(struct sched *sched)
{
    while (sched->waiting.head != NONE && sched->n_free_slots > 0) {
        uint32_t index = sched->waiting.head;
        struct sequence *s = &sched->sequences[index];
        if (sched->reserved + s->reserved > kv_pages_total(sched->kv))
            return;
        queue_unlink(sched, &sched->waiting, index);
        s->slot = sched->free_slots[--sched->n_free_slots];
        sched->reserved += s->reserved;
        queue_push(sched, &sched->running, index);
    }
}

/* Cuts a chunk of a prompt so that it ends on a multiple of the alignment, or with the prompt. */
static uint32_t align_chunk(const struct sched *sched, const struct sequence *s, uint32_t rows)
{
    uint32_t end = s->computed + rows;
    if (end < s->request.n_prompt)
        end -= end % sched->config.alignment;
    return end > s->computed ? end - s->computed : 0;
}

static uint32_t at_most(uint32_t value, uint32_t most)
{
    return value < most ? value : most;
}

/* Makes the pages of the next `rows` positions, fewer where the step's table writes do not suffice.
 * Returns the rows it could place; 0 when none. */
static uint32_t place_rows(struct sched *sched, struct sequence *s, uint32_t rows)
{
    struct sched_plan *plan = &sched->plan;
    uint32_t n;
    if (!s->opened) {
        /* Opening must leave room for the chunk, or its writes would go out with no slice. */
        if (sched->config.max_writes - plan->n_writes <
            sched_least_writes(sched->kv, 1, sched->config.alignment))
            return 0;
        if (kv_open(sched->kv, s->slot, plan->writes + plan->n_writes, &n, NULL) != STATUS_OK)
            return 0;
        plan->n_writes += n;
        s->opened = true;
    }
    while (rows > 0) {
        enum status status = kv_extend(sched->kv, s->slot, s->computed + rows, s->computed,
                                       plan->writes + plan->n_writes,
                                       sched->config.max_writes - plan->n_writes, &n, NULL);
        if (status == STATUS_OK) {
            plan->n_writes += n;
            return rows;
        }
        uint32_t fewer = align_chunk(sched, s, rows / 2);
        uint32_t least = align_chunk(sched, s, at_most(rows, sched->config.alignment));
        rows = fewer ? fewer : least < rows ? least : 0;
    }
    return 0;
}

static void add_slice(struct sched *sched, struct sequence *s, uint32_t rows)
{
    struct sched_plan *plan = &sched->plan;
    bool first = !s->opened;
    rows = place_rows(sched, s, rows);
    if (rows == 0)
        return;
    bool generated = s->computed >= s->request.n_prompt;
    bool all = s->request.all_outputs && !generated;
    bool last = s->computed + rows >= s->request.n_prompt;
    plan->slices[plan->n_slices++] = (struct sched_slice){
        .id = s->request.id,
        .slot = s->slot,
        .first_position = s->computed,
        .n_rows = rows,
        .generated = generated,
        .last = last,
        .all_outputs = all,
        .opened = first,
    };
    plan->n_rows += rows;
    sched->n_outputs += all ? rows : last;
    s->planned = rows;
}

static void plan_generated(struct sched *sched, struct sequence *s)
{
    if (s->computed >= s->request.n_prompt && s->computed < total_rows(&s->request))
        add_slice(sched, s, 1);
}

static void plan_prompt(struct sched *sched, struct sequence *s)
{
    const struct sched_config *c = &sched->config;
    if (s->computed >= s->request.n_prompt)
        return;
    uint32_t rows = at_most(s->request.n_prompt - s->computed, c->max_rows - sched->plan.n_rows);
    if (s->request.chunk)
        rows = at_most(rows, s->request.chunk > c->alignment ? s->request.chunk : c->alignment);
    if (s->request.all_outputs)
        rows = at_most(rows, c->max_outputs - sched->n_outputs);
    rows = align_chunk(sched, s, rows);
    if (rows)
        add_slice(sched, s, rows);
}

const struct sched_plan *sched_plan(struct sched *sched)
{
    struct sched_plan *plan = &sched->plan;
    plan->n_slices = plan->n_writes = plan->n_rows = sched->n_outputs = 0;
    admit(sched);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = sched->running.head; i != NONE; i = sched->sequences[i].next) {
            struct sequence *s = &sched->sequences[i];
            if (pass == 0)
                s->planned = 0;
            bool full = plan->n_rows == sched->config.max_rows ||
                        plan->n_slices == sched->config.max_slices ||
                        sched->n_outputs == sched->config.max_outputs;
            if (s->paused || full)
                continue;
            if (pass == 0)
                plan_generated(sched, s);
            else
                plan_prompt(sched, s);
        }
    }
    return plan;
}

void sched_commit(struct sched *sched)
{
    for (uint32_t i = sched->running.head; i != NONE; i = sched->sequences[i].next) {
        struct sequence *s = &sched->sequences[i];
        s->computed += s->planned;
        s->planned = 0;
    }
}
