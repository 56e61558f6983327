/* What the AMX kernel files share: the state of the tile unit, and where rows of activations lie. */
#ifndef SLUICE_BACKEND_CPU_X86_AMX_H
#define SLUICE_BACKEND_CPU_X86_AMX_H

#include "backend/cpu/x86_avx512.h"

/* Tile instructions do not tell the compiler what memory they read. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

struct tile_shapes {
    uint8_t palette, start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* All tiles: 16 rows of 64 bytes. Loading and releasing the configuration takes ten microseconds
 * where a hypervisor is below, so that tiles stay configured until the thread rests. XINUSE tells,
 * whoever used tiles meanwhile. */
__attribute__((target("xsave"))) static inline bool tiles_in_use(void)
{
    return _xgetbv(1) >> 17 & 1;
}

static inline void configure_tiles(void)
{
    if (tiles_in_use())
        return;
    struct tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = 64;
        shapes.rows[i] = 16;
    }
    /* GCC 12 believes that the instruction reads 8 bytes only and drops the other stores. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}

/* Whether the blocks of all rows lie `apart` bytes after each other. */
static inline bool evenly_spaced(const struct act_rows *rows, size_t apart)
{
    for (uint32_t i = 1; i < rows->n; i++)
        if ((const uint8_t *)rows->x[i] != (const uint8_t *)rows->x[0] + i * apart)
            return false;
    return true;
}

/* Tiles 0..3 of floats, of 16 * tiles rows by `panels` panels (1 or 2 each, constants): zeros at first,
 * later what waits at sums[panel][tile]. */
INLINE void load_sums(uint32_t panels, uint32_t tiles, bool first, float *const sums[2][2])
{
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, sums[0][0], 64);
    if (tiles > 1)
        _tile_loadd(1, sums[0][1], 64);
    if (panels > 1)
        _tile_loadd(2, sums[1][0], 64);
    if (panels > 1 && tiles > 1)
        _tile_loadd(3, sums[1][1], 64);
}

INLINE void store_sums(uint32_t panels, uint32_t tiles, float *const sums[2][2])
{
    _tile_stored(0, sums[0][0], 64);
    if (tiles > 1)
        _tile_stored(1, sums[0][1], 64);
    if (panels > 1)
        _tile_stored(2, sums[1][0], 64);
    if (panels > 1 && tiles > 1)
        _tile_stored(3, sums[1][1], 64);
}

/* Where the sums of rows m .. m + 32 of n_rows wait: those of whole tiles in out, of the last rows in
 * rest. */
static inline void place_sums(uint32_t panels, uint32_t m, uint32_t n_rows, float *const *out,
                              float rest[][256], float *sums[2][2])
{
    for (uint32_t i = 0; i < panels; i++)
        for (uint32_t t = 0; t < 2; t++)
            sums[i][t] = n_rows - m >= 16 * (t + 1) ? out[i] + PANEL_ROWS * (m + 16 * t) : rest[i];
}

/* 16 rows of int8 activations: where, and how far apart. */
struct a_tile {
    const uint8_t *rows;
    long stride;
};

/* Rows m .. m + 16 of block b (struct act_256 or act_32) for a tile: in place where they lie at equal
 * distances, as rows of one operation do, else copied (experts' rows; the end of a batch). copy:
 * [16][ACT_COLUMNS]. */
static inline struct a_tile rows_tile(const struct act_rows *rows, bool even, uint32_t m,
                                      uint32_t b, uint8_t *copy)
{
    _Static_assert(sizeof(struct act_256) == sizeof(struct act_32), "one stride for both");
    uint32_t n = rows->n - m < 16 ? rows->n - m : 16;
    if (even && n == 16)
        return (struct a_tile){act_at(rows, m, b), sizeof(struct act_256)};
    for (uint32_t i = 0; i < 16; i++)
        if (i < n)
            memcpy(copy + ACT_COLUMNS * i, act_at(rows, m + i, b), ACT_COLUMNS);
        else
            memset(copy + ACT_COLUMNS * i, 0, ACT_COLUMNS);
    return (struct a_tile){copy, ACT_COLUMNS};
}

#define AMX_KERNEL(name)                                                                           \
    void amx_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,       \
                         float *out)
/* x86_amx_32.c */
AMX_KERNEL(q8_0);
AMX_KERNEL(q4_0);
AMX_KERNEL(q4_1);
AMX_KERNEL(q5_0);
AMX_KERNEL(q5_1);
AMX_KERNEL(iq4_nl);
AMX_KERNEL(mxfp4);
/* x86_amx_bf16.c */
AMX_KERNEL(bf16);
#undef AMX_KERNEL
/* x86_amx_prompt.c */
#define AMX_PROMPT_KERNELS 14
extern const struct packed_kernel amx_prompt_kernels[AMX_PROMPT_KERNELS];
extern const struct many_kernel amx_many_kernels[AMX_PROMPT_KERNELS];
dots_two amx_dots_two_bf16;
act_quantise amx_quantise;

#endif
