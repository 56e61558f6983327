/*
 * The prefix index: a hash table of blocks.
 *
 *   chain   block 0          block 1          block 2
 *   key     H(root, ids) ->  H(key 0, ids) -> H(key 1, ids)
 *   places  [pages of group 0][pages of group 1]...[pages of a checkpoint]
 *
 * A block may lack some places: a windowed group's pages that were let go or evicted, a checkpoint
 * it never had. What a hit needs is checked page by page in kv_match(). A block that lost a page of
 * an unlimited group is of no use to anybody and goes as a whole.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kv/internal.h"

enum status index_create(struct kv *kv, struct error *err)
{
    /* Pending blocks have no pages yet, so there may be more blocks than pages; where they run out,
     * blocks go unannounced. */
    kv->n_blocks = kv->config.no_index ? 0 : kv->config.n_pages * 2u + kv->config.n_slots;
    kv->n_buckets = 16;
    while (kv->n_buckets < kv->n_blocks && kv->n_buckets < 1u << 30)
        kv->n_buckets *= 2;
    size_t n = kv->n_blocks;
    kv->blocks = calloc(n + 1, sizeof *kv->blocks);
    kv->block_pages = malloc((n * kv->n_places + 1) * sizeof *kv->block_pages);
    kv->block_ids = malloc((n * kv->block_tokens + 1) * sizeof *kv->block_ids);
    kv->buckets = malloc(kv->n_buckets * sizeof *kv->buckets);
    if (!kv->blocks || !kv->block_pages || !kv->block_ids || !kv->buckets)
        return error_set(err, STATUS_MEMORY, "out of memory for a prefix index of %zu blocks", n);
    memset(kv->block_pages, 0xff, n * kv->n_places * sizeof *kv->block_pages);
    memset(kv->buckets, 0xff, kv->n_buckets * sizeof *kv->buckets);
    for (uint32_t i = 0; i < n; i++)
        kv->blocks[i].next = i + 1 < n ? i + 1 : NONE;
    kv->unused_block = n ? 0 : NONE;
    return STATUS_OK;
}

void index_free(struct kv *kv)
{
    free(kv->blocks);
    free(kv->block_pages);
    free(kv->block_ids);
    free(kv->buckets);
}

void index_hash(const struct kv *kv, struct kv_chain *chain)
{
    uint32_t n = chain->n_tokens / kv->block_tokens;
    for (; kv->n_blocks && chain->n_keys < n; chain->n_keys++) {
        const int32_t *ids = chain->tokens + (size_t)chain->n_keys * kv->block_tokens;
        XXH128_hash_t parent = {chain->salt, kv->config.identity};
        if (chain->n_keys)
            parent = (XXH128_hash_t){chain->keys[chain->n_keys - 1].low,
                                     chain->keys[chain->n_keys - 1].high};
        XXH128_hash_t own =
            XXH3_128bits_withSeed(ids, kv->block_tokens * sizeof *ids, kv->config.seed);
        const uint64_t both[4] = {parent.low64, parent.high64, own.low64, own.high64};
        XXH128_hash_t key = XXH3_128bits_withSeed(both, sizeof both, kv->config.seed);
        chain->keys[chain->n_keys] = (struct kv_key){key.low64, key.high64};
    }
}

uint32_t index_find(const struct kv *kv, const struct kv_chain *chain, uint32_t number)
{
    if (kv->n_blocks == 0)
        return NONE;
    struct kv_key key = chain->keys[number];
    const int32_t *ids = chain->tokens + (size_t)number * kv->block_tokens;
    uint32_t i = kv->buckets[key.low & (kv->n_buckets - 1)];
    while (i != NONE && (kv->blocks[i].key.low != key.low || kv->blocks[i].key.high != key.high ||
                         memcmp(kv->block_ids + (size_t)i * kv->block_tokens, ids,
                                kv->block_tokens * sizeof *ids) != 0))
        i = kv->blocks[i].next;
    return i;
}

uint32_t index_add(struct kv *kv, const struct kv_chain *chain, uint32_t number, uint32_t owner)
{
    uint32_t i = kv->unused_block, begin = number * kv->block_tokens;
    if (i == NONE)
        return NONE;
    struct kv_block *block = &kv->blocks[i];
    kv->unused_block = block->next;
    uint32_t border = chain->n_prompt > begin ? chain->n_prompt - begin : 0;
    uint32_t *bucket = &kv->buckets[chain->keys[number].low & (kv->n_buckets - 1)];
    *block = (struct kv_block){
        .key = chain->keys[number],
        .next = *bucket,
        .owner = owner,
        .border = border < kv->block_tokens ? border : kv->block_tokens,
        .used = true,
    };
    *bucket = i;
    memcpy(kv->block_ids + (size_t)i * kv->block_tokens, chain->tokens + begin,
           kv->block_tokens * sizeof *kv->block_ids);
    return i;
}

/* The index lets go of places [from, to) of a block. */
static void clear_places(struct kv *kv, uint32_t block, uint32_t from, uint32_t to)
{
    uint32_t *places = block_places(kv, block);
    for (uint32_t i = from; i < to; i++) {
        uint32_t page = places[i];
        if (page == NONE)
            continue;
        struct kv_page *p = &kv->pages[page];
        if (p->count == 1)
            list_unlink(kv, &kv->kept[i >= kv->n_kv_places], page);
        kv->n_state_pages -= i >= kv->n_kv_places;
        p->block = NONE;
        pool_release(kv, &places[i]);
    }
}

void index_drop(struct kv *kv, uint32_t block)
{
    struct kv_block *b = &kv->blocks[block];
    clear_places(kv, block, 0, kv->n_places);
    uint32_t *link = &kv->buckets[b->key.low & (kv->n_buckets - 1)];
    while (*link != block)
        link = &kv->blocks[*link].next;
    *link = b->next;
    b->used = false;
    b->next = kv->unused_block;
    kv->unused_block = block;
}

static bool is_empty(const struct kv *kv, uint32_t block)
{
    for (uint32_t i = 0; i < kv->n_places; i++)
        if (block_places(kv, block)[i] != NONE)
            return false;
    return true;
}

void index_evict(struct kv *kv, uint32_t page)
{
    uint32_t block = kv->pages[page].block, place = kv->pages[page].place;
    if (place >= kv->n_kv_places) {
        clear_places(kv, block, kv->n_kv_places, kv->n_places);
    } else {
        uint32_t group = 0;
        while (is_recurrent(kv, group) ||
               place >=
                   kv->places[group] + kv->block_tokens / kv->config.groups[group].tokens_per_page)
            group++;
        if (kv->config.groups[group].window == 0) {
            index_drop(kv, block);
            return;
        }
        clear_places(kv, block, place, place + 1);
    }
    if (is_empty(kv, block))
        index_drop(kv, block);
}

void kv_forget(struct kv *kv)
{
    for (uint32_t i = 0; i < kv->n_blocks; i++)
        if (kv->blocks[i].used)
            index_drop(kv, i);
}

/* ---- matching --------------------------------------------------------------------------------- */

/* One walk along a chain. */
struct walk {
    uint32_t runs[KV_GROUPS_MAX]; /* pages of each windowed group, without a gap up to here */
    bool pending;                 /* a block that is still being computed was passed */
};

static bool has_full_pages(const struct kv *kv, uint32_t block)
{
    const uint32_t *places = block_places(kv, block);
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        const struct kv_group_config *c = &kv->config.groups[g];
        if (c->tokens_per_page == 0 || c->window)
            continue;
        for (uint32_t i = 0; i < kv->block_tokens / c->tokens_per_page; i++)
            if (places[kv->places[g] + i] == NONE)
                return false;
    }
    return true;
}

uint32_t first_kept(const struct kv_group_config *g, uint32_t position)
{
    if (g->tokens_per_page == 0 || g->window == 0 || position < g->window)
        return 0;
    return (position - g->window + 1) / g->tokens_per_page;
}

/* Extends the runs by a block; true where every window that ends with it is complete. A pending
 * block counts: it will be there. */
static bool windows_complete(const struct kv *kv, struct walk *walk, uint32_t block, uint32_t end)
{
    bool complete = true;
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        const struct kv_group_config *c = &kv->config.groups[g];
        if (c->tokens_per_page == 0 || c->window == 0)
            continue;
        for (uint32_t i = 0; i < kv->block_tokens / c->tokens_per_page; i++) {
            bool here = block != NONE && (kv->blocks[block].owner != NONE ||
                                          block_places(kv, block)[kv->places[g] + i] != NONE);
            walk->runs[g] = here ? walk->runs[g] + 1 : 0;
        }
        complete &= walk->runs[g] >= end / c->tokens_per_page - first_kept(c, end);
    }
    return complete;
}

static bool has_state(const struct kv *kv, uint32_t block)
{
    return !kv->any_state || block_places(kv, block)[kv->n_kv_places] != NONE;
}

/* May the block stand for this part of the chain, as far as row classes go? */
static bool class_fits(const struct kv *kv, const struct kv_chain *chain, uint32_t block,
                       uint32_t number)
{
    if (!kv->config.reproducible || block == NONE)
        return true;
    uint32_t begin = number * kv->block_tokens;
    uint32_t border = chain->n_prompt > begin ? chain->n_prompt - begin : 0;
    return kv->blocks[block].border == (border < kv->block_tokens ? border : kv->block_tokens);
}

struct kv_match kv_match(struct kv *kv, struct kv_chain *chain, uint32_t limit)
{
    struct kv_match match = {.owner = NONE};
    struct walk walk = {.pending = false};
    index_hash(kv, chain);
    uint32_t n = limit / kv->block_tokens, shared = 0, last = NONE;
    n = n < chain->n_keys ? n : chain->n_keys;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t block = index_find(kv, chain, i), end = (i + 1) * kv->block_tokens;
        bool pending = block != NONE && kv->blocks[block].owner != NONE;
        if (!class_fits(kv, chain, block, i))
            break;
        if (kv->any_full && (block == NONE || (!pending && !has_full_pages(kv, block))))
            break;
        walk.pending |= pending;
        bool usable = windows_complete(kv, &walk, block, end);
        if (block == NONE) /* no group needs it for ever */
            continue;
        shared = end;
        last = block;
        if (usable && has_state(kv, block) && !walk.pending)
            match.cached = end;
        if (usable && walk.pending && (has_state(kv, block) || kv->blocks[block].wants_state)) {
            match.pending = end;
            if (pending)
                match.owner = kv->blocks[block].owner;
        }
    }
    if (kv->any_state && shared > match.cached) {
        match.branch = shared;
        if (kv->blocks[last].owner != NONE) {
            kv->blocks[last].wants_state = true;
            match.pending = shared;
            match.owner = kv->blocks[last].owner;
        }
    }
    if (match.pending < match.cached)
        match.pending = match.cached;
    return match;
}
