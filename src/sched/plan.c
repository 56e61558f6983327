/*
 * One plan: generated rows in rank order, then prompt rows by score while the budget lasts.
 *
 * Only what was not planned yet can be preempted within a plan. Where a sequence lacks pages and all
 * lesser ones have their rows already, it is remembered ("pressed"): the next plan begins by taking
 * their pages and gives those below it nothing until it got its rows.
 */
#include <stddef.h>

#include "sched/internal.h"

#define BEST       16 /* prompts picked by one look over all */
#define STEPS_FREE 4  /* full of a prompt's rows, before these spend its credit */
#define LOOKS      8

static uint32_t at_most(uint32_t value, uint32_t most)
{
    return value < most ? value : most;
}

static struct sequence *at(const struct sched *sched, uint32_t index)
{
    return &sched->sequences[index];
}

/* ---- memory ----------------------------------------------------------------------------------- */

/* The one to preempt for s: the last in rank that has no rows in this plan and goes after s, or that
 * is paused. NONE: nobody. */
static uint32_t find_victim(const struct sched *sched, const struct sequence *s, bool lesser_only)
{
    for (uint32_t i = sched->queues[RUNNING].tail; i != NONE; i = at(sched, i)->previous) {
        const struct sequence *v = at(sched, i);
        if (v == s || v->planned || v->opened)
            continue;
        bool lesser = lesser_only ? v->request.priority > s->request.priority : outranks(s, v);
        if (v->paused || lesser)
            return i;
    }
    return NONE;
}

/* Pages that running prompts will still take. */
static uint64_t count_promised(const struct sched *sched)
{
    uint64_t total = 0;
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE; i = at(sched, i)->next) {
        const struct sequence *s = at(sched, i);
        uint32_t known = s->request.chain->n_tokens;
        if (s->computed + s->planned < known)
            total +=
                kv_pages_for(sched->kv, known) - kv_pages_for(sched->kv, s->computed + s->planned);
    }
    return total;
}

/* ---- slices ----------------------------------------------------------------------------------- */

/* Cuts a chunk so that it ends on a multiple of the alignment, or with its part of the sequence, and
 * where a state is to be kept. */
static uint32_t cut(const struct sched *sched, const struct sequence *s, uint32_t rows)
{
    const struct kv_chain *c = s->request.chain;
    uint32_t end = s->computed + rows;
    uint32_t border = s->computed < c->n_prompt ? c->n_prompt : c->n_tokens;
    if (end < border)
        end -= end % sched->config.alignment;
    if (end > s->computed && s->slot != NONE)
        end = kv_cut(sched->kv, s->slot, s->computed, end);
    return end > s->computed ? end - s->computed : 0;
}

/* Makes the pages of the next `rows` positions, fewer where pages or table writes do not suffice.
 * Returns the rows it could place; 0 when none. */
static uint32_t place_rows(struct sched *sched, const struct sequence *s, uint32_t rows)
{
    while (rows > 0) {
        if (kv_extend(sched->kv, s->slot, s->computed + rows, s->computed, &sched->plan.changes,
                      NULL) == STATUS_OK)
            return rows;
        uint32_t fewer = cut(sched, s, rows / 2);
        uint32_t least = cut(sched, s, at_most(rows, sched->config.alignment));
        rows = fewer ? fewer : least < rows ? least : 0;
    }
    return 0;
}

static bool add_slice(struct sched *sched, struct sequence *s, uint32_t rows)
{
    struct sched_plan *plan = &sched->plan;
    const struct kv_chain *c = s->request.chain;
    uint32_t state = kv_state(sched->kv, s->slot);
    rows = place_rows(sched, s, rows);
    if (rows == 0)
        return false;
    uint32_t end = s->computed + rows;
    bool generated = s->computed >= c->n_prompt;
    bool all = s->request.all_outputs && !generated && s->computed >= s->scored;
    bool last = end >= c->n_tokens;
    plan->slices[plan->n_slices++] = (struct sched_slice){
        .id = s->request.id,
        .slot = s->slot,
        .first_position = s->computed,
        .n_rows = rows,
        .state = state,
        .cached = s->opened ? s->cached : 0,
        .generated = generated,
        .last = last,
        .all_outputs = all,
        .opened = s->opened,
    };
    plan->n_rows += rows;
    sched->n_outputs += all ? rows : last;
    s->planned = rows;
    sched->keys[s->key].served += rows;
    if (sched->pressed == s->request.id)
        sched->pressed = 0;
    return true;
}

static bool plan_is_full(const struct sched *sched)
{
    return sched->plan.n_rows == sched->config.max_rows ||
           sched->plan.n_slices == sched->config.n_slots ||
           sched->n_outputs == sched->config.max_outputs;
}

/* Children that wait for this prompt start where it ends, with the draws of its last row. */
static void fork_children(struct sched *sched, uint32_t parent)
{
    struct sched_plan *plan = &sched->plan;
    const struct sequence *p = at(sched, parent);
    uint32_t next, slice = plan->n_slices - 1;
    for (uint32_t i = sched->queues[HELD].head; i != NONE; i = next) {
        struct sequence *s = at(sched, i);
        next = s->next;
        if (s->request.parent != p->request.id)
            continue;
        uint32_t slot = sched->n_free_slots ? sched->free_slots[sched->n_free_slots - 1] : NONE;
        if (slot == NONE || plan_is_full(sched) ||
            kv_fork(sched->kv, p->slot, slot, s->request.chain, &plan->changes, NULL) !=
                STATUS_OK) {
            queue_move(sched, i, WAITING); /* it will find the prompt in the index */
            continue;
        }
        sched->n_free_slots--;
        sched->slot_owner[slot] = i;
        sched->counters.cached_tokens += s->request.chain->n_prompt;
        s->slot = slot;
        s->computed = s->request.chain->n_prompt;
        s->opened = true;
        queue_move(sched, i, RUNNING);
        plan->slices[plan->n_slices++] = (struct sched_slice){
            .id = s->request.id,
            .slot = slot,
            .first_position = s->computed,
            .state = kv_state(sched->kv, slot),
            .fork_of = slice,
            .cached = s->computed,
            .last = true,
            .opened = true,
        };
        sched->n_outputs++;
    }
}

/* ---- generated rows --------------------------------------------------------------------------- */

static void plan_generated(struct sched *sched)
{
    uint32_t pressed = sched->pressed ? sched_find(sched, sched->pressed) : NONE;
    uint32_t next;
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE; i = next) {
        struct sequence *s = at(sched, i);
        next = s->next;
        if (s->paused || !generates(s) || s->computed >= total_rows(&s->request) ||
            (pressed != NONE && outranks(at(sched, pressed), s)))
            continue;
        if (plan_is_full(sched))
            break;
        while (!add_slice(sched, s, 1)) {
            uint32_t victim = find_victim(sched, s, false);
            if (victim == NONE)
                break;
            sched_preempt(sched, victim);
            next = s->next;
        }
    }
    sched->plan.n_generated = sched->plan.n_slices;
}

/* ---- the budget of prompt rows ---------------------------------------------------------------- */

/* Rows that prompts may have in this step. 0 only where a step of generated rows alone is due, to
 * be measured. */
static uint32_t prompt_budget(struct sched *sched, uint32_t n_prompts)
{
    struct times *t = &sched->times;
    uint32_t n = sched->plan.n_generated, least = sched->config.alignment;
    least = least > t->together ? least : t->together;
    uint32_t rows = sched->config.max_rows - sched->plan.n_rows;
    double gap = 1e3 * sched->config.max_gap_us, alone = times_alone(t, n), extra;
    if (n == 0) {
        extra = 2.0 * gap;
    } else {
        if (times_due(t, n))
            return 0;
        /* The pace may be that of a prompt's late rows, which look at many: gaps are held against
         * what they are usually. */
        double usual = t->pace > 1.0 ? alone / t->pace : alone;
        extra = 1.9 * usual - alone > 0.45 * alone ? 1.9 * usual - alone : 0.45 * alone;
        if (n <= n_prompts) {
            double most = gap > 1.25 * alone ? gap : 1.25 * alone;
            extra = 4.0 * alone < most - alone ? 4.0 * alone : most - alone;
        }
    }
    if (t->row <= 0.0)
        return at_most(rows, n ? 32 > least ? 32 : least : rows);
    uint32_t budget = times_fit(t, extra, rows);
    return at_most(budget > least ? budget : least, rows);
}

/* ---- prompts ---------------------------------------------------------------------------------- */

/* Rows left to compute, less half of what was computed for others since it came: its credit, which its
 * own rows spend four times as fast, but for the first steps full of them. So whoever waited long gets a
 * share beside newcomers; with a credit that lasts, a long prompt, once it is first, would hold up all of
 * them to its end. But prompts of usual length, of which many came together, go one after the other: in
 * turns, all would be there as late as the last. */
static int64_t score(const struct sched *sched, const struct sequence *s)
{
    uint32_t done = s->place == RUNNING ? s->computed : s->cached;
    int64_t others = (int64_t)(sched->clock - s->arrived - s->own);
    int64_t spent = (int64_t)s->own - (int64_t)STEPS_FREE * sched->config.max_rows;
    int64_t credit = others / 2 - 2 * (spent > 0 ? spent : 0);
    return (int64_t)s->request.chain->n_tokens - done - (credit > 0 ? credit : 0);
}

struct ranked {
    uint32_t index;
    int32_t priority;
    uint64_t served;
    int64_t score;
};

static bool goes_first(const struct ranked *a, const struct ranked *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->served != b->served)
        return a->served < b->served;
    return a->score < b->score;
}

/* Of those that were put back the one that resumes next, by rank: the shortest first, the youngest would
 * take the pages that the oldest needs, only to be put back again. NULL: nobody waits. */
static const struct sequence *next_back(const struct sched *sched)
{
    const struct sequence *next = NULL;
    for (uint32_t i = sched->queues[WAITING].head; i != NONE; i = at(sched, i)->next) {
        const struct sequence *s = at(sched, i);
        if (s->put_back && s->looked != sched->n_plans && !s->paused &&
            (!next || outranks(s, next)))
            next = s;
    }
    return next;
}

/* The first of the queue's prompts that this plan did not look at yet, into best[], sorted. */
static uint32_t collect(const struct sched *sched, enum place place, struct ranked *best,
                        uint32_t n)
{
    const struct sequence *back = place == WAITING ? next_back(sched) : NULL;
    for (uint32_t i = sched->queues[place].head; i != NONE; i = at(sched, i)->next) {
        const struct sequence *s = at(sched, i);
        if (s->looked == sched->n_plans || s->paused || s->planned || s->opened ||
            (place == RUNNING && (generates(s) || s->computed >= s->request.chain->n_tokens)) ||
            (place == WAITING && s->put_back && s != back))
            continue;
        /* Among a key's own prompts the score decides: what it was served is the same for all. */
        struct ranked r = {i, s->request.priority, sched->keys[s->key].served, score(sched, s)};
        uint32_t j = n < BEST ? n++ : BEST;
        if (j == BEST && !goes_first(&r, &best[--j]))
            continue;
        for (; j > 0 && goes_first(&r, &best[j - 1]); j--)
            best[j] = best[j - 1];
        best[j] = r;
    }
    return n;
}

/* Plans a chunk of a running prompt, up to position `end`. False: it got nothing. */
static bool plan_prompt(struct sched *sched, uint32_t index, uint32_t end, uint32_t *budget)
{
    struct sequence *s = at(sched, index);
    const struct sched_config *c = &sched->config;
    const struct kv_chain *chain = s->request.chain;
    uint32_t border = s->computed < chain->n_prompt ? chain->n_prompt : chain->n_tokens;
    if (s->computed < s->scored && s->request.all_outputs)
        border = at_most(border, s->scored); /* rows before it are wanted no more */
    uint32_t rows = at_most(at_most(end, border) - s->computed, *budget);
    if (s->request.chunk)
        rows = at_most(rows, s->request.chunk > c->alignment ? s->request.chunk : c->alignment);
    if (s->request.all_outputs && s->computed >= s->scored)
        rows = at_most(rows, c->max_outputs - sched->n_outputs);
    rows = cut(sched, s, rows);
    if (rows == 0 || plan_is_full(sched))
        return false;
    while (!add_slice(sched, s, rows)) {
        uint32_t victim = find_victim(sched, s, false);
        if (victim == NONE) {
            if (!s->opened && !sched->pressed && s->slot != NONE)
                sched->pressed = s->request.id;
            return false;
        }
        sched_preempt(sched, victim);
    }
    *budget -= s->planned;
    sched->clock += s->planned;
    s->own += s->planned;
    bool whole = s->computed + s->planned >= chain->n_prompt && s->computed < chain->n_prompt;
    if (whole && sched->queues[HELD].count)
        fork_children(sched, index);
    return true;
}

enum outcome { NEXT, FULL };

/* Waits for another sequence to compute what both begin with, and hands it the turn. */
static bool defer(struct sched *sched, const struct sequence *s, const struct kv_match *match,
                  uint32_t *budget)
{
    if (match->pending <= match->cached || match->owner == KV_PAGE_NONE)
        return false;
    uint32_t owner = sched->slot_owner[match->owner];
    struct sequence *o = at(sched, owner);
    if (o->paused || o->request.priority > s->request.priority)
        return false;
    if (o->looked != sched->n_plans && !o->planned && !generates(o) &&
        o->computed < match->pending) {
        o->looked = sched->n_plans;
        plan_prompt(sched, owner, match->pending, budget);
    }
    return true;
}

/* Can the pages that the sequence needs for all it knows be had, beside those promised? */
static bool fits(const struct sched *sched, const struct sequence *s, const struct kv_match *match)
{
    const struct kv_chain *c = s->request.chain;
    uint64_t need = kv_pages_for(sched->kv, c->n_tokens) - kv_pages_for(sched->kv, match->cached) +
                    kv_match_pages(sched->kv, c, match->cached) + kv_state_pages(sched->kv);
    uint64_t whole = kv_pages_for(sched->kv, c->n_tokens);
    need = need < whole ? need : whole;
    /* Room for the running ones to grow a little, so that they need not push it out again. */
    uint64_t margin = sched->queues[RUNNING].count * (uint64_t)kv_groups(sched->kv) / 4;
    return need + sched->promised + margin <= kv_pages_free(sched->kv);
}

/* Everything that must hold so that, once open, the sequence gets at least one chunk. */
static bool has_room(const struct sched *sched, const struct sequence *s, uint32_t budget)
{
    const struct kv_changes *ch = &sched->plan.changes;
    uint32_t least = at_most(s->request.chain->n_tokens, sched->config.alignment);
    return !plan_is_full(sched) && budget >= least &&
           ch->max_writes - ch->n_writes >= sched_least_writes(sched->kv, 1, least);
}

static enum outcome plan_waiting(struct sched *sched, uint32_t index, uint32_t *budget)
{
    struct sequence *s = at(sched, index);
    struct kv_chain *c = s->request.chain;
    if (c->n_tokens < s->awaited)
        return NEXT;
    if (!has_room(sched, s, *budget))
        return FULL;
    struct kv_match match = sched_match(sched, s);
    if (defer(sched, s, &match, budget))
        return NEXT;
    while (sched->n_free_slots == 0 || !fits(sched, s, &match)) {
        uint32_t victim = find_victim(sched, s, true);
        if (victim == NONE)
            return FULL; /* nobody behind it may take what it waits for */
        sched_preempt(sched, victim);
        sched->promised = count_promised(sched);
    }
    struct kv_changes before = sched->plan.changes;
    uint32_t slot = sched->free_slots[sched->n_free_slots - 1];
    if (kv_open(sched->kv, slot, c, &match, &sched->plan.changes, NULL) != STATUS_OK)
        return FULL;
    sched->n_free_slots--;
    sched->slot_owner[slot] = index;
    s->slot = slot;
    s->computed = match.cached;
    s->opened = true;
    queue_move(sched, index, RUNNING);
    if (!plan_prompt(sched, index, c->n_tokens, budget)) {
        sched_put_back(sched, index);
        sched->plan.changes = before;
        return FULL;
    }
    sched->counters.cached_tokens += match.cached;
    sched->promised = count_promised(sched);
    return NEXT;
}

/* Is there a slot, or one that somebody waiting could be given? */
static bool can_admit(const struct sched *sched)
{
    bool any = sched->n_free_slots > 0;
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE && !any; i = at(sched, i)->next)
        any = at(sched, i)->paused;
    uint32_t tail = sched->queues[RUNNING].tail;
    for (uint32_t i = sched->queues[WAITING].head; i != NONE && !any; i = at(sched, i)->next)
        any = at(sched, i)->request.priority < at(sched, tail)->request.priority;
    return any;
}

static void plan_prompts(struct sched *sched)
{
    uint32_t n_prompts = sched->queues[WAITING].count;
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE; i = at(sched, i)->next)
        n_prompts += !generates(at(sched, i));
    if (n_prompts == 0)
        return;
    uint32_t budget = prompt_budget(sched, n_prompts);
    uint32_t pressed = sched->pressed ? sched_find(sched, sched->pressed) : NONE;
    if (pressed != NONE && !generates(at(sched, pressed)))
        plan_prompt(sched, pressed, at(sched, pressed)->request.chain->n_tokens, &budget);
    sched->promised = count_promised(sched);
    bool closed = !can_admit(sched);
    for (int look = 0; look < LOOKS && budget > 0 && !plan_is_full(sched); look++) {
        struct ranked best[BEST];
        uint32_t n = collect(sched, RUNNING, best, 0);
        if (!closed)
            n = collect(sched, WAITING, best, n);
        for (uint32_t i = 0; i < n && budget > 0; i++) {
            struct sequence *s = at(sched, best[i].index);
            if (s->planned || s->looked == sched->n_plans)
                continue;
            s->looked = sched->n_plans;
            if (s->place == RUNNING) {
                plan_prompt(sched, best[i].index, s->request.chain->n_tokens, &budget);
            } else if (!closed) {
                sched->served_floor = best[i].served;
                closed = plan_waiting(sched, best[i].index, &budget) == FULL;
            }
        }
        if (n < BEST)
            break;
    }
}

/* ---- the plan --------------------------------------------------------------------------------- */

/* Takes the pages that a pressed sequence lacked from those behind it. */
static void relieve(struct sched *sched)
{
    uint32_t index = sched->pressed ? sched_find(sched, sched->pressed) : NONE;
    if (index == NONE || at(sched, index)->place != RUNNING || at(sched, index)->paused) {
        sched->pressed = 0;
        return;
    }
    uint32_t victim = find_victim(sched, at(sched, index), false);
    if (victim == NONE)
        sched->pressed = 0;
    else
        sched_preempt(sched, victim);
}

/* A waiting sequence that goes before a running one by priority gets its place, one in a step. */
static void displace(struct sched *sched)
{
    uint32_t tail = sched->queues[RUNNING].tail, first = NONE;
    for (uint32_t i = sched->queues[WAITING].head; i != NONE; i = at(sched, i)->next)
        if (!at(sched, i)->paused && (first == NONE || outranks(at(sched, i), at(sched, first))))
            first = i;
    if (first == NONE || tail == NONE ||
        at(sched, first)->request.priority >= at(sched, tail)->request.priority)
        return;
    struct kv_match match = sched_match(sched, at(sched, first));
    sched->promised = count_promised(sched);
    if (match.pending == match.cached &&
        (sched->n_free_slots == 0 || !fits(sched, at(sched, first), &match)))
        sched_preempt(sched, tail);
}

const struct sched_plan *sched_plan(struct sched *sched)
{
    struct sched_plan *plan = &sched->plan;
    plan->n_slices = plan->n_rows = plan->n_generated = sched->n_outputs = 0;
    plan->changes.n_writes = plan->changes.n_copies = 0;
    sched->n_plans++;
    for (uint32_t i = sched->queues[RUNNING].head; i != NONE; i = at(sched, i)->next) {
        at(sched, i)->planned = 0;
        at(sched, i)->opened = false;
    }
    displace(sched);
    if (sched->pressed)
        relieve(sched);
    plan_generated(sched);
    plan_prompts(sched);
    return plan;
}
