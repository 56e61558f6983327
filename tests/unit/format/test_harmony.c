/*
 * OpenAI's harmony cases: conversations against their texts, special ids, and completions, some as ids of GPT-4o's vocabulary with the harmony tokens
 * behind it, against the messages that the reference parser makes of them.
 *
 * Conversations are rendered by the built-in template; the three with tools that the model's makers
 * run themselves (browser, python), by the model's own template, which has their texts.
 *
 * Our parser gives events, so the expected messages are told as events: analysis is reasoning, a
 * recipient makes a call, everything else is text; messages of one kind are lines of one text.
 */
#include <stdio.h>
#include <stdlib.h>

#include "text/chat/chat.h"
#include "text/chat/output_parser.h"
#include "tokenizer_goldens.h"

struct recorded {
    struct buf text;
    int last;
};

static bool record(void *context, const struct output_event *event)
{
    struct recorded *r = context;
    static const char letters[] = "CRT";
    if ((int)event->kind != r->last || event->kind == OUTPUT_TOOL_CALL)
        buf_printf(&r->text, "\n%c:", letters[event->kind]);
    r->last = (int)event->kind;
    if (event->kind == OUTPUT_TOOL_CALL) {
        buf_append_str(&r->text, event->name);
        buf_append_char(&r->text, '|');
        buf_append_str(&r->text, event->arguments);
    } else {
        buf_append_str(&r->text, event->text);
    }
    return true;
}

static struct recorded parse(struct str text, size_t cut)
{
    struct recorded out = {.last = -1};
    struct error err = {0};
    struct output_parser *parser;
    const struct output_style *style = output_style_detect(STR_LIT("<|channel|><|message|>"));
    assert_ok(output_parser_create(style, false, &parser, &err), &err);
    if (cut)
        assert_ok(output_parser_push(parser, (struct str){text.data, cut}, record, &out, &err),
                  &err);
    assert_ok(output_parser_push(parser, (struct str){text.data + cut, text.len - cut}, record,
                                 &out, &err),
              &err);
    assert_ok(output_parser_finish(parser, record, &out, &err), &err);
    output_parser_free(parser);
    return out;
}

static void add_ids(const struct tokenizer *tokenizer, const json_t *specials, const int32_t *ids,
                    size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        const char *name;
        json_t *id;
        bool special = false;
        json_object_foreach((json_t *)specials, name, id)
        {
            if (json_integer_value(id) == ids[i]) {
                buf_append_cstr(out, name);
                special = true;
            }
        }
        if (!special)
            buf_append_str(out, tokenizer_piece(tokenizer, ids[i]));
    }
}

static void add_id_list(const struct tokenizer *tokenizer, const json_t *specials,
                        const json_t *list, struct buf *out)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(list, i));
        add_ids(tokenizer, specials, &id, 1, out);
    }
}

/* The completion's bytes, from whichever of the forms the case has. */
static struct buf input_of(const json_t *one, const struct tokenizer *tokenizer,
                           const json_t *specials)
{
    struct buf out = {0};
    char path[128];
    const char *file = json_string_value(json_object_get(one, "text_file"));
    const char *ids_file = json_string_value(json_object_get(one, "tokens_file"));
    if (file || ids_file) {
        snprintf(path, sizeof path, "data/templates/harmony/%s", file ? file : ids_file);
        struct buf text = fixture_read(fixture_shared(path));
        if (file) {
            buf_append_str(&out, buf_str(&text));
        } else {
            char *rest = text.data;
            for (char *at = rest; *at; at = rest) {
                int32_t id = (int32_t)strtol(at, &rest, 10);
                if (rest == at)
                    rest++;
                else
                    add_ids(tokenizer, specials, &id, 1, &out);
            }
        }
        buf_release(&text);
    }
    buf_append_str(&out, value_str(json_object_get(one, "text")));
    add_id_list(tokenizer, specials, json_object_get(one, "tokens"), &out);
    const json_t *parts = json_object_get(one, "tokens_parts");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        buf_append_str(&out, value_str(part));
        add_id_list(tokenizer, specials, part, &out);
    }
    return out;
}

static struct buf expected_of(const json_t *messages)
{
    struct recorded out = {.last = -1};
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        struct str channel = value_str(json_object_get(message, "channel"));
        struct str recipient = value_str(json_object_get(message, "recipient"));
        struct output_event event = {.text = value_str(json_object_get(message, "content"))};
        event.kind = str_eq_cstr(channel, "analysis") ? OUTPUT_REASONING : OUTPUT_CONTENT;
        if (recipient.data && !str_eq_cstr(recipient, "assistant")) {
            event.kind = OUTPUT_TOOL_CALL;
            event.name = recipient;
            if (str_starts(recipient, STR_LIT("functions.")))
                event.name = (struct str){recipient.data + 10, recipient.len - 10};
            event.arguments = event.text;
        } else if (out.last == (int)event.kind) {
            buf_append_char(&out.text, '\n');
        }
        record(&out, &event);
    }
    return out.text;
}

static void test_parse(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/templates/harmony/cases.json");
    if (!path)
        skip();
    json_t *root = load_json(path);
    const json_t *cases = json_object_get(root, "parse");
    const json_t *specials = json_object_get(root, "special_ids");
    struct tokenizer *tokenizer = from_json_alone(shared_tokenizer("gpt4o"));
    size_t passed = 0, strict = 0, counted = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(one, "name"));
        /* We are lenient; what the strict parser refuses is another row here. */
        if (json_is_true(json_object_get(one, "expected_error"))) {
            strict++;
            continue;
        }
        struct buf raw = input_of(one, tokenizer, specials), input = {0};
        struct detokenizer detokenizer = {0};
        detokenizer_push(&detokenizer, buf_str(&raw), &input);
        detokenizer_flush(&detokenizer, &input);
        struct recorded whole = parse(buf_str(&input), 0);
        if (json_object_get(one, "expected")) {
            struct buf expected = expected_of(json_object_get(one, "expected"));
            if (!str_eq(buf_str(&whole.text), buf_str(&expected)))
                fail_msg("%s: got %s\nexpected %s", name, whole.text.data, expected.data);
            buf_release(&expected);
            passed++;
        } else {
            assert_true(whole.text.len > 0);
            counted++;
        }
        for (size_t cut = 1; cut < input.len; cut++) {
            struct recorded parts = parse(buf_str(&input), cut);
            assert_true(str_eq(buf_str(&parts.text), buf_str(&whole.text)));
            buf_release(&parts.text);
        }
        buf_release(&whole.text);
        buf_release(&input);
        buf_release(&raw);
    }
    printf("harmony parse: %zu equal to the reference, %zu without recorded messages run, %zu for "
           "the strict parser left out\n",
           passed, counted, strict);
    assert_int_equal(passed + counted + strict, 10);
    assert_int_equal(passed, 7);
    tokenizer_free(tokenizer);
    json_decref(root);
}

/* --- rendering --- */

static struct str without_end(struct str text)
{
    while (text.len && strchr(" \n", text.data[text.len - 1]))
        text.len--;
    return text;
}

static struct buf render(struct str source, const json_t *variables, const struct tm *now)
{
    struct jinja_template *tmpl;
    struct jinja_context context;
    struct jinja_output out = {0};
    struct error err = {0};
    assert_ok(jinja_compile(source, NULL, &tmpl, &err), &err);
    jinja_context_init(&context);
    assert_ok(jinja_context_merge(&context, variables, &err), &err);
    assert_ok(jinja_render(tmpl, &context, now, NULL, &out, &err), &err);
    jinja_context_release(&context);
    jinja_template_free(tmpl);
    struct buf text = {0};
    buf_append_str(&text, buf_str(&out.text));
    jinja_output_release(&out);
    return text;
}

static json_t *built_in_variables(const json_t *one)
{
    const char *op = json_string_value(json_object_get(one, "op"));
    return json_pack("{s:O, s:O, s:b, s:b}", "messages", json_object_get(one, "conversation"),
                     "auto_drop_analysis", json_object_get(one, "auto_drop_analysis"),
                     "implicit_system", 0, "add_generation_prompt",
                     strcmp(op, "render_conversation_for_completion") == 0);
}

/* The case in the words of the model's own template: a system message's fields are variables. */
static json_t *own_variables(const json_t *one)
{
    const json_t *conversation = json_object_get(one, "conversation");
    const json_t *system = json_array_get(conversation, 0);
    json_t *tools = json_array();
    for (size_t i = 1; i < json_array_size(conversation); i++) {
        const json_t *listed = json_object_get(json_array_get(conversation, i), "tools");
        for (size_t k = 0; k < json_array_size(listed); k++)
            json_array_append_new(tools, json_pack("{s:s, s:O}", "type", "function", "function",
                                                   json_array_get(listed, k)));
    }
    return json_pack("{s:[{s:s, s:s}], s:O, s:O, s:o, s:b}", "messages", "role", "developer",
                     "content", "", "builtin_tools", json_object_get(system, "builtin_tools"),
                     "reasoning_effort", json_object_get(system, "reasoning_effort"), "tools",
                     tools, "add_generation_prompt", 1);
}

static void test_render(void **state)
{
    (void)state;
    static const struct tm june = {.tm_year = 125, .tm_mon = 5, .tm_mday = 28, .tm_wday = 6};
    const char *path = fixture_shared("data/templates/harmony/cases.json");
    if (!path)
        skip();
    json_t *root = load_json(path);
    const json_t *cases = json_object_get(root, "render");
    struct buf own =
        fixture_read(fixture_shared("data/templates/llama.cpp/openai-gpt-oss-120b.jinja"));
    size_t built_in = 0, by_own = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const json_t *first = json_array_get(json_object_get(one, "conversation"), 0);
        bool tools = json_array_size(json_object_get(first, "builtin_tools")) > 0;
        json_t *variables = tools ? own_variables(one) : built_in_variables(one);
        struct str source = tools ? buf_str(&own) : chat_template_builtin(STR_LIT("harmony"));
        struct buf text = render(source, variables, &june);
        char file[128];
        snprintf(file, sizeof file, "data/templates/harmony/%s",
                 json_string_value(json_object_get(one, "expected_file")));
        struct buf expected = fixture_read(fixture_shared(file));
        if (!str_eq(without_end(buf_str(&text)), without_end(buf_str(&expected))))
            fail_msg("%s: got %s\nexpected %s", json_string_value(json_object_get(one, "name")),
                     text.data, expected.data);
        built_in += !tools;
        by_own += tools;
        buf_release(&expected);
        buf_release(&text);
        json_decref(variables);
    }
    printf("harmony render: %zu by the built-in template, %zu by the model's own\n", built_in,
           by_own);
    assert_int_equal(built_in, 16);
    assert_int_equal(by_own, 3);
    buf_release(&own);
    json_decref(root);
}

/* What a client sends, through the built-in template: committed, so without shared data. */
static void test_render_chat(void **state)
{
    (void)state;
    static const struct tm june = {.tm_year = 125, .tm_mon = 5, .tm_mday = 28, .tm_wday = 6};
    const struct chat_template_source source = {.text = chat_template_builtin(STR_LIT("harmony"))};
    static const struct chat_tool_call calls[] = {
        {.id = STR_LIT("a"), .name = STR_LIT("f"), .arguments = STR_LIT("{\"x\": 1}")},
        {.id = STR_LIT("b"), .name = STR_LIT("g"), .arguments = STR_LIT("{}")},
    };
    static const struct chat_message messages[] = {
        {.role = STR_LIT("system"), .content = STR_LIT("Be brief.")},
        {.role = STR_LIT("user"), .content = STR_LIT("One?")},
        {.role = STR_LIT("assistant"), .content = STR_LIT("1"), .reasoning = STR_LIT("old")},
        {.role = STR_LIT("user"), .content = STR_LIT("Two <|call|>?")},
        {.role = STR_LIT("assistant"),
         .reasoning = STR_LIT("new"),
         .tool_calls = calls,
         .n_tool_calls = 2},
        {.role = STR_LIT("tool"), .content = STR_LIT("B"), .tool_call_id = STR_LIT("b")},
        {.role = STR_LIT("tool"), .content = STR_LIT("A"), .tool_call_id = STR_LIT("a")},
    };
    const struct chat_request request = {
        .messages = messages,
        .n_messages = sizeof messages / sizeof *messages,
        .tools = STR_LIT("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
                         "\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":{"
                         "\"type\":\"integer\"}},\"required\":[\"x\"]}}}]"),
        .add_generation_prompt = true,
        .now = &june,
    };
    struct chat_template *chat;
    struct jinja_output out = {0};
    struct error err = {0};
    assert_ok(chat_template_create(&source, &chat, &err), &err);
    assert_ok(chat_render(chat, &request, &out, &err), &err);
    assert_string_equal(
        out.text.data,
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: 2025-06-28\n\nReasoning: medium\n\n# Valid "
        "channels: analysis, commentary, final. Channel must be included for every message.\nCalls "
        "to these tools must go to the commentary channel: 'functions'.<|end|><|start|>developer"
        "<|message|># Instructions\n\nBe brief.\n\n# Tools\n\n## functions\n\nnamespace functions "
        "{\n\n// d\ntype f = (_: {\nx: number,\n}) => any;\n\n} // namespace functions<|end|>"
        "<|start|>user<|message|>One?<|end|><|start|>assistant<|channel|>final<|message|>1<|end|>"
        "<|start|>user<|message|>Two <|call|>?<|end|><|start|>assistant<|channel|>analysis"
        "<|message|>new<|end|><|start|>assistant to=functions.f<|channel|>commentary "
        "<|constrain|>json<|message|>{\"x\": 1}<|call|><|start|>assistant to=functions.g<|channel|>"
        "commentary <|constrain|>json<|message|>{}<|call|><|start|>functions.g to=assistant"
        "<|channel|>commentary<|message|>B<|end|><|start|>functions.f to=assistant<|channel|>"
        "commentary<|message|>A<|end|><|start|>assistant");
    /* What the user wrote is not the template's. */
    size_t at = str_find(buf_str(&out.text), STR_LIT("Two <|call|>"), 0);
    for (size_t i = 0; i < out.n_spans; i++) {
        if (out.spans[i].begin <= at && at < out.spans[i].end)
            assert_false(out.spans[i].trusted);
    }
    assert_string_equal(output_style_name(output_style_detect(chat_template_text(chat))),
                        "harmony");
    jinja_output_release(&out);
    chat_template_free(chat);
}

/* --- special ids --- */

/* GPT-4o's vocabulary with the harmony tokens behind it, and reserved ones between those. */
static struct tokenizer *harmony_tokenizer(const json_t *specials)
{
    enum { FIRST = 199998, LAST = 201088 };
    struct error err = {0};
    struct vocabulary vocabulary;
    json_t *root = load_json(shared_tokenizer("gpt4o"));
    json_t *added = json_array(), *taken = json_object();
    const char *name;
    json_t *id;
    json_object_foreach((json_t *)specials, name, id)
    {
        char key[16];
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(id));
        json_object_set_new(taken, key, json_string(name));
    }
    for (int i = FIRST; i <= LAST; i++) {
        char key[16], reserved[32];
        snprintf(key, sizeof key, "%d", i);
        snprintf(reserved, sizeof reserved, "<|reserved_%d|>", i);
        const char *known = json_string_value(json_object_get(taken, key));
        json_array_append_new(added,
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i, "content",
                                        known ? known : reserved, "special", 1, "lstrip", 0,
                                        "rstrip", 0, "single_word", 0, "normalized", 0));
    }
    json_object_set_new(root, "added_tokens", added);
    json_decref(taken);
    char *text = json_dumps(root, 0);
    json_decref(root);
    assert_ok(vocabulary_from_json_text(str_from(text), "harmony", NULL, &vocabulary, &err), &err);
    free(text);
    return finish_tokenizer(&vocabulary);
}

static void check_decoding(const struct tokenizer *tokenizer, const json_t *one)
{
    const json_t *ids = json_object_get(one, "decode");
    struct token_list list = {0};
    struct buf text = {0}, bytes = {0};
    struct error err = {0};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        token_list_add(&list, (int32_t)json_integer_value(json_array_get(ids, i)));
        buf_append_str(&bytes, tokenizer_piece(tokenizer, list.ids[i]));
    }
    enum status status = tokenizer_decode(tokenizer, list.ids, list.count, false, &text, &err);
    if (json_is_true(json_object_get(one, "error"))) {
        assert_int_equal(status, STATUS_USAGE);
        assert_non_null(strstr(err.message, "99999999"));
    } else if (json_is_true(json_object_get(one, "invalid_utf8"))) {
        /* The reference fails; here each broken sequence becomes U+FFFD. */
        assert_int_equal(status, STATUS_OK);
        assert_true(str_find(buf_str(&text), STR_LIT("\xef\xbf\xbd"), 0) != SIZE_MAX);
        assert_true(str_find(buf_str(&bytes), STR_LIT("\xef\xbf\xbd"), 0) == SIZE_MAX);
    } else {
        assert_int_equal(status, STATUS_OK);
        assert_true(str_eq(buf_str(&text), value_str(json_object_get(one, "text"))));
    }
    buf_release(&text);
    buf_release(&bytes);
    token_list_release(&list);
}

static void test_special_ids(void **state)
{
    (void)state;
    const char *path = fixture_shared("data/templates/harmony/cases.json");
    if (!path)
        skip();
    json_t *root = load_json(path);
    const json_t *cases = json_object_get(root, "tokenizer");
    struct tokenizer *tokenizer = harmony_tokenizer(json_object_get(root, "special_ids"));
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        if (json_object_get(one, "decode")) {
            check_decoding(tokenizer, one);
            continue;
        }
        bool special = json_is_true(json_object_get(one, "special"));
        assert_true(encodes_to(tokenizer, value_str(json_object_get(one, "text")),
                               special ? all_specials : no_specials, json_object_get(one, "ids"),
                               "harmony"));
    }
    printf("harmony tokenizer: %zu/%zu\n", json_array_size(cases), json_array_size(cases));
    assert_int_equal(json_array_size(cases), 6);
    tokenizer_free(tokenizer);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_render_chat),
        cmocka_unit_test(test_special_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
