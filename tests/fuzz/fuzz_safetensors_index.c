/*
 * An index of shards from anyone, in a folder with one shard: either an error with a message, or a
 * checkpoint whose tensors can be read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *folder(void)
{
    static char path[] = "/tmp/fuzz-index-XXXXXX";
    static bool made;
    if (!made && !mkdtemp(path))
        abort();
    made = true;
    return path;
}

static void put(const char *name, const void *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder(), name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    static bool written;
    if (!written) {
        uint8_t shard[sizeof header + 9] = {sizeof header - 1};
        memcpy(shard + 8, header, sizeof header - 1);
        put("model-00001-of-00001.safetensors", shard, 8 + sizeof header - 1 + 2);
        put("config.json", "{}", 2);
        written = true;
    }
    put("model.safetensors.index.json", data, size);
    struct checkpoint *c;
    struct error err = {0};
    enum status status = checkpoint_open(folder(), &c, &err);
    if (status != STATUS_OK && (!err.message[0] || c))
        abort();
    if (status == STATUS_OK && checkpoint_tensor_count(c) != 1)
        abort();
    checkpoint_close(c);
    return 0;
}
