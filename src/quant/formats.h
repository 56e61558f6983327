/*
 * The conversions behind the table of tensor types, by family. Internal to quant/.
 *
 * decode: n values from n / block_elements blocks; encode: the reverse. n is a multiple of the
 * block. Encoders without `weights` give the bytes that gguf-py's reference quantiser gives; those with
 * search for the least sum of weights[i] * error^2 (NULL: all equal).
 */
#ifndef SLUICE_QUANT_FORMATS_H
#define SLUICE_QUANT_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "quant/tensor_type.h"

/* Numbers in blocks: little-endian, at any address. */
static inline uint16_t load_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline void store_u16(uint8_t *bytes, uint16_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

/* In float16. */
static inline float load_scale(const uint8_t *bytes)
{
    return f16_to_f32(load_u16(bytes));
}

static inline void store_scale(uint8_t *bytes, float scale)
{
    store_u16(bytes, f32_to_f16(scale));
}

void decode_f32(const void *blocks, float *values, size_t n);
void encode_f32(const float *values, void *blocks, size_t n);
void decode_f16(const void *blocks, float *values, size_t n);
void encode_f16(const float *values, void *blocks, size_t n);
void decode_bf16(const void *blocks, float *values, size_t n);
void encode_bf16(const float *values, void *blocks, size_t n);

void decode_q8_0(const void *blocks, float *values, size_t n);
void encode_q8_0(const float *values, void *blocks, size_t n);
void decode_q4_0(const void *blocks, float *values, size_t n);
void encode_q4_0(const float *values, void *blocks, size_t n);

void decode_q2_k(const void *blocks, float *values, size_t n);
void encode_q2_k(const float *values, const float *weights, void *blocks, size_t n);
void decode_q3_k(const void *blocks, float *values, size_t n);
void encode_q3_k(const float *values, const float *weights, void *blocks, size_t n);
void decode_q4_k(const void *blocks, float *values, size_t n);
void encode_q4_k(const float *values, const float *weights, void *blocks, size_t n);
void decode_q5_k(const void *blocks, float *values, size_t n);
void encode_q5_k(const float *values, const float *weights, void *blocks, size_t n);
void decode_q6_k(const void *blocks, float *values, size_t n);
void encode_q6_k(const float *values, const float *weights, void *blocks, size_t n);

void decode_q4_1(const void *blocks, float *values, size_t n);
void encode_q4_1(const float *values, void *blocks, size_t n);
void decode_q5_0(const void *blocks, float *values, size_t n);
void encode_q5_0(const float *values, void *blocks, size_t n);
void decode_q5_1(const void *blocks, float *values, size_t n);
void encode_q5_1(const float *values, void *blocks, size_t n);
void decode_mxfp4(const void *blocks, float *values, size_t n);
void encode_mxfp4(const float *values, void *blocks, size_t n);
void decode_tq1_0(const void *blocks, float *values, size_t n);
void encode_tq1_0(const float *values, void *blocks, size_t n);
void decode_tq2_0(const void *blocks, float *values, size_t n);
void encode_tq2_0(const float *values, void *blocks, size_t n);
void decode_iq4_nl(const void *blocks, float *values, size_t n);
void encode_iq4_nl(const float *values, const float *weights, void *blocks, size_t n);
void decode_iq4_xs(const void *blocks, float *values, size_t n);
void encode_iq4_xs(const float *values, const float *weights, void *blocks, size_t n);

void decode_nvfp4(const void *blocks, float *values, size_t n);
void decode_iq2_xxs(const void *blocks, float *values, size_t n);
void decode_iq2_xs(const void *blocks, float *values, size_t n);
void decode_iq2_s(const void *blocks, float *values, size_t n);
void decode_iq3_xxs(const void *blocks, float *values, size_t n);
void decode_iq3_s(const void *blocks, float *values, size_t n);
void decode_iq1_s(const void *blocks, float *values, size_t n);
void decode_iq1_m(const void *blocks, float *values, size_t n);
void encode_f8_e4m3(const float *values, void *blocks, size_t n);
void decode_f8_e4m3(const void *blocks, float *values, size_t n);
void decode_f8_e5m2(const void *blocks, float *values, size_t n);
void decode_affine8(const void *blocks, float *values, size_t n);
void decode_f8_e4m3_scaled(const void *blocks, float *values, size_t n);
void decode_f8_e5m2_scaled(const void *blocks, float *values, size_t n);

#endif
