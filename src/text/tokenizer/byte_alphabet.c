/* GPT-2's byte alphabet, computed from its rule rather than kept as a table. */
#include "text/tokenizer/byte_alphabet.h"

#include "text/tokenizer/utf8.h"

void byte_alphabet_init(struct byte_alphabet *alphabet)
{
    for (int c = 0; c < BYTE_ALPHABET_END; c++)
        alphabet->byte_of[c] = -1;
    uint16_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        uint16_t c = visible ? (uint16_t)b : next++;
        alphabet->char_of[b] = c;
        alphabet->byte_of[c] = (int16_t)b;
    }
}

bool byte_alphabet_decode(const struct byte_alphabet *alphabet, struct str text, uint8_t *out,
                          size_t *n_out)
{
    const uint8_t *p = (const uint8_t *)text.data;
    size_t n = 0;
    for (size_t i = 0; i < text.len;) {
        uint32_t c;
        unsigned length = utf8_decode(p + i, text.len - i, &c);
        if (length == 0 || c >= BYTE_ALPHABET_END || alphabet->byte_of[c] < 0)
            return false;
        out[n++] = (uint8_t)alphabet->byte_of[c];
        i += length;
    }
    *n_out = n;
    return true;
}
