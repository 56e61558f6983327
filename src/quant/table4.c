/*
 * Four-bit types whose codes are entries of a table instead of even steps.
 *
 *   IQ4_NL  18 bytes: d (f16); 16 bytes: low nibbles are values 0-15, high nibbles 16-31
 *                                                 value = d * uneven[q]
 *   IQ4_XS  136: d; upper bit pairs of eight 6-bit scales (16 bits); their lower nibbles (4 bytes);
 *           eight times 16 bytes as in IQ4_NL     value = d * (scale - 32) * uneven[q]
 *   MXFP4   17: e, the exponent of a power of two; 16 bytes as in IQ4_NL (OCP Microscaling: E2M1)
 *                                                 value = 2^(e - 127) * e2m1[q]
 *   NVFP4   36: four scales (E4M3 without a sign), one for 16 values; four times 8 bytes: low nibbles
 *           are values 0-7, high nibbles 8-15     value = scale * e2m1[q]
 */
#include <math.h>
#include <string.h>

#include "quant/fit.h"
#include "quant/formats.h"
#include "quant/tensor_type.h"

/* Close to even steps where weights are dense, wider outside: the table of IQ4_NL. */
static const int8_t uneven[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
/* E2M1 times two: sign, two bits of exponent, one of mantissa. */
static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* n bytes: low nibbles, then high ones. */
static void decode_nibbles(const uint8_t *bytes, int n, const int8_t table[16], float scale,
                           float *values)
{
    for (int i = 0; i < n; i++) {
        values[i] = scale * (float)table[bytes[i] & 15];
        values[i + n] = scale * (float)table[bytes[i] >> 4];
    }
}

static void store_nibbles(const uint8_t *q, uint8_t *bytes)
{
    for (int i = 0; i < 16; i++)
        bytes[i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

void decode_iq4_nl(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / 32; b++, block += 18, values += 32)
        decode_nibbles(block + 2, 16, uneven, load_scale(block), values);
}

void decode_iq4_xs(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / 256; b++, block += 136) {
        float d = load_scale(block);
        uint32_t high = (uint32_t)block[2] | (uint32_t)block[3] << 8;
        for (int i = 0; i < 8; i++, values += 32) {
            int scale = (block[4 + i / 2] >> (i % 2 * 4) & 15) | (int)(high >> (2 * i) & 3) << 4;
            decode_nibbles(block + 8 + 16 * i, 16, uneven, d * (float)(scale - 32), values);
        }
    }
}

/* ---- IQ4 encoding ------------------------------------------------------------------------------ */

/* Index of the entry nearest to x. */
static uint8_t nearest_uneven(float x)
{
    int low = 0, high = 15;
    if (!(x > (float)uneven[0]))
        return 0;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (x < (float)uneven[middle])
            high = middle;
        else
            low = middle;
    }
    return (uint8_t)(x - (float)uneven[low] < (float)uneven[high] - x ? low : high);
}

/* nearest_uneven() at steps of 1/2: what the search and the rounding look up. */
struct nearest {
    uint8_t code[512]; /* of -128, -127.5, ... */
    float value[512];  /* of those codes */
};

static void fill_nearest(struct nearest *table)
{
    for (int i = 0; i < 512; i++) {
        table->code[i] = nearest_uneven(0.5f * (float)(i - 256));
        table->value[i] = (float)uneven[table->code[i]];
    }
}

/* Index into the table. */
static inline int place(float x)
{
    x = x < -128.0f ? -128.0f : x;
    x = x > 127.0f ? 127.0f : x;
    return (int)(2.0f * x + 256.5f);
}

static float usable(float x)
{
    return fabsf(x) < 1e30f ? x : 0.0f;
}

/* The real scale that fits 32 values best, over candidates that map the largest to around either
 * end of the table. */
static float fit_scale(const struct nearest *table, const float *x, const float *weights)
{
    float most = 0.0f;
    for (int i = 0; i < 32; i++)
        if (fabsf(usable(x[i])) > fabsf(most))
            most = x[i];
    if (fabsf(most) < 1e-30f)
        return 0.0f;
    float inverse[FIT_LANES], xq[FIT_LANES] = {0}, qq[FIT_LANES] = {0};
    for (int c = 0; c < FIT_LANES; c++) /* -127 +- a seventh, then 113 likewise */
        inverse[c] = (c < 8 ? -142.0f + 4.5f * (float)c : 101.0f + 4.5f * (float)(c - 8)) / most;
    for (int i = 0; i < 32; i++) {
        float w = weights ? weights[i] : 1.0f, v = usable(x[i]);
        int at[FIT_LANES];
        float q[FIT_LANES];
        for (int c = 0; c < FIT_LANES; c++)
            at[c] = place(v * inverse[c]);
        for (int c = 0; c < FIT_LANES; c++)
            q[c] = table->value[at[c]];
        for (int c = 0; c < FIT_LANES; c++) {
            float wq = w * q[c];
            xq[c] += wq * v;
            qq[c] += wq * q[c];
        }
    }
    return fit_best_scale(xq, qq);
}

/* Codes of 32 values under a scale; returns the weighted error. */
static float round_uneven(const struct nearest *table, const float *x, const float *weights,
                          float scale, uint8_t q[32])
{
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f, error = 0.0f;
    for (int i = 0; i < 32; i++) {
        float v = usable(x[i]);
        int at = place(v * inverse);
        q[i] = table->code[at];
        float off = v - scale * table->value[at];
        error += (weights ? weights[i] : 1.0f) * off * off;
    }
    return error;
}

static uint16_t to_f16(float x)
{
    return f32_to_f16(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

void encode_iq4_nl(const float *values, const float *weights, void *blocks, size_t n)
{
    uint8_t *block = blocks, q[32];
    struct nearest table;
    fill_nearest(&table);
    for (size_t b = 0; b < n / 32; b++, block += 18, values += 32) {
        const float *w = weights ? weights + 32 * b : NULL;
        uint16_t d = to_f16(fit_scale(&table, values, w));
        round_uneven(&table, values, w, f16_to_f32(d), q);
        store_u16(block, d);
        store_nibbles(q, block + 2);
    }
}

/* The integer scale beside `scale` whose rounding gives the least error. */
static int settle(const struct nearest *table, const float *x, const float *weights, float d,
                  int scale, uint8_t q[32])
{
    uint8_t tried[32];
    float best = round_uneven(table, x, weights, d * (float)scale, q);
    int found = scale;
    for (int step = -1; step <= 1; step += 2) {
        int other = scale + step;
        if (other < -32 || other > 31)
            continue;
        float error = round_uneven(table, x, weights, d * (float)other, tried);
        if (error < best) {
            best = error;
            found = other;
            memcpy(q, tried, 32);
        }
    }
    return found;
}

static void encode_iq4_xs_block(const struct nearest *table, const float *x, const float *weights,
                                uint8_t *block)
{
    float scales[8], most = 0.0f;
    uint32_t high = 0;
    for (int i = 0; i < 8; i++) {
        scales[i] = fit_scale(table, x + 32 * i, weights ? weights + 32 * i : NULL);
        if (fabsf(scales[i]) > fabsf(most))
            most = scales[i];
    }
    uint16_t half = to_f16(most / -32.0f);
    float d = f16_to_f32(half);
    memset(block, 0, 136);
    store_u16(block, half);
    for (int i = 0; i < 8; i++) {
        float wanted = d != 0.0f ? roundf(scales[i] / d) : 0.0f;
        int scale = wanted < -32.0f ? -32 : wanted > 31.0f ? 31 : (int)wanted;
        uint8_t q[32];
        scale = settle(table, x + 32 * i, weights ? weights + 32 * i : NULL, d, scale, q) + 32;
        block[4 + i / 2] |= (uint8_t)((scale & 15) << (i % 2 * 4));
        high |= (uint32_t)(scale >> 4) << (2 * i);
        store_nibbles(q, block + 8 + 16 * i);
    }
    store_u16(block + 2, (uint16_t)high);
}

void encode_iq4_xs(const float *values, const float *weights, void *blocks, size_t n)
{
    struct nearest table;
    fill_nearest(&table);
    for (size_t b = 0; b < n / 256; b++)
        encode_iq4_xs_block(&table, values + 256 * b, weights ? weights + 256 * b : NULL,
                            (uint8_t *)blocks + 136 * b);
}

/* ---- microscaling floats ------------------------------------------------------------------------ */

/* 2^(e - 128): half of the block's scale, since the table is doubled. */
static float half_power(uint8_t e)
{
    return ldexpf(1.0f, (int)e - 128);
}

void decode_mxfp4(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / 32; b++, block += 17, values += 32)
        decode_nibbles(block + 1, 16, e2m1_doubled, half_power(block[0]), values);
}

/* Nearest of the sixteen; the first of equals, as the reference's arg-min. */
static uint8_t nearest_e2m1(float x, float d)
{
    uint8_t best = 0;
    float least = INFINITY;
    for (uint8_t q = 0; q < 16; q++) {
        float off = fabsf(d * (float)e2m1_doubled[q] - x);
        if (off < least) {
            least = off;
            best = q;
        }
    }
    return best;
}

/* The exponent puts the largest magnitude between 4 and 8 (6 is the largest code). */
void encode_mxfp4(const float *values, void *blocks, size_t n)
{
    uint8_t *block = blocks, q[32];
    for (size_t b = 0; b < n / 32; b++, block += 17, values += 32) {
        float most = 0.0f;
        int exponent = 0;
        for (int i = 0; i < 32; i++)
            most = fmaxf(most, fabsf(usable(values[i])));
        if (most > 0.0f)
            exponent = ilogbf(most) - 2 + 127;
        block[0] = (uint8_t)(exponent < 0 ? 0 : exponent > 254 ? 254 : exponent);
        for (int i = 0; i < 32; i++)
            q[i] = nearest_e2m1(usable(values[i]), half_power(block[0]));
        store_nibbles(q, block + 1);
    }
}

void decode_nvfp4(const void *blocks, float *values, size_t n)
{
    const uint8_t *block = blocks;
    for (size_t b = 0; b < n / 64; b++, block += 36)
        for (int i = 0; i < 4; i++, values += 16)
            decode_nibbles(block + 4 + 8 * i, 8, e2m1_doubled,
                           0.5f * f8_e4m3_to_f32(block[i] & 127), values);
}
