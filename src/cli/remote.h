/* A chat answer through an OpenAI-compatible server. */
#ifndef SLUICE_CLI_REMOTE_H
#define SLUICE_CLI_REMOTE_H

#include <signal.h>

#include "cli/chat.h"

/* Asks the server at settings->url and prints its answer as it comes; collects the text. Stops,
 * without an error, once *interrupted is set. */
enum status remote_answer(const struct chat_settings *settings, const sluice_message *messages,
                          size_t n_messages, const volatile sig_atomic_t *interrupted,
                          struct buf *answer, struct error *err);

#endif
