/*
 * Several residual streams as operations, in the order of a layer:
 *
 *     altup_predict   coefs = router(active stream)           [n * n]
 *                     predicted = streams + coefs streams     the layer works on predicted[active]
 *     (the layer)     its result is x
 *     altup_correct   coefs = 1 + router(x)                   [n]: the 1 is the bias `ones`
 *                     change = x - predicted[active]
 *                     streams = predicted + coefs change
 *
 * Streams lie side by side in a row: stream i is columns [i * width, (i + 1) * width). Between the
 * embedding and the first layer, and after the last one, projections lead from one stream to the others
 * and back; what comes out of one is brought to the length of stream 0 (OP_MATCH).
 */
#include "model/altup.h"

#include <math.h>

#include "model/layer_inputs.h"

/* Stream i of a buffer that holds all. */
static struct view stream_in(struct build *b, int32_t buffer, uint32_t i)
{
    return view_columns(program_view(b->program, buffer), i * b->h.width, b->h.width);
}

static void add(struct build *b, const char *label, struct view a, struct view c, struct view out,
                float scale)
{
    struct op op = {.kind = OP_ADD, .u.add = {.a = a, .b = c, .out = out, .scale = scale}};
    program_emit(b->program, &op, "%s", label);
}

static void match(struct build *b, struct view in, struct view like)
{
    struct op op = {.kind = OP_MATCH, .u.match = {.in = in, .like = like, .out = in, 1e-5f}};
    program_emit(b->program, &op, "altup_match");
}

void altup_plan(struct build *b, struct altup *a)
{
    struct program *p = b->program;
    a->n = build_u32(b, "altup.num_inputs", "altup_num_inputs", 4);
    a->active = build_u32(b, "altup.active_idx", "altup_active_idx", 0);
    if (a->n < 1 || a->n > ALTUP_STREAMS_MAX || a->active >= a->n) {
        program_fail(p, STATUS_MODEL, "%u streams of which %u is active, expected 1 to %d", a->n,
                     a->active, ALTUP_STREAMS_MAX);
        a->n = 1;
        a->active = 0;
    }
    float ones[ALTUP_STREAMS_MAX];
    for (uint32_t i = 0; i < ALTUP_STREAMS_MAX; i++)
        ones[i] = 1.0f;
    a->ones = program_constant(p, "ones", ones, a->n);
    a->streams = program_buffer(p, "streams", a->n * b->h.width, ROWS_STEP);
    a->predicted = program_buffer(p, "predicted", a->n * b->h.width, ROWS_STEP);
    a->routed = program_buffer(p, "routed", b->h.width, ROWS_STEP);
    a->modal = program_buffer(p, "modalities", a->n, ROWS_STEP);
    a->coefs = program_buffer(p, "coefs", a->n * a->n, ROWS_STEP);
    a->change = program_buffer(p, "change", b->h.width, ROWS_STEP);
}

/* Modalities of a stream, then coefficients from them. */
static void route(struct build *b, const struct altup *a, int l, struct view from, const char *role,
                  uint32_t n_coefs, int32_t bias)
{
    struct program *p = b->program;
    struct view routed = program_view(p, a->routed), modal = program_view(p, a->modal);
    build_norm(b, l, "altup_router_norm", from, routed, routed.width, 0.0f);
    build_scale(b, "altup_router_scale", routed, &(float){1.0f / (float)b->h.width}, 1);
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = routed,
                                 .out = modal,
                                 .residual = VIEW_NONE,
                                 .weight = build_weight(b, l, "altup_router", a->n, routed.width),
                                 .bias = NO_WEIGHT,
                                 .act = ACT_TANH,
                                 .scale = 1.0f}};
    program_emit(p, &op, "%d.altup_router", l);
    op.u.linear = (struct op_linear){.in = modal,
                                     .out = view_columns(program_view(p, a->coefs), 0, n_coefs),
                                     .residual = VIEW_NONE,
                                     .weight = build_weight(b, l, role, n_coefs, a->n),
                                     .bias = bias,
                                     .scale = 1.0f};
    program_emit(p, &op, "%d.%s", l, role);
}

static void mix(struct build *b, const struct altup *a, struct view in, uint32_t n_in,
                int32_t residual, int32_t out)
{
    struct program *p = b->program;
    struct op op = {.kind = OP_MIX,
                    .u.mix = {.in = in,
                              .coefs = view_columns(program_view(p, a->coefs), 0, n_in * a->n),
                              .residual = program_view(p, residual),
                              .out = program_view(p, out),
                              .n_in = n_in,
                              .n_out = a->n}};
    program_emit(p, &op, "altup_mix");
}

struct view altup_stream(struct build *b, const struct altup *a, uint32_t index)
{
    return stream_in(b, a->streams, index);
}

struct view altup_predict(struct build *b, const struct altup *a, uint32_t index)
{
    route(b, a, (int)index, stream_in(b, a->streams, a->active), "altup_predict_coef", a->n * a->n,
          NO_WEIGHT);
    mix(b, a, program_view(b->program, a->streams), a->n, a->streams, a->predicted);
    return stream_in(b, a->predicted, a->active);
}

void altup_correct(struct build *b, const struct altup *a, uint32_t index)
{
    struct view x = build_x(b), change = program_view(b->program, a->change);
    route(b, a, (int)index, x, "altup_correct_coef", a->n, a->ones);
    add(b, "altup_change", x, stream_in(b, a->predicted, a->active), change, -1.0f);
    mix(b, a, change, 1, a->predicted, a->streams);
}

/* A vector through one of the projections, at the length of stream 0, in `change`. */
static struct view project(struct build *b, const struct altup *a, const char *role, uint32_t index,
                           struct view in)
{
    struct view change = program_view(b->program, a->change);
    struct op op = {.kind = OP_LINEAR,
                    .u.linear = {.in = in,
                                 .out = change,
                                 .residual = VIEW_NONE,
                                 .weight = build_stack_item(b, -1, role, index - 1, a->n - 1,
                                                            change.width, in.width),
                                 .bias = NO_WEIGHT,
                                 .scale = 1.0f}};
    program_emit(b->program, &op, "%s.%u", role, index - 1);
    match(b, change, stream_in(b, a->streams, 0));
    return change;
}

void altup_open(struct build *b, const struct altup *a)
{
    struct view x = build_x(b);
    build_take(b, -1, "stream", x, 1, 0, stream_in(b, a->streams, 0));
    for (uint32_t i = 1; i < a->n; i++)
        build_take(b, -1, "stream", project(b, a, "altup_proj", i, x), 1, 0,
                   stream_in(b, a->streams, i));
}

void altup_close(struct build *b, const struct altup *a)
{
    struct view x = build_x(b);
    build_take(b, -1, "stream", stream_in(b, a->streams, 0), 1, 0, x);
    for (uint32_t i = 1; i < a->n; i++)
        add(b, "stream_add", x, project(b, a, "altup_unembd_proj", i, stream_in(b, a->streams, i)),
            x, 1.0f);
    build_scale(b, "stream_mean", x, &(float){1.0f / (float)a->n}, 1);
}
