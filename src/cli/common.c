/* Small things that several commands need. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "engine/public_error.h"
#include "text/chat/chat.h"

#define STDIN_BYTES_MAX   ((size_t)64 << 20)
#define CHAT_TEMPLATE_MAX ((size_t)1 << 20)
#define DEMO_MODEL        "pebble-q8_0.gguf"

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

/* The engine speaks of its options' fields; here they are flags. */
static void name_flags(const char *message, struct buf *out)
{
    static const char *const names[][2] = {
        {"n_context", "--ctx-size"},     {"kv_memory", "--kv-memory"}, {"kv_type", "--kv-type"},
        {"max_sequences", "--parallel"}, {"n_threads", "--threads"},
    };
    while (*message) {
        size_t n = 0;
        while (is_word(message[n]))
            n++;
        const char *flag = NULL;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (strlen(names[i][0]) == n && memcmp(names[i][0], message, n) == 0)
                flag = names[i][1];
        n += n == 0;
        if (flag)
            buf_append_cstr(out, flag);
        else
            buf_append(out, message, n);
        message += n;
    }
}

enum status status_from_public(const sluice_error *error, struct error *err)
{
    struct buf text = {0};
    enum status status = error_from_public(error, err);
    name_flags(error->message, &text);
    error_set(err, status, "%.*s", STR_ARG(buf_str(&text)));
    buf_release(&text);
    return status;
}

/* Folder of the running program, without a trailing slash. */
static bool program_folder(char *out, size_t size)
{
    char path[PATH_MAX];
#ifdef __linux__
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = 0;
#else
    const char *name = getprogname();
    if (!name || !realpath(name, path))
        return false;
#endif
    char *slash = strrchr(path, '/');
    if (!slash)
        return false;
    *slash = 0;
    return (size_t)snprintf(out, size, "%s", path) < size;
}

enum status demo_model_path(char *out, size_t size, struct error *err)
{
    static const char *const places[] = {
        "../models/pebble/" DEMO_MODEL,       /* build folder inside the checkout */
        "../share/sluice/models/" DEMO_MODEL, /* installed */
        "models/" DEMO_MODEL,                 /* unpacked release folder */
    };
    char folder[PATH_MAX];
    if (!program_folder(folder, sizeof folder))
        return error_set(err, STATUS_DISK, "cannot find the program's own folder: name a MODEL");
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if ((size_t)snprintf(out, size, "%s/%s", folder, places[i]) < size && file_exists(out))
            return STATUS_OK;
    return error_set(err, STATUS_DISK,
                     "the bundled demo model %s is not installed beside this program: name a "
                     "MODEL, e.g. 'sluice run path/to/model.gguf'",
                     DEMO_MODEL);
}

enum status read_chat_template(const char *name, struct buf *out, struct error *err)
{
    if (!name)
        return STATUS_OK;
    struct str builtin = chat_template_builtin(str_from(name));
    if (builtin.data && !file_exists(name)) {
        buf_append_str(out, builtin);
        return out->failed ? error_set(err, STATUS_MEMORY, "out of memory") : STATUS_OK;
    }
    return file_read_all(name, CHAT_TEMPLATE_MAX, out, err);
}

enum status read_stdin(struct buf *out, struct error *err)
{
    return file_read_fd(STDIN_FILENO, "standard input", STDIN_BYTES_MAX, out, err);
}

enum status parse_ids(const char *text, int32_t **ids, size_t *count, struct error *err)
{
    size_t capacity = 0;
    *ids = NULL;
    *count = 0;
    const char *at = text;
    while (*at) {
        if (strchr(" \t\r\n,[]", *at)) {
            at++;
            continue;
        }
        char *end;
        errno = 0;
        long value = strtol(at, &end, 10);
        if (end == at || errno || value < 0 || value > INT32_MAX) {
            free(*ids);
            *ids = NULL;
            return error_set(err, STATUS_USAGE,
                             "token ids: '%.20s' at character %zu is no id (expected 1,2,3)", at,
                             (size_t)(at - text));
        }
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            int32_t *more = realloc(*ids, capacity * sizeof **ids);
            if (!more) {
                free(*ids);
                *ids = NULL;
                return error_set(err, STATUS_MEMORY, "out of memory for %zu ids", capacity);
            }
            *ids = more;
        }
        (*ids)[(*count)++] = (int32_t)value;
        at = end;
    }
    if (*count == 0)
        return error_set(err, STATUS_USAGE, "no token ids given (expected 1,2,3)");
    return STATUS_OK;
}
