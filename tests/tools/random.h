/*
 * Random numbers for tests and benches: the same seed, the same numbers on any machine. Header only, so
 * that programs without the test tools' library have them too.
 */
#ifndef SLUICE_TESTS_RANDOM_H
#define SLUICE_TESTS_RANDOM_H

#include <math.h>
#include <stdint.h>

/* splitmix64 (Steele, Lea, Flood 2014) */
#define RANDOM_STEP 0x9e3779b97f4a7c15u

static inline uint64_t random_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t random_u64(uint64_t *seed)
{
    return random_mix(*seed += RANDOM_STEP);
}

static inline uint32_t random_u32(uint64_t *seed)
{
    return (uint32_t)(random_u64(seed) >> 32);
}

static inline float random_uniform(uint64_t *seed) /* (0, 1) */
{
    return ((float)(random_u32(seed) >> 8) + 0.5f) * 0x1p-24f;
}

static inline float random_signed(uint64_t *seed) /* (-1, 1) */
{
    return 2.0f * random_uniform(seed) - 1.0f;
}

static inline float random_normal(uint64_t *seed)
{
    float r = sqrtf(-2.0f * logf(random_uniform(seed)));
    return r * cosf(6.2831853f * random_uniform(seed));
}

#endif
