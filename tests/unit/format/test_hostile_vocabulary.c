/*
 * Vocabularies made to hurt: merges that lead back to where they came from, holes, duplicates, ids
 * past the end, stages nested without end, patterns that explode. Each ends in an error that names
 * the field, or works and ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "fixture.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

/* Single quotes stand for double ones. */
static enum status read_json(const char *text, struct vocabulary *out, struct error *err)
{
    struct buf json = {0};
    buf_append_cstr(&json, text);
    for (size_t i = 0; i < json.len; i++)
        json.data[i] = json.data[i] == '\'' ? '"' : json.data[i];
    *err = (struct error){0};
    enum status status = vocabulary_from_json_text(buf_str(&json), "hostile.json", NULL, out, err);
    buf_release(&json);
    return status;
}

static void refused(const char *text, enum status status, const char *mention)
{
    struct error err;
    struct vocabulary v;
    struct tokenizer *t = NULL;
    enum status got = read_json(text, &v, &err);
    if (got == STATUS_OK) {
        got = tokenizer_create(&v, &t, &err);
        vocabulary_release(&v);
    }
    if (got != status || !strstr(err.message, mention))
        fail_msg("%.80s: %s: %s (\"%s\" expected)", text, status_name(got), err.message, mention);
    tokenizer_free(t);
}

static struct tokenizer *opened(const char *text)
{
    struct error err;
    struct vocabulary v;
    struct tokenizer *t;
    assert_ok(read_json(text, &v, &err), &err);
    assert_ok(tokenizer_create(&v, &t, &err), &err);
    vocabulary_release(&v);
    return t;
}

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

#define BYTE_LEVEL                                                                                 \
    "'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false,'use_regex':false},"             \
    "'decoder':{'type':'ByteLevel'}"

/* A merge makes a longer text, so none can lead back; what can be written down that seems to must be
 * harmless, the same pair at many ranks, all pairs of a closed set; or refused: empty parts. */
static void test_merges_that_loop(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2,'ba':3,'aba':4,'bab':5,'abab':6},"
        "'merges':['ab ab','a ba','ab a','b ab','ba b','a b','b a','a b','ab ab','a "
        "b']}," BYTE_LEVEL "}",
        "{'model':{'type':'BPE','vocab':{'a':0,'aa':1,'aaa':2,'aaaa':3,'b':4},"
        "'merges':['aa aa','aaa a','a aaa','aa a','a aa','a a','a a']}," BYTE_LEVEL "}",
    };
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        struct tokenizer *t = opened(documents[i]);
        struct buf text = {0}, back = {0};
        struct token_list ids = {0};
        struct error err = {0};
        const struct tokenizer_options options = {0};
        for (size_t k = 0; k < 200000; k++)
            buf_append_char(&text, k % 7 == 3 || (i == 0 && k % 2) ? 'b' : 'a');
        double before = cpu_seconds();
        assert_ok(tokenizer_encode(t, buf_str(&text), NULL, 0, &options, &ids, &err), &err);
        assert_true(cpu_seconds() - before < 5);
        assert_ok(tokenizer_decode(t, ids.ids, ids.count, false, &back, &err), &err);
        assert_true(str_eq(buf_str(&text), buf_str(&back)));
        buf_release(&text);
        buf_release(&back);
        token_list_release(&ids);
        tokenizer_free(t);
    }
    refused("{'model':{'type':'BPE','vocab':{'':0,'a':1},'merges':[['','a']]}," BYTE_LEVEL "}",
            STATUS_MODEL, "merge 0");
    refused("{'model':{'type':'BPE','vocab':{'':0,'a':1},'merges':['a ']}," BYTE_LEVEL "}",
            STATUS_MODEL, "merge 0");
}

/* Ids with nothing between them, and more of them than there can be. */
static void test_holes_and_duplicates(void **state)
{
    (void)state;
    struct tokenizer *t = opened("{'model':{'type':'BPE','vocab':{'a':2,'b':7,'ab':4},"
                                 "'merges':['a b']},'added_tokens':[{'id':9,'content':'<x>',"
                                 "'special':true}]," BYTE_LEVEL "}");
    struct error err = {0};
    struct buf text = {0};
    const int32_t ids[] = {0, 2, 3, 7, 8, 9}, past[] = {2, 10}, below[] = {-1};
    assert_int_equal(tokenizer_count(t), 10);
    assert_ok(tokenizer_decode(t, ids, 6, false, &text, &err), &err);
    assert_string_equal(text.data, "ab<x>");
    assert_int_equal(tokenizer_decode(t, past, 2, false, &text, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "10"));
    assert_int_equal(tokenizer_decode(t, below, 1, false, &text, &err), STATUS_USAGE);
    assert_int_equal(tokenizer_piece(t, 3).len, 0);
    assert_int_equal(tokenizer_piece(t, INT64_MAX).len, 0);
    assert_int_equal(tokenizer_piece(t, INT64_MIN).len, 0);
    assert_false(tokenizer_is_control(t, 4000000000));
    assert_false(tokenizer_is_end(t, -5));
    buf_release(&text);
    tokenizer_free(t);

    refused("{'model':{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}," BYTE_LEVEL "}",
            STATUS_MODEL, "twice");
    refused("{'model':{'type':'BPE','vocab':{'a':0,'b':4194303},'merges':[]}," BYTE_LEVEL "}",
            STATUS_MODEL, "4194303");
    refused("{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'added_tokens':[{'id':4294967295,"
            "'content':'x'}]," BYTE_LEVEL "}",
            STATUS_MODEL, "added_tokens");
    refused("{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'added_tokens':[{'id':-3,"
            "'content':'x'}]," BYTE_LEVEL "}",
            STATUS_MODEL, "added_tokens");
    refused("{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},'added_tokens':[{'id':1,"
            "'content':'x'},{'id':1,'content':'y'}]," BYTE_LEVEL "}",
            STATUS_MODEL, "twice");
    refused("{'model':{'type':'Unigram','unk_id':5,'vocab':[['a',0]]}}", STATUS_MODEL, "unk_id");
    refused("{'model':{'type':'Unigram','unk_id':-7,'vocab':[['a',0]]}}", STATUS_MODEL, "unk_id");
    refused("{'model':{'type':'Unigram','unk_id':0,'vocab':[['a',0],['a',-1]]}}", STATUS_MODEL,
            "model.vocab");
    refused("{'model':{'type':'Unigram','unk_id':0,'vocab':[['a']]}}", STATUS_MODEL, "model.vocab");
    refused("{'model':{'type':'WordPiece','unk_token':'?','vocab':{'a':0}}}", STATUS_MODEL,
            "unk_token");
}

static void append_times(struct buf *out, const char *text, size_t n)
{
    while (n--)
        buf_append_cstr(out, text);
}

/* Stages in stages: the JSON's depth ends it, or the number of steps. */
static void test_nested_stages(void **state)
{
    (void)state;
    static const struct {
        const char *open, *middle, *close;
    } kinds[] = {
        {"'pre_tokenizer':{'type':'Sequence','pretokenizers':[", "{'type':'Digits'}", "]}"},
        {"'normalizer':{'type':'Sequence','normalizers':[", "{'type':'NFC'}", "]}"},
    };
    for (size_t k = 0; k < 2; k++) {
        const char *inner = strchr(kinds[k].open, '{');
        for (size_t depth = 4; depth <= 40000; depth *= 10) {
            struct buf text = {0};
            struct error err;
            struct vocabulary v;
            buf_append_cstr(&text, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},");
            buf_append_cstr(&text, kinds[k].open);
            append_times(&text, inner, depth);
            buf_append_cstr(&text, kinds[k].middle);
            append_times(&text, kinds[k].close, depth + 1);
            buf_append_char(&text, '}');
            enum status status = read_json(text.data, &v, &err);
            if (status == STATUS_OK)
                vocabulary_release(&v);
            else
                assert_true(err.message[0] != 0);
            assert_true(depth < 100 || status != STATUS_OK);
            buf_release(&text);
        }
        /* Side by side: more than anybody has. */
        struct buf text = {0};
        buf_append_cstr(&text, "{'model':{'type':'BPE','vocab':{'a':0},'merges':[]},");
        buf_append_cstr(&text, kinds[k].open);
        buf_append_cstr(&text, kinds[k].middle);
        for (int i = 0; i < 5000; i++)
            buf_printf(&text, ",%s", kinds[k].middle);
        buf_append_cstr(&text, kinds[k].close);
        buf_append_char(&text, '}');
        refused(text.data, STATUS_MODEL, k ? "normalizer" : "pre_tokenizer");
        buf_release(&text);
    }
}

/* ---- patterns ---- */

static struct buf with_pattern(const char *pattern)
{
    struct buf text = {0};
    json_t *value = json_string(pattern);
    char *spelled = json_dumps(value, JSON_ENCODE_ANY);
    buf_printf(&text,
               "{'model':{'type':'BPE','vocab':{'a':0,'b':1,' ':2},'merges':[]},'pre_tokenizer':"
               "{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'Regex':%s},"
               "'behavior':'Isolated'},{'type':'ByteLevel','add_prefix_space':false,'use_regex':"
               "false}]},'decoder':{'type':'ByteLevel'}}",
               spelled);
    free(spelled);
    json_decref(value);
    return text;
}

/* Either it is done, or an error says which stage it was; never longer than its limit of time. */
static void test_patterns_that_explode(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "(a+)+$",       "(a|aa)+b",  "(?:a?){40}a{40}b", "(?:(?:a|a)+)+\\d",
        "(a*)*\\1b",    "a*[bc]d",   "(?=(a+))a*b\\1",   "(?:a|(?R))*b",
        "(?<!a)(a+)+c", ".*.*.*=.*", "(?:a*)*(?:a*)*c",  "((a{0,5}){0,5})*[c]",
    };
    static const size_t lengths[] = {40, 3000, 300000};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        struct buf document = with_pattern(patterns[i]);
        struct tokenizer *t = opened(document.data);
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            struct buf text = {0};
            struct token_list ids = {0};
            struct error err = {0};
            const struct tokenizer_options options = {0};
            append_times(&text, "a", lengths[k]);
            double before = cpu_seconds();
            enum status status = tokenizer_encode(t, buf_str(&text), NULL, 0, &options, &ids, &err);
            if (cpu_seconds() - before > 30)
                fail_msg("%s: %.0f s on %zu bytes", patterns[i], cpu_seconds() - before,
                         lengths[k]);
            if (status == STATUS_OK)
                assert_int_equal(ids.count, lengths[k]);
            else if (status != STATUS_LIMIT || !strstr(err.message, "pre_tokenizer"))
                fail_msg("%s: %s: %s", patterns[i], status_name(status), err.message);
            buf_release(&text);
            token_list_release(&ids);
        }
        tokenizer_free(t);
        buf_release(&document);
    }
}

static void test_patterns_refused(void **state)
{
    (void)state;
    struct buf nested = {0}, wide = {0};
    append_times(&nested, "(", 5000);
    append_times(&nested, ")", 5000);
    append_times(&wide, "\\p{L}", 5000);
    const struct {
        const char *pattern, *mention;
        enum status status;
    } cases[] = {
        {"(", "pre_tokenizer", STATUS_MODEL},
        {"[z-a]", "pre_tokenizer", STATUS_MODEL},
        {"a{99999999999}", "pre_tokenizer", STATUS_MODEL},
        {"(?:a{60000}){60000}", "pre_tokenizer", STATUS_MODEL},
        {"(?<=a+)b", "pre_tokenizer", STATUS_MODEL},
        {"\\p{Nowhere}", "pre_tokenizer", STATUS_MODEL},
        {"(*LIMIT_MATCH=4000000000)a", "verb", STATUS_UNSUPPORTED},
        {"(*NO_JIT)a", "verb", STATUS_UNSUPPORTED},
        {"a(*COMMIT)b", "verb", STATUS_UNSUPPORTED},
        {"\\Ga", "escape", STATUS_UNSUPPORTED},
        {"\\C", "pre_tokenizer", STATUS_MODEL},
        {"[a[b]]", "set operation", STATUS_UNSUPPORTED},
        {nested.data, "pre_tokenizer", STATUS_MODEL},
        {wide.data, "pre_tokenizer", STATUS_MODEL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf document = with_pattern(cases[i].pattern);
        refused(document.data, cases[i].status, cases[i].mention);
        buf_release(&document);
    }
    buf_release(&nested);
    buf_release(&wide);
}

/* Steps that no limit of one match sees: every place to begin reads on to the end. */
static void test_quadratic_pattern(void **state)
{
    (void)state;
    struct buf document = with_pattern("a*[bc][de]"), text = {0};
    struct tokenizer *t = opened(document.data);
    struct token_list ids = {0};
    struct error err = {0};
    const struct tokenizer_options options = {0};
    append_times(&text, "a", 3000000);
    double before = cpu_seconds();
    assert_int_equal(tokenizer_encode(t, buf_str(&text), NULL, 0, &options, &ids, &err),
                     STATUS_LIMIT);
    assert_non_null(strstr(err.message, "pre_tokenizer"));
    assert_non_null(strstr(err.message, "explodes"));
    assert_true(cpu_seconds() - before < 30);
    assert_int_equal(ids.count, 0);
    token_list_release(&ids);
    tokenizer_free(t);
    buf_release(&text);
    buf_release(&document);
}

/* Matches that begin far behind each other, and at borders of characters. */
static void test_sparse_matches(void **state)
{
    (void)state;
    struct buf document = with_pattern("(?<=b)b|b(?=b)");
    struct tokenizer *t = opened(document.data);
    static const size_t gaps[] = {0, 1, 254, 255, 256, 257, 511, 512, 513, 100000};
    for (size_t i = 0; i < sizeof gaps / sizeof *gaps; i++) {
        struct buf text = {0};
        struct token_list ids = {0};
        struct error err = {0};
        const struct tokenizer_options options = {0};
        append_times(&text, i % 2 ? "\xe4\xb8\x80" : " ", gaps[i]);
        buf_append_cstr(&text, "bba");
        assert_ok(tokenizer_encode(t, buf_str(&text), NULL, 0, &options, &ids, &err), &err);
        assert_true(ids.count >= 3);
        assert_int_equal(ids.ids[ids.count - 3], 1);
        assert_int_equal(ids.ids[ids.count - 2], 1);
        buf_release(&text);
        token_list_release(&ids);
    }
    tokenizer_free(t);
    buf_release(&document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_that_loop),      cmocka_unit_test(test_holes_and_duplicates),
        cmocka_unit_test(test_nested_stages),         cmocka_unit_test(test_patterns_refused),
        cmocka_unit_test(test_patterns_that_explode), cmocka_unit_test(test_quadratic_pattern),
        cmocka_unit_test(test_sparse_matches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
