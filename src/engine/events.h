/*
 * The way of a request's events from the engine thread to its reader.
 *
 * Two buffers: the engine appends records to `pending`; a reader that has used up its own buffer
 * swaps the two under the lock. So records are contiguous (an event's pointers simply point into the
 * reader's buffer until it asks for the next event), the lock is held for a copy or a swap, and the
 * engine never waits for a reader. A ring of bytes was the alternative: it saves the second buffer
 * and pays with wrapped records, and one event (a long tool call, rows of logits) may be larger than
 * any ring one would want to allocate for each request.
 *
 * Bounded: once `pending` holds `full_bytes`, event_queue_full() is true and the engine plans no
 * rows for the sequence until the reader has taken them; the queue then asks for the engine's
 * attention. So a queue holds at most full_bytes and the events of one step, twice. The final event
 * (done or error) has its own place and cannot fail for want of memory.
 *
 * Threads: one writer, one reader, each in its functions below.
 */
#ifndef SLUICE_ENGINE_EVENTS_H
#define SLUICE_ENGINE_EVENTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "sluice.h"

struct event_queue {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    struct buf pending; /* records for the next swap */
    size_t full_bytes;
    uint32_t choice;  /* which answer the writer's next events belong to */
    uint32_t n_shown; /* the writer's: events that a reader sees something of */
    bool full;        /* the engine was told so, and waits for a swap */
    bool ended;       /* `final` is set */
    bool final_taken; /* by the reader */
    sluice_event final;
    /* The reader's alone. */
    struct buf taken;
    size_t cursor; /* of the next record in taken */
};

/* reserve: bytes both buffers are given at once, so that appending does not allocate. */
enum status event_queue_init(struct event_queue *queue, size_t full_bytes, size_t reserve,
                             struct error *err);
void event_queue_release(struct event_queue *queue);

/* Writer. Each returns false when memory ran out (the event is lost and the request must end). */
bool event_queue_text(struct event_queue *queue, sluice_event_kind kind, struct str text);
bool event_queue_tool_call(struct event_queue *queue, struct str id, struct str name,
                           struct str arguments);
bool event_queue_token(struct event_queue *queue, int32_t token, float logprob,
                       const sluice_logprob *top, size_t n_top);
/* Begins an event of rows: floats to fill in, or NULL. The lock is held until
 * event_queue_end_rows(), which drops the event where `keep` is false. */
float *event_queue_begin_rows(struct event_queue *queue, uint32_t first_row, uint32_t n_rows,
                              uint32_t row_width);
void event_queue_end_rows(struct event_queue *queue, bool keep);
/* An event that is only its kind: ADMITTED, or CHOICE with its finish. */
bool event_queue_mark(struct event_queue *queue, sluice_event_kind kind, sluice_finish finish);
void event_queue_done(struct event_queue *queue, sluice_finish finish, const sluice_usage *usage);
void event_queue_error(struct event_queue *queue, const struct error *err);
/* True: plan no more rows until the reader has taken a buffer. */
bool event_queue_full(struct event_queue *queue);

/* Reader. As sluice_request_next(). *attention is set when the engine was waiting for this reader
 * and must be told. */
bool event_queue_next(struct event_queue *queue, sluice_event *event, int timeout_ms,
                      bool *attention);

#endif
