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

/* All tiles: 16 rows of 64 bytes. Loading and releasing the configuration takes ten microseconds where a hypervisor is below, so that
 * tiles stay configured until the thread rests. XINUSE tells, whoever used tiles meanwhile. */
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

/* x86_amx_bf16.c */
act_quantise amx_quantise;
void amx_dots_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows, float *out);

#endif
