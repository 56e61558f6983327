/*
 * Mixtures: which type each tensor of a model gets when it is quantised to "Q4_K_M" and the like.
 *
 * A mixture is a base type and exceptions by a tensor's role and layer; names and rules are those of
 * llama.cpp's file types, so that a file of ours is what its name leads people to expect. Tensors
 * are named as in GGUF ("blk.3.ffn_down.weight"). Pure functions over constant tables.
 */
#ifndef SLUICE_QUANT_MIXTURE_H
#define SLUICE_QUANT_MIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "quant/tensor_type.h"

struct mixture;

/* What the rules need to know of a model. */
struct mixture_model {
    uint32_t n_layers;
    uint32_t n_experts;    /* 0: dense */
    uint32_t heads_per_kv; /* query heads that share a key/value head */
    bool tied;             /* the embedding is also the output matrix */
};

/* By name, any case ("q4_k_m"); NULL if unknown. */
const struct mixture *mixture_from_name(struct str name);
/* The error for an unknown name: STATUS_USAGE, with the names there are. */
enum status mixture_unknown(const char *name, struct error *err);
/* In the order of the list that users see; NULL past the end. */
const struct mixture *mixture_at(uint32_t index);
const char *mixture_name(const struct mixture *mixture);   /* "Q4_K_M" */
const char *mixture_about(const struct mixture *mixture);  /* one line */
uint32_t mixture_file_type(const struct mixture *mixture); /* GGUF's general.file_type */

/* False for vectors, norms, routers, convolutions: they stay as they are (float32). */
bool mixture_applies(struct str name, uint32_t n_dims, const uint64_t *dims);
/* The type of a tensor to which it applies; dims outermost first. Rows that are no whole number of
 * blocks fall back to a type with smaller blocks. */
enum tensor_type mixture_type(const struct mixture *mixture, const struct mixture_model *model,
                              struct str name, uint32_t n_dims, const uint64_t *dims);

#endif
