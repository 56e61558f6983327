/* Errors as clients see them, identifiers, and JSON text. */
#define _GNU_SOURCE
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "api/api.h"
#include "base/clock.h"

bool api_fail(struct api_error *error, unsigned status, const char *type, const char *code,
              const char *format, ...)
{
    va_list args;
    *error = (struct api_error){.status = status};
    snprintf(error->type, sizeof error->type, "%s", type);
    snprintf(error->code, sizeof error->code, "%s", code);
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return false;
}

bool api_refuse(struct api_error *error, const char *param, const char *format, ...)
{
    va_list args;
    api_fail(error, 400, "invalid_request_error", "", "%s", "");
    snprintf(error->param, sizeof error->param, "%s", param);
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return false;
}

/* The engine's messages begin with the parameter: "messages[2].role is missing", "stop: ...". */
static void find_param(const char *message, char *out, size_t size)
{
    static const char *const names[] = {"messages",
                                        "prompt",
                                        "tokens",
                                        "stop",
                                        "temperature",
                                        "top_k",
                                        "top_p",
                                        "min_p",
                                        "typical_p",
                                        "repeat_penalty",
                                        "seed",
                                        "repeat_last_n",
                                        "presence_penalty",
                                        "logit_bias",
                                        "frequency_penalty",
                                        "tools",
                                        "top_logprobs",
                                        "xtc_probability",
                                        "mirostat",
                                        "dry_multiplier",
                                        "dry_base",
                                        "xtc_threshold",
                                        "dry_allowed_length",
                                        "mirostat_tau",
                                        "mirostat_eta",
                                        "top_n_sigma",
                                        "dry_sequence_breakers",
                                        "dry_penalty_last_n"};
    size_t n = strspn(message, "abcdefghijklmnopqrstuvwxyz_"), whole = n;
    whole += strspn(message + n, "abcdefghijklmnopqrstuvwxyz_.[]0123456789");
    out[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], message, n) == 0)
            snprintf(out, size, "%.*s", (int)whole, message);
}

void api_error_from_engine(const sluice_error *from, struct api_error *error)
{
    const char *text = from->message;
    switch (from->status) {
    case SLUICE_ERROR_USAGE:
        api_refuse(error, "", "%s", text);
        find_param(text, error->param, sizeof error->param);
        break;
    case SLUICE_ERROR_UNSUPPORTED:
        api_refuse(error, "", "%s", text);
        snprintf(error->code, sizeof error->code, "unsupported");
        break;
    case SLUICE_ERROR_LIMIT:
        api_refuse(error, "", "%s", text);
        find_param(text, error->param, sizeof error->param);
        break;
    case SLUICE_ERROR_CONTEXT:
        api_refuse(error, "messages", "%s", text);
        snprintf(error->code, sizeof error->code, "context_length_exceeded");
        break;
    /* Everybody's queue is the server's trouble, a key's own limit its owner's. */
    case SLUICE_ERROR_BUSY:
        api_fail(error, 503, "server_error", "queue_full", "%s", text);
        error->retry_after = 1;
        break;
    case SLUICE_ERROR_KEY_BUSY:
        api_fail(error, 429, "rate_limit_error", "rate_limit_exceeded", "%s", text);
        error->retry_after = 1;
        break;
    case SLUICE_ERROR_MODEL:
        api_fail(error, 500, "server_error", "model_load_error", "%s", text);
        break;
    case SLUICE_ERROR_MEMORY:
        api_fail(error, 503, "server_error", "out_of_memory", "%s", text);
        error->retry_after = 5;
        break;
    case SLUICE_ERROR_CANCELLED:
        api_fail(error, 499, "request_cancelled", "request_cancelled", "%s", text);
        break;
    default:
        api_fail(error, 500, "server_error", sluice_status_name(from->status), "%s", text);
    }
}

void api_make_id(char *out, size_t size, const char *prefix)
{
    uint8_t bytes[12];
    if (getentropy(bytes, sizeof bytes) != 0) {
        uint64_t now = clock_now_ns();
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, &now, sizeof now);
    }
    int n = snprintf(out, size, "%s-", prefix);
    for (size_t i = 0; i < sizeof bytes && n >= 0 && (size_t)n + 2 < size; i++)
        n += snprintf(out + n, size - (size_t)n, "%02x", bytes[i]);
}

/* Length of the valid UTF-8 sequence at the start, 0 if there is none. */
static size_t sequence_length(const uint8_t *at, size_t left)
{
    size_t n = at[0] < 0x80   ? 1
               : at[0] < 0xc2 ? 0
               : at[0] < 0xe0 ? 2
               : at[0] < 0xf0 ? 3
               : at[0] < 0xf5 ? 4
                              : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))
        return 0;
    return n;
}

void json_write_string(struct buf *out, struct str text)
{
    static const char shorts[] = {['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r',
                                  ['\t'] = 't', ['"'] = '"',  ['\\'] = '\\'};
    buf_append_char(out, '"');
    for (size_t i = 0; i < text.len;) {
        uint8_t c = (uint8_t)text.data[i];
        if (c < sizeof shorts && shorts[c]) {
            buf_append_char(out, '\\');
            buf_append_char(out, shorts[c]);
            i++;
        } else if (c < 0x20) {
            buf_printf(out, "\\u%04x", c);
            i++;
        } else {
            size_t n = sequence_length((const uint8_t *)text.data + i, text.len - i);
            if (n)
                buf_append(out, text.data + i, n);
            else
                buf_append_cstr(out, "\xef\xbf\xbd");
            i += n ? n : 1;
        }
    }
    buf_append_char(out, '"');
}

void json_write_number(struct buf *out, double value)
{
    if (isfinite(value))
        buf_printf(out, "%.9g", value);
    else
        buf_append_cstr(out, "null");
}
