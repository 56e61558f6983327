/*
 * Inside kv: pool.c counts pages, index.c knows blocks, slot.c holds tables.
 *
 * A page is named by table entries and by blocks: a K/V page by every block that ends in it, a page
 * of a state by one. Only named by blocks, it stands in a list of pages that can be had (K/V and
 * states apart), released longest ago first.
 */
#ifndef SLUICE_KV_INTERNAL_H
#define SLUICE_KV_INTERNAL_H

#include <stddef.h>

#include "kv/kv.h"

#define NONE UINT32_MAX

struct kv_page {
    uint32_t count;  /* table entries that name it */
    uint32_t block;  /* the first of the blocks that do; NONE */
    uint32_t place;  /* there */
    uint32_t filled; /* its first tokens, which blocks name: nobody may write them */
    uint32_t previous, next;
    uint64_t released; /* when it joined its list */
};

struct kv_list {
    uint32_t first, last, count;
};

/* A place of a block: for each K/V group the page in which the block ends (and all that is before it
 * in that page is of the block's chain), then the pages of a checkpoint. */
struct kv_name {
    uint32_t page; /* NONE */
    uint32_t next; /* block that names the page too */
};

struct kv_block {
    struct kv_key key;
    uint32_t next;     /* in its hash bucket, or of the unused ones */
    uint32_t owner;    /* slot while pending; NONE: usable */
    uint32_t end;      /* its tokens and those before it */
    uint32_t n_prompt; /* of those, the first ones, of prompt class (in some places at least) */
    bool used;
    bool wants_state; /* pending: somebody parts from the owner at its end */
};

struct kv_span {
    uint32_t begin, end;
};

struct kv_slot {
    bool open;
    uint32_t length;
    uint32_t before;    /* the length that the other state holds; NONE: unknown */
    uint32_t state;     /* 0, 1 */
    uint32_t published; /* blocks that kv_commit() has seen */
    uint32_t announced; /* blocks that may be pending in its name */
    uint32_t branch;
    uint32_t answer; /* where the checkpoint within its answer is; 0: nowhere */
    struct kv_chain *chain;
    struct kv_span spans[KV_GROUPS_MAX];
};

struct kv {
    struct kv_config config;
    uint32_t offsets[KV_GROUPS_MAX]; /* of a group's row within a slot's table */
    uint32_t slot_entries;
    /* pool.c */
    struct kv_page *pages;
    uint32_t *unused; /* stack of the n_unused unused pages */
    uint32_t n_unused;
    struct kv_list kept[2]; /* K/V, states */
    uint64_t clock;
    /* index.c */
    uint32_t block_tokens, n_places, n_kv_places;
    uint32_t hit_tokens;                 /* hits end on multiples of it */
    uint32_t places[KV_GROUPS_MAX];      /* first of each group */
    uint8_t place_groups[KV_GROUPS_MAX]; /* of K/V places */
    bool any_full, any_state;
    uint32_t n_state_pages; /* in checkpoints */
    struct kv_block *blocks;
    struct kv_name *names; /* [n_blocks][n_places] */
    int32_t *block_ids;    /* [n_blocks][block_tokens] */
    uint32_t n_blocks, unused_block, hand;
    uint32_t *buckets; /* [n_buckets], a power of two */
    uint32_t n_buckets;
    /* slot.c */
    struct kv_slot *slots;
    uint32_t *tables; /* [n_slots * slot_entries] */
};

static inline uint32_t *kv_row(const struct kv *kv, uint32_t slot, uint32_t group)
{
    return kv->tables + (size_t)slot * kv->slot_entries + kv->offsets[group];
}

static inline struct kv_name *block_names(const struct kv *kv, uint32_t block)
{
    return kv->names + (size_t)block * kv->n_places;
}

static inline bool is_recurrent(const struct kv *kv, uint32_t group)
{
    return kv->config.groups[group].tokens_per_page == 0;
}

/* K/V: table index of the page that holds a position. */
static inline uint32_t page_at(const struct kv *kv, uint32_t group, uint32_t position)
{
    return position / kv->config.groups[group].tokens_per_page;
}

/* First table index that rows from `position` on still read. */
static inline uint32_t first_kept(const struct kv *kv, uint32_t group, uint32_t position)
{
    uint32_t window = kv->config.groups[group].window;
    return window && position >= window ? page_at(kv, group, position - window + 1) : 0;
}

/* pool.c */
uint32_t pool_take(struct kv *kv); /* one must be there: kv_pages_free() */
void pool_share(struct kv *kv, uint32_t page);
void pool_release(struct kv *kv, uint32_t *entry); /* sets it to NONE */
void list_append(struct kv *kv, struct kv_list *list, uint32_t page);
void list_unlink(struct kv *kv, struct kv_list *list, uint32_t page);

/* index.c */
enum status index_create(struct kv *kv, struct error *err);
void index_free(struct kv *kv);
uint32_t index_find(const struct kv *kv, const struct kv_chain *chain, uint32_t number);
uint32_t index_add(struct kv *kv, const struct kv_chain *chain, uint32_t number, uint32_t owner);
/* May the block stand for its part of the chain, as far as numeric classes go? Where there are two, a
 * prompt may go on from generated rows, unless all is to be reproducible; who resumes never gets prompt
 * rows for its own. */
bool index_fits(const struct kv *kv, const struct kv_chain *chain, uint32_t block);
void index_drop(struct kv *kv, uint32_t block);
void index_drop_if_empty(struct kv *kv, uint32_t block);
/* A block names a page that a slot with this chain holds, unless it has one in that place. Rows of other
 * slots may be in other places: then the block is of prompt class as far as any of them is. */
void index_name(struct kv *kv, uint32_t block, uint32_t place, uint32_t page,
                const struct kv_chain *chain);
/* Forgets what the index has in a page past its first `keep` tokens. With 0 it is no longer named. */
void index_forget(struct kv *kv, uint32_t page, uint32_t keep);
/* Forgets a block's checkpoint. */
void index_forget_state(struct kv *kv, uint32_t block);
void index_hash(const struct kv *kv, struct kv_chain *chain);
/* The page that a hit of `cached` tokens puts into a group's table row. */
uint32_t index_page(const struct kv *kv, const struct kv_chain *chain, uint32_t group,
                    uint32_t index, uint32_t cached);

#endif
