/*
 * The further cuts (top-n-sigma, typical, XTC), DRY, mirostat and the order of the cuts: answers
 * worked out by hand. Seeds are fixed, so a failure is a change of behaviour, not bad luck.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "draws.h"

/* Logits whose probabilities are exactly p at temperature 1. */
static void from_probabilities(const float *p, uint32_t n, float *logits)
{
    for (uint32_t i = 0; i < n; i++)
        logits[i] = logf(p[i]);
}

static void test_top_n_sigma(void **state)
{
    (void)state;
    /* Mean 2, deviation sqrt(((8^2) + 4 * 2^2) / 5) = 4: the bounds are 10 - 4n. */
    const float logits[5] = {10, 0, 0, 0, 0};
    struct sampling s = plain();
    s.temperature = 100;
    s.top_n_sigma = 2.49f; /* 0.04 */
    assert_int_equal(reachable(s, logits, 5), 1);
    s.top_n_sigma = 2.51f; /* -0.04 */
    assert_int_equal(reachable(s, logits, 5), 31);
    s.top_n_sigma = 0;
    assert_int_equal(reachable(s, logits, 5), 31);
}

static void test_typical_p(void **state)
{
    (void)state;
    /* Entropy 1.19 nats; surprises 0.69, 1.39, 2.08, 2.08: distances 0.50, 0.19, 0.89, 0.89. */
    const float p[4] = {0.5f, 0.25f, 0.125f, 0.125f};
    float logits[4];
    from_probabilities(p, 4, logits);
    struct sampling s = plain();
    s.typical_p = 0.2f;
    assert_int_equal(reachable(s, logits, 4), 1 << 1);
    s.min_p = 0.9f; /* of what is left, not of the token that was cut away */
    assert_int_equal(reachable(s, logits, 4), 1 << 1);
    s.min_p = 0;
    s.typical_p = 0.7f;
    assert_int_equal(reachable(s, logits, 4), 3);
    s.typical_p = 0.8f; /* a tie: the lower id */
    assert_int_equal(reachable(s, logits, 4), 7);
    s.typical_p = 1;
    assert_int_equal(reachable(s, logits, 4), 15);
}

static void test_xtc(void **state)
{
    (void)state;
    const float p[5] = {0.4f, 0.3f, 0.2f, 0.06f, 0.04f};
    float logits[5];
    from_probabilities(p, 5, logits);
    struct sampling s = plain();
    s.xtc_probability = 1;
    s.xtc_threshold = 0.1f; /* 0, 1, 2 reach it: only 2 stays of them */
    assert_int_equal(reachable(s, logits, 5), 28);
    s.xtc_threshold = 0.35f; /* only 0 reaches it: nothing to exclude */
    assert_int_equal(reachable(s, logits, 5), 31);
    s.xtc_threshold = 0.1f;
    s.xtc_probability = 0;
    assert_int_equal(reachable(s, logits, 5), 31);

    /* Half the draws: token 0 comes about half as often as it would. */
    s.xtc_probability = 0.5f;
    struct sampling_input in = input(logits, 5);
    int zeros = 0;
    for (in.position = 0; in.position < 4000; in.position++)
        zeros += draw(&s, in, 0) == 0;
    assert_in_range(zeros, 4000 * 0.17, 4000 * 0.23);
}

static void test_dry(void **state)
{
    (void)state;
    /* ... 1 2 3 4 ... 1 2 3: the next 4 would repeat four tokens; what else followed a 3 is 0. */
    const int32_t history[9] = {3, 0, 1, 2, 3, 4, 1, 2, 3};
    const float logits[6] = {1, 0, 0, 0, 5, 2};
    struct sampling s = plain();
    struct sampling_input in = input(logits, 6);
    in.history = history;
    in.position = 9;
    s.temperature = 0;
    assert_int_equal(draw(&s, in, 0), 4);
    s.dry_multiplier = 1.0f; /* 1 * 1.75^(3 - 2) = 1.75 */
    assert_int_equal(draw(&s, in, 0), 4);
    s.dry_multiplier = 1.72f; /* 3.01 > 5 - 2 */
    assert_int_equal(draw(&s, in, 0), 5);
    s.dry_multiplier = 1.71f; /* 2.99 */
    assert_int_equal(draw(&s, in, 0), 4);

    s.dry_multiplier = 100;
    s.dry_allowed_length = 4; /* three tokens may be repeated */
    assert_int_equal(draw(&s, in, 0), 4);
    s.dry_allowed_length = 3;
    assert_int_equal(draw(&s, in, 0), 5);
    s.dry_last_n = 3; /* the first 4 is out of sight */
    assert_int_equal(draw(&s, in, 0), 4);
    s.dry_last_n = -1;
    const uint32_t breakers[1] = {1u << 2}; /* 1 | 2 | 3: only 3 repeats */
    in.breakers = breakers;
    assert_int_equal(draw(&s, in, 0), 4);
    s.dry_allowed_length = 1; /* a single 3 already counts, for 0 and for 4 */
    assert_int_equal(draw(&s, in, 0), 5);
}

/* Many equal logits after a better one: what version 2 keeps has a surprise of at most mu. */
static void test_mirostat_2(void **state)
{
    (void)state;
    const float p[4] = {0.5f, 0.25f, 0.125f, 0.125f}; /* 1, 2, 3, 3 bits */
    float logits[4];
    from_probabilities(p, 4, logits);
    struct sampling s = plain();
    s.mirostat = 2;
    s.mirostat_tau = 1.25f; /* mu starts at 2.5 */
    s.top_k = 1;            /* cuts are off under mirostat */
    assert_int_equal(reachable(s, logits, 4), 3);
    s.mirostat_tau = 1.6f;
    assert_int_equal(reachable(s, logits, 4), 15);
    s.mirostat_tau = 0.25f; /* the most probable one always stays */
    assert_int_equal(reachable(s, logits, 4), 1);

    /* The new mu by hand: token 0 of {2/3, 1/3} has log2(3/2) bits. */
    struct sampling_draw out;
    struct sampling_input in = input(logits, 4);
    struct error err;
    s.mirostat_tau = 1.25f;
    s.mirostat_eta = 0.5f;
    do {
        assert_ok(sampling_draw(&s, 0, &in, &out, &err), &err);
        in.position++;
    } while (out.token != 0);
    assert_true(fabsf(out.mirostat_mu - (2.5f - 0.5f * (0.5849625f - 1.25f))) < 1e-5f);
}

/* Carried along, mu makes the mean surprise of a long answer tau, whatever the logits. */
static void test_mirostat_holds_the_surprise(void **state)
{
    (void)state;
    float logits[1000];
    for (int i = 0; i < 1000; i++)
        logits[i] = -1.1f * logf((float)(i + 1)); /* Zipf's law */
    for (int version = 1; version <= 2; version++) {
        struct sampling s = plain();
        s.mirostat = version;
        s.mirostat_tau = 3.0f;
        struct sampling_row row = sampling_row_from(&s, 0);
        struct sampling_input in = input(logits, 1000);
        struct sampling_draw out;
        double sum = 0;
        for (in.position = 0; in.position < 3000; in.position++) {
            sampling_draw_row(&row, &in, &out);
            assert_int_equal(out.failed, SAMPLING_DRAWN);
            /* mu' = mu - eta (surprise - tau) */
            sum += (double)(3.0f - (out.mirostat_mu - row.mirostat_mu) / s.mirostat_eta);
            row.mirostat_mu = out.mirostat_mu;
        }
        assert_true(fabs(sum / 3000 - 3.0) < 0.05);
    }
}

static void test_order(void **state)
{
    (void)state;
    const float p[4] = {0.4f, 0.3f, 0.2f, 0.1f};
    float logits[4];
    from_probabilities(p, 4, logits);
    struct sampling s = plain();
    struct error err;
    /* top_k first leaves {0.57, 0.43}, of which top_p needs both; top_p first keeps 0, 1 of all. */
    s.top_k = 2;
    s.top_p = 0.65f;
    assert_ok(sampling_order_parse("top_k;top_p", &s.order, &err), &err);
    assert_int_equal(reachable(s, logits, 4), 3);
    s.top_p = 0.56f;
    assert_int_equal(reachable(s, logits, 4), 1);
    assert_ok(sampling_order_parse("top_p,top_k", &s.order, &err), &err);
    assert_int_equal(reachable(s, logits, 4), 3);
    /* Temperature before min_p flattens what min_p sees. */
    s = plain();
    s.min_p = 0.49f;
    s.temperature = 4;
    assert_ok(sampling_order_parse("min_p;temperature", &s.order, &err), &err);
    assert_int_equal(reachable(s, logits, 4), 7);
    assert_ok(sampling_order_parse("temperature;min_p", &s.order, &err), &err);
    assert_int_equal(reachable(s, logits, 4), 15);
    /* Left out: off. */
    assert_ok(sampling_order_parse("", &s.order, &err), &err);
    s.temperature = 1;
    s.min_p = 0.9f;
    assert_int_equal(reachable(s, logits, 4), 15);
    assert_int_equal(sampling_order_parse("top_k;top_q", &s.order, &err), STATUS_USAGE);
    assert_non_null(strstr(err.message, "top_q"));
    assert_int_equal(sampling_order_parse("top_k;top_k", &s.order, &err), STATUS_USAGE);
    assert_int_equal(sampling_order_parse(";", &s.order, &err), STATUS_USAGE);
}

static void test_extras_are_validated(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        float bad;
        const char *name;
    } cases[] = {
        {offsetof(struct sampling, typical_p), 0, "typical_p"},
        {offsetof(struct sampling, typical_p), NAN, "typical_p"},
        {offsetof(struct sampling, top_n_sigma), -1, "top_n_sigma"},
        {offsetof(struct sampling, xtc_probability), 1.5f, "xtc_probability"},
        {offsetof(struct sampling, xtc_threshold), -0.1f, "xtc_threshold"},
        {offsetof(struct sampling, dry_multiplier), NAN, "dry_multiplier"},
        {offsetof(struct sampling, dry_base), 0.5f, "dry_base"},
        {offsetof(struct sampling, mirostat_tau), 0, "mirostat_tau"},
        {offsetof(struct sampling, mirostat_eta), INFINITY, "mirostat_eta"},
    };
    struct error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampling s = plain();
        memcpy((char *)&s + cases[i].offset, &cases[i].bad, sizeof(float));
        assert_int_equal(sampling_validate(&s, 10, &err), STATUS_USAGE);
        assert_non_null(strstr(err.message, cases[i].name));
    }
    struct sampling s = plain();
    s.mirostat = 3;
    assert_int_equal(sampling_validate(&s, 10, &err), STATUS_USAGE);
    s.mirostat = 0;
    s.dry_allowed_length = 0;
    assert_int_equal(sampling_validate(&s, 10, &err), STATUS_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top_n_sigma), cmocka_unit_test(test_typical_p),
        cmocka_unit_test(test_xtc),         cmocka_unit_test(test_dry),
        cmocka_unit_test(test_mirostat_2),  cmocka_unit_test(test_mirostat_holds_the_surprise),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_extras_are_validated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
