/* Operations over several residual streams of a row: mixing them by coefficients of the row, and
 * bringing one vector to the length of another. Threads split the rows. */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"
#include "backend/cpu/loops.h"

void cpu_mix(const struct worker *w, const struct op_mix *op)
{
    const struct cpu_run *run = w->run;
    uint32_t width = op->in.width / op->n_in;
    struct share share = worker_share(w, (uint64_t)run_rows(run, op->out) * op->n_out);
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t row = (uint32_t)(i / op->n_out), j = (uint32_t)(i % op->n_out);
        const float *coefs = run_row(run, op->coefs, row) + (size_t)j * op->n_in;
        const float *residual = run_row(run, op->residual, row) + (size_t)j * width;
        float *out = run_row(run, op->out, row) + (size_t)j * width;
        if (out != residual)
            memcpy(out, residual, width * sizeof *out);
        for (uint32_t k = 0; k < op->n_in; k++)
            loop_add(out, run_row(run, op->in, row) + (size_t)k * width, coefs[k], width);
    }
}

void cpu_match(const struct worker *w, const struct op_match *op)
{
    const struct cpu_run *run = w->run;
    struct share share = worker_share(w, run_rows(run, op->out));
    for (uint64_t row = share.begin; row < share.end; row++) {
        const float *in = run_row(run, op->in, (uint32_t)row);
        const float *like = run_row(run, op->like, (uint32_t)row);
        float *out = run_row(run, op->out, (uint32_t)row);
        float own = loop_dot(in, in, op->in.width) / (float)op->in.width;
        float wanted = loop_dot(like, like, op->like.width) / (float)op->like.width;
        float by = sqrtf(wanted) / sqrtf(own > op->least ? own : op->least);
        for (uint32_t i = 0; i < op->in.width; i++)
            out[i] = in[i] * by;
    }
}
