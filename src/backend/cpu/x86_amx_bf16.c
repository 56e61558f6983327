/*
 * AMX bf16: matrices of bfloat16 times rows of activations rounded to bfloat16.
 *
 * The tile instruction defines the sum (Intel SDM, TDPBF16PS): over 32 columns, the products of even
 * and of odd columns are summed apart from zero, by fused multiply-adds in ascending order, then
 * result += even + odd; subnormals count as zeros. The row kernel and the scalar twin do the same, so
 * that all rows have the same bits whatever their number. Sums stay in tiles over all columns: the
 * weights are in tile order, there is nothing to unpack and nothing to scale.
 *
 * With one panel every line of activations serves one tile product and, with many rows, comes from
 * the level-2 cache: 64 lines for 64 cycles of products, which is all that this cache could ever give.
 * So two panels share them where they can, in blocks of 256 columns: the weights of a block (16 KiB)
 * and the sums of all rows (24 KiB) stay in level 1, and 32 lines come from level 2 in the same time.
 * Sums wait in memory from block to block as they are, so bits do not change.
 */
#if defined(__AMX_BF16__) && defined(__AVX512VNNI__) && defined(__linux__)

#include "backend/cpu/x86_amx.h"

#define ROWS_LEAST 8  /* below, tiles would be mostly empty */
#define ROWS       64 /* together: four tiles of activations share one of weights */
#define STEP       32 /* columns of a tile product */

/* ---- activations ------------------------------------------------------------------------------- */

void amx_quantise(enum act_form form, const float *x, uint32_t n, void *block)
{
    if (form == ACT_BF16_TILES) {
        struct act_bf16_tiles *tiles = block;
        for (uint32_t i = 0; i < ACT_COLUMNS; i += 16)
            _mm256_storeu_si256((__m256i *)(void *)(tiles->q + i),
                                _mm512_cvtepi32_epi16(rounded_to_bf16(some_floats(x, i, n))));
        memset(tiles->unused, 0, sizeof tiles->unused);
        return;
    }
    if (form != ACT_BF16) {
        avx2_quantise(form, x, n, block);
        return;
    }
    struct act_bf16 *out = block;
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 16) {
        __m512i bits = rounded_to_bf16(some_floats(x, i, n));
        _mm256_storeu_si256((__m256i *)(void *)(out->q + i), _mm512_cvtepi32_epi16(bits));
        _mm512_storeu_ps(out->x + i, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    }
}

/* ---- few rows ---------------------------------------------------------------------------------- */

/* n (constant) rows from row m. */
INLINE void rows_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                      uint32_t m, uint32_t n, float *out)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
    __m512 acc[4];
    UNROLL for (uint32_t i = 0; i < n; i++) acc[i] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < n_cols; k += STEP) {
        uint32_t words = (n_cols - k < STEP ? n_cols - k : STEP) / 2;
        __m512 even[4], odd[4];
        const float *x[4];
        UNROLL for (uint32_t i = 0; i < n; i++)
        {
            const struct act_bf16 *block = act_at(rows, m + i, k / ACT_COLUMNS);
            x[i] = block->x + k % ACT_COLUMNS;
            even[i] = odd[i] = _mm512_setzero_ps();
        }
        for (uint32_t w = 0; w < words; w++, panel += 64) {
            __m512i pair = word(panel, 0);
            __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
            __m512 second = _mm512_castsi512_ps(_mm512_and_si512(pair, upper));
            _mm_prefetch((const char *)panel + PREFETCH, _MM_HINT_T0);
            UNROLL for (uint32_t i = 0; i < n; i++)
            {
                even[i] = _mm512_fmadd_ps(first, _mm512_set1_ps(x[i][2 * w]), even[i]);
                odd[i] = _mm512_fmadd_ps(second, _mm512_set1_ps(x[i][2 * w + 1]), odd[i]);
            }
        }
        UNROLL for (uint32_t i = 0; i < n; i++) acc[i] =
            _mm512_add_ps(acc[i], _mm512_add_ps(even[i], odd[i]));
    }
    UNROLL for (uint32_t i = 0; i < n; i++) _mm512_storeu_ps(out + PANEL_ROWS * (m + i), acc[i]);
}

/* Subnormals as the tile unit takes them. */
#define SUBNORMALS_ARE_ZERO 0x8040u

static void dots_rows(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                      float *out)
{
    uint32_t mode = _mm_getcsr(), m = 0;
    _mm_setcsr(mode | SUBNORMALS_ARE_ZERO);
    for (; m + 4 <= rows->n; m += 4)
        rows_bf16(panel, n_cols, rows, m, 4, out);
    if (m + 2 <= rows->n) {
        rows_bf16(panel, n_cols, rows, m, 2, out);
        m += 2;
    }
    if (m < rows->n)
        rows_bf16(panel, n_cols, rows, m, 1, out);
    _mm_setcsr(mode);
}

/* ---- many rows --------------------------------------------------------------------------------- */

/* A block of 64 rows of activations: where, and how far apart. */
struct a_rows {
    const uint8_t *first;
    long stride;
};

/* Up to `most` rows from row m on: in place where whole tiles lie at equal distances, else copied.
 * copy: [most][ACT_COLUMNS]. */
static struct a_rows block_rows(const struct act_rows *rows, bool even, uint32_t m, uint32_t most,
                                uint32_t b, uint16_t *copy)
{
    uint32_t n = rows->n - m < most ? rows->n - m : most;
    if (even && n % 16 == 0)
        return (struct a_rows){act_at(rows, m, b), sizeof(struct act_bf16)};
    for (uint32_t i = 0; i < (n + 15) / 16 * 16; i++)
        if (i < n)
            memcpy(copy + ACT_COLUMNS * i, act_at(rows, m + i, b), 2 * ACT_COLUMNS);
        else
            memset(copy + ACT_COLUMNS * i, 0, 2 * ACT_COLUMNS);
    return (struct a_rows){(const uint8_t *)copy, 2 * ACT_COLUMNS};
}

/* Tiles 0..3: results of 16 rows each; `tiles` (constant) of them. One step of 32 columns. */
INLINE void multiply_step(uint32_t tiles, struct a_rows a, uint32_t column, const uint8_t *weights)
{
    const uint8_t *x = a.first + 2 * column;
    _tile_loadd(4, weights, 64);
    _tile_loadd(5, x, a.stride);
    _tile_dpbf16ps(0, 5, 4);
    if (tiles > 1) {
        _tile_loadd(6, x + 16 * a.stride, a.stride);
        _tile_dpbf16ps(1, 6, 4);
    }
    if (tiles > 2) {
        _tile_loadd(7, x + 32 * a.stride, a.stride);
        _tile_dpbf16ps(2, 7, 4);
    }
    if (tiles > 3) {
        _tile_loadd(5, x + 48 * a.stride, a.stride);
        _tile_dpbf16ps(3, 5, 4);
    }
}

/* 16 * tiles rows from row m on; the last of them may be past the end. */
INLINE void multiply_rows(uint32_t tiles, const uint8_t *panel, uint32_t n_cols,
                          const struct act_rows *rows, bool even, uint32_t m, float *sums)
{
    uint16_t copy[ROWS * ACT_COLUMNS] __attribute__((aligned(64)));
    uint8_t last[1024] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t k = 0; k < n_cols; k += ACT_COLUMNS) {
        struct a_rows a = block_rows(rows, even, m, ROWS, k / ACT_COLUMNS, copy);
        MEMORY_BARRIER();
        for (uint32_t c = 0; c < ACT_COLUMNS && k + c < n_cols; c += STEP, panel += 1024) {
            uint32_t left = n_cols - k - c;
            if (left < STEP) { /* the panel ends within the tile */
                memset(last, 0, sizeof last);
                memcpy(last, panel, 32 * left);
                MEMORY_BARRIER();
            }
            multiply_step(tiles, a, c, left < STEP ? last : panel);
        }
        MEMORY_BARRIER();
    }
    _tile_stored(0, sums, 64);
    if (tiles > 1)
        _tile_stored(1, sums + 256, 64);
    if (tiles > 2)
        _tile_stored(2, sums + 512, 64);
    if (tiles > 3)
        _tile_stored(3, sums + 768, 64);
    MEMORY_BARRIER();
}

void amx_dots_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows, float *out)
{
    if (rows->n < ROWS_LEAST) {
        dots_rows(panel, n_cols, rows, out);
        return;
    }
    float sums[ROWS * PANEL_ROWS] __attribute__((aligned(64)));
    bool even = evenly_spaced(rows, sizeof(struct act_bf16));
    configure_tiles();
    for (uint32_t m = 0; m < rows->n; m += ROWS) {
        uint32_t n = rows->n - m < ROWS ? rows->n - m : ROWS;
        if (n > 48)
            multiply_rows(4, panel, n_cols, rows, even, m, sums);
        else if (n > 32)
            multiply_rows(3, panel, n_cols, rows, even, m, sums);
        else if (n > 16)
            multiply_rows(2, panel, n_cols, rows, even, m, sums);
        else
            multiply_rows(1, panel, n_cols, rows, even, m, sums);
        memcpy(out + PANEL_ROWS * m, sums, (size_t)n * PANEL_ROWS * sizeof *out);
    }
}

/* ---- two panels ---------------------------------------------------------------------------------- */

#define ROWS_PAIR    32               /* together: two tiles of activations by two of weights */
#define COLUMN_BYTES (2 * PANEL_ROWS) /* of a panel */
#define BLOCK_BYTES  (COLUMN_BYTES * ACT_COLUMNS)

/* A block of columns of two panels; the last step's weights apart where the panel ends within it. */
struct pair_block {
    const uint8_t *weights[2];
    uint32_t columns;
    uint8_t last[2][1024] __attribute__((aligned(64)));
};

static void read_pair(const uint8_t *const panels[2], uint32_t n_cols, uint32_t column,
                      struct pair_block *out)
{
    out->columns = n_cols - column < ACT_COLUMNS ? n_cols - column : ACT_COLUMNS;
    uint32_t whole = out->columns / STEP * STEP, left = out->columns - whole;
    for (uint32_t i = 0; i < 2; i++) {
        out->weights[i] = panels[i] + COLUMN_BYTES * (size_t)column;
        prefetch_block(out->weights[i] + BLOCK_BYTES - PREFETCH, BLOCK_BYTES); /* the next one */
        memset(out->last[i], 0, sizeof out->last[i]);
        memcpy(out->last[i], out->weights[i] + COLUMN_BYTES * (size_t)whole, COLUMN_BYTES * left);
    }
}

/* 16 * tiles (1 or 2, constant) rows by two panels; sums[panel][tile]: where they wait. */
INLINE void multiply_pair(uint32_t tiles, struct a_rows a, const struct pair_block *b, bool first,
                          float *const sums[2][2])
{
    MEMORY_BARRIER();
    load_sums(2, tiles, first, sums);
    for (uint32_t c = 0; c < b->columns; c += STEP) {
        bool whole = b->columns - c >= STEP;
        const uint8_t *x = a.first + 2 * c;
        _tile_loadd(4, whole ? b->weights[0] + COLUMN_BYTES * c : b->last[0], 64);
        _tile_loadd(6, x, a.stride);
        _tile_loadd(5, whole ? b->weights[1] + COLUMN_BYTES * c : b->last[1], 64);
        _tile_dpbf16ps(0, 6, 4);
        _tile_dpbf16ps(2, 6, 5);
        if (tiles > 1) {
            _tile_loadd(7, x + 16 * a.stride, a.stride);
            _tile_dpbf16ps(1, 7, 4);
            _tile_dpbf16ps(3, 7, 5);
        }
    }
    store_sums(2, tiles, sums);
    MEMORY_BARRIER();
}

/* All rows by one block of columns. Sums of whole tiles wait in out, of the last rows in rest. */
static void pair_rows(const struct pair_block *b, uint32_t column, const struct act_rows *rows,
                      bool even, float *const out[2], float rest[2][256])
{
    uint16_t copy[ROWS_PAIR * ACT_COLUMNS] __attribute__((aligned(64)));
    for (uint32_t m = 0; m < rows->n; m += ROWS_PAIR) {
        struct a_rows a = block_rows(rows, even, m, ROWS_PAIR, column / ACT_COLUMNS, copy);
        uint32_t n = rows->n - m < ROWS_PAIR ? rows->n - m : ROWS_PAIR;
        float *sums[2][2];
        place_sums(2, m, rows->n, out, rest, sums);
        if (n > 16)
            multiply_pair(2, a, b, column == 0, sums);
        else
            multiply_pair(1, a, b, column == 0, sums);
    }
}

void amx_dots_two_bf16(const uint8_t *const panels[2], uint32_t n_cols, const struct act_rows *rows,
                       float *const out[2])
{
    if (rows->n < ROWS_LEAST) {
        dots_rows(panels[0], n_cols, rows, out[0]);
        dots_rows(panels[1], n_cols, rows, out[1]);
        return;
    }
    struct pair_block block;
    float rest[2][256] __attribute__((aligned(64)));
    bool even = evenly_spaced(rows, sizeof(struct act_bf16));
    configure_tiles();
    for (uint32_t k = 0; k < n_cols; k += ACT_COLUMNS) {
        read_pair(panels, n_cols, k, &block);
        pair_rows(&block, k, rows, even, out, rest);
    }
    uint32_t left = rows->n % 16;
    for (uint32_t i = 0; i < 2; i++)
        memcpy(out[i] + PANEL_ROWS * (rows->n - left), rest[i],
               (size_t)left * PANEL_ROWS * sizeof *rest[i]);
}

#else
typedef int x86_amx_bf16_is_empty;
#endif
