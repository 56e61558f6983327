/*
 * A vocabulary from Hugging Face's tokenizer.json and the configs beside it.
 *
 * tokenizer.json is a pipeline written down: normalizer, pre_tokenizer, model, post_processor,
 * decoder, each a tagged object, and the list of added tokens. Here is the model and its tokens; the
 * other stages are in tokenizer_stages.c. What we do not know is refused by its name, so that a model
 * never runs with a tokenizer that is only nearly right. (Truncation and padding are for batches of
 * training data and are not looked at.) bos and eos are not in the file: they come from
 * tokenizer_config.json, and the ids that end a turn from generation_config.json.
 */
#include "format/vocabulary.h"

#include "base/file.h"
#include "base/json.h"
#include "format/checkpoint.h"
#include "format/tokenizer_stages.h"
#include "text/tokenizer/unknown.h"

#define TOKENIZER_JSON_MAX ((size_t)256 << 20)
#define CONFIG_JSON_MAX    ((size_t)32 << 20)
#define WORD_CHARS_MAX     100   /* WordPiece, where the file does not say */
#define HOLES_MAX          65536 /* ids without a token, beyond as many as there are tokens */

/* Files from before tokenizers 0.10 have no type; the members tell. */
static const char *model_kind(const json_t *model)
{
    if (json_object_get(model, "type"))
        return reader_type(model);
    if (json_object_get(model, "merges"))
        return "BPE";
    if (json_object_get(model, "max_input_chars_per_word"))
        return "WordPiece";
    return json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "(no type)";
}

static enum status check_bpe(struct reader *r, const json_t *model)
{
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return reader_unsupported(r, "model", "BPE with dropout");
    if (json_string_length(json_object_get(model, "continuing_subword_prefix")))
        return reader_unsupported(r, "model", "BPE with continuing_subword_prefix");
    if (!json_is_object(json_object_get(model, "vocab")))
        return reader_malformed(r, "model.vocab", "an object");
    if (!json_is_array(json_object_get(model, "merges")))
        return reader_malformed(r, "model.merges", "a list");
    r->v->kind = VOCABULARY_CHAR_BPE; /* until a ByteLevel stage is seen */
    r->v->ignore_merges = reader_flag(model, "ignore_merges", false);
    r->v->byte_fallback = reader_flag(model, "byte_fallback", false);
    r->v->fuse_unk = reader_flag(model, "fuse_unk", false);
    struct str suffix = reader_str(json_object_get(model, "end_of_word_suffix"));
    return suffix.len ? vocabulary_set_text(r->v, &r->v->end_of_word, suffix, r->err) : STATUS_OK;
}

static enum status check_wordpiece(struct reader *r, const json_t *model)
{
    const json_t *prefix = json_object_get(model, "continuing_subword_prefix");
    const json_t *most = json_object_get(model, "max_input_chars_per_word");
    if (!json_is_object(json_object_get(model, "vocab")))
        return reader_malformed(r, "model.vocab", "an object");
    if (most && (!json_is_integer(most) || json_integer_value(most) < 0 ||
                 json_integer_value(most) > UINT32_MAX))
        return reader_malformed(r, "model.max_input_chars_per_word", "a count");
    r->v->kind = VOCABULARY_WORDPIECE;
    r->v->word_chars_max = most ? (uint32_t)json_integer_value(most) : WORD_CHARS_MAX;
    return vocabulary_set_text(r->v, &r->v->continuing_word,
                               prefix ? reader_str(prefix) : STR_LIT("##"), r->err);
}

static enum status check_model(struct reader *r, const json_t *model)
{
    if (!json_is_object(model))
        return reader_malformed(r, "model", "an object");
    const char *kind = model_kind(model);
    if (strcmp(kind, "BPE") == 0)
        return check_bpe(r, model);
    if (strcmp(kind, "WordPiece") == 0)
        return check_wordpiece(r, model);
    if (strcmp(kind, "Unigram") != 0)
        return reader_unsupported(r, "model", kind);
    if (!json_is_array(json_object_get(model, "vocab")))
        return reader_malformed(r, "model.vocab", "a list");
    r->v->kind = VOCABULARY_UNIGRAM;
    r->v->byte_fallback = reader_flag(model, "byte_fallback", false);
    r->v->fuse_unk = true;
    return STATUS_OK;
}

/* Raises *highest to `id`. */
static enum status see_id(struct reader *r, const json_t *id, const char *field,
                          json_int_t *highest)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= VOCABULARY_TOKENS_MAX)
        return reader_malformed(r, field, "a token id in range");
    if (json_integer_value(id) > *highest)
        *highest = json_integer_value(id);
    return STATUS_OK;
}

/* With room behind the ids for added tokens that read_added() moves there. */
static enum status size_vocabulary(struct reader *r, const json_t *vocab, const json_t *added)
{
    json_int_t highest = -1;
    enum status status = STATUS_OK;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id)
    {
        status = see_id(r, id, "an id in model.vocab", &highest);
        if (status != STATUS_OK)
            return status;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *item = json_array_get(added, i);
        status = see_id(r, json_object_get(item, "id"), "an id in added_tokens", &highest);
        if (status != STATUS_OK)
            return status;
    }
    if (json_is_array(vocab) && (json_int_t)json_array_size(vocab) - 1 > highest)
        highest = (json_int_t)json_array_size(vocab) - 1;
    size_t count = json_object_size(vocab) + json_array_size(vocab) + json_array_size(added);
    if ((uint64_t)(highest + 1) > 2 * (uint64_t)count + HOLES_MAX)
        return error_set(r->err, STATUS_MODEL, "%s: the highest token id is %lld, for %zu tokens",
                         r->name, (long long)highest, count);
    r->next_id = (uint32_t)(highest + 1);
    return vocabulary_set_size(r->v, r->next_id + (uint64_t)json_array_size(added), r->name,
                               r->err);
}

static enum status read_added(struct reader *r, const json_t *item)
{
    struct str text = reader_str(json_object_get(item, "content"));
    json_int_t id = json_integer_value(json_object_get(item, "id"));
    int kind = reader_flag(item, "special", false) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
    if (!text.data)
        return reader_malformed(r, "the content of an added token", "a string");
    int32_t existing = vocabulary_find(r->v, text);
    /* Where the model has another token at that id the library gives the added one a new id. */
    if (existing == VOCABULARY_NONE && r->v->tokens[id].text.len &&
        r->v->tokens[id].kind == TOKEN_NORMAL)
        id = r->next_id++;
    if (existing == VOCABULARY_NONE) {
        enum status status =
            vocabulary_set_token(r->v, (uint64_t)id, text, kind, "added_tokens", r->err);
        if (status != STATUS_OK)
            return status;
    } else if (existing != id) {
        return error_set(r->err, STATUS_MODEL,
                         "%s: added token %.*s has id %lld, but %d in the vocabulary", r->name,
                         (int)(text.len < 64 ? text.len : 64), text.data, (long long)id, existing);
    }
    struct vocabulary_token *token = &r->v->tokens[id];
    token->kind = (uint8_t)kind;
    token->lstrip = reader_flag(item, "lstrip", false);
    token->rstrip = reader_flag(item, "rstrip", false);
    token->single_word = reader_flag(item, "single_word", false);
    token->normalized = reader_flag(item, "normalized", kind != TOKEN_CONTROL);
    return STATUS_OK;
}

static enum status read_token(struct reader *r, uint64_t id, struct str text)
{
    bool byte = r->v->byte_fallback && unknown_byte_of(text) >= 0;
    return vocabulary_set_token(r->v, id, text, byte ? TOKEN_BYTE : TOKEN_NORMAL, "model.vocab",
                                r->err);
}

/* Unigram: [["piece", score], ...], the id is the place. */
static enum status read_scored(struct reader *r, const json_t *vocab)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(vocab); i++) {
        const json_t *item = json_array_get(vocab, i);
        const json_t *score = json_array_get(item, 1);
        if (!json_is_string(json_array_get(item, 0)) || !json_is_number(score))
            return reader_malformed(r, "an item of model.vocab", "a string and a score");
        status = read_token(r, i, reader_str(json_array_get(item, 0)));
        r->v->tokens[i].score = (float)json_number_value(score);
    }
    return status;
}

static enum status read_tokens(struct reader *r, const json_t *vocab, const json_t *added)
{
    enum status status = size_vocabulary(r, vocab, added);
    const char *text;
    json_t *id;
    if (status == STATUS_OK && json_is_array(vocab))
        status = read_scored(r, vocab);
    json_object_foreach((json_t *)vocab, text, id)
    {
        if (status != STATUS_OK)
            return status;
        status = read_token(r, (uint64_t)json_integer_value(id), str_from(text));
    }
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(added); i++)
        status = read_added(r, json_array_get(added, i));
    if (status == STATUS_OK)
        r->v->n_tokens = r->next_id;
    return status;
}

static enum status read_merges(struct reader *r, const json_t *merges)
{
    const char *what = "model.merges";
    enum status status = vocabulary_reserve_merges(r->v, json_array_size(merges), what, r->err);
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(merges); i++) {
        const json_t *item = json_array_get(merges, i);
        struct str left = reader_str(json_array_get(item, 0));
        struct str right = reader_str(json_array_get(item, 1));
        if (json_is_string(item))
            status = vocabulary_add_merge_line(r->v, reader_str(item), what, r->err);
        else if (json_array_size(item) == 2 && left.data && right.data)
            status = vocabulary_add_merge(r->v, left, right, what, r->err);
        else
            status = reader_malformed(r, "an item of model.merges", "a pair of strings");
    }
    return status;
}

/* BPE and WordPiece name the unknown token, Unigram has its id. */
static enum status read_unk(struct reader *r, const json_t *model)
{
    const json_t *id = json_object_get(model, "unk_id");
    struct str unk = reader_str(json_object_get(model, "unk_token"));
    if (r->v->kind == VOCABULARY_UNIGRAM) {
        if (!json_is_integer(id))
            return STATUS_OK;
        enum status status =
            vocabulary_set_id(r->v, &r->v->unk, json_integer_value(id), "model.unk_id", r->err);
        /* Its score is of no use: it would be the best of all. */
        if (status == STATUS_OK && r->v->tokens[r->v->unk].kind == TOKEN_NORMAL)
            r->v->tokens[r->v->unk].kind = TOKEN_UNKNOWN;
        return status;
    }
    if (!unk.len)
        return STATUS_OK;
    return vocabulary_set_id(r->v, &r->v->unk, vocabulary_find(r->v, unk), "model.unk_token",
                             r->err);
}

static enum status read_model(struct reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    enum status status =
        read_tokens(r, json_object_get(model, "vocab"), json_object_get(root, "added_tokens"));
    if (status == STATUS_OK && json_object_get(model, "merges"))
        status = read_merges(r, json_object_get(model, "merges"));
    return status == STATUS_OK ? read_unk(r, model) : status;
}

/* "bos_token": "<s>" or {"content": "<s>", ...} or null. */
static enum status read_named(struct reader *r, const json_t *config, const char *key,
                              int32_t *field, bool required)
{
    const json_t *value = json_object_get(config, key);
    struct str text = reader_str(json_is_object(value) ? json_object_get(value, "content") : value);
    int32_t id = text.len ? vocabulary_find(r->v, text) : VOCABULARY_NONE;
    if (text.len && id == VOCABULARY_NONE && required)
        return error_set(r->err, STATUS_MODEL, "tokenizer_config.json: %s %.*s is no token", key,
                         (int)(text.len < 64 ? text.len : 64), text.data);
    if (id != VOCABULARY_NONE)
        *field = id;
    return STATUS_OK;
}

static enum status read_tokenizer_config(struct reader *r, const json_t *config)
{
    enum status status = STATUS_OK;
    /* What post_processor adds wins: the ids it names are the ones that are added. */
    if (r->v->n_before != 1)
        status = read_named(r, config, "bos_token", &r->v->bos, true);
    if (status == STATUS_OK && r->v->n_behind != 1)
        status = read_named(r, config, "eos_token", &r->v->eos, true);
    /* A padding token may exist in the config alone; we never write it. */
    if (status == STATUS_OK)
        status = read_named(r, config, "pad_token", &r->v->pad, false);
    r->v->add_bos = reader_flag(config, "add_bos_token", r->v->add_bos);
    r->v->add_eos = reader_flag(config, "add_eos_token", r->v->add_eos);
    return status;
}

/* "eos_token_id": 2 or [2, 3]. Adds to the end tokens; the first is eos where none is known. */
static enum status read_eos_ids(struct reader *r, const json_t *value, const char *what)
{
    size_t count = json_is_array(value) ? json_array_size(value) : json_is_integer(value);
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(item))
            return error_set(r->err, STATUS_MODEL, "%s is not a list of token ids", what);
        status = vocabulary_add_end(r->v, json_integer_value(item), what, r->err);
        if (status == STATUS_OK && r->v->eos == VOCABULARY_NONE)
            r->v->eos = (int32_t)json_integer_value(item);
    }
    return status;
}

static enum status read_configs(struct reader *r, const struct vocabulary_configs *configs)
{
    enum status status = read_tokenizer_config(r, configs->tokenizer_config);
    const json_t *eos = json_object_get(configs->generation_config, "eos_token_id");
    if (status == STATUS_OK)
        status = read_eos_ids(r, eos, "generation_config.json: eos_token_id");
    if (status == STATUS_OK && r->v->eos == VOCABULARY_NONE)
        status = read_eos_ids(r, json_object_get(configs->config, "eos_token_id"),
                              "config.json: eos_token_id");
    const json_t *bos = json_object_get(configs->generation_config, "bos_token_id");
    if (!bos)
        bos = json_object_get(configs->config, "bos_token_id");
    if (status == STATUS_OK && r->v->bos == VOCABULARY_NONE && json_is_integer(bos))
        status =
            vocabulary_set_id(r->v, &r->v->bos, json_integer_value(bos), "bos_token_id", r->err);
    return status;
}

static enum status read_root(struct reader *r, const json_t *root,
                             const struct vocabulary_configs *configs)
{
    if (!json_is_object(root))
        return reader_malformed(r, "the document", "an object");
    /* The model first: its kind is the name that helps a reader most. */
    enum status status = check_model(r, json_object_get(root, "model"));
    if (status == STATUS_OK)
        status = reader_normalizer(r, json_object_get(root, "normalizer"));
    if (status == STATUS_OK)
        status = reader_pre_tokenizer(r, json_object_get(root, "pre_tokenizer"));
    if (status == STATUS_OK)
        status = reader_decoder(r, json_object_get(root, "decoder"));
    if (status == STATUS_OK)
        status = read_model(r, root);
    if (status == STATUS_OK)
        status = reader_post_processor(r, json_object_get(root, "post_processor"));
    if (status == STATUS_OK)
        status = read_configs(r, configs);
    return status == STATUS_OK ? vocabulary_finish(r->v, r->err) : status;
}

enum status vocabulary_from_json_text(struct str text, const char *name,
                                      const struct vocabulary_configs *configs,
                                      struct vocabulary *out, struct error *err)
{
    static const struct vocabulary_configs none;
    struct reader r = {.name = name, .v = out, .err = err};
    json_t *root = NULL;
    vocabulary_init(out);
    enum status status = json_parse(text, JSON_DEPTH_DEFAULT, name, &root, err);
    if (status == STATUS_OK)
        status = read_root(&r, root, configs ? configs : &none);
    json_decref(root);
    if (status != STATUS_OK)
        vocabulary_release(out);
    return status;
}

static enum status from_file(const char *path, const struct vocabulary_configs *configs,
                             struct vocabulary *out, struct error *err)
{
    struct buf text = {0};
    vocabulary_init(out);
    enum status status = file_read_all(path, TOKENIZER_JSON_MAX, &text, err);
    if (status == STATUS_OK)
        status = vocabulary_from_json_text(buf_str(&text), path, configs, out, err);
    buf_release(&text);
    return status;
}

/* A config in the folder of `path`; NULL stays where there is none. */
static enum status load_sibling(const char *path, const char *name, json_t **out, struct error *err)
{
    const char *slash = strrchr(path, '/');
    struct buf sibling = {0};
    enum status status = STATUS_OK;
    if (slash)
        buf_append(&sibling, path, (size_t)(slash - path) + 1);
    buf_append_cstr(&sibling, name);
    if (sibling.failed)
        status = error_set(err, STATUS_MEMORY, "%s: out of memory", name);
    else if (file_exists(sibling.data))
        status = json_parse_file(sibling.data, CONFIG_JSON_MAX, JSON_DEPTH_DEFAULT, out, err);
    buf_release(&sibling);
    return status;
}

enum status vocabulary_from_tokenizer_json(const char *path, struct vocabulary *out,
                                           struct error *err)
{
    json_t *tokenizer_config = NULL, *generation_config = NULL;
    vocabulary_init(out);
    enum status status = load_sibling(path, "tokenizer_config.json", &tokenizer_config, err);
    if (status == STATUS_OK)
        status = load_sibling(path, "generation_config.json", &generation_config, err);
    if (status == STATUS_OK) {
        struct vocabulary_configs configs = {tokenizer_config, generation_config, NULL};
        status = from_file(path, &configs, out, err);
    }
    json_decref(tokenizer_config);
    json_decref(generation_config);
    return status;
}

enum status vocabulary_from_checkpoint(struct checkpoint *checkpoint, struct vocabulary *out,
                                       struct error *err)
{
    const struct gguf *gguf = checkpoint_gguf(checkpoint);
    if (gguf)
        return vocabulary_from_gguf(gguf, out, err);
    vocabulary_init(out);
    struct vocabulary_configs configs = {checkpoint_tokenizer_config(checkpoint),
                                         checkpoint_generation_config(checkpoint),
                                         checkpoint_config(checkpoint)};
    const char *path = checkpoint_file(checkpoint, "tokenizer.json");
    if (path)
        return from_file(path, &configs, out, err);
    path = checkpoint_file(checkpoint, "tokenizer.model");
    if (path)
        return vocabulary_from_tokenizer_model(path, &configs, out, err);
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: neither tokenizer.json nor tokenizer.model in the model's folder",
                     checkpoint_path(checkpoint));
}
