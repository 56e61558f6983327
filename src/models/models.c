/*
 * The set of models: implements sluice_models_*() of sluice.h on top of sluice_engine_*(), and knows
 * no more of an engine than an embedder does (so it is a module of its own). A thread of its own
 * ("keeper") loads, one model at a time, and unloads; callers only change what is wanted, under one
 * lock that is never held while a model loads or closes.
 *
 *   unloaded --hold--> wanted --keeper--> loading -> loaded --idle, or room is needed--> closing
 *
 * Before a model loads, its files' sizes must fit beside what is loaded; models that nobody holds
 * make room, least recently used first, and where held ones leave too little, the wanted model waits
 * for a release. Afterwards its real size counts. A model larger than the budget is refused at once.
 *
 * A crowd that never lets go of its model must not keep another one waiting for ever: after
 * PATIENCE_NS as many held models as must go are marked to unload. Who asks for such a model from then
 * on waits until it is back, behind the one that waited.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/str.h"
#include "base/wait.h"
#include "sluice.h"

#define KEEP_ALIVE_DEFAULT_MS 300000
#define PATIENCE_NS           3000000000u
#define FOREVER               INT64_MAX

typedef void (*ready_fn)(void *context, sluice_engine *engine, const sluice_error *error);

struct waiter {
    ready_fn ready;
    void *context;
    struct waiter *next;
};

enum model_stage { STAGE_UNLOADED, STAGE_WANTED, STAGE_LOADING, STAGE_LOADED, STAGE_CLOSING };

struct held_model {
    char *name, *path;
    enum model_stage stage;
    sluice_engine *engine;
    struct waiter *waiters; /* oldest first */
    uint32_t holders;
    uint64_t bytes;        /* what counts against the budget */
    uint64_t used_ns;      /* last hold or release */
    int64_t keep_alive_ms; /* FOREVER: until room is needed */
    bool unload;           /* as soon as nobody holds it; who asks meanwhile waits */
    uint64_t wanted_ns;    /* first asked for: the order of loading */
    double progress;       /* LOADING */
    struct held_model *next;
};

struct sluice_models {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the keeper */
    pthread_t keeper;
    bool started, closing;
    sluice_models_options options;
    struct held_model *models;
    char *backend, *chat_template, *kv_type, *packed_cache; /* owned copies for options.engine */
};

static sluice_status refuse(sluice_error *error, sluice_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static sluice_status refuse(sluice_error *error, sluice_status status, const char *format, ...)
{
    if (!error)
        return status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return error->status = status;
}

/* ---- sizes ------------------------------------------------------------------------------------ */

/* Bytes of a model file, or of the weight files in a folder; 0 where there is nothing to see. */
static uint64_t size_of(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return 0;
    if (!S_ISDIR(info.st_mode))
        return (uint64_t)info.st_size;
    uint64_t total = 0;
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char file[4096];
        bool weights = str_ends(str_from(e->d_name), STR_LIT(".safetensors")) ||
                       str_ends(str_from(e->d_name), STR_LIT(".gguf"));
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        if (weights && stat(file, &info) == 0)
            total += (uint64_t)info.st_size;
    }
    if (folder)
        closedir(folder);
    return total;
}

static uint64_t bytes_loaded(const sluice_models *models)
{
    uint64_t total = 0;
    for (const struct held_model *m = models->models; m; m = m->next)
        if (m->stage >= STAGE_LOADING)
            total += m->bytes;
    return total;
}

/* ---- the keeper; with the lock held ----------------------------------------------------------- */

static void tell(struct held_model *model, sluice_engine *engine, const sluice_error *error)
{
    while (model->waiters) {
        struct waiter *waiter = model->waiters;
        model->waiters = waiter->next;
        model->holders += engine != NULL;
        waiter->ready(waiter->context, engine, error);
        free(waiter);
    }
}

static void close_model(sluice_models *models, struct held_model *model)
{
    sluice_engine *engine = model->engine;
    model->stage = STAGE_CLOSING;
    pthread_mutex_unlock(&models->lock);
    sluice_engine_close(engine);
    pthread_mutex_lock(&models->lock);
    model->engine = NULL;
    model->bytes = 0;
    model->unload = false;
    model->stage = model->waiters ? STAGE_WANTED : STAGE_UNLOADED;
}

struct loading {
    sluice_models *models;
    struct held_model *model;
};

static void take_progress(void *context, double fraction, const char *what)
{
    const struct loading *loading = context;
    (void)what;
    pthread_mutex_lock(&loading->models->lock);
    loading->model->progress = fraction;
    pthread_mutex_unlock(&loading->models->lock);
}

static struct held_model *oldest(sluice_models *models, enum model_stage stage)
{
    struct held_model *best = NULL;
    for (struct held_model *m = models->models; m; m = m->next) {
        uint64_t age = stage == STAGE_WANTED ? m->wanted_ns : m->used_ns;
        bool fits = m->stage == stage && m->holders == 0;
        if (fits && (!best || age < (stage == STAGE_WANTED ? best->wanted_ns : best->used_ns)))
            best = m;
    }
    return best;
}

/* The KV pool takes at most what the weights leave of the budget; half of it where nobody said how
 * much and other models may come. */
static uint64_t pool_of(const sluice_models *models, const struct held_model *model)
{
    uint64_t wanted = models->options.engine.kv_memory;
    if (!models->options.memory)
        return wanted;
    uint64_t left = models->options.memory - bytes_loaded(models) - model->bytes;
    if (wanted == 0)
        wanted = models->models->next ? left / 2 : left;
    wanted = wanted < left ? wanted : left;
    return wanted ? wanted : 1;
}

static void load_model(sluice_models *models, struct held_model *model)
{
    sluice_engine_options options = models->options.engine;
    sluice_error error = {0};
    struct loading loading = {models, model};
    options.model = model->path;
    options.progress = take_progress;
    options.progress_context = &loading;
    options.kv_memory = pool_of(models, model);
    model->stage = STAGE_LOADING;
    model->progress = 0.0;
    pthread_mutex_unlock(&models->lock);
    sluice_engine *engine;
    sluice_status status = sluice_engine_open(&options, &engine, &error);
    sluice_model_info info = {0};
    if (status == SLUICE_OK)
        sluice_engine_info(engine, &info);
    pthread_mutex_lock(&models->lock);
    struct held_model *idle = oldest(models, STAGE_LOADED);
    if (error.status == SLUICE_ERROR_MEMORY && idle) { /* less memory than the budget hoped for */
        model->stage = model->waiters ? STAGE_WANTED : STAGE_UNLOADED;
        close_model(models, idle);
        return;
    }
    model->engine = engine;
    model->bytes = info.weight_bytes + info.kv_bytes;
    model->stage = engine ? STAGE_LOADED : STAGE_UNLOADED;
    model->used_ns = clock_now_ns();
    tell(model, engine, &error);
}

/* When an idle model's time is up; UINT64_MAX: never. */
static uint64_t expiry(const struct held_model *m)
{
    if (m->stage != STAGE_LOADED || m->holders)
        return UINT64_MAX;
    if (m->unload)
        return 0;
    return m->keep_alive_ms == FOREVER ? UINT64_MAX
                                       : m->used_ns + (uint64_t)m->keep_alive_ms * 1000000;
}

/* Held models, least recently asked for first, until what leaves makes room for the wanted one. */
static void send_away(sluice_models *models, const struct held_model *wanted)
{
    uint64_t stays = bytes_loaded(models);
    for (const struct held_model *m = models->models; m; m = m->next)
        stays -= m->stage == STAGE_LOADED && m->unload ? m->bytes : 0;
    while (wanted->bytes + stays >= models->options.memory) {
        struct held_model *first = NULL;
        for (struct held_model *m = models->models; m; m = m->next)
            if (m->stage == STAGE_LOADED && !m->unload && (!first || m->used_ns < first->used_ns))
                first = m;
        if (!first)
            return;
        first->unload = true;
        stays -= first->bytes;
    }
}

/* Room for a wanted model that does not fit beside the loaded ones: true when something was closed.
 * Else it waits, until *until_ns at the latest. */
static bool make_room(sluice_models *models, const struct held_model *wanted, uint64_t now,
                      uint64_t *until_ns)
{
    struct held_model *idle = oldest(models, STAGE_LOADED);
    if (idle) {
        close_model(models, idle);
        return true;
    }
    uint64_t patience = wanted->wanted_ns + PATIENCE_NS;
    if (patience <= now)
        send_away(models, wanted);
    else if (patience < *until_ns)
        *until_ns = patience;
    return false;
}

/* One thing to do, done. False: nothing. */
static bool keep(sluice_models *models, uint64_t *until_ns)
{
    *until_ns = UINT64_MAX;
    uint64_t now = clock_now_ns();
    for (struct held_model *m = models->models; m; m = m->next) {
        uint64_t when = expiry(m);
        if (when <= now) {
            close_model(models, m);
            return true;
        }
        *until_ns = when < *until_ns ? when : *until_ns;
    }
    struct held_model *wanted = oldest(models, STAGE_WANTED);
    if (!wanted)
        return false;
    wanted->bytes = size_of(wanted->path);
    uint64_t budget = models->options.memory;
    if (budget && wanted->bytes + bytes_loaded(models) >= budget) {
        if (wanted->bytes < budget)
            return make_room(models, wanted, now, until_ns);
        sluice_error error;
        wanted->stage = STAGE_UNLOADED;
        refuse(&error, SLUICE_ERROR_MEMORY,
               "%s: its %llu bytes of weights do not fit into the %llu that all models may take",
               wanted->name, (unsigned long long)wanted->bytes, (unsigned long long)budget);
        tell(wanted, NULL, &error);
        return true;
    }
    load_model(models, wanted);
    return true;
}

static void *run_keeper(void *context)
{
    sluice_models *models = context;
    pthread_mutex_lock(&models->lock);
    while (!models->closing) {
        uint64_t until;
        if (!keep(models, &until))
            cond_wait_until(&models->changed, &models->lock, until);
    }
    sluice_error error = {.status = SLUICE_ERROR_CANCELLED, .message = "the models are closing"};
    for (struct held_model *m = models->models; m; m = m->next) {
        tell(m, NULL, &error);
        if (m->stage == STAGE_LOADED)
            close_model(models, m);
    }
    pthread_mutex_unlock(&models->lock);
    return NULL;
}

/* ---- the public side -------------------------------------------------------------------------- */

static void free_model(struct held_model *model)
{
    if (!model)
        return;
    free(model->name);
    free(model->path);
    free(model);
}

static bool copy_text(const char **text, char **owned)
{
    if (!*text)
        return true;
    *text = *owned = strdup(*text);
    return *owned != NULL;
}

sluice_status sluice_models_create(const sluice_models_options *options, sluice_models **out,
                                   sluice_error *error)
{
    sluice_models *models = *out = calloc(1, sizeof *models);
    if (!models)
        return refuse(error, SLUICE_ERROR_MEMORY, "out of memory for models");
    models->options = *options;
    pthread_mutex_init(&models->lock, NULL);
    cond_init(&models->changed);
    sluice_engine_options *engine = &models->options.engine;
    models->started = copy_text(&engine->backend, &models->backend) &&
                      copy_text(&engine->chat_template, &models->chat_template) &&
                      copy_text(&engine->kv_type, &models->kv_type) &&
                      copy_text(&engine->packed_cache, &models->packed_cache) &&
                      pthread_create(&models->keeper, NULL, run_keeper, models) == 0;
    if (models->started)
        return SLUICE_OK;
    sluice_models_close(models);
    *out = NULL;
    return refuse(error, SLUICE_ERROR_MEMORY, "out of memory for the thread that loads models");
}

void sluice_models_close(sluice_models *models)
{
    if (!models)
        return;
    if (models->started) {
        pthread_mutex_lock(&models->lock);
        models->closing = true;
        pthread_cond_signal(&models->changed);
        pthread_mutex_unlock(&models->lock);
        pthread_join(models->keeper, NULL);
    }
    while (models->models) {
        struct held_model *model = models->models;
        models->models = model->next;
        free_model(model);
    }
    free(models->backend);
    free(models->chat_template);
    free(models->kv_type);
    free(models->packed_cache);
    pthread_cond_destroy(&models->changed);
    pthread_mutex_destroy(&models->lock);
    free(models);
}

/* With the lock held. */
static struct held_model *find_model(sluice_models *models, const char *name)
{
    struct held_model *m = models->models;
    while (m && strcmp(m->name, name) != 0)
        m = m->next;
    return m;
}

static sluice_status unknown(const char *name, sluice_error *error)
{
    return refuse(error, SLUICE_ERROR_USAGE, "model '%s' is not known here", name);
}

static int64_t keep_alive(int64_t ms)
{
    return ms < 0 ? FOREVER : ms < INT64_MAX / 2000000 ? ms : FOREVER;
}

sluice_status sluice_models_add(sluice_models *models, const char *name, const char *path,
                                sluice_error *error)
{
    struct held_model *model = calloc(1, sizeof *model);
    int64_t ms = models->options.keep_alive_ms;
    if (model) {
        model->name = strdup(name);
        model->path = strdup(path);
        model->keep_alive_ms = keep_alive(ms ? ms : KEEP_ALIVE_DEFAULT_MS);
    }
    if (!model || !model->name || !model->path) {
        free_model(model);
        return refuse(error, SLUICE_ERROR_MEMORY, "out of memory for a model's name");
    }
    pthread_mutex_lock(&models->lock);
    bool known = find_model(models, name) != NULL;
    struct held_model **end = &models->models;
    while (*end)
        end = &(*end)->next;
    if (!known)
        *end = model;
    pthread_mutex_unlock(&models->lock);
    if (!known)
        return SLUICE_OK;
    free_model(model);
    return refuse(error, SLUICE_ERROR_USAGE, "model '%s' is known already", name);
}

/* For callers that wait themselves. */
struct rendezvous {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool called;
    sluice_engine *engine;
    sluice_error error;
};

static void meet(void *context, sluice_engine *engine, const sluice_error *error)
{
    struct rendezvous *r = context;
    pthread_mutex_lock(&r->lock);
    r->engine = engine;
    r->error = *error;
    r->called = true;
    pthread_cond_signal(&r->done);
    pthread_mutex_unlock(&r->lock);
}

/* With the lock held: *engine, or a waiter. */
static sluice_status hold(sluice_models *models, const char *name, const int64_t *keep_alive_ms,
                          ready_fn ready, void *context, sluice_engine **engine,
                          sluice_error *error)
{
    struct held_model *model = find_model(models, name);
    if (!model)
        return unknown(name, error);
    if (keep_alive_ms)
        model->keep_alive_ms = keep_alive(*keep_alive_ms);
    model->used_ns = clock_now_ns();
    if (model->stage == STAGE_LOADED && !model->unload) {
        model->holders++;
        *engine = model->engine;
        return SLUICE_OK;
    }
    struct waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return refuse(error, SLUICE_ERROR_MEMORY, "out of memory while waiting for %s", name);
    *waiter = (struct waiter){ready, context, NULL};
    if (!model->waiters)
        model->wanted_ns = model->used_ns;
    struct waiter **end = &model->waiters;
    while (*end)
        end = &(*end)->next;
    *end = waiter;
    if (model->stage == STAGE_UNLOADED)
        model->stage = STAGE_WANTED;
    pthread_cond_signal(&models->changed);
    return SLUICE_OK;
}

sluice_status sluice_models_hold(sluice_models *models, const char *name,
                                 const int64_t *keep_alive_ms, ready_fn ready, void *context,
                                 sluice_engine **engine, sluice_error *error)
{
    struct rendezvous r = {.called = false};
    bool waits = ready == NULL;
    *engine = NULL;
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.done, NULL);
    pthread_mutex_lock(&models->lock);
    sluice_status result = hold(models, name, keep_alive_ms, waits ? meet : ready,
                                waits ? (void *)&r : context, engine, error);
    pthread_mutex_unlock(&models->lock);
    if (waits && result == SLUICE_OK && !*engine) {
        pthread_mutex_lock(&r.lock);
        while (!r.called)
            pthread_cond_wait(&r.done, &r.lock);
        pthread_mutex_unlock(&r.lock);
        *engine = r.engine;
        result = r.engine ? SLUICE_OK : r.error.status;
        if (error)
            *error = r.error;
    }
    pthread_cond_destroy(&r.done);
    pthread_mutex_destroy(&r.lock);
    return result;
}

bool sluice_models_abandon(sluice_models *models, const char *name, void *context)
{
    bool found = false;
    pthread_mutex_lock(&models->lock);
    struct held_model *model = find_model(models, name);
    struct waiter **at = model ? &model->waiters : NULL;
    while (at && *at && (*at)->context != context)
        at = &(*at)->next;
    if (at && *at) {
        struct waiter *waiter = *at;
        *at = waiter->next;
        free(waiter);
        found = true;
        if (!model->waiters && model->stage == STAGE_WANTED)
            model->stage = STAGE_UNLOADED;
        pthread_cond_signal(&models->changed);
    }
    pthread_mutex_unlock(&models->lock);
    return found;
}

void sluice_models_release(sluice_models *models, sluice_engine *engine)
{
    pthread_mutex_lock(&models->lock);
    for (struct held_model *m = models->models; m; m = m->next)
        if (m->engine == engine && m->holders) {
            m->holders--;
            m->used_ns = clock_now_ns();
        }
    pthread_cond_signal(&models->changed);
    pthread_mutex_unlock(&models->lock);
}

sluice_status sluice_models_unload(sluice_models *models, const char *name, sluice_error *error)
{
    pthread_mutex_lock(&models->lock);
    struct held_model *model = find_model(models, name);
    if (model && model->stage == STAGE_LOADED)
        model->unload = true;
    pthread_cond_signal(&models->changed);
    pthread_mutex_unlock(&models->lock);
    return model ? SLUICE_OK : unknown(name, error);
}

size_t sluice_models_list(sluice_models *models, sluice_model_entry *entries, size_t capacity)
{
    size_t n = 0;
    pthread_mutex_lock(&models->lock);
    uint64_t now = clock_now_ns();
    for (const struct held_model *m = models->models; m; m = m->next, n++) {
        if (n >= capacity)
            continue;
        uint64_t when = expiry(m);
        entries[n] = (sluice_model_entry){
            .state = m->stage == STAGE_UNLOADED ? SLUICE_MODEL_UNLOADED
                     : m->stage == STAGE_LOADED ? SLUICE_MODEL_LOADED
                                                : SLUICE_MODEL_LOADING,
            .holders = m->holders,
            .bytes = m->bytes,
            .progress = m->stage == STAGE_LOADING ? m->progress : 0.0,
            .expires_ms = when == UINT64_MAX ? -1
                          : when > now       ? (int64_t)((when - now) / 1000000)
                                             : 0,
        };
        snprintf(entries[n].name, sizeof entries[n].name, "%s", m->name);
    }
    pthread_mutex_unlock(&models->lock);
    return n;
}

bool sluice_models_look(sluice_models *models, const char *name, sluice_model_info *info,
                        sluice_stats *stats)
{
    pthread_mutex_lock(&models->lock);
    const struct held_model *model = find_model(models, name);
    bool loaded = model && model->stage == STAGE_LOADED;
    if (loaded && info)
        sluice_engine_info(model->engine, info);
    if (loaded && stats)
        sluice_engine_stats(model->engine, stats);
    pthread_mutex_unlock(&models->lock);
    return loaded;
}
