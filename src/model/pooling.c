/*
 * How an embedding model's makers make one vector of a text's hidden states.
 *
 * GGUF says it as a number in the metadata. Hugging Face folders keep it beside the model, where
 * sentence-transformers writes a list of modules (modules.json: transformer, pooling, normalisation)
 * and a folder for the pooling one. A dense layer after the pooling is refused: without it the
 * vectors would be wrong.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "format/gguf.h"
#include "model/pooling.h"

#define FILE_BYTES_MAX (1u << 16)
#define PATH_MAX_BYTES 256

static enum status from_gguf(const struct checkpoint *checkpoint, struct str prefix,
                             enum model_pooling *out, struct error *err)
{
    static const enum model_pooling kinds[] = {MODEL_POOLING_NONE, MODEL_POOLING_MEAN,
                                               MODEL_POOLING_FIRST, MODEL_POOLING_LAST};
    char key[PATH_MAX_BYTES];
    double value;
    snprintf(key, sizeof key, "%.*s.pooling_type", STR_ARG(prefix));
    if (!gguf_get_f64(checkpoint_gguf(checkpoint), key, &value))
        return STATUS_OK;
    if (!(value >= 0.0 && value < 4.0))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s is %g: known are 0 (none), 1 (mean), 2 (first token), 3 (last)", key,
                         value);
    *out = kinds[(int)value];
    return STATUS_OK;
}

/* The pooling module's folder, empty if the list has none. */
static enum status read_modules(const json_t *modules, char folder[PATH_MAX_BYTES],
                                struct error *err)
{
    size_t i;
    json_t *module;
    folder[0] = 0;
    json_array_foreach(modules, i, module)
    {
        const char *type = json_string_value(json_object_get(module, "type"));
        const char *path = json_string_value(json_object_get(module, "path"));
        struct str kind = str_from(type);
        if (str_ends(kind, STR_LIT(".Dense")))
            return error_set(err, STATUS_UNSUPPORTED,
                             "modules.json: a dense layer after the pooling is not supported");
        if (!str_ends(kind, STR_LIT(".Pooling")))
            continue;
        if (!path || strlen(path) >= PATH_MAX_BYTES || strstr(path, ".."))
            return error_set(err, STATUS_MODEL, "modules.json: module %zu has no usable path", i);
        snprintf(folder, PATH_MAX_BYTES, "%s", path);
    }
    return STATUS_OK;
}

static enum status read_pooling(const json_t *config, const char *name, enum model_pooling *out,
                                struct error *err)
{
    static const struct {
        const char *flag, *word;
        enum model_pooling kind;
    } kinds[] = {
        {"pooling_mode_cls_token", "cls", MODEL_POOLING_FIRST},
        {"pooling_mode_mean_tokens", "mean", MODEL_POOLING_MEAN},
        {"pooling_mode_lasttoken", "lasttoken", MODEL_POOLING_LAST},
    };
    const char *word = json_string_value(json_object_get(config, "pooling_mode"));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (json_is_true(json_object_get(config, kinds[i].flag)) ||
            (word && strcmp(word, kinds[i].word) == 0)) {
            *out = kinds[i].kind;
            return STATUS_OK;
        }
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: names no pooling that sluice knows (cls, mean, lasttoken)", name);
}

static enum status from_folder(struct checkpoint *checkpoint, enum model_pooling *out,
                               struct error *err)
{
    char name[2 * PATH_MAX_BYTES], folder[PATH_MAX_BYTES] = "1_Pooling";
    json_t *json = NULL;
    enum status status = STATUS_OK;
    const char *path = checkpoint_file(checkpoint, "modules.json");
    if (path) {
        status = json_parse_file(path, FILE_BYTES_MAX, JSON_DEPTH_DEFAULT, &json, err);
        if (status == STATUS_OK)
            status = read_modules(json, folder, err);
        json_decref(json);
    }
    if (status != STATUS_OK || !folder[0])
        return status;
    snprintf(name, sizeof name, "%s/config.json", folder);
    path = checkpoint_file(checkpoint, name);
    if (!path)
        return STATUS_OK;
    json = NULL;
    status = json_parse_file(path, FILE_BYTES_MAX, JSON_DEPTH_DEFAULT, &json, err);
    if (status == STATUS_OK)
        status = read_pooling(json, name, out, err);
    json_decref(json);
    return status;
}

enum status pooling_read(struct checkpoint *checkpoint, struct str gguf_prefix, bool bidirectional,
                         enum model_pooling *out, struct error *err)
{
    /* What sentence-transformers does with an encoder about which nothing is said. */
    *out = bidirectional ? MODEL_POOLING_MEAN : MODEL_POOLING_NONE;
    return checkpoint_kind(checkpoint) == CHECKPOINT_GGUF
               ? from_gguf(checkpoint, gguf_prefix, out, err)
               : from_folder(checkpoint, out, err);
}
