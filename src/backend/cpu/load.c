/*
 * Loading: choosing a kernel for every weight, and all memory that a program's steps will use.
 *
 * Matrices are packed (pack.c), or stay where they are mapped, in their element type: in exact mode,
 * and where there is no packed kernel. Vectors (norms, biases,
 * frequencies) become floats, since every row reads them; convolution weights are turned to
 * [taps, width], so that channels lie side by side.
 */
#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#endif
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "backend/cpu/internal.h"
#include "base/checked.h"

#define CACHE_LINE 64
#define LARGE      ((size_t)1 << 20)

/* Of a large block, whole pages are given back to the system, which gives others of zeros once they
 * are touched: room for the largest step takes no memory, and no time at the start, until such a step
 * comes. */
static void clear(uint8_t *memory, size_t bytes)
{
#ifdef __linux__
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (page - (uintptr_t)memory % page) % page;
    size_t whole = bytes >= LARGE ? (bytes - before) / page * page : 0;
    if (whole && madvise(memory + before, whole, MADV_DONTNEED) == 0) {
        memset(memory, 0, before);
        memset(memory + before + whole, 0, bytes - before - whole);
        return;
    }
#endif
    memset(memory, 0, bytes);
}

void *cpu_memory(uint64_t count, uint64_t size)
{
    uint64_t bytes;
    if (!checked_mul_u64(count, size, &bytes) ||
        !checked_round_up_u64(bytes ? bytes : 1, CACHE_LINE, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    void *memory = aligned_alloc(CACHE_LINE, (size_t)bytes);
    if (memory)
        clear(memory, (size_t)bytes);
    return memory;
}

/* ---- weights ----------------------------------------------------------------------------------- */

/* Whether and with what: fast mode packs matrices of whole blocks. */
const struct packed_kernel *packed_kernel_for(const struct cpu_backend *backend,
                                              const struct program *program, uint32_t weight)
{
    const struct weight *w = &program->weights[weight];
    const struct packed_layout *layout = packed_layout(w->type);
    const struct tensor_type_info *info = tensor_type_info(w->type);
    if (backend->config.exact || !layout || w->n_rows < PANEL_ROWS ||
        w->n_cols % layout->block_columns != 0 || !info->decode || !cpu_packs(program, weight))
        return NULL;
    return kernel_for_packed(w->type);
}

static enum status place_matrix(struct cpu_backend *backend, const struct program *program,
                                uint32_t weight, struct placed_weight *placed, struct error *err)
{
    const struct weight *w = placed->weight;
    placed->packed = packed_kernel_for(backend, program, weight);
    if (placed->packed) {
        placed->prompt = kernel_for_prompt(w->type);
        placed->layout = packed_layout(w->type);
        return cpu_pack(backend, program, weight, placed, err);
    }
    placed->kernel = kernel_for_weights(w->type);
    if (!placed->kernel)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: the cpu backend has no kernel for tensor type %s yet", w->name,
                         tensor_type_name(w->type));
    if (w->n_rows > 1)
        return STATUS_OK;
    placed->values = cpu_memory(w->n_cols, sizeof *placed->values);
    if (!placed->values)
        return error_set(err, STATUS_MEMORY, "out of memory while placing %s", w->name);
    placed->kernel->decode(w->parts[0], w->n_cols, placed->values);
    return STATUS_OK;
}

enum status cpu_place(struct backend *base, const struct program *program, uint32_t weight,
                      struct placed_weight **out, struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    const struct weight *w = &program->weights[weight];
    uint64_t row_bytes;
    if (!tensor_type_bytes(w->type, w->n_cols, &row_bytes))
        return error_set(err, STATUS_MODEL, "%s: rows of %u values are no whole %s blocks", w->name,
                         w->n_cols, tensor_type_name(w->type));
    struct placed_weight *placed = calloc(1, sizeof *placed);
    if (!placed)
        return error_set(err, STATUS_MEMORY, "out of memory while placing %s", w->name);
    *placed = (struct placed_weight){.weight = w, .row_bytes = row_bytes, .next = backend->weights};
    backend->weights = placed;
    *out = placed;
    return place_matrix(backend, program, weight, placed, err);
}

/* ---- programs ---------------------------------------------------------------------------------- */

static void free_program(struct loaded_program *p)
{
    if (p->plans)
        for (uint32_t i = 0; i < p->program->n_ops; i++)
            free(p->plans[i].taps);
    if (p->ropes)
        for (uint32_t i = 0; i < p->n_ropes; i++)
            free(p->ropes[i].turns);
    for (int i = 0; i < RESULT_BANKS; i++)
        free(p->banks[i].words);
    for (int form = 0; form < ACT_FORMS; form++) {
        free(p->acts[0][form]);
        free(p->acts[1][form]);
    }
    free((void *)p->written);
    free(p->row_numbers);
    free(p->step_words);
    free(p->scores);
    free(p->plans);
    free(p->op_ns);
    free((void *)p->taken);
    free(p->ropes);
    free(p);
}

void cpu_unload(struct cpu_backend *backend)
{
    kept_close(backend);
    while (backend->weights) {
        struct placed_weight *next = backend->weights->next;
        free(backend->weights->values);
        free(backend->weights);
        backend->weights = next;
    }
    cpu_release_packed(backend);
    while (backend->programs) {
        struct loaded_program *next = backend->programs->next;
        free_program(backend->programs);
        backend->programs = next;
    }
}

static bool turns_alike(const struct op_rope_kv *a, const struct op_rope_kv *b)
{
    return a->freqs == b->freqs && a->rope_dims == b->rope_dims && a->magnitude == b->magnitude &&
           memcmp(a->sections, b->sections, sizeof a->sections) == 0;
}

static enum status plan_rope(struct loaded_program *p, const struct op_rope_kv *op,
                             struct op_plan *plan, struct error *err)
{
    if (op->style == ROPE_NONE)
        return STATUS_OK;
    for (uint32_t i = 0; i < p->n_ropes; i++)
        if (turns_alike(p->ropes[i].op, op)) {
            plan->rope = &p->ropes[i];
            return STATUS_OK;
        }
    struct rope_table *table = &p->ropes[p->n_ropes];
    *table = (struct rope_table){
        .op = op,
        .turns = cpu_memory((uint64_t)p->limits.max_rows * op->rope_dims, sizeof *table->turns)};
    if (!table->turns)
        return error_set(err, STATUS_MEMORY, "out of memory for rotations of %u rows",
                         p->limits.max_rows);
    p->n_ropes++;
    plan->rope = table;
    return STATUS_OK;
}

static enum status plan_conv(struct loaded_program *p, const struct op_conv *op, const char *label,
                             struct op_plan *plan, struct error *err)
{
    const struct placed_weight *placed = p->placed[op->weight];
    uint32_t width = op->in.width;
    float row[CONV_TAPS_MAX];
    if (op->taps > CONV_TAPS_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "%s: a convolution of %u taps (at most %d)",
                         label, op->taps, CONV_TAPS_MAX);
    plan->taps = cpu_memory((uint64_t)width * op->taps, sizeof *plan->taps);
    if (!plan->taps)
        return error_set(err, STATUS_MEMORY, "out of memory for %s", label);
    for (uint32_t c = 0; c < width; c++) {
        placed->kernel->decode(matrix_rows(placed, 0, c, 1).bytes, op->taps, row);
        for (uint32_t j = 0; j < op->taps; j++)
            plan->taps[(size_t)j * width + c] = row[j];
    }
    return STATUS_OK;
}

static void need_scratch(struct cpu_backend *backend, size_t words)
{
    /* Whole cache lines, so that threads' parts do not touch. */
    words = (words + 15) / 16 * 16;
    if (words > backend->scratch_words)
        backend->scratch_words = words;
}

static enum status plan_op(struct cpu_backend *backend, struct loaded_program *p, uint32_t index,
                           uint64_t *route_words, struct error *err)
{
    const struct op *op = &p->program->ops[index];
    switch (op->kind) {
    case OP_ROPE_KV:
        return plan_rope(p, &op->u.rope_kv, &p->plans[index], err);
    case OP_CONV:
        return plan_conv(p, &op->u.conv, op->label, &p->plans[index], err);
    case OP_ATTENTION:
        need_scratch(backend, attention_scratch_words(backend, p->program, &op->u.attention));
        return STATUS_OK;
    case OP_POSITION:
        need_scratch(backend, op->u.position.in.width);
        return STATUS_OK;
    case OP_DELTA:
        need_scratch(backend, delta_scratch_words(&op->u.delta));
        return STATUS_OK;
    case OP_HEADS:
        need_scratch(backend, heads_scratch_words(&op->u.heads));
        return STATUS_OK;
    case OP_EXPERTS:
        need_scratch(backend, experts_scratch_words(p->program, &op->u.experts, &p->limits));
        return STATUS_OK;
    case OP_ROUTE:
        if (op->u.route.n_experts > *route_words)
            *route_words = op->u.route.n_experts;
        return STATUS_OK;
    default:
        return STATUS_OK;
    }
}

static bool allocate_acts(struct loaded_program *p)
{
    for (int bank = 0; bank < 2; bank++)
        for (int form = 0; form < ACT_FORMS; form++) {
            if (!p->act_bytes[bank][form])
                continue;
            p->acts[bank][form] = cpu_memory(p->act_bytes[bank][form], 1);
            if (!p->acts[bank][form])
                return false;
        }
    uint64_t written = plan_written(p);
    p->written = written ? cpu_memory(written, sizeof *p->written) : NULL;
    return !written || p->written;
}

/* Room to sort a step's rows by class, if an operation asks for that. */
static bool allocate_row_numbers(struct loaded_program *p)
{
    bool needed = false;
    for (uint32_t i = 0; i < p->program->n_ops; i++)
        needed |= p->plans[i].prompt_kernels;
    p->row_numbers = needed ? cpu_memory(p->limits.max_rows, sizeof *p->row_numbers) : NULL;
    return !needed || p->row_numbers;
}

static enum status allocate_program(struct cpu_backend *backend, struct loaded_program *p,
                                    struct error *err)
{
    const struct program *program = p->program;
    p->plans = cpu_memory(program->n_ops, sizeof *p->plans);
    p->ropes = cpu_memory(program->n_ops, sizeof *p->ropes);
    p->op_ns = cpu_memory(program->n_ops, sizeof *p->op_ns);
    p->taken =
        cpu_memory((uint64_t)program->n_ops * backend->n_threads, TAKE_PHASES * sizeof *p->taken);
    if (!p->plans || !p->ropes || !p->op_ns || !p->taken)
        return error_set(err, STATUS_MEMORY, "out of memory while loading a program");
    uint64_t route_words = 0;
    for (uint32_t i = 0; i < program->n_ops; i++) {
        enum status status = plan_op(backend, p, i, &route_words, err);
        if (status != STATUS_OK)
            return status;
    }
    uint32_t rows =
        p->limits.max_rows > p->limits.max_outputs ? p->limits.max_rows : p->limits.max_outputs;
    p->step_words = cpu_memory(program->step_row_words * p->limits.max_rows, sizeof(float));
    p->scores = cpu_memory(route_words * rows, sizeof(float));
    bool complete =
        p->step_words && p->scores && plan_inputs(p) && allocate_acts(p) && allocate_row_numbers(p);
    for (int i = 0; i < RESULT_BANKS; i++) {
        p->banks[i].words =
            cpu_memory(program->output_row_words * p->limits.max_outputs, sizeof(float));
        complete &= p->banks[i].words != NULL;
    }
    plan_barriers(p);
    if (!complete)
        return error_set(err, STATUS_MEMORY, "out of memory for activations of %u rows",
                         p->limits.max_rows);
    return STATUS_OK;
}

enum status cpu_load(struct backend *base, const struct program *program,
                     struct placed_weight *const *placed, const struct step_limits *limits,
                     struct loaded_program **out, struct error *err)
{
    struct cpu_backend *backend = (struct cpu_backend *)base;
    if (backend->allocated)
        return error_set(err, STATUS_INTERNAL, "a program is loaded after allocate()");
    struct loaded_program *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, STATUS_MEMORY, "out of memory while loading a program");
    p->program = program;
    p->placed = placed;
    p->limits = *limits;
    enum status status = allocate_program(backend, p, err);
    if (status != STATUS_OK) {
        free_program(p);
        return status;
    }
    p->next = backend->programs;
    backend->programs = p;
    *out = p;
    return STATUS_OK;
}

/* ---- description ------------------------------------------------------------------------------- */

static void describe_weight(const struct loaded_program *program, int32_t weight, struct buf *out)
{
    buf_append_cstr(out, matrix_kernel_name(program->placed[weight]));
}

/* Of operation `index`, which may have two kernels for it. */
static void describe_factor(const struct loaded_program *program, uint32_t index, int32_t weight,
                            struct buf *out)
{
    const struct placed_weight *placed = program->placed[weight];
    describe_weight(program, weight, out);
    if (program->plans[index].prompt_kernels && placed->prompt)
        buf_printf(out, "; prompts: %s", placed->prompt->name);
}

void cpu_describe(struct backend *base, struct loaded_program *program, uint32_t index,
                  struct buf *out)
{
    const struct cpu_backend *backend = (const struct cpu_backend *)base;
    const struct op *op = &program->program->ops[index];
    switch (op->kind) {
    case OP_EMBED:
        describe_weight(program, op->u.embed.table, out);
        break;
    case OP_LINEAR:
        describe_factor(program, index, op->u.linear.weight, out);
        break;
    case OP_GATED:
        describe_factor(program, index, op->u.gated.gate, out);
        break;
    case OP_ROUTE:
        describe_weight(program, op->u.route.weight, out);
        break;
    case OP_EXPERTS:
        describe_weight(program, op->u.experts.gate, out);
        break;
    case OP_LOGITS:
        describe_weight(program, op->u.logits.weight, out);
        break;
    case OP_ROPE_KV:
    case OP_ATTENTION:
        buf_append_cstr(out, backend->kv ? backend->kv->name : backend->floats->name);
        if (op->kind == OP_ATTENTION &&
            attention_of_prompts(backend, program->program, &op->u.attention))
            buf_printf(out, "; prompts: %s", backend->tiles->name);
        break;
    case OP_NORM:
    case OP_ADD:
    case OP_MUL:
        buf_append_cstr(out, backend->floats->name);
        break;
    default:
        buf_append_cstr(out, "portable f32");
        break;
    }
}
