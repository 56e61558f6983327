/* Steps: laying out the sections of the buffer, and filling them under their capacities. */
#include "program/step.h"

#include <string.h>

#include "base/checked.h"

#define SECTION_ALIGN 64

/* Byte sizes of the sections, in the order of the buffer. */
enum section {
    SECTION_SLICES,
    SECTION_ROW_SLICE,
    SECTION_POSITIONS,
    SECTION_TOKENS,
    SECTION_OUTPUTS,
    SECTION_TABLE_WRITES,
    SECTION_COPIES,
    SECTION_EMBEDDINGS,
    SECTIONS
};

/* Offsets of all sections and, as the last one, the total; false on overflow of 32 bits. */
static bool sections(const struct step_limits *l, uint64_t offsets[SECTIONS + 1])
{
    const uint64_t counts[SECTIONS][2] = {
        [SECTION_SLICES] = {l->max_slices, sizeof(struct slice)},
        [SECTION_ROW_SLICE] = {l->max_rows, sizeof(uint32_t)},
        [SECTION_POSITIONS] = {(uint64_t)l->max_rows * l->n_axes, sizeof(int32_t)},
        [SECTION_TOKENS] = {l->max_rows, sizeof(int32_t)},
        [SECTION_OUTPUTS] = {l->max_outputs, sizeof(struct step_output)},
        [SECTION_TABLE_WRITES] = {l->max_table_writes, sizeof(struct table_write)},
        [SECTION_COPIES] = {l->max_copies, sizeof(struct page_copy)},
        [SECTION_EMBEDDINGS] = {(uint64_t)l->max_embeddings * l->embedding_width, sizeof(float)},
    };
    return checked_sections(sizeof(struct step), counts, SECTIONS, SECTION_ALIGN, UINT32_MAX,
                            offsets);
}

size_t step_bytes(const struct step_limits *limits)
{
    uint64_t offsets[SECTIONS + 1];
    return sections(limits, offsets) ? (size_t)offsets[SECTIONS] : 0;
}

struct step *step_init(void *buffer, const struct step_limits *limits)
{
    uint64_t offsets[SECTIONS + 1];
    if (!sections(limits, offsets))
        return NULL;
    struct step *step = buffer;
    memset(step, 0, (size_t)offsets[SECTIONS]);
    step->magic = STEP_MAGIC;
    step->bytes = (uint32_t)offsets[SECTIONS];
    step->limits = *limits;
    step->slices_at = (uint32_t)offsets[SECTION_SLICES];
    step->row_slice_at = (uint32_t)offsets[SECTION_ROW_SLICE];
    step->positions_at = (uint32_t)offsets[SECTION_POSITIONS];
    step->tokens_at = (uint32_t)offsets[SECTION_TOKENS];
    step->outputs_at = (uint32_t)offsets[SECTION_OUTPUTS];
    step->table_writes_at = (uint32_t)offsets[SECTION_TABLE_WRITES];
    step->copies_at = (uint32_t)offsets[SECTION_COPIES];
    step->embeddings_at = (uint32_t)offsets[SECTION_EMBEDDINGS];
    return step;
}

void step_clear(struct step *step, uint64_t number)
{
    step->number = number;
    step->n_rows = step->n_slices = step->n_outputs = step->n_logits = 0;
    step->n_tokens = step->n_table_writes = step->n_copies = step->n_embeddings = 0;
}

bool step_add_slice(struct step *step, const struct slice *slice, const int32_t *tokens)
{
    const struct step_limits *l = &step->limits;
    if (step->n_slices == l->max_slices || slice->n_rows == 0 ||
        slice->n_rows > l->max_rows - step->n_rows)
        return false;
    struct slice *copy = (struct slice *)((char *)step + step->slices_at) + step->n_slices;
    *copy = *slice;
    copy->first_row = step->n_rows;
    if (slice->input == INPUT_TOKENS) {
        copy->input_offset = step->n_tokens;
        memcpy((int32_t *)((char *)step + step->tokens_at) + step->n_tokens, tokens,
               slice->n_rows * sizeof *tokens);
        step->n_tokens += slice->n_rows;
    }
    uint32_t *row_slice = (uint32_t *)((char *)step + step->row_slice_at);
    for (uint32_t i = 0; i < slice->n_rows; i++) {
        uint32_t row = step->n_rows + i;
        row_slice[row] = step->n_slices;
        for (uint32_t axis = 0; axis < l->n_axes; axis++)
            ((int32_t *)((char *)step + step->positions_at))[(size_t)axis * l->max_rows + row] =
                (int32_t)(slice->first_position + i);
    }
    step->n_rows += slice->n_rows;
    step->n_slices++;
    return true;
}

bool step_add_output(struct step *step, uint32_t row, bool logits)
{
    if (step->n_outputs == step->limits.max_outputs || row >= step->n_rows ||
        (logits && step->n_logits != step->n_outputs))
        return false;
    ((struct step_output *)((char *)step + step->outputs_at))[step->n_outputs++].row = row;
    step->n_logits += logits;
    return true;
}

bool step_add_table_write(struct step *step, struct table_write write)
{
    if (step->n_table_writes == step->limits.max_table_writes)
        return false;
    ((struct table_write *)((char *)step + step->table_writes_at))[step->n_table_writes++] = write;
    return true;
}

bool step_add_copy(struct step *step, struct page_copy copy)
{
    if (step->n_copies == step->limits.max_copies)
        return false;
    ((struct page_copy *)((char *)step + step->copies_at))[step->n_copies++] = copy;
    return true;
}

static enum status check_slice(const struct step *step, uint32_t index, uint32_t next_row,
                               uint32_t n_slots, uint32_t n_vocab, uint32_t max_context,
                               struct error *err)
{
    const struct slice *s = step_slices(step) + index;
    if (s->slot >= n_slots)
        return error_set(err, STATUS_INTERNAL, "slice %u: slot %u of %u", index, s->slot, n_slots);
    if (s->n_rows == 0 || s->first_row != next_row || s->n_rows > step->n_rows - next_row)
        return error_set(err, STATUS_INTERNAL, "slice %u: rows %u+%u of %u", index, s->first_row,
                         s->n_rows, step->n_rows);
    if (s->first_position > max_context || s->n_rows > max_context - s->first_position)
        return error_set(err, STATUS_INTERNAL, "slice %u: positions %u+%u past context %u", index,
                         s->first_position, s->n_rows, max_context);
    if (s->numeric_class > CLASS_GENERATED || s->input > INPUT_EMBEDDINGS || s->mask > MASK_TREE ||
        s->state_read > 1 || s->state_write > 1)
        return error_set(err, STATUS_INTERNAL, "slice %u: an enumeration is out of range", index);
    uint32_t available = s->input == INPUT_TOKENS       ? step->n_tokens
                         : s->input == INPUT_EMBEDDINGS ? step->n_embeddings
                                                        : UINT32_MAX;
    if (s->input_offset > available || s->n_rows > available - s->input_offset)
        return error_set(err, STATUS_INTERNAL, "slice %u: input %u+%u of %u", index,
                         s->input_offset, s->n_rows, available);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        if (step_row_slice(step)[s->first_row + i] != index)
            return error_set(err, STATUS_INTERNAL, "row %u does not name slice %u",
                             s->first_row + i, index);
        if (s->input != INPUT_TOKENS)
            continue;
        int32_t token = step_tokens(step)[s->input_offset + i];
        if (token < 0 || (uint32_t)token >= n_vocab)
            return error_set(err, STATUS_INTERNAL, "token %d outside the vocabulary of %u", token,
                             n_vocab);
    }
    return STATUS_OK;
}

enum status step_check(const struct step *step, size_t bytes, uint32_t n_slots, uint32_t n_vocab,
                       uint32_t max_context, struct error *err)
{
    uint64_t offsets[SECTIONS + 1];
    if (bytes < sizeof *step || step->magic != STEP_MAGIC)
        return error_set(err, STATUS_INTERNAL, "not a step buffer");
    const struct step_limits *l = &step->limits;
    if (!sections(l, offsets) || offsets[SECTIONS] != step->bytes || step->bytes > bytes ||
        step->slices_at != offsets[SECTION_SLICES] ||
        step->row_slice_at != offsets[SECTION_ROW_SLICE] ||
        step->positions_at != offsets[SECTION_POSITIONS] ||
        step->tokens_at != offsets[SECTION_TOKENS] ||
        step->outputs_at != offsets[SECTION_OUTPUTS] ||
        step->table_writes_at != offsets[SECTION_TABLE_WRITES] ||
        step->copies_at != offsets[SECTION_COPIES] ||
        step->embeddings_at != offsets[SECTION_EMBEDDINGS])
        return error_set(err, STATUS_INTERNAL, "step sections do not match its limits");
    if (step->n_rows > l->max_rows || step->n_slices > l->max_slices ||
        step->n_outputs > l->max_outputs || step->n_logits > step->n_outputs ||
        step->n_tokens > l->max_rows || step->n_table_writes > l->max_table_writes ||
        step->n_copies > l->max_copies || step->n_embeddings > l->max_embeddings)
        return error_set(err, STATUS_INTERNAL, "a step count exceeds its limit");
    uint32_t next_row = 0;
    for (uint32_t i = 0; i < step->n_slices; i++) {
        enum status status = check_slice(step, i, next_row, n_slots, n_vocab, max_context, err);
        if (status != STATUS_OK)
            return status;
        next_row += step_slices(step)[i].n_rows;
    }
    if (next_row != step->n_rows)
        return error_set(err, STATUS_INTERNAL, "slices have %u rows, the step %u", next_row,
                         step->n_rows);
    for (uint32_t i = 0; i < step->n_outputs; i++)
        if (step_outputs(step)[i].row >= step->n_rows)
            return error_set(err, STATUS_INTERNAL, "output %u names row %u of %u", i,
                             step_outputs(step)[i].row, step->n_rows);
    for (uint32_t i = 0; i < step->n_table_writes; i++)
        if (step_table_writes(step)[i].slot >= n_slots)
            return error_set(err, STATUS_INTERNAL, "table write %u: slot out of range", i);
    return STATUS_OK;
}
