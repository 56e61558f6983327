/*
 * Writing a synthetic model: the list of tensors that the shape implies, then their values.
 *
 * Encoding a billion Gaussian numbers would take minutes for the types whose scales are searched.
 * So for every type and spread a pool of blocks is encoded once, and a tensor's blocks are random
 * picks from it: the file has the statistics of a quantised Gaussian matrix and is written at the
 * speed of the disk. Work is cut into pieces that threads take by a counter; what a piece holds
 * depends on its place only.
 */
#include "convert/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/synth_shapes.h"
#include "convert/workers.h"
#include "format/gguf_writer.h"
#include "quant/mixture.h"
#include "quant/tensor_type.h"

#define UNIT        256 /* values that a pick brings */
#define POOL_UNITS  1024
#define PIECE       (8u << 20) /* bytes, roughly, that a thread writes at a time */
#define TENSORS_MAX 4096
#define TWO_PI      6.283185307179586

struct pool {
    enum tensor_type type;
    float spread;
    uint32_t unit; /* values: UNIT, or a block where rows are no multiple of UNIT */
    size_t unit_bytes;
    uint8_t *units; /* [POOL_UNITS][unit_bytes], owned */
};

struct item {
    uint64_t values;
    float spread; /* of a random tensor; 0: filled with `fill`, or `exact` */
    float fill;
    const float *exact; /* [values] or NULL */
    enum tensor_type type;
    const struct pool *pool;
    uint64_t piece_units, n_pieces;
};

struct synth {
    const struct synth_options *options;
    const struct synth_shape *shape; /* &cut */
    struct synth_shape cut;          /* what the name stands for, perhaps with fewer layers */
    const struct mixture *mixture;
    struct gguf_writer *writer;
    struct item items[TENSORS_MAX];
    size_t n_items;
    struct pool pools[64];
    size_t n_pools;
    float *divisors; /* rope_freqs, owned */
    uint64_t total_bytes;
};

/* ---- random numbers ---------------------------------------------------------------------------- */

/* splitmix64: any counter gives a good number. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* A standard normal number (Box and Muller). */
static float gaussian(uint64_t *state)
{
    double u = ((double)(mix(*state) >> 11) + 1.0) / 9007199254740993.0;
    double v = (double)(mix(*state + 1) >> 11) / 9007199254740992.0;
    *state += 2;
    return (float)(sqrt(-2.0 * log(u)) * cos(TWO_PI * v));
}

static enum status make_pool(struct synth *s, const struct item *item, uint32_t unit,
                             const struct pool **out, struct error *err)
{
    for (size_t i = 0; i < s->n_pools; i++) {
        const struct pool *p = &s->pools[i];
        if (p->type == item->type && p->spread == item->spread && p->unit == unit) {
            *out = p;
            return STATUS_OK;
        }
    }
    const struct tensor_type_info *info = tensor_type_info(item->type);
    struct pool *pool = &s->pools[s->n_pools];
    if (s->n_pools == sizeof s->pools / sizeof *s->pools)
        return error_set(err, STATUS_INTERNAL, "more kinds of tensors than expected");
    size_t unit_bytes = unit / info->block_elements * info->block_bytes;
    float *values = malloc(POOL_UNITS * unit * sizeof *values);
    uint8_t *units = malloc(POOL_UNITS * unit_bytes);
    if (!values || !units) {
        free(values);
        free(units);
        return error_set(err, STATUS_MEMORY, "out of memory for random blocks");
    }
    uint64_t state = mix(s->options->seed ^ (uint64_t)item->type << 32 ^ s->n_pools);
    for (uint32_t i = 0; i < POOL_UNITS * unit; i++)
        values[i] = item->spread * gaussian(&state);
    bool known = tensor_type_encode(item->type, values, NULL, units, POOL_UNITS * unit);
    free(values);
    *pool = (struct pool){item->type, item->spread, unit, unit_bytes, units};
    s->n_pools++;
    *out = pool;
    if (!known)
        return error_set(err, STATUS_UNSUPPORTED, "sluice cannot encode tensor type %s",
                         tensor_type_name(item->type));
    return STATUS_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------- */

static struct item *add(struct synth *s, const char *name, enum tensor_type type, uint32_t n_dims,
                        const uint64_t *dims)
{
    struct item *item = &s->items[s->n_items++];
    *item = (struct item){.values = 1, .type = type};
    for (uint32_t i = 0; i < n_dims; i++)
        item->values *= dims[i];
    gguf_writer_tensor(s->writer, str_from(name), type, n_dims, dims);
    return item;
}

/* A matrix, or a stack of matrices where n > 1; its spread keeps a unit input at unit size. */
static void add_matrix(struct synth *s, const char *name, uint64_t n, uint64_t rows, uint64_t cols)
{
    const struct synth_shape *shape = s->shape;
    const uint64_t dims[] = {n, rows, cols};
    uint32_t n_dims = n > 1 ? 3 : 2;
    const struct mixture_model model = {.n_layers = shape->n_layers,
                                        .n_experts = shape->n_experts,
                                        .heads_per_kv = shape->n_heads / shape->n_kv_heads,
                                        .tied = shape->tied};
    struct str text = str_from(name);
    enum tensor_type type = TENSOR_F32;
    if (mixture_applies(text, n_dims, dims + 3 - n_dims))
        type = mixture_type(s->mixture, &model, text, n_dims, dims + 3 - n_dims);
    add(s, name, type, n_dims, dims + 3 - n_dims)->spread = 1.0f / sqrtf((float)cols);
}

static void add_vector(struct synth *s, const char *name, uint64_t n, float fill)
{
    add(s, name, TENSOR_F32, 1, &n)->fill = fill;
}

static const char *layer_name(char out[96], uint32_t layer, const char *role)
{
    snprintf(out, 96, "blk.%u.%s.weight", layer, role);
    return out;
}

/* gpt-oss has biases everywhere; zeros cost as much as any. */
static void add_bias(struct synth *s, uint32_t layer, const char *role, uint64_t n, uint64_t values)
{
    char name[96];
    const uint64_t dims[] = {n, values};
    if (!s->shape->window)
        return;
    snprintf(name, sizeof name, "blk.%u.%s.bias", layer, role);
    add(s, name, TENSOR_F32, n > 1 ? 2 : 1, n > 1 ? dims : dims + 1);
}

static void add_attention(struct synth *s, uint32_t i)
{
    const struct synth_shape *h = s->shape;
    char name[96];
    uint32_t q = h->n_heads * h->head_dim, kv = h->n_kv_heads * h->head_dim;
    add_vector(s, layer_name(name, i, "attn_norm"), h->width, 1.0f);
    add_matrix(s, layer_name(name, i, "attn_q"), 1, q, h->width);
    add_matrix(s, layer_name(name, i, "attn_k"), 1, kv, h->width);
    add_matrix(s, layer_name(name, i, "attn_v"), 1, kv, h->width);
    if (h->head_norms) {
        add_vector(s, layer_name(name, i, "attn_q_norm"), h->head_dim, 1.0f);
        add_vector(s, layer_name(name, i, "attn_k_norm"), h->head_dim, 1.0f);
    }
    add_matrix(s, layer_name(name, i, "attn_output"), 1, h->width, q);
    add_bias(s, i, "attn_q", 1, q);
    add_bias(s, i, "attn_k", 1, kv);
    add_bias(s, i, "attn_v", 1, kv);
    add_bias(s, i, "attn_output", 1, h->width);
    if (h->window)
        add_vector(s, layer_name(name, i, "attn_sinks"), h->n_heads, 0.0f);
}

static void add_layer(struct synth *s, uint32_t i)
{
    const struct synth_shape *h = s->shape;
    char name[96];
    add_attention(s, i);
    add_vector(s, layer_name(name, i, h->window ? "post_attention_norm" : "ffn_norm"), h->width,
               1.0f);
    if (h->n_experts) {
        add_matrix(s, layer_name(name, i, "ffn_gate_inp"), 1, h->n_experts, h->width);
        add_matrix(s, layer_name(name, i, "ffn_gate_exps"), h->n_experts, h->expert_ff, h->width);
        add_matrix(s, layer_name(name, i, "ffn_up_exps"), h->n_experts, h->expert_ff, h->width);
        add_matrix(s, layer_name(name, i, "ffn_down_exps"), h->n_experts, h->width, h->expert_ff);
        add_bias(s, i, "ffn_gate_inp", 1, h->n_experts);
        add_bias(s, i, "ffn_gate_exps", h->n_experts, h->expert_ff);
        add_bias(s, i, "ffn_up_exps", h->n_experts, h->expert_ff);
        add_bias(s, i, "ffn_down_exps", h->n_experts, h->width);
    } else {
        add_matrix(s, layer_name(name, i, "ffn_gate"), 1, h->n_ff, h->width);
        add_matrix(s, layer_name(name, i, "ffn_up"), 1, h->n_ff, h->width);
        add_matrix(s, layer_name(name, i, "ffn_down"), 1, h->width, h->n_ff);
    }
}

/* llama3 scaling as GGUF stores it: a divisor for each pair (see model/rope.c). */
static enum status add_rope(struct synth *s, struct error *err)
{
    const struct synth_shape *h = s->shape;
    uint64_t pairs = h->head_dim / 2;
    const double low = 1.0, high = 4.0, original = 8192.0;
    if (h->rope_factor == 0.0)
        return STATUS_OK;
    s->divisors = malloc(pairs * sizeof *s->divisors);
    if (!s->divisors)
        return error_set(err, STATUS_MEMORY, "out of memory for rope frequencies");
    for (uint64_t i = 0; i < pairs; i++) {
        double wave = TWO_PI * pow(h->rope_theta, 2.0 * (double)i / h->head_dim);
        double blend = (original / wave - low) / (high - low), divisor = h->rope_factor;
        if (blend >= 1.0)
            divisor = 1.0;
        else if (blend > 0.0)
            divisor = 1.0 / ((1.0 - blend) / h->rope_factor + blend);
        s->divisors[i] = (float)divisor;
    }
    add(s, "rope_freqs.weight", TENSOR_F32, 1, &pairs)->exact = s->divisors;
    return STATUS_OK;
}

static enum status add_tensors(struct synth *s, struct error *err)
{
    const struct synth_shape *h = s->shape;
    add_matrix(s, "token_embd.weight", 1, h->n_vocab, h->width);
    enum status status = add_rope(s, err);
    for (uint32_t i = 0; i < h->n_layers; i++)
        add_layer(s, i);
    add_vector(s, "output_norm.weight", h->width, 1.0f);
    if (!h->tied)
        add_matrix(s, "output.weight", 1, h->n_vocab, h->width);
    return status;
}

static void add_metadata(struct synth *s)
{
    const struct synth_shape *h = s->shape;
    struct gguf_writer *w = s->writer;
    char key[96];
#define KEY(suffix) (snprintf(key, sizeof key, "%s." suffix, h->architecture), key)
    gguf_writer_str(w, "general.architecture", str_from(h->architecture));
    snprintf(key, sizeof key, "%s of random weights", h->about);
    gguf_writer_str(w, "general.name", str_from(key));
    gguf_writer_u32(w, "general.file_type", mixture_file_type(s->mixture));
    gguf_writer_u32(w, "general.quantization_version", 2);
    gguf_writer_u32(w, KEY("block_count"), h->n_layers);
    gguf_writer_u32(w, KEY("context_length"), h->n_context);
    gguf_writer_u32(w, KEY("embedding_length"), h->width);
    gguf_writer_u32(w, KEY("feed_forward_length"), h->n_ff);
    gguf_writer_u32(w, KEY("attention.head_count"), h->n_heads);
    gguf_writer_u32(w, KEY("attention.head_count_kv"), h->n_kv_heads);
    gguf_writer_u32(w, KEY("attention.key_length"), h->head_dim);
    gguf_writer_u32(w, KEY("attention.value_length"), h->head_dim);
    gguf_writer_f32(w, KEY("attention.layer_norm_rms_epsilon"), h->norm_eps);
    gguf_writer_f32(w, KEY("rope.freq_base"), (float)h->rope_theta);
    gguf_writer_u32(w, KEY("rope.dimension_count"), h->head_dim);
    gguf_writer_u32(w, KEY("vocab_size"), h->n_vocab);
    if (h->n_experts) {
        gguf_writer_u32(w, KEY("expert_count"), h->n_experts);
        gguf_writer_u32(w, KEY("expert_used_count"), h->n_experts_used);
        gguf_writer_u32(w, KEY("expert_feed_forward_length"), h->expert_ff);
    }
    if (h->window) {
        gguf_writer_u32(w, KEY("attention.sliding_window"), h->window);
        gguf_writer_str(w, KEY("rope.scaling.type"), STR_LIT("yarn"));
        gguf_writer_f32(w, KEY("rope.scaling.factor"), 32.0f);
        gguf_writer_u32(w, KEY("rope.scaling.original_context_length"), 4096);
        gguf_writer_f32(w, KEY("rope.scaling.yarn_beta_fast"), 32.0f);
        gguf_writer_f32(w, KEY("rope.scaling.yarn_beta_slow"), 1.0f);
    }
#undef KEY
    synth_vocabulary(w, h);
}

/* ---- data -------------------------------------------------------------------------------------- */

static enum status plan(struct synth *s, struct error *err)
{
    for (size_t i = 0; i < s->n_items; i++) {
        struct item *item = &s->items[i];
        s->total_bytes += gguf_writer_tensor_bytes(s->writer, i);
        item->n_pieces = 1;
        if (item->spread == 0.0f)
            continue;
        const struct tensor_type_info *info = tensor_type_info(item->type);
        uint32_t unit = item->values % UNIT == 0 ? UNIT : info->block_elements;
        enum status status = make_pool(s, item, unit, &item->pool, err);
        if (status != STATUS_OK)
            return status;
        uint64_t units = item->values / unit;
        item->piece_units = PIECE / item->pool->unit_bytes;
        item->n_pieces = (units + item->piece_units - 1) / item->piece_units;
    }
    return STATUS_OK;
}

static enum status write_vector(struct synth *s, size_t index, struct error *err)
{
    const struct item *item = &s->items[index];
    float *values = malloc(item->values * sizeof *values);
    if (!values)
        return error_set(err, STATUS_MEMORY, "out of memory for a vector");
    for (uint64_t i = 0; i < item->values; i++)
        values[i] = item->exact ? item->exact[i] : item->fill;
    enum status status =
        gguf_writer_write(s->writer, index, 0, values, item->values * sizeof *values, err);
    free(values);
    return status;
}

/* `buffer`: the thread's own, of PIECE bytes. */
static enum status write_piece(void *context, size_t index, uint64_t piece, uint8_t *buffer,
                               uint64_t *done, struct error *err)
{
    struct synth *s = context;
    const struct item *item = &s->items[index];
    const struct pool *pool = item->pool;
    *done = gguf_writer_tensor_bytes(s->writer, index);
    if (!pool)
        return write_vector(s, index, err);
    uint64_t units = item->values / pool->unit, first = piece * item->piece_units;
    uint64_t n = units - first < item->piece_units ? units - first : item->piece_units;
    uint64_t state = mix(s->options->seed ^ mix(index << 32 ^ piece));
    for (uint64_t i = 0; i < n; i++) {
        uint64_t pick = mix(state + i) % POOL_UNITS;
        memcpy(buffer + i * pool->unit_bytes, pool->units + pick * pool->unit_bytes,
               pool->unit_bytes);
    }
    *done = n * pool->unit_bytes;
    return gguf_writer_write(s->writer, index, first * pool->unit_bytes, buffer, (size_t)*done,
                             err);
}

static uint64_t piece_count(void *context, size_t index)
{
    return ((struct synth *)context)->items[index].n_pieces;
}

static enum status write_data(struct synth *s, struct error *err)
{
    const struct work work = {
        .context = s,
        .n_items = s->n_items,
        .pieces = piece_count,
        .run = write_piece,
        .buffer_bytes = PIECE,
        .total = s->total_bytes,
        .what = "writing",
        .progress = s->options->progress,
        .progress_context = s->options->progress_context,
    };
    return workers_run(&work, s->options->n_threads, err);
}

/* ---- all --------------------------------------------------------------------------------------- */

static enum status unknown_shape(const char *name, struct error *err)
{
    struct buf known = {0};
    for (uint32_t i = 0; synth_shape_name(i); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", synth_shape_name(i));
    enum status status = error_set(err, STATUS_USAGE, "unknown shape '%s' (known: %.*s)", name,
                                   STR_ARG(buf_str(&known)));
    buf_release(&known);
    return status;
}

static enum status write_all(struct synth *s, struct synth_report *out, struct error *err)
{
    add_metadata(s);
    enum status status = add_tensors(s, err);
    if (status == STATUS_OK)
        status = gguf_writer_begin(s->writer, err);
    if (status == STATUS_OK)
        status = plan(s, err);
    if (status == STATUS_OK)
        status = write_data(s, err);
    if (status == STATUS_OK)
        status = gguf_writer_finish(s->writer, err);
    if (status != STATUS_OK || !out)
        return status;
    *out = (struct synth_report){.bytes = gguf_writer_file_bytes(s->writer)};
    for (size_t i = 0; i < s->n_items; i++)
        out->parameters += s->items[i].values;
    return STATUS_OK;
}

enum status synth_write(const struct synth_options *options, struct synth_report *out,
                        struct error *err)
{
    const struct synth_shape *shape = synth_shape_find(options->shape);
    const struct mixture *mixture = mixture_from_name(str_from(options->type));
    if (!shape)
        return unknown_shape(options->shape, err);
    if (!mixture)
        return mixture_unknown(options->type, err);
    if (options->n_layers > shape->n_layers)
        return error_set(err, STATUS_USAGE, "%u layers are asked for, but %s has %u",
                         options->n_layers, options->shape, shape->n_layers);
    struct synth *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, STATUS_MEMORY, "out of memory");
    s->options = options;
    s->cut = *shape;
    if (options->n_layers)
        s->cut.n_layers = options->n_layers;
    s->shape = &s->cut;
    s->mixture = mixture;
    enum status status = gguf_writer_open(options->path, &s->writer, err);
    if (status == STATUS_OK)
        status = write_all(s, out, err);
    gguf_writer_free(s->writer);
    for (size_t i = 0; i < s->n_pools; i++)
        free(s->pools[i].units);
    free(s->divisors);
    free(s);
    return status;
}
