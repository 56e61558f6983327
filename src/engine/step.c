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

static enum status write_slice(sluice_engine *engine, struct flight *flight,
                               const struct sched_slice *planned, struct error *err)
{
    struct choice *choice = choice_of(planned->id);
    struct slice slice = {
        .slot = planned->slot,
        .first_position = planned->first_position,
        .n_rows = planned->n_rows,
        .numeric_class = planned->generated ? CLASS_GENERATED : CLASS_PROMPT,
        .input = INPUT_TOKENS,
        .mask = engine->source.program->bidirectional ? MASK_SPAN : MASK_CAUSAL,
        .state_read = choice->state,
        .state_write = 1 - choice->state,
    };
    choice->state = 1 - choice->state;
    if (planned->generated && choice->sampled_number + 1 == engine->step_number) {
        slice.input = INPUT_SAMPLED;
        slice.input_offset = choice->sampled_row;
    }
    const int32_t *tokens = choice->tokens + planned->first_position;
    return step_add_slice(flight->step, &slice, tokens) ? STATUS_OK : missed("rows", err);
}

static bool wants_logits(const struct sched_slice *planned)
{
    sluice_mode mode = choice_of(planned->id)->request->mode;
    return mode == SLUICE_GENERATE || mode == SLUICE_SCORE_LOGITS;
}

/* The outputs of one slice; flight->output_rows[index] is the first of them. */
static enum status write_outputs(struct flight *flight, uint32_t index, bool logits,
                                 struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    uint32_t first_row = step_slices(flight->step)[index].first_row;
    uint32_t from = planned->all_outputs ? 0 : planned->n_rows - 1;
    if (!planned->all_outputs && !planned->last)
        return STATUS_OK;
    flight->output_rows[index] = flight->step->n_outputs;
    for (uint32_t row = from; row < planned->n_rows; row++)
        if (!step_add_output(flight->step, first_row + row, logits))
            return missed("outputs", err);
    return STATUS_OK;
}

static enum status write_sample(struct flight *flight, uint32_t index, struct error *err)
{
    const struct sched_slice *planned = &flight->slices[index];
    struct choice *choice = choice_of(planned->id);
    const sluice_request *request = choice->request;
    flight->sample_rows[index] = NO_SAMPLE;
    if (request->mode != SLUICE_GENERATE)
        return STATUS_OK;
    uint32_t end = planned->first_position + planned->n_rows;
    if (!planned->generated && request->penalties)
        for (uint32_t p = planned->first_position; p < end; p++)
            if (!sample_step_add_history(
                    flight->sample_step,
                    (struct history_write){planned->slot, p, choice->tokens[p]}))
                return missed("history writes", err);
    if (!planned->last)
        return STATUS_OK;
    struct sample_row row = {
        .output = flight->output_rows[index],
        .slot = planned->slot,
        .position = end,
        .parameters = choice->sampling_row,
    };
    choice->sampled_number = flight->number;
    choice->sampled_row = flight->sample_rows[index] = flight->sample_step->n_rows;
    const struct sampling *s = &request->sampling;
    if (!sample_step_add_row(flight->sample_step, &row, s->bias_ids, s->bias_values, s->n_biases,
                             NULL, request->breakers))
        return missed("sample rows", err);
    return STATUS_OK;
}

enum status step_write(sluice_engine *engine, struct flight *flight, const struct sched_plan *plan,
                       struct error *err)
{
    flight->number = ++engine->step_number;
    step_clear(flight->step, engine->step_number);
    flight->n_slices = plan->n_slices;
    memcpy(flight->slices, plan->slices, plan->n_slices * sizeof *plan->slices);
    for (uint32_t i = 0; i < plan->n_writes; i++) {
        const struct kv_write *w = &plan->writes[i];
        struct table_write write = {w->slot, w->group, w->index, w->page};
        if (!step_add_table_write(flight->step, write))
            return missed("table writes", err);
    }
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < plan->n_slices && status == STATUS_OK; i++)
        status = write_slice(engine, flight, &plan->slices[i], err);
    for (int logits = 1; logits >= 0; logits--)
        for (uint32_t i = 0; i < plan->n_slices && status == STATUS_OK; i++)
            if (wants_logits(&plan->slices[i]) == (bool)logits)
                status = write_outputs(flight, i, logits, err);
    return status;
}

enum status step_write_sample(struct flight *flight, struct error *err)
{
    enum status status = STATUS_OK;
    sample_step_clear(flight->sample_step, flight->number);
    for (uint32_t i = 0; i < flight->n_slices && status == STATUS_OK; i++)
        if (flight->slices[i].id)
            status = write_sample(flight, i, err);
    return status;
}
