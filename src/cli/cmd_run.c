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

static struct {
    const char *model, *backend, *system, *template_file;
    uint32_t max_tokens, context, n_threads;
    const char *kv_type;
    uint64_t kv_memory, seed;
    float temperature, top_p, min_p, repeat_penalty;
    int32_t top_k;
    bool raw, exact, think, no_think, quiet;
    bool has_temperature, has_top_k, has_top_p, has_min_p, has_repeat, has_seed;
    float presence_penalty, frequency_penalty, typical_p, top_n_sigma;
    float xtc_probability, xtc_threshold, dry_multiplier, dry_base, mirostat_tau, mirostat_eta;
    int32_t dry_allowed_length, dry_last_n, mirostat;
    const char *samplers;
    bool has_presence, has_frequency, has_typical, has_sigma;
} flags = {.xtc_threshold = 0.1f};

static const struct option options[] = {
    {"--model", "-m", "MODEL", "the model, instead of as an argument", OPTION_TEXT, &flags.model,
     NULL},
    {"--max-tokens", "-n --predict", "N", "most tokens to generate (default: until it stops)",
     OPTION_U32, &flags.max_tokens, NULL},
    {"--temp", "--temperature", "T", "randomness, 0 for always the likeliest token", OPTION_FLOAT,
     &flags.temperature, &flags.has_temperature},
    {"--top-k", NULL, "K", "choose among the K likeliest, 0: all", OPTION_I32, &flags.top_k,
     &flags.has_top_k},
    {"--top-p", NULL, "P", "choose among the likeliest that sum to P", OPTION_FLOAT, &flags.top_p,
     &flags.has_top_p},
    {"--min-p", NULL, "P", "drop what is less likely than P times the likeliest", OPTION_FLOAT,
     &flags.min_p, &flags.has_min_p},
    {"--repeat-penalty", NULL, "R", "make recent tokens less likely, 1: off", OPTION_FLOAT,
     &flags.repeat_penalty, &flags.has_repeat},
    {"--presence-penalty", NULL, "P", "make generated tokens less likely, once", OPTION_FLOAT,
     &flags.presence_penalty, &flags.has_presence},
    {"--frequency-penalty", NULL, "P", "the same for each time a token was generated", OPTION_FLOAT,
     &flags.frequency_penalty, &flags.has_frequency},
    {"--typical-p", "--typical", "P", "prefer tokens of expected surprise, 1: off", OPTION_FLOAT,
     &flags.typical_p, &flags.has_typical},
    {"--top-n-sigma", NULL, "N", "keep logits within N deviations of the best, 0: off",
     OPTION_FLOAT, &flags.top_n_sigma, &flags.has_sigma},
    {"--xtc-probability", NULL, "P", "how often to exclude the top choices, 0: off", OPTION_FLOAT,
     &flags.xtc_probability, NULL},
    {"--xtc-threshold", NULL, "P", "what counts as a top choice (default 0.1)", OPTION_FLOAT,
     &flags.xtc_threshold, NULL},
    {"--dry-multiplier", NULL, "M", "strength against repeated passages, 0: off", OPTION_FLOAT,
     &flags.dry_multiplier, NULL},
    {"--dry-base", NULL, "B", "its growth per repeated token (default 1.75)", OPTION_FLOAT,
     &flags.dry_base, NULL},
    {"--dry-allowed-length", NULL, "N", "tokens that may repeat freely (default 2)", OPTION_I32,
     &flags.dry_allowed_length, NULL},
    {"--dry-penalty-last-n", NULL, "N", "how far back it looks (default: everything)", OPTION_I32,
     &flags.dry_last_n, NULL},
    {"--mirostat", NULL, "V", "hold the surprise steady: 1 or 2, 0: off", OPTION_I32,
     &flags.mirostat, NULL},
    {"--mirostat-tau", "--mirostat-ent", "T", "at this many bits (default 5)", OPTION_FLOAT,
     &flags.mirostat_tau, NULL},
    {"--mirostat-eta", "--mirostat-lr", "E", "learning rate of it (default 0.1)", OPTION_FLOAT,
     &flags.mirostat_eta, NULL},
    {"--samplers", NULL, "LIST", "order of the cuts, e.g. 'top_k;top_p;temperature'", OPTION_TEXT,
     &flags.samplers, NULL},
    {"--seed", "-s", "S", "same seed, same text", OPTION_U64, &flags.seed, &flags.has_seed},
    {"--system", NULL, "TEXT", "system prompt", OPTION_TEXT, &flags.system, NULL},
    {"--raw", NULL, NULL, "no chat template: the model continues the text itself", OPTION_FLAG,
     &flags.raw, NULL},
    {"--think", NULL, NULL, "ask the model to think first", OPTION_FLAG, &flags.think, NULL},
    {"--no-think", NULL, NULL, "ask the model not to think first", OPTION_FLAG, &flags.no_think,
     NULL},
    {"--chat-template", NULL, "F", "a Jinja file instead of the model's own template", OPTION_TEXT,
     &flags.template_file, NULL},
    {"--ctx-size", "-c --context", "N", "tokens of context (default: the model's, within memory)",
     OPTION_U32, &flags.context, NULL},
    {"--threads", "-t", "N", "CPU threads (default: one per core)", OPTION_U32, &flags.n_threads,
     NULL},
    {"--kv-memory", NULL, "SIZE", "memory for the KV cache, e.g. 2G", OPTION_BYTES,
     &flags.kv_memory, NULL},
    {"--kv-type", "--cache-type-k", "T", "elements of the KV cache: f32, f16, bf16, q8_0, f8_e4m3",
     OPTION_TEXT, &flags.kv_type, NULL},
    {"--backend", NULL, "B", "auto, cpu, cuda or ref", OPTION_TEXT, &flags.backend, NULL},
    {"--exact", NULL, NULL, "float32 activations, accumulation and KV", OPTION_FLAG, &flags.exact,
     NULL},
    {"--quiet", "-q", NULL, "no statistics line", OPTION_FLAG, &flags.quiet, NULL},
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

static void set_sampling(sluice_sampling *s, bool demo)
{
    /* The demo model answers best greedily; its card says so. */
    if (flags.has_temperature || demo) {
        s->set |= SLUICE_SET_TEMPERATURE;
        s->temperature = flags.temperature;
    }
    if (flags.has_top_k) {
        s->set |= SLUICE_SET_TOP_K;
        s->top_k = flags.top_k;
    }
    if (flags.has_top_p) {
        s->set |= SLUICE_SET_TOP_P;
        s->top_p = flags.top_p;
    }
    if (flags.has_min_p) {
        s->set |= SLUICE_SET_MIN_P;
        s->min_p = flags.min_p;
    }
    if (flags.has_repeat) {
        s->set |= SLUICE_SET_REPEAT_PENALTY;
        s->repeat_penalty = flags.repeat_penalty;
    }
    if (flags.has_seed) {
        s->set |= SLUICE_SET_SEED;
        s->seed = flags.seed;
    }
}

static void set_rarer_sampling(sluice_sampling *s)
{
    s->set |= (flags.has_presence ? SLUICE_SET_PRESENCE_PENALTY : 0) |
              (flags.has_frequency ? SLUICE_SET_FREQUENCY_PENALTY : 0) |
              (flags.has_typical ? SLUICE_SET_TYPICAL_P : 0) |
              (flags.has_sigma ? SLUICE_SET_TOP_N_SIGMA : 0) | SLUICE_SET_XTC | SLUICE_SET_DRY |
              SLUICE_SET_MIROSTAT;
    s->presence_penalty = flags.presence_penalty;
    s->frequency_penalty = flags.frequency_penalty;
    s->typical_p = flags.typical_p;
    s->top_n_sigma = flags.top_n_sigma;
    s->xtc_probability = flags.xtc_probability;
    s->xtc_threshold = flags.xtc_threshold;
    s->dry_multiplier = flags.dry_multiplier;
    s->dry_base = flags.dry_base;
    s->dry_allowed_length = flags.dry_allowed_length;
    s->dry_last_n = flags.dry_last_n;
    s->mirostat = flags.mirostat;
    s->mirostat_tau = flags.mirostat_tau;
    s->mirostat_eta = flags.mirostat_eta;
    s->order = flags.samplers;
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
    struct buf chat_template = {0};
    sluice_engine *engine = NULL;
    if (status == STATUS_OK && flags.template_file)
        status = file_read_all(flags.template_file, 1u << 20, &chat_template, err);
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
        set_sampling(&settings.sampling, demo);
        set_rarer_sampling(&settings.sampling);
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
    .about = "Chats with MODEL on a terminal; with PROMPT, or with text on standard input, gives\n"
             "one answer and exits. Without MODEL the bundled demo model answers.\n\n"
             "  sluice run                              chat with the demo model\n"
             "  sluice run \"Tell me a story about a fox\"  one answer from the demo model\n"
             "  sluice run model.gguf                   chat with a model file\n"
             "  sluice run model.gguf \"Why is the sky blue?\" --temp 0\n"
             "  git diff | sluice run model.gguf --system \"Review this change\"\n\n"
             "Sampling that is not given here comes from the model's generation_config, else\n"
             "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05.",
    .options = options,
    .run = run,
    .max_arguments = 3,
};
