/*
 * AMX: attention of prompt rows in tiles, as tile_attention.h says.
 *
 * Four groups of keys, or four times 16 columns of values, share each tile of queries or weights: five
 * loads of tiles for four products. All 16 pairs' scores, weights and sums of a block stay in the
 * level-1 cache, the rearranged keys and values in level 2.
 */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include "backend/cpu/tile_attention.h"
#include "backend/cpu/x86_amx.h"

#define TILE_WORDS 512 /* of 16 bits */

/* ---- rounding and rearranging ------------------------------------------------------------------ */

INLINE __m256i load_16(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* 16 words of a and 16 of b as bfloat16, alternating. */
INLINE __m512i alternating(enum tensor_type type, __m256i a, __m256i b)
{
    const __m512i order =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                         0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                         0x00130003, 0x00120002, 0x00110001, 0x00100000);
    __m512i both;
    if (type == TENSOR_F16)
        both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtph_ps(b), _mm512_cvtph_ps(a));
    else
        both = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
    return _mm512_permutexvar_epi16(order, both);
}

static void round_amx(const float *x, uint32_t n, uint16_t *out)
{
    for (uint32_t i = 0; i < n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
}

INLINE void keys_of(enum tensor_type type, const uint8_t *group, uint32_t dim, uint16_t *out)
{
    for (uint32_t c = 0; c < dim; c += 2, group += 64, out += 32)
        _mm512_storeu_si512(out, alternating(type, load_16(group), load_16(group + 32)));
}

static void keys_amx(enum tensor_type type, const uint8_t *group, uint32_t dim, uint16_t *out)
{
    if (type == TENSOR_F16)
        keys_of(TENSOR_F16, group, dim, out);
    else
        keys_of(TENSOR_BF16, group, dim, out);
}

INLINE bool values_of(enum tensor_type type, const uint8_t *rows, uint32_t first, uint32_t end,
                      uint32_t dim, uint16_t *out)
{
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __m512i most = _mm512_setzero_si512();
    for (uint32_t t = 0; t < KEY_GROUP; t += 2, out += 32) {
        bool a = t >= first && t < end, b = t + 1 >= first && t + 1 < end;
        for (uint32_t c = 0; c < dim; c += 16) {
            const uint8_t *at = rows + 2 * ((size_t)t * dim + c);
            __m512i both = alternating(type, a ? load_16(at) : _mm256_setzero_si256(),
                                       b ? load_16(at + 2 * dim) : _mm256_setzero_si256());
            _mm512_storeu_si512(out + (size_t)c / 16 * TILE_WORDS, both);
            most = _mm512_max_epu16(most, _mm512_and_si512(both, exponent));
        }
    }
    return _mm512_cmpeq_epi16_mask(most, exponent) == 0;
}

static bool values_amx(enum tensor_type type, const uint8_t *rows, uint32_t first, uint32_t end,
                       uint32_t dim, uint16_t *out)
{
    if (type == TENSOR_F16)
        return values_of(TENSOR_F16, rows, first, end, dim, out);
    return values_of(TENSOR_BF16, rows, first, end, dim, out);
}

/* ---- products ---------------------------------------------------------------------------------- */

/* Tiles 0..3: sums; `tiles` (constant) of them. One step: a by the tiles at b, `apart` words from each
 * other. */
INLINE void multiply_step(uint32_t tiles, const uint16_t *a, long a_bytes, const uint16_t *b,
                          size_t apart)
{
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(5, b, 64);
    _tile_dpbf16ps(0, 4, 5);
    if (tiles > 1) {
        _tile_loadd(6, b + apart, 64);
        _tile_dpbf16ps(1, 4, 6);
    }
    if (tiles > 2) {
        _tile_loadd(7, b + 2 * apart, 64);
        _tile_dpbf16ps(2, 4, 7);
    }
    if (tiles > 3) {
        _tile_loadd(5, b + 3 * apart, 64);
        _tile_dpbf16ps(3, 4, 5);
    }
}

INLINE void zero_tiles(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Sums of tile i at out + i * apart floats, rows `bytes` from each other. */
INLINE void store_tiles(uint32_t tiles, float *out, size_t apart, long bytes)
{
    _tile_stored(0, out, bytes);
    if (tiles > 1)
        _tile_stored(1, out + apart, bytes);
    if (tiles > 2)
        _tile_stored(2, out + 2 * apart, bytes);
    if (tiles > 3)
        _tile_stored(3, out + 3 * apart, bytes);
}

INLINE void scores_of(uint32_t groups, const uint16_t *q, uint32_t dim, const uint16_t *keys,
                      float *out)
{
    zero_tiles();
    for (uint32_t c = 0; c < dim; c += TILE_STEP)
        multiply_step(groups, q + c, 2 * (long)dim, keys + (size_t)c * KEY_GROUP,
                      (size_t)dim * KEY_GROUP);
    store_tiles(groups, out, KEY_GROUP, SCORE_STRIDE * sizeof *out);
}

static void scores_amx(const uint16_t *q, uint32_t n, uint32_t dim, const uint16_t *keys,
                       uint32_t n_groups, float *out)
{
    (void)n;
    configure_tiles();
    MEMORY_BARRIER();
    uint32_t g = 0;
    for (; g + 4 <= n_groups; g += 4)
        scores_of(4, q, dim, keys + (size_t)g * KEY_GROUP * dim, out + g * KEY_GROUP);
    keys += (size_t)g * KEY_GROUP * dim;
    out += g * KEY_GROUP;
    if (n_groups - g == 3)
        scores_of(3, q, dim, keys, out);
    else if (n_groups - g == 2)
        scores_of(2, q, dim, keys, out);
    else if (n_groups - g == 1)
        scores_of(1, q, dim, keys, out);
    MEMORY_BARRIER();
}

/* 16 * tiles columns of all pairs' sums, of which n are wanted. */
INLINE void mix_of(uint32_t tiles, const uint16_t *weights, uint32_t n, uint32_t dim,
                   const uint16_t *values, uint32_t n_steps, float *sums)
{
    float all[4 * 256] __attribute__((aligned(64)));
    zero_tiles();
    for (uint32_t s = 0; s < n_steps; s++)
        multiply_step(tiles, weights + (size_t)s * TILE_STEP, 2 * WEIGHT_STRIDE,
                      values + (size_t)s * TILE_STEP * dim, TILE_WORDS);
    store_tiles(tiles, all, 256, 64);
    MEMORY_BARRIER();
    for (uint32_t p = 0; p < n; p++)
        UNROLL for (uint32_t i = 0; i < tiles; i++) /* -0 becomes +0 */
            _mm512_storeu_ps(
                sums + (size_t)p * dim + 16 * i,
                _mm512_add_ps(_mm512_load_ps(all + 256 * i + 16 * p), _mm512_setzero_ps()));
}

static void mix_amx(const uint16_t *weights, uint32_t n, uint32_t dim, const uint16_t *values,
                    uint32_t n_steps, float *sums)
{
    configure_tiles();
    MEMORY_BARRIER();
    uint32_t c = 0;
    for (; c + 64 <= dim; c += 64)
        mix_of(4, weights, n, dim, values + (size_t)c * TILE_STEP, n_steps, sums + c);
    if (c < dim)
        mix_of(2, weights, n, dim, values + (size_t)c * TILE_STEP, n_steps, sums + c);
}

const struct tile_attention tile_attention_amx = {
    .name = "amx bf16",
    .round = round_amx,
    .keys = keys_amx,
    .values = values_amx,
    .scores = scores_amx,
    .mix = mix_amx,
};

#else
typedef int x86_amx_attention_is_empty;
#endif
