/* Routes that need no engine: answered on the transport's thread. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "server/internal.h"

static void answer_json(struct http_exchange *exchange, struct buf *body)
{
    http_answer(exchange, body->failed ? 500 : 200, "application/json", buf_str(body));
    buf_release(body);
}

/* False when answers are in a model's batch and no step has ended for a long time. */
static bool makes_progress(struct server *server, struct served *served, uint64_t now)
{
    sluice_stats stats = {0}; /* of one that is not loaded: nothing runs */
    sluice_models_look(server->options.models, served->name, NULL, &stats);
    pthread_mutex_lock(&server->jobs_lock);
    if (stats.steps != served->seen_steps || stats.running == 0 || !served->seen_ns) {
        served->seen_steps = stats.steps;
        served->seen_ns = now;
    }
    bool moves = now - served->seen_ns < STUCK_NS;
    pthread_mutex_unlock(&server->jobs_lock);
    return moves;
}

void view_health(struct server *server, struct http_exchange *exchange)
{
    uint64_t now = clock_now_ns();
    bool well = true;
    for (size_t i = 0; i < server->n_served; i++)
        well = makes_progress(server, &server->served[i], now) && well;
    if (well)
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

/* The entries of the set, [n_served]; NULL without memory. The caller frees them. */
static sluice_model_entry *list_models(const struct server *server)
{
    sluice_model_entry *entries = calloc(server->n_served, sizeof *entries);
    if (entries)
        sluice_models_list(server->options.models, entries, server->n_served);
    return entries;
}

void view_metrics(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    struct metrics_model *models = calloc(server->n_served, sizeof *models);
    size_t n = 0;
    for (size_t i = 0; models && i < server->n_served; i++) {
        models[n].name = server->served[i].name;
        n += sluice_models_look(server->options.models, models[n].name, &models[n].info,
                                &models[n].stats);
    }
    metrics_write(&server->metrics, jobs_count(server), models, n, &out);
    free(models);
    http_answer(exchange, 200, "text/plain; version=0.0.4", buf_str(&out));
    buf_release(&out);
}

static const char *state_name(sluice_model_state state)
{
    return state == SLUICE_MODEL_LOADED    ? "loaded"
           : state == SLUICE_MODEL_LOADING ? "loading"
                                           : "unloaded";
}

/* id: its name, or an alias. What only a loaded model tells is in `meta`. */
static void write_model(const struct server *server, const char *id,
                        const sluice_model_entry *entry, struct buf *out)
{
    sluice_model_info info;
    buf_append_cstr(out, "{\"id\":");
    json_write_string(out, str_from(id));
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"sluice\",",
               (long long)server->started);
    buf_printf(out, "\"state\":\"%s\",", state_name(entry->state));
    if (entry->state == SLUICE_MODEL_LOADING)
        buf_printf(out, "\"progress\":%.3f,", entry->progress);
    if (!sluice_models_look(server->options.models, entry->name, &info, NULL)) {
        buf_append_cstr(out, "\"meta\":null}");
        return;
    }
    buf_printf(out,
               "\"meta\":{\"n_vocab\":%u,\"n_ctx\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,"
               "\"n_params\":%llu,\"size\":%llu,\"architecture\":",
               info.n_vocab, info.n_context, info.n_context_train, info.n_embedding,
               (unsigned long long)info.n_parameters, (unsigned long long)info.weight_bytes);
    json_write_string(out, str_from(info.architecture));
    buf_append_cstr(out, "}}");
}

static const sluice_model_entry *entry_of(const struct server *server,
                                          const sluice_model_entry *entries, const char *name)
{
    for (size_t i = 0; i < server->n_served; i++)
        if (strcmp(entries[i].name, name) == 0)
            return &entries[i];
    return NULL;
}

static void answer_no_memory(struct http_exchange *exchange)
{
    struct api_error error;
    api_fail(&error, 503, "server_error", "out_of_memory", "out of memory");
    server_answer_error(exchange, NULL, &error);
}

void view_models(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    sluice_model_entry *entries = list_models(server);
    if (!entries) {
        answer_no_memory(exchange);
        return;
    }
    buf_append_cstr(&out, "{\"object\":\"list\",\"data\":[");
    /* The default one first: clients that take the first one get what they get without a name. */
    write_model(server, server->options.model_name,
                entry_of(server, entries, names_find(server, "", NULL)), &out);
    for (size_t i = 0; i < server->n_served; i++) {
        if (strcmp(entries[i].name, server->options.model_name) == 0)
            continue;
        buf_append_char(&out, ',');
        write_model(server, entries[i].name, &entries[i], &out);
    }
    for (size_t i = 0; i < server->options.n_aliases; i++) {
        const char *alias = server->options.aliases[i].name;
        const char *name = names_find(server, alias, NULL);
        if (strcmp(alias, "*") == 0 || strcmp(alias, name) == 0)
            continue;
        buf_append_char(&out, ',');
        write_model(server, alias, entry_of(server, entries, name), &out);
    }
    buf_append_cstr(&out, "]}");
    free(entries);
    answer_json(exchange, &out);
}

void view_model(struct server *server, struct http_exchange *exchange)
{
    const char *id = http_path(exchange) + strlen("/v1/models/");
    struct buf out = {0};
    struct api_error error;
    const char *name = names_find(server, id, &error);
    sluice_model_entry *entries = name ? list_models(server) : NULL;
    if (entries) {
        write_model(server, id, entry_of(server, entries, name), &out);
        answer_json(exchange, &out);
    } else if (name) {
        answer_no_memory(exchange);
    } else {
        server_answer_error(exchange, NULL, &error);
    }
    free(entries);
}

static void write_status(const struct server *server, const sluice_model_entry *entry,
                         struct buf *out)
{
    sluice_model_info info;
    sluice_stats stats;
    buf_append_cstr(out, "{\"name\":");
    json_write_string(out, str_from(entry->name));
    buf_printf(out,
               ",\"state\":\"%s\",\"progress\":%.3f,\"requests\":%u,\"bytes\":%llu,"
               "\"expires_seconds\":%.3f",
               state_name(entry->state),
               entry->state == SLUICE_MODEL_LOADED ? 1.0 : entry->progress, entry->holders,
               (unsigned long long)entry->bytes,
               entry->expires_ms < 0 ? -1.0 : (double)entry->expires_ms * 1e-3);
    if (sluice_models_look(server->options.models, entry->name, &info, &stats)) {
        buf_append_cstr(out, ",\"backend\":");
        json_write_string(out, str_from(info.backend));
        buf_append_cstr(out, ",\"device\":");
        json_write_string(out, str_from(info.device));
        buf_printf(out,
                   ",\"running\":%u,\"waiting\":%u,\"kv_pages\":%u,\"kv_pages_used\":%u,"
                   "\"kv_pages_cached\":%u",
                   stats.running, stats.waiting, stats.pages_total, stats.pages_used,
                   stats.pages_cached);
    }
    buf_append_char(out, '}');
}

void view_status(struct server *server, struct http_exchange *exchange)
{
    struct buf out = {0};
    sluice_model_entry *entries = list_models(server);
    if (!entries) {
        answer_no_memory(exchange);
        return;
    }
    buf_append_cstr(&out, "{\"version\":");
    json_write_string(&out, str_from(sluice_version()));
    buf_printf(&out, ",\"draining\":%s,\"connections_active\":%zu,\"models\":[",
               atomic_load(&server->draining) ? "true" : "false", http_server_active(server->http));
    for (size_t i = 0; i < server->n_served; i++) {
        if (i)
            buf_append_char(&out, ',');
        write_status(server, &entries[i], &out);
    }
    buf_append_cstr(&out, "],\"requests\":");
    jobs_describe(server, &out);
    buf_append_char(&out, '}');
    free(entries);
    answer_json(exchange, &out);
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
