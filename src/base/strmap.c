/* strmap: linear probing at most three quarters full. */
#include "base/strmap.h"

#include <stdlib.h>
#include <xxhash.h>

void strmap_release(struct strmap *map)
{
    free(map->entries);
    *map = (struct strmap){0};
}

static struct strmap_entry *strmap_slot(struct strmap_entry *entries, size_t capacity,
                                        struct str key, uint64_t hash)
{
    size_t i = (size_t)hash & (capacity - 1);
    while (entries[i].key.data && !(entries[i].hash == hash && str_eq(entries[i].key, key)))
        i = (i + 1) & (capacity - 1);
    return &entries[i];
}

static bool strmap_grow(struct strmap *map, size_t capacity)
{
    struct strmap_entry *entries = calloc(capacity, sizeof *entries);
    if (!entries)
        return false;
    for (size_t i = 0; i < map->capacity; i++) {
        const struct strmap_entry *old = &map->entries[i];
        if (old->key.data)
            *strmap_slot(entries, capacity, old->key, old->hash) = *old;
    }
    free(map->entries);
    map->entries = entries;
    map->capacity = capacity;
    return true;
}

bool strmap_reserve(struct strmap *map, size_t count)
{
    size_t capacity = map->capacity ? map->capacity : 16;
    while (capacity / 4 * 3 <= count) {
        if (capacity > SIZE_MAX / 2 / sizeof(struct strmap_entry))
            return false;
        capacity *= 2;
    }
    return capacity == map->capacity || strmap_grow(map, capacity);
}

static bool strmap_set(struct strmap *map, struct str key, int64_t value, bool replace,
                       bool *existed)
{
    if (!strmap_reserve(map, map->count + 1))
        return false;
    if (!key.data)
        key.data = "";
    uint64_t hash = XXH3_64bits(key.data, key.len);
    struct strmap_entry *entry = strmap_slot(map->entries, map->capacity, key, hash);
    bool present = entry->key.data != NULL;
    if (existed)
        *existed = present;
    if (!present || replace)
        *entry = (struct strmap_entry){key, hash, value};
    map->count += !present;
    return true;
}

bool strmap_put(struct strmap *map, struct str key, int64_t value, bool *existed)
{
    return strmap_set(map, key, value, true, existed);
}

bool strmap_add(struct strmap *map, struct str key, int64_t value, bool *existed)
{
    return strmap_set(map, key, value, false, existed);
}

const int64_t *strmap_get(const struct strmap *map, struct str key)
{
    if (!map->count)
        return NULL;
    if (!key.data)
        key.data = "";
    uint64_t hash = XXH3_64bits(key.data, key.len);
    struct strmap_entry *entry = strmap_slot(map->entries, map->capacity, key, hash);
    return entry->key.data ? &entry->value : NULL;
}
