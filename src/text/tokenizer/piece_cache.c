/* Sizing: about one place per 64 bytes of text, up to what second-level caches hold. */
#include "text/tokenizer/piece_cache.h"

#include <stdlib.h>

#define TEXT_MIN ((size_t)2 << 10)
#define BITS_MIN 6
#define BITS_MAX 14

void piece_cache_open(struct piece_cache *cache, size_t text_len)
{
    *cache = (struct piece_cache){.bits = BITS_MIN};
    if (text_len < TEXT_MIN)
        return;
    while (cache->bits < BITS_MAX && (size_t)64 << cache->bits < text_len)
        cache->bits++;
    cache->entries = calloc((size_t)1 << cache->bits, sizeof *cache->entries);
}

void piece_cache_close(struct piece_cache *cache)
{
    free(cache->entries);
    *cache = (struct piece_cache){0};
}
