/* The engine in this process as a transport: the same users without HTTP and JSON in between. */
#include <pthread.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/wait.h"
#include "bench/load.h"

struct engine_transport {
    sluice_engine *engine;
    sluice_wakeups *wakeups;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool news;
    sluice_request *requests[LOAD_USERS_MAX];
};

static void on_wake(void *context)
{
    struct engine_transport *t = context;
    pthread_mutex_lock(&t->lock);
    t->news = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static sluice_tool_call *convert_calls(const json_t *list, struct arena *arena, size_t *n)
{
    *n = json_array_size(list);
    sluice_tool_call *calls = *n ? arena_alloc(arena, *n, sizeof *calls) : NULL;
    for (size_t i = 0; calls && i < *n; i++) {
        const json_t *call = json_array_get(list, i), *function = json_object_get(call, "function");
        calls[i] = (sluice_tool_call){.id = text_of(call, "id"),
                                      .name = text_of(function, "name"),
                                      .arguments = text_of(function, "arguments")};
    }
    return calls;
}

static enum status start(void *context, struct load_run *run, uint32_t user, const json_t *messages,
                         uint32_t max_tokens, struct error *err)
{
    struct engine_transport *t = context;
    struct arena arena;
    sluice_error error;
    (void)run;
    arena_init(&arena, 0);
    size_t n = json_array_size(messages);
    sluice_message *list = arena_alloc(&arena, n, sizeof *list);
    for (size_t i = 0; list && i < n; i++) {
        const json_t *m = json_array_get(messages, i);
        list[i] = (sluice_message){.role = text_of(m, "role"),
                                   .content = text_of(m, "content"),
                                   .tool_call_id = text_of(m, "tool_call_id"),
                                   .name = text_of(m, "name")};
        list[i].tool_calls =
            convert_calls(json_object_get(m, "tool_calls"), &arena, &list[i].n_tool_calls);
    }
    sluice_request_options options = {
        .messages = list,
        .n_messages = n,
        .max_tokens = max_tokens,
        .sampling = {.set = SLUICE_SET_TEMPERATURE},
        .ignore_end = true,
        .report_silent = true,
        .wakeups = t->wakeups,
        .user = (void *)(uintptr_t)user,
    };
    enum status status = STATUS_OK;
    if (!list || sluice_submit(t->engine, &options, &t->requests[user], &error) != SLUICE_OK)
        status = error_set(err, STATUS_LIMIT, "%s", list ? error.message : "out of memory");
    arena_release(&arena);
    return status;
}

static void take(struct engine_transport *t, struct load_run *run, uint32_t user)
{
    sluice_event event;
    while (t->requests[user] && sluice_request_next(t->requests[user], &event, 0)) {
        if (event.kind == SLUICE_EVENT_TEXT || event.kind == SLUICE_EVENT_REASONING)
            load_text(run, user, (struct str){event.text, event.length});
        else if (event.kind == SLUICE_EVENT_TOOL_CALL)
            load_text(run, user, str_from(event.tool_call.arguments));
        if (event.kind != SLUICE_EVENT_DONE && event.kind != SLUICE_EVENT_ERROR)
            continue;
        bool good = event.kind == SLUICE_EVENT_DONE;
        load_done(run, user, good ? &event.usage : NULL, good ? "" : event.error.message);
        sluice_request_free(t->requests[user]);
        t->requests[user] = NULL;
    }
}

static void wait_for(void *context, struct load_run *run, int timeout_ms)
{
    struct engine_transport *t = context;
    uint64_t until = clock_now_ns() + (uint64_t)timeout_ms * 1000000u;
    pthread_mutex_lock(&t->lock);
    if (!t->news)
        cond_wait_until(&t->wake, &t->lock, until);
    t->news = false;
    pthread_mutex_unlock(&t->lock);
    sluice_request *batch[64];
    for (size_t n; (n = sluice_wakeups_take(t->wakeups, batch, 64)) > 0;) {
        uint32_t users[64];
        for (size_t i = 0; i < n; i++)
            users[i] = (uint32_t)(uintptr_t)sluice_request_user(batch[i]);
        for (size_t i = 0; i < n; i++)
            take(t, run, users[i]);
    }
}

static void leave(void *context, uint32_t user)
{
    struct engine_transport *t = context;
    sluice_request_free(t->requests[user]);
    t->requests[user] = NULL;
}

static void close_transport(void *context)
{
    struct engine_transport *t = context;
    for (size_t i = 0; i < LOAD_USERS_MAX; i++)
        sluice_request_free(t->requests[i]);
    sluice_wakeups_free(t->wakeups);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

enum status load_engine_open(const struct load_config *config, struct load_transport *out,
                             char *model, size_t model_size, struct error *err)
{
    struct engine_transport *t = calloc(1, sizeof *t);
    sluice_error error;
    if (!t)
        return error_set(err, STATUS_MEMORY, "out of memory");
    t->engine = config->engine;
    pthread_mutex_init(&t->lock, NULL);
    cond_init(&t->wake);
    if (sluice_wakeups_create(on_wake, t, &t->wakeups, &error) != SLUICE_OK) {
        close_transport(t);
        return error_set(err, STATUS_MEMORY, "%s", error.message);
    }
    sluice_model_info info;
    sluice_engine_info(t->engine, &info);
    size_t n = strnlen(info.name, model_size - 1);
    memcpy(model, info.name, n);
    model[n] = 0;
    *out = (struct load_transport){t, start, wait_for, leave, close_transport};
    return STATUS_OK;
}
