/*
 * A Hugging Face folder whose weights come from anyone, under configs that ask for repacking: either an
 * error with a message, or tensors that decode to their last value.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const configs[] = {
    "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[2,32]}}",
    "{\"quantization\":{\"group_size\":32,\"bits\":4}}",
    "{\"quantization\":{\"group_size\":32,\"bits\":8}}",
    "{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}",
};

static void put(const char *name, const void *data, size_t size)
{
    static char folder[] = "/tmp/fuzz-folder-XXXXXX";
    static bool made;
    char path[256];
    if (!made && !mkdtemp(folder))
        abort();
    made = true;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
    if (strcmp(name, "config.json") != 0)
        return;
    struct checkpoint *c;
    struct error err = {0};
    enum status status = checkpoint_open(folder, &c, &err);
    if (status != STATUS_OK && (!err.message[0] || c))
        abort();
    for (size_t i = 0; status == STATUS_OK && i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        const struct tensor_type_info *info = tensor_type_info(t->type);
        float values[256];
        if (info->decode && t->bytes >= info->block_bytes)
            info->decode((const uint8_t *)t->data + t->bytes - info->block_bytes, values,
                         info->block_elements);
    }
    checkpoint_close(c);
}

/* First byte: the config; then the header's JSON to the first zero byte; then the data. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const uint8_t *end = memchr(data + 1, 0, size - 1);
    size_t header = end ? (size_t)(end - data) - 1 : size - 1;
    uint8_t *image = malloc(size + 8);
    if (!image)
        return 0;
    for (unsigned i = 0; i < 8; i++)
        image[i] = (uint8_t)((uint64_t)header >> 8 * i);
    memcpy(image + 8, data + 1, size - 1);
    put("model.safetensors", image, size + 7);
    free(image);
    const char *config = configs[data[0] % 4];
    put("config.json", config, strlen(config));
    return 0;
}
