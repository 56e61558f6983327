/*
 * Building a tokenizer from a vocabulary, and asking it about tokens.
 *
 * Normal tokens and the rest live in separate maps: a piece of text may become a normal token, but
 * never, by its bytes, a control token that happens to be spelled the same.
 */
#include "text/tokenizer/tokenizer.h"

#include <stdlib.h>

#include "text/tokenizer/byte_alphabet.h"
#include "text/tokenizer/tokenizer_internal.h"
#include "text/tokenizer/utf8.h"

void token_list_release(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}

bool token_list_add(struct token_list *list, int32_t id)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *ids = capacity > SIZE_MAX / 2 / sizeof *ids
                           ? NULL
                           : realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return false;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return true;
}

static bool is_added(uint8_t kind)
{
    return kind == TOKEN_CONTROL || kind == TOKEN_USER_DEFINED || kind == TOKEN_UNKNOWN;
}

/* What pieces are compared with: the bytes of a byte-level token, the text of any other. */
static bool add_normal(struct tokenizer *tokenizer, struct str text, uint32_t id)
{
    if (text.len == 0)
        return true;
    if (text.len > tokenizer->longest_normal)
        tokenizer->longest_normal = text.len;
    return strmap_add(&tokenizer->normal, text, id, NULL);
}

/* A normal token that is not spelled in the byte alphabet stands for its own text, as in the
 * reference; text never becomes such a token. */
static bool set_byte_level_piece(struct tokenizer *tokenizer, const struct byte_alphabet *alphabet,
                                 uint32_t id)
{
    struct token_entry *entry = &tokenizer->tokens[id];
    struct str piece = arena_copy_str(&tokenizer->arena, entry->text);
    if (!piece.data)
        return false;
    bool spelled = byte_alphabet_decode(alphabet, entry->text, (uint8_t *)piece.data, &piece.len);
    entry->piece = spelled ? piece : entry->text;
    return !spelled || add_normal(tokenizer, piece, id);
}

/* The bytes a token stands for inside of a text. */
static bool set_piece(struct tokenizer *tokenizer, const struct byte_alphabet *alphabet,
                      uint32_t id, const struct vocabulary_token *token)
{
    struct token_entry *entry = &tokenizer->tokens[id];
    if (!token->text.data)
        return true;
    entry->text = arena_copy_str(&tokenizer->arena, token->text);
    if (!entry->text.data)
        return false;
    bool other = is_added(token->kind) || token->kind == TOKEN_UNUSED;
    if (other && token->text.len && !strmap_add(&tokenizer->other, entry->text, id, NULL))
        return false;
    if (other && (token->kind != TOKEN_USER_DEFINED || !tokenizer->decoder.metaspace)) {
        entry->piece = entry->text;
        return true;
    }
    if (tokenizer->kind == VOCABULARY_BYTE_BPE)
        return set_byte_level_piece(tokenizer, alphabet, id);
    struct buf bytes = {0};
    int byte = token->kind == TOKEN_BYTE ? unknown_byte_of(token->text) : -1;
    if (byte >= 0)
        buf_append_char(&bytes, (char)byte);
    else
        tokenizer_token_text(&tokenizer->decoder, entry, false, false, &bytes);
    entry->piece = arena_copy_str(&tokenizer->arena, buf_str(&bytes));
    bool ok = !bytes.failed && entry->piece.data;
    buf_release(&bytes);
    return ok && (token->kind != TOKEN_NORMAL || add_normal(tokenizer, entry->text, id));
}

/* SentencePiece also finds user-defined tokens that normalization only makes. */
static bool is_found_twice(const struct tokenizer *tokenizer, const struct vocabulary_token *token)
{
    size_t n = tokenizer->normalization.n_steps;
    return token->kind == TOKEN_USER_DEFINED && n &&
           tokenizer->normalization.steps[n - 1].rule.kind == VOCABULARY_NORMALIZER_SPACES;
}

static enum status set_added(struct tokenizer *tokenizer, uint32_t id,
                             const struct vocabulary_token *token, struct error *err)
{
    if (!token->text.len || !is_added(token->kind))
        return STATUS_OK;
    /* Normalizers take UTF-8; a token of other bytes is found in the text as given. */
    bool utf8 = utf8_valid(token->text);
    /* Under trust spans a control token is found in the text as given: only form C has a map. */
    bool raw = !token->normalized || !utf8 ||
               (token->kind != TOKEN_USER_DEFINED && tokenizer->normalization.n_steps &&
                !normalization_is_nfc(&tokenizer->normalization));
    bool normalized = utf8 && (token->normalized || is_found_twice(tokenizer, token));
    bool ok = !raw || added_tokens_add(&tokenizer->raw, token->text, (int32_t)id);
    enum status status = STATUS_OK;
    if (ok && normalized) {
        struct normalization_run run = {0};
        struct normalization_place inside = {0};
        struct str text;
        status =
            normalization_apply(&tokenizer->normalization, &run, token->text, inside, &text, err);
        ok = status != STATUS_OK || added_tokens_add(&tokenizer->normalized, text, (int32_t)id);
        normalization_run_close(&run);
    }
    return ok ? status : error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
}

/* Which characters are neighbours inside of some token that text can become. */
static void set_joins(struct tokenizer *tokenizer, struct str text)
{
    for (size_t i = 1; i < text.len; i++) {
        uint8_t left = (uint8_t)text.data[i - 1], right = (uint8_t)text.data[i];
        struct str rest = {text.data + i, text.len - i};
        if (left < 0x80 && right < 0x80)
            tokenizer->joins[left][right >> 6] |= (uint64_t)1 << (right & 63);
        else if (str_starts(rest, METASPACE))
            tokenizer->joins_metaspace[left] = true;
    }
}

static void set_cuts(struct tokenizer *tokenizer, const struct vocabulary *vocabulary)
{
    bool by_piece =
        vocabulary->kind == VOCABULARY_CHAR_BPE || vocabulary->kind == VOCABULARY_UNIGRAM;
    tokenizer->cuts = by_piece && !vocabulary->ignore_merges && !vocabulary->end_of_word.len;
    for (uint32_t id = 0; tokenizer->cuts && id < vocabulary->n_tokens; id++) {
        uint8_t kind = vocabulary->tokens[id].kind;
        if (kind != TOKEN_CONTROL && kind != TOKEN_UNKNOWN)
            set_joins(tokenizer, vocabulary->tokens[id].text);
    }
    /* U+2581 itself is told apart by looking at it. */
    tokenizer->joins_metaspace[0x81] = true;
}

static bool alloc_tokens(struct tokenizer *tokenizer, const struct vocabulary *vocabulary)
{
    uint32_t n = vocabulary->n_tokens;
    tokenizer->n_tokens = n;
    tokenizer->tokens = arena_alloc(&tokenizer->arena, n, sizeof *tokenizer->tokens);
    tokenizer->whole = arena_alloc(&tokenizer->arena, n, sizeof *tokenizer->whole);
    tokenizer->ends =
        arena_alloc(&tokenizer->arena, vocabulary->n_ends + (size_t)1, sizeof *tokenizer->ends);
    tokenizer->n_ends = vocabulary->n_ends;
    tokenizer->pieces = calloc(1, sizeof *tokenizer->pieces);
    return tokenizer->tokens && tokenizer->whole && tokenizer->ends && tokenizer->pieces &&
           strmap_reserve(&tokenizer->normal, n);
}

static enum status set_tokens(struct tokenizer *tokenizer, const struct vocabulary *vocabulary,
                              const struct byte_alphabet *alphabet, struct error *err)
{
    bool ok = alloc_tokens(tokenizer, vocabulary);
    for (uint32_t id = 0; ok && id < tokenizer->n_tokens; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        atomic_init(&tokenizer->whole[id], WHOLE_UNKNOWN);
        tokenizer->tokens[id] = (struct token_entry){
            .kind = token->kind,
            .lstrip = token->lstrip,
            .rstrip = token->rstrip,
            .single_word = token->single_word,
        };
        ok = set_piece(tokenizer, alphabet, id, token);
        enum status status = ok ? set_added(tokenizer, id, token, err) : STATUS_OK;
        if (status != STATUS_OK)
            return status;
    }
    if (!ok)
        return error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
    for (uint32_t i = 0; i < vocabulary->n_ends; i++) {
        tokenizer->ends[i] = vocabulary->ends[i];
        tokenizer->tokens[vocabulary->ends[i]].end = true;
    }
    set_cuts(tokenizer, vocabulary);
    return STATUS_OK;
}

static bool set_decoder(struct tokenizer *tokenizer, const struct vocabulary_decoder *decoder)
{
    struct vocabulary_decoder *copy = &tokenizer->decoder;
    *copy = *decoder;
    copy->word_prefix = arena_copy_str(&tokenizer->arena, decoder->word_prefix);
    copy->word_suffix = arena_copy_str(&tokenizer->arena, decoder->word_suffix);
    return copy->word_prefix.data && copy->word_suffix.data;
}

static void set_rules(struct tokenizer *tokenizer, const struct vocabulary *vocabulary)
{
    tokenizer->kind = vocabulary->kind;
    tokenizer->ignore_merges = vocabulary->ignore_merges;
    tokenizer->prefix_space = vocabulary->prefix_space && vocabulary->kind == VOCABULARY_BYTE_BPE;
    tokenizer->fuse_unk = vocabulary->fuse_unk;
    tokenizer->add_bos = vocabulary->add_bos;
    tokenizer->add_eos = vocabulary->add_eos;
    tokenizer->bos = vocabulary->bos;
    tokenizer->eos = vocabulary->eos;
    tokenizer->unk = vocabulary->unk;
    tokenizer->pad = vocabulary->pad;
    tokenizer->n_before = vocabulary->n_before;
    tokenizer->n_behind = vocabulary->n_behind;
    memcpy(tokenizer->before, vocabulary->before, sizeof tokenizer->before);
    memcpy(tokenizer->behind, vocabulary->behind, sizeof tokenizer->behind);
}

static enum status set_model(struct tokenizer *tokenizer, const struct vocabulary *vocabulary,
                             const struct byte_alphabet *alphabet, struct error *err)
{
    bool ok = true;
    switch (vocabulary->kind) {
    case VOCABULARY_BYTE_BPE:
    case VOCABULARY_CHAR_BPE:
        ok = bpe_init(&tokenizer->bpe, vocabulary, alphabet);
        break;
    case VOCABULARY_UNIGRAM:
        return unigram_init(&tokenizer->unigram, vocabulary, err);
    case VOCABULARY_WORDPIECE:
        ok = wordpiece_init(&tokenizer->wordpiece, vocabulary);
        break;
    }
    return ok ? STATUS_OK : error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
}

enum status tokenizer_create(const struct vocabulary *vocabulary, struct tokenizer **out,
                             struct error *err)
{
    *out = NULL;
    if (vocabulary->n_tokens == 0)
        return error_set(err, STATUS_MODEL, "the vocabulary is empty");
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
    set_rules(tokenizer, vocabulary);
    struct byte_alphabet alphabet;
    byte_alphabet_init(&alphabet);
    enum status status = STATUS_OK;
    if (!set_decoder(tokenizer, &vocabulary->decoder))
        status = error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
    if (status == STATUS_OK)
        status = normalization_init(&tokenizer->normalization, vocabulary, err);
    if (status == STATUS_OK)
        status = set_tokens(tokenizer, vocabulary, &alphabet, err);
    if (status == STATUS_OK)
        status = set_model(tokenizer, vocabulary, &alphabet, err);
    if (status == STATUS_OK)
        status = splitter_create(vocabulary->splits, vocabulary->n_splits, false,
                                 &tokenizer->splitter, err);
    if (status != STATUS_OK) {
        tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_OK;
}

void tokenizer_free(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    if (tokenizer->pieces)
        piece_cache_pool_release(tokenizer->pieces);
    free(tokenizer->pieces);
    splitter_free(tokenizer->splitter);
    bpe_release(&tokenizer->bpe);
    unigram_release(&tokenizer->unigram);
    wordpiece_release(&tokenizer->wordpiece);
    normalization_release(&tokenizer->normalization);
    added_tokens_release(&tokenizer->raw);
    added_tokens_release(&tokenizer->normalized);
    strmap_release(&tokenizer->normal);
    strmap_release(&tokenizer->other);
    arena_release(&tokenizer->arena);
    free(tokenizer);
}

static const struct token_entry *entry_at(const struct tokenizer *tokenizer, int64_t id)
{
    return id >= 0 && id < tokenizer->n_tokens ? &tokenizer->tokens[id] : NULL;
}

uint32_t tokenizer_count(const struct tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

struct str tokenizer_piece(const struct tokenizer *tokenizer, int64_t id)
{
    const struct token_entry *entry = entry_at(tokenizer, id);
    return entry && entry->piece.data ? entry->piece : STR_LIT("");
}

void tokenizer_find_containing(const struct tokenizer *tokenizer, const char *const *texts,
                               size_t n_texts, uint32_t n_ids, uint32_t *mask)
{
    memset(mask, 0, (n_ids + (size_t)31) / 32 * sizeof *mask);
    for (uint32_t id = 0; id < n_ids; id++) {
        struct str piece = tokenizer_piece(tokenizer, id);
        for (size_t i = 0; i < n_texts; i++)
            if (texts[i] && texts[i][0] && str_find(piece, str_from(texts[i]), 0) != SIZE_MAX)
                mask[id / 32] |= 1u << id % 32;
    }
}

bool tokenizer_is_control(const struct tokenizer *tokenizer, int64_t id)
{
    const struct token_entry *entry = entry_at(tokenizer, id);
    return entry && (entry->kind == TOKEN_CONTROL || entry->kind == TOKEN_UNKNOWN);
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, int64_t id)
{
    const struct token_entry *entry = entry_at(tokenizer, id);
    return entry && entry->end;
}

const int32_t *tokenizer_ends(const struct tokenizer *tokenizer, size_t *count)
{
    *count = tokenizer->n_ends;
    return tokenizer->ends;
}

/* The token whose text, spaces written as U+2581, is `text`. */
static const int64_t *find_escaped(const struct tokenizer *tokenizer, struct str text)
{
    struct buf escaped = {0};
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == ' ')
            buf_append_str(&escaped, METASPACE);
        else
            buf_append_char(&escaped, text.data[i]);
    }
    const int64_t *id = escaped.failed ? NULL : strmap_get(&tokenizer->normal, buf_str(&escaped));
    buf_release(&escaped);
    return id;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, struct str text)
{
    const int64_t *id = strmap_get(&tokenizer->other, text);
    if (!id && tokenizer->decoder.metaspace)
        id = find_escaped(tokenizer, text);
    if (!id)
        id = strmap_get(&tokenizer->normal, text);
    return id ? (int32_t)*id : VOCABULARY_NONE;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t tokenizer_unk(const struct tokenizer *tokenizer)
{
    return tokenizer->unk;
}

int32_t tokenizer_pad(const struct tokenizer *tokenizer)
{
    return tokenizer->pad;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->add_bos;
}

bool tokenizer_adds_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->add_eos;
}
