/* Arithmetic peak of VNNI with 256-bit registers, on processors without AVX-512. */
#include "hw/peak.h"

#if defined(__AVXVNNI__)
#include <immintrin.h>

#define ACCUMULATORS 12
#define KEEP(x)      __asm__ volatile("" : "+x"(x))
#include "hw/peak_unroll.h"

double peak_avxvnni_int8(uint64_t rounds)
{
    __m256i sum[ACCUMULATORS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
    EACH_ACCUMULATOR({ sum[i] = _mm256_set1_epi32(i); });
    for (uint64_t r = 0; r < rounds; r++)
        EACH_ACCUMULATOR({
            sum[i] = _mm256_dpbusd_avx_epi32(sum[i], a, b);
            KEEP(sum[i]);
        });
    return (double)rounds * ACCUMULATORS * 32 * 2;
}
#else
typedef int peak_avxvnni_is_empty;
#endif
