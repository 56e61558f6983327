/*
 * From the scheduler's plan to the two buffers that backends read: struct step (what to compute) and
 * struct sample_step (what to draw from it). The scheduler knows counts; here are the tokens.
 *
 * Outputs that want logits stand first in a step's list, so slices are walked twice for them. A
 * generated row's token is taken on the device (INPUT_SAMPLED) where the step before drew it, and
 * sent again where the sequence sat out a step since.
 */
#include "engine/internal.h"

static enum status missed(const char *what, struct error *err)
{
    return error_set(err, STATUS_INTERNAL, "engine: a planned step has too many %s", what);
}

static enum status write_slice(sluice_engine *engine, const struct sched_slice *planned,
                               struct error *err)
{
    sluice_request *request = request_of(planned->id);
    struct slice slice = {
        .slot = planned->slot,
        .first_position = planned->first_position,
        .n_rows = planned->n_rows,
        .numeric_class = planned->generated ? CLASS_GENERATED : CLASS_PROMPT,
        .input = INPUT_TOKENS,
        .mask = MASK_CAUSAL,
        .state_read = request->state,
        .state_write = 1 - request->state,
    };
    const int32_t *tokens = request->prompt.ids + planned->first_position;
    if (planned->generated) {
        tokens = &request->last_token;
        if (request->sampled_number + 1 == engine->step_number) {
            slice.input = INPUT_SAMPLED;
            slice.input_offset = request->sampled_row;
            tokens = NULL;
        }
    }
    return step_add_slice(engine->step, &slice, tokens) ? STATUS_OK : missed("rows", err);
}

static bool wants_logits(const sluice_request *request)
{
    return request->mode != SLUICE_SCORE_HIDDEN;
}

/* The outputs of one slice; engine->output_rows[index] is the first of them. */
static enum status write_outputs(sluice_engine *engine, const struct sched_slice *planned,
                                 uint32_t index, bool logits, struct error *err)
{
    uint32_t first_row = step_slices(engine->step)[index].first_row;
    uint32_t from = planned->all_outputs ? 0 : planned->n_rows - 1;
    if (!planned->all_outputs && !planned->last)
        return STATUS_OK;
    engine->output_rows[index] = engine->step->n_outputs;
    for (uint32_t row = from; row < planned->n_rows; row++)
        if (!step_add_output(engine->step, first_row + row, logits))
            return missed("outputs", err);
    return STATUS_OK;
}

static enum status write_sample(sluice_engine *engine, const struct sched_slice *planned,
                                uint32_t index, struct error *err)
{
    const sluice_request *request = request_of(planned->id);
    engine->sample_rows[index] = NO_SAMPLE;
    if (request->mode != SLUICE_GENERATE)
        return STATUS_OK;
    uint32_t end = planned->first_position + planned->n_rows;
    if (!planned->generated && request->penalties)
        for (uint32_t p = planned->first_position; p < end; p++)
            if (!sample_step_add_history(
                    engine->sample_step,
                    (struct history_write){planned->slot, p, request->prompt.ids[p]}))
                return missed("history writes", err);
    if (!planned->last)
        return STATUS_OK;
    struct sample_row row = {
        .output = engine->output_rows[index],
        .slot = planned->slot,
        .position = end,
        .parameters = request->sampling_row,
    };
    engine->sample_rows[index] = engine->sample_step->n_rows;
    const struct sampling *s = &request->sampling;
    if (!sample_step_add_row(engine->sample_step, &row, s->bias_ids, s->bias_values, s->n_biases,
                             NULL, request->breakers))
        return missed("sample rows", err);
    return STATUS_OK;
}

enum status step_write(sluice_engine *engine, const struct sched_plan *plan, struct error *err)
{
    engine->step_number++;
    step_clear(engine->step, engine->step_number);
    sample_step_clear(engine->sample_step, engine->step_number);
    for (uint32_t i = 0; i < plan->n_writes; i++) {
        const struct kv_write *w = &plan->writes[i];
        struct table_write write = {w->slot, w->group, w->index, w->page};
        if (!step_add_table_write(engine->step, write))
            return missed("table writes", err);
    }
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < plan->n_slices && status == STATUS_OK; i++)
        status = write_slice(engine, &plan->slices[i], err);
    for (int logits = 1; logits >= 0; logits--)
        for (uint32_t i = 0; i < plan->n_slices && status == STATUS_OK; i++)
            if (wants_logits(request_of(plan->slices[i].id)) == (bool)logits)
                status = write_outputs(engine, &plan->slices[i], i, logits, err);
    for (uint32_t i = 0; i < plan->n_slices && status == STATUS_OK; i++)
        status = write_sample(engine, &plan->slices[i], i, err);
    return status;
}
