/*
 * How running answers and warm turns fare while a long prompt comes in, and what a stream costs: the
 * engine in this process, greedy, random tokens. Figures beside those of the same engine undisturbed,
 * so that the ratios mean something on a shared machine.
 *
 *   bench_streams MODEL decode [N=1,8] [TOKENS] [THREADS]   tokens/s of N streams, steps not planned
 *                                                  ahead and planned ahead
 *   bench_streams MODEL gap [PROMPT=8192] [N=8]    gaps of N streams while a prompt arrives
 *   bench_streams MODEL warm [COLD=32768] [TURNS]  200 new tokens on a cached history of 4,096 while
 *                                                  a cold prompt is read: time to first token
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "must.h"
#include "random.h"

#define STREAMS 64
#define GAPS    (1u << 16)
#define HISTORY 4096u
#define TURN    200u

static uint64_t seed = 1;
static uint32_t n_vocab, n_threads;

static int32_t *random_tokens(uint32_t n)
{
    int32_t *tokens = malloc(n * sizeof *tokens);
    for (uint32_t i = 0; tokens && i < n; i++) {
        tokens[i] = (int32_t)(3 + random_u32(&seed) % (n_vocab - 3));
    }
    return tokens ? tokens : (exit(7), NULL);
}

static sluice_engine *open_engine(const char *model, uint32_t context, sluice_ahead ahead)
{
    sluice_engine *engine;
    sluice_error error;
    sluice_engine_options options = {
        .model = model,
        .backend = "cpu",
        .n_threads = n_threads,
        .n_context = context,
        .max_sequences = 32,
        .plan_ahead = ahead,
    };
    must(sluice_engine_open(&options, &engine, &error), &error);
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    n_vocab = info.n_vocab;
    return engine;
}

static sluice_request *submit(sluice_engine *engine, const int32_t *tokens, uint32_t n,
                              uint32_t most)
{
    sluice_request *request;
    sluice_error error;
    sluice_request_options options = {
        .tokens = tokens,
        .n_tokens = n,
        .max_tokens = most,
        .ignore_end = true,
        .sampling = {.set = SLUICE_SET_TEMPERATURE, .temperature = 0.0f},
    };
    must(sluice_submit(engine, &options, &request, &error), &error);
    return request;
}

/* Reads up to `n` tokens; false: the answer is over. */
static bool read_tokens(sluice_request *request, uint32_t n)
{
    sluice_event event;
    while (n && sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            must(event.error.status, &event.error);
        n -= event.kind == SLUICE_EVENT_TOKEN;
    }
    return n == 0;
}

static void drop(sluice_request *request)
{
    sluice_request_cancel(request);
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
    }
    sluice_request_free(request);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double *values, uint32_t n, double p)
{
    qsort(values, n, sizeof *values, by_value);
    return n ? values[(uint32_t)((n - 1) * p)] : 0.0;
}

static double seconds_since(uint64_t begin)
{
    return (double)(clock_now_ns() - begin) * 1e-9;
}

/* ---- decode ------------------------------------------------------------------------------------ */

static double decode_rate(sluice_engine *engine, uint32_t n, uint32_t n_tokens)
{
    sluice_request *requests[STREAMS];
    for (uint32_t i = 0; i < n; i++) {
        int32_t *prompt = random_tokens(16);
        requests[i] = submit(engine, prompt, 16, n_tokens + 16);
        free(prompt);
    }
    for (uint32_t i = 0; i < n; i++)
        read_tokens(requests[i], 8);
    uint64_t begin = clock_now_ns();
    for (uint32_t t = 0; t < n_tokens; t++) /* in turn, so that none pauses for its reader */
        for (uint32_t i = 0; i < n; i++)
            read_tokens(requests[i], 1);
    double rate = n * n_tokens / seconds_since(begin);
    for (uint32_t i = 0; i < n; i++)
        drop(requests[i]);
    return rate;
}

/* Both ways in turn, three times: the machine's mood is the same for both. */
static void run_decode(const char *model, const char *streams, uint32_t n_tokens)
{
    sluice_engine *engines[2] = {open_engine(model, 2048, SLUICE_AHEAD_NEVER),
                                 open_engine(model, 2048, SLUICE_AHEAD_ALWAYS)};
    printf("%-10s %12s %12s   tokens/s, best of 5\n", "streams", "in turn", "ahead");
    while (*streams) {
        char *end;
        uint32_t n = (uint32_t)strtoul(streams, &end, 10);
        double best[2] = {0.0, 0.0};
        for (int i = 0; i < 10; i++) {
            double rate = decode_rate(engines[i % 2], n < STREAMS ? n : STREAMS, n_tokens);
            best[i % 2] = rate > best[i % 2] ? rate : best[i % 2];
        }
        printf("%-10u %12.1f %12.1f\n", n, best[0], best[1]);
        fflush(stdout);
        streams = *end ? end + 1 : end;
    }
    sluice_engine_close(engines[0]);
    sluice_engine_close(engines[1]);
}

/* ---- gaps -------------------------------------------------------------------------------------- */

struct streams {
    sluice_request *requests[STREAMS];
    uint64_t last[STREAMS];
    uint32_t n, n_gaps;
    double gaps[GAPS];
};

/* Notes when tokens come, until `prompt` (may be NULL) has its first or so many gaps are known. */
static void watch(struct streams *s, sluice_request *prompt, uint32_t most)
{
    sluice_event event;
    s->n_gaps = 0;
    memset(s->last, 0, sizeof s->last);
    for (bool arrived = false; !arrived && s->n_gaps < most;) {
        for (uint32_t i = 0; i < s->n; i++)
            while (sluice_request_next(s->requests[i], &event, i == 0)) {
                uint64_t now = clock_now_ns();
                if (event.kind != SLUICE_EVENT_TOKEN)
                    continue;
                if (s->last[i] && s->n_gaps < GAPS)
                    s->gaps[s->n_gaps++] = (double)(now - s->last[i]) * 1e-6;
                s->last[i] = now;
                if (i == 0)
                    break;
            }
        while (prompt && sluice_request_next(prompt, &event, 0))
            arrived |= event.kind == SLUICE_EVENT_TOKEN;
    }
}

static void run_gap(const char *model, uint32_t n_prompt, uint32_t n)
{
    static struct streams s;
    sluice_engine *engine =
        open_engine(model, n_prompt + 256 > 8192 ? n_prompt + 256 : 8192, SLUICE_AHEAD_AUTO);
    s.n = n < STREAMS ? n : STREAMS;
    for (uint32_t i = 0; i < s.n; i++) {
        int32_t *prompt = random_tokens(128);
        s.requests[i] = submit(engine, prompt, 128, 8000);
        free(prompt);
    }
    for (uint32_t i = 0; i < s.n; i++)
        read_tokens(s.requests[i], 4);
    watch(&s, NULL, 60 * s.n);
    double median = percentile(s.gaps, s.n_gaps, 0.5), usual = percentile(s.gaps, s.n_gaps, 0.99);
    int32_t *tokens = random_tokens(n_prompt);
    uint64_t begin = clock_now_ns();
    sluice_request *prompt = submit(engine, tokens, n_prompt, 4);
    watch(&s, prompt, GAPS);
    double took = seconds_since(begin);
    double during = percentile(s.gaps, s.n_gaps, 0.5), p99 = percentile(s.gaps, s.n_gaps, 0.99);
    double most = s.n_gaps ? s.gaps[s.n_gaps - 1] : 0.0;
    printf("%u streams alone: gap median %.2f ms, p99 %.2f\n", s.n, median, usual);
    printf("while %u tokens arrive (%.1f s, %u gaps): median %.2f ms, p99 %.2f, most %.2f\n",
           n_prompt, took, s.n_gaps, during, p99, most);
    printf("p99 / normal median: %.2f (asked: under 2)\n", p99 / median);
    drop(prompt);
    for (uint32_t i = 0; i < s.n; i++)
        drop(s.requests[i]);
    free(tokens);
    sluice_engine_close(engine);
}

/* ---- a warm turn ------------------------------------------------------------------------------- */

/* Another 200 tokens on the same history; the answer is one token. */
static double turn(sluice_engine *engine, const int32_t *history)
{
    int32_t *more = random_tokens(TURN), *all = malloc((HISTORY + TURN) * sizeof *all);
    if (!all)
        exit(7);
    memcpy(all, history, HISTORY * sizeof *all);
    memcpy(all + HISTORY, more, TURN * sizeof *all);
    uint64_t begin = clock_now_ns();
    sluice_request *request = submit(engine, all, HISTORY + TURN, 1);
    read_tokens(request, 1);
    double took = seconds_since(begin) * 1e3;
    drop(request);
    free(more);
    free(all);
    return took;
}

static void run_warm(const char *model, uint32_t n_cold, uint32_t n_turns)
{
    double alone[STREAMS], beside[STREAMS];
    sluice_engine *engine = open_engine(model, n_cold + 256, SLUICE_AHEAD_AUTO);
    n_turns = n_turns < STREAMS ? n_turns : STREAMS;
    int32_t *history = random_tokens(HISTORY), *tokens = random_tokens(n_cold);
    sluice_request *first = submit(engine, history, HISTORY, 1);
    read_tokens(first, 1);
    drop(first);
    for (uint32_t i = 0; i < n_turns; i++)
        alone[i] = turn(engine, history);
    sluice_request *cold = submit(engine, tokens, n_cold, 1);
    uint32_t n = 0;
    sluice_request_progress progress;
    const struct timespec pause = {0, 37000000};
    for (; n < n_turns; n++) {
        nanosleep(&pause, NULL);
        double took = turn(engine, history);
        sluice_request_progress_get(cold, &progress);
        if (progress.ended || progress.output_tokens)
            break; /* the cold one was done before the turn was */
        beside[n] = took;
    }
    double usual = percentile(alone, n_turns, 0.5), p95 = percentile(beside, n, 0.95);
    printf("warm turn alone: median %.1f ms, p95 %.1f\n", usual, percentile(alone, n_turns, 0.95));
    printf("beside a cold prompt of %u (%u turns, %u computed): median %.1f ms, p95 %.1f\n", n_cold,
           n, progress.computed_tokens, percentile(beside, n, 0.5), p95);
    printf("p95 / alone: %.2f (asked: at most 3)\n", p95 / usual);
    drop(cold);
    free(history);
    free(tokens);
    sluice_engine_close(engine);
}

static uint32_t number(int argc, char **argv, int index, uint32_t otherwise)
{
    return argc > index ? (uint32_t)strtoul(argv[index], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[2] : "";
    if (strcmp(what, "decode") == 0) {
        n_threads = number(argc, argv, 5, 0);
        run_decode(argv[1], argc > 3 ? argv[3] : "1,8", number(argc, argv, 4, 64));
    } else if (strcmp(what, "gap") == 0) {
        run_gap(argv[1], number(argc, argv, 3, 8192), number(argc, argv, 4, 8));
    } else if (strcmp(what, "warm") == 0) {
        run_warm(argv[1], number(argc, argv, 3, 32768), number(argc, argv, 4, 20));
    } else {
        fprintf(stderr, "usage: bench_streams MODEL decode|gap|warm [N...]\n");
        return 2;
    }
    return 0;
}
