/*
 * UTF-8 for the tokenizer: strict decoding (no overlong forms, surrogates or values past U+10FFFF),
 * the same notion of "valid" that PCRE2 and Rust's strings have.
 */
#ifndef SLUICE_TEXT_TOKENIZER_UTF8_H
#define SLUICE_TEXT_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

/* Bytes of the sequence that starts with `lead`, or 0 if no sequence does. */
static inline unsigned utf8_length(uint8_t lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Whether `c` may be the second byte after `lead`; later bytes only need to be 0x80..0xbf. */
static inline int utf8_second_ok(uint8_t lead, uint8_t c)
{
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return c >= low && c <= high;
}

/* Decodes the code point at p (n > 0 bytes follow). Returns its length, or 0 if p starts none. */
static inline unsigned utf8_decode(const uint8_t *p, size_t n, uint32_t *out)
{
    unsigned length = utf8_length(p[0]);
    if (length == 1) {
        *out = p[0];
        return 1;
    }
    if (length == 0 || n < length || !utf8_second_ok(p[0], p[1]))
        return 0;
    uint32_t c = p[0] & (0x7fu >> length);
    for (unsigned i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    *out = c;
    return length;
}

/* True if all of it is valid UTF-8. */
static inline bool utf8_valid(struct str bytes)
{
    uint32_t c;
    for (size_t i = 0; i < bytes.len;) {
        unsigned n = utf8_decode((const uint8_t *)bytes.data + i, bytes.len - i, &c);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

/* The code point that ends at p + n, for looking backwards; 0 length if there is none. */
static inline unsigned utf8_decode_last(const uint8_t *p, size_t n, uint32_t *out)
{
    for (unsigned length = 1; length <= 4 && length <= n; length++) {
        if ((p[n - length] & 0xc0) == 0x80)
            continue;
        return utf8_decode(p + n - length, length, out) == length ? length : 0;
    }
    return 0;
}

#endif
