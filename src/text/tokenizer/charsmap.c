/*
 * A unit of the double array, 32 bits:
 *
 *     bit 31        this unit is a leaf: bits 0..30 are its value
 *     bits 10..30   offset to the children, shifted left by 8 more if bit 9 is set
 *     bit 8         one of the children is a leaf (a string ends here)
 *     bits 0..7     the byte that leads here
 */
#include "text/tokenizer/charsmap.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "text/tokenizer/utf8.h"

#define GRAPHEME_MAX 5

static uint32_t little_endian(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum status charsmap_init(struct charsmap *map, struct str bytes, struct error *err)
{
    const uint8_t *p = (const uint8_t *)bytes.data;
    *map = (struct charsmap){0};
    uint32_t size = bytes.len >= 4 ? little_endian(p) : 0;
    if (size < 4 || size % 4 || size > bytes.len - 4)
        return error_set(err, STATUS_MODEL,
                         "normalizer: precompiled_charsmap of %zu bytes says that its trie has %u",
                         bytes.len, size);
    map->n_units = size / 4;
    map->units = malloc(size);
    if (!map->units)
        return error_set(err, STATUS_MEMORY, "normalizer: out of memory");
    for (size_t i = 0; i < map->n_units; i++)
        map->units[i] = little_endian(p + 4 + 4 * i);
    map->pool = (struct str){bytes.data + 4 + size, bytes.len - 4 - size};
    return STATUS_OK;
}

void charsmap_release(struct charsmap *map)
{
    free(map->units);
    *map = (struct charsmap){0};
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

static struct str replacement_at(const struct charsmap *map, size_t value)
{
    const char *begin = map->pool.data + value;
    const char *end = memchr(begin, '\0', map->pool.len - value);
    return (struct str){begin, end ? (size_t)(end - begin) : map->pool.len - value};
}

/* The replacement of the longest (or the shortest) known string that text begins with; the length of
 * that string, or 0. What would cut a character, or leave something else than UTF-8, is passed over:
 * the steps that follow rely on both. */
static size_t look_up(const struct charsmap *map, struct str text, bool shortest, struct str *out)
{
    size_t found = 0;
    uint32_t at = offset_of(map->units[0]);
    for (size_t i = 0; i < text.len; i++) {
        uint8_t byte = (uint8_t)text.data[i];
        at ^= byte;
        if (at >= map->n_units || (map->units[at] & 0x800000ffu) != byte)
            break;
        uint32_t unit = map->units[at];
        at ^= offset_of(unit);
        if (!(unit & 0x100))
            continue;
        if (at >= map->n_units)
            break;
        size_t value = map->units[at] & 0x7fffffffu;
        if (value >= map->pool.len)
            break;
        struct str replacement = replacement_at(map, value);
        bool within = i + 1 < text.len && ((uint8_t)text.data[i + 1] & 0xc0) == 0x80;
        if (within || !utf8_valid(replacement))
            continue;
        *out = replacement;
        found = i + 1;
        if (shortest)
            break;
    }
    return found;
}

static void run_longest(const struct charsmap *map, struct str text, struct buf *out)
{
    size_t copied = 0;
    for (size_t i = 0; i < text.len;) {
        struct str replacement;
        size_t n = look_up(map, (struct str){text.data + i, text.len - i}, false, &replacement);
        if (!n) {
            i += utf8_length((uint8_t)text.data[i]);
            continue;
        }
        buf_append(out, text.data + copied, i - copied);
        buf_append_str(out, replacement);
        i += n;
        copied = i;
    }
    buf_append(out, text.data + copied, text.len - copied);
}

static size_t grapheme_end(struct str text, size_t i)
{
    const uint8_t *p = (const uint8_t *)text.data;
    /* Among ASCII only a line end of two characters is more than one. */
    if (p[i] < 0x80 && (i + 1 == text.len || (p[i + 1] < 0x80 && p[i] != '\r')))
        return i + 1;
    uint32_t c = 0, next = 0;
    utf8proc_int32_t state = 0;
    i += utf8_decode(p + i, text.len - i, &c);
    while (i < text.len) {
        unsigned length = utf8_decode(p + i, text.len - i, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state))
            break;
        c = next;
        i += length;
    }
    return i;
}

/* Where the map has something for `part`: what came before it, and that. */
static bool put_replaced(const struct charsmap *map, struct str text, struct str part,
                         size_t *copied, struct buf *out)
{
    struct str replacement;
    size_t begin = (size_t)(part.data - text.data);
    if (!look_up(map, part, true, &replacement))
        return false;
    buf_append(out, text.data + *copied, begin - *copied);
    buf_append_str(out, replacement);
    *copied = begin + part.len;
    return true;
}

static void run_graphemes(const struct charsmap *map, struct str text, struct buf *out)
{
    size_t copied = 0;
    for (size_t i = 0, end; i < text.len; i = end) {
        end = grapheme_end(text, i);
        struct str whole = {text.data + i, end - i};
        if (whole.len <= GRAPHEME_MAX && put_replaced(map, text, whole, &copied, out))
            continue;
        for (size_t at = i; at < end && whole.len > 1;) {
            struct str one = {text.data + at, utf8_length((uint8_t)text.data[at])};
            put_replaced(map, text, one, &copied, out);
            at += one.len;
        }
    }
    buf_append(out, text.data + copied, text.len - copied);
}

bool charsmap_run(const struct charsmap *map, struct str text, bool graphemes, struct buf *out)
{
    if (graphemes)
        run_graphemes(map, text, out);
    else
        run_longest(map, text, out);
    return !out->failed;
}
