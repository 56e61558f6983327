/*
 * packed_cache: a folder in which packed weights outlive the process, one file (sidecar.h) per
 * digest of what they were made from.
 *
 *     packed-<digest>.sluice   complete files; who has one mapped holds a shared lock on it
 *     packed-<digest>.tmp      being written by who holds `lock`; left behind by a crash otherwise
 *     lock                     taken for writing, for making room, and for nothing else
 *
 * A file appears by renaming, when all of it is on disk; it is never written again. Before it is
 * used its head and the sums of all its data are checked; one that fails is removed and its matrices
 * are packed as if it had not been there. The files together stay within a number of bytes: to make
 * room, those that were used least recently go (their modification time says when), except where
 * somebody has them mapped. Nothing here is worth failing a start: what goes wrong is logged, and
 * weights are packed.
 *
 * Files of other users (except the superuser), and those that others may write, are ignored: sums do
 * not protect from people.
 *
 * Thread rule: one thread calls everything; writing happens on a thread of the cache's own.
 */
#ifndef SLUICE_BACKEND_CPU_PACKED_CACHE_H
#define SLUICE_BACKEND_CPU_PACKED_CACHE_H

#include "backend/cpu/sidecar.h"
#include "base/threads.h"

#define PACKED_CACHE_BYTES ((uint64_t)32 << 30) /* where nobody says how many */

struct packed_cache;

/* What a file holds; matrices: [layout.n_matrices], planned. */
struct packed_contents {
    struct sidecar_digest digest;
    struct sidecar_layout layout;
    const struct sidecar_matrix *matrices;
};

/* The folder (copied) is made where only its last part is missing. STATUS_DISK. */
enum status packed_cache_open(const char *folder, uint64_t most_bytes, struct packed_cache **out,
                              struct error *err);
/* Waits for a file that is being written. What packed_cache_find() returned dies here. NULL allowed. */
void packed_cache_close(struct packed_cache *cache);
/* Data of the file with these contents, checked by all threads of the pool; NULL where there is none
 * that can be used. Once per cache. */
const uint8_t *packed_cache_find(struct packed_cache *cache, const struct packed_contents *contents,
                                 struct thread_pool *pool);
/* The file was cut short, or its disk failed, since: what find() returned reads as zeros in part. */
bool packed_cache_damaged(const struct packed_cache *cache);
/* Starts to write a file of them, unless another process does. panels[i]: matrix i. All that is
 * passed in must stay as it is until packed_cache_close(). Once per cache. */
void packed_cache_keep(struct packed_cache *cache, const struct packed_contents *contents,
                       const uint8_t *const *panels);

#endif
