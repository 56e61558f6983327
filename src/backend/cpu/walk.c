/*
 * The walk: every thread runs the whole list of operations, each doing its share, with a barrier
 * after each operation whose results, or whose inputs, the next ones touch. Nothing here knows a
 * model or an instruction set.
 */
#include "backend/cpu/internal.h"
#include "base/clock.h"
#include "program/check.h"

/* ---- barriers ---------------------------------------------------------------------------------- */

/* Words per row that a view occupies in its kind's memory: buffers that are never alive together
 * may share them, so two names can mean one place. */
static bool overlap(const struct program *program, const struct view *a, const struct view *b)
{
    if (a->buffer == NO_BUFFER || b->buffer == NO_BUFFER)
        return false;
    const struct buffer *x = &program->buffers[a->buffer], *y = &program->buffers[b->buffer];
    if (x->rows != y->rows)
        return false;
    if (a->buffer == b->buffer)
        return a->column < b->column + b->width && b->column < a->column + a->width;
    return x->offset < y->offset + y->width && y->offset < x->offset + x->width;
}

static bool conflict(const struct program *program, const struct op *a, const struct op *b)
{
    struct op_operands x = op_operands(a), y = op_operands(b);
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t j = 0; j < y.n; j++)
            if ((x.views[i].written || y.views[j].written) &&
                overlap(program, x.views[i].view, y.views[j].view))
                return true;
    return false;
}

/* Operations that touch nothing but their views, and quantised rows that are there already. */
static bool only_views(const struct loaded_program *p, uint32_t index)
{
    enum op_kind kind = p->program->ops[index].kind;
    return kind == OP_LINEAR || kind == OP_GATED;
}

/* q, k and v of a layer, or the two halves of a gate: one phase without barriers between. */
void plan_barriers(struct loaded_program *p)
{
    const struct program *program = p->program;
    for (uint32_t first = 0, i = 1; i < program->n_ops; i++) {
        bool free = only_views(p, i - 1) && only_views(p, i) && !any_form(p->plans[i].quantise) &&
                    !any_form(p->plans[i].gives);
        for (uint32_t j = first; j < i && free; j++)
            free = !conflict(program, &program->ops[j], &program->ops[i]);
        p->plans[i - 1].runs_on = free;
        if (!free)
            first = i;
    }
}

/* ---- the walk ---------------------------------------------------------------------------------- */

static void run_op(const struct worker *w, uint32_t index)
{
    const struct op *op = &w->run->program->program->ops[index];
    const struct op_plan *plan = &w->run->program->plans[index];
    switch (op->kind) {
    case OP_EMBED:
        cpu_embed(w, &op->u.embed);
        break;
    case OP_POSITION:
        cpu_position(w, &op->u.position);
        break;
    case OP_NORM:
        cpu_norm(w, &op->u.norm, plan);
        break;
    case OP_LINEAR:
        cpu_linear(w, &op->u.linear, plan);
        break;
    case OP_ROPE_KV:
        cpu_rope_kv(w, &op->u.rope_kv, plan->rope);
        break;
    case OP_ATTENTION:
        cpu_attention(w, &op->u.attention);
        break;
    case OP_GATED:
        cpu_gated(w, &op->u.gated, plan);
        break;
    case OP_ROUTE:
        cpu_route(w, &op->u.route);
        break;
    case OP_EXPERTS:
        cpu_experts(w, &op->u.experts, plan);
        break;
    case OP_CONV:
        cpu_conv(w, &op->u.conv, plan->taps);
        break;
    case OP_SSM:
        cpu_ssm(w, &op->u.ssm);
        break;
    case OP_DELTA:
        cpu_delta(w, &op->u.delta);
        break;
    case OP_HEADS:
        cpu_heads(w, &op->u.heads);
        break;
    case OP_ACTIVATE:
        cpu_activation(w, &op->u.activate);
        break;
    case OP_MIX:
        cpu_mix(w, &op->u.mix);
        break;
    case OP_MATCH:
        cpu_match(w, &op->u.match);
        break;
    case OP_ADD:
        cpu_add(w, &op->u.add);
        break;
    case OP_MUL:
        cpu_mul(w, &op->u.mul);
        break;
    case OP_SELECT:
        cpu_select(w, &op->u.select);
        break;
    case OP_LOGITS:
        cpu_logits(w, &op->u.logits, plan);
        break;
    }
}

/* ---- calibration ------------------------------------------------------------------------------- */

static const float *observed_row(const void *run, struct view view, uint32_t row)
{
    return run_row(run, view, row);
}

/* Around an operation, on thread 0, while the others wait: nothing runs ahead into buffers that share
 * memory with what is looked at. */
static void observe(const struct worker *w, uint32_t index, bool done)
{
    const struct loaded_program *p = w->run->program;
    const struct op *op = &p->program->ops[index];
    const struct view *view = p->observer ? observed_view(op) : NULL;
    if (!view)
        return;
    uint32_t n = run_rows(w->run, *view);
    if (w->index == 0 && done)
        observe_hidden(p->observer, p->program, op, n, observed_row, w->run);
    else if (w->index == 0)
        observe_inputs(p->observer, op, n, observed_row, w->run);
    worker_barrier(w);
}

static void walk(void *context, uint32_t index, uint32_t n_threads)
{
    const struct cpu_run *run = context;
    const struct cpu_backend *backend = run->backend;
    struct worker w = {
        .run = run,
        .index = index,
        .count = n_threads,
        .scratch = backend->scratch + index * backend->scratch_words,
        .pool = backend->pool,
    };
    const struct loaded_program *program = run->program;
    for (uint32_t i = 0; i < program->n_ropes; i++)
        cpu_rope_turns(&w, &program->ropes[i]);
    /* The barrier after each operation also orders the rotation tables before their first use:
     * operation 0 has no input rows to rotate. */
    uint64_t *times = index == 0 && program->profiling ? program->op_ns : NULL;
    uint64_t then = times ? clock_now_ns() : 0;
    for (uint32_t i = 0; i < program->program->n_ops; i++) {
        w.op = i;
        observe(&w, i, false);
        run_op(&w, i);
        if (!program->plans[i].runs_on)
            worker_barrier(&w);
        observe(&w, i, true);
        if (times) {
            uint64_t now = clock_now_ns();
            times[i] += now - then;
            then = now;
        }
    }
    kernels_rest();
}

void cpu_walk(const struct cpu_run *run)
{
    const struct loaded_program *p = run->program;
    for (size_t i = 0; i < (size_t)p->program->n_ops * run->backend->n_threads * TAKE_PHASES; i++)
        atomic_store_explicit(&p->taken[i], 0, memory_order_relaxed);
    thread_pool_run(run->backend->pool, walk, (void *)(uintptr_t)run);
}
