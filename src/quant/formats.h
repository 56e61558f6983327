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

#endif
