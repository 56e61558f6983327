/*
 * The command line as a user meets it: the built program is run with arguments and standard input,
 * and what it prints and its exit code are checked. Everything runs on the bundled model, off a
 * terminal: no colours, no progress, nothing read from a terminal that is not there.
 */
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"
#include "scratch.h"

#define PROGRAM  SLUICE_BINARY_DIR "/sluice"
#define PEBBLE   "models/pebble/pebble-q8_0.gguf"
#define ARGS_MAX 24

struct outcome {
    int exit_code; /* -1: killed by a signal */
    struct buf out, err;
};

static void outcome_release(struct outcome *o)
{
    buf_release(&o->out);
    buf_release(&o->err);
}

static void child(char *const argv[], const int in[2], const int out[2], const int err[2])
{
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(err[1], 2);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
        close(err[i]);
    }
    execv(PROGRAM, argv);
    _exit(127);
}

/* Reads both streams to their ends, so that neither pipe can fill up and block the program. */
static void collect(int out, int err, struct outcome *o)
{
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    struct buf *to[2] = {&o->out, &o->err};
    char block[65536];
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        poll(fds, 2, -1);
        for (int i = 0; i < 2; i++) {
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, block, sizeof block);
            if (n <= 0)
                fds[i].fd = -1;
            else
                buf_append(to[i], block, (size_t)n);
        }
    }
}

/* Runs the program; `input` (short) is its standard input. Arguments end with NULL. */
static struct outcome run(const char *input, ...)
{
    char *argv[ARGS_MAX] = {(char *)"sluice"};
    va_list args;
    va_start(args, input);
    for (int i = 1; i < ARGS_MAX - 1 && (argv[i] = va_arg(args, char *)) != NULL; i++)
        continue;
    va_end(args);
    int in[2], out[2], err[2], status = 0;
    struct outcome o = {.exit_code = -1};
    assert_int_equal(pipe(in) | pipe(out) | pipe(err), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(argv, in, out, err);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    size_t length = input ? strlen(input) : 0;
    /* A program that does not want its input may be gone already: that is no failure here. */
    if (length && write(in[1], input, length) < 0)
        length = 0;
    close(in[1]);
    collect(out[0], err[0], &o);
    close(out[0]);
    close(err[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    o.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    buf_append_cstr(&o.out, "");
    buf_append_cstr(&o.err, "");
    return o;
}

static const char *text(const struct buf *buf)
{
    return buf->data ? buf->data : "";
}

/* Exit code and a part of standard error. */
static void expect_failure(struct outcome o, int exit_code, const char *part)
{
    if (o.exit_code != exit_code || !strstr(text(&o.err), part))
        print_error("exit %d, stderr: %s", o.exit_code, text(&o.err));
    assert_int_equal(o.exit_code, exit_code);
    assert_non_null(strstr(text(&o.err), part));
    assert_int_equal(o.out.len, 0);
    outcome_release(&o);
}

static void expect_success(const struct outcome *o)
{
    if (o->exit_code != 0)
        print_error("exit %d, stderr: %s", o->exit_code, text(&o->err));
    assert_int_equal(o->exit_code, 0);
    assert_null(strchr(text(&o->out), '\033'));
    assert_null(strchr(text(&o->err), '\033'));
}

static void expect_output(struct outcome o, const char *expected)
{
    expect_success(&o);
    assert_string_equal(text(&o.out), expected);
    outcome_release(&o);
}

/* ---- help and usage --------------------------------------------------------------------------- */

/* Every command that the overview lists explains itself, by --help and by `help COMMAND`. */
static void help_teaches(void **state)
{
    (void)state;
    struct outcome overview = run(NULL, "--help", NULL);
    expect_success(&overview);
    int commands = 0;
    const char *list = strstr(text(&overview.out), "Commands:\n");
    assert_non_null(list);
    for (const char *line = strchr(list, '\n') + 1; strncmp(line, "  ", 2) == 0;
         line = strchr(line, '\n') + 1) {
        char name[32];
        assert_int_equal(sscanf(line, " %31s", name), 1);
        if (strcmp(name, "version") == 0)
            continue;
        struct outcome by_flag = run(NULL, name, "--help", NULL);
        struct outcome by_word = run(NULL, "help", name, NULL);
        expect_success(&by_flag);
        expect_success(&by_word);
        assert_string_equal(text(&by_flag.out), text(&by_word.out));
        char usage[48];
        snprintf(usage, sizeof usage, "sluice %s ", name);
        assert_int_equal(strncmp(text(&by_flag.out), usage, strlen(usage)), 0);
        outcome_release(&by_flag);
        outcome_release(&by_word);
        commands++;
    }
    assert_true(commands >= 7);
    outcome_release(&overview);
}

static void usage_errors_name_the_way_out(void **state)
{
    (void)state;
    expect_failure(run(NULL, "chatt", NULL), 2, "sluice --help");
    expect_failure(run(NULL, "run", "--tmep", "1", NULL), 2, "did you mean --temp?");
    expect_failure(run(NULL, "run", "--temp", NULL), 2, "--temp needs a value");
    expect_failure(run(NULL, "run", "--temp", "warm", NULL), 2, "expected a number");
    expect_failure(run(NULL, "run", "-n", "-3", NULL), 2, "a whole number");
    expect_failure(run(NULL, "run", "--think", "--no-think", "a b", NULL), 2, "exclude");
    expect_failure(run(NULL, "run", PEBBLE, "", NULL), 2, "empty");
    expect_failure(run(NULL, "run", "--backend", "abacus", "hello there", NULL), 2, "abacus");
    expect_failure(run(NULL, "run", "a b", "--samplers", "top_k;luck", NULL), 2, "luck");
    expect_failure(run(NULL, "run", "a b", "--mirostat", "7", NULL), 2, "mirostat");
    expect_failure(run(NULL, "run", "a b", "--top-p", "2", NULL), 2, "--top-p: expected 0 to 1");
    expect_failure(run(NULL, "run", "a b", "--dry-base", "2", NULL), 2, "without --dry-multiplier");
    expect_failure(run(NULL, "serve", "--top-k", "-4", NULL), 2, "--top-k: expected 0 or more");
    expect_failure(run(NULL, "serve", "--api-key", "", NULL), 2, "the key is empty");
    expect_failure(run(NULL, "serve", "--port", "0", "-c", "99999", NULL), 2, "--ctx-size: 99999");
    expect_failure(run(NULL, "serve", "--port", "0", "--kv-memory", "1K", NULL), 7, "--kv-memory");
    expect_failure(run(NULL, "serve", "-ngl", "99", NULL), 2, "--backend");
    expect_failure(run(NULL, "detokenize", PEBBLE, "1,x", NULL), 2, "x");
    expect_failure(run(NULL, "logits", PEBBLE, NULL), 2, "--ids");
}

/* Flags of bench that exclude each other say so instead of being ignored; a run in which nobody was
 * answered fails. */
static void bench_says_what_it_measures(void **state)
{
    (void)state;
    expect_failure(run(NULL, "bench", "--users", "1", "--prefill", "5", NULL), 2, "kernels");
    expect_failure(run(NULL, "bench", "--users", "1", "--rate", "2", NULL), 2, "one of them");
    expect_failure(run(NULL, "bench", "--rate", "2,", NULL), 2, "such as 0.5,1,2");
    expect_failure(run(NULL, "bench", "--rate", "0", NULL), 2, "such as 0.5,1,2");
    expect_failure(run(NULL, "bench", "--rate", "1", "--cold", "50", NULL), 2, "--cold");
    expect_failure(run(NULL, "bench", "--json", "--markdown", NULL), 2, "exclude");
    expect_failure(run(NULL, "bench", "--url", "ftp://a", NULL), 2, "host:port");
    expect_failure(run(NULL, "bench", "--url", "127.0.0.1:1", NULL), 4, "127.0.0.1:1/v1/models");
    struct outcome o = run(NULL, "bench", "--prompt-tokens", "3000", "--requests", "2", NULL);
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(text(&o.out), "1 user, first error: the prompt's"));
    assert_non_null(strstr(text(&o.err), "none of 2 requests was answered"));
    outcome_release(&o);
    /* The engine in this process, and the page. */
    char path[1200], seed[64];
    snprintf(path, sizeof path, "%s/crowd.html", fixture_scratch());
    o = run(NULL, "bench", "--users", "1,2", "--requests", "2", "--prompt-tokens", "20", "-n", "4",
            "--markdown", "--html", path, "--seed", "5", NULL);
    expect_success(&o);
    assert_non_null(strstr(text(&o.out), "|     2 |        2 |"));
    assert_non_null(strstr(text(&o.out), ", seed 5\n"));
    outcome_release(&o);
    struct buf page = fixture_read(path);
    assert_true(str_starts(buf_str(&page), STR_LIT("<!doctype html>")));
    buf_append_char(&page, 0);
    assert_non_null(strstr(page.data, "<svg "));
    assert_non_null(strstr(page.data, "<table>"));
    buf_release(&page);
    /* Without a seed no two runs send the same texts. */
    o = run(NULL, "bench", "--users", "1", "--requests", "1", "-n", "1", NULL);
    expect_success(&o);
    const char *found = strstr(text(&o.out), ", seed ");
    assert_non_null(found);
    assert_int_equal(sscanf(found, ", seed %60[0-9]", seed), 1);
    outcome_release(&o);
    o = run(NULL, "bench", "--users", "1", "--requests", "1", "-n", "1", NULL);
    expect_success(&o);
    found = strstr(text(&o.out), ", seed ");
    assert_non_null(found);
    assert_true(strncmp(found + strlen(", seed "), seed, strlen(seed)) != 0);
    outcome_release(&o);
}

/* The nearest spelling of a flag, also of its other names, its beginning, and of a command. */
static void suggestions(void **state)
{
    (void)state;
    expect_failure(run(NULL, "rnu", NULL), 2, "did you mean 'run'?");
    expect_failure(run(NULL, "some/model.gguf", NULL), 2, "sluice run some/model.gguf");
    expect_failure(run(NULL, "run", "--ctx", "5", NULL), 2, "did you mean --ctx-size?");
    expect_failure(run(NULL, "serve", "--temprature", "1", NULL), 2, "did you mean --temperature?");
    expect_failure(run(NULL, "bench", "--kvtype", "f32", NULL), 2, "did you mean --kv-type?");
    expect_failure(run(NULL, "show", "--whatever", NULL), 2, "'sluice show --help' lists them");
}

/* What samples has the same flags with the same words. */
static void one_table_of_sampling(void **state)
{
    (void)state;
    struct outcome first = run(NULL, "run", "--help", NULL);
    struct outcome second = run(NULL, "serve", "--help", NULL);
    const char *ours = strstr(text(&first.out), "\nSampling:\n");
    const char *theirs = strstr(text(&second.out), "\nSampling:\n");
    assert_non_null(ours);
    assert_non_null(theirs);
    assert_string_equal(ours, theirs);
    assert_non_null(strstr(ours, "--dry-multiplier M"));
    outcome_release(&first);
    outcome_release(&second);
}

/* ---- run -------------------------------------------------------------------------------------- */

static void answers_a_prompt(void **state)
{
    (void)state;
    struct outcome first = run(NULL, "run", "Tell me a story about a fox", NULL);
    expect_success(&first);
    assert_non_null(strstr(text(&first.out), "fox"));
    assert_true(first.out.len > 100);
    assert_int_equal(first.err.len, 0);
    /* The same by standard input, by file name, and on one thread. */
    expect_output(run("Tell me a story about a fox\n", "run", NULL), text(&first.out));
    expect_output(run(NULL, "run", PEBBLE, "Tell me a story about a fox", "--temp", "0", NULL),
                  text(&first.out));
    expect_output(
        run(NULL, "run", "-m", PEBBLE, "Tell me a story about a fox", "--temp=0", "-t", "1", NULL),
        text(&first.out));
    outcome_release(&first);
}

static void same_seed_same_text(void **state)
{
    (void)state;
    struct outcome a = run(NULL, "run", "Tell me a story", "--temp", "1", "--seed", "7", NULL);
    struct outcome c = run(NULL, "run", "Tell me a story", "--temp", "1", "--seed", "8", NULL);
    expect_success(&a);
    expect_success(&c);
    assert_string_not_equal(text(&a.out), text(&c.out));
    expect_output(run(NULL, "run", "Tell me a story", "--temp", "1", "--seed", "7", NULL),
                  text(&a.out));
    outcome_release(&a);
    outcome_release(&c);
}

/* Every sampler is reachable: each of these flags changes the text that a seed gives. */
static void sampler_flags_matter(void **state)
{
    (void)state;
    static const char *const flags[][2] = {
        {"--typical-p", "0.05"},
        {"--top-n-sigma", "0.2"},
        {"--xtc-probability", "1"},
        {"--dry-multiplier", "50"},
        {"--mirostat", "1"},
        {"--mirostat", "2"},
        {"--presence-penalty", "2"},
        {"--frequency-penalty", "2"},
        {"--repeat-penalty", "3"},
        {"--samplers", "temperature"},
        {"--top-k", "1"},
        {"--min-p", "0.9"},
    };
    struct outcome plain =
        run(NULL, "run", "Tell me a story", "--temp", "2.5", "--seed", "3", "-n", "60", NULL);
    expect_success(&plain);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        struct outcome o = run(NULL, "run", "Tell me a story", "--temp", "2.5", "--seed", "3", "-n",
                               "60", flags[i][0], flags[i][1], NULL);
        expect_success(&o);
        if (strcmp(text(&o.out), text(&plain.out)) == 0)
            print_error("%s %s changes nothing\n", flags[i][0], flags[i][1]);
        assert_string_not_equal(text(&o.out), text(&plain.out));
        outcome_release(&o);
    }
    outcome_release(&plain);
}

static void missing_input_is_an_error(void **state)
{
    (void)state;
    expect_failure(run(NULL, "run", NULL), 2, "standard input is empty");
    expect_failure(run(NULL, "run", "no-such-model.gguf", NULL), 6, "no-such-model.gguf");
    expect_failure(run(NULL, "run", "no-such-model.gguf", "hi", NULL), 6, "no-such-model.gguf");
    expect_failure(run(NULL, "run", "README.md", "hi", NULL), 3, "README.md");
}

static void cut_model_is_a_model_error(void **state)
{
    (void)state;
    char path[1200];
    snprintf(path, sizeof path, "%s/cut.gguf", fixture_scratch());
    struct buf whole = fixture_read(fixture_path(PEBBLE));
    scratch_write(path, whole.data, whole.len / 2);
    buf_release(&whole);
    expect_failure(run(NULL, "run", path, "hello", NULL), 3, "cut.gguf");
    expect_failure(run(NULL, "show", path, NULL), 3, "cut.gguf");
}

/* ---- the tools -------------------------------------------------------------------------------- */

static void tokenize_and_back(void **state)
{
    (void)state;
    static const char sentence[] = "Hello <|im_end|> w\xc3\xb6rld\n";
    struct outcome ids = run(sentence, "tokenize", PEBBLE, NULL);
    struct outcome plain = run(sentence, "tokenize", PEBBLE, "--no-parse-special", NULL);
    expect_success(&ids);
    expect_success(&plain);
    assert_non_null(strstr(text(&ids.out), "4089"));
    assert_null(strstr(text(&plain.out), "4089"));
    expect_output(run(NULL, "detokenize", PEBBLE, text(&ids.out), NULL), sentence);
    expect_output(run(NULL, "detokenize", PEBBLE, text(&plain.out), NULL), sentence);
    expect_output(run(sentence, "tokenize", "models/pebble/tokenizer.json", NULL), text(&ids.out));
    outcome_release(&ids);
    outcome_release(&plain);
    expect_failure(run(NULL, "detokenize", PEBBLE, "999999", NULL), 2, "999999");
}

static void logits_are_raw_floats(void **state)
{
    (void)state;
    char path[1200];
    struct stat info;
    snprintf(path, sizeof path, "%s/logits.f32", fixture_scratch());
    expect_output(run(NULL, "logits", PEBBLE, "--ids", "1,2,3", "--out", path, NULL), "");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 3 * 4096 * 4);
    expect_output(run(NULL, "logits", PEBBLE, "--ids", "[1, 2]", "--out", path, "--hidden",
                      "--exact", "--backend", "ref", NULL),
                  "");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 2 * 256 * 4);
    expect_failure(run(NULL, "logits", PEBBLE, "--ids", "1,4096", "--out", path, NULL), 2, "4096");
}

/* The first start packs and keeps, the second maps what was kept: the same bytes, and the log says so. */
static void packed_weights_are_kept(void **state)
{
    (void)state;
    char path[4096], cache[4096];
    snprintf(cache, sizeof cache, "%s/packed", fixture_scratch());
    static const char *const says[] = {"", " kept, in ", " mapped, checked in "};
    struct buf rows[3];
    setenv("SLUICE_LOG", "info", 1);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/kept-%d.f32", fixture_scratch(), i);
        struct outcome o = i == 0
                               ? run(NULL, "logits", PEBBLE, "--ids", "1,2,3", "--out", path, NULL)
                               : run(NULL, "logits", PEBBLE, "--ids", "1,2,3", "--out", path,
                                     "--packed-cache", cache, "--packed-cache-size", "1G", NULL);
        bool packs = !strstr(text(&o.err), "nothing of this model can be kept packed");
        if (packs && !strstr(text(&o.err), says[i]))
            fail_msg("start %d does not say \"%s\": %s", i, says[i], text(&o.err));
        expect_output(o, "");
        rows[i] = fixture_read(path);
        assert_true(rows[i].len == rows[0].len);
        assert_memory_equal(rows[i].data, rows[0].data, rows[0].len);
    }
    for (int i = 0; i < 3; i++)
        buf_release(&rows[i]);
    unsetenv("SLUICE_LOG");
    expect_failure(run(NULL, "logits", PEBBLE, "--ids", "1", "--out", path, "--packed-cache-size",
                       "much", NULL),
                   2, "--packed-cache-size");
}

static json_t *parse(const struct outcome *o)
{
    json_error_t error;
    json_t *root = json_loads(text(&o->out), 0, &error);
    if (!root)
        print_error("line %d: %s\n", error.line, error.text);
    assert_non_null(root);
    return root;
}

static void machine_readable_output(void **state)
{
    (void)state;
    struct outcome o = run(NULL, "show", PEBBLE, "--json", NULL);
    expect_success(&o);
    json_t *root = parse(&o);
    assert_true(json_is_object(root));
    json_decref(root);
    outcome_release(&o);
    o = run(NULL, "hardware", "--json", "--no-measure", NULL);
    expect_success(&o);
    root = parse(&o);
    assert_true(json_integer_value(json_object_get(json_object_get(root, "cpu"), "cores")) >= 1);
    assert_true(json_is_string(json_object_get(root, "backend")));
    json_decref(root);
    outcome_release(&o);
    o = run(NULL, "show", PEBBLE, "--program", NULL);
    expect_success(&o);
    assert_non_null(strstr(text(&o.out), "rope+kv"));
    outcome_release(&o);
}

static void write_file(char *path, size_t size, const char *name, const char *content)
{
    snprintf(path, size, "%s/%s", fixture_scratch(), name);
    scratch_write_text(path, content);
}

static void renders_templates(void **state)
{
    (void)state;
    char template[1200], context[1200];
    write_file(template, sizeof template, "t.jinja",
               "{{ bos_token }}{% for m in messages %}[{{ m.role }}: {{ m.content | upper }}]"
               "{% endfor %}{{ strftime_now('%d %b %Y') }}");
    write_file(
        context, sizeof context, "c.json",
        "{\"bos_token\": \"<s>\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}");
    setenv("SLUICE_NOW", "2025-07-10T12:00:00", 1);
    expect_output(run(NULL, "render", "--template", template, "--context", context, NULL),
                  "<s>[user: HI]10 Jul 2025");
    struct outcome o = run(NULL, "render", "--template", "models/pebble/tokenizer_config.json",
                           "--context", context, NULL);
    expect_success(&o);
    assert_non_null(strstr(text(&o.out), "<|im_start|>user\nhi<|im_end|>"));
    outcome_release(&o);
    o = run(NULL, "render", "--template", "harmony", "--context", context, NULL);
    expect_success(&o);
    assert_non_null(strstr(text(&o.out), "Current date: 2025-07-10"));
    assert_non_null(strstr(text(&o.out), "<|start|>user<|message|>hi<|end|>"));
    outcome_release(&o);
    setenv("SLUICE_NOW", "tomorrow", 1);
    expect_failure(run(NULL, "render", "--template", template, "--context", context, NULL), 2,
                   "SLUICE_NOW");
    unsetenv("SLUICE_NOW");
    write_file(template, sizeof template, "bad.jinja", "{% if %}");
    expect_failure(run(NULL, "render", "--template", template, "--context", context, NULL), 3,
                   "line 1");
    write_file(template, sizeof template, "raise.jinja", "x{{ raise_exception('no way') }}");
    expect_failure(run(NULL, "render", "--template", template, "--context", context, NULL), 3,
                   "no way");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_teaches),
        cmocka_unit_test(usage_errors_name_the_way_out),
        cmocka_unit_test(bench_says_what_it_measures),
        cmocka_unit_test(suggestions),
        cmocka_unit_test(one_table_of_sampling),
        cmocka_unit_test(answers_a_prompt),
        cmocka_unit_test(same_seed_same_text),
        cmocka_unit_test(sampler_flags_matter),
        cmocka_unit_test(missing_input_is_an_error),
        cmocka_unit_test(cut_model_is_a_model_error),
        cmocka_unit_test(tokenize_and_back),
        cmocka_unit_test(logits_are_raw_floats),
        cmocka_unit_test(packed_weights_are_kept),
        cmocka_unit_test(machine_readable_output),
        cmocka_unit_test(renders_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
