/*
 * Packed kernels against their scalar twin, bit for bit, and packing against the file's own blocks.
 *
 * Every set that this machine can run is tested, not only the best one. Shapes are odd on purpose:
 * column counts that end within an activation block, every number of activation rows up to the most,
 * panels that are not full.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "fixture.h"
#include "random_blocks.h"

#define COLS_MAX 2304

static const enum tensor_type packed_types[] = {
    TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_Q2_K, TENSOR_Q3_K,   TENSOR_IQ4_XS, TENSOR_Q8_0,
    TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_IQ4_NL, TENSOR_MXFP4,
};
#define N_TYPES (sizeof packed_types / sizeof *packed_types)

struct operands {
    uint8_t *rows;  /* PANEL_ROWS rows as in a file */
    uint8_t *panel; /* the same, packed */
    float *x;       /* [n_x, n_cols] */
    uint64_t row_bytes;
    uint32_t n_cols;
};

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* n_rows of weights, n_x of activations. */
static struct operands make_operands(enum tensor_type type, uint32_t n_cols, uint32_t n_rows,
                                     uint32_t n_x, uint64_t *seed)
{
    const struct packed_layout *layout = packed_layout(type);
    struct operands o = {.n_cols = n_cols};
    assert_true(tensor_type_bytes(type, n_cols, &o.row_bytes));
    o.rows = memory(o.row_bytes * PANEL_ROWS);
    o.panel = memory(packed_panel_bytes(layout, n_cols));
    o.x = memory((size_t)n_x * n_cols * sizeof(float));
    random_blocks(type, o.rows, o.row_bytes * PANEL_ROWS, seed);
    for (uint64_t at = 0; type == TENSOR_MXFP4 && at < o.row_bytes * PANEL_ROWS; at += 17 * 61)
        o.rows[at] = (uint8_t)(at / 17 / 61 % 4); /* scales that are subnormal, or nearly */
    packed_write(layout, o.rows, o.row_bytes, n_rows, n_cols, o.panel);
    for (size_t i = 0; i < (size_t)n_x * n_cols; i++)
        o.x[i] = random_normal(seed) * (random_u32(seed) % 200 ? 1.0f : 60.0f);
    return o;
}

static void free_operands(struct operands *o)
{
    free(o->rows);
    free(o->panel);
    free(o->x);
}

/* Activations of all rows, [block][row] with room for n rows; the caller frees. Float rows need none:
 * NULL. */
static uint8_t *quantise_rows(const struct operands *o, enum act_form form, act_quantise *quantise,
                              struct act_rows *rows)
{
    size_t size = act_block_bytes(form);
    for (uint32_t m = 0; form == ACT_FLOAT && m < rows->n; m++)
        rows->x[m] = o->x + (size_t)m * o->n_cols;
    if (form == ACT_FLOAT)
        return NULL;
    uint8_t *blocks = memory(act_blocks(o->n_cols) * rows->n * size);
    rows->block_stride = rows->n * size;
    for (uint32_t m = 0; m < rows->n; m++) {
        rows->x[m] = blocks + m * size;
        for (uint32_t b = 0; b < act_blocks(o->n_cols); b++) {
            uint32_t left = o->n_cols - b * ACT_COLUMNS;
            quantise(form, o->x + (size_t)m * o->n_cols + b * ACT_COLUMNS,
                     left < ACT_COLUMNS ? left : ACT_COLUMNS, blocks + (b * rows->n + m) * size);
        }
    }
    return blocks;
}

static const char *only;  /* the one set to test; NULL: all */
static bool prompts_only; /* of its kernels those of prompt rows */

/* Kernel k of a set, those of prompt rows last; NULL past the end. */
static const struct packed_kernel *kernel_at(const struct kernel_set *set, uint32_t k)
{
    if (prompts_only)
        k += set->n_packed;
    if (k < set->n_packed)
        return &set->packed[k];
    return k - set->n_packed < set->n_prompt ? &set->prompt[k - set->n_packed] : NULL;
}

static bool runs_here(const struct kernel_set *set)
{
    return (!only || !strcmp(set->name, only)) && (!set->usable || set->usable());
}

/* Results of one kernel with its own set's quantiser; out: [KERNEL_X * PANEL_ROWS]. */
static void compute(const struct operands *o, const struct packed_kernel *kernel,
                    act_quantise *quantise, uint32_t n, float *out)
{
    struct act_rows rows = {.n = n};
    uint8_t *blocks = quantise_rows(o, kernel->form, quantise, &rows);
    kernel->dots(o->panel, o->n_cols, &rows, out);
    free(blocks);
}

static void compare(const struct kernel_set *set, const struct packed_kernel *kernel,
                    uint32_t n_cols, uint32_t n, uint32_t n_rows, uint64_t *seed)
{
    static float want[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    static float got[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    struct operands o = make_operands(kernel->type, n_cols, n_rows, n, seed);
    const struct packed_kernel *twin = kernel_twin(kernel);
    assert_non_null(twin);
    compute(&o, twin, act_quantise_scalar, n, want);
    compute(&o, kernel, set->quantise, n, got);
    for (uint32_t i = 0; i < n * PANEL_ROWS; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s, %u columns, %u rows of activations: row %u of panel, activation %u: "
                     "%.9g, the twin says %.9g",
                     kernel->name, n_cols, n, i % PANEL_ROWS, i / PANEL_ROWS, (double)got[i],
                     (double)want[i]);
    free_operands(&o);
}

static void test_bits(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        if (!set->n_packed)
            continue;
        if (!runs_here(set)) {
            print_message("%s: not on this machine, or not asked for\n", set->name);
            continue;
        }
        const struct packed_kernel *kernel;
        for (uint32_t k = 0; (kernel = kernel_at(set, k)); k++) {
            if (!tensor_type_info(kernel->type)->decode && kernel->form == ACT_FLOAT)
                continue; /* what quant/ cannot decode the backend does not pack */
            uint32_t unit = packed_layout(kernel->type)->block_columns;
            for (uint32_t n = 1; n <= KERNEL_X; n += 1 + n / 40 * 13)
                compare(set, kernel, unit * (1 + n % 7), n, 1 + n % PANEL_ROWS, &seed);
            compare(set, kernel, COLS_MAX, 1, PANEL_ROWS, &seed);
            compare(set, kernel, COLS_MAX, 2, PANEL_ROWS, &seed);
            compare(set, kernel, COLS_MAX, 33, PANEL_ROWS, &seed);
        }
        print_message("%s: %u kernels, %u for prompts\n", set->name, set->n_packed, set->n_prompt);
    }
}

/* Largest magnitudes everywhere: where a narrow sum would overflow, it does here. */
static void test_extremes(void **state)
{
    (void)state;
    static float want[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    static float got[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        const struct packed_kernel *kernel;
        for (uint32_t k = 0; runs_here(set) && (kernel = kernel_at(set, k)); k++) {
            if (kernel->form == ACT_FLOAT || kernel->type == TENSOR_BF16)
                continue;
            const struct packed_kernel *twin = kernel_twin(kernel);
            for (uint32_t fill = 0; fill < 4; fill++) {
                uint64_t seed = 1;
                struct operands o = make_operands(kernel->type, 512, PANEL_ROWS, 33, &seed);
                random_blocks_extreme(kernel->type, o.rows, o.row_bytes * PANEL_ROWS,
                                      fill % 2 ? 0xff : 0x80);
                packed_write(packed_layout(kernel->type), o.rows, o.row_bytes, PANEL_ROWS, 512,
                             o.panel);
                for (uint32_t i = 0; i < 33 * 512; i++)
                    o.x[i] = fill / 2 ? -1.0f : 1.0f;
                for (uint32_t n = 1; n <= 33; n += n < 9 ? 1 : 12) {
                    compute(&o, twin, act_quantise_scalar, n, want);
                    compute(&o, kernel, set->quantise, n, got);
                    if (memcmp(got, want, n * PANEL_ROWS * sizeof *got) != 0)
                        fail_msg("%s overflows (%u rows)", kernel->name, n);
                }
                free_operands(&o);
            }
        }
    }
}

/* A row of the result does not depend on its company. */
static void test_company(void **state)
{
    (void)state;
    static float all[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    static float one[PANEL_ROWS] __attribute__((aligned(64)));
    uint64_t seed = 9;
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        const struct packed_kernel *kernel;
        for (uint32_t k = 0; runs_here(set) && (kernel = kernel_at(set, k)); k++) {
            struct operands o = make_operands(kernel->type, 768, PANEL_ROWS, 33, &seed);
            for (uint32_t n = 2; n <= 33; n++) {
                struct act_rows rows = {.n = n};
                uint8_t *blocks = quantise_rows(&o, kernel->form, set->quantise, &rows);
                kernel->dots(o.panel, o.n_cols, &rows, all);
                uint32_t m = random_u32(&seed) % n;
                struct act_rows alone = {
                    .x = {rows.x[m]}, .block_stride = rows.block_stride, .n = 1};
                kernel->dots(o.panel, o.n_cols, &alone, one);
                if (memcmp(one, all + m * PANEL_ROWS, sizeof one) != 0)
                    fail_msg("%s: row %u of %u differs alone", kernel->name, m, n);
                free(blocks);
            }
            free_operands(&o);
        }
    }
}

/* Two panels at once are as each alone. */
static void test_two(void **state)
{
    (void)state;
    static float both[2][KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    static float one[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    uint64_t seed = 11;
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        const struct packed_kernel *kernel;
        for (uint32_t k = 0; runs_here(set) && (kernel = kernel_at(set, k)); k++) {
            dots_two *dots = kernel_for_two(kernel);
            uint32_t unit = packed_layout(kernel->type)->block_columns;
            for (uint32_t n = 1; dots && n <= KERNEL_X; n += 1 + n / 8) {
                uint32_t n_cols = n % 3 ? unit * (1 + 13 * n % 300) : 768;
                struct operands a = make_operands(kernel->type, n_cols, PANEL_ROWS, n, &seed);
                struct operands b = make_operands(kernel->type, n_cols, PANEL_ROWS, n, &seed);
                struct act_rows rows = {.n = n};
                uint8_t *blocks = quantise_rows(&a, kernel->form, set->quantise, &rows);
                const void *first = rows.x[0];
                if (n % 4 == 1) { /* not at equal distances */
                    rows.x[0] = rows.x[n / 2];
                    rows.x[n / 2] = first;
                }
                const uint8_t *panels[2] = {a.panel, b.panel};
                dots(panels, n_cols, &rows, (float *[]){both[0], both[1]});
                for (uint32_t i = 0; i < 2; i++) {
                    kernel->dots(panels[i], n_cols, &rows, one);
                    if (memcmp(one, both[i], (size_t)n * PANEL_ROWS * sizeof *one) != 0)
                        fail_msg("%s: panel %u of two, %u rows, %u columns", kernel->name, i, n,
                                 n_cols);
                }
                free(blocks);
                free_operands(&a);
                free_operands(&b);
            }
        }
    }
}

/* Many panels at once are as each alone. */
static void check_many(const struct packed_kernel *kernel, act_quantise *quantise, uint32_t n_cols,
                       uint32_t n_panels, uint32_t n, uint64_t *seed)
{
    static float all[KERNEL_PANELS][KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    static float one[KERNEL_X * PANEL_ROWS] __attribute__((aligned(64)));
    struct operands o[KERNEL_PANELS];
    const uint8_t *panels[KERNEL_PANELS];
    float *out[KERNEL_PANELS];
    for (uint32_t p = 0; p < n_panels; p++) {
        o[p] = make_operands(kernel->type, n_cols, PANEL_ROWS, p ? 1 : n, seed);
        panels[p] = o[p].panel;
        out[p] = all[p];
    }
    struct act_rows rows = {.n = n};
    uint8_t *blocks = quantise_rows(&o[0], kernel->form, quantise, &rows);
    if (n % 3 == 1) { /* not at equal distances */
        const void *first = rows.x[0];
        rows.x[0] = rows.x[n / 2];
        rows.x[n / 2] = first;
    }
    kernel_for_many(kernel)(panels, n_panels, n_cols, &rows, out);
    for (uint32_t p = 0; p < n_panels; p++) {
        kernel->dots(panels[p], n_cols, &rows, one);
        if (memcmp(one, all[p], (size_t)n * PANEL_ROWS * sizeof *one) != 0)
            fail_msg("%s: panel %u of %u, %u rows, %u columns", kernel->name, p, n_panels, n,
                     n_cols);
    }
    free(blocks);
    for (uint32_t p = 0; p < n_panels; p++)
        free_operands(&o[p]);
}

static void test_many(void **state)
{
    (void)state;
    static const uint32_t n_rows[] = {1, 15, 16, 17, 40, 64, 95, 112, 192};
    uint64_t seed = 13;
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        for (uint32_t k = 0; k < set->n_prompt && runs_here(set); k++) {
            const struct packed_kernel *kernel = &set->prompt[k];
            uint32_t unit = packed_layout(kernel->type)->block_columns;
            if (!kernel_for_many(kernel))
                continue;
            for (uint32_t i = 0; i < sizeof n_rows / sizeof *n_rows; i++)
                check_many(kernel, set->quantise, i % 3 ? unit * (1 + i) : 768,
                           1 + (3 * i + 2 * k) % KERNEL_PANELS, n_rows[i], &seed);
        }
    }
}

static void test_packing(void **state)
{
    (void)state;
    uint64_t seed = 3;
    uint8_t block[256];
    for (size_t i = 0; i < N_TYPES; i++) {
        const struct packed_layout *layout = packed_layout(packed_types[i]);
        assert_non_null(layout);
        for (uint32_t n_rows = 1; n_rows <= PANEL_ROWS; n_rows += 5) {
            uint32_t blocks = 3;
            struct operands o =
                make_operands(packed_types[i], blocks * layout->block_columns, n_rows, 1, &seed);
            assert_int_equal(packed_panel_bytes(layout, o.n_cols), o.row_bytes * PANEL_ROWS);
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                for (uint32_t b = 0; b < blocks; b++) {
                    static const uint8_t zeros[256];
                    packed_read_block(layout, o.panel, r, b, block);
                    assert_memory_equal(block,
                                        r < n_rows ? o.rows + r * o.row_bytes +
                                                         (size_t)b * layout->block_bytes
                                                   : zeros,
                                        layout->block_bytes);
                }
            free_operands(&o);
        }
    }
}

static bool asks_for(const struct kernel_set *set, enum act_form form)
{
    const struct packed_kernel *kernel;
    for (uint32_t k = 0; (kernel = kernel_at(set, k)); k++)
        if (kernel->form == form)
            return true;
    return false;
}

static void check_quantised(const struct kernel_set *set, const float *x, uint32_t n,
                            const char *what)
{
    static const enum act_form forms[] = {ACT_I8_256, ACT_I8_32,      ACT_I16_256,   ACT_I16_32,
                                          ACT_BF16,   ACT_BF16_PAIRS, ACT_BF16_TILES};
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        uint8_t want[sizeof(struct act_bf16)], got[sizeof want];
        if (!asks_for(set, forms[f]))
            continue;
        act_quantise_scalar(forms[f], x, n, want);
        memset(got, 0xa5, sizeof got);
        set->quantise(forms[f], x, n, got);
        /* Two NaNs may differ in their bits. */
        size_t size = act_block_bytes(forms[f]);
        if (memcmp(want, got, size) != 0) {
            size_t at = 0;
            while (want[at] == got[at])
                at++;
            fail_msg("%s, form %u, %u columns: byte %zu", what, forms[f], n, at);
        }
    }
}

static void test_activations(void **state)
{
    (void)state;
    uint64_t seed = 7;
    float x[ACT_COLUMNS];
    for (uint32_t s = 0; kernel_set_at(s); s++) {
        const struct kernel_set *set = kernel_set_at(s);
        if (!set->quantise || !runs_here(set))
            continue;
        for (uint32_t n = 1; n <= ACT_COLUMNS; n++) {
            for (uint32_t i = 0; i < n; i++)
                x[i] = random_normal(&seed) * (random_u32(&seed) % 200 ? 1.0f : 60.0f);
            check_quantised(set, x, n, "normal");
            x[n / 2] = 1e38f;
            check_quantised(set, x, n, "large");
            x[n / 2] = INFINITY;
            check_quantised(set, x, n, "infinite");
            x[n / 2] = -NAN;
            check_quantised(set, x, n, "not a number");
            for (uint32_t i = 0; i < n; i++)
                x[i] = random_normal(&seed) * 1e-38f;
            check_quantised(set, x, n, "tiny");
            for (uint32_t i = 0; i < n; i++) /* halves: ties go to even */
                x[i] = ((float)(random_u32(&seed) % 254) - 126.5f);
            x[0] = 127.0f;
            check_quantised(set, x, n, "ties");
        }
        struct act_256 act;
        x[3] = NAN;
        set->quantise(ACT_I8_256, x, ACT_COLUMNS, &act);
        assert_true(isnan(act.scale));
    }
}

/* test_packed [SET [prompts]]: an emulator takes minutes for each. */
int main(int argc, char **argv)
{
    only = argc > 1 ? argv[1] : NULL;
    prompts_only = argc > 2 && !strcmp(argv[2], "prompts");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing), cmocka_unit_test(test_activations),
        cmocka_unit_test(test_bits),    cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_company), cmocka_unit_test(test_two),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
