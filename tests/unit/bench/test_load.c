/* The load generator without a server: what users say, streams in pieces, and the arithmetic. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/load.h"
#include "bench/sse.h"
#include "fixture.h"
#include "scratch.h"

static void quantiles(void **state)
{
    (void)state;
    const double values[] = {1, 2, 3, 4, 5};
    assert_true(isnan(load_quantile(values, 0, 0.5)));
    assert_true(load_quantile(values, 1, 0.99) == 1);
    assert_true(load_quantile(values, 5, 0.5) == 3);
    assert_true(load_quantile(values, 5, 1.0) == 5);
    assert_true(fabs(load_quantile(values, 5, 0.9) - 4.6) < 1e-12);
}

static void collect(void *context, struct str data)
{
    buf_append_str(context, data);
    buf_append_char(context, '|');
}

static void streams_in_any_pieces(void **state)
{
    (void)state;
    static const char stream[] =
        ": hello\n\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:b\n\ndata: [DONE]\n\n";
    for (size_t step = 1; step < sizeof stream; step++) {
        struct buf line = {0}, out = {0};
        for (size_t i = 0; i < sizeof stream - 1; i += step) {
            size_t n = sizeof stream - 1 - i < step ? sizeof stream - 1 - i : step;
            assert_true(sse_feed(&line, stream + i, n, collect, &out));
        }
        assert_string_equal(out.data, "{\"a\":1}|b|[DONE]|");
        buf_release(&line);
        buf_release(&out);
    }
    struct buf line = {0};
    char *block = malloc(1 << 20);
    memset(block, 'x', 1 << 20);
    bool ok = true;
    for (int i = 0; i < 8 && ok; i++)
        ok = sse_feed(&line, block, 1 << 20, collect, NULL);
    assert_false(ok); /* a line without an end is not collected for ever */
    free(block);
    buf_release(&line);
}

static struct load_plan *plan_of(enum load_scenario scenario, const char *trace)
{
    struct error err;
    struct load_plan *plan;
    const struct load_config config = {
        .scenario = scenario, .trace = trace, .think_seconds = -1, .seed = 5, .max_tokens = 40};
    assert_ok(load_plan_create(&config, 1.0, &plan, &err), &err);
    return plan;
}

static const char *role_of(const struct load_talk *talk, size_t i)
{
    return json_string_value(json_object_get(json_array_get(talk->messages, i), "role"));
}

static const char *content_of(const struct load_talk *talk, size_t i)
{
    return json_string_value(json_object_get(json_array_get(talk->messages, i), "content"));
}

static void agents_resend_their_history(void **state)
{
    (void)state;
    struct load_plan *plan = plan_of(LOAD_AGENTS, NULL);
    struct load_talk one = {.random = 1}, other = {.random = 2};
    uint32_t max_tokens;
    double think;
    for (size_t turn = 0; turn < 6; turn++) {
        assert_true(load_talk_next(plan, &one, &max_tokens, &think));
        assert_int_equal(json_array_size(one.messages), 2 + 2 * turn);
        assert_true(turn == 0 ? think == 0 : think >= 0 && think <= 1.0);
        load_talk_answer(plan, &one, STR_LIT("answer"));
    }
    assert_string_equal(role_of(&one, 0), "system");
    assert_string_equal(role_of(&one, 1), "user");
    assert_string_equal(content_of(&one, 2), "answer");
    assert_true(load_talk_next(plan, &one, &max_tokens, &think));
    assert_int_equal(json_array_size(one.messages), 2); /* a new conversation */
    assert_true(load_talk_next(plan, &other, &max_tokens, &think));
    assert_string_equal(content_of(&one, 0), content_of(&other, 0)); /* shared */
    assert_string_not_equal(content_of(&one, 1), content_of(&other, 1));
    assert_int_equal(max_tokens, 40);
    load_talk_release(&one);
    load_talk_release(&other);
    load_plan_free(plan);
}

static void traces_are_replayed(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/trace.json", fixture_scratch());
    scratch_write_text(
        path,
        "[{\"traj\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\"}],\"x\":1},"
        "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"t\"},"
        "{\"role\":\"assistant\",\"content\":\"12345678\"}]}]");
    struct load_plan *plan = plan_of(LOAD_TRACE, path);
    struct load_talk talk = {0};
    uint32_t max_tokens;
    double think;
    assert_true(load_talk_next(plan, &talk, &max_tokens, &think));
    assert_int_equal(json_array_size(talk.messages), 2);
    assert_int_equal(max_tokens, 32); /* a call has no length of its own */
    load_talk_answer(plan, &talk, STR_LIT("ignored"));
    assert_true(load_talk_next(plan, &talk, &max_tokens, &think));
    assert_int_equal(json_array_size(talk.messages), 4);
    assert_string_equal(role_of(&talk, 2), "assistant");
    assert_null(json_object_get(json_array_get(talk.messages, 2), "x"));
    assert_int_equal(max_tokens, 3);
    load_talk_answer(plan, &talk, STR_LIT("ignored"));
    assert_true(load_talk_next(plan, &talk, &max_tokens, &think));
    assert_int_equal(json_array_size(talk.messages), 2); /* from the beginning */
    load_talk_release(&talk);
    load_plan_free(plan);
    struct error err;
    const struct load_config none = {.scenario = LOAD_TRACE, .trace = "/nonexistent"};
    assert_int_equal(load_plan_create(&none, 1.0, &plan, &err), STATUS_DISK);
}

static void summaries_add_up(void **state)
{
    (void)state;
    double gaps[] = {0.1, 0.2, 0.3};
    struct load_sample samples[] = {
        {.start_ns = 1000000000,
         .first_ns = 1500000000,
         .last_ns = 1900000000,
         .end_ns = 2000000000,
         .n_events = 10,
         .has_usage = true,
         .prompt_tokens = 100,
         .cached_tokens = 50,
         .output_tokens = 11},
        {.start_ns = 1000000000,
         .first_ns = 2000000000,
         .last_ns = 2900000000,
         .end_ns = 3000000000,
         .n_events = 5,
         .has_usage = true,
         .prompt_tokens = 100,
         .output_tokens = 9},
        {.start_ns = 1000000000, .end_ns = 1100000000, .error = "no <way>"},
        {.start_ns = 1000000000,
         .first_ns = 1100000000,
         .last_ns = 1200000000,
         .end_ns = 1200000000,
         .n_events = 2},
    };
    const struct load_level level = {
        .users = 2, .n_samples = 4, .n_gaps = 3, .samples = samples, .gaps = gaps, .seconds = 2.0};
    struct load_summary s;
    load_summarize(&level, &s);
    assert_int_equal(s.requests, 4);
    assert_int_equal(s.errors, 1);
    assert_int_equal(s.disagreements, 1);
    assert_int_equal(s.without_usage, 1);
    assert_int_equal(s.output_tokens, 22);
    assert_true(fabs(s.total_rate - 11.0) < 1e-9);
    assert_true(fabs(s.cached_share - 0.25) < 1e-9);
    assert_true(fabs(s.first_p50 - 0.5) < 1e-9);
    assert_true(fabs(s.gap_p50 - 0.2) < 1e-9);
    assert_true(fabs(s.user_rate - 14.0) < 1e-9); /* median of 20 and 8 */
    struct load_report report = {.n_levels = 1, .levels = {level}};
    struct error err;
    struct buf text = {0}, json = {0}, page = {0};
    load_print(&report, &text);
    load_print_html(&report, &page);
    assert_ok(load_print_json(&report, &json, &err), &err);
    assert_non_null(strstr(text.data, "2 users, first error: no <way>\n"));
    assert_non_null(strstr(page.data, "<polyline"));
    assert_non_null(strstr(page.data, "first error: no &lt;way>"));
    assert_null(strstr(page.data, "<way>"));
    assert_non_null(strstr(page.data, "<td>       4<td>"));
    json_t *root = json_loads(json.data, 0, NULL);
    assert_non_null(root);
    json_decref(root);
    buf_release(&text);
    buf_release(&json);
    buf_release(&page);
}

/* Levels of an open loop are told by their rate; lines by one user, too. */
static void levels_have_names(void **state)
{
    (void)state;
    struct load_sample failed = {.start_ns = 1, .end_ns = 2, .error = "no"};
    struct load_report report = {
        .model = "m",
        .target = "t",
        .config = {.rates = {0.5, 20}, .seed = 77},
        .n_levels = 2,
        .levels = {{.users = 1, .rate = 0.5, .n_samples = 1, .samples = &failed},
                   {.users = 2, .rate = 20, .n_samples = 1, .samples = &failed}}};
    struct buf text = {0}, page = {0};
    load_print(&report, &text);
    assert_non_null(strstr(text.data, "open loop, seed 77\n"));
    assert_non_null(strstr(text.data, "\nreq/s requests"));
    assert_non_null(strstr(text.data, "\n  0.5        1 "));
    assert_non_null(strstr(text.data, "\n20 requests/s, first error: no\n"));
    load_print_html(&report, &page);
    assert_non_null(strstr(page.data, ">requests per second</text>"));
    buf_clear(&text);
    report.config.rates[0] = report.levels[0].rate = 0;
    report.n_levels = 1;
    load_print(&report, &text);
    assert_non_null(strstr(text.data, "\nusers requests"));
    assert_non_null(strstr(text.data, "\n1 user, first error: no\n"));
    buf_release(&text);
    buf_release(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles),
        cmocka_unit_test(streams_in_any_pieces),
        cmocka_unit_test(agents_resend_their_history),
        cmocka_unit_test(traces_are_replayed),
        cmocka_unit_test(summaries_add_up),
        cmocka_unit_test(levels_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
