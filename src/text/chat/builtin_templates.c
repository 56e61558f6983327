/*
 * The harmony format of gpt-oss as a chat template, for files that come without one, and for
 * conversations that the model's own template refuses: several calls in a message, calls that are
 * told apart by id, thoughts beside an answer.
 *
 * Besides what every template is given it reads model_identity, knowledge_cutoff, reasoning_effort
 * and auto_drop_analysis (false: thoughts of earlier turns stay). A system message that has a
 * model_identity is taken as it is; else the first system or developer message holds instructions.
 * Messages may also be in the format's own words: channel, recipient, content_type.
 *
 * The texts that the model was trained on are the format's; the browser and the Python tool, which
 * nobody runs here, are left to the model's own template.
 */
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"

/* clang-format off */
static const char harmony[] =
    "{%- macro comment(text) -%}\n"
    "{%- for line in text.split('\\n') -%}{{- '// ' ~ line ~ '\\n' -}}{%- endfor -%}\n"
    "{%- endmacro -%}\n"

    "{%- macro scalar(schema) -%}\n"
    "{%- set kind = schema.type -%}\n"
    "{%- if schema.enum -%}\n"
    "{%- for one in schema.enum -%}{{- ' | ' if not loop.first -}}{{- one|tojson -}}{%- endfor -%}\n"
    "{%- elif kind is not string and kind is iterable and kind is not mapping -%}\n"
    "{%- for one in kind -%}{{- ' | ' if not loop.first -}}{{- scalar({'type': one}) -}}{%- endfor -%}\n"
    "{%- elif kind == 'array' -%}\n"
    "{{- scalar(schema['items']) ~ '[]' if schema['items'] else 'Array<any>' -}}\n"
    "{%- elif kind == 'object' -%}\n"
    "{{- object(schema) if schema.properties else 'object' -}}\n"
    "{%- elif kind == 'integer' -%}\n"
    "{{- 'number' -}}\n"
    "{%- else -%}\n"
    "{{- kind or 'any' -}}\n"
    "{%- endif -%}\n"
    "{{- ' | null' if schema.nullable -}}\n"
    "{%- endmacro -%}\n"

    "{%- macro object(schema) -%}\n"
    "{{- '{\\n' -}}\n"
    "{%- for name, field in (schema.properties or {}).items() -%}\n"
    "{%- set choices = field.oneOf or field.anyOf -%}\n"
    "{{- comment(field.title) ~ '//\\n' if field.title -}}\n"
    "{{- comment(field.description) if field.description -}}\n"
    "{%- if field.examples -%}\n"
    "{{- '// Examples:\\n' -}}\n"
    "{%- for one in field.examples -%}{{- '// - ' ~ one|tojson ~ '\\n' -}}{%- endfor -%}\n"
    "{%- endif -%}\n"
    "{{- '// default: ' ~ field.default|tojson ~ '\\n' if choices and field.default is defined -}}\n"
    "{{- name ~ ('' if name in (schema.required or []) else '?') ~ ':' -}}\n"
    "{%- if choices -%}\n"
    "{{- '\\n' -}}\n"
    "{%- for one in choices -%}\n"
    "{{- ' | ' ~ scalar(one) -}}\n"
    "{{- ' // ' ~ one.description if one.description -}}\n"
    "{{- ' // default: ' ~ one.default|tojson if one.default is defined -}}\n"
    "{{- '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{{- ',\\n' -}}\n"
    "{%- else -%}\n"
    "{{- ' ' ~ scalar(field) ~ ',' -}}\n"
    "{%- if field.default is defined -%}\n"
    "{{- ' // default: ' ~ (field.default if field.enum else field.default|tojson) -}}\n"
    "{%- endif -%}\n"
    "{{- '\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{{- '}' -}}\n"
    "{%- endmacro -%}\n"

    "{%- macro functions(list) -%}\n"
    "{{- '# Tools\\n\\n## functions\\n\\nnamespace functions {\\n\\n' -}}\n"
    "{%- for tool in list -%}\n"
    "{%- set f = tool.function or tool -%}\n"
    "{{- comment(f.description) if f.description -}}\n"
    "{{- 'type ' ~ f.name ~ ' = ' -}}\n"
    "{%- if f.parameters and f.parameters.properties -%}\n"
    "{{- '(_: ' -}}\n"
    "{{- comment(f.parameters.description) if f.parameters.description -}}\n"
    "{{- object(f.parameters) ~ ') => any;\\n\\n' -}}\n"
    "{%- else -%}\n"
    "{{- '() => any;\\n\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{{- '} // namespace functions' -}}\n"
    "{%- endmacro -%}\n"

    "{%- macro system(of, callable) -%}\n"
    "{%- set date = of.conversation_start_date -%}\n"
    "{{- '<|start|>system<|message|>' ~ of.model_identity ~ '\\nKnowledge cutoff: ' ~ of.knowledge_cutoff -}}\n"
    "{{- '\\nCurrent date: ' ~ date if date -}}\n"
    "{{- '\\n\\nReasoning: ' ~ of.reasoning_effort ~ '\\n\\n# Valid channels: ' ~ of.channels|join(', ') -}}\n"
    "{{- '. Channel must be included for every message.' -}}\n"
    "{{- '\\nCalls to these tools must go to the commentary channel: \\'functions\\'.' if callable -}}\n"
    "{{- '<|end|>' -}}\n"
    "{%- endmacro -%}\n"

    "{%- macro developer(instructions, callable) -%}\n"
    "{%- if instructions or callable -%}\n"
    "{{- '<|start|>developer<|message|>' -}}\n"
    "{{- '# Instructions\\n\\n' ~ instructions if instructions -}}\n"
    "{{- '\\n\\n' if instructions and callable -}}\n"
    "{{- functions(callable) if callable -}}\n"
    "{{- '<|end|>' -}}\n"
    "{%- endif -%}\n"
    "{%- endmacro -%}\n"

    "{%- macro said(channel, text, end) -%}\n"
    "{{- '<|start|>assistant<|channel|>' ~ channel ~ '<|message|>' ~ text ~ end -}}\n"
    "{%- endmacro -%}\n"

    "{%- macro written(message) -%}\n"
    "{{- '<|start|>' ~ (message.name or message.role) -}}\n"
    "{{- ' to=' ~ message.recipient if message.recipient -}}\n"
    "{{- '<|channel|>' ~ message.channel if message.channel -}}\n"
    "{{- ' ' ~ message.content_type if message.content_type -}}\n"
    "{{- '<|message|>' ~ message.content -}}\n"
    "{{- '<|call|>' if message.recipient and message.role == 'assistant' else '<|end|>' -}}\n"
    "{%- endmacro -%}\n"

    "{%- set ns = namespace(calls={}, last_call='', turn=-1, final=-1, tools=tools or [], own=false) -%}\n"
    "{%- for message in messages -%}\n"
    "{%- if message.role == 'user' -%}{%- set ns.turn = loop.index0 -%}{%- endif -%}\n"
    "{%- if message.model_identity -%}{%- set ns.own = true -%}{%- endif -%}\n"
    "{%- if message.role == 'developer' and message.tools -%}\n"
    "{%- set ns.tools = message.tools -%}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{#- What was thought before an answer that the user has replied to is not shown again. -#}\n"
    "{%- for message in messages -%}\n"
    "{%- if message.role == 'assistant' and not message.tool_calls and message.channel in [none, undefined, 'final'] and loop.index0 < ns.turn -%}\n"
    "{%- set ns.final = loop.index0 -%}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if auto_drop_analysis is defined and not auto_drop_analysis -%}{%- set ns.final = -1 -%}{%- endif -%}\n"

    "{%- if not ns.own and implicit_system is not defined -%}\n"
    "{{- system({\n"
    "    'model_identity': model_identity or 'You are ChatGPT, a large language model trained by OpenAI.',\n"
    "    'knowledge_cutoff': knowledge_cutoff or '2024-06',\n"
    "    'conversation_start_date': strftime_now('%Y-%m-%d'),\n"
    "    'reasoning_effort': reasoning_effort or 'medium',\n"
    "    'channels': ['analysis', 'commentary', 'final']}, ns.tools) -}}\n"
    "{%- set first = messages[0] if messages else {} -%}\n"
    "{%- if first.role in ['system', 'developer'] -%}\n"
    "{{- developer(first.content, ns.tools) -}}\n"
    "{%- set messages = messages[1:] -%}\n"
    "{%- set ns.final = ns.final - 1 -%}\n"
    "{%- else -%}\n"
    "{{- developer('', ns.tools) -}}\n"
    "{%- endif -%}\n"
    "{%- endif -%}\n"

    "{%- for message in messages -%}\n"
    "{%- if message.model_identity -%}\n"
    "{{- system(message, ns.tools) -}}\n"
    "{%- elif message.role in ['system', 'developer'] -%}\n"
    "{{- developer(message.instructions or message.content, message.tools) -}}\n"
    "{%- elif message.role == 'assistant' and (message.reasoning_content or message.tool_calls) -%}\n"
    "{%- if message.reasoning_content and loop.index0 > ns.final -%}\n"
    "{{- said('analysis', message.reasoning_content, '<|end|>') -}}\n"
    "{%- endif -%}\n"
    "{%- if message.content -%}\n"
    "{{- said('commentary' if message.tool_calls else 'final', message.content, '<|end|>') -}}\n"
    "{%- endif -%}\n"
    "{%- for call in message.tool_calls or [] -%}\n"
    "{%- set f = call.function or call -%}\n"
    "{%- set ns.last_call = f.name -%}\n"
    "{%- if call.id -%}{%- set ns.calls = dict(ns.calls, **{call.id: f.name}) -%}{%- endif -%}\n"
    "{{- '<|start|>assistant to=functions.' ~ f.name ~ '<|channel|>commentary <|constrain|>json<|message|>' -}}\n"
    "{{- (f.arguments if f.arguments is string else f.arguments|tojson) ~ '<|call|>' -}}\n"
    "{%- endfor -%}\n"
    "{%- elif message.role == 'tool' and not message.channel and (message.tool_call_id or not message.name) -%}\n"
    "{%- set name = message.name or ns.calls.get(message.tool_call_id, ns.last_call) -%}\n"
    "{{- '<|start|>functions.' ~ name ~ ' to=assistant<|channel|>commentary<|message|>' ~ message.content ~ '<|end|>' -}}\n"
    "{%- elif message.channel == 'analysis' and loop.index0 < ns.final -%}\n"
    "{%- elif message.role == 'assistant' and not message.channel -%}\n"
    "{{- said('final', message.content, '<|end|>') -}}\n"
    "{%- else -%}\n"
    "{{- written(message) -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|start|>assistant' -}}\n"
    "{%- endif -%}\n";
/* clang-format on */

struct str chat_template_builtin(struct str name)
{
    return str_eq_cstr(name, "harmony") ? STR_LIT(harmony) : (struct str){0};
}

static struct str token_text(const struct tokenizer *tokenizer, int32_t id)
{
    return id == VOCABULARY_NONE ? (struct str){NULL, 0} : tokenizer_piece(tokenizer, id);
}

void chat_template_source_complete(struct chat_template_source *source,
                                   const struct tokenizer *tokenizer)
{
    static const char *const tokens[] = {"<|start|>", "<|channel|>", "<|message|>"};
    source->bos_token = token_text(tokenizer, tokenizer_bos(tokenizer));
    source->eos_token = token_text(tokenizer, tokenizer_eos(tokenizer));
    source->unk_token = token_text(tokenizer, tokenizer_unk(tokenizer));
    source->pad_token = token_text(tokenizer, tokenizer_pad(tokenizer));
    bool speaks_harmony = source->text.len == 0;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        int32_t id = tokenizer_find(tokenizer, str_from(tokens[i]));
        speaks_harmony &= id != VOCABULARY_NONE && tokenizer_is_control(tokenizer, id);
    }
    if (speaks_harmony)
        source->text = STR_LIT(harmony);
}
