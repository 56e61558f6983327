/* What `sluice serve` serves: model paths and folders of them as a list of names. */
#ifndef SLUICE_CLI_SERVE_MODELS_H
#define SLUICE_CLI_SERVE_MODELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "server/server.h"

#define SERVED_MODELS_MAX 1024

struct served_model {
    char *name, *path; /* owned */
};

struct served_models {
    struct served_model *items; /* [count], owned */
    size_t count;
};

/* A file or folder, by its short name: "models/pebble-q8_0.gguf" is "pebble-q8_0". STATUS_DISK where
 * there is none, STATUS_USAGE for a name that is taken. */
enum status served_models_add(struct served_models *list, const char *path, struct error *err);
/* Every model in the folder and up to three levels below: GGUF files (of one in parts the first,
 * without projectors) and folders with a config.json. Where two have one name, the later one gets its
 * path below the folder as its name. */
enum status served_models_scan(struct served_models *list, const char *folder, struct error *err);
void served_models_release(struct served_models *list);

/* "NAME" or "NAME=MODEL" -> an alias whose strings are in `text`, which is cut at the sign. */
enum status served_alias(const struct served_models *list, char *text, struct server_alias *out,
                         struct error *err);
/* "90", "90s", "5m", "1h30m" -> milliseconds as sluice_models_options has them; "0": unload at once,
 * "-1": keep for ever. */
enum status parse_keep_alive(const char *text, int64_t *ms, struct error *err);

#endif
