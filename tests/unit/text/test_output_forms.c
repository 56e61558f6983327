/*
 * The forms in which the families write tool calls, each cut at every byte, and each with what is
 * nearly a call and so must come out as text. The signs are those of the families' own templates;
 * where the shared data has these, every template must be recognised as what it is.
 */
#include <stdio.h>

#include "output_events.h"

struct form {
    const char *sign; /* of the template */
    bool opens;
    const char *text, *expected;
};

static void check(const struct form *forms, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_events(forms[i].sign, forms[i].opens, forms[i].text, forms[i].expected);
}
#define CHECK(forms) check(forms, sizeof forms / sizeof *(forms))

static void test_cohere(void **state)
{
    (void)state;
    static const char a[] = "<|START_ACTION|>", r[] = "directly-answer ```json";
    static const struct form forms[] = {
        {a, false,
         "<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": "
         "\"0\", "
         "\"tool_name\": \"f\", \"parameters\": {\"a\": \"<|END_ACTION|>\"}},\n    "
         "{\"tool_call_id\": "
         "\"1\", \"tool_name\": \"g\", \"parameters\": {}}\n]<|END_ACTION|>",
         "R(I look.)T(f|{\"a\": \"<|END_ACTION|>\"})T(g|{})"},
        {a, false, "<|START_RESPONSE|>Yes.<|END_RESPONSE|>", "C(Yes.)"},
        {a, false, "<|START_TEXT|>Yes\n<|END_TEXT|>\n", "C(Yes)"},
        {a, true, "on<|END_THINKING|><|START_RESPONSE|>x", "R(on)C(x)"},
        {a, false, "<|START_ACTION|>[{\"tool\": 1}]<|END_ACTION|>",
         "C(<|START_ACTION|>[{\"tool\": 1}]<|END_ACTION|>)"},
        {r, false,
         "I search.\nAction:\n```json\n[\n    {\n        \"tool_name\": \"f\",\n        "
         "\"parameters\": {\"q\": \"```\"}\n    }\n]```",
         "C(I search.)T(f|{\"q\": \"```\"})"},
        {r, false, "Action: ```json\n[{\"tool_name\": \"f\", \"parameters\": {}}]\n```\n",
         "T(f|{})"},
        {r, false, "Action: none", "C(Action: none)"},
        {r, false, "Action: ```json\n[1]```.", "C(Action: ```json\n[1]```.)"},
    };
    CHECK(forms);
}

static void test_lfm2(void **state)
{
    (void)state;
    static const char l[] = "<|tool_list_start|>", t[] = "<think> <|tool_call_start|>";
    static const struct form forms[] = {
        {l, false, "<|tool_call_start|>[f(a=\"x\", b=1.50, c=[True, None])]<|tool_call_end|>ok",
         "T(f|{\"a\": \"x\", \"b\": 1.50, \"c\": [true, null]})C(ok)"},
        {l, false, "<|tool_call_start|>[a.b(), g(d={'k': (1, -2), \"m\": {}})]<|tool_call_end|>",
         "T(a.b|{})T(g|{\"d\": {\"k\": [1, -2], \"m\": {}}})"},
        {l, false, "<|tool_call_start|>f(a='say \"x\\n\\u00e9')<|tool_call_end|>",
         "T(f|{\"a\": \"say \\\"x\\n\xc3\xa9\"})"},
        {l, false,
         "<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]<|tool_call_end|>",
         "T(f|{\"a\": 1})"},
        {t, false, "<think>t</think><|tool_call_start|>[f(a=1)]<|tool_call_end|>",
         "R(t)T(f|{\"a\": 1})"},
        {l, false, "<|tool_call_start|>[f(1)]<|tool_call_end|>",
         "C(<|tool_call_start|>[f(1)]<|tool_call_end|>)"},
        {l, false, "<|tool_call_start|>[f(a=b)]<|tool_call_end|>",
         "C(<|tool_call_start|>[f(a=b)]<|tool_call_end|>)"},
        {l, false, "<|tool_call_start|>[f(a=1, a=2)]<|tool_call_end|>",
         "C(<|tool_call_start|>[f(a=1, a=2)]<|tool_call_end|>)"},
        {l, false, "<|tool_call_start|>[f(a=1)<|tool_call_end|>",
         "C(<|tool_call_start|>[f(a=1)<|tool_call_end|>)"},
        {l, false, "<|tool_call_start|>[f(a='\\ud800')]<|tool_call_end|>",
         "C(<|tool_call_start|>[f(a='\\ud800')]<|tool_call_end|>)"},
        {l, false, "<|tool_call_start|><|tool_call_end|>",
         "C(<|tool_call_start|><|tool_call_end|>)"},
    };
    CHECK(forms);
}

static void test_gemma(void **state)
{
    (void)state;
    static const char g[] = "<|tool_call>call:";
    static const struct form forms[] = {
        {g, false,
         "<|channel>thought\nhm\n<channel|><|tool_call>call:f{a:<|\"|>say \"x\", {y}<|\"|>,b:[1,"
         "true,{<|\"|>k<|\"|>:null}]}<tool_call|><|tool_call>call:g{}<tool_call|>",
         "R(hm)T(f|{\"a\": \"say \\\"x\\\", {y}\", \"b\": [1, true, {\"k\": null}]})T(g|{})"},
        {g, false, "<|channel>thought\n<channel|>Yes", "C(Yes)"},
        {g, false, "<|tool_call>call:f{a:<|\"|>x}<tool_call|>",
         "C(<|tool_call>call:f{a:<|\"|>x}<tool_call|>)"},
        {g, false, "<|tool_call>f{}<tool_call|>", "C(<|tool_call>f{}<tool_call|>)"},
    };
    CHECK(forms);
}

#define D "\xef\xbd\x9c"

static void test_invoke(void **state)
{
    (void)state;
    static const char m2[] = "<minimax:tool_call>", v32[] = D "DSML" D " function_calls>";
    static const char v4[] = D "DSML" D " tool_calls>", muse[] = "<atem:function_calls>";
    static const struct form forms[] = {
        {m2, true,
         "t\n</think>\n\n<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"a\">two "
         "words</parameter>\n<parameter name=\"b\">[1]</parameter>\n</invoke>\n<invoke name=\"g\">"
         "</invoke>\n</minimax:tool_call>",
         "R(t)T(f|{\"a\": \"two words\", \"b\": [1]})T(g|{})"},
        {m2, false, "<minimax:tool_call><invoke name=f></invoke></minimax:tool_call>",
         "C(<minimax:tool_call><invoke name=f></invoke></minimax:tool_call>)"},
        {v32, false,
         "<" D "DSML" D "function_calls>\n<" D "DSML" D "invoke name=\"f\">\n<" D "DSML" D
         "parameter name=\"a\" string=\"true\">12</" D "DSML" D "parameter>\n<" D "DSML" D
         "parameter name=\"b\" string=\"false\">{\"x\": 1}</" D "DSML" D "parameter>\n</" D "DSML" D
         "invoke>\n</" D "DSML" D "function_calls>",
         "T(f|{\"a\": \"12\", \"b\": {\"x\": 1}})"},
        {v4, false,
         "Ok\n\n<" D "DSML" D "tool_calls>\n<" D "DSML" D "invoke name=\"f\">\n</" D "DSML" D
         "invoke>\n</" D "DSML" D "tool_calls>",
         "C(Ok)T(f|{})"},
        {muse, false,
         " to=self<|message|>hm<|eom|><|start|>assistant to=f<|message|><atem:function_calls>\n"
         "<atem:invoke name=\"f\">\n<atem:parameter name=\"a\">x\n</atem:parameter>\n"
         "</atem:invoke>\n</atem:function_calls><|eot|>",
         "R(hm)T(f|{\"a\": \"x\"})"},
        {muse, false, " to=user<|message|>Hi.<|eot|>", "C(Hi.)"},
        {muse, false, " to=f<|message|>no call<|eot|>", "C(no call)"},
    };
    CHECK(forms);
}

#define NS "]<]minimax[>["

static void test_minimax_m3(void **state)
{
    (void)state;
    static const char sign[] = NS;
    static const struct form forms[] = {
        {sign, false,
         "<mm:think>t</mm:think>" NS "<tool_call>\n" NS "<invoke name=\"f\">" NS "<a>1" NS "</a>" NS
         "<list>" NS "<item>" NS "<k>x y" NS "</k>" NS "</item>" NS "<item>2" NS "</item>" NS
         "</list>" NS "<o>" NS "<p>" NS "</p>" NS "<q>true" NS "</q>" NS "</o>" NS "</invoke>\n" NS
         "<invoke name=\"g\">" NS "</invoke>\n" NS "</tool_call>",
         "R(t)T(f|{\"a\": 1, \"list\": [{\"k\": \"x y\"}, 2], \"o\": {\"p\": \"\", \"q\": true}})"
         "T(g|{})"},
        {sign, false,
         NS "<tool_call>" NS "<invoke name=\"f\">" NS "<a>1" NS "</b>" NS "</tool_call>",
         "C(" NS "<tool_call>" NS "<invoke name=\"f\">" NS "<a>1" NS "</b>" NS "</tool_call>)"},
    };
    CHECK(forms);
    /* As deep as it likes: refused, not followed. */
    struct buf text = {0};
    buf_append_cstr(&text, NS "<tool_call>" NS "<invoke name=\"f\">");
    for (int i = 0; i < 20000; i++)
        buf_append_cstr(&text, NS "<a>");
    buf_append_cstr(&text, NS "</tool_call>");
    struct recorded got;
    parse_in_pieces(output_style_detect(STR_LIT(NS)), false, buf_str(&text), 0, text.len, &got);
    assert_int_equal(got.text.len, text.len + 3);
    buf_release(&got.text);
    buf_release(&text);
}

static void test_functions(void **state)
{
    (void)state;
    static const char f31[] = "start_tag => `<function`", f32[] = ">>>${recipient}";
    static const char f25[] = "<|reserved_special_token_249|>";
    static const char m5[] = "<function name=\"function-name\">", fire[] = "functools[";
    static const struct form forms[] = {
        {f31, false, "Ok <function=f>{\"a\": 1}</function>", "C(Ok)T(f|{\"a\": 1})"},
        {f25, false,
         "Ok<|reserved_special_token_249|>f\n{\"a\": 1}<|reserved_special_token_249|>g\n{}",
         "C(Ok)T(f|{\"a\": 1})T(g|{})"},
        {f25, false, "<|reserved_special_token_249|>f", "C(<|reserved_special_token_249|>f)"},
        {f31, false, "<function=f>[]</function>", "C(<function=f>[]</function>)"},
        {f32, false, "all\nHello\nyou", "C(Hello\nyou)"},
        {f32, false, "all\nI look.>>>f\n{\"a\": 1}>>>g\n{}", "C(I look.)T(f|{\"a\": 1})T(g|{})"},
        {f32, false, "python\nprint(1)", "C(print(1))"},
        {f32, false, "no line", "C(no line)"},
        {m5, false,
         "<think>t</think><function name=\"f\"><param name=\"a\">1</param><param name=\"b\">"
         "<![CDATA[x</param>\ny]]></param></function>",
         "R(t)T(f|{\"a\": 1, \"b\": \"x</param>\\ny\"})"},
        {m5, false, "<function name=\"f\"><param>1</param></function>",
         "C(<function name=\"f\"><param>1</param></function>)"},
        {fire, false,
         " functools[{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}}, {\"name\": \"g\"}]",
         "T(f|{\"a\": \"]\"})T(g|{})"},
        {fire, false, "use functools.partial", "C(use functools.partial)"},
    };
    CHECK(forms);
}

static void test_lists(void **state)
{
    (void)state;
    static const char apertus[] = "<|tools_prefix|>", nemotron[] = "<TOOLCALL>";
    static const char steps[] = "[BEGIN FINAL RESPONSE] <tool_calls>", m1[] = "<tool_calls>";
    static const char giga[] = "<|function_call|>", giga3[] = "'function call' <|role_sep|>";
    static const char seed[] = "<seed:tool_call>";
    static const struct form forms[] = {
        {apertus, false,
         "<|inner_prefix|>hm<|inner_suffix|><|tools_prefix|>[{\"f\": {\"a\": 1.0}}, {\"g\": {}}]"
         "<|tools_suffix|>",
         "R(hm)T(f|{\"a\": 1.0})T(g|{})"},
        {apertus, false, "<|tools_prefix|>[{\"f\": 1}]<|tools_suffix|>",
         "C(<|tools_prefix|>[{\"f\": 1}]<|tools_suffix|>)"},
        {nemotron, true, "hm</think><TOOLCALL>[{\"name\": \"f\", \"arguments\": {}}]</TOOLCALL>",
         "R(hm)T(f|{})"},
        {steps, true,
         "1. Look.\n[BEGIN FINAL RESPONSE]\nYes.\n<tool_calls>[{\"name\": \"f\", \"arguments\": "
         "{}, "
         "\"id\": \"1\"}]</tool_calls>\n[END FINAL RESPONSE]",
         "R(1. Look.)C(Yes.)T(f|{})"},
        {m1, false,
         "<tool_calls>\n{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"g\", \"arguments\": "
         "{}}\n"
         "</tool_calls>",
         "T(f|{})T(g|{})"},
        {giga, false, "Ok<|function_call|>{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
         "C(Ok)T(f|{\"a\": 1})"},
        {giga3, false, "\nfunction call<|role_sep|>\n{\"name\": \"f\", \"arguments\": {}}",
         "T(f|{})"},
        {seed, false,
         "<seed:think>t</seed:think>\n<seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n"
         "</function>\n</seed:tool_call>",
         "R(t)T(f|{\"a\": 1})"},
    };
    CHECK(forms);
}

static void test_tokens(void **state)
{
    (void)state;
    static const char solar[] = "<|tool_call:begin|>", k3[] = "<|open|> <|sep|>";
    static const char hy[] = "<tool_calls{}> :opensource";
    static const struct form forms[] = {
        {solar, false,
         "<|think|>hm<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>x1<|tool_call:name|>"
         "f"
         "<|tool_call:args|>{\"a\": 1}<|tool_call:end|><|tool_call:begin|>x2<|tool_call:name|>g"
         "<|tool_call:args|>{}<|tool_call:end|><|calls|>",
         "R(hm)T(f|{\"a\": 1})T(g|{})"},
        {solar, false, "<|content|>Yes.<|end|>", "C(Yes.)"},
        {k3, true,
         "hm<|close|>think<|sep|><|open|>response<|sep|>Ok.<|close|>response<|sep|><|open|>tools"
         "<|sep|><|open|>call tool=\"f\" index=\"1\"<|sep|><|open|>argument key=\"a\" "
         "type=\"string\"<|sep|>12<|close|>argument<|sep|><|open|>argument key=\"b\" "
         "type=\"number\"<|sep|>12<|close|>argument<|sep|><|close|>call<|sep|><|open|>call "
         "tool=\"g\" index=\"2\"<|sep|><|open|>json type=\"object\"<|sep|>{\"c\": []}<|close|>json"
         "<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
         "R(hm)C(Ok.)T(f|{\"a\": \"12\", \"b\": 12})T(g|{\"c\": []})"},
        {hy, false,
         "<think:opensource>t</think:opensource><tool_calls:opensource>\n<tool_call:opensource>f"
         "<tool_sep:opensource>\n<arg_key:opensource>a</arg_key:opensource>\n<arg_value:opensource>"
         "x</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
         "R(t)T(f|{\"a\": \"x\"})"},
    };
    CHECK(forms);
    const struct output_style *style = output_style_detect(str_from(k3));
    assert_true(output_style_takes(style, STR_LIT("<|open|>")));
    assert_true(output_style_takes(style, STR_LIT("<|sep|>")));
    assert_false(output_style_takes(style, STR_LIT("<|end_of_msg|>")));
    style = output_style_detect(str_from(solar));
    assert_true(output_style_takes(style, STR_LIT("<|begin|>")));
    assert_true(output_style_takes(style, STR_LIT("<|tool_call:args|>")));
}

/* A header, or a call of a message, that is too long: the same whatever came at once. */
static void test_long_headers(void **state)
{
    (void)state;
    static const size_t lengths[] = {1000, 1024, 1025, 1040, 1041, 3000};
    const struct output_style *style = output_style_detect(STR_LIT("<|channel|><|message|>"));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct buf text = {0};
        for (size_t k = 0; k < lengths[i]; k++)
            buf_append_char(&text, 'x');
        buf_append_cstr(&text, "<|message|>Hi<|end|>");
        struct recorded whole, parts;
        parse_in_pieces(style, false, buf_str(&text), 0, text.len, &whole);
        parse_in_pieces(style, false, buf_str(&text), 0, 1, &parts);
        assert_string_equal(whole.text.data, parts.text.data);
        assert_int_equal(whole.text.len < 100, lengths[i] <= 1024);
        buf_release(&whole.text);
        buf_release(&parts.text);
        buf_release(&text);
    }
}

/* A parameter's name with a zero byte: JSON could say it, but readers refuse it as an object's key. */
static void test_zero_in_key(void **state)
{
    (void)state;
    static const char text[] = "<tool_call>f\n<arg_key>a\0b</arg_key>\n<arg_value>1</arg_value>\n"
                               "</tool_call>";
    const struct output_style *style = output_style_detect(STR_LIT("<think><tool_call><arg_key>"));
    struct str whole = {text, sizeof text - 1};
    for (size_t piece = 1; piece <= whole.len; piece++) {
        struct recorded r;
        parse_in_pieces(style, false, whole, 0, piece, &r);
        assert_int_equal(r.text.len, whole.len + strlen("C()"));
        assert_memory_equal(r.text.data + 2, text, whole.len);
        buf_release(&r.text);
    }
}

/* --- the templates of the shared data --- */

static void test_templates(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"Apertus-8B-Instruct", "apertus, think"},
        {"Apriel-1.6-15b-Thinker-fixed", "apriel, think"},
        {"Bielik-11B-v3.0-Instruct", "think, tool_call"},
        {"ByteDance-Seed-OSS", "seed, think"},
        {"Cohere2MoE", "command a, think"},
        {"CohereForAI-c4ai-command-r-plus-tool_use", "command r"},
        {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command a, think"},
        {"GLM-4.6", "glm, think"},
        {"GLM-4.7-Flash", "glm, think"},
        {"GigaChat3-10B-A1.8B", "gigachat 3"},
        {"GigaChat3.1-10B-A1.8B", "gigachat 3.1"},
        {"HuggingFaceTB-SmolLM3-3B", "think"},
        {"Kimi-K2-Instruct", "kimi"},
        {"Kimi-K2-Thinking", "kimi, think"},
        {"Kimi-K3", "kimi k3, think"},
        {"LFM2-8B-A1B", "lfm2"},
        {"LFM2.5-8B-A1B", "lfm2, think"},
        {"LFM2.5-Instruct", "lfm2, think"},
        {"MiMo-VL", "tool_call"},
        {"MiniMax-M1", "minimax m1, think"},
        {"MiniMax-M2", "minimax m2, think"},
        {"MiniMax-M3", "minimax m3, think"},
        {"Mistral-Small-3.2-24B-Instruct-2506", "mistral"},
        {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "think, tool_call"},
        {"NVIDIA-Nemotron-Nano-v2", "nemotron, think"},
        {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "tool_call"},
        {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "tool_call"},
        {"Qwen-QwQ-32B", "think, tool_call"},
        {"Qwen-Qwen2.5-7B-Instruct", "tool_call"},
        {"Qwen-Qwen3-0.6B", "think, tool_call"},
        {"Qwen3-Coder", "tool_call"},
        {"Qwen3.5-4B", "think, tool_call"},
        {"Reka-Edge", "think, tool_call"},
        {"StepFun3.5-Flash", "think, tool_call"},
        {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek, think"},
        {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek, think"},
        {"deepseek-ai-DeepSeek-V3.1", "deepseek, think"},
        {"deepseek-ai-DeepSeek-V3.2", "deepseek 3.2, think"},
        {"deepseek-ai-DeepSeek-V4", "deepseek 4, think"},
        {"deepseek-ai-DeepSeek-V4-Flash-0731", "deepseek 4, think"},
        {"fireworks-ai-llama-3-firefunction-v2", "firefunction"},
        {"google-gemma-2-2b-it", "plain"},
        {"google-gemma-4-31B-it", "gemma 4, think"},
        {"google-gemma-4-31B-it-interleaved", "gemma 4, think"},
        {"ibm-granite-granite-3.3-2B-Instruct", "granite"},
        {"ibm-granite-granite-4.0", "tool_call"},
        {"ibm-granite-granite-4.1", "tool_call"},
        {"llama-cpp-deepseek-r1", "deepseek, think"},
        {"llama-cpp-rwkv-world", "think"},
        {"meetkai-functionary-medium-v3.1", "functionary 3.1"},
        {"meetkai-functionary-medium-v3.2", "functionary 3.2"},
        {"meta-llama-Llama-3.1-8B-Instruct", "llama 3"},
        {"meta-llama-Llama-3.2-3B-Instruct", "llama 3"},
        {"meta-llama-Llama-3.3-70B-Instruct", "llama 3"},
        {"microsoft-Phi-3.5-mini-instruct", "plain"},
        {"mistralai-Ministral-3-14B-Reasoning-2512", "mistral, think"},
        {"mistralai-Mistral-Nemo-Instruct-2407", "mistral"},
        {"moonshotai-Kimi-K2", "kimi"},
        {"muse-glimmer", "muse"},
        {"openai-gpt-oss-120b", "harmony"},
        {"openbmb-MiniCPM5-1B", "minicpm 5, think"},
        {"poolside-Laguna-S-2.1", "glm, think"},
        {"poolside-Laguna-XS-2.1", "glm, think"},
        {"poolside-Laguna-XS.2", "glm, think"},
        {"tencent-Hy3", "hunyuan 3, think"},
        {"unsloth-Apriel-1.5", "apriel, think"},
        {"unsloth-mistral-Devstral-Small-2507", "mistral"},
        {"upstage-Solar-Open-100B", "solar, think"},
    };
    size_t n = sizeof rows / sizeof *rows, equal = 0;
    for (size_t i = 0; i < n; i++) {
        char path[128];
        snprintf(path, sizeof path, "data/templates/llama.cpp/%s.jinja", rows[i][0]);
        if (!fixture_shared(path))
            skip();
        struct buf text = fixture_read(fixture_shared(path));
        const char *name = output_style_name(output_style_detect(buf_str(&text)));
        if (strcmp(name, rows[i][1]) == 0)
            equal++;
        else
            print_error("%s: %s, not %s\n", rows[i][0], name, rows[i][1]);
        buf_release(&text);
    }
    printf("styles of templates: %zu/%zu\n", equal, n);
    assert_int_equal(equal, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cohere),       cmocka_unit_test(test_lfm2),
        cmocka_unit_test(test_gemma),        cmocka_unit_test(test_invoke),
        cmocka_unit_test(test_minimax_m3),   cmocka_unit_test(test_functions),
        cmocka_unit_test(test_lists),        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_long_headers), cmocka_unit_test(test_zero_in_key),
        cmocka_unit_test(test_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
