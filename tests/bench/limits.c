#define _GNU_SOURCE
#include "limits.h"

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "hw/hardware.h"

#define BUFFER ((size_t)512 << 20)

void limits_huge_pages(void *memory, size_t bytes)
{
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
}

struct task {
    const uint8_t *buffer;
    uint64_t sink[256];
    uint64_t rounds;
};

__attribute__((target("avx2"))) static void read_all(void *context, uint32_t index,
                                                     uint32_t n_threads)
{
    struct task *t = context;
    size_t begin, end;
    thread_range(BUFFER, index, n_threads, 4096, &begin, &end);
    __m256i sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t at = begin; at < end; at += 256) {
        _mm_prefetch((const char *)t->buffer + at + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)t->buffer + at + 4160, _MM_HINT_T0);
        _mm_prefetch((const char *)t->buffer + at + 4224, _MM_HINT_T0);
        _mm_prefetch((const char *)t->buffer + at + 4288, _MM_HINT_T0);
        for (int i = 0; i < 8; i++)
            sum[i] = _mm256_xor_si256(
                sum[i], _mm256_load_si256((const __m256i *)(t->buffer + at + 32 * i)));
    }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    t->sink[index % 256] = (uint64_t)_mm256_extract_epi64(sum[0], 0);
}

/* maddubs and an addition per 32 multiplications: what 4-bit weights need. */
__attribute__((target("avx2"))) static void multiply_avx2(void *context, uint32_t index,
                                                          uint32_t n_threads)
{
    (void)n_threads;
    struct task *t = context;
    __m256i sum[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8((char)index);
    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_setzero_si256();
    for (uint64_t r = 0; r < t->rounds; r++)
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)
        {
            __asm__ volatile("" : "+x"(b));
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(a, b));
        }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_xor_si256(sum[0], sum[i]);
    t->sink[index % 256] = (uint64_t)_mm256_extract_epi64(sum[0], 0);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void
multiply_vnni(void *context, uint32_t index, uint32_t n_threads)
{
    (void)n_threads;
    struct task *t = context;
    __m512i sum[16], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8((char)index);
    for (int i = 0; i < 16; i++)
        sum[i] = _mm512_setzero_si512();
    for (uint64_t r = 0; r < t->rounds; r++)
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) sum[i] =
            _mm512_dpbusd_epi32(sum[i], a, b);
    for (int i = 1; i < 16; i++)
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    t->sink[index % 256] = (uint64_t)_mm512_reduce_add_epi32(sum[0]);
}

static double seconds_of(struct thread_pool *pool, thread_pool_fn fn, struct task *t)
{
    double best = 1e30;
    thread_pool_run(pool, fn, t);
    for (int i = 0; i < 4; i++) {
        uint64_t start = clock_now_ns();
        thread_pool_run(pool, fn, t);
        double seconds = (double)(clock_now_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    return best;
}

void limits_measure(struct thread_pool *pool, struct limits *out)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    static struct task t;
    uint8_t *buffer = aligned_alloc(1 << 21, BUFFER + (1 << 21));
    *out = (struct limits){1, 1, "none"};
    if (!buffer || !hw.isa[ISA_AVX2])
        return;
    limits_huge_pages(buffer, BUFFER);
    memset(buffer, 1, BUFFER);
    t.buffer = buffer;
    out->read_bandwidth = (double)BUFFER / seconds_of(pool, read_all, &t);
    free(buffer);
    t.rounds = 2000000;
    bool vnni = hw.isa[ISA_AVX512_VNNI] && hw.isa[ISA_AVX512BW];
    double macs = vnni ? 16 * 64 : 8 * 32;
    double seconds = seconds_of(pool, vnni ? multiply_vnni : multiply_avx2, &t);
    out->int8_rate = 2 * macs * (double)t.rounds * thread_pool_size(pool) / seconds;
    out->int8_name = vnni ? "avx512 vpdpbusd" : "avx2 vpmaddubsw and vpaddw";
}
