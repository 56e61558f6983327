/*
 * Records in a buffer: a header, then the payload (text with a NUL each, log-probabilities, or
 * rows), padded to 16 bytes so that headers and floats stay aligned.
 */
#include "engine/events.h"

#include <stdint.h>
#include <string.h>

#include "base/wait.h"

#define RECORD_ALIGN 16

struct record {
    size_t bytes; /* header and payload, a multiple of RECORD_ALIGN */
    sluice_event_kind kind;
    sluice_finish finish;
    uint32_t choice;
    int32_t token;
    float logprob;
    uint32_t first_row, n_rows, row_width;
    size_t lengths[3]; /* bytes: of the text; of id, name, arguments; of the log-probabilities */
};

static size_t padded(size_t bytes)
{
    return (bytes + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

#define HEADER_BYTES ((sizeof(struct record) + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN)

enum status event_queue_init(struct event_queue *queue, size_t full_bytes, size_t reserve,
                             struct error *err)
{
    *queue = (struct event_queue){.full_bytes = full_bytes};
    pthread_mutex_init(&queue->lock, NULL);
    cond_init(&queue->ready);
    if (buf_reserve(&queue->pending, reserve) && buf_reserve(&queue->taken, reserve))
        return STATUS_OK;
    event_queue_release(queue);
    return error_set(err, STATUS_MEMORY, "out of memory for %zu bytes of events", reserve);
}

void event_queue_release(struct event_queue *queue)
{
    buf_release(&queue->pending);
    buf_release(&queue->taken);
    pthread_cond_destroy(&queue->ready);
    pthread_mutex_destroy(&queue->lock);
}

/* ---- writer ----------------------------------------------------------------------------------- */

/* With the lock held: room for a record like `header` and its payload; NULL without memory. */
static struct record *add_record(struct event_queue *queue, const struct record *header,
                                 size_t payload)
{
    if (payload > SIZE_MAX - HEADER_BYTES - RECORD_ALIGN)
        return NULL;
    size_t bytes = padded(HEADER_BYTES + payload);
    if (!buf_reserve(&queue->pending, bytes)) {
        queue->pending.failed = false;
        return NULL;
    }
    struct record *record = (struct record *)(void *)(queue->pending.data + queue->pending.len);
    *record = *header;
    record->bytes = bytes;
    record->choice = queue->choice;
    return record;
}

/* With the lock held: the record is complete. */
static void publish(struct event_queue *queue, const struct record *record)
{
    bool was_empty = queue->pending.len == 0;
    queue->pending.len += record->bytes;
    if (was_empty)
        pthread_cond_signal(&queue->ready);
}

static char *payload_of(const struct record *record)
{
    return (char *)record + HEADER_BYTES;
}

/* A record like `header`, with the parts as payload, a NUL behind each. */
static bool append(struct event_queue *queue, const struct record *header, const struct str *parts,
                   size_t n)
{
    size_t payload = 0;
    for (size_t i = 0; i < n; i++)
        payload += parts[i].len + 1;
    pthread_mutex_lock(&queue->lock);
    struct record *record = add_record(queue, header, payload);
    char *at = record ? payload_of(record) : NULL;
    for (size_t i = 0; record && i < n; i++) {
        record->lengths[i] = parts[i].len;
        if (parts[i].len)
            memcpy(at, parts[i].data, parts[i].len);
        at[parts[i].len] = 0;
        at += parts[i].len + 1;
    }
    if (record)
        publish(queue, record);
    pthread_mutex_unlock(&queue->lock);
    return record != NULL;
}

bool event_queue_text(struct event_queue *queue, sluice_event_kind kind, struct str text)
{
    queue->n_shown++;
    return append(queue, &(struct record){.kind = kind}, &text, 1);
}

bool event_queue_tool_call(struct event_queue *queue, struct str id, struct str name,
                           struct str arguments)
{
    const struct str texts[] = {id, name, arguments};
    queue->n_shown++;
    return append(queue, &(struct record){.kind = SLUICE_EVENT_TOOL_CALL}, texts, 3);
}

bool event_queue_token(struct event_queue *queue, int32_t token, float logprob,
                       const sluice_logprob *top, size_t n_top)
{
    const struct record header = {.kind = SLUICE_EVENT_TOKEN, .token = token, .logprob = logprob};
    const struct str part = {(const char *)top, n_top * sizeof *top};
    return append(queue, &header, &part, 1);
}

bool event_queue_mark(struct event_queue *queue, sluice_event_kind kind, sluice_finish finish)
{
    return append(queue, &(struct record){.kind = kind, .finish = finish}, NULL, 0);
}

float *event_queue_begin_rows(struct event_queue *queue, uint32_t first_row, uint32_t n_rows,
                              uint32_t row_width)
{
    pthread_mutex_lock(&queue->lock);
    const struct record header = {.kind = SLUICE_EVENT_ROWS,
                                  .first_row = first_row,
                                  .n_rows = n_rows,
                                  .row_width = row_width};
    struct record *record = add_record(queue, &header, (size_t)n_rows * row_width * sizeof(float));
    if (record)
        return (float *)(void *)payload_of(record);
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

void event_queue_end_rows(struct event_queue *queue, bool keep)
{
    if (keep)
        publish(queue,
                (const struct record *)(const void *)(queue->pending.data + queue->pending.len));
    pthread_mutex_unlock(&queue->lock);
}

static void end(struct event_queue *queue, const sluice_event *final)
{
    pthread_mutex_lock(&queue->lock);
    queue->final = *final;
    queue->ended = true;
    pthread_cond_signal(&queue->ready);
    pthread_mutex_unlock(&queue->lock);
}

void event_queue_done(struct event_queue *queue, sluice_finish finish, const sluice_usage *usage)
{
    end(queue, &(sluice_event){.kind = SLUICE_EVENT_DONE, .finish = finish, .usage = *usage});
}

void event_queue_error(struct event_queue *queue, const struct error *err)
{
    sluice_event event = {.kind = SLUICE_EVENT_ERROR};
    event.error.status = (sluice_status)err->status;
    memcpy(event.error.message, err->message, sizeof event.error.message);
    event.error.message[sizeof event.error.message - 1] = 0;
    end(queue, &event);
}

bool event_queue_full(struct event_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool full = queue->full = queue->pending.len >= queue->full_bytes;
    pthread_mutex_unlock(&queue->lock);
    return full;
}

/* ---- reader ----------------------------------------------------------------------------------- */

/* With the lock held. False when the time is up with nothing to take. */
static bool wait_ready(struct event_queue *queue, int timeout_ms)
{
    uint64_t deadline = WAIT_FOREVER;
    if (timeout_ms > 0)
        deadline = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    bool in_time = timeout_ms != 0;
    while (queue->pending.len == 0 && !queue->ended) {
        if (!in_time)
            return false;
        in_time = cond_wait_until(&queue->ready, &queue->lock, deadline);
    }
    return true;
}

static void decode(const struct record *record, sluice_event *event)
{
    const char *payload = payload_of(record);
    *event =
        (sluice_event){.kind = record->kind, .choice = record->choice, .finish = record->finish};
    switch (record->kind) {
    case SLUICE_EVENT_TOOL_CALL:
        event->tool_call.id = payload;
        event->tool_call.name = payload + record->lengths[0] + 1;
        event->tool_call.arguments = event->tool_call.name + record->lengths[1] + 1;
        break;
    case SLUICE_EVENT_TOKEN:
        event->token = record->token;
        event->logprob = record->logprob;
        event->n_top = record->lengths[0] / sizeof *event->top;
        event->top = event->n_top ? (const sluice_logprob *)(const void *)payload : NULL;
        break;
    case SLUICE_EVENT_ROWS:
        event->first_row = record->first_row;
        event->n_rows = record->n_rows;
        event->row_width = record->row_width;
        event->rows = (const float *)(const void *)payload;
        break;
    case SLUICE_EVENT_ADMITTED:
    case SLUICE_EVENT_CHOICE:
        break;
    default:
        event->text = payload;
        event->length = record->lengths[0];
    }
}

bool event_queue_next(struct event_queue *queue, sluice_event *event, int timeout_ms,
                      bool *attention)
{
    *attention = false;
    if (queue->cursor == queue->taken.len) {
        pthread_mutex_lock(&queue->lock);
        if (queue->final_taken || !wait_ready(queue, timeout_ms)) {
            pthread_mutex_unlock(&queue->lock);
            return false;
        }
        struct buf used = queue->taken;
        queue->taken = queue->pending;
        queue->pending = used;
        queue->pending.len = 0;
        queue->cursor = 0;
        *attention = queue->full;
        queue->full = false;
        if (queue->taken.len == 0) {
            *event = queue->final;
            queue->final_taken = true;
        }
        pthread_mutex_unlock(&queue->lock);
        if (queue->taken.len == 0)
            return true;
    }
    const struct record *record =
        (const struct record *)(const void *)(queue->taken.data + queue->cursor);
    queue->cursor += record->bytes;
    decode(record, event);
    return true;
}
