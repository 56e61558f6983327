/*
 * A vocabulary from SentencePiece's tokenizer.model.
 *
 * The file is a protobuf message; the few fields that matter are read by hand (the wire format is a
 * list of numbered varints, fixed words and byte ranges):
 *
 *     1  piece, repeated       1 text   2 score   3 type (as GGUF's token types)
 *     2  trainer_spec          3 model_type   24 treat_whitespace_as_suffix   35 byte_fallback
 *                              40 unk_id   41 bos_id   42 eos_id   43 pad_id
 *     3  normalizer_spec       2 precompiled_charsmap   3 add_dummy_prefix
 *                              4 remove_extra_whitespaces   5 escape_whitespaces
 *
 * Everything else is skipped. What is missing has the defaults of sentencepiece_model.proto.
 */
#include <stdlib.h>

#include "base/file.h"
#include "format/tokenizer_stages.h"
#include "format/vocabulary.h"

#define MODEL_BYTES_MAX ((size_t)256 << 20)
#define METASPACE       STR_LIT("\xe2\x96\x81")

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct field {
    uint64_t number;
    enum wire wire;
    uint64_t value;   /* varint, fixed */
    struct str bytes; /* of WIRE_BYTES */
};

struct message {
    struct str rest;
    const char *name; /* for errors */
    size_t offset;    /* of `rest` in the file */
};

enum model_type { MODEL_UNIGRAM = 1, MODEL_BPE = 2, MODEL_WORD = 3, MODEL_CHAR = 4 };

struct spec {
    int64_t model_type, unk, bos, eos, pad;
    bool byte_fallback, whitespace_as_suffix;
    bool dummy_prefix, remove_extra, escape;
    struct str charsmap;
};

struct parser {
    const char *name;
    struct vocabulary *v;
    struct error *err;
    struct spec spec;
    uint64_t n_pieces, next_piece;
};

static enum status broken(const struct parser *p, const struct message *m, const char *what)
{
    return error_set(p->err, STATUS_MODEL, "%s: %s at byte %zu, in %s", p->name, what, m->offset,
                     m->name);
}

static bool read_varint(struct message *m, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && m->rest.len; shift += 7) {
        uint8_t byte = (uint8_t)m->rest.data[0];
        m->rest = (struct str){m->rest.data + 1, m->rest.len - 1};
        m->offset++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static bool take(struct message *m, uint64_t n, struct str *out)
{
    if (n > m->rest.len)
        return false;
    *out = (struct str){m->rest.data, (size_t)n};
    m->rest = (struct str){m->rest.data + n, m->rest.len - (size_t)n};
    m->offset += (size_t)n;
    return true;
}

/* The next field of a message; *end where there is none. */
static enum status next_field(const struct parser *p, struct message *m, struct field *field,
                              bool *end)
{
    uint64_t tag, length;
    struct str bytes;
    *end = m->rest.len == 0;
    if (*end)
        return STATUS_OK;
    if (!read_varint(m, &tag))
        return broken(p, m, "a field number is cut off");
    *field = (struct field){.number = tag >> 3, .wire = (enum wire)(tag & 7)};
    switch (field->wire) {
    case WIRE_VARINT:
        return read_varint(m, &field->value) ? STATUS_OK : broken(p, m, "a number is cut off");
    case WIRE_FIXED64:
    case WIRE_FIXED32:
        if (!take(m, field->wire == WIRE_FIXED64 ? 8 : 4, &bytes))
            return broken(p, m, "a number is cut off");
        for (size_t i = bytes.len; i-- > 0;)
            field->value = field->value << 8 | (uint8_t)bytes.data[i];
        return STATUS_OK;
    case WIRE_BYTES:
        if (!read_varint(m, &length) || !take(m, length, &field->bytes))
            return broken(p, m, "a field reaches past the end");
        return STATUS_OK;
    }
    return broken(p, m, "no protobuf: an unknown wire type");
}

static struct message inner(const struct message *m, const struct field *field, const char *name)
{
    return (struct message){field->bytes, name, m->offset - field->bytes.len};
}

static float float_of(uint64_t bits)
{
    uint32_t word = (uint32_t)bits;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static enum status read_piece(struct parser *p, struct message m)
{
    struct str text = {0};
    float score = 0;
    int64_t type = TOKEN_NORMAL;
    for (;;) {
        struct field field;
        bool end;
        enum status status = next_field(p, &m, &field, &end);
        if (status != STATUS_OK)
            return status;
        if (end)
            break;
        if (field.number == 1 && field.wire == WIRE_BYTES)
            text = field.bytes;
        else if (field.number == 2 && field.wire == WIRE_FIXED32)
            score = float_of(field.value);
        else if (field.number == 3 && field.wire == WIRE_VARINT)
            type = field.value <= TOKEN_BYTE ? (int64_t)field.value : -1;
    }
    enum status status = vocabulary_set_token(p->v, p->next_piece, text, type, "pieces", p->err);
    if (status == STATUS_OK)
        p->v->tokens[p->next_piece++].score = score;
    return status;
}

static void read_trainer_field(struct spec *spec, const struct field *field)
{
    int64_t value = (int64_t)field->value;
    if (field->wire != WIRE_VARINT)
        return;
    switch (field->number) {
    case 3:
        spec->model_type = value;
        break;
    case 24:
        spec->whitespace_as_suffix = value != 0;
        break;
    case 35:
        spec->byte_fallback = value != 0;
        break;
    case 40:
        spec->unk = value;
        break;
    case 41:
        spec->bos = value;
        break;
    case 42:
        spec->eos = value;
        break;
    case 43:
        spec->pad = value;
        break;
    default:
        break;
    }
}

static void read_normalizer_field(struct spec *spec, const struct field *field)
{
    if (field->number == 2 && field->wire == WIRE_BYTES)
        spec->charsmap = field->bytes;
    if (field->wire != WIRE_VARINT)
        return;
    if (field->number == 3)
        spec->dummy_prefix = field->value != 0;
    else if (field->number == 4)
        spec->remove_extra = field->value != 0;
    else if (field->number == 5)
        spec->escape = field->value != 0;
}

static enum status read_spec(struct parser *p, struct message m,
                             void (*read)(struct spec *spec, const struct field *field))
{
    for (;;) {
        struct field field;
        bool end;
        enum status status = next_field(p, &m, &field, &end);
        if (status != STATUS_OK || end)
            return status;
        read(&p->spec, &field);
    }
}

/* First pass: counts the pieces and reads the two specs. Second: the pieces. */
static enum status walk(struct parser *p, struct str bytes, bool pieces)
{
    struct message m = {bytes, "the model", 0};
    for (;;) {
        struct field field;
        bool end;
        enum status status = next_field(p, &m, &field, &end);
        if (status != STATUS_OK || end)
            return status;
        if (field.wire != WIRE_BYTES)
            continue;
        if (field.number == 1) {
            p->n_pieces++;
            if (pieces)
                status = read_piece(p, inner(&m, &field, "a piece"));
        } else if (field.number == 2 && !pieces) {
            status = read_spec(p, inner(&m, &field, "trainer_spec"), read_trainer_field);
        } else if (field.number == 3 && !pieces) {
            status = read_spec(p, inner(&m, &field, "normalizer_spec"), read_normalizer_field);
        }
        if (status != STATUS_OK)
            return status;
    }
}

/* An id of the trainer spec; below 0: the model has no such token. */
static enum status set_id(struct parser *p, int32_t *field, int64_t id, const char *what)
{
    return id < 0 ? STATUS_OK : vocabulary_set_id(p->v, field, id, what, p->err);
}

static enum status set_model(struct parser *p)
{
    const struct spec *spec = &p->spec;
    if (spec->model_type != MODEL_UNIGRAM && spec->model_type != MODEL_BPE)
        return error_set(p->err, STATUS_UNSUPPORTED,
                         "%s: trainer_spec.model_type %lld (%s) is not supported", p->name,
                         (long long)spec->model_type,
                         spec->model_type == MODEL_WORD   ? "words"
                         : spec->model_type == MODEL_CHAR ? "characters"
                                                          : "unknown");
    if (spec->whitespace_as_suffix || !spec->escape)
        return error_set(
            p->err, STATUS_UNSUPPORTED, "%s: a model with %s is not supported", p->name,
            spec->escape ? "treat_whitespace_as_suffix" : "escape_whitespaces switched off");
    struct vocabulary *v = p->v;
    v->kind = spec->model_type == MODEL_BPE ? VOCABULARY_CHAR_BPE : VOCABULARY_UNIGRAM;
    v->byte_fallback = spec->byte_fallback;
    v->fuse_unk = true;
    v->float_scores = true;
    v->decoder.metaspace = true;
    v->decoder.sentencepiece = true;
    v->decoder.strip_start = spec->dummy_prefix;
    return STATUS_OK;
}

static enum status set_normalizers(struct parser *p)
{
    const struct spec *spec = &p->spec;
    enum status status = STATUS_OK;
    if (spec->charsmap.len)
        status = vocabulary_add_normalizer(
            p->v,
            &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_CHARSMAP,
                                            .content = spec->charsmap},
            p->err);
    if (status != STATUS_OK)
        return status;
    return vocabulary_add_normalizer(
        p->v,
        &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_SPACES,
                                        .content = METASPACE,
                                        .left = spec->remove_extra,
                                        .prefix = spec->dummy_prefix
                                                      ? VOCABULARY_PREFIX_AFTER_CONTROL
                                                      : VOCABULARY_PREFIX_NEVER},
        p->err);
}

/* "added_tokens_decoder": {"32000": {"content": "<pad>", "special": true, ...}}: the ids behind the
 * model's own, and flags of those. */
static enum status read_added(struct parser *p, const json_t *added)
{
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)added, key, item)
    {
        struct str text = reader_str(json_object_get(item, "content"));
        char *end = NULL;
        unsigned long long id = strtoull(key, &end, 10);
        if (!text.data || !end || *end || id >= p->v->n_tokens)
            return error_set(p->err, STATUS_MODEL,
                             "tokenizer_config.json: added_tokens_decoder: \"%.64s\" is no token",
                             key);
        int kind = reader_flag(item, "special", false) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
        struct vocabulary_token *token = &p->v->tokens[id];
        if (!token->text.data) {
            enum status status =
                vocabulary_set_token(p->v, id, text, kind, "added_tokens_decoder", p->err);
            if (status != STATUS_OK)
                return status;
        } else if (!str_eq(token->text, text)) {
            return error_set(
                p->err, STATUS_MODEL,
                "tokenizer_config.json: added_tokens_decoder: %llu is %.64s, but %.64s "
                "in the model",
                id, text.data, token->text.data);
        } else if (token->kind == TOKEN_NORMAL) {
            token->kind = (uint8_t)kind;
        }
        token->lstrip = reader_flag(item, "lstrip", false);
        token->rstrip = reader_flag(item, "rstrip", false);
        token->single_word = reader_flag(item, "single_word", false);
    }
    return STATUS_OK;
}

static uint64_t highest_added(const json_t *added, uint64_t count)
{
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)added, key, item)
    {
        unsigned long long id = strtoull(key, NULL, 10);
        if (id >= count && id < VOCABULARY_TOKENS_MAX)
            count = id + 1;
    }
    return count;
}

static enum status read_tokens(struct parser *p, struct str bytes, const json_t *config)
{
    const json_t *added = json_object_get(config, "added_tokens_decoder");
    if (!p->n_pieces)
        return error_set(p->err, STATUS_MODEL, "%s: no pieces; this is no SentencePiece model",
                         p->name);
    enum status status =
        vocabulary_set_size(p->v, highest_added(added, p->n_pieces), "pieces", p->err);
    if (status == STATUS_OK)
        status = walk(p, bytes, true);
    if (status == STATUS_OK)
        status = read_added(p, added);
    if (status == STATUS_OK)
        status = set_id(p, &p->v->unk, p->spec.unk, "trainer_spec.unk_id");
    if (status == STATUS_OK)
        status = set_id(p, &p->v->bos, p->spec.bos, "trainer_spec.bos_id");
    if (status == STATUS_OK)
        status = set_id(p, &p->v->eos, p->spec.eos, "trainer_spec.eos_id");
    if (status == STATUS_OK)
        status = set_id(p, &p->v->pad, p->spec.pad, "trainer_spec.pad_id");
    return status;
}

/* The file does not say what surrounds a text. tokenizer_config.json may; else Llama's and Mistral's
 * way for BPE (bos), T5's for Unigram (eos). */
static void set_affixes(struct parser *p, const json_t *config)
{
    struct vocabulary *v = p->v;
    bool bpe = v->kind == VOCABULARY_CHAR_BPE;
    v->add_bos = reader_flag(config, "add_bos_token", bpe && v->bos != VOCABULARY_NONE);
    v->add_eos = reader_flag(config, "add_eos_token", !bpe && v->eos != VOCABULARY_NONE);
}

static enum status read_ends(struct parser *p, const struct vocabulary_configs *configs)
{
    const json_t *ids = json_object_get(configs->generation_config, "eos_token_id");
    size_t count = json_is_array(ids) ? json_array_size(ids) : json_is_integer(ids);
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        const json_t *id = json_is_array(ids) ? json_array_get(ids, i) : ids;
        status = vocabulary_add_end(p->v, json_is_integer(id) ? json_integer_value(id) : -1,
                                    "generation_config.json: eos_token_id", p->err);
    }
    return status;
}

enum status vocabulary_from_model_bytes(struct str bytes, const char *name,
                                        const struct vocabulary_configs *configs,
                                        struct vocabulary *out, struct error *err)
{
    static const struct vocabulary_configs none;
    if (!configs)
        configs = &none;
    struct parser p = {.name = name,
                       .v = out,
                       .err = err,
                       .spec = {.model_type = MODEL_UNIGRAM,
                                .unk = 0,
                                .bos = 1,
                                .eos = 2,
                                .pad = -1,
                                .dummy_prefix = true,
                                .remove_extra = true,
                                .escape = true}};
    vocabulary_init(out);
    enum status status = walk(&p, bytes, false);
    if (status == STATUS_OK)
        status = set_model(&p);
    if (status == STATUS_OK)
        status = set_normalizers(&p);
    if (status == STATUS_OK)
        status = read_tokens(&p, bytes, configs->tokenizer_config);
    if (status == STATUS_OK && out->kind == VOCABULARY_CHAR_BPE)
        status = vocabulary_merges_from_scores(out, "pieces", err);
    set_affixes(&p, configs->tokenizer_config);
    if (status == STATUS_OK)
        status = read_ends(&p, configs);
    if (status == STATUS_OK)
        status = vocabulary_finish(out, err);
    if (status != STATUS_OK)
        vocabulary_release(out);
    return status;
}

enum status vocabulary_from_tokenizer_model(const char *path,
                                            const struct vocabulary_configs *configs,
                                            struct vocabulary *out, struct error *err)
{
    struct buf bytes = {0};
    vocabulary_init(out);
    enum status status = file_read_all(path, MODEL_BYTES_MAX, &bytes, err);
    if (status == STATUS_OK)
        status = vocabulary_from_model_bytes(buf_str(&bytes), path, configs, out, err);
    buf_release(&bytes);
    return status;
}
