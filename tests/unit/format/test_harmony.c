/*
 * OpenAI's harmony cases: completions, some as ids of GPT-4o's vocabulary with the harmony tokens
 * behind it, against the messages that the reference parser makes of them.
 *
 * Our parser gives events, so the expected messages are told as events: analysis is reasoning, a
 * recipient makes a call, everything else is text; messages of one kind are lines of one text.
 */
#include <stdio.h>
#include <stdlib.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
