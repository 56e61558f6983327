/*
 * A step: one ragged batch for one forward pass, as one contiguous, pointer-free buffer.
 *
 * Because it holds offsets instead of pointers and its capacities are fixed at load, a step can be
 * copied to a device in one transfer, broadcast to other ranks, recorded and replayed. Sections:
 *
 *   header | slices | row_slice | rope positions [axis][row] | tokens | outputs | table writes |
 *   page copies | embedding rows
 *
 * Table writes apply first, then whole pages are copied, in order, then the rows run.
 *
 * A slice is a run of consecutive positions of one sequence: a prompt chunk, or one generated token
 * (or several, under speculation). A sequence may have several slices in a step; later slices see
 * what earlier slices of the same step appended. Rows are numbered through all slices in order.
 *
 * The engine writes steps, backends read them. A step buffer belongs to the engine until submitted
 * and must stay unchanged until the ticket completes.
 */
#ifndef SLUICE_PROGRAM_STEP_H
#define SLUICE_PROGRAM_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __CUDACC__
#define STEP_FN static inline __host__ __device__
#else
#define STEP_FN static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define STEP_MAGIC 0x70657473u /* "step" */

/* Where a slice's rows come from. */
enum slice_input {
    INPUT_TOKENS,     /* tokens[input_offset ...] of this step */
    INPUT_SAMPLED,    /* tokens sampled after the previous step, still on the device:
                         sample rows input_offset ... of the previous sample step */
    INPUT_EMBEDDINGS, /* embedding rows input_offset ... of this step (images, soft prompts) */
};

enum slice_mask {
    MASK_CAUSAL, /* a row sees all positions up to its own */
    MASK_SPAN,   /* rows of this slice see each other in both directions, and all before */
    MASK_TREE,   /* speculation tree; reserved */
};

/* Set by the engine, never inferred from a row count: kernels may differ between classes, and
 * identity of results is promised within a class. */
enum numeric_class { CLASS_PROMPT, CLASS_GENERATED };

struct slice {
    uint32_t slot;           /* sequence slot: row of the page tables, state, history */
    uint32_t first_position; /* of the first row; rows are consecutive */
    uint32_t n_rows;
    uint32_t first_row; /* in the step */
    uint8_t numeric_class;
    uint8_t input;
    uint8_t mask;
    uint8_t reserved;
    uint32_t input_offset;
    uint32_t adapter;     /* 0: none */
    uint32_t state_read;  /* recurrent groups: state slot (0/1); ignored at position 0 (state 0) */
    uint32_t state_write; /* where the state after the last row goes */
};

/* Outputs that want logits come first in the list: OP_LOGITS runs over those n_logits only. */
struct step_output {
    uint32_t row;
};

struct table_write {
    uint32_t slot;
    uint32_t group;
    uint32_t index; /* in the sequence's table row of that group */
    uint32_t page;
};

/* A sequence is about to write a page that others share: it gets a copy of its own. */
struct page_copy {
    uint32_t from, to;
};

struct step_limits {
    uint32_t max_rows;
    uint32_t max_slices;
    uint32_t max_outputs;
    uint32_t max_table_writes;
    uint32_t max_copies;     /* page copies */
    uint32_t max_embeddings; /* embedding rows; 0: none */
    uint32_t embedding_width;
    uint32_t n_axes;
};

struct step {
    uint32_t magic;
    uint32_t bytes; /* of the whole buffer */
    uint64_t number;
    uint32_t n_rows, n_slices, n_outputs, n_logits, n_tokens, n_table_writes, n_copies,
        n_embeddings;
    struct step_limits limits;
    /* Byte offsets from the header's start. */
    uint32_t slices_at, row_slice_at, positions_at, tokens_at, outputs_at, table_writes_at,
        copies_at, embeddings_at;
};

/* Bytes of a step of these capacities; 0 on overflow. */
size_t step_bytes(const struct step_limits *limits);
/* Formats a buffer of step_bytes() bytes as an empty step. */
struct step *step_init(void *buffer, const struct step_limits *limits);
/* Forgets all content, keeps capacities. */
void step_clear(struct step *step, uint64_t number);

/* Building. Each returns false when a capacity is exhausted, leaving the step as it was.
 * `tokens` [n_rows] only for INPUT_TOKENS. Rope positions follow the sequence position on all axes;
 * overwrite them with step_positions() for vision rope. first_row and, for tokens, input_offset of
 * the stored slice are filled in; the rest of *slice is copied. */
bool step_add_slice(struct step *step, const struct slice *slice, const int32_t *tokens);
bool step_add_output(struct step *step, uint32_t row, bool logits); /* all logits before others */
bool step_add_table_write(struct step *step, struct table_write write);
bool step_add_copy(struct step *step, struct page_copy copy);

/* Full consistency check (ranges, capacities, offsets): for tests, replay and other ranks. */
enum status step_check(const struct step *step, size_t bytes, uint32_t n_slots, uint32_t n_vocab,
                       uint32_t max_context, struct error *err);

STEP_FN const struct slice *step_slices(const struct step *s)
{
    return (const struct slice *)((const char *)s + s->slices_at);
}

/* [n_rows] slice index of each row. */
STEP_FN const uint32_t *step_row_slice(const struct step *s)
{
    return (const uint32_t *)((const char *)s + s->row_slice_at);
}

/* [n_axes][max_rows] rope positions. */
STEP_FN const int32_t *step_positions(const struct step *s, uint32_t axis)
{
    return (const int32_t *)((const char *)s + s->positions_at) + (size_t)axis * s->limits.max_rows;
}

STEP_FN const int32_t *step_tokens(const struct step *s)
{
    return (const int32_t *)((const char *)s + s->tokens_at);
}

STEP_FN const struct step_output *step_outputs(const struct step *s)
{
    return (const struct step_output *)((const char *)s + s->outputs_at);
}

STEP_FN const struct table_write *step_table_writes(const struct step *s)
{
    return (const struct table_write *)((const char *)s + s->table_writes_at);
}

STEP_FN const struct page_copy *step_copies(const struct step *s)
{
    return (const struct page_copy *)((const char *)s + s->copies_at);
}

STEP_FN const float *step_embeddings(const struct step *s)
{
    return (const float *)((const char *)s + s->embeddings_at);
}

/* Position of a row in its sequence (index into the KV cache). */
STEP_FN uint32_t step_row_position(const struct step *s, uint32_t row)
{
    const struct slice *slice = step_slices(s) + step_row_slice(s)[row];
    return slice->first_position + (row - slice->first_row);
}

#ifdef __cplusplus
}
#endif
#endif
