/*
 * Arithmetic peaks, measured: every loop that this processor can run, on all threads at once, since
 * clock rates and shared units depend on how many cores work. The best of several short runs: a
 * peak is a limit, and other programs only ever lower it.
 */
#include <stdlib.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/clock.h"
#include "base/threads.h"
#include "hw/hardware.h"
#include "hw/peak.h"

#define ACCUMULATORS 12
#include "hw/peak_unroll.h"

#define RUN_NS     4000000u
#define RUNS       5
#define ROUNDS     2000 /* between looks at the clock: some microseconds */
#define CACHE_LINE 64

#if defined(__SSE2__)
double peak_portable_f32(uint64_t rounds)
{
    __m128 sum[ACCUMULATORS], a = _mm_set1_ps(0.999f), b = _mm_set1_ps(1e-3f);
    EACH_ACCUMULATOR({ sum[i] = _mm_set1_ps((float)i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm_add_ps(_mm_mul_ps(sum[i], a), b);
            __asm__ volatile("" : "+x"(sum[i]));
        });
    return (double)rounds * ACCUMULATORS * 4 * 2;
}
#else
/* Whatever the compiler makes of plain C. */
double peak_portable_f32(uint64_t rounds)
{
    float sum[ACCUMULATORS];
    volatile float kept;
    EACH_ACCUMULATOR({ sum[i] = (float)i; });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({ sum[i] = sum[i] * 0.999f + 1e-3f; });
    EACH_ACCUMULATOR({ kept = sum[i]; });
    (void)kept;
    return (double)rounds * ACCUMULATORS * 2;
}
#endif

static const struct {
    const char *name;
    enum arithmetic kind;
    enum instruction_set needs[3];
    arithmetic_loop loop;
} loops[] = {
#define NONE INSTRUCTION_SETS
    {"base instruction set", ARITHMETIC_F32, {NONE, NONE, NONE}, peak_portable_f32},
#ifdef SLUICE_HAVE_AVX2
    {"AVX2 FMA", ARITHMETIC_F32, {ISA_AVX2, ISA_FMA, NONE}, peak_avx2_f32},
    {"AVX2, summed in 16 bits", ARITHMETIC_INT8, {ISA_AVX2, ISA_FMA, NONE}, peak_avx2_int8},
    {"AVX2, summed in 32 bits", ARITHMETIC_INT8, {ISA_AVX2, ISA_FMA, NONE}, peak_avx2_int8_wide},
#endif
#ifdef SLUICE_HAVE_AVXVNNI
    {"AVX-VNNI", ARITHMETIC_INT8, {ISA_AVX_VNNI, NONE, NONE}, peak_avxvnni_int8},
#endif
#ifdef SLUICE_HAVE_AVX512
    {"AVX-512", ARITHMETIC_F32, {ISA_AVX512F, NONE, NONE}, peak_avx512_f32},
    {"AVX-512 VNNI", ARITHMETIC_INT8, {ISA_AVX512F, ISA_AVX512_VNNI, NONE}, peak_avx512_vnni},
    {"AVX-512 BF16", ARITHMETIC_BF16, {ISA_AVX512F, ISA_AVX512_BF16, NONE}, peak_avx512_bf16},
#endif
#ifdef SLUICE_HAVE_AMX
    {"AMX", ARITHMETIC_INT8, {ISA_AMX_TILE, ISA_AMX_INT8, NONE}, peak_amx_int8},
    {"AMX", ARITHMETIC_BF16, {ISA_AMX_TILE, ISA_AMX_BF16, NONE}, peak_amx_bf16},
#endif
#undef NONE
};

_Static_assert(sizeof loops / sizeof *loops <= ARITHMETIC_PEAKS_MAX, "room for every loop");

struct counter {
    _Alignas(CACHE_LINE) double operations;
    uint64_t ended;
};

struct measurement {
    struct thread_pool *pool;
    arithmetic_loop loop;
    uint64_t started;
    struct counter *counters;
};

static void run_loop(void *context, uint32_t index, uint32_t n_threads)
{
    struct measurement *m = context;
    struct counter *counter = &m->counters[index];
    (void)n_threads;
    counter->operations = 0;
    m->loop(ROUNDS); /* wakes the wide units and asks for their registers */
    thread_pool_barrier(m->pool);
    if (index == 0)
        m->started = clock_now_ns();
    thread_pool_barrier(m->pool);
    uint64_t deadline = m->started + RUN_NS;
    do {
        counter->operations += m->loop(ROUNDS);
        counter->ended = clock_now_ns();
    } while (counter->ended < deadline);
}

static double best_rate(struct measurement *m)
{
    double best = 0;
    uint32_t n = thread_pool_size(m->pool);
    for (int run = 0; run < RUNS; run++) {
        thread_pool_run(m->pool, run_loop, m);
        double operations = 0;
        uint64_t ended = m->started + 1;
        for (uint32_t i = 0; i < n; i++) {
            operations += m->counters[i].operations;
            ended = m->counters[i].ended > ended ? m->counters[i].ended : ended;
        }
        double rate = operations * 1e9 / (double)(ended - m->started);
        best = rate > best ? rate : best;
    }
    return best;
}

static bool usable(const struct hardware *hw, const enum instruction_set *needs)
{
    for (int i = 0; i < 3; i++)
        if (needs[i] != INSTRUCTION_SETS && !hw->isa[needs[i]])
            return false;
    return true;
}

enum status hardware_measure_arithmetic(const struct hardware *hw, uint32_t n_threads,
                                        struct arithmetic_peaks *out, struct error *err)
{
    struct measurement m = {0};
    *out = (struct arithmetic_peaks){0};
    enum status status = thread_pool_create(n_threads, NULL, &m.pool, err);
    if (status != STATUS_OK)
        return status;
    m.counters = aligned_alloc(CACHE_LINE, n_threads * sizeof *m.counters);
    if (!m.counters)
        status = error_set(err, STATUS_MEMORY, "no memory to measure arithmetic");
    for (size_t i = 0; i < sizeof loops / sizeof *loops && status == STATUS_OK; i++) {
        if (!usable(hw, loops[i].needs))
            continue;
        m.loop = loops[i].loop;
        double rate = best_rate(&m);
        if (rate <= 0)
            continue;
        out->items[out->count++] = (struct arithmetic_peak){loops[i].name, loops[i].kind, rate};
    }
    free(m.counters);
    thread_pool_free(m.pool);
    return status;
}

double arithmetic_best(const struct arithmetic_peaks *peaks, enum arithmetic kind)
{
    double best = 0;
    for (uint32_t i = 0; i < peaks->count; i++)
        if (peaks->items[i].kind == kind && peaks->items[i].operations_per_second > best)
            best = peaks->items[i].operations_per_second;
    return best;
}

const char *arithmetic_name(enum arithmetic kind)
{
    static const char *const names[] = {"int8", "bf16", "f32"};
    return names[kind];
}
