/* Metrics; names follow Prometheus' conventions (base units, _total for counters). */
#include "server/metrics.h"

#include <string.h>

static const double latency_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                        2.5,   5,    10,    30,   60,  120,  300};
static const double gap_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075,
                                    0.1,   0.15,   0.25,  0.5,  1,    2.5,  10};
#define N_BOUNDS (sizeof latency_bounds / sizeof *latency_bounds)
_Static_assert(sizeof gap_bounds == sizeof latency_bounds, "one number of buckets");
_Static_assert(N_BOUNDS <= HISTOGRAM_BUCKETS_MAX, "buckets");

void metrics_init(struct metrics *metrics)
{
    *metrics = (struct metrics){0};
    pthread_mutex_init(&metrics->lock, NULL);
}

void metrics_release(struct metrics *metrics)
{
    pthread_mutex_destroy(&metrics->lock);
}

static void observe(struct metrics *metrics, struct histogram *histogram, const double *bounds,
                    double value)
{
    size_t i = 0;
    while (i < N_BOUNDS && value > bounds[i])
        i++;
    pthread_mutex_lock(&metrics->lock);
    histogram->counts[i]++;
    histogram->sum += value;
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_outcome(struct metrics *metrics, enum request_outcome outcome, double seconds)
{
    pthread_mutex_lock(&metrics->lock);
    metrics->outcomes[outcome]++;
    pthread_mutex_unlock(&metrics->lock);
    observe(metrics, &metrics->request, latency_bounds, seconds);
}

void metrics_usage(struct metrics *metrics, uint32_t prompt, uint32_t cached, uint32_t output)
{
    pthread_mutex_lock(&metrics->lock);
    metrics->prompt_tokens += prompt;
    metrics->cached_tokens += cached;
    metrics->output_tokens += output;
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_first_token(struct metrics *metrics, double seconds)
{
    observe(metrics, &metrics->first_token, latency_bounds, seconds);
}

void metrics_gap(struct metrics *metrics, double seconds)
{
    observe(metrics, &metrics->inter_token, gap_bounds, seconds);
}

void metrics_queue(struct metrics *metrics, double seconds)
{
    observe(metrics, &metrics->queue, latency_bounds, seconds);
}

static void write_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_value(struct buf *out, const char *name, const char *type, const char *help,
                        double value)
{
    write_head(out, name, type, help);
    buf_printf(out, "%s %.17g\n", name, value);
}

static void write_histogram(struct buf *out, const struct histogram *histogram,
                            const double *bounds, const char *name, const char *help)
{
    uint64_t sum = 0;
    write_head(out, name, "histogram", help);
    for (size_t i = 0; i < N_BOUNDS; i++) {
        sum += histogram->counts[i];
        buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)sum);
    }
    sum += histogram->counts[N_BOUNDS];
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.17g\n%s_count %llu\n", name,
               (unsigned long long)sum, name, histogram->sum, name, (unsigned long long)sum);
}

/* ---- the engines' own counters ---------------------------------------------------------------- */

#define N_ENGINE_VALUES 16

struct engine_value {
    const char *name, *type, *help;
    double value;
};

static void read_engine(const struct metrics_model *model,
                        struct engine_value values[N_ENGINE_VALUES])
{
    const sluice_stats *s = &model->stats;
    const struct engine_value all[N_ENGINE_VALUES] = {
        {"sluice_sequences_running", "gauge", "Answers in the batch.", s->running},
        {"sluice_sequences_waiting", "gauge", "Answers in the queue.", s->waiting},
        {"sluice_kv_pages", "gauge", "KV pages of the pool.", s->pages_total},
        {"sluice_kv_pages_used", "gauge", "KV pages of running answers.", s->pages_used},
        {"sluice_kv_pages_cached", "gauge", "Free KV pages that still hold a prefix.",
         s->pages_cached},
        {"sluice_kv_page_bytes", "gauge", "Size of a KV page.", (double)s->page_bytes},
        {"sluice_prefilled_tokens_total", "counter", "Prompt tokens computed.",
         (double)s->prefilled_tokens},
        {"sluice_decoded_tokens_total", "counter", "Tokens drawn.", (double)s->decoded_tokens},
        {"sluice_preemptions_total", "counter", "Answers put back into the queue.",
         (double)s->preemptions},
        {"sluice_steps_total", "counter", "Forward passes.", (double)s->steps},
        {"sluice_step_seconds_total", "counter", "Time spent in forward passes.", s->step_seconds},
        {"sluice_bytes_read_total", "counter", "Weights and KV read by forward passes.",
         (double)s->bytes_read},
        {"sluice_bytes_per_second", "gauge", "Weights and KV read, per second of forward passes.",
         s->step_seconds > 0 ? (double)s->bytes_read / s->step_seconds : 0.0},
        {"sluice_kv_pool_bytes", "gauge", "Size of the KV page pool.",
         (double)model->info.kv_bytes},
        {"sluice_weight_bytes", "gauge", "Size of the model's weights.",
         (double)model->info.weight_bytes},
        {"sluice_load_seconds", "gauge", "How long the model took to load.",
         model->info.load_seconds},
    };
    memcpy(values, all, sizeof all);
}

/* A label's value: no bare quote, backslash or line end. */
static void write_label(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            buf_append_char(out, '\\');
        if (*text == '\n')
            buf_append_cstr(out, "\\n");
        else
            buf_append_char(out, *text);
    }
}

/* By name, then by model: the values of one name must stand together. */
static void write_engines(const struct metrics_model *models, size_t n, struct buf *out)
{
    for (size_t i = 0; n && i < N_ENGINE_VALUES; i++)
        for (size_t j = 0; j < n; j++) {
            struct engine_value values[N_ENGINE_VALUES];
            read_engine(&models[j], values);
            const struct engine_value *v = &values[i];
            if (j == 0)
                write_head(out, v->name, v->type, v->help);
            buf_printf(out, "%s{model=\"", v->name);
            write_label(out, models[j].name);
            buf_printf(out, "\"} %.17g\n", v->value);
        }
}

void metrics_write(struct metrics *metrics, size_t jobs, const struct metrics_model *models,
                   size_t n_models, struct buf *out)
{
    static const char *const outcomes[] = {"ok", "refused", "failed", "cancelled"};
    pthread_mutex_lock(&metrics->lock);
    struct metrics m = *metrics;
    pthread_mutex_unlock(&metrics->lock);
    write_head(out, "sluice_requests_total", "counter", "Requests to generate, by outcome.");
    for (size_t i = 0; i < N_OUTCOMES; i++)
        buf_printf(out, "sluice_requests_total{outcome=\"%s\"} %llu\n", outcomes[i],
                   (unsigned long long)m.outcomes[i]);
    write_value(out, "sluice_requests_in_work", "gauge", "Requests between arrival and last byte.",
                (double)jobs);
    write_value(out, "sluice_prompt_tokens_total", "counter",
                "Tokens of prompts, cached ones included.", (double)m.prompt_tokens);
    write_value(out, "sluice_cached_tokens_total", "counter",
                "Tokens of prompts that were not computed again.", (double)m.cached_tokens);
    write_value(out, "sluice_output_tokens_total", "counter", "Tokens generated.",
                (double)m.output_tokens);
    write_value(out, "sluice_models_loaded", "gauge", "Models in memory.", (double)n_models);
    write_engines(models, n_models, out);
    write_histogram(out, &m.first_token, latency_bounds, "sluice_time_to_first_token_seconds",
                    "From the request's last byte to the first token.");
    write_histogram(out, &m.inter_token, gap_bounds, "sluice_inter_token_seconds",
                    "Between two events of a stream.");
    write_histogram(out, &m.queue, latency_bounds, "sluice_queue_seconds",
                    "From submission to the first step.");
    write_histogram(out, &m.request, latency_bounds, "sluice_request_seconds",
                    "From the request's last byte to the answer's end.");
}
