/*
 * Which backends there are. The CPU ones are compiled in; an accelerator is a plugin that is loaded
 * on first need from a folder we ship (beside the executable, or ../lib/sluice, or the folder named
 * by SLUICE_PLUGIN_DIR), so that one binary runs with and without its driver.
 */
#define _GNU_SOURCE
#include "backend/registry.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "backend/ref/ref.h"
#include "base/file.h"

static const char *const plugin_names[] = {"cuda"};
#define N_PLUGINS (sizeof plugin_names / sizeof *plugin_names)

static const struct backend_api *const builtin[] = {&cpu_backend_api, &ref_backend_api};
#define N_BUILTIN (sizeof builtin / sizeof *builtin)

static const struct backend_api *plugins[N_PLUGINS];
static char plugin_problem[N_PLUGINS][256];
static pthread_once_t plugins_once = PTHREAD_ONCE_INIT;

static void executable_folder(char *out, size_t size)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) {
        snprintf(out, size, ".");
        return;
    }
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    snprintf(out, size, "%s", path);
}

static bool find_plugin(const char *name, char *path, size_t size)
{
    char folder[PATH_MAX];
    const char *override = getenv("SLUICE_PLUGIN_DIR");
    executable_folder(folder, sizeof folder);
    if (override && (size_t)snprintf(path, size, "%s/sluice-%s.so", override, name) < size &&
        file_exists(path))
        return true;
    if ((size_t)snprintf(path, size, "%s/sluice-%s.so", folder, name) < size && file_exists(path))
        return true;
    return (size_t)snprintf(path, size, "%s/../lib/sluice/sluice-%s.so", folder, name) < size &&
           file_exists(path);
}

static const struct backend_api *load_plugin(const char *name, char *problem, size_t size)
{
    char path[PATH_MAX + 64];
    if (!find_plugin(name, path, sizeof path)) {
        snprintf(problem, size, "the plugin sluice-%s.so is not installed", name);
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(problem, size, "%s", dlerror());
        return NULL;
    }
    /* POSIX gives functions through an object pointer; copying the bytes is the portable way. */
    void *symbol = dlsym(library, BACKEND_PLUGIN_SYMBOL);
    backend_plugin_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    const struct backend_api *api = symbol ? entry() : NULL;
    if (!api || api->abi != BACKEND_ABI) {
        snprintf(problem, size, "%s was built for another version of sluice", path);
        dlclose(library);
        return NULL;
    }
    return api;
}

static void load_plugins(void)
{
    for (size_t i = 0; i < N_PLUGINS; i++)
        plugins[i] = load_plugin(plugin_names[i], plugin_problem[i], sizeof plugin_problem[i]);
}

const struct backend_api *backend_at(uint32_t index)
{
    pthread_once(&plugins_once, load_plugins);
    if (index < N_BUILTIN)
        return builtin[index];
    index -= N_BUILTIN;
    for (size_t i = 0; i < N_PLUGINS; i++)
        if (plugins[i] && index-- == 0)
            return plugins[i];
    return NULL;
}

/* A plugin counts as present only if its device opens. */
static bool device_opens(const struct backend_api *api, struct error *err)
{
    struct backend *backend = NULL;
    struct backend_config config = {.n_threads = 1};
    if (api->open(&config, &backend, err) != STATUS_OK)
        return false;
    api->close(backend);
    return true;
}

static enum status find_auto(const struct backend_api **out, struct buf *why)
{
    struct error reason;
    for (size_t i = 0; i < N_PLUGINS; i++) {
        if (!plugins[i] || !device_opens(plugins[i], &reason))
            continue;
        *out = plugins[i];
        if (why)
            buf_printf(why, "%s: its plugin and a device are present", plugins[i]->name);
        return STATUS_OK;
    }
    *out = builtin[0];
    if (why)
        buf_printf(why, "%s: no accelerator backend is usable here", builtin[0]->name);
    return STATUS_OK;
}

enum status backend_find(const char *name, const struct backend_api **out, struct buf *why,
                         struct error *err)
{
    *out = NULL;
    if (!name || strcmp(name, "auto") == 0) {
        pthread_once(&plugins_once, load_plugins);
        return find_auto(out, why);
    }
    for (size_t i = 0; i < N_BUILTIN; i++)
        if (strcmp(builtin[i]->name, name) == 0)
            *out = builtin[i];
    for (size_t i = 0; i < N_PLUGINS && !*out; i++) {
        if (strcmp(plugin_names[i], name) != 0)
            continue;
        pthread_once(&plugins_once, load_plugins);
        if (!plugins[i])
            return error_set(err, STATUS_DEVICE, "backend %s: %s", name, plugin_problem[i]);
        *out = plugins[i];
    }
    if (!*out)
        return error_set(err, STATUS_USAGE, "unknown backend '%s': use auto, cpu, cuda or ref",
                         name);
    if (why)
        buf_printf(why, "%s: asked for", (*out)->name);
    return STATUS_OK;
}
