/*
 * From the scheduler's plan to the two buffers that backends read: struct step (what to compute) and
 * struct sample_step (what to draw from it). The scheduler knows counts; here are the tokens.
 *
 * Outputs that want logits stand first in a step's list, so slices are walked twice for them. A
 * generated row's token is taken on the device (INPUT_SAMPLED) where the step before drew it, and
 * sent again where the sequence sat out a step since.
 */
#include <string.h>

#include "engine/internal.h"

static enum status missed(const char *what, struct error *err)
{
    return error_set(err, STATUS_INTERNAL, "engine: a planned step has too many %s", what);
}

static enum status write_slice(sluice_engine *engine, struct flight *flight, uint32_t index,
                               struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    const struct choice *choice = choice_of(planned->id);
    struct slice slice = {
        .slot = planned->slot,
        .first_position = planned->first_position,
        .n_rows = planned->n_rows,
        .numeric_class = planned->generated ? CLASS_GENERATED : CLASS_PROMPT,
        .input = INPUT_TOKENS,
        .mask = engine->source.program->bidirectional ? MASK_SPAN : MASK_CAUSAL,
        .state_read = planned->state,
        .state_write = 1 - planned->state,
    };
    uint32_t end = planned->first_position + planned->n_rows;
    bool newest = planned->generated && planned->n_rows == 1 && end >= choice->chain.n_tokens;
    if (newest && choice->sampled_number + 1 == engine->step_number) {
        slice.input = INPUT_SAMPLED;
        slice.input_offset = choice->sampled_row;
    }
    flight->output_rows[index] = flight->step->n_rows; /* until write_outputs() */
    const int32_t *tokens = choice->tokens + planned->first_position;
    return step_add_slice(flight->step, &slice, tokens) ? STATUS_OK : missed("rows", err);
}

static bool wants_logits(const struct sched_slice *planned)
{
    sluice_mode mode = choice_of(planned->id)->request->mode;
    return mode == SLUICE_GENERATE || mode == SLUICE_SCORE_LOGITS;
}

/* The outputs of one slice; flight->output_rows[index] becomes the first of them. */
static enum status write_outputs(struct flight *flight, uint32_t index, struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    uint32_t first_row = flight->output_rows[index];
    uint32_t from = planned->all_outputs ? 0 : planned->n_rows - 1;
    if (!planned->all_outputs && !planned->last)
        return STATUS_OK;
    flight->output_rows[index] = flight->step->n_outputs;
    for (uint32_t row = from; row < planned->n_rows; row++)
        if (!step_add_output(flight->step, first_row + row, wants_logits(planned)))
            return missed("outputs", err);
    return STATUS_OK;
}

enum status step_write(sluice_engine *engine, struct flight *flight, const struct sched_plan *plan,
                       struct error *err)
{
    flight->number = ++engine->step_number;
    step_clear(flight->step, engine->step_number);
    flight->n_slices = plan->n_slices;
    memcpy(flight->slices, plan->slices, plan->n_slices * sizeof *plan->slices);
    const struct kv_changes *changes = &plan->changes;
    for (uint32_t i = 0; i < changes->n_writes; i++) {
        const struct kv_write *w = &changes->writes[i];
        struct table_write write = {w->slot, w->group, w->index, w->page};
        if (!step_add_table_write(flight->step, write))
            return missed("table writes", err);
    }
    for (uint32_t i = 0; i < changes->n_copies; i++) {
        struct page_copy copy = {changes->copies[i].from, changes->copies[i].to};
        if (!step_add_copy(flight->step, copy))
            return missed("page copies", err);
    }
    const struct sched_slice *slices = flight->slices;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++)
        if (slices[i].n_rows)
            status = write_slice(engine, flight, i, err);
    for (int logits = 1; logits >= 0; logits--)
        for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++)
            if (slices[i].n_rows && wants_logits(&slices[i]) == (bool)logits)
                status = write_outputs(flight, i, err);
    for (uint32_t i = 0; i < flight->n_slices; i++)
        if (slices[i].n_rows == 0)
            flight->output_rows[i] = flight->output_rows[slices[i].fork_of];
    return status;
}

/* ---- drawing ---------------------------------------------------------------------------------- */

/* Submits what is written so far: history alone, when a step brings more than fits (prompts that
 * came from the index, or sequences that resume, under penalties). */
static enum status flush_history(sluice_engine *engine, struct flight *flight, struct error *err)
{
    const struct backend_api *api = engine->api;
    uint64_t ticket = 0;
    enum status status =
        api->sample(engine->backend, engine->loaded, flight->sample_step, &ticket, err);
    if (status == STATUS_OK)
        status = api->wait(engine->backend, ticket, err);
    sample_step_clear(flight->sample_step, flight->number);
    return status;
}

/* Positions that the sampler of this slot does not know yet. A token drawn here it entered itself. */
static enum status write_history(sluice_engine *engine, struct flight *flight, uint32_t index,
                                 struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    struct choice *choice = choice_of(planned->id);
    if (planned->opened)
        choice->history = 0;
    if (!choice->request->penalties)
        return STATUS_OK;
    enum status status = STATUS_OK;
    uint32_t end = planned->first_position + planned->n_rows;
    for (; choice->history < end && status == STATUS_OK; choice->history++) {
        struct history_write write = {planned->slot, choice->history,
                                      choice->tokens[choice->history]};
        if (sample_step_add_history(flight->sample_step, write))
            continue;
        status = flush_history(engine, flight, err);
        if (status == STATUS_OK && !sample_step_add_history(flight->sample_step, write))
            status = missed("history writes", err);
    }
    return status;
}

static enum status write_sample(struct flight *flight, uint32_t index, struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    struct choice *choice = choice_of(planned->id);
    const sluice_request *request = choice->request;
    uint32_t end = planned->first_position + planned->n_rows;
    struct sample_row row = {
        .output = flight->output_rows[index],
        .slot = planned->slot,
        .position = end,
        .parameters = choice->sampling_row,
    };
    choice->history = end + 1;
    choice->sampled_number = flight->number;
    choice->sampled_row = flight->sample_rows[index] = flight->sample_step->n_rows;
    const struct sampling *s = &request->sampling;
    if (!sample_step_add_row(flight->sample_step, &row, s->bias_ids, s->bias_values, s->n_biases,
                             NULL, request->breakers))
        return missed("sample rows", err);
    return STATUS_OK;
}

enum status step_write_sample(sluice_engine *engine, struct flight *flight, struct error *err)
{
    enum status status = STATUS_OK;
    sample_step_clear(flight->sample_step, flight->number);
    for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++) {
        flight->sample_rows[i] = NO_SAMPLE;
        if (flight->slices[i].id && choice_of(flight->slices[i].id)->request->n_generate)
            status = write_history(engine, flight, i, err);
    }
    for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++) {
        const struct sched_slice *slice = &flight->slices[i];
        if (slice->id && slice->last && choice_of(slice->id)->request->n_generate)
            status = write_sample(flight, i, err);
    }
    return status;
}

/* ---- what it reads ---------------------------------------------------------------------------- */

uint64_t step_bytes_read(const sluice_engine *engine, const struct flight *flight)
{
    uint64_t total = engine->weight_bytes;
    if (engine->api->unread_bytes && flight->status == STATUS_OK)
        total -= engine->api->unread_bytes(engine->backend, engine->loaded, flight->ticket);
    for (uint32_t i = 0; i < flight->n_slices; i++) {
        const struct sched_slice *slice = &flight->slices[i];
        if (slice->n_rows)
            total += layout_bytes_read(&engine->size.layout,
                                       (uint64_t)slice->first_position + slice->n_rows);
    }
    return total;
}
