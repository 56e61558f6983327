/*
 * AVX2: K-quants, whose scales are integers within a block of 256 columns (x86_avx2.c has the
 * scheme). A block is one exact integer sum per output, and one or two fused multiply-adds. What is
 * said of a type stands in files of their own, since all of it is written out when compiled, for
 * each type, which takes a while.
 */
#ifndef SLUICE_BACKEND_CPU_X86_AVX2_256_H
#define SLUICE_BACKEND_CPU_X86_AVX2_256_H

#include "backend/cpu/x86_avx2.h"

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

/* The same, sign-extended: placed in the upper bytes, then shifted down. */
INLINE __m256i signed_scale(__m256i words, uint32_t index)
{
    char i = (char)index;
    __m128i lane =
        _mm_setr_epi8(-1, i, -1, i, -1, (char)(i + 4), -1, (char)(i + 4), -1, (char)(i + 8), -1,
                      (char)(i + 8), -1, (char)(i + 12), -1, (char)(i + 12));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(lane)), 8);
}

INLINE __m256i signed_pair(__m256i words, uint32_t index)
{
    char i = (char)index;
    __m128i lane =
        _mm_setr_epi8(-1, i, -1, (char)(i + 1), -1, (char)(i + 4), -1, (char)(i + 5), -1,
                      (char)(i + 8), -1, (char)(i + 9), -1, (char)(i + 12), -1, (char)(i + 13));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(lane)), 8);
}

/* What a block's integers are multiplied with. scale[g]: of group g, twice in 16 bits; pairs[p]:
 * what sums of columns 2p and 2p + 1 are multiplied with: minima, or the scales themselves. */
struct scales {
    __m256i scale[16][2];
    __m256i pairs[8][2];
    __m256 d[2], dmin[2];
};

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

/* Group g of a block onto sum[m][half]; weights from `block` (packed), or from `steps` (unpacked, 64
 * bytes a step) where that is not NULL. n: 1..ROWS, a constant after inlining. */
INLINE void group_256(struct type_256 t, const uint8_t *block, const uint8_t *steps,
                      const struct scales *s, const struct act_256 *const *x, uint32_t g,
                      uint32_t n, __m256i sum[ROWS][2])
{
    UNROLL for (uint32_t part = 0; part < 8 / t.depth; part++)
    {
        __m256i low[ROWS][2];
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

/* Adds one block to acc[m][half]. */
INLINE void block_256(struct type_256 t, const uint8_t *block, const uint8_t *steps,
                      const struct scales *s, const struct act_256 *const *x, uint32_t n,
                      __m256 acc[ROWS][2])
{
    __m256i sum[ROWS][2];
    UNROLL for (uint32_t m = 0; m < n; m++) sum[m][0] = sum[m][1] = _mm256_setzero_si256();
    if (steps)
        for (uint32_t g = 0; g < 8; g++)
            group_256(t, NULL, steps, s, x, g, n, sum);
    else /* written out, so that what is shifted by is known */
        UNROLL for (uint32_t g = 0; g < 8; g++)
        {
            if (g == 4)
                prefetch_half(block, t.bytes, 1);
            group_256(t, block, NULL, s, x, g, n, sum);
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

/* One or two rows: everything in registers. */
INLINE void few_256(struct type_256 t, const uint8_t *panel, uint32_t blocks,
                    const struct act_rows *rows, uint32_t n, float *out)
{
    __m256 acc[ROWS][2];
    UNROLL for (uint32_t m = 0; m < n; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, panel += t.bytes) {
        struct scales s;
        const struct act_256 *x[ROWS];
        prefetch_half(panel, t.bytes, 0);
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
    __m256 acc[ROWS][2];
    const struct act_256 *x[ROWS];
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
        prefetch_half(panel, t.bytes, 0);
        t.scales(panel, &s);
        UNROLL for (uint32_t g = 0; g < 8; g++)
        {
            if (g == 4)
                prefetch_half(panel, t.bytes, 1);
            UNROLL for (uint32_t i = 0; i < 8; i++) for (uint32_t h = 0; h < 2; h++)
                _mm256_store_si256((__m256i *)(steps + (8 * g + i) * 64 + 32 * h),
                                   t.step(panel, g, i, h));
        }
        uint32_t m = 0;
        for (; m + 3 <= rows->n; m += 3)
            rows_256(t, steps, &s, b, rows, m, 3, out);
        if (rows->n - m == 2)
            rows_256(t, steps, &s, b, rows, m, 2, out);
        else if (rows->n - m == 1)
            rows_256(t, steps, &s, b, rows, m, 1, out);
    }
}

#define KERNEL_256(name, ...)                                                                      \
    void avx2_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,      \
                          float *out)                                                              \
    {                                                                                              \
        dots_256((struct type_256){__VA_ARGS__, step_##name, scales_##name}, panel, n_cols, rows,  \
                 out);                                                                             \
    }

#endif
