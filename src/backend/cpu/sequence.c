/*
 * Operations that look along a sequence, but for attention: rotation and append, convolution.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"

/* ---- rotation ---------------------------------------------------------------------------------- */

/* Which of the position axes turns pair i; pairs past all sections, or no sections: axis 0. */
static uint32_t pair_axis(const struct op_rope_kv *op, uint32_t pair)
{
    uint32_t end = 0;
    for (uint32_t axis = 0; axis < 4; axis++) {
        end += op->sections[axis];
        if (pair < end)
            return axis;
    }
    return 0;
}

/* In double: a float angle at position 100,000 is off by a hundredth of a radian. */
void cpu_rope_turns(const struct worker *w, const struct rope_table *table)
{
    const struct op_rope_kv *op = table->op;
    const float *freqs = run_vector(w->run, op->freqs);
    uint32_t half = op->rope_dims / 2;
    struct share share = worker_share(w, w->run->step->n_rows);
    for (uint64_t row = share.begin; row < share.end; row++) {
        float *turn = table->turns + row * 2 * half;
        for (uint32_t i = 0; i < half; i++) {
            int32_t position = step_positions(w->run->step, pair_axis(op, i))[row];
            double angle = (double)position * (double)freqs[i];
            turn[i] = (float)cos(angle) * op->magnitude;
            turn[half + i] = (float)sin(angle) * op->magnitude;
        }
    }
}

static void append(const struct cpu_run *run, const struct op_rope_kv *op, uint32_t row,
                   uint32_t head)
{
    const struct cpu_backend *backend = run->backend;
    const struct group_layout *g = &backend->layout.groups[op->group];
    const struct state_group *group = &run->program->program->groups[op->group];
    uint32_t slot = step_slices(run->step)[step_row_slice(run->step)[row]].slot;
    uint32_t position = step_row_position(run->step, row);
    uint8_t *page = run_page(run, slot, op->group, position / g->tokens_per_page);
    uint32_t t = position % g->tokens_per_page;
    const float *key = run_row(run, op->k, row) + (size_t)head * group->k_head_dim;
    if (group->kind == GROUP_LATENT) { /* latent.c reads its keys row by row */
        backend->kv->append_value(key, page + layout_k_offset(g, op->layer, head, t),
                                  group->k_head_dim);
    } else {
        uint32_t width = g->tokens_per_page < KEY_GROUP ? g->tokens_per_page : KEY_GROUP;
        backend->kv->append_key(key, page + layout_k_offset(g, op->layer, head, t - t % width),
                                width, t % width, group->k_head_dim);
    }
    backend->kv->append_value(run_row(run, op->v, row) + (size_t)head * group->v_head_dim,
                              page + layout_v_offset(g, op->layer, head, t), group->v_head_dim);
}

void cpu_rope_kv(const struct worker *w, const struct op_rope_kv *op,
                 const struct rope_table *table)
{
    const struct cpu_run *run = w->run;
    const struct state_group *group = &run->program->program->groups[op->group];
    bool appends = op->k.buffer != NO_BUFFER;
    uint32_t q_dim =
        op->q.width / op->n_heads; /* a latent group's queries are longer than its keys */
    uint32_t heads = op->n_heads + (appends ? group->n_kv_heads : 0);
    struct share share = worker_share(w, (uint64_t)run->step->n_rows * heads);
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t row = (uint32_t)(i / heads), head = (uint32_t)(i % heads);
        const float *turn = table ? table->turns + (size_t)row * op->rope_dims : NULL;
        if (head < op->n_heads) {
            if (turn)
                run->backend->floats->rotate(op->style, op->rope_dims, turn,
                                             run_row(run, op->q, row) + (size_t)head * q_dim);
            continue;
        }
        head -= op->n_heads;
        if (turn)
            run->backend->floats->rotate(op->style, op->rope_dims, turn,
                                         run_row(run, op->k, row) +
                                             (size_t)head * group->k_head_dim);
        append(run, op, row, head);
    }
}

/* ---- convolution ------------------------------------------------------------------------------- */

#define CHANNELS 16

static float *state_of(const struct cpu_run *run, const struct op_conv *op, uint32_t slot,
                       uint32_t state_slot)
{
    const struct group_layout *g = &run->backend->layout.groups[op->group];
    uint8_t *page = run_page(run, slot, op->group, layout_state_page(g, state_slot, op->layer));
    return (float *)(void *)(page + layout_state_offset(g, op->layer));
}

/* Channels [first, first + n) of one slice, in time order. past: the last taps - 1 inputs, oldest
 * first, shifted along; so `out` may be the same columns as `in`. */
static void conv_slice(const struct cpu_run *run, const struct op_conv *op, const float *taps,
                       const struct slice *slice, uint32_t first, uint32_t n)
{
    float past[CONV_TAPS_MAX][CHANNELS];
    uint32_t keep = op->taps - 1, width = op->in.width;
    const float *bias = run_vector(run, op->bias);
    memset(past, 0, sizeof past[0] * op->taps);
    if (slice->first_position > 0) {
        const float *from = state_of(run, op, slice->slot, slice->state_read);
        for (uint32_t j = 0; j < keep; j++)
            memcpy(past[j], from + (size_t)j * width + first, n * sizeof(float));
    }
    for (uint32_t r = 0; r < slice->n_rows; r++) {
        memcpy(past[keep], run_row(run, op->in, slice->first_row + r) + first, n * sizeof(float));
        float sum[CHANNELS] = {0};
        if (bias)
            memcpy(sum, bias + first, n * sizeof(float));
        for (uint32_t j = 0; j < op->taps; j++)
            for (uint32_t c = 0; c < n; c++)
                sum[c] += taps[(size_t)j * width + first + c] * past[j][c];
        float *out = run_row(run, op->out, slice->first_row + r) + first;
        for (uint32_t c = 0; c < n; c++)
            out[c] = activate(op->act, sum[c]);
        memmove(past[0], past[1], sizeof past[0] * keep);
    }
    float *to = state_of(run, op, slice->slot, slice->state_write);
    for (uint32_t j = 0; j < keep; j++)
        memcpy(to + (size_t)j * width + first, past[j], n * sizeof(float));
}

/* Threads split the channels, so each walks all slices in order and a sequence's later slice finds
 * the state that its earlier one wrote. */
void cpu_conv(const struct worker *w, const struct op_conv *op, const float *taps)
{
    uint32_t width = op->in.width;
    struct share share = worker_share(w, (width + CHANNELS - 1) / CHANNELS);
    for (uint32_t i = 0; i < w->run->step->n_slices; i++)
        for (uint64_t block = share.begin; block < share.end; block++) {
            uint32_t first = (uint32_t)block * CHANNELS;
            conv_slice(w->run, op, taps, step_slices(w->run->step) + i, first,
                       width - first < CHANNELS ? width - first : CHANNELS);
        }
}
