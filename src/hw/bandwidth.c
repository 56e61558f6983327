/*
 * Read bandwidth of main memory, measured.
 *
 * Every thread writes its own part of one buffer, so that pages exist and lie near it, and then
 * reads that part again and again until the time is up. The buffer is at least twice the level-3
 * caches, so what is read next was always evicted since its last use. What counts is how many lines
 * are under way at once: a core reads STREAMS places in turn and asks for the lines that come next,
 * from huge pages where the system grants them; one plain stream shows two thirds of that on some
 * machines. Loads are 16 bytes wide: nothing beyond the base instruction set is needed.
 */
#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#endif
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/clock.h"
#include "base/threads.h"
#include "hw/hardware.h"

#define READING_NS      12000000u
#define READINGS        3 /* the best counts */
#define BUFFER_MIN      ((uint64_t)64 << 20)
#define CHUNK           ((size_t)2 << 20) /* read between looks at the clock; a huge page */
#define STREAMS         4
#define AHEAD           1024 /* bytes asked for in advance, in each stream */
#define BLOCK           256  /* bytes read of one stream before the next one's turn */
#define CACHE_LINE_SIZE 64

struct reader {
    _Alignas(CACHE_LINE_SIZE) uint64_t bytes;
    uint64_t ended;
    uint64_t sum; /* kept so that the loads are not optimised away */
};

struct measurement {
    struct thread_pool *pool;
    uint8_t *buffer;
    size_t size; /* a multiple of CHUNK */
    uint64_t started;
    struct reader *readers;
};

/* XOR of a block: four lines. */
static inline uint64_t read_block(const uint8_t *block)
{
    for (size_t line = 0; line < BLOCK; line += CACHE_LINE_SIZE)
        __builtin_prefetch(block + AHEAD + line);
#if defined(__SSE2__)
    const __m128i *p = (const __m128i *)block;
    __m128i sum = _mm_load_si128(p);
    for (size_t i = 1; i < BLOCK / sizeof *p; i++)
        sum = _mm_xor_si128(sum, _mm_load_si128(p + i));
    uint64_t halves[2];
    _mm_storeu_si128((__m128i *)halves, sum);
    return halves[0] ^ halves[1];
#else
    const uint64_t *p = (const uint64_t *)block;
    uint64_t sum = 0;
    for (size_t i = 0; i < BLOCK / sizeof *p; i++)
        sum ^= p[i];
    return sum;
#endif
}

/* Prefetching past the end of the buffer is harmless: it never faults. */
static uint64_t read_chunk(const uint8_t *chunk)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < CHUNK / STREAMS; at += BLOCK)
        for (size_t stream = 0; stream < STREAMS; stream++)
            sum ^= read_block(chunk + stream * (CHUNK / STREAMS) + at);
    return sum;
}

static void write_part(void *context, uint32_t index, uint32_t n_threads)
{
    struct measurement *m = context;
    size_t begin, end;
    thread_range(m->size, index, n_threads, CHUNK, &begin, &end);
    memset(m->buffer + begin, (int)index + 1, end - begin);
}

static void read_part(void *context, uint32_t index, uint32_t n_threads)
{
    struct measurement *m = context;
    struct reader *reader = &m->readers[index];
    size_t begin, end;
    thread_range(m->size, index, n_threads, CHUNK, &begin, &end);
    reader->bytes = 0;
    thread_pool_barrier(m->pool);
    if (index == 0)
        m->started = clock_now_ns();
    thread_pool_barrier(m->pool);
    uint64_t deadline = m->started + READING_NS, now = m->started;
    for (size_t at = begin; now < deadline && begin < end; now = clock_now_ns()) {
        reader->sum ^= read_chunk(m->buffer + at);
        reader->bytes += CHUNK;
        at = at + CHUNK < end ? at + CHUNK : begin;
    }
    reader->ended = now;
}

static double read_once(struct measurement *m)
{
    thread_pool_run(m->pool, read_part, m);
    uint64_t bytes = 0, ended = m->started + 1;
    for (uint32_t i = 0; i < thread_pool_size(m->pool); i++) {
        bytes += m->readers[i].bytes;
        ended = m->readers[i].ended > ended ? m->readers[i].ended : ended;
    }
    return (double)bytes * 1e9 / (double)(ended - m->started);
}

static enum status choose_size(const struct hardware *hw, uint32_t n_threads, size_t *size,
                               struct error *err)
{
    uint64_t wanted = 2 * hw->l3_bytes * (hw->n_l3 ? hw->n_l3 : 1);
    uint64_t memory = hw->memory_available ? hw->memory_available : hw->memory_total;
    wanted = wanted < BUFFER_MIN ? BUFFER_MIN : wanted;
    wanted = wanted < n_threads * CHUNK ? n_threads * CHUNK : wanted;
    wanted = (wanted + CHUNK - 1) / CHUNK * CHUNK;
    if (wanted > memory / 4)
        return error_set(err, STATUS_MEMORY,
                         "measuring memory bandwidth needs %llu MiB, more than a quarter of the "
                         "available memory",
                         (unsigned long long)(wanted >> 20));
    *size = (size_t)wanted;
    return STATUS_OK;
}

enum status hardware_measure_bandwidth(const struct hardware *hw, uint32_t n_threads,
                                       double *bytes_per_second, struct error *err)
{
    struct measurement m = {0};
    enum status status = thread_pool_create(n_threads, NULL, &m.pool, err);
    if (status == STATUS_OK)
        status = choose_size(hw, n_threads, &m.size, err);
    if (status != STATUS_OK)
        goto done;
    m.buffer = aligned_alloc(CHUNK, m.size);
    m.readers = aligned_alloc(CACHE_LINE_SIZE, n_threads * sizeof *m.readers);
    if (!m.buffer || !m.readers) {
        status = error_set(err, STATUS_MEMORY, "no memory to measure its bandwidth");
        goto done;
    }
    memset(m.readers, 0, n_threads * sizeof *m.readers);
#ifdef __linux__
    madvise(m.buffer, m.size, MADV_HUGEPAGE); /* refused: ordinary pages */
#endif
    thread_pool_run(m.pool, write_part, &m);
    *bytes_per_second = 0;
    for (int i = 0; i < READINGS; i++) {
        double rate = read_once(&m);
        *bytes_per_second = rate > *bytes_per_second ? rate : *bytes_per_second;
    }
done:
    free(m.readers);
    free(m.buffer);
    thread_pool_free(m.pool);
    return status;
}
