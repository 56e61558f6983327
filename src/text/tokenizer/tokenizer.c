/*
 * Building a tokenizer from a vocabulary, and asking it about tokens.
 *
 * Normal tokens and the rest live in separate maps: a piece of text may become a normal token, but
 * never, by its bytes, a control token that happens to be spelled the same.
 */
#include "text/tokenizer/tokenizer.h"

#include <stdlib.h>

#include "text/tokenizer/byte_alphabet.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/tokenizer_internal.h"

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

/* The bytes a token stands for. A normal token that is not spelled in the byte alphabet stands for
 * its own text, as in the reference; text never becomes such a token. */
static bool set_piece(struct tokenizer *tokenizer, const struct byte_alphabet *alphabet,
                      uint32_t id, const struct vocabulary_token *token)
{
    struct token_entry *entry = &tokenizer->tokens[id];
    if (!token->text.data)
        return true;
    struct str piece = arena_copy_str(&tokenizer->arena, token->text);
    if (!piece.data)
        return false;
    bool is_normal = token->kind == TOKEN_NORMAL || token->kind == TOKEN_BYTE;
    if (!is_normal) {
        entry->piece = piece;
        return piece.len == 0 || strmap_add(&tokenizer->other, piece, id, NULL);
    }
    bool spelled = byte_alphabet_decode(alphabet, token->text, (uint8_t *)piece.data, &piece.len);
    if (!spelled) {
        memcpy((char *)piece.data, token->text.data, token->text.len);
        piece.len = token->text.len;
    }
    entry->piece = piece;
    if (!spelled || piece.len == 0)
        return true;
    if (piece.len > tokenizer->longest_normal)
        tokenizer->longest_normal = piece.len;
    return strmap_add(&tokenizer->normal, piece, id, NULL);
}

static bool is_added(uint8_t kind)
{
    return kind == TOKEN_CONTROL || kind == TOKEN_USER_DEFINED || kind == TOKEN_UNKNOWN;
}

static bool set_added(struct tokenizer *tokenizer, uint32_t id,
                      const struct vocabulary_token *token)
{
    if (!token->text.data || !is_added(token->kind))
        return true;
    if (!token->normalized)
        return added_tokens_add(&tokenizer->raw, token->text, (int32_t)id);
    struct buf text = {0};
    bool ok = tokenizer->normalizer == VOCABULARY_NORMALIZER_NFC
                  ? normalizer_nfc(token->text, &text, NULL)
                  : (buf_append_str(&text, token->text), !text.failed);
    ok = ok && added_tokens_add(&tokenizer->normalized, buf_str(&text), (int32_t)id);
    buf_release(&text);
    return ok;
}

static bool set_tokens(struct tokenizer *tokenizer, const struct vocabulary *vocabulary,
                       const struct byte_alphabet *alphabet)
{
    uint32_t n = vocabulary->n_tokens;
    tokenizer->n_tokens = n;
    tokenizer->tokens = arena_alloc(&tokenizer->arena, n, sizeof *tokenizer->tokens);
    tokenizer->whole = arena_alloc(&tokenizer->arena, n, sizeof *tokenizer->whole);
    if (!tokenizer->tokens || !tokenizer->whole || !strmap_reserve(&tokenizer->normal, n))
        return false;
    for (uint32_t id = 0; id < n; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        atomic_init(&tokenizer->whole[id], WHOLE_UNKNOWN);
        tokenizer->tokens[id] = (struct token_entry){
            .kind = token->kind,
            .lstrip = token->lstrip,
            .rstrip = token->rstrip,
            .single_word = token->single_word,
        };
        if (!set_piece(tokenizer, alphabet, id, token) || !set_added(tokenizer, id, token))
            return false;
    }
    tokenizer->n_ends = vocabulary->n_ends;
    tokenizer->ends =
        arena_alloc(&tokenizer->arena, vocabulary->n_ends + (size_t)1, sizeof *tokenizer->ends);
    if (!tokenizer->ends)
        return false;
    for (uint32_t i = 0; i < vocabulary->n_ends; i++) {
        tokenizer->ends[i] = vocabulary->ends[i];
        tokenizer->tokens[vocabulary->ends[i]].end = true;
    }
    return true;
}

enum status tokenizer_create(const struct vocabulary *vocabulary, struct tokenizer **out,
                             struct error *err)
{
    *out = NULL;
    if (vocabulary->kind != VOCABULARY_BYTE_BPE)
        return error_set(err, STATUS_UNSUPPORTED, "tokenizer kind %d is not known to sluice yet",
                         (int)vocabulary->kind);
    if (vocabulary->n_tokens == 0)
        return error_set(err, STATUS_MODEL, "the vocabulary is empty");
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
    tokenizer->normalizer = vocabulary->normalizer;
    tokenizer->ignore_merges = vocabulary->ignore_merges;
    tokenizer->add_bos = vocabulary->add_bos;
    tokenizer->add_eos = vocabulary->add_eos;
    tokenizer->bos = vocabulary->bos;
    tokenizer->eos = vocabulary->eos;
    tokenizer->eot = vocabulary->eot;
    tokenizer->unk = vocabulary->unk;
    tokenizer->pad = vocabulary->pad;
    struct byte_alphabet alphabet;
    byte_alphabet_init(&alphabet);
    enum status status = STATUS_OK;
    if (!set_tokens(tokenizer, vocabulary, &alphabet) ||
        !bpe_init(&tokenizer->bpe, vocabulary, &alphabet))
        status = error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
    if (status == STATUS_OK)
        status =
            splitter_create(vocabulary->splits, vocabulary->n_splits, &tokenizer->splitter, err);
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
    splitter_free(tokenizer->splitter);
    bpe_release(&tokenizer->bpe);
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

int32_t tokenizer_find(const struct tokenizer *tokenizer, struct str text)
{
    const int64_t *id = strmap_get(&tokenizer->other, text);
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

int32_t tokenizer_eot(const struct tokenizer *tokenizer)
{
    return tokenizer->eot;
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
