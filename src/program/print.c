/* The listing of a program: buffers, groups, then one line per operation. */
#include "program/check.h"

const char *op_kind_name(enum op_kind kind)
{
    static const char *const names[] = {"embed",     "position", "norm",  "linear",   "rope+kv",
                                        "attention", "gated",    "route", "experts",  "conv",
                                        "ssm",       "delta",    "heads", "activate", "mix",
                                        "match",     "add",      "mul",   "select",   "logits"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static const char *activation_name(enum activation act)
{
    static const char *const names[] = {"none",  "silu",    "gelu", "gelu_tanh",      "relu",
                                        "relu2", "sigmoid", "tanh", "clamped_swiglu", "xielu"};
    return (size_t)act < sizeof names / sizeof *names ? names[act] : "?";
}

static const char *norm_name(enum norm_kind kind)
{
    static const char *const names[] = {"rms", "layer", "none", "cutoff"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static void print_view(const struct program *p, struct buf *out, struct view view)
{
    if (view.buffer == NO_BUFFER)
        return;
    const struct buffer *buffer = &p->buffers[view.buffer];
    buf_append_cstr(out, buffer->name);
    if (view.column || view.width != buffer->width)
        buf_printf(out, "[%u:%u]", view.column, view.column + view.width);
}

static void print_weight(const struct program *p, struct buf *out, const char *what, int32_t id)
{
    if (id == NO_WEIGHT)
        return;
    const struct weight *w = &p->weights[id];
    buf_printf(out, " %s=%s:%s[", what, w->name, tensor_type_name(w->type));
    if (w->count > 1)
        buf_printf(out, "%u,", w->count);
    if (w->n_rows > 1)
        buf_printf(out, "%u,", w->n_rows);
    buf_printf(out, "%u]", w->n_cols);
}

static void print_details(const struct program *p, struct buf *out, const struct op *op)
{
    switch (op->kind) {
    case OP_EMBED:
        print_weight(p, out, "table", op->u.embed.table);
        if (op->u.embed.scale != 1.0f)
            buf_printf(out, " scale=%g", (double)op->u.embed.scale);
        break;
    case OP_POSITION:
        print_weight(p, out, "table", op->u.position.table);
        print_weight(p, out, "b", op->u.position.bias);
        if (op->u.position.offset)
            buf_printf(out, " offset=%u", op->u.position.offset);
        break;
    case OP_NORM:
        print_weight(p, out, "w", op->u.norm.weight);
        buf_printf(out, " %s", norm_name(op->u.norm.kind));
        if (op->u.norm.group != op->u.norm.in.width)
            buf_printf(out, " group=%u", op->u.norm.group);
        if (op->u.norm.weight_offset != 0.0f)
            buf_printf(out, " w+%g", (double)op->u.norm.weight_offset);
        buf_printf(out, " eps=%g", (double)op->u.norm.eps);
        break;
    case OP_LINEAR:
        print_weight(p, out, "w", op->u.linear.weight);
        print_weight(p, out, "b", op->u.linear.bias);
        if (op->u.linear.act != ACT_NONE)
            buf_printf(out, " act=%s", activation_name(op->u.linear.act));
        break;
    case OP_ROPE_KV:
        buf_printf(out, " %s dims=%u -> %s layer %u",
                   op->u.rope_kv.style == ROPE_NONE     ? "no rope"
                   : op->u.rope_kv.style == ROPE_HALVES ? "halves"
                                                        : "pairs",
                   op->u.rope_kv.rope_dims, p->groups[op->u.rope_kv.group].name,
                   op->u.rope_kv.layer);
        break;
    case OP_ATTENTION:
        buf_printf(out, " heads=%u/%u scale=%g", op->u.attention.n_heads,
                   p->groups[op->u.attention.group].n_kv_heads, (double)op->u.attention.scale);
        if (op->u.attention.window)
            buf_printf(out, " window=%u", op->u.attention.window);
        if (op->u.attention.ahead)
            buf_printf(out, " ahead=%u", op->u.attention.ahead);
        if (op->u.attention.softcap != 0.0f)
            buf_printf(out, " softcap=%g", (double)op->u.attention.softcap);
        buf_printf(out, " over %s layer %u", p->groups[op->u.attention.group].name,
                   op->u.attention.layer);
        break;
    case OP_GATED:
        print_weight(p, out, "gate", op->u.gated.gate);
        print_weight(p, out, "up", op->u.gated.up);
        buf_printf(out, " act=%s", activation_name(op->u.gated.act));
        break;
    case OP_ROUTE:
        print_weight(p, out, "w", op->u.route.weight);
        if (op->u.route.n_groups > 1)
            buf_printf(out, " best %u of %u groups,", op->u.route.k_groups, op->u.route.n_groups);
        buf_printf(out, " %s top %u of %u%s",
                   op->u.route.score == ROUTE_SOFTMAX ? "softmax" : "sigmoid", op->u.route.k,
                   op->u.route.n_experts, op->u.route.normalise ? ", normalised" : "");
        break;
    case OP_EXPERTS:
        print_weight(p, out, "gate", op->u.experts.gate);
        print_weight(p, out, "up", op->u.experts.up);
        print_weight(p, out, "down", op->u.experts.down);
        buf_printf(out, " act=%s", activation_name(op->u.experts.act));
        break;
    case OP_CONV:
        print_weight(p, out, "w", op->u.conv.weight);
        buf_printf(out, " taps=%u state in %s layer %u", op->u.conv.taps,
                   p->groups[op->u.conv.group].name, op->u.conv.layer);
        break;
    case OP_SSM:
        print_weight(p, out, "a", op->u.ssm.a);
        print_weight(p, out, "d", op->u.ssm.d);
        buf_printf(out, " heads=%u of %u, groups=%u, state in %s layer %u", op->u.ssm.n_heads,
                   op->u.ssm.head_dim, op->u.ssm.n_groups, p->groups[op->u.ssm.group].name,
                   op->u.ssm.layer);
        break;
    case OP_DELTA:
        print_weight(p, out, "a", op->u.delta.a);
        buf_printf(out, " heads=%u/%u of %u+%u, state in %s layer %u", op->u.delta.n_heads,
                   op->u.delta.n_key_heads, op->u.delta.k_dim, op->u.delta.v_dim,
                   p->groups[op->u.delta.group].name, op->u.delta.layer);
        break;
    case OP_HEADS:
        print_weight(p, out, op->u.heads.transposed ? "w^T" : "w", op->u.heads.weight);
        buf_printf(out, " heads=%u [%u:%u] -> [%u:%u]%s", op->u.heads.n_heads,
                   op->u.heads.in_column, op->u.heads.in_column + op->u.heads.in_width,
                   op->u.heads.out_column, op->u.heads.out_column + op->u.heads.out_width,
                   op->u.heads.weight == NO_WEIGHT ? " copy" : "");
        break;
    case OP_ACTIVATE:
        buf_printf(out, " act=%s", activation_name(op->u.activate.act));
        break;
    case OP_MIX:
        buf_printf(out, " %u -> %u streams", op->u.mix.n_in, op->u.mix.n_out);
        break;
    case OP_MATCH:
        break;
    case OP_ADD:
        if (op->u.add.scale != 1.0f)
            buf_printf(out, " scale=%g", (double)op->u.add.scale);
        break;
    case OP_MUL:
        if (op->u.mul.act != ACT_NONE)
            buf_printf(out, " act=%s", activation_name(op->u.mul.act));
        break;
    case OP_SELECT:
        break;
    case OP_LOGITS:
        print_weight(p, out, "w", op->u.logits.weight);
        if (op->u.logits.softcap != 0.0f)
            buf_printf(out, " softcap=%g", (double)op->u.logits.softcap);
        break;
    }
}

static void print_op(const struct program *p, struct buf *out, uint32_t index)
{
    const struct op *op = &p->ops[index];
    struct op_operands operands = op_operands(op);
    buf_printf(out, "%4u  %-22s %-9s ", index, op->label, op_kind_name(op->kind));
    const char *comma = "";
    for (uint32_t i = 0; i < operands.n; i++) {
        if (operands.views[i].written || operands.views[i].view->buffer == NO_BUFFER)
            continue;
        buf_append_cstr(out, comma);
        print_view(p, out, *operands.views[i].view);
        comma = ", ";
    }
    if (op->kind != OP_EMBED)
        buf_append_cstr(out, " ");
    buf_append_cstr(out, "->");
    for (uint32_t i = 0; i < operands.n; i++) {
        if (!operands.views[i].written || operands.views[i].view->buffer == NO_BUFFER)
            continue;
        buf_append_char(out, ' ');
        print_view(p, out, *operands.views[i].view);
    }
    print_details(p, out, op);
}

void program_print(const struct program *program, struct buf *out,
                   void (*kernel)(void *context, uint32_t op, struct buf *out), void *context)
{
    buf_printf(out, "program %s: %u operations, %u weights (%.1f MB), vocabulary %u, context %u\n",
               program->name, program->n_ops, program->n_weights,
               (double)program_weight_bytes(program) / 1e6, program->n_vocab, program->n_context);
    if (program->bidirectional)
        buf_append_cstr(out, "bidirectional: a sequence runs in one piece\n");
    buf_printf(out, "buffers (%llu words per row, %llu per output):\n",
               (unsigned long long)program->step_row_words,
               (unsigned long long)program->output_row_words);
    for (uint32_t i = 0; i < program->n_buffers; i++) {
        const struct buffer *b = &program->buffers[i];
        buf_printf(out, "  %-14s %7u wide, per %s, at %llu\n", b->name, b->width,
                   b->rows == ROWS_STEP ? "row" : "output", (unsigned long long)b->offset);
    }
    for (uint32_t i = 0; i < program->n_groups; i++) {
        const struct state_group *g = &program->groups[i];
        buf_printf(out, "group %s: %u layers, ", g->name, g->n_layers);
        if (g->kind == GROUP_RECURRENT)
            buf_printf(out, "state of %u floats per layer\n", g->state_floats);
        else
            buf_printf(out, "%u %s of %u+%u per token and layer%s", g->n_kv_heads,
                       g->kind == GROUP_LATENT ? "latent" : "heads", g->k_head_dim, g->v_head_dim,
                       g->window ? "" : "\n");
        if (g->kind != GROUP_RECURRENT && g->window)
            buf_printf(out, ", window %u\n", g->window);
    }
    buf_append_cstr(out, "operations:\n");
    for (uint32_t i = 0; i < program->n_ops; i++) {
        print_op(program, out, i);
        if (kernel) {
            buf_append_cstr(out, "  | ");
            kernel(context, i, out);
        }
        buf_append_char(out, '\n');
    }
}
