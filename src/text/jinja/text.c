/*
 * Text with trust ranges. The builder is the only writer; see text.h for how rooms are shared.
 * Ranges in a room are maximal: neighbouring trusted bytes are one range, so that a text whose only
 * range covers it is recognised as wholly trusted.
 */
#include "text/jinja/text.h"

#include <utf8proc.h>

#include "text/jinja/run.h"
#include "text/tokenizer/utf8.h"

#define ROOM_LEAST 48

const struct jinja_text text_empty = {.data = "", .trust = TRUST_ALL};

size_t utf8_count(struct str bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes.len; i++)
        n += ((uint8_t)bytes.data[i] & 0xc0) != 0x80;
    return n;
}

unsigned utf8_encode(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool char_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

const struct jinja_text *text_borrow(struct arena *arena, struct str bytes, bool trusted)
{
    struct jinja_text *text = arena_alloc(arena, 1, sizeof *text);
    if (text)
        *text = (struct jinja_text){.data = bytes.data,
                                    .len = bytes.len,
                                    .n_chars = utf8_count(bytes),
                                    .trust = trusted || bytes.len == 0 ? TRUST_ALL : TRUST_NONE};
    return text;
}

const struct jinja_text *text_copy(struct arena *arena, struct str bytes, bool trusted)
{
    struct str copy = arena_copy_str(arena, bytes);
    return copy.data ? text_borrow(arena, copy, trusted) : NULL;
}

size_t text_offset(const struct jinja_text *text, size_t index)
{
    if (text->n_chars == text->len)
        return index;
    size_t at = 0;
    while (index-- && at < text->len)
        at += utf8_length((uint8_t)text->data[at]);
    return at;
}

unsigned text_decode(const struct jinja_text *text, size_t at, uint32_t *code_point)
{
    return utf8_decode((const uint8_t *)text->data + at, text->len - at, code_point);
}

unsigned text_decode_before(const struct jinja_text *text, size_t end, uint32_t *code_point)
{
    return utf8_decode_last((const uint8_t *)text->data, end, code_point);
}

bool text_trusted_at(const struct jinja_text *text, size_t at)
{
    if (text->trust != TRUST_SOME)
        return text->trust == TRUST_ALL;
    size_t low = 0, high = text->n_ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (text->ranges[middle].end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < text->n_ranges && text->ranges[low].begin <= at;
}

/* ---- builder -------------------------------------------------------------------------------- */

void builder_init(struct text_builder *b, struct jinja_run *run)
{
    *b = (struct text_builder){.run = run};
}

static bool builder_reserve(struct text_builder *b, size_t extra)
{
    struct jinja_run *run = b->run;
    if (run->status != STATUS_OK)
        return false;
    if (!b->room) {
        b->room = run_alloc(run, 1, sizeof *b->room);
        if (!b->room)
            return false;
    }
    struct text_room *room = b->room;
    if (extra > run->max_text || room->used > run->max_text - extra)
        return run_fail(run, STATUS_LIMIT, "a text grew over the limit of %zu bytes",
                        run->max_text);
    if (room->capacity - room->used >= extra)
        return run_burn(run, extra / JINJA_BYTES_A_STEP);
    size_t need = room->used + extra;
    size_t capacity = need < ROOM_LEAST / 2 ? ROOM_LEAST : need * 2;
    char *data = run_alloc(run, capacity, 1);
    if (!data || !run_burn(run, need / JINJA_BYTES_A_STEP))
        return false;
    if (room->used)
        memcpy(data, room->data, room->used);
    room->data = data;
    room->capacity = capacity;
    return true;
}

/* Marks [begin, end), which lies after all ranges so far, as trusted. */
static bool builder_trust(struct text_builder *b, size_t begin, size_t end)
{
    struct text_room *room = b->room;
    if (begin == end)
        return true;
    if (room->n_ranges && room->ranges[room->n_ranges - 1].end == begin) {
        room->ranges[room->n_ranges - 1].end = end;
        return true;
    }
    if (room->n_ranges == room->ranges_capacity) {
        size_t capacity = room->ranges_capacity ? room->ranges_capacity * 2 : 2;
        struct trust_range *ranges = run_alloc(b->run, capacity, sizeof *ranges);
        if (!ranges)
            return false;
        if (room->n_ranges)
            memcpy(ranges, room->ranges, room->n_ranges * sizeof *ranges);
        room->ranges = ranges;
        room->ranges_capacity = capacity;
    }
    room->ranges[room->n_ranges++] = (struct trust_range){begin, end};
    return true;
}

void builder_str(struct text_builder *b, struct str bytes, bool trusted)
{
    if (bytes.len == 0 || !builder_reserve(b, bytes.len))
        return;
    struct text_room *room = b->room;
    size_t begin = room->used;
    memcpy(room->data + begin, bytes.data, bytes.len);
    room->used += bytes.len;
    b->n_chars += utf8_count(bytes);
    if (trusted)
        builder_trust(b, begin, room->used);
}

void builder_bytes(struct text_builder *b, const char *data, size_t len, bool trusted)
{
    builder_str(b, (struct str){data, len}, trusted);
}

void builder_cstr(struct text_builder *b, const char *bytes, bool trusted)
{
    builder_str(b, str_from(bytes), trusted);
}

void builder_char(struct text_builder *b, uint32_t code_point, bool trusted)
{
    char bytes[4];
    builder_bytes(b, bytes, utf8_encode(code_point, bytes), trusted);
}

void builder_fill(struct text_builder *b, uint32_t code_point, size_t count, bool trusted)
{
    if (count > b->run->max_text) {
        run_fail(b->run, STATUS_LIMIT, "a text grew over the limit of %zu bytes", b->run->max_text);
        return;
    }
    for (; count && b->run->status == STATUS_OK; count--)
        builder_char(b, code_point, trusted);
}

void builder_slice(struct text_builder *b, const struct jinja_text *text, size_t begin, size_t end)
{
    if (begin >= end || !builder_reserve(b, end - begin))
        return;
    struct text_room *room = b->room;
    size_t base = room->used;
    memcpy(room->data + base, text->data + begin, end - begin);
    room->used += end - begin;
    b->n_chars += text->n_chars == text->len
                      ? end - begin
                      : utf8_count((struct str){text->data + begin, end - begin});
    if (text->trust == TRUST_ALL)
        builder_trust(b, base, room->used);
    if (text->trust != TRUST_SOME)
        return;
    for (size_t i = 0; i < text->n_ranges; i++) {
        size_t from = text->ranges[i].begin, to = text->ranges[i].end;
        if (to <= begin)
            continue;
        if (from >= end)
            break;
        from = from < begin ? begin : from;
        to = to > end ? end : to;
        if (!builder_trust(b, base + from - begin, base + to - begin))
            return;
    }
}

void builder_text(struct text_builder *b, const struct jinja_text *text)
{
    builder_slice(b, text, 0, text->len);
}

void builder_escaped(struct text_builder *b, const struct jinja_text *text)
{
    if (text->safe) {
        builder_text(b, text);
        return;
    }
    size_t from = 0;
    for (size_t i = 0; i < text->len; i++) {
        char c = text->data[i];
        const char *escape = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (!escape)
            continue;
        builder_slice(b, text, from, i);
        builder_cstr(b, escape, text_trusted_at(text, i));
        from = i + 1;
    }
    builder_slice(b, text, from, text->len);
}

void builder_continue(struct text_builder *b, struct jinja_run *run, const struct jinja_text *text)
{
    builder_init(b, run);
    if (text->room && text->data == text->room->data && text->len == text->room->used) {
        b->room = text->room;
        b->n_chars = text->n_chars;
    } else {
        builder_text(b, text);
    }
}

const struct jinja_text *builder_finish(struct text_builder *b)
{
    struct jinja_run *run = b->run;
    if (run->status != STATUS_OK)
        return NULL;
    struct text_room *room = b->room;
    if (!room || room->used == 0)
        return &text_empty;
    struct jinja_text *text = run_alloc(run, 1, sizeof *text);
    if (!text)
        return NULL;
    *text = (struct jinja_text){
        .data = room->data, .len = room->used, .n_chars = b->n_chars, .room = room};
    if (room->n_ranges == 0) {
        text->trust = TRUST_NONE;
    } else if (room->ranges[0].begin == 0 && room->ranges[0].end >= room->used) {
        text->trust = TRUST_ALL;
    } else {
        text->trust = TRUST_SOME;
        text->ranges = room->ranges;
        text->n_ranges = room->n_ranges;
    }
    return text;
}

/* ---- derived texts -------------------------------------------------------------------------- */

const struct jinja_text *text_slice(struct jinja_run *run, const struct jinja_text *text,
                                    size_t begin, size_t end)
{
    if (begin >= end)
        return run->status == STATUS_OK ? &text_empty : NULL;
    if (begin == 0 && end == text->len)
        return text;
    if (text->trust == TRUST_SOME) {
        struct text_builder b;
        builder_init(&b, run);
        builder_slice(&b, text, begin, end);
        const struct jinja_text *slice = builder_finish(&b);
        return slice && text->safe ? text_with_safe(run, slice, true) : slice;
    }
    struct jinja_text *slice = run_alloc(run, 1, sizeof *slice);
    if (!slice)
        return NULL;
    *slice = (struct jinja_text){.data = text->data + begin,
                                 .len = end - begin,
                                 .n_chars = end - begin,
                                 .trust = text->trust,
                                 .safe = text->safe};
    if (text->n_chars != text->len) {
        slice->n_chars = utf8_count(text_str(slice));
        if (!run_burn(run, slice->len / JINJA_BYTES_A_STEP))
            return NULL;
    }
    return slice;
}

const struct jinja_text *text_with_safe(struct jinja_run *run, const struct jinja_text *text,
                                        bool safe)
{
    if (text->safe == safe)
        return text;
    struct jinja_text *copy = run_alloc(run, 1, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *text;
    copy->safe = safe;
    return copy;
}

const struct jinja_text *text_untrusted(struct jinja_run *run, const struct jinja_text *text)
{
    if (text->trust == TRUST_NONE || text->len == 0)
        return text;
    struct jinja_text *copy = run_alloc(run, 1, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *text;
    copy->trust = TRUST_NONE;
    copy->ranges = NULL;
    copy->n_ranges = 0;
    copy->room = NULL;
    return copy;
}
