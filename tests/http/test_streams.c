/*
 * A thousand streams at once on the demo model: every stream complete, its events in order, the text
 * the same as when it is alone.
 */
#include <poll.h>
#include <time.h>

#include "serving.h"

#define STREAMS 1000
#define PROMPTS 4

static const char *const prompts[PROMPTS] = {"Once upon a time", "A little fox", "The sun",
                                             "One day Tom"};

struct stream {
    int fd;
    struct buf text;
    bool over;
    uint64_t first_ns, end_ns;
};

static int setup(void **state)
{
    (void)state;
    return serving_open(64, 128) || serving_start(NULL);
}

static int send_request(const char *prompt)
{
    char body[256];
    snprintf(body, sizeof body,
             "{\"prompt\":\"%s\",\"stream\":true,\"max_tokens\":6,\"temperature\":0,"
             "\"stream_options\":{\"include_usage\":true}}",
             prompt);
    return client_begin("POST", "/v1/completions", NULL, body);
}

static void read_some(struct stream *stream)
{
    char block[16384];
    ssize_t n = recv(stream->fd, block, sizeof block, 0);
    if (n <= 0) {
        stream->over = true;
        return;
    }
    buf_append(&stream->text, block, (size_t)n);
    if (!stream->first_ns && strstr(stream->text.data, "\"text\":\""))
        stream->first_ns = clock_now_ns();
    if (str_ends(buf_str(&stream->text), STR_LIT("\r\n0\r\n\r\n"))) {
        stream->over = true;
        stream->end_ns = clock_now_ns();
    }
}

static void read_all(struct stream *streams, size_t n, uint64_t timeout_ns)
{
    struct pollfd *polls = calloc(n, sizeof *polls);
    size_t *which = calloc(n, sizeof *which);
    uint64_t end = clock_now_ns() + timeout_ns;
    for (;;) {
        nfds_t open = 0;
        for (size_t i = 0; i < n; i++)
            if (!streams[i].over) {
                polls[open] = (struct pollfd){.fd = streams[i].fd, .events = POLLIN};
                which[open++] = i;
            }
        if (open == 0 || clock_now_ns() > end)
            break;
        poll(polls, open, 1000);
        for (nfds_t i = 0; i < open; i++)
            if (polls[i].revents)
                read_some(&streams[which[i]]);
    }
    free(polls);
    free(which);
}

/* The texts of a stream joined; checks that it is whole and in order. */
static char *check_stream(struct stream *stream)
{
    struct buf text = {0};
    char *body = strstr(stream->text.data ? stream->text.data : "", "\r\n\r\n");
    assert_non_null(body);
    body += 4;
    assert_true(strncmp(stream->text.data, "HTTP/1.1 200", 12) == 0);
    assert_true(client_dechunk(body));
    assert_null(strstr(body, "\"error\""));
    assert_true(str_ends(str_from(body), STR_LIT("data: [DONE]\n\n")));
    const char *finish = strstr(body, "\"finish_reason\":\"");
    assert_non_null(finish);
    for (const char *at = strstr(body, "\"text\":\""); at; at = strstr(at, "\"text\":\"")) {
        at += 8;
        const char *end = strstr(at, "\",\"logprobs\"");
        assert_non_null(end);
        assert_true(end == at || at < finish); /* no text after the end */
        buf_append(&text, at, (size_t)(end - at));
    }
    assert_non_null(strstr(finish, "\"completion_tokens\":6"));
    return text.data ? text.data : strdup("");
}

static void a_thousand_streams_end_well(void **state)
{
    (void)state;
    fixture_need_files(2 * STREAMS + 100);
    char *alone[PROMPTS];
    for (size_t i = 0; i < PROMPTS; i++) {
        struct stream one = {.fd = send_request(prompts[i])};
        read_all(&one, 1, 60000000000u);
        alone[i] = check_stream(&one);
        close(one.fd);
        buf_release(&one.text);
    }
    static struct stream streams[STREAMS];
    uint64_t begin = clock_now_ns(), last = 0, slowest = 0;
    for (size_t i = 0; i < STREAMS; i++)
        streams[i].fd = send_request(prompts[i % PROMPTS]);
    uint64_t sent = clock_now_ns();
    read_all(streams, STREAMS, 500000000000u);
    for (size_t i = 0; i < STREAMS; i++) {
        char *text = check_stream(&streams[i]);
        assert_string_equal(text, alone[i % PROMPTS]);
        last = streams[i].end_ns > last ? streams[i].end_ns : last;
        slowest = streams[i].first_ns > slowest ? streams[i].first_ns : slowest;
        free(text);
        close(streams[i].fd);
        buf_release(&streams[i].text);
    }
    for (size_t i = 0; i < PROMPTS; i++)
        free(alone[i]);
    print_message("%d streams of 6 tokens: all sent after %.2f s, last first token after %.2f s, "
                  "all over after %.2f s (%.0f tokens/s), no error\n",
                  STREAMS, (double)(sent - begin) * 1e-9, (double)(slowest - begin) * 1e-9,
                  (double)(last - begin) * 1e-9, STREAMS * 6 / ((double)(last - begin) * 1e-9));
}

/* ---- a client that does not read -------------------------------------------------------------- */

#define LAZY_ANSWERS 120 /* of two prompts */
#define LAZY_TOKENS  100

/* Some 9 MB of events, for a client with room for a few KB: more than any kernel keeps for it. */
static int send_lazy_request(void)
{
    char body[256], request[512];
    int n =
        snprintf(body, sizeof body,
                 "{\"prompt\":[\"Once\",\"A\"],\"stream\":true,\"max_tokens\":%d,\"n\":%d,"
                 "\"logprobs\":20,\"ignore_eos\":true,\"stream_options\":{\"include_usage\":true}}",
                 LAZY_TOKENS, LAZY_ANSWERS / 2);
    snprintf(request, sizeof request,
             "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
             "Content-Length: %d\r\n\r\n%s",
             n, body);
    struct sockaddr_in name = {.sin_family = AF_INET,
                               .sin_port = htons(client_port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), room = 4096;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof name), 0);
    assert_true(client_send_text(fd, request));
    return fd;
}

/* Events that the server has taken from the engine for the only request; -1: there is none. */
static long events_taken(void)
{
    struct answer answer = client_call("GET", "/status", NULL, NULL);
    const char *found = strstr(answer.body, "\"events\":");
    long n = found ? strtol(found + strlen("\"events\":"), NULL, 10) : -1;
    answer_release(&answer);
    return n;
}

/* Its sequences pause, others go on; when it reads again, it gets everything. */
static void a_client_that_does_not_read_waits_alone(void **state)
{
    (void)state;
    struct stream lazy = {.fd = send_lazy_request()};
    long before = -1, now = 0;
    for (int i = 0; i < 60 && (now != before || now < LAZY_ANSWERS); i++) {
        before = now;
        nanosleep(&(struct timespec){1, 0}, NULL);
        now = events_taken();
    }
    assert_true(now == before && now >= LAZY_ANSWERS);
    assert_true(now < (LAZY_TOKENS - 1) * LAZY_ANSWERS); /* stands still in the middle */
    struct stream eager = {.fd = send_request(prompts[1])};
    uint64_t from = clock_now_ns();
    read_all(&eager, 1, 20000000000u);
    assert_true(eager.over && clock_now_ns() - from < 10000000000u);
    free(check_stream(&eager));
    close(eager.fd);
    buf_release(&eager.text);
    for (int i = 0; i < 100 && events_taken() != now; i++) /* the other one may be listed still */
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    assert_int_equal(events_taken(), now);
    read_all(&lazy, 1, 60000000000u);
    char usage[64];
    assert_true(str_ends(buf_str(&lazy.text), STR_LIT("data: [DONE]\n\n\r\n0\r\n\r\n")));
    snprintf(usage, sizeof usage, "\"completion_tokens\":%d", LAZY_TOKENS * LAZY_ANSWERS);
    assert_non_null(strstr(lazy.text.data, usage));
    close(lazy.fd);
    buf_release(&lazy.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_streams_end_well),
        cmocka_unit_test(a_client_that_does_not_read_waits_alone),
    };
    return cmocka_run_group_tests(tests, setup, serving_end);
}
