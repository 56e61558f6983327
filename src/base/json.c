/* JSON from outside: depth scan, then jansson. */
#include "base/json.h"

#include "base/file.h"

/* Brackets outside strings; anything malformed is left for the parser to name. */
static bool depth_within(struct str text, unsigned max_depth)
{
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > max_depth)
                return false;
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Copies the document and writes integers beyond int64 as reals ("1...0" -> "1...0.0"). */
static void widen_integers(struct str text, struct buf *out)
{
    static const struct str limit = {"9223372036854775807", 19};
    bool in_string = false;
    for (size_t i = 0; i < text.len;) {
        size_t end = i + 1;
        if (in_string && text.data[i] == '\\' && end < text.len)
            end++;
        else if (text.data[i] == '"')
            in_string = !in_string;
        while (!in_string && is_digit(text.data[i]) && end < text.len && is_digit(text.data[end]))
            end++;
        buf_append(out, text.data + i, end - i);
        bool whole = !in_string && is_digit(text.data[i]) && (i == 0 || text.data[i - 1] != '.') &&
                     (end == text.len || !strchr(".eE", text.data[end]));
        if (whole && (end - i > limit.len ||
                      (end - i == limit.len && memcmp(text.data + i, limit.data, limit.len) > 0)))
            buf_append_cstr(out, ".0");
        i = end;
    }
}

enum status json_parse(struct str text, unsigned max_depth, const char *what, json_t **out,
                       struct error *err)
{
    *out = NULL;
    if (!depth_within(text, max_depth))
        return error_set(err, STATUS_LIMIT, "%s: JSON nested deeper than %u levels", what,
                         max_depth);
    json_error_t detail;
    const size_t flags = JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *value = json_loadb(text.data ? text.data : "", text.len, flags, &detail);
    if (!value && json_error_code(&detail) == json_error_numeric_overflow) {
        struct buf wide = {0};
        widen_integers(text, &wide);
        if (!wide.failed)
            value = json_loadb(wide.data, wide.len, flags, &detail);
        buf_release(&wide);
    }
    if (!value)
        return error_set(err, STATUS_MODEL, "%s: invalid JSON at line %d column %d: %s", what,
                         detail.line, detail.column, detail.text);
    *out = value;
    return STATUS_OK;
}

enum status json_parse_file(const char *path, size_t max_bytes, unsigned max_depth, json_t **out,
                            struct error *err)
{
    struct buf text = {0};
    *out = NULL;
    enum status status = file_read_all(path, max_bytes, &text, err);
    if (status == STATUS_OK)
        status = json_parse(buf_str(&text), max_depth, path, out, err);
    buf_release(&text);
    return status;
}
