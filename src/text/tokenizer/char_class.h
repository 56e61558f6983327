/*
 * Classes of characters, as the patterns of pre-tokenizers name them.
 */
#ifndef SLUICE_TEXT_TOKENIZER_CHAR_CLASS_H
#define SLUICE_TEXT_TOKENIZER_CHAR_CLASS_H

#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer/utf8.h"

enum char_class {
    CHAR_LETTER = 1,       /* category L */
    CHAR_NUMBER = 2,       /* N */
    CHAR_MARK = 4,         /* M */
    CHAR_SPACE = 8,        /* White_Space: U+0009..D, U+0085 and category Z */
    CHAR_NEWLINE = 16,     /* \r and \n; a space too */
    CHAR_PUNCTUATION = 32, /* P */
    CHAR_SYMBOL = 64,      /* S */
    CHAR_UPPER = 128,      /* Lu, Lt */
    CHAR_LOWER = 256,      /* Ll */
    CHAR_CONNECTOR = 512,  /* Pc */
    CHAR_CONTROL = 1024,   /* Cc, Cf, Co */
    CHAR_DIGIT = 2048,     /* Nd */
};

/* Bits of enum char_class. */
unsigned char_class_of(uint32_t c);

/* The same for ASCII from a table; filled by char_class_table(). */
struct char_classes {
    uint16_t ascii[128];
};
void char_class_table(struct char_classes *classes);

/* The class of the character at p[i] (valid UTF-8) and its length in bytes. */
static inline unsigned char_class_at(const struct char_classes *classes, const uint8_t *p, size_t n,
                                     size_t i, unsigned *length)
{
    if (p[i] < 0x80) {
        *length = 1;
        return classes->ascii[p[i]];
    }
    uint32_t c = 0;
    *length = utf8_decode(p + i, n - i, &c);
    return char_class_of(c);
}

#endif
