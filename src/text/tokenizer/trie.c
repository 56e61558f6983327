/* Building a trie level by level: a node is a range of the sorted strings and a depth. */
#include "text/tokenizer/trie.h"

#include <stdlib.h>

#define TEXT_MAX ((size_t)1 << 28)

struct range {
    uint32_t begin, end, depth;
};

static int by_text(const void *left, const void *right)
{
    const struct trie_item *a = left, *b = right;
    size_t n = a->text.len < b->text.len ? a->text.len : b->text.len;
    int order = n ? memcmp(a->text.data, b->text.data, n) : 0;
    if (order == 0 && a->text.len != b->text.len)
        order = a->text.len < b->text.len ? -1 : 1;
    return order ? order : (a->id > b->id) - (a->id < b->id);
}

/* ranges[i] belongs to nodes[i]; both have room for every node there can be. */
static void expand(struct trie *trie, struct range *ranges, const struct trie_item *items)
{
    trie->n_nodes = 1;
    for (uint32_t node = 0; node < trie->n_nodes; node++) {
        struct range range = ranges[node];
        struct trie_node *parent = &trie->nodes[node];
        uint32_t at = range.begin;
        for (; at < range.end && items[at].text.len == range.depth; at++) {
            if (parent->id == TRIE_NONE)
                parent->id = items[at].id;
        }
        parent->first = trie->n_nodes;
        while (at < range.end) {
            uint8_t byte = (uint8_t)items[at].text.data[range.depth];
            uint32_t begin = at;
            while (at < range.end && (uint8_t)items[at].text.data[range.depth] == byte)
                at++;
            trie->nodes[trie->n_nodes] = (struct trie_node){.id = TRIE_NONE, .byte = byte};
            ranges[trie->n_nodes++] = (struct range){begin, at, range.depth + 1};
            parent->n_children++;
        }
    }
}

bool trie_build(struct trie *trie, struct trie_item *items, size_t n)
{
    size_t bytes = 0;
    *trie = (struct trie){0};
    for (size_t i = 0; i < n; i++) {
        bytes += items[i].text.len;
        if (bytes > TEXT_MAX)
            return false;
    }
    if (n)
        qsort(items, n, sizeof *items, by_text);
    size_t skip = 0;
    while (skip < n && items[skip].text.len == 0)
        skip++;
    struct range *ranges = malloc((bytes + 1) * sizeof *ranges);
    trie->nodes = malloc((bytes + 1) * sizeof *trie->nodes);
    if (!ranges || !trie->nodes) {
        free(ranges);
        trie_release(trie);
        return false;
    }
    trie->nodes[0] = (struct trie_node){.id = TRIE_NONE};
    ranges[0] = (struct range){(uint32_t)skip, (uint32_t)n, 0};
    expand(trie, ranges, items);
    free(ranges);
    struct trie_node *fitted = realloc(trie->nodes, trie->n_nodes * sizeof *fitted);
    if (fitted)
        trie->nodes = fitted;
    for (unsigned b = 0; b < 256; b++)
        trie->roots[b] = TRIE_END;
    for (uint32_t i = 0; i < trie->nodes[0].n_children; i++)
        trie->roots[trie->nodes[1 + i].byte] = 1 + i;
    return true;
}

void trie_release(struct trie *trie)
{
    free(trie->nodes);
    *trie = (struct trie){0};
}
