#include "safetensors_file.h"

#include <stdio.h>
#include <string.h>

#include "fixture.h"

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

static void put_file(const char *folder, const char *name, const struct str *parts, unsigned n)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(fwrite(parts[i].data, 1, parts[i].len, file), parts[i].len);
    assert_int_equal(fclose(file), 0);
}

void safetensors_file_write(struct safetensors_file *f, const char *folder, const char *config)
{
    buf_append_char(&f->header, '}');
    while (f->header.len % 8)
        buf_append_char(&f->header, ' ');
    uint64_t length = f->header.len;
    const struct str weights[] = {
        {(const char *)&length, 8}, buf_str(&f->header), buf_str(&f->data)};
    const struct str text = str_from(config);
    put_file(folder, "model.safetensors", weights, 3);
    put_file(folder, "config.json", &text, 1);
    buf_release(&f->header);
    buf_release(&f->data);
}
