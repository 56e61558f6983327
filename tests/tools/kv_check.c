/* The invariants, counted anew from tables and index, and readings that nobody else needs. */
#include "kv_check.h"

#include <stdlib.h>

#include "kv/internal.h"

/* One table row: pages where they must be and nowhere else; counts them into `named`. */
static enum status check_row(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t *named,
                             struct error *err)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    const struct kv_slot *s = &kv->slots[slot];
    struct kv_span span = s->spans[group];
    uint64_t end = !s->open ? 0 : g->fixed_pages;
    if (s->open && g->tokens_per_page)
        end = ((uint64_t)s->length + g->tokens_per_page - 1) / g->tokens_per_page;
    if (span.begin > span.end || span.end != end)
        return error_set(err, STATUS_INTERNAL, "slot %u group %u holds pages %u..%u at length %u",
                         slot, group, span.begin, span.end, s->length);
    const uint32_t *row = kv_row(kv, slot, group);
    for (uint32_t i = 0; i < g->max_pages; i++) {
        bool held = i >= span.begin && i < span.end;
        if (!held && row[i] != NONE)
            return error_set(err, STATUS_INTERNAL, "slot %u group %u names page %u at %u", slot,
                             group, row[i], i);
        if (!held || (row[i] == NONE && g->tokens_per_page == 0))
            continue;
        if (row[i] >= kv->config.n_pages || kv->pages[row[i]].count == 0)
            return error_set(err, STATUS_INTERNAL, "slot %u group %u lost its page at %u", slot,
                             group, i);
        named[row[i]]++;
    }
    return STATUS_OK;
}

/* A page's own list of the blocks that name it. */
static bool lists(const struct kv *kv, uint32_t page, uint32_t place, uint32_t block)
{
    uint32_t b = kv->pages[page].block;
    while (b != NONE && b != block)
        b = block_names(kv, b)[place].next;
    return b == block && kv->pages[page].place == place;
}

static enum status check_block(const struct kv *kv, uint32_t block, uint32_t *named,
                               struct error *err)
{
    const struct kv_block *b = &kv->blocks[block];
    bool any = false;
    for (uint32_t i = 0; i < kv->n_places; i++) {
        uint32_t page = block_names(kv, block)[i].page;
        bool state = i >= kv->n_kv_places;
        const struct kv_group_config *g = state ? NULL : &kv->config.groups[kv->place_groups[i]];
        if (page == NONE && b->used && b->owner == NONE && g && g->window == 0)
            return error_set(err, STATUS_INTERNAL, "block %u lost a page", block);
        if (page == NONE)
            continue;
        any = true;
        uint32_t end = state ? 1 : (b->end - 1) % g->tokens_per_page + 1;
        if (!b->used || !lists(kv, page, i, block) || kv->pages[page].filled < end)
            return error_set(err, STATUS_INTERNAL, "block %u names page %u, which does not agree",
                             block, page);
        named[page]++;
    }
    bool kept = any || kv->n_kv_places == 0;
    if (b->used && (b->owner != NONE ? any : !kept))
        return error_set(err, STATUS_INTERNAL, "block %u is pending with pages, or kept without",
                         block);
    if (b->used && b->owner != NONE && !kv->slots[b->owner].open)
        return error_set(err, STATUS_INTERNAL, "block %u waits for slot %u, which is closed", block,
                         b->owner);
    return STATUS_OK;
}

bool kv_check(const struct kv *kv, struct error *err)
{
    /* By tables and by blocks. */
    uint32_t *named = calloc(2 * (size_t)kv->config.n_pages, sizeof *named);
    uint32_t *blocks = named ? named + kv->config.n_pages : NULL;
    if (!named) {
        error_set(err, STATUS_MEMORY, "out of memory for the check");
        return false;
    }
    enum status status = STATUS_OK;
    for (uint32_t slot = 0; slot < kv->config.n_slots && status == STATUS_OK; slot++)
        for (uint32_t group = 0; group < kv->config.n_groups && status == STATUS_OK; group++)
            status = check_row(kv, slot, group, named, err);
    for (uint32_t block = 0; block < kv->n_blocks && status == STATUS_OK; block++)
        status = check_block(kv, block, blocks, err);
    uint32_t n_unused = 0, n_kept = 0, n_states = 0;
    uint32_t in_lists = kv->kept[0].count + kv->kept[1].count;
    for (uint32_t page = 0; page < kv->config.n_pages && status == STATUS_OK; page++) {
        const struct kv_page *p = &kv->pages[page];
        n_unused += p->count == 0 && p->block == NONE;
        n_kept += p->count == 0 && p->block != NONE;
        n_states += p->block != NONE && p->place >= kv->n_kv_places;
        if (named[page] != p->count || (p->block == NONE) != (blocks[page] == 0) ||
            (p->block == NONE) != (p->filled == 0))
            status = error_set(err, STATUS_INTERNAL,
                               "page %u is counted %u times, named %u times and by %u blocks", page,
                               p->count, named[page], blocks[page]);
    }
    if (status == STATUS_OK &&
        (n_unused != kv->n_unused || n_kept != in_lists || n_states != kv->n_state_pages))
        status = error_set(err, STATUS_INTERNAL, "%u+%u pages are free, the lists hold %u+%u",
                           n_unused, n_kept, kv->n_unused, in_lists);
    free(named);
    return status == STATUS_OK;
}

uint32_t kv_length(const struct kv *kv, uint32_t slot)
{
    return kv->slots[slot].length;
}

uint32_t kv_page(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t index)
{
    if (slot >= kv->config.n_slots || group >= kv->config.n_groups ||
        index >= kv->config.groups[group].max_pages)
        return KV_PAGE_NONE;
    return kv_row(kv, slot, group)[index];
}

uint32_t kv_page_count(const struct kv *kv, uint32_t page)
{
    return kv->pages[page].count;
}
