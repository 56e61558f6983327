/*
 * Stop strings in a stream of text: text goes in as it is generated, what is safe to show comes out.
 *
 * Text is safe once no stop string can begin in it any more; the longest suffix that could begin one
 * is held back. The stop string that is complete first ends the text (the longer one of two that
 * complete together), so the result does not depend on how the text was cut into tokens. What comes
 * out never contains any part of the stop string that ended it.
 *
 * Belongs to one thread. No allocation as long as `held` stays within what stop_matcher_init()
 * reserved (one token's text beyond the longest stop string).
 */
#ifndef SLUICE_TEXT_STOP_H
#define SLUICE_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

struct stop_matcher {
    const struct str *stops; /* [n_stops], borrowed, none empty */
    size_t n_stops;
    struct buf held; /* the last `shown` result, then what is held back */
    size_t shown;
};

/* False: out of memory. */
bool stop_matcher_init(struct stop_matcher *matcher, const struct str *stops, size_t n_stops);
void stop_matcher_release(struct stop_matcher *matcher);

/* Appends `text`. *safe is text that may be shown now (valid until the next call); true when a stop
 * string was completed: *safe then ends where it began, and the rest is dropped. held.failed is set
 * when memory ran out. */
bool stop_matcher_push(struct stop_matcher *matcher, struct str text, struct str *safe);
/* The text ended otherwise: what was held back is part of it after all. */
struct str stop_matcher_flush(struct stop_matcher *matcher);

#endif
