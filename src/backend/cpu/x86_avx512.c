/*
 * AVX-512 with VNNI: packed matrices times quantised activations.
 *
 * vpdpbusd multiplies four columns of 16 rows with a broadcast word of activations and adds to 32
 * bits; nothing saturates, so weights are made unsigned by an offset and the offset comes off by the
 * sums of the activations. Up to four rows unpack weights in registers on their way from memory;
 * more share a block unpacked into L1 and meet it eight rows at a time. Same integers and same float
 * operations as packed_scalar.c, so the same bits.
 */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) &&                      \
    defined(__AVX512VNNI__)

#include "backend/cpu/x86_avx512.h"

#include "backend/cpu/x86_avx512_types.h"

#define ROWS 8 /* together */

/* By hand: the compiler would regroup sums and spill. */
INLINE __m512i dot4(__m512i sum, __m512i weights, __m512i x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
    return sum;
}

/* ---- a scale per 256 columns ------------------------------------------------------------------- */

/* One block of n rows from row m, onto acc. steps: unpacked, or NULL. */
INLINE void block_256(struct type_256 t, const uint8_t *block, const uint8_t *steps,
                      const struct scales_256 *s, const struct act_256 *const *x, uint32_t n,
                      __m512 acc[ROWS])
{
    __m512i sum[ROWS];
    uint32_t per_scale = t.group / 4;
    UNROLL for (uint32_t m = 0; m < n; m++) sum[m] = _mm512_setzero_si512();
    UNROLL for (uint32_t g = 0; g < 8; g++)
    {
        if (!steps)
            prefetch_eighth(block, t.bytes, g);
        UNROLL for (uint32_t part = 0; part < 8 / per_scale; part++)
        {
            __m512i group[ROWS];
            UNROLL for (uint32_t m = 0; m < n; m++) group[m] = _mm512_setzero_si512();
            UNROLL for (uint32_t i = 0; i < per_scale; i++)
            {
                uint32_t step = part * per_scale + i;
                __m512i w = steps ? word(steps, 8 * g + step) : t.step(block, g, step);
                UNROLL for (uint32_t m = 0; m < n; m++) group[m] =
                    dot4(group[m], w, broadcast(x[m]->q + 32 * g + 4 * step));
            }
            __m512i scale = s->scale[t.group == 32 ? g : 2 * g + part];
            UNROLL for (uint32_t m = 0; m < n; m++) sum[m] =
                _mm512_add_epi32(sum[m], _mm512_mullo_epi32(group[m], scale));
        }
    }
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        const int16_t *sums = t.group == 32 ? x[m]->sums32 : x[m]->sums16;
        __m512i bias = _mm512_setzero_si512();
        uint32_t pairs = 128 / t.group;
        UNROLL for (uint32_t p = 0; p < pairs; p++) bias =
            _mm512_dpwssd_epi32(bias, s->pairs[p], broadcast(sums + 2 * p));
        __m512 scale = _mm512_set1_ps(x[m]->scale);
        __m512i all = t.bias == BIAS_OFFSET
                          ? _mm512_sub_epi32(sum[m], _mm512_slli_epi32(bias, t.shift))
                          : sum[m];
        acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), _mm512_mul_ps(s->d, scale), acc[m]);
        if (t.bias == BIAS_MINIMA)
            acc[m] =
                _mm512_fnmadd_ps(_mm512_cvtepi32_ps(bias), _mm512_mul_ps(s->dmin, scale), acc[m]);
    }
}

INLINE void rows_256(struct type_256 t, const uint8_t *block, const uint8_t *steps,
                     const struct scales_256 *s, uint32_t b, const struct act_rows *rows,
                     uint32_t m, uint32_t n, float *out)
{
    const struct act_256 *x[ROWS];
    __m512 acc[ROWS];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        x[i] = act_at(rows, m + i, b);
        acc[i] = _mm512_loadu_ps(out + 16 * (m + i));
    }
    block_256(t, block, steps, s, x, n, acc);
    UNROLL for (uint32_t i = 0; i < n; i++) _mm512_storeu_ps(out + 16 * (m + i), acc[i]);
}

INLINE void dots_256(struct type_256 t, const uint8_t *panel, uint32_t n_cols,
                     const struct act_rows *rows, float *out)
{
    uint8_t steps[64 * 64] __attribute__((aligned(64)));
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t b = 0; b < n_cols / 256; b++, panel += t.bytes) {
        struct scales_256 s;
        uint32_t m = 0;
        t.scales(panel, &s);
        if (rows->n == 1) {
            rows_256(t, panel, NULL, &s, b, rows, 0, 1, out);
            continue;
        }
        if (rows->n == 4) {
            rows_256(t, panel, NULL, &s, b, rows, 0, 4, out);
            continue;
        }
        UNROLL for (uint32_t g = 0; g < 8; g++)
        {
            prefetch_eighth(panel, t.bytes, g);
            UNROLL for (uint32_t i = 0; i < 8; i++)
                _mm512_store_si512(steps + 64 * (8 * g + i), t.step(panel, g, i));
        }
        for (; m + ROWS <= rows->n; m += ROWS)
            rows_256(t, NULL, steps, &s, b, rows, m, ROWS, out);
        for (; m + 3 <= rows->n; m += 3)
            rows_256(t, NULL, steps, &s, b, rows, m, 3, out);
        for (; m < rows->n; m++)
            rows_256(t, NULL, steps, &s, b, rows, m, 1, out);
    }
}

#define KERNEL_256(name, type)                                                                     \
    void avx512_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        dots_256((struct type_256)type, panel, n_cols, rows, out);                                 \
    }

KERNEL_256(q4_k, TYPE_Q4_K)
KERNEL_256(q5_k, TYPE_Q5_K)
KERNEL_256(q6_k, TYPE_Q6_K)
KERNEL_256(q2_k, TYPE_Q2_K)
KERNEL_256(q3_k, TYPE_Q3_K)
KERNEL_256(iq4_xs, TYPE_IQ4_XS)

/* ---- a scale per 32 columns -------------------------------------------------------------------- */

INLINE void block_32(struct type_32 t, const uint8_t *block, const uint8_t *steps, __m512 d,
                     __m512 minimum, uint32_t b, const struct act_32 *const *x, uint32_t n,
                     __m512 acc[ROWS])
{
    __m512i sum[ROWS];
    UNROLL for (uint32_t m = 0; m < n; m++) sum[m] = _mm512_setzero_si512();
    UNROLL for (uint32_t i = 0; i < 8; i++)
    {
        __m512i w = steps ? word(steps, i) : t.step(block, i);
        UNROLL for (uint32_t m = 0; m < n; m++) sum[m] =
            dot4(sum[m], w, broadcast(x[m]->q + 32 * b + 4 * i));
    }
    UNROLL for (uint32_t m = 0; m < n; m++)
    {
        float scale = x[m]->scales[b];
        int32_t total = x[m]->sums32[b];
        __m512i all = _mm512_sub_epi32(sum[m], _mm512_set1_epi32(t.offset * total));
        acc[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), _mm512_mul_ps(d, _mm512_set1_ps(scale)),
                                 acc[m]);
        if (t.has_minima)
            acc[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(scale * (float)total), acc[m]);
    }
}

struct panel_32 {
    uint8_t steps[64 * 64];
    __m512 d[8], m[8];
};

/* Blocks [from, from + count) of n rows from row m; p: unpacked, or NULL. */
INLINE void rows_32(struct type_32 t, const uint8_t *panel, const struct panel_32 *p,
                    uint32_t chunk, uint32_t count, const struct act_rows *rows, uint32_t m,
                    uint32_t n, float *out)
{
    const struct act_32 *x[ROWS];
    __m512 acc[ROWS];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        x[i] = act_at(rows, m + i, chunk);
        acc[i] = _mm512_loadu_ps(out + 16 * (m + i));
    }
    for (uint32_t b = 0; b < count; b++) {
        if (p) {
            block_32(t, NULL, p->steps + 512 * b, p->d[b], p->m[b], b, x, n, acc);
        } else {
            __m512 d, minimum;
            t.scales(panel + b * t.bytes, &d, &minimum);
            prefetch_block(panel + b * t.bytes, t.bytes);
            block_32(t, panel + b * t.bytes, NULL, d, minimum, b, x, n, acc);
        }
    }
    UNROLL for (uint32_t i = 0; i < n; i++) _mm512_storeu_ps(out + 16 * (m + i), acc[i]);
}

INLINE void dots_32(struct type_32 t, const uint8_t *panel, uint32_t n_cols,
                    const struct act_rows *rows, float *out)
{
    struct panel_32 p;
    uint32_t blocks = n_cols / 32;
    memset(out, 0, rows->n * PANEL_ROWS * sizeof *out);
    for (uint32_t from = 0; from < blocks; from += 8, panel += 8 * t.bytes) {
        uint32_t count = blocks - from < 8 ? blocks - from : 8, m = 0;
        if (rows->n == 1) {
            rows_32(t, panel, NULL, from / 8, count, rows, 0, 1, out);
            continue;
        }
        if (rows->n == 4) {
            rows_32(t, panel, NULL, from / 8, count, rows, 0, 4, out);
            continue;
        }
        for (uint32_t b = 0; b < count; b++) {
            const uint8_t *block = panel + b * t.bytes;
            prefetch_block(block, t.bytes);
            t.scales(block, &p.d[b], &p.m[b]);
            UNROLL for (uint32_t i = 0; i < 8; i++)
                _mm512_storeu_si512(p.steps + 512 * b + 64 * i, t.step(block, i));
        }
        for (; m + ROWS <= rows->n; m += ROWS)
            rows_32(t, NULL, &p, from / 8, count, rows, m, ROWS, out);
        for (; m + 3 <= rows->n; m += 3)
            rows_32(t, NULL, &p, from / 8, count, rows, m, 3, out);
        for (; m < rows->n; m++)
            rows_32(t, NULL, &p, from / 8, count, rows, m, 1, out);
    }
}

#define KERNEL_32(name, type)                                                                      \
    void avx512_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        dots_32((struct type_32)type, panel, n_cols, rows, out);                                   \
    }

KERNEL_32(q8_0, TYPE_Q8_0)
KERNEL_32(q4_0, TYPE_Q4_0)
KERNEL_32(q4_1, TYPE_Q4_1)
KERNEL_32(q5_0, TYPE_Q5_0)
KERNEL_32(q5_1, TYPE_Q5_1)
KERNEL_32(iq4_nl, TYPE_IQ4_NL)
KERNEL_32(mxfp4, TYPE_MXFP4)

/* ---- floats: one fused multiply-add per column, ascending -------------------------------------- */

typedef void columns_fn(const uint8_t *word, __m512 out[4]);

INLINE void read_f32(const uint8_t *at, __m512 out[4])
{
    out[0] = _mm512_loadu_ps(at);
}

INLINE void read_bf16(const uint8_t *at, __m512 out[4])
{
    __m512i w = word(at, 0);
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000u)));
}

INLINE void read_f16(const uint8_t *at, __m512 out[4])
{
    out[0] = low_halves(word(at, 0));
    out[1] = high_halves(word(at, 0));
}

/* The upper byte of a float16. */
INLINE void read_f8_e5m2(const uint8_t *at, __m512 out[4])
{
    __m512i w = word(at, 0), even = _mm512_slli_epi16(w, 8);
    __m512i odd = _mm512_and_si512(w, _mm512_set1_epi16((short)0xff00));
    out[0] = low_halves(even);
    out[1] = low_halves(odd);
    out[2] = high_halves(even);
    out[3] = high_halves(odd);
}

/* Bytes in the upper halves of 16 bits as float16 that are 2^-8 times as large; two NaNs apart. */
INLINE __m512i e4m3_halves(__m512i v)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7f00);
    __m512i m = _mm512_and_si512(v, magnitude);
    __m512i half = _mm512_mask_mov_epi16(
        _mm512_srli_epi16(m, 1), _mm512_cmpeq_epi16_mask(m, magnitude), _mm512_set1_epi16(0x7fff));
    return _mm512_or_si512(half, _mm512_and_si512(v, _mm512_set1_epi16((short)0x8000)));
}

INLINE void read_f8_e4m3(const uint8_t *at, __m512 out[4])
{
    __m512i w = word(at, 0), even = e4m3_halves(_mm512_slli_epi16(w, 8)), odd = e4m3_halves(w);
    const __m512 scale = _mm512_set1_ps(256.0f);
    out[0] = _mm512_mul_ps(low_halves(even), scale);
    out[1] = _mm512_mul_ps(low_halves(odd), scale);
    out[2] = _mm512_mul_ps(high_halves(even), scale);
    out[3] = _mm512_mul_ps(high_halves(odd), scale);
}

/* n (constant) rows from row m. Weights become floats in registers: eight rows hide that. */
INLINE void rows_float(columns_fn *read, uint32_t columns, const uint8_t *panel, uint32_t n_cols,
                       const struct act_rows *rows, uint32_t m, uint32_t n, float *out)
{
    const float *x[16];
    __m512 acc[16];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        x[i] = rows->x[m + i];
        acc[i] = _mm512_setzero_ps();
    }
    for (uint32_t k = 0; k < n_cols; k += columns, panel += 64) {
        __m512 w[4];
        _mm_prefetch((const char *)panel + PREFETCH, _MM_HINT_T0);
        read(panel, w);
        UNROLL for (uint32_t c = 0; c < columns; c++) UNROLL for (uint32_t i = 0; i < n; i++)
            acc[i] = _mm512_fmadd_ps(w[c], _mm512_set1_ps(x[i][k + c]), acc[i]);
    }
    UNROLL for (uint32_t i = 0; i < n; i++) _mm512_storeu_ps(out + 16 * (m + i), acc[i]);
}

#define KERNEL_FLOAT(name, columns)                                                                \
    void avx512_dots_##name(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows,    \
                            float *out)                                                            \
    {                                                                                              \
        uint32_t m = 0;                                                                            \
        for (; m + 16 <= rows->n; m += 16)                                                         \
            rows_float(read_##name, columns, panel, n_cols, rows, m, 16, out);                     \
        for (; m + 4 <= rows->n; m += 4)                                                           \
            rows_float(read_##name, columns, panel, n_cols, rows, m, 4, out);                      \
        for (; m < rows->n; m++)                                                                   \
            rows_float(read_##name, columns, panel, n_cols, rows, m, 1, out);                      \
    }

KERNEL_FLOAT(f32, 1)
KERNEL_FLOAT(f16, 2)
KERNEL_FLOAT(bf16, 2)
KERNEL_FLOAT(f8_e4m3, 4)
KERNEL_FLOAT(f8_e5m2, 4)

/* ---- tables ------------------------------------------------------------------------------------ */

static const struct packed_kernel packed_kernels[] = {
    {"avx512 q4_K x i8", TENSOR_Q4_K, ACT_I8_256, avx512_dots_q4_k},
    {"avx512 q5_K x i8", TENSOR_Q5_K, ACT_I8_256, avx512_dots_q5_k},
    {"avx512 q6_K x i8", TENSOR_Q6_K, ACT_I8_256, avx512_dots_q6_k},
    {"avx512 q2_K x i8", TENSOR_Q2_K, ACT_I8_256, avx512_dots_q2_k},
    {"avx512 q3_K x i8", TENSOR_Q3_K, ACT_I8_256, avx512_dots_q3_k},
    {"avx512 iq4_xs x i8", TENSOR_IQ4_XS, ACT_I8_256, avx512_dots_iq4_xs},
    {"avx512 q8_0 x i8", TENSOR_Q8_0, ACT_I8_32, avx512_dots_q8_0},
    {"avx512 q4_0 x i8", TENSOR_Q4_0, ACT_I8_32, avx512_dots_q4_0},
    {"avx512 q4_1 x i8", TENSOR_Q4_1, ACT_I8_32, avx512_dots_q4_1},
    {"avx512 q5_0 x i8", TENSOR_Q5_0, ACT_I8_32, avx512_dots_q5_0},
    {"avx512 q5_1 x i8", TENSOR_Q5_1, ACT_I8_32, avx512_dots_q5_1},
    {"avx512 iq4_nl x i8", TENSOR_IQ4_NL, ACT_I8_32, avx512_dots_iq4_nl},
    {"avx512 mxfp4 x i8", TENSOR_MXFP4, ACT_I8_32, avx512_dots_mxfp4},
    {"avx512 f16 x f32", TENSOR_F16, ACT_FLOAT, avx512_dots_f16},
    {"avx512 bf16 x f32", TENSOR_BF16, ACT_FLOAT, avx512_dots_bf16},
    {"avx512 f32 x f32", TENSOR_F32, ACT_FLOAT, avx512_dots_f32},
    {"avx512 f8_e4m3 x f32", TENSOR_F8_E4M3, ACT_FLOAT, avx512_dots_f8_e4m3},
    {"avx512 f8_e5m2 x f32", TENSOR_F8_E5M2, ACT_FLOAT, avx512_dots_f8_e5m2},
};

/* Quantising is that of AVX2, which every such processor has. */
const struct kernel_set kernel_set_avx512 = {
    .name = "avx512",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .quantise = avx2_quantise,
    .usable = x86_avx512_usable,
};

#else
typedef int x86_avx512_is_empty;
#endif
