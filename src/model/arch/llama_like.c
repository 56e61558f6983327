/*
 * llama's structure with something small changed, one build function each:
 *
 *   arcee       no gate, squared ReLU                  seed_oss    biases; GGUF names a norm otherwise
 *   ernie4_5    pairs turn as neighbours in HF too     helium      likewise
 *   granite     multipliers on embedding, scores, residual and logits; -moe: experts, fused in HF
 *   smollm3     every fourth layer without rope        hunyuan     heads normalised after they turn
 *   glm4        norms on both sides of each half, a fused gate, half of each head turns
 *   bitnet      norms before the output projections of both halves, squared ReLU (unpacked weights)
 *   apertus     xIELU instead of a gate, heads normalised
 *   phi3        fused projections, a window, LongRoPE
 */
#include <math.h>

#include "format/gguf.h"
#include "model/build.h"

/* hf: how pairs stand in HF checkpoints; GGUF's own order is `gguf`. */
static void plan(struct build *b, enum rope_style hf, enum rope_style gguf, uint32_t window)
{
    b->rope_style = b->gguf ? gguf : hf;
    int32_t freqs = build_rope(b, NULL, 10000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        b->h.layers[i].freqs = freqs;
        b->h.layers[i].window = window;
    }
}

static void build_arcee(struct build *b)
{
    build_hyper(b);
    b->h.act = ACT_RELU2;
    plan(b, ROPE_HALVES, ROPE_PAIRS, 0);
    build_decoder(b, &(struct decoder_options){0});
}

static void build_seed_oss(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_HALVES, 0);
    build_decoder(b, &(struct decoder_options){.ffn_norm = b->gguf ? "post_attention_norm" : NULL});
}

/* ernie4_5, helium */
static void build_neighbours(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_PAIRS, ROPE_PAIRS, 0);
    build_decoder(b, &(struct decoder_options){0});
}

static void build_granite(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_PAIRS, 0);
    b->h.residual_scale = (float)build_f64(b, "residual_scale", "residual_multiplier", 1.0);
    double logits = build_f64(b, "logit_scale", "logits_scaling", 1.0);
    if (!(logits > 0.0))
        program_fail(b->program, STATUS_MODEL, "logits_scaling is %g, expected above 0", logits);
    build_decoder(
        b,
        &(struct decoder_options){
            .embedding_scale = (float)build_f64(b, "embedding_scale", "embedding_multiplier", 1.0),
            .attention.scale = (float)build_f64(b, "attention.scale", "attention_multiplier", 0.0),
            .head.scale = (float)(1.0 / logits),
        });
}

static void build_smollm3(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_PAIRS, 0);
    uint32_t interval = build_u32(b, NULL, "no_rope_layer_interval", 4); /* GGUF does not say */
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        uint32_t turns = interval == 0 || (i + 1) % interval != 0;
        if (!build_item_u32(b, NULL, "no_rope_layers", i, turns))
            b->h.layers[i].freqs = NO_WEIGHT;
    }
    build_decoder(b, &(struct decoder_options){0});
}

static void build_hunyuan(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_HALVES, 0);
    build_decoder(b,
                  &(struct decoder_options){.attention = {.head_norms = true, .norms_last = true}});
}

static void build_glm4(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_PAIRS, ROPE_PAIRS, 0);
    build_decoder(b, &(struct decoder_options){.shape = SHAPE_SANDWICH});
}

static void build_bitnet(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_HALVES, 0);
    build_decoder(b, &(struct decoder_options){0});
}

static double softplus(double x)
{
    return x > 30.0 ? x : log1p(exp(x));
}

/* HF: tensors of one value; GGUF: lists in the metadata, named "xielu.*" without a prefix. */
static double xielu_value(struct build *b, uint32_t layer, const char *gguf_key, const char *role)
{
    double value = 0.0;
    if (b->gguf) {
        const struct gguf_value *list = gguf_find(checkpoint_gguf(b->checkpoint), gguf_key);
        if (!list || !gguf_item_f64(list, list->type == GGUF_ARRAY ? layer : 0, &value))
            program_fail(b->program, STATUS_MODEL, "%s: missing, or has no item %u", gguf_key,
                         layer);
        return value;
    }
    const float *read = build_read(b, (int)layer, role, "weight", 1);
    return read ? (double)*read : 0.0;
}

static void build_apertus(struct build *b)
{
    build_hyper(b);
    b->h.act = ACT_XIELU;
    plan(b, ROPE_HALVES, ROPE_HALVES, 0);
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        float *p = b->h.layers[i].xielu;
        double beta = xielu_value(b, i, "xielu.beta", "xielu_beta");
        p[0] = (float)softplus(xielu_value(b, i, "xielu.alpha_p", "xielu_alpha_p"));
        p[1] = (float)(beta + softplus(xielu_value(b, i, "xielu.alpha_n", "xielu_alpha_n")));
        p[2] = (float)beta;
        p[3] = (float)xielu_value(b, i, "xielu.eps", "xielu_eps");
    }
    build_decoder(b, &(struct decoder_options){.attention.head_norms = true});
}

static void build_phi3(struct build *b)
{
    build_hyper(b);
    plan(b, ROPE_HALVES, ROPE_HALVES,
         build_u32(b, "attention.sliding_window", "sliding_window", 0));
    build_decoder(b, &(struct decoder_options){0});
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NONE       ((const char *const[]){NULL})

static const struct hf_name hunyuan_names[] = {{"attn_q_norm", "self_attn.query_layernorm"},
                                               {"attn_k_norm", "self_attn.key_layernorm"},
                                               {NULL, NULL}};
static const struct hf_name glm4_names[] = {{"post_attention_norm", "post_self_attn_layernorm"},
                                            {"ffn_norm", "post_attention_layernorm"},
                                            {"post_ffw_norm", "post_mlp_layernorm"},
                                            {"ffn_up", "mlp.gate_up_proj"},
                                            {NULL, NULL}};
static const struct hf_name bitnet_names[] = {{"attn_sub_norm", "self_attn.attn_sub_norm"},
                                              {"ffn_sub_norm", "mlp.ffn_sub_norm"},
                                              {NULL, NULL}};
static const struct hf_name apertus_names[] = {{"attn_norm", "attention_layernorm"},
                                               {"ffn_norm", "feedforward_layernorm"},
                                               {"xielu_beta", "mlp.act_fn.beta"},
                                               {"xielu_eps", "mlp.act_fn.eps"},
                                               {"xielu_alpha_p", "mlp.act_fn.alpha_p"},
                                               {"xielu_alpha_n", "mlp.act_fn.alpha_n"},
                                               {NULL, NULL}};
static const struct hf_name phi3_names[] = {
    {"attn_qkv", "self_attn.qkv_proj"}, {"ffn_up", "mlp.gate_up_proj"}, {NULL, NULL}};

const struct architecture arch_arcee = {"arcee", NAMES("arcee"), NAMES("arcee"), NULL, build_arcee};
const struct architecture arch_seed_oss = {"seed-oss", NAMES("seed_oss"), NAMES("seed_oss"), NULL,
                                           build_seed_oss};
const struct architecture arch_ernie4_5 = {"ernie4.5", NAMES("ernie4_5"), NAMES("ernie4_5"), NULL,
                                           build_neighbours};
const struct architecture arch_helium = {"helium", NONE, NAMES("helium"), NULL, build_neighbours};
const struct architecture arch_granite = {"granite", NAMES("granite"), NAMES("granite"), NULL,
                                          build_granite};
static const struct hf_name granite_moe_names[] = {
    {"ffn_gate_inp", "block_sparse_moe.router.layer"},
    {"ffn_gate_up_exps", "block_sparse_moe.input_linear"},
    {"ffn_down_exps", "block_sparse_moe.output_linear"},
    {NULL, NULL}};
const struct architecture arch_granite_moe = {
    "granite-moe", NAMES("granitemoe"), NAMES("granitemoe"), granite_moe_names, build_granite};
const struct architecture arch_smollm3 = {"smollm3", NAMES("smollm3"), NAMES("smollm3"), NULL,
                                          build_smollm3};
const struct architecture arch_hunyuan = {"hunyuan", NAMES("hunyuan-dense"),
                                          NAMES("hunyuan_v1_dense"), hunyuan_names, build_hunyuan};
const struct architecture arch_glm4 = {"glm4", NAMES("glm4"), NAMES("glm4"), glm4_names,
                                       build_glm4};
const struct architecture arch_bitnet = {"bitnet", NONE, NAMES("bitnet"), bitnet_names,
                                         build_bitnet};
const struct architecture arch_apertus = {"apertus", NAMES("apertus"), NAMES("apertus"),
                                          apertus_names, build_apertus};
const struct architecture arch_phi3 = {"phi3", NAMES("phi3"), NAMES("phi3"), phi3_names,
                                       build_phi3};
