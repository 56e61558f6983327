/* Blocks with a state: groups, convolution, the mixers of Mamba 1 and 2. */
#include "model/mamba.h"

#include <math.h>
#include <string.h>

static uint32_t state_group(struct build *b, const char *name, uint32_t floats)
{
    struct program *p = b->program;
    for (uint32_t i = 0; i < p->n_groups; i++)
        if (p->groups[i].kind == GROUP_RECURRENT && p->groups[i].state_floats == floats &&
            strcmp(p->groups[i].name, name) == 0)
            return i;
    struct state_group group = {.name = name, .kind = GROUP_RECURRENT, .state_floats = floats};
    return program_group(p, &group);
}

struct layer_states build_states(struct build *b, uint32_t conv_floats, uint32_t state_floats)
{
    struct layer_states s = {.conv_group = state_group(b, "conv", conv_floats),
                             .state_group = state_group(b, "state", state_floats)};
    s.conv_layer = b->program->groups[s.conv_group].n_layers++;
    s.state_layer = b->program->groups[s.state_group].n_layers++;
    return s;
}

void build_causal_conv(struct build *b, int layer, const char *role, struct view in,
                       struct view out, uint32_t taps, const struct layer_states *states)
{
    struct op op = {.kind = OP_CONV,
                    .u.conv = {.in = in,
                               .out = out,
                               .weight = build_weight(b, layer, role, in.width, taps),
                               .bias = build_bias(b, layer, role, in.width),
                               .taps = taps,
                               .group = states->conv_group,
                               .layer = states->conv_layer,
                               .act = ACT_SILU}};
    program_emit(b->program, &op, "%d.conv", layer);
}

int32_t build_decay(struct build *b, int layer, const char *role, uint32_t n)
{
    float *values = build_read(b, layer, role, "weight", n);
    for (uint32_t i = 0; values && !b->gguf && i < n; i++)
        values[i] = -expf(values[i]);
    return values ? program_constant(b->program, role, values, n) : NO_WEIGHT;
}

/* ---- plan -------------------------------------------------------------------------------------- */

/* Item of HF's time_step_limit; an endless one is written as text or an object. */
static float limit_of(struct build *b, uint32_t item, float fallback)
{
    const json_t *list = json_object_get(b->config, "time_step_limit");
    const json_t *value = json_array_get(list, item);
    return json_is_number(value) ? (float)json_number_value(value) : fallback;
}

bool mamba_plan(struct build *b, struct mamba *m, bool first_version)
{
    static const char *const heads[] = {"mamba_n_heads", "mamba_num_heads", "num_heads", NULL};
    static const char *const dims[] = {"mamba_d_head", "mamba_head_dim", "head_dim", NULL};
    static const char *const groups[] = {"mamba_n_groups", "n_groups", NULL};
    static const char *const states[] = {"mamba_d_state", "ssm_state_size", "state_size", NULL};
    static const char *const taps[] = {"mamba_d_conv", "conv_kernel", NULL};
    static const char *const expands[] = {"mamba_expand", "expand", NULL};
    m->state = build_first_u32(b, "ssm.state_size", states);
    m->taps = build_first_u32(b, "ssm.conv_kernel", taps);
    m->inner = b->gguf ? build_need_u32(b, "ssm.inner_size", NULL) : 0;
    if (first_version) {
        m->dt_rank = build_need_u32(b, "ssm.time_step_rank", "mamba_dt_rank");
        m->inner = b->gguf ? m->inner : build_first_u32(b, NULL, expands) * b->h.width;
        m->heads = m->inner;
        m->groups = m->head_dim = 1;
    } else {
        m->heads = build_first_u32(b, "ssm.time_step_rank", heads);
        m->groups = build_first_u32(b, "ssm.group_count", groups);
        m->head_dim =
            b->gguf ? (m->heads ? m->inner / m->heads : 0) : build_first_u32(b, NULL, dims);
        m->inner = m->head_dim && m->heads <= (1u << 24) / m->head_dim ? m->heads * m->head_dim : 0;
    }
    m->dt_min = limit_of(b, 0, 0.0f);
    m->dt_max = limit_of(b, 1, INFINITY);
    m->out_scale = 1.0f;
    for (int i = 0; i < 5; i++)
        m->scales[i] = 1.0f;
    if (m->inner == 0 || m->inner > 1u << 20 || m->groups == 0 || m->heads % m->groups ||
        m->state == 0 || m->state > 1u << 12 || m->taps < 2 || m->taps > 64 ||
        m->dt_rank > 1u << 16 || m->groups > 1u << 10) {
        program_fail(b->program, STATUS_MODEL,
                     "state space mixer: %u heads of %u in %u groups, %u states, %u taps", m->heads,
                     m->head_dim, m->groups, m->state, m->taps);
        return false;
    }
    uint32_t conv = m->dt_rank ? m->inner : m->inner + 2 * m->groups * m->state;
    uint32_t all = m->inner + conv + (m->dt_rank ? 0 : m->heads);
    struct program *p = b->program;
    m->projected = program_buffer(p, "mixer_in", all, ROWS_STEP);
    m->convolved = program_buffer(p, "convolved", conv, ROWS_STEP);
    m->y = program_buffer(p, "mixer_out", m->inner, ROWS_STEP);
    if (m->dt_rank) {
        m->low = program_buffer(p, "mixer_low", m->dt_rank + 2 * m->state, ROWS_STEP);
        m->dt = program_buffer(p, "dt", m->inner, ROWS_STEP);
    }
    return true;
}

struct layer_states mamba_states(struct build *b, const struct mamba *m)
{
    uint32_t conv = program_view(b->program, m->convolved).width;
    return build_states(b, (m->taps - 1) * conv, m->inner * m->state);
}

/* ---- mixers ------------------------------------------------------------------------------------ */

/* The input projection, in parts where they have scales of their own. */
static void project(struct build *b, const struct mamba *m, int layer, struct view in,
                    struct view out)
{
    uint32_t widths[5] = {m->inner, m->inner, m->groups * m->state, m->groups * m->state, m->heads};
    bool alike = true;
    for (int i = 1; i < 5; i++)
        alike &= m->scales[i] == m->scales[0];
    if (alike) {
        build_linear_scaled(b, layer, "ssm_in", in, out, VIEW_NONE, m->scales[0]);
        return;
    }
    if (build_bias(b, layer, "ssm_in", out.width) != NO_WEIGHT)
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "layer %d: an input projection with a bias and multipliers", layer);
    for (uint32_t i = 0, at = 0; i < 5; at += widths[i++]) {
        struct op op = {.kind = OP_LINEAR,
                        .u.linear = {.in = in,
                                     .out = view_columns(out, at, widths[i]),
                                     .residual = VIEW_NONE,
                                     .weight = build_weight_rows(b, layer, "ssm_in", out.width, at,
                                                                 widths[i], in.width),
                                     .bias = NO_WEIGHT,
                                     .scale = m->scales[i]}};
        program_emit(b->program, &op, "%d.ssm_in.%u", layer, i);
    }
}

static void gate(struct build *b, int layer, struct view z, struct view y)
{
    struct op op = {.kind = OP_MUL, .u.mul = {.a = z, .b = y, .out = y, .act = ACT_SILU}};
    program_emit(b->program, &op, "%d.gate", layer);
}

static void group_norm(struct build *b, const struct mamba *m, int layer, struct view y)
{
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = y,
                               .out = y,
                               .kind = NORM_RMS,
                               .group = m->inner / m->groups,
                               .weight = build_values(b, layer, "ssm_norm", "weight", m->inner),
                               .bias = NO_WEIGHT,
                               .eps = b->h.norm_eps}};
    program_emit(b->program, &op, "%d.ssm_norm", layer);
}

static void emit_ssm(struct build *b, const struct mamba *m, int layer, struct op_ssm op,
                     const struct layer_states *states)
{
    op.a = build_decay(b, layer, "ssm_a", m->dt_rank ? m->inner * m->state : m->heads);
    op.d = build_values(b, layer, "ssm_d", "weight", m->heads);
    op.n_heads = m->heads;
    op.head_dim = m->head_dim;
    op.n_groups = m->groups;
    op.n_state = m->state;
    op.dt_min = m->dt_min;
    op.dt_max = m->dt_max;
    op.group = states->state_group;
    op.layer = states->state_layer;
    struct op whole = {.kind = OP_SSM, .u.ssm = op};
    program_emit(b->program, &whole, "%d.ssm", layer);
}

void build_mamba2(struct build *b, const struct mamba *m, uint32_t index,
                  const struct layer_states *states, struct view in, struct view out,
                  struct view residual)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t group = m->groups * m->state;
    struct view all = program_view(p, m->projected), xbc = program_view(p, m->convolved);
    struct view y = program_view(p, m->y), z = view_columns(all, 0, m->inner);
    project(b, m, l, in, all);
    build_causal_conv(b, l, "ssm_conv1d", view_columns(all, m->inner, xbc.width), xbc, m->taps,
                      states);
    emit_ssm(b, m, l,
             (struct op_ssm){.x = view_columns(xbc, 0, m->inner),
                             .b = view_columns(xbc, m->inner, group),
                             .c = view_columns(xbc, m->inner + group, group),
                             .dt = view_columns(all, m->inner + xbc.width, m->heads),
                             .dt_bias = build_find(b, l, "ssm_dt", "bias")
                                            ? build_values(b, l, "ssm_dt", "bias", m->heads)
                                            : NO_WEIGHT,
                             .out = y},
             states);
    bool norm = build_exists(b, l, "ssm_norm");
    if (norm && m->norm_first)
        group_norm(b, m, l, y);
    gate(b, l, z, y);
    if (norm && !m->norm_first)
        group_norm(b, m, l, y);
    build_linear_scaled(b, l, "ssm_out", y, out, residual, m->out_scale);
}

void build_mamba1(struct build *b, const struct mamba *m, uint32_t index,
                  const struct layer_states *states, struct view in, struct view out,
                  struct view residual)
{
    int l = (int)index;
    struct program *p = b->program;
    struct view all = program_view(p, m->projected), x = program_view(p, m->convolved);
    struct view low = program_view(p, m->low), dt = program_view(p, m->dt);
    struct view y = program_view(p, m->y), rank = view_columns(low, 0, m->dt_rank);
    struct view parts[2] = {view_columns(low, m->dt_rank, m->state),
                            view_columns(low, m->dt_rank + m->state, m->state)};
    build_linear(b, l, "ssm_in", in, all, VIEW_NONE);
    build_causal_conv(b, l, "ssm_conv1d", view_columns(all, 0, m->inner), x, m->taps, states);
    build_linear(b, l, "ssm_x", x, low, VIEW_NONE);
    if (build_exists(b, l, "ssm_dt_norm")) {
        build_norm(b, l, "ssm_dt_norm", rank, rank, m->dt_rank, 0.0f);
        build_norm(b, l, "ssm_b_norm", parts[0], parts[0], m->state, 0.0f);
        build_norm(b, l, "ssm_c_norm", parts[1], parts[1], m->state, 0.0f);
    }
    build_linear(b, l, "ssm_dt", rank, dt, VIEW_NONE);
    emit_ssm(b, m, l,
             (struct op_ssm){
                 .x = x, .b = parts[0], .c = parts[1], .dt = dt, .dt_bias = NO_WEIGHT, .out = y},
             states);
    gate(b, l, view_columns(all, m->inner, m->inner), y);
    build_linear_scaled(b, l, "ssm_out", y, out, residual, m->out_scale);
}
