/*
 * Short cuts of the encoder against the definitions they stand for: a text in parts (at places that no
 * token reaches across), with parts remembered, must be what the model makes of it as a whole; and the
 * trie against a search through its list.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/trie.h"
#include "text/tokenizer/unigram.h"

#define METASPACE "\xe2\x96\x81"

static uint32_t draw(uint32_t *random, uint32_t below)
{
    *random = *random * 1664525u + 1013904223u;
    return (*random >> 8) % below;
}

static const char *const letters[] = {METASPACE, METASPACE,      "a", "b", "c", ".", "\xc3\xa9",
                                      "-",       "\xe4\xb8\x80", "'"};
#define N_LETTERS (sizeof letters / sizeof *letters)

/* Letters, of which the last may be in no token. */
static void put_letters(uint32_t *random, size_t n, size_t known, struct buf *out)
{
    for (size_t i = 0; i < n; i++)
        buf_append_cstr(out, letters[draw(random, (uint32_t)known)]);
}

/* A few hundred random tokens with few different scores, so that ties and near ties abound. */
static void random_vocabulary(uint32_t seed, enum vocabulary_kind kind, struct vocabulary *v)
{
    enum { N_TOKENS = 300 };
    struct error err = {0};
    uint32_t random = seed;
    vocabulary_init(v);
    v->kind = kind;
    v->fuse_unk = seed % 2;
    v->float_scores = seed % 4 < 2;
    assert_ok(vocabulary_set_size(v, N_TOKENS, "test", &err), &err);
    assert_ok(vocabulary_set_token(v, 0, STR_LIT("<unk>"), TOKEN_UNKNOWN, "test", &err), &err);
    v->unk = 0;
    for (uint32_t id = 1; id < N_TOKENS;) {
        struct buf text = {0};
        put_letters(&random, 1 + draw(&random, 4), N_LETTERS - 1, &text);
        /* U+2581 in the middle of few tokens, as in real vocabularies. */
        bool middle = str_find(buf_str(&text), STR_LIT(METASPACE), 1) != SIZE_MAX;
        if (vocabulary_find(v, buf_str(&text)) == VOCABULARY_NONE &&
            (!middle || draw(&random, 8) == 0)) {
            assert_ok(vocabulary_set_token(v, id, buf_str(&text), TOKEN_NORMAL, "test", &err),
                      &err);
            v->tokens[id].score = -1.0f - 0.37f * (float)draw(&random, 12);
            id++;
        }
        buf_release(&text);
        if (draw(&random, 40) == 0)
            id++; /* a hole */
    }
    if (kind == VOCABULARY_CHAR_BPE)
        assert_ok(vocabulary_merges_from_scores(v, "test", &err), &err);
    assert_ok(vocabulary_finish(v, &err), &err);
}

static void encode_whole(const struct vocabulary *v, struct str text, struct token_list *out)
{
    struct error err = {0};
    if (v->kind == VOCABULARY_UNIGRAM) {
        struct unigram unigram;
        struct unigram_scratch scratch = {0};
        double sum = 0;
        assert_ok(unigram_init(&unigram, v, &err), &err);
        assert_true(unigram_encode(&unigram, &scratch, text, &sum, out));
        unigram_scratch_release(&scratch);
        unigram_release(&unigram);
    } else {
        struct byte_alphabet alphabet;
        struct bpe bpe;
        struct bpe_scratch scratch = {0};
        byte_alphabet_init(&alphabet);
        assert_true(bpe_init(&bpe, v, &alphabet));
        assert_true(bpe_encode(&bpe, &scratch, (const uint8_t *)text.data, text.len, out));
        bpe_scratch_release(&scratch);
        bpe_release(&bpe);
    }
}

static void check_parts(uint32_t seed, enum vocabulary_kind kind)
{
    struct error err = {0};
    struct vocabulary v;
    struct tokenizer *tokenizer;
    struct token_list whole = {0}, parts = {0};
    struct buf text = {0};
    const struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_NONE};
    uint32_t random = seed + 1000;
    random_vocabulary(seed, kind, &v);
    /* Long enough for a memory of parts, and for sums whose last bits are coarse. */
    put_letters(&random, 30000, N_LETTERS, &text);
    encode_whole(&v, buf_str(&text), &whole);
    assert_ok(tokenizer_create(&v, &tokenizer, &err), &err);
    for (int round = 0; round < 2; round++) {
        parts.count = 0;
        assert_ok(tokenizer_encode(tokenizer, buf_str(&text), NULL, 0, &options, &parts, &err),
                  &err);
        for (size_t i = 0; i < parts.count && i < whole.count; i++) {
            if (parts.ids[i] != whole.ids[i])
                fail_msg("seed %u: token %zu is %d, not %d", seed, i, parts.ids[i], whole.ids[i]);
        }
        assert_int_equal(parts.count, whole.count);
    }
    tokenizer_free(tokenizer);
    vocabulary_release(&v);
    token_list_release(&whole);
    token_list_release(&parts);
    buf_release(&text);
}

static void test_unigram(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 24; seed++)
        check_parts(seed, VOCABULARY_UNIGRAM);
}

static void test_bpe(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 24; seed++)
        check_parts(seed, VOCABULARY_CHAR_BPE);
}

/* --- the trie --- */

#define N_ITEMS 700

static int32_t search(const struct trie_item *items, struct str text)
{
    int32_t best = TRIE_NONE;
    for (size_t i = 0; i < N_ITEMS; i++) {
        if (str_eq(items[i].text, text) && (best == TRIE_NONE || items[i].id < best))
            best = items[i].id;
    }
    return best;
}

static bool begins_some(const struct trie_item *items, struct str text)
{
    for (size_t i = 0; i < N_ITEMS; i++) {
        if (str_starts(items[i].text, text))
            return true;
    }
    return false;
}

/* Every walk over the strings, and over strings that leave them, in a set of bytes of `spread`. */
static void check_trie(uint32_t spread)
{
    char texts[N_ITEMS][6];
    struct trie_item items[N_ITEMS], sorted[N_ITEMS];
    struct trie trie;
    uint32_t random = spread;
    for (size_t i = 0; i < N_ITEMS; i++) {
        size_t n = draw(&random, 6);
        for (size_t k = 0; k < n; k++)
            texts[i][k] = (char)(256 - spread + draw(&random, spread));
        items[i] = sorted[i] = (struct trie_item){{texts[i], n}, (int32_t)draw(&random, 5000)};
    }
    assert_true(trie_build(&trie, sorted, N_ITEMS));
    for (size_t i = 0; i < 2000; i++) {
        char bytes[7];
        size_t n = i < N_ITEMS ? items[i].text.len : 0;
        if (n)
            memcpy(bytes, items[i].text.data, n);
        while (n < sizeof bytes)
            bytes[n++] = (char)(256 - spread + draw(&random, spread));
        uint32_t node = TRIE_ROOT;
        for (size_t k = 0; k < sizeof bytes && node != TRIE_END; k++) {
            struct str text = {bytes, k + 1};
            node = trie_child(&trie, node, (uint8_t)bytes[k]);
            assert_int_equal(node != TRIE_END, begins_some(items, text));
            if (node != TRIE_END)
                assert_int_equal(trie_id(&trie, node), search(items, text));
        }
    }
    trie_release(&trie);
}

static void test_trie(void **state)
{
    (void)state;
    check_trie(2);
    check_trie(7);
    check_trie(60);
    check_trie(256);
    struct trie empty;
    assert_true(trie_build(&empty, NULL, 0));
    for (unsigned byte = 0; byte < 256; byte++)
        assert_true(trie_child(&empty, TRIE_ROOT, (uint8_t)byte) == TRIE_END);
    trie_release(&empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unigram),
        cmocka_unit_test(test_bpe),
        cmocka_unit_test(test_trie),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
