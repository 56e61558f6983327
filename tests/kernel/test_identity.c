/*
 * The same bits alone and in a crowd, straight on the backends: a sequence's rows do not change when
 * it shares its steps with 1 to 32 others, nor when its prompt is cut at odd places, nor with the
 * pages it happens to get. On a small random model with every kind of sequence operation, and on
 * committed fixtures (grouped heads, convolution state, experts, two windows).
 *
 * Two sorts of rows, each compared with its own kind: prompt rows, and rows generated one by one
 * while others in the step are still at their prompts. (golden/test_engine.c shows the same through
 * the scheduler.)
 */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "fixture.h"
#include "model/model.h"
#include "op_cases.h"
#include "op_kit.h"
#include "prompt_kernels.h"

#define CROWD_MAX 33
#define LENGTH    37 /* positions of a sequence */
#define PROMPT    13 /* of them prompt, where the rest is generated */

struct mode {
    const char *name, *backend;
    struct backend_config config;
    enum tensor_type kv_type;
    const struct kernel_set *prompt; /* puts in prompt kernels; NULL: the machine's */
};

static const struct mode modes[] = {
    {"ref", "ref", {.exact = true, .batch_invariant = true}, TENSOR_F32, NULL},
    {"cpu exact", "cpu", {.exact = true, .batch_invariant = true}, TENSOR_F32, NULL},
    {"cpu f16", "cpu", {.batch_invariant = true}, TENSOR_F16, NULL},
    {"cpu f16 on its own thread",
     "cpu",
     {.batch_invariant = true, .ahead = BACKEND_AHEAD_ALWAYS},
     TENSOR_F16,
     NULL},
    {"cpu f8_e4m3", "cpu", {.batch_invariant = true}, TENSOR_F8_E4M3, NULL},
    {"cpu bf16", "cpu", {.batch_invariant = true, .n_threads = 3}, TENSOR_BF16, NULL},
    {"cpu f16 of two classes",
     "cpu",
     {.batch_invariant = true, .n_threads = 2},
     TENSOR_F16,
     &prompt_kernels},
};

/* Rows of the first `crowd` sequences, [sequence][position]. */
struct table {
    struct run_result result;
    const struct run_row *rows[CROWD_MAX][LENGTH];
};

static void play(const struct kit *kit, const struct mode *mode, const struct script *script,
                 struct table *out)
{
    const struct backend_api *api;
    struct error err = {0};
    assert_ok(backend_find(mode->backend, &api, NULL, &err), &err);
    kernels_set_prompt(mode->prompt);
    enum status status =
        kit_run(kit, script, api, &mode->config, mode->kv_type, &out->result, &err);
    kernels_set_prompt(NULL);
    assert_ok(status, &err);
    for (uint32_t i = 0; i < out->result.n_rows; i++) {
        const struct run_row *row = &out->result.rows[i];
        out->rows[row->sequence][row->position] = row;
    }
}

static void same_rows(const struct table *alone, const struct table *here, uint32_t crowd,
                      const char *what)
{
    for (uint32_t s = 0; s < crowd; s++)
        for (uint32_t p = 0; p < LENGTH; p++) {
            const struct run_row *a = alone->rows[s][p], *b = here->rows[s][p];
            if (memcmp(a->hidden, b->hidden, here->result.hidden_width * sizeof(float)) != 0)
                fail_msg("%s: hidden state of sequence %u position %u differs", what, s, p);
            if ((a->logits == NULL) != (b->logits == NULL) ||
                (a->logits &&
                 memcmp(a->logits, b->logits, here->result.n_vocab * sizeof(float)) != 0))
                fail_msg("%s: logits of sequence %u position %u differ", what, s, p);
        }
}

/* ---- scripts ---------------------------------------------------------------------------------- */

/* Rows of the next slice: 1, 3, 5, ... by sequence, odd and uneven. */
static uint32_t odd_piece(uint32_t sequence, uint32_t turn)
{
    return 1 + 2 * ((sequence * 7 + turn * 3) % 8);
}

/* Prompts only. Alone: one sequence after the other. cut: in odd pieces, else whole. */
static struct script prompts(uint32_t crowd, bool together, bool cut, uint32_t page)
{
    struct script script;
    script_init(&script, 11, page);
    uint32_t at[CROWD_MAX] = {0};
    if (!together) {
        for (uint32_t s = 0, step = 0; s < crowd; s++)
            for (uint32_t turn = 0; at[s] < LENGTH; turn++, step++) {
                uint32_t n = cut ? odd_piece(s, turn) : LENGTH;
                n = n < LENGTH - at[s] ? n : LENGTH - at[s];
                script_add(&script, step, s, s, at[s], n);
                at[s] += n;
            }
        return script;
    }
    bool left = true;
    for (uint32_t step = 0; left; step++) {
        left = false;
        for (uint32_t s = 0; s < crowd; s++) {
            uint32_t n = odd_piece(s, step);
            n = n < LENGTH - at[s] ? n : LENGTH - at[s];
            if (n)
                script_add(&script, step, s, (s + 5) % crowd, at[s], n);
            at[s] += n;
            left |= at[s] < LENGTH;
        }
    }
    return script;
}

/* A prompt, then rows of the generated class one by one. Together: sequences start two steps apart,
 * so that prompts and generated rows share steps. */
static struct script generation(uint32_t crowd, bool together, uint32_t page)
{
    struct script script;
    script_init(&script, 11, page);
    uint32_t each = 1 + LENGTH - PROMPT; /* steps of a sequence */
    uint32_t steps = together ? each + 2 * (crowd - 1) : each * crowd;
    for (uint32_t step = 0; step < steps; step++)
        for (uint32_t s = 0; s < crowd; s++) {
            uint32_t start = together ? 2 * s : each * s;
            if (step < start || step >= start + each)
                continue;
            uint32_t turn = step - start;
            script_add(&script, step, s, s, turn ? PROMPT + turn - 1 : 0, turn ? 1 : PROMPT);
            script_last(&script)->numeric_class = turn ? CLASS_GENERATED : CLASS_PROMPT;
        }
    return script;
}

/* The same rows with the same classes, prompts in pieces, and of what is generated the first ones and
 * some later ones at once, as when a sequence resumes. Slices of a step come in changing order. */
static struct script mixture(uint32_t crowd, uint32_t page)
{
    struct script script;
    script_init(&script, 11, page);
    uint32_t at[CROWD_MAX] = {0}, left = crowd;
    for (uint32_t step = 0; left; step++)
        for (uint32_t i = 0; i < crowd; i++) {
            uint32_t s = (i + step * 3) % crowd, n = odd_piece(s, step);
            if (step < s % 5 * 2 || at[s] == LENGTH)
                continue;
            bool generated = at[s] >= PROMPT;
            uint32_t end = generated ? LENGTH : PROMPT;
            if (generated && at[s] > PROMPT && (s + step) % 4)
                n = 1;
            n = n < end - at[s] ? n : end - at[s];
            script_add(&script, step, s, s, at[s], n);
            script_last(&script)->numeric_class = generated ? CLASS_GENERATED : CLASS_PROMPT;
            at[s] += n;
            left -= at[s] == LENGTH;
        }
    return script;
}

/* ---- comparisons ------------------------------------------------------------------------------ */

static void compare(const struct kit *kit, const struct mode *mode, const struct table *alone,
                    const struct script *script, uint32_t crowd, const char *model, const char *how)
{
    static struct table here;
    char what[160];
    snprintf(what, sizeof what, "%s on %s, %u %s", model, mode->name, crowd, how);
    play(kit, mode, script, &here);
    same_rows(alone, &here, crowd, what);
    run_result_free(&here.result);
}

/* ref_crowds: the first so many of the crowds, for the scalar reference. */
static void identical(const struct kit *kit, const char *model, const uint32_t *crowds,
                      size_t all_crowds, size_t ref_crowds)
{
    static struct table alone;
    static struct script script;
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        if (SANITIZED && m == 0)
            continue; /* the scalar reference takes minutes under sanitizers */
        size_t n_crowds = m == 0 ? ref_crowds : all_crowds;
        uint32_t most = crowds[n_crowds - 1];
        script = prompts(most, false, false, 16);
        play(kit, &modes[m], &script, &alone);
        script = prompts(most, false, true, 4);
        compare(kit, &modes[m], &alone, &script, most, model, "in odd pieces");
        for (size_t i = 0; i < n_crowds; i++) {
            script = prompts(crowds[i], true, true, i % 2 ? 32 : 8);
            compare(kit, &modes[m], &alone, &script, crowds[i], model, "prompts together");
        }
        run_result_free(&alone.result);
        script = generation(most, false, 16);
        play(kit, &modes[m], &script, &alone);
        for (size_t i = 0; i < n_crowds; i++) {
            script = generation(crowds[i], true, 8);
            compare(kit, &modes[m], &alone, &script, crowds[i], model, "generating together");
            script = mixture(crowds[i], 16);
            compare(kit, &modes[m], &alone, &script, crowds[i], model, "resuming together");
        }
        run_result_free(&alone.result);
    }
}

static void identical_random(const char *name, void (*build)(struct kit *kit))
{
    static const uint32_t all[] = {2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 21, 32, 33};
    static const uint32_t few[] = {2, 9};
    struct kit kit;
    kit_init(&kit, 77, 97);
    build(&kit);
    assert_true(kit_finish(&kit));
    size_t n = SANITIZED ? sizeof few / sizeof *few : sizeof all / sizeof *all;
    identical(&kit, name, SANITIZED ? few : all, n, n);
    kit_free(&kit);
}

static void test_random_model(void **state)
{
    (void)state;
    identical_random("random model", op_cases_build_model);
}

static void test_random_recurrent(void **state)
{
    (void)state;
    identical_random("random recurrent model", op_cases_build_recurrent);
}

static void identical_fixture(const char *name)
{
    static const uint32_t crowds[] = {2, 9, 33}, few[] = {2, 3};
    char path[128];
    snprintf(path, sizeof path, "tests/data/arch/hf/%s", name);
    struct model *model;
    struct error err = {0};
    assert_ok(model_open(fixture_path(path), &model, &err), &err);
    struct kit kit = {.program = (struct program *)(uintptr_t)model_program(model)};
    identical(&kit, name, SANITIZED ? few : crowds,
              SANITIZED ? sizeof few / sizeof *few : sizeof crowds / sizeof *crowds, 2);
    model_close(model);
}

static void test_llama(void **state)
{
    (void)state;
    identical_fixture("llama");
}

static void test_lfm2(void **state)
{
    (void)state;
    identical_fixture("lfm2");
}

static void test_mixtral(void **state)
{
    (void)state;
    identical_fixture("mixtral");
}

static void test_gemma3(void **state)
{
    (void)state;
    identical_fixture("gemma3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_model), cmocka_unit_test(test_random_recurrent),
        cmocka_unit_test(test_llama),        cmocka_unit_test(test_lfm2),
        cmocka_unit_test(test_mixtral),      cmocka_unit_test(test_gemma3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
