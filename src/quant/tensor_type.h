/*
 * Tensor element types and block formats: one table of names, sizes and scalar conversions.
 *
 * Ids below TENSOR_TYPE_GGUF_END are the numbers that GGUF files store (GGUF specification,
 * "ggml_type"); higher ids are ours, for types that only safetensors has. A block is the smallest
 * unit of a type: `block_elements` values in `block_bytes` bytes; a row is a whole number of blocks.
 * Everything here is scalar, exact and thread-safe: it is the reference for every kernel.
 */
#ifndef SLUICE_QUANT_TENSOR_TYPE_H
#define SLUICE_QUANT_TENSOR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q8_1 = 9,
    TENSOR_Q2_K = 10,
    TENSOR_Q3_K = 11,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_Q8_K = 15,
    TENSOR_IQ2_XXS = 16,
    TENSOR_IQ2_XS = 17,
    TENSOR_IQ3_XXS = 18,
    TENSOR_IQ1_S = 19,
    TENSOR_IQ4_NL = 20,
    TENSOR_IQ3_S = 21,
    TENSOR_IQ2_S = 22,
    TENSOR_IQ4_XS = 23,
    TENSOR_I8 = 24,
    TENSOR_I16 = 25,
    TENSOR_I32 = 26,
    TENSOR_I64 = 27,
    TENSOR_F64 = 28,
    TENSOR_IQ1_M = 29,
    TENSOR_BF16 = 30,
    TENSOR_TQ1_0 = 34,
    TENSOR_TQ2_0 = 35,
    TENSOR_MXFP4 = 39,
    TENSOR_NVFP4 = 40,
    TENSOR_TYPE_GGUF_END = 64,
    TENSOR_U8 = 64,
    TENSOR_BOOL = 65,
    TENSOR_F8_E4M3 = 66,
    TENSOR_F8_E5M2 = 67,
    TENSOR_U16 = 68,
    TENSOR_U32 = 69,
    TENSOR_U64 = 70,
    /* Ours alone, for what folders store in pieces (format/repack.h): 32 values each. */
    TENSOR_AFFINE8 = 71,
    TENSOR_F8_E4M3_SCALED = 72,
    TENSOR_F8_E5M2_SCALED = 73,
    TENSOR_TYPE_END = 74
};

struct tensor_type_info {
    const char *name;        /* "Q4_K"; lower case in file names and flags */
    uint32_t block_elements; /* 0: the id is unknown */
    uint32_t block_bytes;
    /* n: a multiple of block_elements. NULL where not implemented (yet). */
    void (*decode)(const void *blocks, float *values, size_t n);
    void (*encode)(const float *values, void *blocks, size_t n);
    /* Types whose best block has to be searched for: weights[i] says how much the error of value i
     * counts; NULL: all alike. A type has this or `encode`, never both. */
    void (*encode_weighted)(const float *values, const float *weights, void *blocks, size_t n);
};

/* NULL for an id that no known format uses. */
const struct tensor_type_info *tensor_type_info(uint32_t type);
const char *tensor_type_name(uint32_t type); /* "type 77" style text for unknown ids is "unknown" */
/* By name, any case. TENSOR_TYPE_END if unknown. */
enum tensor_type tensor_type_from_name(struct str name);
/* Bytes of `n` elements; false if n is no whole number of blocks, or on overflow. */
bool tensor_type_bytes(uint32_t type, uint64_t n, uint64_t *bytes);
/* Encodes by whichever of the two the type has; weights ([n] or NULL) help where it can use them.
 * False (nothing written) where it has neither. n: a multiple of block_elements. */
bool tensor_type_encode(uint32_t type, const float *values, const float *weights, void *blocks,
                        size_t n);
bool tensor_type_encodes(uint32_t type);

/* Scalar conversions, round to nearest even. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f);
float f8_e4m3_to_f32(uint8_t f);
uint8_t f32_to_f8_e4m3(float f); /* beyond 464 saturates; infinities become NaN */
float f8_e5m2_to_f32(uint8_t f);

#ifdef __cplusplus
}
#endif
#endif
