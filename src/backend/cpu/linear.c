/*
 * Matrices: linear layers, gated pairs and logits.
 *
 * The result [n rows, n_out] is cut into units of KERNEL_X activation rows by KERNEL_ROWS outputs,
 * outputs fastest; a thread takes a contiguous run of units. With one row (decoding) that splits
 * the outputs, so that each weight is read by one thread once; with many rows a thread stays with
 * its rows, whose activations stay in its cache. A unit's raw sums land in a small tile, and the
 * epilogue (bias, activation, scale, residual) writes from there.
 */
#include <math.h>

#include "backend/cpu/internal.h"

#define SQRT_HALF      0.70710678f /* 1 / sqrt 2 */
#define SQRT_2_OVER_PI 0.79788456f

float activate(enum activation act, float x)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_SILU:
        return x / (1.0f + expf(-x));
    case ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(SQRT_2_OVER_PI * (x + 0.044715f * x * x * x)));
    case ACT_RELU:
        return x > 0.0f ? x : 0.0f;
    case ACT_RELU2:
        return x > 0.0f ? x * x : 0.0f;
    case ACT_SIGMOID:
        return 1.0f / (1.0f + expf(-x));
    case ACT_CLAMPED_SWIGLU:
    case ACT_XIELU:
        break;
    }
    return x;
}

float activate_gate(enum activation act, float gate, float up)
{
    if (act != ACT_CLAMPED_SWIGLU)
        return activate(act, gate) * up;
    gate = gate < 7.0f ? gate : 7.0f;
    up = up < -7.0f ? -7.0f : up < 7.0f ? up : 7.0f;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

struct kernel_rows matrix_rows(const struct placed_weight *placed, uint32_t part, uint32_t first,
                               uint32_t n)
{
    return (struct kernel_rows){
        .bytes = (const uint8_t *)placed->weight->parts[part] + first * placed->row_bytes,
        .row_bytes = placed->row_bytes,
        .n_cols = placed->weight->n_cols,
        .n_rows = n,
    };
}

/* Rows [row, row + n_rows) by outputs [column, column + n_columns). */
struct unit {
    uint32_t row, n_rows;
    uint32_t column, n_columns;
};

static struct unit unit_at(uint64_t index, uint32_t n_rows, uint32_t n_out)
{
    uint64_t across = (n_out + KERNEL_ROWS - 1) / KERNEL_ROWS;
    struct unit unit = {
        .row = (uint32_t)(index / across) * KERNEL_X,
        .column = (uint32_t)(index % across) * KERNEL_ROWS,
    };
    uint32_t rows = n_rows - unit.row, columns = n_out - unit.column;
    unit.n_rows = rows < KERNEL_X ? rows : KERNEL_X;
    unit.n_columns = columns < KERNEL_ROWS ? columns : KERNEL_ROWS;
    return unit;
}

static uint64_t unit_count(uint32_t n_rows, uint32_t n_out)
{
    return (uint64_t)((n_rows + KERNEL_X - 1) / KERNEL_X) *
           ((n_out + KERNEL_ROWS - 1) / KERNEL_ROWS);
}

static void unit_inputs(const struct cpu_run *run, struct view in, struct unit unit,
                        const float *x[KERNEL_X])
{
    for (uint32_t m = 0; m < unit.n_rows; m++)
        x[m] = run_row(run, in, unit.row + m);
}

static void unit_dots(const struct cpu_run *run, int32_t weight, struct unit unit,
                      const float *const *x, float *sums)
{
    const struct placed_weight *placed = run->program->placed[weight];
    struct kernel_rows rows = matrix_rows(placed, 0, unit.column, unit.n_columns);
    placed->kernel->dots(&rows, x, unit.n_rows, sums);
}

void cpu_linear(const struct worker *w, const struct op_linear *op)
{
    const struct cpu_run *run = w->run;
    const float *bias = run_vector(run, op->bias);
    uint32_t n = run_rows(run, op->in);
    struct share share = worker_share(w, unit_count(n, op->out.width));
    float sums[KERNEL_X * KERNEL_ROWS];
    for (uint64_t i = share.begin; i < share.end; i++) {
        struct unit unit = unit_at(i, n, op->out.width);
        const float *x[KERNEL_X];
        unit_inputs(run, op->in, unit, x);
        unit_dots(run, op->weight, unit, x, sums);
        for (uint32_t m = 0; m < unit.n_rows; m++) {
            const float *sum = sums + m * KERNEL_ROWS;
            float *out = run_row(run, op->out, unit.row + m) + unit.column;
            const float *residual = op->residual.buffer == NO_BUFFER
                                        ? NULL
                                        : run_row(run, op->residual, unit.row + m) + unit.column;
            for (uint32_t c = 0; c < unit.n_columns; c++) {
                float value = bias ? sum[c] + bias[unit.column + c] : sum[c];
                value = activate(op->act, value) * op->scale;
                out[c] = residual ? residual[c] + value : value;
            }
        }
    }
}

void cpu_gated(const struct worker *w, const struct op_gated *op)
{
    const struct cpu_run *run = w->run;
    const float *gate_bias = run_vector(run, op->gate_bias);
    const float *up_bias = run_vector(run, op->up_bias);
    uint32_t n = run_rows(run, op->in);
    struct share share = worker_share(w, unit_count(n, op->out.width));
    float gates[KERNEL_X * KERNEL_ROWS], ups[KERNEL_X * KERNEL_ROWS];
    for (uint64_t i = share.begin; i < share.end; i++) {
        struct unit unit = unit_at(i, n, op->out.width);
        const float *x[KERNEL_X];
        unit_inputs(run, op->in, unit, x);
        unit_dots(run, op->gate, unit, x, gates);
        unit_dots(run, op->up, unit, x, ups);
        for (uint32_t m = 0; m < unit.n_rows; m++) {
            float *out = run_row(run, op->out, unit.row + m) + unit.column;
            for (uint32_t c = 0; c < unit.n_columns; c++) {
                float gate = gates[m * KERNEL_ROWS + c], up = ups[m * KERNEL_ROWS + c];
                if (gate_bias)
                    gate += gate_bias[unit.column + c];
                if (up_bias)
                    up += up_bias[unit.column + c];
                out[c] = activate_gate(op->act, gate, up);
            }
        }
    }
}

void cpu_logits(const struct worker *w, const struct op_logits *op)
{
    const struct cpu_run *run = w->run;
    const float *bias = run_vector(run, op->bias);
    uint32_t n = run->step->n_logits;
    struct share share = worker_share(w, unit_count(n, op->out.width));
    float sums[KERNEL_X * KERNEL_ROWS];
    for (uint64_t i = share.begin; i < share.end; i++) {
        struct unit unit = unit_at(i, n, op->out.width);
        const float *x[KERNEL_X];
        unit_inputs(run, op->in, unit, x);
        unit_dots(run, op->weight, unit, x, sums);
        for (uint32_t m = 0; m < unit.n_rows; m++) {
            float *out = run_row(run, op->out, unit.row + m) + unit.column;
            for (uint32_t c = 0; c < unit.n_columns; c++) {
                float value = sums[m * KERNEL_ROWS + c];
                if (bias)
                    value += bias[unit.column + c];
                value *= op->scale;
                out[c] = op->softcap != 0.0f ? op->softcap * tanhf(value / op->softcap) : value;
            }
        }
    }
}
