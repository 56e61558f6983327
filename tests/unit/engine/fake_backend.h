/*
 * A backend without arithmetic, and the model it runs: every row's "logits" are a hash of all the
 * tokens of its sequence, gathered only through page tables, window pages and recurrent state slots.
 * A wrong page, position, state slot or token anywhere changes everything after it, so the expected
 * answer (fake_next, computed from the tokens alone) checks the engine's bookkeeping completely.
 *
 * Also: step_check() on every step, counters, a switch that makes the device fail, and a delay.
 */
#ifndef SLUICE_TESTS_FAKE_BACKEND_H
#define SLUICE_TESTS_FAKE_BACKEND_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../text/small_vocabulary.h"
#include "backend/backend.h"
#include "engine/internal.h"
#include "fixture.h"

#define FAKE_CONTEXT 4096
#define FAKE_WINDOW  5
#define FAKE_HIDDEN  3

struct fake {
    struct backend base;
    struct layout layout;
    struct step_limits limits;
    uint8_t *pages;
    uint32_t *tables;
    int32_t *history; /* [n_slots][capacity] */
    uint32_t history_capacity;
    float *logits[3], *hidden[3];
    uint64_t tickets[3];
    uint32_t last; /* index of the last step's results */
    uint64_t ticket;
    int32_t *samples; /* of the last sample step */
    uint32_t n_samples;
    uint64_t sampled_number;
    struct sample_result *results[3]; /* of the last sample steps */
    uint64_t sample_tickets[3], sample_numbers[3], last_number;
    uint32_t last_sample;
};

/* What tests steer and look at. One fake is open at a time. */
struct fake_control {
    atomic_ullong steps, rows, copies, sampled_inputs, token_inputs;
    atomic_uint most_slices;
    atomic_bool fail;
    atomic_uint delay_us;
    atomic_bool asynchronous; /* says so, and allows it: results are banked */
    atomic_ullong ahead;      /* results read after a later step was submitted */
    atomic_bool damaged;
    struct fake *fake;
};

/* These run on the engine's thread, where cmocka's assertions must not jump. */
#define FAKE_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct fake_control fake_control;
static struct fake_control *fake_seen = &fake_control;

static uint64_t fake_mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ b * 0x9e3779b97f4a7c15u) + 0x632be59bd9b4e019u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 27);
}

static float fake_logit(uint64_t hash, uint32_t token)
{
    if (token == SMALL_END)
        return hash % 41 == 0 ? 100.0f : 0.0f;
    bool letter = (token >= 'a' && token <= 'z') || token == ' ';
    return (float)(fake_mix(hash, token) >> 44) * (letter ? 1e-5f : 1e-6f) + (letter ? 1.0f : 0.0f);
}

static int32_t fake_best(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < SMALL_COUNT; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* The hash of tokens[0..n), by definition. */
static uint64_t fake_hash(const int32_t *tokens, uint32_t n)
{
    uint64_t all = 1, state = 7, window = 3;
    for (uint32_t i = 0; i < n; i++) {
        all = fake_mix(all, (uint64_t)tokens[i]);
        state = fake_mix(state, (uint64_t)tokens[i] + 1);
    }
    for (uint32_t i = n > FAKE_WINDOW ? n - FAKE_WINDOW : 0; i < n; i++)
        window = fake_mix(window, (uint64_t)tokens[i]);
    return fake_mix(fake_mix(all, window), state);
}

static int32_t fake_next(const int32_t *tokens, uint32_t n)
{
    float logits[SMALL_COUNT];
    uint64_t hash = fake_hash(tokens, n);
    for (uint32_t i = 0; i < SMALL_COUNT; i++)
        logits[i] = fake_logit(hash, i);
    return fake_best(logits);
}

/* ---- the model -------------------------------------------------------------------------------- */

static struct program *fake_program(void)
{
    static const float zero[SMALL_COUNT];
    static const void *part = zero;
    static const struct weight weight = {
        .name = "w", .type = TENSOR_F32, .count = 1, .n_rows = 1, .n_cols = 4, .parts = &part};
    static const struct buffer buffers[] = {
        {.name = "hidden", .width = FAKE_HIDDEN, .rows = ROWS_OUTPUT},
        {.name = "logits", .width = SMALL_COUNT, .rows = ROWS_OUTPUT}};
    static struct program program = {
        .name = "fake",
        .buffers = (struct buffer *)(uintptr_t)buffers,
        .n_buffers = 2,
        .weights = (struct weight *)(uintptr_t)&weight,
        .n_weights = 1,
        .groups = {{.name = "all",
                    .kind = GROUP_KV,
                    .n_layers = 1,
                    .n_kv_heads = 1,
                    .k_head_dim = 2,
                    .v_head_dim = 2},
                   {.name = "window",
                    .kind = GROUP_KV,
                    .n_layers = 1,
                    .window = FAKE_WINDOW,
                    .n_kv_heads = 1,
                    .k_head_dim = 8,
                    .v_head_dim = 8},
                   {.name = "state", .kind = GROUP_RECURRENT, .n_layers = 1, .state_floats = 2}},
        .n_groups = 3,
        .n_vocab = SMALL_COUNT,
        .n_context = FAKE_CONTEXT,
        .n_axes = 1,
        .row_alignment = 1,
        .hidden = 0,
        .logits = 1,
    };
    return &program;
}

/* ---- the backend ------------------------------------------------------------------------------ */

static enum status fake_open(const struct backend_config *config, struct backend **out,
                             struct error *err)
{
    (void)config;
    (void)err;
    struct fake *fake = calloc(1, sizeof *fake);
    fake_seen->fake = fake;
    *out = &fake->base;
    return STATUS_OK;
}

static void fake_close(struct backend *base)
{
    struct fake *fake = (struct fake *)base;
    for (int i = 0; i < 3; i++) {
        free(fake->logits[i]);
        free(fake->hidden[i]);
    }
    free(fake->pages);
    free(fake->tables);
    free(fake->history);
    for (int i = 0; i < 3; i++)
        free(fake->results[i]);
    free(fake->samples);
    free(fake);
}

static void fake_info(struct backend *base, struct backend_info *out)
{
    (void)base;
    *out = (struct backend_info){.description = "no arithmetic",
                                 .kv_type = TENSOR_F32,
                                 .asynchronous = atomic_load(&fake_seen->asynchronous)};
}

static enum status fake_place(struct backend *base, const struct program *program, uint32_t weight,
                              struct placed_weight **out, struct error *err)
{
    (void)program;
    (void)weight;
    (void)err;
    *out = (struct placed_weight *)(void *)base;
    return STATUS_OK;
}

static enum status fake_load(struct backend *base, const struct program *program,
                             struct placed_weight *const *placed, const struct step_limits *limits,
                             struct loaded_program **out, struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)program;
    (void)placed;
    (void)err;
    fake->limits = *limits;
    for (int i = 0; i < 3; i++) {
        fake->logits[i] = calloc(limits->max_outputs, SMALL_COUNT * sizeof(float));
        fake->hidden[i] = calloc(limits->max_outputs, FAKE_HIDDEN * sizeof(float));
    }
    *out = (struct loaded_program *)(void *)fake;
    return STATUS_OK;
}

static enum status fake_allocate(struct backend *base, const struct layout *layout,
                                 uint32_t history_capacity, const struct sample_limits *sampling,
                                 struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)err;
    fake->layout = *layout;
    fake->pages = calloc(layout->n_pages, layout->page_bytes);
    fake->tables = malloc((size_t)layout->n_slots * layout->slot_pages * sizeof *fake->tables);
    memset(fake->tables, 0xff, (size_t)layout->n_slots * layout->slot_pages * sizeof *fake->tables);
    fake->history = calloc((size_t)layout->n_slots * history_capacity, sizeof *fake->history);
    fake->history_capacity = history_capacity;
    fake->samples = calloc(sampling->max_rows, sizeof *fake->samples);
    for (int i = 0; i < 3; i++)
        fake->results[i] = calloc(sampling->max_rows, sizeof *fake->results[i]);
    return STATUS_OK;
}

static uint64_t *fake_cell(struct fake *fake, uint32_t slot, uint32_t group, uint32_t index,
                           uint64_t offset)
{
    FAKE_REQUIRE(index < fake->layout.groups[group].max_pages);
    uint32_t page = fake->tables[layout_table_index(&fake->layout, slot, group, index)];
    FAKE_REQUIRE(page < fake->layout.n_pages);
    return (uint64_t *)(void *)(fake->pages + page * fake->layout.page_bytes + offset);
}

static uint64_t *fake_position(struct fake *fake, uint32_t slot, uint32_t group, uint32_t p)
{
    const struct group_layout *g = &fake->layout.groups[group];
    return fake_cell(fake, slot, group, p / g->tokens_per_page,
                     layout_k_offset(g, 0, 0, p % g->tokens_per_page));
}

static uint64_t *fake_state(struct fake *fake, uint32_t slot, uint32_t state)
{
    const struct group_layout *g = &fake->layout.groups[2];
    return fake_cell(fake, slot, 2, layout_state_page(g, state, 0), layout_state_offset(g, 0));
}

/* Runs one row and returns its hash; *state is carried along the slice. */
static uint64_t fake_row(struct fake *fake, uint32_t slot, uint32_t p, int32_t token,
                         uint64_t *state)
{
    uint64_t before = p ? *fake_position(fake, slot, 0, p - 1) : 1;
    uint64_t all = fake_mix(before, (uint64_t)token);
    *fake_position(fake, slot, 0, p) = all;
    *fake_position(fake, slot, 1, p) = (uint64_t)token;
    uint64_t window = 3;
    for (uint32_t i = p + 1 > FAKE_WINDOW ? p + 1 - FAKE_WINDOW : 0; i <= p; i++)
        window = fake_mix(window, *fake_position(fake, slot, 1, i));
    *state = fake_mix(*state, (uint64_t)token + 1);
    return fake_mix(fake_mix(all, window), *state);
}

static void fake_slice(struct fake *fake, const struct step *step, const struct slice *slice,
                       uint64_t *hashes)
{
    uint64_t state = slice->first_position ? *fake_state(fake, slice->slot, slice->state_read) : 7;
    FAKE_REQUIRE(slice->state_read != slice->state_write);
    for (uint32_t i = 0; i < slice->n_rows; i++) {
        int32_t token;
        if (slice->input == INPUT_SAMPLED) {
            FAKE_REQUIRE(fake->sampled_number + 1 == step->number);
            FAKE_REQUIRE(slice->input_offset + i < fake->n_samples);
            token = fake->samples[slice->input_offset + i];
            atomic_fetch_add(&fake_seen->sampled_inputs, 1);
        } else {
            token = step_tokens(step)[slice->input_offset + i];
            if (slice->numeric_class == CLASS_GENERATED)
                atomic_fetch_add(&fake_seen->token_inputs, 1);
        }
        hashes[slice->first_row + i] =
            fake_row(fake, slice->slot, slice->first_position + i, token, &state);
    }
    *fake_state(fake, slice->slot, slice->state_write) = state;
}

static enum status fake_submit(struct backend *base, struct loaded_program *program,
                               const struct step *step, uint64_t *ticket, struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)program;
    static uint64_t hashes[1 << 16];
    struct error problem = {0};
    FAKE_REQUIRE(step_check(step, step->bytes, fake->layout.n_slots, SMALL_COUNT,
                            fake->history_capacity, &problem) == STATUS_OK);
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        const struct table_write *w = &step_table_writes(step)[i];
        fake->tables[layout_table_index(&fake->layout, w->slot, w->group, w->index)] = w->page;
    }
    for (uint32_t i = 0; i < step->n_copies; i++) {
        struct page_copy c = step_copies(step)[i];
        FAKE_REQUIRE(c.from < fake->layout.n_pages && c.to < fake->layout.n_pages);
        memcpy(fake->pages + c.to * fake->layout.page_bytes,
               fake->pages + c.from * fake->layout.page_bytes, fake->layout.page_bytes);
        atomic_fetch_add(&fake_seen->copies, 1);
    }
    for (uint32_t i = 0; i < step->n_slices; i++)
        fake_slice(fake, step, &step_slices(step)[i], hashes);
    uint32_t at = fake->last = (fake->last + 1) % 3;
    fake->last_number = step->number;
    fake->tickets[at] = *ticket = ++fake->ticket;
    for (uint32_t i = 0; i < step->n_outputs; i++) {
        uint64_t hash = hashes[step_outputs(step)[i].row];
        for (uint32_t j = 0; j < FAKE_HIDDEN; j++)
            fake->hidden[at][i * FAKE_HIDDEN + j] = (float)(fake_mix(hash, 1000 + j) >> 44);
        for (uint32_t j = 0; i < step->n_logits && j < SMALL_COUNT; j++)
            fake->logits[at][(size_t)i * SMALL_COUNT + j] = fake_logit(hash, j);
    }
    atomic_fetch_add(&fake_seen->steps, 1);
    atomic_fetch_add(&fake_seen->rows, step->n_rows);
    if (step->n_slices > atomic_load(&fake_seen->most_slices))
        atomic_store(&fake_seen->most_slices, step->n_slices);
    if (atomic_load(&fake_seen->fail))
        return error_set(err, STATUS_DEVICE, "fake: the device fell off the bus");
    uint32_t delay = atomic_load(&fake_seen->delay_us);
    if (delay)
        nanosleep(&(struct timespec){0, (long)delay * 1000}, NULL);
    return STATUS_OK;
}

static uint32_t fake_result_of(const struct fake *fake, uint64_t ticket)
{
    for (uint32_t i = 0; i < 3; i++)
        if (fake->tickets[i] == ticket)
            return i;
    FAKE_REQUIRE(!"the results of this ticket are gone");
    return 0;
}

static enum status fake_sample(struct backend *base, struct loaded_program *program,
                               const struct sample_step *step, uint64_t *ticket, struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)program;
    (void)err;
    uint32_t at = fake->last;
    uint32_t bank = fake->last_sample = (fake->last_sample + 1) % 3;
    struct sample_result *results = fake->results[bank];
    for (uint32_t i = 0; i < step->n_history_writes; i++) {
        struct history_write w = sample_step_history(step)[i];
        fake->history[(size_t)w.slot * fake->history_capacity + w.position] = w.token;
    }
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct sample_row *row = &sample_step_rows(step)[i];
        int32_t *history = fake->history + (size_t)row->slot * fake->history_capacity;
        int32_t token = fake_best(fake->logits[at] + (size_t)row->output * SMALL_COUNT);
        /* A penalty, in the fake's terms: the history's hash replaces the model's choice. */
        if (row->parameters.repeat_penalty != 1.0f)
            token = 'a' + (int32_t)(fake_hash(history, row->position) % 26);
        FAKE_REQUIRE(row->position < fake->history_capacity);
        history[row->position] = token;
        fake->samples[i] = token;
        results[i] = (struct sample_result){
            .token = token, .logprob = -0.5f, .n_top = row->parameters.n_top_logprobs};
        for (uint32_t j = 0; j < results[i].n_top; j++)
            results[i].top[j] = (struct token_logprob){(int32_t)j, -(float)j};
    }
    fake->n_samples = step->n_rows;
    fake->sampled_number = step->number;
    fake->sample_numbers[bank] = step->number;
    fake->sample_tickets[bank] = *ticket = ++fake->ticket;
    return STATUS_OK;
}

static enum status fake_wait(struct backend *base, uint64_t ticket, struct error *err)
{
    (void)base;
    (void)ticket;
    (void)err;
    return STATUS_OK;
}

static enum status fake_read_rows(struct backend *base, struct loaded_program *program,
                                  enum result_kind kind, uint64_t ticket, uint32_t first,
                                  uint32_t n, float *out, struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)program;
    (void)err;
    uint32_t at = fake_result_of(fake, ticket);
    size_t width = kind == RESULT_LOGITS ? SMALL_COUNT : FAKE_HIDDEN;
    const float *from = kind == RESULT_LOGITS ? fake->logits[at] : fake->hidden[at];
    memcpy(out, from + first * width, n * width * sizeof *out);
    return STATUS_OK;
}

static enum status fake_read_samples(struct backend *base, uint64_t ticket, uint32_t n,
                                     struct sample_result *out, struct error *err)
{
    struct fake *fake = (struct fake *)base;
    (void)err;
    for (uint32_t i = 0; i < 3; i++)
        if (fake->sample_tickets[i] == ticket) {
            if (fake->sample_numbers[i] < fake->last_number)
                atomic_fetch_add(&fake_seen->ahead, 1);
            memcpy(out, fake->results[i], n * sizeof *out);
            return STATUS_OK;
        }
    FAKE_REQUIRE(!"the draws of this ticket are gone");
    return STATUS_OK;
}

static const struct backend_api fake_api = {
    .abi = BACKEND_ABI,
    .name = "fake",
    .summary = "no arithmetic",
    .open = fake_open,
    .close = fake_close,
    .info = fake_info,
    .place = fake_place,
    .load = fake_load,
    .allocate = fake_allocate,
    .submit = fake_submit,
    .sample = fake_sample,
    .wait = fake_wait,
    .read_rows = fake_read_rows,
    .read_samples = fake_read_samples,
};

#endif
