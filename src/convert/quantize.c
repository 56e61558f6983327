/*
 * The work list is the source's tensors; a piece is some rows. Rows that keep their type are copied
 * byte for byte.
 */
#include "convert/quantize.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "convert/importance.h"
#include "convert/source.h"
#include "convert/workers.h"
#include "format/gguf_writer.h"
#include "quant/mixture.h"

#define PIECE_VALUES (1u << 20) /* roughly; at least a row */

struct target {
    enum tensor_type type;
    uint64_t row_bytes;
    uint64_t rows_per_piece;
    bool weighted;
    float *moved; /* owned, [count, row_values]: weights in the order of moved columns; or NULL */
};

struct quantize {
    const struct quantize_options *options;
    const struct mixture *mixture;
    struct source source;
    struct importance *importance; /* NULL: none */
    struct gguf_writer *writer;
    struct target *targets;
    uint64_t longest_row; /* values */
    uint64_t values;
    struct quantize_report report;
};

/* Vectors and what a mixture leaves alone are float32, unless they are integers. */
static enum tensor_type plain_type(enum tensor_type type)
{
    return type == TENSOR_F16 || type == TENSOR_BF16 || type == TENSOR_F64 ? TENSOR_F32 : type;
}

static bool is_float(enum tensor_type type)
{
    return type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
}

/* Does the type's encoder make use of weights, and are there any? */
static enum status find_weights(struct quantize *q, size_t index, struct error *err)
{
    const struct source_tensor *t = &q->source.tensors[index];
    struct target *target = &q->targets[index];
    uint32_t count = 1;
    if (!q->importance || !tensor_type_info(target->type)->encode_weighted ||
        !importance_of(q->importance, t->stored, 0, t->row_values, &count) || t->n_rows % count)
        return STATUS_OK;
    target->weighted = true;
    q->report.n_weighted++;
    if (!t->columns)
        return STATUS_OK;
    target->moved = malloc(count * t->row_values * sizeof *target->moved);
    if (!target->moved)
        return error_set(err, STATUS_MEMORY, "out of memory for weights of columns");
    for (uint32_t p = 0; p < count; p++) {
        const float *means = importance_of(q->importance, t->stored, p, t->row_values, &count);
        for (uint64_t c = 0; c < t->row_values; c++)
            target->moved[p * t->row_values + c] = means[t->columns[c]];
    }
    return STATUS_OK;
}

/* [row_values] of a row's matrix; NULL: all alike. */
static const float *weights_of(const struct quantize *q, size_t index, uint64_t row)
{
    const struct source_tensor *t = &q->source.tensors[index];
    const struct target *target = &q->targets[index];
    uint32_t count = 1;
    if (!target->weighted)
        return NULL;
    importance_of(q->importance, t->stored, 0, t->row_values, &count);
    uint64_t part = row / (t->n_rows / count);
    return target->moved ? target->moved + part * t->row_values
                         : importance_of(q->importance, t->stored, part, t->row_values, &count);
}

static enum status choose(struct quantize *q, size_t index, struct error *err)
{
    const struct source_tensor *t = &q->source.tensors[index];
    const struct tensor_type_info *from = tensor_type_info(t->type);
    struct target *target = &q->targets[index];
    uint64_t bytes = 0;
    if (t->n_rows == 0 || t->row_values == 0 || t->n_parts == 0 || t->n_rows % t->n_parts)
        return error_set(err, STATUS_MODEL, "tensor %.*s is empty", STR_ARG(t->name));
    bool applies = from && from->decode && mixture_applies(t->name, t->n_dims, t->dims);
    target->type = applies ? mixture_type(q->mixture, &q->source.model, t->name, t->n_dims, t->dims)
                           : plain_type(t->type);
    bool copied = target->type == t->type && source_row(t, 0);
    if (!copied && !(from && from->decode && tensor_type_encodes(target->type)))
        return error_set(err, STATUS_UNSUPPORTED, "tensor %.*s: no conversion from %s to %s",
                         STR_ARG(t->name), tensor_type_name(t->type),
                         tensor_type_name(target->type));
    tensor_type_bytes(target->type, t->row_values, &target->row_bytes);
    target->rows_per_piece = t->row_values < PIECE_VALUES ? PIECE_VALUES / t->row_values : 1;
    if (t->row_values > q->longest_row)
        q->longest_row = t->row_values;
    tensor_type_bytes(t->type, t->row_values, &bytes);
    q->report.input_bytes += bytes * t->n_rows;
    q->report.output_bytes += target->row_bytes * t->n_rows;
    q->values += t->row_values * t->n_rows;
    q->report.n_encoded += applies && target->type != t->type;
    q->report.n_requantized += applies && target->type != t->type && !is_float(t->type);
    q->report.n_kept += !(applies && target->type != t->type);
    gguf_writer_tensor(q->writer, t->name, target->type, t->n_dims, t->dims);
    return copied ? STATUS_OK : find_weights(q, index, err);
}

static uint64_t piece_count(void *context, size_t index)
{
    const struct quantize *q = context;
    uint64_t rows = q->source.tensors[index].n_rows, each = q->targets[index].rows_per_piece;
    return (rows + each - 1) / each;
}

/* values: room for two rows. */
static void convert_row(struct quantize *q, size_t index, uint64_t row, float *values, uint8_t *out)
{
    const struct source_tensor *t = &q->source.tensors[index];
    const struct target *target = &q->targets[index];
    const uint8_t *from = source_row(t, row);
    if (from && t->type == target->type) {
        memcpy(out, from, target->row_bytes);
        return;
    }
    source_read(t, row, values + q->longest_row, values);
    tensor_type_encode(target->type, values, weights_of(q, index, row), out, t->row_values);
}

/* buffer: the floats of two rows, then the output rows. */
static enum status convert_piece(void *context, size_t index, uint64_t piece, uint8_t *buffer,
                                 uint64_t *done, struct error *err)
{
    struct quantize *q = context;
    const struct source_tensor *t = &q->source.tensors[index];
    const struct target *target = &q->targets[index];
    uint64_t first = piece * target->rows_per_piece, n = t->n_rows - first;
    if (n > target->rows_per_piece)
        n = target->rows_per_piece;
    uint8_t *out = buffer + 2 * q->longest_row * sizeof(float);
    for (uint64_t i = 0; i < n; i++)
        convert_row(q, index, first + i, (float *)(void *)buffer, out + i * target->row_bytes);
    *done = n * t->row_values;
    return gguf_writer_write(q->writer, index, first * target->row_bytes, out,
                             n * target->row_bytes, err);
}

static enum status convert_all(struct quantize *q, struct error *err)
{
    uint64_t rows = q->longest_row > PIECE_VALUES ? q->longest_row : PIECE_VALUES;
    const struct work work = {
        .context = q,
        .n_items = q->source.n_tensors,
        .pieces = piece_count,
        .run = convert_piece,
        .buffer_bytes = 2 * (q->longest_row + rows) * sizeof(float), /* no type has over 8 bytes */
        .total = q->values,
        .what = "quantizing",
        .progress = q->options->progress,
        .progress_context = q->options->progress_context,
    };
    enum status status = workers_run(&work, q->options->n_threads, err);
    if (status == STATUS_OK && checkpoint_damaged(q->source.checkpoint))
        return error_set(err, STATUS_MODEL, "%s: was cut short while it was read",
                         q->options->input);
    return status;
}

/* The text first: its errors should not wait for the model's conversion. */
static enum status calibrate(struct quantize *q, struct error *err)
{
    const struct quantize_options *o = q->options;
    struct importance_report report = {0};
    const struct importance_options options = {.model = o->input,
                                               .text = o->importance,
                                               .n_threads = o->n_threads,
                                               .progress = o->progress,
                                               .progress_context = o->progress_context};
    if (!o->importance)
        return STATUS_OK;
    enum status status = importance_measure(&options, &q->importance, &report, err);
    q->report.n_calibrated = report.n_tokens;
    q->report.calibration_perplexity = report.perplexity;
    return status;
}

static enum status run(struct quantize *q, struct error *err)
{
    enum status status = source_open(&q->source, q->options->input, err);
    if (status == STATUS_OK)
        status = calibrate(q, err);
    if (status != STATUS_OK)
        return status;
    q->targets = arena_alloc(&q->source.arena, q->source.n_tensors + 1, sizeof *q->targets);
    if (!q->targets)
        return error_set(err, STATUS_MEMORY, "out of memory");
    status = gguf_writer_open(q->options->output, &q->writer, err);
    if (status != STATUS_OK)
        return status;
    status = q->source.metadata(&q->source, q->writer, err);
    gguf_writer_u32(q->writer, "general.file_type", mixture_file_type(q->mixture));
    gguf_writer_u32(q->writer, "general.quantization_version", 2);
    for (size_t i = 0; i < q->source.n_tensors && status == STATUS_OK; i++)
        status = choose(q, i, err);
    if (status == STATUS_OK)
        status = gguf_writer_begin(q->writer, err);
    if (status == STATUS_OK)
        status = convert_all(q, err);
    if (status == STATUS_OK)
        status = gguf_writer_finish(q->writer, err);
    return status;
}

enum status quantize_model(const struct quantize_options *options, struct quantize_report *out,
                           struct error *err)
{
    const struct mixture *mixture = mixture_from_name(str_from(options->type));
    uint64_t start = clock_now_ns();
    if (!mixture)
        return mixture_unknown(options->type, err);
    if (strcmp(options->input, options->output) == 0)
        return error_set(err, STATUS_USAGE, "%s: is the input as well", options->output);
    if (file_is_directory(options->output))
        return error_set(err, STATUS_USAGE, "%s: is a folder, the output is one .gguf file",
                         options->output);
    struct quantize *q = calloc(1, sizeof *q);
    if (!q)
        return error_set(err, STATUS_MEMORY, "out of memory");
    q->options = options;
    q->mixture = mixture;
    enum status status = run(q, err);
    q->report.seconds = (double)(clock_now_ns() - start) / 1e9;
    if (out)
        *out = q->report;
    for (size_t i = 0; q->targets && i < q->source.n_tensors; i++)
        free(q->targets[i].moved);
    importance_free(q->importance);
    gguf_writer_free(q->writer);
    source_close(&q->source);
    free(q);
    return status;
}
