/*
 * Names for model files. A folder is searched once, at start, in the order of its names, so that the
 * same folder gives the same names everywhere.
 */
#include "cli/serve_models.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"

#define DEPTH_MAX 3

/* ---- names ------------------------------------------------------------------------------------ */

/* "m-00001-of-00003.gguf": the number; 0: not in parts. *tail: length of what is not the name. */
static unsigned part_number(const char *file, size_t *tail)
{
    unsigned part = 0, parts = 0;
    int used = 0;
    size_t n = strlen(file);
    *tail = 0;
    if (n <= 20 || sscanf(file + n - 20, "-%5u-of-%5u.gguf%n", &part, &parts, &used) != 2 ||
        used != 20)
        return 0;
    *tail = 20;
    return part;
}

/* The last part of a path, without what says only that it is a model. */
static char *short_name(const char *path)
{
    size_t n = strlen(path), begin, tail;
    while (n > 1 && path[n - 1] == '/')
        n--;
    for (begin = n; begin > 0 && path[begin - 1] != '/';)
        begin--;
    char *name = strndup(path + begin, n - begin);
    if (!name)
        return NULL;
    if (part_number(name, &tail) == 0 && str_ends(str_from(name), STR_LIT(".gguf")))
        tail = 5;
    if (tail < strlen(name))
        name[strlen(name) - tail] = 0;
    return name;
}

static bool is_taken(const struct served_models *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return true;
    return false;
}

/* `name` becomes the list's, also on failure. */
static enum status append(struct served_models *list, char *name, const char *path,
                          struct error *err)
{
    struct served_model *more = NULL;
    char *copy = name ? strdup(path) : NULL;
    if (copy && list->count < SERVED_MODELS_MAX)
        more = realloc(list->items, (list->count + 1) * sizeof *more);
    if (!more) {
        free(name);
        free(copy);
        return list->count == SERVED_MODELS_MAX
                   ? error_set(err, STATUS_LIMIT, "more than %d models", SERVED_MODELS_MAX)
                   : error_set(err, STATUS_MEMORY, "out of memory for the names of models");
    }
    list->items = more;
    list->items[list->count++] = (struct served_model){name, copy};
    return STATUS_OK;
}

enum status served_models_add(struct served_models *list, const char *path, struct error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(err, STATUS_DISK, "%s: there is no such model file or folder", path);
    char *name = short_name(path);
    if (name && is_taken(list, name)) {
        error_set(err, STATUS_USAGE, "two models have the name '%s': rename one of the files",
                  name);
        free(name);
        return STATUS_USAGE;
    }
    return append(list, name, path, err);
}

void served_models_release(struct served_models *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].name);
        free(list->items[i].path);
    }
    free(list->items);
    *list = (struct served_models){0};
}

/* ---- folders ---------------------------------------------------------------------------------- */

static bool is_model_folder(const char *path)
{
    char file[4096];
    struct stat info;
    int n = snprintf(file, sizeof file, "%s/config.json", path);
    return n > 0 && (size_t)n < sizeof file && stat(file, &info) == 0 && S_ISREG(info.st_mode);
}

static bool is_model_file(const char *file)
{
    size_t tail;
    return str_ends(str_from(file), STR_LIT(".gguf")) &&
           !str_starts(str_from(file), STR_LIT("mmproj")) && part_number(file, &tail) <= 1;
}

static enum status add_found(struct served_models *list, const char *root, const char *path,
                             struct error *err)
{
    char *name = short_name(path);
    if (name && is_taken(list, name)) {
        free(name);
        name = strdup(path + strlen(root) + 1);
        if (name && is_taken(list, name)) {
            free(name);
            return error_set(err, STATUS_USAGE, "%s: its name is taken, also with its folder",
                             path);
        }
    }
    return append(list, name, path, err);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static enum status scan(struct served_models *list, const char *root, const char *folder, int depth,
                        struct error *err)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, visible, alphasort);
    if (n < 0)
        return error_set(err, STATUS_DISK, "%s: cannot be read as a folder of models", folder);
    enum status status = STATUS_OK;
    for (int i = 0; i < n; i++) {
        char path[4096];
        struct stat info;
        const char *file = entries[i]->d_name;
        int length = snprintf(path, sizeof path, "%s/%s", folder, file);
        bool seen = length > 0 && (size_t)length < sizeof path && stat(path, &info) == 0;
        if (status == STATUS_OK && seen) {
            bool inner = S_ISDIR(info.st_mode);
            if (inner ? is_model_folder(path) : is_model_file(file))
                status = add_found(list, root, path, err);
            else if (inner && depth < DEPTH_MAX)
                status = scan(list, root, path, depth + 1, err);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

enum status served_models_scan(struct served_models *list, const char *folder, struct error *err)
{
    size_t before = list->count;
    char *root = strdup(folder);
    if (!root)
        return error_set(err, STATUS_MEMORY, "out of memory");
    for (size_t n = strlen(root); n > 1 && root[n - 1] == '/'; n--)
        root[n - 1] = 0;
    enum status status = scan(list, root, root, 0, err);
    free(root);
    if (status == STATUS_OK && list->count == before)
        return error_set(err, STATUS_USAGE,
                         "--models %s: no model in it: neither a .gguf file nor a folder with a "
                         "config.json",
                         folder);
    return status;
}

/* ---- flags ------------------------------------------------------------------------------------ */

enum status served_alias(const struct served_models *list, char *text, struct server_alias *out,
                         struct error *err)
{
    char *sign = strchr(text, '=');
    *out = (struct server_alias){.name = text};
    if (sign) {
        *sign = 0;
        out->model = sign + 1;
    }
    if (!*text)
        return error_set(err, STATUS_USAGE, "--alias: expected NAME or NAME=MODEL");
    if (is_taken(list, text) && (!sign || strcmp(text, out->model) != 0))
        return error_set(err, STATUS_USAGE, "--alias %s: a model has this name already", text);
    if (sign && !is_taken(list, out->model))
        return error_set(err, STATUS_USAGE, "--alias %s=%s: there is no model '%s' here", text,
                         out->model, out->model);
    return STATUS_OK;
}

enum status parse_keep_alive(const char *text, int64_t *ms, struct error *err)
{
    static const struct {
        const char *unit;
        double ms;
    } units[] = {{"ms", 1}, {"s", 1e3}, {"m", 6e4}, {"h", 3.6e6}};
    double sum = 0;
    const char *at = text;
    bool ok = *at != 0;
    while (ok && *at) {
        char *end;
        double value = strtod(at, &end), scale = 1e3; /* without a unit: seconds */
        ok = end != at && value > -1e9 && value < 1e9;
        for (size_t i = 0; ok && i < sizeof units / sizeof *units; i++)
            if (strncmp(end, units[i].unit, strlen(units[i].unit)) == 0) {
                scale = units[i].ms;
                end += strlen(units[i].unit);
                break;
            }
        sum += value * scale;
        at = end;
    }
    if (!ok)
        return error_set(err, STATUS_USAGE,
                         "--keep-alive %s: expected a time such as 90, 5m or 1h30m; 0 unloads at "
                         "once, -1 keeps for ever",
                         text);
    *ms = sum < 0 ? -1 : sum < 1 ? 1 : (int64_t)sum;
    return STATUS_OK;
}
