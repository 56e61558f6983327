/* What the files that bind tensors share (bind.c, experts.c). Internal to model/. */
#ifndef SLUICE_MODEL_BIND_H
#define SLUICE_MODEL_BIND_H

#include "model/build.h"

/* The tensor of a role of one expert in a Hugging Face checkpoint; NULL if absent. */
const struct tensor *bind_find_expert(struct build *b, int layer, const char *role,
                                      uint32_t expert);
/* Record the error that a tensor is not there, or not of the shape that is wanted. */
void bind_fail_missing(struct build *b, int layer, const char *role, const char *suffix);
void bind_fail_shape(struct build *b, const struct tensor *tensor, uint32_t rows, uint32_t cols);
bool bind_shape_is(const struct tensor *tensor, uint64_t rows, uint64_t cols);
/* A weight of `count` matrices [rows, cols] in the tensor's element type, at parts[]. */
int32_t bind_parts(struct build *b, const struct tensor *tensor, enum weight_role role,
                   uint32_t count, uint32_t rows, uint32_t cols, const void *const *parts);

#endif
