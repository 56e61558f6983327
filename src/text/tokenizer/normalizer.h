/*
 * Unicode normalization forms of text that may hold anything.
 *
 * Bytes that are not UTF-8 stay as they are. Working memory and time are linear in the text, also
 * for a megabyte of combining marks in the worst order. Any thread.
 */
#ifndef SLUICE_TEXT_TOKENIZER_NORMALIZER_H
#define SLUICE_TEXT_TOKENIZER_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

/* A stretch of the text that was normalized by itself: where it ends in the source and in the
 * output. Stretches follow each other without gaps; one that did not change may be long. */
struct normalizer_chunk {
    size_t source_end, output_end;
    bool changed; /* only then do inner positions not correspond */
};

struct normalizer_map {
    struct normalizer_chunk *chunks; /* owned */
    size_t count, capacity;
};
void normalizer_map_release(struct normalizer_map *map);

enum normalizer_form { NORMALIZER_C, NORMALIZER_D, NORMALIZER_KC, NORMALIZER_KD };

/* False if the text is in that form for sure (a cheap test). */
bool normalizer_needed(enum normalizer_form form, struct str text);
/* Appends the normalized text to `out`; map may be NULL. False: out of memory. */
bool normalizer_run(enum normalizer_form form, struct str text, struct buf *out,
                    struct normalizer_map *map);

#endif
