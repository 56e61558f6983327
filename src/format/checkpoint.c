/*
 * Opening whatever the user named: a GGUF file, a Hugging Face folder, or a file in such a folder.
 *
 * What a path is follows from the file system and its first bytes, not from its name alone. Formats
 * that sluice does not open (pickles, other frameworks' weights) are refused by a sentence of their own, because
 * "not found" would send the user looking for a file that is there.
 */
#include "format/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/gguf.h"
#include "format/repack.h"
#include "format/weight_files.h"

#define CONFIG_BYTES_MAX (16u << 20)
#define PATH_BYTES_MAX   4096

struct checkpoint {
    enum checkpoint_kind kind;
    char path[PATH_BYTES_MAX];
    char folder[PATH_BYTES_MAX];     /* HF */
    char file[PATH_BYTES_MAX + 256]; /* last answer of checkpoint_file() */
    struct weight_files weights;
    json_t *config, *generation_config, *tokenizer_config;
};

/* Python's json module writes Infinity and NaN, which are no JSON. Outside strings they become 1e308
 * ("no limit" in the configs that have it) and 0.0, in place: the replacements are as long. */
static void tame_python_floats(struct buf *text)
{
    static const struct {
        const char *word, *replacement; /* same length */
    } words[] = {{"Infinity", "1e308   "}, {"NaN", "0.0"}};
    bool in_string = false;
    for (size_t i = 0; i < text->len; i++) {
        char c = text->data[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else {
            for (size_t w = 0; w < 2; w++) {
                size_t n = strlen(words[w].word);
                if (text->len - i >= n && memcmp(text->data + i, words[w].word, n) == 0)
                    memcpy(text->data + i, words[w].replacement, n);
            }
        }
    }
}

static enum status read_config(struct checkpoint *c, const char *name, json_t **out,
                               struct error *err)
{
    const char *path = checkpoint_file(c, name);
    if (!path)
        return STATUS_OK;
    struct buf text = {0};
    enum status status = file_read_all(path, CONFIG_BYTES_MAX, &text, err);
    if (status == STATUS_OK) {
        tame_python_floats(&text);
        status = json_parse(buf_str(&text), JSON_DEPTH_DEFAULT, path, out, err);
    }
    buf_release(&text);
    if (status == STATUS_OK && !json_is_object(*out))
        return error_set(err, STATUS_MODEL, "%s: not a JSON object", path);
    return status;
}

const char *checkpoint_file(struct checkpoint *c, const char *name)
{
    if (c->kind != CHECKPOINT_HF)
        return NULL;
    snprintf(c->file, sizeof c->file, "%s/%s", c->folder, name);
    return file_exists(c->file) ? c->file : NULL;
}

#define PICKLE_ADVICE                                                                              \
    "weights in a pickle file, which can run code when it is read, so sluice does not open it: "   \
    "take the model's safetensors files, or convert it once with Hugging Face's "                  \
    "save_pretrained(folder)"

/* No safetensors in the folder: say which other kind it has. */
static enum status refuse_folder(struct checkpoint *c, struct error *err)
{
    static const struct {
        const char *file, *sentence;
    } kinds[] = {
        {"pytorch_model.bin", PICKLE_ADVICE},
        {"pytorch_model.bin.index.json", PICKLE_ADVICE},
        {"consolidated.00.pth", PICKLE_ADVICE},
        {"tf_model.h5", "TensorFlow weights, which sluice does not open"},
        {"flax_model.msgpack", "Flax weights, which sluice does not open"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (checkpoint_file(c, kinds[i].file))
            return error_set(err, STATUS_UNSUPPORTED, "%s: %s", c->file, kinds[i].sentence);
    return error_set(err, STATUS_DISK,
                     "%s: has config.json but no model.safetensors (to open a GGUF file, name the "
                     "file itself)",
                     c->folder);
}

/* `weights`: the file in the folder that the user named, or NULL. A shard stands for all of them. */
static enum status open_weights(struct checkpoint *c, const char *weights, struct error *err)
{
    char index[sizeof c->file] = "";
    if (checkpoint_file(c, "model.safetensors.index.json"))
        snprintf(index, sizeof index, "%s", c->file);
    const char *path = checkpoint_file(c, weights && !index[0] ? weights : "model.safetensors");
    if (path)
        return weight_files_open_safetensors(&c->weights, path, err);
    if (index[0])
        return weight_files_open_index(&c->weights, c->folder, index, err);
    return refuse_folder(c, err);
}

static enum status open_folder(struct checkpoint *c, const char *weights, struct error *err)
{
    c->kind = CHECKPOINT_HF;
    if (!checkpoint_file(c, "config.json"))
        return error_set(err, STATUS_DISK,
                         "%s: no config.json in this folder (a MODEL is a .gguf file or a folder "
                         "with config.json and model.safetensors)",
                         c->folder);
    enum status status = read_config(c, "config.json", &c->config, err);
    if (status == STATUS_OK)
        status = read_config(c, "generation_config.json", &c->generation_config, err);
    if (status == STATUS_OK)
        status = read_config(c, "tokenizer_config.json", &c->tokenizer_config, err);
    if (status == STATUS_OK)
        status = open_weights(c, weights, err);
    if (status == STATUS_OK) {
        status = repack_weights(&c->weights, c->config, err);
        if (status != STATUS_OK)
            error_prefix(err, "%s", c->folder);
    }
    return status;
}

static enum status open_gguf(struct checkpoint *c, struct error *err)
{
    c->kind = CHECKPOINT_GGUF;
    return weight_files_open_gguf(&c->weights, c->path, err);
}

/* The file begins with "GGUF". */
static bool looks_like_gguf(const char *path)
{
    char magic[4] = {0};
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(magic, 1, sizeof magic, file) : 0;
    if (file)
        fclose(file);
    return n == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
}

static bool is_pickle(struct str path)
{
    static const char *const ends[] = {".bin", ".pth", ".pt", ".ckpt"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (str_ends(path, str_from(ends[i])))
            return true;
    return false;
}

static enum status open_any(struct checkpoint *c, struct error *err)
{
    struct str path = str_from(c->path);
    if (!file_exists(c->path))
        return error_set(err, STATUS_DISK,
                         "%s: no such file or folder (a MODEL is a .gguf file or a folder with "
                         "config.json and model.safetensors)",
                         c->path);
    if (file_is_directory(c->path)) {
        snprintf(c->folder, sizeof c->folder, "%s", c->path);
        return open_folder(c, NULL, err);
    }
    if (str_ends(path, STR_LIT(".gguf")) || looks_like_gguf(c->path))
        return open_gguf(c, err);
    bool is_weights = str_ends(path, STR_LIT(".safetensors"));
    if (is_pickle(path))
        return error_set(err, STATUS_UNSUPPORTED, "%s: %s", c->path, PICKLE_ADVICE);
    if (!str_ends(path, STR_LIT(".json")) && !is_weights)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: neither a GGUF file nor part of a Hugging Face folder", c->path);
    const char *slash = strrchr(c->path, '/');
    size_t folder = slash ? (size_t)(slash - c->path) : 0;
    snprintf(c->folder, sizeof c->folder, "%.*s", slash ? (int)(folder ? folder : 1) : 1,
             slash ? c->path : ".");
    return open_folder(c, !is_weights ? NULL : slash ? slash + 1 : c->path, err);
}

enum status checkpoint_open(const char *path, struct checkpoint **out, struct error *err)
{
    *out = NULL;
    if (strlen(path) >= PATH_BYTES_MAX)
        return error_set(err, STATUS_USAGE, "the model's path is longer than %d bytes",
                         PATH_BYTES_MAX - 1);
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, STATUS_MEMORY, "%s: out of memory", path);
    snprintf(c->path, sizeof c->path, "%s", path);
    enum status status = open_any(c, err);
    if (status != STATUS_OK) {
        checkpoint_close(c);
        return status;
    }
    *out = c;
    return STATUS_OK;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    json_decref(c->config);
    json_decref(c->generation_config);
    json_decref(c->tokenizer_config);
    weight_files_close(&c->weights);
    free(c);
}

enum checkpoint_kind checkpoint_kind(const struct checkpoint *c)
{
    return c->kind;
}

const char *checkpoint_path(const struct checkpoint *c)
{
    return c->path;
}

bool checkpoint_damaged(const struct checkpoint *c)
{
    return weight_files_damaged(&c->weights);
}

size_t checkpoint_tensor_count(const struct checkpoint *c)
{
    return c->weights.n_tensors;
}

const struct tensor *checkpoint_tensor_at(const struct checkpoint *c, size_t index)
{
    return c->weights.tensors[index];
}

const struct tensor *checkpoint_tensor(const struct checkpoint *c, const char *name)
{
    const int64_t *index = strmap_get(&c->weights.by_name, str_from(name));
    return index ? checkpoint_tensor_at(c, (size_t)*index) : NULL;
}

const struct gguf *checkpoint_gguf(const struct checkpoint *c)
{
    return c->kind == CHECKPOINT_GGUF ? c->weights.files[0].gguf : NULL;
}

const json_t *checkpoint_config(const struct checkpoint *c)
{
    return c->config;
}

const json_t *checkpoint_generation_config(const struct checkpoint *c)
{
    return c->generation_config;
}

const json_t *checkpoint_tokenizer_config(const struct checkpoint *c)
{
    return c->tokenizer_config;
}
