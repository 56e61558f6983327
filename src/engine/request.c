/*
 * A request's life: made by the submitting thread, posted to the mailbox, run by the owner thread,
 * read and freed by its reader. Two parties hold a reference, the reader and the loop; the one that
 * lets go last frees it, so neither ever waits for the other.
 */
#include <stdlib.h>

#include "engine/internal.h"

sluice_request *request_new(sluice_engine *engine, struct error *err)
{
    sluice_request *request = calloc(1, sizeof *request);
    if (!request) {
        error_set(err, STATUS_MEMORY, "out of memory for a request");
        return NULL;
    }
    if (event_queue_init(&request->events, ENGINE_EVENTS_FULL, ENGINE_EVENTS_RESERVE, err) !=
        STATUS_OK) {
        free(request);
        return NULL;
    }
    request->engine = engine;
    atomic_init(&request->references, 1);
    arena_init(&request->arena, 0);
    return request;
}

void request_release(sluice_request *request)
{
    if (atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < request->n_choices; i++)
        output_release(&request->choices[i].output);
    sluice_wakeups_free(request->wakeups);
    event_queue_release(&request->events);
    token_list_release(&request->prompt);
    arena_release(&request->arena);
    free(request);
}

/* ---- the mailbox ------------------------------------------------------------------------------ */

static struct key_count *find_key(struct mailbox *box, uint64_t key)
{
    for (uint32_t i = 0; i < box->n_keys; i++)
        if (box->keys[i].key == key)
            return &box->keys[i];
    return NULL;
}

/* With the lock held, as the next two. */
static enum status check_queues(sluice_engine *engine, const sluice_request *request,
                                struct error *err)
{
    struct mailbox *box = &engine->mailbox;
    const struct engine_size *size = &engine->size;
    size_t n = request->prompt.count;
    if (box->n_live >= size->max_queued)
        return error_set(
            err, STATUS_BUSY,
            "as many requests as this model takes (%u) are in work or waiting: try again "
            "later",
            size->max_queued);
    /* A prompt longer than the limit passes where it waits alone. */
    if (size->max_queued_tokens && box->waiting_tokens &&
        box->waiting_tokens + n > size->max_queued_tokens)
        return error_set(err, STATUS_BUSY,
                         "prompts of %llu tokens wait already, %zu more exceed the limit of %llu: "
                         "try again later",
                         (unsigned long long)box->waiting_tokens, n,
                         (unsigned long long)size->max_queued_tokens);
    const struct key_count *of_key = box->keys && request->key ? find_key(box, request->key) : NULL;
    if (of_key && of_key->n >= size->max_key_requests)
        return error_set(
            err, STATUS_KEY_BUSY,
            "as many requests as this key may have (%u) are in work or waiting: try again "
            "later",
            size->max_key_requests);
    return STATUS_OK;
}

static void count_in(struct mailbox *box, const sluice_request *request)
{
    box->n_live++;
    box->waiting_tokens += request->prompt.count;
    if (!box->keys || !request->key)
        return;
    struct key_count *of_key = find_key(box, request->key);
    if (!of_key) {
        of_key = &box->keys[box->n_keys++]; /* live keys are no more than live requests */
        *of_key = (struct key_count){.key = request->key};
    }
    of_key->n++;
}

static void count_out(struct mailbox *box, const sluice_request *request)
{
    box->n_live--;
    if (!request->admitted_ns)
        box->waiting_tokens -= request->prompt.count;
    struct key_count *of_key = box->keys && request->key ? find_key(box, request->key) : NULL;
    if (of_key && --of_key->n == 0)
        *of_key = box->keys[--box->n_keys];
}

enum status mailbox_post(sluice_engine *engine, sluice_request *request, struct error *err)
{
    struct mailbox *box = &engine->mailbox;
    pthread_mutex_lock(&box->lock);
    enum status status = check_queues(engine, request, err);
    if (status == STATUS_OK) {
        count_in(box, request);
        atomic_fetch_add_explicit(&request->references, 1, memory_order_relaxed);
        if (box->last)
            box->last->next = request;
        else
            box->first = request;
        box->last = request;
        pthread_cond_signal(&box->wake);
    }
    pthread_mutex_unlock(&box->lock);
    return status;
}

void mailbox_attention(sluice_engine *engine)
{
    struct mailbox *box = &engine->mailbox;
    pthread_mutex_lock(&box->lock);
    box->attention = true;
    pthread_cond_signal(&box->wake);
    pthread_mutex_unlock(&box->lock);
}

void mailbox_admitted(sluice_engine *engine, const sluice_request *request)
{
    pthread_mutex_lock(&engine->mailbox.lock);
    engine->mailbox.waiting_tokens -= request->prompt.count;
    pthread_mutex_unlock(&engine->mailbox.lock);
}

void mailbox_ended(sluice_engine *engine, const sluice_request *request)
{
    pthread_mutex_lock(&engine->mailbox.lock);
    count_out(&engine->mailbox, request);
    pthread_mutex_unlock(&engine->mailbox.lock);
}

/* ---- the reader's side ------------------------------------------------------------------------ */

bool sluice_request_next(sluice_request *request, sluice_event *event, int timeout_ms)
{
    bool attention;
    bool got = event_queue_next(&request->events, event, timeout_ms, &attention);
    if (attention)
        mailbox_attention(request->engine);
    return got;
}

void sluice_request_cancel(sluice_request *request)
{
    if (!atomic_exchange_explicit(&request->cancelled, true, memory_order_release))
        mailbox_attention(request->engine);
}

void sluice_request_free(sluice_request *request)
{
    if (!request)
        return;
    sluice_request_cancel(request);
    wakeups_leave(request);
    request_release(request);
}

void *sluice_request_user(const sluice_request *request)
{
    return request->user;
}

void sluice_request_progress_get(const sluice_request *request, sluice_request_progress *progress)
{
    *progress = (sluice_request_progress){
        .admitted = atomic_load_explicit(&request->admitted, memory_order_relaxed),
        .ended = atomic_load_explicit(&request->ended, memory_order_relaxed),
        .prompt_tokens = (uint32_t)request->prompt.count,
        .computed_tokens = atomic_load_explicit(&request->computed, memory_order_relaxed),
        .output_tokens = atomic_load_explicit(&request->n_output, memory_order_relaxed),
    };
}
