/*
 * What users say. Texts are made of common words, so that every tokenizer has them; they differ from
 * user to user and from level to level unless the scenario shares them on purpose, because any
 * sharing but the first words is found by a prefix cache and would flatter the server.
 *
 *   chat           one question of 190 tokens, nothing shared
 *   long           one question of 4,000 tokens
 *   shared-prefix  a system prompt of 1,000 tokens that all have, and a question of 60
 *   agents         a shared system prompt of 600 tokens, six turns: a task, then tool results of
 *                  120 tokens, each resending the history with the answers so far; thinks between
 *   warm           a history of 4,000 tokens of the user's own, then turns of 200 new tokens on it
 *                  (the turn that computes the history is not counted)
 *   a trace        conversations of a tau-bench file as they were: every assistant turn is a request
 *                  with the recorded messages before it
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "bench/load.h"

#define AGENT_TURNS 6
/* Small models have more to say to a question than to loose words. */
#define QUESTION        "Tell me a long story about this: "
#define INSTRUCTION     "You are a helpful assistant. Know this: "
#define FIXED_WORDS     7
#define TRACE_BYTES_MAX ((size_t)256 << 20)

struct load_plan {
    enum load_scenario scenario;
    double tokens_per_word;
    uint32_t prompt_tokens, max_tokens;
    double think_seconds;
    json_t *system; /* shared by all; NULL: none */
    json_t *trace;  /* list of conversations */
};

static const struct {
    const char *name;
    uint32_t prompt_tokens, system_tokens;
    double think_seconds;
} scenarios[] = {
    [LOAD_CHAT] = {"chat", 190, 0, 0.0},    [LOAD_AGENTS] = {"agents", 120, 600, 1.0},
    [LOAD_LONG] = {"long", 4000, 0, 0.0},   [LOAD_SHARED_PREFIX] = {"shared-prefix", 60, 1000, 0.0},
    [LOAD_WARM] = {"warm", 200, 4000, 0.0}, [LOAD_TRACE] = {"trace", 0, 0, 1.0},
};
#define N_SCENARIOS (sizeof scenarios / sizeof *scenarios)

const char *load_scenario_name(enum load_scenario scenario)
{
    return scenarios[scenario].name;
}

enum status load_parse_scenario(const char *name, enum load_scenario *out, struct error *err)
{
    for (size_t i = 0; i < N_SCENARIOS; i++)
        if (i != LOAD_TRACE && strcmp(scenarios[i].name, name) == 0) {
            *out = (enum load_scenario)i;
            return STATUS_OK;
        }
    return error_set(err, STATUS_USAGE,
                     "--scenario %s: expected chat, agents, long, shared-prefix or warm", name);
}

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void load_words(uint64_t *random, uint32_t n, struct buf *out)
{
    static const char *const words[] = {
        "the",   "old",   "river", "runs",  "past",  "a",     "house", "with",  "green",  "doors",
        "and",   "small", "birds", "sing",  "when",  "day",   "comes", "my",    "friend", "asked",
        "where", "to",    "find",  "good",  "water", "for",   "his",   "horse", "near",   "hill",
        "they",  "walk",  "on",    "long",  "road",  "until", "night", "falls", "over",   "town",
        "every", "child", "likes", "story", "about", "brave", "fox",   "under", "tree",   "while",
        "light", "snow",  "lay",   "in",    "field", "she",   "made",  "warm",  "bread",  "again"};
    for (uint32_t i = 0; i < n; i++) {
        if (i)
            buf_append_char(out, i % 12 == 11 ? '.' : ' ');
        if (i && i % 12 == 11)
            buf_append_char(out, ' ');
        buf_append_cstr(out, words[next_random(random) % (sizeof words / sizeof *words)]);
    }
}

uint32_t load_words_for(const struct load_plan *plan, uint32_t tokens)
{
    return (uint32_t)((double)tokens / plan->tokens_per_word + 0.5);
}

static json_t *message(const char *role, uint64_t *random, double tokens, double tokens_per_word)
{
    struct buf text = {0};
    uint32_t n = (uint32_t)(tokens / tokens_per_word + 0.5);
    buf_append_cstr(&text, strcmp(role, "user") == 0 ? QUESTION : INSTRUCTION);
    load_words(random, n > FIXED_WORDS ? n - FIXED_WORDS : 1, &text);
    json_t *made = json_pack("{s:s, s:s}", "role", role, "content", text.data ? text.data : "");
    buf_release(&text);
    return made;
}

/* Only what every server takes: role, content, calls and their answers. */
static json_t *clean_message(const json_t *from)
{
    static const char *const keys[] = {"role", "content", "tool_calls", "tool_call_id", "name"};
    json_t *made = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(from, keys[i]);
        if (value && (i == 1 || !json_is_null(value)))
            json_object_set(made, keys[i], value);
    }
    return made;
}

static enum status read_trace(const char *path, json_t **out, struct error *err)
{
    json_t *runs = NULL;
    enum status status = json_parse_file(path, TRACE_BYTES_MAX, JSON_DEPTH_DEFAULT, &runs, err);
    if (status != STATUS_OK)
        return status;
    *out = json_array();
    for (size_t i = 0; i < json_array_size(runs); i++) {
        const json_t *talk = json_object_get(json_array_get(runs, i), "traj");
        json_t *clean = json_array();
        bool answers = false;
        for (size_t j = 0; j < json_array_size(talk); j++) {
            json_t *made = clean_message(json_array_get(talk, j));
            const char *role = json_string_value(json_object_get(made, "role"));
            answers = answers || (j && role && strcmp(role, "assistant") == 0);
            json_array_append_new(clean, made);
        }
        if (answers)
            json_array_append(*out, clean);
        json_decref(clean);
    }
    json_decref(runs);
    if (json_array_size(*out) > 0)
        return STATUS_OK;
    json_decref(*out);
    *out = NULL;
    return error_set(err, STATUS_USAGE,
                     "%s: no conversations found: expected a list of {\"traj\": [messages]}", path);
}

enum status load_plan_create(const struct load_config *config, double tokens_per_word,
                             struct load_plan **out, struct error *err)
{
    struct load_plan *plan = *out = calloc(1, sizeof *plan);
    if (!plan)
        return error_set(err, STATUS_MEMORY, "out of memory");
    uint64_t random = config->seed ^ 0x5eed;
    plan->scenario = config->scenario;
    plan->tokens_per_word = tokens_per_word > 0.1 ? tokens_per_word : 1.3;
    plan->prompt_tokens =
        config->prompt_tokens ? config->prompt_tokens : scenarios[config->scenario].prompt_tokens;
    plan->max_tokens = config->max_tokens ? config->max_tokens : 64;
    plan->think_seconds = config->think_seconds >= 0 ? config->think_seconds
                                                     : scenarios[config->scenario].think_seconds;
    uint32_t system = scenarios[config->scenario].system_tokens;
    if (system && config->scenario != LOAD_WARM)
        plan->system = message("system", &random, system, plan->tokens_per_word);
    if (config->scenario == LOAD_TRACE) {
        enum status status = read_trace(config->trace, &plan->trace, err);
        if (status != STATUS_OK) {
            load_plan_free(plan);
            *out = NULL;
            return status;
        }
    }
    return STATUS_OK;
}

void load_plan_free(struct load_plan *plan)
{
    if (!plan)
        return;
    json_decref(plan->system);
    json_decref(plan->trace);
    free(plan);
}

static void start_talk(struct load_plan *plan, struct load_talk *talk)
{
    json_decref(talk->messages);
    talk->messages = json_array();
    talk->turn = 0;
    talk->position = 0;
    if (plan->system)
        json_array_append(talk->messages, plan->system);
    if (plan->scenario == LOAD_WARM)
        json_array_append_new(talk->messages,
                              message("system", &talk->random, scenarios[LOAD_WARM].system_tokens,
                                      plan->tokens_per_word));
}

/* Adds the recorded messages up to the next answer. False: the conversation is over. */
static bool next_of_trace(struct load_plan *plan, struct load_talk *talk, uint32_t *max_tokens)
{
    const json_t *recorded =
        json_array_get(plan->trace, talk->index % json_array_size(plan->trace));
    while (talk->position < json_array_size(recorded)) {
        json_t *next = json_array_get(recorded, talk->position);
        const char *role = json_string_value(json_object_get(next, "role"));
        bool answer = role && strcmp(role, "assistant") == 0 && talk->position > 0;
        size_t said = json_array_size(talk->messages);
        if (answer && said == talk->position) { /* not asked for yet */
            const char *text = json_string_value(json_object_get(next, "content"));
            size_t tokens = text ? strlen(text) / 4 + 1 : 32;
            *max_tokens = tokens < plan->max_tokens ? (uint32_t)tokens : plan->max_tokens;
            return true;
        }
        json_array_append(talk->messages, next);
        talk->position++;
    }
    return false;
}

bool load_talk_next(struct load_plan *plan, struct load_talk *talk, uint32_t *max_tokens,
                    double *think_seconds)
{
    uint32_t turns = plan->scenario == LOAD_AGENTS ? AGENT_TURNS : 1;
    bool fresh = !talk->messages || (plan->scenario != LOAD_TRACE && plan->scenario != LOAD_WARM &&
                                     talk->turn >= turns);
    *max_tokens = plan->max_tokens;
    if (fresh)
        start_talk(plan, talk);
    if (plan->scenario == LOAD_TRACE) {
        if (!next_of_trace(plan, talk, max_tokens)) {
            talk->index += 101; /* another conversation */
            start_talk(plan, talk);
            fresh = true;
            if (!next_of_trace(plan, talk, max_tokens))
                return false;
        }
    } else {
        if (plan->scenario == LOAD_WARM) /* always the same history */
            json_array_remove(talk->messages, 1);
        uint64_t *random = plan->scenario == LOAD_WARM ? &talk->turn_random : &talk->random;
        json_array_append_new(talk->messages,
                              message("user", random, plan->prompt_tokens, plan->tokens_per_word));
    }
    double share = (double)(next_random(&talk->random) >> 11) * 0x1p-53;
    *think_seconds = fresh ? 0.0 : share * plan->think_seconds;
    talk->turn++;
    return talk->messages != NULL;
}

void load_talk_answer(struct load_plan *plan, struct load_talk *talk, struct str text)
{
    if (plan->scenario ==
        LOAD_TRACE) { /* the recorded answer goes on, so that all runs are alike */
        const json_t *recorded =
            json_array_get(plan->trace, talk->index % json_array_size(plan->trace));
        json_array_append(talk->messages, json_array_get(recorded, talk->position++));
    } else if (plan->scenario == LOAD_AGENTS) {
        json_array_append_new(talk->messages,
                              json_pack("{s:s, s:s%}", "role", "assistant", "content",
                                        text.data ? text.data : "", text.len));
    }
}

void load_talk_release(struct load_talk *talk)
{
    json_decref(talk->messages);
    talk->messages = NULL;
}
