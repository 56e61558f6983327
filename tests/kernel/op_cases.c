/*
 * The cases, and when two rows count as equal.
 *
 * The reference sums in double, so the difference is the tested backend's own rounding. Both sides
 * start from the same bits. For a case we allow, relative to the root mean square of the reference's
 * results over the whole case (a single row may cancel to almost nothing),
 *
 *     rms of a row's difference  <=  tolerance        largest difference in it  <=  8 tolerance
 *
 *     tolerance = steps * (4 * epsilon + 2^-24 * sqrt(n)) + reads * 4 * kv
 *
 *   steps    operations that round, with a softmax counted thrice (exponentials amplify an error of
 *            the score by its size)
 *   epsilon  unit roundoff of activations; each operation rounds its input and its result, on values
 *            that may exceed the typical one
 *   n        longest sum: errors of a float32 sum add up as a random walk
 *   kv       unit roundoff of the K/V elements (0 for float32); reads: attentions in a row
 *
 * Operations that only move data (embed of float tables, select) use the same formula: a backend may
 * hold activations narrower. Shapes are odd on purpose: no width is a multiple of a vector.
 */
#include "op_cases.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_cases_internal.h"
#include "op_kit.h"

/* ---- comparison -------------------------------------------------------------------------------- */

static double kv_epsilon(enum tensor_type type)
{
    return type == TENSOR_F32 ? 0.0 : type == TENSOR_F16 ? 0x1p-11 : 0x1p-8;
}

static double tolerance(const struct op_cases_config *config, struct expected e)
{
    double epsilon = config->epsilon > 0x1p-24 ? config->epsilon : 0x1p-24;
    return e.steps * (4 * epsilon + 0x1p-24 * sqrt((double)e.longest_sum)) +
           e.reads * 4 * kv_epsilon(config->kv_type);
}

static void add_squares(const float *values, uint32_t n, double *sum, uint64_t *count)
{
    for (uint32_t i = 0; i < n; i++)
        *sum += (double)values[i] * (double)values[i];
    *count += n;
}

/* Largest row error, in units of `rms`; infinity where a value is not finite. */
static double row_error(const float *got, const float *want, uint32_t n, double rms, double *worst)
{
    double sum = 0.0;
    *worst = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double difference = fabs((double)got[i] - (double)want[i]) / rms;
        if (!isfinite(difference))
            return *worst = INFINITY;
        sum += difference * difference;
        *worst = difference > *worst ? difference : *worst;
    }
    return sqrt(sum / n);
}

struct mismatch {
    bool found;
    const char *what;
    uint32_t sequence, position;
    double error, worst;
    double largest; /* error of any row, bad or not */
};

static void compare_row(const float *got, const float *want, uint32_t n, double rms, double allowed,
                        const char *what, const struct run_row *row, struct mismatch *out)
{
    double worst, error = row_error(got, want, n, rms, &worst);
    if (!(error <= out->largest))
        out->largest = error;
    if (out->found || (error <= allowed && worst <= 8 * allowed))
        return;
    *out = (struct mismatch){true, what, row->sequence, row->position, error, worst, out->largest};
}

static struct mismatch compare(const struct run_result *got, const struct run_result *want,
                               double allowed)
{
    double hidden = 0.0, logits = 0.0;
    uint64_t n_hidden = 0, n_logits = 0;
    for (uint32_t i = 0; i < want->n_rows; i++) {
        add_squares(want->rows[i].hidden, want->hidden_width, &hidden, &n_hidden);
        if (want->rows[i].logits)
            add_squares(want->rows[i].logits, want->n_vocab, &logits, &n_logits);
    }
    double hidden_rms = sqrt(hidden / (double)n_hidden) + 1e-30;
    double logits_rms = n_logits ? sqrt(logits / (double)n_logits) + 1e-30 : 1.0;
    struct mismatch result = {.found = false};
    for (uint32_t i = 0; i < want->n_rows; i++) {
        const struct run_row *g = &got->rows[i], *w = &want->rows[i];
        compare_row(g->hidden, w->hidden, want->hidden_width, hidden_rms, allowed, "hidden", w,
                    &result);
        if (w->logits)
            compare_row(g->logits, w->logits, want->n_vocab, logits_rms, allowed, "logits", w,
                        &result);
    }
    return result;
}

static const char *mode(const struct op_cases_config *config)
{
    return config->backend.exact ? "exact" : "fast";
}

static void report_failure(const struct runner *r, const char *name, const struct mismatch *m,
                           double allowed)
{
    printf(
        "  FAILED %s: %s of sequence %u position %u: error %.3g (largest %.3g), tolerance %.3g\n",
        name, m->what, m->sequence, m->position, m->error, m->worst, allowed);
    (void)r;
}

/* Runs a finished kit on both backends; frees it. */
void run_case(struct runner *r, struct kit *kit, const struct script *script,
              struct expected expected, const char *name)
{
    const struct op_cases_config *c = r->config;
    struct backend_config exact = {.exact = true, .n_threads = 1, .batch_invariant = true};
    struct run_result want = {0}, got = {0};
    struct error err = {0};
    if (c->only && !strstr(name, c->only)) {
        kit_free(kit);
        return;
    }
    kit_finish(kit);
    enum status status = kit_run(kit, script, c->reference, &exact, TENSOR_F32, &want, &err);
    bool reference_ok = status == STATUS_OK;
    if (reference_ok)
        status = kit_run(kit, script, c->tested, &c->backend, c->kv_type, &got, &err);
    if (status == STATUS_OK) {
        double allowed = tolerance(c, expected);
        struct mismatch m = compare(&got, &want, allowed);
        if (m.found)
            report_failure(r, name, &m, allowed);
        else if (c->verbose)
            printf("  passed %s (%s)\n", name, got.kernels);
        r->op.passed += !m.found;
        r->op.failed += m.found;
        if (!(m.largest / allowed <= r->op_share)) {
            r->op_share = m.largest / allowed;
            r->op_error = m.largest;
        }
    } else if (status == STATUS_UNSUPPORTED && reference_ok) {
        printf("  unsupported %s: %s\n", name, err.message);
        r->op.unsupported++;
    } else {
        printf("  FAILED %s: %s: %s\n", name, reference_ok ? c->tested->name : "reference",
               err.message);
        r->op.failed++;
    }
    run_result_free(&want);
    run_result_free(&got);
    kit_free(kit);
}

void begin_op(struct runner *r, const char *name)
{
    r->op_name = name;
    r->op = (struct op_cases_result){0};
    r->op_error = r->op_share = 0.0;
}

void end_op(struct runner *r)
{
    if (r->op.passed + r->op.failed + r->op.unsupported)
        printf("%s %s %s: %u passed, %u failed", r->config->tested->name, mode(r->config),
               r->op_name, r->op.passed, r->op.failed);
    if (r->op.unsupported)
        printf(", %u unsupported", r->op.unsupported);
    if (r->op.passed + r->op.failed)
        printf(", largest error %.1e (%.0f%% of its tolerance)", r->op_error, 100 * r->op_share);
    if (r->op.passed + r->op.failed + r->op.unsupported)
        printf("\n");
    op_cases_add(&r->total, r->op);
}

void start(struct runner *r, struct kit *kit)
{
    kit_init(kit, ++r->seed, VOCABULARY);
}

/* ---- scripts ----------------------------------------------------------------------------------- */

/* n rows of one sequence at once: for operations that do not look along it. */
struct script rows_script(struct runner *r, uint32_t n)
{
    struct script script;
    script_init(&script, r->seed, 16);
    script_add(&script, 0, 0, 0, 0, n);
    return script;
}

/* Prompts cut at odd places, decoding together, two slices of one sequence in a step, a slot that is
 * taken over by another sequence. */
struct script mixed_script(struct runner *r, uint32_t page_tokens)
{
    struct script s;
    script_init(&s, r->seed, page_tokens);
    script_add(&s, 0, 0, 3, 0, 37);
    script_add(&s, 0, 1, 0, 0, 1);
    script_add(&s, 0, 2, 5, 0, 5);
    script_add(&s, 0, 2, 5, 5, 4);
    script_add(&s, 1, 0, 3, 37, 1);
    script_add(&s, 1, 1, 0, 1, 1);
    script_add(&s, 1, 2, 5, 9, 11);
    script_add(&s, 1, 3, 1, 0, 17);
    for (uint32_t i = 0; i < 3; i++) {
        script_add(&s, 2 + i, 0, 3, 38 + i, 1);
        script_add(&s, 2 + i, 1, 0, 2 + i, 1);
        script_add(&s, 2 + i, 2, 5, 20 + i, 1);
        script_add(&s, 2 + i, 3, 1, 17 + i, 1);
    }
    script_add(&s, 5, 4, 0, 0, 3); /* slot 0 again */
    script_add(&s, 5, 0, 3, 41, 30);
    script_add(&s, 5, 3, 1, 20, 2);
    script_add(&s, 6, 4, 0, 3, 1);
    script_add(&s, 6, 0, 3, 71, 1);
    return s;
}

/* ---- types of weights -------------------------------------------------------------------------- */

const enum tensor_type weight_types[N_WEIGHT_TYPES] = {
    TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_K, TENSOR_Q6_K};

const enum tensor_type rare_types[N_RARE_TYPES] = {
    TENSOR_Q4_1,    TENSOR_Q5_0,    TENSOR_Q5_1,           TENSOR_Q2_K,          TENSOR_Q3_K,
    TENSOR_Q5_K,    TENSOR_IQ1_S,   TENSOR_IQ1_M,          TENSOR_IQ2_XXS,       TENSOR_IQ2_XS,
    TENSOR_IQ2_S,   TENSOR_IQ3_XXS, TENSOR_IQ3_S,          TENSOR_IQ4_NL,        TENSOR_IQ4_XS,
    TENSOR_TQ1_0,   TENSOR_TQ2_0,   TENSOR_MXFP4,          TENSOR_NVFP4,         TENSOR_F8_E4M3,
    TENSOR_F8_E5M2, TENSOR_AFFINE8, TENSOR_F8_E4M3_SCALED, TENSOR_F8_E5M2_SCALED};

/* Smallest multiple of the type's block that is at least n. */
uint32_t whole_blocks(enum tensor_type type, uint32_t n)
{
    uint32_t block = tensor_type_info(type)->block_elements;
    return (n + block - 1) / block * block;
}

/* ---- the public face --------------------------------------------------------------------------- */

struct op_cases_config op_cases_exact(const struct backend_api *tested,
                                      const struct backend_api *reference)
{
    return (struct op_cases_config){.tested = tested,
                                    .reference = reference,
                                    .backend = {.exact = true, .batch_invariant = true},
                                    .kv_type = TENSOR_F32,
                                    .epsilon = 0x1p-24};
}

struct op_cases_config op_cases_fast(const struct backend_api *tested,
                                     const struct backend_api *reference, enum tensor_type kv_type,
                                     double epsilon)
{
    return (struct op_cases_config){.tested = tested,
                                    .reference = reference,
                                    .backend = {.exact = false, .batch_invariant = true},
                                    .kv_type = kv_type,
                                    .epsilon = epsilon};
}

struct op_cases_result op_cases_run(const struct op_cases_config *config)
{
    struct runner r = {.config = config, .seed = 1000};
    embed_cases(&r);
    norm_cases(&r);
    pair_cases(&r);
    linear_cases(&r);
    gated_cases(&r);
    logits_cases(&r);
    sequence_cases(&r);
    moe_cases(&r);
    begin_op(&r, "route");
    route_tie_case(&r);
    end_op(&r);
    conv_cases(&r);
    op_cases_recurrent(&r);
    model_cases(&r);
    row_cases(&r);
    return r.total;
}

void op_cases_add(struct op_cases_result *total, struct op_cases_result more)
{
    total->passed += more.passed;
    total->failed += more.failed;
    total->unsupported += more.unsupported;
}

int op_cases_finish(const char *name, struct op_cases_result total)
{
    printf("%s: %u passed, %u failed", name, total.passed, total.failed);
    if (total.unsupported)
        printf(" (%u unsupported)", total.unsupported);
    printf("\n");
    return total.failed || !total.passed;
}
