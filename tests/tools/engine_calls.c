#include "engine_calls.h"

#include <math.h>

#include "fixture.h"

sluice_engine *must_open(const sluice_engine_options *options)
{
    sluice_engine *engine = NULL;
    sluice_error error = {0};
    if (sluice_engine_open(options, &engine, &error) != SLUICE_OK)
        fail_msg("open %s on %s: %s", options->model,
                 options->backend ? options->backend : "any backend", error.message);
    return engine;
}

sluice_request *must_submit(sluice_engine *engine, const sluice_request_options *options)
{
    sluice_request *request = NULL;
    sluice_error error = {0};
    if (sluice_submit(engine, options, &request, &error) != SLUICE_OK)
        fail_msg("submit: %s", error.message);
    return request;
}

struct buf must_score(sluice_engine *engine, const sluice_request_options *options)
{
    sluice_request *request = must_submit(engine, options);
    sluice_event event;
    struct buf rows = {0};
    while (sluice_request_next(request, &event, -1)) {
        if (event.kind == SLUICE_EVENT_ERROR)
            fail_msg("scoring: %s", event.error.message);
        if (event.kind == SLUICE_EVENT_ROWS)
            buf_append(&rows, event.rows,
                       (size_t)event.n_rows * event.row_width * sizeof *event.rows);
    }
    sluice_request_free(request);
    assert_true(rows.len > 0 && !rows.failed);
    return rows;
}

double relative_error(const float *got, const float *expected, size_t n)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / size);
}
