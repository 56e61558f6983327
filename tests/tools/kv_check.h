/*
 * What only tests ask of kv/: its invariants (every page is unused, kept, or counted exactly as often
 * as tables and blocks name it, and what blocks name of a page is all there), and single lengths, table
 * entries and counts.
 */
#ifndef SLUICE_TESTS_KV_CHECK_H
#define SLUICE_TESTS_KV_CHECK_H

#include "kv/kv.h"

/* The invariants: false and a message on the first violation. */
bool kv_check(const struct kv *kv, struct error *err);
uint32_t kv_length(const struct kv *kv, uint32_t slot);
/* Table entry, or KV_PAGE_NONE where no page is held. */
uint32_t kv_page(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t index);
/* Table entries that name a page. */
uint32_t kv_page_count(const struct kv *kv, uint32_t page);

#endif
