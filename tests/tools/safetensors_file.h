/* A safetensors file, written tensor by tensor, alone or with its config.json: what tests of folders
 * open. */
#ifndef SLUICE_TESTS_SAFETENSORS_FILE_H
#define SLUICE_TESTS_SAFETENSORS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

/* Zeroed before the first tensor. */
struct safetensors_file {
    struct buf header, data;
};

/* bytes: the tensor's n bytes, copied. */
void safetensors_file_add(struct safetensors_file *f, const char *name, const char *dtype,
                          unsigned n_dims, const uint64_t *dims, const void *bytes, size_t n);
/* Writes the file and clears f; fails the test where it cannot. */
void safetensors_file_put(struct safetensors_file *f, const char *path);
/* The same as model.safetensors of an existing folder, and the config. */
void safetensors_file_write(struct safetensors_file *f, const char *folder, const char *config);

#endif
