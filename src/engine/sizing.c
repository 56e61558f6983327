/*
 * What fits. Decided once when an engine opens; nothing grows afterwards.
 *
 *   weights   more bytes than the memory they go to has available: refused, with both sizes
 *   context   the caller's, or the model's up to 8,192 positions (a scheduler that reserves a whole
 *             context for an open-ended request should not reserve 128k of them), halved while one
 *             does not fit into the pool's share
 *   pool      the caller's kv_memory, or one full context for each sequence, within a quarter of
 *             what is available; an explicit context may take up to all of it
 *   outputs   logits rows of a step: all of them for small vocabularies, 16 MiB worth for large ones
 *
 * Memory is the device's own where the backend reports one, else this machine's.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/random.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/internal.h"

#define SEQUENCES_MAX    4096
#define STEP_ROWS_MAX    (1u << 16)
#define CHECKPOINT_LEAST 256 /* tokens */
#define CHECKPOINT_MOST  2048

static const char *bytes_text(uint64_t bytes, char out[32])
{
    if (bytes >= (uint64_t)1 << 30)
        snprintf(out, 32, "%.1f GiB", (double)bytes / (double)((uint64_t)1 << 30));
    else
        snprintf(out, 32, "%.1f MiB", (double)bytes / (1 << 20));
    return out;
}

/* A backend on the processor has the machine's memory; hw knows better what of it is available
 * (page cache, control groups). 0: unknown. */
static uint64_t memory_available(const struct hardware *hw, const struct backend_info *info)
{
    bool host = info->memory_total == 0 || info->memory_total == hw->memory_total;
    return host ? hw->memory_available : info->memory_free;
}

enum status sizing_check_weights(const struct program *program, const struct hardware *hw,
                                 const struct backend_info *info, struct error *err)
{
    uint64_t bytes = program_weight_bytes(program), available = memory_available(hw, info);
    char a[32], b[32];
    if (available == 0 || bytes <= available)
        return STATUS_OK;
    return error_set(err, STATUS_MEMORY,
                     "the model's weights take %s and %s of memory is available: use a smaller or "
                     "more strongly quantized model",
                     bytes_text(bytes, a), bytes_text(available, b));
}

/* Tokens between a prompt's checkpoints: a state takes at most an eighth of the pages that hold the
 * tokens between two. The fewest still make a good step, since chunks are cut there. */
static uint32_t checkpoint_every(const struct kv_config *kv)
{
    uint64_t states = 0, pages = 0;
    for (uint32_t i = 0; i < kv->n_groups; i++) {
        const struct kv_group_config *g = &kv->groups[i];
        states += g->fixed_pages / 2;
        if (g->tokens_per_page && g->window == 0)
            pages += (CHECKPOINT_MOST + g->tokens_per_page - 1) / g->tokens_per_page;
    }
    uint64_t tokens = pages ? CHECKPOINT_MOST * 8 * states / pages : CHECKPOINT_MOST;
    tokens = tokens > CHECKPOINT_LEAST ? tokens : CHECKPOINT_LEAST;
    return tokens < CHECKPOINT_MOST ? (uint32_t)tokens : CHECKPOINT_MOST;
}

/* Layout and page geometry for size->n_context. */
static enum status plan_layout(const struct program *program, enum tensor_type kv_type,
                               struct engine_size *size, struct error *err)
{
    enum status status = layout_plan(program, kv_type, size->n_slots, size->n_context,
                                     ENGINE_PAGE_TOKENS, &size->layout, err);
    if (status != STATUS_OK)
        return status;
    size->kv.n_slots = size->n_slots;
    size->kv.n_groups = size->layout.n_groups;
    size->kv.max_extend = size->max_rows;
    size->kv.alignment = program->row_alignment;
    size->kv.identity = (uint64_t)kv_type;
    for (uint32_t i = 0; i < size->layout.n_groups; i++) {
        const struct group_layout *g = &size->layout.groups[i];
        size->kv.groups[i] = (struct kv_group_config){
            .tokens_per_page = g->tokens_per_page,
            .fixed_pages = g->tokens_per_page ? 0 : g->max_pages,
            .window = g->window,
            .max_pages = g->max_pages,
        };
    }
    size->kv.checkpoint_every = checkpoint_every(&size->kv);
    return STATUS_OK;
}

static enum status choose_context(const struct program *program,
                                  const sluice_engine_options *options, struct engine_size *out,
                                  struct error *err)
{
    uint32_t most = program->n_context;
    if (options->n_context > most)
        return error_set(err, STATUS_USAGE,
                         "n_context: %u positions, but the model was made for at most %u",
                         options->n_context, most);
    out->n_context = options->n_context              ? options->n_context
                     : most < ENGINE_CONTEXT_DEFAULT ? most
                                                     : ENGINE_CONTEXT_DEFAULT;
    return STATUS_OK;
}

static uint32_t choose_outputs(const struct program *program, uint32_t least, uint32_t max_rows)
{
    uint64_t width =
        program->logits == NO_BUFFER ? program->buffers[program->hidden].width : program->n_vocab;
    uint64_t fit = ENGINE_OUTPUT_BYTES / (width * sizeof(float));
    fit = fit < least ? least : fit;
    return fit < max_rows ? (uint32_t)fit : max_rows;
}

enum status sizing_limits(const struct program *program, const struct backend_info *info,
                          const sluice_engine_options *options, struct engine_size *out,
                          struct error *err)
{
    *out = (struct engine_size){0};
    uint32_t fit = options->step_rows > program->row_alignment
                       ? options->step_rows + 1 - program->row_alignment
                       : 1;
    if (options->step_rows == 0 || fit > ENGINE_SEQUENCES)
        fit = ENGINE_SEQUENCES;
    out->n_slots = options->max_sequences ? options->max_sequences : fit;
    if (out->n_slots > SEQUENCES_MAX || options->step_rows > STEP_ROWS_MAX)
        return error_set(err, STATUS_USAGE, "max_sequences: at most %d; step_rows: at most %u",
                         SEQUENCES_MAX, STEP_ROWS_MAX);
    uint32_t least = out->n_slots - 1 + program->row_alignment;
    uint32_t rows = least > ENGINE_STEP_ROWS ? least : ENGINE_STEP_ROWS;
    out->max_rows = options->step_rows ? options->step_rows : rows;
    if (out->max_rows < least)
        return error_set(err, STATUS_USAGE,
                         "step_rows: %u is too few for max_sequences %u, at least %u are needed",
                         out->max_rows, out->n_slots, least);
    out->max_outputs = choose_outputs(program, least, out->max_rows);
    out->max_queued = options->max_queued ? options->max_queued : ENGINE_QUEUE_MAX;
    out->max_queued_tokens = options->max_queued_tokens;
    out->max_key_requests = options->max_key_requests;
    out->cache_by_key = options->cache_by_key;
    enum tensor_type kv_type = info->kv_type;
    enum status status = choose_context(program, options, out, err);
    if (status == STATUS_OK && options->kv_type)
        status = layout_kv_type(options->kv_type, &kv_type, err);
    if (status == STATUS_OK)
        status = plan_layout(program, kv_type, out, err);
    if (status != STATUS_OK)
        return status;
    /* Two prompts that begin with a full table from the index, and what every sequence may take. */
    uint64_t per_row = out->kv.n_groups + kv_config_pages(&out->kv, 0);
    uint64_t writes = 2 * (uint64_t)out->layout.slot_pages + per_row * out->n_slots +
                      (uint64_t)out->kv.n_groups * ((uint64_t)out->max_rows + rows);
    if (writes > UINT32_MAX / sizeof(struct table_write))
        return error_set(err, STATUS_LIMIT, "%u sequences of this model need too many table writes",
                         out->n_slots);
    out->step = (struct step_limits){
        .max_rows = out->max_rows,
        .max_slices = out->n_slots,
        .max_outputs = out->max_outputs,
        .max_table_writes = (uint32_t)writes,
        .max_copies = out->n_slots * out->kv.n_groups,
        .n_axes = program->n_axes,
    };
    out->sample = (struct sample_limits){
        .max_rows = out->n_slots,
        .max_history_writes = out->max_rows + out->n_context,
        .max_biases = out->n_slots * ENGINE_BIASES_MAX,
        .max_masks = out->n_slots,
        .n_vocab = program->n_vocab,
    };
    return STATUS_OK;
}

static enum status too_little(const struct engine_size *size, uint64_t pages, uint64_t budget,
                              struct error *err)
{
    char a[32], b[32];
    return error_set(err, STATUS_MEMORY,
                     "a context of %u tokens takes %s of KV memory and %s can be used: lower "
                     "n_context or raise kv_memory",
                     size->n_context, bytes_text(pages * size->layout.page_bytes, a),
                     bytes_text(budget, b));
}

/* Largest sequence that the pool holds alone. */
static uint32_t longest_sequence(const struct engine_size *size)
{
    uint32_t low = 0, high = size->n_context;
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        if (kv_config_pages(&size->kv, middle) <= size->kv.n_pages)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

enum status sizing_memory(const struct program *program, const struct hardware *hw,
                          const struct backend_info *info, const sluice_engine_options *options,
                          struct engine_size *size, struct error *err)
{
    uint64_t available = memory_available(hw, info);
    if (available == 0) /* a system that tells nothing: a cautious guess */
        available = (uint64_t)4 << 30;
    uint64_t budget = options->kv_memory ? options->kv_memory : available / 4;
    uint64_t page_bytes = size->layout.page_bytes;
    while (options->n_context == 0 && size->n_context / 2 >= ENGINE_CONTEXT_LEAST &&
           kv_config_pages(&size->kv, size->n_context) > budget / page_bytes) {
        size->n_context /= 2;
        enum status status =
            plan_layout(program, (enum tensor_type)size->layout.kv_type, size, err);
        if (status != STATUS_OK)
            return status;
    }
    uint64_t one = kv_config_pages(&size->kv, size->n_context);
    uint64_t pages = budget / page_bytes, wanted = one * size->n_slots;
    if (pages < one && options->kv_memory == 0 && options->n_context &&
        one <= available / page_bytes)
        pages = one; /* asked for explicitly, so it may take more than the usual share */
    uint64_t least = options->kv_memory ? kv_config_pages(&size->kv, 1) : one;
    if (pages < least)
        return too_little(size, least, options->n_context ? available : budget, err);
    pages = pages < wanted ? pages : wanted;
    size->layout.n_pages = size->kv.n_pages =
        pages < UINT32_MAX - 1 ? (uint32_t)pages : UINT32_MAX - 1;
    size->max_positions = longest_sequence(size);
    size->kv.no_index = options->no_prefix_cache || program->bidirectional;
    size->kv.reproducible = options->reproducible;
    size->kv.one_class = info->one_class;
    uint64_t kept = options->checkpoint_memory / page_bytes;
    size->kv.checkpoint_pages = options->checkpoint_memory == 0 ? size->kv.n_pages / 4
                                : kept < size->kv.n_pages       ? (uint32_t)kept
                                                                : size->kv.n_pages;
    if (getentropy(&size->kv.seed, sizeof size->kv.seed) != 0)
        size->kv.seed = clock_now_ns();
    size->sched = (struct sched_config){
        .n_slots = size->n_slots,
        .max_rows = size->max_rows,
        .max_outputs = size->max_outputs,
        .max_writes = size->step.max_table_writes,
        .max_copies = size->step.max_copies,
        .max_queued = size->max_queued + 2 * ENGINE_CHOICES_MAX,
        .max_gap_us =
            options->max_gap_ms < UINT32_MAX / 1000 ? options->max_gap_ms * 1000 : UINT32_MAX,
        .max_context = size->n_context,
        .alignment = program->row_alignment,
        .rows_together = info->prompt_rows_together,
    };
    return STATUS_OK;
}
