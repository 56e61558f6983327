/*
 * Quantised weights as tiles of bfloat16, for the kernels of prompt rows (x86_amx_prompt.c).
 *
 * A word of a panel holds 4 (or 8) columns of 16 rows, a row of a tile two columns of 16 rows. An
 * integer q of a column becomes a float where it lies: with the bits around it cleared and an exponent
 * put in front it reads base + q, where base is 2^7, 2^11 or 2^15 for q in the mantissa from bit 16,
 * 12 or 8 on. One fused multiply-add then gives the weight,
 *
 *     (base + q) * scale + (-base * scale - minimum)
 *
 * and the upper halves of two of those side by side are a row of the tile. That is 2 shifts, 8
 * selections, 8 multiply-adds and 4 shuffles for 8 columns of nibbles. The lower half is cut off, not
 * rounded, which would cost half as much again; PROMPT_SCALE makes up for it. packed_scalar.c has the
 * same formula with the same bases, column by column.
 */
#ifndef SLUICE_BACKEND_CPU_X86_AMX_UNPACK_H
#define SLUICE_BACKEND_CPU_X86_AMX_UNPACK_H

#include "backend/cpu/x86_avx512_types.h"

#define TILE_BYTES   1024
#define TILE_COLUMNS 32
#define PAIR_BYTES   64 /* a tile's row: two columns */

/* What all weights of a group are computed with: the scale, and what is added for each base. */
struct prompt_group {
    __m512 scale, add7, add11, add15;
};

INLINE struct prompt_group group_of(__m512 scale, __m512 minimum)
{
    return (struct prompt_group){
        .scale = scale,
        .add7 = _mm512_fnmsub_ps(_mm512_set1_ps(0x1p7f), scale, minimum),
        .add11 = _mm512_fnmsub_ps(_mm512_set1_ps(0x1p11f), scale, minimum),
        .add15 = _mm512_fnmsub_ps(_mm512_set1_ps(0x1p15f), scale, minimum),
    };
}

/* Weights of the integers in the bits of `mask`; exponent: of the base, and bits to flip. */
INLINE __m512 weights_at(__m512i v, uint32_t mask, uint32_t exponent, __m512 scale, __m512 add)
{
    enum { AND_XOR = 0x6a };
    __m512i f = _mm512_ternarylogic_epi32(v, _mm512_set1_epi32((int)mask),
                                          _mm512_set1_epi32((int)exponent), AND_XOR);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(f), scale, add);
}

INLINE __m512 from_bit_16(__m512i v, uint32_t mask, struct prompt_group g)
{
    return weights_at(v, mask << 16, 0x43000000, g.scale, g.add7);
}

INLINE __m512 from_bit_12(__m512i v, uint32_t mask, struct prompt_group g)
{
    return weights_at(v, mask << 12, 0x45000000, g.scale, g.add11);
}

INLINE __m512 from_bit_8(__m512i v, uint32_t mask, struct prompt_group g)
{
    return weights_at(v, mask << 8, 0x47000000, g.scale, g.add15);
}

/* Upper halves of two columns as a row of a tile. */
INLINE void put_pair(uint8_t *to, __m512 first, __m512 second)
{
    const __m512i upper = _mm512_broadcast_i32x4(
        _mm_setr_epi8(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15));
    _mm512_store_si512(to,
                       _mm512_mask_shuffle_epi8(_mm512_castps_si512(second), 0x3333333333333333u,
                                                _mm512_castps_si512(first), upper));
}

/* ---- a word to two or four rows of tiles ------------------------------------------------------- */

/* Eight nibbles: four columns of one group, and in the upper halves of bytes four of another. */
INLINE void put_nibbles(__m512i v, struct prompt_group a, struct prompt_group b, uint8_t *low,
                        uint8_t *high)
{
    __m512i left = _mm512_slli_epi32(v, 12), right = _mm512_srli_epi32(v, 12);
    put_pair(low, from_bit_12(left, 15, a), from_bit_8(v, 15, a));
    put_pair(low + PAIR_BYTES, from_bit_16(v, 15, a), from_bit_12(right, 15, a));
    put_pair(high, from_bit_16(left, 15, b), from_bit_12(v, 15, b));
    put_pair(high + PAIR_BYTES, from_bit_8(right, 15, b), from_bit_16(right, 15, b));
}

/* Four columns, below 128, in the lower bits of bytes; mask: which. */
INLINE void put_bytes(__m512i v, uint32_t mask, struct prompt_group g, uint8_t *to)
{
    put_pair(to, from_bit_16(_mm512_slli_epi32(v, 16), mask, g), from_bit_8(v, mask, g));
    put_pair(to + PAIR_BYTES, from_bit_16(v, mask, g),
             from_bit_16(_mm512_srli_epi32(v, 8), mask, g));
}

/* Four columns of whole bytes; flip: bits of each to invert first. */
INLINE __m512 byte_from_bit_8(__m512i v, uint32_t flip, struct prompt_group g)
{
    return weights_at(v, 0xff00, 0x47000000 | flip << 8, g.scale, g.add15);
}

INLINE void put_wide_bytes(__m512i v, uint32_t flip, struct prompt_group g, uint8_t *to)
{
    put_pair(to, byte_from_bit_8(_mm512_slli_epi32(v, 8), flip, g), byte_from_bit_8(v, flip, g));
    put_pair(to + PAIR_BYTES, byte_from_bit_8(_mm512_srli_epi32(v, 8), flip, g),
             byte_from_bit_8(_mm512_srli_epi32(v, 16), flip, g));
}

/* ---- words ------------------------------------------------------------------------------------- */

/* As step_q5_k() and so on, but other bits than those of the integers are anything. */

INLINE __m512i moved(__m512i v, int left)
{
    return left > 0   ? _mm512_slli_epi32(v, (unsigned)left)
           : left < 0 ? _mm512_srli_epi32(v, (unsigned)-left)
                      : v;
}

/* Bits of `mask` of each byte from a, the others from b. */
INLINE __m512i merged(uint8_t mask, __m512i a, __m512i b)
{
    enum { SELECT = 0xca };
    return _mm512_ternarylogic_epi32(bytes_of(mask), a, b, SELECT);
}

INLINE __m512i loose_q5_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    __m512i low = moved(word(block, 12 + 8 * (g / 2) + i), -4 * (int)(g % 2));
    return merged(15, low, moved(word(block, 4 + i), 4 - (int)g));
}

INLINE __m512i loose_q6_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    uint32_t k = g % 4;
    __m512i low = moved(word(block, 16 * (g / 4) + 8 * (k % 2) + i), -4 * (int)(k / 2));
    return merged(15, low, moved(word(block, 32 + 8 * (g / 4) + i), 4 - 2 * (int)k));
}

INLINE __m512i loose_q2_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    return moved(word(block, 4 + 8 * (g / 4) + i), -2 * (int)(g % 4));
}

INLINE __m512i loose_q3_k(const uint8_t *block, uint32_t g, uint32_t i)
{
    __m512i low = moved(word(block, 8 + 8 * (g / 4) + i), -2 * (int)(g % 4));
    return merged(3, low, moved(word(block, i), 2 - (int)g));
}

INLINE __m512i loose_q8_0(const uint8_t *block, uint32_t i)
{
    return word(block, i); /* with put_wide_bytes() to flip the sign */
}

#define LOOSE_Q5_K READ_Q5_K(loose_q5_k)
#define LOOSE_Q6_K READ_Q6_K(loose_q6_k)
#define LOOSE_Q2_K READ_Q2_K(loose_q2_k)
#define LOOSE_Q3_K READ_Q3_K(loose_q3_k)
#define LOOSE_Q8_0 READ_Q8_0(loose_q8_0)

/* ---- blocks ------------------------------------------------------------------------------------ */

/* How the integers of a word lie. */
enum prompt_words {
    WORDS_NIBBLES,    /* put_nibbles(); `mask` is the first word of a block that has any */
    WORDS_BYTES,      /* put_bytes() with the type's mask */
    WORDS_WIDE_BYTES, /* put_wide_bytes(); `mask` are the bits to flip */
};

/* Scales and minima of 256 columns, the latter as what is taken off. */
struct prompt_scales {
    __m512 scale[16], minimum[16];
};

INLINE __m512 minimum_of(const struct scales_256 *s, uint32_t group)
{
    __m512i pair = s->pairs[group / 2];
    return _mm512_cvtepi32_ps(group % 2 ? _mm512_srli_epi32(pair, 16)
                                        : _mm512_and_si512(pair, _mm512_set1_epi32(0xffff)));
}

INLINE void prompt_scales_256(struct type_256 t, const uint8_t *block, struct prompt_scales *out)
{
    const __m512 larger = _mm512_set1_ps(PROMPT_SCALE);
    struct scales_256 s;
    t.scales(block, &s);
    __m512 d = _mm512_mul_ps(s.d, larger), dmin = d;
    if (t.bias == BIAS_MINIMA)
        dmin = _mm512_mul_ps(s.dmin, larger);
    UNROLL for (uint32_t g = 0; g < ACT_COLUMNS / t.group; g++)
    {
        out->scale[g] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(s.scale[g]));
        out->minimum[g] = t.bias == BIAS_MINIMA
                              ? _mm512_mul_ps(dmin, minimum_of(&s, g))
                              : _mm512_mul_ps(out->scale[g], _mm512_set1_ps((float)(1 << t.shift)));
    }
}

INLINE struct prompt_group group_at(const struct prompt_scales *s, uint32_t group)
{
    return group_of(s->scale[group], s->minimum[group]);
}

/* Columns 64 * pair .. + 64 of a block as two tiles. pair: a constant but for nibbles. */
INLINE void unpack_pair_256(struct type_256 t, enum prompt_words words, uint32_t mask,
                            const uint8_t *block, const struct prompt_scales *s, uint32_t pair,
                            uint8_t *tiles)
{
    if (words == WORDS_NIBBLES) {
        struct prompt_group a = group_at(s, 2 * pair), b = group_at(s, 2 * pair + 1);
        UNROLL for (uint32_t i = 0; i < 8; i++) put_nibbles(
            word(block, mask + 8 * pair + i), a, b, tiles + 128 * i, tiles + TILE_BYTES + 128 * i);
        return;
    }
    uint32_t groups = 64 / t.group, steps = t.group / 4;
    UNROLL for (uint32_t g = 0; g < groups; g++)
    {
        struct prompt_group group = group_at(s, pair * groups + g);
        UNROLL for (uint32_t i = g * steps; i < (g + 1) * steps; i++)
        {
            __m512i v = t.step(block, 2 * pair + i / 8, i % 8);
            if (words == WORDS_BYTES)
                put_bytes(v, mask, group, tiles + 128 * i);
            else
                put_wide_bytes(v, mask, group, tiles + 128 * i);
        }
    }
}

/* A block of 32 columns as a tile. */
INLINE void unpack_32(struct type_32 t, enum prompt_words words, uint32_t mask,
                      const uint8_t *block, uint8_t *tile)
{
    const __m512 larger = _mm512_set1_ps(PROMPT_SCALE);
    __m512 d, m;
    t.scales(block, &d, &m);
    d = _mm512_mul_ps(d, larger);
    m = t.has_minima ? _mm512_mul_ps(m, _mm512_set1_ps(-PROMPT_SCALE))
                     : _mm512_mul_ps(d, _mm512_set1_ps((float)t.offset));
    struct prompt_group group = group_of(d, m);
    if (words == WORDS_NIBBLES) {
        UNROLL for (uint32_t i = 0; i < 4; i++)
            put_nibbles(word(block, mask + i), group, group, tile + 128 * i, tile + 512 + 128 * i);
        return;
    }
    UNROLL for (uint32_t i = 0; i < 8; i++)
    {
        if (words == WORDS_BYTES)
            put_bytes(t.step(block, i), mask, group, tile + 128 * i);
        else
            put_wide_bytes(t.step(block, i), mask, group, tile + 128 * i);
    }
}

#endif
