/*
 * The search. For every part a row of candidate scales is tried at once, one candidate a lane, so
 * that the loops vectorise without reordering any sum: with the integers that a candidate gives,
 * the best real scale (and minimum) follow from weighted least squares in closed form, and so does
 * their error. The best candidates then become integers under the block's own scale; their nearest
 * neighbours are tried with the values rounded again, and at the end the block's scale is fitted
 * once more to the integers found. Each of the last two steps is kept only where it helps.
 */
#include "quant/fit.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "quant/tensor_type.h"

#define NEAR 8 /* candidates around a rounded scale and minimum */

/* To the nearest integer, ties to even, for |x| < 2^22: the sum has no fraction bits left. */
static inline float nearest(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    return (x + magic) - magic;
}

static inline float clamp(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

static int to_int(float x, float low, float high)
{
    return (int)nearest(clamp(x, low, high));
}

float fit_best_scale(const float xq[FIT_LANES], const float qq[FIT_LANES])
{
    float best = 0.0f, scale = 0.0f; /* best: by how much the error falls */
    for (int c = 0; c < FIT_LANES; c++)
        if (qq[c] > 0.0f && xq[c] * xq[c] > best * qq[c]) {
            scale = xq[c] / qq[c];
            best = scale * xq[c];
        }
    return scale;
}

/* ---- scale and minimum ------------------------------------------------------------------------- */

struct sums {
    float q[FIT_LANES], qq[FIT_LANES], xq[FIT_LANES]; /* per candidate */
    float w, x, xx;
};

static void sum_affine(const float *x, const float *weights, int n, float low, float top,
                       const float inverse[FIT_LANES], struct sums *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < n; i++) {
        float w = weights[i], shifted = x[i] - low, wx = w * x[i];
        s->w += w;
        s->x += wx;
        s->xx += wx * x[i];
        for (int c = 0; c < FIT_LANES; c++) {
            float q = clamp(nearest(shifted * inverse[c]), 0.0f, top);
            float wq = w * q;
            s->q[c] += wq;
            s->qq[c] += wq * q;
            s->xq[c] += wx * q;
        }
    }
}

/* Real scale and minimum of one part. */
static void fit_part(const float *x, const float *weights, int n, int top, float *scale, float *min)
{
    float low = 0.0f, high = x[0];
    for (int i = 0; i < n; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    *scale = 0.0f;
    *min = -low;
    if (!(high > low))
        return;
    float inverse[FIT_LANES];
    for (int c = 0; c < FIT_LANES;
         c++) /* slightly wider to clearly narrower than the whole range */
        inverse[c] = ((float)top - 0.6f + 0.125f * (float)c) / (high - low);
    struct sums s;
    sum_affine(x, weights, n, low, (float)top, inverse, &s);
    float best = FLT_MAX;
    for (int c = 0; c < FIT_LANES; c++) {
        float det = s.w * s.qq[c] - s.q[c] * s.q[c], a, b; /* x ~ a * q + b */
        if (!(det > 0.0f))
            continue;
        a = (s.w * s.xq[c] - s.x * s.q[c]) / det;
        b = (s.qq[c] * s.x - s.q[c] * s.xq[c]) / det;
        if (b > 0.0f) {
            b = 0.0f;
            a = s.xq[c] / s.qq[c];
        }
        float error = s.xx - 2.0f * (a * s.xq[c] + b * s.x) + a * a * s.qq[c] +
                      2.0f * a * b * s.q[c] + b * b * s.w;
        if (a > 0.0f && error < best) {
            best = error;
            *scale = a;
            *min = -b;
        }
    }
    if (best == FLT_MAX) {
        *scale = (high - low) / (float)top;
        *min = -low;
    }
}

/* Errors of NEAR pairs of scale and minimum with the values rounded to each. */
static void errors_near(const float *x, const float *weights, int n, float top,
                        const float scale[NEAR], const float min[NEAR], float error[NEAR])
{
    float inverse[NEAR];
    for (int c = 0; c < NEAR; c++) {
        inverse[c] = scale[c] > 0.0f ? 1.0f / scale[c] : 0.0f;
        error[c] = 0.0f;
    }
    for (int i = 0; i < n; i++)
        for (int c = 0; c < NEAR; c++) {
            float q = clamp(nearest((x[i] + min[c]) * inverse[c]), 0.0f, top);
            float off = x[i] - (scale[c] * q - min[c]);
            error[c] += weights[i] * off * off;
        }
}

static void settle_part(const struct affine_shape *shape, const float *x, const float *weights,
                        float d, float dmin, uint8_t *scale, uint8_t *min)
{
    static const int8_t steps[NEAR][2] = {{0, 0},  {1, 0}, {-1, 0},  {0, 1},
                                          {0, -1}, {1, 1}, {-1, -1}, {1, -1}};
    float scales[NEAR], mins[NEAR], error[NEAR];
    uint8_t tried[NEAR][2];
    for (int c = 0; c < NEAR; c++) {
        tried[c][0] = (uint8_t)clamp((float)(*scale + steps[c][0]), 0.0f, (float)shape->most);
        tried[c][1] = (uint8_t)clamp((float)(*min + steps[c][1]), 0.0f, (float)shape->most);
        scales[c] = d * (float)tried[c][0];
        mins[c] = dmin * (float)tried[c][1];
    }
    errors_near(x, weights, FIT_VALUES / shape->parts, (float)shape->top, scales, mins, error);
    int best = 0;
    for (int c = 1; c < NEAR; c++)
        if (error[c] < error[best])
            best = c;
    *scale = tried[best][0];
    *min = tried[best][1];
}

/* Rounds all values to the block's scales; returns the weighted error. */
static float round_affine(const struct affine_shape *shape, const float *x, const float *weights,
                          struct affine_block *out)
{
    int n = FIT_VALUES / shape->parts;
    float d = f16_to_f32(out->d), dmin = f16_to_f32(out->dmin), error = 0.0f;
    for (int p = 0; p < shape->parts; p++) {
        float scale = d * (float)out->scale[p], min = dmin * (float)out->min[p];
        float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        for (int i = p * n; i < (p + 1) * n; i++) {
            out->q[i] = (uint8_t)to_int((x[i] + min) * inverse, 0.0f, (float)shape->top);
            float off = x[i] - (scale * (float)out->q[i] - min);
            error += weights[i] * off * off;
        }
    }
    return error;
}

/* d and dmin again, by least squares over x ~ d * (scale * q) - dmin * min. */
static void refit_affine(const struct affine_shape *shape, const float *x, const float *weights,
                         float error, struct affine_block *out)
{
    int n = FIT_VALUES / shape->parts;
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < FIT_VALUES; i++) {
        double w = (double)weights[i], a = out->scale[i / n] * out->q[i],
               b = -(double)out->min[i / n];
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * (double)x[i];
        bx += w * b * (double)x[i];
    }
    double det = aa * bb - ab * ab;
    if (!(det > 1e-12 * aa * bb))
        return;
    double d = (ax * bb - bx * ab) / det, dmin = (bx * aa - ax * ab) / det;
    if (!(d > 0.0) || !(dmin >= 0.0) || d > 60000.0 || dmin > 60000.0)
        return;
    struct affine_block again = *out;
    again.d = f32_to_f16((float)d);
    again.dmin = f32_to_f16((float)dmin);
    if (round_affine(shape, x, weights, &again) < error)
        *out = again;
}

static const float *weights_or_ones(const float *weights)
{
    static const float ones[FIT_VALUES] = {
#define ONES_16 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
        ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16,
        ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16, ONES_16,
#undef ONES_16
    };
    return weights ? weights : ones;
}

/* float16 ends at 65504; what is not finite has no place in a block. */
static bool all_usable(const float *x)
{
    for (int i = 0; i < FIT_VALUES; i++)
        if (!(fabsf(x[i]) < 1e30f))
            return false;
    return true;
}

/* Values that are not finite count as 0. */
static const float *usable(const float *x, float copy[FIT_VALUES])
{
    if (all_usable(x))
        return x;
    for (int i = 0; i < FIT_VALUES; i++)
        copy[i] = fabsf(x[i]) < 1e30f ? x[i] : 0.0f;
    return copy;
}

static uint16_t to_f16(float x)
{
    return f32_to_f16(clamp(x, -65504.0f, 65504.0f));
}

void fit_affine(const struct affine_shape *shape, const float *x, const float *weights,
                struct affine_block *out)
{
    float copy[FIT_VALUES], scale[FIT_PARTS], min[FIT_PARTS];
    float most_scale = 0.0f, most_min = 0.0f, most = (float)shape->most;
    int n = FIT_VALUES / shape->parts;
    x = usable(x, copy);
    weights = weights_or_ones(weights);
    for (int p = 0; p < shape->parts; p++) {
        fit_part(x + p * n, weights + p * n, n, shape->top, &scale[p], &min[p]);
        most_scale = fmaxf(most_scale, scale[p]);
        most_min = fmaxf(most_min, min[p]);
    }
    out->d = to_f16(most_scale / most);
    out->dmin = to_f16(most_min / most);
    float d = f16_to_f32(out->d), dmin = f16_to_f32(out->dmin);
    for (int p = 0; p < shape->parts; p++) {
        out->scale[p] = (uint8_t)(d > 0.0f ? to_int(scale[p] / d, 0.0f, most) : 0);
        out->min[p] = (uint8_t)(dmin > 0.0f ? to_int(min[p] / dmin, 0.0f, most) : 0);
        settle_part(shape, x + p * n, weights + p * n, d, dmin, &out->scale[p], &out->min[p]);
    }
    float error = round_affine(shape, x, weights, out);
    refit_affine(shape, x, weights, error, out);
}

/* ---- scale alone ------------------------------------------------------------------------------- */

static float fit_symmetric_part(const float *x, const float *weights, int n, float half)
{
    float most = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    if (most == 0.0f)
        return 0.0f;
    float inverse[FIT_LANES], xq[FIT_LANES] = {0}, qq[FIT_LANES] = {0};
    for (int c = 0; c < FIT_LANES; c++) /* the largest value falls on -half, or is cut */
        inverse[c] = -(half - 0.9f + 0.1f * (float)c) / most;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < FIT_LANES; c++) {
            float q = clamp(nearest(x[i] * inverse[c]), -half, half - 1.0f), wq = weights[i] * q;
            xq[c] += wq * x[i];
            qq[c] += wq * q;
        }
    return fit_best_scale(xq, qq);
}

static void settle_symmetric(const struct symmetric_shape *shape, const float *x,
                             const float *weights, float d, int8_t *scale)
{
    enum { TRIED = 4, N = FIT_VALUES / FIT_PARTS };
    static const int8_t steps[TRIED] = {0, 1, -1, 2};
    float scales[TRIED], inverse[TRIED], error[TRIED] = {0};
    float half = (float)shape->half, most = (float)shape->most;
    int8_t tried[TRIED];
    for (int c = 0; c < TRIED; c++) {
        tried[c] = (int8_t)clamp((float)(*scale + steps[c]), -most, most - 1.0f);
        scales[c] = d * (float)tried[c];
        inverse[c] = scales[c] != 0.0f ? 1.0f / scales[c] : 0.0f;
    }
    for (int i = 0; i < N; i++)
        for (int c = 0; c < TRIED; c++) {
            float q = clamp(nearest(x[i] * inverse[c]), -half, half - 1.0f);
            float off = x[i] - scales[c] * q;
            error[c] += weights[i] * off * off;
        }
    int best = 0;
    for (int c = 1; c < TRIED; c++)
        if (error[c] < error[best])
            best = c;
    *scale = tried[best];
}

static float round_symmetric(const struct symmetric_shape *shape, const float *x,
                             const float *weights, struct symmetric_block *out)
{
    float d = f16_to_f32(out->d), error = 0.0f, half = (float)shape->half;
    for (int i = 0; i < FIT_VALUES; i++) {
        float scale = d * (float)out->scale[i / 16];
        out->q[i] = (int8_t)(scale != 0.0f ? to_int(x[i] / scale, -half, half - 1.0f) : 0);
        float off = x[i] - scale * (float)out->q[i];
        error += weights[i] * off * off;
    }
    return error;
}

static void refit_symmetric(const struct symmetric_shape *shape, const float *x,
                            const float *weights, float error, struct symmetric_block *out)
{
    double aa = 0, ax = 0;
    for (int i = 0; i < FIT_VALUES; i++) {
        double a = out->scale[i / 16] * out->q[i];
        aa += (double)weights[i] * a * a;
        ax += (double)weights[i] * a * (double)x[i];
    }
    if (!(aa > 0.0) || !(fabs(ax / aa) < 60000.0))
        return;
    struct symmetric_block again = *out;
    again.d = f32_to_f16((float)(ax / aa));
    if (round_symmetric(shape, x, weights, &again) < error)
        *out = again;
}

void fit_symmetric(const struct symmetric_shape *shape, const float *x, const float *weights,
                   struct symmetric_block *out)
{
    float copy[FIT_VALUES], scale[FIT_PARTS], most_scale = 0.0f, most = (float)shape->most;
    x = usable(x, copy);
    weights = weights_or_ones(weights);
    for (int p = 0; p < FIT_PARTS; p++) {
        scale[p] = fit_symmetric_part(x + 16 * p, weights + 16 * p, 16, (float)shape->half);
        if (fabsf(scale[p]) > fabsf(most_scale))
            most_scale = scale[p];
    }
    out->d = to_f16(most_scale / -most);
    float d = f16_to_f32(out->d);
    for (int p = 0; p < FIT_PARTS; p++) {
        out->scale[p] = (int8_t)(d != 0.0f ? to_int(scale[p] / d, -most, most - 1.0f) : 0);
        settle_symmetric(shape, x + 16 * p, weights + 16 * p, d, &out->scale[p]);
    }
    float error = round_symmetric(shape, x, weights, out);
    refit_symmetric(shape, x, weights, error, out);
}
