/*
 * Encoding: added tokens are cut out, the rest is normalized, split and given to the model.
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
 * the definition.) Short pieces of several tokens are kept too, in caches that calls hand on to each
 * other (piece_cache.h).
 *
 * Models that split into no words (SentencePiece: a text is one piece) are made to: where two
 * characters meet that are neighbours in no token, no token can reach across, so both sides can be
 * encoded by themselves. That is looked up for pairs of ASCII and for what stands before U+2581,
 * and gives every word of prose, mostly without its punctuation.
 */
#include <stdlib.h>
#include <utf8proc.h>

#include "text/tokenizer/char_class.h"
#include "text/tokenizer/tokenizer_internal.h"
#include "text/tokenizer/utf8.h"

/* Stands for a byte that is not UTF-8 while splitting: a control character (U+001A, SUBSTITUTE),
 * neither letter nor digit nor space, one byte long like what it replaces. */
#define INVALID_BYTE 0x1a
#define PIECE_MAX    (1u << 30) /* bytes; positions in a piece are 32 bits */

/* Trusted regions of one text, neighbours joined, and how far a search has come in them. */
struct trust {
    struct text_span *regions; /* owned by whoever made it */
    size_t count, cursor;
};

/* One call. Text comes through cut() piece by piece; the flags at the end say what was there before. */
struct encoder {
    const struct tokenizer *tokenizer;
    const struct tokenizer_options *options;
    struct token_list *out;
    struct bpe_scratch scratch;
    struct unigram_scratch unigram;
    double sum; /* of a Unigram's scores so far; see unigram_encode() */
    struct normalization_run normalization;
    struct splitter_run run;
    struct piece_cache cache;
    /* Byte-level text with invalid bytes is split with those replaced: */
    const char *subject_data, *bytes; /* a piece at subject_data + i has its bytes at bytes + i */
    struct buf subject;               /* the text with invalid bytes replaced */
    struct buf valid;                 /* the same for models of characters */
    bool at_start;                    /* nothing of the text has been seen yet */
    bool after_control;               /* the last thing seen was a control token */
    bool before_user_defined;         /* the next thing will be a user-defined one */
};

/* --- pieces --- */

static bool encode_model(struct encoder *e, struct str piece)
{
    const struct tokenizer *t = e->tokenizer;
    switch (t->kind) {
    case VOCABULARY_BYTE_BPE:
    case VOCABULARY_CHAR_BPE:
        return bpe_encode(&t->bpe, &e->scratch, (const uint8_t *)piece.data, piece.len, e->out);
    case VOCABULARY_UNIGRAM:
        return unigram_encode(&t->unigram, &e->unigram, piece, &e->sum, e->out);
    case VOCABULARY_WORDPIECE:
        return wordpiece_encode(&t->wordpiece, piece, e->out);
    }
    return false;
}

static bool encode_uncached(struct encoder *e, struct str piece)
{
    const struct tokenizer *t = e->tokenizer;
    const int64_t *known = piece.len <= t->longest_normal ? strmap_get(&t->normal, piece) : NULL;
    uint8_t state = WHOLE_NO;
    if (known)
        state = t->ignore_merges ? WHOLE_YES
                                 : atomic_load_explicit(&t->whole[*known], memory_order_relaxed);
    if (state == WHOLE_YES)
        return token_list_add(e->out, (int32_t)*known);
    size_t first = e->out->count;
    if (!encode_model(e, piece))
        return false;
    if (state == WHOLE_UNKNOWN) {
        bool whole = e->out->count == first + 1 && e->out->ids[first] == *known;
        atomic_store_explicit(&t->whole[*known], whole ? WHOLE_YES : WHOLE_NO,
                              memory_order_relaxed);
    }
    return true;
}

static bool encode_cached(struct encoder *e, struct str piece)
{
    if (!e->cache.entries || piece.len > PIECE_CACHE_BYTES)
        return encode_uncached(e, piece);
    struct piece_cache_entry *entry = piece_cache_place(&e->cache, piece);
    struct token_list *out = e->out;
    if (entry->len == piece.len && memcmp(entry->bytes, piece.data, piece.len) == 0) {
        for (size_t i = 0; i < entry->n_ids; i++) {
            if (!token_list_add(out, entry->ids[i]))
                return false;
        }
        return true;
    }
    size_t first = out->count;
    if (!encode_uncached(e, piece))
        return false;
    size_t n = out->count - first;
    if (n <= PIECE_CACHE_IDS) {
        entry->len = (uint8_t)piece.len;
        entry->n_ids = (uint8_t)n;
        memcpy(entry->bytes, piece.data, piece.len);
        if (n)
            memcpy(entry->ids, out->ids + first, n * sizeof *entry->ids);
    }
    return true;
}

/* The first place behind `from` where no token can reach across; the end of the piece if none. */
static size_t next_cut(const struct tokenizer *t, struct str piece, size_t from)
{
    const uint8_t *p = (const uint8_t *)piece.data;
    for (size_t i = from + 1; i < piece.len; i++) {
        uint8_t left = p[i - 1], right = p[i];
        if (right < 0x80) {
            if (left < 0x80 && !(t->joins[left][right >> 6] >> (right & 63) & 1))
                return i;
        } else if (right == (uint8_t)METASPACE.data[0] && !t->joins_metaspace[left] &&
                   str_starts((struct str){piece.data + i, piece.len - i}, METASPACE)) {
            return i;
        }
    }
    return piece.len;
}

/* A part for a Unigram in single precision, where what it becomes may depend on what came before. */
static bool encode_summed(struct encoder *e, struct str part)
{
    const struct unigram *unigram = &e->tokenizer->unigram;
    struct token_list *out = e->out;
    if (!e->cache.entries || part.len > PIECE_CACHE_BYTES)
        return encode_model(e, part);
    struct piece_cache_entry *entry = piece_cache_place(&e->cache, part);
    if (entry->len != part.len || memcmp(entry->bytes, part.data, part.len) != 0) {
        size_t first = out->count, n;
        float margin;
        if (!unigram_measure(unigram, &e->unigram, part, &margin, out))
            return false;
        n = out->count - first;
        out->count = first;
        if (n > PIECE_CACHE_IDS)
            return encode_model(e, part);
        *entry = (struct piece_cache_entry){
            .len = (uint8_t)part.len, .n_ids = (uint8_t)n, .margin = margin};
        memcpy(entry->bytes, part.data, part.len);
        if (n)
            memcpy(entry->ids, out->ids + first, n * sizeof *entry->ids);
    }
    if (!unigram_holds(unigram, e->sum, entry->margin, part.len))
        return encode_model(e, part);
    e->sum = unigram_sum(unigram, e->sum, entry->ids, entry->n_ids);
    for (size_t i = 0; i < entry->n_ids; i++) {
        if (!token_list_add(out, entry->ids[i]))
            return false;
    }
    return true;
}

/* One unk too many where two parts of a piece met. */
static void fuse(struct encoder *e, size_t piece_first, size_t part_first)
{
    struct token_list *out = e->out;
    int32_t unk = e->tokenizer->unk;
    if (part_first == piece_first || part_first >= out->count || unk == VOCABULARY_NONE ||
        out->ids[part_first] != unk || out->ids[part_first - 1] != unk)
        return;
    memmove(out->ids + part_first, out->ids + part_first + 1,
            (out->count - part_first - 1) * sizeof *out->ids);
    out->count--;
}

static enum status encode_piece(void *user, struct str piece, struct error *err)
{
    struct encoder *e = user;
    const struct tokenizer *t = e->tokenizer;
    if (piece.len > PIECE_MAX)
        return error_set(err, STATUS_LIMIT,
                         "a piece of %zu bytes after normalization; the limit is %u", piece.len,
                         PIECE_MAX);
    if (e->bytes)
        piece.data = e->bytes + (piece.data - e->subject_data);
    bool ok = true;
    if (!t->unigram.float_sums)
        e->sum = 0;
    if (t->cuts) {
        size_t piece_first = e->out->count;
        for (size_t begin = 0; ok && begin < piece.len;) {
            size_t end = next_cut(t, piece, begin), first = e->out->count;
            struct str part = {piece.data + begin, end - begin};
            ok = t->unigram.float_sums ? encode_summed(e, part) : encode_cached(e, part);
            if (t->fuse_unk)
                fuse(e, piece_first, first);
            begin = end;
        }
    } else {
        ok = encode_cached(e, piece);
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
    const struct tokenizer *t = e->tokenizer;
    bool prefix = t->prefix_space && text.len && text.data[0] != ' ';
    size_t valid = t->kind == VOCABULARY_BYTE_BPE ? valid_prefix(text, 0) : text.len;
    struct buf prefixed = {0};
    struct str subject = text;
    e->bytes = NULL;
    if (prefix) {
        buf_append_char(&prefixed, ' ');
        buf_append_str(&prefixed, text);
        text = subject = buf_str(&prefixed);
        valid = valid_prefix(text, 0);
    }
    if (valid < text.len) {
        buf_clear(&e->subject);
        buf_append_str(&e->subject, text);
        for (; !e->subject.failed && valid < text.len; valid = valid_prefix(text, valid + 1))
            e->subject.data[valid] = INVALID_BYTE;
        subject = buf_str(&e->subject);
        e->bytes = text.data;
        e->subject_data = subject.data;
    }
    enum status status = prefixed.failed || e->subject.failed
                             ? error_set(err, STATUS_MEMORY, "encoding: out of memory")
                             : splitter_run_split(&e->run, subject, e->at_start, err);
    buf_release(&prefixed);
    e->at_start = e->after_control = false;
    return status;
}

/* --- added tokens --- */

static bool is_space(uint32_t c)
{
    return (char_class_of(c) & CHAR_SPACE) != 0;
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

/* Whether SentencePiece's dummy prefix comes before the text at hand. */
static bool puts_prefix(const struct encoder *e)
{
    switch (e->tokenizer->normalization.prefix) {
    case VOCABULARY_PREFIX_NEVER:
        return false;
    case VOCABULARY_PREFIX_FIRST:
        return e->at_start;
    case VOCABULARY_PREFIX_AFTER_CONTROL:
        return e->at_start || e->after_control;
    case VOCABULARY_PREFIX_ALWAYS:
        return true;
    }
    return false;
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
        e->before_user_defined = entry->kind == TOKEN_USER_DEFINED;
        if (begin > done)
            status = between(e, (struct str){text.data + done, begin - done}, done, trust, err);
        else if (e->at_start && entry->kind == TOKEN_USER_DEFINED && puts_prefix(e))
            status = encode_split(e, METASPACE, err);
        if (status == STATUS_OK && !token_list_add(e->out, match.id))
            status = error_set(err, STATUS_MEMORY, "encoding: out of memory");
        e->at_start = false;
        e->after_control = entry->kind != TOKEN_USER_DEFINED;
        e->sum =
            e->after_control ? 0 : unigram_pass(&e->tokenizer->unigram, e->sum, entry->text.len);
        done = entry->rstrip ? strip_right(text, match.end) : match.end;
    }
    e->before_user_defined = false;
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

/* Models of characters see U+FFFD for what is not UTF-8. */
static enum status make_valid(struct encoder *e, struct str *text, struct error *err)
{
    size_t valid = valid_prefix(*text, 0);
    if (e->tokenizer->kind == VOCABULARY_BYTE_BPE || valid == text->len)
        return STATUS_OK;
    buf_clear(&e->valid);
    struct detokenizer detokenizer = {0};
    detokenizer_push(&detokenizer, *text, &e->valid);
    detokenizer_flush(&detokenizer, &e->valid);
    if (e->valid.failed)
        return error_set(err, STATUS_MEMORY, "encoding: out of memory");
    *text = buf_str(&e->valid);
    return STATUS_OK;
}

/* Form C alone, with the trusted regions of the result. */
static enum status encode_nfc(struct encoder *e, struct str text, size_t offset,
                              const struct trust *trust, struct error *err)
{
    const struct tokenizer *t = e->tokenizer;
    bool normalize = t->normalization.n_steps && normalizer_needed(NORMALIZER_C, text);
    bool mapped = e->options->specials == TOKENIZER_SPECIALS_TRUSTED;
    struct buf normalized = {0};
    struct normalizer_map map = {0};
    struct trust local = {0};
    bool ok = true;
    if (normalize) {
        ok = normalizer_run(NORMALIZER_C, text, &normalized, mapped ? &map : NULL);
    } else if (mapped) {
        struct normalizer_chunk all = {text.len, text.len, false};
        ok = map_trust(trust, &(struct normalizer_map){&all, 1, 1}, offset, &local);
    }
    if (ok && normalize && mapped)
        ok = map_trust(trust, &map, offset, &local);
    struct str plain = normalize ? buf_str(&normalized) : text;
    enum status status = ok ? cut(e, &t->normalized, plain, &local, encode_last, err)
                            : error_set(err, STATUS_MEMORY, "encoding: out of memory");
    free(local.regions);
    normalizer_map_release(&map);
    buf_release(&normalized);
    return status;
}

/* Text between raw added tokens: normalize, cut the tokens that are searched afterwards, split. */
static enum status encode_between(struct encoder *e, struct str text, size_t offset,
                                  const struct trust *trust, struct error *err)
{
    const struct tokenizer *t = e->tokenizer;
    bool search = t->normalized.count > 0;
    if (search && (!t->normalization.n_steps || normalization_is_nfc(&t->normalization)))
        return encode_nfc(e, text, offset, trust, err);
    enum status status = make_valid(e, &text, err);
    struct normalization_place place = {puts_prefix(e), e->at_start || e->after_control,
                                        !e->before_user_defined};
    if (status == STATUS_OK)
        status = normalization_apply(&t->normalization, &e->normalization, text, place, &text, err);
    if (status != STATUS_OK)
        return status;
    struct trust none = {0};
    if (search)
        return cut(e, &t->normalized, text, &none, encode_last, err);
    return encode_split(e, text, err);
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

/* What is added around a text: a list, or the one token. */
static bool add_affix(struct encoder *e, const int32_t *ids, size_t n, int32_t single)
{
    if (!n)
        return single == VOCABULARY_NONE || token_list_add(e->out, single);
    for (size_t i = 0; i < n; i++) {
        if (!token_list_add(e->out, ids[i]))
            return false;
    }
    return true;
}

static enum status encode_text(struct encoder *e, struct str text, struct trust *trust,
                               struct error *err)
{
    const struct tokenizer *t = e->tokenizer;
    enum status status = STATUS_OK;
    bool ok = true;
    if (e->options->add_bos)
        ok = add_affix(e, t->before, t->n_before, t->bos);
    if (ok)
        status = cut(e, &t->raw, text, trust, encode_between, err);
    if (ok && status == STATUS_OK && e->options->add_eos)
        ok = add_affix(e, t->behind, t->n_behind, t->eos);
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
    struct encoder e = {.tokenizer = tokenizer, .options = options, .out = out, .at_start = true};
    struct trust trust = {0};
    enum status status = STATUS_OK;
    if (options->specials == TOKENIZER_SPECIALS_TRUSTED)
        status = read_spans(spans, n_spans, text.len, &trust, err);
    if (status == STATUS_OK) {
        splitter_run_open(&e.run, tokenizer->splitter, encode_piece, &e);
        piece_cache_open(&e.cache, tokenizer->pieces, text.len);
        status = encode_text(&e, text, &trust, err);
        piece_cache_close(&e.cache, tokenizer->pieces);
        splitter_run_close(&e.run);
    }
    free(trust.regions);
    bpe_scratch_release(&e.scratch);
    unigram_scratch_release(&e.unigram);
    normalization_run_close(&e.normalization);
    buf_release(&e.subject);
    buf_release(&e.valid);
    if (status != STATUS_OK)
        out->count = start;
    return status;
}
