/* Server-sent events as they arrive over HTTP: bytes in any pieces in, the data of each event out. */
#ifndef SLUICE_BENCH_SSE_H
#define SLUICE_BENCH_SSE_H

#include "base/str.h"

#define SSE_LINE_BYTES_MAX ((size_t)4 << 20)

/* Feeds bytes; `line` keeps an incomplete line between calls. on_data gets the text after "data:" of
 * every line that has one; comments and other fields are skipped. False: a line is too long. */
bool sse_feed(struct buf *line, const char *data, size_t length,
              void (*on_data)(void *context, struct str data), void *context);

#endif
