/*
 * sluice.h: the C API of the sluice inference engine. Link libsluice.a; includes libc only.
 *
 *   open an engine on a model -> submit requests (messages, text or tokens; from any thread)
 *   -> take events from each request until SLUICE_EVENT_DONE or _ERROR -> free it -> close.
 *
 * Threads. An engine runs its own thread. Every function here may be called from any thread, except
 * that one request's events are taken by one thread at a time and that sluice_engine_close() must
 * be the last call on an engine. Requests outlive nothing: free them before closing the engine.
 *
 * Ownership. Pointers passed in are only read during the call. Pointers in an event are valid until
 * the next sluice_request_next() on that request, or its free.
 *
 * Errors. Functions return a sluice_status; a `sluice_error *` (may be NULL) receives a sentence
 * that says what is wrong and what to do. Struct versions: set struct fields you do not know to
 * zero (`= {0}`); every zero means "default".
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sluice_status {
    SLUICE_OK = 0,
    SLUICE_ERROR_USAGE,       /* an argument is wrong */
    SLUICE_ERROR_MODEL,       /* the model's files are malformed */
    SLUICE_ERROR_UNSUPPORTED, /* a kind of model, tokenizer or feature sluice does not know */
    SLUICE_ERROR_NETWORK,
    SLUICE_ERROR_INTEGRITY,
    SLUICE_ERROR_DISK,
    SLUICE_ERROR_MEMORY,
    SLUICE_ERROR_DEVICE,
    SLUICE_ERROR_LIMIT, /* another documented limit */
    SLUICE_ERROR_CANCELLED,
    SLUICE_ERROR_INTERNAL,
    SLUICE_ERROR_CONTEXT,  /* the prompt is longer than the context, or than the whole KV memory */
    SLUICE_ERROR_BUSY,     /* a queue is full: the same request may pass later */
    SLUICE_ERROR_KEY_BUSY, /* the request's key has as many in work as it may */
} sluice_status;

typedef struct sluice_error {
    sluice_status status;
    char message[512];
} sluice_error;

typedef struct sluice_engine sluice_engine;
typedef struct sluice_request sluice_request;
typedef struct sluice_wakeups sluice_wakeups;

/* ---- engine --------------------------------------------------------------------------------- */

/* Plan the next step while one computes? Results of a step then arrive while the next one computes,
 * which hides the engine's own work; an answer that ends by a stop costs one row for nothing. */
typedef enum sluice_ahead {
    SLUICE_AHEAD_AUTO, /* on accelerators */
    SLUICE_AHEAD_ALWAYS,
    SLUICE_AHEAD_NEVER, /* accelerators do it all the same */
} sluice_ahead;

typedef struct sluice_engine_options {
    const char *model;   /* a .gguf file or a folder with config.json */
    const char *backend; /* "auto" (default), "cpu", "cuda", "ref" */
    uint32_t n_threads;  /* 0: one per usable core */
    uint32_t n_context;  /* positions per sequence; 0: the model's, up to 8192, as memory allows */
    uint32_t max_sequences;    /* run at once; 0: 64, as far as step_rows allows */
    uint32_t step_rows;        /* rows of one forward pass; 0: 512 */
    uint64_t kv_memory;        /* bytes of the page pool; 0: chosen from memory */
    bool exact;                /* float32 activations, accumulation and K/V */
    const char *chat_template; /* template text that replaces the model's own */
    /* Progress of loading, 0..1, called from sluice_engine_open's thread. May be NULL. */
    void (*progress)(void *context, double fraction, const char *what);
    void *progress_context;

    const char *kv_type;  /* "f32", "f16", "bf16", "q8_0", "f8_e4m3"; NULL: the backend's */
    bool no_prefix_cache; /* compute every prompt in full */
    bool cache_by_key;    /* prompts reuse only what requests of the same key computed */
    bool reproducible;    /* a prompt never reuses pages that were computed as generated rows */
    uint64_t
        checkpoint_memory; /* recurrent layers: bytes of the pool for states kept; 0: a quarter */
    uint32_t max_gap_ms;   /* longest pause of a running answer for a prompt; 0: 250 */
    uint32_t max_queued;   /* requests in work or waiting; 0: 1024 */
    uint64_t max_queued_tokens; /* prompt tokens waiting; 0: no limit */
    uint32_t max_key_requests;  /* requests of one key in work or waiting; 0: no limit */
    sluice_ahead plan_ahead;
    /* A folder in which the CPU's packed weights are kept, so that the next start maps them instead
     * of packing; NULL: none. Files of all models there take at most this many bytes; 0: 32 GiB. */
    const char *packed_cache;
    uint64_t packed_cache_size;
} sluice_engine_options;

sluice_status sluice_engine_open(const sluice_engine_options *options, sluice_engine **engine,
                                 sluice_error *error);
/* Cancels what still runs and frees the model. NULL is allowed. */
void sluice_engine_close(sluice_engine *engine);

typedef enum sluice_pooling {
    SLUICE_POOLING_DEFAULT, /* the model's own; the last token where it names none */
    SLUICE_POOLING_LAST,
    SLUICE_POOLING_MEAN,
    SLUICE_POOLING_FIRST,
} sluice_pooling;

typedef struct sluice_model_info {
    char name[128];        /* general.name, or the folder's name */
    char architecture[64]; /* "qwen3" */
    char backend[32];      /* what runs it */
    char device[128];
    uint32_t n_vocab;
    uint32_t n_context;       /* of this engine */
    uint32_t n_context_train; /* of the model */
    uint32_t n_embedding;     /* width of a hidden state */
    uint64_t n_parameters;
    uint64_t weight_bytes;
    uint64_t kv_bytes; /* page pool */
    bool has_tokenizer;
    bool has_chat_template;
    bool has_logits; /* false: an embedding model */
    double load_seconds;
    sluice_pooling pooling; /* of embeddings; SLUICE_POOLING_DEFAULT: the model names none */
} sluice_model_info;

void sluice_engine_info(const sluice_engine *engine, sluice_model_info *info);

/* Counters since the engine was opened, consistent as of the end of a step. */
#define SLUICE_STEP_BUCKETS 12
typedef struct sluice_stats {
    uint32_t running, waiting; /* sequences (one per answer) with a place in the batch, without */
    uint32_t pages_total;
    uint32_t pages_used;   /* named by a running sequence */
    uint32_t pages_cached; /* free, but still holding a prefix that may be reused */
    uint64_t page_bytes;
    uint64_t requests_finished, requests_failed, requests_cancelled;
    uint64_t prompt_tokens;    /* of admitted prompts, cached ones included */
    uint64_t cached_tokens;    /* of them, not computed again */
    uint64_t prefilled_tokens; /* prompt rows computed, after a preemption also for a second time */
    uint64_t decoded_tokens;   /* tokens drawn */
    uint64_t preemptions;
    uint64_t steps;
    double step_seconds; /* sum over all steps */
    /* Steps by duration: bucket i counts those of at most 1 ms * 2^i, the last one all longer. */
    uint64_t step_buckets[SLUICE_STEP_BUCKETS];
    uint64_t bytes_read; /* weights and K/V that the steps read, computed from their shapes */
} sluice_stats;

void sluice_engine_stats(sluice_engine *engine, sluice_stats *stats);

/* ---- tokens --------------------------------------------------------------------------------- */

/* Tokenizes; special tokens written in the text become special only if parse_special. Returns the
 * token count in *n_tokens, and up to `capacity` of them in tokens. add_bos also adds an end token
 * where the model's tokenizer says so. */
sluice_status sluice_tokenize(sluice_engine *engine, const char *text, size_t length, bool add_bos,
                              bool parse_special, int32_t *tokens, size_t capacity,
                              size_t *n_tokens, sluice_error *error);
/* Text of tokens, NUL-terminated where capacity allows; *length is the full length without NUL. */
sluice_status sluice_detokenize(sluice_engine *engine, const int32_t *tokens, size_t n_tokens,
                                char *text, size_t capacity, size_t *length, sluice_error *error);

/* ---- requests ------------------------------------------------------------------------------- */

typedef struct sluice_tool_call {
    const char *id;        /* "call_..." */
    const char *name;      /* function name */
    const char *arguments; /* JSON text */
} sluice_tool_call;

typedef struct sluice_message {
    const char *role;    /* "system", "user", "assistant", "tool" */
    const char *content; /* UTF-8; may be NULL for an assistant turn with tool calls */
    const char *reasoning;
    const sluice_tool_call *tool_calls; /* [n_tool_calls], assistant turns */
    size_t n_tool_calls;
    const char *tool_call_id; /* tool turns */
    const char *name;
} sluice_message;

typedef enum sluice_thinking {
    SLUICE_THINKING_DEFAULT, /* leave it to the template */
    SLUICE_THINKING_ON,
    SLUICE_THINKING_OFF,
} sluice_thinking;

/* Sampling. A field is used only where its bit is set in `set`; the rest comes from the model's
 * generation_config, or else temperature 0.8, top_k 40, top_p 0.95, min_p 0.05. */
enum {
    SLUICE_SET_TEMPERATURE = 1 << 0,
    SLUICE_SET_TOP_K = 1 << 1,
    SLUICE_SET_TOP_P = 1 << 2,
    SLUICE_SET_MIN_P = 1 << 3,
    SLUICE_SET_REPEAT_PENALTY = 1 << 4,
    SLUICE_SET_REPEAT_LAST_N = 1 << 5,
    SLUICE_SET_PRESENCE_PENALTY = 1 << 6,
    SLUICE_SET_FREQUENCY_PENALTY = 1 << 7,
    SLUICE_SET_SEED = 1 << 8,
    SLUICE_SET_TYPICAL_P = 1 << 9,
    SLUICE_SET_TOP_N_SIGMA = 1 << 10,
    SLUICE_SET_XTC = 1 << 11,      /* probability and threshold */
    SLUICE_SET_DRY = 1 << 12,      /* multiplier; base, allowed_length, last_n where not 0 */
    SLUICE_SET_MIROSTAT = 1 << 13, /* version; tau and eta where not 0 */
};

typedef struct sluice_logit_bias {
    int32_t token;
    float bias;
} sluice_logit_bias;

typedef struct sluice_sampling {
    uint32_t set;      /* SLUICE_SET_ bits */
    float temperature; /* 0: greedy */
    int32_t top_k;     /* 0: off */
    float top_p;
    float min_p;
    float repeat_penalty;
    int32_t repeat_last_n; /* 0: off, -1: whole context */
    float presence_penalty;
    float frequency_penalty;
    uint64_t seed; /* same seed, same prompt: same text */
    const sluice_logit_bias *biases;
    size_t n_biases;
    float typical_p;   /* 1: off */
    float top_n_sigma; /* 0: off */
    float xtc_probability, xtc_threshold;
    float dry_multiplier; /* 0: off */
    float dry_base;
    int32_t dry_allowed_length;
    int32_t dry_last_n; /* -1: whole context */
    /* Texts that a repetition does not reach across; NULL: newline, ':', '"', '*'. */
    const char *const *dry_breakers;
    size_t n_dry_breakers;
    int32_t mirostat; /* 0: off; 1, 2 */
    float mirostat_tau, mirostat_eta;
    /* Order of the cuts, "top_k;top_p;min_p;temperature"; NULL: top_n_sigma, top_k, typical_p,
     * top_p, min_p, xtc, temperature. Penalties come before all of them. */
    const char *order;
} sluice_sampling;

typedef enum sluice_mode {
    SLUICE_GENERATE,
    SLUICE_SCORE_LOGITS,
    SLUICE_SCORE_HIDDEN,
    SLUICE_EMBED, /* one row: the pooled hidden states of the prompt */
} sluice_mode;

typedef struct sluice_request_options {
    /* Exactly one of the three kinds of input. */
    const sluice_message *messages; /* [n_messages], through the chat template */
    size_t n_messages;
    const char *prompt;    /* raw text: special tokens in it are parsed */
    const int32_t *tokens; /* [n_tokens] raw tokens */
    size_t n_tokens;

    const char *tools; /* with messages: JSON list of tools in OpenAI's form, or NULL */
    sluice_thinking thinking;
    const char *template_arguments; /* with messages: JSON object of further template variables */

    uint32_t max_tokens; /* 0: until the model stops or the context is full */
    sluice_sampling sampling;
    bool logprobs;            /* token events carry log-probabilities */
    uint32_t n_top_logprobs;  /* 0..20 */
    const char *const *stops; /* [n_stops] strings that end the answer; not part of it */
    size_t n_stops;
    bool ignore_end; /* go on past end-of-text tokens */
    uint32_t chunk;  /* most prompt rows per step; 0: the engine's choice */

    /* Scoring instead of generating (max_tokens is ignored): one SLUICE_EVENT_ROWS per finished
     * chunk, with the logits or the final hidden state of every prompt position; SLUICE_EMBED: one
     * event with one row. */
    sluice_mode mode;
    sluice_pooling pooling; /* SLUICE_EMBED */
    bool raw_embedding;     /* SLUICE_EMBED: do not scale the row to length 1 */

    uint32_t
        n; /* answers to draw from this prompt, 1..128; 0: 1. Answer i > 0 has a seed of its own,
                 * derived from the request's. Events name their answer in `choice`. */

    /* Sharing. Requests reuse each other's computed prefixes only within the same salt (and, with
     * the engine's cache_by_key, the same key). */
    const char *cache_salt; /* NULL: the common one */
    const char *key;        /* whose request it is: engines divide themselves evenly among keys */
    int32_t priority;       /* lower goes first and may displace higher; 0 is normal */
    uint32_t deadline_ms;   /* ends with SLUICE_FINISH_DEADLINE so long after submit; 0: never */

    /* Instead of waiting for each request: where to report that it has events (see below). */
    sluice_wakeups *wakeups;
    void *user;            /* returned by sluice_request_user() */
    bool report_admission; /* a SLUICE_EVENT_ADMITTED comes first */
    bool report_silent;    /* a token that shows nothing (yet) brings an empty SLUICE_EVENT_TEXT */
} sluice_request_options;

/* Checks, templates and tokenizes on the calling thread, then queues. */
sluice_status sluice_submit(sluice_engine *engine, const sluice_request_options *options,
                            sluice_request **request, sluice_error *error);

/* The prompt that the messages of the options become, as text: written to `text` as far as it has
 * room, NUL-terminated where there is room; *length is the full length without NUL. */
sluice_status sluice_apply_template(sluice_engine *engine, const sluice_request_options *options,
                                    char *text, size_t capacity, size_t *length,
                                    sluice_error *error);

typedef enum sluice_event_kind {
    SLUICE_EVENT_TEXT,      /* a piece of the answer: whole code points */
    SLUICE_EVENT_REASONING, /* a piece of the model's thinking */
    SLUICE_EVENT_TOOL_CALL, /* one complete tool call */
    SLUICE_EVENT_TOKEN,    /* one generated token, before the text it completes (only with logprobs,
                               or when the input was tokens) */
    SLUICE_EVENT_ROWS,     /* scoring: rows of float32 */
    SLUICE_EVENT_DONE,     /* the last event: finish and usage */
    SLUICE_EVENT_ERROR,    /* the last event: error */
    SLUICE_EVENT_ADMITTED, /* left the queue, its first step begins (only with report_admission) */
    SLUICE_EVENT_CHOICE,   /* n > 1: one of the answers ended: choice, finish */
} sluice_event_kind;

typedef enum sluice_finish {
    SLUICE_FINISH_NONE,
    SLUICE_FINISH_STOP,       /* an end token or a stop string */
    SLUICE_FINISH_LENGTH,     /* max_tokens or the context */
    SLUICE_FINISH_TOOL_CALLS, /* it stopped, and called tools */
    SLUICE_FINISH_CANCELLED,
    SLUICE_FINISH_DEADLINE, /* deadline_ms passed */
} sluice_finish;

typedef struct sluice_logprob {
    int32_t token;
    float logprob;
} sluice_logprob;

typedef struct sluice_usage {
    uint32_t prompt_tokens;
    uint32_t cached_tokens; /* of the prompt, not computed again */
    uint32_t output_tokens;
    double queue_seconds;
    double prompt_seconds; /* admission to first token */
    double output_seconds; /* first token to last */
} sluice_usage;

typedef struct sluice_event {
    sluice_event_kind kind;
    const char *text; /* TEXT, REASONING: UTF-8, NUL-terminated */
    size_t length;
    sluice_tool_call tool_call; /* TOOL_CALL */
    int32_t token;              /* TOKEN */
    float logprob;
    const sluice_logprob *top; /* [n_top] */
    size_t n_top;
    const float *rows; /* ROWS: [n_rows, row_width] */
    uint32_t first_row, n_rows, row_width;
    sluice_finish finish; /* DONE, CHOICE */
    sluice_usage usage;
    sluice_error error; /* ERROR */
    uint32_t choice;    /* which of the n answers; 0 for n = 1 */
} sluice_event;

/* Waits up to timeout_ms (negative: without limit) for the next event. Returns true with an event;
 * false when the time is up, or after the last event was taken. Events wait in a bounded buffer: a
 * request whose reader is behind pauses, keeps its place, and holds up nobody else. */
bool sluice_request_next(sluice_request *request, sluice_event *event, int timeout_ms);
/* Asks the engine to stop; the request ends with SLUICE_FINISH_CANCELLED within one step. */
void sluice_request_cancel(sluice_request *request);
/* Cancels if need be, and frees. NULL is allowed. */
void sluice_request_free(sluice_request *request);
void *sluice_request_user(const sluice_request *request);

typedef struct sluice_request_progress {
    bool admitted, ended;
    uint32_t prompt_tokens;
    uint32_t computed_tokens; /* of the prompt: cached or computed so far */
    uint32_t output_tokens;   /* over all answers */
} sluice_request_progress;

/* What a list of running requests shows; any thread. */
void sluice_request_progress_get(const sluice_request *request, sluice_request_progress *progress);

/* ---- many requests, one thread ---------------------------------------------------------------- */

/* A list of the requests that have events. `wake` is called from an engine's thread when the list
 * stops being empty, at most once per engine step however many requests have events: it must not
 * block or call back (write to an eventfd, signal a condition). One thread then takes requests from
 * the list and their events with timeout 0 until there are none; a request is listed again when
 * events come after that. Requests of several engines may share one list. A request on a list is
 * freed by the thread that takes from it; the list is freed after its requests. */
sluice_status sluice_wakeups_create(void (*wake)(void *context), void *context,
                                    sluice_wakeups **wakeups, sluice_error *error);
/* Up to `capacity` requests, each leaves the list; 0 when it is empty. Never waits. */
size_t sluice_wakeups_take(sluice_wakeups *wakeups, sluice_request **requests, size_t capacity);
void sluice_wakeups_free(sluice_wakeups *wakeups); /* NULL allowed */

/* ---- several models --------------------------------------------------------------------------- */

/* A set of models by name, loaded when they are asked for. A thread of the set loads one model at a
 * time; meanwhile everything else goes on. A model that nobody holds stays for its keep-alive and
 * leaves earlier, least recently used first, when another one needs its memory. Any thread. */
typedef struct sluice_models sluice_models;

typedef struct sluice_models_options {
    sluice_engine_options engine; /* for every model; `model` and `progress` are not used */
    uint64_t memory;              /* bytes of weights and KV of all loaded ones; 0: no limit */
    int64_t keep_alive_ms;        /* 0: five minutes; negative: for ever */
} sluice_models_options;

typedef enum sluice_model_state {
    SLUICE_MODEL_UNLOADED,
    SLUICE_MODEL_LOADING, /* or waiting for its turn or for memory */
    SLUICE_MODEL_LOADED,
} sluice_model_state;

typedef struct sluice_model_entry {
    char name[256];
    sluice_model_state state;
    uint32_t holders;
    uint64_t bytes;     /* weights and KV; 0 while unloaded */
    int64_t expires_ms; /* until it unloads, if nobody asks; -1: never, or held */
    double progress;    /* of loading, 0 to 1 */
} sluice_model_entry;

sluice_status sluice_models_create(const sluice_models_options *options, sluice_models **models,
                                   sluice_error *error);
/* Every hold must have been released. Requests that wait for a model get SLUICE_ERROR_CANCELLED. */
void sluice_models_close(sluice_models *models);
/* Makes a model known. The file is not touched. SLUICE_ERROR_USAGE for a name that is taken. */
sluice_status sluice_models_add(sluice_models *models, const char *name, const char *path,
                                sluice_error *error);
/* Holds a model's engine. If it is loaded: *engine is set at once. Otherwise *engine is NULL and
 * `ready` is called once, from the set's thread, with the engine (held) or with an error; it must
 * not block. With ready NULL the call waits itself. keep_alive_ms (may be NULL) replaces the model's
 * keep-alive: 0 unloads after the last release, negative keeps it for ever. SLUICE_ERROR_USAGE for
 * an unknown name, SLUICE_ERROR_MEMORY for a model that is larger than the whole budget. */
sluice_status
sluice_models_hold(sluice_models *models, const char *name, const int64_t *keep_alive_ms,
                   void (*ready)(void *context, sluice_engine *engine, const sluice_error *error),
                   void *context, sluice_engine **engine, sluice_error *error);
/* Takes a wait back: true where `ready` was not called with this context and never will be. A model
 * that nobody waits for any more is not loaded. */
bool sluice_models_abandon(sluice_models *models, const char *name, void *context);
/* Gives a hold back: after the last request on it was freed. */
void sluice_models_release(sluice_models *models, sluice_engine *engine);
/* Unloads a model as soon as nobody holds it. */
sluice_status sluice_models_unload(sluice_models *models, const char *name, sluice_error *error);
/* What is known, in the order of adding: returns how many, and fills in up to `capacity`. */
size_t sluice_models_list(sluice_models *models, sluice_model_entry *entries, size_t capacity);
/* What a loaded model is and has done, without holding it. False: it is not loaded. */
bool sluice_models_look(sluice_models *models, const char *name, sluice_model_info *info,
                        sluice_stats *stats);

/* "sluice 0.1.0" */
const char *sluice_version(void);
const char *sluice_status_name(sluice_status status);

#ifdef __cplusplus
}
#endif
#endif
