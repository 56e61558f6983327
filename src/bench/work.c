/*
 * One case for each operation. What counts is what no implementation can avoid: weights and states once a
 * pass, products once a row. Rows of activations count for the operation alone, and not for the step
 * (moves_only): between operations they stay in the caches.
 */
#include "bench/work.h"

#include <math.h>

void bench_work_add(struct bench_work *sum, const struct bench_work *more)
{
    sum->bytes += more->bytes;
    for (int i = 0; i < ARITHMETICS; i++)
        sum->operations[i] += more->operations[i];
}

uint32_t bench_step_rows(const struct bench_step *step)
{
    return step->n_slices * step->rows_per_slice + step->beside;
}

static uint32_t rows_of(const struct program *program, const struct bench_step *step,
                        struct view view)
{
    return program->buffers[view.buffer].rows == ROWS_STEP ? bench_step_rows(step)
                                                           : step->n_outputs;
}

/* The cheapest arithmetic that a weight type allows: products of bytes for quantised weights. */
static enum arithmetic arithmetic_of(enum tensor_type type, bool exact)
{
    if (exact || type == TENSOR_F32 || type == TENSOR_F64)
        return ARITHMETIC_F32;
    if (type == TENSOR_F16 || type == TENSOR_BF16)
        return ARITHMETIC_BF16;
    return ARITHMETIC_INT8;
}

/* `reads` whole matrices of a weight are read, and `products` rows multiplied by one each. */
static void add_matrix(struct bench_work *work, const struct program *program, int32_t weight,
                       double reads, double products, bool exact)
{
    const struct weight *w = &program->weights[weight];
    uint64_t row_bytes = 0;
    tensor_type_bytes(w->type, w->n_cols, &row_bytes);
    work->bytes += reads * (double)row_bytes * w->n_rows;
    work->operations[arithmetic_of(w->type, exact)] +=
        2.0 * products * (double)w->n_rows * (double)w->n_cols;
}

static void add_experts(struct bench_work *work, const struct program *program,
                        const struct op_experts *op, double rows, bool exact)
{
    /* How many different experts rows * k draws touch, if all are equally likely. */
    double n = program->weights[op->gate].count;
    double touched = rows > 0 ? n * (1.0 - pow(1.0 - op->k / n, rows)) : 0;
    add_matrix(work, program, op->gate, touched, rows * op->k, exact);
    add_matrix(work, program, op->up, touched, rows * op->k, exact);
    add_matrix(work, program, op->down, touched, rows * op->k, exact);
}

/* n slices of `rows` rows each. */
static void add_slices(struct bench_work *work, const struct program *program,
                       const struct layout *layout, const struct op_attention *op, uint32_t n,
                       uint32_t first_position, uint32_t rows)
{
    const struct state_group *group = &program->groups[op->group];
    const struct group_layout *g = &layout->groups[op->group];
    double seen = 0, end = (double)first_position + rows;
    for (uint32_t r = 0; r < rows; r++) {
        double visible = (double)first_position + r + 1;
        seen += op->window && visible > op->window ? op->window : visible;
    }
    double span = op->window && end > (double)op->window + rows ? (double)op->window + rows : end;
    work->bytes += n * span * group->n_kv_heads * ((double)g->k_head_bytes + g->v_head_bytes);
    /* A latent scores too. */
    double products =
        (double)group->k_head_dim + (group->kind == GROUP_LATENT ? 2.0 : 1.0) * group->v_head_dim;
    work->operations[ARITHMETIC_F32] += 2.0 * n * seen * op->n_heads * products;
}

static void add_attention(struct bench_work *work, const struct program *program,
                          const struct layout *layout, const struct bench_step *step,
                          const struct op_attention *op)
{
    add_slices(work, program, layout, op, step->n_slices, step->first_position,
               step->rows_per_slice);
    if (step->beside)
        add_slices(work, program, layout, op, 1, step->first_position, step->beside);
}

/* A state of `values` floats: read and written once a slice, decayed, added to and summed up (three
 * multiplications and additions) for each row. */
static void add_state(struct bench_work *work, const struct bench_step *step, double values)
{
    work->bytes += 2.0 * (step->n_slices + (step->beside > 0)) * values * sizeof(float);
    work->operations[ARITHMETIC_F32] += 6.0 * bench_step_rows(step) * values;
}

static void add_heads(struct bench_work *work, const struct program *program,
                      const struct op_heads *op, double rows, bool exact)
{
    if (op->weight != NO_WEIGHT)
        add_matrix(work, program, op->weight, rows > 0 ? op->n_heads : 0, rows * op->n_heads,
                   exact);
}

/* Rows of activations read and written by an operation that has no weights to speak of. */
static double moved(double rows, uint32_t words)
{
    return rows * words * sizeof(float);
}

struct bench_work bench_op_work(const struct program *program, const struct layout *layout,
                                const struct bench_step *step, const struct op *op, bool exact)
{
    struct bench_work work = {0};
    double rows = bench_step_rows(step);
    switch (op->kind) {
    case OP_EMBED: {
        const struct weight *table = &program->weights[op->u.embed.table];
        uint64_t row_bytes = 0;
        tensor_type_bytes(table->type, table->n_cols, &row_bytes);
        work.bytes = rows * (double)row_bytes;
        break;
    }
    case OP_LINEAR:
        rows = rows_of(program, step, op->u.linear.in);
        add_matrix(&work, program, op->u.linear.weight, rows > 0, rows, exact);
        break;
    case OP_GATED:
        rows = rows_of(program, step, op->u.gated.in);
        add_matrix(&work, program, op->u.gated.gate, rows > 0, rows, exact);
        add_matrix(&work, program, op->u.gated.up, rows > 0, rows, exact);
        break;
    case OP_ROUTE:
        rows = rows_of(program, step, op->u.route.in);
        add_matrix(&work, program, op->u.route.weight, rows > 0, rows, true);
        break;
    case OP_EXPERTS:
        add_experts(&work, program, &op->u.experts, rows_of(program, step, op->u.experts.in),
                    exact);
        break;
    case OP_LOGITS:
        add_matrix(&work, program, op->u.logits.weight, step->n_outputs > 0, step->n_outputs,
                   exact);
        break;
    case OP_ATTENTION:
        add_attention(&work, program, layout, step, &op->u.attention);
        break;
    case OP_POSITION:
        work.bytes = moved(rows, 3 * op->u.position.in.width);
        break;
    case OP_NORM:
        work.bytes = moved(rows_of(program, step, op->u.norm.in), 2 * op->u.norm.in.width);
        break;
    case OP_ROPE_KV:
        work.bytes = moved(rows, 2 * op->u.rope_kv.q.width);
        break;
    case OP_CONV:
        work.bytes = moved(rows, 2 * op->u.conv.in.width);
        break;
    case OP_SSM:
        add_state(&work, step, (double)op->u.ssm.n_heads * op->u.ssm.n_state * op->u.ssm.head_dim);
        break;
    case OP_DELTA:
        add_state(&work, step, (double)op->u.delta.n_heads * op->u.delta.k_dim * op->u.delta.v_dim);
        break;
    case OP_HEADS:
        add_heads(&work, program, &op->u.heads, rows_of(program, step, op->u.heads.in), exact);
        break;
    case OP_ACTIVATE:
        work.bytes = moved(rows_of(program, step, op->u.activate.in), 2 * op->u.activate.in.width);
        break;
    case OP_MIX:
        work.bytes = moved(rows_of(program, step, op->u.mix.out),
                           op->u.mix.in.width + 2 * op->u.mix.out.width);
        break;
    case OP_MATCH:
        work.bytes = moved(rows_of(program, step, op->u.match.out), 3 * op->u.match.out.width);
        break;
    case OP_ADD:
        work.bytes = moved(rows_of(program, step, op->u.add.out), 3 * op->u.add.out.width);
        break;
    case OP_MUL:
        work.bytes = moved(rows_of(program, step, op->u.mul.out), 3 * op->u.mul.out.width);
        break;
    case OP_SELECT:
        work.bytes = moved(step->n_outputs, 2 * op->u.select.out.width);
        break;
    }
    return work;
}

/* Operations without weights or state: their activations stay in the caches, or should. */
static bool moves_only(enum op_kind kind)
{
    return kind == OP_NORM || kind == OP_ROPE_KV || kind == OP_CONV || kind == OP_ADD ||
           kind == OP_MUL || kind == OP_SELECT || kind == OP_POSITION || kind == OP_ACTIVATE ||
           kind == OP_MIX || kind == OP_MATCH;
}

struct bench_work bench_step_work(const struct program *program, const struct layout *layout,
                                  const struct bench_step *step, bool exact)
{
    struct bench_work sum = {0};
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const struct op *op = &program->ops[i];
        struct bench_work work = bench_op_work(program, layout, step, op, exact);
        if (!moves_only(op->kind))
            bench_work_add(&sum, &work);
    }
    return sum;
}
