/* Arithmetic peaks of AVX-512: float32, VNNI and BF16. */
#include "hw/peak.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
#include <immintrin.h>

#define ACCUMULATORS 16
#define KEEP(x)      __asm__ volatile("" : "+v"(x))
#include "hw/peak_unroll.h"

double peak_avx512_f32(uint64_t rounds)
{
    __m512 sum[ACCUMULATORS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
    EACH_ACCUMULATOR({ sum[i] = _mm512_set1_ps((float)i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm512_fmadd_ps(sum[i], a, b);
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 16 * 2;
}

double peak_avx512_vnni(uint64_t rounds)
{
    __m512i sum[ACCUMULATORS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    EACH_ACCUMULATOR({ sum[i] = _mm512_set1_epi32(i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 64 * 2;
}

double peak_avx512_bf16(uint64_t rounds)
{
    __m512 sum[ACCUMULATORS];
    __m512i ones = _mm512_set1_epi16(0x3f80); /* 1.0 */
    EACH_ACCUMULATOR({ sum[i] = _mm512_set1_ps((float)i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)ones, (__m512bh)ones);
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 32 * 2;
}
#else
typedef int peak_avx512_is_empty;
#endif
