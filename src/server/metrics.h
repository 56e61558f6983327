/*
 * Counters and histograms in Prometheus' text format. One lock; the pump adds, a scrape reads.
 */
#ifndef SLUICE_SERVER_METRICS_H
#define SLUICE_SERVER_METRICS_H

#include <pthread.h>
#include <stdint.h>

#include "base/str.h"
#include "sluice.h"

#define HISTOGRAM_BUCKETS_MAX 16

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS_MAX + 1]; /* not cumulative; the last is "+Inf" */
    double sum;
};

enum request_outcome { OUTCOME_OK, OUTCOME_REFUSED, OUTCOME_FAILED, OUTCOME_CANCELLED, N_OUTCOMES };

struct metrics {
    pthread_mutex_t lock;
    uint64_t outcomes[N_OUTCOMES];
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    struct histogram first_token, inter_token, queue, request;
};

/* A loaded model. Its counters begin at 0 whenever it is loaded. */
struct metrics_model {
    const char *name;
    sluice_model_info info;
    sluice_stats stats;
};

void metrics_init(struct metrics *metrics);
void metrics_release(struct metrics *metrics);
void metrics_outcome(struct metrics *metrics, enum request_outcome outcome, double seconds);
void metrics_usage(struct metrics *metrics, uint32_t prompt, uint32_t cached, uint32_t output);
void metrics_first_token(struct metrics *metrics, double seconds);
void metrics_gap(struct metrics *metrics, double seconds);
void metrics_queue(struct metrics *metrics, double seconds);
/* Appends the exposition. `jobs`: requests in work now. */
void metrics_write(struct metrics *metrics, size_t jobs, const struct metrics_model *models,
                   size_t n_models, struct buf *out);

#endif
