/*
 * Drawing tokens: history writes, then one block per row, then the drawn tokens into the history.
 *
 * The rules are sample/sample_core.h's. Passes over the whole vocabulary (copy, mask, arg-max) are
 * spread over the block; what touches few tokens or needs the one order (biases, penalties, the
 * draw, log-probabilities) is done by thread 0 with the shared functions.
 */
#include "backend/cuda/device.cuh"

#define DRAW_THREADS 256

/* One thread: later writes to the same position win. */
__global__ void history_kernel(struct cuda_draw d)
{
    const struct history_write *writes = sample_step_history(d.step);
    for (uint32_t i = 0; i < d.step->n_history_writes; i++) {
        struct history_write w = writes[i];
        d.history[(uint64_t)w.slot * d.history_capacity + w.position] = w.token;
    }
}

/* The highest value, the lowest id among equals; -1 where all are -infinity. Result for all. */
__device__ static int32_t block_argmax(const float *values, uint32_t n)
{
    __shared__ float best_value[DRAW_THREADS];
    __shared__ int32_t best_id[DRAW_THREADS];
    float value = -INFINITY;
    int32_t id = -1;
    for (uint32_t i = threadIdx.x; i < n; i += DRAW_THREADS)
        if (values[i] > value) {
            value = values[i];
            id = (int32_t)i;
        }
    best_value[threadIdx.x] = value;
    best_id[threadIdx.x] = id;
    for (uint32_t span = DRAW_THREADS / 2; span > 0; span /= 2) {
        __syncthreads();
        if (threadIdx.x >= span)
            continue;
        float other = best_value[threadIdx.x + span];
        int32_t other_id = best_id[threadIdx.x + span];
        float mine = best_value[threadIdx.x];
        if (other > mine ||
            (other == mine && (uint32_t)other_id < (uint32_t)best_id[threadIdx.x])) {
            best_value[threadIdx.x] = other;
            best_id[threadIdx.x] = other_id;
        }
    }
    __syncthreads();
    int32_t result = best_id[0];
    __syncthreads(); /* the next call writes the arrays again */
    return result;
}

/* Steps 1 to 3 of sample_core.h into in.work; false where no logit is usable. Same for all threads. */
__device__ static bool prepare(const struct sampling_row *row, const struct sampling_input &in)
{
    int usable = 0;
    for (uint32_t i = threadIdx.x; i < in.n_vocab; i += DRAW_THREADS) {
        in.work[i] = sampling_bounded(in.logits[i]);
        usable |= in.work[i] > -INFINITY;
    }
    if (!__syncthreads_or(usable))
        return false;
    if (threadIdx.x == 0)
        for (uint32_t j = row->bias_offset; j - row->bias_offset < row->n_biases; j++) {
            int32_t id = in.bias_ids[j];
            if ((uint32_t)id < in.n_vocab)
                in.work[id] = sampling_bounded(in.work[id] + in.bias_values[j]);
        }
    __syncthreads();
    if (in.mask)
        for (uint32_t i = threadIdx.x; i < in.n_vocab; i += DRAW_THREADS)
            if (!(in.mask[i >> 5] >> (i & 31) & 1))
                in.work[i] = -INFINITY;
    __syncthreads();
    if (threadIdx.x == 0)
        sampling_penalize(row, &in);
    if (threadIdx.x == 0)
        sampling_dry(row, &in);
    __syncthreads();
    return true;
}

__device__ static void store_result(const struct sampling_draw *draw, struct sample_result *out)
{
    out->token = draw->token;
    out->failed = draw->failed;
    out->logprob = draw->logprob;
    out->mirostat_mu = draw->mirostat_mu;
    out->n_top = draw->n_top;
    for (uint32_t i = 0; i < draw->n_top; i++) {
        out->top[i].token = draw->top[i].token;
        out->top[i].logprob = draw->top[i].logprob;
    }
}

/* The whole block must call; every branch with a barrier below is taken by all threads or none. */
__device__ static void draw_row(const struct cuda_draw &d, uint32_t index)
{
    const struct sample_row *sample = &sample_step_rows(d.step)[index];
    const struct sampling_row *row = &sample->parameters;
    struct sampling_input in;
    in.logits = d.logits + (uint64_t)sample->output * d.stride;
    in.mask =
        sample->mask_offset == NO_MASK ? NULL : sample_step_masks(d.step) + sample->mask_offset;
    in.breakers = sample->breakers_offset == NO_MASK
                      ? NULL
                      : sample_step_masks(d.step) + sample->breakers_offset;
    in.bias_ids = sample_step_bias_ids(d.step);
    in.bias_values = sample_step_bias_values(d.step);
    in.history = d.history + (uint64_t)sample->slot * d.history_capacity;
    in.position = sample->position;
    in.n_vocab = d.n_vocab;
    in.work = (float *)(d.scratch + (uint64_t)blockIdx.x * d.n_vocab * 8);
    in.ids = (int32_t *)(in.work + d.n_vocab);

    struct sampling_draw draw;
    draw.token = -1;
    draw.failed = SAMPLING_NO_LOGIT;
    draw.logprob = 0.0f;
    draw.mirostat_mu = row->mirostat_mu;
    draw.n_top = 0;
    if (prepare(row, in)) {
        bool greedy = !(row->temperature > 0);
        int32_t token = greedy ? block_argmax(in.work, in.n_vocab) : -1;
        if (threadIdx.x == 0 && !greedy)
            token = sampling_pick(row, &in, &draw.mirostat_mu);
        draw.token = token;
        draw.failed = token < 0 ? SAMPLING_ALL_MASKED : SAMPLING_DRAWN;
        if (threadIdx.x == 0 && token >= 0 && row->want_logprob)
            sampling_logprobs(in.logits, in.n_vocab, row->n_top_logprobs, &draw);
    }
    if (threadIdx.x == 0)
        store_result(&draw, &d.results[index]);
}

__global__ void draw_kernel(struct cuda_draw d)
{
    for (uint32_t index = blockIdx.x; index < d.step->n_rows; index += gridDim.x) {
        draw_row(d, index);
        __syncthreads(); /* thread 0 may still read the scratch that the next row overwrites */
    }
}

/* After all draws: a row's penalties see what stood before the step. The last token of a full
 * context has no place, and nobody will read it. */
__global__ void enter_kernel(struct cuda_draw d)
{
    uint64_t index = thread_index();
    if (index >= d.step->n_rows)
        return;
    const struct sample_row *row = &sample_step_rows(d.step)[index];
    if (row->position < d.history_capacity)
        d.history[(uint64_t)row->slot * d.history_capacity + row->position] =
            d.results[index].token;
}

extern "C" cudaError_t cuda_draw_rows(const struct cuda_draw *draw)
{
    cudaError_t error = cudaSuccess;
    if (draw->n_history_writes) {
        history_kernel<<<1, 1, 0, draw->stream>>>(*draw);
        error = cudaGetLastError();
    }
    if (error != cudaSuccess || draw->n_rows == 0)
        return error;
    uint32_t blocks = draw->n_rows < draw->n_scratch ? draw->n_rows : draw->n_scratch;
    draw_kernel<<<blocks, DRAW_THREADS, 0, draw->stream>>>(*draw);
    error = cudaGetLastError();
    if (error != cudaSuccess)
        return error;
    enter_kernel<<<blocks_for(draw->n_rows, BLOCK_THREADS), BLOCK_THREADS, 0, draw->stream>>>(
        *draw);
    return cudaGetLastError();
}
