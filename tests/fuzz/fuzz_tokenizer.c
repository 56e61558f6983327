/*
 * Any bytes through a small vocabulary, with spans taken from the input as well: the pieces of the
 * ids are the bytes, decoding valid UTF-8 gives it back, streaming equals decoding, and no control
 * token comes out of text that is not trusted.
 */
#include <stdlib.h>

#include "../unit/text/small_vocabulary.h"
#include "text/tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tokenizer *tokenizer_once(void)
{
    static struct tokenizer *tokenizer;
    struct error err = {0};
    struct vocabulary vocabulary;
    if (tokenizer)
        return tokenizer;
    if (small_vocabulary(&vocabulary, &err) != STATUS_OK ||
        vocabulary_finish(&vocabulary, &err) != STATUS_OK ||
        tokenizer_create(&vocabulary, &tokenizer, &err) != STATUS_OK)
        abort();
    vocabulary_release(&vocabulary);
    return tokenizer;
}

static bool is_utf8(struct str text)
{
    for (size_t i = 0; i < text.len;) {
        uint32_t c;
        unsigned n = utf8_decode((const uint8_t *)text.data + i, text.len - i, &c);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

static void check(const struct tokenizer *t, struct str text, const struct token_list *ids,
                  const struct text_span *trusted)
{
    struct error err = {0};
    struct buf bytes = {0}, streamed = {0}, decoded = {0};
    struct detokenizer d = {0};
    for (size_t i = 0; i < ids->count; i++) {
        struct str piece = tokenizer_piece(t, ids->ids[i]);
        bool inside =
            trusted && bytes.len >= trusted->begin && bytes.len + piece.len <= trusted->end;
        if (tokenizer_is_control(t, ids->ids[i]) && !inside)
            abort();
        buf_append_str(&bytes, piece);
        detokenizer_push(&d, piece, &streamed);
    }
    detokenizer_flush(&d, &streamed);
    if (!str_eq(buf_str(&bytes), text))
        abort();
    if (tokenizer_decode(t, ids->ids, ids->count, false, &decoded, &err) != STATUS_OK ||
        !str_eq(buf_str(&decoded), buf_str(&streamed)) || !is_utf8(buf_str(&decoded)))
        abort();
    if (is_utf8(text) && !str_eq(buf_str(&decoded), text))
        abort();
    buf_release(&bytes);
    buf_release(&streamed);
    buf_release(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tokenizer *t = tokenizer_once();
    if (size < 2)
        return 0;
    struct str text = {(const char *)data + 2, size - 2};
    struct text_span span = {data[0], (size_t)data[0] + data[1], true};
    if (span.begin > text.len)
        span.begin = text.len;
    if (span.end > text.len)
        span.end = text.len;
    struct error err = {0};
    struct token_list ids = {0};
    struct tokenizer_options options = {.specials = TOKENIZER_SPECIALS_TRUSTED};
    if (tokenizer_encode(t, text, &span, 1, &options, &ids, &err) != STATUS_OK)
        abort();
    check(t, text, &ids, &span);
    ids.count = 0;
    options.specials = TOKENIZER_SPECIALS_NONE;
    if (tokenizer_encode(t, text, NULL, 0, &options, &ids, &err) != STATUS_OK)
        abort();
    check(t, text, &ids, NULL);
    token_list_release(&ids);
    return 0;
}
