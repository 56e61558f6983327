/*
 * Arithmetic peaks of the AMX tile unit. A process must ask the system for the tile registers once;
 * where that is refused the rate is 0 and the entry is dropped.
 *
 * Operands are as varied as those of real products: with zeros the unit draws less power, clocks a
 * quarter higher, and shows a rate that no matrix reaches.
 */
#ifdef __linux__
#define _GNU_SOURCE /* syscall */
#endif
#include "hw/peak.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

struct tile_shapes {
    uint8_t palette, start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* All eight tiles 16 rows of 64 bytes. */
static int configure(void)
{
    struct tile_shapes shapes = {.palette = 1};
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
        return 0;
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = 64;
        shapes.rows[i] = 16;
    }
    /* GCC 12 believes that the instruction reads 8 bytes only and drops the other stores. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    return 1;
}

/* 2 x 2 accumulators from 2 + 2 operands: every product uses an accumulator three others apart. */
#define ROUND(instruction)                                                                         \
    instruction(0, 4, 6);                                                                          \
    instruction(1, 4, 7);                                                                          \
    instruction(2, 5, 6);                                                                          \
    instruction(3, 5, 7)

/* Tiles 4..7 from a sequence of mixed numbers (splitmix64), of which only the bits in `kept` stay, with
 * those in `set` added. */
static void fill_tiles(uint64_t kept, uint64_t set)
{
    uint64_t words[4][128], seed = 1;
    for (int i = 0; i < 4 * 128; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        words[i / 128][i % 128] = ((z ^ z >> 31) & kept) | set;
    }
    __asm__ volatile("" ::"r"(words) : "memory"); /* tile instructions do not say what they read */
    _tile_loadd(4, words[0], 64);
    _tile_loadd(5, words[1], 64);
    _tile_loadd(6, words[2], 64);
    _tile_loadd(7, words[3], 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

double peak_amx_int8(uint64_t rounds)
{
    if (!configure())
        return 0;
    fill_tiles(~(uint64_t)0, 0);
    for (uint64_t r = 0; r < rounds; r++) {
        ROUND(_tile_dpbssd);
    }
    _tile_release();
    return (double)rounds * 4 * 16 * 16 * 64 * 2;
}

double peak_amx_bf16(uint64_t rounds)
{
    if (!configure())
        return 0;
    /* Signs and mantissas of bfloat16 at random, magnitudes from 1/16 to 1/8. */
    fill_tiles(0x807f807f807f807fu, 0x3d803d803d803d80u);
    for (uint64_t r = 0; r < rounds; r++) {
        ROUND(_tile_dpbf16ps);
    }
    _tile_release();
    return (double)rounds * 4 * 16 * 16 * 32 * 2;
}
#else
typedef int peak_amx_is_empty;
#endif
