/*
 * sluice_submit: everything that can be wrong with a request is found here, on the caller's thread,
 * before anything is tokenized where possible; what reaches the loop can only be cut short, fail
 * with the device, or be cancelled.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "text/tokenizer/utf8.h"

/* ---- parameters ------------------------------------------------------------------------------- */

static enum status check_input(const sluice_request_options *options, struct error *err)
{
    int kinds = (options->messages != NULL) + (options->prompt != NULL) + (options->tokens != NULL);
    if (kinds != 1)
        return error_set(err, STATUS_USAGE,
                         "give exactly one of messages, prompt and tokens (%d are set)", kinds);
    if (options->messages && options->n_messages == 0)
        return error_set(err, STATUS_USAGE, "messages: the list is empty");
    if (options->tokens && options->n_tokens == 0)
        return error_set(err, STATUS_USAGE, "tokens: the list is empty");
    if (options->prompt && !*options->prompt)
        return error_set(err, STATUS_USAGE, "prompt: the text is empty");
    if (options->n_top_logprobs > BACKEND_TOP_LOGPROBS_MAX)
        return error_set(err, STATUS_USAGE, "top_logprobs: %u, at most %d are given",
                         options->n_top_logprobs, BACKEND_TOP_LOGPROBS_MAX);
    return STATUS_OK;
}

static enum status check_mode(const sluice_engine *engine, const sluice_request_options *options,
                              struct error *err)
{
    if ((unsigned)options->mode > SLUICE_EMBED)
        return error_set(err, STATUS_USAGE, "mode: %d is unknown", (int)options->mode);
    if ((unsigned)options->pooling > SLUICE_POOLING_FIRST)
        return error_set(err, STATUS_USAGE, "pooling: %d is unknown", (int)options->pooling);
    if (options->n > ENGINE_CHOICES_MAX || (options->n > 1 && options->mode != SLUICE_GENERATE))
        return error_set(err, STATUS_USAGE,
                         "n: %u answers; 1 to %d can be generated, scores and "
                         "embeddings have one",
                         options->n, ENGINE_CHOICES_MAX);
    bool hidden = options->mode == SLUICE_SCORE_HIDDEN || options->mode == SLUICE_EMBED;
    if (!hidden && engine->source.program->logits == NO_BUFFER)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s is an embedding model: it has hidden states, but no logits to "
                         "generate from",
                         engine->source.name);
    return STATUS_OK;
}

static enum status copy_stops(sluice_request *request, const sluice_request_options *options,
                              struct str **stops, struct error *err)
{
    *stops = NULL;
    if (options->n_stops > ENGINE_STOPS_MAX)
        return error_set(err, STATUS_USAGE, "stop: %zu strings, at most %d are allowed",
                         options->n_stops, ENGINE_STOPS_MAX);
    if (options->n_stops == 0)
        return STATUS_OK;
    *stops = arena_alloc(&request->arena, options->n_stops, sizeof **stops);
    for (size_t i = 0; *stops && i < options->n_stops; i++) {
        struct str stop = str_from(options->stops[i]);
        if (stop.len == 0 || stop.len > ENGINE_STOP_BYTES_MAX || !utf8_valid(stop))
            return error_set(err, STATUS_USAGE,
                             "stop: string %zu must be UTF-8 text of 1 to %d bytes", i,
                             ENGINE_STOP_BYTES_MAX);
        (*stops)[i] = arena_copy_str(&request->arena, stop);
        if (!(*stops)[i].data)
            *stops = NULL;
    }
    return *stops ? STATUS_OK : error_set(err, STATUS_MEMORY, "out of memory for stop strings");
}

/* ---- sampling --------------------------------------------------------------------------------- */

static void apply_generation(struct sampling *s, const struct model_generation *g)
{
    if (g->has_temperature)
        s->temperature = g->temperature;
    if (g->has_top_k)
        s->top_k = g->top_k;
    if (g->has_top_p)
        s->top_p = g->top_p;
    if (g->has_min_p)
        s->min_p = g->min_p;
    if (g->has_repeat_penalty)
        s->repeat_penalty = g->repeat_penalty;
}

/* What the request sets; the lesser parameters of a group (DRY, mirostat) keep their defaults where
 * they are 0. */
static void apply_request(struct sampling *s, const sluice_sampling *wanted)
{
#define TAKE_WHERE(name, field, condition)                                                         \
    if ((wanted->set & SLUICE_SET_##name) && (condition))                                          \
    s->field = wanted->field
#define TAKE(name, field)         TAKE_WHERE(name, field, true)
#define TAKE_NONZERO(name, field) TAKE_WHERE(name, field, wanted->field != 0)
    TAKE(TEMPERATURE, temperature);
    TAKE(TOP_K, top_k);
    TAKE(TOP_P, top_p);
    TAKE(MIN_P, min_p);
    TAKE(REPEAT_PENALTY, repeat_penalty);
    TAKE(REPEAT_LAST_N, repeat_last_n);
    TAKE(PRESENCE_PENALTY, presence_penalty);
    TAKE(FREQUENCY_PENALTY, frequency_penalty);
    TAKE(SEED, seed);
    TAKE(TYPICAL_P, typical_p);
    TAKE(TOP_N_SIGMA, top_n_sigma);
    TAKE(XTC, xtc_probability);
    TAKE(XTC, xtc_threshold);
    TAKE(DRY, dry_multiplier);
    TAKE_NONZERO(DRY, dry_base);
    TAKE_NONZERO(DRY, dry_allowed_length);
    TAKE_NONZERO(DRY, dry_last_n);
    TAKE(MIROSTAT, mirostat);
    TAKE_NONZERO(MIROSTAT, mirostat_tau);
    TAKE_NONZERO(MIROSTAT, mirostat_eta);
#undef TAKE_NONZERO
#undef TAKE
#undef TAKE_WHERE
}

/* DRY: the tokens whose text contains one of the breakers, as a mask. */
static enum status find_breakers(sluice_request *request, const sluice_sampling *wanted,
                                 struct error *err)
{
    static const char *const defaults[] = {"\n", ":", "\"", "*"};
    const struct tokenizer *tokenizer = request->engine->source.tokenizer;
    const char *const *texts = wanted->dry_breakers ? wanted->dry_breakers : defaults;
    size_t n = wanted->dry_breakers ? wanted->n_dry_breakers : sizeof defaults / sizeof *defaults;
    uint32_t n_vocab = request->engine->source.program->n_vocab;
    if (!(request->sampling.dry_multiplier > 0) || !tokenizer)
        return STATUS_OK;
    if (n > ENGINE_STOPS_MAX)
        return error_set(err, STATUS_USAGE, "dry_sequence_breakers: %zu texts, at most %d", n,
                         ENGINE_STOPS_MAX);
    uint32_t *mask = arena_alloc(&request->arena, (n_vocab + 31) / 32, sizeof *mask);
    if (!mask)
        return error_set(err, STATUS_MEMORY, "out of memory for sequence breakers");
    tokenizer_find_containing(tokenizer, texts, n, n_vocab, mask);
    request->breakers = mask;
    return STATUS_OK;
}

static enum status copy_biases(sluice_request *request, const sluice_sampling *wanted,
                               struct error *err)
{
    size_t n = wanted->n_biases;
    if (n > ENGINE_BIASES_MAX)
        return error_set(err, STATUS_USAGE, "logit_bias: %zu entries, at most %d are allowed", n,
                         ENGINE_BIASES_MAX);
    if (n == 0)
        return STATUS_OK;
    int32_t *ids = arena_alloc(&request->arena, n, sizeof *ids);
    float *values = arena_alloc(&request->arena, n, sizeof *values);
    if (!ids || !values)
        return error_set(err, STATUS_MEMORY, "out of memory for logit biases");
    for (size_t i = 0; i < n; i++) {
        ids[i] = wanted->biases[i].token;
        values[i] = wanted->biases[i].bias;
    }
    request->sampling.bias_ids = ids;
    request->sampling.bias_values = values;
    request->sampling.n_biases = (uint32_t)n;
    return STATUS_OK;
}

/* The request's own values, else the model's, else the defaults; a random seed unless one is set. */
static enum status choose_sampling(sluice_request *request, const sluice_request_options *options,
                                   struct error *err)
{
    struct sampling *s = &request->sampling;
    const sluice_engine *engine = request->engine;
    sampling_defaults(s);
    if (engine->source.generation)
        apply_generation(s, engine->source.generation);
    if (!(options->sampling.set & SLUICE_SET_SEED) && getentropy(&s->seed, sizeof s->seed) != 0)
        s->seed = clock_now_ns();
    apply_request(s, &options->sampling);
    s->n_top_logprobs = options->n_top_logprobs;
    s->logprobs = options->logprobs || options->n_top_logprobs > 0;
    enum status status = copy_biases(request, &options->sampling, err);
    if (status == STATUS_OK && options->sampling.order)
        status = sampling_order_parse(options->sampling.order, &s->order, err);
    if (status == STATUS_OK)
        status = sampling_validate(s, engine->source.program->n_vocab, err);
    if (status == STATUS_OK)
        status = find_breakers(request, &options->sampling, err);
    request->penalties = sampling_reads_history(s);
    return status;
}

/* ---- prompt ----------------------------------------------------------------------------------- */

static enum status copy_tokens(sluice_request *request, const sluice_request_options *options,
                               struct error *err)
{
    const sluice_engine *engine = request->engine;
    uint32_t n_vocab = engine->source.program->n_vocab;
    if (options->n_tokens > engine->size.n_context)
        return error_set(err, STATUS_CONTEXT, "the prompt's %zu tokens exceed the context of %u",
                         options->n_tokens, engine->size.n_context);
    for (size_t i = 0; i < options->n_tokens; i++) {
        if (options->tokens[i] < 0 || (uint32_t)options->tokens[i] >= n_vocab)
            return error_set(err, STATUS_USAGE,
                             "tokens: id %d at index %zu is outside the vocabulary of %u",
                             options->tokens[i], i, n_vocab);
        if (!token_list_add(&request->prompt, options->tokens[i]))
            return error_set(err, STATUS_MEMORY, "out of memory for %zu tokens", options->n_tokens);
    }
    return STATUS_OK;
}

static enum status make_prompt(sluice_request *request, const sluice_request_options *options,
                               struct error *err)
{
    if (options->tokens)
        return copy_tokens(request, options, err);
    if (options->messages)
        return prompt_from_messages(request, options, err);
    /* An embedding is read at the end token where the tokenizer adds one; an answer goes on. */
    return encode_text(request->engine, str_from(options->prompt), true,
                       options->mode != SLUICE_GENERATE, true, &request->prompt, err);
}

/* How much may be generated after this prompt, or that there is no room. */
static enum status fit(sluice_request *request, const sluice_request_options *options,
                       struct error *err)
{
    const struct engine_size *size = &request->engine->size;
    size_t n = request->prompt.count;
    bool generate = options->mode == SLUICE_GENERATE;
    if (n == 0)
        return error_set(err, STATUS_USAGE, "the prompt has no tokens");
    if (n + generate > size->n_context)
        return error_set(err, STATUS_CONTEXT,
                         "the prompt's %zu tokens%s exceed the context of %u tokens", n,
                         generate ? " and one to generate" : "", size->n_context);
    if (n > size->max_positions)
        return error_set(err, STATUS_CONTEXT,
                         "the prompt's %zu tokens exceed the %u that the KV memory of %u pages "
                         "holds: raise kv_memory",
                         n, size->max_positions, size->layout.n_pages);
    if (!generate)
        return STATUS_OK;
    /* The last token drawn takes no place in the pages. */
    uint32_t in_context = size->n_context - (uint32_t)n;
    uint32_t in_pool = size->max_positions - (uint32_t)n + 1;
    uint32_t most = in_context < in_pool ? in_context : in_pool;
    request->n_generate =
        options->max_tokens && options->max_tokens < most ? options->max_tokens : most;
    return STATUS_OK;
}

static enum status make_choice(sluice_request *request, uint32_t index, const struct str *stops,
                               size_t n_stops, bool parse, struct error *err)
{
    sluice_engine *engine = request->engine;
    struct choice *choice = &request->choices[index];
    size_t n_prompt = request->prompt.count;
    choice->request = request;
    choice->index = index;
    struct sampling sampling = request->sampling;
    sampling.seed += index * 0x9e3779b97f4a7c15u;
    choice->sampling_row = sampling_row_from(&sampling, (uint32_t)n_prompt);
    choice->tokens =
        arena_alloc(&request->arena, n_prompt + request->n_generate, sizeof *choice->tokens);
    size_t n_blocks = kv_blocks(engine->kv, n_prompt + request->n_generate);
    choice->chain = (struct kv_chain){
        .tokens = choice->tokens,
        .keys = arena_alloc(&request->arena, n_blocks, sizeof *choice->chain.keys),
        .salt = request->salt,
        .n_tokens = (uint32_t)n_prompt,
        .n_prompt = (uint32_t)n_prompt,
    };
    if (!choice->tokens || !choice->chain.keys)
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tokens", n_prompt);
    memcpy(choice->tokens, request->prompt.ids, n_prompt * sizeof *choice->tokens);
    if (request->mode != SLUICE_GENERATE)
        return STATUS_OK;
    enum status status = parse ? output_parser_create(engine->style, request->opens_reasoning,
                                                      &choice->output.parser, err)
                               : STATUS_OK;
    return status == STATUS_OK
               ? output_init(&choice->output, engine->source.tokenizer, stops, n_stops, err)
               : status;
}

static enum status make_choices(sluice_request *request, const sluice_request_options *options,
                                const struct str *stops, struct error *err)
{
    uint32_t n = options->n ? options->n : 1;
    request->choices = arena_alloc(&request->arena, n, sizeof *request->choices);
    if (!request->choices)
        return error_set(err, STATUS_MEMORY, "out of memory for %u answers", n);
    enum status status = STATUS_OK;
    while (request->n_choices < n && status == STATUS_OK)
        status = make_choice(request, request->n_choices++, stops, options->n_stops,
                             options->messages != NULL, err);
    if (status != STATUS_OK || options->mode != SLUICE_EMBED)
        return status;
    const struct program *program = request->engine->source.program;
    request->pooled = arena_alloc(&request->arena, program->buffers[program->hidden].width,
                                  sizeof *request->pooled);
    return request->pooled ? STATUS_OK
                           : error_set(err, STATUS_MEMORY, "out of memory for an embedding");
}

/* A number for a text that must not meet another one's (within a `scope`, such a number too); the
 * seed is the engine's secret. */
static uint64_t identity(const sluice_engine *engine, const char *text, uint64_t scope)
{
    if (!text || !*text)
        return scope;
    return XXH3_64bits_withSeed(text, strlen(text), engine->size.kv.seed ^ scope) | 1;
}

/* What needs no checking. */
static void copy_plain(sluice_request *request, const sluice_request_options *options)
{
    const sluice_engine *engine = request->engine;
    request->mode = options->mode;
    request->pooling = options->pooling         ? options->pooling
                       : engine->source.pooling ? engine->source.pooling
                                                : SLUICE_POOLING_LAST;
    request->raw_embedding = options->raw_embedding;
    request->chunk = options->chunk;
    request->ignore_end = options->ignore_end;
    request->token_events = options->tokens || request->sampling.logprobs;
    request->report_admission = options->report_admission;
    request->report_silent = options->report_silent;
    request->priority = options->priority;
    request->key = identity(engine, options->key, 0);
    request->salt =
        identity(engine, options->cache_salt, engine->size.cache_by_key ? request->key : 0);
    request->wakeups = options->wakeups;
    wakeups_retain(request->wakeups);
    request->user = options->user;
    request->submitted_ns = clock_now_ns();
    if (options->deadline_ms)
        request->deadline_ns = request->submitted_ns + (uint64_t)options->deadline_ms * 1000000;
}

static enum status fill(sluice_request *request, const sluice_request_options *options,
                        struct error *err)
{
    sluice_engine *engine = request->engine;
    struct str *stops;
    enum status status = check_input(options, err);
    if (status == STATUS_OK)
        status = check_mode(engine, options, err);
    if (status == STATUS_OK)
        status = copy_stops(request, options, &stops, err);
    if (status == STATUS_OK)
        status = choose_sampling(request, options, err);
    if (status == STATUS_OK)
        status = make_prompt(request, options, err);
    if (status == STATUS_OK)
        status = fit(request, options, err);
    if (status != STATUS_OK)
        return status;
    copy_plain(request, options);
    return make_choices(request, options, stops, err);
}

sluice_status sluice_submit(sluice_engine *engine, const sluice_request_options *options,
                            sluice_request **out, sluice_error *error)
{
    struct error err = {0};
    *out = NULL;
    sluice_request *request = request_new(engine, &err);
    enum status status = request ? fill(request, options, &err) : err.status;
    if (status == STATUS_OK)
        status = mailbox_post(engine, request, &err);
    if (status == STATUS_OK)
        *out = request;
    else if (request)
        request_release(request);
    return public_status(status, &err, error);
}
