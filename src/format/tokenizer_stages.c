/*
 * Normalizer, pre-tokenizer, decoder and post-processor of a tokenizer.json.
 *
 * Where a pre-tokenizer is a fixed rule of the library (BertPreTokenizer, Digits, ...) it is read as
 * the regular expressions that say the same. Semantics are those of Hugging Face tokenizers 0.2x.
 */
#include "format/tokenizer_stages.h"

#include "base/json.h"

#define METASPACE      STR_LIT("\xe2\x96\x81")
#define CHARSMAP_MAX   ((size_t)16 << 20)
#define STAGES_MAX     32 /* nested sequences */
#define WORD_CHARACTER "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}"

struct str reader_str(const json_t *value)
{
    if (!json_is_string(value))
        return (struct str){0};
    return (struct str){json_string_value(value), json_string_length(value)};
}

const char *reader_type(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(no type)";
}

bool reader_flag(const json_t *object, const char *key, bool absent)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : absent;
}

enum status reader_unsupported(struct reader *r, const char *stage, const char *what)
{
    return error_set(r->err, STATUS_UNSUPPORTED, "%s: %s %.100s is not supported", r->name, stage,
                     what);
}

enum status reader_malformed(struct reader *r, const char *field, const char *expected)
{
    return error_set(r->err, STATUS_MODEL, "%s: %s is not %s", r->name, field, expected);
}

static bool is_type(const json_t *stage, const char *type)
{
    return strcmp(reader_type(stage), type) == 0;
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

/* --- normalizer --- */

static enum status add_normalizer(struct reader *r, enum vocabulary_normalizer_kind kind)
{
    return vocabulary_add_normalizer(r->v, &(struct vocabulary_normalizer){.kind = kind}, r->err);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool base64_decode(struct str text, struct buf *out)
{
    uint32_t bits = 0;
    unsigned n_bits = 0;
    while (text.len && text.data[text.len - 1] == '=')
        text.len--;
    for (size_t i = 0; i < text.len; i++) {
        int digit = base64_digit(text.data[i]);
        if (digit < 0)
            return false;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            buf_append_char(out, (char)(bits >> n_bits));
        }
    }
    return !out->failed;
}

static enum status read_precompiled(struct reader *r, const json_t *stage)
{
    struct str text = reader_str(json_object_get(stage, "precompiled_charsmap"));
    struct buf bytes = {0};
    enum status status;
    /* SentencePiece's identity map has no bytes, and then there is nothing to do. */
    if (json_is_null(json_object_get(stage, "precompiled_charsmap")) || (text.data && !text.len))
        return STATUS_OK;
    if (!text.data || text.len > CHARSMAP_MAX || !base64_decode(text, &bytes))
        status = reader_malformed(r, "normalizer.precompiled_charsmap", "base64 of at most 16 MiB");
    else
        status = vocabulary_add_normalizer(
            r->v,
            &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_CHARSMAP,
                                            .content = buf_str(&bytes),
                                            .graphemes = true},
            r->err);
    buf_release(&bytes);
    return status;
}

static enum status read_replace(struct reader *r, const json_t *stage)
{
    const json_t *pattern = json_object_get(stage, "pattern");
    struct str regex = reader_str(json_object_get(pattern, "Regex"));
    struct str literal = reader_str(json_object_get(pattern, "String"));
    struct str content = reader_str(json_object_get(stage, "content"));
    if ((!regex.data && !literal.len) || !content.data)
        return reader_malformed(r, "normalizer Replace", "a pattern and a content");
    return vocabulary_add_normalizer(
        r->v,
        &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_REPLACE,
                                        .pattern = regex.data ? regex : literal,
                                        .content = content,
                                        .regex = regex.data != NULL},
        r->err);
}

static enum status read_bert(struct reader *r, const json_t *stage)
{
    bool lowercase = reader_flag(stage, "lowercase", true);
    enum status status = STATUS_OK;
    if (reader_flag(stage, "clean_text", true))
        status = add_normalizer(r, VOCABULARY_NORMALIZER_BERT_CLEAN);
    if (status == STATUS_OK && reader_flag(stage, "handle_chinese_chars", true))
        status = add_normalizer(r, VOCABULARY_NORMALIZER_BERT_CHINESE);
    if (status == STATUS_OK && reader_flag(stage, "strip_accents", lowercase)) {
        status = add_normalizer(r, VOCABULARY_NORMALIZER_NFD);
        if (status == STATUS_OK)
            status = vocabulary_add_normalizer(
                r->v,
                &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_STRIP_ACCENTS,
                                                .nonspacing = true},
                r->err);
    }
    if (status == STATUS_OK && lowercase)
        status = add_normalizer(r, VOCABULARY_NORMALIZER_LOWERCASE);
    return status;
}

static enum status read_normalizer(struct reader *r, const json_t *stage, unsigned depth)
{
    static const struct {
        const char *type;
        enum vocabulary_normalizer_kind kind;
    } plain[] = {
        {"NFC", VOCABULARY_NORMALIZER_NFC},
        {"NFD", VOCABULARY_NORMALIZER_NFD},
        {"NFKC", VOCABULARY_NORMALIZER_NFKC},
        {"NFKD", VOCABULARY_NORMALIZER_NFKD},
        {"Lowercase", VOCABULARY_NORMALIZER_LOWERCASE},
        {"StripAccents", VOCABULARY_NORMALIZER_STRIP_ACCENTS},
        {"Nmt", VOCABULARY_NORMALIZER_NMT},
    };
    if (!stage || json_is_null(stage))
        return STATUS_OK;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (is_type(stage, plain[i].type))
            return add_normalizer(r, plain[i].kind);
    }
    if (is_type(stage, "BertNormalizer"))
        return read_bert(r, stage);
    if (is_type(stage, "Precompiled"))
        return read_precompiled(r, stage);
    if (is_type(stage, "Replace"))
        return read_replace(r, stage);
    if (is_type(stage, "Strip"))
        return vocabulary_add_normalizer(
            r->v,
            &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_STRIP,
                                            .left = reader_flag(stage, "strip_left", true),
                                            .right = reader_flag(stage, "strip_right", true)},
            r->err);
    if (is_type(stage, "Prepend"))
        return vocabulary_add_normalizer(
            r->v,
            &(struct vocabulary_normalizer){.kind = VOCABULARY_NORMALIZER_PREPEND,
                                            .content =
                                                reader_str(json_object_get(stage, "prepend"))},
            r->err);
    if (!is_type(stage, "Sequence") || depth == STAGES_MAX)
        return reader_unsupported(r, "normalizer", reader_type(stage));
    const json_t *items = json_object_get(stage, "normalizers");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_normalizer(r, json_array_get(items, i), depth + 1);
    return status;
}

enum status reader_normalizer(struct reader *r, const json_t *stage)
{
    return read_normalizer(r, stage, 0);
}

/* --- pre-tokenizer --- */

static bool read_behavior(const json_t *stage, const char *absent, enum vocabulary_split_keep *keep)
{
    static const struct {
        const char *name;
        enum vocabulary_split_keep keep;
    } behaviors[] = {
        {"Isolated", VOCABULARY_SPLIT_ISOLATED},
        {"Removed", VOCABULARY_SPLIT_GAPS},
        {"MergedWithPrevious", VOCABULARY_SPLIT_PREVIOUS},
        {"MergedWithNext", VOCABULARY_SPLIT_NEXT},
        {"Contiguous", VOCABULARY_SPLIT_RUNS},
    };
    struct str behavior = reader_str(json_object_get(stage, "behavior"));
    if (!behavior.data && absent)
        behavior = str_from(absent);
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++) {
        if (str_eq_cstr(behavior, behaviors[i].name)) {
            *keep = behaviors[i].keep;
            return true;
        }
    }
    return false;
}

static enum status add_literal(struct reader *r, struct str literal,
                               enum vocabulary_split_keep keep)
{
    struct buf quoted = {0};
    quote(literal, &quoted);
    enum status status = quoted.failed
                             ? error_set(r->err, STATUS_MEMORY, "%s: out of memory", r->name)
                             : vocabulary_add_split(r->v, buf_str(&quoted), keep, r->err);
    buf_release(&quoted);
    return status;
}

static enum status add_pattern(struct reader *r, const char *pattern,
                               enum vocabulary_split_keep keep)
{
    return vocabulary_add_split(r->v, str_from(pattern), keep, r->err);
}

static enum status read_split(struct reader *r, const json_t *stage)
{
    struct str behavior = reader_str(json_object_get(stage, "behavior"));
    bool invert = reader_flag(stage, "invert", false);
    enum vocabulary_split_keep keep;
    if (!read_behavior(stage, NULL, &keep))
        return reader_unsupported(r, "pre_tokenizer Split with behavior",
                                  behavior.data ? behavior.data : "(none)");
    if (invert && keep == VOCABULARY_SPLIT_GAPS)
        keep = VOCABULARY_SPLIT_MATCHES;
    else if (invert && keep != VOCABULARY_SPLIT_ISOLATED)
        return reader_unsupported(r, "pre_tokenizer Split, inverted, with behavior", behavior.data);
    const json_t *pattern = json_object_get(stage, "pattern");
    struct str regex = reader_str(json_object_get(pattern, "Regex"));
    struct str literal = reader_str(json_object_get(pattern, "String"));
    if (!regex.data && !literal.data)
        return reader_malformed(r, "pre_tokenizer.pattern", "a Regex or a String");
    return regex.data ? vocabulary_add_split(r->v, regex, keep, r->err)
                      : add_literal(r, literal, keep);
}

static enum status read_byte_level(struct reader *r, const json_t *stage)
{
    r->byte_level = true;
    if (r->v->kind != VOCABULARY_CHAR_BPE)
        return reader_unsupported(r, "pre_tokenizer", "ByteLevel before a model that is not BPE");
    r->v->kind = VOCABULARY_BYTE_BPE;
    for (uint32_t i = 0; i < r->v->n_splits; i++) {
        if (!r->v->splits[i].pattern.len)
            return reader_unsupported(r, "pre_tokenizer", "Metaspace before ByteLevel");
    }
    if (reader_flag(stage, "add_prefix_space", true)) {
        if (r->v->n_splits)
            return reader_unsupported(r, "pre_tokenizer",
                                      "ByteLevel with add_prefix_space behind another stage");
        r->v->prefix_space = true;
    }
    if (!reader_flag(stage, "use_regex", true))
        return STATUS_OK;
    return add_pattern(r, VOCABULARY_SPLIT_GPT2, VOCABULARY_SPLIT_ISOLATED);
}

/* "prepend_scheme", or in older files "add_prefix_space". */
static bool read_scheme(const json_t *stage, enum vocabulary_prefix *prefix)
{
    struct str scheme = reader_str(json_object_get(stage, "prepend_scheme"));
    if (!scheme.data) {
        *prefix = reader_flag(stage, "add_prefix_space", true) ? VOCABULARY_PREFIX_ALWAYS
                                                               : VOCABULARY_PREFIX_NEVER;
        return true;
    }
    if (str_eq_cstr(scheme, "always"))
        *prefix = VOCABULARY_PREFIX_ALWAYS;
    else if (str_eq_cstr(scheme, "first"))
        *prefix = VOCABULARY_PREFIX_FIRST;
    else if (str_eq_cstr(scheme, "never"))
        *prefix = VOCABULARY_PREFIX_NEVER;
    else
        return false;
    return true;
}

static bool has_metaspace(const json_t *stage)
{
    return str_eq(reader_str(json_object_get(stage, "replacement")), METASPACE);
}

static enum status read_metaspace(struct reader *r, const json_t *stage)
{
    enum vocabulary_prefix prefix;
    if (!has_metaspace(stage))
        return reader_unsupported(r, "pre_tokenizer", "Metaspace with another sign than U+2581");
    if (!read_scheme(stage, &prefix))
        return reader_malformed(r, "pre_tokenizer.prepend_scheme", "always, first or never");
    return vocabulary_add_metaspace(r->v, prefix, reader_flag(stage, "split", true), r->err);
}

static enum status read_bert_split(struct reader *r)
{
    enum status status = add_pattern(r, "\\s+", VOCABULARY_SPLIT_GAPS);
    return status == STATUS_OK ? add_pattern(r, VOCABULARY_SPLIT_BERT, VOCABULARY_SPLIT_ISOLATED)
                               : status;
}

static enum status read_simple(struct reader *r, const json_t *stage)
{
    enum vocabulary_split_keep keep;
    if (is_type(stage, "Split"))
        return read_split(r, stage);
    if (is_type(stage, "Metaspace"))
        return read_metaspace(r, stage);
    if (is_type(stage, "BertPreTokenizer"))
        return read_bert_split(r);
    if (is_type(stage, "WhitespaceSplit"))
        return add_pattern(r, "\\s+", VOCABULARY_SPLIT_GAPS);
    if (is_type(stage, "Whitespace"))
        return add_pattern(r, "[" WORD_CHARACTER "]+|[^\\s" WORD_CHARACTER "]+",
                           VOCABULARY_SPLIT_MATCHES);
    if (is_type(stage, "Digits"))
        return add_pattern(r, reader_flag(stage, "individual_digits", false) ? "\\p{N}" : "\\p{N}+",
                           VOCABULARY_SPLIT_ISOLATED);
    if (is_type(stage, "Punctuation") && read_behavior(stage, "Isolated", &keep))
        return add_pattern(r, VOCABULARY_SPLIT_BERT, keep);
    if (is_type(stage, "CharDelimiterSplit") && json_is_string(json_object_get(stage, "delimiter")))
        return add_literal(r, reader_str(json_object_get(stage, "delimiter")),
                           VOCABULARY_SPLIT_GAPS);
    return reader_unsupported(r, "pre_tokenizer", reader_type(stage));
}

static enum status read_pre_tokenizer(struct reader *r, const json_t *stage, unsigned depth)
{
    if (!stage || json_is_null(stage))
        return STATUS_OK;
    if (r->byte_level)
        return reader_unsupported(r, "pre_tokenizer", "with a stage behind ByteLevel");
    if (is_type(stage, "ByteLevel"))
        return read_byte_level(r, stage);
    if (!is_type(stage, "Sequence"))
        return read_simple(r, stage);
    if (depth == STAGES_MAX)
        return reader_unsupported(r, "pre_tokenizer", "Sequence nested this deep");
    const json_t *items = json_object_get(stage, "pretokenizers");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_pre_tokenizer(r, json_array_get(items, i), depth + 1);
    return status;
}

enum status reader_pre_tokenizer(struct reader *r, const json_t *stage)
{
    return read_pre_tokenizer(r, stage, 0);
}

/* --- decoder --- */

static enum status read_strip(struct reader *r, const json_t *stage)
{
    const json_t *start = json_object_get(stage, "start"), *stop = json_object_get(stage, "stop");
    if (!r->fused || !str_eq_cstr(reader_str(json_object_get(stage, "content")), " "))
        return reader_unsupported(r, "decoder",
                                  "Strip of anything but the spaces of the whole text");
    if (!json_is_integer(start) || json_integer_value(start) < 0 ||
        json_integer_value(start) > UINT16_MAX || !json_is_integer(stop) ||
        json_integer_value(stop) < 0 || json_integer_value(stop) > UINT16_MAX)
        return reader_malformed(r, "decoder Strip", "two counts");
    r->v->decoder.strip_start = (unsigned)json_integer_value(start);
    r->v->decoder.strip_end = (unsigned)json_integer_value(stop);
    return STATUS_OK;
}

static enum status read_decoder_metaspace(struct reader *r, const json_t *stage)
{
    enum vocabulary_prefix prefix;
    if (!has_metaspace(stage) || !read_scheme(stage, &prefix))
        return reader_unsupported(r, "decoder", "Metaspace of this form");
    r->v->decoder.metaspace = true;
    r->v->decoder.drop_first_spaces = prefix != VOCABULARY_PREFIX_NEVER;
    return STATUS_OK;
}

static enum status read_decoder(struct reader *r, const json_t *stage, unsigned depth)
{
    struct vocabulary_decoder *decoder = &r->v->decoder;
    if (is_type(stage, "ByteLevel") || is_type(stage, "ByteFallback"))
        return STATUS_OK;
    if (is_type(stage, "Fuse")) {
        r->fused = true;
        return STATUS_OK;
    }
    if (is_type(stage, "Strip"))
        return read_strip(r, stage);
    if (is_type(stage, "Metaspace"))
        return read_decoder_metaspace(r, stage);
    if (is_type(stage, "Replace")) {
        const json_t *pattern = json_object_get(json_object_get(stage, "pattern"), "String");
        if (!str_eq(reader_str(pattern), METASPACE) ||
            !str_eq_cstr(reader_str(json_object_get(stage, "content")), " "))
            return reader_unsupported(r, "decoder", "Replace of anything but U+2581 by a space");
        decoder->metaspace = true;
        return STATUS_OK;
    }
    if (is_type(stage, "WordPiece")) {
        decoder->words = true;
        decoder->cleanup = reader_flag(stage, "cleanup", true);
        return vocabulary_set_text(r->v, &decoder->word_prefix,
                                   reader_str(json_object_get(stage, "prefix")), r->err);
    }
    if (is_type(stage, "BPEDecoder"))
        return vocabulary_set_text(r->v, &decoder->word_suffix,
                                   reader_str(json_object_get(stage, "suffix")), r->err);
    if (!is_type(stage, "Sequence") || depth == STAGES_MAX)
        return reader_unsupported(r, "decoder", reader_type(stage));
    const json_t *items = json_object_get(stage, "decoders");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_decoder(r, json_array_get(items, i), depth + 1);
    return status;
}

enum status reader_decoder(struct reader *r, const json_t *stage)
{
    if (stage && !json_is_null(stage))
        return read_decoder(r, stage, 0);
    /* Without a decoder the library joins tokens with spaces; byte-level ones are at least bytes. */
    r->v->decoder.words = r->v->kind != VOCABULARY_BYTE_BPE;
    return STATUS_OK;
}

/* --- post-processor --- */

static enum status add_affix(struct reader *r, bool behind, const json_t *id)
{
    enum status status =
        vocabulary_add_affix(r->v, behind, json_is_integer(id) ? json_integer_value(id) : -1,
                             "post_processor.special_tokens", r->err);
    if (status != STATUS_OK)
        return status;
    *(behind ? &r->v->add_eos : &r->v->add_bos) = true;
    if (behind && r->v->n_behind == 1)
        r->v->eos = r->v->behind[0];
    if (!behind && r->v->n_before == 1)
        r->v->bos = r->v->before[0];
    return STATUS_OK;
}

/* Special tokens before the one sequence, and behind it. */
static enum status read_template(struct reader *r, const json_t *stage)
{
    const json_t *single = json_object_get(stage, "single");
    bool behind = false;
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (!special) {
            if (behind || !json_object_get(item, "Sequence"))
                return reader_unsupported(r, "post_processor", "TemplateProcessing of this form");
            behind = true;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *entry =
            name ? json_object_get(json_object_get(stage, "special_tokens"), name) : NULL;
        const json_t *ids = json_object_get(entry, "ids");
        if (!json_array_size(ids))
            return reader_malformed(r, "post_processor.special_tokens",
                                    "a list of ids for each name of the template");
        for (size_t k = 0; status == STATUS_OK && k < json_array_size(ids); k++)
            status = add_affix(r, behind, json_array_get(ids, k));
    }
    return status;
}

/* BertProcessing and RobertaProcessing: "cls": ["[CLS]", 101], "sep": ["[SEP]", 102]. */
static enum status read_cls_sep(struct reader *r, const json_t *stage)
{
    enum status status = add_affix(r, false, json_array_get(json_object_get(stage, "cls"), 1));
    return status == STATUS_OK
               ? add_affix(r, true, json_array_get(json_object_get(stage, "sep"), 1))
               : status;
}

static enum status read_post_processor(struct reader *r, const json_t *stage, unsigned depth)
{
    if (!stage || json_is_null(stage) || is_type(stage, "ByteLevel"))
        return STATUS_OK;
    if (is_type(stage, "TemplateProcessing"))
        return read_template(r, stage);
    if (is_type(stage, "BertProcessing") || is_type(stage, "RobertaProcessing"))
        return read_cls_sep(r, stage);
    if (!is_type(stage, "Sequence") || depth == STAGES_MAX)
        return reader_unsupported(r, "post_processor", reader_type(stage));
    const json_t *items = json_object_get(stage, "processors");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < json_array_size(items); i++)
        status = read_post_processor(r, json_array_get(items, i), depth + 1);
    return status;
}

enum status reader_post_processor(struct reader *r, const json_t *stage)
{
    return read_post_processor(r, stage, 0);
}
