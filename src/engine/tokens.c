/* The part of the public API that needs no owner thread: text <-> tokens, names, information. */
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/public_error.h"

sluice_status public_status(enum status status, const struct error *err, sluice_error *out)
{
    if (!out)
        return (sluice_status)status;
    *out = (sluice_error){.status = (sluice_status)status};
    if (status != STATUS_OK)
        snprintf(out->message, sizeof out->message, "%s", err->message);
    return out->status;
}

const char *sluice_version(void)
{
    return "sluice " SLUICE_VERSION;
}

const char *sluice_status_name(sluice_status status)
{
    return status_name((enum status)status);
}

static enum status need_tokenizer(const sluice_engine *engine, struct error *err)
{
    if (engine->source.tokenizer)
        return STATUS_OK;
    return error_set(err, STATUS_UNSUPPORTED, "%s: no usable tokenizer (%s); only raw tokens work",
                     engine->source.name,
                     engine->source.tokenizer_problem ? engine->source.tokenizer_problem
                                                      : "the model has none");
}

enum status encode_text(const sluice_engine *engine, struct str text, bool add_bos, bool add_eos,
                        bool parse_special, struct token_list *out, struct error *err)
{
    enum status status = need_tokenizer(engine, err);
    if (status != STATUS_OK)
        return status;
    const struct tokenizer *tokenizer = engine->source.tokenizer;
    struct tokenizer_options options = {
        .specials = parse_special ? TOKENIZER_SPECIALS_ALL : TOKENIZER_SPECIALS_NONE,
        .add_bos = add_bos && tokenizer_adds_bos(tokenizer),
        .add_eos = add_eos && tokenizer_adds_eos(tokenizer),
    };
    return tokenizer_encode(tokenizer, text, NULL, 0, &options, out, err);
}

sluice_status sluice_tokenize(sluice_engine *engine, const char *text, size_t length, bool add_bos,
                              bool parse_special, int32_t *tokens, size_t capacity,
                              size_t *n_tokens, sluice_error *error)
{
    struct error err = {0};
    struct token_list list = {0};
    *n_tokens = 0;
    enum status status = encode_text(engine, (struct str){text, length}, add_bos, add_bos,
                                     parse_special, &list, &err);
    if (status == STATUS_OK) {
        size_t n = list.count < capacity ? list.count : capacity;
        if (n)
            memcpy(tokens, list.ids, n * sizeof *tokens);
        *n_tokens = list.count;
    }
    token_list_release(&list);
    return public_status(status, &err, error);
}

size_t copy_text(struct str from, char *text, size_t capacity)
{
    size_t n = from.len < capacity ? from.len : capacity;
    if (n)
        memcpy(text, from.data, n);
    if (n < capacity)
        text[n] = 0;
    return from.len;
}

sluice_status sluice_detokenize(sluice_engine *engine, const int32_t *tokens, size_t n_tokens,
                                char *text, size_t capacity, size_t *length, sluice_error *error)
{
    struct error err = {0};
    struct buf out = {0};
    *length = 0;
    enum status status = need_tokenizer(engine, &err);
    if (status == STATUS_OK)
        status = tokenizer_decode(engine->source.tokenizer, tokens, n_tokens, false, &out, &err);
    if (status == STATUS_OK && out.failed)
        status = error_set(&err, STATUS_MEMORY, "out of memory for the text");
    if (status == STATUS_OK)
        *length = copy_text(buf_str(&out), text, capacity);
    buf_release(&out);
    return public_status(status, &err, error);
}

void sluice_engine_info(const sluice_engine *engine, sluice_model_info *info)
{
    const struct engine_source *source = &engine->source;
    const struct program *program = source->program;
    *info = (sluice_model_info){
        .n_vocab = program->n_vocab,
        .n_context = engine->size.n_context,
        .n_context_train = program->n_context,
        .n_embedding = program->buffers[program->hidden].width,
        .n_parameters = source->n_parameters,
        .weight_bytes = program_weight_bytes(program),
        .kv_bytes = engine->size.layout.page_bytes * engine->size.layout.n_pages,
        .has_tokenizer = source->tokenizer != NULL,
        .has_chat_template = engine->chat != NULL,
        .has_logits = program->logits != NO_BUFFER,
        .load_seconds = engine->load_seconds,
        .pooling = source->pooling,
    };
    snprintf(info->name, sizeof info->name, "%s", source->name);
    snprintf(info->architecture, sizeof info->architecture, "%s", source->architecture);
    snprintf(info->backend, sizeof info->backend, "%s", engine->api->name);
    snprintf(info->device, sizeof info->device, "%s", engine->backend_info.description);
}
