/*
 * Operations that look along a sequence: rotation and append, attention, convolution.
 *
 * Attention works on (row, head) pairs. One pair is a single pass over its visible positions in
 * ascending order, in tiles of POSITIONS counted from the first visible one, with an online softmax:
 *
 *     most = running maximum   total = sum of exp(score - most)   sum[] = the same, times values
 *
 * When a tile raises the maximum, total and sum are scaled down once. All of it depends on the row's
 * own position and history only, so chunking and company cannot show. Keys and values are read in
 * their pages, one run of tokens per page and tile.
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
            turn[2 * i] = (float)cos(angle) * op->magnitude;
            turn[2 * i + 1] = (float)sin(angle) * op->magnitude;
        }
    }
}

static void rotate(const struct op_rope_kv *op, const float *turn, float *head)
{
    uint32_t half = op->rope_dims / 2;
    uint32_t second = op->style == ROPE_HALVES ? half : 1;
    uint32_t stride = op->style == ROPE_HALVES ? 1 : 2;
    for (uint32_t i = 0; i < half; i++) {
        float c = turn[2 * i], s = turn[2 * i + 1];
        float x = head[i * stride], y = head[i * stride + second];
        head[i * stride] = x * c - y * s;
        head[i * stride + second] = x * s + y * c;
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
    backend->kv->encode(run_row(run, op->k, row) + (size_t)head * group->k_head_dim,
                        page + layout_k_offset(g, op->layer, head, t), group->k_head_dim);
    backend->kv->encode(run_row(run, op->v, row) + (size_t)head * group->v_head_dim,
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
                rotate(op, turn, run_row(run, op->q, row) + (size_t)head * q_dim);
            continue;
        }
        head -= op->n_heads;
        if (turn)
            rotate(op, turn, run_row(run, op->k, row) + (size_t)head * group->k_head_dim);
        append(run, op, row, head);
    }
}

/* ---- attention --------------------------------------------------------------------------------- */

#define POSITIONS 32

struct attend {
    const struct cpu_run *run;
    const struct op_attention *op;
    const struct group_layout *layout;
    uint32_t slot, kv_head;
    uint32_t k_dim, v_dim;
    const float *q;
    float *sum; /* [v_dim] */
    float most, total;
};

/* Scores of positions [begin, begin + n), n <= POSITIONS. */
static void tile_scores(const struct attend *a, uint32_t begin, uint32_t n, float *scores)
{
    const struct op_attention *op = a->op;
    uint32_t per_page = a->layout->tokens_per_page;
    for (uint32_t at = 0; at < n;) {
        uint32_t t = (begin + at) % per_page;
        uint32_t in_page = per_page - t < n - at ? per_page - t : n - at;
        const uint8_t *page = run_page(a->run, a->slot, op->group, (begin + at) / per_page);
        a->run->backend->kv->scores(a->q,
                                    page + layout_k_offset(a->layout, op->layer, a->kv_head, t),
                                    in_page, a->k_dim, scores + at);
        at += in_page;
    }
    for (uint32_t i = 0; i < n; i++) {
        scores[i] *= op->scale;
        if (op->softcap != 0.0f)
            scores[i] = op->softcap * tanhf(scores[i] / op->softcap);
    }
}

static void tile_mix(const struct attend *a, uint32_t begin, uint32_t n, const float *weights)
{
    uint32_t per_page = a->layout->tokens_per_page;
    for (uint32_t at = 0; at < n;) {
        uint32_t t = (begin + at) % per_page;
        uint32_t in_page = per_page - t < n - at ? per_page - t : n - at;
        const uint8_t *page = run_page(a->run, a->slot, a->op->group, (begin + at) / per_page);
        a->run->backend->kv->mix(weights + at,
                                 page + layout_v_offset(a->layout, a->op->layer, a->kv_head, t),
                                 in_page, a->v_dim, a->sum);
        at += in_page;
    }
}

static void attend_tile(struct attend *a, uint32_t begin, uint32_t n)
{
    float scores[POSITIONS];
    tile_scores(a, begin, n, scores);
    float most = a->most;
    for (uint32_t i = 0; i < n; i++)
        most = scores[i] > most ? scores[i] : most;
    if (most > a->most) {
        float shrink = expf(a->most - most); /* 0 at the first tile: most was -infinity */
        a->total *= shrink;
        for (uint32_t i = 0; i < a->v_dim; i++)
            a->sum[i] *= shrink;
        a->most = most;
    }
    for (uint32_t i = 0; i < n; i++) {
        scores[i] = expf(scores[i] - most);
        a->total += scores[i];
    }
    tile_mix(a, begin, n, scores);
}

/* Visible positions of a row: [*begin, *end). */
static void visible(const struct cpu_run *run, const struct op_attention *op, uint32_t row,
                    uint32_t *begin, uint32_t *end)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    uint32_t position = step_row_position(run->step, row);
    *end = slice->mask == MASK_SPAN ? slice->first_position + slice->n_rows : position + 1;
    if (op->ahead && *end > position + 1 + op->ahead)
        *end = position + 1 + op->ahead;
    *begin = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
}

size_t attention_scratch_words(const struct program *program, const struct op_attention *op)
{
    const struct state_group *group = &program->groups[op->group];
    return group->kind == GROUP_LATENT ? latent_scratch_words(program, op) : group->v_head_dim;
}

void cpu_attention(const struct worker *w, const struct op_attention *op)
{
    const struct cpu_run *run = w->run;
    const struct state_group *group = &run->program->program->groups[op->group];
    if (group->kind == GROUP_LATENT) {
        cpu_latent_attention(w, op);
        return;
    }
    const float *sinks = run_vector(run, op->sinks);
    uint32_t heads_per_kv = op->n_heads / group->n_kv_heads;
    uint64_t pairs = (uint64_t)run->step->n_rows * op->n_heads;
    /* Strided, not contiguous: late rows of a prompt see more positions than early ones. */
    for (uint64_t i = w->index; i < pairs; i += w->count) {
        uint32_t row = (uint32_t)(i / op->n_heads), head = (uint32_t)(i % op->n_heads);
        uint32_t begin, end;
        visible(run, op, row, &begin, &end);
        struct attend a = {
            .run = run,
            .op = op,
            .layout = &run->backend->layout.groups[op->group],
            .slot = step_slices(run->step)[step_row_slice(run->step)[row]].slot,
            .kv_head = head / heads_per_kv,
            .k_dim = group->k_head_dim,
            .v_dim = group->v_head_dim,
            .q = run_row(run, op->q, row) + (size_t)head * group->k_head_dim,
            .sum = w->scratch,
            .most = sinks ? sinks[head] : -INFINITY,
            .total = sinks ? 1.0f : 0.0f,
        };
        memset(a.sum, 0, a.v_dim * sizeof *a.sum);
        for (uint32_t at = begin; at < end; at += POSITIONS)
            attend_tile(&a, at, end - at < POSITIONS ? end - at : POSITIONS);
        float *out = run_row(run, op->out, row) + (size_t)head * a.v_dim;
        float inverse = 1.0f / a.total;
        for (uint32_t c = 0; c < a.v_dim; c++)
            out[c] = a.sum[c] * inverse;
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
