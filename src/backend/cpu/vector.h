/*
 * Vectors of floats in the widest form that the including file's compiler flags allow: AVX-512, AVX2
 * with FMA and F16C, or 128-bit vectors of the compiler's own for any other machine.
 *
 * Code written with these operations (float_kernels.inc) compiles once per instruction set. Each
 * vector type is a value; W is its length. madd(a, b, c) is a * b + c: rounded once where the machine
 * has fused multiply-add, twice elsewhere, always the same on one machine. Loads and stores need no
 * alignment. Private to files that hold kernels of one instruction set.
 */
#ifndef SLUICE_BACKEND_CPU_VECTOR_H
#define SLUICE_BACKEND_CPU_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "quant/tensor_type.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#define W                16
#define VECTOR_REGISTERS 32
typedef __m512 vf;

static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
static inline vf vf_set(float a)
{
    return _mm512_set1_ps(a);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf vf_madd(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline float one_madd(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
/* b where either is NaN. */
static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, 8);
}
/* a < b ? x : y */
static inline vf vf_if_less(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* 2^n for whole n in -126 .. 127 */
static inline vf vf_power(vf n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
static inline vf vf_abs(vf a)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a);
}
static inline vf vf_sign_of(vf magnitude, vf sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}
static inline vf vf_from_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* One float16 in all lanes. */
static inline vf vf_set_f16(const uint8_t *p)
{
    int16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_cvtph_ps(_mm256_set1_epi16(h));
}
static inline vf vf_from_bf16(const uint8_t *p)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
/* E4M3 numbers are f16 ones with a smaller exponent, 2^8 too small; the code of NaN becomes 480. */
static inline vf vf_from_f8_e4m3(const uint8_t *p)
{
    __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i sign = _mm256_and_si256(_mm256_slli_epi16(words, 8), _mm256_set1_epi16((short)0x8000));
    __m256i rest = _mm256_slli_epi16(_mm256_and_si256(words, _mm256_set1_epi16(0x7f)), 7);
    vf v = _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256.0f));
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(vf_abs(v), _mm512_set1_ps(464.0f), _CMP_GT_OQ),
                                v, _mm512_set1_ps(NAN));
}
static inline vf vf_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline void vf_to_f16(uint8_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, 0));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#define W                8
#define VECTOR_REGISTERS 16
typedef __m256 vf;

static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
static inline vf vf_set(float a)
{
    return _mm256_set1_ps(a);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
static inline vf vf_madd(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline float one_madd(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm256_round_ps(a, 8);
}
static inline vf vf_if_less(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline vf vf_power(vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vf vf_sign_of(vf magnitude, vf sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
static inline vf vf_from_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf vf_set_f16(const uint8_t *p)
{
    int16_t h;
    memcpy(&h, p, sizeof h);
    return _mm256_cvtph_ps(_mm_set1_epi16(h));
}
static inline vf vf_from_bf16(const uint8_t *p)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
/* E4M3 numbers are f16 ones with a smaller exponent, 2^8 too small; the code of NaN becomes 480. */
static inline vf vf_from_f8_e4m3(const uint8_t *p)
{
    __m128i words = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
    __m128i sign = _mm_and_si128(_mm_slli_epi16(words, 8), _mm_set1_epi16((short)0x8000));
    __m128i rest = _mm_slli_epi16(_mm_and_si128(words, _mm_set1_epi16(0x7f)), 7);
    vf v = _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256.0f));
    return _mm256_blendv_ps(v, _mm256_set1_ps(NAN),
                            _mm256_cmp_ps(vf_abs(v), _mm256_set1_ps(464.0f), _CMP_GT_OQ));
}
static inline vf vf_from_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline void vf_to_f16(uint8_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, 0));
}

#else

#define W                4
#define VECTOR_REGISTERS 16
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

static inline vf vf_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
static inline void vf_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
}
static inline vf vf_set(float a)
{
    return (vf){a, a, a, a};
}
static inline vf vf_add(vf a, vf b)
{
    return a + b;
}
static inline vf vf_sub(vf a, vf b)
{
    return a - b;
}
static inline vf vf_mul(vf a, vf b)
{
    return a * b;
}
static inline vf vf_div(vf a, vf b)
{
    return a / b;
}
static inline vf vf_madd(vf a, vf b, vf c)
{
    return a * b + c;
}
static inline float one_madd(float a, float b, float c)
{
    return a * b + c;
}
static inline vf vf_choose(vi mask, vf x, vf y)
{
    return (vf)(((vi)x & mask) | ((vi)y & ~mask));
}
static inline vf vf_max(vf a, vf b)
{
    return vf_choose(a > b, a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return vf_choose(a < b, a, b);
}
/* Exact for magnitudes below 2^22, which is all that is asked of it. */
static inline vf vf_round(vf a)
{
    vf big = vf_set(0x1.8p23f);
    return a + big - big;
}
static inline vf vf_if_less(vf a, vf b, vf x, vf y)
{
    return vf_choose(a < b, x, y);
}
static inline vf vf_power(vf n)
{
    return (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}
static inline vf vf_abs(vf a)
{
    return (vf)((vi)a & 0x7fffffff);
}
static inline vf vf_sign_of(vf magnitude, vf sign)
{
    return (vf)((vi)magnitude | ((vi)sign & (int32_t)0x80000000));
}
static inline vf vf_from_f16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){f16_to_f32(h[0]), f16_to_f32(h[1]), f16_to_f32(h[2]), f16_to_f32(h[3])};
}
static inline vf vf_set_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return vf_set(f16_to_f32(h));
}
static inline vf vf_from_bf16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){bf16_to_f32(h[0]), bf16_to_f32(h[1]), bf16_to_f32(h[2]), bf16_to_f32(h[3])};
}
static inline vf vf_from_f8_e4m3(const uint8_t *p)
{
    return (vf){f8_e4m3_to_f32(p[0]), f8_e4m3_to_f32(p[1]), f8_e4m3_to_f32(p[2]),
                f8_e4m3_to_f32(p[3])};
}
static inline vf vf_from_i8(const uint8_t *p)
{
    const int8_t *q = (const int8_t *)p;
    return (vf){q[0], q[1], q[2], q[3]};
}
static inline void vf_to_f16(uint8_t *p, vf a)
{
    for (int i = 0; i < 4; i++) {
        uint16_t h = f32_to_f16(a[i]);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}

#endif

/* Sum of all lanes, in one order: halves are added until one is left. */
static inline float vf_sum(vf a)
{
    float lanes[W];
    vf_store(lanes, a);
    for (uint32_t half = W / 2; half; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static inline float vf_most(vf a)
{
    float lanes[W];
    vf_store(lanes, a);
    for (uint32_t i = 1; i < W; i++)
        lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
}

static inline float vf_first(vf a)
{
    float lanes[W];
    vf_store(lanes, a);
    return lanes[0];
}

#endif
