/*
 * Float loops shared by the operations that have no kernel table: sums in sixteen lanes, whose order
 * depends on n alone, written so that a compiler at -O3 turns them into vector code.
 */
#ifndef SLUICE_BACKEND_CPU_LOOPS_H
#define SLUICE_BACKEND_CPU_LOOPS_H

#include <stdint.h>

#define LOOP_LANES 16

static inline float loop_dot(const float *restrict a, const float *restrict b, uint32_t n)
{
    float lanes[LOOP_LANES] = {0};
    uint32_t i = 0;
    for (; i + LOOP_LANES <= n; i += LOOP_LANES)
        for (uint32_t l = 0; l < LOOP_LANES; l++)
            lanes[l] += a[i + l] * b[i + l];
    for (uint32_t l = 0; i < n; i++, l++)
        lanes[l] += a[i] * b[i];
    for (uint32_t half = LOOP_LANES / 2; half; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

/* to += x * from */
static inline void loop_add(float *restrict to, const float *restrict from, float x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] += x * from[i];
}

#endif
