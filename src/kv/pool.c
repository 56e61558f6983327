/* Pages: taken, shared, released, kept. Every call costs the pages it touches and nothing else. */
#include "kv/internal.h"

static struct kv_list *list_of(struct kv *kv, const struct kv_page *page)
{
    return &kv->kept[page->place >= kv->n_kv_places];
}

void list_append(struct kv *kv, struct kv_list *list, uint32_t page)
{
    struct kv_page *p = &kv->pages[page];
    p->previous = list->last;
    p->next = NONE;
    p->released = ++kv->clock;
    *(list->last == NONE ? &list->first : &kv->pages[list->last].next) = page;
    list->last = page;
    list->count++;
}

void list_unlink(struct kv *kv, struct kv_list *list, uint32_t page)
{
    struct kv_page *p = &kv->pages[page];
    *(p->previous == NONE ? &list->first : &kv->pages[p->previous].next) = p->next;
    *(p->next == NONE ? &list->last : &kv->pages[p->next].previous) = p->previous;
    list->count--;
}

/* The one freed last is taken first: its memory is the likeliest to be in a cache. */
uint32_t pool_take(struct kv *kv)
{
    if (kv->n_unused == 0) {
        uint32_t a = kv->kept[0].first, b = kv->kept[1].first;
        bool state = a == NONE || (b != NONE && kv->pages[b].released < kv->pages[a].released);
        index_forget(kv, state ? b : a, 0);
    }
    uint32_t page = kv->unused[--kv->n_unused];
    kv->pages[page].count = 1;
    return page;
}

void pool_share(struct kv *kv, uint32_t page)
{
    struct kv_page *p = &kv->pages[page];
    if (p->count++ == 0 && p->block != NONE)
        list_unlink(kv, list_of(kv, p), page);
}

void pool_release(struct kv *kv, uint32_t *entry)
{
    uint32_t page = *entry;
    struct kv_page *p = &kv->pages[page];
    *entry = NONE;
    if (--p->count)
        return;
    if (p->block == NONE)
        kv->unused[kv->n_unused++] = page;
    else
        list_append(kv, list_of(kv, p), page);
}

uint32_t kv_pages_free(const struct kv *kv)
{
    return kv->n_unused + kv_pages_cached(kv);
}

uint32_t kv_pages_cached(const struct kv *kv)
{
    return kv->kept[0].count + kv->kept[1].count;
}

uint32_t kv_pages_total(const struct kv *kv)
{
    return kv->config.n_pages;
}
