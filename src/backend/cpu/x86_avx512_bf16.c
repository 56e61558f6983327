/*
 * AVX512-BF16: matrices of bfloat16 times rows of activations rounded to bfloat16.
 *
 * vdpbf16ps takes a word of all 16 rows of a panel (two columns each) and a broadcast word of
 * activations: two fused multiply-adds a lane onto a float32, the second column's product first,
 * rounded to nearest even each, subnormals counting as zeros whatever MXCSR says (Intel SDM). A row's
 * even words are one sum and its odd words another, so that one row alone does not wait for every
 * addition; the two are added at the end. The order is the same for any number of rows. The scalar
 * twin has the same bits, those of AMX's tiles are others.
 *
 * A word meets a row of activations in one instruction here, in two with float32 activations, which
 * also need the word taken apart. On a fourth-generation Xeon the instruction was measured at a
 * quarter of a multiply-add's rate, so that it would lose: such a processor keeps float32 activations
 * where a hypervisor hides its AMX. On AMD's it was measured as fast as vpdpbusd: they prefer this set.
 */
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#include "backend/cpu/x86_avx512.h"

#define ROWS 8 /* together */

INLINE __m512 multiply_add(__m512 sum, __m512i weights, __m512i x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)x);
}

/* n (constant) rows from row m. */
INLINE void rows_pairs(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                       uint32_t m, uint32_t n, float *out)
{
    __m512 even[ROWS], odd[ROWS];
    UNROLL for (uint32_t i = 0; i < n; i++) even[i] = odd[i] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < n_cols; k += ACT_COLUMNS) {
        uint32_t words = (n_cols - k < ACT_COLUMNS ? n_cols - k : ACT_COLUMNS) / 2, w = 0;
        const uint16_t *x[ROWS];
        UNROLL for (uint32_t i = 0; i < n; i++) x[i] =
            ((const struct act_bf16_pairs *)act_at(rows, m + i, k / ACT_COLUMNS))->q;
        for (; w + 2 <= words; w += 2, panel += 128) {
            __m512i first = word(panel, 0), second = word(panel, 1);
            _mm_prefetch((const char *)panel + PREFETCH, _MM_HINT_T0);
            _mm_prefetch((const char *)panel + PREFETCH + 64, _MM_HINT_T0);
            UNROLL for (uint32_t i = 0; i < n; i++)
            {
                even[i] = multiply_add(even[i], first, broadcast(x[i] + 2 * w));
                odd[i] = multiply_add(odd[i], second, broadcast(x[i] + 2 * w + 2));
            }
        }
        if (w < words) { /* of the last block only, so that every other starts with an even word */
            __m512i last = word(panel, 0);
            UNROLL for (uint32_t i = 0; i < n; i++) even[i] =
                multiply_add(even[i], last, broadcast(x[i] + 2 * w));
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++)
        _mm512_storeu_ps(out + PANEL_ROWS * (m + i), _mm512_add_ps(even[i], odd[i]));
}

static void dots_bf16(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,
                      float *out)
{
    uint32_t m = 0;
    for (; m + ROWS <= rows->n; m += ROWS)
        rows_pairs(panel, n_cols, rows, m, ROWS, out);
    if (m + 4 <= rows->n) {
        rows_pairs(panel, n_cols, rows, m, 4, out);
        m += 4;
    }
    if (m + 2 <= rows->n) {
        rows_pairs(panel, n_cols, rows, m, 2, out);
        m += 2;
    }
    if (m < rows->n)
        rows_pairs(panel, n_cols, rows, m, 1, out);
}

static void quantise(enum act_form form, const float *x, uint32_t n, void *block)
{
    if (form != ACT_BF16_PAIRS) {
        avx2_quantise(form, x, n, block);
        return;
    }
    struct act_bf16_pairs *out = block;
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(out->q + i),
                            _mm512_cvtepi32_epi16(rounded_to_bf16(some_floats(x, i, n))));
}

static const struct packed_kernel packed_kernels[] = {
    {"avx512-bf16 bf16 x bf16", TENSOR_BF16, ACT_BF16_PAIRS, dots_bf16},
};

/* Every other type is served by the AVX-512 set behind it. */
const struct kernel_set kernel_set_avx512_bf16 = {
    .name = "avx512-bf16",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .quantise = quantise,
    .usable = x86_avx512_bf16_usable,
    .preferred = x86_avx512_bf16_preferred,
};

#else
typedef int x86_avx512_bf16_is_empty;
#endif
