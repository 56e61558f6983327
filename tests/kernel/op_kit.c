/*
 * The kit: random programs, scripts, and playing a script on a backend.
 *
 * Pages are poisoned before use (every bit set: NaN in any float format), and pages that left a
 * window are poisoned again, so that a kernel that reads what it must not see shows at once. Results
 * of a step are read only after the next one was submitted, as the engine may.
 */
#include "op_kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

#define CONTEXT_LEAST 768 /* positions that pages are laid out for, where the program has so many */
#define FREQS_MAX     1024
#define ROWS_MAX      2048 /* of a slice */

static uint64_t mix(uint64_t x)
{
    return random_mix(x + RANDOM_STEP);
}

static uint64_t hash3(uint64_t a, uint64_t b, uint64_t c)
{
    return mix(mix(mix(a) ^ b) ^ c);
}

static float unit(uint64_t bits)
{
    return (float)(bits >> 40) * 0x1p-23f - 1.0f;
}

/* ---- random programs --------------------------------------------------------------------------- */

void kit_init(struct kit *kit, uint64_t seed, uint32_t n_vocab)
{
    *kit = (struct kit){.random = mix(seed)};
    arena_init(&kit->arena, 0);
    kit->program = program_create("kit");
    kit->failed = !kit->program;
    if (kit->failed)
        return;
    kit->program->n_vocab = n_vocab;
    kit->program->n_context = CONTEXT_LEAST;
}

void kit_free(struct kit *kit)
{
    program_free(kit->program);
    arena_release(&kit->arena);
}

uint64_t kit_random(struct kit *kit)
{
    kit->random += RANDOM_STEP;
    return mix(kit->random);
}

float kit_uniform(struct kit *kit)
{
    return unit(kit_random(kit));
}

static void put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

/* Types without a case of their own in random_block(): encoded random values where quant/ encodes,
 * else random bits under a chosen scale. */
static void other_block(struct kit *kit, enum tensor_type type, float size, uint8_t *block)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    uint16_t d = f32_to_f16(size / 256.0f);
    if (tensor_type_encodes(type)) {
        float values[256];
        for (uint32_t i = 0; i < info->block_elements; i++)
            values[i] = kit_uniform(kit) * size;
        tensor_type_encode(type, values, NULL, block, info->block_elements);
    } else if (type == TENSOR_F8_E4M3 || type == TENSOR_F8_E5M2) {
        block[0] &= 0xbf;                /* below 2 */
    } else if (type >= TENSOR_AFFINE8) { /* float32 scales; small codes under FP8's */
        float scale = size / 256.0f, minimum = -size / 2.0f;
        memcpy(block, &scale, sizeof scale);
        if (type == TENSOR_AFFINE8)
            memcpy(block + 4, &minimum, sizeof minimum);
        for (uint32_t i = 4; i < info->block_bytes && type != TENSOR_AFFINE8; i++)
            block[i] &= 0xbf;
    } else if (type == TENSOR_NVFP4) {
        for (int i = 0; i < 4; i++)
            block[i] = (uint8_t)(0x10 | (block[i] & 15)); /* 2^-5 and more */
    } else if (type == TENSOR_IQ1_M) {
        for (int i = 0; i < 4; i++) /* its scale lies in the top nibbles of four words */
            block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (d >> (4 * i) & 15) << 4);
    } else {
        put_u16(block, d);
    }
}

/* One random block of values of about `size`. Quantised types: random bits, chosen scales. */
static void random_block(struct kit *kit, enum tensor_type type, float size, uint8_t *block,
                         uint32_t bytes)
{
    if (type == TENSOR_F32) {
        float value = kit_uniform(kit) * size;
        memcpy(block, &value, sizeof value);
        return;
    }
    if (type == TENSOR_F16 || type == TENSOR_BF16) {
        float value = kit_uniform(kit) * size;
        put_u16(block, type == TENSOR_F16 ? f32_to_f16(value) : f32_to_bf16(value));
        return;
    }
    for (uint32_t i = 0; i < bytes; i++)
        block[i] = (uint8_t)(kit_random(kit) >> 33);
    float vary = 1.0f + 0.5f * kit_uniform(kit);
    if (type == TENSOR_Q8_0) {
        put_u16(block, f32_to_f16(size / 128.0f * vary));
    } else if (type == TENSOR_Q4_0) {
        put_u16(block, f32_to_f16(size / 8.0f * vary));
    } else if (type == TENSOR_Q4_K) { /* up to 63 * 15 scales, minus up to 63 minimums */
        put_u16(block, f32_to_f16(size / 240.0f * vary));
        put_u16(block + 2, f32_to_f16(size / 32.0f * vary));
    } else if (type == TENSOR_Q6_K) {
        put_u16(block + 208, f32_to_f16(size / 2048.0f * vary));
    } else {
        other_block(kit, type, size, block);
    }
}

static int32_t add_weight(struct kit *kit, struct weight weight, float middle, float size)
{
    const struct tensor_type_info *info = tensor_type_info(weight.type);
    uint64_t row_bytes = 0;
    if (kit->failed || !info || !tensor_type_bytes(weight.type, weight.n_cols, &row_bytes)) {
        kit->failed = true;
        return 0;
    }
    const void **parts = arena_alloc(&kit->arena, weight.count, sizeof *parts);
    for (uint32_t p = 0; parts && p < weight.count; p++) {
        uint64_t bytes = row_bytes * weight.n_rows;
        uint8_t *part = arena_alloc(&kit->arena, bytes, 1);
        for (uint64_t at = 0; part && at < bytes; at += info->block_bytes)
            random_block(kit, weight.type, size, part + at, info->block_bytes);
        if (middle != 0.0f && part && weight.type == TENSOR_F32)
            for (uint32_t i = 0; i < weight.n_cols; i++)
                ((float *)(void *)part)[i] += middle;
        kit->failed |= !part;
        parts[p] = part;
    }
    kit->failed |= !parts;
    if (kit->failed)
        return 0;
    weight.parts = parts;
    return program_weight(kit->program, &weight);
}

int32_t kit_matrix(struct kit *kit, const char *name, enum tensor_type type, uint32_t count,
                   uint32_t n_rows, uint32_t n_cols, float size)
{
    struct weight weight = {.name = name,
                            .role = WEIGHT_MATRIX,
                            .type = type,
                            .count = count,
                            .n_rows = n_rows,
                            .n_cols = n_cols};
    return add_weight(kit, weight, 0.0f, size);
}

int32_t kit_table(struct kit *kit, enum tensor_type type, uint32_t width)
{
    struct weight weight = {.name = "table",
                            .role = WEIGHT_TABLE,
                            .type = type,
                            .count = 1,
                            .n_rows = kit->program ? kit->program->n_vocab : 0,
                            .n_cols = width};
    return add_weight(kit, weight, 0.0f, 1.0f);
}

int32_t kit_vector(struct kit *kit, const char *name, enum tensor_type type, uint32_t n,
                   float middle, float size)
{
    struct weight weight = {
        .name = name, .role = WEIGHT_VECTOR, .type = type, .count = 1, .n_rows = 1, .n_cols = n};
    return add_weight(kit, weight, middle, size);
}

int32_t kit_freqs(struct kit *kit, uint32_t n, float base)
{
    float values[FREQS_MAX];
    if (kit->failed || n > FREQS_MAX) {
        kit->failed = true;
        return 0;
    }
    for (uint32_t i = 0; i < n; i++)
        values[i] = powf(base, -(float)i / (float)n);
    return program_constant(kit->program, "freqs", values, n);
}

struct view kit_buffer(struct kit *kit, const char *name, uint32_t width)
{
    if (kit->failed)
        return VIEW_NONE;
    return program_view(kit->program, program_buffer(kit->program, name, width, ROWS_STEP));
}

struct view kit_embed(struct kit *kit, uint32_t width)
{
    struct op op = {.kind = OP_EMBED};
    kit->width = width;
    op.u.embed.out = kit_buffer(kit, "embedded", width);
    op.u.embed.table = kit_table(kit, TENSOR_F32, width);
    op.u.embed.scale = 1.0f;
    if (!kit->failed)
        program_emit(kit->program, &op, "embed");
    return op.u.embed.out;
}

struct view kit_attention(struct kit *kit, const struct kit_heads *heads)
{
    uint32_t dim = heads->dim, q_width = heads->n * dim, kv_width = heads->kv * dim;
    struct state_group group = {.name = "kv",
                                .kind = GROUP_KV,
                                .n_layers = 1,
                                .window = heads->window,
                                .n_kv_heads = heads->kv,
                                .k_head_dim = dim,
                                .v_head_dim = dim};
    struct view rows = kit_embed(kit, q_width + 2 * kv_width),
                out = kit_buffer(kit, "out", q_width);
    if (kit->failed)
        return VIEW_NONE;
    uint32_t id = program_group(kit->program, &group);
    struct view q = view_columns(rows, 0, q_width);
    struct op rope = {.kind = OP_ROPE_KV,
                      .u.rope_kv = {.q = q,
                                    .k = view_columns(rows, q_width, kv_width),
                                    .v = view_columns(rows, q_width + kv_width, kv_width),
                                    .n_heads = heads->n,
                                    .group = id,
                                    .style = ROPE_HALVES,
                                    .rope_dims = dim,
                                    .freqs = kit_freqs(kit, dim / 2, 10000),
                                    .magnitude = 1}};
    program_emit(kit->program, &rope, "rope");
    struct op attention = {.kind = OP_ATTENTION,
                           .u.attention = {.q = q,
                                           .out = out,
                                           .n_heads = heads->n,
                                           .group = id,
                                           .window = heads->window,
                                           .scale = heads->scale,
                                           .sinks = NO_WEIGHT}};
    program_emit(kit->program, &attention, "attention");
    return out;
}

struct view kit_select(struct kit *kit, struct view rows)
{
    struct op op = {.kind = OP_SELECT};
    if (kit->failed)
        return VIEW_NONE;
    kit->program->hidden = program_buffer(kit->program, "hidden", rows.width, ROWS_OUTPUT);
    op.u.select.in = rows;
    op.u.select.out = program_view(kit->program, kit->program->hidden);
    program_emit(kit->program, &op, "select");
    return op.u.select.out;
}

bool kit_finish(struct kit *kit)
{
    if (!kit->failed)
        kit->failed = program_finish(kit->program, &kit->error) != STATUS_OK;
    return !kit->failed;
}

/* ---- scripts ----------------------------------------------------------------------------------- */

void script_init(struct script *script, uint64_t seed, uint32_t target_tokens)
{
    *script = (struct script){.target_tokens = target_tokens, .seed = seed};
}

void script_add(struct script *script, uint32_t step, uint32_t sequence, uint32_t slot,
                uint32_t first, uint32_t n)
{
    if (script->n_slices == KIT_SLICES_MAX)
        abort(); /* a test's own mistake */
    script->slices[script->n_slices++] = (struct script_slice){.step = step,
                                                               .sequence = sequence,
                                                               .slot = slot,
                                                               .first = first,
                                                               .n = n,
                                                               .input = INPUT_TOKENS,
                                                               .mask = MASK_CAUSAL};
}

struct script_slice *script_last(struct script *script)
{
    return &script->slices[script->n_slices - 1];
}

int32_t script_token(const struct script *script, uint32_t sequence, uint32_t position,
                     uint32_t n_vocab)
{
    return (int32_t)(hash3(script->seed, sequence, position) % n_vocab);
}

/* ---- running ----------------------------------------------------------------------------------- */

struct player {
    const struct kit *kit;
    const struct script *script;
    const struct backend_api *api;
    struct backend *backend;
    struct loaded_program *loaded;
    struct step_limits limits;
    struct layout layout;
    uint32_t *free_pages; /* shuffled; taken from the front */
    uint32_t next_page;
    uint32_t *pages;               /* [n_slots, slot_pages]: our copy of the tables */
    uint8_t *poison;               /* one page */
    uint8_t states[KIT_SLOTS_MAX]; /* state slot that holds the current state */
    struct step *steps[2];
    struct run_result *out;
    struct error *err;
};

/* A step whose results are still to be read. */
struct pending {
    uint64_t ticket;
    uint32_t first_row; /* in out->rows */
    uint32_t n_outputs, n_logits;
    uint32_t *order; /* [n_outputs] row within the step of each output */
};

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_MEMORY, "out of memory in the test kit");
}

static void *keep(struct player *p, uint64_t count, size_t size)
{
    return arena_alloc(&p->out->arena, count ? count : 1, size);
}

static void measure(struct player *p)
{
    struct step_limits l = {.n_axes = p->kit->program->n_axes,
                            .embedding_width = p->kit->width,
                            .max_table_writes = 4096};
    for (uint32_t i = 0; i < p->script->n_slices;) {
        uint32_t rows = 0, slices = 0, step = p->script->slices[i].step;
        for (; i < p->script->n_slices && p->script->slices[i].step == step; i++, slices++)
            rows += p->script->slices[i].n;
        l.max_rows = rows > l.max_rows ? rows : l.max_rows;
        l.max_slices = slices > l.max_slices ? slices : l.max_slices;
        p->out->n_rows += rows;
    }
    l.max_rows += 3; /* capacities are not counts */
    l.max_slices += 2;
    l.max_outputs = l.max_embeddings = l.max_rows;
    p->limits = l;
}

static enum status prepare_pages(struct player *p, enum tensor_type kv_type)
{
    const struct program *program = p->kit->program;
    struct layout *l = &p->layout;
    /* Real models are made for more positions than scripts have. */
    uint32_t context = CONTEXT_LEAST;
    for (uint32_t i = 0; i < p->script->n_slices; i++) {
        uint32_t end = p->script->slices[i].first + p->script->slices[i].n;
        context = end > context ? end : context;
    }
    context = program->n_context < context ? program->n_context : context;
    enum status status =
        layout_plan(program, kv_type, KIT_SLOTS_MAX, context, p->script->target_tokens, l, p->err);
    if (status != STATUS_OK)
        return status;
    l->n_pages = l->n_slots * l->slot_pages + 3;
    p->free_pages = keep(p, l->n_pages, sizeof *p->free_pages);
    p->pages = keep(p, (uint64_t)l->n_slots * l->slot_pages, sizeof *p->pages);
    p->poison = keep(p, l->page_bytes, 1);
    if (!p->free_pages || !p->pages || !p->poison)
        return no_memory(p->err);
    memset(p->poison, 0xff, l->page_bytes);
    for (uint64_t i = 0; i < (uint64_t)l->n_slots * l->slot_pages; i++)
        p->pages[i] = PAGE_NONE;
    for (uint32_t i = 0; i < l->n_pages; i++) {
        uint32_t j = (uint32_t)(hash3(p->script->seed, i, 7) % (i + 1));
        p->free_pages[i] = p->free_pages[j];
        p->free_pages[j] = i;
    }
    return STATUS_OK;
}

static enum status load(struct player *p, const struct backend_config *config)
{
    const struct program *program = p->kit->program;
    struct placed_weight **placed = keep(p, program->n_weights, sizeof *placed);
    if (!placed)
        return no_memory(p->err);
    enum status status = p->api->open(config, &p->backend, p->err);
    for (uint32_t i = 0; i < program->n_weights && status == STATUS_OK; i++)
        status = p->api->place(p->backend, program, i, &placed[i], p->err);
    if (status == STATUS_OK)
        status = p->api->load(p->backend, program, placed, &p->limits, &p->loaded, p->err);
    struct sample_limits sampling = {.max_rows = p->limits.max_outputs,
                                     .max_history_writes = 1,
                                     .max_biases = 1,
                                     .max_masks = 1,
                                     .n_vocab = program->n_vocab};
    if (status == STATUS_OK)
        status = p->api->allocate(p->backend, &p->layout, program->n_context, &sampling, p->err);
    for (uint32_t i = 0; i < p->layout.n_pages && status == STATUS_OK; i++)
        status = p->api->write_page(p->backend, i, p->poison, p->err);
    return status;
}

static void describe(struct player *p)
{
    struct buf text = {0};
    for (uint32_t i = 0; i < p->kit->program->n_ops; i++) {
        if (i)
            buf_append_cstr(&text, "; ");
        p->api->describe(p->backend, p->loaded, i, &text);
    }
    snprintf(p->out->kernels, sizeof p->out->kernels, "%s", text.data ? text.data : "");
    buf_release(&text);
}

/* Table entry `index` of a slot gets a page, if it has none. */
static bool take_page(struct player *p, struct step *step, uint32_t slot, uint32_t group,
                      uint32_t index)
{
    uint32_t *entry = &p->pages[layout_table_index(&p->layout, slot, group, index)];
    if (*entry != PAGE_NONE)
        return true;
    *entry = p->free_pages[p->next_page++];
    return step_add_table_write(step, (struct table_write){slot, group, index, *entry});
}

/* Pages for positions [0, end) of a slot; poisons those that left a window. */
static enum status extend(struct player *p, struct step *step, const struct script_slice *s)
{
    for (uint32_t g = 0; g < p->layout.n_groups; g++) {
        const struct group_layout *group = &p->layout.groups[g];
        if (group->kind == GROUP_RECURRENT) {
            for (uint32_t i = 0; i < group->max_pages; i++)
                if (!take_page(p, step, s->slot, g, i))
                    return error_set(p->err, STATUS_INTERNAL, "kit: too many table writes");
            continue;
        }
        uint32_t visible =
            group->window && s->first + 1 > group->window ? s->first + 1 - group->window : 0;
        for (uint32_t i = 0; i <= (s->first + s->n - 1) / group->tokens_per_page; i++) {
            if (!take_page(p, step, s->slot, g, i))
                return error_set(p->err, STATUS_INTERNAL, "kit: too many table writes");
            uint32_t page = p->pages[layout_table_index(&p->layout, s->slot, g, i)];
            if ((i + 1) * group->tokens_per_page > visible)
                continue;
            enum status status = p->api->write_page(p->backend, page, p->poison, p->err);
            if (status != STATUS_OK)
                return status;
        }
    }
    return STATUS_OK;
}

static void fill_embeddings(const struct player *p, struct step *step, const struct script_slice *s)
{
    float *rows = (float *)(void *)((char *)step + step->embeddings_at);
    for (uint32_t i = 0; i < s->n; i++, step->n_embeddings++)
        for (uint32_t c = 0; c < p->kit->width; c++)
            rows[(size_t)step->n_embeddings * p->kit->width + c] = unit(
                hash3(p->script->seed ^ 0x656d62, s->sequence, (uint64_t)(s->first + i) << 32 | c));
}

/* Axes past the first get positions of their own, as images do. */
static void spread_axes(struct step *step, const struct script_slice *s, uint32_t first_row)
{
    int32_t *positions = (int32_t *)(void *)((char *)step + step->positions_at);
    for (uint32_t axis = 1; axis < step->limits.n_axes; axis++)
        for (uint32_t i = 0; i < s->n; i++)
            positions[(size_t)axis * step->limits.max_rows + first_row + i] =
                (int32_t)((s->first + i) / (axis + 1) + 3 * axis);
}

static enum status add_slice(struct player *p, struct step *step, const struct script_slice *s,
                             bool first_of_slot)
{
    enum status status = extend(p, step, s);
    if (status != STATUS_OK)
        return status;
    uint8_t current = p->states[s->slot];
    struct slice slice = {
        .slot = s->slot,
        .first_position = s->first,
        .n_rows = s->n,
        .numeric_class = s->numeric_class,
        .input = s->input,
        .mask = s->mask,
        .input_offset = step->n_embeddings,
        /* The first slice of a slot reads the old state, the following ones what it wrote. */
        .state_read = first_of_slot ? current : current ^ 1u,
        .state_write = current ^ 1u,
    };
    int32_t tokens[ROWS_MAX];
    if (s->n > ROWS_MAX)
        return error_set(p->err, STATUS_INTERNAL, "kit: a slice of %u rows", s->n);
    for (uint32_t i = 0; i < s->n; i++)
        tokens[i] = script_token(p->script, s->sequence, s->first + i, p->kit->program->n_vocab);
    uint32_t first_row = step->n_rows;
    if (!step_add_slice(step, &slice, tokens))
        return error_set(p->err, STATUS_INTERNAL, "kit: the step is full");
    spread_axes(step, s, first_row);
    if (s->input == INPUT_EMBEDDINGS)
        fill_embeddings(p, step, s);
    return STATUS_OK;
}

/* All rows are outputs; those whose position is 1 modulo 3 want no logits and come last. */
static enum status add_outputs(struct player *p, const struct step *step, struct pending *pending)
{
    struct step *writable = (struct step *)(uintptr_t)step;
    pending->order = keep(p, step->n_rows, sizeof *pending->order);
    if (!pending->order)
        return no_memory(p->err);
    for (int want = 1; want >= 0; want--)
        for (uint32_t row = 0; row < step->n_rows; row++) {
            bool logits = step_row_position(step, row) % 3 != 1;
            if (logits != (want == 1))
                continue;
            bool has = p->kit->program->logits != NO_BUFFER;
            pending->order[step->n_outputs] = row;
            if (!step_add_output(writable, row, logits && has))
                return error_set(p->err, STATUS_INTERNAL, "kit: too many outputs");
        }
    pending->n_outputs = step->n_outputs;
    pending->n_logits = step->n_logits;
    return STATUS_OK;
}

/* In two parts, so that `first` matters. */
static enum status read_part(struct player *p, const struct pending *pending, enum result_kind kind,
                             uint32_t n, uint32_t width, float *to)
{
    uint32_t half = n / 2;
    enum status status =
        p->api->read_rows(p->backend, p->loaded, kind, pending->ticket, 0, half, to, p->err);
    if (status == STATUS_OK)
        status = p->api->read_rows(p->backend, p->loaded, kind, pending->ticket, half, n - half,
                                   to + (size_t)half * width, p->err);
    return status;
}

static enum status read_results(struct player *p, const struct pending *pending)
{
    if (pending->ticket == 0)
        return STATUS_OK;
    struct run_result *out = p->out;
    float *hidden = keep(p, (uint64_t)pending->n_outputs * out->hidden_width, sizeof(float));
    float *logits = keep(p, (uint64_t)pending->n_logits * out->n_vocab, sizeof(float));
    if (!hidden || !logits)
        return no_memory(p->err);
    enum status status = p->api->wait(p->backend, pending->ticket, p->err);
    if (status == STATUS_OK)
        status =
            read_part(p, pending, RESULT_HIDDEN, pending->n_outputs, out->hidden_width, hidden);
    if (status == STATUS_OK && pending->n_logits)
        status = read_part(p, pending, RESULT_LOGITS, pending->n_logits, out->n_vocab, logits);
    for (uint32_t i = 0; i < pending->n_outputs; i++) {
        struct run_row *row = &out->rows[pending->first_row + pending->order[i]];
        row->hidden = hidden + (size_t)i * out->hidden_width;
        row->logits = i < pending->n_logits ? logits + (size_t)i * out->n_vocab : NULL;
    }
    return status;
}

static bool slot_seen(const struct script *script, uint32_t from, uint32_t to, uint32_t slot)
{
    for (uint32_t i = from; i < to; i++)
        if (script->slices[i].slot == slot)
            return true;
    return false;
}

/* Builds and submits the step that begins at slice *at. */
static enum status play_step(struct player *p, uint32_t *at, uint32_t first_row, struct step *step,
                             struct pending *pending)
{
    const struct script *script = p->script;
    uint32_t begin = *at, number = script->slices[begin].step, row = first_row;
    *pending = (struct pending){.first_row = first_row};
    step_clear(step, number);
    enum status status = STATUS_OK;
    for (; *at < script->n_slices && script->slices[*at].step == number && status == STATUS_OK;
         (*at)++) {
        const struct script_slice *s = &script->slices[*at];
        status = add_slice(p, step, s, !slot_seen(script, begin, *at, s->slot));
        for (uint32_t i = 0; i < s->n; i++, row++) {
            p->out->rows[row].sequence = s->sequence;
            p->out->rows[row].position = s->first + i;
        }
    }
    for (uint32_t i = begin; i < *at; i++)
        if (!slot_seen(script, begin, i, script->slices[i].slot))
            p->states[script->slices[i].slot] ^= 1;
    if (status == STATUS_OK)
        status = add_outputs(p, step, pending);
    if (status == STATUS_OK)
        status = p->api->submit(p->backend, p->loaded, step, &pending->ticket, p->err);
    return status;
}

static enum status play(struct player *p)
{
    struct pending pending[2] = {{0}, {0}};
    enum status status = STATUS_OK;
    uint32_t row = 0, n = 0;
    for (int i = 0; i < 2; i++) {
        void *memory = keep(p, step_bytes(&p->limits) + 64, 1);
        if (!memory)
            return no_memory(p->err);
        memory = (char *)memory + (64 - (uintptr_t)memory % 64) % 64;
        p->steps[i] = step_init(memory, &p->limits);
    }
    for (uint32_t at = 0; at < p->script->n_slices && status == STATUS_OK; n++) {
        struct step *step = p->steps[n % 2];
        status = play_step(p, &at, row, step, &pending[n % 2]);
        row += step->n_rows;
        if (status == STATUS_OK && n > 0)
            status = read_results(p, &pending[(n + 1) % 2]);
    }
    if (status == STATUS_OK && n > 0)
        status = read_results(p, &pending[(n + 1) % 2]);
    return status;
}

enum status kit_run(const struct kit *kit, const struct script *script,
                    const struct backend_api *api, const struct backend_config *config,
                    enum tensor_type kv_type, struct run_result *out, struct error *err)
{
    *out = (struct run_result){.n_vocab = kit->program ? kit->program->n_vocab : 0};
    arena_init(&out->arena, 0);
    if (kit->failed)
        return error_set(err, STATUS_INTERNAL, "kit: the program is not valid: %s",
                         kit->error.message);
    out->hidden_width = kit->program->buffers[kit->program->hidden].width;
    struct player p = {.kit = kit, .script = script, .api = api, .out = out, .err = err};
    measure(&p);
    out->rows = keep(&p, out->n_rows, sizeof *out->rows);
    if (!out->rows)
        return no_memory(err);
    enum status status = prepare_pages(&p, kv_type);
    if (status == STATUS_OK)
        status = load(&p, config);
    if (status == STATUS_OK) {
        describe(&p);
        status = play(&p);
    }
    if (p.backend)
        api->close(p.backend);
    return status;
}

void run_result_free(struct run_result *result)
{
    arena_release(&result->arena);
}
