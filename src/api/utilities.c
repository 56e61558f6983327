/* /tokenize, /detokenize, /apply-template: what a client needs to count, or to build prompts. */
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"

struct text_request {
    const char *text;
    bool add_special, parse_special, with_pieces;
};

bool api_model_of(struct str body, char model[API_MODEL_MAX], struct api_error *error)
{
    json_t *root;
    model[0] = 0;
    if (!fields_parse(body, &root, error))
        return false;
    const json_t *name = json_object_get(root, "model");
    bool ok = !name || json_is_null(name) ||
              (json_is_string(name) && json_string_length(name) < API_MODEL_MAX) ||
              api_refuse(error, "model", "model must be the name of a model");
    if (ok && json_is_string(name))
        memcpy(model, json_string_value(name), json_string_length(name) + 1);
    json_decref(root);
    return ok;
}

static bool read_flag(const json_t *root, const char *name, bool otherwise, bool *out,
                      struct api_error *error)
{
    const json_t *value = json_object_get(root, name);
    *out = json_is_boolean(value) ? json_is_true(value) : otherwise;
    return !value || json_is_boolean(value) || json_is_null(value) ||
           api_refuse(error, name, "%s must be true or false", name);
}

static void write_ids(sluice_engine *engine, const int32_t *ids, size_t n, bool pieces,
                      struct buf *out)
{
    buf_append_cstr(out, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_append_char(out, ',');
        if (!pieces) {
            buf_printf(out, "%d", ids[i]);
            continue;
        }
        char text[512];
        size_t length = 0;
        sluice_detokenize(engine, &ids[i], 1, text, sizeof text, &length, NULL);
        buf_printf(out, "{\"id\":%d,\"piece\":", ids[i]);
        json_write_string(out, (struct str){text, length < sizeof text ? length : sizeof text});
        buf_append_char(out, '}');
    }
    buf_printf(out, "],\"count\":%zu}", n);
}

static bool tokenize(sluice_engine *engine, struct str text, bool add_special, bool parse_special,
                     bool pieces, struct buf *out, struct api_error *error)
{
    sluice_error problem;
    size_t n = 0, capacity = text.len + 16;
    int32_t *ids = malloc(capacity * sizeof *ids);
    if (!ids)
        return api_fail(error, 503, "server_error", "out_of_memory", "out of memory");
    bool ok = sluice_tokenize(engine, text.data, text.len, add_special, parse_special, ids,
                              capacity, &n, &problem) == SLUICE_OK;
    if (!ok)
        api_error_from_engine(&problem, error);
    else
        write_ids(engine, ids, n < capacity ? n : capacity, pieces, out);
    free(ids);
    return ok;
}

bool api_tokenize(sluice_engine *engine, struct str body, struct buf *out, struct api_error *error)
{
    json_t *root;
    bool add_special, parse_special, pieces;
    if (!fields_parse(body, &root, error))
        return false;
    const json_t *text = json_object_get(root, "content");
    text = text ? text : json_object_get(root, "prompt");
    bool ok = read_flag(root, "add_special", false, &add_special, error) &&
              read_flag(root, "parse_special", true, &parse_special, error) &&
              read_flag(root, "with_pieces", false, &pieces, error);
    if (ok && !json_is_string(text))
        ok = api_refuse(error, "content", "content must be the text to tokenize");
    if (ok)
        ok = tokenize(engine, (struct str){json_string_value(text), json_string_length(text)},
                      add_special, parse_special, pieces, out, error);
    json_decref(root);
    return ok;
}

static bool read_ids(const json_t *list, int32_t *ids, struct api_error *error)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        int64_t id;
        if (!fields_integer("tokens", json_array_get(list, i), 0, INT32_MAX, &id, error))
            return false;
        ids[i] = (int32_t)id;
    }
    return true;
}

static bool detokenize(sluice_engine *engine, const int32_t *ids, size_t n, struct buf *out,
                       struct api_error *error)
{
    sluice_error problem;
    size_t length = 0;
    struct buf text = {0};
    bool ok = sluice_detokenize(engine, ids, n, NULL, 0, &length, &problem) == SLUICE_OK;
    if (ok && buf_reserve(&text, length + 1))
        ok = sluice_detokenize(engine, ids, n, text.data, length + 1, &length, &problem) ==
             SLUICE_OK;
    if (text.failed) {
        ok = api_fail(error, 503, "server_error", "out_of_memory", "out of memory");
    } else if (!ok) {
        api_error_from_engine(&problem, error);
    } else {
        buf_append_cstr(out, "{\"content\":");
        json_write_string(out, (struct str){text.data, length});
        buf_append_char(out, '}');
    }
    buf_release(&text);
    return ok;
}

bool api_detokenize(sluice_engine *engine, struct str body, struct buf *out,
                    struct api_error *error)
{
    json_t *root;
    if (!fields_parse(body, &root, error))
        return false;
    const json_t *list = json_object_get(root, "tokens");
    size_t n = json_array_size(list);
    int32_t *ids = json_is_array(list) ? malloc((n + 1) * sizeof *ids) : NULL;
    bool ok = ids ? read_ids(list, ids, error)
                  : api_refuse(error, "tokens", "tokens must be a list of token ids");
    if (ok)
        ok = detokenize(engine, ids, n, out, error);
    free(ids);
    json_decref(root);
    return ok;
}

static bool render(sluice_engine *engine, const struct api_call *call, struct buf *out,
                   struct api_error *error)
{
    sluice_error problem;
    size_t length = 0;
    struct buf text = {0};
    bool ok =
        sluice_apply_template(engine, &call->options, NULL, 0, &length, &problem) == SLUICE_OK;
    if (ok && buf_reserve(&text, length + 1))
        ok = sluice_apply_template(engine, &call->options, text.data, length + 1, &length,
                                   &problem) == SLUICE_OK;
    if (text.failed) {
        ok = api_fail(error, 503, "server_error", "out_of_memory", "out of memory");
    } else if (!ok) {
        api_error_from_engine(&problem, error);
    } else {
        buf_append_cstr(out, "{\"prompt\":");
        json_write_string(out, (struct str){text.data, length});
        buf_append_char(out, '}');
    }
    buf_release(&text);
    return ok;
}

bool api_apply_template(sluice_engine *engine, struct str body, struct buf *out,
                        struct api_error *error)
{
    struct api_call call = {0};
    arena_init(&call.arena, 4 * body.len + (1 << 20));
    bool ok = api_openai_chat.parse(&call, body, error) && render(engine, &call, out, error);
    api_call_release(&call);
    return ok;
}
