/*
 * `sluice serve` as a process of its own: signals while streams run, a process without descriptors,
 * and the tour of `make run` with its chat on a terminal.
 */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <time.h>

#include "client.h"
#include "fixture.h"

#define PROGRAM SLUICE_BINARY_DIR "/sluice"

struct process {
    pid_t pid;
    int out; /* its standard output, or the terminal */
    struct buf text;
};

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool read_some(struct process *p, const char *until, int timeout_ms)
{
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    char block[4096];
    for (;;) {
        if (until && p->text.data && strstr(p->text.data, until))
            return true;
        struct pollfd poller = {.fd = p->out, .events = POLLIN};
        uint64_t now = clock_now_ns();
        if (now >= end || poll(&poller, 1, (int)((end - now) / 1000000u) + 1) <= 0)
            return false;
        ssize_t n = read(p->out, block, sizeof block);
        if (n <= 0)
            return !until;
        buf_append(&p->text, block, (size_t)n);
    }
}

/* A server on a free port with further arguments, NULL at their end (NULL: none); files: its limit of
 * descriptors, 0: ours; log: its lines come with its output. */
static struct process start_server_with(const char *const *more, rlim_t files, bool log)
{
    const char *arguments[16] = {"sluice", "serve", fixture_path("models/pebble/pebble-q8_0.gguf"),
                                 "--port", "0"};
    size_t n = 5;
    if (!log)
        arguments[n++] = "--quiet";
    while (more && *more)
        arguments[n++] = *more++;
    struct process p = {0};
    int out[2];
    assert_int_equal(pipe(out), 0);
    p.pid = fork();
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* what a failed test leaves ends with its program */
#endif
        struct rlimit limit = {files, files};
        if (files)
            setrlimit(RLIMIT_NOFILE, &limit);
        dup2(out[1], 1);
        if (log)
            dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        execv(PROGRAM, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    close(out[1]);
    p.out = out[0];
    if (!read_some(&p, "listening on http://", 60000))
        fail_msg("the server does not start");
    const char *address =
        strstr(p.text.data, "listening on http://") + strlen("listening on http://");
    client_port = (uint16_t)atoi(strchr(address, ':') + 1); /* the line came in one piece */
    return p;
}

/* On one thread: two that wait for each other at every operation need both processors, and where others
 * keep these busy a stream comes to no end. */
static struct process start_server(rlim_t files, bool log)
{
    static const char *const one[] = {"--threads", "1", NULL};
    return start_server_with(one, files, log);
}

/* Its exit code, -1 for a signal, -2 where it goes on. */
static int wait_exit(struct process *p, int timeout_ms)
{
    int status = 0;
    uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    while (waitpid(p->pid, &status, WNOHANG) == 0) {
        if (clock_now_ns() > end) {
            kill(p->pid, SIGKILL);
            waitpid(p->pid, &status, 0);
            close(p->out);
            buf_release(&p->text);
            return -2;
        }
        sleep_ms(5);
    }
    close(p->out);
    buf_release(&p->text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int open_stream(unsigned max_tokens, struct buf *text)
{
    char body[256];
    snprintf(body, sizeof body,
             "{\"prompt\":\"Once upon a time\",\"ignore_eos\":true,\"stream\":true,"
             "\"max_tokens\":%u,\"temperature\":0}",
             max_tokens);
    int fd = client_begin("POST", "/v1/completions", NULL, body);
    assert_true(client_read_until(fd, text, "\"text\":\"", 30000));
    return fd;
}

static void a_signal_lets_streams_end(void **state)
{
    (void)state;
    enum { STREAMS = 4 };
    struct process p = start_server(0, false);
    struct buf texts[STREAMS] = {0};
    int fds[STREAMS], idle = client_connect();
    for (size_t i = 0; i < STREAMS; i++)
        fds[i] = open_stream(400, &texts[i]);
    kill(p.pid, SIGTERM);
    sleep_ms(30);
    /* Who asks now is sent away, whoever runs comes to the end. */
    client_send_text(idle, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                           "Content-Length: 2\r\n\r\n{}");
    struct answer answer = client_answer(idle, 10000);
    assert_true(answer.status == 503 || answer.status == 0);
    answer_release(&answer);
    close(idle);
    for (size_t i = 0; i < STREAMS; i++) {
        assert_true(client_read_until(fds[i], &texts[i], "data: [DONE]", 30000));
        assert_non_null(strstr(texts[i].data, "\"finish_reason\":\"length\""));
        assert_null(strstr(texts[i].data, "\"error\""));
        close(fds[i]);
        buf_release(&texts[i]);
    }
    assert_int_equal(wait_exit(&p, 10000), 0);
}

static void a_second_signal_ends_at_once(void **state)
{
    (void)state;
    struct process p = start_server(0, false);
    struct buf text = {0};
    int fd = open_stream(1900, &text);
    kill(p.pid, SIGINT);
    sleep_ms(100);
    kill(p.pid, SIGTERM);
    uint64_t from = clock_now_ns();
    assert_int_equal(wait_exit(&p, 5000), 1);
    assert_true(clock_now_ns() - from < 2000000000u);
    close(fd);
    buf_release(&text);
}

/* Seconds of processor time that the process used so far; negative where the system does not tell. */
static double processor_seconds(pid_t pid)
{
    char path[64], line[1024] = "";
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    const char *end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    if (!end ||
        sscanf(end + 2, "%*s %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
        return -1;
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

/* What an operator reads about a request. */
static void a_line_per_request(void **state)
{
    (void)state;
    struct process p = start_server(0, true);
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                               "\"temperature\":0}";
    struct answer answer = client_call("POST", "/v1/chat/completions", NULL, body);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    assert_true(read_some(&p, "output tokens", 5000));
    unsigned prompt, cached, output = 0;
    double first;
    const char *line = strstr(p.text.data, "/v1/chat/completions 200 pebble-q8_0 chatcmpl-");
    assert_non_null(line);
    assert_true(read_some(&p, " s\n", 1000));
    line = strstr(p.text.data, "/v1/chat/completions 200 pebble-q8_0 chatcmpl-");
    assert_int_equal(sscanf(strchr(line, ':'),
                            ": %u prompt tokens, %u cached, first token %lf ms, %u output tokens",
                            &prompt, &cached, &first, &output),
                     4);
    assert_int_equal(prompt, 9);
    assert_int_equal(cached, 0);
    assert_true(first > 0 && output == 10);
    answer = client_call("POST", "/v1/chat/completions", NULL, "{\"messages\":[]}");
    assert_int_equal(answer.status, 400);
    answer_release(&answer);
    assert_true(read_some(&p, "/v1/chat/completions 400 messages must be", 5000));
    /* Who leaves is logged with what it had come to, as is who was sent away. */
    struct buf text = {0};
    int fd = open_stream(1900, &text);
    close(fd);
    buf_release(&text);
    assert_true(read_some(&p, ": the client left\n", 5000));
    line = strstr(p.text.data, "/v1/completions 499 pebble-q8_0 cmpl-");
    assert_non_null(line);
    assert_int_equal(sscanf(strchr(line, ':'),
                            ": %u prompt tokens, %u cached, first token %lf ms, %u output tokens",
                            &prompt, &cached, &first, &output),
                     4);
    assert_true(prompt == 4 && first > 0 && output > 0);
    answer = client_call("POST", "/v1/completions", NULL, "{\"prompt\":[99999]}");
    assert_int_equal(answer.status, 400);
    answer_release(&answer);
    assert_true(read_some(&p, ": prompt: id 99999", 5000));
    /* Each line is dated. */
    unsigned year, hour;
    while (line[-1] != '\n')
        line--;
    assert_int_equal(sscanf(line, "%u-%*u-%*uT%u:%*u:%*u.%*uZ sluice: info:", &year, &hour), 2);
    assert_true(year > 2020 && hour < 24);
    kill(p.pid, SIGTERM);
    assert_int_equal(wait_exit(&p, 10000), 0);
}

static unsigned cached_for(const char *key)
{
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about rain, "
        "and then about snow, and about hail too, please.\"}],"
        "\"max_tokens\":1}";
    char head[64];
    unsigned cached;
    snprintf(head, sizeof head, "Authorization: Bearer %s\r\n", key);
    struct answer answer = client_call("POST", "/v1/chat/completions", head, body);
    assert_int_equal(answer.status, 200);
    const char *found = strstr(answer.body, "\"cached_tokens\":");
    assert_non_null(found);
    assert_int_equal(sscanf(found, "\"cached_tokens\":%u", &cached), 1);
    answer_release(&answer);
    return cached;
}

static void keys_share_as_they_are_told(void **state)
{
    (void)state;
    static const char *const all[] = {"--api-key", "one", "--api-key", "two", NULL};
    static const char *const own[] = {"--api-key",     "one", "--api-key", "two",
                                      "--cache-scope", "key", NULL};
    for (int by_key = 0; by_key < 2; by_key++) {
        struct process p = start_server_with(by_key ? own : all, 0, false);
        assert_int_equal(cached_for("one"), 0);
        assert_true(cached_for("one") >= 16);
        assert_int_equal(cached_for("two") > 0, !by_key);
        assert_true(cached_for("two") >= 16);
        kill(p.pid, SIGTERM);
        assert_int_equal(wait_exit(&p, 10000), 0);
    }
}

static int models_with(const char *head)
{
    struct answer answer = client_call("GET", "/v1/models", head, NULL);
    int status = answer.status;
    answer_release(&answer);
    return status;
}

/* Whoever listens beyond the machine gets a key, unless he says that none is wanted. */
static void reachable_addresses_get_a_key(void **state)
{
    (void)state;
    static const char *const open[] = {"--host", "0.0.0.0", NULL};
    static const char *const insecure[] = {"--host", "0.0.0.0", "--insecure", NULL};
    struct process p = start_server_with(open, 0, true);
    char key[80], head[120];
    const char *line = strstr(p.text.data, "API key: sk-");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "API key: %79s", key), 1);
    assert_int_equal(strlen(key), 3 + 48);
    assert_int_equal(models_with(NULL), 401);
    snprintf(head, sizeof head, "Authorization: Bearer %s\r\n", key);
    assert_int_equal(models_with(head), 200);
    struct answer answer = client_call("GET", "/health", NULL, NULL);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    kill(p.pid, SIGTERM);
    assert_int_equal(wait_exit(&p, 10000), 0);
    p = start_server_with(insecure, 0, true);
    assert_null(strstr(p.text.data, "API key"));
    assert_int_equal(models_with(NULL), 200);
    kill(p.pid, SIGTERM);
    assert_int_equal(wait_exit(&p, 10000), 0);
}

/* Least seconds of processor time that the process used in a window of half a second: of several, since
 * what it had to do when the first one began may be done late on a busy machine. */
static double least_processor_seconds(pid_t pid)
{
    double least = 1e9;
    for (int window = 0; window < 8; window++) {
        double before = processor_seconds(pid);
        sleep_ms(500);
        double used = processor_seconds(pid) - before;
        least = used < least ? used : least;
    }
    return least;
}

/* More connections than descriptors: those that are open are served, nobody spins, and when some
 * close new ones are accepted. How soon is no matter here: waits are as long as a busy machine needs. */
static void without_descriptors(void **state)
{
    (void)state;
    enum { CONNECTIONS = 100, FILES = 64 };
    struct process p = start_server(FILES, false);
    struct buf text = {0};
    int stream = open_stream(600, &text), fds[CONNECTIONS];
    for (size_t i = 0; i < CONNECTIONS; i++)
        fds[i] = client_connect(); /* the kernel takes them, if not the server */
    assert_true(client_read_until(stream, &text, "data: [DONE]", 180000));
    if (processor_seconds(p.pid) >= 0)
        assert_true(least_processor_seconds(p.pid) < 0.1);
    client_send_text(stream, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    buf_clear(&text);
    assert_true(client_read_until(stream, &text, "\"ok\"", 60000));
    for (size_t i = 0; i < CONNECTIONS; i++)
        close(fds[i]);
    struct answer answer = client_call("GET", "/health", NULL, NULL);
    assert_int_equal(answer.status, 200);
    answer_release(&answer);
    close(stream);
    buf_release(&text);
    kill(p.pid, SIGTERM);
    assert_int_equal(wait_exit(&p, 60000), 0);
}

/* What `make run` shows, on a terminal: the table, then a chat through the server. */
static void the_tour_ends_in_a_chat(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        print_message("SKIPPED: no pseudo terminal here\n");
        skip();
    }
    struct process p = {.out = master};
    const char *name = ptsname(master);
    p.pid = fork();
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        setsid();
        int terminal = open(name, O_RDWR);
        for (int fd = 0; fd < 3; fd++)
            dup2(terminal, fd);
        setenv("TERM", "dumb", 1);
        execl(PROGRAM, "sluice", "serve", "--demo", (char *)NULL);
        _exit(127);
    }
    if (!read_some(&p, "chatting through the server", 120000))
        fail_msg("no chat: %s", p.text.data ? p.text.data : "");
    assert_non_null(strstr(p.text.data, "curl http://127.0.0.1:"));
    assert_true(read_some(&p, "Ctrl-D to leave", 5000));
    sleep_ms(200);
    assert_int_equal(write(master, "Hello\n", 6), 6);
    assert_true(read_some(&p, "Hello! How can I help you?", 30000));
    read_some(&p, NULL, 500); /* until it listens again */
    assert_int_equal(write(master, "/set top-p 7\n", 13), 13);
    assert_true(read_some(&p, "--top-p: expected 0 to 1 (see /help)", 5000));
    assert_int_equal(write(master, "/set samplers top_k\n", 20), 20);
    assert_true(read_some(&p, "--samplers cannot be set", 5000));
    read_some(&p, NULL, 500);
    assert_int_equal(write(master, "\004", 1), 1); /* Ctrl-D */
    read_some(&p, NULL, 200);
    assert_int_equal(wait_exit(&p, 20000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_lets_streams_end),
        cmocka_unit_test(a_second_signal_ends_at_once),
        cmocka_unit_test(a_line_per_request),
        cmocka_unit_test(keys_share_as_they_are_told),
        cmocka_unit_test(reachable_addresses_get_a_key),
        cmocka_unit_test(without_descriptors),
        cmocka_unit_test(the_tour_ends_in_a_chat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
