/*
 * Types of our own for matrices that folders store as codes and separate scales (format/repack.h
 * makes them): 32 values and float32 numbers, so that no scale is rounded.
 *
 *   AFFINE8         40 bytes: d, m (f32), 32 bytes          value = d * q + m
 *   F8_E4M3_SCALED  36: d (f32), 32 E4M3 floats             value = d * f;    F8_E5M2_SCALED likewise
 */
#include <string.h>

#include "quant/formats.h"
#include "quant/tensor_type.h"

#define BLOCK 32

static float load_float(const uint8_t *bytes)
{
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

void decode_affine8(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 8 + BLOCK, values += BLOCK) {
        float d = load_float(block), m = load_float(block + 4);
        for (int i = 0; i < BLOCK; i++)
            values[i] = d * (float)block[8 + i] + m;
    }
}

void decode_f8_e4m3_scaled(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 4 + BLOCK, values += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            values[i] = load_float(block) * f8_e4m3_to_f32(block[4 + i]);
}

void decode_f8_e5m2_scaled(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 4 + BLOCK, values += BLOCK)
        for (int i = 0; i < BLOCK; i++)
            values[i] = load_float(block) * f8_e5m2_to_f32(block[4 + i]);
}
