/*
 * Jobs on a thread of their own: submit() and sample() return at once, and the engine plans the next
 * step while this thread walks the program with the pool's workers (it is the pool's thread 0).
 *
 * Only where it is asked for. With as many computing threads as processors the engine's few dozen
 * microseconds a step displace one of them, all others wait for it at the next barrier, and a step
 * takes as long as before, plus two switches. One stream measured slower everywhere; crowds went both
 * ways, from one run to the next (docs/scheduling.md): the processor path is short, and waking threads
 * costs what planning does. So by default the engine's thread is the pool's thread 0
 * and nothing is queued. Nobody spins here: while steps follow each other the next job is there
 * before the last one ends, and a waiting engine has no reason to be awake.
 */
#include <pthread.h>
#include <stdlib.h>

#include "backend/cpu/internal.h"

/* Two steps with their draws, and history sent apart. */
#define JOBS 8

struct cpu_queue {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t submitted, completed;
    struct cpu_job jobs[JOBS]; /* a ring */
    uint32_t first, n;         /* those not completed */
    bool quit;
};

static void run_job(const struct cpu_job *job)
{
    if (job->draw.step)
        cpu_run_draws(&job->draw);
    else
        cpu_run_step(&job->run);
}

static void *queue_main(void *context)
{
    struct cpu_queue *queue = context;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        while (queue->n == 0 && !queue->quit)
            pthread_cond_wait(&queue->submitted, &queue->lock);
        if (queue->n == 0)
            break;
        /* The place stays taken while the job runs, so nobody writes it. */
        const struct cpu_job *job = &queue->jobs[queue->first];
        pthread_mutex_unlock(&queue->lock);
        run_job(job);
        pthread_mutex_lock(&queue->lock);
        queue->first = (queue->first + 1) % JOBS;
        queue->n--;
        pthread_cond_signal(&queue->completed); /* one thread submits and waits */
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

enum status cpu_queue_create(struct cpu_backend *backend, struct error *err)
{
    struct cpu_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return error_set(err, STATUS_MEMORY, "out of memory while opening the cpu backend");
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->submitted, NULL);
    pthread_cond_init(&queue->completed, NULL);
    enum status status = thread_start(&queue->thread, queue_main, queue, err);
    if (status == STATUS_OK)
        backend->queue = queue;
    else
        free(queue);
    return status;
}

void cpu_queue_free(struct cpu_backend *backend)
{
    struct cpu_queue *queue = backend->queue;
    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    queue->quit = true;
    pthread_cond_signal(&queue->submitted);
    pthread_mutex_unlock(&queue->lock);
    pthread_join(queue->thread, NULL);
    pthread_cond_destroy(&queue->completed);
    pthread_cond_destroy(&queue->submitted);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
    backend->queue = NULL;
}

void cpu_enqueue(struct cpu_backend *backend, const struct cpu_job *job)
{
    struct cpu_queue *queue = backend->queue;
    if (!queue) {
        run_job(job);
        return;
    }
    pthread_mutex_lock(&queue->lock);
    while (queue->n == JOBS)
        pthread_cond_wait(&queue->completed, &queue->lock);
    queue->jobs[(queue->first + queue->n++) % JOBS] = *job;
    pthread_cond_signal(&queue->submitted);
    pthread_mutex_unlock(&queue->lock);
}

void cpu_finish(struct cpu_backend *backend, uint64_t ticket)
{
    struct cpu_queue *queue = backend->queue;
    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    while (queue->n && queue->jobs[queue->first].ticket <= ticket)
        pthread_cond_wait(&queue->completed, &queue->lock);
    pthread_mutex_unlock(&queue->lock);
}
