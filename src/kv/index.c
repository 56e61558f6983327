/*
 * The prefix index: a hash table of blocks.
 *
 *   chain   block 0          block 1          block 2
 *   key     H(root, ids) ->  H(key 0, ids) -> H(key 1, ids)
 *   names   [page of group 0][page of group 1]...[pages of a checkpoint]
 *
 * A page that holds more tokens than a block is named by each block that ends in it; a hit takes the
 * page of the last block that it needs of it, since that page holds all before. The alternative,
 * blocks as long as the largest page, loses whole pages of prompts where groups differ in size.
 *
 * A block may lack some pages: those a windowed group let go or lost, a checkpoint it never had.
 * What a hit needs of those is checked in kv_match(). A block that lost a page of an unlimited group
 * is of no use to anybody and goes as a whole.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kv/internal.h"

enum status index_create(struct kv *kv, struct error *err)
{
    /* Blocks that pages may end, and as many pending ones, which have no pages yet; where they run
     * out, blocks go unannounced. */
    uint64_t n = 0;
    for (uint32_t i = 0; i < kv->config.n_groups; i++) {
        uint64_t per_page = kv->config.groups[i].tokens_per_page / kv->block_tokens;
        if (per_page && (n == 0 || per_page < n))
            n = per_page;
    }
    n = 2ull * kv->config.n_pages * (n ? n : 1) + kv->config.n_slots;
    kv->n_blocks = kv->config.no_index ? 0 : n < 1u << 30 ? (uint32_t)n : 1u << 30;
    kv->n_buckets = 16;
    while (kv->n_buckets < kv->n_blocks && kv->n_buckets < 1u << 30)
        kv->n_buckets *= 2;
    n = kv->n_blocks;
    kv->blocks = calloc(n + 1, sizeof *kv->blocks);
    kv->names = malloc((n * kv->n_places + 1) * sizeof *kv->names);
    kv->block_ids = malloc((n * kv->block_tokens + 1) * sizeof *kv->block_ids);
    kv->buckets = malloc(kv->n_buckets * sizeof *kv->buckets);
    if (!kv->blocks || !kv->names || !kv->block_ids || !kv->buckets)
        return error_set(err, STATUS_MEMORY, "out of memory for a prefix index of %u blocks",
                         kv->n_blocks);
    memset(kv->names, 0xff, n * kv->n_places * sizeof *kv->names);
    memset(kv->buckets, 0xff, kv->n_buckets * sizeof *kv->buckets);
    for (uint32_t i = 0; i < n; i++)
        kv->blocks[i].next = i + 1 < n ? i + 1 : NONE;
    kv->unused_block = n ? 0 : NONE;
    return STATUS_OK;
}

void index_free(struct kv *kv)
{
    free(kv->blocks);
    free(kv->names);
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

static bool is_empty(const struct kv *kv, uint32_t block)
{
    for (uint32_t i = 0; i < kv->n_places; i++)
        if (block_names(kv, block)[i].page != NONE)
            return false;
    return true;
}

/* Without K/V groups blocks stay though they name nothing, to show where prompts part: until their
 * room is needed. */
static void make_room(struct kv *kv)
{
    for (int look = 0; look < 64 && kv->unused_block == NONE && kv->n_kv_places == 0; look++) {
        kv->hand = (kv->hand + 1) % kv->n_blocks;
        if (kv->blocks[kv->hand].owner == NONE && is_empty(kv, kv->hand))
            index_drop(kv, kv->hand);
    }
}

/* Of the chain's first `end` tokens, those of prompt class. */
static uint32_t prompt_part(const struct kv_chain *chain, uint32_t end)
{
    return chain->n_prompt < end ? chain->n_prompt : end;
}

uint32_t index_add(struct kv *kv, const struct kv_chain *chain, uint32_t number, uint32_t owner)
{
    make_room(kv);
    uint32_t i = kv->unused_block, begin = number * kv->block_tokens;
    uint32_t end = begin + kv->block_tokens;
    if (i == NONE)
        return NONE;
    struct kv_block *block = &kv->blocks[i];
    kv->unused_block = block->next;
    uint32_t *bucket = &kv->buckets[chain->keys[number].low & (kv->n_buckets - 1)];
    *block = (struct kv_block){
        .key = chain->keys[number],
        .next = *bucket,
        .owner = owner,
        .end = end,
        .n_prompt = prompt_part(chain, end),
        .used = true,
    };
    *bucket = i;
    memcpy(kv->block_ids + (size_t)i * kv->block_tokens, chain->tokens + begin,
           kv->block_tokens * sizeof *kv->block_ids);
    return i;
}

/* ---- names of pages --------------------------------------------------------------------------- */

/* Where the block ends in its page of that place. */
static uint32_t end_in_page(const struct kv *kv, uint32_t block, uint32_t place)
{
    if (place >= kv->n_kv_places)
        return 1;
    uint32_t tokens = kv->config.groups[kv->place_groups[place]].tokens_per_page;
    return (kv->blocks[block].end - 1) % tokens + 1;
}

void index_name(struct kv *kv, uint32_t block, uint32_t place, uint32_t page,
                const struct kv_chain *chain)
{
    struct kv_name *name = &block_names(kv, block)[place];
    struct kv_block *b = &kv->blocks[block];
    if (page == NONE || name->page != NONE)
        return;
    struct kv_page *p = &kv->pages[page];
    uint32_t end = end_in_page(kv, block, place), n_prompt = prompt_part(chain, b->end);
    b->n_prompt = b->n_prompt > n_prompt ? b->n_prompt : n_prompt;
    *name = (struct kv_name){page, p->block};
    p->block = block;
    p->place = place;
    p->filled = p->filled > end ? p->filled : end;
    kv->n_state_pages += place >= kv->n_kv_places;
}

/* The last name gone, a page that no table names either is unused. */
static void take_name(struct kv *kv, uint32_t block, uint32_t place)
{
    struct kv_name *name = &block_names(kv, block)[place];
    uint32_t page = name->page;
    if (page == NONE)
        return;
    struct kv_page *p = &kv->pages[page];
    uint32_t *link = &p->block;
    while (*link != block)
        link = &block_names(kv, *link)[place].next;
    *link = name->next;
    name->page = NONE;
    kv->n_state_pages -= place >= kv->n_kv_places;
    p->filled = 0;
    for (uint32_t b = p->block; b != NONE; b = block_names(kv, b)[place].next) {
        uint32_t end = end_in_page(kv, b, place);
        p->filled = p->filled > end ? p->filled : end;
    }
    if (p->count || p->block != NONE)
        return;
    list_unlink(kv, &kv->kept[place >= kv->n_kv_places], page);
    kv->unused[kv->n_unused++] = page;
}

void index_drop(struct kv *kv, uint32_t block)
{
    struct kv_block *b = &kv->blocks[block];
    for (uint32_t i = 0; i < kv->n_places; i++)
        take_name(kv, block, i);
    uint32_t *link = &kv->buckets[b->key.low & (kv->n_buckets - 1)];
    while (*link != block)
        link = &kv->blocks[*link].next;
    *link = b->next;
    b->used = false;
    b->next = kv->unused_block;
    kv->unused_block = block;
}

void index_drop_if_empty(struct kv *kv, uint32_t block)
{
    if (kv->n_kv_places && is_empty(kv, block))
        index_drop(kv, block);
}

/* A block loses its pages of places [from, to), and is dropped with the last one. */
static void lose(struct kv *kv, uint32_t block, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        take_name(kv, block, i);
    index_drop_if_empty(kv, block);
}

void index_forget_state(struct kv *kv, uint32_t block)
{
    lose(kv, block, kv->n_kv_places, kv->n_places);
}

void index_forget(struct kv *kv, uint32_t page, uint32_t keep)
{
    uint32_t place = kv->pages[page].place, next;
    for (uint32_t b = kv->pages[page].block; b != NONE; b = next) {
        next = block_names(kv, b)[place].next;
        if (end_in_page(kv, b, place) <= keep)
            continue;
        if (place >= kv->n_kv_places)
            index_forget_state(kv, b);
        else if (kv->config.groups[kv->place_groups[place]].window)
            lose(kv, b, place, place + 1);
        else
            index_drop(kv, b);
    }
}

void kv_forget(struct kv *kv)
{
    for (uint32_t i = 0; i < kv->n_blocks; i++)
        if (kv->blocks[i].used)
            index_drop(kv, i);
}

/* ---- matching --------------------------------------------------------------------------------- */

uint32_t index_page(const struct kv *kv, const struct kv_chain *chain, uint32_t group,
                    uint32_t index, uint32_t cached)
{
    bool state = is_recurrent(kv, group);
    uint64_t end = (index + (uint64_t)1) * kv->config.groups[group].tokens_per_page;
    end = state ? cached : end;
    end = end < cached ? end : cached;
    uint32_t block = index_find(kv, chain, (uint32_t)end / kv->block_tokens - 1);
    return block_names(kv, block)[kv->places[group] + (state ? index : 0)].page;
}

/* The whole pages of each windowed group, without a gap up to where a walk along a chain is. */
struct walk {
    uint32_t runs[KV_GROUPS_MAX];
};

/* Extends the runs by a block; true where every window that ends with it is complete. A pending
 * block counts: it will be there. */
static bool windows_complete(const struct kv *kv, struct walk *walk, uint32_t block, uint32_t end)
{
    bool complete = true;
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        const struct kv_group_config *c = &kv->config.groups[g];
        if (c->tokens_per_page == 0 || c->window == 0)
            continue;
        bool here = block != NONE && (kv->blocks[block].owner != NONE ||
                                      block_names(kv, block)[kv->places[g]].page != NONE);
        bool whole = end % c->tokens_per_page == 0;
        if (whole)
            walk->runs[g] = here ? walk->runs[g] + 1 : 0;
        complete &=
            (here || whole) && walk->runs[g] >= end / c->tokens_per_page - first_kept(kv, g, end);
    }
    return complete;
}

static bool has_state(const struct kv *kv, uint32_t block)
{
    return !kv->any_state || block_names(kv, block)[kv->n_kv_places].page != NONE;
}

bool index_fits(const struct kv *kv, const struct kv_chain *chain, uint32_t block)
{
    const struct kv_block *b = &kv->blocks[block];
    uint32_t n_prompt = prompt_part(chain, b->end);
    if (kv->config.one_class)
        return true;
    return kv->config.reproducible ? b->n_prompt == n_prompt : b->n_prompt <= n_prompt;
}

struct kv_match kv_match(struct kv *kv, struct kv_chain *chain, uint32_t limit)
{
    struct kv_match match = {.owner = NONE};
    struct walk walk = {{0}};
    index_hash(kv, chain);
    uint32_t n = limit / kv->block_tokens, shared = 0, last = NONE;
    bool waits = false; /* a block that is still being computed was passed */
    n = n < chain->n_keys ? n : chain->n_keys;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t block = index_find(kv, chain, i), end = (i + 1) * kv->block_tokens;
        if (block == NONE ? kv->any_full : !index_fits(kv, chain, block))
            break;
        bool usable = windows_complete(kv, &walk, block, end);
        if (block == NONE) /* no group needs it for ever */
            continue;
        bool pending = kv->blocks[block].owner != NONE;
        waits |= pending;
        if (end % kv->hit_tokens)
            continue;
        shared = end;
        last = block;
        if (usable && has_state(kv, block) && !waits)
            match.cached = end;
        if (usable && waits && (has_state(kv, block) || kv->blocks[block].wants_state)) {
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
