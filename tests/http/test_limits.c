/*
 * A server that is slow and full: the scalar backend, steps of 32 rows (a third of a second), one
 * answer at a time. What becomes of prompts that wait or are computed for long, of clients that leave
 * meanwhile, and of whoever asks for more than there is room for.
 */
#include <jansson.h>
#include <time.h>

#include "serving.h"

#define KEY_A "x-api-key: a\r\n"
#define KEY_B "x-api-key: b\r\n"

static int setup(void **state)
{
    (void)state;
    static const char *const keys[] = {"a", "b"};
    sluice_models_options options = {
        .engine = {.backend = "ref",
                   .n_threads = 2,
                   .max_sequences = 1,
                   .step_rows = 32,
                   .n_context = 2048,
                   .kv_memory = 8 << 20, /* 1,024 tokens */
                   .max_queued = 3,
                   .max_key_requests = 2},
        .keep_alive_ms = -1,
    };
    return serving_create(&options) || serving_hold() ||
           serving_start(&(struct server_options){.api_keys = keys, .n_api_keys = 2});
}

static int teardown(void **state)
{
    (void)state;
    serving_stop();
    serving_close();
    return 0;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static double seconds_since(uint64_t from)
{
    return (double)(clock_now_ns() - from) * 1e-9;
}

/* A prompt of so many words, which are as many tokens; `first` makes it another one. */
static char *body_of(const char *first, int words, unsigned max_tokens, bool stream)
{
    struct buf body = {0};
    buf_printf(&body, "{\"prompt\":\"%s", first);
    for (int i = 1; i < words; i++)
        buf_append_cstr(&body, " the");
    buf_printf(&body, "\",\"stream\":%s,\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true}",
               stream ? "true" : "false", max_tokens);
    return body.data;
}

static int send_request(const char *key, char *body)
{
    struct buf request = {0};
    buf_printf(
        &request,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %zu\r\n\r\n%s", key,
        strlen(body), body);
    int fd = client_connect();
    assert_true(client_send(fd, request.data, request.len));
    buf_release(&request);
    free(body);
    return fd;
}

/* Of /status: how many requests are in work, and pages in use. */
static size_t in_work(json_int_t *pages)
{
    struct answer answer = client_call("GET", "/status", KEY_A, NULL);
    assert_int_equal(answer.status, 200);
    json_t *root = json_loads(answer.body, 0, NULL);
    size_t n = json_array_size(json_object_get(root, "requests"));
    const json_t *model = json_array_get(json_object_get(root, "models"), 0);
    *pages = json_integer_value(json_object_get(model, "kv_pages_used"));
    json_decref(root);
    answer_release(&answer);
    return n;
}

/* Prompt tokens computed so far: however busy the machine, they tell whether work stopped. */
static long computed(void)
{
    static const char name[] = "\nsluice_prefilled_tokens_total{model=\"pebble\"} ";
    struct answer answer = client_call("GET", "/metrics", KEY_A, NULL);
    const char *found = strstr(answer.body, name);
    assert_non_null(found);
    long n = strtol(found + strlen(name), NULL, 10);
    answer_release(&answer);
    return n;
}

/* Until the first request has its place in the batch. */
static void wait_admitted(void)
{
    json_int_t pages = 0;
    for (int i = 0; i < 500 && pages == 0; i++) {
        sleep_ms(10);
        in_work(&pages);
    }
    assert_true(pages > 0);
}

/* Until nobody has work or pages any more; the seconds that took. */
static double time_to_rest(void)
{
    uint64_t from = clock_now_ns();
    json_int_t pages;
    while ((in_work(&pages) > 0 || pages > 0) && seconds_since(from) < 20)
        sleep_ms(10);
    return seconds_since(from);
}

/* ---- tests ------------------------------------------------------------------------------------ */

static void a_long_prompt_keeps_its_stream_alive(void **state)
{
    (void)state;
    struct buf text = {0};
    long before = computed();
    uint64_t from = clock_now_ns();
    int fd = send_request(KEY_A, body_of("One", 700, 2, true));
    assert_true(client_read_until(fd, &text, "\r\n\r\n", 5000));
    assert_true(computed() - before < 350); /* with its place in the batch */
    assert_non_null(strstr(text.data, "HTTP/1.1 200"));
    assert_true(client_read_until(fd, &text, ": waiting\n\n", 5000));
    double first = seconds_since(from);
    assert_true(first > 0.9 && first < 5.0);
    buf_clear(&text);
    assert_true(client_read_until(fd, &text, ": waiting\n\n", 5000)); /* and every second again */
    assert_null(strstr(text.data, "\"text\""));
    close(fd);
    assert_true(time_to_rest() < 10.0); /* noticed within one second, stopped within one step */
    assert_true(computed() - before < 690);
    buf_release(&text);
}

/* No stream whose writing could fail: only its absence tells. */
static void leaving_before_the_answer(void **state)
{
    (void)state;
    long before = computed();
    int computing = send_request(KEY_A, body_of("Two", 700, 2, false));
    wait_admitted();
    int queued = send_request(KEY_B, body_of("Three", 700, 2, false));
    json_int_t pages;
    uint64_t from = clock_now_ns();
    while (in_work(&pages) < 2 && seconds_since(from) < 5)
        sleep_ms(10);
    assert_int_equal(in_work(&pages), 2);
    from = clock_now_ns();
    close(queued);
    while (in_work(&pages) > 1 && seconds_since(from) < 5)
        sleep_ms(10);
    assert_true(seconds_since(from) < 5.0);
    assert_true(pages > 0); /* the other one goes on */
    close(computing);
    assert_true(time_to_rest() < 10.0);
    assert_true(computed() - before < 690);
}

static void never_room_for_it(void **state)
{
    (void)state;
    /* Beyond the context, and within it but beyond the whole pool: both at once, not queued. */
    static const int words[] = {2500, 1500};
    for (size_t i = 0; i < 2; i++) {
        uint64_t from = clock_now_ns();
        int fd = send_request(KEY_A, body_of("Four", words[i], 2, true));
        struct answer answer = client_answer(fd, 10000);
        assert_int_equal(answer.status, 400);
        assert_non_null(strstr(answer.body, "\"context_length_exceeded\""));
        assert_non_null(strstr(answer.body, "\"param\":\"prompt\""));
        assert_true(seconds_since(from) < 5.0); /* to compute it takes 15 */
        answer_release(&answer);
        close(fd);
    }
}

static void refused(const char *key, unsigned status, const char *code)
{
    int fd = send_request(key, body_of("Five", 5, 2, true));
    struct answer answer = client_answer(fd, 10000);
    if (answer.status != (int)status)
        fail_msg("%.300s", answer.text.data ? answer.text.data : "no answer");
    assert_non_null(strstr(answer.body, code));
    assert_non_null(answer_header(&answer, "Retry-After"));
    assert_true(atoi(answer_header(&answer, "Retry-After")) >= 1);
    answer_release(&answer);
    close(fd);
}

static void wait_in_work(size_t n)
{
    json_int_t pages;
    for (int i = 0; i < 500 && in_work(&pages) != n; i++)
        sleep_ms(10);
    assert_int_equal(in_work(&pages), n);
}

/* A key that asks for too much hears so, and the other one is served; then everybody does. */
static void full_queues(void **state)
{
    (void)state;
    int fds[3];
    fds[0] = send_request(KEY_A, body_of("Six", 700, 2, true));
    wait_admitted();
    fds[1] = send_request(KEY_A, body_of("Seven", 5, 2, true));
    wait_in_work(2);
    refused(KEY_A, 429, "\"rate_limit_exceeded\"");
    fds[2] = send_request(KEY_B, body_of("Eight", 5, 2, true));
    wait_in_work(3);
    refused(KEY_B, 503, "\"queue_full\"");
    struct answer answer = client_call("GET", "/health", NULL, NULL);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    close(fds[0]); /* the others get their turn */
    for (size_t i = 1; i < 3; i++) {
        struct answer done = client_answer(fds[i], 20000);
        assert_int_equal(done.status, 200);
        assert_non_null(strstr(done.body, "data: [DONE]"));
        answer_release(&done);
        close(fds[i]);
    }
    assert_true(time_to_rest() < 10.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_prompt_keeps_its_stream_alive),
        cmocka_unit_test(leaving_before_the_answer),
        cmocka_unit_test(never_room_for_it),
        cmocka_unit_test(full_queues),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
