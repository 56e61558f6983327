/*
 * AVX2 + FMA + F16C: packed float matrices (16- and 8-bit floats, float32) times float32 rows.
 *
 * One accumulator per output, columns ascending, a fused multiply-add each: the order, and so the
 * bits, of the scalar twin. With 1, 2, 4 or 8 rows weights become floats in registers on their way
 * from memory; else TILE columns of the panel are decoded into L1 once ([column][16 rows]) and
 * meet six rows at a time: 12 accumulators, two weight vectors and one broadcast.
 */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2.h"

#define TILE 64 /* columns; a multiple of every type's word */

/* Columns of one packed word, each as floats: out[column][half]. */
typedef void columns_fn(const uint8_t *word, __m256 out[4][2]);

struct type_float {
    uint32_t columns; /* of a word: 64 bytes */
    columns_fn *read;
};

INLINE void read_f32(const uint8_t *word, __m256 out[4][2])
{
    for (uint32_t h = 0; h < 2; h++)
        out[0][h] = _mm256_loadu_ps((const float *)(const void *)(word + 32 * h));
}

INLINE void read_bf16(const uint8_t *word, __m256 out[4][2])
{
    for (uint32_t h = 0; h < 2; h++) {
        __m256i w = load(word + 32 * h);
        out[0][h] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
        out[1][h] = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000u)));
    }
}

/* w: float16 pairs of rows 0..7 and 8..15; the first of each pair to `low`, the second to `high`. */
INLINE void split_halves(const __m256i w[2], __m256 low[2], __m256 high[2])
{
    const __m256i mask = _mm256_set1_epi32(0xffff);
    __m256i l = _mm256_packus_epi32(_mm256_and_si256(w[0], mask), _mm256_and_si256(w[1], mask));
    __m256i h = _mm256_packus_epi32(_mm256_srli_epi32(w[0], 16), _mm256_srli_epi32(w[1], 16));
    /* Packing works within 128 bits: rows 0-3, 8-11 and 4-7, 12-15. */
    l = _mm256_permute4x64_epi64(l, 0xd8);
    h = _mm256_permute4x64_epi64(h, 0xd8);
    low[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(l));
    low[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(l, 1));
    high[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    high[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
}

INLINE void read_f16(const uint8_t *word, __m256 out[4][2])
{
    const __m256i w[2] = {load(word), load(word + 32)};
    split_halves(w, out[0], out[1]);
}

/* The upper byte of a float16. */
INLINE void read_f8_e5m2(const uint8_t *word, __m256 out[4][2])
{
    const __m256i upper = _mm256_set1_epi16((short)0xff00);
    const __m256i w[2] = {load(word), load(word + 32)};
    const __m256i even[2] = {_mm256_slli_epi16(w[0], 8), _mm256_slli_epi16(w[1], 8)};
    const __m256i odd[2] = {_mm256_and_si256(w[0], upper), _mm256_and_si256(w[1], upper)};
    split_halves(even, out[0], out[2]);
    split_halves(odd, out[1], out[3]);
}

/* Bytes in the upper halves of 16 bits: sign, and seven bits that are those of a float16 2^-8 times
 * as large, but for the two NaNs. */
INLINE __m256i e4m3_halves(__m256i v)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7f00);
    __m256i m = _mm256_and_si256(v, magnitude);
    __m256i nan = _mm256_srli_epi16(_mm256_cmpeq_epi16(m, magnitude), 1); /* 0x7fff */
    __m256i sign = _mm256_and_si256(v, _mm256_set1_epi16((short)0x8000));
    return _mm256_or_si256(_mm256_or_si256(_mm256_srli_epi16(m, 1), nan), sign);
}

INLINE void read_f8_e4m3(const uint8_t *word, __m256 out[4][2])
{
    const __m256i upper = _mm256_set1_epi16((short)0xff00);
    const __m256 scale = _mm256_set1_ps(256.0f);
    const __m256i w[2] = {load(word), load(word + 32)};
    const __m256i even[2] = {e4m3_halves(_mm256_slli_epi16(w[0], 8)),
                             e4m3_halves(_mm256_slli_epi16(w[1], 8))};
    const __m256i odd[2] = {e4m3_halves(_mm256_and_si256(w[0], upper)),
                            e4m3_halves(_mm256_and_si256(w[1], upper))};
    split_halves(even, out[0], out[2]);
    split_halves(odd, out[1], out[3]);
    for (uint32_t c = 0; c < 4; c++)
        for (uint32_t h = 0; h < 2; h++)
            out[c][h] = _mm256_mul_ps(out[c][h], scale);
}

/* n (constant) rows from row `first`: everything in registers. */
INLINE void few_rows(struct type_float t, const uint8_t *panel, uint32_t n_cols,
                     const struct act_rows *rows, uint32_t first, uint32_t n, float *out)
{
    const float *x[ROWS];
    __m256 acc[ROWS][2];
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        x[m] = rows->x[first + m];
        acc[m][0] = acc[m][1] = _mm256_setzero_ps();
    }
    for (uint32_t k = 0; k < n_cols; k += t.columns, panel += 64) {
        __m256 w[4][2];
        _mm_prefetch((const char *)panel + PREFETCH, _MM_HINT_T0);
        t.read(panel, w);
        UNROLL for (uint32_t c = 0; c < t.columns; c++) UNROLL for (uint32_t m = 0; m < n; m++)
        {
            __m256 v = _mm256_broadcast_ss(x[m] + k + c);
            acc[m][0] = _mm256_fmadd_ps(w[c][0], v, acc[m][0]);
            acc[m][1] = _mm256_fmadd_ps(w[c][1], v, acc[m][1]);
        }
    }
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        _mm256_store_ps(out + 16 * (first + m), acc[m][0]);
        _mm256_store_ps(out + 16 * (first + m) + 8, acc[m][1]);
    }
}

/* n (1..6, constant) rows from row m: adds `columns` columns from column k. */
INLINE void tile_rows(const float *tile, uint32_t columns, uint32_t k, const struct act_rows *rows,
                      uint32_t m, uint32_t n, float *out)
{
    __m256 acc[6][2];
    const float *x[6];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        x[i] = (const float *)rows->x[m + i] + k;
        acc[i][0] = _mm256_load_ps(out + 16 * (m + i));
        acc[i][1] = _mm256_load_ps(out + 16 * (m + i) + 8);
    }
    for (uint32_t c = 0; c < columns; c++) {
        __m256 w0 = _mm256_load_ps(tile + 16 * c), w1 = _mm256_load_ps(tile + 16 * c + 8);
        UNROLL for (uint32_t i = 0; i < n; i++)
        {
            __m256 v = _mm256_broadcast_ss(x[i] + c);
            acc[i][0] = _mm256_fmadd_ps(w0, v, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(w1, v, acc[i][1]);
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        _mm256_store_ps(out + 16 * (m + i), acc[i][0]);
        _mm256_store_ps(out + 16 * (m + i) + 8, acc[i][1]);
    }
}

INLINE void many_rows(struct type_float t, const uint8_t *panel, uint32_t n_cols,
                      const struct act_rows *rows, float *out)
{
    float tile[TILE * 16] __attribute__((aligned(64)));
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t k = 0; k < n_cols; k += TILE) {
        uint32_t columns = n_cols - k < TILE ? n_cols - k : TILE, m = 0;
        for (uint32_t c = 0; c < columns; c += t.columns, panel += 64) {
            __m256 w[4][2];
            _mm_prefetch((const char *)panel + PREFETCH, _MM_HINT_T0);
            t.read(panel, w);
            UNROLL for (uint32_t i = 0; i < t.columns; i++)
            {
                _mm256_store_ps(tile + 16 * (c + i), w[i][0]);
                _mm256_store_ps(tile + 16 * (c + i) + 8, w[i][1]);
            }
        }
        /* Nearly equal parts: few rows at a time would wait for each sum's last addition. */
        for (uint32_t left = rows->n; left; left = rows->n - m) {
            uint32_t parts = (left + 5) / 6, n = (left + parts - 1) / parts;
            if (n == 6)
                tile_rows(tile, columns, k, rows, m, 6, out);
            else if (n == 5)
                tile_rows(tile, columns, k, rows, m, 5, out);
            else if (n == 4)
                tile_rows(tile, columns, k, rows, m, 4, out);
            else
                tile_rows(tile, columns, k, rows, m, n = 3, out);
            m += n;
        }
    }
}

#define KERNEL_FLOAT(name, columns)                                                                \
    void avx2_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,      \
                          float *out)                                                              \
    {                                                                                              \
        const struct type_float t = {columns, read_##name};                                        \
        if (rows->n == 1)                                                                          \
            few_rows(t, panel, n_cols, rows, 0, 1, out);                                           \
        else if (rows->n == 2)                                                                     \
            few_rows(t, panel, n_cols, rows, 0, 2, out);                                           \
        else if (rows->n == 4 || rows->n == 8)                                                     \
            for (uint32_t m = 0; m < rows->n; m += 4)                                              \
                few_rows(t, panel, n_cols, rows, m, 4, out);                                       \
        else                                                                                       \
            many_rows(t, panel, n_cols, rows, out);                                                \
    }

KERNEL_FLOAT(f32, 1)
KERNEL_FLOAT(f16, 2)
KERNEL_FLOAT(bf16, 2)
KERNEL_FLOAT(f8_e4m3, 4)
KERNEL_FLOAT(f8_e5m2, 4)

#else
typedef int x86_avx2_float_is_empty;
#endif
