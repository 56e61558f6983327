/* The OpenAI dialect: /v1/embeddings. A request of the same kind as the others, never streamed. */
#include "api/openai.h"

#define BASE64 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

/* float32, little-endian, as OpenAI sends them. */
static void write_base64(const struct buf *row, struct buf *out)
{
    const uint8_t *bytes = (const uint8_t *)row->data;
    buf_append_char(out, '"');
    for (size_t i = 0; i < row->len; i += 3) {
        size_t n = row->len - i < 3 ? row->len - i : 3;
        uint32_t group = (uint32_t)bytes[i] << 16 | (n > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                         (n > 2 ? bytes[i + 2] : 0);
        for (size_t j = 0; j < 4; j++)
            buf_append_char(out, j <= n ? BASE64[group >> (18 - 6 * j) & 63] : '=');
    }
    buf_append_char(out, '"');
}

static void write_floats(const struct buf *row, struct buf *out)
{
    buf_append_char(out, '[');
    for (size_t i = 0; i + sizeof(float) <= row->len; i += sizeof(float)) {
        float value;
        memcpy(&value, row->data + i, sizeof value);
        if (i)
            buf_append_char(out, ',');
        json_write_number(out, (double)value);
    }
    buf_append_char(out, ']');
}

static void body(struct api_answer *answer, struct buf *out)
{
    buf_append_cstr(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < answer->n_choices; i++) {
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "", i);
        if (answer->base64)
            write_base64(&answer->choices[i].row, out);
        else
            write_floats(&answer->choices[i].row, out);
        buf_append_char(out, '}');
    }
    buf_append_cstr(out, "],\"model\":");
    json_write_string(out, str_from(answer->model));
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u}}", answer->prompt_tokens,
               answer->prompt_tokens);
}

const struct api_dialect api_openai_embeddings = {
    .parse = openai_parse_embeddings,
    .error_body = openai_error_body,
    .body = body,
};
