/*
 * gpt2: LayerNorm before each half, learned positions, q, k and v from one matrix, a plain GELU FFN,
 * the embedding as head. Hugging Face keeps the matrices as [in, out] ("Conv1D"): they are copied
 * turned round, once; GGUF files have done so.
 */
#include <string.h>

#include "model/build.h"

/* Binding by role finds tensors as they are stored, so the turned copies are emitted here. */
static void linear(struct build *b, int layer, const char *role, struct view in, struct view out,
                   struct view residual, enum activation act)
{
    struct op op = {
        .kind = OP_LINEAR,
        .u.linear = {.in = in,
                     .out = out,
                     .residual = residual,
                     .weight = b->gguf
                                   ? build_weight(b, layer, role, out.width, in.width)
                                   : build_weight_transposed(b, layer, role, out.width, in.width),
                     .bias = build_bias(b, layer, role, out.width),
                     .act = act,
                     .scale = 1.0f}};
    program_emit(b->program, &op, "%d.%s", layer, role);
}

static void build_gpt2(struct build *b)
{
    build_hyper(b);
    struct hyper *h = &b->h;
    h->norm = NORM_LAYER;
    if (b->gguf)
        h->act = ACT_GELU_TANH;
    if (h->n_ff == 0)
        h->n_ff = 4 * h->width;
    if (build_bool(b, NULL, "scale_attn_by_inverse_layer_idx", false))
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "scale_attn_by_inverse_layer_idx is not supported");
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    build_positions(b, 0, -1);
    struct view x = build_x(b), normed = build_normed(b);
    struct view qkv =
        program_view(b->program, program_buffer(b->program, "qkv", 3 * h->width, ROWS_STEP));
    struct view attn =
        program_view(b->program, program_buffer(b->program, "attn", h->width, ROWS_STEP));
    struct view ff = program_view(b->program, program_buffer(b->program, "ff", h->n_ff, ROWS_STEP));
    for (uint32_t i = 0; i < h->n_layers; i++) {
        int l = (int)i;
        build_norm(b, l, "attn_norm", x, normed, x.width, 0.0f);
        linear(b, l, "attn_qkv", normed, qkv, VIEW_NONE, ACT_NONE);
        build_attention_core(
            b, i, view_columns(qkv, 0, h->width), view_columns(qkv, h->width, h->width),
            view_columns(qkv, 2 * h->width, h->width), attn, &(struct attention_options){0});
        linear(b, l, "attn_output", attn, x, x, ACT_NONE);
        build_norm(b, l, "ffn_norm", x, normed, x.width, 0.0f);
        linear(b, l, "ffn_up", normed, ff, VIEW_NONE, h->act);
        linear(b, l, "ffn_down", ff, x, x, ACT_NONE);
    }
    build_head(b, &(struct head_options){0});
}

static const struct hf_name names[] = {
    {"layers", "h"},
    {"token_embd", "wte"},
    {"position_embd", "wpe"},
    {"output_norm", "ln_f"},
    {"attn_norm", "ln_1"},
    {"attn_qkv", "attn.c_attn"},
    {"attn_output", "attn.c_proj"},
    {"ffn_norm", "ln_2"},
    {"ffn_up", "mlp.c_fc"},
    {"ffn_down", "mlp.c_proj"},
    {NULL, NULL},
};
static const char *const arch_names[] = {"gpt2", NULL};
const struct architecture arch_gpt2 = {"gpt2", arch_names, arch_names, names, build_gpt2};
