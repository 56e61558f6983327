/*
 * A checkpoint: named tensors and metadata, wherever they came from.
 *
 * The two kinds are a GGUF file and a Hugging Face folder (config.json, model.safetensors,
 * tokenizer.json, ...). Architecture files (model/arch) bind tensors by name and read
 * hyperparameters through this interface; nothing above `format` parses a file.
 *
 * Tensor dims are outermost first (row-major, as PyTorch prints them): a matrix that maps n_in
 * values to n_out is [n_out, n_in] in both kinds; GGUF's reversed order is turned round on reading.
 * Data pointers point into mapped memory and live until checkpoint_close(). After opening, a
 * checkpoint is read-only: any thread may use it.
 */
#ifndef SLUICE_FORMAT_CHECKPOINT_H
#define SLUICE_FORMAT_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "quant/tensor_type.h"

#define TENSOR_DIMS_MAX 4

struct gguf;

struct tensor {
    struct str name;
    enum tensor_type type;
    uint32_t n_dims; /* 0: scalar, dims all 1 */
    uint64_t dims[TENSOR_DIMS_MAX];
    const void *data; /* mapped, `bytes` long, aligned to an element; little-endian */
    uint64_t bytes;
};

enum checkpoint_kind { CHECKPOINT_GGUF, CHECKPOINT_HF };

struct checkpoint;

/* path: a .gguf file (any part of a split one), a folder with config.json and model.safetensors (or
 * its shards and their index), or a file in such a folder (a .safetensors file that is no shard is
 * then itself the weights). A tokenizer need not be there. Errors name the file and what was
 * expected; pickles (.bin, .pth) are STATUS_UNSUPPORTED, with advice. */
enum status checkpoint_open(const char *path, struct checkpoint **out, struct error *err);
void checkpoint_close(struct checkpoint *checkpoint); /* NULL allowed */

enum checkpoint_kind checkpoint_kind(const struct checkpoint *checkpoint);
const char *checkpoint_path(const struct checkpoint *checkpoint);
/* True once a mapped page was found missing (the file was cut short while open). */
bool checkpoint_damaged(const struct checkpoint *checkpoint);

size_t checkpoint_tensor_count(const struct checkpoint *checkpoint);
const struct tensor *checkpoint_tensor_at(const struct checkpoint *checkpoint, size_t index);
/* NULL if there is none of that name. */
const struct tensor *checkpoint_tensor(const struct checkpoint *checkpoint, const char *name);

/* GGUF kind: its metadata; else NULL. */
const struct gguf *checkpoint_gguf(const struct checkpoint *checkpoint);
/* HF kind: config.json, generation_config.json, tokenizer_config.json as borrowed JSON objects;
 * NULL where absent or for GGUF. Infinity and NaN, which Python writes, are read as 1e308 and 0. */
const json_t *checkpoint_config(const struct checkpoint *checkpoint);
const json_t *checkpoint_generation_config(const struct checkpoint *checkpoint);
const json_t *checkpoint_tokenizer_config(const struct checkpoint *checkpoint);
/* HF kind: path of a file in the folder, or NULL if it is not there. Valid until the next call
 * on this checkpoint from the same thread. */
const char *checkpoint_file(struct checkpoint *checkpoint, const char *name);

#endif
