/*
 * Loading JSON that somebody else wrote: jansson behind our own limits.
 *
 * jansson's nesting limit is compiled in (2,048); a one-pass scan enforces ours first, so that a
 * hostile document costs one read of its bytes. Duplicate keys are an error, text must be UTF-8.
 */
#ifndef SLUICE_BASE_JSON_H
#define SLUICE_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"
#include "base/str.h"

#define JSON_DEPTH_DEFAULT 64

/* Parses any JSON value (scalars too). *out is a new reference, released with json_decref().
 * Integers beyond int64 become reals (Hugging Face writes 10^30 for "no limit"), reals beyond double
 * an error; errors give line and column, and name `what`. */
enum status json_parse(struct str text, unsigned max_depth, const char *what, json_t **out,
                       struct error *err);

/* Reads a whole file of at most max_bytes and parses it; errors name the path. */
enum status json_parse_file(const char *path, size_t max_bytes, unsigned max_depth, json_t **out,
                            struct error *err);

#endif
