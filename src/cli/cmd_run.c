/*
 * sluice run: one answer, or a chat. All through the public API, as an embedder would.
 *
 * Who is what among the arguments: no argument is the demo model; one argument with white space in
 * it is a prompt for the demo; otherwise the first is MODEL and the second PROMPT. Without PROMPT:
 * a chat on a terminal, else standard input to its end is the one prompt.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/sampling.h"

static struct {
    const char *model, *backend, *system, *template_file;
    uint32_t max_tokens, context, n_threads;
    const char *kv_type, *packed_cache;
    uint64_t kv_memory, packed_cache_size;
    bool raw, exact, think, no_think, quiet;
} flags;

static const struct option options[] = {
    OPTION_OF_MODEL(&flags.model),
    {"--max-tokens", "-n --predict", "N", "most tokens to generate (until it stops)", OPTION_U32,
     &flags.max_tokens, NULL},
    {"--system", NULL, "TEXT", "system prompt", OPTION_TEXT, &flags.system, NULL},
    {"--raw", NULL, NULL, "no chat template: the model continues the text itself", OPTION_FLAG,
     &flags.raw, NULL},
    {"--think", NULL, NULL, "ask the model to think first", OPTION_FLAG, &flags.think, NULL},
    {"--no-think", NULL, NULL, "ask the model not to think first", OPTION_FLAG, &flags.no_think,
     NULL},
    OPTION_OF_CHAT_TEMPLATE(&flags.template_file),
    {"--ctx-size", "-c --context", "N", "tokens of context (the model's, within memory)",
     OPTION_U32, &flags.context, NULL},
    OPTION_OF_KV_MEMORY(&flags.kv_memory),
    OPTION_OF_KV_TYPE(&flags.kv_type),
    OPTION_OF_BACKEND(&flags.backend),
    OPTION_OF_THREADS(&flags.n_threads),
    OPTIONS_OF_PACKED_CACHE(&flags.packed_cache, &flags.packed_cache_size),
    OPTION_OF_EXACT(&flags.exact),
    {"--quiet", "-q", NULL, "no statistics line", OPTION_FLAG, &flags.quiet, NULL},
    SAMPLING_OPTIONS,
    OPTIONS_END,
};

static bool has_white_space(const char *text)
{
    return strpbrk(text, " \t\r\n") != NULL;
}

/* Sorts the arguments into model and prompt; *demo: the bundled model was chosen. */
static enum status sort_arguments(const struct arguments *arguments, char *demo_path, size_t size,
                                  const char **model, const char **prompt, bool *demo,
                                  struct error *err)
{
    *model = flags.model;
    *prompt = NULL;
    size_t next = 0;
    bool first_is_prompt = arguments->count == 1 && has_white_space(arguments->items[0]) &&
                           !file_exists(arguments->items[0]);
    if (!*model && arguments->count > 0 && !first_is_prompt)
        *model = arguments->items[next++];
    if (next < arguments->count)
        *prompt = arguments->items[next++];
    if (next < arguments->count)
        return error_set(err, STATUS_USAGE, "one PROMPT only: quote it if it has spaces");
    *demo = !*model;
    if (!*demo)
        return STATUS_OK;
    *model = demo_path;
    return demo_model_path(demo_path, size, err);
}

static enum status read_prompt(struct buf *text, struct error *err)
{
    enum status status = read_stdin(text, err);
    if (status != STATUS_OK)
        return status;
    while (!flags.raw && text->len && strchr("\r\n", text->data[text->len - 1]))
        text->data[--text->len] = 0;
    if (text->len == 0)
        return error_set(err, STATUS_USAGE, "standard input is empty: nothing to answer");
    return STATUS_OK;
}

static enum status open_engine(const char *path, const char *chat_template, sluice_engine **engine,
                               struct error *err)
{
    sluice_error error;
    sluice_engine_options engine_options = {
        .model = path,
        .backend = flags.backend,
        .n_threads = flags.n_threads,
        .n_context = flags.context,
        .max_sequences = 1,
        .kv_memory = flags.kv_memory,
        .kv_type = flags.kv_type,
        .exact = flags.exact,
        .packed_cache = flags.packed_cache,
        .packed_cache_size = flags.packed_cache_size,
        .chat_template = chat_template,
        .progress = terminal_progress,
    };
    if (sluice_engine_open(&engine_options, engine, &error) == SLUICE_OK)
        return STATUS_OK;
    return status_from_public(&error, err);
}

static enum status answer(sluice_engine *engine, const struct chat_settings *settings,
                          const char *prompt, struct error *err)
{
    struct buf text = {0};
    enum status status = STATUS_OK;
    if (!prompt && isatty(STDIN_FILENO))
        return chat_loop(engine, settings, err);
    if (!prompt)
        status = read_prompt(&text, err);
    if (status == STATUS_OK)
        status = chat_once(engine, settings, prompt ? prompt : text.data, err);
    buf_release(&text);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    char demo_path[4096];
    const char *path, *prompt;
    bool demo;
    enum status status =
        sort_arguments(arguments, demo_path, sizeof demo_path, &path, &prompt, &demo, err);
    if (status == STATUS_OK && prompt && prompt[0] == 0)
        status = error_set(err, STATUS_USAGE, "the prompt is empty");
    if (status == STATUS_OK && flags.think && flags.no_think)
        status = error_set(err, STATUS_USAGE, "--think and --no-think exclude each other");
    sluice_sampling sampling = {0};
    if (demo) /* it answers best greedily: its card says so */
        sampling_prefer_temperature(0.0f);
    if (status == STATUS_OK)
        status = sampling_given(&sampling, err);
    struct buf chat_template = {0};
    sluice_engine *engine = NULL;
    if (status == STATUS_OK)
        status = read_chat_template(flags.template_file, &chat_template, err);
    if (status == STATUS_OK)
        status = open_engine(path, chat_template.data, &engine, err);
    if (status == STATUS_OK) {
        struct chat_settings settings = {
            .system = flags.system,
            .raw = flags.raw,
            .quiet = flags.quiet,
            .max_tokens = flags.max_tokens,
            .thinking = flags.think      ? SLUICE_THINKING_ON
                        : flags.no_think ? SLUICE_THINKING_OFF
                                         : SLUICE_THINKING_DEFAULT,
        };
        settings.sampling = sampling;
        status = answer(engine, &settings, prompt, err);
    }
    sluice_engine_close(engine);
    buf_release(&chat_template);
    return status;
}

const struct command command_run = {
    .name = "run",
    .synopsis = "chat with a model, or get one answer",
    .usage = "run [MODEL] [PROMPT] [options]",
    .about =
        "Chats with MODEL on a terminal; with PROMPT, or with text on standard input, gives\n"
        "one answer and exits. Without MODEL the bundled demo model answers.\n\n"
        "  sluice run                              chat with the demo model\n"
        "  sluice run \"Tell me a story about a fox\"  one answer from the demo model\n"
        "  sluice run model.gguf                   chat with a model file\n"
        "  sluice run model.gguf \"Why is the sky blue?\" --temp 0\n"
        "  git diff | sluice run model.gguf --system \"Review this change\"\n\n"
        "Sampling that is not given here comes from the model's generation_config, else\n"
        "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05; the demo model takes the likeliest\n"
        "token.",
    .options = options,
    .run = run,
    .max_arguments = 3,
};
