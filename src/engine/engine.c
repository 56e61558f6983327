/*
 * Opening and closing. The order matters: sizes that need no memory figures first, so that a model
 * that cannot fit is refused before anything large is touched; the page pool last, from what the
 * weights left. Everything is placed on the caller's thread; the owner thread starts when all is
 * ready, and from then on is the only one to touch scheduler, pages and backend.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/wait.h"
#include "engine/internal.h"

static void report(const sluice_engine_options *options, double fraction, const char *what)
{
    if (options->progress)
        options->progress(options->progress_context, fraction, what);
}

static enum status place_weights(sluice_engine *engine, const sluice_engine_options *options,
                                 struct error *err)
{
    const struct program *program = engine->source.program;
    uint64_t total = 1, done = 0;
    for (uint32_t i = 0; i < program->n_weights; i++)
        total += weight_bytes(&program->weights[i]);
    engine->placed = calloc(program->n_weights + 1, sizeof *engine->placed);
    if (!engine->placed)
        return error_set(err, STATUS_MEMORY, "out of memory for %u weights", program->n_weights);
    for (uint32_t i = 0; i < program->n_weights; i++) {
        report(options, (double)done / (double)total, "placing weights");
        enum status status =
            engine->api->place(engine->backend, program, i, &engine->placed[i], err);
        if (status != STATUS_OK)
            return status;
        done += weight_bytes(&program->weights[i]);
    }
    return STATUS_OK;
}

/* The backend with weights, program and pool in it. */
static enum status open_backend(sluice_engine *engine, const sluice_engine_options *options,
                                struct error *err)
{
    const struct program *program = engine->source.program;
    const struct backend_api *api = engine->api;
    struct backend_config config = {
        .n_threads = options->n_threads,
        .exact = options->exact,
        .batch_invariant = true,
        .ahead = options->plan_ahead == SLUICE_AHEAD_ALWAYS  ? BACKEND_AHEAD_ALWAYS
                 : options->plan_ahead == SLUICE_AHEAD_NEVER ? BACKEND_AHEAD_NEVER
                                                             : BACKEND_AHEAD_AUTO,
        .packed_cache = options->packed_cache,
        .packed_cache_bytes = options->packed_cache_size,
    };
    struct hardware *hw = calloc(1, sizeof *hw);
    if (!hw)
        return error_set(err, STATUS_MEMORY, "out of memory for the hardware description");
    enum status status = hardware_detect(hw, err);
    if (status == STATUS_OK)
        status = api->open(&config, &engine->backend, err);
    if (status == STATUS_OK) {
        api->info(engine->backend, &engine->backend_info);
        status = sizing_check_weights(program, hw, &engine->backend_info, err);
    }
    if (status == STATUS_OK)
        status = sizing_limits(program, &engine->backend_info, options, &engine->size, err);
    if (status == STATUS_OK)
        status = place_weights(engine, options, err);
    if (status == STATUS_OK)
        status = api->load(engine->backend, program, engine->placed, &engine->size.step,
                           &engine->loaded, err);
    if (status == STATUS_OK) {
        report(options, 1.0, "allocating the KV pool");
        api->info(engine->backend, &engine->backend_info);
        status = sizing_memory(program, hw, &engine->backend_info, options, &engine->size, err);
    }
    if (status == STATUS_OK)
        status = api->allocate(engine->backend, &engine->size.layout, engine->size.n_context,
                               &engine->size.sample, err);
    free(hw);
    return status;
}

static enum status create_flight(const struct engine_size *size, struct flight *flight,
                                 struct error *err)
{
    size_t step = step_bytes(&size->step), sample = sample_step_bytes(&size->sample);
    if (step == 0 || sample == 0)
        return error_set(err, STATUS_LIMIT, "a step of %u rows is too large", size->max_rows);
    flight->step = malloc(step);
    flight->sample_step = malloc(sample);
    flight->slices = calloc(size->step.max_slices, sizeof *flight->slices);
    flight->output_rows = calloc(size->step.max_slices, sizeof *flight->output_rows);
    flight->sample_rows = calloc(size->step.max_slices, sizeof *flight->sample_rows);
    if (!flight->step || !flight->sample_step || !flight->slices || !flight->output_rows ||
        !flight->sample_rows)
        return error_set(err, STATUS_MEMORY, "out of memory for steps of %u rows", size->max_rows);
    if (!step_init(flight->step, &size->step) ||
        !sample_step_init(flight->sample_step, &size->sample))
        return error_set(err, STATUS_INTERNAL, "engine: step buffers cannot be laid out");
    return STATUS_OK;
}

/* What the owner thread works with. */
static enum status create_loop(sluice_engine *engine, struct error *err)
{
    struct engine_size *size = &engine->size;
    enum status status = kv_create(&size->kv, &engine->kv, err);
    if (status == STATUS_OK)
        status = sched_create(&size->sched, engine->kv, &engine->sched, err);
    if (status != STATUS_OK)
        return status;
    const struct program *program = engine->source.program;
    engine->results = calloc(size->n_slots, sizeof *engine->results);
    engine->row = calloc(program->buffers[program->hidden].width, sizeof *engine->row);
    if (size->max_key_requests)
        engine->mailbox.keys = calloc(size->max_queued, sizeof *engine->mailbox.keys);
    if (!engine->results || !engine->row || (size->max_key_requests && !engine->mailbox.keys))
        return error_set(err, STATUS_MEMORY, "out of memory for %u sequences", size->n_slots);
    for (int i = 0; i < BACKEND_IN_FLIGHT && status == STATUS_OK; i++)
        status = create_flight(size, &engine->flights[i], err);
    engine->stats.pages_total = kv_pages_total(engine->kv);
    engine->stats.page_bytes = size->layout.page_bytes;
    engine->next_deadline_ns = UINT64_MAX;
    engine->weight_bytes = program_weight_bytes(program);
    /* Numbers start at 1, so that a fresh request's sampled_number (0) is never the last step's. */
    engine->step_number = 1;
    return status;
}

static enum status start_thread(sluice_engine *engine, struct error *err)
{
    int result = pthread_create(&engine->thread, NULL, loop_run, engine);
    if (result != 0)
        return error_set(err, STATUS_MEMORY, "cannot start the engine's thread: %s",
                         strerror(result));
    engine->started = true;
    return STATUS_OK;
}

enum status engine_open_source(const struct engine_source *source, struct model *model,
                               const struct backend_api *api, const sluice_engine_options *options,
                               sluice_engine **out, struct error *err)
{
    *out = NULL;
    uint64_t begin = clock_now_ns();
    sluice_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return error_set(err, STATUS_MEMORY, "out of memory for an engine");
    engine->source = *source;
    engine->api = api;
    arena_init(&engine->arena, 0);
    pthread_mutex_init(&engine->mailbox.lock, NULL);
    cond_init(&engine->mailbox.wake);
    pthread_mutex_init(&engine->stats_lock, NULL);
    enum status status = prompt_open(engine, options->chat_template, err);
    if (status == STATUS_OK)
        status = open_backend(engine, options, err);
    if (status == STATUS_OK)
        status = create_loop(engine, err);
    if (status == STATUS_OK)
        status = start_thread(engine, err);
    if (status != STATUS_OK) {
        sluice_engine_close(engine);
        return status;
    }
    engine->model = model;
    engine->load_seconds = (double)(clock_now_ns() - begin) * 1e-9;
    *out = engine;
    return STATUS_OK;
}

static bool damaged(const void *context)
{
    return model_damaged(context);
}

/* The public numbering is the internal one. */
_Static_assert((int)SLUICE_POOLING_DEFAULT == (int)MODEL_POOLING_NONE, "pooling numbering");
_Static_assert((int)SLUICE_POOLING_LAST == (int)MODEL_POOLING_LAST, "pooling numbering");
_Static_assert((int)SLUICE_POOLING_MEAN == (int)MODEL_POOLING_MEAN, "pooling numbering");
_Static_assert((int)SLUICE_POOLING_FIRST == (int)MODEL_POOLING_FIRST, "pooling numbering");

static enum status open_model(const sluice_engine_options *options, sluice_engine **engine,
                              struct error *err)
{
    if (!options || !options->model || !*options->model)
        return error_set(err, STATUS_USAGE, "model: name a .gguf file or a model folder");
    const struct backend_api *api;
    struct model *model = NULL;
    uint64_t begin = clock_now_ns();
    enum status status = backend_find(options->backend, &api, NULL, err);
    if (status != STATUS_OK)
        return status;
    report(options, 0.0, "reading the model");
    status = model_open(options->model, &model, err);
    if (status != STATUS_OK)
        return status;
    struct engine_source source = {
        .program = model_program(model),
        .tokenizer = model_tokenizer(model),
        .tokenizer_problem = model_tokenizer_problem(model),
        .chat_template = model_chat_template(model),
        .generation = model_generation(model),
        .pooling = (sluice_pooling)model_pooling(model),
        .name = model_name(model),
        .architecture = model_architecture(model),
        .n_parameters = model_parameters(model),
        .damaged = damaged,
        .context = model,
    };
    status = engine_open_source(&source, model, api, options, engine, err);
    if (status != STATUS_OK)
        model_close(model);
    else
        (*engine)->load_seconds = (double)(clock_now_ns() - begin) * 1e-9;
    return status;
}

sluice_status sluice_engine_open(const sluice_engine_options *options, sluice_engine **engine,
                                 sluice_error *error)
{
    struct error err = {0};
    *engine = NULL;
    return public_status(open_model(options, engine, &err), &err, error);
}

void sluice_engine_stats(sluice_engine *engine, sluice_stats *stats)
{
    pthread_mutex_lock(&engine->stats_lock);
    *stats = engine->stats;
    pthread_mutex_unlock(&engine->stats_lock);
}

void sluice_engine_close(sluice_engine *engine)
{
    if (!engine)
        return;
    if (engine->started) {
        pthread_mutex_lock(&engine->mailbox.lock);
        engine->mailbox.closing = true;
        pthread_cond_signal(&engine->mailbox.wake);
        pthread_mutex_unlock(&engine->mailbox.lock);
        pthread_join(engine->thread, NULL);
    }
    if (engine->backend)
        engine->api->close(engine->backend);
    sched_free(engine->sched);
    kv_free(engine->kv);
    for (int i = 0; i < BACKEND_IN_FLIGHT; i++) {
        free(engine->flights[i].step);
        free(engine->flights[i].sample_step);
        free(engine->flights[i].slices);
        free(engine->flights[i].output_rows);
        free(engine->flights[i].sample_rows);
    }
    free(engine->results);
    free(engine->row);
    free(engine->mailbox.keys);
    free(engine->placed);
    prompt_close(engine);
    arena_release(&engine->arena);
    pthread_mutex_destroy(&engine->stats_lock);
    pthread_mutex_destroy(&engine->mailbox.lock);
    pthread_cond_destroy(&engine->mailbox.wake);
    model_close(engine->model);
    free(engine);
}
