/*
 * SentencePiece's precompiled normalization map: strings and what replaces them.
 *
 * The bytes are those of the model file: a length, a double-array trie (Darts-clone's layout), and a
 * pool of NUL-terminated replacements. They are checked as they are walked, so any bytes will do.
 */
#ifndef SLUICE_TEXT_TOKENIZER_CHARSMAP_H
#define SLUICE_TEXT_TOKENIZER_CHARSMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

struct charsmap {
    uint32_t *units; /* [n_units] owned */
    size_t n_units;
    struct str pool; /* borrowed */
};

/* Borrows `bytes`. STATUS_MODEL if they cannot be a map. */
enum status charsmap_init(struct charsmap *map, struct str bytes, struct error *err);
void charsmap_release(struct charsmap *map);

/* Appends `text` (valid UTF-8) to out, replaced: at each place the longest string that the map
 * knows. graphemes: instead whole graphemes of up to 5 bytes, else their characters, each by the
 * shortest string at its start, which is how Hugging Face's library reads the map. False: out of
 * memory. */
bool charsmap_run(const struct charsmap *map, struct str text, bool graphemes, struct buf *out);

#endif
