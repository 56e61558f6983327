/* What the AVX2 kernel files share: loads, unrolling, and the entries of the float file. Included
 * only by files compiled for AVX2, FMA and F16C. */
#ifndef SLUICE_BACKEND_CPU_X86_AVX2_H
#define SLUICE_BACKEND_CPU_X86_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define INLINE   static inline __attribute__((always_inline))
#define UNROLL   _Pragma("GCC unroll 8")
#define ROWS     4    /* of activations together, at most */
#define PREFETCH 4096 /* bytes ahead of the block at hand; past the end it does no harm */

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* By hand, since the compiler would regroup the sums and keep dozens of products alive, in memory. */
INLINE __m256i add16(__m256i sum, __m256i product)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(product));
    return sum;
}

INLINE __m256i add32(__m256i sum, __m256i product)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
    return sum;
}

/* Word w of a block: rows 8 * half .. + 8. */
INLINE __m256i word(const uint8_t *block, uint32_t w, uint32_t half)
{
    return load(block + 64 * w + 32 * half);
}

INLINE __m256i broadcast(const void *four_bytes)
{
    int32_t v;
    memcpy(&v, four_bytes, sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE __m256i bytes_of(uint8_t b)
{
    return _mm256_set1_epi8((char)b);
}

/* Eight float16, as at p. */
INLINE __m256 halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Words of two float16 each: the low ones and the high ones of eight rows. */
INLINE void half_pairs(__m256i words, __m256 *low, __m256 *high)
{
    __m256i l = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
    __m256i h = _mm256_srli_epi32(words, 16);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(l, h), 0xd8);
    *low = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
    *high = _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}

/* Asks for the lines of what lies PREFETCH ahead of [from, from + bytes). In runs of one to two KB:
 * on Zen 3 a Q6_K block's 53 lines at once cost a third of the rate (24 misses fit, what comes after
 * waits, and plain loads behind it), and runs of less than a KB along the way more. */
INLINE void prefetch_run(const uint8_t *from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)from + PREFETCH + i, _MM_HINT_T0);
}

/* Half 0 or 1 of a block, where it is due: blocks up to 2 KB whole with half 0. */
INLINE void prefetch_half(const uint8_t *block, uint32_t bytes, uint32_t half)
{
    const uint32_t first = bytes > 2048 ? (bytes / 2 + 63) / 64 * 64 : bytes;
    if (half == 0)
        prefetch_run(block, first);
    else
        prefetch_run(block + first, bytes - first);
}

INLINE void store_rows(__m256 acc[ROWS][2], uint32_t n, float *out)
{
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        _mm256_store_ps(out + 16 * m, acc[m][0]);
        _mm256_store_ps(out + 16 * m + 8, acc[m][1]);
    }
}

INLINE void load_rows(__m256 acc[ROWS][2], uint32_t n, const float *out)
{
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        acc[m][0] = _mm256_load_ps(out + 16 * m);
        acc[m][1] = _mm256_load_ps(out + 16 * m + 8);
    }
}

INLINE const void *act_at(const struct act_rows *rows, uint32_t m, uint32_t block)
{
    return (const uint8_t *)rows->x[m] + block * rows->block_stride;
}

/* Bits [shift, shift + bits of mask) of each byte; shift: a constant once loops are unrolled. */
INLINE __m256i field(__m256i v, uint32_t shift, uint8_t mask)
{
    return _mm256_and_si256(shift ? _mm256_srli_epi16(v, (int)shift) : v, bytes_of(mask));
}

/* The bits of mask << from of each byte, moved to mask << to. Both constants, like shift above. */
INLINE __m256i moved(__m256i v, uint32_t from, uint32_t to, uint8_t mask)
{
    if (from > to)
        v = _mm256_srli_epi16(v, (int)(from - to));
    if (from < to)
        v = _mm256_slli_epi16(v, (int)(to - from));
    return _mm256_and_si256(v, bytes_of((uint8_t)(mask << to)));
}

/* Columns 32 * group + 4 * step .. + 4 as unsigned bytes (signed ones for wide types). */
typedef __m256i step_fn(const uint8_t *block, uint32_t group, uint32_t step, uint32_t half);

/* Kernels, by file. */
#define AVX2_KERNEL(name)                                                                          \
    void avx2_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,      \
                          float *out)
AVX2_KERNEL(q4_k);
AVX2_KERNEL(q5_k);
AVX2_KERNEL(q6_k);
AVX2_KERNEL(q2_k);
AVX2_KERNEL(q3_k);
AVX2_KERNEL(q8_0);
AVX2_KERNEL(q4_0);
AVX2_KERNEL(q4_1);
AVX2_KERNEL(q5_0);
AVX2_KERNEL(q5_1);
AVX2_KERNEL(iq4_nl);
AVX2_KERNEL(mxfp4);
AVX2_KERNEL(iq4_xs);
AVX2_KERNEL(f32);
AVX2_KERNEL(f16);
AVX2_KERNEL(bf16);
AVX2_KERNEL(f8_e4m3);
AVX2_KERNEL(f8_e5m2);
#undef AVX2_KERNEL

#endif
