/*
 * Draws on the backend against sample/sample_core.h on the host, from the same bits of logits.
 *
 * Both sides run one algorithm, so the tokens must be equal; only the last bit of expf and logf may
 * differ, which changes a draw on a near-tie alone, and none of the few hundred draws here (seeds are
 * fixed) is one. Every drawn token is fed back on the device, also that of a failed draw.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drive.h"
#include "model/model.h"
#include "sample/sample.h"
#include "suite.h"

#define ROWS    13
#define STEPS   24
#define CONTEXT 128
#define PROMPT  9

static const struct {
    const char *name;
    struct sampling_row row;
    bool masked, nothing_allowed, biased;
} kinds[ROWS] = {
    {"greedy with logprobs",
     {.repeat_penalty = 1.0f, .top_p = 1.0f, .want_logprob = 1, .n_top_logprobs = 5},
     false,
     false,
     false},
    {"usual cuts",
     {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1.0f},
     false,
     false,
     false},
    {"hot, no cuts",
     {.temperature = 1.5f, .top_p = 1.0f, .repeat_penalty = 1.0f, .want_logprob = 1},
     false,
     false,
     false},
    {"penalties",
     {.temperature = 1.0f,
      .top_p = 1.0f,
      .repeat_penalty = 1.3f,
      .repeat_last_n = 64,
      .presence_penalty = 0.5f,
      .frequency_penalty = 0.3f,
      .n_prompt = PROMPT},
     false,
     false,
     false},
    {"narrow top_p",
     {.temperature = 2.0f, .top_p = 0.3f, .repeat_penalty = 1.0f},
     false,
     false,
     false},
    {"mask",
     {.temperature = 1.0f,
      .top_p = 1.0f,
      .repeat_penalty = 1.0f,
      .want_logprob = 1,
      .n_top_logprobs = 20},
     true,
     false,
     false},
    {"biases, penalised greedy",
     {.top_p = 1.0f, .repeat_penalty = 1.5f, .repeat_last_n = -1},
     false,
     false,
     true},
    {"n sigma, typical",
     {.temperature = 1.2f, .repeat_penalty = 1.0f, .top_n_sigma = 2.0f, .typical_p = 0.8f},
     false,
     false,
     false},
    {"xtc after top_k",
     {.temperature = 1.0f,
      .top_k = 20,
      .repeat_penalty = 1.0f,
      .xtc_probability = 0.6f,
      .xtc_threshold = 0.05f},
     false,
     false,
     false},
    {"greedy with dry and breakers",
     {.repeat_penalty = 1.0f,
      .dry_multiplier = 2.0f,
      .dry_base = 1.75f,
      .dry_allowed_length = 1,
      .dry_last_n = -1},
     false,
     false,
     false},
    {"mirostat 1",
     {.temperature = 1.0f,
      .repeat_penalty = 1.0f,
      .mirostat = 1,
      .mirostat_tau = 3.0f,
      .mirostat_eta = 0.1f,
      .mirostat_mu = 5.0f},
     false,
     false,
     false},
    {"mirostat 2",
     {.temperature = 1.0f,
      .repeat_penalty = 1.0f,
      .mirostat = 2,
      .mirostat_tau = 3.0f,
      .mirostat_eta = 0.1f,
      .mirostat_mu = 5.0f},
     false,
     false,
     false},
    {"nothing allowed",
     {.temperature = 1.0f, .top_p = 1.0f, .repeat_penalty = 1.0f},
     true,
     true,
     false},
};

struct bench {
    struct suite *suite;
    struct drive drive;
    uint32_t n_vocab;
    int32_t history[ROWS][CONTEXT];
    float *logits; /* [ROWS, n_vocab] */
    void *scratch;
    uint32_t *mask, *none; /* [ceil(n_vocab / 32)] */
    int32_t bias_ids[4];
    float bias_values[4];
};

static int32_t prompt_token(uint32_t row, uint32_t position, uint32_t n_vocab)
{
    return (int32_t)((row * 131 + position * position * 17 + 5) % n_vocab);
}

static const uint32_t *row_mask(const struct bench *b, uint32_t row)
{
    return !kinds[row].masked ? NULL : kinds[row].nothing_allowed ? b->none : b->mask;
}

static const uint32_t *row_breakers(const struct bench *b, uint32_t row)
{
    return kinds[row].row.dry_multiplier > 0 ? b->mask : NULL;
}

static struct sampling_row row_parameters(const struct bench *b, uint32_t row, uint32_t position)
{
    struct sampling_row p = kinds[row].row;
    p.seed = 1000 + row;
    /* The device gets the offsets from the step builder; the host has its own arrays. */
    p.n_biases = kinds[row].biased ? 4 : 0;
    (void)b;
    (void)position;
    return p;
}

/* The same draw by the shared code on the host. */
static void host_draw(struct bench *b, uint32_t row, uint32_t position, struct sampling_draw *out)
{
    struct sampling_row parameters = row_parameters(b, row, position);
    struct sampling_input in = {.logits = b->logits + (size_t)row * b->n_vocab,
                                .mask = row_mask(b, row),
                                .breakers = row_breakers(b, row),
                                .bias_ids = b->bias_ids,
                                .bias_values = b->bias_values,
                                .history = b->history[row],
                                .position = position,
                                .n_vocab = b->n_vocab};
    sampling_use_scratch(&in, b->scratch);
    sampling_draw_row(&parameters, &in, out);
}

static bool same_logprobs(const struct sample_result *got, const struct sampling_draw *want)
{
    if (!(fabsf(got->logprob - want->logprob) <= 1e-4f) || got->n_top != want->n_top)
        return false;
    for (uint32_t i = 0; i < want->n_top; i++)
        if (got->top[i].token != want->top[i].token ||
            !(fabsf(got->top[i].logprob - want->top[i].logprob) <= 1e-4f))
            return false;
    return true;
}

static void compare(struct bench *b, uint32_t row, uint32_t position,
                    const struct sample_result *got)
{
    struct sampling_draw want;
    host_draw(b, row, position, &want);
    suite_check(b->suite, got->token == want.token && got->failed == want.failed,
                "draw (%s) at position %u: token %d, failure %d, expected %d, %d", kinds[row].name,
                position, got->token, got->failed, want.token, want.failed);
    if (kinds[row].row.want_logprob)
        suite_check(b->suite, same_logprobs(got, &want),
                    "draw (%s) at position %u: logprob %g, expected %g", kinds[row].name, position,
                    (double)got->logprob, (double)want.logprob);
}

static enum status forward(struct bench *b, uint32_t step, uint64_t *ticket, struct error *err)
{
    enum status status = STATUS_OK;
    drive_begin(&b->drive);
    for (uint32_t row = 0; row < ROWS && status == STATUS_OK; row++)
        status = step == 0 ? drive_add(&b->drive, row, 0, PROMPT, b->history[row], 0, false, err)
                           : drive_add(&b->drive, row, PROMPT + step - 1, 1, NULL, row, false, err);
    return status == STATUS_OK ? drive_submit(&b->drive, ticket, err) : status;
}

static enum status draw(struct bench *b, uint32_t step, uint64_t *ticket, struct error *err)
{
    bool fits = true;
    drive_begin_draws(&b->drive);
    for (uint32_t row = 0; step == 0 && row < ROWS; row++)
        for (uint32_t p = 0; p < PROMPT; p++)
            fits &= sample_step_add_history(b->drive.draws,
                                            (struct history_write){row, p, b->history[row][p]});
    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t position = PROMPT + step;
        struct sample_row sample = {.output = row,
                                    .slot = row,
                                    .position = position,
                                    .mask_offset = NO_MASK,
                                    .parameters = row_parameters(b, row, position)};
        fits &=
            sample_step_add_row(b->drive.draws, &sample, b->bias_ids, b->bias_values,
                                sample.parameters.n_biases, row_mask(b, row), row_breakers(b, row));
    }
    if (!fits)
        return error_set(err, STATUS_INTERNAL, "the test's sample step is too large");
    return drive_draw(&b->drive, ticket, err);
}

static enum status draw_step(struct bench *b, uint32_t step, struct error *err)
{
    uint64_t ticket, drawn;
    struct sample_result results[ROWS];
    enum status status = forward(b, step, &ticket, err);
    if (status == STATUS_OK)
        status = draw(b, step, &drawn, err);
    if (status == STATUS_OK)
        status = drive_logits(&b->drive, ticket, 0, ROWS, b->logits, err);
    if (status == STATUS_OK)
        status = b->drive.api->wait(b->drive.backend, drawn, err);
    if (status == STATUS_OK)
        status = b->drive.api->read_samples(b->drive.backend, drawn, ROWS, results, err);
    for (uint32_t row = 0; row < ROWS && status == STATUS_OK; row++) {
        compare(b, row, PROMPT + step, &results[row]);
        b->history[row][PROMPT + step] = results[row].token;
    }
    return status;
}

static bool prepare(struct bench *b, const struct program *program)
{
    uint32_t words = (program->n_vocab + 31) / 32;
    b->n_vocab = program->n_vocab;
    b->logits = calloc((size_t)ROWS * b->n_vocab, sizeof(float));
    b->scratch = malloc(sampling_scratch_bytes(b->n_vocab));
    b->mask = calloc(words, sizeof *b->mask);
    b->none = calloc(words, sizeof *b->none);
    if (!b->logits || !b->scratch || !b->mask || !b->none)
        return false;
    for (uint32_t i = 0; i < b->n_vocab; i += 3)
        b->mask[i / 32] |= 1u << (i % 32);
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t p = 0; p < PROMPT; p++)
            b->history[row][p] = prompt_token(row, p, b->n_vocab);
    const float values[4] = {3.0f, -INFINITY, 2.5f, 2.0f};
    for (uint32_t i = 0; i < 4; i++) {
        b->bias_ids[i] = (int32_t)(11 + 40 * i);
        b->bias_values[i] = values[i];
    }
    return true;
}

void suite_draws(struct suite *suite)
{
    char path[1024];
    struct model *model = NULL;
    struct error err;
    struct bench *b = calloc(1, sizeof *b);
    uint32_t before = suite->passed;
    snprintf(path, sizeof path, "%s/models/pebble/pebble-bf16.gguf", suite->root);
    if (!b || !suite_check(suite, model_open(path, &model, &err) == STATUS_OK, "%s", err.message)) {
        free(b);
        return;
    }
    b->suite = suite;
    struct drive_config config = {.api = suite->api,
                                  .backend = {.exact = true, .batch_invariant = true},
                                  .kv_type = TENSOR_F32,
                                  .max_rows = ROWS * PROMPT,
                                  .max_context = CONTEXT};
    enum status status = STATUS_MEMORY;
    if (suite_check(suite, prepare(b, model_program(model)), "out of memory in the test"))
        status = drive_open(&b->drive, &config, model_program(model), &err);
    for (uint32_t step = 0; step < STEPS && status == STATUS_OK; step++)
        status = draw_step(b, step, &err);
    suite_check(suite, status == STATUS_OK, "draws: %s", err.message);
    printf("draws: %u checks over %d draws hold\n", suite->passed - before, ROWS * STEPS);
    drive_close(&b->drive);
    model_close(model);
    free(b->logits);
    free(b->scratch);
    free(b->mask);
    free(b->none);
    free(b);
}
