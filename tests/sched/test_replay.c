/*
 * Published traces through scheduler and prefix index, on a clock of its own (a step costs 5 ms and
 * 20 us a row): how much of the Mooncake trace's prompts is reused, against an infinite cache, by
 * the size of the pool; and that the Azure trace's arrivals are served in time.
 *
 * A block of 512 tokens of the trace stands as 32 tokens here, one page, so that hits are the same
 * and the replay is quick. Skips without the data.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "kv_check.h"
#include "sched/sched.h"

#define BLOCK    32
#define SLOTS    128
#define STEP_NS  5000000
#define ROW_NS   20000
#define REQUESTS 9000

struct request {
    uint64_t arrives_ns, first_ns, last_ns;
    uint32_t n_prompt, n_generate;
    int32_t *tokens;
    struct kv_key *keys;
    struct kv_chain chain;
};

static struct request *requests;
static uint32_t n_requests;
static uint64_t n_distinct, n_ideal; /* blocks: different ones; reused by an infinite cache */

static void add_request(uint64_t ns, uint32_t n_prompt, uint32_t n_generate)
{
    assert_true(n_requests < REQUESTS);
    struct request *r = &requests[n_requests++];
    uint32_t n = n_prompt + n_generate;
    *r = (struct request){.arrives_ns = ns, .n_prompt = n_prompt, .n_generate = n_generate};
    r->tokens = calloc(n, sizeof *r->tokens);
    r->keys = calloc(n / KV_BLOCK_MAX + 1, sizeof *r->keys);
    r->chain = (struct kv_chain){
        .tokens = r->tokens, .keys = r->keys, .n_tokens = n_prompt, .n_prompt = n_prompt};
}

static void free_requests(void)
{
    for (uint32_t i = 0; i < n_requests; i++) {
        free(requests[i].tokens);
        free(requests[i].keys);
    }
    free(requests);
    n_requests = 0;
}

static uint64_t number_after(const char *line, const char *name)
{
    const char *at = strstr(line, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

/* One line of the Mooncake trace. Its ids are unique per prefix, so an id seen before is a hit as
 * long as all before it were. */
static void read_mooncake(const char *line, uint8_t *seen, size_t n_seen)
{
    uint64_t ms = number_after(line, "\"timestamp\": ");
    uint32_t out = (uint32_t)number_after(line, "\"output_length\": ");
    const char *at = strstr(line, "\"hash_ids\": [") + strlen("\"hash_ids\": [");
    int32_t ids[512];
    uint32_t n = 0;
    bool hit = true;
    for (char *end; n < 512; at = *end == ',' ? end + 1 : end) {
        unsigned long id = strtoul(at, &end, 10);
        if (end == at)
            break;
        assert_true(id < n_seen);
        hit &= seen[id];
        n_ideal += hit;
        n_distinct += !seen[id];
        seen[id] = 1;
        ids[n++] = (int32_t)id;
    }
    /* One token more, so that all blocks may be reused. */
    add_request(ms * 1000000, n * BLOCK + 1, 1 + out / 16);
    struct request *r = &requests[n_requests - 1];
    for (uint32_t i = 0; i < n * BLOCK; i++)
        r->tokens[i] = ids[i / BLOCK] * BLOCK + (int32_t)(i % BLOCK);
    r->tokens[n * BLOCK] = -(int32_t)n_requests;
}

/* ---- the replay ------------------------------------------------------------------------------- */

struct result {
    uint64_t cached, preempted, longest_gap_ns, end_ns;
    uint32_t finished;
};

static struct result replay(uint32_t n_pages, uint32_t max_context)
{
    struct kv_config kc = {
        .n_pages = n_pages,
        .n_slots = SLOTS,
        .n_groups = 1,
        .max_extend = 2048,
        .groups = {{.tokens_per_page = BLOCK, .max_pages = max_context / BLOCK + 1}}};
    struct sched_config sc = {.n_slots = SLOTS,
                              .max_rows = 2048,
                              .max_outputs = 2048,
                              .max_writes = 16384,
                              .max_copies = SLOTS,
                              .max_queued = REQUESTS,
                              .max_context = max_context};
    struct kv *kv;
    struct sched *sched;
    struct error err = {0};
    assert_ok(kv_create(&kc, &kv, &err), &err);
    assert_ok(sched_create(&sc, kv, &sched, &err), &err);
    struct result result = {0};
    uint64_t now = 0;
    for (uint32_t i = 0; i < n_requests; i++) {
        requests[i].chain.n_tokens = requests[i].n_prompt;
        requests[i].chain.n_keys = 0;
        requests[i].first_ns = requests[i].last_ns = 0;
    }
    for (uint32_t next = 0; next < n_requests || sched_running(sched) || sched_waiting(sched);) {
        for (; next < n_requests && requests[next].arrives_ns <= now; next++) {
            struct sched_request wanted = {.id = next + 1,
                                           .chain = &requests[next].chain,
                                           .n_generate = requests[next].n_generate};
            assert_ok(sched_add(sched, &wanted, &err), &err);
        }
        const struct sched_plan *plan = sched_plan(sched);
        if (plan->n_slices == 0) {
            assert_true(next < n_requests && !sched_waiting(sched));
            now = requests[next].arrives_ns;
            continue;
        }
        uint64_t took = STEP_NS + (uint64_t)plan->n_rows * ROW_NS;
        uint32_t n_generated = plan->n_generated, n_prompt = plan->n_rows - n_generated;
        now += took;
        sched_commit(sched);
        sched_measure(sched, n_generated, n_prompt, took);
        for (uint32_t i = 0; i < plan->n_slices; i++) {
            const struct sched_slice *slice = &plan->slices[i];
            if (!slice->last)
                continue;
            struct request *r = &requests[slice->id - 1];
            if (r->last_ns && now - r->last_ns > result.longest_gap_ns && !slice->opened)
                result.longest_gap_ns = now - r->last_ns;
            r->first_ns = r->first_ns ? r->first_ns : now;
            r->last_ns = now;
            r->tokens[r->chain.n_tokens++] = -1 - (int32_t)slice->id;
            if (r->chain.n_tokens == r->n_prompt + r->n_generate) {
                sched_remove(sched, slice->id);
                result.finished++;
            }
        }
    }
    result.cached = sched_counters(sched).cached_tokens / BLOCK;
    result.preempted = sched_counters(sched).preemptions;
    result.end_ns = now;
    assert_true(kv_check(kv, &err));
    sched_free(sched);
    kv_free(kv);
    return result;
}

static void test_mooncake_prefixes(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/traces/mooncake_synthetic_trace.jsonl");
    if (!path)
        skip();
    struct buf text = fixture_read(path);
    requests = calloc(REQUESTS, sizeof *requests);
    size_t n_seen = 1 << 20;
    uint8_t *seen = calloc(n_seen, 1);
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n"))
        read_mooncake(line, seen, n_seen);
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < n_requests; i++)
        blocks += requests[i].n_prompt / BLOCK;
    printf("mooncake synthetic: %u requests, %llu blocks, an infinite cache reuses %.1f %%\n",
           n_requests, (unsigned long long)blocks, 100.0 * (double)n_ideal / (double)blocks);
    static const double shares[] = {1.5, 0.5, 0.1};
    for (int i = 0; i < 3; i++) {
        uint32_t n_pages = (uint32_t)((double)n_distinct * shares[i]) + 20000;
        struct result r = replay(n_pages, 512 * BLOCK);
        double rate = (double)r.cached / (double)n_ideal;
        printf("  pool of %u pages: %.1f %% of the ideal, %llu preemptions\n", n_pages, 100 * rate,
               (unsigned long long)r.preempted);
        assert_int_equal(r.finished, n_requests);
        assert_true(i > 0 || rate > 0.98);
        assert_true(rate > 0.2);
    }
    free(seen);
    buf_release(&text);
    free_requests();
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* 95 % of first tokens come within this where prompts are computed one after the other as they arrive,
 * by a processor that has four fifths of its time for them: the share that a step leaves them beside
 * running answers. The trace's bursts (for 10 s 140 % of what the processor computes) cost everybody
 * seconds, whatever the order. */
static double queue_p95(void)
{
    uint64_t *waits = calloc(n_requests, sizeof *waits), now = 0;
    for (uint32_t i = 0; i < n_requests; i++) {
        now = now > requests[i].arrives_ns ? now : requests[i].arrives_ns;
        now += requests[i].n_prompt * (uint64_t)ROW_NS / 4 * 5;
        waits[i] = now - requests[i].arrives_ns;
    }
    qsort(waits, n_requests, sizeof *waits, by_value);
    double p95 = (double)waits[n_requests / 20 * 19];
    free(waits);
    return p95;
}

static void test_azure_arrivals(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/traces/AzureLLMInferenceTrace_code.csv");
    if (!path)
        skip();
    struct buf text = fixture_read(path);
    requests = calloc(REQUESTS, sizeof *requests);
    double start = -1;
    for (char *line = strtok(text.data, "\n"); line && n_requests < 3000;
         line = strtok(NULL, "\n")) {
        int h, m;
        double s;
        unsigned prompt, out;
        if (sscanf(line, "%*d-%*d-%*d %d:%d:%lf,%u,%u", &h, &m, &s, &prompt, &out) != 5)
            continue;
        double t = 3600.0 * h + 60.0 * m + s;
        start = start < 0 ? t : start;
        add_request((uint64_t)((t - start) * 1e9), prompt ? prompt : 1, out ? out : 1);
        for (uint32_t i = 0; i < requests[n_requests - 1].n_prompt; i++)
            requests[n_requests - 1].tokens[i] = (int32_t)(n_requests * 10000 + i);
    }
    struct result r = replay(40000, 16384);
    uint64_t *waits = calloc(n_requests, sizeof *waits), busy = 0;
    for (uint32_t i = 0; i < n_requests; i++) {
        waits[i] = requests[i].first_ns - requests[i].arrives_ns;
        busy += (uint64_t)(requests[i].n_prompt + requests[i].n_generate) * ROW_NS;
    }
    qsort(waits, n_requests, sizeof *waits, by_value);
    double p95 = (double)waits[n_requests / 20 * 19], queue = queue_p95();
    printf("azure code: %u requests, load %.0f %%; time to first token p50 %.0f ms, p95 %.0f ms (a "
           "queue in front of four fifths of the processor: %.0f); longest gap %.0f ms\n",
           n_requests, 100.0 * (double)busy / (double)r.end_ns,
           (double)waits[n_requests / 2] * 1e-6, p95 * 1e-6, queue * 1e-6,
           (double)r.longest_gap_ns * 1e-6);
    assert_true(p95 < 1.1 * queue);
    assert_int_equal(r.finished, n_requests);
    assert_true(r.longest_gap_ns < 300000000);
    free(waits);
    buf_release(&text);
    free_requests();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mooncake_prefixes),
        cmocka_unit_test(test_azure_arrivals),
    };
    return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
