/*
 * Making the machine, in the order of an engine: layout, weights, load, allocate, steps; then what an
 * engine leaves to its requests: pages for every slot, all with content. Slot 0 has room for the longest
 * prompt, all slots for one generated row at position `context`.
 */
#include "bench/machine.h"

#include <stdlib.h>
#include <string.h>

#include "sample/sample.h"

/* xorshift64* */
static uint64_t next_random(struct machine *m)
{
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * 0x2545f4914f6cdd1du;
}

static float next_uniform(struct machine *m)
{
    return (float)(int32_t)(next_random(m) >> 32) * 0x1p-31f;
}

static uint32_t largest(const uint32_t *sizes, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* Positions that slot 0, and every other slot, must hold. */
static uint32_t slot_positions(const struct bench_config *config, uint32_t slot)
{
    uint32_t generated = config->n_decode ? config->context + 1 : 1;
    uint32_t prompt = slot == 0 ? largest(config->prefill, config->n_prefill) : 0;
    if (config->n_beside && slot == largest(config->decode, config->n_decode))
        prompt = config->context + largest(config->beside, config->n_beside);
    return prompt > generated ? prompt : generated;
}

static uint32_t most_positions(const struct bench_config *config)
{
    uint32_t first = slot_positions(config, 0);
    uint32_t last = slot_positions(config, largest(config->decode, config->n_decode));
    return first > last ? first : last;
}

/* Of any step. */
static uint32_t most_rows(const struct bench_config *config)
{
    uint32_t generated = largest(config->decode, config->n_decode);
    uint32_t mixed = generated + largest(config->beside, config->n_beside);
    return config->step_rows > mixed ? config->step_rows : mixed;
}

static uint32_t group_pages(const struct group_layout *group, uint32_t positions)
{
    if (group->kind == GROUP_RECURRENT)
        return group->max_pages;
    uint32_t pages = (positions + group->tokens_per_page - 1) / group->tokens_per_page;
    return pages < group->max_pages ? pages : group->max_pages;
}

static uint32_t slot_pages(const struct machine *m, uint32_t slot)
{
    uint32_t sum = 0;
    for (uint32_t g = 0; g < m->layout.n_groups; g++)
        sum += group_pages(&m->layout.groups[g], slot_positions(m->config, slot));
    return sum;
}

static enum status plan(struct machine *m, struct error *err)
{
    const struct bench_config *config = m->config;
    uint32_t positions = most_positions(config);
    if (positions > m->program->n_context)
        return error_set(err, STATUS_USAGE,
                         "%u positions are asked for, but the model was made for at most %u",
                         positions, m->program->n_context);
    struct backend_info info;
    m->api->info(m->backend, &info);
    enum tensor_type kv_type = info.kv_type;
    if (config->kv_type)
        kv_type = tensor_type_from_name(str_from(config->kv_type));
    if (kv_type == TENSOR_TYPE_END)
        return error_set(err, STATUS_USAGE, "--kv %s: no element type of that name",
                         config->kv_type);
    uint32_t sequences = largest(config->decode, config->n_decode);
    m->n_slots = sequences ? sequences + (config->n_beside > 0) : 1;
    enum status status =
        layout_plan(m->program, kv_type, m->n_slots, positions, 32, &m->layout, err);
    if (status != STATUS_OK)
        return status;
    uint64_t pages = 0;
    for (uint32_t slot = 0; slot < m->n_slots; slot++)
        pages += slot_pages(m, slot);
    if (pages > UINT32_MAX / sizeof(struct table_write))
        return error_set(err, STATUS_LIMIT, "%u sequences of %u positions need too many pages",
                         m->n_slots, positions);
    m->layout.n_pages = (uint32_t)pages;
    m->limits = (struct step_limits){
        .max_rows = most_rows(config),
        .max_slices = m->n_slots,
        .max_outputs = m->n_slots,
        .max_table_writes = (uint32_t)pages,
        .n_axes = m->program->n_axes,
    };
    m->sampling = (struct sample_limits){
        .max_rows = m->n_slots,
        .max_history_writes = 1,
        .max_biases = 1,
        .n_vocab = m->program->n_vocab,
    };
    return STATUS_OK;
}

static enum status check_memory(const struct machine *m, struct error *err)
{
    struct backend_info info;
    m->api->info(m->backend, &info);
    uint64_t pool = (uint64_t)m->layout.n_pages * m->layout.page_bytes;
    if (info.memory_free && pool > info.memory_free)
        return error_set(err, STATUS_MEMORY,
                         "keys and values take %.1f GiB and %.1f GiB are free: lower --context, or "
                         "the numbers of --decode",
                         (double)pool / 0x1p30, (double)info.memory_free / 0x1p30);
    return STATUS_OK;
}

static enum status place_weights(struct machine *m, struct error *err)
{
    m->placed = calloc(m->program->n_weights + 1, sizeof *m->placed);
    if (!m->placed)
        return error_set(err, STATUS_MEMORY, "out of memory for %u weights", m->program->n_weights);
    for (uint32_t i = 0; i < m->program->n_weights; i++) {
        if (m->config->progress)
            m->config->progress(m->config->progress_context,
                                (double)i / (double)(m->program->n_weights + 1), "placing weights");
        enum status status = m->api->place(m->backend, m->program, i, &m->placed[i], err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* One page of random content of a group. */
static void page_content(struct machine *m, const struct group_layout *group, uint8_t *bytes)
{
    enum { N = 256 };
    const struct tensor_type_info *type =
        tensor_type_info(group->kind == GROUP_RECURRENT ? (uint32_t)TENSOR_F32 : m->layout.kv_type);
    float values[N];
    uint64_t block = 0;
    tensor_type_bytes(group->kind == GROUP_RECURRENT ? (uint32_t)TENSOR_F32 : m->layout.kv_type, N,
                      &block);
    memset(bytes, 0, m->layout.page_bytes);
    for (uint64_t at = 0; block && type->encode && at + block <= m->layout.page_bytes;
         at += block) {
        for (int i = 0; i < N; i++)
            values[i] = next_uniform(m);
        type->encode(values, bytes + at, N);
    }
}

/* Table writes of all slots, and content for every page. */
static enum status fill_pages(struct machine *m, struct error *err)
{
    uint32_t *order = calloc(m->layout.n_pages + 1, sizeof *order);
    uint8_t *bytes = malloc(m->layout.page_bytes);
    enum status status = STATUS_OK;
    if (!order || !bytes)
        status = error_set(err, STATUS_MEMORY, "out of memory for %u pages", m->layout.n_pages);
    for (uint32_t i = 0; status == STATUS_OK && i < m->layout.n_pages; i++)
        order[i] = i;
    for (uint32_t i = m->layout.n_pages; status == STATUS_OK && m->config->shuffle_pages && i > 1;
         i--) {
        uint32_t other = (uint32_t)(next_random(m) % i), page = order[other];
        order[other] = order[i - 1];
        order[i - 1] = page;
    }
    for (uint32_t g = 0, at = 0; g < m->layout.n_groups && status == STATUS_OK; g++) {
        const struct group_layout *group = &m->layout.groups[g];
        page_content(m, group, bytes);
        for (uint32_t slot = 0; slot < m->n_slots; slot++)
            for (uint32_t i = 0; i < group_pages(group, slot_positions(m->config, slot)); i++) {
                struct table_write write = {slot, g, i, order[at++]};
                if (status == STATUS_OK)
                    status = m->api->write_page(m->backend, write.page, bytes, err);
                step_add_table_write(m->step, write);
            }
    }
    free(order);
    free(bytes);
    return status;
}

static enum status make_steps(struct machine *m, struct error *err)
{
    size_t step = step_bytes(&m->limits), sample = sample_step_bytes(&m->sampling);
    if (!step || !sample)
        return error_set(err, STATUS_LIMIT, "a step of %u rows is too large", m->limits.max_rows);
    m->step = malloc(step);
    m->sample_step = malloc(sample);
    m->op_ns = calloc(m->program->n_ops, sizeof *m->op_ns);
    if (!m->step || !m->sample_step || !m->op_ns)
        return error_set(err, STATUS_MEMORY, "out of memory for steps of %u rows",
                         m->limits.max_rows);
    if (!step_init(m->step, &m->limits) || !sample_step_init(m->sample_step, &m->sampling))
        return error_set(err, STATUS_INTERNAL, "step buffers cannot be laid out");
    return STATUS_OK;
}

enum status machine_open(struct machine *m, const struct bench_config *config, struct error *err)
{
    *m = (struct machine){.config = config, .random = 0x9e3779b97f4a7c15u};
    struct backend_config backend = {.n_threads = config->n_threads,
                                     .exact = config->exact,
                                     .batch_invariant = true,
                                     .packed_cache = config->packed_cache,
                                     .packed_cache_bytes = config->packed_cache_size};
    enum status status = backend_find(config->backend, &m->api, NULL, err);
    if (status == STATUS_OK)
        status = model_open(config->model, &m->model, err);
    if (status != STATUS_OK)
        return status;
    m->program = model_program(m->model);
    status = m->api->open(&backend, &m->backend, err);
    if (status == STATUS_OK)
        status = plan(m, err);
    if (status == STATUS_OK)
        status = place_weights(m, err);
    if (status == STATUS_OK)
        status = m->api->load(m->backend, m->program, m->placed, &m->limits, &m->loaded, err);
    if (status == STATUS_OK)
        status = check_memory(m, err);
    if (status == STATUS_OK)
        status =
            m->api->allocate(m->backend, &m->layout, most_positions(config) + 1, &m->sampling, err);
    if (status == STATUS_OK)
        status = make_steps(m, err);
    if (status == STATUS_OK)
        status = fill_pages(m, err);
    return status;
}

void machine_close(struct machine *m)
{
    if (m->backend)
        m->api->close(m->backend);
    free(m->placed);
    free(m->step);
    free(m->sample_step);
    free(m->op_ns);
    model_close(m->model);
}

/* Table entries stand in the step from fill_pages() on until a step has carried them. */
static void begin_step(struct machine *m)
{
    m->step_number++;
    if (m->tables_written)
        step_clear(m->step, m->step_number);
    m->step->number = m->step_number;
    m->tables_written = true;
    sample_step_clear(m->sample_step, m->step_number);
}

static enum status add_slice(struct machine *m, struct slice slice, const int32_t *tokens,
                             struct error *err)
{
    slice.state_read = m->state;
    slice.state_write = 1 - m->state;
    if (!step_add_slice(m->step, &slice, tokens))
        return error_set(err, STATUS_INTERNAL, "a step of too many rows");
    return STATUS_OK;
}

static enum status run_step(struct machine *m, struct error *err)
{
    uint64_t ticket;
    enum status status = m->api->submit(m->backend, m->loaded, m->step, &ticket, err);
    m->state = 1 - m->state;
    if (status == STATUS_OK && m->sample_step->n_rows)
        status = m->api->sample(m->backend, m->loaded, m->sample_step, &ticket, err);
    if (status == STATUS_OK)
        status = m->api->wait(m->backend, ticket, err);
    return status;
}

/* Rows [first, first + n) of a prompt of random tokens. */
static enum status add_prompt(struct machine *m, uint32_t slot, uint32_t first, uint32_t n,
                              struct error *err)
{
    int32_t *tokens = calloc(n, sizeof *tokens);
    if (!tokens)
        return error_set(err, STATUS_MEMORY, "out of memory for %u tokens", n);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(next_random(m) % m->program->n_vocab);
    struct slice slice = {
        .slot = slot, .first_position = first, .n_rows = n, .numeric_class = CLASS_PROMPT};
    enum status status = add_slice(m, slice, tokens, err);
    free(tokens);
    return status;
}

enum status machine_prompt(struct machine *m, uint32_t first, uint32_t n, bool last,
                           struct error *err)
{
    begin_step(m);
    enum status status = add_prompt(m, 0, first, n, err);
    if (last)
        step_add_output(m->step, n - 1, m->program->logits != NO_BUFFER);
    return status == STATUS_OK ? run_step(m, err) : status;
}

enum status machine_generate(struct machine *m, uint32_t n, uint32_t beside, struct error *err)
{
    begin_step(m);
    bool logits = m->program->logits != NO_BUFFER;
    struct sampling greedy;
    sampling_defaults(&greedy);
    greedy.temperature = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t token = (int32_t)(next_random(m) % m->program->n_vocab);
        struct slice slice = {.slot = i,
                              .first_position = m->config->context,
                              .n_rows = 1,
                              .numeric_class = CLASS_GENERATED};
        enum status status = add_slice(m, slice, &token, err);
        if (status != STATUS_OK)
            return status;
        step_add_output(m->step, i, logits);
        struct sample_row row = {.output = i,
                                 .slot = i,
                                 .position = m->config->context + 1,
                                 .parameters = sampling_row_from(&greedy, m->config->context)};
        if (logits && !sample_step_add_row(m->sample_step, &row, NULL, NULL, 0, NULL, NULL))
            return error_set(err, STATUS_INTERNAL, "a sample step of too many rows");
    }
    enum status status = STATUS_OK;
    if (beside)
        status = add_prompt(m, m->n_slots - 1, m->config->context, beside, err);
    return status == STATUS_OK ? run_step(m, err) : status;
}
