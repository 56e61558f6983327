/*
 * AVX2 + FMA + F16C: packed matrices times quantised activations.
 *
 * A vector of a panel holds four columns (bytes) of eight rows. maddubs multiplies unsigned weight
 * bytes with signed activation bytes and adds pairs into 16 bits; how many such vectors may be added
 * before they must be widened follows from the weights' bits (`depth`), and only then the groups'
 * scale is multiplied in (pmaddwd, to 32 bits). Two shapes of the same sums:
 *
 *   1 or 2 rows of activations: weights are unpacked in registers, blocks stream from memory.
 *   3 and more: a block of the panel is unpacked once into L1 and meets the rows three at a time, so
 *   that 6 narrow and 6 wide sums, 2 weight vectors and 1 of activations fill the 16 registers.
 *
 * Weights that need eight bits and a sign are widened to 16 bits and multiplied by pmaddwd, since
 * maddubs would saturate. Integer sums are exact, so both shapes give the bits of packed_scalar.c.
 */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "hw/hardware.h"

#define INLINE   static inline __attribute__((always_inline))
#define UNROLL   _Pragma("GCC unroll 8")
#define PREFETCH 4096 /* bytes ahead of the block at hand */

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

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
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

INLINE void prefetch_block(const uint8_t *block, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)block + PREFETCH + i, _MM_HINT_T0);
}

/* Byte `index` of each word, zero-extended to 16 bits, twice. */
INLINE __m256i unsigned_scale(__m256i words, uint32_t index)
{
    char i = (char)index;
    __m128i lane = _mm_setr_epi8(i, -1, i, -1, (char)(i + 4), -1, (char)(i + 4), -1, (char)(i + 8),
                                 -1, (char)(i + 8), -1, (char)(i + 12), -1, (char)(i + 12), -1);
    return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(lane));
}

/* Bytes `index` and `index + 1` of each word, zero-extended to 16 bits. */
INLINE __m256i unsigned_pair(__m256i words, uint32_t index)
{
    char i = (char)index;
    __m128i lane =
        _mm_setr_epi8(i, -1, (char)(i + 1), -1, (char)(i + 4), -1, (char)(i + 5), -1, (char)(i + 8),
                      -1, (char)(i + 9), -1, (char)(i + 12), -1, (char)(i + 13), -1);
    return _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(lane));
}

/* The same, sign-extended. */
INLINE __m256i signed_scale(__m256i words, uint32_t index)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(unsigned_scale(words, index), 8), 8);
}

INLINE __m256i signed_pair(__m256i words, uint32_t index)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(unsigned_pair(words, index), 8), 8);
}

/* ---- types with a float scale per 256 columns ------------------------------------------------- */

/* What a block's integers are multiplied with. scale[g]: of group g, twice in 16 bits; pairs[p]:
 * what sums of columns 2p and 2p + 1 are multiplied with: minima, or the scales themselves. */
struct scales {
    __m256i scale[16][2];
    __m256i pairs[8][2];
    __m256 d[2], dmin[2];
};

/* Columns 32 * group + 4 * step .. + 4 as unsigned bytes (signed ones for wide types). */
typedef __m256i step_fn(const uint8_t *block, uint32_t group, uint32_t step, uint32_t half);
typedef void scales_fn(const uint8_t *block, struct scales *out);

enum bias { BIAS_MINIMA, BIAS_OFFSET };

struct type_256 {
    uint32_t bytes; /* of a panel's block */
    uint32_t group; /* columns that share a scale: 16 or 32 */
    uint32_t depth; /* steps whose products fit 16 bits together */
    enum bias bias;
    uint32_t shift; /* BIAS_OFFSET: weights are stored 2^shift too large */
    step_fn *step;
    scales_fn *scales;
};

/* Adds one block to acc[m][half]; weights from `block` (packed), or from `steps` (unpacked, 64 bytes
 * a step) where that is not NULL. n: 1..3, a constant after inlining. */
INLINE void block_256(struct type_256 t, const uint8_t *block, const uint8_t *steps,
                      const struct scales *s, const struct act_256 *const *x, uint32_t n,
                      __m256 acc[3][2])
{
    __m256i sum[3][2];
    UNROLL for (uint32_t m = 0; m < n; m++) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
    for (uint32_t g = 0; g < 8; g++) {
        UNROLL for (uint32_t part = 0; part < 8 / t.depth; part++)
        {
            __m256i low[3][2];
            UNROLL for (uint32_t i = 0; i < t.depth; i++)
            {
                uint32_t step = part * t.depth + i;
                __m256i w0 = steps ? word(steps, 8 * g + step, 0) : t.step(block, g, step, 0);
                __m256i w1 = steps ? word(steps, 8 * g + step, 1) : t.step(block, g, step, 1);
                UNROLL for (uint32_t m = 0; m < n; m++)
                {
                    __m256i v = broadcast(x[m]->q + 32 * g + 4 * step);
                    __m256i p0 = _mm256_maddubs_epi16(w0, v), p1 = _mm256_maddubs_epi16(w1, v);
                    low[m][0] = i ? add16(low[m][0], p0) : p0;
                    low[m][1] = i ? add16(low[m][1], p1) : p1;
                }
            }
            uint32_t index = t.group == 32 ? g : 2 * g + part * t.depth / 4;
            UNROLL for (uint32_t m = 0; m < n; m++) for (uint32_t h = 0; h < 2; h++) sum[m][h] =
                add32(sum[m][h], _mm256_madd_epi16(low[m][h], s->scale[index][h]));
        }
    }
    uint32_t pairs = t.group == 32 ? 4 : 8;
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        const int16_t *sums = t.group == 32 ? x[m]->sums32 : x[m]->sums16;
        __m256i bias[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        UNROLL for (uint32_t p = 0; p < pairs; p++)
        {
            __m256i v = broadcast(sums + 2 * p);
            bias[0] = add32(bias[0], _mm256_madd_epi16(s->pairs[p][0], v));
            bias[1] = add32(bias[1], _mm256_madd_epi16(s->pairs[p][1], v));
        }
        __m256 scale = _mm256_set1_ps(x[m]->scale);
        for (uint32_t h = 0; h < 2; h++) {
            __m256i all =
                t.bias == BIAS_OFFSET
                    ? _mm256_sub_epi32(sum[m][h], _mm256_slli_epi32(bias[h], (int)t.shift))
                    : sum[m][h];
            acc[m][h] =
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), _mm256_mul_ps(s->d[h], scale), acc[m][h]);
            if (t.bias == BIAS_MINIMA)
                acc[m][h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(bias[h]),
                                             _mm256_mul_ps(s->dmin[h], scale), acc[m][h]);
        }
    }
}

INLINE void store_rows(__m256 acc[3][2], uint32_t n, float *out)
{
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        _mm256_store_ps(out + 16 * m, acc[m][0]);
        _mm256_store_ps(out + 16 * m + 8, acc[m][1]);
    }
}

INLINE void load_rows(__m256 acc[3][2], uint32_t n, const float *out)
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

/* One or two rows: everything in registers. */
INLINE void few_256(struct type_256 t, const uint8_t *panel, uint32_t blocks,
                    const struct act_rows *rows, uint32_t n, float *out)
{
    __m256 acc[3][2];
    UNROLL for (uint32_t m = 0; m < n; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, panel += t.bytes) {
        struct scales s;
        const struct act_256 *x[3];
        prefetch_block(panel, t.bytes);
        t.scales(panel, &s);
        for (uint32_t m = 0; m < n; m++)
            x[m] = act_at(rows, m, b);
        block_256(t, panel, NULL, &s, x, n, acc);
    }
    store_rows(acc, n, out);
}

INLINE void rows_256(struct type_256 t, const uint8_t *steps, const struct scales *s, uint32_t b,
                     const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    __m256 acc[3][2];
    const struct act_256 *x[3];
    for (uint32_t i = 0; i < n; i++)
        x[i] = act_at(rows, m + i, b);
    load_rows(acc, n, out + 16 * m);
    block_256(t, NULL, steps, s, x, n, acc);
    store_rows(acc, n, out + 16 * m);
}

INLINE void dots_256(struct type_256 t, const uint8_t *panel, uint32_t n_cols,
                     const struct act_rows *rows, float *out)
{
    uint32_t blocks = n_cols / 256;
    if (rows->n == 1) {
        few_256(t, panel, blocks, rows, 1, out);
        return;
    }
    if (rows->n == 2) {
        few_256(t, panel, blocks, rows, 2, out);
        return;
    }
    uint8_t steps[64 * 64] __attribute__((aligned(64)));
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < blocks; b++, panel += t.bytes) {
        struct scales s;
        prefetch_block(panel, t.bytes);
        t.scales(panel, &s);
        for (uint32_t g = 0; g < 8; g++)
            UNROLL for (uint32_t i = 0; i < 8; i++) for (uint32_t h = 0; h < 2; h++)
                _mm256_store_si256((__m256i *)(steps + (8 * g + i) * 64 + 32 * h),
                                   t.step(panel, g, i, h));
        uint32_t m = 0;
        for (; m + 3 <= rows->n; m += 3)
            rows_256(t, steps, &s, b, rows, m, 3, out);
        if (rows->n - m == 2)
            rows_256(t, steps, &s, b, rows, m, 2, out);
        else if (rows->n - m == 1)
            rows_256(t, steps, &s, b, rows, m, 1, out);
    }
}

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

/* Bits [shift, shift + bits of mask) of each byte; shift may vary at run time. */
INLINE __m256i field(__m256i v, uint32_t shift, uint8_t mask)
{
    return _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128((int)shift)), bytes_of(mask));
}

INLINE __m256i step_q4_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    return field(word(block, 4 + 8 * (g / 2) + i, half), 4 * (g % 2), 15);
}

INLINE __m256i step_q5_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    __m256i low = field(word(block, 12 + 8 * (g / 2) + i, half), 4 * (g % 2), 15);
    __m256i high = field(word(block, 4 + i, half), g, 1);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

/* Words 0..31 low nibbles, 32..47 upper bits, 48..51 sixteen int8 scales, then d. */
INLINE __m256i step_q6_k(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    uint32_t k = g % 4;
    __m256i low = field(word(block, 16 * (g / 4) + 8 * (k % 2) + i, half), 4 * (k / 2), 15);
    __m256i high = field(word(block, 32 + 8 * (g / 4) + i, half), 2 * k, 3);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
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
    __m256i high = field(word(block, i, half), g, 1);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 2));
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

#define KERNEL_256(name, ...)                                                                      \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        dots_256((struct type_256){__VA_ARGS__, step_##name, scales_##name}, panel, n_cols, rows,  \
                 out);                                                                             \
    }

#define scales_q4_k scales_k4
#define scales_q5_k scales_k4
KERNEL_256(q4_k, 16 * 144, 32, 8, BIAS_MINIMA, 0)
KERNEL_256(q5_k, 16 * 176, 32, 4, BIAS_MINIMA, 0)
KERNEL_256(q6_k, 16 * 210, 16, 2, BIAS_OFFSET, 5)
KERNEL_256(q2_k, 16 * 84, 16, 4, BIAS_MINIMA, 0)
KERNEL_256(q3_k, 16 * 110, 16, 4, BIAS_OFFSET, 2)

/* ---- types with a float scale per 32 columns --------------------------------------------------- */

struct type_32 {
    uint32_t bytes;
    uint32_t depth;  /* as above; 0: signed bytes, multiplied in 16 bits */
    int32_t offset;  /* weights are stored that much too large */
    bool has_minima; /* `minima` of the scales are a float to add */
    step_fn *step;   /* group is always 0 */
    void (*scales)(const uint8_t *block, __m256 d[2], __m256 m[2]);
};

/* The even and the odd bytes of words, as signed 16 bits. */
INLINE __m256i even_bytes(__m256i v)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}

INLINE __m256i odd_bytes(__m256i v)
{
    return _mm256_srai_epi16(v, 8);
}

/* Up to 8 blocks of 32, unpacked. */
struct panel_32 {
    uint8_t steps[64 * 64];
    __m256 d[8][2], m[8][2];
} __attribute__((aligned(64)));

struct panel_wide_32 {
    uint8_t steps[64 * 128]; /* 32 bytes each: even of half 0 and 1, odd of half 0 and 1 */
    __m256 d[8][2], m[8][2];
} __attribute__((aligned(64)));

/* sum[m][half] of a block of 32 columns, narrow weights. */
INLINE void sums_32(struct type_32 t, const uint8_t *block, const uint8_t *steps,
                    const int8_t *const *q, uint32_t n, __m256i sum[3][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (uint32_t part = 0; part < 8 / t.depth; part++)
    {
        __m256i low[3][2];
        UNROLL for (uint32_t i = 0; i < t.depth; i++)
        {
            uint32_t step = part * t.depth + i;
            __m256i w0 = steps ? word(steps, step, 0) : t.step(block, 0, step, 0);
            __m256i w1 = steps ? word(steps, step, 1) : t.step(block, 0, step, 1);
            UNROLL for (uint32_t m = 0; m < n; m++)
            {
                __m256i v = broadcast(q[m] + 4 * step);
                __m256i p0 = _mm256_maddubs_epi16(w0, v), p1 = _mm256_maddubs_epi16(w1, v);
                low[m][0] = i ? add16(low[m][0], p0) : p0;
                low[m][1] = i ? add16(low[m][1], p1) : p1;
            }
        }
        UNROLL for (uint32_t m = 0; m < n; m++) for (uint32_t h = 0; h < 2; h++)
        {
            __m256i wide = _mm256_madd_epi16(low[m][h], ones);
            sum[m][h] = part ? add32(sum[m][h], wide) : wide;
        }
    }
}

/* The same for signed bytes; q: wide activations. */
INLINE void sums_wide_32(struct type_32 t, const uint8_t *block, const uint8_t *steps,
                         const int16_t *const *q, uint32_t n, __m256i sum[3][2])
{
    UNROLL for (uint32_t step = 0; step < 8; step++)
    {
        __m256i even[2], odd[2];
        for (uint32_t h = 0; h < 2; h++) {
            if (steps) {
                even[h] = load(steps + 128 * step + 32 * h);
                odd[h] = load(steps + 128 * step + 64 + 32 * h);
            } else {
                __m256i w = t.step(block, 0, step, h);
                even[h] = even_bytes(w);
                odd[h] = odd_bytes(w);
            }
        }
        UNROLL for (uint32_t m = 0; m < n; m++)
        {
            __m256i v0 = broadcast(q[m] + 4 * step), v1 = broadcast(q[m] + 4 * step + 2);
            for (uint32_t h = 0; h < 2; h++) {
                __m256i p = _mm256_madd_epi16(even[h], v0);
                sum[m][h] = step ? add32(sum[m][h], p) : p;
                sum[m][h] = add32(sum[m][h], _mm256_madd_epi16(odd[h], v1));
            }
        }
    }
}

INLINE void scale_32(struct type_32 t, __m256i sum[3][2], const __m256 d[2], const __m256 min[2],
                     const float *scales, const int16_t *sums, uint32_t m, __m256 acc[3][2])
{
    __m256 scale = _mm256_set1_ps(*scales);
    __m256i offset = _mm256_set1_epi32(t.offset * *sums);
    __m256 x = _mm256_set1_ps(*scales * (float)*sums);
    for (uint32_t h = 0; h < 2; h++) {
        __m256i all = t.offset ? _mm256_sub_epi32(sum[m][h], offset) : sum[m][h];
        acc[m][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), _mm256_mul_ps(d[h], scale), acc[m][h]);
        if (t.has_minima)
            acc[m][h] = _mm256_fmadd_ps(min[h], x, acc[m][h]);
    }
}

/* Block b (of 32) of n rows from row m: adds to acc. */
INLINE void block_32(struct type_32 t, const uint8_t *block, const uint8_t *steps,
                     const __m256 d[2], const __m256 min[2], uint32_t b,
                     const struct act_rows *rows, uint32_t first, uint32_t n, __m256 acc[3][2])
{
    __m256i sum[3][2];
    if (t.depth) {
        const struct act_32 *x[3];
        const int8_t *q[3];
        UNROLL for (uint32_t m = 0; m < n; m++)
        {
            x[m] = act_at(rows, first + m, b / 8);
            q[m] = x[m]->q + b % 8 * 32;
        }
        sums_32(t, block, steps, q, n, sum);
        UNROLL for (uint32_t m = 0; m < n; m++)
            scale_32(t, sum, d, min, x[m]->scales + b % 8, x[m]->sums32 + b % 8, m, acc);
    } else {
        const struct act_wide_32 *x[3];
        const int16_t *q[3];
        UNROLL for (uint32_t m = 0; m < n; m++)
        {
            x[m] = act_at(rows, first + m, b / 8);
            q[m] = x[m]->q + b % 8 * 32;
        }
        sums_wide_32(t, block, steps, q, n, sum);
        UNROLL for (uint32_t m = 0; m < n; m++)
            scale_32(t, sum, d, min, x[m]->scales + b % 8, x[m]->sums32 + b % 8, m, acc);
    }
}

INLINE void few_32(struct type_32 t, const uint8_t *panel, uint32_t blocks,
                   const struct act_rows *rows, uint32_t n, float *out)
{
    __m256 acc[3][2];
    UNROLL for (uint32_t m = 0; m < n; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, panel += t.bytes) {
        __m256 d[2], min[2];
        prefetch_block(panel, t.bytes);
        t.scales(panel, d, min);
        block_32(t, panel, NULL, d, min, b, rows, 0, n, acc);
    }
    store_rows(acc, n, out);
}

INLINE void unpack_32(struct type_32 t, const uint8_t *panel, uint8_t *steps)
{
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t h = 0; h < 2; h++) {
            __m256i w = t.step(panel, 0, i, h);
            if (t.depth) {
                _mm256_store_si256((__m256i *)(steps + 64 * i + 32 * h), w);
            } else {
                _mm256_store_si256((__m256i *)(steps + 128 * i + 32 * h), even_bytes(w));
                _mm256_store_si256((__m256i *)(steps + 128 * i + 64 + 32 * h), odd_bytes(w));
            }
        }
}

INLINE void rows_32(struct type_32 t, const struct panel_wide_32 *p, uint32_t from, uint32_t count,
                    const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    const uint32_t stride = t.depth ? 512 : 1024;
    __m256 acc[3][2];
    load_rows(acc, n, out + 16 * m);
    for (uint32_t i = 0; i < count; i++)
        block_32(t, NULL, p->steps + stride * i, p->d[i], p->m[i], from + i, rows, m, n, acc);
    store_rows(acc, n, out + 16 * m);
}

INLINE void dots_32(struct type_32 t, const uint8_t *panel, uint32_t n_cols,
                    const struct act_rows *rows, float *out)
{
    uint32_t blocks = n_cols / 32;
    if (rows->n == 1) {
        few_32(t, panel, blocks, rows, 1, out);
        return;
    }
    if (rows->n == 2) {
        few_32(t, panel, blocks, rows, 2, out);
        return;
    }
    struct panel_wide_32 p;
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < blocks; b += 8) {
        uint32_t count = blocks - b < 8 ? blocks - b : 8, m = 0;
        for (uint32_t i = 0; i < count; i++, panel += t.bytes) {
            prefetch_block(panel, t.bytes);
            t.scales(panel, p.d[i], p.m[i]);
            unpack_32(t, panel, p.steps + (t.depth ? 512 : 1024) * i);
        }
        for (; m + 3 <= rows->n; m += 3)
            rows_32(t, &p, b, count, rows, m, 3, out);
        if (rows->n - m == 2)
            rows_32(t, &p, b, count, rows, m, 2, out);
        else if (rows->n - m == 1)
            rows_32(t, &p, b, count, rows, m, 1, out);
    }
}

/* d after `words` words. */
#define SCALES_AFTER(name, words)                                                                  \
    INLINE void scales_##name(const uint8_t *block, __m256 d[2], __m256 m[2])                      \
    {                                                                                              \
        for (uint32_t h = 0; h < 2; h++) {                                                         \
            d[h] = halves(block + 64 * words + 16 * h);                                            \
            m[h] = _mm256_setzero_ps();                                                            \
        }                                                                                          \
    }
SCALES_AFTER(q8_0, 8)
SCALES_AFTER(q4_0, 4)
SCALES_AFTER(q5_0, 5)
#define scales_iq4_nl scales_q4_0

/* d and m in word 0. */
INLINE void scales_q4_1(const uint8_t *block, __m256 d[2], __m256 m[2])
{
    for (uint32_t h = 0; h < 2; h++)
        half_pairs(word(block, 0, h), &d[h], &m[h]);
}
#define scales_q5_1 scales_q4_1

/* One byte e after four words: 2^(e - 128), the smallest (a subnormal) for 0 as well as made by
 * bits for 1. */
INLINE void scales_mxfp4(const uint8_t *block, __m256 d[2], __m256 m[2])
{
    for (uint32_t h = 0; h < 2; h++) {
        __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(block + 256 + 8 * h)));
        __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        d[h] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small));
        m[h] = _mm256_setzero_ps();
    }
}

INLINE __m256i step_q8_0(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return word(block, i, half);
}

/* Nibbles from word `first` on: steps 0..3 the low ones, 4..7 the high ones. */
INLINE __m256i nibble_step(const uint8_t *block, uint32_t first, uint32_t i, uint32_t half)
{
    return field(word(block, first + i % 4, half), 4 * (i / 4), 15);
}

INLINE __m256i step_q4_0(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return nibble_step(block, 0, i, half);
}

INLINE __m256i step_q4_1(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return nibble_step(block, 1, i, half);
}

/* Bits 4 * i .. + 4 of each word, as 16 in each of its four bytes. */
INLINE __m256i fifth_bits(__m256i words, uint32_t i)
{
    char k = (char)(i / 2);
    __m128i lane =
        _mm_setr_epi8(k, k, k, k, (char)(k + 4), (char)(k + 4), (char)(k + 4), (char)(k + 4),
                      (char)(k + 8), (char)(k + 8), (char)(k + 8), (char)(k + 8), (char)(k + 12),
                      (char)(k + 12), (char)(k + 12), (char)(k + 12));
    __m256i spread = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(lane));
    __m256i bit = _mm256_set1_epi32((int)(i % 2 ? 0x80402010u : 0x08040201u));
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    return _mm256_and_si256(set, bytes_of(16));
}

INLINE __m256i step_q5_0(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return _mm256_or_si256(nibble_step(block, 1, i, half), fifth_bits(word(block, 0, half), i));
}

INLINE __m256i step_q5_1(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return _mm256_or_si256(nibble_step(block, 2, i, half), fifth_bits(word(block, 1, half), i));
}

INLINE __m256i look_up(__m256i nibbles, __m128i table)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
}

INLINE __m256i step_iq4_nl(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return look_up(
        nibble_step(block, 0, i, half),
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
}

/* Levels plus 12. */
INLINE __m256i step_mxfp4(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half)
{
    (void)g;
    return look_up(nibble_step(block, 0, i, half),
                   _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
}

#define KERNEL_32(name, ...)                                                                       \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        dots_32((struct type_32){__VA_ARGS__, step_##name, scales_##name}, panel, n_cols, rows,    \
                out);                                                                              \
    }

KERNEL_32(q8_0, 16 * 34, 0, 0, false)
KERNEL_32(q4_0, 16 * 18, 8, 8, false)
KERNEL_32(q4_1, 16 * 20, 8, 0, true)
KERNEL_32(q5_0, 16 * 22, 4, 16, false)
KERNEL_32(q5_1, 16 * 24, 4, 0, true)
KERNEL_32(iq4_nl, 16 * 18, 0, 0, false)
KERNEL_32(mxfp4, 16 * 17, 4, 12, false)

/* ---- activations ------------------------------------------------------------------------------- */

INLINE __m256 load_floats(const float *x)
{
    return _mm256_loadu_ps(x);
}

/* 32 columns: the largest magnitude's bits in each lane. */
INLINE __m256i magnitudes(const float *x)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    UNROLL for (uint32_t i = 0; i < 4; i++) most =
        _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(load_floats(x + 8 * i)), mask));
    return most;
}

INLINE uint32_t largest(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Scale and its inverse (0 where nothing finite or nothing at all is to be stored). */
INLINE float choose_scale(uint32_t bits, float *inverse)
{
    float most;
    memcpy(&most, &bits, sizeof most);
    *inverse = 0.0f;
    if (!(most < __builtin_inff()))
        return __builtin_nanf("");
    if (most < 1e-30f)
        return 0.0f;
    *inverse = 127.0f / most;
    return most / 127.0f;
}

/* 32 columns to int8, with the sums of the 16s. */
INLINE void quantise_32(const float *x, float inverse, int8_t *q, int32_t sums[2])
{
    const __m256 scale = _mm256_set1_ps(inverse);
    __m256i v[4];
    UNROLL for (uint32_t i = 0; i < 4; i++)
    {
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(load_floats(x + 8 * i), scale));
        if (inverse == 0.0f)
            v[i] = _mm256_setzero_si256();
    }
    for (uint32_t i = 0; i < 2; i++) {
        __m256i s = _mm256_add_epi32(v[2 * i], v[2 * i + 1]);
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
        sums[i] = _mm_cvtsi128_si32(t);
    }
    __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, packed);
}

INLINE void widen(const int8_t *q, int16_t *out)
{
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 16) {
        __m128i v = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(q + i)), order);
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_cvtepi8_epi16(v));
    }
}

INLINE float quantise_256(const float *x, int8_t *q, int16_t *sums16, int16_t *sums32)
{
    __m256i most = _mm256_setzero_si256();
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 32)
        most = _mm256_max_epi32(most, magnitudes(x + i));
    float inverse, scale = choose_scale(largest(most), &inverse);
    for (uint32_t i = 0; i < 8; i++) {
        int32_t sums[2];
        quantise_32(x + 32 * i, inverse, q + 32 * i, sums);
        sums16[2 * i] = (int16_t)sums[0];
        sums16[2 * i + 1] = (int16_t)sums[1];
        sums32[i] = (int16_t)(sums[0] + sums[1]);
    }
    return scale;
}

INLINE void quantise_groups(const float *x, int8_t *q, float *scales, int16_t *sums32)
{
    for (uint32_t i = 0; i < 8; i++) {
        int32_t sums[2];
        float inverse;
        scales[i] = choose_scale(largest(magnitudes(x + 32 * i)), &inverse);
        quantise_32(x + 32 * i, inverse, q + 32 * i, sums);
        sums32[i] = (int16_t)(sums[0] + sums[1]);
    }
}

static void quantise(enum act_form form, const float *x, uint32_t n, void *block)
{
    float padded[ACT_COLUMNS];
    int8_t q[ACT_COLUMNS];
    if (n < ACT_COLUMNS) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, x, n * sizeof *x);
        x = padded;
    }
    switch (form) {
    case ACT_I8_256: {
        struct act_256 *act = block;
        act->scale = quantise_256(x, act->q, act->sums16, act->sums32);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I16_256: {
        struct act_wide_256 *act = block;
        act->scale = quantise_256(x, q, act->sums16, act->sums32);
        widen(q, act->q);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I8_32: {
        struct act_32 *act = block;
        quantise_groups(x, act->q, act->scales, act->sums32);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I16_32: {
        struct act_wide_32 *act = block;
        quantise_groups(x, q, act->scales, act->sums32);
        widen(q, act->q);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    default:
        break;
    }
}

/* ---- tables ------------------------------------------------------------------------------------ */

static const struct packed_kernel packed_kernels[] = {
    {"avx2 q4_K x i8", TENSOR_Q4_K, ACT_I8_256, dots_q4_k},
    {"avx2 q5_K x i8", TENSOR_Q5_K, ACT_I8_256, dots_q5_k},
    {"avx2 q6_K x i8", TENSOR_Q6_K, ACT_I8_256, dots_q6_k},
    {"avx2 q2_K x i8", TENSOR_Q2_K, ACT_I8_256, dots_q2_k},
    {"avx2 q3_K x i8", TENSOR_Q3_K, ACT_I8_256, dots_q3_k},
    {"avx2 q8_0 x i8", TENSOR_Q8_0, ACT_I16_32, dots_q8_0},
    {"avx2 q4_0 x i8", TENSOR_Q4_0, ACT_I8_32, dots_q4_0},
    {"avx2 q4_1 x i8", TENSOR_Q4_1, ACT_I8_32, dots_q4_1},
    {"avx2 q5_0 x i8", TENSOR_Q5_0, ACT_I8_32, dots_q5_0},
    {"avx2 q5_1 x i8", TENSOR_Q5_1, ACT_I8_32, dots_q5_1},
    {"avx2 iq4_nl x i8", TENSOR_IQ4_NL, ACT_I16_32, dots_iq4_nl},
    {"avx2 mxfp4 x i8", TENSOR_MXFP4, ACT_I8_32, dots_mxfp4},
};

static bool usable(void)
{
    struct hardware hw = {.n_cores = 0};
    hardware_read_instruction_sets(&hw);
    return hw.isa[ISA_AVX2] && hw.isa[ISA_FMA] && hw.isa[ISA_F16C];
}

const struct kernel_set kernel_set_avx2 = {
    .name = "avx2",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .quantise = quantise,
    .usable = usable,
};

#else
typedef int no_avx2_here;
#endif
