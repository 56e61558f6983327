/*
 * Perplexity: how surprised a model is by a text, through the engine's scoring mode.
 *
 * The text is cut into windows of `context` tokens that begin every `stride` tokens. In the first
 * window every token but the first is scored; in later ones those that no window before has scored,
 * so that each token counts once and, past the first window, has at least context - stride tokens
 * before it. Where the model's tokenizer begins texts with a bos token, every window begins with it.
 */
#ifndef SLUICE_CONVERT_PERPLEXITY_H
#define SLUICE_CONVERT_PERPLEXITY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "sluice.h"

struct perplexity_options {
    sluice_engine *engine;
    struct str text;
    const int32_t *tokens; /* [n_tokens] instead of text: taken as they are; later windows no bos */
    size_t n_tokens;
    uint32_t context;     /* 0: 512, or the engine's if that is less */
    uint32_t stride;      /* 0: half the context */
    uint64_t most_tokens; /* score no more than the first so many; 0: all */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

struct perplexity_report {
    double mean_nll;       /* natural logarithm, per token */
    double standard_error; /* of mean_nll, taking tokens as independent */
    double perplexity;     /* exp(mean_nll) */
    uint64_t n_tokens, n_scored, n_windows;
    uint32_t context, stride;
    double seconds;
};

/* token_nll: [report.n_tokens], 0 where a token was not scored (the first); NULL: not wanted; else
 * the caller frees it. STATUS_USAGE where context or stride make no windows. */
enum status perplexity_measure(const struct perplexity_options *options,
                               struct perplexity_report *out, double **token_nll,
                               struct error *err);

#endif
