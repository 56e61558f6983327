/*
 * Errors as values.
 *
 * A function that can fail returns `enum status` and takes a `struct error *` (may be NULL) that
 * receives one sentence: what went wrong, where (field, offset, path), and what to do about it.
 * Nothing below main() prints or exits. Thread rule: a struct error belongs to one thread.
 */
#ifndef SLUICE_BASE_STATUS_H
#define SLUICE_BASE_STATUS_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The order is internal; status_exit_code() maps to the documented process exit codes. */
enum status {
    STATUS_OK = 0,
    STATUS_USAGE,       /* the caller's argument is wrong (flag, parameter, API misuse) */
    STATUS_MODEL,       /* a model file, tokenizer or template is malformed */
    STATUS_UNSUPPORTED, /* well-formed, but sluice does not know this kind (yet) */
    STATUS_NETWORK,
    STATUS_INTEGRITY, /* a digest or a verified invariant of stored data does not hold */
    STATUS_DISK,      /* files: missing, unreadable, full disk */
    STATUS_MEMORY,    /* does not fit */
    STATUS_DEVICE,    /* the accelerator failed or is absent */
    STATUS_LIMIT,     /* a documented limit (depth, size, fuel, context length) was hit */
    STATUS_CANCELLED,
    STATUS_INTERNAL, /* our own bug; never the input's fault */
    STATUS_CONTEXT,  /* a prompt is longer than the context, or than the whole KV memory */
    STATUS_BUSY,     /* a queue is full */
    STATUS_KEY_BUSY, /* one key has as many requests in work as it may */
};

#define ERROR_MESSAGE_MAX 512

struct error {
    enum status status;
    char message[ERROR_MESSAGE_MAX];
};

/* Writes the message (cut, never overflowing) and returns `status`, so that
 * `return error_set(err, STATUS_MODEL, "...")` is the common form. err may be NULL. */
enum status error_set(struct error *err, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
enum status error_setv(struct error *err, enum status status, const char *format, va_list args);

/* Puts "prefix: " in front of the message already in err; returns err's status. */
enum status error_prefix(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "model error", "out of memory", ... for messages that have nothing better. */
const char *status_name(enum status status);

/* Process exit code: 0 ok, 1 internal, 2 usage, 3 model file, 4 network, 5 integrity, 6 disk,
 * 7 memory or device. */
int status_exit_code(enum status status);

#ifdef __cplusplus
}
#endif
#endif
