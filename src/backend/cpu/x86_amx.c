/*
 * AMX int8, K-quants: packed matrices of integer scales within 256 columns times many rows of activations.
 *
 * A weight times its group's scale is a whole number below 2^13: two planes of bytes hold it, and tile
 * products of both planes sum 256 columns exactly in 32 bits:
 *
 *     sum = 2^shift * (x . high) + x . low     16 tile products of 64 columns for 32 x 16 outputs
 *
 * then one or two fused multiply-adds, as everywhere. So results are the bits of the row kernels
 * (x86_avx512.c), which serve few rows. Panels are in tile order as they are: a word of 16 rows is a
 * row of a B tile. Per block of 256 columns: the planes are made once (8 KiB), then 32 rows at a time
 * pass: 2 A x 2 B x 4 C tiles.
 *
 * What bounds this (one core of a fourth-generation Xeon, ns per 32 rows x 16 x 256, of which tile
 * products alone take 100): loading tiles and multiplying 120, storing the sums 40, turning them into
 * floats 130, making planes 30 where 192 rows share them. These add up: pieces of the one put between
 * pieces of the other, more panels beside each other and activations in tile order changed nothing.
 */
#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__linux__)

#include "backend/cpu/x86_amx.h"
#include "backend/cpu/tile_attention.h"

#include "backend/cpu/x86_avx512_types.h"

#define ROWS_LEAST 8 /* below, row kernels are as fast (measured at 4 and 8) */

/* Weights of a block times their scales, in two planes of tile rows. */
struct planes {
    uint8_t high[64 * 64], low[64 * 64];
} __attribute__((aligned(64)));

/* How a product of a weight and its scale becomes two bytes. The lower one is unsigned. */
enum split {
    SPLIT_SCALE,   /* scale = 8 * a + b: a * q and b * q, both below 2^8 (q below 2^5, no offset) */
    SPLIT_PRODUCT, /* the product's upper byte, signed, and its lower byte */
};

/* A group's scale in both 16-bit halves of each row's lane. */
INLINE __m512i scale_pair(__m512i scale)
{
    return _mm512_or_si512(_mm512_and_si512(scale, _mm512_set1_epi32(0xffff)),
                           _mm512_slli_epi32(scale, 16));
}

INLINE void split_planes(struct type_256 t, enum split split, const uint8_t *block,
                         const struct scales_256 *s, struct planes *out)
{
    const __m512i bytes = _mm512_set1_epi16(255);
    const __m512i offset = _mm512_set1_epi16(t.bias == BIAS_OFFSET ? (short)(1 << t.shift) : 0);
    UNROLL for (uint32_t g = 0; g < 8; g++) UNROLL for (uint32_t i = 0; i < 8; i++)
    {
        if (i == 0)
            prefetch_eighth_for_tiles(block, t.bytes, g);
        __m512i scale = scale_pair(s->scale[t.group == 32 ? g : 2 * g + i / 4]);
        __m512i q = t.step(block, g, i), low, high;
        if (split == SPLIT_SCALE) { /* no product carries from a byte to the next */
            low = _mm512_mullo_epi16(q, _mm512_and_si512(scale, _mm512_set1_epi16(7)));
            high = _mm512_mullo_epi16(q, _mm512_srli_epi16(scale, 3));
        } else {
            __m512i even = _mm512_sub_epi16(_mm512_and_si512(q, bytes), offset);
            __m512i odd = _mm512_sub_epi16(_mm512_srli_epi16(q, 8), offset);
            even = _mm512_mullo_epi16(even, scale);
            odd = _mm512_mullo_epi16(odd, scale);
            low = _mm512_or_si512(_mm512_and_si512(even, bytes), _mm512_slli_epi16(odd, 8));
            high = _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(bytes, odd));
        }
        _mm512_store_si512(out->low + 64 * (8 * g + i), low);
        _mm512_store_si512(out->high + 64 * (8 * g + i), high);
    }
}

/* Tile products of up to 32 rows with both planes: [row][16 columns]. */
struct sums {
    int32_t high[32][16], low[32][16];
} __attribute__((aligned(64)));

/* tile[to] += tile[a] * tile[6]: the upper plane of a split scale is unsigned too. */
#define MULTIPLY_HIGH(to, a)                                                                       \
    do {                                                                                           \
        if (split == SPLIT_SCALE)                                                                  \
            _tile_dpbsud(to, a, 6);                                                                \
        else                                                                                       \
            _tile_dpbssd(to, a, 6);                                                                \
    } while (0)

/* Tiles 0..3: sums of rows 0..15 high, low, of rows 16..31 high, low. */
INLINE void multiply_32(enum split split, const struct a_tile a[2], const struct planes *w,
                        struct sums *out)
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
        MULTIPLY_HIGH(0, 4);
        MULTIPLY_HIGH(2, 5);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, out->high[0], 64);
    _tile_stored(1, out->low[0], 64);
    _tile_stored(2, out->high[16], 64);
    _tile_stored(3, out->low[16], 64);
    MEMORY_BARRIER();
}

INLINE void multiply_16(enum split split, const struct a_tile *a, const struct planes *w,
                        struct sums *out)
{
    MEMORY_BARRIER();
    _tile_zero(0);
    _tile_zero(1);
    for (uint32_t k = 0; k < 4; k++) {
        _tile_loadd(6, w->high + 1024 * k, 64);
        _tile_loadd(4, a->rows + 64 * k, a->stride);
        _tile_loadd(7, w->low + 1024 * k, 64);
        MULTIPLY_HIGH(0, 4);
        _tile_dpbsud(1, 4, 7);
    }
    _tile_stored(0, out->high[0], 64);
    _tile_stored(1, out->low[0], 64);
    MEMORY_BARRIER();
}

/* Tile products not yet added to the results. */
struct job {
    uint32_t m, n, b;
    const struct scales_256 *scales;
    struct sums sums;
};

/* Rows i .. i + n (constant, up to 4) of a job onto the results. */
INLINE void add_rows(struct type_256 t, enum split split, const struct job *job,
                     const struct act_rows *rows, uint32_t i, uint32_t n, float *out)
{
    const struct scales_256 *s = job->scales;
    const struct act_256 *x[4];
    __m512i minima[4];
    __m512 acc[4];
    out += 16 * (job->m + i);
    UNROLL for (uint32_t k = 0; k < n; k++)
    {
        x[k] = act_at(rows, job->m + i + k, job->b);
        __m512i high = _mm512_load_si512(job->sums.high[i + k]);
        __m512i all = _mm512_add_epi32(_mm512_slli_epi32(high, split == SPLIT_SCALE ? 3 : 8),
                                       _mm512_load_si512(job->sums.low[i + k]));
        acc[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all),
                                 _mm512_mul_ps(s->d, _mm512_set1_ps(x[k]->scale)),
                                 _mm512_loadu_ps(out + 16 * k));
        minima[k] = _mm512_setzero_si512();
    }
    if (t.bias == BIAS_MINIMA) {
        UNROLL for (uint32_t p = 0; p < 128 / t.group; p++) UNROLL for (uint32_t k = 0; k < n;
                                                                        k++) minima[k] =
            _mm512_dpwssd_epi32(minima[k], s->pairs[p],
                                broadcast((t.group == 32 ? x[k]->sums32 : x[k]->sums16) + 2 * p));
        UNROLL for (uint32_t k = 0; k < n; k++) acc[k] =
            _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima[k]),
                             _mm512_mul_ps(s->dmin, _mm512_set1_ps(x[k]->scale)), acc[k]);
    }
    UNROLL for (uint32_t k = 0; k < n; k++) _mm512_storeu_ps(out + 16 * k, acc[k]);
}

INLINE void add_job(struct type_256 t, enum split split, const struct job *job,
                    const struct act_rows *rows, float *out)
{
    uint32_t i = 0;
    for (; i + 4 <= job->n; i += 4)
        add_rows(t, split, job, rows, i, 4, out);
    for (; i < job->n; i++)
        add_rows(t, split, job, rows, i, 1, out);
}

INLINE void dots_tiles(struct type_256 t, enum split split, const uint8_t *panel, uint32_t n_cols,
                       const struct act_rows *rows, float *out)
{
    struct planes planes;
    struct job jobs[2];
    struct scales_256 scales[2];
    uint8_t copy[2][16 * 256] __attribute__((aligned(64)));
    bool even = evenly_spaced(rows, sizeof(struct act_256));
    uint32_t turn = 0;
    jobs[0].n = jobs[1].n = 0;
    configure_tiles();
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < n_cols / 256; b++, panel += t.bytes) {
        struct scales_256 *s = &scales[b % 2];
        t.scales(panel, s);
        split_planes(t, split, panel, s, &planes);
        for (uint32_t m = 0; m < rows->n; m += 32, turn ^= 1) {
            struct job *job = &jobs[turn];
            struct a_tile a[2] = {rows_tile(rows, even, m, b, copy[0])};
            job->m = m;
            job->b = b;
            job->n = rows->n - m < 32 ? rows->n - m : 32;
            job->scales = s;
            if (job->n > 16) {
                a[1] = rows_tile(rows, even, m + 16, b, copy[1]);
                multiply_32(split, a, &planes, &job->sums);
            } else {
                multiply_16(split, a, &planes, &job->sums);
            }
            add_job(t, split, &jobs[turn ^ 1], rows, out); /* while this one's are on their way */
            jobs[turn ^ 1].n = 0;
        }
    }
    add_job(t, split, &jobs[turn ^ 1], rows, out);
}

#define KERNEL_TILES(name, type, split)                                                            \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        if (rows->n < ROWS_LEAST)                                                                  \
            avx512_dots_##name(panel, n_cols, rows, out);                                          \
        else                                                                                       \
            dots_tiles((struct type_256)type, split, panel, n_cols, rows, out);                    \
    }

KERNEL_TILES(q4_k, TYPE_Q4_K, SPLIT_SCALE)
KERNEL_TILES(q5_k, TYPE_Q5_K, SPLIT_SCALE)
KERNEL_TILES(q6_k, TYPE_Q6_K, SPLIT_PRODUCT)
KERNEL_TILES(q2_k, TYPE_Q2_K, SPLIT_SCALE)
KERNEL_TILES(q3_k, TYPE_Q3_K, SPLIT_PRODUCT)
KERNEL_TILES(iq4_xs, TYPE_IQ4_XS, SPLIT_PRODUCT)

static const struct packed_kernel packed_kernels[] = {
    {"amx q4_K x i8", TENSOR_Q4_K, ACT_I8_256, dots_q4_k},
    {"amx q5_K x i8", TENSOR_Q5_K, ACT_I8_256, dots_q5_k},
    {"amx q6_K x i8", TENSOR_Q6_K, ACT_I8_256, dots_q6_k},
    {"amx q2_K x i8", TENSOR_Q2_K, ACT_I8_256, dots_q2_k},
    {"amx q3_K x i8", TENSOR_Q3_K, ACT_I8_256, dots_q3_k},
    {"amx iq4_xs x i8", TENSOR_IQ4_XS, ACT_I8_256, dots_iq4_xs},
    {"amx q8_0 x i8", TENSOR_Q8_0, ACT_I8_32, amx_dots_q8_0},
    {"amx q4_0 x i8", TENSOR_Q4_0, ACT_I8_32, amx_dots_q4_0},
    {"amx q4_1 x i8", TENSOR_Q4_1, ACT_I8_32, amx_dots_q4_1},
    {"amx q5_0 x i8", TENSOR_Q5_0, ACT_I8_32, amx_dots_q5_0},
    {"amx q5_1 x i8", TENSOR_Q5_1, ACT_I8_32, amx_dots_q5_1},
    {"amx iq4_nl x i8", TENSOR_IQ4_NL, ACT_I8_32, amx_dots_iq4_nl},
    {"amx mxfp4 x i8", TENSOR_MXFP4, ACT_I8_32, amx_dots_mxfp4},
    {"amx bf16 x bf16", TENSOR_BF16, ACT_BF16, amx_dots_bf16},
};

static const struct two_kernel two_kernels[] = {
    {TENSOR_BF16, amx_dots_two_bf16},
};

/* Tiles in use keep a core from its deepest sleep and are saved at every switch of threads. */
static void rest(void)
{
    if (tiles_in_use())
        _tile_release();
}

const struct kernel_set kernel_set_amx = {
    .name = "amx",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .prompt = amx_prompt_kernels,
    .n_prompt = AMX_PROMPT_KERNELS,
    .many = amx_many_kernels,
    .n_many = AMX_PROMPT_KERNELS,
    .attention = &tile_attention_amx,
    .two = two_kernels,
    .n_two = sizeof two_kernels / sizeof *two_kernels,
    .quantise = amx_quantise,
    .usable = x86_amx_usable,
    .rest = rest,
};

#else
typedef int x86_amx_is_empty;
#endif
