/*
 * Writing a GGUF file (version 3): metadata, then the directory of tensors, then their data in any
 * order and from any thread.
 *
 * The order of calls: open, values and tensors, begin, writes, finish. The file grows under the name
 * PATH.part and gets its own name only in finish, when every byte of every tensor was written: an
 * interrupted writer leaves no file that looks whole. Errors of values and tensors stick (as in
 * struct buf) and are reported by begin.
 *
 * Thread rule: one thread; only gguf_writer_write may be called from several at once.
 */
#ifndef SLUICE_FORMAT_GGUF_WRITER_H
#define SLUICE_FORMAT_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "format/gguf.h"

struct gguf_writer;

/* Creates PATH.part. */
enum status gguf_writer_open(const char *path, struct gguf_writer **out, struct error *err);
/* Removes PATH.part unless finish succeeded. NULL allowed. */
void gguf_writer_free(struct gguf_writer *writer);

/* ---- metadata: keys and texts are copied ------------------------------------------------------ */

void gguf_writer_str(struct gguf_writer *writer, const char *key, struct str value);
void gguf_writer_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_writer_bool(struct gguf_writer *writer, const char *key, bool value);
/* Begins an array of `count` items; the items follow by gguf_writer_item_*, all of that type. */
void gguf_writer_array(struct gguf_writer *writer, const char *key, enum gguf_type type,
                       uint64_t count);
void gguf_writer_item_str(struct gguf_writer *writer, struct str value);
void gguf_writer_item_u32(struct gguf_writer *writer, uint32_t value); /* also GGUF_I32 */
void gguf_writer_item_bool(struct gguf_writer *writer, bool value);
void gguf_writer_item_f32(struct gguf_writer *writer, float value);
/* As it stands in another file. */
void gguf_writer_copy(struct gguf_writer *writer, const struct gguf_value *value);

/* ---- tensors ---------------------------------------------------------------------------------- */

/* dims: outermost first, as in struct tensor. Returns the tensor's index. The name is copied. */
size_t gguf_writer_tensor(struct gguf_writer *writer, struct str name, uint32_t type,
                          uint32_t n_dims, const uint64_t *dims);
uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *writer, size_t tensor);
/* Bytes of the whole file; after begin. */
uint64_t gguf_writer_file_bytes(const struct gguf_writer *writer);

/* Writes everything that comes before the data. STATUS_DISK where the file system has no room. */
enum status gguf_writer_begin(struct gguf_writer *writer, struct error *err);
/* `bytes` at `offset` of the tensor's data; every byte exactly once. Any thread. */
enum status gguf_writer_write(struct gguf_writer *writer, size_t tensor, uint64_t offset,
                              const void *data, size_t bytes, struct error *err);
/* Checks that all was written, and gives the file its name. */
enum status gguf_writer_finish(struct gguf_writer *writer, struct error *err);

#endif
