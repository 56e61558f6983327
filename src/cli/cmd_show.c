/* sluice show: what is in a model file, and what will be run. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "format/checkpoint.h"
#include "format/gguf.h"
#include "model/model.h"
#include "text/tokenizer/tokenizer.h"

static bool show_program, show_tensors, show_metadata, as_json;
static const char *model_option, *backend_name;

static const struct option options[] = {
    {"--program", NULL, NULL, "the operations that run, with the kernel chosen for each",
     OPTION_FLAG, &show_program, NULL},
    {"--tensors", NULL, NULL, "every tensor: type, shape, bytes", OPTION_FLAG, &show_tensors, NULL},
    {"--metadata", NULL, NULL, "the file's metadata or config.json", OPTION_FLAG, &show_metadata,
     NULL},
    {"--json", NULL, NULL, "the same as JSON", OPTION_FLAG, &as_json, NULL},
    {"--backend", NULL, "B", "whose kernels --program names: cpu, cuda or ref", OPTION_TEXT,
     &backend_name, NULL},
    OPTION_OF_MODEL(&model_option),
    OPTIONS_END,
};

#define METADATA_ITEMS_SHOWN 8

static json_t *gguf_scalar(const struct gguf_value *value, uint64_t index)
{
    int64_t integer;
    double number;
    if (value->item_type == GGUF_F32 || value->item_type == GGUF_F64 || value->type == GGUF_F32 ||
        value->type == GGUF_F64)
        return gguf_item_f64(value, index, &number) ? json_real(number) : json_null();
    if (value->type == GGUF_BOOL || (value->type == GGUF_ARRAY && value->item_type == GGUF_BOOL))
        return gguf_item_i64(value, index, &integer) ? json_boolean(integer) : json_null();
    return gguf_item_i64(value, index, &integer) ? json_integer(integer) : json_null();
}

static json_t *text_json(struct str text)
{
    json_t *value = json_stringn(text.data, text.len);
    return value ? value : json_string("(not UTF-8)");
}

static json_t *gguf_json(const struct gguf *gguf, const struct gguf_value *value)
{
    if (value->type == GGUF_STRING) {
        struct str text = {"", 0};
        char *key = strndup(value->key.data, value->key.len);
        if (key)
            gguf_get_str(gguf, key, &text);
        free(key);
        return text_json(text);
    }
    if (value->type != GGUF_ARRAY)
        return gguf_scalar(value, 0);
    json_t *list = json_array();
    uint64_t shown = value->count < METADATA_ITEMS_SHOWN ? value->count : METADATA_ITEMS_SHOWN;
    struct gguf_string_cursor cursor = {0, 0};
    struct str item;
    for (uint64_t i = 0; i < shown; i++) {
        if (value->item_type != GGUF_STRING)
            json_array_append_new(list, gguf_scalar(value, i));
        else if (gguf_next_string(value, &cursor, &item))
            json_array_append_new(list, text_json(item));
    }
    if (value->count > shown) {
        char rest[48];
        snprintf(rest, sizeof rest, "... %llu items in all", (unsigned long long)value->count);
        json_array_append_new(list, json_string(rest));
    }
    return list;
}

static json_t *metadata_json(const struct checkpoint *checkpoint)
{
    const struct gguf *gguf = checkpoint_gguf(checkpoint);
    if (!gguf)
        return json_deep_copy(checkpoint_config(checkpoint));
    json_t *object = json_object();
    for (size_t i = 0; i < gguf_value_count(gguf); i++) {
        const struct gguf_value *value = gguf_value_at(gguf, i);
        json_object_setn_new(object, value->key.data, value->key.len, gguf_json(gguf, value));
    }
    return object;
}

static json_t *tensors_json(const struct checkpoint *checkpoint)
{
    json_t *list = json_array();
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *t = checkpoint_tensor_at(checkpoint, i);
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I}", "name", text_json(t->name),
                                              "type", tensor_type_name(t->type), "shape", shape,
                                              "bytes", (json_int_t)t->bytes));
    }
    return list;
}

static void print_tensors(const struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *t = checkpoint_tensor_at(checkpoint, i);
        printf("%-48.*s %-6s [", STR_ARG(t->name), tensor_type_name(t->type));
        for (uint32_t d = 0; d < t->n_dims; d++)
            printf("%s%llu", d ? ", " : "", (unsigned long long)t->dims[d]);
        printf("] %llu bytes\n", (unsigned long long)t->bytes);
    }
}

static void print_metadata(json_t *metadata)
{
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        if (text && strlen(text) > 200)
            snprintf(text + 197, 4, "...");
        printf("%-44s %s\n", key, text ? text : "");
        free(text);
    }
}

/* Tensor types by their share of the bytes, "Q4_K 62 %, Q6_K 37 %, F32 1 %". */
static void types_summary(const struct checkpoint *checkpoint, struct buf *out, uint64_t *total)
{
    uint64_t bytes[TENSOR_TYPE_END] = {0};
    *total = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(checkpoint); i++) {
        const struct tensor *t = checkpoint_tensor_at(checkpoint, i);
        bytes[t->type] += t->bytes;
        *total += t->bytes;
    }
    for (;;) {
        int best = 0;
        for (int i = 1; i < TENSOR_TYPE_END; i++)
            if (bytes[i] > bytes[best])
                best = i;
        if (!bytes[best])
            return;
        buf_printf(out, "%s%s %.0f %%", out->len ? ", " : "", tensor_type_name((uint32_t)best),
                   100.0 * (double)bytes[best] / (double)(*total ? *total : 1));
        bytes[best] = 0;
    }
}

static uint64_t kv_bytes_per_token(const struct program *program)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < program->n_groups; i++) {
        const struct state_group *g = &program->groups[i];
        if (g->kind != GROUP_RECURRENT)
            bytes += (uint64_t)g->n_layers * g->n_kv_heads * (g->k_head_dim + g->v_head_dim) * 2;
    }
    return bytes;
}

static json_t *summary_json(const struct model *model, const struct checkpoint *checkpoint,
                            const char *problem)
{
    struct buf types = {0};
    uint64_t bytes;
    types_summary(checkpoint, &types, &bytes);
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:I, s:o}", "path", checkpoint_path(checkpoint), "format",
                  checkpoint_kind(checkpoint) == CHECKPOINT_GGUF ? "GGUF" : "Hugging Face folder",
                  "tensors", (json_int_t)checkpoint_tensor_count(checkpoint), "tensor_bytes",
                  (json_int_t)bytes, "types", text_json(buf_str(&types)));
    buf_release(&types);
    if (!model) {
        json_object_set_new(object, "problem", json_string(problem));
        return object;
    }
    const struct program *program = model_program(model);
    json_object_update_new(
        object,
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:b}", "name", model_name(model),
                  "architecture", model_architecture(model), "parameters",
                  (json_int_t)model_parameters(model), "vocabulary", (json_int_t)program->n_vocab,
                  "context", (json_int_t)program->n_context, "kv_bytes_per_token_f16",
                  (json_int_t)kv_bytes_per_token(program), "tokenizer",
                  model_tokenizer(model) ? "yes" : model_tokenizer_problem(model), "chat_template",
                  model_chat_template(model).len > 0));
    return object;
}

static void print_summary(const struct model *model, const struct checkpoint *checkpoint,
                          const char *problem)
{
    struct buf types = {0};
    uint64_t bytes;
    types_summary(checkpoint, &types, &bytes);
    printf("file          %s (%s)\n", checkpoint_path(checkpoint),
           checkpoint_kind(checkpoint) == CHECKPOINT_GGUF ? "GGUF" : "Hugging Face folder");
    printf("tensors       %zu, %.1f MB: %.*s\n", checkpoint_tensor_count(checkpoint),
           (double)bytes / 1e6, STR_ARG(buf_str(&types)));
    buf_release(&types);
    if (!model) {
        printf("not runnable  %s\n", problem);
        return;
    }
    const struct program *program = model_program(model);
    printf("name          %s\n", model_name(model));
    printf("architecture  %s, %.2f million parameters\n", model_architecture(model),
           (double)model_parameters(model) / 1e6);
    printf("vocabulary    %u, context %u tokens\n", program->n_vocab, program->n_context);
    printf("KV cache      %.1f KB per token in F16\n",
           (double)kv_bytes_per_token(program) / 1024.0);
    printf("tokenizer     %s\n", model_tokenizer(model) ? "yes" : model_tokenizer_problem(model));
    printf("chat template %s\n", model_chat_template(model).len ? "yes" : "none");
    printf("\nMore: --program, --tensors, --metadata, --json\n");
}

struct kernels {
    const struct backend_api *api;
    struct backend *backend;
    struct loaded_program *loaded;
};

static void describe(void *context, uint32_t op, struct buf *out)
{
    const struct kernels *kernels = context;
    kernels->api->describe(kernels->backend, kernels->loaded, op, out);
}

/* Loads the program into the backend, so that the listing names what would really run. */
static enum status load_kernels(const struct program *program, struct kernels *kernels,
                                struct placed_weight **placed, struct error *err)
{
    struct backend_config config = {.n_threads = 1};
    enum status status = backend_find(backend_name, &kernels->api, NULL, err);
    if (status == STATUS_OK)
        status = kernels->api->open(&config, &kernels->backend, err);
    for (uint32_t i = 0; i < program->n_weights && status == STATUS_OK; i++)
        status = kernels->api->place(kernels->backend, program, i, &placed[i], err);
    struct step_limits limits = {.max_rows = 1,
                                 .max_slices = 1,
                                 .max_outputs = 1,
                                 .max_table_writes = 1,
                                 .n_axes = program->n_axes};
    if (status == STATUS_OK)
        status =
            kernels->api->load(kernels->backend, program, placed, &limits, &kernels->loaded, err);
    return status;
}

static enum status print_program(const struct model *model, struct buf *out, struct error *err)
{
    const struct program *program = model_program(model);
    struct kernels kernels = {NULL, NULL, NULL};
    struct placed_weight **placed = calloc(program->n_weights + 1u, sizeof *placed);
    if (!placed)
        return error_set(err, STATUS_MEMORY, "out of memory");
    enum status status = load_kernels(program, &kernels, placed, err);
    if (status == STATUS_OK)
        program_print(program, out, describe, &kernels);
    if (kernels.backend)
        kernels.api->close(kernels.backend);
    free(placed);
    return status;
}

static enum status show(const struct model *model, const struct checkpoint *checkpoint,
                        const struct error *problem, struct error *err)
{
    struct buf listing = {0};
    if (show_program && !model)
        return error_set(err, problem->status, "%s", problem->message);
    if (show_program) {
        enum status status = print_program(model, &listing, err);
        if (status != STATUS_OK) {
            buf_release(&listing);
            return status;
        }
    }
    if (as_json) {
        json_t *object = summary_json(model, checkpoint, problem->message);
        if (show_metadata)
            json_object_set_new(object, "metadata", metadata_json(checkpoint));
        if (show_tensors)
            json_object_set_new(object, "tensor_list", tensors_json(checkpoint));
        if (show_program)
            json_object_set_new(object, "program", text_json(buf_str(&listing)));
        json_dumpf(object, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(object);
    } else if (!show_program && !show_tensors && !show_metadata) {
        print_summary(model, checkpoint, problem->message);
    } else {
        if (show_metadata) {
            json_t *metadata = metadata_json(checkpoint);
            print_metadata(metadata);
            json_decref(metadata);
        }
        if (show_tensors)
            print_tensors(checkpoint);
        fwrite(listing.data ? listing.data : "", 1, listing.len, stdout);
    }
    buf_release(&listing);
    return STATUS_OK;
}

static enum status run(const struct arguments *arguments, struct error *err)
{
    char demo[4096];
    const char *path = model_option ? model_option : arguments->count ? arguments->items[0] : NULL;
    if (!path) {
        enum status status = demo_model_path(demo, sizeof demo, err);
        if (status != STATUS_OK)
            return status;
        path = demo;
    }
    struct model *model;
    struct error problem = {STATUS_OK, ""};
    if (model_open(path, &model, &problem) == STATUS_OK) {
        enum status status = show(model, model_checkpoint(model), &problem, err);
        model_close(model);
        return status;
    }
    /* Not runnable, but maybe readable: an architecture that is not known yet. */
    struct checkpoint *checkpoint;
    enum status status = checkpoint_open(path, &checkpoint, err);
    if (status != STATUS_OK)
        return status;
    status = show(NULL, checkpoint, &problem, err);
    checkpoint_close(checkpoint);
    return status;
}

const struct command command_show = {
    .name = "show",
    .synopsis = "what is in a model file, and what will run",
    .usage = "show [MODEL] [--program] [--tensors] [--metadata] [--json]",
    .about = "Opens a model file and prints a summary: architecture, size, types, context.\n"
             "Without MODEL: the bundled demo model.\n\n"
             "  sluice show model.gguf\n"
             "  sluice show model.gguf --program      the list of operations and their kernels",
    .options = options,
    .run = run,
    .max_arguments = 1,
};
