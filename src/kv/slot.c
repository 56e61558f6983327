/*
 * Slots and their tables. Every array is allocated by kv_create(); after that each call costs the
 * pages it touches, so a step's cost does not depend on how long sequences are.
 *
 * A K/V group's row of a slot holds pages exactly in [begin, end): begin moves up as a window leaves
 * pages behind, end with the length. A recurrent group's row has its two states; a state that was
 * never written has no pages.
 *
 *        index:   0 .. begin-1      begin .. end-1       end .. max_pages-1
 *                 left the window   held                 not reached
 *                 (NONE)                                 (NONE)
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kv/internal.h"

static enum status check_config(const struct kv_config *c, struct error *err)
{
    if (c->n_pages == 0 || c->n_pages > (1u << 30) || c->n_slots == 0)
        return error_set(err, STATUS_USAGE, "kv: %u pages for %u slots make no pool", c->n_pages,
                         c->n_slots);
    if (c->n_groups == 0 || c->n_groups > KV_GROUPS_MAX)
        return error_set(err, STATUS_USAGE, "kv: %u layer groups, at most %d are known",
                         c->n_groups, KV_GROUPS_MAX);
    for (uint32_t i = 0; i < c->n_groups; i++) {
        const struct kv_group_config *g = &c->groups[i];
        bool recurrent = g->tokens_per_page == 0;
        if (g->max_pages == 0 || (recurrent && (g->fixed_pages > g->max_pages ||
                                                g->fixed_pages == 0 || g->fixed_pages % 2)))
            return error_set(err, STATUS_USAGE, "kv: group %u has a table of %u pages for %u", i,
                             g->max_pages, g->fixed_pages);
        if (g->tokens_per_page & (g->tokens_per_page - 1))
            return error_set(err, STATUS_USAGE, "kv: group %u has %u tokens a page", i,
                             g->tokens_per_page);
    }
    return STATUS_OK;
}

/* Blocks and what they consist of. */
static void plan_blocks(struct kv *kv)
{
    const struct kv_config *c = &kv->config;
    kv->block_tokens = 1;
    while (kv->block_tokens < c->alignment)
        kv->block_tokens *= 2;
    for (uint32_t i = 0; i < c->n_groups; i++) {
        const struct kv_group_config *g = &c->groups[i];
        if (g->tokens_per_page > kv->block_tokens)
            kv->block_tokens = g->tokens_per_page;
        while (g->tokens_per_page >> kv->shifts[i] > 1)
            kv->shifts[i]++;
        kv->any_state |= g->tokens_per_page == 0;
        kv->any_full |= g->tokens_per_page && g->window == 0;
    }
    for (int states = 0; states < 2; states++) {
        for (uint32_t i = 0; i < c->n_groups; i++) {
            const struct kv_group_config *g = &c->groups[i];
            if ((g->tokens_per_page == 0) != (bool)states)
                continue;
            kv->places[i] = kv->n_places;
            kv->n_places += states ? g->fixed_pages / 2 : kv->block_tokens / g->tokens_per_page;
        }
        if (!states)
            kv->n_kv_places = kv->n_places;
    }
    uint32_t every = c->checkpoint_every ? c->checkpoint_every : 2048;
    kv->checkpoint_every = (every + kv->block_tokens - 1) / kv->block_tokens * kv->block_tokens;
}

static enum status create_tables(struct kv *kv, struct error *err)
{
    const struct kv_config *config = &kv->config;
    uint64_t entries = 0, bytes;
    for (uint32_t i = 0; i < config->n_groups; i++) {
        kv->offsets[i] = (uint32_t)entries;
        entries += config->groups[i].max_pages;
    }
    if (entries > UINT32_MAX || !checked_mul_u64(entries, config->n_slots, &bytes) ||
        !checked_mul_u64(bytes, sizeof(uint32_t), &bytes) || bytes > SIZE_MAX)
        return error_set(err, STATUS_MEMORY, "kv: tables of %llu pages for %u slots are too large",
                         (unsigned long long)entries, config->n_slots);
    kv->slot_entries = (uint32_t)entries;
    kv->unused = calloc(config->n_pages, sizeof *kv->unused);
    kv->pages = calloc(config->n_pages, sizeof *kv->pages);
    kv->slots = calloc(config->n_slots, sizeof *kv->slots);
    kv->tables = malloc((size_t)bytes);
    if (!kv->unused || !kv->pages || !kv->slots || !kv->tables)
        return error_set(err, STATUS_MEMORY, "out of memory for the tables of %u pages",
                         config->n_pages);
    memset(kv->tables, 0xff, (size_t)bytes);
    for (uint32_t i = 0; i < config->n_pages; i++) {
        kv->unused[i] = config->n_pages - 1 - i;
        kv->pages[i].block = NONE;
    }
    kv->n_unused = config->n_pages;
    return STATUS_OK;
}

enum status kv_create(const struct kv_config *config, struct kv **out, struct error *err)
{
    *out = NULL;
    enum status status = check_config(config, err);
    if (status != STATUS_OK)
        return status;
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return error_set(err, STATUS_MEMORY, "out of memory for the page pool");
    kv->config = *config;
    kv->kept[0] = kv->kept[1] = (struct kv_list){NONE, NONE, 0};
    plan_blocks(kv);
    status = create_tables(kv, err);
    if (status == STATUS_OK)
        status = index_create(kv, err);
    if (status == STATUS_OK)
        *out = kv;
    else
        kv_free(kv);
    return status;
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    index_free(kv);
    free(kv->unused);
    free(kv->pages);
    free(kv->slots);
    free(kv->tables);
    free(kv);
}

/* ---- numbers ---------------------------------------------------------------------------------- */

static uint64_t pages_covering(uint64_t tokens, uint32_t tokens_per_page)
{
    return tokens / tokens_per_page + (tokens % tokens_per_page != 0);
}

uint64_t kv_config_pages(const struct kv_config *config, uint64_t tokens)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < config->n_groups; i++) {
        const struct kv_group_config *g = &config->groups[i];
        if (g->tokens_per_page == 0) {
            total += g->fixed_pages;
            continue;
        }
        uint64_t pages = pages_covering(tokens, g->tokens_per_page);
        if (g->window && config->max_extend) {
            /* The window before the step's first row and the step's rows, wherever they begin
             * within a page. */
            uint64_t span = (uint64_t)g->window - 1 + config->max_extend;
            uint64_t most = (span + g->tokens_per_page - 2) / g->tokens_per_page + 1;
            pages = pages < most ? pages : most;
        }
        total += pages;
    }
    return total;
}

uint64_t kv_pages_for(const struct kv *kv, uint64_t tokens)
{
    return kv_config_pages(&kv->config, tokens);
}

uint32_t kv_groups(const struct kv *kv)
{
    return kv->config.n_groups;
}

uint32_t kv_block(const struct kv *kv)
{
    return kv->block_tokens;
}

uint32_t kv_blocks(const struct kv *kv, uint64_t tokens)
{
    return (uint32_t)(tokens / kv->block_tokens);
}

uint32_t kv_slot_entries(const struct kv *kv)
{
    return kv->slot_entries;
}

uint32_t kv_state_pages(const struct kv *kv)
{
    return kv->n_places - kv->n_kv_places;
}

uint32_t kv_length(const struct kv *kv, uint32_t slot)
{
    return kv->slots[slot].length;
}

uint32_t kv_state(const struct kv *kv, uint32_t slot)
{
    return kv->slots[slot].state;
}

uint32_t kv_page(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t index)
{
    if (slot >= kv->config.n_slots || group >= kv->config.n_groups ||
        index >= kv->config.groups[group].max_pages)
        return KV_PAGE_NONE;
    return kv_row(kv, slot, group)[index];
}

/* ---- opening ---------------------------------------------------------------------------------- */

static void write_entry(struct kv_changes *changes, uint32_t slot, uint32_t group, uint32_t index,
                        uint32_t page)
{
    changes->writes[changes->n_writes++] = (struct kv_write){slot, group, index, page};
}

static void name_page(struct kv *kv, uint32_t slot, uint32_t group, uint32_t index, uint32_t page,
                      struct kv_changes *changes)
{
    pool_share(kv, page);
    kv_row(kv, slot, group)[index] = page;
    write_entry(changes, slot, group, index, page);
}

/* Pages of a group that the first `cached` tokens of a chain bring. */
static void open_group(struct kv *kv, uint32_t slot, uint32_t group, uint32_t cached,
                       struct kv_changes *changes)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    struct kv_slot *s = &kv->slots[slot];
    if (g->tokens_per_page == 0) {
        uint32_t half = g->fixed_pages / 2;
        s->spans[group].end = g->fixed_pages;
        uint32_t block = cached ? index_find(kv, s->chain, cached / kv->block_tokens - 1) : NONE;
        for (uint32_t i = 0; cached && i < half; i++)
            name_page(kv, slot, group, i, block_places(kv, block)[kv->places[group] + i], changes);
        return;
    }
    uint32_t per_block = kv->block_tokens / g->tokens_per_page;
    struct kv_span span = {first_kept(g, cached), cached / g->tokens_per_page};
    s->spans[group] = span;
    for (uint32_t i = span.begin; i < span.end; i++) {
        uint32_t block = index_find(kv, s->chain, i / per_block);
        uint32_t place = kv->places[group] + i % per_block;
        name_page(kv, slot, group, i, block_places(kv, block)[place], changes);
    }
}

uint32_t kv_match_pages(const struct kv *kv, const struct kv_chain *chain, uint32_t cached)
{
    uint32_t n = 0;
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        uint32_t per_block = g->tokens_per_page ? kv->block_tokens / g->tokens_per_page : 1;
        uint32_t end = g->tokens_per_page ? cached / g->tokens_per_page : 0;
        for (uint32_t i = first_kept(g, cached); i < end; i++) {
            uint32_t block = index_find(kv, chain, i / per_block);
            n += kv->pages[block_places(kv, block)[kv->places[group] + i % per_block]].count == 1;
        }
    }
    return n + (cached ? kv_state_pages(kv) : 0);
}

enum status kv_open(struct kv *kv, uint32_t slot, struct kv_chain *chain,
                    const struct kv_match *match, struct kv_changes *changes, struct error *err)
{
    if (slot >= kv->config.n_slots || kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u cannot be opened", slot);
    uint64_t writes = match->cached ? kv_state_pages(kv) : 0;
    for (uint32_t i = 0; i < kv->config.n_groups; i++) {
        const struct kv_group_config *g = &kv->config.groups[i];
        if (g->tokens_per_page)
            writes += match->cached / g->tokens_per_page - first_kept(g, match->cached);
    }
    if (writes > changes->max_writes - changes->n_writes)
        return error_set(err, STATUS_LIMIT, "kv: %llu table writes to open a slot",
                         (unsigned long long)writes);
    struct kv_slot *s = &kv->slots[slot];
    *s = (struct kv_slot){.open = true,
                          .length = match->cached,
                          .published = match->cached / kv->block_tokens,
                          .branch = match->branch,
                          .chain = chain};
    for (uint32_t i = 0; i < kv->config.n_groups; i++)
        open_group(kv, slot, i, match->cached, changes);
    index_hash(kv, chain);
    for (s->announced = s->published; s->announced < chain->n_keys; s->announced++)
        if (index_find(kv, chain, s->announced) == NONE)
            index_add(kv, chain, s->announced, slot);
    return STATUS_OK;
}

enum status kv_fork(struct kv *kv, uint32_t from, uint32_t to, struct kv_chain *chain,
                    struct kv_changes *changes, struct error *err)
{
    const struct kv_slot *a = &kv->slots[from];
    if (!a->open || kv->slots[to].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u cannot fork into %u", from, to);
    uint64_t writes = 0;
    for (uint32_t i = 0; i < kv->config.n_groups; i++)
        writes += a->spans[i].end - a->spans[i].begin;
    if (writes > changes->max_writes - changes->n_writes)
        return error_set(err, STATUS_LIMIT, "kv: %llu table writes to fork",
                         (unsigned long long)writes);
    kv->slots[to] = *a;
    kv->slots[to].chain = chain;
    kv->slots[to].announced = 0;
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        uint32_t half = kv->config.groups[g].fixed_pages / 2;
        for (uint32_t i = a->spans[g].begin; i < a->spans[g].end; i++) {
            uint32_t page = kv_row(kv, from, g)[i];
            bool stale = is_recurrent(kv, g) && i / half != a->state;
            if (page != NONE && !stale)
                name_page(kv, to, g, i, page, changes);
        }
    }
    return STATUS_OK;
}

/* ---- growing ---------------------------------------------------------------------------------- */

/* What one extension takes; counted before anything changes, so that a failure changes nothing. */
struct need {
    uint64_t pages, copies, released;
};

/* Once this name is gone, the page can be had. */
static bool last_name(const struct kv *kv, uint32_t page)
{
    return kv->pages[page].count - (kv->pages[page].block != NONE) == 1;
}

static bool must_copy(const struct kv *kv, const struct kv_slot *s, uint32_t slot, uint32_t group,
                      uint32_t length)
{
    uint32_t tokens = kv->config.groups[group].tokens_per_page;
    return length > s->length && s->length % tokens &&
           kv->pages[kv_row(kv, slot, group)[s->length / tokens]].count > 1;
}

static struct need count_group(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t length,
                               uint32_t keep_from)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    const struct kv_slot *s = &kv->slots[slot];
    const uint32_t *row = kv_row(kv, slot, group);
    struct need need = {0, 0, 0};
    if (g->tokens_per_page == 0) {
        uint32_t half = g->fixed_pages / 2, at = (1 - s->state) * half;
        for (uint32_t i = at; length > s->length && i < at + half; i++) {
            bool replace = row[i] == NONE || kv->pages[row[i]].count > 1;
            need.pages += replace;
            need.released += replace && row[i] != NONE && last_name(kv, row[i]);
        }
        return need;
    }
    uint64_t end = pages_covering(length, g->tokens_per_page);
    need.copies = must_copy(kv, s, slot, group, length);
    need.pages = need.copies + (end > s->spans[group].end ? end - s->spans[group].end : 0);
    for (uint32_t i = s->spans[group].begin; i < first_kept(g, keep_from); i++)
        need.released += last_name(kv, row[i]);
    return need;
}

static enum status check_extend(const struct kv *kv, uint32_t slot, uint32_t length,
                                uint32_t keep_from, const struct kv_changes *changes,
                                struct error *err)
{
    struct need all = {0, 0, 0};
    for (uint32_t i = 0; i < kv->config.n_groups; i++) {
        const struct kv_group_config *g = &kv->config.groups[i];
        if (g->tokens_per_page && pages_covering(length, g->tokens_per_page) > g->max_pages)
            return error_set(err, STATUS_LIMIT, "kv: %u positions exceed a table of %u pages",
                             length, g->max_pages);
        struct need need = count_group(kv, slot, i, length, keep_from);
        all.pages += need.pages;
        all.copies += need.copies;
        all.released += need.released;
    }
    if (all.pages > changes->max_writes - changes->n_writes ||
        all.copies > changes->max_copies - changes->n_copies)
        return error_set(err, STATUS_LIMIT, "kv: %llu table writes, room for %u",
                         (unsigned long long)all.pages, changes->max_writes - changes->n_writes);
    if (all.pages > kv_pages_free(kv) + all.released)
        return error_set(err, STATUS_MEMORY, "kv: %llu pages are needed, %u are free",
                         (unsigned long long)all.pages, kv_pages_free(kv));
    return STATUS_OK;
}

static void take_entry(struct kv *kv, uint32_t slot, uint32_t group, uint32_t index,
                       struct kv_changes *changes)
{
    uint32_t page = pool_take(kv);
    kv_row(kv, slot, group)[index] = page;
    write_entry(changes, slot, group, index, page);
}

/* Gives back what rows from keep_from on do not read, and the state that is to be overwritten where
 * others hold it too. */
static void release_old(struct kv *kv, uint32_t slot, uint32_t group, uint32_t length,
                        uint32_t keep_from)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    struct kv_slot *s = &kv->slots[slot];
    uint32_t *row = kv_row(kv, slot, group);
    if (g->tokens_per_page) {
        struct kv_span *span = &s->spans[group];
        for (uint32_t kept = first_kept(g, keep_from); span->begin < kept; span->begin++)
            pool_release(kv, &row[span->begin]);
        return;
    }
    uint32_t half = g->fixed_pages / 2, at = (1 - s->state) * half;
    for (uint32_t i = at; length > s->length && i < at + half; i++)
        if (row[i] != NONE && kv->pages[row[i]].count > 1)
            pool_release(kv, &row[i]);
}

static void grow(struct kv *kv, uint32_t slot, uint32_t group, uint32_t length,
                 struct kv_changes *changes)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    struct kv_slot *s = &kv->slots[slot];
    uint32_t *row = kv_row(kv, slot, group);
    if (g->tokens_per_page == 0) {
        uint32_t half = g->fixed_pages / 2, at = (1 - s->state) * half;
        for (uint32_t i = at; length > s->length && i < at + half; i++)
            if (row[i] == NONE)
                take_entry(kv, slot, group, i, changes);
        return;
    }
    if (must_copy(kv, s, slot, group, length)) {
        uint32_t index = s->length / g->tokens_per_page, old = row[index];
        take_entry(kv, slot, group, index, changes);
        changes->copies[changes->n_copies++] = (struct kv_copy){old, row[index]};
        pool_release(kv, &old);
    }
    struct kv_span *span = &s->spans[group];
    for (uint64_t end = pages_covering(length, g->tokens_per_page); span->end < end; span->end++)
        take_entry(kv, slot, group, span->end, changes);
}

/* The step of most sequences most of the time: one row, and every page it touches is there. */
static bool extends_in_place(const struct kv *kv, uint32_t slot, uint32_t keep_from)
{
    const struct kv_slot *s = &kv->slots[slot];
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        const uint32_t *row = kv_row(kv, slot, group);
        uint32_t from = s->length >> kv->shifts[group], to = from + 1;
        if (g->tokens_per_page == 0) {
            from = (1 - s->state) * g->fixed_pages / 2;
            to = from + g->fixed_pages / 2;
        } else if (to != s->spans[group].end ||
                   (g->window && keep_from >= g->window &&
                    (keep_from - g->window + 1) >> kv->shifts[group] != s->spans[group].begin)) {
            return false;
        }
        for (uint32_t i = from; i < to; i++)
            if (row[i] == NONE || kv->pages[row[i]].count != 1)
                return false;
    }
    return true;
}

enum status kv_extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from,
                      struct kv_changes *changes, struct error *err)
{
    if (slot >= kv->config.n_slots || !kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u is not open", slot);
    struct kv_slot *s = &kv->slots[slot];
    keep_from = keep_from < s->length ? keep_from : s->length;
    if (length == s->length + 1 && extends_in_place(kv, slot, keep_from)) {
        s->length = length;
        s->state = 1 - s->state;
        return STATUS_OK;
    }
    enum status status = check_extend(kv, slot, length, keep_from, changes, err);
    if (status != STATUS_OK)
        return status;
    for (uint32_t group = 0; group < kv->config.n_groups; group++)
        release_old(kv, slot, group, length, keep_from);
    for (uint32_t group = 0; group < kv->config.n_groups; group++)
        grow(kv, slot, group, length, changes);
    if (length > s->length) {
        s->length = length;
        s->state = 1 - s->state;
    }
    return STATUS_OK;
}

/* ---- publishing ------------------------------------------------------------------------------- */

static bool checkpoint_wanted(const struct kv *kv, const struct kv_slot *s, uint32_t position)
{
    const struct kv_chain *chain = s->chain;
    uint32_t number = position / kv->block_tokens - 1;
    uint32_t last = (chain->n_prompt - 1) / kv->block_tokens * kv->block_tokens;
    if (position % kv->checkpoint_every == 0 || position == last || position == s->branch)
        return true;
    uint32_t block = number < chain->n_keys ? index_find(kv, chain, number) : NONE;
    return block != NONE && kv->blocks[block].wants_state;
}

uint32_t kv_cut(const struct kv *kv, uint32_t slot, uint32_t from, uint32_t to)
{
    const struct kv_slot *s = &kv->slots[slot];
    if (!kv->any_state || kv->n_blocks == 0)
        return to;
    for (uint32_t b = from / kv->block_tokens + 1; (uint64_t)b * kv->block_tokens < to; b++)
        if (checkpoint_wanted(kv, s, b * kv->block_tokens))
            return b * kv->block_tokens;
    return to;
}

static void keep_page(struct kv *kv, uint32_t block, uint32_t place, uint32_t page)
{
    if (page == NONE || kv->pages[page].block != NONE || block_places(kv, block)[place] != NONE)
        return;
    block_places(kv, block)[place] = page;
    kv->pages[page].count++;
    kv->pages[page].block = block;
    kv->pages[page].place = place;
    kv->n_state_pages += place >= kv->n_kv_places;
}

static void keep_state(struct kv *kv, uint32_t slot, uint32_t block)
{
    uint32_t n = kv_state_pages(kv);
    while (kv->n_state_pages + n > kv->config.checkpoint_pages) {
        if (kv->kept[1].first == NONE)
            return;
        index_evict(kv, kv->kept[1].first);
    }
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        uint32_t half = is_recurrent(kv, g) ? kv->config.groups[g].fixed_pages / 2 : 0;
        const uint32_t *row = kv_row(kv, slot, g) + kv->slots[slot].state * half;
        for (uint32_t i = 0; i < half; i++)
            keep_page(kv, block, kv->places[g] + i, row[i]);
    }
}

static void publish(struct kv *kv, uint32_t slot, uint32_t number)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t end = (number + 1) * kv->block_tokens;
    bool state = kv->any_state && end == s->length && checkpoint_wanted(kv, s, end);
    uint32_t block = index_find(kv, s->chain, number);
    if (block == NONE)
        block = index_add(kv, s->chain, number, NONE);
    if (block == NONE)
        return;
    kv->blocks[block].owner = NONE;
    kv->blocks[block].wants_state = false;
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        uint32_t tokens = kv->config.groups[g].tokens_per_page;
        uint32_t n = tokens ? kv->block_tokens / tokens : 0;
        for (uint32_t i = 0; i < n; i++)
            keep_page(kv, block, kv->places[g] + i, kv_row(kv, slot, g)[number * n + i]);
    }
    if (state && block_places(kv, block)[kv->n_kv_places] == NONE)
        keep_state(kv, slot, block);
    bool empty = true;
    for (uint32_t i = 0; i < kv->n_places; i++)
        empty &= block_places(kv, block)[i] == NONE;
    if (empty)
        index_drop(kv, block);
}

void kv_commit(struct kv *kv, uint32_t slot)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t known = s->length < s->chain->n_tokens ? s->length : s->chain->n_tokens;
    if (kv->n_blocks == 0 || s->published >= known / kv->block_tokens)
        return;
    index_hash(kv, s->chain);
    for (; s->published < known / kv->block_tokens; s->published++)
        publish(kv, slot, s->published);
}

/* ---- shrinking -------------------------------------------------------------------------------- */

/* Gives back the pages of a row from index `end` on, the last one first. */
static void shorten(struct kv *kv, uint32_t slot, uint32_t group, uint32_t end)
{
    struct kv_span *span = &kv->slots[slot].spans[group];
    uint32_t *row = kv_row(kv, slot, group);
    while (span->end > end && span->end > span->begin)
        if (row[--span->end] != NONE)
            pool_release(kv, &row[span->end]);
    if (span->end > end)
        span->begin = span->end = end;
}

void kv_truncate(struct kv *kv, uint32_t slot, uint32_t length)
{
    struct kv_slot *s = &kv->slots[slot];
    if (!s->open || length >= s->length)
        return;
    for (uint32_t group = 0; group < kv->config.n_groups; group++)
        if (!is_recurrent(kv, group))
            shorten(kv, slot, group,
                    (uint32_t)pages_covering(length, kv->config.groups[group].tokens_per_page));
    s->length = length;
    if (s->published > length / kv->block_tokens)
        s->published = length / kv->block_tokens;
}

void kv_close(struct kv *kv, uint32_t slot)
{
    struct kv_slot *s = &kv->slots[slot];
    if (!s->open)
        return;
    for (uint32_t number = s->published; number < s->announced; number++) {
        uint32_t block = index_find(kv, s->chain, number);
        if (block != NONE && kv->blocks[block].owner == slot)
            index_drop(kv, block);
    }
    for (uint32_t group = 0; group < kv->config.n_groups; group++)
        shorten(kv, slot, group, 0);
    *s = (struct kv_slot){.open = false};
}
