/*
 * Page bookkeeping. Every array is allocated by kv_create(); after that each call costs the pages it
 * takes or gives back and nothing else, so a step's cost does not depend on how long sequences are.
 *
 *   free_pages   stack of the n_free free page numbers; the one freed last is taken first, since
 *                its memory is the likeliest to be in a cache
 *   counts       [n_pages] how many table entries name a page; 0 = free
 *   tables       [slot][group][max_pages] page numbers. A group's row holds pages exactly in
 *                [begin, end): begin moves up as a window leaves pages behind, end with the length.
 *
 *        index:   0 .. begin-1      begin .. end-1       end .. max_pages-1
 *                 left the window   held                 not reached
 *                 (NONE)                                 (NONE)
 */
#include "kv/kv.h"

#include <stdlib.h>

#include "base/checked.h"

struct kv_span {
    uint32_t begin, end;
};

struct kv_slot {
    bool open;
    uint32_t length;
    struct kv_span spans[KV_GROUPS_MAX];
};

struct kv {
    struct kv_config config;
    uint32_t offsets[KV_GROUPS_MAX]; /* of a group's row within a slot's table */
    uint32_t slot_entries;
    uint32_t open_pages; /* of all recurrent groups: what kv_open() takes */
    uint32_t n_free;
    uint32_t *free_pages; /* [n_pages] */
    uint32_t *counts;     /* [n_pages] */
    struct kv_slot *slots;
    uint32_t *tables; /* [n_slots * slot_entries] */
};

static enum status check_config(const struct kv_config *c, struct error *err)
{
    if (c->n_pages == 0 || c->n_pages == KV_PAGE_NONE || c->n_slots == 0)
        return error_set(err, STATUS_USAGE, "kv: %u pages for %u slots make no pool", c->n_pages,
                         c->n_slots);
    if (c->n_groups == 0 || c->n_groups > KV_GROUPS_MAX)
        return error_set(err, STATUS_USAGE, "kv: %u layer groups, at most %d are known",
                         c->n_groups, KV_GROUPS_MAX);
    for (uint32_t i = 0; i < c->n_groups; i++) {
        const struct kv_group_config *g = &c->groups[i];
        if (g->max_pages == 0 || (g->tokens_per_page == 0 && g->fixed_pages > g->max_pages))
            return error_set(err, STATUS_USAGE, "kv: group %u has a table of %u pages for %u", i,
                             g->max_pages, g->fixed_pages);
    }
    return STATUS_OK;
}

static uint32_t *row_of(const struct kv *kv, uint32_t slot, uint32_t group)
{
    return kv->tables + (size_t)slot * kv->slot_entries + kv->offsets[group];
}

enum status kv_create(const struct kv_config *config, struct kv **out, struct error *err)
{
    *out = NULL;
    enum status status = check_config(config, err);
    if (status != STATUS_OK)
        return status;
    uint64_t entries = 0, open_pages = 0, bytes;
    for (uint32_t i = 0; i < config->n_groups; i++)
        entries += config->groups[i].max_pages;
    if (entries > UINT32_MAX || !checked_mul_u64(entries, config->n_slots, &bytes) ||
        !checked_mul_u64(bytes, sizeof(uint32_t), &bytes) || bytes > SIZE_MAX)
        return error_set(err, STATUS_MEMORY, "kv: tables of %llu pages for %u slots are too large",
                         (unsigned long long)entries, config->n_slots);
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return error_set(err, STATUS_MEMORY, "out of memory for the page pool");
    kv->config = *config;
    entries = 0;
    for (uint32_t i = 0; i < config->n_groups; i++) {
        kv->offsets[i] = (uint32_t)entries;
        entries += config->groups[i].max_pages;
        if (config->groups[i].tokens_per_page == 0)
            open_pages += config->groups[i].fixed_pages;
    }
    kv->slot_entries = (uint32_t)entries;
    kv->open_pages = (uint32_t)open_pages;
    kv->free_pages = calloc(config->n_pages, sizeof *kv->free_pages);
    kv->counts = calloc(config->n_pages, sizeof *kv->counts);
    kv->slots = calloc(config->n_slots, sizeof *kv->slots);
    kv->tables = malloc((size_t)bytes);
    if (!kv->free_pages || !kv->counts || !kv->slots || !kv->tables) {
        kv_free(kv);
        return error_set(err, STATUS_MEMORY, "out of memory for the tables of %u pages",
                         config->n_pages);
    }
    for (size_t i = 0; i < (size_t)entries * config->n_slots; i++)
        kv->tables[i] = KV_PAGE_NONE;
    for (uint32_t i = 0; i < config->n_pages; i++)
        kv->free_pages[i] = config->n_pages - 1 - i;
    kv->n_free = config->n_pages;
    *out = kv;
    return STATUS_OK;
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    free(kv->free_pages);
    free(kv->counts);
    free(kv->slots);
    free(kv->tables);
    free(kv);
}

uint32_t kv_pages_free(const struct kv *kv)
{
    return kv->n_free;
}

uint32_t kv_pages_total(const struct kv *kv)
{
    return kv->config.n_pages;
}

uint32_t kv_groups(const struct kv *kv)
{
    return kv->config.n_groups;
}

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

static uint32_t take_page(struct kv *kv)
{
    uint32_t page = kv->free_pages[--kv->n_free];
    kv->counts[page] = 1;
    return page;
}

static void give_page(struct kv *kv, uint32_t *entry)
{
    uint32_t page = *entry;
    *entry = KV_PAGE_NONE;
    if (--kv->counts[page] == 0)
        kv->free_pages[kv->n_free++] = page;
}

uint32_t kv_open_writes(const struct kv *kv)
{
    return kv->open_pages;
}

enum status kv_open(struct kv *kv, uint32_t slot, struct kv_write *writes, uint32_t *n_writes,
                    struct error *err)
{
    *n_writes = 0;
    if (slot >= kv->config.n_slots || kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u cannot be opened", slot);
    if (kv->open_pages > kv->n_free)
        return error_set(err, STATUS_MEMORY, "kv: %u pages are needed, %u are free", kv->open_pages,
                         kv->n_free);
    struct kv_slot *s = &kv->slots[slot];
    *s = (struct kv_slot){.open = true};
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        uint32_t *row = row_of(kv, slot, group);
        uint32_t n = g->tokens_per_page == 0 ? g->fixed_pages : 0;
        for (uint32_t i = 0; i < n; i++) {
            row[i] = take_page(kv);
            writes[(*n_writes)++] = (struct kv_write){slot, group, i, row[i]};
        }
        s->spans[group].end = n;
    }
    return STATUS_OK;
}

/* First page of a group that rows from keep_from on still read. */
static uint32_t first_kept(const struct kv_group_config *g, const struct kv_slot *slot,
                           uint32_t keep_from)
{
    if (keep_from > slot->length)
        keep_from = slot->length;
    if (g->window == 0 || keep_from < g->window)
        return 0;
    return (keep_from - g->window + 1) / g->tokens_per_page;
}

/* Counts before anything changes, so that a failure leaves the slot as it was. */
static enum status check_extend(const struct kv *kv, uint32_t slot, uint32_t length,
                                uint32_t keep_from, uint32_t capacity, struct error *err)
{
    const struct kv_slot *s = &kv->slots[slot];
    uint64_t needed = 0, released = 0;
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        if (g->tokens_per_page == 0)
            continue;
        uint64_t end = pages_covering(length, g->tokens_per_page);
        if (end > g->max_pages)
            return error_set(err, STATUS_LIMIT,
                             "kv: %u positions need %llu pages, a table holds %u", length,
                             (unsigned long long)end, g->max_pages);
        if (end > s->spans[group].end)
            needed += end - s->spans[group].end;
        const uint32_t *row = row_of(kv, slot, group);
        for (uint32_t i = s->spans[group].begin; i < first_kept(g, s, keep_from); i++)
            released += kv->counts[row[i]] == 1;
    }
    if (needed > capacity)
        return error_set(err, STATUS_LIMIT, "kv: %llu table writes, room for %u",
                         (unsigned long long)needed, capacity);
    if (needed > kv->n_free + released)
        return error_set(err, STATUS_MEMORY, "kv: %llu pages are needed, %u are free",
                         (unsigned long long)needed, kv->n_free);
    return STATUS_OK;
}

enum status kv_extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from,
                      struct kv_write *writes, uint32_t capacity, uint32_t *n_writes,
                      struct error *err)
{
    *n_writes = 0;
    if (slot >= kv->config.n_slots || !kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u is not open", slot);
    enum status status = check_extend(kv, slot, length, keep_from, capacity, err);
    if (status != STATUS_OK)
        return status;
    struct kv_slot *s = &kv->slots[slot];
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        if (g->tokens_per_page == 0)
            continue;
        struct kv_span *span = &s->spans[group];
        uint32_t *row = row_of(kv, slot, group);
        for (uint32_t kept = first_kept(g, s, keep_from); span->begin < kept; span->begin++)
            give_page(kv, &row[span->begin]);
    }
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        if (g->tokens_per_page == 0)
            continue;
        struct kv_span *span = &s->spans[group];
        uint32_t *row = row_of(kv, slot, group);
        for (uint64_t end = pages_covering(length, g->tokens_per_page); span->end < end;
             span->end++) {
            row[span->end] = take_page(kv);
            writes[(*n_writes)++] = (struct kv_write){slot, group, span->end, row[span->end]};
        }
    }
    if (length > s->length)
        s->length = length;
    return STATUS_OK;
}

/* Gives back the pages of a row from index `end` on. */
static void shorten(struct kv *kv, uint32_t slot, uint32_t group, uint32_t end)
{
    struct kv_span *span = &kv->slots[slot].spans[group];
    uint32_t *row = row_of(kv, slot, group);
    while (span->end > end && span->end > span->begin)
        give_page(kv, &row[--span->end]);
    if (span->end > end)
        span->begin = span->end = end;
}

void kv_truncate(struct kv *kv, uint32_t slot, uint32_t length)
{
    struct kv_slot *s = &kv->slots[slot];
    if (!s->open || length >= s->length)
        return;
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        const struct kv_group_config *g = &kv->config.groups[group];
        if (g->tokens_per_page)
            shorten(kv, slot, group, (uint32_t)pages_covering(length, g->tokens_per_page));
    }
    s->length = length;
}

void kv_close(struct kv *kv, uint32_t slot)
{
    struct kv_slot *s = &kv->slots[slot];
    if (!s->open)
        return;
    for (uint32_t group = 0; group < kv->config.n_groups; group++)
        shorten(kv, slot, group, 0);
    *s = (struct kv_slot){0};
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
    return row_of(kv, slot, group)[index];
}

/* One table row: pages where they must be and nowhere else; counts them into `named`. */
static enum status check_row(const struct kv *kv, uint32_t slot, uint32_t group, uint32_t *named,
                             struct error *err)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    const struct kv_slot *s = &kv->slots[slot];
    struct kv_span span = s->spans[group];
    uint64_t end = !s->open             ? 0
                   : g->tokens_per_page ? pages_covering(s->length, g->tokens_per_page)
                                        : g->fixed_pages;
    if (span.begin > span.end || span.end != end)
        return error_set(err, STATUS_INTERNAL, "slot %u group %u holds pages %u..%u at length %u",
                         slot, group, span.begin, span.end, s->length);
    const uint32_t *row = row_of(kv, slot, group);
    for (uint32_t i = 0; i < g->max_pages; i++) {
        bool held = i >= span.begin && i < span.end;
        if (!held && row[i] != KV_PAGE_NONE)
            return error_set(err, STATUS_INTERNAL, "slot %u group %u names page %u at %u", slot,
                             group, row[i], i);
        if (!held)
            continue;
        if (row[i] >= kv->config.n_pages || kv->counts[row[i]] == 0)
            return error_set(err, STATUS_INTERNAL, "slot %u group %u lost its page at %u", slot,
                             group, i);
        bool writable = g->tokens_per_page == 0 || i >= s->length / g->tokens_per_page;
        if (writable && kv->counts[row[i]] != 1)
            return error_set(err, STATUS_INTERNAL, "page %u has %u writers", row[i],
                             kv->counts[row[i]]);
        named[row[i]]++;
    }
    return STATUS_OK;
}

bool kv_check(const struct kv *kv, struct error *err)
{
    uint32_t *named = calloc(kv->config.n_pages, sizeof *named);
    if (!named) {
        error_set(err, STATUS_MEMORY, "out of memory for the check");
        return false;
    }
    enum status status = STATUS_OK;
    for (uint32_t slot = 0; slot < kv->config.n_slots && status == STATUS_OK; slot++)
        for (uint32_t group = 0; group < kv->config.n_groups && status == STATUS_OK; group++)
            status = check_row(kv, slot, group, named, err);
    uint32_t n_used = 0;
    for (uint32_t page = 0; page < kv->config.n_pages && status == STATUS_OK; page++) {
        n_used += kv->counts[page] != 0;
        if (named[page] != kv->counts[page])
            status = error_set(err, STATUS_INTERNAL, "page %u is counted %u times, named %u times",
                               page, kv->counts[page], named[page]);
    }
    if (status == STATUS_OK && n_used + kv->n_free != kv->config.n_pages)
        status = error_set(err, STATUS_INTERNAL, "%u pages used, %u free, of %u", n_used,
                           kv->n_free, kv->config.n_pages);
    for (uint32_t i = 0; i < kv->n_free && status == STATUS_OK; i++) {
        if (kv->counts[kv->free_pages[i]] != 0 || named[kv->free_pages[i]] != 0)
            status = error_set(err, STATUS_INTERNAL, "page %u is free and used, or free twice",
                               kv->free_pages[i]);
        named[kv->free_pages[i]] = 1; /* seen */
    }
    free(named);
    return status == STATUS_OK;
}
