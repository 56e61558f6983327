/*
 * The streaming detokenizer: whole code points only, replacement as in the reference, any cut.
 */
#include <utf8proc.h>

#include "fixture.h"
#include "text/tokenizer/tokenizer.h"

#define BAD "\xef\xbf\xbd"

static void test_replacement(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"plain", "plain"},
        {"\xff", BAD},
        {"a\xe2\x82z", "a" BAD "z"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"\xed\xa0\x80", BAD BAD BAD}, /* a surrogate */
        {"\xf0\x90\x80", BAD},         /* cut short: one for the whole beginning */
        {"\xc0\xaf", BAD BAD},         /* overlong */
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD},
        {"\xe4\xb8\xe4\xb8\xad", BAD "\xe4\xb8\xad"},
        {"\x80\xbfz", BAD BAD "z"},
        {"\xf0\x80\x80", BAD BAD BAD},
        {"\xe4", BAD},
        {BAD, BAD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str bytes = str_from(cases[i].bytes);
        for (size_t cut = 0; cut <= bytes.len; cut++) {
            struct detokenizer d = {0};
            struct buf out = {0};
            detokenizer_push(&d, (struct str){bytes.data, cut}, &out);
            detokenizer_push(&d, (struct str){bytes.data + cut, bytes.len - cut}, &out);
            detokenizer_flush(&d, &out);
            assert_string_equal(out.data, cases[i].text);
            buf_release(&out);
        }
    }
}

/* Whatever the cut into tokens, only whole code points come out, and nothing is lost. */
static void test_streaming(void **state)
{
    (void)state;
    struct str text = STR_LIT("h\xc3\xa9llo \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80!");
    for (uint32_t mask = 0; mask < 1u << 10; mask++) {
        struct detokenizer d = {0};
        struct buf out = {0};
        size_t begin = 0;
        for (size_t i = 1; i <= text.len; i++) {
            if (i < text.len && !(mask >> i % 10 & 1))
                continue;
            detokenizer_push(&d, (struct str){text.data + begin, i - begin}, &out);
            begin = i;
            utf8proc_int32_t c;
            for (size_t at = 0; at < out.len;) {
                utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)out.data + at,
                                                      (utf8proc_ssize_t)(out.len - at), &c);
                assert_true(n > 0);
                at += (size_t)n;
            }
        }
        size_t before = out.len;
        detokenizer_flush(&d, &out);
        assert_int_equal(out.len, before);
        assert_true(str_eq(buf_str(&out), text));
        buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replacement),
        cmocka_unit_test(test_streaming),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
