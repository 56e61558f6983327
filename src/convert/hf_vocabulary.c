/*
 * A folder's tokenizer and chat template in GGUF's terms. GGUF names pre-tokenizers instead of spelling
 * them out, so a tokenizer can be carried over only where its pattern is one of those with a name, or
 * where it is SentencePiece's or WordPiece. A folder without a tokenizer gives a file without one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "convert/hf.h"
#include "format/gguf_writer.h"
#include "format/vocabulary.h"

#define TEMPLATE_BYTES_MAX (1u << 20)

/* WordPiece marks what continues a word, GGUF what begins one. */
static struct str gguf_text(const struct vocabulary *v, const struct vocabulary_token *token,
                            struct buf *line)
{
    struct str text = token->text, mark = v->continuing_word;
    if (v->kind != VOCABULARY_WORDPIECE || token->kind == TOKEN_CONTROL ||
        token->kind == TOKEN_UNKNOWN)
        return text;
    if (mark.len && str_starts(text, mark))
        return (struct str){text.data + mark.len, text.len - mark.len};
    buf_clear(line);
    buf_append_cstr(line, "\xe2\x96\x81");
    buf_append_str(line, text);
    return buf_str(line);
}

static void write_tokens(const struct vocabulary *v, struct gguf_writer *w)
{
    struct buf line = {0};
    gguf_writer_array(w, "tokenizer.ggml.tokens", GGUF_STRING, v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        char hole[32];
        snprintf(hole, sizeof hole, "[PAD%u]", i);
        gguf_writer_item_str(w, v->tokens[i].text.data ? gguf_text(v, &v->tokens[i], &line)
                                                       : str_from(hole));
    }
    buf_release(&line);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++)
        gguf_writer_item_u32(w, v->tokens[i].text.data ? v->tokens[i].kind : TOKEN_UNUSED);
}

/* The parts of a merge as text; false where one is no token. */
static enum status write_merges(const struct vocabulary *v, struct gguf_writer *w,
                                struct error *err)
{
    struct buf line = {0};
    gguf_writer_array(w, "tokenizer.ggml.merges", GGUF_STRING, v->n_merges);
    for (uint32_t i = 0; i < v->n_merges; i++) {
        const struct vocabulary_merge *m = &v->merges[i];
        if (m->left >= v->n_tokens || m->right >= v->n_tokens) {
            buf_release(&line);
            return error_set(err, STATUS_UNSUPPORTED,
                             "the tokenizer merges characters that are no tokens");
        }
        buf_clear(&line);
        buf_append_str(&line, v->tokens[m->left].text);
        buf_append_char(&line, ' ');
        buf_append_str(&line, v->tokens[m->right].text);
        gguf_writer_item_str(w, buf_str(&line));
    }
    buf_release(&line);
    return STATUS_OK;
}

/* SentencePiece merges by score; tokenizer.json has ranks instead, which order alike. */
static enum status write_scores(const struct vocabulary *v, struct gguf_writer *w,
                                struct error *err)
{
    float *scores = calloc(v->n_tokens + 1, sizeof *scores);
    bool given = false;
    if (!scores)
        return error_set(err, STATUS_MEMORY, "out of memory for %u tokens", v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        scores[i] = v->tokens[i].score;
        given |= scores[i] != 0.0f;
    }
    for (uint32_t i = 0; i < v->n_merges && !given; i++)
        if (v->merges[i].result < v->n_tokens && scores[v->merges[i].result] == 0.0f)
            scores[v->merges[i].result] = -(float)v->merges[i].rank - 1.0f;
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++)
        gguf_writer_item_f32(w, scores[i]);
    free(scores);
    return STATUS_OK;
}

static bool has_space_prefix(const struct vocabulary *v)
{
    for (uint32_t i = 0; i < v->n_normalizers; i++)
        if (v->normalizers[i].kind == VOCABULARY_NORMALIZER_PREPEND ||
            v->normalizers[i].prefix != VOCABULARY_PREFIX_NEVER)
            return true;
    for (uint32_t i = 0; i < v->n_splits; i++)
        if (v->splits[i].prefix != VOCABULARY_PREFIX_NEVER)
            return true;
    return false;
}

static void write_id(struct gguf_writer *w, const char *key, int32_t id)
{
    if (id >= 0)
        gguf_writer_u32(w, key, (uint32_t)id);
}

static void write_ids(const struct vocabulary *v, struct gguf_writer *w)
{
    write_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    write_id(w, "tokenizer.ggml.eos_token_id", v->eos);
    write_id(w, "tokenizer.ggml.eot_token_id", v->eot);
    write_id(w, "tokenizer.ggml.unknown_token_id", v->unk);
    write_id(w, "tokenizer.ggml.padding_token_id", v->pad);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
}

static bool normalizes(const struct vocabulary *v, enum vocabulary_normalizer_kind kind)
{
    for (uint32_t i = 0; i < v->n_normalizers; i++)
        if (v->normalizers[i].kind == kind)
            return true;
    return false;
}

/* BERT's own: its cleaning and splitting are implied. */
static enum status write_wordpiece(const struct vocabulary *v, struct gguf_writer *w,
                                   struct error *err)
{
    bool own =
        normalizes(v, VOCABULARY_NORMALIZER_BERT_CLEAN) && str_eq_cstr(v->continuing_word, "##");
    if (!own || v->n_before > 1 || v->n_behind > 1)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the folder's WordPiece tokenizer is not like BERT's, which GGUF has");
    gguf_writer_str(w, "tokenizer.ggml.model", STR_LIT("bert"));
    gguf_writer_str(w, "tokenizer.ggml.pre", STR_LIT("default"));
    write_tokens(v, w);
    gguf_writer_bool(w, "tokenizer.ggml.normalizer.lowercase",
                     normalizes(v, VOCABULARY_NORMALIZER_LOWERCASE));
    gguf_writer_bool(w, "tokenizer.ggml.normalizer.strip_accents",
                     normalizes(v, VOCABULARY_NORMALIZER_STRIP_ACCENTS));
    if (v->n_before)
        write_id(w, "tokenizer.ggml.cls_token_id", v->before[0]);
    if (v->n_behind)
        write_id(w, "tokenizer.ggml.seperator_token_id", v->behind[0]); /* as files spell it */
    write_ids(v, w);
    return STATUS_OK;
}

static enum status write_vocabulary(const struct vocabulary *v, struct gguf_writer *w,
                                    struct error *err)
{
    const char *pre = vocabulary_pre_tokenizer(v);
    bool bytes = v->kind == VOCABULARY_BYTE_BPE;
    if (v->kind == VOCABULARY_WORDPIECE)
        return write_wordpiece(v, w, err);
    if (bytes ? !pre : v->kind != VOCABULARY_CHAR_BPE || !v->byte_fallback)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the folder's tokenizer has no name in GGUF that quantize knows: take the "
                         "tokenizer's files out of the folder to convert the weights alone");
    gguf_writer_str(w, "tokenizer.ggml.model", bytes ? STR_LIT("gpt2") : STR_LIT("llama"));
    gguf_writer_str(w, "tokenizer.ggml.pre", bytes ? str_from(pre) : STR_LIT("default"));
    write_tokens(v, w);
    enum status status = bytes ? write_merges(v, w, err) : write_scores(v, w, err);
    if (!bytes)
        gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", has_space_prefix(v));
    write_ids(v, w);
    return status;
}

static enum status write_tokenizer(const struct source *s, struct gguf_writer *w, struct error *err)
{
    struct vocabulary v;
    if (!checkpoint_file(s->checkpoint, "tokenizer.json") &&
        !checkpoint_file(s->checkpoint, "tokenizer.model"))
        return STATUS_OK;
    enum status status = vocabulary_from_checkpoint(s->checkpoint, &v, err);
    if (status != STATUS_OK)
        return status;
    status = write_vocabulary(&v, w, err);
    vocabulary_release(&v);
    return status;
}

/* chat_template.jinja, or the template in tokenizer_config.json (of a list, the one named default). */
static enum status write_template(const struct source *s, struct gguf_writer *w, struct error *err)
{
    const char *path = checkpoint_file(s->checkpoint, "chat_template.jinja");
    struct buf text = {0};
    if (path) {
        enum status status = file_read_all(path, TEMPLATE_BYTES_MAX, &text, err);
        if (status == STATUS_OK)
            gguf_writer_str(w, "tokenizer.chat_template", buf_str(&text));
        buf_release(&text);
        return status;
    }
    const json_t *value =
        json_object_get(checkpoint_tokenizer_config(s->checkpoint), "chat_template");
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0) {
            value = json_object_get(item, "template");
            break;
        }
    }
    if (json_is_string(value))
        gguf_writer_str(w, "tokenizer.chat_template",
                        (struct str){json_string_value(value), json_string_length(value)});
    return STATUS_OK;
}

enum status hf_write_vocabulary(const struct source *s, struct gguf_writer *w, struct error *err)
{
    enum status status = write_tokenizer(s, w, err);
    return status == STATUS_OK ? write_template(s, w, err) : status;
}
