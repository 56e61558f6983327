/*
 * Operations that are a product with a matrix: linear layers, gated pairs and logits.
 *
 * A product is cut into units of up to KERNEL_X rows by the KERNEL_ROWS outputs of one panel. Panels
 * are taken in groups that stay in the level-2 cache while all chunks of rows pass (rows fastest),
 * so that weights come from memory once; a thread takes contiguous runs of (group, chunk). With one
 * row a group is one panel: each thread reads its own stretch of the weights, front to back. A
 * unit's raw sums land in a small tile, and the epilogue (bias, activation, scale, residual) writes
 * from there. How work is cut changes no bit.
 *
 * Where prompt rows have kernels of their own, a chunk is of rows of one class, of which there may be
 * any mixture in a step: generated rows' chunks come first, then prompt rows', of each group of
 * panels, so that also then weights come from memory once.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/internal.h"

#define SQRT_HALF      0.70710678f /* 1 / sqrt 2 */
#define SQRT_2_OVER_PI 0.79788456f
#define TWO_ROWS       32          /* with fewer, weights on their way from memory are the limit */
#define CHUNK_ALIGN    32          /* rows: whole tiles and whole rounds of vector kernels */
#define GROUP_BYTES    (128 << 10) /* of weights that stay in a level-2 cache beside the rows */

float activate(enum activation act, float x)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_SILU:
        return x / (1.0f + expf(-x));
    case ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(SQRT_2_OVER_PI * (x + 0.044715f * x * x * x)));
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

float activate_gate(enum activation act, float gate, float up)
{
    if (act != ACT_CLAMPED_SWIGLU)
        return activate(act, gate) * up;
    gate = gate < 7.0f ? gate : 7.0f;
    up = up < -7.0f ? -7.0f : up < 7.0f ? up : 7.0f;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

void activate_gates(const struct cpu_run *run, enum activation act, const float *gate,
                    const float *up, uint32_t n, float *out)
{
    if (!run->backend->config.exact) {
        run->backend->floats->gate(act, gate, up, n, out);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        out[i] = activate_gate(act, gate[i], up[i]);
}

/* What the units of one operation share. */
struct product {
    const struct cpu_run *run;
    struct matrix_input in;
    const struct placed_weight *weight, *other; /* other: the up half of a gated pair */
    const float *bias, *other_bias;
    const void *op;
    const struct op_plan *plan;
    struct row_list rows[CLASSES]; /* by whose kernels multiply them */
    /* Two panels at once, or up to KERNEL_PANELS; NULL, NULL: each by itself. */
    dots_two *two[CLASSES];
    dots_many *many[CLASSES];
};

/* A product: groups of panels, each with chunks of up to KERNEL_X rows. */
struct split {
    uint32_t n_out;
    uint32_t panels, together;  /* panels of a group */
    uint32_t pace[CLASSES];     /* panels of a unit */
    uint32_t chunks, generated; /* of them, the first ones, of generated rows */
    bool chunk_by_chunk; /* all groups meet a chunk, then the next; else chunks change faster */
    struct taking units; /* of a group by a chunk */
};

/* One call of a kernel: rows [row, row + n_rows) of a class's list, a chunk, by outputs [column,
 * column + n_columns), which are one panel or more. */
struct unit {
    enum numeric_class row_class;
    uint32_t chunk, row, n_rows;
    uint32_t column, n_columns;
};

static uint32_t chunks_of(const struct row_list *rows)
{
    return (rows->n + KERNEL_X - 1) / KERNEL_X;
}

/* Panels of a unit of a class: as many as its kernels take at once, while that leaves every thread some
 * units. matrices: that a unit has panels of. */
static uint32_t unit_panels(const struct worker *w, const struct product *p, const struct split *s,
                            int row_class, uint32_t matrices)
{
    uint32_t most = p->many[row_class]  ? KERNEL_PANELS / matrices
                    : p->two[row_class] ? 2 / matrices
                                        : 1;
    uint32_t units = (p->many[row_class] ? 4 : 8) * w->count;
    while (most > 1 && s->panels / most * s->chunks < units)
        most /= 2;
    return most;
}

static struct split split_product(const struct worker *w, const struct product *p, uint32_t n_out,
                                  uint64_t panel_bytes, uint32_t matrices)
{
    struct split s = {.n_out = n_out, .together = 1};
    s.panels = (n_out + KERNEL_ROWS - 1) / KERNEL_ROWS;
    s.generated = chunks_of(&p->rows[CLASS_GENERATED]);
    s.chunks = s.generated + chunks_of(&p->rows[CLASS_PROMPT]);
    for (int c = 0; c < CLASSES; c++) {
        s.pace[c] = unit_panels(w, p, &s, c, matrices);
        if (p->rows[c].n && s.pace[c] > s.together)
            s.together = s.pace[c];
        /* Rows stay in the level-2 cache there, and weights are read once for each chunk. A single
         * chunk of prompt rows shares weights with the generated rows beside it instead. */
        s.chunk_by_chunk |= p->rows[c].n > KERNEL_X && p->many[c];
    }
    if (s.chunks > 1)
        while (s.together < 8 && 2 * s.together * panel_bytes <= GROUP_BYTES &&
               s.panels / (2 * s.together) * s.chunks >= 8 * w->count)
            s.together *= 2;
    s.units.n = (uint64_t)((s.panels + s.together - 1) / s.together) * s.chunks;
    s.units.most = piece_units(panel_bytes * p->in.n); /* together > 1 only for many rows */
    return s;
}

typedef void unit_work(const struct product *p, struct unit unit);

/* Unit i: the panels of a group, one after the other, with a chunk of rows; chunks of a class are of
 * nearly equal size. */
static void group_units(const struct split *s, const struct product *p, uint64_t i, unit_work *work)
{
    uint32_t groups = (s->panels + s->together - 1) / s->together;
    uint32_t group = (uint32_t)(s->chunk_by_chunk ? i % groups : i / s->chunks);
    uint32_t chunk = (uint32_t)(s->chunk_by_chunk ? i / groups : i % s->chunks);
    bool generated = chunk < s->generated;
    struct unit unit = {.chunk = chunk, .row_class = generated ? CLASS_GENERATED : CLASS_PROMPT};
    uint32_t pace = s->pace[unit.row_class];
    size_t first, last;
    thread_range(p->rows[unit.row_class].n, generated ? chunk : chunk - s->generated,
                 generated ? s->generated : s->chunks - s->generated, CHUNK_ALIGN, &first, &last);
    unit.row = (uint32_t)first;
    unit.n_rows = (uint32_t)(last - first);
    for (uint32_t panel = group * s->together;
         panel < (group + 1) * s->together && panel < s->panels; panel += pace) {
        unit.column = panel * KERNEL_ROWS;
        uint32_t left = s->n_out - unit.column;
        unit.n_columns = left < pace * KERNEL_ROWS ? left : pace * KERNEL_ROWS;
        work(p, unit);
    }
}

/* Calls work on every unit that this thread takes. */
static void each_unit(const struct worker *w, struct split *s, const struct product *p,
                      unit_work *work)
{
    struct share piece;
    while (worker_take(w, &s->units, &piece))
        for (uint64_t i = piece.begin; i < piece.end; i++)
            group_units(s, p, i, work);
}

/* Whether panels of both matrices (of one, more than one) are taken together. */
static void choose_together(struct product *p, const struct placed_weight *other)
{
    for (int c = 0; c < CLASSES; c++) {
        const struct packed_kernel *kernel = matrix_kernel(p->weight, (enum numeric_class)c);
        if (!kernel || matrix_kernel(other, (enum numeric_class)c) != kernel ||
            other->weight->n_cols != p->weight->weight->n_cols)
            continue;
        p->many[c] = kernel_for_many(kernel);
        if (!p->many[c] && p->rows[c].n >= TWO_ROWS)
            p->two[c] = kernel_for_two(kernel);
    }
}

/* The rows of an operation, and its input, quantised where that is left to it. */
static void take_input(const struct worker *w, struct product *p, struct view in, uint32_t n_rows)
{
    p->rows[CLASS_GENERATED] = (struct row_list){NULL, n_rows};
    if (p->plan->prompt_kernels)
        memcpy(p->rows, p->run->program->by_class, sizeof p->rows);
    p->in = matrix_input(p->run, in, n_rows);
    p->in.second = p->plan->second;
    matrix_quantise_planned(w, &p->in, p->plan);
}

/* Number of a unit's m-th row. */
static uint32_t unit_row(const struct product *p, struct unit unit, uint32_t m)
{
    return list_row(&p->rows[unit.row_class], unit.row + m);
}

static void unit_rows(const struct product *p, const struct placed_weight *weight, struct unit unit,
                      struct act_rows *rows)
{
    uint32_t numbers[KERNEL_X];
    for (uint32_t m = 0; m < unit.n_rows; m++)
        numbers[m] = unit_row(p, unit, m);
    matrix_rows_of(p->run, &p->in, matrix_form(weight, unit.row_class), numbers, 1, unit.n_rows,
                   rows);
}

/* Panels of the unit's columns, of the product's matrix and then of other (NULL: of no other), onto
 * sums[panel]. Returns how many of each. */
static uint32_t unit_dots(const struct product *p, const struct placed_weight *other,
                          struct unit unit, float (*sums)[KERNEL_X * KERNEL_ROWS])
{
    struct act_rows rows;
    const struct placed_weight *of[KERNEL_PANELS];
    const uint8_t *panels[KERNEL_PANELS];
    float *out[KERNEL_PANELS];
    uint32_t columns[KERNEL_PANELS];
    uint32_t each = (unit.n_columns + KERNEL_ROWS - 1) / KERNEL_ROWS, n = other ? 2 * each : each;
    for (uint32_t i = 0; i < n; i++) {
        of[i] = i < each ? p->weight : other;
        columns[i] = unit.column + i % each * KERNEL_ROWS;
        out[i] = sums[i];
        if (p->many[unit.row_class] || p->two[unit.row_class])
            panels[i] = matrix_panel(of[i], 0, columns[i]);
    }
    unit_rows(p, p->weight, unit, &rows);
    if (p->many[unit.row_class]) {
        p->many[unit.row_class](panels, n, p->weight->weight->n_cols, &rows, out);
    } else if (p->two[unit.row_class] && n == 2) {
        p->two[unit.row_class](panels, p->weight->weight->n_cols, &rows, out);
    } else {
        for (uint32_t i = 0; i < n; i++) {
            if (i == each) /* whose kernel may want another form */
                unit_rows(p, other, unit, &rows);
            matrix_dots(of[i], unit.row_class, 0, columns[i], &rows, out[i]);
        }
    }
    return each;
}

/* The i-th panel of a unit. */
static struct unit unit_panel(struct unit unit, uint32_t i)
{
    uint32_t left = unit.n_columns - i * KERNEL_ROWS;
    unit.column += i * KERNEL_ROWS;
    unit.n_columns = left < KERNEL_ROWS ? left : KERNEL_ROWS;
    return unit;
}

/* Sums of a unit, and what is done with each of its panels. */
typedef void panel_work(const struct product *p, struct unit panel, float *sums);

static void each_panel(const struct product *p, struct unit unit, panel_work *work)
{
    _Alignas(64) float sums[KERNEL_PANELS][KERNEL_X * KERNEL_ROWS];
    uint32_t n = unit_dots(p, NULL, unit, sums);
    for (uint32_t i = 0; i < n; i++)
        work(p, unit_panel(unit, i), sums[i]);
}

/* Floats from a row of a view to the next. */
static size_t row_step(const struct cpu_run *run, struct view view)
{
    return run->program->program->buffers[view.buffer].width;
}

/* Whole panels, which nearly all are, by loops of constant length. */
static void add_columns(float *restrict sum, const float *restrict x, uint32_t n)
{
    if (n == KERNEL_ROWS)
        for (uint32_t c = 0; c < KERNEL_ROWS; c++)
            sum[c] += x[c];
    else
        for (uint32_t c = 0; c < n; c++)
            sum[c] += x[c];
}

static void write_columns(float *restrict out, const float *restrict sum, uint32_t n)
{
    if (n == KERNEL_ROWS)
        memcpy(out, sum, KERNEL_ROWS * sizeof *out);
    else
        memcpy(out, sum, n * sizeof *out);
}

/* What becomes of a row's sums of one panel; residual: NULL, or what is added. */
static void linear_columns(const struct product *p, struct unit panel, float *sum,
                           const float *residual, float *out)
{
    const struct op_linear *op = p->op;
    if (p->bias)
        add_columns(sum, p->bias + panel.column, panel.n_columns);
    for (uint32_t c = 0; op->act != ACT_NONE && c < panel.n_columns; c++)
        sum[c] = activate(op->act, sum[c]);
    for (uint32_t c = 0; op->scale != 1.0f && c < panel.n_columns; c++)
        sum[c] *= op->scale;
    if (residual)
        add_columns(sum, residual + panel.column, panel.n_columns);
    write_columns(out + panel.column, sum, panel.n_columns);
}

/* Row by row, since rows lie far apart and panels of a row side by side. */
static void linear_unit(const struct product *p, struct unit unit)
{
    _Alignas(64) float sums[KERNEL_PANELS][KERNEL_X * KERNEL_ROWS];
    const struct op_linear *op = p->op;
    uint32_t n = unit_dots(p, NULL, unit, sums);
    bool adds = op->residual.buffer != NO_BUFFER;
    float *out = run_row(p->run, op->out, 0);
    const float *residual = adds ? run_row(p->run, op->residual, 0) : NULL;
    size_t step = row_step(p->run, op->out);
    size_t residual_step = adds ? row_step(p->run, op->residual) : 0;
    for (uint32_t m = 0; m < unit.n_rows; m++) {
        uint32_t row = unit_row(p, unit, m);
        for (uint32_t i = 0; i < n; i++)
            linear_columns(p, unit_panel(unit, i), sums[i] + m * KERNEL_ROWS,
                           adds ? residual + row * residual_step : NULL, out + row * step);
    }
}

void cpu_linear(const struct worker *w, const struct op_linear *op, const struct op_plan *plan)
{
    const struct cpu_run *run = w->run;
    struct product p = {.run = run,
                        .plan = plan,
                        .weight = run->program->placed[op->weight],
                        .bias = run_vector(run, op->bias),
                        .op = op};
    take_input(w, &p, op->in, run_rows(run, op->in));
    choose_together(&p, p.weight);
    struct split split = split_product(w, &p, op->out.width, p.weight->panel_bytes, 1);
    each_unit(w, &split, &p, linear_unit);
}

/* A panel of a chunk of rows is written: who completes a block of columns quantises it, while it is
 * in the caches, for the matrix that comes next. */
static void give_panel(const struct product *p, struct view out, struct unit unit)
{
    uint32_t block = unit.column / ACT_COLUMNS;
    uint32_t left = out.width - block * ACT_COLUMNS;
    uint32_t columns = left < ACT_COLUMNS ? left : ACT_COLUMNS;
    uint32_t panels = (columns + KERNEL_ROWS - 1) / KERNEL_ROWS;
    _Atomic uint32_t *written =
        &p->run->program->written[(size_t)unit.chunk * act_blocks(out.width) + block];
    /* Acquire and release: the one that completes it sees what the others wrote. */
    if (atomic_fetch_add_explicit(written, 1, memory_order_acq_rel) + 1 < panels)
        return;
    atomic_store_explicit(written, 0, memory_order_relaxed);
    for (uint32_t m = 0; m < unit.n_rows; m++)
        matrix_give(p->run, p->plan, out, unit_row(p, unit, m), block, 1);
}

/* One panel of both matrices: gates becomes what is written. */
static void gate_panel(const struct product *p, struct unit panel, float *gates, float *ups)
{
    const struct op_gated *op = p->op;
    for (uint32_t m = 0; m < panel.n_rows; m++) {
        if (p->bias)
            add_columns(gates + m * KERNEL_ROWS, p->bias + panel.column, panel.n_columns);
        if (p->other_bias)
            add_columns(ups + m * KERNEL_ROWS, p->other_bias + panel.column, panel.n_columns);
    }
    if (panel.n_columns == KERNEL_ROWS) {
        activate_gates(p->run, op->act, gates, ups, panel.n_rows * KERNEL_ROWS, gates);
        return;
    }
    for (uint32_t m = 0; m < panel.n_rows; m++) /* some sums were never computed */
        activate_gates(p->run, op->act, gates + m * KERNEL_ROWS, ups + m * KERNEL_ROWS,
                       panel.n_columns, gates + m * KERNEL_ROWS);
}

static void gated_unit(const struct product *p, struct unit unit)
{
    _Alignas(64) float sums[KERNEL_PANELS][KERNEL_X * KERNEL_ROWS];
    const struct op_gated *op = p->op;
    uint32_t n = unit_dots(p, p->other, unit, sums);
    float *out = run_row(p->run, op->out, 0);
    size_t step = row_step(p->run, op->out);
    for (uint32_t i = 0; i < n; i++)
        gate_panel(p, unit_panel(unit, i), sums[i], sums[n + i]);
    for (uint32_t m = 0; m < unit.n_rows; m++) {
        float *to = out + unit_row(p, unit, m) * step;
        for (uint32_t i = 0; i < n; i++) {
            struct unit panel = unit_panel(unit, i);
            write_columns(to + panel.column, sums[i] + m * KERNEL_ROWS, panel.n_columns);
        }
    }
    for (uint32_t i = 0; i < n && any_form(p->plan->gives); i++)
        give_panel(p, op->out, unit_panel(unit, i));
}

void cpu_gated(const struct worker *w, const struct op_gated *op, const struct op_plan *plan)
{
    const struct cpu_run *run = w->run;
    struct product p = {.run = run,
                        .plan = plan,
                        .weight = run->program->placed[op->gate],
                        .other = run->program->placed[op->up],
                        .bias = run_vector(run, op->gate_bias),
                        .other_bias = run_vector(run, op->up_bias),
                        .op = op};
    take_input(w, &p, op->in, run_rows(run, op->in));
    choose_together(&p, p.other);
    struct split split =
        split_product(w, &p, op->out.width, p.weight->panel_bytes + p.other->panel_bytes, 2);
    each_unit(w, &split, &p, gated_unit);
}

static void logits_panel(const struct product *p, struct unit unit, float *sums)
{
    const struct op_logits *op = p->op;
    for (uint32_t m = 0; m < unit.n_rows; m++) {
        float *out = run_row(p->run, op->out, unit_row(p, unit, m)) + unit.column;
        for (uint32_t c = 0; c < unit.n_columns; c++) {
            float value = sums[m * KERNEL_ROWS + c];
            if (p->bias)
                value += p->bias[unit.column + c];
            value *= op->scale;
            out[c] = op->softcap != 0.0f ? op->softcap * tanhf(value / op->softcap) : value;
        }
    }
}

static void logits_unit(const struct product *p, struct unit unit)
{
    each_panel(p, unit, logits_panel);
}

void cpu_logits(const struct worker *w, const struct op_logits *op, const struct op_plan *plan)
{
    const struct cpu_run *run = w->run;
    struct product p = {.run = run,
                        .plan = plan,
                        .weight = run->program->placed[op->weight],
                        .bias = run_vector(run, op->bias),
                        .op = op};
    take_input(w, &p, op->in, run->step->n_logits);
    choose_together(&p, p.weight);
    struct split split = split_product(w, &p, op->out.width, p.weight->panel_bytes, 1);
    each_unit(w, &split, &p, logits_unit);
}
