/*
 * Binding the matrices of experts. Checkpoints have them as one tensor [n, rows, cols] (GGUF), as one
 * tensor per expert (older Hugging Face folders), with gate and up one after the other in a tensor
 * [n, 2 rows, cols] (newer ones), or as gpt-oss does: gate and up in turn, with inputs along the rows,
 * or in blocks along the columns. Only the last two are copied.
 */
#include <string.h>

#include "model/bind.h"

static const void **new_parts(struct build *b)
{
    const void **parts = arena_alloc(&b->arena, b->h.n_experts, sizeof *parts);
    if (!parts)
        program_fail(b->program, STATUS_MEMORY, "out of memory while binding %u experts",
                     b->h.n_experts);
    return parts;
}

static bool is_stack(const struct tensor *tensor, uint64_t n, uint64_t rows, uint64_t cols)
{
    return tensor->n_dims == 3 && tensor->dims[0] == n && tensor->dims[1] == rows &&
           tensor->dims[2] == cols;
}

/* Rows [first, first + rows) of each of `count` matrices [total, cols] in one tensor. */
static int32_t bind_stacked(struct build *b, const struct tensor *tensor, uint32_t count,
                            uint32_t total, uint32_t first, uint32_t rows, uint32_t cols)
{
    const void **parts = arena_alloc(&b->arena, count, sizeof *parts);
    uint64_t row_bytes;
    if (!parts) {
        program_fail(b->program, STATUS_MEMORY, "out of memory while binding %u matrices", count);
        return NO_WEIGHT;
    }
    bool flat = tensor->n_dims == 2 && tensor->dims[0] == (uint64_t)count * total &&
                tensor->dims[1] == cols;
    if ((!flat && !is_stack(tensor, count, total, cols)) || first > total || rows > total - first ||
        !tensor_type_bytes(tensor->type, cols, &row_bytes)) {
        bind_fail_shape(b, tensor, total, cols);
        return NO_WEIGHT;
    }
    for (uint32_t i = 0; i < count; i++)
        parts[i] = (const uint8_t *)tensor->data + ((uint64_t)i * total + first) * row_bytes;
    return bind_parts(b, tensor, WEIGHT_MATRIX, count, rows, cols, parts);
}

int32_t build_stack(struct build *b, int layer, const char *role, uint32_t count, uint32_t total,
                    uint32_t first, uint32_t rows, uint32_t cols)
{
    const struct tensor *tensor = build_find(b, layer, role, "weight");
    if (tensor)
        return bind_stacked(b, tensor, count, total, first, rows, cols);
    bind_fail_missing(b, layer, role, "weight");
    return NO_WEIGHT;
}

/* One tensor per expert. */
static int32_t bind_single(struct build *b, int layer, const char *role, uint32_t rows,
                           uint32_t cols)
{
    const void **parts = new_parts(b);
    const struct tensor *first = NULL;
    for (uint32_t e = 0; parts && e < b->h.n_experts; e++) {
        const struct tensor *tensor = bind_find_expert(b, layer, role, e);
        if (!tensor) {
            bind_fail_missing(b, layer, role, "weight");
            return NO_WEIGHT;
        }
        if (!bind_shape_is(tensor, rows, cols) || (first && tensor->type != first->type)) {
            bind_fail_shape(b, tensor, rows, cols);
            return NO_WEIGHT;
        }
        first = first ? first : tensor;
        parts[e] = tensor->data;
    }
    return first ? bind_parts(b, first, WEIGHT_MATRIX, b->h.n_experts, rows, cols, parts)
                 : NO_WEIGHT;
}

int32_t build_experts_stack(struct build *b, int layer, const char *role, uint32_t rows,
                            uint32_t cols)
{
    const struct tensor *stacked = build_find(b, layer, role, "weight");
    if (stacked)
        return bind_stacked(b, stacked, b->h.n_experts, rows, 0, rows, cols);
    const struct tensor *both = build_find(b, layer, "ffn_gate_up_exps", "weight");
    bool gate = strcmp(role, "ffn_gate_exps") == 0, up = strcmp(role, "ffn_up_exps") == 0;
    if (both && (gate || up) && rows <= UINT32_MAX / 2)
        return bind_stacked(b, both, b->h.n_experts, 2 * rows, gate ? 0 : rows, rows, cols);
    return bind_single(b, layer, role, rows, cols);
}

int32_t build_stack_item(struct build *b, int layer, const char *role, uint32_t index,
                         uint32_t count, uint32_t rows, uint32_t cols)
{
    const struct tensor *stack = b->gguf ? build_find(b, layer, role, "weight") : NULL;
    const struct tensor *tensor = b->gguf ? stack : bind_find_expert(b, layer, role, index);
    uint64_t row_bytes;
    if (!tensor) {
        bind_fail_missing(b, layer, role, "weight");
        return NO_WEIGHT;
    }
    if (!(stack ? is_stack(tensor, count, rows, cols) : bind_shape_is(tensor, rows, cols)) ||
        !tensor_type_bytes(tensor->type, cols, &row_bytes)) {
        bind_fail_shape(b, tensor, rows, cols);
        return NO_WEIGHT;
    }
    const void *part = (const uint8_t *)tensor->data + (stack ? index : 0) * rows * row_bytes;
    return bind_parts(b, tensor, WEIGHT_MATRIX, 1, rows, cols, &part);
}

/* to[r][c] = from[c][first + r * step], elements of `size` bytes; from has `total` columns. */
static void transpose(const uint8_t *from, uint8_t *to, uint32_t size, uint32_t total,
                      uint32_t first, uint32_t step, uint32_t rows, uint32_t cols)
{
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < rows; r++)
            memcpy(to + ((size_t)r * cols + c) * size,
                   from + ((size_t)c * total + first + (size_t)r * step) * size, size);
}

/* Every step-th row of a tensor [n, rows * step, cols], from `first`; copied. */
static int32_t bind_every(struct build *b, const struct tensor *tensor, uint32_t first,
                          uint32_t step, uint32_t rows, uint32_t cols)
{
    uint32_t n = b->h.n_experts;
    uint64_t row_bytes;
    if (!is_stack(tensor, n, (uint64_t)rows * step, cols) ||
        !tensor_type_bytes(tensor->type, cols, &row_bytes)) {
        bind_fail_shape(b, tensor, rows * step, cols);
        return NO_WEIGHT;
    }
    uint8_t *copy = program_memory(b->program, (size_t)n * rows * row_bytes);
    const void **parts = new_parts(b);
    if (!copy || !parts)
        return NO_WEIGHT;
    for (uint32_t e = 0; e < n; e++) {
        parts[e] = copy + (size_t)e * rows * row_bytes;
        for (uint32_t r = 0; r < rows; r++)
            memcpy(copy + ((size_t)e * rows + r) * row_bytes,
                   (const uint8_t *)tensor->data +
                       ((size_t)e * rows * step + first + (size_t)r * step) * row_bytes,
                   row_bytes);
    }
    return bind_parts(b, tensor, WEIGHT_MATRIX, n, rows, cols, parts);
}

int32_t build_experts_columns(struct build *b, int layer, const char *role, uint32_t first,
                              uint32_t step, uint32_t rows, uint32_t cols)
{
    const struct tensor *tensor = build_find(b, layer, role, "weight");
    uint32_t n = b->h.n_experts;
    if (!tensor) {
        bind_fail_missing(b, layer, role, "weight");
        return NO_WEIGHT;
    }
    const struct tensor_type_info *type = tensor_type_info(tensor->type);
    if (type && type->block_elements > 1 && rows <= UINT32_MAX / step)
        return step == 1 ? bind_stacked(b, tensor, n, rows, 0, rows, cols)
                         : bind_every(b, tensor, first, step, rows, cols);
    if (!type || rows > UINT32_MAX / step || !is_stack(tensor, n, cols, (uint64_t)rows * step)) {
        bind_fail_shape(b, tensor, cols, rows * step);
        return NO_WEIGHT;
    }
    uint32_t size = type->block_bytes;
    size_t bytes = (size_t)rows * cols * size;
    uint8_t *copy = program_memory(b->program, n * bytes);
    const void **parts = new_parts(b);
    if (!copy || !parts)
        return NO_WEIGHT;
    for (uint32_t e = 0; e < n; e++) {
        transpose((const uint8_t *)tensor->data + e * bytes * step, copy + e * bytes, size,
                  rows * step, first, step, rows, cols);
        parts[e] = copy + e * bytes;
    }
    return bind_parts(b, tensor, WEIGHT_MATRIX, n, rows, cols, parts);
}

int32_t build_experts_bias(struct build *b, int layer, const char *role, uint32_t first,
                           uint32_t step, uint32_t n)
{
    if (!build_find(b, layer, role, "bias"))
        return NO_WEIGHT;
    uint32_t all = b->h.n_experts * n;
    if (n > UINT32_MAX / step / b->h.n_experts) {
        program_fail(b->program, STATUS_MODEL, "biases of %u experts of %u are out of range",
                     b->h.n_experts, n);
        return NO_WEIGHT;
    }
    const float *values = build_read(b, layer, role, "bias", all * step);
    float *picked = arena_alloc(&b->arena, all, sizeof *picked);
    if (!values || !picked)
        return NO_WEIGHT;
    for (uint32_t i = 0; i < all; i++)
        picked[i] = values[(size_t)i * step + first];
    return program_constant(b->program, role, picked, all);
}
