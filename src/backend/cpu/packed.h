/*
 * Packed matrices and quantised activations: the layouts that all fast kernels of a processor share.
 *
 * A matrix is cut into panels of PANEL_ROWS rows. Within a panel the blocks of its rows lie side by
 * side, as 32-bit words: word w of a block, of all 16 rows, then word w + 1:
 *
 *     block of 16 rows:  [word 0: row 0 .. row 15][word 1: row 0 .. row 15] ... [odd bytes: 16 rows]
 *
 * so a word of a row meets four (or eight, or two) columns, and one vector holds the same columns of
 * 8 or 16 rows: a dot product needs no sum across lanes. Blocks whose size is no multiple of four
 * have a float16 or a byte apart, which follows the words. No bit is added or lost: a packed matrix
 * has the bytes of the file's, with rows rounded up to whole panels by zeros, and a row can be taken
 * out again (embedding tables that are also output matrices). The words are also what AMX tiles and
 * VNNI instructions want, so there is one layout for all of them. Rejected: layouts per instruction
 * set with widened scales (2 to 6 % more bytes to read for nothing). Panels are kept in files
 * (sidecar.h): any change of what is in one raises SIDECAR_VERSION.
 *
 * Activations are quantised per row, in blocks of 256 columns, with one scale per 256 (K-quants: the
 * weights' scales are integers within 256 columns, so is the whole sum) or per 32 columns (the simple
 * formats). scale = largest magnitude / 127; a column is round-to-even(x / scale). A block without
 * finite values gets the scale NaN, and so does the result. Sums of columns serve the weights'
 * minima and offsets. Where the processor multiplies bfloat16, matrices of it meet activations rounded
 * to the same, and prompt rows are rounded to it for all types. Blocks are ordered [block][row]: a kernel walks all rows of a block.
 */
#ifndef SLUICE_BACKEND_CPU_PACKED_H
#define SLUICE_BACKEND_CPU_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/tensor_type.h"

#define PANEL_ROWS  16
#define ACT_COLUMNS 256 /* of an activation block */
#define ACT_ROWS_MAX                                                                               \
    192 /* activation rows of one kernel call: unpacking a panel pays for all of them */

struct packed_layout {
    enum tensor_type type;
    uint32_t block_columns; /* that a word group repeats after */
    uint32_t block_bytes;   /* of one row; a block of a panel has PANEL_ROWS times that */
    uint32_t head, tail;    /* bytes before and after the words; one of them is 0, both at most 2 */
};

/* NULL for types that are not packed. */
const struct packed_layout *packed_layout(enum tensor_type type);

static inline uint64_t packed_panel_bytes(const struct packed_layout *layout, uint32_t n_cols)
{
    return (uint64_t)(n_cols / layout->block_columns) * layout->block_bytes * PANEL_ROWS;
}

/* n_rows (1..PANEL_ROWS) rows, row_bytes apart, into one panel. */
void packed_write(const struct packed_layout *layout, const uint8_t *rows, uint64_t row_bytes,
                  uint32_t n_rows, uint32_t n_cols, uint8_t *panel);
/* Block `block` of a row of the panel, as it was in the file; out: [block_bytes]. */
void packed_read_block(const struct packed_layout *layout, const uint8_t *panel, uint32_t row,
                       uint32_t block, uint8_t *out);
/* One row as floats. */
void packed_read_row(const struct packed_layout *layout, const uint8_t *panel, uint32_t row,
                     uint32_t n_cols, float *out);

/* ---- activations ------------------------------------------------------------------------------- */

enum act_form {
    ACT_FLOAT,      /* float32 rows as they are */
    ACT_I8_256,     /* struct act_256 */
    ACT_I8_32,      /* struct act_32 */
    ACT_I16_256,    /* struct act_wide_256: the same integers as ACT_I8_256 */
    ACT_I16_32,     /* struct act_wide_32 */
    ACT_BF16,       /* struct act_bf16 */
    ACT_BF16_PAIRS, /* struct act_bf16_pairs */
    ACT_BF16_TILES, /* struct act_bf16_tiles */
    ACT_FORMS
};

struct act_256 {
    int8_t q[ACT_COLUMNS];
    int16_t sums16[16], sums32[8]; /* of 16 and of 32 columns */
    float scale;
    uint32_t unused[3];
};

struct act_32 {
    int8_t q[ACT_COLUMNS];
    float scales[8];
    int16_t sums32[8];
    uint32_t unused[4];
};

/* Wide forms, for 8-bit weights where only 16-bit products are exact. Columns 4i .. 4i + 3 are in
 * the order 0, 2, 1, 3: the even and the odd bytes of a weight word. */
struct act_wide_256 {
    int16_t q[ACT_COLUMNS];
    int16_t sums16[16], sums32[8];
    float scale;
    uint32_t unused[3];
};

struct act_wide_32 {
    int16_t q[ACT_COLUMNS];
    float scales[8];
    int16_t sums32[8];
    uint32_t unused[4];
};

/* Bytes of one block of one row; 0 for ACT_FLOAT. */
size_t act_block_bytes(enum act_form form);
static inline uint32_t act_blocks(uint32_t n_cols)
{
    return (n_cols + ACT_COLUMNS - 1) / ACT_COLUMNS;
}

/* Rounded to bfloat16 (to nearest, ties to even): for tiles, and as floats for row kernels. */
struct act_bf16 {
    uint16_t q[ACT_COLUMNS];
    float x[ACT_COLUMNS];
};

/* The same integers alone, where an instruction multiplies pairs of them. */
struct act_bf16_pairs {
    uint16_t q[ACT_COLUMNS];
};

/* And where tiles of 16 rows are made of them: a line more, since rows 512 bytes apart would meet in
 * an eighth of the sets of a cache. */
struct act_bf16_tiles {
    uint16_t q[ACT_COLUMNS];
    uint16_t unused[32];
};

/* Activation rows of one kernel call. ACT_FLOAT: x[m] is [n_cols] floats; else the first block of a
 * row, the next one block_stride bytes further. */
struct act_rows {
    const void *x[ACT_ROWS_MAX];
    size_t block_stride;
    uint32_t n; /* 1..ACT_ROWS_MAX */
};

/* Quantises one block: n (1..ACT_COLUMNS) columns, the rest zeros. Scalar, and what every faster
 * one equals bit for bit. */
typedef void act_quantise(enum act_form form, const float *x, uint32_t n, void *block);
act_quantise act_quantise_scalar;

#endif
