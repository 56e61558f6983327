/* A vocabulary that was read must make a tokenizer that works, or an error with a message. */
#ifndef SLUICE_TESTS_USE_VOCABULARY_H
#define SLUICE_TESTS_USE_VOCABULARY_H

#include <stdlib.h>

#include "text/tokenizer/tokenizer.h"

static inline void use_vocabulary(const struct vocabulary *vocabulary, struct str text,
                                  const struct text_span *spans, size_t n_spans,
                                  enum tokenizer_specials specials)
{
    struct error err = {0};
    struct tokenizer *tokenizer;
    if (tokenizer_create(vocabulary, &tokenizer, &err) != STATUS_OK) {
        if (!err.message[0])
            abort();
        return;
    }
    struct tokenizer_options options = {specials, true, true};
    struct token_list ids = {0};
    struct buf back = {0};
    if (tokenizer_encode(tokenizer, text, spans, n_spans, &options, &ids, &err) == STATUS_OK &&
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &err) != STATUS_OK)
        abort();
    buf_release(&back);
    token_list_release(&ids);
    tokenizer_free(tokenizer);
}

#endif
