/*
 * AMX bf16: prompt rows times packed matrices of every quantised type.
 *
 * The exact kernels (x86_amx.c, x86_amx_32.c) spend most of their time beside the tile unit: two
 * planes of bytes double the products, and integer sums become floats every 32 or 256 columns. Here
 * weights become bfloat16 (x86_amx_unpack.h), activations are rounded to it, and tiles sum floats over
 * all columns as TDPBF16PS defines it (x86_amx_bf16.c says how): a numeric class of its own. Its error
 * is below half of that of int8 activations, since what is rounded keeps its own exponent.
 *
 * Per block of 256 columns, two panels are unpacked to 16 KiB of tiles, which all rows meet, 32 at a
 * time: two tiles of activations by two of weights, so that every tile loaded serves two products.
 * Then the next two panels take their place, and all panels of a call pass before the next block of
 * columns: rows come from the level-2 cache, and from further away once for all panels. Sums wait in
 * memory from block to block as they are. Tiles of few rows are filled with zeros: the bits of a row
 * are the same whatever their number.
 */
#if defined(__AMX_BF16__) && defined(__AVX512VNNI__) && defined(__linux__)

#include "backend/cpu/x86_amx.h"

#include "backend/cpu/x86_amx_unpack.h"

#define ROWS        32                           /* together */
#define TILES       (ACT_COLUMNS / TILE_COLUMNS) /* of a block of one panel */
#define BLOCK_BYTES (TILES * TILE_BYTES)
#define APART       ((long)sizeof(struct act_bf16_tiles)) /* rows of activations */

/* What differs from type to type. */
struct prompt_type {
    uint32_t bytes; /* of 256 columns of a panel */
    /* Before the tiles of a block; NULL where a scale per 32 columns needs nothing. */
    void (*scales)(const uint8_t *block, struct prompt_scales *out);
    /* Columns 64 * pair .. + 64, or `columns` if these are fewer, as one tile or two. */
    void (*unpack)(const uint8_t *block, const struct prompt_scales *s, uint32_t pair,
                   uint32_t columns, uint8_t *tiles);
};

/* ---- weights ----------------------------------------------------------------------------------- */

/* A block of columns (256, fewer at the end of a panel) of a panel or two. */
struct block {
    const struct prompt_type *type;
    uint32_t n_panels, columns;
    const uint8_t *packed[2];
    struct prompt_scales scales[2];
    uint8_t *tiles; /* [2][BLOCK_BYTES] */
};

/* Block i of a product, whose blocks are ordered by columns, then by panels. */
static struct block *block_at(const struct prompt_type *t, const uint8_t *const *panels,
                              uint32_t n_panels, uint32_t n_cols, uint32_t i, struct block *out)
{
    uint32_t pairs = (n_panels + 1) / 2, b = i / pairs, first = i % pairs * 2;
    uint32_t left = n_cols - b * ACT_COLUMNS;
    out->type = t;
    out->n_panels = n_panels - first < 2 ? 1 : 2;
    out->columns = left < ACT_COLUMNS ? left : ACT_COLUMNS;
    for (uint32_t p = 0; p < out->n_panels; p++)
        out->packed[p] = panels[first + p] + (size_t)b * t->bytes;
    return out;
}

/* Two tiles of each panel: columns 64 * pair on, in turn from 0. */
static void unpack_some(struct block *b, uint32_t pair)
{
    if (pair * 2 * TILE_COLUMNS >= b->columns)
        return;
    for (uint32_t p = 0; p < b->n_panels; p++) {
        if (pair == 0) {
            prefetch_block(b->packed[p], b->type->bytes);
            if (b->type->scales)
                b->type->scales(b->packed[p], &b->scales[p]);
        }
        b->type->unpack(b->packed[p], &b->scales[p], pair, b->columns - pair * 2 * TILE_COLUMNS,
                        b->tiles + BLOCK_BYTES * p + 2 * TILE_BYTES * pair);
    }
}

/* ---- activations --------------------------------------------------------------------------------- */

/* A block of columns of all rows: the first n_body lie at equal distances, the others are copied, with
 * zeros to fill a tile. */
struct acts {
    const uint8_t *body;
    uint32_t n_body;
    struct act_bf16_tiles *copy; /* [ACT_ROWS_MAX] */
};

static void acts_at(const struct act_rows *rows, uint32_t b, bool even, struct acts *out)
{
    out->body = act_at(rows, 0, b);
    out->n_body = !even ? 0 : rows->n % 16 == 0 ? rows->n : rows->n / ROWS * ROWS;
    for (uint32_t m = out->n_body; m < (rows->n + 15) / 16 * 16; m++)
        if (m < rows->n)
            memcpy(out->copy[m - out->n_body].q, act_at(rows, m, b), sizeof out->copy->q);
        else
            memset(out->copy[m - out->n_body].q, 0, sizeof out->copy->q);
}

/* Rows from m on, sizeof(struct act_bf16_tiles) apart. */
INLINE const uint8_t *acts_from(const struct acts *x, uint32_t m)
{
    if (m < x->n_body)
        return x->body + sizeof(struct act_bf16_tiles) * m;
    return (const uint8_t *)(x->copy + (m - x->n_body));
}

/* ---- products ------------------------------------------------------------------------------------ */

/* 16 * tiles rows by `panels` panels (1 or 2, constants); sums[panel][tile]: where they wait. As soon
 * as a tile of weights is read for the last time, one of the next block takes its place: that work and
 * the tile unit's overlap, and no more of the level-1 cache is used. */
INLINE void multiply(uint32_t panels, uint32_t tiles, const uint8_t *rows, const struct block *b,
                     bool first, float *const sums[2][2], struct block *next)
{
    MEMORY_BARRIER();
    load_sums(panels, tiles, first, sums);
    for (uint32_t i = 0; i * TILE_COLUMNS < b->columns; i++) {
        const uint8_t *x = rows + 2 * TILE_COLUMNS * i, *w = b->tiles + TILE_BYTES * i;
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, APART);
        _tile_dpbf16ps(0, 6, 4);
        if (panels > 1) {
            _tile_loadd(5, w + BLOCK_BYTES, 64);
            _tile_dpbf16ps(2, 6, 5);
        }
        if (tiles > 1) {
            _tile_loadd(7, x + 16 * APART, APART);
            _tile_dpbf16ps(1, 7, 4);
        }
        if (panels > 1 && tiles > 1)
            _tile_dpbf16ps(3, 7, 5);
        if (next && (i % 2 || (i + 1) * TILE_COLUMNS >= b->columns)) {
            MEMORY_BARRIER();
            unpack_some(next, i / 2);
            MEMORY_BARRIER();
        }
    }
    store_sums(panels, tiles, sums);
    MEMORY_BARRIER();
}

/* All rows by one block of weights. Sums of whole tiles wait in out, of the last rows in rest. */
INLINE void block_dots(uint32_t panels, const struct block *b, bool first, const struct acts *x,
                       uint32_t n_rows, float *const *out, float rest[2][256], struct block *next)
{
    for (uint32_t m = 0; m < n_rows; m += ROWS) {
        uint32_t n = n_rows - m < ROWS ? n_rows - m : ROWS;
        float *sums[2][2];
        place_sums(panels, m, n_rows, out, rest, sums);
        struct block *then = m + ROWS >= n_rows ? next : NULL;
        if (n > 16)
            multiply(panels, 2, acts_from(x, m), b, first, sums, then);
        else
            multiply(panels, 1, acts_from(x, m), b, first, sums, then);
    }
}

static void dots_many_of(const struct prompt_type *t, const uint8_t *const *panels,
                         uint32_t n_panels, uint32_t n_cols, const struct act_rows *rows,
                         float *const *out)
{
    uint8_t tiles[2 * BLOCK_BYTES] __attribute__((aligned(64)));
    float rest[KERNEL_PANELS][256] __attribute__((aligned(64)));
    struct act_bf16_tiles copy[ACT_ROWS_MAX] __attribute__((aligned(64)));
    struct block blocks[2];
    struct acts x = {.copy = copy};
    bool even = evenly_spaced(rows, sizeof(struct act_bf16_tiles));
    uint32_t pairs = (n_panels + 1) / 2, n_blocks = act_blocks(n_cols) * pairs;
    blocks[0].tiles = blocks[1].tiles = tiles;
    configure_tiles();
    block_at(t, panels, n_panels, n_cols, 0, &blocks[0]);
    for (uint32_t pair = 0; pair < TILES / 2; pair++)
        unpack_some(&blocks[0], pair);
    for (uint32_t i = 0; i < n_blocks; i++) {
        struct block *b = &blocks[i % 2], *next = NULL;
        uint32_t p = i % pairs * 2;
        if (i + 1 < n_blocks)
            next = block_at(t, panels, n_panels, n_cols, i + 1, &blocks[(i + 1) % 2]);
        if (p == 0)
            acts_at(rows, i / pairs, even, &x);
        if (b->n_panels > 1)
            block_dots(2, b, i < pairs, &x, rows->n, out + p, rest + p, next);
        else
            block_dots(1, b, i < pairs, &x, rows->n, out + p, rest + p, next);
    }
    uint32_t left = rows->n % 16;
    for (uint32_t i = 0; i < n_panels; i++)
        memcpy(out[i] + PANEL_ROWS * (rows->n - left), rest[i],
               (size_t)left * PANEL_ROWS * sizeof *rest[i]);
}

/* ---- the types ----------------------------------------------------------------------------------- */

#define UNPACK_256(name, type, words, mask)                                                        \
    static void prepare_##name(const uint8_t *block, struct prompt_scales *out)                    \
    {                                                                                              \
        prompt_scales_256((struct type_256)type, block, out);                                      \
    }                                                                                              \
    static void unpack_##name(const uint8_t *block, const struct prompt_scales *s, uint32_t pair,  \
                              uint32_t columns, uint8_t *out)                                      \
    {                                                                                              \
        (void)columns;                                                                             \
        if (words == WORDS_NIBBLES)                                                                \
            unpack_pair_256((struct type_256)type, words, mask, block, s, pair, out);              \
        else if (pair == 0)                                                                        \
            unpack_pair_256((struct type_256)type, words, mask, block, s, 0, out);                 \
        else if (pair == 1)                                                                        \
            unpack_pair_256((struct type_256)type, words, mask, block, s, 1, out);                 \
        else if (pair == 2)                                                                        \
            unpack_pair_256((struct type_256)type, words, mask, block, s, 2, out);                 \
        else                                                                                       \
            unpack_pair_256((struct type_256)type, words, mask, block, s, 3, out);                 \
    }                                                                                              \
    KERNELS(name, ((struct type_256)type).bytes, prepare_##name)

#define UNPACK_32(name, type, words, mask)                                                         \
    static void unpack_##name(const uint8_t *block, const struct prompt_scales *s, uint32_t pair,  \
                              uint32_t columns, uint8_t *out)                                      \
    {                                                                                              \
        const struct type_32 t = type;                                                             \
        (void)s;                                                                                   \
        for (uint32_t i = 0; i < 2 && i * TILE_COLUMNS < columns; i++)                             \
            unpack_32((struct type_32)type, words, mask, block + (2 * pair + i) * t.bytes,         \
                      out + TILE_BYTES * i);                                                       \
    }                                                                                              \
    KERNELS(name, TILES *((struct type_32)type).bytes, NULL)

#define KERNELS(name, bytes, scales)                                                               \
    static void many_##name(const uint8_t *const *panels, uint32_t n_panels, uint32_t n_cols,      \
                            const struct act_rows *rows, float *const *out)                        \
    {                                                                                              \
        const struct prompt_type type = {bytes, scales, unpack_##name};                            \
        dots_many_of(&type, panels, n_panels, n_cols, rows, out);                                  \
    }                                                                                              \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        many_##name(&panel, 1, n_cols, rows, &out);                                                \
    }

UNPACK_256(q4_k, TYPE_Q4_K, WORDS_NIBBLES, 4)
UNPACK_256(q5_k, LOOSE_Q5_K, WORDS_BYTES, 31)
UNPACK_256(q6_k, LOOSE_Q6_K, WORDS_BYTES, 63)
UNPACK_256(q2_k, LOOSE_Q2_K, WORDS_BYTES, 3)
UNPACK_256(q3_k, LOOSE_Q3_K, WORDS_BYTES, 7)
UNPACK_256(iq4_xs, TYPE_IQ4_XS, WORDS_WIDE_BYTES, 0)
UNPACK_32(q8_0, LOOSE_Q8_0, WORDS_WIDE_BYTES, 0x80)
UNPACK_32(q4_0, TYPE_Q4_0, WORDS_NIBBLES, 0)
UNPACK_32(q4_1, TYPE_Q4_1, WORDS_NIBBLES, 1)
UNPACK_32(q5_0, TYPE_Q5_0, WORDS_BYTES, 31)
UNPACK_32(q5_1, TYPE_Q5_1, WORDS_BYTES, 31)
UNPACK_32(iq4_nl, TYPE_IQ4_NL, WORDS_WIDE_BYTES, 0)
UNPACK_32(mxfp4, TYPE_MXFP4, WORDS_BYTES, 31)

/* Weights in tile order already; zeros past the end of the panel. */
static void unpack_bf16(const uint8_t *block, const struct prompt_scales *s, uint32_t pair,
                        uint32_t columns, uint8_t *out)
{
    size_t bytes = 2 * PANEL_ROWS * (columns < 2 * TILE_COLUMNS ? columns : 2 * TILE_COLUMNS);
    (void)s;
    memcpy(out, block + 2 * TILE_BYTES * pair, bytes);
    memset(out + bytes, 0, 2 * TILE_BYTES - bytes);
}
KERNELS(bf16, 2 * PANEL_ROWS * ACT_COLUMNS, NULL)

const struct packed_kernel amx_prompt_kernels[AMX_PROMPT_KERNELS] = {
    {"amx q4_K x bf16", TENSOR_Q4_K, ACT_BF16_TILES, dots_q4_k},
    {"amx q5_K x bf16", TENSOR_Q5_K, ACT_BF16_TILES, dots_q5_k},
    {"amx q6_K x bf16", TENSOR_Q6_K, ACT_BF16_TILES, dots_q6_k},
    {"amx q2_K x bf16", TENSOR_Q2_K, ACT_BF16_TILES, dots_q2_k},
    {"amx q3_K x bf16", TENSOR_Q3_K, ACT_BF16_TILES, dots_q3_k},
    {"amx iq4_xs x bf16", TENSOR_IQ4_XS, ACT_BF16_TILES, dots_iq4_xs},
    {"amx q8_0 x bf16", TENSOR_Q8_0, ACT_BF16_TILES, dots_q8_0},
    {"amx q4_0 x bf16", TENSOR_Q4_0, ACT_BF16_TILES, dots_q4_0},
    {"amx q4_1 x bf16", TENSOR_Q4_1, ACT_BF16_TILES, dots_q4_1},
    {"amx q5_0 x bf16", TENSOR_Q5_0, ACT_BF16_TILES, dots_q5_0},
    {"amx q5_1 x bf16", TENSOR_Q5_1, ACT_BF16_TILES, dots_q5_1},
    {"amx iq4_nl x bf16", TENSOR_IQ4_NL, ACT_BF16_TILES, dots_iq4_nl},
    {"amx mxfp4 x bf16", TENSOR_MXFP4, ACT_BF16_TILES, dots_mxfp4},
    {"amx bf16 x bf16 of prompts", TENSOR_BF16, ACT_BF16_TILES, dots_bf16},
};

const struct many_kernel amx_many_kernels[AMX_PROMPT_KERNELS] = {
    {TENSOR_Q4_K, many_q4_k},   {TENSOR_Q5_K, many_q5_k}, {TENSOR_Q6_K, many_q6_k},
    {TENSOR_Q2_K, many_q2_k},   {TENSOR_Q3_K, many_q3_k}, {TENSOR_IQ4_XS, many_iq4_xs},
    {TENSOR_Q8_0, many_q8_0},   {TENSOR_Q4_0, many_q4_0}, {TENSOR_Q4_1, many_q4_1},
    {TENSOR_Q5_0, many_q5_0},   {TENSOR_Q5_1, many_q5_1}, {TENSOR_IQ4_NL, many_iq4_nl},
    {TENSOR_MXFP4, many_mxfp4}, {TENSOR_BF16, many_bf16},
};

#else
typedef int x86_amx_prompt_is_empty;
#endif
