/*
 * A vocabulary from Hugging Face's tokenizer.json and the configs beside it.
 *
 * tokenizer.json is a pipeline written down: normalizer, pre_tokenizer, model, post_processor,
 * decoder, each a tagged object, and the list of added tokens. We accept the pipelines that are
 * byte-level BPE and refuse every other stage by its name, so that a model never runs with a
 * tokenizer that is only nearly right. bos and eos are not in it: they come from
 * tokenizer_config.json, and the ids that end a turn from generation_config.json.
 */
#include "format/vocabulary.h"

#include "base/file.h"
#include "base/json.h"
#include "format/checkpoint.h"

#define TOKENIZER_JSON_MAX ((size_t)256 << 20)
#define CONFIG_JSON_MAX    ((size_t)32 << 20)
#define HOLES_MAX          65536 /* ids without a token, beyond as many as there are tokens */

struct reader {
    const char *name; /* of tokenizer.json, for errors */
    struct vocabulary *v;
    struct error *err;
};

static struct str json_str(const json_t *value)
{
    if (!json_is_string(value))
        return (struct str){0};
    return (struct str){json_string_value(value), json_string_length(value)};
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(no type)";
}

static bool flag_of(const json_t *object, const char *key, bool absent)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : absent;
}

static enum status unsupported(struct reader *r, const char *stage, const char *what)
{
    return error_set(r->err, STATUS_UNSUPPORTED, "%s: %s %.100s is not supported yet", r->name,
                     stage, what);
}

static enum status malformed(struct reader *r, const char *field, const char *expected)
{
    return error_set(r->err, STATUS_MODEL, "%s: %s is not %s", r->name, field, expected);
}

static enum status read_normalizer(struct reader *r, const json_t *stage)
{
    if (!stage || json_is_null(stage))
        return STATUS_OK;
    if (strcmp(type_of(stage), "NFC") == 0) {
        r->v->normalizer = VOCABULARY_NORMALIZER_NFC;
        return STATUS_OK;
    }
    if (strcmp(type_of(stage), "Sequence") != 0)
        return unsupported(r, "normalizer", type_of(stage));
    const json_t *items = json_object_get(stage, "normalizers");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_normalizer(r, json_array_get(items, i));
    return status;
}

/* A literal pattern as a regular expression. */
static void quote(struct str literal, struct buf *out)
{
    for (size_t i = 0; i < literal.len; i++) {
        char c = literal.data[i];
        if (c > 0 && c < 0x7f && strchr("\\^$.[]|()?*+{}-#&~", c))
            buf_append_char(out, '\\');
        buf_append_char(out, c);
    }
}

static enum status read_split(struct reader *r, const json_t *stage)
{
    struct str behavior = json_str(json_object_get(stage, "behavior"));
    bool invert = flag_of(stage, "invert", false);
    enum vocabulary_split_keep keep;
    if (str_eq_cstr(behavior, "Isolated"))
        keep = VOCABULARY_SPLIT_ISOLATED;
    else if (str_eq_cstr(behavior, "Removed"))
        keep = invert ? VOCABULARY_SPLIT_MATCHES : VOCABULARY_SPLIT_GAPS;
    else
        return unsupported(r, "pre_tokenizer Split with behavior",
                           behavior.data ? behavior.data : "(none)");
    const json_t *pattern = json_object_get(stage, "pattern");
    struct str regex = json_str(json_object_get(pattern, "Regex"));
    struct str literal = json_str(json_object_get(pattern, "String"));
    if (!regex.data && !literal.data)
        return malformed(r, "pre_tokenizer.pattern", "a Regex or a String");
    if (regex.data)
        return vocabulary_add_split(r->v, regex, keep, r->err);
    struct buf quoted = {0};
    quote(literal, &quoted);
    enum status status = quoted.failed
                             ? error_set(r->err, STATUS_MEMORY, "%s: out of memory", r->name)
                             : vocabulary_add_split(r->v, buf_str(&quoted), keep, r->err);
    buf_release(&quoted);
    return status;
}

/* byte_level: whether a ByteLevel stage was seen; nothing may follow it. */
static enum status read_pre_tokenizer(struct reader *r, const json_t *stage, bool *byte_level)
{
    const char *type = type_of(stage);
    if (*byte_level)
        return unsupported(r, "pre_tokenizer", "with a stage behind ByteLevel");
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        if (flag_of(stage, "add_prefix_space", true))
            return unsupported(r, "pre_tokenizer", "ByteLevel with add_prefix_space");
        if (!flag_of(stage, "use_regex", true))
            return STATUS_OK;
        return vocabulary_add_split(r->v, str_from(VOCABULARY_SPLIT_GPT2),
                                    VOCABULARY_SPLIT_ISOLATED, r->err);
    }
    if (strcmp(type, "Split") == 0)
        return read_split(r, stage);
    if (strcmp(type, "Sequence") != 0)
        return unsupported(r, "pre_tokenizer", type);
    const json_t *items = json_object_get(stage, "pretokenizers");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_pre_tokenizer(r, json_array_get(items, i), byte_level);
    return status;
}

static enum status read_decoder(struct reader *r, const json_t *stage)
{
    if (!stage || json_is_null(stage) || strcmp(type_of(stage), "ByteLevel") == 0)
        return STATUS_OK;
    if (strcmp(type_of(stage), "Sequence") == 0) {
        const json_t *items = json_object_get(stage, "decoders");
        if (json_array_size(items) == 1)
            return read_decoder(r, json_array_get(items, 0));
    }
    return unsupported(r, "decoder", type_of(stage));
}

/* Files from before tokenizers 0.10 have no type; the members tell. */
static const char *model_kind(const json_t *model)
{
    if (json_object_get(model, "type"))
        return type_of(model);
    if (json_object_get(model, "merges"))
        return "BPE";
    if (json_object_get(model, "max_input_chars_per_word"))
        return "WordPiece";
    return json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "(no type)";
}

static enum status check_model(struct reader *r, const json_t *model)
{
    if (!json_is_object(model))
        return malformed(r, "model", "an object");
    if (strcmp(model_kind(model), "BPE") != 0)
        return unsupported(r, "model", model_kind(model));
    if (flag_of(model, "byte_fallback", false))
        return unsupported(r, "model", "BPE with byte_fallback");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return unsupported(r, "model", "BPE with dropout");
    if (json_string_length(json_object_get(model, "continuing_subword_prefix")))
        return unsupported(r, "model", "BPE with continuing_subword_prefix");
    if (json_string_length(json_object_get(model, "end_of_word_suffix")))
        return unsupported(r, "model", "BPE with end_of_word_suffix");
    if (!json_is_object(json_object_get(model, "vocab")))
        return malformed(r, "model.vocab", "an object");
    if (!json_is_array(json_object_get(model, "merges")))
        return malformed(r, "model.merges", "a list");
    return STATUS_OK;
}

/* Raises *highest to `id`. */
static enum status see_id(struct reader *r, const json_t *id, const char *field,
                          json_int_t *highest)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= VOCABULARY_TOKENS_MAX)
        return malformed(r, field, "a token id in range");
    if (json_integer_value(id) > *highest)
        *highest = json_integer_value(id);
    return STATUS_OK;
}

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
    size_t count = json_object_size(vocab) + json_array_size(added);
    if ((uint64_t)(highest + 1) > 2 * (uint64_t)count + HOLES_MAX)
        return error_set(r->err, STATUS_MODEL, "%s: the highest token id is %lld, for %zu tokens",
                         r->name, (long long)highest, count);
    return vocabulary_set_size(r->v, (uint64_t)(highest + 1), r->name, r->err);
}

static enum status read_added(struct reader *r, const json_t *item)
{
    struct str text = json_str(json_object_get(item, "content"));
    json_int_t id = json_integer_value(json_object_get(item, "id"));
    int kind = flag_of(item, "special", false) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
    if (!text.data)
        return malformed(r, "the content of an added token", "a string");
    int32_t existing = vocabulary_find(r->v, text);
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
    token->lstrip = flag_of(item, "lstrip", false);
    token->rstrip = flag_of(item, "rstrip", false);
    token->single_word = flag_of(item, "single_word", false);
    token->normalized = flag_of(item, "normalized", kind != TOKEN_CONTROL);
    return STATUS_OK;
}

static enum status read_tokens(struct reader *r, const json_t *vocab, const json_t *added)
{
    enum status status = size_vocabulary(r, vocab, added);
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id)
    {
        if (status != STATUS_OK)
            return status;
        status = vocabulary_set_token(r->v, (uint64_t)json_integer_value(id), str_from(text),
                                      TOKEN_NORMAL, "model.vocab", r->err);
    }
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(added); i++)
        status = read_added(r, json_array_get(added, i));
    return status;
}

static enum status read_merges(struct reader *r, const json_t *merges)
{
    const char *what = "model.merges";
    enum status status = vocabulary_reserve_merges(r->v, json_array_size(merges), what, r->err);
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(merges); i++) {
        const json_t *item = json_array_get(merges, i);
        struct str left = json_str(json_array_get(item, 0));
        struct str right = json_str(json_array_get(item, 1));
        if (json_is_string(item))
            status = vocabulary_add_merge_line(r->v, json_str(item), what, r->err);
        else if (json_array_size(item) == 2 && left.data && right.data)
            status = vocabulary_add_merge(r->v, left, right, what, r->err);
        else
            status = malformed(r, "an item of model.merges", "a pair of strings");
    }
    return status;
}

static enum status read_model(struct reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    enum status status = check_model(r, model);
    if (status != STATUS_OK)
        return status;
    r->v->ignore_merges = flag_of(model, "ignore_merges", false);
    status = read_tokens(r, json_object_get(model, "vocab"), json_object_get(root, "added_tokens"));
    if (status == STATUS_OK)
        status = read_merges(r, json_object_get(model, "merges"));
    struct str unk = json_str(json_object_get(model, "unk_token"));
    if (status == STATUS_OK && unk.len)
        status = vocabulary_set_id(r->v, &r->v->unk, vocabulary_find(r->v, unk), "model.unk_token",
                                   r->err);
    return status;
}

/* One side of a template: at most one special token before the text (bos) or behind it (eos). */
static enum status read_template(struct reader *r, const json_t *stage)
{
    const json_t *single = json_object_get(stage, "single");
    bool behind = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (!special) {
            if (behind || !json_object_get(item, "Sequence"))
                return unsupported(r, "post_processor", "TemplateProcessing of this form");
            behind = true;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *entry =
            name ? json_object_get(json_object_get(stage, "special_tokens"), name) : NULL;
        const json_t *ids = json_object_get(entry, "ids");
        bool *add = behind ? &r->v->add_eos : &r->v->add_bos;
        if (json_array_size(ids) != 1 || *add)
            return unsupported(r, "post_processor", "TemplateProcessing of this form");
        *add = true;
        enum status status = vocabulary_set_id(r->v, behind ? &r->v->eos : &r->v->bos,
                                               json_is_integer(json_array_get(ids, 0))
                                                   ? json_integer_value(json_array_get(ids, 0))
                                                   : -1,
                                               "post_processor.special_tokens", r->err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status read_post_processor(struct reader *r, const json_t *stage)
{
    const char *type = type_of(stage);
    if (!stage || json_is_null(stage) || strcmp(type, "ByteLevel") == 0)
        return STATUS_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(r, stage);
    if (strcmp(type, "Sequence") != 0)
        return unsupported(r, "post_processor", type);
    const json_t *items = json_object_get(stage, "processors");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_post_processor(r, json_array_get(items, i));
    return status;
}

/* "bos_token": "<s>" or {"content": "<s>", ...} or null. */
static enum status read_named(struct reader *r, const json_t *config, const char *key,
                              int32_t *field, bool required)
{
    const json_t *value = json_object_get(config, key);
    struct str text = json_str(json_is_object(value) ? json_object_get(value, "content") : value);
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
    if (!r->v->add_bos)
        status = read_named(r, config, "bos_token", &r->v->bos, true);
    if (status == STATUS_OK && !r->v->add_eos)
        status = read_named(r, config, "eos_token", &r->v->eos, true);
    /* A padding token may exist in the config alone; we never write it. */
    if (status == STATUS_OK)
        status = read_named(r, config, "pad_token", &r->v->pad, false);
    r->v->add_bos = flag_of(config, "add_bos_token", r->v->add_bos);
    r->v->add_eos = flag_of(config, "add_eos_token", r->v->add_eos);
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
    bool byte_level = false;
    const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
    if (!json_is_object(root))
        return malformed(r, "the document", "an object");
    r->v->kind = VOCABULARY_BYTE_BPE;
    /* The model first: its kind is the name that helps a reader most. */
    enum status status = check_model(r, json_object_get(root, "model"));
    if (status == STATUS_OK)
        status = read_normalizer(r, json_object_get(root, "normalizer"));
    if (status == STATUS_OK && !json_is_object(pre_tokenizer))
        status = unsupported(r, "BPE", "without a ByteLevel pre_tokenizer");
    if (status == STATUS_OK)
        status = read_pre_tokenizer(r, pre_tokenizer, &byte_level);
    if (status == STATUS_OK && !byte_level)
        status = unsupported(r, "BPE", "without a ByteLevel pre_tokenizer");
    if (status == STATUS_OK)
        status = read_decoder(r, json_object_get(root, "decoder"));
    if (status == STATUS_OK)
        status = read_model(r, root);
    if (status == STATUS_OK)
        status = read_post_processor(r, json_object_get(root, "post_processor"));
    if (status == STATUS_OK)
        status = read_configs(r, configs);
    return status == STATUS_OK ? vocabulary_finish(r->v, r->err) : status;
}

enum status vocabulary_from_json_text(struct str text, const char *name,
                                      const struct vocabulary_configs *configs,
                                      struct vocabulary *out, struct error *err)
{
    static const struct vocabulary_configs none;
    struct reader r = {name, out, err};
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
    const char *path = checkpoint_file(checkpoint, "tokenizer.json");
    if (!path)
        return error_set(err, STATUS_UNSUPPORTED, "%s: no tokenizer.json in the model's folder%s",
                         checkpoint_path(checkpoint),
                         checkpoint_file(checkpoint, "tokenizer.model")
                             ? "; SentencePiece's tokenizer.model is not supported yet"
                             : "");
    struct vocabulary_configs configs = {checkpoint_tokenizer_config(checkpoint),
                                         checkpoint_generation_config(checkpoint),
                                         checkpoint_config(checkpoint)};
    return from_file(path, &configs, out, err);
}
