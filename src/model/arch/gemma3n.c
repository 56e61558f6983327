/*
 * gemma3n: gemma4's attention and layer inputs around several residual streams (altup.h). A layer works
 * on the active stream alone, beside a low-rank shortcut (laurel); the first layers keep only the
 * gate's values that stand out.
 */
#include <math.h>

#include "model/altup.h"
#include "model/layer_inputs.h"
#include "model/small_gemma.h"

struct gemma3n {
    struct small_gemma attention;
    struct layer_inputs inputs;
    struct altup altup;
    uint32_t rank;
    bool scale_corrected;
    int32_t low, laurel, gate;
};

static void add(struct build *b, const char *label, struct view a, struct view c, struct view out)
{
    struct op op = {.kind = OP_ADD, .u.add = {.a = a, .b = c, .out = out, .scale = 1.0f}};
    program_emit(b->program, &op, "%s", label);
}

static void read_sizes(struct build *b, struct gemma3n *g)
{
    const struct tensor *laurel = build_find(b, 0, "laurel_l", "weight");
    if (!b->gguf)
        g->rank = build_need_u32(b, NULL, "laurel_rank");
    else if (laurel && laurel->n_dims == 2 && laurel->dims[0] <= 1u << 20)
        g->rank = (uint32_t)laurel->dims[0];
    g->scale_corrected = b->gguf ? build_exists(b, 0, "altup_correct_scale")
                                 : build_bool(b, NULL, "altup_correct_scale", true);
    g->inputs.each =
        build_need_u32(b, "embedding_length_per_layer_input", "hidden_size_per_layer_input");
    if (g->rank == 0 || g->rank > 1u << 20 || g->inputs.each == 0 || g->inputs.each > 1u << 16)
        program_fail(b->program, STATUS_MODEL, "laurel rank %u, layer inputs of %u", g->rank,
                     g->inputs.each);
    struct program *p = b->program;
    g->low = program_buffer(p, "laurel_low", g->rank, ROWS_STEP);
    g->laurel = program_buffer(p, "laurel", b->h.width, ROWS_STEP);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        uint32_t ff = build_item_u32(b, "feed_forward_length", "intermediate_size", i, b->h.n_ff);
        b->h.n_ff = ff > b->h.n_ff ? ff : b->h.n_ff;
    }
    b->ff = program_buffer(p, "ff", b->h.n_ff, ROWS_STEP);
    g->gate = program_buffer(p, "ffn_gate", b->h.n_ff, ROWS_STEP);
}

/* Where the normal distribution has this share below it, in deviations. */
static float deviations(double share)
{
    double low = -10.0, high = 10.0;
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2.0;
        if (0.5 * erfc(-middle * sqrt(0.5)) < share)
            low = middle;
        else
            high = middle;
    }
    return (float)low;
}

/* How many deviations above its mean a gate must be; -INFINITY: the layer keeps all. GGUF has the
 * number itself. */
static float cutoff_of(struct build *b, uint32_t index)
{
    double share =
        b->gguf ? 0.0 : build_item_f64(b, NULL, "activation_sparsity_pattern", index, 0.0);
    double given = build_item_f64(b, "activation_sparsity_scale", NULL, index, -INFINITY);
    if (b->gguf)
        return given > -9.0 ? (float)given : -INFINITY;
    return share > 0.0 && share < 1.0 ? deviations(share) : -INFINITY;
}

static void build_sparse_ffn(struct build *b, const struct gemma3n *g, uint32_t index,
                             struct view in)
{
    int l = (int)index;
    float cutoff = cutoff_of(b, index);
    b->h.n_ff = build_item_u32(b, "feed_forward_length", "intermediate_size", index, b->h.n_ff);
    if (cutoff == -INFINITY) {
        build_ffn(b, index, in, in, VIEW_NONE);
        return;
    }
    struct view gate = view_columns(program_view(b->program, g->gate), 0, b->h.n_ff);
    struct view up = view_columns(program_view(b->program, b->ff), 0, b->h.n_ff);
    build_linear(b, l, "ffn_gate", in, gate, VIEW_NONE);
    build_linear(b, l, "ffn_up", in, up, VIEW_NONE);
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = gate,
                               .out = gate,
                               .kind = NORM_CUTOFF,
                               .group = gate.width,
                               .weight = NO_WEIGHT,
                               .bias = NO_WEIGHT,
                               .eps = cutoff}};
    program_emit(b->program, &op, "%d.ffn_cutoff", l);
    op = (struct op){.kind = OP_MUL, .u.mul = {.a = gate, .b = up, .out = up, .act = b->h.act}};
    program_emit(b->program, &op, "%d.ffn_gate_up", l);
    build_linear(b, l, "ffn_down", up, in, VIEW_NONE);
}

/* x = what the layer makes of the active stream. */
static void build_active(struct build *b, const struct gemma3n *g, uint32_t index,
                         struct view active)
{
    int l = (int)index;
    struct program *p = b->program;
    struct view x = build_x(b), normed = build_normed(b), laurel = program_view(p, g->laurel);
    struct view low = program_view(p, g->low);
    build_norm(b, l, "attn_norm", active, normed, x.width, 0.0f);
    build_linear(b, l, "laurel_l", normed, low, VIEW_NONE);
    build_linear(b, l, "laurel_r", low, laurel, VIEW_NONE);
    build_norm(b, l, "laurel_post_norm", laurel, laurel, x.width, 0.0f);
    add(b, "laurel", laurel, normed, laurel);
    small_gemma_attention(b, &g->attention, index, normed, normed);
    build_norm(b, l, "post_attention_norm", normed, normed, x.width, 0.0f);
    add(b, "attn_add", active, normed, x);
    add(b, "laurel_add", x, laurel, x);
    build_scale(b, "laurel_half", x, &(float){sqrtf(0.5f)}, 1);
    build_norm(b, l, "ffn_norm", x, normed, x.width, 0.0f);
    build_sparse_ffn(b, g, index, normed);
    build_norm(b, l, "post_ffw_norm", normed, normed, x.width, 0.0f);
    add(b, "ffn_add", x, normed, x);
}

static void build_layer(struct build *b, const struct gemma3n *g, uint32_t index)
{
    int l = (int)index;
    struct view x = build_x(b);
    build_active(b, g, index, altup_predict(b, &g->altup, index));
    altup_correct(b, &g->altup, index);
    build_take(b, l, "altup_first", altup_stream(b, &g->altup, g->altup.active), 1, 0, x);
    if (g->scale_corrected)
        build_scale(b, "altup_correct_scale", x,
                    build_read(b, l, "altup_correct_scale", "weight", x.width), x.width);
    struct view value = build_layer_input(b, &g->inputs, index, x);
    for (uint32_t i = 1; i < g->altup.n; i++) {
        struct view other = altup_stream(b, &g->altup, i);
        add(b, "layer_add", other, value, other);
    }
}

static void build_gemma3n(struct build *b)
{
    build_hyper(b);
    b->rope_style = ROPE_HALVES;
    if (b->gguf)
        b->h.act = ACT_GELU_TANH;
    struct gemma3n g = {.rank = 0};
    read_sizes(b, &g);
    altup_plan(b, &g.altup);
    small_gemma_plan(b, &g.attention);
    build_embedding(b, sqrtf((float)b->h.width));
    build_layer_inputs(b, &g.inputs);
    altup_open(b, &g.altup);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        build_layer(b, &g, i);
    altup_close(b, &g.altup);
    double cap = build_f64(b, "final_logit_softcapping", "final_logit_softcapping",
                           b->gguf ? 30.0 : 0.0); /* files without the key mean the models' 30 */
    build_head(b, &(struct head_options){.softcap = (float)cap});
}

static const struct hf_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"per_layer_token_embd", "embed_tokens_per_layer"},
    {"per_layer_model_proj", "per_layer_model_projection"},
    {"per_layer_proj_norm", "per_layer_projection_norm"},
    {"inp_gate", "per_layer_input_gate"},
    {"proj", "per_layer_projection"},
    {"post_norm", "post_per_layer_input_norm"},
    {"altup_proj", "altup_projections.%u"},
    {"altup_unembd_proj", "altup_unembed_projections.%u"},
    {"altup_router", "altup.modality_router"},
    {"altup_router_norm", "altup.router_norm"},
    {"altup_predict_coef", "altup.prediction_coefs"},
    {"altup_correct_coef", "altup.correction_coefs"},
    {"altup_correct_scale", "altup.correct_output_scale"},
    {"laurel_l", "laurel.linear_left"},
    {"laurel_r", "laurel.linear_right"},
    {"laurel_post_norm", "laurel.post_laurel_norm"},
    {NULL, NULL},
};
static const char *const gguf_names[] = {"gemma3n", NULL};
static const char *const hf_keys[] = {"gemma3n_text", "gemma3n", NULL};
const struct architecture arch_gemma3n = {"gemma3n", gguf_names, hf_keys, names, build_gemma3n};
