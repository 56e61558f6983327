/*
 * The set of models: implements sluice_models_*() of sluice.h on top of sluice_engine_*(), and knows
 * no more of an engine than an embedder does (so it is a module of its own). A thread of its own ("keeper") loads, one model at a time, and unloads; callers
 * only change what is wanted, under one lock that is never held while a model loads or closes.
 *
 *   unloaded --hold--> wanted --keeper--> loading -> loaded --idle, or room is needed--> closing
 *
 * Before a model loads, its files' sizes must fit beside what is loaded; models that nobody holds
 * make room, least recently used first, and where held ones leave too little, the wanted model waits
 * for a release. Afterwards its real size counts. A model larger than the budget is refused at once.
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
#include "sluice.h"

#define KEEP_ALIVE_DEFAULT_MS 300000
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
    struct waiter *waiters; /* newest first */
    uint32_t holders;
    uint64_t bytes;        /* what counts against the budget */
    uint64_t used_ns;      /* last hold or release */
    int64_t keep_alive_ms; /* FOREVER: until room is needed */
    bool unload;           /* as soon as nobody holds it */
    uint64_t wanted_ns;    /* first asked for: the order of loading */
    struct held_model *next;
};

struct sluice_models {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the keeper */
    pthread_t keeper;
    bool started, closing;
    sluice_models_options options;
    struct held_model *models;
    char *backend, *chat_template, *kv_type; /* owned copies for options.engine */
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

static void load_model(sluice_models *models, struct held_model *model)
{
    sluice_engine_options options = models->options.engine;
    sluice_error error = {0};
    options.model = model->path;
    options.progress = NULL;
    if (models->options.memory) { /* the KV pool takes at most what the weights leave */
        uint64_t left = models->options.memory - bytes_loaded(models) - model->bytes;
        if (options.kv_memory == 0 || options.kv_memory > left)
            options.kv_memory = left ? left : 1;
    }
    model->stage = STAGE_LOADING;
    pthread_mutex_unlock(&models->lock);
    sluice_engine *engine;
    sluice_status status = sluice_engine_open(&options, &engine, &error);
    sluice_model_info info = {0};
    if (status == SLUICE_OK)
        sluice_engine_info(engine, &info);
    pthread_mutex_lock(&models->lock);
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
        struct held_model *idle = oldest(models, STAGE_LOADED);
        if (wanted->bytes < budget) {
            if (idle)
                close_model(models, idle);
            return idle != NULL;
        }
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
        if (keep(models, &until))
            continue;
        if (until == UINT64_MAX) {
            pthread_cond_wait(&models->changed, &models->lock);
        } else {
            struct timespec at;
            clock_gettime(CLOCK_REALTIME, &at);
            uint64_t now = clock_now_ns(), left = until > now ? until - now : 0;
            left += (uint64_t)at.tv_nsec;
            at.tv_sec += (time_t)(left / 1000000000u);
            at.tv_nsec = (long)(left % 1000000000u);
            pthread_cond_timedwait(&models->changed, &models->lock, &at);
        }
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
    pthread_cond_init(&models->changed, NULL);
    sluice_engine_options *engine = &models->options.engine;
    models->started = copy_text(&engine->backend, &models->backend) &&
                      copy_text(&engine->chat_template, &models->chat_template) &&
                      copy_text(&engine->kv_type, &models->kv_type) &&
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
    if (!known) {
        model->next = models->models;
        models->models = model;
    }
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
    if (model->stage == STAGE_LOADED) {
        model->holders++;
        *engine = model->engine;
        return SLUICE_OK;
    }
    struct waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return refuse(error, SLUICE_ERROR_MEMORY, "out of memory while waiting for %s", name);
    *waiter = (struct waiter){ready, context, model->waiters};
    model->waiters = waiter;
    if (model->stage == STAGE_UNLOADED) {
        model->stage = STAGE_WANTED;
        model->wanted_ns = model->used_ns;
    }
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
            .expires_ms = when == UINT64_MAX ? -1
                          : when > now       ? (int64_t)((when - now) / 1000000)
                                             : 0,
        };
        snprintf(entries[n].name, sizeof entries[n].name, "%s", m->name);
    }
    pthread_mutex_unlock(&models->lock);
    return n;
}
