/* The scalar twin of attention in tiles: plain loops that say which bits tile_attention.h means. */
#include "backend/cpu/tile_attention.h"

#include <string.h>

#include "backend/cpu/bf16_sum.h"

static uint16_t rounded(float x)
{
    return f32_to_bf16(flushed(x));
}

static uint16_t element(enum tensor_type type, const uint8_t *at, size_t i)
{
    uint16_t word;
    memcpy(&word, at + 2 * i, sizeof word);
    return type == TENSOR_F16 ? rounded(f16_to_f32(word)) : word;
}

static void round_scalar(const float *x, uint32_t n, uint16_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = rounded(x[i]);
}

static void keys_scalar(enum tensor_type type, const uint8_t *group, uint32_t dim, uint16_t *out)
{
    for (uint32_t c = 0; c < dim; c++)
        for (uint32_t t = 0; t < KEY_GROUP; t++)
            out[(c / 2 * KEY_GROUP + t) * 2 + c % 2] = element(type, group, c * KEY_GROUP + t);
}

static bool values_scalar(enum tensor_type type, const uint8_t *rows, uint32_t first, uint32_t end,
                          uint32_t dim, uint16_t *out)
{
    bool finite = true;
    for (uint32_t t = 0; t < KEY_GROUP; t++)
        for (uint32_t c = 0; c < dim; c++) {
            bool seen = t >= first && t < end;
            uint16_t word = seen ? element(type, rows, (size_t)t * dim + c) : 0;
            out[(c / 16 * 16 + t / 2) * 32 + c % 16 * 2 + t % 2] = word;
            finite &= (word & 0x7f80u) != 0x7f80u;
        }
    return finite;
}

/* sum += 32 terms; of which y has pairs of two in one word, `apart` words from each other. */
static float step(const uint16_t *x, const uint16_t *y, uint32_t apart, float sum)
{
    float even = 0.0f, odd = 0.0f;
    for (uint32_t i = 0; i < TILE_STEP; i += 2, y += apart) {
        even = multiply_add(bf16_to_f32(x[i]), bf16_to_f32(y[0]), even);
        odd = multiply_add(bf16_to_f32(x[i + 1]), bf16_to_f32(y[1]), odd);
    }
    return flushed(sum + flushed(even + odd));
}

static void scores_scalar(const uint16_t *q, uint32_t n, uint32_t dim, const uint16_t *keys,
                          uint32_t n_groups, float *out)
{
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t t = 0; t < n_groups * KEY_GROUP; t++) {
            const uint16_t *key = keys + (size_t)(t / KEY_GROUP) * KEY_GROUP * dim;
            float sum = 0.0f;
            for (uint32_t c = 0; c < dim; c += TILE_STEP)
                sum = step(q + (size_t)p * dim + c, key + c * KEY_GROUP + t % KEY_GROUP * 2,
                           2 * KEY_GROUP, sum);
            out[p * SCORE_STRIDE + t] = sum;
        }
}

static void mix_scalar(const uint16_t *weights, uint32_t n, uint32_t dim, const uint16_t *values,
                       uint32_t n_steps, float *sums)
{
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t c = 0; c < dim; c++) {
            float sum = 0.0f;
            for (uint32_t s = 0; s < n_steps; s++)
                sum = step(weights + p * WEIGHT_STRIDE + s * TILE_STEP,
                           values + ((size_t)s * dim + c / 16 * 16) * TILE_STEP + c % 16 * 2, 32,
                           sum);
            sums[(size_t)p * dim + c] = sum + 0.0f;
        }
}

const struct tile_attention tile_attention_scalar = {
    .name = "scalar bf16",
    .round = round_scalar,
    .keys = keys_scalar,
    .values = values_scalar,
    .scores = scores_scalar,
    .mix = mix_scalar,
};
