/*
 * WordPiece: a word is cut into the longest token that starts it, the longest that continues it, and
 * so on; a word for which that ends nowhere is unknown as a whole.
 *
 * Read-only after wordpiece_init() (any thread).
 */
#ifndef SLUICE_TEXT_TOKENIZER_WORDPIECE_H
#define SLUICE_TEXT_TOKENIZER_WORDPIECE_H

#include <stdbool.h>
#include <stdint.h>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/trie.h"
#include "text/tokenizer/vocabulary.h"

struct wordpiece {
    struct trie starting, continuing; /* without the marks */
    int32_t unk;
    uint32_t chars_max;
};

bool wordpiece_init(struct wordpiece *wordpiece, const struct vocabulary *vocabulary);
void wordpiece_release(struct wordpiece *wordpiece);
/* Appends the ids of one word (valid UTF-8). False: out of memory. */
bool wordpiece_encode(const struct wordpiece *wordpiece, struct str word, struct token_list *out);

#endif
