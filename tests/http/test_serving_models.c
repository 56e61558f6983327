/*
 * Several models behind one server, with memory for one of them at a time: who waits, who does not,
 * and what becomes of a request whose model cannot be loaded or whose client does not wait.
 */
#include <jansson.h>
#include <sys/stat.h>
#include <time.h>

#include "serving.h"

#define Q8 "models/pebble/pebble-q8_0.gguf"

static char broken_path[4096], huge_path[4096];

static void write_file(const char *path, const char *data, size_t n, off_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fflush(file);
    assert_int_equal(ftruncate(fileno(file), size), 0);
    fclose(file);
}

static int add(const char *name, const char *path)
{
    sluice_error error;
    return sluice_models_add(serving_models, name, path, &error) == SLUICE_OK
               ? 0
               : serving_fail(&error);
}

/* 18 MB hold one Pebble of 8 MB and its pool of 9. */
static int setup(void **state)
{
    (void)state;
    static const struct server_alias aliases[] = {{"gpt-4o", "twin"}};
    sluice_models_options options = {
        .engine = {.n_threads = 2, .max_sequences = 4, .kv_memory = 9 << 20},
        .memory = 18 << 20,
    };
    snprintf(broken_path, sizeof broken_path, "%s/broken.gguf", fixture_scratch());
    snprintf(huge_path, sizeof huge_path, "%s/huge.gguf", fixture_scratch());
    write_file(huge_path, "GGUF", 4, 64 << 20);
    return serving_create(&options) || add("twin", fixture_path(Q8)) ||
           add("ids-only", fixture_path("tests/data/arch/hf/llama")) ||
           add("broken", broken_path) || add("huge", huge_path) ||
           serving_start(&(struct server_options){.aliases = aliases, .n_aliases = 1});
}

static int teardown(void **state)
{
    (void)state;
    serving_stop();
    serving_close();
    unlink(huge_path);
    unlink(broken_path);
    return 0;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static json_t *get(const char *path)
{
    struct answer answer = client_call("GET", path, NULL, NULL);
    assert_int_equal(answer.status, 200);
    json_t *root = json_loads(answer.body, 0, NULL);
    assert_non_null(root);
    answer_release(&answer);
    return root;
}

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* "loaded", "loading" or "unloaded"; in a static buffer. */
static const char *state_of(const char *name)
{
    static char state[32];
    json_t *root = get("/v1/models"), *list = json_object_get(root, "data");
    state[0] = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(text_at(json_array_get(list, i), "id"), name) == 0)
            snprintf(state, sizeof state, "%s", text_at(json_array_get(list, i), "state"));
    json_decref(root);
    return state;
}

static bool becomes(const char *name, const char *state)
{
    for (int i = 0; i < 500; i++) {
        if (strcmp(state_of(name), state) == 0)
            return true;
        sleep_ms(10);
    }
    return false;
}

static size_t in_work(void)
{
    json_t *root = get("/status");
    size_t n = json_array_size(json_object_get(root, "requests"));
    json_decref(root);
    return n;
}

static int send_request(const char *model, const char *prompt, unsigned max_tokens, bool stream)
{
    char body[512];
    snprintf(body, sizeof body,
             "{\"model\":\"%s\",\"prompt\":%s,\"max_tokens\":%u,\"temperature\":0,"
             "\"ignore_eos\":true,\"stream\":%s}",
             model, prompt, max_tokens, stream ? "true" : "false");
    return client_begin("POST", "/v1/completions", NULL, body);
}

/* The text of a whole answer. */
static char *text_of(const struct answer *answer)
{
    json_t *root = json_loads(answer->body, 0, NULL);
    if (answer->status != 200 || !root)
        fail_msg("%.300s", answer->text.data ? answer->text.data : "no answer");
    char *text = strdup(text_at(json_array_get(json_object_get(root, "choices"), 0), "text"));
    json_decref(root);
    return text;
}

static char *ask(const char *model, const char *prompt)
{
    int fd = send_request(model, prompt, 8, false);
    struct answer answer = client_answer(fd, 60000);
    char *text = text_of(&answer);
    answer_release(&answer);
    close(fd);
    return text;
}

/* An answer of `status` whose error has the code. */
static void refused(const char *model, int status, const char *code, const char *says)
{
    int fd = send_request(model, "\"Once\"", 4, true);
    struct answer answer = client_answer(fd, 20000);
    json_t *root = json_loads(answer.body ? answer.body : "", 0, NULL);
    json_t *error = json_object_get(root, "error");
    if (answer.status != status || !error || strcmp(text_at(error, "code"), code) != 0 ||
        !strstr(text_at(error, "message"), says))
        fail_msg("%s: %.400s", model, answer.text.data ? answer.text.data : "no answer");
    json_decref(root);
    answer_release(&answer);
    close(fd);
}

static int endless_stream(const char *model, struct buf *text)
{
    int fd = send_request(model, "\"Once upon a time\"", 1900, true);
    assert_true(client_read_until(fd, text, "\"text\":\"", 20000));
    return fd;
}

/* ---- tests ------------------------------------------------------------------------------------ */

static void lists_what_is_served(void **state)
{
    (void)state;
    json_t *root = get("/v1/models"), *list = json_object_get(root, "data");
    static const char *const names[] = {"pebble", "twin", "ids-only", "broken", "huge", "gpt-4o"};
    assert_int_equal(json_array_size(list), 6);
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(text_at(json_array_get(list, i), "id"), names[i]);
        assert_string_equal(text_at(json_array_get(list, i), "state"), "unloaded");
    }
    json_decref(root);
    free(ask("", "\"Once\""));
    root = get("/v1/models/pebble");
    assert_string_equal(text_at(root, "state"), "loaded");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "meta"), "n_ctx")),
                     2048);
    json_decref(root);
    struct answer answer = client_call("GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(answer.body, "sluice_models_loaded 1\n"));
    assert_non_null(strstr(answer.body, "sluice_kv_pages_used{model=\"pebble\"} "));
    assert_null(strstr(answer.body, "model=\"twin\""));
    answer_release(&answer);
}

static void names_and_aliases_choose(void **state)
{
    (void)state;
    refused("nobody", 404, "model_not_found", "nobody");
    free(ask("gpt-4o", "\"Once\""));
    assert_string_equal(state_of("twin"), "loaded");
    assert_string_equal(state_of("pebble"), "unloaded"); /* made room */
    free(ask("ids-only", "[1,2,3]"));
    struct answer answer =
        client_call("POST", "/tokenize", NULL, "{\"content\":\"Once\",\"model\":\"pebble\"}");
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.body, "\"count\":"));
    answer_release(&answer);
    assert_string_equal(state_of("pebble"), "loaded"); /* that, too, needed it */
    answer = client_call("POST", "/tokenize", NULL, "{\"content\":\"Once\",\"model\":\"who\"}");
    assert_int_equal(answer.status, 404);
    answer_release(&answer);
    answer = client_call("POST", "/tokenize", NULL, "{\"content\":5,\"model\":\"pebble\"}");
    assert_int_equal(answer.status, 400);
    answer_release(&answer);
    answer = client_call("POST", "/tokenize", NULL, "{\"content\":\"Once\",\"model\":5}");
    assert_int_equal(answer.status, 400);
    answer_release(&answer);
}

/* Requests for two models that never fit together, all at once: each gets its answer, and at no time
 * are both there. */
static void two_models_in_the_room_of_one(void **state)
{
    (void)state;
    enum { N = 24 };
    static const char *const names[] = {"pebble", "twin"};
    char *expected = ask("pebble", "\"A little fox\"");
    int fds[N];
    for (size_t i = 0; i < N; i++)
        fds[i] = send_request(names[i % 2], "\"A little fox\"", 8, false);
    for (int i = 0; i < 20; i++) {
        json_t *root = get("/status"), *list = json_object_get(root, "models");
        size_t loaded = 0;
        for (size_t j = 0; j < 2; j++)
            loaded += strcmp(text_at(json_array_get(list, j), "state"), "loaded") == 0;
        assert_true(loaded <= 1);
        json_decref(root);
        sleep_ms(5);
    }
    for (size_t i = 0; i < N; i++) {
        struct answer answer = client_answer(fds[i], 60000);
        char *text = text_of(&answer);
        assert_string_equal(text, expected);
        free(text);
        answer_release(&answer);
        close(fds[i]);
    }
    free(expected);
}

/* A model in use is not unloaded. Who waits for another one gets headers and comments; who asks for
 * the one in use is served. */
static void streams_keep_their_model(void **state)
{
    (void)state;
    struct buf text = {0}, other = {0};
    int slow = endless_stream("pebble", &text);
    uint64_t from = clock_now_ns();
    int waiting = send_request("twin", "\"Once\"", 4, true);
    int whole = send_request("twin", "\"Once\"", 4, false);
    assert_true(client_read_until(waiting, &other, "\r\n\r\n", 2500)); /* long before the model */
    assert_non_null(strstr(other.data, "200"));
    /* For 3 s others may still ask for the model in use; a sanitized program may be too slow. */
    if (clock_now_ns() - from < 1500000000u) {
        free(ask("pebble", "\"Once\""));
        assert_true(clock_now_ns() - from < 10000000000u);
    }
    if (strcmp(state_of("pebble"), "loaded") != 0 || strcmp(state_of("twin"), "loading") != 0)
        print_message("the first stream was over before the others could wait\n");
    else if (!client_read_until(waiting, &other, ": waiting", 3000))
        assert_string_not_equal(state_of("pebble"), "loaded"); /* it was over just then */
    close(slow);
    assert_true(client_read_until(waiting, &other, "[DONE]", 20000));
    assert_null(strstr(other.data, "\"error\""));
    struct answer answer = client_answer(whole, 20000);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    assert_string_equal(state_of("twin"), "loaded");
    close(waiting);
    close(whole);
    buf_release(&text);
    buf_release(&other);
}

static void a_bad_file_is_its_requests_fault_only(void **state)
{
    (void)state;
    struct buf text = {0};
    int stream = endless_stream("pebble", &text);
    refused("broken", 500, "model_load_error", "broken.gguf"); /* no file at all */
    write_file(broken_path, "GGUF nonsense", 13, 13);
    refused("broken", 500, "model_load_error", "broken.gguf");
    refused("huge", 503, "out_of_memory", "67108864");
    assert_string_equal(state_of("broken"), "unloaded");
    close(stream);
    buf_release(&text);
    struct buf good = fixture_read(fixture_path(Q8));
    write_file(broken_path, good.data, good.len, (off_t)good.len);
    buf_release(&good);
    free(ask("broken", "\"Once\"")); /* tried again */
    assert_string_equal(state_of("broken"), "loaded");
}

static void leaving_while_it_loads(void **state)
{
    (void)state;
    struct buf text = {0}, other = {0};
    int stream = endless_stream("pebble", &text);
    int gone = send_request("twin", "\"Once\"", 4, false);
    int cancelled = send_request("twin", "\"Once\"", 4, true);
    assert_true(client_read_until(cancelled, &other, "\r\n\r\n", 5000));
    assert_int_equal(in_work(), 3);
    assert_string_equal(state_of("twin"), "loading");
    close(gone);
    for (int i = 0; i < 150 && in_work() > 2; i++)
        sleep_ms(10);
    assert_int_equal(in_work(), 2);
    char id[64], path[128];
    assert_int_equal(sscanf(strstr(other.data, "x-request-id: "), "x-request-id: %63s", id), 1);
    snprintf(path, sizeof path, "/v1/requests/%s/cancel", id);
    struct answer answer = client_call("POST", path, NULL, "{}");
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    assert_true(client_read_until(cancelled, &other, "\r\n0\r\n\r\n", 2000));
    assert_non_null(strstr(other.data, "request_cancelled"));
    assert_null(strstr(other.data, "[DONE]"));
    assert_true(becomes("twin", "unloaded")); /* nobody wants it: never loaded */
    assert_string_equal(state_of("pebble"), "loaded");
    close(cancelled);
    close(stream);
    buf_release(&text);
    buf_release(&other);
}

static void a_drain_ends_who_waits(void **state)
{
    (void)state;
    struct buf text = {0}, other = {0};
    int stream = endless_stream("pebble", &text);
    int waiting = send_request("twin", "\"Once\"", 4, true);
    assert_true(client_read_until(waiting, &other, "\r\n\r\n", 5000));
    if (strcmp(state_of("twin"), "loading") == 0) {
        server_drain(serving, 0);
        assert_true(client_read_until(waiting, &other, "\r\n0\r\n\r\n", 5000));
        assert_non_null(strstr(other.data, "shutting_down"));
    }
    close(waiting);
    close(stream);
    buf_release(&text);
    buf_release(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_what_is_served),
        cmocka_unit_test(names_and_aliases_choose),
        cmocka_unit_test(two_models_in_the_room_of_one),
        cmocka_unit_test(streams_keep_their_model),
        cmocka_unit_test(a_bad_file_is_its_requests_fault_only),
        cmocka_unit_test(leaving_while_it_loads),
        cmocka_unit_test(a_drain_ends_who_waits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
