/*
 * Encoding: added tokens are cut out, the rest is normalized, split and merged.
 *
 *     text    Hi<|im_end|>caf(e+acute)<think>...
 *     raw     [Hi] 151645 [caf(e+acute)] 151667 [...]     cut(), tokens searched as given
 *     NFC     [Hi]        [café]                          plain(), then cut() once more for tokens
 *     split   Hi          café                            that are searched in normalized text
 *     merge   13048       924 58858
 *
 * Most pieces of prose are a single token, but that a token with the piece's bytes exists does not
 * yet mean that merging ends in it. So the first merge of such a piece is remembered in the shared
 * table `whole`: later the piece costs one hash look-up. (With ignore_merges the look-up alone is
 * the definition.) A table of whole words per call was the alternative; it needs memory in every
 * call and learns the same words anew each time.
 */
#include <stdlib.h>
#include <utf8proc.h>

#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/tokenizer_internal.h"
#include "text/tokenizer/utf8.h"

/* Stands for a byte that is not UTF-8 while splitting: a control character (U+001A, SUBSTITUTE),
 * neither letter nor digit nor space, one byte long like what it replaces. */
#define INVALID_BYTE 0x1a

/* Trusted regions of one text, neighbours joined, and how far a search has come in them. */
struct trust {
    struct text_span *regions; /* owned by whoever made it */
    size_t count, cursor;
};

struct encoder {
    const struct tokenizer *tokenizer;
    const struct tokenizer_options *options;
    struct token_list *out;
    struct bpe_scratch scratch;
    struct splitter_run run;
    const char *bytes;  /* of the text being split, with its invalid bytes */
    struct buf subject; /* the same with invalid bytes replaced */
};

/* --- pieces --- */

static enum status encode_piece(void *user, size_t begin, size_t end, struct error *err)
{
    struct encoder *e = user;
    const struct tokenizer *t = e->tokenizer;
    struct str piece = {e->bytes + begin, end - begin};
    const int64_t *known = piece.len <= t->longest_normal ? strmap_get(&t->normal, piece) : NULL;
    uint8_t state = WHOLE_NO;
    if (known)
        state = t->ignore_merges ? WHOLE_YES
                                 : atomic_load_explicit(&t->whole[*known], memory_order_relaxed);
    bool ok;
    if (state == WHOLE_YES) {
        ok = token_list_add(e->out, (int32_t)*known);
    } else {
        size_t first = e->out->count;
        ok = bpe_encode(&t->bpe, &e->scratch, (const uint8_t *)piece.data, piece.len, e->out);
        if (ok && state == WHOLE_UNKNOWN) {
            bool whole = e->out->count == first + 1 && e->out->ids[first] == *known;
            atomic_store_explicit(&t->whole[*known], whole ? WHOLE_YES : WHOLE_NO,
                                  memory_order_relaxed);
        }
    }
    return ok ? STATUS_OK : error_set(err, STATUS_MEMORY, "encoding: out of memory");
}

/* Length of the longest valid beginning. */
static size_t valid_prefix(struct str text, size_t from)
{
    const uint8_t *p = (const uint8_t *)text.data;
    size_t i = from;
    while (i < text.len) {
        uint64_t eight;
        if (i + 8 <= text.len && (memcpy(&eight, p + i, 8), !(eight & 0x8080808080808080ull))) {
            i += 8;
            continue;
        }
        uint32_t c;
        unsigned length = utf8_decode(p + i, text.len - i, &c);
        if (length == 0)
            break;
        i += length;
    }
    return i;
}

/* Text without added tokens, normalized. */
static enum status encode_split(struct encoder *e, struct str text, struct error *err)
{
    e->bytes = text.data;
    struct str subject = text;
    size_t valid = valid_prefix(text, 0);
    if (valid < text.len) {
        buf_clear(&e->subject);
        buf_append_str(&e->subject, text);
        if (e->subject.failed)
            return error_set(err, STATUS_MEMORY, "encoding: out of memory");
        for (; valid < text.len; valid = valid_prefix(text, valid + 1))
            e->subject.data[valid] = INVALID_BYTE;
        subject = buf_str(&e->subject);
    }
    return splitter_run_split(&e->run, subject, err);
}

/* --- added tokens --- */

static bool is_space(uint32_t c)
{
    if ((c >= '\t' && c <= '\r') || c == 0x85)
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

static bool is_word(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

struct search {
    const struct encoder *encoder;
    struct str text;
    struct trust *trust;
};

static bool in_word(struct str text, size_t begin, size_t end)
{
    const uint8_t *p = (const uint8_t *)text.data;
    uint32_t c;
    if (begin && utf8_decode_last(p, begin, &c) && is_word(c))
        return true;
    return end < text.len && utf8_decode(p + end, text.len - end, &c) && is_word(c);
}

/* Searches run forwards, so the cursor only ever advances. */
static bool is_trusted(struct trust *trust, size_t begin, size_t end)
{
    while (trust->cursor < trust->count && trust->regions[trust->cursor].end <= begin)
        trust->cursor++;
    return trust->cursor < trust->count && trust->regions[trust->cursor].begin <= begin &&
           end <= trust->regions[trust->cursor].end;
}

static bool may_match(void *user, int32_t id, size_t begin, size_t end)
{
    struct search *search = user;
    const struct token_entry *entry = &search->encoder->tokenizer->tokens[id];
    if (entry->kind != TOKEN_USER_DEFINED) {
        switch (search->encoder->options->specials) {
        case TOKENIZER_SPECIALS_NONE:
            return false;
        case TOKENIZER_SPECIALS_TRUSTED:
            if (!is_trusted(search->trust, begin, end))
                return false;
            break;
        case TOKENIZER_SPECIALS_ALL:
            break;
        }
    }
    return !entry->single_word || !in_word(search->text, begin, end);
}

static size_t strip_left(struct str text, size_t floor, size_t begin)
{
    uint32_t c;
    for (;;) {
        unsigned n = utf8_decode_last((const uint8_t *)text.data + floor, begin - floor, &c);
        if (n == 0 || !is_space(c))
            return begin;
        begin -= n;
    }
}

static size_t strip_right(struct str text, size_t end)
{
    uint32_t c;
    while (end < text.len) {
        unsigned n = utf8_decode((const uint8_t *)text.data + end, text.len - end, &c);
        if (n == 0 || !is_space(c))
            break;
        end += n;
    }
    return end;
}

typedef enum status (*between_fn)(struct encoder *e, struct str text, size_t offset,
                                  const struct trust *trust, struct error *err);

/* Emits the added tokens of `text` and hands what lies between them to `between`. */
static enum status cut(struct encoder *e, const struct added_tokens *set, struct str text,
                       struct trust *trust, between_fn between, struct error *err)
{
    struct search search = {e, text, trust};
    struct added_match match;
    size_t done = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && added_tokens_find(set, text, done, may_match, &search, &match)) {
        const struct token_entry *entry = &e->tokenizer->tokens[match.id];
        size_t begin = entry->lstrip ? strip_left(text, done, match.begin) : match.begin;
        if (begin > done)
            status = between(e, (struct str){text.data + done, begin - done}, done, trust, err);
        if (status == STATUS_OK && !token_list_add(e->out, match.id))
            status = error_set(err, STATUS_MEMORY, "encoding: out of memory");
        done = entry->rstrip ? strip_right(text, match.end) : match.end;
    }
    if (status == STATUS_OK && done < text.len)
        status = between(e, (struct str){text.data + done, text.len - done}, done, trust, err);
    return status;
}

/* --- normalization --- */

static enum status encode_last(struct encoder *e, struct str text, size_t offset,
                               const struct trust *trust, struct error *err)
{
    (void)offset;
    (void)trust;
    return encode_split(e, text, err);
}

static bool trust_add(struct trust *trust, size_t begin, size_t end)
{
    if (trust->count && trust->regions[trust->count - 1].end == begin) {
        trust->regions[trust->count - 1].end = end;
        return true;
    }
    /* Doubling at powers of two needs no capacity field. */
    if ((trust->count & (trust->count - 1)) == 0) {
        size_t capacity = trust->count ? trust->count * 2 : 1;
        struct text_span *regions = realloc(trust->regions, capacity * sizeof *regions);
        if (!regions)
            return false;
        trust->regions = regions;
    }
    trust->regions[trust->count++] = (struct text_span){begin, end, true};
    return true;
}

/* The first region that ends behind `offset`. */
static size_t first_region(const struct trust *trust, size_t offset)
{
    size_t low = 0, high = trust->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (trust->regions[middle].end <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The trusted regions of a normalized text: a changed chunk is trusted if all of its source is;
 * within an unchanged one positions correspond. offset: of the source in the whole text. */
static bool map_trust(const struct trust *trust, const struct normalizer_map *map, size_t offset,
                      struct trust *out)
{
    size_t source = offset, output = 0, r = first_region(trust, offset);
    for (size_t i = 0; i < map->count; i++) {
        const struct normalizer_chunk *chunk = &map->chunks[i];
        size_t source_end = offset + chunk->source_end;
        for (; r < trust->count && trust->regions[r].begin < source_end; r++) {
            const struct text_span *region = &trust->regions[r];
            size_t begin = region->begin > source ? region->begin : source;
            size_t end = region->end < source_end ? region->end : source_end;
            bool whole = begin == source && end == source_end;
            if (begin < end && chunk->changed && whole &&
                !trust_add(out, output, chunk->output_end))
                return false;
            if (begin < end && !chunk->changed &&
                !trust_add(out, output + (begin - source), output + (end - source)))
                return false;
            if (region->end > source_end)
                break;
        }
        source = source_end;
        output = chunk->output_end;
    }
    return true;
}

/* Text between raw added tokens: normalize, cut the tokens that are searched afterwards, split. */
static enum status encode_between(struct encoder *e, struct str text, size_t offset,
                                  const struct trust *trust, struct error *err)
{
    const struct tokenizer *t = e->tokenizer;
    bool normalize = t->normalizer == VOCABULARY_NORMALIZER_NFC && normalizer_nfc_needed(text);
    bool search = t->normalized.count > 0;
    bool mapped = search && e->options->specials == TOKENIZER_SPECIALS_TRUSTED;
    struct buf normalized = {0};
    struct normalizer_map map = {0};
    struct trust local = {0};
    bool ok = true;
    if (normalize) {
        ok = normalizer_nfc(text, &normalized, mapped ? &map : NULL);
    } else if (mapped) {
        struct normalizer_chunk all = {text.len, text.len, false};
        ok = map_trust(trust, &(struct normalizer_map){&all, 1, 1}, offset, &local);
    }
    if (ok && normalize && mapped)
        ok = map_trust(trust, &map, offset, &local);
    struct str plain = normalize ? buf_str(&normalized) : text;
    enum status status;
    if (!ok)
        status = error_set(err, STATUS_MEMORY, "encoding: out of memory");
    else if (search)
        status = cut(e, &t->normalized, plain, &local, encode_last, err);
    else
        status = encode_split(e, plain, err);
    free(local.regions);
    normalizer_map_release(&map);
    buf_release(&normalized);
    return status;
}

/* --- the whole --- */

static enum status read_spans(const struct text_span *spans, size_t n_spans, size_t text_len,
                              struct trust *out, struct error *err)
{
    size_t end = 0;
    for (size_t i = 0; i < n_spans; i++) {
        const struct text_span *span = &spans[i];
        if (span->begin < end || span->end < span->begin || span->end > text_len)
            return error_set(err, STATUS_USAGE,
                             "span %zu [%zu, %zu) overlaps, goes back, or leaves the text of %zu "
                             "bytes",
                             i, span->begin, span->end, text_len);
        end = span->end;
        if (span->trusted && span->end > span->begin && !trust_add(out, span->begin, span->end))
            return error_set(err, STATUS_MEMORY, "encoding: out of memory");
    }
    return STATUS_OK;
}

static enum status encode_text(struct encoder *e, struct str text, struct trust *trust,
                               struct error *err)
{
    const struct tokenizer *t = e->tokenizer;
    enum status status = STATUS_OK;
    bool ok = true;
    if (e->options->add_bos && t->bos != VOCABULARY_NONE)
        ok = token_list_add(e->out, t->bos);
    if (ok)
        status = cut(e, &t->raw, text, trust, encode_between, err);
    if (ok && status == STATUS_OK && e->options->add_eos && t->eos != VOCABULARY_NONE)
        ok = token_list_add(e->out, t->eos);
    return ok ? status : error_set(err, STATUS_MEMORY, "encoding: out of memory");
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, struct str text,
                             const struct text_span *spans, size_t n_spans,
                             const struct tokenizer_options *options, struct token_list *out,
                             struct error *err)
{
    if (text.len > TOKENIZER_TEXT_MAX)
        return error_set(err, STATUS_LIMIT, "a text of %zu bytes; the limit for one is %u",
                         text.len, TOKENIZER_TEXT_MAX);
    size_t start = out->count;
    struct encoder e = {.tokenizer = tokenizer, .options = options, .out = out};
    struct trust trust = {0};
    enum status status = STATUS_OK;
    if (options->specials == TOKENIZER_SPECIALS_TRUSTED)
        status = read_spans(spans, n_spans, text.len, &trust, err);
    if (status == STATUS_OK)
        status = splitter_run_open(&e.run, tokenizer->splitter, encode_piece, &e, err);
    if (status == STATUS_OK) {
        status = encode_text(&e, text, &trust, err);
        splitter_run_close(&e.run);
    }
    free(trust.regions);
    bpe_scratch_release(&e.scratch);
    buf_release(&e.subject);
    if (status != STATUS_OK)
        out->count = start;
    return status;
}
