/*
 * Inside the engine: its state, and how the files divide the work.
 *
 *   engine.c   open and close                        sizing.c   what fits: context, pool, step limits
 *   submit.c   checks and tokenizes a request        request.c  its life, the queue to the loop
 *   loop.c     the owner thread: requests in, plan, step, sleep; who ends
 *   step.c     plan -> struct step and sample step   result.c   what a step brought -> events
 *   output.c   token -> text -> events               events.c   events to the reader
 *   prompt.c   messages -> tokens (chat template)    tokens.c   tokenize, detokenize, information
 *   wakeups.c  one wake-up for many requests
 *
 * Threads. The owner thread alone touches the scheduler, the page tables, the backend, the step
 * buffers and the part of a request marked so. Others meet it in two places only: the mailbox (new
 * requests, and "look again") and each request's event queue. Nothing waits for a reader.
 *
 * A request has one or several choices (answers); to the scheduler each is a sequence of its own.
 *
 * Not a public header; tests may open an engine on their own parts through engine_open_source().
 */
#ifndef SLUICE_ENGINE_INTERNAL_H
#define SLUICE_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "engine/events.h"
#include "engine/output.h"
#include "hw/hardware.h"
#include "model/model.h"
#include "sample/sample.h"
#include "sched/sched.h"
#include "sluice.h"
#include "text/chat/output_parser.h"
#include "text/tokenizer/tokenizer.h"

#define ENGINE_QUEUE_MAX       1024 /* default of max_queued */
#define ENGINE_CHOICES_MAX     128
#define ENGINE_BIASES_MAX      1024 /* logit biases of one request */
#define ENGINE_STOPS_MAX       16
#define ENGINE_STOP_BYTES_MAX  1024        /* of one stop string */
#define ENGINE_CONTEXT_DEFAULT 8192        /* positions, where the caller names none */
#define ENGINE_CONTEXT_LEAST   256         /* what a default context may shrink to */
#define ENGINE_SEQUENCES       64          /* default of max_sequences */
#define ENGINE_STEP_ROWS       512         /* default of step_rows */
#define ENGINE_PAGE_TOKENS     32          /* a page of the widest group: 1.6 % lost of 1k tokens */
#define ENGINE_OUTPUT_BYTES    (16u << 20) /* most logits that a scoring step may produce */
#define ENGINE_EVENTS_FULL     8192        /* bytes of unread events at which a sequence pauses */
#define ENGINE_EVENTS_RESERVE  16384

/* What an engine runs: a model as far as the engine is concerned. All borrowed; they outlive it. */
struct engine_source {
    const struct program *program;
    const struct tokenizer *tokenizer;         /* NULL: raw tokens only */
    const char *tokenizer_problem;             /* why */
    struct str chat_template;                  /* len 0: none */
    const struct model_generation *generation; /* NULL: no recommendations */
    sluice_pooling pooling;                    /* of an embedding model */
    const char *name, *architecture;
    uint64_t n_parameters;
    /* True once results are not to be trusted any more; asked after every step. May be NULL. */
    bool (*damaged)(const void *context);
    const void *context;
};

/* Everything whose size is fixed when the engine opens. */
struct engine_size {
    uint32_t n_slots;
    uint32_t n_context;         /* positions of a sequence */
    uint32_t max_queued;        /* requests */
    uint64_t max_queued_tokens; /* of prompts that wait; 0: no limit */
    uint32_t max_key_requests;  /* 0: no limit */
    bool cache_by_key;
    uint32_t max_rows, max_outputs;
    struct layout layout; /* n_pages included */
    struct step_limits step;
    struct sample_limits sample;
    struct kv_config kv;
    struct sched_config sched;
    uint32_t max_positions; /* of one sequence alone in the pool; <= n_context */
};

/* Requests in work or waiting, of one key. */
struct key_count {
    uint64_t key;
    uint32_t n;
};

/* Where new work and "look again" reach the owner thread, and where a queue is found to be full: the
 * caller learns that from sluice_submit(), while its client can still be told. */
struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    sluice_request *first, *last; /* new requests, oldest first */
    bool attention;               /* somebody cancelled, or caught up reading */
    bool closing;
    uint32_t n_live;         /* requests that did not end yet */
    uint64_t waiting_tokens; /* of prompts that were not admitted yet */
    struct key_count *keys;  /* [max_queued] with a limit for each; NULL without */
    uint32_t n_keys;
};

/* A step that was submitted: what is needed to deliver its results. */
struct flight {
    struct step *step;
    struct sample_step *sample_step;
    struct sched_slice *slices; /* [n_slices] of the plan; id 0: its answer ended meanwhile */
    uint32_t n_slices, n_generated, n_rows;
    uint32_t *output_rows; /* [n_slots] of the slices: first output */
    uint32_t *sample_rows; /* [n_slots] of the slices: sample row or NO_SAMPLE */
    uint64_t number;
    uint64_t ticket, last_ticket; /* of the forward pass; of all that was submitted for the step */
    uint64_t submitted_ns;
    enum status status; /* of submitting */
    struct error error;
};

struct sluice_engine {
    struct engine_source source;
    struct model *model; /* owned; NULL in tests */
    struct engine_size size;
    struct arena arena; /* copies of the caller's strings */
    const struct backend_api *api;
    struct backend *backend;
    struct backend_info backend_info;
    struct placed_weight **placed; /* [n_weights] */
    struct loaded_program *loaded;
    struct chat_template *chat;       /* NULL: the model has none */
    const struct output_style *style; /* of the template */
    char chat_problem[256];           /* why there is no template */
    double load_seconds;
    struct mailbox mailbox;
    pthread_mutex_t stats_lock;
    sluice_stats stats; /* as of the last step's end */
    pthread_t thread;
    bool started;

    /* The owner thread's alone from here. */
    struct kv *kv;
    struct sched *sched;
    struct flight flights[BACKEND_IN_FLIGHT];
    struct sample_result *results; /* [n_slots] */
    float *row;                    /* scratch of one hidden state */
    uint64_t step_number;
    uint64_t step_ended_ns;
    uint64_t next_deadline_ns; /* UINT64_MAX: none */
    uint64_t weight_bytes;     /* that a step reads */
    sluice_stats counts;       /* what becomes `stats` */
    sluice_request *live;      /* all requests that the loop knows, linked by live_next */
    sluice_request *touched;   /* those with new events and a list to report them to */
};

#define NO_SAMPLE UINT32_MAX

/* One answer. The owner thread's alone once queued. */
struct choice {
    sluice_request *request;
    uint32_t index;
    bool ended;
    struct output output;
    struct sampling_row sampling_row;
    int32_t *tokens;         /* [n_prompt + n_generate]: the prompt, then what was drawn */
    struct kv_chain chain;   /* the same to the scheduler: as far as tokens are known */
    uint32_t history;        /* positions before it are in the sampler's history of this slot */
    uint64_t sampled_number; /* step after which the last token was drawn, and its sample row */
    uint32_t sampled_row;
};

struct sluice_request {
    sluice_engine *engine;
    atomic_uint references; /* reader and loop */
    atomic_bool cancelled;
    sluice_request *next; /* in the mailbox */
    struct arena arena;   /* stops, biases, choices and their tokens */
    struct event_queue events;

    /* Fixed at submit. */
    struct token_list prompt;
    struct choice *choices; /* [n_choices] */
    uint32_t n_choices;
    uint32_t n_generate; /* most tokens to draw; 0: scoring */
    uint32_t chunk;
    sluice_mode mode;
    sluice_pooling pooling;
    bool raw_embedding;
    bool opens_reasoning; /* the prompt ends inside a thought */
    bool penalties;       /* the sampler reads the history */
    bool token_events;
    bool ignore_end;
    bool report_admission, report_silent;
    int32_t priority;
    uint64_t key, salt; /* 0: none */
    struct sampling sampling;
    const uint32_t *breakers;           /* mask of tokens, for DRY; in the arena; NULL: none */
    uint64_t submitted_ns, deadline_ns; /* 0: none */
    sluice_wakeups *wakeups;
    void *user;

    /* For sluice_request_progress_get(). */
    atomic_uint computed, n_output;
    atomic_bool admitted, ended;

    /* The owner thread's alone once queued. */
    sluice_request *live_next, *live_previous;
    sluice_request *touched_next;
    bool touched;
    bool paused;
    uint32_t n_ended;  /* choices */
    uint32_t n_cached; /* prompt tokens that needed no computing */
    float *pooled;     /* SLUICE_EMBED: [width] */
    uint64_t admitted_ns, first_token_ns;

    /* Under the wakeups' lock. */
    sluice_request *ready_next, *ready_previous;
    bool ready, reader_left;
};

/* engine.c: opens an engine on parts made elsewhere; the public sluice_engine_open() is this after
 * model_open() and backend_find(). `model` (may be NULL) becomes the engine's on success. */
enum status engine_open_source(const struct engine_source *source, struct model *model,
                               const struct backend_api *api, const sluice_engine_options *options,
                               sluice_engine **out, struct error *err);

/* sizing.c. Before the weights are placed: do they fit at all? */
enum status sizing_check_weights(const struct program *program, const struct hardware *hw,
                                 const struct backend_info *info, struct error *err);
/* Sequences, the context wished for, and what a step may hold: all but the pool. */
enum status sizing_limits(const struct program *program, const struct backend_info *info,
                          const sluice_engine_options *options, struct engine_size *out,
                          struct error *err);
/* The pool, from the memory that is left once the weights are placed; shrinks a context that
 * nobody asked for to what fits. */
enum status sizing_memory(const struct program *program, const struct hardware *hw,
                          const struct backend_info *info, const sluice_engine_options *options,
                          struct engine_size *size, struct error *err);

/* tokens.c. The bos and eos flags only add what the model's tokenizer says it adds. */
enum status encode_text(const sluice_engine *engine, struct str text, bool add_bos, bool add_eos,
                        bool parse_special, struct token_list *out, struct error *err);

/* As much as fits of a text that the caller asked for, with a NUL where that fits; its length. */
size_t copy_text(struct str from, char *text, size_t capacity);

/* prompt.c: the chat template. override (may be NULL) replaces the model's own. */
enum status prompt_open(sluice_engine *engine, const char *override, struct error *err);
void prompt_close(sluice_engine *engine);
/* Fills in the request's prompt, and whether the answer begins inside a thought. */
enum status prompt_from_messages(sluice_request *request, const sluice_request_options *options,
                                 struct error *err);

/* request.c */
sluice_request *request_new(sluice_engine *engine, struct error *err);
void request_release(sluice_request *request); /* drops one reference */
enum status mailbox_post(sluice_engine *engine, sluice_request *request, struct error *err);
void mailbox_attention(sluice_engine *engine);
/* A request left the queue for the batch: its prompt does not wait any more. */
void mailbox_admitted(sluice_engine *engine, const sluice_request *request);
/* A request ended: one place in the queue is free. */
void mailbox_ended(sluice_engine *engine, const sluice_request *request);

/* wakeups.c. NULL is allowed; sluice_wakeups_free() drops a reference. */
void wakeups_retain(sluice_wakeups *wakeups);
/* The request has new events: reported when the step's end is (loop only). */
void wakeups_touch(sluice_request *request);
void wakeups_flush(sluice_engine *engine);
/* The reader frees it: it leaves the list for good. */
void wakeups_leave(sluice_request *request);

/* loop.c: the owner thread's function; context is the engine. */
void *loop_run(void *context);
/* What a request holds is given back, then its last event follows. */
void loop_fail(sluice_engine *engine, sluice_request *request, const struct error *err);
void loop_finish(sluice_engine *engine, sluice_request *request, sluice_finish reason);
/* One answer is over; with the last one, the request. */
void loop_end_choice(sluice_engine *engine, struct choice *choice, sluice_finish reason);

/* step.c. Bytes of weights and of K/V that a completed flight read; of experts those that were
 * chosen, where the backend tells. */
uint64_t step_bytes_read(const sluice_engine *engine, const struct flight *flight);
/* The plan as the flight's step; STATUS_INTERNAL if a limit was missed (our own bug). */
enum status step_write(sluice_engine *engine, struct flight *flight, const struct sched_plan *plan,
                       struct error *err);
/* What to draw from it, submitted once the results of the flight before it are known. */
enum status step_write_sample(sluice_engine *engine, struct flight *flight, struct error *err);

/* result.c. Everything that slice i of a completed flight brought its answer. */
void result_deliver(sluice_engine *engine, struct flight *flight, uint32_t i, uint64_t now);

static inline struct choice *choice_of(uint64_t id)
{
    return (struct choice *)(uintptr_t)id;
}

static inline uint64_t choice_id(const struct choice *choice)
{
    return (uint64_t)(uintptr_t)choice;
}

static inline enum status no_event(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory for an event");
}

sluice_status public_status(enum status status, const struct error *err, sluice_error *out);

#endif
