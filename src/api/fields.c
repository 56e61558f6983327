/* Tables of fields over jansson values; see fields.h. */
#include "api/fields.h"

#include <math.h>
#include <stdio.h>

#include "base/json.h"

static const char *kind_of(const json_t *value)
{
    if (!value)
        return "missing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

bool fields_parse(struct str body, json_t **root, struct api_error *error)
{
    struct error err;
    *root = NULL;
    if (body.len == 0)
        return api_refuse(error, "body", "the request has no body: a JSON object is needed");
    if (json_parse(body, API_DEPTH_MAX, "the request's body", root, &err) != STATUS_OK)
        return api_refuse(error, "body", "%s", err.message);
    if (json_is_object(*root))
        return true;
    api_refuse(error, "body", "the request's body is %s: a JSON object is needed", kind_of(*root));
    json_decref(*root);
    *root = NULL;
    return false;
}

bool fields_integer(const char *name, const json_t *value, int64_t least, int64_t most,
                    int64_t *out, struct api_error *error)
{
    bool whole = json_is_integer(value);
    if (json_is_real(value)) {
        double real = json_real_value(value);
        whole = real == floor(real);
        if (whole && fabs(real) >= 9.2e18)
            return api_refuse(error, name, "%s is %g: it must be a whole number from %lld to %lld",
                              name, real, (long long)least, (long long)most);
        *out = (int64_t)(whole ? real : 0);
    } else if (whole) {
        *out = json_integer_value(value);
    }
    if (!whole)
        return api_refuse(error, name, "%s is %s: it must be a whole number", name,
                          json_is_real(value) ? "a fraction" : kind_of(value));
    if (*out < least || *out > most)
        return api_refuse(error, name, "%s is %lld: it must be a whole number from %lld to %lld",
                          name, (long long)*out, (long long)least, (long long)most);
    return true;
}

bool fields_float(const char *name, const json_t *value, double least, double most, float *out,
                  struct api_error *error)
{
    if (!json_is_number(value))
        return api_refuse(error, name, "%s is %s: it must be a number", name, kind_of(value));
    double number = json_number_value(value);
    if (!(number >= least && number <= most))
        return api_refuse(error, name, "%s is %g: it must be a number from %g to %g", name, number,
                          least, most);
    *out = (float)number;
    return true;
}

bool fields_text(struct api_call *call, const char *name, const json_t *value, const char **out,
                 struct api_error *error)
{
    if (!json_is_string(value))
        return api_refuse(error, name, "%s is %s: it must be a string", name, kind_of(value));
    struct str text = {json_string_value(value), json_string_length(value)};
    if (memchr(text.data, 0, text.len))
        return api_refuse(error, name, "%s contains the character U+0000, which text must not",
                          name);
    *out = arena_copy_str(&call->arena, text).data;
    return *out || api_fail(error, 503, "server_error", "out_of_memory", "out of memory");
}

static bool read_field(struct api_call *call, const struct field *field, const json_t *value,
                       struct api_error *error)
{
    char *target = (char *)call + field->offset;
    int64_t integer = 0;
    bool ok = true;
    switch (field->kind) {
    case FIELD_FLOAT:
        ok = fields_float(field->name, value, field->least, field->most, (float *)(void *)target,
                          error);
        break;
    case FIELD_U32:
        ok = fields_integer(field->name, value, (int64_t)field->least, (int64_t)field->most,
                            &integer, error);
        if (ok)
            *(uint32_t *)(void *)target = (uint32_t)integer;
        break;
    case FIELD_I32:
        ok = fields_integer(field->name, value, (int64_t)field->least, (int64_t)field->most,
                            &integer, error);
        if (ok)
            *(int32_t *)(void *)target = (int32_t)integer;
        break;
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return api_refuse(error, field->name, "%s is %s: it must be true or false", field->name,
                              kind_of(value));
        *(bool *)target = json_is_true(value);
        break;
    case FIELD_CUSTOM:
        ok = field->read(call, field->name, value, error);
        break;
    case FIELD_ACCEPT:
        break;
    }
    if (ok)
        call->options.sampling.set |= field->set;
    return ok;
}

/* Names end in a header: what could break one is left out. */
static void remember_ignored(struct api_call *call, const char *name)
{
    size_t length = strlen(call->ignored), n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (name[i] < '!' || name[i] > '~' || name[i] == ',')
            return;
    if (length + n + 3 > sizeof call->ignored)
        return;
    snprintf(call->ignored + length, sizeof call->ignored - length, "%s%s", length ? ", " : "",
             name);
}

static const struct field *find(const struct field *fields, const char *name)
{
    while (fields->name && strcmp(fields->name, name) != 0)
        fields++;
    return fields->name ? fields : NULL;
}

bool fields_read(struct api_call *call, const struct field *fields, const struct field *more,
                 json_t *object, struct api_error *error)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        const struct field *field = find(fields, name);
        field = field ? field : find(more, name);
        if (field) {
            if (!json_is_null(value) && !read_field(call, field, value, error))
                return false;
        } else if (call->strict) {
            return api_refuse(error, name,
                              "the field %.64s is unknown (this server runs with "
                              "--strict)",
                              name);
        } else {
            remember_ignored(call, name);
        }
    }
    return true;
}
