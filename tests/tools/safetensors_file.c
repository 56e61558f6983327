#include "safetensors_file.h"

#include <stdio.h>

#include "fixture.h"
#include "scratch.h"

void safetensors_file_add(struct safetensors_file *f, const char *name, const char *dtype,
                          unsigned n_dims, const uint64_t *dims, const void *bytes, size_t n)
{
    buf_printf(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", f->header.len ? "," : "{",
               name, dtype);
    for (unsigned i = 0; i < n_dims; i++)
        buf_printf(&f->header, "%s%llu", i ? "," : "", (unsigned long long)dims[i]);
    buf_printf(&f->header, "],\"data_offsets\":[%zu,%zu]}", f->data.len, f->data.len + n);
    buf_append(&f->data, bytes, n);
}

void safetensors_file_put(struct safetensors_file *f, const char *path)
{
    buf_append_char(&f->header, '}');
    while (f->header.len % 8)
        buf_append_char(&f->header, ' ');
    uint64_t length = f->header.len;
    struct buf file = {0};
    buf_append(&file, &length, sizeof length);
    buf_append_str(&file, buf_str(&f->header));
    buf_append_str(&file, buf_str(&f->data));
    assert_false(file.failed);
    scratch_write(path, file.data, file.len);
    buf_release(&file);
    buf_release(&f->header);
    buf_release(&f->data);
}

void safetensors_file_write(struct safetensors_file *f, const char *folder, const char *config)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    safetensors_file_put(f, path);
    snprintf(path, sizeof path, "%s/config.json", folder);
    scratch_write_text(path, config);
}
