/*
 * Normalization in chunks.
 *
 * A chunk is a character and everything behind it that could combine with it: marks, and Hangul
 * vowels and finals. Every character that composes with the one before it, or is reordered across
 * it, is of these (they are all of category M or conjoining jamo), or, in the compatibility forms,
 * becomes one of them; so normalizing the chunks one by one equals normalizing the whole. That gives
 * constant small buffers for ordinary text, and a map from source to output, which the trust spans
 * need.
 *
 * utf8proc's own utf8proc_decompose() is not used: it orders marks by exchange, in quadratic time.
 */
#include "text/tokenizer/normalizer.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "base/checked.h"
#include "text/tokenizer/utf8.h"

#define DECOMPOSED_MAX 32 /* no decomposition is longer than 18 */
#define EXPANSION_MAX  8  /* code points per byte: 18 from the 3 bytes of U+FDFA */
#define INSERTION_MAX  16

void normalizer_map_release(struct normalizer_map *map)
{
    free(map->chunks);
    *map = (struct normalizer_map){0};
}

/* Every string of bytes below this is in the form. */
static uint8_t first_byte(enum normalizer_form form)
{
    switch (form) {
    case NORMALIZER_C:
        return 0xcc; /* U+0300 */
    case NORMALIZER_D:
        return 0xc3; /* U+00C0 */
    default:
        return 0xc2; /* U+0080 */
    }
}

bool normalizer_needed(enum normalizer_form form, struct str text)
{
    uint8_t first = first_byte(form);
    for (size_t i = 0; i < text.len; i++) {
        if ((uint8_t)text.data[i] >= first)
            return true;
    }
    return false;
}

static bool is_compatible(enum normalizer_form form)
{
    return form == NORMALIZER_KC || form == NORMALIZER_KD;
}

static bool composes(enum normalizer_form form)
{
    return form == NORMALIZER_C || form == NORMALIZER_KC;
}

static utf8proc_ssize_t decompose(enum normalizer_form form, uint32_t c, utf8proc_int32_t *out,
                                  size_t room)
{
    int boundary = 0;
    return utf8proc_decompose_char(
        (utf8proc_int32_t)c, out, (utf8proc_ssize_t)room,
        is_compatible(form) ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE, &boundary);
}

static bool is_combining(uint32_t c)
{
    if (c < 0x300)
        return false;
    if (c >= 0x1160 && c <= 0x11ff)
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

static bool combines_backwards(enum normalizer_form form, uint32_t c)
{
    if (is_combining(c))
        return true;
    /* Jamo of the compatibility blocks and half-width sound marks. */
    bool may = (c >= 0x3131 && c <= 0x318e) || (c >= 0xff9e && c <= 0xffdc);
    if (!may || !is_compatible(form))
        return false;
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    return decompose(form, c, parts, DECOMPOSED_MAX) > 0 && is_combining((uint32_t)parts[0]);
}

/* Whether `c`, alone, is what it becomes. */
static bool is_inert(enum normalizer_form form, uint32_t c)
{
    if (c < 0x80 || (form == NORMALIZER_C && c < 0x300))
        return true;
    if (composes(form) && c >= 0xac00 && c <= 0xd7a3)
        return true;
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    utf8proc_ssize_t n = decompose(form, c, parts, DECOMPOSED_MAX);
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
static bool append_chunk(enum normalizer_form form, struct str chunk, struct buf *out)
{
    utf8proc_int32_t small[2 * 64];
    size_t capacity = 64;
    size_t needed;
    if (!checked_mul_size(chunk.len, EXPANSION_MAX, &needed) || needed > SIZE_MAX / 16)
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
        utf8proc_ssize_t k = decompose(form, c, points + n, capacity - n);
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
    utf8proc_ssize_t composed = (utf8proc_ssize_t)n;
    if (composes(form))
        composed = utf8proc_normalize_utf32(points, composed, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
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

bool normalizer_run(enum normalizer_form form, struct str text, struct buf *out,
                    struct normalizer_map *map)
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
            if (next_length == 0 || !combines_backwards(form, next))
                break;
            end += next_length;
            alone = false;
        }
        if (!alone || !is_inert(form, c)) {
            buf_append(out, text.data + copied, i - copied);
            if (i > copied && !map_add(map, i, out->len - out_start, false))
                return false;
            if (!append_chunk(form, (struct str){text.data + i, end - i}, out) ||
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
