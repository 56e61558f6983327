/*
 * Sampling on the CPU backend: the rules of sample/, one row of logits a thread.
 *
 * Draws stay here for the next step's INPUT_SAMPLED slices, in two banks like the results. A step
 * that names rows, slots or positions that do not exist is refused before anything is written.
 */
#include <stdlib.h>

#include "backend/cpu/internal.h"
#include "sample/sample.h"

enum status cpu_sample_allocate(struct cpu_backend *backend, const struct sample_limits *limits,
                                struct error *err)
{
    size_t scratch = sampling_scratch_bytes(limits->n_vocab);
    backend->sampling = *limits;
    backend->draw_scratch_bytes = (scratch + 63) / 64 * 64;
    backend->draw_scratch = cpu_memory(backend->n_threads, backend->draw_scratch_bytes);
    bool complete = backend->draw_scratch && (scratch || limits->n_vocab == 0);
    for (int i = 0; i < RESULT_BANKS; i++) {
        backend->samples[i].results =
            cpu_memory(limits->max_rows, sizeof *backend->samples[i].results);
        complete &= backend->samples[i].results != NULL;
    }
    if (!complete)
        return error_set(err, STATUS_MEMORY, "out of memory for sampling %u rows of %u logits",
                         limits->max_rows, limits->n_vocab);
    return STATUS_OK;
}

void cpu_sample_release(struct cpu_backend *backend)
{
    for (int i = 0; i < RESULT_BANKS; i++)
        free(backend->samples[i].results);
    free(backend->draw_scratch);
}

static void draw_row(const struct cpu_draw *d, uint32_t index, void *scratch)
{
    struct cpu_backend *backend = d->backend;
    const struct sample_row *row = &sample_step_rows(d->step)[index];
    int32_t *history = backend->history + (size_t)row->slot * backend->history_capacity;
    struct sampling_input in = {
        .logits = d->logits + row->output * d->stride,
        .mask = row->mask_offset == NO_MASK ? NULL : sample_step_masks(d->step) + row->mask_offset,
        .breakers = row->breakers_offset == NO_MASK
                        ? NULL
                        : sample_step_masks(d->step) + row->breakers_offset,
        .bias_ids = sample_step_bias_ids(d->step),
        .bias_values = sample_step_bias_values(d->step),
        .history = history,
        .position = row->position,
        .n_vocab = backend->sampling.n_vocab,
    };
    sampling_use_scratch(&in, scratch);
    struct sampling_draw draw;
    sampling_draw_row(&row->parameters, &in, &draw);
    d->bank->results[index] = sample_result_of(&draw);
}

static void draw_rows(void *context, uint32_t index, uint32_t n_threads)
{
    const struct cpu_draw *d = context;
    void *scratch = d->backend->draw_scratch + index * d->backend->draw_scratch_bytes;
    for (uint32_t i = index; i < d->step->n_rows; i += n_threads)
        draw_row(d, i, scratch);
}

void cpu_run_draws(const struct cpu_draw *draw)
{
    struct cpu_backend *backend = draw->backend;
    const struct sample_step *step = draw->step;
    for (uint32_t i = 0; i < step->n_history_writes; i++) {
        struct history_write w = sample_step_history(step)[i];
        backend->history[(size_t)w.slot * backend->history_capacity + w.position] = w.token;
    }
    /* One row would only wake threads for nothing. */
    if (step->n_rows > 1)
        thread_pool_run(backend->pool, draw_rows, (void *)(uintptr_t)draw);
    else
        draw_rows((void *)(uintptr_t)draw, 0, 1);
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct sample_row *row = &sample_step_rows(step)[i];
        /* The last token of a full context has no place, and nobody will read it. */
        if (row->position < backend->history_capacity)
            backend->history[(size_t)row->slot * backend->history_capacity + row->position] =
                draw->bank->results[i].token;
    }
}

static enum status check_step(const struct cpu_backend *backend,
                              const struct loaded_program *program, const struct sample_step *step,
                              uint32_t n_logits, struct error *err)
{
    if (step->magic != SAMPLE_STEP_MAGIC || step->n_rows > backend->sampling.max_rows ||
        step->limits.n_vocab != backend->sampling.n_vocab)
        return error_set(err, STATUS_INTERNAL, "the sample step was made for other limits");
    if (program->program->n_vocab != backend->sampling.n_vocab)
        return error_set(
            err, STATUS_INTERNAL, "program %s has %u logits, sampling was sized for %u",
            program->program->name, program->program->n_vocab, backend->sampling.n_vocab);
    const struct sample_bounds bounds = {n_logits, backend->layout.n_slots,
                                         backend->history_capacity};
    return sample_step_check(step, &bounds, err);
}

enum status cpu_sample(struct backend *base, struct loaded_program *program,
                       const struct sample_step *step, uint64_t *ticket, struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (backend->last_step_program != program || program->program->logits == NO_BUFFER)
        return error_set(err, STATUS_INTERNAL, "there are no logits of program %s to sample",
                         program->program->name);
    const struct result_bank *results = &program->banks[(program->n_steps - 1) % RESULT_BANKS];
    enum status status = check_step(backend, program, step, results->n_logits, err);
    if (status != STATUS_OK)
        return status;
    const struct buffer *buffer = &program->program->buffers[program->program->logits];
    struct sample_bank *bank = &backend->samples[backend->n_sample_steps++ % RESULT_BANKS];
    bank->n = step->n_rows;
    bank->ticket = *ticket = ++backend->last_ticket;
    cpu_enqueue(backend, &(struct cpu_job){
                             .ticket = *ticket,
                             .draw = {.backend = backend,
                                      .step = step,
                                      .logits = results->words +
                                                buffer->offset * program->limits.max_outputs,
                                      .stride = buffer->width,
                                      .bank = bank},
                         });
    return STATUS_OK;
}
enum status cpu_read_samples(struct backend *base, uint64_t ticket, uint32_t n,
                             struct sample_result *out, struct error *err)
{
    const struct cpu_backend *backend = (const struct cpu_backend *)base;
    for (int i = 0; i < RESULT_BANKS; i++) {
        const struct sample_bank *bank = &backend->samples[i];
        if (bank->ticket == 0 || bank->ticket != ticket)
            continue;
        if (n > bank->n)
            return error_set(err, STATUS_INTERNAL, "ticket %llu has %u samples, not %u",
                             (unsigned long long)ticket, bank->n, n);
        for (uint32_t k = 0; k < n; k++)
            out[k] = bank->results[k];
        return STATUS_OK;
    }
    return error_set(err, STATUS_INTERNAL, "ticket %llu has no samples, or none any more",
                     (unsigned long long)ticket);
}
