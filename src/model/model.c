/*
 * Opening a model: checkpoint -> architecture -> program, then the parts that are text (tokenizer,
 * chat template) and the makers' sampling defaults.
 */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/gguf.h"
#include "format/vocabulary.h"
#include "model/build.h"
#include "model/pooling.h"
#include "text/tokenizer/tokenizer.h"

#define TEMPLATE_BYTES_MAX (1u << 20)

struct model {
    struct arena arena;
    struct checkpoint *checkpoint;
    struct program *program;
    const struct architecture *architecture;
    const char *name;
    struct tokenizer *tokenizer;
    char tokenizer_problem[ERROR_MESSAGE_MAX];
    struct buf chat_template;
    struct model_generation generation;
    enum model_pooling pooling;
    uint64_t parameters;
};

static enum status unknown_architecture(struct str name, struct error *err)
{
    size_t known = 0;
    while (architectures[known])
        known++;
    return error_set(
        err, STATUS_UNSUPPORTED,
        "architecture \"%.*s\" is not supported yet; docs/models.md lists the %zu that "
        "are",
        STR_ARG(name), known);
}

/* HF multimodal configs keep the decoder's part under text_config. */
static const json_t *text_config(const json_t *config)
{
    const json_t *text = json_object_get(config, "text_config");
    return json_is_object(text) ? text : config;
}

static struct str architecture_name(const struct checkpoint *checkpoint)
{
    struct str name = {"", 0};
    if (checkpoint_kind(checkpoint) == CHECKPOINT_GGUF) {
        gguf_get_str(checkpoint_gguf(checkpoint), "general.architecture", &name);
        return name;
    }
    const json_t *value = json_object_get(text_config(checkpoint_config(checkpoint)), "model_type");
    return json_is_string(value) ? str_from(json_string_value(value)) : name;
}

static void count_parameters(struct model *model)
{
    for (size_t i = 0; i < checkpoint_tensor_count(model->checkpoint); i++) {
        const struct tensor *t = checkpoint_tensor_at(model->checkpoint, i);
        uint64_t n = 1;
        for (uint32_t d = 0; d < t->n_dims; d++)
            n *= t->dims[d];
        model->parameters += n;
    }
}

static enum status build_program(struct model *model, struct error *err)
{
    struct str name = architecture_name(model->checkpoint);
    bool gguf = checkpoint_kind(model->checkpoint) == CHECKPOINT_GGUF;
    if (name.len == 0)
        return error_set(err, STATUS_MODEL, "%s",
                         gguf ? "general.architecture is missing"
                              : "config.json: model_type is missing");
    model->architecture = architecture_find(name, gguf);
    if (!model->architecture)
        return unknown_architecture(name, err);
    model->program = program_create("text");
    struct build *b = calloc(1, sizeof *b);
    enum status status = STATUS_OK;
    if (b)
        arena_init(&b->arena, 0);
    const char *prefix = b ? arena_copy_str(&b->arena, name).data : NULL;
    if (!model->program || !b || !prefix) {
        status = error_set(err, STATUS_MEMORY, "out of memory while opening the model");
    } else {
        b->checkpoint = model->checkpoint;
        b->gguf = gguf;
        b->gguf_prefix = prefix;
        b->config = gguf ? NULL : text_config(checkpoint_config(model->checkpoint));
        b->hf_names = model->architecture->names;
        b->program = model->program;
        b->x = b->normed = b->qkv = b->q = b->k = b->v = b->attn = NO_BUFFER;
        b->ff = b->route = b->expert_hidden = NO_BUFFER;
        b->shared_ff = b->shared_gate = b->shared_out = NO_BUFFER;
        model->architecture->build(b);
        status = program_finish(model->program, err);
    }
    if (b)
        arena_release(&b->arena);
    free(b);
    return status;
}

static void open_tokenizer(struct model *model)
{
    struct vocabulary vocabulary;
    struct error reason = {0};
    enum status status = vocabulary_from_checkpoint(model->checkpoint, &vocabulary, &reason);
    if (status == STATUS_OK) {
        if (vocabulary.n_tokens > model->program->n_vocab)
            status = error_set(&reason, STATUS_MODEL,
                               "the tokenizer has %u tokens, the model's embedding %u rows",
                               vocabulary.n_tokens, model->program->n_vocab);
        else
            status = tokenizer_create(&vocabulary, &model->tokenizer, &reason);
        vocabulary_release(&vocabulary);
    }
    if (status != STATUS_OK)
        snprintf(model->tokenizer_problem, sizeof model->tokenizer_problem, "%s", reason.message);
}

/* tokenizer_config.json has a string, or a list of named ones of which "default" is the chat. */
static void template_from_json(struct model *model, const json_t *value)
{
    size_t i;
    json_t *item;
    if (json_is_array(value)) {
        json_array_foreach(value, i, item)
        {
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && strcmp(name, "default") == 0)
                value = json_object_get(item, "template");
        }
    }
    if (json_is_string(value))
        buf_append(&model->chat_template, json_string_value(value), json_string_length(value));
}

static enum status open_template(struct model *model, struct error *err)
{
    struct str text;
    if (checkpoint_kind(model->checkpoint) == CHECKPOINT_GGUF) {
        if (gguf_get_str(checkpoint_gguf(model->checkpoint), "tokenizer.chat_template", &text))
            buf_append_str(&model->chat_template, text);
    } else {
        const char *path = checkpoint_file(model->checkpoint, "chat_template.jinja");
        if (path)
            return file_read_all(path, TEMPLATE_BYTES_MAX, &model->chat_template, err);
        template_from_json(model, json_object_get(checkpoint_tokenizer_config(model->checkpoint),
                                                  "chat_template"));
    }
    if (model->chat_template.len > TEMPLATE_BYTES_MAX)
        return error_set(err, STATUS_LIMIT, "the chat template has %zu bytes, the limit is %u",
                         model->chat_template.len, TEMPLATE_BYTES_MAX);
    return STATUS_OK;
}

static bool read_default(const struct model *model, const char *hf_key, const char *gguf_key,
                         double *out)
{
    if (checkpoint_kind(model->checkpoint) == CHECKPOINT_GGUF)
        return gguf_get_f64(checkpoint_gguf(model->checkpoint), gguf_key, out) && isfinite(*out);
    const json_t *value = json_object_get(checkpoint_generation_config(model->checkpoint), hf_key);
    *out = json_number_value(value);
    return json_is_number(value) && isfinite(*out);
}

static void read_generation(struct model *model)
{
    struct model_generation *g = &model->generation;
    double value;
    if (read_default(model, "temperature", "general.sampling.temp", &value)) {
        g->has_temperature = true;
        g->temperature = (float)value;
    }
    if (read_default(model, "top_k", "general.sampling.top_k", &value) && value >= 0 &&
        value <= INT32_MAX) {
        g->has_top_k = true;
        g->top_k = (int32_t)value;
    }
    if (read_default(model, "top_p", "general.sampling.top_p", &value)) {
        g->has_top_p = true;
        g->top_p = (float)value;
    }
    if (read_default(model, "min_p", "general.sampling.min_p", &value)) {
        g->has_min_p = true;
        g->min_p = (float)value;
    }
    if (read_default(model, "repetition_penalty", "general.sampling.penalty_repeat", &value)) {
        g->has_repeat_penalty = true;
        g->repeat_penalty = (float)value;
    }
    const json_t *sample =
        json_object_get(checkpoint_generation_config(model->checkpoint), "do_sample");
    if (json_is_false(sample)) {
        g->has_temperature = true;
        g->temperature = 0.0f;
    }
}

static const char *read_name(struct model *model)
{
    struct str name = {"", 0};
    if (checkpoint_kind(model->checkpoint) == CHECKPOINT_GGUF)
        gguf_get_str(checkpoint_gguf(model->checkpoint), "general.name", &name);
    if (name.len)
        return arena_copy_str(&model->arena, name).data;
    /* The last part of the path that says anything. */
    struct str path = str_from(checkpoint_path(model->checkpoint));
    while (path.len > 1 && path.data[path.len - 1] == '/')
        path.len--;
    size_t start = path.len;
    while (start > 0 && path.data[start - 1] != '/')
        start--;
    return arena_copy_str(&model->arena, (struct str){path.data + start, path.len - start}).data;
}

enum status model_open(const char *path, struct model **out, struct error *err)
{
    *out = NULL;
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return error_set(err, STATUS_MEMORY, "out of memory while opening %s", path);
    arena_init(&model->arena, 0);
    enum status status = checkpoint_open(path, &model->checkpoint, err);
    if (status == STATUS_OK) {
        status = build_program(model, err);
        if (status == STATUS_OK)
            status = pooling_read(model->checkpoint, architecture_name(model->checkpoint),
                                  model->program->bidirectional, &model->pooling, err);
        if (status == STATUS_OK)
            status = open_template(model, err);
        if (status != STATUS_OK)
            error_prefix(err, "%s", path);
    }
    if (status == STATUS_OK) {
        model->name = read_name(model);
        count_parameters(model);
        open_tokenizer(model);
        read_generation(model);
    }
    if (status == STATUS_OK && !model->name)
        status = error_set(err, STATUS_MEMORY, "out of memory while opening %s", path);
    if (status != STATUS_OK) {
        model_close(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

void model_close(struct model *model)
{
    if (!model)
        return;
    tokenizer_free(model->tokenizer);
    program_free(model->program);
    checkpoint_close(model->checkpoint);
    buf_release(&model->chat_template);
    arena_release(&model->arena);
    free(model);
}

const struct program *model_program(const struct model *model)
{
    return model->program;
}

const char *model_architecture(const struct model *model)
{
    return model->architecture->name;
}

const char *model_name(const struct model *model)
{
    return model->name;
}

const struct checkpoint *model_checkpoint(const struct model *model)
{
    return model->checkpoint;
}

uint64_t model_parameters(const struct model *model)
{
    return model->parameters;
}

bool model_damaged(const struct model *model)
{
    return checkpoint_damaged(model->checkpoint);
}

const struct tokenizer *model_tokenizer(const struct model *model)
{
    return model->tokenizer;
}

const char *model_tokenizer_problem(const struct model *model)
{
    return model->tokenizer_problem;
}

struct str model_chat_template(const struct model *model)
{
    return buf_str(&model->chat_template);
}

enum model_pooling model_pooling(const struct model *model)
{
    return model->pooling;
}

const struct model_generation *model_generation(const struct model *model)
{
    return &model->generation;
}
