/*
 * tokenizer.json from anyone: either an error with a message, or a vocabulary whose tokenizer works.
 *
 * The first byte decides whether the text is also read as the configs beside it.
 */
#include <stdlib.h>

#include "base/json.h"
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
    const struct text_span spans[] = {{2, 20, true}};
    struct tokenizer_options options = {TOKENIZER_SPECIALS_TRUSTED, true, true};
    struct token_list ids = {0};
    struct buf text = {0};
    struct str input = STR_LIT("Hi<|im_end|> it's 1234 caf\xc3\xa9 e\xcc\x81 \xff<think>\n\n  x");
    if (tokenizer_encode(tokenizer, input, spans, 1, &options, &ids, &err) == STATUS_OK &&
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
    json_t *config = NULL;
    if (size == 0)
        return 0;
    struct str text = {(const char *)data + 1, size - 1};
    if (data[0] & 1 && json_parse(text, JSON_DEPTH_DEFAULT, "config", &config, &err) != STATUS_OK)
        config = NULL;
    struct vocabulary_configs configs = {config, config, config};
    if (vocabulary_from_json_text(text, "fuzz", &configs, &vocabulary, &err) == STATUS_OK) {
        use(&vocabulary);
        vocabulary_release(&vocabulary);
    } else if (!err.message[0]) {
        abort();
    }
    json_decref(config);
    return 0;
}
