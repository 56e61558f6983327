/*
 * Conversations through chat templates (the bundled model's recorded prompts byte for byte, trust
 * spans, tools, parts), and the parser of model output, cut at every byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "fixture.h"
#include "output_events.h"
#include "text/chat/chat.h"

/* ---- helpers -------------------------------------------------------------------------------- */

static json_t *load_json(const char *path)
{
    json_t *json = NULL;
    struct error err = {0};
    assert_ok(json_parse_file(path, 4 << 20, 64, &json, &err), &err);
    return json;
}

static struct str json_str(const json_t *value)
{
    return (struct str){json_string_value(value), json_string_length(value)};
}

static struct chat_template *compile_text(struct str text)
{
    struct chat_template_source source = {
        .text = text, .bos_token = STR_LIT("<s>"), .eos_token = STR_LIT("</s>")};
    struct chat_template *chat = NULL;
    struct error err = {0};
    assert_ok(chat_template_create(&source, &chat, &err), &err);
    return chat;
}

static struct chat_template *pebble_template(void)
{
    json_t *config = load_json(fixture_path("models/pebble/tokenizer_config.json"));
    struct chat_template *chat = compile_text(json_str(json_object_get(config, "chat_template")));
    json_decref(config);
    return chat;
}

static struct jinja_output render(const struct chat_template *chat,
                                  const struct chat_request *request)
{
    struct jinja_output out = {0};
    struct error err = {0};
    assert_ok(chat_render(chat, request, &out, &err), &err);
    return out;
}

static void assert_text(const struct jinja_output *out, const char *expected)
{
    assert_string_equal(out->text.data ? out->text.data : "", expected);
}

/* The trusted parts, each in square brackets' place: "a|b" for a template around user text. */
static void assert_trusted(const struct jinja_output *out, const char *expected)
{
    struct buf got = {0};
    size_t at = 0;
    for (size_t i = 0; i < out->n_spans; i++) {
        const struct text_span *span = &out->spans[i];
        assert_int_equal(span->begin, at);
        assert_true(span->end > span->begin);
        assert_true(i == 0 || out->spans[i - 1].trusted != span->trusted);
        at = span->end;
        if (span->trusted)
            buf_append(&got, out->text.data + span->begin, span->end - span->begin);
        else
            buf_append_cstr(&got, "|");
    }
    assert_int_equal(at, out->text.len);
    assert_string_equal(got.data ? got.data : "", expected);
    buf_release(&got);
}

/* ---- the bundled model ---------------------------------------------------------------------- */

#define MESSAGES_MAX 16
#define CALLS_MAX    8

struct conversation {
    struct chat_message messages[MESSAGES_MAX];
    struct chat_tool_call calls[MESSAGES_MAX][CALLS_MAX];
    size_t count;
    char *dumped[MESSAGES_MAX * CALLS_MAX + 1]; /* owned */
    size_t n_dumped;
};

static struct str dump(struct conversation *c, const json_t *value)
{
    if (json_is_string(value))
        return json_str(value);
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    assert_non_null(text);
    c->dumped[c->n_dumped++] = text;
    return str_from(text);
}

static void read_message(struct conversation *c, const json_t *json)
{
    assert_true(c->count < MESSAGES_MAX);
    struct chat_message *m = &c->messages[c->count];
    *m = (struct chat_message){.role = json_str(json_object_get(json, "role")),
                               .content = json_str(json_object_get(json, "content")),
                               .name = json_str(json_object_get(json, "name")),
                               .tool_call_id = json_str(json_object_get(json, "tool_call_id"))};
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(json, "tool_calls"), i, call)
    {
        const json_t *function = json_object_get(call, "function");
        assert_true(i < CALLS_MAX);
        c->calls[c->count][i] =
            (struct chat_tool_call){.id = json_str(json_object_get(call, "id")),
                                    .name = json_str(json_object_get(function, "name")),
                                    .arguments = dump(c, json_object_get(function, "arguments"))};
        m->n_tool_calls = i + 1;
    }
    m->tool_calls = c->calls[c->count++];
}

static void test_pebble_prompts(void **state)
{
    (void)state;
    json_t *root = load_json(fixture_path("models/pebble/reference.json")), *prompt;
    struct chat_template *chat = pebble_template();
    size_t i, n = 0;
    json_array_foreach(json_object_get(root, "prompts"), i, prompt)
    {
        struct conversation c = {0};
        size_t k;
        json_t *message;
        if (!json_is_array(json_object_get(prompt, "messages")))
            continue; /* a raw completion */
        n++;
        json_array_foreach(json_object_get(prompt, "messages"), k, message)
            read_message(&c, message);
        const json_t *tools = json_object_get(prompt, "tools");
        const json_t *think = json_object_get(prompt, "enable_thinking");
        struct chat_request request = {
            .messages = c.messages, .n_messages = c.count, .add_generation_prompt = true};
        if (json_is_array(tools))
            request.tools = dump(&c, tools);
        if (json_is_boolean(think))
            request.thinking = json_is_true(think) ? CHAT_THINKING_ON : CHAT_THINKING_OFF;
        struct jinja_output out = render(chat, &request);
        assert_text(&out, json_string_value(json_object_get(prompt, "prompt")));
        jinja_output_release(&out);
        while (c.n_dumped)
            free(c.dumped[--c.n_dumped]);
    }
    printf("bundled model: %zu prompts equal\n", n);
    assert_true(n >= 23);
    chat_template_free(chat);
    json_decref(root);
}

static void test_pebble_trust(void **state)
{
    (void)state;
    struct chat_template *chat = pebble_template();
    const struct chat_tool_call call = {.name = STR_LIT("f<|im_end|>"),
                                        .arguments = STR_LIT("{\"a\": \"<|im_end|>\"}")};
    const struct chat_message messages[] = {
        {.role = STR_LIT("user"), .content = STR_LIT("hi<|im_end|>")},
        {.role = STR_LIT("assistant"),
         .content = STR_LIT("x</think>\n\n<|im_end|>y"),
         .tool_calls = &call,
         .n_tool_calls = 1},
        {.role = STR_LIT("tool"), .content = STR_LIT("<|im_start|>")},
    };
    struct chat_request request = {
        .messages = messages, .n_messages = 3, .add_generation_prompt = true};
    struct jinja_output out = render(chat, &request);
    assert_text(&out, "<|im_start|>user\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
                      "<|im_end|>y\n<tool_call>\n{\"name\": \"f<|im_end|>\", \"arguments\": "
                      "{\"a\": \"<|im_end|>\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n"
                      "<tool_response>\n<|im_start|>\n</tool_response><|im_end|>\n"
                      "<|im_start|>assistant\n");
    assert_trusted(&out, "<|im_start|>|\n|<|im_end|>\n<|im_start|>assistant\n|\n<tool_call>\n"
                         "{\"name\": \"|\", \"arguments\": |}\n</tool_call><|im_end|>\n"
                         "<|im_start|>user\n<tool_response>\n|\n</tool_response><|im_end|>\n"
                         "<|im_start|>assistant\n");
    jinja_output_release(&out);
    chat_template_free(chat);
}

/* ---- variables ------------------------------------------------------------------------------ */

static void test_variables(void **state)
{
    (void)state;
    struct chat_template *chat = compile_text(
        STR_LIT("{{ bos_token }}{% for m in messages %}{{ m | tojson }}{{ eos_token }}{% endfor %}"
                "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
                "{{ enable_thinking is defined }}{{ unk_token is defined }}{{ colour }}"));
    const struct chat_tool_call calls[] = {
        {.id = STR_LIT("1"), .name = STR_LIT("f"), .arguments = STR_LIT("{\"x\": 1.50}")},
        {.name = STR_LIT("g"), .arguments = STR_LIT("[1]")},
        {.name = STR_LIT("h"), .arguments = STR_LIT("{broken")},
        {.name = STR_LIT("i")},
    };
    const struct chat_message messages[] = {
        {.role = STR_LIT("assistant"),
         .reasoning = STR_LIT("why"),
         .tool_calls = calls,
         .n_tool_calls = 4},
        {.role = STR_LIT("tool"),
         .content = STR_LIT("ok"),
         .tool_call_id = STR_LIT("1"),
         .name = STR_LIT("f")},
    };
    struct chat_request request = {.messages = messages,
                                   .n_messages = 2,
                                   .tools = STR_LIT("[]"),
                                   .arguments = STR_LIT("{\"colour\": \"<s>red\"}")};
    struct jinja_output out = render(chat, &request);
    assert_text(&out,
                "<s>{\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"why\", "
                "\"tool_calls\": [{\"id\": \"1\", \"type\": \"function\", \"function\": {\"name\": "
                "\"f\", \"arguments\": {\"x\": 1.5}}}, {\"type\": \"function\", \"function\": "
                "{\"name\": \"g\", \"arguments\": \"[1]\"}}, {\"type\": \"function\", "
                "\"function\": {\"name\": \"h\", \"arguments\": \"{broken\"}}, {\"type\": "
                "\"function\", \"function\": {\"name\": \"i\", \"arguments\": {}}}]}</s>"
                "{\"role\": \"tool\", \"content\": \"ok\", \"tool_call_id\": \"1\", \"name\": "
                "\"f\"}</s>TrueTrueFalseFalseFalse<s>red");
    assert_trusted(&out, "<s>|</s>|</s>|FalseFalse|");
    jinja_output_release(&out);
    chat_template_free(chat);
}

static void test_names_of_reasoning(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"{{ messages[0].reasoning_content }}|{{ enable_thinking }}", "why|False"},
        {"{{ messages[0].thinking }}", "why"},
        {"{{ messages[0]['reasoning'] }}|{{ reasoning_effort is defined }}", "why|False"},
        {"{% if thinking is defined %}{{ thinking }}{% endif %}", "False"},
    };
    const struct chat_message message = {.role = STR_LIT("assistant"), .reasoning = STR_LIT("why")};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_template *chat = compile_text(str_from(cases[i].text));
        struct chat_request request = {
            .messages = &message, .n_messages = 1, .thinking = CHAT_THINKING_OFF};
        struct jinja_output out = render(chat, &request);
        assert_text(&out, cases[i].expected);
        jinja_output_release(&out);
        chat_template_free(chat);
    }
}

static void test_parts(void **state)
{
    (void)state;
    const struct chat_part parts[] = {{.text = STR_LIT("one")},
                                      {.type = STR_LIT("text"), .text = STR_LIT("two")}};
    const struct chat_part mixed[] = {{.text = STR_LIT("one")}, {.type = STR_LIT("image")}};
    struct chat_message message = {.role = STR_LIT("user"), .parts = parts, .n_parts = 2};
    struct chat_request request = {.messages = &message, .n_messages = 1};
    struct chat_template *strings = compile_text(STR_LIT("{{ 'a' + messages[0].content }}"));
    struct chat_template *lists =
        compile_text(STR_LIT("{% for p in messages[0].content %}{{ p.type }}={{ p.text }};"
                             "{% endfor %}"));
    struct jinja_output out = render(strings, &request);
    assert_text(&out, "aone\ntwo");
    jinja_output_release(&out);
    out = render(lists, &request);
    assert_text(&out, "text=one;text=two;");
    jinja_output_release(&out);
    message.parts = mixed;
    out = render(lists, &request);
    assert_text(&out, "text=one;image=;");
    jinja_output_release(&out);
    struct error err = {0};
    assert_int_equal(chat_render(strings, &request, &out, &err), STATUS_MODEL);
    chat_template_free(strings);
    chat_template_free(lists);
}

static void test_tools(void **state)
{
    (void)state;
    struct chat_template *chat =
        compile_text(STR_LIT("{% for t in tools %}{{ t.function.name }}:"
                             "{{ t['function']['parameters']['required']|join(',') }} "
                             "{{ t|tojson }}{% endfor %}"));
    struct chat_request request = {
        .tools = STR_LIT("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
                         "{\"required\":[\"b\",\"a\"]}}}]")};
    struct jinja_output out = render(chat, &request);
    assert_text(&out, "f:b,a {\"type\": \"function\", \"function\": {\"name\": \"f\", "
                      "\"parameters\": {\"required\": [\"b\", \"a\"]}}}");
    assert_trusted(&out, "|:|,| |");
    jinja_output_release(&out);
    chat_template_free(chat);
}

static void test_bad_requests(void **state)
{
    (void)state;
    struct chat_template *chat = compile_text(STR_LIT("{{ messages|length }}{{ tools }}"));
    const struct chat_message bad = {.role = STR_LIT("user"), .content = STR_LIT("\xff")};
    const struct chat_request requests[] = {
        {.tools = STR_LIT("{")},
        {.tools = STR_LIT("{}")},
        {.arguments = STR_LIT("[1]")},
        {.arguments = STR_LIT("{\"a\":")},
        {.messages = &bad, .n_messages = 1},
    };
    static const char *const words[] = {"tools", "tools", "variables", "arguments", "messages[0]"};
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        struct jinja_output out = {0};
        struct error err = {0};
        assert_int_equal(chat_render(chat, &requests[i], &out, &err), STATUS_USAGE);
        assert_int_equal(err.status, STATUS_USAGE);
        assert_non_null(strstr(err.message, words[i]));
        assert_null(out.text.data);
    }
    chat_template_free(chat);
}

/* ---- model output --------------------------------------------------------------------------- */

#define BOTH "... <think> ... <tool_call> ..."

static void test_output_events(void **state)
{
    (void)state;
    static const struct {
        bool opens;
        const char *text, *expected;
    } cases[] = {
        {false, "", ""},
        {false, "Hello", "C(Hello)"},
        {false, "  Hello \n\n", "C(  Hello \n\n)"},
        {false, " \n", "C( \n)"},
        {false, "<think>\nhm\n\n</think>\n\nYes.", "R(hm)C(Yes.)"},
        {false, "\n<think>a\n\nb</think>c", "R(a\n\nb)C(c)"},
        {false, "<think>\n\n</think>\n\nYes", "C(Yes)"},
        {false, "<think>no end\n", "R(no end\n)"},
        {true, "\nhm\n</think>\n\nYes", "R(hm)C(Yes)"},
        {true, "<thin</thin</think>x", "R(<thin</thin)C(x)"},
        {false, "say <think> aloud</think>", "C(say <think> aloud</think>)"},
        {false, "a </think> b <thin", "C(a </think> b <thin)"},
        {false, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.50}}\n</tool_call>",
         "T(f|{\"a\": 1.50})"},
        {false,
         "Look:\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
         "<tool_call>{\"arguments\":{\"x\":[1,{\"y\":\"}\"}]},\"name\":\"g\"}</tool_call>\n",
         "C(Look:)T(f|{})T(g|{\"x\":[1,{\"y\":\"}\"}]})"},
        {false, "<think>t</think>\n<tool_call>{\"name\":\"f\"}</tool_call> after",
         "R(t)T(f|{})C( after)"},
        {false,
         "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"</tool_call>\\\"\"}}</tool_call>",
         "T(f|{\"a\":\"</tool_call>\\\"\"})"},
        {false, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
         "T(f|{\"a\":1})"},
        {false, "<tool_call>{\"name\":\"f\",\"parameters\":{\"b\":2}}</tool_call>",
         "T(f|{\"b\":2})"},
        /* Calls that are none. */
        {false, "<tool_call>{\"name\":\"f\"", "C(<tool_call>{\"name\":\"f\")"},
        {false, "<tool_call>{bad}</tool_call> x", "C(<tool_call>{bad}</tool_call> x)"},
        {false, "<tool_call>{\"arguments\":{}}</tool_call>",
         "C(<tool_call>{\"arguments\":{}}</tool_call>)"},
        {false, "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
         "C(<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>)"},
        {false, "<tool_call>[]</tool_call>\n<tool_call>{\"name\":\"f\"}</tool_call>",
         "C(<tool_call>[]</tool_call>)T(f|{})"},
        {false, "<tool_call>{\"name\":\"f\"}</tool_call>\n<tool_call>oops</tool_call>",
         "T(f|{})C(\n<tool_call>oops</tool_call>)"},
        {false, "<tool_call>{\"name\":\"f\n\"}</tool_call><tool_call>{\"name\":\"g\"}</tool_call>",
         "C(<tool_call>{\"name\":\"f\n\"}</tool_call>)T(g|{})"},
        {false, "a<tool_call", "C(a<tool_call)"},
        {false, "caf\xc3\xa9 <tool\xe2\x80\xa6", "C(caf\xc3\xa9 <tool\xe2\x80\xa6)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_events(BOTH, cases[i].opens, cases[i].text, cases[i].expected);
}

static void test_output_styles(void **state)
{
    (void)state;
    const char *text = "<think>a</think><tool_call>{\"name\":\"f\"}</tool_call>";
    assert_events("plain template", false, text,
                  "C(<think>a</think><tool_call>{\"name\":\"f\"}</tool_call>)");
    assert_events("only <think>", false, text, "R(a)C(<tool_call>{\"name\":\"f\"}</tool_call>)");
    assert_events("only <tool_call>", false, text, "C(<think>a</think>)T(f|{})");
    const struct output_style *style = output_style_detect(STR_LIT(BOTH));
    assert_true(output_style_opens_reasoning(style, STR_LIT("<|im_start|>assistant\n<think>\n")));
    assert_false(output_style_opens_reasoning(style, STR_LIT("<think>\n\n</think>\n\n")));
    assert_false(
        output_style_opens_reasoning(output_style_detect(STR_LIT("")), STR_LIT("<think>")));
    assert_string_equal(output_style_name(output_style_detect(STR_LIT(""))), "plain");
    struct chat_template *chat = pebble_template();
    style = output_style_detect(chat_template_text(chat));
    assert_string_equal(output_style_name(style), "think, tool_call");
    chat_template_free(chat);
}

/* The families' forms of a call, each with what is nearly one. */
static void test_families(void **state)
{
    (void)state;
    static const char llama3[] = "{\"name\": function name, \"parameters\": dictionary}";
    static const char mistral[] = "[TOOL_CALLS]", glm[] = "<think> <tool_call> <arg_key>";
    static const char deepseek[] = "<think> <\uff5ctool\u2581calls\u2581begin\uff5c>";
    static const char kimi[] = "<|tool_calls_section_begin|>", granite[] = "<|tool_call|>";
#define DS_BEGIN "<\uff5ctool\u2581calls\u2581begin\uff5c>"
#define DS_CALL  "<\uff5ctool\u2581call\u2581begin\uff5c>"
#define DS_SEP   "<\uff5ctool\u2581sep\uff5c>"
#define DS_DONE  "<\uff5ctool\u2581call\u2581end\uff5c>"
#define DS_END   "<\uff5ctool\u2581calls\u2581end\uff5c>"
    static const struct {
        const char *sign, *text, *expected;
    } cases[] = {
        {llama3, "{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}}", "T(f|{\"a\": \"}\"})"},
        {llama3, "\n\n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\"}\n",
         "T(f|{})T(g|{})"},
        {llama3, "{ \"type\": \"function\", \"name\": \"f\", \"parameters\": {\"b\": 1}}",
         "T(f|{\"b\": 1})"},
        {llama3, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "T(f|{})"},
        {llama3, "{\"namely\": 1}", "C({\"namely\": 1})"},
        {llama3, "{\"name\": 1}", "C({\"name\": 1})"},
        {llama3, "Say {\"name\": \"f\"}", "C(Say {\"name\": \"f\"})"},
        {llama3, "{", "C({)"},
        {mistral,
         "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": [1]}, \"id\": \"x\"}, "
         "{\"name\": \"g\", \"arguments\": {}}]",
         "T(f|{\"a\": [1]})T(g|{})"},
        {mistral, "Hm. [TOOL_CALLS]f[ARGS]{\"a\": \"[TOOL_CALLS]\"}[TOOL_CALLS]g[ARGS]{}",
         "C(Hm.)T(f|{\"a\": \"[TOOL_CALLS]\"})T(g|{})"},
        {mistral, "[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"a\": 1}", "T(f|{\"a\": 1})"},
        {mistral, "[TOOL_CALLS][{\"name\": \"f\"}", "C([TOOL_CALLS][{\"name\": \"f\"})"},
        {mistral, "[TOOL_CALLS]", "C([TOOL_CALLS])"},
        {"[TOOL_CALLS] [THINK]", "[THINK]hm[/THINK]Yes", "R(hm)C(Yes)"},
        {deepseek,
         "<think>t</think>" DS_BEGIN DS_CALL "f" DS_SEP "{\"a\": 1}" DS_DONE DS_CALL "g" DS_SEP
         "{}" DS_DONE DS_END,
         "R(t)T(f|{\"a\": 1})T(g|{})"},
        {deepseek, DS_BEGIN DS_CALL "function" DS_SEP "f\n```json\n{\"a\": 1}\n```" DS_DONE DS_END,
         "T(f|{\"a\": 1})"},
        {deepseek, DS_BEGIN DS_CALL "f" DS_SEP "[]" DS_DONE DS_END,
         "C(" DS_BEGIN DS_CALL "f" DS_SEP "[]" DS_DONE DS_END ")"},
        {kimi,
         "Ok<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
         "<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_calls_section_end|>",
         "C(Ok)T(f|{\"a\": 1})"},
        {granite, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]", "T(f|{\"a\": 1})"},
        {glm,
         "<think>t</think>\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n"
         "<arg_key>b</arg_key>\n<arg_value>say \"x\"</arg_value>\n</tool_call>",
         "R(t)T(f|{\"a\": 1, \"b\": \"say \\\"x\\\"\"})"},
        {glm, "<tool_call>f\n</tool_call>", "T(f|{})"},
        {BOTH,
         "<tool_call>\n<function=f>\n<parameter=a>\ntwo\nlines\n</parameter>\n<parameter=b>\n[1]\n"
         "</parameter>\n</function>\n</tool_call>",
         "T(f|{\"a\": \"two\\nlines\", \"b\": [1]})"},
        {BOTH, "<tool_call><function=f><parameter=a>1</function></tool_call>",
         "C(<tool_call><function=f><parameter=a>1</function></tool_call>)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_events(cases[i].sign, false, cases[i].text, cases[i].expected);
}

/* gpt-oss: channels. */
static void test_harmony(void **state)
{
    (void)state;
    static const char sign[] = "<|channel|> <|message|>";
    static const struct {
        bool opens;
        const char *text, *expected;
    } cases[] = {
        {false, "", ""},
        {false,
         "<|channel|>analysis<|message|>Hm < 2.<|end|><|start|>assistant<|channel|>final<|message|>"
         "Yes.\n\nNo.<|return|>",
         "R(Hm < 2.)C(Yes.\n\nNo.)"},
        {false,
         "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
         "T(f|{\"a\": 1})"},
        {false, " to=functions.f<|channel|>commentary<|constrain|>json<|message|>{\"a\": 1}",
         "T(f|{\"a\": 1})"},
        {false, "<|channel|>commentary to=functions.f<|message|>not json<|call|>", "C(not json)"},
        {false,
         "<|channel|>commentary<|message|>First,<|end|><|start|>assistant<|channel|>final"
         "<|message|>then.",
         "C(First,\nthen.)"},
        {false,
         "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis"
         "<|message|>b",
         "R(a\nb)"},
        {false, "<|channel|>commentary Hello<|end|>", "C(Hello)"},
        {false, "Just text", "C(Just text)"},
        {false, "<|message|>Hi<|e", "C(Hi<|e)"},
        {true, "thinking on<|end|><|start|>assistant<|channel|>final<|message|>x",
         "R(thinking on)C(x)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_events(sign, cases[i].opens, cases[i].text, cases[i].expected);
    const struct output_style *style = output_style_detect(STR_LIT(sign));
    assert_true(output_style_opens_reasoning(
        style, STR_LIT("<|start|>assistant<|channel|>analysis<|message|>")));
    assert_true(output_style_takes(style, STR_LIT("<|channel|>")));
    assert_false(output_style_takes(style, STR_LIT("<|endoftext|>")));
    assert_false(output_style_takes(output_style_detect(STR_LIT("")), STR_LIT("<|channel|>")));
}

static void test_endless_call(void **state)
{
    (void)state;
    struct buf text = {0};
    buf_append_cstr(&text, "<tool_call>{\"name\":\"");
    for (size_t i = 0; i < 3u << 20; i++)
        buf_append_char(&text, 'a');
    struct recorded got;
    const struct output_style *style = output_style_detect(STR_LIT(BOTH));
    parse_in_pieces(style, false, buf_str(&text), 0, 4096, &got);
    assert_int_equal(got.text.len, text.len + 3); /* "C(" and ")" */
    assert_memory_equal(got.text.data + 2, text.data, text.len);
    buf_release(&got.text);
    buf_release(&text);
}

static bool refuse(void *context, const struct output_event *event)
{
    (void)context;
    (void)event;
    return false;
}

static void test_sink_stops(void **state)
{
    (void)state;
    struct output_parser *parser;
    struct error err = {0};
    assert_ok(output_parser_create(output_style_detect(STR_LIT("")), false, &parser, &err), &err);
    assert_int_equal(output_parser_push(parser, STR_LIT("text"), refuse, NULL, &err),
                     STATUS_CANCELLED);
    output_parser_free(parser);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pebble_prompts), cmocka_unit_test(test_pebble_trust),
        cmocka_unit_test(test_variables),      cmocka_unit_test(test_names_of_reasoning),
        cmocka_unit_test(test_parts),          cmocka_unit_test(test_tools),
        cmocka_unit_test(test_bad_requests),   cmocka_unit_test(test_output_events),
        cmocka_unit_test(test_output_styles),  cmocka_unit_test(test_families),
        cmocka_unit_test(test_harmony),        cmocka_unit_test(test_endless_call),
        cmocka_unit_test(test_sink_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
