/*
 * Plain floating-point types: IEEE 754 binary16 and bfloat16, rounding to nearest, ties to even; and
 * the eight-bit floats of the OCP specification: E5M2, which is the upper byte of a binary16, and
 * E4M3, which has no infinity and one NaN (all ones) for each sign.
 */
#include <string.h>

#include "quant/formats.h"
#include "quant/tensor_type.h"

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 1023u;
    if (exponent == 31)
        return from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent)
        return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    /* Zero and subnormals: mantissa * 2^-24, exact in float32. */
    float value = (float)mantissa * 5.9604644775390625e-8f;
    return sign ? -value : value;
}

uint16_t f32_to_f16(float f)
{
    uint32_t bits = to_bits(f), sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN stays one */
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* rounds past 65504 */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: subnormal; adding 0.5 rounds at bit 2^-24 */
        float shifted = from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (to_bits(shifted) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

float bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

uint16_t f32_to_bf16(float f)
{
    uint32_t bits = to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN: keep it quiet, keep its sign */
        return (uint16_t)(bits >> 16 | 64u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void decode_f32(const void *blocks, float *values, size_t n)
{
    memcpy(values, blocks, n * sizeof *values);
}

void encode_f32(const float *values, void *blocks, size_t n)
{
    memcpy(blocks, values, n * sizeof *values);
}

void decode_f16(const void *blocks, float *values, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        values[i] = f16_to_f32(load_u16(bytes + 2 * i));
}

void encode_f16(const float *values, void *blocks, size_t n)
{
    uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        store_u16(bytes + 2 * i, f32_to_f16(values[i]));
}

void decode_bf16(const void *blocks, float *values, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        values[i] = bf16_to_f32(load_u16(bytes + 2 * i));
}

void encode_bf16(const float *values, void *blocks, size_t n)
{
    uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        store_u16(bytes + 2 * i, f32_to_bf16(values[i]));
}

float f8_e5m2_to_f32(uint8_t f)
{
    return f16_to_f32((uint16_t)(f << 8));
}

float f8_e4m3_to_f32(uint8_t f)
{
    uint32_t sign = (uint32_t)(f & 0x80u) << 24, exponent = f >> 3 & 15u, mantissa = f & 7u;
    if (exponent == 15 && mantissa == 7)
        return from_bits(sign | 0x7fc00000u);
    if (exponent)
        return from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
    float value = (float)mantissa * 0.001953125f; /* 2^-9 */
    return sign ? -value : value;
}

/* Too large: the largest there is (448). There are no infinities, so an infinity becomes NaN. */
uint8_t f32_to_f8_e4m3(float f)
{
    uint32_t bits = to_bits(f), magnitude = bits & 0x7fffffffu, code;
    if (magnitude >= 0x7f800000u)
        code = 0x7f;
    else if (magnitude < 0x3c800000u) /* 2^-6: multiples of 2^-9, up to the first normal one */
        code = to_bits(from_bits(magnitude) + 16384.0f) & 15u;
    else
        code = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
    if (magnitude < 0x7f800000u && code > 0x7e)
        code = 0x7e;
    return (uint8_t)((bits >> 24 & 0x80u) | code);
}

void encode_f8_e4m3(const float *values, void *blocks, size_t n)
{
    uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        bytes[i] = f32_to_f8_e4m3(values[i]);
}

void decode_f8_e4m3(const void *blocks, float *values, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        values[i] = f8_e4m3_to_f32(bytes[i]);
}

void decode_f8_e5m2(const void *blocks, float *values, size_t n)
{
    const uint8_t *bytes = blocks;
    for (size_t i = 0; i < n; i++)
        values[i] = f8_e5m2_to_f32(bytes[i]);
}
