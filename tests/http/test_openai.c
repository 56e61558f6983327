/*
 * The OpenAI routes as clients see them: what is answered, and above all what is refused and how
 * (the table of errors that the server promises). Everything over sockets, on the demo model.
 */
#include <jansson.h>
#include <time.h>

#include "serving.h"

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]"

static int setup(void **state)
{
    (void)state;
    return serving_open(8, 0) || serving_start(NULL);
}

static json_t *parse(const struct answer *answer)
{
    json_error_t error;
    json_t *root = json_loads(answer->body ? answer->body : "", 0, &error);
    if (!root)
        fprintf(stderr, "%d: %s: %.300s\n", answer->status, error.text,
                answer->text.data ? answer->text.data : "");
    assert_non_null(root);
    return root;
}

static json_t *call(const char *path, const char *body, int status)
{
    struct answer answer = client_call("POST", path, NULL, body);
    if (answer.status != status)
        fprintf(stderr, "%s %.200s\n -> %.400s\n", path, body, answer.text.data);
    assert_int_equal(answer.status, status);
    json_t *root = parse(&answer);
    answer_release(&answer);
    return root;
}

static json_t *at(json_t *root, const char *key, size_t index)
{
    return json_array_get(json_object_get(root, key), index);
}

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* ---- answers ---------------------------------------------------------------------------------- */

static void answers_a_chat(void **state)
{
    (void)state;
    json_t *root = call("/v1/chat/completions", "{" HELLO ",\"temperature\":0}", 200);
    json_t *choice = at(root, "choices", 0), *message = json_object_get(choice, "message");
    assert_string_equal(text_at(root, "object"), "chat.completion");
    assert_string_equal(text_at(root, "model"), "pebble");
    assert_string_equal(text_at(message, "role"), "assistant");
    assert_string_equal(text_at(message, "content"), "Hello! How can I help you?");
    assert_string_equal(text_at(choice, "finish_reason"), "stop");
    json_t *usage = json_object_get(root, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 9);
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")),
                     9 + json_integer_value(json_object_get(usage, "completion_tokens")));
    json_decref(root);
}

/* Joins a field of all chunks' first choices; *chunks counts those with one. */
static char *join_stream(const char *body, const char *key, bool chat, json_t **last, int *chunks)
{
    struct buf text = {0};
    *chunks = 0;
    *last = NULL;
    for (const char *line = strstr(body, "data: "); line; line = strstr(line + 1, "data: ")) {
        if (strncmp(line, "data: [DONE]", 12) == 0)
            break;
        json_error_t error;
        json_t *chunk = json_loads(line + 6, JSON_DISABLE_EOF_CHECK, &error);
        assert_non_null(chunk);
        json_t *choice = at(chunk, "choices", 0);
        json_t *from = chat ? json_object_get(choice, "delta") : choice;
        const char *piece = text_at(from, key);
        if (piece && *piece) {
            buf_append_cstr(&text, piece);
            ++*chunks;
        }
        json_decref(*last);
        *last = chunk;
    }
    return text.data ? text.data : strdup("");
}

static void streams_a_chat(void **state)
{
    (void)state;
    struct answer answer =
        client_call("POST", "/v1/chat/completions", NULL,
                    "{" HELLO ",\"temperature\":0,\"stream\":true,"
                    "\"stream_options\":{\"include_usage\":true},\"frobnicate\":1,\"user\":\"x\"}");
    json_t *last;
    int chunks;
    assert_int_equal(answer.status, 200);
    assert_true(answer.complete);
    assert_string_equal(answer_header(&answer, "Content-Type"), "text/event-stream");
    assert_string_equal(answer_header(&answer, "x-sluice-ignored"), "frobnicate");
    char *text = join_stream(answer.body, "content", true, &last, &chunks);
    assert_string_equal(text, "Hello! How can I help you?");
    assert_true(chunks > 3);
    assert_non_null(strstr(answer.body, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
    assert_non_null(strstr(answer.body, "\"finish_reason\":\"stop\""));
    assert_true(str_ends(str_from(answer.body), STR_LIT("data: [DONE]\n\n")));
    json_t *usage = json_object_get(last, "usage");
    assert_int_equal(json_array_size(json_object_get(last, "choices")), 0);
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 9);
    json_decref(last);
    free(text);
    answer_release(&answer);
}

static void calls_tools(void **state)
{
    (void)state;
    static const char request[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"What is the weather in Paris?\"}],"
        "\"temperature\":0,\"stream\":%s,\"parallel_tool_calls\":false,\"tools\":[{\"type\":"
        "\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"Get the weather\","
        "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}},"
        "\"required\":[\"city\"]}}}]}";
    char body[1024];
    snprintf(body, sizeof body, request, "false");
    json_t *root = call("/v1/chat/completions", body, 200);
    json_t *choice = at(root, "choices", 0), *message = json_object_get(choice, "message");
    json_t *function = json_object_get(at(message, "tool_calls", 0), "function");
    assert_true(json_is_null(json_object_get(message, "content")));
    assert_string_equal(text_at(function, "name"), "get_weather");
    json_t *arguments = json_loads(text_at(function, "arguments"), 0, NULL);
    assert_string_equal(text_at(arguments, "city"), "Paris");
    assert_string_equal(text_at(choice, "finish_reason"), "tool_calls");
    json_decref(arguments);
    json_decref(root);
    snprintf(body, sizeof body, request, "true");
    struct answer answer = client_call("POST", "/v1/chat/completions", NULL, body);
    assert_non_null(strstr(answer.body, "\"tool_calls\":[{\"index\":0,\"id\":\"call_"));
    assert_non_null(strstr(answer.body, "\"finish_reason\":\"tool_calls\""));
    answer_release(&answer);
    /* the result goes in, the answer comes out */
    root = call("/v1/chat/completions",
                "{\"temperature\":0,\"messages\":[{\"role\":\"user\",\"content\":\"What is the "
                "weather in Paris?\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                "\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
                "\"arguments\":\"{\\\"city\\\": \\\"Paris\\\"}\"}}]},{\"role\":\"tool\","
                "\"tool_call_id\":\"a\",\"content\":\"{\\\"temperature\\\": 21}\"}]}",
                200);
    assert_non_null(text_at(json_object_get(at(root, "choices", 0), "message"), "content"));
    json_decref(root);
}

static void separates_reasoning(void **state)
{
    (void)state;
    json_t *root = call("/v1/chat/completions",
                        "{" HELLO ",\"temperature\":0,\"chat_template_kwargs\":"
                        "{\"enable_thinking\":true}}",
                        200);
    json_t *message = json_object_get(at(root, "choices", 0), "message");
    assert_non_null(text_at(message, "reasoning_content"));
    assert_null(strstr(text_at(message, "content"), "think>"));
    json_decref(root);
}

static void gives_log_probabilities(void **state)
{
    (void)state;
    json_t *root = call("/v1/chat/completions",
                        "{" HELLO ",\"temperature\":0,\"logprobs\":true,\"top_logprobs\":3}", 200);
    json_t *content =
        json_object_get(json_object_get(at(root, "choices", 0), "logprobs"), "content");
    struct buf text = {0};
    size_t n = json_array_size(content);
    for (size_t i = 0; i < n; i++) {
        json_t *token = json_array_get(content, i), *top = json_object_get(token, "top_logprobs");
        assert_int_equal(json_array_size(top), 3);
        assert_true(json_number_value(json_object_get(token, "logprob")) <= 0.0);
        /* greedy: the token is the likeliest */
        assert_string_equal(text_at(token, "token"), text_at(json_array_get(top, 0), "token"));
        if (i + 1 < n) /* the last one ends the answer */
            buf_append_cstr(&text, text_at(token, "token"));
    }
    assert_string_equal(text.data, "Hello! How can I help you?");
    buf_release(&text);
    json_decref(root);
    root = call("/v1/completions",
                "{\"prompt\":\"Once upon a time\",\"temperature\":0,\"logprobs\":2,\"echo\":false,"
                "\"max_tokens\":4}",
                200);
    json_t *logprobs = json_object_get(at(root, "choices", 0), "logprobs");
    assert_int_equal(json_array_size(json_object_get(logprobs, "tokens")), 4);
    assert_int_equal(json_array_size(json_object_get(logprobs, "text_offset")), 4);
    assert_int_equal(json_object_size(at(logprobs, "top_logprobs", 0)), 2);
    json_decref(root);
}

static void completes_prompts(void **state)
{
    (void)state;
    json_t *root = call("/v1/completions",
                        "{\"prompt\":[\"Once upon\",\"A fox\"],\"n\":2,\"temperature\":0,"
                        "\"max_tokens\":3,\"echo\":true}",
                        200);
    json_t *choices = json_object_get(root, "choices");
    assert_int_equal(json_array_size(choices), 4);
    for (size_t i = 0; i < 4; i++) {
        json_t *choice = json_array_get(choices, i);
        assert_int_equal(json_integer_value(json_object_get(choice, "index")), i);
        assert_string_equal(text_at(choice, "finish_reason"), "length");
        assert_true(
            str_starts(str_from(text_at(choice, "text")), str_from(i < 2 ? "Once upon" : "A fox")));
    }
    json_t *usage = json_object_get(root, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 12);
    json_decref(root);
    /* token ids in, the same text out */
    json_t *ids = call("/tokenize", "{\"content\":\"Once upon a time\"}", 200);
    char *tokens = json_dumps(json_object_get(ids, "tokens"), 0);
    struct buf body = {0};
    buf_printf(&body, "{\"prompt\":%s,\"temperature\":0,\"max_tokens\":5}", tokens);
    json_t *by_ids = call("/v1/completions", body.data, 200);
    root = call("/v1/completions",
                "{\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":5}", 200);
    assert_string_equal(text_at(at(root, "choices", 0), "text"),
                        text_at(at(by_ids, "choices", 0), "text"));
    buf_clear(&body);
    buf_printf(&body, "{\"tokens\":%s}", tokens);
    json_t *back = call("/detokenize", body.data, 200);
    assert_string_equal(text_at(back, "content"), "Once upon a time");
    json_decref(back);
    json_decref(by_ids);
    json_decref(ids);
    json_decref(root);
    free(tokens);
    buf_release(&body);
}

static void embeds_and_renders(void **state)
{
    (void)state;
    json_t *root = call("/v1/embeddings", "{\"input\":[\"a fox\",\"a fox\",\"the sea\"]}", 200);
    double dot[2] = {0}, length = 0;
    json_t *first = json_object_get(at(root, "data", 0), "embedding");
    assert_int_equal(json_array_size(first), 256);
    for (size_t i = 0; i < 256; i++) {
        double a = json_number_value(json_array_get(first, i));
        length += a * a;
        for (size_t j = 0; j < 2; j++)
            dot[j] += a * json_number_value(json_array_get(
                              json_object_get(at(root, "data", j + 1), "embedding"), i));
    }
    assert_true(length > 0.999 && length < 1.001);
    assert_true(dot[0] > 0.999 && dot[1] < 0.99);
    json_decref(root);
    root = call("/v1/embeddings", "{\"input\":\"a fox\",\"encoding_format\":\"base64\"}", 200);
    assert_int_equal(strlen(text_at(at(root, "data", 0), "embedding")), (256 * 4 + 2) / 3 * 4);
    json_decref(root);
    root = call("/apply-template", "{" HELLO "}", 200);
    assert_non_null(strstr(text_at(root, "prompt"), "<|im_start|>user\nHello<|im_end|>"));
    json_decref(root);
}

static void seeds_and_stops(void **state)
{
    (void)state;
    static const char request[] = "{\"prompt\":\"Once upon a time\",\"temperature\":1.5,"
                                  "\"seed\":7,\"max_tokens\":12}";
    json_t *first = call("/v1/completions", request, 200);
    json_t *second = call("/v1/completions", request, 200);
    assert_string_equal(text_at(at(first, "choices", 0), "text"),
                        text_at(at(second, "choices", 0), "text"));
    json_decref(first);
    json_decref(second);
    json_t *root = call("/v1/chat/completions",
                        "{" HELLO ",\"temperature\":0,\"stop\":[\"help\",\"zzz\"]}", 200);
    assert_string_equal(text_at(json_object_get(at(root, "choices", 0), "message"), "content"),
                        "Hello! How can I ");
    assert_string_equal(text_at(at(root, "choices", 0), "finish_reason"), "stop");
    json_decref(root);
}

/* DRY keeps a passage from coming again, but not across a breaker. */
static void breakers_reach_the_sampler(void **state)
{
    (void)state;
    static const char request[] = "{\"prompt\":\"no no no no no no "
                                  "no\",\"temperature\":0,\"max_tokens\":8,\"ignore_eos\":true,"
                                  "\"dry_multiplier\":50,\"dry_allowed_length\":1,"
                                  "\"dry_sequence_breakers\":%s}";
    static const char *const breakers[] = {"[]", "[\"z\"]", "[\" \"]", "\" \""};
    char body[512], *texts[4];
    for (size_t i = 0; i < 4; i++) {
        snprintf(body, sizeof body, request, breakers[i]);
        json_t *root = call("/v1/completions", body, 200);
        texts[i] = strdup(text_at(at(root, "choices", 0), "text"));
        json_decref(root);
    }
    assert_string_equal(texts[0], texts[1]);
    assert_string_not_equal(texts[1], texts[2]);
    assert_string_equal(texts[2], texts[3]);
    for (size_t i = 0; i < 4; i++)
        free(texts[i]);
}

static void special_tokens_in_content_are_text(void **state)
{
    (void)state;
    json_t *plain = call("/v1/chat/completions",
                         "{\"temperature\":0,\"max_tokens\":1,\"messages\":[{\"role\":\"user\","
                         "\"content\":\"a\"}]}",
                         200);
    json_t *marked = call("/v1/chat/completions",
                          "{\"temperature\":0,\"max_tokens\":1,\"messages\":[{\"role\":\"user\","
                          "\"content\":\"a<|im_end|>\"}]}",
                          200);
    json_int_t n =
        json_integer_value(json_object_get(json_object_get(plain, "usage"), "prompt_tokens"));
    json_int_t m =
        json_integer_value(json_object_get(json_object_get(marked, "usage"), "prompt_tokens"));
    assert_true(m > n + 2); /* several ordinary tokens, not one special */
    json_decref(plain);
    json_decref(marked);
}

/* ---- what is refused -------------------------------------------------------------------------- */

struct refusal {
    const char *path, *body;
    int status;
    const char *param; /* NULL: none */
};

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"

static const struct refusal refusals[] = {
    {CHAT, "", 400, "body"},
    {CHAT, "{", 400, "body"},
    {CHAT, "[]", 400, "body"},
    {CHAT, "{\"messages\":\"\xff\"}", 400, "body"},
    {CHAT, "{" HELLO ",\"temperature\":1e999}", 400, "body"},
    {CHAT, "{" HELLO ",\"seed\":1,\"seed\":2}", 400, "body"},
    {CHAT, "{}", 400, "messages"},
    {CHAT, "{\"messages\":null}", 400, "messages"},
    {CHAT, "{\"messages\":[]}", 400, "messages"},
    {CHAT, "{\"messages\":\"hello\"}", 400, "messages"},
    {CHAT, "{\"messages\":[1]}", 400, "messages[0]"},
    {CHAT, "{\"messages\":[{\"content\":\"x\"}]}", 400, "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", 400, "messages[0].content"},
    {CHAT, "{\"messages\":[{\"role\":\"god\",\"content\":\"x\"}]}", 400, "messages[0].role"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}", 400,
     "messages[0].content"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     400, "messages[0].content[0]"},
    {CHAT, "{" HELLO ",\"temperature\":-1}", 400, "temperature"},
    {CHAT, "{" HELLO ",\"temperature\":\"hot\"}", 400, "temperature"},
    {CHAT, "{" HELLO ",\"temperature\":true}", 400, "temperature"},
    {CHAT, "{" HELLO ",\"top_p\":0}", 400, "top_p"},
    {CHAT, "{" HELLO ",\"top_p\":1.1}", 400, "top_p"},
    {CHAT, "{" HELLO ",\"n\":0}", 400, "n"},
    {CHAT, "{" HELLO ",\"n\":129}", 400, "n"},
    {CHAT, "{" HELLO ",\"n\":1.5}", 400, "n"},
    {CHAT, "{" HELLO ",\"max_tokens\":0}", 400, "max_tokens"},
    {CHAT, "{" HELLO ",\"max_tokens\":-1}", 400, "max_tokens"},
    {CHAT, "{" HELLO ",\"max_tokens\":18446744073709551616}", 400, "max_tokens"},
    {CHAT, "{" HELLO ",\"max_completion_tokens\":\"5\"}", 400, "max_completion_tokens"},
    {CHAT, "{" HELLO ",\"seed\":18446744073709551616}", 400, "seed"},
    {CHAT,
     "{" HELLO ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\","
     "\"11\",\"12\",\"13\",\"14\",\"15\",\"16\",\"17\"]}",
     400, "stop"},
    {CHAT, "{" HELLO ",\"stop\":[\"\"]}", 400, "stop"},
    {CHAT, "{" HELLO ",\"stop\":5}", 400, "stop"},
    {CHAT, "{" HELLO ",\"logit_bias\":{\"99999\":1}}", 400, "logit_bias"},
    {CHAT, "{" HELLO ",\"logit_bias\":{\"-1\":1}}", 400, "logit_bias"},
    {CHAT, "{" HELLO ",\"logit_bias\":{\"1\":101}}", 400, "logit_bias"},
    {CHAT, "{" HELLO ",\"logit_bias\":[]}", 400, "logit_bias"},
    {CHAT, "{" HELLO ",\"presence_penalty\":3}", 400, "presence_penalty"},
    {CHAT, "{" HELLO ",\"frequency_penalty\":-3}", 400, "frequency_penalty"},
    {CHAT, "{" HELLO ",\"top_logprobs\":3}", 400, "top_logprobs"},
    {CHAT, "{" HELLO ",\"logprobs\":true,\"top_logprobs\":21}", 400, "top_logprobs"},
    {CHAT, "{" HELLO ",\"stream\":\"yes\"}", 400, "stream"},
    {CHAT, "{" HELLO ",\"stream_options\":5}", 400, "stream_options"},
    {CHAT, "{" HELLO ",\"tools\":{}}", 400, "tools"},
    {CHAT, "{" HELLO ",\"tools\":[{\"type\":\"function\"}]}", 400, "tools[0]"},
    {CHAT, "{" HELLO ",\"tool_choice\":\"required\"}", 400, "tool_choice"},
    {CHAT, "{" HELLO ",\"tool_choice\":\"some\"}", 400, "tool_choice"},
    {CHAT, "{" HELLO ",\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format"},
    {CHAT, "{" HELLO ",\"grammar\":\"root ::= x\"}", 400, "grammar"},
    {CHAT, "{" HELLO ",\"min_tokens\":3}", 400, "min_tokens"},
    {CHAT, "{" HELLO ",\"functions\":[{}]}", 400, "functions"},
    {CHAT, "{" HELLO ",\"modalities\":[\"audio\"]}", 400, "modalities"},
    {CHAT, "{" HELLO ",\"reasoning_effort\":\"huge\"}", 400, "reasoning_effort"},
    {CHAT, "{" HELLO ",\"typical_p\":0}", 400, "typical_p"},
    {CHAT, "{" HELLO ",\"model\":5}", 400, "model"},
    {CHAT, "{" HELLO ",\"model\":\"gpt-9\"}", 404, "model"},
    {TEXT, "{}", 400, "prompt"},
    {TEXT, "{\"prompt\":\"\"}", 400, "prompt"},
    {TEXT, "{\"prompt\":[]}", 400, "prompt"},
    {TEXT, "{\"prompt\":[-1]}", 400, "prompt"},
    {TEXT, "{\"prompt\":[4096]}", 400, "prompt"},
    {TEXT, "{\"prompt\":[[1],[4096]]}", 400, "prompt"},
    {CHAT, "{" HELLO ",\"dry_sequence_breakers\":[5]}", 400, "dry_sequence_breakers"},
    {CHAT, "{" HELLO ",\"dry_sequence_breakers\":[\"\"]}", 400, "dry_sequence_breakers"},
    {TEXT, "{\"prompt\":[1,\"a\"]}", 400, "prompt"},
    {TEXT, "{\"prompt\":\"x\",\"suffix\":\"y\"}", 400, "suffix"},
    {TEXT, "{\"prompt\":\"x\",\"best_of\":2}", 400, "best_of"},
    {TEXT, "{\"prompt\":\"x\",\"echo\":true,\"logprobs\":1}", 400, "echo"},
    {TEXT, "{\"prompt\":\"x\",\"logprobs\":21}", 400, "logprobs"},
    {"/v1/embeddings", "{}", 400, "input"},
    {"/v1/embeddings", "{\"input\":\"\"}", 400, "input"},
    {"/v1/embeddings", "{\"input\":[4096]}", 400, "input"},
    {"/v1/embeddings", "{\"input\":\"x\",\"dimensions\":5}", 400, "dimensions"},
    {"/v1/embeddings", "{\"input\":\"x\",\"encoding_format\":\"hex\"}", 400, "encoding_format"},
    {"/apply-template", "{\"messages\":[]}", 400, "messages"},
    {"/tokenize", "{}", 400, "content"},
    {"/detokenize", "{\"tokens\":[-5]}", 400, "tokens"},
    {"/detokenize", "{\"tokens\":5}", 400, "tokens"},
    {"/v1/requests/none/cancel", "{}", 404, NULL},
    {"/v1/nothing", "{}", 404, NULL},
};

static void refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        json_t *root = call(r->path, r->body, r->status);
        json_t *error = json_object_get(root, "error");
        const char *param = text_at(error, "param");
        if (!param != !r->param || (param && strcmp(param, r->param) != 0))
            fail_msg("%s names %s, expected %s", r->body, param ? param : "nothing",
                     r->param ? r->param : "nothing");
        assert_true(strlen(text_at(error, "message")) > 10);
        assert_non_null(text_at(error, "type"));
        json_decref(root);
    }
}

static void refuses_depth_and_length(void **state)
{
    (void)state;
    struct buf body = {0};
    buf_append_cstr(&body, "{" HELLO ",\"metadata\":");
    for (int i = 0; i < 64; i++)
        buf_append_char(&body, '[');
    for (int i = 0; i < 64; i++)
        buf_append_char(&body, ']');
    buf_append_cstr(&body, "}");
    json_decref(call(CHAT, body.data, 400));
    buf_clear(&body);
    buf_append_cstr(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 5000; i++)
        buf_append_cstr(&body, "word ");
    buf_append_cstr(&body, "\"}]}");
    json_t *root = call(CHAT, body.data, 400);
    assert_string_equal(text_at(json_object_get(root, "error"), "code"), "context_length_exceeded");
    json_decref(root);
    buf_release(&body);
}

static void accepts_nulls_and_harmless_fields(void **state)
{
    (void)state;
    json_decref(call(CHAT,
                     "{" HELLO ",\"max_tokens\":2,\"stop\":null,\"tools\":null,\"seed\":null,"
                     "\"user\":\"u\",\"metadata\":{\"a\":1},\"store\":true,\"temperature\":null,"
                     "\"response_format\":{\"type\":\"text\"},\"min_tokens\":0,\"functions\":[],"
                     "\"top_k\":-1,\"model\":\"pebble\",\"max_completion_tokens\":2.0}",
                     200));
}

static void methods_and_routes(void **state)
{
    (void)state;
    struct answer answer = client_call("GET", CHAT, NULL, NULL);
    assert_int_equal(answer.status, 405);
    assert_string_equal(answer_header(&answer, "Allow"), "POST");
    answer_release(&answer);
    answer = client_call("DELETE", "/v1/models", NULL, NULL);
    assert_int_equal(answer.status, 405);
    assert_string_equal(answer_header(&answer, "Allow"), "GET");
    answer_release(&answer);
    static const char *const pages[] = {"/health", "/ready",     "/metrics",
                                        "/status", "/v1/models", "/v1/models/pebble"};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        answer = client_call("GET", pages[i], NULL, NULL);
        assert_int_equal(answer.status, 200);
        answer_release(&answer);
    }
    /* Where a client's base URL is wrong, the answer says how. */
    static const char *const wrong[] = {"/chat/completions", "/v1/v1/chat/completions"};
    for (size_t i = 0; i < 2; i++) {
        answer = client_call("POST", wrong[i], NULL, "{}");
        assert_int_equal(answer.status, 404);
        assert_non_null(strstr(answer.body, "did you mean /v1/chat/completions?"));
        answer_release(&answer);
    }
    answer = client_call("GET", "/v1/models/other", NULL, NULL);
    assert_int_equal(answer.status, 404);
    answer_release(&answer);
}

static int status_with(const char *path, const char *head)
{
    /* client_call sends Host: localhost; a bare request sends its own. */
    struct buf text = {0};
    buf_printf(&text, "GET %s HTTP/1.1\r\n%s\r\n", path, head);
    int fd = client_connect();
    client_send(fd, text.data, text.len);
    struct answer answer = client_answer(fd, 5000);
    int status = answer.status;
    if (status == 403)
        assert_null(answer_header(&answer, "Access-Control-Allow-Origin"));
    answer_release(&answer);
    buf_release(&text);
    close(fd);
    return status;
}

static void foreign_pages_are_kept_out(void **state)
{
    (void)state;
    assert_int_equal(status_with("/v1/models", "Host: evil.example\r\n"), 403);
    assert_int_equal(status_with("/v1/models", "Host: 10.0.0.1\r\n"), 403);
    assert_int_equal(status_with("/v1/models", "Host: localhost.evil.example\r\n"), 403);
    assert_int_equal(status_with("/v1/models", "Host: localhost:123\r\n"), 200);
    assert_int_equal(status_with("/v1/models", "Host: 127.0.0.1\r\n"), 200);
    assert_int_equal(status_with("/v1/models", "Host: [::1]:80\r\n"), 200);
    assert_int_equal(status_with("/v1/models", "Host: a.localhost\r\n"), 200);
    assert_int_equal(status_with("/v1/models", "Host: host.docker.internal:8080\r\n"), 200);
    assert_int_equal(
        status_with("/v1/models", "Host: localhost\r\nOrigin: https://evil.example\r\n"), 403);
    assert_int_equal(status_with("/v1/models", "Host: localhost\r\nOrigin: null\r\n"), 403);
    assert_int_equal(
        status_with("/v1/models", "Host: localhost\r\nOrigin: http://localhost:3000\r\n"), 200);
    assert_int_equal(status_with("/health", "Host: evil.example\r\n"), 200);
}

static void restart(const struct server_options *options)
{
    serving_stop();
    assert_int_equal(serving_start(options), 0);
}

static void keys_guard_everything_but_health(void **state)
{
    (void)state;
    static const char *const keys[] = {"first-key", "second"};
    restart(&(struct server_options){.api_keys = keys, .n_api_keys = 2});
    assert_int_equal(status_with("/health", "Host: a.example\r\n"), 200);
    static const char *const paths[] = {"/v1/models",           "/metrics",  "/status",
                                        "/v1/chat/completions", "/tokenize", "/nothing"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        assert_int_equal(status_with(paths[i], "Host: a.example\r\n"), 401);
        assert_int_equal(
            status_with(paths[i], "Host: a.example\r\nAuthorization: Bearer wrong\r\n"), 401);
        assert_int_equal(
            status_with(paths[i], "Host: a\r\nAuthorization: Bearer first-keyfirst-key\r\n"), 401);
    }
    assert_int_equal(
        status_with("/v1/models", "Host: a.example\r\nAuthorization: Bearer second\r\n"), 200);
    assert_int_equal(status_with("/v1/models", "Host: a.example\r\nx-api-key: first-key\r\n"), 200);
    assert_int_equal(
        status_with("/v1/models", "Host: a\r\nx-api-key: second\r\nOrigin: http://e.example\r\n"),
        403);
    restart(NULL);
}

static void strict_and_aliases(void **state)
{
    (void)state;
    static const struct server_alias names[] = {{"gpt-4o", NULL}};
    restart(&(struct server_options){.strict = true, .aliases = names, .n_aliases = 1});
    json_t *root = call(CHAT, "{" HELLO ",\"frobnicate\":1}", 400);
    assert_string_equal(text_at(json_object_get(root, "error"), "param"), "frobnicate");
    json_decref(root);
    root = call(CHAT, "{" HELLO ",\"model\":\"gpt-4o\",\"max_tokens\":1}", 200);
    assert_string_equal(text_at(root, "model"), "gpt-4o");
    json_decref(root);
    json_decref(call(CHAT, "{" HELLO ",\"model\":\"gpt-5\"}", 404));
    static const struct server_alias any[] = {{"*", "pebble"}};
    restart(&(struct server_options){.aliases = any, .n_aliases = 1});
    json_decref(call(CHAT, "{" HELLO ",\"model\":\"gpt-5\",\"max_tokens\":1}", 200));
    restart(NULL);
}

/* ---- life of a request ------------------------------------------------------------------------ */

static void sleep_ms(long ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* A stream that goes on for long; returns its socket once text has come. */
static int endless_stream(struct buf *text)
{
    int fd = client_connect();
    static const char body[] = "{\"prompt\":\"Once upon a time\",\"ignore_eos\":true,\"stream\":"
                               "true,\"max_tokens\":1900,\"temperature\":0}";
    struct buf request = {0};
    buf_printf(&request,
               "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
               strlen(body), body);
    client_send(fd, request.data, request.len);
    buf_release(&request);
    assert_true(client_read_until(fd, text, "\"text\":\"", 20000));
    return fd;
}

static size_t running(void)
{
    struct answer answer = client_call("GET", "/status", NULL, NULL);
    json_t *root = parse(&answer);
    size_t n = json_array_size(json_object_get(root, "requests"));
    json_decref(root);
    answer_release(&answer);
    return n;
}

/* However busy the others keep the server: a stream that waits has its headers soon, then comments. */
static void a_queued_stream_is_kept_alive(void **state)
{
    (void)state;
    enum { BUSY = 8 }; /* as many as the engine runs */
    struct buf texts[BUSY] = {0}, waiting = {0};
    int fds[BUSY];
    for (size_t i = 0; i < BUSY; i++)
        fds[i] = endless_stream(&texts[i]);
    int fd = client_connect();
    static const char request[] =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 56\r\n\r\n"
        "{\"prompt\":\"A fox\",\"stream\":true,\"max_tokens\":2,\"n\":1}   ";
    client_send_text(fd, request);
    assert_true(client_read_until(fd, &waiting, "\r\n\r\n", 1000));
    assert_null(strstr(waiting.data, "\"text\""));
    /* Meanwhile the server says that it is well, and how busy. */
    uint64_t from = clock_now_ns();
    struct answer answer = client_call("GET", "/health", NULL, NULL);
    assert_int_equal(answer.status, 200);
    assert_true(clock_now_ns() - from < 1000000000u);
    answer_release(&answer);
    answer = client_call("GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(answer.body, "sluice_sequences_running{model=\"pebble\"} 8\n"));
    assert_non_null(strstr(answer.body, "sluice_sequences_waiting{model=\"pebble\"} 1\n"));
    assert_non_null(strstr(answer.body, "sluice_requests_in_work 9\n"));
    static const char *const names[] = {"sluice_time_to_first_token_seconds_bucket{le=\"0.005\"}",
                                        "sluice_inter_token_seconds_sum",
                                        "sluice_queue_seconds_count",
                                        "sluice_cached_tokens_total",
                                        "sluice_prefilled_tokens_total{model=\"pebble\"}",
                                        "sluice_decoded_tokens_total{model=\"pebble\"}",
                                        "sluice_preemptions_total{model=\"pebble\"}",
                                        "sluice_kv_pages_used{model=\"pebble\"}",
                                        "sluice_bytes_per_second{model=\"pebble\"}"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(strstr(answer.body, names[i]));
    answer_release(&answer);
    assert_true(client_read_until(fd, &waiting, ": waiting", 2500));
    assert_null(strstr(waiting.data, "\"text\""));
    for (size_t i = 0; i < BUSY; i++) {
        close(fds[i]);
        buf_release(&texts[i]);
    }
    assert_true(client_read_until(fd, &waiting, "[DONE]", 10000));
    close(fd);
    buf_release(&waiting);
}

static void a_leaving_client_frees_its_place(void **state)
{
    (void)state;
    struct buf text = {0};
    int fd = endless_stream(&text);
    assert_int_equal(running(), 1);
    close(fd);
    uint64_t from = clock_now_ns();
    while (running() > 0 && clock_now_ns() - from < 3000000000u)
        sleep_ms(20);
    assert_int_equal(running(), 0);
    buf_release(&text);
}

static void a_request_can_be_cancelled_by_id(void **state)
{
    (void)state;
    struct buf text = {0};
    int fd = endless_stream(&text);
    char id[64], path[128];
    assert_int_equal(sscanf(strstr(text.data, "\"id\":\""), "\"id\":\"%63[^\"]", id), 1);
    snprintf(path, sizeof path, "/v1/requests/%s/cancel", id);
    json_decref(call(path, "{}", 200));
    assert_true(client_read_until(fd, &text, "\r\n0\r\n\r\n", 5000));
    assert_non_null(strstr(text.data, "request_cancelled"));
    assert_null(strstr(text.data, "[DONE]"));
    close(fd);
    buf_release(&text);
}

static void a_drain_lets_streams_end(void **state)
{
    (void)state;
    struct buf text = {0};
    int fd = endless_stream(&text);
    int idle = client_connect();
    server_drain(serving, 1); /* longer than a moment, shorter than the stream */
    assert_true(client_read_until(fd, &text, "\r\n0\r\n\r\n", 5000));
    assert_non_null(strstr(text.data, "shutting_down"));
    assert_null(strstr(text.data, "[DONE]"));
    client_send_text(idle, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                           "Content-Length: 2\r\n\r\n{}");
    struct answer answer = client_answer(idle, 5000);
    assert_int_equal(answer.status, 503);
    assert_non_null(answer_header(&answer, "Retry-After"));
    answer_release(&answer);
    close(fd);
    close(idle);
    buf_release(&text);
    restart(NULL);
}

/* The answer must not depend on how the request came in pieces. */
static void bodies_may_come_in_any_pieces(void **state)
{
    (void)state;
    static const char body[] = "{\"prompt\":\"Once upon a \\u00e9\xc3\xa9\",\"temperature\":0,"
                               "\"max_tokens\":3,\"stream\":true}";
    struct buf head = {0};
    buf_printf(&head,
               "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n",
               sizeof body - 1);
    char *expected = NULL;
    for (size_t cut = 0; cut < sizeof body - 1; cut++) {
        int fd = client_connect(), chunks;
        json_t *last;
        client_send(fd, head.data, head.len);
        client_send(fd, body, cut);
        sleep_ms(1);
        client_send(fd, body + cut, sizeof body - 1 - cut);
        struct answer answer = client_answer(fd, 10000);
        assert_int_equal(answer.status, 200);
        assert_true(answer.complete);
        char *text = join_stream(answer.body, "text", false, &last, &chunks);
        json_decref(last);
        if (expected)
            assert_string_equal(text, expected);
        else
            expected = strdup(text);
        free(text);
        answer_release(&answer);
        close(fd);
    }
    assert_true(strlen(expected) > 3);
    free(expected);
    buf_release(&head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_a_chat),
        cmocka_unit_test(streams_a_chat),
        cmocka_unit_test(calls_tools),
        cmocka_unit_test(separates_reasoning),
        cmocka_unit_test(gives_log_probabilities),
        cmocka_unit_test(completes_prompts),
        cmocka_unit_test(embeds_and_renders),
        cmocka_unit_test(seeds_and_stops),
        cmocka_unit_test(breakers_reach_the_sampler),
        cmocka_unit_test(special_tokens_in_content_are_text),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_depth_and_length),
        cmocka_unit_test(accepts_nulls_and_harmless_fields),
        cmocka_unit_test(methods_and_routes),
        cmocka_unit_test(foreign_pages_are_kept_out),
        cmocka_unit_test(keys_guard_everything_but_health),
        cmocka_unit_test(strict_and_aliases),
        cmocka_unit_test(a_queued_stream_is_kept_alive),
        cmocka_unit_test(a_leaving_client_frees_its_place),
        cmocka_unit_test(a_request_can_be_cancelled_by_id),
        cmocka_unit_test(a_drain_lets_streams_end),
        cmocka_unit_test(bodies_may_come_in_any_pieces),
    };
    return cmocka_run_group_tests(tests, setup, serving_end);
}
