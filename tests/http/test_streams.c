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

/* A stream whose client does not read must not hold up another. */
static void a_sleeping_reader_holds_up_nobody(void **state)
{
    (void)state;
    struct stream lazy = {.fd = send_request(prompts[0])};
    struct stream eager = {.fd = send_request(prompts[1])};
    uint64_t from = clock_now_ns();
    read_all(&eager, 1, 20000000000u);
    assert_true(eager.over && clock_now_ns() - from < 10000000000u);
    free(check_stream(&eager));
    close(lazy.fd);
    close(eager.fd);
    buf_release(&eager.text);
    buf_release(&lazy.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_streams_end_well),
        cmocka_unit_test(a_sleeping_reader_holds_up_nobody),
    };
    return cmocka_run_group_tests(tests, setup, serving_end);
}
