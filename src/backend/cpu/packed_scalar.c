/*
 * The scalar twin of every packed kernel: what the result is, one multiplication at a time.
 *
 * Slow and plain; tests hold each fast kernel to these bits, and bench_kernels times them beside it.
 * A row of weights meets a row of activations block by block: an integer sum that is exact, then one
 * fused multiply-add (two where the type has minima) onto the float result, blocks ascending.
 *
 *   K-quants, IQ4_XS (a block of 256):
 *       result = fma(float(sum of scale * q * x), d * act, result)
 *       result = fma(-float(sum of minimum * sum32 or 16), dmin * act, result)    Q2_K, Q4_K, Q5_K
 *   simple formats (a block of 32):
 *       result = fma(float(sum of q * x), d * act, result)
 *       result = fma(m, act * float(sum of x), result)                            Q4_1, Q5_1
 *   bfloat16 by bfloat16: as x86_amx_bf16.c says, and in pairs as x86_avx512_bf16.c says
 *   prompt rows, whatever the type: weights as bfloat16, summed as x86_amx_bf16.c says
 */
#include <string.h>

#include "backend/cpu/bf16_sum.h"
#include "backend/cpu/kernels.h"

/* A block as integers under float scales: value = d * scale[i] * q[i] - dmin * minimum[i]. */
struct integers {
    int32_t q[256];
    int32_t scale[16], minimum[16]; /* of 16 columns each */
    float d, dmin;
    bool has_minima;
};

static uint32_t load_u16(const uint8_t *p)
{
    return (uint32_t)(p[0] | p[1] << 8);
}

static float load_half(const uint8_t *p)
{
    return f16_to_f32((uint16_t)load_u16(p));
}

static uint32_t load_u32(const uint8_t *p)
{
    return load_u16(p) | load_u16(p + 2) << 16;
}

/* The six-bit pairs of Q4_K and Q5_K. */
static void scales_of_k4(const uint8_t *packed, struct integers *out)
{
    for (uint32_t j = 0; j < 8; j++) {
        int32_t scale = packed[j] & 63, minimum = packed[j + 4] & 63;
        if (j >= 4) {
            scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
            minimum = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
        }
        out->scale[2 * j] = out->scale[2 * j + 1] = scale;
        out->minimum[2 * j] = out->minimum[2 * j + 1] = minimum;
    }
    out->has_minima = true;
}

static void integers_q4_k(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    out->dmin = load_half(block + 2);
    scales_of_k4(block + 4, out);
    for (uint32_t i = 0; i < 256; i++)
        out->q[i] = block[16 + i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15;
}

static void integers_q5_k(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    out->dmin = load_half(block + 2);
    scales_of_k4(block + 4, out);
    for (uint32_t i = 0; i < 256; i++)
        out->q[i] = (block[48 + i / 64 * 32 + i % 32] >> 4 * (i / 32 % 2) & 15) |
                    (block[16 + i % 32] >> i / 32 & 1) << 4;
}

static void integers_q6_k(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block + 208);
    for (uint32_t i = 0; i < 16; i++)
        out->scale[i] = (int8_t)block[192 + i];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t half = i / 128, k = i % 128 / 32, l = i % 32;
        out->q[i] = ((block[64 * half + 32 * (k % 2) + l] >> 4 * (k / 2) & 15) |
                     (block[128 + 32 * half + l] >> 2 * k & 3) << 4) -
                    32;
    }
}

static void integers_q2_k(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block + 80);
    out->dmin = load_half(block + 82);
    out->has_minima = true;
    for (uint32_t i = 0; i < 16; i++) {
        out->scale[i] = block[i] & 15;
        out->minimum[i] = block[i] >> 4;
    }
    for (uint32_t i = 0; i < 256; i++)
        out->q[i] = block[16 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static void integers_q3_k(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block + 108);
    for (uint32_t i = 0; i < 16; i++)
        out->scale[i] = (int32_t)((block[96 + i % 8] >> 4 * (i / 8) & 15) |
                                  (block[104 + i % 4] >> 2 * (i / 4) & 3) << 4) -
                        32;
    for (uint32_t i = 0; i < 256; i++)
        out->q[i] = (block[32 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3) -
                    (block[i % 32] >> i / 32 & 1 ? 0 : 4);
}

/* Sixteen levels of IQ4_NL and IQ4_XS, and eight magnitudes of MXFP4, twice. */
static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void integers_iq4_xs(const uint8_t *block, struct integers *out)
{
    uint32_t high = load_u16(block + 2);
    out->d = load_half(block);
    for (uint32_t g = 0; g < 8; g++) {
        int32_t low = block[4 + g / 2] >> 4 * (g % 2) & 15;
        out->scale[2 * g] = out->scale[2 * g + 1] = (low | (int32_t)(high >> 2 * g & 3) << 4) - 32;
    }
    for (uint32_t i = 0; i < 256; i++)
        out->q[i] = iq4_levels[block[8 + i / 32 * 16 + i % 16] >> 4 * (i / 16 % 2) & 15];
}

/* ---- simple formats: q and d, and for two of them the float minimum in dmin ---------------------- */

static void nibbles(const uint8_t *q, int32_t *out)
{
    for (uint32_t i = 0; i < 16; i++) {
        out[i] = q[i] & 15;
        out[16 + i] = q[i] >> 4;
    }
}

static void integers_q8_0(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    for (uint32_t i = 0; i < 32; i++)
        out->q[i] = (int8_t)block[2 + i];
}

static void integers_q4_0(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    nibbles(block + 2, out->q);
    for (uint32_t i = 0; i < 32; i++)
        out->q[i] -= 8;
}

static void integers_q4_1(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    out->dmin = load_half(block + 2);
    out->has_minima = true;
    nibbles(block + 4, out->q);
}

static void fifth_bits(uint32_t bits, int32_t *q)
{
    for (uint32_t i = 0; i < 32; i++)
        q[i] |= (int32_t)(bits >> i & 1) << 4;
}

static void integers_q5_0(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    nibbles(block + 6, out->q);
    fifth_bits(load_u32(block + 2), out->q);
    for (uint32_t i = 0; i < 32; i++)
        out->q[i] -= 16;
}

static void integers_q5_1(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    out->dmin = load_half(block + 2);
    out->has_minima = true;
    nibbles(block + 8, out->q);
    fifth_bits(load_u32(block + 4), out->q);
}

static void integers_iq4_nl(const uint8_t *block, struct integers *out)
{
    out->d = load_half(block);
    nibbles(block + 2, out->q);
    for (uint32_t i = 0; i < 32; i++)
        out->q[i] = iq4_levels[out->q[i]];
}

/* The scale is a power of two, 2^(e - 127); the levels are doubled, so half of it. */
static void integers_mxfp4(const uint8_t *block, struct integers *out)
{
    out->d = block[0] ? ldexpf(1.0f, block[0] - 128) : 0x1p-128f;
    nibbles(block + 1, out->q);
    for (uint32_t i = 0; i < 32; i++)
        out->q[i] = mxfp4_levels[out->q[i]];
}

/* ---- products ---------------------------------------------------------------------------------- */

typedef void integers_of(const uint8_t *block, struct integers *out);

static void row_256(integers_of *integers, const struct packed_layout *layout, const uint8_t *panel,
                    uint32_t row, uint32_t n_cols, const struct act_rows *rows, float *out)
{
    uint8_t bytes[256];
    for (uint32_t b = 0; b < n_cols / 256; b++) {
        struct integers w = {.has_minima = false};
        packed_read_block(layout, panel, row, b, bytes);
        integers(bytes, &w);
        for (uint32_t m = 0; m < rows->n; m++) {
            const struct act_256 *x =
                (const void *)((const uint8_t *)rows->x[m] + b * rows->block_stride);
            int32_t sum = 0, minima = 0;
            for (uint32_t i = 0; i < 256; i++)
                sum += w.scale[i / 16] * w.q[i] * x->q[i];
            for (uint32_t i = 0; i < 16; i++)
                minima += w.minimum[i] * x->sums16[i];
            float *to = &out[m * PANEL_ROWS + row];
            *to = fmaf((float)sum, w.d * x->scale, *to);
            if (w.has_minima)
                *to = fmaf(-(float)minima, w.dmin * x->scale, *to);
        }
    }
}

static void row_32(integers_of *integers, const struct packed_layout *layout, const uint8_t *panel,
                   uint32_t row, uint32_t n_cols, const struct act_rows *rows, float *out)
{
    uint8_t bytes[256];
    for (uint32_t b = 0; b < n_cols / 32; b++) {
        struct integers w = {.has_minima = false};
        packed_read_block(layout, panel, row, b, bytes);
        integers(bytes, &w);
        for (uint32_t m = 0; m < rows->n; m++) {
            const struct act_32 *x =
                (const void *)((const uint8_t *)rows->x[m] + b / 8 * rows->block_stride);
            int32_t sum = 0;
            for (uint32_t i = 0; i < 32; i++)
                sum += w.q[i] * x->q[b % 8 * 32 + i];
            float *to = &out[m * PANEL_ROWS + row], scale = x->scales[b % 8];
            *to = fmaf((float)sum, w.d * scale, *to);
            if (w.has_minima)
                *to = fmaf(w.dmin, scale * (float)x->sums32[b % 8], *to);
        }
    }
}

#define SCALAR_KERNEL(name, type_name, columns)                                                    \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        memset(out, 0, rows->n *PANEL_ROWS * sizeof *out);                                         \
        for (uint32_t r = 0; r < PANEL_ROWS; r++)                                                  \
            row_##columns(integers_##name, packed_layout(type_name), panel, r, n_cols, rows, out); \
    }

SCALAR_KERNEL(q4_k, TENSOR_Q4_K, 256)
SCALAR_KERNEL(q5_k, TENSOR_Q5_K, 256)
SCALAR_KERNEL(q6_k, TENSOR_Q6_K, 256)
SCALAR_KERNEL(q2_k, TENSOR_Q2_K, 256)
SCALAR_KERNEL(q3_k, TENSOR_Q3_K, 256)
SCALAR_KERNEL(iq4_xs, TENSOR_IQ4_XS, 256)
SCALAR_KERNEL(q8_0, TENSOR_Q8_0, 32)
SCALAR_KERNEL(q4_0, TENSOR_Q4_0, 32)
SCALAR_KERNEL(q4_1, TENSOR_Q4_1, 32)
SCALAR_KERNEL(q5_0, TENSOR_Q5_0, 32)
SCALAR_KERNEL(q5_1, TENSOR_Q5_1, 32)
SCALAR_KERNEL(iq4_nl, TENSOR_IQ4_NL, 32)
SCALAR_KERNEL(mxfp4, TENSOR_MXFP4, 32)

/* Floats: one fused multiply-add per column, ascending. */
static void dots_floats(enum tensor_type type, const uint8_t *panel, uint32_t n_cols,
                        const struct act_rows *rows, float *out)
{
    const struct packed_layout *layout = packed_layout(type);
    const struct tensor_type_info *info = tensor_type_info(type);
    uint8_t bytes[4];
    float w[4];
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t r = 0; r < PANEL_ROWS; r++)
        for (uint32_t b = 0; b < n_cols / layout->block_columns; b++) {
            packed_read_block(layout, panel, r, b, bytes);
            info->decode(bytes, w, layout->block_columns);
            for (uint32_t m = 0; m < rows->n; m++)
                for (uint32_t i = 0; i < layout->block_columns; i++) {
                    float *to = &out[m * PANEL_ROWS + r];
                    const float *x = rows->x[m];
                    *to = fmaf(w[i], x[b * layout->block_columns + i], *to);
                }
        }
}

#define SCALAR_FLOATS(name, type)                                                                  \
    static void dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        dots_floats(type, panel, n_cols, rows, out);                                               \
    }

SCALAR_FLOATS(f32, TENSOR_F32)
SCALAR_FLOATS(f16, TENSOR_F16)
SCALAR_FLOATS(bf16, TENSOR_BF16)
SCALAR_FLOATS(f8_e4m3, TENSOR_F8_E4M3)
SCALAR_FLOATS(f8_e5m2, TENSOR_F8_E5M2)

/* bfloat16 by bfloat16, as x86_amx_bf16.c says. */
static void dots_bf16_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                           float *out)
{
    const struct packed_layout *layout = packed_layout(TENSOR_BF16);
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t m = 0; m < rows->n; m++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++) {
            float *to = &out[m * PANEL_ROWS + r];
            for (uint32_t k = 0; k < n_cols; k += 32) {
                const struct act_bf16 *x =
                    (const void *)((const uint8_t *)rows->x[m] + k / 256 * rows->block_stride);
                float even = 0.0f, odd = 0.0f;
                for (uint32_t c = k; c < k + 32 && c < n_cols; c += 2) {
                    uint8_t w[4];
                    packed_read_block(layout, panel, r, c / 2, w);
                    even = multiply_add(bf16_to_f32((uint16_t)load_u16(w)), x->x[c % 256], even);
                    odd = multiply_add(bf16_to_f32((uint16_t)load_u16(w + 2)), x->x[c % 256 + 1],
                                       odd);
                }
                *to = flushed(*to + flushed(even + odd));
            }
        }
}

/* In pairs, as x86_avx512_bf16.c says: the second of two columns first, even and odd pairs apart. */
static void dots_bf16_pairs(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                            float *out)
{
    const struct packed_layout *layout = packed_layout(TENSOR_BF16);
    for (uint32_t m = 0; m < rows->n; m++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++) {
            float sums[2] = {0.0f, 0.0f};
            for (uint32_t c = 0; c < n_cols; c += 2) {
                const struct act_bf16_pairs *x =
                    (const void *)((const uint8_t *)rows->x[m] + c / 256 * rows->block_stride);
                float *sum = &sums[c / 2 % 2];
                uint8_t w[4];
                packed_read_block(layout, panel, r, c / 2, w);
                for (uint32_t i = 2; i-- > 0;)
                    *sum = multiply_add(bf16_to_f32((uint16_t)load_u16(w + 2 * i)),
                                        bf16_to_f32(x->q[c % 256 + i]), *sum);
            }
            out[m * PANEL_ROWS + r] = sums[0] + sums[1];
        }
}

/* ---- prompt rows --------------------------------------------------------------------------------- */

/*
 * A quantised weight as bfloat16: the kernels have its integer in the mantissa of a float, which is
 * base + q then, and one fused multiply-add makes a float of it whose upper half is the weight. Where
 * in the mantissa, so how large the base is, depends on what is cheapest for a column, and is seen
 * only in the last bits. Cutting off the lower half makes magnitudes too small on average; the scales
 * are made larger by as much beforehand.
 */
enum prompt_bases {
    BASES_NIBBLES_32, /* two columns in a byte, 32 apart */
    BASES_NIBBLES_16, /* 16 apart */
    BASES_BYTES,      /* below 128 */
    BASES_WIDE_BYTES,
};

struct prompt_type {
    integers_of *integers;
    int32_t offset;   /* its integers are stored so much larger */
    uint32_t columns; /* of a block */
    enum prompt_bases bases;
};

static float prompt_base(enum prompt_bases bases, uint32_t column)
{
    static const float low[4] = {0x1p11f, 0x1p15f, 0x1p7f, 0x1p11f};
    static const float high[4] = {0x1p7f, 0x1p11f, 0x1p15f, 0x1p7f};
    static const float bytes[4] = {0x1p7f, 0x1p15f, 0x1p7f, 0x1p7f};
    if (bases == BASES_WIDE_BYTES)
        return 0x1p15f;
    if (bases == BASES_BYTES)
        return bytes[column % 4];
    return (column / (bases == BASES_NIBBLES_32 ? 32 : 16) % 2 ? high : low)[column % 4];
}

/* A block's weights, each a float whose lower half is zeros. */
static void prompt_weights(const struct prompt_type *t, const uint8_t *block, float *out)
{
    struct integers w = {.has_minima = false};
    t->integers(block, &w);
    for (uint32_t i = 0; i < t->columns; i++) {
        float scale = w.d * PROMPT_SCALE, minimum = w.dmin * PROMPT_SCALE;
        if (t->columns == 256) {
            scale *= (float)w.scale[i / 16];
            minimum *= (float)w.minimum[i / 16];
        } else {
            minimum = -minimum;
        }
        if (!w.has_minima)
            minimum = scale * (float)t->offset;
        float base = prompt_base(t->bases, i), q = (float)(w.q[i] + t->offset);
        float value = fmaf(base + q, scale, fmaf(-base, scale, -minimum));
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[i] = bf16_to_f32((uint16_t)(bits >> 16));
    }
}

/* 32 columns of activations, from `column` of a block on, by as many weights. */
static void add_prompt(const float *w, const uint16_t *x, float *to)
{
    float even = 0.0f, odd = 0.0f;
    for (uint32_t i = 0; i < 32; i += 2) {
        even = multiply_add(w[i], bf16_to_f32(x[i]), even);
        odd = multiply_add(w[i + 1], bf16_to_f32(x[i + 1]), odd);
    }
    *to = flushed(*to + flushed(even + odd));
}

static void dots_prompt(const struct prompt_type *t, const struct packed_layout *layout,
                        const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                        float *out)
{
    uint8_t bytes[256];
    float w[256];
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t r = 0; r < PANEL_ROWS; r++)
        for (uint32_t k = 0; k < n_cols; k += 32) {
            if (k % t->columns == 0) {
                packed_read_block(layout, panel, r, k / t->columns, bytes);
                prompt_weights(t, bytes, w);
            }
            for (uint32_t m = 0; m < rows->n; m++) {
                const struct act_bf16_tiles *x =
                    (const void *)((const uint8_t *)rows->x[m] + k / 256 * rows->block_stride);
                add_prompt(w + k % t->columns, x->q + k % 256, &out[m * PANEL_ROWS + r]);
            }
        }
}

#define SCALAR_PROMPT(name, type_name, offset, columns, bases)                                     \
    static void prompt_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,  \
                              float *out)                                                          \
    {                                                                                              \
        static const struct prompt_type type = {integers_##name, offset, columns, bases};          \
        dots_prompt(&type, packed_layout(type_name), panel, n_cols, rows, out);                    \
    }

SCALAR_PROMPT(q4_k, TENSOR_Q4_K, 0, 256, BASES_NIBBLES_32)
SCALAR_PROMPT(q5_k, TENSOR_Q5_K, 0, 256, BASES_BYTES)
SCALAR_PROMPT(q6_k, TENSOR_Q6_K, 32, 256, BASES_BYTES)
SCALAR_PROMPT(q2_k, TENSOR_Q2_K, 0, 256, BASES_BYTES)
SCALAR_PROMPT(q3_k, TENSOR_Q3_K, 4, 256, BASES_BYTES)
SCALAR_PROMPT(iq4_xs, TENSOR_IQ4_XS, 128, 256, BASES_WIDE_BYTES)
SCALAR_PROMPT(q8_0, TENSOR_Q8_0, 128, 32, BASES_WIDE_BYTES)
SCALAR_PROMPT(q4_0, TENSOR_Q4_0, 8, 32, BASES_NIBBLES_16)
SCALAR_PROMPT(q4_1, TENSOR_Q4_1, 0, 32, BASES_NIBBLES_16)
SCALAR_PROMPT(q5_0, TENSOR_Q5_0, 16, 32, BASES_BYTES)
SCALAR_PROMPT(q5_1, TENSOR_Q5_1, 0, 32, BASES_BYTES)
SCALAR_PROMPT(iq4_nl, TENSOR_IQ4_NL, 128, 32, BASES_WIDE_BYTES)
SCALAR_PROMPT(mxfp4, TENSOR_MXFP4, 12, 32, BASES_BYTES)

/* bfloat16 as it is: the bits of dots_bf16_bf16(). Zeros past the last column add nothing. */
static void prompt_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                        float *out)
{
    const struct packed_layout *layout = packed_layout(TENSOR_BF16);
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t r = 0; r < PANEL_ROWS; r++)
        for (uint32_t k = 0; k < n_cols; k += 32) {
            float w[32] = {0};
            for (uint32_t i = 0; i < 32 && k + i < n_cols; i += 2) {
                uint8_t pair[4];
                packed_read_block(layout, panel, r, (k + i) / 2, pair);
                w[i] = bf16_to_f32((uint16_t)load_u16(pair));
                w[i + 1] = bf16_to_f32((uint16_t)load_u16(pair + 2));
            }
            for (uint32_t m = 0; m < rows->n; m++) {
                const struct act_bf16_tiles *x =
                    (const void *)((const uint8_t *)rows->x[m] + k / 256 * rows->block_stride);
                add_prompt(w, x->q + k % 256, &out[m * PANEL_ROWS + r]);
            }
        }
}

static const struct packed_kernel kernels[] = {
    {"scalar q4_K x i8", TENSOR_Q4_K, ACT_I8_256, dots_q4_k},
    {"scalar q5_K x i8", TENSOR_Q5_K, ACT_I8_256, dots_q5_k},
    {"scalar q6_K x i8", TENSOR_Q6_K, ACT_I8_256, dots_q6_k},
    {"scalar q2_K x i8", TENSOR_Q2_K, ACT_I8_256, dots_q2_k},
    {"scalar q3_K x i8", TENSOR_Q3_K, ACT_I8_256, dots_q3_k},
    {"scalar iq4_xs x i8", TENSOR_IQ4_XS, ACT_I8_256, dots_iq4_xs},
    {"scalar q8_0 x i8", TENSOR_Q8_0, ACT_I8_32, dots_q8_0},
    {"scalar q4_0 x i8", TENSOR_Q4_0, ACT_I8_32, dots_q4_0},
    {"scalar q4_1 x i8", TENSOR_Q4_1, ACT_I8_32, dots_q4_1},
    {"scalar q5_0 x i8", TENSOR_Q5_0, ACT_I8_32, dots_q5_0},
    {"scalar q5_1 x i8", TENSOR_Q5_1, ACT_I8_32, dots_q5_1},
    {"scalar iq4_nl x i8", TENSOR_IQ4_NL, ACT_I8_32, dots_iq4_nl},
    {"scalar mxfp4 x i8", TENSOR_MXFP4, ACT_I8_32, dots_mxfp4},
    {"scalar f32 x f32", TENSOR_F32, ACT_FLOAT, dots_f32},
    {"scalar f16 x f32", TENSOR_F16, ACT_FLOAT, dots_f16},
    {"scalar bf16 x bf16", TENSOR_BF16, ACT_BF16, dots_bf16_bf16},
    {"scalar bf16 x bf16 in pairs", TENSOR_BF16, ACT_BF16_PAIRS, dots_bf16_pairs},
    {"scalar bf16 x f32", TENSOR_BF16, ACT_FLOAT, dots_bf16},
    {"scalar f8_e4m3 x f32", TENSOR_F8_E4M3, ACT_FLOAT, dots_f8_e4m3},
    {"scalar f8_e5m2 x f32", TENSOR_F8_E5M2, ACT_FLOAT, dots_f8_e5m2},
};

static const struct packed_kernel prompt_kernels[] = {
    {"scalar q4_K x bf16", TENSOR_Q4_K, ACT_BF16_TILES, prompt_q4_k},
    {"scalar q5_K x bf16", TENSOR_Q5_K, ACT_BF16_TILES, prompt_q5_k},
    {"scalar q6_K x bf16", TENSOR_Q6_K, ACT_BF16_TILES, prompt_q6_k},
    {"scalar q2_K x bf16", TENSOR_Q2_K, ACT_BF16_TILES, prompt_q2_k},
    {"scalar q3_K x bf16", TENSOR_Q3_K, ACT_BF16_TILES, prompt_q3_k},
    {"scalar iq4_xs x bf16", TENSOR_IQ4_XS, ACT_BF16_TILES, prompt_iq4_xs},
    {"scalar q8_0 x bf16", TENSOR_Q8_0, ACT_BF16_TILES, prompt_q8_0},
    {"scalar q4_0 x bf16", TENSOR_Q4_0, ACT_BF16_TILES, prompt_q4_0},
    {"scalar q4_1 x bf16", TENSOR_Q4_1, ACT_BF16_TILES, prompt_q4_1},
    {"scalar q5_0 x bf16", TENSOR_Q5_0, ACT_BF16_TILES, prompt_q5_0},
    {"scalar q5_1 x bf16", TENSOR_Q5_1, ACT_BF16_TILES, prompt_q5_1},
    {"scalar iq4_nl x bf16", TENSOR_IQ4_NL, ACT_BF16_TILES, prompt_iq4_nl},
    {"scalar mxfp4 x bf16", TENSOR_MXFP4, ACT_BF16_TILES, prompt_mxfp4},
    {"scalar bf16 x bf16 of prompts", TENSOR_BF16, ACT_BF16_TILES, prompt_bf16},
};

const struct kernel_set kernel_set_scalar = {
    .name = "scalar",
    .packed = kernels,
    .n_packed = sizeof kernels / sizeof *kernels,
    .prompt = prompt_kernels,
    .n_prompt = sizeof prompt_kernels / sizeof *prompt_kernels,
    .quantise = act_quantise_scalar,
};

static bool is_integers(enum act_form form)
{
    return form == ACT_I8_256 || form == ACT_I8_32 || form == ACT_I16_256 || form == ACT_I16_32;
}

/* Integers are the same in the wide forms. Prompt rows have a form of their own. */
const struct packed_kernel *kernel_twin(const struct packed_kernel *kernel)
{
    const struct kernel_set *set = &kernel_set_scalar;
    for (uint32_t i = 0; i < set->n_packed + set->n_prompt; i++) {
        const struct packed_kernel *twin =
            i < set->n_packed ? &set->packed[i] : &set->prompt[i - set->n_packed];
        if (twin->type == kernel->type &&
            (twin->form == kernel->form || (is_integers(twin->form) && is_integers(kernel->form))))
            return twin;
    }
    return NULL;
}
