/*
 * The engine with real models: Pebble's recorded answers through the public API, and the promise that
 * a request gets the same bits alone, in a crowd, and cut into any chunks, on `ref` and `cpu`.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "engine_calls.h"
#include "fixture.h"
#include "scratch.h"
#include "sluice.h"

#define Q8   "models/pebble/pebble-q8_0.gguf"
#define BF16 "models/pebble/pebble-bf16.gguf"

static const char *const backends[] = {"ref", "cpu"};

/* Pebble's GGUF files recommend no sampling. */
#define GREEDY                                                                                     \
    {                                                                                              \
        .set = SLUICE_SET_TEMPERATURE, .temperature = 0.0f                                         \
    }

static sluice_engine *open_engine(const char *model, const char *backend, uint32_t step_rows)
{
    return must_open(&(sluice_engine_options){.model = fixture_path(model),
                                              .backend = backend,
                                              .n_context = 1024,
                                              .step_rows = step_rows});
}

struct answer {
    struct buf text, reasoning, calls; /* calls: name(arguments) a line */
    int32_t tokens[1024];
    float logprobs[1024];
    uint32_t n_tokens, n_pieces;
    sluice_finish finish;
    sluice_usage usage;
};

static void release_answer(struct answer *answer)
{
    buf_release(&answer->text);
    buf_release(&answer->reasoning);
    buf_release(&answer->calls);
}

static void read_answer(sluice_request *request, struct answer *answer)
{
    sluice_event event;
    memset(answer, 0, sizeof *answer);
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_TEXT) {
            buf_append(&answer->text, event.text, event.length);
            answer->n_pieces++;
        } else if (event.kind == SLUICE_EVENT_REASONING) {
            buf_append(&answer->reasoning, event.text, event.length);
        } else if (event.kind == SLUICE_EVENT_TOOL_CALL) {
            buf_printf(&answer->calls, "%s(%s)\n", event.tool_call.name, event.tool_call.arguments);
        } else if (event.kind == SLUICE_EVENT_TOKEN && answer->n_tokens < 1024) {
            answer->tokens[answer->n_tokens] = event.token;
            answer->logprobs[answer->n_tokens++] = event.logprob;
        } else if (event.kind == SLUICE_EVENT_ERROR) {
            fail_msg("request failed: %s", event.error.message);
        } else if (event.kind == SLUICE_EVENT_DONE) {
            answer->finish = event.finish;
            answer->usage = event.usage;
        }
    }
}

static void ask(sluice_engine *engine, const sluice_request_options *options, struct answer *answer)
{
    sluice_request *request = must_submit(engine, options);
    read_answer(request, answer);
    sluice_request_free(request);
}

/* ---- recorded answers ------------------------------------------------------------------------- */

static json_t *reference;

static int load_reference(void **state)
{
    (void)state;
    struct error err = {0};
    assert_ok(json_parse_file(fixture_path("models/pebble/reference.json"), 1 << 22, 64, &reference,
                              &err),
              &err);
    return 0;
}

static int free_reference(void **state)
{
    (void)state;
    json_decref(reference);
    return 0;
}

static json_t *prompt_named(const char *name)
{
    size_t i;
    json_t *prompt;
    json_array_foreach(json_object_get(reference, "prompts"), i, prompt)
    {
        if (strcmp(json_string_value(json_object_get(prompt, "name")), name) == 0)
            return prompt;
    }
    fail_msg("no prompt %s in reference.json", name);
    return NULL;
}

static uint32_t ids_of(const json_t *prompt, const char *key, int32_t *out)
{
    const json_t *list = json_object_get(prompt, key);
    uint32_t n = (uint32_t)json_array_size(list);
    assert_true(n <= 1024);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

/* Ids before the first step at which two tokens were nearly as likely. */
static uint32_t sure_steps(const json_t *prompt, uint32_t n)
{
    const json_t *margins = json_object_get(prompt, "margins");
    for (uint32_t i = 0; i < n; i++)
        if (json_number_value(json_array_get(margins, i)) < 0.1)
            return i;
    return n;
}

static void greedy_agrees(sluice_engine *engine, const json_t *prompt, bool strict,
                          uint32_t *identical)
{
    static struct answer answer;
    int32_t ids[1024], expected[1024];
    uint32_t n = ids_of(prompt, "prompt_ids", ids), m = ids_of(prompt, "output_ids", expected);
    ask(engine,
        &(sluice_request_options){
            .tokens = ids, .n_tokens = n, .max_tokens = m, .sampling = GREEDY},
        &answer);
    uint32_t sure = sure_steps(prompt, m), same = 0;
    while (same < answer.n_tokens && same < m && answer.tokens[same] == expected[same])
        same++;
    if (strict && same < sure)
        fail_msg("%s: differs at step %u, sure up to %u",
                 json_string_value(json_object_get(prompt, "name")), same, sure);
    *identical += same == m;
    release_answer(&answer);
}

static void test_recorded_ids(void **state)
{
    (void)state;
    for (int b = 0; b < 2; b++) {
        /* The scalar reference is slow; three prompts show that its loop is right. */
        size_t i, all = json_array_size(json_object_get(reference, "prompts"));
        size_t n = b == 0 ? (SANITIZED ? 1 : 3) : (SANITIZED ? 4 : all);
        uint32_t exact = 0, quantized = 0;
        sluice_engine *engine = open_engine(BF16, backends[b], 0);
        for (i = 0; i < n; i++)
            greedy_agrees(engine, json_array_get(json_object_get(reference, "prompts"), i), true,
                          &exact);
        sluice_engine_close(engine);
        engine = open_engine(Q8, backends[b], 0);
        for (i = 0; i < n; i++)
            greedy_agrees(engine, json_array_get(json_object_get(reference, "prompts"), i), false,
                          &quantized);
        sluice_engine_close(engine);
        printf("%s: identical answers: bf16 %u, q8_0 %u, of %zu\n", backends[b], exact, quantized,
               n);
        assert_true(exact + 1 >= n);
    }
}

/* ---- chat ------------------------------------------------------------------------------------- */

#define MESSAGES 16

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

struct chat {
    sluice_message messages[MESSAGES];
    sluice_tool_call calls[MESSAGES][4];
    char *owned[MESSAGES * 4 + 1]; /* JSON texts */
    size_t n_owned;
    sluice_request_options options;
};

static const char *dump(struct chat *chat, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    chat->owned[chat->n_owned++] = text;
    return text;
}

static void fill_message(struct chat *chat, size_t i, const json_t *json)
{
    sluice_message *message = &chat->messages[i];
    *message = (sluice_message){.role = text_of(json, "role"),
                                .content = text_of(json, "content"),
                                .reasoning = text_of(json, "reasoning_content"),
                                .tool_call_id = text_of(json, "tool_call_id"),
                                .name = text_of(json, "name")};
    const json_t *calls = json_object_get(json, "tool_calls");
    for (size_t j = 0; j < json_array_size(calls) && j < 4; j++) {
        const json_t *function = json_object_get(json_array_get(calls, j), "function");
        const json_t *arguments = json_object_get(function, "arguments");
        chat->calls[i][j] =
            (sluice_tool_call){.id = text_of(json_array_get(calls, j), "id"),
                               .name = text_of(function, "name"),
                               .arguments = json_is_string(arguments) ? json_string_value(arguments)
                                                                      : dump(chat, arguments)};
        message->n_tool_calls++;
    }
    message->tool_calls = message->n_tool_calls ? chat->calls[i] : NULL;
}

/* The recorded request as a user of the API would state it. */
static void make_chat(struct chat *chat, const json_t *prompt)
{
    *chat = (struct chat){0};
    const json_t *messages = json_object_get(prompt, "messages");
    size_t n = json_array_size(messages);
    assert_true(n <= MESSAGES);
    for (size_t i = 0; i < n; i++)
        fill_message(chat, i, json_array_get(messages, i));
    const json_t *tools = json_object_get(prompt, "tools");
    const json_t *thinking = json_object_get(prompt, "enable_thinking");
    chat->options = (sluice_request_options){
        .messages = chat->messages,
        .n_messages = n,
        .tools = json_is_array(tools) ? dump(chat, tools) : NULL,
        .thinking = json_is_true(thinking)    ? SLUICE_THINKING_ON
                    : json_is_false(thinking) ? SLUICE_THINKING_OFF
                                              : SLUICE_THINKING_DEFAULT,
        .max_tokens = 300,
        .sampling = GREEDY,
    };
}

static void free_chat(struct chat *chat)
{
    for (size_t i = 0; i < chat->n_owned; i++)
        free(chat->owned[i]);
}

static void test_chat_on_both_backends(void **state)
{
    (void)state;
    static struct answer answer;
    for (int b = 0; b < 2; b++) {
        sluice_engine *engine = open_engine(BF16, backends[b], 0);
        sluice_model_info info;
        sluice_engine_info(engine, &info);
        assert_string_equal(info.backend, backends[b]);
        assert_string_equal(info.architecture, "qwen3");
        assert_true(info.has_chat_template && info.has_tokenizer && info.has_logits);
        const json_t *prompt = prompt_named("hello");
        sluice_message message = {.role = "user", .content = "Hello"};
        ask(engine,
            &(sluice_request_options){.messages = &message, .n_messages = 1, .sampling = GREEDY},
            &answer);
        assert_string_equal(answer.text.data, text_of(prompt, "output_text"));
        assert_int_equal(answer.finish, SLUICE_FINISH_STOP);
        assert_int_equal(answer.usage.prompt_tokens, 9);
        assert_int_equal(answer.usage.output_tokens, 10);
        assert_true(answer.n_pieces > 4); /* it streamed */
        assert_true(answer.usage.prompt_seconds > 0 && answer.usage.output_seconds > 0);
        release_answer(&answer);
        sluice_engine_close(engine);
    }
}

/* Everything between `open` and `close` markers, joined. */
static bool cut_out(const char *text, const char *open, const char *close, struct buf *out)
{
    const char *begin = strstr(text, open);
    const char *end = begin ? strstr(begin, close) : NULL;
    if (end)
        buf_append(out, begin + strlen(open), (size_t)(end - begin) - strlen(open));
    return end != NULL;
}

static void check_chat(sluice_engine *engine, const json_t *prompt)
{
    static struct answer answer;
    struct chat chat;
    make_chat(&chat, prompt);
    ask(engine, &chat.options, &answer);
    int32_t ids[1024];
    const char *name = text_of(prompt, "name"), *text = text_of(prompt, "output_text");
    if (answer.usage.prompt_tokens != ids_of(prompt, "prompt_ids", ids))
        fail_msg("%s: %u prompt tokens", name, answer.usage.prompt_tokens);
    assert_int_equal(answer.usage.output_tokens, ids_of(prompt, "output_ids", ids));
    struct buf thought = {0};
    bool calls = strstr(text, "<tool_call>") != NULL;
    bool thinks = cut_out(text, "<think>", "</think>", &thought);
    assert_int_equal(answer.finish, calls ? SLUICE_FINISH_TOOL_CALLS : SLUICE_FINISH_STOP);
    assert_int_equal(answer.calls.len > 0, calls);
    assert_int_equal(answer.reasoning.len > 0, thinks);
    if (thinks) /* white space around the thought belongs to the markup */
        assert_non_null(strstr(thought.data, answer.reasoning.data));
    if (!calls && !thinks && strcmp(answer.text.data, text) != 0)
        fail_msg("%s: '%s', not '%s'", name, answer.text.data, text);
    assert_null(strstr(buf_str(&answer.text).data, "<tool_call>"));
    buf_release(&thought);
    release_answer(&answer);
    free_chat(&chat);
}

static void test_recorded_chats(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine(BF16, "cpu", 0);
    size_t i;
    json_t *prompt;
    uint32_t n = 0;
    json_array_foreach(json_object_get(reference, "prompts"), i, prompt)
    {
        if (json_is_array(json_object_get(prompt, "messages")) && (!SANITIZED || i % 4 == 0)) {
            check_chat(engine, prompt);
            n++;
        }
    }
    printf("%u recorded chats\n", n);
    assert_true(SANITIZED || n > 15);
    static struct answer answer;
    struct chat chat;
    make_chat(&chat, prompt_named("tool_parallel"));
    ask(engine, &chat.options, &answer);
    assert_string_equal(answer.calls.data, "get_weather({\"city\": \"Paris\"})\n"
                                           "get_weather({\"city\": \"London\"})\n");
    release_answer(&answer);
    free_chat(&chat);
    sluice_engine_close(engine);
}

static void test_limits_and_stops(void **state)
{
    (void)state;
    static struct answer answer;
    sluice_engine *engine = open_engine(Q8, "cpu", 0);
    sluice_message message = {.role = "user", .content = "Hello"};
    sluice_request_options options = {
        .messages = &message, .n_messages = 1, .max_tokens = 3, .sampling = GREEDY};
    ask(engine, &options, &answer);
    assert_int_equal(answer.finish, SLUICE_FINISH_LENGTH);
    assert_int_equal(answer.usage.output_tokens, 3);
    release_answer(&answer);
    const char *stops[] = {"nothing of the kind", "an I he"};
    options = (sluice_request_options){
        .messages = &message, .n_messages = 1, .stops = stops, .n_stops = 2, .sampling = GREEDY};
    ask(engine, &options, &answer);
    assert_string_equal(answer.text.data, "Hello! How c");
    assert_int_equal(answer.finish, SLUICE_FINISH_STOP);
    release_answer(&answer);

    sluice_request_options endless = {.prompt = "Once upon a time", .ignore_end = true};
    sluice_request *request = must_submit(engine, &endless);
    sluice_event event;
    assert_true(sluice_request_next(request, &event, -1));
    sluice_request_cancel(request);
    while (sluice_request_next(request, &event, -1) && event.kind != SLUICE_EVENT_DONE)
        ;
    assert_int_equal(event.finish, SLUICE_FINISH_CANCELLED);
    sluice_request_free(request);

    ask(engine, &endless, &answer); /* to the end of the context */
    assert_int_equal(answer.finish, SLUICE_FINISH_LENGTH);
    assert_int_equal(answer.usage.prompt_tokens + answer.usage.output_tokens, 1024);
    release_answer(&answer);
    sluice_engine_close(engine);
}

static void test_seed_repeats_the_text(void **state)
{
    (void)state;
    static struct answer answers[3];
    sluice_engine *engine = open_engine(Q8, "cpu", 0);
    for (uint64_t i = 0; i < 3; i++) {
        sluice_sampling sampling = {.set = SLUICE_SET_TEMPERATURE | SLUICE_SET_SEED |
                                           SLUICE_SET_REPEAT_PENALTY,
                                    .temperature = 1.2f,
                                    .repeat_penalty = 1.1f,
                                    .seed = 40 + i / 2};
        ask(engine,
            &(sluice_request_options){
                .prompt = "Once upon a time", .max_tokens = 40, .sampling = sampling},
            &answers[i]);
    }
    assert_string_equal(answers[0].text.data, answers[1].text.data);
    assert_string_not_equal(answers[0].text.data, answers[2].text.data);
    for (int i = 0; i < 3; i++)
        release_answer(&answers[i]);
    sluice_engine_close(engine);
}

/* ---- the same alone and in a crowd ------------------------------------------------------------ */

#define CROWD 9

static float *score(sluice_request *request, uint32_t n_tokens, uint32_t *width)
{
    sluice_event event;
    float *all = NULL;
    uint32_t n = 0;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail_msg("scoring failed: %s", event.error.message);
        if (event.kind != SLUICE_EVENT_ROWS)
            continue;
        size_t row = *width = event.row_width;
        if (!all)
            all = malloc(n_tokens * row * sizeof *all);
        assert_int_equal(event.first_row, n);
        memcpy(all + n * row, event.rows, event.n_rows * row * sizeof *all);
        n += event.n_rows;
    }
    assert_int_equal(n, n_tokens);
    sluice_request_free(request);
    return all;
}

static void same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: value %zu is %.9g alone and %.9g here", what, i, (double)a[i],
                     (double)b[i]);
}

static void scores_are_the_same(const char *model, const char *backend, sluice_mode mode,
                                uint32_t n)
{
    static const uint32_t chunks[] = {1, 3, 7, 13, 0};
    /* Small steps, so that the crowd's members share many of them. */
    sluice_engine *engine = open_engine(model, backend, 24);
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    int32_t ids[1024], once[4] = {11, 97, 64, 30};
    uint32_t width = 0;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 7919 + i * i * 31 + 5) % info.n_vocab);
    sluice_request_options options = {.tokens = ids, .n_tokens = n, .mode = mode};
    float *alone = score(must_submit(engine, &options), n, &width);
    char what[64];
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        options.chunk = chunks[i];
        float *again = score(must_submit(engine, &options), n, &width);
        snprintf(what, sizeof what, "%s %s, chunks of %u", model, backend, chunks[i]);
        same_bits(alone, again, (size_t)n * width, what);
        free(again);
    }
    for (uint32_t crowd = 2; crowd <= CROWD; crowd += backend[0] == 'r' ? 7 : 1) {
        sluice_request *requests[CROWD];
        sluice_request *noise =
            info.has_logits ? must_submit(engine, &(sluice_request_options){.tokens = once,
                                                                            .n_tokens = 4,
                                                                            .ignore_end = true})
                            : NULL;
        for (uint32_t i = 0; i < crowd; i++) {
            options.chunk = i % 4 ? 2 * i + 1 : 0;
            requests[i] = must_submit(engine, &options);
        }
        for (uint32_t i = 0; i < crowd; i++) {
            float *here = score(requests[i], n, &width);
            snprintf(what, sizeof what, "%s %s, %u of %u together", model, backend, i, crowd);
            same_bits(alone, here, (size_t)n * width, what);
            free(here);
        }
        sluice_request_free(noise);
    }
    free(alone);
    sluice_engine_close(engine);
}

static void test_scores_alone_and_in_a_crowd(void **state)
{
    (void)state;
    uint32_t n = SANITIZED ? 11 : 45;
    if (!SANITIZED)
        scores_are_the_same(Q8, "ref", SLUICE_SCORE_LOGITS, 17);
    scores_are_the_same(Q8, "cpu", SLUICE_SCORE_LOGITS, n);
    scores_are_the_same(BF16, "cpu", SLUICE_SCORE_LOGITS, n);
    scores_are_the_same(Q8, "cpu", SLUICE_SCORE_HIDDEN, n);
}

/* Windows that leave pages behind, two layer groups, recurrent state, experts: tiny models of every
 * kind that this engine keeps state for. */
static void test_every_kind_of_state(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",  "mistral-swa", "mixtral",
                                        "gemma3", "lfm2",        "qwen3-embed"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int b = 0; b < 2; b++) {
            char path[128];
            snprintf(path, sizeof path, "tests/data/arch/hf/%s", names[i]);
            bool embeds = strcmp(names[i], "qwen3-embed") == 0;
            scores_are_the_same(path, backends[b],
                                embeds ? SLUICE_SCORE_HIDDEN : SLUICE_SCORE_LOGITS,
                                SANITIZED ? 50 : 100);
        }
}

/* A greedy answer, fed back as a prompt in other chunks, must call each of its tokens the likeliest:
 * on these backends the two numeric classes coincide. */
static void test_generated_rows_equal_prompt_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "mistral-swa", "gemma3", "lfm2"};
    static struct answer answer;
    for (size_t i = 0; i < 2 * (sizeof names / sizeof *names); i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/data/arch/hf/%s", names[i / 2]);
        sluice_engine *engine = open_engine(path, backends[i % 2], 24);
        int32_t all[80] = {11, 97, 64, 30, 5};
        ask(engine,
            &(sluice_request_options){.tokens = all,
                                      .n_tokens = 5,
                                      .max_tokens = 70,
                                      .ignore_end = true,
                                      .logprobs = true,
                                      .sampling = GREEDY},
            &answer);
        assert_int_equal(answer.n_tokens, 70);
        memcpy(all + 5, answer.tokens, 70 * sizeof *all);
        uint32_t width;
        float *rows =
            score(must_submit(engine, &(sluice_request_options){.tokens = all,
                                                                .n_tokens = 75,
                                                                .chunk = 9,
                                                                .mode = SLUICE_SCORE_LOGITS}),
                  75, &width);
        for (uint32_t j = 0; j < 70; j++) {
            const float *row = rows + (size_t)(4 + j) * width;
            for (uint32_t k = 0; k < width; k++)
                if (row[k] > row[all[5 + j]])
                    fail_msg("%s: token %u was not the likeliest", path, j);
        }
        free(rows);
        release_answer(&answer);
        sluice_engine_close(engine);
    }
}

/* Generated rows: tokens and their log-probabilities, bit for bit. */
static void generated_is_the_same(const char *backend, uint32_t max_tokens)
{
    static struct answer alone[CROWD], here;
    static const char *const names[CROWD] = {"hello", "serve", "count",   "sum",   "sort",
                                             "json",  "echo",  "accents", "memory"};
    sluice_engine *engine = open_engine(Q8, backend, 20);
    int32_t ids[CROWD][1024];
    sluice_request_options options[CROWD];
    sluice_request *requests[CROWD];
    for (int i = 0; i < CROWD; i++) {
        uint32_t n = ids_of(prompt_named(names[i]), "prompt_ids", ids[i]);
        options[i] = (sluice_request_options){.tokens = ids[i],
                                              .n_tokens = n,
                                              .max_tokens = max_tokens,
                                              .ignore_end = true,
                                              .logprobs = true,
                                              .sampling = GREEDY};
        ask(engine, &options[i], &alone[i]);
    }
    for (int i = 0; i < CROWD; i++) {
        options[i].chunk = (uint32_t)i;
        requests[i] = must_submit(engine, &options[i]);
    }
    for (int i = 0; i < CROWD; i++) {
        read_answer(requests[i], &here);
        assert_int_equal(here.n_tokens, max_tokens);
        assert_memory_equal(here.tokens, alone[i].tokens, max_tokens * sizeof(int32_t));
        assert_memory_equal(here.logprobs, alone[i].logprobs, max_tokens * sizeof(float));
        assert_true(isfinite(here.logprobs[0]) && here.logprobs[0] <= 0.0f);
        assert_string_equal(here.text.data, alone[i].text.data);
        release_answer(&here);
        release_answer(&alone[i]);
        sluice_request_free(requests[i]);
    }
    sluice_engine_close(engine);
}

static void test_generation_alone_and_in_a_crowd(void **state)
{
    (void)state;
    if (!SANITIZED)
        generated_is_the_same("ref", 6);
    generated_is_the_same("cpu", SANITIZED ? 8 : 40);
}

static void test_slow_reader(void **state)
{
    (void)state;
    static struct answer answer;
    sluice_engine *engine = open_engine(Q8, "cpu", 0);
    sluice_request_options options = {.prompt = "Once upon a time",
                                      .max_tokens = SANITIZED ? 100 : 900,
                                      .ignore_end = true,
                                      .n_top_logprobs = 20};
    sluice_request *slow = must_submit(engine, &options);
    for (int i = 0; i < 3; i++) {
        sluice_message message = {.role = "user", .content = "Hello"};
        ask(engine,
            &(sluice_request_options){.messages = &message, .n_messages = 1, .sampling = GREEDY},
            &answer);
        assert_int_equal(answer.finish, SLUICE_FINISH_STOP);
        release_answer(&answer);
    }
    read_answer(slow, &answer);
    assert_int_equal(answer.n_tokens, options.max_tokens);
    release_answer(&answer);
    sluice_request_free(slow);
    sluice_engine_close(engine);
}

static void copy_file(const char *from, const char *to)
{
    struct buf bytes = fixture_read(from);
    scratch_write(to, bytes.data, bytes.len);
    buf_release(&bytes);
}

/* The weights vanish under a running engine: its requests fail with a reason, the process lives. */
static void test_file_cut_while_mapped(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s/cut.gguf", fixture_scratch());
    copy_file(fixture_path(Q8), path);
    sluice_engine *engine;
    sluice_error error = {0};
    sluice_engine_options open = {.model = path, .backend = "ref", .n_context = 256};
    assert_int_equal(sluice_engine_open(&open, &engine, &error), SLUICE_OK);
    assert_int_equal(truncate(path, 1 << 20), 0);
    sluice_request_options options = {.prompt = "Once upon a time", .max_tokens = 5};
    for (int i = 0; i < 2; i++) {
        sluice_request *request = must_submit(engine, &options);
        sluice_event event;
        while (sluice_request_next(request, &event, -1) && event.kind != SLUICE_EVENT_ERROR)
            assert_int_equal(event.kind, SLUICE_EVENT_TEXT);
        assert_int_equal(event.kind, SLUICE_EVENT_ERROR);
        assert_int_equal(event.error.status, SLUICE_ERROR_MODEL);
        sluice_request_free(request);
    }
    sluice_engine_close(engine);
    remove(path);
}

static void test_text_and_tokens(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine(Q8, "cpu", 0);
    sluice_error error = {0};
    int32_t ids[16], expected[1024];
    size_t n = 0, length = 0;
    const json_t *prompt = prompt_named("hello");
    const char *text = text_of(prompt, "prompt");
    assert_int_equal(sluice_tokenize(engine, text, strlen(text), true, true, ids, 16, &n, &error),
                     SLUICE_OK);
    assert_int_equal(n, ids_of(prompt, "prompt_ids", expected));
    assert_memory_equal(ids, expected, n * sizeof *ids);
    char back[128];
    assert_int_equal(sluice_detokenize(engine, ids, n, back, sizeof back, &length, &error),
                     SLUICE_OK);
    assert_string_equal(back, text);
    assert_int_equal(sluice_tokenize(engine, text, strlen(text), true, true, ids, 2, &n, &error),
                     SLUICE_OK);
    assert_int_equal(n, 9); /* the count, though only two were asked for */
    ids[0] = 1 << 20;
    assert_int_equal(sluice_detokenize(engine, ids, 1, back, sizeof back, &length, &error),
                     SLUICE_ERROR_USAGE);
    sluice_engine_close(engine);
}

static void test_open_errors(void **state)
{
    (void)state;
    sluice_engine *engine;
    sluice_error error;
    sluice_engine_options options = {.model = "/nonexistent/model.gguf"};
    assert_int_equal(sluice_engine_open(&options, &engine, &error), SLUICE_ERROR_DISK);
    assert_null(engine);
    assert_non_null(strstr(error.message, "/nonexistent/model.gguf"));
    options = (sluice_engine_options){.model = fixture_path(Q8), .backend = "abacus"};
    assert_int_equal(sluice_engine_open(&options, &engine, &error), SLUICE_ERROR_USAGE);
    assert_non_null(strstr(error.message, "abacus"));
    assert_int_equal(sluice_engine_open(NULL, &engine, &error), SLUICE_ERROR_USAGE);
    options = (sluice_engine_options){.model = fixture_path(Q8), .n_context = 4096};
    assert_int_equal(sluice_engine_open(&options, &engine, &error), SLUICE_ERROR_USAGE);
    assert_non_null(strstr(error.message, "2048"));
}

/* One row of a model with 8 experts of 64 x 64 in 3 layers chooses 2: the others were not read. */
static void test_bytes_of_experts(void **state)
{
    (void)state;
    sluice_engine *engine = open_engine("tests/data/arch/hf/qwen3-moe", "cpu", 0);
    static const int32_t token = 5;
    static struct answer answer;
    ask(engine, &(sluice_request_options){.tokens = &token, .n_tokens = 1, .max_tokens = 1},
        &answer);
    sluice_model_info info;
    sluice_stats stats;
    sluice_engine_info(engine, &info);
    sluice_engine_stats(engine, &stats);
    uint64_t expert = 3u * 64 * 64 * 2, keys_and_values = stats.page_bytes / 32;
    assert_int_equal(stats.steps, 1);
    assert_int_equal(stats.bytes_read, info.weight_bytes + keys_and_values - 3 * 6 * expert);
    sluice_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: cmocka takes SIGBUS at the start of every test, and the first file that is
         * opened takes it back for the whole process. */
        cmocka_unit_test(test_file_cut_while_mapped),
        cmocka_unit_test(test_recorded_ids),
        cmocka_unit_test(test_chat_on_both_backends),
        cmocka_unit_test(test_recorded_chats),
        cmocka_unit_test(test_limits_and_stops),
        cmocka_unit_test(test_seed_repeats_the_text),
        cmocka_unit_test(test_scores_alone_and_in_a_crowd),
        cmocka_unit_test(test_every_kind_of_state),
        cmocka_unit_test(test_generated_rows_equal_prompt_rows),
        cmocka_unit_test(test_generation_alone_and_in_a_crowd),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_bytes_of_experts),
        cmocka_unit_test(test_text_and_tokens),
        cmocka_unit_test(test_open_errors),
    };
    return cmocka_run_group_tests_name("engine", tests, load_reference, free_reference);
}
