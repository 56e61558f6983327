/*
 * The float kernels, written once: a file of one instruction set includes this after defining SET
 * (the name of its table) and SET_NAME, and its compiler flags choose the vectors (vector.h).
 */
#include <math.h>

#include "backend/cpu/float_kernels.h"
#include "backend/cpu/vector.h"

#define INLINE static inline __attribute__((always_inline))

/* ---- functions --------------------------------------------------------------------------------- */

/*
 * exp(x): x = n ln 2 + r with |r| <= ln 2 / 2 in two steps (ln 2 is split so that n times its first
 * part is exact), exp(r) = 1 + r + r^2 p(r) with p interpolated at the Chebyshev points of the range
 * (its error: 0.2 units in the last place). 0 below -87.3, infinity above 88.0.
 */
INLINE vf vf_exp(vf x)
{
    const vf low = vf_set(-87.33654f), high = vf_set(88.02969f);
    vf in = vf_max(low, vf_min(high, x)); /* NaN stays: second operand */
    vf n = vf_round(vf_mul(in, vf_set(0x1.715476p+0f)));
    vf r = vf_madd(n, vf_set(-0x1.63p-1f), in);
    r = vf_madd(n, vf_set(0x1.bd0106p-13f), r);
    vf p = vf_madd(vf_set(0x1.6d110ap-10f), r, vf_set(0x1.120b6ep-7f));
    p = vf_madd(p, r, vf_set(0x1.55551ap-5f));
    p = vf_madd(p, r, vf_set(0x1.5554dcp-3f));
    p = vf_madd(p, r, vf_set(0x1p-1f));
    p = vf_madd(p, vf_mul(r, r), r);
    vf y = vf_mul(vf_add(p, vf_set(1.0f)), vf_power(n));
    y = vf_if_less(x, low, vf_set(0.0f), y);
    return vf_if_less(high, x, vf_set(INFINITY), y);
}

/* 1 - 2 / (exp(2|x|) + 1), with the sign of x. */
INLINE vf vf_tanh(vf x)
{
    vf e = vf_exp(vf_mul(vf_abs(x), vf_set(2.0f)));
    vf t = vf_sub(vf_set(1.0f), vf_div(vf_set(2.0f), vf_add(e, vf_set(1.0f))));
    return vf_sign_of(t, x);
}

/* Abramowitz and Stegun 7.1.26: error below 1.5e-7. */
INLINE vf vf_erf(vf x)
{
    vf a = vf_abs(x);
    vf t = vf_div(vf_set(1.0f), vf_madd(vf_set(0.3275911f), a, vf_set(1.0f)));
    vf p = vf_madd(vf_set(1.061405429f), t, vf_set(-1.453152027f));
    p = vf_madd(p, t, vf_set(1.421413741f));
    p = vf_madd(p, t, vf_set(-0.284496736f));
    p = vf_madd(p, t, vf_set(0.254829592f));
    vf e = vf_exp(vf_sub(vf_set(0.0f), vf_mul(a, a)));
    return vf_sign_of(vf_sub(vf_set(1.0f), vf_mul(vf_mul(p, t), e)), x);
}

INLINE vf vf_sigmoid(vf x)
{
    vf e = vf_exp(vf_sub(vf_set(0.0f), x));
    return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), e));
}

INLINE vf vf_activate(enum activation act, vf x)
{
    switch (act) {
    case ACT_SILU:
        return vf_div(x, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_set(0.0f), x))));
    case ACT_GELU:
        return vf_mul(vf_mul(vf_set(0.5f), x),
                      vf_add(vf_set(1.0f), vf_erf(vf_mul(x, vf_set(0.70710678f)))));
    case ACT_GELU_TANH: {
        vf cube = vf_mul(vf_mul(x, x), x);
        vf inner = vf_mul(vf_set(0.79788456f), vf_madd(vf_set(0.044715f), cube, x));
        return vf_mul(vf_mul(vf_set(0.5f), x), vf_add(vf_set(1.0f), vf_tanh(inner)));
    }
    case ACT_RELU:
        return vf_max(vf_set(0.0f), x);
    case ACT_RELU2:
        return vf_mul(vf_max(vf_set(0.0f), x), vf_max(vf_set(0.0f), x));
    case ACT_SIGMOID:
        return vf_sigmoid(x);
    case ACT_TANH:
        return vf_tanh(x);
    default:
        return x;
    }
}

INLINE vf vf_gate(enum activation act, vf g, vf u)
{
    if (act != ACT_CLAMPED_SWIGLU)
        return vf_mul(vf_activate(act, g), u);
    g = vf_min(vf_set(7.0f), g);
    u = vf_max(vf_set(-7.0f), vf_min(vf_set(7.0f), u));
    vf s = vf_sigmoid(vf_mul(vf_set(1.702f), g));
    return vf_mul(vf_mul(vf_add(u, vf_set(1.0f)), g), s);
}

/* ---- elementwise ------------------------------------------------------------------------------- */

/* The last n % W values go through a padded vector: the same operations, so the same bits. */
INLINE vf load_part(const float *p, uint32_t n)
{
    float lanes[W] = {0};
    for (uint32_t i = 0; i < n; i++)
        lanes[i] = p[i];
    return vf_load(lanes);
}

INLINE void store_part(float *p, vf a, uint32_t n)
{
    float lanes[W];
    vf_store(lanes, a);
    for (uint32_t i = 0; i < n; i++)
        p[i] = lanes[i];
}

INLINE void activate_all(enum activation act, float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W)
        vf_store(x + i, vf_activate(act, vf_load(x + i)));
    if (i < n)
        store_part(x + i, vf_activate(act, load_part(x + i, n - i)), n - i);
}

/* One loop per activation, chosen outside of it. */
#define EACH_ACTIVATION(CASE)                                                                      \
    CASE(ACT_SILU)                                                                                 \
    CASE(ACT_GELU)                                                                                 \
    CASE(ACT_GELU_TANH)                                                                            \
    CASE(ACT_RELU)                                                                                 \
    CASE(ACT_RELU2)                                                                                \
    CASE(ACT_SIGMOID)                                                                              \
    CASE(ACT_TANH)

static void activate_values(enum activation act, float *x, uint32_t n)
{
    switch (act) {
#define CASE(a)                                                                                    \
    case a:                                                                                        \
        activate_all(a, x, n);                                                                     \
        break;
        EACH_ACTIVATION(CASE)
#undef CASE
    default:
        break;
    }
}

INLINE void gate_all(enum activation act, const float *a, const float *b, uint32_t n, float *out)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W)
        vf_store(out + i, vf_gate(act, vf_load(a + i), vf_load(b + i)));
    if (i < n)
        store_part(out + i, vf_gate(act, load_part(a + i, n - i), load_part(b + i, n - i)), n - i);
}

static void gate_values(enum activation act, const float *a, const float *b, uint32_t n, float *out)
{
    switch (act) {
#define CASE(kind)                                                                                 \
    case kind:                                                                                     \
        gate_all(kind, a, b, n, out);                                                              \
        break;
        EACH_ACTIVATION(CASE)
        CASE(ACT_CLAMPED_SWIGLU)
#undef CASE
    default:
        gate_all(ACT_NONE, a, b, n, out);
        break;
    }
}

static void add_values(const float *a, const float *b, float scale, uint32_t n, float *out)
{
    uint32_t i = 0;
    vf s = vf_set(scale);
    for (; i + W <= n; i += W)
        vf_store(out + i, vf_madd(vf_load(b + i), s, vf_load(a + i)));
    for (; i < n; i++)
        out[i] = one_madd(b[i], scale, a[i]);
}

static void scale_values(const float *x, float factor, uint32_t n, float *out)
{
    uint32_t i = 0;
    vf f = vf_set(factor);
    for (; i + W <= n; i += W)
        vf_store(out + i, vf_mul(vf_load(x + i), f));
    for (; i < n; i++)
        out[i] = x[i] * factor;
}

/* ---- norms ------------------------------------------------------------------------------------- */

#define CHAINS 4 /* independent sums, so that an addition need not wait for the one before */

static float sum_values(const float *x, uint32_t n)
{
    vf sum[CHAINS];
    uint32_t i = 0;
    for (int c = 0; c < CHAINS; c++)
        sum[c] = vf_set(0.0f);
    for (; i + CHAINS * W <= n; i += CHAINS * W)
        for (int c = 0; c < CHAINS; c++)
            sum[c] = vf_add(sum[c], vf_load(x + i + c * W));
    for (; i + W <= n; i += W)
        sum[0] = vf_add(sum[0], vf_load(x + i));
    if (i < n)
        sum[0] = vf_add(sum[0], load_part(x + i, n - i));
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static float sum_squares(const float *x, float mean, uint32_t n)
{
    vf sum[CHAINS], m = vf_set(mean);
    uint32_t i = 0;
    for (int c = 0; c < CHAINS; c++)
        sum[c] = vf_set(0.0f);
    for (; i + CHAINS * W <= n; i += CHAINS * W)
        for (int c = 0; c < CHAINS; c++) {
            vf d = vf_sub(vf_load(x + i + c * W), m);
            sum[c] = vf_madd(d, d, sum[c]);
        }
    for (; i + W <= n; i += W) {
        vf d = vf_sub(vf_load(x + i), m);
        sum[0] = vf_madd(d, d, sum[0]);
    }
    float total = vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    for (; i < n; i++)
        total = one_madd(x[i] - mean, x[i] - mean, total);
    return total;
}

static void norm_values(const struct op_norm *op, const float *in, const float *weight,
                        const float *bias, float *out)
{
    uint32_t n = op->group, i = 0;
    float mean = op->kind == NORM_LAYER ? sum_values(in, n) / (float)n : 0.0f;
    float scale = 1.0f / sqrtf(sum_squares(in, mean, n) / (float)n + op->eps);
    vf m = vf_set(mean), s = vf_set(scale), offset = vf_set(op->weight_offset);
    for (; i + W <= n; i += W) {
        vf x = vf_mul(vf_sub(vf_load(in + i), m), s);
        if (weight)
            x = vf_mul(x, vf_add(vf_load(weight + i), offset));
        if (bias)
            x = vf_add(x, vf_load(bias + i));
        vf_store(out + i, x);
    }
    for (; i < n; i++) {
        float x = (in[i] - mean) * scale;
        if (weight)
            x *= weight[i] + op->weight_offset;
        out[i] = bias ? x + bias[i] : x;
    }
}

/* ---- rotation ---------------------------------------------------------------------------------- */

/* turn holds cosines [half], then sines [half]. */
static void rotate_head(enum rope_style style, uint32_t rope_dims, const float *turn, float *head)
{
    uint32_t half = rope_dims / 2, i = 0;
    const float *sine = turn + half;
    if (style == ROPE_HALVES)
        for (; i + W <= half; i += W) {
            vf c = vf_load(turn + i), s = vf_load(sine + i);
            vf x = vf_load(head + i), y = vf_load(head + half + i);
            vf_store(head + i, vf_sub(vf_mul(x, c), vf_mul(y, s)));
            vf_store(head + half + i, vf_add(vf_mul(x, s), vf_mul(y, c)));
        }
    uint32_t second = style == ROPE_HALVES ? half : 1, stride = style == ROPE_HALVES ? 1 : 2;
    for (; i < half; i++) {
        float c = turn[i], s = sine[i];
        float x = head[i * stride], y = head[i * stride + second];
        head[i * stride] = x * c - y * s;
        head[i * stride + second] = x * s + y * c;
    }
}

/* ---- softmax ----------------------------------------------------------------------------------- */

static struct softmax_part softmax_block(float *scores, uint32_t begin, uint32_t end, float scale,
                                         float softcap)
{
    /* Whole groups: lanes follow the position in the block, so a row's sums keep their order whatever
     * else the block was computed for. */
    uint32_t first = begin / KEY_GROUP * KEY_GROUP;
    uint32_t last = (end + KEY_GROUP - 1) / KEY_GROUP * KEY_GROUP;
    for (uint32_t i = first; i < begin; i++)
        scores[i] = -INFINITY;
    for (uint32_t i = end; i < last; i++)
        scores[i] = -INFINITY;
    vf most = vf_set(-INFINITY), total = vf_set(0.0f), s = vf_set(scale);
    vf cap = vf_set(softcap), inverse = vf_set(softcap != 0.0f ? 1.0f / softcap : 0.0f);
    for (uint32_t i = first; i < last; i += W) {
        vf x = vf_mul(vf_load(scores + i), s);
        if (softcap != 0.0f) {
            vf capped = vf_mul(cap, vf_tanh(vf_mul(x, inverse)));
            x = vf_if_less(x, vf_set(-3e38f), x, capped); /* what is hidden stays so */
        }
        vf_store(scores + i, x);
        most = vf_max(most, x);
    }
    struct softmax_part part = {.most = vf_most(most)};
    vf m = vf_set(part.most);
    for (uint32_t i = first; i < last; i += W) {
        vf w = vf_exp(vf_sub(vf_load(scores + i), m));
        vf_store(scores + i, w);
        total = vf_add(total, w);
    }
    part.total = vf_sum(total);
    return part;
}

static void merge_block(struct softmax_part *into, float *into_sums,
                        const struct softmax_part *part, const float *sums, uint32_t dim)
{
    float most = into->most > part->most ? into->most : part->most;
    vf before = vf_exp(vf_set(into->most - most)), now = vf_exp(vf_set(part->most - most));
    float a = vf_first(before), b = vf_first(now);
    uint32_t i = 0;
    for (; i + W <= dim; i += W)
        vf_store(into_sums + i,
                 vf_madd(vf_load(sums + i), now, vf_mul(vf_load(into_sums + i), before)));
    for (; i < dim; i++)
        into_sums[i] = one_madd(sums[i], b, into_sums[i] * a);
    into->total = one_madd(part->total, b, into->total * a);
    into->most = most;
}

/* ---- keys and values --------------------------------------------------------------------------- */

/*
 * Scores of `groups` groups of keys for `n` pairs: n * vectors chains of multiply-adds over the
 * columns. `group_bytes` lies between the groups. LOAD(type, base, column, lane) is the vector of
 * keys lane .. lane + W of a column.
 */
#define VECTORS (KEY_GROUP / W) /* of a group */

INLINE vf load_element_f32(const uint8_t *p, size_t i)
{
    return vf_load((const float *)(const void *)(p + 4 * i));
}
INLINE vf load_element_f16(const uint8_t *p, size_t i)
{
    return vf_from_f16(p + 2 * i);
}
INLINE vf load_element_bf16(const uint8_t *p, size_t i)
{
    return vf_from_bf16(p + 2 * i);
}
INLINE vf load_element_f8_e4m3(const uint8_t *p, size_t i)
{
    return vf_from_f8_e4m3(p + i);
}
INLINE float one_f32(const uint8_t *p, size_t i)
{
    float f;
    memcpy(&f, p + 4 * i, sizeof f);
    return f;
}
INLINE float one_f16(const uint8_t *p, size_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    return f16_to_f32(h);
}
INLINE float one_bf16(const uint8_t *p, size_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    return bf16_to_f32(h);
}

INLINE float one_f8_e4m3(const uint8_t *p, size_t i)
{
    return f8_e4m3_to_f32(p[i]);
}

/* q8_0: a block of 32 columns of `width` keys or of one value row. */
#define Q8_COLUMNS 32
#define Q8_BYTES   34

INLINE const uint8_t *key_block_q8_0(const uint8_t *group, uint32_t column)
{
    return group + (size_t)(column / Q8_COLUMNS) * Q8_BYTES * KEY_GROUP;
}
INLINE vf load_key_q8_0(const uint8_t *group, uint32_t column, uint32_t lane, vf scale)
{
    const uint8_t *words = key_block_q8_0(group, column) + 2 * KEY_GROUP;
    return vf_mul(scale, vf_from_i8(words + (column % Q8_COLUMNS) * KEY_GROUP + lane));
}

/* Scales of the block of Q8_COLUMNS columns that begins at a column, where a type has any. */
#define KEY_SCALE_f32(group, column, lane)     vf_set(1.0f)
#define KEY_SCALE_f16(group, column, lane)     vf_set(1.0f)
#define KEY_SCALE_bf16(group, column, lane)    vf_set(1.0f)
#define KEY_SCALE_f8_e4m3(group, column, lane) vf_set(1.0f)
#define KEY_SCALE_q8_0(group, column, lane)    vf_from_f16(key_block_q8_0(group, column) + 2 * (lane))

#define LOAD_KEY_f32(group, column, lane, scale)                                                   \
    ((void)(scale), load_element_f32(group, (size_t)(column)*KEY_GROUP + (lane)))
#define LOAD_KEY_f16(group, column, lane, scale)                                                   \
    ((void)(scale), load_element_f16(group, (size_t)(column)*KEY_GROUP + (lane)))
#define LOAD_KEY_bf16(group, column, lane, scale)                                                  \
    ((void)(scale), load_element_bf16(group, (size_t)(column)*KEY_GROUP + (lane)))
#define LOAD_KEY_f8_e4m3(group, column, lane, scale)                                               \
    ((void)(scale), load_element_f8_e4m3(group, (size_t)(column)*KEY_GROUP + (lane)))
#define LOAD_KEY_q8_0(group, column, lane, scale) load_key_q8_0(group, column, lane, scale)
#define KEY_BYTES_f32(dim)                        (4 * (size_t)(dim))
#define KEY_BYTES_f16(dim)                        (2 * (size_t)(dim))
#define KEY_BYTES_bf16(dim)                       (2 * (size_t)(dim))
#define KEY_BYTES_f8_e4m3(dim)                    ((size_t)(dim))
#define KEY_BYTES_q8_0(dim)                       ((size_t)(dim) / Q8_COLUMNS * Q8_BYTES)

INLINE vf load_value_q8_0(const uint8_t *row, uint32_t column)
{
    const uint8_t *block = row + (size_t)(column / Q8_COLUMNS) * Q8_BYTES;
    return vf_mul(vf_set_f16(block), vf_from_i8(block + 2 + column % Q8_COLUMNS));
}
INLINE float one_value_q8_0(const uint8_t *row, uint32_t column)
{
    const uint8_t *block = row + (size_t)(column / Q8_COLUMNS) * Q8_BYTES;
    return one_f16(block, 0) * (float)(int8_t)block[2 + column % Q8_COLUMNS];
}
#define LOAD_VALUE_f32(row, column)     load_element_f32(row, column)
#define LOAD_VALUE_f16(row, column)     load_element_f16(row, column)
#define LOAD_VALUE_bf16(row, column)    load_element_bf16(row, column)
#define LOAD_VALUE_f8_e4m3(row, column) load_element_f8_e4m3(row, column)
#define LOAD_VALUE_q8_0(row, column)    load_value_q8_0(row, column)
#define ONE_VALUE_f32(row, column)      one_f32(row, column)
#define ONE_VALUE_f16(row, column)      one_f16(row, column)
#define ONE_VALUE_bf16(row, column)     one_bf16(row, column)
#define ONE_VALUE_f8_e4m3(row, column)  one_f8_e4m3(row, column)
#define ONE_VALUE_q8_0(row, column)     one_value_q8_0(row, column)

/* Vectors of value columns that one pass keeps sums of. */
#define MIX_VECTORS 2

#define KV_KERNELS(type)                                                                           \
    INLINE void scores_part_##type(const uint8_t *keys, uint32_t groups, uint32_t dim,             \
                                   const float *q, uint32_t n, float *out, uint32_t stride,        \
                                   const uint8_t *next)                                            \
    {                                                                                              \
        vf sum[DIRECT][2 * VECTORS];                                                               \
        const float *rows[DIRECT]; /* pointers: indices in 32 bits would cost additions */         \
        for (uint32_t p = 0; p < n; p++) {                                                         \
            rows[p] = q + (size_t)p * dim;                                                         \
            for (uint32_t v = 0; v < groups * VECTORS; v++)                                        \
                sum[p][v] = vf_set(0.0f);                                                          \
        }                                                                                          \
        size_t group_bytes = KEY_BYTES_##type(dim) * KEY_GROUP;                                    \
        size_t column_bytes = group_bytes / dim;                                                   \
        for (uint32_t first = 0; first < dim; first += Q8_COLUMNS) {                               \
            uint32_t end = dim - first < Q8_COLUMNS ? dim : first + Q8_COLUMNS;                    \
            vf scale[2 * VECTORS];                                                                 \
            for (uint32_t v = 0; v < groups * VECTORS; v++)                                        \
                scale[v] =                                                                         \
                    KEY_SCALE_##type(keys + v / VECTORS * group_bytes, first, v % VECTORS * W);    \
            for (size_t c = first; c < end; c++) {                                                 \
                if (next && c % 2 == 0)                                                            \
                    for (uint32_t g = 0; g < groups; g++)                                          \
                        __builtin_prefetch(next + g * group_bytes + c * column_bytes);             \
                vf k[2 * VECTORS];                                                                 \
                for (uint32_t v = 0; v < groups * VECTORS; v++)                                    \
                    k[v] = LOAD_KEY_##type(keys + v / VECTORS * group_bytes, c, v % VECTORS * W,   \
                                           scale[v]);                                              \
                for (uint32_t p = 0; p < n; p++) {                                                 \
                    vf column = vf_set(rows[p][c]);                                                \
                    for (uint32_t v = 0; v < groups * VECTORS; v++)                                \
                        sum[p][v] = vf_madd(column, k[v], sum[p][v]);                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        for (uint32_t p = 0; p < n; p++)                                                           \
            for (uint32_t v = 0; v < groups * VECTORS; v++)                                        \
                vf_store(out + p * stride + v * W, sum[p][v]);                                     \
    }                                                                                              \
                                                                                                   \
    INLINE void scores_n_##type(const uint8_t *keys, uint32_t groups, uint32_t dim,                \
                                const float *q, uint32_t n, float *out, uint32_t stride,           \
                                const uint8_t *next)                                               \
    {                                                                                              \
        size_t group_bytes = KEY_BYTES_##type(dim) * KEY_GROUP;                                    \
        if (VECTORS == 1 && groups == 2) {                                                         \
            scores_part_##type(keys, 2, dim, q, n, out, stride, next);                             \
            return;                                                                                \
        }                                                                                          \
        for (uint32_t g = 0; g < groups; g++)                                                      \
            scores_part_##type(keys + g * group_bytes, 1, dim, q, n, out + g * KEY_GROUP, stride,  \
                               next ? next + g * group_bytes : NULL);                              \
    }                                                                                              \
                                                                                                   \
    static void scores_##type(const uint8_t *keys, uint32_t groups, uint32_t dim, const float *q,  \
                              uint32_t n, float *out, uint32_t stride, const uint8_t *next)        \
    {                                                                                              \
        switch (n) {                                                                               \
        case 1:                                                                                    \
            scores_n_##type(keys, groups, dim, q, 1, out, stride, next);                           \
            break;                                                                                 \
        case 2:                                                                                    \
            scores_n_##type(keys, groups, dim, q, 2, out, stride, next);                           \
            break;                                                                                 \
        case 3:                                                                                    \
            scores_n_##type(keys, groups, dim, q, 3, out, stride, next);                           \
            break;                                                                                 \
        case 4:                                                                                    \
            scores_n_##type(keys, groups, dim, q, 4, out, stride, next);                           \
            break;                                                                                 \
        case 5:                                                                                    \
            scores_n_##type(keys, groups, dim, q, 5, out, stride, next);                           \
            break;                                                                                 \
        default:                                                                                   \
            scores_n_##type(keys, groups, dim, q, 6, out, stride, next);                           \
            break;                                                                                 \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    INLINE void mix_n_##type(const uint8_t *values, uint32_t n_keys, uint32_t dim,                 \
                             const float *weights, uint32_t stride, uint32_t n, float *sums,       \
                             const uint8_t *next)                                                  \
    {                                                                                              \
        size_t row_bytes = KEY_BYTES_##type(dim);                                                  \
        const float *rows[DIRECT];                                                                 \
        for (uint32_t p = 0; p < n; p++)                                                           \
            rows[p] = weights + (size_t)p * stride;                                                \
        uint32_t c = 0;                                                                            \
        for (; c + MIX_VECTORS * W <= dim; c += MIX_VECTORS * W) {                                 \
            vf sum[DIRECT][MIX_VECTORS];                                                           \
            for (uint32_t p = 0; p < n; p++)                                                       \
                for (uint32_t v = 0; v < MIX_VECTORS; v++)                                         \
                    sum[p][v] = vf_load(sums + p * dim + c + v * W);                               \
            const uint8_t *row = values;                                                           \
            bool fetch = next && c * row_bytes / dim % 64 < 32; /* each line once, nearly */       \
            for (size_t t = 0; t < n_keys; t++, row += row_bytes) {                                \
                if (fetch)                                                                         \
                    __builtin_prefetch(next + t * row_bytes + c * row_bytes / dim);                \
                vf x[MIX_VECTORS];                                                                 \
                for (uint32_t v = 0; v < MIX_VECTORS; v++)                                         \
                    x[v] = LOAD_VALUE_##type(row, c + v * W);                                      \
                for (uint32_t p = 0; p < n; p++) {                                                 \
                    vf weight = vf_set(rows[p][t]);                                                \
                    for (uint32_t v = 0; v < MIX_VECTORS; v++)                                     \
                        sum[p][v] = vf_madd(weight, x[v], sum[p][v]);                              \
                }                                                                                  \
            }                                                                                      \
            for (uint32_t p = 0; p < n; p++)                                                       \
                for (uint32_t v = 0; v < MIX_VECTORS; v++)                                         \
                    vf_store(sums + p * dim + c + v * W, sum[p][v]);                               \
        }                                                                                          \
        for (; c < dim; c++)                                                                       \
            for (uint32_t p = 0; p < n; p++) {                                                     \
                float sum = sums[p * dim + c];                                                     \
                for (uint32_t t = 0; t < n_keys; t++)                                              \
                    sum = one_madd(weights[p * stride + t],                                        \
                                   ONE_VALUE_##type(values + t * row_bytes, c), sum);              \
                sums[p * dim + c] = sum;                                                           \
            }                                                                                      \
    }                                                                                              \
                                                                                                   \
    static void mix_##type(const uint8_t *values, uint32_t n_keys, uint32_t dim,                   \
                           const float *weights, uint32_t stride, uint32_t n, float *sums,         \
                           const uint8_t *next)                                                    \
    {                                                                                              \
        switch (n) {                                                                               \
        case 1:                                                                                    \
            mix_n_##type(values, n_keys, dim, weights, stride, 1, sums, next);                     \
            break;                                                                                 \
        case 2:                                                                                    \
            mix_n_##type(values, n_keys, dim, weights, stride, 2, sums, next);                     \
            break;                                                                                 \
        case 3:                                                                                    \
            mix_n_##type(values, n_keys, dim, weights, stride, 3, sums, next);                     \
            break;                                                                                 \
        case 4:                                                                                    \
            mix_n_##type(values, n_keys, dim, weights, stride, 4, sums, next);                     \
            break;                                                                                 \
        case 5:                                                                                    \
            mix_n_##type(values, n_keys, dim, weights, stride, 5, sums, next);                     \
            break;                                                                                 \
        default:                                                                                   \
            mix_n_##type(values, n_keys, dim, weights, stride, 6, sums, next);                     \
            break;                                                                                 \
        }                                                                                          \
    }

KV_KERNELS(f32)
KV_KERNELS(f16)
KV_KERNELS(bf16)
KV_KERNELS(f8_e4m3)
KV_KERNELS(q8_0)

/* Element types without blocks: widening keeps the arrangement, so it is a run of conversions. */
#define WIDEN(type, element)                                                                       \
    static void widen_##type(const uint8_t *from, size_t n, float *out)                            \
    {                                                                                              \
        size_t i = 0;                                                                              \
        for (; i + W <= n; i += W)                                                                 \
            vf_store(out + i, load_element_##type(from, i));                                       \
        for (; i < n; i++)                                                                         \
            out[i] = one_##type(from, i);                                                          \
    }                                                                                              \
    static void widen_keys_##type(const uint8_t *group, uint32_t width, uint32_t dim, float *out)  \
    {                                                                                              \
        widen_##type(group, (size_t)width *dim, out);                                              \
    }                                                                                              \
    static void widen_values_##type(const uint8_t *values, uint32_t n_keys, uint32_t dim,          \
                                    float *out)                                                    \
    {                                                                                              \
        widen_##type(values, (size_t)n_keys *dim, out);                                            \
    }                                                                                              \
    static void append_key_##type(const float *key, uint8_t *group, uint32_t width, uint32_t t,    \
                                  uint32_t dim)                                                    \
    {                                                                                              \
        uint8_t part[16 * element];                                                                \
        for (uint32_t c = 0; c < dim; c += 16) {                                                   \
            uint32_t n = dim - c < 16 ? dim - c : 16;                                              \
            narrow_##type(key + c, n, part);                                                       \
            for (uint32_t i = 0; i < n; i++)                                                       \
                memcpy(group + ((size_t)(c + i) * width + t) * element, part + i * element,        \
                       element);                                                                   \
        }                                                                                          \
    }                                                                                              \
    static void append_value_##type(const float *value, uint8_t *row, uint32_t dim)                \
    {                                                                                              \
        narrow_##type(value, dim, row);                                                            \
    }

static void narrow_f32(const float *from, uint32_t n, uint8_t *out)
{
    memcpy(out, from, n * sizeof *from);
}

static void narrow_f16(const float *from, uint32_t n, uint8_t *out)
{
    uint32_t i = 0;
    for (; i + W <= n; i += W)
        vf_to_f16(out + 2 * i, vf_load(from + i));
    for (; i < n; i++) {
        uint16_t h = f32_to_f16(from[i]);
        memcpy(out + 2 * i, &h, sizeof h);
    }
}

static void narrow_bf16(const float *from, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(from[i]);
        memcpy(out + 2 * i, &h, sizeof h);
    }
}

static void narrow_f8_e4m3(const float *from, uint32_t n, uint8_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = f32_to_f8_e4m3(from[i]);
}

WIDEN(f32, 4)
WIDEN(f16, 2)
WIDEN(bf16, 2)
WIDEN(f8_e4m3, 1)

static void widen_keys_q8_0(const uint8_t *group, uint32_t width, uint32_t dim, float *out)
{
    for (uint32_t c = 0; c < dim; c++) {
        const uint8_t *block = group + (size_t)(c / Q8_COLUMNS) * Q8_BYTES * width;
        const uint8_t *q = block + 2 * width + (c % Q8_COLUMNS) * width;
        uint32_t t = 0;
        for (; t + W <= width; t += W)
            vf_store(out + (size_t)c * width + t,
                     vf_mul(vf_from_f16(block + 2 * t), vf_from_i8(q + t)));
        for (; t < width; t++)
            out[(size_t)c * width + t] = one_f16(block, t) * (float)(int8_t)q[t];
    }
}

static void widen_values_q8_0(const uint8_t *values, uint32_t n_keys, uint32_t dim, float *out)
{
    for (uint32_t t = 0; t < n_keys; t++, values += KEY_BYTES_q8_0(dim), out += dim)
        for (uint32_t c = 0; c < dim; c += W)
            vf_store(out + c, load_value_q8_0(values, c));
}

static void append_key_q8_0(const float *key, uint8_t *group, uint32_t width, uint32_t t,
                            uint32_t dim)
{
    uint8_t block[Q8_BYTES];
    for (uint32_t c = 0; c < dim; c += Q8_COLUMNS, group += (size_t)Q8_BYTES * width) {
        tensor_type_info(TENSOR_Q8_0)->encode(key + c, block, Q8_COLUMNS);
        memcpy(group + 2 * t, block, 2);
        for (uint32_t i = 0; i < Q8_COLUMNS; i++)
            group[2 * width + i * width + t] = block[2 + i];
    }
}

static void append_value_q8_0(const float *value, uint8_t *row, uint32_t dim)
{
    tensor_type_info(TENSOR_Q8_0)->encode(value, row, dim);
}

/* ---- table ------------------------------------------------------------------------------------- */

#define FORMAT(type, id)                                                                           \
    {                                                                                              \
        SET_NAME " " #type, id, append_key_##type, append_value_##type, scores_##type, mix_##type, \
            widen_keys_##type, widen_values_##type                                                 \
    }

static const struct kv_format formats[] = {
    FORMAT(f32, TENSOR_F32),         FORMAT(f16, TENSOR_F16),   FORMAT(bf16, TENSOR_BF16),
    FORMAT(f8_e4m3, TENSOR_F8_E4M3), FORMAT(q8_0, TENSOR_Q8_0),
};

const struct float_kernels SET = {
    .name = SET_NAME,
    .needs = SET_NEEDS,
    .formats = formats,
    .n_formats = sizeof formats / sizeof *formats,
    .softmax = softmax_block,
    .merge = merge_block,
    .scale = scale_values,
    .activate = activate_values,
    .gate = gate_values,
    .add = add_values,
    .norm = norm_values,
    .rotate = rotate_head,
};
