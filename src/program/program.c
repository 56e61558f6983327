/*
 * Building a program. Everything lives in one arena; the three arrays double inside it, which wastes
 * at most their own size once and keeps every earlier pointer out of anybody's hands: ids are
 * indexes, and pointers into the arrays are taken only after program_finish().
 */
#include "program/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "program/check.h"

#define PROGRAM_BUFFERS_MAX 4096
#define PROGRAM_WEIGHTS_MAX (1u << 20)
#define PROGRAM_OPS_MAX     (1u << 20)

struct program_store {
    struct arena arena;
    uint32_t buffers_capacity, weights_capacity, ops_capacity;
    bool finished;
    struct error error; /* first error of building; status OK while there is none */
};

struct program *program_create(const char *name)
{
    struct program *program = calloc(1, sizeof *program);
    struct program_store *store = calloc(1, sizeof *store);
    if (!program || !store) {
        free(program);
        free(store);
        return NULL;
    }
    arena_init(&store->arena, 0);
    program->store = store;
    program->name = arena_copy_cstr(&store->arena, name);
    program->n_axes = 1;
    program->row_alignment = 1;
    program->hidden = NO_BUFFER;
    program->logits = NO_BUFFER;
    return program;
}

void program_free(struct program *program)
{
    if (!program)
        return;
    arena_release(&program->store->arena);
    free(program->store);
    free(program);
}

void program_fail(struct program *program, enum status status, const char *format, ...)
{
    struct error *err = &program->store->error;
    if (err->status != STATUS_OK)
        return;
    va_list args;
    va_start(args, format);
    error_setv(err, status, format, args);
    va_end(args);
}

/* Room for one more item; returns the (possibly moved) array, or NULL after recording the error. */
static void *grow(struct program *program, void *items, uint32_t count, uint32_t *capacity,
                  size_t size, uint32_t limit)
{
    if (count < *capacity)
        return items;
    if (count >= limit) {
        program_fail(program, STATUS_LIMIT, "program has more than %u items of a kind", limit);
        return NULL;
    }
    uint32_t larger = *capacity ? *capacity * 2 : 64;
    void *moved = arena_alloc(&program->store->arena, larger, size);
    if (!moved) {
        program_fail(program, STATUS_MEMORY, "out of memory while building the program");
        return NULL;
    }
    if (count)
        memcpy(moved, items, count * size);
    *capacity = larger;
    return moved;
}

int32_t program_buffer(struct program *program, const char *name, uint32_t width,
                       enum buffer_rows rows)
{
    void *items =
        grow(program, program->buffers, program->n_buffers, &program->store->buffers_capacity,
             sizeof *program->buffers, PROGRAM_BUFFERS_MAX);
    if (!items)
        return 0;
    program->buffers = (struct buffer *)items;
    if (width == 0)
        program_fail(program, STATUS_MODEL, "buffer %s would have no columns", name);
    program->buffers[program->n_buffers] = (struct buffer){
        .name = arena_copy_cstr(&program->store->arena, name),
        .width = width,
        .rows = rows,
    };
    return (int32_t)program->n_buffers++;
}

struct view program_view(const struct program *program, int32_t buffer)
{
    if (buffer < 0 || (uint32_t)buffer >= program->n_buffers)
        return VIEW_NONE;
    return (struct view){buffer, 0, program->buffers[buffer].width};
}

struct view view_columns(struct view view, uint32_t column, uint32_t width)
{
    return (struct view){view.buffer, view.column + column, width};
}

static int32_t add_weight(struct program *program, const struct weight *weight)
{
    void *items =
        grow(program, program->weights, program->n_weights, &program->store->weights_capacity,
             sizeof *program->weights, PROGRAM_WEIGHTS_MAX);
    const void **parts = arena_alloc(&program->store->arena, weight->count, sizeof *parts);
    if (!items || !parts)
        return 0;
    memcpy(parts, weight->parts, weight->count * sizeof *parts);
    program->weights = (struct weight *)items;
    struct weight *copy = &program->weights[program->n_weights];
    *copy = *weight;
    copy->parts = parts;
    copy->name = arena_copy_cstr(&program->store->arena, weight->name);
    return (int32_t)program->n_weights++;
}

int32_t program_weight(struct program *program, const struct weight *weight)
{
    return add_weight(program, weight);
}

void *program_memory(struct program *program, size_t bytes)
{
    void *memory = arena_alloc(&program->store->arena, bytes ? bytes : 1, 1);
    if (!memory)
        program_fail(program, STATUS_MEMORY, "out of memory while building the program");
    return memory;
}

int32_t program_constant(struct program *program, const char *name, const float *values, uint32_t n)
{
    float *copy = arena_alloc(&program->store->arena, n, sizeof *copy);
    if (!copy) {
        program_fail(program, STATUS_MEMORY, "out of memory while building the program");
        return 0;
    }
    memcpy(copy, values, n * sizeof *copy);
    const void *part = copy;
    struct weight weight = {.name = name,
                            .role = WEIGHT_CONSTANT,
                            .type = TENSOR_F32,
                            .count = 1,
                            .n_rows = 1,
                            .n_cols = n,
                            .parts = &part};
    return add_weight(program, &weight);
}

uint32_t program_group(struct program *program, const struct state_group *group)
{
    if (program->n_groups == PROGRAM_GROUPS_MAX) {
        program_fail(program, STATUS_LIMIT, "more than %d layer groups", PROGRAM_GROUPS_MAX);
        return 0;
    }
    program->groups[program->n_groups] = *group;
    program->groups[program->n_groups].name = arena_copy_cstr(&program->store->arena, group->name);
    return program->n_groups++;
}

void program_emit(struct program *program, const struct op *op, const char *label, ...)
{
    void *items = grow(program, program->ops, program->n_ops, &program->store->ops_capacity,
                       sizeof *program->ops, PROGRAM_OPS_MAX);
    if (!items)
        return;
    char text[128];
    va_list args;
    va_start(args, label);
    vsnprintf(text, sizeof text, label, args);
    va_end(args);
    program->ops = (struct op *)items;
    program->ops[program->n_ops] = *op;
    program->ops[program->n_ops].label = arena_copy_cstr(&program->store->arena, text);
    program->n_ops++;
}

/* ---- buffer plan ------------------------------------------------------------------------------ */

#define PLAN_ALIGN_WORDS 16 /* 64 bytes: a cache line, a vector register */

struct lifetime {
    uint32_t first, last; /* operation indexes, inclusive */
    bool used;
};

static void touch(struct lifetime *lives, struct view view, uint32_t op)
{
    if (view.buffer == NO_BUFFER)
        return;
    struct lifetime *life = &lives[view.buffer];
    if (!life->used)
        *life = (struct lifetime){op, op, true};
    life->last = op;
}

/* First offset at which `words` fit beside all planned buffers alive at the same time. Restarts
 * after each collision: programs have tens of buffers. */
static uint64_t first_fit(const struct program *program, const struct lifetime *lives,
                          const bool *planned, uint32_t buffer, uint64_t words)
{
    uint64_t offset = 0;
    for (uint32_t i = 0; i < program->n_buffers; i++) {
        const struct buffer *other = &program->buffers[i];
        if (!planned[i] || other->rows != program->buffers[buffer].rows ||
            lives[i].last < lives[buffer].first || lives[i].first > lives[buffer].last)
            continue;
        uint64_t end = other->offset + other->width;
        if (offset < end && other->offset < offset + words) {
            offset = (end + PLAN_ALIGN_WORDS - 1) / PLAN_ALIGN_WORDS * PLAN_ALIGN_WORDS;
            i = UINT32_MAX; /* start over */
        }
    }
    return offset;
}

static enum status plan_buffers(struct program *program, struct error *err)
{
    uint32_t n = program->n_buffers;
    struct lifetime *lives = arena_alloc(&program->store->arena, n ? n : 1, sizeof *lives);
    bool *planned = arena_alloc(&program->store->arena, n ? n : 1, sizeof *planned);
    if (!lives || !planned)
        return error_set(err, STATUS_MEMORY, "out of memory while planning buffers");
    for (uint32_t i = 0; i < program->n_ops; i++) {
        struct op_operands operands = op_operands(&program->ops[i]);
        for (uint32_t k = 0; k < operands.n; k++)
            touch(lives, *operands.views[k].view, i);
    }
    /* Results are read after the last operation. */
    if (program->hidden != NO_BUFFER)
        touch(lives, program_view(program, program->hidden), program->n_ops);
    if (program->logits != NO_BUFFER)
        touch(lives, program_view(program, program->logits), program->n_ops);
    for (uint32_t i = 0; i < n; i++) {
        struct buffer *buffer = &program->buffers[i];
        uint64_t words =
            ((uint64_t)buffer->width + PLAN_ALIGN_WORDS - 1) / PLAN_ALIGN_WORDS * PLAN_ALIGN_WORDS;
        buffer->offset = first_fit(program, lives, planned, i, words);
        planned[i] = true;
        uint64_t *total =
            buffer->rows == ROWS_STEP ? &program->step_row_words : &program->output_row_words;
        if (buffer->offset + words > *total)
            *total = buffer->offset + words;
    }
    return STATUS_OK;
}

enum status program_finish(struct program *program, struct error *err)
{
    struct program_store *store = program->store;
    if (store->error.status != STATUS_OK)
        return error_set(err, store->error.status, "%s", store->error.message);
    enum status status = program_check(program, err);
    if (status == STATUS_OK)
        status = plan_buffers(program, err);
    store->finished = status == STATUS_OK;
    return status;
}

uint64_t weight_bytes(const struct weight *weight)
{
    uint64_t row = 0;
    if (!tensor_type_bytes(weight->type, weight->n_cols, &row))
        return 0;
    return row * weight->n_rows * weight->count;
}

uint64_t program_weight_bytes(const struct program *program)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        const struct weight *weight = &program->weights[i];
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = program->weights[j].parts[0] == weight->parts[0] &&
                   program->weights[j].n_rows == weight->n_rows;
        if (!seen)
            total += weight_bytes(weight);
    }
    return total;
}
