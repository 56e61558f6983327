/*
 * Cases of the operations that carry a state along a sequence, and of what latent attention needs.
 * Recurrences keep a float32 state: its roundings add up over the rows that still matter, which the
 * decays of the cases keep to a few dozen.
 */
#include <math.h>
#include <stdio.h>

#include "op_cases_internal.h"

static uint32_t state_group(struct kit *kit, const char *name, uint32_t layers, uint32_t floats)
{
    struct state_group group = {
        .name = name, .kind = GROUP_RECURRENT, .n_layers = layers, .state_floats = floats};
    return program_group(kit->program, &group);
}

/* Columns [at, at + width) of a view; moves `at`. */
static struct view take(struct view view, uint32_t *at, uint32_t width)
{
    struct view part = view_columns(view, *at, width);
    *at += width;
    return part;
}

/* ---- state space ------------------------------------------------------------------------------- */

struct ssm_shape {
    uint32_t heads, dim, groups, state, layers;
    bool matrix, dt_bias, limits;
};

static struct view emit_ssm(struct kit *kit, struct view rows, const struct ssm_shape *s)
{
    uint32_t at = 0, heads = s->heads;
    struct op op = {.kind = OP_SSM};
    struct op_ssm *o = &op.u.ssm;
    o->x = take(rows, &at, heads * s->dim);
    o->dt = take(rows, &at, heads);
    o->b = take(rows, &at, s->groups * s->state);
    o->c = take(rows, &at, s->groups * s->state);
    o->out = kit_buffer(kit, "ssm", heads * s->dim);
    o->a = kit_vector(kit, "a", TENSOR_F32, s->matrix ? heads * s->state : heads, -1.0f, 0.8f);
    o->d = kit_vector(kit, "d", TENSOR_BF16, heads, 1.0f, 0.5f);
    o->dt_bias = s->dt_bias ? kit_vector(kit, "dtb", TENSOR_F32, heads, -1.0f, 1.0f) : NO_WEIGHT;
    o->n_heads = heads;
    o->head_dim = s->dim;
    o->n_groups = s->groups;
    o->n_state = s->state;
    o->dt_min = s->limits ? 0.3f : 0.0f;
    o->dt_max = s->limits ? 0.9f : INFINITY;
    o->group = state_group(kit, "ssm", s->layers, heads * s->state * s->dim);
    o->layer = s->layers - 1;
    program_emit(kit->program, &op, "ssm");
    return o->out;
}

static uint32_t ssm_width(const struct ssm_shape *s)
{
    return s->heads * (s->dim + 1) + 2 * s->groups * s->state;
}

static void ssm_cases(struct runner *r)
{
    static const struct ssm_shape shapes[] = {
        {1, 1, 1, 1, 1, false, false, false}, {4, 32, 1, 16, 1, false, true, false},
        {6, 5, 3, 7, 3, false, true, true},   {2, 64, 2, 33, 2, false, false, true},
        {37, 1, 1, 16, 1, true, true, false}, {5, 3, 5, 9, 2, true, false, true},
    };
    begin_op(r, "ssm");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct kit kit;
        char name[128];
        const struct ssm_shape *s = &shapes[i];
        start(r, &kit);
        kit_select(&kit, emit_ssm(&kit, kit_embed(&kit, ssm_width(s)), s));
        struct script script = mixed_script(r, 8);
        snprintf(name, sizeof name, "ssm %u heads of %u, %u groups of %u states%s%s%s", s->heads,
                 s->dim, s->groups, s->state, s->matrix ? ", a per state" : "",
                 s->dt_bias ? ", bias" : "", s->limits ? ", limits" : "");
        run_case(r, &kit, &script, (struct expected){.steps = 8, .longest_sum = s->state}, name);
    }
    end_op(r);
}

/* ---- gated delta rule -------------------------------------------------------------------------- */

struct delta_shape {
    uint32_t heads, key_heads, k_dim, v_dim, layers;
    bool tiled;
};

static struct view emit_delta(struct kit *kit, struct view rows, const struct delta_shape *s)
{
    uint32_t at = 0;
    struct op op = {.kind = OP_DELTA};
    struct op_delta *o = &op.u.delta;
    o->q = take(rows, &at, s->key_heads * s->k_dim);
    o->k = take(rows, &at, s->key_heads * s->k_dim);
    o->v = take(rows, &at, s->heads * s->v_dim);
    o->decay = take(rows, &at, s->heads);
    o->beta = take(rows, &at, s->heads);
    o->out = kit_buffer(kit, "delta", s->heads * s->v_dim);
    o->a = kit_vector(kit, "a", TENSOR_F32, s->heads, -0.5f, 0.4f);
    o->dt_bias = kit_vector(kit, "dtb", TENSOR_F32, s->heads, -1.0f, 1.0f);
    o->n_heads = s->heads;
    o->n_key_heads = s->key_heads;
    o->k_dim = s->k_dim;
    o->tiled = s->tiled;
    o->v_dim = s->v_dim;
    o->group = state_group(kit, "delta", s->layers, s->heads * s->k_dim * s->v_dim);
    o->layer = s->layers - 1;
    program_emit(kit->program, &op, "delta");
    return o->out;
}

static uint32_t delta_width(const struct delta_shape *s)
{
    return 2 * s->key_heads * s->k_dim + s->heads * (s->v_dim + 2);
}

static void delta_cases(struct runner *r)
{
    static const struct delta_shape shapes[] = {
        {1, 1, 1, 1, 1, false},   {4, 2, 16, 16, 1, false}, {6, 3, 7, 13, 3, true},
        {3, 1, 33, 20, 2, false}, {5, 5, 24, 40, 1, true},
    };
    begin_op(r, "delta");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct kit kit;
        char name[96];
        const struct delta_shape *s = &shapes[i];
        start(r, &kit);
        kit_select(&kit, emit_delta(&kit, kit_embed(&kit, delta_width(s)), s));
        struct script script = mixed_script(r, 8);
        snprintf(name, sizeof name, "delta %u/%u heads of %u+%u, layers %u", s->heads, s->key_heads,
                 s->k_dim, s->v_dim, s->layers);
        run_case(r, &kit, &script, (struct expected){.steps = 12, .longest_sum = s->k_dim}, name);
    }
    end_op(r);
}

/* ---- matrices of heads ------------------------------------------------------------------------- */

struct heads_shape {
    enum tensor_type type;
    bool copy, transposed;
    uint32_t heads, in, out, in_column, in_head, out_column, out_head, rows;
};

static void heads_case(struct runner *r, const struct heads_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    uint32_t wide = s->in_head > s->out_head ? s->in_head : s->out_head;
    struct view whole = kit_embed(&kit, s->heads * wide);
    struct view rows = view_columns(whole, 0, s->heads * s->in_head);
    struct view out = kit_buffer(&kit, "out", s->heads * s->out_head);
    /* Something in the columns that the operation must leave alone. */
    struct view front = view_columns(whole, 0, s->heads * s->out_head);
    struct op op = {.kind = OP_ADD, .u.add = {front, front, out, 0.5f}};
    program_emit(kit.program, &op, "fill");
    op = (struct op){.kind = OP_HEADS};
    struct op_heads *o = &op.u.heads;
    *o = (struct op_heads){.in = rows,
                           .out = out,
                           .transposed = s->transposed,
                           .n_heads = s->heads,
                           .in_column = s->in_column,
                           .in_width = s->in,
                           .out_column = s->out_column,
                           .out_width = s->out,
                           .weight = NO_WEIGHT};
    if (!s->copy)
        o->weight = kit_matrix(&kit, "w", s->type, s->heads, s->transposed ? s->in : s->out,
                               s->transposed ? s->out : s->in, 2.0f / sqrtf((float)s->in));
    program_emit(kit.program, &op, "heads");
    kit_select(&kit, out);
    struct script script = rows_script(r, s->rows);
    snprintf(name, sizeof name, "heads %s%s %u heads of %u -> %u, rows %u",
             s->copy ? "copy" : tensor_type_name(s->type), s->transposed ? " transposed" : "",
             s->heads, s->in, s->out, s->rows);
    run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = s->in}, name);
}

static void heads_cases(struct runner *r)
{
    static const struct heads_shape shapes[] = {
        {TENSOR_F32, true, false, 3, 5, 5, 2, 9, 1, 7, 4},
        {TENSOR_F32, false, false, 3, 5, 6, 2, 9, 1, 7, 4},
        {TENSOR_F32, false, true, 3, 5, 6, 2, 9, 1, 7, 67},
        {TENSOR_BF16, false, false, 4, 33, 17, 0, 48, 16, 33, 35},
        {TENSOR_BF16, false, true, 4, 33, 17, 0, 48, 16, 33, 1},
        {TENSOR_Q8_0, false, false, 2, 64, 7, 0, 64, 0, 7, 3},
        {TENSOR_Q8_0, false, true, 2, 7, 64, 0, 7, 0, 64, 40},
    };
    begin_op(r, "heads");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        heads_case(r, &shapes[i]);
    end_op(r);
}

/* ---- latent attention -------------------------------------------------------------------------- */

struct latent_shape {
    uint32_t heads, rope, latent, layers, window;
    enum rope_style style;
    bool sinks;
    uint32_t page_tokens;
};

static struct view emit_latent(struct kit *kit, struct view rows, const struct latent_shape *s)
{
    struct state_group group = {.name = "latent",
                                .kind = GROUP_LATENT,
                                .n_layers = s->layers,
                                .window = s->window,
                                .n_kv_heads = 1,
                                .k_head_dim = s->rope,
                                .v_head_dim = s->latent};
    uint32_t at = 0, id = program_group(kit->program, &group);
    struct view q = take(rows, &at, s->heads * (s->rope + s->latent));
    struct op op = {.kind = OP_ROPE_KV};
    op.u.rope_kv = (struct op_rope_kv){.q = q,
                                       .k = take(rows, &at, s->rope),
                                       .v = take(rows, &at, s->latent),
                                       .n_heads = s->heads,
                                       .group = id,
                                       .layer = s->layers - 1,
                                       .style = s->style,
                                       .rope_dims = s->rope,
                                       .freqs = kit_freqs(kit, s->rope / 2, 100.0f),
                                       .magnitude = 1.0f};
    program_emit(kit->program, &op, "rope");
    struct view out = kit_buffer(kit, "attended", s->heads * s->latent);
    op = (struct op){.kind = OP_ATTENTION};
    op.u.attention = (struct op_attention){.q = q,
                                           .out = out,
                                           .n_heads = s->heads,
                                           .group = id,
                                           .layer = s->layers - 1,
                                           .window = s->window,
                                           .scale = 1.0f / sqrtf((float)(s->rope + s->latent))};
    op.u.attention.sinks =
        s->sinks ? kit_vector(kit, "sinks", TENSOR_F32, s->heads, 1.0f, 0.5f) : NO_WEIGHT;
    program_emit(kit->program, &op, "attention");
    return out;
}

static uint32_t latent_width(const struct latent_shape *s)
{
    return (s->heads + 1) * (s->rope + s->latent);
}

static void latent_cases(struct runner *r)
{
    static const struct latent_shape shapes[] = {
        {2, 16, 32, 1, 0, ROPE_PAIRS, false, 8},  {1, 2, 3, 1, 0, ROPE_HALVES, false, 4},
        {19, 10, 21, 3, 0, ROPE_PAIRS, false, 2}, {5, 8, 17, 2, 13, ROPE_HALVES, true, 8},
        {33, 4, 9, 1, 0, ROPE_PAIRS, false, 16},
    };
    begin_op(r, "latent");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct kit kit;
        char name[128];
        const struct latent_shape *s = &shapes[i];
        start(r, &kit);
        kit_select(&kit, emit_latent(&kit, kit_embed(&kit, latent_width(s)), s));
        struct script script = mixed_script(r, s->page_tokens);
        snprintf(name, sizeof name, "latent attention %u heads of %u+%u, window %u, pages of %u",
                 s->heads, s->rope, s->latent, s->window, s->page_tokens);
        struct expected expected = {
            .steps = 5, .reads = 1, .longest_sum = s->rope + s->latent + 72};
        run_case(r, &kit, &script, expected, name);
    }
    end_op(r);
}

/* ---- narrow factors ---------------------------------------------------------------------------- */

static void narrow_cases(struct runner *r)
{
    static const uint32_t shapes[][3] = {
        {1, 67, 3}, {3, 5, 40}, {7, 1, 2}}; /* columns, each, rows */
    begin_op(r, "narrow mul");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct kit kit;
        char name[96];
        uint32_t columns = shapes[i][0], width = columns * shapes[i][1];
        start(r, &kit);
        struct view whole = kit_embed(&kit, columns + width);
        struct view out = kit_buffer(&kit, "out", width);
        struct op op = {.kind = OP_MUL};
        op.u.mul =
            (struct op_mul){view_columns(whole, 0, columns), view_columns(whole, columns, width),
                            out, i ? ACT_SIGMOID : ACT_TANH};
        program_emit(kit.program, &op, "mul");
        kit_select(&kit, out);
        struct script script = rows_script(r, shapes[i][2]);
        snprintf(name, sizeof name, "mul of %u columns by %u", width, columns);
        run_case(r, &kit, &script, (struct expected){.steps = 2, .longest_sum = 1}, name);
    }
    end_op(r);
}

/* ---- streams ----------------------------------------------------------------------------------- */

static void mix_case(struct runner *r, uint32_t n_in, uint32_t n_out, uint32_t width, bool in_place)
{
    struct kit kit;
    char name[96];
    uint32_t at = 0;
    start(r, &kit);
    struct view whole = kit_embed(&kit, n_in * width + n_out * (n_in + width));
    struct op op = {.kind = OP_MIX};
    op.u.mix = (struct op_mix){.in = take(whole, &at, n_in * width), .n_in = n_in, .n_out = n_out};
    struct view coefs = take(whole, &at, n_out * n_in), residual = take(whole, &at, n_out * width);
    op.u.mix.coefs = kit_buffer(&kit, "coefs", coefs.width);
    op.u.mix.residual = kit_buffer(&kit, "residual", residual.width);
    struct op copy = {.kind = OP_ADD, .u.add = {coefs, coefs, op.u.mix.coefs, 1.0f}};
    program_emit(kit.program, &copy, "coefs");
    copy.u.add = (struct op_add){residual, residual, op.u.mix.residual, 1.0f};
    program_emit(kit.program, &copy, "residual");
    op.u.mix.out = in_place ? op.u.mix.residual : kit_buffer(&kit, "out", residual.width);
    program_emit(kit.program, &op, "mix");
    kit_select(&kit, op.u.mix.out);
    struct script script = rows_script(r, 19);
    snprintf(name, sizeof name, "mix %u -> %u streams of %u%s", n_in, n_out, width,
             in_place ? ", in place" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 4, .longest_sum = n_in}, name);
}

static void match_case(struct runner *r, uint32_t width, uint32_t like, float least)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    struct view whole = kit_embed(&kit, width + like);
    struct op op = {.kind = OP_MATCH};
    op.u.match = (struct op_match){view_columns(whole, 0, width), view_columns(whole, width, like),
                                   kit_buffer(&kit, "out", width), least};
    program_emit(kit.program, &op, "match");
    kit_select(&kit, op.u.match.out);
    struct script script = rows_script(r, 5);
    snprintf(name, sizeof name, "match %u to %u, least %g", width, like, (double)least);
    run_case(r, &kit, &script, (struct expected){.steps = 3, .longest_sum = width}, name);
}

static void norm_kind_case(struct runner *r, enum norm_kind kind, uint32_t width, uint32_t group)
{
    struct kit kit;
    char name[96];
    start(r, &kit);
    struct op op = {.kind = OP_NORM};
    op.u.norm = (struct op_norm){.in = kit_embed(&kit, width),
                                 .out = kit_buffer(&kit, "out", width),
                                 .kind = kind,
                                 .group = group,
                                 .weight_offset = 0.5f,
                                 .eps = 0.7f};
    op.u.norm.weight = kit_vector(&kit, "w", TENSOR_F32, group, 1.0f, 0.5f);
    op.u.norm.bias = kit_vector(&kit, "b", TENSOR_F32, width, 0.0f, 0.5f);
    program_emit(kit.program, &op, "norm");
    kit_select(&kit, op.u.norm.out);
    struct script script = rows_script(r, 7);
    snprintf(name, sizeof name, "norm kind %d of %u by %u", (int)kind, width, group);
    run_case(r, &kit, &script, (struct expected){.steps = 3, .longest_sum = group}, name);
}

static void stream_cases(struct runner *r)
{
    begin_op(r, "streams");
    mix_case(r, 4, 4, 33, true);
    mix_case(r, 1, 4, 17, false);
    mix_case(r, 3, 2, 1, true);
    match_case(r, 67, 67, 1e-5f);
    match_case(r, 1, 5, 100.0f);
    norm_kind_case(r, NORM_NONE, 45, 9);
    norm_kind_case(r, NORM_CUTOFF, 130, 130);
    norm_kind_case(r, NORM_CUTOFF, 60, 20);
    end_op(r);
}

/* ---- together ---------------------------------------------------------------------------------- */

/* rows = rows + W of a result, so that a model goes on with one width. */
static void mix_in(struct kit *kit, struct view rows, struct view result)
{
    struct op op = {.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = result, .out = rows, .residual = rows, .scale = 1.0f};
    op.u.linear.weight = kit_matrix(kit, "mix", TENSOR_BF16, 1, rows.width, result.width,
                                    1.0f / sqrtf((float)result.width));
    op.u.linear.bias = NO_WEIGHT;
    program_emit(kit->program, &op, "mix");
}

/* The normed rows through a matrix: inputs of a mixer. */
static struct view project(struct kit *kit, struct view rows, uint32_t width)
{
    struct view normed = kit_buffer(kit, "normed", rows.width);
    struct op op = {.kind = OP_NORM};
    op.u.norm = (struct op_norm){.in = rows, .out = normed, .group = rows.width, .eps = 1e-6f};
    op.u.norm.weight = kit_vector(kit, "norm", TENSOR_F32, rows.width, 1.0f, 0.2f);
    op.u.norm.bias = NO_WEIGHT;
    program_emit(kit->program, &op, "norm");
    struct view out = kit_buffer(kit, "projected", width);
    op = (struct op){.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = normed, .out = out, .residual = VIEW_NONE};
    op.u.linear.weight =
        kit_matrix(kit, "in", TENSOR_F16, 1, width, rows.width, 1.5f / sqrtf((float)rows.width));
    op.u.linear.bias = NO_WEIGHT;
    op.u.linear.scale = 1.0f;
    program_emit(kit->program, &op, "project");
    return out;
}

static struct view convolve(struct kit *kit, struct view rows, uint32_t taps)
{
    struct op op = {.kind = OP_CONV};
    struct view out = kit_buffer(kit, "convolved", rows.width);
    op.u.conv = (struct op_conv){.in = rows, .out = out, .taps = taps, .act = ACT_SILU};
    op.u.conv.weight = kit_matrix(kit, "conv", TENSOR_F32, 1, rows.width, taps, 0.7f);
    op.u.conv.bias = NO_WEIGHT;
    op.u.conv.group = state_group(kit, "conv", 1, (taps - 1) * rows.width);
    program_emit(kit->program, &op, "conv");
    return out;
}

static struct view emit_experts(struct kit *kit, struct view rows)
{
    uint32_t ff = 24, k = 2, experts = 8, width = rows.width;
    struct op op = {.kind = OP_ROUTE};
    struct view route = kit_buffer(kit, "route", 2 * k);
    op.u.route = (struct op_route){.in = rows,
                                   .out = route,
                                   .bias = NO_WEIGHT,
                                   .score = ROUTE_SIGMOID,
                                   .n_experts = experts,
                                   .k = k,
                                   .normalise = true,
                                   .least_sum = 0.9f,
                                   .added_sum = 0.1f,
                                   .scale = 1.5f,
                                   .n_groups = 4,
                                   .k_groups = 2,
                                   .group_best = 2};
    op.u.route.weight = kit_matrix(kit, "router", TENSOR_F32, 1, experts, width, 0.5f);
    op.u.route.score_bias = kit_vector(kit, "sb", TENSOR_F32, experts, 0.0f, 0.3f);
    program_emit(kit->program, &op, "route");
    struct view out = kit_buffer(kit, "mixture", width);
    op = (struct op){.kind = OP_EXPERTS};
    struct op_experts *o = &op.u.experts;
    *o = (struct op_experts){.in = rows, .route = route, .out = out, .residual = VIEW_NONE, .k = k};
    o->hidden = kit_buffer(kit, "hidden", k * ff);
    o->gate = kit_matrix(kit, "gate", TENSOR_F32, experts, ff, width, 0.3f);
    o->up = kit_matrix(kit, "up", TENSOR_F32, experts, ff, width, 0.3f);
    o->down = kit_matrix(kit, "down", TENSOR_F32, experts, width, ff, 0.3f);
    o->gate_bias = kit_vector(kit, "gb", TENSOR_F32, experts * ff, 0.0f, 0.5f);
    o->up_bias = kit_vector(kit, "ub", TENSOR_F32, experts * ff, 0.0f, 0.5f);
    o->down_bias = kit_vector(kit, "db", TENSOR_F32, experts * width, 0.0f, 0.5f);
    o->act = ACT_CLAMPED_SWIGLU;
    program_emit(kit->program, &op, "experts");
    return out;
}

void op_cases_build_recurrent(struct kit *kit)
{
    static const struct ssm_shape mamba2 = {4, 16, 2, 8, 1, false, true, false};
    static const struct ssm_shape mamba1 = {24, 1, 1, 6, 1, true, true, false};
    static const struct delta_shape delta = {4, 2, 12, 20, 1, false};
    static const struct latent_shape latent = {6, 8, 20, 1, 0, ROPE_PAIRS, false, 8};
    struct view rows = kit_embed(kit, 48);
    struct view in = convolve(kit, project(kit, rows, ssm_width(&mamba2)), 4);
    mix_in(kit, rows, emit_ssm(kit, in, &mamba2));
    in = convolve(kit, project(kit, rows, delta_width(&delta)), 3);
    mix_in(kit, rows, emit_delta(kit, in, &delta));
    mix_in(kit, rows, emit_latent(kit, project(kit, rows, latent_width(&latent)), &latent));
    in = project(kit, rows, ssm_width(&mamba1));
    mix_in(kit, rows, emit_ssm(kit, in, &mamba1));
    mix_in(kit, rows, emit_experts(kit, project(kit, rows, 32)));
    kit_select(kit, rows);
}

/* Its router has near ties, which narrower K/V or activations decide otherwise: all of a row's rest
 * then differs, rightly. The operations have cases of their own in every mode. */
static void recurrent_model_cases(struct runner *r)
{
    if (r->config->kv_type != TENSOR_F32 || r->config->epsilon > 0x1p-24)
        return;
    begin_op(r, "recurrent model");
    for (uint32_t page = 2; page <= 32; page *= 4) {
        struct kit kit;
        char name[64];
        start(r, &kit);
        op_cases_build_recurrent(&kit);
        struct script script = mixed_script(r, page);
        snprintf(name, sizeof name, "recurrent model, pages of %u", page);
        run_case(r, &kit, &script, (struct expected){.steps = 60, .reads = 2, .longest_sum = 128},
                 name);
    }
    end_op(r);
}

void op_cases_recurrent(struct runner *r)
{
    ssm_cases(r);
    delta_cases(r);
    heads_cases(r);
    latent_cases(r);
    narrow_cases(r);
    stream_cases(r);
    recurrent_model_cases(r);
}
