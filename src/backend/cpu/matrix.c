/*
 * Matrices and what is multiplied with them: which weights are packed, which operations quantise
 * their input, and one panel of a product.
 *
 * Fast mode packs every weight that is only ever a matrix (or also the embedding table); a packed
 * kernel asks for its activations in one form, as [block][row]. Norms and gated pairs give their rows
 * quantised to the matrices that come next; rows of others are quantised at an operation's start, by
 * all threads. Operations after it that read the same rows in the same form (q, k and v; a shared
 * expert) find them there, because plan_inputs() has followed at load what is held at each operation.
 * There are two banks: given rows go to the one that the giver does not read, rows quantised at a
 * start to the first. All of it is per row: company does not matter.
 *
 * Where a matrix has a kernel for prompts, prompt rows meet it in that kernel's form and generated
 * rows in the other's: each row is quantised in what its class needs only. A row has the same place in
 * all forms, its number, so rows of one class are held by who holds all.
 */
#include "backend/cpu/internal.h"
#include "base/checked.h"
#include "program/check.h"

/* ---- which weights ----------------------------------------------------------------------------- */

/* Matrices of an operation that kernels multiply with, and of which view; experts' down reads the
 * hidden rows and is not among them. */
struct factors {
    int32_t weights[2];
    uint32_t n;
    const struct view *in;
};

static struct factors op_factors(const struct op *op)
{
    switch (op->kind) {
    case OP_LINEAR:
        return (struct factors){{op->u.linear.weight}, 1, &op->u.linear.in};
    case OP_GATED:
        return (struct factors){{op->u.gated.gate, op->u.gated.up}, 2, &op->u.gated.in};
    case OP_LOGITS:
        return (struct factors){{op->u.logits.weight}, 1, &op->u.logits.in};
    case OP_EXPERTS:
        return (struct factors){{op->u.experts.gate, op->u.experts.up}, 2, &op->u.experts.in};
    default:
        return (struct factors){{NO_WEIGHT}, 0, NULL};
    }
}

bool cpu_packs(const struct program *program, uint32_t weight)
{
    bool multiplied = false;
    int32_t id = (int32_t)weight;
    for (uint32_t i = 0; i < program->n_ops; i++) {
        const struct op *op = &program->ops[i];
        struct factors f = op_factors(op);
        for (uint32_t k = 0; k < f.n; k++)
            multiplied |= f.weights[k] == id;
        multiplied |= op->kind == OP_EXPERTS && op->u.experts.down == id;
        if (op->kind == OP_ROUTE && op->u.route.weight == id) {
            /* A router's products are float32 in every mode. */
            const struct packed_kernel *kernel = kernel_for_packed(program->weights[weight].type);
            if (!kernel || kernel->form != ACT_FLOAT)
                return false;
            multiplied = true;
        }
        /* Those that read rows as they are in the file. */
        if ((op->kind == OP_CONV && op->u.conv.weight == id) ||
            (op->kind == OP_HEADS && op->u.heads.weight == id))
            return false;
    }
    return multiplied;
}

/* ---- which operations quantise ----------------------------------------------------------------- */

/* Layers and gated pairs, on rows of the step. Of what stands behind a selection there are few rows. */
static bool has_prompt_kernels(const struct loaded_program *p, const struct op *op)
{
    struct factors f = op_factors(op);
    bool has = false;
    if ((op->kind != OP_LINEAR && op->kind != OP_GATED) ||
        p->program->buffers[f.in->buffer].rows != ROWS_STEP)
        return false;
    for (uint32_t k = 0; k < f.n; k++)
        has |= p->placed[f.weights[k]]->prompt != NULL;
    return has;
}

/* Forms in which the operation multiplies its input, by class of rows. */
static void add_forms(const struct loaded_program *p, const struct op *op, uint32_t forms[CLASSES])
{
    struct factors f = op_factors(op);
    bool prompt_kernels = has_prompt_kernels(p, op);
    for (uint32_t k = 0; k < f.n; k++)
        for (int c = 0; c < CLASSES; c++) {
            enum numeric_class row_class = prompt_kernels ? (enum numeric_class)c : CLASS_GENERATED;
            forms[c] |= 1u << matrix_form(p->placed[f.weights[k]], row_class);
            forms[c] &= ~(1u << ACT_FLOAT);
        }
}

/* Set of classes, bit 1 << class, whose rows are to be had in this form. */
static uint32_t classes_of(const uint32_t forms[CLASSES], enum act_form form)
{
    return (forms[CLASS_PROMPT] >> form & 1) << CLASS_PROMPT | (forms[CLASS_GENERATED] >> form & 1)
                                                                   << CLASS_GENERATED;
}

static bool same_view(struct view a, struct view b)
{
    return a.buffer == b.buffer && a.column == b.column && a.width == b.width;
}

static bool need_room(uint64_t act_bytes[ACT_FORMS], enum act_form form, uint64_t rows,
                      uint32_t n_cols)
{
    uint64_t bytes;
    if (!checked_mul_u64(rows, (uint64_t)act_blocks(n_cols) * act_block_bytes(form), &bytes))
        return false;
    if (bytes > act_bytes[form])
        act_bytes[form] = bytes;
    return true;
}

static uint64_t rows_of(const struct loaded_program *p, struct view view)
{
    return p->program->buffers[view.buffer].rows == ROWS_STEP ? p->limits.max_rows
                                                              : p->limits.max_outputs;
}

/* The view that an operation can give quantised, as it writes whole rows or whole blocks of them. */
static const struct view *given_view(const struct op *op)
{
    if (op->kind == OP_NORM && op->u.norm.group == op->u.norm.out.width)
        return &op->u.norm.out;
    return op->kind == OP_GATED ? &op->u.gated.out : NULL;
}

/* Forms in which the matrices right after operation `index` multiply what it writes. Experts read the
 * first bank, and logits fewer rows. */
static void wanted_forms(const struct loaded_program *p, uint32_t index, uint32_t forms[CLASSES])
{
    const struct view *out = given_view(&p->program->ops[index]);
    for (uint32_t i = index + 1; out && i < p->program->n_ops; i++) {
        const struct op *op = &p->program->ops[i];
        struct factors f = op_factors(op);
        if (f.n == 0 || op->kind == OP_EXPERTS || op->kind == OP_LOGITS || !same_view(*f.in, *out))
            break;
        add_forms(p, op, forms);
    }
}

/* What acts holds while operations are followed. */
struct held {
    struct view views[ACT_FORMS];
    uint32_t classes[ACT_FORMS]; /* of rows */
    uint32_t second;             /* forms whose rows lie in the second bank */
};

static void forget_written(struct held *held, const struct op *op)
{
    struct op_operands operands = op_operands(op);
    for (uint32_t k = 0; k < operands.n; k++)
        for (int form = 0; form < ACT_FORMS; form++)
            if (operands.views[k].written && operands.views[k].view->buffer != NO_BUFFER &&
                operands.views[k].view->buffer == held->views[form].buffer)
                held->views[form] = VIEW_NONE;
}

/* The input: found, or to be quantised at the start. */
static bool plan_reading(struct loaded_program *p, uint32_t index, struct held *held)
{
    const struct op *op = &p->program->ops[index];
    struct op_plan *plan = &p->plans[index];
    struct factors f = op_factors(op);
    bool fits = true;
    uint32_t forms[CLASSES] = {0};
    add_forms(p, op, forms);
    plan->prompt_kernels = has_prompt_kernels(p, op);
    for (int form = 0; form < ACT_FORMS; form++) {
        uint32_t bit = 1u << form, classes = classes_of(forms, (enum act_form)form);
        if (!classes)
            continue;
        if (same_view(held->views[form], *f.in) && !(classes & ~held->classes[form]) &&
            (op->kind != OP_EXPERTS || !(held->second & bit))) {
            plan->second |= held->second & bit;
            continue;
        }
        for (int c = 0; c < CLASSES; c++)
            plan->quantise[c] |= forms[c] & bit;
        held->second &= ~bit;
        held->classes[form] = classes;
        /* Logits read fewer rows than others of the same view would. */
        held->views[form] = op->kind == OP_LOGITS ? VIEW_NONE : *f.in;
        fits &= need_room(p->act_bytes[0], (enum act_form)form, rows_of(p, *f.in), f.in->width);
    }
    if (op->kind != OP_EXPERTS)
        return fits;
    enum act_form form = matrix_form(p->placed[op->u.experts.down], CLASS_GENERATED);
    if (form == ACT_FLOAT)
        return fits;
    held->views[form] = VIEW_NONE;
    return fits && need_room(p->act_bytes[0], form, rows_of(p, *f.in) * op->u.experts.k,
                             p->program->weights[op->u.experts.down].n_cols);
}

/* The output, if those that come next want it quantised. */
static bool plan_giving(struct loaded_program *p, uint32_t index, struct held *held)
{
    struct op_plan *plan = &p->plans[index];
    wanted_forms(p, index, plan->gives);
    uint32_t gives = any_form(plan->gives);
    if (!gives)
        return true;
    const struct view *out = given_view(&p->program->ops[index]);
    plan->gives_second = gives & ~plan->second;
    held->second = (held->second & ~gives) | plan->gives_second;
    bool fits = true;
    for (int form = 0; form < ACT_FORMS; form++)
        if (gives >> form & 1) {
            held->views[form] = *out;
            held->classes[form] = classes_of(plan->gives, (enum act_form)form);
            fits &= need_room(p->act_bytes[plan->gives_second >> form & 1], (enum act_form)form,
                              rows_of(p, *out), out->width);
        }
    return fits;
}

bool plan_inputs(struct loaded_program *p)
{
    struct held held = {0};
    bool fits = true;
    for (int f = 0; f < ACT_FORMS; f++)
        held.views[f] = VIEW_NONE;
    for (uint32_t i = 0; i < p->program->n_ops; i++) {
        fits &= plan_reading(p, i, &held);
        forget_written(&held, &p->program->ops[i]);
        fits &= plan_giving(p, i, &held);
    }
    return fits;
}

uint64_t plan_written(const struct loaded_program *p)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->program->n_ops; i++) {
        const struct op *op = &p->program->ops[i];
        if (!any_form(p->plans[i].gives) || op->kind != OP_GATED)
            continue;
        uint64_t chunks = (rows_of(p, op->u.gated.out) + KERNEL_X - 1) / KERNEL_X;
        chunks += p->plans[i].prompt_kernels; /* of two classes, one chunk more */
        uint64_t entries = chunks * act_blocks(op->u.gated.out.width);
        most = entries > most ? entries : most;
    }
    return most;
}

/* ---- rows by class ----------------------------------------------------------------------------- */

void matrix_sort_rows(const struct cpu_run *run)
{
    struct loaded_program *p = run->program;
    const struct step *step = run->step;
    uint32_t *next = p->row_numbers;
    for (int c = 0; c < CLASSES && next; c++) {
        struct row_list *list = &p->by_class[c];
        *list = (struct row_list){next, 0};
        for (uint32_t i = 0; i < step->n_slices; i++) {
            const struct slice *slice = step_slices(step) + i;
            for (uint32_t r = 0; r < slice->n_rows && slice->numeric_class == c; r++)
                *next++ = slice->first_row + r;
        }
        list->n = (uint32_t)(next - list->numbers);
    }
}

static enum numeric_class class_of(const struct cpu_run *run, uint32_t row)
{
    const struct slice *slice = step_slices(run->step) + step_row_slice(run->step)[row];
    return (enum numeric_class)slice->numeric_class;
}

/* ---- inputs ------------------------------------------------------------------------------------ */

struct matrix_input matrix_input(const struct cpu_run *run, struct view in, uint32_t n)
{
    return (struct matrix_input){
        .x = n ? run_row(run, in, 0) : NULL,
        .stride = run->program->program->buffers[in.buffer].width,
        .n = n,
        .n_cols = in.width,
        .split = 1,
    };
}

static const float *input_row(const struct matrix_input *in, uint32_t row)
{
    return in->x + (size_t)(row / in->split) * in->stride + (size_t)(row % in->split) * in->n_cols;
}

void matrix_quantise(const struct worker *w, const struct matrix_input *in, enum act_form form,
                     const struct row_list *rows)
{
    uint8_t *acts = w->run->program->acts[0][form];
    size_t size = act_block_bytes(form);
    uint32_t blocks = act_blocks(in->n_cols);
    struct share share = worker_share(w, (uint64_t)rows->n * blocks);
    for (uint64_t i = share.begin; i < share.end; i++) {
        uint32_t row = list_row(rows, (uint32_t)(i / blocks)), block = (uint32_t)(i % blocks);
        uint32_t left = in->n_cols - block * ACT_COLUMNS;
        w->run->backend->quantise(form, input_row(in, row) + (size_t)block * ACT_COLUMNS,
                                  left < ACT_COLUMNS ? left : ACT_COLUMNS,
                                  acts + ((size_t)block * in->n + row) * size);
    }
}

void matrix_quantise_planned(const struct worker *w, const struct matrix_input *in,
                             const struct op_plan *plan)
{
    const uint32_t both = 1u << CLASS_PROMPT | 1u << CLASS_GENERATED;
    const struct row_list all = {NULL, in->n}, *by_class = w->run->program->by_class;
    if (!any_form(plan->quantise))
        return;
    for (int form = 0; form < ACT_FORMS; form++) {
        uint32_t classes = classes_of(plan->quantise, (enum act_form)form);
        if (classes == both)
            matrix_quantise(w, in, (enum act_form)form, &all);
        else if (classes)
            matrix_quantise(
                w, in, (enum act_form)form,
                &by_class[classes == 1u << CLASS_PROMPT ? CLASS_PROMPT : CLASS_GENERATED]);
    }
    worker_barrier(w);
}

void matrix_give(const struct cpu_run *run, const struct op_plan *plan, struct view out,
                 uint32_t row, uint32_t block, uint32_t n)
{
    const float *x = run_row(run, out, row);
    uint32_t rows = run_rows(run, out), forms = plan->gives[CLASS_GENERATED];
    if (forms != plan->gives[CLASS_PROMPT])
        forms = plan->gives[class_of(run, row)];
    for (int form = 0; form < ACT_FORMS; form++) {
        if (!(forms >> form & 1))
            continue;
        uint8_t *acts = run->program->acts[plan->gives_second >> form & 1][form];
        size_t size = act_block_bytes((enum act_form)form);
        for (uint32_t b = block; b < block + n; b++) {
            uint32_t left = out.width - b * ACT_COLUMNS;
            run->backend->quantise((enum act_form)form, x + (size_t)b * ACT_COLUMNS,
                                   left < ACT_COLUMNS ? left : ACT_COLUMNS,
                                   acts + ((size_t)b * rows + row) * size);
        }
    }
}

void matrix_rows_of(const struct cpu_run *run, const struct matrix_input *in, enum act_form form,
                    const uint32_t *rows, uint32_t divide, uint32_t n, struct act_rows *out)
{
    size_t size = act_block_bytes(form);
    const uint8_t *acts = run->program->acts[in->second >> form & 1][form];
    out->n = n;
    out->block_stride = in->n * size;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t row = rows[m] / divide;
        out->x[m] = size ? (const void *)(acts + row * size) : (const void *)input_row(in, row);
    }
}

/* ---- products ---------------------------------------------------------------------------------- */

struct kernel_rows matrix_rows(const struct placed_weight *placed, uint32_t part, uint32_t first,
                               uint32_t n)
{
    return (struct kernel_rows){
        .bytes = (const uint8_t *)placed->weight->parts[part] + first * placed->row_bytes,
        .row_bytes = placed->row_bytes,
        .n_cols = placed->weight->n_cols,
        .n_rows = n,
    };
}

const uint8_t *matrix_panel(const struct placed_weight *placed, uint32_t part, uint32_t column)
{
    return placed->panels + part * placed->part_bytes + column / PANEL_ROWS * placed->panel_bytes;
}

void matrix_dots(const struct placed_weight *placed, enum numeric_class row_class, uint32_t part,
                 uint32_t column, const struct act_rows *rows, float *out)
{
    const struct weight *w = placed->weight;
    if (placed->packed) {
        matrix_kernel(placed, row_class)
            ->dots(matrix_panel(placed, part, column), w->n_cols, rows, out);
        return;
    }
    const float *x[KERNEL_X];
    for (uint32_t m = 0; m < rows->n; m++)
        x[m] = rows->x[m];
    uint32_t left = w->n_rows - column;
    struct kernel_rows matrix =
        matrix_rows(placed, part, column, left < KERNEL_ROWS ? left : KERNEL_ROWS);
    placed->kernel->dots(&matrix, x, rows->n, out);
}

void matrix_read_row(const struct placed_weight *placed, uint32_t row, float *out)
{
    const struct weight *w = placed->weight;
    if (placed->packed)
        packed_read_row(placed->layout, placed->panels + row / PANEL_ROWS * placed->panel_bytes,
                        row % PANEL_ROWS, w->n_cols, out);
    else
        placed->kernel->decode(matrix_rows(placed, 0, row, 1).bytes, w->n_cols, out);
}

const char *matrix_kernel_name(const struct placed_weight *placed)
{
    return placed->packed ? placed->packed->name : placed->kernel->name;
}
