/*
 * Where a sequence's state lies in memory: the geometry of pages, shared by the integers of kv/,
 * by the engine and by every backend (also from CUDA code: plain structs, inline functions).
 *
 * One pool of equal pages serves all groups. A group fits as many tokens into a page as its bytes
 * allow, rounded down to whole blocks of the prefix index (kv.h): powers of two would leave up to half
 * of the pages unused where groups differ in layers (gemma3: 176 tokens fit, and 128 would be used).
 *
 *   K/V page of a group with L layers, T tokens a page, H heads:
 *     layer 0: K [H][T][k_head_dim]   V [H][T][v_head_dim]
 *     layer 1: K ...                  V ...
 *   Head-major, so that the tokens of one head are one contiguous run: attention reads it in place.
 *
 *   Recurrent state of one sequence: two state slots, written alternately (a step reads one and
 *   writes the other, so that the step can be undone). State slot s lies in pages
 *   [s * pages_per_state, (s + 1) * pages_per_state) of the sequence's table, layers_per_page
 *   layers in each page.
 *
 * Page tables are uint32 arrays [slot][group][max_pages] on the backend.
 */
#ifndef SLUICE_PROGRAM_LAYOUT_H
#define SLUICE_PROGRAM_LAYOUT_H

#include <stdint.h>

#include "base/status.h"
#include "program/program.h"

#ifdef __CUDACC__
#define LAYOUT_FN static inline __host__ __device__
#else
#define LAYOUT_FN static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PAGE_NONE UINT32_MAX

struct group_layout {
    uint32_t kind;            /* enum group_kind */
    uint32_t tokens_per_page; /* K/V: a multiple of 16, or 1, 2, 4, 8; recurrent: 0 */
    uint32_t max_pages;       /* length of a sequence's table row for this group */
    uint32_t table_offset;    /* of this group within a slot's table */
    /* K/V */
    uint32_t n_kv_heads;
    uint32_t k_head_bytes, v_head_bytes; /* one token of one head */
    uint32_t window;
    uint64_t layer_bytes; /* one layer's K and V within a page */
    /* recurrent */
    uint32_t layers_per_page, pages_per_state;
    uint64_t state_bytes; /* one layer's state */
};

struct layout {
    uint64_t page_bytes;
    uint32_t n_pages;
    uint32_t n_slots;
    uint32_t n_groups;
    uint32_t slot_pages; /* table entries of one slot over all groups */
    uint32_t kv_type;    /* enum tensor_type of K and V elements */
    struct group_layout groups[PROGRAM_GROUPS_MAX];
};

/* Geometry for a program: kv_type elements, sequences of up to max_context tokens in n_slots slots,
 * and about target_tokens tokens a page in the widest group. n_pages is left 0: how
 * many there are is the caller's matter. Errors: a head that is no whole number of kv_type blocks, absurd sizes. */
enum status layout_plan(const struct program *program, enum tensor_type kv_type, uint32_t n_slots,
                        uint32_t max_context, uint32_t target_tokens, struct layout *out,
                        struct error *err);
/* A type that K and V elements may have, by its name. */
enum status layout_kv_type(const char *name, enum tensor_type *out, struct error *err);
/* Bytes of state that a row reads as the last of `tokens` tokens. */
uint64_t layout_bytes_read(const struct layout *layout, uint64_t tokens);

/* Byte offset within the page of token t (0 <= t < tokens_per_page) of one head. */
LAYOUT_FN uint64_t layout_k_offset(const struct group_layout *g, uint32_t layer, uint32_t head,
                                   uint32_t t)
{
    return layer * g->layer_bytes + ((uint64_t)head * g->tokens_per_page + t) * g->k_head_bytes;
}

LAYOUT_FN uint64_t layout_v_offset(const struct group_layout *g, uint32_t layer, uint32_t head,
                                   uint32_t t)
{
    return layer * g->layer_bytes + (uint64_t)g->n_kv_heads * g->tokens_per_page * g->k_head_bytes +
           ((uint64_t)head * g->tokens_per_page + t) * g->v_head_bytes;
}

/* Index into the slot's table of the page that holds a layer's state in a state slot. */
LAYOUT_FN uint32_t layout_state_page(const struct group_layout *g, uint32_t state_slot,
                                     uint32_t layer)
{
    return state_slot * g->pages_per_state + layer / g->layers_per_page;
}

LAYOUT_FN uint64_t layout_state_offset(const struct group_layout *g, uint32_t layer)
{
    return layer % g->layers_per_page * g->state_bytes;
}

/* Index of a slot's table entry in the flat array of all tables. */
LAYOUT_FN uint64_t layout_table_index(const struct layout *l, uint32_t slot, uint32_t group,
                                      uint32_t page_index)
{
    return (uint64_t)slot * l->slot_pages + l->groups[group].table_offset + page_index;
}

#ifdef __cplusplus
}
#endif
#endif
