/* Sample steps: laying out the sections of the buffer, filling them under their capacities, and what
 * backends check of them. */
#include "backend/backend.h"

#include <string.h>

#include "base/checked.h"

#define SECTION_ALIGN 64

enum section {
    SECTION_ROWS,
    SECTION_HISTORY,
    SECTION_BIAS_IDS,
    SECTION_BIAS_VALUES,
    SECTION_MASKS,
    SECTIONS
};

static uint32_t words_per_mask(const struct sample_limits *l)
{
    return l->n_vocab / 32 + (l->n_vocab % 32 != 0);
}

static bool sections(const struct sample_limits *l, uint64_t offsets[SECTIONS + 1])
{
    const uint64_t counts[SECTIONS][2] = {
        [SECTION_ROWS] = {l->max_rows, sizeof(struct sample_row)},
        [SECTION_HISTORY] = {l->max_history_writes, sizeof(struct history_write)},
        [SECTION_BIAS_IDS] = {l->max_biases, sizeof(int32_t)},
        [SECTION_BIAS_VALUES] = {l->max_biases, sizeof(float)},
        [SECTION_MASKS] = {(uint64_t)l->max_masks * words_per_mask(l), sizeof(uint32_t)},
    };
    return checked_sections(sizeof(struct sample_step), counts, SECTIONS, SECTION_ALIGN, UINT32_MAX,
                            offsets);
}

size_t sample_step_bytes(const struct sample_limits *limits)
{
    uint64_t offsets[SECTIONS + 1];
    return sections(limits, offsets) ? (size_t)offsets[SECTIONS] : 0;
}

struct sample_step *sample_step_init(void *buffer, const struct sample_limits *limits)
{
    uint64_t offsets[SECTIONS + 1];
    if (!sections(limits, offsets))
        return NULL;
    struct sample_step *step = buffer;
    memset(step, 0, (size_t)offsets[SECTIONS]);
    step->magic = SAMPLE_STEP_MAGIC;
    step->bytes = (uint32_t)offsets[SECTIONS];
    step->limits = *limits;
    step->mask_words = words_per_mask(limits);
    step->rows_at = (uint32_t)offsets[SECTION_ROWS];
    step->history_at = (uint32_t)offsets[SECTION_HISTORY];
    step->bias_ids_at = (uint32_t)offsets[SECTION_BIAS_IDS];
    step->bias_values_at = (uint32_t)offsets[SECTION_BIAS_VALUES];
    step->masks_at = (uint32_t)offsets[SECTION_MASKS];
    return step;
}

void sample_step_clear(struct sample_step *step, uint64_t number)
{
    step->number = number;
    step->n_rows = step->n_history_writes = step->n_biases = step->n_masks = 0;
}

/* Copies a mask behind those that are there, which have room for it. */
static uint32_t add_mask(struct sample_step *step, const uint32_t *mask)
{
    if (!mask)
        return NO_MASK;
    uint32_t offset = step->n_masks++ * step->mask_words;
    memcpy((uint32_t *)((char *)step + step->masks_at) + offset, mask,
           step->mask_words * sizeof *mask);
    return offset;
}

bool sample_step_add_row(struct sample_step *step, const struct sample_row *row,
                         const int32_t *bias_ids, const float *bias_values, uint32_t n_biases,
                         const uint32_t *mask, const uint32_t *breakers)
{
    const struct sample_limits *l = &step->limits;
    uint32_t n_masks = (mask != NULL) + (breakers != NULL);
    if (step->n_rows == l->max_rows || n_biases > l->max_biases - step->n_biases ||
        n_masks > l->max_masks - step->n_masks)
        return false;
    char *base = (char *)step;
    struct sample_row *copy = (struct sample_row *)(base + step->rows_at) + step->n_rows;
    *copy = *row;
    copy->parameters.bias_offset = step->n_biases;
    copy->parameters.n_biases = n_biases;
    if (n_biases) {
        memcpy((int32_t *)(base + step->bias_ids_at) + step->n_biases, bias_ids,
               n_biases * sizeof *bias_ids);
        memcpy((float *)(base + step->bias_values_at) + step->n_biases, bias_values,
               n_biases * sizeof *bias_values);
        step->n_biases += n_biases;
    }
    copy->mask_offset = add_mask(step, mask);
    copy->breakers_offset = add_mask(step, breakers);
    step->n_rows++;
    return true;
}

bool sample_step_add_history(struct sample_step *step, struct history_write write)
{
    if (step->n_history_writes == step->limits.max_history_writes)
        return false;
    ((struct history_write *)((char *)step + step->history_at))[step->n_history_writes++] = write;
    return true;
}

static bool mask_fits(const struct sample_step *step, uint32_t offset)
{
    uint64_t words = (uint64_t)step->n_masks * step->mask_words;
    return offset == NO_MASK || (uint64_t)offset + step->mask_words <= words;
}

static enum status check_row(const struct sample_step *step, uint32_t index,
                             const struct sample_bounds *b, struct error *err)
{
    const struct sample_row *row = &sample_step_rows(step)[index];
    const struct sampling_row *p = &row->parameters;
    if (row->output >= b->n_logits || row->slot >= b->n_slots ||
        row->position > b->history_capacity)
        return error_set(err, STATUS_INTERNAL,
                         "sample row %u: logits %u of %u, slot %u of %u, position %u of %u", index,
                         row->output, b->n_logits, row->slot, b->n_slots, row->position,
                         b->history_capacity);
    if (p->bias_offset > step->n_biases || p->n_biases > step->n_biases - p->bias_offset)
        return error_set(err, STATUS_INTERNAL, "sample row %u: biases %u+%u of %u", index,
                         p->bias_offset, p->n_biases, step->n_biases);
    if (!mask_fits(step, row->mask_offset) || !mask_fits(step, row->breakers_offset))
        return error_set(err, STATUS_INTERNAL,
                         "sample row %u: masks at words %u and %u of %u masks", index,
                         row->mask_offset, row->breakers_offset, step->n_masks);
    return STATUS_OK;
}

enum status sample_step_check(const struct sample_step *step, const struct sample_bounds *bounds,
                              struct error *err)
{
    for (uint32_t i = 0; i < step->n_history_writes; i++) {
        struct history_write w = sample_step_history(step)[i];
        if (w.slot >= bounds->n_slots || w.position >= bounds->history_capacity)
            return error_set(err, STATUS_INTERNAL, "history write %u: slot %u, position %u", i,
                             w.slot, w.position);
    }
    for (uint32_t i = 0; i < step->n_rows; i++) {
        enum status status = check_row(step, i, bounds, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

struct sample_result sample_result_of(const struct sampling_draw *draw)
{
    struct sample_result result = {.token = draw->token,
                                   .failed = draw->failed,
                                   .logprob = draw->logprob,
                                   .mirostat_mu = draw->mirostat_mu,
                                   .n_top = draw->n_top};
    for (uint32_t i = 0; i < draw->n_top; i++)
        result.top[i] = (struct token_logprob){draw->top[i].token, draw->top[i].logprob};
    return result;
}
