/*
 * GPT-2's printable alphabet: byte-level BPE vocabularies store each byte as one character.
 *
 * Bytes that are visible in Latin-1 (0x21..0x7e, 0xa1..0xac, 0xae..0xff) stand for themselves; the
 * other 68 are U+0100, U+0101, ... in order. So every character is one or two UTF-8 bytes.
 */
#ifndef SLUICE_TEXT_TOKENIZER_BYTE_ALPHABET_H
#define SLUICE_TEXT_TOKENIZER_BYTE_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

#define BYTE_ALPHABET_END 0x144 /* one past the highest character used */

struct byte_alphabet {
    int16_t byte_of[BYTE_ALPHABET_END]; /* character -> byte, or -1 */
    uint16_t char_of[256];
};

void byte_alphabet_init(struct byte_alphabet *alphabet);
/* Writes the bytes that `text` stands for; `out` has room for text.len. False (out unspecified) if
 * some character is not of the alphabet. */
bool byte_alphabet_decode(const struct byte_alphabet *alphabet, struct str text, uint8_t *out,
                          size_t *n_out);

#endif
