/* AVX2: Q6_K. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2_256.h"

/* Words 0..31 low nibbles, 32..47 upper bits, 48..51 sixteen int8 scales, then d. */
INLINE __m256i step_q6_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    uint32_t k = g % 4;
    __m256i low = field(word(block, 16 * (g / 4) + 8 * (k % 2) + i, half), 4 * (k / 2), 15);
    return _mm256_or_si256(low, moved(word(block, 32 + 8 * (g / 4) + i, half), 2 * k, 4, 3));
}

INLINE void scales_q6_k(const uint8_t *block, struct scales *out)
{
    for (uint32_t h = 0; h < 2; h++) {
        out->d[h] = halves(block + 52 * 64 + 16 * h);
        UNROLL for (uint32_t w = 0; w < 4; w++)
        {
            __m256i v = word(block, 48 + w, h);
            UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i][h] = signed_scale(v, i);
            out->pairs[2 * w][h] = signed_pair(v, 0);
            out->pairs[2 * w + 1][h] = signed_pair(v, 2);
        }
    }
}

KERNEL_256(q6_k, 16 * 210, 16, 2, BIAS_OFFSET, 5)

#else
typedef int x86_avx2_q6k_is_empty;
#endif
