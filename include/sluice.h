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
    SLUICE_ERROR_LIMIT, /* longer than the context, a full queue, ... */
    SLUICE_ERROR_CANCELLED,
    SLUICE_ERROR_INTERNAL,
} sluice_status;

typedef struct sluice_error {
    sluice_status status;
    char message[512];
} sluice_error;

typedef struct sluice_engine sluice_engine;
typedef struct sluice_request sluice_request;

/* ---- engine --------------------------------------------------------------------------------- */

typedef struct sluice_engine_options {
    const char *model;   /* a .gguf file or a folder with config.json */
    const char *backend; /* "auto" (default), "cpu", "cuda", "ref" */
    uint32_t n_threads;  /* 0: one per usable core */
    uint32_t n_context;  /* positions per sequence; 0: the model's, up to 8192, as memory allows */
    uint32_t max_sequences;    /* run at once; 0: 16 */
    uint32_t step_rows;        /* rows of one forward pass; 0: 512 */
    uint64_t kv_memory;        /* bytes of the page pool; 0: chosen from memory */
    bool exact;                /* float32 activations, accumulation and K/V */
    const char *chat_template; /* template text that replaces the model's own */
    /* Progress of loading, 0..1, called from sluice_engine_open's thread. May be NULL. */
    void (*progress)(void *context, double fraction, const char *what);
    void *progress_context;
} sluice_engine_options;

sluice_status sluice_engine_open(const sluice_engine_options *options, sluice_engine **engine,
                                 sluice_error *error);
/* Cancels what still runs and frees the model. NULL is allowed. */
void sluice_engine_close(sluice_engine *engine);

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
} sluice_model_info;

void sluice_engine_info(const sluice_engine *engine, sluice_model_info *info);

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
     * chunk, with the logits or the final hidden state of every prompt position. */
    sluice_mode mode;
} sluice_request_options;

/* Checks, templates and tokenizes on the calling thread, then queues. */
sluice_status sluice_submit(sluice_engine *engine, const sluice_request_options *options,
                            sluice_request **request, sluice_error *error);

typedef enum sluice_event_kind {
    SLUICE_EVENT_TEXT,      /* a piece of the answer: whole code points */
    SLUICE_EVENT_REASONING, /* a piece of the model's thinking */
    SLUICE_EVENT_TOOL_CALL, /* one complete tool call */
    SLUICE_EVENT_TOKEN, /* one generated token, before the text it completes (only with logprobs,
                               or when the input was tokens) */
    SLUICE_EVENT_ROWS,  /* scoring: rows of float32 */
    SLUICE_EVENT_DONE,  /* the last event: finish and usage */
    SLUICE_EVENT_ERROR, /* the last event: error */
} sluice_event_kind;

typedef enum sluice_finish {
    SLUICE_FINISH_NONE,
    SLUICE_FINISH_STOP,       /* an end token or a stop string */
    SLUICE_FINISH_LENGTH,     /* max_tokens or the context */
    SLUICE_FINISH_TOOL_CALLS, /* it stopped, and called tools */
    SLUICE_FINISH_CANCELLED,
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
    sluice_finish finish; /* DONE */
    sluice_usage usage;
    sluice_error error; /* ERROR */
} sluice_event;

/* Waits up to timeout_ms (negative: without limit) for the next event. Returns true with an event;
 * false when the time is up, or after the last event was taken. Events wait in a bounded buffer: a
 * request whose reader is behind pauses, keeps its place, and holds up nobody else. */
bool sluice_request_next(sluice_request *request, sluice_event *event, int timeout_ms);
/* Asks the engine to stop; the request ends with SLUICE_FINISH_CANCELLED within one step. */
void sluice_request_cancel(sluice_request *request);
/* Cancels if need be, and frees. NULL is allowed. */
void sluice_request_free(sluice_request *request);

/* "sluice 0.1.0" */
const char *sluice_version(void);
const char *sluice_status_name(sluice_status status);

#ifdef __cplusplus
}
#endif
#endif
