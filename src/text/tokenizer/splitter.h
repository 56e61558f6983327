/*
 * The pre-tokenizer: steps that cut a text into the pieces that are encoded.
 *
 * Patterns come from model files; see regex.h for the limits they run under. A splitter is read-only
 * after creation (any thread); a splitter_run is the working memory of one call and belongs to one
 * thread.
 */
#ifndef SLUICE_TEXT_TOKENIZER_SPLITTER_H
#define SLUICE_TEXT_TOKENIZER_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/vocabulary.h"

struct splitter;

/* pcre2_only: also patterns that are known run in PCRE2 (tests compare the two). */
enum status splitter_create(const struct vocabulary_split *splits, size_t n_splits, bool pcre2_only,
                            struct splitter **out, struct error *err);
void splitter_free(struct splitter *splitter); /* NULL allowed */
/* Whether `pattern` runs in hand-written code instead of PCRE2. */
bool splitter_is_known(struct str pattern);

/* Receives the pieces in order; never empty. They lie in the subject, unless a Metaspace step wrote
 * them anew; then they are valid during the call. Stops on an error. */
typedef enum status (*splitter_piece)(void *user, struct str piece, struct error *err);

struct splitter_run {
    const struct splitter *splitter;
    splitter_piece piece;
    void *user;
    const char *start;      /* of the subject, where it starts the whole text */
    struct regex_run regex; /* owned */
    struct buf rewritten[VOCABULARY_SPLITS_MAX]; /* owned; by step */
};

void splitter_run_open(struct splitter_run *run, const struct splitter *splitter,
                       splitter_piece piece, void *user);
void splitter_run_close(struct splitter_run *run);
/* subject: valid UTF-8. first: it is the start of the whole text. */
enum status splitter_run_split(struct splitter_run *run, struct str subject, bool first,
                               struct error *err);

#endif
