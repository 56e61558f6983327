/*
 * Pieces that were encoded before: prose repeats its words.
 *
 * A fixed number of places, one per hash; a newer piece takes the place of an older one. Only short
 * pieces of few tokens are kept, each place being one cache line. A cache belongs to one call at a
 * time: a call takes one from the tokenizer's pool, or makes one if its text is long, and leaves it
 * there for the next. What a piece becomes never changes, so a cache is never stale.
 */
#ifndef SLUICE_TEXT_TOKENIZER_PIECE_CACHE_H
#define SLUICE_TEXT_TOKENIZER_PIECE_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

#define PIECE_CACHE_BYTES 30
#define PIECE_CACHE_IDS   7

struct piece_cache_entry {
    uint8_t len; /* 0: empty place */
    uint8_t n_ids;
    char bytes[PIECE_CACHE_BYTES];
    int32_t ids[PIECE_CACHE_IDS];
    float margin; /* Unigram in single precision: see unigram_measure() */
};

#define PIECE_CACHE_BITS 14
#define PIECE_CACHE_POOL 4 /* caches that wait for a call */

/* Zeroed is valid. */
struct piece_cache_pool {
    struct piece_cache_entry *_Atomic waiting[PIECE_CACHE_POOL]; /* owned */
};
void piece_cache_pool_release(struct piece_cache_pool *pool);

struct piece_cache {
    struct piece_cache_entry *entries; /* owned; NULL: no cache, everything misses */
};

/* For a text of text_len bytes. Without memory there is no cache, which is no error. */
void piece_cache_open(struct piece_cache *cache, struct piece_cache_pool *pool, size_t text_len);
void piece_cache_close(struct piece_cache *cache, struct piece_cache_pool *pool);

/* The place of a piece of 1..PIECE_CACHE_BYTES bytes. */
static inline struct piece_cache_entry *piece_cache_place(const struct piece_cache *cache,
                                                          struct str piece)
{
    uint64_t head = 0, tail = 0;
    if (piece.len >= 8) {
        memcpy(&head, piece.data, 8);
        memcpy(&tail, piece.data + piece.len - 8, 8);
        if (piece.len > 16) {
            uint64_t middle;
            memcpy(&middle, piece.data + piece.len / 2 - 4, 8);
            head ^= middle * 0x9fb21c651e98df25ull;
        }
    } else if (piece.len >= 4) {
        uint32_t a, b;
        memcpy(&a, piece.data, 4);
        memcpy(&b, piece.data + piece.len - 4, 4);
        head = (uint64_t)a << 32 | b;
    } else {
        head = (uint64_t)(uint8_t)piece.data[0] << 16 |
               (uint64_t)(uint8_t)piece.data[piece.len / 2] << 8 |
               (uint8_t)piece.data[piece.len - 1];
    }
    uint64_t hash = (head ^ tail << 29 ^ tail >> 35 ^ piece.len) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93ull;
    return &cache->entries[hash >> (64 - PIECE_CACHE_BITS)];
}

#endif
