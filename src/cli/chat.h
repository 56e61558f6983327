/*
 * A conversation on the terminal: one answer, or a read-eval loop with history and commands.
 */
#ifndef SLUICE_CLI_CHAT_H
#define SLUICE_CLI_CHAT_H

#include "cli/cli.h"

struct chat_settings {
    const char *system; /* NULL: none */
    bool raw, quiet;
    const char *url; /* chat_loop() through the server there; the engine is NULL then */
    uint32_t max_tokens;
    sluice_thinking thinking;
    sluice_sampling sampling;
};

/* Answers one prompt on stdout. A dim line of statistics follows on stderr where stdout is a
 * terminal. Ctrl-C ends the answer (and is no error). */
enum status chat_once(sluice_engine *engine, const struct chat_settings *settings,
                      const char *prompt, struct error *err);
/* The loop: until /bye, Ctrl-D, or an error that ends the engine. */
enum status chat_loop(sluice_engine *engine, const struct chat_settings *settings,
                      struct error *err);

#endif
