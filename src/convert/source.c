/* Sources: what both kinds share, and GGUF. */
#include "convert/source.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"
#include "format/gguf_writer.h"

static enum status gguf_metadata(const struct source *source, struct gguf_writer *writer,
                                 struct error *err)
{
    static const char *const own[] = {"general.file_type", "general.quantization_version",
                                      "general.alignment", "split.no",
                                      "split.count",       "split.tensors.count"};
    const struct gguf *gguf = checkpoint_gguf(source->checkpoint);
    (void)err;
    for (size_t i = 0; i < gguf_value_count(gguf); i++) {
        const struct gguf_value *value = gguf_value_at(gguf, i);
        bool skip = false;
        for (size_t j = 0; j < sizeof own / sizeof *own; j++)
            skip |= str_eq_cstr(value->key, own[j]);
        if (!skip)
            gguf_writer_copy(writer, value);
    }
    return STATUS_OK;
}

static bool read_u32(const struct gguf *gguf, struct str architecture, const char *key,
                     uint32_t *out)
{
    char name[160];
    uint64_t value;
    snprintf(name, sizeof name, "%.*s.%s", (int)(architecture.len < 64 ? architecture.len : 64),
             architecture.data, key);
    if (!gguf_get_u64(gguf, name, &value) || value > UINT32_MAX)
        return false;
    *out = (uint32_t)value;
    return true;
}

static void read_model(struct source *source)
{
    const struct gguf *gguf = checkpoint_gguf(source->checkpoint);
    struct mixture_model *m = &source->model;
    struct str architecture = {"", 0};
    uint32_t heads = 0, kv_heads = 0;
    gguf_get_str(gguf, "general.architecture", &architecture);
    read_u32(gguf, architecture, "block_count", &m->n_layers);
    read_u32(gguf, architecture, "expert_count", &m->n_experts);
    if (read_u32(gguf, architecture, "attention.head_count", &heads) &&
        read_u32(gguf, architecture, "attention.head_count_kv", &kv_heads) && kv_heads)
        m->heads_per_kv = heads / kv_heads;
    m->tied = !checkpoint_tensor(source->checkpoint, "output.weight");
}

static enum status from_gguf(struct source *source, struct error *err)
{
    size_t n = checkpoint_tensor_count(source->checkpoint);
    source->tensors = arena_alloc(&source->arena, n ? n : 1, sizeof *source->tensors);
    const void **parts = arena_alloc(&source->arena, n ? n : 1, sizeof *parts);
    if (!source->tensors || !parts)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = checkpoint_tensor_at(source->checkpoint, i);
        struct source_tensor *s = &source->tensors[source->n_tensors++];
        parts[i] = t->data;
        *s = (struct source_tensor){.name = t->name,
                                    .stored = t->name,
                                    .n_dims = t->n_dims,
                                    .n_rows = 1,
                                    .row_values = t->n_dims ? t->dims[t->n_dims - 1] : 1,
                                    .type = t->type,
                                    .parts = &parts[i],
                                    .n_parts = 1};
        memcpy(s->dims, t->dims, sizeof s->dims);
        for (uint32_t d = 0; d + 1 < t->n_dims; d++)
            s->n_rows *= t->dims[d];
    }
    read_model(source);
    source->metadata = gguf_metadata;
    return STATUS_OK;
}

enum status source_open(struct source *source, const char *path, struct error *err)
{
    arena_init(&source->arena, 0);
    enum status status = checkpoint_open(path, &source->checkpoint, err);
    if (status != STATUS_OK)
        return status;
    return checkpoint_kind(source->checkpoint) == CHECKPOINT_GGUF ? from_gguf(source, err)
                                                                  : source_from_hf(source, err);
}

void source_close(struct source *source)
{
    checkpoint_close(source->checkpoint);
    arena_release(&source->arena);
    *source = (struct source){0};
}

#define BLOCK_MAX 256 /* values of the largest block */

/* ---- rows -------------------------------------------------------------------------------------- */

/* The part of a row, and the row's number in it. */
static const uint8_t *part_of(const struct source_tensor *t, uint64_t *row)
{
    uint64_t per_part = t->n_rows / t->n_parts;
    const uint8_t *part = t->parts[*row / per_part];
    *row %= per_part;
    return part;
}

static uint64_t stored_row(const struct source_tensor *t, uint64_t row)
{
    return t->rows ? t->rows[row] : row;
}

const uint8_t *source_row(const struct source_tensor *t, uint64_t row)
{
    uint64_t row_bytes = 0;
    if (t->columns || t->turned || t->scales || t->add != 0.0f || t->map != MAP_NONE)
        return NULL;
    const uint8_t *part = part_of(t, &row);
    tensor_type_bytes(t->type, t->row_values, &row_bytes);
    return part + stored_row(t, row) * row_bytes;
}

/* Value `at` of every stored row: one block is decoded for each. */
static void read_turned(const struct source_tensor *t, const uint8_t *part, uint64_t at, float *out)
{
    const struct tensor_type_info *info = tensor_type_info(t->type);
    uint64_t row_bytes = 0;
    float block[BLOCK_MAX];
    tensor_type_bytes(t->type, t->turned, &row_bytes);
    part += at / info->block_elements * info->block_bytes;
    for (uint64_t c = 0; c < t->row_values; c++, part += row_bytes) {
        info->decode(part, block, info->block_elements);
        out[c] = block[at % info->block_elements];
    }
}

void source_read(const struct source_tensor *t, uint64_t row, float *scratch, float *out)
{
    const struct tensor_type_info *info = tensor_type_info(t->type);
    const uint8_t *part = part_of(t, &row);
    uint64_t at = stored_row(t, row), row_bytes = 0;
    float *values = t->columns ? scratch : out;
    if (t->turned) {
        read_turned(t, part, at, values);
    } else {
        tensor_type_bytes(t->type, t->row_values, &row_bytes);
        info->decode(part + at * row_bytes, values, t->row_values);
    }
    for (uint64_t c = 0; t->columns && c < t->row_values; c++)
        out[c] = scratch[t->columns[c]];
    for (uint64_t c = 0; t->scales && c < t->row_values; c++)
        out[c] *= t->scales[row];
    for (uint64_t c = 0; t->add != 0.0f && c < t->row_values; c++)
        out[c] += t->add;
    for (uint64_t c = 0; t->map == MAP_NEGATIVE_EXP && c < t->row_values; c++)
        out[c] = -expf(out[c]);
}
