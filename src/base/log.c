/* The log: format into one buffer, write it with one call. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static atomic_int current_level = -1;
static atomic_bool with_times;

static int level_from_environment(enum log_level otherwise)
{
    const char *name = getenv("SLUICE_LOG");
    for (int i = 0; name && i < 4; i++)
        if (strcmp(name, level_names[i]) == 0)
            return i;
    return (int)otherwise;
}

void log_set_level(enum log_level level)
{
    atomic_store(&current_level, level_from_environment(level));
}

void log_set_times(bool on)
{
    atomic_store(&with_times, on);
}

/* "2026-11-26T03:07:27.512Z ", or nothing. */
static int write_time(char *out, size_t size)
{
    struct timespec now;
    struct tm utc;
    if (!atomic_load(&with_times) || clock_gettime(CLOCK_REALTIME, &now) != 0 ||
        !gmtime_r(&now.tv_sec, &utc))
        return 0;
    size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return (int)n + snprintf(out + n, size - n, ".%03ldZ ", now.tv_nsec / 1000000);
}

void log_write(enum log_level level, const char *format, ...)
{
    int limit = atomic_load(&current_level);
    if (limit < 0) {
        limit = level_from_environment(LOG_WARN);
        atomic_store(&current_level, limit);
    }
    if ((int)level > limit)
        return;
    char line[1024];
    int head = write_time(line, sizeof line);
    head += snprintf(line + head, sizeof line - (size_t)head, "sluice: %s: ", level_names[level]);
    va_list args;
    va_start(args, format);
    int body = vsnprintf(line + head, sizeof line - (size_t)head - 1, format, args);
    va_end(args);
    size_t length = strlen(line);
    (void)body;
    line[length] = '\n';
    fwrite(line, 1, length + 1, stderr);
}
