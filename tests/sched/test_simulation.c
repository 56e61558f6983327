/*
 * A deterministic simulator of crowds: random pools, limits, arrivals, lengths, stops, cancels and
 * pauses on plain integers, with every promise of sched.h and kv.h checked after every step.
 *
 * SLUICE_SIM_SEED (first seed), SLUICE_SIM_SEEDS (how many) and SLUICE_SIM_STEPS override the
 * defaults; a failure prints the seed that shows it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "sched/sched.h"

#define MAX_LIVE   64
#define MAX_SLOTS  8
#define MAX_GROUPS 3
#define MAX_TABLE  520

struct client {
    bool alive, paused;
    struct sched_request request;
    uint32_t next_position; /* the only one that may come next */
    uint32_t stop_after;    /* leaves after so many rows, as if it had drawn an end token */
    uint64_t arrived;       /* order of arrival */
};

struct sim {
    uint64_t seed, random;
    struct kv_config kv_config;
    struct sched_config config;
    struct kv *kv;
    struct sched *sched;
    struct client clients[MAX_LIVE];
    uint64_t n_arrived;
    uint32_t tables[MAX_SLOTS][MAX_GROUPS][MAX_TABLE]; /* what the backend was told */
    uint64_t rows, finished, refused;
};

#define REQUIRE(sim, condition)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("seed %llu, line %d: %s", (unsigned long long)(sim)->seed, __LINE__,          \
                     #condition);                                                                  \
    } while (0)

static uint32_t draw(struct sim *sim, uint32_t n)
{
    sim->random += 0x9e3779b97f4a7c15u;
    uint64_t x = sim->random;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) % n);
}

static void sim_open(struct sim *sim)
{
    struct sched_config *c = &sim->config;
    struct kv_config *k = &sim->kv_config;
    c->n_slots = 1 + draw(sim, MAX_SLOTS);
    c->alignment = draw(sim, 3) ? 1 : 1u << draw(sim, 5);
    uint32_t least = c->n_slots - 1 + c->alignment;
    c->max_rows = least + draw(sim, 60);
    c->max_outputs = least + draw(sim, 30);
    c->max_slices = c->n_slots + draw(sim, 4);
    c->max_queued = 1 + draw(sim, 20);
    c->max_context = 16 + draw(sim, 500);
    k->n_slots = c->n_slots;
    k->n_groups = 1 + draw(sim, MAX_GROUPS);
    k->max_extend = c->max_rows;
    for (uint32_t i = 0; i < k->n_groups; i++) {
        struct kv_group_config *g = &k->groups[i];
        bool recurrent = i > 0 && draw(sim, 3) == 0;
        g->tokens_per_page = recurrent ? 0 : 1u << draw(sim, 6);
        g->fixed_pages = recurrent ? 1 + draw(sim, 4) : 0;
        g->window = draw(sim, 2) ? 0 : 1 + draw(sim, 100);
        g->max_pages = recurrent ? g->fixed_pages
                                 : (c->max_context + g->tokens_per_page - 1) / g->tokens_per_page;
        REQUIRE(sim, g->max_pages <= MAX_TABLE);
    }
    k->n_pages = 8 + draw(sim, 600);
    struct error err;
    REQUIRE(sim, kv_create(k, &sim->kv, &err) == STATUS_OK);
    c->max_writes = (uint32_t)sched_least_writes(sim->kv, c->n_slots, c->alignment) + draw(sim, 40);
    REQUIRE(sim, sched_create(c, sim->kv, &sim->sched, &err) == STATUS_OK);
}

static uint64_t rows_in_all(const struct sched_request *r)
{
    return (uint64_t)r->n_prompt + (r->n_generate ? r->n_generate - 1 : 0);
}

static void arrive(struct sim *sim)
{
    uint32_t i = 0;
    while (i < MAX_LIVE && sim->clients[i].alive)
        i++;
    if (i == MAX_LIVE)
        return;
    struct client *client = &sim->clients[i];
    *client = (struct client){.arrived = sim->n_arrived++};
    client->request = (struct sched_request){
        .id = client->arrived * MAX_LIVE + i,
        .n_prompt = 1 + draw(sim, draw(sim, 4) ? 60 : 500),
        .n_generate = draw(sim, 5) ? draw(sim, 60) : 0,
        .all_outputs = draw(sim, 6) == 0,
        .chunk = draw(sim, 2) ? 0 : 1 + draw(sim, 20),
    };
    const struct sched_request *r = &client->request;
    uint64_t total = rows_in_all(r);
    client->stop_after = draw(sim, 2) ? (uint32_t)total : 1 + draw(sim, (uint32_t)total);
    struct error err;
    uint32_t waiting = sched_waiting(sim->sched);
    enum status status = sched_add(sim->sched, r, &err);
    bool fits = (uint64_t)r->n_prompt + r->n_generate <= sim->config.max_context &&
                kv_pages_for(sim->kv, total) <= sim->kv_config.n_pages;
    REQUIRE(sim, status == STATUS_OK || status == STATUS_LIMIT);
    REQUIRE(sim, (status == STATUS_OK) == (fits && waiting < sim->config.max_queued));
    client->alive = status == STATUS_OK;
    sim->refused += status != STATUS_OK;
}

static void leave(struct sim *sim, struct client *client)
{
    REQUIRE(sim, sched_remove(sim->sched, client->request.id));
    REQUIRE(sim, !sched_remove(sim->sched, client->request.id));
    client->alive = false;
    sim->finished++;
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

/* Every page that the slice's rows read or write is in the table the backend knows. */
static void check_pages(struct sim *sim, const struct sched_slice *slice)
{
    uint32_t end = slice->first_position + slice->n_rows;
    for (uint32_t i = 0; i < sim->kv_config.n_groups; i++) {
        const struct kv_group_config *g = &sim->kv_config.groups[i];
        uint32_t from = 0, to = g->fixed_pages;
        if (g->tokens_per_page) {
            uint32_t first = slice->first_position;
            first = g->window && first + 1 > g->window ? first + 1 - g->window : 0;
            from = first / g->tokens_per_page;
            to = (end + g->tokens_per_page - 1) / g->tokens_per_page;
        }
        for (uint32_t j = from; j < to; j++) {
            uint32_t page = kv_page(sim->kv, slice->slot, i, j);
            REQUIRE(sim, page != KV_PAGE_NONE && page == sim->tables[slice->slot][i][j]);
        }
    }
}

static void check_slice(struct sim *sim, const struct sched_slice *slice)
{
    struct client *client = &sim->clients[slice->id % MAX_LIVE];
    const struct sched_request *r = &client->request;
    REQUIRE(sim, client->alive && !client->paused && r->id == slice->id);
    REQUIRE(sim, slice->first_position == client->next_position);
    REQUIRE(sim, slice->opened == (client->next_position == 0));
    REQUIRE(sim, slice->n_rows > 0);
    uint32_t end = slice->first_position + slice->n_rows;
    REQUIRE(sim, end <= rows_in_all(r));
    REQUIRE(sim, slice->generated == (slice->first_position >= r->n_prompt));
    REQUIRE(sim, slice->last == (end >= r->n_prompt));
    if (slice->generated)
        REQUIRE(sim, slice->n_rows == 1 && !slice->all_outputs);
    else {
        REQUIRE(sim, end <= r->n_prompt);
        REQUIRE(sim, end == r->n_prompt || end % sim->config.alignment == 0);
        uint32_t chunk = r->chunk > sim->config.alignment ? r->chunk : sim->config.alignment;
        REQUIRE(sim, !r->chunk || slice->n_rows <= chunk);
        REQUIRE(sim, slice->all_outputs == r->all_outputs);
    }
    client->next_position = end;
}

/* The oldest that can run did run. */
static void check_progress(struct sim *sim, const struct sched_plan *plan)
{
    const struct client *oldest = NULL;
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
        const struct client *c = &sim->clients[i];
        if (!c->alive)
            continue;
        bool planned = false;
        for (uint32_t j = 0; j < plan->n_slices; j++)
            planned |= plan->slices[j].id == c->request.id;
        bool could = !c->paused && (planned || c->next_position < rows_in_all(&c->request));
        if (could && (!oldest || c->arrived < oldest->arrived))
            oldest = c;
    }
    if (!oldest)
        return;
    for (uint32_t j = 0; j < plan->n_slices; j++)
        if (plan->slices[j].id == oldest->request.id)
            return;
    /* It may wait only for what older, paused ones hold. */
    bool held = false;
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        held |= sim->clients[i].alive && sim->clients[i].paused &&
                sim->clients[i].arrived < oldest->arrived;
    REQUIRE(sim, held && oldest->next_position == 0);
}

static void step(struct sim *sim)
{
    const struct sched_plan *plan = sched_plan(sim->sched);
    REQUIRE(sim, plan->n_slices <= sim->config.max_slices);
    REQUIRE(sim, plan->n_writes <= sim->config.max_writes);
    for (uint32_t i = 0; i < plan->n_writes; i++) {
        const struct kv_write *w = &plan->writes[i];
        sim->tables[w->slot][w->group][w->index] = w->page;
    }
    REQUIRE(sim, plan->n_slices > 0 || plan->n_writes == 0);
    uint32_t rows = 0, outputs = 0, slots = 0;
    for (uint32_t i = 0; i < plan->n_slices; i++) {
        const struct sched_slice *slice = &plan->slices[i];
        check_slice(sim, slice);
        check_pages(sim, slice);
        REQUIRE(sim, !(slots & 1u << slice->slot));
        slots |= 1u << slice->slot;
        rows += slice->n_rows;
        outputs += slice->all_outputs ? slice->n_rows : slice->last;
    }
    REQUIRE(sim, rows == plan->n_rows && rows <= sim->config.max_rows);
    REQUIRE(sim, outputs <= sim->config.max_outputs);
    check_progress(sim, plan);
    sim->rows += rows;
    if (plan->n_slices)
        sched_commit(sim->sched);
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        if (sim->clients[i].alive && sim->clients[i].next_position >= sim->clients[i].stop_after)
            leave(sim, &sim->clients[i]);
    struct error err = {0};
    if (!kv_check(sim->kv, &err))
        fail_msg("seed %llu: %s", (unsigned long long)sim->seed, err.message);
}

/* No more arrivals, everybody reads: then everyone finishes, and in a bounded number of steps. */
static void drain(struct sim *sim)
{
    uint64_t left = 1;
    for (uint32_t i = 0; i < MAX_LIVE; i++) {
        struct client *c = &sim->clients[i];
        if (!c->alive)
            continue;
        c->paused = false;
        REQUIRE(sim, sched_pause(sim->sched, c->request.id, false));
        left += rows_in_all(&c->request) - c->next_position;
    }
    while (sched_running(sim->sched) || sched_waiting(sim->sched)) {
        REQUIRE(sim, left-- > 0);
        step(sim);
    }
    REQUIRE(sim, kv_pages_free(sim->kv) == sim->kv_config.n_pages);
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
    uint64_t n_seeds = number_from("SLUICE_SIM_SEEDS", 2000);
    uint64_t n_steps = number_from("SLUICE_SIM_STEPS", 300);
    uint64_t rows = 0, finished = 0, refused = 0;
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
        rows += sim.rows;
        finished += sim.finished;
        refused += sim.refused;
        sched_free(sim.sched);
        kv_free(sim.kv);
    }
    printf("simulated seeds %llu..%llu, %llu steps each: %llu rows, %llu finished, %llu refused\n",
           (unsigned long long)first, (unsigned long long)(first + n_seeds - 1),
           (unsigned long long)n_steps, (unsigned long long)rows, (unsigned long long)finished,
           (unsigned long long)refused);
    assert_true(finished > n_seeds && refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crowds)};
    return cmocka_run_group_tests_name("simulation", tests, NULL, NULL);
}
