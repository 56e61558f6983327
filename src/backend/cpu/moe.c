/*
 * Mixtures of experts: choose, then run the chosen.
 *
 * Rows are grouped by expert, so that an expert's weights are read once for all rows that chose it.
 * A (row, choice) pair has the number row * k + choice; every thread sorts the pairs by expert into
 * its own scratch (a counting sort, the same result on all), which is cheaper than a barrier:
 *
 *     starts[e] .. starts[e + 1]  ->  pairs[...] of expert e, rows ascending
 *
 * First the gated halves fill `hidden` by (expert, rows, outputs) units; after a barrier each thread
 * takes blocks of output columns, collects all pairs' contributions to its block in scratch, and
 * adds them up row by row in the order of the route. So a row's sum has one order, whoever shares
 * its experts. Rejected: adding while walking the experts, whose order would be theirs.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"

/* ---- route ------------------------------------------------------------------------------------- */

static void route_scores(const struct op_route *op, float *scores)
{
    uint32_t n = op->n_experts;
    if (op->score == ROUTE_SIGMOID) {
        for (uint32_t e = 0; e < n; e++)
            scores[e] = 1.0f / (1.0f + expf(-scores[e]));
        return;
    }
    float most = scores[0], total = 0.0f;
    for (uint32_t e = 1; e < n; e++)
        most = scores[e] > most ? scores[e] : most;
    for (uint32_t e = 0; e < n; e++) {
        scores[e] = expf(scores[e] - most);
        total += scores[e];
    }
    for (uint32_t e = 0; e < n; e++)
        scores[e] /= total;
}

/* Sum of the group_best (1 or 2) largest biased scores of a group. */
static float group_score(const struct op_route *op, const float *scores, const float *score_bias,
                         uint32_t group)
{
    uint32_t each = op->n_experts / op->n_groups;
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t e = group * each; e < (group + 1) * each; e++) {
        float key = score_bias ? scores[e] + score_bias[e] : scores[e];
        if (key > first) {
            second = first;
            first = key;
        } else if (key > second) {
            second = key;
        }
    }
    return op->group_best == 2 ? first + second : first;
}

/* Which groups of experts a row may choose from. */
static void open_groups(const struct op_route *op, const float *scores, const float *score_bias,
                        bool *open)
{
    float of_group[ROUTE_GROUPS_MAX];
    for (uint32_t g = 0; g < op->n_groups; g++) {
        of_group[g] = group_score(op, scores, score_bias, g);
        open[g] = false;
    }
    for (uint32_t i = 0; i < op->k_groups; i++) {
        uint32_t best = op->n_groups;
        for (uint32_t g = 0; g < op->n_groups; g++)
            if (!open[g] && (best == op->n_groups || of_group[g] > of_group[best]))
                best = g;
        open[best] = true;
    }
}

/* Insertion into the k best so far, ids ascending: an equal score stays behind the lower id. */
static void choose(const struct op_route *op, const float *scores, const float *score_bias,
                   int32_t *ids, float *keys)
{
    uint32_t kept = 0;
    bool open[ROUTE_GROUPS_MAX];
    if (op->n_groups > 1)
        open_groups(op, scores, score_bias, open);
    for (uint32_t e = 0; e < op->n_experts; e++) {
        if (op->n_groups > 1 && !open[e / (op->n_experts / op->n_groups)])
            continue;
        float key = score_bias ? scores[e] + score_bias[e] : scores[e];
        if (kept == op->k && !(key > keys[kept - 1]))
            continue;
        uint32_t at = kept < op->k ? kept++ : kept - 1;
        for (; at > 0 && key > keys[at - 1]; at--) {
            keys[at] = keys[at - 1];
            ids[at] = ids[at - 1];
        }
        keys[at] = key;
        ids[at] = (int32_t)e;
    }
}

static void route_row(const struct cpu_run *run, const struct op_route *op, uint32_t row)
{
    float *scores = run->program->scores + (size_t)row * op->n_experts;
    float *out = run_row(run, op->out, row);
    int32_t *ids = (int32_t *)(void *)out;
    float *weights = out + op->k;
    route_scores(op, scores);
    choose(op, scores, run_vector(run, op->score_bias), ids, weights);
    float total = 0.0f;
    for (uint32_t i = 0; i < op->k; i++) {
        weights[i] = scores[ids[i]];
        total += weights[i];
    }
    total = (total < op->least_sum ? op->least_sum : total) + op->added_sum;
    for (uint32_t i = 0; i < op->k; i++)
        weights[i] = (op->normalise ? weights[i] / total : weights[i]) * op->scale;
}

void cpu_route(const struct worker *w, const struct op_route *op)
{
    const struct cpu_run *run = w->run;
    const struct placed_weight *router = run->program->placed[op->weight];
    const float *bias = run_vector(run, op->bias);
    uint32_t n = run_rows(run, op->in), experts = op->n_experts;
    uint32_t across = (experts + KERNEL_ROWS - 1) / KERNEL_ROWS;
    struct share share = worker_share(w, (uint64_t)((n + KERNEL_X - 1) / KERNEL_X) * across);
    float sums[KERNEL_X * KERNEL_ROWS];
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t row = (uint32_t)(i / across) * KERNEL_X;
        uint32_t first = (uint32_t)(i % across) * KERNEL_ROWS;
        uint32_t rows = n - row < KERNEL_X ? n - row : KERNEL_X;
        uint32_t columns = experts - first < KERNEL_ROWS ? experts - first : KERNEL_ROWS;
        const float *x[KERNEL_X];
        for (uint32_t m = 0; m < rows; m++)
            x[m] = run_row(run, op->in, row + m);
        struct kernel_rows matrix = matrix_rows(router, 0, first, columns);
        router->kernel->dots(&matrix, x, rows, sums);
        for (uint32_t m = 0; m < rows; m++)
            for (uint32_t c = 0; c < columns; c++)
                run->program->scores[(size_t)(row + m) * experts + first + c] =
                    sums[m * KERNEL_ROWS + c] + (bias ? bias[first + c] : 0.0f);
    }
    worker_barrier(w);
    share = worker_share(w, n);
    for (uint64_t row = share.begin; row < share.end; row++)
        route_row(run, op, (uint32_t)row);
}

/* ---- experts ----------------------------------------------------------------------------------- */

struct grouping {
    uint32_t n_experts, n_pairs;
    uint32_t *starts; /* [n_experts + 1] */
    uint32_t *pairs;  /* [n_pairs] */
    float *block;     /* [n_pairs, KERNEL_ROWS]: contributions to a block of output columns */
};

size_t experts_scratch_words(const struct program *program, const struct op_experts *op,
                             const struct step_limits *limits)
{
    size_t rows = limits->max_rows > limits->max_outputs ? limits->max_rows : limits->max_outputs;
    return program->weights[op->gate].count + 2 + rows * op->k * (1 + KERNEL_ROWS);
}

static uint32_t pair_expert(const struct cpu_run *run, const struct op_experts *op, uint32_t pair)
{
    const float *route = run_row(run, op->route, pair / op->k);
    int32_t id;
    memcpy(&id, route + pair % op->k, sizeof id);
    return (uint32_t)id;
}

static struct grouping group_pairs(const struct worker *w, const struct op_experts *op,
                                   uint32_t n_rows)
{
    const struct cpu_run *run = w->run;
    struct grouping g = {.n_experts = run->program->program->weights[op->gate].count,
                         .n_pairs = n_rows * op->k};
    g.starts = (uint32_t *)(void *)w->scratch;
    g.pairs = g.starts + g.n_experts + 2;
    g.block = (float *)(void *)(g.pairs + g.n_pairs);
    /* Counted two places up, so that filling leaves starts[e] where expert e begins. */
    memset(g.starts, 0, (g.n_experts + 2) * sizeof *g.starts);
    for (uint32_t p = 0; p < g.n_pairs; p++)
        g.starts[pair_expert(run, op, p) + 2]++;
    for (uint32_t e = 2; e < g.n_experts + 2; e++)
        g.starts[e] += g.starts[e - 1];
    for (uint32_t p = 0; p < g.n_pairs; p++)
        g.pairs[g.starts[pair_expert(run, op, p) + 1]++] = p;
    return g;
}

/* One thread notes what of the experts' weights nobody reads. */
static void count_unread(const struct worker *w, const struct op_experts *op,
                         const struct grouping *g)
{
    const struct weight *weights = w->run->program->program->weights;
    const int32_t parts[] = {op->gate, op->up, op->down};
    uint64_t unread = 0;
    for (uint32_t e = 0; e < g->n_experts; e++)
        unread += g->starts[e + 1] == g->starts[e];
    for (int i = 0; i < 3; i++)
        w->run->bank->unread_bytes += weight_bytes(&weights[parts[i]]) / g->n_experts * unread;
}

/* hidden = act(gate x) * (up x) for up to KERNEL_X pairs of one expert, one block of columns. */
static void hidden_unit(const struct cpu_run *run, const struct op_experts *op,
                        const struct matrix_input *in, uint32_t expert, const uint32_t *pairs,
                        uint32_t n, uint32_t first)
{
    const struct placed_weight *gate = run->program->placed[op->gate];
    const struct placed_weight *up = run->program->placed[op->up];
    const float *gate_bias = run_vector(run, op->gate_bias);
    const float *up_bias = run_vector(run, op->up_bias);
    uint32_t ff = gate->weight->n_rows;
    uint32_t columns = ff - first < KERNEL_ROWS ? ff - first : KERNEL_ROWS;
    _Alignas(64) float gates[KERNEL_X * KERNEL_ROWS];
    _Alignas(64) float ups[KERNEL_X * KERNEL_ROWS];
    struct act_rows rows;
    matrix_rows_of(run, in, gate, pairs, op->k, n, &rows);
    matrix_dots(gate, expert, first, &rows, gates);
    matrix_rows_of(run, in, up, pairs, op->k, n, &rows);
    matrix_dots(up, expert, first, &rows, ups);
    for (uint32_t m = 0; m < n; m++) {
        float *hidden =
            run_row(run, op->hidden, pairs[m] / op->k) + (size_t)(pairs[m] % op->k) * ff + first;
        float *g = gates + m * KERNEL_ROWS, *u = ups + m * KERNEL_ROWS;
        for (uint32_t c = 0; gate_bias && c < columns; c++)
            g[c] += gate_bias[(size_t)expert * ff + first + c];
        for (uint32_t c = 0; up_bias && c < columns; c++)
            u[c] += up_bias[(size_t)expert * ff + first + c];
        activate_gates(run, op->act, g, u, columns, hidden);
    }
}

static void fill_hidden(const struct worker *w, const struct op_experts *op,
                        const struct matrix_input *in, const struct grouping *g)
{
    uint32_t ff = w->run->program->program->weights[op->gate].n_rows;
    uint32_t across = (ff + KERNEL_ROWS - 1) / KERNEL_ROWS;
    uint64_t units = 0;
    for (uint32_t e = 0; e < g->n_experts; e++)
        units += (uint64_t)((g->starts[e + 1] - g->starts[e] + KERNEL_X - 1) / KERNEL_X) * across;
    struct share share = worker_share(w, units);
    uint64_t unit = 0;
    for (uint32_t e = 0; e < g->n_experts; e++)
        for (uint32_t p = g->starts[e]; p < g->starts[e + 1]; p += KERNEL_X) {
            uint32_t left = g->starts[e + 1] - p, n = left < KERNEL_X ? left : KERNEL_X;
            for (uint32_t b = 0; b < across; b++, unit++)
                if (unit >= share.begin && unit < share.end)
                    hidden_unit(w->run, op, in, e, g->pairs + p, n, b * KERNEL_ROWS);
        }
}

/* Contributions of all pairs to output columns [first, first + columns), into the scratch block. */
static void collect_block(const struct cpu_run *run, const struct op_experts *op,
                          const struct matrix_input *hidden, const struct grouping *g,
                          uint32_t first, uint32_t columns)
{
    const struct placed_weight *down = run->program->placed[op->down];
    const float *bias = run_vector(run, op->down_bias);
    _Alignas(64) float sums[KERNEL_X * KERNEL_ROWS];
    for (uint32_t e = 0; e < g->n_experts; e++)
        for (uint32_t p = g->starts[e]; p < g->starts[e + 1]; p += KERNEL_X) {
            uint32_t left = g->starts[e + 1] - p, n = left < KERNEL_X ? left : KERNEL_X;
            const uint32_t *pairs = g->pairs + p;
            struct act_rows rows;
            matrix_rows_of(run, hidden, down, pairs, 1, n, &rows);
            matrix_dots(down, e, first, &rows, sums);
            for (uint32_t m = 0; m < n; m++)
                for (uint32_t c = 0; c < columns; c++)
                    g->block[(size_t)pairs[m] * KERNEL_ROWS + c] =
                        sums[m * KERNEL_ROWS + c] +
                        (bias ? bias[(size_t)e * op->out.width + first + c] : 0.0f);
        }
}

void cpu_experts(const struct worker *w, const struct op_experts *op, uint32_t quantise)
{
    const struct cpu_run *run = w->run;
    uint32_t n = run_rows(run, op->in), width = op->out.width;
    const struct placed_weight *down = run->program->placed[op->down];
    struct matrix_input in = matrix_input(run, op->in, n),
                        hidden = matrix_input(run, op->hidden, n);
    hidden.n = n * op->k;
    hidden.n_cols = down->weight->n_cols;
    hidden.split = op->k;
    matrix_quantise_planned(w, &in, quantise);
    struct grouping g = group_pairs(w, op, n);
    if (w->index == 0)
        count_unread(w, op, &g);
    fill_hidden(w, op, &in, &g);
    worker_barrier(w);
    if (down->packed && down->packed->form != ACT_FLOAT)
        matrix_quantise_planned(w, &hidden, 1u << down->packed->form);
    struct share share = worker_share(w, (width + KERNEL_ROWS - 1) / KERNEL_ROWS);
    for (uint64_t block = share.begin; block < share.end; block++) {
        uint32_t first = (uint32_t)block * KERNEL_ROWS;
        uint32_t columns = width - first < KERNEL_ROWS ? width - first : KERNEL_ROWS;
        collect_block(run, op, &hidden, &g, first, columns);
        for (uint32_t row = 0; row < n; row++) {
            const float *weights = run_row(run, op->route, row) + op->k;
            const float *residual =
                op->residual.buffer == NO_BUFFER ? NULL : run_row(run, op->residual, row) + first;
            float *out = run_row(run, op->out, row) + first;
            for (uint32_t c = 0; c < columns; c++) {
                float sum = 0.0f;
                for (uint32_t i = 0; i < op->k; i++)
                    sum += weights[i] * g.block[((size_t)row * op->k + i) * KERNEL_ROWS + c];
                out[c] = residual ? residual[c] + sum : sum;
            }
        }
    }
}
