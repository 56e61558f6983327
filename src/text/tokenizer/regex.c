/*
 * PCRE2 in the place of Oniguruma.
 *
 * Hugging Face tokenizers match with Oniguruma. The two dialects agree on what tokenizers use, with
 * these exceptions, which translate() takes care of:
 *   \s   Oniguruma: White_Space, which is U+0009..D, U+0085 and category Z. PCRE2 adds U+180E.
 *   \h   Oniguruma: a hexadecimal digit. PCRE2: horizontal space.
 *   [a&&b], [a[b]]   set operations; PCRE2 would read them as plain characters, so we refuse them.
 *
 * Matching never looks outside of the subject that it is given, as in the reference.
 *
 * Patterns come from model files, texts from anybody, and a bad pair of them could run for years. So
 * one match may take a number of steps that grows with the text; places to begin are tried in
 * strides, between which the thread's CPU time is looked at; and a text may cost what a plain
 * pattern could never need. Whoever goes past one of these gets an error.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tokenizer/regex.h"

#include <pcre2.h>

#include "base/clock.h"

#define STEPS_LEAST     100000u /* of one match; a long word takes one or two for each character */
#define STEPS_PER_BYTE  8u
#define STRIDE          256u /* places to begin that are tried between two looks at the clock */
#define FINDS           16u  /* shorter searches between two looks */
#define SECONDS_LEAST   2u   /* of one run, and one more for each million bytes */
#define HEAP_LIMIT_KIB  (256u * 1024u)
#define JIT_STACK_FIRST ((size_t)64 << 10)
#define JIT_STACK_MAX   ((size_t)16 << 20)
#define SPACE_MEMBERS   "\\t-\\r\\x{85}\\p{Z}"
#define COMPILE_OPTIONS (PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT)

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
    else if (c == 'H' || c == 'Q' || c == 'E' || c == 'G')
        return false;
    if (instead)
        buf_append_cstr(out, instead);
    else
        buf_append(out, pattern.data + *i, *i + 1 < pattern.len ? 2 : 1);
    *i += 1;
    return true;
}

static enum status translate(struct str pattern, const char *what, struct buf *out,
                             struct error *err)
{
    const char *refused = NULL;
    bool in_class = false;
    size_t class_start = 0;
    for (size_t i = 0; i < pattern.len && !refused; i++) {
        char c = pattern.data[i];
        char next = i + 1 < pattern.len ? pattern.data[i + 1] : '\0';
        if (c == '\\') {
            if (!translate_escape(pattern, &i, in_class, out))
                refused = "an escape (\\H, \\Q, \\E or \\G)";
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
        else if (!in_class && c == '(' && next == '*')
            refused = "a verb, (*...)";
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
                         "%s: pattern %.*s uses %s, which sluice does not know", what,
                         STR_ARG(pattern), refused);
    return out->failed ? error_set(err, STATUS_MEMORY, "%s: out of memory", what) : STATUS_OK;
}

enum status regex_compile(struct regex *regex, struct str text, const char *what, struct error *err)
{
    struct buf pattern = {0};
    *regex = (struct regex){0};
    enum status status = translate(text, what, &pattern, err);
    if (status != STATUS_OK) {
        buf_release(&pattern);
        return status;
    }
    int code;
    PCRE2_SIZE offset;
    regex->code =
        pcre2_compile((PCRE2_SPTR)pattern.data, pattern.len, COMPILE_OPTIONS, &code, &offset, NULL);
    if (!regex->code) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        status = error_set(err, STATUS_MODEL, "%s: pattern %.*s does not compile: %s at byte %zu",
                           what, STR_ARG(text), (const char *)message, (size_t)offset);
    } else {
        /* Where executable memory is forbidden the interpreter gives the same matches. */
        regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    }
    buf_release(&pattern);
    return status;
}

void regex_release(struct regex *regex)
{
    pcre2_code_free(regex->code);
    *regex = (struct regex){0};
}

static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool run_open(struct regex_run *run)
{
    if (run->match_context)
        return true;
    run->match_data = pcre2_match_data_create(1, NULL);
    run->match_context = pcre2_match_context_create(NULL);
    if (!run->match_data || !run->match_context) {
        regex_run_close(run);
        return false;
    }
    run->started_ns = clock_now_ns();
    run->thread_started_ns = thread_ns();
    pcre2_set_heap_limit(run->match_context, HEAP_LIMIT_KIB);
    return true;
}

void regex_run_close(struct regex_run *run)
{
    pcre2_match_data_free(run->match_data);
    pcre2_match_context_free(run->match_context);
    pcre2_jit_stack_free(run->jit_stack);
    *run = (struct regex_run){0};
}

/* PCRE2's result code; a JIT stack is made only for the rare pattern that outgrows 32 KiB. */
static int match(struct regex_run *run, const struct regex *regex, struct str subject, size_t from)
{
    PCRE2_SPTR text = (PCRE2_SPTR)subject.data;
    if (!regex->jit)
        return pcre2_match(regex->code, text, subject.len, from, PCRE2_NO_UTF_CHECK,
                           run->match_data, run->match_context);
    int rc = pcre2_jit_match(regex->code, text, subject.len, from, 0, run->match_data,
                             run->match_context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !run->jit_stack) {
        run->jit_stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MAX, NULL);
        if (!run->jit_stack)
            return PCRE2_ERROR_NOMEMORY;
        pcre2_jit_stack_assign(run->match_context, NULL, run->jit_stack);
        rc = pcre2_jit_match(regex->code, text, subject.len, from, 0, run->match_data,
                             run->match_context);
    }
    return rc;
}

static enum status match_error(int rc, const char *what, struct error *err)
{
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(rc, message, sizeof message);
    enum status status = rc == PCRE2_ERROR_NOMEMORY ? STATUS_MEMORY
                         : rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT ||
                                 rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT
                             ? STATUS_LIMIT
                             : STATUS_MODEL;
    return error_set(err, status, "%s: a pattern cannot be matched on this text: %s", what,
                     (const char *)message);
}

/* The cheap clock first: the thread's own is a system call. */
static enum status check_time(const struct regex_run *run, size_t text_len, const char *what,
                              struct error *err)
{
    uint64_t seconds = SECONDS_LEAST + text_len / 1000000u;
    uint64_t most = seconds * 1000000000u;
    if (clock_now_ns() - run->started_ns <= most || thread_ns() - run->thread_started_ns <= most)
        return STATUS_OK;
    return error_set(err, STATUS_LIMIT,
                     "%s: a pattern takes more than %llu s on this text; it is of a kind that "
                     "explodes",
                     what, (unsigned long long)seconds);
}

static size_t next_char(struct str subject, size_t at)
{
    while (at < subject.len && ((uint8_t)subject.data[at] & 0xc0) == 0x80)
        at++;
    return at;
}

enum status regex_find(struct regex_run *run, const struct regex *regex, struct str subject,
                       size_t from, const char *what, bool *found, size_t *begin, size_t *end,
                       struct error *err)
{
    *found = false;
    if (!run_open(run))
        return error_set(err, STATUS_MEMORY, "%s: out of memory", what);
    uint64_t steps = STEPS_LEAST + STEPS_PER_BYTE * (uint64_t)subject.len;
    pcre2_set_match_limit(run->match_context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    int rc;
    for (size_t at = from;; at = next_char(subject, at + STRIDE + 1)) {
        pcre2_set_offset_limit(run->match_context, at + STRIDE);
        rc = match(run, regex, subject, at);
        bool more = rc == PCRE2_ERROR_NOMATCH && subject.len - at > STRIDE;
        bool look = more || ++run->finds % FINDS == 0;
        enum status status = look ? check_time(run, subject.len, what, err) : STATUS_OK;
        if (status != STATUS_OK)
            return status;
        if (rc != PCRE2_ERROR_NOMATCH)
            break;
        if (!more)
            return STATUS_OK;
    }
    if (rc < 0)
        return match_error(rc, what, err);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->match_data);
    *begin = range[0];
    *end = range[1];
    *found = true;
    if (*begin < from || *end < *begin || *end > subject.len)
        return error_set(err, STATUS_MODEL, "%s: a pattern moves its own match (\\K)", what);
    return STATUS_OK;
}
