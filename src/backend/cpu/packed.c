/* Packing as described in packed.h: plain C, a transposition of words at the speed of memory. */
#include "backend/cpu/packed.h"

#include <math.h>
#include <string.h>

#define BLOCK_BYTES_MAX 256

static const struct packed_layout layouts[] = {
    {TENSOR_F32, 1, 4, 0, 0},        {TENSOR_F16, 2, 4, 0, 0},      {TENSOR_BF16, 2, 4, 0, 0},
    {TENSOR_Q8_0, 32, 34, 2, 0},     {TENSOR_Q4_0, 32, 18, 2, 0},   {TENSOR_Q4_1, 32, 20, 0, 0},
    {TENSOR_Q5_0, 32, 22, 2, 0},     {TENSOR_Q5_1, 32, 24, 0, 0},   {TENSOR_IQ4_NL, 32, 18, 2, 0},
    {TENSOR_MXFP4, 32, 17, 1, 0},    {TENSOR_Q2_K, 256, 84, 0, 0},  {TENSOR_Q3_K, 256, 110, 0, 2},
    {TENSOR_Q4_K, 256, 144, 0, 0},   {TENSOR_Q5_K, 256, 176, 0, 0}, {TENSOR_Q6_K, 256, 210, 0, 2},
    {TENSOR_IQ4_XS, 256, 136, 0, 0}, {TENSOR_F8_E4M3, 4, 4, 0, 0},  {TENSOR_F8_E5M2, 4, 4, 0, 0},
};

const struct packed_layout *packed_layout(enum tensor_type type)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type)
            return &layouts[i];
    return NULL;
}

static inline uint32_t words_of(const struct packed_layout *layout)
{
    return (layout->block_bytes - layout->head - layout->tail) / 4;
}

/* The words of one block: out[word][row]. */
static inline void transpose(const uint8_t *block, uint64_t row_bytes, uint32_t words, uint8_t *out)
{
    for (uint32_t w = 0; w < words; w++)
        for (uint32_t r = 0; r < PANEL_ROWS; r++)
            memcpy(out + (w * PANEL_ROWS + r) * 4, block + r * row_bytes + w * 4, 4);
}

static void write_odd_bytes(const struct packed_layout *layout, const uint8_t *block,
                            uint64_t row_bytes, uint32_t n_rows, uint8_t *out)
{
    uint32_t n = layout->head + layout->tail;
    uint32_t at = layout->head ? 0 : layout->block_bytes - layout->tail;
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t i = 0; i < n; i++)
            out[r * n + i] = block[r * row_bytes + at + i];
}

void packed_write(const struct packed_layout *layout, const uint8_t *rows, uint64_t row_bytes,
                  uint32_t n_rows, uint32_t n_cols, uint8_t *panel)
{
    uint32_t words = words_of(layout);
    size_t step = (size_t)layout->block_bytes * PANEL_ROWS;
    for (uint32_t b = 0; b < n_cols / layout->block_columns; b++, panel += step) {
        const uint8_t *block = rows + (size_t)b * layout->block_bytes;
        if (n_rows == PANEL_ROWS) {
            transpose(block + layout->head, row_bytes, words, panel);
        } else {
            memset(panel, 0, step);
            for (uint32_t r = 0; r < n_rows; r++)
                for (uint32_t w = 0; w < words; w++)
                    memcpy(panel + (w * PANEL_ROWS + r) * 4,
                           block + r * row_bytes + layout->head + w * 4, 4);
        }
        write_odd_bytes(layout, block, row_bytes, n_rows, panel + (size_t)words * PANEL_ROWS * 4);
    }
}

void packed_read_block(const struct packed_layout *layout, const uint8_t *panel, uint32_t row,
                       uint32_t block, uint8_t *out)
{
    uint32_t words = words_of(layout), n = layout->head + layout->tail;
    panel += (size_t)block * layout->block_bytes * PANEL_ROWS;
    for (uint32_t w = 0; w < words; w++)
        memcpy(out + layout->head + 4 * w, panel + (w * PANEL_ROWS + row) * 4, 4);
    const uint8_t *odd = panel + (size_t)words * PANEL_ROWS * 4 + row * n;
    memcpy(layout->head ? out : out + layout->block_bytes - layout->tail, odd, n);
}

void packed_read_row(const struct packed_layout *layout, const uint8_t *panel, uint32_t row,
                     uint32_t n_cols, float *out)
{
    const struct tensor_type_info *info = tensor_type_info(layout->type);
    uint8_t bytes[BLOCK_BYTES_MAX];
    for (uint32_t b = 0; b < n_cols / layout->block_columns; b++) {
        packed_read_block(layout, panel, row, b, bytes);
        info->decode(bytes, out + (size_t)b * layout->block_columns, layout->block_columns);
    }
}

/* ---- activations ------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct act_256) == 320 && sizeof(struct act_32) == 320, "whole cache lines");
_Static_assert(sizeof(struct act_wide_256) == 576 && sizeof(struct act_wide_32) == 576,
               "whole cache lines");
_Static_assert(sizeof(struct act_bf16) == 1536 && sizeof(struct act_bf16_pairs) == 512 &&
                   sizeof(struct act_bf16_tiles) == 576,
               "whole cache lines");

size_t act_block_bytes(enum act_form form)
{
    static const size_t bytes[ACT_FORMS] = {
        [ACT_I8_256] = sizeof(struct act_256),
        [ACT_I8_32] = sizeof(struct act_32),
        [ACT_I16_256] = sizeof(struct act_wide_256),
        [ACT_I16_32] = sizeof(struct act_wide_32),
        [ACT_BF16] = sizeof(struct act_bf16),
        [ACT_BF16_PAIRS] = sizeof(struct act_bf16_pairs),
        [ACT_BF16_TILES] = sizeof(struct act_bf16_tiles),
    };
    return bytes[form];
}

static uint32_t magnitude_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* As integers, magnitudes order like the floats, with infinity and then NaN on top. */
static float quantise_group(const float *x, uint32_t n, int8_t *q)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = magnitude_bits(x[i]) > most ? magnitude_bits(x[i]) : most;
    float largest;
    memcpy(&largest, &most, sizeof largest);
    if (!(largest < INFINITY)) {
        memset(q, 0, n);
        return NAN;
    }
    if (largest < 1e-30f) { /* whose inverse would be none */
        memset(q, 0, n);
        return 0.0f;
    }
    float inverse = 127.0f / largest;
    for (uint32_t i = 0; i < n; i++)
        q[i] = (int8_t)rintf(x[i] * inverse);
    return largest / 127.0f;
}

static int16_t sum_of(const int8_t *q, uint32_t n)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += q[i];
    return (int16_t)sum;
}

static void widen(const int8_t *q, int16_t *out)
{
    static const uint8_t order[4] = {0, 2, 1, 3};
    for (uint32_t i = 0; i < ACT_COLUMNS; i++)
        out[i] = q[i / 4 * 4 + order[i % 4]];
}

static void round_to_bf16(const float *x, struct act_bf16 *out)
{
    for (uint32_t i = 0; i < ACT_COLUMNS; i++) {
        out->q[i] = f32_to_bf16(x[i]);
        out->x[i] = bf16_to_f32(out->q[i]);
    }
}

void act_quantise_scalar(enum act_form form, const float *x, uint32_t n, void *block)
{
    float padded[ACT_COLUMNS] = {0};
    memcpy(padded, x, n * sizeof *x);
    memset(block, 0, act_block_bytes(form));
    if (form == ACT_BF16) {
        round_to_bf16(padded, block);
        return;
    }
    if (form == ACT_BF16_PAIRS || form == ACT_BF16_TILES) {
        uint16_t *q = block; /* what both begin with */
        for (uint32_t i = 0; i < ACT_COLUMNS; i++)
            q[i] = f32_to_bf16(padded[i]);
        return;
    }
    if (form == ACT_I8_256 || form == ACT_I16_256) {
        struct act_256 act = {.unused = {0}};
        act.scale = quantise_group(padded, ACT_COLUMNS, act.q);
        for (uint32_t i = 0; i < 16; i++)
            act.sums16[i] = sum_of(act.q + 16 * i, 16);
        for (uint32_t i = 0; i < 8; i++)
            act.sums32[i] = sum_of(act.q + 32 * i, 32);
        if (form == ACT_I8_256) {
            memcpy(block, &act, sizeof act);
            return;
        }
        struct act_wide_256 *wide = block;
        widen(act.q, wide->q);
        memcpy(wide->sums16, act.sums16, sizeof act.sums16);
        memcpy(wide->sums32, act.sums32, sizeof act.sums32);
        wide->scale = act.scale;
        return;
    }
    struct act_32 act = {.unused = {0}};
    for (uint32_t i = 0; i < 8; i++) {
        act.scales[i] = quantise_group(padded + 32 * i, 32, act.q + 32 * i);
        act.sums32[i] = sum_of(act.q + 32 * i, 32);
    }
    if (form == ACT_I8_32) {
        memcpy(block, &act, sizeof act);
        return;
    }
    struct act_wide_32 *wide = block;
    widen(act.q, wide->q);
    memcpy(wide->scales, act.scales, sizeof act.scales);
    memcpy(wide->sums32, act.sums32, sizeof act.sums32);
}
