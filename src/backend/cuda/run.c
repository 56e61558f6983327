/* Enqueuing a step: one copy, one launcher per operation, one event. */
#include <string.h>

#include "backend/cuda/internal.h"

struct device_view cuda_view(const struct cuda_run *run, struct view view)
{
    if (view.buffer == NO_BUFFER)
        return (struct device_view){.data = NULL};
    const struct buffer *buffer = &run->program->buffers[view.buffer];
    bool step = buffer->rows == ROWS_STEP;
    uint64_t capacity = step ? run->limits.max_rows : run->limits.max_outputs;
    float *words = step ? run->step_words : run->output_words;
    return (struct device_view){
        .data = words + buffer->offset * capacity + view.column,
        .stride = buffer->width,
        .width = view.width,
        .n_rows = step ? run->n_rows : run->n_outputs,
    };
}

struct device_weight cuda_weight(const struct cuda_run *run, int32_t weight)
{
    return weight == NO_WEIGHT ? (struct device_weight){.data = NULL} : run->weights[weight];
}

static cudaError_t launch(const struct cuda_run *run, const struct op *op)
{
    switch (op->kind) {
    case OP_EMBED:
        return cuda_embed(run, &op->u.embed);
    case OP_NORM:
        return cuda_norm(run, &op->u.norm);
    case OP_LINEAR:
        return cuda_linear(run, &op->u.linear);
    case OP_ROPE_KV:
        return cuda_rope_kv(run, &op->u.rope_kv);
    case OP_ATTENTION:
        return cuda_attention(run, &op->u.attention);
    case OP_GATED:
        return cuda_gated(run, &op->u.gated);
    case OP_ROUTE:
        return cuda_route(run, &op->u.route);
    case OP_EXPERTS:
        return cuda_experts(run, &op->u.experts);
    case OP_CONV:
        return cuda_conv(run, &op->u.conv);
    case OP_ADD:
        return cuda_add(run, &op->u.add);
    case OP_MUL:
        return cuda_mul(run, &op->u.mul);
    case OP_SELECT:
        return cuda_select(run, &op->u.select);
    case OP_LOGITS:
        return cuda_logits(run, &op->u.logits);
    case OP_POSITION:
    case OP_ACTIVATE:
    case OP_SSM:
    case OP_DELTA:
    case OP_HEADS:
    case OP_MIX:
    case OP_MATCH:
        break; /* load() refused the program */
    }
    return cudaErrorInvalidValue;
}

/* The step up to its last used byte; embedding rows are the last section. */
static cudaError_t copy_step(struct cuda_backend *backend, struct loaded_program *program,
                             const struct step *step, struct staging *staging)
{
    size_t bytes = step->embeddings_at +
                   (size_t)step->n_embeddings * step->limits.embedding_width * sizeof(float);
    memcpy(staging->bytes, step, bytes);
    return cudaMemcpyAsync(program->step, staging->bytes, bytes, cudaMemcpyHostToDevice,
                           backend->stream);
}

static struct cuda_run start_run(struct cuda_backend *backend, struct loaded_program *program,
                                 const struct step *step, float *output_words)
{
    const struct sample_bank *draws = cuda_last_draws(backend);
    return (struct cuda_run){
        .stream = backend->stream,
        .step = program->step,
        .pool = backend->device_pool,
        .sampled = draws ? draws->device : NULL,
        .n_rows = step->n_rows,
        .n_slices = step->n_slices,
        .n_outputs = step->n_outputs,
        .n_logits = step->n_logits,
        .n_table_writes = step->n_table_writes,
        .kv_type = backend->layout.kv_type,
        .program = program->program,
        .weights = program->weights,
        .step_words = program->step_words,
        .output_words = output_words,
        .limits = program->limits,
    };
}

static enum status enqueue(struct cuda_backend *backend, struct loaded_program *program,
                           const struct step *step, struct staging *staging, float *output_words,
                           struct error *err)
{
    struct cuda_run run = start_run(backend, program, step, output_words);
    uint64_t ticket = backend->last_ticket + 1;
    cudaError_t error = copy_step(backend, program, step, staging);
    if (error != cudaSuccess)
        return cuda_fail(backend, ticket, error, "copying a step to the device", err);
    error = cuda_write_tables(&run);
    if (error != cudaSuccess)
        return cuda_fail(backend, ticket, error, "writing page tables", err);
    for (uint32_t i = 0; i < step->n_copies; i++) {
        struct page_copy c = step_copies(step)[i];
        uint64_t bytes = backend->layout.page_bytes;
        error = cudaMemcpyAsync(backend->pool.pages + c.to * bytes,
                                backend->pool.pages + c.from * bytes, bytes,
                                cudaMemcpyDeviceToDevice, backend->stream);
        if (error != cudaSuccess)
            return cuda_fail(backend, ticket, error, "copying pages", err);
    }
    for (uint32_t i = 0; i < program->program->n_ops; i++) {
        const struct op *op = &program->program->ops[i];
        error = launch(&run, op);
        if (error != cudaSuccess)
            return cuda_fail(backend, ticket, error, op->label, err);
    }
    return STATUS_OK;
}

/* A refused step may have written the host's tables already; kernels never saw those writes. */
static void refuse(struct cuda_backend *backend)
{
    const struct layout *layout = &backend->layout;
    size_t bytes = (size_t)layout->n_slots * layout->slot_pages * sizeof *backend->tables;
    cudaError_t error = cudaStreamSynchronize(backend->stream);
    if (error == cudaSuccess)
        error = cudaMemcpy(backend->pool.tables, backend->tables, bytes, cudaMemcpyHostToDevice);
    if (error != cudaSuccess)
        cuda_fail(backend, backend->completed + 1, error, "restoring page tables", NULL);
}

enum status cuda_submit(struct backend *base, struct loaded_program *program,
                        const struct step *step, uint64_t *ticket, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    if (!backend->allocated)
        return error_set(err, STATUS_INTERNAL, "submit() before allocate()");
    struct result_bank *bank = &program->banks[program->n_steps % CUDA_BANKS];
    struct staging *staging = &program->staging[program->n_steps % BACKEND_IN_FLIGHT];
    enum status status = cuda_enter(backend, err);
    if (status != STATUS_OK)
        return status;
    status = cuda_check_step(backend, program, step, err);
    if (status != STATUS_OK)
        refuse(backend);
    if (status == STATUS_OK)
        status = cuda_staging_wait(backend, staging, err);
    if (status == STATUS_OK)
        status = enqueue(backend, program, step, staging, bank->words, err);
    if (status == STATUS_OK)
        status = cuda_end_ticket(backend, ticket, err);
    if (status != STATUS_OK)
        return status;
    program->n_steps++;
    backend->last_program = program;
    staging->ticket = *ticket;
    bank->n_outputs = step->n_outputs;
    bank->n_logits = step->n_logits;
    bank->ticket = *ticket;
    return STATUS_OK;
}
