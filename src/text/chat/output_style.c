/* Styles and their detection. */
#include "text/chat/output_style.h"

#include <ctype.h>

#include "text/chat/output_parser.h"

#define THINK     "<think>", "</think>"
#define TOOL_CALL "<tool_call>", "</tool_call>", output_read_tool_call
#define DEEPSEEK                                                                                   \
    "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>",          \
        output_read_deepseek
#define KIMI "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", output_read_kimi

/* The first entry whose signs are all there. */
static const struct output_style styles[] = {
    {"harmony", {"<|channel|>", "<|message|>"}, NULL, NULL, NULL, NULL, NULL, false, true},
    {"deepseek, think",
     {"<think>", "<\uff5ctool\u2581calls\u2581begin\uff5c>"},
     THINK,
     DEEPSEEK,
     false,
     false},
    {"deepseek, think", {"</think>", "<\uff5ctool\u2581sep\uff5c>"}, THINK, DEEPSEEK, false, false},
    {"deepseek", {"<\uff5ctool\u2581calls\u2581begin\uff5c>"}, NULL, NULL, DEEPSEEK, false, false},
    {"kimi, think", {"<think>", "<|tool_calls_section_begin|>"}, THINK, KIMI, false, false},
    {"kimi", {"<|tool_calls_section_begin|>"}, NULL, NULL, KIMI, false, false},
    {"mistral, think",
     {"[TOOL_CALLS]", "[THINK]"},
     "[THINK]",
     "[/THINK]",
     "[TOOL_CALLS]",
     NULL,
     output_read_mistral,
     false,
     false},
    {"mistral",
     {"[TOOL_CALLS]"},
     NULL,
     NULL,
     "[TOOL_CALLS]",
     NULL,
     output_read_mistral,
     false,
     false},
    {"glm, think",
     {"<think>", "<tool_call>", "<arg_key>"},
     THINK,
     "<tool_call>",
     "</tool_call>",
     output_read_glm,
     false,
     false},
    {"think, tool_call", {"<think>", "<tool_call>"}, THINK, TOOL_CALL, false, false},
    {"tool_call", {"<tool_call>"}, NULL, NULL, TOOL_CALL, false, false},
    {"granite",
     {"<|tool_call|>"},
     NULL,
     NULL,
     "<|tool_call|>",
     NULL,
     output_read_json,
     false,
     false},
    {"llama 3",
     {"\"name\": function name, \"parameters\""},
     NULL,
     NULL,
     "<|python_tag|>",
     NULL,
     output_read_json,
     true,
     false},
    {"think", {"<think>"}, THINK, NULL, NULL, NULL, false, false},
    {"plain", {0}, NULL, NULL, NULL, NULL, NULL, false, false},
};

const struct output_style *output_style_detect(struct str template_text)
{
    for (size_t i = 0;; i++) {
        bool all = true;
        for (size_t k = 0; k < 3 && styles[i].signs[k]; k++)
            all = all && str_find(template_text, str_from(styles[i].signs[k]), 0) != SIZE_MAX;
        if (all)
            return &styles[i];
    }
}

const char *output_style_name(const struct output_style *style)
{
    return style->name;
}

bool output_style_opens_reasoning(const struct output_style *style, struct str prompt)
{
    while (prompt.len && isspace((unsigned char)prompt.data[prompt.len - 1]))
        prompt.len--;
    if (style->harmony)
        return str_ends(prompt, STR_LIT("<|channel|>analysis<|message|>"));
    return style->think_open && str_ends(prompt, str_from(style->think_open));
}

bool output_style_takes(const struct output_style *style, struct str control)
{
    static const char *const harmony[] = {"<|start|>",   "<|end|>",  "<|message|>",
                                          "<|channel|>", "<|call|>", "<|constrain|>",
                                          "<|return|>"};
    static const char *const inner[] = {"[ARGS]",
                                        "[CALL_ID]",
                                        "<|tool_call_begin|>",
                                        "<|tool_call_argument_begin|>",
                                        "<|tool_call_end|>",
                                        "<\uff5ctool\u2581call\u2581begin\uff5c>",
                                        "<\uff5ctool\u2581call\u2581end\uff5c>",
                                        "<\uff5ctool\u2581sep\uff5c>"};
    const char *const own[] = {style->think_open, style->think_close, style->call_open,
                               style->call_close};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (own[i] && str_eq_cstr(control, own[i]))
            return true;
    }
    for (size_t i = 0; style->harmony && i < sizeof harmony / sizeof *harmony; i++) {
        if (str_eq_cstr(control, harmony[i]))
            return true;
    }
    for (size_t i = 0; style->call_open && i < sizeof inner / sizeof *inner; i++) {
        if (str_eq_cstr(control, inner[i]))
            return true;
    }
    return false;
}
