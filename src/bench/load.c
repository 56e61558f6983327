/*
 * The run: users as state machines over one transport, and the samples they leave.
 *
 * Before the levels two short questions are asked: they warm the server up, and their prompt counts
 * tell how many tokens a word is for this model. Neither is counted.
 */
#include "bench/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

#define PROBE_SHORT 20
#define PROBE_LONG  120

enum user_state { USER_IDLE, USER_THINKING, USER_ASKING };

struct load_user {
    enum user_state state;
    uint64_t wake_ns; /* THINKING */
    uint32_t max_tokens;
    uint32_t last_prompt; /* tokens that the conversation's turn before sent; 0: unknown */
    struct load_talk talk;
    struct load_sample sample;
    double gaps[LOAD_GAPS_MAX];
    struct buf answer;
};

struct load_run {
    const struct load_config *config;
    struct load_transport transport;
    struct load_plan *plan;
    struct load_level *level; /* NULL: probing */
    struct load_user *users;
    uint32_t n_users, n_asking, n_started, n_wanted;
    struct load_user *cold; /* behind the users: sends cold prompts; NULL: nobody does */
    uint64_t cold_random;
    uint64_t random, next_arrival_ns; /* open loop */
    bool out_of_memory;
};

/* ---- samples ---------------------------------------------------------------------------------- */

static bool keep_sample(struct load_level *level, struct load_user *user)
{
    if (level->n_samples == level->sample_capacity) {
        size_t capacity = level->sample_capacity ? 2 * level->sample_capacity : 64;
        struct load_sample *more = realloc(level->samples, capacity * sizeof *more);
        if (!more)
            return false;
        level->samples = more;
        level->sample_capacity = capacity;
    }
    if (level->n_gaps + user->sample.n_gaps > level->gap_capacity) {
        size_t capacity = 2 * level->gap_capacity + user->sample.n_gaps + 1024;
        double *more = realloc(level->gaps, capacity * sizeof *more);
        if (!more)
            return false;
        level->gaps = more;
        level->gap_capacity = capacity;
    }
    user->sample.first_gap = level->n_gaps;
    if (user->sample.n_gaps) /* else there may be no array yet */
        memcpy(level->gaps + level->n_gaps, user->gaps, user->sample.n_gaps * sizeof *user->gaps);
    level->n_gaps += user->sample.n_gaps;
    level->samples[level->n_samples++] = user->sample;
    return true;
}

void load_text(struct load_run *run, uint32_t index, struct str text)
{
    struct load_user *user = &run->users[index];
    struct load_sample *sample = &user->sample;
    uint64_t now = clock_now_ns();
    if (!sample->first_ns)
        sample->first_ns = now;
    else if (sample->n_gaps < LOAD_GAPS_MAX)
        user->gaps[sample->n_gaps++] = (double)(now - sample->last_ns) * 1e-9;
    sample->last_ns = now;
    sample->n_events++;
    buf_append_str(&user->answer, text);
}

void load_done(struct load_run *run, uint32_t index, const sluice_usage *usage, const char *error)
{
    struct load_user *user = &run->users[index];
    struct load_sample *sample = &user->sample;
    sample->end_ns = clock_now_ns();
    snprintf(sample->error, sizeof sample->error, "%s", error ? error : "");
    if (usage) {
        sample->has_usage = true;
        sample->prompt_tokens = usage->prompt_tokens;
        sample->cached_tokens = usage->cached_tokens;
        sample->output_tokens = usage->output_tokens;
        bool resends = run->config->scenario == LOAD_AGENTS || run->config->scenario == LOAD_TRACE;
        if (resends && sample->turn > 1 && user->last_prompt < usage->prompt_tokens)
            sample->history_tokens = user->last_prompt;
    }
    user->last_prompt = usage ? usage->prompt_tokens : 0;
    if (!sample->error[0] && sample->n_events == 0 && !usage)
        snprintf(sample->error, sizeof sample->error, "the answer was empty");
    run->n_asking--;
    user->state = USER_IDLE;
    if (!run->level)
        return;
    if (user == run->cold) {
        run->level->n_cold++;
        return;
    }
    if (run->config->scenario == LOAD_WARM && sample->turn == 1)
        return; /* that is what makes it warm */
    if (!keep_sample(run->level, user))
        run->out_of_memory = true;
    load_talk_answer(run->plan, &user->talk, buf_str(&user->answer));
}

/* ---- users ------------------------------------------------------------------------------------ */

static void ask(struct load_run *run, uint32_t index, const json_t *messages, uint32_t max_tokens)
{
    struct load_user *user = &run->users[index];
    struct error err;
    user->sample = (struct load_sample){.user = index, .turn = user->talk.turn};
    buf_clear(&user->answer);
    user->state = USER_ASKING;
    run->n_asking++;
    user->sample.start_ns = clock_now_ns();
    if (run->transport.start(run->transport.context, run, index, messages, max_tokens, &err) !=
        STATUS_OK)
        load_done(run, index, NULL, err.message);
}

/* The user's next request, now or after a thought. */
static void prepare(struct load_run *run, uint32_t index)
{
    struct load_user *user = &run->users[index];
    double think = 0.0;
    if (!load_talk_next(run->plan, &user->talk, &user->max_tokens, &think)) {
        run->out_of_memory = true;
        return;
    }
    run->n_started++;
    user->state = USER_THINKING;
    user->wake_ns = clock_now_ns() + (uint64_t)(think * 1e9);
}

static bool is_open(const struct load_run *run)
{
    return run->level && run->level->rate > 0;
}

static double next_arrival(struct load_run *run)
{
    run->random = run->random * 6364136223846793005u + 1442695040888963407u;
    double share = (double)(run->random >> 11) * 0x1p-53;
    return -log(1.0 - share) / run->level->rate;
}

/* Gives idle users their next request: all of them in the closed loop, one per arrival else. */
static void dispatch(struct load_run *run, uint64_t now)
{
    for (uint32_t i = 0; i < run->n_users && run->n_started < run->n_wanted; i++) {
        if (run->users[i].state != USER_IDLE)
            continue;
        if (is_open(run)) {
            if (now < run->next_arrival_ns)
                return;
            run->next_arrival_ns += (uint64_t)(next_arrival(run) * 1e9);
        }
        prepare(run, i);
    }
}

/* Warm turns begin when the last history is there. */
static bool must_wait(const struct load_run *run, const struct load_user *user)
{
    if (run->config->scenario != LOAD_WARM || user->talk.turn != 2)
        return false;
    for (uint32_t i = 0; i < run->n_users; i++)
        if (run->users[i].talk.turn < 2)
            return true;
    return false;
}

/* Starts whoever has thought enough; returns how long until the next one, in milliseconds. */
static int wake_users(struct load_run *run, uint64_t now)
{
    uint64_t next = now + 100000000u;
    bool more = run->n_started < run->n_wanted;
    if (is_open(run) && more && run->next_arrival_ns < next)
        next = run->next_arrival_ns;
    for (uint32_t i = 0; i < run->n_users; i++) {
        struct load_user *user = &run->users[i];
        if (user->state != USER_THINKING || must_wait(run, user))
            continue;
        if (user->wake_ns <= now)
            ask(run, i, user->talk.messages, user->max_tokens);
        else if (user->wake_ns < next)
            next = user->wake_ns;
    }
    return next > now ? (int)((next - now) / 1000000u) + 1 : 0;
}

/* Its answer runs, or its history is in the cache. */
static bool is_under_way(const struct load_run *run, const struct load_user *user)
{
    return run->config->scenario == LOAD_WARM ? user->talk.turn > 1 : user->sample.first_ns > 0;
}

/* Once every user is under way, one cold prompt after the other. */
static void ask_cold(struct load_run *run)
{
    struct load_user *cold = run->cold;
    if (!cold || cold->state != USER_IDLE || run->out_of_memory)
        return;
    for (uint32_t i = 0; i < run->n_users; i++)
        if (!is_under_way(run, &run->users[i]))
            return;
    struct buf text = {0};
    load_words(&run->cold_random, load_words_for(run->plan, run->config->cold_tokens), &text);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", text.data);
    if (messages)
        ask(run, run->n_users, messages, 1);
    else
        run->out_of_memory = true;
    json_decref(messages);
    buf_release(&text);
}

static bool anybody_busy(const struct load_run *run)
{
    for (uint32_t i = 0; i < run->n_users; i++)
        if (run->users[i].state != USER_IDLE)
            return true;
    return false;
}

static void measure_time(struct load_level *level)
{
    uint64_t first = UINT64_MAX, last = 0;
    for (uint32_t i = 0; i < level->n_samples; i++) {
        const struct load_sample *sample = &level->samples[i];
        first = sample->start_ns < first ? sample->start_ns : first;
        last = sample->end_ns > last ? sample->end_ns : last;
    }
    level->seconds = last > first ? (double)(last - first) * 1e-9 : 0.0;
}

static uint32_t requests_of(const struct load_config *config, const struct load_level *level)
{
    uint32_t least = config->brief ? 3 : 8, enough = (config->brief ? 1 : 2) * level->users;
    if (config->requests)
        return config->requests;
    if (level->rate > 0) {
        double some = 20.0 * level->rate;
        return some > 1e6 ? 1000000 : some > 16 ? (uint32_t)some : 16;
    }
    return enough > least ? enough : least;
}

static enum status make_users(struct load_run *run, struct load_level *level, struct error *err)
{
    const struct load_config *config = run->config;
    uint32_t users = level->users;
    run->level = level;
    run->n_users = level->rate > 0 ? LOAD_USERS_MAX - 1 : users;
    run->n_started = run->n_asking = 0;
    run->n_wanted = requests_of(config, level);
    if (config->scenario == LOAD_WARM)
        run->n_wanted += users;
    run->users = calloc((size_t)run->n_users + 1, sizeof *run->users);
    if (!run->users)
        return error_set(err, STATUS_MEMORY, "out of memory for %u users", run->n_users);
    for (uint32_t i = 0; i < run->n_users; i++) {
        run->users[i].talk.index = i;
        run->users[i].talk.random = config->seed + (uint64_t)users * 1000003u + i * 7919u;
        run->users[i].talk.turn_random = run->users[i].talk.random ^ (level->cold ? 7 : 3);
        if (level->cold && config->scenario != LOAD_WARM) /* new texts, as in the first pass */
            run->users[i].talk.random += 15485863u;
    }
    run->cold = level->cold ? &run->users[run->n_users] : NULL;
    run->next_arrival_ns = clock_now_ns();
    return STATUS_OK;
}

/* index: of config's levels. In the open loop it stands for the users, who only make texts differ. */
static enum status run_level(struct load_run *run, struct load_level *level, uint32_t index,
                             bool cold, struct error *err)
{
    const struct load_config *config = run->config;
    level->rate = config->rates[index];
    level->users = level->rate > 0 ? index + 1 : config->users[index];
    level->cold = cold;
    if (make_users(run, level, err) != STATUS_OK)
        return STATUS_MEMORY;
    while ((run->n_started < run->n_wanted || anybody_busy(run)) && !run->out_of_memory) {
        uint64_t now = clock_now_ns();
        dispatch(run, now);
        int timeout = wake_users(run, now);
        ask_cold(run);
        if (config->progress)
            config->progress(config->progress_context,
                             0.999 * level->n_samples / (double)run->n_wanted, "asking");
        run->transport.wait(run->transport.context, run, timeout);
    }
    if (run->cold && run->cold->state == USER_ASKING)
        run->transport.leave(run->transport.context, run->n_users);
    for (uint32_t i = 0; i <= run->n_users; i++) {
        load_talk_release(&run->users[i].talk);
        buf_release(&run->users[i].answer);
    }
    free(run->users);
    run->users = NULL;
    run->cold = NULL;
    measure_time(level);
    return run->out_of_memory ? error_set(err, STATUS_MEMORY, "out of memory for samples")
                              : STATUS_OK;
}

static bool all_failed(const struct load_level *level)
{
    for (uint32_t i = 0; i < level->n_samples; i++)
        if (!level->samples[i].error[0])
            return false;
    return level->n_samples > 0;
}

/* ---- before the levels ------------------------------------------------------------------------ */

static enum status probe(struct load_run *run, uint32_t words, uint32_t *tokens, struct error *err)
{
    struct load_user user = {0};
    struct buf text = {0};
    uint64_t random = run->config->seed + words;
    load_words(&random, words, &text);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", text.data);
    run->users = &user;
    run->n_users = 1;
    run->n_asking = 0;
    ask(run, 0, messages, 4);
    while (user.state == USER_ASKING)
        run->transport.wait(run->transport.context, run, 100);
    json_decref(messages);
    buf_release(&text);
    buf_release(&user.answer);
    run->users = NULL;
    *tokens = user.sample.prompt_tokens;
    if (user.sample.error[0])
        return error_set(err, STATUS_NETWORK, "the first question failed: %s", user.sample.error);
    return STATUS_OK;
}

enum status load_run(const struct load_config *config, struct load_report *out, struct error *err)
{
    struct load_run run = {.config = config, .random = config->seed + 1};
    uint32_t few = 0, many = 0;
    *out = (struct load_report){.config = *config};
    snprintf(out->target, sizeof out->target, "%s", config->url ? config->url : "in this process");
    enum status status =
        config->url ? load_http_open(config, &run.transport, out->model, sizeof out->model, err)
                    : load_engine_open(config, &run.transport, out->model, sizeof out->model, err);
    if (status != STATUS_OK)
        return status;
    status = probe(&run, PROBE_SHORT, &few, err);
    if (status == STATUS_OK)
        status = probe(&run, PROBE_LONG, &many, err);
    if (status == STATUS_OK) {
        out->tokens_per_word = many > few ? (double)(many - few) / (PROBE_LONG - PROBE_SHORT) : 1.3;
        status = load_plan_create(config, out->tokens_per_word, &run.plan, err);
    }
    run.cold_random = config->seed ^ 0xc01d;
    for (uint32_t i = 0; i < config->n_levels; i++)
        for (int cold = 0; cold <= (config->cold_tokens > 0); cold++) {
            struct load_level *level = &out->levels[out->n_levels];
            if (status != STATUS_OK || out->unanswered)
                break;
            out->n_levels++;
            status = run_level(&run, level, i, cold, err);
            out->unanswered = all_failed(level);
        }
    if (config->progress)
        config->progress(config->progress_context, 1.0, "");
    load_plan_free(run.plan);
    run.transport.close(run.transport.context);
    return status;
}

void load_report_release(struct load_report *report)
{
    for (uint32_t i = 0; i < report->n_levels; i++) {
        free(report->levels[i].samples);
        free(report->levels[i].gaps);
    }
    report->n_levels = 0;
}
