/*
 * Token bytes back to text.
 *
 * Tokens cut code points anywhere, so bytes are held until they form one. What cannot become one is
 * replaced the way the reference does it (Unicode 3.9, "maximal subpart"): each longest beginning of
 * a sequence that could still have been valid becomes one U+FFFD, every other stray byte one too.
 */
#include "text/tokenizer/tokenizer_internal.h"
#include "text/tokenizer/utf8.h"

#define REPLACEMENT STR_LIT("\xef\xbf\xbd")
#define UNK_SURFACE STR_LIT(" \xe2\x81\x87 ") /* what SentencePiece writes for unk */

static bool extends(const struct detokenizer *d, uint8_t c)
{
    if (d->n_held == 1)
        return utf8_second_ok(d->held[0], c);
    return (c & 0xc0) == 0x80;
}

static void push_byte(struct detokenizer *d, uint8_t c, struct buf *out)
{
    if (d->n_held) {
        if (extends(d, c)) {
            d->held[d->n_held++] = c;
            if (d->n_held == utf8_length(d->held[0])) {
                buf_append(out, d->held, d->n_held);
                d->n_held = 0;
            }
            return;
        }
        detokenizer_flush(d, out);
    }
    unsigned length = utf8_length(c);
    if (length == 1)
        buf_append_char(out, (char)c);
    else if (length == 0)
        buf_append_str(out, REPLACEMENT);
    else
        d->held[d->n_held++] = c;
}

void detokenizer_push(struct detokenizer *detokenizer, struct str bytes, struct buf *out)
{
    for (size_t i = 0; i < bytes.len; i++)
        push_byte(detokenizer, (uint8_t)bytes.data[i], out);
}

void detokenizer_flush(struct detokenizer *detokenizer, struct buf *out)
{
    if (detokenizer->n_held)
        buf_append_str(out, REPLACEMENT);
    detokenizer->n_held = 0;
}

/* --- what a token stands for, where that depends on its neighbours --- */

/* WordPiece's decoder takes the space from before punctuation and contractions again. */
static bool cleaned(struct str text)
{
    static const char *const without[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        if (str_starts(text, str_from(without[i])))
            return true;
    }
    return false;
}

static void append_replaced(struct str text, struct str from, struct str to, struct buf *out)
{
    for (size_t i = 0; i < text.len;) {
        size_t at = from.len ? str_find(text, from, i) : SIZE_MAX;
        size_t end = at == SIZE_MAX ? text.len : at;
        buf_append(out, text.data + i, end - i);
        if (at != SIZE_MAX)
            buf_append_str(out, to);
        i = at == SIZE_MAX ? text.len : at + from.len;
    }
}

void tokenizer_token_text(const struct vocabulary_decoder *decoder, const struct token_entry *entry,
                          bool first, bool last, struct buf *out)
{
    struct str text = entry->text;
    if (decoder->words) {
        bool continues = decoder->word_prefix.len && str_starts(text, decoder->word_prefix);
        if (continues && !first)
            text = (struct str){text.data + decoder->word_prefix.len,
                                text.len - decoder->word_prefix.len};
        else if (!first && !(decoder->cleanup && cleaned(text)))
            buf_append_char(out, ' ');
    }
    if (decoder->metaspace)
        append_replaced(text, METASPACE,
                        first && decoder->drop_first_spaces ? STR_LIT("") : STR_LIT(" "), out);
    else if (decoder->word_suffix.len)
        append_replaced(text, decoder->word_suffix, last ? STR_LIT("") : STR_LIT(" "), out);
    else
        buf_append_str(out, text);
}

struct decoding {
    const struct tokenizer *tokenizer;
    struct detokenizer detokenizer;
    struct buf token;
    struct buf *out;
    bool first; /* nothing was written yet */
};

static void put_token(struct decoding *d, int32_t id, bool last)
{
    const struct tokenizer *t = d->tokenizer;
    const struct vocabulary_decoder *decoder = &t->decoder;
    const struct token_entry *entry = &t->tokens[id];
    bool special = d->first || last || decoder->words;
    if (decoder->sentencepiece && id == t->unk) {
        detokenizer_push(&d->detokenizer, UNK_SURFACE, d->out);
    } else if (t->kind == VOCABULARY_BYTE_BPE || entry->kind == TOKEN_BYTE || !special) {
        detokenizer_push(&d->detokenizer, tokenizer_piece(t, id), d->out);
    } else if (entry->text.data) {
        buf_clear(&d->token);
        tokenizer_token_text(decoder, entry, d->first, last, &d->token);
        d->out->failed |= d->token.failed;
        detokenizer_push(&d->detokenizer, buf_str(&d->token), d->out);
    }
    d->first = false;
}

static void strip_ends(const struct vocabulary_decoder *decoder, size_t start, struct buf *out)
{
    size_t n = 0;
    while (n < decoder->strip_start && start + n < out->len && out->data[start + n] == ' ')
        n++;
    if (n) {
        memmove(out->data + start, out->data + start + n, out->len - start - n);
        out->len -= n;
    }
    for (n = 0; n < decoder->strip_end && out->len > start && out->data[out->len - 1] == ' '; n++)
        out->len--;
    if (out->data)
        out->data[out->len] = '\0';
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool skip_control, struct buf *out, struct error *err)
{
    size_t start = out->len, last = count;
    struct decoding d = {.tokenizer = tokenizer, .out = out, .first = true};
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= tokenizer_count(tokenizer))
            return error_set(err, STATUS_USAGE,
                             "token %zu is %d, which is outside the vocabulary of %u tokens", i,
                             ids[i], tokenizer_count(tokenizer));
    }
    while (last && skip_control && tokenizer_is_control(tokenizer, ids[last - 1]))
        last--;
    for (size_t i = 0; i < last; i++) {
        if (!skip_control || !tokenizer_is_control(tokenizer, ids[i]))
            put_token(&d, ids[i], i + 1 == last);
    }
    detokenizer_flush(&d.detokenizer, out);
    buf_release(&d.token);
    if (out->failed)
        return error_set(err, STATUS_MEMORY, "decoding: out of memory");
    strip_ends(&tokenizer->decoder, start, out);
    return STATUS_OK;
}
