/* What a measurement cannot go on without: it ends with the engine's own message. */
#ifndef SLUICE_TESTS_MUST_H
#define SLUICE_TESTS_MUST_H

#include <stdio.h>
#include <stdlib.h>

#include "sluice.h"

static inline void fail(const char *message)
{
    fprintf(stderr, "%s\n", message);
    exit(1);
}

static inline void must(sluice_status status, const sluice_error *error)
{
    if (status != SLUICE_OK)
        fail(error->message);
}

#endif
