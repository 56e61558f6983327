/*
 * The CUDA backend's life: the device, tickets, errors, results. The rest of the host side is in
 * load.c (memory), check.c (what a step may name), run.c and draw.c (submission).
 */
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/internal.h"
#include "base/checked.h"

/* ---- errors ------------------------------------------------------------------------------------- */

enum status cuda_status(cudaError_t error, const char *what, struct error *err)
{
    if (error == cudaSuccess)
        return STATUS_OK;
    (void)cudaGetLastError(); /* an error that is not sticky must not surface in a later call */
    enum status status = error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE;
    return error_set(err, status, "cuda: %s: %s (%s)", what, cudaGetErrorString(error),
                     cudaGetErrorName(error));
}

enum status cuda_fail(struct cuda_backend *backend, uint64_t ticket, cudaError_t error,
                      const char *what, struct error *err)
{
    struct error first;
    cuda_status(error, what, &first);
    if (backend->failed_from == 0 || ticket < backend->failed_from) {
        backend->failed_from = ticket;
        snprintf(backend->failure, sizeof backend->failure, "%s", first.message);
    }
    return error_set(err, STATUS_DEVICE, "%s", backend->failure);
}

enum status cuda_enter(struct cuda_backend *backend, struct error *err)
{
    if (backend->failed_from)
        return error_set(err, STATUS_DEVICE, "%s", backend->failure);
    return cuda_status(cudaSetDevice(backend->config.device), "selecting the device", err);
}

/* ---- memory ------------------------------------------------------------------------------------- */

enum status cuda_device_memory(struct cuda_backend *backend, uint64_t count, uint64_t size,
                               const char *what, void **out, struct error *err)
{
    uint64_t bytes;
    *out = NULL;
    if (!checked_mul_u64(count, size, &bytes) || bytes > SIZE_MAX)
        return error_set(err, STATUS_MEMORY, "cuda: %s: size overflow", what);
    bytes = bytes ? bytes : 1;
    cudaError_t error = cudaMalloc(out, (size_t)bytes);
    if (error != cudaSuccess) {
        *out = NULL;
        (void)cudaGetLastError();
        return error_set(err, STATUS_MEMORY, "cuda: %llu bytes of device memory for %s: %s",
                         (unsigned long long)bytes, what, cudaGetErrorString(error));
    }
    error = cudaMemsetAsync(*out, 0, (size_t)bytes, backend->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(backend->stream);
    return cuda_status(error, what, err);
}

enum status cuda_pinned_memory(uint64_t bytes, const char *what, void **out, struct error *err)
{
    *out = NULL;
    if (bytes > SIZE_MAX)
        return error_set(err, STATUS_MEMORY, "cuda: %s: size overflow", what);
    cudaError_t error = cudaMallocHost(out, bytes ? (size_t)bytes : 1);
    if (error != cudaSuccess)
        *out = NULL;
    return cuda_status(error, what, err);
}

/* ---- tickets ------------------------------------------------------------------------------------ */

static enum status wait_for(struct cuda_backend *backend, uint64_t ticket, struct error *err)
{
    if (backend->failed_from && ticket >= backend->failed_from)
        return error_set(err, STATUS_DEVICE, "%s", backend->failure);
    if (ticket <= backend->completed)
        return STATUS_OK;
    cudaError_t error = cudaEventSynchronize(backend->events[ticket % CUDA_TICKETS]);
    if (error != cudaSuccess)
        return cuda_fail(backend, backend->completed + 1, error, "running a step", err);
    backend->completed = ticket;
    return STATUS_OK;
}

enum status cuda_wait(struct backend *base, uint64_t ticket, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    if (backend->failed_from && ticket >= backend->failed_from)
        return error_set(err, STATUS_DEVICE, "%s", backend->failure);
    if (ticket == 0 || ticket > backend->last_ticket)
        return error_set(err, STATUS_INTERNAL, "ticket %llu was never submitted",
                         (unsigned long long)ticket);
    if (ticket <= backend->completed)
        return STATUS_OK;
    enum status status =
        cuda_status(cudaSetDevice(backend->config.device), "selecting the device", err);
    return status != STATUS_OK ? status : wait_for(backend, ticket, err);
}

enum status cuda_end_ticket(struct cuda_backend *backend, uint64_t *ticket, struct error *err)
{
    uint64_t number = backend->last_ticket + 1;
    /* The event's last use was CUDA_TICKETS ago; callers keep far fewer outstanding. */
    if (number > CUDA_TICKETS) {
        enum status status = wait_for(backend, number - CUDA_TICKETS, err);
        if (status != STATUS_OK)
            return status;
    }
    cudaError_t error = cudaEventRecord(backend->events[number % CUDA_TICKETS], backend->stream);
    if (error != cudaSuccess)
        return cuda_fail(backend, number, error, "ending a submission", err);
    *ticket = backend->last_ticket = number;
    return STATUS_OK;
}

enum status cuda_staging_wait(struct cuda_backend *backend, struct staging *staging,
                              struct error *err)
{
    return staging->ticket ? wait_for(backend, staging->ticket, err) : STATUS_OK;
}

/* ---- opening ------------------------------------------------------------------------------------ */

static enum status find_device(const struct backend_config *config, struct cudaDeviceProp *out,
                               struct error *err)
{
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaErrorInsufficientDriver) {
        (void)cudaGetLastError();
        return error_set(err, STATUS_DEVICE,
                         "cuda: no NVIDIA driver is installed here, or it is older than CUDA %d.%d "
                         "needs; use the cpu backend",
                         CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0)) {
        (void)cudaGetLastError();
        return error_set(err, STATUS_DEVICE,
                         "cuda: the driver finds no NVIDIA GPU; use the cpu backend");
    }
    if (error != cudaSuccess)
        return cuda_status(error, "asking the driver for devices", err);
    if (config->device < 0 || config->device >= n)
        return error_set(err, STATUS_DEVICE, "cuda: device %d of %d (they count from 0)",
                         config->device, n);
    enum status status = cuda_status(cudaSetDevice(config->device), "selecting the device", err);
    if (status == STATUS_OK)
        status = cuda_status(cudaGetDeviceProperties(out, config->device),
                             "asking for the device's properties", err);
    return status;
}

static enum status probe_kernels(const struct cudaDeviceProp *properties, struct error *err)
{
    cudaError_t error = cuda_probe_kernels();
    if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction)
        return cuda_status(error, "loading the kernels", err);
    (void)cudaGetLastError();
    return error_set(err, STATUS_DEVICE,
                     "cuda: this build has no kernels for %s (compute capability %d.%d); rebuild "
                     "with -DSLUICE_CUDA_ARCHITECTURES=%d%d",
                     properties->name, properties->major, properties->minor, properties->major,
                     properties->minor);
}

static enum status create_streams(struct cuda_backend *backend, struct error *err)
{
    cudaError_t error = cudaStreamCreateWithFlags(&backend->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&backend->transfer, cudaStreamNonBlocking);
    for (int i = 0; i < CUDA_TICKETS && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&backend->events[i],
                                         cudaEventDisableTiming | cudaEventBlockingSync);
    return cuda_status(error, "creating streams and events", err);
}

static void cuda_close(struct backend *base)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    if (!backend)
        return;
    /* Nobody is left to tell about an error, and after a failure all of these return it again. */
    (void)cudaSetDevice(backend->config.device);
    if (backend->stream)
        (void)cudaStreamSynchronize(backend->stream);
    if (backend->transfer)
        (void)cudaStreamSynchronize(backend->transfer);
    cuda_unload(backend);
    for (int i = 0; i < CUDA_TICKETS; i++)
        if (backend->events[i])
            (void)cudaEventDestroy(backend->events[i]);
    if (backend->transfer)
        (void)cudaStreamDestroy(backend->transfer);
    if (backend->stream)
        (void)cudaStreamDestroy(backend->stream);
    (void)cudaGetLastError();
    free(backend);
}

static enum status cuda_open(const struct backend_config *config, struct backend **out,
                             struct error *err)
{
    struct cudaDeviceProp properties;
    enum status status = find_device(config, &properties, err);
    if (status == STATUS_OK)
        status = probe_kernels(&properties, err);
    if (status != STATUS_OK)
        return status;
    struct cuda_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return error_set(err, STATUS_MEMORY, "out of memory while opening the cuda backend");
    backend->base.api = &cuda_backend_api;
    backend->config = *config;
    backend->properties = properties;
    status = create_streams(backend, err);
    if (status != STATUS_OK) {
        cuda_close(&backend->base);
        return status;
    }
    *out = &backend->base;
    return STATUS_OK;
}

static void cuda_info(struct backend *base, struct backend_info *out)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    *out = (struct backend_info){.kv_type = backend->config.exact ? TENSOR_F32 : TENSOR_F16,
                                 .one_class = true,
                                 .prompt_rows_together = 1};
    snprintf(out->description, sizeof out->description, "%.127s", backend->properties.name);
    size_t available = 0, total = 0;
    if (cudaSetDevice(backend->config.device) != cudaSuccess ||
        cudaMemGetInfo(&available, &total) != cudaSuccess) {
        (void)cudaGetLastError();
        return;
    }
    out->memory_total = total;
    out->memory_free = available;
}

/* ---- results ------------------------------------------------------------------------------------ */

/* Blocking copies beside the main stream, so that they do not wait for work submitted later. */
static enum status copy(struct cuda_backend *backend, void *to, const void *from, uint64_t bytes,
                        enum cudaMemcpyKind kind, const char *what, struct error *err)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, backend->transfer);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(backend->transfer);
    if (error != cudaSuccess)
        return cuda_fail(backend, backend->completed + 1, error, what, err);
    return STATUS_OK;
}

static enum status cuda_read_rows(struct backend *base, struct loaded_program *program,
                                  enum result_kind kind, uint64_t ticket, uint32_t first,
                                  uint32_t n, float *out, struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    const struct result_bank *bank = NULL;
    for (int i = 0; i < CUDA_BANKS; i++)
        if (program->banks[i].ticket == ticket && ticket != 0)
            bank = &program->banks[i];
    int32_t id = kind == RESULT_LOGITS ? program->program->logits : program->program->hidden;
    uint32_t available = 0;
    if (bank && id != NO_BUFFER)
        available = kind == RESULT_LOGITS ? bank->n_logits : bank->n_outputs;
    if (first > available || n > available - first)
        return error_set(err, STATUS_INTERNAL, "ticket %llu has %u result rows, not %u+%u",
                         (unsigned long long)ticket, available, first, n);
    if (n == 0)
        return STATUS_OK;
    enum status status = cuda_enter(backend, err);
    if (status == STATUS_OK)
        status = wait_for(backend, ticket, err);
    if (status != STATUS_OK)
        return status;
    const struct buffer *buffer = &program->program->buffers[id];
    const float *from = bank->words + buffer->offset * program->limits.max_outputs +
                        (uint64_t)first * buffer->width;
    return copy(backend, out, from, (uint64_t)n * buffer->width * sizeof *out,
                cudaMemcpyDeviceToHost, "reading results", err);
}

/* Ordered after all tickets. */
static enum status find_page(struct cuda_backend *backend, uint32_t page, uint8_t **out,
                             struct error *err)
{
    if (!backend->allocated || page >= backend->layout.n_pages)
        return error_set(err, STATUS_INTERNAL, "page %u of %u", page, backend->layout.n_pages);
    enum status status = cuda_enter(backend, err);
    if (status == STATUS_OK && backend->last_ticket)
        status = wait_for(backend, backend->last_ticket, err);
    *out = backend->pool.pages + page * backend->layout.page_bytes;
    return status;
}

static enum status cuda_read_page(struct backend *base, uint32_t page, void *bytes,
                                  struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    uint8_t *at = NULL;
    enum status status = find_page(backend, page, &at, err);
    if (status != STATUS_OK)
        return status;
    return copy(backend, bytes, at, backend->layout.page_bytes, cudaMemcpyDeviceToHost,
                "reading a page", err);
}

static enum status cuda_write_page(struct backend *base, uint32_t page, const void *bytes,
                                   struct error *err)
{
    struct cuda_backend *backend = (struct cuda_backend *)base;
    uint8_t *at = NULL;
    enum status status = find_page(backend, page, &at, err);
    if (status != STATUS_OK)
        return status;
    return copy(backend, at, bytes, backend->layout.page_bytes, cudaMemcpyHostToDevice,
                "writing a page", err);
}

const struct backend_api cuda_backend_api = {
    .abi = BACKEND_ABI,
    .name = "cuda",
    .summary = "NVIDIA GPUs by CUDA; plain kernels, float32 activations",
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .place = cuda_place,
    .load = cuda_load,
    .allocate = cuda_allocate,
    .submit = cuda_submit,
    .sample = cuda_sample,
    .wait = cuda_wait,
    .read_rows = cuda_read_rows,
    .read_samples = cuda_read_samples,
    .read_page = cuda_read_page,
    .write_page = cuda_write_page,
    .describe = cuda_describe,
};
