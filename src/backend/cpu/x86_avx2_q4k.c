/* AVX2: Q4_K and Q5_K, which share a form of scales and minima. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2_256.h"

/* Words 1..3: the 12 bytes of six-bit scales and minima of Q4_K and Q5_K; word 0: d and dmin. */
INLINE void scales_k4(const uint8_t *block, struct scales *out)
{
    const __m256i six = bytes_of(63), nibble = bytes_of(15), top = bytes_of(0x30);
    for (uint32_t h = 0; h < 2; h++) {
        half_pairs(word(block, 0, h), &out->d[h], &out->dmin[h]);
        __m256i a = word(block, 1, h), b = word(block, 2, h), c = word(block, 3, h);
        __m256i scale[2] = {
            _mm256_and_si256(a, six),
            _mm256_or_si256(_mm256_and_si256(c, nibble),
                            _mm256_and_si256(_mm256_srli_epi16(a, 2), top)),
        };
        __m256i minimum[2] = {
            _mm256_and_si256(b, six),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c, 4), nibble),
                            _mm256_and_si256(_mm256_srli_epi16(b, 2), top)),
        };
        UNROLL for (uint32_t g = 0; g < 8; g++) out->scale[g][h] =
            unsigned_scale(scale[g / 4], g % 4);
        UNROLL for (uint32_t p = 0; p < 4; p++) out->pairs[p][h] =
            unsigned_pair(minimum[p / 2], 2 * (p % 2));
    }
}

INLINE __m256i step_q4_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    return field(word(block, 4 + 8 * (g / 2) + i, half), 4 * (g % 2), 15);
}

INLINE __m256i step_q5_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    __m256i low = field(word(block, 12 + 8 * (g / 2) + i, half), 4 * (g % 2), 15);
    return _mm256_or_si256(low, moved(word(block, 4 + i, half), g, 4, 1));
}

#define scales_q4_k scales_k4
#define scales_q5_k scales_k4
KERNEL_256(q4_k, 16 * 144, 32, 8, BIAS_MINIMA, 0)
KERNEL_256(q5_k, 16 * 176, 32, 4, BIAS_MINIMA, 0)

#else
typedef int x86_avx2_q4k_is_empty;
#endif
