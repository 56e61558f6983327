/*
 * The same request on real models alone, among 31 others, on a cached prefix, after being preempted,
 * cut into any chunks, and as one of several answers: the same tokens, and the same bits of their
 * log-probabilities. And how much is reused, for every kind of state.
 *
 * Each is true within a numeric class, so also where prompt rows have kernels of their own, which are
 * put in here on any machine. What was generated is then not what the same tokens are as a prompt: the
 * next turn has the same bits with and without the cache only where it reuses no generated rows.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine_calls.h"
#include "fixture.h"
#include "prompt_kernels.h"
#include "sluice.h"

#define PROMPT 150
#define ANSWER 100 /* most */
#define CROWD  31
#define TURN   (PROMPT + 16 + 24) /* the next turn: what was said, and something new */
#define BLOCK  16

static uint32_t n_prompt = PROMPT, n_answer = 16;
static const char *kv_type; /* NULL: the backend's */
static bool mixed_sampling;

struct answer {
    int32_t tokens[ANSWER];
    float logprobs[ANSWER];
    uint32_t n;
};

struct asked {
    int32_t prompt[PROMPT];
    struct answer alone;
};

static sluice_engine *open_engine(const char *model, sluice_engine_options options)
{
    options.model = *model == '/' ? model : fixture_path(model);
    options.backend = "cpu";
    options.n_context = 512;
    options.kv_type = kv_type;
    return must_open(&options);
}

/* Every request draws in its own way, by its prompt: greedily, by temperature and cuts, with penalties
 * that read what was said, with mirostat (which carries a value from draw to draw), with DRY and XTC. */
static sluice_sampling sampling_of(const int32_t *prompt)
{
    sluice_sampling s = {.set = SLUICE_SET_TEMPERATURE, .temperature = 0.0f};
    uint32_t number = mixed_sampling ? (uint32_t)prompt[n_prompt - 1] : 0;
    if (number % 5 == 0)
        return s;
    s.set |= SLUICE_SET_SEED;
    s.seed = number;
    s.temperature = 0.5f + 0.1f * (float)(number % 7);
    if (number % 5 == 1) {
        s.set |= SLUICE_SET_TOP_K | SLUICE_SET_TOP_P | SLUICE_SET_MIN_P;
        s.top_k = 5 + (int32_t)(number % 40), s.top_p = 0.9f, s.min_p = 0.01f;
    } else if (number % 5 == 2) {
        s.set |= SLUICE_SET_REPEAT_PENALTY | SLUICE_SET_REPEAT_LAST_N |
                 SLUICE_SET_PRESENCE_PENALTY | SLUICE_SET_FREQUENCY_PENALTY;
        s.repeat_penalty = 1.3f, s.repeat_last_n = -1;
        s.presence_penalty = 0.4f, s.frequency_penalty = 0.2f;
    } else if (number % 5 == 3) {
        s.set |= SLUICE_SET_MIROSTAT;
        s.mirostat = 2;
    } else {
        s.set |= SLUICE_SET_DRY | SLUICE_SET_XTC;
        s.dry_multiplier = 0.8f, s.dry_last_n = -1;
        s.xtc_probability = 0.5f, s.xtc_threshold = 0.02f;
    }
    return s;
}

static sluice_request *submit(sluice_engine *engine, const int32_t *prompt, uint32_t chunk,
                              uint32_t n)
{
    sluice_request_options options = {
        .tokens = prompt,
        .n_tokens = n_prompt,
        .max_tokens = n_answer,
        .ignore_end = true,
        .logprobs = true,
        .chunk = chunk,
        .n = n,
        .sampling = sampling_of(prompt),
    };
    return must_submit(engine, &options);
}

/* Reads the answers of a request to its end and frees it. */
static sluice_usage read_answers(sluice_request *request, struct answer *answers, uint32_t n)
{
    sluice_event event = {0};
    memset(answers, 0, n * sizeof *answers);
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail_msg("request: %s", event.error.message);
        if (event.kind != SLUICE_EVENT_TOKEN)
            continue;
        assert_true(event.choice < n && answers[event.choice].n < ANSWER);
        struct answer *a = &answers[event.choice];
        a->tokens[a->n] = event.token;
        a->logprobs[a->n++] = event.logprob;
    }
    sluice_usage usage = event.usage;
    sluice_request_free(request);
    return usage;
}

static void same(const struct answer *a, const struct answer *b, const char *model,
                 const char *what)
{
    if (a->n != b->n || memcmp(a->tokens, b->tokens, sizeof a->tokens) != 0 ||
        memcmp(a->logprobs, b->logprobs, sizeof a->logprobs) != 0)
        fail_msg("%s: differs %s", model, what);
}

/* Questions that share their first 100 tokens two by two. */
static void make_questions(struct asked *asked, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < PROMPT; j++) {
            uint32_t k = j < 100 ? i / 2 : i + 50;
            asked[i].prompt[j] = (int32_t)((j * 7919 + k * 104729 + j * j * 31 + 5) % n_vocab);
        }
}

static void alone(const char *model, struct asked *asked, uint32_t n)
{
    sluice_engine *engine =
        open_engine(model, (sluice_engine_options){.no_prefix_cache = true, .max_sequences = 1});
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    make_questions(asked, n, info.n_vocab);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(
            read_answers(submit(engine, asked[i].prompt, 0, 1), &asked[i].alone, 1).cached_tokens,
            0);
    sluice_engine_close(engine);
}

static void on_a_cached_prefix(const char *model, const struct asked *asked)
{
    static const uint32_t chunks[] = {0, 1, 7, 32, 64};
    sluice_engine *engine = open_engine(model, (sluice_engine_options){0});
    struct answer here[3];
    for (uint32_t i = 0; i < (SANITIZED ? 2 : sizeof chunks / sizeof *chunks); i++) {
        sluice_usage usage = read_answers(submit(engine, asked[0].prompt, chunks[i], 1), here, 1);
        same(&asked[0].alone, here, model, i ? "on a cached prefix" : "the first time");
        assert_int_equal(usage.cached_tokens > 0, i > 0);
    }
    /* One with which it shares a beginning. */
    sluice_usage usage = read_answers(submit(engine, asked[1].prompt, 0, 1), here, 1);
    same(&asked[1].alone, here, model, "on another's prefix");
    printf("%s: %u of %d tokens cached\n", model, usage.cached_tokens, PROMPT);
    read_answers(submit(engine, asked[2].prompt, 0, 3), here, 3);
    /* Others than the first draw with seeds of their own. */
    for (int i = 0; i < (mixed_sampling ? 1 : 3); i++)
        same(&asked[2].alone, &here[i], model, "as one of three answers");
    sluice_engine_close(engine);
}

static void in_a_crowd(const char *model, const struct asked *asked, uint32_t n, sluice_ahead ahead)
{
    sluice_engine *engine = open_engine(
        model, (sluice_engine_options){
                   .step_rows = 96, .max_sequences = n, .max_gap_ms = 20, .plan_ahead = ahead});
    sluice_request *requests[CROWD + 1];
    struct answer here;
    for (uint32_t i = 0; i < n; i++)
        requests[i] = submit(engine, asked[i].prompt, i % 3 ? 0 : 2 * i + 3, 1);
    for (uint32_t i = 0; i < n; i++) {
        read_answers(requests[i], &here, 1);
        same(&asked[i].alone, &here, model, "in a crowd");
    }
    sluice_engine_close(engine);
}

/* All together in a pool of so many bytes; how often one was put back. */
static uint64_t crowd_in(const char *model, const struct asked *asked, uint32_t n, uint64_t bytes,
                         sluice_ahead ahead)
{
    sluice_request *requests[CROWD];
    struct answer here;
    sluice_stats stats;
    sluice_engine *engine = open_engine(
        model,
        (sluice_engine_options){.max_sequences = n, .kv_memory = bytes, .plan_ahead = ahead});
    for (uint32_t i = 0; i < n; i++)
        requests[i] = submit(engine, asked[i].prompt, 0, 1);
    for (uint32_t i = 0; i < n; i++) {
        read_answers(requests[i], &here, 1);
        same(&asked[i].alone, &here, model, "after preemption");
    }
    sluice_engine_stats(engine, &stats);
    printf("%s: %llu preemptions\n", model, (unsigned long long)stats.preemptions);
    sluice_engine_close(engine);
    return stats.preemptions;
}

/* Short prompts with long answers, in a pool that holds all prompts and a third of the answers. Returns
 * how often somebody was put back. */
static uint64_t after_preemption(const char *model, uint32_t n)
{
    static struct asked asked[CROWD];
    struct answer here;
    sluice_stats stats;
    n_prompt = 40;
    n_answer = ANSWER;
    alone(model, asked, n);
    sluice_engine *engine = open_engine(model, (sluice_engine_options){.max_sequences = n});
    read_answers(submit(engine, asked[0].prompt, 0, 1), &here, 1);
    sluice_engine_stats(engine, &stats);
    sluice_engine_close(engine);
    /* In the index afterwards is about what one sequence holds. */
    uint64_t pages = n * (uint64_t)stats.pages_cached / 2;
    printf("%s: %llu pages for %u sequences of %llu\n", model, (unsigned long long)pages, n,
           (unsigned long long)stats.pages_cached);
    /* How many run at once depends on how fast they arrive and how long prompts take beside answers: a
     * smaller pool until somebody is put back. */
    uint64_t put_back = 0;
    for (int attempt = 0; attempt < 5 && put_back == 0; attempt++)
        put_back = crowd_in(model, asked, n, (pages - (uint64_t)attempt) * stats.page_bytes,
                            SLUICE_AHEAD_NEVER);
    /* Planned ahead, a draw may be on its way for who is put back: in some runs only. */
    for (int i = 0; i < (SANITIZED ? 2 : 6); i++)
        crowd_in(model, asked, n, pages * stats.page_bytes, SLUICE_AHEAD_ALWAYS);
    n_prompt = PROMPT;
    n_answer = 16;
    return put_back;
}

static uint64_t shared_as_alone(const char *model)
{
    static struct asked asked[CROWD + 1];
    uint32_t n = SANITIZED ? 6 : CROWD + 1;
    alone(model, asked, n);
    on_a_cached_prefix(model, asked);
    in_a_crowd(model, asked, n, SLUICE_AHEAD_NEVER);
    in_a_crowd(model, asked, n, SLUICE_AHEAD_ALWAYS);
    return after_preemption(model, SANITIZED ? 4 : 6);
}

static void every_kind_of_state(void)
{
    static const char *const names[] = {"llama", "gemma3", "lfm2"};
    uint64_t put_back = 0; /* sliding windows give so much back that there it may be nobody */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/data/arch/hf/%s", names[i]);
        put_back += shared_as_alone(path);
    }
    assert_true(put_back > 0);
}

static void test_every_kind_of_state(void **state)
{
    (void)state;
    every_kind_of_state();
}

static void test_two_classes(void **state)
{
    (void)state;
    static struct asked asked[2];
    alone("tests/data/arch/hf/llama", &asked[0], 1);
    kernels_set_prompt(&prompt_kernels);
    alone("tests/data/arch/hf/llama", &asked[1], 1);
    bool packs = kernel_for_packed(TENSOR_F32) != NULL;
    bool alike = memcmp(asked[0].alone.logprobs, asked[1].alone.logprobs,
                        sizeof asked[0].alone.logprobs) == 0;
    assert_int_equal(alike, !packs);
    every_kind_of_state();
    kernels_set_prompt(NULL);
}

static sluice_usage ask(sluice_engine *engine, const int32_t *prompt, uint32_t n,
                        struct answer *answer)
{
    n_prompt = n;
    sluice_usage usage = read_answers(submit(engine, prompt, 0, 1), answer, 1);
    n_prompt = PROMPT;
    return usage;
}

static bool one_class(void)
{
    bool one = true;
    for (uint32_t type = 0; type < TENSOR_TYPE_END; type++)
        one &= kernel_for_prompt((enum tensor_type)type) == NULL;
    return one;
}

/* The next turn of a conversation, which brings question and answer again: as on an empty cache, where
 * it may be. What it reused. */
static uint32_t next_turn(sluice_engine *engine, const char *path, const struct asked *asked,
                          bool reproducible)
{
    static int32_t turn[TURN];
    struct answer here[2];
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    memcpy(turn, asked->prompt, sizeof asked->prompt);
    memcpy(turn + PROMPT, asked->alone.tokens, n_answer * sizeof *turn);
    for (uint32_t j = PROMPT + n_answer; j < TURN; j++)
        turn[j] = (int32_t)(j * 53 % info.n_vocab);
    uint32_t cached = ask(engine, turn, TURN, &here[0]).cached_tokens;
    sluice_engine *fresh = open_engine(path, (sluice_engine_options){.no_prefix_cache = true});
    ask(fresh, turn, TURN, &here[1]);
    sluice_engine_close(fresh);
    if (reproducible || one_class())
        same(&here[1], &here[0], path, "in the next turn");
    return cached;
}

/* One after the other: what a second and a third with the same 100 tokens reuse, the same prompt once
 * more, and the next turn. Recurrent layers know where prompts part from the second on. */
static void reuses_what_is_shared(const char *path, bool recurrent, bool reproducible)
{
    static struct asked asked[3];
    struct answer here;
    alone(path, asked, 1);
    sluice_engine *engine =
        open_engine(path, (sluice_engine_options){.reproducible = reproducible});
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    for (uint32_t i = 1; i < 3; i++)
        for (uint32_t j = 0; j < PROMPT; j++)
            asked[i].prompt[j] =
                j < 100 ? asked[0].prompt[j] : (int32_t)((j * 31 + i * 97) % info.n_vocab);
    uint32_t cached[5];
    for (uint32_t i = 0; i < 3; i++)
        cached[i] = ask(engine, asked[i].prompt, PROMPT, &here).cached_tokens;
    cached[3] = ask(engine, asked[0].prompt, PROMPT, &here).cached_tokens;
    same(&asked[0].alone, &here, path, "the second time");
    cached[4] = next_turn(engine, path, &asked[0], reproducible);
    sluice_engine_close(engine);
    printf("%s: of 100 shared tokens %u and %u are reused, of the same %d %u, of a turn's %u %u\n",
           path, cached[1], cached[2], PROMPT, cached[3], PROMPT + n_answer - 1, cached[4]);
    assert_int_equal(cached[0], 0);
    assert_int_equal(cached[1], recurrent ? 0 : 100 / BLOCK * BLOCK);
    assert_int_equal(cached[2], 100 / BLOCK * BLOCK);
    assert_int_equal(cached[3], (PROMPT - 1) / BLOCK * BLOCK);
    /* The block in which the answer begins has rows of both classes. */
    uint32_t known = reproducible && !one_class() ? PROMPT : PROMPT + n_answer - 1;
    assert_int_equal(cached[4], known / BLOCK * BLOCK);
}

/* On the first so many kinds of models. */
static void reuse(size_t n, bool reproducible)
{
    static const struct {
        const char *name;
        bool recurrent;
    } kinds[] = {
        {"llama", false},     {"gemma3", false},        {"mistral-swa", false}, {"lfm2", true},
        {"gemma2", false},    {"deepseek-v2", false},   {"gpt-oss", false},     {"gemma4", false},
        {"qwen3-next", true}, {"granite-hybrid", true}, {"jamba", true},        {"falcon-h1", true},
        {"mamba2", true},
    };
    for (size_t i = 0; i < (SANITIZED ? 4 : sizeof kinds / sizeof *kinds) && i < n; i++) {
        char path[128];
        snprintf(path, sizeof path, i < 4 ? "tests/data/arch/hf/%s" : "data/arch/hf/%s",
                 kinds[i].name);
        const char *found = i < 4 ? path : fixture_shared(path);
        if (found)
            reuses_what_is_shared(found, kinds[i].recurrent, reproducible);
    }
}

static void test_reuse(void **state)
{
    (void)state;
    reuse(SIZE_MAX, false);
    reuse(4, true);
}

static void test_reuse_of_two_classes(void **state)
{
    (void)state;
    kernels_set_prompt(&prompt_kernels);
    reuse(4, false);
    reuse(SIZE_MAX, true);
    kernels_set_prompt(NULL);
}

/* Each way of drawing beside all others: none reads what belongs to another, and whoever is put back
 * goes on drawing as before. */
static void test_sampling_in_any_mix(void **state)
{
    (void)state;
    mixed_sampling = true;
    shared_as_alone("tests/data/arch/hf/llama");
    mixed_sampling = false;
}

/* Keys and values of every type that the pool may hold. */
static void test_kv_types(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "bf16", "q8_0", "f8_e4m3"};
    static struct asked asked[CROWD + 1];
    float first[sizeof types / sizeof *types];
    uint32_t n = SANITIZED ? 4 : 12;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        kv_type = types[i];
        alone("tests/data/arch/hf/gemma3", asked, n);
        first[i] = asked[0].alone.logprobs[0];
        for (size_t j = 0; j < i; j++)
            assert_true(first[i] != first[j]); /* each is really another one */
        on_a_cached_prefix("tests/data/arch/hf/gemma3", asked);
        in_a_crowd("tests/data/arch/hf/gemma3", asked, n, SLUICE_AHEAD_NEVER);
    }
    kv_type = NULL;
}

static void test_pebble(void **state)
{
    (void)state;
    if (!SANITIZED)
        assert_true(shared_as_alone("models/pebble/pebble-q8_0.gguf") > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_reuse_of_two_classes),
        cmocka_unit_test(test_every_kind_of_state),
        cmocka_unit_test(test_two_classes),
        cmocka_unit_test(test_sampling_in_any_mix),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_pebble),
    };
    return cmocka_run_group_tests_name("sharing", tests, NULL, NULL);
}
