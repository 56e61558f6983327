/*
 * Mixtures of experts: choose, then run the chosen.
 *
 * The router sums in double and one thread chooses, exactly as the reference does: a different last
 * bit could choose another expert. Experts: one warp per result, contributions in route order.
 */
#include "backend/cuda/device.cuh"

struct route_args {
    struct device_view in, out;
    struct device_weight weight, bias, score_bias;
    int score, normalise;
    uint32_t n_experts, k;
    float scale;
};

/* scores: logits in, scores out. */
__device__ static void score_experts(const struct route_args &a, float *scores)
{
    if (a.score == ROUTE_SIGMOID) {
        for (uint32_t e = 0; e < a.n_experts; e++)
            scores[e] = 1.0f / (1.0f + expf(-scores[e]));
        return;
    }
    float most = scores[0];
    for (uint32_t e = 1; e < a.n_experts; e++)
        most = scores[e] > most ? scores[e] : most;
    double total = 0.0;
    for (uint32_t e = 0; e < a.n_experts; e++)
        total += exp((double)(scores[e] - most));
    for (uint32_t e = 0; e < a.n_experts; e++)
        scores[e] = (float)(exp((double)(scores[e] - most)) / total);
}

/* Repeated search: ties fall to the lower id. */
__device__ static void choose_experts(const struct route_args &a, const float *biased, int32_t *ids)
{
    for (uint32_t i = 0; i < a.k; i++) {
        int32_t best = -1;
        for (uint32_t e = 0; e < a.n_experts; e++) {
            bool taken = false;
            for (uint32_t j = 0; j < i && !taken; j++)
                taken = ids[j] == (int32_t)e;
            if (!taken && (best < 0 || biased[e] > biased[best]))
                best = (int32_t)e;
        }
        ids[i] = best;
    }
}

/* One block per row: its warps share the experts' logits, then thread 0 chooses. */
__global__ void route_kernel(struct route_args a)
{
    extern __shared__ float scores[]; /* [n_experts] scores, [n_experts] with the choice's bias */
    float *biased = scores + a.n_experts;
    uint64_t row = blockIdx.x;
    uint32_t lane = threadIdx.x % WARP;
    const float *in = a.in.data + row * a.in.stride;
    for (uint32_t e = threadIdx.x / WARP; e < a.n_experts; e += WARPS_PER_BLOCK) {
        double sums[ROW_TILE];
        warp_dots(a.weight, 0, e, in, a.in.stride, 1, sums);
        if (lane == 0)
            scores[e] = (float)(sums[0] + (a.bias.data ? (double)weight_at(a.bias, 0, e) : 0.0));
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    score_experts(a, scores);
    for (uint32_t e = 0; e < a.n_experts; e++)
        biased[e] = scores[e] + (a.score_bias.data ? weight_at(a.score_bias, 0, e) : 0.0f);
    float *out = a.out.data + row * a.out.stride;
    int32_t *ids = (int32_t *)out;
    choose_experts(a, biased, ids);
    double total = 0.0;
    for (uint32_t i = 0; i < a.k; i++)
        total += (double)scores[ids[i]];
    for (uint32_t i = 0; i < a.k; i++) {
        float score = scores[ids[i]];
        out[a.k + i] = (a.normalise ? (float)((double)score / total) : score) * a.scale;
    }
}

extern "C" cudaError_t cuda_route(const struct cuda_run *run, const struct op_route *op)
{
    struct route_args a = {};
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.weight = cuda_weight(run, op->weight);
    a.bias = cuda_weight(run, op->bias);
    a.score_bias = cuda_weight(run, op->score_bias);
    a.score = op->score;
    a.normalise = op->normalise;
    a.n_experts = op->n_experts;
    a.k = op->k;
    a.scale = op->scale;
    if (a.in.n_rows == 0)
        return cudaSuccess;
    route_kernel<<<a.in.n_rows, BLOCK_THREADS, 2 * a.n_experts * sizeof(float), run->stream>>>(a);
    return cudaGetLastError();
}

/* ---- experts ----------------------------------------------------------------------------------- */

struct experts_args {
    struct device_view in, route, hidden, out, residual;
    struct device_weight gate, up, down;
    int act;
    uint32_t k, ff;
};

/* hidden[row][i][j] of the row's i-th expert. */
__global__ void experts_hidden_kernel(struct experts_args a)
{
    uint64_t warp = warp_index(), per_row = (uint64_t)a.k * a.ff, row = warp / per_row;
    uint32_t i = (uint32_t)(warp % per_row / a.ff), j = (uint32_t)(warp % per_row % a.ff);
    if (row >= a.in.n_rows)
        return;
    uint32_t expert = (uint32_t)((const int32_t *)(a.route.data + row * a.route.stride))[i];
    const float *in = a.in.data + row * a.in.stride;
    float gate[ROW_TILE], up[ROW_TILE];
    warp_dots(a.gate, expert, j, in, a.in.stride, 1, gate);
    warp_dots(a.up, expert, j, in, a.in.stride, 1, up);
    if (threadIdx.x % WARP == 0)
        a.hidden.data[row * a.hidden.stride + (uint64_t)i * a.ff + j] =
            activate(a.act, gate[0]) * up[0];
}

__global__ void experts_out_kernel(struct experts_args a)
{
    uint64_t warp = warp_index(), row = warp / a.out.width;
    uint32_t j = (uint32_t)(warp % a.out.width);
    if (row >= a.in.n_rows)
        return;
    const float *route = a.route.data + row * a.route.stride;
    const float *hidden = a.hidden.data + row * a.hidden.stride;
    float sum = 0.0f;
    for (uint32_t i = 0; i < a.k; i++) {
        float part[ROW_TILE];
        warp_dots(a.down, (uint32_t)((const int32_t *)route)[i], j, hidden + (uint64_t)i * a.ff,
                  a.ff, 1, part);
        sum += route[a.k + i] * part[0];
    }
    if (threadIdx.x % WARP != 0)
        return;
    if (a.residual.data)
        sum = a.residual.data[row * a.residual.stride + j] + sum;
    a.out.data[row * a.out.stride + j] = sum;
}

extern "C" cudaError_t cuda_experts(const struct cuda_run *run, const struct op_experts *op)
{
    struct experts_args a = {};
    a.in = cuda_view(run, op->in);
    a.route = cuda_view(run, op->route);
    a.hidden = cuda_view(run, op->hidden);
    a.out = cuda_view(run, op->out);
    a.residual = cuda_view(run, op->residual);
    a.gate = cuda_weight(run, op->gate);
    a.up = cuda_weight(run, op->up);
    a.down = cuda_weight(run, op->down);
    a.act = op->act;
    a.k = op->k;
    a.ff = a.gate.n_rows;
    if (a.in.n_rows == 0)
        return cudaSuccess;
    uint64_t hidden = (uint64_t)a.in.n_rows * a.k * a.ff;
    uint64_t outputs = (uint64_t)a.in.n_rows * a.out.width;
    experts_hidden_kernel<<<blocks_for(hidden, WARPS_PER_BLOCK), BLOCK_THREADS, 0, run->stream>>>(
        a);
    cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        return error;
    experts_out_kernel<<<blocks_for(outputs, WARPS_PER_BLOCK), BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}
