/*
 * The GGUF parser: one cursor that cannot leave the file.
 *
 * Everything is checked before it is used. A count is first bounded by the bytes that are left
 * (count * smallest entry), and tables then grow with the entries really read, never with what a
 * count claims: a hostile header of N bytes costs O(N) memory with a small factor, up to the limits
 * below. Array items stay in the mapping; strings in arrays are walked once, to find their end.
 */
#include "format/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/strmap.h"
#include "format/checkpoint.h"

#define GGUF_MAGIC             0x46554747u /* "GGUF" */
#define GGUF_ALIGNMENT_DEFAULT 32
#define GGUF_ALIGNMENT_MAX     (1u << 20)
#define GGUF_VALUES_MAX        (1u << 14)
#define GGUF_TENSORS_MAX       (1u << 14) /* a model of 10^12 parameters has about 1,500 */
#define GGUF_STRINGS_MAX       (1u << 22) /* in all arrays together; bounds the time of a parse */
#define GGUF_NAME_MAX          1024       /* bytes of a key or a tensor name */
#define VALUE_BYTES_MIN        14         /* key length, one byte of key, type, one byte */
#define TENSOR_BYTES_MIN       25         /* name length, one byte, n_dims, type, offset */

struct entry {
    struct tensor tensor;
    uint64_t offset; /* from the start of the data section */
};

struct gguf {
    struct strmap values_by_key;
    struct gguf_value *values; /* owned */
    size_t n_values, values_capacity;
    struct entry *entries; /* owned */
    size_t n_tensors, entries_capacity;
    uint32_t version;
};

struct cursor {
    const uint8_t *data;
    uint64_t size, at;
    uint64_t strings; /* array items walked so far */
    const char *name; /* of the file */
    struct error *err;
};

static enum status truncated(const struct cursor *c, const char *what)
{
    return error_set(c->err, STATUS_MODEL,
                     "%s: the file ends at byte %llu inside %s at byte %llu: is it complete?",
                     c->name, (unsigned long long)c->size, what, (unsigned long long)c->at);
}

static enum status no_memory(const struct cursor *c)
{
    return error_set(c->err, STATUS_MEMORY, "%s: out of memory at byte %llu", c->name,
                     (unsigned long long)c->at);
}

/* Makes room for one more item of `size` bytes behind the first n. */
static bool grow(void **items, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity)
        return true;
    size_t larger = *capacity ? 2 * *capacity : 64; /* n is within the limits above */
    void *moved = realloc(*items, larger * size);
    if (!moved)
        return false;
    *items = moved;
    *capacity = larger;
    return true;
}

static bool take(struct cursor *c, uint64_t n, const uint8_t **out)
{
    if (n > c->size - c->at)
        return false;
    *out = c->data + c->at;
    c->at += n;
    return true;
}

static uint64_t load(const uint8_t *bytes, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

static bool take_int(struct cursor *c, unsigned n, uint64_t *out)
{
    const uint8_t *bytes;
    if (!take(c, n, &bytes))
        return false;
    *out = load(bytes, n);
    return true;
}

static enum status take_string(struct cursor *c, const char *what, struct str *out)
{
    uint64_t length;
    const uint8_t *bytes;
    if (!take_int(c, 8, &length))
        return truncated(c, what);
    if (length > c->size - c->at)
        return error_set(c->err, STATUS_MODEL,
                         "%s: length %llu of %s at byte %llu exceeds the file", c->name,
                         (unsigned long long)length, what, (unsigned long long)(c->at - 8));
    take(c, length, &bytes);
    *out = (struct str){(const char *)bytes, (size_t)length};
    return STATUS_OK;
}

/* A key or a tensor name: printable ASCII, so that it can be shown and compared as it is. */
static enum status take_name(struct cursor *c, const char *what, struct str *out)
{
    uint64_t at = c->at;
    enum status status = take_string(c, what, out);
    if (status != STATUS_OK)
        return status;
    bool valid = out->len > 0 && out->len <= GGUF_NAME_MAX;
    for (size_t i = 0; i < out->len && valid; i++)
        valid = out->data[i] >= 0x20 && out->data[i] < 0x7f;
    if (!valid)
        return error_set(
            c->err, STATUS_MODEL,
            "%s: %s at byte %llu (%zu bytes) is not 1 to %d printable ASCII characters", c->name,
            what, (unsigned long long)at, out->len, GGUF_NAME_MAX);
    return STATUS_OK;
}

/* Bytes of a scalar; 0 for strings, arrays and unknown types. */
static unsigned scalar_bytes(uint64_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static enum status skip_strings(struct cursor *c, struct gguf_value *value)
{
    char what[128];
    snprintf(what, sizeof what, "a string of array %.*s", STR_ARG(value->key));
    c->strings += value->count; /* no wrap: a count is below size / 8 */
    if (c->strings > GGUF_STRINGS_MAX)
        return error_set(c->err, STATUS_LIMIT,
                         "%s: array %.*s at byte %llu brings the strings in arrays to %llu, more "
                         "than the limit of %u",
                         c->name, STR_ARG(value->key), (unsigned long long)c->at,
                         (unsigned long long)c->strings, GGUF_STRINGS_MAX);
    for (uint64_t i = 0; i < value->count; i++) {
        struct str item;
        enum status status = take_string(c, what, &item);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status parse_array(struct cursor *c, struct gguf_value *value)
{
    uint64_t type, count;
    uint64_t at = c->at;
    if (!take_int(c, 4, &type) || !take_int(c, 8, &count))
        return truncated(c, "an array header");
    if (type == GGUF_ARRAY)
        return error_set(c->err, STATUS_MODEL,
                         "%s: key %.*s at byte %llu is an array of arrays, which no model needs",
                         c->name, STR_ARG(value->key), (unsigned long long)at);
    unsigned size = type == GGUF_STRING ? 8 : scalar_bytes(type);
    if (size == 0)
        return error_set(c->err, STATUS_MODEL, "%s: unknown item type %llu at byte %llu (key %.*s)",
                         c->name, (unsigned long long)type, (unsigned long long)at,
                         STR_ARG(value->key));
    if (count > (c->size - c->at) / size)
        return error_set(c->err, STATUS_MODEL,
                         "%s: item count %llu of key %.*s at byte %llu exceeds the file", c->name,
                         (unsigned long long)count, STR_ARG(value->key), (unsigned long long)at);
    value->item_type = (enum gguf_type)type;
    value->count = count;
    value->data = c->data + c->at;
    if (type == GGUF_STRING)
        return skip_strings(c, value);
    c->at += count * size;
    return STATUS_OK;
}

static enum status parse_value(struct cursor *c, struct gguf_value *value)
{
    uint64_t type;
    enum status status = take_name(c, "a metadata key", &value->key);
    if (status != STATUS_OK)
        return status;
    uint64_t at = c->at;
    if (!take_int(c, 4, &type))
        return truncated(c, "a metadata type");
    value->type = (enum gguf_type)type;
    value->count = 1;
    value->data = c->data + c->at;
    if (type == GGUF_ARRAY) {
        status = parse_array(c, value);
    } else if (type == GGUF_STRING) {
        struct str text;
        status = take_string(c, "a metadata string", &text);
    } else if (scalar_bytes(type) == 0) {
        status = error_set(c->err, STATUS_MODEL, "%s: key %.*s at byte %llu has unknown type %llu",
                           c->name, STR_ARG(value->key), (unsigned long long)at,
                           (unsigned long long)type);
    } else if (!take(c, scalar_bytes(type), &value->data)) {
        status = truncated(c, "a metadata value");
    }
    /* Arrays start at item 0, behind their header. */
    value->bytes = (uint64_t)(c->data + c->at - value->data);
    return status;
}

/* Refuses a count that the rest of the file cannot hold, before anything is allocated for it. */
static enum status check_count(const struct cursor *c, const char *what, uint64_t count,
                               unsigned at, uint64_t entry_bytes, uint64_t limit)
{
    if (count > (c->size - c->at) / entry_bytes)
        return error_set(c->err, STATUS_MODEL, "%s: %s count %llu at byte %u exceeds the file",
                         c->name, what, (unsigned long long)count, at);
    if (count > limit)
        return error_set(c->err, STATUS_LIMIT,
                         "%s: %s count %llu at byte %u is more than the limit of %llu", c->name,
                         what, (unsigned long long)count, at, (unsigned long long)limit);
    return STATUS_OK;
}

static enum status parse_values(struct cursor *c, struct gguf *gguf, uint64_t count)
{
    enum status status = check_count(c, "metadata", count, 16, VALUE_BYTES_MIN, GGUF_VALUES_MAX);
    for (uint64_t i = 0; i < count && status == STATUS_OK; i++) {
        struct gguf_value value = {0};
        bool existed = false;
        uint64_t at = c->at;
        status = parse_value(c, &value);
        if (status != STATUS_OK)
            break;
        void *values = gguf->values;
        if (!grow(&values, gguf->n_values, &gguf->values_capacity, sizeof value))
            return no_memory(c);
        gguf->values = values;
        gguf->values[gguf->n_values++] = value;
        if (!strmap_add(&gguf->values_by_key, value.key, (int64_t)i, &existed))
            return no_memory(c);
        if (existed)
            status =
                error_set(c->err, STATUS_MODEL, "%s: metadata key %.*s at byte %llu appears twice",
                          c->name, STR_ARG(value.key), (unsigned long long)at);
    }
    return status;
}

static enum status parse_dims(struct cursor *c, struct tensor *tensor)
{
    uint64_t n_dims, elements = 1, at = c->at;
    if (!take_int(c, 4, &n_dims))
        return truncated(c, "a tensor's dimension count");
    if (n_dims > TENSOR_DIMS_MAX)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: tensor %.*s has %llu dimensions at byte %llu, sluice knows up to %d",
                         c->name, STR_ARG(tensor->name), (unsigned long long)n_dims,
                         (unsigned long long)at, TENSOR_DIMS_MAX);
    tensor->n_dims = (uint32_t)n_dims;
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        tensor->dims[i] = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        uint64_t dim;
        at = c->at;
        if (!take_int(c, 8, &dim))
            return truncated(c, "a tensor's dimension");
        if (dim == 0 || !checked_mul_u64(elements, dim, &elements) || elements > INT64_MAX)
            return error_set(c->err, STATUS_MODEL,
                             "%s: dimension %u of tensor %.*s at byte %llu is %llu: the size is "
                             "zero or overflows",
                             c->name, i, STR_ARG(tensor->name), (unsigned long long)at,
                             (unsigned long long)dim);
        tensor->dims[tensor->n_dims - 1 - i] = dim; /* GGUF lists the innermost first */
    }
    return STATUS_OK;
}

/* Byte size from type and shape; rows must be whole blocks. */
static enum status size_tensor(const struct cursor *c, struct tensor *tensor, uint64_t type,
                               uint64_t at)
{
    const struct tensor_type_info *info =
        type < TENSOR_TYPE_GGUF_END ? tensor_type_info((uint32_t)type) : NULL;
    if (!info)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: tensor %.*s at byte %llu has unknown type %llu", c->name,
                         STR_ARG(tensor->name), (unsigned long long)at, (unsigned long long)type);
    tensor->type = (enum tensor_type)type;
    uint64_t row = tensor->n_dims ? tensor->dims[tensor->n_dims - 1] : 1, rows = 1;
    for (uint32_t i = 0; i + 1 < tensor->n_dims; i++)
        rows *= tensor->dims[i]; /* parse_dims bounded the product */
    if (row % info->block_elements)
        return error_set(c->err, STATUS_MODEL,
                         "%s: tensor %.*s at byte %llu has rows of %llu values, no whole number of "
                         "%s blocks of %u",
                         c->name, STR_ARG(tensor->name), (unsigned long long)at,
                         (unsigned long long)row, info->name, info->block_elements);
    if (!tensor_type_bytes(tensor->type, row, &row) || !checked_mul_u64(row, rows, &tensor->bytes))
        return error_set(c->err, STATUS_MODEL, "%s: the size of tensor %.*s at byte %llu overflows",
                         c->name, STR_ARG(tensor->name), (unsigned long long)at);
    return STATUS_OK;
}

static enum status parse_tensor(struct cursor *c, struct entry *entry)
{
    uint64_t type, at = c->at;
    enum status status = take_name(c, "a tensor name", &entry->tensor.name);
    if (status == STATUS_OK)
        status = parse_dims(c, &entry->tensor);
    if (status != STATUS_OK)
        return status;
    if (!take_int(c, 4, &type))
        return truncated(c, "a tensor's type");
    if (!take_int(c, 8, &entry->offset))
        return truncated(c, "a tensor's offset");
    return size_tensor(c, &entry->tensor, type, at);
}

static enum status parse_tensors(struct cursor *c, struct gguf *gguf, uint64_t count)
{
    struct strmap names = {0};
    enum status status = check_count(c, "tensor", count, 8, TENSOR_BYTES_MIN, GGUF_TENSORS_MAX);
    for (uint64_t i = 0; i < count && status == STATUS_OK; i++) {
        struct entry entry = {0};
        bool existed = false;
        uint64_t at = c->at;
        status = parse_tensor(c, &entry);
        if (status != STATUS_OK)
            break;
        void *entries = gguf->entries;
        if (!grow(&entries, gguf->n_tensors, &gguf->entries_capacity, sizeof entry)) {
            status = no_memory(c);
            break;
        }
        gguf->entries = entries;
        gguf->entries[gguf->n_tensors++] = entry;
        if (!strmap_add(&names, entry.tensor.name, (int64_t)i, &existed))
            status = no_memory(c);
        else if (existed)
            status = error_set(c->err, STATUS_MODEL, "%s: tensor %.*s at byte %llu appears twice",
                               c->name, STR_ARG(entry.tensor.name), (unsigned long long)at);
    }
    strmap_release(&names);
    return status;
}

static enum status read_alignment(const struct cursor *c, const struct gguf *gguf, uint64_t *out)
{
    *out = GGUF_ALIGNMENT_DEFAULT;
    const struct gguf_value *value = gguf_find(gguf, "general.alignment");
    if (!value)
        return STATUS_OK;
    unsigned long long at = (unsigned long long)(value->data - c->data);
    if (!gguf_get_u64(gguf, "general.alignment", out))
        return error_set(c->err, STATUS_MODEL,
                         "%s: general.alignment at byte %llu is no positive integer", c->name, at);
    if (*out < 8 || *out > GGUF_ALIGNMENT_MAX || (*out & (*out - 1)))
        return error_set(c->err, STATUS_MODEL,
                         "%s: general.alignment at byte %llu is %llu, expected a power of two from "
                         "8 to %u",
                         c->name, at, (unsigned long long)*out, GGUF_ALIGNMENT_MAX);
    return STATUS_OK;
}

static enum status place_tensors(const struct cursor *c, struct gguf *gguf)
{
    uint64_t alignment, base;
    enum status status = read_alignment(c, gguf, &alignment);
    if (status != STATUS_OK)
        return status;
    if (!checked_round_up_u64(c->at, alignment, &base))
        return truncated(c, "the tensor directory");
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        struct tensor *t = &gguf->entries[i].tensor;
        uint64_t offset = gguf->entries[i].offset, begin, end;
        if (offset % alignment)
            return error_set(c->err, STATUS_MODEL,
                             "%s: offset %llu of tensor %.*s is no multiple of %llu", c->name,
                             (unsigned long long)offset, STR_ARG(t->name),
                             (unsigned long long)alignment);
        if (!checked_add_u64(base, offset, &begin) || !checked_add_u64(begin, t->bytes, &end) ||
            end > c->size)
            return error_set(c->err, STATUS_MODEL,
                             "%s: tensor %.*s (offset %llu, %llu bytes) exceeds the file of %llu "
                             "bytes: is the download complete?",
                             c->name, STR_ARG(t->name), (unsigned long long)offset,
                             (unsigned long long)t->bytes, (unsigned long long)c->size);
        t->data = c->data + begin;
    }
    return STATUS_OK;
}

static enum status parse_version(struct cursor *c, struct gguf *gguf)
{
    uint64_t magic, version;
    if (!take_int(c, 4, &magic))
        return truncated(c, "the magic number");
    if (magic != GGUF_MAGIC)
        return error_set(c->err, STATUS_MODEL,
                         "%s: not a GGUF file (it does not begin with \"GGUF\")", c->name);
    if (!take_int(c, 4, &version))
        return truncated(c, "the version");
    if (version && (version & 0xffff) == 0)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: a big-endian GGUF file, which sluice does not read: convert the "
                         "model again for a little-endian machine",
                         c->name);
    if (version == 1)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: GGUF version 1 (of 2023), which sluice does not read: convert the "
                         "model again",
                         c->name);
    if (version != 2 && version != 3)
        return error_set(c->err, STATUS_UNSUPPORTED,
                         "%s: GGUF version %llu at byte 4, sluice reads 2 and 3", c->name,
                         (unsigned long long)version);
    gguf->version = (uint32_t)version;
    return STATUS_OK;
}

static enum status parse(struct cursor *c, struct gguf *gguf)
{
    uint64_t n_tensors, n_values;
    enum status status = parse_version(c, gguf);
    if (status != STATUS_OK)
        return status;
    if (!take_int(c, 8, &n_tensors))
        return truncated(c, "the tensor count");
    if (!take_int(c, 8, &n_values))
        return truncated(c, "the metadata count");
    status = parse_values(c, gguf, n_values);
    if (status == STATUS_OK)
        status = parse_tensors(c, gguf, n_tensors);
    if (status == STATUS_OK)
        status = place_tensors(c, gguf);
    return status;
}

enum status gguf_parse(const uint8_t *data, uint64_t size, const char *name, struct gguf **out,
                       struct error *err)
{
    *out = NULL;
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf)
        return error_set(err, STATUS_MEMORY, "%s: out of memory", name);
    struct cursor cursor = {.data = data, .size = size, .name = name, .err = err};
    enum status status = parse(&cursor, gguf);
    if (status != STATUS_OK) {
        gguf_free(gguf);
        return status;
    }
    *out = gguf;
    return STATUS_OK;
}

void gguf_free(struct gguf *gguf)
{
    if (!gguf)
        return;
    strmap_release(&gguf->values_by_key);
    free(gguf->values);
    free(gguf->entries);
    free(gguf);
}

uint32_t gguf_version(const struct gguf *gguf)
{
    return gguf->version;
}

size_t gguf_value_count(const struct gguf *gguf)
{
    return gguf->n_values;
}

const struct gguf_value *gguf_value_at(const struct gguf *gguf, size_t index)
{
    return &gguf->values[index];
}

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    const int64_t *index = strmap_get(&gguf->values_by_key, str_from(key));
    return index ? &gguf->values[*index] : NULL;
}

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->n_tensors;
}

const struct tensor *gguf_tensor_at(const struct gguf *gguf, size_t index)
{
    return &gguf->entries[index].tensor;
}

/* The bytes of item `index` (scalars have one item), or NULL. */
static const uint8_t *item_bytes(const struct gguf_value *value, uint64_t index,
                                 enum gguf_type *type)
{
    *type = value->type == GGUF_ARRAY ? value->item_type : value->type;
    unsigned size = scalar_bytes(*type);
    return size && index < value->count ? value->data + index * size : NULL;
}

bool gguf_item_i64(const struct gguf_value *value, uint64_t index, int64_t *out)
{
    enum gguf_type type;
    const uint8_t *bytes = item_bytes(value, index, &type);
    if (!bytes || type == GGUF_F32 || type == GGUF_F64)
        return false;
    unsigned size = scalar_bytes(type);
    uint64_t raw = load(bytes, size);
    bool is_signed = type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
    if (is_signed && size < 8 && raw >> (8 * size - 1))
        raw |= UINT64_MAX << 8 * size;
    if (type == GGUF_U64 && raw > INT64_MAX)
        return false;
    if (type == GGUF_BOOL)
        raw = raw != 0;
    memcpy(out, &raw, sizeof *out);
    return true;
}

bool gguf_item_f64(const struct gguf_value *value, uint64_t index, double *out)
{
    enum gguf_type type;
    const uint8_t *bytes = item_bytes(value, index, &type);
    if (!bytes)
        return false;
    if (type == GGUF_F32) {
        float f;
        memcpy(&f, bytes, sizeof f);
        *out = (double)f;
        return true;
    }
    if (type == GGUF_F64) {
        memcpy(out, bytes, sizeof *out);
        return true;
    }
    int64_t integer;
    if (gguf_item_i64(value, index, &integer)) {
        *out = (double)integer;
        return true;
    }
    *out = (double)load(bytes, 8); /* the upper half of uint64 */
    return true;
}

static const struct gguf_value *scalar(const struct gguf *gguf, const char *key)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    return value && value->type != GGUF_ARRAY && value->type != GGUF_STRING ? value : NULL;
}

bool gguf_get_i64(const struct gguf *gguf, const char *key, int64_t *out)
{
    const struct gguf_value *value = scalar(gguf, key);
    return value && gguf_item_i64(value, 0, out);
}

bool gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *out)
{
    const struct gguf_value *value = scalar(gguf, key);
    int64_t integer;
    if (value && value->type == GGUF_U64) {
        *out = load(value->data, 8);
        return true;
    }
    if (!value || !gguf_item_i64(value, 0, &integer) || integer < 0)
        return false;
    *out = (uint64_t)integer;
    return true;
}

bool gguf_get_f64(const struct gguf *gguf, const char *key, double *out)
{
    const struct gguf_value *value = scalar(gguf, key);
    return value && gguf_item_f64(value, 0, out);
}

bool gguf_get_bool(const struct gguf *gguf, const char *key, bool *out)
{
    const struct gguf_value *value = scalar(gguf, key);
    if (!value || value->type != GGUF_BOOL)
        return false;
    *out = value->data[0] != 0;
    return true;
}

/* The length-prefixed string at `offset` in the value's bytes. Its length was checked on parsing and
 * is checked again: it lives in the mapping, which another process may overwrite. */
static bool string_at(const struct gguf_value *value, uint64_t offset, struct str *out)
{
    if (offset > value->bytes || value->bytes - offset < 8)
        return false;
    uint64_t length = load(value->data + offset, 8);
    if (length > value->bytes - offset - 8)
        return false;
    *out = (struct str){(const char *)value->data + offset + 8, (size_t)length};
    return true;
}

bool gguf_get_str(const struct gguf *gguf, const char *key, struct str *out)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    return value && value->type == GGUF_STRING && string_at(value, 0, out);
}

bool gguf_next_string(const struct gguf_value *array, struct gguf_string_cursor *cursor,
                      struct str *out)
{
    if (array->type != GGUF_ARRAY || array->item_type != GGUF_STRING ||
        cursor->index >= array->count || !string_at(array, cursor->offset, out))
        return false;
    cursor->offset += 8 + out->len;
    cursor->index++;
    return true;
}
