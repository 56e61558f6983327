/*
 * Real models on the backend under test: the llama and lfm2 fixtures against Hugging Face's logits,
 * and Pebble's recorded greedy answers, drawn on the device and fed back without a host round trip.
 *
 * Tolerances are the issue's: relative Frobenius error over all positions of 1e-4 with everything
 * in float32, 3e-2 with a narrower K/V; the recorded greedy token wherever its margin says that it
 * is no near-tie (1e-3 for the fixtures, 0.1 for Pebble). Identity is bit for bit.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "drive.h"
#include "format/checkpoint.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "suite.h"

#define FIXTURE_CONTEXT 256
#define PEBBLE_CONTEXT  1024
#define BATCH_MOST      9

/* ---- references --------------------------------------------------------------------------------- */

struct reference {
    struct mapped_file *file;
    struct safetensors *tensors;
    uint32_t n_ids, n_greedy, n_vocab;
    const int32_t *ids, *greedy;
    const float *logits, *margin;
};

static const struct tensor *find(const struct reference *r, const char *name)
{
    for (size_t i = 0; i < safetensors_count(r->tensors); i++)
        if (str_eq_cstr(safetensors_at(r->tensors, i)->name, name))
            return safetensors_at(r->tensors, i);
    return NULL;
}

static bool is_list(const struct tensor *t, enum tensor_type type)
{
    return t && t->type == type && t->n_dims == 1 && t->dims[0] > 0;
}

static bool reference_open(const char *path, struct reference *r, struct error *err)
{
    *r = (struct reference){.file = NULL};
    if (mapped_file_open(path, &r->file, err) != STATUS_OK ||
        safetensors_parse(mapped_file_data(r->file), mapped_file_size(r->file), path, &r->tensors,
                          err) != STATUS_OK)
        return false;
    const struct tensor *ids = find(r, "input_ids"), *greedy = find(r, "greedy_ids");
    const struct tensor *logits = find(r, "logits"), *margin = find(r, "greedy_margin");
    if (!is_list(ids, TENSOR_I32) || !is_list(greedy, TENSOR_I32) || !is_list(margin, TENSOR_F32) ||
        margin->dims[0] != greedy->dims[0] || !logits || logits->type != TENSOR_F32 ||
        logits->n_dims != 2 || logits->dims[0] != ids->dims[0] ||
        ids->dims[0] + greedy->dims[0] > FIXTURE_CONTEXT) {
        error_set(err, STATUS_MODEL, "%s: tensors missing or of another shape", path);
        return false;
    }
    r->n_ids = (uint32_t)ids->dims[0];
    r->n_greedy = (uint32_t)greedy->dims[0];
    r->n_vocab = (uint32_t)logits->dims[1];
    r->ids = ids->data;
    r->greedy = greedy->data;
    r->logits = logits->data;
    r->margin = margin->data;
    return true;
}

static void reference_close(struct reference *r)
{
    safetensors_free(r->tensors);
    mapped_file_close(r->file);
}

static uint32_t argmax(const float *row, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = i;
    return best;
}

static double relative_error(const float *got, const float *want, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        size += (double)want[i] * (double)want[i];
    }
    double error = sqrt(difference / size);
    return isfinite(error) ? error : INFINITY;
}

/* ---- one fixture on one configuration ----------------------------------------------------------- */

struct trial {
    struct suite *suite;
    const char *name;
    struct drive drive;
    const struct reference *reference;
    int32_t tokens[FIXTURE_CONTEXT]; /* the input, then the recorded greedy tokens */
    uint32_t n;
    float *alone, *other; /* [n, n_vocab] */
};

static void compare_reference(struct trial *t, double tolerance)
{
    const struct reference *r = t->reference;
    uint32_t all = t->n, wrong = 0;
    struct error err;
    if (!suite_check(t->suite,
                     drive_alone(&t->drive, t->tokens, t->n, &all, 1, t->alone, &err) == STATUS_OK,
                     "%s: %s", t->name, err.message))
        return;
    double error = relative_error(t->alone, r->logits, (size_t)r->n_ids * r->n_vocab);
    suite_check(t->suite, error <= tolerance, "%s: relative error %.3g, at most %.3g", t->name,
                error, tolerance);
    for (uint32_t i = 0; i < r->n_greedy; i++) {
        const float *row = t->alone + (size_t)(r->n_ids - 1 + i) * r->n_vocab;
        if (r->margin[i] >= 1e-3f && argmax(row, r->n_vocab) != (uint32_t)r->greedy[i])
            wrong++;
    }
    suite_check(t->suite, wrong == 0, "%s: %u of %u greedy tokens differ", t->name, wrong,
                r->n_greedy);
    printf("%-28s relative error %.2e (at most %.0e), greedy %u/%u\n", t->name, error, tolerance,
           r->n_greedy - wrong, r->n_greedy);
}

static size_t row_bytes(const struct trial *t)
{
    return t->drive.program->n_vocab * sizeof(float);
}

static void check_same(struct trial *t, uint32_t first, uint32_t n, const char *how)
{
    uint32_t differ = 0;
    for (uint32_t i = first; i < first + n; i++)
        differ += memcmp((const char *)t->alone + i * row_bytes(t),
                         (const char *)t->other + i * row_bytes(t), row_bytes(t)) != 0;
    suite_check(t->suite, differ == 0, "%s: %u of %u rows have other bits %s", t->name, differ, n,
                how);
}

static void check_chunks(struct trial *t)
{
    static const uint32_t cuts[][4] = {{1, 1, 1, 1}, {7, 1, 13, 5}, {31, 2, 17, 3}, {3, 3, 3, 3}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct error err;
        char how[64];
        snprintf(how, sizeof how, "in chunks of %u, %u, %u, ...", cuts[i][0], cuts[i][1],
                 cuts[i][2]);
        memset(t->other, 0, t->n * row_bytes(t));
        if (suite_check(t->suite,
                        drive_alone(&t->drive, t->tokens, t->n, cuts[i], 4, t->other, &err) ==
                            STATUS_OK,
                        "%s: %s", t->name, err.message))
            check_same(t, 0, t->n, how);
    }
}

/* Token of a neighbour: anything but what the sequence under test has. */
static int32_t neighbour(const struct trial *t, uint32_t sequence, uint32_t position)
{
    return (int32_t)((t->tokens[position % t->n] + 7 * (int32_t)sequence + 1) %
                     (int32_t)t->drive.program->n_vocab);
}

static enum status add_neighbour(struct trial *t, uint32_t slot, uint32_t first, uint32_t n,
                                 struct error *err)
{
    int32_t tokens[FIXTURE_CONTEXT];
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = neighbour(t, slot, first + i);
    return drive_add(&t->drive, slot, first, n, tokens, 0, false, err);
}

/* One step: `width` sequences, ours in slot `mine` with rows [at, at + n). Neighbours are at other
 * positions; before their turn they are prompts, after it they decode. */
static enum status crowd_step(struct trial *t, uint32_t width, uint32_t mine, uint32_t step,
                              uint32_t at, uint32_t n, struct error *err)
{
    enum status status = STATUS_OK;
    uint32_t output = 0;
    uint64_t ticket;
    drive_begin(&t->drive);
    for (uint32_t s = 0; s < width && status == STATUS_OK; s++) {
        if (s == mine) {
            output = t->drive.step->n_outputs;
            status = drive_add(&t->drive, s, at, n, t->tokens + at, 0, true, err);
        } else if (step == 0) {
            status = add_neighbour(t, s, 0, 5 + 3 * s, err);
        } else {
            status = add_neighbour(t, s, 5 + 3 * s + step - 1, 1, err);
        }
    }
    if (status == STATUS_OK)
        status = drive_submit(&t->drive, &ticket, err);
    if (status == STATUS_OK)
        status = drive_logits(&t->drive, ticket, output, n,
                              t->other + (size_t)at * t->drive.program->n_vocab, err);
    return status;
}

static void check_crowds(struct trial *t)
{
    for (uint32_t width = 2; width <= BATCH_MOST; width++) {
        uint32_t mine = width / 2, at = 0;
        enum status status = STATUS_OK;
        struct error err;
        char how[64];
        memset(t->other, 0, t->n * row_bytes(t));
        for (uint32_t step = 0; at < t->n && status == STATUS_OK; step++) {
            uint32_t n = step == 0 ? 11 : step == 1 ? 20 : 1;
            n = n < t->n - at ? n : t->n - at;
            status = crowd_step(t, width, mine, step, at, n, &err);
            at += n;
        }
        snprintf(how, sizeof how, "in a batch of %u", width);
        if (suite_check(t->suite, status == STATUS_OK, "%s: %s", t->name, err.message))
            check_same(t, 0, t->n, how);
    }
}

static void run_trial(struct suite *suite, const char *name, const struct model *model,
                      const struct reference *reference, bool exact, enum tensor_type kv,
                      double tolerance)
{
    struct trial *t = calloc(1, sizeof *t);
    if (!t)
        return;
    t->suite = suite;
    t->name = name;
    t->reference = reference;
    t->n = reference->n_ids + reference->n_greedy;
    memcpy(t->tokens, reference->ids, reference->n_ids * sizeof *t->tokens);
    memcpy(t->tokens + reference->n_ids, reference->greedy,
           reference->n_greedy * sizeof *t->tokens);
    struct drive_config config = {.api = suite->api,
                                  .backend = {.exact = exact, .batch_invariant = true},
                                  .kv_type = kv,
                                  .max_rows = FIXTURE_CONTEXT,
                                  .max_context = FIXTURE_CONTEXT};
    struct error err;
    const struct program *program = model_program(model);
    t->alone = calloc((size_t)t->n * program->n_vocab, sizeof(float));
    t->other = calloc((size_t)t->n * program->n_vocab, sizeof(float));
    if (suite_check(suite, program->n_vocab == reference->n_vocab && t->alone && t->other,
                    "%s: vocabulary of %u, reference of %u", name, program->n_vocab,
                    reference->n_vocab) &&
        suite_check(suite, drive_open(&t->drive, &config, program, &err) == STATUS_OK, "%s: %s",
                    name, err.message)) {
        compare_reference(t, tolerance);
        check_chunks(t);
        check_crowds(t);
    }
    drive_close(&t->drive);
    free(t->alone);
    free(t->other);
    free(t);
}

static void fixture(struct suite *suite, const char *name, const char *file)
{
    char path[1024], label[64];
    struct reference reference;
    struct model *model = NULL;
    struct error err;
    snprintf(path, sizeof path, "%s/tests/data/arch/hf/%s/reference.safetensors", suite->root,
             name);
    if (!suite_check(suite, reference_open(path, &reference, &err), "%s", err.message)) {
        reference_close(&reference);
        return;
    }
    snprintf(path, sizeof path, "%s/tests/data/arch/%s", suite->root, file);
    if (suite_check(suite, model_open(path, &model, &err) == STATUS_OK, "%s", err.message)) {
        const char *kind = strstr(file, ".gguf") ? "gguf" : "hf";
        snprintf(label, sizeof label, "%s (%s) exact", name, kind);
        run_trial(suite, label, model, &reference, true, TENSOR_F32, 1e-4);
        snprintf(label, sizeof label, "%s (%s) kv f16", name, kind);
        run_trial(suite, label, model, &reference, false, TENSOR_F16, 3e-2);
        snprintf(label, sizeof label, "%s (%s) kv bf16", name, kind);
        run_trial(suite, label, model, &reference, false, TENSOR_BF16, 3e-2);
    }
    model_close(model);
    reference_close(&reference);
}

void suite_fixtures(struct suite *suite)
{
    fixture(suite, "llama", "hf/llama");
    fixture(suite, "llama", "gguf/llama.gguf");
    fixture(suite, "lfm2", "hf/lfm2");
    fixture(suite, "lfm2", "gguf/lfm2.gguf");
}

/* ---- Pebble ------------------------------------------------------------------------------------- */

struct answer {
    int32_t tokens[512];
    uint32_t n;
};

/* Ids of a JSON list; 0 if it is none or too long. */
static uint32_t read_ids(const json_t *list, int32_t *out, uint32_t most)
{
    size_t n = json_array_size(list);
    if (n > most)
        return 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)n;
}

static void add_greedy_rows(struct drive *d, uint32_t n, const uint32_t *positions)
{
    for (uint32_t i = 0; i < n; i++) {
        struct sample_row row = {.output = i,
                                 .slot = i,
                                 .position = positions[i],
                                 .mask_offset = NO_MASK,
                                 .parameters = {.temperature = 0.0f, .repeat_penalty = 1.0f}};
        sample_step_add_row(d->draws, &row, NULL, NULL, 0, NULL, NULL);
    }
}

static void take_draws(const struct sample_result *results, uint32_t n, struct answer *answers)
{
    for (uint32_t i = 0; i < n; i++)
        answers[i].tokens[answers[i].n++] = results[i].token;
}

/* Greedy answers of n_tokens to n prompts together, slot i = prompt i. The host learns each token
 * one step late: the next forward is submitted before the draw it depends on is waited for. */
static enum status answer_together(struct drive *d, uint32_t n, int32_t (*prompts)[512],
                                   const uint32_t *lengths, uint32_t n_tokens,
                                   struct answer *answers, struct error *err)
{
    uint32_t positions[DRIVE_SLOTS];
    struct sample_result results[DRIVE_SLOTS];
    uint64_t forward, draw = 0;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < n; i++)
        answers[i].n = 0;
    for (uint32_t t = 0; t < n_tokens && status == STATUS_OK; t++) {
        uint64_t before = draw;
        drive_begin(d);
        for (uint32_t i = 0; i < n && status == STATUS_OK; i++) {
            positions[i] = lengths[i] + t;
            status = t == 0 ? drive_add(d, i, 0, lengths[i], prompts[i], 0, false, err)
                            : drive_add(d, i, positions[i] - 1, 1, NULL, i, false, err);
        }
        if (status == STATUS_OK)
            status = drive_submit(d, &forward, err);
        drive_begin_draws(d);
        add_greedy_rows(d, n, positions);
        if (status == STATUS_OK)
            status = drive_draw(d, &draw, err);
        if (status == STATUS_OK && before) {
            status = d->api->wait(d->backend, before, err);
            if (status == STATUS_OK)
                status = d->api->read_samples(d->backend, before, n, results, err);
            if (status == STATUS_OK)
                take_draws(results, n, answers);
        }
    }
    if (status == STATUS_OK)
        status = d->api->wait(d->backend, draw, err);
    if (status == STATUS_OK)
        status = d->api->read_samples(d->backend, draw, n, results, err);
    if (status == STATUS_OK)
        take_draws(results, n, answers);
    return status;
}

struct recorded {
    const char *name;
    uint32_t n_prompt, n_output;
    int32_t output[512];
    const json_t *margins;
};

/* Tokens before the first difference; *excused: the recorded margin there is a near-tie. */
static uint32_t agreement(const struct recorded *r, const struct answer *answer, bool *excused)
{
    uint32_t i = 0;
    while (i < r->n_output && answer->tokens[i] == r->output[i])
        i++;
    *excused = i < r->n_output && json_number_value(json_array_get(r->margins, i)) < 0.1;
    return i;
}

struct tally {
    uint32_t prompts, identical, tokens, agreed;
};

/* Answers one group of recorded prompts at once, and its first one alone: the same tokens. */
static void pebble_group(struct suite *suite, struct drive *d, const json_t *prompts, size_t first,
                         uint32_t n, bool strict, const char *label, struct tally *tally)
{
    static int32_t ids[DRIVE_SLOTS][512];
    static struct recorded recorded[DRIVE_SLOTS];
    static struct answer together[DRIVE_SLOTS], alone;
    uint32_t lengths[DRIVE_SLOTS], most = 0;
    struct error err;
    for (uint32_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(prompts, first + i);
        struct recorded *r = &recorded[i];
        r->name = json_string_value(json_object_get(p, "name"));
        lengths[i] = read_ids(json_object_get(p, "prompt_ids"), ids[i], 512);
        r->n_output = read_ids(json_object_get(p, "output_ids"), r->output, 512);
        r->margins = json_object_get(p, "margins");
        if (!suite_check(suite, lengths[i] && r->n_output, "%s: prompt %zu is not readable", label,
                         first + i))
            return;
        most = r->n_output > most ? r->n_output : most;
    }
    if (!suite_check(suite, answer_together(d, n, ids, lengths, most, together, &err) == STATUS_OK,
                     "%s: %s", label, err.message))
        return;
    for (uint32_t i = 0; i < n; i++) {
        bool excused;
        uint32_t agreed = agreement(&recorded[i], &together[i], &excused);
        bool identical = agreed == recorded[i].n_output;
        tally->prompts++;
        tally->identical += identical;
        tally->tokens += recorded[i].n_output;
        tally->agreed += agreed;
        if (strict)
            suite_check(suite, identical || excused, "%s: %s differs at token %u of %u", label,
                        recorded[i].name, agreed, recorded[i].n_output);
    }
    if (suite_check(suite, answer_together(d, 1, ids, lengths, most, &alone, &err) == STATUS_OK,
                    "%s: %s", label, err.message))
        suite_check(suite, memcmp(alone.tokens, together[0].tokens, most * sizeof(int32_t)) == 0,
                    "%s: %s alone differs from itself in a batch of %u", label, recorded[0].name,
                    n);
}

static void pebble(struct suite *suite, const json_t *prompts, const char *file, bool exact,
                   bool strict, const char *label)
{
    char path[1024];
    struct model *model = NULL;
    struct drive drive = {.backend = NULL};
    struct tally tally = {0};
    struct error err;
    snprintf(path, sizeof path, "%s/models/pebble/%s", suite->root, file);
    struct drive_config config = {.api = suite->api,
                                  .backend = {.exact = exact, .batch_invariant = true},
                                  .kv_type = exact ? TENSOR_F32 : TENSOR_F16,
                                  .max_rows = 1536,
                                  .max_context = PEBBLE_CONTEXT};
    if (suite_check(suite, model_open(path, &model, &err) == STATUS_OK, "%s", err.message) &&
        suite_check(suite, drive_open(&drive, &config, model_program(model), &err) == STATUS_OK,
                    "%s: %s", label, err.message)) {
        uint32_t width = 1;
        for (size_t at = 0; at < json_array_size(prompts);) {
            size_t left = json_array_size(prompts) - at;
            uint32_t n = left < width ? (uint32_t)left : width;
            pebble_group(suite, &drive, prompts, at, n, strict, label, &tally);
            at += n;
            width = width < 5 ? width + 1 : 2;
        }
        printf("%-28s %u of %u answers identical, %u of %u tokens before the first difference\n",
               label, tally.identical, tally.prompts, tally.agreed, tally.tokens);
    }
    drive_close(&drive);
    model_close(model);
}

void suite_pebble(struct suite *suite)
{
    char path[1024];
    json_t *reference = NULL;
    struct error err;
    snprintf(path, sizeof path, "%s/models/pebble/reference.json", suite->root);
    if (!suite_check(suite,
                     json_parse_file(path, 1 << 22, JSON_DEPTH_DEFAULT, &reference, &err) ==
                         STATUS_OK,
                     "%s", err.message))
        return;
    const json_t *prompts = json_object_get(reference, "prompts");
    suite_check(suite, json_array_size(prompts) > 0, "%s has no prompts", path);
    pebble(suite, prompts, "pebble-bf16.gguf", true, true, "pebble bf16 exact");
    pebble(suite, prompts, "pebble-bf16.gguf", false, true, "pebble bf16 kv f16");
    pebble(suite, prompts, "pebble-q8_0.gguf", false, false, "pebble q8_0 kv f16");
    json_decref(reference);
}
