/*
 * Pre-tokenization: steps of regular expressions, by hand where splitter_known.c has the pattern.
 *
 * Steps apply one after the other, each to the pieces of the one before: a tree walked depth first,
 * so that pieces come out in order and nothing but the path is kept.
 */
#include "text/tokenizer/splitter.h"

#include <stdlib.h>

#include "text/tokenizer/regex.h"
#include "text/tokenizer/splitter_known.h"
#include "text/tokenizer/utf8.h"

#define WHAT      "pre_tokenizer"
#define METASPACE STR_LIT("\xe2\x96\x81")

struct step {
    struct regex regex; /* neither code nor known: Metaspace */
    const struct splitter_known *known;
    enum vocabulary_split_keep keep;
    enum vocabulary_prefix prefix;
    bool split;
};

struct splitter {
    struct char_classes classes;
    size_t n_steps;
    struct step steps[VOCABULARY_SPLITS_MAX];
};

bool splitter_is_known(struct str pattern)
{
    return splitter_known_pattern(pattern) != NULL;
}

static enum status step_init(struct step *step, const struct vocabulary_split *split,
                             bool pcre2_only, struct error *err)
{
    *step = (struct step){.keep = split->keep, .prefix = split->prefix, .split = split->split};
    if (!split->pattern.len)
        return STATUS_OK;
    if (!pcre2_only)
        step->known = splitter_known_pattern(split->pattern);
    return step->known ? STATUS_OK : regex_compile(&step->regex, split->pattern, WHAT, err);
}

enum status splitter_create(const struct vocabulary_split *splits, size_t n_splits, bool pcre2_only,
                            struct splitter **out, struct error *err)
{
    *out = NULL;
    if (n_splits > VOCABULARY_SPLITS_MAX)
        return error_set(err, STATUS_INTERNAL, "pre_tokenizer: too many steps");
    struct splitter *splitter = calloc(1, sizeof *splitter);
    if (!splitter)
        return error_set(err, STATUS_MEMORY, "pre_tokenizer: out of memory");
    char_class_table(&splitter->classes);
    for (size_t i = 0; i < n_splits; i++) {
        splitter->n_steps = i + 1;
        enum status status = step_init(&splitter->steps[i], &splits[i], pcre2_only, err);
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
        regex_release(&splitter->steps[i].regex);
    free(splitter);
}

void splitter_run_open(struct splitter_run *run, const struct splitter *splitter,
                       splitter_piece piece, void *user)
{
    *run = (struct splitter_run){.splitter = splitter, .piece = piece, .user = user};
}

void splitter_run_close(struct splitter_run *run)
{
    for (size_t i = 0; i < VOCABULARY_SPLITS_MAX; i++)
        buf_release(&run->rewritten[i]);
    regex_run_close(&run->regex);
    *run = (struct splitter_run){0};
}

static enum status split_from(struct splitter_run *run, size_t n_step, struct str subject,
                              struct error *err);

static inline enum status emit(struct splitter_run *run, size_t n_step, struct str subject,
                               size_t begin, size_t end, struct error *err)
{
    struct str piece = {subject.data + begin, end - begin};
    if (begin == end)
        return STATUS_OK;
    if (n_step + 1 == run->splitter->n_steps)
        return run->piece(run->user, piece, err);
    return split_from(run, n_step + 1, piece, err);
}

/* The next match at or behind `from`. *found is false if there is none. */
static enum status find(struct splitter_run *run, const struct step *step, struct str subject,
                        size_t from, bool *found, size_t *begin, size_t *end, struct error *err)
{
    if (!step->known)
        return regex_find(&run->regex, &step->regex, subject, from, WHAT, found, begin, end, err);
    *end = step->known->find(step->known, &run->splitter->classes, subject, from, begin);
    *found = *end > 0;
    return STATUS_OK;
}

/* Extends a match over those that follow it without a gap. */
static enum status join_run(struct splitter_run *run, const struct step *step, struct str subject,
                            size_t *end, struct error *err)
{
    while (*end < subject.len) {
        bool found;
        size_t next_begin, next_end;
        enum status status = find(run, step, subject, *end, &found, &next_begin, &next_end, err);
        if (status != STATUS_OK)
            return status;
        if (!found || next_begin != *end || next_end == next_begin)
            break;
        *end = next_end;
    }
    return STATUS_OK;
}

/* Gives out what a match, [begin, end), completes. Before it lies [*done, begin), not given yet. */
static enum status take(struct splitter_run *run, size_t n_step, struct str subject, size_t *done,
                        size_t begin, size_t end, struct error *err)
{
    enum vocabulary_split_keep keep = run->splitter->steps[n_step].keep;
    enum status status = STATUS_OK;
    size_t gap = *done;
    *done = end;
    switch (keep) {
    case VOCABULARY_SPLIT_ISOLATED:
    case VOCABULARY_SPLIT_RUNS:
        status = emit(run, n_step, subject, gap, begin, err);
        return status == STATUS_OK ? emit(run, n_step, subject, begin, end, err) : status;
    case VOCABULARY_SPLIT_MATCHES:
        return emit(run, n_step, subject, begin, end, err);
    case VOCABULARY_SPLIT_GAPS:
        return emit(run, n_step, subject, gap, begin, err);
    case VOCABULARY_SPLIT_PREVIOUS:
        return emit(run, n_step, subject, gap, end, err);
    case VOCABULARY_SPLIT_NEXT:
        *done = begin;
        return emit(run, n_step, subject, gap, begin, err);
    }
    return status;
}

static enum status match_step(struct splitter_run *run, size_t n_step, struct str subject,
                              struct error *err)
{
    const struct step *step = &run->splitter->steps[n_step];
    enum status status = STATUS_OK;
    size_t done = 0;
    for (size_t from = 0; from < subject.len;) {
        bool found;
        size_t begin, end;
        status = find(run, step, subject, from, &found, &begin, &end, err);
        if (status == STATUS_OK && found && step->keep == VOCABULARY_SPLIT_RUNS)
            status = join_run(run, step, subject, &end, err);
        if (status != STATUS_OK)
            return status;
        if (!found)
            break;
        status = take(run, n_step, subject, &done, begin, end, err);
        if (status != STATUS_OK)
            return status;
        from = end;
        /* An empty match: go on behind the next character. */
        if (end == begin && end < subject.len)
            from += utf8_length((uint8_t)subject.data[end]);
    }
    if (step->keep == VOCABULARY_SPLIT_MATCHES)
        return STATUS_OK;
    return emit(run, n_step, subject, done, subject.len, err);
}

/* Spaces become U+2581, which begins the pieces. */
static enum status metaspace_step(struct splitter_run *run, size_t n_step, struct str subject,
                                  struct error *err)
{
    const struct step *step = &run->splitter->steps[n_step];
    struct buf *text = &run->rewritten[n_step];
    buf_clear(text);
    bool prefix = step->prefix == VOCABULARY_PREFIX_ALWAYS ||
                  (step->prefix == VOCABULARY_PREFIX_FIRST && subject.data == run->start);
    if (prefix && subject.data[0] != ' ' && !str_starts(subject, METASPACE))
        buf_append_str(text, METASPACE);
    for (size_t i = 0; i < subject.len;) {
        const char *space = memchr(subject.data + i, ' ', subject.len - i);
        size_t end = space ? (size_t)(space - subject.data) : subject.len;
        buf_append(text, subject.data + i, end - i);
        if (space)
            buf_append_str(text, METASPACE);
        i = end + (space != NULL);
    }
    if (text->failed)
        return error_set(err, STATUS_MEMORY, WHAT ": out of memory");
    struct str whole = buf_str(text);
    size_t done = 0;
    while (step->split) {
        size_t next = str_find(whole, METASPACE, done + 1);
        if (next == SIZE_MAX)
            break;
        enum status status = emit(run, n_step, whole, done, next, err);
        if (status != STATUS_OK)
            return status;
        done = next;
    }
    return emit(run, n_step, whole, done, whole.len, err);
}

static enum status split_from(struct splitter_run *run, size_t n_step, struct str subject,
                              struct error *err)
{
    const struct step *step = &run->splitter->steps[n_step];
    if (!step->known && !step->regex.code)
        return metaspace_step(run, n_step, subject, err);
    return match_step(run, n_step, subject, err);
}

enum status splitter_run_split(struct splitter_run *run, struct str subject, bool first,
                               struct error *err)
{
    run->start = first ? subject.data : NULL;
    if (!subject.len)
        return STATUS_OK;
    if (!run->splitter->n_steps)
        return run->piece(run->user, subject, err);
    return split_from(run, 0, subject, err);
}
