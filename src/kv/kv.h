/*
 * kv: which page holds what. Integers only; no tensor, no device, no thread.
 *
 * One pool of equal pages with reference counts serves all layer groups. A sequence slot has one
 * table row per group; this module decides page numbers and hands out the table writes that the
 * next step must carry to the backend. A K/V group takes one page per tokens_per_page tokens; a
 * recurrent group takes a fixed number of pages for as long as the slot is open (two state slots).
 * A windowed group gives pages back as they leave the window: their table entries go stale and are
 * never read again.
 *
 * Geometry comes from the caller as plain numbers (program/layout.h computes them), so that a test
 * can run millions of steps without a model. All calls from the engine thread. Invariants, checked
 * by kv_check(): every page is free or counted exactly as often as tables (and, later, the prefix
 * index) name it; no page has two writers.
 */
#ifndef SLUICE_KV_KV_H
#define SLUICE_KV_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define KV_GROUPS_MAX 16
#define KV_PAGE_NONE  UINT32_MAX

struct kv_group_config {
    uint32_t tokens_per_page; /* 0: recurrent */
    uint32_t fixed_pages;     /* recurrent: pages per slot */
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
};

/* A change of a table entry that the backend must learn before the step that uses it. */
struct kv_write {
    uint32_t slot, group, index, page;
};

struct kv;

/* Pages a sequence of `tokens` tokens needs at its largest, over all groups. Of the configuration,
 * n_pages is not read: it serves to choose n_pages. */
uint64_t kv_config_pages(const struct kv_config *config, uint64_t tokens);

enum status kv_create(const struct kv_config *config, struct kv **out, struct error *err);
void kv_free(struct kv *kv); /* NULL allowed */

uint32_t kv_pages_free(const struct kv *kv);
uint32_t kv_pages_total(const struct kv *kv);
uint32_t kv_groups(const struct kv *kv);
/* kv_config_pages() of this pool. */
uint64_t kv_pages_for(const struct kv *kv, uint64_t tokens);

/* Opens a slot: takes the pages of recurrent groups. STATUS_MEMORY when too few are free (nothing
 * is taken then). Writes at most kv_open_writes() entries. */
enum status kv_open(struct kv *kv, uint32_t slot, struct kv_write *writes, uint32_t *n_writes,
                    struct error *err);
uint32_t kv_open_writes(const struct kv *kv);
/* Makes positions [0, length) of the slot writable; pages already there stay. `keep_from`: the
 * first position any row of the coming step still reads is keep_from - window + 1; pages of
 * windowed groups wholly before it are released. STATUS_MEMORY (nothing changed) when pages run
 * out, STATUS_LIMIT past the table's end or when `capacity` writes do not suffice. */
enum status kv_extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from,
                      struct kv_write *writes, uint32_t capacity, uint32_t *n_writes,
                      struct error *err);
/* Forgets positions from `length` on; whole pages past it are released. What a window already let
 * go does not come back, so `length` is at least the last keep_from where a group has a window. */
void kv_truncate(struct kv *kv, uint32_t slot, uint32_t length);
/* Releases everything the slot holds. */
void kv_close(struct kv *kv, uint32_t slot);
uint32_t kv_length(const struct kv *kv, uint32_t slot);
/* Table entry, or KV_PAGE_NONE where no page is held. */
uint32_t kv_page(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t index);

/* Full invariant check, for tests: false and a message on the first violation. */
bool kv_check(const struct kv *kv, struct error *err);

#endif
