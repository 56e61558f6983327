/*
 * A model: what a checkpoint means. Programs to run, a tokenizer, a chat template, and the defaults
 * its makers recommend.
 *
 * model_open() reads hyperparameters, lets the architecture's file (arch/) emit the program, and
 * builds the tokenizer. Weights stay in the mapped file; the program borrows them, so a model must
 * outlive every backend that placed its weights. Read-only after opening; any thread.
 */
#ifndef SLUICE_MODEL_MODEL_H
#define SLUICE_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "program/program.h"

struct checkpoint;
struct model;
struct tokenizer;

/* From generation_config.json (or general.sampling.* in GGUF); each value only if its flag is set. */
struct model_generation {
    bool has_temperature, has_top_k, has_top_p, has_min_p, has_repeat_penalty;
    float temperature, top_p, min_p, repeat_penalty; /* do_sample false: temperature 0 */
    int32_t top_k;
};

/* How the makers turn a text's hidden states into one vector. */
enum model_pooling {
    MODEL_POOLING_NONE, /* they do not say */
    MODEL_POOLING_LAST,
    MODEL_POOLING_MEAN,
    MODEL_POOLING_FIRST,
};

/* path: as in checkpoint_open(). STATUS_UNSUPPORTED for an architecture we do not know. A tokenizer
 * that is missing or of an unknown kind is no error: see model_tokenizer(). */
enum status model_open(const char *path, struct model **out, struct error *err);
void model_close(struct model *model); /* NULL allowed */

const struct program *model_program(const struct model *model); /* text in, logits out */
const char *model_architecture(const struct model *model);      /* "qwen3" */
const char *model_name(const struct model *model);
const struct checkpoint *model_checkpoint(const struct model *model);
uint64_t model_parameters(const struct model *model);
/* True once the mapped file was found cut short: results since then are not to be trusted. */
bool model_damaged(const struct model *model);

/* NULL if there is none that sluice can use; model_tokenizer_problem() then says why. */
const struct tokenizer *model_tokenizer(const struct model *model);
const char *model_tokenizer_problem(const struct model *model);
/* The model's own template; len 0 if it has none. */
struct str model_chat_template(const struct model *model);
enum model_pooling model_pooling(const struct model *model);
const struct model_generation *model_generation(const struct model *model);

#endif
