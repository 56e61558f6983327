/*
 * Arithmetic of the tile instruction TDPBF16PS (Intel SDM), for scalar twins: fused multiply-adds whose
 * subnormal operands and results are zeros. What it does with a pair of rows is said in x86_amx_bf16.c.
 */
#ifndef SLUICE_BACKEND_CPU_BF16_SUM_H
#define SLUICE_BACKEND_CPU_BF16_SUM_H

#include <float.h>
#include <math.h>

static inline float flushed(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static inline float multiply_add(float w, float x, float sum)
{
    return flushed(fmaf(flushed(w), flushed(x), sum));
}

#endif
