/*
 * Any OpenAI-compatible server as a transport: libcurl's multi interface, and a reader of
 * server-sent events that takes them in whatever pieces they arrive.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "bench/load.h"
#include "bench/sse.h"

#define PAGE_BYTES_MAX  ((size_t)4 << 20)
#define ERROR_BYTES_MAX 2000

struct http_transport;

struct exchange {
    struct http_transport *transport;
    struct load_run *run;
    uint32_t user;
    CURL *easy;
    char *body;
    struct buf line; /* of the stream, not complete yet */
    struct buf page; /* an answer that is no stream: an error */
    bool done, has_usage;
    sluice_usage usage;
    char problem[160]; /* said by the stream */
};

struct http_transport {
    CURLM *multi;
    struct curl_slist *headers;
    char url[512], model[128];
    uint32_t timeout_seconds;
    struct exchange *exchanges[LOAD_USERS_MAX];
};

/* ---- events ----------------------------------------------------------------------------------- */

static void take_usage(struct exchange *x, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    x->has_usage = true;
    x->usage.prompt_tokens = (uint32_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
    x->usage.output_tokens =
        (uint32_t)json_integer_value(json_object_get(usage, "completion_tokens"));
    x->usage.cached_tokens =
        (uint32_t)json_integer_value(json_object_get(details, "cached_tokens"));
}

static struct str piece(const json_t *delta, const char *key)
{
    const json_t *value = json_object_get(delta, key);
    return (struct str){json_string_value(value), json_string_length(value)};
}

/* A chunk is a token's event where it carries text, thinking or a call, or says in the middle of the
 * answer that a token had no text to show (empty content; not the one that opens the answer). */
static void take_delta(struct exchange *x, const json_t *choice)
{
    const json_t *delta = json_object_get(choice, "delta");
    const json_t *finish = json_object_get(choice, "finish_reason");
    bool silent = json_is_string(json_object_get(delta, "content")) &&
                  !json_object_get(delta, "role") && (!finish || json_is_null(finish));
    struct str text = piece(delta, "content");
    if (text.len == 0)
        text = piece(delta, "reasoning_content");
    if (text.len == 0)
        text = piece(delta, "reasoning");
    if (text.len)
        load_text(x->run, x->user, text);
    else if (silent || json_array_size(json_object_get(delta, "tool_calls")))
        load_text(x->run, x->user, STR_LIT(""));
}

static void take_data(void *context, struct str data)
{
    struct exchange *x = context;
    json_t *root;
    struct error err;
    if (str_eq(data, STR_LIT("[DONE]"))) {
        x->done = true;
        return;
    }
    if (json_parse(data, JSON_DEPTH_DEFAULT, "an event", &root, &err) != STATUS_OK) {
        snprintf(x->problem, sizeof x->problem, "%.150s", err.message);
        return;
    }
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    if (error && !json_is_null(error))
        snprintf(x->problem, sizeof x->problem, "%.150s", message ? message : "an error event");
    take_usage(x, json_object_get(root, "usage"));
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    if (choice)
        take_delta(x, choice);
    json_decref(root);
}

static size_t on_data(char *data, size_t size, size_t n, void *context)
{
    struct exchange *x = context;
    size_t length = size * n;
    long status = 0;
    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        if (x->page.len < ERROR_BYTES_MAX)
            buf_append(&x->page, data, length);
        return length;
    }
    return sse_feed(&x->line, data, length, take_data, x) ? length : 0;
}

/* ---- requests --------------------------------------------------------------------------------- */

static void exchange_free(struct exchange *x)
{
    if (!x)
        return;
    if (x->easy) {
        curl_multi_remove_handle(x->transport->multi, x->easy);
        curl_easy_cleanup(x->easy);
    }
    x->transport->exchanges[x->user] = NULL;
    free(x->body);
    buf_release(&x->line);
    buf_release(&x->page);
    free(x);
}

static char *request_body(const struct http_transport *t, const json_t *messages,
                          uint32_t max_tokens)
{
    json_t *root = json_pack("{s:s, s:O, s:b, s:{s:b}, s:i, s:i}", "model", t->model, "messages",
                             messages, "stream", 1, "stream_options", "include_usage", 1,
                             "max_tokens", (int)max_tokens, "temperature", 0);
    /* Answers of equal length, where the server knows how; others ignore it or stop earlier. */
    json_object_set_new(root, "ignore_eos", json_true());
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static enum status start(void *context, struct load_run *run, uint32_t user, const json_t *messages,
                         uint32_t max_tokens, struct error *err)
{
    struct http_transport *t = context;
    struct exchange *x = calloc(1, sizeof *x);
    if (!x)
        return error_set(err, STATUS_MEMORY, "out of memory");
    *x = (struct exchange){.transport = t, .run = run, .user = user};
    t->exchanges[user] = x;
    x->body = request_body(t, messages, max_tokens);
    x->easy = curl_easy_init();
    if (!x->body || !x->easy) {
        exchange_free(x);
        return error_set(err, STATUS_MEMORY, "out of memory");
    }
    curl_easy_setopt(x->easy, CURLOPT_URL, t->url);
    curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, x->body);
    curl_easy_setopt(x->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(x->easy, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(x->easy, CURLOPT_PRIVATE, x);
    curl_easy_setopt(x->easy, CURLOPT_TIMEOUT, (long)t->timeout_seconds);
    curl_easy_setopt(x->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(x->easy, CURLOPT_TCP_NODELAY, 1L);
    if (curl_multi_add_handle(t->multi, x->easy) == CURLM_OK)
        return STATUS_OK;
    exchange_free(x);
    return error_set(err, STATUS_NETWORK, "cannot start a request");
}

static const char *why(CURLcode code)
{
    return code == CURLE_PARTIAL_FILE || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR
               ? "the server closed the connection before its answer was complete"
               : curl_easy_strerror(code);
}

/* What an answer that is none says: its error's message, or how it begins, on one line. */
static void describe_page(const struct buf *page, long status, char *out, size_t size)
{
    json_t *root = NULL;
    json_parse(buf_str(page), JSON_DEPTH_DEFAULT, "answer", &root, NULL);
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    message = message ? message : json_string_value(error);
    int n = snprintf(out, size, "HTTP %ld: ", status);
    if (message) {
        snprintf(out + n, size - (size_t)n, "%.140s", message);
    } else {
        size_t used = (size_t)n;
        for (size_t i = 0; i < page->len && used + 1 < size && used < 80; i++) {
            bool space = page->data[i] == ' ' || (page->data[i] >= '\t' && page->data[i] <= '\r');
            if (!space || out[used - 1] != ' ')
                out[used++] = space ? ' ' : page->data[i];
        }
        out[used] = 0;
    }
    json_decref(root);
}

static void finish(struct exchange *x, CURLcode code)
{
    char problem[160] = "";
    long status = 0;
    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK) {
        snprintf(problem, sizeof problem, "%s", why(code));
    } else if (status != 200) {
        describe_page(&x->page, status, problem, sizeof problem);
    } else if (x->problem[0]) {
        snprintf(problem, sizeof problem, "%s", x->problem);
    } else if (!x->done) {
        snprintf(problem, sizeof problem, "the stream ended without [DONE]");
    }
    load_done(x->run, x->user, x->has_usage ? &x->usage : NULL, problem);
}

static void wait_for(void *context, struct load_run *run, int timeout_ms)
{
    struct http_transport *t = context;
    int running, left;
    (void)run;
    curl_multi_perform(t->multi, &running);
    curl_multi_poll(t->multi, NULL, 0, timeout_ms, NULL);
    curl_multi_perform(t->multi, &running);
    for (CURLMsg *message; (message = curl_multi_info_read(t->multi, &left));) {
        struct exchange *x = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&x);
        finish(x, message->data.result);
        exchange_free(x);
    }
}

static void leave(void *context, uint32_t user)
{
    struct http_transport *t = context;
    exchange_free(t->exchanges[user]);
}

static void close_transport(void *context)
{
    struct http_transport *t = context;
    for (size_t i = 0; i < LOAD_USERS_MAX; i++)
        exchange_free(t->exchanges[i]);
    curl_slist_free_all(t->headers);
    curl_multi_cleanup(t->multi);
    free(t);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static size_t on_page(char *data, size_t size, size_t n, void *context)
{
    struct buf *page = context;
    buf_append(page, data, size * n);
    return page->len < PAGE_BYTES_MAX ? size * n : 0;
}

/* The first model that the server lists. */
static enum status find_model(struct http_transport *t, const char *base, struct error *err)
{
    char url[512], says[160];
    struct buf page = {0};
    json_t *root = NULL;
    long answered = 0;
    CURL *easy = curl_easy_init();
    snprintf(url, sizeof url, "%s/models", base);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_page);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &page);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT, 20L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    CURLcode code = curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answered);
    curl_easy_cleanup(easy);
    enum status status = STATUS_OK;
    describe_page(&page, answered, says, sizeof says);
    if (code == CURLE_OPERATION_TIMEDOUT)
        status = error_set(err, STATUS_NETWORK, "%s: no answer within 20 s", url);
    else if (code != CURLE_OK)
        status = error_set(err, STATUS_NETWORK, "%s: %s", url, why(code));
    else if (answered == 401 || answered == 403)
        status = error_set(err, STATUS_NETWORK, "%s: %s (--api-key gives a key)", url, says);
    else if (answered != 200 ||
             json_parse(buf_str(&page), JSON_DEPTH_DEFAULT, url, &root, NULL) != STATUS_OK)
        status =
            error_set(err, STATUS_NETWORK,
                      "%s: this is no OpenAI-compatible server, or not its address: %s", url, says);
    const char *id =
        json_string_value(json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
    if (status == STATUS_OK && !id)
        status =
            error_set(err, STATUS_NETWORK, "%s names no model: give one with --model-name", url);
    if (status == STATUS_OK)
        snprintf(t->model, sizeof t->model, "%s", id);
    json_decref(root);
    buf_release(&page);
    return status;
}

static void set_headers(struct http_transport *t, const char *key)
{
    t->headers = curl_slist_append(NULL, "Content-Type: application/json");
    t->headers = curl_slist_append(t->headers, "Expect:");
    if (key) {
        char line[600];
        snprintf(line, sizeof line, "Authorization: Bearer %.500s", key);
        t->headers = curl_slist_append(t->headers, line);
    }
}

/* "host:port", with or without http://, /v1, or the route itself -> "http://host:port/v1" */
static enum status base_of(const char *given, char base[400], struct error *err)
{
    static const char *const tails[] = {"/", "/chat/completions", "/completions", "/models"};
    const char *scheme = strstr(given, "://");
    const char *host = scheme ? scheme + 3 : given;
    bool known = !scheme || strncmp(given, "http://", 7) == 0 || strncmp(given, "https://", 8) == 0;
    if (!known || !*host || *host == '/' || *host == ':' || strlen(given) > 380)
        return error_set(err, STATUS_USAGE,
                         "--url %.100s: expected host:port or http://host:port/v1", given);
    snprintf(base, 400, "%s%s", scheme ? "" : "http://", given);
    size_t n = strlen(base);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t tail = strlen(tails[i]);
        while (n > tail && strcmp(base + n - tail, tails[i]) == 0)
            base[n -= tail] = 0;
    }
    if (n < 3 || strcmp(base + n - 3, "/v1") != 0)
        snprintf(base + n, 400 - n, "/v1");
    return STATUS_OK;
}

enum status load_http_open(const struct load_config *config, struct load_transport *out,
                           char *model, size_t model_size, struct error *err)
{
    static bool initialized;
    char base[400];
    if (base_of(config->url, base, err) != STATUS_OK)
        return err->status;
    struct http_transport *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, STATUS_MEMORY, "out of memory");
    if (!initialized)
        curl_global_init(CURL_GLOBAL_DEFAULT);
    initialized = true;
    snprintf(t->url, sizeof t->url, "%s/chat/completions", base);
    t->timeout_seconds = config->timeout_seconds ? config->timeout_seconds : 600;
    t->multi = curl_multi_init();
    set_headers(t, config->api_key);
    enum status status = STATUS_OK;
    if (config->model_name)
        snprintf(t->model, sizeof t->model, "%s", config->model_name);
    else
        status = find_model(t, base, err);
    if (status != STATUS_OK) {
        close_transport(t);
        return status;
    }
    snprintf(model, model_size, "%s", t->model);
    *out = (struct load_transport){t, start, wait_for, leave, close_transport};
    return STATUS_OK;
}
