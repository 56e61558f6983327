/*
 * Latent attention with absorbed projections, as operations (the drawing in latent.h):
 *
 *     q_heads = in through q, or q_a, norm and q_b     [heads][nope | rope]
 *     kv = in through kv_a                             [rank | rope], its first part normed: the latent
 *     q = [rope, copied | nope through K^T]            [heads][rope | rank]   two OP_HEADS
 *     rope, append latent and rotated key; attention over latents   ->  mixed [heads][rank]
 *     attn = mixed through V                           [heads][value]         OP_HEADS
 *     x += attn through the output matrix
 */
#include "model/latent.h"

#include <math.h>

static bool read_sizes(struct build *b, struct latent *a)
{
    a->q_rank = build_u32(b, "attention.q_lora_rank", "q_lora_rank", 0);
    a->rank = build_need_u32(b, "attention.kv_lora_rank", "kv_lora_rank");
    a->rope = build_need_u32(b, "rope.dimension_count", "qk_rope_head_dim");
    if (b->gguf) {
        bool mla = build_has(b, "attention.key_length_mla", NULL);
        uint32_t key =
            build_need_u32(b, mla ? "attention.key_length_mla" : "attention.key_length", NULL);
        a->value =
            build_need_u32(b, mla ? "attention.value_length_mla" : "attention.value_length", NULL);
        a->nope = key > a->rope ? key - a->rope : 0;
    } else {
        a->nope = build_need_u32(b, NULL, "qk_nope_head_dim");
        a->value = build_need_u32(b, NULL, "v_head_dim");
    }
    uint32_t heads = b->h.layers[0].n_heads;
    uint64_t wide = (uint64_t)a->nope + a->rope + a->rank + a->value;
    if (a->nope == 0 || a->rope == 0 || a->rank == 0 || a->value == 0 || wide > 1u << 20 ||
        wide * heads > 1u << 28) {
        program_fail(b->program, STATUS_MODEL,
                     "latent attention of %u heads of %u+%u, values of %u, rank %u", heads, a->nope,
                     a->rope, a->value, a->rank);
        return false;
    }
    return true;
}

static void latent_group(struct build *b, const struct latent *a)
{
    struct state_group group = {.name = "latent",
                                .kind = GROUP_LATENT,
                                .n_layers = b->h.n_layers,
                                .n_kv_heads = 1,
                                .k_head_dim = a->rope,
                                .v_head_dim = a->rank};
    uint32_t id = program_group(b->program, &group);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].group = id;
        b->h.layers[i].group_layer = i;
    }
}

bool latent_plan(struct build *b, struct latent *a)
{
    if (!read_sizes(b, a))
        return false;
    uint32_t heads = b->h.layers[0].n_heads;
    b->h.head_dim = b->h.rope_dims = a->rope;
    a->scale = build_yarn_mscale(b);
    a->scale *= a->scale / sqrtf((float)(a->nope + a->rope));
    struct program *p = b->program;
    if (a->q_rank)
        a->q_low = program_buffer(p, "q_low", a->q_rank, ROWS_STEP);
    a->q_heads = program_buffer(p, "q_heads", heads * (a->nope + a->rope), ROWS_STEP);
    a->kv = program_buffer(p, "latent", a->rank + a->rope, ROWS_STEP);
    a->q = program_buffer(p, "q", heads * (a->rope + a->rank), ROWS_STEP);
    a->mixed = program_buffer(p, "mixed", heads * a->rank, ROWS_STEP);
    a->attn = program_buffer(p, "attn", heads * a->value, ROWS_STEP);
    latent_group(b, a);
    return true;
}

/* q = [rope | absorbed] of each head, latent = [rank | rope]. */
static void project(struct build *b, const struct latent *a, uint32_t index, struct view in)
{
    int l = (int)index;
    struct program *p = b->program;
    uint32_t heads = b->h.layers[index].n_heads, total = a->nope + a->value;
    struct view q_heads = program_view(p, a->q_heads), kv = program_view(p, a->kv);
    if (a->q_rank) {
        struct view low = program_view(p, a->q_low);
        build_linear(b, l, "attn_q_a", in, low, VIEW_NONE);
        build_norm(b, l, "attn_q_a_norm", low, low, a->q_rank, 0.0f);
        build_linear(b, l, "attn_q_b", low, q_heads, VIEW_NONE);
    } else {
        build_linear(b, l, "attn_q", in, q_heads, VIEW_NONE);
    }
    build_linear(b, l, "attn_kv_a_mqa", in, kv, VIEW_NONE);
    struct view latent = view_columns(kv, 0, a->rank);
    build_norm(b, l, "attn_kv_a_norm", latent, latent, a->rank, 0.0f);
    struct op op = {.kind = OP_HEADS,
                    .u.heads = {.in = q_heads,
                                .out = program_view(p, a->q),
                                .weight = NO_WEIGHT,
                                .n_heads = heads,
                                .in_column = a->nope,
                                .in_width = a->rope,
                                .out_width = a->rope}};
    program_emit(p, &op, "%d.q_rope", l);
    bool apart = build_exists(b, l, "attn_k_b");
    op.u.heads.weight = apart ? build_stack(b, l, "attn_k_b", heads, a->rank, 0, a->rank, a->nope)
                              : build_stack(b, l, "attn_kv_b", heads, total, 0, a->nope, a->rank);
    op.u.heads.transposed = !apart;
    op.u.heads.in_column = 0;
    op.u.heads.in_width = a->nope;
    op.u.heads.out_column = a->rope;
    op.u.heads.out_width = a->rank;
    program_emit(p, &op, "%d.q_absorb", l);
}

void build_latent_attention(struct build *b, const struct latent *a, uint32_t index, struct view in,
                            struct view x)
{
    int l = (int)index;
    struct program *p = b->program;
    const struct layer *layer = &b->h.layers[index];
    struct view kv = program_view(p, a->kv), q = program_view(p, a->q);
    struct view mixed = program_view(p, a->mixed), attn = program_view(p, a->attn);
    project(b, a, index, in);
    struct op rope = {.kind = OP_ROPE_KV,
                      .u.rope_kv = {.q = q,
                                    .k = view_columns(kv, a->rank, a->rope),
                                    .v = view_columns(kv, 0, a->rank),
                                    .n_heads = layer->n_heads,
                                    .group = layer->group,
                                    .layer = layer->group_layer,
                                    .style = b->rope_style,
                                    .rope_dims = a->rope,
                                    .freqs = layer->freqs,
                                    .magnitude = build_rope_magnitude(b, layer->freqs)}};
    program_emit(p, &rope, "%d.rope_kv", l);
    struct op attention = {.kind = OP_ATTENTION,
                           .u.attention = {.q = q,
                                           .out = mixed,
                                           .n_heads = layer->n_heads,
                                           .group = layer->group,
                                           .layer = layer->group_layer,
                                           .scale = a->scale,
                                           .sinks = NO_WEIGHT}};
    program_emit(p, &attention, "%d.attention", l);
    uint32_t total = a->nope + a->value;
    struct op values = {.kind = OP_HEADS,
                        .u.heads = {.in = mixed,
                                    .out = attn,
                                    .weight = build_exists(b, l, "attn_v_b")
                                                  ? build_stack(b, l, "attn_v_b", layer->n_heads,
                                                                a->value, 0, a->value, a->rank)
                                                  : build_stack(b, l, "attn_kv_b", layer->n_heads,
                                                                total, a->nope, a->value, a->rank),
                                    .n_heads = layer->n_heads,
                                    .in_width = a->rank,
                                    .out_width = a->value}};
    program_emit(p, &values, "%d.values", l);
    build_linear(b, l, "attn_output", attn, x, x);
}
