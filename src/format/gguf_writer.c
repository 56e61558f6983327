/*
 * The GGUF writer: the head of the file is built in memory, the data goes straight to its place.
 *
 * Metadata and directory are two buffers, since their counts stand in front of both. Tensor data is
 * written by pwrite at offsets that begin() fixed, so that threads need no order among themselves;
 * a counter of bytes written is what finish() checks.
 */
#include "format/gguf_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/checked.h"
#include "quant/tensor_type.h"

#define ALIGNMENT 32 /* of tensor data, GGUF's default: no general.alignment is needed */
#define VERSION   3

struct place {
    uint64_t offset, bytes; /* from the start of the data */
};

struct gguf_writer {
    char *path, *part; /* owned */
    int fd;
    bool finished;
    struct buf values, directory;
    uint64_t n_values;
    struct place *places; /* owned */
    size_t n_tensors, capacity;
    uint64_t data_bytes, data_start;
    _Atomic uint64_t written;
    uint64_t expected;
    struct error problem; /* first of the calls that return none */
};

static void fail(struct gguf_writer *w, enum status status, const char *what, struct str name)
{
    if (w->problem.status == STATUS_OK)
        error_set(&w->problem, status, "%s: %s %.*s", w->path, what,
                  (int)(name.len < 200 ? name.len : 200), name.data);
}

static void put(struct buf *buf, uint64_t value, unsigned n)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < n; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    buf_append(buf, bytes, n);
}

static void put_str(struct buf *buf, struct str text)
{
    put(buf, text.len, 8);
    buf_append_str(buf, text);
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

enum status gguf_writer_open(const char *path, struct gguf_writer **out, struct error *err)
{
    *out = NULL;
    struct gguf_writer *w = calloc(1, sizeof *w);
    size_t length = strlen(path);
    if (w) {
        w->fd = -1;
        w->path = malloc(length + 1);
        w->part = malloc(length + sizeof ".part");
    }
    if (!w || !w->path || !w->part) {
        gguf_writer_free(w);
        return error_set(err, STATUS_MEMORY, "%s: out of memory", path);
    }
    memcpy(w->path, path, length + 1);
    snprintf(w->part, length + sizeof ".part", "%s.part", path);
    w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        enum status status = error_set(err, STATUS_DISK, "%s: %s", w->part, strerror(errno));
        gguf_writer_free(w);
        return status;
    }
    *out = w;
    return STATUS_OK;
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0) {
        close(w->fd);
        if (!w->finished)
            unlink(w->part);
    }
    buf_release(&w->values);
    buf_release(&w->directory);
    free(w->places);
    free(w->path);
    free(w->part);
    free(w);
}

/* ---- metadata ---------------------------------------------------------------------------------- */

static void key(struct gguf_writer *w, const char *name, enum gguf_type type)
{
    put_str(&w->values, str_from(name));
    put(&w->values, type, 4);
    w->n_values++;
}

void gguf_writer_str(struct gguf_writer *w, const char *name, struct str value)
{
    key(w, name, GGUF_STRING);
    put_str(&w->values, value);
}

void gguf_writer_u32(struct gguf_writer *w, const char *name, uint32_t value)
{
    key(w, name, GGUF_U32);
    put(&w->values, value, 4);
}

void gguf_writer_f32(struct gguf_writer *w, const char *name, float value)
{
    key(w, name, GGUF_F32);
    put(&w->values, float_bits(value), 4);
}

void gguf_writer_bool(struct gguf_writer *w, const char *name, bool value)
{
    key(w, name, GGUF_BOOL);
    put(&w->values, value, 1);
}

void gguf_writer_array(struct gguf_writer *w, const char *name, enum gguf_type type, uint64_t count)
{
    key(w, name, GGUF_ARRAY);
    put(&w->values, type, 4);
    put(&w->values, count, 8);
}

void gguf_writer_item_str(struct gguf_writer *w, struct str value)
{
    put_str(&w->values, value);
}

void gguf_writer_item_u32(struct gguf_writer *w, uint32_t value)
{
    put(&w->values, value, 4);
}

void gguf_writer_item_bool(struct gguf_writer *w, bool value)
{
    put(&w->values, value, 1);
}

void gguf_writer_item_f32(struct gguf_writer *w, float value)
{
    put(&w->values, float_bits(value), 4);
}

void gguf_writer_copy(struct gguf_writer *w, const struct gguf_value *value)
{
    put_str(&w->values, value->key);
    put(&w->values, value->type, 4);
    if (value->type == GGUF_ARRAY) {
        put(&w->values, value->item_type, 4);
        put(&w->values, value->count, 8);
    }
    buf_append(&w->values, value->data, (size_t)value->bytes);
    w->n_values++;
}

/* ---- tensors ----------------------------------------------------------------------------------- */

static bool shape_bytes(uint32_t type, uint32_t n_dims, const uint64_t *dims, uint64_t *bytes)
{
    uint64_t rows = 1;
    for (uint32_t i = 0; i + 1 < n_dims; i++)
        if (!checked_mul_u64(rows, dims[i], &rows))
            return false;
    return tensor_type_bytes(type, n_dims ? dims[n_dims - 1] : 1, bytes) &&
           checked_mul_u64(*bytes, rows, bytes);
}

size_t gguf_writer_tensor(struct gguf_writer *w, struct str name, uint32_t type, uint32_t n_dims,
                          const uint64_t *dims)
{
    struct place place = {.offset = w->data_bytes};
    if (type >= TENSOR_TYPE_GGUF_END || !shape_bytes(type, n_dims, dims, &place.bytes))
        fail(w, STATUS_INTERNAL, "shape or type that GGUF cannot store: tensor", name);
    put_str(&w->directory, name);
    put(&w->directory, n_dims, 4);
    for (uint32_t i = n_dims; i-- > 0;)
        put(&w->directory, dims[i], 8); /* GGUF lists the innermost first */
    put(&w->directory, type, 4);
    put(&w->directory, place.offset, 8);
    if (!checked_add_u64(w->data_bytes, place.bytes, &w->data_bytes) ||
        !checked_round_up_u64(w->data_bytes, ALIGNMENT, &w->data_bytes))
        fail(w, STATUS_LIMIT, "the file overflows with tensor", name);
    if (w->n_tensors == w->capacity) {
        size_t larger = w->capacity ? 2 * w->capacity : 256;
        void *moved = realloc(w->places, larger * sizeof *w->places);
        if (!moved) {
            fail(w, STATUS_MEMORY, "out of memory for tensor", name);
            return 0;
        }
        w->places = moved;
        w->capacity = larger;
    }
    w->places[w->n_tensors] = place;
    w->expected += place.bytes;
    return w->n_tensors++;
}

uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, size_t tensor)
{
    return w->places[tensor].bytes;
}

uint64_t gguf_writer_file_bytes(const struct gguf_writer *w)
{
    return w->data_start + w->data_bytes;
}

static enum status write_at(struct gguf_writer *w, uint64_t at, const void *data, size_t bytes,
                            struct error *err)
{
    const char *from = data;
    while (bytes) {
        ssize_t n = pwrite(w->fd, from, bytes, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(err, STATUS_DISK, "%s: %s", w->part, strerror(n ? errno : ENOSPC));
        from += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return STATUS_OK;
}

/* Better to say so before an hour of work than after it. */
static enum status check_room(struct gguf_writer *w, uint64_t bytes, struct error *err)
{
    struct statvfs fs;
    if (fstatvfs(w->fd, &fs) != 0)
        return STATUS_OK;
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes > room)
        return error_set(err, STATUS_DISK, "%s: needs %.2f GB, the file system has %.2f GB left",
                         w->path, (double)bytes / 1e9, (double)room / 1e9);
    return STATUS_OK;
}

enum status gguf_writer_begin(struct gguf_writer *w, struct error *err)
{
    struct buf head = {0};
    buf_append(&head, "GGUF", 4);
    put(&head, VERSION, 4);
    put(&head, w->n_tensors, 8);
    put(&head, w->n_values, 8);
    buf_append_str(&head, buf_str(&w->values));
    buf_append_str(&head, buf_str(&w->directory));
    while (head.len % ALIGNMENT && !head.failed)
        buf_append_char(&head, 0);
    w->data_start = head.len;
    enum status status = STATUS_OK;
    if (w->problem.status != STATUS_OK)
        status = error_set(err, w->problem.status, "%s", w->problem.message);
    else if (head.failed || w->values.failed || w->directory.failed)
        status = error_set(err, STATUS_MEMORY, "%s: out of memory for the head", w->path);
    if (status == STATUS_OK)
        status = check_room(w, gguf_writer_file_bytes(w), err);
    if (status == STATUS_OK)
        status = write_at(w, 0, head.data, head.len, err);
    buf_release(&head);
    /* The gaps between tensors and the last padding read as zeros. */
    if (status == STATUS_OK && ftruncate(w->fd, (off_t)gguf_writer_file_bytes(w)) != 0)
        status = error_set(err, STATUS_DISK, "%s: %s", w->part, strerror(errno));
    return status;
}

enum status gguf_writer_write(struct gguf_writer *w, size_t tensor, uint64_t offset,
                              const void *data, size_t bytes, struct error *err)
{
    const struct place *place = &w->places[tensor];
    if (tensor >= w->n_tensors || offset > place->bytes || bytes > place->bytes - offset)
        return error_set(err, STATUS_INTERNAL, "%s: a write outside tensor %zu", w->path, tensor);
    enum status status = write_at(w, w->data_start + place->offset + offset, data, bytes, err);
    if (status == STATUS_OK)
        atomic_fetch_add(&w->written, bytes);
    return status;
}

enum status gguf_writer_finish(struct gguf_writer *w, struct error *err)
{
    uint64_t written = atomic_load(&w->written);
    if (written != w->expected)
        return error_set(err, STATUS_INTERNAL, "%s: %llu of %llu bytes of tensors were written",
                         w->path, (unsigned long long)written, (unsigned long long)w->expected);
    if (fsync(w->fd) != 0 || rename(w->part, w->path) != 0)
        return error_set(err, STATUS_DISK, "%s: %s", w->path, strerror(errno));
    w->finished = true;
    return STATUS_OK;
}
