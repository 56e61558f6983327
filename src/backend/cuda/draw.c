/*
 * Enqueuing a sample step, and its results. Drawn tokens stay on the device for the next step's
 * INPUT_SAMPLED slices; a pinned copy follows in the same stream, so that reading a completed
 * ticket's draws asks the device nothing.
 */
#include <string.h>

#include "backend/cuda/internal.h"

const struct sample_bank *cuda_last_draws(const struct cuda_backend *backend)
{
    const struct cuda_sampler *s = &backend->sampler;
    return s->n_steps ? &s->banks[(s->n_steps - 1) % CUDA_BANKS] : NULL;
}

/* The sample step up to its last used byte; masks are the last section. */
static cudaError_t copy_step(struct cuda_backend *backend, const struct sample_step *step,
                             struct staging *staging)
{
    size_t bytes = step->masks_at + (size_t)step->n_masks * step->mask_words * sizeof(uint32_t);
    memcpy(staging->bytes, step, bytes);
    return cudaMemcpyAsync(backend->sampler.step, staging->bytes, bytes, cudaMemcpyHostToDevice,
                           backend->stream);
}

static enum status enqueue(struct cuda_backend *backend, const struct loaded_program *program,
                           const struct result_bank *results, const struct sample_step *step,
                           struct staging *staging, struct sample_bank *bank, struct error *err)
{
    struct cuda_sampler *s = &backend->sampler;
    const struct buffer *logits = &program->program->buffers[program->program->logits];
    struct cuda_draw draw = {
        .stream = backend->stream,
        .step = s->step,
        .logits = results->words + logits->offset * program->limits.max_outputs,
        .stride = logits->width,
        .history = backend->history,
        .history_capacity = backend->history_capacity,
        .n_vocab = s->limits.n_vocab,
        .scratch = s->scratch,
        .n_scratch = s->n_scratch,
        .results = bank->device,
        .n_rows = step->n_rows,
        .n_history_writes = step->n_history_writes,
    };
    uint64_t ticket = backend->last_ticket + 1;
    cudaError_t error = copy_step(backend, step, staging);
    if (error != cudaSuccess)
        return cuda_fail(backend, ticket, error, "copying a sample step to the device", err);
    error = cuda_draw_rows(&draw);
    if (error != cudaSuccess)
        return cuda_fail(backend, ticket, error, "drawing tokens", err);
    if (step->n_rows)
        error = cudaMemcpyAsync(bank->host, bank->device, step->n_rows * sizeof *bank->host,
                                cudaMemcpyDeviceToHost, backend->stream);
    if (error != cudaSuccess)
        return cuda_fail(backend, ticket, error, "copying drawn tokens", err);
    return STATUS_OK;
}

enum status cuda_sample(struct backend *base, struct loaded_program *program,
                        const struct sample_step *step, uint64_t *ticket, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    struct cuda_sampler *s = &backend->sampler;
    if (backend->last_program != program || program->program->logits == NO_BUFFER)
        return error_set(err, STATUS_INTERNAL, "there are no logits of program %s to sample",
                         program->program->name);
    const struct result_bank *results = &program->banks[(program->n_steps - 1) % CUDA_BANKS];
    struct sample_bank *bank = &s->banks[s->n_steps % CUDA_BANKS];
    struct staging *staging = &s->staging[s->n_steps % BACKEND_IN_FLIGHT];
    enum status status = cuda_enter(backend, err);
    if (status == STATUS_OK)
        status = cuda_check_draws(backend, program, step, results->n_logits, err);
    if (status == STATUS_OK)
        status = cuda_staging_wait(backend, staging, err);
    if (status == STATUS_OK)
        status = enqueue(backend, program, results, step, staging, bank, err);
    if (status == STATUS_OK)
        status = cuda_end_ticket(backend, ticket, err);
    if (status != STATUS_OK)
        return status;
    s->n_steps++;
    staging->ticket = *ticket;
    bank->n = step->n_rows;
    bank->ticket = *ticket;
    return STATUS_OK;
}

enum status cuda_read_samples(struct backend *base, uint64_t ticket, uint32_t n,
                              struct sample_result *out, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    for (int i = 0; i < CUDA_BANKS; i++) {
        const struct sample_bank *bank = &backend->sampler.banks[i];
        if (bank->ticket == 0 || bank->ticket != ticket)
            continue;
        if (n > bank->n)
            return error_set(err, STATUS_INTERNAL, "ticket %llu has %u samples, not %u",
                             (unsigned long long)ticket, bank->n, n);
        enum status status = cuda_wait(base, ticket, err);
        if (status == STATUS_OK && n)
            memcpy(out, bank->host, n * sizeof *out);
        return status;
    }
    return error_set(err, STATUS_INTERNAL, "ticket %llu has no samples, or none any more",
                     (unsigned long long)ticket);
}
