/*
 * Searching for the scales of a block: the part of K-quant encoding that the types share.
 *
 * A block of 256 values is cut into equal parts; each part has an integer scale (and a minimum) that
 * one or two float16 numbers of the block multiply. What is minimised is the sum of
 * weight * (value - decoded)^2. Weights are the squared means of what the columns are multiplied by
 * (an importance matrix), or all 1. Scalar, deterministic, any thread. Internal to quant/.
 */
#ifndef SLUICE_QUANT_FIT_H
#define SLUICE_QUANT_FIT_H

#include <stdint.h>

#define FIT_VALUES 256
#define FIT_PARTS  16
#define FIT_LANES  16 /* candidates that are tried at once */

/* Candidates round values x to integers q; xq and qq: their sums of weight * x * q and weight * q * q.
 * Returns the scale, and so the candidate, that leaves the least error; 0 where there is none. */
float fit_best_scale(const float xq[FIT_LANES], const float qq[FIT_LANES]);

/* value = d * scale * q - dmin * min, with 0 <= q <= top and 0 <= scale, min <= most. */
struct affine_shape {
    int parts, top, most;
};

struct affine_block {
    uint16_t d, dmin; /* float16 */
    uint8_t scale[FIT_PARTS], min[FIT_PARTS];
    uint8_t q[FIT_VALUES];
};

/* x, weights: [FIT_VALUES]; weights NULL: all equal. */
void fit_affine(const struct affine_shape *shape, const float *x, const float *weights,
                struct affine_block *out);

/* value = d * scale * q, with -half <= q < half and -most <= scale < most; scales are the values of
 * 16 parts. */
struct symmetric_shape {
    int half, most;
};

struct symmetric_block {
    uint16_t d;
    int8_t scale[FIT_PARTS];
    int8_t q[FIT_VALUES];
};

void fit_symmetric(const struct symmetric_shape *shape, const float *x, const float *weights,
                   struct symmetric_block *out);

#endif
