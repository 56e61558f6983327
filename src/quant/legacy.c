/*
 * The simple block formats: 32 values and one float16 scale d.
 *
 *   Q8_0  d, 32 x int8                          value = d * q
 *   Q4_0  d, 16 bytes: low nibbles are values 0-15, high nibbles 16-31   value = d * (q - 8)
 *   Q4_1  d, m (f16), 16 bytes as in Q4_0       value = d * q + m
 *   Q5_0  d, 4 bytes of fifth bits (bit i of the 32 for value i), 16 bytes   value = d * (q - 16)
 *   Q5_1  d, m, fifth bits, 16 bytes            value = d * q + m
 */
#include <math.h>
#include <stdint.h>

#include "quant/formats.h"
#include "quant/tensor_type.h"

#define BLOCK 32

void decode_q8_0(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 34, values += BLOCK) {
        float d = load_scale(block);
        for (int i = 0; i < BLOCK; i++)
            values[i] = d * (float)(int8_t)block[2 + i];
    }
}

/* Half away from zero, as the reference rounds. Only values that are not finite, or a scale whose
 * inverse is not, leave -127..127; they are clamped and NaN is 0, where the reference is undefined. */
static int8_t to_int8(float x)
{
    float a = fabsf(x), whole = floorf(a);
    whole += a - whole >= 0.5f ? 1.0f : 0.0f;
    if (!(whole <= 127.0f))
        whole = whole > 127.0f ? 127.0f : 0.0f;
    return (int8_t)copysignf(whole, x);
}

void encode_q8_0(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 34, values += BLOCK) {
        float most = 0.0f;
        for (int i = 0; i < BLOCK; i++)
            most = fmaxf(most, fabsf(values[i]));
        float d = most / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_scale(block, d);
        for (int i = 0; i < BLOCK; i++)
            block[2 + i] = (uint8_t)to_int8(values[i] * inverse);
    }
}

void decode_q4_0(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 18, values += BLOCK) {
        float d = load_scale(block);
        for (int i = 0; i < BLOCK / 2; i++) {
            values[i] = d * (float)((block[2 + i] & 15) - 8);
            values[i + BLOCK / 2] = d * (float)((block[2 + i] >> 4) - 8);
        }
    }
}

/* The value of largest magnitude, the first of equals. */
static float largest(const float *values)
{
    float most = values[0];
    for (int i = 1; i < BLOCK; i++)
        if (fabsf(values[i]) > fabsf(most))
            most = values[i];
    return most;
}

/* The value of largest magnitude maps to -8, so that it is exact whatever its sign. */
void encode_q4_0(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks;
    for (size_t b = 0; b < n / BLOCK; b++, block += 18, values += BLOCK) {
        float d = largest(values) / -8.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_scale(block, d);
        uint8_t q[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            float x = truncf((float)((double)values[i] * (double)inverse + 8.5));
            q[i] = (uint8_t)(!(x >= 0.0f) ? 0.0f : x > 15.0f ? 15.0f : x); /* NaN is 0 */
        }
        for (int i = 0; i < BLOCK / 2; i++)
            block[2 + i] = (uint8_t)(q[i] | q[i + BLOCK / 2] << 4);
    }
}

/* ---- with a minimum, with a fifth bit ----------------------------------------------------------- */

/* Range of a block: [least, most]. */
static void range(const float *values, float *least, float *most)
{
    *least = *most = values[0];
    for (int i = 1; i < BLOCK; i++) {
        *least = values[i] < *least ? values[i] : *least;
        *most = values[i] > *most ? values[i] : *most;
    }
}

static uint8_t clamp_code(float x, float top)
{
    return (uint8_t)(!(x >= 0.0f) ? 0.0f : x > top ? top : x); /* NaN is 0 */
}

/* Codes of (x - least) * inverse, half upwards. */
static void codes_from(const float *values, float least, float inverse, float top, uint8_t *q)
{
    for (int i = 0; i < BLOCK; i++)
        q[i] = clamp_code(truncf((values[i] - least) * inverse + 0.5f), top);
}

/* Low nibbles to `nibbles`, and fifth bits to `tops` where there are any. */
static void store_codes(const uint8_t q[BLOCK], uint8_t *tops, uint8_t *nibbles)
{
    for (int i = 0; i < BLOCK / 2; i++)
        nibbles[i] = (uint8_t)((q[i] & 15) | (q[i + BLOCK / 2] & 15) << 4);
    for (int i = 0; tops && i < BLOCK; i++) {
        if (i % 8 == 0)
            tops[i / 8] = 0;
        tops[i / 8] |= (uint8_t)(q[i] >> 4 << i % 8);
    }
}

static void load_codes(const uint8_t *tops, const uint8_t *nibbles, uint8_t q[BLOCK])
{
    for (int i = 0; i < BLOCK; i++) {
        q[i] = i < BLOCK / 2 ? nibbles[i] & 15 : nibbles[i - BLOCK / 2] >> 4;
        if (tops)
            q[i] |= (uint8_t)((tops[i / 8] >> i % 8 & 1) << 4);
    }
}

void decode_q4_1(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    uint8_t q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 20, values += BLOCK) {
        float d = load_scale(block), m = load_scale(block + 2);
        load_codes(NULL, block + 4, q);
        for (int i = 0; i < BLOCK; i++)
            values[i] = d * (float)q[i] + m;
    }
}

void encode_q4_1(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 20, values += BLOCK) {
        float least, most;
        range(values, &least, &most);
        float d = (most - least) / 15.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_scale(block, d);
        store_scale(block + 2, least);
        codes_from(values, least, inverse, 15.0f, q);
        store_codes(q, NULL, block + 4);
    }
}

void decode_q5_0(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    uint8_t q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 22, values += BLOCK) {
        float d = load_scale(block);
        load_codes(block + 2, block + 6, q);
        for (int i = 0; i < BLOCK; i++)
            values[i] = d * (float)(q[i] - 16);
    }
}

void encode_q5_0(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 22, values += BLOCK) {
        float d = largest(values) / -16.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_scale(block, d);
        for (int i = 0; i < BLOCK; i++)
            q[i] = clamp_code(truncf((float)((double)values[i] * (double)inverse + 16.5)), 31.0f);
        store_codes(q, block + 2, block + 6);
    }
}

void decode_q5_1(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    uint8_t q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 24, values += BLOCK) {
        float d = load_scale(block), m = load_scale(block + 2);
        load_codes(block + 4, block + 8, q);
        for (int i = 0; i < BLOCK; i++)
            values[i] = d * (float)q[i] + m;
    }
}

void encode_q5_1(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, q[BLOCK];
    for (size_t b = 0; b < n / BLOCK; b++, block += 24, values += BLOCK) {
        float least, most;
        range(values, &least, &most);
        float d = (most - least) / 31.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_scale(block, d);
        store_scale(block + 2, least);
        codes_from(values, least, inverse, 31.0f, q);
        store_codes(q, block + 4, block + 8);
    }
}
