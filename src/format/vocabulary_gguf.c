/*
 * A vocabulary from GGUF metadata ("tokenizer.ggml.*").
 *
 * GGUF names a pre-tokenizer instead of spelling it out, and leaves two things to be known from the
 * name: whether a piece that is a token as a whole skips merging, and whether bos is added where
 * tokenizer.ggml.add_bos_token is absent. The table below holds what the original tokenizer.json
 * files say.
 *
 * It does not record a normalizer either. Hugging Face's tokenizer for Qwen's own vocabulary
 * normalizes to form C; other vocabularies with the same pre-tokenizer (our demo's) do not. We follow
 * the reference: Qwen's vocabulary, recognised by <|endoftext|> being token 151643, is normalized,
 * any other GGUF vocabulary is not.
 */
#include "format/vocabulary.h"

#include "format/checkpoint.h"
#include "format/gguf.h"

#define QWEN_ENDOFTEXT 151643

struct known_pre {
    const char *name;
    const char *split;
    bool ignore_merges, add_bos;
};

static const struct known_pre known_pres[] = {
    {"qwen2", VOCABULARY_SPLIT_QWEN2, false, false},
    {"deepseek-r1-qwen", VOCABULARY_SPLIT_QWEN2, false, false},
    {"megrez", VOCABULARY_SPLIT_QWEN2, false, false},
    {"llama-bpe", VOCABULARY_SPLIT_LLAMA3, true, true},
    {"llama3", VOCABULARY_SPLIT_LLAMA3, true, true},
    {"llama-v3", VOCABULARY_SPLIT_LLAMA3, true, true},
    {"lfm2", VOCABULARY_SPLIT_LLAMA3, true, true},
};

static enum status read_kind(const struct gguf *gguf, struct error *err)
{
    static const char *const kinds[][2] = {
        {"llama", "SentencePiece BPE"}, {"bert", "WordPiece"}, {"t5", "Unigram"}, {"rwkv", "RWKV"},
        {"plamo2", "PLaMo-2 trie"},
    };
    struct str model;
    if (!gguf_get_str(gguf, "tokenizer.ggml.model", &model))
        return error_set(err, STATUS_UNSUPPORTED,
                         "the model carries no tokenizer (tokenizer.ggml.model is absent)");
    if (str_eq_cstr(model, "gpt2"))
        return STATUS_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (str_eq_cstr(model, kinds[i][0]))
            return error_set(err, STATUS_UNSUPPORTED,
                             "tokenizer.ggml.model is \"%s\" (%s), which is not supported yet",
                             kinds[i][0], kinds[i][1]);
    }
    return error_set(err, STATUS_UNSUPPORTED,
                     "tokenizer.ggml.model is \"%.*s\", which is not supported",
                     (int)(model.len < 64 ? model.len : 64), model.data);
}

static enum status read_pre(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    struct str pre;
    if (!gguf_get_str(gguf, "tokenizer.ggml.pre", &pre))
        return error_set(err, STATUS_UNSUPPORTED,
                         "tokenizer.ggml.pre is absent, so the pre-tokenizer is unknown; convert "
                         "the model again with a newer converter");
    for (size_t i = 0; i < sizeof known_pres / sizeof *known_pres; i++) {
        const struct known_pre *known = &known_pres[i];
        if (!str_eq_cstr(pre, known->name))
            continue;
        v->ignore_merges = known->ignore_merges;
        v->add_bos = known->add_bos;
        return vocabulary_add_split(v, str_from(known->split), VOCABULARY_SPLIT_ISOLATED, err);
    }
    return error_set(err, STATUS_UNSUPPORTED,
                     "tokenizer.ggml.pre is \"%.*s\", a pre-tokenizer that is not supported yet",
                     (int)(pre.len < 64 ? pre.len : 64), pre.data);
}

/* NULL if absent; an error if it is no array of that kind. */
static enum status find_array(const struct gguf *gguf, const char *key, bool strings,
                              const struct gguf_value **out, struct error *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    *out = value;
    if (value && (value->type != GGUF_ARRAY || (value->item_type == GGUF_STRING) != strings))
        return error_set(err, STATUS_MODEL, "%s is not an array of %s", key,
                         strings ? "strings" : "numbers");
    return STATUS_OK;
}

static enum status read_tokens(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    const char *key = "tokenizer.ggml.tokens";
    const struct gguf_value *tokens, *types, *scores;
    enum status status = find_array(gguf, key, true, &tokens, err);
    if (status == STATUS_OK)
        status = find_array(gguf, "tokenizer.ggml.token_type", false, &types, err);
    if (status == STATUS_OK)
        status = find_array(gguf, "tokenizer.ggml.scores", false, &scores, err);
    if (status != STATUS_OK)
        return status;
    if (!tokens)
        return error_set(err, STATUS_MODEL, "%s is absent", key);
    if ((types && types->count != tokens->count) || (scores && scores->count != tokens->count))
        return error_set(err, STATUS_MODEL, "tokenizer.ggml.%s has %llu items for %llu tokens",
                         types && types->count != tokens->count ? "token_type" : "scores",
                         (unsigned long long)(types && types->count != tokens->count
                                                  ? types->count
                                                  : scores->count),
                         (unsigned long long)tokens->count);
    status = vocabulary_set_size(v, tokens->count, key, err);
    struct gguf_string_cursor cursor = {0};
    struct str text;
    for (uint64_t id = 0; status == STATUS_OK && id < v->n_tokens; id++) {
        int64_t kind = TOKEN_NORMAL;
        double score = 0;
        if (!gguf_next_string(tokens, &cursor, &text))
            return error_set(err, STATUS_MODEL, "%s ends at item %llu", key,
                             (unsigned long long)id);
        if (types && !gguf_item_i64(types, id, &kind))
            return error_set(err, STATUS_MODEL, "tokenizer.ggml.token_type holds no integers");
        if (scores && gguf_item_f64(scores, id, &score))
            v->tokens[id].score = (float)score;
        const char *what =
            kind < TOKEN_NORMAL || kind > TOKEN_BYTE ? "tokenizer.ggml.token_type" : key;
        status = vocabulary_set_token(v, id, text, kind, what, err);
    }
    return status;
}

static enum status read_merges(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    const char *key = "tokenizer.ggml.merges";
    const struct gguf_value *merges;
    enum status status = find_array(gguf, key, true, &merges, err);
    if (status != STATUS_OK)
        return status;
    if (!merges)
        return error_set(err, STATUS_MODEL, "%s is absent", key);
    status = vocabulary_reserve_merges(v, merges->count, key, err);
    struct gguf_string_cursor cursor = {0};
    struct str line;
    while (status == STATUS_OK && gguf_next_string(merges, &cursor, &line))
        status = vocabulary_add_merge_line(v, line, key, err);
    return status;
}

static enum status read_id(const struct gguf *gguf, struct vocabulary *v, const char *key,
                           int32_t *field, struct error *err)
{
    int64_t id;
    if (!gguf_find(gguf, key))
        return STATUS_OK;
    if (!gguf_get_i64(gguf, key, &id))
        return error_set(err, STATUS_MODEL, "%s is not an integer", key);
    if (field)
        return vocabulary_set_id(v, field, id, key, err);
    return vocabulary_add_end(v, id, key, err);
}

static enum status read_flag(const struct gguf *gguf, const char *key, bool *flag,
                             struct error *err)
{
    if (gguf_find(gguf, key) && !gguf_get_bool(gguf, key, flag))
        return error_set(err, STATUS_MODEL, "%s is not a boolean", key);
    return STATUS_OK;
}

static enum status read_ids(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    const struct {
        const char *key;
        int32_t *field; /* NULL: only an end token */
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &v->bos},     {"tokenizer.ggml.eos_token_id", &v->eos},
        {"tokenizer.ggml.eot_token_id", &v->eot},     {"tokenizer.ggml.eom_token_id", NULL},
        {"tokenizer.ggml.unknown_token_id", &v->unk}, {"tokenizer.ggml.padding_token_id", &v->pad},
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizeof ids / sizeof *ids; i++)
        status = read_id(gguf, v, ids[i].key, ids[i].field, err);
    if (status == STATUS_OK)
        status = read_flag(gguf, "tokenizer.ggml.add_bos_token", &v->add_bos, err);
    if (status == STATUS_OK)
        status = read_flag(gguf, "tokenizer.ggml.add_eos_token", &v->add_eos, err);
    return status;
}

enum status vocabulary_from_gguf(const struct gguf *gguf, struct vocabulary *out, struct error *err)
{
    vocabulary_init(out);
    out->kind = VOCABULARY_BYTE_BPE;
    enum status status = read_kind(gguf, err);
    if (status == STATUS_OK)
        status = read_pre(gguf, out, err);
    if (status == STATUS_OK)
        status = read_tokens(gguf, out, err);
    if (status == STATUS_OK)
        status = read_merges(gguf, out, err);
    if (status == STATUS_OK)
        status = read_ids(gguf, out, err);
    if (status == STATUS_OK && vocabulary_find(out, STR_LIT("<|endoftext|>")) == QWEN_ENDOFTEXT)
        out->normalizer = VOCABULARY_NORMALIZER_NFC;
    if (status == STATUS_OK)
        status = vocabulary_finish(out, err);
    if (status != STATUS_OK)
        vocabulary_release(out);
    return status;
}
