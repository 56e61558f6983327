/*
 * Device functions shared by the kernels: element decoding, dot products of a warp, activations.
 *
 * Decoders give single elements by column, so that one kernel serves every format: slow beside
 * unpacking whole blocks into registers, and easy to hold against quant/ (which documents the block
 * layouts). The build has no floating-point contraction; fused operations are written as fmaf().
 */
#ifndef SLUICE_BACKEND_CUDA_DEVICE_CUH
#define SLUICE_BACKEND_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/cuda/device.h"

#define WARP            32
#define WARPS_PER_BLOCK 4
#define BLOCK_THREADS   (WARP * WARPS_PER_BLOCK)
#define ALL_LANES       0xffffffffu
/* Rows of a step that one warp takes together against one weight row. Each has its own sum, in the
 * same order whether the tile is full or not. */
#define ROW_TILE 4

/* ---- elements ---------------------------------------------------------------------------------- */

__device__ inline float load_f16(const uint8_t *at)
{
    return __half2float(__ushort_as_half((uint16_t)(at[0] | at[1] << 8)));
}

struct element_f32 {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        return ((const float *)row)[column];
    }
};

struct element_f16 {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        return __half2float(((const __half *)row)[column]);
    }
};

struct element_bf16 {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        return __uint_as_float((uint32_t)((const uint16_t *)row)[column] << 16);
    }
};

struct element_q8_0 {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        const uint8_t *block = row + (uint64_t)(column / 32) * 34;
        return load_f16(block) * (float)(int8_t)block[2 + column % 32];
    }
};

struct element_q4_0 {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        const uint8_t *block = row + (uint64_t)(column / 32) * 18;
        uint32_t i = column % 32;
        uint8_t pair = block[2 + i % 16];
        return load_f16(block) * (float)((i < 16 ? pair & 15 : pair >> 4) - 8);
    }
};

struct element_q4_k {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        const uint8_t *block = row + (uint64_t)(column / 256) * 144;
        const uint8_t *packed = block + 4;
        uint32_t i = column % 256, j = i / 32;
        uint32_t scale, min;
        if (j < 4) {
            scale = packed[j] & 63u;
            min = packed[j + 4] & 63u;
        } else {
            scale = (packed[j + 4] & 15u) | (uint32_t)(packed[j - 4] >> 6) << 4;
            min = (uint32_t)(packed[j + 4] >> 4) | (uint32_t)(packed[j] >> 6) << 4;
        }
        uint8_t pair = block[16 + 32 * (j / 2) + i % 32];
        float q = (float)(j % 2 ? pair >> 4 : pair & 15);
        return load_f16(block) * (float)scale * q - load_f16(block + 2) * (float)min;
    }
};

struct element_q6_k {
    static __device__ float at(const uint8_t *row, uint32_t column)
    {
        const uint8_t *block = row + (uint64_t)(column / 256) * 210;
        uint32_t i = column % 256, half = i / 128, k = i % 128 / 32, l = i % 32;
        uint32_t low = block[64 * half + 32 * (k % 2) + l];
        uint32_t high = block[128 + 32 * half + l];
        int q = (int)((k < 2 ? low & 15u : low >> 4) | ((high >> (2 * k)) & 3u) << 4);
        float scale = (float)(int8_t)block[192 + i / 16];
        return load_f16(block + 208) * scale * (float)(q - 32);
    }
};

__device__ inline const uint8_t *weight_row(const struct device_weight &w, uint32_t part,
                                            uint32_t row)
{
    return w.data + part * w.part_bytes + row * w.row_bytes;
}

/* One element of a weight, where speed does not matter. place() admits no other types. */
__device__ inline float weight_at(const struct device_weight &w, uint32_t row, uint32_t column)
{
    const uint8_t *bytes = weight_row(w, 0, row);
    switch (w.type) {
    case TENSOR_F16:
        return element_f16::at(bytes, column);
    case TENSOR_BF16:
        return element_bf16::at(bytes, column);
    case TENSOR_Q8_0:
        return element_q8_0::at(bytes, column);
    case TENSOR_Q4_0:
        return element_q4_0::at(bytes, column);
    case TENSOR_Q4_K:
        return element_q4_k::at(bytes, column);
    case TENSOR_Q6_K:
        return element_q6_k::at(bytes, column);
    default:
        return element_f32::at(bytes, column);
    }
}

/* ---- reductions -------------------------------------------------------------------------------- */

/* Every lane gets the same bits: at each level both partners add the same two numbers. All 32 lanes
 * must call. */
template <typename T> __device__ inline T warp_sum(T x)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

/* sums[r] = row . in[r] for the first `rows` of a tile; in rows are `stride` floats apart. */
template <typename ELEMENT, typename T>
__device__ inline void dots_of(const uint8_t *row, uint32_t n, const float *in, uint32_t stride,
                               uint32_t rows, T sums[ROW_TILE])
{
#pragma unroll
    for (uint32_t r = 0; r < ROW_TILE; r++)
        sums[r] = 0;
    for (uint32_t c = threadIdx.x % WARP; c < n; c += WARP) {
        T w = (T)ELEMENT::at(row, c);
#pragma unroll
        for (uint32_t r = 0; r < ROW_TILE; r++)
            if (r < rows)
                sums[r] = fma(w, (T)in[(uint64_t)r * stride + c], sums[r]);
    }
#pragma unroll
    for (uint32_t r = 0; r < ROW_TILE; r++)
        sums[r] = warp_sum(sums[r]);
}

template <typename T>
__device__ inline void warp_dots(const struct device_weight &w, uint32_t part, uint32_t row,
                                 const float *in, uint32_t stride, uint32_t rows, T sums[ROW_TILE])
{
    const uint8_t *bytes = weight_row(w, part, row);
    switch (w.type) {
    case TENSOR_F16:
        dots_of<element_f16>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    case TENSOR_BF16:
        dots_of<element_bf16>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    case TENSOR_Q8_0:
        dots_of<element_q8_0>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    case TENSOR_Q4_0:
        dots_of<element_q4_0>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    case TENSOR_Q4_K:
        dots_of<element_q4_k>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    case TENSOR_Q6_K:
        dots_of<element_q6_k>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    default:
        dots_of<element_f32>(bytes, w.n_cols, in, stride, rows, sums);
        break;
    }
}

/* The sum of row r for lane r: registers cannot be indexed by a lane number. */
__device__ inline float own_sum(const float sums[ROW_TILE], uint32_t lane)
{
    float own = 0.0f;
#pragma unroll
    for (uint32_t r = 0; r < ROW_TILE; r++)
        if (r == lane)
            own = sums[r];
    return own;
}

/* ---- the rest ---------------------------------------------------------------------------------- */

__device__ inline float activate(int act, float x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1.0f + expf(-x));
    case ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case ACT_RELU:
        return x > 0.0f ? x : 0.0f;
    default:
        return x;
    }
}

/* Index of this warp in the grid; the same for its 32 lanes, so that leaving on it is safe. */
__device__ inline uint64_t warp_index(void)
{
    return (uint64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
}

__device__ inline uint64_t thread_index(void)
{
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* Blocks for this many warps or threads. A count past the hardware's limit stays past it, so that
 * the launch fails. */
static inline unsigned blocks_for(uint64_t items, uint32_t per_block)
{
    uint64_t blocks = (items + per_block - 1) / per_block;
    return blocks > UINT32_MAX ? UINT32_MAX : (unsigned)blocks;
}

#endif
