/*
 * The transport alone, under a small application: limits and deadlines, clients that leave or stop
 * reading, thousands of streams, drain. These are the checks that chose the HTTP library
 * (docs/http-library.md).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

#include "client.h"
#include "fixture.h"
#include "server/http.h"

#define STREAMS 2000

/* The application: /echo answers the body, /hold never answers, /stream streams what the test
 * writes. Exchanges that stay are kept here. */
static struct {
    struct http_server *server;
    pthread_mutex_t lock;
    struct http_exchange *kept[STREAMS + 8];
    size_t n_kept;
    atomic_uint left, finished, answered, requests;
} app;

static void on_headers(void *context, struct http_exchange *exchange)
{
    (void)context;
    if (strcmp(http_path(exchange), "/refused") == 0)
        http_answer(exchange, 401, "text/plain", STR_LIT("no"));
}

static void on_request(void *context, struct http_exchange *exchange)
{
    (void)context;
    atomic_fetch_add(&app.requests, 1);
    if (strcmp(http_path(exchange), "/echo") == 0) {
        http_answer(exchange, 200, "text/plain", http_body(exchange));
        return;
    }
    pthread_mutex_lock(&app.lock);
    app.kept[app.n_kept++] = exchange;
    pthread_mutex_unlock(&app.lock);
    if (strcmp(http_path(exchange), "/stream") == 0)
        http_stream_begin(exchange, 200, "text/event-stream");
}

static void on_left(void *context, struct http_exchange *exchange)
{
    (void)context;
    (void)exchange;
    atomic_fetch_add(&app.left, 1);
}

static void on_finished(void *context, struct http_exchange *exchange, enum http_end end)
{
    (void)context;
    atomic_fetch_add(end == HTTP_ANSWERED ? &app.answered : &app.finished, 1);
    pthread_mutex_lock(&app.lock);
    for (size_t i = 0; i < app.n_kept; i++)
        if (app.kept[i] == exchange)
            app.kept[i--] = app.kept[--app.n_kept];
    pthread_mutex_unlock(&app.lock);
    http_release(exchange);
}

static void on_refusal(void *context, struct http_exchange *exchange, unsigned status,
                       const char *message)
{
    (void)context;
    http_answer(exchange, status, "text/plain", str_from(message));
}

static int start(void **state)
{
    struct error err;
    struct http_address address;
    struct http_options options = {
        .callbacks = {on_headers, on_request, on_left, on_finished, on_refusal},
        .header_seconds = 1,
        .body_seconds = 2,
        .idle_seconds = 2,
        .stall_seconds = 2,
        .body_bytes_max = 2 << 20,
    };
    (void)state;
    pthread_mutex_init(&app.lock, NULL);
    if (http_listen("127.0.0.1:0", false, &address, &err) != STATUS_OK ||
        http_server_start(&options, &address, 1, &app.server, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    client_port = (uint16_t)atoi(strrchr(address.text, ':') + 1);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    http_server_stop(app.server, 0);
    return 0;
}

static void assert_status(struct answer answer, int status)
{
    if (answer.status != status)
        fprintf(stderr, "%.200s\n", answer.text.data ? answer.text.data : "(closed)");
    assert_int_equal(answer.status, status);
    answer_release(&answer);
}

static void sleep_ms(long ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static bool wait_for(atomic_uint *counter, unsigned value, int timeout_ms)
{
    for (int waited = 0; waited < timeout_ms; waited += 5) {
        if (atomic_load(counter) >= value)
            return true;
        sleep_ms(5);
    }
    return atomic_load(counter) >= value;
}

static size_t kept_now(void)
{
    pthread_mutex_lock(&app.lock);
    size_t n = app.n_kept;
    pthread_mutex_unlock(&app.lock);
    return n;
}

static void wait_kept(size_t n)
{
    for (int i = 0; i < 4000 && kept_now() != n; i++)
        sleep_ms(5);
    assert_int_equal(kept_now(), n);
}

static void echoes_whole_and_chunked_bodies(void **state)
{
    (void)state;
    struct answer answer = client_call("POST", "/echo", NULL, "hello");
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.body, "hello");
    answer_release(&answer);
    int fd = client_connect();
    client_send_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n");
    answer = client_answer(fd, 5000);
    assert_int_equal(answer.status, 200);
    assert_string_equal(answer.body, "abcdefg");
    answer_release(&answer);
    /* the same connection serves again */
    client_send_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    answer = client_answer(fd, 5000);
    assert_string_equal(answer.body, "hi");
    answer_release(&answer);
    close(fd);
}

static void refuses_what_the_limits_forbid(void **state)
{
    (void)state;
    assert_status(
        client_call("POST", "/echo", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", NULL),
        400);
    assert_status(client_call("POST", "/echo", "Content-Length: 4\r\nContent-Length: 5\r\n", NULL),
                  400);
    assert_status(client_call("POST", "/echo", "Transfer-Encoding: gzip, chunked\r\n", NULL), 400);
    assert_status(client_call("POST", "/echo", "Content-Encoding: gzip\r\n", "x"), 415);
    assert_status(client_call("POST", "/echo", "Content-Length : 4\r\n", "x"), 400);
    assert_status(client_call("POST", "/refused", NULL, "dropped"), 401);
    struct buf lines = {0};
    for (int i = 0; i < 99; i++)
        buf_printf(&lines, "X-%d: y\r\n", i);
    assert_status(client_call("GET", "/echo", lines.data, NULL), 200);
    buf_append_cstr(&lines, "X-more: y\r\n");
    assert_status(client_call("GET", "/echo", lines.data, NULL), 431);
    buf_clear(&lines);
    buf_append_cstr(&lines, "X-long: ");
    for (int i = 0; i < 33000; i++)
        buf_append_char(&lines, 'x');
    buf_append_cstr(&lines, "\r\n");
    assert_status(client_call("GET", "/echo", lines.data, NULL), 431);
    buf_clear(&lines);
    for (int i = 0; i < 300000; i++)
        buf_append_char(&lines, 'x');
    buf_append_cstr(&lines, ": y\r\n");
    struct answer answer = client_call("GET", "/echo", lines.data, NULL);
    assert_true(answer.status == 431 || answer.status == 400 || answer.status == 0);
    answer_release(&answer);
    buf_release(&lines);
}

static void refuses_large_bodies(void **state)
{
    (void)state;
    size_t size = (size_t)3 << 20;
    char *body = malloc(size + 1);
    memset(body, 'x', size);
    body[size] = 0;
    int fd = client_connect();
    client_send_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3145728\r\n\r\n");
    assert_status(client_answer(fd, 5000), 413); /* before a byte of it */
    close(fd);
    fd = client_connect();
    client_send_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "300000\r\n");
    client_send(fd, body, size);
    assert_status(client_answer(fd, 5000), 413); /* once it was too much */
    close(fd);
    body[1 << 20] = 0;
    struct answer answer = client_call("POST", "/echo", NULL, body);
    assert_int_equal(answer.status, 200);
    assert_int_equal(strlen(answer.body), 1 << 20);
    answer_release(&answer);
    free(body);
}

/* A byte each 100 ms must not keep a request alive. */
static double trickle(const char *begin, const char *filler, int *status)
{
    uint64_t from = clock_now_ns();
    int fd = client_connect();
    client_send_text(fd, begin);
    struct buf text = {0};
    for (int i = 0; i < 100; i++) {
        if (!client_send_text(fd, filler) || client_read_until(fd, &text, "\r\n\r\n", 100) ||
            (clock_now_ns() - from > 5000000000u))
            break;
        char byte;
        if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            break;
    }
    *status = 0;
    if (text.data)
        sscanf(text.data, "HTTP/1.1 %d", status);
    close(fd);
    buf_release(&text);
    return (double)(clock_now_ns() - from) * 1e-9;
}

static void deadlines_are_absolute(void **state)
{
    (void)state;
    int status;
    double seconds = trickle("GET /echo HTTP/1.1\r\nX-a: ", "b", &status);
    assert_int_equal(status, 408);
    assert_true(seconds > 0.9 && seconds < 2.0);
    seconds = trickle("GET /ec", "h", &status); /* not even a request line */
    assert_int_equal(status, 408);
    assert_true(seconds > 0.9 && seconds < 2.0);
    seconds =
        trickle("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", "b", &status);
    assert_int_equal(status, 408);
    assert_true(seconds > 1.9 && seconds < 3.0);
}

static void notices_clients_that_leave(void **state)
{
    (void)state;
    unsigned left = atomic_load(&app.left), finished = atomic_load(&app.finished);
    int held = client_connect(), streaming = client_connect();
    client_send_text(held, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    client_send_text(streaming, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_kept(2);
    uint64_t from = clock_now_ns();
    close(held);
    close(streaming);
    assert_true(wait_for(&app.left, left + 2, 1000));
    assert_true(wait_for(&app.finished, finished + 2, 1000));
    assert_true(clock_now_ns() - from < 1000000000u);
    assert_int_equal(kept_now(), 0);
}

static void cuts_off_clients_that_stop_reading(void **state)
{
    (void)state;
    unsigned finished = atomic_load(&app.finished);
    int fd = client_connect();
    client_send_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_kept(1);
    char *block = calloc(1, 8 << 20);
    memset(block, 'x', 8 << 20);
    pthread_mutex_lock(&app.lock);
    struct http_exchange *exchange = app.kept[0];
    size_t waiting = http_stream_write(exchange, (struct str){block, 8 << 20});
    pthread_mutex_unlock(&app.lock);
    assert_true(waiting > 1 << 20);
    assert_true(wait_for(&app.finished, finished + 1, 5000)); /* after 2 s of stall */
    close(fd);
    free(block);
}

static struct http_exchange *only_kept(void)
{
    pthread_mutex_lock(&app.lock);
    struct http_exchange *exchange = app.kept[0];
    pthread_mutex_unlock(&app.lock);
    return exchange;
}

/* Pieces of many lengths, written while the client reads nothing until the socket is full, and on. */
static void slow_readers_get_every_byte(void **state)
{
    (void)state;
    struct buf sent = {0};
    struct answer answer = {0};
    int fd = client_connect();
    client_send_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    wait_kept(1);
    struct http_exchange *exchange = only_kept();
    sleep_ms(50); /* the headers left, and the stream sleeps */
    size_t full = 0;
    for (unsigned i = 0; i < 100000 && full < 40; i++) {
        char piece[9000];
        int n = snprintf(piece, sizeof piece, "%u:", i);
        size_t length = (size_t)n + i * 37 % 8000;
        memset(piece + n, 'a' + (int)(i % 26), length - (size_t)n);
        buf_append(&sent, piece, length);
        full += http_stream_write(exchange, (struct str){piece, length}) > 0;
        if (full == 20)
            sleep_ms(300); /* the watcher has looked at it */
    }
    assert_int_equal(full, 40);
    http_stream_end(exchange, true);
    answer = client_answer(fd, 10000);
    assert_int_equal(answer.status, 200);
    assert_int_equal(strlen(answer.body), sent.len);
    assert_string_equal(answer.body, sent.data);
    answer_release(&answer);
    buf_release(&sent);
    close(fd);
}

static long times_run(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
}

static void idle_connections_wake_nobody(void **state)
{
    (void)state;
#if SANITIZED_THREADS
    print_message("the thread sanitizer has a thread of its own that wakes up\n");
    skip();
#endif
    enum { N = 50 };
    int fds[N];
    struct buf text = {0};
    for (int i = 0; i < N; i++) {
        fds[i] = client_connect();
        client_send_text(fds[i], "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
        buf_clear(&text);
        assert_true(client_read_until(fds[i], &text, "\r\n\r\n", 1000));
    }
    sleep_ms(500); /* one more look of the watcher's */
    long before = times_run();
    sleep_ms(1000);
    assert_true(times_run() - before <= 3); /* our own sleep is one */
    for (int i = 0; i < N; i++) {           /* closed when 2 s are over */
        char rest[64];
        struct pollfd poller = {.fd = fds[i], .events = POLLIN};
        while (poll(&poller, 1, 1500) == 1 && recv(fds[i], rest, sizeof rest, 0) > 0) {
        }
        assert_int_equal(recv(fds[i], rest, sizeof rest, MSG_DONTWAIT), 0);
        close(fds[i]);
    }
    buf_release(&text);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void write_to_all(const char *text)
{
    pthread_mutex_lock(&app.lock);
    for (size_t i = 0; i < app.n_kept; i++)
        http_stream_write(app.kept[i], str_from(text));
    pthread_mutex_unlock(&app.lock);
}

/* Reads every stream up to the given line. */
static void read_all(const int *fds, struct buf *texts, const char *until)
{
    for (size_t i = 0; i < STREAMS; i++)
        assert_true(client_read_until(fds[i], &texts[i], until, 10000));
}

static void thousands_of_streams_cost_little(void **state)
{
    (void)state;
    fixture_need_files(2 * STREAMS + 100);
    static int fds[STREAMS];
    static struct buf texts[STREAMS];
    for (size_t i = 0; i < STREAMS; i++) {
        fds[i] = client_connect();
        client_send_text(fds[i], "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_kept(STREAMS);
    write_to_all("data: 0\n\n");
    read_all(fds, texts, "data: 0\n\n");
    double before = cpu_seconds();
    sleep_ms(2000);
    double idle = (cpu_seconds() - before) / 2.0;
    before = cpu_seconds();
    for (int step = 1; step <= 20; step++) {
        char text[32];
        snprintf(text, sizeof text, "data: %d\n\n", step);
        write_to_all(text);
        read_all(fds, texts, text);
    }
    double busy = (cpu_seconds() - before) / 20.0;
    print_message("%d open streams: idle %.2f %% of a core; a step (one event each, client "
                  "included) %.1f ms of processor time\n",
                  STREAMS, idle * 100.0, busy * 1e3);
#if SANITIZED_THREADS
    assert_true(idle <
                0.5); /* everything takes ten times as long, and a thread of its own looks on */
#else
    assert_true(idle < 0.05);
#endif
    pthread_mutex_lock(&app.lock);
    for (size_t i = 0; i < app.n_kept; i++)
        http_stream_end(app.kept[i], true);
    pthread_mutex_unlock(&app.lock);
    for (size_t i = 0; i < STREAMS; i++) {
        assert_true(client_read_until(fds[i], &texts[i], "\r\n0\r\n\r\n", 10000));
        const char *body = strstr(texts[i].data, "\r\n\r\n") + 4;
        assert_true(client_dechunk((char *)(uintptr_t)body));
        for (int step = 0; step <= 20; step++) {
            char text[32];
            int n = snprintf(text, sizeof text, "data: %d\n\n", step);
            assert_memory_equal(body, text, (size_t)n);
            body += n;
        }
        assert_string_equal(body, "");
        close(fds[i]);
        buf_release(&texts[i]);
    }
    wait_kept(0);
}

/* Headers leave before the first byte of the body is there. */
static void headers_leave_at_once(void **state)
{
    (void)state;
    int fd = client_connect();
    struct buf text = {0};
    client_send_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    uint64_t from = clock_now_ns();
    assert_true(client_read_until(fd, &text, "\r\n\r\n", 2000));
    assert_true(clock_now_ns() - from < 150000000u);
    assert_null(strstr(text.data, "data:"));
    close(fd);
    buf_release(&text);
    wait_kept(0);
}

static void unclean_ends_are_noticed(void **state)
{
    (void)state;
    int fd = client_connect();
    client_send_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_kept(1);
    write_to_all("data: x\n\n");
    pthread_mutex_lock(&app.lock);
    http_stream_end(app.kept[0], false);
    pthread_mutex_unlock(&app.lock);
    struct answer answer = client_answer(fd, 5000);
    assert_int_equal(answer.status, 200);
    assert_false(answer.complete);
    answer_release(&answer);
    close(fd);
    wait_kept(0);
}

static void a_stop_ends_every_stream(void **state)
{
    (void)state;
    int fd = client_connect(), held = client_connect();
    client_send_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    client_send_text(held, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_kept(2);
    uint64_t from = clock_now_ns();
    stop(NULL);
    assert_true(clock_now_ns() - from < 3000000000u);
    assert_int_equal(kept_now(), 0);
    struct buf text = {0};
    assert_true(client_read_until(fd, &text, NULL, 1000));
    assert_true(client_read_until(held, &text, NULL, 1000));
    close(fd);
    close(held);
    buf_release(&text);
    start(NULL);
}

static void addresses_are_understood(void **state)
{
    (void)state;
    struct error err;
    struct http_address address, second;
    assert_int_equal(http_listen("localhost:0", false, &address, &err), STATUS_OK);
    assert_true(address.loopback);
    assert_int_equal(http_listen(address.text, false, &second, &err), STATUS_NETWORK);
    assert_non_null(strstr(err.message, "--port"));
    assert_int_equal(http_listen(address.text, true, &second, &err), STATUS_OK);
    assert_string_not_equal(address.text, second.text);
    close(address.fd);
    close(second.fd);
    assert_int_equal(http_listen("0.0.0.0:0", false, &address, &err), STATUS_OK);
    assert_false(address.loopback);
    close(address.fd);
    assert_int_equal(http_listen("127.0.0.1:70000", false, &address, &err), STATUS_USAGE);
    assert_int_equal(http_listen("127.0.0.1:http", false, &address, &err), STATUS_USAGE);
    assert_int_equal(http_listen("[::1", false, &address, &err), STATUS_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echoes_whole_and_chunked_bodies),
        cmocka_unit_test(refuses_what_the_limits_forbid),
        cmocka_unit_test(refuses_large_bodies),
        cmocka_unit_test(deadlines_are_absolute),
        cmocka_unit_test(notices_clients_that_leave),
        cmocka_unit_test(cuts_off_clients_that_stop_reading),
        cmocka_unit_test(slow_readers_get_every_byte),
        cmocka_unit_test(idle_connections_wake_nobody),
        cmocka_unit_test(headers_leave_at_once),
        cmocka_unit_test(unclean_ends_are_noticed),
        cmocka_unit_test(thousands_of_streams_cost_little),
        cmocka_unit_test(a_stop_ends_every_stream),
        cmocka_unit_test(addresses_are_understood),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
