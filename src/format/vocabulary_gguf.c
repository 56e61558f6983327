/*
 * A vocabulary from GGUF metadata ("tokenizer.ggml.*").
 *
 * tokenizer.ggml.model names the algorithm, one row of the table at the end: gpt2 (byte-level BPE),
 * gemma4 (BPE over characters), llama (SentencePiece BPE), t5 (Unigram), bert (WordPiece). Byte-level
 * BPE has a pre-tokenizer by name (pre_tokenizers.c). What a file does not say follows the original
 * tokenizers and, for ids and flags that old files leave out, llama.cpp's defaults.
 *
 * GGUF does not record a normalizer. Hugging Face's tokenizer for Qwen's own vocabulary normalizes to
 * form C; other vocabularies with the same pre-tokenizer (our demo's) do not. We follow the
 * reference: Qwen's vocabulary, recognised by <|endoftext|> being token 151643, is normalized.
 */
#include "format/vocabulary.h"

#include "format/checkpoint.h"
#include "format/gguf.h"
#include "format/pre_tokenizers.h"
#include "text/tokenizer/unknown.h"

#define QWEN_ENDOFTEXT 151643
#define CHARSMAP_MAX   ((uint64_t)16 << 20)
#define WORD_CHARS_MAX 100
#define METASPACE      STR_LIT("\xe2\x96\x81")

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
        if (!types && v->byte_fallback && unknown_byte_of(text) >= 0)
            kind = TOKEN_BYTE;
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

/* An id that old files leave out, if the vocabulary has it. */
static void default_id(const struct vocabulary *v, int32_t *field, int32_t id)
{
    if (*field == VOCABULARY_NONE && (uint32_t)id < v->n_tokens && v->tokens[id].text.data)
        *field = id;
}

/* --- gpt2, gemma4 --- */

static enum status read_pre(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    struct str pre;
    if (!gguf_get_str(gguf, "tokenizer.ggml.pre", &pre))
        return error_set(err, STATUS_UNSUPPORTED,
                         "tokenizer.ggml.pre is absent, so the pre-tokenizer is unknown; convert "
                         "the model again with a newer converter");
    const struct pre_tokenizer *known = pre_tokenizer_find(pre);
    if (!known)
        return error_set(err, STATUS_UNSUPPORTED,
                         "tokenizer.ggml.pre is \"%.*s\", a pre-tokenizer that is not supported",
                         (int)(pre.len < 64 ? pre.len : 64), pre.data);
    v->ignore_merges = known->ignore_merges;
    v->add_bos = known->add_bos;
    enum status status = STATUS_OK;
    if (known->nfc)
        status = vocabulary_add_normalizer(
            v, &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_NFC}, err);
    for (size_t i = 0; status == STATUS_OK && i < PRE_STEPS_MAX && known->steps[i]; i++)
        status = vocabulary_add_split(v, str_from(known->steps[i]), VOCABULARY_SPLIT_ISOLATED, err);
    return status;
}

static enum status read_gpt2(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    enum status status = read_pre(gguf, v, err);
    if (status == STATUS_OK)
        status = read_tokens(gguf, v, err);
    if (status == STATUS_OK)
        status = read_merges(gguf, v, err);
    if (status == STATUS_OK)
        status = read_ids(gguf, v, err);
    if (status == STATUS_OK && vocabulary_find(v, STR_LIT("<|endoftext|>")) == QWEN_ENDOFTEXT)
        status = vocabulary_add_normalizer(
            v, &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_NFC}, err);
    return status;
}

static enum status read_gemma4(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    v->byte_fallback = v->fuse_unk = v->add_bos = true;
    v->decoder.metaspace = true;
    enum status status = vocabulary_add_normalizer(
        v,
        &(struct vocabulary_normalizer){
            .kind = VOCABULARY_NORMALIZER_REPLACE, .pattern = STR_LIT(" "), .content = METASPACE},
        err);
    if (status == STATUS_OK)
        status = read_tokens(gguf, v, err);
    if (status == STATUS_OK)
        status = read_merges(gguf, v, err);
    return status == STATUS_OK ? read_ids(gguf, v, err) : status;
}

/* --- llama, t5 --- */

static enum status read_charsmap(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    const char *key = "tokenizer.ggml.precompiled_charsmap";
    const struct gguf_value *map = gguf_find(gguf, key);
    if (!map || map->count == 0)
        return STATUS_OK;
    if (map->type != GGUF_ARRAY || (map->item_type != GGUF_I8 && map->item_type != GGUF_U8) ||
        map->count > CHARSMAP_MAX)
        return error_set(err, STATUS_MODEL, "%s is not an array of at most %llu bytes", key,
                         (unsigned long long)CHARSMAP_MAX);
    return vocabulary_add_normalizer(
        v,
        &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_CHARSMAP,
                                        .content = {(const char *)map->data, (size_t)map->count}},
        err);
}

static enum status read_sentencepiece(const struct gguf *gguf, struct vocabulary *v,
                                      bool remove_extra, struct error *err)
{
    bool prefix = true;
    v->fuse_unk = v->float_scores = true;
    enum status status = read_charsmap(gguf, v, err);
    if (status == STATUS_OK)
        status = read_flag(gguf, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (status == STATUS_OK)
        status = read_flag(gguf, "tokenizer.ggml.remove_extra_whitespaces", &remove_extra, err);
    if (status == STATUS_OK)
        status = vocabulary_add_normalizer(
            v,
            &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_SPACES,
                                            .content = METASPACE,
                                            .left = remove_extra,
                                            .prefix = prefix ? VOCABULARY_PREFIX_AFTER_CONTROL
                                                             : VOCABULARY_PREFIX_NEVER},
            err);
    v->decoder.metaspace = v->decoder.sentencepiece = true;
    v->decoder.strip_start = prefix;
    if (status == STATUS_OK && !gguf_find(gguf, "tokenizer.ggml.scores"))
        status = error_set(err, STATUS_MODEL, "tokenizer.ggml.scores is absent");
    if (status == STATUS_OK)
        status = read_tokens(gguf, v, err);
    return status == STATUS_OK ? read_ids(gguf, v, err) : status;
}

static enum status read_llama(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    v->byte_fallback = v->add_bos = true;
    enum status status = read_sentencepiece(gguf, v, false, err);
    default_id(v, &v->unk, 0);
    default_id(v, &v->bos, 1);
    default_id(v, &v->eos, 2);
    return status == STATUS_OK ? vocabulary_merges_from_scores(v, "tokenizer.ggml.scores", err)
                               : status;
}

static enum status read_t5(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    v->add_eos = true;
    enum status status = read_sentencepiece(gguf, v, true, err);
    default_id(v, &v->pad, 0);
    default_id(v, &v->eos, 1);
    default_id(v, &v->unk, 2);
    return status;
}

/* --- bert --- */

static enum status add_bert_normalizers(const struct gguf *gguf, struct vocabulary *v,
                                        struct error *err)
{
    bool lowercase = true;
    enum status status = read_flag(gguf, "tokenizer.ggml.normalizer.lowercase", &lowercase, err);
    bool strip_accents = lowercase;
    if (status == STATUS_OK)
        status = read_flag(gguf, "tokenizer.ggml.normalizer.strip_accents", &strip_accents, err);
    const struct {
        struct vocabulary_normalizer step;
        bool wanted;
    } steps[] = {
        {{.kind = VOCABULARY_NORMALIZER_BERT_CLEAN}, true},
        {{.kind = VOCABULARY_NORMALIZER_BERT_CHINESE}, true},
        {{.kind = VOCABULARY_NORMALIZER_NFD}, strip_accents},
        {{.kind = VOCABULARY_NORMALIZER_STRIP_ACCENTS, .nonspacing = true}, strip_accents},
        {{.kind = VOCABULARY_NORMALIZER_LOWERCASE}, lowercase},
    };
    for (size_t i = 0; status == STATUS_OK && i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].wanted)
            status = vocabulary_add_normalizer(v, &steps[i].step, err);
    }
    return status;
}

/* [CLS] before and [SEP] behind, where add_bos and add_eos do not say otherwise. */
static enum status read_bert_ids(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    int32_t cls = VOCABULARY_NONE, sep = VOCABULARY_NONE;
    v->add_bos = v->add_eos = true;
    enum status status = read_ids(gguf, v, err);
    if (status == STATUS_OK)
        status = read_id(gguf, v, "tokenizer.ggml.cls_token_id", &cls, err);
    /* The second spelling is the one that files have. */
    if (status == STATUS_OK)
        status = read_id(gguf, v, "tokenizer.ggml.separator_token_id", &sep, err);
    if (status == STATUS_OK)
        status = read_id(gguf, v, "tokenizer.ggml.seperator_token_id", &sep, err);
    default_id(v, &v->unk, 100);
    default_id(v, &cls, v->bos == VOCABULARY_NONE ? 101 : v->bos);
    default_id(v, &sep, v->eos == VOCABULARY_NONE ? 102 : v->eos);
    if (status == STATUS_OK && cls != VOCABULARY_NONE)
        status = vocabulary_add_affix(v, false, cls, "tokenizer.ggml.cls_token_id", err);
    if (status == STATUS_OK && sep != VOCABULARY_NONE)
        status = vocabulary_add_affix(v, true, sep, "tokenizer.ggml.seperator_token_id", err);
    if (v->bos == VOCABULARY_NONE)
        v->bos = cls;
    if (v->eos == VOCABULARY_NONE)
        v->eos = sep;
    return status;
}

static enum status read_bert(const struct gguf *gguf, struct vocabulary *v, struct error *err)
{
    v->word_chars_max = WORD_CHARS_MAX;
    v->decoder.metaspace = true;
    v->decoder.strip_start = 1;
    enum status status = vocabulary_set_text(v, &v->starting_word, METASPACE, err);
    if (status == STATUS_OK)
        status = add_bert_normalizers(gguf, v, err);
    if (status == STATUS_OK)
        status = vocabulary_add_split(v, STR_LIT("\\s+"), VOCABULARY_SPLIT_GAPS, err);
    if (status == STATUS_OK)
        status = vocabulary_add_split(v, str_from(VOCABULARY_SPLIT_BERT), VOCABULARY_SPLIT_ISOLATED,
                                      err);
    if (status == STATUS_OK)
        status = read_tokens(gguf, v, err);
    return status == STATUS_OK ? read_bert_ids(gguf, v, err) : status;
}

/* --- the table --- */

static const struct known_model {
    const char *name;
    enum vocabulary_kind kind;
    enum status (*read)(const struct gguf *gguf, struct vocabulary *v, struct error *err);
    const char *refused; /* what it is, where we do not have it */
} known_models[] = {
    {"gpt2", VOCABULARY_BYTE_BPE, read_gpt2, NULL},
    {"gemma4", VOCABULARY_CHAR_BPE, read_gemma4, NULL},
    {"llama", VOCABULARY_CHAR_BPE, read_llama, NULL},
    {"t5", VOCABULARY_UNIGRAM, read_t5, NULL},
    {"bert", VOCABULARY_WORDPIECE, read_bert, NULL},
    {"rwkv", VOCABULARY_BYTE_BPE, NULL, "RWKV's trie"},
    {"plamo2", VOCABULARY_BYTE_BPE, NULL, "PLaMo-2's table"},
};

enum status vocabulary_from_gguf(const struct gguf *gguf, struct vocabulary *out, struct error *err)
{
    struct str name;
    vocabulary_init(out);
    if (!gguf_get_str(gguf, "tokenizer.ggml.model", &name))
        return error_set(err, STATUS_UNSUPPORTED,
                         "the model carries no tokenizer (tokenizer.ggml.model is absent)");
    const struct known_model *model = NULL;
    for (size_t i = 0; i < sizeof known_models / sizeof *known_models; i++) {
        if (str_eq_cstr(name, known_models[i].name))
            model = &known_models[i];
    }
    if (!model || !model->read)
        return error_set(err, STATUS_UNSUPPORTED,
                         "tokenizer.ggml.model is \"%.*s\"%s%s, which is not supported",
                         (int)(name.len < 64 ? name.len : 64), name.data, model ? ", " : "",
                         model ? model->refused : "");
    out->kind = model->kind;
    enum status status = model->read(gguf, out, err);
    if (status == STATUS_OK)
        status = vocabulary_finish(out, err);
    if (status != STATUS_OK)
        vocabulary_release(out);
    return status;
}
