/*
 * Building the double array level by level: a node is a range of the sorted strings and a depth.
 *
 * The children of a node need a base under which all their places are free. A single child, as most
 * nodes have, takes the first free place there is. For several a search goes over the free places
 * from `hint`, which moves on once a neighbourhood has refused too often, so that building stays
 * linear at the price of some empty places.
 */
#include "text/tokenizer/trie.h"

#include <stdlib.h>

#define TEXT_MAX     ((size_t)1 << 28)
#define REFUSALS_MAX 64
#define BYTES        256

struct range {
    uint32_t begin, end, depth, node;
};

struct builder {
    struct trie *trie;
    size_t capacity;
    /* From BYTES on, since a byte below a base of 0 could never reach lower places: no free place is
     * before low; searches for several begin at hint. */
    uint32_t low, hint;
    const struct trie_item *items;
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

/* Room up to unit `last`. */
static bool reserve(struct builder *b, size_t last)
{
    struct trie *trie = b->trie;
    if (last >= b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : 1024;
        while (capacity <= last)
            capacity *= 2;
        struct trie_unit *units = realloc(trie->units, capacity * sizeof *units);
        if (!units)
            return false;
        for (size_t i = b->capacity; i < capacity; i++)
            units[i] = (struct trie_unit){0, TRIE_END, TRIE_NONE};
        trie->units = units;
        b->capacity = capacity;
    }
    if (last >= trie->n_units)
        trie->n_units = (uint32_t)last + 1;
    return true;
}

static bool is_free(const struct builder *b, size_t at)
{
    return at != TRIE_ROOT && (at >= b->capacity || b->trie->units[at].check == TRIE_END);
}

static uint32_t next_free(const struct builder *b, uint32_t at)
{
    while (!is_free(b, at))
        at++;
    return at;
}

/* A base for the bytes (ascending). */
static uint32_t find_base(struct builder *b, const uint8_t *bytes, unsigned count)
{
    b->low = next_free(b, b->low);
    b->hint = next_free(b, b->hint < b->low ? b->low : b->hint);
    uint32_t at = count == 1 ? b->low : b->hint;
    for (unsigned refusals = 0;; refusals++, at++) {
        at = next_free(b, at);
        uint32_t base = at - bytes[0];
        unsigned fit = 1;
        while (fit < count && is_free(b, (size_t)base + bytes[fit]))
            fit++;
        if (refusals >= REFUSALS_MAX && count > 1)
            b->hint = at;
        if (fit == count)
            return base;
    }
}

/* Gives a node its children; their ranges go to `out`. Returns their number, or -1: no memory. */
static int expand(struct builder *b, const struct range *range, struct range *out)
{
    struct trie *trie = b->trie;
    const struct trie_item *items = b->items;
    uint8_t bytes[BYTES];
    unsigned count = 0;
    uint32_t at = range->begin;
    for (; at < range->end && items[at].text.len == range->depth; at++) {
        if (trie->units[range->node].id == TRIE_NONE)
            trie->units[range->node].id = items[at].id;
    }
    while (at < range->end) {
        uint8_t byte = (uint8_t)items[at].text.data[range->depth];
        uint32_t begin = at;
        while (at < range->end && (uint8_t)items[at].text.data[range->depth] == byte)
            at++;
        out[count] = (struct range){begin, at, range->depth + 1, 0};
        bytes[count++] = byte;
    }
    if (!count)
        return 0;
    uint32_t base = find_base(b, bytes, count);
    if (!reserve(b, (size_t)base + BYTES - 1))
        return -1;
    trie->units[range->node].base = base;
    for (unsigned i = 0; i < count; i++) {
        out[i].node = base + bytes[i];
        trie->units[out[i].node].check = range->node;
    }
    return (int)count;
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
    struct builder b = {.trie = trie, .items = items, .low = BYTES, .hint = BYTES};
    /* Every node there can be, in the order of levels. */
    struct range *ranges = malloc((bytes + 1 + BYTES) * sizeof *ranges);
    bool ok = ranges && reserve(&b, BYTES - 1);
    size_t count = 1;
    if (ok)
        ranges[0] = (struct range){(uint32_t)skip, (uint32_t)n, 0, TRIE_ROOT};
    for (size_t i = 0; ok && i < count; i++) {
        int children = expand(&b, &ranges[i], &ranges[count]);
        ok = children >= 0;
        count += ok ? (size_t)children : 0;
    }
    free(ranges);
    if (!ok) {
        trie_release(trie);
        return false;
    }
    struct trie_unit *fitted = realloc(trie->units, trie->n_units * sizeof *fitted);
    if (fitted)
        trie->units = fitted;
    return true;
}

void trie_release(struct trie *trie)
{
    free(trie->units);
    *trie = (struct trie){0};
}
