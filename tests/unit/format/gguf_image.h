/*
 * Writing small GGUF images in memory, so that the vocabulary reader meets what a test needs.
 */
#ifndef SLUICE_TESTS_GGUF_IMAGE_H
#define SLUICE_TESTS_GGUF_IMAGE_H

#include "fixture.h"
#include "format/gguf.h"
#include "format/vocabulary.h"

static inline void put_u32(struct buf *out, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        buf_append_char(out, (char)(v >> 8 * i));
}

static inline void put_u64(struct buf *out, uint64_t v)
{
    put_u32(out, (uint32_t)v);
    put_u32(out, (uint32_t)(v >> 32));
}

static inline void put_str(struct buf *out, struct str text)
{
    put_u64(out, text.len);
    buf_append_str(out, text);
}

static inline void put_key(struct buf *out, const char *key, enum gguf_type type)
{
    put_str(out, str_from(key));
    put_u32(out, type);
}

static inline void put_array(struct buf *out, const char *key, enum gguf_type type, uint64_t n)
{
    put_key(out, key, GGUF_ARRAY);
    put_u32(out, type);
    put_u64(out, n);
}

static inline void put_text(struct buf *out, const char *key, const char *text)
{
    put_key(out, key, GGUF_STRING);
    put_str(out, str_from(text));
}

static inline struct buf gguf_start(uint64_t n_values)
{
    struct buf out = {0};
    buf_append(&out, "GGUF", 4);
    put_u32(&out, 3);
    put_u64(&out, 0);
    put_u64(&out, n_values);
    return out;
}

static inline enum status read_gguf(const struct buf *image, struct vocabulary *out,
                                    struct error *err)
{
    struct gguf *gguf = NULL;
    assert_ok(gguf_parse((const uint8_t *)image->data, image->len, "image", &gguf, err), err);
    enum status status = vocabulary_from_gguf(gguf, out, err);
    gguf_free(gguf);
    return status;
}

#endif
