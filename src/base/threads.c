/*
 * The thread pool.
 *
 * Everything waits in one way, on a "gate": a counter that only grows, read while spinning, and a
 * condition variable for those who gave up spinning. Opening a gate costs one store and one load
 * when nobody sleeps. No wake-up can be lost: the sleeper announces itself before it reads the
 * counter again, the opener raises the counter before it looks for sleepers, and all four accesses
 * are sequentially consistent, so at least one side sees the other.
 *
 *   start    opened by run() with fn and context set; workers wait here between runs
 *   barrier  opened by the last thread to arrive
 *   done     opened by the last worker to finish; the caller waits here
 *
 * A condition variable rather than a futex, because it exists on every system and thread sanitizer
 * understands it; only the slow path pays for it. Two of them, used in turn: glibc before 2.41 can lose
 * a wake-up when a thread that was just woken waits on the same variable again while others of its
 * broadcast are still waking (its bug 25847; at the barrier of two threads on a busy machine that took
 * seconds to happen). Nobody returns to a variable before all have left it, since the opening after
 * next takes everybody.
 *
 * Spinning is worth it while the others run. Where one of them is on the spinning thread's own
 * processor, or was woken and has not run yet, it may wait for just that processor: systems that pack
 * waking threads together (virtual machines do, to leave processors to others) made every barrier of
 * a step cost its 50 us. So each thread notes where it runs, and who waits for one that is not known to
 * be elsewhere yields. Yielding always would hand the processor to other programs; moving threads
 * apart and binding them measured no better (docs/measurements).
 */
#ifdef __linux__
#define _GNU_SOURCE /* pthread_setaffinity_np, sched_getcpu */
#endif
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

#define CACHE_LINE         64
#define SPIN_US_DEFAULT    50
#define PAUSES_PER_READING 16 /* between looks at the clock, which costs about as much */

struct gate {
    _Alignas(CACHE_LINE) atomic_uint opened; /* how often; wraps, only inequality is tested */
    atomic_uint sleepers;
    _Alignas(CACHE_LINE) pthread_mutex_t mutex;
    pthread_cond_t conds[2]; /* of even and odd openings */
};

struct worker {
    _Alignas(CACHE_LINE)
        atomic_int processor; /* noted by itself; UNKNOWN while it sleeps or wakes */
    struct thread_pool *pool;
    pthread_t thread; /* of the caller (index 0): none */
    uint32_t index;
};

#define UNKNOWN (-1)

struct thread_pool {
    struct gate start, barrier, done;
    _Alignas(CACHE_LINE) atomic_uint arrived; /* at the barrier */
    _Alignas(CACHE_LINE) atomic_uint running; /* workers that have not finished this run */
    /* Written by the caller before it opens start, read by workers after. */
    _Alignas(CACHE_LINE) thread_pool_fn fn;
    void *context;
    bool quit;
    uint32_t n_threads;
    uint64_t spin_ns;
    uint32_t n_started;     /* workers with a thread */
    struct worker *workers; /* [n_threads], the caller's first */
};

static _Thread_local struct worker *current; /* a pool's own threads only */

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void gate_init(struct gate *gate)
{
    atomic_init(&gate->opened, 0);
    atomic_init(&gate->sleepers, 0);
    pthread_mutex_init(&gate->mutex, NULL);
    pthread_cond_init(&gate->conds[0], NULL);
    pthread_cond_init(&gate->conds[1], NULL);
}

static void gate_release(struct gate *gate)
{
    pthread_cond_destroy(&gate->conds[0]);
    pthread_cond_destroy(&gate->conds[1]);
    pthread_mutex_destroy(&gate->mutex);
}

static void gate_open(struct gate *gate)
{
    unsigned seen = atomic_fetch_add(&gate->opened, 1);
    if (atomic_load(&gate->sleepers) == 0)
        return;
    /* A sleeper holds the mutex from its announcement until it is inside the wait. */
    pthread_mutex_lock(&gate->mutex);
    pthread_cond_broadcast(&gate->conds[seen & 1]);
    pthread_mutex_unlock(&gate->mutex);
}

/* ---- where threads run ------------------------------------------------------------------------ */

static int place_of(const struct worker *worker)
{
    return atomic_load_explicit(&worker->processor, memory_order_relaxed);
}

static void set_place(struct worker *worker, int processor)
{
    if (place_of(worker) != processor) /* others read the line while they wait */
        atomic_store_explicit(&worker->processor, processor, memory_order_relaxed);
}

static void note_place(struct worker *worker)
{
#ifdef __linux__
    set_place(worker, sched_getcpu());
#else
    set_place(worker, (int)worker->index); /* not told: as if everybody had one of his own */
#endif
}

struct neighbours {
    bool here;    /* another thread of the pool is on this one's processor */
    bool unknown; /* or may be */
};

static struct neighbours look_around(const struct worker *self)
{
    struct neighbours result = {false, false};
    const struct worker *workers = self->pool->workers;
    for (uint32_t i = 0; i < self->pool->n_threads; i++) {
        int there = place_of(&workers[i]);
        result.unknown |= i != self->index && there == UNKNOWN;
        result.here |= i != self->index && there == place_of(self);
    }
    return result;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

/* True when the gate opened meanwhile. Somebody who wakes up (not to open `start`, which the caller
 * does when it likes) is worth waiting for twice as long. */
static bool spin(struct gate *gate, unsigned seen, struct worker *self)
{
    const struct thread_pool *pool = self->pool;
    uint64_t begin = clock_now_ns(), patience = pool->spin_ns;
    note_place(self);
    do {
        for (int i = 0; i < PAUSES_PER_READING; i++) {
            if (atomic_load_explicit(&gate->opened, memory_order_acquire) != seen)
                return true;
            pause_briefly();
        }
        struct neighbours others = look_around(self);
        if (others.here || others.unknown) {
            sched_yield();
            note_place(self);
        }
        if (others.unknown && gate != &pool->start)
            patience = 2 * pool->spin_ns;
    } while (clock_now_ns() - begin < patience);
    return false;
}

/* Returns once the gate's counter differs from `seen`. */
static void gate_wait(struct gate *gate, unsigned seen, struct worker *self)
{
    if (self->pool->spin_ns && spin(gate, seen, self))
        return;
    set_place(self, UNKNOWN);
    pthread_mutex_lock(&gate->mutex);
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->opened) == seen)
        pthread_cond_wait(&gate->conds[seen & 1], &gate->mutex);
    atomic_fetch_sub(&gate->sleepers, 1);
    pthread_mutex_unlock(&gate->mutex);
    note_place(self);
}

static unsigned gate_now(struct gate *gate)
{
    return atomic_load_explicit(&gate->opened, memory_order_acquire);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    current = worker;
    unsigned runs = 0; /* run k opens start for the k-th time; no run can be missed or doubled,
                          because run() waits for every worker */
    for (;;) {
        gate_wait(&pool->start, runs++, worker);
        if (pool->quit)
            return NULL;
        pool->fn(pool->context, worker->index, pool->n_threads);
        if (atomic_fetch_sub_explicit(&pool->running, 1, memory_order_acq_rel) == 1)
            gate_open(&pool->done);
    }
}

static enum status bind_worker(pthread_t thread, uint32_t cpu, struct error *err)
{
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    int failure = 1;
    if (cpu < CPU_SETSIZE) {
        CPU_SET(cpu, &set);
        failure = pthread_setaffinity_np(thread, sizeof set, &set);
    }
    if (failure)
        return error_set(err, STATUS_USAGE, "cannot bind a thread to processor %u", cpu);
#else
    (void)thread, (void)cpu, (void)err;
#endif
    return STATUS_OK;
}

static long usable_processors(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/* Signals meant for the process are for the program's own threads; but faults arrive on the thread
 * that caused them, and blocking one would turn a handled fault (base/file.h) into death. */
static void block_signals(sigset_t *previous)
{
    sigset_t blocked;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGTRAP);
    sigdelset(&blocked, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &blocked, previous);
}

enum status thread_start(pthread_t *thread, void *(*fn)(void *context), void *context,
                         struct error *err)
{
    sigset_t previous;
    block_signals(&previous);
    int failure = pthread_create(thread, NULL, fn, context);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    return failure ? error_set(err, STATUS_MEMORY, "cannot start a thread") : STATUS_OK;
}

static enum status start_workers(struct thread_pool *pool,
                                 const struct thread_pool_options *options, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 1; i < pool->n_threads && status == STATUS_OK; i++) {
        struct worker *worker = &pool->workers[i];
        if (thread_start(&worker->thread, worker_main, worker, NULL) != STATUS_OK) {
            status = error_set(err, STATUS_MEMORY, "cannot start thread %u of %u", i + 1,
                               pool->n_threads);
            break;
        }
        pool->n_started++;
        if (options && options->cpus)
            status = bind_worker(worker->thread, options->cpus[i], err);
    }
    return status;
}

enum status thread_pool_create(uint32_t n_threads, const struct thread_pool_options *options,
                               struct thread_pool **out, struct error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > THREADS_MAX)
        return error_set(err, STATUS_USAGE, "a pool of %u threads; 1 to %d are possible", n_threads,
                         THREADS_MAX);
    struct thread_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct worker *workers = aligned_alloc(CACHE_LINE, n_threads * sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return error_set(err, STATUS_MEMORY, "no memory for a pool of %u threads", n_threads);
    }
    uint32_t spin_us = options && options->spin_us ? options->spin_us : SPIN_US_DEFAULT;
    if (usable_processors() < (long)n_threads)
        spin_us = 0;
    *pool = (struct thread_pool){
        .n_threads = n_threads,
        .spin_ns = (uint64_t)spin_us * 1000,
        .workers = workers,
    };
    for (uint32_t i = 0; i < n_threads; i++) {
        workers[i] = (struct worker){.pool = pool, .index = i};
        atomic_init(&workers[i].processor, UNKNOWN);
    }
    gate_init(&pool->start);
    gate_init(&pool->barrier);
    gate_init(&pool->done);
    enum status status = start_workers(pool, options, err);
    if (status != STATUS_OK) {
        thread_pool_free(pool);
        return status;
    }
    *out = pool;
    return STATUS_OK;
}

void thread_pool_free(struct thread_pool *pool)
{
    if (!pool)
        return;
    pool->quit = true;
    gate_open(&pool->start);
    for (uint32_t i = 1; i <= pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    gate_release(&pool->start);
    gate_release(&pool->barrier);
    gate_release(&pool->done);
    free(pool->workers);
    free(pool);
}

uint32_t thread_pool_size(const struct thread_pool *pool)
{
    return pool->n_threads;
}

void thread_pool_run(struct thread_pool *pool, thread_pool_fn fn, void *context)
{
    if (pool->n_threads == 1) {
        fn(context, 0, 1);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    atomic_store_explicit(&pool->running, pool->n_threads - 1, memory_order_relaxed);
    unsigned finished = gate_now(&pool->done);
    note_place(&pool->workers[0]);
    gate_open(&pool->start);
    fn(context, 0, pool->n_threads);
    gate_wait(&pool->done, finished, &pool->workers[0]);
}

void thread_pool_barrier(struct thread_pool *pool)
{
    if (pool->n_threads == 1)
        return;
    unsigned seen = gate_now(&pool->barrier); /* cannot open before we arrive */
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 < pool->n_threads) {
        gate_wait(&pool->barrier, seen,
                  current && current->pool == pool ? current : &pool->workers[0]);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    gate_open(&pool->barrier);
}
