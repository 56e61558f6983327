/* Routes that need no engine, or only its tables: answered on the transport's thread. */
#include <string.h>

#include "base/clock.h"
#include "server/internal.h"

static void answer_json(struct http_exchange *exchange, struct buf *body)
{
    http_answer(exchange, body->failed ? 500 : 200, "application/json", buf_str(body));
    buf_release(body);
}

/* False when answers are in the batch and no step has ended for a long time. */
static bool makes_progress(struct server *server)
{
    sluice_stats stats;
    uint64_t now = clock_now_ns();
    sluice_engine_stats(server->options.engine, &stats);
    pthread_mutex_lock(&server->jobs_lock);
    if (stats.steps != server->seen_steps || stats.running == 0 || !server->seen_ns) {
        server->seen_steps = stats.steps;
        server->seen_ns = now;
    }
    bool moves = now - server->seen_ns < STUCK_NS;
    pthread_mutex_unlock(&server->jobs_lock);
    return moves;
}

void view_health(struct server *server, struct http_exchange *exchange)
{
    if (makes_progress(server))
        http_answer(exchange, 200, "application/json", STR_LIT("{\"status\":\"ok\"}"));
    else
        http_answer(exchange, 503, "application/json", STR_LIT("{\"status\":\"stuck\"}"));
}

/* Not while it drains: a load balancer then sends new work elsewhere. */
void view_ready(struct server *server, struct http_exchange *exchange)
{
    if (atomic_load(&server->draining))
        http_answer(exchange, 503, "application/json", STR_LIT("{\"status\":\"draining\"}"));
    else
        http_answer(exchange, 200, "application/json", STR_LIT("{\"status\":\"ready\"}"));
}

void view_metrics(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    sluice_stats stats;
    sluice_engine_stats(server->options.engine, &stats);
    metrics_write(&server->metrics, jobs_count(server), &server->info, &stats, &out);
    http_answer(exchange, 200, "text/plain; version=0.0.4", buf_str(&out));
    buf_release(&out);
}

static void write_model(const struct server *server, const char *name, struct buf *out)
{
    buf_append_cstr(out, "{\"id\":");
    json_write_string(out, str_from(name));
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"sluice\",",
               (long long)server->started);
    buf_printf(out,
               "\"meta\":{\"n_vocab\":%u,\"n_ctx\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,"
               "\"n_params\":%llu,\"size\":%llu,\"architecture\":",
               server->info.n_vocab, server->info.n_context, server->info.n_context_train,
               server->info.n_embedding, (unsigned long long)server->info.n_parameters,
               (unsigned long long)server->info.weight_bytes);
    json_write_string(out, str_from(server->info.architecture));
    buf_append_cstr(out, "}}");
}

void view_models(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    buf_append_cstr(&out, "{\"object\":\"list\",\"data\":[");
    write_model(server, server->options.model_name, &out);
    for (size_t i = 0; i < server->options.n_aliases; i++) {
        const char *alias = server->options.aliases[i];
        if (strcmp(alias, "*") == 0 || strcmp(alias, server->options.model_name) == 0)
            continue;
        buf_append_char(&out, ',');
        write_model(server, alias, &out);
    }
    buf_append_cstr(&out, "]}");
    answer_json(exchange, &out);
}

void view_model(struct server *server, struct http_exchange *exchange)
{
    const char *name = http_path(exchange) + strlen("/v1/models/");
    struct buf out = {0};
    if (server_knows_model(server, name)) {
        write_model(server, name, &out);
        answer_json(exchange, &out);
        return;
    }
    struct api_error error;
    api_fail(&error, 404, "invalid_request_error", "model_not_found",
             "the model '%.128s' is not served here", name);
    memcpy(error.param, "model", sizeof "model");
    server_answer_error(exchange, NULL, &error);
}

void view_status(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    buf_append_cstr(&out, "{\"version\":");
    json_write_string(&out, str_from(sluice_version()));
    buf_append_cstr(&out, ",\"model\":");
    json_write_string(&out, str_from(server->options.model_name));
    buf_append_cstr(&out, ",\"backend\":");
    json_write_string(&out, str_from(server->info.backend));
    buf_append_cstr(&out, ",\"device\":");
    json_write_string(&out, str_from(server->info.device));
    sluice_stats stats;
    sluice_engine_stats(server->options.engine, &stats);
    buf_printf(&out,
               ",\"running\":%u,\"waiting\":%u,\"kv_pages\":%u,\"kv_pages_used\":%u,"
               "\"kv_pages_cached\":%u",
               stats.running, stats.waiting, stats.pages_total, stats.pages_used,
               stats.pages_cached);
    buf_printf(&out, ",\"draining\":%s,\"connections_active\":%zu,\"requests\":",
               atomic_load(&server->draining) ? "true" : "false", http_server_active(server->http));
    jobs_describe(server, &out);
    buf_append_char(&out, '}');
    answer_json(exchange, &out);
}

static void answer(struct http_exchange *exchange, bool ok, struct buf *out,
                   const struct api_error *error)
{
    if (ok) {
        answer_json(exchange, out);
        return;
    }
    buf_release(out);
    server_answer_error(exchange, NULL, error);
}

void view_tokenize(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    struct api_error error;
    bool ok = api_tokenize(server->options.engine, http_body(exchange), &out, &error);
    answer(exchange, ok, &out, &error);
}

void view_detokenize(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    struct api_error error;
    bool ok = api_detokenize(server->options.engine, http_body(exchange), &out, &error);
    answer(exchange, ok, &out, &error);
}

void view_template(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    struct api_error error;
    bool ok = api_apply_template(server->options.engine, http_body(exchange), &out, &error);
    answer(exchange, ok, &out, &error);
}

void view_cancel(struct server *server, struct http_exchange *exchange)
{
    struct api_error error;
    struct str path = str_from(http_path(exchange));
    const size_t head = strlen("/v1/requests/"), tail = strlen("/cancel");
    char id[64];
    if (path.len > head + tail && path.len - head - tail < sizeof id &&
        str_ends(path, STR_LIT("/cancel"))) {
        size_t n = path.len - head - tail;
        memcpy(id, path.data + head, n);
        id[n] = 0;
        if (jobs_cancel(server, id)) {
            http_answer(exchange, 200, "application/json", STR_LIT("{\"cancelled\":true}"));
            return;
        }
    }
    api_fail(&error, 404, "invalid_request_error", "not_found",
             "no request of this id is in work: POST /v1/requests/ID/cancel takes the id of an "
             "answer that still runs");
    server_answer_error(exchange, NULL, &error);
}
