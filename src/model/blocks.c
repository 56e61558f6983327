/*
 * The blocks that most decoders are made of, written once: embedding, attention, gated FFN, mixture
 * of experts, head. Each emits a few operations over the build's shared buffers. What a checkpoint
 * may or may not have (biases, tied outputs) is found by looking for the tensor.
 */
#include <math.h>
#include <string.h>

#include "model/build.h"

/* A shared buffer, made on first use. */
static struct view shared(struct build *b, int32_t *id, const char *name, uint32_t width)
{
    if (*id == NO_BUFFER)
        *id = program_buffer(b->program, name, width, ROWS_STEP);
    return view_columns(program_view(b->program, *id), 0, width);
}

struct view build_x(struct build *b)
{
    return shared(b, &b->x, "x", b->h.width);
}

struct view build_normed(struct build *b)
{
    return shared(b, &b->normed, "normed", b->h.width);
}

/* K/V group of this shape, or a new one. */
static uint32_t kv_group(struct build *b, const struct layer *layer)
{
    struct program *p = b->program;
    uint32_t head = layer->head_dim ? layer->head_dim : b->h.head_dim;
    for (uint32_t i = 0; i < p->n_groups; i++) {
        struct state_group *g = &p->groups[i];
        if (g->kind == GROUP_KV && g->window == layer->window &&
            g->n_kv_heads == layer->n_kv_heads && g->k_head_dim == head)
            return i;
    }
    struct state_group group = {
        .name = layer->window ? "kv.window" : "kv",
        .kind = GROUP_KV,
        .window = layer->window,
        .n_kv_heads = layer->n_kv_heads,
        .k_head_dim = head,
        .v_head_dim = layer->head_dim ? head : b->h.v_head_dim,
    };
    return program_group(p, &group);
}

static uint32_t conv_group(struct build *b, uint32_t floats)
{
    struct program *p = b->program;
    for (uint32_t i = 0; i < p->n_groups; i++)
        if (p->groups[i].kind == GROUP_RECURRENT)
            return i;
    struct state_group group = {.name = "conv", .kind = GROUP_RECURRENT, .state_floats = floats};
    return program_group(p, &group);
}

void build_groups(struct build *b, uint32_t conv_floats)
{
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        struct layer *layer = &b->h.layers[i];
        if (layer->kind == LAYER_OTHER)
            continue;
        if (layer->kind == LAYER_ATTENTION && (!layer->n_heads || !layer->n_kv_heads)) {
            program_fail(b->program, STATUS_MODEL, "layer %u attends with %u heads (%s)", i,
                         layer->n_heads, b->gguf ? "attention.head_count" : "num_attention_heads");
            b->h.n_layers = 0; /* nothing after this divides by it */
            return;
        }
        layer->group = layer->kind == LAYER_CONV ? conv_group(b, conv_floats) : kv_group(b, layer);
        layer->group_layer = b->program->groups[layer->group].n_layers++;
    }
}

void build_embedding(struct build *b, float scale)
{
    struct op op = {.kind = OP_EMBED,
                    .u.embed = {.out = build_x(b),
                                .table = build_table(b, "token_embd", b->h.n_vocab, b->h.width),
                                .scale = scale}};
    program_emit(b->program, &op, "embed");
}

void build_positions(struct build *b, uint32_t offset, int32_t skip)
{
    struct view x = build_x(b);
    const struct tensor *table = build_find(b, -1, "position_embd", "weight");
    const struct tensor *types = build_find(b, -1, "token_types", "weight");
    struct op op = {.kind = OP_POSITION,
                    .u.position = {.in = x,
                                   .out = x,
                                   .table = NO_WEIGHT,
                                   .bias = NO_WEIGHT,
                                   .offset = offset,
                                   .skip = skip}};
    if (table && table->n_dims == 2 && table->dims[0] <= UINT32_MAX)
        op.u.position.table = build_table(b, "position_embd", (uint32_t)table->dims[0], x.width);
    if (types && types->n_dims == 2 && types->dims[0] <= UINT32_MAX)
        op.u.position.bias =
            build_weight_rows(b, -1, "token_types", (uint32_t)types->dims[0], 0, 1, x.width);
    program_emit(b->program, &op, "positions");
}

void build_norm(struct build *b, int layer, const char *role, struct view in, struct view out,
                uint32_t group, float weight_offset)
{
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = in,
                               .out = out,
                               .kind = b->h.norm,
                               .group = group,
                               .weight = build_vector(b, layer, role, group),
                               .bias = build_bias(b, layer, role, group),
                               .weight_offset = weight_offset,
                               .eps = b->h.norm_eps}};
    if (layer >= 0)
        program_emit(b->program, &op, "%d.%s", layer, role);
    else
        program_emit(b->program, &op, "%s", role);
}

void build_linear(struct build *b, int layer, const char *role, struct view in, struct view out,
                  struct view residual)
{
    build_linear_scaled(b, layer, role, in, out, residual, 1.0f);
}

void build_linear_scaled(struct build *b, int layer, const char *role, struct view in,
                         struct view out, struct view residual, float scale)
{
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = in,
                                 .out = out,
                                 .residual = residual,
                                 .weight = build_weight(b, layer, role, out.width, in.width),
                                 .bias = build_bias(b, layer, role, out.width),
                                 .scale = scale}};
    if (layer >= 0)
        program_emit(b->program, &op, "%d.%s", layer, role);
    else
        program_emit(b->program, &op, "%s", role);
}

/* Norms of q and k are per head, or over all heads at once: the weight's length says which. */
static uint32_t norm_group(struct build *b, int layer, const char *role, uint32_t width,
                           uint32_t head)
{
    const struct tensor *weight = build_find(b, layer, role, "weight");
    return weight && weight->n_dims == 1 && weight->dims[0] == width ? width : head;
}

/* Rows [first, first + out.width) of a fused matrix of `total`. */
static void linear_rows(struct build *b, int layer, const char *role, uint32_t total,
                        uint32_t first, struct view in, struct view out)
{
    struct op op = {
        .kind = OP_LINEAR,
        .u.linear = {.in = in,
                     .out = out,
                     .residual = VIEW_NONE,
                     .weight = build_weight_rows(b, layer, role, total, first, out.width, in.width),
                     .bias = build_bias_rows(b, layer, role, total, first, out.width),
                     .scale = 1.0f}};
    program_emit(b->program, &op, "%d.%s", layer, role);
}

void build_take(struct build *b, int layer, const char *label, struct view from, uint32_t heads,
                uint32_t column, struct view to)
{
    if (heads == 0)
        return; /* an error is recorded */
    struct op op = {.kind = OP_HEADS,
                    .u.heads = {.in = from,
                                .out = to,
                                .weight = NO_WEIGHT,
                                .n_heads = heads,
                                .in_column = column,
                                .in_width = to.width / heads,
                                .out_width = to.width / heads}};
    if (layer >= 0)
        program_emit(b->program, &op, "%d.%s", layer, label);
    else
        program_emit(b->program, &op, "%s", label);
}

static void build_qkv(struct build *b, uint32_t index, struct view in, struct view q, struct view k,
                      struct view v, bool by_head)
{
    int l = (int)index;
    uint32_t heads = b->h.layers[index].n_heads, total = q.width + k.width + v.width;
    if (!build_exists(b, l, "attn_qkv")) {
        build_linear(b, l, "attn_q", in, q, VIEW_NONE);
        build_linear(b, l, "attn_k", in, k, VIEW_NONE);
        build_linear(b, l, "attn_v", in, v, VIEW_NONE);
    } else if (by_head) {
        struct view all = shared(b, &b->qkv, "qkv", total);
        build_linear(b, l, "attn_qkv", in, all, VIEW_NONE);
        build_take(b, l, "attn_part", all, heads, 0, q);
        build_take(b, l, "attn_part", all, heads, q.width / heads, k);
        build_take(b, l, "attn_part", all, heads, (q.width + k.width) / heads, v);
    } else {
        linear_rows(b, l, "attn_qkv", total, 0, in, q);
        linear_rows(b, l, "attn_qkv", total, q.width, in, k);
        linear_rows(b, l, "attn_qkv", total, q.width + k.width, in, v);
    }
}

static void build_qk_norms(struct build *b, int l, struct view q, struct view k, float offset)
{
    uint32_t head = b->h.head_dim;
    build_norm(b, l, "attn_q_norm", q, q, norm_group(b, l, "attn_q_norm", q.width, head), offset);
    build_norm(b, l, "attn_k_norm", k, k, norm_group(b, l, "attn_k_norm", k.width, head), offset);
}

/* k and v VIEW_NONE: only turns the heads of q. */
static void build_rope_kv(struct build *b, uint32_t index, struct view q, struct view k,
                          struct view v, bool turn)
{
    const struct layer *layer = &b->h.layers[index];
    struct op op = {
        .kind = OP_ROPE_KV,
        .u.rope_kv = {.q = q,
                      .k = k,
                      .v = v,
                      .n_heads = b->h.head_dim ? q.width / b->h.head_dim : 0,
                      .group = layer->group,
                      .layer = layer->group_layer,
                      .style = !turn || layer->freqs == NO_WEIGHT ? ROPE_NONE : b->rope_style,
                      .rope_dims = b->h.rope_dims,
                      .freqs = layer->freqs,
                      .magnitude = build_rope_magnitude(b, layer->freqs)}};
    program_emit(b->program, &op, "%d.rope_kv", (int)index);
}

static void build_scores(struct build *b, uint32_t index, struct view q, struct view attn,
                         const struct attention_options *options)
{
    const struct layer *layer = &b->h.layers[index];
    int l = (int)index;
    float scale = options->scale != 0.0f ? options->scale : 1.0f / sqrtf((float)b->h.head_dim);
    struct op op = {
        .kind = OP_ATTENTION,
        .u.attention = {.q = q,
                        .out = attn,
                        .n_heads = layer->n_heads,
                        .group = layer->group,
                        .layer = layer->group_layer,
                        .window = layer->window,
                        .ahead = options->both_ways && layer->window ? layer->window - 1 : 0,
                        .scale = scale,
                        .softcap = options->softcap,
                        .sinks = build_exists(b, l, "attn_sinks")
                                     ? build_vector(b, l, "attn_sinks", layer->n_heads)
                                     : NO_WEIGHT}};
    program_emit(b->program, &op, "%d.attention", l);
}

void build_attention_core(struct build *b, uint32_t index, struct view q, struct view k,
                          struct view v, struct view out, const struct attention_options *options)
{
    if (options->norms_last) {
        build_rope_kv(b, index, q, VIEW_NONE, VIEW_NONE, true);
        build_rope_kv(b, index, k, VIEW_NONE, VIEW_NONE, true);
    }
    if (options->head_norms)
        build_qk_norms(b, (int)index, q, k, options->weight_offset);
    build_rope_kv(b, index, q, k, v, !options->norms_last);
    build_scores(b, index, q, out, options);
    if (build_exists(b, (int)index, "attn_sub_norm"))
        build_norm(b, (int)index, "attn_sub_norm", out, out, out.width, 0.0f);
}

void build_attention(struct build *b, uint32_t index, struct view in, struct view out,
                     struct view residual, const struct attention_options *options)
{
    const struct layer *layer = &b->h.layers[index];
    uint32_t head = b->h.head_dim, v_head = b->h.v_head_dim;
    struct view q = shared(b, &b->q, "q", layer->n_heads * head);
    struct view k = shared(b, &b->k, "k", layer->n_kv_heads * head);
    struct view v = shared(b, &b->v, "v", layer->n_kv_heads * v_head);
    struct view attn = shared(b, &b->attn, "attn", layer->n_heads * v_head);
    build_qkv(b, index, in, q, k, v, options->qkv_by_head);
    build_attention_core(b, index, q, k, v, attn, options);
    build_linear_scaled(b, (int)index, "attn_output", attn, out, residual, b->h.residual_scale);
}

/* ---- feed-forward ----------------------------------------------------------------------------- */

/* Gate and up by their roles, or both in one matrix of twice the rows, gate first. */
static void build_gated(struct build *b, int l, struct view in, struct view ff, const char *gate,
                        const char *up)
{
    uint32_t n = ff.width, total = 2 * n;
    const struct tensor *both = build_find(b, l, up, "weight");
    bool fused = both && both->n_dims == 2 && both->dims[0] == 2 * (uint64_t)n;
    struct op op = {.kind = OP_GATED, .u.gated = {.in = in, .out = ff, .act = b->h.act}};
    struct op_gated *o = &op.u.gated;
    if (fused) {
        o->gate = build_weight_rows(b, l, up, total, 0, n, in.width);
        o->up = build_weight_rows(b, l, up, total, n, n, in.width);
        o->gate_bias = build_bias_rows(b, l, up, total, 0, n);
        o->up_bias = build_bias_rows(b, l, up, total, n, n);
    } else {
        o->gate = build_weight(b, l, gate, n, in.width);
        o->up = build_weight(b, l, up, n, in.width);
        o->gate_bias = build_bias(b, l, gate, n);
        o->up_bias = build_bias(b, l, up, n);
    }
    program_emit(b->program, &op, "%d.%s", l, up);
}

static void build_plain_up(struct build *b, uint32_t index, struct view in, struct view ff)
{
    int l = (int)index;
    bool apart = b->h.act == ACT_XIELU;
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = in,
                                 .out = ff,
                                 .residual = VIEW_NONE,
                                 .weight = build_weight(b, l, "ffn_up", ff.width, in.width),
                                 .bias = build_bias(b, l, "ffn_up", ff.width),
                                 .act = apart ? ACT_NONE : b->h.act,
                                 .scale = 1.0f}};
    program_emit(b->program, &op, "%d.ffn_up", l);
    if (!apart)
        return;
    op = (struct op){.kind = OP_ACTIVATE, .u.activate = {.in = ff, .out = ff, .act = b->h.act}};
    memcpy(op.u.activate.parameters, b->h.layers[index].xielu, sizeof op.u.activate.parameters);
    program_emit(b->program, &op, "%d.ffn_act", l);
}

void build_ffn(struct build *b, uint32_t index, struct view in, struct view out,
               struct view residual)
{
    int l = (int)index;
    struct view ff = shared(b, &b->ff, "ff", b->h.n_ff);
    const struct tensor *up = build_find(b, l, "ffn_up", "weight");
    bool fused = up && up->n_dims == 2 && up->dims[0] == 2 * (uint64_t)ff.width;
    if (fused || build_exists(b, l, "ffn_gate"))
        build_gated(b, l, in, ff, "ffn_gate", "ffn_up");
    else
        build_plain_up(b, index, in, ff);
    if (build_exists(b, l, "ffn_sub_norm"))
        build_norm(b, l, "ffn_sub_norm", ff, ff, ff.width, 0.0f);
    build_linear_scaled(b, l, "ffn_down", ff, out, residual, b->h.residual_scale);
}

/* ---- experts ---------------------------------------------------------------------------------- */

static void build_route(struct build *b, int l, struct view in, struct view route,
                        const struct moe_options *options)
{
    const struct hyper *h = &b->h;
    const char *bias = build_find(b, l, "exp_probs_b", "bias") ? "bias" : "weight";
    struct op op = {
        .kind = OP_ROUTE,
        .u.route = {.in = in,
                    .out = route,
                    .weight = build_weight(b, l, "ffn_gate_inp", h->n_experts, in.width),
                    .bias = build_bias(b, l, "ffn_gate_inp", h->n_experts),
                    .score_bias = NO_WEIGHT,
                    .score = options->score,
                    .n_experts = h->n_experts,
                    .k = h->n_experts_used,
                    .normalise = options->normalise,
                    .least_sum = options->least_sum,
                    .added_sum = options->added_sum,
                    .scale = (options->scale != 0.0f ? options->scale : 1.0f) * h->residual_scale,
                    .n_groups = options->n_groups,
                    .k_groups = options->k_groups,
                    .group_best = options->group_best}};
    if (build_find(b, l, "exp_probs_b", bias))
        op.u.route.score_bias = build_values(b, l, "exp_probs_b", bias, h->n_experts);
    program_emit(b->program, &op, "%d.route", l);
}

static void bind_experts(struct build *b, int l, struct op_experts *o, bool columns)
{
    uint32_t ff = b->h.expert_ff, in = o->in.width, out = o->out.width;
    if (columns) {
        o->gate = build_experts_columns(b, l, "ffn_gate_up_exps", 0, 2, ff, in);
        o->up = build_experts_columns(b, l, "ffn_gate_up_exps", 1, 2, ff, in);
        o->down = build_experts_columns(b, l, "ffn_down_exps", 0, 1, out, ff);
        o->gate_bias = build_experts_bias(b, l, "ffn_gate_up_exps", 0, 2, ff);
        o->up_bias = build_experts_bias(b, l, "ffn_gate_up_exps", 1, 2, ff);
    } else {
        o->gate = build_experts_stack(b, l, "ffn_gate_exps", ff, in);
        o->up = build_experts_stack(b, l, "ffn_up_exps", ff, in);
        o->down = build_experts_stack(b, l, "ffn_down_exps", out, ff);
        o->gate_bias = build_experts_bias(b, l, "ffn_gate_exps", 0, 1, ff);
        o->up_bias = build_experts_bias(b, l, "ffn_up_exps", 0, 1, ff);
    }
    o->down_bias = build_experts_bias(b, l, "ffn_down_exps", 0, 1, out);
}

/* The expert of every row, up to its hidden values, and its gate: `in` may be overwritten later. */
static void build_shared_hidden(struct build *b, int l, struct view in, uint32_t width)
{
    build_gated(b, l, in, shared(b, &b->shared_ff, "shared_ff", width), "ffn_gate_shexp",
                "ffn_up_shexp");
    if (build_exists(b, l, "ffn_gate_inp_shexp"))
        build_linear(b, l, "ffn_gate_inp_shexp", in, shared(b, &b->shared_gate, "shared_gate", 1),
                     VIEW_NONE);
}

/* out += the shared expert, times sigmoid of its gate if it has one. */
static void build_shared_out(struct build *b, int l, struct view out, uint32_t width)
{
    struct view ff = shared(b, &b->shared_ff, "shared_ff", width);
    if (!build_exists(b, l, "ffn_gate_inp_shexp")) {
        build_linear_scaled(b, l, "ffn_down_shexp", ff, out, out, b->h.residual_scale);
        return;
    }
    struct view value = shared(b, &b->shared_out, "shared_out", out.width);
    build_linear(b, l, "ffn_down_shexp", ff, value, VIEW_NONE);
    struct op gate = {.kind = OP_MUL,
                      .u.mul = {.a = shared(b, &b->shared_gate, "shared_gate", 1),
                                .b = value,
                                .out = value,
                                .act = ACT_SIGMOID}};
    program_emit(b->program, &gate, "%d.shared_scale", l);
    struct op add = {.kind = OP_ADD,
                     .u.add = {.a = out, .b = value, .out = out, .scale = b->h.residual_scale}};
    program_emit(b->program, &add, "%d.shared_add", l);
}

void build_moe(struct build *b, uint32_t index, struct view in, struct view out,
               struct view residual, const struct moe_options *options)
{
    int l = (int)index;
    const struct hyper *h = &b->h;
    if (!h->n_experts || !h->n_experts_used || !h->expert_ff) {
        program_fail(b->program, STATUS_MODEL, "layer %d has a router, but %s", l,
                     b->gguf ? "expert_count, expert_used_count or expert_feed_forward_length is 0"
                             : "config.json has no number of experts (num_experts), of those that "
                               "a token uses, or no moe_intermediate_size");
        return;
    }
    struct view route = shared(b, &b->route, "route", 2 * h->n_experts_used);
    struct view hidden =
        shared(b, &b->expert_hidden, "expert_hidden", h->n_experts_used * h->expert_ff);
    build_route(b, l, in, route, options);
    if (options->shared_ff)
        build_shared_hidden(b, l, in, options->shared_ff);
    struct op op = {.kind = OP_EXPERTS,
                    .u.experts = {.in = in,
                                  .route = route,
                                  .hidden = hidden,
                                  .out = out,
                                  .residual = residual,
                                  .act = h->act,
                                  .k = h->n_experts_used}};
    bind_experts(b, l, &op.u.experts, options->columns);
    program_emit(b->program, &op, "%d.experts", l);
    if (options->shared_ff)
        build_shared_out(b, l, out, options->shared_ff);
}

void build_head(struct build *b, const struct head_options *options)
{
    struct program *p = b->program;
    p->hidden = program_buffer(p, "hidden", b->h.width, ROWS_OUTPUT);
    int32_t last =
        options->no_norm ? p->hidden : program_buffer(p, "out_x", b->h.width, ROWS_OUTPUT);
    struct op select = {.kind = OP_SELECT,
                        .u.select = {.in = build_x(b), .out = program_view(p, last)}};
    program_emit(p, &select, "select");
    if (!options->no_norm)
        build_norm(b, -1, options->norm_role ? options->norm_role : "output_norm",
                   program_view(p, last), program_view(p, p->hidden), b->h.width,
                   options->weight_offset);
    if (options->embedding_only)
        return;
    p->logits = program_buffer(p, "logits", b->h.n_vocab, ROWS_OUTPUT);
    const char *role = build_exists(b, -1, "output") ? "output" : "token_embd";
    struct op op = {.kind = OP_LOGITS,
                    .u.logits = {.in = program_view(p, p->hidden),
                                 .out = program_view(p, p->logits),
                                 .weight = build_table(b, role, b->h.n_vocab, b->h.width),
                                 .bias = build_bias(b, -1, "output", b->h.n_vocab),
                                 .scale = options->scale != 0.0f ? options->scale : 1.0f,
                                 .softcap = options->softcap}};
    program_emit(p, &op, "logits");
}
