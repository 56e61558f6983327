/*
 * falcon-h1: a state space mixer and attention side by side in each layer, then a gated FFN, with a
 * multiplier on nearly everything, which GGUF files have folded into the weights.
 */
#include "model/mamba.h"

struct falcon {
    float embedding, attention_in, attention_out, key, gate, down, logits;
    int32_t gate_buffer, q, k, v, attn;
};

static float multiplier(struct build *b, const char *key, int64_t item)
{
    const json_t *value = json_object_get(b->config, key);
    if (item >= 0)
        value = json_array_get(value, (size_t)item);
    return json_is_number(value) ? (float)json_number_value(value) : 1.0f;
}

static struct falcon read_falcon(struct build *b, struct mamba *m)
{
    for (int i = 0; i < 5; i++)
        m->scales[i] = multiplier(b, "ssm_in_multiplier", -1) * multiplier(b, "ssm_multipliers", i);
    m->out_scale = multiplier(b, "ssm_out_multiplier", -1);
    m->norm_first = build_bool(b, NULL, "mamba_norm_before_gate", true);
    return (struct falcon){.embedding = multiplier(b, "embedding_multiplier", -1),
                           .attention_in = multiplier(b, "attention_in_multiplier", -1),
                           .attention_out = multiplier(b, "attention_out_multiplier", -1),
                           .key = multiplier(b, "key_multiplier", -1),
                           .gate = multiplier(b, "mlp_multipliers", 0),
                           .down = multiplier(b, "mlp_multipliers", 1),
                           .logits = multiplier(b, "lm_head_multiplier", -1),
                           .gate_buffer = NO_BUFFER};
}

/* Multipliers lie before the projections: on all three, and one more on k. */
static void build_falcon_attention(struct build *b, struct falcon *f, uint32_t index,
                                   struct view in, struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    const struct layer *layer = &b->h.layers[index];
    if (index == 0) {
        f->q = program_buffer(p, "q", layer->n_heads * b->h.head_dim, ROWS_STEP);
        f->k = program_buffer(p, "k", layer->n_kv_heads * b->h.head_dim, ROWS_STEP);
        f->v = program_buffer(p, "v", layer->n_kv_heads * b->h.v_head_dim, ROWS_STEP);
        f->attn = program_buffer(p, "attn", layer->n_heads * b->h.v_head_dim, ROWS_STEP);
    }
    struct view q = program_view(p, f->q), k = program_view(p, f->k), v = program_view(p, f->v);
    struct view attn = program_view(p, f->attn);
    build_linear_scaled(b, l, "attn_q", in, q, VIEW_NONE, f->attention_in);
    build_linear_scaled(b, l, "attn_k", in, k, VIEW_NONE, f->attention_in * f->key);
    build_linear_scaled(b, l, "attn_v", in, v, VIEW_NONE, f->attention_in);
    build_attention_core(b, index, q, k, v, attn, &(struct attention_options){0});
    build_linear_scaled(b, l, "attn_output", attn, x, x, f->attention_out);
}

/* The gate's multiplier lies inside its activation, so the halves go apart unless it is 1. */
static void build_falcon_ffn(struct build *b, struct falcon *f, uint32_t index, struct view in,
                             struct view x)
{
    int l = (int)index;
    b->h.residual_scale = f->down;
    if (f->gate == 1.0f) {
        build_ffn(b, index, in, x, x);
        return;
    }
    if (f->gate_buffer == NO_BUFFER) {
        f->gate_buffer = program_buffer(b->program, "ffn_gate", b->h.n_ff, ROWS_STEP);
        b->ff = program_buffer(b->program, "ff", b->h.n_ff, ROWS_STEP);
    }
    struct view gate = program_view(b->program, f->gate_buffer);
    struct view up = program_view(b->program, b->ff);
    build_linear_scaled(b, l, "ffn_gate", in, gate, VIEW_NONE, f->gate);
    build_linear(b, l, "ffn_up", in, up, VIEW_NONE);
    struct op op = {.kind = OP_MUL, .u.mul = {.a = gate, .b = up, .out = up, .act = b->h.act}};
    program_emit(b->program, &op, "%d.ffn_gate_up", l);
    build_linear_scaled(b, l, "ffn_down", up, x, x, f->down);
}

static void build_falcon_h1(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    struct mamba m = {0};
    if (!mamba_plan(b, &m, false))
        return;
    struct falcon f = read_falcon(b, &m);
    int32_t freqs = build_rope(b, NULL, 100000000000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    build_groups(b, 0);
    build_embedding(b, f.embedding);
    struct view x = build_x(b), normed = build_normed(b);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        struct layer_states states = mamba_states(b, &m);
        build_norm(b, (int)i, "attn_norm", x, normed, x.width, 0.0f);
        build_mamba2(b, &m, i, &states, normed, x, x);
        build_falcon_attention(b, &f, i, normed, x);
        build_norm(b, (int)i, "ffn_norm", x, normed, x.width, 0.0f);
        build_falcon_ffn(b, &f, i, normed, x);
    }
    build_head(b, &(struct head_options){.scale = f.logits});
}

static const struct hf_name falcon_names[] = {
    {"output_norm", "final_layernorm"},
    {"ffn_norm", "pre_ff_layernorm"},
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"},
    MIXER_NAMES("mamba"),
    {NULL, NULL},
};
static const char *const falcon_gguf[] = {"falcon-h1", NULL};
static const char *const falcon_hf[] = {"falcon_h1", NULL};
const struct architecture arch_falcon_h1 = {"falcon-h1", falcon_gguf, falcon_hf, falcon_names,
                                            build_falcon_h1};
