/* Opening one or many files, and one directory of tensors over all. */
#include "format/weight_files.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "format/safetensors.h"

#define PATH_BYTES_MAX  4608
#define INDEX_BYTES_MAX (64u << 20)
#define PART_DIGITS     5

struct owned_tensor {
    struct owned_tensor *next;
    struct tensor tensor;
    void *memory; /* its data */
    char name[];
};

/* ---- files and their tensors ------------------------------------------------------------------- */

static enum status open_file(struct weight_files *files, const char *path, bool gguf,
                             struct error *err)
{
    void *moved = realloc(files->files, (files->n_files + 1) * sizeof *files->files);
    if (!moved)
        return error_set(err, STATUS_MEMORY, "%s: out of memory", path);
    files->files = moved;
    struct weight_file *file = &files->files[files->n_files++];
    *file = (struct weight_file){0};
    enum status status = mapped_file_open(path, &file->map, err);
    if (status != STATUS_OK)
        return status;
    const uint8_t *data = mapped_file_data(file->map);
    uint64_t size = mapped_file_size(file->map);
    return gguf ? gguf_parse(data, size, path, &file->gguf, err)
                : safetensors_parse(data, size, path, &file->safetensors, err);
}

static size_t count_tensors(const struct weight_file *file)
{
    return file->gguf ? gguf_tensor_count(file->gguf) : safetensors_count(file->safetensors);
}

/* path: the model's, for errors. */
static enum status index_tensors(struct weight_files *files, const char *path, struct error *err)
{
    size_t n = 0;
    for (size_t f = 0; f < files->n_files; f++)
        n += count_tensors(&files->files[f]);
    files->tensors = calloc(n ? n : 1, sizeof *files->tensors);
    if (!files->tensors || !strmap_reserve(&files->by_name, n))
        return error_set(err, STATUS_MEMORY, "%s: out of memory for %zu tensors", path, n);
    for (size_t f = 0; f < files->n_files; f++) {
        const struct weight_file *file = &files->files[f];
        for (size_t i = 0; i < count_tensors(file); i++) {
            const struct tensor *t =
                file->gguf ? gguf_tensor_at(file->gguf, i) : safetensors_at(file->safetensors, i);
            bool existed = false;
            if (!strmap_add(&files->by_name, t->name, (int64_t)files->n_tensors, &existed))
                return error_set(err, STATUS_MEMORY, "%s: out of memory", path);
            if (existed)
                return error_set(err, STATUS_MODEL, "%s: tensor %.*s is in two of its files", path,
                                 STR_ARG(t->name));
            files->tensors[files->n_tensors++] = t;
        }
    }
    return STATUS_OK;
}

void weight_files_close(struct weight_files *files)
{
    for (size_t i = 0; i < files->n_files; i++) {
        gguf_free(files->files[i].gguf);
        safetensors_free(files->files[i].safetensors);
        mapped_file_close(files->files[i].map);
    }
    while (files->owned) {
        struct owned_tensor *next = files->owned->next;
        free(files->owned->memory);
        free(files->owned);
        files->owned = next;
    }
    strmap_release(&files->by_name);
    free(files->tensors);
    free(files->files);
    *files = (struct weight_files){0};
}

bool weight_files_damaged(const struct weight_files *files)
{
    for (size_t i = 0; i < files->n_files; i++)
        if (mapped_file_damaged(files->files[i].map))
            return true;
    return false;
}

/* ---- tensors of our own ------------------------------------------------------------------------ */

static const struct tensor **place_of(struct weight_files *files, const struct tensor *tensor)
{
    const int64_t *index = strmap_get(&files->by_name, tensor->name);
    return index ? &files->tensors[*index] : NULL;
}

enum status weight_files_replace(struct weight_files *files, const struct tensor *old,
                                 const char *name, const struct tensor *tensor, void *memory,
                                 struct error *err)
{
    size_t length = strlen(name);
    struct owned_tensor *owned = malloc(sizeof *owned + length + 1);
    if (!owned) {
        free(memory);
        return error_set(err, STATUS_MEMORY, "out of memory for tensor %s", name);
    }
    *owned = (struct owned_tensor){.next = files->owned, .tensor = *tensor, .memory = memory};
    memcpy(owned->name, name, length + 1);
    owned->tensor.name = (struct str){owned->name, length};
    owned->tensor.data = memory;
    files->owned = owned;
    *place_of(files, old) = &owned->tensor;
    return STATUS_OK;
}

void weight_files_drop(struct weight_files *files, const struct tensor *tensor)
{
    *place_of(files, tensor) = NULL;
}

enum status weight_files_compact(struct weight_files *files, struct error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < files->n_tensors; i++)
        if (files->tensors[i])
            files->tensors[n++] = files->tensors[i];
    files->n_tensors = n;
    strmap_release(&files->by_name);
    if (!strmap_reserve(&files->by_name, n))
        return error_set(err, STATUS_MEMORY, "out of memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = files->tensors[i];
        bool existed = false;
        if (!strmap_add(&files->by_name, t->name, (int64_t)i, &existed))
            return error_set(err, STATUS_MEMORY, "out of memory for %zu tensors", n);
        if (existed)
            return error_set(err, STATUS_MODEL, "tensor %.*s is there as codes and as itself",
                             STR_ARG(t->name));
    }
    return STATUS_OK;
}

enum status weight_files_open_safetensors(struct weight_files *files, const char *path,
                                          struct error *err)
{
    enum status status = open_file(files, path, false, err);
    return status == STATUS_OK ? index_tensors(files, path, err) : status;
}

/* ---- split GGUF -------------------------------------------------------------------------------- */

/* Five digits at `at`. */
static bool read_part(struct str path, size_t at, uint64_t *out)
{
    *out = 0;
    if (at > path.len || path.len - at < PART_DIGITS)
        return false;
    for (size_t i = at; i < at + PART_DIGITS; i++) {
        if (path.data[i] < '0' || path.data[i] > '9')
            return false;
        *out = 10 * *out + (uint64_t)(path.data[i] - '0');
    }
    return true;
}

/* Length of NAME in NAME-00001-of-00003.gguf, or SIZE_MAX. */
static size_t part_name(struct str path, uint64_t *part, uint64_t *count)
{
    const size_t tail = sizeof "-00001-of-00003.gguf" - 1;
    if (path.len <= tail || !str_ends(path, STR_LIT(".gguf")))
        return SIZE_MAX;
    size_t at = path.len - tail;
    bool fits = path.data[at] == '-' && read_part(path, at + 1, part) &&
                memcmp(path.data + at + 1 + PART_DIGITS, "-of-", 4) == 0 &&
                read_part(path, at + PART_DIGITS + 5, count);
    return fits ? at : SIZE_MAX;
}

/* What a part says about itself; 0 parts: it is no part. */
static enum status check_part(const struct gguf *gguf, const char *path, uint64_t part,
                              uint64_t count, struct error *err)
{
    uint64_t number = 0, parts = 0;
    if (!gguf_get_u64(gguf, "split.count", &parts) || parts != count)
        return error_set(err, STATUS_MODEL, "%s: split.count is %llu, but its name says %llu parts",
                         path, (unsigned long long)parts, (unsigned long long)count);
    if (!gguf_get_u64(gguf, "split.no", &number) || number != part - 1)
        return error_set(err, STATUS_MODEL, "%s: split.no is %llu in part %llu", path,
                         (unsigned long long)number, (unsigned long long)part);
    return STATUS_OK;
}

static enum status check_total(const struct weight_files *files, const char *path,
                               struct error *err)
{
    uint64_t total;
    if (gguf_get_u64(files->files[0].gguf, "split.tensors.count", &total) &&
        total != files->n_tensors)
        return error_set(err, STATUS_MODEL,
                         "%s: split.tensors.count is %llu, the parts have %zu tensors", path,
                         (unsigned long long)total, files->n_tensors);
    return STATUS_OK;
}

static enum status open_parts(struct weight_files *files, struct str name, uint64_t count,
                              struct error *err)
{
    enum status status = STATUS_OK;
    for (uint64_t part = 1; part <= count && status == STATUS_OK; part++) {
        char path[PATH_BYTES_MAX];
        snprintf(path, sizeof path, "%.*s-%05u-of-%05u.gguf", STR_ARG(name), (unsigned)part,
                 (unsigned)count);
        if (!file_exists(path))
            return error_set(err, STATUS_DISK,
                             "%s: no such file; the model has %llu parts, which belong in one "
                             "folder",
                             path, (unsigned long long)count);
        status = open_file(files, path, true, err);
        if (status == STATUS_OK)
            status = check_part(files->files[part - 1].gguf, path, part, count, err);
    }
    return status;
}

enum status weight_files_open_gguf(struct weight_files *files, const char *path, struct error *err)
{
    uint64_t inside = 0, part = 0, count = 0;
    enum status status = open_file(files, path, true, err);
    if (status != STATUS_OK)
        return status;
    gguf_get_u64(files->files[0].gguf, "split.count", &inside);
    if (inside <= 1)
        return index_tensors(files, path, err);
    size_t name = part_name(str_from(path), &part, &count);
    if (name == SIZE_MAX)
        return error_set(err, STATUS_MODEL,
                         "%s: one of %llu parts of a split GGUF, but not named like one "
                         "(NAME-00001-of-%05llu.gguf), so that the others cannot be found",
                         path, (unsigned long long)inside, (unsigned long long)inside);
    if (count != inside || part < 1 || part > count)
        return error_set(err, STATUS_MODEL, "%s: split.count is %llu, which its name contradicts",
                         path, (unsigned long long)inside);
    if (count > WEIGHT_FILES_MAX)
        return error_set(err, STATUS_LIMIT, "%s: %llu parts, the limit is %d", path,
                         (unsigned long long)count, WEIGHT_FILES_MAX);
    weight_files_close(files);
    status = open_parts(files, (struct str){path, name}, count, err);
    if (status == STATUS_OK)
        status = index_tensors(files, path, err);
    if (status == STATUS_OK)
        status = check_total(files, path, err);
    return status;
}

/* ---- sharded safetensors ----------------------------------------------------------------------- */

/* A plain file name: nothing that leads out of the folder. */
static bool plain_name(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    return n > 0 && n < 256 && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

/* Opens every file that the map names, once; files: name -> index. */
static enum status open_shards(struct weight_files *files, const char *folder, const char *index,
                               json_t *map, struct strmap *known, struct error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        char path[PATH_BYTES_MAX];
        if (!plain_name(name))
            return error_set(err, STATUS_MODEL,
                             "%s: weight_map gives tensor %.200s no plain file name", index,
                             tensor);
        if (strmap_get(known, str_from(name)))
            continue;
        if (files->n_files == WEIGHT_FILES_MAX)
            return error_set(err, STATUS_LIMIT, "%s: more than %d files", index, WEIGHT_FILES_MAX);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (!file_exists(path))
            return error_set(err, STATUS_DISK,
                             "%s: no such file, but %s names it: is the download complete?", path,
                             index);
        if (!strmap_add(known, str_from(name), (int64_t)files->n_files, NULL))
            return error_set(err, STATUS_MEMORY, "%s: out of memory", index);
        enum status status = open_file(files, path, false, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* Every tensor of the map is there. (Files may hold more.) */
static enum status check_map(const struct weight_files *files, const char *index, json_t *map,
                             struct error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        if (!strmap_get(&files->by_name, str_from(tensor)))
            return error_set(err, STATUS_MODEL, "%s: tensor %.200s is not in %s", index, tensor,
                             json_string_value(value));
    }
    return STATUS_OK;
}

enum status weight_files_open_index(struct weight_files *files, const char *folder,
                                    const char *index, struct error *err)
{
    json_t *root = NULL;
    struct strmap known = {0};
    enum status status = json_parse_file(index, INDEX_BYTES_MAX, JSON_DEPTH_DEFAULT, &root, err);
    json_t *map = json_object_get(root, "weight_map");
    if (status == STATUS_OK && (!json_is_object(map) || json_object_size(map) == 0))
        status = error_set(err, STATUS_MODEL, "%s: no \"weight_map\" with tensors in it", index);
    if (status == STATUS_OK)
        status = open_shards(files, folder, index, map, &known, err);
    if (status == STATUS_OK)
        status = index_tensors(files, index, err);
    if (status == STATUS_OK)
        status = check_map(files, index, map, err);
    strmap_release(&known);
    json_decref(root);
    return status;
}
