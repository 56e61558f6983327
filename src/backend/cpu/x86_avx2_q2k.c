/* AVX2: Q2_K and Q3_K. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2_256.h"

/* Words 0..3 scales and minima (a nibble each), 4..19 bit pairs, 20 d and dmin. */
INLINE __m256i step_q2_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    return field(word(block, 4 + 8 * (g / 4) + i, half), 2 * (g % 4), 3);
}

INLINE void scales_q2_k(const uint8_t *block, struct scales *out)
{
    for (uint32_t h = 0; h < 2; h++) {
        half_pairs(word(block, 20, h), &out->d[h], &out->dmin[h]);
        UNROLL for (uint32_t w = 0; w < 4; w++)
        {
            __m256i v = word(block, w, h);
            __m256i scale = field(v, 0, 15), minimum = field(v, 4, 15);
            UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i][h] =
                unsigned_scale(scale, i);
            out->pairs[2 * w][h] = unsigned_pair(minimum, 0);
            out->pairs[2 * w + 1][h] = unsigned_pair(minimum, 2);
        }
    }
}

/* Words 0..7 third bits, 8..23 bit pairs, 24..26 scales, then d. */
INLINE __m256i step_q3_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    __m256i low = field(word(block, 8 + 8 * (g / 4) + i, half), 2 * (g % 4), 3);
    return _mm256_or_si256(low, moved(word(block, i, half), g, 2, 1));
}

INLINE void scales_q3_k(const uint8_t *block, struct scales *out)
{
    for (uint32_t h = 0; h < 2; h++) {
        out->d[h] = halves(block + 27 * 64 + 16 * h);
        __m256i low[2] = {word(block, 24, h), word(block, 25, h)}, high = word(block, 26, h);
        UNROLL for (uint32_t w = 0; w < 4; w++)
        {
            __m256i v = _mm256_or_si256(field(low[w % 2], 4 * (w / 2), 15),
                                        _mm256_slli_epi16(field(high, 2 * w, 3), 4));
            v = _mm256_sub_epi8(v, bytes_of(32));
            UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i][h] = signed_scale(v, i);
            out->pairs[2 * w][h] = signed_pair(v, 0);
            out->pairs[2 * w + 1][h] = signed_pair(v, 2);
        }
    }
}

KERNEL_256(q2_k, 16 * 84, 16, 4, BIAS_MINIMA, 0)
KERNEL_256(q3_k, 16 * 110, 16, 4, BIAS_OFFSET, 2)

#else
typedef int x86_avx2_q2k_is_empty;
#endif
