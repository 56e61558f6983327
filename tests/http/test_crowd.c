/* The load generator against the server, and against the engine below it. */
#include "bench/load.h"

#include "serving.h"

static int setup(void **state)
{
    (void)state;
    return serving_open(8, 512) || serving_start(NULL);
}

static void check(struct load_config *config)
{
    struct error err;
    struct load_report *report = calloc(1, sizeof *report);
    config->users[0] = 1;
    config->users[1] = 4;
    config->n_levels = 2;
    config->requests = 6;
    config->prompt_tokens = 20;
    config->max_tokens = 8;
    config->think_seconds = 0;
    assert_ok(load_run(config, report, &err), &err);
    assert_int_equal(report->n_levels, 2);
    for (size_t i = 0; i < 2; i++) {
        struct load_summary s;
        load_summarize(&report->levels[i], &s);
        assert_int_equal(s.requests, 6);
        assert_int_equal(s.errors, 0);
        assert_int_equal(s.without_usage, 0);
        assert_int_equal(s.output_tokens, 6 * 8);
        assert_int_equal(s.events, s.output_tokens); /* also of tokens that show no text */
        assert_true(s.total_rate > 0 && s.first_p50 > 0 && s.first_p50 <= s.first_p99);
        assert_true(s.prompt_tokens > 6 * 15 && s.prompt_tokens < 6 * 60);
    }
    load_report_release(report);
    free(report);
}

static void users_of_a_server(void **state)
{
    (void)state;
    char url[64];
    snprintf(url, sizeof url, "127.0.0.1:%u", client_port);
    check(&(struct load_config){.url = url});
}

static void users_of_the_engine(void **state)
{
    (void)state;
    check(&(struct load_config){.engine = serving_engine});
}

static void arrivals_by_chance(void **state)
{
    (void)state;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/", client_port);
    check(&(struct load_config){.url = url, .rates = {100, 200}});
}

/* Every level a second time, while one more client sends prompt after prompt. */
static void beside_cold_prompts(void **state)
{
    (void)state;
    char url[64];
    struct error err;
    snprintf(url, sizeof url, "127.0.0.1:%u", client_port);
    for (int inside = 0; inside < 2; inside++) {
        struct load_report *report = calloc(1, sizeof *report);
        struct load_config config = {
            .url = inside ? NULL : url,
            .engine = inside ? serving_engine : NULL,
            .users = {1, 3},
            .n_levels = 2,
            .requests = 6,
            .prompt_tokens = 20,
            .max_tokens = 60,
            .cold_tokens = 250,
        };
        assert_ok(load_run(&config, report, &err), &err);
        assert_int_equal(report->n_levels, 4);
        uint32_t answered = 0;
        for (size_t i = 0; i < 4; i++) {
            assert_true(report->levels[i].cold == (i % 2 == 1));
            assert_int_equal(report->levels[i].n_samples, 6); /* none of them a cold one */
            for (size_t j = 0; j < 6; j++)
                assert_string_equal(report->levels[i].samples[j].error, "");
            answered += report->levels[i].n_cold;
        }
        assert_true(answered > 0);
        struct buf out = {0};
        load_print(report, &out);
        assert_non_null(strstr(out.data, "   3+"));
        assert_non_null(strstr(out.data, "beside cold prompts of 250 tokens"));
        buf_release(&out);
        load_report_release(report);
        free(report);
    }
}

static void says_what_fails(void **state)
{
    (void)state;
    struct error err;
    struct load_report *report = calloc(1, sizeof *report);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u", client_port);
    struct load_config config = {
        .url = url, .model_name = "no-such-model", .users = {1}, .n_levels = 1};
    assert_int_equal(load_run(&config, report, &err), STATUS_NETWORK);
    assert_non_null(strstr(err.message, "no-such-model"));
    load_report_release(report);
    config = (struct load_config){.url = "http://127.0.0.1:1", .users = {1}, .n_levels = 1};
    assert_int_equal(load_run(&config, report, &err), STATUS_NETWORK);
    snprintf(url, sizeof url, "127.0.0.1:%u/nothing", client_port);
    config = (struct load_config){.url = url, .users = {1}, .n_levels = 1};
    assert_int_equal(load_run(&config, report, &err), STATUS_NETWORK);
    assert_non_null(strstr(err.message, "no OpenAI-compatible server"));
    assert_non_null(strstr(err.message, "HTTP 404: there is no route"));
    static const char *const no_urls[] = {"ftp://127.0.0.1", "", "http://", "/v1"};
    for (size_t i = 0; i < sizeof no_urls / sizeof *no_urls; i++) {
        config.url = no_urls[i];
        assert_int_equal(load_run(&config, report, &err), STATUS_USAGE);
        assert_non_null(strstr(err.message, "host:port"));
    }
    free(report);
}

/* A route's own URL is fine; and where nobody is answered, no further level is tried. */
static void gives_up_where_nobody_is_answered(void **state)
{
    (void)state;
    struct error err;
    char url[80];
    struct load_report *report = calloc(1, sizeof *report);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions/", client_port);
    struct load_config config = {.url = url,
                                 .users = {1, 4},
                                 .n_levels = 2,
                                 .requests = 3,
                                 .prompt_tokens = 2000, /* more than the context */
                                 .think_seconds = -1};
    assert_ok(load_run(&config, report, &err), &err);
    assert_true(report->unanswered);
    assert_int_equal(report->n_levels, 1);
    assert_int_equal(report->levels[0].n_samples, 3);
    assert_non_null(strstr(report->levels[0].samples[2].error, "HTTP 400: the prompt's "));
    load_report_release(report);
    free(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_of_a_server),  cmocka_unit_test(users_of_the_engine),
        cmocka_unit_test(arrivals_by_chance), cmocka_unit_test(beside_cold_prompts),
        cmocka_unit_test(says_what_fails),    cmocka_unit_test(gives_up_where_nobody_is_answered),
    };
    return cmocka_run_group_tests(tests, setup, serving_end);
}
