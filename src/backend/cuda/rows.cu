/*
 * Operations that work row by row: embedding, norms, matrices, elementwise.
 *
 * Matrices: one warp computes one output column for a tile of up to ROW_TILE rows; lanes stride over
 * the inputs. Norms: one warp per normalised group. The rest: one thread per element.
 */
#include "backend/cuda/device.cuh"

/* ---- embedding --------------------------------------------------------------------------------- */

/* A failed draw leaves token -1: its sequence is ended by the engine, one step late. */
__device__ static uint32_t row_token(const struct step *step, const struct slice *slice,
                                     const struct sample_result *sampled, uint32_t row,
                                     uint32_t n_vocab)
{
    uint32_t index = slice->input_offset + (row - slice->first_row);
    int32_t token = slice->input == INPUT_SAMPLED ? sampled[index].token : step_tokens(step)[index];
    return token < 0 || (uint32_t)token >= n_vocab ? 0 : (uint32_t)token;
}

__global__ void embed_kernel(const struct step *step, const struct sample_result *sampled,
                             struct device_weight table, struct device_view out, float scale)
{
    uint64_t index = thread_index();
    uint32_t row = (uint32_t)(index / out.width), column = (uint32_t)(index % out.width);
    if (row >= step->n_rows)
        return;
    const struct slice *slice = step_slices(step) + step_row_slice(step)[row];
    float *to = out.data + (uint64_t)row * out.stride + column;
    if (slice->input == INPUT_EMBEDDINGS) {
        uint32_t from = slice->input_offset + (row - slice->first_row);
        *to = step_embeddings(step)[(uint64_t)from * out.width + column];
        return;
    }
    uint32_t token = row_token(step, slice, sampled, row, table.n_rows);
    *to = weight_at(table, token, column) * scale;
}

extern "C" cudaError_t cuda_embed(const struct cuda_run *run, const struct op_embed *op)
{
    struct device_view out = cuda_view(run, op->out);
    if (out.n_rows == 0)
        return cudaSuccess;
    embed_kernel<<<blocks_for((uint64_t)out.n_rows * out.width, BLOCK_THREADS), BLOCK_THREADS, 0,
                   run->stream>>>(run->step, run->sampled, cuda_weight(run, op->table), out,
                                  op->scale);
    return cudaGetLastError();
}

/* ---- norms ------------------------------------------------------------------------------------- */

struct norm_args {
    struct device_view in, out;
    struct device_weight weight, bias;
    uint32_t group, n_groups; /* groups per row */
    int layer;                /* subtract the mean */
    float weight_offset, eps;
};

/* In place is allowed: a lane writes only elements that it alone reads again. */
__global__ void norm_kernel(struct norm_args a)
{
    uint64_t warp = warp_index();
    uint32_t row = (uint32_t)(warp / a.n_groups), first = (uint32_t)(warp % a.n_groups) * a.group;
    uint32_t lane = threadIdx.x % WARP;
    if (row >= a.in.n_rows)
        return;
    const float *in = a.in.data + (uint64_t)row * a.in.stride + first;
    float *out = a.out.data + (uint64_t)row * a.out.stride + first;
    float mean = 0.0f, square = 0.0f;
    if (a.layer) {
        for (uint32_t i = lane; i < a.group; i += WARP)
            mean += in[i];
        mean = warp_sum(mean) / (float)a.group;
    }
    for (uint32_t i = lane; i < a.group; i += WARP)
        square = fmaf(in[i] - mean, in[i] - mean, square);
    float scale = 1.0f / sqrtf(warp_sum(square) / (float)a.group + a.eps);
    for (uint32_t i = lane; i < a.group; i += WARP) {
        float value = (in[i] - mean) * scale;
        if (a.weight.data)
            value *= weight_at(a.weight, 0, a.weight.n_cols == a.group ? i : first + i) +
                     a.weight_offset;
        if (a.bias.data)
            value += weight_at(a.bias, 0, a.bias.n_cols == a.group ? i : first + i);
        out[i] = value;
    }
}

extern "C" cudaError_t cuda_norm(const struct cuda_run *run, const struct op_norm *op)
{
    struct norm_args a = {};
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.weight = cuda_weight(run, op->weight);
    a.bias = cuda_weight(run, op->bias);
    a.group = op->group;
    a.n_groups = op->in.width / op->group;
    a.layer = op->kind == NORM_LAYER;
    a.weight_offset = op->weight_offset;
    a.eps = op->eps;
    uint64_t warps = (uint64_t)a.in.n_rows * a.n_groups;
    if (warps == 0)
        return cudaSuccess;
    norm_kernel<<<blocks_for(warps, WARPS_PER_BLOCK), BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

/* ---- matrices ---------------------------------------------------------------------------------- */

/* Work of one warp: output column j of rows [row, row + rows). */
struct tile {
    uint32_t j, row, rows;
};

__device__ static bool find_tile(uint32_t n_outputs, uint32_t n_rows, struct tile *tile)
{
    uint64_t warp = warp_index();
    uint64_t row = warp / n_outputs * ROW_TILE;
    if (row >= n_rows)
        return false;
    tile->j = (uint32_t)(warp % n_outputs);
    tile->row = (uint32_t)row;
    tile->rows = n_rows - tile->row < ROW_TILE ? n_rows - tile->row : ROW_TILE;
    return true;
}

static unsigned tile_blocks(struct device_view in, uint32_t n_outputs)
{
    uint64_t tiles = ((uint64_t)in.n_rows + ROW_TILE - 1) / ROW_TILE;
    return blocks_for(tiles * n_outputs, WARPS_PER_BLOCK);
}

struct linear_args {
    struct device_view in, out, residual;
    struct device_weight weight, bias;
    int act;
    float scale, softcap;
};

/* OP_LINEAR and, with a soft cap and without residual, OP_LOGITS. */
__global__ void linear_kernel(struct linear_args a)
{
    struct tile t;
    uint32_t lane = threadIdx.x % WARP;
    if (!find_tile(a.out.width, a.in.n_rows, &t))
        return;
    float sums[ROW_TILE];
    warp_dots(a.weight, 0, t.j, a.in.data + (uint64_t)t.row * a.in.stride, a.in.stride, t.rows,
              sums);
    if (lane >= t.rows)
        return;
    uint64_t row = t.row + lane;
    float value = own_sum(sums, lane);
    if (a.bias.data)
        value += weight_at(a.bias, 0, t.j);
    value = activate(a.act, value) * a.scale;
    if (a.softcap != 0.0f)
        value = a.softcap * tanhf(value / a.softcap);
    if (a.residual.data)
        value += a.residual.data[row * a.residual.stride + t.j];
    a.out.data[row * a.out.stride + t.j] = value;
}

extern "C" cudaError_t cuda_linear(const struct cuda_run *run, const struct op_linear *op)
{
    struct linear_args a = {};
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.residual = cuda_view(run, op->residual);
    a.weight = cuda_weight(run, op->weight);
    a.bias = cuda_weight(run, op->bias);
    a.act = op->act;
    a.scale = op->scale;
    if (a.in.n_rows == 0)
        return cudaSuccess;
    linear_kernel<<<tile_blocks(a.in, a.out.width), BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

extern "C" cudaError_t cuda_logits(const struct cuda_run *run, const struct op_logits *op)
{
    struct linear_args a = {};
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.weight = cuda_weight(run, op->weight);
    a.bias = cuda_weight(run, op->bias);
    a.act = ACT_NONE;
    a.scale = op->scale;
    a.softcap = op->softcap;
    a.in.n_rows = run->n_logits;
    if (a.in.n_rows == 0)
        return cudaSuccess;
    linear_kernel<<<tile_blocks(a.in, a.out.width), BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

struct gated_args {
    struct device_view in, out;
    struct device_weight gate, up, gate_bias, up_bias;
    int act;
};

__global__ void gated_kernel(struct gated_args a)
{
    struct tile t;
    uint32_t lane = threadIdx.x % WARP;
    if (!find_tile(a.out.width, a.in.n_rows, &t))
        return;
    const float *in = a.in.data + (uint64_t)t.row * a.in.stride;
    float gates[ROW_TILE], ups[ROW_TILE];
    warp_dots(a.gate, 0, t.j, in, a.in.stride, t.rows, gates);
    warp_dots(a.up, 0, t.j, in, a.in.stride, t.rows, ups);
    if (lane >= t.rows)
        return;
    float gate = own_sum(gates, lane), up = own_sum(ups, lane);
    if (a.gate_bias.data)
        gate += weight_at(a.gate_bias, 0, t.j);
    if (a.up_bias.data)
        up += weight_at(a.up_bias, 0, t.j);
    a.out.data[(uint64_t)(t.row + lane) * a.out.stride + t.j] = activate(a.act, gate) * up;
}

extern "C" cudaError_t cuda_gated(const struct cuda_run *run, const struct op_gated *op)
{
    struct gated_args a = {};
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.gate = cuda_weight(run, op->gate);
    a.up = cuda_weight(run, op->up);
    a.gate_bias = cuda_weight(run, op->gate_bias);
    a.up_bias = cuda_weight(run, op->up_bias);
    a.act = op->act;
    if (a.in.n_rows == 0)
        return cudaSuccess;
    gated_kernel<<<tile_blocks(a.in, a.out.width), BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

/* ---- elementwise ------------------------------------------------------------------------------- */

__global__ void add_kernel(struct device_view a, struct device_view b, struct device_view out,
                           float scale)
{
    uint64_t index = thread_index(), row = index / out.width, column = index % out.width;
    if (row < out.n_rows)
        out.data[row * out.stride + column] =
            a.data[row * a.stride + column] + b.data[row * b.stride + column] * scale;
}

extern "C" cudaError_t cuda_add(const struct cuda_run *run, const struct op_add *op)
{
    struct device_view out = cuda_view(run, op->out);
    if (out.n_rows == 0)
        return cudaSuccess;
    add_kernel<<<blocks_for((uint64_t)out.n_rows * out.width, BLOCK_THREADS), BLOCK_THREADS, 0,
                 run->stream>>>(cuda_view(run, op->a), cuda_view(run, op->b), out, op->scale);
    return cudaGetLastError();
}

__global__ void mul_kernel(struct device_view a, struct device_view b, struct device_view out,
                           int act)
{
    uint64_t index = thread_index(), row = index / out.width, column = index % out.width;
    if (row < out.n_rows)
        out.data[row * out.stride + column] =
            activate(act, a.data[row * a.stride + column]) * b.data[row * b.stride + column];
}

extern "C" cudaError_t cuda_mul(const struct cuda_run *run, const struct op_mul *op)
{
    struct device_view out = cuda_view(run, op->out);
    if (out.n_rows == 0)
        return cudaSuccess;
    mul_kernel<<<blocks_for((uint64_t)out.n_rows * out.width, BLOCK_THREADS), BLOCK_THREADS, 0,
                 run->stream>>>(cuda_view(run, op->a), cuda_view(run, op->b), out, op->act);
    return cudaGetLastError();
}

__global__ void select_kernel(const struct step *step, struct device_view in,
                              struct device_view out)
{
    uint64_t index = thread_index(), i = index / out.width, column = index % out.width;
    if (i < step->n_outputs)
        out.data[i * out.stride + column] =
            in.data[(uint64_t)step_outputs(step)[i].row * in.stride + column];
}

extern "C" cudaError_t cuda_select(const struct cuda_run *run, const struct op_select *op)
{
    struct device_view out = cuda_view(run, op->out);
    if (out.n_rows == 0)
        return cudaSuccess;
    select_kernel<<<blocks_for((uint64_t)out.n_rows * out.width, BLOCK_THREADS), BLOCK_THREADS, 0,
                    run->stream>>>(run->step, cuda_view(run, op->in), out);
    return cudaGetLastError();
}

/* ---- probing ----------------------------------------------------------------------------------- */

extern "C" cudaError_t cuda_probe_kernels(void)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, linear_kernel);
}
