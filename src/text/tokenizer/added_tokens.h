/*
 * The set of added tokens (control, user-defined) that are searched in a text before it is split.
 *
 * A trie over bytes: at one place of the text it yields the longest token that the caller's test
 * lets through. Read-only after building; any thread.
 */
#ifndef SLUICE_TEXT_TOKENIZER_ADDED_TOKENS_H
#define SLUICE_TEXT_TOKENIZER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct added_node {
    uint32_t child, sibling; /* 0: none */
    int32_t id;              /* VOCABULARY_NONE: no token ends here */
    uint8_t byte;
};

struct added_tokens {
    struct added_node *nodes; /* owned; node 0 is unused */
    uint32_t count, capacity;
    uint32_t roots[256]; /* first byte -> node, 0: none */
};

void added_tokens_release(struct added_tokens *set);
/* The first of two equal texts stays; empty texts are ignored. False: out of memory. */
bool added_tokens_add(struct added_tokens *set, struct str text, int32_t id);

/* Whether token `id` may match at [begin, end). */
typedef bool (*added_test)(void *user, int32_t id, size_t begin, size_t end);

struct added_match {
    int32_t id;
    size_t begin, end;
};
/* The first match that begins at or after `from`. */
bool added_tokens_find(const struct added_tokens *set, struct str text, size_t from,
                       added_test test, void *user, struct added_match *match);

#endif
