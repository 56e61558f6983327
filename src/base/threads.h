/*
 * threads: a pool whose threads all run the same function together (SPMD).
 *
 * The caller is thread 0 and n_threads - 1 workers join it; inside the function, work is split by
 * thread index (thread_range) and thread_pool_barrier() separates phases. A run and a barrier cost
 * about a microsecond while everyone is awake: waiting threads spin for a short while, then sleep,
 * so an idle pool uses no processor time and wakes within a fraction of a millisecond. Where there
 * are more threads than processors nobody spins.
 *
 * Thread rule: one thread at a time calls run and free; barrier only from inside the function, by
 * all threads equally often. The function must not call run on its own pool. Everything written
 * before a run, before a barrier or inside a run is visible to all threads after it.
 */
#ifndef SLUICE_BASE_THREADS_H
#define SLUICE_BASE_THREADS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define THREADS_MAX 1024

struct thread_pool;

struct thread_pool_options {
    uint32_t spin_us; /* how long to spin before sleeping; 0: 50 */
    /* Linux only, ignored elsewhere: bind the worker with index i to logical processor cpus[i]
     * ([n_threads], copied). The caller (index 0) is never bound. NULL: no binding. */
    const uint32_t *cpus;
};

typedef void (*thread_pool_fn)(void *context, uint32_t index, uint32_t n_threads);

/* n_threads: 1 .. THREADS_MAX, the caller included; options may be NULL. STATUS_MEMORY when threads
 * cannot be started, STATUS_USAGE when a processor cannot be bound to. */
enum status thread_pool_create(uint32_t n_threads, const struct thread_pool_options *options,
                               struct thread_pool **out, struct error *err);
void thread_pool_free(struct thread_pool *pool); /* NULL allowed; not during a run */
uint32_t thread_pool_size(const struct thread_pool *pool);

/* Calls fn(context, index, n_threads) on every thread and returns when all have returned. */
void thread_pool_run(struct thread_pool *pool, thread_pool_fn fn, void *context);
/* Returns when every thread of the running function has called it as often as this one. */
void thread_pool_barrier(struct thread_pool *pool);

/* A thread of its own that takes no signals meant for the process, as the pool's. The caller joins
 * it. */
enum status thread_start(pthread_t *thread, void *(*fn)(void *context), void *context,
                         struct error *err);

/* The part [*begin, *end) of 0..n-1 that thread `index` of n_threads does. Parts are in order, cover
 * 0..n-1 once, start on multiples of align (>= 1), differ by at most one align, and may be empty. */
static inline void thread_range(size_t n, uint32_t index, uint32_t n_threads, size_t align,
                                size_t *begin, size_t *end)
{
    size_t units = n / align + (n % align != 0);
    size_t each = units / n_threads, extra = units % n_threads;
    size_t first = each * index + (index < extra ? index : extra);
    size_t last = first + each + (index < extra);
    *begin = first < units ? first * align : n;
    *end = last < units ? last * align : n;
}

#ifdef __cplusplus
}
#endif
#endif
