/*
 * Normalization steps.
 *
 * Each step is a function from text to text that first looks whether it has anything to do: most
 * text is ASCII without oddities, and then a step costs one glance. Two buffers take turns.
 */
#include "text/tokenizer/normalization.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "text/tokenizer/char_class.h"
#include "text/tokenizer/utf8.h"

#define WHAT      "normalizer"
#define DROPPED   0xff
#define ASCII_RUN 256

static bool is_ascii(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if ((uint8_t)text.data[i] >= 0x80)
            return false;
    }
    return true;
}

static void put_char(uint32_t c, struct buf *out)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    buf_append(out, bytes, (size_t)n);
}

/* --- steps that map one character to some text --- */

static void lower_char(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out)
{
    (void)rule;
    put_char((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), out);
    if (c == 0x130) /* the one capital whose small letter is two characters */
        put_char(0x307, out);
}

static void accent_char(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out)
{
    bool drop = rule->nonspacing ? utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN
                                 : (char_class_of(c) & CHAR_MARK) != 0;
    if (!drop)
        put_char(c, out);
}

static void clean_char(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out)
{
    (void)rule;
    unsigned class = char_class_of(c);
    if (class & CHAR_SPACE && (c == '\t' || c == '\n' || c == '\r' || !(class & CHAR_CONTROL)))
        buf_append_char(out, ' ');
    else if (c != 0 && c != 0xfffd && !(class & CHAR_CONTROL))
        put_char(c, out);
}

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static void chinese_char(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out)
{
    (void)rule;
    bool chinese = is_chinese(c);
    if (chinese)
        buf_append_char(out, ' ');
    put_char(c, out);
    if (chinese)
        buf_append_char(out, ' ');
}

/* What Google's neural translation systems drop, and what they take for a space. */
static void nmt_char(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out)
{
    (void)rule;
    if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
        c == 0x9f)
        return;
    bool space = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                 (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                 c == 0xfeff || c == 0xfffd;
    if (space)
        buf_append_char(out, ' ');
    else
        put_char(c, out);
}

typedef void char_step(const struct vocabulary_normalizer *rule, uint32_t c, struct buf *out);

static char_step *char_step_of(enum vocabulary_normalizer_kind kind)
{
    switch (kind) {
    case VOCABULARY_NORMALIZER_LOWERCASE:
        return lower_char;
    case VOCABULARY_NORMALIZER_STRIP_ACCENTS:
        return accent_char;
    case VOCABULARY_NORMALIZER_BERT_CLEAN:
        return clean_char;
    case VOCABULARY_NORMALIZER_BERT_CHINESE:
        return chinese_char;
    case VOCABULARY_NORMALIZER_NMT:
        return nmt_char;
    default:
        return NULL;
    }
}

/* ASCII stays ASCII, or is dropped. */
static void ascii_table(struct normalization_step *step)
{
    char_step *each = char_step_of(step->rule.kind);
    for (uint32_t c = 0; each && c < 128; c++) {
        struct buf one = {0};
        each(&step->rule, c, &one);
        step->ascii[c] = one.len ? (uint8_t)one.data[0] : DROPPED;
        buf_release(&one);
    }
}

static void each_char(const struct normalization_step *step, char_step *each, struct str text,
                      struct buf *out)
{
    const uint8_t *p = (const uint8_t *)text.data;
    for (size_t i = 0; i < text.len && buf_reserve(out, ASCII_RUN);) {
        size_t begin = i;
        while (i < text.len && p[i] < 0x80 && i - begin < ASCII_RUN) {
            uint8_t c = step->ascii[p[i++]];
            out->data[out->len] = (char)c;
            out->len += c != DROPPED;
        }
        if (i > begin)
            continue;
        uint32_t c;
        unsigned length = utf8_decode(p + i, text.len - i, &c);
        if (length)
            each(&step->rule, c, out);
        else
            buf_append_char(out, (char)p[i]);
        i += length ? length : 1;
    }
    buf_append(out, "", 0); /* the NUL behind */
}

/* --- the others --- */

static size_t space_at(struct str text, size_t i)
{
    uint32_t c;
    unsigned n = utf8_decode((const uint8_t *)text.data + i, text.len - i, &c);
    return n && char_class_of(c) & CHAR_SPACE ? n : 0;
}

static struct str strip(struct str text, bool left, bool right)
{
    size_t begin = 0, n;
    while (left && begin < text.len && (n = space_at(text, begin)))
        begin += n;
    text = (struct str){text.data + begin, text.len - begin};
    while (right && text.len) {
        uint32_t c;
        unsigned length = utf8_decode_last((const uint8_t *)text.data, text.len, &c);
        if (!length || !(char_class_of(c) & CHAR_SPACE))
            break;
        text.len -= length;
    }
    return text;
}

static enum status replace(const struct normalization_step *step, struct normalization_run *run,
                           struct str text, struct buf *out, struct error *err)
{
    size_t done = 0;
    for (size_t from = 0; from < text.len;) {
        bool found = true;
        size_t begin, end;
        if (step->rule.regex) {
            enum status status =
                regex_find(&run->regex, &step->regex, text, from, WHAT, &found, &begin, &end, err);
            if (status != STATUS_OK)
                return status;
        } else {
            begin = str_find(text, step->rule.pattern, from);
            found = begin != SIZE_MAX;
            end = found ? begin + step->rule.pattern.len : 0;
        }
        if (!found)
            break;
        if (end > begin) {
            buf_append(out, text.data + done, begin - done);
            buf_append_str(out, step->rule.content);
            done = end;
        }
        from = end > begin ? end : end + 1;
        while (from < text.len && ((uint8_t)text.data[from] & 0xc0) == 0x80)
            from++;
    }
    buf_append(out, text.data + done, text.len - done);
    return STATUS_OK;
}

/* SentencePiece: drop leading, doubled and trailing spaces (left), put one in front, escape all. */
static void escape_spaces(const struct vocabulary_normalizer *rule, struct str text,
                          struct normalization_place place, struct buf *out)
{
    struct str escaped = rule->content;
    while (rule->left && place.starts && text.len && text.data[0] == ' ')
        text = (struct str){text.data + 1, text.len - 1};
    while (rule->left && place.ends && text.len && text.data[text.len - 1] == ' ')
        text.len--;
    if (place.prefix && (text.len || !place.ends))
        buf_append_str(out, escaped);
    for (size_t i = 0; i < text.len;) {
        const char *space = memchr(text.data + i, ' ', text.len - i);
        size_t end = space ? (size_t)(space - text.data) : text.len;
        buf_append(out, text.data + i, end - i);
        if (space)
            buf_append_str(out, escaped);
        i = end + (space != NULL);
        while (space && rule->left && i < text.len && text.data[i] == ' ')
            i++;
    }
}

static bool is_form(enum vocabulary_normalizer_kind kind, enum normalizer_form *form)
{
    switch (kind) {
    case VOCABULARY_NORMALIZER_NFC:
        *form = NORMALIZER_C;
        return true;
    case VOCABULARY_NORMALIZER_NFD:
        *form = NORMALIZER_D;
        return true;
    case VOCABULARY_NORMALIZER_NFKC:
        *form = NORMALIZER_KC;
        return true;
    case VOCABULARY_NORMALIZER_NFKD:
        *form = NORMALIZER_KD;
        return true;
    default:
        return false;
    }
}

/* False: the step leaves this text as it is. */
static bool has_work(const struct normalization_step *step, struct str text)
{
    enum normalizer_form form;
    if (is_form(step->rule.kind, &form))
        return normalizer_needed(form, text);
    switch (step->rule.kind) {
    case VOCABULARY_NORMALIZER_STRIP_ACCENTS:
    case VOCABULARY_NORMALIZER_BERT_CHINESE:
        return !is_ascii(text);
    case VOCABULARY_NORMALIZER_PREPEND:
        return text.len > 0;
    case VOCABULARY_NORMALIZER_REPLACE:
        return step->rule.regex || str_find(text, step->rule.pattern, 0) != SIZE_MAX;
    default:
        return true;
    }
}

static enum status step_run(const struct normalization_step *step, struct normalization_run *run,
                            struct str text, struct normalization_place place, struct buf *out,
                            struct error *err)
{
    const struct vocabulary_normalizer *rule = &step->rule;
    enum status status = STATUS_OK;
    char_step *each = char_step_of(rule->kind);
    enum normalizer_form form;
    if (is_form(rule->kind, &form)) {
        if (!normalizer_run(form, text, out, NULL))
            out->failed = true;
        return status;
    }
    if (each) {
        each_char(step, each, text, out);
        return status;
    }
    switch (rule->kind) {
    case VOCABULARY_NORMALIZER_STRIP:
        buf_append_str(out, strip(text, rule->left, rule->right));
        break;
    case VOCABULARY_NORMALIZER_PREPEND:
        buf_append_str(out, rule->content);
        buf_append_str(out, text);
        break;
    case VOCABULARY_NORMALIZER_REPLACE:
        status = replace(step, run, text, out, err);
        break;
    case VOCABULARY_NORMALIZER_CHARSMAP:
        charsmap_run(&step->charsmap, text, rule->graphemes, out);
        break;
    case VOCABULARY_NORMALIZER_SPACES:
        escape_spaces(rule, text, place, out);
        break;
    default:
        break;
    }
    return status;
}

static enum status step_init(struct normalization_step *step,
                             const struct vocabulary_normalizer *rule, struct error *err)
{
    step->rule = *rule;
    buf_append_str(&step->bytes, rule->pattern);
    buf_append_str(&step->bytes, rule->content);
    if (step->bytes.failed)
        return error_set(err, STATUS_MEMORY, WHAT ": out of memory");
    struct str all = buf_str(&step->bytes);
    step->rule.pattern = (struct str){all.data, rule->pattern.len};
    step->rule.content = (struct str){all.data + rule->pattern.len, rule->content.len};
    ascii_table(step);
    if (rule->kind == VOCABULARY_NORMALIZER_CHARSMAP)
        return charsmap_init(&step->charsmap, step->rule.content, err);
    if (rule->kind == VOCABULARY_NORMALIZER_REPLACE && rule->regex)
        return regex_compile(&step->regex, step->rule.pattern, WHAT, err);
    if (rule->kind == VOCABULARY_NORMALIZER_REPLACE && !rule->pattern.len)
        return error_set(err, STATUS_MODEL, WHAT ": Replace with an empty pattern");
    return STATUS_OK;
}

enum status normalization_init(struct normalization *normalization,
                               const struct vocabulary *vocabulary, struct error *err)
{
    *normalization = (struct normalization){0};
    normalization->steps =
        calloc(vocabulary->n_normalizers + (size_t)1, sizeof *normalization->steps);
    if (!normalization->steps)
        return error_set(err, STATUS_MEMORY, WHAT ": out of memory");
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < vocabulary->n_normalizers; i++) {
        normalization->n_steps = i + 1;
        status = step_init(&normalization->steps[i], &vocabulary->normalizers[i], err);
        if (vocabulary->normalizers[i].kind == VOCABULARY_NORMALIZER_SPACES)
            normalization->prefix = vocabulary->normalizers[i].prefix;
    }
    return status;
}

void normalization_release(struct normalization *normalization)
{
    for (size_t i = 0; i < normalization->n_steps; i++) {
        regex_release(&normalization->steps[i].regex);
        charsmap_release(&normalization->steps[i].charsmap);
        buf_release(&normalization->steps[i].bytes);
    }
    free(normalization->steps);
    *normalization = (struct normalization){0};
}

bool normalization_is_nfc(const struct normalization *normalization)
{
    return normalization->n_steps == 1 &&
           normalization->steps[0].rule.kind == VOCABULARY_NORMALIZER_NFC;
}

void normalization_run_close(struct normalization_run *run)
{
    buf_release(&run->buffers[0]);
    buf_release(&run->buffers[1]);
    regex_run_close(&run->regex);
}

enum status normalization_apply(const struct normalization *normalization,
                                struct normalization_run *run, struct str text,
                                struct normalization_place place, struct str *out,
                                struct error *err)
{
    unsigned next = 0;
    for (size_t i = 0; i < normalization->n_steps; i++) {
        const struct normalization_step *step = &normalization->steps[i];
        if (!has_work(step, text))
            continue;
        struct buf *buffer = &run->buffers[next];
        buf_clear(buffer);
        enum status status = step_run(step, run, text, place, buffer, err);
        if (status != STATUS_OK)
            return status;
        if (buffer->failed)
            return error_set(err, STATUS_MEMORY, WHAT ": out of memory");
        text = buf_str(buffer);
        next ^= 1;
    }
    *out = text;
    return STATUS_OK;
}
