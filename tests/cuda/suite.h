/* Counting and printing for the GPU test program, which has no test framework. */
#ifndef SLUICE_TESTS_CUDA_SUITE_H
#define SLUICE_TESTS_CUDA_SUITE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"

struct suite {
    const char *root;              /* of the checkout */
    const struct backend_api *api; /* under test */
    uint32_t passed, failed, skipped;
};

/* Counts; prints the formatted description of a check that does not hold. Returns `holds`. */
bool suite_check(struct suite *suite, bool holds, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* models.c: fixtures against their recorded references; Pebble's recorded answers. */
void suite_fixtures(struct suite *suite);
void suite_pebble(struct suite *suite);
/* draws.c: the device's draws against sample_core.h on the host. */
void suite_draws(struct suite *suite);
/* contract.c: what backend.h promises beside results. */
void suite_contract(struct suite *suite);

#endif
