/* The OpenAI dialect, reading: messages and tools. */
#include <stdio.h>
#include <stdlib.h>

#include "api/fields.h"
#include "api/openai.h"

#define TOOLS_MAX 1024

static bool out_of_memory(struct api_error *error)
{
    return api_fail(error, 503, "server_error", "out_of_memory", "out of memory for the request");
}

/* A content list: its texts, joined by line ends. */
static bool read_parts(struct api_call *call, const char *name, const json_t *parts,
                       const char **out, struct api_error *error)
{
    struct buf joined = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        char where[80];
        snprintf(where, sizeof where, "%s[%zu]", name, i);
        if (json_is_string(part))
            text = part;
        else if (!type)
            ok = api_refuse(error, where, "%s must be an object with a type", where);
        else if (strcmp(type, "text") != 0 && strcmp(type, "input_text") != 0 &&
                 strcmp(type, "output_text") != 0 && strcmp(type, "refusal") != 0)
            ok = api_refuse(error, where,
                            "%s is of type %.32s: only text is understood by this version", where,
                            type);
        const char *copy = NULL;
        if (ok && !(type && strcmp(type, "refusal") == 0))
            ok = text ? fields_text(call, where, text, &copy, error)
                      : api_refuse(error, where, "%s has no text", where);
        if (ok && copy) {
            if (joined.len)
                buf_append_char(&joined, '\n');
            buf_append_cstr(&joined, copy);
        }
    }
    if (ok) {
        *out = arena_copy_str(&call->arena, buf_str(&joined)).data;
        ok = (*out && !joined.failed) || out_of_memory(error);
    }
    buf_release(&joined);
    return ok;
}

static bool read_tool_call(struct api_call *call, const char *name, const json_t *value,
                           sluice_tool_call *out, struct api_error *error)
{
    const json_t *function = json_object_get(value, "function");
    const json_t *id = json_object_get(value, "id");
    const json_t *arguments = json_object_get(function, "arguments");
    if (!json_is_object(function))
        return api_refuse(error, name, "%s must be an object with a function", name);
    if (!fields_text(call, name, json_object_get(function, "name"), &out->name, error))
        return false;
    if (id && !json_is_null(id) && !fields_text(call, name, id, &out->id, error))
        return false;
    if (json_is_string(arguments))
        return fields_text(call, name, arguments, &out->arguments, error);
    if (!arguments || json_is_null(arguments)) {
        out->arguments = "{}";
        return true;
    }
    char *text = json_dumps(arguments, JSON_COMPACT | JSON_ENCODE_ANY);
    out->arguments = text ? arena_copy_cstr(&call->arena, text) : NULL;
    free(text);
    return out->arguments || out_of_memory(error);
}

static bool read_tool_calls(struct api_call *call, const char *name, const json_t *list,
                            sluice_message *message, struct api_error *error)
{
    if (!list || json_is_null(list))
        return true;
    if (!json_is_array(list) || json_array_size(list) > TOOLS_MAX)
        return api_refuse(error, name, "%s must be a list of at most %d calls", name, TOOLS_MAX);
    size_t n = json_array_size(list);
    sluice_tool_call *calls = arena_alloc(&call->arena, n + 1, sizeof *calls);
    if (!calls)
        return out_of_memory(error);
    for (size_t i = 0; i < n; i++) {
        char where[96];
        snprintf(where, sizeof where, "%s[%zu]", name, i);
        if (!read_tool_call(call, where, json_array_get(list, i), &calls[i], error))
            return false;
    }
    message->tool_calls = n ? calls : NULL;
    message->n_tool_calls = n;
    return true;
}

static bool read_role(struct api_call *call, const char *where, const json_t *value,
                      sluice_message *out, struct api_error *error)
{
    static const char *const roles[] = {"system", "user",      "assistant",
                                        "tool",   "developer", "function"};
    char name[80];
    snprintf(name, sizeof name, "%s.role", where);
    if (!fields_text(call, name, value, &out->role, error))
        return false;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(out->role, roles[i]) == 0) {
            out->role = i == 4 ? "system" : i == 5 ? "tool" : roles[i];
            return true;
        }
    return api_refuse(error, name,
                      "%s is '%.32s': it must be system, developer, user, assistant or tool", name,
                      out->role);
}

static bool read_optional(struct api_call *call, const char *where, const char *key,
                          const json_t *object, const char **out, struct api_error *error)
{
    const json_t *value = json_object_get(object, key);
    char name[96];
    snprintf(name, sizeof name, "%s.%s", where, key);
    return !value || json_is_null(value) || fields_text(call, name, value, out, error);
}

static bool read_message(struct api_call *call, size_t index, const json_t *value,
                         sluice_message *out, struct api_error *error)
{
    char where[48], name[80];
    snprintf(where, sizeof where, "messages[%zu]", index);
    if (!json_is_object(value))
        return api_refuse(error, where, "%s must be an object with role and content", where);
    if (!read_role(call, where, json_object_get(value, "role"), out, error))
        return false;
    snprintf(name, sizeof name, "%s.tool_calls", where);
    if (!read_tool_calls(call, name, json_object_get(value, "tool_calls"), out, error))
        return false;
    const json_t *content = json_object_get(value, "content");
    snprintf(name, sizeof name, "%s.content", where);
    if (json_is_array(content)) {
        if (!read_parts(call, name, content, &out->content, error))
            return false;
    } else if (content && !json_is_null(content)) {
        if (!fields_text(call, name, content, &out->content, error))
            return false;
    } else if (!out->n_tool_calls) {
        return api_refuse(error, name, "%s is missing: text is needed here", name);
    }
    return read_optional(call, where, "reasoning_content", value, &out->reasoning, error) &&
           (out->reasoning ||
            read_optional(call, where, "reasoning", value, &out->reasoning, error)) &&
           read_optional(call, where, "tool_call_id", value, &out->tool_call_id, error) &&
           read_optional(call, where, "name", value, &out->name, error);
}

bool openai_read_messages(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n == 0)
        return api_refuse(error, name, "messages must be a list of at least one message");
    if (n > API_MESSAGES_MAX)
        return api_refuse(error, name, "messages: %zu of them, at most %d are allowed", n,
                          API_MESSAGES_MAX);
    sluice_message *messages = arena_alloc(&call->arena, n, sizeof *messages);
    if (!messages)
        return out_of_memory(error);
    for (size_t i = 0; i < n; i++)
        if (!read_message(call, i, json_array_get(value, i), &messages[i], error))
            return false;
    call->options.messages = messages;
    call->options.n_messages = n;
    return true;
}

/* ---- tools ------------------------------------------------------------------------------------ */

bool openai_read_tools(struct api_call *call, const char *name, const json_t *value,
                       struct api_error *error)
{
    if (!json_is_array(value) || json_array_size(value) > TOOLS_MAX)
        return api_refuse(error, name, "tools must be a list of at most %d tools", TOOLS_MAX);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *tool = json_array_get(value, i);
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function");
        char where[48];
        snprintf(where, sizeof where, "tools[%zu]", i);
        if (!type || strcmp(type, "function") != 0 ||
            !json_is_string(json_object_get(function, "name")))
            return api_refuse(error, where,
                              "%s must be {\"type\": \"function\", \"function\": {\"name\": ...}}",
                              where);
        const json_t *parameters = json_object_get(function, "parameters");
        if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
            return api_refuse(error, where, "%s.function.parameters must be an object", where);
    }
    if (json_array_size(value) == 0)
        return true;
    char *text = json_dumps(value, JSON_COMPACT);
    call->options.tools = text ? arena_copy_cstr(&call->arena, text) : NULL;
    free(text);
    return call->options.tools || out_of_memory(error);
}

bool openai_read_tool_choice(struct api_call *call, const char *name, const json_t *value,
                             struct api_error *error)
{
    const char *text = json_string_value(value);
    if (text && strcmp(text, "auto") == 0)
        return true;
    if (text && strcmp(text, "none") == 0) {
        call->no_tools = true;
        return true;
    }
    if (json_is_object(value) || (text && strcmp(text, "required") == 0))
        return api_refuse(error, name,
                          "tool_choice: this version cannot force a model to call a tool; use "
                          "\"auto\" or \"none\"");
    return api_refuse(error, name,
                      "tool_choice must be \"none\", \"auto\", \"required\" or a tool");
}

bool openai_read_parallel(struct api_call *call, const char *name, const json_t *value,
                          struct api_error *error)
{
    if (!json_is_boolean(value))
        return api_refuse(error, name, "parallel_tool_calls must be true or false");
    call->one_tool_call = json_is_false(value);
    return true;
}
