/*
 * What a step may name. Kernels trust their step; one linear check here ends an engine's mistake as
 * an error, instead of as another sequence's data or a fault that takes the whole device context.
 * Page tables are checked against a host copy, which follows the same writes in the same order.
 */
#include <string.h>

#include "backend/cuda/internal.h"

static enum status check_table_writes(const struct cuda_backend *backend, const struct step *step,
                                      struct error *err)
{
    const struct layout *layout = &backend->layout;
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        struct table_write w = step_table_writes(step)[i];
        if (w.slot >= layout->n_slots || w.group >= layout->n_groups ||
            w.index >= layout->groups[w.group].max_pages ||
            (w.page >= layout->n_pages && w.page != PAGE_NONE))
            return error_set(err, STATUS_INTERNAL,
                             "table write %u: slot %u, group %u, index %u, page %u", i, w.slot,
                             w.group, w.index, w.page);
    }
    for (uint32_t i = 0; i < step->n_copies; i++)
        if (step_copies(step)[i].from >= layout->n_pages ||
            step_copies(step)[i].to >= layout->n_pages)
            return error_set(err, STATUS_INTERNAL, "page copy %u: %u to %u of %u pages", i,
                             step_copies(step)[i].from, step_copies(step)[i].to, layout->n_pages);
    return STATUS_OK;
}

/* Entries [first, last] of a slot's table row hold pages. */
static bool pages_present(const struct cuda_backend *backend, uint32_t slot, uint32_t group,
                          uint64_t first, uint64_t last)
{
    if (last >= backend->layout.groups[group].max_pages)
        return false;
    for (uint64_t i = first; i <= last; i++)
        if (backend->tables[layout_table_index(&backend->layout, slot, group, (uint32_t)i)] ==
            PAGE_NONE)
            return false;
    return true;
}

static bool group_present(const struct cuda_backend *backend, const struct slice *slice,
                          uint32_t group)
{
    const struct group_layout *g = &backend->layout.groups[group];
    if (g->kind == GROUP_RECURRENT) {
        uint64_t n = g->pages_per_state, from = slice->state_read * n, to = slice->state_write * n;
        return pages_present(backend, slice->slot, group, to, to + n - 1) &&
               (slice->first_position == 0 ||
                pages_present(backend, slice->slot, group, from, from + n - 1));
    }
    uint64_t end = (uint64_t)slice->first_position + slice->n_rows, begin = 0;
    if (g->window && (uint64_t)slice->first_position + 1 > g->window)
        begin = (uint64_t)slice->first_position + 1 - g->window;
    return pages_present(backend, slice->slot, group, begin / g->tokens_per_page,
                         (end - 1) / g->tokens_per_page);
}

static enum status check_slice(const struct cuda_backend *backend,
                               const struct loaded_program *program, const struct step *step,
                               uint32_t index, struct error *err)
{
    const struct slice *slice = step_slices(step) + index;
    const struct sample_bank *draws = cuda_last_draws(backend);
    uint32_t drawn = draws ? draws->n : 0;
    if (slice->mask == MASK_TREE)
        return error_set(err, STATUS_UNSUPPORTED, "slice %u: tree masks are not supported yet",
                         index);
    if (slice->input == INPUT_SAMPLED &&
        (slice->input_offset > drawn || slice->n_rows > drawn - slice->input_offset))
        return error_set(err, STATUS_INTERNAL, "slice %u: sampled tokens %u+%u of %u", index,
                         slice->input_offset, slice->n_rows, drawn);
    for (uint32_t i = 0; slice->input == INPUT_EMBEDDINGS && i < program->program->n_ops; i++) {
        const struct op *op = &program->program->ops[i];
        if (op->kind == OP_EMBED && op->u.embed.out.width != step->limits.embedding_width)
            return error_set(err, STATUS_INTERNAL,
                             "slice %u: embedding rows are %u wide, the program's %u", index,
                             step->limits.embedding_width, op->u.embed.out.width);
    }
    for (uint32_t g = 0; g < backend->layout.n_groups; g++)
        if (!group_present(backend, slice, g))
            return error_set(err, STATUS_INTERNAL,
                             "slice %u: slot %u lacks pages of group %u for positions up to %u",
                             index, slice->slot, g, slice->first_position + slice->n_rows);
    return STATUS_OK;
}

enum status cuda_check_step(struct cuda_backend *backend, const struct loaded_program *program,
                            const struct step *step, struct error *err)
{
    if (memcmp(&step->limits, &program->limits, sizeof step->limits) != 0)
        return error_set(err, STATUS_INTERNAL, "the step was made for other limits");
    if (step->limits.n_axes < program->program->n_axes)
        return error_set(err, STATUS_INTERNAL, "the step has %u position axes, the program %u",
                         step->limits.n_axes, program->program->n_axes);
    if (backend->layout.n_groups < program->program->n_groups)
        return error_set(err, STATUS_INTERNAL, "program %s has %u groups, the page pool %u",
                         program->program->name, program->program->n_groups,
                         backend->layout.n_groups);
    enum status status = step_check(step, step->bytes, backend->layout.n_slots,
                                    program->program->n_vocab, INT32_MAX, err);
    if (status == STATUS_OK)
        status = check_table_writes(backend, step, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        struct table_write w = step_table_writes(step)[i];
        backend->tables[layout_table_index(&backend->layout, w.slot, w.group, w.index)] = w.page;
    }
    for (uint32_t i = 0; i < step->n_slices && status == STATUS_OK; i++)
        status = check_slice(backend, program, step, i, err);
    return status;
}

enum status cuda_check_draws(const struct cuda_backend *backend,
                             const struct loaded_program *program, const struct sample_step *step,
                             uint32_t n_logits, struct error *err)
{
    const struct sample_limits *limits = &backend->sampler.limits;
    if (step->magic != SAMPLE_STEP_MAGIC || step->bytes > backend->sampler.step_bytes ||
        step->n_rows > limits->max_rows || step->n_history_writes > limits->max_history_writes ||
        step->n_biases > limits->max_biases || step->n_masks > limits->max_masks ||
        memcmp(&step->limits, limits, sizeof *limits) != 0)
        return error_set(err, STATUS_INTERNAL, "the sample step was made for other limits");
    if (program->program->n_vocab != limits->n_vocab)
        return error_set(err, STATUS_INTERNAL,
                         "program %s has %u logits, sampling was sized for %u",
                         program->program->name, program->program->n_vocab, limits->n_vocab);
    const struct sample_bounds bounds = {n_logits, backend->layout.n_slots,
                                         backend->history_capacity};
    return sample_step_check(step, &bounds, err);
}
