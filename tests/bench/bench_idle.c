/*
 * What sluice costs while nobody asks anything, and how fast it wakes.
 *
 *   bench_idle MODEL [SECONDS=10] [THREADS] [MODELS=1] [CONNECTIONS=16]
 *
 * A server in this process with the model opened MODELS times and idle kept-alive connections. Time of
 * the processor may be counted in ticks of 10 ms where the machine is a virtual one, so the number of
 * times that any thread of the process ran is told as well: idle means that it is zero.
 *
 * Waking is measured where it happens: in the thread pool alone, from run() to a worker's first
 * instruction; and in the engine, from before sluice_submit() to the owner thread (the pool's thread
 * 0) having planned the step that it computes next. All threads have slept for 20 ms by then.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/threads.h"
#include "must.h"
#include "server/server.h"

#define ROUNDS      200
#define CONNECTIONS 1024

static const struct timespec asleep = {0, 20000000};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_latency(const char *what, double *microseconds)
{
    qsort(microseconds, ROUNDS, sizeof *microseconds, by_value);
    printf("%-46s p50 %7.1f us  p99 %7.1f us\n", what, microseconds[ROUNDS / 2],
           microseconds[ROUNDS - 1 - ROUNDS / 100]);
}

static double microseconds(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-3 : 0.0;
}

/* ---- idle -------------------------------------------------------------------------------------- */

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long switches(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw + usage.ru_nivcsw;
}

static void measure_idle(const char *what, long seconds)
{
    const struct timespec settle = {1, 0}, pause = {seconds, 0};
    nanosleep(&settle, NULL);
    double before = processor_seconds();
    long ran = switches();
    nanosleep(&pause, NULL);
    ran = switches() - ran - 1; /* our own sleep */
    printf("%-46s %.4f %% of a core; threads ran %ld times in %ld s\n", what,
           (processor_seconds() - before) / (double)seconds * 100.0, ran, seconds);
}

/* ---- the pool alone ---------------------------------------------------------------------------- */

static uint64_t began[THREADS_MAX];

static void note_time(void *context, uint32_t index, uint32_t n_threads)
{
    (void)context;
    (void)n_threads;
    began[index] = clock_now_ns();
}

static void measure_pool(uint32_t n)
{
    static double first[ROUNDS], last[ROUNDS];
    struct thread_pool *pool;
    struct error err;
    if (n < 2)
        return;
    if (thread_pool_create(n, NULL, &pool, &err) != STATUS_OK)
        fail(err.message);
    for (int i = 0; i < ROUNDS; i++) {
        nanosleep(&asleep, NULL);
        uint64_t from = clock_now_ns(), earliest = UINT64_MAX, latest = 0;
        thread_pool_run(pool, note_time, NULL);
        for (uint32_t k = 1; k < n; k++) {
            earliest = began[k] < earliest ? began[k] : earliest;
            latest = began[k] > latest ? began[k] : latest;
        }
        first[i] = microseconds(from, earliest);
        last[i] = microseconds(from, latest);
    }
    thread_pool_free(pool);
    char what[64];
    snprintf(what, sizeof what, "pool of %u parked threads: first worker", n);
    print_latency(what, first);
    print_latency("  last worker", last);
}

/* ---- the engine -------------------------------------------------------------------------------- */

static atomic_ullong woken;

static void on_wake(void *context)
{
    (void)context;
    unsigned long long none = 0;
    atomic_compare_exchange_strong(&woken, &none, clock_now_ns());
}

/* Up to the first token, or all of them; false: the answer is over. */
static bool next_token(sluice_request *request)
{
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail(event.error.message);
        if (event.kind == SLUICE_EVENT_TOKEN)
            return true;
    }
    return false;
}

static void measure_engine(sluice_engine *engine)
{
    static double planned[ROUNDS], token[ROUNDS], step[ROUNDS];
    sluice_wakeups *wakeups;
    sluice_error error;
    const int32_t prompt = 3;
    must(sluice_wakeups_create(on_wake, NULL, &wakeups, &error), &error);
    sluice_request_options options = {
        .tokens = &prompt,
        .n_tokens = 1,
        .max_tokens = 9,
        .ignore_end = true,
        .report_admission = true,
        .wakeups = wakeups,
        .sampling = {.set = SLUICE_SET_TEMPERATURE},
    };
    for (int i = 0; i < ROUNDS; i++) {
        sluice_request *request;
        nanosleep(&asleep, NULL);
        atomic_store(&woken, 0);
        uint64_t from = clock_now_ns();
        must(sluice_submit(engine, &options, &request, &error), &error);
        next_token(request);
        uint64_t first = clock_now_ns();
        planned[i] = microseconds(from, atomic_load(&woken));
        token[i] = microseconds(from, first);
        while (next_token(request)) {
        }
        step[i] = microseconds(first, clock_now_ns()) / 8;
        sluice_request_free(request);
    }
    sluice_wakeups_free(wakeups);
    print_latency("submit to the step being planned", planned);
    print_latency("submit to the first token of a 1-token prompt", token);
    print_latency("a step of a running stream", step);
}

/* ---- the server -------------------------------------------------------------------------------- */

static sluice_models *open_models(const char *path, uint32_t n, uint32_t n_threads,
                                  sluice_engine **first)
{
    sluice_models *models;
    sluice_error error;
    sluice_models_options options = {
        .engine = {.backend = "cpu",
                   .n_threads = n_threads,
                   .n_context = 2048,
                   .kv_memory = (uint64_t)64 << 20},
        .keep_alive_ms = -1,
    };
    must(sluice_models_create(&options, &models, &error), &error);
    for (uint32_t i = n; i-- > 0;) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        must(sluice_models_add(models, name, path, &error), &error);
        must(sluice_models_hold(models, name, NULL, NULL, NULL, first, &error), &error);
    }
    return models;
}

static void ask(int fd)
{
    static const char question[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char answer[4096];
    if (send(fd, question, sizeof question - 1, 0) < 0 || recv(fd, answer, sizeof answer, 0) <= 0)
        fail("the server does not answer");
}

static void connect_all(const struct http_address *address, int *fds, uint32_t n)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    name.sin_port = htons((uint16_t)atoi(strrchr(address->text, ':') + 1));
    for (uint32_t i = 0; i < n; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (fds[i] < 0 || connect(fds[i], (struct sockaddr *)&name, sizeof name) != 0)
            fail("cannot connect to the server");
        ask(fds[i]);
    }
}

static uint32_t number(int argc, char **argv, int index, uint32_t otherwise)
{
    return argc > index ? (uint32_t)strtoul(argv[index], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    static int fds[CONNECTIONS];
    if (argc < 2)
        fail("usage: bench_idle MODEL [SECONDS=10] [THREADS] [MODELS=1] [CONNECTIONS=16]");
    long seconds = (long)number(argc, argv, 2, 10);
    uint32_t n_threads = number(argc, argv, 3, (uint32_t)sysconf(_SC_NPROCESSORS_ONLN));
    uint32_t n_models = number(argc, argv, 4, 1), n = number(argc, argv, 5, 16);
    struct http_address address;
    struct server *server;
    struct error err;
    sluice_engine *engine = NULL;
    n = n < CONNECTIONS ? n : CONNECTIONS;
    sluice_models *models = open_models(argv[1], n_models ? n_models : 1, n_threads, &engine);
    struct server_options options = {
        .models = models, .model_name = "m0", .addresses = &address, .n_addresses = 1};
    if (http_listen("127.0.0.1:0", false, &address, &err) != STATUS_OK ||
        server_start(&options, &server, &err) != STATUS_OK)
        fail(err.message);
    measure_idle("idle, nothing asked yet", seconds);
    connect_all(&address, fds, n);
    char what[64];
    snprintf(what, sizeof what, "idle, %u connections kept alive", n);
    measure_idle(what, seconds);
    measure_engine(engine);
    measure_idle("idle after that work", seconds);
    measure_pool(n_threads);
    for (uint32_t i = 0; i < n; i++)
        close(fds[i]);
    server_stop(server);
    sluice_models_close(models);
    return 0;
}
