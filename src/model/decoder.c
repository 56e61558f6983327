/*
 * Whole decoders whose layers have an attention half and a feed-forward half: what architecture files
 * call when nothing but options sets a model apart. How the halves meet the residual stream is one of
 * five shapes; each is a few operations over x and the normed copy.
 */
#include "model/build.h"

struct half {
    struct build *b;
    const struct decoder_options *options;
    uint32_t index;
    bool ffn;
};

static void run_half(const struct half *h, struct view in, struct view out, struct view residual)
{
    const struct moe_options moe = {.score = ROUTE_SOFTMAX, .normalise = true};
    if (!h->ffn)
        build_attention(h->b, h->index, in, out, residual, &h->options->attention);
    else if (h->b->h.n_experts && build_exists(h->b, (int)h->index, "ffn_gate_inp"))
        build_moe(h->b, h->index, in, out, residual, &moe);
    else
        build_ffn(h->b, h->index, in, out, residual);
}

static void norm(const struct half *h, const char *role, struct view in, struct view out)
{
    build_norm(h->b, (int)h->index, role, in, out, in.width, h->options->weight_offset);
}

static const char *norm_before(const struct half *h)
{
    const char *own = h->options->ffn_norm;
    return !h->ffn ? "attn_norm" : own ? own : "ffn_norm";
}

static void add_to_x(const struct half *h, struct view value)
{
    struct view x = build_x(h->b);
    struct op add = {.kind = OP_ADD, .u.add = {.a = x, .b = value, .out = x, .scale = 1.0f}};
    program_emit(h->b->program, &add, "%d.%s_add", (int)h->index, h->ffn ? "ffn" : "attn");
}

static void build_half(const struct half *h)
{
    struct view x = build_x(h->b), normed = build_normed(h->b);
    switch (h->options->shape) {
    case SHAPE_PARALLEL: /* build_parallel() */
        return;
    case SHAPE_PRE:
        /* An encoder's first norm may have been done on the embedding. */
        if (h->ffn || h->index > 0 || build_exists(h->b, 0, "attn_norm")) {
            norm(h, norm_before(h), x, normed);
            run_half(h, normed, x, x);
        } else {
            run_half(h, x, x, x);
        }
        return;
    case SHAPE_POST:
        run_half(h, x, normed, VIEW_NONE);
        break;
    case SHAPE_SANDWICH:
        norm(h, norm_before(h), x, normed);
        run_half(h, normed, normed, VIEW_NONE);
        break;
    case SHAPE_OUTER:
        run_half(h, x, x, x);
        norm(h, h->ffn ? "layer_output_norm" : "attn_output_norm", x, x);
        return;
    }
    norm(h, h->ffn ? "post_ffw_norm" : "post_attention_norm", normed, normed);
    add_to_x(h, normed);
}

/* Both norms are taken of the layer's input, before attention adds to it. */
static void build_parallel(const struct half *attention, const struct half *ffn, struct view second)
{
    struct view x = build_x(attention->b), normed = build_normed(attention->b);
    norm(attention, "attn_norm", x, normed);
    bool own = second.buffer != NO_BUFFER;
    if (own)
        norm(ffn, norm_before(ffn), x, second);
    run_half(attention, normed, x, x);
    run_half(ffn, own ? second : normed, x, x);
}

void build_layers(struct build *b, const struct decoder_options *options)
{
    const char *role = options->ffn_norm ? options->ffn_norm : "ffn_norm";
    struct view second = VIEW_NONE;
    if (options->shape == SHAPE_PARALLEL && build_exists(b, 0, role))
        second = program_view(b->program,
                              program_buffer(b->program, "normed_ffn", b->h.width, ROWS_STEP));
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        const struct half attention = {b, options, i, false}, ffn = {b, options, i, true};
        if (options->shape == SHAPE_PARALLEL) {
            build_parallel(&attention, &ffn, second);
        } else {
            build_half(&attention);
            build_half(&ffn);
        }
    }
}

void build_decoder(struct build *b, const struct decoder_options *options)
{
    build_groups(b, 0);
    build_embedding(b, options->embedding_scale != 0.0f ? options->embedding_scale : 1.0f);
    build_layers(b, options);
    build_head(b, &options->head);
}
