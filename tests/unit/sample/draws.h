/* What the tests of sampling share: a plain configuration, one draw, and many. Each test has its own copy. */
#ifndef SLUICE_TESTS_DRAWS_H
#define SLUICE_TESTS_DRAWS_H

#include <string.h>

#include "fixture.h"
#include "sample/sample.h"

#define MAX_VOCAB 4096

static float work[MAX_VOCAB];
static int32_t ids[MAX_VOCAB];

/* No cut, no penalty, temperature 1. */
static struct sampling plain(void)
{
    struct sampling s;
    sampling_defaults(&s);
    s.temperature = 1;
    s.top_k = 0;
    s.top_p = 1;
    s.min_p = 0;
    return s;
}

static struct sampling_input input(const float *logits, uint32_t n_vocab)
{
    return (struct sampling_input){.logits = logits, .n_vocab = n_vocab, .work = work, .ids = ids};
}

static int32_t draw(const struct sampling *s, struct sampling_input in, uint32_t n_prompt)
{
    struct error err;
    struct sampling_draw out;
    assert_ok(sampling_validate(s, in.n_vocab, &err), &err);
    memset(work, 0xff, sizeof work); /* any scratch content must do */
    memset(ids, 0xff, sizeof ids);
    assert_ok(sampling_draw(s, n_prompt, &in, &out, &err), &err);
    assert_in_range(out.token, 0, in.n_vocab - 1);
    return out.token;
}

/* Bit set of the tokens seen in many draws at different positions; needs n_vocab <= 32. */
static uint32_t reachable(struct sampling s, const float *logits, uint32_t n_vocab)
{
    uint32_t seen = 0;
    struct sampling_input in = input(logits, n_vocab);
    s.repeat_penalty = 1;
    for (in.position = 0; in.position < 4000; in.position++)
        seen |= 1u << draw(&s, in, 0);
    return seen;
}

#endif
