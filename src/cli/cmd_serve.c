/*
 * sluice serve: models behind HTTP. Flags as people know them from llama.cpp's server, vLLM and
 * Ollama; this file turns them into addresses, keys and a set of models, and waits for a signal.
 *
 * One model is loaded at once and stays; its file's faults are the command's. Several are loaded when
 * they are asked for, within a budget.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "bench/load.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/sampling.h"
#include "cli/serve_models.h"
#include "hw/hardware.h"
#include "server/server.h"

#define LIST_MAX        64
#define DRAIN_SECONDS   30
#define DEFAULT_ADDRESS "127.0.0.1:8080"

static struct {
    const char *model, *folder, *backend, *host, *template_file, *kv_type, *keep_alive;
    const char *packed_cache, *cache_scope;
    const char *listen[LIST_MAX], *aliases[LIST_MAX], *keys[LIST_MAX], *hosts[LIST_MAX];
    size_t n_listen, n_aliases, n_keys, n_hosts;
    uint32_t port, context, n_threads, sequences, max_tokens, max_gap, max_queued, max_of_key;
    uint64_t kv_memory, memory, max_queued_tokens, packed_cache_size;
    sluice_sampling sampling;
    bool has_port;
    bool strict, insecure, quiet, ollama, demo, no_prefix_cache, reproducible;
} flags;

static bool any_port; /* a busy port moves: only where nobody named one */

static struct option_list listen_list = {flags.listen, LIST_MAX, &flags.n_listen};
static struct option_list alias_list = {flags.aliases, LIST_MAX, &flags.n_aliases};
static struct option_list key_list = {flags.keys, LIST_MAX, &flags.n_keys};
static struct option_list host_list = {flags.hosts, LIST_MAX, &flags.n_hosts};

static const struct option options[] = {
    OPTION_OF_MODEL(&flags.model),
    {"--models", NULL, "DIR", "serve every model in this folder, loaded when it is asked for",
     OPTION_TEXT, &flags.folder, NULL},
    {"--memory", NULL, "SIZE",
     "for weights and KV of all loaded models, e.g. 24G (several models: most of what is free)",
     OPTION_BYTES, &flags.memory, NULL},
    {"--keep-alive", NULL, "T",
     "how long an unused model stays loaded: 90, 10m, -1 for ever (several models: 5m)",
     OPTION_TEXT, &flags.keep_alive, NULL},
    {"--listen", NULL, "ADDR", "host:port or unix:PATH, repeatable (" DEFAULT_ADDRESS ")",
     OPTION_LIST, &listen_list, NULL},
    {"--host", NULL, "HOST", "the host to listen on (127.0.0.1)", OPTION_TEXT, &flags.host, NULL},
    {"--port", NULL, "N", "the port to listen on, 0: any free one (8080)", OPTION_U32, &flags.port,
     &flags.has_port},
    {"--ollama", NULL, NULL, "listen on 127.0.0.1:11434 as well", OPTION_FLAG, &flags.ollama, NULL},
    {"--api-key", NULL, "KEY", "clients must send it, repeatable", OPTION_LIST, &key_list, NULL},
    {"--insecure", NULL, NULL, "no key even where others can reach the address", OPTION_FLAG,
     &flags.insecure, NULL},
    {"--allow-host", "--allow-origin", "NAME", "a further Host and Origin to answer, repeatable",
     OPTION_LIST, &host_list, NULL},
    {"--alias", "-a --served-model-name", "NAME",
     "a further name of the (first) model, '*' for every name; NAME=MODEL: of this one",
     OPTION_LIST, &alias_list, NULL},
    {"--strict", NULL, NULL, "refuse requests with unknown fields", OPTION_FLAG, &flags.strict,
     NULL},
    {"--ctx-size", "-c --context --max-model-len", "N", "tokens of context per request", OPTION_U32,
     &flags.context, NULL},
    {"--parallel", "-np --max-num-seqs", "N", "answers that run at once (64)", OPTION_U32,
     &flags.sequences, NULL},
    OPTION_OF_THREADS(&flags.n_threads),
    OPTIONS_OF_PACKED_CACHE(&flags.packed_cache, &flags.packed_cache_size),
    OPTION_OF_KV_MEMORY(&flags.kv_memory),
    OPTION_OF_KV_TYPE(&flags.kv_type),
    {"--max-queued", NULL, "N", "requests in work or waiting, per model (1024)", OPTION_U32,
     &flags.max_queued, NULL},
    {"--max-queued-tokens", NULL, "N", "tokens of prompts that wait, per model (no limit)",
     OPTION_U64, &flags.max_queued_tokens, NULL},
    {"--max-key-requests", NULL, "N", "requests of one API key in work or waiting (no limit)",
     OPTION_U32, &flags.max_of_key, NULL},
    {"--max-gap", NULL, "MS", "longest pause of a running answer for a prompt (250)", OPTION_U32,
     &flags.max_gap, NULL},
    {"--no-prefix-cache", NULL, NULL, "compute every prompt in full", OPTION_FLAG,
     &flags.no_prefix_cache, NULL},
    {"--cache-scope", NULL, "WHO",
     "whose work a prompt may reuse: everybody's (all), or that of its own API key (key)",
     OPTION_TEXT, &flags.cache_scope, NULL},
    {"--reproducible", NULL, NULL, "prompts never reuse what was computed as generated rows",
     OPTION_FLAG, &flags.reproducible, NULL},
    OPTION_OF_BACKEND(&flags.backend),
    OPTION_OF_CHAT_TEMPLATE(&flags.template_file),
    {"--max-tokens", "-n --predict", "N", "most tokens of an answer that names no limit",
     OPTION_U32, &flags.max_tokens, NULL},
    {"--quiet", "-q", NULL, "no line per request", OPTION_FLAG, &flags.quiet, NULL},
    {"--demo", NULL, NULL, "show a call, measure 1 and 32 users, chat on a terminal, stop",
     OPTION_FLAG, &flags.demo, NULL},
    SAMPLING_OPTIONS,
    OPTIONS_END,
};

/* ---- addresses and keys ----------------------------------------------------------------------- */

/* OLLAMA_HOST as Ollama reads it: "host", "host:port", "http://host:port". */
static const char *address_from_environment(char *out, size_t size)
{
    const char *text = getenv("OLLAMA_HOST");
    if (!text || !*text)
        return NULL;
    if (strncmp(text, "http://", 7) == 0)
        text += 7;
    int n = (int)strcspn(text, "/");
    const char *colon = memchr(text, ':', (size_t)n);
    snprintf(out, size, colon ? "%.*s" : "%.*s:11434", n, text);
    return out;
}

static enum status bind_one(const char *text, bool move, struct http_address *addresses, size_t *n,
                            struct error *err)
{
    if (*n == HTTP_LISTENERS_MAX)
        return error_set(err, STATUS_USAGE, "at most %d addresses", HTTP_LISTENERS_MAX);
    enum status status = http_listen(text, move, &addresses[*n], err);
    *n += status == STATUS_OK;
    return status;
}

static enum status bind_all(struct http_address *addresses, size_t *n, struct error *err)
{
    char text[300], environment[300];
    enum status status = STATUS_OK;
    for (size_t i = 0; i < flags.n_listen && status == STATUS_OK; i++)
        status = bind_one(flags.listen[i], false, addresses, n, err);
    if (status == STATUS_OK && (flags.host || flags.has_port)) {
        const char *host = flags.host ? flags.host : "127.0.0.1";
        bool v6 = strchr(host, ':') && host[0] != '[';
        snprintf(text, sizeof text, v6 ? "[%s]:%u" : "%s:%u", host,
                 flags.has_port ? flags.port : 8080);
        status = bind_one(text, false, addresses, n, err);
    }
    if (status == STATUS_OK && *n == 0) {
        const char *given = address_from_environment(environment, sizeof environment);
        any_port = !given;
        status = bind_one(given ? given : DEFAULT_ADDRESS, any_port, addresses, n, err);
    }
    if (status == STATUS_OK && flags.ollama)
        status = bind_one("127.0.0.1:11434", false, addresses, n, err);
    return status;
}

/* An empty key is a variable that was not set, and would let in whoever sends none. */
static enum status check_keys(struct error *err)
{
    for (size_t i = 0; i < flags.n_keys; i++)
        if (!*flags.keys[i])
            return error_set(err, STATUS_USAGE, "--api-key: the key is empty");
    return STATUS_OK;
}

/* Whoever can reach an address beyond this machine needs a key, unless told otherwise. */
static void make_key(const struct http_address *addresses, size_t n)
{
    static char key[64];
    bool reachable = false;
    for (size_t i = 0; i < n; i++)
        reachable = reachable || !addresses[i].loopback;
    uint8_t bytes[24];
    if (!reachable || flags.n_keys || flags.insecure || getentropy(bytes, sizeof bytes) != 0)
        return;
    int used = snprintf(key, sizeof key, "sk-");
    for (size_t i = 0; i < sizeof bytes; i++)
        used += snprintf(key + used, sizeof key - (size_t)used, "%02x", bytes[i]);
    flags.keys[flags.n_keys++] = key;
    fprintf(stderr,
            "Others can reach this address, so a key is needed (--api-key sets your own, "
            "--insecure turns it off):\n  API key: %s\n",
            key);
}

static enum status check_cache_scope(struct error *err)
{
    const char *scope = flags.cache_scope ? flags.cache_scope : "all";
    bool by_key = strcmp(scope, "key") == 0;
    if (!by_key && strcmp(scope, "all") != 0)
        return error_set(err, STATUS_USAGE, "--cache-scope %s: expected all or key", scope);
    if (by_key && flags.n_keys == 0)
        return error_set(err, STATUS_USAGE,
                         "--cache-scope key needs API keys to tell clients apart: add --api-key");
    return STATUS_OK;
}

/* ---- the models ------------------------------------------------------------------------------- */

/* Those of the command line, the folder's, or the bundled one. */
static enum status collect_models(const struct arguments *arguments, struct served_models *list,
                                  struct error *err)
{
    char demo[4096];
    enum status status = STATUS_OK;
    for (size_t i = 0; i < arguments->count && status == STATUS_OK; i++)
        status = served_models_add(list, arguments->items[i], err);
    if (status == STATUS_OK && flags.model)
        status = served_models_add(list, flags.model, err);
    if (status == STATUS_OK && flags.folder)
        return served_models_scan(list, flags.folder, err);
    if (status == STATUS_OK && list->count == 0) {
        status = demo_model_path(demo, sizeof demo, err);
        if (status == STATUS_OK)
            status = served_models_add(list, demo, err);
    }
    return status;
}

/* Several models share four fifths of what is free now, where nobody says how much. */
static uint64_t choose_memory(size_t n_models)
{
    struct hardware *hw = flags.memory || n_models < 2 ? NULL : calloc(1, sizeof *hw);
    uint64_t memory = flags.memory;
    if (hw && hardware_detect_host(hw, NULL) == STATUS_OK)
        memory = hw->memory_available / 5 * 4;
    free(hw);
    return memory;
}

static enum status create_set(const struct served_models *list, const char *chat_template,
                              sluice_models_options *set, sluice_models **out, struct error *err)
{
    sluice_error error;
    *set = (sluice_models_options){
        .engine =
            {
                .backend = flags.backend,
                .n_threads = flags.n_threads,
                .n_context = flags.context,
                .max_sequences = flags.sequences ? flags.sequences
                                 : flags.demo    ? 32
                                                 : 0,
                .kv_memory = flags.kv_memory,
                .kv_type = flags.kv_type,
                .max_gap_ms = flags.max_gap,
                .no_prefix_cache = flags.no_prefix_cache,
                .cache_by_key = flags.cache_scope && strcmp(flags.cache_scope, "key") == 0,
                .reproducible = flags.reproducible,
                .chat_template = chat_template,
                .max_queued = flags.max_queued,
                .max_queued_tokens = flags.max_queued_tokens,
                .max_key_requests = flags.max_of_key,
                .packed_cache = flags.packed_cache,
                .packed_cache_size = flags.packed_cache_size,
            },
        .memory = choose_memory(list->count),
        .keep_alive_ms = list->count == 1 ? -1 : 0,
    };
    if (chat_template && list->count > 1)
        return error_set(err, STATUS_USAGE,
                         "--chat-template replaces the template of one model, and %zu are served",
                         list->count);
    if (flags.keep_alive && parse_keep_alive(flags.keep_alive, &set->keep_alive_ms, err))
        return err->status;
    if (sluice_models_create(set, out, &error) != SLUICE_OK)
        return status_from_public(&error, err);
    for (size_t i = 0; i < list->count; i++)
        if (sluice_models_add(*out, list->items[i].name, list->items[i].path, &error) != SLUICE_OK)
            return status_from_public(&error, err);
    return STATUS_OK;
}

struct arrival {
    pthread_mutex_t lock;
    bool done;
    sluice_engine *engine;
    sluice_error error;
};

static void arrived(void *context, sluice_engine *engine, const sluice_error *error)
{
    struct arrival *arrival = context;
    pthread_mutex_lock(&arrival->lock);
    arrival->engine = engine;
    arrival->error = *error;
    arrival->done = true;
    pthread_mutex_unlock(&arrival->lock);
}

static bool has_arrived(struct arrival *arrival)
{
    pthread_mutex_lock(&arrival->lock);
    bool done = arrival->done;
    pthread_mutex_unlock(&arrival->lock);
    return done;
}

/* Loads the only model; a signal meanwhile ends the program as if it had not been blocked. */
static enum status load_first(sluice_models *models, const char *name, const sigset_t *signals,
                              struct error *err)
{
    static struct arrival arrival = {.lock = PTHREAD_MUTEX_INITIALIZER};
    const struct timespec tick = {0, 20000000};
    sluice_engine *engine;
    if (sluice_models_hold(models, name, NULL, arrived, &arrival, &engine, &arrival.error) !=
        SLUICE_OK)
        return status_from_public(&arrival.error, err);
    while (!engine && !has_arrived(&arrival)) {
        sluice_model_entry entry = {0};
        sluice_models_list(models, &entry, 1);
        terminal_progress(NULL, entry.progress < 1.0 ? entry.progress : 0.999, "loading");
        if (sigtimedwait(signals, NULL, &tick) > 0)
            _exit(128 + SIGTERM);
    }
    terminal_progress(NULL, 1.0, "loading");
    engine = engine ? engine : arrival.engine;
    if (!engine)
        return status_from_public(&arrival.error, err);
    sluice_models_release(models, engine); /* stays loaded by its keep-alive */
    return STATUS_OK;
}

static void print_models(const struct served_models *list, sluice_models *models,
                         const sluice_models_options *set)
{
    sluice_model_info info;
    const char *first = list->items[0].name;
    if (list->count == 1 && sluice_models_look(models, first, &info, NULL)) {
        fprintf(stderr,
                "%s: %s on %s (%s), %u tokens of context, %.1f MiB of weights, %.1f MiB of KV\n",
                first, info.architecture, info.backend, info.device, info.n_context,
                (double)info.weight_bytes / 1048576.0, (double)info.kv_bytes / 1048576.0);
        return;
    }
    fprintf(stderr, "%zu models, loaded when they are asked for, within %.1f GiB:\n", list->count,
            (double)set->memory / (double)(1u << 30));
    for (size_t i = 0; i < list->count; i++)
        fprintf(stderr, "  %s%s\n", list->items[i].name,
                i == 0 ? " (for requests that name none)" : "");
}

static void print_addresses(const struct http_address *addresses, size_t n)
{
    if (any_port && strcmp(addresses[0].text, DEFAULT_ADDRESS) != 0)
        fprintf(stderr, "%s is taken by another program; a free port was chosen\n",
                DEFAULT_ADDRESS);
    for (size_t i = 0; i < n; i++) {
        bool file = strncmp(addresses[i].text, "unix:", 5) == 0;
        printf("listening on %s%s\n", file ? "" : "http://", addresses[i].text);
    }
    fflush(stdout);
}

/* ---- signals ---------------------------------------------------------------------------------- */

static void *exit_at_second_signal(void *context)
{
    int number;
    sigwait(context, &number);
    log_warn("a second signal: exiting at once");
    _exit(1);
}

/* SIGINT and SIGTERM are blocked in all threads; this thread waits for the first. */
static void serve_until_signal(struct server *server, sigset_t *signals)
{
    int number;
    pthread_t impatient;
    sigwait(signals, &number);
    fprintf(stderr, "finishing what is in work (up to %d s; a second signal exits at once)\n",
            DRAIN_SECONDS);
    if (pthread_create(&impatient, NULL, exit_at_second_signal, signals) == 0)
        pthread_detach(impatient);
    server_drain(server, DRAIN_SECONDS);
}

/* ---- a first look ------------------------------------------------------------------------------ */

static enum status measure(const char *url, struct error *err)
{
    struct load_config config = {
        .url = url,
        .users = {1, 32},
        .n_levels = 2,
        .brief = true,
        .prompt_tokens = 30,
        .max_tokens = 24,
        .think_seconds = -1.0,
        .seed = 1,
        .api_key = flags.n_keys ? flags.keys[0] : NULL,
        .progress = terminal_progress,
    };
    struct load_report *report = calloc(1, sizeof *report);
    struct buf out = {0};
    if (!report)
        return error_set(err, STATUS_MEMORY, "out of memory for a report");
    enum status status = load_run(&config, report, err);
    if (status == STATUS_OK) {
        load_print(report, &out);
        printf("\n%s", out.data ? out.data : "");
        fflush(stdout);
    }
    buf_release(&out);
    load_report_release(report);
    free(report);
    return status;
}

/* What `make run` shows: that it answers, how fast, and on a terminal a chat through the server. */
static enum status demonstrate(const struct http_address *address, sigset_t *signals,
                               struct error *err)
{
    char url[300];
    pthread_sigmask(SIG_UNBLOCK, signals, NULL);
    snprintf(url, sizeof url, "http://%s", address->text);
    printf("\ntry it:\n  curl %s/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", "
           "\"content\": \"Hello\"}]}'\n\nmeasuring one and 32 users through HTTP ...\n",
           url);
    fflush(stdout);
    enum status status = measure(url, err);
    if (status != STATUS_OK || !isatty(STDIN_FILENO))
        return status;
    struct chat_settings settings = {.url = url};
    sampling_prefer_temperature(0.0f);
    status = sampling_given(&settings.sampling, err);
    if (status != STATUS_OK)
        return status;
    printf("\nchatting through the server; ");
    return chat_loop(NULL, &settings, err);
}

static enum status read_aliases(const struct served_models *list, struct server_alias *aliases,
                                struct error *err)
{
    static char texts[LIST_MAX][512];
    enum status status = STATUS_OK;
    for (size_t i = 0; i < flags.n_aliases && status == STATUS_OK; i++) {
        if (strlen(flags.aliases[i]) >= sizeof texts[i])
            return error_set(err, STATUS_USAGE, "--alias: a name longer than 500 bytes");
        memcpy(texts[i], flags.aliases[i], strlen(flags.aliases[i]) + 1);
        status = served_alias(list, texts[i], &aliases[i], err);
    }
    return status;
}

static enum status serve(const struct served_models *list, const char *chat_template,
                         const struct http_address *addresses, size_t n_addresses,
                         sigset_t *signals, struct error *err)
{
    static struct server_alias aliases[LIST_MAX];
    struct server *server;
    sluice_models *models = NULL;
    sluice_models_options set;
    struct server_options server_options = {
        .model_name = list->items[0].name,
        .aliases = aliases,
        .n_aliases = flags.n_aliases,
        .addresses = addresses,
        .n_addresses = n_addresses,
        .api_keys = flags.keys,
        .n_api_keys = flags.n_keys,
        .allowed_hosts = flags.hosts,
        .n_allowed_hosts = flags.n_hosts,
        .strict = flags.strict,
        .defaults = &flags.sampling,
        .max_tokens = flags.max_tokens,
    };
    enum status status = read_aliases(list, aliases, err);
    if (status == STATUS_OK)
        status = create_set(list, chat_template, &set, &models, err);
    if (status == STATUS_OK && list->count == 1)
        status = load_first(models, list->items[0].name, signals, err);
    server_options.models = models;
    if (status == STATUS_OK)
        status = server_start(&server_options, &server, err);
    if (status == STATUS_OK) {
        print_models(list, models, &set);
        print_addresses(addresses, n_addresses);
        if (flags.demo)
            status = demonstrate(&addresses[0], signals, err);
        else
            serve_until_signal(server, signals);
        server_stop(server);
    }
    sluice_models_close(models);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    /* Static: the thread that waits for a second signal may outlive this frame. Blocked before the
     * first thread starts, so that no thread but the one that waits for them gets them. */
    static sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    log_set_level(flags.quiet || flags.demo ? LOG_WARN : LOG_INFO);
    log_set_times(!flags.demo && !getenv("JOURNAL_STREAM")); /* the journal dates lines itself */
    struct http_address addresses[HTTP_LISTENERS_MAX];
    size_t n_addresses = 0;
    struct buf chat_template = {0};
    struct served_models list = {0};
    enum status status = sampling_given(&flags.sampling, err);
    if (status == STATUS_OK)
        status = check_keys(err);
    if (status == STATUS_OK)
        status = collect_models(arguments, &list, err);
    if (status == STATUS_OK)
        status = bind_all(addresses, &n_addresses, err);
    if (status == STATUS_OK)
        status = read_chat_template(flags.template_file, &chat_template, err);
    if (status == STATUS_OK) {
        make_key(addresses, n_addresses);
        status = check_cache_scope(err);
    }
    if (status == STATUS_OK) {
        pthread_sigmask(SIG_BLOCK, &signals, NULL);
        status = serve(&list, chat_template.data, addresses, n_addresses, &signals, err);
    }
    served_models_release(&list);
    buf_release(&chat_template);
    return status;
}

const struct command command_serve = {
    .name = "serve",
    .synopsis = "the OpenAI API over HTTP",
    .usage = "serve [MODEL...] [--models DIR] [--listen ADDR] [options]",
    .about =
        "Serves models (without any the bundled demo) to any OpenAI client:\n\n"
        "  sluice serve model.gguf --port 8080 --alias gpt-4o\n"
        "  curl http://127.0.0.1:8080/v1/chat/completions -d \\\n"
        "    '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n\n"
        "One model is loaded at once and stays. Of several, each is loaded when a request\n"
        "names it and leaves when it was not used for a while or another one needs its\n"
        "memory:\n\n"
        "  sluice serve --models ~/models --memory 24G --keep-alive 10m\n\n"
        "SIGTERM lets running answers finish for up to 30 s. Addresses that others can reach\n"
        "get an API key. OLLAMA_HOST names the address where no flag does. Sampling flags are for\n"
        "requests that leave a parameter open; else it is temperature 1 and nothing cut.",
    .options = options,
    .run = run,
    .max_arguments = ARGUMENTS_MAX,
};
