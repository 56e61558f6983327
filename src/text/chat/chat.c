/*
 * From plain structs to the variables that templates of the Hugging Face kind expect.
 *
 * The context goes through JSON values, because that is what such templates were written for: what
 * a request says in JSON and what we build here look the same to them. Three habits of templates
 * are recognised from their text: under which name they read a turn's reasoning, which variable
 * turns thinking on, and whether they know content that is a list of parts.
 */
#include "text/chat/chat.h"

#include <stdlib.h>

#include "base/arena.h"
#include "base/json.h"

#define CHAT_JSON_DEPTH 64
/* Some templates look through the conversation at every turn, so long ones get more fuel. */
#define FUEL_LEAST       3000000u
#define FUEL_PER_MESSAGE 4000u
#define FUEL_MOST        30000000u

struct chat_template {
    struct arena arena; /* texts */
    struct jinja_template *jinja;
    struct str text;
    struct str bos_token, eos_token, unk_token, pad_token;
    const char *reasoning_key;     /* of a message */
    const char *thinking_variable; /* enable_thinking or thinking */
    bool reads_parts;
};

static bool mentions(struct str text, const char *word)
{
    return str_find(text, str_from(word), 0) != SIZE_MAX;
}

static bool mentions_member(struct str text, const char *dot, const char *single, const char *twice)
{
    return mentions(text, dot) || mentions(text, single) || mentions(text, twice);
}

static void recognise(struct chat_template *chat)
{
    struct str text = chat->text;
    chat->reasoning_key = "reasoning_content";
    if (!mentions(text, "reasoning_content")) {
        if (mentions_member(text, ".thinking", "'thinking'", "\"thinking\""))
            chat->reasoning_key = "thinking";
        else if (mentions_member(text, ".reasoning ", "'reasoning'", "\"reasoning\""))
            chat->reasoning_key = "reasoning";
    }
    bool other = !mentions(text, "enable_thinking") && mentions(text, "thinking");
    chat->thinking_variable = other ? "thinking" : "enable_thinking";
    chat->reads_parts = mentions(text, "is string") || mentions(text, "is not string") ||
                        mentions(text, "is iterable") || mentions(text, "is sequence") ||
                        mentions(text, "is mapping") ||
                        mentions_member(text, ".text", "'text'", "\"text\"");
}

static bool keep(struct chat_template *chat, struct str text, struct str *out)
{
    if (text.data)
        *out = arena_copy_str(&chat->arena, text);
    return !text.data || out->data;
}

enum status chat_template_create(const struct chat_template_source *source,
                                 struct chat_template **out, struct error *err)
{
    *out = NULL;
    struct chat_template *chat = calloc(1, sizeof *chat);
    if (!chat || !keep(chat, source->text, &chat->text) ||
        !keep(chat, source->bos_token, &chat->bos_token) ||
        !keep(chat, source->eos_token, &chat->eos_token) ||
        !keep(chat, source->unk_token, &chat->unk_token) ||
        !keep(chat, source->pad_token, &chat->pad_token)) {
        chat_template_free(chat);
        return error_set(err, STATUS_MEMORY, "out of memory for a chat template");
    }
    enum status status = jinja_compile(chat->text, NULL, &chat->jinja, err);
    if (status != STATUS_OK) {
        chat_template_free(chat);
        return status;
    }
    recognise(chat);
    *out = chat;
    return STATUS_OK;
}

void chat_template_free(struct chat_template *chat)
{
    if (!chat)
        return;
    jinja_template_free(chat->jinja);
    arena_release(&chat->arena);
    free(chat);
}

struct str chat_template_text(const struct chat_template *chat)
{
    return chat->text;
}

/* ---- messages ------------------------------------------------------------------------------- */

/* json_object_set_new takes the value over, also on failure; NULL (not UTF-8, no memory) fails. */
static bool put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static bool put_str(json_t *object, const char *key, struct str value)
{
    return !value.data || put(object, key, json_stringn(value.data, value.len));
}

/* An object stays one; anything else, also text that is no JSON, is passed as the string it is. */
static json_t *arguments_value(struct str text)
{
    json_t *value = NULL;
    struct error ignored;
    if (!text.data)
        return json_object();
    if (json_parse(text, CHAT_JSON_DEPTH, "tool call arguments", &value, &ignored) == STATUS_OK &&
        json_is_object(value))
        return value;
    json_decref(value);
    return json_stringn(text.data, text.len);
}

static bool put_tool_calls(json_t *message, const struct chat_message *m)
{
    json_t *calls = json_array();
    if (!put(message, "tool_calls", calls))
        return false;
    for (size_t i = 0; i < m->n_tool_calls; i++) {
        const struct chat_tool_call *c = &m->tool_calls[i];
        json_t *call = json_object(), *function = json_object();
        bool ok = json_array_append_new(calls, call) == 0;
        ok = ok && put_str(call, "id", c->id) && put(call, "type", json_string("function"));
        if (!ok) {
            json_decref(function);
            return false;
        }
        if (!put(call, "function", function) || !put_str(function, "name", c->name) ||
            !put(function, "arguments", arguments_value(c->arguments)))
            return false;
    }
    return true;
}

/* Templates that know only strings get the texts of the parts, one per line. */
static json_t *joined_parts(const struct chat_message *m)
{
    struct buf text = {0};
    for (size_t i = 0; i < m->n_parts; i++) {
        if (i)
            buf_append_char(&text, '\n');
        buf_append_str(&text, m->parts[i].text);
    }
    json_t *value = text.failed ? NULL : json_stringn(buf_str(&text).data, text.len);
    buf_release(&text);
    return value;
}

static json_t *content_value(const struct chat_template *chat, const struct chat_message *m)
{
    bool all_text = true;
    if (!m->parts)
        return m->content.data ? json_stringn(m->content.data, m->content.len) : json_null();
    for (size_t i = 0; i < m->n_parts; i++)
        all_text = all_text && m->parts[i].text.data;
    if (!chat->reads_parts && all_text)
        return joined_parts(m);
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_parts; i++) {
        struct str type = m->parts[i].type.data ? m->parts[i].type : STR_LIT("text");
        json_t *part = json_object();
        if (json_array_append_new(list, part) != 0 || !put_str(part, "type", type) ||
            !put_str(part, "text", m->parts[i].text)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool add_message(const struct chat_template *chat, json_t *messages,
                        const struct chat_message *m)
{
    json_t *message = json_object();
    return json_array_append_new(messages, message) == 0 && put_str(message, "role", m->role) &&
           put(message, "content", content_value(chat, m)) &&
           put_str(message, chat->reasoning_key, m->reasoning) &&
           (m->n_tool_calls == 0 || put_tool_calls(message, m)) &&
           put_str(message, "tool_call_id", m->tool_call_id) && put_str(message, "name", m->name);
}

static enum status set_messages(const struct chat_template *chat,
                                const struct chat_request *request, struct jinja_context *context,
                                struct error *err)
{
    json_t *messages = json_array();
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < request->n_messages; i++)
        if (!add_message(chat, messages, &request->messages[i]))
            status =
                error_set(err, STATUS_USAGE, "messages[%zu]: not valid UTF-8, or out of memory", i);
    if (status == STATUS_OK)
        status = jinja_context_set(context, "messages", messages, false, err);
    json_decref(messages);
    return status;
}

/* Bad JSON in a request is the caller's mistake, whatever json_parse() calls it. */
static enum status parse_json(struct str text, const char *what, json_t **out, struct error *err)
{
    enum status status = json_parse(text, CHAT_JSON_DEPTH, what, out, err);
    if (status != STATUS_MODEL)
        return status;
    if (err)
        err->status = STATUS_USAGE;
    return STATUS_USAGE;
}

/* ---- the other variables -------------------------------------------------------------------- */

static enum status set_tools(const struct chat_request *request, struct jinja_context *context,
                             struct error *err)
{
    json_t *tools = NULL;
    if (request->tools.data) {
        enum status status = parse_json(request->tools, "tools", &tools, err);
        if (status != STATUS_OK)
            return status;
        if (!json_is_array(tools) && !json_is_null(tools)) {
            json_decref(tools);
            return error_set(err, STATUS_USAGE, "tools: not a JSON list");
        }
    }
    bool any = tools && json_array_size(tools) > 0;
    enum status status = jinja_context_set(context, "tools", any ? tools : json_null(), false, err);
    json_decref(tools);
    return status;
}

static enum status set_token(struct jinja_context *context, const char *name, struct str token,
                             struct error *err)
{
    return token.data ? jinja_context_set_str(context, name, token, true, err) : STATUS_OK;
}

static enum status set_plain(const struct chat_template *chat, const struct chat_request *request,
                             struct jinja_context *context, struct error *err)
{
    enum status status = jinja_context_set(context, "documents", json_null(), false, err);
    if (status == STATUS_OK)
        status = jinja_context_set(context, "add_generation_prompt",
                                   json_boolean(request->add_generation_prompt), false, err);
    if (status == STATUS_OK && request->thinking != CHAT_THINKING_UNSET)
        status = jinja_context_set(context, chat->thinking_variable,
                                   json_boolean(request->thinking == CHAT_THINKING_ON), false, err);
    if (status == STATUS_OK)
        status = set_token(context, "bos_token", chat->bos_token, err);
    if (status == STATUS_OK)
        status = set_token(context, "eos_token", chat->eos_token, err);
    if (status == STATUS_OK)
        status = set_token(context, "unk_token", chat->unk_token, err);
    if (status == STATUS_OK)
        status = set_token(context, "pad_token", chat->pad_token, err);
    return status;
}

static enum status set_arguments(const struct chat_request *request, struct jinja_context *context,
                                 struct error *err)
{
    json_t *arguments = NULL;
    if (!request->arguments.data)
        return STATUS_OK;
    enum status status = parse_json(request->arguments, "template arguments", &arguments, err);
    if (status == STATUS_OK)
        status = jinja_context_merge(context, arguments, err);
    json_decref(arguments);
    return status;
}

enum status chat_render(const struct chat_template *chat, const struct chat_request *request,
                        struct jinja_output *out, struct error *err)
{
    struct jinja_context context;
    uint64_t messages = request->n_messages < FUEL_MOST ? request->n_messages : FUEL_MOST;
    struct jinja_limits limits = {.fuel = FUEL_LEAST + FUEL_PER_MESSAGE * messages};
    if (limits.fuel > FUEL_MOST)
        limits.fuel = FUEL_MOST;
    jinja_context_init(&context);
    enum status status = set_plain(chat, request, &context, err);
    if (status == STATUS_OK)
        status = set_tools(request, &context, err);
    if (status == STATUS_OK)
        status = set_messages(chat, request, &context, err);
    if (status == STATUS_OK)
        status = set_arguments(request, &context, err);
    if (status == STATUS_OK)
        status = jinja_render(chat->jinja, &context, request->now, &limits, out, err);
    jinja_context_release(&context);
    return status;
}
