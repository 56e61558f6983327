/*
 * safetensors: the tensor directory of one mapped file.
 *
 * Format (the safetensors repository's README): 8 bytes little-endian length N, N bytes of JSON
 * {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...}}, then the
 * data, offsets counted from its start. Nothing is trusted: ranges must lie in the file, fit type and
 * shape exactly, not overlap, and be aligned to their element. "__metadata__" is skipped unread.
 * Limits: a header of 32 MiB, 32,768 tensors, 16 KiB of JSON per tensor, four dimensions, names of up
 * to 1,024 printable ASCII characters. Errors name the tensor and the field, or the byte offset.
 * Read-only after parsing; any thread.
 */
#ifndef SLUICE_FORMAT_SAFETENSORS_H
#define SLUICE_FORMAT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct safetensors;
struct tensor;

/* `data` must outlive the result; `name` is used in errors. STATUS_MODEL where the file is malformed,
 * STATUS_UNSUPPORTED for an unknown dtype, more than four dimensions or an unaligned tensor,
 * STATUS_LIMIT past a limit. */
enum status safetensors_parse(const uint8_t *data, uint64_t size, const char *name,
                              struct safetensors **out, struct error *err);
void safetensors_free(struct safetensors *file); /* NULL allowed */

size_t safetensors_count(const struct safetensors *file);
const struct tensor *safetensors_at(const struct safetensors *file, size_t index);

#endif
