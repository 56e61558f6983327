/*
 * Page bookkeeping: sizes, windows, exhaustion; the prefix index: hits, pending blocks,
 * salt, eviction, windows, forks, checkpoints. tests/sched/ walks it at random.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "kv/kv.h"
#include "kv_check.h"

#define WRITES 512
#define TOKENS 400

static struct kv_write writes[WRITES];
static struct kv_copy copies[16];
static struct kv_changes changes;
static struct error err;

static struct kv *pool_of(const struct kv_config *config)
{
    struct kv *kv;
    assert_ok(kv_create(config, &kv, &err), &err);
    return kv;
}

static void check(const struct kv *kv)
{
    if (!kv_check(kv, &err))
        fail_msg("kv_check: %s", err.message);
}

/* A fresh list of changes; the one before is forgotten. */
static struct kv_changes *fresh(void)
{
    changes = (struct kv_changes){
        .writes = writes, .copies = copies, .max_writes = WRITES, .max_copies = 16};
    return &changes;
}

struct sequence {
    int32_t tokens[TOKENS];
    struct kv_key keys[TOKENS];
    struct kv_chain chain;
};

/* n tokens; from `parts` on they are the sequence's own. */
static void fill(struct sequence *s, uint32_t n, uint32_t parts, int32_t own)
{
    for (uint32_t i = 0; i < n; i++)
        s->tokens[i] = (int32_t)i + (i >= parts ? 1000 * own : 0);
    s->chain =
        (struct kv_chain){.tokens = s->tokens, .keys = s->keys, .n_tokens = n, .n_prompt = n};
}

static struct kv_match open_slot(struct kv *kv, uint32_t slot, struct sequence *s)
{
    struct kv_match match = kv_match(kv, &s->chain, s->chain.n_tokens - 1);
    assert_ok(kv_open(kv, slot, &s->chain, &match, fresh(), &err), &err);
    check(kv);
    return match;
}

static enum status extend(struct kv *kv, uint32_t slot, uint32_t length, uint32_t keep_from)
{
    return kv_extend(kv, slot, length, keep_from, fresh(), &err);
}

/* Computes the whole sequence in chunks, as a scheduler would. */
static void run(struct kv *kv, uint32_t slot, struct sequence *s, uint32_t chunk)
{
    for (uint32_t at = kv_length(kv, slot); at < s->chain.n_tokens; at = kv_length(kv, slot)) {
        uint32_t end = at + chunk < s->chain.n_tokens ? at + chunk : s->chain.n_tokens;
        assert_ok(extend(kv, slot, kv_cut(kv, slot, at, end), at), &err);
        kv_commit(kv, slot);
        check(kv);
    }
}

/* Two K/V groups with different pages, the second windowed, and a recurrent one. */
static const struct kv_config mixed = {
    .n_pages = 40,
    .n_slots = 4,
    .n_groups = 3,
    .checkpoint_pages = 10,
    .groups = {{.tokens_per_page = 16, .max_pages = 8},
               {.tokens_per_page = 4, .window = 10, .max_pages = 32},
               {.fixed_pages = 2, .max_pages = 2}},
};

static const struct kv_config plain = {
    .n_pages = 20,
    .n_slots = 4,
    .n_groups = 1,
    .groups = {{.tokens_per_page = 8, .max_pages = 20}},
};

/* ---- pages ------------------------------------------------------------------------------------ */

static void test_open_extend_close(void **state)
{
    (void)state;
    struct kv_config config = mixed;
    config.no_index = true;
    struct kv *kv = pool_of(&config);
    static struct sequence s;
    fill(&s, 100, 0, 1);
    open_slot(kv, 1, &s);
    assert_int_equal(changes.n_writes, 0);
    assert_ok(extend(kv, 1, 17, 0), &err);
    assert_int_equal(changes.n_writes, 2 + 5 + 1);
    assert_int_equal(kv_length(kv, 1), 17);
    assert_int_equal(kv_state(kv, 1), 1);
    check(kv);
    /* Within the pages there are: the other state is written. */
    assert_ok(extend(kv, 1, 20, 17), &err);
    assert_int_equal(changes.n_writes, 1);
    assert_int_equal(writes[0].group, 2);
    assert_int_equal(kv_state(kv, 1), 0);
    /* Rows from 17 on read from 8 on: the windowed group let pages 0 and 1 go. */
    assert_int_equal(kv_page(kv, 1, 1, 1), KV_PAGE_NONE);
    assert_true(kv_page(kv, 1, 1, 2) != KV_PAGE_NONE);
    assert_int_equal(kv_pages_free(kv), 40 - 2 - 2 - 3);
    check(kv);
    kv_close(kv, 1);
    assert_int_equal(kv_pages_free(kv), 40);
    check(kv);
    kv_free(kv);
}

static void test_failures_change_nothing(void **state)
{
    (void)state;
    struct kv_config config = mixed;
    config.n_pages = 12;
    config.no_index = true;
    struct kv *kv = pool_of(&config);
    static struct sequence s;
    struct kv_match none = {0};
    fill(&s, 100, 0, 1);
    assert_int_equal(extend(kv, 0, 1, 0), STATUS_INTERNAL);
    open_slot(kv, 0, &s);
    assert_int_equal(kv_open(kv, 0, &s.chain, &none, fresh(), &err), STATUS_INTERNAL);
    assert_int_equal(kv_open(kv, 4, &s.chain, &none, fresh(), &err), STATUS_INTERNAL);
    /* 40 tokens: 3 + 10 pages and a state, 12 are free. */
    assert_int_equal(extend(kv, 0, 40, 0), STATUS_MEMORY);
    assert_int_equal(changes.n_writes, 0);
    fresh()->max_writes = 2;
    assert_int_equal(kv_extend(kv, 0, 8, 0, &changes, &err), STATUS_LIMIT);
    assert_int_equal(extend(kv, 0, 129, 0), STATUS_LIMIT);
    assert_int_equal(kv_pages_free(kv), 12);
    assert_int_equal(kv_length(kv, 0), 0);
    assert_int_equal(kv_state(kv, 0), 0);
    check(kv);
    assert_ok(extend(kv, 0, 32, 0), &err);
    assert_int_equal(changes.n_writes, 11);
    /* Pages that the window frees may serve the same call. */
    assert_ok(extend(kv, 0, 36, 32), &err);
    assert_int_equal(changes.n_writes, 3);
    check(kv);
    kv_free(kv);
}

static void test_pages_for(void **state)
{
    (void)state;
    struct kv_config config = mixed;
    config.no_index = true;
    struct kv *kv = pool_of(&config);
    assert_int_equal(kv_pages_for(kv, 0), 2);
    assert_int_equal(kv_pages_for(kv, 1), 2 + 1 + 1);
    assert_int_equal(kv_pages_for(kv, 100), 2 + 7 + 25);
    kv_free(kv);
    /* Steps of at most 6 rows: window 10 - 1 + 6 positions lie in at most 5 pages of 4. */
    config.max_extend = 6;
    kv = pool_of(&config);
    assert_int_equal(kv_pages_for(kv, 100), 2 + 7 + 5);
    static struct sequence s;
    uint32_t most = 0;
    fill(&s, 120, 0, 1);
    open_slot(kv, 0, &s);
    for (uint32_t length = 0; length < 120; length += 6) {
        assert_ok(extend(kv, 0, length + 6, length), &err);
        uint32_t used = 40 - kv_pages_free(kv);
        assert_true(used <= kv_pages_for(kv, length + 6));
        most = used > most ? used : most;
    }
    assert_int_equal(most, 2 + 8 + 5); /* the bound is reached */
    kv_free(kv);
}

/* A page of 32 tokens wastes half of itself on average, and less than one at most. */
static void test_waste(void **state)
{
    (void)state;
    struct kv_config config = {.n_pages = 100,
                               .n_slots = 1,
                               .n_groups = 1,
                               .groups = {{.tokens_per_page = 32, .max_pages = 64}}};
    struct kv *kv = pool_of(&config);
    double sum = 0, most = 0;
    for (uint32_t tokens = 1000; tokens < 1032; tokens++) {
        double held = 32.0 * (double)kv_pages_for(kv, tokens), waste = (held - tokens) / held;
        sum += waste / 32;
        most = waste > most ? waste : most;
    }
    printf("waste at 1,000 tokens: %.2f %% on average, %.2f %% at most\n", 100 * sum, 100 * most);
    assert_true(most < 0.04);
    kv_free(kv);
}

static void test_bad_configs(void **state)
{
    (void)state;
    struct kv *kv;
    struct kv_config config = mixed;
    config.n_groups = KV_GROUPS_MAX + 1;
    assert_int_equal(kv_create(&config, &kv, &err), STATUS_USAGE);
    config = mixed;
    config.n_pages = 0;
    assert_int_equal(kv_create(&config, &kv, &err), STATUS_USAGE);
    config = mixed;
    config.groups[2].fixed_pages = 3;
    assert_int_equal(kv_create(&config, &kv, &err), STATUS_USAGE);
    config = mixed;
    config.n_slots = UINT32_MAX;
    config.groups[0].max_pages = UINT32_MAX - 100;
    assert_int_equal(kv_create(&config, &kv, &err), STATUS_MEMORY);
    assert_null(kv);
    kv_free(NULL);
}

/* ---- the index -------------------------------------------------------------------------------- */

static void test_hit_after_close(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&plain);
    static struct sequence a, b;
    fill(&a, 50, TOKENS, 0);
    assert_int_equal(open_slot(kv, 0, &a).cached, 0);
    run(kv, 0, &a, 20);
    uint32_t first = kv_page(kv, 0, 0, 0);
    kv_close(kv, 0);
    assert_int_equal(kv_pages_free(kv), 20);
    assert_int_equal(kv_pages_cached(kv), 6); /* 48 of 50 tokens */
    /* The same prompt: all blocks but that of the last token. */
    fill(&b, 48, TOKENS, 0);
    assert_int_equal(open_slot(kv, 1, &b).cached, 40);
    assert_int_equal(kv_page(kv, 1, 0, 0), first);
    assert_int_equal(changes.n_writes, 5);
    kv_close(kv, 1);
    /* It parts within the third block. */
    fill(&b, 60, 20, 7);
    assert_int_equal(open_slot(kv, 1, &b).cached, 16);
    kv_close(kv, 1);
    /* Another salt, another sequence. */
    fill(&b, 50, TOKENS, 0);
    b.chain.salt = 9;
    assert_int_equal(open_slot(kv, 1, &b).cached, 0);
    kv_close(kv, 1);
    kv_forget(kv);
    fill(&b, 50, TOKENS, 0);
    assert_int_equal(open_slot(kv, 1, &b).cached, 0);
    kv_free(kv);
}

static void test_pending(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&plain);
    static struct sequence a, b, c;
    fill(&a, 40, TOKENS, 0);
    fill(&b, 40, 24, 5);
    fill(&c, 40, TOKENS, 0);
    open_slot(kv, 0, &a);
    struct kv_match match = kv_match(kv, &b.chain, 39);
    assert_int_equal(match.cached, 0);
    assert_int_equal(match.pending, 24); /* what both begin with */
    assert_int_equal(match.owner, 0);
    assert_ok(extend(kv, 0, 20, 0), &err);
    assert_int_equal(kv_match(kv, &b.chain, 39).cached, 0); /* not submitted yet */
    kv_commit(kv, 0);
    match = kv_match(kv, &b.chain, 39);
    assert_int_equal(match.cached, 16);
    assert_int_equal(match.pending, 24);
    /* The owner dies: what it computed stays, the rest is for whoever comes first. */
    kv_close(kv, 0);
    check(kv);
    match = kv_match(kv, &b.chain, 39);
    assert_int_equal(match.cached, 16);
    assert_int_equal(match.pending, 16);
    assert_int_equal(open_slot(kv, 1, &b).cached, 16);
    match = kv_match(kv, &c.chain, 39);
    assert_int_equal(match.pending, 24);
    assert_int_equal(match.owner, 1);
    run(kv, 1, &b, 40);
    assert_int_equal(kv_match(kv, &c.chain, 39).cached, 24);
    kv_close(kv, 1);
    kv_free(kv);
}

/* Two that compute the same at once (one could not wait): the first to finish is kept. */
static void test_computed_twice(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&plain);
    static struct sequence a, b;
    fill(&a, 40, TOKENS, 0);
    fill(&b, 40, TOKENS, 0);
    open_slot(kv, 0, &a);
    open_slot(kv, 1, &b);
    run(kv, 1, &b, 40);
    run(kv, 0, &a, 40);
    assert_true(kv_page(kv, 0, 0, 0) != kv_page(kv, 1, 0, 0));
    kv_close(kv, 0);
    assert_int_equal(kv_pages_cached(kv), 0);
    kv_close(kv, 1);
    assert_int_equal(kv_pages_cached(kv), 5);
    check(kv);
    kv_free(kv);
}

/* The last used goes last, a sequence's end before its beginning; a hit needs no copy. */
static void test_eviction_order(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&plain);
    static struct sequence a, b, c;
    fill(&a, 64, 0, 1);
    fill(&b, 64, 0, 2);
    fill(&c, 64, 0, 3);
    for (int i = 0; i < 2; i++) {
        open_slot(kv, 0, i ? &b : &a);
        run(kv, 0, i ? &b : &a, 64);
        kv_close(kv, 0);
    }
    assert_int_equal(kv_pages_cached(kv), 16);
    /* a is used again, so b is the older one now. */
    assert_int_equal(kv_match(kv, &a.chain, 64).cached, 64);
    open_slot(kv, 1, &a);
    kv_close(kv, 1);
    /* 8 pages: 4 unused ones, a's last (its new user had to compute that one), 3 of b's end. */
    open_slot(kv, 0, &c);
    run(kv, 0, &c, 64);
    assert_int_equal(kv_match(kv, &a.chain, 64).cached, 56);
    assert_int_equal(kv_match(kv, &b.chain, 64).cached, 40);
    kv_close(kv, 0);
    kv_free(kv);
}

static void test_reproducible(void **state)
{
    (void)state;
    static struct sequence a, b;
    for (int strict = 0; strict < 2; strict++) {
        struct kv_config config = plain;
        config.reproducible = strict;
        struct kv *kv = pool_of(&config);
        fill(&a, 40, TOKENS, 0);
        a.chain.n_prompt = 20; /* the rest was generated */
        open_slot(kv, 0, &a);
        run(kv, 0, &a, 40);
        kv_close(kv, 0);
        fill(&b, 60, TOKENS, 0);
        assert_int_equal(kv_match(kv, &b.chain, 59).cached, strict ? 16 : 40);
        /* The next turn replaces what it could not use, so the turn after that finds all of it. */
        open_slot(kv, 0, &b);
        run(kv, 0, &b, 60);
        kv_close(kv, 0);
        check(kv);
        assert_int_equal(kv_match(kv, &b.chain, 59).cached, 56);
        assert_int_equal(kv_match(kv, &a.chain, 40).cached, strict ? 16 : 40);
        kv_free(kv);
    }
}

/* Who resumes gets no prompt rows for those that it had generated, unless both have the same bits. */
static void test_resumed_rows_keep_their_class(void **state)
{
    (void)state;
    static struct sequence a, b;
    for (int one_class = 0; one_class < 2; one_class++) {
        struct kv_config config = plain;
        config.one_class = config.reproducible = one_class;
        struct kv *kv = pool_of(&config);
        fill(&b, 60, TOKENS, 0);
        open_slot(kv, 0, &b);
        run(kv, 0, &b, 60);
        kv_close(kv, 0);
        fill(&a, 40, TOKENS, 0);
        a.chain.n_prompt = 20;
        assert_int_equal(kv_match(kv, &a.chain, 40).cached, one_class ? 40 : 16);
        open_slot(kv, 0, &a);
        run(kv, 0, &a, 40);
        kv_close(kv, 0);
        check(kv);
        assert_int_equal(kv_match(kv, &a.chain, 40).cached, 40);
        assert_int_equal(kv_match(kv, &b.chain, 59).cached, 56);
        kv_free(kv);
    }
}

/* A block that several made together is of prompt class as far as any part of it is: what one announced
 * who resumes and another computed as its prompt, and a page that a window lost and another filled. */
static void test_blocks_of_both_classes(void **state)
{
    (void)state;
    static struct sequence a, b;
    fill(&a, 40, TOKENS, 0);
    fill(&b, 40, TOKENS, 0);
    a.chain.n_prompt = 20;
    struct kv *kv = pool_of(&plain);
    open_slot(kv, 0, &a);
    open_slot(kv, 1, &b);
    run(kv, 1, &b, 40);
    kv_close(kv, 1);
    kv_close(kv, 0);
    assert_int_equal(kv_match(kv, &a.chain, 40).cached, 16);
    assert_int_equal(kv_match(kv, &b.chain, 40).cached, 40);
    kv_free(kv);

    struct kv_config config = plain;
    config.n_groups = 2;
    config.n_pages = 14;
    config.groups[1] = (struct kv_group_config){.tokens_per_page = 8, .window = 4, .max_pages = 20};
    kv = pool_of(&config);
    fill(&a, 40, TOKENS, 0);
    a.chain.n_prompt = 20;
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 8);
    assert_int_equal(kv_match(kv, &a.chain, 40).cached, 40);
    static struct sequence c;
    fill(&c, 36, 0, 3); /* takes the pages that a's window let go */
    open_slot(kv, 1, &c);
    run(kv, 1, &c, 4);
    kv_close(kv, 1);
    kv_close(kv, 0);
    assert_int_equal(kv_match(kv, &a.chain, 40).cached, 40);
    assert_int_equal(kv_match(kv, &a.chain, 24).cached, 0); /* its windows have holes */
    fill(&b, 24, TOKENS, 0);
    open_slot(kv, 1, &b);
    run(kv, 1, &b, 8);
    kv_close(kv, 1);
    assert_int_equal(kv_match(kv, &b.chain, 24).cached, 24);
    assert_int_equal(kv_match(kv, &a.chain, 24).cached, 16);
    check(kv);
    kv_free(kv);
}

/* Two texts whose keys are the same, as no hash can rule out: tokens tell them apart. */
static void test_same_keys(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&plain);
    static struct sequence a, b;
    fill(&a, 40, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 40);
    kv_close(kv, 0);
    fill(&b, 40, 20, 5); /* parts from it in the third block */
    memcpy(b.keys, a.keys, sizeof b.keys);
    b.chain.n_keys = a.chain.n_keys;
    assert_true(b.chain.n_keys >= 4);
    assert_int_equal(open_slot(kv, 0, &b).cached, 16);
    kv_close(kv, 0);
    check(kv);
    kv_free(kv);
}

static void test_window(void **state)
{
    (void)state;
    struct kv_config config = {.n_pages = 60,
                               .n_slots = 3,
                               .n_groups = 2,
                               .max_extend = 16,
                               .groups = {{.tokens_per_page = 16, .max_pages = 20},
                                          {.tokens_per_page = 4, .window = 10, .max_pages = 80}}};
    struct kv *kv = pool_of(&config);
    static struct sequence a, b;
    fill(&a, 200, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 16);
    /* What left the window is not held, but kept while there is room. */
    assert_true(60 - kv_pages_free(kv) <= 13 + 7);
    kv_close(kv, 0);
    fill(&b, 150, 99, 4);
    assert_int_equal(open_slot(kv, 1, &b).cached, 96);
    /* Of the windowed group only the pages that the window still shows. */
    assert_int_equal(changes.n_writes, 6 + 3);
    assert_int_equal(kv_page(kv, 1, 1, 20), KV_PAGE_NONE);
    assert_true(kv_page(kv, 1, 1, 21) != KV_PAGE_NONE);
    run(kv, 1, &b, 16);
    kv_close(kv, 1);
    /* Pressure takes the stale pages of the window first: the whole prefix is then of no use where
     * a window would be incomplete, but the end of the newer sequence is. */
    static struct sequence c;
    fill(&c, 100, 0, 9);
    open_slot(kv, 2, &c);
    run(kv, 2, &c, 16);
    uint32_t cached = kv_match(kv, &b.chain, 149).cached;
    assert_true(cached == 0 || cached == 148);
    kv_close(kv, 2);
    check(kv);
    kv_free(kv);
}

/* Groups whose pages differ up to eightfold: a hit ends at a block, wherever that is in a page. */
static void test_hit_within_pages(void **state)
{
    (void)state;
    const struct kv_config config = {
        .n_pages = 60,
        .n_slots = 3,
        .n_groups = 3,
        .max_extend = 64,
        .groups = {{.tokens_per_page = 128, .max_pages = 4},
                   {.tokens_per_page = 64, .max_pages = 8, .window = 40},
                   {.tokens_per_page = 16, .max_pages = 32}}};
    struct kv *kv = pool_of(&config);
    static struct sequence a, b, c, d;
    fill(&a, 110, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 50);
    for (uint32_t shared = 17; shared < 110; shared += 9) {
        fill(&b, 200, shared, 5);
        assert_int_equal(kv_match(kv, &b.chain, 199).cached, shared / 16 * 16);
    }
    /* A neighbour that parts within the pages gets copies, and leaves the originals alone. */
    fill(&b, 150, 90, 2);
    assert_int_equal(open_slot(kv, 1, &b).cached, 80);
    assert_int_equal(kv_page(kv, 1, 0, 0), kv_page(kv, 0, 0, 0));
    assert_int_equal(changes.n_writes, 1 + 2 + 5);
    assert_ok(extend(kv, 1, 100, 80), &err);
    assert_int_equal(changes.n_copies, 2);
    assert_true(kv_page(kv, 1, 0, 0) != kv_page(kv, 0, 0, 0));
    run(kv, 1, &b, 50);
    kv_close(kv, 1);
    /* Both beginnings, and what follows each. */
    fill(&c, 110, TOKENS, 0);
    assert_int_equal(kv_match(kv, &c.chain, 109).cached, 96);
    fill(&c, 150, 90, 2);
    assert_int_equal(kv_match(kv, &c.chain, 149).cached, 144);
    /* The next turn goes on in place behind what is named, once the last one ended. */
    kv_close(kv, 0);
    fill(&d, 130, 105, 3);
    assert_int_equal(open_slot(kv, 2, &d).cached, 96);
    uint32_t page = kv_page(kv, 2, 0, 0);
    assert_ok(extend(kv, 2, 130, 96), &err);
    assert_int_equal(changes.n_copies, 0);
    assert_int_equal(kv_page(kv, 2, 0, 0), page);
    check(kv);
    kv_close(kv, 2);
    check(kv);
    kv_free(kv);
}

/* A page is all there is, and holds more than is shared: no copy then, the rest is forgotten. */
static void test_claim(void **state)
{
    (void)state;
    const struct kv_config config = {
        .n_pages = 1,
        .n_slots = 2,
        .n_groups = 1,
        .groups = {{.tokens_per_page = 128, .max_pages = 2}},
    };
    struct kv *kv = pool_of(&config);
    static struct sequence a, b;
    fill(&a, 120, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 50);
    kv_close(kv, 0);
    fill(&b, 100, 40, 1);
    assert_int_equal(open_slot(kv, 1, &b).cached, 32);
    assert_int_equal(kv_match_pages(kv, &b.chain, 32), 1);
    assert_ok(extend(kv, 1, 100, 32), &err);
    assert_int_equal(changes.n_copies + changes.n_writes, 0);
    check(kv);
    kv_commit(kv, 1);
    check(kv);
    assert_int_equal(kv_match(kv, &a.chain, 119).cached, 32);
    kv_free(kv);
}

static void test_fork(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&mixed);
    static struct sequence a, b;
    fill(&a, 38, TOKENS, 0);
    fill(&b, 38, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 38);
    uint32_t used = 40 - kv_pages_free(kv);
    assert_ok(kv_fork(kv, 0, 3, &b.chain, fresh(), &err), &err);
    check(kv);
    assert_int_equal(40 - kv_pages_free(kv), used);
    assert_int_equal(kv_length(kv, 3), 38);
    uint32_t shared = kv_page(kv, 0, 0, 2);
    assert_int_equal(kv_page(kv, 3, 0, 2), shared);
    /* The first to write takes a copy of both pages that end mid-page, the other then owns them. */
    assert_ok(extend(kv, 3, 39, 38), &err);
    assert_int_equal(changes.n_copies, 2);
    assert_int_equal(copies[0].from, shared);
    assert_int_equal(copies[0].to, kv_page(kv, 3, 0, 2));
    check(kv);
    assert_ok(extend(kv, 0, 39, 38), &err);
    assert_int_equal(changes.n_copies, 0);
    assert_int_equal(kv_page(kv, 0, 0, 2), shared);
    check(kv);
    kv_close(kv, 0);
    check(kv);
    kv_close(kv, 3);
    assert_int_equal(kv_pages_free(kv), 40);
    kv_free(kv);
}

/* ---- recurrent state -------------------------------------------------------------------------- */

static const struct kv_config recurrent = {
    .n_pages = 60,
    .n_slots = 4,
    .n_groups = 2,
    .checkpoint_pages = 3,
    .checkpoint_every = 64,
    .groups = {{.tokens_per_page = 16, .max_pages = 20}, {.fixed_pages = 2, .max_pages = 2}},
};

static void test_checkpoints(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&recurrent);
    static struct sequence a, b;
    fill(&a, 100, TOKENS, 0);
    open_slot(kv, 0, &a);
    assert_int_equal(kv_cut(kv, 0, 0, 100), 64);  /* every 64 tokens */
    assert_int_equal(kv_cut(kv, 0, 64, 100), 96); /* the prompt's last block */
    assert_int_equal(kv_cut(kv, 0, 96, 100), 100);
    run(kv, 0, &a, 100);
    assert_true(kv_page(kv, 0, 1, 0) != KV_PAGE_NONE);
    kv_close(kv, 0);
    fill(&b, 100, TOKENS, 0);
    assert_int_equal(open_slot(kv, 1, &b).cached, 96);
    assert_int_equal(kv_state(kv, 1), 0);
    /* The kept state is read; the step writes a page of its own, and the next one does not write
     * the kept one either. */
    uint32_t kept = kv_page(kv, 1, 1, 0);
    assert_ok(extend(kv, 1, 98, 96), &err);
    assert_int_equal(kv_page(kv, 1, 1, 0), kept);
    assert_ok(extend(kv, 1, 99, 98), &err);
    assert_true(kv_page(kv, 1, 1, 0) != kept);
    check(kv);
    kv_close(kv, 1);
    fill(&b, 90, TOKENS, 0);
    assert_int_equal(kv_match(kv, &b.chain, 89).cached, 64);
    kv_free(kv);
}

/* Where two prompts part is worth a state, though neither ends there: at once where the first is
 * still computing, else for the third. */
static void test_checkpoint_where_prompts_part(void **state)
{
    (void)state;
    struct kv_config config = recurrent;
    config.checkpoint_every = 1024;
    struct kv *kv = pool_of(&config);
    static struct sequence a, b, c;
    fill(&a, 100, TOKENS, 0);
    fill(&b, 100, 50, 1);
    fill(&c, 100, 50, 2);
    open_slot(kv, 0, &a);
    struct kv_match match = kv_match(kv, &b.chain, 99);
    assert_int_equal(match.pending, 48);
    assert_int_equal(match.owner, 0);
    assert_int_equal(kv_cut(kv, 0, 0, 100), 48);
    run(kv, 0, &a, 100);
    assert_int_equal(kv_match(kv, &b.chain, 99).cached, 48);
    kv_close(kv, 0);
    kv_forget(kv);
    fill(&a, 100, TOKENS, 0);
    open_slot(kv, 0, &a);
    run(kv, 0, &a, 100);
    assert_int_equal(open_slot(kv, 1, &b).cached, 0);
    assert_int_equal(kv_cut(kv, 1, 0, 100), 48);
    run(kv, 1, &b, 100);
    assert_int_equal(open_slot(kv, 2, &c).cached, 48);
    for (uint32_t slot = 0; slot < 3; slot++)
        kv_close(kv, slot);
    check(kv);
    kv_free(kv);
}

/* Of an answer the newest block's state is kept, also where tokens become known a step late. */
static void test_checkpoint_of_an_answer(void **state)
{
    (void)state;
    static struct sequence a, b;
    for (uint32_t late = 0; late < 2; late++) {
        struct kv *kv = pool_of(&recurrent);
        fill(&a, 150, TOKENS, 0);
        a.chain.n_tokens = a.chain.n_prompt = 40;
        open_slot(kv, 0, &a);
        run(kv, 0, &a, 40);
        for (uint32_t length = 41; length <= 120; length++) {
            a.chain.n_tokens = length - late;
            assert_ok(extend(kv, 0, length, length - 1), &err);
            kv_commit(kv, 0);
            check(kv);
        }
        kv_close(kv, 0);
        fill(&b, 150, TOKENS, 0);
        assert_int_equal(kv_match(kv, &b.chain, 149).cached, 112);
        assert_int_equal(kv_match(kv, &b.chain, 111).cached, 32);
        kv_free(kv);
    }
}

static void test_checkpoint_budget(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&recurrent);
    static struct sequence a;
    for (int32_t i = 0; i < 8; i++) {
        fill(&a, 40, 0, i);
        open_slot(kv, 0, &a);
        run(kv, 0, &a, 40);
        kv_close(kv, 0);
    }
    uint32_t hits = 0;
    for (int32_t i = 0; i < 8; i++) {
        fill(&a, 40, 0, i);
        bool hit = kv_match(kv, &a.chain, 39).cached == 32;
        assert_int_equal(hit, i >= 5); /* the three newest */
        hits += hit;
    }
    assert_int_equal(hits, 3);
    kv_free(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_extend_close),
        cmocka_unit_test(test_failures_change_nothing),
        cmocka_unit_test(test_pages_for),
        cmocka_unit_test(test_waste),
        cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_hit_after_close),
        cmocka_unit_test(test_pending),
        cmocka_unit_test(test_computed_twice),
        cmocka_unit_test(test_eviction_order),
        cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_resumed_rows_keep_their_class),
        cmocka_unit_test(test_blocks_of_both_classes),
        cmocka_unit_test(test_same_keys),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_hit_within_pages),
        cmocka_unit_test(test_claim),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_checkpoint_where_prompts_part),
        cmocka_unit_test(test_checkpoint_of_an_answer),
        cmocka_unit_test(test_checkpoint_budget),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
