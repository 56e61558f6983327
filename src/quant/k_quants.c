/*
 * K-quants: 256 values in sub-blocks with small integer scales under one float16 scale.
 *
 *   Q4_K  144 bytes: d, dmin (f16); 12 bytes of eight 6-bit scales and eight 6-bit minima;
 *         128 bytes of nibbles. Sub-blocks of 32: 2k are the low, 2k+1 the high nibbles of
 *         bytes 32k..32k+31.           value = d * scale * q - dmin * min
 *   Q6_K  210 bytes: 128 bytes low nibbles, 64 bytes of upper bit pairs, 16 int8 scales, d (f16).
 *         Two halves of 128 values: in a half, value 32k+l takes its nibble from byte l or l+32
 *         (k odd), low half of the byte for k < 2, and bits 2k of upper byte l.
 *                                      value = d * scale[16 values] * (q - 32)
 */
#include <stdint.h>

#include "quant/formats.h"
#include "quant/tensor_type.h"

#define BLOCK 256

static float load_scale(const uint8_t *bytes)
{
    return f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

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

void decode_q4_k(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 144, values += BLOCK) {
        float d = load_scale(block), dmin = load_scale(block + 2);
        for (int j = 0; j < 8; j++) {
            uint8_t scale, min;
            packed_scale(block + 4, j, &scale, &min);
            float s = d * (float)scale, m = dmin * (float)min;
            const uint8_t *q = block + 16 + 32 * (j / 2);
            for (int i = 0; i < 32; i++)
                values[32 * j + i] = s * (float)(j % 2 ? q[i] >> 4 : q[i] & 15) - m;
        }
    }
}

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
