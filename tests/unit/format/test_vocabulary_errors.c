/*
 * The vocabulary readers on documents made here: everything that a file may say that we refuse, each
 * with a message that names the field or the kind, and the members that the large files do not show.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "fixture.h"
#include "format/vocabulary.h"
#include "gguf_image.h"

static enum status read_small_gguf(const char *model, const char *pre, const char *const *tokens,
                                   size_t n_tokens, const uint32_t *types, size_t n_types,
                                   const char *merge, const char *id_key, uint32_t id,
                                   struct error *err)
{
    struct buf out = gguf_start(6);
    put_text(&out, "tokenizer.ggml.model", model);
    put_text(&out, "tokenizer.ggml.pre", pre);
    put_array(&out, "tokenizer.ggml.tokens", GGUF_STRING, n_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        put_str(&out, str_from(tokens[i]));
    put_array(&out, "tokenizer.ggml.token_type", GGUF_U32, n_types);
    for (size_t i = 0; i < n_types; i++)
        put_u32(&out, types[i]);
    put_array(&out, "tokenizer.ggml.merges", GGUF_STRING, 1);
    put_str(&out, str_from(merge));
    put_key(&out, id_key, GGUF_U32);
    put_u32(&out, id);
    struct vocabulary vocabulary;
    *err = (struct error){0};
    enum status status = read_gguf(&out, &vocabulary, err);
    if (status == STATUS_OK)
        vocabulary_release(&vocabulary);
    buf_release(&out);
    return status;
}

static void test_gguf_errors(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "b", "ab"}, *const twice[] = {"a", "a", "ab"};
    static const uint32_t types[] = {1, 1, 1}, bad_types[] = {1, 9, 1};
    const char *eos = "tokenizer.ggml.eos_token_id";
    struct error err;
    assert_ok(read_small_gguf("gpt2", "qwen2", good, 3, types, 3, "a b", eos, 2, &err), &err);
    const struct {
        const char *model, *pre, *const *tokens;
        size_t n_tokens;
        const uint32_t *types;
        size_t n_types;
        const char *merge;
        uint32_t id;
        enum status status;
        const char *mention;
    } cases[] = {
        {"llama", "default", good, 3, types, 3, "a b", 2, STATUS_MODEL, "scores is absent"},
        {"t5", "default", good, 3, types, 3, "a b", 2, STATUS_MODEL, "scores is absent"},
        {"rwkv", "default", good, 3, types, 3, "a b", 2, STATUS_UNSUPPORTED, "RWKV"},
        {"other", "qwen2", good, 3, types, 3, "a b", 2, STATUS_UNSUPPORTED, "\"other\""},
        {"gpt2", "hawk", good, 3, types, 3, "a b", 2, STATUS_UNSUPPORTED, "\"hawk\""},
        {"gpt2", "qwen2", twice, 3, types, 3, "a b", 2, STATUS_MODEL, "tokens 0 and 1"},
        {"gpt2", "qwen2", good, 3, bad_types, 3, "a b", 2, STATUS_MODEL, "token_type"},
        {"gpt2", "qwen2", good, 3, types, 2, "a b", 2, STATUS_MODEL, "token_type"},
        {"gpt2", "qwen2", good, 0, types, 0, "a b", 2, STATUS_MODEL, "tokenizer.ggml.tokens"},
        {"gpt2", "qwen2", good, 3, types, 3, "ab", 2, STATUS_MODEL, "tokenizer.ggml.merges"},
        {"gpt2", "qwen2", good, 3, types, 3, "b a", 2, STATUS_MODEL, "tokenizer.ggml.merges"},
        {"gpt2", "qwen2", good, 3, types, 3, "a x", 2, STATUS_MODEL, "tokenizer.ggml.merges"},
        {"gpt2", "qwen2", good, 3, types, 3, "a b", 3, STATUS_MODEL, "eos_token_id"},
        {"gpt2", "qwen2", good, 3, types, 3, "a b", UINT32_MAX, STATUS_MODEL, "eos_token_id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum status status = read_small_gguf(cases[i].model, cases[i].pre, cases[i].tokens,
                                             cases[i].n_tokens, cases[i].types, cases[i].n_types,
                                             cases[i].merge, eos, cases[i].id, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].mention))
            fail_msg("case %zu: %s: %s", i, status_name(status), err.message);
    }
}

/* --- tokenizer.json made here --- */

/* Single quotes stand for double ones. `part` replaces a member of a document that is right. */
static enum status read_variant(const char *member, const char *part, const char *config,
                                struct vocabulary *out, struct error *err)
{
    static const char *const base[][2] = {
        {"added_tokens", "[{'id':3,'content':'<e>','special':true},{'id':5,'content':'<t>'}]"},
        {"normalizer", "null"},
        {"pre_tokenizer", "{'type':'ByteLevel','add_prefix_space':false,'use_regex':true}"},
        {"post_processor", "null"},
        {"decoder", "{'type':'ByteLevel'}"},
        {"model", "{'type':'BPE','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"},
    };
    struct buf text = {0};
    buf_append_char(&text, '{');
    for (size_t i = 0; i < sizeof base / sizeof *base; i++)
        buf_printf(&text, "%s'%s':%s", i ? "," : "", base[i][0],
                   strcmp(base[i][0], member) == 0 ? part : base[i][1]);
    buf_append_char(&text, '}');
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '\'')
            text.data[i] = '"';
    }
    struct vocabulary_configs configs = {0};
    json_t *parsed = NULL;
    if (config) {
        assert_ok(json_parse(str_from(config), 8, "config", &parsed, err), err);
        configs = (struct vocabulary_configs){parsed, parsed, parsed};
    }
    *err = (struct error){0};
    enum status status = vocabulary_from_json_text(buf_str(&text), "t.json", &configs, out, err);
    json_decref(parsed);
    buf_release(&text);
    return status;
}

static void test_json_errors(void **state)
{
    (void)state;
    static const struct {
        const char *member, *part, *config;
        enum status status;
        const char *mention;
    } cases[] = {
        {"model", "{'type':'Unigram','vocab':[]}", NULL, STATUS_UNSUPPORTED, "ByteLevel before"},
        {"model", "{'type':'Unigram','vocab':{}}", NULL, STATUS_MODEL, "model.vocab"},
        {"model", "{'type':'WordPiece','vocab':[]}", NULL, STATUS_MODEL, "model.vocab"},
        {"model", "{'type':'WordPiece','vocab':{},'max_input_chars_per_word':-1}", NULL,
         STATUS_MODEL, "max_input_chars_per_word"},
        {"model", "{'type':'WordLevel','vocab':{}}", NULL, STATUS_UNSUPPORTED, "WordLevel"},
        {"model", "{'type':'BPE','vocab':{},'merges':[],'continuing_subword_prefix':'##'}", NULL,
         STATUS_UNSUPPORTED, "continuing_subword_prefix"},
        {"model", "7", NULL, STATUS_MODEL, "model"},
        {"model", "{'type':'BPE','vocab':{'a':0},'merges':'x'}", NULL, STATUS_MODEL, "merges"},
        {"model", "{'type':'BPE','vocab':[],'merges':[]}", NULL, STATUS_MODEL, "vocab"},
        {"model", "{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}", NULL, STATUS_MODEL, "twice"},
        {"model", "{'type':'BPE','vocab':{'a':-1},'merges':[]}", NULL, STATUS_MODEL, "vocab"},
        {"model", "{'type':'BPE','vocab':{'a':0.5},'merges':[]}", NULL, STATUS_MODEL, "vocab"},
        {"model", "{'type':'BPE','vocab':{'a':4000000},'merges':[]}", NULL, STATUS_MODEL,
         "highest"},
        {"model", "{'type':'BPE','vocab':{'a':9000000000},'merges':[]}", NULL, STATUS_MODEL,
         "vocab"},
        {"model", "{'type':'BPE','vocab':{'a':0,'a':1},'merges':[]}", NULL, STATUS_MODEL, "JSON"},
        {"model", "{'type':'BPE','vocab':{'a':0},'merges':['a c']}", NULL, STATUS_MODEL, "merge 0"},
        {"model", "{'type':'BPE','vocab':{'a':0},'merges':[['a']]}", NULL, STATUS_MODEL, "pair"},
        {"model", "{'type':'BPE','vocab':{'a':0},'merges':[],'unk_token':'u'}", NULL, STATUS_MODEL,
         "unk_token"},
        {"model", "{'type':'BPE','vocab':{'a':0},'merges':[],'dropout':0.1}", NULL,
         STATUS_UNSUPPORTED, "dropout"},
        {"added_tokens", "[{'id':0,'content':'b'}]", NULL, STATUS_MODEL, "added token b"},
        {"added_tokens", "[{'content':'x'}]", NULL, STATUS_MODEL, "added_tokens"},
        {"added_tokens", "[{'id':9}]", NULL, STATUS_MODEL, "content"},
        {"normalizer", "{'type':'Romanize'}", NULL, STATUS_UNSUPPORTED, "Romanize"},
        {"normalizer", "{'type':'Sequence','normalizers':[{'type':'Byte'}]}", NULL,
         STATUS_UNSUPPORTED, "Byte"},
        {"normalizer", "{'type':'Replace','pattern':{'String':''},'content':'x'}", NULL,
         STATUS_MODEL, "Replace"},
        {"normalizer", "{'type':'Precompiled','precompiled_charsmap':'?'}", NULL, STATUS_MODEL,
         "precompiled_charsmap"},
        {"pre_tokenizer", "{'type':'Metaspace'}", NULL, STATUS_UNSUPPORTED, "Metaspace"},
        {"pre_tokenizer",
         "{'type':'Sequence','pretokenizers':[{'type':'Digits'},{'type':'ByteLevel'}]}", NULL,
         STATUS_UNSUPPORTED, "add_prefix_space"},
        {"pre_tokenizer",
         "{'type':'Sequence','pretokenizers':[{'type':'ByteLevel','add_prefix_space':false},"
         "{'type':'Digits'}]}",
         NULL, STATUS_UNSUPPORTED, "behind ByteLevel"},
        {"pre_tokenizer", "{'type':'Split','pattern':{'Regex':'x'},'behavior':'Sideways'}", NULL,
         STATUS_UNSUPPORTED, "Sideways"},
        {"pre_tokenizer", "{'type':'Split','pattern':{},'behavior':'Isolated'}", NULL, STATUS_MODEL,
         "pattern"},
        {"decoder", "{'type':'CTC'}", NULL, STATUS_UNSUPPORTED, "CTC"},
        {"decoder", "{'type':'Strip','content':' ','start':1,'stop':0}", NULL, STATUS_UNSUPPORTED,
         "Strip"},
        {"post_processor", "{'type':'BertProcessing'}", NULL, STATUS_MODEL, "post_processor"},
        {"post_processor", "{'type':'Other'}", NULL, STATUS_UNSUPPORTED, "Other"},
        {"post_processor",
         "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}],'special_tokens':{}}",
         NULL, STATUS_MODEL, "special_tokens"},
        {"post_processor",
         "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}],"
         "'special_tokens':{'x':{'ids':[99]}}}",
         NULL, STATUS_MODEL, "post_processor"},
        {"", "", "{\"eos_token\":\"nowhere\"}", STATUS_MODEL, "eos_token"},
        {"", "", "{\"eos_token_id\":[1,77]}", STATUS_MODEL, "eos_token_id"},
        {"", "", "{\"eos_token_id\":[\"1\"]}", STATUS_MODEL, "eos_token_id"},
        {"", "", "{\"bos_token_id\":-1}", STATUS_MODEL, "bos_token_id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct vocabulary v;
        enum status status =
            read_variant(cases[i].member, cases[i].part, cases[i].config, &v, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].mention))
            fail_msg("case %zu (%s): %s: %s", i, cases[i].part, status_name(status), err.message);
    }
}

static void test_json_members(void **state)
{
    (void)state;
    struct error err = {0};
    struct vocabulary v;
    const char *configs = "{\"bos_token\":{\"content\":\"a\"},\"eos_token\":\"<e>\","
                          "\"pad_token\":\"only here\",\"eos_token_id\":[3,2],"
                          "\"model_max_length\":1000000000000000019884624838656}";
    assert_ok(read_variant("", "", configs, &v, &err), &err);
    assert_int_equal(v.n_tokens, 6);
    assert_int_equal(v.tokens[3].kind, TOKEN_CONTROL);
    assert_int_equal(v.tokens[5].kind, TOKEN_USER_DEFINED);
    assert_null(v.tokens[4].text.data);
    assert_int_equal(v.bos, 0);
    assert_int_equal(v.eos, 3);
    assert_int_equal(v.pad, VOCABULARY_NONE);
    assert_false(v.add_bos);
    assert_int_equal(v.n_ends, 2);
    assert_int_equal(v.n_merges, 1);
    assert_int_equal(v.merges[0].result, 2);
    vocabulary_release(&v);

    /* Llama 3's later form: the post-processor adds bos. */
    const char *llama3 =
        "{'type':'Sequence','processors':[{'type':'ByteLevel'},{'type':'TemplateProcessing',"
        "'single':[{'SpecialToken':{'id':'<e>','type_id':0}},{'Sequence':{'id':'A','type_id':0}}],"
        "'special_tokens':{'<e>':{'id':'<e>','ids':[3],'tokens':['<e>']}}}]}";
    assert_ok(read_variant("post_processor", llama3, NULL, &v, &err), &err);
    assert_true(v.add_bos);
    assert_false(v.add_eos);
    assert_int_equal(v.bos, 3);
    vocabulary_release(&v);
    assert_ok(read_variant("post_processor", llama3, "{\"add_bos_token\":false}", &v, &err), &err);
    assert_false(v.add_bos);
    vocabulary_release(&v);

    assert_ok(
        read_variant("pre_tokenizer",
                     "{'type':'Sequence','pretokenizers':[{'type':'Split','pattern':{'String':"
                     "'a.'},'behavior':'Removed'},{'type':'ByteLevel','add_prefix_space':false,"
                     "'use_regex':false}]}",
                     NULL, &v, &err),
        &err);
    assert_int_equal(v.n_splits, 1);
    assert_true(str_eq_cstr(v.splits[0].pattern, "a\\."));
    assert_int_equal(v.splits[0].keep, VOCABULARY_SPLIT_GAPS);
    vocabulary_release(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_errors),
        cmocka_unit_test(test_json_errors),
        cmocka_unit_test(test_json_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
