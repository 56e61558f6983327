/*
 * Loading: weights and everything else that lives in device memory. Nothing is allocated after
 * allocate().
 *
 * Weights are copied as their file has them, part after part, through a pinned area: our own memcpy
 * touches the mapping, so that a file cut short meets base/file's handler and not the driver.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/internal.h"
#include "base/checked.h"

/* ---- weights ------------------------------------------------------------------------------------ */

static bool supported(enum tensor_type type)
{
    switch (type) {
    case TENSOR_F32:
    case TENSOR_F16:
    case TENSOR_BF16:
    case TENSOR_Q8_0:
    case TENSOR_Q4_0:
    case TENSOR_Q4_K:
    case TENSOR_Q6_K:
        return true;
    default:
        return false;
    }
}

static enum status upload(struct cuda_backend *backend, uint8_t *to, const uint8_t *from,
                          uint64_t bytes, struct error *err)
{
    while (bytes > 0) {
        size_t n = bytes < UPLOAD_BYTES ? (size_t)bytes : UPLOAD_BYTES;
        memcpy(backend->upload.bytes, from, n);
        cudaError_t error =
            cudaMemcpyAsync(to, backend->upload.bytes, n, cudaMemcpyHostToDevice, backend->stream);
        if (error == cudaSuccess)
            error = cudaStreamSynchronize(backend->stream);
        if (error != cudaSuccess)
            return cuda_status(error, "copying weights to the device", err);
        to += n;
        from += n;
        bytes -= n;
    }
    return STATUS_OK;
}

static enum status measure_weight(const struct weight *w, struct device_weight *out,
                                  uint64_t *bytes, struct error *err)
{
    if (!supported(w->type))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: the cuda backend has no kernel for tensor type %s yet", w->name,
                         tensor_type_name(w->type));
    *out = (struct device_weight){
        .type = w->type, .n_rows = w->n_rows, .n_cols = w->n_cols, .count = w->count};
    if (!tensor_type_bytes(w->type, w->n_cols, &out->row_bytes))
        return error_set(err, STATUS_MODEL, "%s: rows of %u values are no whole %s blocks", w->name,
                         w->n_cols, tensor_type_name(w->type));
    if (!checked_mul_u64(out->row_bytes, w->n_rows, &out->part_bytes) ||
        !checked_mul_u64(out->part_bytes, w->count, bytes))
        return error_set(err, STATUS_MODEL, "%s: %u x %u x %u values are too many", w->name,
                         w->count, w->n_rows, w->n_cols);
    return STATUS_OK;
}

enum status cuda_place(struct backend *base, const struct program *program, uint32_t weight,
                       struct placed_weight **out, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    const struct weight *w = &program->weights[weight];
    struct device_weight device = {.data = NULL};
    uint64_t bytes = 0;
    enum status status = cuda_enter(backend, err);
    if (status == STATUS_OK)
        status = measure_weight(w, &device, &bytes, err);
    if (status == STATUS_OK && !backend->upload.bytes)
        status = cuda_pinned_memory(UPLOAD_BYTES, "memory for copying weights",
                                    &backend->upload.bytes, err);
    if (status != STATUS_OK)
        return status;
    struct placed_weight *placed = calloc(1, sizeof *placed);
    if (!placed)
        return error_set(err, STATUS_MEMORY, "out of memory while placing %s", w->name);
    placed->next = backend->weights;
    backend->weights = placed;
    void *memory;
    status = cuda_device_memory(backend, bytes, 1, w->name, &memory, err);
    device.data = memory;
    placed->device = device;
    for (uint32_t p = 0; p < w->count && status == STATUS_OK; p++)
        status = upload(backend, (uint8_t *)memory + p * device.part_bytes, w->parts[p],
                        device.part_bytes, err);
    *out = placed;
    return status;
}

/* ---- programs ----------------------------------------------------------------------------------- */

static enum status check_limits(const struct step_limits *limits, struct error *err)
{
    if (limits->max_rows > CUDA_ROWS_MAX || limits->max_slices > CUDA_ROWS_MAX ||
        limits->max_outputs > CUDA_ROWS_MAX)
        return error_set(err, STATUS_LIMIT,
                         "cuda: steps of %u rows, %u slices, %u outputs (at most %d of each)",
                         limits->max_rows, limits->max_slices, limits->max_outputs, CUDA_ROWS_MAX);
    return STATUS_OK;
}

static bool has_activation(const struct op *op)
{
    enum activation act = op->kind == OP_LINEAR    ? op->u.linear.act
                          : op->kind == OP_GATED   ? op->u.gated.act
                          : op->kind == OP_EXPERTS ? op->u.experts.act
                          : op->kind == OP_CONV    ? op->u.conv.act
                          : op->kind == OP_MUL     ? op->u.mul.act
                                                   : ACT_NONE;
    return act <= ACT_RELU;
}

/* What a program may say and this backend has no kernel for; NULL: nothing. */
static const char *missing(const struct program *program, const struct op *op)
{
    if (!has_activation(op))
        return "an activation that it does not know";
    switch (op->kind) {
    case OP_POSITION:
        return "learned positions";
    case OP_ACTIVATE:
        return "an activation with parameters";
    case OP_EMBED:
        return program->weights[op->u.embed.table].n_rows < program->n_vocab
                   ? "tables shorter than the vocabulary"
                   : NULL;
    case OP_NORM:
        return op->u.norm.kind > NORM_LAYER ? "scaling by a vector, or a cutoff" : NULL;
    case OP_MIX:
    case OP_MATCH:
        return "several residual streams";
    case OP_SSM:
        return "state space recurrence";
    case OP_DELTA:
        return "gated delta rule";
    case OP_HEADS:
        return "matrices of single heads";
    case OP_ROPE_KV:
        return program->groups[op->u.rope_kv.group].kind == GROUP_LATENT ? "latent attention"
                                                                         : NULL;
    case OP_ATTENTION:
        if (op->u.attention.ahead)
            return "attention that looks ahead by a window";
        return program->groups[op->u.attention.group].kind == GROUP_LATENT ? "latent attention"
                                                                           : NULL;
    case OP_ROUTE:
        return op->u.route.n_groups > 1 ? "experts chosen by group"
               : op->u.route.least_sum != 0.0f || op->u.route.added_sum != 0.0f
                   ? "routes whose weights are divided by more than their sum"
                   : NULL;
    case OP_EXPERTS:
        return op->u.experts.gate_bias != NO_WEIGHT || op->u.experts.up_bias != NO_WEIGHT ||
                       op->u.experts.down_bias != NO_WEIGHT
                   ? "experts with biases"
                   : NULL;
    case OP_MUL:
        return op->u.mul.a.width != op->u.mul.b.width ? "products with narrow factors" : NULL;
    default:
        return NULL;
    }
}

/* Kernels hold heads and taps in registers or fixed arrays. */
static enum status check_op(const struct program *program, const struct op *op, struct error *err)
{
    const char *lacks = missing(program, op);
    if (lacks)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: the cuda backend has no kernel for %s yet; --backend cpu runs it",
                         op->label, lacks);
    uint32_t group = 0;
    if (op->kind == OP_ATTENTION)
        group = op->u.attention.group;
    else if (op->kind == OP_ROPE_KV)
        group = op->u.rope_kv.group;
    if (op->kind == OP_ATTENTION || op->kind == OP_ROPE_KV) {
        const struct state_group *g = &program->groups[group];
        if (g->k_head_dim > CUDA_HEAD_DIM_MAX || g->v_head_dim > CUDA_HEAD_DIM_MAX)
            return error_set(err, STATUS_UNSUPPORTED,
                             "%s: heads of %u+%u columns (the cuda backend takes up to %d)",
                             op->label, g->k_head_dim, g->v_head_dim, CUDA_HEAD_DIM_MAX);
    }
    if (op->kind == OP_CONV && op->u.conv.taps > CUDA_TAPS_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "%s: a convolution of %u taps (at most %d)",
                         op->label, op->u.conv.taps, CUDA_TAPS_MAX);
    if (op->kind == OP_ROUTE && op->u.route.n_experts > CUDA_EXPERTS_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "%s: %u experts (at most %d)", op->label,
                         op->u.route.n_experts, CUDA_EXPERTS_MAX);
    return STATUS_OK;
}

static enum status allocate_program(struct cuda_backend *backend, struct loaded_program *p,
                                    struct error *err)
{
    const struct program *program = p->program;
    size_t bytes = step_bytes(&p->limits);
    if (bytes == 0)
        return error_set(err, STATUS_LIMIT, "cuda: a step of %u rows is too large",
                         p->limits.max_rows);
    void *memory;
    enum status status = cuda_device_memory(backend, bytes, 1, "a step", &memory, err);
    p->step = memory;
    for (int i = 0; i < BACKEND_IN_FLIGHT && status == STATUS_OK; i++)
        status = cuda_pinned_memory(bytes, "memory for copying a step", &p->staging[i].bytes, err);
    if (status != STATUS_OK)
        return status;
    status = cuda_device_memory(backend, program->step_row_words,
                                (uint64_t)p->limits.max_rows * sizeof(float), "activations",
                                &memory, err);
    p->step_words = memory;
    for (int i = 0; i < CUDA_BANKS && status == STATUS_OK; i++) {
        status = cuda_device_memory(backend, program->output_row_words,
                                    (uint64_t)p->limits.max_outputs * sizeof(float), "results",
                                    &memory, err);
        p->banks[i].words = memory;
    }
    return status;
}

enum status cuda_load(struct backend *base, const struct program *program,
                      struct placed_weight *const *placed, const struct step_limits *limits,
                      struct loaded_program **out, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    enum status status = cuda_enter(backend, err);
    if (status == STATUS_OK)
        status = check_limits(limits, err);
    for (uint32_t i = 0; i < program->n_ops && status == STATUS_OK; i++)
        status = check_op(program, &program->ops[i], err);
    if (status != STATUS_OK)
        return status;
    struct loaded_program *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, STATUS_MEMORY, "out of memory while loading a program");
    p->program = program;
    p->limits = *limits;
    p->next = backend->programs;
    backend->programs = p;
    p->weights = calloc((size_t)program->n_weights + 1, sizeof *p->weights);
    if (!p->weights)
        return error_set(err, STATUS_MEMORY, "out of memory while loading a program");
    for (uint32_t i = 0; i < program->n_weights; i++)
        p->weights[i] = placed[i]->device;
    *out = p;
    return allocate_program(backend, p, err);
}

/* ---- pages, history, sampling ------------------------------------------------------------------- */

/* Rows of logits drawn at the same time; further rows of a step take turns. */
#define DRAWS_AT_ONCE 64

static enum status allocate_sampler(struct cuda_backend *backend,
                                    const struct sample_limits *limits, struct error *err)
{
    struct cuda_sampler *s = &backend->sampler;
    void *memory;
    s->limits = *limits;
    s->step_bytes = sample_step_bytes(limits);
    if (s->step_bytes == 0)
        return error_set(err, STATUS_LIMIT, "cuda: a sample step of %u rows is too large",
                         limits->max_rows);
    enum status status =
        cuda_device_memory(backend, s->step_bytes, 1, "a sample step", &memory, err);
    s->step = memory;
    for (int i = 0; i < BACKEND_IN_FLIGHT && status == STATUS_OK; i++)
        status = cuda_pinned_memory(s->step_bytes, "memory for copying a sample step",
                                    &s->staging[i].bytes, err);
    if (status != STATUS_OK)
        return status;
    s->n_scratch = limits->max_rows < DRAWS_AT_ONCE ? limits->max_rows : DRAWS_AT_ONCE;
    status = cuda_device_memory(backend, s->n_scratch,
                                (uint64_t)limits->n_vocab * (sizeof(float) + sizeof(int32_t)),
                                "sampling", &memory, err);
    s->scratch = memory;
    uint64_t size = sizeof(struct sample_result);
    for (int i = 0; i < CUDA_BANKS && status == STATUS_OK; i++) {
        status = cuda_device_memory(backend, limits->max_rows, size, "drawn tokens", &memory, err);
        s->banks[i].device = memory;
        if (status == STATUS_OK)
            status = cuda_pinned_memory(limits->max_rows * size, "memory for drawn tokens", &memory,
                                        err);
        s->banks[i].host = status == STATUS_OK ? memory : NULL;
    }
    return status;
}

static enum status allocate_pool(struct cuda_backend *backend, struct error *err)
{
    const struct layout *layout = &backend->layout;
    uint64_t entries = (uint64_t)layout->n_slots * layout->slot_pages;
    void *memory;
    backend->tables = malloc((size_t)(entries + 1) * sizeof *backend->tables);
    if (!backend->tables)
        return error_set(err, STATUS_MEMORY, "out of memory for page tables");
    for (uint64_t i = 0; i < entries; i++)
        backend->tables[i] = PAGE_NONE;
    backend->pool.layout = *layout;
    enum status status =
        cuda_device_memory(backend, entries, sizeof(uint32_t), "page tables", &memory, err);
    backend->pool.tables = memory;
    if (status == STATUS_OK) {
        status = cuda_device_memory(backend, layout->n_pages, layout->page_bytes, "KV pages",
                                    &memory, err);
        backend->pool.pages = memory;
    }
    if (status == STATUS_OK) {
        status = cuda_device_memory(backend, 1, sizeof backend->pool, "the page pool's geometry",
                                    &memory, err);
        backend->device_pool = memory;
    }
    if (status != STATUS_OK)
        return status;
    return cuda_status(
        cudaMemcpy(memory, &backend->pool, sizeof backend->pool, cudaMemcpyHostToDevice),
        "copying the page pool's geometry", err);
}

enum status cuda_allocate(struct backend *base, const struct layout *layout,
                          uint32_t history_capacity, const struct sample_limits *sampling,
                          struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    if (backend->allocated)
        return error_set(err, STATUS_INTERNAL, "allocate() is called twice");
    if (layout->kv_type != TENSOR_F32 && layout->kv_type != TENSOR_F16 &&
        layout->kv_type != TENSOR_BF16)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the cuda backend has no keys and values of type %s (f32, f16, bf16)",
                         tensor_type_name(layout->kv_type));
    enum status status = cuda_enter(backend, err);
    if (status != STATUS_OK)
        return status;
    backend->allocated = true;
    backend->layout = *layout;
    backend->history_capacity = history_capacity;
    if (backend->upload.bytes)
        status = cuda_status(cudaFreeHost(backend->upload.bytes), "freeing pinned memory", err);
    backend->upload.bytes = NULL;
    if (status == STATUS_OK)
        status = allocate_pool(backend, err);
    void *memory = NULL;
    if (status == STATUS_OK)
        status = cuda_device_memory(backend, (uint64_t)layout->n_slots * history_capacity,
                                    sizeof(int32_t), "token history", &memory, err);
    backend->history = memory;
    return status == STATUS_OK ? allocate_sampler(backend, sampling, err) : status;
}

/* ---- freeing: after an error the driver refuses all of it, so nothing is checked ---------------- */

static void free_device(void *memory)
{
    if (memory)
        (void)cudaFree(memory);
}

static void free_pinned(void *memory)
{
    if (memory)
        (void)cudaFreeHost(memory);
}

static void free_program(struct loaded_program *p)
{
    for (int i = 0; i < BACKEND_IN_FLIGHT; i++)
        free_pinned(p->staging[i].bytes);
    for (int i = 0; i < CUDA_BANKS; i++)
        free_device(p->banks[i].words);
    free_device(p->step);
    free_device(p->step_words);
    free(p->weights);
    free(p);
}

static void free_sampler(struct cuda_sampler *s)
{
    for (int i = 0; i < BACKEND_IN_FLIGHT; i++)
        free_pinned(s->staging[i].bytes);
    for (int i = 0; i < CUDA_BANKS; i++) {
        free_device(s->banks[i].device);
        free_pinned(s->banks[i].host);
    }
    free_device(s->step);
    free_device(s->scratch);
}

void cuda_unload(struct cuda_backend *backend)
{
    while (backend->weights) {
        struct placed_weight *next = backend->weights->next;
        free_device((void *)(uintptr_t)backend->weights->device.data);
        free(backend->weights);
        backend->weights = next;
    }
    while (backend->programs) {
        struct loaded_program *next = backend->programs->next;
        free_program(backend->programs);
        backend->programs = next;
    }
    free_sampler(&backend->sampler);
    free_pinned(backend->upload.bytes);
    free_device(backend->pool.pages);
    free_device(backend->pool.tables);
    free_device(backend->device_pool);
    free_device(backend->history);
    free(backend->tables);
}

/* ---- names -------------------------------------------------------------------------------------- */

static void name_weight(const struct loaded_program *p, int32_t weight, struct buf *out)
{
    if (weight == NO_WEIGHT)
        return;
    buf_append_char(out, ' ');
    for (const char *c = tensor_type_name(p->program->weights[weight].type); *c; c++)
        buf_append_char(out, (char)tolower((unsigned char)*c));
}

void cuda_describe(struct backend *base, struct loaded_program *program, uint32_t index,
                   struct buf *out)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    const struct op *op = &program->program->ops[index];
    buf_printf(out, "cuda %s", op_kind_name(op->kind));
    switch (op->kind) {
    case OP_EMBED:
        name_weight(program, op->u.embed.table, out);
        break;
    case OP_LINEAR:
        name_weight(program, op->u.linear.weight, out);
        break;
    case OP_GATED:
        name_weight(program, op->u.gated.gate, out);
        name_weight(program, op->u.gated.up, out);
        break;
    case OP_ROUTE:
        name_weight(program, op->u.route.weight, out);
        break;
    case OP_EXPERTS:
        name_weight(program, op->u.experts.gate, out);
        name_weight(program, op->u.experts.up, out);
        name_weight(program, op->u.experts.down, out);
        break;
    case OP_LOGITS:
        name_weight(program, op->u.logits.weight, out);
        break;
    case OP_ROPE_KV:
    case OP_ATTENTION:
        if (backend->allocated)
            buf_printf(out, " kv %s",
                       backend->layout.kv_type == TENSOR_F32   ? "f32"
                       : backend->layout.kv_type == TENSOR_F16 ? "f16"
                                                               : "bf16");
        break;
    case OP_POSITION:
    case OP_NORM:
    case OP_ACTIVATE:
    case OP_CONV:
    case OP_SSM:
    case OP_DELTA:
    case OP_HEADS:
    case OP_MIX:
    case OP_MATCH:
    case OP_ADD:
    case OP_MUL:
    case OP_SELECT:
        break;
    }
}
