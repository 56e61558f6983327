/*
 * A conversation with a model in your own program: chat MODEL [TURN...]
 * Each TURN is something the user says; without any, lines from standard input are.
 *
 *   cc chat.c -Iinclude -Lbuild -lsluice -lpthread -ljansson -lpcre2-8 -lutf8proc -lxxhash \
 *      -lhwloc -lm -o chat
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sluice.h"

#define MAX_TURNS 100

static int fail(const char *what, const sluice_error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->message);
    return 1;
}

/* Prints the answer as it is generated and keeps it as the assistant's turn. */
static int answer(sluice_engine *engine, sluice_message *messages, size_t n_messages)
{
    static char text[1 << 16];
    sluice_request_options options = {
        .messages = messages,
        .n_messages = n_messages,
        .max_tokens = 500,
        .sampling = {.set = SLUICE_SET_TEMPERATURE, .temperature = 0}, /* the likeliest answer */
    };
    sluice_request *request;
    sluice_error error;
    if (sluice_submit(engine, &options, &request, &error) != SLUICE_OK)
        return fail("cannot ask", &error);
    int result = 0;
    size_t length = 0;
    for (sluice_event event; sluice_request_next(request, &event, -1);) {
        if (event.kind == SLUICE_EVENT_ERROR)
            result = fail("the answer failed", &event.error);
        if (event.kind != SLUICE_EVENT_TEXT)
            continue;
        fputs(event.text, stdout);
        fflush(stdout);
        if (length + event.length >= sizeof text)
            continue;
        memcpy(text + length, event.text, event.length);
        length += event.length;
    }
    putchar('\n');
    text[length] = 0;
    messages[n_messages] = (sluice_message){.role = "assistant", .content = strdup(text)};
    sluice_request_free(request);
    return result;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return fprintf(stderr, "usage: chat MODEL [TURN...]\n"), 2;
    sluice_engine *engine;
    sluice_error error;
    if (sluice_engine_open(&(sluice_engine_options){.model = argv[1]}, &engine, &error))
        return fail("cannot open the model", &error);
    sluice_message messages[2 * MAX_TURNS] = {{0}};
    char line[4096] = "";
    int result = 0;
    size_t n = 0;
    for (int i = 2; result == 0 && n + 2 <= 2 * MAX_TURNS; i++) {
        const char *said = argc > 2 ? (i < argc ? argv[i] : NULL) : fgets(line, sizeof line, stdin);
        if (!said)
            break;
        line[strcspn(line, "\n")] = 0;
        messages[n++] = (sluice_message){.role = "user", .content = strdup(said)};
        result = answer(engine, messages, n++);
    }
    for (size_t i = 0; i < n; i++)
        free((char *)messages[i].content);
    sluice_engine_close(engine);
    return result;
}
