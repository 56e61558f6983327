/* Stop strings: nothing leaks, and the result does not depend on where the text was cut. */
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "text/stop.h"

/* Feeds `text` in pieces whose lengths come from the bits of `cuts`; the shown text into out. */
static bool feed(const struct str *stops, size_t n_stops, const char *text, uint64_t cuts,
                 struct buf *out)
{
    struct stop_matcher matcher;
    assert_true(stop_matcher_init(&matcher, stops, n_stops));
    size_t length = strlen(text), at = 0;
    bool stopped = false;
    buf_clear(out);
    while (at < length && !stopped) {
        size_t n = 1;
        while (at + n < length && !(cuts >> ((at + n) % 64) & 1))
            n++;
        struct str safe;
        stopped = stop_matcher_push(&matcher, (struct str){text + at, n}, &safe);
        buf_append_str(out, safe);
        at += n;
    }
    if (!stopped)
        buf_append_str(out, stop_matcher_flush(&matcher));
    stop_matcher_release(&matcher);
    return stopped;
}

struct example {
    const char *stops[3];
    const char *text, *shown;
    bool stopped;
};

static const struct example examples[] = {
    {{"END"}, "some text END more", "some text ", true},
    {{"END"}, "some EN, no, E", "some EN, no, E", false},
    {{"END"}, "END", "", true},
    {{"aab"}, "aaaab!", "aa", true},
    {{"abcd", "bc"}, "xabcd", "xa", true}, /* "bc" is complete first */
    {{"bcd", "abcd"}, "xabcd", "x", true}, /* together: the longer one */
    {{"\n\n", "User:"}, "a\nb\n\nUser:", "a\nb", true},
    {{"\xc3\xa9t\xc3\xa9"},
     "l'\xc3\xa9t\xc3\xa8 l'\xc3\xa9t\xc3\xa9.",
     "l'\xc3\xa9t\xc3\xa8 l'",
     true},
    {{NULL}, "anything", "anything", false},
    {{"ababc"}, "abababcab", "ab", true},
};

static void test_every_cut_gives_the_same(void **state)
{
    (void)state;
    struct buf out = {0};
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        const struct example *e = &examples[i];
        struct str stops[3];
        size_t n = 0;
        while (n < 3 && e->stops[n]) {
            stops[n] = str_from(e->stops[n]);
            n++;
        }
        size_t length = strlen(e->text);
        uint64_t n_cuts = length < 12 ? 1ull << length : 4096;
        for (uint64_t cuts = 0; cuts < n_cuts; cuts++) {
            bool stopped = feed(stops, n, e->text, cuts * 0x9e3779b97f4a7c15u >> (cuts % 7), &out);
            if (length < 12)
                stopped = feed(stops, n, e->text, cuts, &out);
            assert_int_equal(stopped, e->stopped);
            assert_string_equal(out.data ? out.data : "", e->shown);
        }
    }
    buf_release(&out);
}

static void test_holds_back_no_more_than_needed(void **state)
{
    (void)state;
    struct str stop = STR_LIT("STOP");
    struct stop_matcher matcher;
    struct str safe;
    assert_true(stop_matcher_init(&matcher, &stop, 1));
    assert_false(stop_matcher_push(&matcher, STR_LIT("abST"), &safe));
    assert_true(str_eq_cstr(safe, "ab"));
    assert_false(stop_matcher_push(&matcher, STR_LIT("AND"), &safe));
    assert_true(str_eq_cstr(safe, "STAND"));
    assert_false(stop_matcher_push(&matcher, STR_LIT("S"), &safe));
    assert_int_equal(safe.len, 0);
    assert_true(str_eq_cstr(stop_matcher_flush(&matcher), "S"));
    stop_matcher_release(&matcher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut_gives_the_same),
        cmocka_unit_test(test_holds_back_no_more_than_needed),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
