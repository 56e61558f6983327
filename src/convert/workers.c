/* The counter is a lock around (item, piece): it is taken a few hundred times in all. */
#include "convert/workers.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/threads.h"
#include "hw/hardware.h"

struct workers {
    const struct work *work;
    pthread_mutex_t lock;
    size_t item; /* the next piece to take */
    uint64_t piece;
    uint64_t done;
    struct error first; /* the first error */
};

static bool take(struct workers *w, size_t *item, uint64_t *piece)
{
    pthread_mutex_lock(&w->lock);
    while (w->item < w->work->n_items && w->piece >= w->work->pieces(w->work->context, w->item)) {
        w->item++;
        w->piece = 0;
    }
    bool any = w->item < w->work->n_items && w->first.status == STATUS_OK;
    *item = w->item;
    *piece = w->piece++;
    pthread_mutex_unlock(&w->lock);
    return any;
}

/* Returns how much is done by all. */
static uint64_t note(struct workers *w, uint64_t done, const struct error *err)
{
    pthread_mutex_lock(&w->lock);
    done = w->done += done;
    if (err->status != STATUS_OK && w->first.status == STATUS_OK)
        w->first = *err;
    pthread_mutex_unlock(&w->lock);
    return done;
}

static void work_on(void *context, uint32_t index, uint32_t n_threads)
{
    struct workers *w = context;
    const struct work *work = w->work;
    (void)n_threads;
    uint8_t *buffer = malloc(work->buffer_bytes);
    size_t item;
    uint64_t piece;
    while (take(w, &item, &piece)) {
        struct error err = {STATUS_OK, ""};
        uint64_t done = 0;
        if (!buffer)
            error_set(&err, STATUS_MEMORY, "out of memory for a buffer of %zu bytes",
                      work->buffer_bytes);
        else
            work->run(work->context, item, piece, buffer, &done, &err);
        done = note(w, done, &err);
        if (index == 0 && work->progress && work->total)
            work->progress(work->progress_context, (double)done / (double)work->total * 0.999,
                           work->what);
    }
    free(buffer);
}

static enum status default_threads(uint32_t *out, struct error *err)
{
    struct hardware *hw = calloc(1, sizeof *hw);
    enum status status =
        hw ? hardware_detect(hw, err) : error_set(err, STATUS_MEMORY, "out of memory");
    if (status == STATUS_OK)
        *out = hardware_default_threads(hw);
    free(hw);
    return status;
}

enum status workers_run(const struct work *work, uint32_t n_threads, struct error *err)
{
    struct workers w = {.work = work};
    struct thread_pool *pool = NULL;
    enum status status = n_threads ? STATUS_OK : default_threads(&n_threads, err);
    if (status == STATUS_OK)
        status = thread_pool_create(n_threads, NULL, &pool, err);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_init(&w.lock, NULL);
    thread_pool_run(pool, work_on, &w);
    pthread_mutex_destroy(&w.lock);
    thread_pool_free(pool);
    if (work->progress)
        work->progress(work->progress_context, 1.0, work->what);
    if (w.first.status != STATUS_OK)
        return error_set(err, w.first.status, "%s", w.first.message);
    return STATUS_OK;
}
