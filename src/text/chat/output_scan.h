/*
 * Reading text between marks, for the readers of tool calls. Internal to text/chat.
 */
#ifndef SLUICE_TEXT_CHAT_OUTPUT_SCAN_H
#define SLUICE_TEXT_CHAT_OUTPUT_SCAN_H

#include <stdbool.h>

#include "base/str.h"

#define SCAN_DEPTH 64 /* of values in each other */

struct scan {
    struct str body;
    size_t at;
};

/* Without one line end at each side, which is layout. */
struct str scan_unwrapped(struct str value);
/* The place behind white space and the characters of `also`. */
size_t scan_skip(struct str body, size_t at, const char *also);
/* Moves behind `mark` and gives what stood before it; false: it comes no more. */
bool scan_until(struct scan *scan, const char *mark, struct str *out);
/* Moves behind white space and `mark`; false: something else comes. */
bool scan_next(struct scan *scan, const char *mark);

/* Appends a JSON string. Text that is not UTF-8 makes `out` fail. */
void scan_put_string(struct buf *out, struct str text);
/* Appends the value of a form without types: as it is where it reads as JSON other than a string,
 * else as a string. */
void scan_put_value(struct buf *out, struct str value);
/* Appends a member's key to an object that has been opened, with a comma where it needs one. */
void scan_put_key(struct buf *out, struct str key);
void scan_put_member(struct buf *out, struct str key, struct str value);
/* Appends arguments as they are; false: they are no JSON object. */
bool scan_put_checked(struct str text, struct buf *out);

#endif
