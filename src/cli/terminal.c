/* What differs between a terminal and a pipe: colour and progress. */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"

bool terminal_is(FILE *stream)
{
    return isatty(fileno(stream)) == 1;
}

static const char *escape(FILE *stream, const char *sequence)
{
    const char *term = getenv("TERM");
    bool plain = getenv("NO_COLOR") || (term && term[0] == 'd' && term[1] == 'u');
    return !plain && terminal_is(stream) ? sequence : "";
}

const char *terminal_dim(FILE *stream)
{
    return escape(stream, "\033[2m");
}

const char *terminal_bold(FILE *stream)
{
    return escape(stream, "\033[1m");
}

const char *terminal_reset(FILE *stream)
{
    return escape(stream, "\033[0m");
}

#define BAR_WIDTH 30

void terminal_progress(void *context, double fraction, const char *what)
{
    static uint64_t last;
    (void)context;
    if (!terminal_is(stderr))
        return;
    if (fraction >= 1.0) {
        if (last)
            fprintf(stderr, "\r\033[K");
        last = 0;
        return;
    }
    uint64_t now = clock_now_ns();
    if (last && now - last < 100000000u)
        return;
    last = now;
    int filled = (int)(fraction * BAR_WIDTH);
    fprintf(stderr, "\r%s [", what);
    for (int i = 0; i < BAR_WIDTH; i++)
        fputc(i < filled ? '#' : ' ', stderr);
    fprintf(stderr, "] %3.0f %%", fraction * 100.0);
    fflush(stderr);
}
