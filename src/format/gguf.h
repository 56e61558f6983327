/*
 * GGUF (versions 2 and 3, little-endian): metadata and tensor directory of one mapped file.
 *
 * Source of the format: the GGUF specification in the ggml repository (docs/gguf.md). Nothing in
 * the file is trusted: every count, length, offset, type and alignment is checked against the real
 * file size before use, and the parser's own memory grows only with the entries really read.
 * Limits: 16,384 metadata keys, 16,384 tensors, 4 Mi strings in arrays, names of up to 1,024
 * printable ASCII characters, alignment a power of two from 8 to 1 MiB, four dimensions, no nested
 * arrays. Errors name the field and its byte offset in the file. Values are views into the mapping.
 * Read-only after opening; any thread.
 */
#ifndef SLUICE_FORMAT_GGUF_H
#define SLUICE_FORMAT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12
};

struct tensor;
struct gguf;

struct gguf_value {
    struct str key;
    enum gguf_type type;
    enum gguf_type item_type; /* arrays; items are scalars or strings, nested arrays are refused */
    uint64_t count;           /* arrays: items; else 1 */
    const uint8_t *data;      /* first byte of the value (of item 0), in the mapping, unaligned */
    uint64_t bytes;           /* all items; a string is 8 bytes of length and its text */
};

/* Parses a file image; `data` must outlive the result. `name` is used in errors. STATUS_MODEL where
 * the file is malformed, STATUS_UNSUPPORTED for version 1, big-endian files, tensor types and
 * dimension counts that sluice does not know, STATUS_LIMIT past a limit. A part of a split model
 * parses like any other file (weight_files.h puts the parts together). */
enum status gguf_parse(const uint8_t *data, uint64_t size, const char *name, struct gguf **out,
                       struct error *err);
void gguf_free(struct gguf *gguf); /* NULL allowed */

uint32_t gguf_version(const struct gguf *gguf);
size_t gguf_value_count(const struct gguf *gguf);
const struct gguf_value *gguf_value_at(const struct gguf *gguf, size_t index);
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key); /* NULL if absent */
size_t gguf_tensor_count(const struct gguf *gguf);
const struct tensor *gguf_tensor_at(const struct gguf *gguf, size_t index);

/* Typed reads; false if absent or of another kind (any integer type converts if it fits; any
 * number converts to double). */
bool gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *out);
bool gguf_get_i64(const struct gguf *gguf, const char *key, int64_t *out);
bool gguf_get_f64(const struct gguf *gguf, const char *key, double *out);
bool gguf_get_bool(const struct gguf *gguf, const char *key, bool *out);
bool gguf_get_str(const struct gguf *gguf, const char *key, struct str *out);
/* Array items by index (numbers). */
bool gguf_item_f64(const struct gguf_value *array, uint64_t index, double *out);
bool gguf_item_i64(const struct gguf_value *array, uint64_t index, int64_t *out);

/* Walks a string array in order: O(1) per item. Start with {0}; false at the end. */
struct gguf_string_cursor {
    uint64_t index;
    uint64_t offset;
};
bool gguf_next_string(const struct gguf_value *array, struct gguf_string_cursor *cursor,
                      struct str *out);

#endif
