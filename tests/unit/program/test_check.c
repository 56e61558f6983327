/* A program that does not fit together is stopped by program_finish() with the operation's name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "program/program.h"

#define VOCABULARY 16

struct fixture {
    struct program *p;
    struct view rows; /* 64 wide */
    struct view out;  /* 32 wide */
    int32_t group;
};

static int32_t constant(struct fixture *f, uint32_t n)
{
    static const float zeros[1024];
    return program_constant(f->p, "zeros", zeros, n);
}

static int32_t matrices(struct fixture *f, uint32_t count, uint32_t rows, uint32_t cols)
{
    static const float zeros[4096];
    const void *parts[8];
    for (uint32_t i = 0; i < count; i++)
        parts[i] = zeros;
    struct weight w = {.name = "w",
                       .type = TENSOR_F32,
                       .count = count,
                       .n_rows = rows,
                       .n_cols = cols,
                       .parts = parts};
    return program_weight(f->p, &w);
}

static struct fixture begin(enum group_kind kind, uint32_t floats)
{
    struct fixture f = {.p = program_create("test")};
    assert_non_null(f.p);
    f.p->n_vocab = VOCABULARY;
    f.p->n_context = 8;
    f.rows = program_view(f.p, program_buffer(f.p, "rows", 64, ROWS_STEP));
    f.out = program_view(f.p, program_buffer(f.p, "out", 32, ROWS_STEP));
    struct state_group group = {.name = "group",
                                .kind = kind,
                                .n_layers = 1,
                                .n_kv_heads = 1,
                                .k_head_dim = 4,
                                .v_head_dim = 12,
                                .state_floats = floats};
    f.group = (int32_t)program_group(f.p, &group);
    struct op op = {.kind = OP_EMBED,
                    .u.embed = {.out = f.rows, .table = matrices(&f, 1, VOCABULARY, 64)}};
    program_emit(f.p, &op, "embed");
    return f;
}

/* Emits the operation, finishes; the error must name it and say `problem`, NULL: there is none. */
static void finish(struct fixture *f, const struct op *op, const char *problem)
{
    struct error err = {0};
    program_emit(f->p, op, "the.op");
    f->p->hidden = program_buffer(f->p, "hidden", 64, ROWS_OUTPUT);
    struct op select = {.kind = OP_SELECT,
                        .u.select = {.in = f->rows, .out = program_view(f->p, f->p->hidden)}};
    program_emit(f->p, &select, "select");
    enum status status = program_finish(f->p, &err);
    if (!problem) {
        if (status != STATUS_OK)
            fail_msg("%s", err.message);
    } else {
        assert_int_equal(status, STATUS_MODEL);
        assert_non_null(strstr(err.message, "the.op"));
        if (!strstr(err.message, problem))
            fail_msg("\"%s\" does not say \"%s\"", err.message, problem);
    }
    program_free(f->p);
}

/* 4 heads of 8 columns in 2 groups of 3 states. */
static struct op ssm(struct fixture *f)
{
    return (struct op){.kind = OP_SSM,
                       .u.ssm = {.x = view_columns(f->rows, 0, 32),
                                 .dt = view_columns(f->rows, 32, 4),
                                 .b = view_columns(f->rows, 36, 6),
                                 .c = view_columns(f->rows, 42, 6),
                                 .out = f->out,
                                 .a = constant(f, 4),
                                 .d = constant(f, 4),
                                 .dt_bias = NO_WEIGHT,
                                 .n_heads = 4,
                                 .head_dim = 8,
                                 .n_groups = 2,
                                 .n_state = 3,
                                 .dt_max = 1.0f}};
}

static void test_ssm(void **state)
{
    (void)state;
    static const struct {
        const char *problem;
        uint32_t floats, n_groups, b_width, a;
        float dt_min;
    } cases[] = {
        {NULL, 96, 2, 6, 4, 0.0f},         {NULL, 96, 2, 6, 12, 0.0f},
        {"state size", 95, 2, 6, 4, 0.0f}, {"heads over groups", 96, 3, 6, 4, 0.0f},
        {"b width", 96, 2, 5, 4, 0.0f},    {"a length", 96, 2, 6, 5, 0.0f},
        {"limits", 96, 2, 6, 4, 2.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = begin(GROUP_RECURRENT, cases[i].floats);
        struct op op = ssm(&f);
        op.u.ssm.n_groups = cases[i].n_groups;
        op.u.ssm.b.width = cases[i].b_width;
        op.u.ssm.a = constant(&f, cases[i].a);
        op.u.ssm.dt_min = cases[i].dt_min;
        finish(&f, &op, cases[i].problem);
    }
    struct fixture f = begin(GROUP_RECURRENT, 96);
    struct op op = ssm(&f);
    op.u.ssm.out = view_columns(f.rows, 0, 32);
    finish(&f, &op, "buffer of the result");
    f = begin(GROUP_KV, 96);
    op = ssm(&f);
    finish(&f, &op, "group kind");
}

static void test_delta(void **state)
{
    (void)state;
    static const struct {
        const char *problem;
        uint32_t floats, key_heads, v_width;
    } cases[] = {
        {NULL, 4 * 3 * 8, 2, 32},
        {"state size", 4 * 3 * 7, 2, 32},
        {"value heads over key heads", 96, 3, 32},
        {"v width", 96, 2, 31},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = begin(GROUP_RECURRENT, cases[i].floats);
        struct op op = {.kind = OP_DELTA,
                        .u.delta = {.q = view_columns(f.rows, 0, 6),
                                    .k = view_columns(f.rows, 6, 6),
                                    .v = view_columns(f.rows, 12, cases[i].v_width),
                                    .decay = view_columns(f.rows, 44, 4),
                                    .beta = view_columns(f.rows, 48, 4),
                                    .out = f.out,
                                    .a = constant(&f, 4),
                                    .dt_bias = constant(&f, 4),
                                    .n_heads = 4,
                                    .n_key_heads = cases[i].key_heads,
                                    .k_dim = 3,
                                    .v_dim = 8}};
        finish(&f, &op, cases[i].problem);
    }
}

static void test_heads(void **state)
{
    (void)state;
    static const struct {
        const char *problem;
        uint32_t count, rows, cols, in_column, out_width;
        bool transposed, copy;
    } cases[] = {
        {NULL, 4, 5, 7, 2, 5, false, false},
        {NULL, 4, 7, 5, 2, 5, true, false},
        {NULL, 4, 7, 5, 2, 7, false, true},
        {"matrices in the stack", 3, 5, 7, 2, 5, false, false},
        {"weight", 4, 7, 5, 2, 5, false, false},
        {"columns of an input head", 4, 5, 7, 10, 5, false, false},
        {"columns of an output head", 4, 9, 7, 2, 9, false, false},
        {"columns to copy", 4, 5, 7, 2, 5, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = begin(GROUP_RECURRENT, 1);
        struct op op = {
            .kind = OP_HEADS,
            .u.heads = {.in = f.rows,
                        .out = f.out,
                        .weight = cases[i].copy
                                      ? NO_WEIGHT
                                      : matrices(&f, cases[i].count, cases[i].rows, cases[i].cols),
                        .transposed = cases[i].transposed,
                        .n_heads = 4,
                        .in_column = cases[i].in_column,
                        .in_width = 7,
                        .out_width = cases[i].out_width}};
        finish(&f, &op, cases[i].problem);
    }
}

static void test_latent_attention(void **state)
{
    (void)state;
    for (uint32_t width = 31; width <= 32; width++) {
        struct fixture f = begin(GROUP_LATENT, 0);
        struct op op = {.kind = OP_ATTENTION,
                        .u.attention = {.q = view_columns(f.rows, 0, width), /* 2 (4 + 12) */
                                        .out = view_columns(f.out, 0, 24),
                                        .n_heads = 2,
                                        .group = (uint32_t)f.group,
                                        .scale = 1.0f,
                                        .sinks = NO_WEIGHT}};
        finish(&f, &op, width == 32 ? NULL : "q width");
    }
}

static void test_route_groups(void **state)
{
    (void)state;
    static const struct {
        const char *problem;
        uint32_t groups, chosen, best, k;
    } cases[] = {
        {NULL, 4, 2, 2, 4},
        {"groups of experts", 3, 2, 2, 4},
        {"groups to choose from", 4, 5, 2, 4},
        {"groups to choose from", 4, 1, 2, 4}, /* two experts for four choices */
        {"experts that score a group", 4, 2, 3, 4},
        {"experts that score a group", 8, 4, 2, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f = begin(GROUP_RECURRENT, 1);
        struct op op = {.kind = OP_ROUTE,
                        .u.route = {.in = f.rows,
                                    .out = view_columns(f.out, 0, 8),
                                    .weight = matrices(&f, 1, 8, 64),
                                    .bias = NO_WEIGHT,
                                    .score_bias = NO_WEIGHT,
                                    .n_experts = 8,
                                    .k = cases[i].k,
                                    .n_groups = cases[i].groups,
                                    .k_groups = cases[i].chosen,
                                    .group_best = cases[i].best}};
        finish(&f, &op, cases[i].problem);
    }
}

static void test_streams(void **state)
{
    (void)state;
    for (uint32_t coefs = 7; coefs <= 8; coefs++) {
        struct fixture f = begin(GROUP_RECURRENT, 1);
        int32_t small = program_buffer(f.p, "coefs", coefs, ROWS_STEP);
        struct op op = {.kind = OP_MIX,
                        .u.mix = {.in = f.rows, /* 4 streams of 16 -> 2 of 16 */
                                  .coefs = program_view(f.p, small),
                                  .residual = f.out,
                                  .out = f.out,
                                  .n_in = 4,
                                  .n_out = 2}};
        struct op fill = {.kind = OP_ADD,
                          .u.add = {view_columns(f.rows, 0, coefs), view_columns(f.rows, 0, coefs),
                                    program_view(f.p, small), 1.0f}};
        program_emit(f.p, &fill, "fill");
        finish(&f, &op, coefs == 8 ? NULL : "coefficients");
    }
    struct fixture f = begin(GROUP_RECURRENT, 1);
    struct op op = {.kind = OP_MATCH, .u.match = {f.out, f.rows, f.out, -1.0f}};
    finish(&f, &op, "least mean square");
    f = begin(GROUP_RECURRENT, 1);
    op = (struct op){.kind = OP_MUL, .u.mul = {view_columns(f.rows, 0, 5), f.out, f.out, ACT_NONE}};
    finish(&f, &op, "a width");
    f = begin(GROUP_RECURRENT, 1);
    op = (struct op){.kind = OP_MUL, .u.mul = {f.out, f.out, f.out, ACT_CLAMPED_SWIGLU}};
    finish(&f, &op, "activation");
    f = begin(GROUP_RECURRENT, 1);
    op = (struct op){.kind = OP_EMBED,
                     .u.embed = {.out = f.rows, .table = matrices(&f, 1, VOCABULARY + 1, 64)}};
    finish(&f, &op, "rows of the table");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ssm),          cmocka_unit_test(test_delta),
        cmocka_unit_test(test_heads),        cmocka_unit_test(test_latent_attention),
        cmocka_unit_test(test_route_groups), cmocka_unit_test(test_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
