/*
 * The file that keeps packed matrices from one start to the next: its layout, read and written.
 *
 *     header 128 bytes | matrices, 40 bytes each | chunk sums, 8 bytes each | zeros
 *     data, from a multiple of 2 MiB on: the matrices' panels as they are in memory
 *
 * Numbers are in the processor's own order, with a mark that tells: the file is for this machine.
 * Every chunk of 1 MiB of data has its XXH3 sum, so that all threads can check at once, and header,
 * table and sums have one together. Matrices follow each other by rising offsets, with gaps only for
 * alignment. Data begins where a large page does, and is written in large pieces, because systems
 * that cache files by large pages then also map it by them.
 *
 * A sum finds what disks and crashes do to a file, not what somebody does to it on purpose: who may
 * write here is a matter of the folder's and the file's owner (packed_cache.c). All the same, no
 * content of a file can make its reader go outside it. Pure functions, any thread.
 */
#ifndef SLUICE_BACKEND_CPU_SIDECAR_H
#define SLUICE_BACKEND_CPU_SIDECAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Raised with any change of this layout or of packed.h's panels: other versions are not read. */
#define SIDECAR_VERSION      1
#define SIDECAR_CHUNK        ((uint64_t)1 << 20)
#define SIDECAR_DATA_ALIGN   ((uint64_t)2 << 20)
#define SIDECAR_ALIGNMENT    128 /* of a matrix: two cache lines are fetched together */
#define SIDECAR_MATRICES_MAX ((uint32_t)1 << 20)

/* Of everything that decides what the data are. */
struct sidecar_digest {
    uint64_t low, high;
};

struct sidecar_matrix {
    uint64_t offset; /* in the data */
    uint64_t bytes;  /* of all panels of all `count` parts */
    uint32_t type;   /* enum tensor_type */
    uint32_t count, n_rows, n_cols;
};

/* Where everything lies in a file. */
struct sidecar_layout {
    uint32_t n_matrices;
    uint64_t n_chunks, data_offset, data_bytes, file_bytes;
};

/* A checked file in memory; borrows it. */
struct sidecar {
    struct sidecar_digest digest;
    struct sidecar_layout layout;
    const uint8_t *table, *sums, *data;
};

/* Bytes of a matrix's panels; false where its type is not packed, its rows are no whole blocks, or
 * sizes overflow. */
bool sidecar_matrix_bytes(struct sidecar_matrix *matrix);
/* Sets the offsets of n matrices whose bytes are set. False: too many, or too large. */
bool sidecar_plan(struct sidecar_matrix *matrices, uint32_t n, struct sidecar_layout *out);
/* out: [data_offset], what stands before the data. sums: one per chunk. */
void sidecar_write_head(const struct sidecar_digest *digest, const struct sidecar_layout *layout,
                        const struct sidecar_matrix *matrices, const uint64_t *sums, uint8_t *out);
uint64_t sidecar_sum(const uint8_t *chunk, uint64_t bytes);

/* Checks everything but the chunks' sums. data: the whole file, which the result points into.
 * STATUS_INTEGRITY with what is wrong and where. */
enum status sidecar_parse(const uint8_t *data, uint64_t size, struct sidecar *out,
                          struct error *err);
struct sidecar_matrix sidecar_matrix_at(const struct sidecar *sidecar, uint32_t index);
/* Whether the data of chunk `index` are what was written. */
bool sidecar_check_chunk(const struct sidecar *sidecar, uint64_t index);
/* Sets the sum over a head of that many bytes (header, table and sums); tests write wrong heads with
 * right sums by it. */
void sidecar_seal(uint8_t *head, uint64_t bytes);

#endif
