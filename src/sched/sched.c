/*
 * The sequences: one record each, in one of three queues, found by id through hash chains. All
 * arrays are allocated once.
 */
#include <stdlib.h>

#include "sched/internal.h"

/* ---- records ---------------------------------------------------------------------------------- */

/* Behind the last one that goes before it; waiting ones at the end, since order is decided later. */
static void queue_push(struct sched *sched, struct queue *queue, uint32_t index, bool ranked)
{
    struct sequence *s = &sched->sequences[index];
    uint32_t after = queue->tail;
    while (ranked && after != NONE && outranks(s, &sched->sequences[after]))
        after = sched->sequences[after].previous;
    s->previous = after;
    uint32_t *link = after == NONE ? &queue->head : &sched->sequences[after].next;
    s->next = *link;
    *link = index;
    *(s->next == NONE ? &queue->tail : &sched->sequences[s->next].previous) = index;
    queue->count++;
}

static void queue_unlink(struct sched *sched, struct queue *queue, uint32_t index)
{
    struct sequence *s = &sched->sequences[index];
    *(s->previous == NONE ? &queue->head : &sched->sequences[s->previous].next) = s->next;
    *(s->next == NONE ? &queue->tail : &sched->sequences[s->next].previous) = s->previous;
    queue->count--;
}

void queue_move(struct sched *sched, uint32_t index, enum place place)
{
    struct sequence *s = &sched->sequences[index];
    queue_unlink(sched, &sched->queues[s->place], index);
    s->place = place;
    queue_push(sched, &sched->queues[place], index, place == RUNNING);
}

static uint32_t *bucket_of(const struct sched *sched, uint64_t id)
{
    return &sched->buckets[(id * 0x9e3779b97f4a7c15u >> 32) & (sched->n_buckets - 1)];
}

uint32_t sched_find(const struct sched *sched, uint64_t id)
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

/* The record of a key; there is one, since there are as many records as sequences. */
static uint32_t key_record(struct sched *sched, uint64_t name)
{
    uint32_t dead = NONE;
    for (uint32_t i = 0; i < sched->n_keys; i++) {
        if (sched->keys[i].name == name)
            return i;
        if (sched->keys[i].live == 0)
            dead = i;
    }
    if (sched->n_keys < sched->n_sequences)
        dead = sched->n_keys++;
    sched->keys[dead] = (struct key){.name = name};
    return dead;
}

/* ---- life ------------------------------------------------------------------------------------- */

uint64_t sched_least_writes(const struct kv *kv, uint32_t n_slots, uint32_t alignment)
{
    /* One slot opening on all that its table holds, a row in every slot, and the shortest chunk a
     * prompt can advance by: a row takes at most one page per group, and a state. */
    uint64_t per_row = (uint64_t)kv_groups(kv) + kv_state_pages(kv);
    return kv_slot_entries(kv) + n_slots * per_row +
           (uint64_t)kv_groups(kv) * (alignment ? alignment : 1);
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
    uint64_t writes = sched_least_writes(kv, c->n_slots, c->alignment);
    uint64_t copies = (uint64_t)c->n_slots * kv_groups(kv);
    if (c->max_writes < writes || c->max_copies < copies)
        return error_set(err, STATUS_USAGE,
                         "sched: %u table writes and %u copies per step, at least %llu and %llu "
                         "needed",
                         c->max_writes, c->max_copies, (unsigned long long)writes,
                         (unsigned long long)copies);
    return STATUS_OK;
}

static bool allocate(struct sched *sched, size_t n)
{
    const struct sched_config *c = &sched->config;
    sched->n_buckets = 16;
    while (sched->n_buckets < n && sched->n_buckets < (1u << 24))
        sched->n_buckets *= 2;
    sched->n_sequences = (uint32_t)n;
    sched->sequences = n < NONE ? calloc(n, sizeof *sched->sequences) : NULL;
    sched->keys = calloc(n, sizeof *sched->keys);
    sched->free_slots = calloc(c->n_slots, sizeof *sched->free_slots);
    sched->slot_owner = calloc(c->n_slots, sizeof *sched->slot_owner);
    sched->buckets = calloc(sched->n_buckets, sizeof *sched->buckets);
    sched->plan.slices = calloc(c->n_slots, sizeof *sched->plan.slices);
    sched->plan.changes = (struct kv_changes){
        .writes = calloc(c->max_writes, sizeof *sched->plan.changes.writes),
        .copies = calloc(c->max_copies + 1u, sizeof *sched->plan.changes.copies),
        .max_writes = c->max_writes,
        .max_copies = c->max_copies,
    };
    return sched->sequences && sched->keys && sched->free_slots && sched->slot_owner &&
           sched->buckets && sched->plan.slices && sched->plan.changes.writes &&
           sched->plan.changes.copies;
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
    sched->times.together = config->rows_together ? config->rows_together : 1;
    sched->config.alignment = config->alignment ? config->alignment : 1;
    sched->config.max_gap_us = config->max_gap_us ? config->max_gap_us : GAP_DEFAULT;
    sched->kv = kv;
    size_t n = (size_t)config->n_slots + config->max_queued;
    if (!allocate(sched, n)) {
        sched_free(sched);
        return error_set(err, STATUS_MEMORY, "out of memory for a scheduler of %zu sequences", n);
    }
    for (size_t i = 0; i < n; i++)
        sched->sequences[i].next = i + 1 < n ? (uint32_t)i + 1 : NONE;
    for (uint32_t i = 0; i < config->n_slots; i++) {
        sched->free_slots[i] = config->n_slots - 1 - i;
        sched->slot_owner[i] = NONE;
    }
    sched->n_free_slots = config->n_slots;
    for (uint32_t i = 0; i < sched->n_buckets; i++)
        sched->buckets[i] = NONE;
    for (int i = 0; i < PLACES; i++)
        sched->queues[i] = (struct queue){NONE, NONE, 0};
    *out = sched;
    return STATUS_OK;
}

void sched_free(struct sched *sched)
{
    if (!sched)
        return;
    free(sched->sequences);
    free(sched->keys);
    free(sched->free_slots);
    free(sched->slot_owner);
    free(sched->buckets);
    free(sched->plan.slices);
    free(sched->plan.changes.writes);
    free(sched->plan.changes.copies);
    free(sched);
}

static enum status check_request(const struct sched *sched, const struct sched_request *request,
                                 struct error *err)
{
    const struct sched_config *c = &sched->config;
    uint32_t n_prompt = request->chain->n_prompt;
    if (n_prompt == 0 || request->id == 0 || sched_find(sched, request->id) != NONE)
        return error_set(err, STATUS_USAGE, "sched: sequence %llu is empty or there already",
                         (unsigned long long)request->id);
    uint64_t length = (uint64_t)n_prompt + request->n_generate;
    if (length > c->max_context)
        return error_set(err, STATUS_CONTEXT,
                         "%u prompt tokens and %u to generate exceed the context of %u", n_prompt,
                         request->n_generate, c->max_context);
    uint64_t pages = kv_pages_for(sched->kv, total_rows(request));
    if (pages > kv_pages_total(sched->kv))
        return error_set(
            err, STATUS_CONTEXT, "%llu tokens need %llu pages of KV memory, the pool has %u",
            (unsigned long long)length, (unsigned long long)pages, kv_pages_total(sched->kv));
    if (sched_waiting(sched) >= c->max_queued || sched->unused == NONE)
        return error_set(err, STATUS_BUSY, "the queue of %u requests is full", c->max_queued);
    return STATUS_OK;
}

struct kv_match sched_match(struct sched *sched, struct sequence *s)
{
    struct kv_chain *c = s->request.chain;
    /* The last token must be computed, for its output; of rows that are all wanted, those that were
     * not handed out yet. */
    uint32_t limit =
        s->request.all_outputs && s->scored < c->n_tokens - 1 ? s->scored : c->n_tokens - 1;
    struct kv_match match = kv_match(sched->kv, c, limit);
    s->cached = match.cached;
    return match;
}

enum status sched_add(struct sched *sched, const struct sched_request *request, struct error *err)
{
    enum status status = check_request(sched, request, err);
    if (status != STATUS_OK)
        return status;
    uint32_t key = key_record(sched, request->key);
    struct key *k = &sched->keys[key];
    if (k->live++ == 0 && k->served < sched->served_floor)
        k->served = sched->served_floor;
    uint32_t index = sched->unused, parent = NONE;
    struct sequence *s = &sched->sequences[index];
    sched->unused = s->next;
    *s = (struct sequence){
        .request = *request,
        .slot = NONE,
        .order = sched->n_arrived++,
        .arrived = sched->clock,
        .key = key,
    };
    if (request->parent)
        parent = sched_find(sched, request->parent);
    const struct sequence *p = parent == NONE ? NULL : &sched->sequences[parent];
    bool hold = p && p->computed < request->chain->n_prompt &&
                p->request.chain->n_tokens == request->chain->n_prompt;
    s->place = hold ? HELD : WAITING;
    if (hold && p->place == HELD) /* siblings, not generations: all share the first one's prompt */
        s->request.parent = p->request.parent;
    uint32_t *bucket = bucket_of(sched, request->id);
    s->hash_next = *bucket;
    *bucket = index;
    queue_push(sched, &sched->queues[s->place], index, false);
    sched_match(sched, s);
    return STATUS_OK;
}

/* Gives up slot and pages. */
static void vacate(struct sched *sched, struct sequence *s)
{
    kv_close(sched->kv, s->slot);
    sched->slot_owner[s->slot] = NONE;
    sched->free_slots[sched->n_free_slots++] = s->slot;
    s->slot = NONE;
}

void sched_put_back(struct sched *sched, uint32_t index)
{
    struct sequence *s = &sched->sequences[index];
    vacate(sched, s);
    s->computed = 0;
    s->opened = false;
    queue_move(sched, index, WAITING);
}

void sched_preempt(struct sched *sched, uint32_t index)
{
    struct sequence *s = &sched->sequences[index];
    uint32_t n_prompt = s->request.chain->n_prompt;
    uint32_t done = s->computed < n_prompt ? s->computed : n_prompt;
    s->scored = done > s->scored ? done : s->scored;
    /* Every known token is computed, so the next one is being drawn: resumed without it, the
     * sequence would draw it a second time. */
    if (s->computed >= s->request.chain->n_tokens)
        s->awaited = s->request.chain->n_tokens + 1;
    s->arrived = s->own = 0; /* it has waited for its turn once already */
    s->put_back = true;
    sched->counters.preemptions++;
    if (sched->pressed == s->request.id)
        sched->pressed = 0;
    sched_put_back(sched, index);
}

bool sched_remove(struct sched *sched, uint64_t id)
{
    uint32_t index = sched_find(sched, id);
    if (index == NONE)
        return false;
    struct sequence *s = &sched->sequences[index];
    if (s->place == RUNNING)
        vacate(sched, s);
    sched->keys[s->key].live--;
    queue_unlink(sched, &sched->queues[s->place], index);
    uint32_t next;
    for (uint32_t i = sched->queues[HELD].head; i != NONE; i = next) {
        next = sched->sequences[i].next;
        if (sched->sequences[i].request.parent == id)
            queue_move(sched, i, WAITING);
    }
    forget(sched, index);
    return true;
}

bool sched_pause(struct sched *sched, uint64_t id, bool paused)
{
    uint32_t index = sched_find(sched, id);
    if (index == NONE)
        return false;
    sched->sequences[index].paused = paused;
    return true;
}

uint32_t sched_running(const struct sched *sched)
{
    return sched->queues[RUNNING].count;
}

uint32_t sched_waiting(const struct sched *sched)
{
    return sched->queues[WAITING].count + sched->queues[HELD].count;
}

struct sched_counters sched_counters(const struct sched *sched)
{
    return sched->counters;
}

void sched_commit(struct sched *sched)
{
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE; i = sched->sequences[i].next) {
        struct sequence *s = &sched->sequences[i];
        s->computed += s->planned;
        if (s->planned || s->opened)
            kv_commit(sched->kv, s->slot);
        s->planned = 0;
        s->opened = false;
    }
}
