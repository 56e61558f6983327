/*
 * Where a conversion reads from: the tensors of a checkpoint under their GGUF names, and the
 * metadata that goes with them. A GGUF file is what it is; a folder is translated (source_hf.c).
 * Internal to convert/.
 */
#ifndef SLUICE_CONVERT_SOURCE_H
#define SLUICE_CONVERT_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "format/checkpoint.h"
#include "quant/mixture.h"

struct gguf_writer;
struct hf_source;

struct source_tensor {
    struct str name; /* as GGUF names it */
    uint32_t n_dims;
    uint64_t dims[TENSOR_DIMS_MAX]; /* outermost first */
    uint64_t n_rows, row_values;    /* row_values: the innermost dimension */
    enum tensor_type type;
    /* The rows in n_parts equal runs (the experts of a folder); else one part. */
    const void *const *parts;
    uint32_t n_parts;
    /* Not 0: rows of each head of so many rows are stored as two halves and wanted interleaved
     * (rope pairs; see source_hf.c). */
    uint32_t interleave;
};

struct source {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct source_tensor *tensors; /* in the arena */
    size_t n_tensors;
    struct mixture_model model;
    const struct hf_source *hf; /* of a folder */
    /* Writes all metadata but the file type. */
    enum status (*metadata)(const struct source *source, struct gguf_writer *writer,
                            struct error *err);
};

/* Into a zeroed struct; to be closed also after an error. */
enum status source_open(struct source *source, const char *path, struct error *err);
void source_close(struct source *source);
/* First byte of a row as it is wanted. */
const uint8_t *source_row(const struct source_tensor *tensor, uint64_t row);

/* source_hf.c: the same for an open folder. */
enum status source_from_hf(struct source *source, struct error *err);

#endif
