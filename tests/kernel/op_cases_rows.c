/* Cases of what works row by row: embeddings, positions, norms, sums, products, activations; and of the
 * matrices that most of a model is. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_cases_internal.h"

/* ---- embed, norm, elementwise ------------------------------------------------------------------ */

static void embed_case(struct runner *r, enum tensor_type type, uint32_t width, uint8_t input)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    struct op op = {.kind = OP_EMBED};
    kit.width = whole_blocks(type, width);
    op.u.embed.out = kit_buffer(&kit, "embedded", kit.width);
    op.u.embed.table = kit_table(&kit, type, kit.width);
    op.u.embed.scale = 1.75f;
    program_emit(kit.program, &op, "embed");
    kit_select(&kit, op.u.embed.out);
    struct script script = rows_script(r, 9);
    script_add(&script, 0, 1, 1, 0, 4);
    script_last(&script)->input = input;
    snprintf(name, sizeof name, "embed %s width %u %s", tensor_type_name(type), kit.width,
             input == INPUT_EMBEDDINGS ? "with embedding rows" : "tokens");
    run_case(r, &kit, &script, (struct expected){.steps = 1, .longest_sum = 1}, name);
}

void embed_cases(struct runner *r)
{
    begin_op(r, "embed");
    for (size_t i = 0; i < N_WEIGHT_TYPES; i++) {
        embed_case(r, weight_types[i], 1, INPUT_TOKENS);
        embed_case(r, weight_types[i], 77, INPUT_EMBEDDINGS);
    }
    uint64_t seed = r->seed; /* cases that follow draw the same numbers with and without these */
    for (size_t i = 0; i < N_RARE_TYPES && r->config->all_types; i++)
        embed_case(r, rare_types[i], 300, INPUT_TOKENS);
    r->seed = seed;
    end_op(r);
}

struct norm_shape {
    enum norm_kind kind;
    uint32_t width, group, weight, bias; /* lengths; 0: absent */
    float offset;
    uint32_t rows;
    bool in_place;
};

static void norm_case(struct runner *r, const struct norm_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    struct op op = {.kind = OP_NORM};
    struct op_norm *o = &op.u.norm;
    o->in = kit_embed(&kit, s->width);
    o->out = s->in_place ? o->in : kit_buffer(&kit, "normed", s->width);
    o->kind = s->kind;
    o->group = s->group;
    o->weight = s->weight ? kit_vector(&kit, "w", TENSOR_F32, s->weight, 1.0f, 0.5f) : NO_WEIGHT;
    o->bias = s->bias ? kit_vector(&kit, "b", TENSOR_BF16, s->bias, 0.0f, 0.5f) : NO_WEIGHT;
    o->weight_offset = s->offset;
    o->eps = 1e-5f;
    program_emit(kit.program, &op, "norm");
    kit_select(&kit, o->out);
    struct script script = rows_script(r, s->rows);
    snprintf(name, sizeof name,
             "norm %s %u in groups of %u, weight %u, bias %u, offset %g, rows %u",
             s->kind == NORM_RMS ? "rms" : "layer", s->width, s->group, s->weight, s->bias,
             (double)s->offset, s->rows);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = s->group}, name);
}

void norm_cases(struct runner *r)
{
    static const struct norm_shape shapes[] = {
        {NORM_RMS, 1, 1, 1, 0, 0.0f, 1, false},
        {NORM_RMS, 5, 5, 0, 0, 0.0f, 3, false},
        {NORM_RMS, 300, 300, 300, 0, 0.0f, 7, true},
        {NORM_RMS, 333, 333, 333, 0, 1.0f, 1, false},
        {NORM_RMS, 96, 24, 24, 0, 0.0f, 5, true},
        {NORM_RMS, 96, 24, 96, 0, 1.0f, 5, false},
        {NORM_RMS, 130, 13, 13, 0, 0.0f, 70, true},
        {NORM_LAYER, 2, 2, 2, 2, 0.0f, 4, false},
        {NORM_LAYER, 257, 257, 257, 257, 0.0f, 6, false},
        {NORM_LAYER, 96, 32, 32, 96, 0.0f, 3, true},
        {NORM_LAYER, 1030, 1030, 0, 0, 0.0f, 2, false},
    };
    begin_op(r, "norm");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        norm_case(r, &shapes[i]);
    end_op(r);
}

/* a and b: halves of the embedded row; mul: act(a) * b, add: a + b * scale. */
static void pair_case(struct runner *r, enum op_kind kind, enum activation act, uint32_t width,
                      uint32_t rows, bool in_place)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    struct op op = {.kind = kind};
    struct view whole = kit_embed(&kit, 2 * width + 3);
    struct view a = view_columns(whole, 1, width), b = view_columns(whole, width + 2, width);
    struct view out = in_place ? b : kit_buffer(&kit, "out", width);
    if (kind == OP_ADD)
        op.u.add = (struct op_add){a, b, out, -0.75f};
    else
        op.u.mul = (struct op_mul){a, b, out, act};
    program_emit(kit.program, &op, "pair");
    kit_select(&kit, out);
    struct script script = rows_script(r, rows);
    snprintf(name, sizeof name, "%s activation %d width %u rows %u", op_kind_name(kind), (int)act,
             width, rows);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 1}, name);
}

static void activate_case(struct runner *r, enum activation act, uint32_t width, uint32_t rows,
                          bool in_place)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    struct op op = {.kind = OP_ACTIVATE};
    struct view in = kit_embed(&kit, width);
    op.u.activate = (struct op_activate){.in = in,
                                         .out = in_place ? in : kit_buffer(&kit, "out", width),
                                         .act = act,
                                         .parameters = {0.7f, 1.3f, 0.5f, -1e-6f}};
    program_emit(kit.program, &op, "activate");
    kit_select(&kit, op.u.activate.out);
    struct script script = rows_script(r, rows);
    snprintf(name, sizeof name, "activation %d width %u rows %u", (int)act, width, rows);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 1}, name);
}

/* Learned positions from `offset` on, a bias, or both. */
static void position_case(struct runner *r, enum tensor_type type, uint32_t width, uint32_t offset,
                          bool table, bool bias)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    struct op op = {.kind = OP_POSITION};
    struct op_position *o = &op.u.position;
    o->in = o->out = kit_embed(&kit, width);
    o->offset = offset;
    o->skip = -1;
    o->table =
        table ? kit_matrix(&kit, "positions", type, 1, offset + kit.program->n_context, width, 1.0f)
              : NO_WEIGHT;
    o->bias = bias ? kit_vector(&kit, "b", TENSOR_F32, width, 0.0f, 1.0f) : NO_WEIGHT;
    program_emit(kit.program, &op, "position");
    kit_select(&kit, o->out);
    struct script script = mixed_script(r, 8);
    snprintf(name, sizeof name, "position %s width %u offset %u%s%s", tensor_type_name(type), width,
             offset, table ? ", table" : "", bias ? ", bias" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 1}, name);
}

/* Some tokens are not counted: whole sequences, which see both ways. */
static void position_skip_case(struct runner *r)
{
    struct kit kit;
    start(r, &kit);
    kit.program->bidirectional = true;
    kit.program->row_alignment = kit.program->n_context;
    struct script script;
    script_init(&script, r->seed, 8);
    script_add(&script, 0, 0, 3, 0, 23);
    script_last(&script)->mask = MASK_SPAN;
    script_add(&script, 0, 1, 1, 0, 7);
    script_last(&script)->mask = MASK_SPAN;
    struct op op = {.kind = OP_POSITION};
    struct op_position *o = &op.u.position;
    o->in = o->out = kit_embed(&kit, 19);
    o->offset = 2;
    o->skip = script_token(&script, 0, 3, VOCABULARY);
    o->table = kit_matrix(&kit, "positions", TENSOR_F32, 1, 2 + kit.program->n_context, 19, 1.0f);
    o->bias = NO_WEIGHT;
    program_emit(kit.program, &op, "position");
    kit_select(&kit, o->out);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 1},
             "position with uncounted tokens");
}

void row_cases(struct runner *r)
{
    begin_op(r, "activate");
    activate_case(r, ACT_XIELU, 67, 5, true);
    activate_case(r, ACT_XIELU, 1, 1, false);
    activate_case(r, ACT_GELU, 33, 9, false);
    end_op(r);
    begin_op(r, "position");
    position_case(r, TENSOR_F32, 33, 0, true, false);
    position_case(r, TENSOR_BF16, 48, 2, true, true);
    position_case(r, TENSOR_F16, 7, 5, false, true);
    position_case(r, TENSOR_Q8_0, 64, 0, true, false);
    position_skip_case(r);
    end_op(r);
}

void pair_cases(struct runner *r)
{
    begin_op(r, "add");
    pair_case(r, OP_ADD, ACT_NONE, 1, 1, false);
    pair_case(r, OP_ADD, ACT_NONE, 129, 3, true);
    pair_case(r, OP_ADD, ACT_NONE, 33, 65, false);
    end_op(r);
    begin_op(r, "mul");
    for (int act = ACT_NONE; act <= ACT_SIGMOID; act++)
        pair_case(r, OP_MUL, (enum activation)act, 67, 3, act % 2 == 0);
    pair_case(r, OP_MUL, ACT_SILU, 1, 1, false);
    end_op(r);
}

/* ---- matrices ---------------------------------------------------------------------------------- */

struct linear_shape {
    uint32_t in, out, rows;
    enum activation act;
    float scale;
    bool bias, residual, in_place;
};

static void linear_case(struct runner *r, enum tensor_type type, const struct linear_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    uint32_t in = whole_blocks(type, s->in);
    struct op op = {.kind = OP_LINEAR};
    struct op_linear *o = &op.u.linear;
    struct view whole = kit_embed(&kit, in + s->out + 5);
    o->in = view_columns(whole, 2, in);
    o->residual = s->residual ? view_columns(whole, in + 3, s->out) : VIEW_NONE;
    o->out = s->residual && s->in_place ? o->residual : kit_buffer(&kit, "out", s->out);
    o->weight = kit_matrix(&kit, "w", type, 1, s->out, in, 2.0f / sqrtf((float)in));
    o->bias = s->bias ? kit_vector(&kit, "b", TENSOR_F32, s->out, 0.0f, 0.5f) : NO_WEIGHT;
    o->act = s->act;
    o->scale = s->scale;
    program_emit(kit.program, &op, "linear");
    kit_select(&kit, o->out);
    struct script script = rows_script(r, s->rows);
    snprintf(name, sizeof name, "linear %s %u -> %u, rows %u, activation %d, scale %g%s%s",
             tensor_type_name(type), in, s->out, s->rows, (int)s->act, (double)s->scale,
             s->bias ? ", bias" : "", s->residual ? ", residual" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = in}, name);
}

void linear_cases(struct runner *r)
{
    static const struct linear_shape shapes[] = {
        {1, 1, 1, ACT_NONE, 1.0f, false, false, false},
        {3, 50, 2, ACT_NONE, 1.0f, true, false, false},
        {77, 17, 5, ACT_SILU, 1.0f, false, true, true},
        {300, 33, 33, ACT_NONE, 0.5f, true, true, false},
        {513, 130, 1, ACT_GELU, 1.0f, true, false, false},
        {260, 7, 67, ACT_GELU_TANH, -2.0f, false, false, false},
        {1025, 16, 3, ACT_RELU, 1.0f, false, true, false},
    };
    begin_op(r, "linear");
    for (size_t t = 0; t < N_WEIGHT_TYPES; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            linear_case(r, weight_types[t], &shapes[i]);
    uint64_t seed = r->seed;
    for (size_t t = 0; t < N_RARE_TYPES && r->config->all_types; t++)
        for (size_t i = 2; i < 5; i++)
            linear_case(r, rare_types[t], &shapes[i]);
    r->seed = seed;
    end_op(r);
}

static void gated_case(struct runner *r, enum tensor_type type, uint32_t in, uint32_t out,
                       uint32_t rows, enum activation act, bool bias)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    in = whole_blocks(type, in);
    struct op op = {.kind = OP_GATED};
    struct op_gated *o = &op.u.gated;
    o->in = kit_embed(&kit, in);
    o->out = kit_buffer(&kit, "out", out);
    o->gate = kit_matrix(&kit, "gate", type, 1, out, in, 3.0f / sqrtf((float)in));
    o->up = kit_matrix(&kit, "up", type, 1, out, in, 3.0f / sqrtf((float)in));
    o->gate_bias = bias ? kit_vector(&kit, "gb", TENSOR_F16, out, 0.0f, 0.5f) : NO_WEIGHT;
    o->up_bias = bias ? kit_vector(&kit, "ub", TENSOR_F32, out, 0.5f, 0.5f) : NO_WEIGHT;
    o->act = act;
    program_emit(kit.program, &op, "gated");
    kit_select(&kit, o->out);
    struct script script = rows_script(r, rows);
    snprintf(name, sizeof name, "gated %s %u -> %u, rows %u, activation %d%s",
             tensor_type_name(type), in, out, rows, (int)act, bias ? ", biases" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 3, .longest_sum = in}, name);
}

void gated_cases(struct runner *r)
{
    begin_op(r, "gated");
    for (size_t t = 0; t < N_WEIGHT_TYPES; t++) {
        gated_case(r, weight_types[t], 70, 19, 1, ACT_SILU, false);
        gated_case(r, weight_types[t], 300, 49, 35, ACT_GELU_TANH, true);
    }
    gated_case(r, TENSOR_F32, 1, 1, 2, ACT_GELU, false);
    gated_case(r, TENSOR_F32, 65, 33, 7, ACT_RELU, false);
    end_op(r);
}

static void logits_case(struct runner *r, enum tensor_type type, uint32_t in, float scale,
                        float softcap, bool bias)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    in = whole_blocks(type, in);
    struct op op = {.kind = OP_LOGITS};
    struct op_logits *o = &op.u.logits;
    o->in = kit_select(&kit, kit_embed(&kit, in));
    kit.program->logits = program_buffer(kit.program, "logits", VOCABULARY, ROWS_OUTPUT);
    o->out = program_view(kit.program, kit.program->logits);
    o->weight = kit_matrix(&kit, "w", type, 1, VOCABULARY, in, 3.0f / sqrtf((float)in));
    o->bias = bias ? kit_vector(&kit, "b", TENSOR_F32, VOCABULARY, 0.0f, 0.5f) : NO_WEIGHT;
    o->scale = scale;
    o->softcap = softcap;
    program_emit(kit.program, &op, "logits");
    struct script script = mixed_script(r, 16);
    snprintf(name, sizeof name, "logits %s from %u, scale %g, softcap %g%s", tensor_type_name(type),
             in, (double)scale, (double)softcap, bias ? ", bias" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 3, .longest_sum = in}, name);
}

void logits_cases(struct runner *r)
{
    begin_op(r, "logits");
    for (size_t t = 0; t < N_WEIGHT_TYPES; t++)
        logits_case(r, weight_types[t], 70, 1.0f, 0.0f, false);
    logits_case(r, TENSOR_F32, 33, 0.25f, 1.5f, true);
    logits_case(r, TENSOR_BF16, 333, 2.0f, 0.0f, true);
    end_op(r);
}
