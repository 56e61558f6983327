/*
 * Read bandwidth of main memory, measured.
 *
 * Every thread writes its own part of one buffer, so that pages exist and lie near it, and then
 * streams through that part again and again until the time is up. The buffer is at least twice the
 * level-3 caches, so what is read next was always evicted since its last use. Loads are 16 bytes
 * wide with independent accumulators: enough to keep a core's memory queue full without needing
 * anything beyond the base instruction set. Huge pages are not asked for: mapped model files do not
 * have them either, and preparing them took four times as long in a virtual machine.
 */
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/clock.h"
#include "base/threads.h"
#include "hw/hardware.h"

#define READING_NS      25000000u
#define BUFFER_MIN      ((uint64_t)64 << 20)
#define CHUNK           ((size_t)1 << 20) /* read between looks at the clock */
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

static uint64_t read_chunk(const uint8_t *chunk)
{
#if defined(__SSE2__)
    const __m128i *p = (const __m128i *)chunk;
    __m128i sum[8] = {_mm_setzero_si128()};
    for (size_t i = 0; i < CHUNK / sizeof *p; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] = _mm_xor_si128(sum[lane], _mm_load_si128(p + i + lane));
    for (int lane = 1; lane < 8; lane++)
        sum[0] = _mm_xor_si128(sum[0], sum[lane]);
    uint64_t halves[2];
    _mm_storeu_si128((__m128i *)halves, sum[0]);
    return halves[0] ^ halves[1];
#else
    const uint64_t *p = (const uint64_t *)chunk;
    uint64_t sum[8] = {0}, all = 0;
    for (size_t i = 0; i < CHUNK / sizeof *p; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] ^= p[i + lane];
    for (int lane = 0; lane < 8; lane++)
        all ^= sum[lane];
    return all;
#endif
}

static void read_part(void *context, uint32_t index, uint32_t n_threads)
{
    struct measurement *m = context;
    struct reader *reader = &m->readers[index];
    size_t begin, end;
    thread_range(m->size, index, n_threads, CHUNK, &begin, &end);
    memset(m->buffer + begin, (int)index + 1, end - begin);
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
    thread_pool_run(m.pool, read_part, &m);
    uint64_t bytes = 0, ended = m.started + 1;
    for (uint32_t i = 0; i < n_threads; i++) {
        bytes += m.readers[i].bytes;
        ended = m.readers[i].ended > ended ? m.readers[i].ended : ended;
    }
    *bytes_per_second = (double)bytes * 1e9 / (double)(ended - m.started);
done:
    free(m.readers);
    free(m.buffer);
    thread_pool_free(m.pool);
    return status;
}
