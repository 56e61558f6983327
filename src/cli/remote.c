/* A chat through HTTP: libcurl sends, the stream's events are printed as they come. */
#include "cli/remote.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/json.h"
#include "bench/sse.h"

struct answer_reader {
    CURL *easy;
    struct buf line, page;
    struct buf *answer;
    const volatile sig_atomic_t *interrupted;
    bool thinking, began, failed;
};

static void add_numbers(json_t *root, const sluice_sampling *s)
{
    const struct {
        uint32_t bit;
        const char *name;
        double value;
        bool part; /* of a sampler: 0 leaves it to the server */
    } numbers[] = {
        {SLUICE_SET_TEMPERATURE, "temperature", (double)s->temperature, false},
        {SLUICE_SET_TOP_K, "top_k", s->top_k, false},
        {SLUICE_SET_TOP_P, "top_p", (double)s->top_p, false},
        {SLUICE_SET_MIN_P, "min_p", (double)s->min_p, false},
        {SLUICE_SET_TYPICAL_P, "typical_p", (double)s->typical_p, false},
        {SLUICE_SET_TOP_N_SIGMA, "top_n_sigma", (double)s->top_n_sigma, false},
        {SLUICE_SET_REPEAT_PENALTY, "repeat_penalty", (double)s->repeat_penalty, false},
        {SLUICE_SET_REPEAT_LAST_N, "repeat_last_n", s->repeat_last_n, false},
        {SLUICE_SET_PRESENCE_PENALTY, "presence_penalty", (double)s->presence_penalty, false},
        {SLUICE_SET_FREQUENCY_PENALTY, "frequency_penalty", (double)s->frequency_penalty, false},
        {SLUICE_SET_XTC, "xtc_probability", (double)s->xtc_probability, false},
        {SLUICE_SET_XTC, "xtc_threshold", (double)s->xtc_threshold, true},
        {SLUICE_SET_DRY, "dry_multiplier", (double)s->dry_multiplier, false},
        {SLUICE_SET_DRY, "dry_base", (double)s->dry_base, true},
        {SLUICE_SET_DRY, "dry_allowed_length", s->dry_allowed_length, true},
        {SLUICE_SET_DRY, "dry_penalty_last_n", s->dry_last_n, true},
        {SLUICE_SET_MIROSTAT, "mirostat", s->mirostat, false},
        {SLUICE_SET_MIROSTAT, "mirostat_tau", (double)s->mirostat_tau, true},
        {SLUICE_SET_MIROSTAT, "mirostat_eta", (double)s->mirostat_eta, true},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (s->set & numbers[i].bit && (!numbers[i].part || numbers[i].value != 0.0))
            json_object_set_new(root, numbers[i].name, json_real(numbers[i].value));
}

static json_t *request_of(const struct chat_settings *settings, const sluice_message *messages,
                          size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "role", messages[i].role, "content",
                                              messages[i].content ? messages[i].content : ""));
    json_t *root = json_pack("{s:o, s:b}", "messages", list, "stream", 1);
    const sluice_sampling *s = &settings->sampling;
    add_numbers(root, s);
    if (s->set & SLUICE_SET_SEED)
        json_object_set_new(root, "seed", json_integer((json_int_t)(s->seed & INT64_MAX)));
    if (settings->max_tokens)
        json_object_set_new(root, "max_tokens", json_integer(settings->max_tokens));
    if (settings->thinking != SLUICE_THINKING_DEFAULT)
        json_object_set_new(
            root, "chat_template_kwargs",
            json_pack("{s:b}", "enable_thinking", settings->thinking == SLUICE_THINKING_ON));
    return root;
}

static void print_piece(struct answer_reader *reader, const char *text, bool thinking)
{
    if (thinking != reader->thinking)
        fputs(thinking ? terminal_dim(stdout) : terminal_reset(stdout), stdout);
    if (reader->thinking && !thinking && reader->began)
        putchar('\n');
    reader->thinking = thinking;
    reader->began = true;
    fputs(text, stdout);
    fflush(stdout);
    if (!thinking)
        buf_append_cstr(reader->answer, text);
}

static void take_event(void *context, struct str data)
{
    struct answer_reader *reader = context;
    json_t *root;
    if (json_parse(data, JSON_DEPTH_DEFAULT, "an event", &root, NULL) != STATUS_OK)
        return; /* [DONE] */
    const json_t *delta =
        json_object_get(json_array_get(json_object_get(root, "choices"), 0), "delta");
    const char *text = json_string_value(json_object_get(delta, "content"));
    const char *thought = json_string_value(json_object_get(delta, "reasoning_content"));
    const char *problem =
        json_string_value(json_object_get(json_object_get(root, "error"), "message"));
    if (thought && *thought)
        print_piece(reader, thought, true);
    if (text && *text)
        print_piece(reader, text, false);
    if (problem && !reader->failed) {
        reader->failed = true;
        buf_clear(&reader->page);
        buf_append_cstr(&reader->page, problem);
    }
    json_decref(root);
}

static size_t on_data(char *data, size_t size, size_t n, void *context)
{
    struct answer_reader *reader = context;
    long status = 0;
    curl_easy_getinfo(reader->easy, CURLINFO_RESPONSE_CODE, &status);
    if (*reader->interrupted)
        return 0;
    if (status == 200)
        return sse_feed(&reader->line, data, size * n, take_event, reader) ? size * n : 0;
    reader->failed = true;
    buf_append(&reader->page, data, size * n);
    return size * n;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct answer_reader *reader = context;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return *reader->interrupted != 0;
}

static enum status perform(struct answer_reader *reader, const char *url, const char *body,
                           struct error *err)
{
    CURL *easy = reader->easy;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, reader);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, reader);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    CURLcode code = curl_easy_perform(easy);
    curl_slist_free_all(headers);
    fputs(reader->thinking ? terminal_reset(stdout) : "", stdout);
    if (reader->began)
        putchar('\n');
    if (*reader->interrupted)
        return STATUS_OK;
    if (code != CURLE_OK)
        return error_set(err, STATUS_NETWORK, "%s: %s", url, curl_easy_strerror(code));
    if (reader->failed)
        return error_set(err, STATUS_NETWORK, "%s",
                         reader->page.data ? reader->page.data : "the server refused");
    return STATUS_OK;
}

enum status remote_answer(const struct chat_settings *settings, const sluice_message *messages,
                          size_t n_messages, const volatile sig_atomic_t *interrupted,
                          struct buf *answer, struct error *err)
{
    char url[600];
    struct answer_reader reader = {.answer = answer, .interrupted = interrupted};
    json_t *request = request_of(settings, messages, n_messages);
    char *body = json_dumps(request, JSON_COMPACT);
    enum status status = STATUS_OK;
    json_decref(request);
    snprintf(url, sizeof url, "%.500s/v1/chat/completions", settings->url);
    reader.easy = curl_easy_init();
    if (!body || !reader.easy)
        status = error_set(err, STATUS_MEMORY, "out of memory for the request");
    else
        status = perform(&reader, url, body, err);
    curl_easy_cleanup(reader.easy);
    free(body);
    buf_release(&reader.line);
    buf_release(&reader.page);
    return status;
}
