/*
 * Work cut into pieces that all cores take in turn: what synth and quantize share.
 *
 * Item k has pieces(k) pieces; run() does one of them. Threads take pieces in order by a counter, so
 * that the file behind them is written roughly from front to back. The first error stops all.
 */
#ifndef SLUICE_CONVERT_WORKERS_H
#define SLUICE_CONVERT_WORKERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct work {
    void *context;
    size_t n_items;
    uint64_t (*pieces)(void *context, size_t item);
    /* buffer: buffer_bytes of the thread's own. *done: what the piece adds to `total`. */
    enum status (*run)(void *context, size_t item, uint64_t piece, uint8_t *buffer, uint64_t *done,
                       struct error *err);
    size_t buffer_bytes;
    uint64_t total; /* for progress */
    const char *what;
    void (*progress)(void *context, double fraction,
                     const char *what); /* thread 0's; may be NULL */
    void *progress_context;
};

/* n_threads 0: one per core. */
enum status workers_run(const struct work *work, uint32_t n_threads, struct error *err);

#endif
