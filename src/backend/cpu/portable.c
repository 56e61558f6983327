/*
 * The portable kernels: plain C that a compiler turns into vector code on any machine.
 *
 * A dot product runs over tiles of TILE columns. Each tile of a weight row is decoded to floats on
 * the stack once, and multiplied with that tile of every activation row of the call:
 *
 *     weight row (q4_K ...) --decode--> tile[256] floats --dot--> lanes[m][16] for each x[m]
 *
 * Column c always adds to lane c % 16, in ascending order, and the 16 lanes are summed by one fixed
 * tree: so the bits of a result depend on n_cols alone. Rejected: decoding into wider accumulators
 * per activation row (registers run out), and decoding whole rows (an FFN row leaves the L1 cache).
 *
 * The four-lane vectors are spelled out because GCC keeps an array of accumulators in memory; the
 * decoders are loops of fixed length, which it vectorises at -O3 (cmake/kernels.cmake).
 */
#include <string.h>

#include "backend/cpu/kernels.h"

#define TILE   256 /* columns; a whole number of blocks of every type */
#define LANES  16
#define INLINE static inline __attribute__((always_inline))

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* ---- decoding ---------------------------------------------------------------------------------- */

/* Values of columns [first, first + n) of a row: in `tile` [TILE], or in place. first is a multiple
 * of TILE, n <= TILE. */
typedef const float *decode_tile(const uint8_t *row, uint32_t first, uint32_t n, float *tile);

INLINE uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

INLINE float bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Moves exponent and mantissa into a float's place and scales by 2^112, which also normalises
 * subnormals; infinities and NaNs get their exponent by hand. No branch, so that loops vectorise. */
INLINE float half_to_float(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    float scaled = bits_to_float(magnitude) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0;
    return bits_to_float(bits | special | (uint32_t)(h & 0x8000) << 16);
}

INLINE float bfloat_to_float(uint16_t h)
{
    return bits_to_float((uint32_t)h << 16);
}

INLINE const float *decode_f32(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    const uint8_t *from = row + (size_t)first * sizeof(float);
    if ((uintptr_t)from % sizeof(float) == 0)
        return (const float *)(const void *)from;
    memcpy(tile, from, n * sizeof(float));
    return tile;
}

INLINE const float *decode_f16(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    uint16_t halves[TILE];
    memcpy(halves, row + (size_t)first * sizeof *halves, n * sizeof *halves);
    for (uint32_t i = 0; i < n; i++)
        tile[i] = half_to_float(halves[i]);
    return tile;
}

INLINE const float *decode_bf16(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    uint16_t halves[TILE];
    memcpy(halves, row + (size_t)first * sizeof *halves, n * sizeof *halves);
    for (uint32_t i = 0; i < n; i++)
        tile[i] = bfloat_to_float(halves[i]);
    return tile;
}

/* f16 scale, 32 int8. */
INLINE const float *decode_q8_0(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    const uint8_t *block = row + (size_t)first / 32 * 34;
    for (uint32_t at = 0; at < n; at += 32, block += 34) {
        float d = half_to_float(load_u16(block));
        int8_t q[32];
        memcpy(q, block + 2, sizeof q);
        for (uint32_t i = 0; i < 32; i++)
            tile[at + i] = (float)q[i] * d;
    }
    return tile;
}

/* f16 scale, 16 bytes of two nibbles: low ones are the first half of the block. */
INLINE const float *decode_q4_0(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    const uint8_t *block = row + (size_t)first / 32 * 18;
    for (uint32_t at = 0; at < n; at += 32, block += 18) {
        float d = half_to_float(load_u16(block));
        uint8_t q[16];
        memcpy(q, block + 2, sizeof q);
        for (uint32_t i = 0; i < 16; i++)
            tile[at + i] = (float)((q[i] & 15) - 8) * d;
        for (uint32_t i = 0; i < 16; i++)
            tile[at + 16 + i] = (float)((q[i] >> 4) - 8) * d;
    }
    return tile;
}

/* Scale and minimum, six bits each, of group j of a Q4_K block: the first four groups lie whole in
 * bytes j and j + 4; the others take a nibble of byte j + 4 and the top bits of the first ones. */
INLINE void q4_k_group(const uint8_t packed[12], uint32_t j, uint32_t *scale, uint32_t *minimum)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *minimum = packed[j + 4] & 63;
    } else {
        *scale = (packed[j + 4] & 15u) | (uint32_t)(packed[j - 4] >> 6) << 4;
        *minimum = (uint32_t)(packed[j + 4] >> 4) | (uint32_t)(packed[j] >> 6) << 4;
    }
}

/* f16 scale of scales, f16 scale of minimums, 12 bytes of both, 128 bytes of nibbles: 32 bytes serve
 * two groups of 32, low nibbles the first. */
INLINE const float *decode_q4_k(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    (void)n; /* a block is a tile */
    const uint8_t *block = row + (size_t)first / 256 * 144;
    float d = half_to_float(load_u16(block)), dmin = half_to_float(load_u16(block + 2));
    for (uint32_t pair = 0; pair < 4; pair++) {
        uint32_t scale[2], minimum[2];
        q4_k_group(block + 4, 2 * pair, &scale[0], &minimum[0]);
        q4_k_group(block + 4, 2 * pair + 1, &scale[1], &minimum[1]);
        float low = d * (float)scale[0], low_minimum = dmin * (float)minimum[0];
        float high = d * (float)scale[1], high_minimum = dmin * (float)minimum[1];
        uint8_t q[32];
        memcpy(q, block + 16 + 32 * pair, sizeof q);
        float *out = tile + 64 * pair;
        for (uint32_t i = 0; i < 32; i++)
            out[i] = low * (float)(q[i] & 15) - low_minimum;
        for (uint32_t i = 0; i < 32; i++)
            out[32 + i] = high * (float)(q[i] >> 4) - high_minimum;
    }
    return tile;
}

/* 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales of 16 values, f16 scale.
 * In each half of 128 values, quarter k takes nibbles (k / 2) of bytes 32 * (k % 2) .. + 32 and bit
 * pair k of the half's 32 high bytes. */
INLINE const float *decode_q6_k(const uint8_t *row, uint32_t first, uint32_t n, float *tile)
{
    (void)n; /* a block is a tile */
    const uint8_t *block = row + (size_t)first / 256 * 210;
    float d = half_to_float(load_u16(block + 208));
    for (uint32_t half = 0; half < 2; half++) {
        uint8_t high[32];
        memcpy(high, block + 128 + 32 * half, sizeof high);
        for (uint32_t k = 0; k < 4; k++) {
            uint8_t low[32];
            memcpy(low, block + 64 * half + 32 * (k % 2), sizeof low);
            float *out = tile + 128 * half + 32 * k;
            for (uint32_t part = 0; part < 2; part++) {
                float scale = d * (float)(int8_t)block[192 + 8 * half + 2 * k + part];
                for (uint32_t i = 16 * part; i < 16 * part + 16; i++) {
                    int32_t q = (low[i] >> 4 * (k / 2) & 15) | (high[i] >> 2 * k & 3) << 4;
                    out[i] = scale * (float)(q - 32);
                }
            }
        }
    }
    return tile;
}

/* Every other type by the scalar decoder of quant/, in whole blocks: slower, and always there. */
INLINE const float *decode_any(enum tensor_type type, const uint8_t *row, uint32_t first,
                               uint32_t n, float *tile)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    info->decode(row + (size_t)first / info->block_elements * info->block_bytes, tile, n);
    return tile;
}

#define DECODE_ANY(name, type)                                                                     \
    INLINE const float *decode_##name(const uint8_t *row, uint32_t first, uint32_t n, float *tile) \
    {                                                                                              \
        return decode_any(type, row, first, n, tile);                                              \
    }

DECODE_ANY(q4_1, TENSOR_Q4_1)
DECODE_ANY(q5_0, TENSOR_Q5_0)
DECODE_ANY(q5_1, TENSOR_Q5_1)
DECODE_ANY(q2_k, TENSOR_Q2_K)
DECODE_ANY(q3_k, TENSOR_Q3_K)
DECODE_ANY(q5_k, TENSOR_Q5_K)
DECODE_ANY(iq1_s, TENSOR_IQ1_S)
DECODE_ANY(iq1_m, TENSOR_IQ1_M)
DECODE_ANY(iq2_xxs, TENSOR_IQ2_XXS)
DECODE_ANY(iq2_xs, TENSOR_IQ2_XS)
DECODE_ANY(iq2_s, TENSOR_IQ2_S)
DECODE_ANY(iq3_xxs, TENSOR_IQ3_XXS)
DECODE_ANY(iq3_s, TENSOR_IQ3_S)
DECODE_ANY(iq4_nl, TENSOR_IQ4_NL)
DECODE_ANY(iq4_xs, TENSOR_IQ4_XS)
DECODE_ANY(tq1_0, TENSOR_TQ1_0)
DECODE_ANY(tq2_0, TENSOR_TQ2_0)
DECODE_ANY(mxfp4, TENSOR_MXFP4)
DECODE_ANY(nvfp4, TENSOR_NVFP4)
DECODE_ANY(f8_e4m3, TENSOR_F8_E4M3)
DECODE_ANY(f8_e5m2, TENSOR_F8_E5M2)
DECODE_ANY(affine8, TENSOR_AFFINE8)
DECODE_ANY(f8_e4m3_scaled, TENSOR_F8_E4M3_SCALED)
DECODE_ANY(f8_e5m2_scaled, TENSOR_F8_E5M2_SCALED)

/* ---- dot products ------------------------------------------------------------------------------ */

INLINE quad load(const float *p)
{
    return *(const quad *)p;
}

INLINE void store(float *p, quad v)
{
    *(quad *)p = v;
}

/* lanes[c % 16] += w[c] * x[c] */
INLINE void dot_tile(const float *w, const float *x, uint32_t n, float *lanes)
{
    quad a = load(lanes), b = load(lanes + 4), c = load(lanes + 8), d = load(lanes + 12);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        a += load(w + i) * load(x + i);
        b += load(w + i + 4) * load(x + i + 4);
        c += load(w + i + 8) * load(x + i + 8);
        d += load(w + i + 12) * load(x + i + 12);
    }
    store(lanes, a);
    store(lanes + 4, b);
    store(lanes + 8, c);
    store(lanes + 12, d);
    for (uint32_t l = 0; i < n; i++, l++)
        lanes[l] += w[i] * x[i];
}

/* The same for two activation rows: one load of the weights serves both. */
INLINE void dot_tile_pair(const float *w, const float *x, const float *y, uint32_t n,
                          float *lanes_x, float *lanes_y)
{
    quad a = load(lanes_x), b = load(lanes_x + 4), c = load(lanes_x + 8), d = load(lanes_x + 12);
    quad e = load(lanes_y), f = load(lanes_y + 4), g = load(lanes_y + 8), h = load(lanes_y + 12);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        quad v = load(w + i);
        a += v * load(x + i);
        e += v * load(y + i);
        v = load(w + i + 4);
        b += v * load(x + i + 4);
        f += v * load(y + i + 4);
        v = load(w + i + 8);
        c += v * load(x + i + 8);
        g += v * load(y + i + 8);
        v = load(w + i + 12);
        d += v * load(x + i + 12);
        h += v * load(y + i + 12);
    }
    store(lanes_x, a);
    store(lanes_x + 4, b);
    store(lanes_x + 8, c);
    store(lanes_x + 12, d);
    store(lanes_y, e);
    store(lanes_y + 4, f);
    store(lanes_y + 8, g);
    store(lanes_y + 12, h);
    for (uint32_t l = 0; i < n; i++, l++) {
        lanes_x[l] += w[i] * x[i];
        lanes_y[l] += w[i] * y[i];
    }
}

INLINE float sum_lanes(const float *lanes)
{
    quad q = (load(lanes) + load(lanes + 8)) + (load(lanes + 4) + load(lanes + 12));
    return (q[0] + q[2]) + (q[1] + q[3]);
}

INLINE void dots(decode_tile *decode, const struct kernel_rows *rows, const float *const *x,
                 uint32_t n_x, float *out)
{
    float tile[TILE] __attribute__((aligned(64)));
    float lanes[KERNEL_X][LANES] __attribute__((aligned(64)));
    for (uint32_t r = 0; r < rows->n_rows; r++) {
        const uint8_t *row = rows->bytes + r * rows->row_bytes;
        memset(lanes, 0, n_x * sizeof lanes[0]);
        for (uint32_t at = 0; at < rows->n_cols; at += TILE) {
            uint32_t n = rows->n_cols - at < TILE ? rows->n_cols - at : TILE;
            const float *w = decode(row, at, n, tile);
            uint32_t m = 0;
            for (; m + 1 < n_x; m += 2)
                dot_tile_pair(w, x[m] + at, x[m + 1] + at, n, lanes[m], lanes[m + 1]);
            if (m < n_x)
                dot_tile(w, x[m] + at, n, lanes[m]);
        }
        for (uint32_t m = 0; m < n_x; m++)
            out[m * KERNEL_ROWS + r] = sum_lanes(lanes[m]);
    }
}

INLINE void decode_row(decode_tile *decode, const uint8_t *row, uint32_t n_cols, float *out)
{
    float tile[TILE] __attribute__((aligned(64)));
    for (uint32_t at = 0; at < n_cols; at += TILE) {
        uint32_t n = n_cols - at < TILE ? n_cols - at : TILE;
        memcpy(out + at, decode(row, at, n, tile), n * sizeof *out);
    }
}

#define WEIGHT_KERNEL(type)                                                                        \
    static void dots_##type(const struct kernel_rows *rows, const float *const *x, uint32_t n_x,   \
                            float *out)                                                            \
    {                                                                                              \
        dots(decode_##type, rows, x, n_x, out);                                                    \
    }                                                                                              \
    static void row_##type(const uint8_t *row, uint32_t n_cols, float *out)                        \
    {                                                                                              \
        decode_row(decode_##type, row, n_cols, out);                                               \
    }

WEIGHT_KERNEL(f32)
WEIGHT_KERNEL(f16)
WEIGHT_KERNEL(bf16)
WEIGHT_KERNEL(q8_0)
WEIGHT_KERNEL(q4_0)
WEIGHT_KERNEL(q4_k)
WEIGHT_KERNEL(q6_k)
WEIGHT_KERNEL(q4_1)
WEIGHT_KERNEL(q5_0)
WEIGHT_KERNEL(q5_1)
WEIGHT_KERNEL(q2_k)
WEIGHT_KERNEL(q3_k)
WEIGHT_KERNEL(q5_k)
WEIGHT_KERNEL(iq1_s)
WEIGHT_KERNEL(iq1_m)
WEIGHT_KERNEL(iq2_xxs)
WEIGHT_KERNEL(iq2_xs)
WEIGHT_KERNEL(iq2_s)
WEIGHT_KERNEL(iq3_xxs)
WEIGHT_KERNEL(iq3_s)
WEIGHT_KERNEL(iq4_nl)
WEIGHT_KERNEL(iq4_xs)
WEIGHT_KERNEL(tq1_0)
WEIGHT_KERNEL(tq2_0)
WEIGHT_KERNEL(mxfp4)
WEIGHT_KERNEL(nvfp4)
WEIGHT_KERNEL(f8_e4m3)
WEIGHT_KERNEL(f8_e5m2)
WEIGHT_KERNEL(affine8)
WEIGHT_KERNEL(f8_e4m3_scaled)
WEIGHT_KERNEL(f8_e5m2_scaled)

/* ---- tables ------------------------------------------------------------------------------------ */

static const struct weight_kernel weight_kernels[] = {
    {"portable f32 x f32", TENSOR_F32, dots_f32, row_f32},
    {"portable f16 x f32", TENSOR_F16, dots_f16, row_f16},
    {"portable bf16 x f32", TENSOR_BF16, dots_bf16, row_bf16},
    {"portable q8_0 x f32", TENSOR_Q8_0, dots_q8_0, row_q8_0},
    {"portable q4_0 x f32", TENSOR_Q4_0, dots_q4_0, row_q4_0},
    {"portable q4_K x f32", TENSOR_Q4_K, dots_q4_k, row_q4_k},
    {"portable q6_K x f32", TENSOR_Q6_K, dots_q6_k, row_q6_k},
    /* by way of quant/ */
    {"portable q4_1 x f32", TENSOR_Q4_1, dots_q4_1, row_q4_1},
    {"portable q5_0 x f32", TENSOR_Q5_0, dots_q5_0, row_q5_0},
    {"portable q5_1 x f32", TENSOR_Q5_1, dots_q5_1, row_q5_1},
    {"portable q2_k x f32", TENSOR_Q2_K, dots_q2_k, row_q2_k},
    {"portable q3_k x f32", TENSOR_Q3_K, dots_q3_k, row_q3_k},
    {"portable q5_k x f32", TENSOR_Q5_K, dots_q5_k, row_q5_k},
    {"portable iq1_s x f32", TENSOR_IQ1_S, dots_iq1_s, row_iq1_s},
    {"portable iq1_m x f32", TENSOR_IQ1_M, dots_iq1_m, row_iq1_m},
    {"portable iq2_xxs x f32", TENSOR_IQ2_XXS, dots_iq2_xxs, row_iq2_xxs},
    {"portable iq2_xs x f32", TENSOR_IQ2_XS, dots_iq2_xs, row_iq2_xs},
    {"portable iq2_s x f32", TENSOR_IQ2_S, dots_iq2_s, row_iq2_s},
    {"portable iq3_xxs x f32", TENSOR_IQ3_XXS, dots_iq3_xxs, row_iq3_xxs},
    {"portable iq3_s x f32", TENSOR_IQ3_S, dots_iq3_s, row_iq3_s},
    {"portable iq4_nl x f32", TENSOR_IQ4_NL, dots_iq4_nl, row_iq4_nl},
    {"portable iq4_xs x f32", TENSOR_IQ4_XS, dots_iq4_xs, row_iq4_xs},
    {"portable tq1_0 x f32", TENSOR_TQ1_0, dots_tq1_0, row_tq1_0},
    {"portable tq2_0 x f32", TENSOR_TQ2_0, dots_tq2_0, row_tq2_0},
    {"portable mxfp4 x f32", TENSOR_MXFP4, dots_mxfp4, row_mxfp4},
    {"portable nvfp4 x f32", TENSOR_NVFP4, dots_nvfp4, row_nvfp4},
    {"portable f8_e4m3 x f32", TENSOR_F8_E4M3, dots_f8_e4m3, row_f8_e4m3},
    {"portable f8_e5m2 x f32", TENSOR_F8_E5M2, dots_f8_e5m2, row_f8_e5m2},
    {"portable affine8 x f32", TENSOR_AFFINE8, dots_affine8, row_affine8},
    {"portable f8_e4m3_scaled x f32", TENSOR_F8_E4M3_SCALED, dots_f8_e4m3_scaled,
     row_f8_e4m3_scaled},
    {"portable f8_e5m2_scaled x f32", TENSOR_F8_E5M2_SCALED, dots_f8_e5m2_scaled,
     row_f8_e5m2_scaled},
};

const struct kernel_set kernel_set_portable = {
    .name = "portable",
    .weights = weight_kernels,
    .n_weights = sizeof weight_kernels / sizeof *weight_kernels,
};
