/*
 * Request bodies of the OpenAI dialect: the first byte chooses the route, the rest is the body. What
 * is accepted must hold together: choices within their limit, lists with their counts.
 */
#include <stdlib.h>

#include "api/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct api_dialect *const dialects[] = {&api_openai_chat, &api_openai_completions,
                                                     &api_openai_embeddings};

static void check(const struct api_call *call)
{
    size_t prompts = call->n_prompts ? call->n_prompts : 1;
    if (call->n < 1 || prompts * call->n > API_CHOICES_MAX || call->options.n_stops > API_STOPS_MAX)
        abort();
    if (!call->options.messages == !call->prompts)
        abort();
    for (size_t i = 0; i < call->options.n_messages; i++)
        if (!call->options.messages[i].role)
            abort();
    for (size_t i = 0; i < call->n_prompts; i++)
        if (!call->prompts[i].text == !call->prompts[i].tokens)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct api_call call = {0};
    struct api_error error;
    struct buf out = {0};
    if (size == 0)
        return 0;
    const struct api_dialect *dialect = dialects[data[0] % 3];
    arena_init(&call.arena, (size_t)64 << 20);
    call.strict = data[0] & 4;
    if (dialect->parse(&call, (struct str){(const char *)data + 1, size - 1}, &error)) {
        check(&call);
    } else {
        if (error.status < 400 || !error.message[0])
            abort();
        dialect->error_body(&error, &out);
    }
    buf_release(&out);
    api_call_release(&call);
    return 0;
}
