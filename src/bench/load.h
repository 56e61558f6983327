/*
 * load: what a crowd of users gets from a server, or from the engine in this process.
 *
 * A run goes through levels: N users at once, each with a conversation of the scenario. In the closed
 * loop a user asks again when the answer is there (and the think time over); in the open loop
 * requests arrive by chance at a given rate, whatever is still in work. Everything happens on the
 * calling thread: a transport (load_http.c, load_engine.c) starts requests and reports what comes.
 *
 *   scenario --messages--> run (load.c) --start--> transport --load_text/load_done--> samples
 *                                                             --> report (load_report.c)
 *
 * Figures are those of the client: first token and gaps as they arrive here, tokens by the server's
 * own usage (or by counting events where it tells none; both are kept, and a disagreement is told).
 */
#ifndef SLUICE_BENCH_LOAD_H
#define SLUICE_BENCH_LOAD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "sluice.h"

#define LOAD_LEVELS_MAX 16
#define LOAD_USERS_MAX  4096
#define LOAD_GAPS_MAX   4096 /* kept of one answer */

enum load_scenario { LOAD_CHAT, LOAD_AGENTS, LOAD_LONG, LOAD_SHARED_PREFIX, LOAD_WARM, LOAD_TRACE };

struct load_config {
    const char *url, *api_key, *model_name; /* a server; or */
    sluice_engine *engine;                  /* the engine in this process (borrowed) */
    enum load_scenario scenario;
    const char *trace; /* LOAD_TRACE: a tau-bench file of conversations */
    uint32_t users[LOAD_LEVELS_MAX], n_levels;
    /* Open loop: requests per second of each level, instead of users; 0: closed loop. */
    double rates[LOAD_LEVELS_MAX];
    /* Of a level; 0: two for each user, at least 8, or of 20 s of the open loop, at least 16. */
    uint32_t requests;
    bool brief;             /* instead: one for each user, at least 3 */
    uint32_t prompt_tokens; /* about; 0: the scenario's */
    uint32_t max_tokens;    /* of an answer; 0: 64 */
    double think_seconds;   /* longest pause of a user; negative: the scenario's */
    uint32_t cold_tokens;   /* not 0: each level a second time, beside prompts of so many tokens */
    uint64_t seed;
    uint32_t timeout_seconds;                                           /* of one request; 0: 600 */
    void (*progress)(void *context, double fraction, const char *what); /* may be NULL */
    void *progress_context;
};

/* One request as its client saw it. */
struct load_sample {
    uint32_t user, turn;
    uint64_t start_ns, first_ns, last_ns, end_ns;
    uint32_t n_events; /* that carried text, thinking or a call */
    bool has_usage;
    uint32_t prompt_tokens, cached_tokens, output_tokens; /* by usage */
    uint32_t history_tokens;    /* of the prompt: what the turn before sent; 0: the first turn */
    char error[160];            /* "": none */
    uint32_t first_gap, n_gaps; /* in the level's gaps */
};

struct load_level {
    uint32_t users, n_samples, n_gaps;
    double rate;                 /* open loop: requests per second; 0: closed */
    struct load_sample *samples; /* owned */
    double *gaps;                /* seconds between events, owned */
    size_t sample_capacity, gap_capacity;
    double seconds;  /* first start to last end */
    bool cold;       /* one more client sent cold prompts meanwhile, one after the other: */
    uint32_t n_cold; /* answered ones */
};

struct load_report {
    struct load_config config;
    char model[128], target[256];
    double tokens_per_word; /* found by asking */
    struct load_level levels[2 * LOAD_LEVELS_MAX];
    uint32_t n_levels;
    bool unanswered; /* no request of the last level was: the levels after it were not run */
};

enum status load_run(const struct load_config *config, struct load_report *out, struct error *err);
void load_report_release(struct load_report *report);

/* Summary of a level. Rates in tokens per second, times in seconds; NaN where nothing was seen. */
struct load_summary {
    uint32_t requests, errors, disagreements, without_usage;
    uint64_t prompt_tokens, cached_tokens, output_tokens, events;
    double total_rate, user_rate; /* all output over the level's time; median of single answers */
    /* Turns that resend a history: its tokens, those of them that were computed again, and the most
     * of one turn. */
    uint32_t later_turns, recomputed_most;
    uint64_t history_tokens, recomputed_tokens;
    double first_p50, first_p95, first_p99, gap_p50, gap_p99, cached_share;
};

void load_summarize(const struct load_level *level, struct load_summary *out);
/* q in [0, 1] of sorted values, by linear interpolation; NaN for none. */
double load_quantile(const double *sorted, size_t n, double q);

void load_print(const struct load_report *report, struct buf *out);
void load_print_markdown(const struct load_report *report, struct buf *out);
void load_print_html(const struct load_report *report, struct buf *out); /* load_page.c */
enum status load_print_json(const struct load_report *report, struct buf *out, struct error *err);

/* The parts that the forms share: what was measured; a level's row, its cells apart by `separator`;
 * the lines below the table, each after `indent`. */
void load_write_title(const struct load_report *report, struct buf *out);
void load_write_row(const struct load_level *level, const char *separator, const char *end,
                    struct buf *out);
void load_write_notes(const struct load_report *report, const char *indent, struct buf *out);

enum status load_parse_scenario(const char *name, enum load_scenario *out, struct error *err);
const char *load_scenario_name(enum load_scenario scenario);

/* ---- scenarios (load_scenario.c) -------------------------------------------------------------- */

struct load_plan;

enum status load_plan_create(const struct load_config *config, double tokens_per_word,
                             struct load_plan **out, struct error *err);
void load_plan_free(struct load_plan *plan);
/* Words that make about so many tokens. */
uint32_t load_words_for(const struct load_plan *plan, uint32_t tokens);
/* `n` words of text, different for every seed. */
void load_words(uint64_t *random, uint32_t n, struct buf *out);

/* A user's conversation as it goes. */
struct load_talk {
    json_t *messages; /* owned: what the next request sends */
    uint32_t turn;    /* requests so far in this conversation */
    uint32_t index;   /* which conversation, for a trace also how far it is */
    size_t position;
    uint64_t random;
    uint64_t turn_random; /* warm: of the turns, where `random` makes the history */
};

/* The next request of the talk: appends to talk->messages (starting anew where a conversation is
 * over) and says how many tokens to ask for and how long to think first. */
bool load_talk_next(struct load_plan *plan, struct load_talk *talk, uint32_t *max_tokens,
                    double *think_seconds);
/* The answer came: part of the history from now on. */
void load_talk_answer(struct load_plan *plan, struct load_talk *talk, struct str text);
void load_talk_release(struct load_talk *talk);

/* ---- transports ------------------------------------------------------------------------------- */

struct load_run;

struct load_transport {
    void *context;
    /* Sends; false: *err says why it could not even start. */
    enum status (*start)(void *context, struct load_run *run, uint32_t user, const json_t *messages,
                         uint32_t max_tokens, struct error *err);
    /* Waits up to the time-out for something to happen and reports it by load_*() below. */
    void (*wait)(void *context, struct load_run *run, int timeout_ms);
    /* The user leaves in the middle of an answer; nothing of it is reported any more. */
    void (*leave)(void *context, uint32_t user);
    void (*close)(void *context);
};

enum status load_http_open(const struct load_config *config, struct load_transport *out,
                           char *model, size_t model_size, struct error *err);
enum status load_engine_open(const struct load_config *config, struct load_transport *out,
                             char *model, size_t model_size, struct error *err);

/* From the transport: a piece of a user's answer; and its end (error "" for a good one). */
void load_text(struct load_run *run, uint32_t user, struct str text);
void load_done(struct load_run *run, uint32_t user, const sluice_usage *usage, const char *error);

#endif
