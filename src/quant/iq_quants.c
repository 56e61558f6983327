/*
 * The IQ types: groups of 8 (or 4) magnitudes are entries of a fixed table ("grid"), signs and small
 * scales stand beside. A block has 256 values in eight sub-blocks of 32; sub-block i, group l of 8:
 *
 *   IQ2_XXS  66 bytes: d (f16); per sub-block 4 bytes of grid indices and a 32-bit word: four times
 *            7 bits of signs, 4 bits of scale.            value = d * (scale + 1/2) / 4 * +-grid
 *   IQ2_XS   74: d; 32 words of 9 bits grid index and 7 bits of signs; 8 bytes, each the scales of
 *            the two halves of a sub-block.               as IQ2_XXS
 *   IQ2_S    82: d; 32 low bytes of indices; 32 bytes of signs; 8 bytes of two upper index bits for
 *            each group; 8 bytes of scales as in IQ2_XS.
 *   IQ3_XXS  98: d; 64 indices of four values each; 8 words as in IQ2_XXS.
 *                                                         value = d * (scale + 1/2) / 2 * +-grid
 *   IQ3_S    110: d; 64 low bytes of indices; 8 bytes of one upper bit for each; 32 bytes of signs;
 *            8 nibbles of scales.                         value = d * (2 * scale + 1) * +-grid
 *   IQ1_S    50: d; 32 low bytes of indices; 8 words: four times three upper index bits, three bits
 *            of scale, the sign of delta.       value = d * (2 * scale + 1) * (grid +- 1/8)
 *   IQ1_M    56: 32 low bytes; 16 bytes of nibbles, each three upper index bits and the sign of
 *            delta; 4 words of four 3-bit scales (for 16 values), whose top nibbles are d.
 *
 * Seven bits of signs are the first seven; the eighth makes the number of minus signs even.
 */
#include <string.h>

#include "quant/formats.h"
#include "quant/grids.h"
#include "quant/tensor_type.h"

#define BLOCK 256

static uint32_t load_u32(const uint8_t *bytes)
{
    return load_u16(bytes) | (uint32_t)load_u16(bytes + 2) << 16;
}

/* Eight signs from seven. */
static uint32_t even_signs(uint32_t seven)
{
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

static const uint8_t levels_2[4] = {8, 25, 43, 0};
static const uint8_t levels_3xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};

/* Eight values of a grid with 2-bit codes. */
static void put_eight(uint16_t codes, float scale, uint32_t signs, float *values)
{
    for (int j = 0; j < 8; j++) {
        float value = scale * (float)levels_2[codes >> (2 * j) & 3];
        values[j] = signs >> j & 1 ? -value : value;
    }
}

void decode_iq2_xxs(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 66) {
        float d = load_scale(block);
        for (int i = 0; i < 8; i++) {
            const uint8_t *indices = block + 2 + 8 * i;
            uint32_t word = load_u32(indices + 4);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++, values += 8)
                put_eight(grid_iq2_xxs[indices[l]], scale, even_signs(word >> (7 * l) & 127),
                          values);
        }
    }
}

void decode_iq2_xs(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 74) {
        float d = load_scale(block);
        for (int g = 0; g < 32; g++, values += 8) {
            uint32_t word = load_u16(block + 2 + 2 * g);
            float scale = d * (0.5f + (float)(block[66 + g / 4] >> (g / 2 % 2 * 4) & 15)) * 0.25f;
            put_eight(grid_iq2_xs[word & 511], scale, even_signs(word >> 9), values);
        }
    }
}

void decode_iq2_s(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 82) {
        const uint8_t *low = block + 2, *signs = block + 34, *high = block + 66;
        float d = load_scale(block);
        for (int g = 0; g < 32; g++, values += 8) {
            uint32_t index = low[g] | (uint32_t)(high[g / 4] >> (g % 4 * 2) & 3) << 8;
            float scale = d * (0.5f + (float)(block[74 + g / 4] >> (g / 2 % 2 * 4) & 15)) * 0.25f;
            put_eight(grid_iq2_s[index], scale, signs[g], values);
        }
    }
}

void decode_iq3_xxs(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 98) {
        float d = load_scale(block);
        for (int i = 0; i < 8; i++) {
            uint32_t word = load_u32(block + 66 + 4 * i);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
            for (int k = 0; k < 32; k++, values++) {
                uint16_t codes = grid_iq3_xxs[block[2 + 8 * i + k / 4]];
                uint32_t signs = even_signs(word >> (7 * (k / 8)) & 127);
                float value = scale * (float)levels_3xxs[codes >> (3 * (k % 4)) & 7];
                *values = signs >> k % 8 & 1 ? -value : value;
            }
        }
    }
}

void decode_iq3_s(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 110) {
        const uint8_t *low = block + 2, *high = block + 66, *signs = block + 74;
        float d = load_scale(block);
        for (int k = 0; k < BLOCK; k++, values++) {
            int group = k / 4, nibble = block[106 + k / 64] >> (k / 32 % 2 * 4) & 15;
            uint32_t index = low[group] | (uint32_t)(high[group / 8] >> group % 8 & 1) << 8;
            float scale = d * (float)(1 + 2 * nibble);
            float value = scale * (float)(1 + 2 * (grid_iq3_s[index] >> (3 * (k % 4)) & 7));
            *values = signs[k / 8] >> k % 8 & 1 ? -value : value;
        }
    }
}

#define DELTA 0.125f

static void put_ternary(uint16_t codes, float scale, float delta, float *values)
{
    for (int j = 0; j < 8; j++)
        values[j] = scale * ((float)((int)(codes >> (2 * j) & 3) - 1) + delta);
}

void decode_iq1_s(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 50) {
        float d = load_scale(block);
        for (int g = 0; g < 32; g++, values += 8) {
            uint32_t word = load_u16(block + 34 + 2 * (g / 4));
            uint32_t index = block[2 + g] | (word >> (3 * (g % 4)) & 7) << 8;
            float scale = d * (float)(2 * (word >> 12 & 7) + 1);
            put_ternary(grid_iq1_s[index], scale, word & 0x8000 ? -DELTA : DELTA, values);
        }
    }
}

void decode_iq1_m(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 56) {
        uint32_t d_bits = 0;
        for (int i = 0; i < 4; i++)
            d_bits |= load_u16(block + 48 + 2 * i) >> 12 << (4 * i);
        float d = f16_to_f32((uint16_t)d_bits);
        for (int g = 0; g < 32; g++, values += 8) {
            uint32_t nibble = block[32 + g / 2] >> (g % 2 * 4) & 15;
            uint32_t word = load_u16(block + 48 + 2 * (g / 8));
            float scale = d * (float)(2 * (word >> (3 * (g / 2 % 4)) & 7) + 1);
            put_ternary(grid_iq1_s[block[g] | (nibble & 7) << 8], scale,
                        nibble & 8 ? -DELTA : DELTA, values);
        }
    }
}
