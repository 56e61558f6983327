/*
 * The conversions behind the table of tensor types, by family. Internal to quant/.
 *
 * decode: n values from n / block_elements blocks; encode: the reverse. n is a multiple of the
 * block. Encoders give the bytes that gguf-py's reference quantiser gives.
 */
#ifndef SLUICE_QUANT_FORMATS_H
#define SLUICE_QUANT_FORMATS_H

#include <stddef.h>

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

void decode_q4_k(const void *blocks, float *values, size_t n);
void decode_q6_k(const void *blocks, float *values, size_t n);

#endif
