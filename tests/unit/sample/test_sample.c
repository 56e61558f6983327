/*
 * Sampling: answers worked out by hand, the distribution of many draws, and hostile input.
 *
 * Distributions are checked with fixed seeds, so a failure is a change of behaviour, not bad luck.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "draws.h"

static void test_greedy(void **state)
{
    (void)state;
    const float logits[6] = {1, 5, -2, 5, NAN, -INFINITY};
    struct sampling s = plain();
    s.temperature = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        s.seed = seed;
        assert_int_equal(draw(&s, input(logits, 6), 0), 1); /* a tie: the lower id */
    }
    const float zeros[3] = {-0.0f, 0.0f, 0.0f};
    assert_int_equal(draw(&s, input(zeros, 3), 0), 0);
    const float huge[4] = {FLT_MAX, 1, INFINITY, NAN};
    assert_int_equal(draw(&s, input(huge, 4), 0), 0); /* infinity counts as FLT_MAX */
}

static void test_bias_and_mask(void **state)
{
    (void)state;
    const float logits[5] = {1, 2, 3, 4, 5};
    const int32_t bias_ids[4] = {0, 4, 1, 0};
    const float bias_values[4] = {3, -INFINITY, 0.5f, 0.25f};
    struct sampling s = plain();
    s.temperature = 0;
    s.bias_ids = bias_ids;
    s.bias_values = bias_values;
    s.n_biases = 4;
    assert_int_equal(draw(&s, input(logits, 5), 0), 0); /* 1 + 3 + 0.25 beats 4; 5 is banned */

    const uint32_t mask[1] = {1u << 1 | 1u << 2};
    struct sampling_input in = input(logits, 5);
    in.mask = mask;
    assert_int_equal(draw(&s, in, 0), 2);
    s.temperature = 1;
    for (in.position = 0; in.position < 500; in.position++)
        assert_true(mask[0] >> draw(&s, in, 0) & 1);

    /* Masks beyond the first word. */
    float wide[70];
    for (int i = 0; i < 70; i++)
        wide[i] = (float)-i;
    const uint32_t wide_mask[3] = {0, 0, 1u << (69 - 64)};
    in = input(wide, 70);
    in.mask = wide_mask;
    s.n_biases = 0;
    assert_int_equal(draw(&s, in, 0), 69);
}

static void test_repeat_penalty(void **state)
{
    (void)state;
    const float logits[4] = {4, 3, -1, -1.5f};
    const int32_t history[5] = {0, 2, 0, 1, 99};
    struct sampling s = plain();
    struct sampling_input in = input(logits, 4);
    in.history = history;
    in.position = 4;
    s.temperature = 0;
    s.repeat_penalty = 1.5f;

    s.repeat_last_n = 0;
    assert_int_equal(draw(&s, in, 4), 0);
    s.repeat_last_n = 1; /* only 1 is penalised: 4 against 2 */
    assert_int_equal(draw(&s, in, 4), 0);
    s.repeat_last_n = 2; /* 0 and 1: 4/1.5 = 2.67 against 2, once although 0 occurs twice */
    assert_int_equal(draw(&s, in, 4), 0);
    s.repeat_penalty = 4;
    s.repeat_last_n = 1; /* 4 against 3/4 */
    assert_int_equal(draw(&s, in, 4), 0);
    in.position = 3;
    s.repeat_last_n = -1; /* 0 and 2 in the window: 1, 3, -4, -1.5 */
    assert_int_equal(draw(&s, in, 3), 1);
    const uint32_t negatives[1] = {0xc};
    in.mask = negatives; /* multiplied where negative: -4 against -1.5 */
    assert_int_equal(draw(&s, in, 3), 3);
    s.repeat_last_n = 1; /* the window holds only 0 */
    assert_int_equal(draw(&s, in, 3), 2);
    in.mask = NULL;
    in.position = 5; /* 99 is outside the vocabulary and ignored; so is a window past the start */
    s.repeat_last_n = 1000;
    assert_int_equal(draw(&s, in, 5), 0); /* 1, 0.75, -4, -1.5 */
}

static void test_openai_penalties(void **state)
{
    (void)state;
    const float logits[3] = {5, 4.5f, 4};
    const int32_t history[6] = {0, 0, 0, 0, 0, 1};
    struct sampling s = plain();
    struct sampling_input in = input(logits, 3);
    in.history = history;
    s.temperature = 0;
    s.presence_penalty = 0.75f;
    in.position = 3;
    assert_int_equal(draw(&s, in, 3), 0); /* the prompt does not count */
    in.position = 4;
    assert_int_equal(draw(&s, in, 3), 1); /* 4.25, 4.5, 4 */
    in.position = 6;
    assert_int_equal(draw(&s, in, 3), 0); /* 4.25, 3.75, 4: presence counts once */
    s.presence_penalty = 0;
    s.frequency_penalty = 0.6f;
    assert_int_equal(draw(&s, in, 3), 2); /* 5 - 2 x 0.6 = 3.8, 3.9, 4 */
    s.frequency_penalty = -0.6f;
    s.presence_penalty = 0.5f;
    assert_int_equal(draw(&s, in, 3), 0); /* 5.7, 4.6, 4 */
    in.position = 0;
    assert_int_equal(draw(&s, in, 3), 0); /* n_prompt past the position */
    /* Both kinds at once: repeat first, then subtract. 5/2 - 0.5 + 1.2 = 3.2; 4.5/2 + 0.1 = 2.35 */
    s.repeat_penalty = 2;
    s.repeat_last_n = -1;
    in.position = 6;
    assert_int_equal(draw(&s, in, 3), 2);
}

static void test_cuts(void **state)
{
    (void)state;
    /* Probabilities 0.4 0.3 0.15 0.1 0.05 in a shuffled order. */
    const float logits[5] = {logf(0.15f), logf(0.4f), logf(0.05f), logf(0.3f), logf(0.1f)};
    struct sampling s = plain();
    assert_int_equal(reachable(s, logits, 5), 0x1f);
    s.top_k = 2;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3);
    s.top_k = 1;
    assert_int_equal(reachable(s, logits, 5), 1u << 1);
    s.top_k = 100;
    assert_int_equal(reachable(s, logits, 5), 0x1f);
    s.top_k = 0;
    s.top_p = 0.69f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3);
    s.top_p = 0.71f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3 | 1u << 0);
    s.top_p = 1e-6f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1);
    s.top_p = 0.97f;
    assert_int_equal(reachable(s, logits, 5), 0x1f);
    s.top_p = 1;
    s.min_p = 0.3f; /* at least 0.12 */
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3 | 1u << 0);
    s.min_p = 1;
    assert_int_equal(reachable(s, logits, 5), 1u << 1);
    /* top_p counts its share of what top_k left: 0.4/0.85 = 0.47, (0.4 + 0.3)/0.85 = 0.82. */
    s.min_p = 0;
    s.top_k = 3;
    s.top_p = 0.8f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3);
    s.top_p = 0.85f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3 | 1u << 0);
    /* ... and not of what min_p left: 0.7 of 1 is reached by two only with 0.7, not 0.75. */
    s.top_k = 0;
    s.top_p = 0.75f;
    s.min_p = 0.5f;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3);
    /* The cuts judge before temperature: at 5 the five are nearly equal, but the cut stays. */
    s.min_p = 0;
    s.top_p = 0.69f;
    s.temperature = 5;
    assert_int_equal(reachable(s, logits, 5), 1u << 1 | 1u << 3);
}

/* Ties at the edge go to lower ids, in every cut. */
static void test_ties(void **state)
{
    (void)state;
    const float flat[8] = {2, 2, 2, 2, 2, 2, 2, 2};
    struct sampling s = plain();
    s.top_k = 3;
    assert_int_equal(reachable(s, flat, 8), 0x7);
    s.top_k = 0;
    s.top_p = 0.49f;
    assert_int_equal(reachable(s, flat, 8), 0xf);
    s.top_p = 1;
    s.min_p = 1;
    assert_int_equal(reachable(s, flat, 8), 0xff);
}

/* top_k and top_p against a plain sort, on rows with many equal logits. */
static const float *sorted_logits;

static int by_order(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (sorted_logits[x] != sorted_logits[y])
        return sorted_logits[x] > sorted_logits[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void test_selection_against_sort(void **state)
{
    (void)state;
    static float logits[1000];
    static int32_t order[1000], got[1000];
    for (uint32_t round = 0; round < 60; round++) {
        uint32_t n = 1 + round * 16, levels = round % 3 ? 7 + round : 100000;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t random = sampling_mix(round * 1000 + i + 1);
            logits[i] = (float)(random % levels) * 8 / (float)levels;
            order[i] = (int32_t)i;
        }
        sorted_logits = logits;
        qsort(order, n, sizeof *order, by_order);

        int32_t k = (int32_t)(1 + sampling_mix(round) % n);
        uint32_t kept = sampling_top_k(logits, n, k, got);
        assert_int_equal(kept, k);
        qsort(got, kept, sizeof *got, by_order);
        assert_memory_equal(got, order, kept * sizeof *got);

        double total = 0, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            total += (double)expf(logits[i] - logits[order[0]]);
        float share = (float)(round + 1) / 61.0f;
        double wanted = total * (double)share;
        uint32_t expected = 0;
        while (expected < n && sum < wanted)
            sum += (double)expf(logits[order[expected++]] - logits[order[0]]);
        assert_int_equal(sampling_top_k(logits, n, 0, got), n);
        struct sampling_set set = {logits, got, n, logits[order[0]], 1.0f};
        sampling_cut_top_p(&set, share);
        assert_int_equal(set.n, expected);
        qsort(got, set.n, sizeof *got, by_order);
        assert_memory_equal(got, order, expected * sizeof *got);
    }
}

/* Chi-square of n draws; `by_seed` varies the seed at one position, else the position. */
static double chi_square(struct sampling s, const float *logits, const double *expected, uint32_t k,
                         bool by_seed)
{
    enum { DRAWS = 40000 };
    uint32_t counts[32] = {0};
    struct sampling_input in = input(logits, k);
    in.position = 17;
    for (uint32_t i = 0; i < DRAWS; i++) {
        if (by_seed)
            s.seed = i;
        else
            in.position = i;
        counts[draw(&s, in, 0)]++;
    }
    double sum = 0;
    for (uint32_t i = 0; i < k; i++) {
        double e = expected[i] * DRAWS;
        if (e == 0)
            assert_int_equal(counts[i], 0);
        else
            sum += (counts[i] - e) * (counts[i] - e) / e;
    }
    return sum;
}

/* 99.9 % quantiles of the chi-square distribution: 5 degrees 20.5, 3 degrees 16.3, 9 degrees 27.9. */
static void test_distribution(void **state)
{
    (void)state;
    const float logits[6] = {0.5f, -1, 2, 1.25f, -3, 0};
    for (int t = 0; t < 3; t++) {
        double temperature = t == 0 ? 1 : t == 1 ? 0.5 : 2, p[6], total = 0;
        for (int i = 0; i < 6; i++)
            total += p[i] = exp((double)logits[i] / temperature);
        for (int i = 0; i < 6; i++)
            p[i] /= total;
        struct sampling s = plain();
        s.temperature = (float)temperature;
        double seeds = chi_square(s, logits, p, 6, true);
        double positions = chi_square(s, logits, p, 6, false);
        print_message("temperature %.1f: chi-square %.2f by seed, %.2f by position (5 degrees)\n",
                      temperature, seeds, positions);
        assert_true(seeds < 20.5 && positions < 20.5);
    }
    /* After a cut the rest is renormalised: tokens 2, 3, 0, 5. */
    double p[6] = {0}, total = 0;
    const int kept[4] = {2, 3, 0, 5};
    for (int i = 0; i < 4; i++)
        total += p[kept[i]] = exp((double)logits[kept[i]] / 0.7);
    for (int i = 0; i < 6; i++)
        p[i] /= total;
    struct sampling s = plain();
    s.temperature = 0.7f;
    s.top_k = 4;
    double cut = chi_square(s, logits, p, 6, true);
    print_message("top_k 4 at 0.7: chi-square %.2f (3 degrees)\n", cut);
    assert_true(cut < 16.3);
    float flat[10] = {0};
    double even[10];
    for (int i = 0; i < 10; i++)
        even[i] = 0.1;
    s = plain();
    double uniform = chi_square(s, flat, even, 10, false);
    print_message("uniform: chi-square %.2f (9 degrees)\n", uniform);
    assert_true(uniform < 27.9);
}

/* Neighbouring positions must not be correlated: pairs of draws over a fair pair of tokens. */
static void test_positions_are_independent(void **state)
{
    (void)state;
    const float logits[2] = {0, 0};
    struct sampling s = plain();
    struct sampling_input in = input(logits, 2);
    uint32_t pairs[4] = {0};
    int32_t last = 0;
    for (in.position = 0; in.position < 40000; in.position++) {
        int32_t token = draw(&s, in, 0);
        pairs[last * 2 + token]++;
        last = token;
    }
    for (int i = 0; i < 4; i++) /* 10,000 expected, standard deviation below 90 */
        assert_in_range(pairs[i], 9700, 10300);
}

static void test_determinism(void **state)
{
    (void)state;
    static float logits[MAX_VOCAB];
    for (int i = 0; i < MAX_VOCAB; i++)
        logits[i] = (float)(sampling_mix((uint64_t)i) % 1000) * 0.01f;
    struct sampling s;
    sampling_defaults(&s);
    int32_t first[64], differ = 0;
    struct sampling_input in = input(logits, MAX_VOCAB);
    for (in.position = 0; in.position < 64; in.position++)
        first[in.position] = draw(&s, in, 0);
    for (in.position = 64; in.position-- > 0;) /* other order, other calls in between */
        assert_int_equal(draw(&s, in, 0), first[in.position]);
    s.seed = 1;
    for (in.position = 0; in.position < 64; in.position++)
        differ += draw(&s, in, 0) != first[in.position];
    assert_true(differ > 32);
    /* A cut that keeps the drawn token keeps the draw: noise belongs to the token. */
    s.seed = 0;
    s.min_p = 0;
    s.top_p = 1;
    s.top_k = 0;
    s.temperature = 0.05f;
    for (in.position = 0; in.position < 64; in.position++) {
        int32_t token = draw(&s, in, 0);
        struct sampling cut = s;
        cut.top_k = 1 + (int32_t)(logits[token] < 9.9f ? 2000 : 1000);
        assert_int_equal(draw(&cut, in, 0), token);
    }
    /* The generator itself, so that seeds keep their meaning: splitmix64 from state 0 gives
     * e220a8397b1dcdaf first (published test value). */
    assert_true(sampling_mix(SAMPLING_GOLDEN) == 0xe220a8397b1dcdafu);
    assert_true(sampling_mix(2 * SAMPLING_GOLDEN) == 0x6e789e6aa1b965f4u);
}

static void test_noise_bounds(void **state)
{
    (void)state;
    double sum = 0;
    for (int32_t id = 0; id < 200000; id++) {
        float noise = sampling_noise(sampling_key(3, 4), id);
        assert_true(noise > -2.95f && noise < SAMPLING_NOISE_MAX);
        sum += (double)noise;
    }
    double mean = sum / 200000; /* Euler's constant; standard error 0.0029 */
    assert_true(fabs(mean - 0.5772) < 0.012);
    /* The largest possible noise is what the smallest uniform gives. */
    assert_true(-logf(-log1pf(-0.5f * 2.3283064365386963e-10f)) < SAMPLING_NOISE_MAX);
}

static void test_logprobs(void **state)
{
    (void)state;
    const float logits[5] = {logf(0.1f) + 7, logf(0.4f) + 7, logf(0.1f) + 7, logf(0.3f) + 7,
                             logf(0.1f) + 7};
    const int32_t bias_ids[1] = {0};
    const float bias_values[1] = {50};
    struct sampling s = plain();
    s.temperature = 0;
    s.logprobs = true;
    s.n_top_logprobs = 4;
    s.bias_ids = bias_ids;
    s.bias_values = bias_values;
    s.n_biases = 1;
    struct sampling_input in = input(logits, 5);
    struct sampling_draw out;
    struct error err;
    assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
    assert_int_equal(out.token, 0); /* by its bias, which the log-probabilities do not see */
    assert_true(fabsf(out.logprob - logf(0.1f)) < 1e-5f);
    const int32_t top[4] = {1, 3, 0, 2};
    const float p[4] = {0.4f, 0.3f, 0.1f, 0.1f};
    assert_int_equal(out.n_top, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(out.top[i].token, top[i]);
        assert_true(fabsf(out.top[i].logprob - logf(p[i])) < 1e-5f);
    }
    s.n_top_logprobs = 20; /* more than there are tokens */
    assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
    assert_int_equal(out.n_top, 5);
    s.n_top_logprobs = 0;
    assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
    assert_int_equal(out.n_top, 0);
    assert_true(fabsf(out.logprob - logf(0.1f)) < 1e-5f);
    const float odd[3] = {NAN, 3, -INFINITY};
    in = input(odd, 3);
    s.n_top_logprobs = 3;
    s.n_biases = 0;
    assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
    assert_true(out.token == 1 && out.logprob == 0.0f && out.top[0].token == 1);
    assert_true(out.top[1].logprob == -INFINITY && out.top[1].token == 0);
}

static void test_unusable_rows(void **state)
{
    (void)state;
    const float nans[3] = {NAN, -INFINITY, NAN}, good[3] = {1, 2, 3};
    const uint32_t none[1] = {~7u};
    struct sampling s = plain();
    struct sampling_draw out;
    struct error err;
    for (int greedy = 0; greedy < 2; greedy++) {
        s.temperature = greedy ? 0 : 1;
        struct sampling_input in = input(nans, 3);
        assert_int_equal(sampling_draw(&s, 0, &in, &out, &err), STATUS_MODEL);
        assert_true(out.token == -1 && out.failed == SAMPLING_NO_LOGIT);
        in = input(good, 3);
        in.mask = none;
        assert_int_equal(sampling_draw(&s, 0, &in, &out, &err), STATUS_LIMIT);
        assert_true(out.token == -1 && out.failed == SAMPLING_ALL_MASKED);
    }
    const float infinite[4] = {INFINITY, 1e30f, INFINITY, NAN};
    assert_int_equal(reachable(plain(), infinite, 4), 1u << 0 | 1u << 2);
    s = plain();
    s.temperature = FLT_MIN;
    assert_int_equal(reachable(s, good, 3), 1u << 2);
    s.temperature = FLT_MAX;
    assert_int_equal(reachable(s, good, 3), 0x7);
}

static uint64_t scramble(void *out, size_t bytes, uint64_t at)
{
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t word = (uint32_t)sampling_mix(at++ * SAMPLING_GOLDEN);
        memcpy((char *)out + i, &word, 4);
    }
    return at;
}

/* Any bit pattern in logits, parameters and history: no fault (run under sanitizers). */
static void test_garbage(void **state)
{
    (void)state;
    static float logits[257];
    static uint32_t mask[9];
    static int32_t history[40], bias_ids[8];
    static float bias_values[8];
    uint64_t at = 0;
    uint32_t drawn = 0;
    for (int round = 0; round < 3000; round++) {
        struct sampling_row row;
        at = scramble(logits, sizeof logits, at);
        at = scramble(mask, sizeof mask, at);
        at = scramble(history, sizeof history, at);
        at = scramble(bias_ids, sizeof bias_ids, at);
        at = scramble(bias_values, sizeof bias_values, at);
        at = scramble(&row, sizeof row, at);
        for (int i = 0; i < 40; i += 2)
            history[i] &= 0xff;
        row.bias_offset = 2;
        row.n_biases = 6;
        struct sampling_input in = input(logits, 257);
        in.mask = mask;
        in.history = history;
        in.position = 40;
        in.bias_ids = bias_ids;
        in.bias_values = bias_values;
        struct sampling_draw out;
        sampling_draw_row(&row, &in, &out);
        assert_in_range(out.token + 1, 0, 257);
        assert_true((out.token < 0) == (out.failed != 0));
        drawn += out.token >= 0;
    }
    assert_true(drawn > 1000);
}

static void expect_usage(const struct sampling *s, const char *name)
{
    struct error err;
    assert_int_equal(sampling_validate(s, 100, &err), STATUS_USAGE);
    if (!strstr(err.message, name))
        fail_msg("'%s' does not name %s", err.message, name);
}

static void test_validation(void **state)
{
    (void)state;
    struct sampling good = plain(), s;
    struct error err;
    assert_ok(sampling_validate(&good, 100, &err), &err);
#define REJECT(field, value, name)                                                                 \
    s = good;                                                                                      \
    s.field = value;                                                                               \
    expect_usage(&s, name)
    REJECT(temperature, NAN, "temperature");
    REJECT(temperature, -0.5f, "temperature");
    REJECT(temperature, INFINITY, "temperature");
    REJECT(top_k, -1, "top_k");
    REJECT(top_p, NAN, "top_p");
    REJECT(top_p, 0, "top_p");
    REJECT(top_p, 1.01f, "top_p");
    REJECT(min_p, NAN, "min_p");
    REJECT(min_p, -0.1f, "min_p");
    REJECT(min_p, 1.1f, "min_p");
    REJECT(repeat_penalty, 0, "repeat_penalty");
    REJECT(repeat_penalty, NAN, "repeat_penalty");
    REJECT(repeat_last_n, -2, "repeat_last_n");
    REJECT(presence_penalty, 2.1f, "presence_penalty");
    REJECT(frequency_penalty, -2.1f, "frequency_penalty");
    REJECT(frequency_penalty, NAN, "frequency_penalty");
    REJECT(n_top_logprobs, 21, "top_logprobs");
    REJECT(n_top_logprobs, 1, "logprobs");
    REJECT(n_biases, SAMPLING_BIASES_MAX + 1, "logit_bias");
    int32_t id = 100;
    float value = 1;
    good.bias_ids = &id;
    good.bias_values = &value;
    good.n_biases = 1;
    expect_usage(&good, "token 100");
    id = -1;
    expect_usage(&good, "token -1");
    id = 99;
    assert_ok(sampling_validate(&good, 100, &err), &err);
    value = NAN;
    expect_usage(&good, "logit_bias of token 99");
    value = -INFINITY;
    assert_ok(sampling_validate(&good, 100, &err), &err);
    assert_int_equal(sampling_validate(&good, 0, &err), STATUS_USAGE);
}

static void test_scratch(void **state)
{
    (void)state;
    const float logits[3] = {0, 2, 1};
    struct sampling_input in = {.logits = logits, .n_vocab = 3};
    char *scratch = malloc(sampling_scratch_bytes(3)); /* exact: sanitizers see the ends */
    assert_non_null(scratch);
    sampling_use_scratch(&in, scratch);
    struct sampling s = plain();
    struct sampling_draw out;
    struct error err;
    s.top_p = 0.9f;
    assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
    assert_int_equal(sampling_scratch_bytes(151936), 151936 * 8);
    free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_bias_and_mask),
        cmocka_unit_test(test_repeat_penalty),
        cmocka_unit_test(test_openai_penalties),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_selection_against_sort),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_positions_are_independent),
        cmocka_unit_test(test_determinism),
        cmocka_unit_test(test_noise_bounds),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_unusable_rows),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_validation),
        cmocka_unit_test(test_scratch),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
