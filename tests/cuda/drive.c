/* The hand-driven backend of the GPU tests; see drive.h. */
#include "drive.h"

#include <stdlib.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory in the test");
}

/* Buffers of steps are copied to devices whole: aligned as the engine aligns them. */
static void *aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static enum status make_buffers(struct drive *d, struct error *err)
{
    for (int i = 0; i < 2; i++) {
        d->memory[i] = aligned(step_bytes(&d->limits));
        d->memory[2 + i] = aligned(sample_step_bytes(&d->sampling));
        if (!d->memory[i] || !d->memory[2 + i])
            return no_memory(err);
        step_init(d->memory[i], &d->limits);
        sample_step_init(d->memory[2 + i], &d->sampling);
    }
    return STATUS_OK;
}

static enum status load(struct drive *d, const struct drive_config *config, struct error *err)
{
    const struct program *program = d->program;
    d->placed = calloc((size_t)program->n_weights + 1, sizeof *d->placed);
    if (!d->placed)
        return no_memory(err);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < program->n_weights && status == STATUS_OK; i++)
        status = d->api->place(d->backend, program, i, &d->placed[i], err);
    if (status == STATUS_OK)
        status = d->api->load(d->backend, program, d->placed, &d->limits, &d->loaded, err);
    if (status == STATUS_OK)
        status = d->api->allocate(d->backend, &d->layout, config->max_context, &d->sampling, err);
    return status;
}

enum status drive_open(struct drive *d, const struct drive_config *config,
                       const struct program *program, struct error *err)
{
    *d = (struct drive){.api = config->api, .program = program};
    enum status status = d->api->open(&config->backend, &d->backend, err);
    if (status != STATUS_OK)
        return status;
    struct backend_info info;
    d->api->info(d->backend, &info);
    enum tensor_type kv = config->kv_type == TENSOR_TYPE_END ? info.kv_type : config->kv_type;
    status = layout_plan(program, kv, DRIVE_SLOTS, config->max_context, 16, &d->layout, err);
    if (status != STATUS_OK)
        return status;
    d->layout.n_pages = d->layout.n_slots * d->layout.slot_pages;
    d->limits = (struct step_limits){.max_rows = config->max_rows,
                                     .max_slices = 2 * DRIVE_SLOTS,
                                     .max_outputs = config->max_rows,
                                     .max_table_writes = d->layout.n_pages,
                                     .n_axes = program->n_axes};
    d->sampling = (struct sample_limits){.max_rows = DRIVE_SLOTS,
                                         .max_history_writes = DRIVE_HISTORY,
                                         .max_biases = DRIVE_BIASES,
                                         .max_masks = DRIVE_MASKS,
                                         .n_vocab = program->n_vocab};
    status = make_buffers(d, err);
    return status == STATUS_OK ? load(d, config, err) : status;
}

void drive_close(struct drive *d)
{
    if (d->backend)
        d->api->close(d->backend);
    for (int i = 0; i < 4; i++)
        free(d->memory[i]);
    free(d->placed);
    *d = (struct drive){.api = d->api};
}

void drive_begin(struct drive *d)
{
    d->step = d->memory[d->n_steps % 2];
    step_clear(d->step, ++d->n_steps);
    memset(d->moved, 0, sizeof d->moved);
}

static bool map_slot(struct drive *d, uint32_t slot)
{
    for (uint32_t g = 0; g < d->layout.n_groups; g++)
        for (uint32_t i = 0; i < d->layout.groups[g].max_pages; i++) {
            uint32_t page =
                d->layout.n_pages - 1 - (uint32_t)layout_table_index(&d->layout, slot, g, i);
            if (!step_add_table_write(d->step, (struct table_write){slot, g, i, page}))
                return false;
        }
    return true;
}

enum status drive_add(struct drive *d, uint32_t slot, uint32_t first, uint32_t n,
                      const int32_t *tokens, uint32_t sampled, bool all, struct error *err)
{
    bool fits = d->mapped[slot] || map_slot(d, slot);
    d->mapped[slot] = true;
    struct slice slice = {.slot = slot,
                          .first_position = first,
                          .n_rows = n,
                          .numeric_class = n == 1 ? CLASS_GENERATED : CLASS_PROMPT,
                          .input = tokens ? INPUT_TOKENS : INPUT_SAMPLED,
                          .mask = MASK_CAUSAL,
                          .input_offset = tokens ? 0 : sampled,
                          .state_read = d->state[slot],
                          .state_write = d->moved[slot] ? d->state[slot] : d->state[slot] ^ 1u};
    d->moved[slot] = true;
    d->state[slot] = (uint8_t)slice.state_write;
    uint32_t row = d->step->n_rows;
    fits = fits && step_add_slice(d->step, &slice, tokens);
    for (uint32_t i = all ? 0 : n - 1; i < n; i++)
        fits = fits && step_add_output(d->step, row + i, true);
    return fits ? STATUS_OK : error_set(err, STATUS_INTERNAL, "the test's step is too large");
}

enum status drive_submit(struct drive *d, uint64_t *ticket, struct error *err)
{
    return d->api->submit(d->backend, d->loaded, d->step, ticket, err);
}

enum status drive_logits(struct drive *d, uint64_t ticket, uint32_t first, uint32_t n, float *out,
                         struct error *err)
{
    enum status status = d->api->wait(d->backend, ticket, err);
    if (status == STATUS_OK)
        status =
            d->api->read_rows(d->backend, d->loaded, RESULT_LOGITS, ticket, first, n, out, err);
    return status;
}

void drive_begin_draws(struct drive *d)
{
    d->draws = d->memory[2 + d->n_draws % 2];
    sample_step_clear(d->draws, d->n_steps);
    d->n_draws++;
}

enum status drive_draw(struct drive *d, uint64_t *ticket, struct error *err)
{
    return d->api->sample(d->backend, d->loaded, d->draws, ticket, err);
}

enum status drive_alone(struct drive *d, const int32_t *tokens, uint32_t n, const uint32_t *chunks,
                        uint32_t n_chunks, float *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t at = 0, c = 0; at < n && status == STATUS_OK; c++) {
        uint32_t rows = chunks[c < n_chunks ? c : n_chunks - 1];
        rows = rows < n - at ? rows : n - at;
        uint64_t ticket;
        drive_begin(d);
        status = drive_add(d, 0, at, rows, tokens + at, 0, true, err);
        if (status == STATUS_OK)
            status = drive_submit(d, &ticket, err);
        if (status == STATUS_OK)
            status = drive_logits(d, ticket, 0, rows, out + (size_t)at * d->program->n_vocab, err);
        at += rows;
    }
    return status;
}
