/*
 * Which model a request means. A model answers to its name in the set and, while it is loaded, to the
 * name it gives itself; then come the aliases, and last the one that takes every name.
 */
#include <stdlib.h>
#include <string.h>

#include "server/internal.h"

static const char *find_served(const struct server *server, const char *name)
{
    for (size_t i = 0; i < server->n_served; i++)
        if (strcmp(server->served[i].name, name) == 0)
            return server->served[i].name;
    return NULL;
}

enum status names_read(struct server *server, struct error *err)
{
    sluice_models *models = server->options.models;
    size_t n = sluice_models_list(models, NULL, 0);
    sluice_model_entry *entries = calloc(n + 1, sizeof *entries);
    server->served = calloc(n + 1, sizeof *server->served);
    if (!entries || !server->served) {
        free(entries);
        return error_set(err, STATUS_MEMORY, "out of memory for %zu models", n);
    }
    sluice_models_list(models, entries, n);
    for (size_t i = 0; i < n; i++)
        memcpy(server->served[i].name, entries[i].name, sizeof entries[i].name);
    server->n_served = n;
    free(entries);
    if (!find_served(server, server->options.model_name))
        return error_set(err, STATUS_USAGE, "there is no model '%s' to serve",
                         server->options.model_name);
    for (size_t i = 0; i < server->options.n_aliases; i++) {
        const struct server_alias *alias = &server->options.aliases[i];
        if (alias->model && !find_served(server, alias->model))
            return error_set(err, STATUS_USAGE, "alias '%s': there is no model '%s'", alias->name,
                             alias->model);
    }
    return STATUS_OK;
}

/* A loaded model's own name. */
static const char *find_own_name(const struct server *server, const char *name)
{
    sluice_model_info info;
    for (size_t i = 0; i < server->n_served; i++)
        if (sluice_models_look(server->options.models, server->served[i].name, &info, NULL) &&
            strcmp(info.name, name) == 0)
            return server->served[i].name;
    return NULL;
}

static const char *find_alias(const struct server *server, const char *name)
{
    for (size_t i = 0; i < server->options.n_aliases; i++) {
        const struct server_alias *alias = &server->options.aliases[i];
        if (strcmp(alias->name, name) == 0)
            return find_served(server, alias->model ? alias->model : server->options.model_name);
    }
    return NULL;
}

const char *names_find(const struct server *server, const char *name, struct api_error *error)
{
    const char *found = find_served(server, *name ? name : server->options.model_name);
    found = found ? found : find_alias(server, name);
    found = found ? found : find_own_name(server, name);
    found = found ? found : find_alias(server, "*");
    if (found || !error)
        return found;
    api_fail(error, 404, "invalid_request_error", "model_not_found",
             "the model '%.128s' is not served here; this server has '%s'%s (start it with --alias "
             "NAME, or --alias '*', to let it answer to other names)",
             name, server->options.model_name,
             server->n_served > 1 ? " and others, GET /v1/models lists them" : "");
    memcpy(error->param, "model", sizeof "model");
    return NULL;
}
