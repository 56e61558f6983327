/*
 * Styles and their detection.
 *
 * A model is known by its chat template: an entry's signs are pieces of the template's text, and the first
 * entry whose signs are all in it is taken. So an entry with more signs stands before one whose signs are
 * among them ("kimi, think" before "kimi"), and what many templates mention comes last. A new model
 * needs an entry here, and a reader of calls (output_forms.h) if it writes them like none before; control
 * tokens that stand inside its calls go into output_style_takes().
 */
#include "text/chat/output_style.h"

#include <ctype.h>

#include "text/chat/output_parser.h"

#define THINK                    .think_open = "<think>", .think_close = "</think>"
#define REASONING(open, close)   .think_open = (open), .think_close = (close)
#define CALLS(open, close, read) .call_open = (open), .call_close = (close), .read_call = (read)
#define TOOL_CALL                CALLS("<tool_call>", "</tool_call>", output_read_tool_call)
#define DEEPSEEK                                                                                   \
    CALLS("<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>",    \
          output_read_deepseek)
#define DSML(block)                                                                                \
    CALLS("<\uff5cDSML\uff5c" block ">", "</\uff5cDSML\uff5c" block ">", output_read_dsml)
#define KIMI CALLS("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", output_read_kimi)
#define LFM2 CALLS("<|tool_call_start|>", "<|tool_call_end|>", output_read_python)

static const struct output_messages harmony = {
    .header_end = "<|message|>",
    .ends = {"<|end|>", "<|call|>", "<|return|>", "<|start|>"},
};
static const struct output_messages muse = {
    .header_end = "<|message|>",
    .ends = {"<|eom|>", "<|eot|>", "<|start|>"},
};
static const struct output_messages functionary = {
    .header_end = "\n",
    .ends = {">>>"},
    .named = true,
};

/* The first entry whose signs are all there. */
static const struct output_style styles[] = {
    {"muse", {"<atem:function_calls>"}, .messages = &muse, .read_call = output_read_atem},
    {"harmony", {"<|channel|>", "<|message|>"}, .messages = &harmony},
    {"functionary 2.5",
     {"<|reserved_special_token_249|>"},
     CALLS("<|reserved_special_token_249|>", NULL, output_read_name_line)},
    {"functionary 3.2", {">>>${recipient}"}, .messages = &functionary},
    {"functionary 3.1",
     {"start_tag => `<function`"},
     CALLS("<function=", "</function>", output_read_function_json)},
    {"deepseek 3.2, think", {"\uff5cDSML\uff5c", "function_calls>"}, THINK, DSML("function_calls")},
    {"deepseek 4, think", {"\uff5cDSML\uff5c", "tool_calls>"}, THINK, DSML("tool_calls")},
    {"deepseek, think", {"<think>", "<\uff5ctool\u2581calls\u2581begin\uff5c>"}, THINK, DEEPSEEK},
    {"deepseek, think", {"</think>", "<\uff5ctool\u2581sep\uff5c>"}, THINK, DEEPSEEK},
    {"deepseek", {"<\uff5ctool\u2581calls\u2581begin\uff5c>"}, DEEPSEEK},
    {"kimi k3, think",
     {"<|open|>", "<|sep|>"},
     REASONING("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
     CALLS("<|open|>tools<|sep|>", "<|close|>tools<|sep|>", output_read_kimi_k3),
     .no_strings = true,
     .drops = {"<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"}},
    {"kimi, think", {"<think>", "<|tool_calls_section_begin|>"}, THINK, KIMI},
    {"kimi", {"<|tool_calls_section_begin|>"}, KIMI},
    {"mistral, think",
     {"[TOOL_CALLS]", "[THINK]"},
     REASONING("[THINK]", "[/THINK]"),
     CALLS("[TOOL_CALLS]", NULL, output_read_mistral)},
    {"mistral", {"[TOOL_CALLS]"}, CALLS("[TOOL_CALLS]", NULL, output_read_mistral)},
    {"minimax m3, think",
     {"]<]minimax[>["},
     REASONING("<mm:think>", "</mm:think>"),
     CALLS("]<]minimax[>[<tool_call>", "]<]minimax[>[</tool_call>", output_read_minimax_m3)},
    {"minimax m2, think",
     {"<minimax:tool_call>"},
     THINK,
     CALLS("<minimax:tool_call>", "</minimax:tool_call>", output_read_invoke)},
    {"seed, think",
     {"<seed:tool_call>"},
     REASONING("<seed:think>", "</seed:think>"),
     CALLS("<seed:tool_call>", "</seed:tool_call>", output_read_tool_call)},
    {"nemotron, think",
     {"<TOOLCALL>"},
     THINK,
     CALLS("<TOOLCALL>", "</TOOLCALL>", output_read_json)},
    {"command a, think",
     {"<|START_ACTION|>"},
     REASONING("<|START_THINKING|>", "<|END_THINKING|>"),
     CALLS("<|START_ACTION|>", "<|END_ACTION|>", output_read_json),
     .drops = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}},
    {"command r",
     {"directly-answer", "```json"},
     CALLS("Action:\n```json", "```", output_read_json),
     .call_open_other = "Action: ```json"},
    {"apertus, think",
     {"<|tools_prefix|>"},
     REASONING("<|inner_prefix|>", "<|inner_suffix|>"),
     CALLS("<|tools_prefix|>", "<|tools_suffix|>", output_read_keyed)},
    {"apriel, think",
     {"[BEGIN FINAL RESPONSE]", "<tool_calls>"},
     REASONING("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
     CALLS("<tool_calls>", "</tool_calls>", output_read_json),
     .drops = {"[END FINAL RESPONSE]"}},
    {"minimax m1, think",
     {"<tool_calls>"},
     THINK,
     CALLS("<tool_calls>", "</tool_calls>", output_read_json)},
    {"hunyuan 3, think",
     {"<tool_calls{}>", ":opensource"},
     REASONING("<think:opensource>", "</think:opensource>"),
     CALLS("<tool_calls:opensource>", "</tool_calls:opensource>", output_read_hunyuan)},
    {"solar, think",
     {"<|tool_call:begin|>"},
     REASONING("<|think|>", "<|end|>"),
     CALLS("<|tool_calls|>", NULL, output_read_solar),
     .drops = {"<|begin|>assistant", "<|content|>", "<|end|>"}},
    {"gigachat 3.1", {"<|function_call|>"}, CALLS("<|function_call|>", NULL, output_read_json)},
    {"gigachat 3",
     {"'function call'", "<|role_sep|>"},
     CALLS("function call<|role_sep|>", NULL, output_read_json)},
    {"gemma 4, think",
     {"<|tool_call>call:"},
     REASONING("<|channel>thought", "<channel|>"),
     CALLS("<|tool_call>", "<tool_call|>", output_read_gemma),
     .no_strings = true},
    {"minicpm 5, think",
     {"<function name=\"function-name\">"},
     THINK,
     CALLS("<function name=", "</function>", output_read_function_tag)},
    {"lfm2, think", {"<think>", "<|tool_call_start|>"}, THINK, LFM2, .no_strings = true},
    {"lfm2, think", {"</think>", "List of tools: ["}, THINK, LFM2, .no_strings = true},
    {"lfm2", {"<|tool_list_start|>"}, LFM2, .no_strings = true},
    {"firefunction", {"functools["}, CALLS("functools[", NULL, output_read_functools)},
    {"glm, think",
     {"<think>", "<tool_call>", "<arg_key>"},
     THINK,
     CALLS("<tool_call>", "</tool_call>", output_read_glm)},
    {"think, tool_call", {"<think>", "<tool_call>"}, THINK, TOOL_CALL},
    {"tool_call", {"<tool_call>"}, TOOL_CALL},
    {"granite", {"<|tool_call|>"}, CALLS("<|tool_call|>", NULL, output_read_json)},
    {"llama 3",
     {"\"name\": function name, \"parameters\""},
     CALLS("<|python_tag|>", NULL, output_read_json),
     .bare_calls = true},
    {"think", {"<think>"}, THINK},
    {.name = "plain"},
};

const struct output_style *output_style_detect(struct str template_text)
{
    for (size_t i = 0;; i++) {
        bool all = true;
        for (size_t k = 0; k < OUTPUT_SIGNS_MAX && styles[i].signs[k]; k++)
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
    if (style->messages == &harmony)
        return str_ends(prompt, STR_LIT("<|channel|>analysis<|message|>"));
    return style->think_open && str_ends(prompt, str_from(style->think_open));
}

/* Whether the control token stands in a marker: some are made of several, with words between. */
static bool is_part(struct str control, const char *marker)
{
    return marker && str_find(str_from(marker), control, 0) != SIZE_MAX;
}

bool output_style_takes(const struct output_style *style, struct str control)
{
    static const char *const headers[] = {"<|channel|>", "<|constrain|>"};
    /* In calls. */
    static const char *const inner[] = {"[ARGS]",
                                        "[CALL_ID]",
                                        "<|tool_call_begin|>",
                                        "<|tool_call_argument_begin|>",
                                        "<|tool_call_end|>",
                                        "<\uff5ctool\u2581call\u2581begin\uff5c>",
                                        "<\uff5ctool\u2581call\u2581end\uff5c>",
                                        "<\uff5ctool\u2581sep\uff5c>",
                                        "\uff5cDSML\uff5c",
                                        "<|tool_call:begin|>",
                                        "<|tool_call:name|>",
                                        "<|tool_call:args|>",
                                        "<|tool_call:end|>",
                                        "<|\"|>",
                                        "]<]minimax[>[",
                                        "<tool_call:opensource>",
                                        "</tool_call:opensource>",
                                        "<tool_sep:opensource>",
                                        "<arg_key:opensource>",
                                        "</arg_key:opensource>",
                                        "<arg_value:opensource>",
                                        "</arg_value:opensource>"};
    const char *const own[] = {style->think_open, style->think_close, style->call_open,
                               style->call_close, style->call_open_other};
    if (!control.len)
        return false;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (is_part(control, own[i]))
            return true;
    }
    for (size_t i = 0; i < OUTPUT_DROPS_MAX && style->drops[i]; i++) {
        if (is_part(control, style->drops[i]))
            return true;
    }
    if (style->messages) {
        const struct output_messages *m = style->messages;
        bool taken = str_eq_cstr(control, m->header_end);
        for (size_t i = 0; m->ends[i]; i++)
            taken |= str_eq_cstr(control, m->ends[i]);
        for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
            taken |= m == &harmony && str_eq_cstr(control, headers[i]);
        return taken;
    }
    for (size_t i = 0; style->call_open && i < sizeof inner / sizeof *inner; i++) {
        if (str_eq_cstr(control, inner[i]))
            return true;
    }
    return false;
}
