/*
 * The weight files of a checkpoint: one, or the parts that a model was split into.
 *
 * A split GGUF is NAME-00001-of-0000N.gguf and its siblings (split.count, split.no and
 * split.tensors.count say the same inside); any part may be named. A sharded safetensors model has
 * an index, model.safetensors.index.json, whose "weight_map" gives every tensor's file. What the
 * names and the numbers inside disagree about is an error, so is a tensor that two parts have. At
 * most 512 files of one folder. Internal to format/.
 */
#ifndef SLUICE_FORMAT_WEIGHT_FILES_H
#define SLUICE_FORMAT_WEIGHT_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/strmap.h"

#define WEIGHT_FILES_MAX 512

struct gguf;
struct mapped_file;
struct safetensors;
struct tensor;

struct owned_tensor;

struct weight_file {
    struct mapped_file *map;
    struct gguf *gguf; /* one of the two */
    struct safetensors *safetensors;
};

/* A zeroed one is valid and empty. */
struct weight_files {
    struct weight_file *files; /* owned */
    size_t n_files;
    const struct tensor **tensors; /* owned list; of all files, in their order */
    size_t n_tensors;
    struct strmap by_name;
    struct owned_tensor *owned; /* of weight_files_replace() */
};

/* Each opens into a zeroed struct, which is to be closed also after an error. */
enum status weight_files_open_gguf(struct weight_files *files, const char *path, struct error *err);
enum status weight_files_open_safetensors(struct weight_files *files, const char *path,
                                          struct error *err);
/* index: path of model.safetensors.index.json in `folder`. */
enum status weight_files_open_index(struct weight_files *files, const char *folder,
                                    const char *index, struct error *err);
/* Puts `tensor` (its name and data set here) in the place of `old`. Takes `memory`, its data, also on
 * an error. Names are found anew only after weight_files_compact(). */
enum status weight_files_replace(struct weight_files *files, const struct tensor *old,
                                 const char *name, const struct tensor *tensor, void *memory,
                                 struct error *err);
/* Takes a tensor out of the list: its place is NULL until weight_files_compact(). */
void weight_files_drop(struct weight_files *files, const struct tensor *tensor);
enum status weight_files_compact(struct weight_files *files, struct error *err);
void weight_files_close(struct weight_files *files);
bool weight_files_damaged(const struct weight_files *files);

#endif
