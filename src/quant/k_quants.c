/*
 * K-quants: 256 values in sub-blocks with small integer scales under one float16 scale.
 *
 *   Q2_K  84 bytes: 16 bytes, each a 4-bit scale (low half) and a 4-bit minimum of 16 values;
 *         64 bytes of bit pairs; d, dmin (f16). Two halves of 128 values: value 32k+l of a half is
 *         the pair at bit 2k of the half's byte l.      value = d * scale * q - dmin * min
 *   Q3_K  110 bytes: 32 bytes of top bits, bit j of byte l for value 32j+l; 64 bytes of bit pairs as
 *         in Q2_K; 12 bytes of sixteen 6-bit scales; d (f16).
 *                                      value = d * (scale[16 values] - 32) * (q - 4)
 *   Q4_K  144 bytes: d, dmin (f16); 12 bytes of eight 6-bit scales and eight 6-bit minima;
 *         128 bytes of nibbles. Sub-blocks of 32: 2k are the low, 2k+1 the high nibbles of
 *         bytes 32k..32k+31.           value = d * scale * q - dmin * min
 *   Q5_K  176 bytes: Q4_K with 32 bytes of top bits before the nibbles: bit j of byte l for value l
 *         of sub-block j.
 *   Q6_K  210 bytes: 128 bytes low nibbles, 64 bytes of upper bit pairs, 16 int8 scales, d (f16).
 *         Two halves of 128 values: in a half, value 32k+l takes its nibble from byte l or l+32
 *         (k odd), low half of the byte for k < 2, and bits 2k of upper byte l.
 *                                      value = d * scale[16 values] * (q - 32)
 *
 * The formats say how a block decodes; how to choose its numbers is the encoder's business (fit.c).
 */
#include <stdint.h>
#include <string.h>

#include "quant/fit.h"
#include "quant/formats.h"
#include "quant/tensor_type.h"

#define BLOCK 256

/* The weights of block b, where there are any. */
static const float *weights_at(const float *weights, size_t b)
{
    return weights ? weights + b * BLOCK : NULL;
}

/* ---- bit pairs --------------------------------------------------------------------------------- */

/* Bits 2k of byte l of half h: value i = 128h + 32k + l. */
static int pair_at(const uint8_t *pairs, int i)
{
    return pairs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

/* Into zeroed bytes. */
static void put_pair(uint8_t *pairs, int i, int value)
{
    pairs[i / 128 * 32 + i % 32] |= (uint8_t)(value << (i % 128 / 32 * 2));
}

/* ---- Q2_K -------------------------------------------------------------------------------------- */

void decode_q2_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 84, values += BLOCK) {
        float d = load_scale(block + 80), dmin = load_scale(block + 82);
        for (int i = 0; i < BLOCK; i++) {
            uint8_t both = block[i / 16];
            float s = d * (float)(both & 15), m = dmin * (float)(both >> 4);
            values[i] = s * (float)pair_at(block + 16, i) - m;
        }
    }
}

void encode_q2_k(const float *values, const float *weights, void *blocks, size_t n)
{
    static const struct affine_shape shape = {.parts = 16, .top = 3, .most = 15};
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 84) {
        struct affine_block fitted;
        fit_affine(&shape, values + b * BLOCK, weights_at(weights, b), &fitted);
        memset(block, 0, 84);
        for (int p = 0; p < 16; p++)
            block[p] = (uint8_t)(fitted.scale[p] | fitted.min[p] << 4);
        for (int i = 0; i < BLOCK; i++)
            put_pair(block + 16, i, fitted.q[i]);
        store_u16(block + 80, fitted.d);
        store_u16(block + 82, fitted.dmin);
    }
}

/* ---- Q3_K -------------------------------------------------------------------------------------- */

/* Scale j of sixteen: four bits from the nibbles of the first eight bytes, two from the last four. */
static int scale_of_sixteen(const uint8_t *packed, int j)
{
    int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
    return (low | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
}

static void put_scale_of_sixteen(uint8_t *packed, int j, int scale)
{
    int raw = scale + 32;
    packed[j % 8] |= (uint8_t)((raw & 15) << (j / 8 * 4));
    packed[8 + j % 4] |= (uint8_t)(raw >> 4 << (j / 4 * 2));
}

void decode_q3_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 110, values += BLOCK) {
        float d = load_scale(block + 108);
        for (int i = 0; i < BLOCK; i++) {
            int top = block[i % 32] >> (i / 32) & 1;
            int q = pair_at(block + 32, i) | top << 2;
            values[i] = d * (float)scale_of_sixteen(block + 96, i / 16) * (float)(q - 4);
        }
    }
}

void encode_q3_k(const float *values, const float *weights, void *blocks, size_t n)
{
    static const struct symmetric_shape shape = {.half = 4, .most = 32};
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 110) {
        struct symmetric_block fitted;
        fit_symmetric(&shape, values + b * BLOCK, weights_at(weights, b), &fitted);
        memset(block, 0, 110);
        for (int i = 0; i < BLOCK; i++) {
            int q = fitted.q[i] + 4;
            block[i % 32] |= (uint8_t)(q >> 2 << (i / 32));
            put_pair(block + 32, i, q & 3);
        }
        for (int p = 0; p < 16; p++)
            put_scale_of_sixteen(block + 96, p, fitted.scale[p]);
        store_u16(block + 108, fitted.d);
    }
}

/* ---- Q4_K, Q5_K -------------------------------------------------------------------------------- */

/* Scale and minimum j of the 12 packed bytes: the first four are the low six bits of bytes j and
 * j+4; the last four take four bits from byte j+4 and two from the tops of earlier bytes. */
static void packed_scale(const uint8_t *packed, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *min = packed[j + 4] & 63;
    } else {
        *scale = (uint8_t)((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4);
        *min = (uint8_t)((packed[j + 4] >> 4) | (packed[j] >> 6) << 4);
    }
}

/* Into zeroed bytes. */
static void put_packed_scale(uint8_t *packed, int j, uint8_t scale, uint8_t min)
{
    if (j < 4) {
        packed[j] |= scale;
        packed[j + 4] |= min;
    } else {
        packed[j + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
        packed[j - 4] |= (uint8_t)(scale >> 4 << 6);
        packed[j] |= (uint8_t)(min >> 4 << 6);
    }
}

/* `tops`: the top bits, or NULL where there are none. */
static void decode_eight(const uint8_t *block, const uint8_t *tops, const uint8_t *nibbles,
                         float *values)
{
    float d = load_scale(block), dmin = load_scale(block + 2);
    for (int j = 0; j < 8; j++) {
        uint8_t scale, min;
        packed_scale(block + 4, j, &scale, &min);
        float s = d * (float)scale, m = dmin * (float)min;
        const uint8_t *low = nibbles + 32 * (j / 2);
        for (int i = 0; i < 32; i++) {
            int q = j % 2 ? low[i] >> 4 : low[i] & 15;
            if (tops)
                q |= (tops[i] >> j & 1) << 4;
            values[32 * j + i] = s * (float)q - m;
        }
    }
}

static void store_eight(const struct affine_block *fitted, uint8_t *block, uint8_t *tops,
                        uint8_t *nibbles)
{
    store_u16(block, fitted->d);
    store_u16(block + 2, fitted->dmin);
    for (int j = 0; j < 8; j++) {
        put_packed_scale(block + 4, j, fitted->scale[j], fitted->min[j]);
        for (int i = 0; i < 32; i++) {
            uint8_t q = fitted->q[32 * j + i];
            nibbles[32 * (j / 2) + i] |= (uint8_t)((q & 15) << (j % 2 * 4));
            if (tops)
                tops[i] |= (uint8_t)(q >> 4 << j);
        }
    }
}

void decode_q4_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 144, values += BLOCK)
        decode_eight(block, NULL, block + 16, values);
}

void encode_q4_k(const float *values, const float *weights, void *blocks, size_t n)
{
    static const struct affine_shape shape = {.parts = 8, .top = 15, .most = 63};
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 144) {
        struct affine_block fitted;
        fit_affine(&shape, values + b * BLOCK, weights_at(weights, b), &fitted);
        memset(block, 0, 144);
        store_eight(&fitted, block, NULL, block + 16);
    }
}

void decode_q5_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 176, values += BLOCK)
        decode_eight(block, block + 16, block + 48, values);
}

void encode_q5_k(const float *values, const float *weights, void *blocks, size_t n)
{
    static const struct affine_shape shape = {.parts = 8, .top = 31, .most = 63};
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 176) {
        struct affine_block fitted;
        fit_affine(&shape, values + b * BLOCK, weights_at(weights, b), &fitted);
        memset(block, 0, 176);
        store_eight(&fitted, block, block + 16, block + 48);
    }
}

/* ---- Q6_K -------------------------------------------------------------------------------------- */

void decode_q6_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 210, values += BLOCK) {
        const int8_t *scales = (const int8_t *)block + 192;
        float d = load_scale(block + 208);
        for (int i = 0; i < BLOCK; i++) {
            int half = i / 128, k = i % 128 / 32, l = i % 32;
            uint8_t low = block[64 * half + 32 * (k % 2) + l];
            uint8_t high = block[128 + 32 * half + l];
            int q = (k < 2 ? low & 15 : low >> 4) | (high >> (2 * k) & 3) << 4;
            values[i] = d * (float)scales[i / 16] * (float)(q - 32);
        }
    }
}

void encode_q6_k(const float *values, const float *weights, void *blocks, size_t n)
{
    static const struct symmetric_shape shape = {.half = 32, .most = 128};
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 210) {
        struct symmetric_block fitted;
        fit_symmetric(&shape, values + b * BLOCK, weights_at(weights, b), &fitted);
        memset(block, 0, 210);
        for (int i = 0; i < BLOCK; i++) {
            int half = i / 128, k = i % 128 / 32, l = i % 32, q = fitted.q[i] + 32;
            block[64 * half + 32 * (k % 2) + l] |= (uint8_t)((q & 15) << (k < 2 ? 0 : 4));
            block[128 + 32 * half + l] |= (uint8_t)(q >> 4 << (2 * k));
        }
        memcpy(block + 192, fitted.scale, 16);
        store_u16(block + 208, fitted.d);
    }
}
