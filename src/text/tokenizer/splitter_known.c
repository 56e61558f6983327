/*
 * The families of patterns, each a cascade of tests in the order of the pattern's alternatives.
 *
 * Their common end is ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:
 *   - punctuation with an optional space before it, and the line ends behind it;
 *   - white space up to its last line end;
 *   - white space without its last character, where something else follows;
 *   - white space.
 * Every run is scanned at most a constant number of times, so matching is linear.
 */
#include "text/tokenizer/splitter_known.h"

#include "text/tokenizer/vocabulary.h"

#define LONG_S 0x17f /* folds to s, so (?i:'s) matches it */

struct cursor {
    const struct char_classes *classes;
    const uint8_t *p;
    size_t n;
};

static struct cursor cursor_of(const struct char_classes *classes, struct str text)
{
    return (struct cursor){classes, (const uint8_t *)text.data, text.len};
}

static inline unsigned class_at(const struct cursor *t, size_t i, unsigned *length)
{
    return char_class_at(t->classes, t->p, t->n, i, length);
}

/* End of the run of characters that have a bit of `any` and none of `none`. */
static inline size_t run(const struct cursor *t, size_t i, unsigned any, unsigned none)
{
    unsigned length;
    while (i < t->n) {
        unsigned class = class_at(t, i, &length);
        if (!(class & any) || class & none)
            break;
        i += length;
    }
    return i;
}

/* End of the run of characters that have no bit of `none`. */
static inline size_t run_without(const struct cursor *t, size_t i, unsigned none)
{
    unsigned length;
    while (i < t->n && !(class_at(t, i, &length) & none))
        i += length;
    return i;
}

static size_t digits(const struct cursor *t, size_t i, unsigned most)
{
    unsigned length;
    for (unsigned k = 0; i < t->n && (most == 0 || k < most); k++) {
        if (!(class_at(t, i, &length) & CHAR_NUMBER))
            break;
        i += length;
    }
    return i;
}

/* 's 't 'm 'd 're 've 'll at i; 0: none. */
static size_t contraction(const struct cursor *t, size_t i, bool fold)
{
    if (t->p[i] != '\'' || i + 1 >= t->n)
        return 0;
    uint8_t fold_bit = fold ? 0x20 : 0;
    uint8_t a = t->p[i + 1];
    if (fold && a == 0xc5 && i + 2 < t->n && t->p[i + 2] == (0x80 | (LONG_S & 0x3f)))
        return i + 3;
    a |= fold_bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return i + 2;
    if (i + 2 >= t->n)
        return 0;
    uint8_t b = t->p[i + 2] | fold_bit;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return i + 3;
    return 0;
}

/* \s+(?!\S)|\s+ with, before it where `lines`, \s*[\r\n]+ */
static size_t spaces(const struct cursor *t, size_t i, bool lines)
{
    size_t last = i, after_line = 0, end = i;
    unsigned length;
    while (end < t->n) {
        unsigned class = class_at(t, end, &length);
        if (!(class & CHAR_SPACE))
            break;
        last = end;
        end += length;
        if (class & CHAR_NEWLINE)
            after_line = end;
    }
    if (lines && after_line)
        return after_line;
    return end < t->n && last > i ? last : end;
}

static size_t line_ends(const struct cursor *t, size_t i, bool slash)
{
    while (i < t->n && (t->p[i] == '\r' || t->p[i] == '\n' || (slash && t->p[i] == '/')))
        i++;
    return i;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t find_gpt2(const struct splitter_known *known, const struct char_classes *classes,
                        struct str text, size_t from, size_t *begin)
{
    (void)known;
    struct cursor t = cursor_of(classes, text);
    *begin = from;
    if (from >= t.n)
        return 0;
    size_t end = contraction(&t, from, false);
    if (end)
        return end;
    unsigned length;
    size_t i = from;
    unsigned class = class_at(&t, i, &length);
    if (t.p[i] == ' ' && i + 1 < t.n) {
        unsigned next = class_at(&t, i + 1, &length);
        if (!(next & CHAR_SPACE)) {
            class = next;
            i++;
        }
    }
    if (class & CHAR_LETTER)
        return run(&t, i, CHAR_LETTER, 0);
    if (class & CHAR_NUMBER)
        return run(&t, i, CHAR_NUMBER, 0);
    if (!(class & CHAR_SPACE))
        return run_without(&t, i, CHAR_SPACE | CHAR_LETTER | CHAR_NUMBER);
    return spaces(&t, from, false);
}

/* From ` ?[^\s\p{L}\p{N}]+[\r\n]*` on; `letters` are what is neither punctuation nor space. */
static size_t find_rest(const struct splitter_known *known, const struct cursor *t, size_t from,
                        unsigned letters)
{
    unsigned none = CHAR_SPACE | CHAR_NUMBER | letters;
    unsigned length;
    size_t i = from + (t->p[from] == ' ');
    if (i < t->n && !(class_at(t, i, &length) & none))
        return line_ends(t, run_without(t, i, none), known->slash);
    return spaces(t, from, true);
}

/* (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|... */
static size_t find_llama3(const struct splitter_known *known, const struct char_classes *classes,
                          struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    *begin = from;
    if (from >= t.n)
        return 0;
    unsigned letters = CHAR_LETTER | (known->marks ? CHAR_MARK : 0);
    size_t end = known->contraction_first ? contraction(&t, from, true) : 0;
    if (end)
        return end;
    unsigned length, next_length;
    unsigned class = class_at(&t, from, &length);
    if (class & letters)
        return run(&t, from, letters, 0);
    if (class & CHAR_NUMBER)
        return digits(&t, from, known->digits);
    if (!(class & CHAR_NEWLINE) && from + length < t.n &&
        class_at(&t, from + length, &next_length) & letters)
        return run(&t, from + length, letters, 0);
    return find_rest(known, &t, from, letters);
}

/* What the two halves of a word may hold: capitals first, then small letters; characters without
 * case, and marks, may be in both. */
static bool in_first(unsigned class)
{
    return class & CHAR_MARK || (class & CHAR_LETTER && !(class & CHAR_LOWER));
}

static bool in_second(unsigned class)
{
    return class & CHAR_MARK || (class & CHAR_LETTER && !(class & CHAR_UPPER));
}

struct cased {
    size_t first_end;  /* of the run that the first half may hold */
    size_t both_end;   /* behind the last character of it that the second half may hold, or 0 */
    size_t second_end; /* of the run of the second half behind first_end */
};

static struct cased scan_cased(const struct cursor *t, size_t i)
{
    struct cased cased = {.first_end = i};
    unsigned length, class = 0;
    while (cased.first_end < t->n && in_first(class = class_at(t, cased.first_end, &length))) {
        cased.first_end += length;
        if (in_second(class))
            cased.both_end = cased.first_end;
    }
    cased.second_end = cased.first_end;
    while (cased.second_end < t->n && in_second(class_at(t, cased.second_end, &length)))
        cased.second_end += length;
    return cased;
}

/* FIRST*SECOND+ from i, or 0. The first half gives back what the second needs. */
static size_t small_word(const struct cased *cased)
{
    return cased->second_end > cased->first_end ? cased->second_end : cased->both_end;
}

/* PREFIX?FIRST*SECOND+|PREFIX?FIRST+SECOND*, or 0. */
static size_t cased_word(const struct cursor *t, size_t from)
{
    unsigned length;
    unsigned class = class_at(t, from, &length);
    bool prefix = !(class & (CHAR_NEWLINE | CHAR_LETTER | CHAR_NUMBER));
    size_t inner = from + length;
    struct cased behind = {0}, here = scan_cased(t, from);
    if (prefix && inner < t->n)
        behind = scan_cased(t, inner);
    if (behind.first_end && small_word(&behind))
        return small_word(&behind);
    if (small_word(&here))
        return small_word(&here);
    if (behind.first_end > inner)
        return behind.first_end;
    return here.first_end > from ? here.first_end : 0;
}

/* [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|...)?|... */
static size_t find_gpt4o(const struct splitter_known *known, const struct char_classes *classes,
                         struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    *begin = from;
    if (from >= t.n)
        return 0;
    size_t end = cased_word(&t, from);
    if (end) {
        size_t more = known->contraction_last && end < t.n ? contraction(&t, end, true) : 0;
        return more ? more : end;
    }
    unsigned length;
    if (class_at(&t, from, &length) & CHAR_NUMBER)
        return digits(&t, from, known->digits);
    return find_rest(known, &t, from, CHAR_LETTER);
}

static bool ascii_letter(uint8_t c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

/* One alternative of DeepSeek's main pattern at i; 0: nothing matches there. */
static size_t match_deepseek(const struct splitter_known *known, const struct cursor *t, size_t i)
{
    unsigned length, next_length;
    unsigned class = class_at(t, i, &length);
    unsigned marks = CHAR_PUNCTUATION | CHAR_SYMBOL, letters = CHAR_LETTER | CHAR_MARK;
    if (t->p[i] < 0x80 && class & marks && i + 1 < t->n && ascii_letter(t->p[i + 1])) {
        for (i++; i < t->n && ascii_letter(t->p[i]);)
            i++;
        return i;
    }
    if (class & letters)
        return run(t, i, letters, 0);
    if (!(class & (CHAR_NEWLINE | marks)) && i + length < t->n &&
        class_at(t, i + length, &next_length) & letters)
        return run(t, i + length, letters, 0);
    size_t inner = i + (t->p[i] == ' ');
    if (inner < t->n && class_at(t, inner, &next_length) & marks)
        return line_ends(t, run(t, inner, marks, 0), known->slash);
    return class & CHAR_SPACE ? spaces(t, i, true) : 0;
}

static size_t find_deepseek(const struct splitter_known *known, const struct char_classes *classes,
                            struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    for (*begin = from; *begin < t.n;) {
        size_t end = match_deepseek(known, &t, *begin);
        if (end)
            return end;
        *begin += utf8_length(t.p[*begin]);
    }
    return 0;
}

/* \p{N}{1,digits} */
static size_t find_digits(const struct splitter_known *known, const struct char_classes *classes,
                          struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    *begin = run_without(&t, from, CHAR_NUMBER);
    return *begin < t.n ? digits(&t, *begin, known->digits) : 0;
}

/* What \b takes for a part of a word. */
static bool in_word(const struct cursor *t, size_t i)
{
    unsigned length;
    return i < t->n && (t->p[i] == '_' || class_at(t, i, &length) & (CHAR_LETTER | CHAR_NUMBER));
}

/* \p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?!\p{Nd})), bounded: \d{1,3}(?=(?:\d{3})*\b). A run of digits is
 * counted at its start; behind a match in it, what is left is a multiple of three. */
static size_t find_groups(const struct splitter_known *known, const struct char_classes *classes,
                          struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    uint32_t c = 0;
    unsigned length, count = 0;
    bool inside = from && utf8_decode_last(t.p, from, &c) && char_class_of(c) & CHAR_DIGIT;
    *begin = from;
    if (inside && from < t.n && class_at(&t, from, &length) & CHAR_DIGIT)
        count = 3;
    for (size_t end = from; !count;) {
        *begin = end = run_without(&t, end, CHAR_DIGIT);
        if (end >= t.n)
            return 0;
        unsigned n = 0;
        for (; end < t.n && class_at(&t, end, &length) & CHAR_DIGIT; end += length)
            n = n % 3 + 1;
        if (!known->bounded || !in_word(&t, end))
            count = n;
    }
    size_t end = *begin;
    while (count--)
        end += utf8_length(t.p[end]);
    return end;
}

/* \s+$ */
static size_t find_trailing(const struct splitter_known *known, const struct char_classes *classes,
                            struct str text, size_t from, size_t *begin)
{
    (void)known;
    (void)classes;
    const uint8_t *p = (const uint8_t *)text.data;
    uint32_t c;
    *begin = text.len;
    while (*begin > from) {
        unsigned length = utf8_decode_last(p, *begin, &c);
        if (!length || !(char_class_of(c) & CHAR_SPACE))
            break;
        *begin -= length;
    }
    return *begin < text.len ? text.len : 0;
}

/* \s+ */
static size_t find_spaces(const struct splitter_known *known, const struct char_classes *classes,
                          struct str text, size_t from, size_t *begin)
{
    (void)known;
    struct cursor t = cursor_of(classes, text);
    *begin = run_without(&t, from, CHAR_SPACE);
    return *begin < t.n ? run(&t, *begin, CHAR_SPACE, 0) : 0;
}

/* BERT: what counts as punctuation, one by one. */
static size_t find_punctuation(const struct splitter_known *known,
                               const struct char_classes *classes, struct str text, size_t from,
                               size_t *begin)
{
    (void)known;
    struct cursor t = cursor_of(classes, text);
    unsigned length;
    for (*begin = from; *begin < t.n; *begin += length) {
        unsigned class = class_at(&t, *begin, &length);
        if (class & CHAR_PUNCTUATION || (t.p[*begin] < 0x80 && class & CHAR_SYMBOL))
            return *begin + length;
    }
    return 0;
}

static bool is_cjk(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fa5) || (c >= 0x3040 && c <= 0x30ff);
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static size_t find_cjk(const struct splitter_known *known, const struct char_classes *classes,
                       struct str text, size_t from, size_t *begin)
{
    (void)known;
    struct cursor t = cursor_of(classes, text);
    uint32_t c = 0;
    size_t i = from;
    /* All of them are three bytes, with a first byte of 0xe3 or more. */
    for (; i < t.n; i += utf8_length(t.p[i])) {
        if (t.p[i] >= 0xe3 && utf8_decode(t.p + i, t.n - i, &c) && is_cjk(c))
            break;
    }
    *begin = i;
    while (i < t.n && t.p[i] >= 0xe3 && utf8_decode(t.p + i, t.n - i, &c) && is_cjk(c))
        i += 3;
    return i > *begin ? i : 0;
}

static inline bool is_member(const struct splitter_known *known, uint8_t first, unsigned class)
{
    bool symbol = known->symbols && first < 0x80 && class & CHAR_SYMBOL && first != known->except;
    return symbol || class & known->classes;
}

/* \s?[classes symbols]+ */
static size_t find_class(const struct splitter_known *known, const struct char_classes *classes,
                         struct str text, size_t from, size_t *begin)
{
    struct cursor t = cursor_of(classes, text);
    unsigned length = 1, class;
    size_t i = from, space = SIZE_MAX; /* right before i, if there is one */
    for (; i < t.n; i += length) {
        class = class_at(&t, i, &length);
        if (is_member(known, t.p[i], class))
            break;
        space = class & CHAR_SPACE ? i : SIZE_MAX;
    }
    *begin = known->space && space != SIZE_MAX ? space : i;
    if (i >= t.n)
        return 0;
    for (; i < t.n; i += length) {
        class = class_at(&t, i, &length);
        if (!is_member(known, t.p[i], class))
            break;
    }
    return i;
}

/* [\r\n] */
static size_t find_line_end(const struct splitter_known *known, const struct char_classes *classes,
                            struct str text, size_t from, size_t *begin)
{
    (void)known;
    (void)classes;
    *begin = from;
    while (*begin < text.len && text.data[*begin] != '\n' && text.data[*begin] != '\r')
        ++*begin;
    return *begin < text.len ? *begin + 1 : 0;
}

/* [0-9][0-9][0-9] */
static size_t find_three_digits(const struct splitter_known *known,
                                const struct char_classes *classes, struct str text, size_t from,
                                size_t *begin)
{
    unsigned count = 0;
    (void)known;
    (void)classes;
    for (size_t i = from; i < text.len; i++) {
        count = text.data[i] >= '0' && text.data[i] <= '9' ? count + 1 : 0;
        if (count == 3) {
            *begin = i - 2;
            return i + 1;
        }
    }
    return 0;
}

/* CLIP: two control tokens, 's and the like, then runs of letters, single numbers, or the rest. */
static size_t find_clip(const struct splitter_known *known, const struct char_classes *classes,
                        struct str text, size_t from, size_t *begin)
{
    static const struct str controls[] = {{"<|startoftext|>", 15}, {"<|endoftext|>", 13}};
    struct cursor t = cursor_of(classes, text);
    unsigned length;
    size_t i = run(&t, from, CHAR_SPACE, 0);
    (void)known;
    *begin = i;
    if (i >= t.n)
        return 0;
    for (size_t k = 0; t.p[i] == '<' && k < 2; k++) {
        if (str_starts((struct str){text.data + i, text.len - i}, controls[k]))
            return i + controls[k].len;
    }
    size_t end = contraction(&t, i, false);
    if (end)
        return end;
    unsigned class = class_at(&t, i, &length);
    if (class & CHAR_LETTER)
        return run(&t, i, CHAR_LETTER, 0);
    return class & CHAR_NUMBER ? i + length
                               : run_without(&t, i, CHAR_SPACE | CHAR_LETTER | CHAR_NUMBER);
}

static const struct splitter_known known_patterns[] = {
    {.pattern = VOCABULARY_SPLIT_GPT2, .find = find_gpt2},
    {.pattern = VOCABULARY_SPLIT_QWEN2,
     .find = find_llama3,
     .digits = 1,
     .contraction_first = true},
    {.pattern = VOCABULARY_SPLIT_QWEN35,
     .find = find_llama3,
     .digits = 1,
     .marks = true,
     .contraction_first = true},
    {.pattern = VOCABULARY_SPLIT_LLAMA3,
     .find = find_llama3,
     .digits = 3,
     .contraction_first = true},
    {.pattern = VOCABULARY_SPLIT_GPT4O,
     .find = find_gpt4o,
     .digits = 3,
     .contraction_last = true,
     .slash = true},
    {.pattern = VOCABULARY_SPLIT_TEKKEN, .find = find_gpt4o, .digits = 1, .slash = true},
    {.pattern = VOCABULARY_SPLIT_KIMI, .find = find_gpt4o, .digits = 3, .contraction_last = true},
    {.pattern = VOCABULARY_SPLIT_GROUPS, .find = find_groups},
    {.pattern = VOCABULARY_SPLIT_GROUPS_BOUNDED, .find = find_groups, .bounded = true},
    {.pattern = "\\s+$", .find = find_trailing},
    {.pattern = VOCABULARY_SPLIT_DEEPSEEK3, .find = find_deepseek},
    {.pattern = VOCABULARY_SPLIT_CJK, .find = find_cjk},
    {.pattern = "\\p{N}{1,3}", .find = find_digits, .digits = 3},
    {.pattern = "\\p{N}", .find = find_digits, .digits = 1},
    {.pattern = "\\p{N}+", .find = find_digits},
    {.pattern = "\\s+", .find = find_spaces},
    {.pattern = VOCABULARY_SPLIT_BERT, .find = find_punctuation},
    {.pattern = VOCABULARY_SPLIT_CLIP, .find = find_clip},
    {.pattern = "\\s?\\p{L}+", .find = find_class, .classes = CHAR_LETTER, .space = true},
    {.pattern = "\\s?\\p{P}+", .find = find_class, .classes = CHAR_PUNCTUATION, .space = true},
    {.pattern = "[\\p{P}\\$\\+<=>\\^~\\|`]+",
     .find = find_class,
     .classes = CHAR_PUNCTUATION,
     .symbols = true},
    {.pattern = "[\\p{P}\\$\\+<=>\\^~\\|]+",
     .find = find_class,
     .classes = CHAR_PUNCTUATION,
     .symbols = true,
     .except = '`'},
    {.pattern = "[\r\n]", .find = find_line_end},
    {.pattern = "[0-9][0-9][0-9]", .find = find_three_digits},
};

const struct splitter_known *splitter_known_pattern(struct str pattern)
{
    for (size_t i = 0; i < sizeof known_patterns / sizeof *known_patterns; i++) {
        if (str_eq_cstr(pattern, known_patterns[i].pattern))
            return &known_patterns[i];
    }
    return NULL;
}
