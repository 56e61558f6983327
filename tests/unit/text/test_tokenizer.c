/*
 * The tokenizer on a vocabulary small enough to check by hand or by definition.
 *
 * Ids of real vocabularies are checked in unit/format/test_vocabulary.c, where files can be read.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "fixture.h"
#include "small_vocabulary.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/tokenizer.h"

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static struct tokenizer *make(struct vocabulary *v)
{
    struct error err = {0};
    struct tokenizer *tokenizer = NULL;
    assert_ok(vocabulary_finish(v, &err), &err);
    assert_ok(tokenizer_create(v, &tokenizer, &err), &err);
    vocabulary_release(v);
    return tokenizer;
}

static struct tokenizer *make_small(void)
{
    struct error err = {0};
    struct vocabulary v;
    assert_ok(small_vocabulary(&v, &err), &err);
    return make(&v);
}

static struct token_list encode_spans(const struct tokenizer *tokenizer, struct str text,
                                      const struct text_span *spans, size_t n_spans,
                                      enum tokenizer_specials specials)
{
    struct error err = {0};
    struct token_list ids = {0};
    struct tokenizer_options options = {.specials = specials};
    assert_ok(tokenizer_encode(tokenizer, text, spans, n_spans, &options, &ids, &err), &err);
    return ids;
}

static void expect_ids(struct token_list *ids, const int32_t *expected, size_t n)
{
    if (ids->count != n || (n && memcmp(ids->ids, expected, n * sizeof *expected) != 0)) {
        for (size_t i = 0; i < ids->count; i++)
            print_error("%d ", ids->ids[i]);
        print_error("\n");
    }
    assert_int_equal(ids->count, n);
    if (n)
        assert_memory_equal(ids->ids, expected, n * sizeof *expected);
    token_list_release(ids);
}

#define EXPECT(list, ...)                                                                          \
    do {                                                                                           \
        struct token_list list_ = (list);                                                          \
        const int32_t expected_[] = {__VA_ARGS__};                                                 \
        expect_ids(&list_, expected_, sizeof expected_ / sizeof *expected_);                       \
    } while (0)

static struct token_list encode(const struct tokenizer *tokenizer, const char *text,
                                enum tokenizer_specials specials)
{
    return encode_spans(tokenizer, str_from(text), NULL, 0, specials);
}

/* Pieces of all ids, one after the other. */
static struct buf pieces(const struct tokenizer *tokenizer, const struct token_list *ids)
{
    struct buf out = {0};
    for (size_t i = 0; i < ids->count; i++)
        buf_append_str(&out, tokenizer_piece(tokenizer, ids->ids[i]));
    return out;
}

/* --- merging --- */

static void test_merging(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    EXPECT(encode(t, "hello world", TOKENIZER_SPECIALS_ALL), SMALL_HELLO, SMALL_WORLD);
    EXPECT(encode(t, "hell", TOKENIZER_SPECIALS_ALL), SMALL_HELL);
    /* "ll" outranks "or", and "he" comes first of all. */
    EXPECT(encode(t, "helllor", TOKENIZER_SPECIALS_ALL), SMALL_HELL, 'l', SMALL_OR);
    /* Of equal ranks the leftmost pair is joined. */
    EXPECT(encode(t, "aaaaa", TOKENIZER_SPECIALS_ALL), SMALL_AAAA, 'a');
    EXPECT(encode(t, "\xc3\xa9", TOKENIZER_SPECIALS_ALL), SMALL_E_ACUTE);
    struct token_list none = encode(t, "", TOKENIZER_SPECIALS_ALL);
    assert_int_equal(none.count, 0);
    tokenizer_free(t);
}

/* The definition, word for word: join the leftmost pair of the lowest rank until there is none. */
static void merge_by_definition(const struct vocabulary *v, struct str text, struct token_list *out)
{
    for (size_t i = 0; i < text.len; i++)
        token_list_add(out, (uint8_t)text.data[i]);
    for (;;) {
        size_t best = SIZE_MAX, rank = v->n_merges;
        for (size_t i = 0; i + 1 < out->count; i++) {
            for (size_t m = 0; m < rank; m++) {
                if (v->merges[m].left == (uint32_t)out->ids[i] &&
                    v->merges[m].right == (uint32_t)out->ids[i + 1]) {
                    best = i;
                    rank = m;
                }
            }
        }
        if (best == SIZE_MAX)
            return;
        out->ids[best] = (int32_t)v->merges[rank].result;
        out->count--;
        memmove(out->ids + best + 1, out->ids + best + 2,
                (out->count - best - 1) * sizeof *out->ids);
    }
}

static void test_merging_equals_definition(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v, copy;
    assert_ok(small_vocabulary(&v, &err), &err);
    assert_ok(small_vocabulary(&copy, &err), &err);
    copy.n_splits = 0; /* the whole text is one piece: short ones scan, long ones use the heap */
    struct tokenizer *t = make(&copy);
    uint32_t random = 1;
    for (int round = 0; round < 600; round++) {
        char text[160];
        size_t n = 1 + next_random(&random) % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] = "aaaahello word"[next_random(&random) % 14];
        struct token_list expected = {0};
        merge_by_definition(&v, (struct str){text, n}, &expected);
        struct token_list ids =
            encode_spans(t, (struct str){text, n}, NULL, 0, TOKENIZER_SPECIALS_NONE);
        expect_ids(&ids, expected.ids, expected.count);
        token_list_release(&expected);
    }
    vocabulary_release(&v);
    tokenizer_free(t);
}

static void test_long_runs(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    static char text[1000003];
    static const char *const units[] = {
        "a", " ", "\n", "\xc3\xa9", "\xff", "\xcc\x81\xcc\xa3", "'", " \n", "<|im_en"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit = strlen(units[u]), n = 0;
        while (n + unit <= 1000000) {
            memcpy(text + n, units[u], unit);
            n += unit;
        }
        text[n++] = 'x';
        struct token_list ids =
            encode_spans(t, (struct str){text, n}, NULL, 0, TOKENIZER_SPECIALS_ALL);
        struct buf back = pieces(t, &ids);
        assert_int_equal(back.len, n);
        assert_memory_equal(back.data, text, n);
        if (units[u][0] == 'a')
            assert_int_equal(ids.count, 125001);
        buf_release(&back);
        token_list_release(&ids);
    }
    tokenizer_free(t);
}

static void test_ignore_merges(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    assert_ok(small_vocabulary(&v, &err), &err);
    v.n_merges = 2; /* "hello" is a token that merging cannot reach */
    struct tokenizer *t = make(&v);
    EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), SMALL_HE, SMALL_LL, 'o');
    EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), SMALL_HE, SMALL_LL, 'o');
    tokenizer_free(t);
    assert_ok(small_vocabulary(&v, &err), &err);
    v.n_merges = 2;
    v.ignore_merges = true;
    t = make(&v);
    EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), SMALL_HELLO);
    EXPECT(encode(t, "hellox", TOKENIZER_SPECIALS_ALL), SMALL_HE, SMALL_LL, 'o', 'x');
    tokenizer_free(t);
}

/* A vocabulary without the byte tokens of "x": the byte becomes unk, or nothing. */
static void test_missing_byte(void **state)
{
    (void)state;
    struct error err = {0};
    for (int with_unk = 0; with_unk < 2; with_unk++) {
        struct vocabulary v;
        assert_ok(small_vocabulary(&v, &err), &err);
        v.tokens['x'].kind = TOKEN_UNUSED;
        v.unk = with_unk ? SMALL_BOS : VOCABULARY_NONE;
        struct tokenizer *t = make(&v);
        if (with_unk)
            EXPECT(encode(t, "axh", TOKENIZER_SPECIALS_ALL), 'a', SMALL_BOS, 'h');
        else
            EXPECT(encode(t, "axh", TOKENIZER_SPECIALS_ALL), 'a', 'h');
        tokenizer_free(t);
    }
}

/* --- control tokens and trust --- */

static struct text_span span(size_t begin, size_t end, bool trusted)
{
    return (struct text_span){begin, end, trusted};
}

static void test_control_needs_trust(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    const char *text = "a<|im_end|>a";
    struct str s = str_from(text);
    const enum tokenizer_specials chat = TOKENIZER_SPECIALS_TRUSTED;
    struct token_list plain = encode(t, text, TOKENIZER_SPECIALS_NONE);
    assert_true(plain.count > 3);
    for (size_t i = 0; i < plain.count; i++)
        assert_false(tokenizer_is_control(t, plain.ids[i]));
    struct buf back = pieces(t, &plain);
    assert_true(str_eq(buf_str(&back), s));
    buf_release(&back);

    EXPECT(encode(t, text, TOKENIZER_SPECIALS_ALL), 'a', SMALL_END, 'a');
    struct token_list ids = encode_spans(t, s, NULL, 0, chat); /* nothing is trusted */
    expect_ids(&ids, plain.ids, plain.count);
    struct text_span whole[] = {span(0, s.len, true)};
    EXPECT(encode_spans(t, s, whole, 1, chat), 'a', SMALL_END, 'a');
    struct text_span exact[] = {span(0, 1, false), span(1, 11, true), span(11, 12, false)};
    EXPECT(encode_spans(t, s, exact, 3, chat), 'a', SMALL_END, 'a');

    /* One untrusted byte anywhere inside is enough to keep it text. */
    for (size_t i = 1; i < 11; i++) {
        struct text_span cut[] = {span(0, i, true), span(i, i + 1, false),
                                  span(i + 1, s.len, true)};
        ids = encode_spans(t, s, cut, 3, chat);
        expect_ids(&ids, plain.ids, plain.count);
        /* A gap between spans is untrusted as well. */
        struct text_span gap[] = {span(0, i, true), span(i + 1, s.len, true)};
        ids = encode_spans(t, s, gap, 2, chat);
        expect_ids(&ids, plain.ids, plain.count);
        /* Two trusted neighbours are one. */
        struct text_span two[] = {span(0, i, true), span(i, s.len, true)};
        EXPECT(encode_spans(t, s, two, 2, chat), 'a', SMALL_END, 'a');
        /* Half trusted, half not: straddling does not match, either way round. */
        struct text_span left[] = {span(0, i, true), span(i, s.len, false)};
        if (i > 1) {
            ids = encode_spans(t, s, left, 2, chat);
            expect_ids(&ids, plain.ids, plain.count);
            struct text_span right[] = {span(0, i, false), span(i, s.len, true)};
            ids = encode_spans(t, s, right, 2, chat);
            expect_ids(&ids, plain.ids, plain.count);
        }
    }
    token_list_release(&plain);
    tokenizer_free(t);
}

static void test_user_defined_everywhere(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    EXPECT(encode(t, "a<think>a", TOKENIZER_SPECIALS_NONE), 'a', SMALL_THINK, 'a');
    EXPECT(encode(t, "a<think>a", TOKENIZER_SPECIALS_TRUSTED), 'a', SMALL_THINK, 'a');
    struct text_span half[] = {span(0, 4, true), span(4, 9, false)};
    EXPECT(encode_spans(t, STR_LIT("a<think>a"), half, 2, TOKENIZER_SPECIALS_TRUSTED), 'a',
           SMALL_THINK, 'a');
    tokenizer_free(t);
}

/* What a user types behind a trusted control token must not undo it, though a longer control token
 * begins the same way. */
static void test_longest_that_may_match(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    struct str s = STR_LIT("<|im_end|>>");
    EXPECT(encode_spans(t, s, NULL, 0, TOKENIZER_SPECIALS_ALL), SMALL_END_LONG);
    struct text_span all[] = {span(0, 11, true)};
    EXPECT(encode_spans(t, s, all, 1, TOKENIZER_SPECIALS_TRUSTED), SMALL_END_LONG);
    struct text_span user[] = {span(0, 10, true), span(10, 11, false)};
    EXPECT(encode_spans(t, s, user, 2, TOKENIZER_SPECIALS_TRUSTED), SMALL_END, '>');
    /* ... nor may what stands before it swallow its beginning. */
    struct text_span before[] = {span(0, 8, false), span(8, 18, true)};
    struct token_list ids =
        encode_spans(t, STR_LIT("<|im_end<|im_end|>"), before, 2, TOKENIZER_SPECIALS_TRUSTED);
    assert_int_equal(ids.ids[ids.count - 1], SMALL_END);
    token_list_release(&ids);
    tokenizer_free(t);
}

static void test_borders_do_not_split(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    struct str s = STR_LIT("hello world");
    for (size_t i = 0; i <= s.len; i++) {
        struct text_span spans[] = {span(0, i, true), span(i, s.len, false)};
        EXPECT(encode_spans(t, s, spans, 2, TOKENIZER_SPECIALS_TRUSTED), SMALL_HELLO, SMALL_WORLD);
    }
    tokenizer_free(t);
}

/* Text must not reach a control token by merging, or by being a whole piece. */
static void test_merges_make_no_control(void **state)
{
    (void)state;
    struct error err = {0};
    for (int ignore_merges = 0; ignore_merges < 2; ignore_merges++) {
        struct vocabulary v;
        assert_ok(small_vocabulary(&v, &err), &err);
        v.tokens[SMALL_HELLO].kind = TOKEN_CONTROL;
        v.tokens[SMALL_WORLD].kind = TOKEN_CONTROL;
        v.ignore_merges = ignore_merges;
        struct tokenizer *t = make(&v);
        EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_NONE), SMALL_HELL, 'o');
        EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_TRUSTED), SMALL_HELL, 'o');
        EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), SMALL_HELLO);
        tokenizer_free(t);
    }
}

static void test_bad_spans(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    const struct text_span cases[][2] = {
        {{0, 3, true}, {2, 4, true}},
        {{3, 4, true}, {0, 1, true}},
        {{0, 1, true}, {3, 2, true}},
        {{0, 1, true}, {1, 6, true}},
    };
    struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_TRUSTED};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct token_list ids = {0};
        assert_int_equal(tokenizer_encode(t, STR_LIT("hello"), cases[i], 2, &options, &ids, &err),
                         STATUS_USAGE);
        assert_non_null(strstr(err.message, "span 1"));
        assert_int_equal(ids.count, 0);
    }
    tokenizer_free(t);
}

static void test_bos_eos(void **state)
{
    (void)state;
    struct error err = {0};
    struct tokenizer *t = make_small();
    struct token_list ids = {0};
    struct tokenizer_options options = {.add_bos = true, .add_eos = true};
    assert_ok(tokenizer_encode(t, STR_LIT("hello"), NULL, 0, &options, &ids, &err), &err);
    const int32_t expected[] = {SMALL_BOS, SMALL_HELLO, SMALL_END};
    expect_ids(&ids, expected, 3);
    assert_true(tokenizer_is_end(t, SMALL_END)); /* eos, and by its name */
    assert_false(tokenizer_is_end(t, SMALL_END_LONG));
    assert_false(tokenizer_is_end(t, SMALL_THINK));
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_end(t, SMALL_COUNT));
    size_t n_ends;
    const int32_t *ends = tokenizer_ends(t, &n_ends);
    assert_int_equal(n_ends, 1);
    assert_int_equal(ends[0], SMALL_END);
    assert_int_equal(tokenizer_piece(t, SMALL_HOLE).len, 0);
    assert_int_equal(tokenizer_find(t, STR_LIT("<think>")), SMALL_THINK);
    assert_int_equal(tokenizer_find(t, STR_LIT(" world")), SMALL_WORLD);
    assert_int_equal(tokenizer_find(t, STR_LIT("worlds")), VOCABULARY_NONE);
    tokenizer_free(t);
}

/* --- flags of added tokens --- */

static void test_added_flags(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    assert_ok(small_vocabulary(&v, &err), &err);
    v.tokens[SMALL_THINK].lstrip = true;
    v.tokens[SMALL_THINK].rstrip = true;
    assert_ok(vocabulary_set_token(&v, SMALL_HOLE, STR_LIT("rw"), TOKEN_USER_DEFINED, "t", &err),
              &err);
    v.tokens[SMALL_HOLE].single_word = true;
    struct tokenizer *t = make(&v);
    EXPECT(encode(t, "a \n\t<think> \xc2\xa0\xe3\x80\x80h", TOKENIZER_SPECIALS_ALL), 'a',
           SMALL_THINK, 'h');
    EXPECT(encode(t, "<think> <think>", TOKENIZER_SPECIALS_ALL), SMALL_THINK, SMALL_THINK);
    EXPECT(encode(t, "rw,rw", TOKENIZER_SPECIALS_ALL), SMALL_HOLE, ',', SMALL_HOLE);
    EXPECT(encode(t, "hrw", TOKENIZER_SPECIALS_ALL), 'h', 'r', 'w');
    EXPECT(encode(t, "rwh", TOKENIZER_SPECIALS_ALL), 'r', 'w', 'h');
    EXPECT(encode(t, "rw_", TOKENIZER_SPECIALS_ALL), 'r', 'w', '_');
    EXPECT(encode(t, "rw\xc3\xa9", TOKENIZER_SPECIALS_ALL), 'r', 'w', SMALL_E_ACUTE);
    tokenizer_free(t);
}

/* --- normalization --- */

static void test_nfc_equals_utf8proc(void **state)
{
    (void)state;
    static const uint32_t points[] = {
        'a',    'e',    'q',     0x301,   0x323,   0x345,  0x338,  0x1100, 0x1161, 0x11a8, 0xac00,
        0xac01, 0x212b, 0x958,   0x9c7,   0x9be,   0x3099, 0x304b, 0x1e9b, 0xf900, 0x2126, 0xe9,
        0x344,  0x4e2d, 0x1d15e, 0x11099, 0x110ba, 0xfb1d, '<',    0x327,  0x0dd9, 0x0dcf};
    uint32_t random = 7;
    for (int round = 0; round < 20000; round++) {
        char text[256];
        size_t n = 0, count = 1 + next_random(&random) % 40;
        for (size_t i = 0; i < count; i++) {
            uint32_t c = points[next_random(&random) % (sizeof points / sizeof *points)];
            n += (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)text + n);
        }
        text[n] = '\0';
        struct buf out = {0};
        struct normalizer_map map = {0};
        assert_true(normalizer_run(NORMALIZER_C, (struct str){text, n}, &out, &map));
        utf8proc_uint8_t *expected = utf8proc_NFC((const utf8proc_uint8_t *)text);
        assert_non_null(expected);
        assert_string_equal(out.data, (const char *)expected);
        assert_int_equal(map.chunks[map.count - 1].source_end, n);
        assert_int_equal(map.chunks[map.count - 1].output_end, out.len);
        free(expected);
        normalizer_map_release(&map);
        buf_release(&out);
    }
}

static void test_nfc_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 1; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        char text[8];
        size_t n = (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)text);
        text[n] = '\0';
        struct buf out = {0};
        assert_true(normalizer_run(NORMALIZER_C, (struct str){text, n}, &out, NULL));
        utf8proc_uint8_t *expected = utf8proc_NFC((const utf8proc_uint8_t *)text);
        assert_non_null(expected);
        if (strcmp(out.data, (const char *)expected) != 0)
            fail_msg("U+%04X", c);
        if (!normalizer_needed(NORMALIZER_C, (struct str){text, n}))
            assert_string_equal(text, (const char *)expected);
        free(expected);
        buf_release(&out);
    }
}

/* A map that knows the first byte of a character, and a token that is no UTF-8: neither ends in a loop. */
static void test_hostile_charsmap(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    enum { UNITS = 256 };
    char map[4 + 4 * UNITS + 2] = {0, 4, 0, 0}; /* 1024 bytes of units; the pool is "x" */
    map[4 + 4 * UNITS] = 'x';
    char *unit =
        map + 4 + 4 * 0xc3; /* leads to by 0xc3, ends a string, its value is unit 0xc2: 0 */
    unit[0] = (char)0xc3;
    unit[1] = 1 | 1 << 2;
    assert_ok(small_vocabulary(&v, &err), &err);
    v.normalizers[v.n_normalizers].kind = VOCABULARY_NORMALIZER_CHARSMAP;
    v.normalizers[v.n_normalizers++].content = (struct str){map, sizeof map};
    assert_ok(
        vocabulary_set_token(&v, SMALL_HOLE, STR_LIT("<\xa0y>"), TOKEN_USER_DEFINED, "t", &err),
        &err);
    v.tokens[SMALL_HOLE].normalized = true;
    struct tokenizer *t = make(&v);
    struct token_list ids = encode(t, "he\xc3\xa9", TOKENIZER_SPECIALS_ALL);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.ids[0], SMALL_HE);
    assert_int_equal(ids.ids[1], SMALL_E_ACUTE);
    token_list_release(&ids);
    tokenizer_free(t);
}

/* Trust follows bytes through normalization: here the control token itself is "<é>". */
static void test_trust_under_normalization(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    assert_ok(small_vocabulary(&v, &err), &err);
    v.normalizers[v.n_normalizers++].kind = VOCABULARY_NORMALIZER_NFC;
    assert_ok(vocabulary_set_token(&v, SMALL_HOLE, STR_LIT("<\xc3\xa9>"), TOKEN_CONTROL, "t", &err),
              &err);
    v.tokens[SMALL_HOLE].normalized = true;
    struct tokenizer *t = make(&v);
    const enum tokenizer_specials chat = TOKENIZER_SPECIALS_TRUSTED;
    struct str s = STR_LIT("a<e\xcc\x81>\xe4\xb8\xad"); /* a < e U+0301 > U+4E2D */
    for (unsigned trusted = 0; trusted < 1u << 6; trusted++) {
        /* Bits: "a", "<", "e", the mark's two bytes, ">", the rest. */
        static const size_t ends[] = {1, 2, 3, 5, 6, 9};
        struct text_span spans[6];
        for (size_t i = 0, begin = 0; i < 6; begin = ends[i++])
            spans[i] = span(begin, ends[i], trusted >> i & 1);
        struct token_list ids = encode_spans(t, s, spans, 6, chat);
        bool found = false;
        for (size_t i = 0; i < ids.count; i++)
            found = found || ids.ids[i] == SMALL_HOLE;
        assert_int_equal(found, (trusted & 0x1e) == 0x1e);
        token_list_release(&ids);
    }
    /* A mark typed behind trusted text combines with it, and takes the trust away. */
    struct text_span mark[] = {span(0, 4, true), span(4, 6, false)};
    struct token_list ids = encode_spans(t, STR_LIT("<\xc3\xa9>\xcc\xb8"), mark, 2, chat);
    for (size_t i = 0; i < ids.count; i++)
        assert_int_not_equal(ids.ids[i], SMALL_HOLE);
    token_list_release(&ids);
    /* Tokens that are searched before normalization do not care. */
    struct text_span end[] = {span(0, 10, true), span(10, 12, false)};
    ids = encode_spans(t, STR_LIT("<|im_end|>\xcc\xb8"), end, 2, chat);
    assert_int_equal(ids.ids[0], SMALL_END);
    token_list_release(&ids);
    EXPECT(encode_spans(t, STR_LIT("e\xcc\x81"), NULL, 0, chat), SMALL_E_ACUTE);
    tokenizer_free(t);
}

/* --- bytes that are not UTF-8 --- */

static void test_any_bytes(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    uint32_t random = 3;
    for (int round = 0; round < 3000; round++) {
        char text[64];
        size_t n = next_random(&random) % sizeof text;
        for (size_t i = 0; i < n; i++) {
            uint32_t r = next_random(&random);
            text[i] = r & 1 ? (char)(r >> 4) : "a <\xc3\xa9\xe4\xb8\xad\xf0\x9f"[r % 10];
        }
        struct token_list ids =
            encode_spans(t, (struct str){text, n}, NULL, 0, TOKENIZER_SPECIALS_ALL);
        struct buf back = pieces(t, &ids);
        assert_true(str_eq(buf_str(&back), (struct str){text, n}));
        buf_release(&back);
        token_list_release(&ids);
    }
    tokenizer_free(t);
}

/* --- decoding --- */

#define BAD "\xef\xbf\xbd"

static void test_decode(void **state)
{
    (void)state;
    struct error err = {0};
    struct tokenizer *t = make_small();
    const int32_t ids[] = {SMALL_BOS, SMALL_HELLO, SMALL_THINK, SMALL_WORLD, 0xe4, 0xb8, SMALL_END};
    struct buf out = {0};
    assert_ok(tokenizer_decode(t, ids, 7, false, &out, &err), &err);
    assert_string_equal(out.data, "<|bos|>hello<think> world" BAD "<|im_end|>");
    buf_clear(&out);
    assert_ok(tokenizer_decode(t, ids, 7, true, &out, &err), &err);
    assert_string_equal(out.data, "hello<think> world" BAD);
    const int32_t bad[] = {SMALL_HELLO, SMALL_COUNT};
    assert_int_equal(tokenizer_decode(t, bad, 2, true, &out, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "token 1"));
    buf_release(&out);
    tokenizer_free(t);
}

/* --- patterns --- */

static enum status create_with_pattern(const char *pattern, enum vocabulary_split_keep keep,
                                       struct tokenizer **out, struct error *err)
{
    struct vocabulary v;
    assert_ok(small_vocabulary(&v, err), err);
    v.n_splits = 0;
    assert_ok(vocabulary_add_split(&v, str_from(pattern), keep, err), err);
    enum status status = tokenizer_create(&v, out, err);
    vocabulary_release(&v);
    return status;
}

static void test_patterns(void **state)
{
    (void)state;
    struct error err = {0};
    struct tokenizer *t;
    assert_int_equal(create_with_pattern("(open", VOCABULARY_SPLIT_ISOLATED, &t, &err),
                     STATUS_MODEL);
    assert_non_null(strstr(err.message, "(open"));
    assert_int_equal(create_with_pattern("[a&&b]", VOCABULARY_SPLIT_ISOLATED, &t, &err),
                     STATUS_UNSUPPORTED);
    assert_int_equal(create_with_pattern("[a[b]]", VOCABULARY_SPLIT_ISOLATED, &t, &err),
                     STATUS_UNSUPPORTED);
    assert_int_equal(create_with_pattern("\\C", VOCABULARY_SPLIT_ISOLATED, &t, &err), STATUS_MODEL);

    assert_ok(create_with_pattern("l", VOCABULARY_SPLIT_GAPS, &t, &err), &err);
    EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), SMALL_HE, 'o');
    tokenizer_free(t);
    assert_ok(create_with_pattern("l", VOCABULARY_SPLIT_MATCHES, &t, &err), &err);
    EXPECT(encode(t, "hello", TOKENIZER_SPECIALS_ALL), 'l', 'l');
    tokenizer_free(t);
    /* Empty matches cut, and end. */
    assert_ok(create_with_pattern("x*", VOCABULARY_SPLIT_ISOLATED, &t, &err), &err);
    EXPECT(encode(t, "hexe\xc3\xa9", TOKENIZER_SPECIALS_ALL), 'h', 'e', 'x', 'e', SMALL_E_ACUTE);
    tokenizer_free(t);
    /* White space is Unicode's: U+180E is none (PCRE2's own \s says it is). */
    assert_ok(create_with_pattern("\\s", VOCABULARY_SPLIT_GAPS, &t, &err), &err);
    EXPECT(encode(t,
                  "a\xc2\x85\xe2\x80\xa8\xe3\x80\x80"
                  "a",
                  TOKENIZER_SPECIALS_ALL),
           'a', 'a');
    EXPECT(encode(t, "\xe1\xa0\x8e", TOKENIZER_SPECIALS_ALL), 0xe1, 0xa0, 0x8e);
    tokenizer_free(t);
}

static void test_match_limit(void **state)
{
    (void)state;
    struct error err = {0};
    struct tokenizer *t;
    assert_ok(create_with_pattern("(?:(?:a|a)+)+(?!a|b)\\d", VOCABULARY_SPLIT_ISOLATED, &t, &err),
              &err);
    struct token_list ids = {0};
    struct tokenizer_options options = {0};
    assert_int_equal(tokenizer_encode(t, STR_LIT("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab7"),
                                      NULL, 0, &options, &ids, &err),
                     STATUS_LIMIT);
    assert_int_equal(ids.count, 0);
    token_list_release(&ids);
    tokenizer_free(t);
}

/* --- threads --- */

static void *encode_many(void *user)
{
    const struct tokenizer *t = user;
    for (int i = 0; i < 200; i++) {
        struct token_list ids = {0};
        struct tokenizer_options options = {0};
        struct error err = {0};
        if (tokenizer_encode(t, STR_LIT("hello world hello world"), NULL, 0, &options, &ids,
                             &err) != STATUS_OK ||
            ids.count != 5)
            return user;
        token_list_release(&ids);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct tokenizer *t = make_small();
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, t), 0);
    for (size_t i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    tokenizer_free(t);
}

/* --- building vocabularies --- */

static void test_vocabulary_errors(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    vocabulary_init(&v);
    assert_int_equal(vocabulary_set_size(&v, 0, "tokens", &err), STATUS_MODEL);
    assert_int_equal(vocabulary_set_size(&v, (uint64_t)1 << 63, "tokens", &err), STATUS_MODEL);
    assert_ok(vocabulary_set_size(&v, 4, "tokens", &err), &err);
    assert_ok(vocabulary_set_token(&v, 0, STR_LIT("a"), TOKEN_NORMAL, "tokens", &err), &err);
    assert_ok(vocabulary_set_token(&v, 1, STR_LIT("b"), TOKEN_NORMAL, "tokens", &err), &err);
    assert_int_equal(vocabulary_set_token(&v, 4, STR_LIT("c"), TOKEN_NORMAL, "tokens", &err),
                     STATUS_MODEL);
    assert_int_equal(vocabulary_set_token(&v, 1, STR_LIT("c"), TOKEN_NORMAL, "tokens", &err),
                     STATUS_MODEL);
    assert_int_equal(vocabulary_set_token(&v, 2, STR_LIT("a"), TOKEN_NORMAL, "tokens", &err),
                     STATUS_MODEL);
    assert_non_null(strstr(err.message, "tokens 0 and 2"));
    assert_int_equal(vocabulary_set_token(&v, 2, STR_LIT("c"), 7, "types", &err), STATUS_MODEL);
    assert_non_null(strstr(err.message, "types"));
    assert_ok(vocabulary_set_token(&v, 2, STR_LIT("ab"), TOKEN_NORMAL, "tokens", &err), &err);
    assert_int_equal(vocabulary_reserve_merges(&v, (uint64_t)1 << 40, "merges", &err),
                     STATUS_MODEL);
    assert_ok(vocabulary_reserve_merges(&v, 2, "merges", &err), &err);
    assert_ok(vocabulary_add_merge_line(&v, STR_LIT("a b"), "merges", &err), &err);
    assert_int_equal(v.merges[0].result, 2);
    assert_int_equal(vocabulary_add_merge_line(&v, STR_LIT("ab"), "merges", &err), STATUS_MODEL);
    assert_int_equal(vocabulary_add_merge_line(&v, STR_LIT(" ab"), "merges", &err), STATUS_MODEL);
    assert_int_equal(vocabulary_add_merge_line(&v, STR_LIT("b a"), "merges", &err), STATUS_MODEL);
    assert_non_null(strstr(err.message, "\"ba\""));
    assert_int_equal(vocabulary_set_id(&v, &v.bos, 4, "bos_token_id", &err), STATUS_MODEL);
    assert_non_null(strstr(err.message, "bos_token_id"));
    assert_int_equal(vocabulary_set_id(&v, &v.bos, -1, "bos_token_id", &err), STATUS_MODEL);
    assert_int_equal(v.bos, VOCABULARY_NONE);
    vocabulary_release(&v);
}

/* In harmony <|end|> closes a message, not the turn; elsewhere it closes the turn. */
static void test_well_known_ends(void **state)
{
    (void)state;
    struct error err = {0};
    for (int harmony = 0; harmony < 2; harmony++) {
        struct vocabulary v;
        vocabulary_init(&v);
        assert_ok(vocabulary_set_size(&v, 5, "t", &err), &err);
        assert_ok(vocabulary_set_token(&v, 0, STR_LIT("<|end|>"), TOKEN_CONTROL, "t", &err), &err);
        assert_ok(vocabulary_set_token(&v, 1, STR_LIT("<|return|>"),
                                       harmony ? TOKEN_CONTROL : TOKEN_NORMAL, "t", &err),
                  &err);
        assert_ok(vocabulary_set_token(&v, 2, STR_LIT("<|call|>"), TOKEN_CONTROL, "t", &err), &err);
        assert_ok(vocabulary_set_token(&v, 3, STR_LIT("<|eot_id|>"), TOKEN_USER_DEFINED, "t", &err),
                  &err);
        v.eot = 4;
        assert_ok(vocabulary_finish(&v, &err), &err);
        struct tokenizer *t = NULL;
        assert_ok(tokenizer_create(&v, &t, &err), &err);
        assert_int_equal(tokenizer_is_end(t, 0), !harmony);
        assert_int_equal(tokenizer_is_end(t, 1), harmony);
        assert_true(tokenizer_is_end(t, 2));
        assert_false(tokenizer_is_end(t, 3));
        assert_true(tokenizer_is_end(t, 4));
        tokenizer_free(t);
        vocabulary_release(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_merging_equals_definition),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_missing_byte),
        cmocka_unit_test(test_control_needs_trust),
        cmocka_unit_test(test_user_defined_everywhere),
        cmocka_unit_test(test_longest_that_may_match),
        cmocka_unit_test(test_borders_do_not_split),
        cmocka_unit_test(test_merges_make_no_control),
        cmocka_unit_test(test_bad_spans),
        cmocka_unit_test(test_bos_eos),
        cmocka_unit_test(test_added_flags),
        cmocka_unit_test(test_nfc_equals_utf8proc),
        cmocka_unit_test(test_nfc_every_code_point),
        cmocka_unit_test(test_hostile_charsmap),
        cmocka_unit_test(test_trust_under_normalization),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_match_limit),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_vocabulary_errors),
        cmocka_unit_test(test_well_known_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
