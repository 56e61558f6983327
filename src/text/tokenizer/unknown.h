/*
 * What becomes of a character that no token covers: the tokens of its bytes, or unk, or nothing.
 */
#ifndef SLUICE_TEXT_TOKENIZER_UNKNOWN_H
#define SLUICE_TEXT_TOKENIZER_UNKNOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/vocabulary.h"

struct unknown {
    int32_t byte_ids[256]; /* VOCABULARY_NONE: no such token, or no byte fallback */
    int32_t unk;
    bool fuse;
};

void unknown_init(struct unknown *unknown, const struct vocabulary *vocabulary);
/* Appends what stands for bytes[n], one character. first: where the piece's ids begin in `out`; an
 * unk behind another one of the piece is left out where they are fused. False: out of memory. */
bool unknown_add(const struct unknown *unknown, const uint8_t *bytes, size_t n, size_t first,
                 struct token_list *out);
/* The byte that a token's text <0xNN> names, or -1. */
int unknown_byte_of(struct str text);

#endif
