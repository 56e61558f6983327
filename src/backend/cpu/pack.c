/*
 * Where packed matrices live, and how they get there.
 *
 * Memory comes in large chunks from the system, with huge pages asked for: a decoding step reads
 * every byte once, and with small pages the walk of page tables would be a tenth of that. Chunks are
 * filled front to back, so that no more than the end of the last one is resident for nothing. All
 * threads pack, each its own panels; the pages of the file just read are given back to the system as
 * it goes, so that a model is not in memory twice. Matrices that an earlier start has kept (kept.c)
 * are not packed at all: their panels lie in a mapped file.
 */
#if defined(__linux__)
#define _GNU_SOURCE /* MADV_HUGEPAGE */
#endif
#include <stdlib.h>
#include <sys/mman.h>

#include "backend/cpu/internal.h"
#include "base/checked.h"
#include "base/file.h"

#define HUGE_PAGE   ((uint64_t)2 << 20)
#define CHUNK_BYTES ((uint64_t)64 << 20)
#define ALIGNMENT   128 /* of a matrix within a chunk: two cache lines are fetched together */
/* Panels stream past prefetching ahead of them; what lies behind the last one must be mapped only
 * for speed, not for safety: prefetching never faults. */

struct packed_chunk {
    struct packed_chunk *next;
    uint8_t *memory; /* mapped */
    uint64_t mapped, size, used;
    uint8_t *start; /* aligned to a huge page */
};

static struct packed_chunk *new_chunk(uint64_t bytes)
{
    struct packed_chunk *chunk = calloc(1, sizeof *chunk);
    uint64_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES, mapped;
    if (!chunk || !checked_round_up_u64(size, HUGE_PAGE, &size) ||
        !checked_add_u64(size, HUGE_PAGE, &mapped) || mapped > PTRDIFF_MAX) {
        free(chunk);
        return NULL;
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void *memory = mmap(NULL, (size_t)mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) {
        free(chunk);
        return NULL;
    }
    *chunk = (struct packed_chunk){.memory = memory, .mapped = mapped, .size = size};
    uintptr_t at = (uintptr_t)memory;
    chunk->start = chunk->memory + (HUGE_PAGE - at % HUGE_PAGE) % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    (void)madvise(chunk->start, (size_t)size, MADV_HUGEPAGE);
#endif
    return chunk;
}

static uint8_t *chunk_memory(struct cpu_backend *backend, uint64_t bytes)
{
    if (!checked_round_up_u64(bytes, ALIGNMENT, &bytes))
        return NULL;
    struct packed_chunk *chunk = backend->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        chunk = new_chunk(bytes);
        if (!chunk)
            return NULL;
        chunk->next = backend->chunks;
        backend->chunks = chunk;
    }
    uint8_t *memory = chunk->start + chunk->used;
    chunk->used += bytes;
    return memory;
}

void cpu_release_packed(struct cpu_backend *backend)
{
    while (backend->chunks) {
        struct packed_chunk *next = backend->chunks->next;
        munmap(backend->chunks->memory, (size_t)backend->chunks->mapped);
        free(backend->chunks);
        backend->chunks = next;
    }
}

/* ---- packing ----------------------------------------------------------------------------------- */

#define PANELS_AT_ONCE 16 /* between giving pages back */

struct packing {
    const struct placed_weight *placed;
    uint8_t *panels;
};

static void pack_panels(void *context, uint32_t index, uint32_t n_threads)
{
    const struct packing *packing = context;
    const struct placed_weight *placed = packing->placed;
    const struct weight *w = placed->weight;
    uint64_t panels = (w->n_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    size_t begin, end;
    thread_range((size_t)(panels * w->count), index, n_threads, PANELS_AT_ONCE, &begin, &end);
    const uint8_t *first = NULL;
    uint64_t pending = 0;
    for (size_t p = begin; p < end; p++) {
        uint32_t part = (uint32_t)(p / panels), row = (uint32_t)(p % panels) * PANEL_ROWS;
        uint32_t n = w->n_rows - row < PANEL_ROWS ? w->n_rows - row : PANEL_ROWS;
        const uint8_t *rows = (const uint8_t *)w->parts[part] + row * placed->row_bytes;
        packed_write(placed->layout, rows, placed->row_bytes, n, w->n_cols,
                     packing->panels + p * placed->panel_bytes);
        /* Runs of neighbouring rows: parts need not follow each other. */
        if (pending && first + pending == rows) {
            pending += n * placed->row_bytes;
        } else {
            mapped_file_forget(first, pending);
            first = rows;
            pending = n * placed->row_bytes;
        }
        if ((p + 1 - begin) % (16 * PANELS_AT_ONCE) == 0 || p + 1 == end) {
            mapped_file_forget(first, pending);
            pending = 0;
        }
    }
}

enum status cpu_pack(struct cpu_backend *backend, const struct program *program, uint32_t weight,
                     struct placed_weight *placed, struct error *err)
{
    const struct weight *w = placed->weight;
    uint64_t panels = (w->n_rows + PANEL_ROWS - 1) / PANEL_ROWS, bytes;
    placed->panel_bytes = packed_panel_bytes(placed->layout, w->n_cols);
    placed->part_bytes = panels * placed->panel_bytes;
    if (!checked_mul_u64(placed->part_bytes, w->count, &bytes))
        return error_set(err, STATUS_MEMORY, "%s is too large", w->name);
    placed->panels = kept_find(backend, program, weight);
    if (placed->panels)
        return STATUS_OK;
    struct packing packing = {.placed = placed, .panels = chunk_memory(backend, bytes)};
    if (!packing.panels)
        return error_set(err, STATUS_MEMORY, "out of memory while packing %s (%llu bytes)", w->name,
                         (unsigned long long)bytes);
    thread_pool_run(backend->pool, pack_panels, &packing);
    placed->panels = packing.panels;
    kept_add(backend, program, weight, placed->panels);
    return STATUS_OK;
}
