/* Cases of routers and experts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_cases_internal.h"

/* ---- experts ----------------------------------------------------------------------------------- */

struct moe_shape {
    enum tensor_type type;
    uint32_t in, ff, experts, k, rows;
    enum route_score score;
    bool normalise, biases, residual;
    float scale;
    enum activation act;
    uint32_t groups, k_groups, group_best;
};

/* The router's weights are placed and read as float32, so that a backend with narrower activations
 * does not choose other experts on a near-tie more often than its epsilon says. */
static void moe_case(struct runner *r, const struct moe_shape *s)
{
    struct kit kit;
    char name[128];
    start(r, &kit);
    uint32_t in = whole_blocks(s->type, s->in), ff = whole_blocks(s->type, s->ff);
    struct view rows = kit_embed(&kit, in);
    struct op op = {.kind = OP_ROUTE};
    struct op_route *t = &op.u.route;
    t->in = rows;
    t->out = kit_buffer(&kit, "route", 2 * s->k);
    t->weight = kit_matrix(&kit, "router", TENSOR_F32, 1, s->experts, in, 4.0f / sqrtf((float)in));
    t->bias = s->biases ? kit_vector(&kit, "rb", TENSOR_F32, s->experts, 0.0f, 0.5f) : NO_WEIGHT;
    t->score_bias =
        s->biases ? kit_vector(&kit, "sb", TENSOR_F32, s->experts, 0.0f, 0.3f) : NO_WEIGHT;
    t->score = s->score;
    t->n_experts = s->experts;
    t->k = s->k;
    t->normalise = s->normalise;
    t->scale = s->scale;
    t->n_groups = s->groups;
    t->k_groups = s->k_groups;
    t->group_best = s->group_best;
    program_emit(kit.program, &op, "route");
    struct op experts = {.kind = OP_EXPERTS};
    struct op_experts *o = &experts.u.experts;
    o->in = rows;
    o->route = t->out;
    o->hidden = kit_buffer(&kit, "hidden", s->k * ff);
    o->out = kit_buffer(&kit, "out", in);
    o->residual = s->residual ? rows : VIEW_NONE;
    o->gate = kit_matrix(&kit, "gate", s->type, s->experts, ff, in, 3.0f / sqrtf((float)in));
    o->up = kit_matrix(&kit, "up", s->type, s->experts, ff, in, 3.0f / sqrtf((float)in));
    o->down = kit_matrix(&kit, "down", s->type, s->experts, in, ff, 3.0f / sqrtf((float)ff));
    o->gate_bias = o->up_bias = o->down_bias = NO_WEIGHT;
    if (s->biases) {
        o->gate_bias = kit_vector(&kit, "gb", TENSOR_F32, s->experts * ff, 0.0f, 0.5f);
        o->up_bias = kit_vector(&kit, "ub", TENSOR_BF16, s->experts * ff, 0.0f, 0.5f);
        o->down_bias = kit_vector(&kit, "db", TENSOR_F32, s->experts * in, 0.0f, 0.5f);
    }
    o->act = s->act;
    o->k = s->k;
    program_emit(kit.program, &experts, "experts");
    kit_select(&kit, o->out);
    struct script script = rows_script(r, s->rows);
    snprintf(name, sizeof name, "experts %s %u of %u, %u -> %u, rows %u, %s%s%s",
             tensor_type_name(s->type), s->k, s->experts, in, ff, s->rows,
             s->score == ROUTE_SOFTMAX ? "softmax" : "sigmoid", s->biases ? ", biases" : "",
             s->residual ? ", residual" : "");
    run_case(r, &kit, &script, (struct expected){.steps = 6, .longest_sum = in + ff}, name);
}

void moe_cases(struct runner *r)
{
    static const struct moe_shape shapes[] = {
        {TENSOR_F32, 7, 5, 3, 1, 1, ROUTE_SOFTMAX, false, false, false, 1.0f, ACT_SILU, 0, 0, 0},
        {TENSOR_F32, 33, 19, 8, 2, 67, ROUTE_SOFTMAX, true, false, true, 1.0f, ACT_SILU, 0, 0, 0},
        {TENSOR_F32, 40, 24, 5, 5, 9, ROUTE_SOFTMAX, true, true, false, 2.5f, ACT_SILU, 0, 0, 0},
        {TENSOR_F32, 40, 24, 60, 6, 35, ROUTE_SIGMOID, true, true, true, 1.5f, ACT_SILU, 0, 0, 0},
        {TENSOR_BF16, 65, 33, 17, 4, 12, ROUTE_SIGMOID, false, false, false, 0.5f, ACT_SILU, 0, 0,
         0},
        {TENSOR_F16, 65, 33, 2, 2, 40, ROUTE_SOFTMAX, false, true, true, 1.0f, ACT_SILU, 0, 0, 0},
        {TENSOR_Q8_0, 64, 32, 9, 3, 20, ROUTE_SOFTMAX, true, false, true, 1.0f, ACT_SILU, 0, 0, 0},
        {TENSOR_Q4_0, 64, 96, 9, 3, 1, ROUTE_SOFTMAX, true, false, true, 1.0f, ACT_SILU, 0, 0, 0},
        {TENSOR_Q4_K, 256, 256, 4, 2, 7, ROUTE_SOFTMAX, true, false, false, 1.0f, ACT_SILU, 0, 0,
         0},
        {TENSOR_Q6_K, 256, 256, 4, 2, 7, ROUTE_SOFTMAX, true, false, false, 1.0f, ACT_SILU, 0, 0,
         0},
        {TENSOR_F32, 33, 19, 8, 2, 37, ROUTE_SOFTMAX, true, true, true, 1.0f, ACT_CLAMPED_SWIGLU, 0,
         0, 0},
        {TENSOR_F32, 33, 19, 12, 3, 37, ROUTE_SIGMOID, true, true, true, 2.5f, ACT_SILU, 4, 2, 2},
        {TENSOR_BF16, 33, 19, 15, 4, 37, ROUTE_SOFTMAX, false, false, false, 1.0f, ACT_SILU, 5, 3,
         1},
        {TENSOR_F32, 33, 19, 6, 3, 11, ROUTE_SIGMOID, true, true, true, 1.0f, ACT_SILU, 6, 4, 1},
    };
    begin_op(r, "experts");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        moe_case(r, &shapes[i]);
    end_op(r);
}

/* All scores equal: the lowest ids win, in rising order; then the route itself is the result. */
void route_tie_case(struct runner *r)
{
    struct kit kit;
    start(r, &kit);
    struct view rows = kit_embed(&kit, 6);
    struct op op = {.kind = OP_MUL};
    struct view zero = kit_buffer(&kit, "zero", 6);
    op.u.mul = (struct op_mul){rows, rows, zero, ACT_NONE};
    program_emit(kit.program, &op, "square");
    op = (struct op){.kind = OP_ADD};
    op.u.add = (struct op_add){zero, zero, zero, -1.0f};
    program_emit(kit.program, &op, "zero");
    op = (struct op){.kind = OP_ROUTE};
    struct op_route *t = &op.u.route;
    t->in = zero;
    t->out = kit_buffer(&kit, "route", 6);
    t->weight = kit_matrix(&kit, "router", TENSOR_F32, 1, 11, 6, 1.0f);
    t->bias = t->score_bias = NO_WEIGHT;
    t->n_experts = 11;
    t->k = 3;
    t->scale = 1.0f;
    program_emit(kit.program, &op, "route");
    kit_select(&kit, t->out);
    struct script script = rows_script(r, 3);
    /* Ids 0, 1, 2 read as floats are subnormal: weights decide the comparison, and a wrong id
     * shows in the experts cases; this one is about not choosing an id twice. */
    run_case(r, &kit, &script, (struct expected){.steps = 3, .longest_sum = 11}, "route of ties");
}
