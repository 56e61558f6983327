/* Errors as values: formatting and the mapping to names and exit codes. */
#include "base/status.h"

#include <stdio.h>
#include <string.h>

enum status error_setv(struct error *err, enum status status, const char *format, va_list args)
{
    if (err) {
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, args);
    }
    return status;
}

enum status error_set(struct error *err, enum status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_setv(err, status, format, args);
    va_end(args);
    return status;
}

enum status error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return STATUS_INTERNAL;
    char tail[ERROR_MESSAGE_MAX];
    memcpy(tail, err->message, sizeof tail);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof err->message &&
        snprintf(err->message + n, sizeof err->message - (size_t)n, ": %s", tail) < 0)
        err->message[n] = 0;
    return err->status;
}

const char *status_name(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return "ok";
    case STATUS_USAGE:
        return "usage error";
    case STATUS_MODEL:
        return "model error";
    case STATUS_UNSUPPORTED:
        return "not supported";
    case STATUS_NETWORK:
        return "network error";
    case STATUS_INTEGRITY:
        return "integrity error";
    case STATUS_DISK:
        return "file error";
    case STATUS_MEMORY:
        return "out of memory";
    case STATUS_DEVICE:
        return "device error";
    case STATUS_LIMIT:
        return "limit reached";
    case STATUS_CANCELLED:
        return "cancelled";
    case STATUS_CONTEXT:
        return "context exceeded";
    case STATUS_BUSY:
    case STATUS_KEY_BUSY:
        return "too many requests";
    case STATUS_INTERNAL:
        break;
    }
    return "internal error";
}

int status_exit_code(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return 0;
    case STATUS_USAGE:
    case STATUS_LIMIT:
    case STATUS_CONTEXT:
        return 2;
    case STATUS_MODEL:
    case STATUS_UNSUPPORTED:
        return 3;
    case STATUS_NETWORK:
        return 4;
    case STATUS_INTEGRITY:
        return 5;
    case STATUS_DISK:
        return 6;
    case STATUS_MEMORY:
    case STATUS_DEVICE:
        return 7;
    case STATUS_CANCELLED:
    case STATUS_INTERNAL:
    case STATUS_BUSY:
    case STATUS_KEY_BUSY:
        break;
    }
    return 1;
}
