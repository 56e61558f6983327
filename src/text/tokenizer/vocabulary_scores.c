/*
 * Merges out of scores.
 *
 * SentencePiece's BPE knows no list of merges: it joins the neighbouring pair whose joined text is
 * the token with the highest score, the leftmost of equals. Every pair that can ever be joined is a
 * token cut in two, so the pairs are listed here, once, and the same merging as everywhere follows.
 * What can stand beside each other are tokens and single characters; a character that is no token
 * gets an id behind the tokens (`symbols`), so that it can still be part of one.
 *
 * The alternative, looking up joined texts while merging, would need a second merging algorithm and
 * a hash of the text for every pair.
 */
#include <math.h>
#include <stdlib.h>

#include "text/tokenizer/utf8.h"
#include "text/tokenizer/vocabulary.h"

#define SCORED_TOKEN_MAX 512 /* bytes: cutting is quadratic in this */

struct scored {
    float score;
    uint32_t id;
};

struct builder {
    struct vocabulary *v;
    const char *what;
    struct error *err;
    struct scored *tokens; /* [n_tokens] highest score first */
    size_t n_tokens;
    struct strmap symbols; /* UTF-8 -> index */
    uint32_t symbols_capacity, merges_capacity;
    uint32_t *symbol_list;           /* grows */
    struct vocabulary_merge *merges; /* grows */
    uint32_t n_symbols, n_merges;
};

static enum status no_memory(const struct builder *b)
{
    return error_set(b->err, STATUS_MEMORY, "%s: out of memory", b->what);
}

static int by_score(const void *left, const void *right)
{
    const struct scored *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static enum status collect(struct builder *b)
{
    b->tokens = calloc(b->v->n_tokens, sizeof *b->tokens);
    if (!b->tokens)
        return no_memory(b);
    for (uint32_t id = 0; id < b->v->n_tokens; id++) {
        const struct vocabulary_token *token = &b->v->tokens[id];
        if (token->kind != TOKEN_NORMAL || !token->text.len)
            continue;
        if (!isfinite(token->score))
            return error_set(b->err, STATUS_MODEL, "%s: the score of token %u is not a number",
                             b->what, id);
        if (token->text.len > SCORED_TOKEN_MAX)
            return error_set(b->err, STATUS_MODEL,
                             "%s: token %u is %zu bytes long; where tokens are merged by score the "
                             "limit is %d",
                             b->what, id, token->text.len, SCORED_TOKEN_MAX);
        b->tokens[b->n_tokens++] = (struct scored){token->score, id};
    }
    if (b->n_tokens)
        qsort(b->tokens, b->n_tokens, sizeof *b->tokens, by_score);
    return STATUS_OK;
}

/* The id of one side of a cut; UINT32_MAX: it can never stand there. */
static enum status part_id(struct builder *b, struct str part, uint32_t *id)
{
    int32_t token = vocabulary_find(b->v, part);
    *id = UINT32_MAX;
    if (token != VOCABULARY_NONE && b->v->tokens[token].kind == TOKEN_NORMAL) {
        *id = (uint32_t)token;
        return STATUS_OK;
    }
    uint32_t c = 0;
    if (utf8_decode((const uint8_t *)part.data, part.len, &c) != part.len)
        return STATUS_OK;
    bool existed = false;
    if (b->n_symbols == b->symbols_capacity) {
        uint32_t capacity = b->symbols_capacity ? b->symbols_capacity * 2 : 64;
        uint32_t *list = realloc(b->symbol_list, capacity * sizeof *list);
        if (!list)
            return no_memory(b);
        b->symbol_list = list;
        b->symbols_capacity = capacity;
    }
    if (!strmap_add(&b->symbols, part, b->n_symbols, &existed))
        return no_memory(b);
    if (!existed)
        b->symbol_list[b->n_symbols++] = c;
    *id = b->v->n_tokens + (uint32_t)*strmap_get(&b->symbols, part);
    return STATUS_OK;
}

static enum status add_merge(struct builder *b, struct vocabulary_merge merge)
{
    if (b->n_merges == VOCABULARY_MERGES_MAX)
        return error_set(b->err, STATUS_MODEL, "%s: its tokens can be cut in more than %u ways",
                         b->what, VOCABULARY_MERGES_MAX);
    if (b->n_merges == b->merges_capacity) {
        uint32_t capacity = b->merges_capacity ? b->merges_capacity * 2 : 1024;
        struct vocabulary_merge *merges = realloc(b->merges, capacity * sizeof *merges);
        if (!merges)
            return no_memory(b);
        b->merges = merges;
        b->merges_capacity = capacity;
    }
    b->merges[b->n_merges++] = merge;
    return STATUS_OK;
}

static enum status cut_token(struct builder *b, uint32_t id, uint32_t rank)
{
    struct str text = b->v->tokens[id].text;
    const uint8_t *bytes = (const uint8_t *)text.data;
    enum status status = STATUS_OK;
    for (size_t i = 1; status == STATUS_OK && i < text.len; i++) {
        if ((bytes[i] & 0xc0) == 0x80)
            continue;
        uint32_t left, right;
        status = part_id(b, (struct str){text.data, i}, &left);
        if (status == STATUS_OK && left != UINT32_MAX)
            status = part_id(b, (struct str){text.data + i, text.len - i}, &right);
        if (status == STATUS_OK && left != UINT32_MAX && right != UINT32_MAX)
            status = add_merge(b, (struct vocabulary_merge){left, right, id, rank});
    }
    return status;
}

static enum status cut_all(struct builder *b)
{
    enum status status = STATUS_OK;
    uint32_t rank = 0;
    for (size_t i = 0; status == STATUS_OK && i < b->n_tokens; i++) {
        if (i && b->tokens[i].score != b->tokens[i - 1].score)
            rank++;
        status = cut_token(b, b->tokens[i].id, rank);
    }
    return status;
}

static enum status keep(struct builder *b)
{
    struct vocabulary *v = b->v;
    v->merges = arena_alloc(&v->arena, b->n_merges + (size_t)1, sizeof *v->merges);
    v->symbols = arena_alloc(&v->arena, b->n_symbols + (size_t)1, sizeof *v->symbols);
    if (!v->merges || !v->symbols)
        return no_memory(b);
    if (b->n_merges)
        memcpy(v->merges, b->merges, b->n_merges * sizeof *v->merges);
    if (b->n_symbols)
        memcpy(v->symbols, b->symbol_list, b->n_symbols * sizeof *v->symbols);
    v->n_merges = v->merges_capacity = b->n_merges;
    v->n_symbols = b->n_symbols;
    return STATUS_OK;
}

enum status vocabulary_merges_from_scores(struct vocabulary *vocabulary, const char *what,
                                          struct error *err)
{
    struct builder b = {.v = vocabulary, .what = what, .err = err};
    enum status status = collect(&b);
    if (status == STATUS_OK)
        status = cut_all(&b);
    if (status == STATUS_OK)
        status = keep(&b);
    strmap_release(&b.symbols);
    free(b.tokens);
    free(b.symbol_list);
    free(b.merges);
    return status;
}
