/*
 * ref: the oracle. Scalar C, float32 activations, one thread, no tricks: every other backend is
 * tested against it operation by operation, so it must be readable before it is anything else.
 * Sums run in double, in the order of the formula, so that its own rounding hides nobody's error.
 * Synchronous: a submitted ticket has completed. Any weight type that quant/ can decode.
 */
#ifndef SLUICE_BACKEND_REF_REF_H
#define SLUICE_BACKEND_REF_REF_H

#include "backend/backend.h"

extern const struct backend_api ref_backend_api;

#endif
