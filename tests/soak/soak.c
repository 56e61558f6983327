/*
 * Soak: an engine under a random crowd for as long as asked, through the public API alone.
 *
 * Clients submit requests of random lengths, sampling, stops and chunk sizes, read them at random
 * paces, cancel some half-way and free some unread. All the while one greedy request must give the
 * same text every time, no request may end in an error, and the process must not grow: resident
 * memory after the first third is compared with the end. The seed is printed.
 *
 *     soak MODEL SECONDS [SEED]       exits 1 on any violation
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sluice.h"

#define CLIENTS        6
#define GROWTH_MAX_KIB (24 * 1024)

static sluice_engine *engine;
static atomic_bool stop;
static atomic_ulong n_finished, n_cancelled, n_abandoned, n_tokens, n_failed, n_checked;
static char *expected; /* of the greedy request */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_ms(long milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(next_random(state) >> 33) % n;
}

static void failed(const char *what, const char *why)
{
    atomic_fetch_add(&n_failed, 1);
    fprintf(stderr, "soak: %s: %s\n", what, why);
}

/* ---- the request that must never change ------------------------------------------------------- */

static char *greedy_text(void)
{
    const sluice_message message = {.role = "user", .content = "Tell me a story about a fox"};
    sluice_request_options options = {
        .messages = &message,
        .n_messages = 1,
        .max_tokens = 60,
        .sampling = {.set = SLUICE_SET_TEMPERATURE, .temperature = 0},
    };
    sluice_request *request = NULL;
    sluice_error error;
    sluice_event event;
    size_t length = 0, capacity = 4096;
    char *text = calloc(1, capacity);
    if (!text || sluice_submit(engine, &options, &request, &error) != SLUICE_OK) {
        failed("greedy request", text ? error.message : "out of memory");
        free(text);
        return NULL;
    }
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            failed("greedy request", event.error.message);
        if (event.kind == SLUICE_EVENT_TEXT && length + event.length < capacity) {
            memcpy(text + length, event.text, event.length);
            length += event.length;
        }
    }
    sluice_request_free(request);
    return text;
}

static void check_greedy(void)
{
    char *text = greedy_text();
    if (text && strcmp(text, expected) != 0)
        failed("the greedy answer changed", text);
    free(text);
    atomic_fetch_add(&n_checked, 1);
}

/* ---- the crowd -------------------------------------------------------------------------------- */

/* A prompt of some of these words, so that prefixes are often shared. */
static void random_prompt(uint64_t *state, char *out, size_t size)
{
    static const char *const words[] = {"fox ", "story ",       "tell ",       "me ",
                                        "why ", "the ",         "blue ",       "{\"a\": 1} ",
                                        "\n\n", "caf\xc3\xa9 ", "<|im_end|> ", "1 2 3 "};
    static const uint32_t lengths[] = {3, 20, 80, 240};
    uint32_t n = 1 + below(state, lengths[below(state, 4)]);
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char *word = words[i < 8 ? i % 5 : below(state, sizeof words / sizeof *words)];
        int written = snprintf(out + at, size - at, "%s", word);
        if (written < 0 || at + (size_t)written >= size)
            return;
        at += (size_t)written;
    }
}

static sluice_sampling random_sampling(uint64_t *state)
{
    sluice_sampling s = {.set = SLUICE_SET_SEED | SLUICE_SET_TEMPERATURE,
                         .seed = next_random(state)};
    s.temperature = (float)below(state, 4) * 0.5f;
    if (below(state, 3) == 0) {
        s.set |= SLUICE_SET_REPEAT_PENALTY | SLUICE_SET_PRESENCE_PENALTY;
        s.repeat_penalty = 1.2f;
        s.presence_penalty = 0.5f;
    }
    if (below(state, 4) == 0) {
        s.set |= SLUICE_SET_DRY | SLUICE_SET_XTC;
        s.dry_multiplier = 0.8f;
        s.xtc_probability = 0.5f;
        s.xtc_threshold = 0.1f;
    }
    if (below(state, 5) == 0) {
        s.set |= SLUICE_SET_MIROSTAT;
        s.mirostat = 2;
    }
    return s;
}

/* Reads to the end, or gives up after some events; true if it ended by itself. */
static void read_events(sluice_request *request, uint64_t *state)
{
    uint32_t patience = below(state, 3) == 0 ? below(state, 20) : UINT32_MAX;
    bool slow = below(state, 8) == 0;
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            failed("request", event.error.message);
        if (event.kind == SLUICE_EVENT_DONE) {
            atomic_fetch_add(&n_tokens, event.usage.output_tokens);
            atomic_fetch_add(event.finish == SLUICE_FINISH_CANCELLED ? &n_cancelled : &n_finished,
                             1);
        }
        if (slow)
            pause_ms(2);
        if (patience-- == 0) {
            if (below(state, 2) == 0) {
                atomic_fetch_add(&n_abandoned, 1);
                return; /* freed unread */
            }
            sluice_request_cancel(request);
            patience = UINT32_MAX;
        }
    }
}

static void one_request(uint64_t *state)
{
    char prompt[4096];
    static const char *const stops[] = {"fox", ".", "nothing like this"};
    random_prompt(state, prompt, sizeof prompt);
    const sluice_message message = {.role = "user", .content = prompt};
    sluice_request_options options = {
        .max_tokens = 1 + below(state, 80),
        .sampling = random_sampling(state),
        .chunk = below(state, 3) == 0 ? 1 + below(state, 40) : 0,
        .ignore_end = below(state, 4) == 0,
        .n_top_logprobs = below(state, 5) == 0 ? 3 : 0,
    };
    if (below(state, 2) == 0)
        options.prompt = prompt;
    else {
        options.messages = &message;
        options.n_messages = 1;
    }
    if (below(state, 3) == 0) {
        options.stops = stops;
        options.n_stops = 3;
    }
    sluice_request *request = NULL;
    sluice_error error;
    if (sluice_submit(engine, &options, &request, &error) != SLUICE_OK) {
        failed("submit", error.message);
        return;
    }
    read_events(request, state);
    sluice_request_free(request);
}

static void *client(void *context)
{
    uint64_t state = *(uint64_t *)context;
    while (!atomic_load(&stop)) {
        one_request(&state);
        if (below(&state, 10) == 0)
            check_greedy();
    }
    return NULL;
}

/* ---- memory ----------------------------------------------------------------------------------- */

/* Resident memory in KiB; 0 where the system does not tell. */
static long resident_kib(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static bool crowd(double seconds, uint64_t seed)
{
    pthread_t threads[CLIENTS];
    uint64_t seeds[CLIENTS];
    double begin = now();
    long early = 0;
    for (int i = 0; i < CLIENTS; i++) {
        seeds[i] = (seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)i * 0x632be59bd9b4e019u;
        if (pthread_create(&threads[i], NULL, client, &seeds[i]) != 0)
            return false;
    }
    while (now() - begin < seconds && atomic_load(&n_failed) == 0) {
        pause_ms(100);
        if (!early && now() - begin > seconds / 3)
            early = resident_kib();
    }
    long late = resident_kib();
    atomic_store(&stop, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    printf(
        "soak: %.0f s, %lu requests finished, %lu cancelled, %lu abandoned, %lu tokens; the greedy "
        "answer was the same %lu times; resident memory %ld MiB, %+ld KiB since the first third\n",
        now() - begin, atomic_load(&n_finished), atomic_load(&n_cancelled),
        atomic_load(&n_abandoned), atomic_load(&n_tokens), atomic_load(&n_checked), late / 1024,
        late - early);
    if (early && late - early > GROWTH_MAX_KIB)
        failed("memory", "the process keeps growing");
    return atomic_load(&n_failed) == 0 && atomic_load(&n_finished) > 0 &&
           atomic_load(&n_checked) > 0;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: soak MODEL SECONDS [SEED]\n");
        return 2;
    }
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : (uint64_t)time(NULL);
    printf("soak: seed %llu\n", (unsigned long long)seed);
    sluice_error error;
    sluice_engine_options options = {
        .model = argv[1], .n_context = 1024, .max_sequences = 4, .kv_memory = 6u << 20};
    if (sluice_engine_open(&options, &engine, &error) != SLUICE_OK) {
        fprintf(stderr, "soak: %s\n", error.message);
        return 1;
    }
    expected = greedy_text();
    bool good = expected && expected[0] && crowd(strtod(argv[2], NULL), seed);
    free(expected);
    sluice_engine_close(engine);
    return good ? 0 : 1;
}
