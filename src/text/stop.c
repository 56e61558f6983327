/*
 * `held` keeps what was not shown yet, plus, during a push, the bytes already shown by the last one
 * (`shown` of them, removed at the next push), so that *safe can point into it.
 *
 * Stop strings are few and short, so each is searched for directly; an automaton over all of them
 * would be faster only for sizes that the API does not accept.
 */
#include "text/stop.h"

#include <stdint.h>
#include <string.h>

bool stop_matcher_init(struct stop_matcher *matcher, const struct str *stops, size_t n_stops)
{
    size_t longest = 0;
    for (size_t i = 0; i < n_stops; i++)
        longest = stops[i].len > longest ? stops[i].len : longest;
    *matcher = (struct stop_matcher){.stops = stops, .n_stops = n_stops};
    return buf_reserve(&matcher->held, 2 * longest + 256);
}

void stop_matcher_release(struct stop_matcher *matcher)
{
    buf_release(&matcher->held);
}

static void drop_shown(struct stop_matcher *matcher)
{
    struct buf *held = &matcher->held;
    if (matcher->shown == 0)
        return;
    memmove(held->data, held->data + matcher->shown, held->len - matcher->shown);
    held->len -= matcher->shown;
    matcher->shown = 0;
}

/* Start of the stop string that is complete first, or SIZE_MAX. */
static size_t find_stop(const struct stop_matcher *matcher)
{
    struct str text = buf_str(&matcher->held);
    size_t best_start = SIZE_MAX, best_end = SIZE_MAX;
    for (size_t i = 0; i < matcher->n_stops; i++) {
        size_t start = str_find(text, matcher->stops[i], 0);
        if (start == SIZE_MAX)
            continue;
        size_t end = start + matcher->stops[i].len;
        if (end < best_end || (end == best_end && start < best_start)) {
            best_start = start;
            best_end = end;
        }
    }
    return best_start;
}

/* Bytes at the end of the text that could begin a stop string. */
static size_t longest_beginning(const struct stop_matcher *matcher)
{
    struct str text = buf_str(&matcher->held);
    size_t longest = 0;
    for (size_t i = 0; i < matcher->n_stops; i++) {
        struct str stop = matcher->stops[i];
        size_t n = stop.len - 1 < text.len ? stop.len - 1 : text.len;
        while (n > longest && memcmp(text.data + text.len - n, stop.data, n) != 0)
            n--;
        longest = n > longest ? n : longest;
    }
    return longest;
}

bool stop_matcher_push(struct stop_matcher *matcher, struct str text, struct str *safe)
{
    if (matcher->n_stops == 0) {
        *safe = text;
        return false;
    }
    drop_shown(matcher);
    buf_append_str(&matcher->held, text);
    size_t stop = find_stop(matcher);
    if (stop != SIZE_MAX) {
        *safe = (struct str){matcher->held.data, stop};
        matcher->shown = matcher->held.len;
        return true;
    }
    matcher->shown = matcher->held.len - longest_beginning(matcher);
    *safe = (struct str){buf_str(&matcher->held).data, matcher->shown};
    return false;
}

struct str stop_matcher_flush(struct stop_matcher *matcher)
{
    drop_shown(matcher);
    struct str rest = buf_str(&matcher->held);
    matcher->shown = matcher->held.len;
    return rest;
}
