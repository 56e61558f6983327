/* Embeddings that layers read one slice each of. */
#include "model/layer_inputs.h"

#include <math.h>

void build_scale(struct build *b, const char *label, struct view view, const float *factors,
                 uint32_t n)
{
    float *all = arena_alloc(&b->arena, view.width, sizeof *all);
    if (!all || !factors) {
        program_fail(b->program, STATUS_MEMORY, "out of memory for factors");
        return;
    }
    for (uint32_t i = 0; i < view.width; i++)
        all[i] = factors[n == 1 ? 0 : i];
    struct op op = {.kind = OP_NORM,
                    .u.norm = {.in = view,
                               .out = view,
                               .kind = NORM_NONE,
                               .group = view.width,
                               .weight = program_constant(b->program, label, all, view.width),
                               .bias = NO_WEIGHT}};
    program_emit(b->program, &op, "%s", label);
}

/* all = (norm(P x / sqrt(width)) + table[token] sqrt(each)) / sqrt(2) */
void build_layer_inputs(struct build *b, struct layer_inputs *inputs)
{
    uint32_t total = inputs->each * b->h.n_layers;
    struct program *p = b->program;
    const struct tensor *table = build_find(b, -1, "per_layer_token_embd", "weight");
    uint64_t rows = table && table->n_dims == 2 ? table->dims[0] : 0;
    if (rows == 0 || rows > b->h.n_vocab) {
        program_fail(p, STATUS_MODEL, "the embedding by layers is missing or has %llu rows",
                     (unsigned long long)rows);
        return;
    }
    inputs->all = program_buffer(p, "layer_inputs", total, ROWS_STEP);
    inputs->gate = program_buffer(p, "layer_gate", inputs->each, ROWS_STEP);
    inputs->value = program_buffer(p, "layer_value", b->h.width, ROWS_STEP);
    int32_t own = program_buffer(p, "layer_tokens", total, ROWS_STEP);
    struct view all = program_view(p, inputs->all), tokens = program_view(p, own);
    struct op op = {
        .kind = OP_EMBED,
        .u.embed = {.out = tokens,
                    .table = build_table(b, "per_layer_token_embd", (uint32_t)rows, total),
                    .scale = sqrtf((float)inputs->each)}};
    program_emit(p, &op, "embed_layers");
    build_linear_scaled(b, -1, "per_layer_model_proj", build_x(b), all, VIEW_NONE,
                        1.0f / sqrtf((float)b->h.width));
    build_norm(b, -1, "per_layer_proj_norm", all, all, inputs->each, 0.0f);
    op = (struct op){.kind = OP_ADD, .u.add = {.a = all, .b = tokens, .out = all, .scale = 1.0f}};
    program_emit(p, &op, "layer_inputs");
    build_scale(b, "layer_inputs.half", all, &(float){sqrtf(0.5f)}, 1);
}

struct view build_layer_input(struct build *b, const struct layer_inputs *inputs, uint32_t layer,
                              struct view in)
{
    int l = (int)layer;
    struct program *p = b->program;
    struct view gate = program_view(p, inputs->gate), value = program_view(p, inputs->value);
    struct view slice =
        view_columns(program_view(p, inputs->all), layer * inputs->each, inputs->each);
    build_linear(b, l, "inp_gate", in, gate, VIEW_NONE);
    struct op op = {.kind = OP_MUL, .u.mul = {.a = gate, .b = slice, .out = gate, .act = b->h.act}};
    program_emit(p, &op, "%d.layer_input", l);
    build_linear(b, l, "proj", gate, value, VIEW_NONE);
    build_norm(b, l, "post_norm", value, value, value.width, 0.0f);
    return value;
}
