/*
 * Ternary types: 256 values of -1, 0 and 1 under one float16 scale.
 *
 *   TQ1_0  54 bytes: 48 bytes of five digits in base three; 4 bytes of four; d (f16). A byte is the
 *          digits' number * 256 / 243, rounded up, so that digit n is the carry of byte * 3^n * 3.
 *          Values in digit order: digit 0 of bytes 0..31, digit 1, ...; then bytes 32..47; then the
 *          last four bytes.
 *   TQ2_0  66 bytes: 64 bytes of bit pairs; d. Two halves of 32 bytes: value 32k+l of a half is the
 *          pair at bit 2k of byte l.
 */
#include <math.h>

#include "quant/formats.h"
#include "quant/tensor_type.h"

#define BLOCK 256

/* The three runs of bytes of a TQ1_0 block: how many bytes, how many digits in each. */
static const struct {
    int first, bytes, digits;
} runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};

void decode_tq1_0(const void *blocks, float *values, size_t n)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 54) {
        float d = load_scale(block + 52);
        for (int r = 0; r < 3; r++)
            for (int k = 0; k < runs[r].digits; k++)
                for (int i = 0; i < runs[r].bytes; i++) {
                    uint8_t shifted = (uint8_t)(block[runs[r].first + i] * power[k]);
                    *values++ = (float)((shifted * 3 >> 8) - 1) * d;
                }
    }
}

void decode_tq2_0(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 66, values += BLOCK) {
        float d = load_scale(block + 64);
        for (int i = 0; i < BLOCK; i++) {
            int q = block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            values[i] = (float)(q - 1) * d;
        }
    }
}

/* Scale to the largest magnitude and digits 0, 1, 2, half away from zero. */
static float to_digits(const float *values, uint8_t digits[BLOCK])
{
    float most = 0.0f;
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(values[i]) < INFINITY)
            most = fmaxf(most, fabsf(values[i]));
    float inverse = most != 0.0f ? 1.0f / most : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        float x = values[i] * inverse;
        digits[i] = x >= 0.5f ? 2 : x <= -0.5f ? 0 : 1; /* NaN is 1 */
    }
    return most;
}

void encode_tq1_0(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, digits[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 54, values += BLOCK) {
        const uint8_t *digit = digits;
        store_scale(block + 52, to_digits(values, digits));
        for (int r = 0; r < 3; r++) {
            for (int i = 0; i < runs[r].bytes; i++) {
                int number = 0;
                for (int k = 0; k < 5; k++)
                    number = 3 * number + (k < runs[r].digits ? digit[k * runs[r].bytes + i] : 0);
                block[runs[r].first + i] = (uint8_t)((number * 256 + 242) / 243);
            }
            digit += runs[r].bytes * runs[r].digits;
        }
    }
}

void encode_tq2_0(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, digits[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 66, values += BLOCK) {
        store_scale(block + 64, to_digits(values, digits));
        for (int i = 0; i < 64; i++)
            block[i] = 0;
        for (int i = 0; i < BLOCK; i++)
            block[i / 128 * 32 + i % 32] |= (uint8_t)(digits[i] << (i % 128 / 32 * 2));
    }
}
