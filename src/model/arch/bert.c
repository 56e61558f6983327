/*
 * Encoders: every token sees every other, and the result is a hidden state per token, not logits.
 *
 *   bert         learned positions, LayerNorm after each half (BERT, GTE, BGE, E5, MiniLM)
 *   xlm-roberta  the same with the first position at pad_token_id + 1 (GGUF: "bert", rows cut off)
 *   nomic-bert   rope instead of positions, a SiLU gate
 *   modernbert   LayerNorm without bias before each half, a GELU gate, two of three layers see a
 *                window, as far ahead as back, with a rope base of their own
 */
#include "model/build.h"

static void see_both_ways(struct build *b)
{
    b->program->bidirectional = true;
    b->program->row_alignment = b->program->n_context;
}

/* Embedding, positions, the embedding's norm, layers. first: row of the first position, which
 * is the padding token's id and one (RoBERTa), or 0. */
static void build_encoder(struct build *b, const struct decoder_options *options, uint32_t first)
{
    see_both_ways(b);
    build_groups(b, 0);
    build_embedding(b, 1.0f);
    if (build_exists(b, -1, "position_embd") || build_exists(b, -1, "token_types"))
        build_positions(b, first, (int32_t)first - 1);
    struct view x = build_x(b);
    build_norm(b, -1, "token_embd_norm", x, x, x.width, 0.0f);
    build_layers(b, options);
    build_head(b, &options->head);
}

static const struct decoder_options after = {.shape = SHAPE_OUTER,
                                             .head = {.no_norm = true, .embedding_only = true}};

static void build_bert_from(struct build *b, uint32_t first)
{
    build_hyper(b);
    b->h.norm = NORM_LAYER;
    if (b->gguf)
        b->h.act = ACT_GELU;
    struct str positions = build_hf_str(b, "position_embedding_type", -1);
    if (positions.len && !str_eq_cstr(positions, "absolute"))
        program_fail(b->program, STATUS_UNSUPPORTED,
                     "config.json: position_embedding_type \"%.*s\" is not supported",
                     STR_ARG(positions));
    if (first >= b->h.n_context) {
        program_fail(b->program, STATUS_MODEL, "config.json: pad_token_id leaves no positions");
        return;
    }
    b->h.n_context -= first;
    b->program->n_context = b->h.n_context;
    build_encoder(b, &after, first);
}

static void build_bert(struct build *b)
{
    build_bert_from(b, 0);
}

static void build_roberta(struct build *b)
{
    build_bert_from(b, build_u32(b, NULL, "pad_token_id", 1) + 1);
}

static void build_nomic_bert(struct build *b)
{
    build_hyper(b);
    b->h.norm = NORM_LAYER;
    b->rope_style = ROPE_HALVES;
    int32_t freqs = build_rope(b, NULL, 1000.0);
    for (uint32_t i = 0; i < b->h.n_layers; i++)
        b->h.layers[i].freqs = freqs;
    build_encoder(b, &after, 0);
}

static void build_modernbert(struct build *b)
{
    build_hyper(b);
    b->h.norm = NORM_LAYER;
    b->rope_style = ROPE_HALVES;
    if (b->gguf)
        b->h.act = ACT_GELU;
    uint32_t every = build_u32(b, NULL, "global_attn_every_n_layers", 3);
    uint32_t around = build_need_u32(b, "attention.sliding_window", "local_attention");
    int32_t full =
        build_rope(b, "full_attention", build_f64(b, NULL, "global_rope_theta", 160000.0));
    int32_t local = build_rope_local(b, build_f64(b, NULL, "local_rope_theta", 10000.0));
    for (uint32_t i = 0; i < b->h.n_layers; i++) {
        bool is = build_hf_str(b, "layer_types", i).len ? build_is_local(b, i, 0)
                                                        : every && i % every != 0;
        b->h.layers[i].freqs = is ? local : full;
        b->h.layers[i].window = is ? around / 2 + 1 : 0; /* half of it each way, and itself */
    }
    build_encoder(
        b, &(struct decoder_options){.attention.both_ways = true, .head.embedding_only = true}, 0);
}

static const struct hf_name bert_names[] = {
    {"layers", "encoder.layer"},
    {"token_embd", "embeddings.word_embeddings"},
    {"position_embd", "embeddings.position_embeddings"},
    {"token_types", "embeddings.token_type_embeddings"},
    {"token_embd_norm", "embeddings.LayerNorm"},
    {"attn_q", "attention.self.query"},
    {"attn_k", "attention.self.key"},
    {"attn_v", "attention.self.value"},
    {"attn_output", "attention.output.dense"},
    {"attn_output_norm", "attention.output.LayerNorm"},
    {"ffn_up", "intermediate.dense"},
    {"ffn_down", "output.dense"},
    {"layer_output_norm", "output.LayerNorm"},
    {NULL, NULL},
};
static const struct hf_name nomic_names[] = {
    {"layers", "encoder.layers"},
    {"token_embd", "embeddings.word_embeddings"},
    {"token_types", "embeddings.token_type_embeddings"},
    {"token_embd_norm", "emb_ln"},
    {"attn_qkv", "attn.Wqkv"},
    {"attn_output", "attn.out_proj"},
    {"attn_output_norm", "norm1"},
    {"ffn_up", "mlp.fc11"},
    {"ffn_gate", "mlp.fc12"},
    {"ffn_down", "mlp.fc2"},
    {"layer_output_norm", "norm2"},
    {NULL, NULL},
};
static const struct hf_name modern_names[] = {
    {"token_embd", "embeddings.tok_embeddings"},
    {"token_embd_norm", "embeddings.norm"},
    {"output_norm", "final_norm"},
    {"attn_norm", "attn_norm"},
    {"attn_qkv", "attn.Wqkv"},
    {"attn_output", "attn.Wo"},
    {"ffn_norm", "mlp_norm"},
    {"ffn_up", "mlp.Wi"},
    {"ffn_down", "mlp.Wo"},
    {NULL, NULL},
};

static const char *const bert_id[] = {"bert", NULL};
const struct architecture arch_bert = {"bert", bert_id, bert_id, bert_names, build_bert};

static const char *const no_gguf[] = {NULL};
static const char *const roberta_hf[] = {"xlm-roberta", "roberta", NULL};
const struct architecture arch_xlm_roberta = {"xlm-roberta", no_gguf, roberta_hf, bert_names,
                                              build_roberta};

static const char *const nomic_gguf[] = {"nomic-bert", NULL};
static const char *const nomic_hf[] = {"nomic_bert", NULL};
const struct architecture arch_nomic_bert = {"nomic-bert", nomic_gguf, nomic_hf, nomic_names,
                                             build_nomic_bert};

static const char *const modern_gguf[] = {"modern-bert", NULL};
static const char *const modern_hf[] = {"modernbert", NULL};
const struct architecture arch_modernbert = {"modernbert", modern_gguf, modern_hf, modern_names,
                                             build_modernbert};
