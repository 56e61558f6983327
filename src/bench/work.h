/*
 * What operations must do, counted from their shapes: the numerators of every fraction in a report.
 * Private to bench. A weight is read once per pass, however many rows use it; so are the keys and
 * values that a slice sees, once for all query heads and rows.
 */
#ifndef SLUICE_BENCH_WORK_H
#define SLUICE_BENCH_WORK_H

#include "bench/bench.h"
#include "program/layout.h"

/* A forward pass as far as work goes: n_slices alike slices, and one of `beside` rows (0: none). */
struct bench_step {
    uint32_t n_slices;
    uint32_t first_position, rows_per_slice, beside;
    uint32_t n_outputs; /* all with logits */
};

/* exact: everything is float32 arithmetic. */
struct bench_work bench_op_work(const struct program *program, const struct layout *layout,
                                const struct bench_step *step, const struct op *op, bool exact);
struct bench_work bench_step_work(const struct program *program, const struct layout *layout,
                                  const struct bench_step *step, bool exact);
void bench_work_add(struct bench_work *sum, const struct bench_work *more);

/* All rows. */
uint32_t bench_step_rows(const struct bench_step *step);

#endif
