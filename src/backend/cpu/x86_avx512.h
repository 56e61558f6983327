/* What the AVX-512 kernel files share. Included only by files compiled for AVX-512 F, BW, VL and
 * VNNI. A vector is a word of all 16 rows of a panel: four columns each. */
#ifndef SLUICE_BACKEND_CPU_X86_AVX512_H
#define SLUICE_BACKEND_CPU_X86_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define INLINE   static inline __attribute__((always_inline))
#define UNROLL   _Pragma("GCC unroll 16")
#define PREFETCH 4096

/* Tiles take their time for a block: the next lines go to level 1 late, what follows to level 2 early. */
#define PREFETCH_NEAR 1024
#define PREFETCH_FAR  16384

INLINE __m512i word(const uint8_t *block, uint32_t w)
{
    return _mm512_loadu_si512(block + 64 * w);
}

INLINE __m512i bytes_of(uint8_t b)
{
    return _mm512_set1_epi8((char)b);
}

INLINE __m512i broadcast(const void *four_bytes)
{
    int32_t v;
    memcpy(&v, four_bytes, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Sixteen float16, as at p. */
INLINE __m512 halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* The lower or upper float16 of each word. */
INLINE __m512 low_halves(__m512i words)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}

INLINE __m512 high_halves(__m512i words)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
}

/* Bits [shift, shift + bits of mask) of each byte; shift: a constant once loops are unrolled. */
INLINE __m512i field(__m512i v, uint32_t shift, uint8_t mask)
{
    return _mm512_and_si512(shift ? _mm512_srli_epi16(v, shift) : v, bytes_of(mask));
}

INLINE void prefetch_block(const uint8_t *block, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)block + PREFETCH + i, _MM_HINT_T0);
}

/* Lines of eighth g of a block, PREFETCH ahead: between instructions that compute. All of a block's
 * at once are more than the processor keeps on their way, and the loads after them wait. */
INLINE void prefetch_eighth(const uint8_t *block, uint32_t bytes, uint32_t g)
{
    const uint32_t lines = (bytes + 63) / 64;
    UNROLL for (uint32_t i = g * lines / 8; i < (g + 1) * lines / 8; i++)
        _mm_prefetch((const char *)block + PREFETCH + 64 * i, _MM_HINT_T0);
}

INLINE void prefetch_eighth_for_tiles(const uint8_t *block, uint32_t bytes, uint32_t g)
{
    const uint32_t lines = (bytes + 63) / 64;
    UNROLL for (uint32_t i = g * lines / 8; i < (g + 1) * lines / 8; i++)
    {
        _mm_prefetch((const char *)block + PREFETCH_NEAR + 64 * i, _MM_HINT_T0);
        _mm_prefetch((const char *)block + PREFETCH_FAR + 64 * i, _MM_HINT_T1);
    }
}

/* Columns i .. i + 16 of n, zeros past the end. */
INLINE __m512 some_floats(const float *x, uint32_t i, uint32_t n)
{
    uint32_t left = n > i ? n - i : 0;
    __mmask16 some = left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff;
    return _mm512_maskz_loadu_ps(some, x + i);
}

/* bfloat16 in the lower halves: to the nearest, ties to even; a NaN stays one. */
INLINE __m512i rounded_to_bf16(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    return _mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, quiet), 16);
}

INLINE const void *act_at(const struct act_rows *rows, uint32_t m, uint32_t block)
{
    return (const uint8_t *)rows->x[m] + block * rows->block_stride;
}

/* ---- types with a float scale per 256 columns -------------------------------------------------- */

enum bias { BIAS_MINIMA, BIAS_OFFSET };

/* Integers that a block's sums are multiplied with: scale[g] of a group in 32 bits; pairs[p]: what
 * column sums 2p and 2p + 1 are multiplied with, in 16 bits each. */
struct scales_256 {
    __m512i scale[16];
    __m512i pairs[8];
    __m512 d, dmin;
};

typedef __m512i step_fn(const uint8_t *block, uint32_t group, uint32_t step);
typedef void scales_fn(const uint8_t *block, struct scales_256 *out);

struct type_256 {
    uint32_t bytes; /* of a panel's block */
    uint32_t group; /* columns that share a scale: 16 or 32 */
    enum bias bias;
    uint32_t shift; /* BIAS_OFFSET: weights are stored 2^shift too large */
    step_fn *step;  /* columns 32 * group + 4 * step .. + 4 as unsigned bytes */
    scales_fn *scales;
};

/* The types themselves, in x86_avx512_types.h, serve the row kernels here and the tiles of AMX. */

#define AVX512_KERNEL(name)                                                                        \
    void avx512_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)
AVX512_KERNEL(q4_k);
AVX512_KERNEL(q5_k);
AVX512_KERNEL(q6_k);
AVX512_KERNEL(q2_k);
AVX512_KERNEL(q3_k);
AVX512_KERNEL(iq4_xs);
AVX512_KERNEL(q8_0);
AVX512_KERNEL(q4_0);
AVX512_KERNEL(q4_1);
AVX512_KERNEL(q5_0);
AVX512_KERNEL(q5_1);
AVX512_KERNEL(iq4_nl);
AVX512_KERNEL(mxfp4);
AVX512_KERNEL(f32);
AVX512_KERNEL(f16);
AVX512_KERNEL(bf16);
AVX512_KERNEL(f8_e4m3);
AVX512_KERNEL(f8_e5m2);
#undef AVX512_KERNEL

#endif
