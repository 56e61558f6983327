/*
 * Pre-tokenization with PCRE2.
 *
 * Hugging Face tokenizers match with Oniguruma. The two dialects agree on what pre-tokenizers use,
 * with these exceptions, which translate() takes care of:
 *   \s   Oniguruma: White_Space, which is U+0009..D, U+0085 and category Z. PCRE2 adds U+180E.
 *   \h   Oniguruma: a hexadecimal digit. PCRE2: horizontal space.
 *   [a&&b], [a[b]]   set operations; PCRE2 would read them as plain characters, so we refuse them.
 *
 * Matching never looks outside the piece that a step is given, as in the reference: a step's
 * subject is that piece alone.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer/splitter.h"

#include <pcre2.h>
#include <stdlib.h>

#include "text/tokenizer/utf8.h"

#define MATCH_LIMIT     20000000u
#define HEAP_LIMIT_KIB  (256u * 1024u)
#define JIT_STACK_FIRST ((size_t)64 << 10)
#define JIT_STACK_MAX   ((size_t)16 << 20)
#define SPACE_MEMBERS   "\\t-\\r\\x{85}\\p{Z}"
#define COMPILE_OPTIONS (PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C)

struct step {
    pcre2_code *code;
    bool jit;
    enum vocabulary_split_keep keep;
};

struct splitter {
    size_t n_steps;
    struct step steps[VOCABULARY_SPLITS_MAX];
};

/* The escape at pattern[*i] == '\\'. */
static bool translate_escape(struct str pattern, size_t *i, bool in_class, struct buf *out)
{
    char c = *i + 1 < pattern.len ? pattern.data[*i + 1] : '\0';
    const char *instead = NULL;
    if (c == 's')
        instead = in_class ? SPACE_MEMBERS : "[" SPACE_MEMBERS "]";
    else if (c == 'S' && !in_class)
        instead = "[^" SPACE_MEMBERS "]";
    else if (c == 'h')
        instead = in_class ? "0-9A-Fa-f" : "[0-9A-Fa-f]";
    else if (c == 'H' || c == 'Q' || c == 'E')
        return false;
    if (instead)
        buf_append_cstr(out, instead);
    else
        buf_append(out, pattern.data + *i, *i + 1 < pattern.len ? 2 : 1);
    *i += 1;
    return true;
}

static enum status translate(struct str pattern, struct buf *out, struct error *err)
{
    const char *refused = NULL;
    bool in_class = false;
    size_t class_start = 0;
    for (size_t i = 0; i < pattern.len && !refused; i++) {
        char c = pattern.data[i];
        char next = i + 1 < pattern.len ? pattern.data[i + 1] : '\0';
        if (c == '\\') {
            if (!translate_escape(pattern, &i, in_class, out))
                refused = "an escape (\\H, \\Q or \\E)";
            continue;
        }
        if (in_class && c == '[' && next == ':') {
            size_t end = str_find(pattern, STR_LIT(":]"), i + 2);
            if (end == SIZE_MAX) {
                refused = "an open POSIX class";
                break;
            }
            buf_append(out, pattern.data + i, end + 2 - i);
            i = end + 1;
            continue;
        }
        if (in_class && (c == '[' || (c == '&' && next == '&')))
            refused = "a set operation in a character class";
        else if (in_class && c == ']' && i > class_start)
            in_class = false;
        else if (!in_class && c == '[') {
            in_class = true;
            class_start = i + (next == '^' ? 2 : 1);
        }
        buf_append_char(out, c);
    }
    if (refused)
        return error_set(err, STATUS_UNSUPPORTED,
                         "pre_tokenizer: pattern %.*s uses %s, which sluice does not know",
                         STR_ARG(pattern), refused);
    return out->failed ? error_set(err, STATUS_MEMORY, "pre_tokenizer: out of memory") : STATUS_OK;
}

static enum status step_compile(struct step *step, const struct vocabulary_split *split,
                                struct error *err)
{
    struct buf pattern = {0};
    enum status status = translate(split->pattern, &pattern, err);
    if (status != STATUS_OK) {
        buf_release(&pattern);
        return status;
    }
    int code;
    PCRE2_SIZE offset;
    step->code =
        pcre2_compile((PCRE2_SPTR)pattern.data, pattern.len, COMPILE_OPTIONS, &code, &offset, NULL);
    if (!step->code) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        status = error_set(err, STATUS_MODEL,
                           "pre_tokenizer: pattern %.*s does not compile: %s at byte %zu",
                           STR_ARG(split->pattern), (const char *)message, (size_t)offset);
    } else {
        /* Where executable memory is forbidden the interpreter gives the same matches. */
        step->jit = pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE) == 0;
        step->keep = split->keep;
    }
    buf_release(&pattern);
    return status;
}

enum status splitter_create(const struct vocabulary_split *splits, size_t n_splits,
                            struct splitter **out, struct error *err)
{
    *out = NULL;
    if (n_splits > VOCABULARY_SPLITS_MAX)
        return error_set(err, STATUS_INTERNAL, "pre_tokenizer: too many steps");
    struct splitter *splitter = calloc(1, sizeof *splitter);
    if (!splitter)
        return error_set(err, STATUS_MEMORY, "pre_tokenizer: out of memory");
    for (size_t i = 0; i < n_splits; i++) {
        splitter->n_steps = i + 1;
        enum status status = step_compile(&splitter->steps[i], &splits[i], err);
        if (status != STATUS_OK) {
            splitter_free(splitter);
            return status;
        }
    }
    *out = splitter;
    return STATUS_OK;
}

void splitter_free(struct splitter *splitter)
{
    if (!splitter)
        return;
    for (size_t i = 0; i < splitter->n_steps; i++)
        pcre2_code_free(splitter->steps[i].code);
    free(splitter);
}

enum status splitter_run_open(struct splitter_run *run, const struct splitter *splitter,
                              splitter_piece piece, void *user, struct error *err)
{
    *run = (struct splitter_run){.splitter = splitter, .piece = piece, .user = user};
    run->match_data = pcre2_match_data_create(1, NULL);
    run->match_context = pcre2_match_context_create(NULL);
    if (!run->match_data || !run->match_context) {
        splitter_run_close(run);
        return error_set(err, STATUS_MEMORY, "pre_tokenizer: out of memory");
    }
    pcre2_set_match_limit(run->match_context, MATCH_LIMIT);
    pcre2_set_heap_limit(run->match_context, HEAP_LIMIT_KIB);
    return STATUS_OK;
}

void splitter_run_close(struct splitter_run *run)
{
    pcre2_match_data_free(run->match_data);
    pcre2_match_context_free(run->match_context);
    pcre2_jit_stack_free(run->jit_stack);
    *run = (struct splitter_run){0};
}

/* PCRE2's result code; a JIT stack is made only for the rare pattern that outgrows 32 KiB. */
static int step_match(struct splitter_run *run, const struct step *step, struct str subject,
                      size_t from)
{
    PCRE2_SPTR text = (PCRE2_SPTR)subject.data;
    if (!step->jit)
        return pcre2_match(step->code, text, subject.len, from, PCRE2_NO_UTF_CHECK, run->match_data,
                           run->match_context);
    int rc = pcre2_jit_match(step->code, text, subject.len, from, 0, run->match_data,
                             run->match_context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !run->jit_stack) {
        run->jit_stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MAX, NULL);
        if (!run->jit_stack)
            return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(run->match_context, NULL, run->jit_stack);
        rc = pcre2_jit_match(step->code, text, subject.len, from, 0, run->match_data,
                             run->match_context);
    }
    return rc;
}

static enum status match_error(int rc, struct error *err)
{
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(rc, message, sizeof message);
    enum status status = rc == PCRE2_ERROR_NOMEMORY ? STATUS_MEMORY
                         : rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT ||
                                 rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT
                             ? STATUS_LIMIT
                             : STATUS_MODEL;
    return error_set(err, status, "pre_tokenizer: a pattern cannot be matched on this text: %s",
                     (const char *)message);
}

static enum status split_from(struct splitter_run *run, size_t n_step, struct str subject,
                              size_t base, struct error *err);

static enum status emit(struct splitter_run *run, size_t n_step, struct str subject, size_t base,
                        size_t begin, size_t end, struct error *err)
{
    if (begin == end)
        return STATUS_OK;
    struct str piece = {subject.data + begin, end - begin};
    return split_from(run, n_step + 1, piece, base + begin, err);
}

/* Applies step n_step and, to its pieces, the rest. base: offset of `subject` in the whole. */
static enum status split_from(struct splitter_run *run, size_t n_step, struct str subject,
                              size_t base, struct error *err)
{
    if (n_step == run->splitter->n_steps)
        return run->piece(run->user, base, base + subject.len, err);
    const struct step *step = &run->splitter->steps[n_step];
    bool keep_matches = step->keep != VOCABULARY_SPLIT_GAPS;
    bool keep_gaps = step->keep != VOCABULARY_SPLIT_MATCHES;
    enum status status = STATUS_OK;
    size_t done = 0;
    for (size_t from = 0; from < subject.len && status == STATUS_OK;) {
        int rc = step_match(run, step, subject, from);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return match_error(rc, err);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->match_data);
        size_t begin = range[0], end = range[1];
        if (begin < from || end < begin || end > subject.len)
            return error_set(err, STATUS_MODEL,
                             "pre_tokenizer: a pattern moves its own match (\\K)");
        if (keep_gaps)
            status = emit(run, n_step, subject, base, done, begin, err);
        if (keep_matches && status == STATUS_OK)
            status = emit(run, n_step, subject, base, begin, end, err);
        done = end;
        from = end;
        /* An empty match: go on behind the next character. */
        if (end == begin && end < subject.len)
            from += utf8_length((uint8_t)subject.data[end]);
    }
    if (keep_gaps && status == STATUS_OK)
        status = emit(run, n_step, subject, base, done, subject.len, err);
    return status;
}

enum status splitter_run_split(struct splitter_run *run, struct str subject, struct error *err)
{
    return subject.len ? split_from(run, 0, subject, 0, err) : STATUS_OK;
}
