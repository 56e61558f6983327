/*
 * AVX2 + FMA + F16C: packed matrices times quantised activations.
 *
 * A vector of a panel holds four columns (bytes) of eight rows. maddubs multiplies unsigned weight
 * bytes with signed activation bytes and adds pairs into 16 bits; how many such vectors may be added
 * before they must be widened follows from the weights' bits (`depth`), and only then the groups'
 * scale is multiplied in (pmaddwd, to 32 bits). Two shapes of the same sums:
 *
 *   1 or 2 rows of activations (simple formats: also 4 and 8, four at a time): weights are unpacked
 *   in registers, blocks stream from memory.
 *   Else: a block of the panel is unpacked once into L1 and meets the rows three at a time, so that
 *   6 narrow and 6 wide sums, 2 weight vectors and 1 of activations fill the 16 registers. With four
 *   rows of K-quants in registers the compiler spills, and that costs more than it saves.
 *
 * Weights that need eight bits and a sign are widened to 16 bits and multiplied by pmaddwd, since
 * maddubs would saturate. Integer sums are exact, so both shapes give the bits of packed_scalar.c.
 */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "backend/cpu/x86_avx2.h"

/* ---- activations ------------------------------------------------------------------------------- */

INLINE __m256 load_floats(const float *x)
{
    return _mm256_loadu_ps(x);
}

/* 32 columns: the largest magnitude's bits in each lane. */
INLINE __m256i magnitudes(const float *x)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    UNROLL for (uint32_t i = 0; i < 4; i++) most =
        _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(load_floats(x + 8 * i)), mask));
    return most;
}

INLINE uint32_t largest(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Scale and its inverse (0 where nothing finite or nothing at all is to be stored). */
INLINE float choose_scale(uint32_t bits, float *inverse)
{
    float most;
    memcpy(&most, &bits, sizeof most);
    *inverse = 0.0f;
    if (!(most < __builtin_inff()))
        return __builtin_nanf("");
    if (most < 1e-30f)
        return 0.0f;
    *inverse = 127.0f / most;
    return most / 127.0f;
}

/* 32 columns to int8, with the sums of the 16s. */
INLINE void quantise_32(const float *x, float inverse, int8_t *q, int32_t sums[2])
{
    const __m256 scale = _mm256_set1_ps(inverse);
    __m256i v[4];
    UNROLL for (uint32_t i = 0; i < 4; i++)
    {
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(load_floats(x + 8 * i), scale));
        if (inverse == 0.0f)
            v[i] = _mm256_setzero_si256();
    }
    for (uint32_t i = 0; i < 2; i++) {
        __m256i s = _mm256_add_epi32(v[2 * i], v[2 * i + 1]);
        __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
        t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
        sums[i] = _mm_cvtsi128_si32(t);
    }
    __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, packed);
}

INLINE void widen(const int8_t *q, int16_t *out)
{
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 16) {
        __m128i v = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(q + i)), order);
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_cvtepi8_epi16(v));
    }
}

INLINE float quantise_256(const float *x, int8_t *q, int16_t *sums16, int16_t *sums32)
{
    __m256i most = _mm256_setzero_si256();
    for (uint32_t i = 0; i < ACT_COLUMNS; i += 32)
        most = _mm256_max_epi32(most, magnitudes(x + i));
    float inverse, scale = choose_scale(largest(most), &inverse);
    for (uint32_t i = 0; i < 8; i++) {
        int32_t sums[2];
        quantise_32(x + 32 * i, inverse, q + 32 * i, sums);
        sums16[2 * i] = (int16_t)sums[0];
        sums16[2 * i + 1] = (int16_t)sums[1];
        sums32[i] = (int16_t)(sums[0] + sums[1]);
    }
    return scale;
}

INLINE void quantise_groups(const float *x, int8_t *q, float *scales, int16_t *sums32)
{
    for (uint32_t i = 0; i < 8; i++) {
        int32_t sums[2];
        float inverse;
        scales[i] = choose_scale(largest(magnitudes(x + 32 * i)), &inverse);
        quantise_32(x + 32 * i, inverse, q + 32 * i, sums);
        sums32[i] = (int16_t)(sums[0] + sums[1]);
    }
}

void avx2_quantise(enum act_form form, const float *x, uint32_t n, void *block)
{
    float padded[ACT_COLUMNS];
    int8_t q[ACT_COLUMNS];
    if (n < ACT_COLUMNS) {
        memset(padded, 0, sizeof padded);
        memcpy(padded, x, n * sizeof *x);
        x = padded;
    }
    switch (form) {
    case ACT_I8_256: {
        struct act_256 *act = block;
        act->scale = quantise_256(x, act->q, act->sums16, act->sums32);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I16_256: {
        struct act_wide_256 *act = block;
        act->scale = quantise_256(x, q, act->sums16, act->sums32);
        widen(q, act->q);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I8_32: {
        struct act_32 *act = block;
        quantise_groups(x, act->q, act->scales, act->sums32);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    case ACT_I16_32: {
        struct act_wide_32 *act = block;
        quantise_groups(x, q, act->scales, act->sums32);
        widen(q, act->q);
        memset(act->unused, 0, sizeof act->unused);
        break;
    }
    default:
        act_quantise_scalar(form, x, n, block);
    }
}

/* ---- tables ------------------------------------------------------------------------------------ */

static const struct packed_kernel packed_kernels[] = {
    {"avx2 q4_K x i8", TENSOR_Q4_K, ACT_I8_256, avx2_dots_q4_k},
    {"avx2 q5_K x i8", TENSOR_Q5_K, ACT_I8_256, avx2_dots_q5_k},
    {"avx2 q6_K x i8", TENSOR_Q6_K, ACT_I8_256, avx2_dots_q6_k},
    {"avx2 q2_K x i8", TENSOR_Q2_K, ACT_I8_256, avx2_dots_q2_k},
    {"avx2 q3_K x i8", TENSOR_Q3_K, ACT_I8_256, avx2_dots_q3_k},
    {"avx2 q8_0 x i8", TENSOR_Q8_0, ACT_I16_32, avx2_dots_q8_0},
    {"avx2 q4_0 x i8", TENSOR_Q4_0, ACT_I8_32, avx2_dots_q4_0},
    {"avx2 q4_1 x i8", TENSOR_Q4_1, ACT_I8_32, avx2_dots_q4_1},
    {"avx2 q5_0 x i8", TENSOR_Q5_0, ACT_I8_32, avx2_dots_q5_0},
    {"avx2 q5_1 x i8", TENSOR_Q5_1, ACT_I8_32, avx2_dots_q5_1},
    {"avx2 iq4_nl x i8", TENSOR_IQ4_NL, ACT_I16_32, avx2_dots_iq4_nl},
    {"avx2 mxfp4 x i8", TENSOR_MXFP4, ACT_I8_32, avx2_dots_mxfp4},
    {"avx2 iq4_xs x i8", TENSOR_IQ4_XS, ACT_I16_256, avx2_dots_iq4_xs},
    {"avx2 f16 x f32", TENSOR_F16, ACT_FLOAT, avx2_dots_f16},
    {"avx2 bf16 x f32", TENSOR_BF16, ACT_FLOAT, avx2_dots_bf16},
    {"avx2 f32 x f32", TENSOR_F32, ACT_FLOAT, avx2_dots_f32},
    {"avx2 f8_e4m3 x f32", TENSOR_F8_E4M3, ACT_FLOAT, avx2_dots_f8_e4m3},
    {"avx2 f8_e5m2 x f32", TENSOR_F8_E5M2, ACT_FLOAT, avx2_dots_f8_e5m2},
};

const struct kernel_set kernel_set_avx2 = {
    .name = "avx2",
    .packed = packed_kernels,
    .n_packed = sizeof packed_kernels / sizeof *packed_kernels,
    .quantise = avx2_quantise,
    .usable = x86_avx2_usable,
};

#else
typedef int no_avx2_here;
#endif
