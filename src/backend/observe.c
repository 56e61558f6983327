/* Which rows meet which matrices. */
#include "backend/observe.h"

const struct view *observed_view(const struct op *op)
{
    switch (op->kind) {
    case OP_LINEAR:
        return &op->u.linear.in;
    case OP_GATED:
        return &op->u.gated.in;
    case OP_EXPERTS:
        return &op->u.experts.in;
    case OP_LOGITS:
        return &op->u.logits.in;
    default:
        return NULL;
    }
}

/* The experts that a row chose. */
static const int32_t *chosen(const struct op *op, observe_row *row, const void *run, uint32_t r)
{
    return (const int32_t *)(const void *)row(run, op->u.experts.route, r);
}

void observe_inputs(const struct op_observer *observer, const struct op *op, uint32_t n,
                    observe_row *row, const void *run)
{
    const struct view *in = observed_view(op);
    void *context = observer->context;
    for (uint32_t r = 0; in && r < n; r++) {
        const float *x = row(run, *in, r);
        if (op->kind == OP_LINEAR) {
            observer->row(context, op->u.linear.weight, 0, x);
        } else if (op->kind == OP_LOGITS) {
            observer->row(context, op->u.logits.weight, 0, x);
        } else if (op->kind == OP_GATED) {
            observer->row(context, op->u.gated.gate, 0, x);
            observer->row(context, op->u.gated.up, 0, x);
        }
        for (uint32_t i = 0; op->kind == OP_EXPERTS && i < op->u.experts.k; i++) {
            uint32_t expert = (uint32_t)chosen(op, row, run, r)[i];
            observer->row(context, op->u.experts.gate, expert, x);
            observer->row(context, op->u.experts.up, expert, x);
        }
    }
}

void observe_hidden(const struct op_observer *observer, const struct program *program,
                    const struct op *op, uint32_t n, observe_row *row, const void *run)
{
    if (op->kind != OP_EXPERTS)
        return;
    uint32_t ff = program->weights[op->u.experts.down].n_cols;
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t i = 0; i < op->u.experts.k; i++)
            observer->row(observer->context, op->u.experts.down,
                          (uint32_t)chosen(op, row, run, r)[i],
                          row(run, op->u.experts.hidden, r) + (size_t)i * ff);
}
