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
    }
    return STATUS_OK;
}

/* Blocks and what they name. */
static void plan_blocks(struct kv *kv)
{
    const struct kv_config *c = &kv->config;
    kv->block_tokens = KV_BLOCK_MAX;
    for (uint32_t i = 0; i < c->n_groups; i++) {
        uint32_t tokens = c->groups[i].tokens_per_page;
        if (tokens == 0) {
            kv->any_state = true;
            continue;
        }
        while (tokens % kv->block_tokens)
            kv->block_tokens /= 2;
        kv->any_full |= c->groups[i].window == 0;
        kv->place_groups[kv->n_places] = (uint8_t)i;
        kv->places[i] = kv->n_places++;
    }
    kv->n_kv_places = kv->n_places;
    for (uint32_t i = 0; i < c->n_groups; i++) {
        if (c->groups[i].tokens_per_page)
            continue;
        kv->places[i] = kv->n_places;
        kv->n_places += c->groups[i].fixed_pages / 2;
    }
    kv->hit_tokens = kv->block_tokens;
    while (kv->hit_tokens < c->alignment)
        kv->hit_tokens *= 2;
    uint32_t every = c->checkpoint_every ? c->checkpoint_every : 2048;
    kv->config.checkpoint_every = (every + kv->hit_tokens - 1) / kv->hit_tokens * kv->hit_tokens;
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

uint32_t kv_state(const struct kv *kv, uint32_t slot)
{
    return kv->slots[slot].state;
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

/* Table entries of a group that hold the first `cached` tokens of a chain. */
static struct kv_span cached_span(const struct kv *kv, uint32_t group, uint32_t cached)
{
    const struct kv_group_config *g = &kv->config.groups[group];
    if (g->tokens_per_page == 0)
        return (struct kv_span){0, cached ? g->fixed_pages / 2 : 0};
    return (struct kv_span){first_kept(kv, group, cached),
                            (uint32_t)pages_covering(cached, g->tokens_per_page)};
}

uint32_t kv_match_pages(const struct kv *kv, const struct kv_chain *chain, uint32_t cached)
{
    uint32_t n = 0;
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        struct kv_span span = cached_span(kv, group, cached);
        uint32_t whole = is_recurrent(kv, group) ? 0 : page_at(kv, group, cached);
        for (uint32_t i = span.begin; i < span.end; i++)
            n += i >= whole || kv->pages[index_page(kv, chain, group, i, cached)].count == 0;
    }
    return n;
}

enum status kv_open(struct kv *kv, uint32_t slot, struct kv_chain *chain,
                    const struct kv_match *match, struct kv_changes *changes, struct error *err)
{
    if (slot >= kv->config.n_slots || kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u cannot be opened", slot);
    uint64_t writes = 0;
    for (uint32_t i = 0; i < kv->config.n_groups; i++) {
        struct kv_span span = cached_span(kv, i, match->cached);
        writes += span.end - span.begin;
    }
    if (writes > changes->max_writes - changes->n_writes)
        return error_set(err, STATUS_LIMIT, "kv: %llu table writes to open a slot",
                         (unsigned long long)writes);
    struct kv_slot *s = &kv->slots[slot];
    *s = (struct kv_slot){.open = true,
                          .length = match->cached,
                          .before = NONE,
                          .published = match->cached / kv->block_tokens,
                          .branch = match->branch,
                          .chain = chain};
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        s->spans[g] = cached_span(kv, g, match->cached);
        for (uint32_t i = s->spans[g].begin; i < s->spans[g].end; i++)
            name_page(kv, slot, g, i, index_page(kv, chain, g, i, match->cached), changes);
        if (is_recurrent(kv, g))
            s->spans[g].end = kv->config.groups[g].fixed_pages;
    }
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
    kv->slots[to].announced = kv->slots[to].answer = 0;
    kv->slots[to].before = NONE;
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
    uint32_t pages, copies, released;
    bool leaves; /* a page leaves its window */
};

/* May the slot that names the page write it from position `length` on? */
static inline bool is_own(const struct kv *kv, uint32_t group, uint32_t page, uint32_t length)
{
    const struct kv_page *p = &kv->pages[page];
    uint32_t tokens = kv->config.groups[group].tokens_per_page;
    return p->count == 1 && p->filled <= (tokens ? length % tokens : 0);
}

/* Table entries that rows up to `length` write: of a recurrent group the other state, whole. */
static inline struct kv_span written(const struct kv *kv, const struct kv_slot *s, uint32_t group,
                                     uint32_t length)
{
    uint32_t half = kv->config.groups[group].fixed_pages / 2, at = s->state ? 0 : half;
    if (length <= s->length)
        return (struct kv_span){0, 0};
    if (is_recurrent(kv, group))
        return (struct kv_span){at, at + half};
    return (struct kv_span){page_at(kv, group, s->length), page_at(kv, group, length - 1) + 1};
}

static inline void count_group(const struct kv *kv, uint32_t slot, uint32_t group,
                               struct kv_span span, uint32_t keep_from, struct need *need)
{
    const struct kv_slot *s = &kv->slots[slot];
    const uint32_t *row = kv_row(kv, slot, group);
    for (uint32_t i = span.begin; i < span.end; i++) {
        if (row[i] != NONE && is_own(kv, group, row[i], s->length))
            continue;
        need->pages++;
        if (row[i] == NONE)
            continue;
        need->copies += !is_recurrent(kv, group);
        need->released += is_recurrent(kv, group) && kv->pages[row[i]].count == 1;
    }
    uint32_t kept = first_kept(kv, group, keep_from);
    need->leaves |= s->spans[group].begin < kept;
    for (uint32_t i = s->spans[group].begin; i < kept; i++)
        need->released += kv->pages[row[i]].count == 1;
}

static enum status check_extend(const struct kv *kv, uint32_t slot, uint32_t length,
                                uint32_t keep_from, const struct kv_changes *changes,
                                struct need *need, struct error *err)
{
    *need = (struct need){0};
    for (uint32_t i = 0; i < kv->config.n_groups; i++) {
        struct kv_span span = written(kv, &kv->slots[slot], i, length);
        if (span.end > kv->config.groups[i].max_pages)
            return error_set(err, STATUS_LIMIT, "kv: %u positions exceed a table of %u pages",
                             length, kv->config.groups[i].max_pages);
        count_group(kv, slot, i, span, keep_from, need);
    }
    if (need->pages > changes->max_writes - changes->n_writes ||
        need->copies > changes->max_copies - changes->n_copies)
        return error_set(err, STATUS_LIMIT, "kv: %u table writes, room for %u", need->pages,
                         changes->max_writes - changes->n_writes);
    if (need->pages > kv_pages_free(kv) + need->released)
        return error_set(err, STATUS_MEMORY, "kv: %u pages are needed, %u are free", need->pages,
                         kv_pages_free(kv));
    return STATUS_OK;
}

/* Where pages are short, what the index alone has of a page that the slot is to write is forgotten,
 * so that it need not be copied. */
static bool claim(struct kv *kv, uint32_t slot)
{
    const struct kv_slot *s = &kv->slots[slot];
    bool any = false;
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        uint32_t tokens = kv->config.groups[group].tokens_per_page;
        if (tokens == 0 || s->length % tokens == 0)
            continue;
        uint32_t page = kv_row(kv, slot, group)[s->length / tokens];
        if (kv->pages[page].count > 1 || is_own(kv, group, page, s->length))
            continue;
        index_forget(kv, page, s->length % tokens);
        any = true;
    }
    return any;
}

/* Gives back what rows from keep_from on do not read, and the state that is to be overwritten where
 * others hold it too. */
static void release_old(struct kv *kv, uint32_t slot, uint32_t group, uint32_t length,
                        uint32_t keep_from)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t *row = kv_row(kv, slot, group);
    uint32_t kept = first_kept(kv, group, keep_from);
    for (; s->spans[group].begin < kept; s->spans[group].begin++)
        pool_release(kv, &row[s->spans[group].begin]);
    struct kv_span span = written(kv, s, group, length);
    for (uint32_t i = span.begin; is_recurrent(kv, group) && i < span.end; i++)
        if (row[i] != NONE && !is_own(kv, group, row[i], 0))
            pool_release(kv, &row[i]);
}

static void grow(struct kv *kv, uint32_t slot, uint32_t group, uint32_t length,
                 struct kv_changes *changes)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t *row = kv_row(kv, slot, group);
    struct kv_span span = written(kv, s, group, length);
    for (uint32_t i = span.begin; i < span.end; i++) {
        uint32_t old = row[i];
        if (old != NONE && is_own(kv, group, old, s->length))
            continue;
        row[i] = pool_take(kv);
        write_entry(changes, slot, group, i, row[i]);
        if (old == NONE)
            continue;
        changes->copies[changes->n_copies++] = (struct kv_copy){old, row[i]};
        pool_release(kv, &old);
    }
    if (s->spans[group].end < span.end)
        s->spans[group].end = span.end;
}

enum status kv_extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from,
                      struct kv_changes *changes, struct error *err)
{
    if (slot >= kv->config.n_slots || !kv->slots[slot].open)
        return error_set(err, STATUS_INTERNAL, "kv: slot %u is not open", slot);
    struct kv_slot *s = &kv->slots[slot];
    struct need need;
    keep_from = keep_from < s->length ? keep_from : s->length;
    enum status status = check_extend(kv, slot, length, keep_from, changes, &need, err);
    if (status == STATUS_MEMORY && claim(kv, slot))
        status = check_extend(kv, slot, length, keep_from, changes, &need, err);
    if (status != STATUS_OK)
        return status;
    if (need.pages || need.leaves) { /* one row rarely needs anything */
        for (uint32_t group = 0; group < kv->config.n_groups; group++)
            release_old(kv, slot, group, length, keep_from);
        for (uint32_t group = 0; group < kv->config.n_groups; group++)
            grow(kv, slot, group, length, changes);
    }
    if (length > s->length) {
        s->before = s->length;
        s->length = length;
        s->state = 1 - s->state;
    }
    return STATUS_OK;
}

/* ---- publishing ------------------------------------------------------------------------------- */

/* Within a prompt: every so many tokens, at its end, and where others part from it. */
static bool checkpoint_wanted(const struct kv *kv, const struct kv_slot *s, uint32_t position)
{
    const struct kv_chain *chain = s->chain;
    uint32_t last = (chain->n_prompt - 1) / kv->hit_tokens * kv->hit_tokens;
    if (position % kv->config.checkpoint_every == 0 || position == last || position == s->branch)
        return true;
    uint32_t number = position / kv->block_tokens - 1;
    uint32_t block = number < chain->n_keys ? index_find(kv, chain, number) : NONE;
    return block != NONE && kv->blocks[block].wants_state;
}

uint32_t kv_cut(const struct kv *kv, uint32_t slot, uint32_t from, uint32_t to)
{
    const struct kv_slot *s = &kv->slots[slot];
    if (!kv->any_state || kv->n_blocks == 0)
        return to;
    for (uint32_t at = from - from % kv->hit_tokens + kv->hit_tokens; at < to; at += kv->hit_tokens)
        if (checkpoint_wanted(kv, s, at))
            return at;
    return to;
}

/* The block keeps the state at its end, if one of the slot's two is that. Of an answer only the newest
 * is kept: the next turn goes on from there. */
static void keep_state(struct kv *kv, uint32_t slot, uint32_t block)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t end = kv->blocks[block].end, n = kv_state_pages(kv);
    bool answer = end > s->chain->n_prompt;
    if ((end != s->length && end != s->before) || end % kv->hit_tokens ||
        !(answer || checkpoint_wanted(kv, s, end)))
        return;
    uint32_t older = s->answer ? index_find(kv, s->chain, s->answer / kv->block_tokens - 1) : NONE;
    if (older != NONE)
        index_forget_state(kv, older);
    s->answer = answer ? end : 0;
    while (kv->n_state_pages + n > kv->config.checkpoint_pages) {
        if (kv->kept[1].first == NONE)
            return;
        index_forget(kv, kv->kept[1].first, 0);
    }
    for (uint32_t g = 0; g < kv->config.n_groups; g++) {
        uint32_t half = is_recurrent(kv, g) ? kv->config.groups[g].fixed_pages / 2 : 0;
        const uint32_t *row = kv_row(kv, slot, g);
        row += end == s->length ? s->state * half : (1 - s->state) * half;
        for (uint32_t i = 0; i < half; i++)
            index_name(kv, block, kv->places[g] + i, row[i], s->chain);
    }
}

static void publish(struct kv *kv, uint32_t slot, uint32_t number)
{
    struct kv_slot *s = &kv->slots[slot];
    uint32_t block = index_find(kv, s->chain, number);
    if (block != NONE && !index_fits(kv, s->chain, block)) {
        /* The same tokens in other classes: pages of both must not mix, and the newer ones are what
         * the conversation's next turn finds. */
        if (kv->blocks[block].owner != NONE)
            return;
        index_drop(kv, block);
        block = NONE;
    }
    if (block == NONE)
        block = index_add(kv, s->chain, number, NONE);
    if (block == NONE)
        return;
    struct kv_block *b = &kv->blocks[block];
    struct kv_name *names = block_names(kv, block);
    for (uint32_t g = 0; g < kv->config.n_groups; g++)
        if (!is_recurrent(kv, g))
            index_name(kv, block, kv->places[g], kv_row(kv, slot, g)[page_at(kv, g, b->end - 1)],
                       s->chain);
    if (kv->any_state && names[kv->n_kv_places].page == NONE)
        keep_state(kv, slot, block);
    b->owner = NONE;
    b->wants_state = false;
    index_drop_if_empty(kv, block);
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

/* ---- closing ---------------------------------------------------------------------------------- */

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
    for (uint32_t group = 0; group < kv->config.n_groups; group++) {
        uint32_t *row = kv_row(kv, slot, group);
        for (uint32_t i = s->spans[group].end;
             i-- > s->spans[group].begin;) /* the last one first */
            if (row[i] != NONE)
                pool_release(kv, &row[i]);
    }
    *s = (struct kv_slot){.open = false};
}
