/*
 * Operations that look along a sequence: table writes, rotation and append, attention, convolution.
 *
 * K/V is read and written in place in its pages. Attention is one warp per (row, head): lanes share
 * the head's columns, and the warp walks the visible positions in rising order with a running
 * maximum and sum, so that nothing depends on page size, neighbours or how a prompt was cut.
 */
#include "backend/cuda/device.cuh"

/* ---- page tables ------------------------------------------------------------------------------- */

/* One thread: writes apply in their order, should two name the same entry. */
__global__ void write_tables_kernel(const struct step *step, struct device_pool *pool)
{
    const struct table_write *writes = step_table_writes(step);
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        struct table_write w = writes[i];
        pool->tables[layout_table_index(&pool->layout, w.slot, w.group, w.index)] = w.page;
    }
}

extern "C" cudaError_t cuda_write_tables(const struct cuda_run *run)
{
    if (run->n_table_writes == 0)
        return cudaSuccess;
    write_tables_kernel<<<1, 1, 0, run->stream>>>(run->step, run->pool);
    return cudaGetLastError();
}

__device__ static uint8_t *page_at(const struct device_pool *pool, uint32_t slot, uint32_t group,
                                   uint32_t index)
{
    uint32_t page = pool->tables[layout_table_index(&pool->layout, slot, group, index)];
    return pool->pages + (uint64_t)page * pool->layout.page_bytes;
}

/* ---- K/V elements ------------------------------------------------------------------------------ */

struct cell_f32 {
    static __device__ float load(const uint8_t *cell, uint32_t i)
    {
        return ((const float *)cell)[i];
    }
    static __device__ void store(uint8_t *cell, uint32_t i, float x)
    {
        ((float *)cell)[i] = x;
    }
};

struct cell_f16 {
    static __device__ float load(const uint8_t *cell, uint32_t i)
    {
        return __half2float(((const __half *)cell)[i]);
    }
    static __device__ void store(uint8_t *cell, uint32_t i, float x)
    {
        ((__half *)cell)[i] = __float2half_rn(x);
    }
};

struct cell_bf16 {
    static __device__ float load(const uint8_t *cell, uint32_t i)
    {
        return __uint_as_float((uint32_t)((const uint16_t *)cell)[i] << 16);
    }
    static __device__ void store(uint8_t *cell, uint32_t i, float x)
    {
        ((__nv_bfloat16 *)cell)[i] = __float2bfloat16_rn(x);
    }
};

/* ---- rotation and append ----------------------------------------------------------------------- */

struct rope_args {
    const struct step *step;
    const struct device_pool *pool;
    struct device_view q, k, v; /* k.data NULL: only q turns */
    struct device_weight freqs;
    uint32_t n_heads, n_kv_heads, k_dim, v_dim;
    uint32_t group, layer;
    int style;
    uint32_t half; /* pairs that turn */
    float magnitude;
    uint32_t sections[4];
};

/* Which of the position axes turns pair i; sections all 0: axis 0. */
__device__ static uint32_t pair_axis(const struct rope_args &a, uint32_t pair)
{
    uint32_t end = 0;
    for (uint32_t axis = 0; axis < 4; axis++) {
        end += a.sections[axis];
        if (pair < end)
            return axis;
    }
    return 0;
}

/* Pairs are disjoint, and a lane turns its own; in double, since angles reach thousands of turns. */
__device__ static void rotate(const struct rope_args &a, uint32_t row, float *head, uint32_t lane)
{
    for (uint32_t i = lane; i < a.half; i += WARP) {
        int32_t position = step_positions(a.step, pair_axis(a, i))[row];
        double sine, cosine;
        sincos((double)position * (double)weight_at(a.freqs, 0, i), &sine, &cosine);
        float c = (float)cosine * a.magnitude, s = (float)sine * a.magnitude;
        uint32_t first = a.style == ROPE_HALVES ? i : 2 * i;
        uint32_t second = a.style == ROPE_HALVES ? i + a.half : 2 * i + 1;
        float x = head[first], y = head[second];
        head[first] = x * c - y * s;
        head[second] = x * s + y * c;
    }
}

/* One warp per (row, head): first the query heads, then the key/value heads. */
template <typename CELL> __global__ void rope_kv_kernel(struct rope_args a)
{
    uint32_t heads = a.n_heads + (a.k.data ? a.n_kv_heads : 0);
    uint64_t warp = warp_index();
    uint32_t row = (uint32_t)(warp / heads), head = (uint32_t)(warp % heads);
    uint32_t lane = threadIdx.x % WARP;
    if (row >= a.step->n_rows)
        return;
    if (head < a.n_heads) {
        if (a.style != ROPE_NONE)
            rotate(a, row, a.q.data + (uint64_t)row * a.q.stride + head * a.k_dim, lane);
        return;
    }
    head -= a.n_heads;
    float *k = a.k.data + (uint64_t)row * a.k.stride + head * a.k_dim;
    const float *v = a.v.data + (uint64_t)row * a.v.stride + head * a.v_dim;
    if (a.style != ROPE_NONE)
        rotate(a, row, k, lane);
    __syncwarp(); /* other lanes' turned columns are read below */
    const struct group_layout *g = &a.pool->layout.groups[a.group];
    const struct slice *slice = step_slices(a.step) + step_row_slice(a.step)[row];
    uint32_t position = step_row_position(a.step, row);
    uint32_t t = position % g->tokens_per_page;
    uint8_t *page = page_at(a.pool, slice->slot, a.group, position / g->tokens_per_page);
    uint8_t *k_cell = page + layout_k_offset(g, a.layer, head, t);
    uint8_t *v_cell = page + layout_v_offset(g, a.layer, head, t);
    for (uint32_t i = lane; i < a.k_dim; i += WARP)
        CELL::store(k_cell, i, k[i]);
    for (uint32_t i = lane; i < a.v_dim; i += WARP)
        CELL::store(v_cell, i, v[i]);
}

extern "C" cudaError_t cuda_rope_kv(const struct cuda_run *run, const struct op_rope_kv *op)
{
    const struct state_group *group = &run->program->groups[op->group];
    struct rope_args a = {};
    a.step = run->step;
    a.pool = run->pool;
    a.q = cuda_view(run, op->q);
    a.k = cuda_view(run, op->k);
    a.v = cuda_view(run, op->v);
    a.n_heads = op->n_heads;
    a.n_kv_heads = group->n_kv_heads;
    a.k_dim = group->k_head_dim;
    a.v_dim = group->v_head_dim;
    a.group = op->group;
    a.layer = op->layer;
    a.style = op->style;
    a.magnitude = op->magnitude;
    if (op->style != ROPE_NONE) {
        a.freqs = cuda_weight(run, op->freqs);
        a.half = op->rope_dims / 2;
    }
    for (int i = 0; i < 4; i++)
        a.sections[i] = op->sections[i];
    uint64_t warps = (uint64_t)run->n_rows * (a.n_heads + (a.k.data ? a.n_kv_heads : 0));
    unsigned blocks = blocks_for(warps, WARPS_PER_BLOCK);
    if (warps == 0)
        return cudaSuccess;
    if (run->kv_type == TENSOR_F16)
        rope_kv_kernel<cell_f16><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    else if (run->kv_type == TENSOR_BF16)
        rope_kv_kernel<cell_bf16><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    else
        rope_kv_kernel<cell_f32><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

/* ---- attention --------------------------------------------------------------------------------- */

struct attention_args {
    const struct step *step;
    const struct device_pool *pool;
    struct device_view q, out;
    struct device_weight sinks; /* data NULL: none */
    uint32_t n_heads, n_kv_heads, k_dim, v_dim;
    uint32_t group, layer, window;
    float scale, softcap;
};

#define LANE_COLUMNS (CUDA_HEAD_DIM_MAX / WARP)

/* The softmax so far: values are weighted relative to the largest score seen. */
struct running {
    float most, total;
    float sum[LANE_COLUMNS]; /* this lane's columns of the output */
};

template <typename CELL>
__device__ static void take_position(const struct attention_args &a, const uint8_t *k,
                                     const uint8_t *v, const float q[LANE_COLUMNS],
                                     struct running &r)
{
    uint32_t lane = threadIdx.x % WARP;
    float part = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i++)
        if (lane + i * WARP < a.k_dim)
            part = fmaf(q[i], CELL::load(k, lane + i * WARP), part);
    float score = warp_sum(part) * a.scale;
    if (a.softcap != 0.0f)
        score = a.softcap * tanhf(score / a.softcap);
    float most = score > r.most ? score : r.most;
    float keep = expf(r.most - most), weight = expf(score - most);
    r.most = most;
    r.total = r.total * keep + weight;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i++)
        if (lane + i * WARP < a.v_dim)
            r.sum[i] = fmaf(weight, CELL::load(v, lane + i * WARP), r.sum[i] * keep);
}

template <typename CELL> __global__ void attention_kernel(struct attention_args a)
{
    uint64_t warp = warp_index();
    uint32_t row = (uint32_t)(warp / a.n_heads), head = (uint32_t)(warp % a.n_heads);
    uint32_t lane = threadIdx.x % WARP;
    if (row >= a.step->n_rows)
        return;
    const struct group_layout *g = &a.pool->layout.groups[a.group];
    const struct slice *slice = step_slices(a.step) + step_row_slice(a.step)[row];
    uint32_t position = step_row_position(a.step, row);
    uint32_t end = slice->mask == MASK_SPAN ? slice->first_position + slice->n_rows : position + 1;
    uint32_t begin = a.window && position + 1 > a.window ? position + 1 - a.window : 0;
    uint32_t kv_head = head / (a.n_heads / a.n_kv_heads);

    const float *from = a.q.data + (uint64_t)row * a.q.stride + head * a.k_dim;
    float q[LANE_COLUMNS];
    struct running r;
    r.most = a.sinks.data ? weight_at(a.sinks, 0, head) : -INFINITY;
    r.total = a.sinks.data ? 1.0f : 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i++) {
        q[i] = lane + i * WARP < a.k_dim ? from[lane + i * WARP] : 0.0f;
        r.sum[i] = 0.0f;
    }
    for (uint32_t p = begin; p < end;) {
        uint32_t t = p % g->tokens_per_page;
        uint32_t n = g->tokens_per_page - t < end - p ? g->tokens_per_page - t : end - p;
        const uint8_t *page = page_at(a.pool, slice->slot, a.group, p / g->tokens_per_page);
        const uint8_t *k = page + layout_k_offset(g, a.layer, kv_head, t);
        const uint8_t *v = page + layout_v_offset(g, a.layer, kv_head, t);
        for (uint32_t i = 0; i < n; i++)
            take_position<CELL>(a, k + (uint64_t)i * g->k_head_bytes,
                                v + (uint64_t)i * g->v_head_bytes, q, r);
        p += n;
    }
    float *to = a.out.data + (uint64_t)row * a.out.stride + head * a.v_dim;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i++)
        if (lane + i * WARP < a.v_dim)
            to[lane + i * WARP] = r.sum[i] / r.total;
}

extern "C" cudaError_t cuda_attention(const struct cuda_run *run, const struct op_attention *op)
{
    const struct state_group *group = &run->program->groups[op->group];
    struct attention_args a = {};
    a.step = run->step;
    a.pool = run->pool;
    a.q = cuda_view(run, op->q);
    a.out = cuda_view(run, op->out);
    a.sinks = cuda_weight(run, op->sinks);
    a.n_heads = op->n_heads;
    a.n_kv_heads = group->n_kv_heads;
    a.k_dim = group->k_head_dim;
    a.v_dim = group->v_head_dim;
    a.group = op->group;
    a.layer = op->layer;
    a.window = op->window;
    a.scale = op->scale;
    a.softcap = op->softcap;
    uint64_t warps = (uint64_t)run->n_rows * a.n_heads;
    unsigned blocks = blocks_for(warps, WARPS_PER_BLOCK);
    if (warps == 0)
        return cudaSuccess;
    if (run->kv_type == TENSOR_F16)
        attention_kernel<cell_f16><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    else if (run->kv_type == TENSOR_BF16)
        attention_kernel<cell_bf16><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    else
        attention_kernel<cell_f32><<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}

/* ---- convolution ------------------------------------------------------------------------------- */

struct conv_args {
    const struct step *step;
    const struct device_pool *pool;
    struct device_view in, out;
    struct device_weight weight, bias;
    uint32_t taps, group, layer;
    int act;
};

__device__ static float *state_at(const struct conv_args &a, uint32_t slot, uint32_t state_slot)
{
    const struct group_layout *g = &a.pool->layout.groups[a.group];
    uint8_t *page = page_at(a.pool, slot, a.group, layout_state_page(g, state_slot, a.layer));
    return (float *)(page + layout_state_offset(g, a.layer));
}

/* One channel through the rows of one slice. past: the last taps - 1 inputs, then the current. */
__device__ static void convolve(const struct conv_args &a, const struct slice *slice,
                                uint32_t channel, const float *weights, float bias)
{
    uint32_t keep = a.taps - 1, width = a.in.width;
    float past[CUDA_TAPS_MAX];
    if (slice->first_position == 0) {
        for (uint32_t j = 0; j < keep; j++)
            past[j] = 0.0f;
    } else {
        const float *from = state_at(a, slice->slot, slice->state_read);
        for (uint32_t j = 0; j < keep; j++)
            past[j] = from[(uint64_t)j * width + channel];
    }
    for (uint32_t r = 0; r < slice->n_rows; r++) {
        uint64_t row = slice->first_row + r;
        past[keep] = a.in.data[row * a.in.stride + channel];
        float sum = bias;
        for (uint32_t j = 0; j < a.taps; j++)
            sum = fmaf(weights[j], past[j], sum);
        a.out.data[row * a.out.stride + channel] = activate(a.act, sum);
        for (uint32_t j = 0; j < keep; j++)
            past[j] = past[j + 1];
    }
    float *to = state_at(a, slice->slot, slice->state_write);
    for (uint32_t j = 0; j < keep; j++)
        to[(uint64_t)j * width + channel] = past[j];
}

/* A thread owns one channel of one sequence: blockIdx.y is the sequence's first slice in the step,
 * and the thread takes the later slices of that slot in their order, since each reads the state
 * that the one before wrote. */
__global__ void conv_kernel(struct conv_args a)
{
    const struct slice *slices = step_slices(a.step);
    uint32_t first = blockIdx.y, slot = slices[first].slot;
    uint64_t channel = thread_index();
    if (channel >= a.in.width)
        return;
    for (uint32_t i = 0; i < first; i++)
        if (slices[i].slot == slot)
            return;
    float weights[CUDA_TAPS_MAX];
    for (uint32_t j = 0; j < a.taps; j++)
        weights[j] = weight_at(a.weight, (uint32_t)channel, j);
    float bias = a.bias.data ? weight_at(a.bias, 0, (uint32_t)channel) : 0.0f;
    for (uint32_t i = first; i < a.step->n_slices; i++)
        if (slices[i].slot == slot)
            convolve(a, &slices[i], (uint32_t)channel, weights, bias);
}

extern "C" cudaError_t cuda_conv(const struct cuda_run *run, const struct op_conv *op)
{
    struct conv_args a = {};
    a.step = run->step;
    a.pool = run->pool;
    a.in = cuda_view(run, op->in);
    a.out = cuda_view(run, op->out);
    a.weight = cuda_weight(run, op->weight);
    a.bias = cuda_weight(run, op->bias);
    a.taps = op->taps;
    a.group = op->group;
    a.layer = op->layer;
    a.act = op->act;
    if (run->n_slices == 0)
        return cudaSuccess;
    dim3 blocks(blocks_for(a.in.width, BLOCK_THREADS), run->n_slices);
    conv_kernel<<<blocks, BLOCK_THREADS, 0, run->stream>>>(a);
    return cudaGetLastError();
}
