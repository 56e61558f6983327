/*
 * A set of byte strings with ids, for "which tokens begin here?".
 *
 * A double array: the children of a node lie at base + byte, all nodes' children in one array, each
 * saying whose child it is. A step of a walk is one memory access, whatever the byte.
 *
 *     units   ... [t: check s, id] ...      t = units[s].base + byte
 *
 * Built once from a list, read-only afterwards (any thread).
 */
#ifndef SLUICE_TEXT_TOKENIZER_TRIE_H
#define SLUICE_TEXT_TOKENIZER_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct trie_unit {
    uint32_t base;  /* children are here + byte; every unit has 256 units behind its base */
    uint32_t check; /* the parent; TRIE_END: no node is here */
    int32_t id;     /* TRIE_NONE: no string ends here */
};

#define TRIE_NONE (-1)
#define TRIE_ROOT 0u
#define TRIE_END  UINT32_MAX /* no such child */

struct trie {
    struct trie_unit *units; /* [n_units] owned */
    uint32_t n_units;
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
    uint32_t child = trie->units[node].base + byte;
    return trie->units[child].check == node ? child : TRIE_END;
}

static inline int32_t trie_id(const struct trie *trie, uint32_t node)
{
    return trie->units[node].id;
}

#endif
