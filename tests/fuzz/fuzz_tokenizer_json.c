/*
 * tokenizer.json from anyone: either an error with a message, or a vocabulary whose tokenizer works.
 *
 * The first byte decides whether the text is also read as the configs beside it.
 */
#include <stdlib.h>

#include "base/json.h"
#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"
#include "use_vocabulary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
        const struct text_span spans[] = {{2, 20, true}};
        use_vocabulary(&vocabulary,
                       STR_LIT("Hi<|im_end|> it's 1234 caf\xc3\xa9 e\xcc\x81 \xff<think>\n\n  x"),
                       spans, 1, TOKENIZER_SPECIALS_TRUSTED);
        vocabulary_release(&vocabulary);
    } else if (!err.message[0]) {
        abort();
    }
    json_decref(config);
    return 0;
}
