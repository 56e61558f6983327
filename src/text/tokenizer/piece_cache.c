/* The pool: places that calls empty and fill by exchange, so that nobody waits. */
#include "text/tokenizer/piece_cache.h"

#include <stdlib.h>

#define TEXT_MIN ((size_t)2 << 10) /* a shorter text makes no cache of its own */

void piece_cache_pool_release(struct piece_cache_pool *pool)
{
    for (size_t i = 0; i < PIECE_CACHE_POOL; i++)
        free(atomic_exchange(&pool->waiting[i], NULL));
}

void piece_cache_open(struct piece_cache *cache, struct piece_cache_pool *pool, size_t text_len)
{
    cache->entries = NULL;
    for (size_t i = 0; i < PIECE_CACHE_POOL && !cache->entries; i++) {
        if (atomic_load_explicit(&pool->waiting[i], memory_order_relaxed))
            cache->entries = atomic_exchange(&pool->waiting[i], NULL);
    }
    if (!cache->entries && text_len >= TEXT_MIN)
        cache->entries = calloc((size_t)1 << PIECE_CACHE_BITS, sizeof *cache->entries);
}

void piece_cache_close(struct piece_cache *cache, struct piece_cache_pool *pool)
{
    struct piece_cache_entry *entries = cache->entries;
    for (size_t i = 0; i < PIECE_CACHE_POOL && entries; i++) {
        struct piece_cache_entry *none = NULL;
        if (atomic_compare_exchange_strong(&pool->waiting[i], &none, entries))
            entries = NULL;
    }
    free(entries);
    cache->entries = NULL;
}
