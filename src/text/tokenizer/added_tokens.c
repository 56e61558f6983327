/*
 * Added tokens as a trie: children are linked lists, the root an array, since nearly every place of
 * a text fails on its first byte.
 */
#include "text/tokenizer/added_tokens.h"

#include <stdlib.h>

#include "text/tokenizer/vocabulary.h"

void added_tokens_release(struct added_tokens *set)
{
    free(set->nodes);
    *set = (struct added_tokens){0};
}

/* 0 on failure. */
static uint32_t node_new(struct added_tokens *set, uint8_t byte, uint32_t sibling)
{
    if (set->count + 1 >= set->capacity) {
        if (set->capacity > UINT32_MAX / 2)
            return 0;
        uint32_t capacity = set->capacity ? set->capacity * 2 : 256;
        struct added_node *nodes = realloc(set->nodes, capacity * sizeof *nodes);
        if (!nodes)
            return 0;
        set->nodes = nodes;
        set->capacity = capacity;
    }
    set->count++;
    set->nodes[set->count] = (struct added_node){0, sibling, VOCABULARY_NONE, byte};
    return set->count;
}

static uint32_t child_find(const struct added_tokens *set, uint32_t node, uint8_t byte)
{
    uint32_t child = set->nodes[node].child;
    while (child && set->nodes[child].byte != byte)
        child = set->nodes[child].sibling;
    return child;
}

bool added_tokens_add(struct added_tokens *set, struct str text, int32_t id)
{
    const uint8_t *bytes = (const uint8_t *)text.data;
    if (text.len == 0)
        return true;
    uint32_t node = set->roots[bytes[0]];
    if (!node) {
        node = node_new(set, bytes[0], 0);
        set->roots[bytes[0]] = node;
    }
    for (size_t i = 1; node && i < text.len; i++) {
        uint32_t child = child_find(set, node, bytes[i]);
        if (!child) {
            child = node_new(set, bytes[i], set->nodes[node].child);
            if (child)
                set->nodes[node].child = child;
        }
        node = child;
    }
    if (!node)
        return false;
    if (set->nodes[node].id == VOCABULARY_NONE)
        set->nodes[node].id = id;
    return true;
}

bool added_tokens_find(const struct added_tokens *set, struct str text, size_t from,
                       added_test test, void *user, struct added_match *match)
{
    if (!set->count)
        return false;
    const uint8_t *bytes = (const uint8_t *)text.data;
    for (size_t begin = from; begin < text.len; begin++) {
        uint32_t node = set->roots[bytes[begin]];
        if (!node)
            continue;
        bool found = false;
        for (size_t i = begin + 1; node; i++) {
            int32_t id = set->nodes[node].id;
            if (id != VOCABULARY_NONE && test(user, id, begin, i)) {
                *match = (struct added_match){id, begin, i};
                found = true;
            }
            node = i < text.len ? child_find(set, node, bytes[i]) : 0;
        }
        if (found)
            return true;
    }
    return false;
}
