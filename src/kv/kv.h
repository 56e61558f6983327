/*
 * kv: which page holds what. Integers only; no tensor, no device, no thread.
 *
 * One pool of equal pages with reference counts serves all layer groups. A sequence slot has one
 * table row per group; this module decides page numbers and hands out the table writes (and page
 * copies) that the next step must carry to the backend. A K/V group takes one page per
 * tokens_per_page tokens; a windowed group gives pages back as they leave the window: their table
 * entries go stale and are never read again. A recurrent group has two states, written alternately
 * (the first half of fixed_pages holds one, the second the other): a step reads one, writes the
 * other, and whoever shares a state that was read keeps it.
 *
 * The prefix index keeps what was computed. Its unit is a block of a few tokens (KV_BLOCK_MAX, or the
 * power of two below it that divides the pages of all groups), so that a hit may end within a page:
 * the page is then shared, and copied by whoever writes it at a position that others hold or that a
 * block names; its last part is written in place. A block's key chains its parent's key, its tokens,
 * the salt and the pool's identity (XXH3, 128 bits, seeded); tokens are compared as well. A block is
 * pending while the slot that opened with it computes it, and usable from kv_commit() on; if that slot closes first, the block is forgotten
 * and whoever opens next computes it. Pages that only the index names are free, but keep what they
 * hold until they are needed: the one released longest ago goes first, a sequence's last page before
 * its first.
 *
 * Recurrent states are kept ("checkpoints") at ends of blocks: every checkpoint_every tokens, at the
 * last block of a prompt, where prompts were seen to part, and at the newest block of an answer;
 * within checkpoint_pages, oldest out.
 *
 * Geometry comes from the caller as plain numbers (program/layout.h computes them), so that a test
 * can run millions of steps without a model. All calls from the engine thread. Invariants, which
 * tests check (tests/tools/kv_check.c): every page is free or counted exactly as often as tables and
 * index name it; no position that a step may write is named twice.
 */
#ifndef SLUICE_KV_KV_H
#define SLUICE_KV_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define KV_GROUPS_MAX 16
#define KV_BLOCK_MAX  16 /* tokens */
#define KV_PAGE_NONE  UINT32_MAX

struct kv_group_config {
    uint32_t tokens_per_page; /* K/V: best a multiple of KV_BLOCK_MAX; recurrent: 0 */
    uint32_t fixed_pages;     /* recurrent: pages per slot, both states */
    uint32_t window;          /* tokens; 0: unlimited */
    uint32_t max_pages;       /* table row length */
};

struct kv_config {
    uint32_t n_pages;
    uint32_t n_slots;
    uint32_t n_groups;
    /* Most positions that one kv_extend() adds: it bounds what a windowed group holds at once, and
     * so what kv_pages_for() must promise. 0: unknown, windowed groups count in full. */
    uint32_t max_extend;
    struct kv_group_config groups[KV_GROUPS_MAX];
    bool no_index;     /* nothing is shared or kept */
    bool reproducible; /* blocks are reused only where all rows have the class they had before */
    bool one_class;    /* rows have the same bits in both numeric classes: nothing to tell apart */
    uint64_t seed;     /* secret: of the keys */
    uint64_t identity; /* what else tells contents apart: element type, adapter */
    uint32_t checkpoint_every; /* tokens, rounded up to where hits may end; 0: 2048 */
    uint32_t checkpoint_pages; /* most pages of the pool for checkpoints */
    uint32_t alignment; /* a power of two: hits end on multiples, where prompts can be cut; 0: 1 */
};

/* A change of a table entry that the backend must learn before the step that uses it. */
struct kv_write {
    uint32_t slot, group, index, page;
};

/* A page whose content the step must copy before its rows run, in order. */
struct kv_copy {
    uint32_t from, to;
};

/* Where calls put what the next step must carry. */
struct kv_changes {
    struct kv_write *writes;
    struct kv_copy *copies;
    uint32_t n_writes, max_writes, n_copies, max_copies;
};

struct kv_key {
    uint64_t low, high;
};

/* What a sequence consists of. Memory of the caller, who raises n_tokens as tokens become known;
 * kv fills in keys. A chain stays in place from kv_open() to kv_close(). */
struct kv_chain {
    const int32_t *tokens;
    struct kv_key *keys; /* room for kv_blocks() of the longest it may become */
    uint64_t salt;
    uint32_t n_tokens;
    uint32_t n_prompt; /* the first ones, of prompt class */
    uint32_t n_keys;
};

/* What the index has of a chain. */
struct kv_match {
    uint32_t cached;  /* tokens that need no computing */
    uint32_t pending; /* that need none once others have computed them; >= cached */
    uint32_t owner;   /* the slot that computes the last of those; KV_PAGE_NONE: none */
    uint32_t branch;  /* recurrent: end of what is shared, worth a checkpoint; else 0 */
};

struct kv;

/* Pages a sequence of `tokens` tokens needs at its largest, over all groups. Of the configuration,
 * n_pages is not read: it serves to choose n_pages. */
uint64_t kv_config_pages(const struct kv_config *config, uint64_t tokens);

enum status kv_create(const struct kv_config *config, struct kv **out, struct error *err);
void kv_free(struct kv *kv); /* NULL allowed */

/* Pages that can be had: unused ones, and kept ones that only the index names. */
uint32_t kv_pages_free(const struct kv *kv);
uint32_t kv_pages_cached(const struct kv *kv); /* the latter */
uint32_t kv_pages_total(const struct kv *kv);
uint32_t kv_groups(const struct kv *kv);
/* Whole blocks of so many tokens. */
uint32_t kv_blocks(const struct kv *kv, uint64_t tokens);
/* Table entries of a slot, and pages of recurrent groups that one step writes. */
uint32_t kv_slot_entries(const struct kv *kv);
uint32_t kv_state_pages(const struct kv *kv);
/* kv_config_pages() of this pool. */
uint64_t kv_pages_for(const struct kv *kv, uint64_t tokens);

/* What opening would find for the first `limit` tokens of the chain. Notes for recurrent groups that
 * this chain would like a checkpoint where it parts from one that is being computed. */
struct kv_match kv_match(struct kv *kv, struct kv_chain *chain, uint32_t limit);
/* Of the pages that opening with these first tokens and going on takes, those that kv_pages_free()
 * counts. */
uint32_t kv_match_pages(const struct kv *kv, const struct kv_chain *chain, uint32_t cached);
/* Opens a slot with the first match->cached tokens of the chain in place, and announces its further
 * whole blocks as pending. STATUS_LIMIT (nothing changed) when the table writes do not suffice. */
enum status kv_open(struct kv *kv, uint32_t slot, struct kv_chain *chain,
                    const struct kv_match *match, struct kv_changes *changes, struct error *err);
/* Opens `to` with everything that `from` holds; whoever writes a shared page first gets a copy. */
enum status kv_fork(struct kv *kv, uint32_t from, uint32_t to, struct kv_chain *chain,
                    struct kv_changes *changes, struct error *err);
/* Recurrent groups: the first position in (from, to] at which rows from `from` on must end so that a
 * checkpoint can be kept; `to` if there is none. */
uint32_t kv_cut(const struct kv *kv, uint32_t slot, uint32_t from, uint32_t to);
/* Makes positions up to `length` of the slot writable, and the other state the one to write.
 * `keep_from`: the first position any row of the coming step still reads is keep_from - window + 1;
 * pages of windowed groups wholly before it are released. STATUS_MEMORY (nothing changed) when pages
 * run out, STATUS_LIMIT past the table's end or when the changes have no room. */
enum status kv_extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from,
                      struct kv_changes *changes, struct error *err);
/* The step that computes the slot's positions was submitted: blocks that are complete, and whose
 * tokens are known, can be used by others. Cheap when there are none. */
void kv_commit(struct kv *kv, uint32_t slot);
/* Releases everything the slot holds; what is in the index stays there while it lasts. */
void kv_close(struct kv *kv, uint32_t slot);
/* Empties the index: the contents are not to be trusted any more. */
void kv_forget(struct kv *kv);

/* Which of the two states holds the newest. */
uint32_t kv_state(const struct kv *kv, uint32_t slot);

#endif
