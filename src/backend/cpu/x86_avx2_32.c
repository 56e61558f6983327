/*
 * AVX2: formats with a float scale per 32 columns, and those whose weights are signed bytes after
 * unpacking (x86_avx2.c has the scheme).
 */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2.h"

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
    uint8_t steps[64 * 128]; /* 64 bytes a step; wide types 128: even bytes, odd bytes */
    __m256 d[8][2], m[8][2];
} __attribute__((aligned(64)));

/* sum[m][half] of a block of 32 columns, narrow weights. */
INLINE void sums_32(struct type_32 t, const uint8_t *block, const uint8_t *steps,
                    const int8_t *const *q, uint32_t n, __m256i sum[ROWS][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (uint32_t part = 0; part < 8 / t.depth; part++)
    {
        __m256i low[ROWS][2];
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
                         const int16_t *const *q, uint32_t n, __m256i sum[ROWS][2])
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

INLINE void scale_32(struct type_32 t, __m256i sum[ROWS][2], const __m256 d[2], const __m256 min[2],
                     const float *scales, const int16_t *sums, uint32_t m, __m256 acc[ROWS][2])
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
                     const struct act_rows *rows, uint32_t first, uint32_t n, __m256 acc[ROWS][2])
{
    __m256i sum[ROWS][2];
    if (t.depth) {
        const struct act_32 *x[ROWS];
        const int8_t *q[ROWS];
        UNROLL for (uint32_t m = 0; m < n; m++)
        {
            x[m] = act_at(rows, first + m, b / 8);
            q[m] = x[m]->q + b % 8 * 32;
        }
        sums_32(t, block, steps, q, n, sum);
        UNROLL for (uint32_t m = 0; m < n; m++)
            scale_32(t, sum, d, min, x[m]->scales + b % 8, x[m]->sums32 + b % 8, m, acc);
    } else {
        const struct act_wide_32 *x[ROWS];
        const int16_t *q[ROWS];
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

/* Block b: a run for four of 272 to 384 bytes, or for one of 544. */
INLINE void prefetch_blocks(struct type_32 t, const uint8_t *block, uint32_t b)
{
    const uint32_t together = t.bytes > 512 ? 1 : 4;
    if (b % together == 0)
        prefetch_run(block, together * t.bytes);
}

/* n (constant) rows from row m: everything in registers. */
INLINE void few_32(struct type_32 t, const uint8_t *panel, uint32_t blocks,
                   const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    __m256 acc[ROWS][2];
    UNROLL for (uint32_t i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, panel += t.bytes) {
        __m256 d[2], min[2];
        prefetch_blocks(t, panel, b);
        t.scales(panel, d, min);
        block_32(t, panel, NULL, d, min, b, rows, m, n, acc);
    }
    store_rows(acc, n, out + 16 * m);
}

INLINE void unpack_32(struct type_32 t, const uint8_t *panel, uint8_t *steps)
{
    UNROLL for (uint32_t i = 0; i < 8; i++) for (uint32_t h = 0; h < 2; h++)
    {
        __m256i w = t.step(panel, 0, i, h);
        if (t.depth) {
            _mm256_store_si256((__m256i *)(steps + 64 * i + 32 * h), w);
        } else {
            _mm256_store_si256((__m256i *)(steps + 128 * i + 32 * h), even_bytes(w));
            _mm256_store_si256((__m256i *)(steps + 128 * i + 64 + 32 * h), odd_bytes(w));
        }
    }
}

INLINE void rows_32(struct type_32 t, const struct panel_32 *p, uint32_t from, uint32_t count,
                    const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    const uint32_t stride = t.depth ? 512 : 1024;
    __m256 acc[ROWS][2];
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
        few_32(t, panel, blocks, rows, 0, 1, out);
        return;
    }
    if (rows->n == 2) {
        few_32(t, panel, blocks, rows, 0, 2, out);
        return;
    }
    if (rows->n == 4 || rows->n == 8) {
        for (uint32_t m = 0; m < rows->n; m += 4)
            few_32(t, panel, blocks, rows, m, 4, out);
        return;
    }
    struct panel_32 p;
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < blocks; b += 8) {
        uint32_t count = blocks - b < 8 ? blocks - b : 8, m = 0;
        for (uint32_t i = 0; i < count; i++, panel += t.bytes) {
            prefetch_blocks(t, panel, b + i);
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

INLINE __m128i iq4_levels(void)
{
    return _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
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
    void avx2_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,      \
                          float *out)                                                              \
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

/* ---- IQ4_XS: signed levels under integer scales ----------------------------------------------- */

/* A level times its group's scale fits 16 bits, so scales are multiplied into the weights and a
 * whole block is one sum. Words 0, 1: d, two upper bits of eight scales, their low nibbles; then
 * four words of nibbles for each group. */
INLINE void scales_iq4_xs(const uint8_t *block, __m256i scale[8][2], __m256 d[2])
{
    for (uint32_t h = 0; h < 2; h++) {
        __m256i first = word(block, 0, h), low = word(block, 1, h);
        __m256 unused;
        half_pairs(first, &d[h], &unused);
        __m256i high = _mm256_srli_epi32(first, 16);
        UNROLL for (uint32_t g = 0; g < 8; g++)
        {
            __m256i l =
                _mm256_and_si256(_mm256_srli_epi32(low, (int)(4 * g)), _mm256_set1_epi32(15));
            __m256i u =
                _mm256_and_si256(_mm256_srli_epi32(high, (int)(2 * g)), _mm256_set1_epi32(3));
            __m256i v = _mm256_sub_epi32(_mm256_or_si256(l, _mm256_slli_epi32(u, 4)),
                                         _mm256_set1_epi32(32));
            /* Twice: the low 16 bits are the value's already. */
            scale[g][h] = _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)),
                                          _mm256_slli_epi32(v, 16));
        }
    }
}

INLINE void weights_iq4_xs(const uint8_t *block, uint32_t g, uint32_t i, uint32_t half,
                           __m256i scale, __m256i *even, __m256i *odd)
{
    __m256i v = look_up(nibble_step(block, 2 + 4 * g, i, half), iq4_levels());
    *even = _mm256_mullo_epi16(even_bytes(v), scale);
    *odd = _mm256_mullo_epi16(odd_bytes(v), scale);
}

/* Block b of n (1..3) rows from row m, onto out. steps: as of wide types, or NULL. */
INLINE void block_iq4_xs(const uint8_t *block, const uint8_t *steps, const __m256i scale[8][2],
                         const __m256 d[2], uint32_t b, const struct act_rows *rows, uint32_t m,
                         uint32_t n, float *out)
{
    const struct act_wide_256 *x[ROWS];
    __m256i sum[ROWS][2];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        x[i] = act_at(rows, m + i, b);
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    }
    for (uint32_t g = 0; g < 8; g++)
        UNROLL for (uint32_t step = 0; step < 8; step++)
        {
            __m256i even[2], odd[2];
            const uint8_t *at = steps + 128 * (8 * g + step);
            for (uint32_t h = 0; h < 2; h++) {
                if (steps) {
                    even[h] = load(at + 32 * h);
                    odd[h] = load(at + 64 + 32 * h);
                } else {
                    weights_iq4_xs(block, g, step, h, scale[g][h], &even[h], &odd[h]);
                }
            }
            UNROLL for (uint32_t i = 0; i < n; i++)
            {
                const int16_t *q = x[i]->q + 32 * g + 4 * step;
                __m256i v0 = broadcast(q), v1 = broadcast(q + 2);
                for (uint32_t h = 0; h < 2; h++) {
                    sum[i][h] = add32(sum[i][h], _mm256_madd_epi16(even[h], v0));
                    sum[i][h] = add32(sum[i][h], _mm256_madd_epi16(odd[h], v1));
                }
            }
        }
    UNROLL for (uint32_t i = 0; i < n; i++) for (uint32_t h = 0; h < 2; h++)
    {
        float *to = out + 16 * (m + i) + 8 * h;
        __m256 s = _mm256_mul_ps(d[h], _mm256_set1_ps(x[i]->scale));
        _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]), s, _mm256_load_ps(to)));
    }
}

void avx2_dots_iq4_xs(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                      float *out)
{
    uint8_t steps[64 * 128] __attribute__((aligned(64)));
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < n_cols / 256; b++, panel += 16 * 136) {
        __m256i scale[8][2];
        __m256 d[2];
        prefetch_run(panel, 16 * 136);
        scales_iq4_xs(panel, scale, d);
        if (rows->n == 1) {
            block_iq4_xs(panel, NULL, scale, d, b, rows, 0, 1, out);
            continue;
        }
        for (uint32_t g = 0; g < 8; g++)
            UNROLL for (uint32_t i = 0; i < 8; i++) for (uint32_t h = 0; h < 2; h++)
            {
                uint8_t *at = steps + 128 * (8 * g + i) + 32 * h;
                __m256i even, odd;
                weights_iq4_xs(panel, g, i, h, scale[g][h], &even, &odd);
                _mm256_store_si256((__m256i *)at, even);
                _mm256_store_si256((__m256i *)(at + 64), odd);
            }
        uint32_t m = 0;
        for (; m + 3 <= rows->n; m += 3)
            block_iq4_xs(NULL, steps, scale, d, b, rows, m, 3, out);
        for (; m < rows->n; m++)
            block_iq4_xs(NULL, steps, scale, d, b, rows, m, 1, out);
    }
}

#else
typedef int x86_avx2_32_is_empty;
#endif
