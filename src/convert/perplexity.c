/* One request a window; rows arrive in order and are reduced at once, in double precision. */
#include "convert/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/public_error.h"

#define CONTEXT_DEFAULT 512

struct measure {
    const struct perplexity_options *options;
    struct perplexity_report report;
    int32_t *tokens; /* [n] with the bos, if any, in front */
    size_t n;
    bool bos;
    int32_t *window; /* [context] */
    double *nll;     /* [n] */
    size_t next;     /* first token that is not scored yet */
};

static enum status copy_tokens(struct measure *m, struct error *err)
{
    sluice_model_info info;
    sluice_engine_info(m->options->engine, &info);
    m->n = m->options->n_tokens;
    for (size_t i = 0; i < m->n; i++)
        if (m->options->tokens[i] < 0 || (uint32_t)m->options->tokens[i] >= info.n_vocab)
            return error_set(err, STATUS_USAGE, "token %zu is %d, the model has ids 0 to %u", i,
                             m->options->tokens[i], info.n_vocab - 1);
    m->tokens = malloc((m->n + 1) * sizeof *m->tokens);
    if (!m->tokens)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tokens", m->n);
    memcpy(m->tokens, m->options->tokens, m->n * sizeof *m->tokens);
    return STATUS_OK;
}

static enum status tokenize(struct measure *m, struct error *err)
{
    if (m->options->tokens)
        return copy_tokens(m, err);
    sluice_engine *engine = m->options->engine;
    struct str text = m->options->text;
    sluice_error error;
    size_t plain = 0;
    if (sluice_tokenize(engine, text.data, text.len, false, false, NULL, 0, &plain, &error) !=
            SLUICE_OK ||
        sluice_tokenize(engine, text.data, text.len, true, false, NULL, 0, &m->n, &error) !=
            SLUICE_OK)
        return error_from_public(&error, err);
    m->tokens = malloc((m->n + 1) * sizeof *m->tokens);
    if (!m->tokens)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tokens", m->n);
    int32_t first = -1;
    size_t n = 0;
    if (plain)
        sluice_tokenize(engine, text.data, text.len, false, false, &first, 1, &n, NULL);
    if (sluice_tokenize(engine, text.data, text.len, true, false, m->tokens, m->n, &m->n, &error) !=
        SLUICE_OK)
        return error_from_public(&error, err);
    m->bos = m->n > plain && m->tokens[0] != first;
    if (m->n > plain + m->bos) /* an end token is no part of the text */
        m->n = plain + m->bos;
    if (m->options->most_tokens && m->n > m->options->most_tokens)
        m->n = (size_t)m->options->most_tokens;
    return STATUS_OK;
}

static enum status choose_windows(struct measure *m, struct error *err)
{
    sluice_model_info info;
    struct perplexity_report *r = &m->report;
    sluice_engine_info(m->options->engine, &info);
    if (!info.has_logits)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the model gives no logits (it makes embeddings)");
    r->context = m->options->context ? m->options->context : CONTEXT_DEFAULT;
    if (!m->options->context && r->context > info.n_context)
        r->context = info.n_context;
    r->stride = m->options->stride ? m->options->stride : r->context / 2;
    if (r->context > info.n_context)
        return error_set(err, STATUS_USAGE, "a context of %u tokens, the engine has %u", r->context,
                         info.n_context);
    if (r->context < 3 || r->stride < 1 || r->stride > r->context - 1 - m->bos)
        return error_set(err, STATUS_USAGE,
                         "a stride of %u with a context of %u: 1 to %u are possible (contexts have "
                         "at least 3 tokens)",
                         r->stride, r->context, r->context > 2 ? r->context - 1 - m->bos : 0);
    return STATUS_OK;
}

/* -log of the probability that a row of logits gives a token. */
static double surprise(const float *logits, uint32_t n, int32_t token)
{
    double most = (double)logits[0], sum = 0.0;
    for (uint32_t i = 1; i < n; i++)
        most = (double)logits[i] > most ? (double)logits[i] : most;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    return log(sum) + most - (double)logits[token];
}

/* Row r of the window sees its tokens up to r and says what it thinks of token begin + r + 1 - lead. */
static void take_rows(struct measure *m, const sluice_event *event, size_t begin, size_t end,
                      size_t lead)
{
    for (uint32_t i = 0; i < event->n_rows; i++) {
        size_t token = begin + event->first_row + i + 1 - lead;
        if (token < m->next || token >= end || (uint32_t)m->tokens[token] >= event->row_width)
            continue;
        m->nll[token] = surprise(event->rows + (size_t)i * event->row_width, event->row_width,
                                 m->tokens[token]);
    }
}

/* Tokens [begin, end), behind a bos where the window does not begin with it anyway. */
static enum status run_window(struct measure *m, size_t begin, size_t end, struct error *err)
{
    size_t lead = begin > 0 && m->bos;
    if (lead)
        m->window[0] = m->tokens[0];
    memcpy(m->window + lead, m->tokens + begin, (end - begin) * sizeof *m->window);
    const sluice_request_options options = {
        .tokens = m->window, .n_tokens = end - begin + lead, .mode = SLUICE_SCORE_LOGITS};
    sluice_request *request;
    sluice_event event;
    sluice_error error;
    enum status status = STATUS_OK;
    if (sluice_submit(m->options->engine, &options, &request, &error) != SLUICE_OK)
        return error_from_public(&error, err);
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            status = error_from_public(&event.error, err);
        else if (event.kind == SLUICE_EVENT_ROWS)
            take_rows(m, &event, begin, end, lead);
    }
    sluice_request_free(request);
    m->next = end;
    m->report.n_windows++;
    return status;
}

static enum status run_all(struct measure *m, struct error *err)
{
    const struct perplexity_options *o = m->options;
    if (m->n < 2)
        return error_set(err, STATUS_USAGE, "the text has %zu token%s, too few to score", m->n,
                         m->n == 1 ? "" : "s");
    m->window = malloc((m->report.context + 1) * sizeof *m->window);
    m->nll = calloc(m->n, sizeof *m->nll);
    if (!m->window || !m->nll)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tokens", m->n);
    m->next = 1;
    size_t end = 0;
    for (size_t begin = 0; end < m->n; begin += m->report.stride) {
        size_t room = m->report.context - (begin > 0 && m->bos);
        end = m->n - begin < room ? m->n : begin + room;
        enum status status = run_window(m, begin, end, err);
        if (status != STATUS_OK)
            return status;
        if (o->progress)
            o->progress(o->progress_context, 0.999 * (double)end / (double)m->n, "scoring");
    }
    return STATUS_OK;
}

static void summarise(struct measure *m)
{
    struct perplexity_report *r = &m->report;
    double sum = 0.0, square = 0.0;
    r->n_tokens = m->n;
    r->n_scored = m->n - 1;
    for (size_t i = 1; i < m->n; i++)
        sum += m->nll[i];
    r->mean_nll = sum / (double)r->n_scored;
    for (size_t i = 1; i < m->n; i++)
        square += (m->nll[i] - r->mean_nll) * (m->nll[i] - r->mean_nll);
    if (r->n_scored > 1)
        r->standard_error = sqrt(square / (double)(r->n_scored - 1) / (double)r->n_scored);
    r->perplexity = exp(r->mean_nll);
}

enum status perplexity_measure(const struct perplexity_options *options,
                               struct perplexity_report *out, double **token_nll, struct error *err)
{
    struct measure m = {.options = options};
    uint64_t start = clock_now_ns();
    enum status status = tokenize(&m, err);
    if (status == STATUS_OK)
        status = choose_windows(&m, err);
    if (status == STATUS_OK)
        status = run_all(&m, err);
    if (options->progress)
        options->progress(options->progress_context, 1.0, "scoring");
    if (status == STATUS_OK) {
        summarise(&m);
        m.report.seconds = (double)(clock_now_ns() - start) / 1e9;
        *out = m.report;
    }
    if (token_nll)
        *token_nll = status == STATUS_OK ? m.nll : NULL;
    if (!token_nll || status != STATUS_OK)
        free(m.nll);
    free(m.tokens);
    free(m.window);
    return status;
}
