/*
 * Mixtures of experts: choose, then run the chosen.
 *
 * Rows are grouped by expert, so that an expert's weights are read once for all rows that chose it.
 * A (row, choice) pair has the number row * k + choice; every thread sorts the pairs by expert into
 * its own scratch (a counting sort, the same result on all), which is cheaper than a barrier, and
 * cuts each expert's run of places into chunks that one kernel call takes:
 *
 *     starts[e] .. starts[e + 1]  ->  pairs[...] of expert e, rows ascending; chunks of them
 *
 * There are two phases with one barrier between, whatever the number of experts. The gated halves
 * fill `hidden` by units of (chunk, panel of outputs). Then a unit is a few panels of output columns
 * with all chunks: their contributions land in scratch, in the order of the places, and are added up
 * row by row in the order of the route. So a row's sum has one order, whoever shares its experts, and
 * an expert's hidden rows stay in a near cache for some panels. Threads take units of both phases in
 * pieces, as of dense products, so with one row all of them read every chosen expert. Rejected: adding
 * while walking the experts, whose order would be theirs.
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
    uint32_t experts = op->n_experts, across = (experts + KERNEL_ROWS - 1) / KERNEL_ROWS;
    struct matrix_input in = matrix_input(run, op->in, run_rows(run, op->in));
    struct taking units = {.n = (uint64_t)((in.n + KERNEL_X - 1) / KERNEL_X) * across, .most = 1};
    struct share piece;
    _Alignas(64) float sums[KERNEL_X * KERNEL_ROWS];
    uint32_t numbers[KERNEL_X];
    struct act_rows rows;
    while (worker_take(w, &units, &piece)) {
        uint32_t row = (uint32_t)(piece.begin / across) * KERNEL_X;
        uint32_t first = (uint32_t)(piece.begin % across) * KERNEL_ROWS;
        uint32_t n = in.n - row < KERNEL_X ? in.n - row : KERNEL_X;
        uint32_t columns = experts - first < KERNEL_ROWS ? experts - first : KERNEL_ROWS;
        for (uint32_t m = 0; m < n; m++)
            numbers[m] = row + m;
        matrix_rows_of(run, &in, matrix_form(router, CLASS_GENERATED), numbers, 1, n, &rows);
        matrix_dots(router, CLASS_GENERATED, 0, first, &rows, sums);
        for (uint32_t m = 0; m < n; m++)
            for (uint32_t c = 0; c < columns; c++)
                run->program->scores[(size_t)(row + m) * experts + first + c] =
                    sums[m * KERNEL_ROWS + c] + (bias ? bias[first + c] : 0.0f);
    }
    worker_barrier(w);
    struct share share = worker_share(w, in.n);
    for (uint64_t row = share.begin; row < share.end; row++)
        route_row(run, op, (uint32_t)row);
}

/* ---- experts ----------------------------------------------------------------------------------- */

#define TOGETHER      8 /* most panels of outputs that one unit of the second phase takes */
#define COLLECT_WORDS (128 << 10) /* most contributions where a unit takes more than one panel */

/* Places [first, first + n) of one expert, for one call of a kernel. */
struct chunk {
    uint32_t expert, first, n;
};

struct grouping {
    uint32_t n_experts, n_pairs, n_chunks;
    uint32_t together;    /* panels of outputs that a unit of the second phase takes */
    uint32_t *starts;     /* [n_experts + 2] */
    uint32_t *pairs;      /* [n_pairs]: by expert */
    uint32_t *places;     /* [n_pairs]: where a pair stands among them */
    struct chunk *chunks; /* [n_chunks] */
    float *block;         /* [together, n_pairs, KERNEL_ROWS]: contributions by place; aligned */
};

/* Words of starts, pairs, places and chunks. */
static size_t grouping_words(size_t n_experts, size_t n_pairs)
{
    size_t chunks = (n_experts < n_pairs ? n_experts : n_pairs) + n_pairs / KERNEL_X;
    return n_experts + 2 + 2 * n_pairs + chunks * (sizeof(struct chunk) / sizeof(float));
}

size_t experts_scratch_words(const struct program *program, const struct op_experts *op,
                             const struct step_limits *limits)
{
    size_t rows = limits->max_rows > limits->max_outputs ? limits->max_rows : limits->max_outputs;
    size_t pairs = rows * op->k, one = pairs * KERNEL_ROWS;
    return (one > COLLECT_WORDS ? one : COLLECT_WORDS) +
           grouping_words(program->weights[op->gate].count, pairs);
}

static uint32_t pair_expert(const struct cpu_run *run, const struct op_experts *op, uint32_t pair)
{
    const float *route = run_row(run, op->route, pair / op->k);
    int32_t id;
    memcpy(&id, route + pair % op->k, sizeof id);
    return (uint32_t)id;
}

/* Few enough panels that every thread finds some units, and that contributions stay in a cache. */
static uint32_t panels_together(const struct worker *w, uint32_t width, uint32_t n_pairs)
{
    uint32_t panels = (width + KERNEL_ROWS - 1) / KERNEL_ROWS, together = 1;
    while (2 * together <= TOGETHER && panels / (2 * together) >= 16 * w->count &&
           (size_t)2 * together * n_pairs * KERNEL_ROWS <= COLLECT_WORDS)
        together *= 2;
    return together;
}

/* Chunks of one expert are of nearly equal size. */
static void cut_chunks(struct grouping *g)
{
    for (uint32_t e = 0; e < g->n_experts; e++) {
        uint32_t n = g->starts[e + 1] - g->starts[e], parts = (n + KERNEL_X - 1) / KERNEL_X;
        for (uint32_t i = 0; i < parts; i++) {
            size_t first, end;
            thread_range(n, i, parts, 1, &first, &end);
            g->chunks[g->n_chunks++] =
                (struct chunk){e, g->starts[e] + (uint32_t)first, (uint32_t)(end - first)};
        }
    }
}

static struct grouping group_pairs(const struct worker *w, const struct op_experts *op,
                                   uint32_t n_rows)
{
    const struct cpu_run *run = w->run;
    struct grouping g = {.n_experts = run->program->program->weights[op->gate].count,
                         .n_pairs = n_rows * op->k};
    g.together = panels_together(w, op->out.width, g.n_pairs);
    g.block = w->scratch;
    g.starts = (uint32_t *)(void *)(g.block + (size_t)g.together * g.n_pairs * KERNEL_ROWS);
    g.pairs = g.starts + g.n_experts + 2;
    g.places = g.pairs + g.n_pairs;
    g.chunks = (struct chunk *)(void *)(g.places + g.n_pairs);
    /* Counted two places up, so that filling leaves starts[e] where expert e begins. */
    memset(g.starts, 0, (g.n_experts + 2) * sizeof *g.starts);
    for (uint32_t p = 0; p < g.n_pairs; p++)
        g.starts[pair_expert(run, op, p) + 2]++;
    for (uint32_t e = 2; e < g.n_experts + 2; e++)
        g.starts[e] += g.starts[e - 1];
    for (uint32_t p = 0; p < g.n_pairs; p++) {
        g.places[p] = g.starts[pair_expert(run, op, p) + 1]++;
        g.pairs[g.places[p]] = p;
    }
    cut_chunks(&g);
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

/* taking.most for units that read so many bytes of an expert's weights. */
static uint32_t piece_of_chunks(const struct grouping *g, uint64_t bytes)
{
    return g->n_chunks ? piece_units(bytes * g->n_pairs / g->n_chunks) : 1;
}

/* hidden = act(gate x) * (up x) for one chunk and one panel of columns. */
static void hidden_unit(const struct cpu_run *run, const struct op_experts *op,
                        const struct matrix_input *in, const struct grouping *g,
                        const struct chunk *chunk, uint32_t first)
{
    const struct placed_weight *gate = run->program->placed[op->gate];
    const struct placed_weight *up = run->program->placed[op->up];
    const float *gate_bias = run_vector(run, op->gate_bias);
    const float *up_bias = run_vector(run, op->up_bias);
    const uint32_t *pairs = g->pairs + chunk->first;
    uint32_t ff = gate->weight->n_rows, expert = chunk->expert;
    uint32_t columns = ff - first < KERNEL_ROWS ? ff - first : KERNEL_ROWS;
    _Alignas(64) float gates[KERNEL_X * KERNEL_ROWS];
    _Alignas(64) float ups[KERNEL_X * KERNEL_ROWS];
    struct act_rows rows;
    matrix_rows_of(run, in, matrix_form(gate, CLASS_GENERATED), pairs, op->k, chunk->n, &rows);
    matrix_dots(gate, CLASS_GENERATED, expert, first, &rows, gates);
    matrix_rows_of(run, in, matrix_form(up, CLASS_GENERATED), pairs, op->k, chunk->n, &rows);
    matrix_dots(up, CLASS_GENERATED, expert, first, &rows, ups);
    for (uint32_t m = 0; m < chunk->n; m++) {
        float *hidden =
            run_row(run, op->hidden, pairs[m] / op->k) + (size_t)(pairs[m] % op->k) * ff + first;
        float *a = gates + m * KERNEL_ROWS, *b = ups + m * KERNEL_ROWS;
        for (uint32_t c = 0; gate_bias && c < columns; c++)
            a[c] += gate_bias[(size_t)expert * ff + first + c];
        for (uint32_t c = 0; up_bias && c < columns; c++)
            b[c] += up_bias[(size_t)expert * ff + first + c];
        activate_gates(run, op->act, a, b, columns, hidden);
    }
}

static void fill_hidden(const struct worker *w, const struct op_experts *op,
                        const struct matrix_input *in, const struct grouping *g)
{
    const struct placed_weight *gate = w->run->program->placed[op->gate];
    const struct placed_weight *up = w->run->program->placed[op->up];
    uint32_t across = (gate->weight->n_rows + KERNEL_ROWS - 1) / KERNEL_ROWS;
    struct taking units = {.n = (uint64_t)g->n_chunks * across,
                           .most = piece_of_chunks(g, gate->panel_bytes + up->panel_bytes)};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t i = piece.begin; i < piece.end; i++)
            hidden_unit(w->run, op, in, g, g->chunks + i / across,
                        (uint32_t)(i % across) * KERNEL_ROWS);
}

/* Contributions of all pairs to output columns [first, first + columns), into the scratch block. */
static void collect_block(const struct cpu_run *run, const struct op_experts *op,
                          const struct matrix_input *hidden, const struct grouping *g,
                          uint32_t first, uint32_t columns)
{
    const struct placed_weight *down = run->program->placed[op->down];
    struct act_rows rows;
    for (uint32_t i = 0; i < g->n_chunks; i++) {
        const struct chunk *chunk = g->chunks + i;
        matrix_rows_of(run, hidden, matrix_form(down, CLASS_GENERATED), g->pairs + chunk->first, 1,
                       chunk->n, &rows);
        for (uint32_t c = 0; c < columns; c += KERNEL_ROWS)
            matrix_dots(down, CLASS_GENERATED, chunk->expert, first + c, &rows,
                        g->block +
                            ((size_t)c / KERNEL_ROWS * g->n_pairs + chunk->first) * KERNEL_ROWS);
    }
}

/* Adds up a row's contributions to columns [first, first + columns), at most a panel; block: that
 * panel's. */
static void add_up(const struct cpu_run *run, const struct op_experts *op, const struct grouping *g,
                   uint32_t row, const float *block, uint32_t first, uint32_t columns)
{
    const float *bias = run_vector(run, op->down_bias);
    const float *weights = run_row(run, op->route, row) + op->k;
    float sums[KERNEL_ROWS] = {0};
    for (uint32_t i = 0; i < op->k; i++) {
        uint32_t pair = row * op->k + i;
        const float *from = block + (size_t)g->places[pair] * KERNEL_ROWS;
        float biased[KERNEL_ROWS];
        if (bias) {
            const float *more = bias + (size_t)pair_expert(run, op, pair) * op->out.width + first;
            memcpy(biased, from, sizeof biased);
            for (uint32_t c = 0; c < columns; c++)
                biased[c] += more[c];
            from = biased;
        }
        for (uint32_t c = 0; c < KERNEL_ROWS; c++)
            sums[c] += weights[i] * from[c];
    }
    const float *residual =
        op->residual.buffer == NO_BUFFER ? NULL : run_row(run, op->residual, row) + first;
    float *out = run_row(run, op->out, row) + first;
    for (uint32_t c = 0; c < columns; c++)
        out[c] = residual ? residual[c] + sums[c] : sums[c];
}

/* All chunks with the panels of columns [first, first + columns), and the rows' sums. */
static void output_unit(const struct cpu_run *run, const struct op_experts *op,
                        const struct matrix_input *hidden, const struct grouping *g, uint32_t first,
                        uint32_t columns)
{
    collect_block(run, op, hidden, g, first, columns);
    for (uint32_t c = 0; c < columns; c += KERNEL_ROWS) {
        const float *block = g->block + (size_t)c * g->n_pairs;
        uint32_t n = columns - c < KERNEL_ROWS ? columns - c : KERNEL_ROWS;
        for (uint32_t row = 0; row < hidden->n / op->k; row++)
            add_up(run, op, g, row, block, first + c, n);
    }
}

void cpu_experts(const struct worker *w, const struct op_experts *op, const struct op_plan *plan)
{
    const struct cpu_run *run = w->run;
    uint32_t n = run_rows(run, op->in), width = op->out.width;
    const struct placed_weight *down = run->program->placed[op->down];
    struct matrix_input in = matrix_input(run, op->in, n),
                        hidden = matrix_input(run, op->hidden, n);
    hidden.n = n * op->k;
    hidden.n_cols = down->weight->n_cols;
    hidden.split = op->k;
    matrix_quantise_planned(w, &in, plan);
    struct grouping g = group_pairs(w, op, n);
    if (w->index == 0)
        count_unread(w, op, &g);
    fill_hidden(w, op, &in, &g);
    worker_barrier(w);
    enum act_form form = matrix_form(down, CLASS_GENERATED);
    if (form != ACT_FLOAT) {
        matrix_quantise(w, &hidden, form, &(struct row_list){NULL, hidden.n});
        worker_barrier(w);
    }
    uint32_t across = g.together * KERNEL_ROWS;
    struct taking units = {.n = (width + across - 1) / across,
                           .most = piece_units(down->panel_bytes * g.together * g.n_pairs),
                           .phase = 1};
    struct share piece;
    while (worker_take(w, &units, &piece))
        for (uint64_t i = piece.begin; i < piece.end; i++) {
            uint32_t first = (uint32_t)i * across;
            output_unit(run, op, &hidden, &g, first,
                        width - first < across ? width - first : across);
        }
}
