/*
 * Kernels: the inner loops of the CPU backend, as tables by element type.
 *
 * A kernel set is what one translation unit (one instruction set, its own compiler flags) offers.
 * kernels.c orders the sets that this machine can run; the first one that has an entry for a type
 * wins, and the portable set has them all. So a faster kernel is a new entry in a new set, tested
 * against the portable twin and ref/, and nothing else changes.
 *
 * The promise that every kernel keeps: an output element is a reduction whose order depends on
 * n_cols (or on the head dimension and position) only, never on how many rows, columns or tokens
 * one call covers. Kernels are pure functions; any thread.
 */
#ifndef SLUICE_BACKEND_CPU_KERNELS_H
#define SLUICE_BACKEND_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "quant/tensor_type.h"

/* Most weight rows and activation rows of one call: a tile of results that fits the L1 cache
 * beside its inputs. A weight row is decoded once per call, so activation rows share that work. */
#define KERNEL_ROWS 16
#define KERNEL_X    32

/* Some rows of a matrix in its element type, row_bytes apart. Any byte alignment. */
struct kernel_rows {
    const uint8_t *bytes; /* first byte of the first row */
    uint64_t row_bytes;
    uint32_t n_cols;
    uint32_t n_rows; /* 1..KERNEL_ROWS */
};

struct weight_kernel {
    const char *name; /* "portable q8_0 x f32" */
    enum tensor_type type;
    /* out[m * KERNEL_ROWS + r] = rows[r] . x[m], for r < rows->n_rows, m < n_x (1..KERNEL_X);
     * x[m]: n_cols floats. */
    void (*dots)(const struct kernel_rows *rows, const float *const *x, uint32_t n_x, float *out);
    /* One row as floats: exactly the values that quant/ decodes. */
    void (*decode)(const uint8_t *row, uint32_t n_cols, float *out);
};

/* Keys and values of one head in a page: n tokens of dim elements, contiguous. */
struct kv_kernel {
    const char *name; /* "portable f16 keys and values" */
    enum tensor_type type;
    void (*encode)(const float *values, void *out, uint32_t dim);
    /* out[t] = q . keys[t] */
    void (*scores)(const float *q, const void *keys, uint32_t n, uint32_t dim, float *out);
    /* sum[i] += weights[t] * values[t][i], t ascending */
    void (*mix)(const float *weights, const void *values, uint32_t n, uint32_t dim, float *sum);
};

struct kernel_set {
    const char *name; /* "portable" */
    const struct weight_kernel *weights;
    uint32_t n_weights;
    const struct kv_kernel *kv;
    uint32_t n_kv;
};

/* Baseline C for any machine; never fails to have what the backend supports. */
extern const struct kernel_set kernel_set_portable;

/* Best kernel on this machine; NULL where no set has the type. */
const struct weight_kernel *kernel_for_weights(enum tensor_type type);
const struct kv_kernel *kernel_for_kv(enum tensor_type type);
/* Name of the best set that this machine runs. */
const char *kernel_set_name(void);

#endif
