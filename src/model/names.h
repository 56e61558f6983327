/*
 * Names of a Hugging Face folder's tensors and the roles they play, which are GGUF's names (build.h).
 * Pure functions over constant tables.
 */
#ifndef SLUICE_MODEL_NAMES_H
#define SLUICE_MODEL_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct hf_name {
    const char *role;
    const char *name; /* below "model.layers.N." for layer roles, else below "model." or whole */
};

struct tensor_place {
    const char *role;
    int32_t layer;  /* -1: outside the layers */
    int64_t expert; /* whose tensor it is; -1: nobody's, or all experts' */
    bool bias;
};

/* An architecture's own entries come before those that most share; tables end with a NULL role. */
const char *hf_name(const struct hf_name *own, const char *role);
/* What mlx-lm calls the stack of a role whose pattern has experts in it; false: it is none. */
bool hf_switch_name(const char *role, const char *pattern, char *out, size_t size);
/* Which role a tensor has. False: none in the tables. */
bool hf_place(const struct hf_name *own, struct str tensor, struct tensor_place *out);

/* The own entries of the architecture that config.json's model_type names. False: there is none. */
bool hf_names_of(struct str model_type, const struct hf_name **out);

/* Where the text decoder may sit in a checkpoint; NULL-terminated. */
extern const char *const hf_prefixes[];

#endif
