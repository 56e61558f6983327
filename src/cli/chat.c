/* The conversation on the terminal. Ctrl-C cancels the answer that runs; between answers it clears
 * the line. Lines ending in a backslash, or text between """ lines, make multi-line input. */
#include "cli/chat.h"

#include <histedit.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/remote.h"
#include "cli/sampling.h"

#define TURNS_MAX 4096

struct conversation {
    sluice_engine *engine;
    struct chat_settings settings;
    sluice_message messages[TURNS_MAX]; /* contents owned */
    size_t count;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static void print_statistics(sluice_engine *engine, const sluice_event *done)
{
    sluice_model_info info;
    sluice_engine_info(engine, &info);
    const sluice_usage *u = &done->usage;
    double rate = u->output_tokens > 1 && u->output_seconds > 0.0
                      ? (u->output_tokens - 1) / u->output_seconds
                      : 0.0;
    fprintf(stderr, "%s[first token %.0f ms, %.1f tokens/s, %u of %u tokens of context%s]%s\n",
            terminal_dim(stderr), u->prompt_seconds * 1e3, rate,
            u->prompt_tokens + u->output_tokens, info.n_context,
            done->finish == SLUICE_FINISH_LENGTH      ? ", cut by the length limit"
            : done->finish == SLUICE_FINISH_CANCELLED ? ", interrupted"
                                                      : "",
            terminal_reset(stderr));
}

/* Prints the events of one request; collects the answer's text where `answer` is given. */
static enum status print_answer(sluice_engine *engine, sluice_request *request, bool quiet,
                                struct buf *answer, struct error *err)
{
    sluice_event event;
    bool thinking = false, cancelled = false, at_line_start = true;
    for (;;) {
        if (interrupted && !cancelled) {
            sluice_request_cancel(request);
            cancelled = true;
        }
        if (!sluice_request_next(request, &event, 100))
            continue;
        if (event.kind == SLUICE_EVENT_REASONING || event.kind == SLUICE_EVENT_TEXT) {
            bool now = event.kind == SLUICE_EVENT_REASONING;
            if (now != thinking)
                fputs(now ? terminal_dim(stdout) : terminal_reset(stdout), stdout);
            if (thinking && !now && !at_line_start)
                putchar('\n');
            thinking = now;
            fwrite(event.text, 1, event.length, stdout);
            fflush(stdout);
            if (event.length)
                at_line_start = event.text[event.length - 1] == '\n';
            if (answer && !now)
                buf_append(answer, event.text, event.length);
        } else if (event.kind == SLUICE_EVENT_TOOL_CALL) {
            printf("%s%s(%s)\n", at_line_start ? "" : "\n", event.tool_call.name,
                   event.tool_call.arguments);
            at_line_start = true;
        } else if (event.kind == SLUICE_EVENT_ERROR) {
            fputs(thinking ? terminal_reset(stdout) : "", stdout);
            return status_from_public(&event.error, err);
        } else if (event.kind == SLUICE_EVENT_DONE) {
            break;
        }
    }
    if (thinking)
        fputs(terminal_reset(stdout), stdout);
    if (!at_line_start)
        putchar('\n');
    fflush(stdout);
    if (!quiet && terminal_is(stdout))
        print_statistics(engine, &event);
    return STATUS_OK;
}

static enum status ask(sluice_engine *engine, const struct chat_settings *settings,
                       const sluice_request_options *options, struct buf *answer, struct error *err)
{
    sluice_error error;
    sluice_request *request = NULL;
    if (sluice_submit(engine, options, &request, &error) != SLUICE_OK)
        return status_from_public(&error, err);
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    sigemptyset(&action.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, &action, &before);
    enum status status = print_answer(engine, request, settings->quiet, answer, err);
    sigaction(SIGINT, &before, NULL);
    sluice_request_free(request);
    return status;
}

/* The same through a server. */
static enum status ask_server(const struct chat_settings *settings, const sluice_message *messages,
                              size_t n, struct buf *answer, struct error *err)
{
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    sigemptyset(&action.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, &action, &before);
    enum status status = remote_answer(settings, messages, n, &interrupted, answer, err);
    sigaction(SIGINT, &before, NULL);
    return status;
}

static sluice_request_options request_options(const struct chat_settings *settings)
{
    return (sluice_request_options){
        .max_tokens = settings->max_tokens,
        .sampling = settings->sampling,
        .thinking = settings->thinking,
    };
}

enum status chat_once(sluice_engine *engine, const struct chat_settings *settings,
                      const char *prompt, struct error *err)
{
    sluice_request_options options = request_options(settings);
    sluice_message messages[2] = {{.role = "system", .content = settings->system},
                                  {.role = "user", .content = prompt}};
    if (settings->raw) {
        options.prompt = prompt;
    } else {
        options.messages = settings->system ? messages : messages + 1;
        options.n_messages = settings->system ? 2 : 1;
    }
    return ask(engine, settings, &options, NULL, err);
}

/* ---- the loop --------------------------------------------------------------------------------- */

static void clear_conversation(struct conversation *c)
{
    for (size_t i = 0; i < c->count; i++)
        free((char *)(uintptr_t)c->messages[i].content);
    c->count = 0;
}

static bool add_turn(struct conversation *c, const char *role, const char *content)
{
    char *copy = strdup(content);
    if (!copy || c->count == TURNS_MAX) {
        free(copy);
        return false;
    }
    c->messages[c->count++] = (sluice_message){.role = role, .content = copy};
    return true;
}

static void start_conversation(struct conversation *c)
{
    clear_conversation(c);
    if (c->settings.system)
        add_turn(c, "system", c->settings.system);
}

static void print_help(void)
{
    puts("/set NAME VALUE   max-tokens, system, think (on, off, default), or any sampling flag "
         "that\n"
         "                  takes a number: temp, top-k, top-p, min-p, seed, repeat-penalty, ...\n"
         "/clear            forget the conversation\n"
         "/help             this list\n"
         "/bye              leave (also Ctrl-D)\n"
         "\"\"\"               starts and ends text of several lines; a line ending in \\ goes on\n"
         "Ctrl-C            stop the answer");
}

static void set_option(struct conversation *c, char *text)
{
    static char system_text[4096];
    char *name = strtok(text, " \t"), *value = strtok(NULL, "");
    if (!name || !value) {
        puts("usage: /set NAME VALUE (see /help)");
        return;
    }
    struct error err;
    if (strcmp(name, "system") == 0) {
        snprintf(system_text, sizeof system_text, "%s", value);
        c->settings.system = system_text;
        start_conversation(c);
        puts("new system prompt; the conversation starts again");
    } else if (strcmp(name, "think") == 0) {
        c->settings.thinking = strcmp(value, "on") == 0    ? SLUICE_THINKING_ON
                               : strcmp(value, "off") == 0 ? SLUICE_THINKING_OFF
                                                           : SLUICE_THINKING_DEFAULT;
    } else if (strcmp(name, "max-tokens") == 0) {
        const struct option max_tokens[] = {
            {"max-tokens", NULL, "N", "", OPTION_U32, &c->settings.max_tokens, NULL}, OPTIONS_END};
        if (options_set(max_tokens, name, value, &err) != STATUS_OK)
            printf("%s\n", err.message);
    } else if (sampling_set(name, value, &c->settings.sampling, &err) != STATUS_OK) {
        printf("%s (see /help)\n", err.message);
    }
}

/* True: leave the loop. */
static bool command(struct conversation *c, char *line)
{
    if (strcmp(line, "/bye") == 0 || strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0)
        return true;
    if (strcmp(line, "/help") == 0 || strcmp(line, "/?") == 0) {
        print_help();
    } else if (strcmp(line, "/clear") == 0) {
        start_conversation(c);
        puts("the conversation is forgotten");
    } else if (strncmp(line, "/set", 4) == 0 && (line[4] == ' ' || line[4] == 0)) {
        set_option(c, line + 4);
    } else {
        printf("unknown command %s: /help lists them\n", line);
    }
    return false;
}

static char *prompt_text = ">>> ";

static char *prompt_of(EditLine *edit)
{
    (void)edit;
    return prompt_text;
}

static const char *read_line(EditLine *edit, int *length)
{
    const char *line = el_gets(edit, length);
    if (!line && interrupted) { /* Ctrl-C at the prompt: an empty line */
        interrupted = 0;
        putchar('\n');
        *length = 1;
        return "\n";
    }
    return line;
}

/* One input, several lines joined. False: end of input. */
static bool read_input(EditLine *edit, struct buf *input)
{
    bool block = false;
    buf_clear(input);
    prompt_text = ">>> ";
    for (;;) {
        int length = 0;
        const char *line = read_line(edit, &length);
        if (!line || length <= 0)
            return false;
        if (line[length - 1] == '\n')
            length--;
        prompt_text = "... ";
        if (length == 3 && memcmp(line, "\"\"\"", 3) == 0) {
            if (block)
                return true;
            block = true;
            continue;
        }
        bool more = !block && length > 0 && line[length - 1] == '\\';
        buf_append(input, line, (size_t)(more ? length - 1 : length));
        if (!block && !more)
            return true;
        buf_append_char(input, '\n');
    }
}

static enum status turn(struct conversation *c, const char *text, struct error *err)
{
    struct buf reply = {0};
    sluice_request_options options = request_options(&c->settings);
    if (c->settings.raw) {
        options.prompt = text;
    } else {
        if (!add_turn(c, "user", text))
            return error_set(err, STATUS_LIMIT, "the conversation is too long: /clear starts anew");
        options.messages = c->messages;
        options.n_messages = c->count;
    }
    enum status status = c->settings.url
                             ? ask_server(&c->settings, c->messages, c->count, &reply, err)
                             : ask(c->engine, &c->settings, &options, &reply, err);
    if (!c->settings.raw && status == STATUS_OK)
        add_turn(c, "assistant", reply.data ? reply.data : "");
    else if (!c->settings.raw)
        free((char *)(uintptr_t)c->messages[--c->count].content);
    buf_release(&reply);
    return status;
}

enum status chat_loop(sluice_engine *engine, const struct chat_settings *settings,
                      struct error *err)
{
    struct conversation *c = calloc(1, sizeof *c);
    HistEvent event;
    History *past = history_init();
    EditLine *edit = el_init("sluice", stdin, stdout, stderr);
    if (!c || !past || !edit) {
        free(c);
        return error_set(err, STATUS_MEMORY, "out of memory for the chat");
    }
    c->engine = engine;
    c->settings = *settings;
    start_conversation(c);
    history(past, &event, H_SETSIZE, 500);
    el_set(edit, EL_PROMPT, prompt_of);
    el_set(edit, EL_EDITOR, "emacs");
    el_set(edit, EL_HIST, history, past);
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before);
    sluice_model_info info;
    if (engine) {
        sluice_engine_info(engine, &info);
        printf("%s on %s (%s). ", info.name, info.backend, info.device);
    }
    printf("/help for commands, Ctrl-D to leave.\n");
    struct buf input = {0};
    while (read_input(edit, &input)) {
        if (input.len == 0)
            continue;
        history(past, &event, H_ENTER, input.data);
        if (input.data[0] == '/') {
            if (command(c, input.data))
                break;
            continue;
        }
        struct error problem;
        if (turn(c, input.data, &problem) != STATUS_OK)
            fprintf(stderr, "%s\n", problem.message);
    }
    sigaction(SIGINT, &before, NULL);
    buf_release(&input);
    el_end(edit);
    history_end(past);
    clear_conversation(c);
    free(c);
    return STATUS_OK;
}
