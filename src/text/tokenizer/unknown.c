/* Byte tokens are spelled <0x00> to <0xFF>, in SentencePiece and in tokenizer.json alike. */
#include "text/tokenizer/unknown.h"

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int unknown_byte_of(struct str text)
{
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    int high = hex(text.data[3]), low = hex(text.data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

void unknown_init(struct unknown *unknown, const struct vocabulary *vocabulary)
{
    unknown->unk = vocabulary->unk;
    unknown->fuse = vocabulary->fuse_unk;
    for (unsigned b = 0; b < 256; b++)
        unknown->byte_ids[b] = VOCABULARY_NONE;
    for (uint32_t id = 0; vocabulary->byte_fallback && id < vocabulary->n_tokens; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        int byte = token->kind == TOKEN_BYTE ? unknown_byte_of(token->text) : -1;
        if (byte >= 0)
            unknown->byte_ids[byte] = (int32_t)id;
    }
}

bool unknown_add(const struct unknown *unknown, const uint8_t *bytes, size_t n, size_t first,
                 struct token_list *out)
{
    size_t known = 0;
    while (known < n && unknown->byte_ids[bytes[known]] != VOCABULARY_NONE)
        known++;
    if (known == n) {
        for (size_t i = 0; i < n; i++) {
            if (!token_list_add(out, unknown->byte_ids[bytes[i]]))
                return false;
        }
        return true;
    }
    if (unknown->unk == VOCABULARY_NONE)
        return true;
    if (unknown->fuse && out->count > first && out->ids[out->count - 1] == unknown->unk)
        return true;
    return token_list_add(out, unknown->unk);
}
