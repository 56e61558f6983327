/*
 * A safetensors image from anyone: either an error with a message, or tensors whose bytes can all be
 * read and whose sizes are what their shapes say.
 */
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint.h"
#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

static void read_tensor(const struct tensor *t, size_t size)
{
    const uint8_t *bytes = t->data;
    uint64_t elements = 1, expected;
    if (t->n_dims > TENSOR_DIMS_MAX || t->bytes > size || t->name.len == 0)
        abort();
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        elements *= t->dims[i];
    if (!tensor_type_bytes(t->type, elements, &expected) || expected != t->bytes)
        abort();
    if (t->bytes)
        sink += (uint64_t)bytes[0] + bytes[t->bytes - 1];
    sink += (uint64_t)t->name.data[0] + (uint64_t)t->name.data[t->name.len - 1];
}

/* The length would be wrong after most mutations; the first byte decides whether it is put right. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct safetensors *file;
    if (size < 9)
        return 0;
    uint8_t *image = malloc(size - 1);
    if (!image)
        return 0;
    memcpy(image, data + 1, size - 1);
    if (data[0] & 1) {
        uint64_t length = (size - 9) / 2 + (size - 9) / 4;
        for (unsigned i = 0; i < 8; i++)
            image[i] = (uint8_t)(length >> 8 * i);
    }
    enum status status = safetensors_parse(image, size - 1, "fuzz", &file, &err);
    if (status != STATUS_OK && (!err.message[0] || file))
        abort();
    for (size_t i = 0; status == STATUS_OK && i < safetensors_count(file); i++)
        read_tensor(safetensors_at(file, i), size);
    safetensors_free(file);
    free(image);
    return 0;
}
