/*
 * Form C in chunks.
 *
 * A chunk is a character and everything behind it that could combine with it: marks, and Hangul
 * vowels and finals. Every character that composes with the one before it, or is reordered across
 * it, is of these (they are all of category M or conjoining jamo), so normalizing the chunks one by
 * one equals normalizing the whole. That gives constant small buffers for ordinary text, and a map
 * from source to output, which the trust spans need.
 *
 * utf8proc's own utf8proc_decompose() is not used: it orders marks by exchange, in quadratic time.
 */
#include "text/tokenizer/normalizer.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "base/checked.h"
#include "text/tokenizer/utf8.h"

#define DECOMPOSED_MAX 8 /* no canonical decomposition is longer than 4 */
#define INSERTION_MAX  16

void normalizer_map_release(struct normalizer_map *map)
{
    free(map->chunks);
    *map = (struct normalizer_map){0};
}

bool normalizer_nfc_needed(struct str text)
{
    /* Below U+0300 (0xcc 0x80) every string is in form C. */
    for (size_t i = 0; i < text.len; i++) {
        if ((uint8_t)text.data[i] >= 0xcc)
            return true;
    }
    return false;
}

static bool combines_backwards(uint32_t c)
{
    if (c < 0x300)
        return false;
    if (c >= 0x1160 && c <= 0x11ff)
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

/* Whether `c`, alone, is its own form C: no canonical decomposition at all, or a Hangul syllable. */
static bool is_inert(uint32_t c)
{
    if (c < 0x300 || (c >= 0xac00 && c <= 0xd7a3))
        return true;
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, DECOMPOSED_MAX,
                                                 UTF8PROC_DECOMPOSE, &boundary);
    return n == 1 && parts[0] == (utf8proc_int32_t)c;
}

static unsigned combining_class(utf8proc_int32_t c)
{
    return (unsigned)utf8proc_get_property(c)->combining_class;
}

/* Stable sort of a run of marks by combining class: insertion for the usual one or two, counting
 * for the hostile rest. spare: n values. */
static void sort_marks(utf8proc_int32_t *marks, size_t n, utf8proc_int32_t *spare)
{
    if (n <= INSERTION_MAX) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t mark = marks[i];
            size_t j = i;
            for (; j && combining_class(marks[j - 1]) > combining_class(mark); j--)
                marks[j] = marks[j - 1];
            marks[j] = mark;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[(combining_class(marks[i]) & 0xff) + 1]++;
    for (size_t c = 0; c < 256; c++)
        start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++)
        spare[start[combining_class(marks[i]) & 0xff]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

/* Normalizes one chunk (valid UTF-8). */
static bool append_chunk(struct str chunk, struct buf *out)
{
    utf8proc_int32_t small[2 * 64];
    size_t capacity = 64;
    size_t needed;
    if (!checked_mul_size(chunk.len, 4, &needed) || needed > SIZE_MAX / 16)
        return false;
    utf8proc_int32_t *points = small;
    utf8proc_int32_t *large = NULL;
    if (needed + 1 > capacity) {
        capacity = needed + 1;
        large = malloc(2 * capacity * sizeof *large);
        if (!large)
            return false;
        points = large;
    }
    const uint8_t *bytes = (const uint8_t *)chunk.data;
    size_t n = 0;
    for (size_t i = 0; i < chunk.len;) {
        uint32_t c = 0;
        i += utf8_decode(bytes + i, chunk.len - i, &c);
        int boundary = 0;
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)c, points + n,
                                                     (utf8proc_ssize_t)(capacity - n),
                                                     UTF8PROC_DECOMPOSE, &boundary);
        if (k < 1 || (size_t)k > capacity - n) {
            free(large);
            return false;
        }
        n += (size_t)k;
    }
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && combining_class(points[end]) != 0)
            end++;
        sort_marks(points + i, end - i, points + capacity);
        i = end + (end == i);
    }
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(points, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        utf8proc_uint8_t encoded[4];
        utf8proc_ssize_t length = utf8proc_encode_char(points[i], encoded);
        buf_append(out, encoded, (size_t)length);
    }
    free(large);
    return composed >= 0 && !out->failed;
}

static bool map_add(struct normalizer_map *map, size_t source_end, size_t output_end, bool changed)
{
    if (!map)
        return true;
    if (map->count == map->capacity) {
        size_t capacity = map->capacity ? map->capacity * 2 : 32;
        struct normalizer_chunk *chunks = realloc(map->chunks, capacity * sizeof *chunks);
        if (!chunks)
            return false;
        map->chunks = chunks;
        map->capacity = capacity;
    }
    map->chunks[map->count++] = (struct normalizer_chunk){source_end, output_end, changed};
    return true;
}

bool normalizer_nfc(struct str text, struct buf *out, struct normalizer_map *map)
{
    const uint8_t *bytes = (const uint8_t *)text.data;
    size_t copied = 0, out_start = out->len;
    for (size_t i = 0; i < text.len;) {
        uint32_t c;
        unsigned length = utf8_decode(bytes + i, text.len - i, &c);
        if (length == 0) {
            i++;
            continue;
        }
        size_t end = i + length;
        bool alone = true;
        while (end < text.len) {
            uint32_t next;
            unsigned next_length = utf8_decode(bytes + end, text.len - end, &next);
            if (next_length == 0 || !combines_backwards(next))
                break;
            end += next_length;
            alone = false;
        }
        if (!alone || !is_inert(c)) {
            buf_append(out, text.data + copied, i - copied);
            if (i > copied && !map_add(map, i, out->len - out_start, false))
                return false;
            if (!append_chunk((struct str){text.data + i, end - i}, out) ||
                !map_add(map, end, out->len - out_start, true))
                return false;
            copied = end;
        }
        i = end;
    }
    buf_append(out, text.data + copied, text.len - copied);
    return !out->failed &&
           (text.len == copied || map_add(map, text.len, out->len - out_start, false));
}
