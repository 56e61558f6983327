/*
 * Dialects: JSON <-> requests and events, without any I/O.
 *
 *   body --(dialect's parse)--> struct api_call --(server submits)--> events
 *        --(api_answer_take: collects)--> dialect's stream_*() or body() --> bytes
 *
 * What a client may get wrong ends in a struct api_error, which names the parameter; each dialect
 * has its own way to write it down. The server knows none of the JSON, a dialect no socket.
 *
 * Thread rule: a call and an answer belong to one thread at a time.
 */
#ifndef SLUICE_API_API_H
#define SLUICE_API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/str.h"
#include "sluice.h"

#define API_DEPTH_MAX    64
#define API_CHOICES_MAX  128 /* answers of one call: prompts x n */
#define API_STOPS_MAX    16
#define API_IGNORED_MAX  400 /* bytes of the x-sluice-ignored header */
#define API_MODEL_MAX    256
#define API_MESSAGES_MAX 16384

struct api_error {
    unsigned status; /* HTTP's; 0: no error */
    char type[40], code[48];
    char param[96]; /* "" where no parameter is to blame */
    char message[640];
    unsigned retry_after; /* seconds; 0: does not say */
};

/* Fill in an error and return false, for `return api_refuse(...)`. */
bool api_refuse(struct api_error *error, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool api_fail(struct api_error *error, unsigned status, const char *type, const char *code,
              const char *format, ...) __attribute__((format(printf, 5, 6)));
/* What the engine said, as a client should see it. */
void api_error_from_engine(const sluice_error *from, struct api_error *error);

struct api_prompt {
    const char *text; /* or tokens */
    const int32_t *tokens;
    size_t n_tokens;
};

/* A request to generate, understood. Everything lives in its arena. */
struct api_call {
    struct arena arena;
    char model[API_MODEL_MAX];        /* "": whichever is served */
    sluice_request_options options;   /* input aside where there are prompts */
    const struct api_prompt *prompts; /* [n_prompts]; without messages */
    size_t n_prompts;
    uint32_t n; /* answers per prompt */
    bool chat, stream, include_usage, echo, one_tool_call, no_tools;
    const char *reasoning_effort;    /* NULL: not given */
    const sluice_sampling *defaults; /* set before parsing: the server's own, or NULL */
    bool base64;                     /* embeddings as text */
    bool strict;                     /* set before parsing: unknown fields are an error */
    char ignored[API_IGNORED_MAX];   /* names of unknown fields, ", " between */
};

void api_call_release(struct api_call *call);

struct api_token {
    int32_t token;
    float logprob;
    uint32_t n_top;
    const sluice_logprob *top; /* [n_top], in the answer's arena */
};

/* One of the answers as far as it has come. */
struct api_choice {
    struct buf text, reasoning;
    struct buf tool_calls; /* the dialect's own form */
    uint32_t n_tool_calls;
    struct api_token *tokens; /* with logprobs */
    size_t n_tokens, token_capacity, tokens_sent;
    sluice_finish finish; /* NONE while it goes on */
    uint32_t text_bytes;  /* sent so far: offsets of the old completions dialect */
    struct buf row;       /* float32: an embedding */
};

struct api_dialect;

struct api_answer {
    struct arena arena;
    char id[48], model[API_MODEL_MAX];
    int64_t created;
    bool chat, stream, include_usage, logprobs, base64;
    sluice_engine *engine; /* for the texts of tokens */
    const struct api_dialect *dialect;
    struct api_choice *choices;
    uint32_t n_choices;
    const char **echoes; /* [n_choices]: a prompt that leads its answer, or NULL */
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    struct buf chunk_head; /* the dialect's: how every chunk of this answer begins */
    bool failed;           /* out of memory: the server ends it with an error */
};

/* engine may be NULL as long as no event was taken; then answer->engine is set. */
bool api_answer_init(struct api_answer *answer, const struct api_call *call,
                     const struct api_dialect *dialect, const char *model, sluice_engine *engine);
void api_answer_release(struct api_answer *answer);
/* Keeps what the final answer needs of an event, streamed or not. */
void api_answer_take(struct api_answer *answer, uint32_t choice, const sluice_event *event);

struct api_dialect {
    const char *stream_type; /* content type of its streams */
    const char *keep_alive;  /* bytes that a silent stream carries */
    bool (*parse)(struct api_call *call, struct str body, struct api_error *error);
    void (*error_body)(const struct api_error *error, struct buf *out);
    /* A tool call for the whole answer, in the dialect's form. */
    void (*take_tool_call)(struct api_answer *answer, uint32_t choice,
                           const sluice_tool_call *call);
    /* What leaves with the headers, for each event (already taken), at the end, or instead of it. */
    void (*stream_begin)(struct api_answer *answer, struct buf *out);
    void (*stream_event)(struct api_answer *answer, uint32_t choice, const sluice_event *event,
                         struct buf *out);
    void (*stream_end)(struct api_answer *answer, struct buf *out);
    void (*stream_error)(struct api_answer *answer, const struct api_error *error, struct buf *out);
    void (*body)(struct api_answer *answer, struct buf *out);
};

extern const struct api_dialect api_openai_chat, api_openai_completions, api_openai_embeddings;

/* ---- the smaller routes (utilities.c) --------------------------------------------------------- */

/* The "model" of a body of one of these, "" where it names none. */
bool api_model_of(struct str body, char model[API_MODEL_MAX], struct api_error *error);

/* {"content"|"prompt", "add_special", "parse_special", "with_pieces"} -> {"tokens": [...]} */
bool api_tokenize(sluice_engine *engine, struct str body, struct buf *out, struct api_error *error);
/* {"tokens": [...]} -> {"content": "..."} */
bool api_detokenize(sluice_engine *engine, struct str body, struct buf *out,
                    struct api_error *error);

/* A body of /v1/chat/completions -> {"prompt": "..."}, what its messages become. */
bool api_apply_template(sluice_engine *engine, struct str body, struct buf *out,
                        struct api_error *error);

/* ---- writing JSON ----------------------------------------------------------------------------- */

/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void json_write_string(struct buf *out, struct str text);
/* A finite number; anything else becomes null. */
void json_write_number(struct buf *out, double value);
/* "NAME-" and random hex digits: identifies a request. */
void api_make_id(char *out, size_t size, const char *prefix);

#endif
