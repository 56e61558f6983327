/*
 * Checking a program. An architecture file that binds a wrong tensor must be stopped here, with the
 * operation's name, because backends trust every shape.
 */
#include "program/check.h"

static void add(struct op_operands *operands, const struct view *view, const char *name,
                bool written)
{
    operands->views[operands->n++] = (struct op_operand){view, name, written};
}

struct op_operands op_operands(const struct op *op)
{
    struct op_operands o = {.n = 0};
    switch (op->kind) {
    case OP_EMBED:
        add(&o, &op->u.embed.out, "out", true);
        break;
    case OP_POSITION:
        add(&o, &op->u.position.in, "in", false);
        add(&o, &op->u.position.out, "out", true);
        break;
    case OP_NORM:
        add(&o, &op->u.norm.in, "in", false);
        add(&o, &op->u.norm.out, "out", true);
        break;
    case OP_LINEAR:
        add(&o, &op->u.linear.in, "in", false);
        add(&o, &op->u.linear.residual, "residual", false);
        add(&o, &op->u.linear.out, "out", true);
        break;
    case OP_ROPE_KV:
        add(&o, &op->u.rope_kv.q, "q", true);
        add(&o, &op->u.rope_kv.k, "k", true);
        add(&o, &op->u.rope_kv.v, "v", false);
        break;
    case OP_ATTENTION:
        add(&o, &op->u.attention.q, "q", false);
        add(&o, &op->u.attention.out, "out", true);
        break;
    case OP_GATED:
        add(&o, &op->u.gated.in, "in", false);
        add(&o, &op->u.gated.out, "out", true);
        break;
    case OP_ROUTE:
        add(&o, &op->u.route.in, "in", false);
        add(&o, &op->u.route.out, "out", true);
        break;
    case OP_EXPERTS:
        add(&o, &op->u.experts.in, "in", false);
        add(&o, &op->u.experts.route, "route", false);
        add(&o, &op->u.experts.hidden, "hidden", true);
        add(&o, &op->u.experts.residual, "residual", false);
        add(&o, &op->u.experts.out, "out", true);
        break;
    case OP_CONV:
        add(&o, &op->u.conv.in, "in", false);
        add(&o, &op->u.conv.out, "out", true);
        break;
    case OP_SSM:
        add(&o, &op->u.ssm.x, "x", false);
        add(&o, &op->u.ssm.dt, "dt", false);
        add(&o, &op->u.ssm.b, "b", false);
        add(&o, &op->u.ssm.c, "c", false);
        add(&o, &op->u.ssm.out, "out", true);
        break;
    case OP_DELTA:
        add(&o, &op->u.delta.q, "q", false);
        add(&o, &op->u.delta.k, "k", false);
        add(&o, &op->u.delta.v, "v", false);
        add(&o, &op->u.delta.decay, "decay", false);
        add(&o, &op->u.delta.beta, "beta", false);
        add(&o, &op->u.delta.out, "out", true);
        break;
    case OP_HEADS:
        add(&o, &op->u.heads.in, "in", false);
        add(&o, &op->u.heads.out, "out", true);
        break;
    case OP_ACTIVATE:
        add(&o, &op->u.activate.in, "in", false);
        add(&o, &op->u.activate.out, "out", true);
        break;
    case OP_MIX:
        add(&o, &op->u.mix.in, "in", false);
        add(&o, &op->u.mix.coefs, "coefs", false);
        add(&o, &op->u.mix.residual, "residual", false);
        add(&o, &op->u.mix.out, "out", true);
        break;
    case OP_MATCH:
        add(&o, &op->u.match.in, "in", false);
        add(&o, &op->u.match.like, "like", false);
        add(&o, &op->u.match.out, "out", true);
        break;
    case OP_ADD:
        add(&o, &op->u.add.a, "a", false);
        add(&o, &op->u.add.b, "b", false);
        add(&o, &op->u.add.out, "out", true);
        break;
    case OP_MUL:
        add(&o, &op->u.mul.a, "a", false);
        add(&o, &op->u.mul.b, "b", false);
        add(&o, &op->u.mul.out, "out", true);
        break;
    case OP_SELECT:
        add(&o, &op->u.select.in, "in", false);
        add(&o, &op->u.select.out, "out", true);
        break;
    case OP_LOGITS:
        add(&o, &op->u.logits.in, "in", false);
        add(&o, &op->u.logits.out, "out", true);
        break;
    }
    return o;
}

struct check {
    const struct program *program;
    const struct op *op;
    struct error *err;
    enum status status;
};

static void fail(struct check *c, const char *what, uint64_t found, uint64_t wanted)
{
    if (c->status == STATUS_OK)
        c->status = error_set(c->err, STATUS_MODEL, "%s (%s): %s is %llu, expected %llu",
                              c->op->label, op_kind_name(c->op->kind), what,
                              (unsigned long long)found, (unsigned long long)wanted);
}

static void need_width(struct check *c, struct view view, const char *what, uint64_t width)
{
    if (view.buffer == NO_BUFFER || view.width != width)
        fail(c, what, view.buffer == NO_BUFFER ? 0 : view.width, width);
}

static void need_optional(struct check *c, struct view view, const char *what, uint64_t width)
{
    if (view.buffer != NO_BUFFER)
        need_width(c, view, what, width);
}

/* rows/cols 0: anything. */
static const struct weight *need_weight(struct check *c, int32_t id, const char *what,
                                        uint64_t rows, uint64_t cols)
{
    if (id < 0 || (uint32_t)id >= c->program->n_weights) {
        fail(c, what, 0, 1);
        return NULL;
    }
    const struct weight *weight = &c->program->weights[id];
    if (rows && weight->n_rows != rows)
        fail(c, what, weight->n_rows, rows);
    if (cols && weight->n_cols != cols)
        fail(c, what, weight->n_cols, cols);
    return weight;
}

/* An activation of one value: not one that only a gated pair has, nor one with parameters. */
static void need_plain(struct check *c, enum activation act)
{
    if (act == ACT_CLAMPED_SWIGLU)
        fail(c, "activation (for gated pairs only)", act, ACT_NONE);
    if (act == ACT_XIELU)
        fail(c, "activation (it has parameters)", act, ACT_NONE);
}

/* Recurrences read their inputs again after writing some of their result. */
static void need_apart(struct check *c, struct view out, struct view in)
{
    if (out.buffer == in.buffer)
        fail(c, "buffer of the result (must differ from those of the inputs)", (uint64_t)out.buffer,
             (uint64_t)in.buffer + 1);
}

static void optional_vector(struct check *c, int32_t id, const char *what, uint64_t n)
{
    if (id != NO_WEIGHT)
        need_weight(c, id, what, 1, n);
}

/* kind GROUP_KV: anything paged. */
static const struct state_group *need_group(struct check *c, uint32_t group, uint32_t layer,
                                            enum group_kind kind)
{
    if (group >= c->program->n_groups) {
        fail(c, "group", group, c->program->n_groups);
        return NULL;
    }
    const struct state_group *g = &c->program->groups[group];
    bool paged = g->kind != GROUP_RECURRENT;
    if (paged != (kind != GROUP_RECURRENT))
        fail(c, "group kind", g->kind, kind);
    if (g->kind == GROUP_LATENT && g->n_kv_heads != 1)
        fail(c, "heads of a latent group", g->n_kv_heads, 1);
    if (layer >= g->n_layers)
        fail(c, "layer in group", layer, g->n_layers);
    return g;
}

static uint64_t query_dim(const struct state_group *g)
{
    return g->kind == GROUP_LATENT ? (uint64_t)g->k_head_dim + g->v_head_dim : g->k_head_dim;
}

static void check_rope_kv(struct check *c, const struct op_rope_kv *o)
{
    const struct state_group *g = need_group(c, o->group, o->layer, GROUP_KV);
    if (!g)
        return;
    need_width(c, o->q, "q width", o->n_heads * query_dim(g));
    need_optional(c, o->k, "k width", (uint64_t)g->n_kv_heads * g->k_head_dim);
    need_optional(c, o->v, "v width", (uint64_t)g->n_kv_heads * g->v_head_dim);
    if ((o->k.buffer == NO_BUFFER) != (o->v.buffer == NO_BUFFER))
        fail(c, "k and v (both or none)", 1, 2);
    if (o->style == ROPE_NONE)
        return;
    if (o->rope_dims % 2 || o->rope_dims == 0 || o->rope_dims > g->k_head_dim)
        fail(c, "rope dims", o->rope_dims, g->k_head_dim);
    need_weight(c, o->freqs, "rope frequencies", 1, o->rope_dims / 2);
}

static void check_attention(struct check *c, const struct op_attention *o)
{
    const struct state_group *g = need_group(c, o->group, o->layer, GROUP_KV);
    if (!g)
        return;
    need_width(c, o->q, "q width", o->n_heads * query_dim(g));
    need_width(c, o->out, "out width", (uint64_t)o->n_heads * g->v_head_dim);
    if (g->n_kv_heads == 0 || o->n_heads % g->n_kv_heads)
        fail(c, "heads over key/value heads", o->n_heads, g->n_kv_heads);
    if (g->window && (o->window == 0 || o->window > g->window))
        fail(c, "window (pages past the group's are released)", o->window, g->window);
    if (g->kind == GROUP_LATENT && o->ahead)
        fail(c, "positions ahead (not over latent groups)", o->ahead, 0);
    optional_vector(c, o->sinks, "sinks", o->n_heads);
}

static void check_experts(struct check *c, const struct op_experts *o)
{
    const struct weight *gate = need_weight(c, o->gate, "gate stack", 0, o->in.width);
    const struct weight *up = need_weight(c, o->up, "up stack", 0, o->in.width);
    const struct weight *down = need_weight(c, o->down, "down stack", o->out.width, 0);
    if (!gate || !up || !down)
        return;
    if (up->n_rows != gate->n_rows)
        fail(c, "up rows", up->n_rows, gate->n_rows);
    if (down->n_cols != gate->n_rows)
        fail(c, "down columns", down->n_cols, gate->n_rows);
    if (up->count != gate->count || down->count != gate->count)
        fail(c, "experts in the stacks", up->count, gate->count);
    optional_vector(c, o->gate_bias, "gate biases", (uint64_t)gate->count * gate->n_rows);
    optional_vector(c, o->up_bias, "up biases", (uint64_t)gate->count * gate->n_rows);
    optional_vector(c, o->down_bias, "down biases", (uint64_t)gate->count * o->out.width);
    need_width(c, o->route, "route width", 2 * (uint64_t)o->k);
    need_width(c, o->hidden, "hidden width", (uint64_t)o->k * gate->n_rows);
    need_optional(c, o->residual, "residual width", o->out.width);
}

static void check_norm(struct check *c, const struct op_norm *o)
{
    need_width(c, o->out, "out width", o->in.width);
    if (o->kind > NORM_CUTOFF)
        fail(c, "kind", o->kind, NORM_CUTOFF);
    if (o->group == 0 || o->in.width % o->group) {
        fail(c, "group", o->group, o->in.width);
        return;
    }
    if (o->weight != NO_WEIGHT) {
        const struct weight *w = need_weight(c, o->weight, "weight", 1, 0);
        if (w && w->n_cols != o->group && w->n_cols != o->in.width)
            fail(c, "weight length", w->n_cols, o->group);
    }
    if (o->bias != NO_WEIGHT) {
        const struct weight *b = need_weight(c, o->bias, "bias", 1, 0);
        if (b && b->n_cols != o->group && b->n_cols != o->in.width)
            fail(c, "bias length", b->n_cols, o->group);
    }
}

static void check_route(struct check *c, const struct op_route *o)
{
    need_weight(c, o->weight, "router", o->n_experts, o->in.width);
    optional_vector(c, o->bias, "router bias", o->n_experts);
    optional_vector(c, o->score_bias, "score bias", o->n_experts);
    need_width(c, o->out, "out width", 2 * (uint64_t)o->k);
    if (o->k == 0 || o->k > o->n_experts)
        fail(c, "experts per token", o->k, o->n_experts);
    if (o->n_groups <= 1)
        return;
    if (o->n_groups > ROUTE_GROUPS_MAX || o->n_experts % o->n_groups)
        fail(c, "groups of experts", o->n_groups, o->n_experts);
    else if (o->k_groups == 0 || o->k_groups > o->n_groups ||
             o->k > o->n_experts / o->n_groups * o->k_groups)
        fail(c, "groups to choose from", o->k_groups, o->n_groups);
    else if (o->group_best == 0 || o->group_best > 2 || o->group_best > o->n_experts / o->n_groups)
        fail(c, "experts that score a group", o->group_best, 2);
}

static void need_state(struct check *c, uint32_t group, uint32_t layer, uint64_t floats)
{
    const struct state_group *g = need_group(c, group, layer, GROUP_RECURRENT);
    if (g && g->state_floats != floats)
        fail(c, "state size", g->state_floats, floats);
}

static void check_conv(struct check *c, const struct op_conv *o)
{
    need_width(c, o->out, "out width", o->in.width);
    need_plain(c, o->act);
    need_weight(c, o->weight, "weight", o->in.width, o->taps);
    optional_vector(c, o->bias, "bias", o->in.width);
    if (o->taps < 2)
        fail(c, "taps", o->taps, 2);
    need_state(c, o->group, o->layer, (uint64_t)(o->taps - 1) * o->in.width);
}

static void check_ssm(struct check *c, const struct op_ssm *o)
{
    uint64_t heads = o->n_heads, state = (uint64_t)o->n_groups * o->n_state;
    if (heads == 0 || o->n_groups == 0 || heads % o->n_groups) {
        fail(c, "heads over groups", heads, o->n_groups);
        return;
    }
    need_width(c, o->x, "x width", heads * o->head_dim);
    need_width(c, o->out, "out width", heads * o->head_dim);
    need_width(c, o->dt, "dt width", heads);
    need_width(c, o->b, "b width", state);
    need_width(c, o->c, "c width", state);
    const struct weight *a = need_weight(c, o->a, "a", 1, 0);
    if (a && a->n_cols != heads && a->n_cols != heads * o->n_state)
        fail(c, "a length", a->n_cols, heads);
    need_weight(c, o->d, "d", 1, heads);
    optional_vector(c, o->dt_bias, "dt bias", heads);
    need_apart(c, o->out, o->x);
    need_apart(c, o->out, o->b);
    need_apart(c, o->out, o->c);
    need_apart(c, o->out, o->dt);
    if (!(o->dt_min <= o->dt_max))
        fail(c, "dt limits in order", 0, 1);
    need_state(c, o->group, o->layer, heads * o->n_state * o->head_dim);
}

static void check_delta(struct check *c, const struct op_delta *o)
{
    uint64_t heads = o->n_heads, keys = (uint64_t)o->n_key_heads * o->k_dim;
    if (heads == 0 || o->n_key_heads == 0 || heads % o->n_key_heads) {
        fail(c, "value heads over key heads", heads, o->n_key_heads);
        return;
    }
    need_width(c, o->q, "q width", keys);
    need_width(c, o->k, "k width", keys);
    need_width(c, o->v, "v width", heads * o->v_dim);
    need_width(c, o->out, "out width", heads * o->v_dim);
    need_width(c, o->decay, "decay width", heads);
    need_width(c, o->beta, "beta width", heads);
    need_apart(c, o->out, o->q);
    need_apart(c, o->out, o->k);
    need_apart(c, o->out, o->v);
    need_weight(c, o->a, "a", 1, heads);
    need_weight(c, o->dt_bias, "dt bias", 1, heads);
    need_state(c, o->group, o->layer, heads * o->k_dim * o->v_dim);
}

static void check_heads(struct check *c, const struct op_heads *o)
{
    if (o->n_heads == 0 || o->in.width % o->n_heads || o->out.width % o->n_heads) {
        fail(c, "heads", o->n_heads, o->in.width);
        return;
    }
    if (o->in_width == 0 || (uint64_t)o->in_column + o->in_width > o->in.width / o->n_heads)
        fail(c, "columns of an input head", (uint64_t)o->in_column + o->in_width,
             o->in.width / o->n_heads);
    if (o->out_width == 0 || (uint64_t)o->out_column + o->out_width > o->out.width / o->n_heads)
        fail(c, "columns of an output head", (uint64_t)o->out_column + o->out_width,
             o->out.width / o->n_heads);
    if (o->in.buffer == o->out.buffer)
        fail(c, "buffers (in and out must differ)", 1, 2);
    if (o->weight == NO_WEIGHT) {
        if (o->in_width != o->out_width)
            fail(c, "columns to copy", o->out_width, o->in_width);
        return;
    }
    const struct weight *w =
        need_weight(c, o->weight, "weight", o->transposed ? o->in_width : o->out_width,
                    o->transposed ? o->out_width : o->in_width);
    if (w && w->count != o->n_heads)
        fail(c, "matrices in the stack", w->count, o->n_heads);
}

static void check_position(struct check *c, const struct op_position *o)
{
    need_width(c, o->out, "out width", o->in.width);
    optional_vector(c, o->bias, "bias", o->in.width);
    if (o->table == NO_WEIGHT)
        return;
    const struct weight *table = need_weight(c, o->table, "table", 0, o->in.width);
    if (o->skip >= 0 && (o->offset == 0 || !c->program->bidirectional))
        fail(c, "row for skipped tokens, before the first", o->offset, 1);
    uint64_t least = (uint64_t)o->offset + c->program->n_context;
    if (table && table->n_rows < least)
        fail(c, "rows of the table of positions", table->n_rows, least);
}

static void check_mix(struct check *c, const struct op_mix *o)
{
    if (o->n_in == 0 || o->n_out == 0 || o->in.width % o->n_in) {
        fail(c, "streams", o->n_in, o->in.width);
        return;
    }
    uint64_t width = (uint64_t)(o->in.width / o->n_in) * o->n_out;
    need_width(c, o->out, "out width", width);
    need_width(c, o->residual, "residual width", width);
    need_width(c, o->coefs, "coefficients", (uint64_t)o->n_in * o->n_out);
    need_apart(c, o->out, o->in);
    need_apart(c, o->out, o->coefs);
}

static void check_embed(struct check *c, const struct op_embed *o)
{
    const struct weight *table = need_weight(c, o->table, "table", 0, o->out.width);
    if (table && (table->n_rows == 0 || table->n_rows > c->program->n_vocab))
        fail(c, "rows of the table", table->n_rows, c->program->n_vocab);
}

static void check_rows(struct check *c, const struct op_operands *operands)
{
    const struct program *p = c->program;
    bool select = c->op->kind == OP_SELECT;
    for (uint32_t i = 0; i < operands->n && c->status == STATUS_OK; i++) {
        const struct view *view = operands->views[i].view;
        if (view->buffer == NO_BUFFER)
            continue;
        if (view->buffer < 0 || (uint32_t)view->buffer >= p->n_buffers) {
            fail(c, "buffer id", (uint64_t)view->buffer, p->n_buffers);
            return;
        }
        const struct buffer *buffer = &p->buffers[view->buffer];
        if (view->width == 0 || (uint64_t)view->column + view->width > buffer->width)
            fail(c, operands->views[i].name, (uint64_t)view->column + view->width, buffer->width);
        const struct buffer *first = &p->buffers[operands->views[0].view->buffer];
        if (!select && buffer->rows != first->rows)
            fail(c, "kind of rows", buffer->rows, first->rows);
    }
}

static void check_op(struct check *c)
{
    const struct op *op = c->op;
    switch (op->kind) {
    case OP_EMBED:
        check_embed(c, &op->u.embed);
        break;
    case OP_POSITION:
        check_position(c, &op->u.position);
        break;
    case OP_NORM:
        check_norm(c, &op->u.norm);
        break;
    case OP_LINEAR:
        need_plain(c, op->u.linear.act);
        need_weight(c, op->u.linear.weight, "weight", op->u.linear.out.width,
                    op->u.linear.in.width);
        optional_vector(c, op->u.linear.bias, "bias", op->u.linear.out.width);
        need_optional(c, op->u.linear.residual, "residual width", op->u.linear.out.width);
        break;
    case OP_ROPE_KV:
        check_rope_kv(c, &op->u.rope_kv);
        break;
    case OP_ATTENTION:
        check_attention(c, &op->u.attention);
        break;
    case OP_GATED:
        need_weight(c, op->u.gated.gate, "gate", op->u.gated.out.width, op->u.gated.in.width);
        need_weight(c, op->u.gated.up, "up", op->u.gated.out.width, op->u.gated.in.width);
        optional_vector(c, op->u.gated.gate_bias, "gate bias", op->u.gated.out.width);
        optional_vector(c, op->u.gated.up_bias, "up bias", op->u.gated.out.width);
        break;
    case OP_ROUTE:
        check_route(c, &op->u.route);
        break;
    case OP_EXPERTS:
        check_experts(c, &op->u.experts);
        break;
    case OP_CONV:
        check_conv(c, &op->u.conv);
        break;
    case OP_SSM:
        check_ssm(c, &op->u.ssm);
        break;
    case OP_DELTA:
        check_delta(c, &op->u.delta);
        break;
    case OP_HEADS:
        check_heads(c, &op->u.heads);
        break;
    case OP_ACTIVATE:
        need_width(c, op->u.activate.out, "out width", op->u.activate.in.width);
        if (op->u.activate.act == ACT_CLAMPED_SWIGLU)
            fail(c, "activation (for gated pairs only)", op->u.activate.act, ACT_NONE);
        break;
    case OP_MIX:
        check_mix(c, &op->u.mix);
        break;
    case OP_MATCH:
        need_width(c, op->u.match.out, "out width", op->u.match.in.width);
        if (!(op->u.match.least >= 0.0f))
            fail(c, "least mean square", 0, 1);
        break;
    case OP_ADD:
        need_width(c, op->u.add.a, "a width", op->u.add.out.width);
        need_width(c, op->u.add.b, "b width", op->u.add.out.width);
        break;
    case OP_MUL:
        need_plain(c, op->u.mul.act);
        if (op->u.mul.a.width == 0 || op->u.mul.out.width % op->u.mul.a.width)
            fail(c, "a width", op->u.mul.a.width, op->u.mul.out.width);
        need_width(c, op->u.mul.b, "b width", op->u.mul.out.width);
        break;
    case OP_SELECT:
        need_width(c, op->u.select.in, "in width", op->u.select.out.width);
        break;
    case OP_LOGITS:
        need_weight(c, op->u.logits.weight, "weight", op->u.logits.out.width,
                    op->u.logits.in.width);
        optional_vector(c, op->u.logits.bias, "bias", op->u.logits.out.width);
        break;
    }
}

enum status program_check(const struct program *program, struct error *err)
{
    static const struct op none = {.kind = OP_EMBED, .label = "program"};
    struct check c = {program, &none, err, STATUS_OK};
    for (uint32_t i = 0; i < program->n_ops && c.status == STATUS_OK; i++) {
        c.op = &program->ops[i];
        struct op_operands operands = op_operands(c.op);
        check_rows(&c, &operands);
        if (c.status == STATUS_OK)
            check_op(&c);
    }
    if (c.status != STATUS_OK)
        return c.status;
    c.op = &none;
    if (program->n_ops == 0 || program->n_vocab == 0 || program->n_context == 0)
        return error_set(err, STATUS_MODEL,
                         "program %s is empty (%u operations, vocabulary %u, "
                         "context %u)",
                         program->name, program->n_ops, program->n_vocab, program->n_context);
    if (program->bidirectional &&
        (program->row_alignment < program->n_context || program->logits != NO_BUFFER))
        return error_set(err, STATUS_INTERNAL,
                         "program %s: bidirectional, but prompts may be cut or continued",
                         program->name);
    if (program->hidden < 0 || (uint32_t)program->hidden >= program->n_buffers ||
        program->buffers[program->hidden].rows != ROWS_OUTPUT)
        return error_set(err, STATUS_INTERNAL, "program %s names no hidden output", program->name);
    if (program->logits != NO_BUFFER &&
        ((uint32_t)program->logits >= program->n_buffers ||
         program->buffers[program->logits].rows != ROWS_OUTPUT ||
         program->buffers[program->logits].width != program->n_vocab))
        return error_set(err, STATUS_INTERNAL, "program %s: logits are not [outputs, %u]",
                         program->name, program->n_vocab);
    return STATUS_OK;
}
