/*
 * Token bytes back to text.
 *
 * Tokens cut code points anywhere, so bytes are held until they form one. What cannot become one is
 * replaced the way the reference does it (Unicode 3.9, "maximal subpart"): each longest beginning of
 * a sequence that could still have been valid becomes one U+FFFD, every other stray byte one too.
 */
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/utf8.h"

#define REPLACEMENT STR_LIT("\xef\xbf\xbd")

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

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool skip_control, struct buf *out, struct error *err)
{
    size_t start = out->len;
    struct detokenizer detokenizer = {0};
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= tokenizer_count(tokenizer)) {
            out->len = start;
            return error_set(err, STATUS_USAGE,
                             "token %zu is %d, which is outside the vocabulary of %u tokens", i,
                             ids[i], tokenizer_count(tokenizer));
        }
        if (!skip_control || !tokenizer_is_control(tokenizer, ids[i]))
            detokenizer_push(&detokenizer, tokenizer_piece(tokenizer, ids[i]), out);
    }
    detokenizer_flush(&detokenizer, out);
    return out->failed ? error_set(err, STATUS_MEMORY, "decoding: out of memory") : STATUS_OK;
}
