/*
 * Random but valid blocks of quantised types, for tests and benches of kernels. Header only, as
 * random.h is; who includes it links quant.
 */
#ifndef SLUICE_TESTS_RANDOM_BLOCKS_H
#define SLUICE_TESTS_RANDOM_BLOCKS_H

#include <stdint.h>
#include <string.h>

#include "quant/tensor_type.h"
#include "random.h"

/* Where a block of the type keeps float16 scales; -1: none. */
static inline void block_scales(enum tensor_type type, int at[2])
{
    at[0] = at[1] = -1;
    switch (type) {
    case TENSOR_Q8_0:
    case TENSOR_Q4_0:
    case TENSOR_Q5_0:
    case TENSOR_IQ4_NL:
    case TENSOR_IQ4_XS:
        at[0] = 0;
        break;
    case TENSOR_Q4_1:
    case TENSOR_Q5_1:
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        at[0] = 0;
        at[1] = 2;
        break;
    case TENSOR_Q2_K:
        at[0] = 80;
        at[1] = 82;
        break;
    case TENSOR_Q3_K:
        at[0] = 108;
        break;
    case TENSOR_Q6_K:
        at[0] = 208;
        break;
    default:
        break;
    }
}

static inline void set_block_scales(enum tensor_type type, uint8_t *block, float first,
                                    float second)
{
    int at[2];
    uint16_t halves[2] = {f32_to_f16(first), f32_to_f16(second)};
    block_scales(type, at);
    for (int i = 0; i < 2; i++)
        if (at[i] >= 0)
            memcpy(block + at[i], &halves[i], sizeof halves[i]);
}

/* Fills `bytes` with blocks whose values are of about 0.02 and finite. */
static inline void random_blocks(enum tensor_type type, uint8_t *out, uint64_t bytes,
                                 uint64_t *seed)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    for (uint64_t at = 0; at + info->block_bytes <= bytes; at += info->block_bytes) {
        uint8_t *block = out + at;
        for (uint32_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)(random_u32(seed) >> 13);
        float size = 0.002f * (0.5f + random_uniform(seed));
        set_block_scales(type, block, size, 8.0f * size * (random_uniform(seed) - 0.3f));
        if (type == TENSOR_MXFP4)
            block[0] = (uint8_t)(118 + random_u32(seed) % 6);
        float value = 0.03f * random_normal(seed);
        uint16_t half = type == TENSOR_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
        if (type == TENSOR_F32)
            memcpy(block, &value, sizeof value);
        if (type == TENSOR_F16 || type == TENSOR_BF16)
            memcpy(block, &half, sizeof half);
        if (type == TENSOR_F8_E4M3 || type == TENSOR_F8_E5M2)
            block[0] &= 0xbf; /* magnitude below 2, so neither infinite nor NaN */
    }
}

/* Every byte the same, but for scales: largest or smallest integers. */
static inline void random_blocks_extreme(enum tensor_type type, uint8_t *out, uint64_t bytes,
                                         uint8_t fill)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    memset(out, fill, bytes);
    for (uint64_t at = 0; at + info->block_bytes <= bytes; at += info->block_bytes) {
        set_block_scales(type, out + at, 0.01f, 0.01f);
        if (type == TENSOR_MXFP4)
            out[at] = 120;
    }
}

#endif
