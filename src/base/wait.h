/*
 * Waiting on a condition until a moment of clock_now_ns(): monotonic, so that a clock that is set
 * neither hastens nor delays a deadline. A condition variable waited on by cond_wait_until() is
 * made by cond_init().
 */
#ifndef SLUICE_BASE_WAIT_H
#define SLUICE_BASE_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define WAIT_FOREVER UINT64_MAX

static inline void cond_init(pthread_cond_t *cond)
{
#ifdef __APPLE__
    pthread_cond_init(cond, NULL);
#else
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
#endif
}

/* As pthread_cond_wait(), spurious wake-ups included; false: the time is up. */
static inline bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                   uint64_t deadline_ns)
{
    if (deadline_ns == WAIT_FOREVER) {
        pthread_cond_wait(cond, mutex);
        return true;
    }
    uint64_t at = deadline_ns;
#ifdef __APPLE__ /* its condition variables know the wall clock only */
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    uint64_t now = clock_now_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
    at = (uint64_t)wall.tv_sec * 1000000000u + (uint64_t)wall.tv_nsec + left;
#endif
    struct timespec until = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
    return pthread_cond_timedwait(cond, mutex, &until) == 0;
}

#endif
