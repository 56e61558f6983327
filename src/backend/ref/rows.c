/* The reference operations that work row by row: embedding, norms, matrices, elementwise. */
#include <math.h>
#include <string.h>

#include "backend/ref/internal.h"

float *ref_row(const struct ref_run *run, struct view view, uint32_t row)
{
    const struct buffer *buffer = &run->program->program->buffers[view.buffer];
    const struct step_limits *limits = &run->program->limits;
    float *words =
        buffer->rows == ROWS_STEP ? run->program->step_words : run->program->output_words;
    uint64_t capacity = buffer->rows == ROWS_STEP ? limits->max_rows : limits->max_outputs;
    return words + buffer->offset * capacity + (uint64_t)row * buffer->width + view.column;
}

uint32_t ref_rows(const struct ref_run *run, struct view view)
{
    return run->program->program->buffers[view.buffer].rows == ROWS_STEP ? run->step->n_rows
                                                                         : run->step->n_outputs;
}

void ref_weight_row(const struct ref_run *run, int32_t weight, uint32_t part, uint32_t row,
                    float *out)
{
    const struct placed_weight *placed = run->program->placed[weight];
    const uint8_t *bytes = (const uint8_t *)placed->weight->parts[part] + row * placed->row_bytes;
    placed->type->decode(bytes, out, placed->weight->n_cols);
}

void ref_vector(const struct ref_run *run, int32_t weight, float *out)
{
    ref_weight_row(run, weight, 0, 0, out);
}

float ref_activate(enum activation act, float x)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_SILU:
        return x / (1.0f + expf(-x));
    case ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case ACT_RELU:
        return x > 0.0f ? x : 0.0f;
    case ACT_RELU2:
        return x > 0.0f ? x * x : 0.0f;
    case ACT_SIGMOID:
        return 1.0f / (1.0f + expf(-x));
    case ACT_TANH:
        return tanhf(x);
    case ACT_CLAMPED_SWIGLU:
    case ACT_XIELU:
        break;
    }
    return x;
}

float ref_gate(enum activation act, float gate, float up)
{
    if (act != ACT_CLAMPED_SWIGLU)
        return ref_activate(act, gate) * up;
    gate = fminf(gate, 7.0f);
    up = fminf(fmaxf(up, -7.0f), 7.0f);
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

static float dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return (float)sum;
}

int32_t ref_row_token(const struct ref_run *run, uint32_t row)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    uint32_t index = slice->input_offset + (row - slice->first_row);
    if (slice->input == INPUT_TOKENS)
        return step_tokens(run->step)[index];
    /* INPUT_SAMPLED: drawn after the previous step. */
    const struct ref_backend *backend = run->backend;
    uint64_t set = (backend->n_sample_steps - 1) % REF_RESULTS;
    return backend->samples[set * backend->sampling.max_rows + index].token;
}

void ref_embed(const struct ref_run *run, const struct op_embed *op)
{
    for (uint32_t row = 0; row < run->step->n_rows; row++) {
        const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
        float *out = ref_row(run, op->out, row);
        if (slice->input == INPUT_EMBEDDINGS) {
            uint32_t index = slice->input_offset + (row - slice->first_row);
            memcpy(out, step_embeddings(run->step) + (size_t)index * op->out.width,
                   op->out.width * sizeof *out);
            continue;
        }
        int32_t token = ref_row_token(run, row);
        /* A failed draw leaves token -1; its sequence is ended by the engine, one step late. */
        uint32_t rows = run->program->program->weights[op->table].n_rows;
        uint32_t index = token < 0 || (uint32_t)token >= rows ? 0 : (uint32_t)token;
        ref_weight_row(run, op->table, 0, index, out);
        for (uint32_t i = 0; i < op->out.width; i++)
            out[i] *= op->scale;
    }
}

/* Row of the table for a row of the step. */
static uint32_t position_row(const struct ref_run *run, const struct op_position *op, uint32_t row)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    if (op->skip < 0 || slice->input == INPUT_EMBEDDINGS)
        return step_row_position(run->step, row) + op->offset;
    if (ref_row_token(run, row) == op->skip)
        return op->offset - 1;
    uint32_t counted = 0;
    for (uint32_t r = slice->first_row; r < row; r++)
        counted += ref_row_token(run, r) != op->skip;
    return counted + op->offset;
}

void ref_position(const struct ref_run *run, const struct op_position *op)
{
    uint32_t width = op->in.width;
    float *bias = run->program->row, *learned = bias + width;
    if (op->bias != NO_WEIGHT)
        ref_vector(run, op->bias, bias);
    for (uint32_t row = 0; row < run->step->n_rows; row++) {
        const float *in = ref_row(run, op->in, row);
        float *out = ref_row(run, op->out, row);
        if (op->table != NO_WEIGHT)
            ref_weight_row(run, op->table, 0, position_row(run, op, row), learned);
        for (uint32_t i = 0; i < width; i++) {
            float value = op->table == NO_WEIGHT ? in[i] : in[i] + learned[i];
            out[i] = op->bias == NO_WEIGHT ? value : value + bias[i];
        }
    }
}

static float xielu(const float p[4], float x)
{
    if (x > 0.0f)
        return p[0] * x * x + p[2] * x;
    return p[1] * (expm1f(fminf(x, p[3])) - x) + p[2] * x;
}

void ref_activation(const struct ref_run *run, const struct op_activate *op)
{
    for (uint32_t row = 0; row < ref_rows(run, op->in); row++) {
        const float *in = ref_row(run, op->in, row);
        float *out = ref_row(run, op->out, row);
        for (uint32_t i = 0; i < op->in.width; i++)
            out[i] =
                op->act == ACT_XIELU ? xielu(op->parameters, in[i]) : ref_activate(op->act, in[i]);
    }
}

static void norm_group(const struct op_norm *op, const float *in, float *out, const float *weight,
                       const float *bias)
{
    double mean = 0.0, square = 0.0;
    for (uint32_t i = 0; i < op->group; i++)
        mean += (double)in[i];
    mean = op->kind == NORM_LAYER || op->kind == NORM_CUTOFF ? mean / op->group : 0.0;
    for (uint32_t i = 0; i < op->group; i++)
        square += ((double)in[i] - mean) * ((double)in[i] - mean);
    float scale = (float)(1.0 / sqrt(square / op->group + (double)op->eps));
    float cutoff = (float)(mean + (double)op->eps * sqrt(square / op->group));
    for (uint32_t i = 0; i < op->group; i++) {
        float value = op->kind == NORM_NONE     ? in[i]
                      : op->kind == NORM_CUTOFF ? fmaxf(in[i] - cutoff, 0.0f)
                                                : (in[i] - (float)mean) * scale;
        if (weight)
            value *= weight[i] + op->weight_offset;
        out[i] = bias ? value + bias[i] : value;
    }
}

void ref_norm(const struct ref_run *run, const struct op_norm *op)
{
    const struct program *program = run->program->program;
    float *weight = op->weight == NO_WEIGHT ? NULL : run->program->row;
    float *bias = op->bias == NO_WEIGHT ? NULL : run->program->row + op->in.width;
    bool whole_weight = weight && program->weights[op->weight].n_cols == op->in.width;
    bool whole_bias = bias && program->weights[op->bias].n_cols == op->in.width;
    if (weight)
        ref_vector(run, op->weight, weight);
    if (bias)
        ref_vector(run, op->bias, bias);
    uint32_t n = ref_rows(run, op->in);
    for (uint32_t row = 0; row < n; row++) {
        const float *in = ref_row(run, op->in, row);
        float *out = ref_row(run, op->out, row);
        for (uint32_t at = 0; at < op->in.width; at += op->group)
            norm_group(op, in + at, out + at, whole_weight ? weight + at : weight,
                       whole_bias ? bias + at : bias);
    }
}

void ref_linear(const struct ref_run *run, const struct op_linear *op)
{
    float *weights = run->program->row, *bias = weights + op->in.width;
    if (op->bias != NO_WEIGHT)
        ref_vector(run, op->bias, bias);
    uint32_t n = ref_rows(run, op->in);
    for (uint32_t j = 0; j < op->out.width; j++) {
        ref_weight_row(run, op->weight, 0, j, weights);
        for (uint32_t row = 0; row < n; row++) {
            float value = dot(weights, ref_row(run, op->in, row), op->in.width);
            if (op->bias != NO_WEIGHT)
                value += bias[j];
            value = ref_activate(op->act, value) * op->scale;
            if (op->residual.buffer != NO_BUFFER)
                value += ref_row(run, op->residual, row)[j];
            ref_row(run, op->out, row)[j] = value;
        }
    }
}

void ref_gated(const struct ref_run *run, const struct op_gated *op)
{
    uint32_t n_in = op->in.width, n_out = op->out.width;
    float *gate = run->program->row, *up = gate + n_in;
    float *gate_bias = up + n_in, *up_bias = gate_bias + n_out;
    if (op->gate_bias != NO_WEIGHT)
        ref_vector(run, op->gate_bias, gate_bias);
    if (op->up_bias != NO_WEIGHT)
        ref_vector(run, op->up_bias, up_bias);
    uint32_t n = ref_rows(run, op->in);
    for (uint32_t j = 0; j < n_out; j++) {
        ref_weight_row(run, op->gate, 0, j, gate);
        ref_weight_row(run, op->up, 0, j, up);
        for (uint32_t row = 0; row < n; row++) {
            const float *in = ref_row(run, op->in, row);
            float g = dot(gate, in, n_in), u = dot(up, in, n_in);
            if (op->gate_bias != NO_WEIGHT)
                g += gate_bias[j];
            if (op->up_bias != NO_WEIGHT)
                u += up_bias[j];
            ref_row(run, op->out, row)[j] = ref_gate(op->act, g, u);
        }
    }
}

void ref_mix(const struct ref_run *run, const struct op_mix *op)
{
    uint32_t n = ref_rows(run, op->out), width = op->in.width / op->n_in;
    for (uint32_t row = 0; row < n; row++) {
        const float *in = ref_row(run, op->in, row), *coefs = ref_row(run, op->coefs, row);
        const float *residual = ref_row(run, op->residual, row);
        float *out = ref_row(run, op->out, row);
        for (uint32_t k = 0; k < op->out.width; k++) {
            double sum = (double)residual[k];
            for (uint32_t i = 0; i < op->n_in; i++)
                sum += (double)coefs[k / width * op->n_in + i] *
                       (double)in[(size_t)i * width + k % width];
            out[k] = (float)sum;
        }
    }
}

static double mean_square(const float *x, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum / n;
}

void ref_match(const struct ref_run *run, const struct op_match *op)
{
    uint32_t n = ref_rows(run, op->out);
    for (uint32_t row = 0; row < n; row++) {
        const float *in = ref_row(run, op->in, row);
        float *out = ref_row(run, op->out, row);
        double own = fmax(mean_square(in, op->in.width), (double)op->least);
        double by = sqrt(mean_square(ref_row(run, op->like, row), op->like.width) / own);
        for (uint32_t i = 0; i < op->in.width; i++)
            out[i] = (float)((double)in[i] * by);
    }
}

void ref_add(const struct ref_run *run, const struct op_add *op)
{
    uint32_t n = ref_rows(run, op->out);
    for (uint32_t row = 0; row < n; row++) {
        const float *a = ref_row(run, op->a, row), *b = ref_row(run, op->b, row);
        float *out = ref_row(run, op->out, row);
        for (uint32_t i = 0; i < op->out.width; i++)
            out[i] = a[i] + b[i] * op->scale;
    }
}

void ref_mul(const struct ref_run *run, const struct op_mul *op)
{
    uint32_t n = ref_rows(run, op->out), each = op->out.width / op->a.width;
    for (uint32_t row = 0; row < n; row++) {
        const float *a = ref_row(run, op->a, row), *b = ref_row(run, op->b, row);
        float *out = ref_row(run, op->out, row);
        for (uint32_t i = 0; i < op->out.width; i++)
            out[i] = ref_activate(op->act, a[i / each]) * b[i];
    }
}

void ref_select(const struct ref_run *run, const struct op_select *op)
{
    for (uint32_t i = 0; i < run->step->n_outputs; i++)
        memcpy(ref_row(run, op->out, i), ref_row(run, op->in, step_outputs(run->step)[i].row),
               op->out.width * sizeof(float));
}

void ref_logits(const struct ref_run *run, const struct op_logits *op)
{
    float *weights = run->program->row, *bias = weights + op->in.width;
    if (op->bias != NO_WEIGHT)
        ref_vector(run, op->bias, bias);
    for (uint32_t j = 0; j < op->out.width; j++) {
        ref_weight_row(run, op->weight, 0, j, weights);
        for (uint32_t i = 0; i < run->step->n_logits; i++) {
            float value = dot(weights, ref_row(run, op->in, i), op->in.width);
            if (op->bias != NO_WEIGHT)
                value += bias[j];
            value *= op->scale;
            if (op->softcap != 0.0f)
                value = op->softcap * tanhf(value / op->softcap);
            ref_row(run, op->out, i)[j] = value;
        }
    }
}
