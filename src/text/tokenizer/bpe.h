/*
 * Byte pair encoding of one piece: repeatedly joins the neighbouring pair with the lowest rank (the
 * leftmost of equals) until no pair has a rank. It begins with the piece's bytes (byte-level) or its
 * characters; see struct bpe_symbols.
 *
 * struct bpe is read-only after bpe_init() (any thread); struct bpe_scratch belongs to one call.
 */
#ifndef SLUICE_TEXT_TOKENIZER_BPE_H
#define SLUICE_TEXT_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer/byte_alphabet.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/unknown.h"
#include "text/tokenizer/vocabulary.h"

struct bpe_pair {
    uint64_t key; /* left << 32 | right */
    uint32_t rank, result;
};

/* Character -> id of the symbol that merging begins with. */
struct bpe_chars {
    struct bpe_char {
        uint32_t c;
        int32_t id;
    } * entries;     /* [capacity] open addressing; id VOCABULARY_NONE: empty. Owned */
    size_t capacity; /* a power of two */
    size_t count;
    int32_t ascii[128];
};

/* What a piece begins as. `last` is for the last symbol of a piece, where a mark ends words. */
struct bpe_symbols {
    bool chars; /* else bytes */
    bool has_last;
    int32_t bytes[256], last_bytes[256]; /* VOCABULARY_NONE: no token (and no unk) */
    struct bpe_chars all, last;
    struct unknown unknown;
    uint32_t n_tokens;          /* ids from here on are characters without a token */
    const uint32_t *characters; /* owned: those characters */
};

struct bpe {
    struct bpe_pair *pairs; /* [capacity] open addressing; rank UINT32_MAX: empty. Owned */
    size_t capacity;        /* a power of two */
    unsigned shift;
    struct bpe_symbols symbols;
};

struct bpe_node {
    uint32_t id, prev, next;
    uint32_t rank, result; /* of the pair with the next node; UINT32_MAX: none */
};

struct bpe_scratch {
    struct bpe_node *nodes; /* owned */
    size_t nodes_capacity;
    uint64_t *heap; /* owned; rank << 32 | node */
    size_t heap_count, heap_capacity;
    uint32_t *ids; /* owned */
    size_t ids_capacity;
};

/* False: out of memory. Merges that would make a control token are left out: text must not turn
 * into one. */
bool bpe_init(struct bpe *bpe, const struct vocabulary *vocabulary,
              const struct byte_alphabet *alphabet);
void bpe_release(struct bpe *bpe);

/* Appends the ids of bytes[n] to `out`. n < 2^31; valid UTF-8 where symbols are characters. False:
 * out of memory. */
bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *bytes, size_t n,
                struct token_list *out);
void bpe_scratch_release(struct bpe_scratch *scratch);

#endif
