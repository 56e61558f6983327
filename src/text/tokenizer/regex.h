/*
 * Regular expressions out of model files, under limits.
 *
 * Patterns are hostile until proven otherwise: matching runs under PCRE2's match and heap limits,
 * and hitting one is STATUS_LIMIT. A regex is read-only after compiling (any thread); a regex_run is
 * the working memory of one call and belongs to one thread.
 */
#ifndef SLUICE_TEXT_TOKENIZER_REGEX_H
#define SLUICE_TEXT_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

struct regex {
    struct pcre2_real_code_8 *code; /* owned */
    bool jit;
};

/* Oniguruma's dialect. `what` begins the error messages. */
enum status regex_compile(struct regex *regex, struct str pattern, const char *what,
                          struct error *err);
void regex_release(struct regex *regex);

/* Zeroed is valid; it allocates at the first match. */
struct regex_run {
    struct pcre2_real_match_data_8 *match_data;       /* owned */
    struct pcre2_real_match_context_8 *match_context; /* owned */
    struct pcre2_real_jit_stack_8 *jit_stack;         /* owned; NULL until one is needed */
    uint64_t started_ns, thread_started_ns;           /* at the first match, by two clocks */
    uint32_t finds;
};
void regex_run_close(struct regex_run *run);

/* The first match at or behind `from` in subject (valid UTF-8): [*begin, *end), maybe empty. *found
 * is false if there is none. STATUS_LIMIT: the pattern explodes on this text. */
enum status regex_find(struct regex_run *run, const struct regex *regex, struct str subject,
                       size_t from, const char *what, bool *found, size_t *begin, size_t *end,
                       struct error *err);

#endif
