/*
 * AMX int8: the simple formats, with a float scale per 32 columns, times many rows of activations.
 *
 * A tile product spans 64 columns, a scale 32. So a tile of weights holds one group of 32 and zeros
 * in its other half: a tile of activations (two groups) meets two tiles of weights, and each product
 * is the exact sum of one group. Weights have no offset here (all fit signed bytes), so a sum becomes
 * a float and one fused multiply-add, as in the row kernels (x86_avx512.c), which serve few rows:
 * the same bits.
 *
 * Per 16 rows x 16 outputs x 64 columns: 2 tile products (32 cycles), 3 tile loads and 2 stores of 16
 * lines each, and 32 rounds of convert, scale and add (96 instructions, 64 loads). The row kernels
 * need 256 multiplications, each with a load, and the same 32 rounds. Half of what a tile product
 * could do is spent on zeros; a tile half as high would take as long, since its time is in rows of
 * activations, and would need a configuration of its own. Results stay in registers over a block of
 * 256 columns; sums of one step become floats while the tiles of the next are on their way.
 */
#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__linux__)

#include "backend/cpu/x86_amx.h"

#include "backend/cpu/x86_avx512_types.h"

#define ROWS_LEAST 12 /* below, tiles would be mostly empty */
#define ROWS       16 /* of a tile */
#define GROUPS     8  /* of 32 columns, in a block of activations */

/* A block's weights as tiles, and what they are multiplied with. */
struct weights_32 {
    int8_t tiles[GROUPS][1024]; /* an even group has the first 8 tile rows, an odd one the last */
    __m512 d[GROUPS], minimum[GROUPS];
} __attribute__((aligned(64)));

/* The floats of 16 rows of activations. */
struct floats_32 {
    float scales[ROWS][GROUPS];
    float totals[ROWS][GROUPS]; /* scale times sum of columns, where the type has minima */
} __attribute__((aligned(64)));

/* Sums of two groups: [row][output]. */
struct sums_32 {
    int32_t of[2][ROWS][16];
} __attribute__((aligned(64)));

INLINE void unpack_32(struct type_32 t, const uint8_t *block, uint32_t group, struct weights_32 *w)
{
    int8_t *tile = w->tiles[group] + group % 2 * 512;
    prefetch_block(block, t.bytes);
    t.scales(block, &w->d[group], &w->minimum[group]);
    UNROLL for (uint32_t i = 0; i < 8; i++) _mm512_store_si512(
        tile + 64 * i, _mm512_sub_epi8(t.step(block, i), bytes_of((uint8_t)t.offset)));
}

/* Rows past the end are zeros. */
INLINE void read_floats(struct type_32 t, const struct act_rows *rows, uint32_t m, uint32_t b,
                        struct floats_32 *out)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        __m256 scales = _mm256_setzero_ps(), totals = _mm256_setzero_ps();
        if (m + i < rows->n) {
            const struct act_32 *x = act_at(rows, m + i, b);
            __m128i sums = _mm_loadu_si128((const __m128i *)(const void *)x->sums32);
            scales = _mm256_loadu_ps(x->scales);
            totals = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums)));
        }
        _mm256_store_ps(out->scales[i], scales);
        if (t.has_minima)
            _mm256_store_ps(out->totals[i], totals);
    }
}

/* Columns 64 * step .. + 64 of 16 rows. */
INLINE void multiply_32(struct a_tile a, uint32_t step, const struct weights_32 *w,
                        struct sums_32 *out)
{
    MEMORY_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(4, a.rows + 64 * step, a.stride);
    _tile_loadd(6, w->tiles[2 * step], 64);
    _tile_loadd(7, w->tiles[2 * step + 1], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_stored(0, out->of[0], 64);
    _tile_stored(1, out->of[1], 64);
    MEMORY_BARRIER();
}

INLINE void add_sums(struct type_32 t, uint32_t step, uint32_t groups, const struct weights_32 *w,
                     const struct floats_32 *x, const struct sums_32 *sums, __m512 acc[ROWS])
{
    for (uint32_t k = 0; k < 2 && 2 * step + k < groups; k++) {
        uint32_t g = 2 * step + k;
        UNROLL for (uint32_t i = 0; i < ROWS; i++)
        {
            __m512 scale = _mm512_mul_ps(w->d[g], _mm512_set1_ps(x->scales[i][g]));
            __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums->of[k][i]));
            acc[i] = _mm512_fmadd_ps(sum, scale, acc[i]);
            if (t.has_minima)
                acc[i] = _mm512_fmadd_ps(w->minimum[g], _mm512_set1_ps(x->totals[i][g]), acc[i]);
        }
    }
}

/* Up to 16 rows from row m on by the first `groups` groups of block b. */
INLINE void block_rows_32(struct type_32 t, const struct weights_32 *w, uint32_t groups,
                          const struct act_rows *rows, bool even, uint32_t m, uint32_t b,
                          float *out)
{
    struct sums_32 sums[2];
    struct floats_32 x;
    uint8_t copy[ROWS * 256] __attribute__((aligned(64)));
    struct a_tile a = rows_tile(rows, even, m, b, copy);
    uint32_t n = rows->n - m < ROWS ? rows->n - m : ROWS, steps = (groups + 1) / 2;
    __m512 acc[ROWS];
    multiply_32(a, 0, w, &sums[0]);
    read_floats(t, rows, m, b, &x);
    UNROLL for (uint32_t i = 0; i < ROWS; i++) acc[i] =
        i < n ? _mm512_loadu_ps(out + 16 * (m + i)) : _mm512_setzero_ps();
    for (uint32_t step = 0; step < steps; step++) {
        if (step + 1 < steps)
            multiply_32(a, step + 1, w, &sums[(step + 1) % 2]);
        add_sums(t, step, groups, w, &x, &sums[step % 2], acc);
    }
    UNROLL for (uint32_t i = 0; i < ROWS; i++) if (i < n)
        _mm512_storeu_ps(out + 16 * (m + i), acc[i]);
}

INLINE void dots_tiles_32(struct type_32 t, const uint8_t *panel, uint32_t n_cols,
                          const struct act_rows *rows, float *out)
{
    struct weights_32 w;
    bool even = evenly_spaced(rows, sizeof(struct act_32));
    uint32_t blocks = n_cols / 32;
    configure_tiles();
    memset(w.tiles, 0, sizeof w.tiles); /* the halves that stay zeros */
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t from = 0; from < blocks; from += GROUPS) {
        uint32_t groups = blocks - from < GROUPS ? blocks - from : GROUPS;
        for (uint32_t g = 0; g < groups; g++, panel += t.bytes)
            unpack_32(t, panel, g, &w);
        for (uint32_t m = 0; m < rows->n; m += ROWS)
            block_rows_32(t, &w, groups, rows, even, m, from / GROUPS, out);
    }
}

#define KERNEL_TILES_32(name, type)                                                                \
    void amx_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,       \
                         float *out)                                                               \
    {                                                                                              \
        if (rows->n < ROWS_LEAST)                                                                  \
            avx512_dots_##name(panel, n_cols, rows, out);                                          \
        else                                                                                       \
            dots_tiles_32((struct type_32)type, panel, n_cols, rows, out);                         \
    }

KERNEL_TILES_32(q8_0, TYPE_Q8_0)
KERNEL_TILES_32(q4_0, TYPE_Q4_0)
KERNEL_TILES_32(q4_1, TYPE_Q4_1)
KERNEL_TILES_32(q5_0, TYPE_Q5_0)
KERNEL_TILES_32(q5_1, TYPE_Q5_1)
KERNEL_TILES_32(iq4_nl, TYPE_IQ4_NL)
KERNEL_TILES_32(mxfp4, TYPE_MXFP4)

#else
typedef int x86_amx_32_is_empty;
#endif
