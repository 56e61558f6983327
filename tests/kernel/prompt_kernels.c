#include "prompt_kernels.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/tile_attention.h"

#define PROMPT_COLUMNS_MAX 4096

static void prompt_dots(enum tensor_type type, const uint8_t *panel, uint32_t n_cols,
                        const struct act_rows *rows, float *out)
{
    static _Thread_local float row[PROMPT_COLUMNS_MAX];
    static _Thread_local float weights[PROMPT_COLUMNS_MAX][PANEL_ROWS];
    if (n_cols > PROMPT_COLUMNS_MAX)
        abort();
    for (uint32_t r = 0; r < PANEL_ROWS; r++) {
        packed_read_row(packed_layout(type), panel, r, n_cols, row);
        for (uint32_t c = 0; c < n_cols; c++)
            weights[c][r] = row[c];
    }
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t m = 0; m < rows->n; m++)
        for (uint32_t c = 0; c < n_cols; c++) {
            const struct act_bf16_pairs *block =
                (const void *)((const uint8_t *)rows->x[m] + c / ACT_COLUMNS * rows->block_stride);
            float x = bf16_to_f32(block->q[c % ACT_COLUMNS]);
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                out[m * PANEL_ROWS + r] += x * weights[c][r];
        }
}

#define PROMPT_DOTS(type)                                                                          \
    static void prompt_##type(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,  \
                              float *out)                                                          \
    {                                                                                              \
        prompt_dots(TENSOR_##type, panel, n_cols, rows, out);                                      \
    }                                                                                              \
    static void prompt_many_##type(const uint8_t *const *panels, uint32_t n_panels,                \
                                   uint32_t n_cols, const struct act_rows *rows,                   \
                                   float *const *out)                                              \
    {                                                                                              \
        for (uint32_t i = 0; i < n_panels; i++)                                                    \
            prompt_dots(TENSOR_##type, panels[i], n_cols, rows, out[i]);                           \
    }

PROMPT_DOTS(Q4_K)
PROMPT_DOTS(Q5_K)
PROMPT_DOTS(Q6_K)
PROMPT_DOTS(Q2_K)
PROMPT_DOTS(Q3_K)
PROMPT_DOTS(IQ4_XS)
PROMPT_DOTS(Q8_0)
PROMPT_DOTS(Q4_0)
PROMPT_DOTS(Q4_1)
PROMPT_DOTS(Q5_0)
PROMPT_DOTS(Q5_1)
PROMPT_DOTS(IQ4_NL)
PROMPT_DOTS(MXFP4)
PROMPT_DOTS(F32)
PROMPT_DOTS(F16)
PROMPT_DOTS(BF16)
PROMPT_DOTS(F8_E4M3)
PROMPT_DOTS(F8_E5M2)

#define PROMPT_ENTRY(type)                                                                         \
    {                                                                                              \
        "test prompt " #type, TENSOR_##type, ACT_BF16_PAIRS, prompt_##type                         \
    }

static const struct packed_kernel prompt_kernels_of_types[] = {
    PROMPT_ENTRY(Q4_K),    PROMPT_ENTRY(Q5_K),    PROMPT_ENTRY(Q6_K), PROMPT_ENTRY(Q2_K),
    PROMPT_ENTRY(Q3_K),    PROMPT_ENTRY(IQ4_XS),  PROMPT_ENTRY(Q8_0), PROMPT_ENTRY(Q4_0),
    PROMPT_ENTRY(Q4_1),    PROMPT_ENTRY(Q5_0),    PROMPT_ENTRY(Q5_1), PROMPT_ENTRY(IQ4_NL),
    PROMPT_ENTRY(MXFP4),   PROMPT_ENTRY(F32),     PROMPT_ENTRY(F16),  PROMPT_ENTRY(BF16),
    PROMPT_ENTRY(F8_E4M3), PROMPT_ENTRY(F8_E5M2),
};

static const struct many_kernel prompt_many_of_types[] = {
    {TENSOR_Q4_K, prompt_many_Q4_K},       {TENSOR_Q6_K, prompt_many_Q6_K},
    {TENSOR_Q5_K, prompt_many_Q5_K},       {TENSOR_Q2_K, prompt_many_Q2_K},
    {TENSOR_Q3_K, prompt_many_Q3_K},       {TENSOR_IQ4_XS, prompt_many_IQ4_XS},
    {TENSOR_Q8_0, prompt_many_Q8_0},       {TENSOR_Q4_0, prompt_many_Q4_0},
    {TENSOR_Q4_1, prompt_many_Q4_1},       {TENSOR_Q5_0, prompt_many_Q5_0},
    {TENSOR_Q5_1, prompt_many_Q5_1},       {TENSOR_IQ4_NL, prompt_many_IQ4_NL},
    {TENSOR_MXFP4, prompt_many_MXFP4},     {TENSOR_F16, prompt_many_F16},
    {TENSOR_F32, prompt_many_F32},         {TENSOR_BF16, prompt_many_BF16},
    {TENSOR_F8_E4M3, prompt_many_F8_E4M3}, {TENSOR_F8_E5M2, prompt_many_F8_E5M2},
};

const struct kernel_set prompt_kernels = {
    .name = "test prompt",
    .prompt = prompt_kernels_of_types,
    .n_prompt = sizeof prompt_kernels_of_types / sizeof *prompt_kernels_of_types,
    .attention = &tile_attention_scalar,
    .many = prompt_many_of_types,
    .n_many = sizeof prompt_many_of_types / sizeof *prompt_many_of_types,
};
