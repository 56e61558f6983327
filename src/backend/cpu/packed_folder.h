/*
 * What is done to a folder of packed weights (packed_cache.h) while its lock is held: clearing what
 * a crash left, making room, writing a file. Any thread; the caller holds the lock.
 */
#ifndef SLUICE_BACKEND_CPU_PACKED_FOLDER_H
#define SLUICE_BACKEND_CPU_PACKED_FOLDER_H

#include "backend/cpu/packed_cache.h"

#define PACKED_NAME_BYTES 64

/* "packed-" digest ending */
void packed_name(const struct sidecar_digest *digest, const char *ending,
                 char out[PACKED_NAME_BYTES]);
/* Makes room within most_bytes and writes the file, unless it is there already. folder: open.
 * STATUS_LIMIT: it does not fit, STATUS_DISK: the system's reason. */
enum status packed_folder_write(int folder, uint64_t most_bytes,
                                const struct packed_contents *contents,
                                const uint8_t *const *panels, struct error *err);

#endif
