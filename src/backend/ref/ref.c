/* The reference backend's life: memory, tickets, results. The arithmetic is in its siblings. */
#include "backend/ref/ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/observe.h"
#include "backend/ref/internal.h"
#include "base/checked.h"
#include "sample/sample.h"

static enum status ref_open(const struct backend_config *config, struct backend **out,
                            struct error *err)
{
    struct ref_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return error_set(err, STATUS_MEMORY, "out of memory while opening the ref backend");
    backend->base.api = &ref_backend_api;
    backend->config = *config;
    *out = &backend->base;
    return STATUS_OK;
}

static void free_program(struct loaded_program *program)
{
    for (int i = 0; i < REF_RESULTS; i++) {
        free(program->results[i].hidden);
        free(program->results[i].logits);
    }
    free(program->step_words);
    free(program->output_words);
    free(program->row);
    free(program);
}

static void ref_close(struct backend *base)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    if (!backend)
        return;
    while (backend->weights) {
        struct placed_weight *next = backend->weights->next;
        free(backend->weights);
        backend->weights = next;
    }
    while (backend->programs) {
        struct loaded_program *next = backend->programs->next;
        free_program(backend->programs);
        backend->programs = next;
    }
    free(backend->pages);
    free(backend->tables);
    free(backend->history);
    free(backend->sample_scratch);
    free(backend->samples);
    free(backend);
}

static void ref_info(struct backend *base, struct backend_info *out)
{
    (void)base;
    *out =
        (struct backend_info){.kv_type = TENSOR_F32, .one_class = true, .prompt_rows_together = 1};
    snprintf(out->description, sizeof out->description, "scalar reference, 1 thread");
}

static enum status ref_place(struct backend *base, const struct program *program, uint32_t weight,
                             struct placed_weight **out, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    const struct weight *w = &program->weights[weight];
    const struct tensor_type_info *type = tensor_type_info(w->type);
    if (!type || !type->decode)
        return error_set(err, STATUS_UNSUPPORTED, "%s: tensor type %s is not supported", w->name,
                         tensor_type_name(w->type));
    uint64_t row_bytes;
    if (!tensor_type_bytes(w->type, w->n_cols, &row_bytes))
        return error_set(err, STATUS_MODEL, "%s: rows of %u values are no whole %s blocks", w->name,
                         w->n_cols, type->name);
    struct placed_weight *placed = calloc(1, sizeof *placed);
    if (!placed)
        return error_set(err, STATUS_MEMORY, "out of memory while placing weights");
    *placed = (struct placed_weight){w, type, row_bytes, backend->weights};
    backend->weights = placed;
    *out = placed;
    return STATUS_OK;
}

static float *floats(uint64_t a, uint64_t b)
{
    uint64_t n;
    if (!checked_mul_u64(a, b, &n) || n > SIZE_MAX / sizeof(float))
        return NULL;
    return calloc(n ? (size_t)n : 1, sizeof(float));
}

static enum status ref_load(struct backend *base, const struct program *program,
                            struct placed_weight *const *placed, const struct step_limits *limits,
                            struct loaded_program **out, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    struct loaded_program *loaded = calloc(1, sizeof *loaded);
    if (!loaded)
        return error_set(err, STATUS_MEMORY, "out of memory while loading a program");
    loaded->program = program;
    loaded->placed = placed;
    loaded->limits = *limits;
    loaded->next = backend->programs;
    backend->programs = loaded;
    loaded->step_words = floats(program->step_row_words, limits->max_rows);
    loaded->output_words = floats(program->output_row_words, limits->max_outputs);
    bool complete = loaded->step_words && loaded->output_words;
    for (int i = 0; i < REF_RESULTS; i++) {
        struct ref_results *r = &loaded->results[i];
        r->hidden = floats(program->buffers[program->hidden].width, limits->max_outputs);
        r->logits =
            program->logits == NO_BUFFER ? NULL : floats(program->n_vocab, limits->max_outputs);
        complete &= r->hidden && (r->logits || program->logits == NO_BUFFER);
    }
    if (!complete)
        return error_set(err, STATUS_MEMORY, "out of memory for activations of %u rows",
                         limits->max_rows);
    *out = loaded;
    return STATUS_OK;
}

/* Scratch floats that one operation may use beside its operands, generously. */
static uint64_t scratch_floats(const struct program *program, uint32_t max_positions)
{
    uint64_t widest = 0;
    for (uint32_t i = 0; i < program->n_buffers; i++)
        if (program->buffers[i].width > widest)
            widest = program->buffers[i].width;
    for (uint32_t i = 0; i < program->n_weights; i++)
        if (program->weights[i].n_cols > widest)
            widest = program->weights[i].n_cols;
    for (uint32_t i = 0; i < program->n_ops; i++)
        if (program->ops[i].kind == OP_ROUTE && program->ops[i].u.route.n_experts > widest)
            widest = program->ops[i].u.route.n_experts;
    return 8 * widest + max_positions;
}

static uint32_t max_positions(const struct layout *layout)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < layout->n_groups; i++) {
        const struct group_layout *g = &layout->groups[i];
        uint64_t positions = (uint64_t)g->max_pages * g->tokens_per_page;
        most = positions > most ? positions : most;
    }
    return most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

static enum status ref_allocate(struct backend *base, const struct layout *layout,
                                uint32_t history_capacity, const struct sample_limits *sampling,
                                struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    backend->layout = *layout;
    backend->sampling = *sampling;
    backend->history_capacity = history_capacity;
    backend->max_positions = max_positions(layout);
    backend->pages = calloc(layout->n_pages ? layout->n_pages : 1, layout->page_bytes);
    backend->tables = calloc((size_t)layout->n_slots * layout->slot_pages + 1, sizeof(uint32_t));
    backend->history = calloc((size_t)layout->n_slots * history_capacity + 1, sizeof(int32_t));
    backend->sample_scratch = malloc(sampling_scratch_bytes(sampling->n_vocab));
    backend->samples =
        calloc((size_t)REF_RESULTS * sampling->max_rows + 1, sizeof *backend->samples);
    bool complete = backend->pages && backend->tables && backend->history &&
                    backend->sample_scratch && backend->samples;
    for (struct loaded_program *p = backend->programs; p && complete; p = p->next) {
        p->row = floats(scratch_floats(p->program, backend->max_positions), 1);
        complete = p->row != NULL;
    }
    if (!complete)
        return error_set(err, STATUS_MEMORY, "out of memory for %u KV pages of %llu bytes",
                         layout->n_pages, (unsigned long long)layout->page_bytes);
    return STATUS_OK;
}

static void run_op(const struct ref_run *run, const struct op *op)
{
    switch (op->kind) {
    case OP_EMBED:
        ref_embed(run, &op->u.embed);
        break;
    case OP_POSITION:
        ref_position(run, &op->u.position);
        break;
    case OP_NORM:
        ref_norm(run, &op->u.norm);
        break;
    case OP_LINEAR:
        ref_linear(run, &op->u.linear);
        break;
    case OP_ROPE_KV:
        ref_rope_kv(run, &op->u.rope_kv);
        break;
    case OP_ATTENTION:
        ref_attention(run, &op->u.attention);
        break;
    case OP_GATED:
        ref_gated(run, &op->u.gated);
        break;
    case OP_ROUTE:
        ref_route(run, &op->u.route);
        break;
    case OP_EXPERTS:
        ref_experts(run, &op->u.experts);
        break;
    case OP_CONV:
        ref_conv(run, &op->u.conv);
        break;
    case OP_SSM:
        ref_ssm(run, &op->u.ssm);
        break;
    case OP_DELTA:
        ref_delta(run, &op->u.delta);
        break;
    case OP_HEADS:
        ref_heads(run, &op->u.heads);
        break;
    case OP_ACTIVATE:
        ref_activation(run, &op->u.activate);
        break;
    case OP_MIX:
        ref_mix(run, &op->u.mix);
        break;
    case OP_MATCH:
        ref_match(run, &op->u.match);
        break;
    case OP_ADD:
        ref_add(run, &op->u.add);
        break;
    case OP_MUL:
        ref_mul(run, &op->u.mul);
        break;
    case OP_SELECT:
        ref_select(run, &op->u.select);
        break;
    case OP_LOGITS:
        ref_logits(run, &op->u.logits);
        break;
    }
}

static const float *observed_row(const void *run, struct view view, uint32_t row)
{
    return ref_row(run, view, row);
}

static void run_observed(const struct ref_run *run, const struct op *op)
{
    const struct op_observer *observer = run->program->observer;
    const struct view *view = observer ? observed_view(op) : NULL;
    uint32_t n = view ? ref_rows(run, *view) : 0;
    if (view)
        observe_inputs(observer, op, n, observed_row, run);
    run_op(run, op);
    if (view)
        observe_hidden(observer, run->program->program, op, n, observed_row, run);
}

static enum status ref_observe(struct backend *base, struct loaded_program *program,
                               const struct op_observer *observer, struct error *err)
{
    (void)base;
    (void)err;
    program->observer = observer;
    return STATUS_OK;
}

static void keep_results(const struct ref_run *run, uint64_t ticket)
{
    struct loaded_program *p = run->program;
    struct ref_results *r = &p->results[p->n_steps++ % REF_RESULTS];
    r->ticket = ticket;
    r->n_outputs = run->step->n_outputs;
    r->n_logits = run->step->n_logits;
    uint32_t width = p->program->buffers[p->program->hidden].width;
    for (uint32_t i = 0; i < r->n_outputs; i++)
        memcpy(r->hidden + (size_t)i * width,
               ref_row(run, program_view(p->program, p->program->hidden), i),
               width * sizeof(float));
    for (uint32_t i = 0; r->logits && i < r->n_logits; i++)
        memcpy(r->logits + (size_t)i * p->program->n_vocab,
               ref_row(run, program_view(p->program, p->program->logits), i),
               p->program->n_vocab * sizeof(float));
}

static enum status ref_submit(struct backend *base, struct loaded_program *program,
                              const struct step *step, uint64_t *ticket, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    struct ref_run run = {backend, program, step};
    if (memcmp(&step->limits, &program->limits, sizeof step->limits) != 0)
        return error_set(err, STATUS_INTERNAL, "the step was made for other limits");
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        struct table_write w = step_table_writes(step)[i];
        backend->tables[layout_table_index(&backend->layout, w.slot, w.group, w.index)] = w.page;
    }
    for (uint32_t i = 0; i < step->n_copies; i++) {
        struct page_copy c = step_copies(step)[i];
        if (c.from >= backend->layout.n_pages || c.to >= backend->layout.n_pages)
            return error_set(err, STATUS_INTERNAL, "page copy %u: %u to %u", i, c.from, c.to);
        memmove(backend->pages + c.to * backend->layout.page_bytes,
                backend->pages + c.from * backend->layout.page_bytes, backend->layout.page_bytes);
    }
    for (uint32_t i = 0; i < program->program->n_ops; i++)
        run_observed(&run, &program->program->ops[i]);
    *ticket = ++backend->last_ticket;
    keep_results(&run, *ticket);
    return STATUS_OK;
}

static void draw_row(struct ref_backend *backend, const struct sample_step *step,
                     const struct sample_row *row, const float *logits, struct sample_result *out)
{
    int32_t *history = backend->history + (size_t)row->slot * backend->history_capacity;
    struct sampling_input in = {
        .logits = logits,
        .mask = row->mask_offset == NO_MASK ? NULL : sample_step_masks(step) + row->mask_offset,
        .breakers =
            row->breakers_offset == NO_MASK ? NULL : sample_step_masks(step) + row->breakers_offset,
        .bias_ids = sample_step_bias_ids(step),
        .bias_values = sample_step_bias_values(step),
        .history = history,
        .position = row->position,
        .n_vocab = step->limits.n_vocab,
    };
    struct sampling_draw draw;
    sampling_use_scratch(&in, backend->sample_scratch);
    sampling_draw_row(&row->parameters, &in, &draw);
    *out = sample_result_of(&draw);
    if (row->position < backend->history_capacity)
        history[row->position] = draw.token;
}

static enum status ref_sample(struct backend *base, struct loaded_program *program,
                              const struct sample_step *step, uint64_t *ticket, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    const struct ref_results *results =
        &program->results[(program->n_steps + REF_RESULTS - 1) % REF_RESULTS];
    uint64_t set = backend->n_sample_steps++ % REF_RESULTS;
    struct sample_result *out = backend->samples + set * backend->sampling.max_rows;
    for (uint32_t i = 0; i < step->n_history_writes; i++) {
        struct history_write w = sample_step_history(step)[i];
        backend->history[(size_t)w.slot * backend->history_capacity + w.position] = w.token;
    }
    if (!results->logits)
        return error_set(err, STATUS_INTERNAL, "program %s has no logits to sample",
                         program->program->name);
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct sample_row *row = &sample_step_rows(step)[i];
        draw_row(backend, step, row,
                 results->logits + (size_t)row->output * program->program->n_vocab, &out[i]);
    }
    *ticket = ++backend->last_ticket;
    backend->sample_tickets[set] = *ticket;
    return STATUS_OK;
}

static enum status ref_wait(struct backend *base, uint64_t ticket, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    if (ticket > backend->last_ticket)
        return error_set(err, STATUS_INTERNAL, "ticket %llu was never submitted",
                         (unsigned long long)ticket);
    return STATUS_OK;
}

static enum status ref_read_rows(struct backend *base, struct loaded_program *program,
                                 enum result_kind kind, uint64_t ticket, uint32_t first, uint32_t n,
                                 float *out, struct error *err)
{
    (void)base;
    const struct ref_results *r = NULL;
    for (int i = 0; i < REF_RESULTS; i++)
        if (program->results[i].ticket == ticket)
            r = &program->results[i];
    uint32_t available = !r ? 0 : kind == RESULT_LOGITS ? r->n_logits : r->n_outputs;
    if (!r || first > available || n > available - first)
        return error_set(err, STATUS_INTERNAL, "ticket %llu has %u result rows, not %u+%u",
                         (unsigned long long)ticket, available, first, n);
    size_t width = kind == RESULT_LOGITS
                       ? program->program->n_vocab
                       : program->program->buffers[program->program->hidden].width;
    memcpy(out, (kind == RESULT_LOGITS ? r->logits : r->hidden) + first * width,
           n * width * sizeof(float));
    return STATUS_OK;
}

static enum status ref_read_samples(struct backend *base, uint64_t ticket, uint32_t n,
                                    struct sample_result *out, struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    for (int i = 0; i < REF_RESULTS; i++) {
        if (backend->sample_tickets[i] != ticket || n > backend->sampling.max_rows)
            continue;
        memcpy(out, backend->samples + (size_t)i * backend->sampling.max_rows, n * sizeof *out);
        return STATUS_OK;
    }
    return error_set(err, STATUS_INTERNAL, "ticket %llu has no samples any more",
                     (unsigned long long)ticket);
}

static enum status ref_read_page(struct backend *base, uint32_t page, void *bytes,
                                 struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    if (page >= backend->layout.n_pages)
        return error_set(err, STATUS_INTERNAL, "page %u of %u", page, backend->layout.n_pages);
    memcpy(bytes, backend->pages + page * backend->layout.page_bytes, backend->layout.page_bytes);
    return STATUS_OK;
}

static enum status ref_write_page(struct backend *base, uint32_t page, const void *bytes,
                                  struct error *err)
{
    struct ref_backend *backend = (struct ref_backend *)base;
    if (page >= backend->layout.n_pages)
        return error_set(err, STATUS_INTERNAL, "page %u of %u", page, backend->layout.n_pages);
    memcpy(backend->pages + page * backend->layout.page_bytes, bytes, backend->layout.page_bytes);
    return STATUS_OK;
}

static void ref_describe(struct backend *base, struct loaded_program *program, uint32_t op,
                         struct buf *out)
{
    (void)base;
    buf_printf(out, "ref %s", op_kind_name(program->program->ops[op].kind));
}

const struct backend_api ref_backend_api = {
    .abi = BACKEND_ABI,
    .name = "ref",
    .summary = "scalar reference implementation, for tests",
    .open = ref_open,
    .close = ref_close,
    .info = ref_info,
    .place = ref_place,
    .load = ref_load,
    .allocate = ref_allocate,
    .submit = ref_submit,
    .sample = ref_sample,
    .wait = ref_wait,
    .read_rows = ref_read_rows,
    .read_samples = ref_read_samples,
    .read_page = ref_read_page,
    .write_page = ref_write_page,
    .describe = ref_describe,
    .observe = ref_observe,
};
