/*
 * The pre-tokenizer: regular expressions that cut a text into the pieces that are merged.
 *
 * Patterns come from model files, so they are hostile until proven otherwise: their length is
 * bounded, matching runs under PCRE2's match and heap limits, and hitting one is STATUS_LIMIT.
 * A splitter is read-only after creation (any thread); a splitter_run is the working memory of one
 * call and belongs to one thread.
 */
#ifndef SLUICE_TEXT_TOKENIZER_SPLITTER_H
#define SLUICE_TEXT_TOKENIZER_SPLITTER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "text/tokenizer/vocabulary.h"

struct splitter;

enum status splitter_create(const struct vocabulary_split *splits, size_t n_splits,
                            struct splitter **out, struct error *err);
void splitter_free(struct splitter *splitter); /* NULL allowed */

/* Receives the pieces in order, as [begin, end) of the subject; never empty. Stops on an error. */
typedef enum status (*splitter_piece)(void *user, size_t begin, size_t end, struct error *err);

struct splitter_run {
    const struct splitter *splitter;
    splitter_piece piece;
    void *user;
    struct pcre2_real_match_data_8 *match_data;       /* owned */
    struct pcre2_real_match_context_8 *match_context; /* owned */
    struct pcre2_real_jit_stack_8 *jit_stack;         /* owned; NULL until one is needed */
};

enum status splitter_run_open(struct splitter_run *run, const struct splitter *splitter,
                              splitter_piece piece, void *user, struct error *err);
void splitter_run_close(struct splitter_run *run);
/* subject: valid UTF-8. */
enum status splitter_run_split(struct splitter_run *run, struct str subject, struct error *err);

#endif
