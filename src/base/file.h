/*
 * Files: read whole, or mapped so that a file cut short under us cannot kill the process.
 *
 * Mapped memory is read-only. If the file shrinks while mapped, touching a lost page raises SIGBUS;
 * our handler maps zeros there and marks the mapping damaged, so that the reader goes on and the
 * owner finds out by mapped_file_damaged() (the engine asks after every step and fails the
 * requests it served). Faults outside our mappings go to the handler that was there before.
 * Thread rule: open and close take an internal lock; reading needs none.
 */
#ifndef SLUICE_BASE_FILE_H
#define SLUICE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

struct mapped_file;

/* What tells one content of a file from another without reading it: any write moves the change time,
 * which no program can set. */
struct file_identity {
    uint64_t inode, size;
    int64_t modified_ns, changed_ns; /* since 1970 */
};

/* Maps a regular file for reading. Errors: STATUS_DISK naming path and reason. */
enum status mapped_file_open(const char *path, struct mapped_file **out, struct error *err);
/* The same for an open file, which stays the caller's; path: for messages. */
enum status mapped_file_of(int fd, const char *path, struct mapped_file **out, struct error *err);
/* NULL is allowed. Everything that points into the mapping dies with it. */
void mapped_file_close(struct mapped_file *file);
/* Page-aligned; valid until close. An empty file has size 0 and a non-NULL pointer. */
const uint8_t *mapped_file_data(const struct mapped_file *file);
uint64_t mapped_file_size(const struct mapped_file *file);
/* True once any page of the mapping was found missing. Never goes back to false. */
bool mapped_file_damaged(const struct mapped_file *file);
/* As it was when it was mapped. *settled: it had not changed for long enough by then that a change
 * since must show in the times. */
struct file_identity mapped_file_identity(const struct mapped_file *file, bool *settled);
/* The mapping that [data, data + bytes) lies in, and where; NULL: in none. Any thread, as long as
 * that mapping is open. */
const struct mapped_file *mapped_file_find(const void *data, uint64_t bytes, uint64_t *offset);
/* All of it will be read again and again: asks for large pages where the system maps files by such
 * (Linux, on file systems that cache them so). */
void mapped_file_expect_reading(const struct mapped_file *file);
/* Gives whole pages of [data, data + bytes) back to the system where they lie in a mapping of this
 * module, and does nothing elsewhere: read again, they come from the file again. Any thread. */
void mapped_file_forget(const void *data, uint64_t bytes);

/* Appends the whole file to `out`. STATUS_DISK if unreadable, STATUS_LIMIT past max_bytes. */
enum status file_read_all(const char *path, size_t max_bytes, struct buf *out, struct error *err);
/* Reads a stream (stdin) to its end, at most max_bytes. */
enum status file_read_fd(int fd, const char *name, size_t max_bytes, struct buf *out,
                         struct error *err);
bool file_exists(const char *path);
bool file_is_directory(const char *path);

#endif
