/*
 * What a request must get past before anybody reads its body: drain, Host and Origin, the key, the
 * route and its methods. Then the body goes to a job or a view.
 *
 * A browser page on another site must not reach a server on the user's machine: its requests carry
 * its own Origin, or after DNS rebinding its own name in Host. Loopback and container-internal names
 * always pass; with a key set the key protects, and only Origin is looked at.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "server/internal.h"

typedef void (*view_fn)(struct server *, struct http_exchange *);

struct route {
    const char *method;
    const char *path;                  /* a trailing * matches the rest */
    view_fn view;                      /* or */
    const struct api_dialect *dialect; /* or */
    utility_fn utility;
    bool open; /* needs no key */
};

static const struct route routes[] = {
    {"GET", "/health", view_health, NULL, NULL, true},
    {"GET", "/ready", view_ready, NULL, NULL, true},
    {"GET", "/metrics", view_metrics, NULL, NULL, false},
    {"GET", "/status", view_status, NULL, NULL, false},
    {"GET", "/v1/models", view_models, NULL, NULL, false},
    {"GET", "/v1/models/*", view_model, NULL, NULL, false},
    {"POST", "/v1/chat/completions", NULL, &api_openai_chat, NULL, false},
    {"POST", "/v1/completions", NULL, &api_openai_completions, NULL, false},
    {"POST", "/v1/requests/*", view_cancel, NULL, NULL, false},
    {"POST", "/v1/embeddings", NULL, &api_openai_embeddings, NULL, false},
    {"POST", "/apply-template", NULL, NULL, api_apply_template, false},
    {"POST", "/tokenize", NULL, NULL, api_tokenize, false},
    {"POST", "/detokenize", NULL, NULL, api_detokenize, false},
};
#define N_ROUTES (sizeof routes / sizeof *routes)

/* ---- errors ----------------------------------------------------------------------------------- */

void server_answer_error(struct http_exchange *exchange, const struct api_dialect *dialect,
                         const struct api_error *error)
{
    struct buf body = {0};
    if (error->retry_after) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%u", error->retry_after);
        http_add_header(exchange, "Retry-After", seconds);
    }
    if (!dialect)
        dialect = &api_openai_chat;
    dialect->error_body(error, &body);
    http_answer(exchange, error->status, "application/json", buf_str(&body));
    buf_release(&body);
}

/* ---- routes ----------------------------------------------------------------------------------- */

static bool path_matches(const struct route *route, const char *path)
{
    size_t n = strlen(route->path);
    if (route->path[n - 1] == '*')
        return strncmp(route->path, path, n - 1) == 0 && path[n - 1];
    return strcmp(route->path, path) == 0;
}

static bool method_matches(const struct route *route, const char *method)
{
    return strcmp(route->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0);
}

/* NULL: no such route; then `allow` has the methods that the path does have ("" for none). */
static const struct route *find_route(const char *method, const char *path, char *allow,
                                      size_t size)
{
    size_t used = 0;
    allow[0] = 0;
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (!path_matches(&routes[i], path))
            continue;
        if (method_matches(&routes[i], method))
            return &routes[i];
        int n = snprintf(allow + used, size - used, "%s%s", used ? ", " : "", routes[i].method);
        used += n > 0 ? (size_t)n : 0;
    }
    return NULL;
}

/* For a path that does not exist: what its client may have meant; "" where nobody can tell. */
static void guess_route(const char *method, const char *path, char *out, size_t size)
{
    char with_version[256], allow[64];
    snprintf(with_version, sizeof with_version, "/v1%.200s", path);
    const char *meant = strncmp(path, "/v1/v1/", 7) == 0 ? path + 3 : with_version;
    if (find_route(method, meant, allow, sizeof allow) || allow[0])
        snprintf(out, size, ": did you mean %.200s? A client's base URL ends in /v1", meant);
    else if (strncmp(path, "/api/", 5) == 0)
        snprintf(out, size, ": this version speaks the OpenAI API (/v1), not Ollama's");
    else if (strcmp(path, "/") == 0)
        snprintf(out, size,
                 ": this is an OpenAI-compatible server; GET /v1/models lists its "
                 "models, POST /v1/chat/completions answers");
    else
        snprintf(out, size, "%s", "");
}

/* ---- Host and Origin -------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *tail)
{
    size_t n = strlen(text), m = strlen(tail);
    return n > m && strcasecmp(text + n - m, tail) == 0;
}

/* "host:port", "[v6]:port" -> the host without brackets; false if it is too long. */
static bool host_name(const char *text, char *out, size_t size)
{
    const char *end = text + strcspn(text, "/");
    const char *colon = NULL;
    if (*text == '[') {
        const char *bracket = memchr(text, ']', (size_t)(end - text));
        if (!bracket)
            return false;
        text++;
        end = bracket;
    } else {
        colon = memchr(text, ':', (size_t)(end - text));
    }
    size_t n = (size_t)((colon ? colon : end) - text);
    if (n == 0 || n >= size)
        return false;
    memcpy(out, text, n);
    out[n] = 0;
    return true;
}

static bool is_loopback_address(const char *host)
{
    return strcmp(host, "::1") == 0 ||
           (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
}

/* An address instead of a name cannot be the result of DNS rebinding. */
static bool is_served_address(const struct server *server, const char *host)
{
    bool literal = strspn(host, "0123456789.") == strlen(host) || strchr(host, ':');
    for (size_t i = 0; literal && i < server->options.n_addresses; i++)
        if (!server->options.addresses[i].loopback)
            return true;
    return false;
}

static bool host_allowed(const struct server *server, const char *host)
{
    if (strcasecmp(host, "localhost") == 0 || is_loopback_address(host) ||
        ends_with(host, ".localhost") || ends_with(host, ".local") || ends_with(host, ".internal"))
        return true;
    for (size_t i = 0; i < server->options.n_allowed_hosts; i++)
        if (strcmp(server->options.allowed_hosts[i], "*") == 0 ||
            strcasecmp(server->options.allowed_hosts[i], host) == 0)
            return true;
    return is_served_address(server, host);
}

static bool check_host(struct server *server, struct http_exchange *exchange,
                       struct api_error *error)
{
    char name[256];
    const char *host = http_header(exchange, "Host");
    if (!host || server->options.n_api_keys)
        return true;
    if (host_name(host, name, sizeof name) && host_allowed(server, name))
        return true;
    return api_fail(error, 403, "invalid_request_error", "host_not_allowed",
                    "this server does not answer to the host name '%.128s': start it with "
                    "--allow-host NAME to allow one",
                    host);
}

/* A page that may ask gets the header that lets it read the answer. */
static bool check_origin(struct server *server, struct http_exchange *exchange,
                         struct api_error *error)
{
    char name[256];
    const char *origin = http_header(exchange, "Origin");
    if (!origin)
        return true;
    const char *host = strstr(origin, "://");
    if (host && host_name(host + 3, name, sizeof name) && host_allowed(server, name) &&
        strlen(origin) < 300) {
        http_add_header(exchange, "Access-Control-Allow-Origin", origin);
        http_add_header(exchange, "Vary", "Origin");
        return true;
    }
    return api_fail(error, 403, "invalid_request_error", "origin_not_allowed",
                    "pages from '%.128s' may not use this server: start it with --allow-host NAME "
                    "to allow them",
                    origin);
}

/* ---- keys ------------------------------------------------------------------------------------- */

/* Takes a time that depends on the lengths only. */
static bool same_secret(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    volatile unsigned char difference = (unsigned char)(n != m);
    for (size_t i = 0; i < n; i++)
        difference |= (unsigned char)(a[i] ^ (m ? b[i % m] : 0));
    return difference == 0;
}

static const char *given_key(struct http_exchange *exchange)
{
    const char *authorization = http_header(exchange, "Authorization");
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        return authorization + 7 + strspn(authorization + 7, " ");
    return http_header(exchange, "x-api-key");
}

const char *server_key_of(struct server *server, struct http_exchange *exchange)
{
    const char *given = given_key(exchange), *found = NULL;
    for (size_t i = 0; given && i < server->options.n_api_keys; i++)
        if (same_secret(given, server->options.api_keys[i]))
            found = server->options.api_keys[i];
    return found;
}

static bool check_key(struct server *server, struct http_exchange *exchange,
                      struct api_error *error)
{
    if (server->options.n_api_keys == 0 || server_key_of(server, exchange))
        return true;
    http_add_header(exchange, "WWW-Authenticate", "Bearer");
    return api_fail(error, 401, "invalid_request_error", "invalid_api_key",
                    given_key(exchange) ? "this API key is not valid here"
                                        : "an API key is needed: send 'Authorization: Bearer KEY'");
}

/* ---- callbacks -------------------------------------------------------------------------------- */

/* A browser's question whether it may ask; it carries no key. */
static void answer_preflight(struct http_exchange *exchange)
{
    http_add_header(exchange, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    http_add_header(exchange, "Access-Control-Allow-Headers",
                    "authorization, content-type, x-api-key, x-stainless-os, x-stainless-lang, "
                    "x-stainless-package-version, x-stainless-runtime, "
                    "x-stainless-runtime-version, x-stainless-arch, x-stainless-retry-count, "
                    "x-stainless-timeout, anthropic-version");
    http_add_header(exchange, "Access-Control-Max-Age", "600");
    http_answer(exchange, 204, NULL, STR_LIT(""));
}

static bool admit(struct server *server, struct http_exchange *exchange, struct api_error *error)
{
    char allow[64];
    const char *method = http_method(exchange);
    const struct route *route = find_route(method, http_path(exchange), allow, sizeof allow);
    bool open = route && route->open;
    if (!open && !check_host(server, exchange, error))
        return false;
    if (!open && !check_origin(server, exchange, error))
        return false;
    if (strcmp(method, "OPTIONS") == 0 && http_header(exchange, "Origin")) {
        answer_preflight(exchange);
        return true;
    }
    if (!open && !check_key(server, exchange, error))
        return false;
    if (!route && allow[0]) {
        http_add_header(exchange, "Allow", allow);
        return api_fail(error, 405, "invalid_request_error", "method_not_allowed",
                        "%.16s is not a method of %.128s: use %s", method, http_path(exchange),
                        allow);
    }
    if (!route) {
        char guess[300];
        guess_route(method, http_path(exchange), guess, sizeof guess);
        return api_fail(error, 404, "invalid_request_error", "not_found",
                        "there is no route %.16s %.128s%s", method, http_path(exchange), guess);
    }
    if (atomic_load(&server->draining) && !open) {
        http_close_after(exchange);
        api_fail(error, 503, "server_error", "shutting_down", "the server is shutting down");
        error->retry_after = 5;
        return false;
    }
    return true;
}

static void on_headers(void *context, struct http_exchange *exchange)
{
    struct api_error error;
    if (!admit(context, exchange, &error)) {
        log_info("%s %s %s %u %s", http_peer(exchange), http_method(exchange), http_path(exchange),
                 error.status, error.code);
        server_answer_error(exchange, NULL, &error);
    }
}

static void on_request(void *context, struct http_exchange *exchange)
{
    char allow[64];
    const struct route *route =
        find_route(http_method(exchange), http_path(exchange), allow, sizeof allow);
    if (route->view)
        route->view(context, exchange);
    else
        jobs_enqueue(context, exchange, route->dialect, route->utility);
}

static void on_left(void *context, struct http_exchange *exchange)
{
    jobs_left(context, exchange);
}

static void on_finished(void *context, struct http_exchange *exchange, enum http_end end)
{
    if (end == HTTP_LEFT)
        jobs_left(context, exchange);
    http_release(exchange);
}

static void on_refusal(void *context, struct http_exchange *exchange, unsigned status,
                       const char *message)
{
    struct api_error error;
    (void)context;
    api_fail(&error, status, "invalid_request_error", "", "%s", message);
    server_answer_error(exchange, NULL, &error);
}

const struct http_callbacks server_callbacks = {
    .headers = on_headers,
    .request = on_request,
    .left = on_left,
    .finished = on_finished,
    .refusal = on_refusal,
};
