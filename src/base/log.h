/*
 * The log: one line per event on stderr, for operators. Commands print their results themselves;
 * nothing a user asked for goes through here. Any thread may log; a line is written at once.
 */
#ifndef SLUICE_BASE_LOG_H
#define SLUICE_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages above `level` are dropped (LOG_WARN until this is called). SLUICE_LOG=error|warn|info|debug
 * in the environment goes before either. */
void log_set_level(enum log_level level);
/* Whether each line begins with the time (UTC): for logs that nobody else dates. Off at first. */
void log_set_times(bool on);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

#endif
