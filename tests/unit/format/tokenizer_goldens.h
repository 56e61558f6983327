/*
 * Holding tokenizers against the goldens of the shared data; each check prints its counts.
 */
#ifndef SLUICE_TESTS_TOKENIZER_GOLDENS_H
#define SLUICE_TESTS_TOKENIZER_GOLDENS_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "fixture.h"
#include "format/gguf.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

#define JSON_MAX ((size_t)1 << 28)

static inline json_t *load_json(const char *path)
{
    struct error err = {0};
    json_t *value = NULL;
    assert_ok(json_parse_file(path, JSON_MAX, 64, &value, &err), &err);
    return value;
}

static inline struct tokenizer *finish_tokenizer(struct vocabulary *vocabulary)
{
    struct error err = {0};
    struct tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_create(vocabulary, &tokenizer, &err), &err);
    vocabulary_release(vocabulary);
    return tokenizer;
}

static inline struct tokenizer *from_json_file(const char *path)
{
    struct error err = {0};
    struct vocabulary vocabulary;
    assert_ok(vocabulary_from_tokenizer_json(path, &vocabulary, &err), &err);
    return finish_tokenizer(&vocabulary);
}

/* tokenizer.json by itself, as the goldens were made: the configs beside it may add a bos. */
static inline struct tokenizer *from_json_alone(const char *path)
{
    struct error err = {0};
    struct vocabulary vocabulary;
    struct buf text = fixture_read(path);
    assert_ok(vocabulary_from_json_text(buf_str(&text), path, NULL, &vocabulary, &err), &err);
    buf_release(&text);
    return finish_tokenizer(&vocabulary);
}

static inline struct str value_str(const json_t *value)
{
    return (struct str){json_string_value(value), json_string_length(value)};
}

static inline bool ids_equal(const struct token_list *ids, const json_t *expected)
{
    if (json_array_size(expected) != ids->count)
        return false;
    for (size_t i = 0; i < ids->count; i++) {
        if (json_integer_value(json_array_get(expected, i)) != ids->ids[i])
            return false;
    }
    return true;
}

static inline bool encodes_to(const struct tokenizer *tokenizer, struct str text,
                              struct tokenizer_options options, const json_t *expected,
                              const char *name)
{
    struct error err = {0};
    struct token_list ids = {0};
    assert_ok(tokenizer_encode(tokenizer, text, NULL, 0, &options, &ids, &err), &err);
    bool equal = ids_equal(&ids, expected);
    if (!equal) {
        print_error("%s: %zu ids, expected %zu\n", name, ids.count, json_array_size(expected));
        for (size_t i = 0; i < ids.count && i < json_array_size(expected); i++) {
            if (json_integer_value(json_array_get(expected, i)) != ids.ids[i]) {
                print_error("  id %zu: %d, expected %lld\n", i, ids.ids[i],
                            (long long)json_integer_value(json_array_get(expected, i)));
                break;
            }
        }
    }
    token_list_release(&ids);
    return equal;
}

static inline bool decodes_to(const struct tokenizer *tokenizer, const json_t *ids,
                              struct str expected, const char *name)
{
    struct error err = {0};
    struct token_list list = {0};
    struct buf text = {0};
    for (size_t i = 0; i < json_array_size(ids); i++)
        token_list_add(&list, (int32_t)json_integer_value(json_array_get(ids, i)));
    assert_ok(tokenizer_decode(tokenizer, list.ids, list.count, false, &text, &err), &err);
    bool equal = str_eq(buf_str(&text), expected);
    if (!equal)
        print_error("%s: decoded to \"%.*s\"\n", name, (int)(text.len < 200 ? text.len : 200),
                    text.data);
    buf_release(&text);
    token_list_release(&list);
    return equal;
}

static const struct tokenizer_options all_specials = {.specials = TOKENIZER_SPECIALS_ALL};
static const struct tokenizer_options no_specials = {.specials = TOKENIZER_SPECIALS_NONE};

/* What did not come out as expected. A test asserts that it is 0 after its last check, so that all
 * counts are printed. */
static size_t golden_misses;

struct tally {
    size_t passed, total;
};

static inline void count(struct tally *tally, bool passed)
{
    tally->passed += passed;
    tally->total++;
}

/* --- goldens by Hugging Face tokenizers --- */

/* as_text: how many texts may differ where special tokens are taken as text. */
static inline void check_goldens(const struct tokenizer *tokenizer, const char *name, bool decode,
                                 size_t as_text)
{
    char path[64];
    snprintf(path, sizeof path, "data/tokenizers/goldens/hf/%s.json", name);
    json_t *golden = load_json(fixture_shared(path));
    json_t *texts = load_json(fixture_shared("data/tokenizers/goldens/texts.json"));
    struct tokenizer_options with_special = all_specials;
    with_special.add_bos = tokenizer_adds_bos(tokenizer);
    with_special.add_eos = tokenizer_adds_eos(tokenizer);
    struct tally ids = {0}, special = {0}, plain = {0}, decoded = {0};
    const char *key;
    json_t *text;
    json_object_foreach(texts, key, text)
    {
        const json_t *result = json_object_get(json_object_get(golden, "results"), key);
        const json_t *expected = json_object_get(result, "ids");
        const json_t *other;
        assert_non_null(expected);
        count(&ids, encodes_to(tokenizer, value_str(text), all_specials, expected, key));
        other = json_object_get(result, "ids_with_special");
        count(&special,
              encodes_to(tokenizer, value_str(text), with_special, other ? other : expected, key));
        other = json_object_get(result, "ids_special_as_text");
        count(&plain,
              encodes_to(tokenizer, value_str(text), no_specials, other ? other : expected, key));
        if (decode)
            count(&decoded, decodes_to(tokenizer, expected,
                                       value_str(json_object_get(result, "decoded")), key));
    }
    printf("golden %s: ids %zu/%zu, with bos/eos %zu/%zu, specials as text %zu/%zu, decoded "
           "%zu/%zu\n",
           name, ids.passed, ids.total, special.passed, special.total, plain.passed, plain.total,
           decoded.passed, decoded.total);
    json_decref(texts);
    json_decref(golden);
    assert_int_equal(ids.total, 60);
    golden_misses += ids.total + special.total + plain.total - as_text + decoded.total -
                     (ids.passed + special.passed + plain.passed + decoded.passed);
}

static inline const char *shared_tokenizer(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "data/tokenizers/hf/%s/tokenizer.json", name);
    return fixture_shared(path);
}

/* The recorded text as the recorded ids have it: upstream writes a space at the end as \\s, and in gte
 * it decoded the padding too, which is not among the ids here. */
static inline void kitoken_decoded(struct buf *text)
{
    struct str padding = STR_LIT(" [PAD]"), space = STR_LIT("\\s");
    while (str_ends(buf_str(text), padding))
        text->len -= padding.len;
    if (str_ends(buf_str(text), space)) {
        text->len -= space.len;
        buf_append_char(text, ' ');
    }
}

/* Upstream's mixed texts: "vocabs"[name] = {ids, decoded_differs}. */
static inline void check_kitoken(const struct tokenizer *tokenizer, const char *name)
{
    json_t *root = load_json(fixture_shared("data/tokenizers/goldens/kitoken.json"));
    json_t *vocab = json_object_get(json_object_get(root, "vocabs"), name);
    json_t *differs = json_object_get(vocab, "decoded_differs");
    struct tally ids = {0}, decoded = {0};
    /* sentencepiece takes control tokens in a text for text. */
    bool model = str_ends(str_from(name), STR_LIT(".model"));
    const char *key;
    json_t *expected;
    json_object_foreach(json_object_get(vocab, "ids"), key, expected)
    {
        struct str text = value_str(json_object_get(json_object_get(root, "texts"), key));
        count(&ids, encodes_to(tokenizer, text, model ? no_specials : all_specials, expected, key));
        json_t *other = json_object_get(differs, key);
        struct buf decoded_text = {0};
        buf_append_str(&decoded_text, other ? value_str(other) : text);
        kitoken_decoded(&decoded_text);
        count(&decoded, decodes_to(tokenizer, expected, buf_str(&decoded_text), key));
        buf_release(&decoded_text);
    }
    printf("kitoken %s: ids %zu/%zu, decoded %zu/%zu\n", name, ids.passed, ids.total,
           decoded.passed, decoded.total);
    json_decref(root);
    golden_misses += ids.total - ids.passed + decoded.total - decoded.passed;
    assert_true(ids.total > 100);
}

/* Texts of .inp are separated by a line; line k of .out has the ids of text k. */
static inline void check_pairs(const struct tokenizer *tokenizer, const char *name, size_t total)
{
    char path[96];
    snprintf(path, sizeof path, "data/tokenizers/ggml-vocab/ggml-vocab-%s.gguf.inp", name);
    struct buf inputs = fixture_read(fixture_shared(path));
    snprintf(path, sizeof path, "data/tokenizers/ggml-vocab/ggml-vocab-%s.gguf.out", name);
    struct buf outputs = fixture_read(fixture_shared(path));
    struct str separator = STR_LIT("\n__ggml_vocab_test__\n");
    struct tally tally = {0};
    size_t at = 0;
    char *line = outputs.data;
    while (at <= inputs.len) {
        size_t end = str_find(buf_str(&inputs), separator, at);
        size_t next = end == SIZE_MAX ? inputs.len + 1 : end + separator.len;
        if (end == SIZE_MAX)
            end = inputs.len;
        char *eol = strchr(line, '\n');
        char *next_line = eol ? eol + 1 : line + strlen(line);
        if (eol)
            *eol = '\0';
        json_t *expected = json_array();
        for (char *p = line, *rest; *p; p = rest) {
            long id = strtol(p, &rest, 10);
            if (rest == p)
                break;
            json_array_append_new(expected, json_integer(id));
        }
        struct str text = {inputs.data + at, end - at};
        count(&tally, encodes_to(tokenizer, text, no_specials, expected, path));
        json_decref(expected);
        line = next_line;
        at = next;
    }
    printf("ggml-vocab %s: %zu/%zu\n", name, tally.passed, tally.total);
    buf_release(&inputs);
    buf_release(&outputs);
    golden_misses += tally.total - tally.passed;
    assert_int_equal(tally.total, total);
}

#endif
