/* The reference operations that carry a state along a sequence, and per-head matrices: in double,
 * as the formulas of program/program.h are written. The state between rows is float32, as every
 * backend keeps it between steps; anything else would make the bits depend on where a chunk ends. */
#include <math.h>
#include <string.h>

#include "backend/ref/internal.h"

static float *state_of(const struct ref_run *run, uint32_t slot, uint32_t group, uint32_t layer,
                       uint32_t state_slot)
{
    const struct group_layout *g = &run->backend->layout.groups[group];
    uint8_t *page = ref_page(run, slot, group, layout_state_page(g, state_slot, layer));
    return (float *)(void *)(page + layout_state_offset(g, layer));
}

/* The state that a slice continues, copied to where it will be left; zeros at the start. */
static float *begin_state(const struct ref_run *run, const struct slice *slice, uint32_t group,
                          uint32_t layer)
{
    size_t bytes = run->program->program->groups[group].state_floats * sizeof(float);
    float *to = state_of(run, slice->slot, group, layer, slice->state_write);
    if (slice->first_position == 0)
        memset(to, 0, bytes);
    else if (slice->state_read != slice->state_write)
        memcpy(to, state_of(run, slice->slot, group, layer, slice->state_read), bytes);
    return to;
}

static double softplus(double x)
{
    return x > 30.0 ? x : log1p(exp(x));
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* ---- state space ------------------------------------------------------------------------------- */

struct ssm_vectors {
    float *a, *d, *dt_bias;
    bool matrix; /* a is [n_heads, n_state] */
};

static void ssm_head(const struct ref_run *run, const struct op_ssm *op,
                     const struct ssm_vectors *v, uint32_t row, uint32_t h, float *state)
{
    uint32_t g = h / (op->n_heads / op->n_groups);
    const float *x = ref_row(run, op->x, row) + (size_t)h * op->head_dim;
    const float *b = ref_row(run, op->b, row) + (size_t)g * op->n_state;
    const float *c = ref_row(run, op->c, row) + (size_t)g * op->n_state;
    float *out = ref_row(run, op->out, row) + (size_t)h * op->head_dim;
    double t =
        softplus((double)ref_row(run, op->dt, row)[h] + (v->dt_bias ? (double)v->dt_bias[h] : 0.0));
    t = fmin(fmax(t, (double)op->dt_min), (double)op->dt_max);
    for (uint32_t p = 0; p < op->head_dim; p++) {
        double sum = (double)v->d[h] * (double)x[p];
        for (uint32_t n = 0; n < op->n_state; n++) {
            double a = (double)v->a[v->matrix ? (size_t)h * op->n_state + n : h];
            float *s = &state[((size_t)h * op->n_state + n) * op->head_dim + p];
            *s = (float)(exp(t * a) * (double)*s + t * (double)b[n] * (double)x[p]);
            sum += (double)c[n] * (double)*s;
        }
        out[p] = (float)sum;
    }
}

void ref_ssm(const struct ref_run *run, const struct op_ssm *op)
{
    struct ssm_vectors v = {.a = run->program->row};
    uint32_t n_a = run->program->program->weights[op->a].n_cols;
    v.matrix = n_a != op->n_heads || op->n_state == 1;
    v.d = v.a + n_a;
    ref_vector(run, op->a, v.a);
    ref_vector(run, op->d, v.d);
    if (op->dt_bias != NO_WEIGHT) {
        v.dt_bias = v.d + op->n_heads;
        ref_vector(run, op->dt_bias, v.dt_bias);
    }
    for (uint32_t i = 0; i < run->step->n_slices; i++) {
        const struct slice *slice = step_slices(run->step) + i;
        float *state = begin_state(run, slice, op->group, op->layer);
        for (uint32_t r = 0; r < slice->n_rows; r++)
            for (uint32_t h = 0; h < op->n_heads; h++)
                ssm_head(run, op, &v, slice->first_row + r, h, state);
    }
}

/* ---- gated delta rule -------------------------------------------------------------------------- */

static double inverse_length(const float *x, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return 1.0 / sqrt(sum + 1e-6);
}

static void delta_head(const struct ref_run *run, const struct op_delta *op, const float *a,
                       const float *dt_bias, uint32_t row, uint32_t h, float *state)
{
    uint32_t g = op->tiled ? h % op->n_key_heads : h / (op->n_heads / op->n_key_heads);
    const float *q = ref_row(run, op->q, row) + (size_t)g * op->k_dim;
    const float *k = ref_row(run, op->k, row) + (size_t)g * op->k_dim;
    const float *v = ref_row(run, op->v, row) + (size_t)h * op->v_dim;
    float *out = ref_row(run, op->out, row) + (size_t)h * op->v_dim;
    double q_scale = inverse_length(q, op->k_dim) / sqrt((double)op->k_dim);
    double k_scale = inverse_length(k, op->k_dim);
    double keep =
        exp((double)a[h] * softplus((double)ref_row(run, op->decay, row)[h] + (double)dt_bias[h]));
    double beta = sigmoid((double)ref_row(run, op->beta, row)[h]);
    for (uint32_t j = 0; j < op->v_dim; j++) {
        float *s = state + (size_t)h * op->k_dim * op->v_dim + j;
        double remembered = 0.0, sum = 0.0;
        for (uint32_t i = 0; i < op->k_dim; i++)
            remembered += keep * (double)s[(size_t)i * op->v_dim] * (double)k[i] * k_scale;
        double u = beta * ((double)v[j] - remembered);
        for (uint32_t i = 0; i < op->k_dim; i++) {
            float *cell = &s[(size_t)i * op->v_dim];
            *cell = (float)(keep * (double)*cell + (double)k[i] * k_scale * u);
            sum += (double)q[i] * q_scale * (double)*cell;
        }
        out[j] = (float)sum;
    }
}

void ref_delta(const struct ref_run *run, const struct op_delta *op)
{
    float *a = run->program->row, *dt_bias = a + op->n_heads;
    ref_vector(run, op->a, a);
    ref_vector(run, op->dt_bias, dt_bias);
    for (uint32_t i = 0; i < run->step->n_slices; i++) {
        const struct slice *slice = step_slices(run->step) + i;
        float *state = begin_state(run, slice, op->group, op->layer);
        for (uint32_t r = 0; r < slice->n_rows; r++)
            for (uint32_t h = 0; h < op->n_heads; h++)
                delta_head(run, op, a, dt_bias, slice->first_row + r, h, state);
    }
}

/* ---- per-head matrices ------------------------------------------------------------------------- */

/* One element of a head's matrix times its input. */
static void head_matrix(const struct ref_run *run, const struct op_heads *op, uint32_t h,
                        const float *in, float *out)
{
    float *weights = run->program->row;
    uint32_t rows = op->transposed ? op->in_width : op->out_width;
    double *sums = (double *)(void *)(weights + (op->in_width + op->out_width + 1) / 2 * 2);
    for (uint32_t j = 0; j < op->out_width; j++)
        sums[j] = 0.0;
    for (uint32_t i = 0; i < rows; i++) {
        ref_weight_row(run, op->weight, h, i, weights);
        if (op->transposed)
            for (uint32_t j = 0; j < op->out_width; j++)
                sums[j] += (double)weights[j] * (double)in[i];
        else
            for (uint32_t j = 0; j < op->in_width; j++)
                sums[i] += (double)weights[j] * (double)in[j];
    }
    for (uint32_t j = 0; j < op->out_width; j++)
        out[j] = (float)sums[j];
}

void ref_heads(const struct ref_run *run, const struct op_heads *op)
{
    uint32_t n = ref_rows(run, op->in);
    for (uint32_t row = 0; row < n; row++)
        for (uint32_t h = 0; h < op->n_heads; h++) {
            const float *in = ref_row(run, op->in, row) + (size_t)h * (op->in.width / op->n_heads) +
                              op->in_column;
            float *out = ref_row(run, op->out, row) + (size_t)h * (op->out.width / op->n_heads) +
                         op->out_column;
            if (op->weight == NO_WEIGHT)
                memcpy(out, in, op->in_width * sizeof *out);
            else
                head_matrix(run, op, h, in, out);
        }
}
