/*
 * What HTTP costs one user who is alone.
 *
 *   bench_alone MODEL [PAIRS=40] [WORDS=40] [TOKENS=32] [THREADS=2]
 *
 * A server in this process, and its engine asked directly: the same question once each way, in turns
 * and with the first turn changing, so that a machine whose speed drifts disturbs both alike. Each
 * question has a cache salt of its own, so both compute all of it. Told are the medians, and the
 * median of the pairs' differences with the range that holds it with 95 % of certainty.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "must.h"
#include "server/server.h"

#define PAIRS 1000
#define TEXT  16384
#define LINES (1 << 20)

struct answer {
    double first_ms; /* from before the request is made to its first token */
    double rate;     /* tokens per second after it */
};

/* ---- the two ways ------------------------------------------------------------------------------ */

struct tokens {
    uint64_t begin, first, last;
    uint32_t n;
};

static void note_token(struct tokens *t)
{
    t->last = clock_now_ns();
    if (t->n++ == 0)
        t->first = t->last;
}

static struct answer finish(const struct tokens *t, uint32_t wanted)
{
    if (t->n != wanted)
        fail("an answer has not as many tokens as were asked for");
    return (struct answer){(double)(t->first - t->begin) * 1e-6,
                           (double)(t->n - 1) / ((double)(t->last - t->first) * 1e-9)};
}

static struct answer ask_engine(sluice_engine *engine, const char *text, const char *salt,
                                uint32_t n_tokens)
{
    struct tokens tokens = {.begin = clock_now_ns()};
    sluice_message message = {.role = "user", .content = text};
    sluice_request_options options = {
        .messages = &message,
        .n_messages = 1,
        .max_tokens = n_tokens,
        .sampling = {.set = SLUICE_SET_TEMPERATURE},
        .ignore_end = true,
        .report_silent = true,
        .cache_salt = salt,
    };
    sluice_request *request;
    sluice_error error;
    sluice_event event;
    must(sluice_submit(engine, &options, &request, &error), &error);
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail(event.error.message);
        if (event.kind == SLUICE_EVENT_TEXT || event.kind == SLUICE_EVENT_REASONING)
            note_token(&tokens);
    }
    sluice_request_free(request);
    return finish(&tokens, n_tokens);
}

/* A line of the answer's body: a token's event, or something else. */
static void take_line(const char *line, struct tokens *tokens)
{
    if (strncmp(line, "data: {", 7) == 0 && strstr(line, "\"content\":") &&
        !strstr(line, "\"role\":") && strstr(line, "\"finish_reason\":null"))
        note_token(tokens);
    if (strstr(line, "\"error\":{"))
        fail(line);
}

static struct answer ask_server(int fd, const char *text, const char *salt, uint32_t n_tokens)
{
    static char request[TEXT + 1024], body[TEXT + 512], lines[LINES];
    struct tokens tokens = {.begin = clock_now_ns()};
    int length = snprintf(body, sizeof body,
                          "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"stream\":true,"
                          "\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,"
                          "\"cache_salt\":\"%s\"}",
                          text, n_tokens, salt);
    int size = snprintf(request, sizeof request,
                        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                        length, body);
    if (send(fd, request, (size_t)size, 0) != size)
        fail("the server takes no request");
    size_t have = 0, seen = 0;
    while (have < 7 || memcmp(lines + have - 7, "\r\n0\r\n\r\n", 7) != 0) {
        ssize_t got = recv(fd, lines + have, sizeof lines - 1 - have, 0);
        if (got <= 0)
            fail("the server sends no more");
        have += (size_t)got;
        lines[have] = 0;
        for (char *end; (end = strchr(lines + seen, '\n')) != NULL; seen = end + 1 - lines) {
            *end = 0;
            take_line(lines + seen, &tokens);
            *end = '\n';
        }
    }
    return finish(&tokens, n_tokens);
}

/* ---- pairs ------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* Ranks between which the median of n values lies with 95 %: binomial, by its normal form. */
static uint32_t rank_below(uint32_t n)
{
    uint32_t away = 0;
    while ((double)away * away < 0.98 * 0.98 * n)
        away++;
    return n / 2 > away ? n / 2 - away : 0;
}

static void print_pairs(const char *what, const char *unit, const double *http,
                        const double *inside, uint32_t n, bool relative)
{
    double a[PAIRS], b[PAIRS], d[PAIRS];
    for (uint32_t i = 0; i < n; i++) {
        a[i] = http[i];
        b[i] = inside[i];
        d[i] = relative ? 100.0 * (http[i] / inside[i] - 1.0) : http[i] - inside[i];
    }
    double middle = median(d, n);
    uint32_t low = rank_below(n);
    printf("%-12s HTTP %.2f %s, in the process %.2f; a pair differs by %+.2f %s (%+.2f to %+.2f)\n",
           what, median(a, n), unit, median(b, n), middle, relative ? "%" : unit, d[low],
           d[n - 1 - low]);
}

static void make_text(uint64_t seed, uint32_t n_words, char *text)
{
    static const char *const words[] = {"river", "house", "green", "birds", "water", "horse",
                                        "night", "child", "story", "light", "field", "bread"};
    size_t at = 0;
    for (uint32_t i = 0; i < n_words && at < TEXT - 16; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        at +=
            (size_t)snprintf(text + at, TEXT - at, "%s%s", i ? " " : "", words[(seed >> 33) % 12]);
    }
}

static int connect_to(const struct http_address *address)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    name.sin_port = htons((uint16_t)atoi(strrchr(address->text, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) != 0)
        fail("cannot connect to the server");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static uint32_t number(int argc, char **argv, int index, uint32_t otherwise)
{
    return argc > index ? (uint32_t)strtoul(argv[index], NULL, 10) : otherwise;
}

static void run_pairs(sluice_engine *engine, int fd, uint32_t n, uint32_t n_words,
                      uint32_t n_tokens)
{
    static struct answer answers[2][PAIRS + 1];
    static double values[2][2][PAIRS];
    char text[TEXT], salt[32];
    for (uint32_t i = 0; i <= n; i++) { /* the first pair warms up */
        make_text(i, n_words, text);
        for (uint32_t turn = 0; turn < 2; turn++) {
            uint32_t way = (turn + i) % 2;
            snprintf(salt, sizeof salt, "%u-%u", i, way);
            answers[way][i] = way ? ask_engine(engine, text, salt, n_tokens)
                                  : ask_server(fd, text, salt, n_tokens);
        }
    }
    for (uint32_t way = 0; way < 2; way++)
        for (uint32_t i = 0; i < n; i++) {
            values[0][way][i] = answers[way][i + 1].first_ms;
            values[1][way][i] = answers[way][i + 1].rate;
        }
    print_pairs("first token", "ms", values[0][0], values[0][1], n, false);
    print_pairs("tokens/s", "t/s", values[1][0], values[1][1], n, true);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        fail("usage: bench_alone MODEL [PAIRS=40] [WORDS=40] [TOKENS=32] [THREADS=2]");
    uint32_t n = number(argc, argv, 2, 40), n_tokens = number(argc, argv, 4, 32);
    struct http_address address;
    struct server *server;
    struct error err;
    sluice_models *models;
    sluice_engine *engine = NULL;
    sluice_error error;
    sluice_models_options options = {
        .engine = {.n_threads = number(argc, argv, 5, 2), .n_context = 2048},
        .keep_alive_ms = -1,
    };
    must(sluice_models_create(&options, &models, &error), &error);
    must(sluice_models_add(models, "m", argv[1], &error), &error);
    must(sluice_models_hold(models, "m", NULL, NULL, NULL, &engine, &error), &error);
    struct server_options serve = {
        .models = models, .model_name = "m", .addresses = &address, .n_addresses = 1};
    if (http_listen("127.0.0.1:0", false, &address, &err) != STATUS_OK ||
        server_start(&serve, &server, &err) != STATUS_OK)
        fail(err.message);
    int fd = connect_to(&address);
    run_pairs(engine, fd,
              n < 2       ? 2
              : n < PAIRS ? n
                          : PAIRS,
              number(argc, argv, 3, 40), n_tokens < 2 ? 2 : n_tokens);
    close(fd);
    server_stop(server);
    sluice_models_close(models);
    return 0;
}
