/*
 * The safetensors parser: the header is JSON, so the work is checking what it claims.
 *
 * A JSON tree takes many times the memory of its text ("{}," is three bytes and a hash table), so
 * the header is never parsed as one document. A scan cuts it into the members of the outermost
 * object, and each, of bounded length, goes through the JSON parser alone: memory grows with the
 * tensors accepted, and a bad header fails at its first bad member.
 */
#include "format/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/json.h"
#include "base/strmap.h"
#include "format/checkpoint.h"

#define HEADER_BYTES_MAX (32u << 20)
#define ENTRY_BYTES_MAX  (16u << 10)
#define ENTRY_DEPTH      4
#define TENSORS_MAX      (1u << 15)
#define NAME_BYTES_MAX   1024

struct safetensors {
    struct arena names;
    struct tensor *tensors; /* owned */
    size_t n_tensors, capacity;
};

struct parse {
    struct str header;
    size_t at;           /* in the header */
    const uint8_t *data; /* after the header */
    uint64_t size;       /* of it */
    uint64_t start;      /* its offset in the file */
    const char *name;
    struct error *err;
};

static enum tensor_type type_of(const char *dtype)
{
    static const struct {
        const char *name;
        enum tensor_type type;
    } names[] = {
        {"F64", TENSOR_F64},   {"F32", TENSOR_F32},         {"F16", TENSOR_F16},
        {"BF16", TENSOR_BF16}, {"F8_E4M3", TENSOR_F8_E4M3}, {"F8_E5M2", TENSOR_F8_E5M2},
        {"I64", TENSOR_I64},   {"I32", TENSOR_I32},         {"I16", TENSOR_I16},
        {"I8", TENSOR_I8},     {"U8", TENSOR_U8},           {"BOOL", TENSOR_BOOL},
        {"U16", TENSOR_U16},   {"U32", TENSOR_U32},         {"U64", TENSOR_U64},
    };
    for (size_t i = 0; dtype && i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, dtype) == 0)
            return names[i].type;
    return TENSOR_TYPE_END;
}

static enum status no_memory(const struct parse *p)
{
    return error_set(p->err, STATUS_MEMORY, "%s: out of memory at byte %zu", p->name, 8 + p->at);
}

static enum status malformed(const struct parse *p, const char *expected)
{
    return error_set(p->err, STATUS_MODEL, "%s: malformed header at byte %llu: expected %s",
                     p->name, 8 + (unsigned long long)p->at, expected);
}

static enum status parse_shape(const struct parse *p, const char *key, const json_t *shape,
                               struct tensor *tensor, uint64_t *elements)
{
    size_t n = json_array_size(shape);
    if (!json_is_array(shape))
        return error_set(p->err, STATUS_MODEL, "%s: shape of tensor %s is no list", p->name, key);
    if (n > TENSOR_DIMS_MAX)
        return error_set(p->err, STATUS_UNSUPPORTED,
                         "%s: shape of tensor %s has %zu dimensions, sluice knows up to %d",
                         p->name, key, n, TENSOR_DIMS_MAX);
    uint64_t extent = 1; /* without the zeros, so that no partial product overflows later */
    *elements = 1;
    tensor->n_dims = (uint32_t)n;
    for (size_t i = 0; i < TENSOR_DIMS_MAX; i++)
        tensor->dims[i] = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(shape, i);
        json_int_t dim = json_integer_value(item);
        if (!json_is_integer(item) || dim < 0 ||
            !checked_mul_u64(extent, dim ? (uint64_t)dim : 1, &extent) || extent > INT64_MAX)
            return error_set(p->err, STATUS_MODEL,
                             "%s: shape of tensor %s: size %zu (%lld) is no count or the product "
                             "overflows",
                             p->name, key, i, (long long)dim);
        *elements *= (uint64_t)dim;
        tensor->dims[i] = (uint64_t)dim;
    }
    return STATUS_OK;
}

static enum status parse_range(const struct parse *p, const char *key, const json_t *offsets,
                               struct tensor *tensor)
{
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(second);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return error_set(p->err, STATUS_MODEL,
                         "%s: data_offsets of tensor %s are no list of two integers", p->name, key);
    if (begin < 0 || end < begin || (uint64_t)end > p->size)
        return error_set(p->err, STATUS_MODEL,
                         "%s: data_offsets [%lld, %lld] of tensor %s are not within the %llu bytes "
                         "behind the header: is the file complete?",
                         p->name, (long long)begin, (long long)end, key,
                         (unsigned long long)p->size);
    if (tensor->bytes != (uint64_t)(end - begin))
        return error_set(p->err, STATUS_MODEL,
                         "%s: data_offsets [%lld, %lld] of tensor %s span %lld bytes, its shape "
                         "and type take %llu",
                         p->name, (long long)begin, (long long)end, key, (long long)(end - begin),
                         (unsigned long long)tensor->bytes);
    uint64_t unit = tensor_type_info(tensor->type)->block_bytes;
    if (tensor->bytes && (p->start + (uint64_t)begin) % unit)
        return error_set(p->err, STATUS_UNSUPPORTED,
                         "%s: tensor %s begins at byte %llu, no multiple of its element's %llu "
                         "bytes: save the file again with a current safetensors library",
                         p->name, key, (unsigned long long)(p->start + (uint64_t)begin),
                         (unsigned long long)unit);
    tensor->data = p->data + begin;
    return STATUS_OK;
}

static bool valid_name(const char *key, size_t length)
{
    bool valid = length > 0 && length <= NAME_BYTES_MAX;
    for (size_t i = 0; i < length && valid; i++)
        valid = key[i] >= 0x20 && key[i] < 0x7f;
    return valid;
}

static enum status parse_tensor(const struct parse *p, const char *key, const json_t *entry,
                                struct tensor *tensor)
{
    uint64_t elements = 0;
    if (!valid_name(key, strlen(key)))
        return error_set(p->err, STATUS_MODEL,
                         "%s: the tensor name at byte %llu (%zu bytes) is not 1 to %d printable "
                         "ASCII characters",
                         p->name, 8 + (unsigned long long)p->at, strlen(key), NAME_BYTES_MAX);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype)
        return error_set(p->err, STATUS_MODEL, "%s: tensor %s has no dtype", p->name, key);
    tensor->type = type_of(dtype);
    if (tensor->type == TENSOR_TYPE_END)
        return error_set(p->err, STATUS_UNSUPPORTED, "%s: tensor %s has unknown dtype %s", p->name,
                         key, valid_name(dtype, strlen(dtype)) ? dtype : "(unprintable)");
    enum status status = parse_shape(p, key, json_object_get(entry, "shape"), tensor, &elements);
    if (status != STATUS_OK)
        return status;
    if (!tensor_type_bytes(tensor->type, elements, &tensor->bytes))
        return error_set(p->err, STATUS_MODEL, "%s: the size of tensor %s overflows", p->name, key);
    return parse_range(p, key, json_object_get(entry, "data_offsets"), tensor);
}

static enum status add_tensor(const struct parse *p, struct safetensors *file,
                              const struct tensor *tensor, const char *key, struct strmap *seen)
{
    if (file->n_tensors == TENSORS_MAX)
        return error_set(p->err, STATUS_LIMIT, "%s: more than %u tensors in one file", p->name,
                         TENSORS_MAX);
    if (file->n_tensors == file->capacity) {
        size_t larger = file->capacity ? 2 * file->capacity : 64;
        void *moved = realloc(file->tensors, larger * sizeof *file->tensors);
        if (!moved)
            return no_memory(p);
        file->tensors = moved;
        file->capacity = larger;
    }
    struct tensor *place = &file->tensors[file->n_tensors];
    *place = *tensor;
    place->name = arena_copy_str(&file->names, str_from(key));
    bool existed = false;
    if (!place->name.data || !strmap_add(seen, place->name, (int64_t)file->n_tensors, &existed))
        return no_memory(p);
    if (existed)
        return error_set(p->err, STATUS_MODEL, "%s: tensor %s at byte %zu appears twice", p->name,
                         key, 8 + p->at);
    file->n_tensors++;
    return STATUS_OK;
}

/* One member of the header's object, `"name": {...}` without the comma. */
static enum status parse_member(const struct parse *p, struct str text, struct safetensors *file,
                                struct strmap *seen)
{
    if (str_starts(text, STR_LIT("\"__metadata__\"")))
        return STATUS_OK;
    if (text.len > ENTRY_BYTES_MAX)
        return error_set(p->err, STATUS_LIMIT,
                         "%s: the header entry at byte %llu is longer than %u bytes", p->name,
                         8 + (unsigned long long)p->at, ENTRY_BYTES_MAX);
    char what[256];
    snprintf(what, sizeof what, "%.160s: header entry at byte %llu", p->name,
             8 + (unsigned long long)p->at);
    struct buf object = {0};
    buf_append_char(&object, '{');
    buf_append_str(&object, text);
    buf_append_char(&object, '}');
    json_t *parsed = NULL;
    enum status status = object.failed
                             ? no_memory(p)
                             : json_parse(buf_str(&object), ENTRY_DEPTH, what, &parsed, p->err);
    buf_release(&object);
    void *member = json_object_iter(parsed); /* NULL for NULL */
    if (status == STATUS_OK && json_object_size(parsed) != 1) {
        status = malformed(p, "a tensor's entry");
    } else if (status == STATUS_OK) {
        struct tensor tensor = {0};
        const char *key = json_object_iter_key(member);
        status = parse_tensor(p, key, json_object_iter_value(member), &tensor);
        if (status == STATUS_OK)
            status = add_tensor(p, file, &tensor, key, seen);
    }
    json_decref(parsed);
    return status;
}

/* End of the member at p->at: the comma or closing brace of the outermost object, or the header's
 * end. Brackets need only balance here; the JSON parser sees their kinds. */
static size_t member_end(const struct parse *p)
{
    size_t depth = 0, i = p->at;
    bool in_string = false;
    for (; i < p->header.len; i++) {
        char c = p->header.data[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (depth == 0 && (c == ',' || c == '}')) {
            return i;
        } else if (depth && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return p->header.len;
}

static char skip_space(struct parse *p)
{
    while (p->at < p->header.len && memchr(" \t\r\n", p->header.data[p->at], 4))
        p->at++;
    return p->at < p->header.len ? p->header.data[p->at] : 0;
}

static int by_data(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *)a;
    const struct tensor *y = *(const struct tensor *const *)b;
    return x->data < y->data ? -1 : x->data > y->data;
}

static enum status refuse_overlap(const struct parse *p, const struct safetensors *file)
{
    const struct tensor **sorted = malloc((file->n_tensors + 1) * sizeof *sorted);
    if (!sorted)
        return error_set(p->err, STATUS_MEMORY, "%s: out of memory", p->name);
    size_t n = 0;
    for (size_t i = 0; i < file->n_tensors; i++)
        if (file->tensors[i].bytes)
            sorted[n++] = &file->tensors[i];
    qsort(sorted, n, sizeof *sorted, by_data);
    enum status status = STATUS_OK;
    for (size_t i = 1; i < n && status == STATUS_OK; i++)
        if ((const uint8_t *)sorted[i - 1]->data + sorted[i - 1]->bytes >
            (const uint8_t *)sorted[i]->data)
            status = error_set(p->err, STATUS_MODEL, "%s: tensors %.*s and %.*s overlap", p->name,
                               STR_ARG(sorted[i - 1]->name), STR_ARG(sorted[i]->name));
    free(sorted);
    return status;
}

static enum status parse_header(struct parse *p, struct safetensors *file)
{
    struct strmap seen = {0};
    enum status status = STATUS_OK;
    if (skip_space(p) != '{')
        return malformed(p, "'{'");
    p->at++;
    bool more = skip_space(p) != '}';
    while (more && status == STATUS_OK) {
        if (skip_space(p) != '"') {
            status = malformed(p, "a tensor's name in quotes");
            break;
        }
        size_t end = member_end(p);
        struct str text = {p->header.data + p->at, end - p->at};
        status = parse_member(p, text, file, &seen);
        if (status != STATUS_OK)
            break;
        p->at = end;
        more = skip_space(p) == ',';
        p->at += more;
    }
    strmap_release(&seen);
    if (status != STATUS_OK)
        return status;
    if (skip_space(p) != '}')
        return malformed(p, "',' or '}'");
    p->at++;
    if (skip_space(p) != 0 || p->at != p->header.len)
        return malformed(p, "nothing but spaces after the object");
    return refuse_overlap(p, file);
}

static enum status read_header(const uint8_t *data, uint64_t size, const char *name,
                               struct str *header, struct error *err)
{
    uint64_t length = 0;
    if (size < 8)
        return error_set(err, STATUS_MODEL,
                         "%s: not a safetensors file: %llu bytes cannot hold a header length", name,
                         (unsigned long long)size);
    for (unsigned i = 0; i < 8; i++)
        length |= (uint64_t)data[i] << 8 * i;
    if (length > size - 8)
        return error_set(err, STATUS_MODEL,
                         "%s: header length %llu at byte 0 exceeds the file of %llu bytes: is it "
                         "complete, and safetensors?",
                         name, (unsigned long long)length, (unsigned long long)size);
    *header = (struct str){(const char *)data + 8, (size_t)length};
    if (length > HEADER_BYTES_MAX)
        return error_set(err, STATUS_LIMIT,
                         "%s: header length %llu at byte 0 is more than the limit of %u bytes",
                         name, (unsigned long long)length, HEADER_BYTES_MAX);
    return STATUS_OK;
}

enum status safetensors_parse(const uint8_t *data, uint64_t size, const char *name,
                              struct safetensors **out, struct error *err)
{
    *out = NULL;
    struct parse parse = {.name = name, .err = err};
    enum status status = read_header(data, size, name, &parse.header, err);
    if (status != STATUS_OK)
        return status;
    struct safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return no_memory(&parse);
    parse.start = 8 + (uint64_t)parse.header.len;
    parse.data = data + parse.start;
    parse.size = size - parse.start;
    status = parse_header(&parse, file);
    if (status != STATUS_OK) {
        safetensors_free(file);
        return status;
    }
    *out = file;
    return STATUS_OK;
}

void safetensors_free(struct safetensors *file)
{
    if (!file)
        return;
    free(file->tensors);
    arena_release(&file->names);
    free(file);
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->n_tensors;
}

const struct tensor *safetensors_at(const struct safetensors *file, size_t index)
{
    return &file->tensors[index];
}
