/*
 * WordPiece over two tries. tokenizer.json marks the tokens that continue a word ("##ing"), GGUF
 * those that start one (U+2581); without the mark both are the same two sets.
 */
#include "text/tokenizer/wordpiece.h"

#include <stdlib.h>

/* Which of the two sets a token belongs to, and its text without the mark. */
static bool continues(const struct vocabulary *v, struct str *text)
{
    bool by_start = v->starting_word.len > 0;
    struct str mark = by_start ? v->starting_word : v->continuing_word;
    bool marked = mark.len && str_starts(*text, mark);
    if (marked)
        *text = (struct str){text->data + mark.len, text->len - mark.len};
    return by_start ? !marked : marked;
}

bool wordpiece_init(struct wordpiece *wordpiece, const struct vocabulary *vocabulary)
{
    uint32_t n = vocabulary->n_tokens, n_starting = 0, n_continuing = 0;
    *wordpiece =
        (struct wordpiece){.unk = vocabulary->unk, .chars_max = vocabulary->word_chars_max};
    struct trie_item *starting = calloc(n, sizeof *starting);
    struct trie_item *continuing = calloc(n, sizeof *continuing);
    for (uint32_t id = 0; starting && continuing && id < n; id++) {
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        if (token->kind != TOKEN_NORMAL || !token->text.data)
            continue;
        struct str text = token->text;
        if (continues(vocabulary, &text))
            continuing[n_continuing++] = (struct trie_item){text, (int32_t)id};
        else
            starting[n_starting++] = (struct trie_item){text, (int32_t)id};
    }
    bool ok = starting && continuing && trie_build(&wordpiece->starting, starting, n_starting) &&
              trie_build(&wordpiece->continuing, continuing, n_continuing);
    free(starting);
    free(continuing);
    return ok;
}

void wordpiece_release(struct wordpiece *wordpiece)
{
    trie_release(&wordpiece->starting);
    trie_release(&wordpiece->continuing);
}

static bool too_long(const struct wordpiece *wordpiece, struct str word)
{
    size_t chars = 0;
    for (size_t i = 0; i < word.len && chars <= wordpiece->chars_max; i++)
        chars += ((uint8_t)word.data[i] & 0xc0) != 0x80;
    return chars > wordpiece->chars_max;
}

bool wordpiece_encode(const struct wordpiece *wordpiece, struct str word, struct token_list *out)
{
    size_t first = out->count;
    bool known = !too_long(wordpiece, word);
    for (size_t at = 0; known && at < word.len;) {
        const struct trie *trie = at ? &wordpiece->continuing : &wordpiece->starting;
        uint32_t node = TRIE_ROOT;
        size_t best_end = at;
        int32_t best = TRIE_NONE;
        for (size_t i = at; i < word.len;) {
            node = trie_child(trie, node, (uint8_t)word.data[i++]);
            if (node == TRIE_END)
                break;
            if (trie_id(trie, node) != TRIE_NONE) {
                best = trie_id(trie, node);
                best_end = i;
            }
        }
        known = best != TRIE_NONE;
        at = best_end;
        if (known && !token_list_add(out, best))
            return false;
    }
    if (known)
        return true;
    out->count = first;
    return wordpiece->unk == VOCABULARY_NONE || token_list_add(out, wordpiece->unk);
}
