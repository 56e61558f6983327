/*
 * strmap: byte string -> int64, open addressing over XXH3.
 *
 * Keys are borrowed: the caller keeps their bytes alive (usually in an arena). One thread writes;
 * any number may read once writing has stopped.
 */
#ifndef SLUICE_BASE_STRMAP_H
#define SLUICE_BASE_STRMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct strmap_entry {
    struct str key; /* data NULL: empty place */
    uint64_t hash;
    int64_t value;
};

struct strmap {
    struct strmap_entry *entries; /* owned; `capacity` of them, a power of two */
    size_t count, capacity;
};

/* A zeroed struct strmap is valid and empty. */
void strmap_release(struct strmap *map);
/* Room for `count` keys without growing. False: out of memory. */
bool strmap_reserve(struct strmap *map, size_t count);
/* Adds or replaces. *existed (may be NULL) tells whether the key was there. False: no memory. */
bool strmap_put(struct strmap *map, struct str key, int64_t value, bool *existed);
/* Adds if absent; an existing value stays. */
bool strmap_add(struct strmap *map, struct str key, int64_t value, bool *existed);
/* NULL if absent. The pointer is valid until the next put/add. */
const int64_t *strmap_get(const struct strmap *map, struct str key);

#endif
