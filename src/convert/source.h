/*
 * Where a conversion reads from: the tensors of a checkpoint under their GGUF names, and the
 * metadata that goes with them. A GGUF file is what it is; a folder is translated (source_hf.c).
 * Internal to convert/.
 *
 * A tensor is a recipe: which stored values make up its rows, and what is done to them. Nothing is
 * copied until a row is read.
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

enum source_map { MAP_NONE, MAP_NEGATIVE_EXP /* -exp(x) */ };

struct source_tensor {
    struct str name;   /* as GGUF names it */
    struct str stored; /* as the checkpoint does; of experts, the first one's */
    uint32_t n_dims;
    uint64_t dims[TENSOR_DIMS_MAX]; /* outermost first */
    uint64_t n_rows, row_values;    /* row_values: the innermost dimension */
    enum tensor_type type;          /* of what is stored */
    /* The rows in n_parts equal runs (experts, heads); else one part. */
    const void *const *parts;
    uint32_t n_parts;
    /* [n_rows / n_parts] and [row_values]: which stored row and column of a part; NULL: the same. */
    const uint32_t *rows, *columns;
    /* Not 0: a part is stored with rows as columns, so many values in a stored row. */
    uint64_t turned;
    const float *scales; /* [n_rows / n_parts] factors of rows; NULL: 1 */
    float add;           /* to every value */
    enum source_map map;
};

struct source {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct source_tensor *tensors; /* in the arena */
    size_t n_tensors;
    uint32_t n_skipped; /* stored tensors that no part of the text model needs */
    struct mixture_model model;
    struct hf_source *hf; /* of a folder */
    /* Writes all metadata but the file type. */
    enum status (*metadata)(const struct source *source, struct gguf_writer *writer,
                            struct error *err);
};

/* Into a zeroed struct; to be closed also after an error. */
enum status source_open(struct source *source, const char *path, struct error *err);
void source_close(struct source *source);
/* The bytes of a row where it is stored as it is wanted; NULL where values have to be made. */
const uint8_t *source_row(const struct source_tensor *tensor, uint64_t row);
/* The values of a row as floats; scratch: [row_values]. */
void source_read(const struct source_tensor *tensor, uint64_t row, float *scratch, float *out);

/* source_hf.c: the same for an open folder. */
enum status source_from_hf(struct source *source, struct error *err);

#endif
