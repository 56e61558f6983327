/*
 * Kernels for prompt rows on any machine: one for every packed type, with activations in bfloat16, so
 * that no row of theirs has the bits of the other class, and the scalar twin of attention in tiles.
 * What they compute is of no interest, but it is of each row by itself. Slow, though fast enough for
 * small models.
 */
#ifndef SLUICE_TESTS_PROMPT_KERNELS_H
#define SLUICE_TESTS_PROMPT_KERNELS_H

#include "backend/cpu/kernels.h"

/* For kernels_set_prompt(). */
extern const struct kernel_set prompt_kernels;

#endif
