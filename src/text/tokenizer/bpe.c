/*
 * Byte pair encoding.
 *
 * Words are short, so the common case is a small array of ids beside an array of the ranks of
 * neighbouring pairs: find the lowest by scanning, close the gap, look two pairs up again. Long
 * pieces (a megabyte of one character is one piece) use a linked list of nodes and a binary heap:
 *
 *     nodes   [a] <-> [b] <-> [c] ...         heap   rank << 32 | position of the left node
 *
 * The rank of a merge is its index, so a heap entry needs no more than these 8 bytes: it is stale
 * unless the ids at its node and the next are still the two parts of merge `rank`. The order of the
 * heap is rank first, then position, which is the order of the definition.
 */
#include "text/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

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

static void set_byte_ids(struct bpe *bpe, const struct vocabulary *vocabulary,
                         const struct byte_alphabet *alphabet)
{
    for (unsigned b = 0; b < 256; b++) {
        uint16_t c = alphabet->char_of[b];
        char text[2] = {(char)c, 0};
        struct str name = {text, 1};
        if (c >= 0x80) {
            text[0] = (char)(0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
            name.len = 2;
        }
        int32_t id = vocabulary_find(vocabulary, name);
        /* An added token's text is the text itself, so only in ASCII does it name a byte. */
        uint8_t kind = id == VOCABULARY_NONE ? TOKEN_UNUSED : vocabulary->tokens[id].kind;
        bool usable = kind == TOKEN_NORMAL || (kind == TOKEN_USER_DEFINED && c == b && c < 0x80);
        bpe->byte_ids[b] = usable ? id : vocabulary->unk;
    }
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
    bpe->merges = calloc(vocabulary->n_merges + (size_t)1, sizeof *bpe->merges);
    if (!bpe->pairs || !bpe->merges) {
        bpe_release(bpe);
        return false;
    }
    for (size_t i = 0; i < capacity; i++)
        bpe->pairs[i].rank = NO_RANK;
    for (uint32_t rank = 0; rank < vocabulary->n_merges; rank++) {
        const struct vocabulary_merge *merge = &vocabulary->merges[rank];
        bpe->merges[rank] = *merge;
        uint8_t kind = vocabulary->tokens[merge->result].kind;
        if (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN)
            continue;
        /* A pair that is listed twice has its last rank, as in the reference. */
        uint64_t key = (uint64_t)merge->left << 32 | merge->right;
        bpe->pairs[pair_slot(bpe, key)] = (struct bpe_pair){key, rank, merge->result};
    }
    set_byte_ids(bpe, vocabulary, alphabet);
    return true;
}

void bpe_release(struct bpe *bpe)
{
    free(bpe->pairs);
    free(bpe->merges);
    *bpe = (struct bpe){0};
}

void bpe_scratch_release(struct bpe_scratch *scratch)
{
    free(scratch->nodes);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

static uint64_t small_pair(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    const struct bpe_pair *pair = pair_find(bpe, left, right);
    return pair ? (uint64_t)pair->rank << 32 | pair->result : NO_PAIR;
}

static bool encode_small(const struct bpe *bpe, const uint8_t *bytes, size_t n_bytes,
                         struct token_list *out)
{
    uint32_t ids[SMALL_MAX];
    uint64_t pairs[SMALL_MAX]; /* pairs[i]: rank and result of (ids[i], ids[i + 1]) */
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (bpe->byte_ids[bytes[i]] != VOCABULARY_NONE)
            ids[n++] = (uint32_t)bpe->byte_ids[bytes[i]];
    }
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
    for (size_t i = 0; i < n; i++) {
        if (!token_list_add(out, (int32_t)ids[i]))
            return false;
    }
    return true;
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

static void push_pair(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t left)
{
    const struct bpe_node *nodes = scratch->nodes;
    const struct bpe_pair *pair = pair_find(bpe, nodes[left].id, nodes[nodes[left].next].id);
    if (pair)
        heap_push(scratch, (uint64_t)pair->rank << 32 | left);
}

static void merge_all(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_node *nodes = scratch->nodes;
    while (scratch->heap_count) {
        uint64_t top = heap_pop(scratch);
        const struct vocabulary_merge *merge = &bpe->merges[top >> 32];
        struct bpe_node *left = &nodes[(uint32_t)top];
        if (left->id != merge->left || left->next == NO_NODE ||
            nodes[left->next].id != merge->right)
            continue;
        struct bpe_node *right = &nodes[left->next];
        left->id = merge->result;
        left->next = right->next;
        right->id = UINT32_MAX; /* no merge has such a part: entries for it are stale */
        if (left->next != NO_NODE) {
            nodes[left->next].prev = (uint32_t)top;
            push_pair(bpe, scratch, (uint32_t)top);
        }
        if (left->prev != NO_NODE)
            push_pair(bpe, scratch, left->prev);
    }
}

static bool encode_large(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *bytes,
                         size_t n_bytes, struct token_list *out)
{
    if (!scratch_reserve(scratch, n_bytes))
        return false;
    struct bpe_node *nodes = scratch->nodes;
    uint32_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        int32_t id = bpe->byte_ids[bytes[i]];
        if (id == VOCABULARY_NONE)
            continue;
        nodes[n] = (struct bpe_node){(uint32_t)id, n ? n - 1 : NO_NODE, n + 1};
        n++;
    }
    if (n == 0)
        return true;
    nodes[n - 1].next = NO_NODE;
    for (uint32_t i = 0; i + 1 < n; i++) {
        const struct bpe_pair *pair = pair_find(bpe, nodes[i].id, nodes[i + 1].id);
        if (pair)
            scratch->heap[scratch->heap_count++] = (uint64_t)pair->rank << 32 | i;
    }
    for (size_t i = scratch->heap_count / 2; i-- > 0;)
        heap_sift_down(scratch->heap, scratch->heap_count, i);
    merge_all(bpe, scratch);
    for (uint32_t i = 0; i != NO_NODE; i = nodes[i].next) {
        if (!token_list_add(out, (int32_t)nodes[i].id))
            return false;
    }
    return true;
}

bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *bytes, size_t n,
                struct token_list *out)
{
    if (n <= SMALL_MAX)
        return encode_small(bpe, bytes, n, out);
    return encode_large(bpe, scratch, bytes, n, out);
}
