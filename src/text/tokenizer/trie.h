/*
 * A set of byte strings with ids, for "which tokens begin here?".
 *
 * Built once from a list, read-only afterwards (any thread). Siblings lie beside each other, sorted
 * by byte; the root's children have a table, since most walks end there.
 */
#ifndef SLUICE_TEXT_TOKENIZER_TRIE_H
#define SLUICE_TEXT_TOKENIZER_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct trie_node {
    uint32_t first; /* child */
    int32_t id;     /* TRIE_NONE: no string ends here */
    uint16_t n_children;
    uint8_t byte;
};

#define TRIE_NONE (-1)
#define TRIE_ROOT 0u
#define TRIE_END  UINT32_MAX /* no such child */

struct trie {
    struct trie_node *nodes; /* owned */
    uint32_t n_nodes;
    uint32_t roots[256];
};

struct trie_item {
    struct str text;
    int32_t id;
};

/* Sorts items[n]; empty texts are left out, of equal texts the lowest id stays. False: out of
 * memory, or more than 2^28 bytes of text. */
bool trie_build(struct trie *trie, struct trie_item *items, size_t n);
void trie_release(struct trie *trie);

/* The child of a node, or TRIE_END. */
static inline uint32_t trie_child(const struct trie *trie, uint32_t node, uint8_t byte)
{
    if (node == TRIE_ROOT)
        return trie->roots[byte];
    const struct trie_node *parent = &trie->nodes[node];
    uint32_t low = parent->first, high = parent->first + parent->n_children;
    while (high - low > 4) {
        uint32_t middle = low + (high - low) / 2;
        if (trie->nodes[middle].byte <= byte)
            low = middle;
        else
            high = middle;
    }
    for (; low < high; low++) {
        if (trie->nodes[low].byte == byte)
            return low;
    }
    return TRIE_END;
}

#endif
