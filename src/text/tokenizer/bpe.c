/*
 * Byte pair encoding.
 *
 * Words are short, so the common case is a small array of ids beside an array of the ranks of
 * neighbouring pairs: find the lowest by scanning, close the gap, look two pairs up again. Long
 * pieces (a megabyte of one character is one piece) use a linked list of nodes and a binary heap:
 *
 *     nodes   [a] <-> [b] <-> [c] ...         heap   rank << 32 | position of the left node
 *
 * Each node knows the rank of the pair that begins with it, so a heap entry needs no more than these
 * 8 bytes: it is stale unless its node still has that rank. The order of the heap is rank first, then
 * position, which is the order of the definition.
 */
#include "text/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "text/tokenizer/bpe_symbols.h"

#define NO_RANK   UINT32_MAX
#define NO_NODE   UINT32_MAX
#define NO_PAIR   UINT64_MAX
#define SMALL_MAX 48

static size_t pair_slot(const struct bpe *bpe, uint64_t key)
{
    /* Multiplicative hashing: the golden ratio spreads ids that differ in low bits. */
    size_t i = (size_t)(((key ^ key >> 29) * 0x9e3779b97f4a7c15ull) >> bpe->shift);
    while (bpe->pairs[i].rank != NO_RANK && bpe->pairs[i].key != key)
        i = (i + 1) & (bpe->capacity - 1);
    return i;
}

static const struct bpe_pair *pair_find(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const struct bpe_pair *pair = &bpe->pairs[pair_slot(bpe, (uint64_t)left << 32 | right)];
    return pair->rank == NO_RANK ? NULL : pair;
}

bool bpe_init(struct bpe *bpe, const struct vocabulary *vocabulary,
              const struct byte_alphabet *alphabet)
{
    *bpe = (struct bpe){0};
    size_t capacity = 16;
    unsigned bits = 4;
    while (capacity / 2 < vocabulary->n_merges) {
        capacity *= 2;
        bits++;
    }
    bpe->capacity = capacity;
    bpe->shift = 64 - bits;
    bpe->pairs = calloc(capacity, sizeof *bpe->pairs);
    if (!bpe->pairs || !bpe_symbols_init(&bpe->symbols, vocabulary, alphabet)) {
        bpe_release(bpe);
        return false;
    }
    for (size_t i = 0; i < capacity; i++)
        bpe->pairs[i].rank = NO_RANK;
    for (uint32_t i = 0; i < vocabulary->n_merges; i++) {
        const struct vocabulary_merge *merge = &vocabulary->merges[i];
        uint8_t kind = vocabulary->tokens[merge->result].kind;
        if (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN)
            continue;
        /* A pair that is listed twice has its last rank, as in the reference. */
        uint64_t key = (uint64_t)merge->left << 32 | merge->right;
        bpe->pairs[pair_slot(bpe, key)] = (struct bpe_pair){key, merge->rank, merge->result};
    }
    return true;
}

void bpe_release(struct bpe *bpe)
{
    free(bpe->pairs);
    bpe_symbols_release(&bpe->symbols);
    *bpe = (struct bpe){0};
}

void bpe_scratch_release(struct bpe_scratch *scratch)
{
    free(scratch->nodes);
    free(scratch->heap);
    free(scratch->ids);
    *scratch = (struct bpe_scratch){0};
}

static uint64_t small_pair(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const struct bpe_pair *pair = pair_find(bpe, left, right);
    return pair ? (uint64_t)pair->rank << 32 | pair->result : NO_PAIR;
}

static bool encode_small(const struct bpe *bpe, uint32_t *ids, size_t n, struct token_list *out)
{
    uint64_t pairs[SMALL_MAX]; /* pairs[i]: rank and result of (ids[i], ids[i + 1]) */
    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = small_pair(bpe, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (pairs[i] >> 32 < pairs[best] >> 32)
                best = i;
        }
        if (pairs[best] == NO_PAIR)
            break;
        ids[best] = (uint32_t)pairs[best];
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(pairs + best + 1, pairs + best + 2, (n - best - 2) * sizeof *pairs);
            pairs[best] = small_pair(bpe, ids[best], ids[best + 1]);
        }
        if (best)
            pairs[best - 1] = small_pair(bpe, ids[best - 1], ids[best]);
    }
    return bpe_symbols_put(&bpe->symbols, ids, n, out);
}

static void heap_sift_down(uint64_t *heap, size_t count, size_t i)
{
    uint64_t value = heap[i];
    for (size_t child = 2 * i + 1; child < count; child = 2 * i + 1) {
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (value <= heap[child])
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = value;
}

static uint64_t heap_pop(struct bpe_scratch *scratch)
{
    uint64_t top = scratch->heap[0];
    scratch->heap[0] = scratch->heap[--scratch->heap_count];
    if (scratch->heap_count)
        heap_sift_down(scratch->heap, scratch->heap_count, 0);
    return top;
}

/* Capacity was reserved: a piece of n symbols sees at most n - 1 pairs plus two per merge. */
static void heap_push(struct bpe_scratch *scratch, uint64_t value)
{
    uint64_t *heap = scratch->heap;
    size_t i = scratch->heap_count++;
    while (i && value < heap[(i - 1) / 2]) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = value;
}

static bool scratch_reserve(struct bpe_scratch *scratch, size_t n)
{
    if (n > scratch->nodes_capacity) {
        struct bpe_node *nodes = realloc(scratch->nodes, n * sizeof *nodes);
        if (!nodes)
            return false;
        scratch->nodes = nodes;
        scratch->nodes_capacity = n;
    }
    if (2 * n > scratch->heap_capacity) {
        uint64_t *heap = realloc(scratch->heap, 2 * n * sizeof *heap);
        if (!heap)
            return false;
        scratch->heap = heap;
        scratch->heap_capacity = 2 * n;
    }
    scratch->heap_count = 0;
    return true;
}

/* Looks the pair at `left` up again. */
static void set_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left)
{
    struct bpe_node *node = &scratch->nodes[left];
    const struct bpe_pair *pair =
        node->next == NO_NODE ? NULL : pair_find(bpe, node->id, scratch->nodes[node->next].id);
    node->rank = pair ? pair->rank : NO_RANK;
    node->result = pair ? pair->result : 0;
}

static void push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left)
{
    set_pair(bpe, scratch, left);
    if (scratch->nodes[left].rank != NO_RANK)
        heap_push(scratch, (uint64_t)scratch->nodes[left].rank << 32 | left);
}

static void merge_all(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_node *nodes = scratch->nodes;
    while (scratch->heap_count) {
        uint64_t top = heap_pop(scratch);
        struct bpe_node *left = &nodes[(uint32_t)top];
        if (left->rank != (uint32_t)(top >> 32))
            continue;
        struct bpe_node *right = &nodes[left->next];
        left->id = left->result;
        left->next = right->next;
        right->rank = NO_RANK;
        if (left->next != NO_NODE)
            nodes[left->next].prev = (uint32_t)top;
        push_pair(bpe, scratch, (uint32_t)top);
        if (left->prev != NO_NODE)
            push_pair(bpe, scratch, left->prev);
    }
}

/* ids: [n], the symbols; overwritten. */
static bool encode_large(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t *ids,
                         size_t n_ids, struct token_list *out)
{
    if (!scratch_reserve(scratch, n_ids))
        return false;
    struct bpe_node *nodes = scratch->nodes;
    uint32_t n = (uint32_t)n_ids;
    for (uint32_t i = 0; i < n; i++)
        nodes[i] =
            (struct bpe_node){ids[i], i ? i - 1 : NO_NODE, i + 1 < n ? i + 1 : NO_NODE, NO_RANK, 0};
    for (uint32_t i = 0; i + 1 < n; i++) {
        set_pair(bpe, scratch, i);
        if (nodes[i].rank != NO_RANK)
            scratch->heap[scratch->heap_count++] = (uint64_t)nodes[i].rank << 32 | i;
    }
    for (size_t i = scratch->heap_count / 2; i-- > 0;)
        heap_sift_down(scratch->heap, scratch->heap_count, i);
    merge_all(bpe, scratch);
    size_t kept = 0;
    for (uint32_t i = 0; i != NO_NODE; i = nodes[i].next)
        ids[kept++] = nodes[i].id;
    return bpe_symbols_put(&bpe->symbols, ids, kept, out);
}

bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *bytes, size_t n,
                struct token_list *out)
{
    uint32_t small[SMALL_MAX];
    uint32_t *ids = small;
    if (n > SMALL_MAX) {
        if (n > scratch->ids_capacity) {
            uint32_t *larger = realloc(scratch->ids, n * sizeof *larger);
            if (!larger)
                return false;
            scratch->ids = larger;
            scratch->ids_capacity = n;
        }
        ids = scratch->ids;
    }
    size_t n_ids = bpe_symbols_split(&bpe->symbols, bytes, n, ids);
    if (n_ids == 0)
        return true;
    return n_ids <= SMALL_MAX ? encode_small(bpe, ids, n_ids, out)
                              : encode_large(bpe, scratch, ids, n_ids, out);
}
