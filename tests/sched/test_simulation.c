/*
 * A deterministic simulator of crowds: random pools, limits, arrivals with shared beginnings, next
 * turns, forks, priorities, keys, stops, cancels and pauses, on a backend that is memory only. Every
 * page holds, for each position, the hash of all tokens up to there, so a page that is reused wrongly,
 * written twice, copied too late or evicted too early shows as a wrong hash where a row reads it.
 * Where all is to be reproducible, the hash is of their numeric classes too, and whose class a row has
 * is kept beside it: nobody reads a prompt's rows for what it generated itself.
 *
 * SLUICE_SIM_SEED (first seed), SLUICE_SIM_SEEDS (how many) and SLUICE_SIM_STEPS override the
 * defaults; a failure prints the seed that shows it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "kv_check.h"
#include "random.h"
#include "sched/sched.h"

#define MAX_LIVE    32
#define MAX_SLOTS   8
#define MAX_GROUPS  3
#define MAX_CONTEXT 256
#define MAX_TABLE   256
#define MAX_PAGES   256
#define PAGE_TOKENS 48

struct client {
    bool alive, paused;
    struct sched_request request;
    struct kv_chain chain;
    int32_t tokens[MAX_CONTEXT];
    uint64_t hashes[MAX_CONTEXT + 1]; /* of the first i tokens, see append() */
    struct kv_key keys[MAX_CONTEXT];
    uint32_t next, slot; /* the only position that may come next, and where */
    uint32_t n_drawn, stop_after, scored;
    bool in_flight;           /* the newest token is not known to the scheduler yet */
    uint64_t arrived, served; /* order of arrival; step of the last row */
};

struct sim {
    uint64_t seed, random;
    struct kv_config kv_config;
    struct sched_config config;
    struct kv *kv;
    struct sched *sched;
    uint32_t n_forks; /* of the slice that runs: they share what it writes from the next step on */
    bool ahead;       /* tokens become known a step late */
    bool timed;       /* the scheduler learns times */
    struct client clients[MAX_LIVE];
    uint64_t n_arrived, n_steps, quiet;                /* quiet: steps without a slice */
    uint32_t tables[MAX_SLOTS][MAX_GROUPS][MAX_TABLE]; /* what the backend was told */
    uint64_t pages[MAX_PAGES][PAGE_TOKENS];
    bool generated[MAX_PAGES][PAGE_TOKENS];
    uint32_t prompt_rows[MAX_PAGES]; /* a state's: the end of the last ones of prompt class in it */
    uint64_t n_rows, n_finished, n_refused, n_cached, n_preempted, n_forked, n_copies;
};

#define REQUIRE(sim, condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("seed %llu, step %llu, line %d: %s", (unsigned long long)(sim)->seed,         \
                     (unsigned long long)(sim)->n_steps, __LINE__, #condition);                    \
    } while (0)

static uint32_t draw(struct sim *sim, uint32_t n)
{
    return (uint32_t)(random_u64(&sim->random) % n);
}

/* Sanitizers make it some ten times slower. */
#if SANITIZED
#define SEEDS 500
#else
#define SEEDS 10000
#endif

/* ---- the pool and its limits ------------------------------------------------------------------ */

static void draw_groups(struct sim *sim)
{
    struct kv_config *k = &sim->kv_config;
    bool alone = draw(sim, 8) == 0; /* all groups may be recurrent */
    k->n_groups = 1 + draw(sim, MAX_GROUPS);
    for (uint32_t i = 0; i < k->n_groups; i++) {
        struct kv_group_config *g = &k->groups[i];
        bool recurrent = (i > 0 || alone) && draw(sim, 2) == 0;
        uint32_t tokens = draw(sim, 2) ? 1u << draw(sim, 6) : 3u << draw(sim, 5);
        g->tokens_per_page = recurrent ? 0 : tokens;
        g->fixed_pages = recurrent ? 2 * (1 + draw(sim, 2)) : 0;
        g->window = recurrent || draw(sim, 2) ? 0 : 1 + draw(sim, 100);
        g->max_pages =
            recurrent ? g->fixed_pages
                      : (sim->config.max_context + g->tokens_per_page - 1) / g->tokens_per_page;
    }
}

static void sim_open(struct sim *sim)
{
    struct sched_config *c = &sim->config;
    struct kv_config *k = &sim->kv_config;
    struct error err;
    c->n_slots = 1 + draw(sim, MAX_SLOTS);
    c->alignment = draw(sim, 3) ? 1 : 1u << draw(sim, 4);
    uint32_t least = c->n_slots - 1 + c->alignment;
    c->max_rows = least + draw(sim, 60);
    c->max_outputs = least + draw(sim, 30);
    c->max_queued = 1 + draw(sim, 20);
    c->max_context = 16 + draw(sim, MAX_CONTEXT - 16);
    c->max_gap_us = draw(sim, 2) ? 0 : 1 + draw(sim, 2000);
    c->rows_together = draw(sim, 2) ? 1 : draw(sim, 20);
    k->n_slots = c->n_slots;
    k->max_extend = c->max_rows;
    k->no_index = draw(sim, 8) == 0;
    k->reproducible = draw(sim, 4) == 0;
    k->one_class = draw(sim, 4) == 0;
    k->seed = sim->seed;
    k->alignment = c->alignment;
    k->checkpoint_every = 16 + draw(sim, 100);
    k->checkpoint_pages = draw(sim, 30);
    k->n_pages = draw(sim, 8) ? 8 + draw(sim, draw(sim, 2) ? 60 : MAX_PAGES - 8) : 1 + draw(sim, 3);
    draw_groups(sim);
    sim->ahead = draw(sim, 2);
    sim->timed = draw(sim, 2);
    REQUIRE(sim, kv_create(k, &sim->kv, &err) == STATUS_OK);
    c->max_writes = (uint32_t)sched_least_writes(sim->kv, c->n_slots, c->alignment) + draw(sim, 40);
    c->max_copies = c->n_slots * k->n_groups;
    REQUIRE(sim, sched_create(c, sim->kv, &sim->sched, &err) == STATUS_OK);
}

/* ---- clients ---------------------------------------------------------------------------------- */

static void append(const struct sim *sim, struct client *client, int32_t token, uint32_t at,
                   bool generated)
{
    bool told = sim->kv_config.reproducible && !sim->kv_config.one_class;
    uint64_t row_class = generated && told ? 1000 : 0;
    client->tokens[at] = token;
    client->hashes[at + 1] = random_mix(client->hashes[at] * 31 + (uint64_t)token + row_class + 1);
}

/* A prompt: the first part of one of a few documents, or what somebody asked and was answered, then
 * something of its own. */
static void draw_prompt(struct sim *sim, struct client *client, uint32_t n)
{
    uint32_t document = draw(sim, 3), shared = draw(sim, 4) ? draw(sim, n + 1) : n;
    const struct client *before = &sim->clients[draw(sim, MAX_LIVE)];
    bool turn = before != client && draw(sim, 3) == 0;
    if (turn && shared > before->chain.n_tokens)
        shared = before->chain.n_tokens;
    client->hashes[0] = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = i < shared ? random_mix(document * 1000 + i) : random_mix(sim->random + i);
        append(sim, client, turn && i < shared ? before->tokens[i] : (int32_t)(x % 1000), i, false);
    }
}

static struct client *parent_for(struct sim *sim)
{
    struct client *parent = &sim->clients[draw(sim, MAX_LIVE)];
    return parent->alive && draw(sim, 3) == 0 ? parent : NULL;
}

static void arrive(struct sim *sim)
{
    uint32_t i = 0;
    while (i < MAX_LIVE && sim->clients[i].alive)
        i++;
    if (i == MAX_LIVE)
        return;
    const struct client *parent = parent_for(sim);
    struct client *client = &sim->clients[i];
    *client = (struct client){.arrived = ++sim->n_arrived, .served = sim->n_steps};
    uint32_t n = 1 + draw(sim, draw(sim, 4) ? 60 : MAX_CONTEXT - 1);
    if (parent) {
        n = parent->chain.n_prompt;
        memcpy(client->tokens, parent->tokens, sizeof client->tokens);
        memcpy(client->hashes, parent->hashes, sizeof client->hashes);
    } else {
        draw_prompt(sim, client, n);
    }
    client->chain = (struct kv_chain){.tokens = client->tokens,
                                      .keys = client->keys,
                                      .salt = parent ? parent->chain.salt : draw(sim, 8) == 0,
                                      .n_tokens = n,
                                      .n_prompt = n};
    client->request = (struct sched_request){
        .id = client->arrived * MAX_LIVE + i,
        .chain = &client->chain,
        .n_generate = parent || draw(sim, 5) ? 1 + draw(sim, 60) : 0,
        .all_outputs = !parent && draw(sim, 6) == 0,
        .chunk = draw(sim, 2) ? 0 : 1 + draw(sim, 20),
        .priority = draw(sim, 4) ? 0 : (int32_t)draw(sim, 5) - 2,
        .key = draw(sim, 3),
        .parent = parent ? parent->request.id : 0,
    };
    const struct sched_request *r = &client->request;
    client->stop_after = draw(sim, 2) ? UINT32_MAX : 1 + draw(sim, r->n_generate + 1);
    struct error err;
    bool fits = (uint64_t)n + r->n_generate <= sim->config.max_context &&
                kv_pages_for(sim->kv, n + (r->n_generate ? r->n_generate - 1 : 0)) <=
                    sim->kv_config.n_pages;
    bool full = sched_waiting(sim->sched) >= sim->config.max_queued;
    enum status status = sched_add(sim->sched, r, &err);
    REQUIRE(sim, status == STATUS_OK || status == STATUS_CONTEXT || status == STATUS_BUSY);
    REQUIRE(sim, status != STATUS_OK || (fits && !full));
    REQUIRE(sim, status == STATUS_OK || !fits || full);
    client->alive = status == STATUS_OK;
    sim->n_refused += status != STATUS_OK;
}

static void leave(struct sim *sim, struct client *client)
{
    REQUIRE(sim, sched_remove(sim->sched, client->request.id));
    REQUIRE(sim, !sched_remove(sim->sched, client->request.id));
    client->alive = false;
    sim->n_finished++;
}

/* Somebody arrives, leaves, stops or starts reading. */
static void disturb(struct sim *sim)
{
    while (draw(sim, 3) == 0)
        arrive(sim);
    struct client *client = &sim->clients[draw(sim, MAX_LIVE)];
    if (!client->alive)
        return;
    uint32_t choice = draw(sim, 12);
    if (choice == 0)
        leave(sim, client);
    else if (choice < 4) {
        client->paused = choice == 1;
        REQUIRE(sim, sched_pause(sim->sched, client->request.id, client->paused));
    }
}

/* ---- the backend ------------------------------------------------------------------------------ */

struct cell {
    uint64_t *hash;
    bool *generated;
};

static struct cell cell(struct sim *sim, uint32_t slot, uint32_t group, uint32_t position)
{
    uint32_t tokens = sim->kv_config.groups[group].tokens_per_page;
    uint32_t index = position / tokens, page = kv_page(sim->kv, slot, group, index);
    REQUIRE(sim, page != KV_PAGE_NONE && page == sim->tables[slot][group][index]);
    return (struct cell){&sim->pages[page][position % tokens],
                         &sim->generated[page][position % tokens]};
}

static void check_spot(struct sim *sim, const struct client *client,
                       const struct sched_slice *slice, uint32_t group, uint32_t position)
{
    struct cell c = cell(sim, slice->slot, group, position);
    REQUIRE(sim, *c.hash == client->hashes[position + 1]);
    bool own = position >= client->chain.n_prompt;
    REQUIRE(sim, !own || *c.generated || sim->kv_config.one_class);
}

/* Reads what the rows from `from` on need, spot by spot, then writes the rows. */
static void run_group(struct sim *sim, const struct client *client, const struct sched_slice *slice,
                      uint32_t group)
{
    const struct kv_group_config *g = &sim->kv_config.groups[group];
    uint32_t from = slice->first_position, end = from + slice->n_rows;
    uint32_t begin = g->window && from + 1 > g->window ? from + 1 - g->window : 0;
    const uint32_t spots[3] = {begin, from ? from - 1 : 0, begin + draw(sim, from - begin + 1)};
    for (int i = 0; i < 3; i++)
        if (spots[i] >= begin && spots[i] < from)
            check_spot(sim, client, slice, group, spots[i]);
    for (uint32_t p = from; p < end; p++) {
        struct cell to = cell(sim, slice->slot, group, p);
        uint32_t page = sim->tables[slice->slot][group][p / g->tokens_per_page];
        /* No two names for what is written. */
        REQUIRE(sim, kv_page_count(sim->kv, page) == 1 + sim->n_forks);
        *to.hash = client->hashes[p + 1];
        *to.generated = slice->generated;
    }
}

static void run_state(struct sim *sim, const struct client *client, const struct sched_slice *slice,
                      uint32_t group)
{
    uint32_t half = sim->kv_config.groups[group].fixed_pages / 2;
    const uint32_t *table = sim->tables[slice->slot][group];
    for (uint32_t i = 0; i < half; i++) {
        uint32_t read = table[slice->state * half + i],
                 write = table[(1 - slice->state) * half + i];
        uint32_t prompt_rows = 0;
        if (slice->first_position) {
            REQUIRE(sim, sim->pages[read][0] == client->hashes[slice->first_position]);
            prompt_rows = sim->prompt_rows[read];
        }
        REQUIRE(sim, prompt_rows <= client->chain.n_prompt || sim->kv_config.one_class);
        REQUIRE(sim, write < sim->kv_config.n_pages &&
                         kv_page_count(sim->kv, write) == 1 + sim->n_forks);
        uint32_t end = slice->first_position + slice->n_rows;
        sim->pages[write][0] = client->hashes[end];
        sim->prompt_rows[write] = slice->generated ? prompt_rows : end;
    }
}

/* The token after the slice, drawn from what precedes it and whose it is. */
static void draw_token(struct sim *sim, struct client *client, uint32_t end)
{
    const struct sched_request *r = &client->request;
    if (client->n_drawn >= r->n_generate || client->in_flight)
        return;
    uint32_t n = client->chain.n_tokens;
    REQUIRE(sim, n == client->chain.n_prompt + client->n_drawn);
    REQUIRE(sim, n == end); /* else it was drawn before */
    if (n < MAX_CONTEXT)
        append(sim, client, (int32_t)(random_mix(client->hashes[n] + r->id % 3) % 1000), n, true);
    client->n_drawn++;
    client->in_flight = true;
}

static void token_known(struct client *client)
{
    if (!client->in_flight)
        return;
    client->in_flight = false;
    if (client->chain.n_tokens < MAX_CONTEXT)
        client->chain.n_tokens++;
}

/* ---- checks ----------------------------------------------------------------------------------- */

static void check_slice(struct sim *sim, const struct sched_plan *plan,
                        const struct sched_slice *slice)
{
    struct client *client = &sim->clients[slice->id % MAX_LIVE];
    const struct sched_request *r = &client->request;
    uint32_t n_prompt = client->chain.n_prompt, end = slice->first_position + slice->n_rows;
    REQUIRE(sim, client->alive && !client->paused == !client->paused && r->id == slice->id);
    if (slice->n_rows == 0) {
        const struct sched_slice *parent = &plan->slices[slice->fork_of];
        REQUIRE(sim, slice->opened && slice->last);
        REQUIRE(sim, sim->clients[parent->id % MAX_LIVE].chain.n_prompt == n_prompt);
        REQUIRE(sim, parent->last);
        REQUIRE(sim, end == n_prompt && client->n_drawn == 0);
        REQUIRE(sim, parent->first_position + parent->n_rows == n_prompt);
        sim->n_forked++;
    } else {
        REQUIRE(sim, !client->paused);
        REQUIRE(sim, slice->opened ||
                         (slice->first_position == client->next && slice->slot == client->slot));
        REQUIRE(sim, !slice->opened || slice->first_position == slice->cached);
        REQUIRE(sim, slice->generated == (slice->first_position >= n_prompt));
        REQUIRE(sim, slice->generated || end <= n_prompt);
        REQUIRE(sim, end <= n_prompt + client->n_drawn);
        REQUIRE(sim, slice->last == (end >= client->chain.n_tokens));
        REQUIRE(sim, end % sim->config.alignment == 0 || end == n_prompt || slice->last);
        uint32_t chunk = r->chunk > sim->config.alignment ? r->chunk : sim->config.alignment;
        REQUIRE(sim, !r->chunk || slice->n_rows <= chunk);
        if (slice->all_outputs)
            REQUIRE(sim, r->all_outputs && slice->first_position == client->scored);
        else
            REQUIRE(sim, !r->all_outputs || slice->generated || end <= client->scored);
    }
    if (slice->all_outputs)
        client->scored = end;
    client->next = end;
    client->slot = slice->slot;
    client->served = sim->n_steps;
    sim->n_cached += slice->opened ? slice->cached : 0;
}

static bool has_rows(const struct client *c)
{
    uint32_t total = c->chain.n_prompt + (c->request.n_generate ? c->request.n_generate - 1 : 0);
    return c->alive && !c->paused && c->next < total;
}

static void check_progress(struct sim *sim, const struct sched_plan *plan)
{
    bool any = false;
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
        const struct client *c = &sim->clients[i];
        /* A fork may wait for a parent whose reader sleeps. */
        any |= has_rows(c) && !c->request.parent;
        /* Nobody who could run waits for ever, whoever else comes. */
        if (has_rows(c) && !c->request.parent)
            REQUIRE(sim, sim->n_steps - c->served < 4000);
    }
    sim->quiet = plan->n_slices || !any ? 0 : sim->quiet + 1;
    REQUIRE(sim, sim->quiet < 2);
}

static void check_plan(struct sim *sim, const struct sched_plan *plan)
{
    REQUIRE(sim, plan->n_slices <= sim->config.n_slots);
    REQUIRE(sim, plan->changes.n_writes <= sim->config.max_writes);
    REQUIRE(sim, plan->n_slices > 0 || plan->changes.n_writes + plan->changes.n_copies == 0);
    uint32_t rows = 0, outputs = 0, slots = 0;
    for (uint32_t i = 0; i < plan->n_slices; i++) {
        const struct sched_slice *slice = &plan->slices[i];
        REQUIRE(sim, !(slots & 1u << slice->slot));
        slots |= 1u << slice->slot;
        rows += slice->n_rows;
        outputs += slice->all_outputs ? slice->n_rows : slice->last;
    }
    REQUIRE(sim, rows == plan->n_rows && rows <= sim->config.max_rows);
    REQUIRE(sim, outputs <= sim->config.max_outputs);
}

/* ---- steps ------------------------------------------------------------------------------------ */

static void run_plan(struct sim *sim, const struct sched_plan *plan)
{
    for (uint32_t i = 0; i < plan->changes.n_writes; i++) {
        const struct kv_write *w = &plan->changes.writes[i];
        sim->tables[w->slot][w->group][w->index] = w->page;
    }
    for (uint32_t i = 0; i < plan->changes.n_copies; i++) {
        const struct kv_copy *c = &plan->changes.copies[i];
        memcpy(sim->pages[c->to], sim->pages[c->from], sizeof sim->pages[0]);
        memcpy(sim->generated[c->to], sim->generated[c->from], sizeof sim->generated[0]);
    }
    sim->n_copies += plan->changes.n_copies;
    for (uint32_t i = 0; i < plan->n_slices; i++) {
        const struct sched_slice *slice = &plan->slices[i];
        check_slice(sim, plan, slice);
        const struct client *client = &sim->clients[slice->id % MAX_LIVE];
        sim->n_forks = 0;
        for (uint32_t j = i + 1; j < plan->n_slices; j++)
            sim->n_forks += plan->slices[j].n_rows == 0 && plan->slices[j].fork_of == i;
        for (uint32_t g = 0; slice->n_rows && g < sim->kv_config.n_groups; g++)
            if (sim->kv_config.groups[g].tokens_per_page)
                run_group(sim, client, slice, g);
            else
                run_state(sim, client, slice, g);
    }
}

static void step(struct sim *sim)
{
    sim->n_steps++;
    const struct sched_plan *plan = sched_plan(sim->sched);
    check_plan(sim, plan);
    run_plan(sim, plan);
    check_progress(sim, plan);
    sim->n_rows += plan->n_rows;
    for (uint32_t i = 0; sim->ahead && i < MAX_LIVE; i++)
        token_known(&sim->clients[i]);
    for (uint32_t i = 0; i < plan->n_slices; i++) {
        const struct sched_slice *slice = &plan->slices[i];
        if (slice->last)
            draw_token(sim, &sim->clients[slice->id % MAX_LIVE],
                       slice->first_position + slice->n_rows);
    }
    if (draw(sim, 16) == 0 && plan->n_slices) { /* one leaves between submission and results */
        struct client *client = &sim->clients[plan->slices[0].id % MAX_LIVE];
        if (client->alive)
            leave(sim, client);
    }
    if (plan->n_slices)
        sched_commit(sim->sched);
    if (sim->timed && plan->n_slices)
        sched_measure(sim->sched, plan->n_generated, plan->n_rows - plan->n_generated,
                      50000 + 1000 * plan->n_generated + 3000 * plan->n_rows);
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
        struct client *c = &sim->clients[i];
        if (!sim->ahead)
            token_known(c);
        uint32_t n = c->request.n_generate;
        bool done = n ? c->n_drawn >= (n < c->stop_after ? n : c->stop_after)
                      : c->next == c->chain.n_prompt;
        if (c->alive && done)
            leave(sim, c);
    }
    struct error err = {0};
    if (!kv_check(sim->kv, &err))
        fail_msg("seed %llu, step %llu: %s", (unsigned long long)sim->seed,
                 (unsigned long long)sim->n_steps, err.message);
}

/* No more arrivals, everybody reads: then everyone finishes, and in a bounded number of steps. */
static void drain(struct sim *sim)
{
    uint64_t left = 1000;
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
        struct client *c = &sim->clients[i];
        if (!c->alive)
            continue;
        c->paused = false;
        REQUIRE(sim, sched_pause(sim->sched, c->request.id, false));
        left += 4 * (uint64_t)(c->chain.n_prompt + c->request.n_generate);
    }
    while (sched_running(sim->sched) || sched_waiting(sim->sched)) {
        REQUIRE(sim, left-- > 0);
        step(sim);
    }
    REQUIRE(sim, kv_pages_free(sim->kv) == sim->kv_config.n_pages);
    kv_forget(sim->kv);
    REQUIRE(sim, kv_pages_cached(sim->kv) == 0);
    struct error err = {0};
    REQUIRE(sim, kv_check(sim->kv, &err));
}

static uint64_t number_from(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : fallback;
}

static void test_crowds(void **state)
{
    (void)state;
    uint64_t first = number_from("SLUICE_SIM_SEED", 1);
    uint64_t n_seeds = number_from("SLUICE_SIM_SEEDS", SEEDS);
    uint64_t n_steps = number_from("SLUICE_SIM_STEPS", 300);
    uint64_t rows = 0, finished = 0, refused = 0, cached = 0, preempted = 0, forked = 0, copies = 0;
    static struct sim sim;
    for (uint64_t seed = first; seed < first + n_seeds; seed++) {
        memset(&sim, 0, sizeof sim);
        sim.seed = sim.random = seed;
        sim_open(&sim);
        for (uint64_t i = 0; i < n_steps; i++) {
            disturb(&sim);
            step(&sim);
        }
        drain(&sim);
        rows += sim.n_rows;
        finished += sim.n_finished;
        refused += sim.n_refused;
        cached += sim.n_cached;
        forked += sim.n_forked;
        copies += sim.n_copies;
        preempted += sched_counters(sim.sched).preemptions;
        sched_free(sim.sched);
        kv_free(sim.kv);
    }
    printf(
        "simulated seeds %llu..%llu, %llu steps each: %llu rows, %llu rows reused, %llu finished, "
        "%llu refused, %llu preemptions, %llu forks, %llu copies\n",
        (unsigned long long)first, (unsigned long long)(first + n_seeds - 1),
        (unsigned long long)n_steps, (unsigned long long)rows, (unsigned long long)cached,
        (unsigned long long)finished, (unsigned long long)refused, (unsigned long long)preempted,
        (unsigned long long)forked, (unsigned long long)copies);
    if (n_seeds >= 100)
        assert_true(finished > n_seeds && refused && cached && preempted && forked && copies);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crowds)};
    return cmocka_run_group_tests_name("simulation", tests, NULL, NULL);
}
