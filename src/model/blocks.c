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
    for (uint32_t i = 0; i < p->n_groups; i++) {
        struct state_group *g = &p->groups[i];
        if (g->kind == GROUP_KV && g->window == layer->window && g->n_kv_heads == layer->n_kv_heads)
            return i;
    }
    struct state_group group = {
        .name = layer->window ? "kv.window" : "kv",
        .kind = GROUP_KV,
        .window = layer->window,
        .n_kv_heads = layer->n_kv_heads,
        .k_head_dim = b->h.head_dim,
        .v_head_dim = b->h.v_head_dim,
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

void build_norm(struct build *b, int layer, const char *role, struct view in, struct view out,
                uint32_t group, float weight_offset)
{
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = in,
                               .out = out,
                               .kind = NORM_RMS,
                               .group = group,
                               .weight = build_vector(b, layer, role, group),
                               .bias = NO_WEIGHT,
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
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = in,
                                 .out = out,
                                 .residual = residual,
                                 .weight = build_weight(b, layer, role, out.width, in.width),
                                 .bias = build_bias(b, layer, role, out.width),
                                 .scale = 1.0f}};
    program_emit(b->program, &op, "%d.%s", layer, role);
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
    int l = (int)index;
    build_linear(b, l, "attn_q", in, q, VIEW_NONE);
    build_linear(b, l, "attn_k", in, k, VIEW_NONE);
    build_linear(b, l, "attn_v", in, v, VIEW_NONE);
    if (options->head_norms) {
        build_norm(b, l, "attn_q_norm", q, q, head, options->weight_offset);
        build_norm(b, l, "attn_k_norm", k, k, head, options->weight_offset);
    }
    struct op rope = {.kind = OP_ROPE_KV,
                      .u.rope_kv = {.q = q,
                                    .k = k,
                                    .v = v,
                                    .n_heads = layer->n_heads,
                                    .group = layer->group,
                                    .layer = layer->group_layer,
                                    .style = layer->freqs == NO_WEIGHT ? ROPE_NONE : b->rope_style,
                                    .rope_dims = b->h.rope_dims,
                                    .freqs = layer->freqs,
                                    .magnitude = 1.0f}};
    program_emit(b->program, &rope, "%d.rope_kv", l);
    struct op op = {.kind = OP_ATTENTION,
                    .u.attention = {.q = q,
                                    .out = attn,
                                    .n_heads = layer->n_heads,
                                    .group = layer->group,
                                    .layer = layer->group_layer,
                                    .window = layer->window,
                                    .scale = options->scale != 0.0f ? options->scale
                                                                    : 1.0f / sqrtf((float)head),
                                    .sinks = NO_WEIGHT}};
    program_emit(b->program, &op, "%d.attention", l);
    build_linear(b, l, "attn_output", attn, out, residual);
}

void build_ffn(struct build *b, uint32_t index, struct view in, struct view out,
               struct view residual)
{
    int l = (int)index;
    struct view ff = shared(b, &b->ff, "ff", b->h.n_ff);
    struct op op = {.kind = OP_GATED,
                    .u.gated = {.in = in,
                                .out = ff,
                                .gate = build_weight(b, l, "ffn_gate", ff.width, in.width),
                                .up = build_weight(b, l, "ffn_up", ff.width, in.width),
                                .gate_bias = build_bias(b, l, "ffn_gate", ff.width),
                                .up_bias = build_bias(b, l, "ffn_up", ff.width),
                                .act = b->h.act}};
    program_emit(b->program, &op, "%d.ffn_gate_up", l);
    build_linear(b, l, "ffn_down", ff, out, residual);
}

void build_moe(struct build *b, uint32_t index, struct view in, struct view out,
               struct view residual, const struct moe_options *options)
{
    int l = (int)index;
    const struct hyper *h = &b->h;
    struct view route = shared(b, &b->route, "route", 2 * h->n_experts_used);
    struct view hidden =
        shared(b, &b->expert_hidden, "expert_hidden", h->n_experts_used * h->expert_ff);
    struct op choose = {
        .kind = OP_ROUTE,
        .u.route = {.in = in,
                    .out = route,
                    .weight = build_weight(b, l, "ffn_gate_inp", h->n_experts, in.width),
                    .bias = NO_WEIGHT,
                    .score_bias = NO_WEIGHT,
                    .score = options->score,
                    .n_experts = h->n_experts,
                    .k = h->n_experts_used,
                    .normalise = options->normalise,
                    .scale = 1.0f}};
    program_emit(b->program, &choose, "%d.route", l);
    struct op op = {
        .kind = OP_EXPERTS,
        .u.experts = {.in = in,
                      .route = route,
                      .hidden = hidden,
                      .out = out,
                      .residual = residual,
                      .gate = build_experts_stack(b, l, "ffn_gate_exps", h->expert_ff, in.width),
                      .up = build_experts_stack(b, l, "ffn_up_exps", h->expert_ff, in.width),
                      .down = build_experts_stack(b, l, "ffn_down_exps", out.width, h->expert_ff),
                      .gate_bias = NO_WEIGHT,
                      .up_bias = NO_WEIGHT,
                      .down_bias = NO_WEIGHT,
                      .act = h->act,
                      .k = h->n_experts_used}};
    program_emit(b->program, &op, "%d.experts", l);
}

void build_head(struct build *b, const struct head_options *options)
{
    struct program *p = b->program;
    int32_t last = program_buffer(p, "out_x", b->h.width, ROWS_OUTPUT);
    p->hidden = program_buffer(p, "hidden", b->h.width, ROWS_OUTPUT);
    struct op select = {.kind = OP_SELECT,
                        .u.select = {.in = build_x(b), .out = program_view(p, last)}};
    program_emit(p, &select, "select");
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
                                 .bias = NO_WEIGHT,
                                 .scale = 1.0f,
                                 .softcap = options->softcap}};
    program_emit(p, &op, "logits");
}
