/*
 * Inside kv: pool.c counts pages, index.c knows blocks, slot.c holds tables, check.c checks.
 *
 * A page is named by table entries and by at most one place of one block. Only named by the index,
 * it stands in a list of pages that can be had (K/V and states apart), released longest ago first.
 */
#ifndef SLUICE_KV_INTERNAL_H
#define SLUICE_KV_INTERNAL_H

#include <stddef.h>

#include "kv/kv.h"

#define NONE UINT32_MAX

struct kv_page {
    uint32_t count; /* names; 0: unused */
    uint32_t block; /* that names it; NONE */
    uint32_t place; /* there */
    uint32_t previous, next;
    uint64_t released; /* when it joined its list */
};

struct kv_list {
    uint32_t first, last, count;
};

/* A block's places: the pages of each K/V group, then those of a checkpoint. */
struct kv_block {
    struct kv_key key;
    uint32_t next;   /* in its hash bucket, or of the unused ones */
    uint32_t owner;  /* slot while pending; NONE: usable */
    uint32_t border; /* its first rows that are of prompt class */
    bool used;
    bool wants_state; /* pending: somebody parts from the owner at its end */
};

struct kv_span {
    uint32_t begin, end;
};

struct kv_slot {
    bool open;
    uint32_t length;
    uint32_t state;     /* 0, 1 */
    uint32_t published; /* blocks that kv_commit() has seen */
    uint32_t announced; /* blocks that may be pending in its name */
    uint32_t branch;
    struct kv_chain *chain;
    struct kv_span spans[KV_GROUPS_MAX];
};

struct kv {
    struct kv_config config;
    uint32_t offsets[KV_GROUPS_MAX]; /* of a group's row within a slot's table */
    uint32_t slot_entries;
    uint8_t shifts[KV_GROUPS_MAX]; /* K/V: log2 of tokens_per_page */
    /* pool.c */
    struct kv_page *pages;
    uint32_t *unused; /* stack of the n_unused unused pages */
    uint32_t n_unused;
    struct kv_list kept[2]; /* K/V, states */
    uint64_t clock;
    /* index.c */
    uint32_t block_tokens, n_places, n_kv_places;
    uint32_t places[KV_GROUPS_MAX]; /* first of each group */
    bool any_full, any_state;
    uint32_t checkpoint_every, n_state_pages; /* in checkpoints */
    struct kv_block *blocks;
    uint32_t *block_pages; /* [n_blocks][n_places] */
    int32_t *block_ids;    /* [n_blocks][block_tokens] */
    uint32_t n_blocks, unused_block;
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

static inline uint32_t *block_places(const struct kv *kv, uint32_t block)
{
    return kv->block_pages + (size_t)block * kv->n_places;
}

static inline bool is_recurrent(const struct kv *kv, uint32_t group)
{
    return kv->config.groups[group].tokens_per_page == 0;
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
void index_drop(struct kv *kv, uint32_t block);
/* The page, kept by the index only, is wanted for something else. */
void index_evict(struct kv *kv, uint32_t page);
void index_hash(const struct kv *kv, struct kv_chain *chain);
/* First table index that rows from `position` on still read. */
uint32_t first_kept(const struct kv_group_config *g, uint32_t position);

#endif
