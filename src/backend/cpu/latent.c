/*
 * What latent attention needs: a small matrix for each head (its absorbed projections), and attention
 * over one latent vector per token that all heads share.
 *
 * Attention takes units of one row and up to HEADS heads. A tile of POSITIONS latents, counted from
 * the first visible position, is decoded to floats once and serves all heads of the unit, by the
 * online softmax of sequence.c. All of it depends on the row's own position and history only.
 *
 * Head matrices are decoded row by row, each for up to ROWS activation rows, whatever their element
 * type: they are small beside the layers around them, and a transposed one cannot be read in any
 * other order without a copy.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"
#include "backend/cpu/loops.h"

/* ---- matrices of heads ------------------------------------------------------------------------- */

#define ROWS 32 /* activation rows that share one decoded weight row */

size_t heads_scratch_words(const struct op_heads *op)
{
    return op->weight == NO_WEIGHT ? 0 : op->transposed ? op->out_width : op->in_width;
}

/* Head h of rows [first, first + n), n <= ROWS. */
static void head_matrix(const struct worker *w, const struct op_heads *op, uint32_t h,
                        uint32_t first, uint32_t n)
{
    const struct cpu_run *run = w->run;
    const struct weight *weight = &run->program->program->weights[op->weight];
    const struct tensor_type_info *type = tensor_type_info(weight->type);
    uint64_t row_bytes = run->program->placed[op->weight]->row_bytes;
    const uint8_t *bytes = weight->parts[h];
    const float *in[ROWS];
    float *out[ROWS];
    for (uint32_t m = 0; m < n; m++) {
        in[m] = run_row(run, op->in, first + m) + (size_t)h * (op->in.width / op->n_heads) +
                op->in_column;
        out[m] = run_row(run, op->out, first + m) + (size_t)h * (op->out.width / op->n_heads) +
                 op->out_column;
        if (op->transposed)
            memset(out[m], 0, op->out_width * sizeof(float));
    }
    for (uint32_t i = 0; i < weight->n_rows; i++) {
        type->decode(bytes + i * row_bytes, w->scratch, weight->n_cols);
        for (uint32_t m = 0; m < n; m++) {
            if (op->transposed)
                loop_add(out[m], w->scratch, in[m][i], op->out_width);
            else
                out[m][i] = loop_dot(w->scratch, in[m], op->in_width);
        }
    }
}

static void copy_heads(const struct cpu_run *run, const struct op_heads *op, uint32_t row)
{
    const float *in = run_row(run, op->in, row) + op->in_column;
    float *out = run_row(run, op->out, row) + op->out_column;
    for (uint32_t h = 0; h < op->n_heads; h++)
        memcpy(out + (size_t)h * (op->out.width / op->n_heads),
               in + (size_t)h * (op->in.width / op->n_heads), op->in_width * sizeof *out);
}

void cpu_heads(const struct worker *w, const struct op_heads *op)
{
    uint32_t n = run_rows(w->run, op->in);
    if (op->weight == NO_WEIGHT) {
        struct share share = worker_share(w, n);
        for (uint64_t row = share.begin; row < share.end; row++)
            copy_heads(w->run, op, (uint32_t)row);
        return;
    }
    struct share share = worker_share(w, (uint64_t)((n + ROWS - 1) / ROWS) * op->n_heads);
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t first = (uint32_t)(i / op->n_heads) * ROWS;
        head_matrix(w, op, (uint32_t)(i % op->n_heads), first, n - first < ROWS ? n - first : ROWS);
    }
}

/* ---- attention --------------------------------------------------------------------------------- */

#define POSITIONS 32
#define HEADS     16

struct latent_unit {
    const struct cpu_run *run;
    const struct op_attention *op;
    uint32_t row, first_head, n_heads;
    uint32_t k_dim, v_dim;
    float *keys, *latents; /* [POSITIONS, k_dim], [POSITIONS, v_dim]: the tile */
    float *sums;           /* [HEADS, v_dim] */
    float most[HEADS], total[HEADS];
};

size_t latent_scratch_words(const struct program *program, const struct op_attention *op)
{
    const struct state_group *g = &program->groups[op->group];
    return (size_t)POSITIONS * (g->k_head_dim + g->v_head_dim) + (size_t)HEADS * g->v_head_dim;
}

static void decode_tile(const struct latent_unit *u, uint32_t begin, uint32_t n)
{
    const struct layout *layout = &u->run->backend->layout;
    const struct group_layout *g = &layout->groups[u->op->group];
    const struct tensor_type_info *type = tensor_type_info(layout->kv_type);
    uint32_t slot = step_slices(u->run->step)[step_row_slice(u->run->step)[u->row]].slot;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t p = begin + i, t = p % g->tokens_per_page;
        const uint8_t *page = run_page(u->run, slot, u->op->group, p / g->tokens_per_page);
        type->decode(page + layout_k_offset(g, u->op->layer, 0, t), u->keys + (size_t)i * u->k_dim,
                     u->k_dim);
        type->decode(page + layout_v_offset(g, u->op->layer, 0, t),
                     u->latents + (size_t)i * u->v_dim, u->v_dim);
    }
}

/* Head `h` of the unit over a tile of n latents. */
static void attend_tile(struct latent_unit *u, uint32_t h, uint32_t n)
{
    const struct op_attention *op = u->op;
    const float *q =
        run_row(u->run, op->q, u->row) + (size_t)(u->first_head + h) * (u->k_dim + u->v_dim);
    float *sum = u->sums + (size_t)h * u->v_dim, scores[POSITIONS], most = u->most[h];
    for (uint32_t i = 0; i < n; i++) {
        float score = loop_dot(q, u->keys + (size_t)i * u->k_dim, u->k_dim) +
                      loop_dot(q + u->k_dim, u->latents + (size_t)i * u->v_dim, u->v_dim);
        score *= op->scale;
        scores[i] = op->softcap != 0.0f ? op->softcap * tanhf(score / op->softcap) : score;
        most = scores[i] > most ? scores[i] : most;
    }
    if (most > u->most[h]) {
        float shrink = expf(u->most[h] - most); /* 0 at the first tile: most was -infinity */
        u->total[h] *= shrink;
        for (uint32_t c = 0; c < u->v_dim; c++)
            sum[c] *= shrink;
        u->most[h] = most;
    }
    for (uint32_t i = 0; i < n; i++) {
        float weight = expf(scores[i] - most);
        u->total[h] += weight;
        loop_add(sum, u->latents + (size_t)i * u->v_dim, weight, u->v_dim);
    }
}

static void attend_unit(struct latent_unit *u, const float *sinks)
{
    const struct op_attention *op = u->op;
    const struct slice *slice = step_slices(u->run->step) + step_row_slice(u->run->step)[u->row];
    uint32_t end = step_row_position(u->run->step, u->row) + 1;
    uint32_t begin = op->window && end > op->window ? end - op->window : 0;
    if (slice->mask == MASK_SPAN)
        end = slice->first_position + slice->n_rows;
    memset(u->sums, 0, (size_t)u->n_heads * u->v_dim * sizeof *u->sums);
    for (uint32_t h = 0; h < u->n_heads; h++) {
        u->most[h] = sinks ? sinks[u->first_head + h] : -INFINITY;
        u->total[h] = sinks ? 1.0f : 0.0f;
    }
    for (uint32_t at = begin; at < end; at += POSITIONS) {
        uint32_t n = end - at < POSITIONS ? end - at : POSITIONS;
        decode_tile(u, at, n);
        for (uint32_t h = 0; h < u->n_heads; h++)
            attend_tile(u, h, n);
    }
    for (uint32_t h = 0; h < u->n_heads; h++) {
        float *out = run_row(u->run, op->out, u->row) + (size_t)(u->first_head + h) * u->v_dim;
        for (uint32_t c = 0; c < u->v_dim; c++)
            out[c] = u->sums[(size_t)h * u->v_dim + c] / u->total[h];
    }
}

void cpu_latent_attention(const struct worker *w, const struct op_attention *op)
{
    const struct cpu_run *run = w->run;
    const struct state_group *group = &run->program->program->groups[op->group];
    uint32_t blocks = (op->n_heads + HEADS - 1) / HEADS;
    uint64_t units = (uint64_t)run->step->n_rows * blocks;
    /* Strided, not contiguous: late rows of a prompt see more positions than early ones. */
    for (uint64_t i = w->index; i < units; i += w->count) {
        struct latent_unit u = {.run = run,
                                .op = op,
                                .row = (uint32_t)(i / blocks),
                                .first_head = (uint32_t)(i % blocks) * HEADS,
                                .k_dim = group->k_head_dim,
                                .v_dim = group->v_head_dim};
        u.n_heads = op->n_heads - u.first_head < HEADS ? op->n_heads - u.first_head : HEADS;
        u.keys = w->scratch;
        u.latents = u.keys + (size_t)POSITIONS * u.k_dim;
        u.sums = u.latents + (size_t)POSITIONS * u.v_dim;
        attend_unit(&u, run_vector(run, op->sinks));
    }
}
