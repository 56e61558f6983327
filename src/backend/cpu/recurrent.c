/*
 * Operations that carry a state along a sequence: the state space recurrence and the gated delta
 * rule.
 *
 * Threads split the heads, so each walks all slices in order and a sequence's later slice finds the
 * state that its earlier one wrote. A head's state is copied to where the slice leaves it and then
 * updated in place, row by row: it stays in the cache for all rows of a slice, and the bits are the
 * same however a prompt is cut. The inner loops run along the state's last axis (head_dim, v_dim),
 * where every element has a sum of its own: no reduction across lanes. Rejected: chunked forms, which
 * turn the recurrence into matrix products; they would need a row alignment and pay off only for
 * long prompts.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"
#include "backend/cpu/loops.h"

static float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

static float *state_of(const struct cpu_run *run, const struct slice *slice, uint32_t group,
                       uint32_t layer, uint32_t state_slot)
{
    const struct group_layout *g = &run->backend->layout.groups[group];
    uint8_t *page = run_page(run, slice->slot, group, layout_state_page(g, state_slot, layer));
    return (float *)(void *)(page + layout_state_offset(g, layer));
}

/* Floats [first, first + n) of the state that a slice continues, moved to where it is left. */
static float *begin_state(const struct cpu_run *run, const struct slice *slice, uint32_t group,
                          uint32_t layer, size_t first, size_t n)
{
    float *to = state_of(run, slice, group, layer, slice->state_write) + first;
    if (slice->first_position == 0)
        memset(to, 0, n * sizeof *to);
    else if (slice->state_read != slice->state_write)
        memcpy(to, state_of(run, slice, group, layer, slice->state_read) + first, n * sizeof *to);
    return to;
}

/* ---- state space ------------------------------------------------------------------------------- */

/* state = keep * state + add * x, out += c * state, over one row of a head's state. */
static void ssm_step(float *restrict state, const float *restrict x, float *restrict out,
                     float keep, float add, float c, uint32_t n)
{
    for (uint32_t p = 0; p < n; p++) {
        state[p] = keep * state[p] + add * x[p];
        out[p] += c * state[p];
    }
}

static void ssm_row(const struct cpu_run *run, const struct op_ssm *op, uint32_t row, uint32_t h,
                    float *state)
{
    const float *a = run_vector(run, op->a), *dt_bias = run_vector(run, op->dt_bias);
    bool matrix = run->program->program->weights[op->a].n_cols != op->n_heads;
    size_t in_group = (size_t)(h / (op->n_heads / op->n_groups)) * op->n_state;
    const float *x = run_row(run, op->x, row) + (size_t)h * op->head_dim;
    const float *b = run_row(run, op->b, row) + in_group;
    const float *c = run_row(run, op->c, row) + in_group;
    float *out = run_row(run, op->out, row) + (size_t)h * op->head_dim;
    float t = softplus(run_row(run, op->dt, row)[h] + (dt_bias ? dt_bias[h] : 0.0f));
    t = t < op->dt_min ? op->dt_min : t > op->dt_max ? op->dt_max : t;
    float d = run_vector(run, op->d)[h], keep = matrix ? 0.0f : expf(t * a[h]);
    for (uint32_t p = 0; p < op->head_dim; p++)
        out[p] = d * x[p];
    for (uint32_t n = 0; n < op->n_state; n++) {
        if (matrix)
            keep = expf(t * a[(size_t)h * op->n_state + n]);
        ssm_step(state + (size_t)n * op->head_dim, x, out, keep, t * b[n], c[n], op->head_dim);
    }
}

void cpu_ssm(const struct worker *w, const struct op_ssm *op)
{
    const struct cpu_run *run = w->run;
    size_t each = (size_t)op->n_state * op->head_dim;
    struct share share = worker_share(w, op->n_heads);
    for (uint32_t i = 0; i < run->step->n_slices; i++) {
        const struct slice *slice = step_slices(run->step) + i;
        for (uint64_t h = share.begin; h < share.end; h++) {
            float *state = begin_state(run, slice, op->group, op->layer, h * each, each);
            for (uint32_t r = 0; r < slice->n_rows; r++)
                ssm_row(run, op, slice->first_row + r, (uint32_t)h, state);
        }
    }
}

/* ---- gated delta rule -------------------------------------------------------------------------- */

size_t delta_scratch_words(const struct op_delta *op)
{
    return 2 * (size_t)op->k_dim + op->v_dim;
}

static void scale_to_length(const float *x, uint32_t n, float scale, float *out)
{
    float by = scale / sqrtf(loop_dot(x, x, n) + 1e-6f);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * by;
}

/* state *= keep, sum += x * state: what the kept memory says about a key. */
static void delta_recall(float *restrict state, float *restrict sum, float keep, float x,
                         uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        state[j] *= keep;
        sum[j] += x * state[j];
    }
}

/* state += k * u, out += q * state */
static void delta_store(float *restrict state, const float *restrict u, float *restrict out,
                        float k, float q, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        state[j] += k * u[j];
        out[j] += q * state[j];
    }
}

static void delta_row(const struct worker *w, const struct op_delta *op, uint32_t row, uint32_t h,
                      float *state)
{
    const struct cpu_run *run = w->run;
    uint32_t k_dim = op->k_dim, v_dim = op->v_dim,
             g = op->tiled ? h % op->n_key_heads : h / (op->n_heads / op->n_key_heads);
    float *q = w->scratch, *k = q + k_dim, *u = k + k_dim;
    const float *v = run_row(run, op->v, row) + (size_t)h * v_dim;
    float *out = run_row(run, op->out, row) + (size_t)h * v_dim;
    float decay = run_row(run, op->decay, row)[h] + run_vector(run, op->dt_bias)[h];
    float keep = expf(run_vector(run, op->a)[h] * softplus(decay));
    float beta = 1.0f / (1.0f + expf(-run_row(run, op->beta, row)[h]));
    scale_to_length(run_row(run, op->q, row) + (size_t)g * k_dim, k_dim, 1.0f / sqrtf((float)k_dim),
                    q);
    scale_to_length(run_row(run, op->k, row) + (size_t)g * k_dim, k_dim, 1.0f, k);
    memset(u, 0, v_dim * sizeof *u);
    for (uint32_t i = 0; i < k_dim; i++)
        delta_recall(state + (size_t)i * v_dim, u, keep, k[i], v_dim);
    for (uint32_t j = 0; j < v_dim; j++) {
        u[j] = beta * (v[j] - u[j]);
        out[j] = 0.0f;
    }
    for (uint32_t i = 0; i < k_dim; i++)
        delta_store(state + (size_t)i * v_dim, u, out, k[i], q[i], v_dim);
}

void cpu_delta(const struct worker *w, const struct op_delta *op)
{
    const struct cpu_run *run = w->run;
    size_t each = (size_t)op->k_dim * op->v_dim;
    struct share share = worker_share(w, op->n_heads);
    for (uint32_t i = 0; i < run->step->n_slices; i++) {
        const struct slice *slice = step_slices(run->step) + i;
        for (uint64_t h = share.begin; h < share.end; h++) {
            float *state = begin_state(run, slice, op->group, op->layer, h * each, each);
            for (uint32_t r = 0; r < slice->n_rows; r++)
                delta_row(w, op, slice->first_row + r, (uint32_t)h, state);
        }
    }
}
