/*
 * The OpenAI dialect, reading: bodies of /v1/chat/completions and /v1/completions.
 *
 * One table per route says what every field is. A field that we know and cannot honour is refused
 * unless its value asks for nothing; one that cannot change the answer is accepted; one that we do
 * not know is ignored by name (fields.c).
 */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/fields.h"
#include "api/openai.h"

#define BIAS_ENTRIES_MAX  1024
#define COMPLETION_TOKENS 16 /* of /v1/completions where max_tokens is absent, as OpenAI has it */
#define CUSTOM(name, read, set)                                                                    \
    {                                                                                              \
        name, FIELD_CUSTOM, 0, 0, 0, set, read                                                     \
    }
#define ACCEPT(name)                                                                               \
    {                                                                                              \
        name, FIELD_ACCEPT, 0, 0, 0, 0, NULL                                                       \
    }
#define FIELDS_END       ACCEPT(NULL)
#define OPTION(member)   offsetof(struct api_call, options.member)
#define SAMPLING(member) offsetof(struct api_call, options.sampling.member)

static bool out_of_memory(struct api_error *error)
{
    return api_fail(error, 503, "server_error", "out_of_memory", "out of memory for the request");
}

/* ---- fields that both routes have ------------------------------------------------------------- */

static bool read_model(struct api_call *call, const char *name, const json_t *value,
                       struct api_error *error)
{
    const char *text;
    if (!fields_text(call, name, value, &text, error))
        return false;
    if (strlen(text) >= sizeof call->model)
        return api_refuse(error, name, "model: the name is longer than %d bytes",
                          API_MODEL_MAX - 1);
    snprintf(call->model, sizeof call->model, "%s", text);
    return true;
}

/* A string or a list of them, none empty. */
static bool read_texts(struct api_call *call, const char *name, const json_t *value,
                       const char *const **out, size_t *count, struct api_error *error)
{
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > API_STOPS_MAX)
        return api_refuse(error, name, "%s: %zu strings, at most %d are allowed", name, n,
                          API_STOPS_MAX);
    const char **texts = arena_alloc(&call->arena, n + 1, sizeof *texts);
    if (!texts)
        return out_of_memory(error);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!fields_text(call, name, item, &texts[i], error))
            return false;
        if (!*texts[i])
            return api_refuse(error, name, "%s: string %zu is empty", name, i);
    }
    *out = texts;
    *count = n;
    return true;
}

static bool read_stop(struct api_call *call, const char *name, const json_t *value,
                      struct api_error *error)
{
    return read_texts(call, name, value, &call->options.stops, &call->options.n_stops, error);
}

static bool read_breakers(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    sluice_sampling *s = &call->options.sampling;
    return read_texts(call, name, value, &s->dry_breakers, &s->n_dry_breakers, error);
}

static bool read_seed(struct api_call *call, const char *name, const json_t *value,
                      struct api_error *error)
{
    int64_t seed;
    if (!fields_integer(name, value, INT64_MIN, INT64_MAX, &seed, error))
        return false;
    call->options.sampling.seed = (uint64_t)seed;
    return true;
}

static bool read_logit_bias(struct api_call *call, const char *name, const json_t *value,
                            struct api_error *error)
{
    if (!json_is_object(value))
        return api_refuse(error, name, "logit_bias must be an object: {\"token id\": bias}");
    size_t n = json_object_size(value), i = 0;
    if (n > BIAS_ENTRIES_MAX)
        return api_refuse(error, name, "logit_bias has %zu entries, at most %d are allowed", n,
                          BIAS_ENTRIES_MAX);
    sluice_logit_bias *biases = arena_alloc(&call->arena, n + 1, sizeof *biases);
    if (!biases)
        return out_of_memory(error);
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || id > INT32_MAX)
            return api_refuse(error, name, "logit_bias: '%.32s' is no token id", key);
        biases[i].token = (int32_t)id;
        if (!fields_float("logit_bias", item, -100, 100, &biases[i].bias, error))
            return false;
        i++;
    }
    call->options.sampling.biases = biases;
    call->options.sampling.n_biases = n;
    return true;
}

static bool read_stream_options(struct api_call *call, const char *name, const json_t *value,
                                struct api_error *error)
{
    if (!json_is_object(value))
        return api_refuse(error, name, "stream_options must be an object");
    const json_t *include = json_object_get(value, "include_usage");
    if (include && !json_is_boolean(include) && !json_is_null(include))
        return api_refuse(error, "stream_options.include_usage",
                          "stream_options.include_usage must be true or false");
    call->include_usage = json_is_true(include);
    return true;
}

static bool read_template_arguments(struct api_call *call, const char *name, const json_t *value,
                                    struct api_error *error)
{
    if (!json_is_object(value))
        return api_refuse(error, name, "chat_template_kwargs must be an object");
    char *text = json_dumps(value, JSON_COMPACT);
    call->options.template_arguments = text ? arena_copy_cstr(&call->arena, text) : NULL;
    free(text);
    return call->options.template_arguments || out_of_memory(error);
}

static bool read_reasoning_effort(struct api_call *call, const char *name, const json_t *value,
                                  struct api_error *error)
{
    const char *text;
    if (!fields_text(call, name, value, &text, error))
        return false;
    static const char *const known[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(text, known[i]) != 0)
            continue;
        call->options.thinking = i == 0 ? SLUICE_THINKING_OFF : SLUICE_THINKING_ON;
        call->reasoning_effort = known[i];
        return true;
    }
    return api_refuse(error, name,
                      "reasoning_effort must be none, minimal, low, medium, high or xhigh");
}

static bool read_cache_salt(struct api_call *call, const char *name, const json_t *value,
                            struct api_error *error)
{
    const char *text;
    if (!fields_text(call, name, value, &text, error))
        return false;
    if (strlen(text) > 256)
        return api_refuse(error, name, "%s: at most 256 bytes", name);
    call->options.cache_salt = text;
    return true;
}

/* ---- known, and not honoured ------------------------------------------------------------------ */

static bool read_min_tokens(struct api_call *call, const char *name, const json_t *value,
                            struct api_error *error)
{
    int64_t n;
    (void)call;
    if (!fields_integer(name, value, 0, UINT32_MAX, &n, error))
        return false;
    return n == 0 || api_refuse(error, name,
                                "min_tokens: this version cannot keep a model from "
                                "ending its answer; use ignore_eos with max_tokens");
}

static bool read_best_of(struct api_call *call, const char *name, const json_t *value,
                         struct api_error *error)
{
    int64_t n;
    (void)call;
    if (!fields_integer(name, value, 1, API_CHOICES_MAX, &n, error))
        return false;
    return n == 1 || api_refuse(error, name,
                                "best_of: choosing the best of several answers is not "
                                "supported; ask for them all with n");
}

/* The value "text" or nothing is fine; structure is not enforced by this version. */
static bool read_response_format(struct api_call *call, const char *name, const json_t *value,
                                 struct api_error *error)
{
    (void)call;
    const char *type = json_string_value(json_object_get(value, "type"));
    if (!type)
        return api_refuse(error, name, "response_format must be an object with a type");
    if (strcmp(type, "text") == 0)
        return true;
    return api_refuse(error, name,
                      "response_format %.32s: output that follows a grammar is not supported by "
                      "this version; describe the JSON in the prompt, or leave the field out",
                      type);
}

static bool refuse_always(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    static const struct {
        const char *name, *why;
    } reasons[] = {
        {"grammar", "output that follows a grammar is not supported by this version"},
        {"functions", "the old form of tools; use tools"},
        {"function_call", "the old form of tool_choice; use tool_choice"},
        {"audio", "this server answers in text only"},
        {"web_search_options", "this server does not search the web"},
        {"suffix", "filling in the middle is not supported by this version"},
        {"dimensions", "shortened embeddings are not supported; leave the field out"},
        {"prediction", "predicted output is not supported; leave the field out"},
    };
    (void)call;
    if ((json_is_array(value) && json_array_size(value) == 0) ||
        (json_is_string(value) && json_string_length(value) == 0))
        return true;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (strcmp(reasons[i].name, name) == 0)
            return api_refuse(error, name, "%s: %s", name, reasons[i].why);
    return api_refuse(error, name, "%s is not supported by this version", name);
}

static bool read_modalities(struct api_call *call, const char *name, const json_t *value,
                            struct api_error *error)
{
    (void)call;
    if (json_is_array(value) && json_array_size(value) == 1 &&
        json_is_string(json_array_get(value, 0)) &&
        strcmp(json_string_value(json_array_get(value, 0)), "text") == 0)
        return true;
    return api_refuse(error, name, "modalities: this server answers in text only: [\"text\"]");
}

/* Sampling and everything else that is the same on both routes. */
static const struct field common_fields[] = {
    CUSTOM("model", read_model, 0),
    {"stream", FIELD_BOOL, offsetof(struct api_call, stream), 0, 0, 0, NULL},
    CUSTOM("stream_options", read_stream_options, 0),
    {"n", FIELD_U32, offsetof(struct api_call, n), 1, API_CHOICES_MAX, 0, NULL},
    {"max_tokens", FIELD_U32, OPTION(max_tokens), 1, UINT32_MAX, 0, NULL},
    {"temperature", FIELD_FLOAT, SAMPLING(temperature), 0, 100, SLUICE_SET_TEMPERATURE, NULL},
    {"top_p", FIELD_FLOAT, SAMPLING(top_p), 0, 1, SLUICE_SET_TOP_P, NULL},
    {"top_k", FIELD_I32, SAMPLING(top_k), -1, INT32_MAX, SLUICE_SET_TOP_K, NULL},
    {"min_p", FIELD_FLOAT, SAMPLING(min_p), 0, 1, SLUICE_SET_MIN_P, NULL},
    {"typical_p", FIELD_FLOAT, SAMPLING(typical_p), 0, 1, SLUICE_SET_TYPICAL_P, NULL},
    {"top_n_sigma", FIELD_FLOAT, SAMPLING(top_n_sigma), 0, 1000, SLUICE_SET_TOP_N_SIGMA, NULL},
    {"repeat_penalty", FIELD_FLOAT, SAMPLING(repeat_penalty), 0, 100, SLUICE_SET_REPEAT_PENALTY,
     NULL},
    {"repetition_penalty", FIELD_FLOAT, SAMPLING(repeat_penalty), 0, 100, SLUICE_SET_REPEAT_PENALTY,
     NULL},
    {"repeat_last_n", FIELD_I32, SAMPLING(repeat_last_n), -1, INT32_MAX, SLUICE_SET_REPEAT_LAST_N,
     NULL},
    {"presence_penalty", FIELD_FLOAT, SAMPLING(presence_penalty), -2, 2,
     SLUICE_SET_PRESENCE_PENALTY, NULL},
    {"frequency_penalty", FIELD_FLOAT, SAMPLING(frequency_penalty), -2, 2,
     SLUICE_SET_FREQUENCY_PENALTY, NULL},
    {"xtc_probability", FIELD_FLOAT, SAMPLING(xtc_probability), 0, 1, SLUICE_SET_XTC, NULL},
    {"xtc_threshold", FIELD_FLOAT, SAMPLING(xtc_threshold), 0, 1, SLUICE_SET_XTC, NULL},
    {"dry_multiplier", FIELD_FLOAT, SAMPLING(dry_multiplier), 0, 1000, SLUICE_SET_DRY, NULL},
    {"dry_base", FIELD_FLOAT, SAMPLING(dry_base), 1, 1000, SLUICE_SET_DRY, NULL},
    {"dry_allowed_length", FIELD_I32, SAMPLING(dry_allowed_length), 1, INT32_MAX, SLUICE_SET_DRY,
     NULL},
    {"dry_penalty_last_n", FIELD_I32, SAMPLING(dry_last_n), -1, INT32_MAX, SLUICE_SET_DRY, NULL},
    CUSTOM("dry_sequence_breakers", read_breakers, 0),
    {"mirostat", FIELD_I32, SAMPLING(mirostat), 0, 2, SLUICE_SET_MIROSTAT, NULL},
    {"mirostat_tau", FIELD_FLOAT, SAMPLING(mirostat_tau), 0, 100, SLUICE_SET_MIROSTAT, NULL},
    {"mirostat_eta", FIELD_FLOAT, SAMPLING(mirostat_eta), 0, 1, SLUICE_SET_MIROSTAT, NULL},
    CUSTOM("seed", read_seed, SLUICE_SET_SEED),
    CUSTOM("stop", read_stop, 0),
    CUSTOM("logit_bias", read_logit_bias, 0),
    {"ignore_eos", FIELD_BOOL, OPTION(ignore_end), 0, 0, 0, NULL},
    CUSTOM("cache_salt", read_cache_salt, 0),
    {"priority", FIELD_I32, OPTION(priority), INT32_MIN, INT32_MAX, 0, NULL},
    CUSTOM("min_tokens", read_min_tokens, 0),
    CUSTOM("grammar", refuse_always, 0),
    CUSTOM("response_format", read_response_format, 0),
    ACCEPT("user"),
    ACCEPT("metadata"),
    ACCEPT("store"),
    ACCEPT("service_tier"),
    ACCEPT("safety_identifier"),
    ACCEPT("prompt_cache_key"),
    FIELDS_END,
};

/* What OpenAI's documentation promises where a parameter is absent; the engine's own defaults are
 * meant for a terminal. A server started with --temp and the like has put its values here. */
static void set_defaults(struct api_call *call)
{
    sluice_sampling *s = &call->options.sampling;
    const sluice_sampling *server = call->defaults;
    if (server) {
        *s = *server;
        s->set = 0;
    }
    const uint32_t given = server ? server->set : 0;
    if (!(given & SLUICE_SET_TEMPERATURE))
        s->temperature = 1.0f;
    if (!(given & SLUICE_SET_TOP_P))
        s->top_p = 1.0f;
    if (!(given & SLUICE_SET_TOP_K))
        s->top_k = 0;
    if (!(given & SLUICE_SET_MIN_P))
        s->min_p = 0.0f;
    s->set =
        given | SLUICE_SET_TEMPERATURE | SLUICE_SET_TOP_P | SLUICE_SET_TOP_K | SLUICE_SET_MIN_P;
    if (!(given & SLUICE_SET_XTC))
        s->xtc_threshold = 0.1f;
    call->n = 1;
}

static bool check_common(struct api_call *call, struct api_error *error)
{
    sluice_sampling *s = &call->options.sampling;
    if (s->top_k < 0) /* as vLLM and llama.cpp write "off" */
        s->top_k = 0;
    if (s->top_p == 0.0f)
        return api_refuse(error, "top_p", "top_p is 0: it must be above 0 and at most 1");
    size_t prompts = call->n_prompts ? call->n_prompts : 1;
    if (prompts * call->n > API_CHOICES_MAX)
        return api_refuse(error, "n", "n: %zu prompts with %u answers each are more than %d",
                          prompts, call->n, API_CHOICES_MAX);
    return true;
}

static const struct field chat_fields[] = {
    CUSTOM("messages", openai_read_messages, 0),
    {"max_completion_tokens", FIELD_U32, OPTION(max_tokens), 1, UINT32_MAX, 0, NULL},
    {"logprobs", FIELD_BOOL, OPTION(logprobs), 0, 0, 0, NULL},
    {"top_logprobs", FIELD_U32, OPTION(n_top_logprobs), 0, 20, 0, NULL},
    CUSTOM("tools", openai_read_tools, 0),
    CUSTOM("tool_choice", openai_read_tool_choice, 0),
    CUSTOM("parallel_tool_calls", openai_read_parallel, 0),
    CUSTOM("reasoning_effort", read_reasoning_effort, 0),
    CUSTOM("chat_template_kwargs", read_template_arguments, 0),
    CUSTOM("functions", refuse_always, 0),
    CUSTOM("function_call", refuse_always, 0),
    CUSTOM("audio", refuse_always, 0),
    CUSTOM("modalities", read_modalities, 0),
    CUSTOM("web_search_options", refuse_always, 0),
    CUSTOM("prediction", refuse_always, 0),
    FIELDS_END,
};

/* reasoning_effort is a template variable too, where the request's own do not name it. */
static bool add_effort(struct api_call *call, struct api_error *error)
{
    const char *given = call->options.template_arguments;
    if (!call->reasoning_effort)
        return true;
    json_t *arguments = given ? json_loads(given, 0, NULL) : json_object();
    if (arguments && !json_object_get(arguments, "reasoning_effort"))
        json_object_set_new(arguments, "reasoning_effort", json_string(call->reasoning_effort));
    char *text = arguments ? json_dumps(arguments, JSON_COMPACT) : NULL;
    json_decref(arguments);
    call->options.template_arguments = text ? arena_copy_cstr(&call->arena, text) : NULL;
    free(text);
    return call->options.template_arguments || out_of_memory(error);
}

static bool parse_chat(struct api_call *call, struct str body, struct api_error *error)
{
    json_t *root;
    if (!fields_parse(body, &root, error))
        return false;
    set_defaults(call);
    call->chat = true;
    bool ok = fields_read(call, common_fields, chat_fields, root, error);
    json_decref(root);
    if (!ok)
        return false;
    if (!call->options.messages)
        return api_refuse(error, "messages", "messages is missing");
    if (call->options.n_top_logprobs && !call->options.logprobs)
        return api_refuse(error, "top_logprobs", "top_logprobs needs logprobs to be true");
    if (call->no_tools)
        call->options.tools = NULL;
    return add_effort(call, error) && check_common(call, error);
}

/* ---- completions ------------------------------------------------------------------------------ */

static bool read_ids(struct api_call *call, const char *name, const json_t *list,
                     struct api_prompt *out, struct api_error *error)
{
    size_t n = json_array_size(list);
    int32_t *ids = arena_alloc(&call->arena, n, sizeof *ids);
    if (!ids)
        return out_of_memory(error);
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!fields_integer(name, json_array_get(list, i), 0, INT32_MAX, &id, error))
            return false;
        ids[i] = (int32_t)id;
    }
    *out = (struct api_prompt){.tokens = ids, .n_tokens = n};
    return true;
}

/* A string, or a list of token ids. */
static bool read_one_prompt(struct api_call *call, const char *name, const json_t *value,
                            struct api_prompt *out, struct api_error *error)
{
    if (json_is_array(value) && json_array_size(value) > 0)
        return read_ids(call, name, value, out, error);
    if (!fields_text(call, name, value, &out->text, error))
        return false;
    return *out->text ||
           api_refuse(error, name, "%s is empty: there is nothing to go on from", name);
}

static bool read_prompt(struct api_call *call, const char *name, const json_t *value,
                        struct api_error *error)
{
    bool many = json_is_array(value) && !json_is_number(json_array_get(value, 0));
    size_t n = many ? json_array_size(value) : 1;
    if (n == 0 || n > API_CHOICES_MAX)
        return api_refuse(error, name, "prompt: a list must have 1 to %d prompts", API_CHOICES_MAX);
    struct api_prompt *prompts = arena_alloc(&call->arena, n, sizeof *prompts);
    if (!prompts)
        return out_of_memory(error);
    for (size_t i = 0; i < n; i++)
        if (!read_one_prompt(call, name, many ? json_array_get(value, i) : value, &prompts[i],
                             error))
            return false;
    call->prompts = prompts;
    call->n_prompts = n;
    return true;
}

static bool read_logprobs(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    int64_t n;
    if (json_is_boolean(value)) /* as the chat route has it */
        n = json_is_true(value) ? 1 : -1;
    else if (!fields_integer(name, value, 0, 20, &n, error))
        return false;
    call->options.logprobs = n >= 0;
    call->options.n_top_logprobs = n > 0 ? (uint32_t)n : 0;
    return true;
}

static const struct field completion_fields[] = {
    CUSTOM("prompt", read_prompt, 0),
    {"echo", FIELD_BOOL, offsetof(struct api_call, echo), 0, 0, 0, NULL},
    CUSTOM("logprobs", read_logprobs, 0),
    CUSTOM("best_of", read_best_of, 0),
    CUSTOM("suffix", refuse_always, 0),
    FIELDS_END,
};

static bool parse_completion(struct api_call *call, struct str body, struct api_error *error)
{
    json_t *root;
    if (!fields_parse(body, &root, error))
        return false;
    set_defaults(call);
    call->options.max_tokens = COMPLETION_TOKENS;
    bool ok = fields_read(call, common_fields, completion_fields, root, error);
    json_decref(root);
    if (!ok)
        return false;
    if (!call->prompts)
        return api_refuse(error, "prompt", "prompt is missing");
    if (call->echo && call->options.logprobs)
        return api_refuse(error, "echo",
                          "echo with logprobs: log-probabilities of a prompt are "
                          "not supported by this version");
    for (size_t i = 0; call->echo && i < call->n_prompts; i++)
        if (!call->prompts[i].text)
            return api_refuse(error, "echo", "echo needs prompts of text, not of token ids");
    return check_common(call, error);
}

/* ---- embeddings ------------------------------------------------------------------------------- */

static bool read_encoding(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    const char *text;
    if (!fields_text(call, name, value, &text, error))
        return false;
    call->base64 = strcmp(text, "base64") == 0;
    return call->base64 || strcmp(text, "float") == 0 ||
           api_refuse(error, name, "encoding_format must be float or base64");
}

static const struct field embedding_fields[] = {
    CUSTOM("model", read_model, 0),
    CUSTOM("input", read_prompt, 0),
    CUSTOM("encoding_format", read_encoding, 0),
    CUSTOM("dimensions", refuse_always, 0),
    CUSTOM("cache_salt", read_cache_salt, 0),
    {"priority", FIELD_I32, OPTION(priority), INT32_MIN, INT32_MAX, 0, NULL},
    ACCEPT("user"),
    FIELDS_END,
};

bool openai_parse_embeddings(struct api_call *call, struct str body, struct api_error *error)
{
    static const struct field none[] = {FIELDS_END};
    json_t *root;
    if (!fields_parse(body, &root, error))
        return false;
    call->n = 1;
    call->options.mode = SLUICE_EMBED;
    bool ok = fields_read(call, embedding_fields, none, root, error);
    json_decref(root);
    return ok && (call->prompts || api_refuse(error, "input", "input is missing"));
}

bool openai_parse(struct api_call *call, bool chat, struct str body, struct api_error *error)
{
    return chat ? parse_chat(call, body, error) : parse_completion(call, body, error);
}
