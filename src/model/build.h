/*
 * Building a program from a checkpoint: what the architecture files (arch/) are written with.
 *
 * A build holds the checkpoint, the growing program, the hyperparameters that nearly every
 * architecture has, and the shared buffers. Like the program builder, nothing here returns errors:
 * the first one sticks to the program and model_open() reports it, so an architecture file reads
 * straight through. Internal to model/.
 *
 * Names. A tensor has a role ("attn_q", "ffn_norm"), which is GGUF's own name for it; for Hugging
 * Face folders a table translates roles to names ("self_attn.q_proj"), and an architecture may put
 * its own entries in front of the common ones.
 */
#ifndef SLUICE_MODEL_BUILD_H
#define SLUICE_MODEL_BUILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "format/checkpoint.h"
#include "model/names.h"
#include "program/program.h"

#define MODEL_LAYERS_MAX 1024
#define MODEL_ROPES_MAX  16

/* LAYER_OTHER: no group of build_groups(); a mixer with states of its own (mamba.h), or none. */
enum layer_kind { LAYER_ATTENTION, LAYER_CONV, LAYER_OTHER };

struct layer {
    enum layer_kind kind;
    uint32_t n_heads, n_kv_heads;
    uint32_t head_dim;           /* of K and V; 0: that of all layers */
    uint32_t window;             /* 0: full attention */
    int32_t freqs;               /* rope frequencies (constant), NO_WEIGHT: none */
    float xielu[4];              /* ACT_XIELU: its parameters, see program.h */
    uint32_t group, group_layer; /* filled in by build_groups() */
};

struct hyper {
    uint32_t n_layers, width, n_ff, n_vocab, n_context;
    uint32_t head_dim, v_head_dim, rope_dims;
    uint32_t n_experts, n_experts_used, expert_ff;
    float norm_eps;
    enum norm_kind norm;  /* NORM_RMS unless an architecture says */
    float residual_scale; /* of what a block adds to its residual; 1 unless an architecture says */
    enum activation act;
    struct layer layers[MODEL_LAYERS_MAX];
};

/* A constant of frequencies, and what rotated values are multiplied by. */
struct rope {
    int32_t freqs;
    float magnitude;
};

struct build {
    struct checkpoint *checkpoint;
    bool gguf;               /* else Hugging Face */
    const char *gguf_prefix; /* "qwen3": metadata keys begin with it */
    const json_t *config;    /* HF: the text part of config.json */
    const struct hf_name *hf_names;
    struct arena arena;
    struct program *program;
    struct hyper h;
    /* Shared buffers; blocks make theirs on first use. */
    int32_t x, normed, qkv, q, k, v, attn, ff, route, expert_hidden;
    int32_t shared_ff, shared_gate, shared_out;
    enum rope_style rope_style;
    bool yarn_exact; /* GGUF does not say it: the ends of YaRN's ramp are not rounded */
    struct rope ropes[MODEL_ROPES_MAX];
    uint32_t n_ropes;
};

/* ---- hyperparameters: GGUF key below the prefix, HF key in config.json; NULL: not there -------- */

bool build_has(struct build *b, const char *gguf_key, const char *hf_key);
/* `fallback` where absent; a present value of the wrong kind or range is an error naming it. */
uint32_t build_u32(struct build *b, const char *gguf_key, const char *hf_key, uint32_t fallback);
/* The first of several HF keys (NULL-terminated) that is there and not 0; 0 if there is none. */
uint32_t build_first_u32(struct build *b, const char *gguf_key, const char *const *hf_keys);
/* Absent: an error naming the key. */
uint32_t build_need_u32(struct build *b, const char *gguf_key, const char *hf_key);
double build_f64(struct build *b, const char *gguf_key, const char *hf_key, double fallback);
bool build_bool(struct build *b, const char *gguf_key, const char *hf_key, bool fallback);
/* Item of a list, or the value itself if it is no list. */
uint32_t build_item_u32(struct build *b, const char *gguf_key, const char *hf_key, uint32_t index,
                        uint32_t fallback);
double build_item_f64(struct build *b, const char *gguf_key, const char *hf_key, uint32_t index,
                      double fallback);
/* Does the layer see a window only? By HF's layer_types, GGUF's attention.sliding_window_pattern, or
 * sliding_window_pattern; every pattern-th layer sees all (0: none does) where nothing is said. */
bool build_is_local(struct build *b, uint32_t layer, uint32_t pattern);
/* HF: a string, or item `index` of a list of strings; empty if absent. */
struct str build_hf_str(struct build *b, const char *key, int64_t index);

/* Fills b->h: sizes, heads, eps, activation, context, experts; every layer LAYER_ATTENTION. */
void build_hyper(struct build *b);

/* ---- weights ---------------------------------------------------------------------------------- */

/* layer < 0: a role outside the layers. suffix "weight" or "bias". NULL if absent. */
const struct tensor *build_find(struct build *b, int layer, const char *role, const char *suffix);
/* A matrix [rows, cols] or vector [1, cols] (rows 1) of exactly this shape; absent is an error. */
int32_t build_weight(struct build *b, int layer, const char *role, uint32_t rows, uint32_t cols);
int32_t build_table(struct build *b, const char *role, uint32_t rows, uint32_t cols);
/* A vector [1, n]: `role`.weight, which must exist / `role`.bias, NO_WEIGHT if it does not. */
int32_t build_vector(struct build *b, int layer, const char *role, uint32_t n);
int32_t build_bias(struct build *b, int layer, const char *role, uint32_t n);
bool build_exists(struct build *b, int layer, const char *role);
/* Rows [first, first + rows) of a matrix [total, cols]. */
int32_t build_weight_rows(struct build *b, int layer, const char *role, uint32_t total,
                          uint32_t first, uint32_t rows, uint32_t cols);
/* Items [first, first + n) of a bias of `total`; NO_WEIGHT if there is none. */
int32_t build_bias_rows(struct build *b, int layer, const char *role, uint32_t total,
                        uint32_t first, uint32_t n);
/* A matrix [rows, cols] that the checkpoint keeps as [cols, rows]: copied. */
int32_t build_weight_transposed(struct build *b, int layer, const char *role, uint32_t rows,
                                uint32_t cols);
/* The n values of a small tensor as floats in the build's arena; NULL after an error. */
float *build_read(struct build *b, int layer, const char *role, const char *suffix, uint32_t n);
/* The same as a constant [1, n]. */
int32_t build_values(struct build *b, int layer, const char *role, const char *suffix, uint32_t n);
/* Rows [first, first + rows) of each of `count` matrices [total, cols] that one tensor holds, as
 * [count, total, cols] or [count * total, cols]. */
int32_t build_stack(struct build *b, int layer, const char *role, uint32_t count, uint32_t total,
                    uint32_t first, uint32_t rows, uint32_t cols);
/* A stack of n_experts matrices: one tensor [n, rows, cols], HF's experts.E.NAME each, or half of
 * "ffn_gate_up_exps" [n, 2 rows, cols]. */
int32_t build_experts_stack(struct build *b, int layer, const char *role, uint32_t rows,
                            uint32_t cols);
/* The same from a tensor [n, cols, rows * step] with inputs along the rows: output r is its column
 * first + r * step; or of a block type, [n, rows * step, cols], where it is a row. Copied. */
int32_t build_experts_columns(struct build *b, int layer, const char *role, uint32_t first,
                              uint32_t step, uint32_t rows, uint32_t cols);
/* Matrix `index` of a stack of `count`: of one tensor [count, rows, cols], or HF's NAME.index. */
int32_t build_stack_item(struct build *b, int layer, const char *role, uint32_t index,
                         uint32_t count, uint32_t rows, uint32_t cols);
/* Biases of all experts, every step-th of a tensor [n_experts, n * step]; NO_WEIGHT if absent. */
int32_t build_experts_bias(struct build *b, int layer, const char *role, uint32_t first,
                           uint32_t step, uint32_t n);

/* ---- rope ------------------------------------------------------------------------------------- */

/* Frequencies of rope_dims/2 pairs as a constant. layer_type: key of a nested rope_parameters
 * ("full_attention"), or NULL. Scaling kinds: none, linear, dynamic, llama3 (and GGUF's rope_freqs
 * tensor), yarn, longrope; others are STATUS_UNSUPPORTED by name. */
int32_t build_rope(struct build *b, const char *layer_type, double default_theta);
/* The same with a base given and no scaling. */
int32_t build_rope_plain(struct build *b, const char *name, double theta);
/* Rope of layers with a sliding window where it differs: HF's nested "sliding_attention" or
 * rope_local_base_freq, GGUF's rope.freq_base_swa; no scaling but what is nested. */
int32_t build_rope_local(struct build *b, double default_theta);
/* Of a constant made by the functions above; 1 for any other. */
float build_rope_magnitude(const struct build *b, int32_t freqs);
/* DeepSeek's correction of scores under YaRN, to be taken twice: 0.1 mscale_all_dim ln(factor) + 1, or
 * 1 where the config has none. */
float build_yarn_mscale(struct build *b);
/* HF: how many columns of a head turn, by partial_rotary_factor or rotary_pct (1 if absent). */
uint32_t build_rope_dims(struct build *b, uint32_t head_dim);

/* ---- blocks ----------------------------------------------------------------------------------- */

/* Groups layers of equal shape; conv_floats: state of LAYER_CONV layers. */
void build_groups(struct build *b, uint32_t conv_floats);
/* x = embedding; scale multiplies it. */
void build_embedding(struct build *b, float scale);
/* x += a learned vector per position ("position_embd", from row `offset` on) and type 0 of
 * "token_types", whichever exist; skip: as in op_position. */
void build_positions(struct build *b, uint32_t offset, int32_t skip);
/* One norm over whole rows (or heads of `group` columns) by the build's kind and eps; with a bias
 * where there is one. */
void build_norm(struct build *b, int layer, const char *role, struct view in, struct view out,
                uint32_t group, float weight_offset);
void build_linear(struct build *b, int layer, const char *role, struct view in, struct view out,
                  struct view residual);

/* The same, times scale before the residual is added. */
void build_linear_scaled(struct build *b, int layer, const char *role, struct view in,
                         struct view out, struct view residual, float scale);

/* Columns [column, column + to.width / heads) of each head of `from`, side by side. */
void build_take(struct build *b, int layer, const char *label, struct view from, uint32_t heads,
                uint32_t column, struct view to);

struct attention_options {
    float scale;         /* 0: 1/sqrt(head_dim) */
    float softcap;       /* 0: none */
    bool head_norms;     /* q and k normalised per head ("attn_q_norm", "attn_k_norm") */
    bool norms_last;     /* after the rotation instead of before */
    float weight_offset; /* of those norms */
    bool qkv_by_head;    /* rows of "attn_qkv" are [head][q, k, v], not [q, k, v][head] */
    bool both_ways;      /* windows look ahead as far as back */
};
/* in -> projections ("attn_qkv", or one each), norms, rope, append, attention, "attn_sub_norm" ->
 * out = residual + output projection. Norms of q and k are per head or over all heads, by their
 * weight's length; sinks ("attn_sinks") and the norm of the result where they exist. */
void build_attention(struct build *b, uint32_t layer, struct view in, struct view out,
                     struct view residual, const struct attention_options *options);
/* What lies between the projections: norms, rope, append, attention, "attn_sub_norm". */
void build_attention_core(struct build *b, uint32_t layer, struct view q, struct view k,
                          struct view v, struct view out, const struct attention_options *options);
/* FFN by "ffn_up", "ffn_down", gated where there is a "ffn_gate", or "ffn_up" has twice the rows (the
 * gate's first), with a norm "ffn_sub_norm" of the hidden values where it exists. */
void build_ffn(struct build *b, uint32_t layer, struct view in, struct view out,
               struct view residual);

struct moe_options {
    enum route_score score;
    bool normalise;
    float least_sum, added_sum; /* see op_route */
    float scale;                /* of the chosen weights; 0: 1 */
    uint32_t n_groups, k_groups, group_best;
    uint32_t
        shared_ff; /* width of an expert that sees every row ("ffn_gate_shexp", ...); 0: none */
    bool columns;  /* gpt-oss in HF: gate and up interleaved, inputs along the rows */
};
/* "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"; where they exist, biases, the
 * score bias "exp_probs_b" and the shared expert's gate "ffn_gate_inp_shexp". */
void build_moe(struct build *b, uint32_t layer, struct view in, struct view out,
               struct view residual, const struct moe_options *options);

struct head_options {
    const char *norm_role; /* NULL: "output_norm" */
    bool no_norm;          /* the last layer has normalised already */
    float weight_offset;
    float scale; /* of the logits; 0: 1 */
    float softcap;
    bool embedding_only; /* no logits */
};
/* Wanted rows -> final norm -> logits ("output", or the embedding table where tied). */
void build_head(struct build *b, const struct head_options *options);

/* How a layer's two halves f (attention, FFN) meet the residual. */
enum residual_shape {
    SHAPE_PRE,      /* x += f(norm x): "attn_norm", "ffn_norm" */
    SHAPE_PARALLEL, /* both halves of the same x: "attn_norm", and "ffn_norm" if it exists */
    SHAPE_POST,     /* x += norm f(x): "post_attention_norm", "post_ffw_norm" */
    SHAPE_SANDWICH, /* x += norm f(norm x): all four */
    SHAPE_OUTER,    /* x = norm(x + f(x)): "attn_output_norm", "layer_output_norm" */
};

struct decoder_options {
    enum residual_shape shape;
    float weight_offset;   /* of all norms but those in `attention` and `head` */
    float embedding_scale; /* 0: 1 */
    const char *ffn_norm;  /* role; NULL: "ffn_norm" */
    struct attention_options attention;
    struct head_options head;
};
/* The whole program of a plain decoder: groups, embedding, layers, head. Layers' windows and
 * frequencies are set before. */
void build_decoder(struct build *b, const struct decoder_options *options);
/* Its layers alone. */
void build_layers(struct build *b, const struct decoder_options *options);

/* The standard buffers as views. */
struct view build_x(struct build *b);
struct view build_normed(struct build *b);

/* ---- the table of architectures (arch/table.c) ------------------------------------------------ */

struct architecture {
    const char *name;            /* what we print */
    const char *const *gguf;     /* general.architecture values, NULL-terminated */
    const char *const *hf;       /* config.json model_type values, NULL-terminated */
    const struct hf_name *names; /* own entries before the common ones; may be NULL */
    void (*build)(struct build *b);
};

extern const struct architecture *const architectures[]; /* NULL-terminated */
/* By general.architecture (gguf) or model_type; NULL if there is none. */
const struct architecture *architecture_find(struct str name, bool gguf);

#endif
