/*
 * Attention of the small Gemma models.
 *
 * "Proportional" rope turns the first part of the pairs by the frequencies of the whole head; the
 * others stand still, which is a frequency of 0.
 */
#include "model/small_gemma.h"

#include <math.h>
#include <stdio.h>

static bool is_local(struct build *b, uint32_t layer)
{
    return build_is_local(b, layer, 6);
}

static double rope_number(struct build *b, const char *type, const char *key, double fallback)
{
    const json_t *all = json_object_get(b->config, "rope_parameters");
    const json_t *value = json_object_get(json_object_get(all, type), key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

/* GGUF: divisors of the pairs of global layers' heads, 1e30 for those that stand still. */
static int32_t gguf_frequencies(struct build *b, bool local, uint32_t head_dim)
{
    double theta = local ? build_f64(b, "rope.freq_base_swa", NULL, 10000.0)
                         : build_f64(b, "rope.freq_base", NULL, 1000000.0);
    uint32_t pairs = head_dim / 2;
    float *freqs = arena_alloc(&b->arena, pairs, sizeof *freqs);
    const float *divisors = !local && build_find(b, -1, "rope_freqs", "weight")
                                ? build_read(b, -1, "rope_freqs", "weight", pairs)
                                : NULL;
    if (!freqs || !(theta > 0.0)) {
        program_fail(b->program, STATUS_MODEL, "rope.freq_base%s is %g, out of range",
                     local ? "_swa" : "", theta);
        return NO_WEIGHT;
    }
    for (uint32_t i = 0; i < pairs; i++) {
        double divisor = divisors ? (double)divisors[i] : 1.0;
        if (!(divisor > 0.0))
            program_fail(b->program, STATUS_MODEL, "rope_freqs.weight[%u] is not positive", i);
        freqs[i] = divisor < 1e29 ? (float)(pow(theta, -2.0 * i / head_dim) / divisor) : 0.0f;
    }
    return program_constant(b->program, local ? "rope_swa" : "rope", freqs, pairs);
}

static int32_t frequencies(struct build *b, bool local, uint32_t head_dim)
{
    if (b->gguf)
        return gguf_frequencies(b, local, head_dim);
    const char *type = local ? "sliding_attention" : "full_attention";
    double plain = local ? build_f64(b, NULL, "rope_local_base_freq", 10000.0)
                         : build_f64(b, NULL, "rope_theta", 1000000.0);
    double theta = rope_number(b, type, "rope_theta", plain);
    double part = rope_number(b, type, "partial_rotary_factor", 1.0);
    double factor = rope_number(b, type, "factor", 1.0);
    uint32_t pairs = head_dim / 2;
    float *freqs = arena_alloc(&b->arena, pairs, sizeof *freqs);
    if (!freqs || !(theta > 0.0) || !(part > 0.0 && part <= 1.0) || !(factor > 0.0)) {
        program_fail(b->program, STATUS_MODEL, "config.json: rope of %s is out of range", type);
        return NO_WEIGHT;
    }
    for (uint32_t i = 0; i < pairs && i < (uint32_t)(part * head_dim / 2.0); i++)
        freqs[i] = (float)(pow(theta, -2.0 * i / head_dim) / factor);
    return program_constant(b->program, type, freqs, pairs);
}

/* The head width of layers of a kind: "per_layer_config" by layer number, or one key for all global
 * layers in older configs. */
static uint32_t kind_u32(struct build *b, bool local, const char *key, const char *global_key,
                         uint32_t fallback)
{
    const json_t *by_layer = json_object_get(b->config, "per_layer_config");
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", i);
        const json_t *value = json_object_get(json_object_get(by_layer, number), key);
        if (is_local(b, i) == local && json_is_integer(value) && json_integer_value(value) > 0 &&
            json_integer_value(value) <= 1 << 16)
            return (uint32_t)json_integer_value(value);
    }
    return local ? fallback : build_u32(b, NULL, global_key, fallback);
}

static uint32_t kind_head_dim(struct build *b, bool local)
{
    if (!b->gguf)
        return kind_u32(b, local, "head_dim", "global_head_dim",
                        build_need_u32(b, NULL, "head_dim"));
    uint32_t width = build_need_u32(b, "attention.key_length", NULL);
    return local ? build_u32(b, "attention.key_length_swa", NULL, width) : width;
}

static uint32_t kind_kv_heads(struct build *b, bool local)
{
    for (uint32_t i = 0; b->gguf && i < b->h.n_layers; i++)
        if (is_local(b, i) == local)
            return b->h.layers[i].n_kv_heads;
    return kind_u32(b, local, "num_key_value_heads", "num_global_key_value_heads",
                    b->h.layers[0].n_kv_heads);
}

/* The last layer before `shared_from` of the same kind. */
static uint32_t donor(struct build *b, const struct small_gemma *g, uint32_t layer)
{
    for (uint32_t i = g->shared_from; i > 0; i--)
        if (is_local(b, i - 1) == is_local(b, layer))
            return i - 1;
    program_fail(b->program, STATUS_MODEL, "layer %u shares the keys of no layer", layer);
    return 0;
}

void small_gemma_plan(struct build *b, struct small_gemma *g)
{
    uint32_t shared = build_u32(b, "attention.shared_kv_layers", "num_kv_shared_layers", 0),
             widest = 0, kv = 0;
    g->shared_from = shared < b->h.n_layers ? b->h.n_layers - shared : 0;
    uint32_t window = build_need_u32(b, "attention.sliding_window", "sliding_window");
    for (int local = 0; local < 2; local++) {
        g->head_dims[local] = kind_head_dim(b, local);
        g->kv_heads[local] = kind_kv_heads(b, local);
        if (g->head_dims[local] == 0 || g->head_dims[local] > 1u << 16) {
            program_fail(b->program, STATUS_MODEL, "hyperparameter %s is %u, expected 1 to 65536",
                         b->gguf ? local ? "attention.key_length_swa" : "attention.key_length"
                                 : "head_dim",
                         g->head_dims[local]);
            return;
        }
        g->freqs[local] = frequencies(b, local, g->head_dims[local]);
        widest = g->head_dims[local] > widest ? g->head_dims[local] : widest;
        kv = g->kv_heads[local] > kv ? g->kv_heads[local] : kv;
    }
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        struct layer *layer = &b->h.layers[i];
        bool local = is_local(b, i);
        layer->window = local ? window : 0;
        layer->freqs = g->freqs[local];
        layer->n_kv_heads = g->kv_heads[local];
        layer->head_dim = g->head_dims[local];
        if (i >= g->shared_from) {
            layer->kind = LAYER_OTHER;
        } else if (layer->n_kv_heads == 0 || layer->n_heads % layer->n_kv_heads) {
            program_fail(b->program, STATUS_MODEL, "layer %u: %u heads over %u key/value heads", i,
                         layer->n_heads, layer->n_kv_heads);
        }
    }
    build_groups(b, 0);
    for (uint32_t i = g->shared_from; i < b->h.n_layers; i++) {
        b->h.layers[i].group = b->h.layers[donor(b, g, i)].group;
        b->h.layers[i].group_layer = b->h.layers[donor(b, g, i)].group_layer;
    }
    struct program *p = b->program;
    uint32_t heads = b->h.layers[0].n_heads;
    g->q = program_buffer(p, "q", heads * widest, ROWS_STEP);
    g->k = program_buffer(p, "k", kv * widest, ROWS_STEP);
    g->v = program_buffer(p, "v", kv * widest, ROWS_STEP);
    g->attn = program_buffer(p, "attn", heads * widest, ROWS_STEP);
}

static void norm_of_values(struct build *b, int l, struct view in, struct view out)
{
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = in,
                               .out = out,
                               .kind = NORM_RMS,
                               .group = b->h.head_dim,
                               .weight = NO_WEIGHT,
                               .bias = NO_WEIGHT,
                               .eps = b->h.norm_eps}};
    program_emit(b->program, &op, "%d.attn_v_norm", l);
}

void small_gemma_attention(struct build *b, const struct small_gemma *g, uint32_t index,
                           struct view in, struct view out)
{
    int l = (int)index;
    struct program *p = b->program;
    const struct layer *layer = &b->h.layers[index];
    b->h.head_dim = b->h.v_head_dim = b->h.rope_dims = layer->head_dim;
    uint32_t head = layer->head_dim, kv = layer->n_kv_heads * head;
    struct view q = view_columns(program_view(p, g->q), 0, layer->n_heads * head);
    struct view k = view_columns(program_view(p, g->k), 0, kv);
    struct view v = view_columns(program_view(p, g->v), 0, kv);
    struct view attn = view_columns(program_view(p, g->attn), 0, q.width);
    build_linear(b, l, "attn_q", in, q, VIEW_NONE);
    build_norm(b, l, "attn_q_norm", q, q, head, 0.0f);
    if (index >= g->shared_from) {
        k = v = VIEW_NONE;
    } else {
        build_linear(b, l, "attn_k", in, k, VIEW_NONE);
        bool own = !g->k_is_v || layer->window || (b->gguf && build_exists(b, l, "attn_v"));
        if (own)
            build_linear(b, l, "attn_v", in, v, VIEW_NONE);
        norm_of_values(b, l, own ? v : k, v);
        build_norm(b, l, "attn_k_norm", k, k, head, 0.0f);
    }
    build_attention_core(b, index, q, k, v, attn, &(struct attention_options){.scale = 1.0f});
    build_linear(b, l, "attn_output", attn, out, VIEW_NONE);
}
