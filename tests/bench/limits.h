/*
 * What a machine can do at most, measured now: the denominators of every benchmark. Reading streams
 * through a buffer that no cache holds; the integer rate is that of the best byte multiplication of
 * the instruction set with all operands in registers, additions included as any use must have them.
 */
#ifndef SLUICE_TESTS_LIMITS_H
#define SLUICE_TESTS_LIMITS_H

#include <stddef.h>

#include "base/threads.h"

struct limits {
    double read_bandwidth; /* bytes per second, all threads of the pool */
    double int8_rate;      /* operations per second: two per multiplication of bytes */
    const char *int8_name;
};

void limits_measure(struct thread_pool *pool, struct limits *out);
void limits_huge_pages(void *memory, size_t bytes);

#endif
