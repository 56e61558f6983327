/*
 * The hand-written splitters against the patterns they stand for, run by PCRE2.
 *
 * The two libraries know different versions of Unicode, so characters whose class is not the same in
 * both are left out of the texts (and counted: there must be few).
 */
#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "text/tokenizer/char_class.h"
#include "text/tokenizer/splitter.h"
#include "text/tokenizer/utf8.h"

#define POINTS 0x110000u

struct pieces {
    size_t *ends;
    size_t count, capacity;
    const char *start;
};

static enum status add_piece(void *user, struct str piece, struct error *err)
{
    struct pieces *pieces = user;
    (void)err;
    if (pieces->count + 2 > pieces->capacity) {
        pieces->capacity = pieces->capacity ? pieces->capacity * 2 : 1024;
        pieces->ends = realloc(pieces->ends, pieces->capacity * sizeof *pieces->ends);
        assert_non_null(pieces->ends);
    }
    pieces->ends[pieces->count++] = (size_t)(piece.data - pieces->start);
    pieces->ends[pieces->count++] = (size_t)(piece.data - pieces->start) + piece.len;
    return STATUS_OK;
}

static struct pieces split(const char *pattern, bool pcre2_only, struct str text)
{
    struct error err = {0};
    struct vocabulary_split step = {.pattern = str_from(pattern)};
    struct splitter *splitter;
    struct splitter_run run;
    struct pieces pieces = {.start = text.data};
    assert_ok(splitter_create(&step, 1, pcre2_only, &splitter, &err), &err);
    splitter_run_open(&run, splitter, add_piece, &pieces);
    assert_ok(splitter_run_split(&run, text, true, &err), &err);
    splitter_run_close(&run);
    splitter_free(splitter);
    return pieces;
}

/* --- characters on which the two libraries agree --- */

static bool *agreed; /* [POINTS] */

static unsigned put(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

/* Every character once, and where PCRE2 finds those of a class. */
static void compare_class(const char *pattern, unsigned class, struct str all)
{
    bool *member = calloc(all.len + 1, 1);
    struct error err = {0};
    struct regex regex;
    struct regex_run run = {0};
    assert_ok(regex_compile(&regex, str_from(pattern), "test", &err), &err);
    for (size_t from = 0; from < all.len;) {
        bool found;
        size_t begin, end;
        assert_ok(regex_find(&run, &regex, all, from, "test", &found, &begin, &end, &err), &err);
        if (!found)
            break;
        memset(member + begin, 1, end - begin);
        from = end;
    }
    for (size_t i = 0; i < all.len;) {
        uint32_t c = 0;
        unsigned length = utf8_decode((const uint8_t *)all.data + i, all.len - i, &c);
        if (member[i] != ((char_class_of(c) & class) != 0))
            agreed[c] = false;
        i += length;
    }
    regex_run_close(&run);
    regex_release(&regex);
    free(member);
}

static int set_up(void **state)
{
    (void)state;
    struct buf all = {0};
    agreed = calloc(POINTS, 1);
    for (uint32_t c = 1; c < POINTS; c++) {
        char text[4];
        if (c >= 0xd800 && c < 0xe000)
            continue;
        buf_append(&all, text, put(c, text));
        agreed[c] = true;
    }
    compare_class("\\p{L}+", CHAR_LETTER, buf_str(&all));
    compare_class("\\p{N}+", CHAR_NUMBER, buf_str(&all));
    compare_class("\\p{Nd}+", CHAR_DIGIT, buf_str(&all));
    compare_class("\\p{M}+", CHAR_MARK, buf_str(&all));
    compare_class("\\p{P}+", CHAR_PUNCTUATION, buf_str(&all));
    compare_class("\\p{S}+", CHAR_SYMBOL, buf_str(&all));
    compare_class("\\s+", CHAR_SPACE, buf_str(&all));
    compare_class("[\\p{Lu}\\p{Lt}]+", CHAR_UPPER, buf_str(&all));
    compare_class("\\p{Ll}+", CHAR_LOWER, buf_str(&all));
    buf_release(&all);
    size_t differ = 0;
    for (uint32_t c = 1; c < POINTS; c++)
        differ += !agreed[c] && (c < 0xd800 || c >= 0xe000);
    printf("%zu characters are of another class in PCRE2's tables\n", differ);
    assert_true(differ < 20000 && agreed['a'] && agreed[0x4e00] && agreed[0x430]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(agreed);
    return 0;
}

static struct buf only_agreed(struct str text)
{
    struct buf out = {0};
    for (size_t i = 0; i < text.len;) {
        uint32_t c = 0;
        unsigned length = utf8_decode((const uint8_t *)text.data + i, text.len - i, &c);
        if (length && agreed[c])
            buf_append(&out, text.data + i, length);
        i += length ? length : 1;
    }
    return out;
}

/* --- patterns --- */

static const char *const patterns[] = {
    VOCABULARY_SPLIT_GPT2,
    VOCABULARY_SPLIT_QWEN2,
    VOCABULARY_SPLIT_QWEN35,
    VOCABULARY_SPLIT_LLAMA3,
    VOCABULARY_SPLIT_GPT4O,
    VOCABULARY_SPLIT_TEKKEN,
    VOCABULARY_SPLIT_KIMI,
    VOCABULARY_SPLIT_CJK,
    VOCABULARY_SPLIT_DEEPSEEK3,
    VOCABULARY_SPLIT_BERT,
    "\\p{N}{1,3}",
    "\\p{N}",
    "\\p{N}+",
    "\\s+",
    "\\s+$",
    VOCABULARY_SPLIT_GROUPS,
    VOCABULARY_SPLIT_GROUPS_BOUNDED,
    VOCABULARY_SPLIT_CLIP,
    "\\s?\\p{L}+",
    "\\s?\\p{P}+",
    "[\\p{P}\\$\\+<=>\\^~\\|`]+",
    "[\\p{P}\\$\\+<=>\\^~\\|]+",
    "[\r\n]",
    "[0-9][0-9][0-9]",
};

static void compare(const char *pattern, struct str text, const char *name)
{
    assert_true(splitter_is_known(str_from(pattern)));
    struct pieces ours = split(pattern, false, text), theirs = split(pattern, true, text);
    for (size_t i = 0; i < ours.count && i < theirs.count; i++) {
        if (ours.ends[i] != theirs.ends[i]) {
            size_t at = i < 2 ? 0 : ours.ends[i - 2];
            fail_msg("%s: %s: piece %zu: %zu instead of %zu, behind \"%.*s\"", name, pattern, i / 2,
                     ours.ends[i], theirs.ends[i], (int)(text.len - at < 40 ? text.len - at : 40),
                     text.data + at);
        }
    }
    assert_int_equal(ours.count, theirs.count);
    free(ours.ends);
    free(theirs.ends);
}

static void compare_all(struct str text, const char *name)
{
    struct buf clean = only_agreed(text);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        compare(patterns[i], buf_str(&clean), name);
    buf_release(&clean);
}

/* Short texts over the characters that the patterns tell apart, in every order that chance makes. */
static void test_random(void **state)
{
    (void)state;
    static const uint32_t alphabet[] = {
        ' ',     ' ',   '\n',    '\r',   '\t',   'a',    'B',     's',  'S',    'l',
        'r',     'e',   '\'',    '\'',   '.',    '/',    '_',     '$',  '1',    '2',
        '9',     0x17f, 0x301,   0x2b0,  0x1c5,  0x4e00, 0x3042,  0xa0, 0x2003, 0x663,
        0xbd,    0x85,  0x1f600, 0xe000, 0x2028, 0xfffd, 0x1d400, '!',  0xdf,   0x200d,
        0x10400, '3',   0x2c2f,  0xff11, '`',    '<',    '|',     0xa1,
    };
    uint32_t random = 7;
    for (size_t round = 0; round < 4000; round++) {
        char bytes[4 * 24];
        size_t n = 0;
        random = random * 1664525u + 1013904223u;
        for (size_t k = 1 + (random >> 20) % 24; k > 0; k--) {
            random = random * 1664525u + 1013904223u;
            uint32_t c = alphabet[(random >> 12) % (sizeof alphabet / sizeof *alphabet)];
            if (agreed[c])
                n += put(c, bytes + n);
        }
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
            compare(patterns[i], (struct str){bytes, n}, "random");
    }
}

static void test_texts(void **state)
{
    (void)state;
    static const char *const names[] = {"weird_unicode.txt", "mixed_languages.txt", "code.txt",
                                        "prose_en.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "data/text/%s", names[i]);
        if (!fixture_shared(path))
            skip();
        struct buf text = fixture_read(fixture_shared(path));
        /* Quadratic in PCRE2, so not on a megabyte. */
        struct str part = {text.data, text.len < 200000 ? text.len : 200000};
        compare_all(part, names[i]);
        buf_release(&text);
    }
}

/* A megabyte of one character is one scan; the last two are quadratic as regular expressions. */
static void test_long_runs(void **state)
{
    (void)state;
    static const char *const units[] = {
        " ", "a", "A", "\n", "1", "'", ".", "\xe4\xb8\x80", " x", "\xcc\x81", "\xef\xbc\x91"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct buf text = {0};
        while (text.len < 1000000)
            buf_append_cstr(&text, units[u]);
        buf_append_cstr(&text, "x");
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
            struct pieces pieces = split(patterns[i], false, buf_str(&text));
            assert_true(pieces.count >= 2);
            assert_int_equal(pieces.ends[pieces.count - 1], text.len);
            free(pieces.ends);
        }
        buf_release(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_long_runs),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
