/*
 * One wake-up for many requests. The owner thread collects the requests that a step gave events
 * (`touched`, without a lock) and moves them to their lists at the step's end; a list that was empty
 * calls its `wake` then. So a server with thousands of open streams is woken once per step, and
 * looks only at those that have something to say.
 */
#include <stdlib.h>

#include "engine/internal.h"

struct sluice_wakeups {
    atomic_uint references; /* its owner's, and one for each request that names it */
    pthread_mutex_t lock;
    sluice_request *first, *last;
    void (*wake)(void *context);
    void *context;
};

sluice_status sluice_wakeups_create(void (*wake)(void *context), void *context,
                                    sluice_wakeups **out, sluice_error *error)
{
    struct error err = {0};
    sluice_wakeups *wakeups = *out = calloc(1, sizeof *wakeups);
    if (!wakeups)
        return public_status(error_set(&err, STATUS_MEMORY, "out of memory for wake-ups"), &err,
                             error);
    atomic_init(&wakeups->references, 1);
    pthread_mutex_init(&wakeups->lock, NULL);
    wakeups->wake = wake;
    wakeups->context = context;
    return public_status(STATUS_OK, &err, error);
}

void wakeups_retain(sluice_wakeups *wakeups)
{
    if (wakeups)
        atomic_fetch_add_explicit(&wakeups->references, 1, memory_order_relaxed);
}

void sluice_wakeups_free(sluice_wakeups *wakeups)
{
    if (!wakeups || atomic_fetch_sub_explicit(&wakeups->references, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&wakeups->lock);
    free(wakeups);
}

/* With the lock held. */
static void unlist(sluice_wakeups *wakeups, sluice_request *request)
{
    *(request->ready_previous ? &request->ready_previous->ready_next : &wakeups->first) =
        request->ready_next;
    *(request->ready_next ? &request->ready_next->ready_previous : &wakeups->last) =
        request->ready_previous;
    request->ready_next = request->ready_previous = NULL;
    request->ready = false;
}

size_t sluice_wakeups_take(sluice_wakeups *wakeups, sluice_request **requests, size_t capacity)
{
    size_t n = 0;
    pthread_mutex_lock(&wakeups->lock);
    for (; n < capacity && wakeups->first; n++) {
        requests[n] = wakeups->first;
        unlist(wakeups, requests[n]);
    }
    pthread_mutex_unlock(&wakeups->lock);
    return n;
}

void wakeups_leave(sluice_request *request)
{
    sluice_wakeups *wakeups = request->wakeups;
    if (!wakeups)
        return;
    pthread_mutex_lock(&wakeups->lock);
    if (request->ready)
        unlist(wakeups, request);
    request->reader_left = true;
    pthread_mutex_unlock(&wakeups->lock);
}

void wakeups_touch(sluice_request *request)
{
    if (!request->wakeups || request->touched)
        return;
    request->touched = true;
    request->touched_next = request->engine->touched;
    request->engine->touched = request;
    atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
}

/* With the lock held. Once its reader left, a request is listed no more. */
static void list(sluice_wakeups *wakeups, sluice_request *request)
{
    if (request->ready || request->reader_left)
        return;
    request->ready = true;
    request->ready_previous = wakeups->last;
    *(wakeups->last ? &wakeups->last->ready_next : &wakeups->first) = request;
    wakeups->last = request;
}

void wakeups_flush(sluice_engine *engine)
{
    while (engine->touched) {
        /* All that go to one list are added under one lock: its taker must not be woken again for
         * what it took in between. */
        sluice_request *first = engine->touched, *end = first;
        sluice_wakeups *wakeups = first->wakeups;
        pthread_mutex_lock(&wakeups->lock);
        bool was_empty = !wakeups->first;
        for (; end && end->wakeups == wakeups; end = end->touched_next) {
            end->touched = false;
            list(wakeups, end);
        }
        if (was_empty && wakeups->first)
            wakeups->wake(wakeups->context);
        pthread_mutex_unlock(&wakeups->lock);
        engine->touched = end;
        while (first != end) {
            sluice_request *next = first->touched_next;
            request_release(first);
            first = next;
        }
    }
}
