/*
 * A GGUF image from anyone: either an error with a message, or a directory in which every value,
 * string and tensor byte can be read.
 */
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint.h"
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

static void read_bytes(const void *from, uint64_t n)
{
    const uint8_t *bytes = from;
    if (n)
        sink += (uint64_t)bytes[0] + bytes[n / 2] + bytes[n - 1];
}

static void read_value(const struct gguf *gguf, const struct gguf_value *value)
{
    struct gguf_string_cursor cursor = {0};
    struct str text;
    uint64_t strings = 0, u;
    int64_t i;
    double f;
    bool b;
    while (gguf_next_string(value, &cursor, &text)) {
        read_bytes(text.data, text.len);
        strings++;
    }
    if (value->type == GGUF_ARRAY && value->item_type == GGUF_STRING && strings != value->count)
        abort();
    for (uint64_t k = 0; k < value->count && k < 100; k++)
        if (gguf_item_i64(value, k, &i) && !gguf_item_f64(value, k, &f))
            abort();
    if (gguf_item_i64(value, value->count, &i) || gguf_item_f64(value, value->count, &f))
        abort();
    char key[1100] = {0};
    memcpy(key, value->key.data, value->key.len);
    if (gguf_find(gguf, key) != value)
        abort();
    if (gguf_get_str(gguf, key, &text))
        read_bytes(text.data, text.len);
    if (gguf_get_bool(gguf, key, &b) && !gguf_get_u64(gguf, key, &u))
        abort();
    if (gguf_get_i64(gguf, key, &i) && i >= 0 && !gguf_get_u64(gguf, key, &u))
        abort();
    gguf_get_f64(gguf, key, &f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct gguf *gguf;
    if (gguf_parse(data, size, "fuzz", &gguf, &err) != STATUS_OK) {
        if (!err.message[0] || gguf)
            abort();
        return 0;
    }
    for (size_t i = 0; i < gguf_value_count(gguf); i++)
        read_value(gguf, gguf_value_at(gguf, i));
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct tensor *t = gguf_tensor_at(gguf, i);
        if (t->bytes > size || t->n_dims > TENSOR_DIMS_MAX || !tensor_type_info(t->type))
            abort();
        read_bytes(t->name.data, t->name.len);
        read_bytes(t->data, t->bytes);
    }
    gguf_free(gguf);
    return 0;
}
