/*
 * The CPU backend's life and submission: what stands around a walk.
 *
 * submit() refuses a step that would make a kernel touch memory outside its buffers or pages (a
 * missing page, a slot out of range): one linear check, so that an engine's mistake ends as an
 * error instead of another sequence's data. Everything it needs was allocated before.
 */
#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#endif
#include "backend/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "backend/cpu/internal.h"

/* One thread per performance core that this process may use, within its quota; where the topology
 * cannot be read, one per processor. */
static uint32_t usable_cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    struct hardware *hw = calloc(1, sizeof *hw);
    if (hw && hardware_detect_host(hw, NULL) == STATUS_OK)
        n = (long)hardware_default_threads(hw);
    free(hw);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static enum status cpu_open(const struct backend_config *config, struct backend **out,
                            struct error *err)
{
    struct cpu_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return error_set(err, STATUS_MEMORY, "out of memory while opening the cpu backend");
    backend->base.api = &cpu_backend_api;
    backend->config = *config;
    backend->quantise = kernel_for_activations();
    backend->floats = float_kernels_best();
    backend->tiles = config->exact ? NULL : kernel_for_prompt_attention();
    backend->n_threads = config->n_threads ? config->n_threads : usable_cores();
    enum status status = thread_pool_create(backend->n_threads, NULL, &backend->pool, err);
    if (status == STATUS_OK && config->ahead == BACKEND_AHEAD_ALWAYS)
        status = cpu_queue_create(backend, err);
    if (status != STATUS_OK) {
        thread_pool_free(backend->pool);
        free(backend);
        return status;
    }
    kept_open(backend);
    backend->config.packed_cache = NULL; /* the caller's */
    *out = &backend->base;
    return STATUS_OK;
}

static void cpu_close(struct backend *base)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (!backend)
        return;
    cpu_queue_free(backend);
    thread_pool_free(backend->pool);
    cpu_unload(backend);
    cpu_sample_release(backend);
    free(backend->pages_memory);
    free(backend->tables);
    free(backend->next_tables);
    free(backend->history);
    free(backend->scratch);
    free(backend->parts);
    free(backend);
}

static bool has_prompt_kernels(const struct cpu_backend *backend)
{
    bool any = backend->tiles != NULL;
    for (const struct placed_weight *w = backend->weights; w && !any; w = w->next)
        any = w->prompt != NULL;
    return any;
}

static void cpu_info(struct backend *base, struct backend_info *out)
{
    const struct cpu_backend *backend = (const struct cpu_backend *)base;
    bool prompt_kernels = has_prompt_kernels(backend);
    *out = (struct backend_info){.kv_type = backend->config.exact ? TENSOR_F32 : TENSOR_F16,
                                 .asynchronous = backend->queue != NULL,
                                 .one_class = !prompt_kernels,
                                 .prompt_rows_together = prompt_kernels ? PROMPT_ROWS : 1};
    snprintf(out->description, sizeof out->description, "%u thread%s, %s kernels",
             backend->n_threads, backend->n_threads == 1 ? "" : "s", kernel_set_name());
    long page = sysconf(_SC_PAGESIZE), total = sysconf(_SC_PHYS_PAGES);
    if (page > 0 && total > 0)
        out->memory_total = (uint64_t)page * (uint64_t)total;
    long available = sysconf(_SC_AVPHYS_PAGES);
    if (page > 0 && available > 0)
        out->memory_free = (uint64_t)page * (uint64_t)available;
}

/* ---- allocation -------------------------------------------------------------------------------- */

/* calloc of a large block takes no memory until it is touched; a pool may be larger than is ever
 * used. */
static bool allocate_pages(struct cpu_backend *backend, const struct layout *layout)
{
    const size_t align = (size_t)2 << 20; /* of a huge page */
    if (layout->n_pages > (SIZE_MAX - align) / layout->page_bytes)
        return false;
    backend->pages_memory = calloc((size_t)layout->n_pages * layout->page_bytes + align, 1);
    if (!backend->pages_memory)
        return false;
    uintptr_t at = (uintptr_t)backend->pages_memory;
    backend->pages = (uint8_t *)backend->pages_memory + (align - at % align) % align;
    /* Attention jumps from page to page: with ordinary memory pages every run of keys would miss the
     * processor's table of them. */
#ifdef __linux__
    madvise(backend->pages, (size_t)layout->n_pages * layout->page_bytes, MADV_HUGEPAGE);
#endif
    return true;
}

/* Room for attention of one row of the longest sequence, cut into blocks for all threads. */
static size_t part_words(const struct cpu_backend *backend)
{
    size_t most = 0;
    for (const struct loaded_program *p = backend->programs; p; p = p->next)
        for (uint32_t i = 0; i < p->program->n_ops; i++) {
            const struct op *op = &p->program->ops[i];
            if (op->kind != OP_ATTENTION)
                continue;
            const struct group_layout *g = &backend->layout.groups[op->u.attention.group];
            if (g->kind != GROUP_KV)
                continue;
            size_t words = attention_part_words(p->program, &op->u.attention,
                                                g->max_pages * g->tokens_per_page);
            most = words > most ? words : most;
        }
    return backend->n_threads > 1 ? most : 0;
}

static enum status cpu_allocate(struct backend *base, const struct layout *layout,
                                uint32_t history_capacity, const struct sample_limits *sampling,
                                struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (backend->allocated)
        return error_set(err, STATUS_INTERNAL, "allocate() is called twice");
    backend->kv = float_kernels_format(backend->floats, (enum tensor_type)layout->kv_type);
    if (!backend->kv)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the cpu backend keeps no keys and values of type %s, but f32, f16, bf16, "
                         "f8_e4m3 and q8_0",
                         tensor_type_name(layout->kv_type));
    backend->allocated = true;
    backend->layout = *layout;
    backend->history_capacity = history_capacity;
    uint64_t entries = (uint64_t)layout->n_slots * layout->slot_pages;
    backend->tables = cpu_memory(entries, sizeof *backend->tables);
    backend->next_tables = cpu_memory(entries, sizeof *backend->next_tables);
    backend->history =
        cpu_memory((uint64_t)layout->n_slots * history_capacity, sizeof *backend->history);
    backend->scratch =
        cpu_memory((uint64_t)backend->n_threads * backend->scratch_words, sizeof(float));
    backend->part_words = part_words(backend);
    backend->parts = cpu_memory(backend->part_words, sizeof(float));
    if (!allocate_pages(backend, layout) || !backend->parts || !backend->tables ||
        !backend->next_tables || !backend->history || !backend->scratch)
        return error_set(err, STATUS_MEMORY, "out of memory for %u KV pages of %llu bytes",
                         layout->n_pages, (unsigned long long)layout->page_bytes);
    for (uint64_t i = 0; i < entries; i++)
        backend->tables[i] = backend->next_tables[i] = PAGE_NONE;
    return cpu_sample_allocate(backend, sampling, err);
}

/* ---- submission -------------------------------------------------------------------------------- */

static void write_tables(const struct cpu_backend *backend, const struct step *step,
                         uint32_t *tables)
{
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        struct table_write w = step_table_writes(step)[i];
        tables[layout_table_index(&backend->layout, w.slot, w.group, w.index)] = w.page;
    }
}

static enum status check_changes(const struct cpu_backend *backend, const struct step *step,
                                 struct error *err)
{
    const struct layout *layout = &backend->layout;
    const struct table_write *writes = step_table_writes(step);
    for (uint32_t i = 0; i < step->n_table_writes; i++) {
        const struct table_write *w = &writes[i];
        if (w->slot >= layout->n_slots || w->group >= layout->n_groups ||
            w->index >= layout->groups[w->group].max_pages ||
            (w->page >= layout->n_pages && w->page != PAGE_NONE))
            return error_set(err, STATUS_INTERNAL,
                             "table write %u: slot %u, group %u, index %u, page %u", i, w->slot,
                             w->group, w->index, w->page);
    }
    for (uint32_t i = 0; i < step->n_copies; i++) {
        struct page_copy c = step_copies(step)[i];
        if (c.from >= layout->n_pages || c.to >= layout->n_pages)
            return error_set(err, STATUS_INTERNAL, "page copy %u: %u to %u", i, c.from, c.to);
    }
    return STATUS_OK;
}

/* Entries [first, last] of a slot's table row hold pages. */
static bool pages_present(const struct cpu_backend *backend, uint32_t slot, uint32_t group,
                          uint64_t first, uint64_t last)
{
    if (last >= backend->layout.groups[group].max_pages)
        return false;
    for (uint64_t i = first; i <= last; i++)
        if (backend->next_tables[layout_table_index(&backend->layout, slot, group, (uint32_t)i)] ==
            PAGE_NONE)
            return false;
    return true;
}

static enum status check_pages(const struct cpu_backend *backend, const struct slice *slice,
                               uint32_t index, struct error *err)
{
    for (uint32_t g = 0; g < backend->layout.n_groups; g++) {
        const struct group_layout *group = &backend->layout.groups[g];
        bool present;
        if (group->kind == GROUP_RECURRENT) {
            uint32_t n = group->pages_per_state;
            uint64_t from = (uint64_t)slice->state_read * n, to = (uint64_t)slice->state_write * n;
            present = pages_present(backend, slice->slot, g, to, to + n - 1) &&
                      (slice->first_position == 0 ||
                       pages_present(backend, slice->slot, g, from, from + n - 1));
        } else {
            uint64_t end = (uint64_t)slice->first_position + slice->n_rows;
            uint64_t begin = group->window && slice->first_position + 1 > group->window
                                 ? slice->first_position + 1 - group->window
                                 : 0;
            present = pages_present(backend, slice->slot, g, begin / group->tokens_per_page,
                                    (end - 1) / group->tokens_per_page);
        }
        if (!present)
            return error_set(err, STATUS_INTERNAL,
                             "slice %u: slot %u lacks pages of group %u for positions up to %u",
                             index, slice->slot, g, slice->first_position + slice->n_rows);
    }
    return STATUS_OK;
}

static enum status check_inputs(const struct cpu_run *run, const struct slice *slice,
                                uint32_t index, struct error *err)
{
    const struct program *program = run->program->program;
    if (slice->mask == MASK_TREE)
        return error_set(err, STATUS_UNSUPPORTED, "slice %u: tree masks are not supported yet",
                         index);
    if (slice->input == INPUT_EMBEDDINGS)
        for (uint32_t i = 0; i < program->n_ops; i++)
            if (program->ops[i].kind == OP_EMBED &&
                program->ops[i].u.embed.out.width != run->step->limits.embedding_width)
                return error_set(
                    err, STATUS_INTERNAL, "slice %u: embedding rows are %u wide, the program's %u",
                    index, run->step->limits.embedding_width, program->ops[i].u.embed.out.width);
    if (slice->input == INPUT_SAMPLED && (!run->sampled || slice->input_offset > run->sampled->n ||
                                          slice->n_rows > run->sampled->n - slice->input_offset))
        return error_set(err, STATUS_INTERNAL, "slice %u: sampled tokens %u+%u of %u", index,
                         slice->input_offset, slice->n_rows, run->sampled ? run->sampled->n : 0);
    return STATUS_OK;
}

static enum status check_run(const struct cpu_run *run, struct error *err)
{
    const struct step *step = run->step;
    if (memcmp(&step->limits, &run->program->limits, sizeof step->limits) != 0)
        return error_set(err, STATUS_INTERNAL, "the step was made for other limits");
    if (step->limits.n_axes < run->program->program->n_axes)
        return error_set(err, STATUS_INTERNAL, "the step has %u position axes, the program %u",
                         step->limits.n_axes, run->program->program->n_axes);
    enum status status = step_check(step, step->bytes, run->backend->layout.n_slots,
                                    run->program->program->n_vocab, INT32_MAX, err);
    for (uint32_t i = 0; i < step->n_slices && status == STATUS_OK; i++) {
        const struct slice *slice = step_slices(step) + i;
        status = check_pages(run->backend, slice, i, err);
        if (status == STATUS_OK)
            status = check_inputs(run, slice, i, err);
    }
    return status;
}

static enum status cpu_submit(struct backend *base, struct loaded_program *program,
                              const struct step *step, uint64_t *ticket, struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (!backend->allocated)
        return error_set(err, STATUS_INTERNAL, "submit() before allocate()");
    struct result_bank *bank = &program->banks[program->n_steps % RESULT_BANKS];
    struct cpu_run run = {
        .backend = backend,
        .program = program,
        .step = step,
        .bank = bank,
        .sampled = backend->n_sample_steps
                       ? &backend->samples[(backend->n_sample_steps - 1) % RESULT_BANKS]
                       : NULL,
    };
    enum status status = check_changes(backend, step, err);
    if (status != STATUS_OK)
        return status;
    write_tables(backend, step, backend->next_tables);
    status = check_run(&run, err);
    if (status != STATUS_OK) {
        /* The entries stay written, as if the step had only brought them. */
        cpu_finish(backend, backend->last_ticket);
        write_tables(backend, step, backend->tables);
        return status;
    }
    program->n_steps++;
    backend->last_step_program = program;
    bank->n_outputs = step->n_outputs;
    bank->n_logits = step->n_logits;
    bank->ticket = *ticket = ++backend->last_ticket;
    cpu_enqueue(backend, &(struct cpu_job){.ticket = *ticket, .run = run});
    return STATUS_OK;
}

void cpu_run_step(const struct cpu_run *run)
{
    struct cpu_backend *backend = run->backend;
    uint64_t bytes = backend->layout.page_bytes;
    write_tables(backend, run->step, backend->tables);
    for (uint32_t i = 0; i < run->step->n_copies; i++) {
        struct page_copy c = step_copies(run->step)[i];
        memmove(backend->pages + c.to * bytes, backend->pages + c.from * bytes, bytes);
    }
    run->bank->unread_bytes = 0;
    matrix_sort_rows(run);
    cpu_walk(run);
}

static enum status cpu_wait(struct backend *base, uint64_t ticket, struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (ticket == 0 || ticket > backend->last_ticket)
        return error_set(err, STATUS_INTERNAL, "ticket %llu was never submitted",
                         (unsigned long long)ticket);
    cpu_finish(backend, ticket);
    if (kept_damaged(backend))
        return error_set(err, STATUS_DISK,
                         "the file of packed weights was cut short or became unreadable while in "
                         "use; open the model again");
    return STATUS_OK;
}

/* ---- results ----------------------------------------------------------------------------------- */

static enum status cpu_read_rows(struct backend *base, struct loaded_program *program,
                                 enum result_kind kind, uint64_t ticket, uint32_t first, uint32_t n,
                                 float *out, struct error *err)
{
    (void)base;
    const struct result_bank *bank = NULL;
    for (int i = 0; i < RESULT_BANKS; i++)
        if (program->banks[i].ticket == ticket && ticket != 0)
            bank = &program->banks[i];
    int32_t id = kind == RESULT_LOGITS ? program->program->logits : program->program->hidden;
    uint32_t available = 0;
    if (bank && id != NO_BUFFER)
        available = kind == RESULT_LOGITS ? bank->n_logits : bank->n_outputs;
    if (first > available || n > available - first)
        return error_set(err, STATUS_INTERNAL, "ticket %llu has %u result rows, not %u+%u",
                         (unsigned long long)ticket, available, first, n);
    if (n == 0)
        return STATUS_OK;
    const struct buffer *buffer = &program->program->buffers[id];
    const float *from =
        bank->words + buffer->offset * program->limits.max_outputs + (size_t)first * buffer->width;
    memcpy(out, from, (size_t)n * buffer->width * sizeof *out);
    return STATUS_OK;
}

static uint64_t cpu_unread_bytes(struct backend *base, struct loaded_program *program,
                                 uint64_t ticket)
{
    (void)base;
    for (int i = 0; i < RESULT_BANKS; i++)
        if (program->banks[i].ticket == ticket && ticket != 0)
            return program->banks[i].unread_bytes;
    return 0;
}

static enum status find_page(struct cpu_backend *backend, uint32_t page, uint8_t **out,
                             struct error *err)
{
    cpu_finish(backend, backend->last_ticket);
    if (page >= backend->layout.n_pages)
        return error_set(err, STATUS_INTERNAL, "page %u of %u", page, backend->layout.n_pages);
    *out = backend->pages + page * backend->layout.page_bytes;
    return STATUS_OK;
}

static enum status cpu_read_page(struct backend *base, uint32_t page, void *bytes,
                                 struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    uint8_t *at = NULL;
    enum status status = find_page(backend, page, &at, err);
    if (status == STATUS_OK)
        memcpy(bytes, at, backend->layout.page_bytes);
    return status;
}

static enum status cpu_write_page(struct backend *base, uint32_t page, const void *bytes,
                                  struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    uint8_t *at = NULL;
    enum status status = find_page(backend, page, &at, err);
    if (status == STATUS_OK)
        memcpy(at, bytes, backend->layout.page_bytes);
    return status;
}

/* ---- what there is to tell ---------------------------------------------------------------------- */

static enum status cpu_observe(struct backend *base, struct loaded_program *program,
                               const struct op_observer *observer, struct error *err)
{
    (void)base;
    (void)err;
    program->observer = observer;
    return STATUS_OK;
}

static enum status cpu_profile(struct backend *base, struct loaded_program *program, bool on,
                               uint64_t *ns, struct error *err)
{
    (void)err;
    struct cpu_backend *backend = (struct cpu_backend *)base;
    cpu_finish(backend, backend->last_ticket);
    size_t bytes = program->program->n_ops * sizeof *program->op_ns;
    if (ns)
        memcpy(ns, program->op_ns, bytes);
    if (on)
        memset(program->op_ns, 0, bytes);
    program->profiling = on;
    return STATUS_OK;
}

static void cpu_describe_kernels(struct buf *out)
{
    const struct float_kernels *floats = float_kernels_best();
    const struct tile_attention *tiles = kernel_for_prompt_attention();
    for (uint32_t type = 0; type < TENSOR_TYPE_END; type++) {
        const struct packed_kernel *packed = kernel_for_packed((enum tensor_type)type);
        const struct packed_kernel *prompt = kernel_for_prompt((enum tensor_type)type);
        const struct weight_kernel *weights = kernel_for_weights((enum tensor_type)type);
        if (packed || weights)
            buf_printf(out, "  %-16s %-8s %s%s%s\n", "weights", tensor_type_name(type),
                       packed ? packed->name : weights->name, prompt ? "; prompts: " : "",
                       prompt ? prompt->name : "");
    }
    for (uint32_t i = 0; i < floats->n_formats; i++) {
        bool narrow = tiles && tile_attention_takes(floats->formats[i].type, TILE_STEP, TILE_STEP);
        buf_printf(out, "  %-16s %-8s %s%s%s\n", "keys and values",
                   tensor_type_name(floats->formats[i].type), floats->formats[i].name,
                   narrow ? "; prompts: " : "", narrow ? tiles->name : "");
    }
    buf_printf(out, "  %-16s %-8s %s\n", "everything else", "F32", floats->name);
}

const struct backend_api cpu_backend_api = {
    .abi = BACKEND_ABI,
    .name = "cpu",
    .summary = "all processor cores",
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .place = cpu_place,
    .load = cpu_load,
    .allocate = cpu_allocate,
    .submit = cpu_submit,
    .sample = cpu_sample,
    .wait = cpu_wait,
    .read_rows = cpu_read_rows,
    .read_samples = cpu_read_samples,
    .unread_bytes = cpu_unread_bytes,
    .read_page = cpu_read_page,
    .write_page = cpu_write_page,
    .describe = cpu_describe,
    .describe_kernels = cpu_describe_kernels,
    .profile = cpu_profile,
    .observe = cpu_observe,
};
