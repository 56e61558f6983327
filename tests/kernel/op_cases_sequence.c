/* Cases of what looks along a sequence: rotation, attention, convolution; and a small model of them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_cases_internal.h"

/* ---- rotation and attention -------------------------------------------------------------------- */

struct attention_shape {
    const char *name;
    uint32_t heads, kv_heads, k_dim, v_dim;
    enum rope_style style;
    uint32_t rope_dims;
    uint32_t window, ahead;
    float softcap;
    bool sinks, span, embeddings;
    uint32_t sections[4];
    float magnitude;
    uint32_t page_tokens;
    uint32_t layers; /* in the group; the case uses the last */
};

static uint32_t shape_group(struct kit *kit, const struct attention_shape *s)
{
    struct state_group group = {.name = "kv",
                                .kind = GROUP_KV,
                                .n_layers = s->layers,
                                .window = s->window,
                                .n_kv_heads = s->kv_heads,
                                .k_head_dim = s->k_dim,
                                .v_head_dim = s->v_dim};
    return program_group(kit->program, &group);
}

static struct op shape_rope(struct kit *kit, const struct attention_shape *s, uint32_t group,
                            struct view rows)
{
    struct op op = {.kind = OP_ROPE_KV};
    struct op_rope_kv *o = &op.u.rope_kv;
    uint32_t q = s->heads * s->k_dim, k = s->kv_heads * s->k_dim, v = s->kv_heads * s->v_dim;
    o->q = view_columns(rows, 0, q);
    o->k = view_columns(rows, q, k);
    o->v = view_columns(rows, q + k, v);
    o->n_heads = s->heads;
    o->group = group;
    o->layer = s->layers - 1;
    o->style = s->style;
    o->rope_dims = s->rope_dims;
    o->freqs = s->style == ROPE_NONE ? NO_WEIGHT : kit_freqs(kit, s->rope_dims / 2, 100.0f);
    o->magnitude = s->magnitude;
    memcpy(o->sections, s->sections, sizeof o->sections);
    return op;
}

static uint32_t shape_width(const struct attention_shape *s)
{
    return s->heads * s->k_dim + s->kv_heads * (s->k_dim + s->v_dim);
}

/* Image rows see each other: a whole span is one slice, between text before and after it. */
static struct script span_script(struct runner *r, uint32_t page_tokens, bool embeddings)
{
    struct script s;
    script_init(&s, r->seed, page_tokens);
    script_add(&s, 0, 0, 2, 0, 3);
    script_add(&s, 0, 0, 2, 3, 11);
    script_last(&s)->mask = MASK_SPAN;
    script_last(&s)->input = embeddings ? INPUT_EMBEDDINGS : INPUT_TOKENS;
    script_add(&s, 0, 0, 2, 14, 5);
    script_add(&s, 0, 1, 4, 0, 9);
    script_last(&s)->mask = MASK_SPAN;
    script_add(&s, 1, 1, 4, 9, 1);
    script_add(&s, 1, 0, 2, 19, 2);
    return s;
}

static void rope_case(struct runner *r, const struct attention_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    kit.program->n_axes = s->sections[0] ? 3 : 1;
    struct view rows = kit_embed(&kit, shape_width(s));
    struct op op = shape_rope(&kit, s, shape_group(&kit, s), rows);
    program_emit(kit.program, &op, "rope");
    kit_select(&kit, rows);
    struct script script = mixed_script(r, s->page_tokens);
    snprintf(name, sizeof name, "rope %s", s->name);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 2}, name);
}

/* Only the queries turn, on top of an earlier append: no K/V is written twice. */
static void rope_q_case(struct runner *r, const struct attention_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    struct view rows = kit_embed(&kit, shape_width(s));
    struct op op = shape_rope(&kit, s, shape_group(&kit, s), rows);
    op.u.rope_kv.k = op.u.rope_kv.v = VIEW_NONE;
    program_emit(kit.program, &op, "rope");
    kit_select(&kit, rows);
    struct script script = mixed_script(r, s->page_tokens);
    snprintf(name, sizeof name, "rope of queries only, %s", s->name);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 2}, name);
}

static void attention_case(struct runner *r, const struct attention_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    kit.program->n_axes = s->sections[0] ? 3 : 1;
    uint32_t group = shape_group(&kit, s);
    struct view rows = kit_embed(&kit, shape_width(s));
    struct op rope = shape_rope(&kit, s, group, rows);
    program_emit(kit.program, &rope, "rope");
    struct op op = {.kind = OP_ATTENTION};
    struct op_attention *o = &op.u.attention;
    o->q = rope.u.rope_kv.q;
    o->out = kit_buffer(&kit, "attended", s->heads * s->v_dim);
    o->n_heads = s->heads;
    o->group = group;
    o->layer = s->layers - 1;
    o->window = s->window;
    o->ahead = s->ahead;
    o->scale = 2.0f / sqrtf((float)s->k_dim);
    o->softcap = s->softcap;
    o->sinks = s->sinks ? kit_vector(&kit, "sinks", TENSOR_F32, s->heads, 1.0f, 0.5f) : NO_WEIGHT;
    program_emit(kit.program, &op, "attention");
    kit_select(&kit, o->out);
    struct script script =
        s->span ? span_script(r, s->page_tokens, s->embeddings) : mixed_script(r, s->page_tokens);
    snprintf(name, sizeof name, "attention %s: %u/%u heads of %u/%u, window %u, pages of %u",
             s->name, s->heads, s->kv_heads, s->k_dim, s->v_dim, s->window, s->page_tokens);
    struct expected expected = {.steps = 5, .reads = 1, .longest_sum = s->k_dim + 72};
    run_case(r, &kit, &script, expected, name);
}

#define HEADS(n, kv, k, v)     .heads = n, .kv_heads = kv, .k_dim = k, .v_dim = v
#define TURNS(how, dims, size) .style = how, .rope_dims = dims, .magnitude = size
#define PAGES(tokens, n)       .page_tokens = tokens, .layers = n

static const struct attention_shape attention_shapes[] = {
    {.name = "smallest", HEADS(1, 1, 2, 1), TURNS(ROPE_HALVES, 2, 1.0f), PAGES(1, 1)},
    {.name = "plain", HEADS(4, 4, 32, 32), TURNS(ROPE_HALVES, 32, 1.0f), PAGES(16, 2)},
    {.name = "grouped, pairs", HEADS(6, 2, 64, 64), TURNS(ROPE_PAIRS, 64, 1.0f), PAGES(8, 1)},
    {.name = "one key head, partial",
     HEADS(5, 1, 24, 40),
     TURNS(ROPE_HALVES, 10, 1.25f),
     PAGES(4, 3)},
    {.name = "partial pairs", HEADS(2, 2, 18, 14), TURNS(ROPE_PAIRS, 6, 0.5f), PAGES(48, 1)},
    {.name = "no rotation", HEADS(3, 3, 20, 20), TURNS(ROPE_NONE, 0, 1.0f), PAGES(2, 1)},
    {.name = "window", HEADS(4, 2, 32, 32), TURNS(ROPE_HALVES, 32, 1.0f), PAGES(4, 2), .window = 9},
    {.name = "window of one",
     HEADS(2, 1, 16, 16),
     TURNS(ROPE_HALVES, 16, 1.0f),
     PAGES(2, 1),
     .window = 1},
    {.name = "soft cap",
     HEADS(2, 1, 48, 48),
     TURNS(ROPE_HALVES, 48, 1.0f),
     PAGES(8, 1),
     .softcap = 1.5f},
    {.name = "sinks, window",
     HEADS(8, 2, 16, 16),
     TURNS(ROPE_HALVES, 16, 1.0f),
     PAGES(8, 1),
     .window = 20,
     .sinks = true},
    {.name = "long heads", HEADS(2, 1, 256, 256), TURNS(ROPE_HALVES, 256, 1.0f), PAGES(16, 1)},
    {.name = "longer than a tile", HEADS(2, 2, 290, 270), TURNS(ROPE_PAIRS, 64, 1.0f), PAGES(4, 1)},
    {.name = "image axes",
     HEADS(2, 1, 32, 32),
     TURNS(ROPE_HALVES, 32, 1.0f),
     PAGES(8, 1),
     .sections = {4, 6, 6}},
};
#define N_ATTENTION_SHAPES (sizeof attention_shapes / sizeof *attention_shapes)

static const struct attention_shape span_shapes[] = {
    {.name = "span", HEADS(4, 2, 32, 32), TURNS(ROPE_HALVES, 32, 1.0f), PAGES(4, 1), .span = true},
    {.name = "span, window, embedding rows",
     HEADS(2, 2, 24, 24),
     TURNS(ROPE_HALVES, 24, 1.0f),
     PAGES(8, 2),
     .window = 16,
     .span = true,
     .embeddings = true},
    {.name = "span, window both ways",
     HEADS(4, 4, 16, 16),
     TURNS(ROPE_HALVES, 16, 1.0f),
     PAGES(4, 1),
     .window = 5,
     .ahead = 4,
     .span = true},
};

void sequence_cases(struct runner *r)
{
    begin_op(r, "rope");
    for (size_t i = 0; i < N_ATTENTION_SHAPES; i++)
        rope_case(r, &attention_shapes[i]);
    rope_q_case(r, &attention_shapes[1]);
    rope_q_case(r, &attention_shapes[2]);
    end_op(r);
    begin_op(r, "attention");
    for (size_t i = 0; i < N_ATTENTION_SHAPES; i++)
        attention_case(r, &attention_shapes[i]);
    for (size_t i = 0; i < sizeof span_shapes / sizeof *span_shapes; i++)
        attention_case(r, &span_shapes[i]);
    end_op(r);
}

/* ---- convolution ------------------------------------------------------------------------------- */

static void conv_case(struct runner *r, uint32_t width, uint32_t taps, enum tensor_type type,
                      bool bias, enum activation act, uint32_t layers, bool in_place)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    struct state_group group = {.name = "conv",
                                .kind = GROUP_RECURRENT,
                                .n_layers = layers,
                                .state_floats = (taps - 1) * width};
    struct op op = {.kind = OP_CONV};
    struct op_conv *o = &op.u.conv;
    o->in = kit_embed(&kit, width);
    o->out = in_place ? o->in : kit_buffer(&kit, "out", width);
    o->weight = kit_matrix(&kit, "w", type, 1, width, taps, 1.0f);
    o->bias = bias ? kit_vector(&kit, "b", TENSOR_F32, width, 0.0f, 0.5f) : NO_WEIGHT;
    o->taps = taps;
    o->group = program_group(kit.program, &group);
    o->layer = layers - 1;
    o->act = act;
    program_emit(kit.program, &op, "conv");
    kit_select(&kit, o->out);
    struct script script = mixed_script(r, 8);
    snprintf(name, sizeof name, "conv %s width %u taps %u layers %u%s%s", tensor_type_name(type),
             width, taps, layers, bias ? ", bias" : "", in_place ? ", in place" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = taps}, name);
}

void conv_cases(struct runner *r)
{
    begin_op(r, "conv");
    conv_case(r, 1, 2, TENSOR_F32, false, ACT_NONE, 1, false);
    conv_case(r, 33, 3, TENSOR_F32, false, ACT_NONE, 5, false);
    conv_case(r, 48, 3, TENSOR_BF16, true, ACT_SILU, 2, true);
    conv_case(r, 130, 4, TENSOR_F16, true, ACT_NONE, 3, false);
    conv_case(r, 7, 9, TENSOR_F32, false, ACT_SILU, 1, true);
    end_op(r);
}

/* ---- together ---------------------------------------------------------------------------------- */

/* Two layers of a small transformer whose second layer sees a window, with convolution between:
 * groups of unlike page sizes in one pool, buffers that share memory, outputs in a second norm. */
static struct view layer(struct kit *kit, struct view rows, const struct attention_shape *s)
{
    uint32_t width = rows.width;
    struct view normed = kit_buffer(kit, "normed", width);
    struct view qkv = kit_buffer(kit, "qkv", shape_width(s));
    struct op op = {.kind = OP_NORM};
    op.u.norm = (struct op_norm){.in = rows, .out = normed, .group = width, .eps = 1e-6f};
    op.u.norm.weight = kit_vector(kit, "norm", TENSOR_F32, width, 1.0f, 0.2f);
    op.u.norm.bias = NO_WEIGHT;
    program_emit(kit->program, &op, "norm");
    op = (struct op){.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = normed, .out = qkv, .residual = VIEW_NONE};
    op.u.linear.weight =
        kit_matrix(kit, "qkv", TENSOR_BF16, 1, qkv.width, width, 2.0f / sqrtf((float)width));
    op.u.linear.bias = NO_WEIGHT;
    op.u.linear.scale = 1.0f;
    program_emit(kit->program, &op, "qkv");
    uint32_t group = shape_group(kit, s);
    op = shape_rope(kit, s, group, qkv);
    struct view q = op.u.rope_kv.q;
    program_emit(kit->program, &op, "rope");
    struct view attended = kit_buffer(kit, "attended", s->heads * s->v_dim);
    op = (struct op){.kind = OP_ATTENTION};
    op.u.attention = (struct op_attention){.q = q,
                                           .out = attended,
                                           .n_heads = s->heads,
                                           .group = group,
                                           .layer = s->layers - 1,
                                           .window = s->window,
                                           .scale = 1.0f / sqrtf((float)s->k_dim),
                                           .sinks = NO_WEIGHT};
    program_emit(kit->program, &op, "attention");
    op = (struct op){.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = attended, .out = rows, .residual = rows};
    op.u.linear.weight = kit_matrix(kit, "o", TENSOR_F16, 1, width, attended.width,
                                    2.0f / sqrtf((float)attended.width));
    op.u.linear.bias = NO_WEIGHT;
    op.u.linear.scale = 1.0f;
    program_emit(kit->program, &op, "o");
    return rows;
}

static void conv_between(struct kit *kit, struct view rows)
{
    struct state_group group = {
        .name = "conv", .kind = GROUP_RECURRENT, .n_layers = 1, .state_floats = 2 * rows.width};
    struct view mixed = kit_buffer(kit, "mixed", rows.width);
    struct op op = {.kind = OP_CONV};
    op.u.conv = (struct op_conv){.in = rows, .out = mixed, .bias = NO_WEIGHT, .taps = 3};
    op.u.conv.weight = kit_matrix(kit, "conv", TENSOR_F32, 1, rows.width, 3, 1.0f);
    op.u.conv.group = program_group(kit->program, &group);
    program_emit(kit->program, &op, "conv");
    op = (struct op){.kind = OP_ADD};
    op.u.add = (struct op_add){rows, mixed, rows, 0.5f};
    program_emit(kit->program, &op, "add");
}

void op_cases_build_model(struct kit *kit)
{
    static const struct attention_shape first = {.heads = 4,
                                                 .kv_heads = 2,
                                                 .k_dim = 24,
                                                 .v_dim = 24,
                                                 .style = ROPE_HALVES,
                                                 .rope_dims = 24,
                                                 .magnitude = 1.0f,
                                                 .layers = 1};
    static const struct attention_shape second = {.heads = 3,
                                                  .kv_heads = 1,
                                                  .k_dim = 32,
                                                  .v_dim = 32,
                                                  .style = ROPE_PAIRS,
                                                  .rope_dims = 8,
                                                  .window = 11,
                                                  .magnitude = 1.0f,
                                                  .layers = 2};
    struct view rows = kit_embed(kit, 60);
    rows = layer(kit, rows, &first);
    conv_between(kit, rows);
    rows = layer(kit, rows, &second);
    struct view ffn = kit_buffer(kit, "ffn", 96);
    struct op op = {.kind = OP_GATED};
    op.u.gated = (struct op_gated){.in = rows, .out = ffn, .act = ACT_SILU};
    op.u.gated.gate = kit_matrix(kit, "gate", TENSOR_F32, 1, 96, 60, 0.3f);
    op.u.gated.up = kit_matrix(kit, "up", TENSOR_F32, 1, 96, 60, 0.3f);
    op.u.gated.gate_bias = op.u.gated.up_bias = NO_WEIGHT;
    program_emit(kit->program, &op, "gated");
    op = (struct op){.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = ffn, .out = rows, .residual = rows, .scale = 1.0f};
    op.u.linear.weight = kit_matrix(kit, "down", TENSOR_Q8_0, 1, 60, 96, 0.3f);
    op.u.linear.bias = NO_WEIGHT;
    program_emit(kit->program, &op, "down");
    struct view selected = kit_select(kit, rows);
    op = (struct op){.kind = OP_NORM};
    op.u.norm = (struct op_norm){.in = selected, .out = selected, .group = 60, .eps = 1e-6f};
    op.u.norm.weight = kit_vector(kit, "norm", TENSOR_F32, 60, 0.5f, 0.2f);
    op.u.norm.bias = NO_WEIGHT;
    op.u.norm.weight_offset = 1.0f;
    program_emit(kit->program, &op, "norm");
    op = (struct op){.kind = OP_LOGITS};
    kit->program->logits = program_buffer(kit->program, "logits", VOCABULARY, ROWS_OUTPUT);
    op.u.logits.in = selected;
    op.u.logits.out = program_view(kit->program, kit->program->logits);
    op.u.logits.weight = kit_matrix(kit, "head", TENSOR_BF16, 1, VOCABULARY, 60, 0.5f);
    op.u.logits.bias = NO_WEIGHT;
    op.u.logits.scale = 1.0f;
    program_emit(kit->program, &op, "logits");
}

void model_cases(struct runner *r)
{
    begin_op(r, "model");
    for (uint32_t page = 2; page <= 32; page *= 4) {
        struct kit kit;
        char name[64];
        start(r, &kit);
        op_cases_build_model(&kit);
        struct script script = mixed_script(r, page);
        snprintf(name, sizeof name, "model of two layers, pages of %u", page);
        run_case(r, &kit, &script, (struct expected){.steps = 24, .reads = 2, .longest_sum = 128},
                 name);
    }
    end_op(r);
}
