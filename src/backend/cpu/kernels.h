/*
 * Kernels: the inner loops of the CPU backend, as tables by element type.
 *
 * A kernel set is what one translation unit (one instruction set, its own compiler flags) offers.
 * kernels.c orders the sets that this machine can run; the first one that has an entry for a type
 * wins, and the portable set has them all. So a faster kernel is a new entry in a new set, tested
 * against the portable twin and ref/, and nothing else changes.
 *
 * The promise that every kernel keeps: an output element is a reduction whose order depends on
 * n_cols only, never on how many rows or columns one call covers. Kernels are pure functions; any thread.
 */
#ifndef SLUICE_BACKEND_CPU_KERNELS_H
#define SLUICE_BACKEND_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/packed.h"
#include "quant/tensor_type.h"

/* Most weight rows and activation rows of one call: a tile of results that fits the L1 cache
 * beside its inputs. A weight row is decoded once per call, so activation rows share that work. */
#define KERNEL_ROWS PANEL_ROWS
#define KERNEL_X    ACT_ROWS_MAX

#define KERNEL_PANELS 8  /* that a kernel of prompt rows takes at once */
#define PROMPT_ROWS   16 /* of a tile: fewer take a kernel of prompt rows as long */

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

/* A matrix packed as packed.h says, times rows of activations in the form the kernel asks for. All
 * sets compute the bits of the scalar twin, whatever rows->n. */
struct packed_kernel {
    const char *name; /* "avx2 q4_K x i8" */
    enum tensor_type type;
    enum act_form form;
    /* out[m * PANEL_ROWS + r] = row r of the panel . x[m]; out: rows->n * PANEL_ROWS floats, aligned
     * to 32 bytes. */
    void (*dots)(const uint8_t *panel, uint32_t n_cols, const struct act_rows *rows, float *out);
};

/* The same bits for two panels that meet the same rows, where reading the rows once for both is
 * worth it. */
typedef void dots_two(const uint8_t *const panels[2], uint32_t n_cols, const struct act_rows *rows,
                      float *const out[2]);
struct two_kernel {
    enum tensor_type type; /* of the set's packed kernel that it equals */
    dots_two *dots;
};

/* The same bits for 1..KERNEL_PANELS panels that meet the same rows: these pass once for all panels,
 * block of columns by block. out[i]: as of dots, for panels[i]. */
typedef void dots_many(const uint8_t *const *panels, uint32_t n_panels, uint32_t n_cols,
                       const struct act_rows *rows, float *const *out);
struct many_kernel {
    enum tensor_type type; /* of the set's prompt kernel that it equals */
    dots_many *dots;
};

/* What the scales of weights are multiplied with that become bfloat16 by cutting off the lower half
 * of a float, which on average loses that much. */
#define PROMPT_SCALE (1.0f + 0.0027f)

struct tile_attention;

struct kernel_set {
    const char *name; /* "portable" */
    const struct weight_kernel *weights;
    uint32_t n_weights;
    const struct packed_kernel *packed;
    uint32_t n_packed;
    /* Products of prompt rows where the set computes them in a numeric class of their own: other bits
     * than `packed` gives, and the same for any number of rows. */
    const struct packed_kernel *prompt;
    uint32_t n_prompt;
    const struct many_kernel *many; /* of prompt kernels */
    uint32_t n_many;
    const struct tile_attention *attention; /* of prompt rows, as a class of its own; NULL: none */
    const struct two_kernel *two;           /* of packed kernels */
    uint32_t n_two;
    /* One block of activations: act_quantise_scalar(), faster; NULL in sets without packed kernels. */
    act_quantise *quantise;
    bool (*usable)(void);    /* on this machine; NULL: always */
    bool (*preferred)(void); /* where usable, to the sets behind it; NULL: always */
    void (*rest)(void); /* the calling thread has nothing to do for a while; NULL: nothing to say */
};

/* Baseline C for any machine; never fails to have what the backend supports. */
extern const struct kernel_set kernel_set_portable;
/* Twins of the packed kernels: for tests and comparison, never chosen. */
extern const struct kernel_set kernel_set_scalar;
/* What says which bits a kernel computes, of prompt rows or of others: one of kernel_set_scalar. */
const struct packed_kernel *kernel_twin(const struct packed_kernel *kernel);
/* Where compiled in (cmake/kernels.cmake). */
extern const struct kernel_set kernel_set_avx2;
extern const struct kernel_set kernel_set_avx512;
extern const struct kernel_set kernel_set_avx512_bf16;
extern const struct kernel_set kernel_set_amx;
act_quantise avx2_quantise;
/* x86_usable.c. That of AMX also asks the system for the tile registers, once for all threads. */
bool x86_avx2_usable(void), x86_avx512_usable(void), x86_amx_usable(void);
bool x86_avx512_bf16_usable(void), x86_avx512_bf16_preferred(void);

/* Best kernel on this machine; NULL where no set has the type. */
const struct weight_kernel *kernel_for_weights(enum tensor_type type);
/* For a packed matrix; NULL where this machine computes on the rows as they are in the file. */
const struct packed_kernel *kernel_for_packed(enum tensor_type type);
/* For prompt rows times a packed matrix; NULL where they are computed as all other rows. */
const struct packed_kernel *kernel_for_prompt(enum tensor_type type);
/* For attention of prompt rows; NULL where it is computed as that of all other rows. */
const struct tile_attention *kernel_for_prompt_attention(void);
/* For tests: what both answer is of this set, whatever the machine; NULL: of the machine's again. Only
 * while no backend is open. */
void kernels_set_prompt(const struct kernel_set *set);
/* Of the set that the kernel is from; NULL: one panel after the other is as good. */
dots_two *kernel_for_two(const struct packed_kernel *kernel);
/* Of the set that the prompt kernel is from; NULL: one panel after the other is as good. */
dots_many *kernel_for_many(const struct packed_kernel *kernel);
/* The fastest act_quantise_scalar() here. */
act_quantise *kernel_for_activations(void);
/* A thread that has used kernels calls this before it waits for more work than the next barrier. */
void kernels_rest(void);
/* The i-th set compiled in, best first, usable or not; NULL past the end. */
const struct kernel_set *kernel_set_at(uint32_t index);
/* Name of the best set that this machine runs. */
const char *kernel_set_name(void);

#endif
