/*
 * Operations that work on each row by itself: embedding, norms, elementwise, selection.
 * Elementwise ones split the flat range of all values, so that one long row still uses all threads.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"

#define LANES 16

float *run_row(const struct cpu_run *run, struct view view, uint32_t row)
{
    const struct loaded_program *program = run->program;
    const struct buffer *buffer = &program->program->buffers[view.buffer];
    bool step = buffer->rows == ROWS_STEP;
    float *words = step ? program->step_words : run->bank->words;
    uint64_t capacity = step ? program->limits.max_rows : program->limits.max_outputs;
    return words + buffer->offset * capacity + (uint64_t)row * buffer->width + view.column;
}

uint32_t run_rows(const struct cpu_run *run, struct view view)
{
    return run->program->program->buffers[view.buffer].rows == ROWS_STEP ? run->step->n_rows
                                                                         : run->step->n_outputs;
}

const float *run_vector(const struct cpu_run *run, int32_t weight)
{
    return weight == NO_WEIGHT ? NULL : run->program->placed[weight]->values;
}

uint8_t *run_page(const struct cpu_run *run, uint32_t slot, uint32_t group, uint32_t index)
{
    const struct cpu_backend *backend = run->backend;
    uint32_t page = backend->tables[layout_table_index(&backend->layout, slot, group, index)];
    return backend->pages + (uint64_t)page * backend->layout.page_bytes;
}

/* The token of a row, or -1 where the draw before it failed (its sequence is over; the engine
 * learns that one step late). */
static int32_t row_token(const struct cpu_run *run, const struct slice *slice, uint32_t row)
{
    uint32_t index = slice->input_offset + (row - slice->first_row);
    if (slice->input == INPUT_TOKENS)
        return step_tokens(run->step)[index];
    return run->sampled->results[index].token;
}

static void embed_row(const struct cpu_run *run, const struct op_embed *op, uint32_t row)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    float *out = run_row(run, op->out, row);
    if (slice->input == INPUT_EMBEDDINGS) {
        uint32_t index = slice->input_offset + (row - slice->first_row);
        memcpy(out, step_embeddings(run->step) + (size_t)index * op->out.width,
               op->out.width * sizeof *out);
        return;
    }
    int32_t token = row_token(run, slice, row);
    const struct placed_weight *table = run->program->placed[op->table];
    uint32_t index = token < 0 || (uint32_t)token >= table->weight->n_rows ? 0 : (uint32_t)token;
    matrix_read_row(table, index, out);
    for (uint32_t i = 0; i < op->out.width; i++)
        out[i] *= op->scale;
}

void cpu_embed(const struct worker *w, const struct op_embed *op)
{
    struct share share = worker_share(w, w->run->step->n_rows);
    for (uint64_t row = share.begin; row < share.end; row++)
        embed_row(w->run, op, (uint32_t)row);
}

/* Row of the table for a row of the step. */
static uint32_t position_row(const struct cpu_run *run, const struct op_position *op, uint32_t row)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    if (op->skip < 0 || slice->input == INPUT_EMBEDDINGS)
        return step_row_position(run->step, row) + op->offset;
    if (row_token(run, slice, row) == op->skip)
        return op->offset - 1;
    uint32_t counted = 0;
    for (uint32_t r = slice->first_row; r < row; r++)
        counted += row_token(run, slice, r) != op->skip;
    return counted + op->offset;
}

void cpu_position(const struct worker *w, const struct op_position *op)
{
    const struct cpu_run *run = w->run;
    const float *bias = run_vector(run, op->bias);
    const struct placed_weight *table =
        op->table == NO_WEIGHT ? NULL : run->program->placed[op->table];
    struct share share = worker_share(w, run->step->n_rows);
    for (uint64_t row = share.begin; row < share.end; row++) {
        const float *in = run_row(run, op->in, (uint32_t)row);
        float *out = run_row(run, op->out, (uint32_t)row);
        const float *learned = NULL;
        if (table) {
            uint32_t at = position_row(run, op, (uint32_t)row);
            table->kernel->decode(matrix_rows(table, 0, at, 1).bytes, op->in.width, w->scratch);
            learned = w->scratch;
        }
        for (uint32_t i = 0; i < op->in.width; i++) {
            float value = learned ? in[i] + learned[i] : in[i];
            out[i] = bias ? value + bias[i] : value;
        }
    }
}

/* Sum of (x - mean)^power, power 1 or 2, in sixteen lanes: the bits depend on n alone. */
static float sum_of(const float *x, float mean, int power, uint32_t n)
{
    float lanes[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) {
        float d = x[i] - mean;
        lanes[i % LANES] += power == 1 ? d : d * d;
    }
    for (uint32_t half = LANES / 2; half; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

/* NORM_NONE, NORM_CUTOFF */
static void plain_group(const struct op_norm *op, const float *in, const float *weight,
                        const float *bias, float *out)
{
    uint32_t n = op->group;
    float cutoff = 0.0f;
    if (op->kind == NORM_CUTOFF) {
        float mean = sum_of(in, 0.0f, 1, n) / (float)n;
        cutoff = mean + op->eps * sqrtf(sum_of(in, mean, 2, n) / (float)n);
    }
    for (uint32_t i = 0; i < n; i++) {
        float value = in[i];
        if (op->kind == NORM_CUTOFF)
            value = value > cutoff ? value - cutoff : 0.0f;
        if (weight)
            value *= weight[i] + op->weight_offset;
        out[i] = bias ? value + bias[i] : value;
    }
}

void cpu_norm(const struct worker *w, const struct op_norm *op, const struct op_plan *plan)
{
    const struct cpu_run *run = w->run;
    const struct weight *weights = run->program->program->weights;
    const float *weight = run_vector(run, op->weight), *bias = run_vector(run, op->bias);
    bool whole_weight = weight && weights[op->weight].n_cols == op->in.width;
    bool whole_bias = bias && weights[op->bias].n_cols == op->in.width;
    uint32_t groups = op->in.width / op->group;
    struct share share = worker_share(w, (uint64_t)run_rows(run, op->in) * groups);
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t row = (uint32_t)(i / groups), at = (uint32_t)(i % groups) * op->group;
        (op->kind > NORM_LAYER ? plain_group : run->backend->floats->norm)(
            op, run_row(run, op->in, row) + at, whole_weight ? weight + at : weight,
            whole_bias ? bias + at : bias, run_row(run, op->out, row) + at);
        if (any_form(plan->gives))
            matrix_give(run, plan, op->out, row, 0, act_blocks(op->out.width));
    }
}

/* The part of this thread's share that lies in one row: advances share->begin. */
static uint32_t next_run(struct share *share, uint32_t width, uint32_t *row, uint32_t *column)
{
    *row = (uint32_t)(share->begin / width);
    *column = (uint32_t)(share->begin % width);
    uint64_t left = share->end - share->begin;
    uint32_t n = width - *column < left ? width - *column : (uint32_t)left;
    share->begin += n;
    return n;
}

static float xielu(const float p[4], float x)
{
    if (x > 0.0f)
        return p[0] * x * x + p[2] * x;
    return p[1] * (expm1f(x < p[3] ? x : p[3]) - x) + p[2] * x;
}

static void activate_run(const struct cpu_run *run, enum activation act, const float *in,
                         uint32_t n, float *out)
{
    if (out != in)
        memcpy(out, in, n * sizeof *out);
    run->backend->floats->activate(act, out, n);
}

void cpu_activation(const struct worker *w, const struct op_activate *op)
{
    const struct cpu_run *run = w->run;
    uint32_t row, column, width = op->out.width;
    struct share share = worker_share(w, (uint64_t)run_rows(run, op->out) * width);
    while (share.begin < share.end) {
        uint32_t n = next_run(&share, width, &row, &column);
        const float *in = run_row(run, op->in, row) + column;
        float *out = run_row(run, op->out, row) + column;
        if (op->act == ACT_XIELU)
            for (uint32_t i = 0; i < n; i++)
                out[i] = xielu(op->parameters, in[i]);
        else
            activate_run(run, op->act, in, n, out);
    }
}

void cpu_add(const struct worker *w, const struct op_add *op)
{
    const struct cpu_run *run = w->run;
    uint32_t row, column, width = op->out.width;
    struct share share = worker_share(w, (uint64_t)run_rows(run, op->out) * width);
    while (share.begin < share.end) {
        uint32_t n = next_run(&share, width, &row, &column);
        const float *a = run_row(run, op->a, row) + column;
        const float *b = run_row(run, op->b, row) + column;
        float *out = run_row(run, op->out, row) + column;
        run->backend->floats->add(a, b, op->scale, n, out);
    }
}

void cpu_mul(const struct worker *w, const struct op_mul *op)
{
    const struct cpu_run *run = w->run;
    uint32_t row, column, width = op->out.width, each = width / op->a.width;
    struct share share = worker_share(w, (uint64_t)run_rows(run, op->out) * width);
    while (share.begin < share.end) {
        uint32_t n = next_run(&share, width, &row, &column);
        const float *a = run_row(run, op->a, row);
        const float *b = run_row(run, op->b, row) + column;
        float *out = run_row(run, op->out, row) + column;
        if (each == 1)
            run->backend->floats->gate(op->act, a + column, b, n, out);
        else
            for (uint32_t i = 0; i < n; i++)
                out[i] = activate(op->act, a[(column + i) / each]) * b[i];
    }
}

void cpu_select(const struct worker *w, const struct op_select *op)
{
    const struct cpu_run *run = w->run;
    struct share share = worker_share(w, run->step->n_outputs);
    for (uint64_t i = share.begin; i < share.end; i++)
        memcpy(run_row(run, op->out, (uint32_t)i),
               run_row(run, op->in, step_outputs(run->step)[i].row), op->out.width * sizeof(float));
}
