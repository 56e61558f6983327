/* tokenizer.model from anyone: an error with a message, or a vocabulary whose tokenizer works. */
#include <stdlib.h>

#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct vocabulary *vocabulary)
{
    struct error err = {0};
    struct tokenizer *tokenizer;
    if (tokenizer_create(vocabulary, &tokenizer, &err) != STATUS_OK) {
        if (!err.message[0])
            abort();
        return;
    }
    struct tokenizer_options options = {TOKENIZER_SPECIALS_ALL, true, true};
    struct token_list ids = {0};
    struct buf text = {0};
    struct str input = STR_LIT("  Hi<s> it's 1234 caf\xc3\xa9 e\xcc\x81 \xff\xe2\x96\x81\n\n  x ");
    if (tokenizer_encode(tokenizer, input, NULL, 0, &options, &ids, &err) == STATUS_OK &&
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text, &err) != STATUS_OK)
        abort();
    buf_release(&text);
    token_list_release(&ids);
    tokenizer_free(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct vocabulary vocabulary;
    struct str bytes = {(const char *)data, size};
    if (vocabulary_from_model_bytes(bytes, "fuzz", NULL, &vocabulary, &err) == STATUS_OK) {
        use(&vocabulary);
        vocabulary_release(&vocabulary);
    } else if (!err.message[0]) {
        abort();
    }
    return 0;
}
