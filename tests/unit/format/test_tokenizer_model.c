/*
 * tokenizer.model files made here: a small right one, the same with every kind of damage, and the
 * algorithms on megabytes of one character.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "fixture.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

#define UNIGRAM 1
#define BPE     2

static void put_varint(struct buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buf_append_char(out, (char)(0x80 | (value & 0x7f)));
    buf_append_char(out, (char)value);
}

static void put_number(struct buf *out, unsigned field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_bytes(struct buf *out, unsigned field, struct str bytes)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len);
    buf_append_str(out, bytes);
}

static void put_piece(struct buf *out, const char *text, float score, int type)
{
    struct buf piece = {0};
    put_bytes(&piece, 1, str_from(text));
    put_varint(&piece, 2 << 3 | 5);
    buf_append(&piece, &score, sizeof score);
    put_number(&piece, 3, (uint64_t)type);
    put_bytes(out, 1, buf_str(&piece));
    buf_release(&piece);
}

struct made {
    int model_type, bos;
    bool suffix, duplicate;
    float score;
};

static struct buf make_model(struct made made)
{
    struct buf out = {0}, spec = {0}, normalizer = {0};
    put_piece(&out, "<unk>", 0, 2);
    put_piece(&out, "<s>", 0, 3);
    put_piece(&out, "</s>", 0, 3);
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        put_piece(&out, name, 0, 6);
    }
    static const char *const pieces[] = {"\xe2\x96\x81",
                                         "a",
                                         "b",
                                         "aa",
                                         "aaaa",
                                         "ab",
                                         "\xe2\x96\x81"
                                         "a",
                                         "aaaaaaaa"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(&out, pieces[i], i == 3 ? made.score : -1.0f - (float)i, 1);
    if (made.duplicate)
        put_piece(&out, "ab", -3, 1);
    put_number(&spec, 3, (uint64_t)made.model_type);
    put_number(&spec, 35, 1);
    put_number(&spec, 41, (uint64_t)(int64_t)made.bos);
    if (made.suffix)
        put_number(&spec, 24, 1);
    put_bytes(&out, 2, buf_str(&spec));
    put_number(&normalizer, 4, 0);
    put_bytes(&out, 3, buf_str(&normalizer));
    buf_release(&spec);
    buf_release(&normalizer);
    return out;
}

static const struct made right = {BPE, 1, false, false, -4.0f};

static enum status read_made(struct made made, struct vocabulary *v, struct error *err)
{
    struct buf bytes = make_model(made);
    *err = (struct error){0};
    enum status status = vocabulary_from_model_bytes(buf_str(&bytes), "made.model", NULL, v, err);
    buf_release(&bytes);
    return status;
}

static struct tokenizer *made_tokenizer(struct made made)
{
    struct error err = {0};
    struct vocabulary v;
    struct tokenizer *t;
    assert_ok(read_made(made, &v, &err), &err);
    assert_ok(tokenizer_create(&v, &t, &err), &err);
    vocabulary_release(&v);
    return t;
}

static void expect(const struct tokenizer *t, const char *text, const int32_t *ids, size_t n,
                   const char *back)
{
    struct error err = {0};
    struct token_list list = {0};
    struct buf decoded = {0};
    struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_NONE};
    assert_ok(tokenizer_encode(t, str_from(text), NULL, 0, &options, &list, &err), &err);
    if (list.count != n)
        fail_msg("\"%s\": %zu ids", text, list.count);
    assert_memory_equal(list.ids, ids, n * sizeof *ids);
    assert_ok(tokenizer_decode(t, list.ids, list.count, false, &decoded, &err), &err);
    assert_true(str_eq_cstr(buf_str(&decoded), back));
    buf_release(&decoded);
    token_list_release(&list);
}

/* Ids from here on: 259 space, 260 a, 261 b, 262 aa, 263 aaaa, 264 ab, 265 space a, 266 a x 8. */
static void test_small(void **state)
{
    (void)state;
    static const int types[] = {BPE, UNIGRAM};
    for (size_t i = 0; i < 2; i++) {
        struct made made = right;
        made.model_type = types[i];
        struct tokenizer *t = made_tokenizer(made);
        if (types[i] == BPE)
            expect(t, "ab", (const int32_t[]){259, 264}, 2, "ab");
        else /* -1 -2 -3 is more than -1 -6 */
            expect(t, "ab", (const int32_t[]){259, 260, 261}, 3, "ab");
        /* A letter without a token becomes its bytes; a control token's name is text. */
        expect(t, "\xc3\xa9", (const int32_t[]){259, 3 + 0xc3, 3 + 0xa9}, 3, "\xc3\xa9");
        expect(t, "b<s>", (const int32_t[]){259, 261, 3 + '<', 3 + 's', 3 + '>'}, 5, "b<s>");
        tokenizer_free(t);
    }
}

static void test_errors(void **state)
{
    (void)state;
    struct error err;
    struct vocabulary v;
    const struct {
        struct made made;
        enum status status;
        const char *mention;
    } cases[] = {
        {{3, 1, false, false, -4}, STATUS_UNSUPPORTED, "model_type 3 (words)"},
        {{4, 1, false, false, -4}, STATUS_UNSUPPORTED, "characters"},
        {{BPE, 1, true, false, -4}, STATUS_UNSUPPORTED, "treat_whitespace_as_suffix"},
        {{BPE, 1, false, true, -4}, STATUS_MODEL, "the same text ab"},
        {{BPE, 9999, false, false, -4}, STATUS_MODEL, "bos_id"},
        {{BPE, 1, false, false, 0.0f / 0.0f}, STATUS_MODEL, "score of token 262"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum status status = read_made(cases[i].made, &v, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].mention))
            fail_msg("case %zu: %s: %s", i, status_name(status), err.message);
    }
    assert_int_equal(vocabulary_from_model_bytes(STR_LIT(""), "empty", NULL, &v, &err),
                     STATUS_MODEL);
    assert_non_null(strstr(err.message, "no pieces"));
}

/* Cut anywhere: an error, or a vocabulary that only lost what was cut off. */
static void test_truncated(void **state)
{
    (void)state;
    struct buf bytes = make_model(right);
    size_t opened = 0;
    for (size_t n = 0; n < bytes.len; n++) {
        struct error err = {0};
        struct vocabulary v;
        struct str part = {bytes.data, n};
        enum status status = vocabulary_from_model_bytes(part, "cut.model", NULL, &v, &err);
        if (status == STATUS_OK)
            vocabulary_release(&v);
        else
            assert_true(err.message[0] != '\0');
        opened += status == STATUS_OK;
    }
    assert_true(opened > 0 && opened < bytes.len / 2);
    buf_release(&bytes);
}

/* Damage in a byte never gets further than an error or a working tokenizer. */
static void test_flipped(void **state)
{
    (void)state;
    struct buf bytes = make_model(right);
    uint32_t random = 3;
    for (size_t round = 0; round < 2000; round++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % bytes.len;
        char saved = bytes.data[at];
        bytes.data[at] ^= (char)(1 << (random & 7));
        struct error err = {0};
        struct vocabulary v;
        struct tokenizer *t = NULL;
        struct token_list ids = {0};
        struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_ALL};
        if (vocabulary_from_model_bytes(buf_str(&bytes), "x", NULL, &v, &err) == STATUS_OK) {
            if (tokenizer_create(&v, &t, &err) == STATUS_OK)
                assert_ok(
                    tokenizer_encode(t, STR_LIT("ab <s> aaaa \xff"), NULL, 0, &options, &ids, &err),
                    &err);
            vocabulary_release(&v);
        }
        token_list_release(&ids);
        tokenizer_free(t);
        bytes.data[at] = saved;
    }
    buf_release(&bytes);
}

static void encode_long(const struct tokenizer *t, const char *unit, size_t most_ids)
{
    struct error err = {0};
    struct buf text = {0};
    struct token_list ids = {0};
    struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_NONE};
    while (text.len < 1000000)
        buf_append_cstr(&text, unit);
    assert_ok(tokenizer_encode(t, buf_str(&text), NULL, 0, &options, &ids, &err), &err);
    assert_true(ids.count > 0 && ids.count <= most_ids);
    token_list_release(&ids);
    buf_release(&text);
}

/* A megabyte of one character ends, for each algorithm. (Quadratic time would take hours.) */
static void test_long_runs(void **state)
{
    (void)state;
    static const int types[] = {BPE, UNIGRAM};
    for (size_t i = 0; i < 2; i++) {
        struct made made = right;
        made.model_type = types[i];
        struct tokenizer *t = made_tokenizer(made);
        encode_long(t, "a", 600000);
        encode_long(t, " ", 1100000);
        encode_long(t, "\n", 1100000);
        encode_long(t, "\xe4\xb8\x80", 1100000);
        encode_long(t, "a b", 1100000);
        tokenizer_free(t);
    }
    static const char wordpiece[] =
        "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,\"##a\":"
        "2}},"
        "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
        "\"normalizer\":{\"type\":\"BertNormalizer\"},\"decoder\":{\"type\":\"WordPiece\","
        "\"prefix\":\"##\",\"cleanup\":true}}";
    struct error err = {0};
    struct vocabulary v;
    struct tokenizer *t;
    assert_ok(vocabulary_from_json_text(STR_LIT(wordpiece), "w", NULL, &v, &err), &err);
    assert_ok(tokenizer_create(&v, &t, &err), &err);
    vocabulary_release(&v);
    encode_long(t, "a", 1);
    encode_long(t, ".", 1000000);
    encode_long(t, "\xe4\xb8\x80", 400000);
    encode_long(t,
                "\xcc\x81"
                "a",
                400000);
    tokenizer_free(t);
}

/* Tokens that only tokenizer_config.json knows. */
static void test_added(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    json_t *config = NULL;
    struct buf bytes = make_model(right);
    const char *text =
        "{\"add_bos_token\":false,\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\","
        "\"special\":true},\"270\":{\"content\":\"<x>\",\"special\":true}}}";
    assert_ok(json_parse(str_from(text), 8, "config", &config, &err), &err);
    struct vocabulary_configs configs = {.tokenizer_config = config};
    assert_ok(vocabulary_from_model_bytes(buf_str(&bytes), "m", &configs, &v, &err), &err);
    assert_int_equal(v.n_tokens, 271);
    assert_int_equal(v.tokens[270].kind, TOKEN_CONTROL);
    assert_null(v.tokens[268].text.data);
    assert_false(v.add_bos);
    vocabulary_release(&v);
    json_object_del(json_object_get(config, "added_tokens_decoder"), "270");
    json_object_set_new(json_object_get(config, "added_tokens_decoder"), "2",
                        json_pack("{s:s}", "content", "other"));
    assert_int_equal(vocabulary_from_model_bytes(buf_str(&bytes), "m", &configs, &v, &err),
                     STATUS_MODEL);
    assert_non_null(strstr(err.message, "added_tokens_decoder"));
    json_decref(config);
    buf_release(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),     cmocka_unit_test(test_errors),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_long_runs), cmocka_unit_test(test_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
