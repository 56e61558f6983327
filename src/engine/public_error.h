/*
 * Errors of the public interface and our own are numbered alike. For what uses the engine through
 * sluice.h and reports as everything else here does: convert/, cli/.
 */
#ifndef SLUICE_ENGINE_PUBLIC_ERROR_H
#define SLUICE_ENGINE_PUBLIC_ERROR_H

#include "base/status.h"
#include "sluice.h"

_Static_assert((int)SLUICE_OK == (int)STATUS_OK, "status numbering");
_Static_assert((int)SLUICE_ERROR_MODEL == (int)STATUS_MODEL, "status numbering");
_Static_assert((int)SLUICE_ERROR_LIMIT == (int)STATUS_LIMIT, "status numbering");
_Static_assert((int)SLUICE_ERROR_INTERNAL == (int)STATUS_INTERNAL, "status numbering");
_Static_assert((int)SLUICE_ERROR_CONTEXT == (int)STATUS_CONTEXT, "status numbering");
_Static_assert((int)SLUICE_ERROR_KEY_BUSY == (int)STATUS_KEY_BUSY, "status numbering");
_Static_assert(sizeof((sluice_error *)0)->message == ERROR_MESSAGE_MAX, "message size");

/* A failed call of the public interface as our own kind of error. */
static inline enum status error_from_public(const sluice_error *error, struct error *err)
{
    return error_set(err, (enum status)error->status, "%s", error->message);
}

#endif
