/*
 * Arena: many small allocations with one lifetime (a request, a model, a parse).
 *
 * Allocations are zeroed, 16-byte aligned, and freed together by arena_release(). An optional byte
 * limit turns hostile input into a clean failure. One arena belongs to one thread at a time.
 */
#ifndef SLUICE_BASE_ARENA_H
#define SLUICE_BASE_ARENA_H

#include <stddef.h>

#include "base/str.h"

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first; owned */
    size_t used;                /* bytes handed out, without block overhead */
    size_t limit;               /* 0: none */
};

/* A zeroed struct arena is valid and empty. limit 0 means unlimited. */
void arena_init(struct arena *arena, size_t limit);
void arena_release(struct arena *arena);

/* NULL when out of memory, past the limit, or when count * size overflows. The result is zeroed
 * and lives until arena_release(). */
void *arena_alloc(struct arena *arena, size_t count, size_t size);
/* Copies `text` and adds a NUL (not counted in len). data is NULL on failure. */
struct str arena_copy_str(struct arena *arena, struct str text);
/* NUL-terminated copy, or NULL. */
char *arena_copy_cstr(struct arena *arena, const char *text);
/* NUL-terminated formatted text, or NULL. */
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
