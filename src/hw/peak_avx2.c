/* Arithmetic peaks of AVX2 and FMA. */
#include "hw/peak.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define ACCUMULATORS 12
#define KEEP(x)      __asm__ volatile("" : "+x"(x))
#include "hw/peak_unroll.h"

double peak_avx2_f32(uint64_t rounds)
{
    __m256 sum[ACCUMULATORS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    EACH_ACCUMULATOR({ sum[i] = _mm256_set1_ps((float)i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm256_fmadd_ps(sum[i], a, b);
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 8 * 2;
}

/* Products of bytes summed in pairs and added up in 16 bits: the least that an int8 product costs
 * without VNNI, possible for a few products of small numbers before they are widened. */
double peak_avx2_int8(uint64_t rounds)
{
    __m256i sum[ACCUMULATORS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    EACH_ACCUMULATOR({ sum[i] = _mm256_set1_epi16((short)i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            KEEP(a); /* so that the product is not computed once for all */
            sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(a, b));
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 32 * 2;
}

/* The same, widened to 32 bits at once: what full-range bytes need. */
double peak_avx2_int8_wide(uint64_t rounds)
{
    __m256i sum[ACCUMULATORS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    __m256i ones = _mm256_set1_epi16(1);
    EACH_ACCUMULATOR({ sum[i] = _mm256_set1_epi32(i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            KEEP(a); /* so that the product is not computed once for all */
            __m256i pairs = _mm256_maddubs_epi16(a, b);
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 32 * 2;
}
#else
typedef int peak_avx2_is_empty;
#endif
