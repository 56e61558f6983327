/*
 * Unigram by dynamic programming: cells[i] is the best cut of the first i bytes.
 *
 * A character that is no token by itself may always be passed as unknown, at a score well below
 * every token's (10 below the lowest, as in SentencePiece). Of equal sums the one found first stays,
 * which is the one whose last token begins earliest. SentencePiece adds in single precision, Hugging
 * Face in double; the sums differ in their last bits and so, between near ties, does the cut. To be
 * equal to SentencePiece, single precision has to sum over the whole text, as it does.
 */
#include "text/tokenizer/unigram.h"

#include <math.h>
#include <stdlib.h>

#include "text/tokenizer/utf8.h"

#define UNK_PENALTY 10.0f
#define UNREACHED   UINT32_MAX

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "tokenizer: out of memory");
}

enum status unigram_init(struct unigram *unigram, const struct vocabulary *vocabulary,
                         struct error *err)
{
    uint32_t n = vocabulary->n_tokens;
    *unigram = (struct unigram){.float_sums = vocabulary->float_scores};
    unknown_init(&unigram->unknown, vocabulary);
    struct trie_item *items = calloc(n, sizeof *items);
    unigram->scores = calloc(n, sizeof *unigram->scores);
    if (!items || !unigram->scores) {
        free(items);
        return no_memory(err);
    }
    size_t count = 0;
    float lowest = 0;
    for (uint32_t id = 0; id < n; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        if (token->kind != TOKEN_NORMAL)
            continue;
        if (!isfinite(token->score)) {
            free(items);
            return error_set(err, STATUS_MODEL, "the score of token %u is not a number", id);
        }
        if (count == 0 || token->score < lowest)
            lowest = token->score;
        if (count == 0 || token->score > unigram->highest_score)
            unigram->highest_score = token->score;
        unigram->scores[id] = token->score;
        items[count++] = (struct trie_item){token->text, (int32_t)id};
    }
    unigram->unk_score = lowest - UNK_PENALTY;
    bool ok = trie_build(&unigram->trie, items, count);
    free(items);
    if (!ok)
        return no_memory(err);
    /* The trie borrows no text: its nodes hold the bytes. */
    return STATUS_OK;
}

void unigram_release(struct unigram *unigram)
{
    trie_release(&unigram->trie);
    free(unigram->scores);
    *unigram = (struct unigram){0};
}

double unigram_pass(const struct unigram *unigram, double sum, size_t length)
{
    /* SentencePiece's score for one, which no other cut can beat. */
    sum += (float)length * unigram->highest_score - 0.1;
    return unigram->float_sums ? (float)sum : sum;
}

void unigram_scratch_release(struct unigram_scratch *scratch)
{
    free(scratch->cells);
    *scratch = (struct unigram_scratch){0};
}

static inline void offer(struct unigram_cell *cells, uint32_t begin, size_t end, float score,
                         int32_t id, bool rounded)
{
    /* SentencePiece keeps sums in single precision but compares a new one before rounding it. */
    double sum = cells[begin].score + score;
    struct unigram_cell *cell = &cells[end];
    if (cell->begin == UNREACHED) {
        *cell = (struct unigram_cell){rounded ? (float)sum : sum, begin, id, INFINITY};
    } else if (sum > cell->score) {
        float lead = (float)(sum - cell->score);
        *cell = (struct unigram_cell){rounded ? (float)sum : sum, begin, id, lead};
    } else if (!rounded && cell->score - sum < cell->lead) {
        cell->lead = (float)(cell->score - sum);
    }
}

static inline void fill(const struct unigram *unigram, struct unigram_cell *cells, struct str text,
                        double sum, bool rounded)
{
    const uint8_t *bytes = (const uint8_t *)text.data;
    cells[0] = (struct unigram_cell){.score = sum};
    for (size_t i = 1; i <= text.len; i++)
        cells[i].begin = UNREACHED;
    for (size_t i = 0; i < text.len;) {
        size_t length = utf8_length(bytes[i]);
        bool alone = false;
        uint32_t node = TRIE_ROOT;
        for (size_t end = i; end < text.len;) {
            node = trie_child(&unigram->trie, node, bytes[end++]);
            if (node == TRIE_END)
                break;
            int32_t id = trie_id(&unigram->trie, node);
            if (id == TRIE_NONE)
                continue;
            offer(cells, (uint32_t)i, end, unigram->scores[id], id, rounded);
            alone |= end - i == length;
        }
        if (!alone)
            offer(cells, (uint32_t)i, i + length, unigram->unk_score, VOCABULARY_NONE, rounded);
        i += length;
    }
}

static bool reserve(struct unigram_scratch *scratch, size_t text_len)
{
    if (text_len + 1 > scratch->capacity) {
        size_t capacity = text_len + 1 + text_len / 2;
        struct unigram_cell *cells = realloc(scratch->cells, capacity * sizeof *cells);
        if (!cells)
            return false;
        scratch->cells = cells;
        scratch->capacity = capacity;
    }
    return true;
}

/* Turns the chain around: each cell's begin becomes the end of the token that starts there. Returns
 * the smallest lead on the way, 0 if it has a character without a token. */
static float turn_around(struct unigram_cell *cells, size_t text_len)
{
    uint32_t end = (uint32_t)text_len, next = UNREACHED;
    int32_t next_id = VOCABULARY_NONE;
    float margin = INFINITY;
    for (;;) {
        uint32_t begin = cells[end].begin;
        int32_t id = cells[end].id;
        cells[end].begin = next;
        cells[end].id = next_id;
        if (end == 0)
            return margin;
        float lead = id == VOCABULARY_NONE ? 0 : cells[end].lead;
        margin = lead < margin ? lead : margin;
        next = end;
        next_id = id;
        end = begin;
    }
}

static bool put_ids(const struct unigram *unigram, const struct unigram_cell *cells,
                    struct str text, struct token_list *out)
{
    size_t first = out->count;
    for (uint32_t i = 0; i < text.len; i = cells[i].begin) {
        int32_t id = cells[i].id;
        const uint8_t *bytes = (const uint8_t *)text.data + i;
        bool ok = id == VOCABULARY_NONE
                      ? unknown_add(&unigram->unknown, bytes, cells[i].begin - i, first, out)
                      : token_list_add(out, id);
        if (!ok)
            return false;
    }
    return true;
}

bool unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, struct str text,
                    double *sum, struct token_list *out)
{
    if (!reserve(scratch, text.len))
        return false;
    if (unigram->float_sums)
        fill(unigram, scratch->cells, text, *sum, true);
    else
        fill(unigram, scratch->cells, text, *sum, false);
    *sum = scratch->cells[text.len].score;
    turn_around(scratch->cells, text.len);
    return put_ids(unigram, scratch->cells, text, out);
}

bool unigram_measure(const struct unigram *unigram, struct unigram_scratch *scratch,
                     struct str text, float *margin, struct token_list *out)
{
    if (!reserve(scratch, text.len))
        return false;
    fill(unigram, scratch->cells, text, 0, false);
    *margin = turn_around(scratch->cells, text.len);
    return put_ids(unigram, scratch->cells, text, out);
}

bool unigram_holds(const struct unigram *unigram, double sum, float margin, size_t text_len)
{
    /* No sum inside the text is farther from 0 than `reach`, so each of at most text_len additions
     * is off by reach * 2^-24; both cuts are, and one more for the comparison. */
    double largest = fmax(fabs((double)unigram->unk_score), fabs((double)unigram->highest_score));
    double reach = fabs(sum) + (double)text_len * largest;
    return margin > 2 * (double)(text_len + 1) * reach * 0x1p-24;
}

double unigram_sum(const struct unigram *unigram, double sum, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum = (float)(sum + unigram->scores[ids[i]]);
    return sum;
}
