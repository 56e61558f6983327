/*
 * Two numeric classes: each row is multiplied by its own class's kernels, whatever rows share its step.
 *
 * Processors whose kernels tell classes apart are rare, so prompt kernels are put in: the scalar twins,
 * and others for types that have none. A program of everything that multiplies, but nothing that lets
 * rows see each other, is played with prompt rows only, with generated rows only, and with both in any
 * mixture: a row must have the bits of the one or the other, and the two must differ in every row.
 */
#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "fixture.h"
#include "op_kit.h"
#include "prompt_kernels.h"

#define WIDTH 256
#define FF    256
#define CROWD                                                                                      \
    37 /* most sequences: more rows of a class in a step than one call of a kernel takes */
#define POSITIONS 29 /* most of a sequence */

static int32_t matrix(struct kit *kit, enum tensor_type type, uint32_t n_rows, uint32_t n_cols)
{
    return kit_matrix(kit, "m", type, 1, n_rows, n_cols, type == TENSOR_F32 ? 0.1f : 0.2f);
}

static void add_linear(struct kit *kit, enum tensor_type type, struct view in, struct view out,
                       struct view residual, bool more)
{
    struct op op = {.kind = OP_LINEAR};
    op.u.linear = (struct op_linear){.in = in, .out = out, .residual = residual, .scale = 1.0f};
    op.u.linear.weight = matrix(kit, type, out.width, in.width);
    op.u.linear.bias = NO_WEIGHT;
    if (more) {
        op.u.linear.bias = kit_vector(kit, "b", TENSOR_F32, out.width, 0.0f, 0.5f);
        op.u.linear.act = ACT_SILU;
        op.u.linear.scale = 0.75f;
    }
    program_emit(kit->program, &op, "linear");
}

static struct view add_norm(struct kit *kit, struct view in)
{
    struct op op = {.kind = OP_NORM};
    op.u.norm = (struct op_norm){
        .in = in, .out = kit_buffer(kit, "normed", in.width), .group = in.width, .eps = 1e-6f};
    op.u.norm.weight = kit_vector(kit, "w", TENSOR_F32, in.width, 1.0f, 0.2f);
    op.u.norm.bias = NO_WEIGHT;
    program_emit(kit->program, &op, "norm");
    return op.u.norm.out;
}

/* rows += down(gate(in), up(in)) */
static void add_gated(struct kit *kit, enum tensor_type gate, enum tensor_type up,
                      enum tensor_type down, struct view in, struct view rows)
{
    struct op op = {.kind = OP_GATED};
    op.u.gated = (struct op_gated){.in = in, .out = kit_buffer(kit, "ffn", FF), .act = ACT_SILU};
    op.u.gated.gate = matrix(kit, gate, FF, WIDTH);
    op.u.gated.up = matrix(kit, up, FF, WIDTH);
    op.u.gated.gate_bias = op.u.gated.up_bias = NO_WEIGHT;
    program_emit(kit->program, &op, "gated");
    add_linear(kit, down, op.u.gated.out, rows, rows, false);
}

static void add_experts(struct kit *kit, struct view in, struct view rows)
{
    struct op op = {.kind = OP_ROUTE};
    struct view route = kit_buffer(kit, "route", 4);
    op.u.route = (struct op_route){.in = in, .out = route, .n_experts = 5, .k = 2, .scale = 1.0f};
    op.u.route.weight = kit_matrix(kit, "router", TENSOR_F32, 1, 5, WIDTH, 0.2f);
    op.u.route.bias = op.u.route.score_bias = NO_WEIGHT;
    program_emit(kit->program, &op, "route");
    op = (struct op){.kind = OP_EXPERTS};
    op.u.experts = (struct op_experts){.in = in,
                                       .route = route,
                                       .hidden = kit_buffer(kit, "hidden", 2 * 256),
                                       .out = rows,
                                       .residual = rows,
                                       .act = ACT_SILU,
                                       .k = 2};
    op.u.experts.gate = kit_matrix(kit, "gate", TENSOR_Q4_K, 5, 256, WIDTH, 0.1f);
    op.u.experts.up = kit_matrix(kit, "up", TENSOR_Q4_K, 5, 256, WIDTH, 0.1f);
    op.u.experts.down = kit_matrix(kit, "down", TENSOR_Q8_0, 5, WIDTH, 256, 0.1f);
    op.u.experts.gate_bias = op.u.experts.up_bias = op.u.experts.down_bias = NO_WEIGHT;
    program_emit(kit->program, &op, "experts");
}

/* Matrices with and without prompt kernels that read the same rows, given and not given; experts, and
 * what stands behind a selection. */
static void build(struct kit *kit)
{
    kit_init(kit, 5, 61);
    struct view rows = kit_embed(kit, WIDTH), normed = add_norm(kit, rows);
    struct view q = kit_buffer(kit, "q", 96), v = kit_buffer(kit, "v", 80);
    add_linear(kit, TENSOR_Q4_K, normed, q, VIEW_NONE, true);
    add_linear(kit, TENSOR_F16, normed, v, VIEW_NONE, false);
    add_linear(kit, TENSOR_Q6_K, normed, rows, rows, false);
    add_linear(kit, TENSOR_Q8_0, q, rows, rows, false); /* quantised at its start */
    add_linear(kit, TENSOR_F32, v, rows, rows, false);
    add_gated(kit, TENSOR_Q4_K, TENSOR_Q4_K, TENSOR_Q6_K, add_norm(kit, rows), rows);
    /* After one that quantises generated rows only, experts need all in the same form. */
    struct view projected = kit_buffer(kit, "projected", WIDTH);
    add_linear(kit, TENSOR_Q5_K, add_norm(kit, rows), projected, VIEW_NONE, false);
    add_linear(kit, TENSOR_Q4_K, projected, rows, rows, false);
    add_experts(kit, projected, rows);
    add_gated(kit, TENSOR_Q4_K, TENSOR_Q8_0, TENSOR_Q4_0, projected, rows);
    add_gated(kit, TENSOR_BF16, TENSOR_F16, TENSOR_Q4_K, add_norm(kit, rows), rows);
    struct view selected = kit_select(kit, rows);
    struct op op = {.kind = OP_LOGITS};
    kit->program->logits = program_buffer(kit->program, "logits", 61, ROWS_OUTPUT);
    op.u.logits.in = selected;
    op.u.logits.out = program_view(kit->program, kit->program->logits);
    op.u.logits.weight = matrix(kit, TENSOR_Q6_K, 61, WIDTH);
    op.u.logits.bias = NO_WEIGHT;
    op.u.logits.scale = 1.0f;
    program_emit(kit->program, &op, "logits");
    if (!kit_finish(kit))
        fail_msg("the program: %s", kit->error.message);
}

/* ---- scripts ----------------------------------------------------------------------------------- */

/* How many sequences of how many positions. */
struct size {
    uint32_t crowd, positions;
};

static uint8_t class_at(uint32_t sequence, uint32_t position)
{
    return (sequence * 5 + position / 7 * 3) % 8 < 3 ? CLASS_GENERATED : CLASS_PROMPT;
}

enum classes { ALL_PROMPT, ALL_GENERATED, MIXED, FEW_GENERATED, FEW_PROMPT };

/* Slices of odd lengths in changing order. Of a mixed script every row has the class that its place
 * says; else one row of some slices has the other class. */
static struct script play_classes(enum classes classes, struct size size)
{
    struct script script;
    script_init(&script, 3, 16);
    uint32_t at[CROWD] = {0}, left = size.crowd;
    for (uint32_t step = 0; left; step++)
        for (uint32_t i = 0; i < size.crowd; i++) {
            uint32_t s = (i * 5 + step) % size.crowd, n = 1 + (s * 7 + step * 3) % 17;
            if (at[s] == size.positions)
                continue;
            uint8_t here = classes == MIXED                                    ? class_at(s, at[s])
                           : classes == ALL_PROMPT || classes == FEW_GENERATED ? CLASS_PROMPT
                                                                               : CLASS_GENERATED;
            if ((classes == FEW_GENERATED || classes == FEW_PROMPT) && (s + step) % 13 == 0) {
                here = here == CLASS_PROMPT ? CLASS_GENERATED : CLASS_PROMPT;
                n = 1;
            }
            n = n < size.positions - at[s] ? n : size.positions - at[s];
            for (uint32_t r = 1; classes == MIXED && r < n; r++)
                if (class_at(s, at[s] + r) != here)
                    n = r;
            script_add(&script, step, s, s, at[s], n);
            script_last(&script)->numeric_class = here;
            at[s] += n;
            left -= at[s] == size.positions;
        }
    return script;
}

/* ---- playing ----------------------------------------------------------------------------------- */

struct table {
    struct size size;
    struct run_result result;
    const struct run_row *rows[CROWD][POSITIONS];
    uint8_t classes[CROWD][POSITIONS];
};

static void play(const struct kit *kit, const struct backend_config *config, enum classes classes,
                 struct size size, struct table *out)
{
    static struct script script;
    const struct backend_api *api;
    struct error err = {0};
    script = play_classes(classes, size);
    out->size = size;
    assert_ok(backend_find("cpu", &api, NULL, &err), &err);
    assert_ok(kit_run(kit, &script, api, config, TENSOR_F16, &out->result, &err), &err);
    uint32_t i = 0;
    for (uint32_t s = 0; s < script.n_slices; s++)
        for (uint32_t r = 0; r < script.slices[s].n; r++, i++) {
            const struct run_row *row = &out->result.rows[i];
            out->rows[row->sequence][row->position] = row;
            out->classes[row->sequence][row->position] = script.slices[s].numeric_class;
        }
    assert_int_equal(i, out->result.n_rows);
}

static bool same_row(const struct table *a, const struct table *b, uint32_t s, uint32_t p)
{
    const struct run_row *x = a->rows[s][p], *y = b->rows[s][p];
    const struct run_result *r = &a->result;
    return memcmp(x->hidden, y->hidden, r->hidden_width * sizeof(float)) == 0 &&
           (!x->logits || memcmp(x->logits, y->logits, r->n_vocab * sizeof(float)) == 0);
}

/* The classes differ by their rounding only: of all rows' differences, against the rows. */
static double distance(const struct table *a, const struct table *b)
{
    double apart = 0.0, size = 0.0;
    for (uint32_t s = 0; s < a->size.crowd; s++)
        for (uint32_t p = 0; p < a->size.positions; p++)
            for (uint32_t c = 0; c < a->result.hidden_width; c++) {
                double x = a->rows[s][p]->hidden[c], d = x - b->rows[s][p]->hidden[c];
                apart += d * d;
                size += x * x;
            }
    return sqrt(apart / size);
}

/* Rows of `here` have the bits of their class's table. */
static void of_their_class(const struct table *here,
                           const struct table *const pure[CLASS_GENERATED + 1], const char *what)
{
    uint32_t n[CLASS_GENERATED + 1] = {0};
    for (uint32_t s = 0; s < here->size.crowd; s++)
        for (uint32_t p = 0; p < here->size.positions; p++) {
            uint8_t row_class = here->classes[s][p];
            n[row_class]++;
            if (!same_row(here, pure[row_class], s, p))
                fail_msg("%s: row %u of sequence %u is not as %s rows alone", what, p, s,
                         row_class == CLASS_PROMPT ? "prompt" : "generated");
        }
    assert_true(n[CLASS_PROMPT] && n[CLASS_GENERATED]);
}

static void with(const struct kernel_set *set, struct size size,
                 const struct backend_config *config)
{
    static struct table without, prompt, generated, mixed;
    static const enum classes mixtures[] = {MIXED, FEW_GENERATED, FEW_PROMPT};
    struct kit kit;
    build(&kit);
    kernels_set_prompt(&(struct kernel_set){0});
    play(&kit, config, ALL_PROMPT, size, &without);
    assert_null(strstr(without.result.kernels, "prompts:"));
    kernels_set_prompt(set);
    play(&kit, config, ALL_PROMPT, size, &prompt);
    play(&kit, config, ALL_GENERATED, size, &generated);
    assert_non_null(strstr(prompt.result.kernels, "; prompts: "));
    for (uint32_t s = 0; s < size.crowd; s++)
        for (uint32_t p = 0; p < size.positions; p++) {
            assert_true(same_row(&without, &generated, s, p));
            assert_false(same_row(&without, &prompt, s, p));
        }
    assert_true(distance(&generated, &prompt) < 0.1);
    const struct table *const pure[] = {[CLASS_PROMPT] = &prompt, [CLASS_GENERATED] = &generated};
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++) {
        play(&kit, config, mixtures[i], size, &mixed);
        of_their_class(&mixed, pure, set->name);
        run_result_free(&mixed.result);
    }
    kernels_set_prompt(NULL);
    run_result_free(&without.result);
    run_result_free(&prompt.result);
    run_result_free(&generated.result);
    kit_free(&kit);
}

static void test_each_row_by_its_class(void **state)
{
    (void)state;
    if (!kernel_for_packed(TENSOR_Q4_K)) {
        print_message("this machine packs no matrices, so it has one class\n");
        skip();
    }
    const struct size few = {3, 9}, many = {CROWD, POSITIONS}; /* the twins are slow */
    with(&kernel_set_scalar, few, &(struct backend_config){.n_threads = 2});
    with(&prompt_kernels, many, &(struct backend_config){.n_threads = 1});
    with(&prompt_kernels, many, &(struct backend_config){.n_threads = 3});
    with(&prompt_kernels, many,
         &(struct backend_config){.n_threads = 2, .ahead = BACKEND_AHEAD_ALWAYS});
}

/* Nothing is packed, so classes are alike. */
static void test_exact_has_one_class(void **state)
{
    (void)state;
    static struct table prompt, mixed;
    struct kit kit;
    build(&kit);
    kernels_set_prompt(&prompt_kernels);
    const struct size size = {3, 20};
    const struct backend_config exact = {.exact = true, .n_threads = 2};
    play(&kit, &exact, ALL_PROMPT, size, &prompt);
    play(&kit, &exact, MIXED, size, &mixed);
    assert_null(strstr(prompt.result.kernels, "prompts:"));
    for (uint32_t s = 0; s < size.crowd; s++)
        for (uint32_t p = 0; p < size.positions; p++)
            assert_true(same_row(&prompt, &mixed, s, p));
    kernels_set_prompt(NULL);
    run_result_free(&prompt.result);
    run_result_free(&mixed.result);
    kit_free(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_row_by_its_class),
        cmocka_unit_test(test_exact_has_one_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
