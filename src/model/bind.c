/* Finding tensors by role, and checking their shapes before they become weights. */
#include <stdio.h>
#include <string.h>

#include "model/bind.h"
#include "model/names.h"

#define NAME_MAX_BYTES 256

/* prefix, layer, part and suffix as checkpoints join them: "part.weight"; "part" alone for tensors
 * that are a module's own parameters; "part_bias" beside those. */
static const struct tensor *find_joined(struct build *b, const char *prefix, int layer,
                                        const char *part, const char *suffix)
{
    char front[NAME_MAX_BYTES], name[2 * NAME_MAX_BYTES];
    if (layer >= 0)
        snprintf(front, sizeof front, "%s%d.", prefix, layer);
    else
        snprintf(front, sizeof front, "%s", prefix);
    snprintf(name, sizeof name, "%s%s.%s", front, part, suffix);
    const struct tensor *tensor = checkpoint_tensor(b->checkpoint, name);
    if (tensor)
        return tensor;
    bool bare = strcmp(suffix, "weight") == 0;
    snprintf(name, sizeof name, "%s%s%s%s", front, part, bare ? "" : "_", bare ? "" : suffix);
    return checkpoint_tensor(b->checkpoint, name);
}

/* The role's name below the prefix and layer; its pattern may have a place for an expert's number. */
static const struct tensor *find_pattern(struct build *b, int layer, const char *pattern,
                                         int64_t expert, const char *suffix)
{
    char prefix[NAME_MAX_BYTES], part[NAME_MAX_BYTES];
    const char *number = strstr(pattern, "%u");
    if (number ? expert < 0 && number[2] != '.' : expert >= 0)
        return NULL;
    if (number && expert < 0) /* all experts in one: the same name without a number */
        snprintf(part, sizeof part, "%.*s%s", (int)(number - pattern), pattern, number + 3);
    else if (number)
        snprintf(part, sizeof part, "%.*s%u%s", (int)(number - pattern), pattern, (unsigned)expert,
                 number + 2);
    else
        snprintf(part, sizeof part, "%s", pattern);
    for (size_t i = 0; hf_prefixes[i]; i++) {
        snprintf(prefix, sizeof prefix, "%s%s%s", hf_prefixes[i],
                 layer >= 0 ? hf_name(b->hf_names, "layers") : "", layer >= 0 ? "." : "");
        const struct tensor *tensor = find_joined(b, prefix, layer, part, suffix);
        if (tensor)
            return tensor;
    }
    return NULL;
}

static const struct tensor *find_hf(struct build *b, int layer, const char *role, int64_t expert,
                                    const char *suffix)
{
    char other[NAME_MAX_BYTES];
    const char *pattern = hf_name(b->hf_names, role);
    const struct tensor *tensor = find_pattern(b, layer, pattern, expert, suffix);
    if (!tensor && expert < 0 && hf_switch_name(role, pattern, other, sizeof other))
        tensor = find_pattern(b, layer, other, expert, suffix);
    return tensor;
}

const struct tensor *build_find(struct build *b, int layer, const char *role, const char *suffix)
{
    if (!b->gguf) {
        const struct tensor *tensor = find_hf(b, layer, role, -1, suffix);
        /* Some writers keep tied tables under the other name. */
        if (!tensor && strcmp(role, "token_embd") == 0 &&
            build_bool(b, NULL, "tie_word_embeddings", false))
            tensor = find_hf(b, layer, "output", -1, suffix);
        return tensor;
    }
    return find_joined(b, layer >= 0 ? "blk." : "", layer, role, suffix);
}

bool build_exists(struct build *b, int layer, const char *role)
{
    return build_find(b, layer, role, "weight") != NULL;
}

void bind_fail_missing(struct build *b, int layer, const char *role, const char *suffix)
{
    if (layer >= 0)
        program_fail(b->program, STATUS_MODEL, "tensor %s.%s of layer %d is missing",
                     b->gguf ? role : hf_name(b->hf_names, role), suffix, layer);
    else
        program_fail(b->program, STATUS_MODEL, "tensor %s.%s is missing",
                     b->gguf ? role : hf_name(b->hf_names, role), suffix);
}

/* Dimensions without leading and inner ones of size 1 ([64,1,3] is [64,3]). */
static uint32_t squeeze(const struct tensor *tensor, uint64_t dims[TENSOR_DIMS_MAX])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (tensor->dims[i] != 1)
            dims[n++] = tensor->dims[i];
    return n;
}

bool bind_shape_is(const struct tensor *tensor, uint64_t rows, uint64_t cols)
{
    uint64_t dims[TENSOR_DIMS_MAX], wanted[2];
    uint32_t n = squeeze(tensor, dims), m = 0;
    if (rows != 1)
        wanted[m++] = rows;
    if (cols != 1)
        wanted[m++] = cols;
    return n == m && memcmp(dims, wanted, m * sizeof *dims) == 0;
}

void bind_fail_shape(struct build *b, const struct tensor *t, uint32_t rows, uint32_t cols)
{
    char found[128] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < t->n_dims && used < sizeof found; i++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%llu", i ? "," : "",
                                 (unsigned long long)t->dims[i]);
    program_fail(b->program, STATUS_MODEL, "tensor %.*s is [%s], expected [%u,%u]",
                 STR_ARG(t->name), found, rows, cols);
}

int32_t bind_parts(struct build *b, const struct tensor *tensor, enum weight_role role,
                   uint32_t count, uint32_t rows, uint32_t cols, const void *const *parts)
{
    const struct tensor_type_info *type = tensor_type_info(tensor->type);
    if (!type || !type->decode) {
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "tensor %.*s has type %s, which sluice cannot run yet", STR_ARG(tensor->name),
                     tensor_type_name(tensor->type));
        return NO_WEIGHT;
    }
    struct weight weight = {
        .name = arena_copy_str(&b->arena, tensor->name).data,
        .role = role,
        .type = tensor->type,
        .count = count,
        .n_rows = rows,
        .n_cols = cols,
        .parts = parts,
    };
    if (!weight.name) {
        program_fail(b->program, STATUS_MEMORY, "out of memory while binding tensors");
        return NO_WEIGHT;
    }
    return program_weight(b->program, &weight);
}

static int32_t bind(struct build *b, int layer, const char *role, const char *suffix,
                    enum weight_role kind, uint32_t rows, uint32_t cols)
{
    const struct tensor *tensor = build_find(b, layer, role, suffix);
    if (!tensor) {
        bind_fail_missing(b, layer, role, suffix);
        return NO_WEIGHT;
    }
    if (!bind_shape_is(tensor, rows, cols)) {
        bind_fail_shape(b, tensor, rows, cols);
        return NO_WEIGHT;
    }
    const void *part = tensor->data;
    return bind_parts(b, tensor, kind, 1, rows, cols, &part);
}

int32_t build_weight(struct build *b, int layer, const char *role, uint32_t rows, uint32_t cols)
{
    return bind(b, layer, role, "weight", WEIGHT_MATRIX, rows, cols);
}

int32_t build_table(struct build *b, const char *role, uint32_t rows, uint32_t cols)
{
    return bind(b, -1, role, "weight", WEIGHT_TABLE, rows, cols);
}

int32_t build_vector(struct build *b, int layer, const char *role, uint32_t n)
{
    return bind(b, layer, role, "weight", WEIGHT_VECTOR, 1, n);
}

int32_t build_bias(struct build *b, int layer, const char *role, uint32_t n)
{
    if (!build_find(b, layer, role, "bias"))
        return NO_WEIGHT;
    return bind(b, layer, role, "bias", WEIGHT_VECTOR, 1, n);
}

int32_t build_weight_rows(struct build *b, int layer, const char *role, uint32_t total,
                          uint32_t first, uint32_t rows, uint32_t cols)
{
    const struct tensor *tensor = build_find(b, layer, role, "weight");
    if (!tensor) {
        bind_fail_missing(b, layer, role, "weight");
        return NO_WEIGHT;
    }
    uint64_t row_bytes;
    if (!bind_shape_is(tensor, total, cols) || first > total || rows > total - first ||
        !tensor_type_bytes(tensor->type, cols, &row_bytes)) {
        bind_fail_shape(b, tensor, total, cols);
        return NO_WEIGHT;
    }
    const void *part = (const uint8_t *)tensor->data + first * row_bytes;
    return bind_parts(b, tensor, WEIGHT_MATRIX, 1, rows, cols, &part);
}

int32_t build_bias_rows(struct build *b, int layer, const char *role, uint32_t total,
                        uint32_t first, uint32_t n)
{
    const struct tensor *tensor = build_find(b, layer, role, "bias");
    if (!tensor)
        return NO_WEIGHT;
    const struct tensor_type_info *type = tensor_type_info(tensor->type);
    if (!bind_shape_is(tensor, 1, total) || first > total || n > total - first || !type ||
        type->block_elements != 1) {
        bind_fail_shape(b, tensor, 1, total);
        return NO_WEIGHT;
    }
    const void *part = (const uint8_t *)tensor->data + (size_t)first * type->block_bytes;
    return bind_parts(b, tensor, WEIGHT_VECTOR, 1, 1, n, &part);
}

int32_t build_weight_transposed(struct build *b, int layer, const char *role, uint32_t rows,
                                uint32_t cols)
{
    const struct tensor *tensor = build_find(b, layer, role, "weight");
    if (!tensor) {
        bind_fail_missing(b, layer, role, "weight");
        return NO_WEIGHT;
    }
    const struct tensor_type_info *type = tensor_type_info(tensor->type);
    if (!bind_shape_is(tensor, cols, rows) || !type || type->block_elements != 1) {
        bind_fail_shape(b, tensor, cols, rows);
        return NO_WEIGHT;
    }
    size_t size = type->block_bytes;
    char *turned = program_memory(b->program, (size_t)rows * cols * size);
    if (!turned)
        return NO_WEIGHT;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(turned + (r * cols + c) * size,
                   (const char *)tensor->data + (c * rows + r) * size, size);
    const void *part = turned;
    return bind_parts(b, tensor, WEIGHT_MATRIX, 1, rows, cols, &part);
}

const struct tensor *bind_find_expert(struct build *b, int layer, const char *role, uint32_t expert)
{
    return b->gguf ? NULL : find_hf(b, layer, role, expert, "weight");
}

float *build_read(struct build *b, int layer, const char *role, const char *suffix, uint32_t n)
{
    const struct tensor *tensor = build_find(b, layer, role, suffix);
    float *values = arena_alloc(&b->arena, n, sizeof *values);
    uint64_t elements = 1;
    for (uint32_t i = 0; tensor && i < tensor->n_dims; i++)
        elements *= tensor->dims[i];
    const struct tensor_type_info *type = tensor ? tensor_type_info(tensor->type) : NULL;
    if (!values)
        program_fail(b->program, STATUS_MEMORY, "out of memory while binding tensors");
    else if (!tensor)
        bind_fail_missing(b, layer, role, suffix);
    else if (elements != n || !type || !type->decode || n % type->block_elements)
        bind_fail_shape(b, tensor, 1, n);
    else
        type->decode(tensor->data, values, n);
    return values;
}

int32_t build_values(struct build *b, int layer, const char *role, const char *suffix, uint32_t n)
{
    const float *values = build_read(b, layer, role, suffix, n);
    return values ? program_constant(b->program, role, values, n) : NO_WEIGHT;
}
