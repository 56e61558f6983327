/*
 * Symbols of byte pair encoding.
 *
 * Over characters, three things can stand for one: its token; an id behind the tokens, for a
 * character that is only ever part of one (see vocabulary_scores.c); or nothing that merges, and then
 * it is passed on as UNKNOWN_BIT | code point and resolved when merging is over. No merge has such a
 * part, so it stays where it is.
 */
#include "text/tokenizer/bpe_symbols.h"

#include <stdlib.h>

#include "text/tokenizer/utf8.h"

#define UNKNOWN_BIT 0x80000000u

static unsigned encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    unsigned length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = length; i-- > 1; c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3f));
    static const uint8_t leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (uint8_t)(leads[length] | c);
    return length;
}

static void set_byte_ids(int32_t *ids, const struct vocabulary *vocabulary,
                         const struct byte_alphabet *alphabet, struct str suffix)
{
    char text[VOCABULARY_TOKEN_BYTES_MAX < 512 ? VOCABULARY_TOKEN_BYTES_MAX : 512];
    size_t suffix_len = suffix.len < sizeof text - 4 ? suffix.len : 0;
    for (unsigned b = 0; b < 256; b++) {
        uint16_t c = alphabet->char_of[b];
        size_t length = encode(c, (uint8_t *)text);
        if (suffix_len)
            memcpy(text + length, suffix.data, suffix_len);
        int32_t id = vocabulary_find(vocabulary, (struct str){text, length + suffix_len});
        /* An added token's text is the text itself, so only in ASCII does it name a byte. */
        uint8_t kind = id == VOCABULARY_NONE ? TOKEN_UNUSED : vocabulary->tokens[id].kind;
        bool usable = kind == TOKEN_NORMAL || (kind == TOKEN_USER_DEFINED && c == b && c < 0x80);
        ids[b] = usable ? id : vocabulary->unk;
    }
}

static struct bpe_char *char_slot(const struct bpe_chars *chars, uint32_t c)
{
    size_t i = (size_t)(c * 0x9e3779b1u) & (chars->capacity - 1);
    while (chars->entries[i].id != VOCABULARY_NONE && chars->entries[i].c != c)
        i = (i + 1) & (chars->capacity - 1);
    return &chars->entries[i];
}

static bool chars_open(struct bpe_chars *chars, size_t count)
{
    chars->capacity = 16;
    while (chars->capacity / 2 < count)
        chars->capacity *= 2;
    chars->entries = malloc(chars->capacity * sizeof *chars->entries);
    for (size_t i = 0; chars->entries && i < chars->capacity; i++)
        chars->entries[i] = (struct bpe_char){0, VOCABULARY_NONE};
    for (size_t i = 0; i < 128; i++)
        chars->ascii[i] = VOCABULARY_NONE;
    return chars->entries != NULL;
}

static void chars_set(struct bpe_chars *chars, uint32_t c, int32_t id)
{
    struct bpe_char *slot = char_slot(chars, c);
    if (slot->id == VOCABULARY_NONE)
        *slot = (struct bpe_char){c, id};
    if (c < 128)
        chars->ascii[c] = slot->id;
}

static int32_t chars_get(const struct bpe_chars *chars, uint32_t c)
{
    return c < 128 ? chars->ascii[c] : char_slot(chars, c)->id;
}

/* The character that a token is, before `suffix`; false: it is no single character. */
static bool single_char(const struct vocabulary_token *token, struct str suffix, uint32_t *c)
{
    struct str text = token->text;
    if (token->kind != TOKEN_NORMAL && token->kind != TOKEN_USER_DEFINED)
        return false;
    if (!text.data || !str_ends(text, suffix) || text.len == suffix.len)
        return false;
    size_t length = text.len - suffix.len;
    return utf8_decode((const uint8_t *)text.data, length, c) == length;
}

static bool set_chars(struct bpe_chars *chars, const struct vocabulary *vocabulary,
                      struct str suffix)
{
    size_t count = vocabulary->n_symbols;
    uint32_t c;
    for (uint32_t id = 0; id < vocabulary->n_tokens; id++)
        count += single_char(&vocabulary->tokens[id], suffix, &c);
    if (!chars_open(chars, count))
        return false;
    for (uint32_t id = 0; id < vocabulary->n_tokens; id++) {
        if (single_char(&vocabulary->tokens[id], suffix, &c))
            chars_set(chars, c, (int32_t)id);
    }
    for (uint32_t i = 0; i < vocabulary->n_symbols; i++)
        chars_set(chars, vocabulary->symbols[i], (int32_t)(vocabulary->n_tokens + i));
    return true;
}

bool bpe_symbols_init(struct bpe_symbols *symbols, const struct vocabulary *vocabulary,
                      const struct byte_alphabet *alphabet)
{
    struct str suffix = vocabulary->end_of_word;
    *symbols = (struct bpe_symbols){.chars = vocabulary->kind == VOCABULARY_CHAR_BPE,
                                    .has_last = suffix.len > 0,
                                    .n_tokens = vocabulary->n_tokens};
    unknown_init(&symbols->unknown, vocabulary);
    if (!symbols->chars) {
        set_byte_ids(symbols->bytes, vocabulary, alphabet, STR_LIT(""));
        set_byte_ids(symbols->last_bytes, vocabulary, alphabet, suffix);
        return true;
    }
    uint32_t *characters = calloc(vocabulary->n_symbols + (size_t)1, sizeof *characters);
    symbols->characters = characters;
    if (!characters)
        return false;
    if (vocabulary->n_symbols)
        memcpy(characters, vocabulary->symbols, vocabulary->n_symbols * sizeof *characters);
    return set_chars(&symbols->all, vocabulary, STR_LIT("")) &&
           (!suffix.len || set_chars(&symbols->last, vocabulary, suffix));
}

void bpe_symbols_release(struct bpe_symbols *symbols)
{
    free(symbols->all.entries);
    free(symbols->last.entries);
    free((void *)symbols->characters);
    *symbols = (struct bpe_symbols){0};
}

static size_t split_bytes(const struct bpe_symbols *symbols, const uint8_t *bytes, size_t n,
                          uint32_t *ids)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t *table =
            symbols->has_last && i + 1 == n ? symbols->last_bytes : symbols->bytes;
        if (table[bytes[i]] != VOCABULARY_NONE)
            ids[count++] = (uint32_t)table[bytes[i]];
    }
    return count;
}

size_t bpe_symbols_split(const struct bpe_symbols *symbols, const uint8_t *bytes, size_t n,
                         uint32_t *ids)
{
    if (!symbols->chars)
        return split_bytes(symbols, bytes, n, ids);
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        i += utf8_decode(bytes + i, n - i, &c);
        bool last = symbols->has_last && i == n;
        int32_t id = chars_get(last ? &symbols->last : &symbols->all, c);
        ids[count++] = id == VOCABULARY_NONE ? UNKNOWN_BIT | c : (uint32_t)id;
    }
    return count;
}

bool bpe_symbols_put(const struct bpe_symbols *symbols, const uint32_t *ids, size_t n,
                     struct token_list *out)
{
    size_t first = out->count;
    for (size_t i = 0; i < n; i++) {
        bool ok;
        if (ids[i] < symbols->n_tokens) {
            ok = token_list_add(out, (int32_t)ids[i]);
        } else {
            uint8_t bytes[4];
            uint32_t c = ids[i] & UNKNOWN_BIT ? ids[i] & ~UNKNOWN_BIT
                                              : symbols->characters[ids[i] - symbols->n_tokens];
            ok = unknown_add(&symbols->unknown, bytes, encode(c, bytes), first, out);
        }
        if (!ok)
            return false;
    }
    return true;
}
