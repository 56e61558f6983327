/* Text between marks. */
#include "text/chat/output_scan.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

struct str scan_unwrapped(struct str value)
{
    if (value.len && value.data[0] == '\n') {
        value.data++;
        value.len--;
    }
    if (value.len && value.data[value.len - 1] == '\n')
        value.len--;
    return value;
}

size_t scan_skip(struct str body, size_t at, const char *also)
{
    while (at < body.len && body.data[at] &&
           (isspace((unsigned char)body.data[at]) || strchr(also, body.data[at])))
        at++;
    return at;
}

bool scan_until(struct scan *scan, const char *mark, struct str *out)
{
    size_t end = str_find(scan->body, str_from(mark), scan->at);
    if (end == SIZE_MAX)
        return false;
    *out = (struct str){scan->body.data + scan->at, end - scan->at};
    scan->at = end + strlen(mark);
    return true;
}

bool scan_next(struct scan *scan, const char *mark)
{
    size_t at = scan_skip(scan->body, scan->at, "");
    struct str rest = {scan->body.data + at, scan->body.len - at};
    if (!str_starts(rest, str_from(mark)))
        return false;
    scan->at = at + strlen(mark);
    return true;
}

void scan_put_string(struct buf *out, struct str text)
{
    json_t *value = json_stringn(text.data ? text.data : "", text.len);
    char *dumped = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    buf_append_cstr(out, dumped ? dumped : "\"\"");
    out->failed |= !dumped;
    free(dumped);
    json_decref(value);
}

void scan_put_value(struct buf *out, struct str value)
{
    json_t *parsed = NULL;
    bool json = json_parse(str_trimmed(value), SCAN_DEPTH, "value", &parsed, NULL) == STATUS_OK &&
                !json_is_string(parsed);
    if (json)
        buf_append_str(out, str_trimmed(value));
    else
        scan_put_string(out, value);
    json_decref(parsed);
}

void scan_put_key(struct buf *out, struct str key)
{
    if (out->len && out->data[out->len - 1] != '{')
        buf_append_cstr(out, ", ");
    scan_put_string(out, key);
    buf_append_cstr(out, ": ");
}

void scan_put_member(struct buf *out, struct str key, struct str value)
{
    scan_put_key(out, key);
    scan_put_value(out, value);
}

bool scan_put_checked(struct str text, struct buf *out)
{
    json_t *parsed = NULL;
    text = str_trimmed(text);
    bool ok = json_parse(text, SCAN_DEPTH, "arguments", &parsed, NULL) == STATUS_OK &&
              json_is_object(parsed);
    json_decref(parsed);
    if (ok)
        buf_append_str(out, text);
    return ok;
}
