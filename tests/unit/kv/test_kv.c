/*
 * Page bookkeeping: sizes, windows, truncation, exhaustion, and a long random walk against a plain
 * model with kv_check() after every operation.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "kv/kv.h"

#define WRITES 256

static struct kv *pool_of(const struct kv_config *config)
{
    struct kv *kv;
    struct error err = {0};
    assert_ok(kv_create(config, &kv, &err), &err);
    return kv;
}

static void check(const struct kv *kv)
{
    struct error err;
    if (!kv_check(kv, &err))
        fail_msg("kv_check: %s", err.message);
}

/* Two K/V groups with different pages, the second windowed, and a recurrent one. */
static const struct kv_config mixed = {
    .n_pages = 40,
    .n_slots = 4,
    .n_groups = 3,
    .groups = {{.tokens_per_page = 16, .max_pages = 8},
               {.tokens_per_page = 4, .window = 10, .max_pages = 32},
               {.fixed_pages = 2, .max_pages = 2}},
};

static void test_open_extend_close(void **state)
{
    (void)state;
    struct kv *kv = pool_of(&mixed);
    struct kv_write writes[WRITES];
    struct error err;
    uint32_t n;
    assert_int_equal(kv_open_writes(kv), 2);
    assert_ok(kv_open(kv, 1, writes, &n, &err), &err);
    assert_int_equal(n, 2);
    assert_int_equal(writes[0].slot, 1);
    assert_int_equal(writes[0].group, 2);
    assert_int_equal(writes[1].index, 1);
    assert_int_equal(kv_page(kv, 1, 2, 1), writes[1].page);
    assert_int_equal(kv_pages_free(kv), 38);

    assert_ok(kv_extend(kv, 1, 17, 0, writes, WRITES, &n, &err), &err);
    assert_int_equal(n, 2 + 5);
    assert_int_equal(kv_length(kv, 1), 17);
    check(kv);
    /* Within the pages there are: nothing to write. */
    assert_ok(kv_extend(kv, 1, 20, 17, writes, WRITES, &n, &err), &err);
    assert_int_equal(n, 0);
    /* Rows from 17 on read from 8 on: the windowed group let pages 0 and 1 go. */
    assert_int_equal(kv_page(kv, 1, 1, 1), KV_PAGE_NONE);
    assert_true(kv_page(kv, 1, 1, 2) != KV_PAGE_NONE);
    assert_int_equal(kv_pages_free(kv), 40 - 2 - 2 - 3);
    check(kv);
    kv_truncate(kv, 1, 17);
    assert_int_equal(kv_pages_free(kv), 40 - 2 - 2 - 3);
    kv_truncate(kv, 1, 16);
    assert_int_equal(kv_pages_free(kv), 40 - 2 - 1 - 2);
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
    struct kv *kv = pool_of(&config);
    struct kv_write writes[WRITES];
    struct error err;
    uint32_t n;
    assert_int_equal(kv_extend(kv, 0, 1, 0, writes, WRITES, &n, &err), STATUS_INTERNAL);
    assert_ok(kv_open(kv, 0, writes, &n, &err), &err);
    assert_int_equal(kv_open(kv, 0, writes, &n, &err), STATUS_INTERNAL);
    assert_int_equal(kv_open(kv, 4, writes, &n, &err), STATUS_INTERNAL);
    /* 40 tokens: 3 + 10 pages, 10 are free. */
    assert_int_equal(kv_extend(kv, 0, 40, 0, writes, WRITES, &n, &err), STATUS_MEMORY);
    assert_int_equal(n, 0);
    assert_int_equal(kv_extend(kv, 0, 8, 0, writes, 2, &n, &err), STATUS_LIMIT);
    assert_int_equal(kv_extend(kv, 0, 129, 0, writes, WRITES, &n, &err), STATUS_LIMIT);
    assert_int_equal(kv_pages_free(kv), 10);
    assert_int_equal(kv_length(kv, 0), 0);
    check(kv);
    assert_ok(kv_extend(kv, 0, 32, 0, writes, WRITES, &n, &err), &err);
    assert_int_equal(n, 10);
    assert_int_equal(kv_open(kv, 1, writes, &n, &err), STATUS_MEMORY);
    /* Pages that the window frees may serve the same call. */
    assert_ok(kv_extend(kv, 0, 36, 32, writes, WRITES, &n, &err), &err);
    assert_int_equal(n, 2);
    check(kv);
    kv_free(kv);
}

static void test_pages_for(void **state)
{
    (void)state;
    struct kv_config config = mixed;
    struct kv *kv = pool_of(&config);
    assert_int_equal(kv_pages_for(kv, 0), 2);
    assert_int_equal(kv_pages_for(kv, 1), 2 + 1 + 1);
    assert_int_equal(kv_pages_for(kv, 100), 2 + 7 + 25);
    kv_free(kv);
    /* Steps of at most 6 rows: window 10 - 1 + 6 positions lie in at most 5 pages of 4. */
    config.max_extend = 6;
    kv = pool_of(&config);
    assert_int_equal(kv_pages_for(kv, 100), 2 + 7 + 5);
    assert_int_equal(kv_pages_for(kv, 8), 2 + 1 + 2);
    struct kv_write writes[WRITES];
    struct error err;
    uint32_t n, most = 0;
    assert_ok(kv_open(kv, 0, writes, &n, &err), &err);
    for (uint32_t length = 0; length < 120; length += 6) {
        uint32_t next = length + 6;
        assert_ok(kv_extend(kv, 0, next, length, writes, WRITES, &n, &err), &err);
        uint32_t used = 40 - kv_pages_free(kv);
        assert_true(used <= kv_pages_for(kv, next));
        most = used > most ? used : most;
    }
    assert_int_equal(most, 2 + 8 + 5); /* the bound is reached */
    kv_free(kv);
}

static void test_bad_configs(void **state)
{
    (void)state;
    struct kv *kv;
    struct error err;
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

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

struct walk {
    struct kv *kv;
    uint64_t seed;
    bool open[4];
    uint32_t length[4];
    uint32_t mirror[4][3][32]; /* what a backend that only sees the writes would know */
};

static void note(struct walk *w, const struct kv_write *writes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        w->mirror[writes[i].slot][writes[i].group][writes[i].index] = writes[i].page;
}

static void walk_step(struct walk *w)
{
    struct kv_write writes[WRITES];
    struct error err = {0};
    uint32_t n, free_before = kv_pages_free(w->kv);
    uint32_t slot = (uint32_t)(next_random(&w->seed) % 4);
    uint64_t choice = next_random(&w->seed) % 16;
    if (!w->open[slot]) {
        w->open[slot] = kv_open(w->kv, slot, writes, &n, &err) == STATUS_OK;
        assert_int_equal(w->open[slot], free_before >= 2);
        note(w, writes, n);
        w->length[slot] = 0;
    } else if (choice == 0) {
        kv_close(w->kv, slot);
        w->open[slot] = false;
    } else if (choice == 1) {
        /* As speculation does: at most back to where the last step began. */
        uint32_t back = (uint32_t)(next_random(&w->seed) % 3);
        w->length[slot] -= back < w->length[slot] ? back : 0;
        kv_truncate(w->kv, slot, w->length[slot]);
    } else {
        uint32_t rows = 1 + (uint32_t)(next_random(&w->seed) % (choice < 4 ? 40 : 3));
        uint32_t from = w->length[slot] > 3 ? w->length[slot] - 3 : 0;
        enum status status =
            kv_extend(w->kv, slot, w->length[slot] + rows, from, writes, WRITES, &n, &err);
        assert_true(status == STATUS_OK || status == STATUS_MEMORY || status == STATUS_LIMIT);
        if (status == STATUS_OK)
            w->length[slot] += rows;
        else
            assert_int_equal(kv_pages_free(w->kv), free_before);
        note(w, writes, n);
    }
}

static void test_random_walk(void **state)
{
    (void)state;
    const char *text = getenv("SLUICE_TEST_SEED");
    struct walk w = {.seed = text ? strtoull(text, NULL, 0) : 0x5eed};
    printf("kv random walk: SLUICE_TEST_SEED=%llu\n", (unsigned long long)w.seed);
    w.seed += !w.seed;
    w.kv = pool_of(&mixed);
    for (int i = 0; i < 50000; i++) {
        walk_step(&w);
        check(w.kv);
        for (uint32_t slot = 0; slot < 4; slot++) {
            assert_int_equal(kv_length(w.kv, slot), w.open[slot] ? w.length[slot] : 0);
            for (uint32_t group = 0; group < 3; group++)
                for (uint32_t j = 0; j < mixed.groups[group].max_pages; j++) {
                    uint32_t page = kv_page(w.kv, slot, group, j);
                    if (page != KV_PAGE_NONE)
                        assert_int_equal(page, w.mirror[slot][group][j]);
                }
        }
    }
    kv_free(w.kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_extend_close), cmocka_unit_test(test_failures_change_nothing),
        cmocka_unit_test(test_pages_for),         cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_random_walk),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
