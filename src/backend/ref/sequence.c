/* The reference operations that look along a sequence: rotation and append, attention, convolution.
 * Keys and values are encoded into pages by quant/'s table and decoded again at every use. */
#include <math.h>
#include <string.h>

#include "backend/ref/internal.h"

uint8_t *ref_page(const struct ref_run *run, uint32_t slot, uint32_t group, uint32_t index)
{
    const struct ref_backend *backend = run->backend;
    uint32_t page = backend->tables[layout_table_index(&backend->layout, slot, group, index)];
    return backend->pages + (uint64_t)page * backend->layout.page_bytes;
}

/* Which of the position axes turns pair i; sections 0: always axis 0. */
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

static void rotate_head(const struct ref_run *run, const struct op_rope_kv *op, const float *freqs,
                        uint32_t row, float *head)
{
    uint32_t half = op->rope_dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        int32_t position = step_positions(run->step, pair_axis(op, i))[row];
        double angle = (double)position * (double)freqs[i];
        float c = (float)cos(angle) * op->magnitude, s = (float)sin(angle) * op->magnitude;
        uint32_t a = op->style == ROPE_HALVES ? i : 2 * i;
        uint32_t b = op->style == ROPE_HALVES ? i + half : 2 * i + 1;
        float x = head[a], y = head[b];
        head[a] = x * c - y * s;
        head[b] = x * s + y * c;
    }
}

static void append(const struct ref_run *run, const struct op_rope_kv *op, uint32_t row)
{
    const struct group_layout *g = &run->backend->layout.groups[op->group];
    const struct tensor_type_info *type = tensor_type_info(run->backend->layout.kv_type);
    const struct state_group *group = &run->program->program->groups[op->group];
    uint32_t slot = step_slices(run->step)[step_row_slice(run->step)[row]].slot;
    uint32_t position = step_row_position(run->step, row);
    uint8_t *page = ref_page(run, slot, op->group, position / g->tokens_per_page);
    uint32_t t = position % g->tokens_per_page;
    for (uint32_t h = 0; h < g->n_kv_heads; h++) {
        type->encode(ref_row(run, op->k, row) + h * group->k_head_dim,
                     page + layout_k_offset(g, op->layer, h, t), group->k_head_dim);
        type->encode(ref_row(run, op->v, row) + h * group->v_head_dim,
                     page + layout_v_offset(g, op->layer, h, t), group->v_head_dim);
    }
}

void ref_rope_kv(const struct ref_run *run, const struct op_rope_kv *op)
{
    const struct state_group *group = &run->program->program->groups[op->group];
    float *freqs = run->program->row;
    uint32_t q_dim =
        op->q.width / op->n_heads; /* a latent group's queries are longer than its keys */
    if (op->style != ROPE_NONE)
        ref_vector(run, op->freqs, freqs);
    for (uint32_t row = 0; row < run->step->n_rows; row++) {
        for (uint32_t h = 0; op->style != ROPE_NONE && h < op->n_heads; h++)
            rotate_head(run, op, freqs, row, ref_row(run, op->q, row) + h * q_dim);
        if (op->k.buffer == NO_BUFFER)
            continue;
        for (uint32_t h = 0; op->style != ROPE_NONE && h < group->n_kv_heads; h++)
            rotate_head(run, op, freqs, row, ref_row(run, op->k, row) + h * group->k_head_dim);
        append(run, op, row);
    }
}

static double dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* One row, one head: scores over [begin, end), softmax, weighted values. */
static void attend(const struct ref_run *run, const struct op_attention *op, uint32_t row,
                   uint32_t head, uint32_t begin, uint32_t end, const float *sinks)
{
    const struct state_group *group = &run->program->program->groups[op->group];
    const struct group_layout *g = &run->backend->layout.groups[op->group];
    const struct tensor_type_info *type = tensor_type_info(run->backend->layout.kv_type);
    uint32_t slot = step_slices(run->step)[step_row_slice(run->step)[row]].slot;
    uint32_t kv_head = head / (op->n_heads / group->n_kv_heads);
    const float *q = ref_row(run, op->q, row) + (size_t)head * (op->q.width / op->n_heads);
    float *out = ref_row(run, op->out, row) + (size_t)head * group->v_head_dim;
    float *cell = run->program->row, *scores = cell + group->k_head_dim + group->v_head_dim;
    float most = sinks ? sinks[head] : -INFINITY;
    for (uint32_t p = begin; p < end; p++) {
        const uint8_t *page = ref_page(run, slot, op->group, p / g->tokens_per_page);
        type->decode(page + layout_k_offset(g, op->layer, kv_head, p % g->tokens_per_page), cell,
                     group->k_head_dim);
        double sum = dot(q, cell, group->k_head_dim);
        if (group->kind == GROUP_LATENT) {
            type->decode(page + layout_v_offset(g, op->layer, kv_head, p % g->tokens_per_page),
                         cell, group->v_head_dim);
            sum += dot(q + group->k_head_dim, cell, group->v_head_dim);
        }
        float score = (float)sum * op->scale;
        if (op->softcap != 0.0f)
            score = op->softcap * tanhf(score / op->softcap);
        scores[p - begin] = score;
        most = score > most ? score : most;
    }
    double total = sinks ? exp((double)(sinks[head] - most)) : 0.0;
    for (uint32_t p = begin; p < end; p++)
        total += exp((double)(scores[p - begin] - most));
    for (uint32_t i = 0; i < group->v_head_dim; i++)
        out[i] = 0.0f;
    for (uint32_t p = begin; p < end; p++) {
        const uint8_t *page = ref_page(run, slot, op->group, p / g->tokens_per_page);
        type->decode(page + layout_v_offset(g, op->layer, kv_head, p % g->tokens_per_page), cell,
                     group->v_head_dim);
        float weight = (float)(exp((double)(scores[p - begin] - most)) / total);
        for (uint32_t i = 0; i < group->v_head_dim; i++)
            out[i] += weight * cell[i];
    }
}

void ref_attention(const struct ref_run *run, const struct op_attention *op)
{
    /* Scratch: attend() uses the front of `row`; sinks sit behind the longest score list. */
    float *sinks = NULL;
    if (op->sinks != NO_WEIGHT) {
        sinks = run->program->row + run->backend->max_positions + 2 * (size_t)op->q.width +
                (size_t)op->out.width;
        ref_vector(run, op->sinks, sinks);
    }
    for (uint32_t row = 0; row < run->step->n_rows; row++) {
        const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
        uint32_t position = step_row_position(run->step, row);
        uint32_t end =
            slice->mask == MASK_SPAN ? slice->first_position + slice->n_rows : position + 1;
        if (op->ahead && end > position + 1 + op->ahead)
            end = position + 1 + op->ahead;
        uint32_t begin = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
        for (uint32_t head = 0; head < op->n_heads; head++)
            attend(run, op, row, head, begin, end, sinks);
    }
}

void ref_conv(const struct ref_run *run, const struct op_conv *op)
{
    const struct group_layout *g = &run->backend->layout.groups[op->group];
    uint32_t width = op->in.width, keep = op->taps - 1;
    float *bias = run->program->row, *weights = bias + width, *past = weights + op->taps;
    if (op->bias != NO_WEIGHT)
        ref_vector(run, op->bias, bias);
    for (uint32_t i = 0; i < run->step->n_slices; i++) {
        const struct slice *slice = step_slices(run->step) + i;
        const float *from =
            (const float *)(const void *)(ref_page(
                                              run, slice->slot, op->group,
                                              layout_state_page(g, slice->state_read, op->layer)) +
                                          layout_state_offset(g, op->layer));
        float *to =
            (float *)(void *)(ref_page(run, slice->slot, op->group,
                                       layout_state_page(g, slice->state_write, op->layer)) +
                              layout_state_offset(g, op->layer));
        for (uint32_t c = 0; c < width; c++) {
            ref_weight_row(run, op->weight, 0, c, weights);
            /* past: the keep inputs before the slice, then its own. */
            for (uint32_t j = 0; j < keep; j++)
                past[j] = slice->first_position == 0 ? 0.0f : from[(size_t)j * width + c];
            for (uint32_t r = 0; r < slice->n_rows; r++) {
                past[keep] = ref_row(run, op->in, slice->first_row + r)[c];
                double sum = op->bias == NO_WEIGHT ? 0.0 : (double)bias[c];
                for (uint32_t j = 0; j < op->taps; j++)
                    sum += (double)weights[j] * (double)past[j];
                ref_row(run, op->out, slice->first_row + r)[c] = ref_activate(op->act, (float)sum);
                memmove(past, past + 1, keep * sizeof *past);
            }
            for (uint32_t j = 0; j < keep; j++)
                to[(size_t)j * width + c] = past[j];
        }
    }
}
