/* Lines of an event stream; see sse.h. Servers of this API send each event's data on one line. */
#include "bench/sse.h"

static void take_line(struct buf *line, void (*on_data)(void *context, struct str data),
                      void *context)
{
    struct str text = buf_str(line);
    if (text.len && text.data[text.len - 1] == '\r')
        text.len--;
    if (str_starts(text, STR_LIT("data:"))) {
        size_t skip = text.len > 5 && text.data[5] == ' ' ? 6 : 5;
        on_data(context, (struct str){text.data + skip, text.len - skip});
    }
    buf_clear(line);
}

bool sse_feed(struct buf *line, const char *data, size_t length,
              void (*on_data)(void *context, struct str data), void *context)
{
    while (length > 0) {
        const char *end = memchr(data, '\n', length);
        size_t n = end ? (size_t)(end - data) : length;
        if (line->len + n > SSE_LINE_BYTES_MAX)
            return false;
        buf_append(line, data, n);
        if (line->failed)
            return false;
        if (!end)
            return true;
        take_line(line, on_data, context);
        data += n + 1;
        length -= n + 1;
    }
    return true;
}
