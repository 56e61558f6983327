/*
 * Watching what a model's matrices are multiplied with, for calibration: the CPU backends call the
 * observer around each operation that has matrices. Routers and the small matrices of single heads
 * (OP_ROUTE, OP_HEADS) are not told.
 */
#ifndef SLUICE_BACKEND_OBSERVE_H
#define SLUICE_BACKEND_OBSERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "program/program.h"

#ifdef __cplusplus
extern "C" {
#endif

struct op_observer {
    void *context;
    /* A row, [n_cols], that matrix `part` of a weight is multiplied with. One thread calls, in the order
     * of the program; the row is valid during the call. */
    void (*row)(void *context, int32_t weight, uint32_t part, const float *x);
};

/* First word of `row` in a view. */
typedef const float *observe_row(const void *run, struct view view, uint32_t row);

/* Before an operation over n rows: its inputs. */
void observe_inputs(const struct op_observer *observer, const struct op *op, uint32_t n,
                    observe_row *row, const void *run);
/* After it: what experts' last matrices were multiplied with. */
void observe_hidden(const struct op_observer *observer, const struct program *program,
                    const struct op *op, uint32_t n, observe_row *row, const void *run);
/* The view whose rows count for `n` above; NULL: the operation has no matrices to watch. */
const struct view *observed_view(const struct op *op);

#ifdef __cplusplus
}
#endif
#endif
