/*
 * What host code and kernels share: device addresses in plain structs, and the launchers.
 *
 * A launcher enqueues the kernels of one operation on run->stream and returns the launch's error;
 * it never blocks. Grids are sized by the step's counts as the host knows them; everything else
 * about the step is read by the kernels from its copy in device memory. C11 and C++.
 */
#ifndef SLUICE_BACKEND_CUDA_DEVICE_H
#define SLUICE_BACKEND_CUDA_DEVICE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Limits of the kernels; load() refuses programs beyond them. */
#define CUDA_HEAD_DIM_MAX 512
#define CUDA_TAPS_MAX     64
#define CUDA_EXPERTS_MAX  2048
#define CUDA_ROWS_MAX     65535 /* rows, slices and outputs of a step: one grid dimension */

/* Columns of an activation buffer: row r starts at data + r * stride. data NULL: absent. */
struct device_view {
    float *data;
    uint32_t stride;
    uint32_t width;
    uint32_t n_rows; /* of this step: rows, outputs, or (OP_LOGITS) logits */
};

/* A stack of matrices, in the element type of its file. data NULL: absent. */
struct device_weight {
    const uint8_t *data;
    uint64_t row_bytes, part_bytes;
    uint32_t type; /* enum tensor_type */
    uint32_t n_rows, n_cols, count;
};

/* Device memory of sequences; one such struct lies in device memory itself. */
struct device_pool {
    uint8_t *pages;   /* [n_pages, page_bytes] */
    uint32_t *tables; /* [n_slots, slot_pages] */
    struct layout layout;
};

/* One forward pass being enqueued. Pointers are device addresses unless said otherwise. */
struct cuda_run {
    cudaStream_t stream;
    const struct step *step;
    struct device_pool *pool;
    const struct sample_result *sampled; /* tokens for INPUT_SAMPLED; NULL before the first draw */
    uint32_t n_rows, n_slices, n_outputs, n_logits, n_table_writes;
    uint32_t kv_type;
    const struct program *program;       /* host */
    const struct device_weight *weights; /* host array, one per weight of the program */
    float *step_words, *output_words;
    struct step_limits limits;
};

/* One sample step being enqueued. */
struct cuda_draw {
    cudaStream_t stream;
    const struct sample_step *step;
    const float *logits; /* [n_logits, stride] */
    uint32_t stride;
    int32_t *history; /* [n_slots, history_capacity] */
    uint32_t history_capacity;
    uint32_t n_vocab;
    uint8_t *scratch; /* [n_scratch][n_vocab floats, n_vocab int32] */
    uint32_t n_scratch;
    struct sample_result *results; /* [n_rows] */
    uint32_t n_rows, n_history_writes;
};

/* Resolve a program's handles for this run (host code, run.c). */
struct device_view cuda_view(const struct cuda_run *run, struct view view);
struct device_weight cuda_weight(const struct cuda_run *run, int32_t weight);

cudaError_t cuda_write_tables(const struct cuda_run *run);
cudaError_t cuda_embed(const struct cuda_run *run, const struct op_embed *op);
cudaError_t cuda_norm(const struct cuda_run *run, const struct op_norm *op);
cudaError_t cuda_linear(const struct cuda_run *run, const struct op_linear *op);
cudaError_t cuda_rope_kv(const struct cuda_run *run, const struct op_rope_kv *op);
cudaError_t cuda_attention(const struct cuda_run *run, const struct op_attention *op);
cudaError_t cuda_gated(const struct cuda_run *run, const struct op_gated *op);
cudaError_t cuda_route(const struct cuda_run *run, const struct op_route *op);
cudaError_t cuda_experts(const struct cuda_run *run, const struct op_experts *op);
cudaError_t cuda_conv(const struct cuda_run *run, const struct op_conv *op);
cudaError_t cuda_add(const struct cuda_run *run, const struct op_add *op);
cudaError_t cuda_mul(const struct cuda_run *run, const struct op_mul *op);
cudaError_t cuda_select(const struct cuda_run *run, const struct op_select *op);
cudaError_t cuda_logits(const struct cuda_run *run, const struct op_logits *op);

cudaError_t cuda_draw_rows(const struct cuda_draw *draw);

/* cudaErrorNoKernelImageForDevice where the current device cannot run our kernels. */
cudaError_t cuda_probe_kernels(void);

#ifdef __cplusplus
}
#endif
#endif
