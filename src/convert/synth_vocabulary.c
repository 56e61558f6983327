/*
 * A made-up vocabulary for byte-level BPE of any size.
 *
 * Ids 0..255 are the bytes. Then come, until the plain tokens are used up: pairs of letters, pairs
 * and single letters after a space, three letters after a space and within a word, and four letters
 * (two pairs, in a scattered order, so that a part of them is spread over the alphabet). Every token
 * past the bytes is one merge of two earlier ones, listed in the order of ids.
 */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "convert/synth_shapes.h"
#include "format/gguf_writer.h"
#include "text/tokenizer/byte_alphabet.h"
#include "text/tokenizer/vocabulary.h"

#define LETTERS 26u
#define PAIRS   (LETTERS * LETTERS)
#define TRIPLES (PAIRS * LETTERS)
#define FOURS   (PAIRS * PAIRS)
#define SCATTER 7919u      /* shares no factor with FOURS */
#define SPACE   "\xc4\xa0" /* U+0120, the space of GPT-2's alphabet */

struct piece {
    char left[8], right[8];
};

static void letters(uint32_t number, unsigned n, char *out)
{
    out[n] = 0;
    while (n-- > 0) {
        out[n] = (char)('a' + number % LETTERS);
        number /= LETTERS;
    }
}

/* The two parts of plain token 256 + index. */
static struct piece piece_at(uint32_t index)
{
    struct piece p;
    char text[8];
    if (index < PAIRS) {
        letters(index / LETTERS, 1, p.left);
        letters(index % LETTERS, 1, p.right);
        return p;
    }
    index -= PAIRS;
    if (index < PAIRS + LETTERS) {
        memcpy(p.left, SPACE, sizeof SPACE);
        letters(index < PAIRS ? index : index - PAIRS, index < PAIRS ? 2 : 1, p.right);
        return p;
    }
    index -= PAIRS + LETTERS;
    if (index < 2 * TRIPLES) {
        bool spaced = index < TRIPLES;
        uint32_t number = spaced ? index : index - TRIPLES;
        letters(number / LETTERS, 2, text);
        snprintf(p.left, sizeof p.left, "%s%s", spaced ? SPACE : "", text);
        letters(number % LETTERS, 1, p.right);
        return p;
    }
    uint32_t number = (uint32_t)((uint64_t)(index - 2 * TRIPLES) * SCATTER % FOURS);
    letters(number / PAIRS, 2, p.left);
    letters(number % PAIRS, 2, p.right);
    return p;
}

static const struct synth_special *special_at(const struct synth_family *family, uint32_t id)
{
    for (uint32_t i = 0; i < family->n_specials; i++)
        if (family->specials[i].id == id)
            return &family->specials[i];
    return NULL;
}

static void write_tokens(struct gguf_writer *w, const struct synth_shape *shape)
{
    struct byte_alphabet alphabet;
    char text[64];
    byte_alphabet_init(&alphabet);
    gguf_writer_array(w, "tokenizer.ggml.tokens", GGUF_STRING, shape->n_vocab);
    for (uint32_t id = 0; id < shape->n_vocab; id++) {
        if (id < 256) {
            uint16_t c = alphabet.char_of[id];
            if (c < 0x80)
                snprintf(text, sizeof text, "%c", c);
            else
                snprintf(text, sizeof text, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 63));
        } else if (id < shape->first_special) {
            struct piece piece = piece_at(id - 256);
            snprintf(text, sizeof text, "%s%s", piece.left, piece.right);
        } else {
            const struct synth_special *s = special_at(shape->family, id - shape->first_special);
            if (s)
                snprintf(text, sizeof text, "%s", s->text);
            else
                snprintf(text, sizeof text, "<|reserved_%u|>", id - shape->first_special);
        }
        gguf_writer_item_str(w, str_from(text));
    }
}

static void write_kinds(struct gguf_writer *w, const struct synth_shape *shape)
{
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, shape->n_vocab);
    for (uint32_t id = 0; id < shape->n_vocab; id++) {
        const struct synth_special *s =
            id < shape->first_special ? NULL : special_at(shape->family, id - shape->first_special);
        gguf_writer_item_u32(w, id < shape->first_special ? TOKEN_NORMAL
                                : s && s->plain           ? TOKEN_USER_DEFINED
                                                          : TOKEN_CONTROL);
    }
}

static void write_id(struct gguf_writer *w, const struct synth_shape *shape, const char *key,
                     int32_t id)
{
    if (id >= 0)
        gguf_writer_u32(w, key, shape->first_special + (uint32_t)id);
}

void synth_vocabulary(struct gguf_writer *w, const struct synth_shape *shape)
{
    const struct synth_family *family = shape->family;
    gguf_writer_str(w, "tokenizer.ggml.model", STR_LIT("gpt2"));
    gguf_writer_str(w, "tokenizer.ggml.pre", str_from(family->pre));
    write_tokens(w, shape);
    write_kinds(w, shape);
    uint32_t n_merges = shape->first_special - 256;
    gguf_writer_array(w, "tokenizer.ggml.merges", GGUF_STRING, n_merges);
    for (uint32_t i = 0; i < n_merges; i++) {
        char line[24];
        struct piece piece = piece_at(i);
        snprintf(line, sizeof line, "%s %s", piece.left, piece.right);
        gguf_writer_item_str(w, str_from(line));
    }
    write_id(w, shape, "tokenizer.ggml.bos_token_id", family->bos);
    write_id(w, shape, "tokenizer.ggml.eos_token_id", family->eos);
    write_id(w, shape, "tokenizer.ggml.eot_token_id", family->eot);
    write_id(w, shape, "tokenizer.ggml.padding_token_id", family->pad);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", family->add_bos);
    gguf_writer_str(w, "tokenizer.chat_template", str_from(family->chat_template));
}
