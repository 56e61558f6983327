/*
 * A byte-level BPE vocabulary small enough to reason about by hand, for tests and the fuzz entry.
 *
 * ids 0..255 are the bytes; then come merges in order of rank, then the added tokens.
 */
#ifndef SLUICE_TESTS_SMALL_VOCABULARY_H
#define SLUICE_TESTS_SMALL_VOCABULARY_H

#include <stdio.h>

#include "text/tokenizer/byte_alphabet.h"
#include "text/tokenizer/tokenizer.h"

/* In byte alphabet: \xc4\xa0 is the space. */
static const char *const small_merges[][2] = {
    {"h", "e"},
    {"l", "l"},
    {"he", "ll"},
    {"hell", "o"},
    {"\xc4\xa0", "w"},
    {"o", "r"},
    {"\xc4\xa0w", "or"},
    {"\xc4\xa0wor", "l"},
    {"\xc4\xa0worl", "d"},
    {"a", "a"},
    {"aa", "aa"},
    {"aaaa", "aaaa"},
    {"<", "|"},
    {"|", ">"},
    {"\xc3\x83", "\xc2\xa9"}, /* the two bytes of U+00E9 */
};
#define SMALL_MERGES (sizeof small_merges / sizeof *small_merges)

enum small_id {
    SMALL_HE = 256,
    SMALL_LL,
    SMALL_HELL,
    SMALL_HELLO,
    SMALL_SPACE_W,
    SMALL_OR,
    SMALL_WOR,
    SMALL_WORL,
    SMALL_WORLD,
    SMALL_AA,
    SMALL_AAAA,
    SMALL_AAAAAAAA,
    SMALL_OPEN,
    SMALL_CLOSE,
    SMALL_E_ACUTE,
    SMALL_BOS = 256 + SMALL_MERGES, /* <|bos|> control */
    SMALL_END,                      /* <|im_end|> control */
    SMALL_END_LONG,                 /* <|im_end|>> control, longer than SMALL_END */
    SMALL_THINK,                    /* <think> user-defined */
    SMALL_HOLE,
    SMALL_COUNT,
};

static inline enum status small_set_bytes(struct vocabulary *v, struct error *err)
{
    struct byte_alphabet alphabet;
    byte_alphabet_init(&alphabet);
    enum status status = STATUS_OK;
    for (unsigned b = 0; b < 256 && status == STATUS_OK; b++) {
        uint16_t c = alphabet.char_of[b];
        char text[2] = {(char)c, 0};
        if (c >= 0x80) {
            text[0] = (char)(0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
        }
        status = vocabulary_set_token(v, b, (struct str){text, c < 0x80 ? 1 : 2}, TOKEN_NORMAL,
                                      "bytes", err);
    }
    return status;
}

/* Everything but vocabulary_finish(), so that a test may still change things. */
static inline enum status small_vocabulary(struct vocabulary *v, struct error *err)
{
    static const struct {
        int id;
        const char *text;
        int kind;
    } added[] = {
        {SMALL_BOS, "<|bos|>", TOKEN_CONTROL},
        {SMALL_END, "<|im_end|>", TOKEN_CONTROL},
        {SMALL_END_LONG, "<|im_end|>>", TOKEN_CONTROL},
        {SMALL_THINK, "<think>", TOKEN_USER_DEFINED},
    };
    vocabulary_init(v);
    enum status status = vocabulary_set_size(v, SMALL_COUNT, "small", err);
    if (status == STATUS_OK)
        status = small_set_bytes(v, err);
    for (size_t i = 0; i < SMALL_MERGES && status == STATUS_OK; i++) {
        char text[32];
        snprintf(text, sizeof text, "%s%s", small_merges[i][0], small_merges[i][1]);
        status = vocabulary_set_token(v, 256 + i, str_from(text), TOKEN_NORMAL, "merged", err);
    }
    for (size_t i = 0; i < sizeof added / sizeof *added && status == STATUS_OK; i++)
        status = vocabulary_set_token(v, (uint64_t)added[i].id, str_from(added[i].text),
                                      added[i].kind, "added", err);
    if (status == STATUS_OK)
        status = vocabulary_reserve_merges(v, SMALL_MERGES, "merges", err);
    for (size_t i = 0; i < SMALL_MERGES && status == STATUS_OK; i++)
        status = vocabulary_add_merge(v, str_from(small_merges[i][0]), str_from(small_merges[i][1]),
                                      "merges", err);
    if (status == STATUS_OK)
        status = vocabulary_add_split(v, str_from(VOCABULARY_SPLIT_QWEN2),
                                      VOCABULARY_SPLIT_ISOLATED, err);
    v->bos = SMALL_BOS;
    v->eos = SMALL_END;
    return status;
}

#endif
