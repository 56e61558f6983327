/* tokenizer.model from anyone: an error with a message, or a vocabulary whose tokenizer works. */
#include <stdlib.h>

#include "format/vocabulary.h"
#include "text/tokenizer/tokenizer.h"
#include "use_vocabulary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct vocabulary vocabulary;
    struct str bytes = {(const char *)data, size};
    if (vocabulary_from_model_bytes(bytes, "fuzz", NULL, &vocabulary, &err) == STATUS_OK) {
        use_vocabulary(&vocabulary,
                       STR_LIT("  Hi<s> it's 1234 caf\xc3\xa9 e\xcc\x81 \xff\xe2\x96\x81\n\n  x "),
                       NULL, 0, TOKENIZER_SPECIALS_ALL);
        vocabulary_release(&vocabulary);
    } else if (!err.message[0]) {
        abort();
    }
    return 0;
}
