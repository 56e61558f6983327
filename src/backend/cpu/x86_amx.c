/*
 * AMX int8: packed matrices of integer scales within 256 columns times many rows of activations.
 *
 * A weight times its group's scale is a whole number below 2^13: two signed planes of bytes hold it,
 * 64 * high + low, and tile products of both planes sum 256 columns exactly in 32 bits:
 *
 *     sum = 64 * (x . high) + x . low          8 tile products of 64 columns for 16 x 16 outputs
 *
 * then one or two fused multiply-adds, as everywhere. So results are the bits of the row kernels
 * (x86_avx512.c), which serve few rows. Panels are in tile order as they are: a word of 16 rows is a
 * row of a B tile. Per block of 256 columns: the planes are made once (8 KiB), then 32 rows at a time
 * pass: 2 A x 2 B x 4 C tiles. Sums of the 32 rows before are turned into floats by the vector units
 * while the tile unit works (jobs overlap in the out-of-order window).
 *
 * Simple formats (a float scale per 32 columns) gain little, since tiles would be emptied every half
 * K step: they stay with the row kernels.
 */
#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__linux__)

#include "backend/cpu/x86_avx512.h"

#include "backend/cpu/x86_avx512_types.h"

#define ROWS_LEAST 12 /* below, tiles would be mostly empty */

/* Tile instructions do not tell the compiler what memory they read. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

struct tile_shapes {
    uint8_t palette, start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static void configure_tiles(void)
{
    struct tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = 64;
        shapes.rows[i] = 16;
    }
    /* GCC 12 believes that the instruction reads 8 bytes only and drops the other stores. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}

/* Weights of a block times their scales, in two planes of tile rows. */
struct planes {
    uint8_t high[64 * 64], low[64 * 64];
} __attribute__((aligned(64)));

INLINE void split_planes(struct type_256 t, const uint8_t *block, const struct scales_256 *s,
                         struct planes *out)
{
    const __m512i bytes = _mm512_set1_epi16(255), six = _mm512_set1_epi16(63);
    const __m512i offset = _mm512_set1_epi16(t.bias == BIAS_OFFSET ? (short)(1 << t.shift) : 0);
    UNROLL for (uint32_t g = 0; g < 8; g++) UNROLL for (uint32_t i = 0; i < 8; i++)
    {
        __m512i scale = s->scale[t.group == 32 ? g : 2 * g + i / 4];
        scale = _mm512_or_si512(_mm512_and_si512(scale, _mm512_set1_epi32(0xffff)),
                                _mm512_slli_epi32(scale, 16));
        __m512i q = t.step(block, g, i);
        __m512i even = _mm512_sub_epi16(_mm512_and_si512(q, bytes), offset);
        __m512i odd = _mm512_sub_epi16(_mm512_srli_epi16(q, 8), offset);
        even = _mm512_mullo_epi16(even, scale);
        odd = _mm512_mullo_epi16(odd, scale);
        __m512i low = _mm512_or_si512(_mm512_and_si512(even, six),
                                      _mm512_slli_epi16(_mm512_and_si512(odd, six), 8));
        __m512i high = _mm512_or_si512(_mm512_and_si512(_mm512_srai_epi16(even, 6), bytes),
                                       _mm512_slli_epi16(_mm512_srai_epi16(odd, 6), 8));
        _mm512_store_si512(out->low + 64 * (8 * g + i), low);
        _mm512_store_si512(out->high + 64 * (8 * g + i), high);
    }
}

/* Tile products of up to 32 rows with both planes: [row][16 columns]. */
struct sums {
    int32_t high[32][16], low[32][16];
} __attribute__((aligned(64)));

/* 16 rows of activations: where, and how far apart. */
struct a_tile {
    const uint8_t *rows;
    long stride;
};

/* Tiles 0..3: sums of rows 0..15 high, low, of rows 16..31 high, low. */
static void multiply_32(const struct a_tile a[2], const struct planes *w, struct sums *out)
{
    MEMORY_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t k = 0; k < 4; k++) {
        _tile_loadd(6, w->high + 1024 * k, 64);
        _tile_loadd(4, a[0].rows + 64 * k, a[0].stride);
        _tile_loadd(5, a[1].rows + 64 * k, a[1].stride);
        _tile_loadd(7, w->low + 1024 * k, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, out->high[0], 64);
    _tile_stored(1, out->low[0], 64);
    _tile_stored(2, out->high[16], 64);
    _tile_stored(3, out->low[16], 64);
    MEMORY_BARRIER();
}

static void multiply_16(const struct a_tile *a, const struct planes *w, struct sums *out)
{
    MEMORY_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    for (uint32_t k = 0; k < 4; k++) {
        _tile_loadd(6, w->high + 1024 * k, 64);
        _tile_loadd(4, a->rows + 64 * k, a->stride);
        _tile_loadd(7, w->low + 1024 * k, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
    }
    _tile_stored(0, out->high[0], 64);
    _tile_stored(1, out->low[0], 64);
    MEMORY_BARRIER();
}

/* Sums of n rows from row m onto the results. */
INLINE void add_sums(struct type_256 t, const struct sums *sums, const struct scales_256 *s,
                     uint32_t b, const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct act_256 *x = act_at(rows, m + i, b);
        __m512i high = _mm512_load_si512(sums->high[i]), low = _mm512_load_si512(sums->low[i]);
        __m512 all = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 6), low));
        __m512 scale = _mm512_set1_ps(x->scale);
        __m512 acc = _mm512_loadu_ps(out + 16 * (m + i));
        acc = _mm512_fmadd_ps(all, _mm512_mul_ps(s->d, scale), acc);
        if (t.bias == BIAS_MINIMA) {
            const int16_t *column_sums = t.group == 32 ? x->sums32 : x->sums16;
            uint32_t pairs = 128 / t.group;
            __m512i minima = _mm512_setzero_si512();
            UNROLL for (uint32_t p = 0; p < pairs; p++) minima =
                _mm512_dpwssd_epi32(minima, s->pairs[p], broadcast(column_sums + 2 * p));
            acc = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), _mm512_mul_ps(s->dmin, scale), acc);
        }
        _mm512_storeu_ps(out + 16 * (m + i), acc);
    }
}

/* Rows m .. m + 16 of block b for a tile: in place where they lie at equal distances, as rows of one
 * operation do, else copied (experts' rows; the end of a batch). copy: [16][256]. */
static struct a_tile rows_tile(const struct act_rows *rows, uint32_t m, uint32_t b, uint8_t *copy)
{
    uint32_t n = rows->n - m < 16 ? rows->n - m : 16;
    const uint8_t *first = act_at(rows, m, b);
    bool in_place = n == 16;
    for (uint32_t i = 1; in_place && i < 16; i++)
        in_place = (const uint8_t *)act_at(rows, m + i, b) == first + i * sizeof(struct act_256);
    if (in_place)
        return (struct a_tile){first, sizeof(struct act_256)};
    for (uint32_t i = 0; i < 16; i++)
        if (i < n)
            memcpy(copy + 256 * i, act_at(rows, m + i, b), 256);
        else
            memset(copy + 256 * i, 0, 256);
    return (struct a_tile){copy, 256};
}

/* Tile products not yet added to the results. */
struct job {
    uint32_t m, n, b;
    const struct scales_256 *scales;
};

INLINE void dots_tiles(struct type_256 t, const uint8_t *panel, uint32_t n_cols,
                       const struct act_rows *rows, float *out)
{
    struct planes planes;
    struct sums sums[2];
    struct scales_256 scales[2];
    uint8_t copy[2][16 * 256] __attribute__((aligned(64)));
    struct job before = {.n = 0};
    uint32_t turn = 0;
    configure_tiles();
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < n_cols / 256; b++, panel += t.bytes) {
        struct scales_256 *s = &scales[b % 2];
        prefetch_block(panel, t.bytes);
        t.scales(panel, s);
        split_planes(t, panel, s, &planes);
        for (uint32_t m = 0; m < rows->n; m += 32, turn ^= 1) {
            uint32_t n = rows->n - m < 32 ? rows->n - m : 32;
            struct a_tile a[2] = {rows_tile(rows, m, b, copy[0])};
            if (n > 16) {
                a[1] = rows_tile(rows, m + 16, b, copy[1]);
                multiply_32(a, &planes, &sums[turn]);
            } else {
                multiply_16(a, &planes, &sums[turn]);
            }
            if (before.n)
                add_sums(t, &sums[turn ^ 1], before.scales, before.b, rows, before.m, before.n,
                         out);
            before = (struct job){m, n, b, s};
        }
    }
    if (before.n)
        add_sums(t, &sums[turn ^ 1], before.scales, before.b, rows, before.m, before.n, out);
    _tile_release();
}

#define KERNEL_TILES(name, type)                                                                   \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        if (rows->n < ROWS_LEAST)                                                                  \
            avx512_dots_##name(panel, n_cols, rows, out);                                          \
        else                                                                                       \
            dots_tiles((struct type_256)type, panel, n_cols, rows, out);                           \
    }

KERNEL_TILES(q4_k, TYPE_Q4_K)
KERNEL_TILES(q5_k, TYPE_Q5_K)
KERNEL_TILES(q6_k, TYPE_Q6_K)
KERNEL_TILES(q2_k, TYPE_Q2_K)
KERNEL_TILES(q3_k, TYPE_Q3_K)
KERNEL_TILES(iq4_xs, TYPE_IQ4_XS)

static const struct packed_kernel packed_kernels[] = {
    {"amx q4_K x i8", TENSOR_Q4_K, ACT_I8_256, dots_q4_k},
    {"amx q5_K x i8", TENSOR_Q5_K, ACT_I8_256, dots_q5_k},
    {"amx q6_K x i8", TENSOR_Q6_K, ACT_I8_256, dots_q6_k},
    {"amx q2_K x i8", TENSOR_Q2_K, ACT_I8_256, dots_q2_k},
    {"amx q3_K x i8", TENSOR_Q3_K, ACT_I8_256, dots_q3_k},
    {"amx iq4_xs x i8", TENSOR_IQ4_XS, ACT_I8_256, dots_iq4_xs},
};

const struct kernel_set kernel_set_amx = {
    .name = "amx",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .quantise = avx2_quantise,
    .usable = x86_amx_usable,
};

#else
typedef int x86_amx_is_empty;
#endif
