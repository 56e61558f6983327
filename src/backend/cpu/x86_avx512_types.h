/* Reading packed blocks with AVX-512: one function for the integers of a word and one for the scales
 * of a block, for each type (layouts: packed.h; blocks: src/quant). For x86_avx512.c and x86_amx.c. */
#ifndef SLUICE_BACKEND_CPU_X86_AVX512_TYPES_H
#define SLUICE_BACKEND_CPU_X86_AVX512_TYPES_H

#include "backend/cpu/x86_avx512.h"

/* Byte `index` of each word, zero- or sign-extended to 32 bits. */
INLINE __m512i unsigned_byte(__m512i words, uint32_t index)
{
    return _mm512_and_si512(_mm512_srli_epi32(words, 8 * index), _mm512_set1_epi32(255));
}

INLINE __m512i signed_byte(__m512i words, uint32_t index)
{
    return _mm512_srai_epi32(_mm512_slli_epi32(words, 24 - 8 * index), 24);
}

/* Bytes `index` and `index + 1` (0 or 2) of each word as a pair of 16 bits. */
INLINE __m512i unsigned_pair(__m512i words, uint32_t index)
{
    __m512i v = _mm512_srli_epi32(words, 8 * index);
    __m512i second = _mm512_slli_epi32(_mm512_and_si512(v, _mm512_set1_epi32(0xff00)), 8);
    return _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(255)), second);
}

INLINE __m512i signed_pair(__m512i words, uint32_t index)
{
    return _mm512_srai_epi16(_mm512_slli_epi16(unsigned_pair(words, index), 8), 8);
}

/* Word 0: d and dmin; words 1..3: six-bit scales and minima of Q4_K and Q5_K. */
INLINE void scales_k4(const uint8_t *block, struct scales_256 *out)
{
    __m512i first = word(block, 0), a = word(block, 1), b = word(block, 2), c = word(block, 3);
    out->d = low_halves(first);
    out->dmin = high_halves(first);
    __m512i scale[2] = {_mm512_and_si512(a, bytes_of(63)),
                        _mm512_or_si512(_mm512_and_si512(c, bytes_of(15)),
                                        _mm512_and_si512(_mm512_srli_epi16(a, 2), bytes_of(0x30)))};
    __m512i minimum[2] = {
        _mm512_and_si512(b, bytes_of(63)),
        _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(c, 4), bytes_of(15)),
                        _mm512_and_si512(_mm512_srli_epi16(b, 2), bytes_of(0x30)))};
    UNROLL for (uint32_t g = 0; g < 8; g++) out->scale[g] = unsigned_byte(scale[g / 4], g % 4);
    UNROLL for (uint32_t p = 0; p < 4; p++) out->pairs[p] =
        unsigned_pair(minimum[p / 2], 2 * (p % 2));
}

INLINE __m512i step_q4_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    return field(word(block, 4 + 8 * (g / 2) + i), 4 * (g % 2), 15);
}

INLINE __m512i step_q5_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    __m512i low = field(word(block, 12 + 8 * (g / 2) + i), 4 * (g % 2), 15);
    return _mm512_or_si512(low, _mm512_slli_epi16(field(word(block, 4 + i), g, 1), 4));
}

INLINE __m512i step_q6_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    uint32_t k = g % 4;
    __m512i low = field(word(block, 16 * (g / 4) + 8 * (k % 2) + i), 4 * (k / 2), 15);
    __m512i high = field(word(block, 32 + 8 * (g / 4) + i), 2 * k, 3);
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 4));
}

INLINE void scales_q6_k(const uint8_t *block, struct scales_256 *out)
{
    out->d = halves(block + 52 * 64);
    UNROLL for (uint32_t w = 0; w < 4; w++)
    {
        __m512i v = word(block, 48 + w);
        UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i] = signed_byte(v, i);
        out->pairs[2 * w] = signed_pair(v, 0);
        out->pairs[2 * w + 1] = signed_pair(v, 2);
    }
}

INLINE __m512i step_q2_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    return field(word(block, 4 + 8 * (g / 4) + i), 2 * (g % 4), 3);
}

INLINE void scales_q2_k(const uint8_t *block, struct scales_256 *out)
{
    __m512i last = word(block, 20);
    out->d = low_halves(last);
    out->dmin = high_halves(last);
    UNROLL for (uint32_t w = 0; w < 4; w++)
    {
        __m512i v = word(block, w), scale = field(v, 0, 15), minimum = field(v, 4, 15);
        UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i] = unsigned_byte(scale, i);
        out->pairs[2 * w] = unsigned_pair(minimum, 0);
        out->pairs[2 * w + 1] = unsigned_pair(minimum, 2);
    }
}

INLINE __m512i step_q3_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    __m512i low = field(word(block, 8 + 8 * (g / 4) + i), 2 * (g % 4), 3);
    return _mm512_or_si512(low, _mm512_slli_epi16(field(word(block, i), g, 1), 2));
}

INLINE void scales_q3_k(const uint8_t *block, struct scales_256 *out)
{
    out->d = halves(block + 27 * 64);
    UNROLL for (uint32_t w = 0; w < 4; w++)
    {
        __m512i high = _mm512_slli_epi16(field(word(block, 26), 2 * w, 3), 4);
        __m512i v = _mm512_or_si512(field(word(block, 24 + w % 2), 4 * (w / 2), 15), high);
        v = _mm512_sub_epi8(v, bytes_of(32));
        UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * w + i] = signed_byte(v, i);
        out->pairs[2 * w] = signed_pair(v, 0);
        out->pairs[2 * w + 1] = signed_pair(v, 2);
    }
}

INLINE __m512i look_up(__m512i nibbles, __m128i table)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles);
}

/* Nibbles from word `first` on: steps 0..3 the low ones, 4..7 the high ones. */
INLINE __m512i nibble_step(const uint8_t *block, uint32_t first, uint32_t i)
{
    return field(word(block, first + i % 4), 4 * (i / 4), 15);
}

/* Levels of IQ4_NL and IQ4_XS plus 128. */
INLINE __m512i iq4_levels(__m512i nibbles)
{
    return look_up(nibbles,
                   _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153,
                                 (char)166, (char)181, (char)197, (char)217, (char)241));
}

INLINE __m512i step_iq4_xs(const uint8_t *block, uint32_t g, uint32_t i)
{
    return iq4_levels(nibble_step(block, 2 + 4 * g, i));
}

INLINE void scales_iq4_xs(const uint8_t *block, struct scales_256 *out)
{
    __m512i first = word(block, 0), low = word(block, 1), high = _mm512_srli_epi32(first, 16);
    out->d = low_halves(first);
    UNROLL for (uint32_t g = 0; g < 8; g++)
    {
        __m512i l = _mm512_and_si512(_mm512_srli_epi32(low, 4 * g), _mm512_set1_epi32(15));
        __m512i u = _mm512_and_si512(_mm512_srli_epi32(high, 2 * g), _mm512_set1_epi32(3));
        out->scale[g] =
            _mm512_sub_epi32(_mm512_or_si512(l, _mm512_slli_epi32(u, 4)), _mm512_set1_epi32(32));
    }
    UNROLL for (uint32_t p = 0; p < 4; p++) out->pairs[p] =
        _mm512_or_si512(_mm512_and_si512(out->scale[2 * p], _mm512_set1_epi32(0xffff)),
                        _mm512_slli_epi32(out->scale[2 * p + 1], 16));
}

#define TYPE_Q4_K                                                                                  \
    {                                                                                              \
        16 * 144, 32, BIAS_MINIMA, 0, step_q4_k, scales_k4                                         \
    }
#define READ_Q5_K(step)                                                                            \
    {                                                                                              \
        16 * 176, 32, BIAS_MINIMA, 0, step, scales_k4                                              \
    }
#define TYPE_Q5_K READ_Q5_K(step_q5_k)
#define READ_Q6_K(step)                                                                            \
    {                                                                                              \
        16 * 210, 16, BIAS_OFFSET, 5, step, scales_q6_k                                            \
    }
#define TYPE_Q6_K READ_Q6_K(step_q6_k)
#define READ_Q2_K(step)                                                                            \
    {                                                                                              \
        16 * 84, 16, BIAS_MINIMA, 0, step, scales_q2_k                                             \
    }
#define TYPE_Q2_K READ_Q2_K(step_q2_k)
#define READ_Q3_K(step)                                                                            \
    {                                                                                              \
        16 * 110, 16, BIAS_OFFSET, 2, step, scales_q3_k                                            \
    }
#define TYPE_Q3_K READ_Q3_K(step_q3_k)
#define TYPE_IQ4_XS                                                                                \
    {                                                                                              \
        16 * 136, 32, BIAS_OFFSET, 7, step_iq4_xs, scales_iq4_xs                                   \
    }

/* ---- types with a float scale per 32 columns --------------------------------------------------- */

typedef __m512i step_32_fn(const uint8_t *block, uint32_t step);
typedef void scales_32_fn(const uint8_t *block, __m512 *d, __m512 *m);

struct type_32 {
    uint32_t bytes;
    int32_t offset;  /* weights are read that much too large */
    bool has_minima; /* a float to add per 32 columns */
    step_32_fn *step;
    scales_32_fn *scales;
};

INLINE void scales_q8_0(const uint8_t *block, __m512 *d, __m512 *m)
{
    *d = halves(block + 8 * 64);
    *m = _mm512_setzero_ps();
}

INLINE void scales_q4_0(const uint8_t *block, __m512 *d, __m512 *m)
{
    *d = halves(block + 4 * 64);
    *m = _mm512_setzero_ps();
}

INLINE void scales_q5_0(const uint8_t *block, __m512 *d, __m512 *m)
{
    *d = halves(block + 5 * 64);
    *m = _mm512_setzero_ps();
}

INLINE void scales_q4_1(const uint8_t *block, __m512 *d, __m512 *m)
{
    *d = low_halves(word(block, 0));
    *m = high_halves(word(block, 0));
}

/* 2^(e - 128) by its bits; below 2 it is subnormal. */
INLINE void scales_mxfp4(const uint8_t *block, __m512 *d, __m512 *m)
{
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(block + 256)));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i small = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    __mmask16 is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    *d = _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, small));
    *m = _mm512_setzero_ps();
}

INLINE __m512i step_q8_0(const uint8_t *block, uint32_t i)
{
    return _mm512_xor_si512(word(block, i), bytes_of(0x80));
}

INLINE __m512i step_q4_0(const uint8_t *block, uint32_t i)
{
    return nibble_step(block, 0, i);
}

INLINE __m512i step_q4_1(const uint8_t *block, uint32_t i)
{
    return nibble_step(block, 1, i);
}

/* Bits 4 * i .. + 4 of each word, as 16 in each of its four bytes. */
INLINE __m512i fifth_bits(__m512i words, uint32_t i)
{
    __m512i one = _mm512_and_si512(_mm512_srli_epi32(words, 4 * i), _mm512_set1_epi32(15));
    /* A multiplication puts the nibble at bits 0, 7, 14 and 21, without overlap at 4, 8 + 1, ... */
    __m512i spread = _mm512_mullo_epi32(one, _mm512_set1_epi32(0x00204081));
    return _mm512_slli_epi16(_mm512_and_si512(spread, bytes_of(1)), 4);
}

INLINE __m512i step_q5_0(const uint8_t *block, uint32_t i)
{
    return _mm512_or_si512(nibble_step(block, 1, i), fifth_bits(word(block, 0), i));
}

INLINE __m512i step_q5_1(const uint8_t *block, uint32_t i)
{
    return _mm512_or_si512(nibble_step(block, 2, i), fifth_bits(word(block, 1), i));
}

INLINE __m512i step_iq4_nl(const uint8_t *block, uint32_t i)
{
    return iq4_levels(nibble_step(block, 0, i));
}

/* Levels plus 12. */
INLINE __m512i step_mxfp4(const uint8_t *block, uint32_t i)
{
    return look_up(nibble_step(block, 0, i),
                   _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

#define READ_Q8_0(step)                                                                            \
    {                                                                                              \
        16 * 34, 128, false, step, scales_q8_0                                                     \
    }
#define TYPE_Q8_0 READ_Q8_0(step_q8_0)
#define TYPE_Q4_0                                                                                  \
    {                                                                                              \
        16 * 18, 8, false, step_q4_0, scales_q4_0                                                  \
    }
#define TYPE_Q4_1                                                                                  \
    {                                                                                              \
        16 * 20, 0, true, step_q4_1, scales_q4_1                                                   \
    }
#define TYPE_Q5_0                                                                                  \
    {                                                                                              \
        16 * 22, 16, false, step_q5_0, scales_q5_0                                                 \
    }
#define TYPE_Q5_1                                                                                  \
    {                                                                                              \
        16 * 24, 0, true, step_q5_1, scales_q4_1                                                   \
    }
#define TYPE_IQ4_NL                                                                                \
    {                                                                                              \
        16 * 18, 128, false, step_iq4_nl, scales_q4_0                                              \
    }
#define TYPE_MXFP4                                                                                 \
    {                                                                                              \
        16 * 17, 12, false, step_mxfp4, scales_mxfp4                                               \
    }

#endif
