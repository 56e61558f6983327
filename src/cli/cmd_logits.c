/* sluice logits: what a model says about given tokens, as raw numbers for tests and studies. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const char *ids_option, *out_option, *backend_name, *model_option, *packed_cache;
static bool exact, hidden;
static uint32_t chunk, n_threads;
static uint64_t packed_cache_size;

static const struct option options[] = {
    {"--ids", NULL, "1,2,3", "token ids of the text", OPTION_TEXT, &ids_option, NULL},
    {"--out", "-o", "F", "file to write: little-endian float32", OPTION_TEXT, &out_option, NULL},
    {"--hidden", NULL, NULL, "the last hidden state [n_tokens, width] instead of logits",
     OPTION_FLAG, &hidden, NULL},
    OPTION_OF_EXACT(&exact),
    OPTION_OF_BACKEND(&backend_name),
    {"--chunk", NULL, "N", "most tokens per forward pass", OPTION_U32, &chunk, NULL},
    OPTION_OF_THREADS(&n_threads),
    OPTIONS_OF_PACKED_CACHE(&packed_cache, &packed_cache_size),
    OPTION_OF_MODEL(&model_option),
    OPTIONS_END,
};

static enum status write_rows(sluice_request *request, FILE *file, struct error *err)
{
    sluice_event event;
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            return status_from_public(&event.error, err);
        if (event.kind != SLUICE_EVENT_ROWS)
            continue;
        size_t n = (size_t)event.n_rows * event.row_width;
        if (fwrite(event.rows, sizeof *event.rows, n, file) != n)
            return error_set(err, STATUS_DISK, "%s: %s", out_option, strerror(errno));
    }
    return STATUS_OK;
}

static enum status evaluate(sluice_engine *engine, const int32_t *ids, size_t count,
                            struct error *err)
{
    sluice_error error;
    sluice_request_options request_options = {
        .tokens = ids,
        .n_tokens = count,
        .chunk = chunk,
        .mode = hidden ? SLUICE_SCORE_HIDDEN : SLUICE_SCORE_LOGITS,
    };
    sluice_request *request = NULL;
    if (sluice_submit(engine, &request_options, &request, &error) != SLUICE_OK)
        return status_from_public(&error, err);
    FILE *file = fopen(out_option, "wb");
    enum status status = file ? write_rows(request, file, err)
                              : error_set(err, STATUS_DISK, "%s: %s", out_option, strerror(errno));
    if (file && fclose(file) != 0 && status == STATUS_OK)
        status = error_set(err, STATUS_DISK, "%s: %s", out_option, strerror(errno));
    sluice_request_free(request);
    return status;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    const char *path = model_option ? model_option : arguments->count ? arguments->items[0] : NULL;
    if (!path || !ids_option || !out_option)
        return error_set(err, STATUS_USAGE, "MODEL, --ids and --out are needed: usage: sluice %s",
                         command_logits.usage);
    int32_t *ids;
    size_t count;
    enum status status = parse_ids(ids_option, &ids, &count, err);
    if (status != STATUS_OK)
        return status;
    sluice_error error;
    sluice_engine *engine = NULL;
    sluice_engine_options engine_options = {
        .model = path,
        .backend = backend_name,
        .n_threads = n_threads,
        .exact = exact,
        .packed_cache = packed_cache,
        .packed_cache_size = packed_cache_size,
        .max_sequences = 1,
        .progress = terminal_progress,
    };
    if (sluice_engine_open(&engine_options, &engine, &error) != SLUICE_OK)
        status = status_from_public(&error, err);
    else
        status = evaluate(engine, ids, count, err);
    sluice_engine_close(engine);
    free(ids);
    return status;
}

const struct command command_logits = {
    .name = "logits",
    .synopsis = "raw logits or hidden states of given tokens",
    .usage = "logits MODEL --ids 1,2,3 --out F [--hidden] [--exact] [--backend B]",
    .about = "Runs the model over the tokens and writes float32 [n_tokens, n_vocab] to a file,\n"
             "without any header. The tokenizer is not used.\n\n"
             "  sluice logits model.gguf --ids 1,15043,3186 --out logits.f32 --exact",
    .options = options,
    .run = run,
    .max_arguments = 1,
};
